/*
 * settle.c
 *		What becomes of the queue rows of members that are decided, where
 *		nothing is to be sent; and rows for what no row speaks of.
 *
 * In the transaction that records the decision.
 *
 * May not know: SQL, HTTP.
 */
#include "postgres.h"

#include "queue.h"
#include "store.h"

/* Do the sides differ, or can nobody say? */
static bool
differs(const Run *run, const Member *m)
{
	int f;

	if (m->problem != NULL)
		return true;
	for (f = 0; f < run->map->nfields; f++)
		if (m->field_error[f] != NULL || m->put_off ||
			(m->result[f].action != MERGE_NOTHING &&
			 m->result[f].action != MERGE_AGREE))
			return true;
	return false;
}

/*
 * Rows that somebody has marked synced although the sides differ are pending
 * again.  What was noted of rows settled by hand is done with.
 */
void
settle_by_hand(Run *run, Member **members, int n)
{
	Member **done = palloc(sizeof(Member *) * (n + 1));
	int64 *ids;
	ListCell *lc;
	int ndone = 0;
	int max = 0;
	int count = 0;
	int i;

	for (i = 0; i < n; i++)
	{
		if (members[i]->again || members[i]->touched == NIL)
			continue;
		done[ndone++] = members[i];
		max += list_length(members[i]->pending);
	}
	ids = palloc(sizeof(int64) * (max + 1));
	for (i = 0; i < ndone; i++)
		foreach (lc, done[i]->pending)
		{
			const PendingRow *row = lfirst(lc);

			if (row->by_hand && differs(run, done[i]))
				ids[count++] = row->id;
		}
	queue_requeue(run->map, ids, count);
	store_forget_touched(done, ndone);
}

/* Queue rows of members that have nothing to push. */
void
settle_unsent(Run *run, Member **members, int n)
{
	int max = 0;
	int count = 0;
	int64 *ids;
	char **errors;
	ListCell *lc;
	int i;

	for (i = 0; i < n; i++)
		max += list_length(members[i]->pending);
	ids = palloc(sizeof(int64) * (max + 1));
	errors = palloc(sizeof(char *) * (max + 1));
	for (i = 0; i < n; i++)
	{
		Member *m = members[i];

		if (m->has_push || m->again || (m->withheld && m->problem == NULL))
			continue;
		foreach (lc, m->pending)
		{
			PendingRow *row = lfirst(lc);

			if (row->put_off)
				continue;
			ids[count] = row->id;
			errors[count++] = row->error;
			if (row->error != NULL)
				run->figures.to_firestore_failed++;
		}
	}
	run->figures.left += queue_settle(run->map, ids, errors, count);
}

/* A field that cannot be pushed and that no row in the queue speaks for. */
void
report_field_errors(Run *run, Member *m)
{
	ListCell *lc;
	int f;

	foreach (lc, m->pending)
		if (((PendingRow *) lfirst(lc))->error != NULL)
			return;
	for (f = 0; f < run->map->nfields; f++)
	{
		if (m->field_error == NULL || m->field_error[f] == NULL)
			continue;
		if (queue_add_failed(run->map, m,
							 psprintf("%s: %s", run->map->fields[f].name,
									  m->field_error[f])))
			run->figures.to_firestore_failed++;
		return;
	}
	if (m->problem != NULL && m->pending == NIL &&
		(m->nrows > 0 || m->unreadable != NULL))
	{
		if (queue_add_failed(run->map, m, m->problem))
			run->figures.to_firestore_failed++;
	}
}
