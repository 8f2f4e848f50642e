/*
 * queue.h
 *		SQL over the outbox (the application's queue table).
 *
 * All functions run as the mapping's owner role, inside a transaction of the
 * caller; results are palloc'd in cxt.
 */
#ifndef EKKSYNC_QUEUE_H
#define EKKSYNC_QUEUE_H

#include "run.h"

/*
 * Up to limit keys after the key "after" (NULL: from the start, where the
 * empty key of a missing kennitala stands), in C order, with pending rows.
 * Where these have too many rows to be read at once, it is fewer keys, and
 * *upto is the last of them.
 */
extern List *queue_pending_keys(const Mapping *map, const char *after,
								int limit, char **upto, MemoryContext cxt);

/* Those of the keys that have pending rows. */
extern List *queue_pending_among(const Mapping *map, List *keys,
								 MemoryContext cxt);

/*
 * Fill members' pending lists: rows that are pending now, and then (by_hand)
 * those of m->touched that are synced.
 */
extern void queue_read_pending(const Mapping *map, Member **members, int n,
							   MemoryContext cxt);

/* Fill members' failures with the rows that failed. */
extern void queue_read_failed(const Mapping *map, Member **members, int n,
							  MemoryContext cxt);

/* Fill members' history: the last queue row, of any status, of each field. */
extern void queue_read_history(const Mapping *map, Member **members, int n,
							   MemoryContext cxt);

/* Fill moved_from of members whose document is to be created. */
extern void queue_read_moves(const Mapping *map, Member **members, int n,
							 MemoryContext cxt);

/*
 * Settle rows by id: those with error NULL become synced, the others failed
 * with their error and one more retry.  Only rows that are still pending and
 * that nobody has locked: returns of how many members a row was locked.
 */
extern int64 queue_settle(const Mapping *map, int64 *ids, char **errors,
						  int n);

/* Rows that are synced become pending again. */
extern void queue_requeue(const Mapping *map, const int64 *ids, int n);

/* A synced row that is old. */
typedef struct OldRow
{
	int64 id;
	TimestampTz at; /* created */
	char *key;
} OldRow;

/*
 * Up to limit rows (OldRow) that were created and synced so many days ago, in
 * order of time, behind one (zeros: from the start).
 */
extern List *queue_old_rows(const Mapping *map, int days, OldRow *after,
							int limit, MemoryContext cxt);

/*
 * Remove rows by id, but those that are not synced any more, are locked, or
 * tell of a changed key while its member has a pending row: how many were
 * removed.
 */
extern int64 queue_remove(const Mapping *map, const int64 *ids, int n);

/*
 * Erase a key: its rows, of any status, and the mention of it in the rows of
 * others, whose keys were changed to it.  How many rows were its own.
 */
extern int64 queue_erase(const Mapping *map, const char *key);

/*
 * Make a member's failure visible that no pending row stands for: one failed
 * row with the error, unless there is one like it already (then false).
 */
extern bool queue_add_failed(const Mapping *map, const Member *m,
							 const char *error);

/*
 * The field of the member with this key is no longer held: rows that failed
 * because it was are pending again, for the next run to settle.
 */
extern void queue_release(const Mapping *map, const char *key,
						  const char *field);

#endif /* EKKSYNC_QUEUE_H */
