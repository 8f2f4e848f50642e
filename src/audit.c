/*
 * audit.c
 *		SQL over what the extension keeps for people: conflicts, the change
 *		log, the plan of a dry run.
 *
 * May not know: how a decision was made.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/async.h"

#include "scope.h"
#include "sqlvalue.h"
#include "store.h"

/* A time of the merge as SQL knows it; its "never" is null. */
static TimestampTz
audit_time(MergeTime t)
{
	return t <= MIN_TIMESTAMP ? 0 : t;
}

/* Tell whoever listens, when this transaction is committed. */
static void
notify_conflicts(const Run *run, int n, int potential)
{
	Async_Notify(EKKSYNC_CHANNEL,
				 psprintf("{\"event\":\"conflict\",\"run\":%s"
						  ",\"conflicts\":%d,\"potential\":%d}",
						  run->id != 0 ? psprintf(INT64_FORMAT, run->id)
									   : "null",
						  n, potential));
}

/*
 * Record conflicts; without a run (its id is 0), of ekksync_apply().  The same conflict (values and times of both sides; of a
 * value that does not fit, the values alone; of a field that is held, the
 * values of one that is open) is recorded once, however often its member is
 * tried; the run's own figure counts the new ones.
 */
int
store_conflicts(Run *run, List *conflicts)
{
	Oid types[] = {INT8OID,
				   TEXTARRAYOID,
				   TEXTARRAYOID,
				   JSONBARRAYOID,
				   JSONBARRAYOID,
				   TIMESTAMPTZARRAYOID,
				   TIMESTAMPTZARRAYOID,
				   TIMESTAMPTZARRAYOID,
				   TEXTARRAYOID,
				   TEXTARRAYOID,
				   BOOLARRAYOID,
				   INT8OID};
	const FsClock *clock = run->fs != NULL ? fs_clock(run->fs) : NULL;
	bool skew_known = clock != NULL && clock->known;
	int n = list_length(conflicts);
	char **text[6];
	TimestampTz *times[3];
	bool *potential = palloc(sizeof(bool) * (n + 1));
	Datum values[12];
	SqlScope scope;
	int count;
	int npotential = 0;
	int i;

	if (n == 0)
		return 0;
	for (i = 0; i < 6; i++)
		text[i] = palloc(sizeof(char *) * n);
	for (i = 0; i < 3; i++)
		times[i] = palloc(sizeof(TimestampTz) * n);
	for (i = 0; i < n; i++)
	{
		const ConflictRow *row = list_nth(conflicts, i);

		text[0][i] = unconstify(char *, row->key);
		text[1][i] = unconstify(char *, row->field);
		text[2][i] = unconstify(char *, row->django_value);
		text[3][i] = unconstify(char *, row->firestore_value);
		text[4][i] = unconstify(char *, row->winner);
		text[5][i] = unconstify(char *, row->rule);
		times[0][i] = row->django_stamp.from == row->django_stamp.upto
						  ? audit_time(row->django_stamp.upto)
						  : 0;
		times[1][i] = audit_time(row->firestore_stamp.from);
		times[2][i] = audit_time(row->firestore_stamp.upto);
		potential[i] = row->potential;
	}
	values[0] = Int64GetDatum(run->id);
	values[1] = sql_text_array(text[0], n);
	values[2] = sql_text_array(text[1], n);
	values[3] = sql_json_array(text[2], n);
	values[4] = sql_json_array(text[3], n);
	values[5] = sql_time_array(times[0], n);
	values[6] = sql_time_array(times[1], n);
	values[7] = sql_time_array(times[2], n);
	values[8] = sql_text_array(text[4], n);
	values[9] = sql_text_array(text[5], n);
	values[10] = sql_bool_array(potential, n);
	values[11] = Int64GetDatum(skew_known ? clock->skew : 0);
	store_sql(&scope,
			  "INSERT INTO ekksync.conflict (run, key, field, django_value, "
			  "firestore_value, django_time, firestore_time_from, "
			  "firestore_time, winner, rule, potential, skew) "
			  "SELECT nullif($1, 0), u.*, "
			  "$12 * interval '1 microsecond' FROM "
			  "unnest($2, $3, $4, $5, $6, $7, $8, $9, $10, $11) "
			  "u(k, f, dv, fv, dt, ff, ft, w, r, p) "
			  "WHERE NOT EXISTS (SELECT FROM ekksync.conflict c "
			  "WHERE c.key = u.k AND c.field = u.f "
			  "AND c.django_value IS NOT DISTINCT FROM u.dv "
			  "AND c.firestore_value IS NOT DISTINCT FROM u.fv "
			  "AND c.rule = u.r AND CASE WHEN u.w = 'none' "
			  "THEN c.winner = 'none' AND c.resolved_at IS NULL "
			  "ELSE u.r = 'value does not fit' "
			  "OR (c.django_time IS NOT DISTINCT FROM u.dt "
			  "AND c.firestore_time IS NOT DISTINCT FROM u.ft) END) "
			  "RETURNING key, field, potential",
			  12, types, values, skew_known ? NULL : "           n");
	count = (int) SPI_processed;
	for (i = 0; i < count; i++)
	{
		if (!sql_get_bool(i, 3))
			continue;
		npotential++;
		ereport(WARNING,
				(errmsg("potential conflict in field \"%s\" of member %s",
						sql_get_text(i, 2, CurrentMemoryContext),
						mask_key(sql_get_text(i, 1, CurrentMemoryContext))),
				 errdetail("Both sides changed it within "
						   "ekksync.conflict_window."),
				 errhint("See the view ekksync_conflicts.")));
	}
	sql_leave(&scope);
	if (count > 0)
		notify_conflicts(run, count, npotential);
	return count;
}

void
store_change_log(Run *run, const char *side, char **keys, char **changes,
				 int n)
{
	Oid types[] = {INT8OID, TEXTOID, TEXTARRAYOID, JSONBARRAYOID};
	Datum values[4];
	SqlScope scope;

	if (n == 0)
		return;
	values[0] = Int64GetDatum(run->id);
	values[1] = sql_text(side);
	values[2] = sql_text_array(keys, n);
	values[3] = sql_json_array(changes, n);
	store_sql(&scope,
			  "INSERT INTO ekksync.change_log (run, side, key, changes) "
			  "SELECT $1, $2, u.* FROM unnest($3, $4) u",
			  4, types, values, NULL);
	sql_leave(&scope);
}

void
store_applied(char **keys, char **changes, TimestampTz *stamps, int n)
{
	Oid types[] = {TEXTARRAYOID, JSONBARRAYOID, TIMESTAMPTZARRAYOID};
	Datum values[3];

	if (n == 0)
		return;
	values[0] = sql_text_array(keys, n);
	values[1] = sql_json_array(changes, n);
	values[2] = sql_time_array(stamps, n);
	store_sql_only("INSERT INTO ekksync.change_log (side, key, changes, "
				   "stamp) SELECT 'django', u.* FROM unnest($1, $2, $3) u",
				   3, types, values, NULL);
}

void
store_read_applied(const Mapping *map, Member **members, int n,
				   MemoryContext cxt)
{
	Oid types[] = {TEXTARRAYOID};
	Datum values[] = {member_keys(members, n)};
	SqlScope scope;
	uint64 i;

	store_sql(&scope,
			  "SELECT DISTINCT ON (k.n, f.key) k.n, f.key, "
			  "(f.value -> 1)::text, l.stamp "
			  "FROM unnest($1) WITH ORDINALITY k(key, n) "
			  "JOIN ekksync.change_log l ON l.key = k.key AND l.run IS NULL, "
			  "jsonb_each(l.changes) f ORDER BY k.n, f.key, l.id DESC",
			  1, types, values, NULL);
	for (i = 0; i < SPI_processed; i++)
	{
		Member *m = members[sql_get_int8(i, 1) - 1];
		int f = mapping_find(map, sql_get_text(i, 2, cxt));
		char *value = sql_get_text(i, 3, cxt);
		TimestampTz stamp = sql_get_time(i, 4);

		if (f < 0 || m->nrows != 1 || m->local[f] == NULL ||
			strcmp(m->local[f], value) != 0 ||
			(m->base[f].value != NULL && m->base[f].stamp > stamp))
			continue;
		m->base[f].value = value;
		m->base[f].stamp = stamp;
		m->base[f].origin = ORIGIN_FIRESTORE;
	}
	sql_leave(&scope);
}

void
store_landed(Run *run, Member **members, int n)
{
	char **keys = palloc(sizeof(char *) * (n + 1));
	char **changes = palloc(sizeof(char *) * (n + 1));
	int count = 0;
	int i;

	for (i = 0; i < n; i++)
	{
		if (members[i]->landed == NULL)
			continue;
		keys[count] = members[i]->key;
		changes[count++] = members[i]->landed;
	}
	store_change_log(run, "firestore", keys, changes, count);
}

/* Forget the plans of earlier dry runs. */
void
store_plan_reset(void)
{
	SqlScope scope;

	store_sql(&scope, "DELETE FROM ekksync.plan", 0, NULL, NULL, NULL);
	sql_leave(&scope);
}

/* Add planned writes: parallel arrays, values canonical or NULL. */
void
store_plan(Run *run, PlanRow *rows, int n)
{
	Oid types[] = {INT8OID,		  TEXTARRAYOID,	 TEXTARRAYOID, TEXTARRAYOID,
				   JSONBARRAYOID, JSONBARRAYOID, TEXTARRAYOID};
	char **text[6];
	Datum values[7];
	SqlScope scope;
	int i;

	if (n == 0)
		return;
	for (i = 0; i < 6; i++)
		text[i] = palloc(sizeof(char *) * n);
	for (i = 0; i < n; i++)
	{
		text[0][i] = unconstify(char *, rows[i].key);
		text[1][i] = unconstify(char *, rows[i].side);
		text[2][i] = unconstify(char *, rows[i].field);
		text[3][i] = unconstify(char *, rows[i].old_value);
		text[4][i] = unconstify(char *, rows[i].new_value);
		text[5][i] = unconstify(char *, rows[i].note);
	}
	values[0] = Int64GetDatum(run->id);
	values[1] = sql_text_array(text[0], n);
	values[2] = sql_text_array(text[1], n);
	values[3] = sql_text_array(text[2], n);
	values[4] = sql_json_array(text[3], n);
	values[5] = sql_json_array(text[4], n);
	values[6] = sql_text_array(text[5], n);
	store_sql(&scope,
			  "INSERT INTO ekksync.plan (run, key, side, field, old_value, "
			  "new_value, note) SELECT $1, u.* "
			  "FROM unnest($2, $3, $4, $5, $6, $7) u",
			  7, types, values, NULL);
	sql_leave(&scope);
}
