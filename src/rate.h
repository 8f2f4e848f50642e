/*
 * rate.h
 *		How fast a run may write: so many documents a second, and more with
 *		time.
 */
#ifndef EKKSYNC_RATE_H
#define EKKSYNC_RATE_H

#include <stdbool.h>
#include <stdint.h>

/* What Google asks for: begin with so many a second, half more every 5 min. */
#define RATE_START 500
#define RATE_GROWTH 1.5
#define RATE_STEP (300 * (int64_t) 1000000)

/* All times are microseconds of a clock that never goes back. */
typedef struct Rate
{
	bool limited; /* false: nothing ever waits */
	int cap;	  /* most writes a second, 0: the ramp alone */
	bool begun;
	int64_t start; /* the first writes were sent */
	int64_t next;  /* the next may be, at the earliest */
} Rate;

/* How many writes a second may be sent at this time; limited rates only. */
extern double rate_at(const Rate *rate, int64_t now);

/* How many writes may be sent together now: at least 1. */
extern int rate_most(const Rate *rate, int64_t now);

/*
 * n writes are to be sent together: how many microseconds they have to wait
 * for that.  They count as sent then.
 */
extern int64_t rate_take(Rate *rate, int n, int64_t now);

#endif /* EKKSYNC_RATE_H */
