/*
 * fence.c
 *		A run's document in sync_logs: fence at its start, record at its end.
 *
 * The document's id is made of the attachment's uuid and a number, and holds a
 * token that only we know.  A run looks for the document of the last one and
 * creates the next, so that of two copies of one database (a restored backup,
 * an old primary) the one that comes second to a number, or whose last
 * document is not its own or not there, pauses.
 *
 * Number and token are committed before they are sent, and what is known of
 * them after the answer.  A token whose answer never came may stand in the
 * document by an earlier run of ours, or by a copy made just then: such a
 * number is used up, and the next one tells.
 *
 * May not know: members.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "utils/memutils.h"

#include "fence.h"
#include "settings.h"
#include "steps.h"
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

/* ---- binding ---- */

/* Pause, in a transaction of its own, and throw. */
static void
pause_and_stop(const char *reason)
{
	tx_begin();
	store_pause(reason, true);
	tx_commit();
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("ekksync is paused: %s", reason),
			 errhint("ekksync_run(dry_run => true) shows what a run would "
					 "do; call ekksync_resume() on the copy that is to go "
					 "on.")));
}

/*
 * The base belongs to one project, database and cluster.  Another project or
 * database, once it is accepted, is a first contact; a cluster that was copied
 * keeps its base.  Returns whether what is found anew is accepted.
 */
static bool
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
	return state.accepted;
}

/* ---- the run's document as a record ---- */

/* {success, failed} of one direction. */
static void
add_figures(FsWrite *w, const char *direction, int64 success, int64 failed)
{
	add_value(w, psprintf("stats.%s.success", direction), int_value(success));
	add_value(w, psprintf("stats.%s.failed", direction), int_value(failed));
}

/* Complete the document of a run. */
static void
complete(Run *run, const char *log_id, const StoreRunLog *log)
{
	static const char *const null = "{\"nullValue\":null}";
	const RunFigures *f = &log->figures;
	FsFieldValue values[16];
	FsWrite w = {0};

	w.collection = "sync_logs";
	w.id = log_id;
	w.pre = FS_PRE_EXISTS;
	w.values = values;
	add_value(&w, "status", string_value(log->error ? "failed" : "success"));
	add_value(&w, "stats.started_at", time_value(log->started_at));
	add_value(&w, "stats.completed_at", time_value(log->finished_at));
	add_value(&w, "stats.duration_seconds",
			  psprintf("{\"doubleValue\":%.3f}",
					   (log->finished_at - log->started_at) /
						   (double) USECS_PER_SEC));
	add_value(&w, "stats.last_sync",
			  run->last_scan ? time_value(run->last_scan) : null);
	add_figures(&w, "firestore_to_django", f->to_django, f->to_django_failed);
	add_figures(&w, "django_to_firestore", f->to_firestore,
				f->to_firestore_failed);
	add_value(&w, "stats.error", log->error ? string_value(log->error) : null);
	add_value(&w, "completed_at", time_value(log->finished_at));
	if (!fs_write(run->fs, &w, 1) || w.error.class != FS_OK)
		ereport(LOG, (errmsg("could not complete the sync_logs document of "
							 "ekksync run " INT64_FORMAT ": %s",
							 log->id, w.error.message)));
}

/* Complete the document of an earlier run that could not do so itself. */
static void
complete_earlier(Run *run, const char *log_id)
{
	StoreRunLog log;
	bool found;

	tx_begin();
	found = store_run_of_log(log_id, &log, run->cxt);
	tx_commit();
	if (!found)
		return;
	if (log.error == NULL)
		log.error = "the run was interrupted";
	complete(run, log_id, &log);
}

/* ---- the run's document as a fence ---- */

static char *
document_id(const Run *run, int64 number)
{
	return psprintf("ekksync-%s-" INT64_FORMAT, run->map->uuid, number);
}

static const char *
string_in(const FsDoc *doc, const char *name)
{
	const cJSON *value = cJSON_GetObjectItemCaseSensitive(doc->fields, name);
	const char *s = cJSON_GetStringValue(
		cJSON_GetObjectItemCaseSensitive(value, "stringValue"));

	return s != NULL ? s : "";
}

/* A document in sync_logs, all of it. */
static void
read_document(Run *run, char *log_id, FsDoc *doc)
{
	FsError err;

	if (!fs_get(run->fs, "sync_logs", &log_id, 1, NULL, -1, doc, NULL, &err))
		run_stop(&err);
}

/*
 * The last run's document must be there, and ours: else another copy of us
 * has gone on, or this is not the Firestore that it was.  Returns its id if it
 * was never completed, or NULL.
 */
static char *
check_last(Run *run, const StoreFence *fence)
{
	char *log_id = document_id(run, fence->number);
	FsDoc doc;

	if (fence->number == 0)
		return NULL;
	read_document(run, log_id, &doc);
	if (doc.missing)
		pause_and_stop("the last run's document has gone from sync_logs: the "
					   "project was emptied, or another copy of this database "
					   "has gone on");
	if (strcmp(string_in(&doc, "token"), fence->token) != 0)
		pause_and_stop(
			"another copy of this database has already made the last run");
	return strcmp(string_in(&doc, "status"), "running") == 0 ? log_id : NULL;
}

/* The highest number that any copy of us has used, at least the last one's. */
static int64
highest_number(Run *run, const StoreFence *fence)
{
	char *prefix = psprintf("ekksync-%s-", run->map->uuid);
	FsFilter filter = {"attachment", "EQUAL", string_value(run->map->uuid)};
	FsQuery query = {0};
	int64 highest = fence->number;

	query.collection = "sync_logs";
	query.filters = &filter;
	query.nfilters = 1;
	query.limit = EKKSYNC_READ_PAGE;
	query.cxt = run->cxt;
	while (!query.done)
	{
		FsDoc *docs;
		FsError err;
		int n;
		int i;

		if (!fs_query(run->fs, &query, &docs, &n, NULL, &err))
			run_stop(&err);
		for (i = 0; i < n; i++)
			if (strncmp(docs[i].id, prefix, strlen(prefix)) == 0)
				highest = Max(highest, atoll(docs[i].id + strlen(prefix)));
	}
	return highest;
}

/* Create the run's document. */
static void
create_document(Run *run, const char *token, FsWrite *w)
{
	w->collection = "sync_logs";
	w->id = run->log_id;
	w->pre = FS_PRE_MISSING;
	w->values = palloc(sizeof(FsFieldValue) * 8);
	add_value(w, "type", string_value("bidirectional_sync"));
	add_value(w, "status", string_value("running"));
	add_value(w, "run", int_value(run->id));
	add_value(w, "attachment", string_value(run->map->uuid));
	add_value(w, "token", string_value(token));
	add_value(w, "created_at", time_value(run->started_at));
	fs_write(run->fs, w, 1);
}

/* Is the document there ours, its creation only unanswered? */
static bool
is_ours(Run *run, const char *token)
{
	FsDoc doc;

	read_document(run, run->log_id, &doc);
	return strcmp(string_in(&doc, "token"), token) == 0;
}

/*
 * Raise the fence at the number after fence->number.  False if that number
 * was used up by an earlier run that never had an answer.
 */
static bool
raise_next(Run *run, StoreFence *fence)
{
	bool carried = fence->next != NULL;
	FsWrite w = {0};

	run->log_id = document_id(run, fence->number + 1);
	tx_begin();
	if (!carried)
		store_fence_next(fence, run->cxt);
	store_run_log(run);
	tx_commit();
	at_step(fence_noted);
	create_document(run, fence->next, &w);
	if (w.error.class == FS_REREAD && !is_ours(run, fence->next))
		pause_and_stop(
			"another copy of this database has already made this run");
	if (w.error.class != FS_OK && w.error.class != FS_REREAD)
		run_stop(&w.error);
	at_step(fence_sent);
	carried = carried && w.error.class == FS_REREAD;
	tx_begin();
	store_fence_raised();
	if (!carried)
		store_accepted();
	store_fence(fence, run->cxt);
	tx_commit();
	return !carried;
}

void
fence_raise(Run *run)
{
	bool accepted = check_binding(run);
	char *open = NULL;
	StoreFence fence;

	if (run->opt.dry_run)
		return;
	tx_begin();
	store_fence(&fence, run->cxt);
	tx_commit();
	if (accepted)
	{
		fence.number = highest_number(run, &fence);
		fence.next = NULL;
	}
	else
		open = check_last(run, &fence);
	while (!raise_next(run, &fence))
		open = run->log_id;
	run->logged = true;
	at_step(fenced);
	if (open != NULL)
		complete_earlier(run, open);
}

void
fence_lower(Run *run, const ErrorData *error)
{
	StoreRunLog log = {run->id, run->started_at, GetCurrentTimestamp(),
					   run->figures, NULL};
	int category = 0;

	/*
	 * Where Firestore can't be reached there is nothing to write to; and a run
	 * that was told to stop waits for nobody.  The next run completes the
	 * document then.
	 */
	if (error != NULL)
		category = ERRCODE_TO_CATEGORY(error->sqlerrcode);
	if (!run->logged || category == ERRCODE_CONNECTION_EXCEPTION ||
		category == ERRCODE_OPERATOR_INTERVENTION)
		return;
	if (error != NULL)
		log.error = error->message;
	else if (run->stuck > 0)
		log.error = run->stuck_error;
	complete(run, run->log_id, &log);
}
