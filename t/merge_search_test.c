/*
 * merge_search_test.c
 *		Random search for a history that merge.c folds wrongly.  Prints TAP.
 *
 *	merge_search_test [HISTORIES [SEED]]
 *
 * One field, written on two sides, with runs in between: each run merges what
 * the sides hold and carries the decision out.  Each write knows which writes
 * its author can have seen; against that the decisions are held.  A history
 * that breaks a law is printed, with the seed that leads to it.
 *
 * Builds from merge.c and this file alone.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/merge.h"

#define MAX_STEPS 9
#define LOCAL 0
#define REMOTE 1
#define RUN 2

/* Sets of writes: write n is bit n; write 0 is what both began with. */
typedef uint32_t Writes;

#define ONE(n) ((Writes) 1 << (n))

typedef struct Write
{
	char value[4];
	MergeStamp stamp;
	int at;		 /* the step that made it */
	Writes seen; /* what its author had before, itself included */
} Write;

typedef struct Step
{
	int what;	 /* LOCAL, REMOTE, RUN */
	int value;	 /* of a write */
	bool dated;	 /* its time is known */
	int mistake; /* of the clock that dated it */
} Step;

typedef struct History
{
	uint32_t seed;
	bool true_times;
	int nsteps;
	Step steps[MAX_STEPS];
} History;

typedef struct World
{
	Write writes[MAX_STEPS + 1];
	int nwrites;
	int on[2];	 /* the write that each side holds */
	int base;	 /* that both last agreed on */
	int ran_at;	 /* the step of the last run */
	Writes lost; /* in conflicts */
	bool undone; /* a side went back to what both had: that is no change */
	const char *broken;
} World;

static uint32_t
next_random(uint32_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 17;
	*state ^= *state << 5;
	return *state;
}

static History
make_history(uint32_t seed)
{
	History h = {.seed = seed};
	uint32_t state = seed * 2654435761u + 1;
	int i;

	if (state == 0)
		state = 1;
	h.true_times = next_random(&state) % 2;
	h.nsteps = 2 + next_random(&state) % (MAX_STEPS - 2);
	for (i = 0; i < h.nsteps; i++)
	{
		Step *step = &h.steps[i];

		step->what = next_random(&state) % 3;
		step->value = next_random(&state) % 5;
		step->dated = next_random(&state) % 3 > 0;
		step->mistake = h.true_times ? 0 : (int) (next_random(&state) % 9) - 4;
	}
	h.steps[h.nsteps - 1].what = RUN;
	return h;
}

static bool
same(const World *w, int a, int b)
{
	return strcmp(w->writes[a].value, w->writes[b].value) == 0;
}

/* A write; one that changes nothing is none. */
static void
write_value(World *w, const Step *step, int at)
{
	Write *write = &w->writes[w->nwrites];
	const Write *before = &w->writes[w->on[step->what]];

	snprintf(write->value, sizeof(write->value), "%d", step->value);
	if (strcmp(write->value, before->value) == 0)
		return;
	write->at = at;
	write->stamp.from = write->stamp.upto = at + step->mistake;
	if (!step->dated)
		write->stamp.upto = MAX_STEPS; /* for set_time() */
	write->seen = before->seen | ONE(w->nwrites);
	w->on[step->what] = w->nwrites++;
}

/*
 * What one side holds is taken over by the other, whose own is lost.  Of two
 * equal values either may be the one that stays.
 */
static void
hold(World *w, int winner, int loser, bool conflict)
{
	bool knew = (w->writes[winner].seen & ONE(loser)) != 0;

	if (!same(w, winner, loser))
	{
		if (conflict == knew)
			w->broken = knew
							? "a conflict though the winner had seen the loser"
							: "a loser that nobody had seen is in no conflict";
		if (conflict)
			w->lost |= ONE(loser);
	}
	/* whoever writes next has seen both */
	w->writes[winner].seen |= w->writes[loser].seen;
	w->on[LOCAL] = w->on[REMOTE] = w->base = winner;
}

static MergeResult
merge(const World *w)
{
	MergeInput in = {.base = w->writes[w->base].value,
					 .local = w->writes[w->on[LOCAL]].value,
					 .remote = w->writes[w->on[REMOTE]].value,
					 .local_stamp = w->writes[w->on[LOCAL]].stamp,
					 .remote_stamp = w->writes[w->on[REMOTE]].stamp,
					 .window = 3};

	return merge_field(&in);
}

/* What a side holds; its base where it went back to that. */
static int
side(World *w, int which)
{
	int write = w->on[which];

	if (write == w->base || !same(w, write, w->base))
		return write;
	w->writes[w->base].seen |= w->writes[write].seen;
	w->undone = true;
	return w->on[which] = w->base;
}

/* No row and no entry tells its time: between the last run and this one. */
static void
set_time(World *w, int write, int at)
{
	if (w->writes[write].stamp.upto == MAX_STEPS)
		w->writes[write].stamp = (MergeStamp){w->ran_at, at};
}

static bool
is_dated(const World *w, int write)
{
	return w->writes[write].stamp.from == w->writes[write].stamp.upto;
}

/* Was it written after the other one for certain? */
static bool
is_later(const World *w, int write, int other)
{
	MergeTime first = w->writes[write].stamp.from + !is_dated(w, write);

	return w->writes[other].stamp.upto < first;
}

static void
run(World *w, int at)
{
	int local = side(w, LOCAL);
	int remote = side(w, REMOTE);
	MergeResult res;

	set_time(w, local, at);
	set_time(w, remote, at);
	res = merge(w);
	switch (res.action)
	{
		case MERGE_NOTHING:
		case MERGE_AGREE:
			if (!same(w, local, remote))
				w->broken = "agreed on different values";
			hold(w,
				 w->writes[local].at < w->writes[remote].at ? remote : local,
				 w->writes[local].at < w->writes[remote].at ? local : remote,
				 res.conflict);
			break;
		case MERGE_PUSH:
			hold(w, local, remote, res.conflict);
			break;
		case MERGE_PULL:
			if (res.conflict && !is_later(w, remote, local))
				w->broken = "the document won, and the row may be later";
			hold(w, remote, local, res.conflict);
			break;
		case MERGE_HOLD:
			w->broken = "held without a reason";
			break;
	}
	w->ran_at = at;
	res = merge(w);
	if (res.action != MERGE_NOTHING || res.conflict)
		w->broken = "a second run has something to do";
}

/*
 * Where clocks are right, the value that stays is the last one written; or,
 * where nobody knows when one of them was written, the last one is kept.
 */
static void
check_last(World *w)
{
	int last = w->nwrites - 1;
	int final = w->on[LOCAL];

	if (same(w, final, last))
		return;
	if (w->lost == 0)
		w->broken = "the last write is gone";
	else if ((w->lost & ONE(last)) == 0)
		w->broken = "an earlier write beat the last one, which is not kept";
	else if (is_dated(w, last) && is_dated(w, final))
		w->broken = "the last write lost, though the times are known";
}

static const char *
play(const History *h)
{
	World w = {.nwrites = 1, .writes = {{.value = "0", .seen = ONE(0)}}};
	int i;

	for (i = 0; i < h->nsteps && w.broken == NULL; i++)
	{
		if (h->steps[i].what == RUN)
			run(&w, i + 1);
		else
			write_value(&w, &h->steps[i], i + 1);
	}
	if (w.broken == NULL && h->true_times && !w.undone)
		check_last(&w);
	return w.broken;
}

static void
show(const History *h, const char *broken)
{
	static const char *const names[] = {"local", "remote", "run"};
	int i;

	printf("# seed %u: %s\n", h->seed, broken);
	for (i = 0; i < h->nsteps; i++)
	{
		const Step *step = &h->steps[i];

		if (step->what == RUN)
			printf("#   %d run\n", i + 1);
		else
			printf("#   %d %s writes %d, %s%+d\n", i + 1, names[step->what],
				   step->value, step->dated ? "dated " : "undated ",
				   step->mistake);
	}
}

int
main(int argc, char **argv)
{
	uint32_t histories = argc > 1 ? (uint32_t) atol(argv[1]) : 300000;
	uint32_t seed = argc > 2 ? (uint32_t) atol(argv[2]) : 1;
	uint32_t broken = 0;
	uint32_t i;

	for (i = 0; i < histories; i++)
	{
		History h = make_history(seed + i);
		const char *law = play(&h);

		if (law != NULL && broken++ == 0)
			show(&h, law);
	}
	printf("%sok 1 - %u histories from seed %u\n", broken ? "not " : "",
		   histories, seed);
	printf("1..1\n");
	return broken > 0;
}
