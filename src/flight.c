/*
 * flight.c
 *		Notes of writes in flight: what an earlier request may have written to
 *		a document, or may still write, though its answer never came.
 *
 * A note says against which state of the document values were sent.  While
 * the document is in that state, the request may still arrive.  Once it is in
 * another one, the request has been done or never will be; and who has brought
 * the document there wrote later than all that was sent.
 *
 * May not know: SQL, HTTP, clocks.
 */
#include "postgres.h"

#include "utils/json.h"

#include "flight.h"
#include "settings.h"

/* How long a request may be on its way beyond its own time limit. */
#define NOTE_PATIENCE (10 * USECS_PER_MINUTE)

void
flight_note(const Run *run, Member *m)
{
	FlightNote *note = palloc0(sizeof(FlightNote));
	int f;

	note->run = run->id;
	note->mark = psprintf("%s/%d", run->log_id, run->nwrites);
	note->gone = m->gone && settings.on_local_delete == LOCAL_DELETE_DELETE;
	note->has_pre = !m->doc->missing;
	note->pre = m->doc->missing ? 0 : m->doc->update_time;
	note->fields = palloc(sizeof(int) * run->map->nfields);
	note->values = palloc(sizeof(char *) * run->map->nfields);
	note->stamps = palloc(sizeof(TimestampTz) * run->map->nfields);
	note->origins = palloc(sizeof(MergeOrigin) * run->map->nfields);
	for (f = 0; f < run->map->nfields; f++)
	{
		if (!decide_writes(run, m, f))
			continue;
		if (m->result[f].action == MERGE_HOLD)
			continue; /* it is no base */
		note->fields[note->nvalues] = f;
		note->values[note->nvalues] =
			unconstify(char *, m->result[f].action == MERGE_PUSH
								   ? m->inputs[f].local
								   : m->inputs[f].remote);
		note->stamps[note->nvalues] = m->result[f].stamp.upto;
		note->origins[note->nvalues] =
			m->result[f].action == MERGE_PUSH
				? flight_origin(m, f, note->values[note->nvalues])
				: ORIGIN_FIRESTORE;
		note->nvalues++;
	}
	m->notes = lappend(list_copy(m->notes), note);
}

/* Has anybody written or deleted the document since it was read for the note? */
static bool
has_moved(const Member *m, const FlightNote *note)
{
	if (m->doc->missing)
		return note->has_pre;
	return !note->has_pre || m->doc->update_time > note->pre;
}

/*
 * Is a note over, of which the document does not hold everything?  It is when
 * its write cannot come any more: the document has moved, or no request lives
 * that long.
 */
static bool
is_over(const Run *run, const Member *m, const FlightNote *note)
{
	int64 lifetime =
		(int64) settings.request_timeout * 1000 * (settings.max_retries + 1) +
		NOTE_PATIENCE;

	return has_moved(m, note) ||
		   (note->at != 0 && run->started_at - note->at > lifetime);
}

/* Does the document hold the i'th value of the note? */
static bool
is_held(const Member *m, const FlightNote *note, int i)
{
	const char *remote = m->remote[note->fields[i]];

	return !m->doc->missing && remote != NULL &&
		   strcmp(remote, note->values[i]) == 0;
}

/* The mark of the last write of a run that the document took, NULL: none. */
static const char *
document_mark(const Run *run, const Member *m)
{
	if (m->doc->missing || m->doc->fields == NULL)
		return NULL;
	return cJSON_GetStringValue(
		cJSON_GetObjectItemCaseSensitive(path_find(m->doc->fields,
												   &run->sync_write),
										 "stringValue"));
}

/*
 * Was the i'th value written, though the document may not hold it any more?
 * The mark tells.  A document without one is taken by its word: a value that
 * it holds is ours; as it is where only a part of the values was sent.
 */
static bool
was_written(const Run *run, const Member *m, const FlightNote *note, int i)
{
	const char *mark = document_mark(run, m);
	size_t len = strlen(note->mark);

	if (mark == NULL)
		return is_held(m, note, i);
	if (strncmp(mark, note->mark, len) != 0)
		return false;
	return mark[len] == '\0' ||
		   (strcmp(mark + len, FLIGHT_PART) == 0 && is_held(m, note, i));
}

/* The i'th value was written: it is the base. */
static void
make_base(Member *m, const FlightNote *note, int i)
{
	BaseValue *base = &m->base[note->fields[i]];

	if (base->value != NULL && strcmp(base->value, note->values[i]) == 0 &&
		base->stamp >= note->stamps[i])
		return;
	base->value = note->values[i];
	base->stamp = Max(base->stamp, note->stamps[i]);
	base->origin = note->origins[i];
	base->dirty = true;
}

/* ... and is a change of the document: {"field": [old, new], ... so far. */
static void
add_change(const Run *run, const Member *m, const FlightNote *note, int i,
		   StringInfo buf)
{
	int f = note->fields[i];
	const char *was = note->has_pre ? m->base[f].value : NULL;

	if (was != NULL && strcmp(was, note->values[i]) == 0)
		return;
	appendStringInfoChar(buf, buf->len == 0 ? '{' : ',');
	escape_json(buf, run->map->fields[f].name);
	appendStringInfo(buf, ":[%s,%s%s]", was ? was : CANON_NULL,
					 note->values[i],
					 was == NULL && note->has_pre ? "," FLIGHT_FILLED : "");
}

bool
flight_is_straggler(const Run *run, const Member *m)
{
	const char *mark;
	ListCell *lc;

	if (m->doc_update_time == 0 || m->doc->create_time <= m->doc_update_time ||
		m->doc->update_time != m->doc->create_time)
		return false;
	mark = document_mark(run, m);
	foreach (lc, m->notes)
	{
		const FlightNote *note = lfirst(lc);
		size_t len = strlen(note->mark);

		if (mark != NULL && strncmp(mark, note->mark, len) == 0 &&
			(mark[len] == '\0' || strcmp(mark + len, FLIGHT_PART) == 0))
			return false;
	}
	return mark != NULL;
}

void
flight_settle(const Run *run, Member *m)
{
	StringInfoData changes;
	ListCell *lc;
	int i;

	initStringInfo(&changes);
	foreach (lc, m->notes)
	{
		FlightNote *note = lfirst(lc);
		bool complete = !m->doc->missing;

		for (i = 0; i < note->nvalues && !note->dropped; i++)
		{
			complete = complete && is_held(m, note, i);
			if (!was_written(run, m, note, i))
				continue;
			add_change(run, m, note, i, &changes);
			make_base(m, note, i);
		}
		if (complete || is_over(run, m, note))
			note->dropped = true;
	}
	if (changes.len > 0)
	{
		appendStringInfoChar(&changes, '}');
		m->landed = changes.data;
	}
}

bool
flight_overtaken(const Run *run, const Member *m, int field,
				 TimestampTz *stamp)
{
	bool found = false;
	ListCell *lc;
	int i;

	*stamp = 0;
	foreach (lc, m->notes)
	{
		const FlightNote *note = lfirst(lc);

		for (i = 0; i < note->nvalues && has_moved(m, note); i++)
		{
			if (note->fields[i] != field ||
				(is_held(m, note, i) && was_written(run, m, note, i)))
				continue;
			*stamp = Max(*stamp, note->stamps[i]);
			found = true;
		}
	}
	return found;
}

bool
flight_noted(const Member *m, int field, const char *value, TimestampTz *stamp)
{
	bool found = false;
	ListCell *lc;
	int i;

	*stamp = 0;
	foreach (lc, m->notes)
	{
		const FlightNote *note = lfirst(lc);

		for (i = 0; i < note->nvalues; i++)
		{
			if (note->fields[i] != field ||
				strcmp(note->values[i], value) != 0)
				continue;
			*stamp = Max(*stamp, note->stamps[i]);
			found = true;
		}
	}
	return found;
}

MergeOrigin
flight_origin(const Member *m, int field, const char *value)
{
	ListCell *lc;
	int i;

	foreach (lc, m->notes)
	{
		const FlightNote *note = lfirst(lc);

		for (i = 0; i < note->nvalues; i++)
			if (note->fields[i] == field &&
				strcmp(note->values[i], value) == 0)
				return note->origins[i];
	}
	return ORIGIN_DJANGO;
}
