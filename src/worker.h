/*
 * worker.h
 *		Starting a run in a background worker, and waiting for it.
 */
#ifndef EKKSYNC_WORKER_H
#define EKKSYNC_WORKER_H

#include "run.h"

typedef enum WorkerOutcome
{
	WORKER_RUNNING, /* not waited for: the run has begun */
	WORKER_ENDED,	/* the run is over; its record says how */
	WORKER_BUSY,	/* another run is in progress, or runs are held
								 * off */
	WORKER_DIED		/* the worker ended without a word */
} WorkerOutcome;

/*
 * Start a run as role (an oid) in this database.  Waits until it has a number
 * or, with wait, until it is over; a cancel ends the wait, not the run.
 * *run_id is the run's number, of the other run if WORKER_BUSY (0: it has no
 * number yet, or there is none).  Throws the
 * error that kept the run from starting.
 */
extern WorkerOutcome worker_start(Oid role, const RunOptions *options,
								  bool wait, int64 *run_id);

/* Is this process a run's worker? */
extern bool worker_is_run(void);

/*
 * For a worker's process that is not connected yet: connect it to a database as
 * a role, both oids, for a run.  can_login: worker_role_can_login of it.
 */
extern void worker_connect(Oid database, Oid role, bool can_login);

/* Make a worker's session like all others, whatever database or role set. */
extern void worker_pin_settings(void);

/* May this role log in?  Must be called in a transaction. */
extern bool worker_role_can_login(Oid role);

#endif /* EKKSYNC_WORKER_H */
