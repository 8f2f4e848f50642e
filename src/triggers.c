/*
 * triggers.c
 *		Puts the capture triggers on tables, and takes them off.
 *
 * A trigger of ours depends on the queue table, so that this one is not
 * dropped from under it, and goes with the extension by itself.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "attach.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "commands/trigger.h"
#include "mapping.h"
#include "nodes/makefuncs.h"
#include "scope.h"
#include "sqlvalue.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#define ROW_TRIGGER "ekksync_capture"
#define TRUNCATE_TRIGGER "ekksync_capture_truncate"

void
depend_on_extension(Oid classid, Oid objid)
{
	ObjectAddress object;
	ObjectAddress extension;

	ObjectAddressSet(object, classid, objid);
	ObjectAddressSet(extension, ExtensionRelationId,
					 get_extension_oid("ekksync", false));
	(void) deleteDependencyRecordsForSpecific(classid, objid,
											  DEPENDENCY_AUTO_EXTENSION,
											  ExtensionRelationId,
											  extension.objectId);
	recordDependencyOn(&object, &extension, DEPENDENCY_AUTO_EXTENSION);
}

static void
depend_on_queue(Oid trigger, Oid queue_relid)
{
	ObjectAddress object;
	ObjectAddress queue;

	ObjectAddressSet(object, TriggerRelationId, trigger);
	ObjectAddressSet(queue, RelationRelationId, queue_relid);
	(void) deleteDependencyRecordsForSpecific(TriggerRelationId, trigger,
											  DEPENDENCY_NORMAL,
											  RelationRelationId, queue_relid);
	recordDependencyOn(&object, &queue, DEPENDENCY_NORMAL);
}

/* ekksync.capture(); the caller need have no right on its schema. */
static Oid
capture_function(void)
{
	Oid function;

	function = GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid,
							   CStringGetDatum("capture"),
							   PointerGetDatum(buildoidvector(NULL, 0)),
							   ObjectIdGetDatum(ekksync_schema_oid()));
	if (!OidIsValid(function))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_FUNCTION),
						errmsg("function %s.capture() does not exist",
							   EKKSYNC_SCHEMA)));
	return function;
}

/*
 * Create a trigger, as the table's owner.  By function oid: that role need
 * have no right on our schema.
 */
static Oid
create_trigger(Oid relid, const char *name, bool row, int16 events)
{
	CreateTrigStmt *stmt = makeNode(CreateTrigStmt);
	Oid function = capture_function();
	ObjectAddress address;
	SqlScope scope;

	stmt->trigname = pstrdup(name);
	stmt->relation = makeRangeVar(get_namespace_name(get_rel_namespace(relid)),
								  get_rel_name(relid), -1);
	stmt->row = row;
	stmt->timing = TRIGGER_TYPE_AFTER;
	stmt->events = events;
	sql_enter(&scope, relation_owner_oid(relid));
	address =
		CreateTrigger(stmt, NULL, relid, InvalidOid, InvalidOid, InvalidOid,
					  function, InvalidOid, NULL, false, false);
	CommandCounterIncrement();
	sql_leave(&scope);
	return address.objectId;
}

/* Is the trigger ours (error if not), and does it fire? */
static bool
trigger_fires(Oid relid, const char *name, Oid trigger)
{
	Oid types[1] = {OIDOID};
	Datum values[1];
	SqlScope scope;
	Oid function;
	char enabled;
	bool isnull;

	values[0] = ObjectIdGetDatum(trigger);
	sql_enter(&scope, ekksync_owner_oid());
	sql_run("SELECT tgfoid, tgenabled FROM pg_trigger WHERE oid = $1", 1,
			types, values, NULL, false, 1);
	function =
		DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[0],
									   SPI_tuptable->tupdesc, 1, &isnull));
	enabled = DatumGetChar(SPI_getbinval(SPI_tuptable->vals[0],
										 SPI_tuptable->tupdesc, 2, &isnull));
	sql_leave(&scope);
	if (function != capture_function())
		ereport(ERROR, (errcode(ERRCODE_DUPLICATE_OBJECT),
						errmsg("trigger \"%s\" for relation \"%s\" already "
							   "exists and is not ekksync's",
							   name, get_rel_name(relid)),
						errhint("Rename or drop it.")));
	return enabled == TRIGGER_FIRES_ON_ORIGIN ||
		   enabled == TRIGGER_FIRES_ALWAYS;
}

/* One trigger; true when it was missing or did not fire. */
static bool
ensure(Report *report, Oid relid, Oid queue_relid, const char *name, bool row,
	   int16 events)
{
	Oid trigger = get_trigger_oid(relid, name, true);
	const char *outcome = "kept";

	if (!OidIsValid(trigger))
	{
		trigger = create_trigger(relid, name, row, events);
		outcome = "created";
	}
	else if (!trigger_fires(relid, name, trigger))
	{
		run_ddl(relation_owner_oid(relid),
				psprintf("ALTER TABLE %s ENABLE TRIGGER %s",
						 relation_qualified(relid), name));
		outcome = "mended";
	}
	depend_on_queue(trigger, queue_relid);
	depend_on_extension(TriggerRelationId, trigger);
	if (report != NULL)
		report_row(report,
				   psprintf("trigger %s on %s", name,
							relation_qualified(relid)),
				   outcome, "%s",
				   strcmp(outcome, "mended") == 0 ? "it was disabled" : "");
	return strcmp(outcome, "kept") != 0;
}

bool
triggers_ensure(Report *report, Oid relid, Oid queue_relid)
{
	bool changed;

	changed = ensure(report, relid, queue_relid, ROW_TRIGGER, true,
					 TRIGGER_TYPE_INSERT | TRIGGER_TYPE_UPDATE |
						 TRIGGER_TYPE_DELETE);
	return ensure(report, relid, queue_relid, TRUNCATE_TRIGGER, false,
				  TRIGGER_TYPE_TRUNCATE) ||
		   changed;
}

/* Tables with triggers of ours: List of oids, those to prune. */
static List *
tables_to_prune(Oid member_relid, bool all)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid types[3] = {OIDOID, OIDOID, BOOLOID};
	Datum values[3];
	List *tables = NIL;
	SqlScope scope;
	uint64 i;

	values[0] = ObjectIdGetDatum(capture_function());
	values[1] = ObjectIdGetDatum(member_relid);
	values[2] = BoolGetDatum(all);
	sql_enter(&scope, ekksync_owner_oid());
	sql_run("SELECT DISTINCT tgrelid FROM pg_trigger"
			" WHERE tgfoid = $1 AND NOT tgisinternal"
			" AND ($3 OR (tgrelid <> $2 AND tgrelid NOT IN"
			" (SELECT relation::oid FROM ekksync.mapping"
			" WHERE relation IS NOT NULL"
			" UNION ALL SELECT relation::oid FROM ekksync.dependency)))"
			" ORDER BY tgrelid",
			3, types, values, NULL, false, 0);
	MemoryContextSwitchTo(caller);
	for (i = 0; i < SPI_processed; i++)
	{
		bool isnull;

		tables =
			lappend_oid(tables,
						DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[i],
													   SPI_tuptable->tupdesc,
													   1, &isnull)));
	}
	sql_leave(&scope);
	return tables;
}

void
triggers_prune(Report *report, Oid member_relid, bool all)
{
	const char *names[2] = {ROW_TRIGGER, TRUNCATE_TRIGGER};
	List *tables = tables_to_prune(member_relid, all);
	ListCell *cell;
	int i;

	foreach (cell, tables)
		require_owner(lfirst_oid(cell));
	foreach (cell, tables)
	{
		Oid relid = lfirst_oid(cell);

		for (i = 0; i < 2; i++)
		{
			if (!OidIsValid(get_trigger_oid(relid, names[i], true)))
				continue;
			run_ddl(relation_owner_oid(relid),
					psprintf("DROP TRIGGER %s ON %s", names[i],
							 relation_qualified(relid)));
			if (report != NULL)
				report_row(report,
						   psprintf("trigger %s on %s", names[i],
									relation_qualified(relid)),
						   "dropped", "%s", "");
		}
	}
}
