/*
 * steps.c
 *		Test builds only: lets a test stop a run at a named step.
 *
 * The test puts the step's name into the file ekksync.stop of the database's
 * directory.  A worker that comes to that step makes ekksync.stopped there,
 * with its process id, and waits, as it would for a lock or an answer, until
 * ekksync.stop has gone or names another step.  If there is a file
 * ekksync.steps, each step that is reached is added to it.  As long as there
 * is a file ekksync.again, a worker that has ended a run begins the next.
 *
 * The launcher's clock shows what is in the file ekksync.clock of the data
 * directory, in seconds since 1970, if there is one.
 *
 * May not know: runs.
 */
#include "postgres.h"

#ifdef EKKSYNC_STEPS

#include <unistd.h>

#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/timestamp.h"

#include "http.h"
#include "steps.h"
#include "waits.h"

#define STOP_FILE "stop"
#define STOPPED_FILE "stopped"
#define TRACE_FILE "steps"
#define AGAIN_FILE "again"

#define POLL_MS 5

#define RUN_STEP_NAME(name) #name,
static const char *const names[] = {RUN_STEPS(RUN_STEP_NAME)};

/* A file of the test's in the database's directory; palloc'd. */
static char *
path_of(const char *name)
{
	return psprintf("%s/ekksync.%s", DatabasePath, name);
}

static bool
is_to_stop_at(const char *name)
{
	char *path = path_of(STOP_FILE);
	FILE *file = AllocateFile(path, "r");
	char wanted[NAMEDATALEN] = "";

	pfree(path);
	if (file == NULL)
		return false;
	if (fscanf(file, "%63s", wanted) != 1)
		wanted[0] = '\0';
	FreeFile(file);
	return strcmp(wanted, name) == 0;
}

static void
write_line(const char *path, const char *mode, const char *line)
{
	FILE *file = AllocateFile(path, mode);

	if (file == NULL)
		return;
	fprintf(file, "%s\n", line);
	FreeFile(file);
}

void
step_reached(RunStep step)
{
	const char *name = names[step];
	char *trace = path_of(TRACE_FILE);
	char *stopped = path_of(STOPPED_FILE);
	char *making = path_of(STOPPED_FILE ".new");

	if (access(trace, F_OK) == 0)
		write_line(trace, "a", name);
	if (!is_to_stop_at(name))
		return;
	write_line(making, "w", psprintf("%s %d", name, MyProcPid));
	(void) rename(making, stopped);
	while (is_to_stop_at(name))
		http_sleep(POLL_MS, wait_event(WAIT_STEP));
	(void) unlink(stopped);
}

bool
step_again(void)
{
	char *path = path_of(AGAIN_FILE);
	bool again = access(path, F_OK) == 0;

	pfree(path);
	return again;
}

bool
step_clock(TimestampTz *now)
{
	FILE *file = AllocateFile("ekksync.clock", "r");
	double seconds;
	bool set;

	if (file == NULL)
		return false;
	set = fscanf(file, "%lf", &seconds) == 1;
	FreeFile(file);
	if (set)
		*now = time_t_to_timestamptz((pg_time_t) seconds);
	return set;
}

#endif /* EKKSYNC_STEPS */
