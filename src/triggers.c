/*
 * triggers.c
 *		Puts our triggers on tables, and takes them off.
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

#define CAPTURE "capture"
#define NOTE_BY_HAND "note_by_hand"

/* A trigger of ours. */
typedef struct OurTrigger
{
	const char *name;
	const char *function; /* in our schema */
	bool row;
	int16 events;
	bool old_table; /* its transition tables */
	bool new_table;
} OurTrigger;

static const OurTrigger row_trigger = {"ekksync_capture",
									   CAPTURE,
									   true,
									   TRIGGER_TYPE_INSERT |
										   TRIGGER_TYPE_UPDATE |
										   TRIGGER_TYPE_DELETE,
									   false,
									   false};
static const OurTrigger truncate_trigger = {"ekksync_capture_truncate",
											CAPTURE,
											false,
											TRIGGER_TYPE_TRUNCATE,
											false,
											false};
static const OurTrigger queue_triggers[] = {{"ekksync_settled_by_hand",
											 NOTE_BY_HAND, false,
											 TRIGGER_TYPE_UPDATE, true, true},
											{"ekksync_deleted_by_hand",
											 NOTE_BY_HAND, false,
											 TRIGGER_TYPE_DELETE, true,
											 false}};

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

/* A trigger function of ours; the caller need have no right on its schema. */
static Oid
our_function(const char *name)
{
	Oid function;

	function = GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid,
							   CStringGetDatum(name),
							   PointerGetDatum(buildoidvector(NULL, 0)),
							   ObjectIdGetDatum(ekksync_schema_oid()));
	if (!OidIsValid(function))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_FUNCTION),
						errmsg("function %s.%s() does not exist",
							   EKKSYNC_SCHEMA, name)));
	return function;
}

static TriggerTransition *
transition_table(const char *name, bool is_new)
{
	TriggerTransition *table = makeNode(TriggerTransition);

	table->name = pstrdup(name);
	table->isNew = is_new;
	table->isTable = true;
	return table;
}

/*
 * Create a trigger, as the table's owner.  By function oid: that role need
 * have no right on our schema.
 */
static Oid
create_trigger(Oid relid, const OurTrigger *trigger)
{
	CreateTrigStmt *stmt = makeNode(CreateTrigStmt);
	Oid function = our_function(trigger->function);
	ObjectAddress address;
	SqlScope scope;

	stmt->trigname = pstrdup(trigger->name);
	stmt->relation = makeRangeVar(get_namespace_name(get_rel_namespace(relid)),
								  get_rel_name(relid), -1);
	stmt->row = trigger->row;
	stmt->timing = TRIGGER_TYPE_AFTER;
	stmt->events = trigger->events;
	if (trigger->old_table)
		stmt->transitionRels =
			lappend(stmt->transitionRels, transition_table("was", false));
	if (trigger->new_table)
		stmt->transitionRels =
			lappend(stmt->transitionRels, transition_table("is_now", true));
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
trigger_fires(Oid relid, const OurTrigger *ours, Oid trigger)
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
	if (function != our_function(ours->function))
		ereport(ERROR, (errcode(ERRCODE_DUPLICATE_OBJECT),
						errmsg("trigger \"%s\" for relation \"%s\" already "
							   "exists and is not ekksync's",
							   ours->name, get_rel_name(relid)),
						errhint("Rename or drop it.")));
	return enabled == TRIGGER_FIRES_ON_ORIGIN ||
		   enabled == TRIGGER_FIRES_ALWAYS;
}

/* One trigger; true when it was missing or did not fire. */
static bool
ensure(Report *report, Oid relid, Oid queue_relid, const OurTrigger *ours)
{
	Oid trigger = get_trigger_oid(relid, ours->name, true);
	const char *outcome = "kept";

	if (!OidIsValid(trigger))
	{
		trigger = create_trigger(relid, ours);
		outcome = "created";
	}
	else if (!trigger_fires(relid, ours, trigger))
	{
		run_ddl(relation_owner_oid(relid),
				psprintf("ALTER TABLE %s ENABLE TRIGGER %s",
						 relation_qualified(relid), ours->name));
		outcome = "mended";
	}
	if (relid != queue_relid)
		depend_on_queue(trigger, queue_relid);
	depend_on_extension(TriggerRelationId, trigger);
	if (report != NULL)
		report_row(report,
				   psprintf("trigger %s on %s", ours->name,
							relation_qualified(relid)),
				   outcome, "%s",
				   strcmp(outcome, "mended") == 0 ? "it was disabled" : "");
	return strcmp(outcome, "kept") != 0;
}

bool
triggers_ensure(Report *report, Oid relid, Oid queue_relid)
{
	bool changed;

	changed = ensure(report, relid, queue_relid, &row_trigger);
	return ensure(report, relid, queue_relid, &truncate_trigger) || changed;
}

bool
triggers_ensure_queue(Report *report, Oid queue_relid)
{
	bool changed = false;
	int i;

	for (i = 0; i < (int) lengthof(queue_triggers); i++)
		changed |=
			ensure(report, queue_relid, queue_relid, &queue_triggers[i]);
	return changed;
}

/* Drop a trigger, if it is there. */
static void
drop(Report *report, Oid relid, const char *name)
{
	if (!OidIsValid(get_trigger_oid(relid, name, true)))
		return;
	run_ddl(relation_owner_oid(relid), psprintf("DROP TRIGGER %s ON %s", name,
												relation_qualified(relid)));
	if (report != NULL)
		report_row(report,
				   psprintf("trigger %s on %s", name,
							relation_qualified(relid)),
				   "dropped", "%s", "");
}

void
triggers_drop_queue(Report *report, Oid queue_relid)
{
	int i;

	for (i = 0; i < (int) lengthof(queue_triggers); i++)
		drop(report, queue_relid, queue_triggers[i].name);
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

	values[0] = ObjectIdGetDatum(our_function(CAPTURE));
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
	List *tables = tables_to_prune(member_relid, all);
	ListCell *cell;

	foreach (cell, tables)
		require_owner(lfirst_oid(cell));
	foreach (cell, tables)
	{
		drop(report, lfirst_oid(cell), row_trigger.name);
		drop(report, lfirst_oid(cell), truncate_trigger.name);
	}
}
