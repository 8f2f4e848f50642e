/*
 * fsint.h
 *		What the files of the Firestore client share; for no one else.
 *
 *	 firestore.c	one request with its retries, errors and their classes
 *	 fsread.c		batchGet and runQuery
 *	 fswrite.c		commit and batchWrite
 *	 fsjson.c		text of requests, parsing of answers
 */
#ifndef EKKSYNC_FSINT_H
#define EKKSYNC_FSINT_H

#include "firestore.h"
#include "http.h"
#include "lib/stringinfo.h"
#include "rate.h"

/* Requests sent together; as many as http_perform has under way. */
#define FS_PARALLEL 4

struct FsClient
{
	FsConfig config;
	HttpClient *http;
	char *url;		   /* of the database's documents */
	char *root;		   /* their name: projects/.../documents */
	const char *token; /* of the calls under way */
	FsCost cost;
	FsClock clock;
	Rate rate;
	int64 max_reads; /* of cost.docs_read, PG_INT64_MAX: no limit */
	int64 max_writes;
};

/* A call of the API, and how it ended. */
typedef struct FsCall
{
	const char *verb; /* ":commit" */
	StringInfoData body;
	bool write;		 /* changes something */
	int nwrites;	 /* documents that it writes */
	bool repeatable; /* may be sent again after a lost answer */

	/* outcome */
	FsError error;
	bool too_large; /* request or answer: fails until it is split */
	cJSON *answer;	/* FS_OK only */

	/* kept by fs_calls */
	bool done;
	bool cut;		 /* the last try had no readable answer */
	bool lost;		 /* some try had no certain answer */
	bool refreshed;	 /* a new token was tried */
	int retry_after; /* milliseconds, -1: not said */
} FsCall;

/* ---- firestore.c ---- */

/*
 * Perform n calls, together, each with its retries.  Answers and messages
 * live in the current memory context.
 */
extern void fs_calls(FsClient *client, FsCall *calls, int n);

/* Set an error; the message is copied into the current memory context. */
extern void fs_fail(FsError *err, FsClass class, const char *fmt, ...)
	pg_attribute_printf(3, 4);

/* The error of one write of a :batchWrite, by its gRPC code. */
extern void fs_write_status(FsError *err, int code, const char *message);

/* Sleep before try number attempt (from 0), at least at_least milliseconds. */
extern void fs_backoff(int attempt, int at_least);

/* How many documents may be written together now; 0: no more at all. */
extern int fs_write_room(FsClient *client);

/* ---- fsjson.c ---- */

/*
 * Parse an answer.  The result is freed with the current memory context.
 * NULL when it is not JSON in valid UTF-8.
 */
extern cJSON *fs_parse(const char *text, size_t len);

/* String member of an object, or NULL. */
extern const char *fs_string(const cJSON *object, const char *name);

/* Time member of an object, or 0. */
extern TimestampTz fs_time(const cJSON *object, const char *name);

/* Fill doc from a Document; false when it is not one. */
extern bool fs_document(const cJSON *document, FsDoc *doc);

/*
 * Text from a server made fit for a message: one line of printable
 * characters of the database's encoding, at most 200 bytes, everything that
 * looks like a kennitala masked.
 */
extern char *fs_safe_text(const char *text);

/* Append a document's name as a JSON string. */
extern void fs_append_name(StringInfo out, const FsClient *client,
						   const char *collection, const char *id);

/* Append a list of field paths as a JSON array. */
extern void fs_append_paths(StringInfo out, const FieldPath *const *paths,
							int n);

/* Append a write as a JSON object. */
extern void fs_append_write(StringInfo out, const FsClient *client,
							const FsWrite *write);

/* Append a query as a JSON object with structuredQuery. */
extern void fs_append_query(StringInfo out, const FsQuery *query);

#endif /* EKKSYNC_FSINT_H */
