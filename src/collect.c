/*
 * collect.c
 *		Forgets members that were deleted long ago: the end of a run.
 *
 * A tombstone says that an edit which comes late is one of a member that was
 * deleted.  It goes after ekksync.tombstone_days, when nothing older can come
 * any more: no entry, queue row, conflict or write of the member is open.
 *
 * May not know: SQL, HTTP, how a member is decided.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "queue.h"
#include "run.h"
#include "settings.h"
#include "store.h"

/* So many are looked at in one transaction. */
#define COLLECT_PAGE 1000

/* Forget those of the keys that have no pending row; how many? */
static int
collect_page(Run *run, List *keys)
{
	char **unqueued = palloc(sizeof(char *) * list_length(keys));
	List *open = queue_pending_among(run->map, keys, run->page_cxt);
	int n = 0;
	ListCell *lc;
	ListCell *lc2;

	foreach (lc, keys)
	{
		bool is_open = false;

		foreach (lc2, open)
			is_open = is_open || strcmp(lfirst(lc), lfirst(lc2)) == 0;
		if (!is_open)
			unqueued[n++] = lfirst(lc);
	}
	if (n > 0)
		store_collect(unqueued, n);
	return n;
}

int64
collect_tombstones(Run *run)
{
	char *after = NULL;
	int64 count = 0;
	List *keys;

	if (settings.tombstone_days == 0)
		return 0;
	do
	{
		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(run->page_cxt);
		MemoryContextSwitchTo(run->page_cxt);
		tx_begin();
		keys = store_old_tombstones(after, COLLECT_PAGE, run->page_cxt);
		MemoryContextSwitchTo(run->page_cxt);
		if (keys != NIL)
		{
			after = MemoryContextStrdup(run->cxt, llast(keys));
			count += collect_page(run, keys);
		}
		tx_commit();
	} while (keys != NIL);
	return count;
}
