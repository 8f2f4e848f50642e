/*
 * backlog.c
 *		SQL over ekksync.backlog: the members that a backfill or a repair is
 *		to work on.
 *
 * They are taken in the order of a hash of the key, so that their documents
 * are written all over the collection: Firestore keeps neighbours together,
 * and many writes to neighbours are slow.  What is done is struck out, so that
 * a backfill that was ended goes on with what is left.
 *
 * May not know: the application's tables, Firestore, what is done with them.
 */
#include "postgres.h"

#include "catalog/pg_type.h"

#include "scope.h"
#include "sqlvalue.h"
#include "store.h"

/* A backfill that was ended, and may be gone on with. */
#define OPEN_BACKFILL                                                         \
	"r.mode = 'backfill' AND NOT r.dry_run "                                  \
	"AND r.started_at > clock_timestamp() - interval '30 days'"

/* Run a statement over the list of a run, $1, with a key, $2, or NULL. */
static void
on_list(const char *query, int64 run, const char *key)
{
	Oid types[] = {INT8OID, TEXTOID};
	Datum values[] = {Int64GetDatum(run), sql_text(key)};

	store_sql_only(query, key != NULL ? 2 : 1, types, values, NULL);
}

void
store_backlog_tidy(void)
{
	store_sql_only("DELETE FROM ekksync.backlog b WHERE NOT EXISTS "
				   "(SELECT FROM ekksync.run r WHERE r.id = b.run "
				   "AND " OPEN_BACKFILL ")",
				   0, NULL, NULL, NULL);
}

int64
store_backlog_open(const char *direction)
{
	Oid types[] = {TEXTOID};
	Datum values[] = {sql_text(direction)};
	SqlScope scope;
	int64 run;

	store_sql(&scope,
			  "SELECT coalesce(max(r.id), 0) FROM ekksync.run r "
			  "WHERE r.direction = $1 AND " OPEN_BACKFILL " AND EXISTS "
			  "(SELECT FROM ekksync.backlog b WHERE b.run = r.id)",
			  1, types, values, NULL);
	run = sql_get_int8(0, 1);
	sql_leave(&scope);
	return run;
}

void
store_backlog_members(int64 run, bool strangers)
{
	on_list("INSERT INTO ekksync.backlog (run, key) "
			"SELECT $1, key FROM ekksync.member ON CONFLICT DO NOTHING",
			run, NULL);
	if (strangers)
		on_list("INSERT INTO ekksync.backlog (run, key) "
				"SELECT $1, key FROM ekksync.stranger "
				"WHERE key ~ '^[0-9]{10}$' ON CONFLICT DO NOTHING",
				run, NULL);
}

void
store_backlog_differing(int64 run, bool strangers)
{
	on_list(strangers
				? "INSERT INTO ekksync.backlog (run, key) "
				  "SELECT DISTINCT $1, key FROM ekksync.diff WHERE run = $1"
				: "INSERT INTO ekksync.backlog (run, key) "
				  "SELECT DISTINCT $1, key FROM ekksync.diff WHERE run = $1 "
				  "AND why <> 'unknown member'",
			run, NULL);
}

void
store_backlog_add(int64 run, List *keys)
{
	Oid types[] = {INT8OID, TEXTARRAYOID};
	char **array = palloc(sizeof(char *) * (list_length(keys) + 1));
	Datum values[2];
	int i;

	for (i = 0; i < list_length(keys); i++)
		array[i] = list_nth(keys, i);
	values[0] = Int64GetDatum(run);
	values[1] = sql_text_array(array, i);
	store_sql_only("INSERT INTO ekksync.backlog (run, key) "
				   "SELECT $1, u.* FROM unnest($2) u ON CONFLICT DO NOTHING",
				   2, types, values, NULL);
}

List *
store_backlog_keys(int64 run, const char *after, int limit, MemoryContext cxt)
{
	Oid types[] = {INT8OID, INT8OID, TEXTOID};
	Datum values[] = {Int64GetDatum(run), Int64GetDatum(limit),
					  sql_text(after)};
	SqlScope scope;
	List *list;

	store_sql(&scope,
			  after == NULL
				  ? "SELECT key FROM ekksync.backlog WHERE run = $1 "
					"ORDER BY hashtextextended(key, 0), key LIMIT $2"
				  : "SELECT key FROM ekksync.backlog WHERE run = $1 "
					"AND (hashtextextended(key, 0), key) > "
					"(hashtextextended($3 COLLATE \"C\", 0), $3) "
					"ORDER BY hashtextextended(key, 0), key LIMIT $2",
			  after == NULL ? 2 : 3, types, values, NULL);
	list = sql_get_list(cxt);
	sql_leave(&scope);
	return list;
}

int64
store_backlog_count(int64 run)
{
	Oid types[] = {INT8OID};
	Datum values[] = {Int64GetDatum(run)};
	SqlScope scope;
	int64 n;

	store_sql(&scope, "SELECT count(*) FROM ekksync.backlog WHERE run = $1", 1,
			  types, values, NULL);
	n = sql_get_int8(0, 1);
	sql_leave(&scope);
	return n;
}

void
store_backlog_done(int64 run, const char *key)
{
	on_list("DELETE FROM ekksync.backlog WHERE run = $1 "
			"AND (hashtextextended(key, 0), key) <= "
			"(hashtextextended($2 COLLATE \"C\", 0), $2)",
			run, key);
}

void
store_backlog_end(int64 run)
{
	on_list("DELETE FROM ekksync.backlog WHERE run = $1", run, NULL);
}
