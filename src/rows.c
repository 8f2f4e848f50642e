/*
 * rows.c
 *		SQL over the member table and the related tables of the mapping.
 *
 * Everything here runs as the owner of the member table.
 *
 * May not know: the queue, the extension's own tables, Firestore.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"

#include "rows.h"
#include "scope.h"
#include "sqlvalue.h"

/* Columns of the reading query before the fields. */
#define READ_POSITION 1
#define READ_ID 2
#define READ_FIRST 3

/* Number of the join that brings a field's relation, 0: the member table. */
static int
join_number(const Mapping *map, int f)
{
	int g;

	if (map->fields[f].relid == map->member_relid)
		return 0;
	for (g = 0; g < f; g++)
	{
		if (map->fields[g].problem != NULL || map->fields[g].link == NULL)
			continue;
		if (map->fields[g].relid == map->fields[f].relid)
			return g + 1;
	}
	return f + 1;
}

/*
 * The reading query: for each member row two columns a field, its value and
 * whether its related row is missing.  By the keys in $1; by_id: only the rows
 * with the ids in $2, beside them, if they still have these keys.
 */
static char *
read_query(const Mapping *map, bool by_id)
{
	StringInfoData cols;
	StringInfoData joins;
	const char *id = quote_identifier(map->id_column);
	const char *key = quote_identifier(map->key_column);
	int f;

	initStringInfo(&cols);
	initStringInfo(&joins);
	for (f = 0; f < map->nfields; f++)
	{
		const Field *field = &map->fields[f];
		int join;

		if (field->problem != NULL || strcmp(field->name, MAPPING_STATUS) == 0)
			appendStringInfoString(&cols, ", NULL, false");
		else if (field->compute != NULL)
			appendStringInfo(&cols, ", %s(m.%s), false", field->compute, id);
		else if ((join = join_number(map, f)) == 0)
			appendStringInfo(&cols, ", m.%s, false",
							 quote_identifier(field->column));
		else
		{
			appendStringInfo(&cols, ", r%d.%s, r%d.%s IS NULL", join,
							 quote_identifier(field->column), join,
							 quote_identifier(field->link));
			if (join == f + 1)
				appendStringInfo(&joins,
								 " LEFT JOIN LATERAL (SELECT * FROM %s r "
								 "WHERE r.%s = m.%s LIMIT 1) r%d ON true",
								 field->relation,
								 quote_identifier(field->link), id, join);
		}
	}
	return psprintf(
		"SELECT k.n, m.%s%s FROM unnest($1%s) WITH ORDINALITY k(key%s, n) "
		"JOIN (SELECT * FROM %s WHERE %s%s%s%s) m ON m.%s = k.key%s%s",
		id, cols.data, by_id ? ", $2" : "", by_id ? ", id" : "",
		map->member_table, by_id ? "true" : psprintf("%s = ANY ($1)", key),
		map->filter ? " AND (" : "", map->filter ? map->filter : "",
		map->filter ? ")" : "", key,
		by_id ? psprintf(" AND m.%s = k.id", id) : "", joins.data);
}

/* One row of the reading query goes to its member. */
static void
read_row(const Mapping *map, Member *m, int i, MemoryContext cxt)
{
	HeapTuple tuple = SPI_tuptable->vals[i];
	TupleDesc desc = SPI_tuptable->tupdesc;
	MemoryContext old = MemoryContextSwitchTo(cxt);
	bool isnull;
	Datum id;
	int f;

	id = SPI_getbinval(tuple, desc, READ_ID, &isnull);
	m->id =
		datumCopy(id, get_typbyval(map->id_typid), get_typlen(map->id_typid));
	for (f = 0; f < map->nfields; f++)
	{
		const Field *field = &map->fields[f];
		SyncError err = {0};
		Datum value;

		if (field->problem != NULL)
		{
			m->local_error[f] = field->problem;
			continue;
		}
		if (strcmp(field->name, MAPPING_STATUS) == 0)
		{
			m->local[f] = canon_from_text("active");
			continue;
		}
		value = SPI_getbinval(tuple, desc, READ_FIRST + 2 * f, &isnull);
		m->local[f] = value_from_datum(&field->codec, value, isnull,
									   field->compute ? field->compute_type
													  : field->typid,
									   &err);
		if (m->local[f] == NULL)
			m->local_error[f] = err.message;
		value = SPI_getbinval(tuple, desc, READ_FIRST + 2 * f + 1, &isnull);
		m->related_missing[f] = DatumGetBool(value);
	}
	MemoryContextSwitchTo(old);
}

/* Forget what an earlier reading found. */
static void
clear_local(const Mapping *map, Member *m, MemoryContext cxt)
{
	m->nrows = 0;
	m->local = MemoryContextAllocZero(cxt, sizeof(char *) * map->nfields);
	m->local_error =
		MemoryContextAllocZero(cxt, sizeof(char *) * map->nfields);
	m->related_missing =
		MemoryContextAllocZero(cxt, sizeof(bool) * map->nfields);
}

/* Is the field the first one written to its relation? */
static bool
is_first_of_relation(const Mapping *map, int f)
{
	int g;

	for (g = 0; g < f; g++)
		if (map->fields[g].problem == NULL && !map->fields[g].push_only &&
			map->fields[g].relid == map->fields[f].relid)
			return false;
	return true;
}

/* Is it the field for whose sake the rows of its relation are locked? */
static bool
locks_relation(const Mapping *map, int f)
{
	const Field *field = &map->fields[f];

	return field->problem == NULL && field->link != NULL &&
		   !field->push_only && is_first_of_relation(map, f);
}

/* The members' ids, as an array of their type. */
static Datum
member_ids(const Mapping *map, Member **members, int n, Oid *array_type)
{
	Oid type = getBaseType(map->id_typid);
	Datum *ids = palloc(sizeof(Datum) * (n + 1));
	int16 len;
	bool byval;
	char align;
	int i;

	for (i = 0; i < n; i++)
		ids[i] = members[i]->id;
	get_typlenbyvalalign(type, &len, &byval, &align);
	*array_type = get_array_type(type);
	return PointerGetDatum(construct_array(ids, n, type, len, byval, align));
}

/*
 * Lock the rows of a table whose column is one of the ids, save, unless we
 * wait, those that others have locked.  The members whose row is locked now
 * get the mark.
 */
static void
lock_table(const char *table, const char *column, Oid type, Datum ids,
		   bool wait, Bitmapset **locked, int mark)
{
	uint64 i;

	sql_run(psprintf("SELECT k.n FROM unnest($1) WITH ORDINALITY k(id, n) "
					 "JOIN %s t ON t.%s = k.id "
					 "FOR NO KEY UPDATE OF t%s",
					 table, quote_identifier(column),
					 wait ? "" : " SKIP LOCKED"),
			1, &type, &ids, NULL, false, 0);
	for (i = 0; i < SPI_processed; i++)
	{
		Bitmapset **marks = &locked[sql_get_int8(i, 1) - 1];

		*marks = bms_add_member(*marks, mark);
	}
}

/* Are all rows that were read of the member locked? */
static bool
all_locked(const Mapping *map, const Member *m, const Bitmapset *locked)
{
	int f;

	if (m->nrows != 1 || !bms_is_member(map->nfields, locked))
		return false;
	for (f = 0; f < map->nfields; f++)
		if (locks_relation(map, f) && !m->related_missing[f] &&
			!bms_is_member(f, locked))
			return false;
	return true;
}

/* Run the reading query; what is found goes to the members. */
static void
read_members(const Mapping *map, Member **members, int n, bool by_id,
			 Oid *types, Datum *values, MemoryContext cxt)
{
	uint64 i;

	for (i = 0; i < (uint64) n; i++)
		clear_local(map, members[i], cxt);
	sql_run(read_query(map, by_id), by_id ? 2 : 1, types, values, NULL, false,
			0);
	for (i = 0; i < SPI_processed; i++)
	{
		Member *m = members[sql_get_int8(i, READ_POSITION) - 1];

		if (m->nrows++ == 0)
			read_row(map, m, i, cxt);
	}
}

void
rows_read(const Mapping *map, Member **members, int n, MemoryContext cxt)
{
	Oid types[] = {TEXTARRAYOID};
	Datum values[] = {member_keys(members, n)};
	SqlScope scope;

	sql_enter(&scope, map->owner);
	read_members(map, members, n, false, types, values, cxt);
	sql_leave(&scope);
}

void
rows_lock(const Mapping *map, Member **members, int n, bool wait,
		  MemoryContext cxt)
{
	Oid types[] = {TEXTARRAYOID, InvalidOid};
	Datum values[] = {member_keys(members, n),
					  member_ids(map, members, n, &types[1])};
	Bitmapset **locked = palloc0(sizeof(Bitmapset *) * (n + 1));
	SqlScope scope;
	int f;
	int i;

	sql_enter(&scope, map->owner);
	lock_table(map->member_table, map->id_column, types[1], values[1], wait,
			   locked, map->nfields);
	for (f = 0; f < map->nfields; f++)
		if (locks_relation(map, f))
			lock_table(map->fields[f].relation, map->fields[f].link, types[1],
					   values[1], wait, locked, f);
	read_members(map, members, n, true, types, values, cxt);
	for (i = 0; i < n; i++)
		if (!all_locked(map, members[i], locked[i]))
			members[i]->again = true;
	sql_leave(&scope);
}

/* ---- writing ---- */

void
row_write_init(RowWrite *w, int max)
{
	w->n = 0;
	w->types = palloc(sizeof(Oid) * max);
	w->values = palloc(sizeof(Datum) * max);
	w->nulls = palloc0(max + 1);
	initStringInfo(&w->first);
	initStringInfo(&w->second);
	initStringInfo(&w->back);
}

void
row_write_add(RowWrite *w, Oid type, Datum value, bool isnull)
{
	w->types[w->n] = type;
	w->values[w->n] = value;
	w->nulls[w->n] = isnull ? 'n' : ' ';
	w->n++;
}

Datum
row_field_datum(const Field *field, const char *canon, bool *isnull)
{
	SyncError err = {0};
	Datum value;

	if (!value_to_datum(&field->codec, canon, field->typid, field->typmod,
						field->notnull, &value, isnull, &err))
		ereport(ERROR, (errcode(err.sqlstate),
						errmsg("field \"%s\": %s", field->name, err.message)));
	return value;
}

/*
 * Does the row hold now what was written?  A trigger of the application may
 * have put back what was there, which is no change that it captures, or have
 * kept the row from being written.
 */
static bool
is_taken(const Mapping *map, const int *fields, char **values, int nfields,
		 Oid relid)
{
	int column = 0;
	int i;

	if (SPI_processed == 0)
		return false;
	for (i = 0; i < nfields; i++)
	{
		const Field *field = &map->fields[fields[i]];
		bool isnull;
		Datum value;
		char *canon;

		if (field->relid != relid)
			continue;
		value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
							  ++column, &isnull);
		canon =
			value_from_datum(&field->codec, value, isnull, field->typid, NULL);
		if (canon == NULL || strcmp(canon, values[i]) != 0)
			return false;
	}
	return true;
}

/* The RETURNING list for is_taken. */
static void
return_columns(const Mapping *map, RowWrite *w, const int *fields, int nfields,
			   Oid relid)
{
	int i;

	for (i = 0; i < nfields; i++)
		if (map->fields[fields[i]].relid == relid)
			appendStringInfo(&w->back, "%s%s", w->back.len > 0 ? ", " : "",
							 quote_identifier(map->fields[fields[i]].column));
}

/* UPDATE the row of one relation; true if it took the values. */
static bool
update_relation(const Mapping *map, const Member *m, const int *fields,
				char **values, int nfields, Oid relid)
{
	RowWrite w;
	const Field *first = NULL;
	int i;

	row_write_init(&w, nfields + 1);
	for (i = 0; i < nfields; i++)
	{
		const Field *field = &map->fields[fields[i]];
		bool isnull;
		Datum value;

		if (field->relid != relid)
			continue;
		first = field;
		value = row_field_datum(field, values[i], &isnull);
		appendStringInfo(&w.first, "%s%s = $%d", w.n > 0 ? ", " : "",
						 quote_identifier(field->column), w.n + 1);
		row_write_add(&w, getBaseType(field->typid), value, isnull);
	}
	row_write_add(&w, map->id_typid, m->id, false);
	return_columns(map, &w, fields, nfields, relid);
	sql_run(psprintf("UPDATE %s SET %s WHERE %s OPERATOR(pg_catalog.=) $%d "
					 "RETURNING %s",
					 first->relation, w.first.data,
					 quote_identifier(first->link ? first->link
												  : map->id_column),
					 w.n, w.back.data),
			w.n, w.types, w.values, w.nulls, false, 0);
	return is_taken(map, fields, values, nfields, relid);
}

/* INSERT the related row that a member does not have yet; likewise. */
static bool
insert_relation(const Mapping *map, const Member *m, const int *fields,
				char **values, int nfields, Oid relid)
{
	RowWrite w;
	const Field *first = NULL;
	int f;
	int i;

	row_write_init(&w, map->nfields + 1);
	for (f = 0; f < map->nfields; f++)
	{
		const Field *field = &map->fields[f];
		const char *canon = CANON_NULL;
		bool isnull;
		Datum value;

		if (field->relid != relid || field->problem != NULL)
			continue;
		for (i = 0; i < nfields; i++)
			if (fields[i] == f)
				canon = values[i];
		if (strcmp(canon, CANON_NULL) == 0 && !field->notnull)
			continue;
		first = field;
		value = row_field_datum(field, canon, &isnull);
		appendStringInfo(&w.first, "%s, ", quote_identifier(field->column));
		appendStringInfo(&w.second, "$%d, ", w.n + 1);
		row_write_add(&w, getBaseType(field->typid), value, isnull);
	}
	if (first == NULL)
		return true; /* without a row there is no value, which is right */
	row_write_add(&w, map->id_typid, m->id, false);
	return_columns(map, &w, fields, nfields, relid);
	sql_run(psprintf("INSERT INTO %s (%s%s) VALUES (%s$%d) RETURNING %s",
					 first->relation, w.first.data,
					 quote_identifier(first->link), w.second.data, w.n,
					 w.back.data),
			w.n, w.types, w.values, w.nulls, false, 0);
	return is_taken(map, fields, values, nfields, relid);
}

/* A computed field that can be written back. */
static void
call_apply(const Mapping *map, const Member *m, const Field *field,
		   const char *canon)
{
	Oid types[] = {map->id_typid, JSONBOID};
	Datum values[] = {m->id,
					  DirectFunctionCall1(jsonb_in, CStringGetDatum(canon))};

	sql_run(psprintf("SELECT %s($1, $2)", field->apply), 2, types, values,
			NULL, false, 0);
}

static bool
relation_done(const Mapping *map, const int *fields, int i)
{
	int j;

	for (j = 0; j < i; j++)
		if (map->fields[fields[j]].relid == map->fields[fields[i]].relid)
			return true;
	return false;
}

/*
 * The application's own triggers run as they do for the application, with the
 * search_path of the role: so the statements here must not depend on it.
 */
bool
rows_write(const Mapping *map, Member *m, const int *fields, char **values,
		   int nfields)
{
	SqlScope scope;
	bool taken = true;
	int i;

	sql_enter_bare(&scope, map->owner);
	for (i = 0; i < nfields; i++)
	{
		const Field *field = &map->fields[fields[i]];

		if (field->compute != NULL)
			call_apply(map, m, field, values[i]);
		else if (relation_done(map, fields, i))
			continue;
		else if (m->related_missing[fields[i]])
			taken &=
				insert_relation(map, m, fields, values, nfields, field->relid);
		else
			taken &=
				update_relation(map, m, fields, values, nfields, field->relid);
	}
	sql_leave(&scope);
	return taken;
}

List *
rows_keys(const Mapping *map, const char *after, int limit, MemoryContext cxt)
{
	Oid types[] = {TEXTOID, INT8OID};
	Datum values[] = {sql_text(after ? after : ""), Int64GetDatum(limit)};
	SqlScope scope;
	List *list;

	sql_enter(&scope, map->owner);
	sql_run(psprintf("SELECT DISTINCT key FROM (SELECT coalesce(%s::text, '') "
					 "COLLATE \"C\" AS key FROM %s%s%s%s) k "
					 "WHERE key %s $1 ORDER BY key LIMIT $2",
					 quote_identifier(map->key_column), map->member_table,
					 map->filter ? " WHERE (" : "",
					 map->filter ? map->filter : "", map->filter ? ")" : "",
					 after ? ">" : ">="),
			2, types, values, NULL, false, 0);
	list = sql_get_list(cxt);
	sql_leave(&scope);
	return list;
}
