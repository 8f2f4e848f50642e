/*
 * accept.h
 *		A call of ekksync_apply(): what it has to know, and what its changes
 *		leave to be recorded.
 */
#ifndef EKKSYNC_ACCEPT_H
#define EKKSYNC_ACCEPT_H

#include "incoming.h"

typedef struct Accept
{
	const Mapping *map;
	MemoryContext cxt; /* of the results */
	MemoryContext part_cxt;

	/* of the part that is worked on */
	Incoming **changes;
	int n;
	Run run; /* for the time, and to record */
	List *conflicts;
	char **keys; /* for the change log, nlog of them */
	char **logs;
	TimestampTz *stamps;
	int nlog;
} Accept;

/* ---- takein.c ---- */

/*
 * Take in one change of a member that is read and locked, or has no row: its
 * outcome is set, and what is to be recorded is added to the part's.  Throws
 * what PostgreSQL refuses.
 */
extern void accept_change(Accept *a, Incoming *in, Member *m);

/* The change fails, with a message that is copied. */
extern void accept_fail(Accept *a, Incoming *in, const char *error);

#endif /* EKKSYNC_ACCEPT_H */
