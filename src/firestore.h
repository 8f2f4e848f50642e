/*
 * firestore.h
 *		Typed calls of the Firestore REST API.  Knows documents, not tables.
 *
 * Memory: everything returned lives in the memory context that was current
 * at the call, parsed JSON too (freed by a reset callback).
 */
#ifndef EKKSYNC_FIRESTORE_H
#define EKKSYNC_FIRESTORE_H

#include <cjson/cJSON.h>

#include "ekksync.h"
#include "value.h"

typedef struct FsClient FsClient;

/* What to do about an error, by error.status and never by HTTP code alone. */
typedef enum FsClass
{
	FS_OK,
	FS_RETRY,  /* network, overload: the same again, later */
	FS_REREAD, /* a precondition failed: read, merge, try again */
	FS_ROW,	   /* this write can never succeed */
	FS_STOP	   /* credentials, permission, project: end the run */
} FsClass;

typedef struct FsError
{
	FsClass class;
	int http;			/* HTTP status, 0 without an answer */
	char status[32];	/* gRPC status name, "" if unknown */
	bool maybe_applied; /* some try had no answer, or one that leaves it
								 * open: the write may have happened */
	char *message;		/* for people; document ids masked */
} FsError;

/*
 * Source of access tokens for the real service.  refresh: the last one was
 * refused, get another.  What is returned must stay valid until the next
 * call.  NULL with *err when there is none.
 */
typedef const char *(*FsTokenSource)(void *arg, bool refresh, SyncError *err);

typedef struct FsConfig
{
	const char *project;
	const char *database_id;
	const char *emulator_host; /* host:port, or NULL for the real service */
	int connect_timeout;	   /* milliseconds */
	int request_timeout;	   /* milliseconds */
	int max_retries;		   /* tries of one request after the first */
	int max_writes_per_second; /* see settings.h */
	FsTokenSource token;	   /* or NULL; not asked for with an emulator */
	void *token_arg;
} FsConfig;

typedef struct FsCost
{
	int64 docs_read;
	int64 docs_written;
	int64 docs_deleted;
	int64 requests;
	int64 retries;
	int64 bytes_sent;
	int64 bytes_received;
} FsCost;

/*
 * How far Firestore's clock is ahead of this machine's, in microseconds: in
 * skew - error .. skew + error.
 */
typedef struct FsClock
{
	bool known; /* some answer told its time */
	int64 skew;
	int64 error;
} FsClock;

/* A document as read. */
typedef struct FsDoc
{
	char *id;	  /* last segment of its name */
	bool missing; /* there is none */
	TimestampTz create_time;
	TimestampTz update_time;
	const cJSON *fields; /* "fields" object; NULL when empty or missing.
								 * All text in it is valid UTF-8, but for what
								 * wire_parse puts in place of U+0000 */
} FsDoc;

typedef enum FsPrecondition
{
	FS_PRE_NONE,
	FS_PRE_EXISTS,
	FS_PRE_MISSING,
	FS_PRE_UPDATE_TIME
} FsPrecondition;

/* A value to write, as JSON text of a Firestore Value; NULL deletes the field. */
typedef struct FsFieldValue
{
	const FieldPath *path;
	const char *value;
} FsFieldValue;

typedef struct FsWrite
{
	const char *collection;
	const char *id;
	bool delete; /* the document goes */
	const char
		*whole;	 /* "fields" object as JSON: replaces all (create); or NULL */
	int nvalues; /* with whole NULL: exactly these paths are written */
	FsFieldValue *values;
	int ntimes; /* paths set to the server's time */
	const FieldPath *const *times;
	FsPrecondition pre;
	TimestampTz pre_time;

	/* outcome */
	FsError error;			 /* class FS_OK when written */
	TimestampTz update_time; /* the document's, 0 after a delete */
} FsWrite;

typedef struct FsFilter
{
	const char *field; /* quoted field path */
	const char *op;	   /* EQUAL, GREATER_THAN, ... */
	const char *value; /* JSON text of a Firestore Value */
} FsFilter;

typedef struct FsQuery
{
	const char *collection;
	int nfilters;
	FsFilter *filters;
	const char
		*order_by; /* quoted field path ordered before __name__, or NULL */
	int nmask;	   /* fields wanted; 0: names and times only */
	const FieldPath *const *mask;
	bool all_fields; /* overrides mask */
	int limit; /* documents a page; lowered by fs_query when an answer is too large */

	/* cursor, kept by fs_query; start with zeros */
	char *after_name;
	char *after_value; /* JSON text of the order_by value */
	bool done;		   /* no further page */
	MemoryContext cxt; /* where the cursor lives: set by the caller */
} FsQuery;

/*
 * Open a client.  It lives as long as the memory context owner, and its
 * connections are closed with it.  The configuration is copied, the token
 * source's argument is not.
 */
extern FsClient *fs_open(MemoryContext owner, const FsConfig *config);

/*
 * Send writes: at most EKKSYNC_MAX_WRITES and EKKSYNC_MAX_REQUEST bytes a
 * request, four requests at a time, :commit first; a page refused for a
 * precondition goes again as :batchWrite, one refused as invalid or too large
 * is split until the bad write stands alone.  Retries what can be retried,
 * with jittered exponential backoff and Retry-After; a request that got no
 * answer only if each of its writes has a precondition.
 *
 * Each write's outcome is in its error.  Documents must be distinct.  False
 * when the rest was not tried (FS_RETRY spent, or FS_STOP): untried writes
 * then carry that error too, with maybe_applied only where a request was sent
 * without a certain answer.  True may still leave FS_RETRY on a single write
 * whose document stayed locked by others.
 */
extern bool fs_write(FsClient *client, FsWrite *writes, int n);

/*
 * Read n documents by id (distinct); mask as in FsQuery, nmask 0 for names
 * and times only, -1 for all fields.  docs[i] belongs to ids[i].  An id that
 * Firestore does not allow is missing, and not asked for.  *read_time (may be
 * NULL) is the earliest one of the answers, 0 when nothing was asked for.
 */
extern bool fs_get(FsClient *client, const char *collection, char **ids, int n,
				   const FieldPath *const *mask, int nmask, FsDoc *docs,
				   TimestampTz *read_time, FsError *err);

/*
 * Next page of a query; *n may be 0 with query->done.  A page that is too
 * large for one answer is asked for again with half the limit.
 */
extern bool fs_query(FsClient *client, FsQuery *query, FsDoc **docs, int *n,
					 TimestampTz *read_time, FsError *err);

/*
 * Read and write (deletes are writes) no more than so many documents from now
 * on, -1: no limit.  What goes beyond fails with FS_STOP before it is sent;
 * fs_is_over_limit tells that from other errors.
 */
extern void fs_limit(FsClient *client, int64 reads, int64 writes);
extern bool fs_is_over_limit(const FsError *err);

/* How many documents may still be read, and written; PG_INT64_MAX: no limit. */
extern int64 fs_reads_left(const FsClient *client);
extern int64 fs_writes_left(const FsClient *client);

/* The errors of what would go beyond a limit. */
extern void fs_over_reads(FsError *err);
extern void fs_over_writes(FsError *err);

/* What the client has cost so far. */
extern const FsCost *fs_cost(FsClient *client);

/*
 * The clocks, by the times in the answers so far (readTime, commitTime): of
 * each one is known that the server was asked before it and answered after it;
 * the narrowest counts.
 */
extern const FsClock *fs_clock(const FsClient *client);

/* Append values as the "fields" object of a document. */
extern void fs_append_fields(StringInfo out, const FsFieldValue *values,
							 int n);

/* Does Firestore allow this as a document's id? */
extern bool fs_id_valid(const char *id);

#endif /* EKKSYNC_FIRESTORE_H */
