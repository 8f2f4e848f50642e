/*
 * resolve.c
 *		ekksync_resolve: a person decides a conflict.
 *
 * Nothing is written to Firestore here.  A field that is held is made one
 * that only one side has changed, as both sides' values were seen; the next
 * run decides it by that.  What a run had decided is overturned by an edit of
 * the row.  Locks are taken in the order of a run: row, conflict, base, queue.
 *
 * May not know: Firestore, how a field is decided.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "edit.h"
#include "queue.h"
#include "trail.h"

PG_FUNCTION_INFO_V1(ekksync_resolve);

typedef enum Take
{
	TAKE_DJANGO,
	TAKE_FIRESTORE,
	TAKE_VALUE
} Take;

typedef struct Resolve
{
	const Mapping *map;
	TrailConflict c;
	Take take;
	char *value; /* JSON, of TAKE_VALUE */
	Member member;
	int f;
	const Field *field;
} Resolve;

/* ---- arguments ---- */

static void
get_take(FunctionCallInfo fcinfo, Resolve *r)
{
	char *take =
		PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1));

	if ((take == NULL) == PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("give either \"take\" or \"value\""),
				 errhint("Use take => 'django', take => 'firestore', or "
						 "value => a JSON value; 'null' for none.")));
	if (take == NULL)
	{
		Jsonb *value = PG_GETARG_JSONB_P(2);

		r->take = TAKE_VALUE;
		r->value = JsonbToCString(NULL, &value->root, VARSIZE(value));
	}
	else if (strcmp(take, "django") == 0)
		r->take = TAKE_DJANGO;
	else if (strcmp(take, "firestore") == 0)
		r->take = TAKE_FIRESTORE;
	else
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("invalid value for \"take\": \"%s\"", take),
						errhint("Use django or firestore.")));
}

/* The conflict, which must be there and open. */
static void
read_conflict(Resolve *r, int64 id, bool lock)
{
	if (!trail_conflict(id, lock, &r->c))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("conflict " INT64_FORMAT " does not exist", id),
						errhint("See the view ekksync_conflicts.")));
	if (r->c.resolved_at != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("conflict " INT64_FORMAT " is resolved already", id),
				 errdetail("It was by %s at %s.", r->c.resolved_by,
						   timestamptz_to_str(r->c.resolved_at))));
}

/* ---- what stands in the way ---- */

/* Why the conflict can only be closed; NULL: it can be decided. */
static const char *
only_closable(const Resolve *r)
{
	if (strcmp(r->c.rule, "member not found") == 0 || r->member.nrows == 0)
		return "its member is not there";
	if (r->member.nrows > 1)
		return psprintf("its kennitala is held by %d rows", r->member.nrows);
	if (r->f < 0)
		return psprintf("field \"%s\" is not mapped", r->c.field);
	return NULL;
}

static void
require_working(const Resolve *r)
{
	if (r->field->problem != NULL)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("field \"%s\" is suspended: %s", r->field->name,
							   r->field->problem),
						errhint("See ekksync_check().")));
}

static void
require_writable(const Resolve *r)
{
	if (!edit_is_writable(r->field))
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("field \"%s\" is not written from Firestore",
							   r->field->name),
						errdetail("Django's own value is in force."),
						errhint("Change it in Django.")));
}

/* A value in canonical form; an error if the field cannot take it. */
static char *
require_value(const Resolve *r, const char *json)
{
	SyncError err = {0};
	char *canon = edit_value(r->field, json != NULL ? json : CANON_NULL, &err);

	if (canon == NULL)
		ereport(ERROR,
				(errcode(err.sqlstate != 0 ? err.sqlstate
										   : ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the value does not fit field \"%s\"", r->field->name),
				 err.message ? errdetail("%s.", err.message) : 0));
	return canon;
}

static bool
same_value(const char *a, const char *b)
{
	return a != NULL && b != NULL && strcmp(a, b) == 0;
}

/* ---- carrying it out ---- */

/*
 * Set the row's value, and see to it that the queue names the field.  Where
 * the row stays as it is no queue row is left: its time would be that of an
 * edit.  That the member is due brings the next run to it.
 */
static void
write_row(Resolve *r, char *value)
{
	require_writable(r);
	edit_write(r->map, &r->member, &r->f, &value, 1);
	if (r->field->compute != NULL)
		edit_announce(r->map, &r->member, r->f, value);
}

/*
 * What Firestore holds, as a base that Django's value differs from.  A value
 * that does not fit may look like Django's.
 */
static const char *
remote_base(const Resolve *r, const char *wanted)
{
	const char *choices[] = {r->c.firestore_value, CANON_NULL, "\"\""};
	int i = 0;

	while (choices[i] == NULL || same_value(choices[i], wanted))
		i++;
	return choices[i];
}

/*
 * Firestore's value is chosen over the one that the conflict shows.  What the
 * row holds by now, if it is neither of them, nobody has seen.
 */
static bool
is_seen(const Resolve *r, const char *wanted)
{
	const char *present = r->member.local[r->f];

	return same_value(present, r->c.django_value) ||
		   same_value(present, wanted);
}

static void
require_seen(const Resolve *r, const char *wanted)
{
	if (is_seen(r, wanted))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("conflict " INT64_FORMAT " is out of date", r->c.id),
			 errdetail("Field \"%s\" has been changed in Django since.",
					   r->field->name),
			 errhint(
				 "Look at the member's conflicts again after the next run, "
				 "or use take => 'django'.")));
}

/* The next run is to see a field that Firestore alone has changed. */
static const char *
take_firestore(Resolve *r)
{
	require_writable(r);
	trail_set_base(r->c.key, r->c.field, r->member.local[r->f],
				   r->c.django_time, ORIGIN_DJANGO);
	return "the next run takes Firestore's value";
}

/*
 * ... or Django alone.  Where Django was chosen, it is for what the row holds
 * now: an edit that came after the conflict stays.
 */
static const char *
take_django(Resolve *r, char *wanted)
{
	const char *present = r->member.local[r->f];
	bool edited = wanted != NULL && !same_value(wanted, present);

	if (edited)
		write_row(r, wanted);
	trail_set_base(r->c.key, r->c.field,
				   remote_base(r, edited ? wanted : present),
				   r->c.firestore_time, ORIGIN_FIRESTORE);
	if (edited)
		return "the row has the value now; the next run sends it";
	return "the next run sends Django's value";
}

static const char *
resolve_held(Resolve *r)
{
	const char *remote = r->c.firestore_value;
	char *wanted = NULL;

	if (r->take == TAKE_FIRESTORE)
		wanted = require_value(r, remote);
	else if (r->take == TAKE_VALUE)
		wanted = require_value(r, r->value);
	if (r->take == TAKE_FIRESTORE)
		require_seen(r, wanted);
	queue_release(r->map, r->c.key, r->c.field);
	if (r->take == TAKE_FIRESTORE ||
		(wanted != NULL && remote != NULL && is_seen(r, wanted) &&
		 same_value(wanted, edit_value(r->field, remote, NULL))))
		return take_firestore(r);
	return take_django(r, wanted);
}

static const char *
resolve_decided(Resolve *r)
{
	char *wanted =
		require_value(r, r->take == TAKE_DJANGO		 ? r->c.django_value
						 : r->take == TAKE_FIRESTORE ? r->c.firestore_value
													 : r->value);

	if (same_value(wanted, r->member.local[r->f]))
		return "nothing to change: the row has this value";
	write_row(r, wanted);
	return "the row has the value now; the next run sends it";
}

static const char *
resolve(Resolve *r)
{
	const char *why = only_closable(r);

	if (why != NULL && r->take == TAKE_DJANGO)
		return "closed";
	if (why != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("conflict " INT64_FORMAT " cannot be decided: %s",
						r->c.id, why),
				 errhint("It can be closed by take => 'django'.")));
	r->field = &r->map->fields[r->f];
	require_working(r);
	if (strcmp(r->c.winner, "none") == 0)
		return resolve_held(r);
	return resolve_decided(r);
}

/*
 * ekksync_resolve(conflict, take, value)
 */
Datum
ekksync_resolve(PG_FUNCTION_ARGS)
{
	Resolve r = {0};
	Member *m = &r.member;
	const char *what;

	PreventCommandIfReadOnly("ekksync_resolve()");
	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("conflict must not be null"),
						errhint("See the view ekksync_conflicts.")));
	get_take(fcinfo, &r);
	r.map = edit_mapping();
	edit_require_role(r.map, "ekksync_resolve");
	read_conflict(&r, PG_GETARG_INT64(0), false);
	r.f = mapping_find(r.map, r.c.field);
	m->key = r.c.key;
	edit_read(r.map, &m, 1, true);
	read_conflict(&r, r.c.id, true);
	trail_close(&r.c.id, 1, GetUserNameFromId(GetSessionUserId(), false));
	what = resolve(&r);
	PG_RETURN_TEXT_P(cstring_to_text(what));
}
