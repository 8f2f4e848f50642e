/*
 * api.c
 *		SQL functions that order: run, pause, resume.
 *
 * May not know: how a run works.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "api.h"
#include "launcher.h"
#include "scope.h"
#include "sqlvalue.h"
#include "srf.h"
#include "store.h"
#include "sync.h"
#include "worker.h"

/* Rows of a result that are read at a time. */
#define RESULT_PAGE 1000

#define CLEANUP_DAYS_MAX 36500

PG_FUNCTION_INFO_V1(ekksync_run);
PG_FUNCTION_INFO_V1(ekksync_diff);
PG_FUNCTION_INFO_V1(ekksync_cleanup);
PG_FUNCTION_INFO_V1(ekksync_pause);
PG_FUNCTION_INFO_V1(ekksync_resume);

/* ---- arguments ---- */

void
api_direction(FunctionCallInfo fcinfo, const char *if_null,
			  RunOptions *options)
{
	const char *direction =
		PG_ARGISNULL(0) ? if_null : text_to_cstring(PG_GETARG_TEXT_PP(0));

	options->push = strcmp(direction, "to_django") != 0;
	options->pull = strcmp(direction, "to_firestore") != 0;
	if (options->push && options->pull && strcmp(direction, "both") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown direction \"%s\"", direction),
				 errhint("Use \"both\", \"to_firestore\" or \"to_django\".")));
}

/* only: kennitala, with or without hyphen. */
static void
get_only(FunctionCallInfo fcinfo, RunOptions *options)
{
	Datum *elements;
	bool *nulls;
	int i;

	options->nonly = -1;
	options->only = NULL;
	if (PG_ARGISNULL(3))
		return;
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(3), TEXTOID, -1, false,
					  TYPALIGN_INT, &elements, &nulls, &options->nonly);
	options->only = palloc(sizeof(char *) * (options->nonly + 1));
	for (i = 0; i < options->nonly; i++)
	{
		char *key = nulls[i] ? "" : TextDatumGetCString(elements[i]);

		if (strlen(key) == 11 && key[6] == '-')
			memmove(key + 6, key + 7, 5);
		if (strlen(key) != 10 || strspn(key, "0123456789") != 10)
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("element %d of \"only\" is not a kennitala",
								   i + 1),
							errdetail("A kennitala has ten digits, with or "
									  "without a hyphen after the sixth.")));
		options->only[i] = key;
	}
}

bool
api_flag(FunctionCallInfo fcinfo, int arg, bool if_null)
{
	return PG_ARGISNULL(arg) ? if_null : PG_GETARG_BOOL(arg);
}

void
api_check_may_run(const char *function, bool wait)
{
	if (RecoveryInProgress())
		ereport(ERROR, (errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
						errmsg("cannot run on a standby server"),
						errhint("Call %s on the primary server.", function)));
	PreventCommandIfReadOnly(function);
	if (wait && TransactionIdIsValid(GetTopTransactionIdIfAny()))
		ereport(
			ERROR,
			(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
			 errmsg("cannot wait for a run in a transaction that has written"),
			 errdetail("The run would not see what this transaction wrote."),
			 errhint("Commit first.")));
}

/*
 * Call work(arg), and keep none of the locks that it takes: who waits for a
 * run would hold up DROP EXTENSION with them, and that everybody else.  What it
 * throws is thrown when the subtransaction is over: outside of a transaction
 * block nothing else would end it, and the session would refuse all commands.
 */
void
api_look(void (*work)(void *arg), void *arg)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		work(arg);
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(caller);
		CurrentResourceOwner = owner;
		ReThrowError(error);
	}
	PG_END_TRY();
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
}

/* ---- results ---- */

/* The first row of a page's query gives its place: the rest is the result. */
void
api_put_rows(Tuplestorestate *store, TupleDesc desc, const char *query,
			 int64 run_id)
{
	char *paged = psprintf("SELECT * FROM (%s) q WHERE id > $2 "
						   "ORDER BY id LIMIT $3",
						   query);
	Oid types[] = {INT8OID, INT8OID, INT8OID};
	Datum args[] = {Int64GetDatum(run_id), Int64GetDatum(-1),
					Int64GetDatum(RESULT_PAGE)};
	int64 last = -1;
	Datum *values = palloc(sizeof(Datum) * (desc->natts + 1));
	bool *isnull = palloc(sizeof(bool) * (desc->natts + 1));
	SqlScope scope;
	uint64 n;
	uint64 i;

	sql_enter(&scope, ekksync_owner_oid());
	do
	{
		sql_run(paged, lengthof(types), types, args, NULL, true, 0);
		n = SPI_processed;
		for (i = 0; i < n; i++)
		{
			heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc,
							  values, isnull);
			tuplestore_putvalues(store, desc, values + 1, isnull + 1);
			last = DatumGetInt64(values[0]);
		}
		args[1] = Int64GetDatum(last);
		SPI_freetuptable(SPI_tuptable);
		CHECK_FOR_INTERRUPTS();
	} while (n == RESULT_PAGE);
	sql_leave(&scope);
}

/*
 * Put the run's record, and the plan of a dry run, into the result.  Read
 * with a new snapshot: the run ended after this statement began.
 */
static void
return_run(FunctionCallInfo fcinfo, int64 run_id, const char *message)
{
	TupleDesc desc;
	Tuplestorestate *store = srf_begin(fcinfo, &desc);

	PushActiveSnapshot(GetLatestSnapshot());
	api_put_rows(
		store, desc,
		psprintf("SELECT 0::int8 AS id, id AS run, status, to_firestore, "
				 "to_django, conflicts, to_firestore_failed + "
				 "to_django_failed, coalesce(finished_at, clock_timestamp()) "
				 "- started_at, coalesce(error, %s), NULL::text, NULL::text, "
				 "NULL::text, NULL::jsonb, NULL::jsonb, NULL::text "
				 "FROM ekksync.run WHERE id = $1",
				 message ? quote_literal_cstr(message) : "NULL"),
		run_id);
	api_put_rows(store, desc,
				 "SELECT id, run, 'planned', NULL::int, NULL::int, NULL::int, "
				 "NULL::int, NULL::interval, NULL::text, key, side, field, "
				 "old_value, new_value, note FROM ekksync.plan WHERE run = $1",
				 run_id);
	PopActiveSnapshot();
}

/* Whom the worker is to be; an error if no run can be had. */
static void
find_owner(void *arg)
{
	ApiCall *call = arg;
	const Mapping *map = mapping_get();

	if (map == NULL || map->problem != NULL)
		sync_preflight(call->options.dry_run); /* throws */
	call->owner = map->owner;
}

/* Another run is in progress, and cannot take the place of this one. */
static void
busy(void *arg)
{
	const RunOptions *options = &((ApiCall *) arg)->options;
	bool plain = !options->dry_run && !options->force && options->nonly < 0 &&
				 !options->backfill && options->take == CHOICE_NONE;

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("run " INT64_FORMAT " is in progress",
					((ApiCall *) arg)->run_id),
			 plain ? errdetail("It is a dry run, goes in another "
							   "direction, or is for some members only.")
				   : 0,
			 errhint("Try again when it is over: see ekksync_runs.")));
}

/* Only a plain call can join, if that run is what it would have started. */
static void
join_run(void *arg)
{
	const RunOptions *options = &((ApiCall *) arg)->options;

	PushActiveSnapshot(GetLatestSnapshot());
	if (options->dry_run || options->force || options->nonly >= 0 ||
		!store_run_is_plain(((ApiCall *) arg)->run_id,
							sync_direction(options)))
		busy(arg);
	PopActiveSnapshot();
}

/* Runs are held off, or the other one has just begun or just ended. */
static void
await_turn(bool wait)
{
	if (!wait)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("no run can start now"),
				 errdetail("A transaction that attaches, detaches or maps is "
						   "open, or another run has just begun."),
				 errhint("Try again, or use wait => true.")));
	sync_wait();
}

pg_noreturn static void
throw_died(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_ADMIN_SHUTDOWN),
			 errmsg("the run's worker ended before the run was over"),
			 errhint("The next run goes on where it stood. The server log may "
					 "say more.")));
}

/*
 * ekksync_run(direction, dry_run, wait, only, force)
 */
Datum
ekksync_run(PG_FUNCTION_ARGS)
{
	bool wait = api_flag(fcinfo, 2, true);
	const char *message = NULL;
	WorkerOutcome outcome;
	ApiCall call = {{0}, InvalidOid, 0};

	api_direction(fcinfo, "both", &call.options);
	call.options.dry_run = api_flag(fcinfo, 1, false);
	get_only(fcinfo, &call.options);
	call.options.force = api_flag(fcinfo, 4, false);
	api_check_may_run("ekksync_run()", wait);
	api_look(find_owner, &call);
	outcome = worker_start(call.owner, &call.options, wait, &call.run_id);
	while (outcome == WORKER_BUSY && call.run_id == 0)
	{
		await_turn(wait);
		outcome = worker_start(call.owner, &call.options, wait, &call.run_id);
	}
	switch (outcome)
	{
		case WORKER_RUNNING:
			message = "the run goes on; see ekksync_runs";
			break;
		case WORKER_ENDED:
			break;
		case WORKER_BUSY:
			api_look(join_run, &call);
			if (wait)
				sync_wait();
			message = "joined a run that was in progress";
			break;
		case WORKER_DIED:
			throw_died();
	}
	return_run(fcinfo, call.run_id, message);
	return (Datum) 0;
}

/* ---- comparing ---- */

/* The error of a comparison, say, that failed. */
static void
check_done(int64 run_id, const char *what)
{
	MemoryContext cxt = CurrentMemoryContext;
	Oid types[] = {INT8OID};
	Datum args[] = {Int64GetDatum(run_id)};
	SqlScope scope;
	char *sqlstate;
	char *error;

	sql_enter(&scope, ekksync_owner_oid());
	sql_run("SELECT coalesce(sqlstate, '58000'), coalesce(error, "
			"'its worker ended') FROM ekksync.run WHERE id = $1 "
			"AND status <> 'success'",
			1, types, args, NULL, true, 0);
	if (SPI_processed == 0)
	{
		sql_leave(&scope);
		return;
	}
	sqlstate = sql_get_text(0, 1, cxt);
	error = sql_get_text(0, 2, cxt);
	sql_leave(&scope);
	ereport(ERROR,
			(errcode(MAKE_SQLSTATE(sqlstate[0], sqlstate[1], sqlstate[2],
								   sqlstate[3], sqlstate[4])),
			 errmsg("could not %s: %s", what, error)));
}

/* Put what a comparison found into the result. */
static void
return_diff(FunctionCallInfo fcinfo, int64 run_id)
{
	TupleDesc desc;
	Tuplestorestate *store = srf_begin(fcinfo, &desc);

	PushActiveSnapshot(GetLatestSnapshot());
	check_done(run_id, "compare the two sides");
	api_put_rows(store, desc,
				 "SELECT id, key, field, django_value, firestore_value, why, "
				 "detail FROM ekksync.diff WHERE run = $1",
				 run_id);
	PopActiveSnapshot();
}

void
api_run_alone(const char *function, ApiCall *call)
{
	WorkerOutcome outcome;

	call->options.nonly = -1;
	api_check_may_run(function, true);
	api_look(find_owner, call);
	do
	{
		outcome =
			worker_start(call->owner, &call->options, true, &call->run_id);
		if (outcome == WORKER_BUSY && call->run_id != 0)
			api_look(busy, call);
		if (outcome == WORKER_BUSY)
			await_turn(true);
	} while (outcome == WORKER_BUSY);
	if (outcome == WORKER_DIED)
		throw_died();
}

/* A run that is no exchange. */
static void
run_aside(const char *function, ApiCall *call)
{
	call->options.push = call->options.pull = true;
	call->options.dry_run = true;
	api_run_alone(function, call);
}

/*
 * ekksync_diff()
 */
Datum
ekksync_diff(PG_FUNCTION_ARGS)
{
	ApiCall call = {{0}, InvalidOid, 0};

	call.options.diff = true;
	run_aside("ekksync_diff()", &call);
	return_diff(fcinfo, call.run_id);
	return (Datum) 0;
}

/* ---- cleaning up ---- */

/* Put what was removed into the result. */
static void
return_cleaned(FunctionCallInfo fcinfo, int64 run_id)
{
	Oid types[] = {INT8OID};
	Datum args[] = {Int64GetDatum(run_id)};
	TupleDesc desc;
	Tuplestorestate *store = srf_begin(fcinfo, &desc);
	SqlScope scope;
	uint64 i;

	PushActiveSnapshot(GetLatestSnapshot());
	check_done(run_id, "clean up");
	sql_enter(&scope, ekksync_owner_oid());
	sql_run("SELECT e.key, e.value::int8 FROM ekksync.run r, "
			"jsonb_each_text(r.cleaned) e WHERE r.id = $1 ORDER BY 1",
			1, types, args, NULL, true, 0);
	for (i = 0; i < SPI_processed; i++)
	{
		Datum values[2];
		bool isnull[2];

		heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, values,
						  isnull);
		tuplestore_putvalues(store, desc, values, isnull);
	}
	sql_leave(&scope);
	PopActiveSnapshot();
}

/*
 * ekksync_cleanup(days)
 */
Datum
ekksync_cleanup(PG_FUNCTION_ARGS)
{
	ApiCall call = {{0}, InvalidOid, 0};

	call.options.cleanup = true;
	call.options.cleanup_days = PG_ARGISNULL(0) ? -1 : PG_GETARG_INT32(0);
	if (!PG_ARGISNULL(0) &&
		(PG_GETARG_INT32(0) < 0 || PG_GETARG_INT32(0) > CLEANUP_DAYS_MAX))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid number of days: %d", PG_GETARG_INT32(0)),
				 errdetail("It must be 0 to %d.", CLEANUP_DAYS_MAX),
				 errhint("Without it, the days are those of "
						 "ekksync.queue_days.")));
	run_aside("ekksync_cleanup()", &call);
	return_cleaned(fcinfo, call.run_id);
	return (Datum) 0;
}

static void
check_attached(void)
{
	if (mapping_get() == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("ekksync is not attached to a member table"),
				 errhint("Call ekksync_attach('membership_comrade') first.")));
}

/*
 * ekksync_pause(reason)
 */
Datum
ekksync_pause(PG_FUNCTION_ARGS)
{
	PreventCommandIfReadOnly("ekksync_pause()");
	check_attached();
	store_pause(PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0)),
				false);
	PG_RETURN_VOID();
}

/*
 * ekksync_resume()
 */
Datum
ekksync_resume(PG_FUNCTION_ARGS)
{
	PreventCommandIfReadOnly("ekksync_resume()");
	check_attached();
	store_resume();
	launcher_nudge();
	PG_RETURN_VOID();
}
