/*
 * tx.c
 *		The short transactions of a run.
 *
 * May not know: what is done in them.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/proc.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "capture.h"
#include "giveway.h"
#include "pg_compat.h"
#include "run.h"

/* How long is a moment, in ms. */
#define BRIEF_LOCK_WAIT 10

/* Per-process state: the memory context to return to after a transaction. */
static struct
{
	MemoryContext caller_cxt;
} tx_state;

static void
begin(int isolation)
{
	give_way();
	tx_state.caller_cxt = CurrentMemoryContext;
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	XactIsoLevel = isolation;
	PushActiveSnapshot(GetTransactionSnapshot());
}

void
tx_begin(void)
{
	begin(XACT_READ_COMMITTED);
}

/*
 * What the application has deferred (constraint triggers of its tables) runs
 * at the commit, outside sql_enter's scope: there, too, a change of the role
 * is refused.
 */
void
tx_commit(void)
{
	Oid user;
	int context;

	GetUserIdAndSecContext(&user, &context);
	PopActiveSnapshot();
	SetUserIdAndSecContext(user, context | SECURITY_LOCAL_USERID_CHANGE);
	CommitTransactionCommand();
	SetUserIdAndSecContext(user, context);
	compat_send_notifies();
	pgstat_report_stat(true);
	MemoryContextSwitchTo(tx_state.caller_cxt);
}

void
tx_wait_briefly(void)
{
	char *ms = psprintf("%d", Min(BRIEF_LOCK_WAIT, LockTimeout));

	(void) set_config_option("lock_timeout", ms, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
}

static ErrorData *
guarded(void (*work)(void *arg), void *arg, bool commit, int isolation)
{
	MemoryContext cxt = CurrentMemoryContext;
	ErrorData *volatile error = NULL;

	PG_TRY();
	{
		begin(isolation);
		work(arg);
		if (commit)
			tx_commit();
		else
			AbortCurrentTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(cxt);
		error = CopyErrorData();
		FlushErrorState();
		AbortCurrentTransaction();
		capture_expect_end();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(cxt);
	if (error != NULL && error_ends_run(error->sqlerrcode))
		ReThrowError(error);
	return error;
}

/*
 * Call work(arg) in a transaction of its own and commit it, or, with commit
 * false, undo it.  NULL, or the error it failed with, in the current memory
 * context; what ends a run is thrown again.
 */
ErrorData *
tx_guarded(void (*work)(void *arg), void *arg, bool commit)
{
	return guarded(work, arg, commit, XACT_READ_COMMITTED);
}

/* The same, for work that reads: all of it sees the same moment. */
ErrorData *
tx_guarded_look(void (*work)(void *arg), void *arg)
{
	return guarded(work, arg, true, XACT_REPEATABLE_READ);
}
