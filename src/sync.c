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
static void
enter_phase(Run *run, const char *phase, int64 total)
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

List *
merge_keys(List *a, List *b, int limit)
{
	List *result = NIL;
	int i = 0;
	int j = 0;

	while (list_length(result) < limit &&
		   (i < list_length(a) || j < list_length(b)))
	{
		int cmp = i >= list_length(a) ? 1
				  : j >= list_length(b)
					  ? -1
					  : strcmp(list_nth(a, i), list_nth(b, j));

		result = lappend(result, cmp <= 0 ? list_nth(a, i) : list_nth(b, j));
		if (cmp <= 0)
			i++;
		if (cmp >= 0)
			j++;
	}
	return result;
}

static int
compare_keys(const ListCell *a, const ListCell *b)
{
	return strcmp(lfirst(a), lfirst(b));
}

/* How many members may be read together. */
static int
batch_limit(const Run *run)
{
	return (int) Max(Min(EKKSYNC_MEMBER_PAGE, fs_reads_left(run->fs)), 1);
}

/* Add keys that a list has, in order, to a list of at most limit. */
static void
add_keys(List **keys, List *more, int limit)
{
	*keys = merge_keys(*keys, more, limit);
}

/*
 * The keys of the next batch: all that have something to do, in order.  Those
 * behind one that has too much to be read at once (upto) have another turn.
 */
static List *
next_keys(Run *run, const char *after, int limit)
{
	MemoryContext cxt = run->page_cxt;
	char *upto = NULL;
	List *keys = NIL;
	int i;

	if (run->backlog != 0)
	{
		tx_begin();
		keys = store_backlog_keys(run->backlog, after, limit, cxt);
		tx_commit();
		return keys;
	}
	if (run->opt.nonly >= 0)
	{
		for (i = 0; i < run->opt.nonly; i++)
			if (after == NULL || strcmp(run->opt.only[i], after) > 0)
				keys = lappend(keys, run->opt.only[i]);
		list_sort(keys, compare_keys);
		return merge_keys(keys, NIL, limit);
	}
	tx_begin();
	keys = queue_pending_keys(run->map, after, limit, &upto, cxt);
	add_keys(&keys, store_due_keys(after, limit, run->anew, cxt), limit);
	add_keys(&keys, store_touched_keys(after, limit, cxt), limit);
	if (run->opt.pull)
		add_keys(&keys, store_inbox_keys(after, limit, &upto, cxt), limit);
	if (run->opt.pull && settings.on_remote_create == REMOTE_CREATE_INSERT)
		add_keys(&keys, store_stranger_keys(after, limit, cxt), limit);
	while (upto != NULL && keys != NIL && strcmp(llast(keys), upto) > 0)
		keys = list_truncate(keys, list_length(keys) - 1);
	MemoryContextSwitchTo(cxt);
	keys = list_copy(keys);
	tx_commit();
	return keys;
}

/*
 * Begin the next batch: its keys, at most limit, in its memory context, NIL if
 * there is none.  *after, NULL at first, is the last one.
 */
static List *
next_batch(Run *run, int limit, char **after)
{
	List *keys;

	CHECK_FOR_INTERRUPTS();
	MemoryContextReset(run->page_cxt);
	MemoryContextSwitchTo(run->page_cxt);
	keys = next_keys(run, *after, limit);
	if (*after != NULL)
		pfree(*after);
	*after = keys == NIL ? NULL : MemoryContextStrdup(run->cxt, llast(keys));
	return keys;
}

/* How many members have something to do? */
static int64
count_members(Run *run)
{
	char *after = NULL;
	List *keys;
	int64 n = 0;

	while ((keys = next_batch(run, EKKSYNC_MEMBER_PAGE, &after)) != NIL)
		n += list_length(keys);
	return n;
}

/*
 * Do all of these n have to be looked at before the first is written, for the
 * mass guard?  Not where one batch is all, or nobody could be too many.
 */
static bool
needs_survey(Run *run, int64 n)
{
	if (!guard_watches(run))
		return false;
	return n > EKKSYNC_MEMBER_PAGE && guard_is_too_many(run, n);
}

/*
 * How many members may be looked at next, so that all of them can be worked on
 * with what is left of the day's reads: those before take this many.
 */
static int
survey_room(const Run *run, int64 before)
{
	int64 left = fs_reads_left(run->fs);

	return left <= before
			   ? 0
			   : (int) Min(EKKSYNC_MEMBER_PAGE, (left - before) / 2);
}

/*
 * Look at all members, or at as many as can be looked at and worked on today.
 * Should some not be readable, for a lock, all are left for the next run, and
 * this is false: nobody is written uncounted.
 */
static bool
survey(Run *run)
{
	int64 reads = fs_reads_left(run->fs);
	char *after = NULL;
	int64 n = 0;
	bool readable = true;

	for (;;)
	{
		int64 cost = Max(n, reads - fs_reads_left(run->fs));
		int room = survey_room(run, cost);
		List *keys = room > 0 ? next_batch(run, room, &after) : NIL;
		int size = list_length(keys);

		if (keys == NIL)
			break;
		n += size;
		readable = readable && batch_survey(run, keys);
		run_progress(run, size);
	}
	if (readable)
		guard_survey_end(run);
	else
		run->figures.left += n;
	return readable;
}

/*
 * Is less than two batches' worth left of the day's reads, and these n do not
 * fit?  Then it is for one batch alone, which is counted before it is written.
 */
static bool
is_for_one_batch(const Run *run, int64 n)
{
	int64 left = fs_reads_left(run->fs);

	return left / 2 < n && left / 2 < EKKSYNC_MEMBER_PAGE;
}

/* False where some of them are left for another run. */
static bool
run_members(Run *run)
{
	int64 n = count_members(run);
	int64 batches = PG_INT64_MAX;
	char *after = NULL;
	List *keys;

	if (needs_survey(run, n))
	{
		if (is_for_one_batch(run, n))
			batches = 1;
		else
		{
			enter_phase(run, "survey", n);
			if (!survey(run))
				return false;
		}
	}
	enter_phase(run, "members", n);
	while ((keys = next_batch(run, batch_limit(run), &after)) != NIL)
	{
		int size = list_length(keys);

		run->reads_gone =
			run->reads_gone || batches-- == 0 || fs_reads_left(run->fs) == 0;
		if (run->reads_gone)
			return false;
		batch_run(run, keys);
		backfill_done(run, after);
		run_progress(run, size);
	}
	return true;
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
		enter_phase(run, "compare", -1);
		diff_members(run);
		return false;
	}
	if (!run->opt.pull)
		return false;
	enter_phase(run, "scan", -1);
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
	if (run->opt.dry_run || run->opt.nonly >= 0 ||
		backfill_is_asked(&run->opt))
		return;
	enter_phase(run, "clean", -1);
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
	bool whole = run->opt.nonly < 0 && run->opt.pull && !run->opt.dry_run;

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
		enter_phase(run, "clean", -1);
		clean_up(run);
		return;
	}
	budget_begin(run);
	fence_raise(run);
	enter_phase(run, "stage", -1);
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
		enter_phase(run, "list", -1);
		backfill_list(run);
	}
	if (run_members(run))
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
		enter_phase(run, "close", -1);
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
			psprintf("members left for the next run, locked, changing too "
					 "fast or put off by Firestore: " INT64_FORMAT,
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
	enter_phase(run, end.phase, -1); /* who was told must find that we know */
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
