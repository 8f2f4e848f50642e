/*
 * look.c
 *		SQL functions that show: status, the queue, a document, a member.
 *
 * May not know: how a run works.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "auth.h"
#include "edit.h"
#include "firestore.h"
#include "health.h"
#include "launcher.h"
#include "look.h"
#include "mapping.h"
#include "rows.h"
#include "scope.h"
#include "settings.h"
#include "sqlvalue.h"
#include "srf.h"
#include "store.h"

#define MAX_COLUMNS 16

PG_FUNCTION_INFO_V1(ekksync_status);
PG_FUNCTION_INFO_V1(ekksync_doc);
PG_FUNCTION_INFO_V1(ekksync_member);
PG_FUNCTION_INFO_V1(ekksync_queue_rows);
PG_FUNCTION_INFO_V1(ekksync_queue_counts);

/* ---- the queue ---- */

void
look_check_queue(const Mapping *map)
{
	AclResult acl =
		pg_class_aclcheck(map->queue_relid, GetUserId(), ACL_SELECT);

	if (acl != ACLCHECK_OK)
		aclcheck_error(acl, OBJECT_TABLE, get_rel_name(map->queue_relid));
}

void
look_return_queue(FunctionCallInfo fcinfo, const char *format, int nargs,
				  Oid *types, Datum *args, const char *nulls)
{
	const Mapping *map = mapping_get();
	TupleDesc desc;
	Tuplestorestate *store = srf_begin(fcinfo, &desc);
	SqlScope scope;
	char *query;
	uint64 i;

	if (map == NULL || !OidIsValid(map->queue_relid))
		return;
	look_check_queue(map);
	query = psprintf(format, map->queue_table);
	sql_enter(&scope, map->queue_owner);
	sql_run(query, nargs, types, args, nulls, true, 0);
	for (i = 0; i < SPI_processed; i++)
	{
		Datum values[MAX_COLUMNS];
		bool isnull[MAX_COLUMNS];

		heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, values,
						  isnull);
		tuplestore_putvalues(store, desc, values, isnull);
	}
	sql_leave(&scope);
}

/*
 * ekksync.queue_rows(status)
 */
Datum
ekksync_queue_rows(PG_FUNCTION_ARGS)
{
	Oid types[] = {TEXTOID};
	Datum args[] = {PG_ARGISNULL(0) ? (Datum) 0 : PG_GETARG_DATUM(0)};

	look_return_queue(
		fcinfo,
		"SELECT id::int8, member_id::int8, ssn::text, action::text, "
		"fields_changed, created_at, synced_at, sync_status::text, "
		"error_message, retry_count FROM %s "
		"WHERE $1 IS NULL OR sync_status = $1 ORDER BY id",
		1, types, args, PG_ARGISNULL(0) ? "n" : " ");
	return (Datum) 0;
}

/*
 * ekksync.queue_counts()
 */
Datum
ekksync_queue_counts(PG_FUNCTION_ARGS)
{
	look_return_queue(fcinfo,
					  "SELECT sync_status::text, count(*), min(created_at), "
					  "max(created_at) FROM %s GROUP BY 1 ORDER BY 1",
					  0, NULL, NULL, NULL);
	return (Datum) 0;
}

/* ---- status ---- */

/* So many synced rows are counted; of more it is known about how many. */
#define SYNCED_COUNTED 100000

/*
 * How many rows of the queue are done: all others are in Health.  Who watches
 * asks often, and the rows may be millions: beyond SYNCED_COUNTED it is what the
 * last VACUUM or ANALYZE has seen, without the others.
 */
static int64
count_synced(const Mapping *map, const Health *h)
{
	Oid types[] = {OIDOID, INT8OID, INT8OID};
	Datum values[] = {ObjectIdGetDatum(map->queue_relid),
					  Int64GetDatum(h->pending + h->failed),
					  Int64GetDatum(SYNCED_COUNTED)};
	SqlScope scope;
	int64 n;

	sql_enter(&scope, map->queue_owner);
	sql_run(psprintf("SELECT CASE WHEN n < $3 THEN n ELSE greatest(n, "
					 "(SELECT reltuples::int8 FROM pg_class WHERE oid = $1) "
					 "- $2) END FROM (SELECT count(*) AS n FROM (SELECT FROM "
					 "%s WHERE sync_status = 'synced' LIMIT $3) r) c",
					 map->queue_table),
			lengthof(types), types, values, NULL, true, 0);
	n = sql_get_int8(0, 1);
	sql_leave(&scope);
	return n;
}

char *
clock_text(int64 skew)
{
	return psprintf("%.1f s %s Firestore's",
					(skew < 0 ? -skew : skew) / (double) USECS_PER_SEC,
					skew < 0 ? "ahead of" : "behind");
}

static Datum
text_or_null(const char *s, bool *isnull)
{
	*isnull = s == NULL;
	return s == NULL ? (Datum) 0 : CStringGetTextDatum(s);
}

/* What is wrong, and why no run will come by itself; NULL: all is well. */
static char *
reason_of(const Health *h)
{
	char *reason = health_text(h);
	char *silent;
	char *hint;

	if (h->paused || strcmp(h->state, "detached") == 0)
		return reason;
	silent = launcher_silent(&hint);
	if (reason == NULL || silent == NULL)
		return reason != NULL ? reason : silent;
	return psprintf("%s; %s", reason, silent);
}

static Datum
words_of(const Health *h)
{
	List *list = health_words(h);
	char **words = palloc(sizeof(char *) * (list_length(list) + 1));
	int i;

	for (i = 0; i < list_length(list); i++)
		words[i] = list_nth(list, i);
	return sql_text_array(words, list_length(list));
}

/*
 * ekksync_status()
 */
Datum
ekksync_status(PG_FUNCTION_ARGS)
{
	const Mapping *map = mapping_get();
	LauncherView view;
	TupleDesc desc;
	Datum values[13];
	bool isnull[13] = {false};
	Health h;

	health_judge(&h, map);
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = Int64GetDatum(h.pending);
	values[1] = Int64GetDatum(map != NULL && map->queue_table != NULL &&
									  map->queue_lacks == NULL
								  ? count_synced(map, &h)
								  : 0);
	values[2] = Int64GetDatum(h.failed);
	values[3] = TimestampTzGetDatum(h.oldest);
	isnull[3] = h.oldest == 0;
	values[4] = Int64GetDatum(h.first_contact);
	values[5] = Int64GetDatum(h.run.id);
	values[6] = TimestampTzGetDatum(h.run.started_at);
	isnull[5] = isnull[6] = h.run.id == 0;
	values[7] = text_or_null(h.run.status, &isnull[7]);
	launcher_view(&view);
	values[8] = TimestampTzGetDatum(view.next);
	isnull[8] = view.next == 0 || h.paused; /* nothing is scheduled */
	values[9] = BoolGetDatum(h.paused);
	values[10] = CStringGetTextDatum(h.state);
	values[11] = text_or_null(reason_of(&h), &isnull[11]);
	values[12] = words_of(&h);
	PG_RETURN_DATUM(HeapTupleGetDatum(
		heap_form_tuple(BlessTupleDesc(desc), values, isnull)));
}

/* ---- a document ---- */

FsClient *
look_client(MemoryContext cxt)
{
	FsConfig config = {0};

	if (settings.project == NULL || settings.project[0] == '\0')
		ereport(
			ERROR,
			(errcode(ERRCODE_CONFIG_FILE_ERROR),
			 errmsg("no Firestore project is set"),
			 errhint(
				 "Set it for the database, for example ALTER DATABASE ... SET "
				 "ekksync.project = 'my-project', and connect anew.")));
	config.project = settings.project;
	config.database_id = settings.database_id;
	config.emulator_host = settings_emulator_host();
	config.connect_timeout = settings.connect_timeout;
	config.request_timeout = settings.request_timeout;
	config.max_retries = 1;
	config.max_writes_per_second = settings.max_writes_per_second;
	config.token = auth_token;
	return fs_open(cxt, &config);
}

/* A document's fields as plain JSON. */
static char *
plain_fields(const FsDoc *doc)
{
	const cJSON *child;
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfoChar(&buf, '{');
	cJSON_ArrayForEach (child, doc->fields)
	{
		SyncError err = {0};

		if (buf.len > 1)
			appendStringInfoChar(&buf, ',');
		escape_json(&buf, child->string);
		appendStringInfoChar(&buf, ':');
		if (!value_to_plain(child, &buf, &err))
			ereport(ERROR,
					(errcode(err.sqlstate),
					 errmsg("could not show field \"%s\" of the document: %s",
							child->string, err.message)));
	}
	appendStringInfoChar(&buf, '}');
	return buf.data;
}

char *
look_key(const text *arg)
{
	char *key = text_to_cstring(arg);

	if (strlen(key) == 11 && key[6] == '-')
		memmove(key + 6, key + 7, 5);
	if (strlen(key) != 10 || strspn(key, "0123456789") != 10)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("not a kennitala"),
						errdetail("A kennitala has ten digits, with or "
								  "without a hyphen after the sixth.")));
	return key;
}

/*
 * ekksync_doc(key)
 *
 * Waits for Firestore inside the caller's statement, unlike a run.
 */
Datum
ekksync_doc(PG_FUNCTION_ARGS)
{
	char *key = look_key(PG_GETARG_TEXT_PP(0));
	FsClient *client;
	FsDoc doc = {0};
	FsError err;

	client = look_client(CurrentMemoryContext);
	if (!fs_get(client, "members", &key, 1, NULL, -1, &doc, NULL, &err))
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_EXCEPTION),
				 errmsg("could not read the document: %s", err.message)));
	if (doc.missing)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(
		DirectFunctionCall1(jsonb_in, CStringGetDatum(plain_fields(&doc))));
}

/* ---- a member ---- */

/* Error 42501 unless the caller may see what the mapping shows. */
static void
check_tables(const Mapping *map)
{
	int f;

	for (f = -1; f < map->nfields; f++)
	{
		Oid relid = f < 0 ? map->member_relid : map->fields[f].relid;
		AclResult acl;

		if (!OidIsValid(relid))
			continue;
		acl = pg_class_aclcheck(relid, GetUserId(), ACL_SELECT);
		if (acl != ACLCHECK_OK)
			aclcheck_error(acl, OBJECT_TABLE, get_rel_name(relid));
	}
}

/* The document that the mapping makes of a member that was read. */
static char *
plain_member(const Mapping *map, const Member *m)
{
	FsFieldValue *values = palloc(sizeof(FsFieldValue) * (map->nfields + 1));
	FsDoc doc = {0};
	StringInfoData buf;
	int n = 0;
	int f;

	for (f = 0; f < map->nfields; f++)
	{
		if (m->local[f] == NULL)
			continue;
		initStringInfo(&buf);
		if (!value_encode(&map->fields[f].codec, m->local[f], &buf, NULL))
			continue;
		values[n].path = &map->fields[f].path;
		values[n++].value = buf.data;
	}
	initStringInfo(&buf);
	fs_append_fields(&buf, values, n);
	doc.fields = store_json(buf.data, CurrentMemoryContext);
	return plain_fields(&doc);
}

/*
 * ekksync_member(key)
 */
Datum
ekksync_member(PG_FUNCTION_ARGS)
{
	const Mapping *map = edit_mapping();
	Member member = {.key = look_key(PG_GETARG_TEXT_PP(0))};
	Member *m = &member;

	check_tables(map);
	rows_read(map, &m, 1, CurrentMemoryContext);
	if (m->nrows == 0)
		PG_RETURN_NULL();
	if (m->nrows > 1)
		ereport(ERROR, (errcode(ERRCODE_CARDINALITY_VIOLATION),
						errmsg("kennitala is held by %d rows", m->nrows)));
	PG_RETURN_DATUM(
		DirectFunctionCall1(jsonb_in, CStringGetDatum(plain_member(map, m))));
}
