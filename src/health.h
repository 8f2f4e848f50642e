/*
 * health.h
 *		Is the exchange getting on, and if not, why?
 */
#ifndef EKKSYNC_HEALTH_H
#define EKKSYNC_HEALTH_H

#include "mapping.h"
#include "nodes/pg_list.h"

/* Why all is not well; docs/reference.md has the list of words. */
typedef struct HealthReason
{
	const char *word; /* stable, for programs */
	char *text;		  /* a sentence without personal data, for people */
} HealthReason;

/* A run that counts: no dry run, unless runs observe. */
typedef struct HealthRun
{
	int64 id; /* 0: there was none */
	TimestampTz started_at;
	double seconds; /* that it took, or has taken so far */
	char *status;	/* as on record; interrupted, if it died */
	char *sqlstate;
	char *error;
	bool clock_known;
	int64 skew; /* microseconds; 0 if unknown */
	int64 skew_error;
	int64 peak_memory_kb;
} HealthRun;

typedef struct Health
{
	const char *state; /* ok, observe, degraded, paused, detached */
	List *reasons;	   /* HealthReason; of degraded the gravest first */

	/* what it is judged by */
	int64 pending; /* queue rows */
	int64 failed;
	TimestampTz oldest; /* pending row, 0: none */
	int64 entries_failed;
	int64 first_contact; /* members that were never synced */
	int64 held;			 /* conflicts that wait for a person */
	int64 strangers;
	bool paused;
	char *paused_reason;
	bool at_work;				 /* a run of any kind is */
	HealthRun run;				 /* the last one */
	HealthRun whole;			 /* the last one for all members */
	TimestampTz to_firestore_at; /* last success of a run, 0: none */
	TimestampTz to_django_at;
} Health;

/*
 * Look and judge, with the settings of this session; palloc'd in the current
 * memory context.  map: of mapping_get(), NULL when nothing is attached.  Asks
 * neither Firestore nor a token server: whether they can be had is known from
 * the last run.
 */
extern void health_judge(Health *health, const Mapping *map);

/* All words that health "degraded" may have, by number; NULL after the last. */
extern const char *health_word(int i);

/* The reasons' words as a list of strings, and their texts as one (or NULL). */
extern List *health_words(const Health *health);
extern char *health_text(const Health *health);

/*
 * The watched tables, and the queue, on which a trigger of ours is missing or
 * does not fire: a list of their names, palloc'd.
 */
extern List *health_unwatched(const Mapping *map);

#endif /* EKKSYNC_HEALTH_H */
