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
 * key.  lock: lock the member rows and their related rows (FOR NO KEY UPDATE)
 * first.  palloc'd
 * in cxt.
 */
extern void rows_read(const Mapping *map, Member **members, int n, bool lock,
					  MemoryContext cxt);

/*
 * Write the values of fields (indexes, nfields of them) to a member's row and
 * related rows.  Throws PostgreSQL's error when they refuse.
 */
extern void rows_write(const Mapping *map, Member *m, const int *fields,
					   char **values, int nfields);

/* Number of rows in scope. */
extern int64 rows_count(const Mapping *map);

/* How many of n keys have no row in scope. */
extern int64 rows_missing(const Mapping *map, char **keys, int n);

#endif /* EKKSYNC_ROWS_H */
