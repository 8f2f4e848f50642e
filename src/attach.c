/*
 * attach.c
 *		ekksync_attach and ekksync_detach.
 *
 * Says what to do in which order, and who may; how is in the files beside it
 * (attach.h).  Application objects are made as their table's owner, the
 * extension's tables are written as the extension's owner.
 */
#include "postgres.h"

#include "access/xact.h"
#include "attach.h"
#include "catalog/catalog.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "firstcontact.h"
#include "fmgr.h"
#include "launcher.h"
#include "mapping.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "scope.h"
#include "sqlvalue.h"
#include "storage/lmgr.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

PG_FUNCTION_INFO_V1(ekksync_attach);
PG_FUNCTION_INFO_V1(ekksync_detach);

#define DEFAULT_INITIAL "django"
#define DEFAULT_KEY "ssn"

/* The attachment that is there already; all zero if there is none. */
typedef struct Earlier
{
	bool attached;
	Oid relid;
	Oid queue_relid;
	char *key_column;
	char *filter;
	char *initial;
	Oid run_as;
} Earlier;

static char *
text_arg(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(n));
}

/* ---------------------------------------------------------------- checks */

static void
check_place(const char *function)
{
	PreventCommandIfReadOnly(function);
	if (GetDatabaseEncoding() != PG_UTF8)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("ekksync needs a database with encoding UTF8, not %s",
						GetDatabaseEncodingName()),
				 errhint("Create the database with ENCODING 'UTF8'.")));
	if (IsolationUsesXactSnapshot())
		ereport(
			ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("%s needs a transaction of isolation level READ COMMITTED",
					function)));
}

static void
check_member_table(Oid relid)
{
	if (get_rel_name(relid) == NULL)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
						errmsg("relation with OID %u does not exist", relid)));
	require_owner(relid);
	if (get_rel_relkind(relid) != RELKIND_RELATION ||
		get_rel_persistence(relid) == RELPERSISTENCE_TEMP ||
		IsCatalogRelationOid(relid) ||
		get_rel_namespace(relid) == ekksync_schema_oid())
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("%s cannot be the member table",
						relation_qualified(relid)),
				 errdetail(
					 "Only an ordinary, permanent table can be attached.")));
}

/* The role that runs work as. */
static void
choose_role(Attach *attach, Oid run_as)
{
	attach->run_as = run_as;
	attach->role = OidIsValid(run_as) ? run_as : attach->owner;
	if (!OidIsValid(run_as) && superuser_arg(attach->owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("the owner of table %s is a superuser",
						attach->member_table),
				 errdetail("Runs work as the owner of the member table."),
				 errhint("Give the table to the application's role, or name "
						 "the role explicitly by run_as.")));
	if (!has_privs_of_role(GetUserId(), attach->role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to name role \"%s\" by run_as",
						GetUserNameFromId(attach->role, false))));
	if (!has_privs_of_role(attach->role, attach->owner))
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("role \"%s\" does not have the privileges of "
							   "the owner of table %s",
							   GetUserNameFromId(attach->role, false),
							   attach->member_table)));
}

/* The single column of the primary key. */
static void
find_id_column(Attach *attach)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid type = OIDOID;
	Datum value = ObjectIdGetDatum(attach->relid);
	SqlScope scope;

	sql_enter(&scope, attach->role);
	sql_run("SELECT a.attname FROM pg_index i JOIN pg_attribute a"
			" ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]"
			" WHERE i.indrelid = $1 AND i.indisprimary AND i.indnkeyatts = 1",
			1, &type, &value, NULL, false, 1);
	if (SPI_processed > 0)
		attach->id_column = sql_get_text(0, 1, caller);
	sql_leave(&scope);
	attach->id_typid = attach->id_column
						   ? column_type(attach->relid, attach->id_column)
						   : InvalidOid;
	if (attach->id_typid != INT2OID && attach->id_typid != INT4OID &&
		attach->id_typid != INT8OID)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("table %s has no primary key of one integer column",
						attach->member_table)));
}

static void
find_key_column(Attach *attach)
{
	Codec kennitala = {CODEC_KENNITALA, 0, NULL};

	attach->key_typid = column_type(attach->relid, attach->key_column);
	if (!OidIsValid(attach->key_typid))
		ereport(
			ERROR,
			(errcode(ERRCODE_UNDEFINED_COLUMN),
			 errmsg("column \"%s\" of relation \"%s\" does not exist",
					attach->key_column, attach->table),
			 errhint(
				 "Name the column that holds the kennitala by key_column.")));
	if (!codec_accepts(&kennitala, attach->key_typid))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("key column \"%s\" has type %s, not a text type",
						attach->key_column,
						format_type_be(attach->key_typid))));
}

/* --------------------------------------------------------------- earlier */

static void
read_earlier(Earlier *earlier)
{
	MemoryContext caller = CurrentMemoryContext;
	SqlScope scope;
	Datum value;
	bool isnull;

	memset(earlier, 0, sizeof(Earlier));
	earlier->attached =
		lock_attachment(&earlier->relid, &earlier->queue_relid);
	if (!earlier->attached)
		return;
	sql_enter(&scope, ekksync_owner_oid());
	sql_run("SELECT key_column, filter, initial, run_as::oid"
			" FROM ekksync.state",
			0, NULL, NULL, NULL, false, 1);
	earlier->key_column = sql_get_text(0, 1, caller);
	earlier->filter = sql_get_text(0, 2, caller);
	earlier->initial = sql_get_text(0, 3, caller);
	value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 4,
						  &isnull);
	earlier->run_as = isnull ? InvalidOid : DatumGetObjectId(value);
	sql_leave(&scope);
	if (get_rel_name(earlier->queue_relid) == NULL)
		earlier->queue_relid = InvalidOid;
}

/* Attaching again repairs; it does not change what was chosen. */
static void
refuse_change(const Attach *attach, const char *what)
{
	ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					errmsg("table %s is attached with another %s",
						   attach->member_table, what),
					errhint("Use ekksync_detach() first.")));
}

static void
keep_earlier(Attach *attach, const Earlier *earlier, const char *filter)
{
	attach->again = true;
	if (strcmp(attach->initial, earlier->initial) != 0 &&
		strcmp(attach->initial, DEFAULT_INITIAL) != 0)
		refuse_change(attach, "initial");
	if (strcmp(attach->key_column, earlier->key_column) != 0 &&
		strcmp(attach->key_column, DEFAULT_KEY) != 0)
		refuse_change(attach, "key_column");
	if (filter != NULL &&
		(earlier->filter == NULL ||
		 strcmp(filter_canonical(attach->relid, attach->role, filter),
				earlier->filter) != 0))
		refuse_change(attach, "filter");
	if (OidIsValid(attach->run_as) && attach->run_as != earlier->run_as)
		refuse_change(attach, "run_as");
	attach->initial = earlier->initial;
	attach->key_column = earlier->key_column;
	attach->filter = earlier->filter;
}

/* ---------------------------------------------------------------- attach */

static void
name_parts(Attach *attach)
{
	char *underscore;

	attach->schema = get_namespace_name(get_rel_namespace(attach->relid));
	attach->table = get_rel_name(attach->relid);
	attach->member_table = relation_qualified(attach->relid);
	underscore = strchr(attach->table, '_');
	attach->prefix =
		underscore ? pnstrdup(attach->table, underscore + 1 - attach->table)
				   : "";
	attach->model = underscore ? underscore + 1 : attach->table;
}

static void
write_state(const Attach *attach)
{
	Oid types[7] = {REGCLASSOID, REGCLASSOID, TEXTOID,	 TEXTOID,
					TEXTOID,	 TEXTOID,	  REGROLEOID};
	Datum values[7];
	char nulls[7] = {' ', ' ', ' ', ' ', ' ', ' ', ' '};
	SqlScope scope;

	values[0] = ObjectIdGetDatum(attach->relid);
	values[1] = ObjectIdGetDatum(attach->queue_relid);
	values[2] = CStringGetTextDatum(attach->id_column);
	values[3] = CStringGetTextDatum(attach->key_column);
	values[4] = (Datum) 0;
	nulls[4] = attach->filter ? ' ' : 'n';
	if (attach->filter)
		values[4] = CStringGetTextDatum(attach->filter);
	values[5] = CStringGetTextDatum(attach->initial);
	values[6] = ObjectIdGetDatum(attach->run_as);
	nulls[6] = OidIsValid(attach->run_as) ? ' ' : 'n';
	sql_enter(&scope, ekksync_owner_oid());
	if (attach->again)
		sql_run("UPDATE ekksync.state SET queue_table = $1"
				" WHERE queue_table <> $1",
				1, &types[1], &values[1], NULL, false, 0);
	else
		sql_run("INSERT INTO ekksync.state (member_table, queue_table,"
				" id_column, key_column, filter, initial, run_as)"
				" VALUES ($1, $2, $3, $4, $5, $6, $7)",
				7, types, values, nulls, false, 0);
	sql_leave(&scope);
}

/* One row for each mapped field, when attached again. */
static void
report_fields(Attach *attach)
{
	MemoryContext caller = CurrentMemoryContext;
	SqlScope scope;
	uint64 i;

	sql_enter(&scope, ekksync_owner_oid());
	sql_run("SELECT field, path FROM ekksync.mapping"
			" ORDER BY field COLLATE \"C\"",
			0, NULL, NULL, NULL, false, 0);
	for (i = 0; i < SPI_processed; i++)
		report_row(&attach->report,
				   psprintf("field %s", sql_get_text(i, 1, caller)), "kept",
				   "%s", sql_get_text(i, 2, caller));
	sql_leave(&scope);
}

/* Triggers on the member table and all that the mapping names. */
static void
ensure_triggers(Attach *attach)
{
	MemoryContext caller = CurrentMemoryContext;
	List *tables = list_make1_oid(attach->relid);
	ListCell *cell;
	SqlScope scope;
	uint64 i;

	sql_enter(&scope, ekksync_owner_oid());
	sql_run("SELECT r.relation::oid FROM (SELECT relation FROM ekksync.mapping"
			" UNION SELECT relation FROM ekksync.dependency) AS r"
			" JOIN pg_class AS c ON c.oid = r.relation"
			" ORDER BY c.relname COLLATE \"C\", c.oid",
			0, NULL, NULL, NULL, false, 0);
	MemoryContextSwitchTo(caller);
	for (i = 0; i < SPI_processed; i++)
	{
		bool isnull;

		tables =
			list_append_unique_oid(tables,
								   DatumGetObjectId(
									   SPI_getbinval(SPI_tuptable->vals[i],
													 SPI_tuptable->tupdesc, 1,
													 &isnull)));
	}
	sql_leave(&scope);
	if (triggers_ensure_queue(&attach->report, attach->queue_relid))
		attach->missed = true;
	foreach (cell, tables)
	{
		require_owner(lfirst_oid(cell));
		if (triggers_ensure(&attach->report, lfirst_oid(cell),
							attach->queue_relid))
			attach->missed = true;
	}
}

/*
 * Give a role what it needs to run and look: the functions and views of the
 * extension outside of its own schema.  It keeps them after a detach, which
 * leaves the history; what was granted by hand is not told apart anyway.
 */
static void
grant_surface(Oid role)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid types[2] = {OIDOID, TEXTOID};
	Datum values[2];
	List *statements = NIL;
	ListCell *cell;
	SqlScope scope;
	uint64 i;

	if (superuser_arg(role))
		return;
	values[0] = ObjectIdGetDatum(get_extension_oid("ekksync", false));
	values[1] = CStringGetTextDatum(
		psprintf("GRANT %%s ON %%s TO %s",
				 quote_identifier(GetUserNameFromId(role, false))));
	sql_enter(&scope, ekksync_owner_oid());
	sql_run("SELECT format($2, 'EXECUTE', 'FUNCTION ' || p.oid::regprocedure)"
			" FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid"
			" WHERE d.classid = 'pg_proc'::regclass"
			" AND d.refclassid = 'pg_extension'::regclass"
			" AND d.refobjid = $1 AND d.deptype = 'e'"
			" AND p.pronamespace <> 'ekksync'::regnamespace"
			" UNION ALL"
			" SELECT format($2, 'SELECT', c.oid::regclass)"
			" FROM pg_depend d JOIN pg_class c ON c.oid = d.objid"
			" WHERE d.classid = 'pg_class'::regclass"
			" AND d.refclassid = 'pg_extension'::regclass"
			" AND d.refobjid = $1 AND d.deptype = 'e' AND c.relkind = 'v'"
			" AND c.relnamespace <> 'ekksync'::regnamespace",
			2, types, values, NULL, false, 0);
	MemoryContextSwitchTo(caller);
	for (i = 0; i < SPI_processed; i++)
		statements = lappend(statements, sql_get_text(i, 1, caller));
	sql_leave(&scope);
	foreach (cell, statements)
		run_ddl(ekksync_owner_oid(), lfirst(cell));
}

/* Who and what, from the arguments; error when it is not allowed. */
static void
prepare(Attach *attach, Earlier *earlier, FunctionCallInfo fcinfo)
{
	char *filter = text_arg(fcinfo, 2);

	attach->relid = PG_GETARG_OID(0);
	attach->initial = text_arg(fcinfo, 1);
	attach->key_column = text_arg(fcinfo, 3);
	if (strcmp(attach->initial, "django") != 0 &&
		strcmp(attach->initial, "firestore") != 0 &&
		strcmp(attach->initial, "newest") != 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("invalid value for \"initial\": \"%s\"",
							   attach->initial),
						errhint("Use django, firestore or newest.")));
	check_member_table(attach->relid);
	LockRelationOid(attach->relid, ShareRowExclusiveLock);
	check_member_table(attach->relid);
	read_earlier(earlier);
	if (earlier->attached && earlier->relid != attach->relid)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("another table is attached in this database"),
						errhint("Use ekksync_detach() first.")));
	name_parts(attach);
	attach->owner = relation_owner_oid(attach->relid);
	choose_role(attach, PG_ARGISNULL(5) ? earlier->run_as : PG_GETARG_OID(5));
	find_id_column(attach);
	if (earlier->attached)
		keep_earlier(attach, earlier, filter);
	else if (filter != NULL)
		attach->filter = filter_canonical(attach->relid, attach->role, filter);
	find_key_column(attach);
}

/*
 * SQL: ekksync_attach(member_table, initial, filter, key_column, queue_table,
 * run_as)
 */
Datum
ekksync_attach(PG_FUNCTION_ARGS)
{
	Attach attach = {0};
	Earlier earlier;

	check_place("ekksync_attach()");
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(3))
		ereport(
			ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("member_table, initial and key_column must not be null")));
	report_begin(&attach.report, fcinfo);
	prepare(&attach, &earlier, fcinfo);
	queuetable_ensure(&attach, text_arg(fcinfo, 4), earlier.queue_relid);
	write_state(&attach);
	if (attach.again)
	{
		defaults_mend(&attach);
		report_fields(&attach);
	}
	else
		defaults_map(&attach);
	ensure_triggers(&attach);
	first_contact(&attach);
	grant_surface(attach.owner);
	if (attach.role != attach.owner)
		grant_surface(attach.role);
	mapping_invalidate();
	launcher_nudge();
	return (Datum) 0;
}

/* ---------------------------------------------------------------- detach */

/*
 * Who may detach: as who may attach; when the member table is gone, the
 * queue table's owner; when both are, the extension's owner.
 */
static void
check_detach(const Earlier *earlier)
{
	if (get_rel_name(earlier->relid) != NULL)
		require_owner(earlier->relid);
	else if (OidIsValid(earlier->queue_relid))
		require_owner(earlier->queue_relid);
	else if (!has_privs_of_role(GetUserId(), ekksync_owner_oid()))
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("permission denied to detach"),
						errdetail("Neither the member table nor the queue "
								  "table exists any more.")));
}

static void
delete_state(void)
{
	SqlScope scope;

	sql_enter(&scope, ekksync_owner_oid());
	sql_run("DELETE FROM ekksync.mapping", 0, NULL, NULL, NULL, false, 0);
	sql_run("DELETE FROM ekksync.member", 0, NULL, NULL, NULL, false, 0);
	sql_run("DELETE FROM ekksync.stranger", 0, NULL, NULL, NULL, false, 0);
	sql_run("DELETE FROM ekksync.inbox", 0, NULL, NULL, NULL, false, 0);
	sql_run("DELETE FROM ekksync.plan", 0, NULL, NULL, NULL, false, 0);
	sql_run("DELETE FROM ekksync.diff", 0, NULL, NULL, NULL, false, 0);
	sql_run("DELETE FROM ekksync.backlog", 0, NULL, NULL, NULL, false, 0);
	sql_run("DELETE FROM ekksync.touched", 0, NULL, NULL, NULL, false, 0);
	sql_run("DELETE FROM ekksync.state", 0, NULL, NULL, NULL, false, 0);
	sql_leave(&scope);
}

/* SQL: ekksync_detach() */
Datum
ekksync_detach(PG_FUNCTION_ARGS)
{
	Report report;
	Earlier earlier;

	check_place("ekksync_detach()");
	report_begin(&report, fcinfo);
	read_earlier(&earlier);
	if (!earlier.attached)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("ekksync is not attached to a member table")));
	check_detach(&earlier);
	triggers_prune(&report, earlier.relid, true);
	if (OidIsValid(earlier.queue_relid))
		triggers_drop_queue(&report, earlier.queue_relid);
	defaults_drop(&report);
	delete_state();
	if (OidIsValid(earlier.queue_relid))
		report_row(&report,
				   psprintf("queue table %s",
							relation_qualified(earlier.queue_relid)),
				   "kept", "%s", "");
	mapping_invalidate();
	return (Datum) 0;
}
