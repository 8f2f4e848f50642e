/*
 * outbox.h
 *		Writing the queue table from the capture trigger.
 */
#ifndef EKKSYNC_OUTBOX_H
#define EKKSYNC_OUTBOX_H

#include "mapping.h"

/* One queue row to write. */
typedef struct OutboxRow
{
	Datum member_id;	/* of the mapping's id_typid */
	bool no_member;		/* member_id is null */
	const char *key;	/* as outbox_key makes it */
	const char *action; /* create, update, delete */
	const char *fields; /* JSON object: field name to new value */
	const char *error;	/* what is wrong, "" for nothing */
} OutboxRow;

/*
 * A member's key as the queue holds it: its canonical digits, or what there
 * is of it, cut to the column, with *error saying what is wrong (NULL if
 * nothing is).  palloc'd.
 */
extern char *outbox_key(const Mapping *mapping, Datum key, bool isnull,
						const char **error);

/*
 * These write as the owner of the queue table, inside the transaction of the
 * caller.  mapping->queue_table must not be NULL.  Error 42703 when the queue
 * table lacks a column.
 */
extern void outbox_write(const Mapping *mapping, const OutboxRow *row);

/* The member's row is gone: no queue row refers to it any more. */
extern void outbox_forget_member(const Mapping *mapping, Datum member_id);

/* All members' rows are gone: that, and a delete for each live key. */
extern void outbox_delete_all(const Mapping *mapping);

#endif /* EKKSYNC_OUTBOX_H */
