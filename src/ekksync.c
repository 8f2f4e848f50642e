/*
 * ekksync.c
 *		Entry of the library: its settings, and, preloaded, the launcher.
 *
 * The library does nothing else when it is loaded: no files, no network, no
 * threads.  A run happens in a background worker (worker.c).
 */
#include "postgres.h"

#include "fmgr.h"

#include "launcher.h"
#include "settings.h"

PG_MODULE_MAGIC;

void _PG_init(void);

void
_PG_init(void)
{
	settings_define();
	launcher_register();
}
