/*
 * log_hook.c
 *		A library to be preloaded, with a hook of its own on the server's log:
 *		what background workers say is added to the file log_hook.seen of the
 *		data directory.  A worker of a database in which log_hook.panic is on
 *		panics while it connects, as often as the file log_hook.panic is there.
 */
#include "postgres.h"

#include <unistd.h>

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/guc.h"

PG_MODULE_MAGIC;

void _PG_init(void);

static emit_log_hook_type next_hook;
static bool panic;

static void
note(ErrorData *edata)
{
	FILE *seen;

	if (MyBackendType == B_BG_WORKER &&
		(seen = fopen("log_hook.seen", "a")) != NULL)
	{
		fprintf(seen, "%s\n", edata->message);
		fclose(seen);
	}
	if (next_hook != NULL)
		next_hook(edata);
}

static bool
check_panic(bool *value, void **extra, GucSource source)
{
	if (*value && MyBackendType == B_BG_WORKER &&
		unlink("log_hook.panic") == 0)
		ereport(PANIC, (errmsg("a panic of the test's")));
	return true;
}

void
_PG_init(void)
{
	DefineCustomBoolVariable("log_hook.panic", "Whether workers panic.", NULL,
							 &panic, false, PGC_SUSET, 0, check_panic, NULL,
							 NULL);
	next_hook = emit_log_hook;
	emit_log_hook = note;
}
