/*
 * attachutil.c
 *		Small things that attaching, detaching and mapping share: reports,
 *		ownership, names, the lock on the attachment.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "attach.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "mapping.h"
#include "miscadmin.h"
#include "pg_compat.h"
#include "scope.h"
#include "srf.h"
#include "storage/lmgr.h"
#include "sync.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

void
report_begin(Report *report, FunctionCallInfo fcinfo)
{
	report->store = srf_begin(fcinfo, &report->desc);
}

void
report_row(Report *report, const char *object, const char *outcome,
		   const char *fmt, ...)
{
	Datum values[3];
	bool nulls[3] = {false, false, false};
	StringInfoData detail;

	initStringInfo(&detail);
	for (;;)
	{
		va_list args;
		int needed;

		va_start(args, fmt);
		needed = appendStringInfoVA(&detail, fmt, args);
		va_end(args);
		if (needed == 0)
			break;
		enlargeStringInfo(&detail, needed);
	}
	values[0] = CStringGetTextDatum(object);
	values[1] = CStringGetTextDatum(outcome);
	values[2] = CStringGetTextDatum(detail.data);
	tuplestore_putvalues(report->store, report->desc, values, nulls);
}

void
require_owner(Oid relid)
{
	if (!object_ownercheck(RelationRelationId, relid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER,
					   get_relkind_objtype(get_rel_relkind(relid)),
					   get_rel_name(relid));
}

Oid
relation_owner_oid(Oid relid)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relid);
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

char *
relation_qualified(Oid relid)
{
	char *name = get_rel_name(relid);

	if (name == NULL)
		elog(ERROR, "cache lookup failed for relation %u", relid);
	return quote_qualified_identifier(get_namespace_name(
										  get_rel_namespace(relid)),
									  name);
}

Oid
column_type(Oid relid, const char *column)
{
	AttrNumber attnum = get_attnum(relid, column);

	return attnum > 0 ? get_atttype(relid, attnum) : InvalidOid;
}

bool
column_is_unique(Oid relid, const char *column)
{
	Oid types[2] = {OIDOID, INT2OID};
	Datum values[2];
	SqlScope scope;
	bool found;

	values[0] = ObjectIdGetDatum(relid);
	values[1] = Int16GetDatum(get_attnum(relid, column));
	sql_enter(&scope, ekksync_owner_oid());
	sql_run("SELECT 1 FROM pg_index WHERE indrelid = $1 AND indisunique"
			" AND indisvalid AND indpred IS NULL AND indnkeyatts = 1"
			" AND indkey[0] = $2",
			2, types, values, NULL, false, 1);
	found = SPI_processed > 0;
	sql_leave(&scope);
	return found;
}

bool
lock_attachment(Oid *member_relid, Oid *queue_relid)
{
	SqlScope scope;
	bool attached;
	bool isnull;

	LockRelationOid(ekksync_table_oid("state"), ShareRowExclusiveLock);
	if (!sync_lock_xact())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("a run is in progress"),
				 errhint("Try again when it is over: see ekksync_runs.")));
	sql_enter(&scope, ekksync_owner_oid());
	sql_run("SELECT member_table::oid, queue_table::oid FROM ekksync.state", 0,
			NULL, NULL, NULL, false, 1);
	attached = SPI_processed > 0;
	if (attached)
	{
		HeapTuple tuple = SPI_tuptable->vals[0];
		TupleDesc desc = SPI_tuptable->tupdesc;

		*member_relid =
			DatumGetObjectId(SPI_getbinval(tuple, desc, 1, &isnull));
		*queue_relid =
			DatumGetObjectId(SPI_getbinval(tuple, desc, 2, &isnull));
	}
	sql_leave(&scope);
	return attached;
}

void
run_ddl(Oid role, const char *statement)
{
	SqlScope scope;
	int code;

	sql_enter(&scope, role);
	code = SPI_execute(statement, false, 0);
	if (code < 0)
		elog(ERROR, "SPI_execute failed: %s", SPI_result_code_string(code));
	sql_leave(&scope);
}
