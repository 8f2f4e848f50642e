/*
 * worker.c
 *		A run's background worker: how it is started, what it is told, and
 *		what it answers.
 *
 * The caller and the worker share one small piece of dynamic memory: options
 * on the way there, the run's number or the error that kept it from starting
 * on the way back.  It goes when both have let go of it.
 *
 * May not know: what a run does.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/dsm.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timeout.h"

#include "giveway.h"
#include "http.h"
#include "pg_compat.h"
#include "steps.h"
#include "store.h"
#include "sync.h"
#include "waits.h"
#include "worker.h"

#define TEXT_SIZE 512

typedef enum SharedPhase
{
	PHASE_ASKED,
	PHASE_STARTED, /* run_id is set */
	PHASE_ENDED,
	PHASE_BUSY,	  /* run_id is the other run's, or 0 */
	PHASE_REFUSED /* the error texts are set */
} SharedPhase;

typedef struct SharedRun
{
	pg_atomic_uint32 phase;
	Oid database;
	Oid role;
	bool can_login;
	pid_t caller;
	bool push;
	bool pull;
	bool dry_run;
	bool diff;
	bool force;
	bool backfill;
	MergeChoice take;
	bool cleanup;
	int cleanup_days;
	int64 run_id;
	int sqlstate;
	char message[TEXT_SIZE];
	char detail[TEXT_SIZE];
	char hint[TEXT_SIZE];
	int nonly;
	Size only_size;
	char only[FLEXIBLE_ARRAY_MEMBER]; /* strings with their NULs */
} SharedRun;

/* Per-process state of a worker. */
static struct
{
	bool is_run;
	SharedRun *shared; /* NULL: the launcher has started it */
} worker_state;

PGDLLEXPORT void ekksync_run_main(Datum main_arg);

bool
worker_is_run(void)
{
	return worker_state.is_run;
}

/* ---- the worker ---- */

static void
tell_caller(SharedPhase phase)
{
	PGPROC *proc;

	pg_write_barrier();
	pg_atomic_write_u32(&worker_state.shared->phase, phase);
	proc = BackendPidGetProc(worker_state.shared->caller);
	if (proc != NULL)
		SetLatch(&proc->procLatch);
}

static void
run_started(int64 run_id)
{
	worker_state.shared->run_id = run_id;
	tell_caller(PHASE_STARTED);
}

static void
copy_options(const SharedRun *shared, RunOptions *options)
{
	const char *p = shared->only;
	int i;

	options->push = shared->push;
	options->pull = shared->pull;
	options->dry_run = shared->dry_run;
	options->diff = shared->diff;
	options->force = shared->force;
	options->backfill = shared->backfill;
	options->take = shared->take;
	options->cleanup = shared->cleanup;
	options->cleanup_days = shared->cleanup_days;
	options->scheduled = 0;
	options->nonly = shared->nonly;
	options->only = palloc(sizeof(char *) * (Max(shared->nonly, 0) + 1));
	for (i = 0; i < shared->nonly; i++)
	{
		options->only[i] = pstrdup(p);
		p += strlen(p) + 1;
	}
}

/*
 * It is the run that gives way in a deadlock and never the application: a lock
 * is waited for less long than the application waits before it looks for a
 * deadlock, and the worker, if it waits last, looks for one at once.
 */
void
worker_pin_settings(void)
{
	char buf[32];

	SetConfigOption("default_transaction_isolation", "read committed",
					PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_read_only", "off", PGC_SUSET,
					PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_deferrable", "off", PGC_SUSET,
					PGC_S_OVERRIDE);
	SetConfigOption("statement_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("idle_in_transaction_session_timeout", "0", PGC_SUSET,
					PGC_S_OVERRIDE);
	if (GetConfigOption("transaction_timeout", true, false) != NULL)
		SetConfigOption("transaction_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("jit", "off", PGC_SUSET, PGC_S_OVERRIDE);
	snprintf(buf, sizeof(buf), "%d", Max(DeadlockTimeout / 2, 1));
	SetConfigOption("lock_timeout", buf, PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("deadlock_timeout", "1", PGC_SUSET, PGC_S_OVERRIDE);
	/* what is noted before a request must be there after a crash */
	if (synchronous_commit == SYNCHRONOUS_COMMIT_OFF)
		SetConfigOption("synchronous_commit", "local", PGC_SUSET,
						PGC_S_OVERRIDE);
	SetConfigOption("application_name", "ekksync", PGC_SUSET, PGC_S_OVERRIDE);
}

/* NULL: there is none. */
static void
share_text(char *to, const char *text)
{
	clip_to(to, TEXT_SIZE, text ? text : "");
}

/* The error that kept the run from starting goes to the caller. */
static void
refuse(const ErrorData *error)
{
	SharedRun *shared = worker_state.shared;

	shared->sqlstate = error->sqlerrcode;
	share_text(shared->message, error->message);
	share_text(shared->detail, error->detail);
	share_text(shared->hint, error->hint);
	tell_caller(PHASE_REFUSED);
}

static bool
lock_or_tell(void)
{
	bool locked;

	tx_begin();
	locked = sync_lock();
	if (!locked && sync_is_running())
		worker_state.shared->run_id = store_run_current();
	tx_commit();
	if (!locked)
		tell_caller(PHASE_BUSY);
	return locked;
}

static void
run_guarded(const RunOptions *options)
{
	int64 run_id = 0;
	MemoryContext cxt = CurrentMemoryContext;

	PG_TRY();
	{
		if (lock_or_tell())
		{
			sync_run(options, &run_id, run_started);
			sync_unlock();
			tell_caller(PHASE_ENDED);
		}
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(cxt);
		error = CopyErrorData();
		FlushErrorState();
		AbortCurrentTransaction();
		if (run_id != 0)
			ReThrowError(error); /* the record could not be closed */
		sync_unlock();
		refuse(error);
	}
	PG_END_TRY();
}

/*
 * Connect as role.  Before PostgreSQL 17 a worker cannot connect as a role
 * that may not log in; it then connects as the bootstrap superuser and becomes
 * the role at once.  User code runs only in sql_enter's scope, where a change
 * back is refused.
 */
void
worker_connect(Oid database, Oid role, bool can_login)
{
	worker_state.is_run = true;
	http_on_tick(give_way);
	if (can_login || BGWORKER_BYPASS_ROLELOGINCHECK != 0)
	{
		BackgroundWorkerInitializeConnectionByOid(
			database, role, BGWORKER_BYPASS_ROLELOGINCHECK);
		return;
	}
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	StartTransactionCommand();
	SetSessionAuthorization(role, superuser_arg(role));
	CommitTransactionCommand();
}

/* Entry of the worker process. */
void
ekksync_run_main(Datum main_arg)
{
	dsm_segment *segment;
	RunOptions options;
	Oid database;
	Oid role;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();

	segment = dsm_attach(DatumGetUInt32(main_arg));
	if (segment == NULL)
		proc_exit(0); /* the caller has gone: the order is void */
	worker_state.shared = dsm_segment_address(segment);
	database = worker_state.shared->database;
	role = worker_state.shared->role;
	worker_connect(database, role, worker_state.shared->can_login);
	worker_pin_settings();
	MemoryContextSwitchTo(TopMemoryContext);
	copy_options(worker_state.shared, &options);
	do
	{
		run_guarded(&options);
	} while (step_again());
	proc_exit(0);
}

/* ---- the caller ---- */

bool
worker_role_can_login(Oid role)
{
	HeapTuple tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(role));
	bool result = false;

	if (HeapTupleIsValid(tuple))
	{
		result = ((Form_pg_authid) GETSTRUCT(tuple))->rolcanlogin;
		ReleaseSysCache(tuple);
	}
	return result;
}

static dsm_segment *
share_options(Oid role, const RunOptions *options)
{
	Size only_size = 0;
	dsm_segment *segment;
	SharedRun *shared;
	char *p;
	int i;

	for (i = 0; i < options->nonly; i++)
		only_size += strlen(options->only[i]) + 1;
	segment = dsm_create(offsetof(SharedRun, only) + only_size, 0);
	shared = dsm_segment_address(segment);
	memset(shared, 0, offsetof(SharedRun, only));
	pg_atomic_init_u32(&shared->phase, PHASE_ASKED);
	shared->database = MyDatabaseId;
	shared->role = role;
	shared->can_login = worker_role_can_login(role);
	shared->caller = MyProcPid;
	shared->push = options->push;
	shared->pull = options->pull;
	shared->dry_run = options->dry_run;
	shared->diff = options->diff;
	shared->force = options->force;
	shared->backfill = options->backfill;
	shared->take = options->take;
	shared->cleanup = options->cleanup;
	shared->cleanup_days = options->cleanup_days;
	shared->nonly = options->nonly;
	p = shared->only;
	for (i = 0; i < options->nonly; i++)
	{
		strcpy(p, options->only[i]);
		p += strlen(p) + 1;
	}
	return segment;
}

static BackgroundWorkerHandle *
register_worker(dsm_segment *segment)
{
	BackgroundWorker worker;
	BackgroundWorkerHandle *handle;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags =
		BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker.bgw_library_name, "ekksync", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "ekksync_run_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "ekksync run", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "ekksync run", BGW_MAXLEN);
	worker.bgw_main_arg = UInt32GetDatum(dsm_segment_handle(segment));
	worker.bgw_notify_pid = MyProcPid;
	if (!RegisterDynamicBackgroundWorker(&worker, &handle))
		ereport(ERROR, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
						errmsg("could not start a worker for the run"),
						errdetail("All background worker slots are in use."),
						errhint("Consider increasing the configuration "
								"parameter \"max_worker_processes\".")));
	return handle;
}

static void
throw_refusal(const SharedRun *shared)
{
	ereport(ERROR, (errcode(shared->sqlstate), errmsg("%s", shared->message),
					shared->detail[0] ? errdetail("%s", shared->detail) : 0,
					shared->hint[0] ? errhint("%s", shared->hint) : 0));
}

/* Has the worker said enough for this caller? */
static bool
is_answered(SharedPhase phase, bool wait)
{
	return phase >= PHASE_ENDED || (phase == PHASE_STARTED && !wait);
}

WorkerOutcome
worker_start(Oid role, const RunOptions *options, bool wait, int64 *run_id)
{
	dsm_segment *segment = share_options(role, options);
	SharedRun *shared = dsm_segment_address(segment);
	BackgroundWorkerHandle *handle = register_worker(segment);
	SharedPhase phase;
	pid_t pid;

	for (;;)
	{
		bool stopped = GetBackgroundWorkerPid(handle, &pid) == BGWH_STOPPED;

		phase = pg_atomic_read_u32(&shared->phase);
		pg_read_barrier();
		if (is_answered(phase, wait) || stopped)
			break;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH, -1,
						 wait_event(WAIT_RUN));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	*run_id = shared->run_id;
	if (phase == PHASE_REFUSED)
		throw_refusal(shared);
	dsm_detach(segment);
	switch (phase)
	{
		case PHASE_STARTED:
			return wait ? WORKER_DIED : WORKER_RUNNING;
		case PHASE_ENDED:
			return WORKER_ENDED;
		case PHASE_BUSY:
			return WORKER_BUSY;
		case PHASE_ASKED:
		case PHASE_REFUSED:
			break;
	}
	return WORKER_DIED;
}
