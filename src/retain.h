/*
 * retain.h
 *		SQL over schema ekksync: what of it is older than it is to be kept.
 *
 * As store.h: as the extension's owner, in a transaction of the caller.
 */
#ifndef EKKSYNC_RETAIN_H
#define EKKSYNC_RETAIN_H

#include "run.h"

/*
 * Remove up to limit old entries, conflicts, rows of the change log or runs:
 * how many it were.
 */
extern int64 retain_remove(CleanKind kind, int limit);

/*
 * Take out of a list of ids (n of them, and their members' keys) those of
 * rows that runs still need: settled by hand and not looked at, or of members
 * that were never synced.  How many are left, first.
 */
extern int retain_unneeded(int64 *ids, char **keys, int n);

/* Up to limit entries whose documents are to go from sync_queue: their ids. */
extern List *retain_old_entries(int limit, MemoryContext cxt);

/* Documents of these entries are not there any more, or not to be removed. */
extern void retain_entries_gone(char **doc_ids, int n);

/*
 * The numbers of our documents in sync_logs that are to be removed: *from to
 * *upto; false if there are none.
 */
extern bool retain_old_logs(const char *uuid, int64 *from, int64 *upto);
extern void retain_logs_gone(int64 upto);

/* What was removed, into the run's record. */
extern void retain_record(const Run *run, const char *cleaned);

#endif /* EKKSYNC_RETAIN_H */
