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
 * whether its related row is missing.
 */
static char *
read_query(const Mapping *map)
{
	StringInfoData cols;
	StringInfoData joins;
	const char *id = quote_identifier(map->id_column);
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
		"SELECT k.n, m.%s%s FROM unnest($1) WITH ORDINALITY "
		"k(key, n) JOIN (SELECT * FROM %s WHERE %s = ANY ($1)%s%s%s) m "
		"ON m.%s = k.key%s",
		id, cols.data, map->member_table, quote_identifier(map->key_column),
		map->filter ? " AND (" : "", map->filter ? map->filter : "",
		map->filter ? ")" : "", quote_identifier(map->key_column), joins.data);
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

/* Lock the rows of members with these keys, and their related rows. */
static void
lock_rows(const Mapping *map, Oid *types, Datum *values)
{
	const char *id = quote_identifier(map->id_column);
	const char *key = quote_identifier(map->key_column);
	int f;

	sql_run(psprintf("SELECT FROM %s WHERE %s = ANY ($1) ORDER BY %s "
					 "FOR NO KEY UPDATE",
					 map->member_table, key, id),
			1, types, values, NULL, false, 0);
	for (f = 0; f < map->nfields; f++)
	{
		const Field *field = &map->fields[f];

		if (field->problem != NULL || field->link == NULL ||
			field->push_only || !is_first_of_relation(map, f))
			continue;
		sql_run(psprintf("SELECT FROM %s WHERE %s IN (SELECT %s FROM %s "
						 "WHERE %s = ANY ($1)) ORDER BY %s FOR NO KEY UPDATE",
						 field->relation, quote_identifier(field->link), id,
						 map->member_table, key,
						 quote_identifier(field->link)),
				1, types, values, NULL, false, 0);
	}
}

void
rows_read(const Mapping *map, Member **members, int n, bool lock,
		  MemoryContext cxt)
{
	Oid types[] = {TEXTARRAYOID};
	Datum values[] = {member_keys(members, n)};
	SqlScope scope;
	uint64 i;

	for (i = 0; i < (uint64) n; i++)
		clear_local(map, members[i], cxt);
	sql_enter(&scope, map->owner);
	if (lock)
		lock_rows(map, types, values);
	sql_run(read_query(map), 1, types, values, NULL, false, 0);
	for (i = 0; i < SPI_processed; i++)
	{
		Member *m = members[sql_get_int8(i, READ_POSITION) - 1];

		if (m->nrows++ == 0)
			read_row(map, m, i, cxt);
	}
	sql_leave(&scope);
}

int64
rows_count(const Mapping *map)
{
	SqlScope scope;
	int64 count;

	sql_enter(&scope, map->owner);
	sql_run(psprintf("SELECT count(*) FROM %s%s%s", map->member_table,
					 map->filter ? " WHERE " : "",
					 map->filter ? map->filter : ""),
			0, NULL, NULL, NULL, false, 0);
	count = sql_get_int8(0, 1);
	sql_leave(&scope);
	return count;
}

/* ---- writing ---- */

/* Parameters of a statement that writes one row. */
typedef struct RowWrite
{
	int n;
	Oid *types;
	Datum *values;
	char *nulls;
	StringInfoData first;  /* SET list, or column list */
	StringInfoData second; /* VALUES list */
} RowWrite;

static void
row_write_init(RowWrite *w, int max)
{
	w->n = 0;
	w->types = palloc(sizeof(Oid) * max);
	w->values = palloc(sizeof(Datum) * max);
	w->nulls = palloc0(max + 1);
	initStringInfo(&w->first);
	initStringInfo(&w->second);
}

static void
row_write_add(RowWrite *w, Oid type, Datum value, bool isnull)
{
	w->types[w->n] = type;
	w->values[w->n] = value;
	w->nulls[w->n] = isnull ? 'n' : ' ';
	w->n++;
}

static Datum
field_datum(const Field *field, const char *canon, bool *isnull)
{
	SyncError err = {0};
	Datum value;

	if (!value_to_datum(&field->codec, canon, field->typid, field->typmod,
						field->notnull, &value, isnull, &err))
		ereport(ERROR, (errcode(err.sqlstate),
						errmsg("field \"%s\": %s", field->name, err.message)));
	return value;
}

/* UPDATE the row of one relation. */
static void
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
		value = field_datum(field, values[i], &isnull);
		appendStringInfo(&w.first, "%s%s = $%d", w.n > 0 ? ", " : "",
						 quote_identifier(field->column), w.n + 1);
		row_write_add(&w, getBaseType(field->typid), value, isnull);
	}
	row_write_add(&w, map->id_typid, m->id, false);
	sql_run(psprintf("UPDATE %s SET %s WHERE %s OPERATOR(pg_catalog.=) $%d",
					 first->relation, w.first.data,
					 quote_identifier(first->link ? first->link
												  : map->id_column),
					 w.n),
			w.n, w.types, w.values, w.nulls, false, 0);
	if (SPI_processed == 0)
		ereport(ERROR, (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
						errmsg("could not update a row that has gone")));
}

/* INSERT the related row that a member does not have yet. */
static void
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
		value = field_datum(field, canon, &isnull);
		appendStringInfo(&w.first, "%s, ", quote_identifier(field->column));
		appendStringInfo(&w.second, "$%d, ", w.n + 1);
		row_write_add(&w, getBaseType(field->typid), value, isnull);
	}
	row_write_add(&w, map->id_typid, m->id, false);
	sql_run(psprintf("INSERT INTO %s (%s%s) VALUES (%s$%d)", first->relation,
					 w.first.data, quote_identifier(first->link),
					 w.second.data, w.n),
			w.n, w.types, w.values, w.nulls, false, 0);
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
void
rows_write(const Mapping *map, Member *m, const int *fields, char **values,
		   int nfields)
{
	SqlScope scope;
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
			insert_relation(map, m, fields, values, nfields, field->relid);
		else
			update_relation(map, m, fields, values, nfields, field->relid);
	}
	sql_leave(&scope);
}

/* ---- missing rows ---- */

int64
rows_missing(const Mapping *map, char **keys, int n)
{
	Oid types[] = {TEXTARRAYOID};
	Datum values[] = {sql_text_array(keys, n)};
	SqlScope scope;
	int64 count;

	sql_enter(&scope, map->owner);
	sql_run(
		psprintf("SELECT count(*) FROM unnest($1) k(key) WHERE NOT EXISTS "
				 "(SELECT FROM (SELECT * FROM %s%s%s) m WHERE m.%s = k.key)",
				 map->member_table, map->filter ? " WHERE " : "",
				 map->filter ? map->filter : "",
				 quote_identifier(map->key_column)),
		1, types, values, NULL, false, 0);
	count = sql_get_int8(0, 1);
	sql_leave(&scope);
	return count;
}
