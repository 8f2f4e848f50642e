/*
 * progress.c
 *		How far a run is: its phases, what each has done and what it took.
 *
 * Kept in memory while the run works; sync.c puts it on record with each batch
 * or page, so that others can look on, and what a run that died had done
 * stays known.
 *
 * May not know: SQL, what a phase does.
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/memutils.h"

#include "progress.h"

/* One phase of a run. */
struct RunPhase
{
	const char *name;
	TimestampTz started_at;
	int64 took;	   /* microseconds, until it was looked at last */
	int64 done;	   /* of what the phase is about, see docs/reference.md */
	int64 total;   /* -1: not known */
	FsCost before; /* of the run, when the phase began */
	FsCost cost;   /* of the phase */
};

static RunPhase *
current_phase(const Run *run)
{
	return run->phases == NIL ? NULL : llast(run->phases);
}

/* Bring time and cost of the phase up to now. */
static void
measure(const Run *run, RunPhase *phase)
{
	const FsCost *now = fs_cost(run->fs);
	const FsCost *before = &phase->before;

	phase->took = Max(GetCurrentTimestamp() - phase->started_at, 0);
	phase->cost.docs_read = now->docs_read - before->docs_read;
	phase->cost.docs_written = now->docs_written - before->docs_written;
	phase->cost.docs_deleted = now->docs_deleted - before->docs_deleted;
	phase->cost.requests = now->requests - before->requests;
	phase->cost.retries = now->retries - before->retries;
	phase->cost.bytes_sent = now->bytes_sent - before->bytes_sent;
	phase->cost.bytes_received = now->bytes_received - before->bytes_received;
}

void
progress_phase(Run *run, const char *name, int64 total)
{
	RunPhase *phase = current_phase(run);
	MemoryContext old;

	if (phase != NULL && strcmp(phase->name, name) == 0)
		return;
	if (phase != NULL)
		measure(run, phase);
	old = MemoryContextSwitchTo(run->cxt);
	phase = palloc0(sizeof(RunPhase));
	phase->name = name;
	phase->started_at = GetCurrentTimestamp();
	phase->total = total;
	phase->before = *fs_cost(run->fs);
	run->phases = lappend(run->phases, phase);
	MemoryContextSwitchTo(old);
}

void
progress_total(Run *run, int64 total)
{
	current_phase(run)->total = total;
}

void
progress_done(Run *run, int64 n)
{
	RunPhase *phase = current_phase(run);

	phase->done += n;
	if (phase->total >= 0)
		phase->total = Max(phase->total, phase->done);
}

const char *
progress_name(const Run *run)
{
	return current_phase(run)->name;
}

const char *
progress_last_work(const Run *run)
{
	ListCell *lc;
	const char *name = "start";

	foreach (lc, run->phases)
	{
		const RunPhase *phase = lfirst(lc);

		if (strcmp(phase->name, "stopped") != 0)
			name = phase->name;
	}
	return name;
}

char *
progress_activity(const Run *run)
{
	const RunPhase *phase = current_phase(run);
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, "ekksync run " INT64_FORMAT ": %s", run->id,
					 phase->name);
	if (phase->total >= 0)
		appendStringInfo(&buf, ", " INT64_FORMAT " of " INT64_FORMAT,
						 phase->done, phase->total);
	else if (phase->done > 0)
		appendStringInfo(&buf, ", " INT64_FORMAT, phase->done);
	return buf.data;
}

/* Seconds since 1970. */
static double
epoch(TimestampTz t)
{
	return t / (double) USECS_PER_SEC +
		   (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * (double) SECS_PER_DAY;
}

/* The names are those that the views ekksync_phases and ekksync_progress read. */
static void
append_phase(StringInfo buf, const RunPhase *phase)
{
	const FsCost *cost = &phase->cost;

	appendStringInfo(
		buf,
		"{\"phase\": \"%s\", \"since\": %.6f, \"took\": " INT64_FORMAT
		", \"done\": " INT64_FORMAT,
		phase->name, epoch(phase->started_at), phase->took, phase->done);
	if (phase->total >= 0)
		appendStringInfo(buf, ", \"total\": " INT64_FORMAT, phase->total);
	appendStringInfo(buf,
					 ", \"requests\": " INT64_FORMAT
					 ", \"retries\": " INT64_FORMAT
					 ", \"docs_read\": " INT64_FORMAT
					 ", \"docs_written\": " INT64_FORMAT
					 ", \"docs_deleted\": " INT64_FORMAT
					 ", \"bytes_sent\": " INT64_FORMAT
					 ", \"bytes_received\": " INT64_FORMAT "}",
					 cost->requests, cost->retries, cost->docs_read,
					 cost->docs_written, cost->docs_deleted, cost->bytes_sent,
					 cost->bytes_received);
}

char *
progress_json(Run *run)
{
	StringInfoData buf;
	ListCell *lc;

	if (run->phases != NIL)
		measure(run, current_phase(run));
	initStringInfo(&buf);
	appendStringInfoChar(&buf, '[');
	foreach (lc, run->phases)
	{
		if (buf.len > 1)
			appendStringInfoString(&buf, ", ");
		append_phase(&buf, lfirst(lc));
	}
	appendStringInfoChar(&buf, ']');
	return buf.data;
}
