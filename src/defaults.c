/*
 * defaults.c
 *		The mapping of a Django registry as it usually is: tables of the app
 *		that the member table belongs to, columns by their names.
 *
 * Computed fields get an SQL function each, owned by the owner of the member
 * table.  Knows names; does not know how a field is captured or sent.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "attach.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "mapping.h"
#include "miscadmin.h"
#include "parser/parse_func.h"
#include "scope.h"
#include "sqlvalue.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

#define GENDERS "{\"unknown\": 0, \"male\": 1, \"female\": 2, \"other\": 3}"
#define HOUSING                                                               \
	"{\"unknown\": 0, \"owner\": 1, \"rental\": 2, \"cooperative\": 3,"       \
	" \"family\": 4, \"other\": 5, \"homeless\": 6}"

/* A field that is a column. */
typedef struct DefaultColumn
{
	const char *field;
	const char *table;	/* after the prefix; NULL: the member table */
	const char *column; /* NULL: the key column */
	const char *path;
	const char *codec;
	const char *options;
	const char *direction;
} DefaultColumn;

static const DefaultColumn default_columns[] =
	{{"ssn", NULL, NULL, "profile.kennitala", "kennitala", NULL, "push"},
	 {"name", NULL, "name", "profile.name", "text", NULL, "both"},
	 {"birthday", NULL, "birthday", "profile.birthday", "date", NULL, "both"},
	 {"gender", NULL, "gender", "profile.gender", "enum", GENDERS, "both"},
	 {"housing_situation", NULL, "housing_situation",
	  "profile.housingSituation", "enum", HOUSING, "both"},
	 {"reachable", NULL, "reachable", "membership.reachable", "bool", NULL,
	  "both"},
	 {"groupable", NULL, "groupable", "membership.groupable", "bool", NULL,
	  "both"},
	 {"date_joined", NULL, "date_joined", "membership.date_joined",
	  "timestamp", NULL, "both"},
	 {"id", NULL, "id", "metadata.django_id", "int", NULL, "push"},
	 {"email", "contactinfo", "email", "profile.email", "text", NULL, "both"},
	 {"facebook", "contactinfo", "facebook", "profile.facebook", "text", NULL,
	  "both"},
	 {"phone", "contactinfo", "phone", "profile.phone", "phone", NULL,
	  "both"}};

/* Address fields where the table is flat. */
static const DefaultColumn flat_address[] =
	{{"street_address", "simpleaddress", "street_address", "address.street",
	  "text", NULL, "both"},
	 {"postal_code", "simpleaddress", "postal_code", "address.postal_code",
	  "text", NULL, "both"},
	 {"city", "simpleaddress", "city", "address.city", "text", NULL, "both"}};

/*
 * A computed field.  In its texts {l} is the link column; {c:name}, {t:name},
 * {s:name} are tables, qualified and quoted: of the app, of the app with the
 * model's name before it, of the schema; {n} is the order in which the newest
 * address comes first, where a member can have several.  $1 is the member's
 * id in body and the row's id in members.
 */
typedef struct DefaultDependency
{
	const char *table;	 /* NULL ends the list */
	const char *members; /* NULL: by the link column */
} DefaultDependency;

typedef struct DefaultComputed
{
	const char *field;
	const char *path;
	const char *type; /* of the result, and the codec */
	const char *body;
	DefaultDependency depends[6];
} DefaultComputed;

#define BY_ADDRESS_ROW " FROM {c:newlocaladdress} n"
#define BY_ADDRESS                                                            \
	BY_ADDRESS_ROW " JOIN {s:map_address} a ON a.id = n.address_id"
#define BY_STREET BY_ADDRESS " JOIN {s:map_street} s ON s.id = a.street_id"
#define NEWEST " WHERE n.{l} = $1{n} LIMIT 1"
#define ADDRESS_TABLES                                                        \
	{"{c:newlocaladdress}", NULL},                                            \
		{"{s:map_address}",                                                   \
		 "SELECT n.{l}" BY_ADDRESS_ROW " WHERE n.address_id = $1"},           \
	{                                                                         \
		"{s:map_street}", "SELECT n.{l}" BY_ADDRESS " WHERE a.street_id = $1" \
	}

static const DefaultComputed computed_names[] =
	{{"unions",
	  "membership.unions",
	  "text[]",
	  "SELECT COALESCE(array_agg(u.name::text ORDER BY u.name COLLATE \"C\"), "
	  "'{}')"
	  " FROM {c:unionmembership} l JOIN {c:union} u ON u.id = l.union_id"
	  " WHERE l.{l} = $1 AND u.name IS NOT NULL",
	  {{"{c:unionmembership}", NULL},
	   {"{c:union}",
		"SELECT l.{l} FROM {c:unionmembership} l WHERE l.union_id = $1"}}},
	 {"titles",
	  "membership.titles",
	  "text[]",
	  "SELECT COALESCE(array_agg(t.name::text ORDER BY t.name COLLATE \"C\"), "
	  "'{}')"
	  " FROM {t:title} l JOIN {c:title} t ON t.id = l.title_id"
	  " WHERE l.{l} = $1 AND t.name IS NOT NULL",
	  {{"{t:title}", NULL},
	   {"{c:title}", "SELECT l.{l} FROM {t:title} l WHERE l.title_id = $1"}}}};

static const DefaultComputed computed_address[] =
	{{"street_address",
	  "address.street",
	  "text",
	  "SELECT concat_ws(' ', s.name, NULLIF(concat(a.number, a.letter), "
	  "''))" BY_STREET NEWEST,
	  {ADDRESS_TABLES}},
	 {"postal_code",
	  "address.postal_code",
	  "text",
	  "SELECT p.code::text" BY_STREET
	  " JOIN {s:map_postalcode} p ON p.id = s.postal_code_id" NEWEST,
	  {ADDRESS_TABLES,
	   {"{s:map_postalcode}",
		"SELECT n.{l}" BY_STREET " WHERE s.postal_code_id = $1"}}},
	 {"city",
	  "address.city",
	  "text",
	  "SELECT m.name::text" BY_STREET
	  " JOIN {s:map_municipality} m ON m.id = s.municipality_id" NEWEST,
	  {ADDRESS_TABLES,
	   {"{s:map_municipality}",
		"SELECT n.{l}" BY_STREET " WHERE s.municipality_id = $1"}}}};

/* What sql_guarded calls to create a function. */
typedef struct Creation
{
	const Attach *attach;
	const char *name; /* qualified and quoted */
	const DefaultComputed *computed;
} Creation;

/* ----------------------------------------------------------------- names */

static char *
link_column(const Attach *attach)
{
	return psprintf("%s_id", attach->model);
}

/* Raw name of the table that kind and name stand for. */
static char *
table_name(const Attach *attach, char kind, const char *name)
{
	if (kind == 's')
		return pstrdup(name);
	return psprintf("%s%s%s", attach->prefix, kind == 't' ? attach->model : "",
					name);
}

/* Oid of a table named in the texts as {c:name}; InvalidOid if there is none. */
static Oid
find_table(const Attach *attach, const char *text)
{
	char *name = pnstrdup(text + 3, strlen(text) - 4);

	return get_relname_relid(table_name(attach, text[1], name),
							 get_namespace_oid(attach->schema, false));
}

/* A text with its {} filled in. */
static char *
expand(const Attach *attach, const char *text)
{
	StringInfoData out;
	const char *end;

	initStringInfo(&out);
	for (; *text; text++)
	{
		if (strncmp(text, "{l}", 3) == 0)
		{
			appendStringInfoString(&out,
								   quote_identifier(link_column(attach)));
			text += 2;
		}
		else if (strncmp(text, "{n}", 3) == 0)
		{
			if (OidIsValid(
					column_type(find_table(attach, "{c:newlocaladdress}"),
								"id")))
				appendStringInfoString(&out, " ORDER BY n.id DESC");
			text += 2;
		}
		else if (text[0] == '{' && text[1] != '}')
		{
			char *name;

			end = strchr(text, '}');
			name = table_name(attach, text[1],
							  pnstrdup(text + 3, end - text - 3));
			appendStringInfoString(&out,
								   quote_qualified_identifier(attach->schema,
															  name));
			text = end;
		}
		else
			appendStringInfoChar(&out, *text);
	}
	return out.data;
}

/* --------------------------------------------------------------- columns */

static void
map_column(Attach *attach, const DefaultColumn *def)
{
	MappingRow row = {0};
	char *object = psprintf("field %s", def->field);
	char *table = attach->table;

	row.field = def->field;
	row.relid = attach->relid;
	row.column = def->column ? def->column : attach->key_column;
	row.path = def->path;
	row.codec = def->codec;
	row.options = def->options;
	row.direction = def->direction;
	row.policy = "lww";
	if (def->table != NULL)
	{
		table = table_name(attach, 'c', def->table);
		row.link = link_column(attach);
		row.relid =
			get_relname_relid(table, get_namespace_oid(attach->schema, false));
		if (!OidIsValid(row.relid))
		{
			report_row(&attach->report, object, "skipped",
					   "there is no table %s", table);
			return;
		}
	}
	if (!OidIsValid(column_type(row.relid, row.column)) ||
		(row.link && !OidIsValid(column_type(row.relid, row.link))))
	{
		report_row(&attach->report, object, "skipped",
				   "table %s has no column %s", table,
				   OidIsValid(column_type(row.relid, row.column))
					   ? row.link
					   : row.column);
		return;
	}
	(void) mapping_store(&row);
	report_row(&attach->report, object, "created", "%s.%s, %s", table,
			   row.column, row.path);
}

/* -------------------------------------------------------------- computed */

static void
create_function(void *arg)
{
	Creation *creation = arg;
	const Attach *attach = creation->attach;

	run_ddl(attach->owner,
			psprintf("CREATE FUNCTION %s(%s) RETURNS %s LANGUAGE sql STABLE"
					 " SET search_path = pg_catalog, pg_temp AS %s",
					 creation->name, format_type_be(attach->id_typid),
					 creation->computed->type,
					 quote_literal_cstr(
						 expand(attach, creation->computed->body))));
}

static Oid
find_function(const Attach *attach, const char *name)
{
	Oid type = attach->id_typid;

	return LookupFuncName(list_make2(makeString(attach->schema),
									 makeString(pstrdup(name))),
						  1, &type, true);
}

static Oid
function_owner(Oid function)
{
	HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Oid owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	owner = ((Form_pg_proc) GETSTRUCT(tuple))->proowner;
	ReleaseSysCache(tuple);
	return owner;
}

/* Remember in ekksync.state that a function is ours to drop. */
static void
remember_function(Oid function)
{
	Oid type = TEXTOID;
	Datum value = CStringGetTextDatum(format_procedure_qualified(function));
	SqlScope scope;

	depend_on_extension(ProcedureRelationId, function);
	sql_enter(&scope, ekksync_owner_oid());
	sql_run("UPDATE ekksync.state SET created_functions ="
			" array_append(array_remove(created_functions, $1), $1)",
			1, &type, &value, NULL, false, 0);
	sql_leave(&scope);
}

static char *
function_name(const Attach *attach, const DefaultComputed *computed)
{
	return makeObjectName(attach->table, "ekksync", computed->field);
}

/*
 * The function of a computed field: the one that is there if the table's
 * owner has it, else a new one.  InvalidOid with *problem.
 */
static Oid
ensure_function(Attach *attach, const DefaultComputed *computed,
				char **problem)
{
	char *name = function_name(attach, computed);
	Oid function = find_function(attach, name);
	Creation creation;

	if (OidIsValid(function))
	{
		if (function_owner(function) != attach->owner)
			ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
							errmsg("function %s exists and does not belong to "
								   "the owner of table %s",
								   format_procedure_qualified(function),
								   attach->member_table),
							errhint("Drop or rename it.")));
		return function;
	}
	creation.attach = attach;
	creation.name = quote_qualified_identifier(attach->schema, name);
	creation.computed = computed;
	*problem = sql_guarded(create_function, &creation);
	if (*problem != NULL)
		return InvalidOid;
	CommandCounterIncrement();
	function = find_function(attach, name);
	remember_function(function);
	return function;
}

static void
map_computed(Attach *attach, const DefaultComputed *computed)
{
	const DefaultDependency *dependency;
	MappingRow row = {0};
	char *object = psprintf("field %s", computed->field);
	char *problem = NULL;
	Oid function;

	for (dependency = computed->depends; dependency->table; dependency++)
	{
		if (!OidIsValid(find_table(attach, dependency->table)))
		{
			report_row(&attach->report, object, "skipped",
					   "there is no table %s",
					   expand(attach, dependency->table));
			return;
		}
	}
	function = ensure_function(attach, computed, &problem);
	if (!OidIsValid(function))
	{
		report_row(&attach->report, object, "skipped", "%s", problem);
		return;
	}
	row.field = computed->field;
	row.path = computed->path;
	row.codec = computed->type;
	row.direction = "push";
	row.policy = "lww";
	row.compute = format_procedure_qualified(function);
	(void) mapping_store(&row);
	for (dependency = computed->depends; dependency->table; dependency++)
		dependency_store(computed->field,
						 find_table(attach, dependency->table),
						 dependency->members ? NULL : link_column(attach),
						 dependency->members
							 ? expand(attach, dependency->members)
							 : NULL);
	report_row(&attach->report, object, "created", "%s, %s", row.compute,
			   row.path);
}

void
defaults_map(Attach *attach)
{
	int i;

	for (i = 0; i < (int) lengthof(default_columns); i++)
		map_column(attach, &default_columns[i]);
	for (i = 0; i < (int) lengthof(computed_names); i++)
		map_computed(attach, &computed_names[i]);
	if (OidIsValid(find_table(attach, "{c:simpleaddress}")))
	{
		for (i = 0; i < (int) lengthof(flat_address); i++)
			map_column(attach, &flat_address[i]);
		return;
	}
	for (i = 0; i < (int) lengthof(computed_address); i++)
		map_computed(attach, &computed_address[i]);
}

/* ------------------------------------------------------------ mend, drop */

/* Signatures in ekksync.state.created_functions: List of texts. */
static List *
created_functions(void)
{
	MemoryContext caller = CurrentMemoryContext;
	List *signatures = NIL;
	SqlScope scope;
	uint64 i;

	sql_enter(&scope, ekksync_owner_oid());
	sql_run("SELECT unnest(created_functions) FROM ekksync.state", 0, NULL,
			NULL, NULL, false, 0);
	MemoryContextSwitchTo(caller);
	for (i = 0; i < SPI_processed; i++)
		signatures = lappend(signatures, sql_get_text(i, 1, caller));
	sql_leave(&scope);
	return signatures;
}

static void
mend_computed(Attach *attach, const DefaultComputed *computed,
			  List *signatures)
{
	char *name = quote_qualified_identifier(attach->schema,
											function_name(attach, computed));
	char *signature =
		psprintf("%s(%s)", name, format_type_be(attach->id_typid));
	char *problem = NULL;
	ListCell *cell;

	foreach (cell, signatures)
	{
		if (strcmp(lfirst(cell), signature) == 0 &&
			!OidIsValid(
				find_function(attach, function_name(attach, computed))))
		{
			bool made =
				OidIsValid(ensure_function(attach, computed, &problem));

			report_row(&attach->report, psprintf("function %s", signature),
					   made ? "mended" : "skipped", "%s",
					   made ? "it was missing" : problem);
		}
	}
}

void
defaults_mend(Attach *attach)
{
	List *signatures = created_functions();
	int i;

	for (i = 0; i < (int) lengthof(computed_names); i++)
		mend_computed(attach, &computed_names[i], signatures);
	for (i = 0; i < (int) lengthof(computed_address); i++)
		mend_computed(attach, &computed_address[i], signatures);
}

/* Oid of a function by its signature, InvalidOid if it is gone. */
static Oid
function_by_signature(const char *signature)
{
	Oid type = TEXTOID;
	Datum value = CStringGetTextDatum(signature);
	SqlScope scope;
	Datum function;
	bool isnull;

	sql_enter(&scope, ekksync_owner_oid());
	sql_run("SELECT to_regprocedure($1)::oid", 1, &type, &value, NULL, false,
			1);
	function = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
							 &isnull);
	sql_leave(&scope);
	return isnull ? InvalidOid : DatumGetObjectId(function);
}

void
defaults_drop(Report *report)
{
	List *signatures = created_functions();
	ListCell *cell;

	foreach (cell, signatures)
	{
		char *signature = lfirst(cell);
		Oid function = function_by_signature(signature);
		bool mine;

		if (!OidIsValid(function))
			continue;
		mine = has_privs_of_role(GetUserId(), function_owner(function));
		if (mine)
			run_ddl(function_owner(function),
					psprintf("DROP FUNCTION %s", signature));
		report_row(report, psprintf("function %s", signature),
				   mine ? "dropped" : "kept", "%s",
				   mine ? "" : "it belongs to another role");
	}
}
