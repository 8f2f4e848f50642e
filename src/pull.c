/*
 * pull.c
 *		Reads Firestore for a run: queue entries, changed documents, the
 *		documents of a batch; and closes entries that are decided.
 *
 * May not know: how to decide, the application's tables.
 */
#include "postgres.h"

#include "utils/json.h"
#include "utils/memutils.h"

#include "progress.h"
#include "settings.h"
#include "steps.h"
#include "store.h"

/* Entries staged by one query. */
#define ENTRY_PAGE 2000

/* How far back the scan looks behind the last one: clocks of browsers. */
#define SCAN_OVERLAP USECS_PER_DAY

/* An entry that claims to be older than this before it came is clamped. */
#define ENTRY_PATIENCE USECS_PER_DAY

/* ---- entries ---- */

/*
 * The string in a field of a document, NULL if it is not one that PostgreSQL
 * can hold.
 */
static char *
string_field(const FsDoc *doc, const char *name)
{
	static const Codec codec = {CODEC_TEXT, 0, NULL};
	char *canon =
		value_decode(&codec,
					 cJSON_GetObjectItemCaseSensitive(doc->fields, name),
					 NULL);

	return canon == NULL ? NULL : canon_to_text(canon);
}

/* Effective time of an entry: when it says, but not after it came. */
static void
entry_stamp(const FsDoc *doc, StagedEntry *entry)
{
	const cJSON *value;
	const char *text;
	TimestampTz at;

	value = cJSON_GetObjectItemCaseSensitive(doc->fields, "created_at");
	text = cJSON_GetStringValue(
		cJSON_GetObjectItemCaseSensitive(value, "timestampValue"));
	if (text == NULL)
		text = string_field(doc, "created_at");
	entry->stamp = doc->create_time;
	if (text == NULL || !time_parse(text, &at) || at >= doc->create_time)
		return;
	if (at < doc->create_time - ENTRY_PATIENCE)
		entry->clamped = true;
	else
		entry->stamp = at;
}

/* What cJSON prints, palloc'd. */
static char *
print_json(const cJSON *tree)
{
	char *json = cJSON_PrintUnformatted(tree);
	char *copy;

	if (json == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	copy = pstrdup(json);
	cJSON_free(json);
	return copy;
}

/*
 * Changes of which some cannot be stored: in their place stands why.  NULL
 * with *err when it is a path that cannot be.
 */
static char *
usable_changes(const cJSON *fields, SyncError *err)
{
	StringInfoData buf;
	const cJSON *child;

	initStringInfo(&buf);
	cJSON_ArrayForEach (child, fields)
	{
		char *value = canon_from_json(print_json(child), err);

		appendStringInfoString(&buf, buf.len == 0 ? "{" : ", ");
		escape_json(&buf, child->string);
		if (value != NULL)
			appendStringInfo(&buf, ": %s", value);
		else
			appendStringInfo(&buf, ": {\"%s\": %s}", STAGED_UNUSABLE,
							 canon_from_text(err->message));
	}
	appendStringInfoChar(&buf, '}');
	return canon_from_json(buf.data, err);
}

/* The changes as JSON: path -> Value. */
static void
entry_changes(const FsDoc *doc, StagedEntry *entry)
{
	const cJSON *value;
	const cJSON *fields;
	SyncError err = {0};

	entry->changes = "{}";
	value = cJSON_GetObjectItemCaseSensitive(doc->fields, "changes");
	value = cJSON_GetObjectItemCaseSensitive(value, "mapValue");
	fields = cJSON_GetObjectItemCaseSensitive(value, "fields");
	if (value == NULL && strcmp(entry->action, "delete") != 0)
		entry->error = "the entry has no changes";
	if (fields == NULL)
		return;
	entry->changes = canon_from_json(print_json(fields), &err);
	if (entry->changes == NULL)
		entry->changes = usable_changes(fields, &err);
	if (entry->changes == NULL)
	{
		entry->changes = "{}";
		entry->error = err.message;
	}
}

/* The member that an entry is about. */
static void
entry_key(const FsDoc *doc, StagedEntry *entry)
{
	static const Codec codec = {CODEC_KENNITALA, 0, NULL};
	const cJSON *value;
	char *canon;

	value = cJSON_GetObjectItemCaseSensitive(doc->fields, "docId");
	if (value == NULL)
		value = cJSON_GetObjectItemCaseSensitive(doc->fields, "kennitala");
	canon = value_decode(&codec, value, NULL);
	entry->key = canon == NULL ? NULL : canon_to_text(canon);
	if (entry->key == NULL)
		entry->error = value == NULL ? "the entry names no member"
									 : "kennitala is malformed";
}

static void
stage_entry(const FsDoc *doc, StagedEntry *entry)
{
	char *action = string_field(doc, "action");
	char *collection = string_field(doc, "collection");

	memset(entry, 0, sizeof(*entry));
	entry->doc_id = doc->id;
	entry->action = action != NULL ? action : "update";
	entry_stamp(doc, entry);
	entry_changes(doc, entry);
	entry_key(doc, entry);
	if (collection != NULL && strcmp(collection, "members") != 0)
		entry->error =
			clip_message(psprintf("unknown collection \"%s\"", collection));
}

/* Where staging begins: anew, or behind the entries of an earlier run. */
static void
begin_staging(Run *run, FsQuery *query)
{
	run->stage_kept = run->stage_after != NULL;
	if (run->stage_kept)
		query->after_name = MemoryContextStrdup(run->cxt, run->stage_after);
	else
	{
		tx_begin();
		store_unstage();
		tx_commit();
		at_step(unstaged);
	}
}

/* Where it got to, and how much of the day's reads it took. */
static void
end_staging(Run *run, const FsQuery *query, int64 reads)
{
	int64 left = fs_reads_left(run->fs);

	run->stage_after = query->after_name;
	run->stage_heavy =
		run->stage_kept || (left != PG_INT64_MAX && reads - left > left);
	run->reads_gone = !query->done;
}

/*
 * Equality filters and the document name only, so that the service needs no
 * composite index.
 */
void
pull_entries(Run *run, bool begin)
{
	int64 reads = fs_reads_left(run->fs);
	TimestampTz asked = 0;
	FsFilter filters[] = {{"target", "EQUAL", "{\"stringValue\":\"django\"}"},
						  {"sync_status", "EQUAL",
						   "{\"stringValue\":\"pending\"}"}};
	FsQuery query = {0};

	query.collection = "sync_queue";
	query.filters = filters;
	query.nfilters = lengthof(filters);
	query.all_fields = true;
	query.limit = ENTRY_PAGE;
	query.cxt = run->cxt;
	if (begin)
		begin_staging(run, &query);
	while (!query.done && !(begin && fs_reads_left(run->fs) == 0))
	{
		StagedEntry *entries;
		TimestampTz read_time = 0;
		FsDoc *docs;
		FsError err;
		int n;
		int i;

		MemoryContextReset(run->page_cxt);
		MemoryContextSwitchTo(run->page_cxt);
		if (!fs_query(run->fs, &query, &docs, &n, &read_time, &err))
			run_stop(&err);
		asked = asked != 0 ? asked : read_time;
		entries = palloc(sizeof(StagedEntry) * (n + 1));
		for (i = 0; i < n; i++)
			stage_entry(&docs[i], &entries[i]);
		if (n > 0)
		{
			tx_begin();
			store_stage(entries, n);
			budget_charge(run);
			tx_commit();
			at_step(staged);
			run_progress(run, begin ? n : 0);
		}
	}
	run->staged_at = asked;
	if (begin)
		end_staging(run, &query, reads);
}

/* ---- scan ---- */

/* Is it to be a full one: by the setting, or because the last is long ago? */
static bool
is_full_scan_due(const Run *run)
{
	return run->scan_after != NULL || settings.scan == SCAN_FULL ||
		   run->opt.backfill ||
		   (settings.full_scan_interval > 0 &&
			run->started_at - run->last_full >=
				settings.full_scan_interval * USECS_PER_DAY);
}

/*
 * Where the day's reads are limited, a scan takes half of what is left of them,
 * and goes on in the next run from where it got to.
 */
static int64
scan_reads(const Run *run)
{
	int64 left = fs_reads_left(run->fs);

	return left != PG_INT64_MAX ? left / 2 : left;
}

/* Take up a scan of changed documents that was left, or begin one. */
static void
begin_changed_scan(Run *run, FsQuery *query, FsFilter *filter)
{
	TimestampTz since =
		run->last_scan ? run->last_scan : run->map->attached_at;

	MemoryContextSwitchTo(run->cxt);
	filter->field = "updated_at";
	filter->op = "GREATER_THAN";
	filter->value = psprintf("{\"timestampValue\":\"%s\"}",
							 time_format(since - SCAN_OVERLAP));
	query->filters = filter;
	query->nfilters = 1;
	query->order_by = "updated_at";
	if (run->changed_after == NULL)
		return;
	query->after_name = pstrdup(run->changed_after);
	query->after_value = pstrdup(run->changed_value);
}

/* Take up a full scan that was left, or begin one. */
static char *
begin_full_scan(Run *run, FsQuery *query)
{
	tx_begin();
	store_run_scan(run, settings_scan_name(SCAN_FULL));
	progress_total(run, store_count_members());
	tx_commit();
	run_progress(run, 0);
	if (run->scan_after == NULL)
		return NULL;
	query->after_name = MemoryContextStrdup(run->cxt, run->scan_after);
	return MemoryContextStrdup(run->cxt, strrchr(run->scan_after, '/') + 1);
}

/*
 * Mark members due whose documents have changed since we last saw them.  A
 * full scan also finds documents that are gone.  False where nothing is
 * scanned to the end: when that is off, or where it is settled who is looked
 * at.
 */
bool
pull_scan(Run *run)
{
	bool full = is_full_scan_due(run);
	FsFilter filter = {0};
	FsQuery query = {0};
	char *after = NULL;
	int64 reads;

	if ((settings.scan == SCAN_OFF && !full) || run->opt.nonly >= 0 ||
		run->anew || fs_reads_left(run->fs) == 0)
		return false;
	run->full_scan = full;
	reads = scan_reads(run);
	if ((full ? run->scan_after : run->changed_after) == NULL)
		run->scan_since = run->started_at;
	query.collection = "members";
	query.limit = EKKSYNC_READ_PAGE;
	query.cxt = run->cxt;
	if (full)
		after = begin_full_scan(run, &query);
	else
		begin_changed_scan(run, &query, &filter);
	while (!query.done)
	{
		FsDoc *docs;
		FsError err;
		char **keys;
		TimestampTz *times;
		char *upto;
		int n;
		int i;

		MemoryContextReset(run->page_cxt);
		MemoryContextSwitchTo(run->page_cxt);
		query.limit = (int) Max(Min(query.limit, reads), 1);
		if (!fs_query(run->fs, &query, &docs, &n, NULL, &err))
			run_stop(&err);
		run->docs_scanned += Max(n, 1);
		reads -= Max(n, 1);
		keys = palloc(sizeof(char *) * (n + 1));
		times = palloc(sizeof(TimestampTz) * (n + 1));
		for (i = 0; i < n; i++)
		{
			keys[i] = docs[i].id;
			times[i] = docs[i].update_time;
		}
		tx_begin();
		upto = query.done || n == 0 ? NULL : keys[n - 1];
		store_scan_page(keys, times, n, full, after, upto);
		store_scan_strangers(keys, times, n, full, after, upto);
		run->scan_left = reads <= 0 && !query.done;
		if (run->scan_left && !run->opt.dry_run)
			store_scan_left(query.after_name, full ? NULL : query.after_value,
							run->scan_since);
		budget_charge(run);
		tx_commit();
		at_step(scanned);
		if (n > 0)
			after = MemoryContextStrdup(run->cxt, keys[n - 1]);
		run_progress(run, n);
		if (run->scan_left)
			return false;
	}
	return true;
}

/* ---- documents ---- */

static void
read_docs(Run *run, Member **members, int n, bool old)
{
	char **ids = palloc(sizeof(char *) * (n + 1));
	FsDoc *docs = palloc0(sizeof(FsDoc) * (n + 1));
	TimestampTz read_time;
	FsError err;
	int i;

	if (n == 0)
		return;
	for (i = 0; i < n; i++)
		ids[i] = old ? members[i]->moved_from : members[i]->key;
	if (!fs_get(run->fs, "members", ids, n, old ? NULL : run->mask,
				old ? -1 : run->nmask, docs, &read_time, &err))
		run_stop(&err);
	for (i = 0; i < n; i++)
	{
		if (old)
			members[i]->old_doc = &docs[i];
		else
			members[i]->doc = &docs[i];
	}
}

/*
 * Read the documents of a batch, mapped paths only; and whole, the old ones
 * of members whose key was changed.  Members without a usable key get a
 * missing one.
 */
void
pull_documents(Run *run, Batch *batch)
{
	Member **members = palloc(sizeof(Member *) * (batch->n + 1));
	FsDoc *none = palloc0(sizeof(FsDoc));
	int n = 0;
	int i;

	none->missing = true;
	for (i = 0; i < batch->n; i++)
	{
		Member *m = &batch->members[i];

		m->doc = none;
		if (strlen(m->key) == 10 && strspn(m->key, "0123456789") == 10)
			members[n++] = m;
	}
	read_docs(run, members, n, false);
	n = 0;
	for (i = 0; i < batch->n; i++)
		if (batch->members[i].doc->missing &&
			batch->members[i].moved_from != NULL)
			members[n++] = &batch->members[i];
	read_docs(run, members, n, true);
}

/* ---- closing ---- */

/* Write the outcome of decided entries into their documents. */
static void
close_entries(Run *run, List *entries)
{
	static const char *const synced = "{\"stringValue\":\"synced\"}";
	static const char *const failed = "{\"stringValue\":\"failed\"}";
	FieldPath status = {1, (char *[]){"sync_status"}, "sync_status"};
	FieldPath message = {1, (char *[]){"error_message"}, "error_message"};
	FieldPath synced_at = {1, (char *[]){"synced_at"}, "synced_at"};
	const FieldPath *times[] = {&synced_at};
	int n = list_length(entries);
	FsWrite *writes = palloc0(sizeof(FsWrite) * n);
	char **ids = palloc(sizeof(char *) * n);
	bool all;
	int done = 0;
	int i;

	for (i = 0; i < n; i++)
	{
		UnclosedEntry *entry = list_nth(entries, i);
		FsFieldValue *values = palloc(sizeof(FsFieldValue) * 2);
		StringInfoData buf;

		writes[i].collection = "sync_queue";
		writes[i].id = entry->doc_id;
		writes[i].pre = FS_PRE_EXISTS;
		if (entry->erased)
		{
			writes[i].delete = true;
			continue;
		}
		writes[i].values = values;
		writes[i].nvalues = 1;
		values[0].path = &status;
		values[0].value = entry->error == NULL ? synced : failed;
		if (entry->error == NULL)
		{
			writes[i].times = times;
			writes[i].ntimes = 1;
			continue;
		}
		initStringInfo(&buf);
		appendStringInfo(&buf, "{\"stringValue\":%s}",
						 canon_from_text(entry->error));
		values[1].path = &message;
		values[1].value = buf.data;
		writes[i].nvalues = 2;
	}
	all = fs_write(run->fs, writes, n);
	for (i = 0; i < n; i++)
		if (writes[i].error.class != FS_RETRY &&
			writes[i].error.class != FS_STOP)
			ids[done++] = unconstify(char *, writes[i].id);
	at_step(closed);
	tx_begin();
	store_close(ids, done);
	tx_commit();
	at_step(known);
	for (i = 0; i < n && !all; i++)
		if (writes[i].error.class == FS_RETRY ||
			writes[i].error.class == FS_STOP)
			run_stop(&writes[i].error);
}

/*
 * Close all entries that are decided, those of earlier runs too.  An entry
 * whose document somebody has deleted meanwhile is closed as well.
 */
void
pull_close_entries(Run *run)
{
	char *after = "";
	List *entries;
	ListCell *lc;

	tx_begin();
	progress_total(run, store_count_unclosed());
	tx_commit();
	run_progress(run, 0);
	for (;;)
	{
		int n;

		MemoryContextReset(run->page_cxt);
		MemoryContextSwitchTo(run->page_cxt);
		tx_begin();
		entries = store_unclosed(after, EKKSYNC_MAX_WRITES, run->page_cxt);
		tx_commit();
		if (entries == NIL)
			return;
		foreach (lc, entries)
		{
			const UnclosedEntry *entry = lfirst(lc);

			if (!entry->decided && !entry->erased)
				run->figures.to_django_failed++;
		}
		n = list_length(entries);
		close_entries(run, entries);
		after =
			MemoryContextStrdup(run->cxt,
								((UnclosedEntry *) llast(entries))->doc_id);
		run_progress(run, n);
	}
}
