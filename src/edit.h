/*
 * edit.h
 *		A member's row, edited for a person in the caller's own transaction:
 *		an edit like any other, which the triggers capture.
 */
#ifndef EKKSYNC_EDIT_H
#define EKKSYNC_EDIT_H

#include "run.h"

/* The mapping in force; error 55000 when there is none that can be used. */
extern const Mapping *edit_mapping(void);

/*
 * Error 42501 unless the caller has the privileges of the role that rows are
 * written as: triggers run with them.  function: its name, for the message.
 */
extern void edit_require_role(const Mapping *map, const char *function);

/*
 * What the caller's transaction has left to its commit is checked now, as the
 * role that the commit would do it as, and is no member's fault.  From here on
 * nothing is deferred: what a row refuses is known when it is written.
 */
extern void edit_check_deferred(void);

/*
 * The canonical form of a JSON value, as it stands in a conflict or as a
 * document would have it, if the field can take it; palloc'd.  NULL with *err
 * (which may be NULL).
 */
extern char *edit_value(const Field *field, const char *json, SyncError *err);

/* Can the field be written in Django at all? */
extern bool edit_is_writable(const Field *field);

/*
 * Read the rows of members, of which only the key is set; lock: and lock the
 * row of those that have one, waiting for who holds it.  What has no row that
 * can be used has nrows 0, or more than 1.
 */
extern void edit_read(const Mapping *map, Member **members, int n, bool lock);

/*
 * Write values to fields (indexes, n of them) of a member that was read with a
 * lock.  Throws PostgreSQL's error when the row refuses them, 27000 when a
 * trigger did not let them stay.
 */
extern void edit_write(const Mapping *map, Member *m, const int *fields,
					   char **values, int n);

/* Leave a pending queue row that names the field with the value. */
extern void edit_announce(const Mapping *map, const Member *m, int field,
						  const char *value);

#endif /* EKKSYNC_EDIT_H */
