/*
 * merge.c
 *		The decision for one field: which side's value survives.
 *
 * Three values meet: the row's (L), the document's (R) and the one that both
 * last agreed on (B), each side's change with the time of its write.  The
 * decision is a pure function of these and of the field's policy.
 *
 * May not know: PostgreSQL, Firestore, memory contexts, the clock.  It must
 * compile without the server; t/merge_test.c does so and searches it for
 * broken laws.
 */
#include <stddef.h>
#include <string.h>

#include "merge.h"

typedef enum Order
{
	LOCAL_LATER,
	REMOTE_LATER,
	SAME_TIME,
	UNKNOWN
} Order;

static bool
same(const char *a, const char *b)
{
	return strcmp(a, b) == 0;
}

/* Is the time of the write known?  Then it is a change that was seen. */
static bool
is_exact(MergeStamp stamp)
{
	return stamp.from == stamp.upto;
}

/*
 * Which write was later?  Each is known to lie in (from, upto]; from = upto
 * when its time is known exactly.
 */
static Order
compare_times(MergeStamp local, MergeStamp remote)
{
	bool local_exact = is_exact(local);
	bool remote_exact = is_exact(remote);

	if (local_exact && remote_exact)
	{
		if (local.upto == remote.upto)
			return SAME_TIME;
		return local.upto > remote.upto ? LOCAL_LATER : REMOTE_LATER;
	}

	/*
	 * An interval is open at its start: a write of the other side at exactly
	 * that moment comes before everything in it.
	 */
	if (local_exact ? local.upto > remote.upto : local.from >= remote.upto)
		return LOCAL_LATER;
	if (remote_exact ? remote.upto > local.upto : remote.from >= local.upto)
		return REMOTE_LATER;
	return UNKNOWN;
}

/* Earliest moment at which a write can have happened. */
static MergeTime
earliest(MergeStamp stamp)
{
	return is_exact(stamp) ? stamp.upto : stamp.from + 1;
}

/* Can the two writes lie within the window? */
static bool
within_window(MergeStamp local, MergeStamp remote, MergeTime window)
{
	if (local.upto < earliest(remote))
		return earliest(remote) - local.upto <= window;
	if (remote.upto < earliest(local))
		return earliest(local) - remote.upto <= window;
	return true;
}

static MergeResult
decided(const MergeInput *in, MergeDecision action)
{
	MergeResult res;

	memset(&res, 0, sizeof(res));
	res.action = action;
	res.rule = RULE_NONE;
	res.winner = action == MERGE_PULL ? ORIGIN_FIRESTORE : ORIGIN_DJANGO;
	res.stamp = action == MERGE_PULL ? in->remote_stamp : in->local_stamp;
	return res;
}

/* Both values stand against each other; the loser is to be recorded. */
static MergeResult
contested(const MergeInput *in, MergeDecision action, MergeRule rule)
{
	MergeResult res = decided(in, action);

	res.conflict = true;
	res.rule = rule;
	res.potential =
		in->base != NULL && !same(in->local, in->base) && in->remote != NULL &&
		within_window(in->local_stamp, in->remote_stamp, in->window);
	return res;
}

/*
 * Last write wins; Django wins where the order is a tie or unknown.  With a
 * wrong clock nobody does.
 */
static MergeResult
later_wins(const MergeInput *in)
{
	if (in->clock_wrong)
		return contested(in, MERGE_HOLD, RULE_CLOCK);
	switch (compare_times(in->local_stamp, in->remote_stamp))
	{
		case LOCAL_LATER:
			return contested(in, MERGE_PUSH, RULE_LATER);
		case REMOTE_LATER:
			return contested(in, MERGE_PULL, RULE_LATER);
		case SAME_TIME:
			return contested(in, MERGE_PUSH, RULE_TIE);
		case UNKNOWN:
			break;
	}
	return contested(in, MERGE_PUSH, RULE_ORDER_UNKNOWN);
}

/* The two sides meet for the first time and hold different values. */
static MergeResult
first_contact(const MergeInput *in)
{
	MergeResult res;

	/* what one side does not have is filled from the other: nothing is lost */
	if (in->remote_missing || same(in->remote, "null"))
		return decided(in, MERGE_PUSH);
	if (in->push_only)
		return contested(in, MERGE_PUSH, RULE_FIRST_CONTACT);
	if (same(in->local, "null") && !is_exact(in->local_stamp))
		return decided(in, MERGE_PULL); /* never had one, nobody cleared it */

	if (in->choice == CHOICE_DJANGO)
		return contested(in, MERGE_PUSH, RULE_FIRST_CONTACT);
	if (in->choice == CHOICE_FIRESTORE)
		return contested(in, MERGE_PULL, RULE_FIRST_CONTACT);
	switch (in->first)
	{
		case FIRST_FIRESTORE:
			return contested(in, MERGE_PULL, RULE_FIRST_CONTACT);
		case FIRST_NEWEST:
			res = later_wins(in);
			if (res.rule != RULE_CLOCK)
				res.rule = RULE_FIRST_CONTACT;
			res.potential = false;
			return res;
		case FIRST_NONE:
		case FIRST_DJANGO:
			break;
	}
	return contested(in, MERGE_PUSH, RULE_FIRST_CONTACT);
}

/* The document holds a value that the field cannot take. */
static MergeResult
unreadable(const MergeInput *in, bool local_changed)
{
	if (in->push_only || local_changed)
		return contested(in, MERGE_PUSH, RULE_INVALID);
	return contested(in, MERGE_HOLD, RULE_INVALID);
}

/*
 * A person has chosen a side.  The other one's value is a loser unless it is
 * the base: that is no edit.
 */
static MergeResult
chosen(const MergeInput *in)
{
	bool push = in->push_only || in->choice == CHOICE_DJANGO;
	const char *loser = push ? in->remote : in->local;
	MergeDecision action = push ? MERGE_PUSH : MERGE_PULL;
	MergeResult res;

	if (loser != NULL && in->base != NULL && same(loser, in->base))
		return decided(in, action);
	res = contested(in, action, RULE_REPAIR);
	res.potential = false;
	return res;
}

/* Both sides have changed the field, to different values. */
static MergeResult
both_changed(const MergeInput *in)
{
	switch (in->policy)
	{
		case MERGE_DJANGO_WINS:
			return contested(in, MERGE_PUSH, RULE_POLICY);
		case MERGE_FIRESTORE_WINS:
			return contested(in, MERGE_PULL, RULE_POLICY);
		case MERGE_MANUAL:
			return contested(in, MERGE_HOLD, RULE_POLICY);
		case MERGE_LWW:
			break;
	}
	return later_wins(in);
}

/*
 * Decide one field.
 *
 * A path that is absent in the document counts as null once the two sides
 * have agreed on a value; before that it is filled.
 */
MergeResult
merge_field(const MergeInput *in)
{
	bool local_changed;
	bool remote_changed;

	local_changed = in->base == NULL || !same(in->local, in->base);
	if (in->remote == NULL && in->choice == CHOICE_DJANGO)
		return chosen(in);
	if (in->remote == NULL)
		return unreadable(in, local_changed && (in->base != NULL ||
												is_exact(in->local_stamp)));
	if (same(in->local, in->remote))
	{
		if (in->base != NULL && same(in->local, in->base))
			return decided(in, MERGE_NOTHING);
		return decided(in, MERGE_AGREE);
	}
	if (in->base == NULL)
		return first_contact(in);
	if (in->choice != CHOICE_NONE)
		return chosen(in);

	remote_changed = !same(in->remote, in->base);
	if (!remote_changed)
		return decided(in, MERGE_PUSH);
	if (in->push_only)
		return contested(in, MERGE_PUSH, RULE_ONE_WAY);
	if (!local_changed)
		return decided(in, MERGE_PULL);
	return both_changed(in);
}

/*
 * Which of two writes survives: the total order (stamp, origin, value).
 */
bool
merge_after(const char *a_value, MergeTime a_time, MergeOrigin a_origin,
			const char *b_value, MergeTime b_time, MergeOrigin b_origin)
{
	if (a_time != b_time)
		return b_time > a_time;
	if (a_origin != b_origin)
		return b_origin > a_origin;
	return strcmp(b_value, a_value) > 0;
}

const char *
merge_rule_name(MergeRule rule)
{
	switch (rule)
	{
		case RULE_NONE:
			break;
		case RULE_LATER:
			return "later write";
		case RULE_TIE:
			return "tie";
		case RULE_ORDER_UNKNOWN:
			return "order unknown";
		case RULE_ONE_WAY:
			return "not writable from Firestore";
		case RULE_POLICY:
			return "policy";
		case RULE_FIRST_CONTACT:
			return "first contact";
		case RULE_DELETED:
			return "deleted in Firestore";
		case RULE_INVALID:
			return "value does not fit";
		case RULE_CLOCK:
			return "clock skew";
		case RULE_REPAIR:
			return "repair";
	}
	return "none";
}
