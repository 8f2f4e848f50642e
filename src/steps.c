/*
 * steps.c
 *		Test builds only: lets a test stop a run at a named step.
 *
 * The test puts the step's name into the file ekksync.stop of the data
 * directory.  A worker that comes to that step makes ekksync.stopped there,
 * with its process id, and waits, as it would for a lock or an answer, until
 * ekksync.stop has gone or names another step.  If there is a file
 * ekksync.steps, each step that is reached is added to it.
 *
 * May not know: runs.
 */
#include "postgres.h"

#ifdef EKKSYNC_STEPS

#include <unistd.h>

#include "miscadmin.h"
#include "storage/fd.h"

#include "http.h"
#include "steps.h"

#define STOP_FILE "ekksync.stop"
#define STOPPED_FILE "ekksync.stopped"
#define TRACE_FILE "ekksync.steps"

#define POLL_MS 5

#define RUN_STEP_NAME(name) #name,
static const char *const names[] = {RUN_STEPS(RUN_STEP_NAME)};

static bool
is_to_stop_at(const char *name)
{
	FILE *file = AllocateFile(STOP_FILE, "r");
	char wanted[NAMEDATALEN] = "";

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
	char line[NAMEDATALEN + 16];

	if (access(TRACE_FILE, F_OK) == 0)
		write_line(TRACE_FILE, "a", name);
	if (!is_to_stop_at(name))
		return;
	snprintf(line, sizeof(line), "%s %d", name, MyProcPid);
	write_line(STOPPED_FILE ".new", "w", line);
	(void) rename(STOPPED_FILE ".new", STOPPED_FILE);
	while (is_to_stop_at(name))
		http_sleep(POLL_MS);
	(void) unlink(STOPPED_FILE);
}

#endif /* EKKSYNC_STEPS */
