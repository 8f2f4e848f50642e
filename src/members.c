/*
 * members.c
 *		Which members a run works on, batch by batch: those that have something
 *		to do, in the order of their keys, all of them counted first where the
 *		mass guard wants that, and no more than the day's reads allow.
 *
 * May not know: SQL, curl, how a member is read, decided or written.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "queue.h"
#include "settings.h"
#include "store.h"
#include "sync.h"

List *
merge_keys(List *a, List *b, int limit)
{
	List *result = NIL;
	int i = 0;
	int j = 0;

	while (list_length(result) < limit &&
		   (i < list_length(a) || j < list_length(b)))
	{
		int cmp = i >= list_length(a) ? 1
				  : j >= list_length(b)
					  ? -1
					  : strcmp(list_nth(a, i), list_nth(b, j));

		result = lappend(result, cmp <= 0 ? list_nth(a, i) : list_nth(b, j));
		if (cmp <= 0)
			i++;
		if (cmp >= 0)
			j++;
	}
	return result;
}

static int
compare_keys(const ListCell *a, const ListCell *b)
{
	return strcmp(lfirst(a), lfirst(b));
}

/* How many members may be read together. */
static int
batch_limit(const Run *run)
{
	return (int) Max(Min(EKKSYNC_MEMBER_PAGE, fs_reads_left(run->fs)), 1);
}

/* Add keys that a list has, in order, to a list of at most limit. */
static void
add_keys(List **keys, List *more, int limit)
{
	*keys = merge_keys(*keys, more, limit);
}

/*
 * The keys of the next batch: all that have something to do, in order.  Those
 * behind one that has too much to be read at once (upto) have another turn.
 */
static List *
next_keys(Run *run, const char *after, int limit)
{
	MemoryContext cxt = run->page_cxt;
	char *upto = NULL;
	List *keys = NIL;
	int i;

	if (run->backlog != 0)
	{
		tx_begin();
		keys = store_backlog_keys(run->backlog, after, limit, cxt);
		tx_commit();
		return keys;
	}
	if (run->opt.nonly >= 0)
	{
		for (i = 0; i < run->opt.nonly; i++)
			if (after == NULL || strcmp(run->opt.only[i], after) > 0)
				keys = lappend(keys, run->opt.only[i]);
		list_sort(keys, compare_keys);
		return merge_keys(keys, NIL, limit);
	}
	tx_begin();
	keys = queue_pending_keys(run->map, after, limit, &upto, cxt);
	add_keys(&keys, store_due_keys(after, limit, run->anew, cxt), limit);
	add_keys(&keys, store_touched_keys(after, limit, cxt), limit);
	if (run->opt.pull)
		add_keys(&keys, store_inbox_keys(after, limit, &upto, cxt), limit);
	if (run->opt.pull && settings.on_remote_create == REMOTE_CREATE_INSERT)
		add_keys(&keys, store_stranger_keys(after, limit, cxt), limit);
	while (upto != NULL && keys != NIL && strcmp(llast(keys), upto) > 0)
		keys = list_truncate(keys, list_length(keys) - 1);
	MemoryContextSwitchTo(cxt);
	keys = list_copy(keys);
	tx_commit();
	return keys;
}

/*
 * Begin the next batch: its keys, at most limit, in its memory context, NIL if
 * there is none.  *after, NULL at first, is the last one.
 */
static List *
next_batch(Run *run, int limit, char **after)
{
	List *keys;

	CHECK_FOR_INTERRUPTS();
	MemoryContextReset(run->page_cxt);
	MemoryContextSwitchTo(run->page_cxt);
	keys = next_keys(run, *after, limit);
	if (*after != NULL)
		pfree(*after);
	*after = keys == NIL ? NULL : MemoryContextStrdup(run->cxt, llast(keys));
	return keys;
}

/* How many members have something to do? */
static int64
count_members(Run *run)
{
	char *after = NULL;
	List *keys;
	int64 n = 0;

	while ((keys = next_batch(run, EKKSYNC_MEMBER_PAGE, &after)) != NIL)
		n += list_length(keys);
	return n;
}

/*
 * Do all of these n have to be looked at before the first is written, for the
 * mass guard?  Not where one batch is all, or nobody could be too many.
 */
static bool
needs_survey(Run *run, int64 n)
{
	if (!guard_watches(run))
		return false;
	return n > EKKSYNC_MEMBER_PAGE && guard_is_too_many(run, n);
}

/*
 * How many members may be looked at next, so that all of them can be worked on
 * with what is left of the day's reads: those before take this many.
 */
static int
survey_room(const Run *run, int64 before)
{
	int64 left = fs_reads_left(run->fs);

	return left <= before
			   ? 0
			   : (int) Min(EKKSYNC_MEMBER_PAGE, (left - before) / 2);
}

/*
 * Look at all members, or at as many as can be looked at and worked on today.
 * Should some not be readable, for a lock, all are left for the next run, and
 * this is false: nobody is written uncounted.
 */
static bool
survey(Run *run)
{
	int64 reads = fs_reads_left(run->fs);
	char *after = NULL;
	int64 n = 0;
	bool readable = true;

	for (;;)
	{
		int64 cost = Max(n, reads - fs_reads_left(run->fs));
		int room = survey_room(run, cost);
		List *keys = room > 0 ? next_batch(run, room, &after) : NIL;
		int size = list_length(keys);

		if (keys == NIL)
			break;
		n += size;
		readable = readable && batch_survey(run, keys);
		run_progress(run, size);
	}
	if (readable)
		guard_survey_end(run);
	else
		run->figures.left += n;
	return readable;
}

/*
 * Is less than two batches' worth left of the day's reads, and these n do not
 * fit?  Then it is for one batch alone, which is counted before it is written.
 */
static bool
is_for_one_batch(const Run *run, int64 n)
{
	int64 left = fs_reads_left(run->fs);

	return left / 2 < n && left / 2 < EKKSYNC_MEMBER_PAGE;
}


bool
members_work(Run *run)
{
	int64 n = count_members(run);
	int64 batches = PG_INT64_MAX;
	char *after = NULL;
	List *keys;

	if (needs_survey(run, n))
	{
		if (is_for_one_batch(run, n))
			batches = 1;
		else
		{
			run_phase(run, "survey", n);
			if (!survey(run))
				return false;
		}
	}
	run_phase(run, "members", n);
	while ((keys = next_batch(run, batch_limit(run), &after)) != NIL)
	{
		int size = list_length(keys);

		run->reads_gone =
			run->reads_gone || batches-- == 0 || fs_reads_left(run->fs) == 0;
		if (run->reads_gone)
			return false;
		keys = batch_run(run, keys);
		if (run->reads_gone)
			return false; /* amid the batch: it stays on the list */
		backfill_done(run, after, keys);
		run_progress(run, size);
	}
	return true;
}
