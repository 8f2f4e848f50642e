/*
 * waits.h
 *		What a process of the extension waits for, as pg_stat_activity shows
 *		it: wait events of our own since PostgreSQL 17, "Extension" before.
 */
#ifndef EKKSYNC_WAITS_H
#define EKKSYNC_WAITS_H

typedef enum WaitFor
{
	WAIT_FIRESTORE, /* an answer of Firestore */
	WAIT_TOKEN,		/* the server that gives access tokens */
	WAIT_RETRY,		/* the time to ask Firestore once more */
	WAIT_RATE,		/* leave to write more: ekksync.max_writes_per_second */
	WAIT_ROWS,		/* the time to try rows again that others have locked */
	WAIT_RUN,		/* a session: a run's worker */
	WAIT_STEP,		/* test builds: a test that has stopped the run */
	WAIT_KINDS
} WaitFor;

/* The wait event, for WaitLatch and its like.  In any process. */
extern uint32 wait_event(WaitFor what);

#endif /* EKKSYNC_WAITS_H */
