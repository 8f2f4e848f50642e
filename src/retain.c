/*
 * retain.c
 *		SQL over schema ekksync: what of it is older than it is to be kept.
 *
 * What a run may still need never goes: an entry that is not closed on both
 * sides or has failed, a conflict that is held, the records of the last runs.
 * By the change log and the conflicts runs tell late echoes of their own
 * writes: they are kept until a run has seen all entries that came in the
 * days in which such an echo may come (ECHO_DAYS).
 *
 * May not know: the application's tables, Firestore.
 */
#include "postgres.h"

#include "catalog/pg_type.h"

#include "retain.h"
#include "scope.h"
#include "settings.h"
#include "sqlvalue.h"
#include "store.h"

/* The last run that has seen all entries; as a time, null if there is none. */
#define LAST_SIGHT                                                            \
	"(SELECT max(started_at) FROM ekksync.run WHERE status = 'success' "      \
	"AND NOT dry_run AND NOT partial AND direction <> 'to_firestore')"

#define OLD "< clock_timestamp() - make_interval(days => $1) "

/* Runs whose documents tell who we are, and the last that has seen all. */
#define RUNS_NEEDED                                                           \
	"least((SELECT id FROM ekksync.run WHERE log_document IS NOT NULL "       \
	"ORDER BY id DESC OFFSET 2 LIMIT 1), "                                    \
	"(SELECT max(id) FROM ekksync.run WHERE status = 'success' "              \
	"AND NOT dry_run AND NOT partial AND direction <> 'to_firestore'), "      \
	"(SELECT max(id) FROM ekksync.run)) "

typedef struct Retention
{
	CleanKind kind;
	const int *days;
	const char *query; /* $1: days, $2: limit, $3: ECHO_DAYS */
} Retention;

static const Retention retentions[] =
	{{CLEAN_INBOX, &settings.inbox_days,
	  "DELETE FROM ekksync.inbox WHERE doc_id = ANY (ARRAY"
	  "(SELECT doc_id FROM ekksync.inbox WHERE status = 'closed' "
	  "AND error_message IS NULL AND (gone OR $4 = 0) AND done_at " OLD
	  "ORDER BY done_at LIMIT $2))"},
	 {CLEAN_CONFLICTS, &settings.conflict_days,
	  "DELETE FROM ekksync.conflict WHERE id = ANY (ARRAY"
	  "(SELECT id FROM ekksync.conflict WHERE created_at " OLD
	  "AND coalesce(resolved_at, created_at) " OLD
	  "AND created_at < " LAST_SIGHT " - make_interval(days => $3) "
	  "AND (winner <> 'none' OR resolved_at IS NOT NULL) "
	  "ORDER BY created_at LIMIT $2))"},
	 {CLEAN_CHANGES, &settings.change_log_days,
	  "DELETE FROM ekksync.change_log WHERE id = ANY (ARRAY"
	  "(SELECT id FROM ekksync.change_log WHERE changed_at " OLD
	  "AND changed_at < " LAST_SIGHT " - make_interval(days => $3) "
	  "ORDER BY changed_at LIMIT $2))"},
	 {CLEAN_RUNS, &settings.run_days,
	  "DELETE FROM ekksync.run WHERE id = ANY (ARRAY"
	  "(SELECT id FROM ekksync.run WHERE started_at " OLD
	  "AND status <> 'running' AND id < " RUNS_NEEDED
	  "AND ($5 = 0 OR log_document IS NULL OR substring(log_document "
	  "FROM '[0-9]+$')::int8 <= (SELECT logs_removed FROM ekksync.state)) "
	  "ORDER BY started_at LIMIT $2))"}};

int64
retain_remove(CleanKind kind, int limit)
{
	Oid types[] = {INT4OID, INT8OID, INT4OID, INT4OID, INT4OID};
	Datum values[5];
	SqlScope scope;
	int64 removed = 0;
	int i;

	for (i = 0; i < (int) lengthof(retentions); i++)
	{
		if (retentions[i].kind != kind || *retentions[i].days == 0)
			continue;
		values[0] = Int32GetDatum(*retentions[i].days);
		values[1] = Int64GetDatum(limit);
		values[2] = Int32GetDatum(ECHO_DAYS);
		values[3] = Int32GetDatum(settings.remote_queue_days);
		values[4] = Int32GetDatum(settings.remote_log_days);
		store_sql(&scope, retentions[i].query, 5, types, values, NULL);
		removed += (int64) SPI_processed;
		sql_leave(&scope);
	}
	return removed;
}

int
retain_unneeded(int64 *ids, char **keys, int n)
{
	Oid types[] = {INT8ARRAYOID, TEXTARRAYOID};
	Datum values[] = {sql_int8_array(ids, n), sql_text_array(keys, n)};
	SqlScope scope;
	int kept;
	int i;

	store_sql(&scope,
			  "SELECT u.id FROM unnest($1, $2) u(id, key) "
			  "WHERE NOT EXISTS (SELECT FROM ekksync.touched t "
			  "WHERE t.key = u.key) AND NOT EXISTS (SELECT FROM "
			  "ekksync.member m WHERE m.key = u.key AND m.first_contact)",
			  2, types, values, NULL);
	kept = (int) SPI_processed;
	for (i = 0; i < kept; i++)
		ids[i] = sql_get_int8(i, 1);
	sql_leave(&scope);
	return kept;
}

/* ---- in Firestore ---- */

List *
retain_old_entries(int limit, MemoryContext cxt)
{
	Oid types[] = {INT4OID, INT8OID};
	Datum values[] = {Int32GetDatum(settings.remote_queue_days),
					  Int64GetDatum(limit)};
	List *list;
	SqlScope scope;

	store_sql(&scope,
			  "SELECT doc_id FROM ekksync.inbox "
			  "WHERE status = 'closed' AND NOT gone AND error_message IS NULL "
			  "AND done_at " OLD "ORDER BY done_at LIMIT $2",
			  2, types, values, NULL);
	list = sql_get_list(cxt);
	sql_leave(&scope);
	return list;
}

void
retain_entries_gone(char **doc_ids, int n)
{
	Oid types[] = {TEXTARRAYOID};
	Datum values[] = {sql_text_array(doc_ids, n)};

	store_sql_only("UPDATE ekksync.inbox SET gone = true "
				   "WHERE doc_id = ANY ($1) AND status = 'closed'",
				   1, types, values, NULL);
}

/* The last three numbers stay: they tell who we are. */
bool
retain_old_logs(const char *uuid, int64 *from, int64 *upto)
{
	Oid types[] = {INT4OID, TEXTOID};
	Datum values[] = {Int32GetDatum(settings.remote_log_days),
					  sql_text(psprintf("ekksync-%s-", uuid))};
	SqlScope scope;

	store_sql(&scope,
			  "SELECT s.logs_removed + 1, least(s.fence - 3, "
			  "(SELECT max(substring(log_document FROM '[0-9]+$')::int8) "
			  "FROM ekksync.run WHERE started_at " OLD
			  "AND starts_with(log_document, $2))) FROM ekksync.state s",
			  2, types, values, NULL);
	*from = sql_get_int8(0, 1);
	*upto = sql_get_int8(0, 2);
	sql_leave(&scope);
	return *upto >= *from;
}

void
retain_logs_gone(int64 upto)
{
	Oid types[] = {INT8OID};
	Datum values[] = {Int64GetDatum(upto)};

	store_sql_only("UPDATE ekksync.state SET logs_removed = $1", 1, types,
				   values, NULL);
}

void
retain_record(const Run *run, const char *cleaned)
{
	Oid types[] = {INT8OID, TEXTOID};
	Datum values[] = {Int64GetDatum(run->id), sql_text(cleaned)};

	store_sql_only("UPDATE ekksync.run SET cleaned = $2::jsonb WHERE id = $1",
				   2, types, values, cleaned == NULL ? " n" : NULL);
}
