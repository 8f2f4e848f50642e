/*
 * mapsql.c
 *		ekksync_map and ekksync_unmap: the mapping, changed by hand.
 *
 * What is asked for is checked by mapcheck.c.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "attach.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "mapcheck.h"
#include "mapping.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parse_coerce.h"
#include "pg_compat.h"
#include "scope.h"
#include "sqlvalue.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

PG_FUNCTION_INFO_V1(ekksync_map);
PG_FUNCTION_INFO_V1(ekksync_unmap);

static char *
text_arg(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(n));
}

static char *
oid_text_or_null(Oid function)
{
	return OidIsValid(function) ? format_procedure_qualified(function) : NULL;
}

/* ----------------------------------------------------------------- store */

static void
set_text(const char *s, Datum *value, char *isnull)
{
	*value = s ? CStringGetTextDatum(s) : (Datum) 0;
	*isnull = s ? ' ' : 'n';
}

bool
mapping_store(const MappingRow *row)
{
	Oid types[11] = {TEXTOID, REGCLASSOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID,
					 TEXTOID, TEXTOID,	   TEXTOID, TEXTOID, TEXTOID};
	Datum values[11];
	char nulls[11];
	SqlScope scope;
	bool same;

	set_text(row->field, &values[0], &nulls[0]);
	values[1] = ObjectIdGetDatum(row->relid);
	nulls[1] = OidIsValid(row->relid) ? ' ' : 'n';
	set_text(row->column, &values[2], &nulls[2]);
	set_text(row->link, &values[3], &nulls[3]);
	set_text(row->path, &values[4], &nulls[4]);
	set_text(row->codec, &values[5], &nulls[5]);
	set_text(row->options, &values[6], &nulls[6]);
	set_text(row->direction, &values[7], &nulls[7]);
	set_text(row->policy, &values[8], &nulls[8]);
	set_text(row->compute, &values[9], &nulls[9]);
	set_text(row->apply, &values[10], &nulls[10]);
	sql_enter(&scope, ekksync_owner_oid());
	sql_run("SELECT EXISTS (SELECT FROM ekksync.mapping WHERE field = $1"
			" AND relation IS NOT DISTINCT FROM $2"
			" AND \"column\" IS NOT DISTINCT FROM $3"
			" AND link IS NOT DISTINCT FROM $4 AND path = $5 AND codec = $6"
			" AND options IS NOT DISTINCT FROM $7::jsonb"
			" AND compute IS NOT DISTINCT FROM $10)",
			11, types, values, nulls, false, 0);
	same = sql_get_bool(0, 1);
	sql_run("DELETE FROM ekksync.mapping WHERE field = $1", 1, types, values,
			NULL, false, 0);
	sql_run("INSERT INTO ekksync.mapping (field, relation, \"column\", link,"
			" path, codec, options, direction, policy, compute, apply)"
			" VALUES ($1, $2, $3, $4, $5, $6, $7::jsonb, $8, $9, $10, $11)",
			11, types, values, nulls, false, 0);
	sql_leave(&scope);
	return same;
}

void
dependency_store(const char *field, Oid relid, const char *link,
				 const char *members)
{
	Oid types[4] = {TEXTOID, REGCLASSOID, TEXTOID, TEXTOID};
	Datum values[4];
	char nulls[4];
	SqlScope scope;

	set_text(field, &values[0], &nulls[0]);
	values[1] = ObjectIdGetDatum(relid);
	nulls[1] = ' ';
	set_text(link, &values[2], &nulls[2]);
	set_text(members, &values[3], &nulls[3]);
	sql_enter(&scope, ekksync_owner_oid());
	sql_run("INSERT INTO ekksync.dependency (field, relation, link, members)"
			" VALUES ($1, $2, $3, $4)",
			4, types, values, nulls, false, 0);
	sql_leave(&scope);
}

/*
 * The mapping of a field has changed: every member is due, and what was agreed
 * on about it counts no more, unless it is of the same values.
 */
static void
mapping_changed(const char *field, bool same)
{
	Oid type = TEXTOID;
	Datum value = CStringGetTextDatum(field);
	SqlScope scope;

	sql_enter(&scope, ekksync_owner_oid());
	sql_run(same ? "UPDATE ekksync.member SET due = true WHERE $1 IS NOT NULL"
				 : "UPDATE ekksync.member SET due = true, base = base - $1",
			1, &type, &value, NULL, false, 0);
	sql_leave(&scope);
	mapping_invalidate();
}

/* {"table": {"link": "column"} or {"members": "query"}, ...} -> Dependency */
static List *
parse_depends(Jsonb *depends)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid type = JSONBOID;
	Datum value = JsonbPGetDatum(depends);
	List *names = NIL;
	List *list = NIL;
	ListCell *cell;
	ListCell *name;
	SqlScope scope;
	uint64 i;

	if (!JB_ROOT_IS_OBJECT(depends))
		map_invalid("depends must be an object",
					"For example: {\"app_link\": {\"link\": \"member_id\"}}");
	sql_enter(&scope, ekksync_owner_oid());
	sql_run("SELECT key, value ->> 'link', value ->> 'members'"
			" FROM jsonb_each($1)",
			1, &type, &value, NULL, false, 0);
	MemoryContextSwitchTo(caller);
	for (i = 0; i < SPI_processed; i++)
	{
		Dependency *dependency = palloc0(sizeof(Dependency));

		names = lappend(names, sql_get_text(i, 1, caller));
		dependency->link = sql_get_text(i, 2, caller);
		dependency->members = sql_get_text(i, 3, caller);
		list = lappend(list, dependency);
	}
	sql_leave(&scope);
	/* by the caller's search_path, so outside of the scope */
	forboth (name, names, cell, list)
	{
		Dependency *dependency = lfirst(cell);
		List *parts = textToQualifiedNameList(cstring_to_text(lfirst(name)));

		dependency->relid =
			RangeVarGetRelid(makeRangeVarFromNameList(parts), NoLock, false);
	}
	return list;
}

/* ------------------------------------------------------------------- SQL */

/* The mapping in force, locked; error when nothing is attached. */
static const Mapping *
open_mapping(const char *function)
{
	const Mapping *mapping;
	Oid member_relid;
	Oid queue_relid;

	PreventCommandIfReadOnly(function);
	if (!lock_attachment(&member_relid, &queue_relid))
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("ekksync is not attached to a member table"),
						errhint("Use ekksync_attach() first.")));
	mapping_invalidate();
	mapping = mapping_get();
	if (mapping->problem != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the mapping cannot be used: %s", mapping->problem)));
	require_owner(member_relid);
	return mapping;
}

static void
read_request(MapRequest *request, FunctionCallInfo fcinfo)
{
	MappingRow *row = &request->row;

	row->field = text_arg(fcinfo, 0);
	row->path = text_arg(fcinfo, 1);
	row->codec = text_arg(fcinfo, 2);
	row->relid = PG_ARGISNULL(3) ? InvalidOid : PG_GETARG_OID(3);
	row->column = text_arg(fcinfo, 4);
	row->link = text_arg(fcinfo, 5);
	row->direction = text_arg(fcinfo, 6);
	row->policy = text_arg(fcinfo, 7);
	if (!PG_ARGISNULL(8))
	{
		Jsonb *options = PG_GETARG_JSONB_P(8);

		row->options = JsonbToCString(NULL, &options->root, -1);
	}
	request->compute = PG_ARGISNULL(9) ? InvalidOid : PG_GETARG_OID(9);
	request->apply = PG_ARGISNULL(10) ? InvalidOid : PG_GETARG_OID(10);
	if (!PG_ARGISNULL(11))
		request->depends = parse_depends(PG_GETARG_JSONB_P(11));
}

/*
 * SQL: ekksync_map(field, path, codec, relation, column, link, direction,
 * policy, options, compute, apply, depends)
 */
Datum
ekksync_map(PG_FUNCTION_ARGS)
{
	MapRequest request;
	ListCell *cell;
	Oid queue_relid;
	bool same;

	memset(&request, 0, sizeof(request));
	request.mapping = open_mapping("ekksync_map()");
	read_request(&request, fcinfo);
	map_check_words(&request);
	request.row.compute = oid_text_or_null(request.compute);
	request.row.apply = oid_text_or_null(request.apply);
	map_check_source(&request);

	same = mapping_store(&request.row);
	queue_relid = request.mapping->queue_relid;
	if (OidIsValid(request.row.relid))
		(void) triggers_ensure(NULL, request.row.relid, queue_relid);
	foreach (cell, request.depends)
	{
		Dependency *dependency = lfirst(cell);

		dependency_store(request.row.field, dependency->relid,
						 dependency->link, dependency->members);
		(void) triggers_ensure(NULL, dependency->relid, queue_relid);
	}
	triggers_prune(NULL, request.mapping->member_relid, false);
	mapping_changed(request.row.field, same);
	PG_RETURN_VOID();
}

/* SQL: ekksync_unmap(field) */
Datum
ekksync_unmap(PG_FUNCTION_ARGS)
{
	char *field = text_arg(fcinfo, 0);
	const Mapping *mapping = open_mapping("ekksync_unmap()");
	Oid type = TEXTOID;
	Datum value = CStringGetTextDatum(field);
	SqlScope scope;
	bool found;

	sql_enter(&scope, ekksync_owner_oid());
	sql_run("DELETE FROM ekksync.mapping WHERE field = $1", 1, &type, &value,
			NULL, false, 0);
	found = SPI_processed > 0;
	sql_leave(&scope);
	if (found)
	{
		triggers_prune(NULL, mapping->member_relid, false);
		mapping_changed(field, false);
	}
	PG_RETURN_BOOL(found);
}
