/*
 * decide.c
 *		What is to be done about a member: gathers what both sides hold, lets
 *		merge.c decide each field, and draws the consequences.
 *
 * Called once a member is read, and again under the row's lock if the row or
 * its queue moved meanwhile: it starts from scratch each time.
 *
 * May not know: SQL, HTTP.
 */
#include "postgres.h"

#include "nodes/bitmapset.h"

#include "flight.h"
#include "settings.h"

/* ---- the document ---- */

/* One field of the document: readable, and fit for its column? */
static void
read_remote(const Mapping *map, Member *m, int f)
{
	const Field *field = &map->fields[f];
	const cJSON *value = NULL;
	StringInfoData plain;
	bool isnull;
	Datum datum;

	if (field->problem != NULL)
		return;
	if (!m->doc->missing && m->doc->fields != NULL)
		value = path_find(m->doc->fields, &field->path);
	m->remote_missing[f] = value == NULL;
	m->remote[f] = value_decode(&field->codec, value, NULL);
	if (m->remote[f] != NULL && OidIsValid(field->relid) &&
		!field->push_only && !m->remote_missing[f] &&
		!value_to_datum(&field->codec, m->remote[f], field->typid,
						field->typmod, field->notnull, &datum, &isnull, NULL))
		m->remote[f] = NULL;
	if (m->remote[f] != NULL)
		return;
	initStringInfo(&plain);
	if (value_to_plain(value, &plain, NULL))
		m->remote_plain[f] = canon_from_json(plain.data, NULL);
}

/* Fill the remote side of a member from its document and entries. */
void
decide_remote(Run *run, Member *m)
{
	int n = run->map->nfields;
	int f;

	m->remote = palloc0(sizeof(char *) * n);
	m->remote_plain = palloc0(sizeof(char *) * n);
	m->remote_missing = palloc0(sizeof(bool) * n);
	for (f = 0; f < n; f++)
		read_remote(run->map, m, f);
	entries_parse(run->map, m);
}

static MergeFirst
first_policy(const Run *run, const Member *m)
{
	if (!m->first_contact)
		return FIRST_NONE;
	if (strcmp(run->map->initial, "firestore") == 0)
		return FIRST_FIRESTORE;
	if (strcmp(run->map->initial, "newest") == 0)
		return FIRST_NEWEST;
	return FIRST_DJANGO;
}

/* ---- a live member ---- */

MergePolicy
decide_policy(Policy policy)
{
	switch (policy)
	{
		case POLICY_LWW:
			break;
		case POLICY_DJANGO_WINS:
			return MERGE_DJANGO_WINS;
		case POLICY_FIRESTORE_WINS:
			return MERGE_FIRESTORE_WINS;
		case POLICY_MANUAL:
			return MERGE_MANUAL;
	}
	return MERGE_LWW;
}

bool
decide_clock_is_wrong(const Run *run)
{
	const FsClock *clock = fs_clock(run->fs);

	return clock->known && settings_clock_wrong(clock->skew, clock->error);
}

/*
 * Is the document's value one of a late creation of ours, or of a copy that
 * somebody put back?  Nothing tells, and no entry speaks for it.
 */
static bool
is_old_write(const Run *run, const Member *m, int f)
{
	const MergeInput *in = &m->inputs[f];
	TimestampTz stamp;

	return in->base != NULL && in->remote != NULL && !m->enqueued[f] &&
		   strcmp(in->remote, in->base) != 0 &&
		   strcmp(in->remote, in->local) != 0 && flight_is_straggler(run, m) &&
		   !entries_explain(m, f, in->remote, &stamp);
}

/* Django's value stands, whoever changed what, and the other one is kept. */
static void
beat_old_write(Member *m, int f)
{
	MergeInput *in = &m->inputs[f];

	in->base = in->remote;
	m->result[f] = merge_field(in);
	m->result[f].conflict = true;
	m->result[f].rule = RULE_ORDER_UNKNOWN;
}

static void
decide_field(const Run *run, Member *m, int f)
{
	const Field *field = &run->map->fields[f];
	MergeInput *in = &m->inputs[f];
	TimestampTz stamp;
	char *enqueued;

	if (field->problem != NULL)
	{
		/* the member is looked at again when it can be */
		m->unseen = m->unseen || m->doc->update_time != m->doc_update_time;
		return;
	}
	if (m->local[f] == NULL)
	{
		m->field_error[f] = m->local_error[f];
		return;
	}
	in->base = m->base[f].value;
	/* made again by others: what it lacks is filled, nobody cleared it */
	if (m->away != 0 && m->remote_missing[f])
		in->base = NULL;
	in->local = m->local[f];
	in->remote = m->remote[f];
	in->remote_missing = m->remote_missing[f];
	in->local_stamp = stamp_local(run, m, f);
	in->remote_stamp = stamp_remote(run, m, f);
	in->push_only = field->push_only;
	in->policy = decide_policy(field->policy);
	in->first = first_policy(run, m);
	in->window = (MergeTime) settings.conflict_window * USECS_PER_SEC;
	in->clock_wrong = decide_clock_is_wrong(run);
	enqueued =
		field->push_only || (m->refused != NULL && m->refused[f] != NULL)
			? NULL
			: entries_enqueued(m, f, &stamp);
	if (enqueued != NULL)
	{
		in->remote = enqueued;
		in->remote_missing = false;
		in->remote_stamp.from = in->remote_stamp.upto = stamp;
		m->enqueued[f] = true;
	}
	if (is_old_write(run, m, f))
		beat_old_write(m, f);
	else
	{
		/* what rows and entries tell is decided as in any run */
		in->choice = stamp_is_told(m, f) ? CHOICE_NONE : run->opt.take;
		m->result[f] = merge_field(in);
	}
	if (m->result[f].action == MERGE_PULL && m->refused != NULL &&
		m->refused[f] != NULL)
	{
		m->result[f].action = MERGE_HOLD;
		m->result[f].rule = RULE_INVALID;
		m->result[f].conflict = true;
		m->result[f].potential = false;
	}
}

/*
 * Does a field, or the member, wait for a right clock?  The document is then as unseen as
 * before; and a member that was never synced waits with all it has, as the
 * document's own time counts.
 */
static void
put_off(const Run *run, Member *m)
{
	int f;

	for (f = 0; f < run->map->nfields; f++)
		if (m->fate == FATE_WAIT || m->result[f].rule == RULE_CLOCK)
			m->put_off = m->unseen = true;
	for (f = 0; f < run->map->nfields && m->put_off && m->first_contact; f++)
		if (m->result[f].rule != RULE_CLOCK)
			memset(&m->result[f], 0, sizeof(MergeResult));
}

/* Does what says something of these fields (NULL: all) wait for a clock? */
static bool
waits(const Run *run, const Member *m, const Bitmapset *fields)
{
	int f;

	for (f = 0; f < run->map->nfields && m->put_off; f++)
		if (m->first_contact || (m->result[f].rule == RULE_CLOCK &&
								 (fields == NULL || bms_is_member(f, fields))))
			return true;
	return false;
}

/* A document to be created takes every field. */
static void
decide_create(const Run *run, Member *m)
{
	int f;

	m->create = true;
	for (f = 0; f < run->map->nfields; f++)
	{
		if (m->base[f].value != NULL && m->tombstone == 0 &&
			(m->away == 0 || m->pending == NIL))
			m->recreate = true;
		if (run->map->fields[f].problem != NULL)
		{
			m->unseen = true; /* it is to be filled when it can be */
			continue;
		}
		if (m->local[f] == NULL)
		{
			m->field_error[f] = m->local_error[f];
			continue;
		}
		m->inputs[f].local = m->local[f];
		m->inputs[f].local_stamp = stamp_local(run, m, f);
		m->result[f].action = MERGE_PUSH;
		m->result[f].winner = ORIGIN_DJANGO;
		m->result[f].stamp = m->inputs[f].local_stamp;
	}
}

/*
 * Does the member's document get the field's value?  Also where Firestore's
 * value won, both agree on it, or it is held, and it was only enqueued.
 */
bool
decide_writes(const Run *run, const Member *m, int f)
{
	if (!run->opt.push || m->result == NULL || m->field_error[f] != NULL)
		return false;
	switch (m->result[f].action)
	{
		case MERGE_PUSH:
			return true;
		case MERGE_PULL:
			return m->enqueued[f] && run->opt.pull;
		case MERGE_AGREE:
			return m->enqueued[f];
		case MERGE_HOLD:
			return m->enqueued[f] && m->result[f].rule == RULE_POLICY;
		case MERGE_NOTHING:
			break;
	}
	return false;
}

/* ---- a member whose row is gone ---- */

/* Does a pending row say that the member was deleted, or has another key? */
bool
decide_has_delete(const Member *m)
{
	ListCell *lc;

	foreach (lc, m->pending)
		if (strcmp(((PendingRow *) lfirst(lc))->action, "delete") == 0)
			return true;
	return false;
}

/* A remote edit of a member that is gone has lost. */
static void
decide_lost(const Run *run, Member *m, int f)
{
	MergeInput *in = &m->inputs[f];

	if (m->base[f].value == NULL || m->remote[f] == NULL ||
		m->remote_missing[f] || strcmp(m->remote[f], m->base[f].value) == 0)
		return;
	in->base = m->base[f].value;
	in->remote = m->remote[f];
	in->remote_stamp = stamp_remote(run, m, f);
	in->local_stamp.from = in->local_stamp.upto =
		m->tombstone != 0 ? m->tombstone : run->started_at;
	m->result[f].conflict = true;
}

/*
 * Was it deleted in Firestore, by its status?  Then the document stays, though
 * one that was deleted in Django would go.
 */
static bool
stays_inactive(const Run *run, const Member *m)
{
	const BaseValue *base = &m->base[run->map->nfields - 1];

	return m->tombstone != 0 && !decide_has_delete(m) && base->value != NULL &&
		   base->origin == ORIGIN_FIRESTORE &&
		   strcmp(base->value, canon_from_text("inactive")) == 0;
}

/*
 * The document becomes inactive, or goes.  Only the status is merged; what
 * else differs from the base is a remote edit that lost.
 */
static void
decide_gone(const Run *run, Member *m)
{
	int f = run->map->nfields - 1;
	MergeInput *in = &m->inputs[f];
	bool ours = m->known || decide_has_delete(m);
	bool stays = stays_inactive(run, m);
	int i;

	if (!ours || m->doc->missing)
		return;
	for (i = 0; i < f; i++)
		decide_lost(run, m, i);
	in->base = m->base[f].value;
	in->local = canon_from_text("inactive");
	in->remote = m->remote[f];
	in->local_stamp.from = in->local_stamp.upto = run->started_at;
	in->remote_stamp = stamp_remote(run, m, f);
	in->push_only = true;
	m->local[f] = unconstify(char *, in->local);
	m->result[f].stamp = in->local_stamp;
	m->result[f].winner = stays ? ORIGIN_FIRESTORE : ORIGIN_DJANGO;
	m->result[f].action = MERGE_AGREE;
	if ((settings.on_local_delete == LOCAL_DELETE_DELETE && !stays) ||
		in->remote == NULL || strcmp(in->remote, in->local) != 0)
		m->result[f].action = MERGE_PUSH;
}

/* ---- all of it ---- */

static void
reset_decision(const Run *run, Member *m)
{
	int n = run->map->nfields;

	m->inputs = palloc0(sizeof(MergeInput) * n);
	m->result = palloc0(sizeof(MergeResult) * n);
	m->enqueued = palloc0(sizeof(bool) * n);
	m->field_error = palloc0(sizeof(char *) * n);
	m->encoded = palloc0(sizeof(char *) * n);
	m->gone = m->nrows == 0;
	m->fate = FATE_NONE;
	m->stranger = NULL;
	m->create = m->recreate = false;
	m->has_pull = m->has_push = m->withheld = m->unseen = false;
	m->put_off = false;
	m->problem = NULL;
}

static bool
well_formed(const char *key)
{
	return strlen(key) == 10 && strspn(key, "0123456789") == 10;
}

/*
 * Rows of a key that never could be one, whose last is a delete: the member
 * is gone, or has another key, and there is no document to be dealt with.
 */
static bool
was_malformed(const Member *m)
{
	return !well_formed(m->key) && m->key[0] != '\0' && m->nrows == 0 &&
		   m->pending != NIL &&
		   strcmp(((PendingRow *) llast(m->pending))->action, "delete") == 0;
}

/* Make the Values to be pushed; one that Firestore cannot hold is an error. */
static void
encode_fields(const Run *run, Member *m)
{
	int f;

	for (f = 0; f < run->map->nfields; f++)
	{
		StringInfoData buf;
		SyncError err = {0};
		const char *value;

		if (!decide_writes(run, m, f))
			continue;
		value = m->enqueued[f] ? m->inputs[f].remote : m->inputs[f].local;
		if (m->result[f].action == MERGE_PUSH)
			value = m->inputs[f].local;
		initStringInfo(&buf);
		if (value_encode(&run->map->fields[f].codec, value, &buf, &err))
			m->encoded[f] = buf.data;
		else
			m->field_error[f] = err.message;
	}
}

/* The rows that cannot be synced, with the reason of the first field. */
void
decide_rows(const Run *run, Member *m)
{
	ListCell *lc;
	int f;

	foreach (lc, m->pending)
	{
		PendingRow *row = lfirst(lc);

		if (m->problem != NULL)
			row->error = m->problem;
		row->put_off = row->error == NULL && m->fate == FATE_WAIT;
		if (row->error != NULL || row->put_off || m->gone)
			continue;
		row->put_off = waits(run, m, row->fields);
		for (f = 0; f < run->map->nfields && row->error == NULL; f++)
		{
			const char *why = m->field_error[f];

			if (why == NULL && m->result[f].action == MERGE_HOLD &&
				m->result[f].rule != RULE_CLOCK)
				why = m->result[f].rule == RULE_POLICY
						  ? "held until a person decides"
						  : "held: the document's value does not fit";
			if (why != NULL &&
				(row->fields == NULL || bms_is_member(f, row->fields)))
				row->error = psprintf("%s: %s", run->map->fields[f].name, why);
		}
	}
}

static void
decide_without_row(Run *run, Member *m)
{
	m->fate = remote_fate_of_gone(run, m);
	switch (m->fate)
	{
		case FATE_INSERT:
			remote_insert(run, m);
			break;
		case FATE_WAIT:
			put_off(run, m);
			break;
		case FATE_STRANGER:
			break;
		case FATE_NONE:
		case FATE_AWAY:
		case FATE_INACTIVE:
		case FATE_ERASE:
			decide_gone(run, m);
			break;
	}
}

static void
decide_with_row(Run *run, Member *m)
{
	int f;

	m->fate = remote_fate(run, m);
	if (m->fate == FATE_ERASE)
	{
		remote_erase(run, m);
		return;
	}
	if (m->fate == FATE_WAIT)
	{
		put_off(run, m);
		return;
	}
	if (m->doc->missing)
	{
		if (m->fate != FATE_AWAY)
			decide_create(run, m);
		return;
	}
	for (f = 0; f < run->map->nfields; f++)
		decide_field(run, m, f);
	if (m->fate == FATE_INACTIVE)
		remote_accept_status(run, m);
	put_off(run, m);
}

static void
decide_all(Run *run, Member *m)
{
	int f;

	reset_decision(run, m);
	if (!well_formed(m->key) && !was_malformed(m))
		m->problem = "kennitala is malformed";
	else if (m->unreadable != NULL)
		m->problem = m->unreadable;
	else if (m->nrows > 1)
		m->problem = psprintf("kennitala is held by %d rows", m->nrows);
	if (m->problem != NULL)
	{
		entries_fail(m, m->problem);
		decide_rows(run, m);
		return;
	}

	flight_settle(run, m);
	if (m->gone)
		decide_without_row(run, m);
	else
		decide_with_row(run, m);
	encode_fields(run, m);

	for (f = 0; f < run->map->nfields; f++)
	{
		MergeDecision action = m->result[f].action;

		if (action == MERGE_PULL && !run->opt.pull)
		{
			m->withheld = true;
			m->unseen = m->unseen || !m->enqueued[f];
		}
		else if (action == MERGE_PULL)
			m->has_pull = true;
		if (decide_writes(run, m, f))
			m->has_push = true;
		else if ((action == MERGE_PUSH ||
				  (m->enqueued[f] && action != MERGE_HOLD)) &&
				 m->field_error[f] == NULL)
			m->withheld = true;
	}
	if (m->fate == FATE_ERASE || m->fate == FATE_INSERT ||
		m->fate == FATE_STRANGER)
	{
		m->has_pull = run->opt.pull && m->fate != FATE_STRANGER;
		m->has_push = false;
		m->withheld = m->unseen = !run->opt.pull;
	}
	if (!m->gone || m->fate == FATE_INSERT)
		entries_conclude(run->map, m);
	decide_rows(run, m);
}

/*
 * Decide about a member that is read on both sides.  palloc's in the current
 * memory context, which must live as long as the member.
 */
void
decide_member(Run *run, Member *m)
{
	decide_all(run, m);
	if (!run->opt.pull)
		entries_leave_open(m);
}

/* ---- conflicts ---- */

static ConflictRow *
new_conflict(const Run *run, const Member *m, int f)
{
	ConflictRow *row = palloc0(sizeof(ConflictRow));

	row->key = m->key;
	row->field = run->map->fields[f].name;
	row->django_stamp = m->inputs[f].local_stamp;
	row->firestore_stamp = m->inputs[f].remote_stamp;
	return row;
}

/* Remote edits of a member that is gone: they have lost. */
static List *
conflicts_of_gone(const Run *run, const Member *m)
{
	List *list = NIL;
	int f;

	for (f = 0; f < run->map->nfields - 1; f++)
	{
		ConflictRow *row;

		if (!m->result[f].conflict)
			continue;
		row = new_conflict(run, m, f);
		row->firestore_value = m->inputs[f].remote;
		row->winner = "django";
		row->rule = "member not found";
		list = lappend(list, row);
	}
	return list;
}

/* The losers of a member's merge, as ConflictRows. */
List *
decide_conflicts(const Run *run, const Member *m)
{
	List *list = NIL;
	int f;

	if (m->problem != NULL)
		return NIL;
	if (m->gone && m->fate != FATE_ERASE)
		return conflicts_of_gone(run, m);
	for (f = 0; f < run->map->nfields; f++)
	{
		const MergeResult *res = &m->result[f];
		ConflictRow *row;

		if (!res->conflict || (res->action == MERGE_PULL && !run->opt.pull) ||
			(res->action == MERGE_PUSH && !decide_writes(run, m, f)) ||
			(res->rule == RULE_INVALID && entries_failed_on(m, f)))
			continue;
		row = new_conflict(run, m, f);
		row->django_value = m->local[f];
		row->firestore_value = m->inputs[f].remote != NULL
								   ? m->inputs[f].remote
								   : m->remote_plain[f];
		row->winner = m->fate == FATE_ERASE		  ? "firestore"
					  : res->action == MERGE_PULL ? "firestore"
					  : res->action == MERGE_PUSH ? "django"
												  : "none";
		row->rule = merge_rule_name(res->rule);
		row->potential = res->potential;
		list = lappend(list, row);
	}
	return list;
}
