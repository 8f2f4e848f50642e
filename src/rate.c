/*
 * rate.c
 *		How fast a run may write.
 *
 * n writes that are sent together take the time that n writes may take, and
 * nothing else is sent in it: so no second has more than it may have, and what
 * was not used is not made up for.
 *
 * Pure: builds without the server, and knows no clock.
 */
#include "rate.h"

#include <limits.h>

double
rate_at(const Rate *rate, int64_t now)
{
	int64_t steps = rate->begun ? (now - rate->start) / RATE_STEP : 0;
	double speed = RATE_START;

	for (; steps > 0 && speed < 1e9; steps--)
		speed *= RATE_GROWTH;
	return rate->cap > 0 && rate->cap < speed ? rate->cap : speed;
}

int
rate_most(const Rate *rate, int64_t now)
{
	if (!rate->limited)
		return INT_MAX;
	return (int) rate_at(rate, now < rate->next ? rate->next : now);
}

int64_t
rate_take(Rate *rate, int n, int64_t now)
{
	int64_t at = rate->begun && rate->next > now ? rate->next : now;

	if (!rate->limited || n <= 0)
		return 0;
	if (!rate->begun)
	{
		rate->begun = true;
		rate->start = now;
	}
	rate->next = at + (int64_t) (n * 1e6 / rate_at(rate, at));
	return at - now;
}
