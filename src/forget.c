/*
 * forget.c
 *		ekksync_forget: erases a person who is no member any more.
 *
 * All that names the person goes in the caller's transaction; the documents
 * in Firestore go last, so that nothing is undone there when something fails
 * here.  A hash of the kennitala stays, with a salt that is in no document (but
 * in dumps of the database), by which an entry that comes late is known and
 * dropped: see store_stage.
 *
 * May not know: how a run works.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/builtins.h"

#include "edit.h"
#include "look.h"
#include "queue.h"
#include "scope.h"
#include "settings.h"
#include "sqlvalue.h"
#include "srf.h"
#include "store.h"
#include "sync.h"

PG_FUNCTION_INFO_V1(ekksync_forget);

/* Entries of one person that are read at a time. */
#define ENTRY_PAGE 500

/*
 * A scan that goes on another day stands at the name of a document, which may
 * be the person's: it is set back to the first of the same birthday.  So much
 * tells nobody.
 */
#define SCANS_WITHOUT_KEY                                                     \
	"UPDATE ekksync.state SET "                                               \
	"scan_after = regexp_replace(scan_after, $1 || '$', left($1, 6)), "       \
	"changed_after = regexp_replace(changed_after, $1 || '$', "               \
	"left($1, 6)), stage_after = CASE WHEN strpos(stage_after, $1) = 0 "      \
	"AND strpos(stage_after, $3) = 0 THEN stage_after END"

typedef struct Forget
{
	const Mapping *map;
	char *key;
	char *hyphened; /* the same */
	Tuplestorestate *store;
	TupleDesc desc;
} Forget;

static void
put(const Forget *forget, const char *what, int64 erased)
{
	Datum values[] = {CStringGetTextDatum(what), Int64GetDatum(erased)};
	bool isnull[] = {false, false};

	tuplestore_putvalues(forget->store, forget->desc, values, isnull);
}

/* ---- what stands in the way ---- */

/*
 * What has gone from Firestore does not come back with a rollback: the deletion
 * of the member might.
 */
static void
check_transaction(void)
{
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("cannot erase a person in a transaction that has "
						"written"),
				 errdetail("What is erased in Firestore stays erased, should "
						   "the transaction not commit."),
				 errhint("Commit first, and erase each person in a "
						 "transaction of its own.")));
}

/* A row counts with or without the hyphen, and whatever the filter says. */
static void
check_row(const Forget *forget)
{
	Oid types[] = {TEXTOID};
	Datum values[] = {sql_text(forget->key)};
	SqlScope scope;
	bool found;

	sql_enter(&scope, forget->map->owner);
	sql_run(psprintf("SELECT FROM %s WHERE replace(%s::text, '-', '') = $1",
					 forget->map->member_table,
					 quote_identifier(forget->map->key_column)),
			1, types, values, NULL, true, 1);
	found = SPI_processed > 0;
	sql_leave(&scope);
	if (found)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("the person is still a member"),
						errdetail("There is a row with this kennitala in %s.",
								  forget->map->member_table),
						errhint("Delete the member first.")));
}

/* Another copy of the database must not erase what it does not own. */
static void
check_state(void)
{
	StoreState state;

	if (!store_state(&state, CurrentMemoryContext))
		return;
	if (state.paused)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("ekksync is paused"),
				 state.paused_reason
					 ? errdetail("Reason: %s", state.paused_reason)
					 : 0,
				 errhint("Call ekksync_resume() to allow runs again.")));
	if (settings.mode == MODE_OBSERVE)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("nothing is written while ekksync.mode is "
							   "observe")));
	if (state.project != NULL &&
		(strcmp(state.project, settings.project) != 0 ||
		 strcmp(state.database_id, settings.database_id) != 0 ||
		 state.system_identifier != (int64) GetSystemIdentifier()))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the Firestore project, its database or the database "
						"cluster is not the one of the last run"),
				 errhint("A run pauses for that, and says why.")));
}

static void
check_no_run(void)
{
	if (!sync_lock_xact())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("a run is in progress"),
				 errdetail("It may be working on this person."),
				 errhint("Try again when it is over: see ekksync_runs.")));
}

/* A write that comes late would make the document again. */
static void
check_in_flight(const Forget *forget)
{
	Oid types[] = {TEXTOID};
	Datum values[] = {sql_text(forget->key)};
	SqlScope scope;
	bool found;

	store_sql(&scope,
			  "SELECT FROM ekksync.member WHERE key = $1 "
			  "AND in_flight <> '[]'",
			  1, types, values, NULL);
	found = SPI_processed > 0;
	sql_leave(&scope);
	if (found)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("a write to the person's document may be under way"),
				 errdetail("A run has sent it and got no answer."),
				 errhint("Call ekksync_run() first; if that does not help, "
						 "try again in an hour.")));
}

/* ---- here ---- */

static void
erase_from(const Forget *forget, const char *what, const char *query)
{
	Oid types[] = {TEXTOID, TEXTOID, TEXTOID, TEXTOID};
	Datum values[] = {sql_text(forget->key), sql_text(mask_key(forget->key)),
					  sql_text(forget->hyphened),
					  sql_text(mask_message(forget->hyphened))};
	SqlScope scope;
	int64 erased;

	store_sql(&scope, query, lengthof(types), types, values, NULL);
	erased = (int64) SPI_processed;
	sql_leave(&scope);
	if (what != NULL)
		put(forget, what, erased);
}

/*
 * The queue first: that rows of it are deleted may be noted as done by hand
 * (byhand.c).
 */
static void
erase_here(const Forget *forget)
{
	put(forget, "queue rows", queue_erase(forget->map, forget->key));
	erase_from(forget, "entries",
			   "DELETE FROM ekksync.inbox WHERE key = $1 "
			   "OR (key IS NULL AND (strpos(changes::text, $1) > 0 "
			   "OR strpos(changes::text, $3) > 0))");
	erase_from(forget, "conflicts",
			   "DELETE FROM ekksync.conflict WHERE key = $1");
	erase_from(forget, "change log",
			   "DELETE FROM ekksync.change_log WHERE key = $1");
	erase_from(forget, "base", "DELETE FROM ekksync.member WHERE key = $1");
	erase_from(forget, NULL, "DELETE FROM ekksync.stranger WHERE key = $1");
	erase_from(forget, NULL, "DELETE FROM ekksync.touched WHERE key = $1");
	erase_from(forget, NULL, "DELETE FROM ekksync.plan WHERE key = $1");
	erase_from(forget, NULL, "DELETE FROM ekksync.diff WHERE key = $1");
	erase_from(forget, NULL, "DELETE FROM ekksync.backlog WHERE key = $1");
	erase_from(
		forget, NULL,
		"UPDATE ekksync.run SET error = replace(replace(error, $1, $2), "
		"$3, $4) WHERE strpos(error, $1) > 0 OR strpos(error, $3) > 0");
	erase_from(forget, NULL, SCANS_WITHOUT_KEY);
	erase_from(forget, NULL,
			   "WITH s AS (SELECT coalesce((SELECT salt FROM "
			   "ekksync.forgotten LIMIT 1), gen_random_uuid()) AS salt) "
			   "INSERT INTO ekksync.forgotten AS f (salt, hash) "
			   "SELECT salt, sha256(convert_to(salt::text || $1, 'UTF8')) "
			   "FROM s ON CONFLICT (hash) DO UPDATE SET at = excluded.at");
}

/* ---- in Firestore ---- */

pg_noreturn static void
throw_remote(const FsError *err)
{
	ereport(ERROR, (errcode(ERRCODE_CONNECTION_FAILURE),
					errmsg("could not erase the person in Firestore: %s",
						   err->message),
					errdetail("Nothing was erased here."),
					errhint("Try again: what has gone in Firestore is not "
							"missed.")));
}

static void
delete_documents(FsClient *client, FsWrite *writes, int n)
{
	int i;

	fs_write(client, writes, n);
	for (i = 0; i < n; i++)
		if (writes[i].error.class != FS_OK)
			throw_remote(&writes[i].error);
}

/* Entries whose field has this value, whatever became of them. */
static int64
erase_entries(FsClient *client, const char *field, const char *value)
{
	FsFilter filter = {field, "EQUAL",
					   psprintf("{\"stringValue\":\"%s\"}", value)};
	FsQuery query = {0};
	int64 erased = 0;

	query.collection = "sync_queue";
	query.filters = &filter;
	query.nfilters = 1;
	query.limit = ENTRY_PAGE;
	query.cxt = CurrentMemoryContext;
	while (!query.done)
	{
		FsWrite *writes;
		FsDoc *docs;
		FsError err;
		int n;
		int i;

		if (!fs_query(client, &query, &docs, &n, NULL, &err))
			throw_remote(&err);
		writes = palloc0(sizeof(FsWrite) * (n + 1));
		for (i = 0; i < n; i++)
		{
			writes[i].collection = "sync_queue";
			writes[i].id = docs[i].id;
			writes[i].delete = true;
		}
		delete_documents(client, writes, n);
		erased += n;
	}
	return erased;
}

static void
erase_there(const Forget *forget)
{
	FsClient *client = look_client(CurrentMemoryContext);
	char *key = forget->key;
	char *hyphened = forget->hyphened;
	FsWrite write = {0};
	FsDoc doc;
	FsError err;
	int64 entries;

	if (!fs_get(client, "members", &key, 1, NULL, 0, &doc, NULL, &err))
		throw_remote(&err);
	write.collection = "members";
	write.id = key;
	write.delete = true;
	if (!doc.missing)
		delete_documents(client, &write, 1);
	entries = erase_entries(client, "docId", key);
	entries += erase_entries(client, "kennitala", key);
	entries += erase_entries(client, "docId", hyphened);
	entries += erase_entries(client, "kennitala", hyphened);
	put(forget, "documents in Firestore", !doc.missing);
	put(forget, "entries in Firestore", entries);
}

/*
 * ekksync_forget(key)
 *
 * Waits for Firestore inside the caller's statement, unlike a run.
 */
Datum
ekksync_forget(PG_FUNCTION_ARGS)
{
	Forget forget = {0};

	PreventCommandIfReadOnly("ekksync_forget()");
	check_transaction();
	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("key must not be null")));
	forget.key = look_key(PG_GETARG_TEXT_PP(0));
	forget.hyphened = psprintf("%.6s-%s", forget.key, forget.key + 6);
	forget.store = srf_begin(fcinfo, &forget.desc);
	forget.map = edit_mapping();
	edit_require_role(forget.map, "ekksync_forget");
	check_state();
	check_no_run();
	check_row(&forget);
	check_in_flight(&forget);
	erase_here(&forget);
	erase_there(&forget);
	return (Datum) 0;
}
