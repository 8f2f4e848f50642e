/*
 * sync.c
 *		Leads a run: fence, stage, then batch by batch read, decide, apply,
 *		push, settle; and its record.
 *
 * Transactions are short and none is open while a request is under way.
 * Whatever happens, what is committed is a state from which the next run goes
 * on; nothing is kept in memory that the tables don't say.
 *
 * May not know: SQL, curl, how a field is decided.
 */
#include "postgres.h"

#include <unistd.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "commands/dbcommands.h"

#include "auth.h"
#include "fence.h"
#include "progress.h"
#include "queue.h"
#include "scope.h"
#include "settings.h"
#include "steps.h"
#include "store.h"
#include "sync.h"

/* ---- helpers ---- */

char *
mask_key(const char *key)
{
	char *masked = pstrdup(key);
	int n = strlen(masked) - 3;
	int i;

	for (i = 0; i < n; i++)
		masked[i] = '*';
	return masked;
}

void
run_stop(const FsError *err)
{
	bool denied = strcmp(err->status, "UNAUTHENTICATED") == 0 ||
				  strcmp(err->status, "PERMISSION_DENIED") == 0;

	if (fs_is_over_limit(err))
		ereport(ERROR, (errcode(ERRCODE_EKKSYNC_DAY_LIMIT),
						errmsg("%s: what is left stays pending until the day "
							   "ends, at midnight in Los Angeles",
							   err->message)));
	ereport(ERROR,
			(errcode(err->class == FS_RETRY ? ERRCODE_CONNECTION_FAILURE
					 : denied ? ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION
							  : ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
			 errmsg("%s", err->message)));
}

void
run_stuck(Run *run, const Member *m, const ErrorData *error)
{
	run->stuck++;
	run->stuck_error =
		MemoryContextStrdup(run->cxt, clip_message(error->message));
	ereport(LOG, (errmsg("ekksync run " INT64_FORMAT
						 " could not record member %s: %s",
						 run->id, mask_key(m->key),
						 mask_message(run->stuck_error))));
}

void
run_tell_time(Run *run)
{
	const FsClock *clock = fs_clock(run->fs);

	run->now = GetCurrentTimestamp();
	if (clock->known)
		run->now += clock->skew + clock->error;
}

/* Largest private memory of this process so far, in kB; 0 if unknown. */
static void
note_memory(Run *run)
{
	FILE *f = fopen("/proc/self/status", "r");
	char line[256];
	long kb;

	if (f == NULL)
		return;
	while (fgets(line, sizeof(line), f) != NULL)
		if (sscanf(line, "RssAnon: %ld", &kb) == 1)
			run->peak_memory = Max(run->peak_memory, kb);
	fclose(f);
}

/* Put figures and progress on record, and into pg_stat_activity. */
static void
record_progress(Run *run)
{
	char *activity = progress_activity(run);

	note_memory(run);
	tx_begin();
	store_run_progress(run, progress_name(run));
	budget_charge(run);
	tx_commit();
	pgstat_report_activity(STATE_RUNNING, activity);
	pfree(activity);
}

/* A phase begins; total: how much there is to do in it, -1: not known. */
void
run_phase(Run *run, const char *phase, int64 total)
{
	progress_phase(run, phase, total);
	record_progress(run);
}

void
run_progress(Run *run, int64 n)
{
	progress_done(run, n);
	record_progress(run);
}

/* ---- before the run ---- */

/* A dry run is let through a pause: it writes nothing. */
static void
check_state(const StoreState *state, bool dry_run)
{
	if (state->paused && !dry_run)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("ekksync is paused"),
				 state->paused_reason
					 ? errdetail("Reason: %s", state->paused_reason)
					 : 0,
				 errhint("Call ekksync_resume() to allow runs again.")));
	if (settings.project == NULL || settings.project[0] == '\0')
		ereport(
			ERROR,
			(errcode(ERRCODE_CONFIG_FILE_ERROR),
			 errmsg("no Firestore project is set"),
			 errhint("Set it for the database, for example ALTER DATABASE %s "
					 "SET ekksync.project = 'my-project', and connect anew.",
					 quote_identifier(get_database_name(MyDatabaseId)))));
}

/* In a transaction of the caller. */
void
sync_preflight(bool dry_run)
{
	StoreState state;
	const Mapping *map;

	ekksync_check_version();
	map = mapping_get();
	if (map == NULL || !store_state(&state, CurrentMemoryContext))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("ekksync is not attached to a member table"),
				 errhint("Call ekksync_attach('membership_comrade') first.")));
	if (map->problem != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the mapping cannot be used: %s", map->problem)));
	check_state(&state, dry_run);
}

/* ---- the parts of a run ---- */

static void
parse_path(FieldPath *path, const char *text)
{
	SyncError err = {0};

	if (!path_parse(text, path, &err))
		elog(ERROR, "ekksync: %s", err.message);
}

/* The paths that are read of member documents. */
static void
make_mask(Run *run)
{
	int f;

	parse_path(&run->deleted_at, MAPPING_DELETED_AT_PATH);
	parse_path(&run->last_modified, "metadata.last_modified");
	parse_path(&run->last_sync, "metadata.last_sync");
	parse_path(&run->sync_write, "metadata.sync_write");
	run->mask = palloc(sizeof(FieldPath *) * (run->map->nfields + 2));
	for (f = 0; f < run->map->nfields; f++)
		if (run->map->fields[f].path.nsegments > 0)
			run->mask[run->nmask++] = &run->map->fields[f].path;
	run->mask[run->nmask++] = &run->deleted_at;
	run->mask[run->nmask++] = &run->sync_write;
}

static void
open_client(Run *run)
{
	FsConfig config = {0};

	config.project = settings.project;
	config.database_id = settings.database_id;
	config.emulator_host = settings_emulator_host();
	config.connect_timeout = settings.connect_timeout;
	config.request_timeout = settings.request_timeout;
	config.max_retries = settings.max_retries;
	config.max_writes_per_second = settings.max_writes_per_second;
	config.token = auth_token;
	run->fs = fs_open(run->cxt, &config);
}

/*
 * Find out which members there is something to do about: by a comparison of
 * all, or by the scan.  Returns whether that was scanned to the end.
 */
static bool
look_around(Run *run)
{
	if (run->opt.diff || run->opt.take != CHOICE_NONE)
	{
		run_phase(run, "compare", -1);
		diff_members(run);
		return false;
	}
	if (!run->opt.pull)
		return false;
	run_phase(run, "scan", -1);
	return pull_scan(run);
}

/* What an earlier run has staged is kept for it to go on. */
static void
unstage(const Run *run)
{
	if (run->stage_kept)
		return;
	tx_begin();
	store_unstage();
	tx_commit();
}

static void
clean_after_run(Run *run)
{
	if (run->opt.dry_run || sync_is_partial(&run->opt))
		return;
	run_phase(run, "clean", -1);
	clean_up(run);
}

/* Something is left for another day's reads: that is how the run ends. */
static void
stop_for_reads(const Run *run)
{
	FsError err = {0};

	if (!run->reads_gone)
		return;
	fs_over_reads(&err);
	run_stop(&err);
}

/*
 * Entries that were staged over several days are for the next day too, until
 * all members were worked on.
 */
static void
keep_entries(const Run *run, bool stopped)
{
	bool whole =
		run->opt.pull && !run->opt.dry_run && !sync_is_partial(&run->opt);

	if (stopped && run->stage_heavy && (run->stage_kept || !run->opt.dry_run))
		store_stage_left(run->stage_after);
	else if (run->stage_kept && !stopped && whole)
		store_stage_left(NULL);
}

static void
run_phases(Run *run)
{
	bool scanned = false;

	if (run->opt.cleanup)
	{
		run_phase(run, "clean", -1);
		clean_up(run);
		return;
	}
	budget_begin(run);
	fence_raise(run);
	run_phase(run, "stage", -1);
	pull_entries(run, true);
	if (run->reads_gone)
	{
		clean_after_run(run);
		stop_for_reads(run);
	}
	scanned = look_around(run);
	if (run->opt.diff)
	{
		unstage(run);
		return;
	}
	if (backfill_is_asked(&run->opt))
	{
		run_phase(run, "list", -1);
		backfill_list(run);
	}
	if (members_work(run))
		backfill_end(run);
	at_step(members);
	if (run->opt.dry_run)
	{
		if (run->opt.pull)
			plan_staged_failures(run);
		unstage(run);
	}
	else if (run->opt.pull)
	{
		run_phase(run, "close", -1);
		pull_close_entries(run);
		tx_begin();
		if (scanned)
			store_scanned(run->scan_since, run->full_scan);
		tx_commit();
	}
	clean_after_run(run);
	stop_for_reads(run);
}

/* ---- start and end ---- */

const char *
sync_direction(const RunOptions *opt)
{
	return opt->push && opt->pull ? "both"
		   : opt->push			  ? "to_firestore"
								  : "to_django";
}

bool
sync_is_partial(const RunOptions *opt)
{
	return opt->nonly >= 0 || backfill_is_asked(opt);
}

const char *
sync_mode(const RunOptions *opt)
{
	return opt->diff					   ? "diff"
		   : opt->cleanup				   ? "cleanup"
		   : opt->backfill				   ? "backfill"
		   : opt->take != CHOICE_NONE	   ? "repair"
		   : settings.mode == MODE_OBSERVE ? "observe"
										   : "sync";
}

/* Give the run a number; from here on whatever happens is on record. */
static void
start_run(Run *run)
{
	StoreState state;

	tx_begin();
	sync_preflight(run->opt.dry_run);
	store_state(&state, run->cxt);
	run->map = mapping_load(run->cxt);
	run->last_scan = state.last_scan;
	run->last_full = Max(state.last_full_scan, run->map->attached_at);
	run->scan_after = state.scan_after;
	run->scan_since = state.scan_since;
	run->changed_after = state.changed_after;
	run->changed_value = state.changed_value;
	run->stage_after = state.stage_after;
	store_run_start(run, sync_direction(&run->opt), sync_mode(&run->opt),
					settings_scan_name(settings.scan));
	if (run->opt.diff || run->opt.take != CHOICE_NONE)
		store_diff_reset();
	if (run->opt.dry_run && !run->opt.diff && !run->opt.cleanup)
		store_plan_reset();
	MemoryContextSwitchTo(run->cxt);
	make_mask(run);
	tx_commit();
	open_client(run);
	progress_phase(run, "start", -1);
	pgstat_report_activity(STATE_RUNNING, progress_activity(run));
}

/* Close the run's record; error NULL: success. */
static void
end_run(Run *run, const ErrorData *error)
{
	RunEnd end = {"success", "end", NULL, NULL};
	bool limit =
		error != NULL && error->sqlerrcode == ERRCODE_EKKSYNC_DAY_LIMIT;

	note_memory(run);
	run->ending = true;
	if (run->clean_error != NULL)
		end.error =
			psprintf("could not remove what is old: %s", run->clean_error);
	if (run->clean_error != NULL && run->opt.cleanup)
		end.status = "failed";
	if (run->scan_left)
		end.error =
			psprintf("the %s goes on in the next run: it may read half "
					 "of what ekksync.max_reads_per_day leaves",
					 run->full_scan ? "full scan" : "scan");
	if (run->figures.left > 0)
		end.error =
			psprintf("members left for the next %s, locked, changing too "
					 "fast or put off by Firestore: " INT64_FORMAT,
					 run->opt.take != CHOICE_NONE ? "ekksync_repair()" : "run",
					 run->figures.left);
	if (error == NULL && run->stuck > 0)
	{
		end.status = "failed";
		end.error =
			psprintf(INT64_FORMAT
					 " members could not be recorded, the last because: %s",
					 run->stuck, run->stuck_error);
	}
	if (error != NULL)
	{
		end.status = limit ? "stopped" : "failed";
		end.phase = "stopped";
		end.sqlstate = unpack_sql_state(error->sqlerrcode);
		end.error = error->message;
		ereport(LOG, (errmsg("ekksync run " INT64_FORMAT " %s: %s", run->id,
							 end.status, mask_message(error->message))));
	}
	run_phase(run, end.phase, -1); /* who was told must find that we know */
	fence_lower(run, error);
	at_step(told);
	tx_begin();
	if (error == NULL || limit)
		keep_entries(run, limit);
	store_run_end(run, &end);
	if (run->opt.scheduled != 0)
		store_schedule_end(run->opt.scheduled);
	budget_charge(run);
	at_step(in_end);
	tx_commit();
	at_step(ended);
	pgstat_report_activity(STATE_IDLE, NULL);
}

static Run *
new_run(const RunOptions *options)
{
	MemoryContext cxt = AllocSetContextCreate(TopMemoryContext, "ekksync run",
											  ALLOCSET_DEFAULT_SIZES);
	Run *run = MemoryContextAllocZero(cxt, sizeof(Run));

	run->cxt = cxt;
	run->page_cxt =
		AllocSetContextCreate(cxt, "ekksync batch", ALLOCSET_DEFAULT_SIZES);
	run->opt = *options;
	if (settings.mode == MODE_OBSERVE)
		run->opt.dry_run = true;
	run->members = -1;
	return run;
}

bool
sync_run(const RunOptions *options, int64 *run_id,
		 void (*started)(int64 run_id))
{
	Run *run = new_run(options);
	ErrorData *volatile error = NULL;

	MemoryContextSwitchTo(run->cxt);
	at_step(locked);
	start_run(run);
	at_step(numbered);
	*run_id = run->id;
	if (started != NULL)
		started(run->id);
	PG_TRY();
	{
		run_phases(run);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(run->cxt);
		error = CopyErrorData();
		FlushErrorState();
		AbortCurrentTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(run->cxt);
	end_run(run, error);
	MemoryContextSwitchTo(TopMemoryContext);
	MemoryContextDelete(run->cxt);
	return error == NULL;
}
