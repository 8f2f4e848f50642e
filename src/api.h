/*
 * api.h
 *		What SQL functions that order a run have in common.
 */
#ifndef EKKSYNC_API_H
#define EKKSYNC_API_H

#include "fmgr.h"
#include "utils/tuplestore.h"

#include "run.h"

/* What a call asks for, and what it finds. */
typedef struct ApiCall
{
	RunOptions options;
	Oid owner; /* of the member table */
	int64 run_id;
} ApiCall;

/*
 * Fill push and pull of options from the function's first argument, a
 * direction, or from if_null; error 22023 where it is none.
 */
extern void api_direction(FunctionCallInfo fcinfo, const char *if_null,
						  RunOptions *options);

/* An argument that is a boolean. */
extern bool api_flag(FunctionCallInfo fcinfo, int arg, bool if_null);

/*
 * Call work(arg), and keep none of the locks that it takes: who waits for a
 * run would hold up DROP EXTENSION with them, and that everybody else.
 */
extern void api_look(void (*work)(void *arg), void *arg);

/* Throw what keeps a run from being ordered, or (wait) waited for, here. */
extern void api_check_may_run(const char *function, bool wait);

/*
 * Make the run that call->options asks for, for all members, and wait for its
 * end; call->run_id is its number, its record says how it went.  Throws what
 * keeps it from starting: another run that is in progress, too (55006).
 * function: the caller's name, for messages.
 */
extern void api_run_alone(const char *function, ApiCall *call);

/*
 * Add the rows of a query over our tables to a result: $1 is the number of a
 * run, its first column, "id" (at least 0, different in all rows), says in
 * which order, the others are the result's.  Reads them in pages, by the
 * snapshot that is active.
 */
extern void api_put_rows(Tuplestorestate *store, TupleDesc desc,
						 const char *query, int64 run_id);

#endif /* EKKSYNC_API_H */
