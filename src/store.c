/*
 * store.c
 *		SQL over ekksync.member: what is known of each member.  (The attachment
 *		and the runs are in runs.c, entries in inbox.c, the audit in audit.c.)
 *
 * Everything here runs as the extension's owner and touches schema ekksync
 * only: no code of users can run in this scope.
 *
 * May not know: the application's tables, Firestore's JSON, what to decide.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"

#include "scope.h"
#include "settings.h"
#include "sqlvalue.h"
#include "store.h"

#define UNIX_EPOCH_USECS                                                      \
	((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY)

void
store_sql(SqlScope *scope, const char *query, int nargs, Oid *types,
		  Datum *values, const char *nulls)
{
	sql_enter(scope, ekksync_owner_oid());
	sql_run(query, nargs, types, values, nulls, false, 0);
}

void
store_sql_only(const char *query, int nargs, Oid *types, Datum *values,
			   const char *nulls)
{
	SqlScope scope;

	store_sql(&scope, query, nargs, types, values, nulls);
	sql_leave(&scope);
}

/* ---- members ---- */

/* The keys after a key that a query over $1 (the key) and $2 (limit) finds. */
static List *
keys_after(const char *query, const char *after, int limit, MemoryContext cxt)
{
	Oid types[] = {TEXTOID, INT8OID};
	Datum values[] = {sql_text(after ? after : ""), Int64GetDatum(limit)};
	SqlScope scope;
	List *list;

	store_sql(&scope, query, 2, types, values, NULL);
	list = sql_get_list(cxt);
	sql_leave(&scope);
	return list;
}

List *
store_due_keys(const char *after, int limit, bool all, MemoryContext cxt)
{
	return keys_after(
		all ? "SELECT key FROM ekksync.member WHERE key > $1 "
			  "ORDER BY key LIMIT $2"
			: "SELECT key FROM ekksync.member WHERE due AND key > $1 "
			  "ORDER BY key LIMIT $2",
		after, limit, cxt);
}

int64
store_count_members(void)
{
	SqlScope scope;
	int64 n;

	store_sql(&scope,
			  "SELECT count(*) FROM ekksync.member WHERE tombstone IS NULL", 0,
			  NULL, NULL, NULL);
	n = sql_get_int8(0, 1);
	sql_leave(&scope);
	return n;
}

static Member *
find_member(Member **members, int n, int position)
{
	if (position < 1 || position > n)
		elog(ERROR, "ekksync: member %d of %d", position, n);
	return members[position - 1];
}

/* How a write's origin is kept. */
static const char *
origin_letter(MergeOrigin origin)
{
	return origin == ORIGIN_FIRESTORE ? "f" : "d";
}

static MergeOrigin
origin_of_letter(const char *letter)
{
	return letter != NULL && letter[0] == 'f' ? ORIGIN_FIRESTORE
											  : ORIGIN_DJANGO;
}

/* Base values of the members found by store_read_members. */
static void
read_base(const Mapping *map, Member **members, int n, Datum keys,
		  MemoryContext cxt)
{
	Oid types[] = {TEXTARRAYOID};
	SqlScope scope;
	uint64 i;

	store_sql(
		&scope,
		"SELECT k.n, b.key, (b.value->'v')::text, (b.value->>'t')::int8, "
		"b.value->>'o' FROM unnest($1) WITH ORDINALITY k(key, n) "
		"JOIN ekksync.member m ON m.key = k.key, jsonb_each(m.base) b",
		1, types, &keys, NULL);
	for (i = 0; i < SPI_processed; i++)
	{
		Member *m = find_member(members, n, (int) sql_get_int8(i, 1));
		int f = mapping_find(map, sql_get_text(i, 2, cxt));
		char *origin = sql_get_text(i, 5, cxt);

		if (f < 0)
			continue;
		m->base[f].value = sql_get_text(i, 3, cxt);
		m->base[f].stamp = sql_get_int8(i, 4) - UNIX_EPOCH_USECS;
		m->base[f].origin = origin_of_letter(origin);
	}
	sql_leave(&scope);
}

static FlightNote *
new_note(Member *m, int i, int nfields, MemoryContext cxt)
{
	MemoryContext old = MemoryContextSwitchTo(cxt);
	FlightNote *note = palloc0(sizeof(FlightNote));

	note->run = sql_get_int8(i, 3);
	note->mark = sql_get_text(i, 10, cxt);
	note->at = sql_get_int8(i, 8) - UNIX_EPOCH_USECS;
	note->gone = sql_get_bool(i, 11);
	note->pre = sql_get_int8(i, 4);
	note->has_pre = note->pre != 0;
	if (note->has_pre)
		note->pre -= UNIX_EPOCH_USECS;
	note->fields = palloc(sizeof(int) * nfields);
	note->values = palloc(sizeof(char *) * nfields);
	note->stamps = palloc(sizeof(TimestampTz) * nfields);
	note->origins = palloc(sizeof(MergeOrigin) * nfields);
	m->notes = lappend(m->notes, note);
	MemoryContextSwitchTo(old);
	return note;
}

/* Notes of writes in flight. */
static void
read_notes(const Mapping *map, Member **members, int n, Datum keys,
		   MemoryContext cxt)
{
	Oid types[] = {TEXTARRAYOID};
	SqlScope scope;
	FlightNote *note = NULL;
	int64 last_member = 0;
	int64 last_note = 0;
	uint64 i;

	store_sql(
		&scope,
		"SELECT k.n, e.n, (e.note->>'run')::int8, (e.note->>'pre')::int8, "
		"f.key, (f.value->0)::text, (f.value->>1)::int8, "
		"(e.note->>'at')::int8, f.value->>2, e.note->>'mark', "
		"e.note ? 'gone' "
		"FROM unnest($1) WITH ORDINALITY k(key, n) "
		"JOIN ekksync.member m ON m.key = k.key AND m.in_flight <> '[]', "
		"jsonb_array_elements(m.in_flight) WITH ORDINALITY e(note, n), "
		"jsonb_each(e.note->'fields') f ORDER BY k.n, e.n",
		1, types, &keys, NULL);
	for (i = 0; i < SPI_processed; i++)
	{
		int64 position = sql_get_int8(i, 1);
		int64 number = sql_get_int8(i, 2);
		int f = mapping_find(map, sql_get_text(i, 5, cxt));

		if (note == NULL || position != last_member || number != last_note)
			note = new_note(find_member(members, n, (int) position), i,
							map->nfields, cxt);
		last_member = position;
		last_note = number;
		if (f < 0 || note->nvalues >= map->nfields)
			continue;
		note->fields[note->nvalues] = f;
		note->values[note->nvalues] = sql_get_text(i, 6, cxt);
		note->stamps[note->nvalues] = sql_get_int8(i, 7) - UNIX_EPOCH_USECS;
		note->origins[note->nvalues] =
			origin_of_letter(sql_get_text(i, 9, cxt));
		note->nvalues++;
	}
	sql_leave(&scope);
}

void
store_read_members(const Mapping *map, Member **members, int n, bool anew,
				   MemoryContext cxt)
{
	Oid types[] = {TEXTARRAYOID};
	Datum keys = member_keys(members, n);
	SqlScope scope;
	uint64 i;

	store_sql(&scope,
			  "SELECT k.n, m.first_contact, m.doc_update_time, m.tombstone, "
			  "m.away, coalesce(m.last_run, 0), m.xmin, m.due "
			  "FROM unnest($1) WITH ORDINALITY k(key, n) "
			  "JOIN ekksync.member m ON m.key = k.key",
			  1, types, &keys, NULL);
	for (i = 0; i < SPI_processed; i++)
	{
		Member *m = find_member(members, n, (int) sql_get_int8(i, 1));

		m->known = true;
		m->first_contact = anew || sql_get_bool(i, 2);
		m->doc_update_time = anew ? 0 : sql_get_time(i, 3);
		m->tombstone = sql_get_time(i, 4);
		m->away = sql_get_time(i, 5);
		m->last_run = sql_get_int8(i, 6);
		m->version = sql_get_text(i, 7, cxt);
		m->due = sql_get_bool(i, 8);
	}
	sql_leave(&scope);
	if (anew)
		return;
	read_base(map, members, n, keys, cxt);
	read_notes(map, members, n, keys, cxt);
}

void
store_recheck(Member **members, int n)
{
	Oid types[] = {TEXTARRAYOID};
	Datum values[] = {member_keys(members, n)};
	SqlScope scope;
	uint64 i;

	store_sql(&scope,
			  "SELECT k.n, m.xmin FROM unnest($1) WITH ORDINALITY k(key, n) "
			  "JOIN ekksync.member m ON m.key = k.key "
			  "FOR NO KEY UPDATE OF m",
			  1, types, values, NULL);
	for (i = 0; i < SPI_processed; i++)
	{
		Member *m = find_member(members, n, (int) sql_get_int8(i, 1));
		char *version = sql_get_text(i, 2, CurrentMemoryContext);

		if (m->version == NULL || strcmp(m->version, version) != 0)
			m->again = true;
	}
	sql_leave(&scope);
}

/*
 * Every value that these members' documents have had, as runs know: written
 * by us, taken from there, or beaten.  What ekksync_apply() was given may
 * never have been in one.
 */
void
store_read_pushed(const Mapping *map, Member **members, int n,
				  MemoryContext cxt)
{
	Oid types[] = {TEXTARRAYOID};
	Datum keys = member_keys(members, n);
	SqlScope scope;
	uint64 i;

	store_sql(&scope,
			  "SELECT DISTINCT k.n, v.field, v.value::text "
			  "FROM unnest($1) WITH ORDINALITY k(key, n), "
			  "LATERAL (SELECT f.key, f.value->1 "
			  "FROM ekksync.change_log l, jsonb_each(l.changes) f "
			  "WHERE l.key = k.key AND l.run IS NOT NULL "
			  "UNION ALL SELECT c.field, c.firestore_value "
			  "FROM ekksync.conflict c WHERE c.key = k.key "
			  "AND c.run IS NOT NULL "
			  "AND c.firestore_value IS NOT NULL AND NOT (c.winner = 'none' "
			  "AND c.resolved_at IS NULL)) v(field, value)",
			  1, types, &keys, NULL);
	for (i = 0; i < SPI_processed; i++)
	{
		Member *m = find_member(members, n, (int) sql_get_int8(i, 1));
		int f = mapping_find(map, sql_get_text(i, 2, cxt));
		MemoryContext old;
		PushedValue *pushed;

		if (f < 0)
			continue;
		old = MemoryContextSwitchTo(cxt);
		pushed = palloc(sizeof(PushedValue));
		pushed->field = f;
		pushed->value = sql_get_text(i, 3, cxt);
		m->pushed = lappend(m->pushed, pushed);
		MemoryContextSwitchTo(old);
	}
	sql_leave(&scope);
}

/* The base values that changed, as a JSON object. */
static char *
base_json(const Mapping *map, const Member *m)
{
	StringInfoData buf;
	int f;

	initStringInfo(&buf);
	appendStringInfoChar(&buf, '{');
	for (f = 0; f < map->nfields; f++)
	{
		const BaseValue *b = &m->base[f];

		if (!b->dirty || b->value == NULL)
			continue;
		if (buf.len > 1)
			appendStringInfoChar(&buf, ',');
		escape_json(&buf, map->fields[f].name);
		appendStringInfo(&buf,
						 ":{\"v\":%s,\"t\":" INT64_FORMAT ",\"o\":\"%s\"}",
						 b->value, b->stamp + UNIX_EPOCH_USECS,
						 origin_letter(b->origin));
	}
	appendStringInfoChar(&buf, '}');
	return buf.data;
}

/* The notes that still count, as a JSON array. */
static char *
notes_json(const Mapping *map, const Member *m)
{
	StringInfoData buf;
	ListCell *lc;

	initStringInfo(&buf);
	appendStringInfoChar(&buf, '[');
	foreach (lc, m->notes)
	{
		const FlightNote *note = lfirst(lc);
		TimestampTz at = note->at != 0 ? note->at : GetCurrentTimestamp();
		int i;

		if (note->dropped)
			continue;
		if (buf.len > 1)
			appendStringInfoChar(&buf, ',');
		appendStringInfo(&buf,
						 "{\"run\":" INT64_FORMAT
						 ",\"mark\":\"%s\",\"at\":" INT64_FORMAT ",\"pre\":",
						 note->run, note->mark, at + UNIX_EPOCH_USECS);
		if (note->has_pre)
			appendStringInfo(&buf, INT64_FORMAT, note->pre + UNIX_EPOCH_USECS);
		else
			appendStringInfoString(&buf, "null");
		appendStringInfo(&buf, "%s,\"fields\":{",
						 note->gone ? ",\"gone\":true" : "");
		for (i = 0; i < note->nvalues; i++)
		{
			if (i > 0)
				appendStringInfoChar(&buf, ',');
			escape_json(&buf, map->fields[note->fields[i]].name);
			appendStringInfo(&buf, ":[%s," INT64_FORMAT ",\"%s\"]",
							 note->values[i],
							 note->stamps[i] + UNIX_EPOCH_USECS,
							 origin_letter(note->origins[i]));
		}
		appendStringInfoString(&buf, "}}");
	}
	appendStringInfoChar(&buf, ']');
	return buf.data;
}

/* The versions of members as read, as a JSON object by key. */
static char *
versions_json(Member **members, int n)
{
	StringInfoData buf;
	int i;

	initStringInfo(&buf);
	for (i = 0; i < n; i++)
	{
		if (members[i]->version == NULL)
			continue;
		appendStringInfoChar(&buf, buf.len == 0 ? '{' : ',');
		escape_json(&buf, members[i]->key);
		appendStringInfo(&buf, ":\"%s\"", members[i]->version);
	}
	appendStringInfoString(&buf, buf.len == 0 ? "{}" : "}");
	return buf.data;
}

/*
 * Write members back: changed base values, notes, document time, tombstone.
 * A member stays due when it is to be looked at again (m->withheld, m->unseen
 * or m->again), while notes of writes in flight remain, or when others have
 * made it due since it was read: a person has decided.
 */
void
store_write_members(Run *run, Member **members, int n)
{
	Oid types[] = {TEXTARRAYOID,
				   JSONBARRAYOID,
				   JSONBARRAYOID,
				   TIMESTAMPTZARRAYOID,
				   TIMESTAMPTZARRAYOID,
				   BOOLARRAYOID,
				   BOOLARRAYOID,
				   TIMESTAMPTZARRAYOID,
				   INT8OID,
				   JSONBOID};
	char **base = palloc(sizeof(char *) * (n + 1));
	char **notes = palloc(sizeof(char *) * (n + 1));
	TimestampTz *times = palloc(sizeof(TimestampTz) * (n + 1));
	TimestampTz *tombs = palloc(sizeof(TimestampTz) * (n + 1));
	TimestampTz *away = palloc(sizeof(TimestampTz) * (n + 1));
	bool *due = palloc(sizeof(bool) * (n + 1));
	bool *first = palloc(sizeof(bool) * (n + 1));
	Datum values[10];
	char **keys = palloc(sizeof(char *) * (n + 1));
	char *version = psprintf("%u", GetCurrentTransactionId());
	int kept = 0;
	int i;

	values[9] =
		DirectFunctionCall1(jsonb_in,
							CStringGetDatum(versions_json(members, n)));
	for (i = 0; i < n; i++)
	{
		Member *m = members[i];

		/* a key that no row ever had is no member of ours */
		if (!m->known &&
			(m->problem != NULL || (m->gone && m->pending == NIL)))
			continue;
		keys[kept] = m->key;
		m->version = MemoryContextStrdup(run->page_cxt, version);
		base[kept] = base_json(run->map, m);
		notes[kept] = notes_json(run->map, m);
		times[kept] = m->doc_update_time;
		tombs[kept] = m->tombstone;
		first[kept] = m->first_contact;
		away[kept] = m->away;
		due[kept] = m->withheld || m->unseen || m->again ||
					strcmp(notes[kept], "[]") != 0;
		kept++;
	}
	n = kept;
	values[0] = sql_text_array(keys, n);
	values[1] = sql_json_array(base, n);
	values[2] = sql_json_array(notes, n);
	values[3] = sql_time_array(times, n);
	values[4] = sql_time_array(tombs, n);
	values[5] = sql_bool_array(due, n);
	values[6] = sql_bool_array(first, n);
	values[7] = sql_time_array(away, n);
	values[8] = Int64GetDatum(run->id);
	store_sql_only("INSERT INTO ekksync.member AS m (key, base, in_flight, "
				   "doc_update_time, tombstone, due, first_contact, away, "
				   "last_run) SELECT u.*, $9 "
				   "FROM unnest($1, $2, $3, $4, $5, $6, $7, $8) u "
				   "ON CONFLICT (key) DO UPDATE SET "
				   "base = m.base || excluded.base, "
				   "in_flight = excluded.in_flight, "
				   "doc_update_time = excluded.doc_update_time, "
				   "tombstone = excluded.tombstone, "
				   "due = excluded.due OR (m.due "
				   "AND m.xmin::text IS DISTINCT FROM $10 ->> m.key), "
				   "first_contact = excluded.first_contact, "
				   "away = excluded.away, last_run = excluded.last_run",
				   10, types, values, NULL);
}

/* ---- queue rows settled by hand ---- */

List *
store_touched_keys(const char *after, int limit, MemoryContext cxt)
{
	return keys_after("SELECT DISTINCT key FROM ekksync.touched "
					  "WHERE key > $1 ORDER BY key LIMIT $2",
					  after, limit, cxt);
}

void
store_read_touched(Member **members, int n, MemoryContext cxt)
{
	Oid types[] = {TEXTARRAYOID};
	Datum keys = member_keys(members, n);
	SqlScope scope;
	uint64 i;

	store_sql(&scope,
			  "SELECT k.n, t.id, t.queue_id "
			  "FROM unnest($1) WITH ORDINALITY k(key, n) "
			  "JOIN ekksync.touched t ON t.key = k.key ORDER BY k.n, t.id",
			  1, types, &keys, NULL);
	for (i = 0; i < SPI_processed; i++)
	{
		Member *m = find_member(members, n, (int) sql_get_int8(i, 1));
		MemoryContext old = MemoryContextSwitchTo(cxt);
		Touched *touched = palloc(sizeof(Touched));

		touched->id = sql_get_int8(i, 2);
		touched->row_id = sql_get_int8(i, 3);
		m->touched = lappend(m->touched, touched);
		MemoryContextSwitchTo(old);
	}
	sql_leave(&scope);
}

void
store_forget_touched(Member **members, int n)
{
	Oid types[] = {INT8ARRAYOID};
	Datum values[1];
	int64 *ids;
	ListCell *lc;
	int count = 0;
	int i;

	for (i = 0; i < n; i++)
		count += list_length(members[i]->touched);
	if (count == 0)
		return;
	ids = palloc(sizeof(int64) * count);
	count = 0;
	for (i = 0; i < n; i++)
		foreach (lc, members[i]->touched)
			ids[count++] = ((Touched *) lfirst(lc))->id;
	values[0] = sql_int8_array(ids, count);
	store_sql_only("DELETE FROM ekksync.touched WHERE id = ANY ($1)", 1, types,
				   values, NULL);
}

void
store_touch(List *keys)
{
	Oid types[] = {TEXTARRAYOID};
	char **array = palloc(sizeof(char *) * (list_length(keys) + 1));
	Datum values[1];
	int i;

	for (i = 0; i < list_length(keys); i++)
		array[i] = list_nth(keys, i);
	values[0] = sql_text_array(array, i);
	store_sql_only("INSERT INTO ekksync.touched (key, queue_id) "
				   "SELECT u.*, 0 FROM unnest($1) u",
				   1, types, values, NULL);
}

/* ---- the scan ---- */

void
store_scan_page(char **keys, TimestampTz *times, int n, bool full,
				const char *after, const char *upto)
{
	Oid types[] = {TEXTARRAYOID, TIMESTAMPTZARRAYOID, TEXTOID, TEXTOID,
				   BOOLOID};
	bool restore = settings.on_remote_delete == REMOTE_DELETE_RESTORE;
	Datum values[] = {sql_text_array(keys, n), sql_time_array(times, n),
					  sql_text(after), sql_text(upto), BoolGetDatum(restore)};
	char nulls[] = {' ', ' ', after ? ' ' : 'n', upto ? ' ' : 'n', ' ', '\0'};

	store_sql_only("UPDATE ekksync.member m SET due = true "
				   "FROM unnest($1, $2) u(key, t) WHERE m.key = u.key "
				   "AND NOT m.due AND m.doc_update_time IS DISTINCT FROM u.t",
				   2, types, values, NULL);
	if (full)
		store_sql_only("UPDATE ekksync.member m SET due = true "
					   "WHERE NOT m.due AND m.tombstone IS NULL "
					   "AND (m.away IS NULL OR $5) "
					   "AND ($3 IS NULL OR m.key > $3) "
					   "AND ($4 IS NULL OR m.key <= $4) "
					   "AND NOT EXISTS (SELECT FROM unnest($1, $2) u(key, t) "
					   "WHERE u.key = m.key)",
					   5, types, values, nulls);
	if (full && restore)
		store_sql_only("UPDATE ekksync.member m SET due = true "
					   "FROM unnest($1, $2) u(key, t) WHERE m.key = u.key "
					   "AND NOT m.due AND m.tombstone IS NULL "
					   "AND m.base->'" MAPPING_STATUS "'->>'o' = 'f' "
					   "AND m.base->'" MAPPING_STATUS "'->>'v' = 'inactive'",
					   2, types, values, NULL);
}
