/*
 * held.c
 *		Conflicts that waited for a person, and need nobody any more.
 *
 * May not know: HTTP, how a field is decided.
 */
#include "postgres.h"

#include "held.h"
#include "queue.h"
#include "trail.h"

/* Is this field of the member decided, and is that carried out? */
static bool
is_decided(const Run *run, const Member *m, int f)
{
	if (m->problem != NULL)
		return false;
	if (m->gone)
		return true;
	if (run->map->fields[f].problem != NULL || m->local[f] == NULL)
		return false;
	switch (m->result[f].action)
	{
		case MERGE_NOTHING:
		case MERGE_AGREE:
			return true;
		case MERGE_PULL:
			return run->opt.pull;
		case MERGE_PUSH:
			return decide_writes(run, m, f);
		case MERGE_HOLD:
			break;
	}
	return false;
}

static const Member *
find_member(Member **members, int n, const char *key)
{
	int i;

	for (i = 0; i < n; i++)
		if (strcmp(members[i]->key, key) == 0)
			return members[i];
	elog(ERROR, "ekksync: a held conflict of nobody");
}

/* Is there a newer one of the same field among the first n? */
static bool
is_replaced(List *held, int n)
{
	const TrailConflict *c = list_nth(held, n);
	int i;

	for (i = 0; i < n; i++)
	{
		const TrailConflict *newer = list_nth(held, i);

		if (strcmp(newer->key, c->key) == 0 &&
			strcmp(newer->field, c->field) == 0)
			return true;
	}
	return false;
}

void
held_close(Run *run, Member **members, int n)
{
	List *held = n > 0 ? trail_held(members, n) : NIL;
	int64 *ids = palloc(sizeof(int64) * (list_length(held) + 1));
	int count = 0;
	int i;

	for (i = 0; i < list_length(held); i++)
	{
		const TrailConflict *c = list_nth(held, i);
		const Member *m = find_member(members, n, c->key);
		int f = mapping_find(run->map, c->field);

		if (f >= 0 && is_decided(run, m, f))
			queue_release(run->map, c->key, c->field);
		else if (f >= 0 && !is_replaced(held, i))
			continue;
		ids[count++] = c->id;
	}
	if (count > 0)
		trail_close(ids, count, psprintf("run " INT64_FORMAT, run->id));
}
