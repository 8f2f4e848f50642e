/*
 * look.h
 *		What the functions that show have in common.
 */
#ifndef EKKSYNC_LOOK_H
#define EKKSYNC_LOOK_H

#include "fmgr.h"

#include "firestore.h"
#include "mapping.h"

/*
 * A Firestore client for one statement of a session, with the session's
 * settings and few retries; lives in cxt.  Throws when no project is set.
 */
extern FsClient *look_client(MemoryContext cxt);

/* Error 42501 unless the caller may select from the queue table. */
extern void look_check_queue(const Mapping *map);

/*
 * Add what a query over the queue (%s in the format) returns, as its owner, to
 * the result set of the calling function.  Nothing when there is no queue;
 * error 42501 unless the caller may select from it.
 */
extern void look_return_queue(FunctionCallInfo fcinfo, const char *format,
							  int nargs, Oid *types, Datum *args,
							  const char *nulls);

/* A kennitala given to a function, without its hyphen; palloc'd.  22023. */
extern char *look_key(const text *arg);

/* What Firestore's clock being ahead by skew (microseconds) means for ours. */
extern char *clock_text(int64 skew);

#endif /* EKKSYNC_LOOK_H */
