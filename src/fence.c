/*
 * fence.c
 *		A run's document in sync_logs: fence at its start, record at its end.
 *
 * The document's id is made of the attachment's uuid and the run's number, so
 * two copies of one database (a restored backup, an old primary) meet at the
 * first run that both do: the second finds the document there, with another
 * token, and pauses.
 *
 * May not know: members.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "utils/memutils.h"

#include "fence.h"
#include "settings.h"
#include "store.h"

/* Paths of a sync_logs document that are written one by one. */
static void
add_value(FsWrite *w, const char *path, const char *value)
{
	FieldPath *parsed = palloc(sizeof(FieldPath));
	SyncError err = {0};

	if (!path_parse(path, parsed, &err))
		elog(ERROR, "ekksync: %s", err.message);
	w->values[w->nvalues].path = parsed;
	w->values[w->nvalues++].value = value;
}

static char *
string_value(const char *s)
{
	return psprintf("{\"stringValue\":%s}", canon_from_text(s));
}

static char *
time_value(TimestampTz t)
{
	return psprintf("{\"timestampValue\":\"%s\"}", time_format(t));
}

static char *
int_value(int64 n)
{
	return psprintf("{\"integerValue\":\"" INT64_FORMAT "\"}", n);
}

/* Pause, in a transaction of its own, and throw. */
static void
pause_and_stop(const char *reason)
{
	tx_begin();
	store_pause(reason, true);
	tx_commit();
	ereport(
		ERROR,
		(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		 errmsg("ekksync is paused: %s", reason),
		 errhint(
			 "Call ekksync_resume() on the copy that is to go on; "
			 "ekksync_run(dry_run => true) then shows what a run would do.")));
}

/*
 * The base belongs to one project, database and cluster.  Another project or
 * database, once it is accepted, is a first contact; a cluster that was copied
 * keeps its base.
 */
static void
check_binding(Run *run)
{
	int64 system = (int64) GetSystemIdentifier();
	StoreState state;
	const char *reason = NULL;
	bool moved;

	tx_begin();
	store_state(&state, run->cxt);
	moved = state.project != NULL &&
			(strcmp(state.project, settings.project) != 0 ||
			 strcmp(state.database_id, settings.database_id) != 0);
	if (run->opt.dry_run)
		run->anew = moved;
	else if (state.project == NULL || state.accepted)
	{
		if (moved)
		{
			store_forget_base();
			run->last_scan = 0;
		}
		store_bind(settings.project, settings.database_id, system);
	}
	else if (moved)
		reason =
			"the Firestore project or database is not the one of the last run";
	else if (state.system_identifier != system)
		reason = "this is not the database cluster of the last run";
	tx_commit();
	if (reason != NULL)
		pause_and_stop(reason);
}

/* Is the document there ours, its creation only unanswered? */
static bool
is_ours(Run *run)
{
	FsDoc doc;
	FsError err;
	TimestampTz read_time;
	const cJSON *token;

	if (!fs_get(run->fs, "sync_logs", &run->log_id, 1, NULL, -1, &doc,
				&read_time, &err))
		run_stop(&err);
	token = cJSON_GetObjectItemCaseSensitive(doc.fields, "token");
	token = cJSON_GetObjectItemCaseSensitive(token, "stringValue");
	return cJSON_GetStringValue(token) != NULL &&
		   strcmp(cJSON_GetStringValue(token), run->token) == 0;
}

void
fence_raise(Run *run)
{
	FsFieldValue values[8];
	FsWrite w = {0};

	check_binding(run);
	if (run->opt.dry_run)
		return;
	run->log_id =
		psprintf("ekksync-%s-" INT64_FORMAT, run->map->uuid, run->id);
	tx_begin();
	store_run_log(run);
	tx_commit();

	w.collection = "sync_logs";
	w.id = run->log_id;
	w.pre = FS_PRE_MISSING;
	w.values = values;
	add_value(&w, "type", string_value("bidirectional_sync"));
	add_value(&w, "status", string_value("running"));
	add_value(&w, "run", int_value(run->id));
	add_value(&w, "token", string_value(run->token));
	add_value(&w, "created_at", time_value(run->started_at));
	fs_write(run->fs, &w, 1);
	if (w.error.class != FS_OK && w.error.class != FS_REREAD)
		run_stop(&w.error);
	if (w.error.class == FS_REREAD && !is_ours(run))
		pause_and_stop(
			"another copy of this database has already made this run");
	run->logged = true;
}

/* {success, failed} of one direction. */
static void
add_figures(FsWrite *w, const char *direction, int64 success, int64 failed)
{
	add_value(w, psprintf("stats.%s.success", direction), int_value(success));
	add_value(w, psprintf("stats.%s.failed", direction), int_value(failed));
}

void
fence_lower(Run *run, const ErrorData *error)
{
	TimestampTz now = GetCurrentTimestamp();
	FsFieldValue values[16];
	FsWrite w = {0};
	int category = 0;

	/*
	 * Where Firestore can't be reached there is nothing to write to; and a run
	 * that was told to stop waits for nobody.
	 */
	if (error != NULL)
		category = ERRCODE_TO_CATEGORY(error->sqlerrcode);
	if (!run->logged || category == ERRCODE_CONNECTION_EXCEPTION ||
		category == ERRCODE_OPERATOR_INTERVENTION)
		return;
	w.collection = "sync_logs";
	w.id = run->log_id;
	w.pre = FS_PRE_EXISTS;
	w.values = values;
	add_value(&w, "status",
			  string_value(error || run->stuck > 0 ? "failed" : "success"));
	add_value(&w, "stats.started_at", time_value(run->started_at));
	add_value(&w, "stats.completed_at", time_value(now));
	add_value(&w, "stats.duration_seconds",
			  psprintf("{\"doubleValue\":%.3f}",
					   (now - run->started_at) / (double) USECS_PER_SEC));
	add_value(&w, "stats.last_sync",
			  run->last_scan ? time_value(run->last_scan)
							 : "{\"nullValue\":null}");
	add_figures(&w, "firestore_to_django", run->figures.to_django,
				run->figures.to_django_failed);
	add_figures(&w, "django_to_firestore", run->figures.to_firestore,
				run->figures.to_firestore_failed);
	add_value(&w, "stats.error",
			  error			   ? string_value(error->message)
			  : run->stuck > 0 ? string_value(run->stuck_error)
							   : "{\"nullValue\":null}");
	add_value(&w, "completed_at", time_value(now));
	if (!fs_write(run->fs, &w, 1) || w.error.class != FS_OK)
		ereport(LOG, (errmsg("could not complete the sync_logs document of "
							 "ekksync run " INT64_FORMAT ": %s",
							 run->id, w.error.message)));
}
