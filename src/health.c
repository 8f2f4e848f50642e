/*
 * health.c
 *		Health means progress: ok only while changes get across.
 *
 * Judged anew at each call, from what the tables say now: what is well again
 * is so by itself.
 *
 * May not know: how a run works, HTTP.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "health.h"
#include "look.h"
#include "pg_compat.h"
#include "schedule.h"
#include "scope.h"
#include "settings.h"
#include "sqlvalue.h"

/* Why it may be degraded; each is in docs/reference.md. */
static const char *const words[] =
	{"mapping_unusable",	 "field_suspended",
	 "trigger_missing",		 "no_token",
	 "run_failed",			 "run_interrupted",
	 "run_stopped",			 "clock_skew",
	 "pending_old",			 "no_success_to_firestore",
	 "no_success_to_django", "changes_failed"};

/* How long without progress is too long where no schedule says it. */
#define PATIENCE (2 * USECS_PER_DAY)

/* ---- what there is ---- */

static void
read_queue(Health *h, const Mapping *map)
{
	SqlScope scope;

	sql_enter(&scope, map->queue_owner);
	sql_run(psprintf("SELECT count(*) FILTER (WHERE sync_status = 'pending'), "
					 "count(*) FILTER (WHERE sync_status = 'failed'), "
					 "min(created_at) FILTER (WHERE sync_status = 'pending') "
					 "FROM %s WHERE sync_status IN ('pending', 'failed')",
					 map->queue_table),
			0, NULL, NULL, NULL, true, 0);
	h->pending = sql_get_int8(0, 1);
	h->failed = sql_get_int8(0, 2);
	h->oldest = sql_get_time(0, 3);
	sql_leave(&scope);
}

static void
read_state(Health *h)
{
	MemoryContext cxt = CurrentMemoryContext;
	SqlScope scope;

	sql_enter(&scope, ekksync_owner_oid());
	sql_run("SELECT s.paused, s.paused_reason, "
			"(SELECT count(*) FROM ekksync.member WHERE first_contact), "
			"(SELECT count(*) FROM ekksync.inbox "
			"WHERE error_message IS NOT NULL), "
			"(SELECT count(*) FROM ekksync.conflict "
			"WHERE winner = 'none' AND resolved_at IS NULL), "
			"(SELECT count(*) FROM ekksync.stranger), "
			"(SELECT finished_at FROM ekksync.run WHERE status = 'success' "
			"AND NOT partial AND (NOT dry_run OR mode = 'observe') "
			"AND direction <> 'to_django' ORDER BY id DESC LIMIT 1), "
			"(SELECT finished_at FROM ekksync.run WHERE status = 'success' "
			"AND NOT partial AND (NOT dry_run OR mode = 'observe') "
			"AND direction <> 'to_firestore' ORDER BY id DESC LIMIT 1), "
			"EXISTS (SELECT FROM ekksync.at_work) FROM ekksync.state s",
			0, NULL, NULL, NULL, true, 0);
	if (SPI_processed > 0)
	{
		h->paused = sql_get_bool(0, 1);
		h->paused_reason = sql_get_text(0, 2, cxt);
		h->first_contact = sql_get_int8(0, 3);
		h->entries_failed = sql_get_int8(0, 4);
		h->held = sql_get_int8(0, 5);
		h->strangers = sql_get_int8(0, 6);
		h->to_firestore_at = sql_get_time(0, 7);
		h->to_django_at = sql_get_time(0, 8);
		h->at_work = sql_get_bool(0, 9);
	}
	sql_leave(&scope);
}

/*
 * The last run; or, with whole, the last that was for all members.  One whose
 * record is open, but whose worker no longer holds
 * the run lock, has died; a standby does not see locks.
 */
static void
read_run(HealthRun *run, bool whole)
{
	MemoryContext cxt = CurrentMemoryContext;
	Oid types[] = {BOOLOID};
	Datum values[] = {BoolGetDatum(whole)};
	SqlScope scope;

	sql_enter(&scope, ekksync_owner_oid());
	sql_run("SELECT id, started_at, "
			"CASE WHEN status = 'running' AND NOT pg_is_in_recovery() "
			"AND NOT EXISTS (SELECT FROM ekksync.at_work a WHERE a.pid = "
			"r.pid) THEN 'interrupted' ELSE status END, sqlstate, error, "
			"(extract(epoch FROM skew) * 1000000)::int8, "
			"(extract(epoch FROM skew_error) * 1000000)::int8, "
			"skew IS NOT NULL, peak_memory_kb, (extract(epoch FROM "
			"coalesce(finished_at, clock_timestamp()) - started_at) "
			"* 1000000)::int8 FROM ekksync.run r "
			"WHERE (NOT dry_run OR mode = 'observe') AND NOT ($1 AND partial) "
			"ORDER BY id DESC LIMIT 1",
			1, types, values, NULL, true, 0);
	if (SPI_processed > 0)
	{
		run->id = sql_get_int8(0, 1);
		run->started_at = sql_get_time(0, 2);
		run->status = sql_get_text(0, 3, cxt);
		run->sqlstate = sql_get_text(0, 4, cxt);
		run->error = sql_get_text(0, 5, cxt);
		run->skew = sql_get_int8(0, 6);
		run->skew_error = sql_get_int8(0, 7);
		run->clock_known = sql_get_bool(0, 8);
		run->peak_memory_kb = sql_get_int8(0, 9);
		run->seconds = sql_get_int8(0, 10) / (double) USECS_PER_SEC;
	}
	sql_leave(&scope);
}

List *
health_unwatched(const Mapping *map)
{
	MemoryContext cxt = CurrentMemoryContext;
	Oid types[] = {OIDOID, TEXTOID};
	List *found = NIL;
	SqlScope scope;
	int i;

	sql_enter(&scope, ekksync_owner_oid());
	for (i = 0; i <= map->nwatched; i++)
	{
		bool queue = i == map->nwatched;
		Datum values[2];
		char *name;
		MemoryContext old;

		values[0] =
			ObjectIdGetDatum(queue ? map->queue_relid : map->watched[i].relid);
		values[1] =
			sql_text(queue ? "ekksync.note_by_hand" : "ekksync.capture");
		sql_run("SELECT count(*), $1::regclass::text FROM pg_trigger "
				"WHERE tgrelid = $1 AND tgenabled IN ('O', 'A') "
				"AND tgfoid = $2::regproc",
				2, types, values, NULL, true, 0);
		if (sql_get_int8(0, 1) >= 2)
			continue;
		name = sql_get_text(0, 2, cxt);
		old = MemoryContextSwitchTo(cxt);
		found = lappend(found, name);
		MemoryContextSwitchTo(old);
	}
	sql_leave(&scope);
	return found;
}

/* ---- too long without progress ---- */

/*
 * By when is what has been waiting since then to be done: two periods of the
 * schedule later, and not before two runs were due.
 */
static TimestampTz
deadline(TimestampTz since)
{
	const char *why;
	const Schedule *schedule = schedule_parse(settings.schedule, &why);
	pg_tz *zone = schedule_zone(settings.timezone);
	TimestampTz after = since;
	TimestampTz due[3];
	int i;

	if (TIMESTAMP_NOT_FINITE(since))
		return since;
	for (i = 0; i < (int) lengthof(due); i++)
	{
		if (schedule == NULL || zone == NULL ||
			!schedule_next(schedule, zone, after, &due[i]))
			return since + PATIENCE;
		after = due[i];
	}
	return Max(since + (due[2] - due[0]), due[1]);
}

static bool
is_overdue(TimestampTz since)
{
	return deadline(since) < GetCurrentTimestamp();
}

/* How long ago, in words. */
static char *
age_text(TimestampTz since)
{
	int64 minutes = (GetCurrentTimestamp() - since) / USECS_PER_MINUTE;

	if (minutes >= 2 * MINS_PER_HOUR * HOURS_PER_DAY)
		return psprintf(INT64_FORMAT " days",
						minutes / (MINS_PER_HOUR * HOURS_PER_DAY));
	if (minutes >= 2 * MINS_PER_HOUR)
		return psprintf(INT64_FORMAT " hours", minutes / MINS_PER_HOUR);
	return psprintf(INT64_FORMAT " minutes", minutes);
}

/* ---- the reasons ---- */

static void
add(Health *h, const char *word, char *text)
{
	HealthReason *reason = palloc(sizeof(HealthReason));

	reason->word = word;
	reason->text = text;
	h->reasons = lappend(h->reasons, reason);
}

/*
 * A run's error, for those who may see members; others are given its SQLSTATE,
 * as a message of PostgreSQL may quote a value.
 */
static const char *
run_error(const Health *h, const Mapping *map)
{
	if (h->whole.error == NULL)
		return "its worker ended";
	if (map->queue_table != NULL &&
		pg_class_aclcheck(map->queue_relid, GetUserId(), ACL_SELECT) ==
			ACLCHECK_OK)
		return h->whole.error;
	return psprintf("%s%s; its message is in ekksync_runs",
					h->whole.sqlstate ? "SQLSTATE " : "no SQLSTATE",
					h->whole.sqlstate ? h->whole.sqlstate : "");
}

/*
 * The settled words for how the last run for all members ended, if it did not
 * succeed: one for some members says nothing of the others.
 */
static void
judge_run(Health *h, const Mapping *map)
{
	const char *status = h->whole.status;
	const char *code = h->whole.sqlstate ? h->whole.sqlstate : "";

	if (status == NULL)
		return;
	if (strcmp(status, "interrupted") == 0)
		add(h, "run_interrupted",
			"the last run was interrupted: its worker "
			"ended");
	else if (strcmp(status, "stopped") == 0)
		add(h, "run_stopped",
			psprintf("the last run stopped: %s", run_error(h, map)));
	else if (strcmp(status, "failed") == 0)
		add(h, strcmp(code, "28000") == 0 ? "no_token" : "run_failed",
			psprintf("the last run failed: %s", run_error(h, map)));
}

/* Does every field still have its column, and every change its trigger? */
static void
judge_tables(Health *h, const Mapping *map)
{
	List *unwatched;
	int suspended = 0;
	int first = -1;
	int f;

	if (map->problem != NULL)
	{
		add(h, "mapping_unusable",
			psprintf("the mapping cannot be used: %s", map->problem));
		return;
	}
	if (map->queue_lacks != NULL)
		add(h, "mapping_unusable",
			psprintf("the queue table lacks the column \"%s\"",
					 map->queue_lacks));
	for (f = 0; f < map->nfields; f++)
		if (map->fields[f].problem != NULL && suspended++ == 0)
			first = f;
	if (suspended > 0)
		add(h, "field_suspended",
			psprintf("field \"%s\" is suspended: %s%s",
					 map->fields[first].name, map->fields[first].problem,
					 suspended > 1 ? psprintf("; and %d more", suspended - 1)
								   : ""));
	unwatched = health_unwatched(map);
	if (unwatched != NIL)
		add(h, "trigger_missing",
			psprintf("a trigger on %s is missing or disabled, so that changes "
					 "are missed%s",
					 (char *) linitial(unwatched),
					 list_length(unwatched) > 1
						 ? psprintf("; and on %d more tables",
									list_length(unwatched) - 1)
						 : ""));
}

static void
judge_direction(Health *h, const Mapping *map, const char *word,
				const char *side, TimestampTz last)
{
	TimestampTz since = Max(last, map->attached_at);

	if (!is_overdue(since))
		return;
	add(h, word,
		psprintf(last == 0 ? "no run has ever written to %s, attached %s ago"
						   : "no run to %s has succeeded for %s",
				 side, age_text(since)));
}

static void
judge_progress(Health *h, const Mapping *map)
{
	TimestampTz oldest = Max(h->oldest, map->attached_at);
	bool observe = settings.mode == MODE_OBSERVE; /* nothing is settled */

	if (h->oldest != 0 && !observe && is_overdue(oldest))
		add(h, "pending_old",
			psprintf("the oldest pending change has waited for %s",
					 age_text(oldest)));
	judge_direction(h, map, "no_success_to_firestore", "Firestore",
					h->to_firestore_at);
	judge_direction(h, map, "no_success_to_django", "Django", h->to_django_at);
}

static void
judge_degraded(Health *h, const Mapping *map)
{
	judge_tables(h, map);
	judge_run(h, map);
	if (settings_clock_wrong(h->run.skew, h->run.skew_error))
		add(h, "clock_skew",
			psprintf("at the last run this server's clock was %s; fields "
					 "changed on both sides wait until it is right",
					 clock_text(h->run.skew)));
	judge_progress(h, map);
	if (h->failed + h->entries_failed > 0)
		add(h, "changes_failed",
			psprintf("failed changes, see ekksync_failed: " INT64_FORMAT
					 " of Django, " INT64_FORMAT " of Firestore",
					 h->failed, h->entries_failed));
}

void
health_judge(Health *h, const Mapping *map)
{
	memset(h, 0, sizeof(*h));
	if (map == NULL)
	{
		h->state = "detached";
		add(h, "detached", "nothing is attached");
		return;
	}
	if (map->queue_table != NULL && map->queue_lacks == NULL)
		read_queue(h, map);
	read_state(h);
	read_run(&h->run, false);
	read_run(&h->whole, true);
	if (h->paused)
	{
		h->state = "paused";
		add(h, "paused", h->paused_reason);
		return;
	}
	judge_degraded(h, map);
	if (h->reasons != NIL)
		h->state = "degraded";
	else if (settings.mode == MODE_OBSERVE)
	{
		h->state = "observe";
		add(h, "observe",
			"ekksync.mode is observe: runs report, and write nothing");
	}
	else
		h->state = "ok";
}

/* ---- for those who show it ---- */

const char *
health_word(int i)
{
	return i < (int) lengthof(words) ? words[i] : NULL;
}

List *
health_words(const Health *h)
{
	List *list = NIL;
	ListCell *lc;

	foreach (lc, h->reasons)
	{
		const HealthReason *reason = lfirst(lc);

		list = lappend(list, unconstify(char *, reason->word));
	}
	return list;
}

char *
health_text(const Health *h)
{
	StringInfoData buf;
	ListCell *lc;

	initStringInfo(&buf);
	foreach (lc, h->reasons)
	{
		const char *text = ((HealthReason *) lfirst(lc))->text;

		if (text != NULL)
			appendStringInfo(&buf, "%s%s", buf.len > 0 ? "; " : "", text);
	}
	return buf.len > 0 ? buf.data : NULL;
}
