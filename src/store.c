/*
 * store.c
 *		SQL over the extension's own tables: attachment, runs, members, audit.
 *		(The inbox has a file of its own, inbox.c.)
 *
 * Everything here runs as the extension's owner and touches schema ekksync
 * only: no code of users can run in this scope.
 *
 * May not know: the application's tables, Firestore's JSON, what to decide.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/json.h"

#include "scope.h"
#include "sqlvalue.h"
#include "store.h"

#define UNIX_EPOCH_USECS \
	((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY)

/* Run one statement as the extension's owner; leaves SPI connected. */
static void
ours(SqlScope *scope, const char *query, int nargs, Oid *types, Datum *values,
	 const char *nulls)
{
	sql_enter(scope, ekksync_owner_oid());
	sql_run(query, nargs, types, values, nulls, false, 0);
}

/* The same where nothing is returned. */
static void
ours_only(const char *query, int nargs, Oid *types, Datum *values,
		  const char *nulls)
{
	SqlScope	scope;

	ours(&scope, query, nargs, types, values, nulls);
	sql_leave(&scope);
}

/* ---- attachment ---- */

bool
store_state(StoreState *state, MemoryContext cxt)
{
	SqlScope	scope;
	bool		found;

	memset(state, 0, sizeof(*state));
	ours(&scope,
		 "SELECT paused, paused_reason, project, database_id, "
		 "system_identifier, accepted, last_scan FROM ekksync.state",
		 0, NULL, NULL, NULL);
	found = SPI_processed > 0;
	if (found)
	{
		state->paused = sql_get_bool(0, 1);
		state->paused_reason = sql_get_text(0, 2, cxt);
		state->project = sql_get_text(0, 3, cxt);
		state->database_id = sql_get_text(0, 4, cxt);
		state->system_identifier = sql_get_int8(0, 5);
		state->accepted = sql_get_bool(0, 6);
		state->last_scan = sql_get_time(0, 7);
	}
	sql_leave(&scope);
	return found;
}

void
store_bind(const char *project, const char *database_id,
		   int64 system_identifier)
{
	Oid			types[] = {TEXTOID, TEXTOID, INT8OID};
	Datum		values[] = {sql_text(project), sql_text(database_id),
	Int64GetDatum(system_identifier)};

	ours_only("UPDATE ekksync.state SET project = $1, database_id = $2, "
			  "system_identifier = $3, accepted = false",
			  3, types, values, NULL);
}

void
store_pause(const char *reason)
{
	Oid			types[] = {TEXTOID};
	Datum		values[] = {sql_text(reason)};

	ours_only("UPDATE ekksync.state SET paused = true, "
			  "paused_at = clock_timestamp(), paused_reason = $1",
			  1, types, values, reason == NULL ? "n" : " ");
}

/* Also lets the next run bind the base to what is in force then. */
void
store_resume(void)
{
	ours_only("UPDATE ekksync.state SET paused = false, paused_at = NULL, "
			  "paused_reason = NULL, accepted = true", 0, NULL, NULL, NULL);
}

void
store_forget_base(void)
{
	ours_only("UPDATE ekksync.member SET base = '{}', in_flight = '[]', "
			  "doc_update_time = NULL, first_contact = true, due = true",
			  0, NULL, NULL, NULL);
	ours_only("UPDATE ekksync.state SET last_scan = NULL, "
			  "last_full_scan = NULL", 0, NULL, NULL, NULL);
}

void
store_scanned(TimestampTz at, bool full)
{
	Oid			types[] = {TIMESTAMPTZOID, BOOLOID};
	Datum		values[] = {TimestampTzGetDatum(at), BoolGetDatum(full)};

	ours_only("UPDATE ekksync.state SET last_scan = $1, last_full_scan = "
			  "CASE WHEN $2 THEN $1 ELSE last_full_scan END",
			  2, types, values, NULL);
}

/* ---- runs ---- */

/*
 * Open a run's record: its number and token go to the run.  Records left open
 * by runs that died are closed as interrupted (the caller holds the run lock,
 * so nobody else's run is open).
 */
void
store_run_start(Run *run, const char *direction, const char *scan)
{
	Oid			types[] = {TEXTOID, BOOLOID, BOOLOID, TEXTOID};
	Datum		values[] = {sql_text(direction),
		BoolGetDatum(run->opt.dry_run), BoolGetDatum(run->opt.nonly >= 0),
	sql_text(scan)};
	SqlScope	scope;

	ours_only("UPDATE ekksync.run SET status = 'interrupted', "
			  "finished_at = clock_timestamp() WHERE status = 'running'",
			  0, NULL, NULL, NULL);
	ours(&scope,
		 "INSERT INTO ekksync.run (direction, dry_run, partial, scan) "
		 "VALUES ($1, $2, $3, $4) RETURNING id, token, started_at",
		 4, types, values, NULL);
	run->id = sql_get_int8(0, 1);
	run->token = sql_get_text(0, 2, run->cxt);
	run->started_at = sql_get_time(0, 3);
	sql_leave(&scope);
}

void
store_run_log(Run *run)
{
	Oid			types[] = {INT8OID, TEXTOID};
	Datum		values[] = {Int64GetDatum(run->id), sql_text(run->log_id)};

	ours_only("UPDATE ekksync.run SET log_document = $2 WHERE id = $1",
			  2, types, values, NULL);
}

/* Figures so far, and the phase that begins. */
void
store_run_progress(Run *run, const char *phase)
{
	FsCost		cost = *fs_cost(run->fs);
	RunFigures *f = &run->figures;
	Oid			types[16];
	Datum		values[] = {
		Int64GetDatum(run->id), sql_text(phase),
		Int64GetDatum(f->to_firestore), Int64GetDatum(f->to_firestore_failed),
		Int64GetDatum(f->to_django), Int64GetDatum(f->to_django_failed),
		Int64GetDatum(f->conflicts),
		Int64GetDatum(cost.docs_read), Int64GetDatum(cost.docs_written),
		Int64GetDatum(cost.docs_deleted), Int64GetDatum(cost.bytes_sent),
		Int64GetDatum(cost.bytes_received), Int64GetDatum(cost.requests),
		Int64GetDatum(cost.retries), Int64GetDatum(run->peak_memory)
	};
	int			i;

	for (i = 0; i < (int) lengthof(values); i++)
		types[i] = INT8OID;
	types[1] = TEXTOID;
	ours_only("UPDATE ekksync.run SET phase = $2, to_firestore = $3, "
			  "to_firestore_failed = $4, to_django = $5, "
			  "to_django_failed = $6, conflicts = $7, docs_read = $8, "
			  "docs_written = $9, docs_deleted = $10, bytes_sent = $11, "
			  "bytes_received = $12, requests = $13, retries = $14, "
			  "peak_memory_kb = nullif($15, 0) WHERE id = $1",
			  lengthof(values), types, values, NULL);
}

void
store_run_end(Run *run, const RunEnd *end)
{
	Oid			types[] = {INT8OID, TEXTOID, TEXTOID, TEXTOID};
	Datum		values[] = {Int64GetDatum(run->id), sql_text(end->status),
	sql_text(end->sqlstate), sql_text(end->error)};
	char		nulls[] = {' ', ' ', end->sqlstate ? ' ' : 'n',
	end->error ? ' ' : 'n', '\0'};

	store_run_progress(run, end->phase);
	ours_only("UPDATE ekksync.run SET status = $2, sqlstate = $3, "
			  "error = $4, finished_at = clock_timestamp() WHERE id = $1",
			  4, types, values, nulls);
}

/* Number of the newest run that is open, 0 if none. */
int64
store_run_current(void)
{
	SqlScope	scope;
	int64		id;

	ours(&scope, "SELECT max(id) FROM ekksync.run WHERE status = 'running'",
		 0, NULL, NULL, NULL);
	id = sql_get_int8(0, 1);
	sql_leave(&scope);
	return id;
}

bool
store_run_is_plain(int64 id, const char *direction)
{
	Oid			types[] = {INT8OID, TEXTOID};
	Datum		values[] = {Int64GetDatum(id), sql_text(direction)};
	SqlScope	scope;
	bool		plain;

	ours(&scope, "SELECT FROM ekksync.run WHERE id = $1 AND direction = $2 "
		 "AND NOT dry_run AND NOT partial", 2, types, values, NULL);
	plain = SPI_processed > 0;
	sql_leave(&scope);
	return plain;
}

/* ---- members ---- */

/* First column of an SPI result as a list of strings in cxt; leaves SPI. */
static List *
text_list(SqlScope *scope, MemoryContext cxt)
{
	List	   *list = NIL;
	MemoryContext old;
	uint64		i;

	for (i = 0; i < SPI_processed; i++)
	{
		char	   *s = sql_get_text(i, 1, cxt);

		old = MemoryContextSwitchTo(cxt);
		list = lappend(list, s);
		MemoryContextSwitchTo(old);
	}
	sql_leave(scope);
	return list;
}

/* The keys after a key that a query over $1 (the key) and $2 (limit) finds. */
static List *
keys_after(const char *query, const char *after, int limit, MemoryContext cxt)
{
	Oid			types[] = {TEXTOID, INT8OID};
	Datum		values[] = {sql_text(after ? after : ""), Int64GetDatum(limit)};
	SqlScope	scope;

	ours(&scope, query, 2, types, values, NULL);
	return text_list(&scope, cxt);
}

List *
store_due_keys(const char *after, int limit, bool all, MemoryContext cxt)
{
	return keys_after(all ?
					  "SELECT key FROM ekksync.member WHERE key > $1 "
					  "ORDER BY key LIMIT $2" :
					  "SELECT key FROM ekksync.member WHERE due AND key > $1 "
					  "ORDER BY key LIMIT $2", after, limit, cxt);
}

List *
store_synced_keys(const char *after, int limit, MemoryContext cxt)
{
	return keys_after("SELECT m.key FROM ekksync.member m JOIN "
					  "(SELECT key FROM ekksync.member WHERE due UNION "
					  "SELECT key FROM ekksync.inbox WHERE status = 'staged') k "
					  "ON k.key = m.key WHERE m.key > $1 "
					  "AND m.base <> '{}' AND m.tombstone IS NULL "
					  "ORDER BY m.key LIMIT $2", after, limit, cxt);
}

static Member *
find_member(Member **members, int n, int position)
{
	if (position < 1 || position > n)
		elog(ERROR, "ekksync: member %d of %d", position, n);
	return members[position - 1];
}

static char **
member_keys(Member **members, int n)
{
	char	  **keys = palloc(sizeof(char *) * (n + 1));
	int			i;

	for (i = 0; i < n; i++)
		keys[i] = members[i]->key;
	return keys;
}

/* Base values of the members found by store_read_members. */
static void
read_base(const Mapping *map, Member **members, int n, Datum keys,
		  MemoryContext cxt)
{
	Oid			types[] = {TEXTARRAYOID};
	SqlScope	scope;
	uint64		i;

	ours(&scope,
		 "SELECT k.n, b.key, (b.value->'v')::text, (b.value->>'t')::int8, "
		 "b.value->>'o' FROM unnest($1) WITH ORDINALITY k(key, n) "
		 "JOIN ekksync.member m ON m.key = k.key, jsonb_each(m.base) b",
		 1, types, &keys, NULL);
	for (i = 0; i < SPI_processed; i++)
	{
		Member	   *m = find_member(members, n, (int) sql_get_int8(i, 1));
		int			f = mapping_find(map, sql_get_text(i, 2, cxt));
		char	   *origin = sql_get_text(i, 5, cxt);

		if (f < 0)
			continue;
		m->base[f].value = sql_get_text(i, 3, cxt);
		m->base[f].stamp = sql_get_int8(i, 4) - UNIX_EPOCH_USECS;
		m->base[f].origin = origin != NULL && origin[0] == 'f' ?
			ORIGIN_FIRESTORE : ORIGIN_DJANGO;
	}
	sql_leave(&scope);
}

static FlightNote *
new_note(Member *m, int i, int nfields, MemoryContext cxt)
{
	MemoryContext old = MemoryContextSwitchTo(cxt);
	FlightNote *note = palloc0(sizeof(FlightNote));

	note->run = sql_get_int8(i, 3);
	note->at = sql_get_int8(i, 8) - UNIX_EPOCH_USECS;
	note->pre = sql_get_int8(i, 4);
	note->has_pre = note->pre != 0;
	if (note->has_pre)
		note->pre -= UNIX_EPOCH_USECS;
	note->fields = palloc(sizeof(int) * nfields);
	note->values = palloc(sizeof(char *) * nfields);
	note->stamps = palloc(sizeof(TimestampTz) * nfields);
	m->notes = lappend(m->notes, note);
	MemoryContextSwitchTo(old);
	return note;
}

/* Notes of writes in flight. */
static void
read_notes(const Mapping *map, Member **members, int n, Datum keys,
		   MemoryContext cxt)
{
	Oid			types[] = {TEXTARRAYOID};
	SqlScope	scope;
	FlightNote *note = NULL;
	int64		last_member = 0;
	int64		last_note = 0;
	uint64		i;

	ours(&scope,
		 "SELECT k.n, e.n, (e.note->>'run')::int8, (e.note->>'pre')::int8, "
		 "f.key, (f.value->0)::text, (f.value->>1)::int8, "
		 "(e.note->>'at')::int8 "
		 "FROM unnest($1) WITH ORDINALITY k(key, n) "
		 "JOIN ekksync.member m ON m.key = k.key AND m.in_flight <> '[]', "
		 "jsonb_array_elements(m.in_flight) WITH ORDINALITY e(note, n), "
		 "jsonb_each(e.note->'fields') f ORDER BY k.n, e.n",
		 1, types, &keys, NULL);
	for (i = 0; i < SPI_processed; i++)
	{
		int64		position = sql_get_int8(i, 1);
		int64		number = sql_get_int8(i, 2);
		int			f = mapping_find(map, sql_get_text(i, 5, cxt));

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
		note->nvalues++;
	}
	sql_leave(&scope);
}

void
store_read_members(const Mapping *map, Member **members, int n,
				   bool anew, MemoryContext cxt)
{
	Oid			types[] = {TEXTARRAYOID};
	Datum		keys = sql_text_array(member_keys(members, n), n);
	SqlScope	scope;
	uint64		i;

	ours(&scope,
		 "SELECT k.n, m.first_contact, m.doc_update_time, m.tombstone "
		 "FROM unnest($1) WITH ORDINALITY k(key, n) "
		 "JOIN ekksync.member m ON m.key = k.key",
		 1, types, &keys, NULL);
	for (i = 0; i < SPI_processed; i++)
	{
		Member	   *m = find_member(members, n, (int) sql_get_int8(i, 1));

		m->known = true;
		m->first_contact = anew || sql_get_bool(i, 2);
		m->doc_update_time = anew ? 0 : sql_get_time(i, 3);
		m->tombstone = sql_get_time(i, 4);
	}
	sql_leave(&scope);
	if (anew)
		return;
	read_base(map, members, n, keys, cxt);
	read_notes(map, members, n, keys, cxt);
}

/* Every value that we have ever written to these members' documents. */
void
store_read_pushed(const Mapping *map, Member **members, int n,
				  MemoryContext cxt)
{
	Oid			types[] = {TEXTARRAYOID};
	Datum		keys = sql_text_array(member_keys(members, n), n);
	SqlScope	scope;
	uint64		i;

	ours(&scope,
		 "SELECT k.n, f.key, (f.value->1)::text "
		 "FROM unnest($1) WITH ORDINALITY k(key, n) "
		 "JOIN ekksync.change_log l ON l.key = k.key AND l.side = 'firestore', "
		 "jsonb_each(l.changes) f", 1, types, &keys, NULL);
	for (i = 0; i < SPI_processed; i++)
	{
		Member	   *m = find_member(members, n, (int) sql_get_int8(i, 1));
		int			f = mapping_find(map, sql_get_text(i, 2, cxt));
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
	int			f;

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
		appendStringInfo(&buf, ":{\"v\":%s,\"t\":" INT64_FORMAT ",\"o\":\"%s\"}",
						 b->value, b->stamp + UNIX_EPOCH_USECS,
						 b->origin == ORIGIN_FIRESTORE ? "f" : "d");
	}
	appendStringInfoChar(&buf, '}');
	return buf.data;
}

/* The notes that still count, as a JSON array. */
static char *
notes_json(const Mapping *map, const Member *m)
{
	StringInfoData buf;
	ListCell   *lc;

	initStringInfo(&buf);
	appendStringInfoChar(&buf, '[');
	foreach(lc, m->notes)
	{
		const FlightNote *note = lfirst(lc);
		TimestampTz at = note->at != 0 ? note->at : GetCurrentTimestamp();
		int			i;

		if (note->dropped)
			continue;
		if (buf.len > 1)
			appendStringInfoChar(&buf, ',');
		appendStringInfo(&buf, "{\"run\":" INT64_FORMAT ",\"at\":" INT64_FORMAT
						 ",\"pre\":", note->run, at + UNIX_EPOCH_USECS);
		if (note->has_pre)
			appendStringInfo(&buf, INT64_FORMAT, note->pre + UNIX_EPOCH_USECS);
		else
			appendStringInfoString(&buf, "null");
		appendStringInfoString(&buf, ",\"fields\":{");
		for (i = 0; i < note->nvalues; i++)
		{
			if (i > 0)
				appendStringInfoChar(&buf, ',');
			escape_json(&buf, map->fields[note->fields[i]].name);
			appendStringInfo(&buf, ":[%s," INT64_FORMAT "]", note->values[i],
							 note->stamps[i] + UNIX_EPOCH_USECS);
		}
		appendStringInfoString(&buf, "}}");
	}
	appendStringInfoChar(&buf, ']');
	return buf.data;
}

/*
 * Write members back: changed base values, notes, document time, tombstone.
 * A member stays due when it is to be looked at again (m->withheld or
 * m->again) or while notes of writes in flight remain.
 */
void
store_write_members(Run *run, Member **members, int n)
{
	Oid			types[] = {TEXTARRAYOID, JSONBARRAYOID, JSONBARRAYOID,
		TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID, BOOLARRAYOID, BOOLARRAYOID,
	INT8OID};
	char	  **base = palloc(sizeof(char *) * (n + 1));
	char	  **notes = palloc(sizeof(char *) * (n + 1));
	TimestampTz *times = palloc(sizeof(TimestampTz) * (n + 1));
	TimestampTz *tombs = palloc(sizeof(TimestampTz) * (n + 1));
	bool	   *due = palloc(sizeof(bool) * (n + 1));
	bool	   *first = palloc(sizeof(bool) * (n + 1));
	Datum		values[8];
	char	  **keys = palloc(sizeof(char *) * (n + 1));
	int			kept = 0;
	int			i;

	for (i = 0; i < n; i++)
	{
		Member	   *m = members[i];

		/* a key that no row ever had is no member of ours */
		if (!m->known && (m->problem != NULL || (m->gone && m->pending == NIL)))
			continue;
		keys[kept] = m->key;
		base[kept] = base_json(run->map, m);
		notes[kept] = notes_json(run->map, m);
		times[kept] = m->doc_update_time;
		tombs[kept] = m->tombstone;
		first[kept] = m->first_contact;
		due[kept] = m->withheld || m->again || strcmp(notes[kept], "[]") != 0;
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
	values[7] = Int64GetDatum(run->id);
	ours_only("INSERT INTO ekksync.member AS m (key, base, in_flight, "
			  "doc_update_time, tombstone, due, first_contact, last_run) "
			  "SELECT u.*, $8 FROM unnest($1, $2, $3, $4, $5, $6, $7) u "
			  "ON CONFLICT (key) DO UPDATE SET "
			  "base = m.base || excluded.base, "
			  "in_flight = excluded.in_flight, "
			  "doc_update_time = excluded.doc_update_time, "
			  "tombstone = excluded.tombstone, due = excluded.due, "
			  "first_contact = excluded.first_contact, "
			  "last_run = excluded.last_run",
			  8, types, values, NULL);
}

void
store_mark_due(char **keys, int n)
{
	Oid			types[] = {TEXTARRAYOID};
	Datum		values[] = {sql_text_array(keys, n)};

	ours_only("UPDATE ekksync.member SET due = true "
			  "WHERE key = ANY ($1) AND NOT due", 1, types, values, NULL);
}

int64
store_live_members(void)
{
	SqlScope	scope;
	int64		count;

	ours(&scope,
		 "SELECT count(*) FROM ekksync.member WHERE tombstone IS NULL",
		 0, NULL, NULL, NULL);
	count = sql_get_int8(0, 1);
	sql_leave(&scope);
	return count;
}

void
store_scan_page(char **keys, TimestampTz *times, int n, bool full,
				const char *after, const char *upto)
{
	Oid			types[] = {TEXTARRAYOID, TIMESTAMPTZARRAYOID, TEXTOID, TEXTOID};
	Datum		values[] = {sql_text_array(keys, n), sql_time_array(times, n),
	sql_text(after), sql_text(upto)};
	char		nulls[] = {' ', ' ', after ? ' ' : 'n', upto ? ' ' : 'n', '\0'};

	ours_only("UPDATE ekksync.member m SET due = true "
			  "FROM unnest($1, $2) u(key, t) WHERE m.key = u.key "
			  "AND NOT m.due AND m.doc_update_time IS DISTINCT FROM u.t",
			  2, types, values, NULL);
	if (full)
		ours_only("UPDATE ekksync.member m SET due = true "
				  "WHERE NOT m.due AND m.tombstone IS NULL "
				  "AND ($3 IS NULL OR m.key > $3) "
				  "AND ($4 IS NULL OR m.key <= $4) "
				  "AND NOT EXISTS (SELECT FROM unnest($1, $2) u(key, t) "
				  "WHERE u.key = m.key)", 4, types, values, nulls);
}
