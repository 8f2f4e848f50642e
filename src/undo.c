/*
 * undo.c
 *		ekksync_undo: takes back what a run wrote, where nobody has changed it
 *		since.
 *
 * What is to be taken back is in the change log.  Firestore is asked, in the
 * calling statement and before any row is locked, whether its documents still
 * hold what the run left there.  Then rows get their old values, as edits that
 * the triggers capture: the next run sends them.
 *
 * May not know: how a run works.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

#include "edit.h"
#include "look.h"
#include "scope.h"
#include "srf.h"
#include "sync.h"
#include "trail.h"

PG_FUNCTION_INFO_V1(ekksync_undo);

/* Members whose rows are locked and written together. */
#define UNDO_PAGE 100

typedef struct UndoField
{
	const TrailChange *change;
	int f;			  /* index into the mapping, -1: not mapped */
	bool in_document; /* the document holds the run's value */
	char *value;	  /* to be written: canonical; NULL: none */
	const char *outcome;
} UndoField;

typedef struct UndoMember
{
	Member member;
	List *fields; /* UndoField, by field and side */
} UndoMember;

typedef struct Undo
{
	const Mapping *map;
	bool dry_run;
	int n;
	UndoMember *members;

	/* of the page that is worked on */
	UndoMember *page;
	int npage;
} Undo;

/* ---- what the run did ---- */

static void
check_run(int64 id)
{
	TrailRun run;

	if (!trail_run(id, &run))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("run " INT64_FORMAT " does not exist", id),
						errhint("See the view ekksync_runs.")));
	if (run.dry_run)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("run " INT64_FORMAT " was a dry run", id),
						errdetail("There is nothing to take back.")));
	if (run.running)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("run " INT64_FORMAT " has not ended", id),
				 errdetail("Its worker ended before it was over."),
				 errhint("The next run goes on where it stood, and records "
						 "what became of it.")));
}

static void
run_in_progress(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE), errmsg("a run is in progress"),
			 errhint("Try again when it is over: see ekksync_runs.")));
}

/* The members that the run wrote, by key. */
static void
read_changes(Undo *undo, int64 run)
{
	List *changes = trail_changes(run);
	ListCell *lc;

	undo->members = palloc0(sizeof(UndoMember) * (list_length(changes) + 1));
	foreach (lc, changes)
	{
		TrailChange *change = lfirst(lc);
		UndoField *field = palloc0(sizeof(UndoField));

		if (!change->created &&
			strcmp(change->old_value, change->new_value) == 0)
			continue;
		field->change = change;
		field->f = mapping_find(undo->map, change->field);
		if (undo->n == 0 ||
			strcmp(undo->members[undo->n - 1].member.key, change->key) != 0)
			undo->members[undo->n++].member.key = change->key;
		undo->members[undo->n - 1].fields =
			lappend(undo->members[undo->n - 1].fields, field);
	}
}

/* ---- Firestore ---- */

/* Which of a member's values does its document hold? */
static void
look_at_document(const Undo *undo, UndoMember *um, const FsDoc *doc)
{
	ListCell *lc;

	foreach (lc, um->fields)
	{
		UndoField *uf = lfirst(lc);
		const Field *field;
		const cJSON *value = NULL;
		char *canon;

		if (uf->f < 0 || doc->missing)
			continue;
		field = &undo->map->fields[uf->f];
		if (field->problem != NULL)
			continue;
		if (doc->fields != NULL)
			value = path_find(doc->fields, &field->path);
		canon = value_decode(&field->codec, value, NULL);
		uf->in_document =
			canon != NULL && strcmp(canon, uf->change->new_value) == 0;
	}
}

/* Read the documents of n members. */
static void
read_documents(Undo *undo, FsClient *client, UndoMember *members, int n)
{
	const Mapping *map = undo->map;
	const FieldPath **mask = palloc(sizeof(FieldPath *) * (map->nfields + 1));
	char **keys = palloc(sizeof(char *) * n);
	FsDoc *docs = palloc0(sizeof(FsDoc) * n);
	int nmask = 0;
	FsError err;
	int i;

	for (i = 0; i < map->nfields; i++)
		if (map->fields[i].path.nsegments > 0)
			mask[nmask++] = &map->fields[i].path;
	for (i = 0; i < n; i++)
		keys[i] = members[i].member.key;
	if (!fs_get(client, "members", keys, n, mask, nmask, docs, NULL, &err))
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_EXCEPTION),
				 errmsg("could not read the documents: %s", err.message)));
	for (i = 0; i < n; i++)
		look_at_document(undo, &members[i], &docs[i]);
}

/* A page's documents go with it; what is known of them stays. */
static void
read_all_documents(Undo *undo)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext cxt =
		AllocSetContextCreate(caller, "ekksync undo", ALLOCSET_DEFAULT_SIZES);
	FsClient *client = undo->n > 0 ? look_client(caller) : NULL;
	int done;

	MemoryContextSwitchTo(cxt);
	for (done = 0; done < undo->n; done += EKKSYNC_MEMBER_PAGE)
	{
		read_documents(undo, client, undo->members + done,
					   Min(EKKSYNC_MEMBER_PAGE, undo->n - done));
		MemoryContextReset(cxt);
		CHECK_FOR_INTERRUPTS();
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(cxt);
}

/* ---- what is taken back ---- */

/* Why a member's value cannot be taken back; NULL: it can. */
static const char *
what_hinders(const Undo *undo, const Member *m, UndoField *uf)
{
	const Field *field;
	SyncError err = {0};

	if (uf->f < 0)
		return "not writable: the field is not mapped";
	field = &undo->map->fields[uf->f];
	if (field->problem != NULL)
		return psprintf("not writable: %s", field->problem);
	if (!edit_is_writable(field))
		return "not writable";
	if (uf->change->filled)
		return "filled in where nothing was";
	if (m->nrows == 0)
		return "member not found";
	if (m->nrows > 1)
		return psprintf("refused: kennitala is held by %d rows", m->nrows);
	if (m->local[uf->f] == NULL ||
		strcmp(m->local[uf->f], uf->change->new_value) != 0)
		return "changed since in Django";
	if (!uf->in_document)
		return "changed since in Firestore";
	uf->value = edit_value(field, uf->change->old_value, &err);
	if (uf->value == NULL)
		return psprintf("refused: %s",
						err.message ? err.message : "the value does not fit");
	return NULL;
}

/* Is this field taken back already, with what the row itself had? */
static bool
is_taken_back(const int *fields, int n, int f)
{
	int i;

	for (i = 0; i < n; i++)
		if (fields[i] == f)
			return true;
	return false;
}

/*
 * Where the run wrote both sides, the row's own old value comes first (by the
 * name of the side), and is the one that counts.
 */
static void
undo_member(const Undo *undo, UndoMember *um)
{
	int *fields = palloc(sizeof(int) * list_length(um->fields));
	char **values = palloc(sizeof(char *) * list_length(um->fields));
	int n = 0;
	ListCell *lc;

	foreach (lc, um->fields)
	{
		UndoField *uf = lfirst(lc);

		uf->outcome = uf->change->created
						  ? "the document was created by this run"
						  : what_hinders(undo, &um->member, uf);
		if (uf->outcome != NULL)
			continue;
		uf->outcome = undo->dry_run ? "would be undone" : "undone";
		if (is_taken_back(fields, n, uf->f))
			continue;
		fields[n] = uf->f;
		values[n++] = uf->value;
	}
	if (n > 0 && !undo->dry_run)
		edit_write(undo->map, &um->member, fields, values, n);
}

/* The page that undo->page is, in a subtransaction. */
static void
undo_work(void *arg)
{
	Undo *undo = arg;
	Member **members = palloc(sizeof(Member *) * undo->npage);
	int i;

	for (i = 0; i < undo->npage; i++)
		members[i] = &undo->page[i].member;
	edit_read(undo->map, members, undo->npage, !undo->dry_run);
	for (i = 0; i < undo->npage; i++)
		undo_member(undo, &undo->page[i]);
}

/* Nothing of the member is taken back. */
static void
refuse_member(UndoMember *um, const ErrorData *error)
{
	ListCell *lc;

	foreach (lc, um->fields)
	{
		UndoField *uf = lfirst(lc);

		uf->outcome = psprintf("refused: %s", clip_message(error->message));
	}
}

/* Members together, or, if one of them is refused, each on its own. */
static void
undo_page(Undo *undo, UndoMember *members, int n)
{
	ErrorData *error;
	int i;

	undo->page = members;
	undo->npage = n;
	error = sql_guarded_error(undo_work, undo);
	if (error == NULL)
		return;
	if (n == 1)
	{
		refuse_member(members, error);
		return;
	}
	for (i = 0; i < n; i++)
		undo_page(undo, members + i, 1);
}

/* ---- results ---- */

static void
put_row(Tuplestorestate *store, TupleDesc desc, const TrailChange *change,
		const char *outcome)
{
	Datum values[6] = {0};
	bool isnull[6] = {false};
	bool whole = change->created;

	values[0] = CStringGetTextDatum(change->key);
	values[1] = CStringGetTextDatum(change->side);
	isnull[2] = isnull[3] = isnull[4] = whole;
	if (!whole)
	{
		values[2] = CStringGetTextDatum(change->field);
		values[3] =
			DirectFunctionCall1(jsonb_in, CStringGetDatum(change->old_value));
		values[4] =
			DirectFunctionCall1(jsonb_in, CStringGetDatum(change->new_value));
	}
	values[5] = CStringGetTextDatum(outcome);
	tuplestore_putvalues(store, desc, values, isnull);
}

/* A document that was created is one row, whatever it was given. */
static void
put_member(Tuplestorestate *store, TupleDesc desc, const UndoMember *um)
{
	bool created = false;
	ListCell *lc;

	foreach (lc, um->fields)
	{
		UndoField *uf = lfirst(lc);

		if (!(uf->change->created && created))
			put_row(store, desc, uf->change, uf->outcome);
		created = created || uf->change->created;
	}
}

/*
 * ekksync_undo(run, dry_run)
 */
Datum
ekksync_undo(PG_FUNCTION_ARGS)
{
	Undo undo = {0};
	TupleDesc desc;
	Tuplestorestate *store;
	int done;
	int i;

	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("run must not be null"),
						errhint("See the view ekksync_runs.")));
	undo.dry_run = !PG_ARGISNULL(1) && PG_GETARG_BOOL(1);
	if (!undo.dry_run)
		PreventCommandIfReadOnly("ekksync_undo()");
	store = srf_begin(fcinfo, &desc);
	undo.map = edit_mapping();
	edit_require_role(undo.map, "ekksync_undo");
	if (sync_is_running())
		run_in_progress();
	check_run(PG_GETARG_INT64(0));
	read_changes(&undo, PG_GETARG_INT64(0));
	read_all_documents(&undo);
	if (!undo.dry_run)
		edit_check_deferred();
	if (!undo.dry_run && !sync_lock_xact())
		run_in_progress();
	for (done = 0; done < undo.n; done += UNDO_PAGE)
	{
		undo_page(&undo, undo.members + done, Min(UNDO_PAGE, undo.n - done));
		CHECK_FOR_INTERRUPTS();
	}
	for (i = 0; i < undo.n; i++)
		put_member(store, desc, &undo.members[i]);
	return (Datum) 0;
}
