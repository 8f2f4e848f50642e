/*
 * flight.h
 *		Notes of writes in flight.
 */
#ifndef EKKSYNC_FLIGHT_H
#define EKKSYNC_FLIGHT_H

#include "run.h"

/* What a write carries behind its mark if some noted values were left out. */
#define FLIGHT_PART "/part"

/* In the change log, after [old, new: the side never had a value there. */
#define FLIGHT_FILLED "\"filled\""

/* Note what is about to be sent. */
extern void flight_note(const Run *run, Member *m);

/*
 * Settle a member's notes by the document that was read: noted values that
 * were written are our own and become the base; notes of which nothing more
 * can come are marked dropped.
 */
extern void flight_settle(const Run *run, Member *m);

/*
 * Was the document written after a value of ours was sent for the field,
 * which it does not hold?  Then what it holds is later than our write of
 * *stamp (microseconds, as TimestampTz), whatever clocks say.
 */
extern bool flight_overtaken(const Run *run, const Member *m, int field,
							 TimestampTz *stamp);

/*
 * Was this value of the field sent, with its answer unknown?  Then it is one
 * of *stamp, in the row and in the document.
 */
extern bool flight_noted(const Member *m, int field, const char *value,
						 TimestampTz *stamp);

/*
 * Is the document that is there a late creation of ours, made again after
 * somebody deleted the one that was settled?  Nobody has written to it since
 * it was created, later than the last state that we know of; it bears our
 * mark, and there is no note of it.  (A late update cannot come: its
 * precondition fails.)  It could also be a copy that somebody put back.
 */
extern bool flight_is_straggler(const Run *run, const Member *m);

/* Whose write was a value that is noted for the field; else Django's. */
extern MergeOrigin flight_origin(const Member *m, int field,
								 const char *value);

#endif /* EKKSYNC_FLIGHT_H */
