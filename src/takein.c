/*
 * takein.c
 *		One change that a caller of ekksync_apply() gave: decided by the merge of
 *		a run, written, and noted for the change log and the conflicts.
 *
 * It is an edit of Firestore's side, made now, or when it says.  What wins is
 * written as any edit is, and captured: the next run brings it to a document
 * that does not hold it.  What both sides agreed on stays as it is, since no
 * document is seen here.
 *
 * May not know: Firestore, how a field is decided, what the call is made of.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/memutils.h"

#include "accept.h"
#include "edit.h"
#include "rows.h"
#include "settings.h"

/* ---- outcomes ---- */

/* When was the change made? */
static TimestampTz
time_of(const Accept *a, const Incoming *in)
{
	return in->entry.stamp != 0 ? Min(in->entry.stamp, a->run.now)
								: a->run.now;
}

void
accept_fail(Accept *a, Incoming *in, const char *error)
{
	in->error = MemoryContextStrdup(a->cxt, clip_message(error));
}

static void
remark(Accept *a, Incoming *in, const char *field, const char *note)
{
	in->note =
		MemoryContextStrdup(a->cxt, field != NULL
										? incoming_join(in->note, field, note)
										: note);
}

/* One pair of the change log's JSON object, and the name of the field. */
static void
log_value(Accept *a, Incoming *in, StringInfo log, int f, const char *was,
		  const char *now)
{
	const char *name = a->map->fields[f].name;

	appendStringInfoChar(log, log->len == 0 ? '{' : ',');
	escape_json(log, name);
	appendStringInfo(log, ":[%s,%s]", was, now);
	if (in->updated == NULL)
		in->updated =
			MemoryContextAlloc(a->cxt, sizeof(char *) * (a->map->nfields + 1));
	in->updated[in->nupdated++] = MemoryContextStrdup(a->cxt, name);
}

static void
log_change(Accept *a, const Incoming *in, StringInfo log)
{
	if (log->len == 0)
		return;
	appendStringInfoChar(log, '}');
	a->keys[a->nlog] = in->key;
	a->logs[a->nlog] = log->data;
	a->stamps[a->nlog++] = time_of(a, in);
}

static void
keep_loser(Accept *a, const Member *m, int f, const MergeInput *in,
		   const char *winner, const MergeResult *res)
{
	ConflictRow *row = palloc0(sizeof(ConflictRow));

	row->key = m->key;
	row->field = a->map->fields[f].name;
	row->django_value = in->local;
	row->firestore_value = in->remote;
	row->django_stamp = in->local_stamp;
	row->firestore_stamp = in->remote_stamp;
	row->winner = winner;
	row->rule = merge_rule_name(res->rule);
	row->potential = res->potential;
	a->conflicts = lappend(a->conflicts, row);
}

static bool
same_value(const char *a, const char *b)
{
	return a != NULL && b != NULL && strcmp(a, b) == 0;
}

/* ---- a member with a row ---- */

/*
 * L, R and B.  Where the sides never agreed, an edit that Django has queued
 * stands against the change, as if both had changed what is not known; else
 * the row's value is what was there before the change.
 */
static void
fill_input(const Accept *a, const Member *m, int f, const char *value,
		   TimestampTz stamp, MergeInput *in)
{
	const Field *field = &a->map->fields[f];

	memset(in, 0, sizeof(*in));
	in->local = m->local[f];
	in->local_stamp = stamp_local(&a->run, m, f);
	in->remote = value;
	in->remote_stamp.from = in->remote_stamp.upto = stamp;
	in->base = m->base[f].value;
	if (in->base == NULL)
		in->base =
			in->local_stamp.from == in->local_stamp.upto ? "" : in->local;
	in->policy = decide_policy(field->policy);
	in->window = (MergeTime) settings.conflict_window * USECS_PER_SEC;
}

/*
 * A change that says it is older than what both sides agreed on comes late:
 * nobody's edit is written over by it.  Of the same time, Django's stays; of
 * two changes of Firestore's side it is the one that is given later.
 */
static bool
is_late(const Incoming *in, const Member *m, int f, const char *value,
		TimestampTz stamp)
{
	const BaseValue *base = &m->base[f];

	return in->entry.stamp != 0 && base->value != NULL &&
		   (base->origin == ORIGIN_DJANGO ? stamp <= base->stamp
										  : stamp < base->stamp) &&
		   !same_value(value, base->value);
}

/*
 * Functions copy each write of a document, ours too, and such a copy may come
 * after the next one.  It says no time.
 */
static bool
is_copy(const Incoming *in, const Member *m, int f, const char *value)
{
	return in->entry.stamp == 0 && !same_value(value, m->base[f].value) &&
		   entries_pushed(m, f, value);
}

/* Decide one value; what wins is put into pulled[f]. */
static void
decide_value(Accept *a, Incoming *in, Member *m, int f, char *value,
			 char **pulled)
{
	TimestampTz stamp = time_of(a, in);
	const char *name = a->map->fields[f].name;
	MergeInput input;
	MergeResult res;

	if (same_value(value, m->local[f]))
		return;
	if (is_copy(in, m, f, value))
	{
		remark(a, in, name, "no change: a copy of what the document had");
		return;
	}
	fill_input(a, m, f, value, stamp, &input);
	if (is_late(in, m, f, value, stamp))
	{
		memset(&res, 0, sizeof(res));
		res.rule = RULE_LATER;
		if (m->base[f].origin == ORIGIN_DJANGO)
			keep_loser(a, m, f, &input, "django", &res);
		remark(a, in, name, "superseded by a later change");
		return;
	}
	res = merge_field(&input);
	if (res.conflict)
		keep_loser(a, m, f, &input,
				   res.action == MERGE_PULL	  ? "firestore"
				   : res.action == MERGE_HOLD ? "none"
											  : "django",
				   &res);
	if (res.action == MERGE_PULL)
		pulled[f] = value;
	else if (res.action == MERGE_HOLD)
		remark(a, in, name, "held until a person decides");
	else
		remark(a, in, name,
			   res.conflict ? "lost to a later change"
							: "no change: Django's is newer");
}

/* Why the member cannot take the change; NULL: it can. */
static char *
what_hinders(const Accept *a, const Incoming *in, const Member *m)
{
	char *error = NULL;
	ListCell *lc;

	foreach (lc, in->entry.parsed)
	{
		const EntryChange *change = lfirst(lc);
		const Field *field = &a->map->fields[change->field];

		if (m->local[change->field] == NULL)
			error = incoming_join(error, change->path,
								  m->local_error[change->field]);
		else if (field->push_only &&
				 !same_value(change->value, m->local[change->field]) &&
				 !same_value(change->value, m->base[change->field].value))
			error = incoming_join(error, change->path,
								  "not writable from Firestore");
		else if (!field->push_only && !edit_is_writable(field))
			error = incoming_join(error, change->path, "not writable");
	}
	return error;
}

/* The member has the value now, and this is what was last seen of it. */
static void
note_value(Member *m, int f, char *value, TimestampTz stamp)
{
	m->local[f] = value;
	m->base[f].value = value;
	m->base[f].stamp = stamp;
	m->base[f].origin = ORIGIN_FIRESTORE;
}

static void
write_values(Accept *a, Incoming *in, Member *m, char **pulled)
{
	int *fields = palloc(sizeof(int) * (a->map->nfields + 1));
	char **values = palloc(sizeof(char *) * (a->map->nfields + 1));
	StringInfoData log;
	int n = 0;
	int i;

	initStringInfo(&log);
	for (i = 0; i < a->map->nfields; i++)
	{
		if (pulled[i] == NULL)
			continue;
		fields[n] = i;
		values[n++] = pulled[i];
		log_value(a, in, &log, i, m->local[i], pulled[i]);
	}
	if (n == 0)
		return;
	edit_write(a->map, m, fields, values, n);
	for (i = 0; i < n; i++)
	{
		if (a->map->fields[fields[i]].compute != NULL)
			edit_announce(a->map, m, fields[i], values[i]);
		note_value(m, fields[i], values[i], time_of(a, in));
	}
	log_change(a, in, &log);
}

static void
update_member(Accept *a, Incoming *in, Member *m)
{
	char **pulled = palloc0(sizeof(char *) * (a->map->nfields + 1));
	char *error = what_hinders(a, in, m);
	ListCell *lc;

	if (error != NULL)
	{
		accept_fail(a, in, error);
		return;
	}
	foreach (lc, in->entry.parsed)
	{
		const EntryChange *change = lfirst(lc);

		if (!a->map->fields[change->field].push_only)
			decide_value(a, in, m, change->field, change->value, pulled);
	}
	write_values(a, in, m, pulled);
}

/* ---- a member that is to go ---- */

/* Is something that both sides agreed on later? */
static bool
is_overtaken(const Accept *a, const Incoming *in, const Member *m)
{
	int f;

	for (f = 0; f < a->map->nfields && in->entry.stamp != 0; f++)
		if (m->base[f].value != NULL && m->base[f].stamp > time_of(a, in))
			return true;
	return false;
}

/* Has Django an edit that is later, or of which nobody knows when it was? */
static bool
django_is_later(const Accept *a, const Incoming *in, const Member *m)
{
	ListCell *lc;
	int f;

	foreach (lc, m->pending)
	{
		const PendingRow *row = lfirst(lc);

		if (row->stamp >= time_of(a, in))
			return true;
	}
	for (f = 0; f < a->map->nfields - 1; f++)
	{
		MergeStamp stamp;

		if (m->local[f] == NULL || m->base[f].value == NULL ||
			same_value(m->local[f], m->base[f].value))
			continue;
		stamp = stamp_local(&a->run, m, f);
		if (stamp.from != stamp.upto)
			return true;
	}
	return false;
}

static bool
was_synced(const Accept *a, const Member *m)
{
	int f;

	for (f = 0; f < a->map->nfields; f++)
		if (m->base[f].value != NULL)
			return !m->first_contact && m->tombstone == 0;
	return false;
}

static void
erase_row(Accept *a, Incoming *in, Member *m)
{
	MergeResult res = {.rule = RULE_DELETED};
	StringInfoData log;
	MergeInput input;
	int f;

	rows_lock_linked(a->map, m);
	initStringInfo(&log);
	for (f = 0; f < a->map->nfields; f++)
	{
		if (m->local[f] == NULL || strcmp(m->local[f], CANON_NULL) == 0)
			continue;
		log_value(a, in, &log, f, m->local[f], CANON_NULL);
		if (f == a->map->nfields - 1 || m->base[f].value == NULL ||
			same_value(m->local[f], m->base[f].value))
			continue;
		fill_input(a, m, f, NULL, time_of(a, in), &input);
		keep_loser(a, m, f, &input, "firestore", &res);
	}
	in->nupdated = 0;
	rows_delete(a->map, m);
	m->nrows = 0;
	m->known = true;
	log_change(a, in, &log);
}

static void
delete_member(Accept *a, Incoming *in, Member *m)
{
	if (m->nrows == 0 && (m->known || decide_has_delete(m)))
		remark(a, in, NULL, "already deleted");
	else if (m->nrows == 0)
		accept_fail(a, in, "member not found");
	else if (is_overtaken(a, in, m))
		remark(a, in, NULL, "superseded by a later change");
	else if (settings.on_remote_delete == REMOTE_DELETE_RESTORE)
		accept_fail(a, in,
					"deletes from Firestore are not applied: "
					"ekksync.on_remote_delete is restore");
	else if (settings.on_remote_delete == REMOTE_DELETE_IGNORE)
		remark(a, in, NULL, "ignored: ekksync.on_remote_delete is ignore");
	else if (!was_synced(a, m))
		accept_fail(a, in, "not deleted: the member was never synced");
	else if (django_is_later(a, in, m))
		accept_fail(a, in,
					"not deleted: Django has a later edit of the member");
	else
		erase_row(a, in, m);
}

/* ---- a member without a row ---- */

/* When was it deleted in Django?  0: it was not. */
static TimestampTz
deleted_at(const Member *m)
{
	TimestampTz last = m->tombstone;
	ListCell *lc;

	foreach (lc, m->pending)
	{
		const PendingRow *row = lfirst(lc);

		if (strcmp(row->action, "delete") == 0)
			last = Max(last, row->stamp);
	}
	return last;
}

/* Does a field that only we write have what it would have anyway? */
static bool
is_our_own(const Accept *a, const Incoming *in, const EntryChange *change)
{
	const Field *field = &a->map->fields[change->field];

	return strncmp(field->path_text, "metadata.", 9) == 0 ||
		   strcmp(change->value, CANON_NULL) == 0 ||
		   strcmp(change->value, "[]") == 0 ||
		   (strcmp(field->name, MAPPING_STATUS) == 0 &&
			same_value(change->value, canon_from_text("active"))) ||
		   (strcmp(field->name, a->map->key_name) == 0 &&
			same_value(change->value, canon_from_text(in->key)));
}

/* The last value of each field, and why not. */
static char *
values_of_new(const Accept *a, const Incoming *in, char **given)
{
	char *error = NULL;
	ListCell *lc;

	foreach (lc, in->entry.parsed)
	{
		const EntryChange *change = lfirst(lc);

		if (!a->map->fields[change->field].push_only)
			given[change->field] = change->value;
		else if (!is_our_own(a, in, change))
			error = incoming_join(error, change->path,
								  "not writable from Firestore");
	}
	return error;
}

static void
insert_row(Accept *a, Incoming *in, Member *m, char **given)
{
	int *fields = palloc(sizeof(int) * (a->map->nfields + 1));
	char **values = palloc(sizeof(char *) * (a->map->nfields + 1));
	StringInfoData log;
	int n = 0;
	int f;

	initStringInfo(&log);
	for (f = 0; f < a->map->nfields; f++)
	{
		if (given[f] == NULL)
			continue;
		fields[n] = f;
		values[n++] = given[f];
		log_value(a, in, &log, f, CANON_NULL, given[f]);
	}
	if (!rows_insert(a->map, m, fields, values, n, CurrentMemoryContext))
		ereport(ERROR,
				(errcode(ERRCODE_UNIQUE_VIOLATION),
				 errmsg("a row with this kennitala has just been inserted")));
	for (f = 0; f < a->map->nfields; f++)
		if (m->local[f] != NULL)
			note_value(m, f, m->local[f], time_of(a, in));
	log_change(a, in, &log);
}

static void
create_member(Accept *a, Incoming *in, Member *m)
{
	char **given = palloc0(sizeof(char *) * (a->map->nfields + 1));
	char *error;

	if (strcmp(in->entry.action, "create") != 0 ||
		settings.on_remote_create != REMOTE_CREATE_INSERT ||
		deleted_at(m) >= time_of(a, in))
		error = "member not found";
	else
		error = values_of_new(a, in, given);
	if (error != NULL)
		accept_fail(a, in, error);
	else
		insert_row(a, in, m, given);
}

/* ---- any change ---- */

void
accept_change(Accept *a, Incoming *in, Member *m)
{
	if (m->nrows > 1)
		accept_fail(a, in, psprintf("kennitala is held by %d rows", m->nrows));
	else if (strcmp(in->entry.action, "delete") == 0)
		delete_member(a, in, m);
	else if (m->nrows == 1)
		update_member(a, in, m);
	else
		create_member(a, in, m);
}
