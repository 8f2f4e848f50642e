/*
 * ekksync.h
 *		What every file of the extension may know: names and limits.
 *
 * Include postgres.h first.
 */
#ifndef EKKSYNC_H
#define EKKSYNC_H

#include "utils/timestamp.h"

/* Version of the library, and of the SQL that it goes with. */
#define EKKSYNC_VERSION "1.0"

/* Schema of the extension's own tables. */
#define EKKSYNC_SCHEMA "ekksync"

/* Channel of NOTIFY; its payloads are JSON without personal data. */
#define EKKSYNC_CHANNEL "ekksync"

/* Most writes in one Firestore request (documented limit of the service). */
#define EKKSYNC_MAX_WRITES 500

/* Largest request body in bytes; the emulator refuses 4 MiB. */
#define EKKSYNC_MAX_REQUEST (3584 * 1024)

/* Largest answer in bytes. */
#define EKKSYNC_MAX_RESPONSE (32 * 1024 * 1024)

/* Most documents asked for by one read. */
#define EKKSYNC_READ_PAGE 5000

/* Members merged, applied and pushed together. */
#define EKKSYNC_MEMBER_PAGE 500

/* Queue rows or entries that are looked at for them. */
#define EKKSYNC_ROW_PAGE 5000

/* The canonical form of "no value" (see value.h). */
#define CANON_NULL "null"

/*
 * A reason why one value, row, document or request cannot be used.
 * sqlstate is made by MAKE_SQLSTATE (0: no error); message is palloc'd in the
 * context that was current when the error was set, in PostgreSQL's style
 * (lower case, no final period), and never contains a kennitala or a name.
 */
typedef struct SyncError
{
	int sqlstate;
	char *message;
} SyncError;

/* Is this SQLSTATE one of a lock or a race: the same again may succeed? */
extern bool error_is_passing(int sqlstate);

/*
 * Is it about the run or the server, whoever it came up for: an order to stop,
 * or resources that are used up?
 */
extern bool error_ends_run(int sqlstate);

/*
 * A text cut to what fits in an error message of a row or document (1 kB),
 * at the end of a character; palloc'd.
 */
extern char *clip_message(const char *text);

/* Copy a text into a buffer of size bytes, cut at the end of a character. */
extern void clip_to(char *to, int size, const char *text);

/*
 * A text fit for the server log: everything that looks like a kennitala
 * masked; palloc'd.
 */
extern char *mask_message(const char *text);

/* Set *err (which may be NULL) and return false, for use in a return. */
extern bool sync_error(SyncError *err, int sqlstate, const char *fmt, ...)
	pg_attribute_printf(3, 4);

#endif /* EKKSYNC_H */
