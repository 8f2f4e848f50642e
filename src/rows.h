/*
 * rows.h
 *		SQL over the member table and the related tables of the mapping.
 *
 * All functions run as the mapping's owner role, inside a transaction of the
 * caller.
 */
#ifndef EKKSYNC_ROWS_H
#define EKKSYNC_ROWS_H

#include "lib/stringinfo.h"

#include "run.h"

/*
 * Fill nrows, id, local, local_error and related_missing of the members, by
 * key.  palloc'd in cxt.
 */
extern void rows_read(const Mapping *map, Member **members, int n,
					  MemoryContext cxt);

/*
 * Lock the rows of members that were read, and their related rows (FOR NO KEY
 * UPDATE), and read them again.  "again" is set of those members of which one
 * has gone, has another key now, or, unless it is to be waited for, is locked
 * by others.
 */
extern void rows_lock(const Mapping *map, Member **members, int n, bool wait,
					  MemoryContext cxt);

/*
 * Write the values of fields (indexes, nfields of them) to a member's row and
 * related rows.  Throws PostgreSQL's error when they refuse; false when a
 * trigger saw to it that they do not hold them.
 */
extern bool rows_write(const Mapping *map, Member *m, const int *fields,
					   char **values, int nfields);

/*
 * Lock the row of a member that was read, and those that rows_delete deletes
 * with it, so that nobody edits them, or adds one with a foreign key.
 */
extern void rows_lock_linked(const Mapping *map, const Member *m);

/*
 * Delete the row of a member that was read, and the rows that refer to it by
 * a link column of the mapping.  Throws PostgreSQL's error when it refuses, or
 * what else refers to the row; or when a trigger keeps the row.
 */
extern void rows_delete(const Mapping *map, const Member *m);

/*
 * Insert a member's row and related rows with the values of fields (indexes,
 * n of them); columns without a value get their default, NOT NULL texts ''.
 * The member is read: nrows, id and the rest as by rows_read, in cxt.  False
 * when there is a row already; no other comes until the transaction ends.
 * Throws PostgreSQL's error when it refuses, or when the row is not in the
 * filter.
 */
extern bool rows_insert(const Mapping *map, Member *m, const int *fields,
						char **values, int n, MemoryContext cxt);

/* Parameters of a statement that writes one row. */
typedef struct RowWrite
{
	int n;
	Oid *types;
	Datum *values;
	char *nulls;
	StringInfoData first;  /* SET list, or column list */
	StringInfoData second; /* VALUES list */
	StringInfoData back;   /* RETURNING list */
} RowWrite;

/* Room for max parameters, palloc'd. */
extern void row_write_init(RowWrite *w, int max);
extern void row_write_add(RowWrite *w, Oid type, Datum value, bool isnull);

/* A canonical value as the field's column takes it; throws when it is unfit. */
extern Datum row_field_datum(const Field *field, const char *canon,
							 bool *isnull);

/*
 * Up to limit keys of rows in scope after the key "after" (NULL: from the
 * start), in C order, as they stand; a missing one is ''.
 */
extern List *rows_keys(const Mapping *map, const char *after, int limit,
					   MemoryContext cxt);

#endif /* EKKSYNC_ROWS_H */
