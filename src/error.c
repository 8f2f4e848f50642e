/*
 * error.c
 *		How a function that must not throw says why it failed, and what kind of
 *		failure an SQLSTATE is.
 *
 * May not know: what went wrong; callers say so.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"

#include "ekksync.h"

/* Bytes of an error message in a row or document. */
#define MAX_MESSAGE 1000

/*
 * Fill err (unless it is NULL) with an SQLSTATE, as MAKE_SQLSTATE makes it,
 * and a message formatted like printf, which is palloc'd in the current memory
 * context.  Always returns false, so that a caller can return the call.
 */
bool
sync_error(SyncError *err, int sqlstate, const char *fmt, ...)
{
	size_t size = 128;

	if (err == NULL)
		return false;

	err->sqlstate = sqlstate;
	for (;;)
	{
		va_list args;
		size_t needed;

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

bool
error_is_passing(int sqlstate)
{
	return sqlstate == ERRCODE_LOCK_NOT_AVAILABLE ||
		   sqlstate == ERRCODE_T_R_DEADLOCK_DETECTED ||
		   sqlstate == ERRCODE_T_R_SERIALIZATION_FAILURE;
}

bool
error_ends_run(int sqlstate)
{
	int category = ERRCODE_TO_CATEGORY(sqlstate);

	return category == ERRCODE_OPERATOR_INTERVENTION ||
		   category == ERRCODE_INSUFFICIENT_RESOURCES ||
		   category == ERRCODE_SYSTEM_ERROR ||
		   category == ERRCODE_INTERNAL_ERROR;
}

char *
clip_message(const char *text)
{
	int len = strlen(text);

	return pnstrdup(text, pg_mbcliplen(text, len, MAX_MESSAGE));
}
