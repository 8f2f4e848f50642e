/*
 * mapsql.c
 *		ekksync_map and ekksync_unmap: the mapping, changed by hand.
 *
 * Checks that what is mapped can be captured, read and written, so that the
 * trigger and the run need not.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "attach.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "mapping.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parse_coerce.h"
#include "pg_compat.h"
#include "scope.h"
#include "sqlvalue.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

PG_FUNCTION_INFO_V1(ekksync_map);
PG_FUNCTION_INFO_V1(ekksync_unmap);

/* Paths that every write sets to the server's time or that mark a delete. */
static const char *const reserved_paths[] = {
	MAPPING_STATUS_PATH, MAPPING_DELETED_AT_PATH, "metadata.last_modified",
	"metadata.last_sync", "updated_at"
};

/* A table that a computed field depends on. */
typedef struct Dependency
{
	Oid			relid;
	char	   *link;
	char	   *members;
} Dependency;

/* A mapping in the making. */
typedef struct MapRequest
{
	const Mapping *mapping;		/* in force */
	MappingRow	row;
	Codec		codec;
	Oid			compute;
	Oid			apply;
	List	   *depends;		/* Dependency */
} MapRequest;

pg_noreturn static void invalid(const char *message, const char *hint);

static void
invalid(const char *message, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%s", message),
			 hint ? errhint("%s", hint) : 0));
}

static char *
text_arg(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(n));
}

static char *
oid_text_or_null(Oid function)
{
	return OidIsValid(function) ? format_procedure_qualified(function) : NULL;
}

/* ----------------------------------------------------------------- store */

static void
set_text(const char *s, Datum *value, char *isnull)
{
	*value = s ? CStringGetTextDatum(s) : (Datum) 0;
	*isnull = s ? ' ' : 'n';
}

void
mapping_store(const MappingRow *row)
{
	Oid			types[11] = {TEXTOID, REGCLASSOID, TEXTOID, TEXTOID, TEXTOID,
		TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID
	};
	Datum		values[11];
	char		nulls[11];
	SqlScope	scope;

	set_text(row->field, &values[0], &nulls[0]);
	values[1] = ObjectIdGetDatum(row->relid);
	nulls[1] = OidIsValid(row->relid) ? ' ' : 'n';
	set_text(row->column, &values[2], &nulls[2]);
	set_text(row->link, &values[3], &nulls[3]);
	set_text(row->path, &values[4], &nulls[4]);
	set_text(row->codec, &values[5], &nulls[5]);
	set_text(row->options, &values[6], &nulls[6]);
	set_text(row->direction, &values[7], &nulls[7]);
	set_text(row->policy, &values[8], &nulls[8]);
	set_text(row->compute, &values[9], &nulls[9]);
	set_text(row->apply, &values[10], &nulls[10]);
	sql_enter(&scope, ekksync_owner_oid());
	sql_run("DELETE FROM ekksync.mapping WHERE field = $1",
			1, types, values, NULL, false, 0);
	sql_run("INSERT INTO ekksync.mapping (field, relation, \"column\", link,"
			" path, codec, options, direction, policy, compute, apply)"
			" VALUES ($1, $2, $3, $4, $5, $6, $7::jsonb, $8, $9, $10, $11)",
			11, types, values, nulls, false, 0);
	sql_leave(&scope);
}

void
dependency_store(const char *field, Oid relid, const char *link,
				 const char *members)
{
	Oid			types[4] = {TEXTOID, REGCLASSOID, TEXTOID, TEXTOID};
	Datum		values[4];
	char		nulls[4];
	SqlScope	scope;

	set_text(field, &values[0], &nulls[0]);
	values[1] = ObjectIdGetDatum(relid);
	nulls[1] = ' ';
	set_text(link, &values[2], &nulls[2]);
	set_text(members, &values[3], &nulls[3]);
	sql_enter(&scope, ekksync_owner_oid());
	sql_run("INSERT INTO ekksync.dependency (field, relation, link, members)"
			" VALUES ($1, $2, $3, $4)", 4, types, values, nulls, false, 0);
	sql_leave(&scope);
}

/*
 * The mapping of a field has changed: what was agreed on about it counts no
 * more, and every member is due.
 */
static void
mapping_changed(const char *field)
{
	Oid			type = TEXTOID;
	Datum		value = CStringGetTextDatum(field);
	SqlScope	scope;

	sql_enter(&scope, ekksync_owner_oid());
	sql_run("UPDATE ekksync.member SET due = true, base = base - $1",
			1, &type, &value, NULL, false, 0);
	sql_leave(&scope);
	mapping_invalidate();
}

/* ---------------------------------------------------------------- checks */

/* Is one path the other, or above it? */
static bool
paths_overlap(const FieldPath *a, const FieldPath *b)
{
	int			n = Min(a->nsegments, b->nsegments);
	int			i;

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
	FieldPath	path;
	FieldPath	other;
	SyncError	err = {0};
	int			i;

	if (request->row.path[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("path must not be empty"),
				 errhint("Give the field's path in the document, for example profile.email.")));
	if (!path_parse(request->row.path, &path, &err))
		ereport(ERROR,
				(errcode(err.sqlstate),
				 errmsg("invalid path \"%s\": %s", request->row.path,
						err.message)));
	for (i = 0; i < (int) lengthof(reserved_paths); i++)
	{
		if (path_parse(reserved_paths[i], &other, NULL) &&
			paths_overlap(&path, &other))
			ereport(ERROR,
					(errcode(ERRCODE_RESERVED_NAME),
					 errmsg("path %s is written by ekksync itself",
							reserved_paths[i])));
	}
	for (i = 0; i < request->mapping->nfields; i++)
	{
		const Field *field = &request->mapping->fields[i];

		if (strcmp(field->name, request->row.field) != 0 &&
			field->path.nsegments > 0 &&
			paths_overlap(&path, &field->path))
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("path %s is mapped already, by field \"%s\" to %s",
							request->row.path, field->name, field->path_text),
					 errhint("Use ekksync_unmap() first, or choose another path.")));
	}
}

static void
check_words(const MapRequest *request)
{
	const MappingRow *row = &request->row;

	if (row->field == NULL || row->path == NULL || row->codec == NULL ||
		row->direction == NULL || row->policy == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("field, path, codec, direction and policy must not be null")));
	if (row->field[0] == '\0' || strcmp(row->field, MAPPING_STATUS) == 0)
		invalid(psprintf("invalid value for \"field\": \"%s\"", row->field),
				"Give the field a name, but not \"status\": that one marks deleted members.");
	if (strcmp(row->direction, "both") != 0 &&
		strcmp(row->direction, "push") != 0)
		invalid(psprintf("invalid value for \"direction\": \"%s\"",
						 row->direction),
				"Use both or push.");
	if (strcmp(row->policy, "lww") != 0 &&
		strcmp(row->policy, "django_wins") != 0 &&
		strcmp(row->policy, "firestore_wins") != 0 &&
		strcmp(row->policy, "manual") != 0)
		invalid(psprintf("invalid value for \"policy\": \"%s\"", row->policy),
				"Use lww, django_wins, firestore_wins or manual.");
	if ((row->column == NULL) == !OidIsValid(request->compute))
		invalid("a field is either a column or computed",
				"Give \"column\" (with relation and link, unless it is the member table's) or compute.");
}

static void
check_codec(MapRequest *request, Oid typid)
{
	SyncError	err = {0};

	if (!codec_lookup(request->row.codec, request->row.options,
					  &request->codec, &err))
		ereport(ERROR,
				(errcode(err.sqlstate), errmsg("%s", err.message),
				 err.sqlstate != ERRCODE_UNDEFINED_OBJECT ? 0 :
				 errhint("Codecs are text, int, bool, date, timestamp, numeric, enum, kennitala, phone, jsonb and text[].")));
	if (!codec_accepts(&request->codec, typid))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("codec \"%s\" cannot be used for type %s",
						request->row.codec, format_type_be(typid))));
}

static Oid
require_column_type(Oid relid, const char *column)
{
	Oid			typid = column_type(relid, column);

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
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	if (get_rel_relkind(relid) != RELKIND_RELATION)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
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
	Oid			typid = require_column_type(relid, link);

	if (typid != INT2OID && typid != INT4OID && typid != INT8OID)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("link column \"%s\" of relation \"%s\" has type %s, the id of the member table has type %s",
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
	Oid			types[4] = {OIDOID, TEXTOID, TEXTOID, TEXTOID};
	Datum		values[4];
	char		nulls[4] = {' ', ' ', ' ', ' '};
	SqlScope	scope;
	bool		other;

	if (relid == request->mapping->member_relid)
		return;
	values[0] = ObjectIdGetDatum(relid);
	set_text(request->row.field, &values[1], &nulls[1]);
	set_text(link, &values[2], &nulls[2]);
	set_text(members, &values[3], &nulls[3]);
	sql_enter(&scope, ekksync_owner_oid());
	sql_run("SELECT 1 FROM (SELECT field, relation, link, NULL::text AS members"
			" FROM ekksync.mapping UNION ALL"
			" SELECT field, relation, link, members FROM ekksync.dependency) AS w"
			" WHERE w.relation = $1 AND w.field <> $2"
			" AND (w.link IS DISTINCT FROM $3 OR w.members IS DISTINCT FROM $4)",
			4, types, values, nulls, false, 1);
	other = SPI_processed > 0;
	sql_leave(&scope);
	if (other)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("another field finds the members of relation \"%s\" in another way",
						get_rel_name(relid)),
				 errhint("Use the same link column or members query for every field.")));
}

/*
 * What a column must be to be written from Firestore: of one field only, and
 * one value for a member.
 */
static void
check_writable(const MapRequest *request)
{
	const MappingRow *row = &request->row;
	int			i;

	for (i = 0; i < request->mapping->nfields; i++)
	{
		const Field *field = &request->mapping->fields[i];

		if (strcmp(field->name, row->field) != 0 && !field->push_only &&
			field->relid == row->relid &&
			strcmp(field->column, row->column) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("column \"%s\" of relation \"%s\" is mapped both ways already",
							row->column, get_rel_name(row->relid)),
					 errdetail("Field \"%s\" writes it from %s.",
							   field->name, field->path_text),
					 errhint("Use direction => 'push', or ekksync_unmap() first.")));
	}
	if (row->link != NULL && !column_is_unique(row->relid, row->link))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("link column \"%s\" of relation \"%s\" is not unique",
						row->link, get_rel_name(row->relid)),
				 errdetail("A member may have several rows there, so a value from Firestore has no single place."),
				 errhint("Create a unique index on the link column, or map the field with direction => 'push' through a computing function.")));
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
			invalid("a column of the member table has no link", NULL);
		if (strcmp(row->direction, "both") == 0 &&
			(strcmp(row->column, mapping->key_column) == 0 ||
			 strcmp(row->column, mapping->id_column) == 0))
			invalid("the key and the id of a member are never written from Firestore",
					"Use direction => 'push'.");
	}
	else
	{
		if (row->link == NULL)
			invalid("a column of a related table needs a link",
					"Name the column that references the member by link.");
		check_link(mapping, row->relid, row->link);
		check_same_way(request, row->relid, row->link, NULL);
	}
	if (strcmp(row->direction, "both") == 0)
		check_writable(request);
	if (request->row.apply != NULL || request->depends != NIL)
		invalid("apply and depends are for computed fields", NULL);
}

/* -------------------------------------------------------------- computed */

/* Try a members query with a null, as the role that will run it. */
static void
check_members(const Mapping *mapping, Oid relid, const char *members)
{
	Oid			type = require_column_type(relid, "id");
	Datum		value = (Datum) 0;
	SqlScope	scope;

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
		invalid(psprintf("the dependency on relation \"%s\" needs either link or members",
						 get_rel_name(dependency->relid)), NULL);
	if (dependency->relid == mapping->member_relid)
	{
		if (dependency->link == NULL ||
			strcmp(dependency->link, mapping->id_column) != 0)
			invalid("a dependency on the member table must have the member's id as link",
					NULL);
	}
	else if (dependency->link != NULL)
		check_link(mapping, dependency->relid, dependency->link);
	else
		check_members(mapping, dependency->relid, dependency->members);
	check_same_way(request, dependency->relid, dependency->link,
				   dependency->members);
}

/* {"table": {"link": "column"} or {"members": "query"}, ...} -> Dependency */
static List *
parse_depends(Jsonb *depends)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			type = JSONBOID;
	Datum		value = JsonbPGetDatum(depends);
	List	   *names = NIL;
	List	   *list = NIL;
	ListCell   *cell;
	ListCell   *name;
	SqlScope	scope;
	uint64		i;

	if (!JB_ROOT_IS_OBJECT(depends))
		invalid("depends must be an object",
				"For example: {\"app_link\": {\"link\": \"member_id\"}}");
	sql_enter(&scope, ekksync_owner_oid());
	sql_run("SELECT key, value ->> 'link', value ->> 'members'"
			" FROM jsonb_each($1)", 1, &type, &value, NULL, false, 0);
	MemoryContextSwitchTo(caller);
	for (i = 0; i < SPI_processed; i++)
	{
		Dependency *dependency = palloc0(sizeof(Dependency));

		names = lappend(names, sql_get_text(i, 1, caller));
		dependency->link = sql_get_text(i, 2, caller);
		dependency->members = sql_get_text(i, 3, caller);
		list = lappend(list, dependency);
	}
	sql_leave(&scope);
	/* by the caller's search_path, so outside of the scope */
	forboth(name, names, cell, list)
	{
		Dependency *dependency = lfirst(cell);
		List	   *parts = textToQualifiedNameList(cstring_to_text(lfirst(name)));

		dependency->relid = RangeVarGetRelid(makeRangeVarFromNameList(parts),
											 NoLock, false);
	}
	return list;
}

/* Argument types and result of a function; error unless it takes nargs. */
static Oid
check_function(Oid function, int nargs, Oid first, const char *what)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Form_pg_proc proc;
	Oid			result;
	bool		fits;

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
		ereport(ERROR,
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
	Oid			id = request->mapping->id_typid;
	ListCell   *cell;

	if (OidIsValid(request->row.relid) || request->row.link != NULL)
		invalid("a computed field has no relation and no link",
				"Name the tables that it depends on by depends.");
	check_codec(request, check_function(request->compute, 1, id, "compute"));
	if (OidIsValid(request->apply))
		(void) check_function(request->apply, 2, id, "apply");
	else if (strcmp(request->row.direction, "both") == 0)
		invalid("a computed field without apply cannot be written from Firestore",
				"Use direction => 'push', or give apply.");
	foreach(cell, request->depends)
		check_dependency(request, lfirst(cell));
}

/* ------------------------------------------------------------------- SQL */

/* The mapping in force, locked; error when nothing is attached. */
static const Mapping *
open_mapping(const char *function)
{
	const Mapping *mapping;
	Oid			member_relid;
	Oid			queue_relid;

	PreventCommandIfReadOnly(function);
	if (!lock_attachment(&member_relid, &queue_relid))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("ekksync is not attached to a member table"),
				 errhint("Use ekksync_attach() first.")));
	mapping_invalidate();
	mapping = mapping_get();
	if (mapping->problem != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the mapping cannot be used: %s", mapping->problem)));
	require_owner(member_relid);
	return mapping;
}

static void
read_request(MapRequest *request, FunctionCallInfo fcinfo)
{
	MappingRow *row = &request->row;

	row->field = text_arg(fcinfo, 0);
	row->path = text_arg(fcinfo, 1);
	row->codec = text_arg(fcinfo, 2);
	row->relid = PG_ARGISNULL(3) ? InvalidOid : PG_GETARG_OID(3);
	row->column = text_arg(fcinfo, 4);
	row->link = text_arg(fcinfo, 5);
	row->direction = text_arg(fcinfo, 6);
	row->policy = text_arg(fcinfo, 7);
	if (!PG_ARGISNULL(8))
	{
		Jsonb	   *options = PG_GETARG_JSONB_P(8);

		row->options = JsonbToCString(NULL, &options->root, -1);
	}
	request->compute = PG_ARGISNULL(9) ? InvalidOid : PG_GETARG_OID(9);
	request->apply = PG_ARGISNULL(10) ? InvalidOid : PG_GETARG_OID(10);
	if (!PG_ARGISNULL(11))
		request->depends = parse_depends(PG_GETARG_JSONB_P(11));
}

/*
 * SQL: ekksync_map(field, path, codec, relation, column, link, direction,
 * policy, options, compute, apply, depends)
 */
Datum
ekksync_map(PG_FUNCTION_ARGS)
{
	MapRequest	request;
	ListCell   *cell;
	Oid			queue_relid;

	memset(&request, 0, sizeof(request));
	request.mapping = open_mapping("ekksync_map()");
	read_request(&request, fcinfo);
	check_words(&request);
	check_path(&request);
	request.row.compute = oid_text_or_null(request.compute);
	request.row.apply = oid_text_or_null(request.apply);
	if (OidIsValid(request.compute))
		check_computed(&request);
	else
		check_column(&request);

	mapping_store(&request.row);
	queue_relid = request.mapping->queue_relid;
	if (OidIsValid(request.row.relid))
		(void) triggers_ensure(NULL, request.row.relid, queue_relid);
	foreach(cell, request.depends)
	{
		Dependency *dependency = lfirst(cell);

		dependency_store(request.row.field, dependency->relid,
						 dependency->link, dependency->members);
		(void) triggers_ensure(NULL, dependency->relid, queue_relid);
	}
	triggers_prune(NULL, request.mapping->member_relid, false);
	mapping_changed(request.row.field);
	PG_RETURN_VOID();
}

/* SQL: ekksync_unmap(field) */
Datum
ekksync_unmap(PG_FUNCTION_ARGS)
{
	char	   *field = text_arg(fcinfo, 0);
	const Mapping *mapping = open_mapping("ekksync_unmap()");
	Oid			type = TEXTOID;
	Datum		value = CStringGetTextDatum(field);
	SqlScope	scope;
	bool		found;

	sql_enter(&scope, ekksync_owner_oid());
	sql_run("DELETE FROM ekksync.mapping WHERE field = $1",
			1, &type, &value, NULL, false, 0);
	found = SPI_processed > 0;
	sql_leave(&scope);
	if (found)
	{
		triggers_prune(NULL, mapping->member_relid, false);
		mapping_changed(field);
	}
	PG_RETURN_BOOL(found);
}
