/*
 * wrong_clock.c
 *		A library to be preloaded: the process's clock is WRONG_CLOCK seconds
 *		ahead (behind, if negative), and its monotonic clocks are as they were.
 *
 * libfaketime would do, but for processes that PostgreSQL 15 forks from a
 * signal handler: a run's worker has the true time there.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static time_t
ahead(void)
{
	const char *seconds = getenv("WRONG_CLOCK");

	return seconds != NULL ? atol(seconds) : 0;
}

int
clock_gettime(clockid_t clock, struct timespec *now)
{
	int result = (int) syscall(SYS_clock_gettime, clock, now);

	if (result == 0 &&
		(clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		now->tv_sec += ahead();
	return result;
}

int
gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	struct timespec precise;

	(void) zone;
	if (clock_gettime(CLOCK_REALTIME, &precise) != 0)
		return -1;
	now->tv_sec = precise.tv_sec;
	now->tv_usec = precise.tv_nsec / 1000;
	return 0;
}

time_t
time(time_t *now)
{
	struct timespec precise;

	if (clock_gettime(CLOCK_REALTIME, &precise) != 0)
		return -1;
	if (now != NULL)
		*now = precise.tv_sec;
	return precise.tv_sec;
}
