/*
 * settings.c
 *		The extension's settings (GUCs ekksync.*).
 *
 * Everything here is set by superusers: for a database by ALTER DATABASE ...
 * SET, or for all in postgresql.conf; ekksync.databases only there.  A run's
 * worker is a session of its own, so what a session sets for itself never
 * reaches a run.
 *
 * May not know: tables, documents, runs.
 */
#include "postgres.h"

#include <limits.h>

#include "utils/guc.h"
#include "utils/timestamp.h"

#include "launcher.h"
#include "pg_compat.h"
#include "schedule.h"
#include "settings.h"

Settings settings;

static const struct config_enum_entry scan_options[] =
	{{"off", SCAN_OFF, false},
	 {"changed", SCAN_CHANGED, false},
	 {"full", SCAN_FULL, false},
	 {NULL, 0, false}};

static const struct config_enum_entry local_delete_options[] =
	{{"deactivate", LOCAL_DELETE_DEACTIVATE, false},
	 {"delete", LOCAL_DELETE_DELETE, false},
	 {NULL, 0, false}};

static const struct config_enum_entry remote_delete_options[] =
	{{"restore", REMOTE_DELETE_RESTORE, false},
	 {"ignore", REMOTE_DELETE_IGNORE, false},
	 {"delete", REMOTE_DELETE_DELETE, false},
	 {NULL, 0, false}};

static const struct config_enum_entry remote_create_options[] =
	{{"reject", REMOTE_CREATE_REJECT, false},
	 {"insert", REMOTE_CREATE_INSERT, false},
	 {NULL, 0, false}};

static const struct config_enum_entry mode_options[] = {{"sync", MODE_SYNC,
														 false},
														{"observe",
														 MODE_OBSERVE, false},
														{NULL, 0, false}};

/*
 * Names that end up in URLs and document names: letters, digits and a few
 * signs.  (A database id may also be "(default)", a project "org:name".)
 */
static bool
check_resource_name(char **newval, void **extra, GucSource source)
{
	const char *p;

	for (p = *newval; *p; p++)
	{
		if ((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') ||
			(*p >= '0' && *p <= '9') || strchr("-_.:()", *p) != NULL)
			continue;
		GUC_check_errdetail(
			"Only letters, digits and \"-_.:()\" are allowed.");
		return false;
	}
	return true;
}

static bool
check_host_port(char **newval, void **extra, GucSource source)
{
	const char *colon = strrchr(*newval, ':');

	if (**newval == '\0')
		return true;
	if (colon == NULL || colon == *newval ||
		strspn(colon + 1, "0123456789") != strlen(colon + 1) ||
		atoi(colon + 1) < 1 || atoi(colon + 1) > 65535 ||
		strpbrk(*newval, "/@?# \t") != NULL)
	{
		GUC_check_errdetail("It must have the form host:port.");
		return false;
	}
	return true;
}

static bool
check_schedule(char **newval, void **extra, GucSource source)
{
	const char *why;
	Schedule *schedule = schedule_parse(*newval, &why);

	if (schedule == NULL)
	{
		GUC_check_errdetail("%s", why);
		GUC_check_errhint(SCHEDULE_HINT);
		return false;
	}
	pfree(schedule);
	return true;
}

static bool
check_timezone(char **newval, void **extra, GucSource source)
{
	if (schedule_zone(*newval) != NULL)
		return true;
	GUC_check_errdetail("There is no such time zone.");
	GUC_check_errhint(SCHEDULE_ZONE_HINT);
	return false;
}

/* A run needs some documents for itself. */
static bool
check_day_limit(int *newval, void **extra, GucSource source)
{
	if (*newval == 0 || *newval >= DAY_LIMIT_MIN)
		return true;
	GUC_check_errdetail("It must be 0 (no limit), or at least %d.",
						DAY_LIMIT_MIN);
	return false;
}

/*
 * What tells late echoes of a run's writes from edits is needed as long as
 * they may come.
 */
static bool
check_echo_days(int *newval, void **extra, GucSource source)
{
	if (*newval == 0 || *newval >= ECHO_DAYS)
		return true;
	GUC_check_errdetail("It must be 0 (for ever), or at least %d days.",
						ECHO_DAYS);
	return false;
}

static void
define_checked(const char *name, const char *desc, int *var, int boot,
			   GucIntCheckHook check)
{
	DefineCustomIntVariable(name, desc, NULL, var, boot, 0, INT_MAX, PGC_SUSET,
							0, check, NULL, NULL);
}

static void
define_price(const char *name, const char *desc, double *var, double boot)
{
	DefineCustomRealVariable(name, desc, NULL, var, boot, 0, 1e6, PGC_SUSET, 0,
							 NULL, NULL, NULL);
}

static bool
check_databases(char **newval, void **extra, GucSource source)
{
	char *list = pstrdup(*newval);
	List *names = NIL;
	ListCell *cell;
	bool valid = launcher_split(list, &names);

	if (!valid)
		GUC_check_errdetail("List syntax is invalid.");
	else if (list_length(names) > LAUNCHER_DATABASES)
	{
		GUC_check_errdetail("There may be %d databases at most.",
							LAUNCHER_DATABASES);
		valid = false;
	}
	foreach (cell, names)
	{
		if (strlen(lfirst(cell)) < NAMEDATALEN)
			continue;
		GUC_check_errdetail("The name \"%s\" is too long.",
							(char *) lfirst(cell));
		valid = false;
	}
	list_free(names);
	pfree(list);
	return valid;
}

static void
define_int(const char *name, const char *desc, int *var, int boot, int min,
		   int max, int flags)
{
	DefineCustomIntVariable(name, desc, NULL, var, boot, min, max, PGC_SUSET,
							flags, NULL, NULL, NULL);
}

static void
define_budgets(void)
{
	define_int(
		"ekksync.max_writes_per_second",
		"Most documents that a run writes in a second; 0: 500, and half "
		"more every five minutes, and no limit with an emulator; -1: no "
		"limit.",
		&settings.max_writes_per_second, 0, -1, 1000000, 0);
	define_checked("ekksync.max_reads_per_day",
				   "Most documents that runs read in a day of Firestore's "
				   "quota; 0: no limit.",
				   &settings.max_reads_per_day, 0, check_day_limit);
	define_checked("ekksync.max_writes_per_day",
				   "Most documents that runs write or delete in a day of "
				   "Firestore's quota; 0: no limit.",
				   &settings.max_writes_per_day, 0, check_day_limit);
	define_price("ekksync.price_reads", "Price of 100,000 documents read.",
				 &settings.price_reads, 0.06);
	define_price("ekksync.price_writes", "Price of 100,000 documents written.",
				 &settings.price_writes, 0.18);
	define_price("ekksync.price_deletes",
				 "Price of 100,000 documents deleted.",
				 &settings.price_deletes, 0.02);
}

static void
define_retention(void)
{
	define_int("ekksync.queue_days",
			   "Days that synced rows of the queue are kept; 0: for ever.",
			   &settings.queue_days, 30, 0, 36500, 0);
	define_int("ekksync.inbox_days",
			   "Days that closed queue entries of Firestore are kept in "
			   "PostgreSQL; 0: for ever.",
			   &settings.inbox_days, 90, 0, 36500, 0);
	define_checked(
		"ekksync.conflict_days",
		"Days that conflicts are kept that nothing is to be decided "
		"about; 0: for ever.",
		&settings.conflict_days, 400, check_echo_days);
	define_checked("ekksync.change_log_days",
				   "Days that it is kept what runs have written; 0: for ever.",
				   &settings.change_log_days, 400, check_echo_days);
	define_int("ekksync.run_days",
			   "Days that the records of runs are kept; 0: for ever.",
			   &settings.run_days, 400, 0, 36500, 0);
	define_int("ekksync.remote_queue_days",
			   "Days after which entries that runs have synced are deleted "
			   "from sync_queue in Firestore; 0: never.",
			   &settings.remote_queue_days, 0, 0, 36500, 0);
	define_int("ekksync.remote_log_days",
			   "Days after which documents of runs are deleted from sync_logs "
			   "in Firestore; 0: never.",
			   &settings.remote_log_days, 0, 0, 36500, 0);
}

void
settings_define(void)
{
	DefineCustomStringVariable(
		"ekksync.project", "Google Cloud project of the Firestore database.",
		NULL, &settings.project, "", PGC_SUSET, 0, check_resource_name, NULL,
		NULL);
	DefineCustomStringVariable("ekksync.database_id",
							   "Id of the Firestore database in the project.",
							   NULL, &settings.database_id, "(default)",
							   PGC_SUSET, 0, check_resource_name, NULL, NULL);
	DefineCustomStringVariable(
		"ekksync.emulator_host",
		"Firestore emulator to use instead of the service, as host:port.",
		"When empty, FIRESTORE_EMULATOR_HOST of the server's environment is "
		"honoured.",
		&settings.emulator_host, "", PGC_SUSET, 0, check_host_port, NULL,
		NULL);
	DefineCustomStringVariable(
		"ekksync.credentials",
		"Key file of the service account that works with the Firestore "
		"service.",
		"When empty, GOOGLE_APPLICATION_CREDENTIALS of the server's "
		"environment is honoured, and without that the metadata server.",
		&settings.credentials, "", PGC_SUSET, GUC_SUPERUSER_ONLY, NULL, NULL,
		NULL);
	DefineCustomStringVariable(
		"ekksync.databases",
		"Databases in which runs are made on schedule, separated by commas.",
		"The library must be in shared_preload_libraries.",
		&settings.databases, "", PGC_SIGHUP, GUC_LIST_INPUT, check_databases,
		NULL, NULL);
	DefineCustomEnumVariable(
		"ekksync.scan",
		"Which documents a run looks at besides those named by queue entries.",
		NULL, &settings.scan, SCAN_CHANGED, scan_options, PGC_SUSET, 0, NULL,
		NULL, NULL);
	DefineCustomEnumVariable(
		"ekksync.on_local_delete",
		"What becomes of the document of a member deleted in PostgreSQL.",
		NULL, &settings.on_local_delete, LOCAL_DELETE_DEACTIVATE,
		local_delete_options, PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomEnumVariable(
		"ekksync.on_remote_delete",
		"What becomes of a member that was deleted in Firestore.",
		"Its document is gone or was set inactive, or an entry with action "
		"delete names it.",
		&settings.on_remote_delete, REMOTE_DELETE_RESTORE,
		remote_delete_options, PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomEnumVariable(
		"ekksync.on_remote_create",
		"What becomes of a member of Firestore that PostgreSQL does not know.",
		NULL, &settings.on_remote_create, REMOTE_CREATE_REJECT,
		remote_create_options, PGC_SUSET, 0, NULL, NULL, NULL);
	define_int("ekksync.full_scan_interval",
			   "Days after which a run looks at all documents, whatever "
			   "ekksync.scan says; 0: never by itself.",
			   &settings.full_scan_interval, 7, 0, 3650, 0);
	define_int("ekksync.tombstone_days",
			   "Days after which a deleted member may be forgotten; 0: never.",
			   &settings.tombstone_days, 400, 0, 36500, 0);
	define_int("ekksync.conflict_window",
			   "Changes of one field on both sides within this time are a "
			   "potential conflict.",
			   &settings.conflict_window, 3600, 0, INT_MAX / 1000, GUC_UNIT_S);
	define_int("ekksync.max_delete_percent",
			   "A run that would take something away from more than this "
			   "share of the members stops before it writes.",
			   &settings.max_delete_percent, 10, 0, 100, 0);
	define_int("ekksync.max_clock_skew",
			   "Where this server's clock and Firestore's are further apart, "
			   "a field that both sides changed waits; 0 is no limit.",
			   &settings.max_clock_skew, 60, 0, INT_MAX / 1000, GUC_UNIT_S);
	DefineCustomEnumVariable("ekksync.mode",
							 "Whether runs write, or only observe and report.",
							 NULL, &settings.mode, MODE_SYNC, mode_options,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	define_int("ekksync.connect_timeout",
			   "Longest time to wait for a connection to Firestore.",
			   &settings.connect_timeout, 10000, 100, 600000, GUC_UNIT_MS);
	define_int("ekksync.request_timeout",
			   "Longest time to wait for an answer of Firestore.",
			   &settings.request_timeout, 60000, 100, 3600000, GUC_UNIT_MS);
	define_int(
		"ekksync.max_retries",
		"How often one request is sent again after a failure that may pass.",
		&settings.max_retries, 5, 0, 20, 0);
	DefineCustomStringVariable(
		"ekksync.schedule", "When the worker starts a run by itself.",
		"In cron's form: minute, hour, day of the month, month, day of the "
		"week; when empty, never.",
		&settings.schedule, "30 3 * * *", PGC_SUSET, 0, check_schedule, NULL,
		NULL);
	DefineCustomStringVariable("ekksync.timezone",
							   "Time zone of ekksync.schedule.", NULL,
							   &settings.timezone, "Atlantic/Reykjavik",
							   PGC_SUSET, 0, check_timezone, NULL, NULL);
	DefineCustomBoolVariable(
		"ekksync.catch_up",
		"Whether a run that was due while the worker could not start it is "
		"started when it can.",
		NULL, &settings.catch_up, true, PGC_SUSET, 0, NULL, NULL, NULL);

	define_budgets();
	define_retention();

	MarkGUCPrefixReserved("ekksync");
}

const char *
settings_emulator_host(void)
{
	const char *env;

	if (settings.emulator_host != NULL && settings.emulator_host[0] != '\0')
		return settings.emulator_host;
	env = getenv("FIRESTORE_EMULATOR_HOST");
	return (env != NULL && env[0] != '\0') ? env : NULL;
}

const char *
settings_scan_name(ScanMode mode)
{
	return scan_options[mode].name;
}

bool
settings_clock_wrong(int64 skew, int64 error)
{
	int64 limit = (int64) settings.max_clock_skew * USECS_PER_SEC;

	return limit > 0 && (skew < 0 ? -skew : skew) - error > limit;
}
