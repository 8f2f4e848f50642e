/*
 * launcher.c
 *		The launcher: starts a worker in each database of ekksync.databases
 *		when a run is due there.
 *
 * It is connected to no database, and so reads no table and none of the
 * settings of a database: a short-lived worker in the database looks them up
 * (scheduled.c), when the launcher starts, its configuration is read again, a
 * run is due or has ended, and otherwise once an hour.  What such a worker
 * says is in shared memory, and stays there when the launcher dies.
 *
 * A database in which no run can be made is tried again, less and less often,
 * and is in the log once for each reason.
 *
 * May not know: schedules, runs, tables.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "ekksync.h"
#include "launcher.h"
#include "pg_compat.h"
#include "settings.h"
#include "steps.h"

/* Seconds until the launcher is back after it was killed. */
#define RESTART_S 5

/* Longest time between two looks at a database, in microseconds. */
#define LOOK_EVERY (INT64CONST(3600) * USECS_PER_SEC)

/* Time to the next try where another run is in progress. */
#define BUSY_PAUSE (INT64CONST(60) * USECS_PER_SEC)

/* Where no run can be made: time to the next try at first, and at last. */
#define FIRST_PAUSE (INT64CONST(5) * USECS_PER_SEC)
#define LAST_PAUSE (INT64CONST(600) * USECS_PER_SEC)

/* Longest sleep, in ms: within it a step of the system's clock is noticed. */
#define LONGEST_NAP 60000L

typedef enum Work
{
	WORK_NONE,
	WORK_LOOK,
	WORK_RUN
} Work;

static const char *const entries[] = {NULL, "ekksync_look_main",
									  "ekksync_scheduled_main"};
static const char *const types[] = {NULL, "ekksync look", "ekksync run"};

/* A database. */
typedef struct Slot
{
	char name[NAMEDATALEN]; /* "": the slot is free */
	uint32 order;			/* number of the last order; older ones are void */
	bool wake;				/* look at it now */
	bool looked;			/* next and told are known */
	TimestampTz next;		/* that a run is due, 0: never */
	TimestampTz wake_at;	/* of the next look */
	int failures;			/* in a row */
	char told[LAUNCHER_TEXT]; /* why no run can be made, as it is in the log */
	LauncherOrder asked;
	LauncherAnswer answer;
} Slot;

typedef struct Shared
{
	LWLock *lock; /* over all that follows */
	pid_t launcher;
	Slot slots[LAUNCHER_DATABASES];
} Shared;

/* A worker's number, in its bgw_extra. */
typedef struct Ticket
{
	int slot;
	uint32 order;
} Ticket;

/* Per-process state. */
static struct
{
	Shared *shared; /* NULL: the library is not preloaded */
	shmem_request_hook_type next_request;
	shmem_startup_hook_type next_startup;

	/* the launcher's */
	BackgroundWorkerHandle *handles[LAUNCHER_DATABASES];
	Work works[LAUNCHER_DATABASES];
	TimestampTz seen; /* what the clock showed last */
	uint32 wait_event;

	/* a backend's */
	bool nudging;
	bool watching; /* the end of transactions */
} launcher;

PGDLLEXPORT void ekksync_launcher_main(Datum main_arg);

/* ------------------------------------------------------------ shared memory */

static void
lock_shared(LWLockMode mode)
{
	LWLockAcquire(launcher.shared->lock, mode);
}

static void
unlock_shared(void)
{
	LWLockRelease(launcher.shared->lock);
}

static void
request_shmem(void)
{
	if (launcher.next_request != NULL)
		launcher.next_request();
	RequestAddinShmemSpace(MAXALIGN(sizeof(Shared)));
	RequestNamedLWLockTranche("ekksync", 1);
}

static void
startup_shmem(void)
{
	bool found;

	if (launcher.next_startup != NULL)
		launcher.next_startup();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	launcher.shared = ShmemInitStruct("ekksync", sizeof(Shared), &found);
	if (!found)
	{
		memset(launcher.shared, 0, sizeof(Shared));
		launcher.shared->lock = &(GetNamedLWLockTranche("ekksync"))->lock;
	}
	LWLockRelease(AddinShmemInitLock);
}

void
launcher_register(void)
{
	BackgroundWorker worker;

	if (!process_shared_preload_libraries_in_progress || IsBinaryUpgrade)
		return;
	compat_request_shmem(request_shmem, launcher.next_request);
	launcher.next_startup = shmem_startup_hook;
	shmem_startup_hook = startup_shmem;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags =
		BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = RESTART_S;
	strlcpy(worker.bgw_library_name, "ekksync", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "ekksync_launcher_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "ekksync launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "ekksync launcher", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}

/* ------------------------------------------------------- what is to be done */

bool
launcher_split(char *list, List **names)
{
	return SplitGUCList(list, ',', names);
}

/* The slot of a database, or -1; "" finds a free one. */
static int
find_slot(const char *name)
{
	int i;

	for (i = 0; i < LAUNCHER_DATABASES; i++)
	{
		if (strcmp(launcher.shared->slots[i].name, name) == 0)
			return i;
	}
	return -1;
}

static bool
is_listed(const List *names, const char *name)
{
	const ListCell *cell;

	foreach (cell, names)
	{
		if (strcmp(lfirst(cell), name) == 0)
			return true;
	}
	return false;
}

/* Whatever is under way in the slot is not heard of any more. */
static void
clear_slot(int i)
{
	Slot *slot = &launcher.shared->slots[i];
	uint32 order = slot->order;

	memset(slot, 0, sizeof(*slot));
	slot->order = order + 1;
	if (launcher.handles[i] != NULL)
		pfree(launcher.handles[i]);
	launcher.handles[i] = NULL;
	launcher.works[i] = WORK_NONE;
}

/* Fit the slots to ekksync.databases; all are looked at anew, at once. */
static void
read_list(void)
{
	List *names = NIL;
	ListCell *cell;
	int i;

	(void) launcher_split(pstrdup(settings.databases), &names);
	lock_shared(LW_EXCLUSIVE);
	for (i = 0; i < LAUNCHER_DATABASES; i++)
	{
		Slot *slot = &launcher.shared->slots[i];

		if (slot->name[0] != '\0' && !is_listed(names, slot->name))
			clear_slot(i);
		slot->wake = true;
		slot->failures = 0;
	}
	foreach (cell, names)
	{
		if (find_slot(lfirst(cell)) < 0 && (i = find_slot("")) >= 0)
			strlcpy(launcher.shared->slots[i].name, lfirst(cell), NAMEDATALEN);
	}
	unlock_shared();
}

static TimestampTz
launcher_now(void)
{
	TimestampTz now = GetCurrentTimestamp();

	(void) step_clock(&now);
	return now;
}

/*
 * Times of the future that were reckoned by a clock that has since been set
 * back are void: look at all databases anew.
 */
static void
notice_step_back(TimestampTz now)
{
	int i;

	if (now < launcher.seen)
	{
		lock_shared(LW_EXCLUSIVE);
		for (i = 0; i < LAUNCHER_DATABASES; i++)
			launcher.shared->slots[i].wake = true;
		unlock_shared();
	}
	launcher.seen = now;
}

/* --------------------------------------------------------- starting workers */

/* Note why no run can be made (NULL: one can), and log it if that is new. */
static void
tell(Slot *slot, const char *problem)
{
	char name[NAMEDATALEN];
	char text[LAUNCHER_TEXT];

	strlcpy(text, problem ? problem : "", sizeof(text));
	lock_shared(LW_EXCLUSIVE);
	strlcpy(name, slot->name, sizeof(name));
	slot->looked = true;
	if (strcmp(slot->told, text) == 0)
	{
		unlock_shared();
		return;
	}
	strlcpy(slot->told, text, sizeof(slot->told));
	unlock_shared();
	if (problem == NULL)
		ereport(LOG, (errmsg("ekksync runs are made in database \"%s\" again",
							 name)));
	else
		ereport(LOG,
				(errmsg("ekksync cannot make runs in database \"%s\": %s",
						name, mask_message(text)),
				 errdetail("It is tried again, in silence until something "
						   "changes.")));
}

/*
 * The run for a time of the schedule has died too often.  That others could
 * be made is not known before one is.
 */
static void
tell_given_up(Slot *slot, TimestampTz due)
{
	char name[NAMEDATALEN];

	lock_shared(LW_EXCLUSIVE);
	strlcpy(name, slot->name, sizeof(name));
	slot->looked = true;
	slot->told[0] = '\0';
	unlock_shared();
	ereport(LOG,
			(errmsg("ekksync gives up the run in database \"%s\" that was "
					"due at %s",
					name, timestamptz_to_str(due)),
			 errdetail("Its worker has ended before it was done each time "
					   "that it was begun."),
			 errhint("The next run is made at its time.")));
}

/* It did not work: wait, the longer the more often that happens. */
static void
put_off(Slot *slot, TimestampTz now, const char *problem)
{
	int64 pause = FIRST_PAUSE << Min(slot->failures, 10);

	lock_shared(LW_EXCLUSIVE);
	slot->failures++;
	slot->next = 0;
	slot->wake_at = now + Min(pause, LAST_PAUSE);
	unlock_shared();
	tell(slot, problem);
}

/* The order is in shared memory; is there a process that carries it out? */
static bool
start_process(int i, Work work)
{
	Slot *slot = &launcher.shared->slots[i];
	Ticket ticket = {i, slot->order};
	BackgroundWorker worker;
	MemoryContext old;
	bool done;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags =
		BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker.bgw_library_name, "ekksync", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, entries[work], BGW_MAXLEN);
	snprintf(worker.bgw_name, BGW_MAXLEN, "%s in %s", types[work], slot->name);
	strlcpy(worker.bgw_type, types[work], BGW_MAXLEN);
	memcpy(worker.bgw_extra, &ticket, sizeof(ticket));
	worker.bgw_notify_pid = MyProcPid;
	old = MemoryContextSwitchTo(TopMemoryContext);
	done = RegisterDynamicBackgroundWorker(&worker, &launcher.handles[i]);
	MemoryContextSwitchTo(old);
	if (!done)
		launcher.handles[i] = NULL;
	return done;
}

static void
start_work(int i, Work work, TimestampTz now)
{
	Slot *slot = &launcher.shared->slots[i];

	lock_shared(LW_EXCLUSIVE);
	slot->order++;
	slot->wake = false;
	strlcpy(slot->asked.database_name, slot->name, NAMEDATALEN);
	slot->asked.now = now;
	slot->asked.looked = slot->answer;
	memset(&slot->answer, 0, sizeof(slot->answer));
	unlock_shared();
	launcher.works[i] = work;
	if (!start_process(i, work))
		put_off(slot, now, "all background worker slots are in use");
}

/* A worker has ended: what comes of it? */
static void
take_answer(int i, TimestampTz now)
{
	Slot *slot = &launcher.shared->slots[i];
	LauncherAnswer answer;

	pfree(launcher.handles[i]);
	launcher.handles[i] = NULL;
	lock_shared(LW_EXCLUSIVE);
	answer = slot->answer;
	if (answer.outcome == LAUNCHER_LATER || answer.outcome == LAUNCHER_RAN)
		slot->failures = 0;
	if (answer.outcome == LAUNCHER_LATER || answer.outcome == LAUNCHER_DUE)
		slot->next = answer.next;
	if (answer.outcome == LAUNCHER_LATER)
		slot->wake_at = answer.next == 0 ? now + LOOK_EVERY
										 : Min(answer.next, now + LOOK_EVERY);
	if (answer.outcome == LAUNCHER_RAN)
		slot->wake_at = now;
	if (answer.outcome == LAUNCHER_BUSY)
		slot->wake_at = now + BUSY_PAUSE;
	unlock_shared();
	if (answer.given_up != 0)
		tell_given_up(slot, answer.given_up);
	switch (answer.outcome)
	{
		case LAUNCHER_LATER:
		case LAUNCHER_RAN:
			tell(slot, NULL);
			break;
		case LAUNCHER_DUE:
			start_work(i, WORK_RUN, now);
			break;
		case LAUNCHER_BUSY:
			break;
		case LAUNCHER_NONE:
			put_off(slot, now, "its worker ended before it was done");
			break;
		case LAUNCHER_PROBLEM:
			put_off(slot, now, answer.problem);
			break;
	}
}

/* What is there to do for a database? */
static void
attend(int i, TimestampTz now)
{
	Slot *slot = &launcher.shared->slots[i];
	pid_t pid;

	if (launcher.handles[i] != NULL)
	{
		if (GetBackgroundWorkerPid(launcher.handles[i], &pid) != BGWH_STOPPED)
			return;
		take_answer(i, now);
	}
	if (slot->name[0] != '\0' && launcher.handles[i] == NULL &&
		(slot->wake || slot->wake_at <= now))
		start_work(i, WORK_LOOK, now);
}

/* ------------------------------------------------------------- the launcher */

static void
forget_launcher(int code, Datum arg)
{
	lock_shared(LW_EXCLUSIVE);
	launcher.shared->launcher = 0;
	unlock_shared();
}

static void
nap(void)
{
	int events = WL_LATCH_SET | WL_EXIT_ON_PM_DEATH;
	TimestampTz now = launcher_now();
	long timeout = -1;
	int i;

	for (i = 0; i < LAUNCHER_DATABASES; i++)
	{
		const Slot *slot = &launcher.shared->slots[i];
		long ms = LONGEST_NAP;

		if (slot->name[0] == '\0')
			continue;
		if (launcher.handles[i] == NULL && slot->wake_at - now < ms * 1000)
			ms = slot->wake_at <= now ? 0 : (slot->wake_at - now) / 1000 + 1;
		timeout = timeout < 0 ? ms : Min(timeout, ms);
	}
	if (step_clock(&now)) /* a test's clock gives no sign */
		timeout = timeout < 0 ? STEP_CLOCK_MS : Min(timeout, STEP_CLOCK_MS);
	if (timeout >= 0)
		events |= WL_TIMEOUT;
	(void) WaitLatch(MyLatch, events, timeout, launcher.wait_event);
	ResetLatch(MyLatch);
}

/* Entry of the launcher's process. */
void
ekksync_launcher_main(Datum main_arg)
{
	MemoryContext cxt;
	int i;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	pqsignal(SIGINT, SIG_IGN);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	launcher.wait_event = WaitEventExtensionNew("EkksyncLauncher");
	before_shmem_exit(forget_launcher, (Datum) 0);
	lock_shared(LW_EXCLUSIVE);
	launcher.shared->launcher = MyProcPid;
	unlock_shared();
	cxt = AllocSetContextCreate(TopMemoryContext, "ekksync launcher",
								ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(cxt);
	/* a SIGHUP may have come before there was a handler */
	ConfigReloadPending = true;
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			read_list();
		}
		notice_step_back(launcher_now());
		for (i = 0; i < LAUNCHER_DATABASES; i++)
			attend(i, launcher_now());
		MemoryContextReset(cxt);
		nap();
	}
}

/* -------------------------------------------------- in the workers it starts */

static bool
read_ticket(Ticket *ticket)
{
	memcpy(ticket, MyBgworkerEntry->bgw_extra, sizeof(*ticket));
	return launcher.shared != NULL &&
		   launcher.shared->slots[ticket->slot].order == ticket->order;
}

bool
launcher_order(LauncherOrder *order)
{
	Ticket ticket;
	bool valid;

	lock_shared(LW_SHARED);
	valid = read_ticket(&ticket);
	if (valid)
		*order = launcher.shared->slots[ticket.slot].asked;
	unlock_shared();
	return valid;
}

void
launcher_answer(const LauncherAnswer *answer)
{
	Ticket ticket;

	lock_shared(LW_EXCLUSIVE);
	if (read_ticket(&ticket))
		launcher.shared->slots[ticket.slot].answer = *answer;
	unlock_shared();
}

/* ------------------------------------------------------------- in backends */

void
launcher_view(LauncherView *view)
{
	const char *name = get_database_name(MyDatabaseId);
	int i;

	memset(view, 0, sizeof(*view));
	view->preloaded = launcher.shared != NULL;
	if (!view->preloaded)
		return;
	lock_shared(LW_SHARED);
	view->pid = launcher.shared->launcher;
	i = name != NULL ? find_slot(name) : -1;
	if (i >= 0)
	{
		const Slot *slot = &launcher.shared->slots[i];

		view->listed = true;
		view->looked = slot->looked;
		view->next = slot->next;
		strlcpy(view->problem, slot->told, sizeof(view->problem));
	}
	unlock_shared();
}

char *
launcher_silent(char **hint)
{
	LauncherView view;

	*hint = NULL;
	launcher_view(&view);
	if (!view.preloaded)
	{
		*hint = "Put ekksync into shared_preload_libraries and this database "
				"into ekksync.databases, and restart the server.";
		return pstrdup("nothing is scheduled: the library is not preloaded");
	}
	if (RecoveryInProgress())
		return pstrdup("nothing is scheduled: this server is a standby");
	if (view.pid == 0)
		return pstrdup("nothing is scheduled: the launcher is not there");
	if (!view.listed)
	{
		*hint = "Put it into ekksync.databases, and call pg_reload_conf().";
		return pstrdup("nothing is scheduled: this database is not in "
					   "ekksync.databases");
	}
	if (view.problem[0] != '\0')
		return psprintf("nothing is scheduled: %s", view.problem);
	if (!view.looked)
		return pstrdup("nothing is scheduled yet: the launcher has not looked "
					   "at this database");
	if (view.next == 0)
	{
		*hint = "Set ekksync.schedule for the database, and call "
				"pg_reload_conf().";
		return pstrdup("nothing is scheduled: ekksync.schedule is empty, or "
					   "is never due");
	}
	return NULL;
}

static void
nudge(void)
{
	PGPROC *proc;
	int i;

	lock_shared(LW_EXCLUSIVE);
	for (i = 0; i < LAUNCHER_DATABASES; i++)
		launcher.shared->slots[i].wake = true;
	proc = launcher.shared->launcher != 0
			   ? BackendPidGetProc(launcher.shared->launcher)
			   : NULL;
	unlock_shared();
	if (proc != NULL)
		SetLatch(&proc->procLatch);
}

static void
at_transaction_end(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT)
		return;
	if (launcher.nudging && event == XACT_EVENT_COMMIT)
		nudge();
	launcher.nudging = false;
}

void
launcher_nudge(void)
{
	if (launcher.shared == NULL)
		return;
	if (!launcher.watching)
		RegisterXactCallback(at_transaction_end, NULL);
	launcher.watching = true;
	launcher.nudging = true;
}
