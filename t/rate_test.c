/*
 * rate_test.c
 *		Unit tests of rate.c: the ramp, its cap, and that no second has more
 *		writes than it may have.
 */
#include "rate.h"

#include <stdio.h>

#define SECOND ((int64_t) 1000000)

static int number;
static int failures;

static void
check(bool good, const char *name)
{
	number++;
	failures += !good;
	printf("%sok %d - %s\n", good ? "" : "not ", number, name);
}

/* Send as fast as allowed for some time: how many in all, and in no second
 * more than allowed. */
static int64_t
send_for(Rate *rate, int64_t from, int64_t upto, bool *within)
{
	int64_t now = from;
	int64_t second = from;
	int64_t in_second = 0;
	int64_t total = 0;

	while (now < upto)
	{
		int n = rate_most(rate, now);

		now += rate_take(rate, n, now);
		if (now >= upto)
			break;
		if (now >= second + SECOND)
		{
			second = now;
			in_second = 0;
		}
		in_second += n;
		total += n;
		if (in_second > rate_at(rate, now))
			*within = false;
	}
	return total;
}

int
main(void)
{
	Rate free = {.limited = false};
	Rate ramp = {.limited = true};
	Rate capped = {.limited = true, .cap = 600};
	Rate slow = {.limited = true, .cap = 3};
	Rate idle = {.limited = true, .cap = 100};
	bool within = true;
	int64_t t = 7 * SECOND;
	int64_t n;

	check(rate_take(&free, 100000, t) == 0 && rate_take(&free, 1, t) == 0,
		  "without a limit nothing waits");

	check(rate_at(&ramp, t) == 500, "it begins with 500 a second");
	check(rate_take(&ramp, 500, t) == 0, "the first go at once");
	check(rate_take(&ramp, 250, t) == SECOND, "the next wait a second");
	check(rate_take(&ramp, 1, t) == SECOND * 3 / 2, "... and half of one");
	check(rate_at(&ramp, t + 299 * SECOND) == 500, "500 for five minutes");
	check(rate_at(&ramp, t + 300 * SECOND) == 750, "then half more");
	check(rate_at(&ramp, t + 600 * SECOND) == 1125, "... and half more again");
	check(rate_at(&ramp, t + 365 * 86400 * SECOND) >= 1125,
		  "after a year it is still a number");

	check(rate_at(&capped, t) == 500, "a cap above the ramp's begin waits");
	rate_take(&capped, 1, t);
	check(rate_at(&capped, t + 300 * SECOND) == 600, "... and then holds");
	check(rate_at(&slow, t) == 3, "a cap below it holds at once");
	check(rate_most(&slow, t) == 3, "no more go together than in a second");

	n = send_for(&slow, t, t + 100 * SECOND, &within);
	check(within, "no second has more than its cap");
	check(n >= 297 && n <= 303, "... and none much less");

	rate_take(&idle, 100, t);
	check(rate_take(&idle, 100, t + 60 * SECOND) == 0, "after a rest");
	check(rate_take(&idle, 100, t + 60 * SECOND) == SECOND,
		  "... what was not used is not made up for");

	ramp = (Rate){.limited = true};
	within = true;
	n = send_for(&ramp, t, t + 600 * SECOND, &within);
	check(within, "no second of the ramp has more than it may have");
	check(n >= 374000 && n <= 376000, "ten minutes of the ramp");

	printf("1..%d\n", number);
	return failures != 0;
}
