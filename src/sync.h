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
					 void (*started)(int64 run_id));

/*
 * Take the lock that allows one run in a database, until the end of the
 * process; false if another run has it.  It is no lock of a transaction.
 */
extern bool sync_lock(void);

/* Let go of it before that. */
extern void sync_unlock(void);

/*
 * Keep runs from starting until the end of this transaction, which counts as
 * one that has written; false if a run is in progress.  Others may hold runs
 * off at the same time.
 */
extern bool sync_lock_xact(void);

/* Is a run in progress?  False when runs are only held off. */
extern bool sync_is_running(void);

/* Wait until no run has the lock and nobody holds runs off. */
extern void sync_wait(void);

/* Is it for some of the members, or of what a run does? */
extern bool sync_is_partial(const RunOptions *opt);

/* What a run is for: sync, observe, diff. */
extern const char *sync_mode(const RunOptions *opt);

/* Name of a run's direction: both, to_firestore, to_django. */
extern const char *sync_direction(const RunOptions *opt);

/* Throw the error that a run would meet before it starts, if any. */
extern void sync_preflight(bool dry_run);

#endif /* EKKSYNC_SYNC_H */
