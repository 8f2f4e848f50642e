/*
 * look.c
 *		SQL functions that show: status, the queue, a document.
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
#include "firestore.h"
#include "launcher.h"
#include "look.h"
#include "mapping.h"
#include "scope.h"
#include "settings.h"
#include "sqlvalue.h"
#include "srf.h"

#define MAX_COLUMNS 16

PG_FUNCTION_INFO_V1(ekksync_status);
PG_FUNCTION_INFO_V1(ekksync_doc);
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

/* Add what a query over the queue returns, as its owner, to a result set. */
static void
return_queue(FunctionCallInfo fcinfo, const char *format, int nargs,
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

	return_queue(fcinfo,
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
	return_queue(fcinfo,
				 "SELECT sync_status::text, count(*), min(created_at), "
				 "max(created_at) FROM %s GROUP BY 1 ORDER BY 1",
				 0, NULL, NULL, NULL);
	return (Datum) 0;
}

/* ---- status ---- */

typedef struct Status
{
	int64 pending;
	int64 synced;
	int64 failed;
	TimestampTz oldest;
	int64 first_contact;
	int64 run;
	TimestampTz run_at;
	char *run_status;
	char *run_error;
	bool paused;
	char *paused_reason;
	int64 entries_failed;
	int64 skew; /* of the last run, microseconds; 0 if unknown */
	int64 skew_error;
} Status;

static void
read_status(const Mapping *map, Status *s)
{
	MemoryContext cxt = CurrentMemoryContext;
	SqlScope scope;

	sql_enter(&scope, map->queue_owner);
	sql_run(psprintf("SELECT count(*) FILTER (WHERE sync_status = 'pending'), "
					 "count(*) FILTER (WHERE sync_status = 'synced'), "
					 "count(*) FILTER (WHERE sync_status = 'failed'), "
					 "min(created_at) FILTER (WHERE sync_status = 'pending') "
					 "FROM %s",
					 map->queue_table),
			0, NULL, NULL, NULL, true, 0);
	s->pending = sql_get_int8(0, 1);
	s->synced = sql_get_int8(0, 2);
	s->failed = sql_get_int8(0, 3);
	s->oldest = sql_get_time(0, 4);
	sql_leave(&scope);

	sql_enter(&scope, ekksync_owner_oid());
	sql_run(
		"SELECT s.paused, s.paused_reason, r.id, r.started_at, r.status, "
		"r.error, (SELECT count(*) FROM ekksync.member WHERE first_contact), "
		"(SELECT count(*) FROM ekksync.inbox WHERE error_message IS NOT "
		"NULL), (extract(epoch FROM r.skew) * 1000000)::int8, "
		"(extract(epoch FROM r.skew_error) * 1000000)::int8 "
		"FROM ekksync.state s LEFT JOIN LATERAL (SELECT * FROM ekksync.run "
		"WHERE NOT dry_run OR mode = 'observe' ORDER BY id DESC LIMIT 1) r "
		"ON true",
		0, NULL, NULL, NULL, true, 0);
	if (SPI_processed > 0)
	{
		s->paused = sql_get_bool(0, 1);
		s->paused_reason = sql_get_text(0, 2, cxt);
		s->run = sql_get_int8(0, 3);
		s->run_at = sql_get_time(0, 4);
		s->run_status = sql_get_text(0, 5, cxt);
		s->run_error = sql_get_text(0, 6, cxt);
		s->first_contact = sql_get_int8(0, 7);
		s->entries_failed = sql_get_int8(0, 8);
		s->skew = sql_get_int8(0, 9);
		s->skew_error = sql_get_int8(0, 10);
	}
	sql_leave(&scope);
}

char *
clock_text(int64 skew)
{
	return psprintf("%.1f s %s Firestore's",
					(skew < 0 ? -skew : skew) / (double) USECS_PER_SEC,
					skew < 0 ? "ahead of" : "behind");
}

/* ok, observe, degraded, paused or detached, with the reason. */
static const char *
judge_health(const Mapping *map, const Status *s, char **reason)
{
	*reason = NULL;
	if (map == NULL)
	{
		*reason = "nothing is attached";
		return "detached";
	}
	if (s->paused)
	{
		*reason = s->paused_reason;
		return "paused";
	}
	if (map->problem != NULL)
		*reason = psprintf("the mapping cannot be used: %s", map->problem);
	else if (s->run_status != NULL &&
			 (strcmp(s->run_status, "failed") == 0 ||
			  strcmp(s->run_status, "interrupted") == 0))
		*reason =
			psprintf("the last run %s: %s",
					 strcmp(s->run_status, "failed") == 0 ? "failed"
														  : "was interrupted",
					 s->run_error ? s->run_error : "its worker ended");
	else if (settings_clock_wrong(s->skew, s->skew_error))
		*reason = psprintf(
			"at the last run this server's clock was %s; fields changed on "
			"both sides wait until it is right",
			clock_text(s->skew));
	else if (s->failed + s->entries_failed > 0)
		*reason = psprintf("failed changes, see ekksync_failed: " INT64_FORMAT
						   " of Django, " INT64_FORMAT " of Firestore",
						   s->failed, s->entries_failed);
	if (*reason != NULL)
		return "degraded";
	if (settings.mode != MODE_OBSERVE)
	{
		char *hint;

		*reason = launcher_silent(&hint);
		return "ok";
	}
	*reason = "ekksync.mode is observe: runs report, and write nothing";
	return "observe";
}

static Datum
text_or_null(const char *s, bool *isnull)
{
	*isnull = s == NULL;
	return s == NULL ? (Datum) 0 : CStringGetTextDatum(s);
}

/*
 * ekksync_status()
 */
Datum
ekksync_status(PG_FUNCTION_ARGS)
{
	const Mapping *map = mapping_get();
	Status s = {0};
	LauncherView view;
	TupleDesc desc;
	Datum values[12];
	bool isnull[12] = {false};
	char *reason;
	const char *health;

	if (map != NULL)
		read_status(map, &s);
	health = judge_health(map, &s, &reason);
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = Int64GetDatum(s.pending);
	values[1] = Int64GetDatum(s.synced);
	values[2] = Int64GetDatum(s.failed);
	values[3] = TimestampTzGetDatum(s.oldest);
	isnull[3] = s.oldest == 0;
	values[4] = Int64GetDatum(s.first_contact);
	values[5] = Int64GetDatum(s.run);
	values[6] = TimestampTzGetDatum(s.run_at);
	isnull[5] = isnull[6] = s.run == 0;
	values[7] = text_or_null(s.run_status, &isnull[7]);
	launcher_view(&view);
	values[8] = TimestampTzGetDatum(view.next);
	isnull[8] = view.next == 0 || s.paused; /* nothing is scheduled */
	values[9] = BoolGetDatum(s.paused);
	values[10] = CStringGetTextDatum(health);
	values[11] = text_or_null(reason, &isnull[11]);
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
