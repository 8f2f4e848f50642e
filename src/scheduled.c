/*
 * scheduled.c
 *		The two workers that the launcher starts in a database: one that looks
 *		whether a run is due, and one that makes it.
 *
 * Which time of the schedule was served last is in ekksync.state: it outlives
 * the server, moves with a standby and a dump, and is advanced under the run
 * lock before the run begins.  So no time is served twice, whoever dies, and
 * what was missed is known.  A run that died on the way is begun again, a few
 * times.
 *
 * Who looks must find out first as whom a run works: it connects as the
 * bootstrap superuser, reads catalogs and the extension's tables, and ends.
 * The run's worker connects as the role that was found.
 *
 * May not know: cron expressions, how a run works.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "launcher.h"
#include "schedule.h"
#include "settings.h"
#include "store.h"
#include "sync.h"
#include "worker.h"

/* A run that begins so late has missed its time (see ekksync.catch_up). */
#define MISSED_AFTER (INT64CONST(900) * USECS_PER_SEC)

/* How often a run is begun for one time of the schedule. */
#define MAX_TRIES 3

/* A time served that is so far ahead was noted by a clock that was wrong. */
#define FAR_AHEAD USECS_PER_DAY

/* How far back the latest of many missed times is looked for. */
#define FAR_BACK (2 * USECS_PER_DAY)

/* Per-process state. */
static struct
{
	LauncherOrder order;
	LauncherAnswer answer;
	emit_log_hook_type next_log;
} worker;

PGDLLEXPORT void ekksync_look_main(Datum main_arg);
PGDLLEXPORT void ekksync_scheduled_main(Datum main_arg);

static void
say_problem(const char *message)
{
	worker.answer.outcome = LAUNCHER_PROBLEM;
	clip_to(worker.answer.problem, LAUNCHER_TEXT, message);
}

/* ------------------------------------------------------------------ connect */

/*
 * Why one cannot connect is for the launcher to say, and once: so it does not
 * reach the log, and the process ends as if nothing had happened.  A PANIC is
 * everybody's.
 */
static void
end_quietly(ErrorData *edata)
{
	if (edata->elevel < ERROR || edata->elevel >= PANIC)
	{
		if (worker.next_log != NULL)
			worker.next_log(edata);
		return;
	}
	edata->output_to_server = false;
	emit_log_hook = worker.next_log;
	say_problem(edata->message);
	launcher_answer(&worker.answer);
	proc_exit(0);
}

static void
begin_worker(void)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	if (!launcher_order(&worker.order))
		proc_exit(0); /* the launcher has other plans by now */
	worker.next_log = emit_log_hook;
	emit_log_hook = end_quietly;
}

static void
connected(void)
{
	emit_log_hook = worker.next_log;
	worker_pin_settings();
	MemoryContextSwitchTo(TopMemoryContext);
}

/* Call work, and let the launcher know what came of it. */
static void
work_and_answer(void (*work)(void))
{
	MemoryContext cxt = CurrentMemoryContext;

	PG_TRY();
	{
		work();
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(cxt);
		error = CopyErrorData();
		FlushErrorState();
		AbortCurrentTransaction();
		say_problem(error->message);
	}
	PG_END_TRY();
	launcher_answer(&worker.answer);
	proc_exit(0);
}

/* --------------------------------------------------------------------- look */

typedef struct Timetable
{
	Schedule *schedule;
	pg_tz *zone;
	char *name; /* of both: another one, and what was missed is not counted */
	TimestampTz now;
} Timetable;

static void
make_timetable(Timetable *table)
{
	const char *why = NULL;

	table->now = worker.order.now;
	table->name = psprintf("%s %s", settings.schedule, settings.timezone);
	table->schedule = schedule_parse(settings.schedule, &why);
	if (table->schedule == NULL)
		ereport(ERROR, (errcode(ERRCODE_CONFIG_FILE_ERROR),
						errmsg("ekksync.schedule cannot be used: %s", why)));
	table->zone = schedule_zone(settings.timezone);
	if (table->zone == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("time zone \"%s\" is not known", settings.timezone)));
}

/* The latest time after "after" that has come; 0: none has. */
static TimestampTz
latest_due(const Timetable *table, TimestampTz after)
{
	TimestampTz found = 0;
	TimestampTz next;

	if (!schedule_next(table->schedule, table->zone, after, &next) ||
		next > table->now)
		return 0;
	found = next;
	if (found < table->now - FAR_BACK &&
		schedule_next(table->schedule, table->zone, table->now - FAR_BACK,
					  &next) &&
		next <= table->now)
		found = next;
	while (schedule_next(table->schedule, table->zone, found, &next) &&
		   next <= table->now)
	{
		CHECK_FOR_INTERRUPTS();
		found = next;
	}
	return found;
}

/* Is a run due for the time "due"?  If it has been given up, that is noted. */
static bool
is_due(const Timetable *table, StoreSchedule *served, TimestampTz due,
	   bool paused)
{
	bool is_new = due != 0;
	bool missed;

	if (!is_new)
		due = served->at; /* which may have to be begun again */
	missed = table->now - due > MISSED_AFTER;
	if (!paused && (!missed || settings.catch_up) &&
		(is_new || (served->tries > 0 && served->tries < MAX_TRIES)))
		return true;
	if (!is_new && served->tries > 0)
		worker.answer.given_up = due;
	if (is_new || served->tries > 0)
	{
		served->at = due;
		served->tries = 0;
		store_schedule_note(served);
	}
	return false;
}

static void
look_at_schedule(bool paused)
{
	StoreSchedule served;
	TimestampTz due;
	Timetable table;

	make_timetable(&table);
	store_schedule(&served, CurrentMemoryContext);
	if (served.schedule == NULL || strcmp(served.schedule, table.name) != 0 ||
		served.at > table.now + FAR_AHEAD)
	{
		served.schedule = table.name;
		served.at = table.now;
		served.tries = 0;
		store_schedule_note(&served);
	}
	due = latest_due(&table, served.at);
	worker.answer.outcome = LAUNCHER_LATER;
	if (is_due(&table, &served, due, paused))
	{
		worker.answer.outcome = LAUNCHER_DUE;
		worker.answer.due = due != 0 ? due : served.at;
	}
	if (!schedule_next(table.schedule, table.zone, Max(table.now, served.at),
					   &worker.answer.next))
		worker.answer.next = 0;
}

/*
 * Runs that died are on record as interrupted, and told of, without waiting
 * for the next one.
 */
static void
close_dead_runs(void)
{
	tx_begin();
	if (store_run_current() != 0 && sync_lock())
		store_runs_interrupted();
	tx_commit();
	sync_unlock();
}

static void
look(void)
{
	const Mapping *map;
	StoreState state;

	tx_begin();
	sync_preflight(true);
	map = mapping_get();
	worker.answer.database = MyDatabaseId;
	worker.answer.role = map->owner;
	worker.answer.can_login = worker_role_can_login(map->owner);
	store_state(&state, CurrentMemoryContext);
	look_at_schedule(state.paused);
	tx_commit();
	close_dead_runs();
}

/* Entry of the process that looks. */
void
ekksync_look_main(Datum main_arg)
{
	begin_worker();
	BackgroundWorkerInitializeConnection(worker.order.database_name, NULL, 0);
	connected();
	/* what it notes may be noted again: no standby is waited for */
	SetConfigOption("synchronous_commit", "local", PGC_SUSET, PGC_S_OVERRIDE);
	work_and_answer(look);
}

/* ---------------------------------------------------------------------- run */

/*
 * Take the run lock, and the time that is served.  False: there is no need to
 * run, or another run is in progress.
 */
static bool
take_turn(TimestampTz due)
{
	const Mapping *map;
	bool mine;

	tx_begin();
	mine = sync_lock();
	worker.answer.outcome = mine ? LAUNCHER_RAN : LAUNCHER_BUSY;
	map = mine ? mapping_get() : NULL;
	mine =
		map != NULL && map->owner == GetUserId() && store_schedule_begin(due);
	tx_commit();
	return mine;
}

static void
run(void)
{
	TimestampTz due = worker.order.looked.due;
	RunOptions options = {0};
	int64 run_id;

	if (!take_turn(due))
		return;
	options.push = options.pull = true;
	options.nonly = -1;
	options.scheduled = due;
	(void) sync_run(&options, &run_id, NULL);
}

/* Entry of the process that makes a run. */
void
ekksync_scheduled_main(Datum main_arg)
{
	begin_worker();
	worker_connect(worker.order.looked.database, worker.order.looked.role,
				   worker.order.looked.can_login);
	connected();
	work_and_answer(run);
}
