/*
 * steps.h
 *		The named steps of a run, in their order.
 *
 * A test build (make STEPS=1) can be stopped at each of them, see steps.c; in
 * any other build they are nothing.  Whatever ends the run at a step, the next
 * run goes on: the tests take the list from here, so a new step is tried too.
 */
#ifndef EKKSYNC_STEPS_H
#define EKKSYNC_STEPS_H

/* clang-format off */

/* Those whose name begins with "in_" are inside a transaction. */
#define RUN_STEPS(step) \
	step(locked) /* the run lock is held, nothing is on record */ \
	step(numbered) /* the run is on record */ \
	step(fence_noted) /* the next document's token is committed */ \
	step(fence_sent) /* the fence's document is there, nobody knows */ \
	step(fenced) /* and is known to be */ \
	step(unstaged) /* staged entries of earlier runs are forgotten */ \
	step(staged) /* a page of entries is staged */ \
	step(scanned) /* a page of changed members is marked */ \
	step(in_read) /* a batch: the queue is read, rows are not */ \
	step(read) /* a batch: rows and queue are read */ \
	step(documents) /* a batch: documents are read */ \
	step(decided) /* a batch: it is decided what to do */ \
	step(in_values) /* rows are locked and read again, the queue is not yet */ \
	step(in_lock) /* it is */ \
	step(in_rows) /* values are written to the rows */ \
	step(in_record) /* base, notes and audit trail are written */ \
	step(applied) /* and committed; nothing is sent */ \
	step(sent) /* documents are written, nobody knows */ \
	step(in_settle) /* what came of it is written */ \
	step(settled) /* and committed */ \
	step(members) /* all batches are done, entries are open */ \
	step(closed) /* entries are closed in Firestore, nobody knows */ \
	step(known) /* and are known to be */ \
	step(in_clean) /* old rows are removed */ \
	step(cleaned) /* and that is committed */ \
	step(told) /* the run's document is complete */ \
	step(in_end) /* the run's record is closed, not committed */ \
	step(ended) /* and committed; the run lock is held */

/* clang-format on */

/* How long it may take until the launcher sees it, in ms. */
#define STEP_CLOCK_MS 10L

#ifdef EKKSYNC_STEPS
#include "datatype/timestamp.h"

#define RUN_STEP_ENUM(name) STEP_##name,

typedef enum RunStep
{
	RUN_STEPS(RUN_STEP_ENUM)
} RunStep;

/* The run has come to this step: wait here if a test says so. */
extern void step_reached(RunStep step);
#define at_step(name) step_reached(STEP_##name)

/* Is the worker to do another run, after it has ended one? */
extern bool step_again(void);

/* A time that a test has set for the launcher; false: there is none. */
extern bool step_clock(TimestampTz *now);
#else
#define at_step(name) ((void) 0)
#define step_again() false
#define step_clock(now) false
#endif

#endif /* EKKSYNC_STEPS_H */
