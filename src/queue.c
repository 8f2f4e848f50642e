/*
 * queue.c
 *		SQL over the outbox: the application's queue table.
 *
 * Pending rows are found by their status, never by "id after the last one"
 * (ids commit out of order), and settled by id, only those that were read: a
 * row written in the meantime stays pending.
 *
 * May not know: Firestore, values, what to decide.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "queue.h"
#include "scope.h"
#include "sqlvalue.h"

/*
 * How statistics of a moment ago are kept from misleading the planner, which
 * may believe that next to nothing is pending, and read all that is for each
 * key or id:
 * - pending rows of a key (PENDING_OF) come in an order that only the partial
 *   index on pending rows has, by sql_run_by_index;
 * - where rows are known by id, their status is asked for in a way that no
 *   index answers.
 */
#define PENDING_OF(key)                                                       \
	"(SELECT * FROM %1$s p WHERE p.sync_status = 'pending' "                  \
	"AND p.ssn::text COLLATE \"C\" >= " key " "                               \
	"AND p.ssn::text COLLATE \"C\" <= " key " "                               \
	"ORDER BY p.ssn::text COLLATE \"C\") "

/* Run one statement over the queue; %s in it is the table. Leaves SPI open. */
static void
on_queue(const Mapping *map, SqlScope *scope, const char *format, int nargs,
		 Oid *types, Datum *values, const char *nulls)
{
	char *query = psprintf(format, map->queue_table);

	sql_enter(scope, map->owner);
	sql_run(query, nargs, types, values, nulls, false, 0);
}

/* The same for a statement that is to find its rows by an index. */
static void
by_index(const Mapping *map, SqlScope *scope, const char *format, int nargs,
		 Oid *types, Datum *values)
{
	char *query = psprintf(format, map->queue_table);

	sql_enter(scope, map->owner);
	sql_run_by_index(query, nargs, types, values, NULL, false, 0);
}

List *
queue_pending_keys(const Mapping *map, const char *after, int limit,
				   char **upto, MemoryContext cxt)
{
	Oid types[] = {TEXTOID, INT8OID, INT8OID};
	Datum values[] = {sql_text(after ? after : ""), Int64GetDatum(limit),
					  Int64GetDatum(EKKSYNC_ROW_PAGE)};
	char *query =
		psprintf("SELECT key, sum(count(*)) OVER () = $3 "
				 "AND count(*) OVER () <= $2 "
				 "FROM (SELECT ssn::text COLLATE \"C\" AS key FROM %s "
				 "WHERE sync_status = 'pending' "
				 "AND ssn::text COLLATE \"C\" %s $1 "
				 "ORDER BY 1 LIMIT $3) q GROUP BY key ORDER BY key LIMIT $2",
				 map->queue_table, after ? ">" : ">=");
	SqlScope scope;
	List *list;

	sql_enter(&scope, map->owner);
	sql_run_by_index(query, 3, types, values, NULL, false, 0);
	list = sql_get_keys(upto, cxt);
	sql_leave(&scope);
	return list;
}

List *
queue_pending_among(const Mapping *map, List *keys, MemoryContext cxt)
{
	Oid types[] = {TEXTARRAYOID};
	char **array = palloc(sizeof(char *) * (list_length(keys) + 1));
	Datum values[1];
	SqlScope scope;
	List *list;
	int i;

	for (i = 0; i < list_length(keys); i++)
		array[i] = list_nth(keys, i);
	values[0] = sql_text_array(array, i);
	on_queue(map, &scope,
			 "SELECT DISTINCT ssn::text FROM %s WHERE ssn::text = ANY ($1) "
			 "AND sync_status = 'pending'",
			 1, types, values, NULL);
	list = sql_get_list(cxt);
	sql_leave(&scope);
	return list;
}

/*
 * The mapped fields that a row names, from a text[] of names; NULL (all of
 * them) when it names none that is mapped.
 */
static Bitmapset *
named_fields(const Mapping *map, int i, int column, char **suspended)
{
	Bitmapset *fields = NULL;
	bool isnull;
	Datum array;
	Datum *names;
	int nnames;
	int j;

	array = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, column,
						  &isnull);
	if (isnull)
		return NULL;
	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false,
					  TYPALIGN_INT, &names, NULL, &nnames);
	for (j = 0; j < nnames; j++)
	{
		int f = mapping_find(map, TextDatumGetCString(names[j]));

		if (f < 0)
			continue;
		fields = bms_add_member(fields, f);
		if (map->fields[f].problem != NULL)
			*suspended = map->fields[f].problem;
	}
	return fields;
}

/* The touched rows of members: an int8[] of their ids; false if none. */
static bool
touched_rows(Member **members, int n, Datum *ids)
{
	List *all = NIL;
	int64 *array;
	ListCell *lc;
	int i;

	for (i = 0; i < n; i++)
		all = list_concat(all, members[i]->touched);
	array = palloc(sizeof(int64) * (list_length(all) + 1));
	i = 0;
	foreach (lc, all)
		array[i++] = ((Touched *) lfirst(lc))->row_id;
	*ids = sql_int8_array(array, i);
	return i > 0;
}

/* Columns of a row q of member k.n, for read_open. */
#define OPEN_COLUMNS                                                          \
	"SELECT k.n, q.id::int8, coalesce(q.action::text, 'update'), "            \
	"q.created_at, "                                                          \
	"CASE WHEN jsonb_typeof(q.fields_changed) = 'object' THEN "               \
	"ARRAY(SELECT jsonb_object_keys(q.fields_changed)) END, "                 \
	"CASE WHEN q.action = 'delete' "                                          \
	"AND jsonb_typeof(q.fields_changed) = 'object' THEN "                     \
	"(SELECT e.value FROM jsonb_each_text(q.fields_changed) e LIMIT 1) END "  \
	"FROM unnest($1) WITH ORDINALITY k(key, n) "

/* Add pending rows, or those of ids that are synced, to the members' lists. */
static void
read_open(const Mapping *map, Member **members, int n, Datum ids, bool by_hand,
		  MemoryContext cxt)
{
	static const char *const pending = OPEN_COLUMNS
		", LATERAL " PENDING_OF("k.key") "q ORDER BY k.n, q.created_at, q.id";
	static const char *const synced =
		OPEN_COLUMNS "JOIN %1$s q ON q.ssn::text COLLATE \"C\" = k.key "
					 "AND q.id = ANY ($2) AND q.sync_status = 'synced' "
					 "ORDER BY k.n, q.created_at, q.id";
	Oid types[] = {TEXTARRAYOID, INT8ARRAYOID};
	Datum values[] = {member_keys(members, n), ids};
	SqlScope scope;
	uint64 i;

	if (by_hand)
		on_queue(map, &scope, synced, 2, types, values, NULL);
	else
		by_index(map, &scope, pending, 1, types, values);
	for (i = 0; i < SPI_processed; i++)
	{
		Member *m = members[sql_get_int8(i, 1) - 1];
		MemoryContext old = MemoryContextSwitchTo(cxt);
		PendingRow *row = palloc0(sizeof(PendingRow));

		row->id = sql_get_int8(i, 2);
		row->action = sql_get_text(i, 3, cxt);
		row->stamp = sql_get_time(i, 4);
		row->by_hand = by_hand;
		if (strcmp(row->action, "delete") == 0)
			row->moved_to = sql_get_text(i, 6, cxt);
		else
			row->fields = named_fields(map, i, 5, &row->error);
		m->pending = lappend(m->pending, row);
		MemoryContextSwitchTo(old);
	}
	sql_leave(&scope);
}

void
queue_read_pending(const Mapping *map, Member **members, int n,
				   MemoryContext cxt)
{
	Datum ids;

	read_open(map, members, n, (Datum) 0, false, cxt);
	if (touched_rows(members, n, &ids))
		read_open(map, members, n, ids, true, cxt);
}

void
queue_read_failed(const Mapping *map, Member **members, int n,
				  MemoryContext cxt)
{
	Oid types[] = {TEXTARRAYOID};
	Datum values[] = {member_keys(members, n)};
	char *suspended = NULL;
	SqlScope scope;
	uint64 i;

	on_queue(map, &scope,
			 "SELECT k.n, q.error_message, "
			 "CASE WHEN jsonb_typeof(q.fields_changed) = 'object' THEN "
			 "ARRAY(SELECT jsonb_object_keys(q.fields_changed)) END "
			 "FROM unnest($1) WITH ORDINALITY k(key, n) "
			 "JOIN %s q ON q.ssn = k.key AND q.sync_status = 'failed' "
			 "ORDER BY k.n, q.id",
			 1, types, values, NULL);
	for (i = 0; i < SPI_processed; i++)
	{
		Member *m = members[sql_get_int8(i, 1) - 1];
		MemoryContext old = MemoryContextSwitchTo(cxt);
		Failure *failure = palloc0(sizeof(Failure));

		failure->error = sql_get_text(i, 2, cxt);
		failure->fields = named_fields(map, i, 3, &suspended);
		m->failures = lappend(m->failures, failure);
		MemoryContextSwitchTo(old);
	}
	sql_leave(&scope);
}

void
queue_requeue(const Mapping *map, const int64 *ids, int n)
{
	Oid types[] = {INT8ARRAYOID};
	Datum values[] = {sql_int8_array(ids, n)};
	SqlScope scope;

	if (n == 0)
		return;
	on_queue(map, &scope,
			 "UPDATE %s SET sync_status = 'pending', synced_at = NULL "
			 "WHERE id = ANY ($1) AND sync_status = 'synced'",
			 1, types, values, NULL);
	sql_leave(&scope);
}

void
queue_read_history(const Mapping *map, Member **members, int n,
				   MemoryContext cxt)
{
	Oid types[] = {TEXTARRAYOID};
	Datum values[] = {member_keys(members, n)};
	SqlScope scope;
	uint64 i;

	for (i = 0; i < (uint64) n; i++)
		members[i]->history =
			MemoryContextAllocZero(cxt, sizeof(TimestampTz) * map->nfields);
	on_queue(
		map, &scope,
		"SELECT k.n, f.name, max(q.created_at) "
		"FROM unnest($1) WITH ORDINALITY k(key, n) "
		"JOIN %s q ON q.ssn = k.key, "
		"jsonb_object_keys(CASE "
		"WHEN jsonb_typeof(q.fields_changed) = 'object' "
		"THEN q.fields_changed ELSE '{}' END) f(name) "
		"WHERE q.action <> 'create' OR q.fields_changed -> f.name <> 'null' "
		"GROUP BY 1, 2",
		1, types, values, NULL);
	for (i = 0; i < SPI_processed; i++)
	{
		Member *m = members[sql_get_int8(i, 1) - 1];
		int f = mapping_find(map, sql_get_text(i, 2, CurrentMemoryContext));

		if (f >= 0)
			m->history[f] = sql_get_time(i, 3);
	}
	sql_leave(&scope);
}

/*
 * A key that was changed left a delete row of the old key which names the new
 * one and the member.
 */
void
queue_read_moves(const Mapping *map, Member **members, int n,
				 MemoryContext cxt)
{
	Oid types[] = {TEXTARRAYOID};
	Datum values[] = {member_keys(members, n)};
	SqlScope scope;
	uint64 i;

	by_index(map, &scope,
			 "SELECT k.n, d.ssn::text "
			 "FROM unnest($1) WITH ORDINALITY k(key, n), LATERAL "
			 "(SELECT o.ssn FROM " PENDING_OF(
				 "k.key") "c "
						  "JOIN %1$s o ON o.member_id = c.member_id "
						  "WHERE c.action = 'create' AND o.action = 'delete' "
						  "AND EXISTS (SELECT FROM jsonb_each_text(CASE "
						  "WHEN jsonb_typeof(o.fields_changed) = 'object' "
						  "THEN o.fields_changed ELSE '{}' END) e "
						  "WHERE e.value = k.key) ORDER BY o.created_at DESC "
						  "LIMIT 1) d",
			 1, types, values);
	for (i = 0; i < SPI_processed; i++)
		members[sql_get_int8(i, 1) - 1]->moved_from = sql_get_text(i, 2, cxt);
	sql_leave(&scope);
}

int64
queue_settle(const Mapping *map, int64 *ids, char **errors, int n)
{
	Oid types[] = {INT8ARRAYOID, TEXTARRAYOID};
	Datum values[] = {sql_int8_array(ids, n), sql_text_array(errors, n)};
	SqlScope scope;
	int64 left;

	if (n == 0)
		return 0;
	on_queue(
		map, &scope,
		"WITH free AS (SELECT f.id FROM %1$s f WHERE f.id = ANY ($1) "
		"AND f.sync_status || '' = 'pending' FOR NO KEY UPDATE SKIP LOCKED) "
		"UPDATE %1$s q SET "
		"sync_status = CASE WHEN u.error IS NULL THEN 'synced' ELSE 'failed' "
		"END, "
		"synced_at = CASE WHEN u.error IS NULL THEN clock_timestamp() END, "
		"error_message = coalesce(u.error, ''), "
		"retry_count = q.retry_count + CASE WHEN u.error IS NULL THEN 0 ELSE "
		"1 END "
		"FROM free JOIN unnest($1, $2) u(id, error) ON u.id = free.id "
		"WHERE q.id = free.id AND q.sync_status || '' = 'pending'",
		2, types, values, NULL);
	left = n - SPI_processed;
	sql_leave(&scope);
	if (left == 0)
		return 0;
	on_queue(map, &scope,
			 "SELECT count(DISTINCT ssn) FROM %s q WHERE id = ANY ($1) "
			 "AND sync_status || '' = 'pending'",
			 1, types, values, NULL);
	left = sql_get_int8(0, 1);
	sql_leave(&scope);
	return left;
}

List *
queue_old_rows(const Mapping *map, int days, OldRow *after, int limit,
			   MemoryContext cxt)
{
	Oid types[] = {INT4OID, TIMESTAMPTZOID, INT8OID, INT8OID};
	Datum values[] = {Int32GetDatum(days), TimestampTzGetDatum(after->at),
					  Int64GetDatum(after->id), Int64GetDatum(limit)};
	char *query =
		psprintf("SELECT id::int8, created_at, ssn::text FROM %s "
				 "WHERE sync_status = 'synced' AND created_at < "
				 "clock_timestamp() - make_interval(days => $1) "
				 "AND created_at >= $2 AND (created_at, id) > ($2, $3) "
				 "AND coalesce(synced_at, created_at) < "
				 "clock_timestamp() - make_interval(days => $1) "
				 "ORDER BY created_at, id LIMIT $4",
				 map->queue_table);
	List *list = NIL;
	SqlScope scope;
	uint64 i;

	sql_enter(&scope, map->owner);
	sql_run_by_index(query, 4, types, values, NULL, false, 0);
	for (i = 0; i < SPI_processed; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(cxt);
		OldRow *row = palloc(sizeof(OldRow));

		row->id = sql_get_int8(i, 1);
		row->at = sql_get_time(i, 2);
		row->key = sql_get_text(i, 3, cxt);
		list = lappend(list, row);
		MemoryContextSwitchTo(old);
	}
	sql_leave(&scope);
	return list;
}

int64
queue_remove(const Mapping *map, const int64 *ids, int n)
{
	Oid types[] = {INT8ARRAYOID};
	Datum values[] = {sql_int8_array(ids, n)};
	SqlScope scope;
	int64 removed;

	if (n == 0)
		return 0;
	on_queue(map, &scope,
			 "DELETE FROM %1$s WHERE id = ANY (ARRAY(SELECT o.id FROM %1$s o "
			 "WHERE o.id = ANY ($1) AND o.sync_status || '' = 'synced' "
			 "AND NOT (o.action = 'delete' AND o.fields_changed <> '{}' "
			 "AND EXISTS (SELECT FROM %1$s p WHERE p.member_id = o.member_id "
			 "AND p.sync_status || '' = 'pending')) FOR UPDATE SKIP LOCKED))",
			 1, types, values, NULL);
	removed = (int64) SPI_processed;
	sql_leave(&scope);
	return removed;
}

int64
queue_erase(const Mapping *map, const char *key)
{
	Oid types[] = {TEXTOID, TEXTOID};
	Datum values[] = {sql_text(key), sql_text(map->key_name)};
	SqlScope scope;
	int64 erased;

	on_queue(map, &scope,
			 "UPDATE %s SET fields_changed = '{}' WHERE action = 'delete' "
			 "AND jsonb_typeof(fields_changed) = 'object' "
			 "AND fields_changed ->> $2 = $1",
			 2, types, values, NULL);
	sql_leave(&scope);
	on_queue(map, &scope, "DELETE FROM %s WHERE ssn = $1", 1, types, values,
			 NULL);
	erased = (int64) SPI_processed;
	sql_leave(&scope);
	return erased;
}

bool
queue_add_failed(const Mapping *map, const Member *m, const char *error)
{
	Oid types[] = {map->id_typid, TEXTOID, TEXTOID};
	Datum values[] = {m->id, sql_text(m->key), sql_text(clip_message(error))};
	char nulls[] = {m->nrows > 0 ? ' ' : 'n', ' ', ' ', '\0'};
	SqlScope scope;
	bool added;

	on_queue(
		map, &scope,
		"INSERT INTO %1$s (member_id, ssn, action, fields_changed, "
		"created_at, sync_status, error_message, retry_count) "
		"SELECT $1, $2, 'update', '{}', clock_timestamp(), 'failed', $3, 1 "
		"WHERE NOT EXISTS (SELECT FROM %1$s WHERE ssn = $2 "
		"AND sync_status = 'failed' AND error_message = $3)",
		3, types, values, nulls);
	added = SPI_processed > 0;
	sql_leave(&scope);
	return added;
}

void
queue_release(const Mapping *map, const char *key, const char *field)
{
	Oid types[] = {TEXTOID, TEXTOID};
	Datum values[] = {sql_text(key), sql_text(psprintf("%s: held", field))};
	SqlScope scope;

	on_queue(map, &scope,
			 "UPDATE %s SET sync_status = 'pending', error_message = '' "
			 "WHERE ssn = $1 AND sync_status = 'failed' "
			 "AND starts_with(error_message, $2)",
			 2, types, values, NULL);
	sql_leave(&scope);
}
