/*
 * run.h
 *		The state of a run, and of the members that it works on.
 *
 * Shared by the files that make up a run: sync.c leads, pull.c reads
 * Firestore, decide.c merges, apply.c writes PostgreSQL, push.c writes
 * Firestore.  queue.c, rows.c and store.c do the SQL for them.
 */
#ifndef EKKSYNC_RUN_H
#define EKKSYNC_RUN_H

#include "nodes/bitmapset.h"
#include "nodes/pg_list.h"

#include "firestore.h"
#include "mapping.h"
#include "merge.h"
#include "pg_compat.h"

/* What a caller asks of a run. */
typedef struct RunOptions
{
	bool push; /* direction includes Firestore */
	bool pull; /* direction includes Django */
	bool dry_run;
	bool diff;		  /* a dry run that says where the sides differ */
	bool force;		  /* let the mass guard pass */
	bool backfill;	  /* work on all members, whatever is known of them */
	MergeChoice take; /* repair: work on those that differ, and take this
					   * side where nobody has said what is to be */
	bool cleanup;	  /* a dry run that cleans up our side, and no more */
	int cleanup_days; /* for rows of the queue, -1: as set */
	int nonly;		  /* only these members, -1: all */
	char **only;
	TimestampTz scheduled; /* time of the schedule it serves, 0: on demand */
} RunOptions;

/* What is removed when it is old: names in clean.c. */
typedef enum CleanKind
{
	CLEAN_QUEUE,
	CLEAN_INBOX,
	CLEAN_CONFLICTS,
	CLEAN_CHANGES,
	CLEAN_RUNS,
	CLEAN_TOMBSTONES,
	CLEAN_REMOTE_QUEUE,
	CLEAN_REMOTE_LOGS,
	CLEAN_KINDS
} CleanKind;

/* The SQLSTATE of a run that has come to a limit of the day (class 53). */
#define ERRCODE_EKKSYNC_DAY_LIMIT MAKE_SQLSTATE('5', '3', 'E', 'K', '1')

/* Figures of a run, as kept in ekksync.run, left in its error text. */
typedef struct RunFigures
{
	int64 to_firestore; /* members written there */
	int64 to_firestore_failed;
	int64 to_django;
	int64 to_django_failed;
	int64 conflicts;
	int64 left; /* members left for the next run: locked, or moving */
} RunFigures;

/* What a run takes away from a member; deeds in guard.c names each. */
typedef enum Loss
{
	LOSS_NONE,
	LOSS_DELETED,	/* the row is gone: its document is deactivated, or goes */
	LOSS_RECREATED, /* the document is gone, and made again */
	LOSS_BLANKED,	/* a value that is there becomes none, on either side */
	LOSS_KINDS
} Loss;

/* What becomes of a member as a whole, for what Firestore did to it. */
typedef enum Fate
{
	FATE_NONE,	   /* nothing but what its fields say */
	FATE_AWAY,	   /* its document may be away */
	FATE_INACTIVE, /* its document may be inactive */
	FATE_ERASE,	   /* its row goes */
	FATE_INSERT,   /* it gets a row */
	FATE_STRANGER, /* it is gone, and its document another's: forgotten */
	FATE_WAIT	   /* a time would decide, and a clock is wrong */
} Fate;

typedef struct Run
{
	MemoryContext cxt;		/* of the run */
	MemoryContext page_cxt; /* of a page of members, reset often */
	RunOptions opt;
	Mapping *map;
	FsClient *fs;
	int64 id;
	char *log_id; /* of the sync_logs document */
	TimestampTz started_at;
	TimestampTz now;	   /* by Firestore's clock, when the queue was read */
	TimestampTz staged_at; /* by Firestore's clock, when entries were read */
	TimestampTz last_scan; /* 0: never */
	TimestampTz last_full; /* scan, or attachment */
	bool full_scan;
	int64 docs_scanned;
	int nmask; /* paths read from member documents */
	const FieldPath **mask;
	FieldPath deleted_at;
	FieldPath last_modified;
	FieldPath last_sync;
	FieldPath sync_write; /* the mark of the last write that was taken */
	int nwrites;		  /* times that a batch was sent */
	RunFigures figures;
	List *phases; /* RunPhase, see progress.c */

	/* for the guard */
	int64 members;			  /* when it first asked; -1: it has not */
	int64 losses[LOSS_KINDS]; /* of the members so far */

	bool anew;			 /* a dry run on another project: as if nothing
								 * had been synced */
	int64 peak_memory;	 /* kB */
	bool logged;		 /* the sync_logs document is there */
	int apply_size;		 /* members that get values in one transaction */
	FsCost charged;		 /* what is in the ledger */
	bool ending;		 /* its own documents are all that is left to write */
	char *scan_after;	 /* name of the last document of a full scan that is
								* not complete, NULL: none is under way */
	char *changed_after; /* the same for a scan of changed documents */
	char *changed_value; /* its updated_at, as JSON of a Value */
	TimestampTz scan_since; /* the begin of either */
	bool scan_left;			/* it goes on in the next run */
	char *stage_after;		/* name of the last entry that was staged */
	bool stage_kept;		/* entries were taken over from an earlier run */
	bool stage_heavy;		/* they take more than half of the day's reads */
	bool reads_gone;		/* something is left for another day's reads */
	int64 cleaned[CLEAN_KINDS];
	char *clean_error; /* why something could not be cleaned up */
	int64 backlog;	   /* in ekksync.backlog are its members, under this
						* number; 0: it works on those that are due */
	int64 stuck;	   /* members that could not be recorded */
	char *stuck_error; /* why the last of them */
} Run;

/* The value that both sides last agreed on. */
typedef struct BaseValue
{
	char *value;	   /* canonical; NULL: never agreed */
	TimestampTz stamp; /* of the write that made it */
	MergeOrigin origin;
	bool dirty; /* to be written back */
} BaseValue;

/* What an earlier request may have written, or may still write. */
typedef struct FlightNote
{
	int64 run;
	char *mark;		 /* of the write: the document holds it if it was done */
	TimestampTz at;	 /* when it was noted; 0: it is being noted */
	bool has_pre;	 /* false: the document was to be created */
	TimestampTz pre; /* document updateTime it was sent against */
	int nvalues;
	int *fields;   /* indexes into the mapping */
	char **values; /* canonical */
	TimestampTz *stamps;
	MergeOrigin *origins;
	bool gone;	  /* the document was to be deleted */
	bool dropped; /* settled, or overtaken */
} FlightNote;

/* A pending row of the queue. */
typedef struct PendingRow
{
	int64 id;
	char *action;
	TimestampTz stamp;
	Bitmapset *fields; /* mapped fields it names; NULL: all */
	char *moved_to;	   /* a delete by a changed key: the new key */
	char *error;	   /* why it cannot be synced, NULL if it can */
	bool put_off;	   /* it waits for a right clock */
	bool by_hand;	   /* it is not pending: marked synced by a person */
} PendingRow;

typedef enum EntryOutcome
{
	ENTRY_OPEN,
	ENTRY_SYNCED,
	ENTRY_FAILED
} EntryOutcome;

/* In a staged entry, in place of a Value that cannot be stored: {this: why}. */
#define STAGED_UNUSABLE "unusable"

/* One path of an entry. */
typedef struct EntryChange
{
	int field; /* index into the mapping, -1 (with an error): of
								 * no field */
	const char *path;
	char *value; /* canonical, NULL when error is set */
	char *error;
} EntryChange;

/* A queue document of Firestore, staged. */
typedef struct Entry
{
	char *doc_id;
	char *action;
	TimestampTz stamp; /* effective time */
	cJSON *changes;	   /* path -> Value */
	List *parsed;	   /* EntryChange */
	EntryOutcome outcome;
	char *message; /* error, or note on a synced one */
} Entry;

typedef struct Member
{
	char *key;

	/* as kept by us */
	bool known;
	char *version; /* of our record, as read; NULL: there was none */
	bool due;
	bool first_contact;
	TimestampTz doc_update_time; /* 0: never seen */
	TimestampTz tombstone;		 /* 0: none */
	TimestampTz away; /* since when its document may be, 0: it may not */
	int64 last_run;	  /* that wrote what is known of it */
	BaseValue *base;  /* by field */
	List *notes;	  /* FlightNote, oldest first */
	char *landed;	  /* for the change log: what their writes have changed */
	List *pushed;	  /* PushedValue, for late echoes */
	List *touched;	  /* Touched, of queue rows settled by hand */
	List *failures;	  /* Failure, for ekksync_diff() alone */
	List *held;		  /* HeldConflict, the same */

	/* PostgreSQL */
	int nrows;	  /* rows with this key; usable if 1 */
	Datum id;	  /* of the row, by the mapping's id type */
	char **local; /* canonical by field; NULL: unreadable */
	char **local_error;
	bool *related_missing; /* by field: its related row does not exist */
	List *pending;		   /* PendingRow, oldest first */
	TimestampTz
		*history;	  /* by field: last queue row naming it, for "newest" */
	char *moved_from; /* old key, for a document to be created */
	bool moved;		  /* its key was changed, to one that has a row */
	char *unreadable; /* its rows cannot be read: why */

	/* Firestore */
	FsDoc *doc;
	FsDoc *old_doc;		 /* of moved_from */
	char **remote;		 /* canonical by field; NULL: unreadable */
	char **remote_plain; /* the unreadable value as JSON, if it has one */
	bool *remote_missing;
	List *entries; /* Entry, by stamp */

	/* decision */
	MergeInput *inputs;	 /* by field, as decided on */
	MergeResult *result; /* by field */
	bool *enqueued;		 /* by field: R is an entry's, the document lacks it */
	char **field_error;	 /* by field: cannot be pushed */
	char **encoded;		 /* by field to be pushed: its Value as JSON */
	char **refused;		 /* by field: PostgreSQL refuses what would be
								 * pulled: why; NULL: it refuses nothing */
	bool gone;			 /* the row is gone: deactivate or delete */
	Fate fate;
	MergeStamp when;	  /* it was deleted in Firestore, for FATE_ERASE */
	const char *stranger; /* there is a document, and no member: why */
	bool erased;		  /* the row is gone for the document's sake */
	char *problem;		  /* nothing can be done for the member: why */
	bool create;		  /* the document is to be created */
	bool recreate;		  /* and was there before */
	bool has_pull;
	bool has_push;
	bool again;	   /* the world moved: read, merge, try again */
	bool withheld; /* something stays undone: direction, failure */
	bool unseen;   /* the document may hold a value that is not taken now */
	bool left_out; /* values were, for the document to be taken */
	bool put_off;  /* a field waits for a right clock */
	char *change;  /* of the document, for the change log */
	FsWrite *write;
} Member;

typedef struct PushedValue
{
	int field;
	char *value;
} PushedValue;

/* A queue row that was settled or deleted by hand. */
typedef struct Touched
{
	int64 id;	  /* of the note */
	int64 row_id; /* of the queue row */
} Touched;

/* For ekksync_diff(): a queue row or an entry that failed. */
typedef struct Failure
{
	Bitmapset *fields; /* of a row: those it names */
	Entry *entry;	   /* NULL: it is a row */
	char *error;
} Failure;

/* The same: a conflict that is held. */
typedef struct HeldConflict
{
	int64 id;
	char *field;
	char *rule;
	char *django_value; /* canonical or NULL */
	char *firestore_value;
} HeldConflict;

/* Members that are worked on together. */
typedef struct Batch
{
	int n;
	Member *members;
} Batch;

/* A loser, to be kept for people. */
typedef struct ConflictRow
{
	const char *key;
	const char *field;
	const char *django_value; /* canonical or NULL */
	const char *firestore_value;
	MergeStamp django_stamp;
	MergeStamp firestore_stamp;
	const char *winner;
	const char *rule;
	bool potential;
} ConflictRow;

/* ---- tx.c ---- */
/*
 * A short transaction with a snapshot.  What is palloc'd inside without care
 * goes with it; tx_commit returns to the memory context of tx_begin.
 */
extern void tx_begin(void);
extern void tx_commit(void);
extern ErrorData *tx_guarded(void (*work)(void *arg), void *arg, bool commit);
extern ErrorData *tx_guarded_look(void (*work)(void *arg), void *arg);

/*
 * To the end of this transaction, which holds rows that others may want, wait
 * for a lock no longer than for a moment.
 */
extern void tx_wait_briefly(void);

/* ---- sync.c ---- */

/*
 * What became of a member cannot be recorded, for a reason of its own: the
 * run goes on and ends as failed.  The reason goes to the log, masked.
 */
extern void run_stuck(Run *run, const Member *m, const ErrorData *error);

/*
 * The run enters a phase, a constant, with so many things to do (-1: not
 * known); on record at once.
 */
extern void run_phase(Run *run, const char *phase, int64 total);

/*
 * n more are done in the present phase (0: it is only known how many there
 * are): put that, and the figures so far, on record, in a transaction of its
 * own.
 */
extern void run_progress(Run *run, int64 n);

/* The queue is read: no row of it was written later than now. */
extern void run_tell_time(Run *run);

/* kennitala for logs: all but the last three characters hidden; palloc'd. */
extern char *mask_key(const char *key);

/* End the run with an error (ereport) made of a Firestore error. */
pg_noreturn extern void run_stop(const FsError *err);

/* ---- members.c ---- */

/* Merge sorted lists of keys into one without doubles, at most limit long. */
extern List *merge_keys(List *a, List *b, int limit);

/*
 * Work on all members that have something to do.  False where some of them
 * are left for another run.
 */
extern bool members_work(Run *run);

/* ---- pull.c ---- */
/*
 * Stage all pending entries (begin: those of a run that stopped for the day's
 * reads are gone on with), or those that have come since.  With begin, if the
 * day's reads end first, run->reads_gone: no member has all of its entries then.
 */
extern void pull_entries(Run *run, bool begin);
extern bool pull_scan(Run *run);
extern void pull_documents(Run *run, Batch *batch);
extern void pull_close_entries(Run *run);

/* ---- guard.c ---- */
/* Does the guard watch this run? */
extern bool guard_watches(const Run *run);

/* Is a canonical value null, an empty text or an empty array? */
extern bool guard_is_blank(const char *value);

/* Are n too many of the members? */
extern bool guard_is_too_many(Run *run, int64 n);

/*
 * Can a batch, of which PostgreSQL's side is read, lose anything?  Of first
 * contacts that is known without their documents.
 */
extern bool guard_may_lose(const Run *run, const Batch *batch);

/* Does a member, as decided, lose anything that is counted? */
extern bool guard_loses(const Run *run, const Member *m);

/* Count what the first n of a decided batch lose, for good. */
extern void guard_add(Run *run, const Batch *batch, int n);

/* All batches are looked at: end the run if that is too much, else forget. */
extern void guard_survey_end(Run *run);

/* End the run if this batch, which is decided, makes it too much. */
extern void guard_batch(Run *run, const Batch *batch);

/* ---- batch.c ---- */
/* Work on these; returns the keys that are left, in the batch's context. */
extern List *batch_run(Run *run, List *keys);

/*
 * Read PostgreSQL's side of a batch, a few times if a table is locked: false
 * if it stays so.  Members that keys were changed to come after those of keys.
 */
extern bool batch_read(Run *run, Batch *batch, List *keys);

/* Does the mapping no longer fit the tables?  Then nobody can be read. */
extern bool batch_is_unreadable(Run *run);

/*
 * Count what members would lose, without writing anything; false if they
 * cannot be read now.
 */
extern bool batch_survey(Run *run, List *keys);

/* How many of n members, one at least, are settled in one transaction. */
extern int batch_slice(Member **members, int n);

/* The keys of members as a text[], for a parameter. */
extern Datum member_keys(Member **members, int n);

/* ---- entries.c ---- */
extern void entries_parse(const Mapping *map, Member *m);

/* Is it among the values in pushed that the member's document has had? */
extern bool entries_pushed(const Member *m, int field, const char *value);
extern bool entries_explain(const Member *m, int field, const char *value,
							TimestampTz *stamp);
extern char *entries_enqueued(const Member *m, int field, TimestampTz *stamp);

/* The last value that entries give a field, with its stamp; NULL: none. */
extern char *entries_last(const Member *m, int field, TimestampTz *stamp);

extern bool entries_is_change(const Entry *entry);
extern bool entries_failed_on(const Member *m, int field);
extern void entries_conclude(const Mapping *map, Member *m);
extern void entries_fail(Member *m, const char *message);
extern void entries_leave_open(Member *m);

/* ---- remote.c ---- */
/*
 * What becomes of a member with a row, or of one without, for what Firestore
 * did to it as a whole; its notes are settled.  Both conclude its entries with
 * action delete.
 */
extern Fate remote_fate(const Run *run, Member *m);
extern Fate remote_fate_of_gone(const Run *run, Member *m);

/* Fill the decision of a member that is to be erased, or inserted. */
extern void remote_erase(const Run *run, Member *m);
extern void remote_insert(const Run *run, Member *m);

/* The document may stay inactive: decided fields say otherwise. */
extern void remote_accept_status(const Run *run, Member *m);

/* ---- fates.c ---- */
/*
 * Erase or insert the rows of a member, in the transaction that applies it.
 * False when a row has come meanwhile: the member is to be read again.
 */
extern bool fate_apply(Run *run, Member *m);

/* For the change log: {"field": [old, null], ...} of a member to be erased. */
extern char *fate_change_json(const Run *run, const Member *m);

/* The problem of a member for which that failed. */
extern char *fate_problem(const Member *m, const ErrorData *error);

/* ---- collect.c ---- */
/*
 * Forget members that were deleted long ago, and of whom nothing is open;
 * returns how many.
 */
extern int64 collect_tombstones(Run *run);

/* ---- budget.c ---- */
/*
 * End the run if the day's limits leave nothing for it to do.  In no
 * transaction.
 */
extern void budget_begin(Run *run);

/*
 * In a transaction: put what the run has cost since the last call into the
 * ledger, and let it go on within what the day's limits leave.
 */
extern void budget_charge(Run *run);

/* ---- clean.c ---- */
/*
 * Remove what is older than it is to be kept, in short transactions; what of
 * it fails is in run->clean_error.
 */
extern void clean_up(Run *run);

/* {"queue rows": 12, ...} of what was removed, NULL: nothing. */
extern char *clean_json(const Run *run);

/* ---- stamps.c ---- */
/* When was the field's local value written; when the document's? */
extern MergeStamp stamp_local(const Run *run, const Member *m, int f);
extern MergeStamp stamp_remote(const Run *run, const Member *m, int f);

/* Does a row of the queue or an entry tell of a change of the field? */
extern bool stamp_is_told(const Member *m, int f);

/* ---- decide.c ---- */
extern void decide_remote(Run *run, Member *m);
extern void decide_member(Run *run, Member *m);
extern bool decide_writes(const Run *run, const Member *m, int field);
extern void decide_rows(const Run *run, Member *m);
extern bool decide_has_delete(const Member *m);

/* A field's policy, as merge.c has it. */
extern MergePolicy decide_policy(Policy policy);

/* Is what our clock says of a time not to be compared with Firestore's? */
extern bool decide_clock_is_wrong(const Run *run);
extern List *decide_conflicts(const Run *run, const Member *m);

/* ---- apply.c ---- */
extern void apply_batch(Run *run, Batch *batch);
extern char *change_json(const Run *run, const Member *m, bool firestore);

/* ---- settle.c ---- */
extern void settle_by_hand(Run *run, Member **members, int n);
extern void settle_unsent(Run *run, Member **members, int n);
extern void report_field_errors(Run *run, Member *m);

/* ---- push.c ---- */
extern void push_batch(Run *run, Batch *batch);

/* ---- backfill.c ---- */
/* Is the run one of ekksync_backfill(), or of ekksync_repair()? */
extern bool backfill_is_asked(const RunOptions *opt);

/*
 * List the members that such a run is to work on, or go on with those that
 * are left of the last backfill.  In no transaction.
 */
extern void backfill_list(Run *run);

/*
 * The members up to this key, in the order of the list, are done, but for
 * those that are left: the next run looks at them, after a backfill.
 */
extern void backfill_done(Run *run, const char *key, List *left);

/* All of them are: nothing is left. */
extern void backfill_end(Run *run);

/* ---- plan.c ---- */
extern void plan_batch(Run *run, Batch *batch);
extern void plan_staged_failures(Run *run);

/* ---- diff.c ---- */
/* Compare all members and all documents; what differs goes to ekksync.diff. */
extern void diff_members(Run *run);

#endif /* EKKSYNC_RUN_H */
