/*
 * mapload.c
 *		Reads ekksync.state, ekksync.mapping and ekksync.dependency, and looks
 *		up what they name.
 *
 * Takes no locks on the application's tables: what is gone is a problem to
 * report, not an error.  Knows nothing of documents beyond parsing their
 * paths.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "mapload.h"
#include "miscadmin.h"
#include "scope.h"
#include "sqlvalue.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

typedef struct Column
{
	AttrNumber attnum;
	Oid typid;
	int32 typmod;
	bool notnull;
} Column;

/* What sql_guarded calls, and what comes of it. */
typedef struct Load
{
	Mapping *mapping;
	bool attached;
} Load;

static bool
find_column(Oid relid, const char *name, Column *column)
{
	HeapTuple tuple = SearchSysCacheAttName(relid, name);
	Form_pg_attribute att;

	if (!HeapTupleIsValid(tuple))
		return false;
	att = (Form_pg_attribute) GETSTRUCT(tuple);
	column->attnum = att->attnum;
	column->typid = att->atttypid;
	column->typmod = att->atttypmod;
	column->notnull = att->attnotnull;
	ReleaseSysCache(tuple);
	return true;
}

/* As find_column; false with *problem, a text for people. */
static bool
require_column(Oid relid, const char *name, Column *column, char **problem)
{
	if (find_column(relid, name, column))
		return true;
	*problem = psprintf("column \"%s\" of relation \"%s\" does not exist",
						name, get_rel_name(relid));
	return false;
}

/* Qualified and quoted; NULL if the relation is gone. */
static char *
relation_text(Oid relid)
{
	char *name = get_rel_name(relid);

	if (name == NULL)
		return NULL;
	return quote_qualified_identifier(get_namespace_name(
										  get_rel_namespace(relid)),
									  name);
}

static char *
function_text(Oid funcid)
{
	return quote_qualified_identifier(get_namespace_name(
										  get_func_namespace(funcid)),
									  get_func_name(funcid));
}

static Oid
relation_owner(Oid relid)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid owner = InvalidOid;

	if (HeapTupleIsValid(tuple))
	{
		owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
		ReleaseSysCache(tuple);
	}
	return owner;
}

static Oid
get_oid(int row, int column)
{
	bool isnull;
	Datum value = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc,
								column, &isnull);

	return isnull ? InvalidOid : DatumGetObjectId(value);
}

/* The role that a run works as, or *problem. */
static void
load_owner(Mapping *mapping, Oid run_as)
{
	if (OidIsValid(run_as))
	{
		mapping->owner = run_as;
		if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(run_as)))
			mapping->problem = psprintf(
				"role with OID %u, which runs work as, does not exist",
				run_as);
		return;
	}
	mapping->owner = relation_owner(mapping->member_relid);
	if (superuser_arg(mapping->owner))
		mapping->problem = psprintf(
			"the owner of table %s is a superuser and was not named by run_as",
			mapping->member_table);
}

/* SQL with which the capture trigger writes the queue; see outbox.c. */
static void
load_queue(Mapping *mapping)
{
	static const char *const written[] = {"member_id",	 "ssn",
										  "action",		 "fields_changed",
										  "created_at",	 "synced_at",
										  "sync_status", "error_message",
										  "retry_count"};
	Column key;
	int i;

	mapping->queue_table = relation_text(mapping->queue_relid);
	if (mapping->queue_table == NULL)
	{
		mapping->problem = pstrdup("the queue table does not exist");
		return;
	}
	mapping->queue_owner = relation_owner(mapping->queue_relid);
	for (i = 0; i < (int) lengthof(written); i++)
	{
		if (!find_column(mapping->queue_relid, written[i], &key))
			mapping->queue_lacks = written[i];
	}
	if (find_column(mapping->queue_relid, "ssn", &key) &&
		key.typmod > (int32) VARHDRSZ)
		mapping->queue_key_chars = key.typmod - VARHDRSZ;
	mapping->queue_insert = psprintf(
		"INSERT INTO %s (member_id, ssn, action, fields_changed,"
		" created_at, synced_at, sync_status, error_message, retry_count)"
		" VALUES ($1, $2, $3, $4, GREATEST($5, (SELECT "
		"pg_catalog.max(q.created_at)"
		" FROM %s AS q WHERE q.ssn OPERATOR(pg_catalog.=) $2)"
		" OPERATOR(pg_catalog.+) '1 microsecond'::pg_catalog.interval),"
		" NULL, 'pending', $6, 0)",
		mapping->queue_table, mapping->queue_table);
	mapping->queue_forget =
		psprintf("UPDATE %s SET member_id = NULL"
				 " WHERE member_id OPERATOR(pg_catalog.=) $1",
				 mapping->queue_table);
}

static void
load_member_table(Mapping *mapping)
{
	Column column;
	char *name;

	name = get_rel_name(mapping->member_relid);
	mapping->member_table = relation_text(mapping->member_relid);
	if (mapping->member_table == NULL)
	{
		mapping->problem = pstrdup("the member table does not exist");
		return;
	}
	mapping->member_rowtype = get_rel_type_id(mapping->member_relid);
	if (mapping->filter)
		mapping->filter_row =
			psprintf("SELECT (%s) FROM (SELECT ($1).*) AS %s", mapping->filter,
					 quote_identifier(name));
	if (require_column(mapping->member_relid, mapping->key_column, &column,
					   &mapping->problem))
	{
		mapping->key_attnum = column.attnum;
		mapping->key_typid = column.typid;
	}
	if (require_column(mapping->member_relid, mapping->id_column, &column,
					   &mapping->problem))
	{
		mapping->id_attnum = column.attnum;
		mapping->id_typid = column.typid;
	}
}

/* ekksync.state; false when nothing is attached. */
static bool
load_state(Mapping *mapping)
{
	Oid run_as;

	sql_run("SELECT uuid, member_table::oid, queue_table::oid, id_column,"
			" key_column, filter, initial, run_as::oid, attached_at"
			" FROM ekksync.state",
			0, NULL, NULL, NULL, true, 1);
	MemoryContextSwitchTo(mapping->cxt);
	if (SPI_processed == 0)
		return false;
	mapping->uuid = sql_get_text(0, 1, mapping->cxt);
	mapping->member_relid = get_oid(0, 2);
	mapping->queue_relid = get_oid(0, 3);
	mapping->id_column = sql_get_text(0, 4, mapping->cxt);
	mapping->key_column = sql_get_text(0, 5, mapping->cxt);
	mapping->key_name = mapping->key_column;
	mapping->filter = sql_get_text(0, 6, mapping->cxt);
	mapping->initial = sql_get_text(0, 7, mapping->cxt);
	run_as = get_oid(0, 8);
	mapping->attached_at = sql_get_time(0, 9);

	load_queue(mapping);
	load_member_table(mapping);
	if (mapping->problem == NULL)
		load_owner(mapping, run_as);
	return true;
}

static Policy
parse_policy(const char *name)
{
	if (strcmp(name, "django_wins") == 0)
		return POLICY_DJANGO_WINS;
	if (strcmp(name, "firestore_wins") == 0)
		return POLICY_FIRESTORE_WINS;
	if (strcmp(name, "manual") == 0)
		return POLICY_MANUAL;
	return POLICY_LWW;
}

static void
load_column_field(Field *field)
{
	Column column;

	field->relation = relation_text(field->relid);
	if (field->relation == NULL)
	{
		field->problem =
			psprintf("the table of field \"%s\" does not exist", field->name);
		return;
	}
	if (!require_column(field->relid, field->column, &column, &field->problem))
		return;
	field->attnum = column.attnum;
	field->typid = column.typid;
	field->typmod = column.typmod;
	field->notnull = column.notnull;
	if (field->link != NULL)
		(void) require_column(field->relid, field->link, &column,
							  &field->problem);
}

static void
load_computed_field(Field *field, Oid compute, const char *compute_text,
					Oid apply, const char *apply_text)
{
	if (!OidIsValid(compute))
	{
		field->problem = psprintf("function %s does not exist", compute_text);
		return;
	}
	field->compute = function_text(compute);
	field->compute_type = get_func_rettype(compute);
	if (OidIsValid(apply))
		field->apply = function_text(apply);
	else if (apply_text != NULL)
		field->problem = psprintf("function %s does not exist", apply_text);
}

/* Path and codec, which a field of either kind has. */
static void
load_document_side(Field *field, const char *codec, const char *options)
{
	SyncError err = {0};
	Oid typid;

	if (!path_parse(field->path_text, &field->path, &err) ||
		!codec_lookup(codec, options, &field->codec, &err))
	{
		field->problem = err.message;
		return;
	}
	typid = OidIsValid(field->relid) ? field->typid : field->compute_type;
	if (field->problem == NULL && !codec_accepts(&field->codec, typid))
		field->problem = psprintf("codec \"%s\" cannot be used for type %s",
								  codec, format_type_be(typid));
}

/* membership.status, which is the same for every live member. */
static void
add_status(Mapping *mapping)
{
	Field *field = &mapping->fields[mapping->nfields++];

	field->name = pstrdup(MAPPING_STATUS);
	field->path_text = pstrdup(MAPPING_STATUS_PATH);
	field->push_only = true;
	field->compute_type = TEXTOID;
	load_document_side(field, "text", NULL);
}

static void
load_fields(Mapping *mapping)
{
	MemoryContext cxt = mapping->cxt;
	int n;
	int i;

	sql_run("SELECT field, relation::oid, \"column\", link, path, codec,"
			" options, direction, policy, to_regprocedure(compute)::oid,"
			" compute, to_regprocedure(apply)::oid, apply"
			" FROM ekksync.mapping ORDER BY field COLLATE \"C\"",
			0, NULL, NULL, NULL, true, 0);
	MemoryContextSwitchTo(cxt);
	n = SPI_processed;
	mapping->fields = palloc0((n + 1) * sizeof(Field));
	for (i = 0; i < n; i++)
	{
		Field *field = &mapping->fields[i];

		field->name = sql_get_text(i, 1, cxt);
		field->relid = get_oid(i, 2);
		field->column = sql_get_text(i, 3, cxt);
		field->link = sql_get_text(i, 4, cxt);
		field->path_text = sql_get_text(i, 5, cxt);
		field->push_only = strcmp(sql_get_text(i, 8, cxt), "push") == 0;
		field->policy = parse_policy(sql_get_text(i, 9, cxt));
		if (field->column != NULL)
			load_column_field(field);
		else
			load_computed_field(field, get_oid(i, 10),
								sql_get_text(i, 11, cxt), get_oid(i, 12),
								sql_get_text(i, 13, cxt));
		load_document_side(field, sql_get_text(i, 6, cxt),
						   sql_get_text(i, 7, cxt));
		if (field->relid == mapping->member_relid &&
			strcmp(field->column, mapping->key_column) == 0)
			mapping->key_name = field->name;
	}
	mapping->nfields = n;
	add_status(mapping);
}

/*
 * The entry of a watched table, made when it is new.  The array has room for
 * every field and dependency.
 */
static Watched *
watch(Mapping *mapping, Oid relid, const char *link, const char *members)
{
	Watched *watched = (Watched *) mapping_watched(mapping, relid);
	Column column;

	if (watched != NULL)
		return watched;
	watched = &mapping->watched[mapping->nwatched++];
	watched->relid = relid;
	watched->is_member_table = (relid == mapping->member_relid);
	if (watched->is_member_table)
		return watched;
	if (require_column(relid, link ? link : "id", &column, &watched->problem))
	{
		watched->ref_typid = column.typid;
		if (link != NULL)
			watched->link_attnum = column.attnum;
		else
			watched->id_attnum = column.attnum;
	}
	watched->members = members ? pstrdup(members) : NULL;
	return watched;
}

static void
watch_field(Watched *watched, int field, AttrNumber attnum)
{
	int n = watched->nfields;

	if (n == 0)
		watched->fields = palloc(sizeof(WatchedField));
	else
		watched->fields =
			repalloc(watched->fields, (n + 1) * sizeof(WatchedField));
	watched->fields[n].field = field;
	watched->fields[n].attnum = attnum;
	watched->nfields++;
}

/* See Watched.resolve in mapping.h. */
static void
make_resolve(const Mapping *mapping, Watched *watched)
{
	char *columns = psprintf("%s, %s", quote_identifier(mapping->id_column),
							 quote_identifier(mapping->key_column));
	char *where =
		psprintf("FROM %s WHERE %s OPERATOR(pg_catalog.=)",
				 mapping->member_table, quote_identifier(mapping->id_column));

	where = watched->members
				? psprintf("%s ANY (%s\n)", where, watched->members)
				: psprintf("%s $1", where);
	watched->resolve = psprintf("SELECT %s %s", columns, where);
	if (mapping->filter != NULL)
		watched->resolve_filtered =
			psprintf("SELECT %s, (%s) %s", columns, mapping->filter, where);
}

static void
load_watched(Mapping *mapping)
{
	int i;

	sql_run("SELECT field, relation::oid, link, members"
			" FROM ekksync.dependency"
			" ORDER BY field COLLATE \"C\", relation::oid",
			0, NULL, NULL, NULL, true, 0);
	MemoryContextSwitchTo(mapping->cxt);
	mapping->watched =
		palloc0((mapping->nfields + SPI_processed + 1) * sizeof(Watched));
	(void) watch(mapping, mapping->member_relid, NULL, NULL);
	for (i = 0; i < mapping->nfields; i++)
	{
		const Field *field = &mapping->fields[i];

		if (field->relation != NULL)
			watch_field(watch(mapping, field->relid, field->link, NULL), i,
						field->attnum);
	}
	for (i = 0; i < (int) SPI_processed; i++)
	{
		int f = mapping_find(mapping, sql_get_text(i, 1, mapping->cxt));
		Oid relid = get_oid(i, 2);

		if (f < 0 || get_rel_name(relid) == NULL)
			continue;
		watch_field(watch(mapping, relid, sql_get_text(i, 3, mapping->cxt),
						  sql_get_text(i, 4, mapping->cxt)),
					f, 0);
	}
	for (i = 0; i < mapping->nwatched; i++)
		make_resolve(mapping, &mapping->watched[i]);
}

/*
 * All of it, by the latest snapshot: a change of the mapping that has
 * committed counts in a transaction of any isolation level, as its triggers
 * do.
 */
static void
load_all(void *arg)
{
	Load *load = arg;
	Mapping *mapping = load->mapping;
	SqlScope scope;

	PushActiveSnapshot(GetLatestSnapshot());
	mapping->extowner = ekksync_owner_oid();
	sql_enter(&scope, mapping->extowner);
	load->attached = load_state(mapping);
	if (load->attached && mapping->problem == NULL)
	{
		load_fields(mapping);
		load_watched(mapping);
	}
	sql_leave(&scope);
	PopActiveSnapshot();
}

Mapping *
mapload(MemoryContext parent)
{
	MemoryContext cxt;
	Load load;
	char *problem;

	cxt = AllocSetContextCreate(parent, "ekksync mapping",
								ALLOCSET_DEFAULT_SIZES);
	load.mapping = MemoryContextAllocZero(cxt, sizeof(Mapping));
	load.mapping->cxt = cxt;
	load.attached = false;
	problem = sql_guarded(load_all, &load);
	if (problem != NULL)
		load.mapping->problem = MemoryContextStrdup(cxt, problem);
	if (!load.attached && problem == NULL)
	{
		MemoryContextDelete(cxt);
		return NULL;
	}
	if (load.mapping->problem != NULL)
	{
		load.mapping->nfields = 0;
		load.mapping->nwatched = 0;
	}
	return load.mapping;
}
