/*
 * incoming.h
 *		Changes as callers of ekksync_apply() give them.
 */
#ifndef EKKSYNC_INCOMING_H
#define EKKSYNC_INCOMING_H

#include "utils/jsonb.h"

#include "run.h"

/* One change, and what became of it. */
typedef struct Incoming
{
	int ordinal; /* from 1 */
	char *given; /* the kennitala as it was given, NULL: none */
	char *key;	 /* ten digits; NULL with an error */
	Entry entry; /* action, stamp (0: none was given), parsed */

	/* outcome */
	char *error;	/* NULL: success */
	char *note;		/* on success, may be NULL */
	char **updated; /* names of the fields that the row got */
	int nupdated;
} Incoming;

/*
 * The changes in {"changes": [...]} or in the array alone, palloc'd, in the
 * order given.  A change that cannot be used has an error.  Throws 22023 when
 * the whole is neither.
 */
extern Incoming *incoming_parse(const Mapping *map, Jsonb *given, int *n);

/* Append "path: why" to a message that may be there, palloc'd. */
extern char *incoming_join(const char *message, const char *what,
						   const char *why);

#endif /* EKKSYNC_INCOMING_H */
