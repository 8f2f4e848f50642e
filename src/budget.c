/*
 * budget.c
 *		What runs cost, by day, and the limits of a day.
 *
 * A day is one of Firestore's quota: it ends at midnight in Los Angeles.  The
 * ledger (ekksync.cost) is written with a run's progress, so a run that is
 * killed is counted as far as it came in its record.  The client keeps to
 * what the limits leave; some documents are kept back for the run's own ones
 * in sync_logs, so that it can tell its end.
 *
 * May not know: members, what a run does.
 */
#include "postgres.h"

#include "catalog/pg_type.h"

#include "scope.h"
#include "settings.h"
#include "sqlvalue.h"
#include "store.h"

/* Documents that are kept back for the run's own, at its begin and its end. */
#define OWN_DOCUMENTS 10

/* What is left of a day's limit, -1: there is none. */
static int64
left_of(const Run *run, int limit, int64 used)
{
	if (limit == 0 || run->ending)
		return -1;
	return Max(limit - used - OWN_DOCUMENTS, 0);
}

void
budget_charge(Run *run)
{
	FsCost cost = *fs_cost(run->fs);
	const FsCost *old = &run->charged;
	Oid types[] = {INT8OID, INT8OID, INT8OID,	INT8OID,   INT8OID,
				   INT8OID, INT8OID, FLOAT8OID, FLOAT8OID, FLOAT8OID};
	Datum values[] = {Int64GetDatum(cost.docs_read - old->docs_read),
					  Int64GetDatum(cost.docs_written - old->docs_written),
					  Int64GetDatum(cost.docs_deleted - old->docs_deleted),
					  Int64GetDatum(cost.requests - old->requests),
					  Int64GetDatum(cost.retries - old->retries),
					  Int64GetDatum(cost.bytes_sent - old->bytes_sent),
					  Int64GetDatum(cost.bytes_received - old->bytes_received),
					  Float8GetDatum(settings.price_reads),
					  Float8GetDatum(settings.price_writes),
					  Float8GetDatum(settings.price_deletes)};
	SqlScope scope;
	int64 reads;
	int64 writes;

	store_sql(
		&scope,
		"INSERT INTO ekksync.cost AS c (day, reads, writes, deletes, "
		"requests, retries, bytes_sent, bytes_received, price) VALUES "
		"((clock_timestamp() AT TIME ZONE 'America/Los_Angeles')::date, "
		"$1, $2, $3, $4, $5, $6, $7, "
		"($1 * $8::numeric + $2 * $9::numeric + $3 * $10::numeric) / 100000) "
		"ON CONFLICT (day) DO UPDATE SET reads = c.reads + excluded.reads, "
		"writes = c.writes + excluded.writes, "
		"deletes = c.deletes + excluded.deletes, "
		"requests = c.requests + excluded.requests, "
		"retries = c.retries + excluded.retries, "
		"bytes_sent = c.bytes_sent + excluded.bytes_sent, "
		"bytes_received = c.bytes_received + excluded.bytes_received, "
		"price = c.price + excluded.price RETURNING reads, writes + deletes",
		lengthof(types), types, values, NULL);
	reads = sql_get_int8(0, 1);
	writes = sql_get_int8(0, 2);
	sql_leave(&scope);
	run->charged = cost;
	fs_limit(run->fs, left_of(run, settings.max_reads_per_day, reads),
			 left_of(run, settings.max_writes_per_day, writes));
}

void
budget_begin(Run *run)
{
	FsError err = {0};

	tx_begin();
	budget_charge(run);
	tx_commit();
	if (fs_reads_left(run->fs) < OWN_DOCUMENTS)
		fs_over_reads(&err);
	else if (!run->opt.dry_run && fs_writes_left(run->fs) < OWN_DOCUMENTS)
		fs_over_writes(&err);
	else
		return;
	run_stop(&err);
}
