/*
 * waits.c
 *		The names of our wait events.
 *
 * May not know: who waits.
 */
#include "postgres.h"

#include "pg_compat.h"
#include "pgstat.h"
#include "waits.h"

uint32
wait_event(WaitFor what)
{
	static const char *const names[WAIT_KINDS] =
		{"EkksyncFirestore", "EkksyncToken", "EkksyncRetry", "EkksyncRate",
		 "EkksyncRows",		 "EkksyncRun",	 "EkksyncStep"};
	static uint32 events[WAIT_KINDS]; /* 0: not asked for yet */

	(void) names; /* before PostgreSQL 17 there are none */
	if (events[what] == 0)
		events[what] = WaitEventExtensionNew(names[what]);
	return events[what];
}
