/*
 * nextruns.c
 *		ekksync_next_runs: when a schedule is due, the one in force or any.
 *
 * May not know: whether anything runs by it.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "schedule.h"
#include "settings.h"
#include "srf.h"

#define DEFAULT_RUNS 5

PG_FUNCTION_INFO_V1(ekksync_next_runs);

static Schedule *
get_schedule(FunctionCallInfo fcinfo, int arg)
{
	const char *expression = PG_ARGISNULL(arg)
								 ? settings.schedule
								 : text_to_cstring(PG_GETARG_TEXT_PP(arg));
	const char *why;
	Schedule *schedule = schedule_parse(expression, &why);

	if (schedule == NULL)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("invalid schedule \"%s\"", expression),
						errdetail("%s", why), errhint(SCHEDULE_HINT)));
	return schedule;
}

static pg_tz *
get_zone(FunctionCallInfo fcinfo, int arg)
{
	const char *name = PG_ARGISNULL(arg)
						   ? settings.timezone
						   : text_to_cstring(PG_GETARG_TEXT_PP(arg));
	pg_tz *zone = schedule_zone(name);

	if (zone == NULL)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("time zone \"%s\" not recognized", name),
						errhint(SCHEDULE_ZONE_HINT)));
	return zone;
}

/* What the zone's clock shows. */
static Timestamp
local_time(pg_tz *zone, TimestampTz t)
{
	struct pg_tm tm;
	fsec_t fsec;
	int offset;
	Timestamp local;

	if (timestamp2tm(t, &offset, &tm, &fsec, NULL, zone) != 0 ||
		tm2timestamp(&tm, fsec, NULL, &local) != 0)
		ereport(ERROR, (errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
						errmsg("timestamp out of range")));
	return local;
}

/* ekksync_next_runs(n, schedule, timezone, after) */
Datum
ekksync_next_runs(PG_FUNCTION_ARGS)
{
	int32 n = PG_ARGISNULL(0) ? DEFAULT_RUNS : PG_GETARG_INT32(0);
	Schedule *schedule = get_schedule(fcinfo, 1);
	pg_tz *zone = get_zone(fcinfo, 2);
	TimestampTz t =
		PG_ARGISNULL(3) ? GetCurrentTimestamp() : PG_GETARG_TIMESTAMPTZ(3);
	TupleDesc desc;
	Tuplestorestate *store;

	if (n < 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("number of runs must not be negative")));
	if (!schedule_covers(t))
		ereport(ERROR, (errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
						errmsg("starting time is out of range"),
						errdetail("It must be in the years 1 to 9999.")));

	store = srf_begin(fcinfo, &desc);
	for (; n > 0 && schedule_next(schedule, zone, t, &t); n--)
	{
		Datum values[2] = {TimestampTzGetDatum(t),
						   TimestampGetDatum(local_time(zone, t))};
		bool nulls[2] = {false, false};

		CHECK_FOR_INTERRUPTS();
		tuplestore_putvalues(store, desc, values, nulls);
	}
	return (Datum) 0;
}
