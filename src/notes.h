/*
 * notes.h
 *		What the capture triggers compare, and the fields of a queue row while
 *		they are put together.
 */
#ifndef EKKSYNC_NOTES_H
#define EKKSYNC_NOTES_H

#include "executor/tuptable.h"
#include "lib/stringinfo.h"

#include "mapping.h"

/* The fields of a queue row, as they are put together. */
typedef struct Notes
{
	StringInfoData json; /* object without its closing brace */
	int nfields;
	StringInfoData error;
} Notes;

/* A member that a row belongs to. */
typedef struct Owner
{
	Datum id;
	bool id_isnull;
	char *key;		   /* as outbox_key makes it */
	const char *error; /* of its key, or of the filter; or NULL */
} Owner;

/* Do two versions of a row differ: binary, in a column, in any column? */
extern bool attr_differs(TupleTableSlot *old, TupleTableSlot *new,
						 AttrNumber attnum);
extern bool row_differs(TupleTableSlot *old, TupleTableSlot *new);

/*
 * Did an UPDATE change a field that is watched?  A computed field, or one
 * whose column is gone, counts as changed when any column is.
 */
extern bool any_field_differs(const Watched *watched, TupleTableSlot *old,
							  TupleTableSlot *new);

/* Notes live in the memory context that is current here. */
extern void notes_init(Notes *notes);

/* What is wrong, once; NULL is nothing. */
extern void note_error(Notes *notes, const char *error);

/*
 * A field's value in slot, null when slot is NULL.  key is the member's: a
 * value that the run in this process writes for it is left out.
 */
extern void note_slot(Notes *notes, const char *key, const Mapping *mapping,
					  const WatchedField *watched, TupleTableSlot *slot);

/* The fields that an UPDATE changed. */
extern void note_changed(Notes *notes, const char *key, const Mapping *mapping,
						 const Watched *watched, TupleTableSlot *old,
						 TupleTableSlot *new);

/* Write the queue row; keep_id: with the member's id. */
extern void notes_write(Notes *notes, const Mapping *mapping,
						const char *action, const Owner *owner, bool keep_id);

#endif /* EKKSYNC_NOTES_H */
