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
	Oid			saved_user;
	int			saved_context;
	int			guc_level;
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
 * SPI_execute_with_args over a plan that this process keeps by its text:
 * prepared once, used again.  Throws on error; returns the SPI code.
 */
extern int	sql_run(const char *query, int nargs, Oid *types, Datum *values,
					const char *nulls, bool read_only, long limit);

#endif							/* EKKSYNC_SCOPE_H */
