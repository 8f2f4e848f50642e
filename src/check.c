/*
 * check.c
 *		ekksync_check(): each precondition of a run, met or not.
 *
 * May not know: how a run works.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "auth.h"
#include "firestore.h"
#include "health.h"
#include "launcher.h"
#include "look.h"
#include "mapping.h"
#include "scope.h"
#include "settings.h"
#include "sqlvalue.h"
#include "srf.h"
#include "store.h"

PG_FUNCTION_INFO_V1(ekksync_check);

typedef struct Checks
{
	Tuplestorestate *store;
	TupleDesc desc;
} Checks;

static void
put(Checks *c, const char *name, bool ok, bool ok_isnull, const char *detail,
	const char *hint)
{
	Datum values[4];
	bool isnull[4] = {false, ok_isnull, detail == NULL, hint == NULL};

	values[0] = CStringGetTextDatum(name);
	values[1] = BoolGetDatum(ok);
	values[2] = sql_text(detail);
	values[3] = sql_text(hint);
	tuplestore_putvalues(c->store, c->desc, values, isnull);
}

/* A precondition, met or not; the hint is given where it is not. */
static void
add(Checks *c, const char *name, bool ok, const char *detail, const char *hint)
{
	put(c, name, ok, false, detail, ok ? NULL : hint);
}

/* What is worth to know, but is no precondition: ok is null. */
static void
note(Checks *c, const char *name, const char *detail, const char *hint)
{
	put(c, name, false, true, detail, hint);
}

static void
check_mapping(Checks *c, const Mapping *map)
{
	int nfields = 0;
	int f;

	if (map->problem != NULL)
		add(c, "mapping", false, map->problem,
			"Attach again, or correct the mapping with ekksync_map().");
	for (f = 0; f < map->nfields; f++)
	{
		if (map->fields[f].problem == NULL)
			nfields++;
		else
			add(c, "mapping", false,
				psprintf("field \"%s\" is suspended: %s", map->fields[f].name,
						 map->fields[f].problem),
				"Correct it with ekksync_map(), or drop it with "
				"ekksync_unmap().");
	}
	add(c, "fields", nfields > 0, psprintf("fields mapped: %d", nfields),
		"Map fields with ekksync_map().");
}

/* Every watched table has its enabled triggers? */
static void
check_triggers(Checks *c, const Mapping *map)
{
	List *unwatched = health_unwatched(map);
	ListCell *lc;

	foreach (lc, unwatched)
		add(c, "triggers", false,
			psprintf("a trigger on %s is missing or disabled",
					 (char *) lfirst(lc)),
			"Call ekksync_attach() again: it mends what is missing.");
	if (unwatched == NIL)
		add(c, "triggers", true, psprintf("tables watched: %d", map->nwatched),
			NULL);
}

static void
check_keys(Checks *c, const Mapping *map)
{
	SqlScope scope;
	int64 doubled;
	int64 malformed;
	int64 members;

	sql_enter(&scope, map->owner);
	sql_run(
		psprintf("SELECT count(*) FILTER (WHERE n > 1), "
				 "count(*) FILTER (WHERE k IS NULL OR k !~ '^[0-9]{10}$'), "
				 "coalesce(sum(n), 0)::int8 "
				 "FROM (SELECT %s::text AS k, count(*) AS n FROM %s%s%s "
				 "GROUP BY 1) g",
				 quote_identifier(map->key_column), map->member_table,
				 map->filter ? " WHERE " : "", map->filter ? map->filter : ""),
		0, NULL, NULL, NULL, true, 0);
	doubled = sql_get_int8(0, 1);
	malformed = sql_get_int8(0, 2);
	members = sql_get_int8(0, 3);
	sql_leave(&scope);
	add(c, "keys", doubled == 0 && malformed == 0,
		psprintf(INT64_FORMAT " members; " INT64_FORMAT
							  " kennitala doubled, " INT64_FORMAT
							  " missing or malformed",
				 members, doubled, malformed),
		"These members are not synced until their kennitala is right.");
}

/* What scans cost, and the documents of nobody that they found. */
static void
check_scan(Checks *c)
{
	SqlScope scope;
	int64 known;
	int64 strangers;
	int64 failed;
	int64 scanned;
	char *interval = "never by itself";
	char *weekly = "";

	sql_enter(&scope, ekksync_owner_oid());
	sql_run("SELECT (SELECT count(*) FROM ekksync.member WHERE away IS NULL "
			"AND (tombstone IS NULL OR doc_update_time IS NOT NULL)), "
			"(SELECT count(*) FROM ekksync.stranger), "
			"(SELECT count(*) FROM ekksync.stranger "
			"WHERE tried IS NOT NULL), "
			"(SELECT coalesce(sum(docs_scanned), 0)::int8 FROM ekksync.run "
			"WHERE started_at > clock_timestamp() - interval '7 days')",
			0, NULL, NULL, NULL, true, 0);
	known = sql_get_int8(0, 1);
	strangers = sql_get_int8(0, 2);
	failed = sql_get_int8(0, 3);
	scanned = sql_get_int8(0, 4);
	sql_leave(&scope);
	if (settings.scan == SCAN_FULL)
		interval = "in each run";
	else if (settings.full_scan_interval > 0)
	{
		interval = psprintf("every %d days", settings.full_scan_interval);
		weekly = psprintf(", " INT64_FORMAT " a week",
						  (int64) ((known + strangers) * 7.0 /
									   settings.full_scan_interval +
								   0.5));
	}
	note(c, "scan",
		 psprintf("scan = %s, full %s; a full scan reads " INT64_FORMAT
				  " documents%s; scans of the last 7 days read " INT64_FORMAT,
				  settings_scan_name(settings.scan), interval,
				  known + strangers, weekly, scanned),
		 NULL);
	note(c, "unknown documents",
		 psprintf(INT64_FORMAT " documents are of nobody that PostgreSQL "
							   "knows; " INT64_FORMAT
							   " of them could not be inserted",
				  strangers, failed),
		 strangers > 0 ? "See the view ekksync_strangers, and "
						 "ekksync.on_remote_create."
					   : NULL);
}

/* What retention in Firestore costs, by the last week. */
static void
check_retention(Checks *c)
{
	SqlScope scope;
	int64 entries = 0;
	int64 logs = 0;

	if (settings.remote_queue_days == 0 && settings.remote_log_days == 0)
	{
		note(c, "retention in Firestore",
			 "off: documents of sync_queue and sync_logs are kept", NULL);
		return;
	}
	sql_enter(&scope, ekksync_owner_oid());
	sql_run("SELECT (SELECT count(*) FROM ekksync.inbox "
			"WHERE status = 'closed' AND error_message IS NULL "
			"AND done_at > clock_timestamp() - interval '7 days'), "
			"(SELECT count(log_document) FROM ekksync.run "
			"WHERE started_at > clock_timestamp() - interval '7 days')",
			0, NULL, NULL, NULL, true, 0);
	if (settings.remote_queue_days > 0)
		entries = sql_get_int8(0, 1);
	if (settings.remote_log_days > 0)
		logs = sql_get_int8(0, 2);
	sql_leave(&scope);
	note(c, "retention in Firestore",
		 psprintf("as in the last 7 days, a week costs " INT64_FORMAT
				  " documents read and " INT64_FORMAT " deleted: %.4f",
				  entries, entries + logs,
				  (entries * settings.price_reads +
				   (entries + logs) * settings.price_deletes) /
					  100000),
		 NULL);
}

static void
check_role(Checks *c, const Mapping *map)
{
	char *name = GetUserNameFromId(map->owner, false);

	add(c, "role", true,
		psprintf("a run works as %s%s", name,
				 superuser_arg(map->owner) ? ", a superuser named explicitly"
										   : ""),
		NULL);
}

/* Can a token be had?  The emulator, at host, wants none. */
static bool
check_credentials(Checks *c, const char *host)
{
	SyncError err = {0};
	bool ok = host != NULL || auth_token(NULL, false, &err) != NULL;

	add(c, "credentials", ok,
		host ? "not needed with the emulator"
		: ok ? auth_origin()
			 : err.message,
		"Let ekksync.credentials name the key file of a service account.");
	return ok;
}

/* Ask Firestore for one document that need not exist. */
static void
check_firestore(Checks *c)
{
	const char *host = settings_emulator_host();
	bool ready = check_credentials(c, host);
	char *id = "ekksync-check";
	TimestampTz asked;
	TimestampTz answered;
	char *limit = settings.max_clock_skew == 0
					  ? "there is no limit"
					  : psprintf("the limit is %d s", settings.max_clock_skew);
	const FsClock *clock;
	FsClient *client;
	FsDoc doc;
	FsError err;

	if (settings.project[0] == '\0')
	{
		add(c, "project", false, "ekksync.project is not set",
			"Set it for the database: ALTER DATABASE ... SET ekksync.project "
			"= 'my-project'.");
		return;
	}
	add(c, "project", true,
		psprintf("project %s, database %s, %s%s", settings.project,
				 settings.database_id, host ? "emulator " : "the service",
				 host ? host : ""),
		NULL);
	if (!ready)
		return;
	client = look_client(CurrentMemoryContext);
	asked = GetCurrentTimestamp();
	if (!fs_get(client, "sync_logs", &id, 1, NULL, 0, &doc, NULL, &err))
	{
		add(c, "reachable", false, err.message,
			host ? "Start the emulator, or correct ekksync.emulator_host."
				 : "Check the network, the project and the credentials.");
		return;
	}
	answered = GetCurrentTimestamp();
	add(c, "reachable", true,
		psprintf("answered in %.0f ms", (answered - asked) / 1000.0), NULL);
	clock = fs_clock(client);
	add(c, "clock",
		clock->known && !settings_clock_wrong(clock->skew, clock->error),
		clock->known
			? psprintf("this server's clock is %s, give or take %.1f s; "
					   "%s",
					   clock_text(clock->skew),
					   clock->error / (double) USECS_PER_SEC, limit)
			: "Firestore did not tell its time",
		"Let NTP set this server's clock: last write wins by these clocks.");
}

/* Does the launcher make runs here? */
static void
check_schedule(Checks *c)
{
	LauncherView view;
	char *hint;
	char *silent = launcher_silent(&hint);

	launcher_view(&view);
	if (view.problem[0] != '\0')
		add(c, "schedule", false, silent,
			"It is tried again by itself; pg_reload_conf() does it at once.");
	else if (silent != NULL)
		note(c, "schedule", silent, hint);
	else
		add(c, "schedule", true,
			psprintf("next run at %s", timestamptz_to_str(view.next)), NULL);
}

/*
 * ekksync_check()
 *
 * Waits for Firestore inside the caller's statement, unlike a run.
 */
Datum
ekksync_check(PG_FUNCTION_ARGS)
{
	const Mapping *map = mapping_get();
	StoreState state;
	Checks c;

	c.store = srf_begin(fcinfo, &c.desc);
	add(&c, "attached", map != NULL,
		map ? psprintf("to %s, queue %s", map->member_table, map->queue_table)
			: "nothing is attached",
		"Call ekksync_attach('membership_comrade').");
	if (map != NULL && store_state(&state, CurrentMemoryContext))
	{
		add(&c, "not paused", !state.paused, state.paused_reason,
			"Call ekksync_resume().");
		check_mapping(&c, map);
		check_triggers(&c, map);
		check_keys(&c, map);
		check_scan(&c);
		check_retention(&c);
		check_role(&c, map);
	}
	check_firestore(&c);
	check_schedule(&c);
	return (Datum) 0;
}
