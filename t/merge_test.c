/*
 * merge_test.c
 *		Tests of merge.c: a table of cases, and laws that hold for every input
 *		of a small domain.  Prints TAP; the exit status is 0 if all is well.
 *
 * Builds from merge.c and this file alone.  The laws are written from what
 * the merge promises and share no code with merge.c: times are compared by
 * listing the moments at which each write may have happened.
 */
#include <stdio.h>
#include <string.h>

#include "../src/merge.h"

#define lengthof(array) ((int) (sizeof(array) / sizeof((array)[0])))

#define HOUR INT64_C(3600000000)

/* ---- TAP ---- */

static int	ntests;
static int	nfailed;

static void
report(bool ok, const char *kind, const char *name)
{
	printf("%sok %d - %s: %s\n", ok ? "" : "not ", ++ntests, kind, name);
	fflush(stdout);
	if (!ok)
		nfailed++;
}

static const char *
shown(const char *value)
{
	return value ? value : "(none)";
}

static void
show(const MergeInput *in, const MergeResult *got)
{
	static const char *const actions[] = {
		"nothing", "agree", "push", "pull", "hold"
	};

	fprintf(stderr, "# base %s, local %s (%lld, %lld],"
			" remote %s%s (%lld, %lld]\n"
			"# push_only %d, policy %d, first %d, window %lld\n"
			"# got: %s, rule \"%s\", conflict %d, potential %d\n",
			shown(in->base), shown(in->local),
			(long long) in->local_stamp.from, (long long) in->local_stamp.upto,
			shown(in->remote), in->remote_missing ? " (absent)" : "",
			(long long) in->remote_stamp.from,
			(long long) in->remote_stamp.upto,
			in->push_only, in->policy, in->first, (long long) in->window,
			actions[got->action], merge_rule_name(got->rule),
			got->conflict, got->potential);
}

/* ---- cases ---- */

typedef struct Case
{
	const char *name;
	MergeInput	in;				/* its window is one hour */
	MergeDecision action;
	MergeRule	rule;			/* a conflict unless RULE_NONE */
	bool		potential;
} Case;

/* input */
#define VALUES(b, l, r) .base = b, .local = l, .remote = r
#define ABSENT(b, l) VALUES(b, l, "null"), .remote_missing = true
#define TIMES(l, r) .local_stamp = l, .remote_stamp = r
#define AT(t) {(t), (t)}
#define IN(from, upto) {(from), (upto)}
#define BOTH(l, r) VALUES("a", "b", "c"), TIMES(l, r)
#define POLICY(p) .policy = MERGE_##p
#define FIRST(f, l, r) VALUES(NULL, l, r), .first = FIRST_##f
#define ONE_WAY .push_only = true
#define UNTOUCHED IN(-9, 9)		/* no write of the row is known */

/* expected: no conflict; a conflict; a potential one */
#define QUIET(action) MERGE_##action, RULE_NONE, false
#define LOSER(action, rule) MERGE_##action, RULE_##rule, false
#define NEAR(action, rule) MERGE_##action, RULE_##rule, true

static const Case cases[] = {
	/* no more than one side changed, or both in the same way */
	{"no side changed", {VALUES("a", "a", "a")}, QUIET(NOTHING)},
	{"only the row", {VALUES("a", "b", "a")}, QUIET(PUSH)},
	{"only the row, its time the earlier",
	 {VALUES("a", "b", "a"), TIMES(AT(1), AT(9))}, QUIET(PUSH)},
	{"only the document", {VALUES("a", "a", "b")}, QUIET(PULL)},
	{"only the document, its time the earlier",
	 {VALUES("a", "a", "b"), TIMES(AT(9), AT(1))}, QUIET(PULL)},
	{"only the row, cleared", {VALUES("a", "null", "a")}, QUIET(PUSH)},
	{"only the document, cleared", {VALUES("a", "a", "null")}, QUIET(PULL)},
	{"the same new value", {VALUES("a", "b", "b")}, QUIET(AGREE)},
	{"the same new value, manual",
	 {VALUES("a", "b", "b"), POLICY(MANUAL)}, QUIET(AGREE)},
	{"cleared on both sides", {VALUES("a", "null", "null")}, QUIET(AGREE)},
	{"the document edits what was pushed just now",
	 {VALUES("b", "b", "c"), TIMES(AT(1), AT(2))}, QUIET(PULL)},
	{"the row edits what was pulled just now",
	 {VALUES("b", "c", "b"), TIMES(AT(2), AT(1))}, QUIET(PUSH)},

	/* an absent path is null once there is a base */
	{"absent, null agreed", {ABSENT("null", "null")}, QUIET(NOTHING)},
	{"absent, a value agreed", {ABSENT("a", "a")}, QUIET(PULL)},
	{"absent, the row set", {ABSENT("null", "b")}, QUIET(PUSH)},
	{"absent, the row cleared", {ABSENT("a", "null")}, QUIET(AGREE)},
	{"absent, the row changed earlier",
	 {ABSENT("a", "b"), TIMES(AT(1), AT(2))}, NEAR(PULL, LATER)},
	{"absent, the row changed later",
	 {ABSENT("a", "b"), TIMES(AT(2), AT(1))}, NEAR(PUSH, LATER)},

	/* both changed, times known */
	{"the row later", {BOTH(AT(2), AT(1))}, NEAR(PUSH, LATER)},
	{"the document later", {BOTH(AT(1), AT(2))}, NEAR(PULL, LATER)},
	{"the document later, before 1970",
	 {BOTH(AT(-2), AT(-1))}, NEAR(PULL, LATER)},
	{"a tie", {BOTH(AT(1), AT(1))}, NEAR(PUSH, TIE)},
	{"the row cleared later",
	 {VALUES("a", "null", "c"), TIMES(AT(2), AT(1))}, NEAR(PUSH, LATER)},
	{"the document cleared later",
	 {VALUES("a", "b", "null"), TIMES(AT(1), AT(2))}, NEAR(PULL, LATER)},

	/* both changed, one somewhere in an interval */
	{"the row before the document's interval",
	 {BOTH(AT(9), IN(10, 20))}, NEAR(PULL, LATER)},
	{"the row at its open start",
	 {BOTH(AT(10), IN(10, 20))}, NEAR(PULL, LATER)},
	{"the row at its first moment",
	 {BOTH(AT(11), IN(10, 20))}, NEAR(PUSH, ORDER_UNKNOWN)},
	{"the row at its closed end",
	 {BOTH(AT(20), IN(10, 20))}, NEAR(PUSH, ORDER_UNKNOWN)},
	{"the row after it", {BOTH(AT(21), IN(10, 20))}, NEAR(PUSH, LATER)},
	{"the document at the row's open start",
	 {BOTH(IN(10, 20), AT(10))}, NEAR(PUSH, LATER)},
	{"the document at the row's first moment",
	 {BOTH(IN(10, 20), AT(11))}, NEAR(PUSH, ORDER_UNKNOWN)},
	{"the document at the row's closed end",
	 {BOTH(IN(10, 20), AT(20))}, NEAR(PUSH, ORDER_UNKNOWN)},
	{"the document after the row's interval",
	 {BOTH(IN(10, 20), AT(21))}, NEAR(PULL, LATER)},
	{"intervals that overlap",
	 {BOTH(IN(10, 20), IN(19, 30))}, NEAR(PUSH, ORDER_UNKNOWN)},
	{"the document's interval follows",
	 {BOTH(IN(10, 20), IN(20, 30))}, NEAR(PULL, LATER)},
	{"the row's interval follows",
	 {BOTH(IN(20, 30), IN(10, 20))}, NEAR(PUSH, LATER)},

	/* how far apart */
	{"the window, up", {BOTH(AT(0), AT(HOUR))}, NEAR(PULL, LATER)},
	{"the window, down", {BOTH(AT(HOUR), AT(0))}, NEAR(PUSH, LATER)},
	{"1 us more, up", {BOTH(AT(0), AT(HOUR + 1))}, LOSER(PULL, LATER)},
	{"1 us more, down", {BOTH(AT(HOUR + 1), AT(0))}, LOSER(PUSH, LATER)},
	{"the window from an interval's end",
	 {BOTH(AT(HOUR + 20), IN(10, 20))}, NEAR(PUSH, LATER)},
	{"1 us more from an interval's end",
	 {BOTH(AT(HOUR + 21), IN(10, 20))}, LOSER(PUSH, LATER)},
	{"the window to an interval's first moment",
	 {BOTH(AT(0), IN(HOUR - 1, 2 * HOUR))}, NEAR(PULL, LATER)},
	{"1 us more to an interval's first moment",
	 {BOTH(AT(0), IN(HOUR, 2 * HOUR))}, LOSER(PULL, LATER)},
	{"inside an interval longer than the window",
	 {BOTH(AT(5 * HOUR), IN(0, 9 * HOUR))}, NEAR(PUSH, ORDER_UNKNOWN)},
	{"1 us more, django_wins",
	 {BOTH(AT(0), AT(HOUR + 1)), POLICY(DJANGO_WINS)}, LOSER(PUSH, POLICY)},

	/* policies, which decide only what is contested */
	{"django_wins, the document later",
	 {BOTH(AT(1), AT(2)), POLICY(DJANGO_WINS)}, NEAR(PUSH, POLICY)},
	{"django_wins, only the document",
	 {VALUES("a", "a", "c"), POLICY(DJANGO_WINS)}, QUIET(PULL)},
	{"firestore_wins, the row later",
	 {BOTH(AT(2), AT(1)), POLICY(FIRESTORE_WINS)}, NEAR(PULL, POLICY)},
	{"firestore_wins, only the row",
	 {VALUES("a", "b", "a"), POLICY(FIRESTORE_WINS)}, QUIET(PUSH)},
	{"manual", {BOTH(AT(2), AT(1)), POLICY(MANUAL)}, NEAR(HOLD, POLICY)},
	{"manual, only the row",
	 {VALUES("a", "b", "a"), POLICY(MANUAL)}, QUIET(PUSH)},
	{"manual, only the document",
	 {VALUES("a", "a", "c"), POLICY(MANUAL)}, QUIET(PULL)},

	/* paths that are only written */
	{"one way, the document changed",
	 {VALUES("a", "a", "c"), ONE_WAY}, LOSER(PUSH, ONE_WAY)},
	{"one way, the path went away",
	 {ABSENT("a", "a"), ONE_WAY}, LOSER(PUSH, ONE_WAY)},
	{"one way, both, the document later",
	 {BOTH(AT(1), AT(2)), ONE_WAY}, NEAR(PUSH, ONE_WAY)},
	{"one way before firestore_wins",
	 {BOTH(AT(1), AT(2)), ONE_WAY, POLICY(FIRESTORE_WINS)},
	 NEAR(PUSH, ONE_WAY)},
	{"one way before manual",
	 {BOTH(AT(1), AT(2)), ONE_WAY, POLICY(MANUAL)}, NEAR(PUSH, ONE_WAY)},
	{"one way, only the row", {VALUES("a", "b", "a"), ONE_WAY}, QUIET(PUSH)},
	{"one way, the same", {VALUES("a", "b", "b"), ONE_WAY}, QUIET(AGREE)},
	{"one way, first contact",
	 {FIRST(FIRESTORE, "a", "b"), ONE_WAY}, LOSER(PUSH, FIRST_CONTACT)},
	{"one way, first contact, the row without a value",
	 {FIRST(DJANGO, "null", "b"), TIMES(UNTOUCHED, AT(1)), ONE_WAY},
	 LOSER(PUSH, FIRST_CONTACT)},
	{"one way, first contact, null in the document",
	 {FIRST(FIRESTORE, "a", "null"), ONE_WAY}, QUIET(PUSH)},

	/* first contact, both with a value */
	{"first, equal", {FIRST(FIRESTORE, "a", "a")}, QUIET(AGREE)},
	{"first, django", {FIRST(DJANGO, "a", "b"), TIMES(AT(1), AT(2))},
	 LOSER(PUSH, FIRST_CONTACT)},
	{"first, firestore", {FIRST(FIRESTORE, "a", "b"), TIMES(AT(2), AT(1))},
	 LOSER(PULL, FIRST_CONTACT)},
	{"first, newest, the row", {FIRST(NEWEST, "a", "b"), TIMES(AT(2), AT(1))},
	 LOSER(PUSH, FIRST_CONTACT)},
	{"first, newest, the document",
	 {FIRST(NEWEST, "a", "b"), TIMES(AT(1), AT(2))},
	 LOSER(PULL, FIRST_CONTACT)},
	{"first, newest, a tie", {FIRST(NEWEST, "a", "b"), TIMES(AT(1), AT(1))},
	 LOSER(PUSH, FIRST_CONTACT)},
	{"first, newest, order unknown",
	 {FIRST(NEWEST, "a", "b"), TIMES(AT(5), IN(1, 9))},
	 LOSER(PUSH, FIRST_CONTACT)},
	{"first, django, a field of firestore_wins",
	 {FIRST(DJANGO, "a", "b"), POLICY(FIRESTORE_WINS)},
	 LOSER(PUSH, FIRST_CONTACT)},
	{"first, firestore, but with a base",
	 {BOTH(AT(2), AT(1)), .first = FIRST_FIRESTORE}, NEAR(PUSH, LATER)},
	{"no base", {FIRST(NONE, "a", "b"), TIMES(AT(1), AT(2))},
	 LOSER(PUSH, FIRST_CONTACT)},
	{"no base, equal", {FIRST(NONE, "a", "a")}, QUIET(AGREE)},

	/* first contact, what is missing on one side is filled */
	{"first, absent and null",
	 {ABSENT(NULL, "null"), .first = FIRST_NEWEST}, QUIET(AGREE)},
	{"first, django, absent",
	 {ABSENT(NULL, "a"), .first = FIRST_DJANGO}, QUIET(PUSH)},
	{"first, firestore, absent",
	 {ABSENT(NULL, "a"), .first = FIRST_FIRESTORE}, QUIET(PUSH)},
	{"first, newest, absent",
	 {ABSENT(NULL, "a"), .first = FIRST_NEWEST, TIMES(AT(1), AT(2))},
	 QUIET(PUSH)},
	{"first, firestore, null", {FIRST(FIRESTORE, "a", "null")}, QUIET(PUSH)},
	{"first, newest, null",
	 {FIRST(NEWEST, "a", "null"), TIMES(AT(1), AT(2))}, QUIET(PUSH)},
	{"first, django, the row without a value",
	 {FIRST(DJANGO, "null", "b"), TIMES(UNTOUCHED, AT(1))}, QUIET(PULL)},
	{"first, firestore, the row without a value",
	 {FIRST(FIRESTORE, "null", "b"), TIMES(UNTOUCHED, AT(1))}, QUIET(PULL)},
	{"first, newest, the row without a value",
	 {FIRST(NEWEST, "null", "b"), TIMES(UNTOUCHED, AT(-9))}, QUIET(PULL)},
	{"no base, the row without a value",
	 {FIRST(NONE, "null", "b"), TIMES(UNTOUCHED, AT(1))}, QUIET(PULL)},
	{"first, django, the row cleared by an edit",
	 {FIRST(DJANGO, "null", "b"), TIMES(AT(1), AT(2))},
	 LOSER(PUSH, FIRST_CONTACT)},
	{"first, firestore, the row cleared by an edit",
	 {FIRST(FIRESTORE, "null", "b"), TIMES(AT(2), AT(1))},
	 LOSER(PULL, FIRST_CONTACT)},

	/* the document holds what the field cannot take */
	{"unreadable", {VALUES("a", "a", NULL)}, LOSER(HOLD, INVALID)},
	{"unreadable, the row changed",
	 {VALUES("a", "b", NULL), TIMES(AT(1), AT(2))}, LOSER(PUSH, INVALID)},
	{"unreadable, one way",
	 {VALUES("a", "a", NULL), ONE_WAY}, LOSER(PUSH, INVALID)},
	{"unreadable, first, django",
	 {FIRST(DJANGO, "a", NULL)}, LOSER(HOLD, INVALID)},
	{"unreadable, first, firestore",
	 {FIRST(FIRESTORE, "a", NULL)}, LOSER(HOLD, INVALID)},
	{"unreadable, first, one way",
	 {FIRST(DJANGO, "a", NULL), ONE_WAY}, LOSER(PUSH, INVALID)},
};

static void
test_case(const Case *c)
{
	MergeInput	in = c->in;
	MergeResult res;
	bool		ok;

	in.window = HOUR;
	res = merge_field(&in);
	ok = res.action == c->action && res.rule == c->rule &&
		res.conflict == (c->rule != RULE_NONE) &&
		res.potential == c->potential;
	report(ok, "case", c->name);
	if (!ok)
		show(&in, &res);
}

/* ---- every input of a small domain ---- */

static const char *const values[] = {NULL, "null", "a", "b", "c"};

/* Within 0 .. LAST_MOMENT. */
static const MergeStamp stamps[] = {
	{0, 0}, {2, 2}, {3, 3}, {5, 5}, {0, 1}, {0, 3}, {2, 3}, {3, 5}
};

#define LAST_MOMENT 5

/* Take a number below n off *rest. */
static int
take(int *rest, int n)
{
	int			digit = *rest % n;

	*rest /= n;
	return digit;
}

/* Input number n; false past the last one. */
static bool
nth_input(int n, MergeInput *in)
{
	int			remote;

	in->base = values[take(&n, 5)];
	in->local = values[1 + take(&n, 4)];
	remote = take(&n, 6);
	in->remote_missing = remote == 5;
	in->remote = in->remote_missing ? "null" : values[remote];
	in->local_stamp = stamps[take(&n, lengthof(stamps))];
	in->remote_stamp = stamps[take(&n, lengthof(stamps))];
	in->push_only = take(&n, 2);
	in->policy = (MergePolicy) take(&n, 4);
	in->first = (MergeFirst) take(&n, 4);
	in->window = take(&n, 3);
	return n == 0;
}

/* Equal, none included? */
static bool
same(const char *a, const char *b)
{
	return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

static bool
exact(MergeStamp stamp)
{
	return stamp.from == stamp.upto;
}

static bool
same_stamp(MergeStamp a, MergeStamp b)
{
	return a.from == b.from && a.upto == b.upto;
}

static bool
same_result(const MergeResult *a, const MergeResult *b)
{
	return a->action == b->action && a->conflict == b->conflict &&
		a->potential == b->potential && a->rule == b->rule &&
		a->winner == b->winner && same_stamp(a->stamp, b->stamp);
}

/* Both sides left the base, to different values that can be read. */
static bool
both_changed(const MergeInput *in)
{
	return in->base != NULL && in->remote != NULL &&
		!same(in->local, in->base) && !same(in->remote, in->base) &&
		!same(in->local, in->remote);
}

/* How the local write may lie to the remote one. */
typedef struct Possible
{
	bool		earlier;
	bool		simultaneous;
	bool		later;
	bool		near;			/* not further apart than the window */
} Possible;

static bool
may_be_at(MergeStamp stamp, MergeTime t)
{
	return exact(stamp) ? t == stamp.upto : t > stamp.from && t <= stamp.upto;
}

static Possible
possible_orders(const MergeInput *in)
{
	Possible	is = {false, false, false, false};
	MergeTime	l;
	MergeTime	r;

	for (l = 0; l <= LAST_MOMENT; l++)
		for (r = 0; r <= LAST_MOMENT; r++)
		{
			if (!may_be_at(in->local_stamp, l) ||
				!may_be_at(in->remote_stamp, r))
				continue;
			is.earlier |= l < r;
			is.simultaneous |= l == r;
			is.later |= l > r;
			is.near |= l - r <= in->window && r - l <= in->window;
		}
	return is;
}

/* ---- laws: each says whether it holds for this input ---- */

/* Nothing but the input counts, and texts count, not where they are kept. */
static bool
law_function(const MergeInput *in, const MergeResult *res)
{
	char		copies[3][8];
	const char **texts[3];
	MergeInput	copy = *in;
	MergeResult again = merge_field(in);
	int			i;

	texts[0] = &copy.base;
	texts[1] = &copy.local;
	texts[2] = &copy.remote;
	for (i = 0; i < 3; i++)
		if (*texts[i] != NULL)
			*texts[i] = strcpy(copies[i], *texts[i]);
	if (!same_result(&again, res))
		return false;
	again = merge_field(&copy);
	return same_result(&again, res);
}

/* Times count only by their order and differences. */
static bool
law_shift(const MergeInput *in, const MergeResult *res)
{
	MergeInput	moved = *in;
	MergeResult moved_res;

	moved.local_stamp.from -= HOUR;
	moved.local_stamp.upto -= HOUR;
	moved.remote_stamp.from -= HOUR;
	moved.remote_stamp.upto -= HOUR;
	moved_res = merge_field(&moved);
	moved_res.stamp.from += HOUR;
	moved_res.stamp.upto += HOUR;
	return same_result(&moved_res, res);
}

/* NULL unless both sides hold one value after this. */
static const char *
survivor(const MergeInput *in, const MergeResult *res)
{
	switch (res->action)
	{
		case MERGE_NOTHING:
		case MERGE_AGREE:
			return same(in->local, in->remote) ? in->local : NULL;
		case MERGE_PUSH:
			return in->local;
		case MERGE_PULL:
			return in->remote;
		case MERGE_HOLD:
			break;
	}
	return NULL;
}

/*
 * Once a decision is carried out there is nothing left to do; and if the base
 * was not kept, there is just this.
 */
static bool
law_settled(const MergeInput *in, const MergeResult *res)
{
	MergeInput	next = *in;
	MergeResult next_res;

	if (res->action == MERGE_HOLD)
		return true;
	next.local = next.remote = survivor(in, res);
	if (next.local == NULL)
		return false;
	next.remote_missing = false;
	next_res = merge_field(&next);
	if (next_res.conflict || next_res.action !=
		(same(next.local, next.base) ? MERGE_NOTHING : MERGE_AGREE))
		return false;
	next.base = next.local;
	next_res = merge_field(&next);
	return next_res.action == MERGE_NOTHING && !next_res.conflict;
}

/* May this value go without a trace: was it agreed on, or no value at all? */
static bool
expendable(const MergeInput *in, const char *value)
{
	return value != NULL &&
		same(value, in->base != NULL ? in->base : "null");
}

/* What does not survive is the base or in a conflict. */
static bool
law_nothing_lost(const MergeInput *in, const MergeResult *res)
{
	const char *kept = survivor(in, res);

	if (res->conflict)
		return true;
	if (kept == NULL)
		return false;
	return (same(kept, in->local) || expendable(in, in->local)) &&
		(same(kept, in->remote) || expendable(in, in->remote));
}

/* A conflict is just where the two sides cannot both be right. */
static bool
law_conflict(const MergeInput *in, const MergeResult *res)
{
	bool		expected;

	if (in->remote == NULL)
		expected = true;
	else if (same(in->local, in->remote) || same(in->remote, in->base))
		expected = false;
	else if (in->base != NULL)
		expected = in->push_only || both_changed(in);
	else if (same(in->remote, "null"))
		expected = false;
	else
		expected = in->push_only || !same(in->local, "null") ||
			exact(in->local_stamp);
	return res->conflict == expected &&
		res->conflict == (res->rule != RULE_NONE);
}

/* Changed on both sides, within the window. */
static bool
law_potential(const MergeInput *in, const MergeResult *res)
{
	return res->potential == (both_changed(in) && possible_orders(in).near);
}

/* Where time decides, only a certain order lets the document win. */
static bool
law_time(const MergeInput *in, const MergeResult *res)
{
	Possible	is = possible_orders(in);
	MergeRule	rule = RULE_ORDER_UNKNOWN;

	if (!both_changed(in) || in->push_only || in->policy != MERGE_LWW)
		return res->rule != RULE_LATER && res->rule != RULE_TIE &&
			res->rule != RULE_ORDER_UNKNOWN;
	if (is.earlier + is.simultaneous + is.later == 1 && !is.simultaneous)
		rule = RULE_LATER;
	else if (exact(in->local_stamp) && exact(in->remote_stamp))
		rule = RULE_TIE;
	return res->rule == rule && res->action ==
		(rule == RULE_LATER && is.earlier ? MERGE_PULL : MERGE_PUSH);
}

/* Newest on first contact decides as time does between changes. */
static bool
law_newest(const MergeInput *in, const MergeResult *res)
{
	MergeInput	later = *in;

	if (in->base != NULL || in->remote == NULL || in->push_only ||
		in->first != FIRST_NEWEST || same(in->local, in->remote) ||
		same(in->local, "null") || same(in->remote, "null"))
		return true;
	later.base = "null";
	later.policy = MERGE_LWW;
	return res->rule == RULE_FIRST_CONTACT &&
		res->action == merge_field(&later).action;
}

/* Of two writes with exact times, merge_after's survivor wins. */
static bool
law_same_order(const MergeInput *in, const MergeResult *res)
{
	bool		remote_after;

	if (!both_changed(in) || in->push_only || in->policy != MERGE_LWW ||
		!exact(in->local_stamp) || !exact(in->remote_stamp))
		return true;
	remote_after = merge_after(in->local, in->local_stamp.upto, ORIGIN_DJANGO,
							   in->remote, in->remote_stamp.upto,
							   ORIGIN_FIRESTORE);
	return res->action == (remote_after ? MERGE_PULL : MERGE_PUSH);
}

/* Swapped sides swap push and pull when the order is known. */
static bool
law_mirror(const MergeInput *in, const MergeResult *res)
{
	MergeInput	swapped = *in;
	MergeResult mirror;

	if (in->base == NULL || in->remote == NULL || in->push_only ||
		in->policy != MERGE_LWW || !exact(in->local_stamp) ||
		!exact(in->remote_stamp) ||
		same_stamp(in->local_stamp, in->remote_stamp))
		return true;
	swapped.local = in->remote;
	swapped.local_stamp = in->remote_stamp;
	swapped.remote = in->local;
	swapped.remote_stamp = in->local_stamp;
	swapped.remote_missing = false;
	mirror = merge_field(&swapped);
	if (mirror.action == MERGE_PUSH)
		mirror.action = MERGE_PULL;
	else if (mirror.action == MERGE_PULL)
		mirror.action = MERGE_PUSH;
	return mirror.action == res->action && mirror.rule == res->rule &&
		mirror.conflict == res->conflict &&
		mirror.potential == res->potential;
}

/* A document never gives what it may not or cannot; few things wait. */
static bool
law_allowed(const MergeInput *in, const MergeResult *res)
{
	if (res->action == MERGE_PULL)
		return !in->push_only && in->remote != NULL;
	if (res->action == MERGE_HOLD)
		return !in->push_only &&
			(in->remote == NULL || in->policy == MERGE_MANUAL);
	return true;
}

/* Origin and stamp are those of the value that survives. */
static bool
law_provenance(const MergeInput *in, const MergeResult *res)
{
	bool		django = res->winner == ORIGIN_DJANGO;

	if (res->action == MERGE_HOLD)
		return true;
	if (res->action == MERGE_PUSH && !django)
		return false;
	if (res->action == MERGE_PULL && django)
		return false;
	return same_stamp(res->stamp,
					  django ? in->local_stamp : in->remote_stamp);
}

/*
 * What has no say: the policy of the first contact once there is a base, the
 * field's policy unless both sides changed, the window but for the potential
 * flag, and whether a null is absent.
 */
static bool
law_no_say(const MergeInput *in, const MergeResult *res)
{
	MergeInput	other = *in;
	MergeResult other_res;

	if (in->base != NULL)
		other.first = FIRST_NONE;
	if (in->remote != NULL && (in->push_only || !both_changed(in)))
		other.policy = MERGE_LWW;
	other.window = HOUR;
	other.remote_missing = false;
	other_res = merge_field(&other);
	other_res.potential = res->potential;
	return same_result(&other_res, res);
}

typedef struct Law
{
	const char *name;
	bool		(*holds) (const MergeInput *in, const MergeResult *res);
} Law;

static const Law laws[] = {
	{"the result depends on the input alone", law_function},
	{"only order and differences of times count", law_shift},
	{"a decision that is carried out leaves nothing to do", law_settled},
	{"no value is lost in silence", law_nothing_lost},
	{"conflict exactly where the sides disagree", law_conflict},
	{"potential exactly where both changed within the window", law_potential},
	{"the later write wins, Django unless that is certain", law_time},
	{"newest on first contact decides by time", law_newest},
	{"the same order as merge_after", law_same_order},
	{"swapped sides swap push and pull", law_mirror},
	{"no pull of what may not or cannot be taken", law_allowed},
	{"origin and stamp are the survivor's", law_provenance},
	{"what has no say changes nothing", law_no_say},
};

static void
test_law(const Law *law)
{
	MergeInput	in;
	MergeResult res;
	int			broken = 0;
	int			n;

	for (n = 0; nth_input(n, &in); n++)
	{
		res = merge_field(&in);
		if (law->holds(&in, &res) || broken++ > 0)
			continue;
		show(&in, &res);
	}
	report(n > 0 && broken == 0, "law", law->name);
	if (broken > 0)
		fprintf(stderr, "# broken by %d of %d inputs, first by the above\n",
				broken, n);
}

/* ---- the order of writes ---- */

typedef struct Write
{
	const char *value;
	MergeTime	time;
	MergeOrigin origin;
} Write;

#define NWRITES 12

/* Write number n of NWRITES, all different. */
static Write
nth_write(int n)
{
	Write		w;

	w.value = values[2 + take(&n, 3)];
	w.time = take(&n, 2);
	w.origin = take(&n, 2) ? ORIGIN_DJANGO : ORIGIN_FIRESTORE;
	return w;
}

/* Does write b come after write a? */
static bool
after(int a, int b)
{
	Write		x = nth_write(a);
	Write		y = nth_write(b);

	return merge_after(x.value, x.time, x.origin, y.value, y.time, y.origin);
}

static int
later_of(int a, int b)
{
	return after(a, b) ? b : a;
}

static void
test_order(void)
{
	bool		total = true;
	bool		transitive = true;
	bool		associative = true;
	int			n;

	for (n = 0; n < NWRITES * NWRITES * NWRITES; n++)
	{
		int			rest = n;
		int			a = take(&rest, NWRITES);
		int			b = take(&rest, NWRITES);
		int			c = take(&rest, NWRITES);

		total &= after(a, b) + after(b, a) == (a != b);
		transitive &= !after(a, b) || !after(b, c) || after(a, c);
		associative &= later_of(later_of(a, b), c) ==
			later_of(a, later_of(b, c));
	}
	report(total, "order", "of two different writes just one is later");
	report(transitive, "order", "transitive");
	report(associative, "order", "folding is associative");
}

/* Folding writes in any order, some twice, is folding the set of them. */
static void
test_fold(void)
{
	bool		ok = true;
	int			n;

	for (n = 0; n < NWRITES * NWRITES * NWRITES * NWRITES; n++)
	{
		int			rest = n;
		int			last = take(&rest, NWRITES);
		unsigned	set = 1U << last;
		int			last_of_set = -1;
		int			i;

		for (i = 0; i < 3; i++)
		{
			int			w = take(&rest, NWRITES);

			set |= 1U << w;
			last = later_of(last, w);
		}
		for (i = 0; i < NWRITES; i++)
			if (set & (1U << i))
				last_of_set = last_of_set < 0 ? i : later_of(last_of_set, i);
		ok &= last == last_of_set;
	}
	report(ok, "order", "any permutation and repetition has one survivor");
}

static void
test_precedence(void)
{
	report(merge_after("z", 1, ORIGIN_DJANGO, "a", 2, ORIGIN_FIRESTORE),
		   "order", "time first");
	report(merge_after("z", 1, ORIGIN_FIRESTORE, "a", 1, ORIGIN_DJANGO),
		   "order", "then the origin, Django last");
	report(merge_after("a", 1, ORIGIN_DJANGO, "b", 1, ORIGIN_DJANGO),
		   "order", "then the value");
}

/* ---- names ---- */

static void
test_names(void)
{
	bool		distinct = true;
	int			a;
	int			b;

	for (a = RULE_NONE; a <= RULE_INVALID; a++)
		for (b = RULE_NONE; b < a; b++)
			distinct &= strcmp(merge_rule_name((MergeRule) a),
							   merge_rule_name((MergeRule) b)) != 0;
	report(distinct, "names", "each rule has its own");
	report(strcmp(merge_rule_name(RULE_ONE_WAY),
				  "not writable from Firestore") == 0,
		   "names", "a one-way path is not writable from Firestore");
}

int
main(void)
{
	int			i;

	for (i = 0; i < lengthof(cases); i++)
		test_case(&cases[i]);
	for (i = 0; i < lengthof(laws); i++)
		test_law(&laws[i]);
	test_order();
	test_fold();
	test_precedence();
	test_names();
	printf("1..%d\n", ntests);
	return nfailed > 0;
}
