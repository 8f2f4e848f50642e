/*
 * launcher.h
 *		What the launcher and the workers that it starts share: of each
 *		database in ekksync.databases, when a run is due, and what came of it.
 *
 * It is there when the library is in shared_preload_libraries only.
 */
#ifndef EKKSYNC_LAUNCHER_H
#define EKKSYNC_LAUNCHER_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"

/* Most databases in ekksync.databases. */
#define LAUNCHER_DATABASES 64

/* Longest reason, in bytes. */
#define LAUNCHER_TEXT 256

/* What a worker of the launcher's has come to. */
typedef enum LauncherOutcome
{
	LAUNCHER_NONE,	 /* it has not said */
	LAUNCHER_LATER,	 /* nothing is due; "next" says when something is */
	LAUNCHER_DUE,	 /* a run is due: for "due", by "role" */
	LAUNCHER_RAN,	 /* the run is over, or was not needed; its record says how
					 */
	LAUNCHER_BUSY,	 /* another run is in progress, or runs are held off */
	LAUNCHER_PROBLEM /* it could not; "problem" says why */
} LauncherOutcome;

/* A worker's answer. */
typedef struct LauncherAnswer
{
	LauncherOutcome outcome;
	TimestampTz due;  /* time of the schedule that a run is to be made for */
	TimestampTz next; /* and the first one that is to come; 0: none */
	TimestampTz given_up; /* whose run has died too often; 0: none */
	Oid database;
	Oid role; /* to work as */
	bool can_login;
	char problem[LAUNCHER_TEXT];
} LauncherAnswer;

/* What a worker is told. */
typedef struct LauncherOrder
{
	char database_name[NAMEDATALEN];
	TimestampTz now;	   /* by the launcher's clock */
	LauncherAnswer looked; /* a run: what was found out before it */
} LauncherOrder;

/* What the launcher knows of the current database, for people. */
typedef struct LauncherView
{
	bool preloaded;	  /* else nothing else is set */
	bool listed;	  /* in ekksync.databases; else nothing but pid is set */
	int pid;		  /* of the launcher, 0: it is not there */
	bool looked;	  /* next and problem are known */
	TimestampTz next; /* 0: nothing is due, ever */
	char problem[LAUNCHER_TEXT];
} LauncherView;

/*
 * Called once by _PG_init: asks for shared memory and registers the launcher,
 * where that can be.
 */
extern void launcher_register(void);

/* Split ekksync.databases into names; false if it is malformed. */
extern bool launcher_split(char *list, List **names);

/* In a worker of the launcher's: its order; false if it is void by now. */
extern bool launcher_order(LauncherOrder *order);

/* And its answer.  Throws nothing. */
extern void launcher_answer(const LauncherAnswer *answer);

/* What is known of this database.  Must be called in a transaction. */
extern void launcher_view(LauncherView *view);

/*
 * Why no run will come by itself in this database; palloc'd.  NULL: one will.
 * *hint is what to do, or NULL.  Must be called in a transaction.
 */
extern char *launcher_silent(char **hint);

/* When this transaction commits, let the launcher look at all databases. */
extern void launcher_nudge(void);

#endif /* EKKSYNC_LAUNCHER_H */
