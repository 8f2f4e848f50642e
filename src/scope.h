/*
 * scope.h
 *		SPI under another role with a pinned search_path: the one way in which
 *		the extension runs SQL.
 */
#ifndef EKKSYNC_SCOPE_H
#define EKKSYNC_SCOPE_H

#include "executor/spi.h"

typedef struct SqlScope
{
	Oid saved_user;
	int saved_context;
	int guc_level; /* 0: settings were left as they are */
} SqlScope;

/*
 * Connect SPI as role (an error or abort undoes all of it by itself):
 * search_path is pg_catalog, pg_temp, DateStyle ISO, time zone UTC, row
 * security as for foreign-key checks.  sql_leave disconnects and restores.
 * Must be called in a transaction; the caller provides the snapshot that
 * SPI needs when it is outside a query.
 */
extern void sql_enter(SqlScope *scope, Oid role);
extern void sql_leave(SqlScope *scope);

/*
 * The same with the session's settings as they are, for statements run for
 * each row: they must name everything with its schema, operators too, and
 * must not contain SQL that a user wrote.
 */
extern void sql_enter_bare(SqlScope *scope, Oid role);

/*
 * SPI_execute_with_args over a plan that this process keeps by its text and
 * argument types: prepared once, used again.  Throws on error; returns the
 * SPI code.
 */
extern int sql_run(const char *query, int nargs, Oid *types, Datum *values,
				   const char *nulls, bool read_only, long limit);

/*
 * The same for a statement that is run row by row and finds its rows by an
 * index: planned once for any parameters, without sequential scans and, where
 * an index has the order, without sorting, so that a plan made while the table
 * was small is good when it is not.
 */
extern int sql_run_by_index(const char *query, int nargs, Oid *types,
							Datum *values, const char *nulls, bool read_only,
							long limit);

/*
 * Call work(arg) in a subtransaction.  NULL when it came to its end; when it
 * threw an error, that is undone and returned, in the current memory context.
 * A cancel or shutdown goes through.
 */
extern ErrorData *sql_guarded_error(void (*work)(void *arg), void *arg);

/* The same, returning the error's message. */
extern char *sql_guarded(void (*work)(void *arg), void *arg);

#endif /* EKKSYNC_SCOPE_H */
