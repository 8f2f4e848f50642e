/*
 * fence.c
 *		A run's document in sync_logs: fence at its start, record at its end.
 *
 * The document's id is made of the attachment's uuid and a number, and holds a
 * token that only we know.  A run looks for the document of the last one and
 * creates the next, so that of two copies of one database (a restored backup,
 * an old primary) the one that comes second to a number, or whose last
 * document is not its own, not there, or was completed by somebody else,
 * pauses.
 *
 * Number and token are committed before they are sent, and what is known of
 * them after the answer.  Only a token that this very process has made up lets
 * a run go on: one that was found in the tables may be known to a copy too.
 * Its number is used up ("skipped"), and the next one tells.  So it is with
 * what ekksync_resume() accepted, which is a token as well.
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

/*
 * Pause, in a transaction of its own, and throw.  The document that the run
 * would have made is somebody else's.
 */
pg_noreturn static void
pause_and_stop(Run *run, const char *reason)
{
	run->log_id = NULL;
	tx_begin();
	store_pause(reason, true);
	store_run_log(run);
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
			run->scan_after = run->changed_after = NULL;
		}
		store_bind(settings.project, settings.database_id, system);
	}
	else if (moved)
		reason =
			"the Firestore project or database is not the one of the last run";
	else if (state.system_identifier != system)
		reason = "this is not the database cluster of the last run";
	if (moved)
		run->stage_after = NULL;
	tx_commit();
	if (reason != NULL)
		pause_and_stop(run, reason);
}

/* ---- the run's document as a record ---- */

/* {success, failed} of one direction. */
static void
add_figures(FsWrite *w, const char *direction, int64 success, int64 failed)
{
	add_value(w, psprintf("stats.%s.success", direction), int_value(success));
	add_value(w, psprintf("stats.%s.failed", direction), int_value(failed));
}

/* Complete the document of a run; returns what became of it. */
static FsError
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
	add_value(&w, "stats.error",
			  log->error ? string_value(mask_message(log->error)) : null);
	add_value(&w, "completed_at", time_value(log->finished_at));
	if (!fs_write(run->fs, &w, 1) || w.error.class != FS_OK)
		ereport(LOG, (errmsg("could not complete the sync_logs document of "
							 "ekksync run " INT64_FORMAT ": %s",
							 log->id, mask_message(w.error.message))));
	return w.error;
}

/* Complete documents of earlier runs that could not do so themselves. */
static void
complete_earlier(Run *run, List *log_ids)
{
	ListCell *lc;

	foreach (lc, log_ids)
	{
		StoreRunLog log;
		FsError err;
		bool found;

		tx_begin();
		found = store_run_of_log(lfirst(lc), &log, run->cxt);
		tx_commit();
		if (!found)
			continue;
		err = complete(run, lfirst(lc), &log);
		if (err.class == FS_RETRY || err.class == FS_STOP)
			run_stop(&err);
	}
}

/* ---- the run's document as a fence ---- */

static char *
document_id(const Run *run, int64 number)
{
	return psprintf("ekksync-%s-" INT64_FORMAT, run->map->uuid, number);
}

static const cJSON *
field(const FsDoc *doc, const char *name)
{
	return cJSON_GetObjectItemCaseSensitive(doc->fields, name);
}

static bool
holds(const FsDoc *doc, const char *name, const char *text)
{
	const char *s = cJSON_GetStringValue(
		cJSON_GetObjectItemCaseSensitive(field(doc, name), "stringValue"));

	return s != NULL && text != NULL && strcmp(s, text) == 0;
}

static bool
is_running(const FsDoc *doc)
{
	return holds(doc, "status", "running");
}

static bool
is_complete(const FsDoc *doc)
{
	return field(doc, "completed_at") != NULL;
}

/* Documents in sync_logs, all of them. */
static void
read_documents(Run *run, char **log_ids, int n, FsDoc *docs)
{
	FsError err;

	if (!fs_get(run->fs, "sync_logs", log_ids, n, NULL, -1, docs, NULL, &err))
		run_stop(&err);
}

/* Is there a record of ours that the run of this document has not ended? */
static bool
is_open(Run *run, const char *log_id)
{
	StoreRunLog log;
	bool found;

	tx_begin();
	found = store_run_of_log(log_id, &log, run->cxt);
	tx_commit();
	return found && !log.ended;
}

/*
 * The last run's document must be there, and ours: else another copy of us
 * has gone on, or this is not the Firestore that it was.  With a token carried
 * over, the one after it may be there instead.  Returns those that were never
 * completed.
 */
static List *
check_last(Run *run, const StoreFence *fence)
{
	char *ids[] = {document_id(run, fence->number),
				   document_id(run, fence->number + 1)};
	FsDoc docs[2] = {0};
	bool next;

	if (fence->number == 0)
		return NIL;
	read_documents(run, ids, fence->next != NULL ? 2 : 1, docs);
	next = holds(&docs[1], "token", fence->next);
	if (docs[0].missing && !next)
		pause_and_stop(run,
					   "the last run's document has gone from sync_logs: the "
					   "project was emptied, or another copy of this database "
					   "has gone on");
	if (!docs[0].missing && !holds(&docs[0], "token", fence->token))
		pause_and_stop(
			run,
			"another copy of this database has already made the last run");
	if (is_complete(&docs[0]) && !next && is_open(run, ids[0]))
		pause_and_stop(
			run, "another copy of this database has gone on since the last "
				 "run");
	return is_running(&docs[0]) ? list_make1(ids[0]) : NIL;
}

/*
 * ekksync_resume() said that we are the one: go behind the highest number that
 * any copy of us has used, with the token of the acceptance.  If that has been
 * used already, by us or by a copy of us that had it too, its number is the
 * last one.  Returns documents of ours that were never completed.
 */
static List *
start_anew(Run *run, StoreFence *fence)
{
	char *prefix = psprintf("ekksync-%s-", run->map->uuid);
	FsFilter filter = {"attachment", "EQUAL", string_value(run->map->uuid)};
	FsQuery query = {0};
	int64 highest = fence->number;
	int64 used = 0;
	List *open = NIL;

	query.collection = "sync_logs";
	query.filters = &filter;
	query.nfilters = 1;
	query.all_fields = true;
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
		{
			int64 number;

			if (strncmp(docs[i].id, prefix, strlen(prefix)) != 0)
				continue;
			number = atoll(docs[i].id + strlen(prefix));
			highest = Max(highest, number);
			if (holds(&docs[i], "token", fence->accepted))
				used = number;
			else if (is_running(&docs[i]) &&
					 (holds(&docs[i], "token", fence->token) ||
					  holds(&docs[i], "token", fence->next)))
				open = lappend(open, docs[i].id);
		}
	}
	fence->number = used > 0 ? used - 1 : highest;
	fence->next = fence->accepted;
	return open;
}

/* Create the run's document. */
static void
create_document(Run *run, const char *token, const char *status, FsWrite *w)
{
	w->collection = "sync_logs";
	w->id = run->log_id;
	w->pre = FS_PRE_MISSING;
	w->values = palloc(sizeof(FsFieldValue) * 8);
	add_value(w, "type", string_value("bidirectional_sync"));
	add_value(w, "status", string_value(status));
	add_value(w, "run", int_value(run->id));
	add_value(w, "attachment", string_value(run->map->uuid));
	add_value(w, "token", string_value(token));
	add_value(w, "created_at", time_value(run->started_at));
	fs_write(run->fs, w, 1);
}

/*
 * Create the document of a number, or find that it is there and ours, its
 * creation only unanswered.  Returns whether it is that of a run.
 */
static bool
claim(Run *run, const char *token, const char *status)
{
	FsWrite w = {0};
	FsDoc doc;

	create_document(run, token, status, &w);
	if (w.error.class == FS_OK)
		return strcmp(status, "running") == 0;
	if (w.error.class != FS_REREAD)
		run_stop(&w.error);
	read_documents(run, &run->log_id, 1, &doc);
	if (doc.missing)
		run_stop(&w.error);
	if (!holds(&doc, "token", token) || is_complete(&doc))
		pause_and_stop(
			run, "another copy of this database has already made this run");
	return is_running(&doc);
}

/*
 * Raise the fence at the number after fence->number; open are documents before
 * it to be completed, and afterwards the one that was made if it is to be.
 * False if the number is used up.
 */
static bool
raise_next(Run *run, StoreFence *fence, List **open)
{
	bool fresh = fence->next == NULL;
	bool running;

	run->log_id = document_id(run, fence->number + 1);
	if (fresh)
	{
		tx_begin();
		store_fence_next(fence, run->cxt);
		store_run_log(run);
		tx_commit();
	}
	at_step(fence_noted);
	running = claim(run, fence->next, fresh ? "running" : "skipped");
	at_step(fence_sent);
	complete_earlier(run, *open);
	*open = running ? list_make1(run->log_id) : NIL;
	fence->number++;
	tx_begin();
	store_fence_raised(fence);
	tx_commit();
	fence->next = NULL;
	return fresh && running;
}

void
fence_raise(Run *run)
{
	StoreFence fence;
	List *open;

	check_binding(run);
	if (run->opt.dry_run)
		return;
	tx_begin();
	store_fence(&fence, run->cxt);
	tx_commit();
	if (fence.accepted != NULL)
		open = start_anew(run, &fence);
	else
		open = check_last(run, &fence);
	while (!raise_next(run, &fence, &open))
		;
	run->logged = true;
	at_step(fenced);
}

void
fence_lower(Run *run, const ErrorData *error)
{
	StoreRunLog log = {run->id,
					   run->started_at,
					   GetCurrentTimestamp(),
					   run->figures,
					   NULL,
					   true};
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
