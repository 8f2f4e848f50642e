/*
 * stamps.c
 *		When a value of a member was written, as far as anything tells: queue
 *		rows, entries, the document's own times, what was sent before.
 *
 * May not know: SQL, HTTP, who wins.
 */
#include "postgres.h"

#include "nodes/bitmapset.h"

#include "flight.h"

/* The last pending row that speaks of the field; 0 if none does. */
static TimestampTz
last_row_time(const Member *m, int f, bool is_null)
{
	TimestampTz last = 0;
	ListCell *lc;

	foreach (lc, m->pending)
	{
		const PendingRow *row = lfirst(lc);

		if (strcmp(row->action, "delete") == 0 ||
			(row->fields != NULL && !bms_is_member(f, row->fields)))
			continue;
		/* a row inserted without a value does not say that one was cleared */
		if (is_null && strcmp(row->action, "create") == 0)
			continue;
		last = Max(last, row->stamp);
	}
	return last;
}

/* When was the local value written?  Not later than it is. */
MergeStamp
stamp_local(const Run *run, const Member *m, int f)
{
	bool is_null = strcmp(m->local[f], CANON_NULL) == 0;
	TimestampTz last = last_row_time(m, f, is_null);
	MergeStamp stamp;

	if (last == 0 && m->first_contact &&
		strcmp(run->map->initial, "newest") == 0)
	{
		if (m->history != NULL && m->history[f] != 0)
			last = m->history[f];
		else if (!is_null)
			last = run->map->attached_at;
	}
	/* an entry's value that was sent on has the entry's time */
	if (last == 0 && !m->first_contact)
		(void) flight_noted(m, f, m->local[f], &last);
	if (last != 0)
	{
		stamp.from = stamp.upto = Min(last, run->now);
		return stamp;
	}
	stamp.from = m->base[f].value != NULL ? m->base[f].stamp : MIN_TIMESTAMP;
	stamp.upto = m->first_contact ? run->map->attached_at : run->started_at;
	stamp.upto = Min(stamp.upto, run->now);
	stamp.upto = Max(stamp.upto, stamp.from + 1);
	return stamp;
}

/* When was the document's value written, as far as its own times tell? */
static MergeStamp
document_stamp(const Run *run, const Member *m, int f)
{
	MergeStamp stamp;
	TimestampTz said;

	if (m->remote[f] != NULL && entries_explain(m, f, m->remote[f], &said))
	{
		/* a late copy may say it: it was written when it was there */
		stamp.from = stamp.upto = Min(said, m->doc->update_time);
		return stamp;
	}
	stamp.upto = m->doc->update_time;
	stamp.from =
		m->doc_update_time != 0 ? m->doc_update_time : m->doc->create_time - 1;
	if (m->first_contact && strcmp(run->map->initial, "newest") == 0)
		stamp.from = stamp.upto;
	stamp.from = Min(stamp.from, stamp.upto);
	return stamp;
}

/* When was it written?  After what it was written over. */
MergeStamp
stamp_remote(const Run *run, const Member *m, int f)
{
	MergeStamp stamp = document_stamp(run, m, f);
	TimestampTz sent;

	if (!flight_overtaken(run, m, f, &sent))
		return stamp;
	if (stamp.from == stamp.upto)
		stamp.from = stamp.upto = Max(stamp.upto, sent + 1);
	else
	{
		stamp.from = Max(stamp.from, sent);
		stamp.upto = Max(stamp.upto, sent + 1);
	}
	return stamp;
}

bool
stamp_is_told(const Member *m, int f)
{
	ListCell *lc;
	ListCell *lc2;

	foreach (lc, m->pending)
	{
		const PendingRow *row = lfirst(lc);

		if (row->fields == NULL || bms_is_member(f, row->fields) ||
			strcmp(row->action, "create") == 0)
			return true;
	}
	foreach (lc, m->entries)
		foreach (lc2, ((Entry *) lfirst(lc))->parsed)
			if (((EntryChange *) lfirst(lc2))->field == f)
				return true;
	return false;
}
