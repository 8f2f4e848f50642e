/*
 * capture.c
 *		The row and truncate triggers: what changed, and whose it is.
 *
 * Runs in the application's transactions.  It must not fail them for a reason
 * of ours (but when the queue takes no row: no change may be lost), must not
 * wait, and must cost little when nothing mapped changed.
 * Knows nothing of Firestore beyond the codecs' canonical values.
 */
#include "postgres.h"

#include "capture.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "mapping.h"
#include "miscadmin.h"
#include "notes.h"
#include "outbox.h"
#include "scope.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/json.h"
#include "utils/rel.h"

PG_FUNCTION_INFO_V1(ekksync_capture);

/* A search for the members that a row of a related table belongs to. */
typedef struct Search
{
	const Mapping *mapping;
	const char *query;
	bool pinned;   /* the query holds SQL that a user wrote */
	bool filtered; /* the query's third column is the filter */
	Oid type;	   /* of $1; InvalidOid: no parameter */
	Datum value;
	MemoryContext cxt; /* of what is found */
	List *owners;	   /* Owner */
} Search;

/* A question to the filter, see filter_holds. */
typedef struct Question
{
	const Mapping *mapping;
	Datum row;
	bool holds;
} Question;

/* ---------------------------------------------------------- member table */

/* SQL of the filter on one row, as the owner; see sql_guarded. */
static void
ask_filter(void *arg)
{
	Question *question = arg;
	const Mapping *mapping = question->mapping;
	Oid type = mapping->member_rowtype;
	SqlScope scope;
	Datum answer;
	bool isnull;

	sql_enter(&scope, mapping->owner);
	sql_run(mapping->filter_row, 1, &type, &question->row, NULL, true, 1);
	answer = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
						   &isnull);
	question->holds = !isnull && DatumGetBool(answer);
	sql_leave(&scope);
}

static const char *
filter_error(const char *problem)
{
	return psprintf("the filter failed: %s", problem);
}

/* A filter that fails leaves the row in scope, with the reason. */
static bool
filter_holds(const Mapping *mapping, TupleTableSlot *slot, Owner *owner)
{
	Question question;
	char *problem;

	question.mapping = mapping;
	question.row = ExecFetchSlotHeapTupleDatum(slot);
	problem = sql_guarded(ask_filter, &question);
	if (problem == NULL)
		return question.holds;
	if (owner->error == NULL)
		owner->error = filter_error(problem);
	return true;
}

/* Id and key of a member row, and whether it is in scope. */
static bool
read_member(const Mapping *mapping, TupleTableSlot *slot, Owner *owner)
{
	Datum key;
	bool isnull;

	if (slot == NULL)
		return false;
	owner->id = slot_getattr(slot, mapping->id_attnum, &owner->id_isnull);
	key = slot_getattr(slot, mapping->key_attnum, &isnull);
	owner->key = outbox_key(mapping, key, isnull, &owner->error);
	return mapping->filter == NULL || filter_holds(mapping, slot, owner);
}

/* new_key: what the key became, NULL when the member is gone. */
static void
write_delete(const Mapping *mapping, const Owner *owner, const char *new_key,
			 bool row_is_gone)
{
	Notes notes;

	notes_init(&notes);
	if (new_key != NULL)
	{
		escape_json(&notes.json, mapping->key_name);
		appendStringInfoChar(&notes.json, ':');
		escape_json(&notes.json, new_key);
	}
	notes_write(&notes, mapping, "delete", owner, !row_is_gone);
}

static void
write_create(const Mapping *mapping, const Watched *watched,
			 const Owner *owner, TupleTableSlot *slot)
{
	Notes notes;
	int i;

	notes_init(&notes);
	for (i = 0; i < watched->nfields; i++)
	{
		const Field *field = &mapping->fields[watched->fields[i].field];

		if (watched->fields[i].attnum != 0 || field->problem != NULL)
			note_slot(&notes, "", mapping, &watched->fields[i], slot);
	}
	notes_write(&notes, mapping, "create", owner, true);
}

/* Does the run in this process insert or delete the row itself? */
static bool
by_run(const char *key, const char *what)
{
	return capture_expected(key, CAPTURE_ROW, what);
}

static void
capture_member(const Mapping *mapping, const Watched *watched,
			   TupleTableSlot *old, TupleTableSlot *new)
{
	Owner before;
	Owner after;
	bool was;
	bool is;

	if (old != NULL && new != NULL)
	{
		if (mapping->filter != NULL
				? !row_differs(old, new)
				: !any_field_differs(watched, old, new) &&
					  !attr_differs(old, new, mapping->key_attnum))
			return;
	}
	was = read_member(mapping, old, &before);
	is = read_member(mapping, new, &after);
	if (new == NULL && !before.id_isnull)
		outbox_forget_member(mapping, before.id);
	if (was && is && strcmp(before.key, after.key) == 0)
	{
		Notes notes;

		notes_init(&notes);
		note_changed(&notes, after.key, mapping, watched, old, new);
		if (notes.nfields > 0)
			notes_write(&notes, mapping, "update", &after, true);
		return;
	}
	if (was && (new != NULL || !by_run(before.key, CAPTURE_DELETED)))
		write_delete(mapping, &before, is ? after.key : NULL, new == NULL);
	if (is && (old != NULL || !by_run(after.key, CAPTURE_INSERTED)))
		write_create(mapping, watched, &after, new);
}

/* -------------------------------------------------------- related tables */

/* Run a search, as the owner; see sql_guarded. */
static void
run_search(void *arg)
{
	Search *search = arg;
	const Mapping *mapping = search->mapping;
	SqlScope scope;
	uint64 i;

	if (search->pinned)
		sql_enter(&scope, mapping->owner);
	else
		sql_enter_bare(&scope, mapping->owner);
	if (OidIsValid(search->type))
		sql_run_by_index(search->query, 1, &search->type, &search->value, NULL,
						 false, 0);
	else
		sql_run(search->query, 0, NULL, NULL, NULL, false, 0);
	MemoryContextSwitchTo(search->cxt);
	for (i = 0; i < SPI_processed; i++)
	{
		HeapTuple tuple = SPI_tuptable->vals[i];
		TupleDesc desc = SPI_tuptable->tupdesc;
		Owner *owner = palloc(sizeof(Owner));
		Datum value;
		bool isnull;

		if (search->filtered)
		{
			value = SPI_getbinval(tuple, desc, 3, &isnull);
			if (isnull || !DatumGetBool(value))
				continue;
		}
		value = SPI_getbinval(tuple, desc, 1, &owner->id_isnull);
		owner->id = owner->id_isnull
						? (Datum) 0
						: datumCopy(value, TupleDescAttr(desc, 0)->attbyval,
									TupleDescAttr(desc, 0)->attlen);
		value = SPI_getbinval(tuple, desc, 2, &isnull);
		owner->key = outbox_key(mapping, value, isnull, &owner->error);
		search->owners = lappend(search->owners, owner);
	}
	sql_leave(&scope);
}

/*
 * Run a search with the filter; where the filter fails, without it, and every
 * member found says so.
 */
static List *
search_members(Search *search, const char *plain, const char *filtered)
{
	ListCell *cell;
	char *problem;

	search->cxt = CurrentMemoryContext;
	search->owners = NIL;
	if (filtered != NULL)
	{
		search->query = filtered;
		search->filtered = true;
		search->pinned = true;
		problem = sql_guarded(run_search, search);
		if (problem == NULL)
			return search->owners;
		search->owners = NIL;
	}
	else
		problem = NULL;
	search->query = plain;
	search->filtered = false;
	run_search(search);
	MemoryContextSwitchTo(search->cxt);
	foreach (cell, search->owners)
	{
		Owner *owner = lfirst(cell);

		if (problem != NULL && owner->error == NULL)
			owner->error = filter_error(problem);
	}
	return search->owners;
}

/* The members that a row of a related table belongs to. */
static List *
find_owners(const Mapping *mapping, const Watched *watched,
			TupleTableSlot *slot)
{
	Search search;
	bool isnull;

	search.mapping = mapping;
	search.type = watched->ref_typid;
	search.value = slot_getattr(slot,
								watched->members ? watched->id_attnum
												 : watched->link_attnum,
								&isnull);
	search.pinned = (watched->members != NULL);
	if (isnull)
		return NIL;
	return search_members(&search, watched->resolve,
						  watched->resolve_filtered);
}

/*
 * A row came to these members (slot is it) or left them (slot is NULL): its
 * non-null fields count, with their value or as null.
 */
static void
write_related(const Mapping *mapping, const Watched *watched, List *owners,
			  TupleTableSlot *row, bool gone)
{
	ListCell *cell;

	foreach (cell, owners)
	{
		Owner *owner = lfirst(cell);
		Notes notes;
		int i;

		CHECK_FOR_INTERRUPTS();
		notes_init(&notes);
		for (i = 0; i < watched->nfields; i++)
		{
			const WatchedField *field = &watched->fields[i];
			bool isnull = false;

			if (row != NULL && field->attnum != 0)
				(void) slot_getattr(row, field->attnum, &isnull);
			if (!isnull)
				note_slot(&notes, owner->key, mapping, field,
						  gone ? NULL : row);
		}
		if (notes.nfields > 0)
			notes_write(&notes, mapping, "update", owner, true);
	}
}

/* The link column is gone: nobody can say whose the row is. */
static void
write_ownerless(const Mapping *mapping, const char *problem)
{
	Notes notes;
	Owner nobody = {(Datum) 0, true, "", problem};

	notes_init(&notes);
	notes_write(&notes, mapping, "update", &nobody, false);
}

static void
capture_related(const Mapping *mapping, const Watched *watched,
				TupleTableSlot *old, TupleTableSlot *new)
{
	AttrNumber ref =
		watched->members ? watched->id_attnum : watched->link_attnum;
	ListCell *cell;

	if (watched->problem != NULL)
	{
		if (old == NULL || new == NULL || row_differs(old, new))
			write_ownerless(mapping, watched->problem);
		return;
	}
	if (old == NULL || new == NULL || attr_differs(old, new, ref))
	{
		if (old != NULL)
			write_related(mapping, watched, find_owners(mapping, watched, old),
						  old, true);
		if (new != NULL)
			write_related(mapping, watched, find_owners(mapping, watched, new),
						  new, false);
		return;
	}
	if (!any_field_differs(watched, old, new))
		return;
	foreach (cell, find_owners(mapping, watched, new))
	{
		Owner *owner = lfirst(cell);
		Notes notes;

		CHECK_FOR_INTERRUPTS();
		notes_init(&notes);
		note_changed(&notes, owner->key, mapping, watched, old, new);
		if (notes.nfields > 0)
			notes_write(&notes, mapping, "update", owner, true);
	}
}

/* ------------------------------------------------------ truncate, broken */

/* A related table was emptied: every member in scope may have lost values. */
static void
truncate_related(const Mapping *mapping, const Watched *watched)
{
	Search search;
	char *select;

	select =
		psprintf("SELECT %s, %s FROM %s", quote_identifier(mapping->id_column),
				 quote_identifier(mapping->key_column), mapping->member_table);
	search.mapping = mapping;
	search.type = InvalidOid;
	search.value = (Datum) 0;
	search.pinned = true;
	write_related(mapping, watched,
				  search_members(&search, select,
								 mapping->filter
									 ? psprintf("SELECT %s, %s, (%s) FROM %s",
												quote_identifier(
													mapping->id_column),
												quote_identifier(
													mapping->key_column),
												mapping->filter,
												mapping->member_table)
									 : NULL),
				  NULL, true);
}

/* The whole mapping cannot be used: a row that says so, with what is known. */
static void
capture_broken(const Mapping *mapping, const TriggerData *trigger,
			   TupleTableSlot *old, TupleTableSlot *new)
{
	TupleTableSlot *slot = new ? new : old;
	Owner owner = {(Datum) 0, true, "", NULL};
	const char *key_error;
	Notes notes;
	bool isnull;
	bool is_member;

	is_member =
		RelationGetRelid(trigger->tg_relation) == mapping->member_relid;
	if (old != NULL && new != NULL && !row_differs(old, new))
		return;
	notes_init(&notes);
	note_error(&notes, mapping->problem);
	if (is_member && slot != NULL && mapping->key_attnum != 0)
	{
		Datum key = slot_getattr(slot, mapping->key_attnum, &isnull);

		owner.key = outbox_key(mapping, key, isnull, &key_error);
		note_error(&notes, key_error);
	}
	if (is_member && slot != NULL && mapping->id_attnum != 0)
	{
		owner.id = slot_getattr(slot, mapping->id_attnum, &owner.id_isnull);
		if (new == NULL && !owner.id_isnull)
			outbox_forget_member(mapping, owner.id);
	}
	notes_write(&notes, mapping,
				!is_member || (old != NULL && new != NULL) ? "update"
				: new != NULL							   ? "create"
														   : "delete",
				&owner, new != NULL);
}

static void
capture(const Mapping *mapping, const TriggerData *trigger)
{
	TriggerEvent event = trigger->tg_event;
	const Watched *watched;
	TupleTableSlot *old = NULL;
	TupleTableSlot *new = NULL;

	if (TRIGGER_FIRED_FOR_ROW(event))
	{
		if (TRIGGER_FIRED_BY_INSERT(event))
			new = trigger->tg_trigslot;
		else
			old = trigger->tg_trigslot;
		if (TRIGGER_FIRED_BY_UPDATE(event))
			new = trigger->tg_newslot;
	}
	watched = mapping_watched(mapping, RelationGetRelid(trigger->tg_relation));
	if (mapping->problem != NULL)
		capture_broken(mapping, trigger, old, new);
	else if (watched == NULL)
		return;
	else if (TRIGGER_FIRED_BY_TRUNCATE(event))
	{
		if (watched->is_member_table)
			outbox_delete_all(mapping);
		else
			truncate_related(mapping, watched);
	}
	else if (watched->is_member_table)
		capture_member(mapping, watched, old, new);
	else
		capture_related(mapping, watched, old, new);
}

/* SQL: trigger ekksync.capture() */
Datum
ekksync_capture(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	const Mapping *mapping;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg(
					 "ekksync.capture must be called as an AFTER trigger")));
	mapping = mapping_get();
	if (mapping != NULL && mapping->queue_table != NULL)
		capture(mapping, trigger);
	else if (mapping != NULL)
		ereport(WARNING, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						  errmsg("a change was not queued for ekksync"),
						  errdetail("%s.", mapping->problem)));
	return PointerGetDatum(NULL);
}
