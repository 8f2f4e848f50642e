/*
 * sync.h
 *		One run, from its start to its record.
 */
#ifndef EKKSYNC_SYNC_H
#define EKKSYNC_SYNC_H

#include "run.h"

/*
 * Perform one run in this process, which must be a background worker that is
 * connected as the member table's owner and in no transaction.  *run_id is
 * set as soon as the run has a number, through the callback too (which may be
 * NULL).  Returns whether the run succeeded; its record says the rest.
 * Throws only what comes before the run has a number (nothing attached,
 * paused, no project set ...).
 */
extern bool sync_run(const RunOptions *options, int64 *run_id,
					 void (*started) (int64 run_id));

/*
 * Take the lock that allows one run in a database, until the end of the
 * process; false if another run has it.  It is no lock of a transaction.
 */
extern bool sync_lock(void);

/* Wait until no run has the lock. */
extern void sync_wait(void);

/* Throw the error that a run would meet before it starts, if any. */
extern void sync_preflight(void);

#endif							/* EKKSYNC_SYNC_H */
