/*
 * progress.h
 *		How far a run is: its phases, what each has done and what it took.
 */
#ifndef EKKSYNC_PROGRESS_H
#define EKKSYNC_PROGRESS_H

#include "run.h"

typedef struct RunPhase RunPhase;

/*
 * A phase begins, and the one before it ends; nothing happens where it is the
 * present one.  name must live as long as the run.  total: how much there is
 * to do in it, -1 where that is not known.  The run has its Firestore client.
 */
extern void progress_phase(Run *run, const char *name, int64 total);

/* It has turned out how much there is to do in the present phase. */
extern void progress_total(Run *run, int64 total);

/* n more are done in the present phase. */
extern void progress_done(Run *run, int64 n);

/* The present phase; and, of a run that is stopped, the one it was in. */
extern const char *progress_name(const Run *run);
extern const char *progress_last_work(const Run *run);

/* The present phase in words, for pg_stat_activity; palloc'd. */
extern char *progress_activity(const Run *run);

/* All phases so far, as JSON for the run's record; palloc'd. */
extern char *progress_json(Run *run);

#endif /* EKKSYNC_PROGRESS_H */
