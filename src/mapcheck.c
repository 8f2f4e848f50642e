/*
 * mapcheck.c
 *		Checks that what is mapped can be captured, read and written, so that
 *		the trigger and the run need not.
 *
 * May not know: how a mapping is stored.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "mapcheck.h"
#include "parser/parse_coerce.h"
#include "scope.h"
#include "sqlvalue.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

/* Paths that every write sets to the server's time or that mark a delete. */
static const char *const reserved_paths[] = {MAPPING_STATUS_PATH,
											 MAPPING_DELETED_AT_PATH,
											 "metadata.last_modified",
											 "metadata.last_sync",
											 "updated_at"};

void
map_invalid(const char *message, const char *hint)
{
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("%s", message), hint ? errhint("%s", hint) : 0));
}

/* ---------------------------------------------------------------- checks */

/* Is one path the other, or above it? */
static bool
paths_overlap(const FieldPath *a, const FieldPath *b)
{
	int n = Min(a->nsegments, b->nsegments);
	int i;

	for (i = 0; i < n; i++)
	{
		if (strcmp(a->segments[i], b->segments[i]) != 0)
			return false;
	}
	return true;
}

static void
check_path(const MapRequest *request)
{
	FieldPath path;
	FieldPath other;
	SyncError err = {0};
	int i;

	if (request->row.path[0] == '\0')
		ereport(ERROR, (errcode(ERRCODE_INVALID_NAME),
						errmsg("path must not be empty"),
						errhint("Give the field's path in the document, for "
								"example profile.email.")));
	if (!path_parse(request->row.path, &path, &err))
		ereport(ERROR, (errcode(err.sqlstate),
						errmsg("invalid path \"%s\": %s", request->row.path,
							   err.message)));
	for (i = 0; i < (int) lengthof(reserved_paths); i++)
	{
		if (path_parse(reserved_paths[i], &other, NULL) &&
			paths_overlap(&path, &other))
			ereport(ERROR, (errcode(ERRCODE_RESERVED_NAME),
							errmsg("path %s is written by ekksync itself",
								   reserved_paths[i])));
	}
	for (i = 0; i < request->mapping->nfields; i++)
	{
		const Field *field = &request->mapping->fields[i];

		if (strcmp(field->name, request->row.field) != 0 &&
			field->path.nsegments > 0 && paths_overlap(&path, &field->path))
			ereport(
				ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("path %s is mapped already, by field \"%s\" to %s",
						request->row.path, field->name, field->path_text),
				 errhint(
					 "Use ekksync_unmap() first, or choose another path.")));
	}
}

void
map_check_words(const MapRequest *request)
{
	const MappingRow *row = &request->row;

	if (row->field == NULL || row->path == NULL || row->codec == NULL ||
		row->direction == NULL || row->policy == NULL)
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("field, path, codec, direction and policy must "
							   "not be null")));
	if (row->field[0] == '\0' || strcmp(row->field, MAPPING_STATUS) == 0)
		map_invalid(psprintf("invalid value for \"field\": \"%s\"",
							 row->field),
					"Give the field a name, but not \"status\": that one "
					"marks deleted members.");
	if (strcmp(row->direction, "both") != 0 &&
		strcmp(row->direction, "push") != 0)
		map_invalid(psprintf("invalid value for \"direction\": \"%s\"",
							 row->direction),
					"Use both or push.");
	if (strcmp(row->policy, "lww") != 0 &&
		strcmp(row->policy, "django_wins") != 0 &&
		strcmp(row->policy, "firestore_wins") != 0 &&
		strcmp(row->policy, "manual") != 0)
		map_invalid(psprintf("invalid value for \"policy\": \"%s\"",
							 row->policy),
					"Use lww, django_wins, firestore_wins or manual.");
	if ((row->column == NULL) == !OidIsValid(request->compute))
		map_invalid("a field is either a column or computed",
					"Give \"column\" (with relation and link, unless it is "
					"the member table's) or compute.");
	check_path(request);
}

static void
check_codec(MapRequest *request, Oid typid)
{
	SyncError err = {0};

	if (!codec_lookup(request->row.codec, request->row.options,
					  &request->codec, &err))
		ereport(
			ERROR,
			(errcode(err.sqlstate), errmsg("%s", err.message),
			 err.sqlstate != ERRCODE_UNDEFINED_OBJECT
				 ? 0
				 : errhint(
					   "Codecs are text, int, bool, date, timestamp, numeric, "
					   "enum, kennitala, phone, jsonb and text[].")));
	if (!codec_accepts(&request->codec, typid))
		ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
						errmsg("codec \"%s\" cannot be used for type %s",
							   request->row.codec, format_type_be(typid))));
}

static Oid
require_column_type(Oid relid, const char *column)
{
	Oid typid = column_type(relid, column);

	if (!OidIsValid(typid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of relation \"%s\" does not exist",
						column, get_rel_name(relid))));
	return typid;
}

static void
check_table(const Mapping *mapping, Oid relid)
{
	if (get_rel_name(relid) == NULL)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
						errmsg("relation with OID %u does not exist", relid)));
	if (get_rel_relkind(relid) != RELKIND_RELATION)
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
						errmsg("\"%s\" is not an ordinary table",
							   get_rel_name(relid))));
	if (relid == mapping->queue_relid)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is the queue table", get_rel_name(relid))));
	require_owner(relid);
}

/* A link column must be able to hold the member's id. */
static void
check_link(const Mapping *mapping, Oid relid, const char *link)
{
	Oid typid = require_column_type(relid, link);

	if (typid != INT2OID && typid != INT4OID && typid != INT8OID)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("link column \"%s\" of relation \"%s\" has type %s, "
						"the id of the member table has type %s",
						link, get_rel_name(relid), format_type_be(typid),
						format_type_be(mapping->id_typid))));
}

/*
 * Every field finds the members of a table's rows in the same way: the
 * trigger asks only once.
 */
static void
check_same_way(const MapRequest *request, Oid relid, const char *link,
			   const char *members)
{
	Oid types[4] = {OIDOID, TEXTOID, TEXTOID, TEXTOID};
	Datum values[4];
	char nulls[4] = {' ', ' ', ' ', ' '};
	SqlScope scope;
	bool other;

	if (relid == request->mapping->member_relid)
		return;
	values[0] = ObjectIdGetDatum(relid);
	values[1] = sql_text(request->row.field);
	nulls[1] = request->row.field ? ' ' : 'n';
	values[2] = sql_text(link);
	nulls[2] = link ? ' ' : 'n';
	values[3] = sql_text(members);
	nulls[3] = members ? ' ' : 'n';
	sql_enter(&scope, ekksync_owner_oid());
	sql_run(
		"SELECT 1 FROM (SELECT field, relation, link, NULL::text AS members"
		" FROM ekksync.mapping UNION ALL"
		" SELECT field, relation, link, members FROM ekksync.dependency) AS w"
		" WHERE w.relation = $1 AND w.field <> $2"
		" AND (w.link IS DISTINCT FROM $3 OR w.members IS DISTINCT FROM $4)",
		4, types, values, nulls, false, 1);
	other = SPI_processed > 0;
	sql_leave(&scope);
	if (other)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("another field finds the members of relation "
							   "\"%s\" in another way",
							   get_rel_name(relid)),
						errhint("Use the same link column or members query "
								"for every field.")));
}

/*
 * What a column must be to be written from Firestore: of one field only, and
 * one value for a member.
 */
static void
check_writable(const MapRequest *request)
{
	const MappingRow *row = &request->row;
	int i;

	for (i = 0; i < request->mapping->nfields; i++)
	{
		const Field *field = &request->mapping->fields[i];

		if (strcmp(field->name, row->field) != 0 && !field->push_only &&
			field->relid == row->relid &&
			strcmp(field->column, row->column) == 0)
			ereport(
				ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("column \"%s\" of relation \"%s\" is mapped both ways "
						"already",
						row->column, get_rel_name(row->relid)),
				 errdetail("Field \"%s\" writes it from %s.", field->name,
						   field->path_text),
				 errhint(
					 "Use direction => 'push', or ekksync_unmap() first.")));
	}
	if (row->link != NULL && !column_is_unique(row->relid, row->link))
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("link column \"%s\" of relation \"%s\" is not unique",
					row->link, get_rel_name(row->relid)),
			 errdetail("A member may have several rows there, so a value from "
					   "Firestore has no single place."),
			 errhint(
				 "Create a unique index on the link column, or map the field "
				 "with direction => 'push' through a computing function.")));
}

static void
check_column(MapRequest *request)
{
	const Mapping *mapping = request->mapping;
	MappingRow *row = &request->row;

	if (!OidIsValid(row->relid))
		row->relid = mapping->member_relid;
	check_table(mapping, row->relid);
	check_codec(request, require_column_type(row->relid, row->column));
	if (row->relid == mapping->member_relid)
	{
		if (row->link != NULL)
			map_invalid("a column of the member table has no link", NULL);
		if (strcmp(row->direction, "both") == 0 &&
			(strcmp(row->column, mapping->key_column) == 0 ||
			 strcmp(row->column, mapping->id_column) == 0))
			map_invalid("the key and the id of a member are never written "
						"from Firestore",
						"Use direction => 'push'.");
	}
	else
	{
		if (row->link == NULL)
			map_invalid("a column of a related table needs a link",
						"Name the column that references the member by link.");
		check_link(mapping, row->relid, row->link);
		check_same_way(request, row->relid, row->link, NULL);
	}
	if (strcmp(row->direction, "both") == 0)
		check_writable(request);
	if (request->row.apply != NULL || request->depends != NIL)
		map_invalid("apply and depends are for computed fields", NULL);
}

/* -------------------------------------------------------------- computed */

/* Try a members query with a null, as the role that will run it. */
static void
check_members(const Mapping *mapping, Oid relid, const char *members)
{
	Oid type = require_column_type(relid, "id");
	Datum value = (Datum) 0;
	SqlScope scope;

	sql_enter(&scope, mapping->owner);
	sql_run(psprintf("SELECT 1 FROM %s WHERE %s = ANY (%s\n)",
					 mapping->member_table,
					 quote_identifier(mapping->id_column), members),
			1, &type, &value, "n", true, 1);
	sql_leave(&scope);
}

static void
check_dependency(const MapRequest *request, const Dependency *dependency)
{
	const Mapping *mapping = request->mapping;

	check_table(mapping, dependency->relid);
	if ((dependency->link == NULL) == (dependency->members == NULL))
		map_invalid(psprintf("the dependency on relation \"%s\" needs either "
							 "link or members",
							 get_rel_name(dependency->relid)),
					NULL);
	if (dependency->relid == mapping->member_relid)
	{
		if (dependency->link == NULL ||
			strcmp(dependency->link, mapping->id_column) != 0)
			map_invalid("a dependency on the member table must have the "
						"member's id as link",
						NULL);
	}
	else if (dependency->link != NULL)
		check_link(mapping, dependency->relid, dependency->link);
	else
		check_members(mapping, dependency->relid, dependency->members);
	check_same_way(request, dependency->relid, dependency->link,
				   dependency->members);
}

/* Argument types and result of a function; error unless it takes nargs. */
static Oid
check_function(Oid function, int nargs, Oid first, const char *what)
{
	HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Form_pg_proc proc;
	Oid result;
	bool fits;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function with OID %u does not exist", function)));
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	fits = proc->prokind == PROKIND_FUNCTION && !proc->proretset &&
		   proc->pronargs == nargs &&
		   can_coerce_type(1, &first, &proc->proargtypes.values[0],
						   COERCION_IMPLICIT);
	result = proc->prorettype;
	ReleaseSysCache(tuple);
	if (!fits)
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
			 errmsg("function %s cannot be used as %s",
					format_procedure_qualified(function), what),
			 errdetail("It must take the member's id%s and return one value.",
					   nargs > 1 ? " and the new value" : "")));
	return result;
}

static void
check_computed(MapRequest *request)
{
	Oid id = request->mapping->id_typid;
	ListCell *cell;

	if (OidIsValid(request->row.relid) || request->row.link != NULL)
		map_invalid("a computed field has no relation and no link",
					"Name the tables that it depends on by depends.");
	check_codec(request, check_function(request->compute, 1, id, "compute"));
	if (OidIsValid(request->apply))
		(void) check_function(request->apply, 2, id, "apply");
	else if (strcmp(request->row.direction, "both") == 0)
		map_invalid(
			"a computed field without apply cannot be written from Firestore",
			"Use direction => 'push', or give apply.");
	foreach (cell, request->depends)
		check_dependency(request, lfirst(cell));
}

void
map_check_source(MapRequest *request)
{
	if (OidIsValid(request->compute))
		check_computed(request);
	else
		check_column(request);
}
