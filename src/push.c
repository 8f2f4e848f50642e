/*
 * push.c
 *		Writes decisions to Firestore and settles what came of it.
 *
 * Every write names exactly the paths that change and carries a precondition:
 * the document is as it was read, or does not exist.
 *
 * May not know: how to decide, HTTP.
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "flight.h"
#include "queue.h"
#include "run.h"
#include "settings.h"
#include "steps.h"
#include "store.h"

#define DELETED_TIMES 3
#define CHANGED_TIMES 2

/* ---- building writes ---- */

/* Is this a path that runs write? */
static bool
is_ours(const Run *run, const FieldPath *path)
{
	const FieldPath *times[] = {&run->deleted_at, &run->last_modified,
								&run->last_sync, &run->sync_write};
	int i;

	for (i = 0; i < run->map->nfields; i++)
		if (strcmp(run->map->fields[i].path.quoted, path->quoted) == 0)
			return true;
	for (i = 0; i < (int) lengthof(times); i++)
		if (strcmp(times[i]->quoted, path->quoted) == 0)
			return true;
	return false;
}

static void
add_value(FsWrite *w, const FieldPath *path, const char *value)
{
	w->values =
		w->nvalues == 0
			? palloc(sizeof(FsFieldValue))
			: repalloc(w->values, sizeof(FsFieldValue) * (w->nvalues + 1));
	w->values[w->nvalues].path = path;
	w->values[w->nvalues++].value = value;
}

/*
 * What the old document of a changed key holds besides the mapped paths goes
 * along to the new one.
 */
static void
copy_unmapped(const Run *run, FsWrite *w, const cJSON *fields,
			  const char *prefix)
{
	const cJSON *child;

	cJSON_ArrayForEach (child, fields)
	{
		const cJSON *map = cJSON_GetObjectItemCaseSensitive(child, "mapValue");
		const cJSON *inner = cJSON_GetObjectItemCaseSensitive(map, "fields");
		FieldPath *path = palloc(sizeof(FieldPath));
		StringInfoData buf;
		char *json;

		initStringInfo(&buf);
		appendStringInfoString(&buf, prefix);
		path_append_quoted(&buf, child->string);
		if (!path_parse(buf.data, path, NULL) || is_ours(run, path))
			continue;
		if (inner != NULL && inner->child != NULL)
		{
			appendStringInfoChar(&buf, '.');
			copy_unmapped(run, w, inner, buf.data);
			continue;
		}
		json = cJSON_PrintUnformatted(child);
		if (json == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
		add_value(w, path, pstrdup(json));
		cJSON_free(json);
	}
}

static bool
holds_deleted_at(const Run *run, const Member *m)
{
	const cJSON *value;

	if (m->doc->missing || m->doc->fields == NULL)
		return false;
	value = path_find(m->doc->fields, &run->deleted_at);
	return value != NULL &&
		   cJSON_GetObjectItemCaseSensitive(value, "nullValue") == NULL;
}

/* The write of one member. */
static void
build_write(Run *run, Member *m, FsWrite *w)
{
	const FieldPath **times = palloc(sizeof(FieldPath *) * DELETED_TIMES);
	int f;

	memset(w, 0, sizeof(*w));
	w->collection = "members";
	w->id = m->key;
	w->pre = m->doc->missing ? FS_PRE_MISSING : FS_PRE_UPDATE_TIME;
	w->pre_time = m->doc->update_time;
	if (m->gone && settings.on_local_delete == LOCAL_DELETE_DELETE)
	{
		w->delete = true;
		return;
	}
	for (f = 0; f < run->map->nfields; f++)
		if (m->encoded[f] != NULL && decide_writes(run, m, f))
			add_value(w, &run->map->fields[f].path, m->encoded[f]);
	if (m->create && m->old_doc != NULL && !m->old_doc->missing)
		copy_unmapped(run, w, m->old_doc->fields, "");
	if (!m->gone && m->fate != FATE_INACTIVE && holds_deleted_at(run, m))
		add_value(w, &run->deleted_at, "{\"nullValue\":null}");
	add_value(w, &run->sync_write,
			  psprintf("{\"stringValue\":\"%s%s\"}",
					   ((FlightNote *) llast(m->notes))->mark,
					   m->left_out ? FLIGHT_PART : ""));

	times[0] = &run->last_modified;
	times[1] = &run->last_sync;
	times[2] = &run->deleted_at;
	w->times = times;
	w->ntimes = m->gone ? DELETED_TIMES : CHANGED_TIMES;
}

/* ---- sending ---- */

/*
 * A document that Firestore refuses may be too large with what is added to
 * it: the member's longest value is left out, for the reason that Firestore
 * gave.  False when no other would be left.
 */
static bool
leave_out_longest(Run *run, Member *m)
{
	int longest = -1;
	int n = 0;
	int f;

	for (f = 0; f < run->map->nfields; f++)
	{
		if (m->encoded[f] == NULL || !decide_writes(run, m, f))
			continue;
		if (longest < 0 || strlen(m->encoded[f]) > strlen(m->encoded[longest]))
			longest = f;
		n++;
	}
	if (n < 2)
		return false;
	m->field_error[longest] = m->write->error.message;
	m->left_out = true;
	decide_rows(run, m);
	return true;
}

/*
 * Send the members' writes; those that are refused again with less.  False
 * when Firestore cannot be reached or refuses us.
 */
static bool
send_writes(Run *run, Member **members, int n)
{
	Member **sent = palloc(sizeof(Member *) * n);
	int i;

	memcpy(sent, members, sizeof(Member *) * n);
	while (n > 0)
	{
		FsWrite *writes = palloc(sizeof(FsWrite) * n);
		int refused = 0;

		for (i = 0; i < n; i++)
		{
			build_write(run, sent[i], &writes[i]);
			sent[i]->write = &writes[i];
		}
		if (!fs_write(run->fs, writes, n))
			return false;
		for (i = 0; i < n; i++)
			if (writes[i].error.class == FS_ROW &&
				!writes[i].delete &&strstr(writes[i].error.message, "size") !=
					NULL &&
				leave_out_longest(run, sent[i]))
				sent[refused++] = sent[i];
		n = refused;
	}
	return true;
}

/* ---- settling ---- */

/* The document took what was sent: that is the base now. */
static void
settle_written(Run *run, Member *m)
{
	ListCell *lc;
	int f;

	for (f = 0; f < run->map->nfields; f++)
	{
		BaseValue *base = &m->base[f];
		bool push = m->result[f].action == MERGE_PUSH;

		base->dirty = false;
		if (!decide_writes(run, m, f))
			continue;
		if (m->result[f].action == MERGE_HOLD)
			continue; /* it is no base */
		base->value = unconstify(char *, push ? m->inputs[f].local
											  : m->inputs[f].remote);
		base->stamp = Max(base->stamp, m->result[f].stamp.upto);
		base->origin = flight_origin(m, f, base->value);
		base->dirty = true;
	}
	foreach (lc, m->notes)
	{
		FlightNote *note = lfirst(lc);

		/* where nothing is, an earlier creation can still come */
		note->dropped = note->has_pre || !m->write->delete;
	}
	if (!m->unseen)
		m->doc_update_time = m->write->update_time;
	m->first_contact = false; /* one that is put off has nothing to push */
	m->tombstone = m->gone ? run->started_at : 0;
	m->away = 0;
	run->figures.to_firestore++;
}

/* The note of a write that was certainly not applied says nothing. */
static void
drop_last_note(Member *m)
{
	FlightNote *note = llast(m->notes);

	if (!m->write->error.maybe_applied)
		note->dropped = true;
}

/* Outcome of one member's write; its error for its rows, NULL if none. */
static char *
settle_member(Run *run, Member *m)
{
	int f;

	for (f = 0; f < run->map->nfields; f++)
		m->base[f].dirty = false;
	switch (m->write->error.class)
	{
		case FS_OK:
			settle_written(run, m);
			return NULL;
		case FS_ROW:
			drop_last_note(m);
			run->figures.to_firestore_failed++;
			return m->write->error.message;
		case FS_REREAD:
			/* the note stays: what is there now was written after it */
			m->again = true;
			return NULL;
		case FS_RETRY:
			run->figures.left++;
			/* FALLTHROUGH */
		case FS_STOP:
			drop_last_note(m);
			m->withheld = true;
			break;
	}
	return NULL;
}

/* Settle the queue rows of one member. */
static int
settle_rows(Run *run, Member *m, char *error, int64 *ids, char **errors, int n)
{
	ListCell *lc;

	if (m->again || m->withheld)
		return n;
	foreach (lc, m->pending)
	{
		PendingRow *row = lfirst(lc);

		if (row->put_off)
			continue;
		ids[n] = row->id;
		errors[n++] = row->error != NULL ? row->error : error;
		if (row->error != NULL && error == NULL)
			run->figures.to_firestore_failed++;
	}
	return n;
}

/* What settle_work does. */
typedef struct SettleWork
{
	Run *run;
	Member **members;
	int n;
} SettleWork;

/* Base, notes, queue rows and change log of members that were sent. */
static void
settle_work(void *arg)
{
	SettleWork *work = arg;
	Run *run = work->run;
	char **keys = palloc(sizeof(char *) * (work->n + 1));
	char **changes = palloc(sizeof(char *) * (work->n + 1));
	int64 *ids;
	char **errors;
	int max = 0;
	int nrows = 0;
	int nchanges = 0;
	int i;

	tx_wait_briefly();
	for (i = 0; i < work->n; i++)
		max += list_length(work->members[i]->pending);
	ids = palloc(sizeof(int64) * (max + 1));
	errors = palloc(sizeof(char *) * (max + 1));
	for (i = 0; i < work->n; i++)
	{
		Member *m = work->members[i];
		char *error = settle_member(run, m);

		nrows = settle_rows(run, m, error, ids, errors, nrows);
		if (error != NULL && m->pending == NIL && !m->gone)
			queue_add_failed(run->map, m, error);
		else if (m->left_out)
			report_field_errors(run, m);
		if (m->write->error.class == FS_OK && m->change != NULL)
		{
			keys[nchanges] = m->key;
			changes[nchanges++] = m->change;
		}
	}
	store_change_log(run, "firestore", keys, changes, nchanges);
	store_write_members(run, work->members, work->n);
	run->figures.left += queue_settle(run->map, ids, errors, nrows);
	at_step(in_settle);
}

static ErrorData *
try_settle(Run *run, Member **members, int n)
{
	SettleWork work = {run, members, n};
	RunFigures figures = run->figures;
	ErrorData *error = tx_guarded(settle_work, &work, true);

	if (error != NULL)
		run->figures = figures;
	return error;
}

/*
 * Settle members in one transaction, or, if that fails, one by one.  One that
 * cannot be settled keeps its note: the next run sees what was written.
 */
static void
settle_together(Run *run, Member **members, int n)
{
	int i;

	if (n > 1 && try_settle(run, members, n) == NULL)
		return;
	for (i = 0; i < n; i++)
	{
		ErrorData *error = try_settle(run, &members[i], 1);

		if (error != NULL && error_is_passing(error->sqlerrcode))
			run->figures.left++;
		else if (error != NULL)
			run_stuck(run, members[i], error);
	}
}

static void
settle_batch(Run *run, Member **members, int n)
{
	int done;
	int size;
	int i;

	for (i = 0; i < n; i++)
		members[i]->change = change_json(run, members[i], true);
	for (done = 0; done < n; done += size)
	{
		size = batch_slice(members + done, n - done);
		settle_together(run, members + done, size);
	}
}

/*
 * Send members' writes and settle them.  Ends the run when Firestore cannot be
 * reached or refuses us.
 */
static void
push_members(Run *run, Member **members, int n)
{
	FsError *stop = NULL;
	int i;

	if (n == 0)
		return;
	if (!send_writes(run, members, n))
	{
		for (i = 0; i < n && stop == NULL; i++)
			if (members[i]->write->error.class == FS_RETRY ||
				members[i]->write->error.class == FS_STOP)
				stop = &members[i]->write->error;
	}
	at_step(sent);
	settle_batch(run, members, n);
	at_step(settled);
	if (stop != NULL)
		run_stop(stop);
}

/* Is the document of the key that this member's row has now not there yet? */
static bool
awaits_successor(const Batch *batch, const Member *m)
{
	ListCell *lc;
	int i;

	foreach (lc, m->pending)
	{
		const char *to = ((PendingRow *) lfirst(lc))->moved_to;

		for (i = 0; i < batch->n && to != NULL; i++)
		{
			const Member *other = &batch->members[i];

			if (strcmp(other->key, to) == 0 &&
				(other->again ||
				 (other->has_push && (other->write == NULL ||
									  other->write->error.class != FS_OK))))
				return true;
		}
	}
	return false;
}

/*
 * Send what apply_batch noted, and settle it.  Where a key was changed, the
 * new document takes over from the old one what is not mapped: so the old one
 * goes only when the new one is there.
 */
void
push_batch(Run *run, Batch *batch)
{
	Member **first = palloc(sizeof(Member *) * (batch->n + 1));
	Member **then = palloc(sizeof(Member *) * (batch->n + 1));
	int nfirst = 0;
	int nmoved = 0;
	int nthen = 0;
	int i;

	for (i = 0; i < batch->n; i++)
	{
		Member *m = &batch->members[i];

		if (!m->has_push || m->again)
			continue;
		if (m->gone && m->moved)
			then[nmoved++] = m;
		else
			first[nfirst++] = m;
	}
	push_members(run, first, nfirst);
	for (i = 0; i < nmoved; i++)
	{
		then[i]->again = awaits_successor(batch, then[i]);
		if (!then[i]->again)
			then[nthen++] = then[i];
	}
	push_members(run, then, nthen);
}
