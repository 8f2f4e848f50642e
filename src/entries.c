/*
 * entries.c
 *		What the queue entries of a member mean.
 *
 * An entry is {"profile.email": Value, ...}: field paths and their new values,
 * or the same nested as maps.  Its values are not copied anywhere: the
 * document is the truth about itself.  An entry tells when a value of the
 * document was written, or, if the document does not hold its value, it is
 * superseded, an echo of our own writes, or from a client that only enqueues.
 *
 * May not know: SQL, HTTP.
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "flight.h"

/* Paths that only we write, apart from the mapping's own. */
static bool
is_ignored(const FieldPath *path)
{
	return strcmp(path->segments[0], "metadata") == 0 ||
		   (path->nsegments == 1 &&
			strcmp(path->segments[0], "updated_at") == 0);
}

/* Field of exactly this path, -1 if none. */
static int
field_of_path(const Mapping *map, const FieldPath *path)
{
	int f;

	for (f = 0; f < map->nfields; f++)
		if (map->fields[f].path.quoted != NULL &&
			strcmp(map->fields[f].path.quoted, path->quoted) == 0)
			return f;
	return -1;
}

/* Is this a map above mapped paths (profile), or above ignored ones? */
static bool
is_above(const Mapping *map, const FieldPath *path)
{
	int f;
	int i;

	for (f = 0; f < map->nfields; f++)
	{
		const FieldPath *p = &map->fields[f].path;

		if (p->nsegments <= path->nsegments)
			continue;
		for (i = 0; i < path->nsegments; i++)
			if (strcmp(p->segments[i], path->segments[i]) != 0)
				break;
		if (i == path->nsegments)
			return true;
	}
	return false;
}

static EntryChange *
add_change(Entry *entry, const char *path)
{
	EntryChange *change = palloc0(sizeof(EntryChange));

	change->field = -1;
	change->path = path;
	entry->parsed = lappend(entry->parsed, change);
	return change;
}

/* The value of a mapped path: readable, and fit for its column? */
static void
parse_value(const Mapping *map, EntryChange *change, int f, const cJSON *value)
{
	const Field *field = &map->fields[f];
	SyncError err = {0};
	bool isnull;
	Datum datum;

	change->field = f;
	if (field->problem != NULL)
	{
		change->error = psprintf("the field is suspended: %s", field->problem);
		return;
	}
	change->value = value_decode(&field->codec, value, &err);
	if (change->value != NULL && OidIsValid(field->relid) &&
		!value_to_datum(&field->codec, change->value, field->typid,
						field->typmod, field->notnull, &datum, &isnull, &err))
		change->value = NULL;
	if (change->value == NULL)
		change->error = err.message;
}

static void
parse_change(const Mapping *map, Entry *entry, const char *text,
			 const cJSON *value)
{
	FieldPath path;
	SyncError err = {0};
	const cJSON *unusable;
	const cJSON *inner;
	const cJSON *child;
	int f;

	if (!path_parse(text, &path, &err))
	{
		add_change(entry, text)->error = err.message;
		return;
	}
	f = field_of_path(map, &path);
	if (f < 0 && is_ignored(&path))
		return;
	unusable = cJSON_GetObjectItemCaseSensitive(value, STAGED_UNUSABLE);
	if (unusable != NULL)
	{
		EntryChange *change = add_change(entry, text);

		change->field = f;
		change->error = pstrdup(cJSON_GetStringValue(unusable));
		return;
	}
	if (f >= 0)
	{
		parse_value(map, add_change(entry, text), f, value);
		return;
	}
	inner = cJSON_GetObjectItemCaseSensitive(value, "mapValue");
	if (inner == NULL || !is_above(map, &path))
	{
		add_change(entry, text)->error = "unknown path";
		return;
	}
	cJSON_ArrayForEach (child,
						cJSON_GetObjectItemCaseSensitive(inner, "fields"))
	{
		StringInfoData buf;

		initStringInfo(&buf);
		appendStringInfo(&buf, "%s.", path.quoted);
		path_append_quoted(&buf, child->string);
		parse_change(map, entry, buf.data, child);
	}
}

/* Does the entry's action change values? */
bool
entries_is_change(const Entry *entry)
{
	return strcmp(entry->action, "update") == 0 ||
		   strcmp(entry->action, "create") == 0;
}

/*
 * Parse the entries of a member; palloc'd in the current memory context.
 * What an entry with another action says of values does not count.
 */
void
entries_parse(const Mapping *map, Member *m)
{
	ListCell *lc;

	foreach (lc, m->entries)
	{
		Entry *entry = lfirst(lc);
		const cJSON *child;

		if (!entries_is_change(entry))
			continue;
		cJSON_ArrayForEach (child, entry->changes)
			parse_change(map, entry, child->string, child);
	}
}

/*
 * The latest readable change of a field, or, with a value, to that value; with
 * its stamp.  NULL if none.
 */
static const EntryChange *
latest_change(const Member *m, int field, const char *value,
			  TimestampTz *stamp)
{
	const EntryChange *latest = NULL;
	ListCell *lc;
	ListCell *lc2;

	foreach (lc, m->entries)
	{
		const Entry *entry = lfirst(lc);

		foreach (lc2, entry->parsed)
		{
			const EntryChange *change = lfirst(lc2);

			if (change->field != field || change->value == NULL ||
				(value != NULL && strcmp(change->value, value) != 0) ||
				(latest != NULL &&
				 !merge_after(latest->value, *stamp, ORIGIN_FIRESTORE,
							  change->value, entry->stamp, ORIGIN_FIRESTORE)))
				continue;
			latest = change;
			*stamp = entry->stamp;
		}
	}
	return latest;
}

/* When does an entry say that the field took this value?  False: none does. */
bool
entries_explain(const Member *m, int field, const char *value,
				TimestampTz *stamp)
{
	return latest_change(m, field, value, stamp) != NULL;
}

bool
entries_pushed(const Member *m, int field, const char *value)
{
	ListCell *lc;

	foreach (lc, m->pushed)
	{
		const PushedValue *pushed = lfirst(lc);

		if (pushed->field == field && strcmp(pushed->value, value) == 0)
			return true;
	}
	return false;
}

/* Is this value one that the document had already, as runs know? */
static bool
is_echo(const Member *m, const EntryChange *change)
{
	const char *base = m->base[change->field].value;

	if (base != NULL && strcmp(base, change->value) == 0)
		return true;
	return entries_pushed(m, change->field, change->value);
}

char *
entries_last(const Member *m, int field, TimestampTz *stamp)
{
	const EntryChange *latest = latest_change(m, field, NULL, stamp);

	return latest == NULL ? NULL : latest->value;
}

/*
 * A value that a client only enqueued: the last that entries say, while the
 * document still equals the base and is older; or, where nobody but us has
 * written the document since we know it, the base is older.  At first contact
 * it is beside what both sides have alike.  With its stamp; NULL if there is
 * none.
 */
char *
entries_enqueued(const Member *m, int field, TimestampTz *stamp)
{
	const char *base = m->base[field].value;
	const EntryChange *latest;
	TimestampTz since;
	TimestampTz sent;

	if (base == NULL)
		base = m->local[field];
	if (base == NULL || m->doc == NULL || m->doc->missing ||
		m->remote[field] == NULL || strcmp(m->remote[field], base) != 0)
		return NULL;
	since = m->doc->update_time == m->doc_update_time ||
					flight_noted(m, field, base, &sent)
				? m->base[field].stamp
				: m->doc->update_time;
	latest = latest_change(m, field, NULL, stamp);
	if (latest == NULL || *stamp <= since || is_echo(m, latest) ||
		strcmp(latest->value, base) == 0)
		return NULL;
	return latest->value;
}

/* Does an entry fail because of this field's value? */
bool
entries_failed_on(const Member *m, int field)
{
	ListCell *lc;
	ListCell *lc2;

	foreach (lc, m->entries)
	{
		const Entry *entry = lfirst(lc);

		foreach (lc2, entry->parsed)
		{
			const EntryChange *change = lfirst(lc2);

			if (change->field == field && change->error != NULL)
				return true;
		}
	}
	return false;
}

/* What became of a change of a path that we only write; NULL if it fails. */
static const char *
conclude_one_way(const Mapping *map, const Member *m,
				 const EntryChange *change)
{
	bool is_status = change->field == map->nfields - 1;

	if (is_status && m->remote[change->field] != NULL &&
		strcmp(change->value, m->remote[change->field]) == 0)
	{
		if (m->fate == FATE_ERASE)
			return "applied";
		if (m->fate == FATE_INACTIVE)
			return "ignored";
	}
	if ((m->local[change->field] != NULL &&
		 strcmp(change->value, m->local[change->field]) == 0) ||
		is_echo(m, change))
		return "echo";
	/* what only we write of a member that is new here */
	if (m->fate == FATE_INSERT &&
		strncmp(map->fields[change->field].path_text, "metadata.", 9) == 0)
		return "echo";
	return NULL;
}

/* Is it what would count as R, had PostgreSQL not refused it? */
static bool
is_refused(const Member *m, const EntryChange *change)
{
	TimestampTz stamp;
	const char *enqueued;

	if (m->refused == NULL || m->refused[change->field] == NULL)
		return false;
	enqueued = entries_enqueued(m, change->field, &stamp);
	return enqueued != NULL && strcmp(enqueued, change->value) == 0;
}

/* What became of one change of an entry; *error if it fails. */
static const char *
conclude_change(const Mapping *map, const Member *m, const Entry *entry,
				const EntryChange *change, const char **error)
{
	int f = change->field;
	const char *remote;

	*error = change->error;
	if (change->error != NULL)
		return NULL;
	remote = m->inputs[f].remote;
	if (map->fields[f].push_only)
	{
		const char *what = conclude_one_way(map, m, change);

		if (what == NULL)
			*error = "not writable from Firestore";
		return what;
	}
	if (remote != NULL && strcmp(change->value, remote) == 0 &&
		m->result[f].action == MERGE_HOLD && m->refused != NULL &&
		m->refused[f] != NULL)
	{
		*error = m->refused[f];
		return NULL;
	}
	if (is_refused(m, change))
	{
		*error = m->refused[f];
		return NULL;
	}
	if (remote != NULL && strcmp(change->value, remote) == 0)
		return m->result[f].action == MERGE_PULL   ? "applied"
			   : m->result[f].action == MERGE_PUSH ? "lost to a later change"
			   : m->result[f].action == MERGE_HOLD ? "held"
												   : "already in step";
	return is_echo(m, change) ? "echo" : "superseded";
}

/*
 * Does an entry say something of a field that waits for a right clock, or that
 * is held while the document has yet to get the value?
 */
static bool
is_put_off(const Member *m, const Entry *entry)
{
	ListCell *lc;

	if (m->fate == FATE_WAIT)
		return true;
	foreach (lc, entry->parsed)
	{
		const EntryChange *change = lfirst(lc);

		if (change->field >= 0 && m->enqueued[change->field] &&
			m->result[change->field].action == MERGE_HOLD)
			return true;
		if (m->put_off && (m->first_contact ||
						   (change->field >= 0 &&
							m->result[change->field].rule == RULE_CLOCK)))
			return true;
	}
	return false;
}

static void
conclude_entry(const Mapping *map, const Member *m, Entry *entry)
{
	StringInfoData errors;
	const char *note = NULL;
	ListCell *lc;

	entry->outcome = ENTRY_OPEN;
	entry->message = NULL;
	if (is_put_off(m, entry))
		return;
	initStringInfo(&errors);
	foreach (lc, entry->parsed)
	{
		const EntryChange *change = lfirst(lc);
		const char *error;
		const char *what;

		what = conclude_change(map, m, entry, change, &error);
		if (error != NULL)
			appendStringInfo(&errors, "%s%s: %s", errors.len > 0 ? "; " : "",
							 change->path, error);
		else if (note == NULL || strcmp(what, "applied") == 0)
			note = what;
	}
	if (errors.len > 0)
	{
		entry->outcome = ENTRY_FAILED;
		entry->message = clip_message(errors.data);
	}
	else
	{
		entry->outcome = ENTRY_SYNCED;
		entry->message = note == NULL ? NULL : pstrdup(note);
	}
}

/*
 * Set the outcome of the entries of a member that was decided on, but for
 * those with action delete, which remote.c concludes.
 */
void
entries_conclude(const Mapping *map, Member *m)
{
	ListCell *lc;

	foreach (lc, m->entries)
	{
		Entry *entry = lfirst(lc);

		if (entries_is_change(entry))
			conclude_entry(map, m, entry);
		else if (strcmp(entry->action, "delete") != 0)
		{
			entry->outcome = ENTRY_FAILED;
			entry->message =
				clip_message(psprintf("unknown action \"%s\"", entry->action));
		}
	}
}

/* A run that does not write to Django decides about no entry. */
void
entries_leave_open(Member *m)
{
	ListCell *lc;

	foreach (lc, m->entries)
		((Entry *) lfirst(lc))->outcome = ENTRY_OPEN;
}

/* Fail all entries of a member. */
void
entries_fail(Member *m, const char *message)
{
	ListCell *lc;

	foreach (lc, m->entries)
	{
		Entry *entry = lfirst(lc);

		entry->outcome = ENTRY_FAILED;
		entry->message = clip_message(message);
	}
}
