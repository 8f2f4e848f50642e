/*
 * runlock.c
 *		The lock that allows one run in a database, and that holds runs off.
 *
 * May not know: what a run does.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/lock.h"

#include "sync.h"

/*
 * A session lock of our own on the table ekksync.run: no user's lock can
 * meet it, DROP EXTENSION does not wait for it, and an aborted transaction
 * keeps it.
 */
static void
run_lock_tag(LOCKTAG *tag)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, ekksync_table_oid("run"), 0, 3);
}

bool
sync_lock(void)
{
	LOCKTAG tag;

	run_lock_tag(&tag);
	return LockAcquire(&tag, ExclusiveLock, true, true) !=
		   LOCKACQUIRE_NOT_AVAIL;
}

void
sync_unlock(void)
{
	LockReleaseSession(USER_LOCKMETHOD);
}

bool
sync_lock_xact(void)
{
	LOCKTAG tag;

	(void) GetTopTransactionId();
	run_lock_tag(&tag);
	return LockAcquire(&tag, RowExclusiveLock, false, true) !=
		   LOCKACQUIRE_NOT_AVAIL;
}

bool
sync_is_running(void)
{
	LOCKTAG tag;

	run_lock_tag(&tag);
	if (LockAcquire(&tag, RowShareLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return true;
	(void) LockRelease(&tag, RowShareLock, false);
	return false;
}

void
sync_wait(void)
{
	LOCKTAG tag;

	run_lock_tag(&tag);
	(void) LockAcquire(&tag, ShareLock, false, false);
	(void) LockRelease(&tag, ShareLock, false);
}
