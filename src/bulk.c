/*
 * bulk.c
 *		SQL functions that order a run over all members: ekksync_backfill(),
 *		ekksync_repair(); and what that will cost.
 *
 * May not know: how a run works.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "api.h"
#include "mapping.h"
#include "scope.h"
#include "settings.h"
#include "sqlvalue.h"
#include "srf.h"
#include "store.h"
#include "sync.h"

PG_FUNCTION_INFO_V1(ekksync_backfill);
PG_FUNCTION_INFO_V1(ekksync_repair);

/*
 * What it will cost at most, besides the run's own documents and the entries
 * of sync_queue, each of which is read and closed: how many they are, nobody
 * knows before they are read.
 */
typedef struct Estimate
{
	const RunOptions *options;
	int64 begun;   /* the backfill that is gone on with, 0: none */
	int64 members; /* to work on, at most */
	int64 reads;
	int64 writes;
} Estimate;

static int64
count(const char *query, Oid role)
{
	SqlScope scope;
	int64 n;

	sql_enter(&scope, role);
	sql_run(query, 0, NULL, NULL, NULL, true, 0);
	n = sql_get_int8(0, 1);
	sql_leave(&scope);
	return n;
}

/* How many members there are, known or not. */
static int64
count_all(const Mapping *map)
{
	int64 known =
		count("SELECT count(*) FROM ekksync.member", ekksync_owner_oid());
	int64 rows =
		count(psprintf("SELECT count(*) FROM %s%s%s%s", map->member_table,
					   map->filter ? " WHERE (" : "",
					   map->filter ? map->filter : "", map->filter ? ")" : ""),
			  map->owner);

	return Max(known, rows);
}

/*
 * Of a backfill each document is read once, and once more by its name where
 * all are scanned; of a repair all are read, and again those that differ.  The
 * guard may want to look at all that are worked on before the first one is.
 */
static void
estimate(void *arg)
{
	Estimate *e = arg;
	const Mapping *map = mapping_get();
	int64 all;

	if (map == NULL || map->problem != NULL)
		sync_preflight(e->options->dry_run); /* throws */
	PushActiveSnapshot(GetLatestSnapshot());
	all = count_all(map) +
		  count("SELECT count(*) FROM ekksync.stranger", ekksync_owner_oid());
	e->members = all;
	if (e->options->backfill)
		e->begun = store_backlog_open(sync_direction(e->options));
	if (e->begun != 0)
		e->members = store_backlog_count(e->begun);
	PopActiveSnapshot();
	e->reads = e->members;
	if (e->members > EKKSYNC_MEMBER_PAGE && !e->options->force)
		e->reads += e->members;
	if (!e->options->backfill || e->options->pull)
		e->reads += all;
	e->writes = e->options->push ? e->members : 0;
}

/* Say it, before anything is read or written. */
static void
announce(const ApiCall *call, const char *function)
{
	Estimate e = {&call->options, 0, 0, 0, 0};

	api_look(estimate, &e);
	ereport(
		NOTICE,
		(errmsg("%s: " INT64_FORMAT " members, at most " INT64_FORMAT
				" documents read and " INT64_FORMAT
				" written, at a price of at most %.4f, and what entries of "
				"sync_queue take",
				function, e.members, e.reads, e.writes,
				(e.reads * settings.price_reads +
				 e.writes * settings.price_writes) /
					100000),
		 e.begun != 0
			 ? errdetail("It goes on with what run " INT64_FORMAT " has left.",
						 e.begun)
		 : call->options.backfill
			 ? 0
			 : errdetail("All documents are read to be compared; members that "
						 "differ are read again and written.")));
}

/*
 * The run's record with its price, and the plan of a dry run.  What a dry run
 * has read the real one reads too, perhaps twice for the guard, and it writes
 * who is in the plan.
 */
static void
return_bulk(FunctionCallInfo fcinfo, int64 run_id, bool force)
{
	TupleDesc desc;
	Tuplestorestate *store = srf_begin(fcinfo, &desc);

	PushActiveSnapshot(GetLatestSnapshot());
	api_put_rows(
		store, desc,
		psprintf("SELECT 0::int8 AS id, r.id AS run, status, to_firestore, "
				 "to_django, conflicts, to_firestore_failed + "
				 "to_django_failed, coalesce(finished_at, clock_timestamp()) "
				 "- started_at, error, w.reads, w.writes, round((w.reads * "
				 "%.17g::numeric + w.writes * %.17g::numeric + docs_deleted * "
				 "%.17g::numeric) / 100000, 6), NULL::text, NULL::text, "
				 "NULL::text, NULL::jsonb, NULL::jsonb, NULL::text "
				 "FROM ekksync.run r, LATERAL (SELECT coalesce("
				 "max((p->>'done')::int8), 0) FROM jsonb_array_elements("
				 "r.phases) p WHERE p->>'phase' = 'members') m(n), "
				 "LATERAL (SELECT CASE WHEN dry_run AND NOT %s AND m.n > %d "
				 "THEN docs_read + m.n ELSE docs_read END, "
				 "CASE WHEN dry_run THEN to_firestore ELSE docs_written END) "
				 "w(reads, writes) WHERE r.id = $1",
				 settings.price_reads, settings.price_writes,
				 settings.price_deletes, force ? "true" : "false",
				 EKKSYNC_MEMBER_PAGE),
		run_id);
	api_put_rows(store, desc,
				 "SELECT id, run, 'planned', NULL::int, NULL::int, NULL::int, "
				 "NULL::int, NULL::interval, NULL::text, NULL::int8, "
				 "NULL::int8, NULL::numeric, key, side, field, old_value, "
				 "new_value, note FROM ekksync.plan WHERE run = $1",
				 run_id);
	PopActiveSnapshot();
}

static void
run_bulk(FunctionCallInfo fcinfo, ApiCall *call, const char *name)
{
	char *function = psprintf("ekksync_%s()", name);

	call->options.dry_run = api_flag(fcinfo, 1, false);
	call->options.force = api_flag(fcinfo, 2, false);
	api_check_may_run(function, true);
	if (!call->options.dry_run)
		announce(call, function);
	api_run_alone(function, call);
	return_bulk(fcinfo, call->run_id, call->options.force);
}

/*
 * ekksync_backfill(direction, dry_run, force)
 */
Datum
ekksync_backfill(PG_FUNCTION_ARGS)
{
	ApiCall call = {{0}, InvalidOid, 0};

	api_direction(fcinfo, "to_firestore", &call.options);
	call.options.backfill = true;
	run_bulk(fcinfo, &call, "backfill");
	return (Datum) 0;
}

/*
 * ekksync_repair(take, dry_run, force)
 */
Datum
ekksync_repair(PG_FUNCTION_ARGS)
{
	ApiCall call = {{0}, InvalidOid, 0};
	char *take =
		PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0));

	if (take == NULL)
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("take must not be null"),
						errhint("Use django or firestore.")));
	call.options.push = call.options.pull = true;
	if (strcmp(take, "django") == 0)
		call.options.take = CHOICE_DJANGO;
	else if (strcmp(take, "firestore") == 0)
		call.options.take = CHOICE_FIRESTORE;
	else
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("invalid value for \"take\": \"%s\"", take),
						errhint("Use django or firestore.")));
	run_bulk(fcinfo, &call, "repair");
	return (Datum) 0;
}
