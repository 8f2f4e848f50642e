/*
 * keep.c
 *		SQL over what a run that only looks keeps for people: what
 *		ekksync_diff() found, and what it must know for that.
 *
 * May not know: how a decision was made, why the sides differ.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/memutils.h"

#include "scope.h"
#include "sqlvalue.h"
#include "store.h"

/* Forget what was found earlier. */
void
store_diff_reset(void)
{
	store_sql_only("DELETE FROM ekksync.diff", 0, NULL, NULL, NULL);
}

void
store_diff(Run *run, DiffRow *rows, int n)
{
	Oid types[] = {INT8OID,		  TEXTARRAYOID, TEXTARRAYOID, JSONBARRAYOID,
				   JSONBARRAYOID, TEXTARRAYOID, TEXTARRAYOID};
	char **text[6];
	Datum values[7];
	int i;

	if (n == 0)
		return;
	for (i = 0; i < 6; i++)
		text[i] = palloc(sizeof(char *) * n);
	for (i = 0; i < n; i++)
	{
		text[0][i] = unconstify(char *, rows[i].key);
		text[1][i] = unconstify(char *, rows[i].field);
		text[2][i] = unconstify(char *, rows[i].django_value);
		text[3][i] = unconstify(char *, rows[i].firestore_value);
		text[4][i] = unconstify(char *, rows[i].why);
		text[5][i] = unconstify(char *, rows[i].detail);
	}
	values[0] = Int64GetDatum(run->id);
	values[1] = sql_text_array(text[0], n);
	values[2] = sql_text_array(text[1], n);
	values[3] = sql_json_array(text[2], n);
	values[4] = sql_json_array(text[3], n);
	values[5] = sql_text_array(text[4], n);
	values[6] = sql_text_array(text[5], n);
	store_sql_only("INSERT INTO ekksync.diff (run, key, field, django_value, "
				   "firestore_value, why, detail) SELECT $1, u.* "
				   "FROM unnest($2, $3, $4, $5, $6, $7) u",
				   7, types, values, NULL);
}

void
store_read_held(Member **members, int n, MemoryContext cxt)
{
	Oid types[] = {TEXTARRAYOID};
	Datum values[] = {member_keys(members, n)};
	SqlScope scope;
	uint64 i;

	store_sql(&scope,
			  "SELECT k.n, c.id, c.field, c.rule, c.django_value, "
			  "c.firestore_value FROM unnest($1) WITH ORDINALITY k(key, n) "
			  "JOIN ekksync.conflict c ON c.key = k.key "
			  "AND c.winner = 'none' AND c.resolved_at IS NULL "
			  "ORDER BY k.n, c.id",
			  1, types, values, NULL);
	for (i = 0; i < SPI_processed; i++)
	{
		Member *m = members[sql_get_int8(i, 1) - 1];
		MemoryContext old = MemoryContextSwitchTo(cxt);
		HeldConflict *held = palloc(sizeof(HeldConflict));

		held->id = sql_get_int8(i, 2);
		held->field = sql_get_text(i, 3, cxt);
		held->rule = sql_get_text(i, 4, cxt);
		held->django_value = sql_get_text(i, 5, cxt);
		held->firestore_value = sql_get_text(i, 6, cxt);
		m->held = lappend(m->held, held);
		MemoryContextSwitchTo(old);
	}
	sql_leave(&scope);
}
