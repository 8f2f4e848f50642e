/*
 * fence.h
 *		A run's document in sync_logs: fence at its start, record at its end.
 */
#ifndef EKKSYNC_FENCE_H
#define EKKSYNC_FENCE_H

#include "run.h"

/*
 * Check that the base belongs to this project, database and cluster, then
 * create the run's document.  Pauses and throws when another copy of us has
 * been here.
 */
extern void fence_raise(Run *run);

/*
 * Complete the run's document; error NULL: success.  Never throws for
 * Firestore's sake: the run's row says what happened in any case.
 */
extern void fence_lower(Run *run, const ErrorData *error);

#endif /* EKKSYNC_FENCE_H */
