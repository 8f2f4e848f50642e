/*
 * rows.h
 *		SQL over the member table and the related tables of the mapping.
 *
 * All functions run as the mapping's owner role, inside a transaction of the
 * caller.
 */
#ifndef EKKSYNC_ROWS_H
#define EKKSYNC_ROWS_H

#include "run.h"

/*
 * Fill nrows, id, local, local_error and related_missing of the members, by
 * key.  palloc'd in cxt.
 */
extern void rows_read(const Mapping *map, Member **members, int n,
					  MemoryContext cxt);

/*
 * Lock the rows of members that were read, and their related rows (FOR NO KEY
 * UPDATE), and read them again.  No row is waited for: "again" is set of those
 * members of which one is locked by others, has gone, or has another key now.
 */
extern void rows_lock(const Mapping *map, Member **members, int n,
					  MemoryContext cxt);

/*
 * Write the values of fields (indexes, nfields of them) to a member's row and
 * related rows.  Throws PostgreSQL's error when they refuse; false when a
 * trigger saw to it that they do not hold them.
 */
extern bool rows_write(const Mapping *map, Member *m, const int *fields,
					   char **values, int nfields);

/*
 * Up to limit keys of rows in scope after the key "after" (NULL: from the
 * start), in C order, as they stand; a missing one is ''.
 */
extern List *rows_keys(const Mapping *map, const char *after, int limit,
					   MemoryContext cxt);

#endif /* EKKSYNC_ROWS_H */
