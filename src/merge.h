/*
 * merge.h
 *		The decision for one field: which side's value survives.
 *
 * Pure: values and times in, a decision out.  No SPI, no HTTP, no clock, no
 * memory allocation; compiles without the server (see dev/ and t/).
 *
 * Values are canonical texts (see value.h) and are compared by strcmp.
 * Times are microseconds; only their order and differences matter.
 */
#ifndef EKKSYNC_MERGE_H
#define EKKSYNC_MERGE_H

#include <stdbool.h>
#include <stdint.h>

typedef int64_t MergeTime;

typedef enum MergeOrigin
{
	ORIGIN_FIRESTORE, /* lower rank */
	ORIGIN_DJANGO	  /* wins ties */
} MergeOrigin;

/* A value with the time of the write that made it. */
typedef struct MergeStamp
{
	MergeTime from; /* the write happened after this ... */
	MergeTime upto; /* ... and not after this; equal: known exactly */
} MergeStamp;

typedef enum MergePolicy
{
	MERGE_LWW,
	MERGE_DJANGO_WINS,
	MERGE_FIRESTORE_WINS,
	MERGE_MANUAL
} MergePolicy;

typedef enum MergeFirst
{
	FIRST_NONE, /* not a first contact */
	FIRST_DJANGO,
	FIRST_FIRESTORE,
	FIRST_NEWEST
} MergeFirst;

/* A side that a person has chosen, whoever changed what. */
typedef enum MergeChoice
{
	CHOICE_NONE,
	CHOICE_DJANGO,
	CHOICE_FIRESTORE
} MergeChoice;

typedef struct MergeInput
{
	const char *base;	 /* NULL: the two sides never agreed */
	const char *local;	 /* L */
	const char *remote;	 /* R; NULL: the document holds an unreadable value */
	bool remote_missing; /* the path is absent in the document */
	MergeStamp local_stamp;	 /* of the local change */
	MergeStamp remote_stamp; /* of the remote change */
	bool push_only;
	MergePolicy policy;
	MergeFirst first;
	MergeChoice choice;
	MergeTime window; /* conflict window */
	bool clock_wrong; /* the two sides' times cannot be compared */
} MergeInput;

typedef enum MergeDecision
{
	MERGE_NOTHING, /* both equal the base */
	MERGE_AGREE,   /* both equal, base follows */
	MERGE_PUSH,	   /* the local value goes to Firestore */
	MERGE_PULL,	   /* the remote value goes to Django */
	MERGE_HOLD	   /* neither is written until a person decides, or
								 * (RULE_CLOCK) the clock is right */
} MergeDecision;

typedef enum MergeRule
{
	RULE_NONE,			/* no conflict */
	RULE_LATER,			/* the later write won */
	RULE_TIE,			/* equal times: Django won */
	RULE_ORDER_UNKNOWN, /* overlapping intervals: Django won */
	RULE_ONE_WAY,		/* the path is not writable from Firestore */
	RULE_POLICY,		/* the field's policy decided */
	RULE_FIRST_CONTACT, /* the policy of the first contact decided */
	RULE_DELETED,		/* the member was deleted in Firestore, later */
	RULE_INVALID,		/* the document's value does not fit the field */
	RULE_CLOCK,			/* time would decide, and a clock is wrong */
	RULE_REPAIR			/* a person has chosen the side */
} MergeRule;

typedef struct MergeResult
{
	MergeDecision action;
	bool conflict;	/* record the loser */
	bool potential; /* changed on both sides within the window */
	MergeRule rule;
	MergeOrigin winner; /* of the value that is the new base */
	MergeStamp stamp;	/* of that value */
} MergeResult;

/* Decide one field. */
extern MergeResult merge_field(const MergeInput *in);

/*
 * Which of two writes of the same side is the surviving one: the total order
 * (stamp, origin, value).  True if b comes after a.
 */
extern bool merge_after(const char *a_value, MergeTime a_time,
						MergeOrigin a_origin, const char *b_value,
						MergeTime b_time, MergeOrigin b_origin);

/* Name of a rule, as kept in ekksync.conflict. */
extern const char *merge_rule_name(MergeRule rule);

#endif /* EKKSYNC_MERGE_H */
