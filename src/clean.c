/*
 * clean.c
 *		Removes what is older than it is to be kept: the end of a run, or all
 *		of one for ekksync_cleanup().
 *
 * In batches, each in a transaction of its own, in which a lock is waited for
 * no longer than for a moment; what cannot be removed now is left for another
 * time.  In Firestore only what runs have closed or made themselves goes, and
 * only documents that are as they were looked at.
 *
 * May not know: SQL, HTTP, how a member is decided.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/json.h"
#include "utils/memutils.h"

#include "queue.h"
#include "retain.h"
#include "scope.h"
#include "settings.h"
#include "steps.h"

/* So many rows are removed in one transaction. */
#define CLEAN_PAGE 500

/* Documents of a collection that are removed in one run. */
#define REMOTE_MAX 5000

static const char *const names[CLEAN_KINDS] = {"queue rows",
											   "entries",
											   "conflicts",
											   "change log",
											   "runs",
											   "tombstones",
											   "sync_queue documents",
											   "sync_logs documents"};

/* A transaction that removes something. */
typedef struct Work
{
	Run *run;
	CleanKind kind;
	OldRow after; /* of the queue: where the last one ended */
	bool more;
} Work;

/* ---- here ---- */

/* Rows of the queue that are old, but those that runs still need. */
static int64
remove_rows(Work *work, int days)
{
	Run *run = work->run;
	List *rows = queue_old_rows(run->map, days, &work->after, CLEAN_PAGE,
								run->page_cxt);
	int n = list_length(rows);
	int64 *ids = palloc(sizeof(int64) * (n + 1));
	char **keys = palloc(sizeof(char *) * (n + 1));
	int i;

	for (i = 0; i < n; i++)
	{
		const OldRow *row = list_nth(rows, i);

		ids[i] = row->id;
		keys[i] = row->key;
		work->after = *row;
	}
	work->more = n == CLEAN_PAGE;
	return queue_remove(run->map, ids, retain_unneeded(ids, keys, n));
}

static int
queue_days(const Run *run)
{
	if (run->opt.cleanup && run->opt.cleanup_days >= 0)
		return run->opt.cleanup_days;
	return settings.queue_days > 0 ? settings.queue_days : -1;
}

static void
remove_work(void *arg)
{
	Work *work = arg;
	int64 removed = 0;

	tx_wait_briefly();
	if (work->kind == CLEAN_QUEUE)
		removed = remove_rows(work, queue_days(work->run));
	else
	{
		removed = retain_remove(work->kind, CLEAN_PAGE);
		work->more = removed == CLEAN_PAGE;
	}
	at_step(in_clean);
	work->run->cleaned[work->kind] += removed;
}

/* What else than a lock stands in the way is said in the run's record. */
static void
note_failure(Run *run, CleanKind kind, const char *message)
{
	run->clean_error =
		MemoryContextStrdup(run->cxt, psprintf("%s: %s", names[kind],
											   clip_message(message)));
	ereport(LOG,
			(errmsg("ekksync run " INT64_FORMAT " could not remove old %s",
					run->id, mask_message(run->clean_error))));
}

static void
remove_old(Run *run, CleanKind kind)
{
	Work work = {run, kind, {0, DT_NOBEGIN, NULL}, true};

	while (work.more)
	{
		int64 before = run->cleaned[kind];
		ErrorData *error;

		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(run->page_cxt);
		MemoryContextSwitchTo(run->page_cxt);
		work.more = false;
		error = tx_guarded(remove_work, &work, true);
		if (error == NULL)
			continue;
		run->cleaned[kind] = before;
		work.more = false;
		if (!error_is_passing(error->sqlerrcode))
			note_failure(run, kind, error->message);
	}
}

/* ---- in Firestore ---- */

/* Delete documents; false when no more can be now. */
static bool
delete_documents(Run *run, CleanKind kind, FsWrite *writes, int n)
{
	bool all = fs_write(run->fs, writes, n);
	int i;

	for (i = 0; i < n; i++)
	{
		const FsError *error = &writes[i].error;

		if (error->class == FS_OK)
			run->cleaned[kind]++;
		else if (error->class == FS_STOP || error->class == FS_RETRY)
		{
			if (!fs_is_over_limit(error))
				note_failure(run, kind, error->message);
			return false;
		}
	}
	return all;
}

static bool
is_synced(const FsDoc *doc)
{
	const char *status =
		doc->missing
			? NULL
			: cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(
				  cJSON_GetObjectItemCaseSensitive(doc->fields, "sync_status"),
				  "stringValue"));

	return status != NULL && strcmp(status, "synced") == 0;
}

/*
 * A page of entries' documents, as large as the day's reads allow; false if
 * there are no more, or not now.
 */
static bool
clean_remote_page(Run *run)
{
	FieldPath status = {1, (char *[]){"sync_status"}, "sync_status"};
	const FieldPath *mask[] = {&status};
	FsWrite *writes = palloc0(sizeof(FsWrite) * CLEAN_PAGE);
	FsDoc *docs = palloc(sizeof(FsDoc) * CLEAN_PAGE);
	char **ids = palloc(sizeof(char *) * CLEAN_PAGE);
	int page = (int) Min(CLEAN_PAGE, fs_reads_left(run->fs));
	List *old;
	FsError err;
	ListCell *lc;
	bool all;
	int n = 0;
	int i = 0;

	tx_begin();
	old = retain_old_entries(page, run->page_cxt);
	tx_commit();
	if (old == NIL)
		return false;
	foreach (lc, old)
		ids[i++] = lfirst(lc);
	if (!fs_get(run->fs, "sync_queue", ids, i, mask, 1, docs, NULL, &err))
	{
		if (!fs_is_over_limit(&err))
			note_failure(run, CLEAN_REMOTE_QUEUE, err.message);
		return false;
	}
	for (i = 0; i < list_length(old); i++)
	{
		if (!is_synced(&docs[i]))
			continue;
		writes[n].collection = "sync_queue";
		writes[n].id = ids[i];
		writes[n].delete = true;
		writes[n].pre = FS_PRE_UPDATE_TIME;
		writes[n++].pre_time = docs[i].update_time;
	}
	all = delete_documents(run, CLEAN_REMOTE_QUEUE, writes, n);
	if (!all)
		return false; /* those that have gone are found missing next time */
	tx_begin();
	retain_entries_gone(ids, list_length(old));
	budget_charge(run);
	tx_commit();
	return list_length(old) == page;
}

static void
clean_remote_queue(Run *run)
{
	int done = 0;
	bool more = true;

	while (more && done < REMOTE_MAX)
	{
		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(run->page_cxt);
		MemoryContextSwitchTo(run->page_cxt);
		more = clean_remote_page(run);
		done += CLEAN_PAGE;
	}
}

/* Our documents in sync_logs have numbers: nothing has to be read. */
static void
clean_remote_logs(Run *run)
{
	FsWrite *writes;
	int64 from;
	int64 upto;
	int n = 0;
	bool found;

	MemoryContextReset(run->page_cxt);
	MemoryContextSwitchTo(run->page_cxt);
	tx_begin();
	found = retain_old_logs(run->map->uuid, &from, &upto);
	tx_commit();
	if (!found)
		return;
	upto = Min(upto, from + CLEAN_PAGE - 1);
	writes = palloc0(sizeof(FsWrite) * CLEAN_PAGE);
	for (n = 0; from + n <= upto; n++)
	{
		writes[n].collection = "sync_logs";
		writes[n].id =
			psprintf("ekksync-%s-" INT64_FORMAT, run->map->uuid, from + n);
		writes[n].delete = true;
	}
	if (!delete_documents(run, CLEAN_REMOTE_LOGS, writes, n))
		return;
	tx_begin();
	retain_logs_gone(upto);
	budget_charge(run);
	tx_commit();
}

/* ---- all of it ---- */

char *
clean_json(const Run *run)
{
	StringInfoData buf;
	int i;

	initStringInfo(&buf);
	for (i = 0; i < CLEAN_KINDS; i++)
	{
		if (run->cleaned[i] == 0)
			continue;
		appendStringInfoChar(&buf, buf.len == 0 ? '{' : ',');
		escape_json(&buf, names[i]);
		appendStringInfo(&buf, ":" INT64_FORMAT, run->cleaned[i]);
	}
	if (buf.len == 0)
		return NULL;
	appendStringInfoChar(&buf, '}');
	return buf.data;
}

/*
 * Entries go from Firestore before they are forgotten here, and so do the
 * documents of runs.
 */
void
clean_up(Run *run)
{
	if (!run->opt.dry_run && run->opt.pull && settings.remote_queue_days > 0)
		clean_remote_queue(run);
	if (!run->opt.dry_run && settings.remote_log_days > 0)
		clean_remote_logs(run);
	if (queue_days(run) >= 0 && settings.mode != MODE_OBSERVE)
		remove_old(run, CLEAN_QUEUE);
	remove_old(run, CLEAN_INBOX);
	remove_old(run, CLEAN_CONFLICTS);
	remove_old(run, CLEAN_CHANGES);
	remove_old(run, CLEAN_RUNS);
	run->cleaned[CLEAN_TOMBSTONES] = collect_tombstones(run);
	MemoryContextReset(run->page_cxt);
	MemoryContextSwitchTo(run->page_cxt);
	tx_begin();
	retain_record(run, clean_json(run));
	tx_commit();
	at_step(cleaned);
}
