/*
 * rowlife.c
 *		SQL that deletes and inserts whole members: the row, and the related
 *		rows that the mapping knows.
 *
 * Everything here runs as the owner of the member table.
 *
 * May not know: the queue, the extension's own tables, Firestore.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "rows.h"
#include "scope.h"
#include "sqlvalue.h"

static const Codec kennitala = {CODEC_KENNITALA, 0, NULL};

/* ---- deleting ---- */

/* Delete the rows of a table whose column is the member's id. */
static uint64
delete_from(const Mapping *map, const Member *m, const char *table,
			const char *column)
{
	Oid types[] = {map->id_typid};
	Datum values[] = {m->id};

	sql_run(psprintf("DELETE FROM %s WHERE %s OPERATOR(pg_catalog.=) $1",
					 table, quote_identifier(column)),
			1, types, values, NULL, false, 0);
	return SPI_processed;
}

static char *
table_text(Oid relid)
{
	return quote_qualified_identifier(get_namespace_name(
										  get_rel_namespace(relid)),
									  get_rel_name(relid));
}

/* Lock the rows of a table whose column is the member's id. */
static void
lock_in(const Mapping *map, const Member *m, const char *table,
		const char *column)
{
	Oid types[] = {map->id_typid};
	Datum values[] = {m->id};

	sql_run(psprintf("SELECT FROM %s WHERE %s OPERATOR(pg_catalog.=) $1 "
					 "FOR UPDATE",
					 table, quote_identifier(column)),
			1, types, values, NULL, false, 0);
}

void
rows_lock_linked(const Mapping *map, const Member *m)
{
	SqlScope scope;
	int i;

	sql_enter(&scope, map->owner);
	lock_in(map, m, map->member_table, map->id_column);
	for (i = 0; i < map->nwatched; i++)
	{
		const Watched *w = &map->watched[i];

		if (!w->is_member_table && w->link_attnum != 0)
			lock_in(map, m, table_text(w->relid),
					get_attname(w->relid, w->link_attnum, false));
	}
	sql_leave(&scope);
}

/*
 * The application's own triggers run as they do for the application: see
 * rows_write.
 */
void
rows_delete(const Mapping *map, const Member *m)
{
	SqlScope scope;
	int i;

	sql_enter_bare(&scope, map->owner);
	for (i = 0; i < map->nwatched; i++)
	{
		const Watched *w = &map->watched[i];

		if (!w->is_member_table && w->link_attnum != 0)
			(void) delete_from(map, m, table_text(w->relid),
							   get_attname(w->relid, w->link_attnum, false));
	}
	if (delete_from(map, m, map->member_table, map->id_column) != 1)
		ereport(ERROR, (errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
						errmsg("a trigger kept the row from being deleted")));
	sql_leave(&scope);
}

/* ---- inserting ---- */

/* Would a second row with the same key be refused? */
static bool
is_key_unique(const Mapping *map)
{
	Oid types[] = {OIDOID, INT2OID};
	Datum values[] = {ObjectIdGetDatum(map->member_relid),
					  Int16GetDatum(map->key_attnum)};

	sql_run("SELECT EXISTS (SELECT FROM pg_catalog.pg_index "
			"WHERE indrelid = $1 AND indisunique AND indisvalid "
			"AND indimmediate AND indpred IS NULL AND indexprs IS NULL "
			"AND indnkeyatts = 1 AND indkey[0] = $2)",
			2, types, values, NULL, false, 0);
	return sql_get_bool(0, 1);
}

/* How many rows have the key, in the filter or not, with a hyphen or not? */
static int64
count_rows(const Mapping *map, const Member *m)
{
	Oid types[] = {TEXTARRAYOID};
	char *forms[] = {m->key, psprintf("%.6s-%s", m->key, m->key + 6)};
	Datum values[] = {sql_text_array(forms, lengthof(forms))};

	sql_run(psprintf("SELECT count(*) FROM %s WHERE %s = ANY ($1)",
					 map->member_table, quote_identifier(map->key_column)),
			1, types, values, NULL, false, 0);
	return sql_get_int8(0, 1);
}

/*
 * See that nobody else inserts the key, to the end of the transaction, and
 * that nobody has.  The lock on the table is taken only where no unique index
 * would refuse a second row; it is waited for no longer than any other.
 */
static int64
reserve_key(const Mapping *map, const Member *m)
{
	SqlScope scope;
	int64 n;

	sql_enter(&scope, map->owner);
	if (!is_key_unique(map))
		sql_run(psprintf("LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE",
						 map->member_table),
				0, NULL, NULL, NULL, false, 0);
	n = count_rows(map, m);
	sql_leave(&scope);
	return n;
}

static bool
is_text(Oid typid)
{
	Oid base = getBaseType(typid);

	return base == TEXTOID || base == VARCHAROID || base == BPCHAROID;
}

/* The value of the member table's column among fields; NULL if it has none. */
static const char *
column_value(const Mapping *map, AttrNumber attnum, const int *fields,
			 char **values, int n, const Field **field)
{
	int i;

	for (i = 0; i < n; i++)
	{
		*field = &map->fields[fields[i]];
		if ((*field)->relid == map->member_relid && (*field)->attnum == attnum)
			return values[i];
	}
	return NULL;
}

/*
 * The value of one column: false where the column's default is to decide, or
 * nothing can be said.
 */
static bool
column_datum(const Mapping *map, const Member *m, Form_pg_attribute att,
			 const int *fields, char **values, int n, Datum *value,
			 bool *isnull)
{
	const Field *field;
	const char *canon;
	SyncError err = {0};

	*isnull = false;
	if (att->attnum == map->key_attnum)
	{
		if (!value_to_datum(&kennitala, canon_from_text(m->key), att->atttypid,
							att->atttypmod, true, value, isnull, &err))
			ereport(ERROR, (errcode(err.sqlstate), errmsg("%s", err.message)));
		return true;
	}
	canon = column_value(map, att->attnum, fields, values, n, &field);
	if (canon != NULL && (strcmp(canon, CANON_NULL) != 0 || !att->attnotnull))
	{
		*value = row_field_datum(field, canon, isnull);
		return true;
	}
	if (!att->attnotnull || att->atthasdef || att->attidentity != '\0' ||
		!is_text(att->atttypid))
		return false;
	*value = CStringGetTextDatum("");
	return true;
}

/* INSERT the row of the member table. */
static void
insert_row(const Mapping *map, const Member *m, const int *fields,
		   char **values, int n)
{
	Relation rel = table_open(map->member_relid, RowExclusiveLock);
	TupleDesc desc = RelationGetDescr(rel);
	RowWrite w;
	SqlScope scope;
	int i;

	row_write_init(&w, desc->natts + 1);
	for (i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		bool isnull;
		Datum value;

		if (att->attisdropped || att->attgenerated != '\0' ||
			!column_datum(map, m, att, fields, values, n, &value, &isnull))
			continue;
		appendStringInfo(&w.first, "%s%s", w.n > 0 ? ", " : "",
						 quote_identifier(NameStr(att->attname)));
		appendStringInfo(&w.second, "%s$%d", w.n > 0 ? ", " : "", w.n + 1);
		row_write_add(&w, getBaseType(att->atttypid), value, isnull);
	}
	table_close(rel, NoLock);
	sql_enter_bare(&scope, map->owner);
	sql_run(psprintf("INSERT INTO %s (%s) VALUES (%s)", map->member_table,
					 w.first.data, w.second.data),
			w.n, w.types, w.values, w.nulls, false, 0);
	if (SPI_processed != 1)
		ereport(ERROR, (errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
						errmsg("a trigger kept the row from being inserted")));
	sql_leave(&scope);
}

/* Values that are not the member table's: related rows, computed fields. */
static void
insert_related(const Mapping *map, Member *m, const int *fields, char **values,
			   int n)
{
	int *others = palloc(sizeof(int) * (n + 1));
	char **their_values = palloc(sizeof(char *) * (n + 1));
	int count = 0;
	int i;

	for (i = 0; i < n; i++)
	{
		if (map->fields[fields[i]].relid == map->member_relid ||
			strcmp(values[i], CANON_NULL) == 0)
			continue;
		others[count] = fields[i];
		their_values[count++] = values[i];
	}
	if (count > 0)
		(void) rows_write(map, m, others, their_values, count);
}

bool
rows_insert(const Mapping *map, Member *m, const int *fields, char **values,
			int n, MemoryContext cxt)
{
	int64 rows = reserve_key(map, m);

	rows_read(map, &m, 1, cxt);
	if (m->nrows > 0)
		return false;
	if (rows > 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNIQUE_VIOLATION),
				 errmsg("a row outside the filter, or with a hyphen, has "
						"the kennitala")));
	insert_row(map, m, fields, values, n);
	rows_read(map, &m, 1, cxt);
	if (m->nrows != 1)
		ereport(ERROR,
				(errcode(ERRCODE_CHECK_VIOLATION),
				 errmsg(m->nrows == 0 ? "the row does not pass the filter"
									  : "more than one row was inserted")));
	insert_related(map, m, fields, values, n);
	return true;
}
