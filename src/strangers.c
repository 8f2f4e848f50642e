/*
 * strangers.c
 *		SQL over ekksync.stranger: documents of nobody that PostgreSQL knows;
 *		and over tombstones, which make strangers of deleted members.
 *
 * May not know: the application's tables, Firestore's JSON, what to decide.
 */
#include "postgres.h"

#include "catalog/pg_type.h"

#include "scope.h"
#include "settings.h"
#include "sqlvalue.h"
#include "store.h"

void
store_scan_strangers(char **keys, TimestampTz *times, int n, bool full,
					 const char *after, const char *upto)
{
	Oid types[] = {TEXTARRAYOID, TIMESTAMPTZARRAYOID, TEXTOID, TEXTOID};
	Datum values[] = {sql_text_array(keys, n), sql_time_array(times, n),
					  sql_text(after), sql_text(upto)};
	char nulls[] = {' ', ' ', after ? ' ' : 'n', upto ? ' ' : 'n', '\0'};

	store_sql_only(
		"INSERT INTO ekksync.stranger AS s (key, doc_time, problem) "
		"SELECT u.key, u.t, CASE WHEN u.key ~ '^[0-9]{10}$' "
		"THEN 'PostgreSQL does not know the member' "
		"ELSE 'kennitala is malformed' END FROM unnest($1, $2) u(key, t) "
		"WHERE NOT EXISTS (SELECT FROM ekksync.member m WHERE m.key = u.key) "
		"ON CONFLICT (key) DO UPDATE SET doc_time = excluded.doc_time "
		"WHERE s.doc_time <> excluded.doc_time",
		2, types, values, NULL);
	if (full)
		store_sql_only(
			"DELETE FROM ekksync.stranger s "
			"WHERE ($3 IS NULL OR s.key > $3) AND ($4 IS NULL OR s.key <= $4) "
			"AND (NOT EXISTS (SELECT FROM unnest($1, $2) u(key, t) "
			"WHERE u.key = s.key) "
			"OR EXISTS (SELECT FROM ekksync.member m WHERE m.key = s.key))",
			4, types, values, nulls);
}

List *
store_stranger_keys(const char *after, int limit, MemoryContext cxt)
{
	Oid types[] = {TEXTOID, INT8OID};
	Datum values[] = {sql_text(after ? after : ""), Int64GetDatum(limit)};
	SqlScope scope;
	List *list;

	store_sql(&scope,
			  "SELECT key FROM ekksync.stranger "
			  "WHERE tried IS DISTINCT FROM doc_time "
			  "AND key ~ '^[0-9]{10}$' AND key > $1 ORDER BY key LIMIT $2",
			  2, types, values, NULL);
	list = sql_get_list(cxt);
	sql_leave(&scope);
	return list;
}

void
store_strangers(Run *run, Member **members, int n)
{
	Oid types[] = {TEXTARRAYOID, TIMESTAMPTZARRAYOID, TEXTARRAYOID, BOOLOID};
	char **keys = palloc(sizeof(char *) * (n + 1));
	TimestampTz *times = palloc(sizeof(TimestampTz) * (n + 1));
	char **problems = palloc(sizeof(char *) * (n + 1));
	Datum values[4];
	int count = 0;
	int i;

	if (n == 0 || !run->opt.pull)
		return;
	for (i = 0; i < n; i++)
	{
		Member *m = members[i];
		bool stays = m->stranger != NULL && !m->doc->missing;

		count += stays;
		keys[i] = m->key;
		times[i] = stays ? m->doc->update_time : 0;
		if (m->fate == FATE_STRANGER)
			store_forget_member(m->key);
		problems[i] = stays ? unconstify(char *, m->stranger) : NULL;
	}
	values[0] = sql_text_array(keys, n);
	values[1] = sql_time_array(times, n);
	values[2] = sql_text_array(problems, n);
	values[3] =
		BoolGetDatum(settings.on_remote_create == REMOTE_CREATE_INSERT);
	store_sql_only("DELETE FROM ekksync.stranger s USING unnest($1, $2, $3) "
				   "u(key, t, p) WHERE s.key = u.key AND u.t IS NULL",
				   3, types, values, NULL);
	if (count == 0)
		return;
	store_sql_only("INSERT INTO ekksync.stranger (key, doc_time, tried, "
				   "problem) SELECT u.key, u.t, CASE WHEN $4 THEN u.t END, "
				   "u.p FROM unnest($1, $2, $3) u(key, t, p) "
				   "WHERE u.t IS NOT NULL ON CONFLICT (key) DO UPDATE SET "
				   "doc_time = excluded.doc_time, tried = excluded.tried, "
				   "problem = excluded.problem",
				   4, types, values, NULL);
}

/* ---- tombstones ---- */

void
store_forget_member(const char *key)
{
	Oid types[] = {TEXTOID};
	Datum values[] = {sql_text(key)};

	store_sql_only("DELETE FROM ekksync.member WHERE key = $1", 1, types,
				   values, NULL);
}

List *
store_old_tombstones(const char *after, int limit, MemoryContext cxt)
{
	Oid types[] = {TEXTOID, INT8OID, INT4OID};
	Datum values[] = {sql_text(after ? after : ""), Int64GetDatum(limit),
					  Int32GetDatum(settings.tombstone_days)};
	SqlScope scope;
	List *list;

	store_sql(&scope,
			  "SELECT key FROM ekksync.member m WHERE tombstone IS NOT NULL "
			  "AND tombstone < clock_timestamp() - make_interval(days => $3) "
			  "AND NOT due AND in_flight = '[]' AND key > $1 "
			  "AND NOT EXISTS (SELECT FROM ekksync.inbox i "
			  "WHERE i.key = m.key AND i.status = 'staged') "
			  "AND NOT EXISTS (SELECT FROM ekksync.inbox i "
			  "WHERE i.key = m.key "
			  "AND (i.status = 'synced' OR i.status = 'failed')) "
			  "AND NOT EXISTS (SELECT FROM ekksync.conflict c "
			  "WHERE c.key = m.key AND c.winner = 'none' "
			  "AND c.resolved_at IS NULL) ORDER BY key LIMIT $2",
			  3, types, values, NULL);
	list = sql_get_list(cxt);
	sql_leave(&scope);
	return list;
}

/* A document that is still there is a stranger's, and is left in peace. */
void
store_collect(char **keys, int n)
{
	Oid types[] = {TEXTARRAYOID};
	Datum values[] = {sql_text_array(keys, n)};

	store_sql_only("WITH old AS (DELETE FROM ekksync.member "
				   "WHERE key = ANY ($1) RETURNING key, doc_update_time) "
				   "INSERT INTO ekksync.stranger (key, doc_time, tried, "
				   "problem) SELECT key, doc_update_time, doc_update_time, "
				   "'the member was deleted long ago' FROM old "
				   "WHERE doc_update_time IS NOT NULL "
				   "ON CONFLICT (key) DO NOTHING",
				   1, types, values, NULL);
}
