/*
 * trail.h
 *		SQL over what runs have left behind: conflicts, the change log, queue
 *		entries; for functions that look back and overturn.
 *
 * All functions run as the extension's owner, inside a transaction of the
 * caller; results are palloc'd in the current memory context.
 */
#ifndef EKKSYNC_TRAIL_H
#define EKKSYNC_TRAIL_H

#include "run.h"

/* A row of ekksync.conflict; values canonical, NULL for an SQL null. */
typedef struct TrailConflict
{
	int64 id;
	char *key;
	char *field;
	char *django_value;
	char *firestore_value;
	TimestampTz django_time; /* 0: unknown */
	TimestampTz firestore_time;
	char *winner; /* django, firestore; none: held */
	char *rule;
	TimestampTz resolved_at; /* 0: it is not */
	char *resolved_by;
} TrailConflict;

/* What a run wrote to one field on one side, from its first value to its last. */
typedef struct TrailChange
{
	char *key;
	char *side; /* django, firestore */
	char *field;
	char *old_value;
	char *new_value;
	bool created; /* the document, with this and all other fields */
	bool filled;  /* the side had nothing there, and never had */
} TrailChange;

/* An event for ekksync_history; texts but "what" may be NULL. */
typedef struct TrailEvent
{
	TimestampTz at;
	int rank; /* of events at the same time */
	const char *what;
	char *field;
	char *old_value; /* JSON */
	char *new_value;
	int64 run; /* 0: none */
	char *detail;
} TrailEvent;

/* A run, as far as it matters whether it can be undone. */
typedef struct TrailRun
{
	bool running;
	bool dry_run;
} TrailRun;

/* ---- conflicts ---- */

/* The conflict with this number; lock: for an update.  False: there is none. */
extern bool trail_conflict(int64 id, bool lock, TrailConflict *c);

/* The open conflicts of members that are held, newest first: TrailConflict. */
extern List *trail_held(Member **members, int n);

/* Close conflicts that are open, by a person's or a run's name. */
extern void trail_close(const int64 *ids, int n, const char *by);

/*
 * Make a value the base of a field of the member with this key, who is looked
 * at again by the next run.  The base's stamp does not go back.
 */
extern void trail_set_base(const char *key, const char *field,
						   const char *value, TimestampTz stamp,
						   MergeOrigin origin);

/* ---- runs ---- */

/* False: there is no run with this number. */
extern bool trail_run(int64 id, TrailRun *run);

/* What a run wrote, by member, field and side: TrailChange. */
extern List *trail_changes(int64 run);

/* ---- members ---- */

/* Events of a member: conflicts and writes of runs.  TrailEvent. */
extern List *trail_events(const char *key);

/* A member's queue entries, with note or error as message; times in *events. */
extern List *trail_entries(const char *key, List **events);

#endif /* EKKSYNC_TRAIL_H */
