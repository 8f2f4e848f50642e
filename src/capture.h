/*
 * capture.h
 *		What a run tells the capture trigger of its own process, so that the
 *		values that it applies are not queued again.
 */
#ifndef EKKSYNC_CAPTURE_H
#define EKKSYNC_CAPTURE_H

#include "ekksync.h"

/*
 * In place of a field and its value: the member's row itself, which the run
 * inserts or deletes.
 */
#define CAPTURE_ROW ""
#define CAPTURE_INSERTED "inserted"
#define CAPTURE_DELETED "deleted"

/*
 * From now until capture_expect_end, or the end of the (sub)transaction that
 * is current, a change of this member's field to this canonical value is the
 * run's own.  Values are copied.  Everything else is captured as always.
 */
extern void capture_expect(const char *key, const char *field,
						   const char *canon);
extern void capture_expect_end(void);

/* Is it?  For the trigger. */
extern bool capture_expected(const char *key, const char *field,
							 const char *canon);

#endif /* EKKSYNC_CAPTURE_H */
