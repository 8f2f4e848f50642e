/*
 * guard.c
 *		The guard against mass damage: stops a run that would delete a large
 *		part of the members, or create their documents again.
 *
 * Members whose rows are gone are counted before anything is written: those
 * that the queue says were deleted, and those that went without a word.  That
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

/* How many of the keys have no row, though no queue row says why. */
static int64
count_vanished(Run *run, List *keys)
{
	int n = list_length(keys);
	Member *members = palloc0(sizeof(Member) * n);
	Member **all = palloc(sizeof(Member *) * n);
	char **unannounced = palloc(sizeof(char *) * n);
	int nunannounced = 0;
	int i;

	for (i = 0; i < n; i++)
	{
		members[i].key = list_nth(keys, i);
		all[i] = &members[i];
	}
	queue_read_pending(run->map, all, n, run->page_cxt);
	for (i = 0; i < n; i++)
		if (!decide_has_delete(all[i]))
			unannounced[nunannounced++] = all[i]->key;
	return rows_missing(run->map, unannounced, nunannounced);
}

/* Count the members whose rows are gone, before the first one is written. */
void
guard_members(Run *run)
{
	char *after = NULL;
	List *keys;
	int64 gone;

	if (!is_watched(run))
		return;
	tx_begin();
	gone = queue_count_deletes(run->map);
	tx_commit();
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(run->page_cxt);
		MemoryContextSwitchTo(run->page_cxt);
		tx_begin();
		keys = store_synced_keys(after, KEY_PAGE, run->page_cxt);
		if (keys != NIL)
			gone += count_vanished(run, keys);
		tx_commit();
		if (keys == NIL)
			break;
		if (after != NULL)
			pfree(after);
		after = MemoryContextStrdup(run->cxt, llast(keys));
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
