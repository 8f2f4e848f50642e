/*
 * metrics.c
 *		ekksync_metrics: what a monitoring system should know, one row for each
 *		figure, by names that stay.
 *
 * A metric is added here and in docs/reference.md, and, to be collected, in
 * docs/postgres_exporter.yml; none is renamed, and none says who a member is.
 *
 * May not know: how a run works.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "health.h"
#include "scope.h"
#include "sqlvalue.h"
#include "srf.h"

PG_FUNCTION_INFO_V1(ekksync_metrics);

#define METRIC_COLUMNS 5

/* In the order in which they are shown; kinds as Prometheus has them. */
static const struct
{
	const char *name;
	const char *type;
	const char *help;
} metrics[] = {
	{"ekksync_health_status", "gauge",
	 "1 for the state of health, 0 for others"},
	{"ekksync_degraded_by", "gauge", "1 for each reason why it is degraded"},
	{"ekksync_pending_rows", "gauge", "Queue rows that wait for a run"},
	{"ekksync_pending_age_seconds", "gauge", "Age of the oldest of them"},
	{"ekksync_first_contact_members", "gauge", "Members never synced so far"},
	{"ekksync_failed_changes", "gauge", "Rows and entries that failed"},
	{"ekksync_held_conflicts", "gauge", "Conflicts that wait for a person"},
	{"ekksync_unknown_documents", "gauge", "Documents of nobody we know"},
	{"ekksync_paused", "gauge", "1 while runs are paused"},
	{"ekksync_running", "gauge", "1 while a run of any kind is at work"},
	{"ekksync_last_run_timestamp_seconds", "gauge", "Start of the last run"},
	{"ekksync_last_run_duration_seconds", "gauge", "How long it took"},
	{"ekksync_last_run_success", "gauge", "1 if it succeeded"},
	{"ekksync_last_run_memory_bytes", "gauge", "Its largest private memory"},
	{"ekksync_last_success_timestamp_seconds", "gauge",
	 "End of the last good run"},
	{"ekksync_clock_skew_seconds", "gauge", "Firestore's clock is ahead by"},
	{"ekksync_runs_total", "counter", "Runs that have ended"},
	{"ekksync_run_seconds_total", "counter", "Time that they took"},
	{"ekksync_members_written_total", "counter", "Members written"},
	{"ekksync_changes_failed_total", "counter", "Rows and entries failed"},
	{"ekksync_conflicts_total", "counter", "Values that lost or were held"},
	{"ekksync_documents_total", "counter", "Documents, as Firestore bills"},
	{"ekksync_requests_total", "counter", "Requests to Firestore"},
	{"ekksync_retries_total", "counter", "Requests that were repeated"},
	{"ekksync_bytes_total", "counter", "Bytes exchanged with Firestore"},
};

typedef struct Metrics
{
	Tuplestorestate *store;
	TupleDesc desc;
} Metrics;

/* One row; labels: JSON, "{}" for none. */
static void
put(Metrics *m, const char *name, const char *labels, double value)
{
	Datum values[METRIC_COLUMNS];
	bool isnull[METRIC_COLUMNS] = {false};
	int i = 0;

	while (strcmp(metrics[i].name, name) != 0)
		if (++i == lengthof(metrics))
			elog(ERROR, "unknown metric \"%s\"", name);
	values[0] = CStringGetTextDatum(name);
	values[1] = DirectFunctionCall1(jsonb_in, CStringGetDatum(labels));
	values[2] = Float8GetDatum(value);
	values[3] = CStringGetTextDatum(metrics[i].type);
	values[4] = CStringGetTextDatum(metrics[i].help);
	tuplestore_putvalues(m->store, m->desc, values, isnull);
}

/* The same with one label. */
static void
put_by(Metrics *m, const char *name, const char *label, const char *is,
	   double value)
{
	put(m, name, psprintf("{\"%s\": \"%s\"}", label, is), value);
}

/* Seconds since 1970, whole; 0 for never. */
static double
epoch(TimestampTz t)
{
	if (t == 0)
		return 0;
	return floor(t / (double) USECS_PER_SEC) +
		   (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * (double) SECS_PER_DAY;
}

static void
put_health(Metrics *m, const Health *h)
{
	static const char *const states[] = {"ok", "observe", "degraded", "paused",
										 "detached"};
	bool degraded = strcmp(h->state, "degraded") == 0;
	int i;

	for (i = 0; i < (int) lengthof(states); i++)
		put_by(m, "ekksync_health_status", "state", states[i],
			   strcmp(states[i], h->state) == 0);
	for (i = 0; health_word(i) != NULL; i++)
	{
		bool holds = false;
		ListCell *lc;

		foreach (lc, h->reasons)
			holds = holds || strcmp(((HealthReason *) lfirst(lc))->word,
									health_word(i)) == 0;
		put_by(m, "ekksync_degraded_by", "reason", health_word(i),
			   degraded && holds);
	}
}

static void
put_present(Metrics *m, const Health *h)
{
	const HealthRun *run = &h->run;

	put(m, "ekksync_pending_rows", "{}", h->pending);
	put(m, "ekksync_pending_age_seconds", "{}",
		h->oldest == 0
			? 0
			: Max(((double) GetCurrentTimestamp() - (double) h->oldest) /
					  USECS_PER_SEC,
				  0));
	put(m, "ekksync_first_contact_members", "{}", h->first_contact);
	put_by(m, "ekksync_failed_changes", "side", "django", h->failed);
	put_by(m, "ekksync_failed_changes", "side", "firestore",
		   h->entries_failed);
	put(m, "ekksync_held_conflicts", "{}", h->held);
	put(m, "ekksync_unknown_documents", "{}", h->strangers);
	put(m, "ekksync_paused", "{}", h->paused);
	put(m, "ekksync_running", "{}", h->at_work);
	put(m, "ekksync_last_run_timestamp_seconds", "{}", epoch(run->started_at));
	put(m, "ekksync_last_run_duration_seconds", "{}", run->seconds);
	put(m, "ekksync_last_run_success", "{}",
		run->status != NULL && strcmp(run->status, "success") == 0);
	put(m, "ekksync_last_run_memory_bytes", "{}",
		run->peak_memory_kb * 1024.0);
	put_by(m, "ekksync_last_success_timestamp_seconds", "side", "django",
		   epoch(h->to_django_at));
	put_by(m, "ekksync_last_success_timestamp_seconds", "side", "firestore",
		   epoch(h->to_firestore_at));
	put(m, "ekksync_clock_skew_seconds", "{}",
		run->clock_known ? run->skew / (double) USECS_PER_SEC
						 : get_float8_nan());
}

/* Runs that have ended, by mode and outcome. */
static void
put_runs(Metrics *m)
{
	static const char *const modes[] = {"sync",		"observe", "dry_run",
										"backfill", "repair",  "diff",
										"cleanup"};
	static const char *const outcomes[] = {"success", "failed", "stopped",
										   "interrupted"};
	MemoryContext cxt = CurrentMemoryContext;
	int64 runs[lengthof(modes)][lengthof(outcomes)] = {{0}};
	SqlScope scope;
	uint64 i;
	int mode;
	int outcome;

	sql_enter(&scope, ekksync_owner_oid());
	sql_run("SELECT mode, status, runs FROM ekksync.total", 0, NULL, NULL,
			NULL, true, 0);
	for (i = 0; i < SPI_processed; i++)
		for (mode = 0; mode < (int) lengthof(modes); mode++)
			for (outcome = 0; outcome < (int) lengthof(outcomes); outcome++)
				if (strcmp(sql_get_text(i, 1, cxt), modes[mode]) == 0 &&
					strcmp(sql_get_text(i, 2, cxt), outcomes[outcome]) == 0)
					runs[mode][outcome] = sql_get_int8(i, 3);
	sql_leave(&scope);
	for (mode = 0; mode < (int) lengthof(modes); mode++)
		for (outcome = 0; outcome < (int) lengthof(outcomes); outcome++)
			put(m, "ekksync_runs_total",
				psprintf("{\"mode\": \"%s\", \"status\": \"%s\"}", modes[mode],
						 outcomes[outcome]),
				runs[mode][outcome]);
}

/* What all of them have done and cost. */
static void
put_totals(Metrics *m)
{
	int64 sum[14];
	SqlScope scope;
	int i;

	sql_enter(&scope, ekksync_owner_oid());
	sql_run("SELECT (sum(seconds) * 1000)::int8, sum(to_firestore)::int8, "
			"sum(to_django)::int8, sum(to_firestore_failed)::int8, "
			"sum(to_django_failed)::int8, sum(conflicts)::int8, "
			"sum(docs_read)::int8, sum(docs_written)::int8, "
			"sum(docs_deleted)::int8, sum(requests)::int8, "
			"sum(retries)::int8, sum(bytes_sent)::int8, "
			"sum(bytes_received)::int8 FROM ekksync.total",
			0, NULL, NULL, NULL, true, 0);
	for (i = 1; i < (int) lengthof(sum); i++)
		sum[i] = sql_get_int8(0, i);
	sql_leave(&scope);
	put(m, "ekksync_run_seconds_total", "{}", sum[1] / 1000.0);
	put_by(m, "ekksync_members_written_total", "side", "firestore", sum[2]);
	put_by(m, "ekksync_members_written_total", "side", "django", sum[3]);
	put_by(m, "ekksync_changes_failed_total", "side", "django", sum[4]);
	put_by(m, "ekksync_changes_failed_total", "side", "firestore", sum[5]);
	put(m, "ekksync_conflicts_total", "{}", sum[6]);
	put_by(m, "ekksync_documents_total", "op", "read", sum[7]);
	put_by(m, "ekksync_documents_total", "op", "written", sum[8]);
	put_by(m, "ekksync_documents_total", "op", "deleted", sum[9]);
	put(m, "ekksync_requests_total", "{}", sum[10]);
	put(m, "ekksync_retries_total", "{}", sum[11]);
	put_by(m, "ekksync_bytes_total", "direction", "sent", sum[12]);
	put_by(m, "ekksync_bytes_total", "direction", "received", sum[13]);
}

/*
 * ekksync.metrics()
 */
Datum
ekksync_metrics(PG_FUNCTION_ARGS)
{
	Metrics m;
	Health health;

	m.store = srf_begin(fcinfo, &m.desc);
	health_judge(&health, mapping_get());
	put_health(&m, &health);
	put_present(&m, &health);
	put_runs(&m);
	put_totals(&m);
	return (Datum) 0;
}
