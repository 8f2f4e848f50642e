/*
 * giveway.c
 *		Ends a run whose database is to be dropped, renamed, moved or copied.
 *
 * DROP DATABASE and its like lock the database, wait five seconds for others
 * to disconnect, and give up then.  Who is connected is not told.  But while
 * such a lock is held or waited for, the one that every connection takes when
 * it begins is not to be had: so a run tries it now and then.
 *
 * May not know: what a run does.
 */
#include "postgres.h"

#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "storage/lock.h"

#include "giveway.h"

/* Shortest time between two looks, in ms. */
#define LOOK_EVERY_MS 250

/* Per-process state. */
static struct
{
	instr_time looked;
} way;

/* Not to be had: somebody locks the database, or waits for its lock. */
static bool
is_in_the_way(void)
{
	LOCKTAG tag;

	SET_LOCKTAG_OBJECT(tag, InvalidOid, DatabaseRelationId, MyDatabaseId, 0);
	/* of the session: it needs no transaction, and is gone with an error */
	if (LockAcquire(&tag, RowExclusiveLock, true, true) ==
		LOCKACQUIRE_NOT_AVAIL)
		return true;
	(void) LockRelease(&tag, RowExclusiveLock, true);
	return false;
}

void
give_way(void)
{
	instr_time now;
	instr_time since;

	INSTR_TIME_SET_CURRENT(now);
	since = now;
	INSTR_TIME_SUBTRACT(since, way.looked);
	if (INSTR_TIME_GET_MILLISEC(since) < LOOK_EVERY_MS)
		return;
	way.looked = now;
	if (is_in_the_way())
		ereport(FATAL,
				(errcode(ERRCODE_ADMIN_SHUTDOWN),
				 errmsg("terminating the ekksync run: its database is to be "
						"dropped, renamed, moved or copied"),
				 errdetail("The next run makes up for it.")));
}
