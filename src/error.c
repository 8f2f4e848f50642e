/*
 * error.c
 *		How a function that must not throw says why it failed, what kind of
 *		failure an SQLSTATE is, and how a message is made fit for its reader.
 *
 * May not know: what went wrong; callers say so.
 */
#include "postgres.h"

#include <ctype.h>

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
		   (category == ERRCODE_INSUFFICIENT_RESOURCES &&
			sqlstate != ERRCODE_CONFIGURATION_LIMIT_EXCEEDED);
}

char *
clip_message(const char *text)
{
	int len = strlen(text);

	return pnstrdup(text, pg_mbcliplen(text, len, MAX_MESSAGE));
}

void
clip_to(char *to, int size, const char *text)
{
	strlcpy(to, text, pg_mbcliplen(text, strlen(text), size - 1) + 1);
}

/*
 * Length of the kennitala at the start of s, six and four digits with or
 * without a hyphen, not followed by a further digit; 0 if there is none.
 */
static int
kennitala_len(const char *s)
{
	int len = 0;

	for (int digits = 0; digits < 10; digits++)
	{
		if (digits == 6 && s[len] == '-')
			len++;
		if (!isdigit((unsigned char) s[len]))
			return 0;
		len++;
	}
	return isdigit((unsigned char) s[len]) ? 0 : len;
}

char *
mask_message(const char *text)
{
	char *masked = pstrdup(text);
	bool after_digit = false;

	for (char *s = masked; *s; s++)
	{
		int len = after_digit ? 0 : kennitala_len(s);

		after_digit = isdigit((unsigned char) *s);
		if (len > 0)
		{
			memset(s, '*', len);
			s += len - 1;
		}
	}
	return masked;
}
