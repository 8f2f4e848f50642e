/*
 * runs.c
 *		SQL over ekksync.state and ekksync.run: the attachment, and the record
 *		of each run.
 *
 * May not know: members, the application's tables, what a run does.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/async.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "progress.h"
#include "scope.h"
#include "settings.h"
#include "sqlvalue.h"
#include "store.h"
#include "sync.h"

/* ---- attachment ---- */

bool
store_state(StoreState *state, MemoryContext cxt)
{
	SqlScope scope;
	bool found;

	memset(state, 0, sizeof(*state));
	store_sql(&scope,
			  "SELECT paused, paused_reason, project, database_id, "
			  "system_identifier, accepted IS NOT NULL, last_scan, "
			  "last_full_scan, scan_after, scan_since, changed_after, "
			  "changed_value, stage_after FROM ekksync.state",
			  0, NULL, NULL, NULL);
	found = SPI_processed > 0;
	if (found)
	{
		state->paused = sql_get_bool(0, 1);
		state->paused_reason = sql_get_text(0, 2, cxt);
		state->project = sql_get_text(0, 3, cxt);
		state->database_id = sql_get_text(0, 4, cxt);
		state->system_identifier = sql_get_int8(0, 5);
		state->accepted = sql_get_bool(0, 6);
		state->last_scan = sql_get_time(0, 7);
		state->last_full_scan = sql_get_time(0, 8);
		state->scan_after = sql_get_text(0, 9, cxt);
		state->scan_since = sql_get_time(0, 10);
		state->changed_after = sql_get_text(0, 11, cxt);
		state->changed_value = sql_get_text(0, 12, cxt);
		state->stage_after = sql_get_text(0, 13, cxt);
	}
	sql_leave(&scope);
	return found;
}

void
store_bind(const char *project, const char *database_id,
		   int64 system_identifier)
{
	Oid types[] = {TEXTOID, TEXTOID, INT8OID};
	Datum values[] = {sql_text(project), sql_text(database_id),
					  Int64GetDatum(system_identifier)};

	store_sql_only("UPDATE ekksync.state SET project = $1, database_id = $2, "
				   "system_identifier = $3",
				   3, types, values, NULL);
}

/* ---- fence ---- */

void
store_fence(StoreFence *fence, MemoryContext cxt)
{
	SqlScope scope;

	store_sql(&scope,
			  "SELECT fence, fence_token, fence_next, accepted "
			  "FROM ekksync.state",
			  0, NULL, NULL, NULL);
	fence->number = sql_get_int8(0, 1);
	fence->token = sql_get_text(0, 2, cxt);
	fence->next = sql_get_text(0, 3, cxt);
	fence->accepted = sql_get_text(0, 4, cxt);
	sql_leave(&scope);
}

void
store_fence_next(StoreFence *fence, MemoryContext cxt)
{
	SqlScope scope;

	store_sql(&scope,
			  "UPDATE ekksync.state SET "
			  "fence_next = pg_catalog.gen_random_uuid() "
			  "RETURNING fence_next",
			  0, NULL, NULL, NULL);
	fence->next = sql_get_text(0, 1, cxt);
	sql_leave(&scope);
}

void
store_fence_raised(const StoreFence *fence)
{
	Oid types[] = {INT8OID, TEXTOID};
	Datum values[] = {Int64GetDatum(fence->number), sql_text(fence->next)};

	store_sql_only("UPDATE ekksync.state SET fence = $1, "
				   "fence_token = $2::uuid, fence_next = NULL, "
				   "accepted = NULL",
				   2, types, values, NULL);
}

void
store_pause(const char *reason, bool refused)
{
	Oid types[] = {TEXTOID, BOOLOID};
	Datum values[] = {sql_text(reason), BoolGetDatum(refused)};

	store_sql_only("UPDATE ekksync.state SET paused = true, "
				   "paused_at = clock_timestamp(), paused_reason = $1, "
				   "refused = $2",
				   2, types, values, reason == NULL ? "n " : "  ");
}

/*
 * Also lets the next run bind the base to what is in force then, and go on
 * before all other copies: by a token, which works once for all of them.
 */
void
store_resume(void)
{
	store_sql_only(
		"UPDATE ekksync.state SET paused = false, paused_at = NULL, "
		"paused_reason = NULL, refused = false, accepted = CASE WHEN refused "
		"THEN pg_catalog.gen_random_uuid() ELSE accepted END",
		0, NULL, NULL, NULL);
}

void
store_forget_base(void)
{
	store_sql_only("UPDATE ekksync.member SET base = '{}', in_flight = '[]', "
				   "doc_update_time = NULL, away = NULL, "
				   "first_contact = true, due = true",
				   0, NULL, NULL, NULL);
	store_sql_only("DELETE FROM ekksync.stranger", 0, NULL, NULL, NULL);
	store_sql_only("DELETE FROM ekksync.backlog", 0, NULL, NULL, NULL);
	store_sql_only(
		"UPDATE ekksync.state SET last_scan = NULL, "
		"last_full_scan = NULL, scan_after = NULL, scan_since = NULL, "
		"changed_after = NULL, changed_value = NULL, stage_after = NULL",
		0, NULL, NULL, NULL);
}

void
store_scanned(TimestampTz at, bool full)
{
	Oid types[] = {TIMESTAMPTZOID, BOOLOID};
	Datum values[] = {TimestampTzGetDatum(at), BoolGetDatum(full)};

	store_sql_only("UPDATE ekksync.state SET last_scan = $1, last_full_scan = "
				   "CASE WHEN $2 THEN $1 ELSE last_full_scan END, "
				   "scan_after = NULL, scan_since = NULL, "
				   "changed_after = NULL, changed_value = NULL",
				   2, types, values, NULL);
}

void
store_scan_left(const char *name, const char *value, TimestampTz since)
{
	Oid types[] = {TEXTOID, TEXTOID, TIMESTAMPTZOID};
	Datum values[] = {sql_text(name), sql_text(value),
					  TimestampTzGetDatum(since)};

	store_sql_only("UPDATE ekksync.state SET scan_since = $3, "
				   "scan_after = CASE WHEN $2 IS NULL THEN $1 END, "
				   "changed_after = CASE WHEN $2 IS NOT NULL THEN $1 END, "
				   "changed_value = $2",
				   3, types, values, value == NULL ? " n " : NULL);
}

void
store_stage_left(const char *name)
{
	Oid types[] = {TEXTOID};
	Datum values[] = {sql_text(name)};

	store_sql_only("UPDATE ekksync.state SET stage_after = $1", 1, types,
				   values, name == NULL ? "n" : NULL);
}

/* ---- schedule ---- */

void
store_schedule(StoreSchedule *served, MemoryContext cxt)
{
	SqlScope scope;

	store_sql(&scope,
			  "SELECT schedule, scheduled, scheduled_tries FROM ekksync.state",
			  0, NULL, NULL, NULL);
	served->schedule = sql_get_text(0, 1, cxt);
	served->at = sql_get_time(0, 2);
	served->tries = sql_get_int8(0, 3);
	sql_leave(&scope);
}

void
store_schedule_note(const StoreSchedule *served)
{
	Oid types[] = {TEXTOID, TIMESTAMPTZOID, INT8OID};
	Datum values[] = {sql_text(served->schedule),
					  TimestampTzGetDatum(served->at),
					  Int64GetDatum(served->tries)};

	store_sql_only("UPDATE ekksync.state SET schedule = $1, scheduled = $2, "
				   "scheduled_tries = $3",
				   3, types, values, NULL);
}

bool
store_schedule_begin(TimestampTz due)
{
	Oid types[] = {TIMESTAMPTZOID};
	Datum values[] = {TimestampTzGetDatum(due)};
	SqlScope scope;
	bool mine;

	store_sql(&scope,
			  "UPDATE ekksync.state SET scheduled = $1, scheduled_tries = "
			  "CASE WHEN scheduled = $1 THEN scheduled_tries + 1 ELSE 1 END "
			  "WHERE scheduled < $1 OR scheduled = $1 AND scheduled_tries > 0 "
			  "RETURNING true",
			  1, types, values, NULL);
	mine = SPI_processed > 0;
	sql_leave(&scope);
	return mine;
}

void
store_schedule_end(TimestampTz due)
{
	Oid types[] = {TIMESTAMPTZOID};
	Datum values[] = {TimestampTzGetDatum(due)};

	store_sql_only("UPDATE ekksync.state SET scheduled_tries = 0 "
				   "WHERE scheduled = $1",
				   1, types, values, NULL);
}

/* ---- what is told by NOTIFY, when the transaction is committed ---- */

/* sqlstate may be NULL; changes: queue rows and entries that failed. */
static void
notify_failure(int64 run_id, const char *status, const char *sqlstate,
			   const char *phase, int64 changes)
{
	Async_Notify(EKKSYNC_CHANNEL,
				 psprintf("{\"event\":\"failure\",\"run\":" INT64_FORMAT
						  ",\"status\":\"%s\",\"sqlstate\":%s%s%s,"
						  "\"phase\":\"%s\",\"changes\":" INT64_FORMAT "}",
						  run_id, status, sqlstate ? "\"" : "",
						  sqlstate ? sqlstate : "null", sqlstate ? "\"" : "",
						  phase, changes));
}

/*
 * A run for all members has succeeded: were there others before it that had
 * not?
 */
static void
notify_recovery(int64 run_id)
{
	Oid types[] = {INT8OID};
	Datum values[] = {Int64GetDatum(run_id)};
	SqlScope scope;
	int64 failed;

	store_sql(
		&scope,
		"SELECT count(*) FROM ekksync.run WHERE id < $1 "
		"AND NOT partial "
		"AND (NOT dry_run OR mode = 'observe') AND id > coalesce(("
		"SELECT id FROM ekksync.run WHERE id < $1 AND status = "
		"'success' AND NOT partial "
		"AND (NOT dry_run OR mode = 'observe') ORDER BY id DESC LIMIT 1), 0)",
		1, types, values, NULL);
	failed = sql_get_int8(0, 1);
	sql_leave(&scope);
	if (failed > 0)
		Async_Notify(EKKSYNC_CHANNEL,
					 psprintf("{\"event\":\"recovery\",\"run\":" INT64_FORMAT
							  ",\"after\":" INT64_FORMAT "}",
							  run_id, failed));
}

static void
notify_end(const Run *run, const RunEnd *end)
{
	bool success = strcmp(end->status, "success") == 0;
	int64 changes = run->opt.dry_run ? 0
									 : run->figures.to_firestore_failed +
										   run->figures.to_django_failed;

	if (run->opt.dry_run && strcmp(sync_mode(&run->opt), "observe") != 0)
		return;
	if (!success || changes > 0)
		notify_failure(run->id, end->status, end->sqlstate,
					   progress_last_work(run), changes);
	if (success && !sync_is_partial(&run->opt))
		notify_recovery(run->id);
}

/* ---- runs ---- */

/* Add runs that have ended to the sums, which outlive their records. */
static void
add_to_totals(const int64 *ids, int n)
{
	Oid types[] = {INT8ARRAYOID};
	Datum values[] = {sql_int8_array(ids, n)};

	if (n == 0)
		return;
	store_sql_only(
		"INSERT INTO ekksync.total AS t SELECT "
		"CASE WHEN dry_run AND mode IN ('sync', 'backfill', 'repair') "
		"THEN 'dry_run' ELSE mode END, "
		"status, count(*), sum(extract(epoch FROM finished_at - started_at)), "
		"sum(CASE WHEN dry_run THEN 0 ELSE to_firestore END), "
		"sum(CASE WHEN dry_run THEN 0 ELSE to_django END), "
		"sum(CASE WHEN dry_run THEN 0 ELSE to_firestore_failed END), "
		"sum(CASE WHEN dry_run THEN 0 ELSE to_django_failed END), "
		"sum(CASE WHEN dry_run THEN 0 ELSE conflicts END), "
		"sum(docs_read), sum(docs_written), sum(docs_deleted), "
		"sum(requests), sum(retries), sum(bytes_sent), sum(bytes_received) "
		"FROM ekksync.run WHERE id = ANY ($1) GROUP BY 1, 2 "
		"ON CONFLICT (mode, status) DO UPDATE SET runs = t.runs + "
		"excluded.runs, seconds = t.seconds + excluded.seconds, "
		"to_firestore = t.to_firestore + excluded.to_firestore, "
		"to_django = t.to_django + excluded.to_django, "
		"to_firestore_failed = t.to_firestore_failed + "
		"excluded.to_firestore_failed, "
		"to_django_failed = t.to_django_failed + excluded.to_django_failed, "
		"conflicts = t.conflicts + excluded.conflicts, "
		"docs_read = t.docs_read + excluded.docs_read, "
		"docs_written = t.docs_written + excluded.docs_written, "
		"docs_deleted = t.docs_deleted + excluded.docs_deleted, "
		"requests = t.requests + excluded.requests, "
		"retries = t.retries + excluded.retries, "
		"bytes_sent = t.bytes_sent + excluded.bytes_sent, "
		"bytes_received = t.bytes_received + excluded.bytes_received",
		1, types, values, NULL);
}

void
store_runs_interrupted(void)
{
	MemoryContext cxt = CurrentMemoryContext;
	SqlScope scope;
	int64 *ids;
	int n;
	int i;

	store_sql(&scope,
			  "UPDATE ekksync.run SET status = 'interrupted', "
			  "finished_at = clock_timestamp() WHERE status = 'running' "
			  "RETURNING id, phase, NOT dry_run OR mode = 'observe'",
			  0, NULL, NULL, NULL);
	n = (int) SPI_processed;
	ids = MemoryContextAlloc(cxt, sizeof(int64) * (n + 1));
	for (i = 0; i < n; i++)
	{
		ids[i] = sql_get_int8(i, 1);
		if (sql_get_bool(i, 3))
			notify_failure(ids[i], "interrupted", NULL,
						   sql_get_text(i, 2, CurrentMemoryContext), 0);
	}
	sql_leave(&scope);
	add_to_totals(ids, n);
}

/*
 * Open a run's record: its number goes to the run.  Records left open
 * by runs that died are closed as interrupted (the caller holds the run lock,
 * so nobody else's run is open).
 */
void
store_run_start(Run *run, const char *direction, const char *mode,
				const char *scan)
{
	Oid types[] = {TEXTOID, BOOLOID, BOOLOID,		TEXTOID,
				   TEXTOID, INT4OID, TIMESTAMPTZOID};
	Datum values[] = {sql_text(direction),
					  BoolGetDatum(run->opt.dry_run),
					  BoolGetDatum(sync_is_partial(&run->opt)),
					  sql_text(scan),
					  sql_text(mode),
					  Int32GetDatum(MyProcPid),
					  TimestampTzGetDatum(run->opt.scheduled)};
	SqlScope scope;

	store_runs_interrupted();
	store_sql(&scope,
			  "INSERT INTO ekksync.run (direction, dry_run, partial, scan, "
			  "mode, pid, scheduled) VALUES ($1, $2, $3, $4, $5, $6, $7) "
			  "RETURNING id, started_at",
			  7, types, values, run->opt.scheduled == 0 ? "      n" : NULL);
	run->id = sql_get_int8(0, 1);
	run->started_at = sql_get_time(0, 2);
	sql_leave(&scope);
}

void
store_run_scan(Run *run, const char *scan)
{
	Oid types[] = {INT8OID, TEXTOID};
	Datum values[] = {Int64GetDatum(run->id), sql_text(scan)};

	store_sql_only("UPDATE ekksync.run SET scan = $2 WHERE id = $1", 2, types,
				   values, NULL);
}

void
store_run_log(Run *run)
{
	Oid types[] = {INT8OID, TEXTOID};
	Datum values[] = {Int64GetDatum(run->id), sql_text(run->log_id)};

	store_sql_only("UPDATE ekksync.run SET log_document = $2 WHERE id = $1", 2,
				   types, values, run->log_id == NULL ? " n" : NULL);
}

bool
store_run_of_log(const char *log_id, StoreRunLog *log, MemoryContext cxt)
{
	Oid types[] = {TEXTOID};
	Datum values[] = {sql_text(log_id)};
	SqlScope scope;
	bool found;

	memset(log, 0, sizeof(*log));
	store_sql(&scope,
			  "SELECT id, started_at, finished_at, to_firestore::int8, "
			  "to_firestore_failed::int8, to_django::int8, "
			  "to_django_failed::int8, CASE status WHEN 'interrupted' "
			  "THEN 'the run was interrupted' WHEN 'success' THEN NULL "
			  "ELSE error END, "
			  "phase IN ('end', 'stopped') "
			  "FROM ekksync.run WHERE log_document = $1 "
			  "AND finished_at IS NOT NULL ORDER BY id DESC LIMIT 1",
			  1, types, values, NULL);
	found = SPI_processed > 0;
	if (found)
	{
		log->id = sql_get_int8(0, 1);
		log->started_at = sql_get_time(0, 2);
		log->finished_at = sql_get_time(0, 3);
		log->figures.to_firestore = sql_get_int8(0, 4);
		log->figures.to_firestore_failed = sql_get_int8(0, 5);
		log->figures.to_django = sql_get_int8(0, 6);
		log->figures.to_django_failed = sql_get_int8(0, 7);
		log->error = sql_get_text(0, 8, cxt);
		log->ended = sql_get_bool(0, 9);
	}
	sql_leave(&scope);
	return found;
}

/* Figures so far, and the phase that begins. */
void
store_run_progress(Run *run, const char *phase)
{
	FsCost cost = *fs_cost(run->fs);
	const FsClock *clock = fs_clock(run->fs);
	RunFigures *f = &run->figures;
	Oid types[19];
	Datum values[] = {Int64GetDatum(run->id),
					  sql_text(phase),
					  Int64GetDatum(f->to_firestore),
					  Int64GetDatum(f->to_firestore_failed),
					  Int64GetDatum(f->to_django),
					  Int64GetDatum(f->to_django_failed),
					  Int64GetDatum(f->conflicts),
					  Int64GetDatum(cost.docs_read),
					  Int64GetDatum(cost.docs_written),
					  Int64GetDatum(cost.docs_deleted),
					  Int64GetDatum(cost.bytes_sent),
					  Int64GetDatum(cost.bytes_received),
					  Int64GetDatum(cost.requests),
					  Int64GetDatum(cost.retries),
					  Int64GetDatum(run->peak_memory),
					  Int64GetDatum(run->docs_scanned),
					  sql_text(progress_json(run)),
					  Int64GetDatum(clock->skew),
					  Int64GetDatum(clock->error)};
	char nulls[lengthof(values) + 1];
	int i;

	for (i = 0; i < (int) lengthof(values); i++)
	{
		types[i] = INT8OID;
		nulls[i] = ' ';
	}
	types[1] = types[16] = TEXTOID;
	nulls[i] = '\0';
	if (!clock->known)
		nulls[i - 1] = nulls[i - 2] = 'n';
	store_sql_only(
		"UPDATE ekksync.run SET phase = $2, to_firestore = $3, "
		"to_firestore_failed = $4, to_django = $5, "
		"to_django_failed = $6, conflicts = $7, docs_read = $8, "
		"docs_written = $9, docs_deleted = $10, bytes_sent = $11, "
		"bytes_received = $12, requests = $13, retries = $14, "
		"peak_memory_kb = nullif($15, 0), docs_scanned = $16, "
		"phases = $17::jsonb, skew = $18 * interval '1 microsecond', "
		"skew_error = $19 * interval '1 microsecond' "
		"WHERE id = $1",
		lengthof(values), types, values, nulls);
}

void
store_run_end(Run *run, const RunEnd *end)
{
	Oid types[] = {INT8OID, TEXTOID, TEXTOID, TEXTOID};
	Datum values[] = {Int64GetDatum(run->id), sql_text(end->status),
					  sql_text(end->sqlstate), sql_text(end->error)};
	char nulls[] = {' ', ' ', end->sqlstate ? ' ' : 'n',
					end->error ? ' ' : 'n', '\0'};

	store_run_progress(run, end->phase);
	store_sql_only("UPDATE ekksync.run SET status = $2, sqlstate = $3, "
				   "error = $4, finished_at = clock_timestamp() WHERE id = $1",
				   4, types, values, nulls);
	add_to_totals(&run->id, 1);
	notify_end(run, end);
}

/* Number of the newest run that is open, 0 if none. */
int64
store_run_current(void)
{
	SqlScope scope;
	int64 id;

	store_sql(&scope,
			  "SELECT max(id) FROM ekksync.run WHERE status = 'running'", 0,
			  NULL, NULL, NULL);
	id = sql_get_int8(0, 1);
	sql_leave(&scope);
	return id;
}

bool
store_run_is_plain(int64 id, const char *direction)
{
	Oid types[] = {INT8OID, TEXTOID};
	Datum values[] = {Int64GetDatum(id), sql_text(direction)};
	SqlScope scope;
	bool plain;

	store_sql(&scope,
			  "SELECT FROM ekksync.run WHERE id = $1 AND direction = $2 "
			  "AND (NOT dry_run OR mode = 'observe') AND NOT partial",
			  2, types, values, NULL);
	plain = SPI_processed > 0;
	sql_leave(&scope);
	return plain;
}
