/*
 * inbox.c
 *		SQL over ekksync.inbox: queue entries of Firestore on our side.
 *
 * An entry is staged once, decided in the transaction that applies it, and
 * closed when its document says so too; so a run that dies in between goes on
 * where it stood, and nothing is applied twice.
 *
 * May not know: what an entry means, how documents are read.
 */
#include "postgres.h"

#include <cjson/cJSON.h>

#include "catalog/pg_type.h"
#include "utils/memutils.h"

#include "scope.h"
#include "sqlvalue.h"
#include "store.h"

/* The action of an entry of a person who was erased. */
#define STAGED_ERASED "erased"

/*
 * Forget entries that were staged and not decided: they are staged anew, as
 * their documents are still pending; but for those that were closed before
 * (store_retry_entries).
 */
void
store_unstage(void)
{
	store_sql_only("DELETE FROM ekksync.inbox "
				   "WHERE (status = 'staged' AND done_at IS NULL) "
				   "OR (status = 'failed' AND run IS NULL)",
				   0, NULL, NULL, NULL);
	store_sql_only("UPDATE ekksync.state SET stage_after = NULL "
				   "WHERE stage_after IS NOT NULL",
				   0, NULL, NULL, NULL);
}

int64
store_retry_entries(void)
{
	SqlScope scope;
	int64 n;

	store_sql(&scope,
			  "UPDATE ekksync.inbox SET status = 'staged', "
			  "error_message = NULL, run = NULL, "
			  "retry_count = retry_count + 1 "
			  "WHERE error_message IS NOT NULL AND run IS NOT NULL",
			  0, NULL, NULL, NULL);
	n = (int64) SPI_processed;
	sql_leave(&scope);
	return n;
}

/*
 * Stage entries.  One that is known keeps its state, except that a document
 * that was closed and is pending again (somebody asks for another try) is
 * staged anew.  An entry with an error is failed at once; of one whose person
 * was erased (ekksync_forget) nothing is kept: its document is to go.
 */
void
store_stage(StagedEntry *entries, int n)
{
	Oid types[] = {TEXTARRAYOID,  TEXTARRAYOID,		   TEXTARRAYOID,
				   JSONBARRAYOID, TIMESTAMPTZARRAYOID, BOOLARRAYOID,
				   TEXTARRAYOID};
	char **text[4];
	char **changes = palloc(sizeof(char *) * (n + 1));
	TimestampTz *stamps = palloc(sizeof(TimestampTz) * (n + 1));
	bool *clamped = palloc(sizeof(bool) * (n + 1));
	Datum values[7];
	SqlScope scope;
	int i;

	for (i = 0; i < 4; i++)
		text[i] = palloc(sizeof(char *) * (n + 1));
	for (i = 0; i < n; i++)
	{
		text[0][i] = entries[i].doc_id;
		text[1][i] = entries[i].key;
		text[2][i] = entries[i].action;
		text[3][i] = entries[i].error;
		changes[i] = entries[i].changes;
		stamps[i] = entries[i].stamp;
		clamped[i] = entries[i].clamped;
	}
	values[0] = sql_text_array(text[0], n);
	values[1] = sql_text_array(text[1], n);
	values[2] = sql_text_array(text[2], n);
	values[3] = sql_json_array(changes, n);
	values[4] = sql_time_array(stamps, n);
	values[5] = sql_bool_array(clamped, n);
	values[6] = sql_text_array(text[3], n);
	store_sql(
		&scope,
		"INSERT INTO ekksync.inbox AS i (doc_id, key, action, changes, "
		"stamp, clamped, error_message, status, note) "
		"SELECT u.d, CASE WHEN NOT f.erased THEN u.k END, "
		"CASE WHEN f.erased THEN '" STAGED_ERASED "' ELSE u.a END, "
		"CASE WHEN f.erased THEN '{}' ELSE u.c END, u.s, u.l, "
		"CASE WHEN NOT f.erased THEN u.e END, "
		"CASE WHEN f.erased THEN 'synced' "
		"WHEN u.e IS NULL THEN 'staged' ELSE 'failed' END, "
		"CASE WHEN f.erased THEN 'the person was erased' END "
		"FROM unnest($1, $2, $3, $4, $5, $6, $7) u(d, k, a, c, s, l, e), "
		"LATERAL (SELECT u.k IS NOT NULL AND EXISTS "
		"(SELECT FROM ekksync.forgotten f WHERE f.hash = "
		"sha256(convert_to((SELECT salt FROM ekksync.forgotten LIMIT 1)::text "
		"|| u.k, 'UTF8')) AND NOT (u.a = 'create' AND u.s > f.at "
		"AND strpos(u.c::text, 'sync_write') = 0)) "
		"AND NOT EXISTS (SELECT FROM ekksync.member m WHERE m.key = u.k)) "
		"f(erased) ON CONFLICT (doc_id) DO UPDATE SET key = excluded.key, "
		"action = excluded.action, changes = excluded.changes, "
		"stamp = excluded.stamp, clamped = excluded.clamped, "
		"error_message = excluded.error_message, "
		"status = excluded.status, note = excluded.note, done_at = NULL, "
		"retry_count = i.retry_count + 1, gone = false, "
		"run = NULL WHERE i.status = 'closed'",
		7, types, values, NULL);
	sql_leave(&scope);
}

List *
store_inbox_keys(const char *after, int limit, char **upto, MemoryContext cxt)
{
	Oid types[] = {TEXTOID, INT8OID, INT8OID};
	Datum values[] = {sql_text(after ? after : ""), Int64GetDatum(limit),
					  Int64GetDatum(EKKSYNC_ROW_PAGE)};
	SqlScope scope;
	List *list;

	store_sql(&scope,
			  "SELECT key, sum(count(*)) OVER () = $3 "
			  "AND count(*) OVER () <= $2 "
			  "FROM (SELECT key FROM ekksync.inbox "
			  "WHERE status = 'staged' AND key > $1 ORDER BY key LIMIT $3) q "
			  "GROUP BY key ORDER BY key LIMIT $2",
			  3, types, values, NULL);
	list = sql_get_keys(upto, cxt);
	sql_leave(&scope);
	return list;
}

static void
free_json(void *arg)
{
	cJSON_Delete(arg);
}

cJSON *
store_json(const char *text, MemoryContext cxt)
{
	MemoryContextCallback *callback;
	cJSON *json;

	callback = MemoryContextAlloc(cxt, sizeof(MemoryContextCallback));
	json = cJSON_Parse(text);
	if (json == NULL)
		return NULL;
	callback->func = free_json;
	callback->arg = json;
	MemoryContextRegisterResetCallback(cxt, callback);
	return json;
}

/* Fill members' entries, by stamp. */
void
store_read_entries(Member **members, int n, MemoryContext cxt)
{
	Oid types[] = {TEXTARRAYOID};
	Datum values[] = {member_keys(members, n)};
	SqlScope scope;
	uint64 i;

	store_sql(&scope,
			  "SELECT k.n, i.doc_id, i.action, i.changes, i.stamp "
			  "FROM unnest($1) WITH ORDINALITY k(key, n) "
			  "JOIN ekksync.inbox i ON i.key = k.key AND i.status = 'staged' "
			  "ORDER BY k.n, i.stamp, i.doc_id",
			  1, types, values, NULL);
	for (i = 0; i < SPI_processed; i++)
	{
		Member *m = members[sql_get_int8(i, 1) - 1];
		MemoryContext old = MemoryContextSwitchTo(cxt);
		Entry *entry = palloc0(sizeof(Entry));

		entry->doc_id = sql_get_text(i, 2, cxt);
		entry->action = sql_get_text(i, 3, cxt);
		entry->changes = store_json(sql_get_text(i, 4, cxt), cxt);
		if (entry->changes == NULL)
			entry->action = "with changes that cannot be parsed";
		entry->stamp = sql_get_time(i, 5);
		m->entries = lappend(m->entries, entry);
		MemoryContextSwitchTo(old);
	}
	sql_leave(&scope);
}

void
store_read_failed(Member **members, int n, MemoryContext cxt)
{
	Oid types[] = {TEXTARRAYOID};
	Datum values[] = {member_keys(members, n)};
	SqlScope scope;
	uint64 i;

	store_sql(&scope,
			  "SELECT k.n, i.action, i.changes, i.error_message "
			  "FROM unnest($1) WITH ORDINALITY k(key, n) "
			  "JOIN ekksync.inbox i ON i.key = k.key "
			  "AND i.error_message IS NOT NULL ORDER BY k.n, i.stamp",
			  1, types, values, NULL);
	for (i = 0; i < SPI_processed; i++)
	{
		Member *m = members[sql_get_int8(i, 1) - 1];
		MemoryContext old = MemoryContextSwitchTo(cxt);
		Failure *failure = palloc0(sizeof(Failure));

		failure->entry = palloc0(sizeof(Entry));
		failure->entry->action = sql_get_text(i, 2, cxt);
		failure->entry->changes = store_json(sql_get_text(i, 3, cxt), cxt);
		failure->error = sql_get_text(i, 4, cxt);
		m->failures = lappend(m->failures, failure);
		MemoryContextSwitchTo(old);
	}
	sql_leave(&scope);
}

/* Record the outcome of entries; those still open are left alone. */
void
store_decide_entries(Run *run, List *entries)
{
	Oid types[] = {TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, INT8OID};
	int n = 0;
	char **ids = palloc(sizeof(char *) * (list_length(entries) + 1));
	char **errors = palloc(sizeof(char *) * (list_length(entries) + 1));
	char **notes = palloc(sizeof(char *) * (list_length(entries) + 1));
	Datum values[4];
	SqlScope scope;
	ListCell *lc;

	foreach (lc, entries)
	{
		Entry *entry = lfirst(lc);

		if (entry->outcome == ENTRY_OPEN)
			continue;
		ids[n] = entry->doc_id;
		errors[n] = entry->outcome == ENTRY_FAILED ? entry->message : NULL;
		notes[n] = entry->outcome == ENTRY_SYNCED ? entry->message : NULL;
		n++;
	}
	if (n == 0)
		return;
	values[0] = sql_text_array(ids, n);
	values[1] = sql_text_array(errors, n);
	values[2] = sql_text_array(notes, n);
	values[3] = Int64GetDatum(run->id);
	store_sql(&scope,
			  "UPDATE ekksync.inbox i SET run = $4, error_message = u.e, "
			  "note = u.m, "
			  "status = CASE WHEN u.e IS NULL THEN 'synced' ELSE 'failed' END "
			  "FROM unnest($1, $2, $3) u(d, e, m) "
			  "WHERE i.doc_id = u.d AND i.status = 'staged'",
			  4, types, values, NULL);
	sql_leave(&scope);
}

/* How many store_unclosed would find. */
int64
store_count_unclosed(void)
{
	SqlScope scope;
	int64 n;

	store_sql(&scope,
			  "SELECT count(*) FROM ekksync.inbox "
			  "WHERE status = 'synced' OR status = 'failed'",
			  0, NULL, NULL, NULL);
	n = sql_get_int8(0, 1);
	sql_leave(&scope);
	return n;
}

/* Entries that are decided, but whose documents do not say so yet. */
List *
store_unclosed(const char *after, int limit, MemoryContext cxt)
{
	Oid types[] = {TEXTOID, INT8OID};
	Datum values[] = {sql_text(after ? after : ""), Int64GetDatum(limit)};
	SqlScope scope;
	List *list = NIL;
	uint64 i;

	store_sql(&scope,
			  "SELECT doc_id, error_message, key, run IS NOT NULL, "
			  "action = '" STAGED_ERASED "' "
			  "FROM ekksync.inbox "
			  "WHERE (status = 'synced' OR status = 'failed') AND doc_id > $1 "
			  "ORDER BY doc_id LIMIT $2",
			  2, types, values, NULL);
	for (i = 0; i < SPI_processed; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(cxt);
		UnclosedEntry *entry = palloc(sizeof(UnclosedEntry));

		entry->doc_id = sql_get_text(i, 1, cxt);
		entry->error = sql_get_text(i, 2, cxt);
		entry->key = sql_get_text(i, 3, cxt);
		entry->decided = sql_get_bool(i, 4);
		entry->erased = sql_get_bool(i, 5);
		list = lappend(list, entry);
		MemoryContextSwitchTo(old);
	}
	sql_leave(&scope);
	return list;
}

void
store_close(char **doc_ids, int n)
{
	Oid types[] = {TEXTARRAYOID};
	Datum values[] = {sql_text_array(doc_ids, n)};
	SqlScope scope;

	store_sql(&scope,
			  "UPDATE ekksync.inbox SET status = 'closed', "
			  "done_at = clock_timestamp() WHERE doc_id = ANY ($1)",
			  1, types, values, NULL);
	sql_leave(&scope);
}
