/*
 * merge_test.c
 *		Tests of merge.c: a table of cases, and laws that hold for every input
 *		of a small domain.  Prints TAP; the exit status is 0 if all is well.
 *
 * Builds from merge.c and this file alone.  The laws compare two times by
 * trying every moment at which each write may have happened.
 */
#include <stdio.h>
#include <string.h>

#include "../src/merge.h"

#define lengthof(array) ((int) (sizeof(array) / sizeof((array)[0])))
#define HOUR INT64_C(3600000000)

/* ---- TAP ---- */

static int ntests;
static int nfailed;

static void
report(bool ok, const char *kind, const char *name)
{
	printf("%sok %d - %s: %s\n", ok ? "" : "not ", ++ntests, kind, name);
	fflush(stdout);
	if (!ok)
		nfailed++;
}

static void
show_side(const char *side, const char *value, MergeStamp stamp)
{
	fprintf(stderr, "# %s %s (%lld, %lld]\n", side, value ? value : "none",
			(long long) stamp.from, (long long) stamp.upto);
}

static void
show(const MergeInput *in, const MergeResult *res)
{
	static const char *const actions[] = {"nothing", "agree", "push", "pull",
										  "hold"};

	show_side("local", in->local, in->local_stamp);
	show_side("remote", in->remote, in->remote_stamp);
	fprintf(stderr,
			"# base %s, missing %d, push_only %d, policy %d, first %d,"
			" choice %d, window %lld, clock_wrong %d\n",
			in->base ? in->base : "none", in->remote_missing, in->push_only,
			in->policy, in->first, in->choice, (long long) in->window,
			in->clock_wrong);
	fprintf(stderr, "# got: %s, conflict %d, rule \"%s\", potential %d\n",
			actions[res->action], res->conflict, merge_rule_name(res->rule),
			res->potential);
}

/* ---- cases ---- */

typedef struct Case
{
	const char *name;
	MergeInput in; /* its window is one hour */
	MergeDecision action;
	MergeRule rule; /* a conflict unless RULE_NONE */
	bool potential;
} Case;

/* Input: the values; then the times, and what else there is to it. */
#define HELD(b, l, r, ...)                                                    \
	{                                                                         \
		.base = b, .local = l, .remote = r, __VA_ARGS__                       \
	}
#define FIRST(f, l, r, ...)                                                   \
	{                                                                         \
		.local = l, .remote = r, .first = FIRST_##f, __VA_ARGS__              \
	}
#define BOTH(l, r, ...)                                                       \
	{                                                                         \
		.base = "a", .local = "b", .remote = "c", .local_stamp = l,           \
		.remote_stamp = r, __VA_ARGS__                                        \
	}
#define AT(t)                                                                 \
	{                                                                         \
		(t), (t)                                                              \
	}
#define IN(from, upto)                                                        \
	{                                                                         \
		(from), (upto)                                                        \
	}
#define TIMES(l, r) .local_stamp = l, .remote_stamp = r
#define ROW_LATER TIMES(AT(2), AT(1))
#define DOC_LATER TIMES(AT(1), AT(2))
#define NO_EDIT TIMES(IN(0, 9), AT(5)) /* of the row is known */
#define ABSENT .remote_missing = true
#define WRONG_CLOCK .clock_wrong = true
#define ONE_WAY .push_only = true
#define POLICY(p) .policy = MERGE_##p
#define CHOSEN(c) .choice = CHOICE_##c

/* Expected: no conflict; a conflict; one within the window. */
#define FINE(action) MERGE_##action, RULE_NONE, false
#define FAR(action, rule) MERGE_##action, RULE_##rule, false
#define NEAR(action, rule) MERGE_##action, RULE_##rule, true
#define ROW_WINS NEAR(PUSH, LATER)
#define DOC_WINS NEAR(PULL, LATER)
#define UNKNOWN NEAR(PUSH, ORDER_UNKNOWN)
#define ROW_FIRST FAR(PUSH, FIRST_CONTACT)
#define DOC_FIRST FAR(PULL, FIRST_CONTACT)

static const Case cases[] = {
	/* no more than one side changed, or both in the same way */
	{"nothing changed", HELD("a", "a", "a"), FINE(NOTHING)},
	{"only row", HELD("a", "b", "a", ROW_LATER), FINE(PUSH)},
	{"only row, earlier", HELD("a", "b", "a", DOC_LATER), FINE(PUSH)},
	{"only row, cleared", HELD("a", "null", "a"), FINE(PUSH)},
	{"only document", HELD("a", "a", "b", DOC_LATER), FINE(PULL)},
	{"only document, earlier", HELD("a", "a", "b", ROW_LATER), FINE(PULL)},
	{"only document, cleared", HELD("a", "a", "null"), FINE(PULL)},
	{"same new value", HELD("a", "b", "b", DOC_LATER), FINE(AGREE)},
	{"same value, manual", HELD("a", "b", "b", POLICY(MANUAL)), FINE(AGREE)},
	{"both cleared", HELD("a", "null", "null"), FINE(AGREE)},
	{"pushed, then edited", HELD("b", "b", "c", DOC_LATER), FINE(PULL)},
	{"pulled, then edited", HELD("b", "c", "b", ROW_LATER), FINE(PUSH)},

	/* an absent path is null once there is a base */
	{"absent, agreed", HELD("null", "null", "null", ABSENT), FINE(NOTHING)},
	{"absent, had a value", HELD("a", "a", "null", ABSENT), FINE(PULL)},
	{"absent, row set", HELD("null", "b", "null", ABSENT), FINE(PUSH)},
	{"absent, row cleared", HELD("a", "null", "null", ABSENT), FINE(AGREE)},
	{"absent later", HELD("a", "b", "null", ABSENT, DOC_LATER), DOC_WINS},
	{"absent earlier", HELD("a", "b", "null", ABSENT, ROW_LATER), ROW_WINS},

	/* both changed, times known */
	{"row later", BOTH(AT(2), AT(1)), ROW_WINS},
	{"document later", BOTH(AT(1), AT(2)), DOC_WINS},
	{"document later, in 1969", BOTH(AT(-2), AT(-1)), DOC_WINS},
	{"tie", BOTH(AT(1), AT(1)), NEAR(PUSH, TIE)},
	{"row cleared later", HELD("a", "null", "c", ROW_LATER), ROW_WINS},
	{"document cleared later", HELD("a", "b", "null", DOC_LATER), DOC_WINS},

	/* both changed, the time of one side is only known to lie in (10, 20] */
	{"row before the document's interval", BOTH(AT(9), IN(10, 20)), DOC_WINS},
	{"row at its open start", BOTH(AT(10), IN(10, 20)), DOC_WINS},
	{"row at its first moment", BOTH(AT(11), IN(10, 20)), UNKNOWN},
	{"row at its closed end", BOTH(AT(20), IN(10, 20)), UNKNOWN},
	{"row after it", BOTH(AT(21), IN(10, 20)), ROW_WINS},
	{"document before the row's interval", BOTH(IN(10, 20), AT(9)), ROW_WINS},
	{"document at its open start", BOTH(IN(10, 20), AT(10)), ROW_WINS},
	{"document at its first moment", BOTH(IN(10, 20), AT(11)), UNKNOWN},
	{"document at its closed end", BOTH(IN(10, 20), AT(20)), UNKNOWN},
	{"document after it", BOTH(IN(10, 20), AT(21)), DOC_WINS},
	{"intervals overlap", BOTH(IN(10, 20), IN(19, 30)), UNKNOWN},
	{"document's interval follows", BOTH(IN(10, 20), IN(20, 30)), DOC_WINS},
	{"row's interval follows", BOTH(IN(20, 30), IN(10, 20)), ROW_WINS},

	/* the window */
	{"the window, up", BOTH(AT(0), AT(HOUR)), DOC_WINS},
	{"the window, down", BOTH(AT(HOUR), AT(0)), ROW_WINS},
	{"1 us more, up", BOTH(AT(0), AT(HOUR + 1)), FAR(PULL, LATER)},
	{"1 us more, down", BOTH(AT(HOUR + 1), AT(0)), FAR(PUSH, LATER)},
	{"the window from an end", BOTH(AT(HOUR + 9), IN(0, 9)), ROW_WINS},
	{"1 us more from an end", BOTH(AT(HOUR + 10), IN(0, 9)), FAR(PUSH, LATER)},
	{"the window to a start", BOTH(AT(0), IN(HOUR - 1, 9 * HOUR)), DOC_WINS},
	{"1 us more to start", BOTH(AT(0), IN(HOUR, 8 * HOUR)), FAR(PULL, LATER)},
	{"in a long interval", BOTH(AT(5 * HOUR), IN(0, 9 * HOUR)), UNKNOWN},

	/* policies, which decide only what is contested */
	{"django_wins, document later", BOTH(AT(1), AT(2), POLICY(DJANGO_WINS)),
	 NEAR(PUSH, POLICY)},
	{"firestore_wins, row later", BOTH(AT(2), AT(1), POLICY(FIRESTORE_WINS)),
	 NEAR(PULL, POLICY)},
	{"manual", BOTH(AT(2), AT(1), POLICY(MANUAL)), NEAR(HOLD, POLICY)},
	{"manual, only row", HELD("a", "b", "a", POLICY(MANUAL)), FINE(PUSH)},
	{"manual, only document", HELD("a", "a", "c", POLICY(MANUAL)), FINE(PULL)},

	/* paths that are only written */
	{"one way, changed", HELD("a", "a", "c", ONE_WAY), FAR(PUSH, ONE_WAY)},
	{"one way, both", BOTH(AT(1), AT(2), ONE_WAY), NEAR(PUSH, ONE_WAY)},
	{"one way, both, manual", BOTH(AT(1), AT(2), ONE_WAY, POLICY(MANUAL)),
	 NEAR(PUSH, ONE_WAY)},
	{"one way, only row", HELD("a", "b", "a", ONE_WAY), FINE(PUSH)},
	{"one way, same new value", HELD("a", "b", "b", ONE_WAY), FINE(AGREE)},
	{"one way, first", FIRST(FIRESTORE, "a", "b", ONE_WAY), ROW_FIRST},
	{"one way, first, row null", FIRST(DJANGO, "null", "b", NO_EDIT, ONE_WAY),
	 ROW_FIRST},
	{"one way, first, null", FIRST(DJANGO, "a", "null", ONE_WAY), FINE(PUSH)},

	/* first contact, both with a value */
	{"first, equal", FIRST(FIRESTORE, "a", "a"), FINE(AGREE)},
	{"first, django", FIRST(DJANGO, "a", "b", DOC_LATER), ROW_FIRST},
	{"first, firestore", FIRST(FIRESTORE, "a", "b", ROW_LATER), DOC_FIRST},
	{"first, newest, row", FIRST(NEWEST, "a", "b", ROW_LATER), ROW_FIRST},
	{"first, newest, document", FIRST(NEWEST, "a", "b", DOC_LATER), DOC_FIRST},
	{"first, newest, tie", FIRST(NEWEST, "a", "b"), ROW_FIRST},
	{"first, newest, unknown", FIRST(NEWEST, "a", "b", NO_EDIT), ROW_FIRST},
	{"first, firestore, but the field has a base",
	 BOTH(AT(2), AT(1), .first = FIRST_FIRESTORE), ROW_WINS},
	{"no base", FIRST(NONE, "a", "b", DOC_LATER), ROW_FIRST},
	{"no base, equal", FIRST(NONE, "a", "a"), FINE(AGREE)},

	/* first contact, what one side does not have is filled */
	{"both null", FIRST(NEWEST, "null", "null", ABSENT), FINE(AGREE)},
	{"django, absent", FIRST(DJANGO, "a", "null", ABSENT), FINE(PUSH)},
	{"firestore, absent", FIRST(FIRESTORE, "a", "null", ABSENT), FINE(PUSH)},
	{"newest, absent", FIRST(NEWEST, "a", "null", ABSENT, DOC_LATER),
	 FINE(PUSH)},
	{"firestore, null", FIRST(FIRESTORE, "a", "null"), FINE(PUSH)},
	{"newest, null", FIRST(NEWEST, "a", "null", DOC_LATER), FINE(PUSH)},
	{"django, row null", FIRST(DJANGO, "null", "b", NO_EDIT), FINE(PULL)},
	{"firestore, row null", FIRST(FIRESTORE, "null", "b", NO_EDIT),
	 FINE(PULL)},
	{"newest, row null", FIRST(NEWEST, "null", "b", NO_EDIT), FINE(PULL)},
	{"clock, both", BOTH(AT(2), AT(1), WRONG_CLOCK), NEAR(HOLD, CLOCK)},
	{"clock, tie", BOTH(AT(1), AT(1), WRONG_CLOCK), NEAR(HOLD, CLOCK)},
	{"clock, far", BOTH(AT(0), AT(HOUR + 1), WRONG_CLOCK), FAR(HOLD, CLOCK)},
	{"clock, only row", HELD("a", "b", "a", WRONG_CLOCK), FINE(PUSH)},
	{"clock, only document", HELD("a", "a", "b", WRONG_CLOCK), FINE(PULL)},
	{"clock, same new value", HELD("a", "b", "b", WRONG_CLOCK), FINE(AGREE)},
	{"clock, policy", BOTH(AT(2), AT(1), WRONG_CLOCK, POLICY(FIRESTORE_WINS)),
	 NEAR(PULL, POLICY)},
	{"clock, one way", BOTH(AT(1), AT(2), WRONG_CLOCK, ONE_WAY),
	 NEAR(PUSH, ONE_WAY)},
	{"clock, first, newest", FIRST(NEWEST, "a", "b", DOC_LATER, WRONG_CLOCK),
	 FAR(HOLD, CLOCK)},
	{"clock, first, django", FIRST(DJANGO, "a", "b", WRONG_CLOCK), ROW_FIRST},
	{"clock, first, newest, null",
	 FIRST(NEWEST, "a", "null", DOC_LATER, WRONG_CLOCK), FINE(PUSH)},
	{"no base, row null", FIRST(NONE, "null", "b", NO_EDIT), FINE(PULL)},
	{"django, row cleared", FIRST(DJANGO, "null", "b", DOC_LATER), ROW_FIRST},
	{"firestore, row cleared", FIRST(FIRESTORE, "null", "b", ROW_LATER),
	 DOC_FIRST},
	{"newest, row cleared", FIRST(NEWEST, "null", "b", ROW_LATER), ROW_FIRST},

	/* the document holds what the field cannot take */
	{"unreadable", HELD("a", "a", NULL), FAR(HOLD, INVALID)},
	{"unreadable, edit", HELD("a", "b", NULL, DOC_LATER), FAR(PUSH, INVALID)},
	{"unreadable, one way", HELD("a", "a", NULL, ONE_WAY), FAR(PUSH, INVALID)},
	{"unreadable, django", FIRST(DJANGO, "a", NULL, NO_EDIT),
	 FAR(HOLD, INVALID)},
	{"unreadable, firestore", FIRST(FIRESTORE, "a", NULL, NO_EDIT),
	 FAR(HOLD, INVALID)},
	{"unreadable, first edit", FIRST(DJANGO, "a", NULL, DOC_LATER),
	 FAR(PUSH, INVALID)},
	{"one way, no base", FIRST(NONE, "a", NULL, ONE_WAY), FAR(PUSH, INVALID)},

	/* a person has chosen the side */
	{"django, only row", HELD("a", "b", "a", CHOSEN(DJANGO)), FINE(PUSH)},
	{"django, only document", HELD("a", "a", "b", CHOSEN(DJANGO)),
	 FAR(PUSH, REPAIR)},
	{"django, both", BOTH(AT(1), AT(2), CHOSEN(DJANGO)), FAR(PUSH, REPAIR)},
	{"django, equal", HELD("a", "b", "b", CHOSEN(DJANGO)), FINE(AGREE)},
	{"django, manual", BOTH(AT(1), AT(2), POLICY(MANUAL), CHOSEN(DJANGO)),
	 FAR(PUSH, REPAIR)},
	{"django, unreadable", HELD("a", "a", NULL, CHOSEN(DJANGO)),
	 FAR(PUSH, REPAIR)},
	{"django, unreadable, first",
	 FIRST(FIRESTORE, "a", NULL, NO_EDIT, CHOSEN(DJANGO)), FAR(PUSH, REPAIR)},
	{"django, first", FIRST(FIRESTORE, "a", "b", CHOSEN(DJANGO)), ROW_FIRST},
	{"django, first, row null",
	 FIRST(FIRESTORE, "null", "b", NO_EDIT, CHOSEN(DJANGO)), FINE(PULL)},
	{"firestore, only row", HELD("a", "b", "a", CHOSEN(FIRESTORE)),
	 FAR(PULL, REPAIR)},
	{"firestore, only document", HELD("a", "a", "b", CHOSEN(FIRESTORE)),
	 FINE(PULL)},
	{"firestore, both", BOTH(AT(2), AT(1), CHOSEN(FIRESTORE)),
	 FAR(PULL, REPAIR)},
	{"firestore, wrong clock",
	 BOTH(AT(2), AT(1), WRONG_CLOCK, CHOSEN(FIRESTORE)), FAR(PULL, REPAIR)},
	{"firestore, one way", HELD("a", "a", "b", ONE_WAY, CHOSEN(FIRESTORE)),
	 FAR(PUSH, REPAIR)},
	{"firestore, unreadable", HELD("a", "a", NULL, CHOSEN(FIRESTORE)),
	 FAR(HOLD, INVALID)},
	{"firestore, first", FIRST(DJANGO, "a", "b", CHOSEN(FIRESTORE)),
	 DOC_FIRST},
	{"firestore, first, absent",
	 FIRST(DJANGO, "a", "null", ABSENT, CHOSEN(FIRESTORE)), FINE(PUSH)},
};

static void
test_case(const Case *c)
{
	MergeInput in = c->in;
	MergeResult res;
	bool ok;

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

static const char *const values[] = {NULL, "null", "\"a\"", "\"ab\"",
									 "\"null\""};

static const MergeStamp stamps[] = {{0, 0}, {2, 2}, {3, 3}, {5, 5},
									{0, 1}, {0, 3}, {2, 3}, {3, 5}};

/* Take a number below n off *rest. */
static int
take(int *rest, int n)
{
	int digit = *rest % n;

	*rest /= n;
	return digit;
}

/* Input number n; false past the last one. */
static bool
nth_input(int n, MergeInput *in)
{
	int remote;

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
	in->clock_wrong = take(&n, 2);
	in->choice = CHOICE_NONE;
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

static MergeTime
first_moment(MergeStamp stamp)
{
	return exact(stamp) ? stamp.upto : stamp.from + 1;
}

/* May the local write be at least min and at most max after the remote one? */
static bool
may_be_after_by(const MergeInput *in, MergeTime min, MergeTime max)
{
	MergeStamp local = in->local_stamp;
	MergeStamp remote = in->remote_stamp;
	MergeTime l;
	MergeTime r;

	for (l = first_moment(local); l <= local.upto; l++)
		for (r = first_moment(remote); r <= remote.upto; r++)
			if (l - r >= min && l - r <= max)
				return true;
	return false;
}

/* ---- laws: each says whether it holds for this input ---- */

/* Twice the same, and it is the texts that count, not where they are. */
static bool
law_function(const MergeInput *in, const MergeResult *res)
{
	char texts[3][8];
	MergeInput copy = *in;
	MergeResult again;

	if (in->base != NULL)
		copy.base = strcpy(texts[0], in->base);
	copy.local = strcpy(texts[1], in->local);
	if (in->remote != NULL)
		copy.remote = strcpy(texts[2], in->remote);
	again = merge_field(&copy);
	return same_result(&again, res);
}

/* The value that both sides hold afterwards; NULL if they do not. */
static const char *
survivor(const MergeInput *in, const MergeResult *res)
{
	if (res->action == MERGE_PUSH || same(in->local, in->remote))
		return in->local;
	return res->action == MERGE_PULL ? in->remote : NULL;
}

/*
 * Once a decision is carried out there is nothing left to do but to keep the
 * base, and after that nothing at all.
 */
static bool
law_settled(const MergeInput *in, const MergeResult *res)
{
	MergeInput next = *in;
	MergeResult next_res;
	bool settled;

	next.local = next.remote = survivor(in, res);
	if (next.local == NULL)
		return res->action == MERGE_HOLD;
	next.remote_missing = false;
	settled = same(next.local, next.base);
	next_res = merge_field(&next);
	if (next_res.conflict ||
		next_res.action != (settled ? MERGE_NOTHING : MERGE_AGREE))
		return false;
	next.base = next.local;
	next_res = merge_field(&next);
	return next_res.action == MERGE_NOTHING && !next_res.conflict;
}

/* What does not survive was the base, or no value, or is in a conflict. */
static bool
law_nothing_lost(const MergeInput *in, const MergeResult *res)
{
	const char *kept = survivor(in, res);
	const char *expendable = in->base != NULL ? in->base : "null";

	if (res->conflict)
		return true;
	if (kept == NULL || in->remote == NULL)
		return false;
	return (same(in->local, kept) || same(in->local, expendable)) &&
		   (same(in->remote, kept) || same(in->remote, expendable));
}

/* A conflict is just where the two sides cannot both be right. */
static bool
law_conflict(const MergeInput *in, const MergeResult *res)
{
	bool expected;

	if (in->remote == NULL)
		expected = true;
	else if (in->base != NULL)
		expected =
			both_changed(in) || (in->push_only && !same(in->remote, in->base));
	else
		expected = !same(in->remote, "null") &&
				   (in->push_only || !same(in->local, "null") ||
					exact(in->local_stamp));
	if (in->remote != NULL && same(in->local, in->remote))
		expected = false;
	return res->conflict == expected &&
		   res->conflict == (res->rule != RULE_NONE);
}

static bool
law_potential(const MergeInput *in, const MergeResult *res)
{
	return res->potential ==
		   (both_changed(in) && may_be_after_by(in, -in->window, in->window));
}

/* Where times decide, the document wins only if it is later for certain. */
static bool
law_time(const MergeInput *in, const MergeResult *res)
{
	bool earlier = may_be_after_by(in, -HOUR, -1);
	bool later = may_be_after_by(in, 1, HOUR);
	MergeRule rule = RULE_ORDER_UNKNOWN;

	if (!both_changed(in) || in->push_only || in->policy != MERGE_LWW ||
		in->clock_wrong)
		return res->rule != RULE_LATER && res->rule != RULE_TIE &&
			   res->rule != RULE_ORDER_UNKNOWN;
	if (earlier != later && !may_be_after_by(in, 0, 0))
		rule = RULE_LATER;
	else if (exact(in->local_stamp) && exact(in->remote_stamp))
		rule = RULE_TIE;
	return res->rule == rule &&
		   res->action ==
			   (rule == RULE_LATER && earlier ? MERGE_PULL : MERGE_PUSH);
}

/* Swapped sides swap push and pull when the order is known. */
static bool
law_mirror(const MergeInput *in, const MergeResult *res)
{
	MergeInput swapped = *in;
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
	if (mirror.action == MERGE_PUSH || mirror.action == MERGE_PULL)
		mirror.action = mirror.action == MERGE_PUSH ? MERGE_PULL : MERGE_PUSH;
	return mirror.action == res->action && mirror.rule == res->rule &&
		   mirror.potential == res->potential;
}

/*
 * Nothing is taken from a document that may not or cannot give it, only these
 * and manual fields wait, and origin and stamp are the survivor's.
 */
static bool
law_allowed(const MergeInput *in, const MergeResult *res)
{
	bool django = res->winner == ORIGIN_DJANGO;
	MergeStamp stamp = django ? in->local_stamp : in->remote_stamp;

	if (res->action == MERGE_HOLD)
		return !in->push_only &&
			   (in->remote == NULL || in->policy == MERGE_MANUAL ||
				in->clock_wrong);
	if (res->action == MERGE_PUSH && !django)
		return false;
	if (res->action == MERGE_PULL &&
		(django || in->push_only || in->remote == NULL))
		return false;
	return same_stamp(res->stamp, stamp);
}

/*
 * What has no say: the policy of the first contact once there is a base, the
 * field's policy unless both sides changed, the window but for the potential
 * flag, and whether a null is absent.
 */
static bool
law_no_say(const MergeInput *in, const MergeResult *res)
{
	MergeInput other = *in;
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

/*
 * A wrong clock holds what times would decide, and nothing else: where either
 * order of the two writes gives the same, so does a wrong clock.
 */
static bool
law_clock(const MergeInput *in, const MergeResult *res)
{
	MergeInput right = *in;
	MergeInput row_later;
	MergeInput document_later;
	MergeResult a;
	MergeResult b;

	if (!in->clock_wrong)
		return res->rule != RULE_CLOCK;
	right.clock_wrong = false;
	row_later = document_later = right;
	row_later.local_stamp = document_later.remote_stamp =
		(MergeStamp){HOUR, HOUR};
	/* whether a row was edited is no question of clocks */
	if (!exact(in->local_stamp))
	{
		row_later.local_stamp.from--;
		document_later.local_stamp = (MergeStamp){-2, -1};
	}
	a = merge_field(&row_later);
	b = merge_field(&document_later);
	if (a.action != b.action)
		return res->action == MERGE_HOLD && res->rule == RULE_CLOCK &&
			   res->conflict;
	a = merge_field(&right);
	return res->rule != RULE_CLOCK && same_result(&a, res);
}

/*
 * Where a side is chosen it is the one, whatever the times and policies say,
 * unless it may not, cannot or has nothing to give; and no value is lost.
 */
static bool
law_choice(const MergeInput *in, const MergeResult *res)
{
	MergeChoice choice;

	if (res->rule == RULE_REPAIR)
		return false;
	for (choice = CHOICE_DJANGO; choice <= CHOICE_FIRESTORE; choice++)
	{
		MergeInput other = *in;
		MergeResult got;
		bool django = choice == CHOICE_DJANGO || in->push_only;

		other.choice = choice;
		got = merge_field(&other);
		if (!law_function(&other, &got) || !law_settled(&other, &got) ||
			!law_nothing_lost(&other, &got) || got.potential ||
			(got.action == MERGE_HOLD && (django || in->remote != NULL)))
			return false;
		if (in->base != NULL && in->remote != NULL &&
			!same(in->local, in->remote) &&
			got.action != (django ? MERGE_PUSH : MERGE_PULL))
			return false;
	}
	return true;
}

typedef bool (*Law)(const MergeInput *in, const MergeResult *res);

static void
test_law(const char *name, Law holds)
{
	MergeInput in;
	MergeResult res;
	int broken = 0;
	int n;

	for (n = 0; nth_input(n, &in); n++)
	{
		res = merge_field(&in);
		if (!holds(&in, &res) && broken++ == 0)
			show(&in, &res);
	}
	report(broken == 0, "law", name);
	if (broken > 0)
		fprintf(stderr, "# broken by %d of %d inputs\n", broken, n);
}

/* ---- the order of writes ---- */

#define NWRITES 12

/*
 * Does write b come after write a?  Numbers of writes count by time, then
 * origin, then value, two, two and three of them.
 */
static bool
after(int a, int b)
{
	return merge_after(values[2 + a % 3], a / 6, (MergeOrigin) (a / 3 % 2),
					   values[2 + b % 3], b / 6, (MergeOrigin) (b / 3 % 2));
}

static int
later_of(int a, int b)
{
	return after(a, b) ? b : a;
}

/* Any four writes, some of them the same, in any order. */
static void
test_order(void)
{
	bool total = true;
	bool associative = true;
	bool one_survivor = true;
	int n;

	for (n = 0; n < NWRITES * NWRITES * NWRITES * NWRITES; n++)
	{
		int rest = n;
		int a = take(&rest, NWRITES);
		int b = take(&rest, NWRITES);
		int c = take(&rest, NWRITES);
		int d = take(&rest, NWRITES);
		int last = later_of(later_of(later_of(a, b), c), d);

		total &= after(a, b) == (a < b);
		associative &= last == later_of(a, later_of(b, later_of(c, d)));
		one_survivor &= last >= a && last >= b && last >= c && last >= d;
	}
	report(total, "order", "total: time, origin with Django last, value");
	report(associative, "order", "folding is associative");
	report(one_survivor, "order", "one survivor, in any order, however often");
}

int
main(void)
{
	int i;

	for (i = 0; i < lengthof(cases); i++)
		test_case(&cases[i]);
	test_law("the result depends on the input alone", law_function);
	test_law("a decision carried out leaves nothing to do", law_settled);
	test_law("no value is lost in silence", law_nothing_lost);
	test_law("conflict just where the sides disagree", law_conflict);
	test_law("potential just where both changed in the window", law_potential);
	test_law("the later write wins, Django if in doubt", law_time);
	test_law("swapped sides swap push and pull", law_mirror);
	test_law("no pull of what may not or cannot be taken", law_allowed);
	test_law("what has no say changes nothing", law_no_say);
	test_law("a wrong clock holds what times decide, only that", law_clock);
	test_law("a chosen side is the one, and nothing is lost", law_choice);
	test_order();
	report(same(merge_rule_name(RULE_ONE_WAY), "not writable from Firestore"),
		   "names", "one way");
	printf("1..%d\n", ntests);
	return nfailed > 0;
}
