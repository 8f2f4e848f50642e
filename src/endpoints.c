/*
 * endpoints.c
 *		SQL functions over the queue for the application's endpoints and its
 *		admin: what is pending; rows that are settled, tried again, removed.
 *
 * Rows are changed as the caller, with the caller's rights on the table, and
 * as by anybody's own UPDATE or DELETE: the triggers of byhand.c see to it
 * that the next run looks whether anything is left to do.
 *
 * May not know: Firestore, how a run works.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "edit.h"
#include "look.h"
#include "scope.h"
#include "sqlvalue.h"
#include "srf.h"
#include "store.h"

PG_FUNCTION_INFO_V1(ekksync_changes);
PG_FUNCTION_INFO_V1(ekksync_mark_synced);
PG_FUNCTION_INFO_V1(ekksync_retry);
PG_FUNCTION_INFO_V1(ekksync_clear);

/*
 * Run a statement over the queue, whose name is %1$s in it, as the caller: of
 * how many rows it was.  Rows are locked in the order of their ids, so that
 * two callers do not wait for each other.
 */
static int64
change_queue(const Mapping *map, const char *format, Oid type, Datum value)
{
	SqlScope scope;
	int64 n;

	sql_enter(&scope, GetUserId());
	sql_run(psprintf(format, map->queue_table), type != InvalidOid ? 1 : 0,
			&type, &value, NULL, false, 0);
	n = (int64) SPI_processed;
	sql_leave(&scope);
	return n;
}

/*
 * ekksync_changes(since, max)
 *
 * What is pending is pending, whatever its age: since says nothing.
 */
Datum
ekksync_changes(PG_FUNCTION_ARGS)
{
	Oid types[] = {INT4OID};
	Datum args[] = {PG_ARGISNULL(1) ? (Datum) 0 : PG_GETARG_DATUM(1)};

	if (!PG_ARGISNULL(1) && PG_GETARG_INT32(1) < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid number of rows: %d", PG_GETARG_INT32(1)),
				 errdetail("It must be at least 1."),
				 errhint("Without it, all rows are returned.")));
	(void) edit_mapping();
	look_return_queue(fcinfo,
					  "SELECT id::int8, member_id::int8, ssn::text, "
					  "action::text, fields_changed, created_at FROM %s "
					  "WHERE sync_status = 'pending' "
					  "ORDER BY created_at, id LIMIT $1",
					  1, types, args, PG_ARGISNULL(1) ? "n" : " ");
	return (Datum) 0;
}

/*
 * ekksync_mark_synced(ids)
 */
Datum
ekksync_mark_synced(PG_FUNCTION_ARGS)
{
	ArrayType *ids = PG_ARGISNULL(0) ? NULL : PG_GETARG_ARRAYTYPE_P(0);

	PreventCommandIfReadOnly("ekksync_mark_synced()");
	if (ids == NULL || ArrayGetNItems(ARR_NDIM(ids), ARR_DIMS(ids)) == 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("no ids are given"),
						errhint("ekksync_changes() has those of the rows that "
								"are pending.")));
	PG_RETURN_INT64(change_queue(
		edit_mapping(),
		"WITH mine AS (SELECT id FROM %1$s WHERE id = ANY ($1) "
		"AND sync_status || '' = 'pending' ORDER BY id FOR NO KEY UPDATE) "
		"UPDATE %1$s AS q SET sync_status = 'synced', error_message = '', "
		"synced_at = clock_timestamp() FROM mine WHERE q.id = mine.id",
		INT8ARRAYOID, PointerGetDatum(ids)));
}

/*
 * ekksync_retry(ids)
 *
 * Without ids, entries of Firestore that failed as well: those are the
 * extension's own, and are set free when the caller may change the queue.
 */
Datum
ekksync_retry(PG_FUNCTION_ARGS)
{
	static const char *const some =
		"WITH mine AS (SELECT id FROM %1$s WHERE id = ANY ($1) "
		"AND sync_status || '' = 'failed' ORDER BY id FOR NO KEY UPDATE) "
		"UPDATE %1$s AS q SET sync_status = 'pending', error_message = '', "
		"synced_at = NULL FROM mine WHERE q.id = mine.id";
	static const char *const all =
		"WITH mine AS (SELECT id FROM %1$s WHERE sync_status = 'failed' "
		"ORDER BY id FOR NO KEY UPDATE) "
		"UPDATE %1$s AS q SET sync_status = 'pending', error_message = '', "
		"synced_at = NULL FROM mine WHERE q.id = mine.id";
	const Mapping *map;

	PreventCommandIfReadOnly("ekksync_retry()");
	map = edit_mapping();
	if (!PG_ARGISNULL(0))
		PG_RETURN_INT64(
			change_queue(map, some, INT8ARRAYOID, PG_GETARG_DATUM(0)));
	PG_RETURN_INT64(change_queue(map, all, InvalidOid, (Datum) 0) +
					store_retry_entries());
}

/*
 * ekksync_clear(status)
 *
 * What tells of a changed key stays while the member has another row that is
 * not synced, and so does the row of the new key: by the two the run finds the
 * old document, whose other fields go with the member.
 */
Datum
ekksync_clear(PG_FUNCTION_ARGS)
{
	char *status =
		PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0));

	PreventCommandIfReadOnly("ekksync_clear()");
	if (status == NULL ||
		(strcmp(status, "pending") != 0 && strcmp(status, "synced") != 0 &&
		 strcmp(status, "failed") != 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 status == NULL ? errmsg("no status is given")
								: errmsg("unknown status \"%s\"", status),
				 errhint("Use pending, synced or failed.")));
	PG_RETURN_INT64(change_queue(
		edit_mapping(),
		"WITH mine AS (SELECT id FROM %1$s AS o WHERE sync_status = $1 "
		"AND NOT (o.action = 'delete' AND o.fields_changed <> '{}' "
		"AND EXISTS (SELECT FROM %1$s p WHERE p.member_id = o.member_id "
		"AND p.id <> o.id AND p.sync_status <> 'synced')) "
		"AND NOT ($1 <> 'synced' AND o.action = 'create' "
		"AND EXISTS (SELECT FROM %1$s p WHERE p.member_id = o.member_id "
		"AND p.action = 'delete' AND p.fields_changed <> '{}')) "
		"ORDER BY id FOR UPDATE) "
		"DELETE FROM %1$s AS q USING mine WHERE q.id = mine.id",
		TEXTOID, CStringGetTextDatum(status)));
}
