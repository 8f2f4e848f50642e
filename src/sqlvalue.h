/*
 * sqlvalue.h
 *		Arrays as parameters, and columns of SPI results as C values.
 */
#ifndef EKKSYNC_SQLVALUE_H
#define EKKSYNC_SQLVALUE_H

#include "executor/spi.h"

#include "ekksync.h"

/*
 * Arrays in the current memory context.  A NULL text, or a time of 0, is an
 * SQL null.
 */
extern Datum sql_text_array(char *const *values, int n);
extern Datum sql_json_array(char *const *values, int n);
extern Datum sql_int8_array(const int64 *values, int n);
extern Datum sql_time_array(const TimestampTz *values, int n);
extern Datum sql_bool_array(const bool *values, int n);

/* A text parameter; the caller marks a NULL in its nulls string. */
extern Datum sql_text(const char *s);

/*
 * Column (from 1) of row i of SPI_tuptable.  Texts are the type's output,
 * palloc'd in cxt, NULL for an SQL null; the others have a value for null:
 * 0, or false.
 */
extern char *sql_get_text(int i, int column, MemoryContext cxt);
extern int64 sql_get_int8(int i, int column);
extern TimestampTz sql_get_time(int i, int column);
extern bool sql_get_bool(int i, int column);

/* The first column of all rows: a list of strings in cxt. */
extern List *sql_get_list(MemoryContext cxt);

/*
 * The same of a query for keys whose second column says whether the last key
 * may have more to be read than was looked at: it is then left out, unless it
 * is the only one, and *upto becomes the last of the list, if that is before
 * it (NULL: behind all).
 */
extern List *sql_get_keys(char **upto, MemoryContext cxt);

#endif /* EKKSYNC_SQLVALUE_H */
