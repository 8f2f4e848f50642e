/*
 * backfill.c
 *		A backfill works on all members, a repair on those that differ: which
 *		those are, and how far it has come.
 *
 * All else is done as in any run: read, merged, applied, pushed and settled.
 *
 * May not know: SQL, HTTP, how a field is decided.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "http.h"
#include "rows.h"
#include "settings.h"
#include "store.h"
#include "sync.h"
#include "waits.h"

/* How often the keys of the rows are asked for, where their table is locked. */
#define MAX_ROUNDS 6

bool
backfill_is_asked(const RunOptions *opt)
{
	return opt->backfill || opt->take != CHOICE_NONE;
}

/* Can documents that PostgreSQL does not know become members? */
static bool
takes_strangers(const Run *run)
{
	return run->opt.pull && settings.on_remote_create == REMOTE_CREATE_INSERT;
}

/* A row need not be a member that we know: triggers may have been off. */
static void
list_rows(Run *run)
{
	List *keys = rows_keys(run->map, NULL, EKKSYNC_READ_PAGE, run->page_cxt);

	while (keys != NIL)
	{
		CHECK_FOR_INTERRUPTS();
		store_backlog_add(run->id, keys);
		keys =
			rows_keys(run->map, llast(keys), EKKSYNC_READ_PAGE, run->page_cxt);
	}
}

/* In one transaction, so that what is left of a list is what is left to do. */
static void
list_work(void *arg)
{
	Run *run = arg;

	store_backlog_tidy();
	run->backlog =
		run->opt.backfill ? store_backlog_open(sync_direction(&run->opt)) : 0;
	if (run->backlog != 0)
		return;
	run->backlog = run->id;
	if (!run->opt.backfill)
	{
		store_backlog_differing(run->id, takes_strangers(run));
		return;
	}
	store_backlog_members(run->id, takes_strangers(run));
	list_rows(run);
}

void
backfill_list(Run *run)
{
	int round = 0;
	ErrorData *error;

	for (;;)
	{
		MemoryContextReset(run->page_cxt);
		MemoryContextSwitchTo(run->page_cxt);
		error = tx_guarded(list_work, run, true);
		if (error == NULL)
			break;
		if (!error_is_passing(error->sqlerrcode) || ++round == MAX_ROUNDS)
			ReThrowError(error);
		http_sleep(50 << round, wait_event(WAIT_ROWS));
	}
}

void
backfill_done(Run *run, const char *key, List *left)
{
	if (run->backlog == 0 || run->opt.dry_run)
		return;
	tx_begin();
	store_backlog_done(run->backlog, key);
	if (run->opt.backfill && left != NIL)
		store_touch(left);
	tx_commit();
}

/* A dry run keeps what a backfill has left. */
void
backfill_end(Run *run)
{
	if (run->backlog == 0 || (run->opt.dry_run && run->backlog != run->id))
		return;
	tx_begin();
	store_backlog_end(run->backlog);
	tx_commit();
}
