/*
 * error.c
 *		How a function that must not throw says why it failed.
 *
 * May not know: what went wrong; callers say so.
 */
#include "postgres.h"

#include "ekksync.h"

/*
 * Fill err (unless it is NULL) with an SQLSTATE, as MAKE_SQLSTATE makes it,
 * and a message formatted like printf, which is palloc'd in the current memory
 * context.  Always returns false, so that a caller can return the call.
 */
bool
sync_error(SyncError *err, int sqlstate, const char *fmt,...)
{
	size_t		size = 128;

	if (err == NULL)
		return false;

	err->sqlstate = sqlstate;
	for (;;)
	{
		va_list		args;
		size_t		needed;

		err->message = palloc(size);
		va_start(args, fmt);
		needed = pvsnprintf(err->message, size, fmt, args);
		va_end(args);
		if (needed < size)
			return false;

		pfree(err->message);
		size = needed;
	}
}
