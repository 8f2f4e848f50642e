/*
 * trail.c
 *		SQL over what runs have left behind: conflicts, the change log, queue
 *		entries.
 *
 * Everything here runs as the extension's owner and touches schema ekksync
 * only.  (What runs themselves write there is in audit.c and inbox.c.)
 *
 * May not know: the application's tables, what is done with it.
 */
#include "postgres.h"

#include "catalog/pg_type.h"

#include "scope.h"
#include "sqlvalue.h"
#include "store.h"
#include "trail.h"

#define UNIX_EPOCH_USECS                                                      \
	((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY)

/* ---- conflicts ---- */

#define CONFLICT_COLUMNS                                                      \
	"id, key, field, django_value, firestore_value, django_time, "            \
	"firestore_time, winner, rule, resolved_at, resolved_by "                 \
	"FROM ekksync.conflict "

static void
read_conflict(int i, TrailConflict *c, MemoryContext cxt)
{
	c->id = sql_get_int8(i, 1);
	c->key = sql_get_text(i, 2, cxt);
	c->field = sql_get_text(i, 3, cxt);
	c->django_value = sql_get_text(i, 4, cxt);
	c->firestore_value = sql_get_text(i, 5, cxt);
	c->django_time = sql_get_time(i, 6);
	c->firestore_time = sql_get_time(i, 7);
	c->winner = sql_get_text(i, 8, cxt);
	c->rule = sql_get_text(i, 9, cxt);
	c->resolved_at = sql_get_time(i, 10);
	c->resolved_by = sql_get_text(i, 11, cxt);
}

bool
trail_conflict(int64 id, bool lock, TrailConflict *c)
{
	MemoryContext cxt = CurrentMemoryContext;
	Oid types[] = {INT8OID};
	Datum values[] = {Int64GetDatum(id)};
	SqlScope scope;
	bool found;

	store_sql(&scope,
			  lock ? "SELECT " CONFLICT_COLUMNS "WHERE id = $1 FOR UPDATE"
				   : "SELECT " CONFLICT_COLUMNS "WHERE id = $1",
			  1, types, values, NULL);
	found = SPI_processed > 0;
	if (found)
		read_conflict(0, c, cxt);
	sql_leave(&scope);
	return found;
}

List *
trail_held(Member **members, int n)
{
	MemoryContext cxt = CurrentMemoryContext;
	Oid types[] = {TEXTARRAYOID};
	Datum values[] = {member_keys(members, n)};
	List *list = NIL;
	SqlScope scope;
	uint64 i;

	store_sql(&scope,
			  "SELECT " CONFLICT_COLUMNS "WHERE key = ANY ($1) "
			  "AND winner = 'none' AND resolved_at IS NULL ORDER BY id DESC",
			  1, types, values, NULL);
	MemoryContextSwitchTo(cxt);
	for (i = 0; i < SPI_processed; i++)
	{
		TrailConflict *c = palloc(sizeof(TrailConflict));

		read_conflict(i, c, cxt);
		list = lappend(list, c);
	}
	sql_leave(&scope);
	return list;
}

void
trail_close(const int64 *ids, int n, const char *by)
{
	Oid types[] = {INT8ARRAYOID, TEXTOID};
	Datum values[] = {sql_int8_array(ids, n), sql_text(by)};

	store_sql_only("UPDATE ekksync.conflict SET resolved_by = $2, "
				   "resolved_at = clock_timestamp() "
				   "WHERE id = ANY ($1) AND resolved_at IS NULL",
				   2, types, values, NULL);
}

void
trail_set_base(const char *key, const char *field, const char *value,
			   TimestampTz stamp, MergeOrigin origin)
{
	Oid types[] = {TEXTOID, TEXTOID, TEXTOID, INT8OID, TEXTOID};
	Datum values[] = {sql_text(key), sql_text(field), sql_text(value),
					  Int64GetDatum(stamp + UNIX_EPOCH_USECS),
					  sql_text(origin == ORIGIN_FIRESTORE ? "f" : "d")};

	store_sql_only("UPDATE ekksync.member SET due = true, base = base || "
				   "jsonb_build_object($2, jsonb_build_object('v', $3::jsonb, "
				   "'t', greatest((base -> $2 ->> 't')::int8, $4), 'o', $5)) "
				   "WHERE key = $1",
				   5, types, values, NULL);
}

/* ---- runs ---- */

bool
trail_run(int64 id, TrailRun *run)
{
	Oid types[] = {INT8OID};
	Datum values[] = {Int64GetDatum(id)};
	SqlScope scope;
	bool found;

	store_sql(&scope,
			  "SELECT status = 'running', dry_run FROM ekksync.run "
			  "WHERE id = $1",
			  1, types, values, NULL);
	found = SPI_processed > 0;
	if (found)
	{
		run->running = sql_get_bool(0, 1);
		run->dry_run = sql_get_bool(0, 2);
	}
	sql_leave(&scope);
	return found;
}

/*
 * A run may have written a member more than once.  A document that it created
 * got every field, none of which it had: the status among them.
 */
List *
trail_changes(int64 run)
{
	MemoryContext cxt = CurrentMemoryContext;
	Oid types[] = {INT8OID, TEXTOID};
	Datum values[] = {Int64GetDatum(run), sql_text(MAPPING_STATUS)};
	List *list = NIL;
	SqlScope scope;
	uint64 i;

	store_sql(
		&scope,
		"SELECT l.key, l.side, f.key, "
		"((array_agg(f.value -> 0 ORDER BY l.id))[1])::text, "
		"((array_agg(f.value -> 1 ORDER BY l.id DESC))[1])::text, "
		"l.side = 'firestore' AND (array_agg(l.changes ? $2 AND NOT EXISTS "
		"(SELECT FROM jsonb_each(l.changes) e WHERE e.value -> 0 <> 'null') "
		"ORDER BY l.id))[1], "
		"(array_agg(f.value -> 2 IS NOT NULL ORDER BY l.id))[1] "
		"FROM ekksync.change_log l, jsonb_each(l.changes) f "
		"WHERE l.run = $1 GROUP BY l.key, l.side, f.key "
		"ORDER BY l.key, f.key COLLATE \"C\", l.side",
		2, types, values, NULL);
	MemoryContextSwitchTo(cxt);
	for (i = 0; i < SPI_processed; i++)
	{
		TrailChange *change = palloc(sizeof(TrailChange));

		change->key = sql_get_text(i, 1, cxt);
		change->side = sql_get_text(i, 2, cxt);
		change->field = sql_get_text(i, 3, cxt);
		change->old_value = sql_get_text(i, 4, cxt);
		change->new_value = sql_get_text(i, 5, cxt);
		change->created = sql_get_bool(i, 6);
		change->filled = sql_get_bool(i, 7);
		list = lappend(list, change);
	}
	sql_leave(&scope);
	return list;
}

/* ---- members ---- */

List *
trail_events(const char *key)
{
	MemoryContext cxt = CurrentMemoryContext;
	Oid types[] = {TEXTOID};
	Datum values[] = {sql_text(key)};
	List *list = NIL;
	SqlScope scope;
	uint64 i;

	store_sql(
		&scope,
		"SELECT l.changed_at, 3::int8, CASE l.side WHEN 'django' "
		"THEN 'written to Django' ELSE 'written to Firestore' END, f.key, "
		"f.value -> 0, f.value -> 1, l.run, "
		"CASE WHEN l.run IS NULL THEN 'ekksync_apply()' END "
		"FROM ekksync.change_log l, jsonb_each(l.changes) f WHERE l.key = $1 "
		"AND f.value -> 0 IS DISTINCT FROM f.value -> 1 "
		"UNION ALL SELECT created_at, 2, CASE winner "
		"WHEN 'django' THEN 'Firestore''s value lost' "
		"WHEN 'firestore' THEN 'Django''s value lost' ELSE 'held' END, field, "
		"CASE winner WHEN 'django' THEN firestore_value ELSE django_value "
		"END, "
		"CASE winner WHEN 'django' THEN django_value ELSE firestore_value "
		"END, "
		"run, format('conflict %s: %s%s', id, rule, "
		"CASE WHEN potential THEN ', potential' END) "
		"FROM ekksync.conflict WHERE key = $1 "
		"UNION ALL SELECT resolved_at, 1, 'resolved', field, NULL, NULL, "
		"NULL, format('conflict %s: by %s', id, resolved_by) "
		"FROM ekksync.conflict WHERE key = $1 AND resolved_at IS NOT NULL",
		1, types, values, NULL);
	MemoryContextSwitchTo(cxt);
	for (i = 0; i < SPI_processed; i++)
	{
		TrailEvent *event = palloc(sizeof(TrailEvent));

		event->at = sql_get_time(i, 1);
		event->rank = (int) sql_get_int8(i, 2);
		event->what = sql_get_text(i, 3, cxt);
		event->field = sql_get_text(i, 4, cxt);
		event->old_value = sql_get_text(i, 5, cxt);
		event->new_value = sql_get_text(i, 6, cxt);
		event->run = sql_get_int8(i, 7);
		event->detail = sql_get_text(i, 8, cxt);
		list = lappend(list, event);
	}
	sql_leave(&scope);
	return list;
}

List *
trail_entries(const char *key, List **events)
{
	MemoryContext cxt = CurrentMemoryContext;
	Oid types[] = {TEXTOID};
	Datum values[] = {sql_text(key)};
	List *list = NIL;
	SqlScope scope;
	uint64 i;

	*events = NIL;
	store_sql(&scope,
			  "SELECT doc_id, action, changes, stamp, run, "
			  "CASE WHEN error_message IS NOT NULL "
			  "THEN 'failed: ' || error_message "
			  "WHEN status = 'staged' THEN 'pending' ELSE note END || "
			  "CASE WHEN clamped THEN ' (its clock was wrong)' ELSE '' END "
			  "FROM ekksync.inbox WHERE key = $1 ORDER BY stamp, doc_id",
			  1, types, values, NULL);
	MemoryContextSwitchTo(cxt);
	for (i = 0; i < SPI_processed; i++)
	{
		Entry *entry = palloc0(sizeof(Entry));
		TrailEvent *event = palloc0(sizeof(TrailEvent));

		entry->doc_id = sql_get_text(i, 1, cxt);
		entry->action = sql_get_text(i, 2, cxt);
		entry->changes = store_json(sql_get_text(i, 3, cxt), cxt);
		entry->stamp = event->at = sql_get_time(i, 4);
		event->run = sql_get_int8(i, 5);
		event->detail = sql_get_text(i, 6, cxt);
		list = lappend(list, entry);
		*events = lappend(*events, event);
	}
	sql_leave(&scope);
	return list;
}
