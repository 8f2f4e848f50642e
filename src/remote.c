/*
 * remote.c
 *		What Firestore did to a member as a whole: it was deleted there, or is
 *		one that PostgreSQL does not know.
 *
 * A member is deleted in Firestore when its document is gone, when others set
 * its status to inactive, or when an entry with action delete says so.
 * ekksync.on_remote_delete and ekksync.on_remote_create say what comes of it.
 *
 * May not know: SQL, HTTP.
 */
#include "postgres.h"

#include "nodes/bitmapset.h"

#include "run.h"
#include "settings.h"

#define ACTIVE "\"active\""
#define INACTIVE "\"inactive\""

static int
status_field(const Run *run)
{
	return run->map->nfields - 1;
}

static bool
is_inactive(const char *canon)
{
	return canon != NULL && strcmp(canon, INACTIVE) == 0;
}

static bool
differs(const char *a, const char *b)
{
	return a != NULL && b != NULL && strcmp(a, b) != 0;
}

/* Have the two sides ever agreed on anything, since the member is here? */
static bool
was_synced(const Run *run, const Member *m)
{
	int f;

	if (m->first_contact || m->tombstone != 0)
		return false;
	for (f = 0; f < run->map->nfields; f++)
		if (m->base[f].value != NULL)
			return true;
	return false;
}

/* ---- entries ---- */

static bool
is_delete(const Entry *entry)
{
	return strcmp(entry->action, "delete") == 0;
}

static bool
is_create(const Entry *entry)
{
	return strcmp(entry->action, "create") == 0;
}

/* The last entry of a kind, NULL if there is none. */
static Entry *
last_entry(const Member *m, bool (*of_kind)(const Entry *entry))
{
	Entry *last = NULL;
	ListCell *lc;

	foreach (lc, m->entries)
	{
		Entry *entry = lfirst(lc);

		if (of_kind(entry) && (last == NULL || entry->stamp >= last->stamp))
			last = entry;
	}
	return last;
}

static void
conclude(Entry *entry, EntryOutcome outcome, char *message)
{
	entry->outcome = outcome;
	entry->message = message;
}

/* Is something that both sides agreed on later than the entry? */
static bool
is_old(const Run *run, const Member *m, const Entry *entry)
{
	int f;

	for (f = 0; f < run->map->nfields; f++)
		if (m->base[f].value != NULL && m->base[f].stamp > entry->stamp)
			return true;
	return false;
}

/*
 * Did anybody edit the member in Firestore after the entry, as far as known?
 * An entry that only repeats what was there counts as well: no row goes on a
 * guess.
 */
static bool
is_overtaken(const Run *run, const Member *m, const Entry *entry)
{
	ListCell *lc;
	int f;

	if (is_old(run, m, entry))
		return true;
	foreach (lc, m->entries)
	{
		const Entry *other = lfirst(lc);

		if (entries_is_change(other) && other->stamp > entry->stamp)
			return true;
	}
	for (f = 0; f < status_field(run) && !m->doc->missing; f++)
		if (differs(m->remote[f], m->base[f].value) &&
			stamp_remote(run, m, f).upto > entry->stamp)
			return true;
	return false;
}

/* ---- was it deleted, and when? ---- */

/* Can it be our own deletion that came late, when the row was back? */
static bool
was_deleted_by_us(const Member *m)
{
	ListCell *lc;

	foreach (lc, m->notes)
		if (((FlightNote *) lfirst(lc))->gone)
			return true;
	return false;
}

/* Does the document say so, or that there is none?  Then with the time. */
static bool
document_says(const Run *run, const Member *m, MergeStamp *when)
{
	int status = status_field(run);

	if (!was_synced(run, m))
		return false;
	if (m->doc->missing)
	{
		when->from =
			m->doc_update_time != 0 ? m->doc_update_time : MIN_TIMESTAMP;
		when->upto = Max(run->started_at, when->from + 1);
		return m->away == 0 && !was_deleted_by_us(m);
	}
	if (!is_inactive(m->remote[status]) || m->base[status].value == NULL ||
		is_inactive(m->base[status].value))
		return false;
	*when = stamp_remote(run, m, status);
	return true;
}

static bool
was_deleted(const Run *run, const Member *m, MergeStamp *when)
{
	const Entry *entry = last_entry(m, is_delete);
	bool said = document_says(run, m, when);

	if (entry == NULL || !was_synced(run, m))
		return said;
	if (said ? entry->stamp <= when->from : is_overtaken(run, m, entry))
		return said;
	when->from = when->upto = entry->stamp;
	return true;
}

/* Does a pending row of an edit name the field? */
static bool
is_pending(const Member *m, int f)
{
	ListCell *lc;

	foreach (lc, m->pending)
	{
		const PendingRow *row = lfirst(lc);

		if (strcmp(row->action, "delete") != 0 &&
			(row->fields == NULL || bms_is_member(f, row->fields)))
			return true;
	}
	return false;
}

/*
 * Has Django an edit that may be later?  One without a queue row was made at
 * a time that nobody knows.
 */
static bool
django_is_later(const Run *run, const Member *m, MergeStamp when)
{
	ListCell *lc;
	int f;

	foreach (lc, m->pending)
	{
		const PendingRow *row = lfirst(lc);

		if (strcmp(row->action, "delete") != 0 &&
			(when.from == when.upto ? row->stamp >= when.upto
									: row->stamp > when.from))
			return true;
	}
	for (f = 0; f < status_field(run); f++)
		if (differs(m->local[f], m->base[f].value) && !is_pending(m, f))
			return true;
	return false;
}

/* Would a time decide whether it is deleted, and the clocks do not agree? */
static bool
waits_for_clock(const Run *run, const Member *m, bool deleted)
{
	ListCell *lc;

	if (!decide_clock_is_wrong(run) || !was_synced(run, m))
		return false;
	if (settings.on_remote_delete == REMOTE_DELETE_DELETE &&
		last_entry(m, is_delete) != NULL)
		return true;
	foreach (lc, m->pending)
		if (strcmp(((PendingRow *) lfirst(lc))->action, "delete") != 0)
			return deleted &&
				   (settings.on_remote_delete == REMOTE_DELETE_DELETE ||
					(settings.on_remote_delete == REMOTE_DELETE_IGNORE &&
					 m->doc->missing));
	return false;
}

/* ---- a member with a row ---- */

/* Was the status accepted by an earlier run, as others had set it? */
static bool
is_accepted(const Run *run, const Member *m)
{
	const BaseValue *base = &m->base[status_field(run)];

	return m->tombstone == 0 && !m->doc->missing &&
		   is_inactive(m->remote[status_field(run)]) &&
		   is_inactive(base->value) && base->origin == ORIGIN_FIRESTORE;
}

/* The fate of a deleted member, whose deletion stands beside Django's row. */
static Fate
fate_of_ignored(const Run *run, const Member *m, bool deleted, MergeStamp when)
{
	if (m->doc->missing && m->away != 0)
		return m->pending == NIL ? FATE_AWAY : FATE_NONE;
	if (m->doc->missing)
		return deleted && !django_is_later(run, m, when) ? FATE_AWAY
														 : FATE_NONE;
	return deleted && is_inactive(m->remote[status_field(run)]) ? FATE_INACTIVE
																: FATE_NONE;
}

static void
conclude_deletes(const Run *run, Member *m, Fate fate)
{
	ListCell *lc;

	foreach (lc, m->entries)
	{
		Entry *entry = lfirst(lc);

		if (!is_delete(entry))
			continue;
		if (fate == FATE_ERASE)
			conclude(entry, ENTRY_SYNCED, "applied");
		else if (settings.on_remote_delete == REMOTE_DELETE_RESTORE
					 ? is_old(run, m, entry)
					 : is_overtaken(run, m, entry))
			conclude(entry, ENTRY_SYNCED, "superseded");
		else if (settings.on_remote_delete == REMOTE_DELETE_IGNORE)
			conclude(entry, ENTRY_SYNCED, "ignored");
		else if (settings.on_remote_delete == REMOTE_DELETE_RESTORE)
			conclude(entry, ENTRY_FAILED,
					 "deletes from Firestore are not applied: "
					 "ekksync.on_remote_delete is restore");
		else
			conclude(entry, ENTRY_FAILED,
					 was_synced(run, m)
						 ? "not deleted: Django has a later edit of the member"
						 : "not deleted: the member was never synced");
	}
}

Fate
remote_fate(const Run *run, Member *m)
{
	Fate fate = FATE_NONE;
	bool deleted = was_deleted(run, m, &m->when);

	if (waits_for_clock(run, m, deleted))
		return FATE_WAIT; /* its entries stay open */
	if (settings.on_remote_delete != REMOTE_DELETE_RESTORE &&
		is_accepted(run, m))
		fate = FATE_INACTIVE;
	if (settings.on_remote_delete == REMOTE_DELETE_DELETE && deleted &&
		!django_is_later(run, m, m->when))
		fate = FATE_ERASE;
	else if (settings.on_remote_delete == REMOTE_DELETE_IGNORE &&
			 fate == FATE_NONE)
		fate = fate_of_ignored(run, m, deleted, m->when);
	else if (settings.on_remote_delete == REMOTE_DELETE_DELETE &&
			 m->doc->missing && m->away != 0 && m->pending == NIL)
		fate = FATE_AWAY;
	conclude_deletes(run, m, fate);
	return fate;
}

/*
 * What the document holds becomes the base, so that only later edits of it are
 * edits of a member that is gone.  What Django had edited has lost.
 */
void
remote_erase(const Run *run, Member *m)
{
	int f;

	for (f = 0; f < run->map->nfields && run->opt.pull; f++)
	{
		MergeInput *in = &m->inputs[f];
		MergeResult *res = &m->result[f];

		in->base = m->base[f].value;
		in->local = m->local[f];
		in->remote = m->remote[f];
		in->remote_stamp = m->when;
		if (f < status_field(run) && differs(in->local, in->base))
		{
			in->local_stamp = stamp_local(run, m, f);
			res->conflict = true;
			res->rule = RULE_DELETED;
		}
		if (m->doc->missing || in->remote == NULL)
			continue;
		res->action = MERGE_AGREE;
		res->winner = ORIGIN_FIRESTORE;
		res->stamp = m->when;
	}
}

void
remote_accept_status(const Run *run, Member *m)
{
	int f = status_field(run);
	const MergeInput *in = &m->inputs[f];
	MergeResult *res = &m->result[f];

	memset(res, 0, sizeof(*res));
	res->action = is_inactive(in->base) ? MERGE_NOTHING : MERGE_AGREE;
	res->winner = ORIGIN_FIRESTORE;
	res->stamp = in->remote_stamp;
}

/* ---- a member without a row ---- */

/* When was it deleted in Django: by its queue row, else by its tombstone. */
static TimestampTz
deleted_at(const Member *m)
{
	TimestampTz last = 0;
	ListCell *lc;

	foreach (lc, m->pending)
	{
		const PendingRow *row = lfirst(lc);

		if (strcmp(row->action, "delete") == 0)
			last = Max(last, row->stamp);
	}
	return last != 0 ? last : m->tombstone;
}

/* Can a write of ours still make its document, or have made it? */
static bool
may_be_ours(const Run *run, const Member *m)
{
	ListCell *lc;

	foreach (lc, m->notes)
		if (!((FlightNote *) lfirst(lc))->dropped)
			return true;
	return m->known && !m->doc->missing && m->doc->fields != NULL &&
		   path_find(m->doc->fields, &run->sync_write) != NULL;
}

/*
 * Did others make the document, after the last that we know of a member that
 * is gone?  By Firestore's clock alone.
 */
static bool
is_anothers(const Run *run, const Member *m)
{
	return m->tombstone != 0 && !decide_has_delete(m) && !m->doc->missing &&
		   m->doc->create_time > m->doc_update_time && !may_be_ours(run, m);
}

/*
 * Is the entry a copy of a document that we wrote?  Such copies may come at
 * any time; they have our mark.
 */
static bool
is_copy_of_ours(const Run *run, const Entry *entry)
{
	return path_find(entry->changes, &run->sync_write) != NULL ||
		   cJSON_GetObjectItemCaseSensitive(entry->changes,
											run->sync_write.quoted) != NULL;
}

/* Does an entry make a member again that was deleted, if it is later? */
static bool
is_rebirth(const Run *run, const Member *m, const Entry *create)
{
	if (create == NULL || (m->tombstone == 0 && !decide_has_delete(m)))
		return false; /* the row went unseen: that is not settled yet */
	return !is_copy_of_ours(run, create);
}

/* Is the member, which has no row, one that PostgreSQL knows? */
static bool
is_known(const Run *run, const Member *m)
{
	return (m->known || decide_has_delete(m)) && !is_anothers(run, m);
}

/* Why the member gets no row; NULL: it gets one. */
static const char *
why_not_inserted(const Run *run, const Member *m)
{
	const Entry *create = last_entry(m, is_create);
	const Entry *change = last_entry(m, entries_is_change);
	const Entry *delete = last_entry(m, is_delete);
	TimestampTz written = m->doc->missing ? 0 : m->doc->update_time;
	ListCell *lc;

	if (settings.on_remote_create != REMOTE_CREATE_INSERT)
		return "PostgreSQL does not know the member";
	foreach (lc, m->notes)
		if (!((FlightNote *) lfirst(lc))->dropped)
			return "a write to the document is in flight";
	if (m->doc->missing && (create == NULL || is_copy_of_ours(run, create)))
		return "there is no document";
	if (!m->doc->missing && is_inactive(m->remote[status_field(run)]))
		return "the document is inactive";
	if (change != NULL)
		written = Max(written, change->stamp);
	if (delete != NULL && delete->stamp >= written)
		return "an entry deletes it";
	if (is_known(run, m) &&
		!(is_rebirth(run, m, create) && create->stamp > deleted_at(m)))
		return "the member was deleted";
	return NULL;
}

Fate
remote_fate_of_gone(const Run *run, Member *m)
{
	const char *why = why_not_inserted(run, m);
	bool ours = is_known(run, m);
	ListCell *lc;

	if (settings.on_remote_create == REMOTE_CREATE_INSERT && ours &&
		decide_clock_is_wrong(run) &&
		is_rebirth(run, m, last_entry(m, is_create)))
	{
		entries_leave_open(m);
		return FATE_WAIT;
	}
	if (!ours && !m->doc->missing)
		m->stranger = why;
	foreach (lc, m->entries)
	{
		Entry *entry = lfirst(lc);

		if (is_delete(entry) && (ours || why == NULL))
			conclude(entry, ENTRY_SYNCED,
					 why == NULL ? "superseded" : "already deleted");
		else
			conclude(entry, ENTRY_FAILED, "member not found");
	}
	if (why == NULL)
		return FATE_INSERT;
	return is_anothers(run, m) ? FATE_STRANGER : FATE_NONE;
}

/* What a new member has in a field that only we write, for its entries. */
static char *
own_value(const Run *run, const Member *m, int f)
{
	if (f == status_field(run))
		return ACTIVE;
	if (strcmp(run->map->fields[f].name, run->map->key_name) == 0)
		return canon_from_text(m->key);
	return run->map->fields[f].codec.kind == CODEC_TEXT_ARRAY ? "[]"
															  : CANON_NULL;
}

/*
 * The row takes what the document holds; without a document, what entries say,
 * and the document is made when the row is there.
 */
void
remote_insert(const Run *run, Member *m)
{
	int f;

	for (f = 0; f < run->map->nfields; f++)
	{
		const Field *field = &run->map->fields[f];
		MergeInput *in = &m->inputs[f];
		TimestampTz stamp;

		if (field->problem != NULL)
			continue;
		if (field->push_only)
		{
			m->local[f] = own_value(run, m, f);
			continue;
		}
		if (m->doc->missing)
		{
			in->remote = entries_last(m, f, &stamp);
			in->remote_stamp.from = in->remote_stamp.upto = stamp;
			m->enqueued[f] = true;
		}
		else if (!m->remote_missing[f])
		{
			in->remote = m->remote[f];
			in->remote_stamp = stamp_remote(run, m, f);
		}
		if (in->remote == NULL)
			continue;
		m->result[f].action = MERGE_PULL;
		m->result[f].winner = ORIGIN_FIRESTORE;
		m->result[f].stamp = in->remote_stamp;
	}
}
