/*
 * batch.c
 *		One batch of members: read both sides, decide, apply, push; and again
 *		for those under whom the world moved.
 *
 * May not know: SQL, curl, how a field is decided.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "http.h"
#include "queue.h"
#include "rows.h"
#include "run.h"
#include "scope.h"
#include "sqlvalue.h"
#include "steps.h"
#include "store.h"
#include "waits.h"

/* How often a member is read again when the world moves under it. */
#define MAX_ROUNDS 6

/* So many queue rows are settled, and locked, in one transaction. */
#define SLICE_ROWS 100

Datum
member_keys(Member **members, int n)
{
	char **keys = palloc(sizeof(char *) * (n + 1));
	int i;

	for (i = 0; i < n; i++)
		keys[i] = members[i]->key;
	return sql_text_array(keys, n);
}

int
batch_slice(Member **members, int n)
{
	int rows = 0;
	int i;

	for (i = 0; i < n; i++)
	{
		rows += list_length(members[i]->pending);
		if (i > 0 && rows > SLICE_ROWS)
			break;
	}
	return i;
}

/* Members of these keys, empty. */
static void
new_batch(Run *run, Batch *batch, List *keys)
{
	ListCell *lc;

	batch->n = 0;
	batch->members = palloc0(sizeof(Member) * (list_length(keys) + 1));
	foreach (lc, keys)
	{
		Member *m = &batch->members[batch->n++];

		m->key = lfirst(lc);
		m->base = palloc0(sizeof(BaseValue) * run->map->nfields);
	}
}

static Member **
batch_members(Batch *batch)
{
	Member **members = palloc(sizeof(Member *) * (batch->n + 1));
	int i;

	for (i = 0; i < batch->n; i++)
		members[i] = &batch->members[i];
	return members;
}

/*
 * Keys that changed rows moved to: old and new document are worked on
 * together, so that the old one is read before it may be deleted.
 */
static List *
moved_keys(Batch *batch, List *keys)
{
	List *more = NIL;
	ListCell *lc;
	ListCell *lc2;
	int i;

	for (i = 0; i < batch->n; i++)
		foreach (lc, batch->members[i].pending)
		{
			char *to = ((PendingRow *) lfirst(lc))->moved_to;
			bool there = to == NULL || strlen(to) != 10;

			foreach (lc2, keys)
				there = there || strcmp(lfirst(lc2), to) == 0;
			foreach (lc2, more)
				there = there || strcmp(lfirst(lc2), to) == 0;
			if (!there)
				more = lappend(more, to);
		}
	return more;
}

/* Which members' keys were changed to one that has a row in the batch? */
static void
note_moved(Batch *batch)
{
	ListCell *lc;
	int i;
	int j;

	for (i = 0; i < batch->n; i++)
		foreach (lc, batch->members[i].pending)
		{
			char *to = ((PendingRow *) lfirst(lc))->moved_to;

			for (j = 0; j < batch->n && to != NULL; j++)
				if (strcmp(batch->members[j].key, to) == 0 &&
					batch->members[j].nrows == 1)
					batch->members[i].moved = true;
		}
}

/* What read_rows does in a subtransaction. */
typedef struct RowsRead
{
	Run *run;
	Member **members;
	int n;
} RowsRead;

static void
read_rows_work(void *arg)
{
	RowsRead *r = arg;

	rows_read(r->run->map, r->members, r->n, r->run->page_cxt);
}

/* Does the mapping no longer fit the tables?  Then nobody can be read. */
static bool
cannot_read_anybody(Run *run)
{
	Member nobody = {.key = "nobody has this key"};
	Member *member = &nobody;
	RowsRead none = {run, &member, 1};

	return sql_guarded_error(read_rows_work, &none) != NULL;
}

bool
batch_is_unreadable(Run *run)
{
	bool unreadable;

	tx_begin();
	unreadable = cannot_read_anybody(run);
	tx_commit();
	return unreadable;
}

/*
 * Values of the members' rows.  Should the reading fail (a computing function
 * may), they are read one by one, and only those that cannot be read have a
 * problem.  An error that passes, or that says something about all, is thrown
 * again.
 */
static void
read_rows(Run *run, Member **members, int n)
{
	RowsRead all = {run, members, n};
	ErrorData *error = sql_guarded_error(read_rows_work, &all);
	int failed = 0;
	int i;

	if (error == NULL)
		return;
	for (i = 0; i < n && !error_is_passing(error->sqlerrcode) &&
				!error_ends_run(error->sqlerrcode);
		 i++)
	{
		RowsRead one = {run, &members[i], 1};
		ErrorData *why = sql_guarded_error(read_rows_work, &one);

		if (why == NULL)
			continue;
		members[i]->unreadable =
			MemoryContextStrdup(run->page_cxt, clip_message(why->message));
		error = why;
		failed++;
	}
	if (error_is_passing(error->sqlerrcode) ||
		error_ends_run(error->sqlerrcode) ||
		(failed == n && cannot_read_anybody(run)))
		ReThrowError(error);
}

/* What only some members need: pushed values, and times of old queue rows. */
static void
read_history(Run *run, Member **members, int n)
{
	Member **some = palloc(sizeof(Member *) * (n + 1));
	int nsome = 0;
	int i;

	for (i = 0; i < n; i++)
		if (members[i]->entries != NIL)
			some[nsome++] = members[i];
	if (nsome > 0)
		store_read_pushed(run->map, some, nsome, run->page_cxt);
	if (strcmp(run->map->initial, "newest") != 0)
		return;
	for (i = nsome = 0; i < n; i++)
		if (members[i]->first_contact)
			some[nsome++] = members[i];
	if (nsome > 0)
		queue_read_history(run->map, some, nsome, run->page_cxt);
}

/* What read_batch_work does. */
typedef struct BatchRead
{
	Run *run;
	Batch *batch;
	List *keys;
} BatchRead;

/*
 * Read PostgreSQL's side of a batch, as of one moment: a value that is seen
 * without the pending row of its change has no time.
 */
static void
read_batch_work(void *arg)
{
	BatchRead *work = arg;
	Run *run = work->run;
	Batch *batch = work->batch;
	MemoryContext cxt = run->page_cxt;
	Member **members;
	List *more;

	MemoryContextSwitchTo(cxt);
	new_batch(run, batch, work->keys);
	members = batch_members(batch);
	store_read_touched(members, batch->n, cxt);
	queue_read_pending(run->map, members, batch->n, cxt);
	run_tell_time(run);
	more = moved_keys(batch, work->keys);
	if (more != NIL)
	{
		new_batch(run, batch, list_concat_copy(work->keys, more));
		members = batch_members(batch);
		store_read_touched(members, batch->n, cxt);
		queue_read_pending(run->map, members, batch->n, cxt);
		run_tell_time(run);
	}
	queue_read_moves(run->map, members, batch->n, cxt);
	at_step(in_read);
	read_rows(run, members, batch->n);
	note_moved(batch);
	store_read_members(run->map, members, batch->n, run->anew, cxt);
	store_read_entries(members, batch->n, cxt);
	read_history(run, members, batch->n);
}

/* False when it has to be tried again: a table is locked, say. */
static bool
read_batch(Run *run, Batch *batch, List *keys)
{
	BatchRead work = {run, batch, keys};
	ErrorData *error = tx_guarded_look(read_batch_work, &work);

	if (error != NULL && !error_is_passing(error->sqlerrcode))
		ReThrowError(error);
	return error == NULL;
}

static void
decide_batch(Run *run, Batch *batch)
{
	int i;

	tx_begin();
	MemoryContextSwitchTo(run->page_cxt);
	for (i = 0; i < batch->n; i++)
	{
		decide_remote(run, &batch->members[i]);
		decide_member(run, &batch->members[i]);
		CHECK_FOR_INTERRUPTS();
	}
	tx_commit();
}

/*
 * Is there a member whose document was written after entries were read, and it
 * matters when?  Whoever wrote it may have said so in an entry since.  Where
 * entries are too many to be read each day, it stays unknown.
 */
static bool
wants_entries(const Run *run, const Batch *batch)
{
	int i;
	int f;

	if (run->stage_kept)
		return false;
	for (i = 0; i < batch->n; i++)
	{
		const Member *m = &batch->members[i];

		for (f = 0; f < run->map->nfields; f++)
			if (m->doc->update_time > run->staged_at &&
				m->result[f].rule == RULE_ORDER_UNKNOWN)
				return true;
	}
	return false;
}

/* Does a batch take more documents than are left of the day's reads? */
static bool
is_beyond_reads(const Run *run, const Batch *batch)
{
	int64 reads = batch->n;
	int i;

	for (i = 0; i < batch->n; i++)
		reads += batch->members[i].moved_from != NULL; /* the old document */
	return reads > fs_reads_left(run->fs);
}

/*
 * One try of a batch; returns the keys that have to be tried again.  Of one
 * that goes beyond the day's reads, half is left for another day.
 */
static List *
try_batch(Run *run, List *keys)
{
	List *again = NIL;
	Batch batch;
	int i;

	if (!read_batch(run, &batch, keys))
		return keys;
	if (list_length(keys) > 1 && is_beyond_reads(run, &batch))
	{
		run->reads_gone = true;
		return try_batch(run, list_truncate(list_copy(keys),
											list_length(keys) / 2));
	}
	at_step(read);
	pull_documents(run, &batch);
	at_step(documents);
	decide_batch(run, &batch);
	at_step(decided);
	if (run->opt.pull && wants_entries(run, &batch))
	{
		pull_entries(run, false);
		return keys;
	}
	if (run->opt.dry_run)
	{
		plan_batch(run, &batch);
		return NIL;
	}
	guard_batch(run, &batch);
	apply_batch(run, &batch);
	at_step(applied);
	guard_batch(run, &batch); /* rows may have moved under it */
	push_batch(run, &batch);
	guard_add(run, &batch, batch.n);
	for (i = 0; i < batch.n; i++)
		if (batch.members[i].again)
			again = lappend(again, batch.members[i].key);
	return again;
}

/*
 * Work on members until they are done, or the world moves on too fast: then
 * they are left for the next run.  keys may live in the batch's context.
 */
List *
batch_run(Run *run, List *keys)
{
	MemoryContext key_cxt =
		AllocSetContextCreate(run->cxt, "ekksync keys", ALLOCSET_SMALL_SIZES);
	List *left = NIL;
	int round;
	ListCell *lc;

	for (round = 0; keys != NIL && round < MAX_ROUNDS; round++)
	{
		List *copy = NIL;

		if (round > 0)
			http_sleep(50 << round, wait_event(WAIT_ROWS));
		MemoryContextSwitchTo(key_cxt);
		foreach (lc, keys)
			copy = lappend(copy, pstrdup(lfirst(lc)));
		MemoryContextReset(run->page_cxt);
		MemoryContextSwitchTo(run->page_cxt);
		keys = try_batch(run, copy);
	}
	run->figures.left += list_length(keys);
	MemoryContextSwitchTo(run->page_cxt);
	foreach (lc, keys)
		left = lappend(left, pstrdup(lfirst(lc)));
	MemoryContextSwitchTo(run->cxt);
	MemoryContextDelete(key_cxt);
	return left;
}

bool
batch_read(Run *run, Batch *batch, List *keys)
{
	int round = 0;

	while (!read_batch(run, batch, keys))
	{
		if (++round == MAX_ROUNDS)
			return false;
		http_sleep(50 << round, wait_event(WAIT_ROWS));
	}
	return true;
}

/* Keys that others moved to are not counted: their turn comes. */
bool
batch_survey(Run *run, List *keys)
{
	Batch batch;

	if (!batch_read(run, &batch, keys))
		return false;
	if (!guard_may_lose(run, &batch))
		return true;
	pull_documents(run, &batch);
	decide_batch(run, &batch);
	guard_add(run, &batch, list_length(keys));
	return true;
}
