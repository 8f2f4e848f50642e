/*
 * store.h
 *		SQL over the extension's own tables (schema ekksync).
 *
 * All functions run as the extension's owner, inside a transaction of the
 * caller; results are palloc'd in cxt.
 */
#ifndef EKKSYNC_STORE_H
#define EKKSYNC_STORE_H

#include "run.h"
#include "scope.h"

/* A row of ekksync.state, as far as a run needs it. */
typedef struct StoreState
{
	bool paused;
	char *paused_reason;
	char *project; /* NULL: not bound yet */
	char *database_id;
	int64 system_identifier; /* 0: not bound yet */
	bool accepted;			 /* ekksync_resume() lets it be bound anew */
	TimestampTz last_scan;
	TimestampTz last_full_scan;
	char *scan_after;		/* document a full scan got to, NULL: none is
								* under way */
	char *changed_after;	/* the same for one of changed documents */
	char *changed_value;	/* its updated_at, as JSON of a Value */
	TimestampTz scan_since; /* the begin of either */
	char *stage_after;		/* entry that staging got to, NULL: none is left */
} StoreState;

/* The fence: which of our documents in sync_logs is the newest. */
typedef struct StoreFence
{
	int64 number;	/* of the last one known to be there, 0: none */
	char *token;	/* in it; NULL: none */
	char *next;		/* of the one after it, if it may be there; or NULL */
	char *accepted; /* by ekksync_resume(), and not yet used; or NULL */
} StoreFence;

/* Which time of the schedule was served last. */
typedef struct StoreSchedule
{
	char *schedule; /* expression and zone; NULL: none has been in force */
	TimestampTz at; /* by the launcher's clock */
	int64 tries;	/* runs begun for it and not ended */
} StoreSchedule;

/* A run as its document in sync_logs shows it. */
typedef struct StoreRunLog
{
	int64 id;
	TimestampTz started_at;
	TimestampTz finished_at;
	RunFigures figures;
	char *error; /* or NULL */
	bool ended;	 /* it has done all it had to; only its record may be open */
} StoreRunLog;

/* What a run found out about itself at its end. */
typedef struct RunEnd
{
	const char *status; /* success, failed */
	const char *phase;
	const char *sqlstate; /* or NULL */
	const char *error;	  /* or NULL */
} RunEnd;

/*
 * Run one statement over our tables, as the extension's owner.  store_sql
 * leaves SPI connected for its result: sql_leave ends it.
 */
extern void store_sql(SqlScope *scope, const char *query, int nargs,
					  Oid *types, Datum *values, const char *nulls);
extern void store_sql_only(const char *query, int nargs, Oid *types,
						   Datum *values, const char *nulls);

/* attachment and runs (runs.c) */
extern bool store_state(StoreState *state, MemoryContext cxt);
extern void store_bind(const char *project, const char *database_id,
					   int64 system_identifier);
extern void store_fence(StoreFence *fence, MemoryContext cxt);

/* Put a new token into fence->next, for the document after the last one. */
extern void store_fence_next(StoreFence *fence, MemoryContext cxt);

/* The document fence->number with the token fence->next is the last one. */
extern void store_fence_raised(const StoreFence *fence);

/* refused: a run refuses to go on; what it met is accepted by store_resume. */
extern void store_pause(const char *reason, bool refused);
extern void store_resume(void);

/* Forget all that the sides agreed on: every member is a first contact. */
extern void store_forget_base(void);
extern void store_scanned(TimestampTz at, bool full);

/*
 * A scan that began at since got to a document, and is to go on.  value: its
 * updated_at, for a scan of changed documents; NULL: it is a full one.
 */
extern void store_scan_left(const char *name, const char *value,
							TimestampTz since);

/* The entries that are staged, up to this one, are for the next run as well. */
extern void store_stage_left(const char *name);

extern void store_schedule(StoreSchedule *served, MemoryContext cxt);
extern void store_schedule_note(const StoreSchedule *served);

/*
 * A run for this time begins; false if one has been made.  And it has ended:
 * in the transaction that says so on its record.
 */
extern bool store_schedule_begin(TimestampTz due);
extern void store_schedule_end(TimestampTz due);

/* runs */
/*
 * Close the records of runs that died as interrupted.  The caller knows that
 * none goes on: it holds the run lock.
 */
extern void store_runs_interrupted(void);
extern void store_run_start(Run *run, const char *direction, const char *mode,
							const char *scan);
extern void store_run_scan(Run *run, const char *scan);
extern void store_run_progress(Run *run, const char *phase);
extern void store_run_end(Run *run, const RunEnd *end);
extern void store_run_log(Run *run);

/* The run whose document this is; false if there is no record of it. */
extern bool store_run_of_log(const char *log_id, StoreRunLog *log,
							 MemoryContext cxt);
extern int64 store_run_current(void);

/*
 * Is this a run that writes (or observes, as all runs do then), works on all
 * members, and has this direction (as given to store_run_start)?
 */
extern bool store_run_is_plain(int64 id, const char *direction);

/* members */
/* Keys after "after" in C order: of members that are due, or of all. */
extern List *store_due_keys(const char *after, int limit, bool all,
							MemoryContext cxt);

/* How many members there are, as far as runs know, that are not deleted. */
extern int64 store_count_members(void);

/* anew: read as if nothing had ever been synced. */
extern void store_read_members(const Mapping *map, Member **members, int n,
							   bool anew, MemoryContext cxt);
/*
 * Set "again" of those whose record has been written by others since it was
 * read: a person has decided.  Locks the records: nobody decides after that
 * until the transaction ends.
 */
extern void store_recheck(Member **members, int n);
extern void store_read_pushed(const Mapping *map, Member **members, int n,
							  MemoryContext cxt);
extern void store_write_members(Run *run, Member **members, int n);

/*
 * Notes of queue rows settled by hand: the keys after "after" that have some,
 * those of members, and forget what was read of members.  And a note that is
 * of no row, so that the next run looks at these keys.
 */
extern List *store_touched_keys(const char *after, int limit,
								MemoryContext cxt);
extern void store_read_touched(Member **members, int n, MemoryContext cxt);
extern void store_forget_touched(Member **members, int n);
extern void store_touch(List *keys);

/*
 * Of documents seen by a scan, mark those due whose updateTime is not the
 * known one.  With full, members between after and upto (C order, after
 * excluded; NULL: open) that are not among them are marked due as well.
 */
extern void store_scan_page(char **keys, TimestampTz *times, int n, bool full,
							const char *after, const char *upto);

/* strangers and tombstones (strangers.c) */
/*
 * Of documents seen by a scan, note those of nobody we know; the parameters
 * are those of store_scan_page.  With full, forget those that have gone.
 */
extern void store_scan_strangers(char **keys, TimestampTz *times, int n,
								 bool full, const char *after,
								 const char *upto);

/* Keys after "after" in C order, of documents that were not tried so far. */
extern List *store_stranger_keys(const char *after, int limit,
								 MemoryContext cxt);

/* Note which of these members are strangers (m->stranger), and which not. */
extern void store_strangers(Run *run, Member **members, int n);

/* Forget all that is known of a member. */
extern void store_forget_member(const char *key);

/* Keys after "after", in C order, of tombstones that may be forgotten. */
extern List *store_old_tombstones(const char *after, int limit,
								  MemoryContext cxt);
extern void store_collect(char **keys, int n);

/* inbox */
typedef struct StagedEntry
{
	char *doc_id;
	char *key; /* NULL: the entry names none */
	char *action;
	char *changes; /* JSON object: path -> Value */
	TimestampTz stamp;
	bool clamped;
	char *error; /* not usable: why */
} StagedEntry;

typedef struct UnclosedEntry
{
	char *doc_id;
	char *key;	  /* NULL: it names no member */
	char *error;  /* NULL: synced */
	bool decided; /* by a run; else it failed when it was staged */
	bool erased;  /* ... or its person was erased: it goes */
} UnclosedEntry;

/* Parse JSON that is freed with cxt; NULL where cJSON cannot. */
extern cJSON *store_json(const char *text, MemoryContext cxt);

extern void store_unstage(void);

/*
 * Stage those again that a run decided as failed; how many.  Their documents
 * say so already, or will: they are told of the new outcome.
 */
extern int64 store_retry_entries(void);
extern void store_stage(StagedEntry *entries, int n);

/* Keys after "after" that have staged entries; upto as in queue_pending_keys. */
extern List *store_inbox_keys(const char *after, int limit, char **upto,
							  MemoryContext cxt);
extern void store_read_entries(Member **members, int n, MemoryContext cxt);

/* Fill members' failures with the entries that failed. */
extern void store_read_failed(Member **members, int n, MemoryContext cxt);
extern void store_decide_entries(Run *run, List *entries);
extern List *store_unclosed(const char *after, int limit, MemoryContext cxt);
extern int64 store_count_unclosed(void);
extern void store_close(char **doc_ids, int n);

/* audit */
/* Returns how many were new (the same conflict is recorded once). */
extern int store_conflicts(Run *run, List *conflicts);

/* changes: JSON object field -> [old, new] */
extern void store_change_log(Run *run, const char *side, char **keys,
							 char **changes, int n);

/*
 * The same of what ekksync_apply() writes to Django: one row for each change,
 * of this time.  And set as the base what the rows of members hold of that,
 * unless the base is later: it is a value of Firestore's side, and was seen.
 */
extern void store_applied(char **keys, char **changes, TimestampTz *stamps,
						  int n);
extern void store_read_applied(const Mapping *map, Member **members, int n,
							   MemoryContext cxt);

/* The same for what writes of earlier tries have changed (m->landed). */
extern void store_landed(Run *run, Member **members, int n);
extern void store_plan_reset(void);

/* One planned write of a dry run. */
typedef struct PlanRow
{
	const char *key;
	const char *side;	   /* django, firestore */
	const char *field;	   /* NULL: the whole member */
	const char *old_value; /* canonical or NULL */
	const char *new_value;
	const char *note;
} PlanRow;

extern void store_plan(Run *run, PlanRow *rows, int n);

/* One difference that ekksync_diff() found. */
typedef struct DiffRow
{
	const char *key;
	const char *field;		  /* NULL: the whole member */
	const char *django_value; /* canonical or NULL */
	const char *firestore_value;
	const char *why;
	const char *detail;
} DiffRow;

extern void store_diff_reset(void);
extern void store_diff(Run *run, DiffRow *rows, int n);

/* the backlog (backlog.c): members that are listed under the number of a run */
/* Forget lists that nobody goes on with. */
extern void store_backlog_tidy(void);

/*
 * Number of the last backfill in this direction of whose list some are left, 0
 * if there is none.
 */
extern int64 store_backlog_open(const char *direction);

/*
 * List all members that are known, and with strangers all documents of
 * strangers that could be inserted; or those of whom the run's comparison
 * shows something; or these keys.
 */
extern void store_backlog_members(int64 run, bool strangers);
extern void store_backlog_differing(int64 run, bool strangers);
extern void store_backlog_add(int64 run, List *keys);

/* Up to limit keys behind a key (NULL: from the start), in the list's order. */
extern List *store_backlog_keys(int64 run, const char *after, int limit,
								MemoryContext cxt);
extern int64 store_backlog_count(int64 run);

/* Strike out the keys up to this one; all of them. */
extern void store_backlog_done(int64 run, const char *key);
extern void store_backlog_end(int64 run);

/* Fill members' held: the conflicts that nobody has resolved. */
extern void store_read_held(Member **members, int n, MemoryContext cxt);

#endif /* EKKSYNC_STORE_H */
