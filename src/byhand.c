/*
 * byhand.c
 *		Triggers on the queue table: rows that somebody else than a run settles
 *		or deletes, in Django's admin or by SQL.
 *
 * Whoever does that says that nothing is left to do; the next run looks whether
 * it is so.  What is noted is only added to (ekksync.touched), so that nobody
 * waits for anybody; and should it not be possible, there is a WARNING, and the
 * statement goes on.
 *
 * May not know: Firestore, values, what a run does with the notes.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/tuplestore.h"

#include "mapping.h"
#include "scope.h"
#include "sqlvalue.h"
#include "store.h"
#include "worker.h"

PG_FUNCTION_INFO_V1(ekksync_note_by_hand);

/* The rows of the statement before it, and after it (NULL: they are gone). */
typedef struct Rows
{
	TupleDesc desc;
	Tuplestorestate *old;
	Tuplestorestate *new;
	TupleTableSlot *old_slot;
	TupleTableSlot *new_slot;
} Rows;

/* What is to be noted. */
typedef struct Found
{
	char **keys;
	int64 *ids;
	int n;
	int max;
} Found;

static void
rewind_rows(Tuplestorestate *store)
{
	tuplestore_select_read_pointer(
		store, tuplestore_alloc_read_pointer(store, EXEC_FLAG_REWIND));
	tuplestore_rescan(store);
}

/* A column as text, NULL when it is null or not there. */
static char *
column_text(TupleTableSlot *slot, TupleDesc desc, const char *name)
{
	int attnum = SPI_fnumber(desc, name);
	Oid output;
	bool varlena;
	bool isnull;
	Datum value;

	if (attnum <= 0)
		return NULL;
	value = slot_getattr(slot, attnum, &isnull);
	if (isnull)
		return NULL;
	getTypeOutputInfo(TupleDescAttr(desc, attnum - 1)->atttypid, &output,
					  &varlena);
	return OidOutputFunctionCall(output, value);
}

static void
add(Found *found, TupleTableSlot *slot, TupleDesc desc)
{
	char *key = column_text(slot, desc, "ssn");
	char *id = column_text(slot, desc, "id");

	if (key == NULL || id == NULL)
		return;
	if (found->n == found->max)
	{
		found->max = found->max == 0 ? 16 : found->max * 2;
		found->keys = found->n == 0
						  ? palloc(sizeof(char *) * found->max)
						  : repalloc(found->keys, sizeof(char *) * found->max);
		found->ids = found->n == 0
						 ? palloc(sizeof(int64) * found->max)
						 : repalloc(found->ids, sizeof(int64) * found->max);
	}
	found->keys[found->n] = key;
	found->ids[found->n++] = strtoll(id, NULL, 10);
}

/* Was the row open, and is it now settled, or has it gone? */
static bool
is_settled(const Rows *rows)
{
	char *was = column_text(rows->old_slot, rows->desc, "sync_status");
	char *is;

	if (was == NULL)
		return false;
	if (rows->new == NULL)
		return strcmp(was, "synced") != 0;
	is = column_text(rows->new_slot, rows->desc, "sync_status");
	if (is == NULL || strcmp(is, was) == 0)
		return false;
	return strcmp(is, "synced") == 0 ||
		   (strcmp(is, "failed") == 0 && strcmp(was, "pending") == 0);
}

/* The rows before and after it are in the same order. */
static void
find_settled(Rows *rows, Found *found)
{
	rewind_rows(rows->old);
	if (rows->new != NULL)
		rewind_rows(rows->new);
	while (tuplestore_gettupleslot(rows->old, true, false, rows->old_slot))
	{
		CHECK_FOR_INTERRUPTS();
		if (rows->new != NULL &&
			!tuplestore_gettupleslot(rows->new, true, false, rows->new_slot))
			break;
		if (is_settled(rows))
			add(found, rows->new ? rows->new_slot : rows->old_slot,
				rows->desc);
	}
}

/* Note them, unless somebody has locked our table; see sql_guarded. */
static void
write_found(void *arg)
{
	Found *found = arg;
	Oid types[] = {TEXTARRAYOID, INT8ARRAYOID};
	Datum values[] = {sql_text_array(found->keys, found->n),
					  sql_int8_array(found->ids, found->n)};

	if (!ConditionalLockRelationOid(ekksync_table_oid("touched"),
									RowExclusiveLock))
		ereport(ERROR, (errcode(ERRCODE_LOCK_NOT_AVAILABLE),
						errmsg("table %s.touched is locked", EKKSYNC_SCHEMA)));
	store_sql_only("INSERT INTO ekksync.touched (key, queue_id) "
				   "SELECT * FROM unnest($1, $2)",
				   2, types, values, NULL);
}

/* SQL: trigger ekksync.note_by_hand() */
Datum
ekksync_note_by_hand(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	Found found = {0};
	Rows rows = {0};
	char *problem;

	if (!CALLED_AS_TRIGGER(fcinfo) || TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("ekksync.note_by_hand must be called as an AFTER "
						"STATEMENT trigger")));
	if (worker_is_run() || trigger->tg_oldtable == NULL)
		return PointerGetDatum(NULL);
	rows.desc = RelationGetDescr(trigger->tg_relation);
	rows.old = trigger->tg_oldtable;
	rows.new = trigger->tg_newtable;
	rows.old_slot = MakeSingleTupleTableSlot(rows.desc, &TTSOpsMinimalTuple);
	rows.new_slot = MakeSingleTupleTableSlot(rows.desc, &TTSOpsMinimalTuple);
	find_settled(&rows, &found);
	ExecDropSingleTupleTableSlot(rows.old_slot);
	ExecDropSingleTupleTableSlot(rows.new_slot);
	if (found.n == 0)
		return PointerGetDatum(NULL);
	problem = sql_guarded(write_found, &found);
	if (problem != NULL)
		ereport(WARNING,
				(errmsg("ekksync will not look at the rows that were settled "
						"by hand: %s",
						mask_message(problem)),
				 errhint("ekksync_diff() shows where the sides differ.")));
	return PointerGetDatum(NULL);
}
