/*
 * guard.c
 *		The guard against mass damage: stops a run that would delete a large
 *		part of the members, or create their documents again.
 *
 * Members whose rows are gone are counted before anything is written, whether
 * the queue says that they were deleted or they went without a word.  That
 * a document is gone shows when it is read: these are counted on the way, and
 * the run stops before the batch that is too much.
 *
 * May not know: SQL, HTTP.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "queue.h"
#include "rows.h"
#include "settings.h"
#include "store.h"

#define KEY_PAGE 5000

/* Does the guard watch this run? */
static bool
is_watched(const Run *run)
{
	return run->opt.push && !run->opt.dry_run && !run->opt.force;
}

/*
 * End the run if n are too many of the members, of whom gone have no row any
 * more; one is always let through.  what: what the run would do to them.
 */
static void
stop_if_too_many(Run *run, int64 n, int64 gone, const char *what)
{
	int64 members;

	if (n < 2)
		return;
	tx_begin();
	members = rows_count(run->map) + gone;
	tx_commit();
	if (n * 100 > members * settings.max_delete_percent)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("the run would %s " INT64_FORMAT " of " INT64_FORMAT
						" members",
						what, n, members),
				 errdetail("ekksync.max_delete_percent is %d.",
						   settings.max_delete_percent),
				 errhint("ekksync_run(dry_run => true) shows them; if they "
						 "are right, use ekksync_run(force => true).")));
}

/* Was the member's key changed?  Then its document moves, and is not lost. */
static bool
is_moved(const Member *m)
{
	ListCell *lc;

	foreach (lc, m->pending)
		if (((PendingRow *) lfirst(lc))->moved_to != NULL)
			return true;
	return false;
}

/* How many of the keys have no row any more. */
static int64
count_gone(Run *run, List *keys)
{
	int n = list_length(keys);
	Member *members = palloc0(sizeof(Member) * n);
	Member **all = palloc(sizeof(Member *) * n);
	char **lost = palloc(sizeof(char *) * n);
	int nlost = 0;
	int i;

	for (i = 0; i < n; i++)
	{
		members[i].key = list_nth(keys, i);
		all[i] = &members[i];
	}
	queue_read_pending(run->map, all, n, run->page_cxt);
	for (i = 0; i < n; i++)
		if (!is_moved(all[i]) && run_wants(run, all[i]->key))
			lost[nlost++] = all[i]->key;
	return rows_missing(run->map, lost, nlost);
}

/*
 * Count the members whose rows are gone, before the first one is written:
 * those that the queue says were deleted, and those that are due and have
 * been synced.
 */
void
guard_members(Run *run)
{
	char *after = NULL;
	List *keys;
	int64 gone = 0;

	if (!is_watched(run))
		return;
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(run->page_cxt);
		MemoryContextSwitchTo(run->page_cxt);
		tx_begin();
		keys = merge_keys(queue_delete_keys(run->map, after, KEY_PAGE,
											run->page_cxt),
						  store_synced_keys(after, KEY_PAGE, run->page_cxt),
						  KEY_PAGE);
		if (keys != NIL)
		{
			gone += count_gone(run, keys);
			after = MemoryContextStrdup(run->cxt, llast(keys));
		}
		tx_commit();
		if (keys == NIL)
			break;
	}
	stop_if_too_many(run, gone, gone, "delete");
}

/* Count the documents that are gone, before the batch is applied. */
void
guard_batch(Run *run, const Batch *batch)
{
	int64 before = run->recreates;
	int i;

	for (i = 0; i < batch->n; i++)
		if (batch->members[i].recreate)
			run->recreates++;
	if (is_watched(run) && run->recreates > before)
		stop_if_too_many(run, run->recreates, 0,
						 "create again the documents of");
}
