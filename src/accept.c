/*
 * accept.c
 *		ekksync_apply: changes that a caller brings from Firestore, as the
 *		endpoint "apply" gives them.
 *
 * Changes are worked on in the order of their keys, many in a subtransaction;
 * one that fails is found by halving, so that few subtransactions are left.
 * What a change has to know of earlier ones is read from the tables each time,
 * and so is right after a rollback.
 *
 * May not know: Firestore, what becomes of a change.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "accept.h"
#include "edit.h"
#include "queue.h"
#include "scope.h"
#include "settings.h"
#include "sqlvalue.h"
#include "srf.h"
#include "store.h"

PG_FUNCTION_INFO_V1(ekksync_apply);

#define APPLY_COLUMNS 5

/* So many parts, at most, are all changes worked on in, if none fails. */
#define ACCEPT_PARTS 30

/* At least so many changes make a part. */
#define ACCEPT_PART 100


/* ---- a part of the changes ---- */

static void
forget_outcome(Incoming *in)
{
	in->error = in->note = NULL;
	in->nupdated = 0;
}

/* The members of so many changes, one for each key. */
static Member **
members_of(const Accept *a, Incoming **changes, int nchanges, int *n)
{
	Member **members = palloc(sizeof(Member *) * (nchanges + 1));
	int i;

	for (i = *n = 0; i < nchanges; i++)
	{
		Member *m;

		if (i > 0 && strcmp(changes[i]->key, changes[i - 1]->key) == 0)
			continue;
		m = palloc0(sizeof(Member));
		m->key = changes[i]->key;
		m->base = palloc0(sizeof(BaseValue) * a->map->nfields);
		members[(*n)++] = m;
	}
	return members;
}

/*
 * Values that the documents have had; but where one still has it, as runs
 * know, it is the next run that sees whether somebody has gone back to it.
 */
static void
read_pushed(const Accept *a, Member **members, int n)
{
	ListCell *lc;
	int i;

	store_read_pushed(a->map, members, n, CurrentMemoryContext);
	for (i = 0; i < n; i++)
		foreach (lc, members[i]->pushed)
		{
			const PushedValue *pushed = lfirst(lc);
			const char *base = members[i]->base[pushed->field].value;

			if (base != NULL && strcmp(base, pushed->value) == 0)
				members[i]->pushed =
					foreach_delete_current (members[i]->pushed, lc);
		}
}

/* The members of the part, read and locked. */
static Member **
read_members(Accept *a, int *n)
{
	Member **members = members_of(a, a->changes, a->n, n);

	edit_read(a->map, members, *n, true);
	a->run.now = a->run.started_at = GetCurrentTimestamp();
	queue_read_pending(a->map, members, *n, CurrentMemoryContext);
	store_read_members(a->map, members, *n, false, CurrentMemoryContext);
	read_pushed(a, members, *n);
	store_read_applied(a->map, members, *n, CurrentMemoryContext);
	return members;
}

static void
accept_work(void *arg)
{
	Accept *a = arg;
	Member **members;
	int n;
	int k = 0;
	int i;

	a->conflicts = NIL;
	a->nlog = 0;
	a->keys = palloc(sizeof(char *) * (a->n + 1));
	a->logs = palloc(sizeof(char *) * (a->n + 1));
	a->stamps = palloc(sizeof(TimestampTz) * (a->n + 1));
	members = read_members(a, &n);
	for (i = 0; i < a->n; i++)
	{
		Incoming *in = a->changes[i];

		CHECK_FOR_INTERRUPTS();
		while (strcmp(members[k]->key, in->key) != 0)
			k++;
		forget_outcome(in);
		accept_change(a, in, members[k]);
	}
	store_applied(a->keys, a->logs, a->stamps, a->nlog);
	(void) store_conflicts(&a->run, a->conflicts);
}

/* Is the error one of the whole call, which may be made again? */
static bool
is_for_all(int sqlstate)
{
	return error_is_passing(sqlstate) || error_ends_run(sqlstate) ||
		   ERRCODE_TO_CATEGORY(sqlstate) == ERRCODE_TRANSACTION_ROLLBACK;
}

static void
accept_part(Accept *a, Incoming **changes, int n)
{
	MemoryContext old = MemoryContextSwitchTo(a->part_cxt);
	ErrorData *error;

	a->changes = changes;
	a->n = n;
	error = sql_guarded_error(accept_work, a);
	if (error != NULL && is_for_all(error->sqlerrcode))
		ReThrowError(error);
	if (error != NULL && n == 1)
	{
		forget_outcome(changes[0]);
		accept_fail(a, changes[0], error->message);
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(a->part_cxt);
	if (error == NULL || n == 1)
		return;
	accept_part(a, changes, n / 2);
	accept_part(a, changes + n / 2, n - n / 2);
}

static int
compare_changes(const void *a, const void *b)
{
	const Incoming *first = *(Incoming *const *) a;
	const Incoming *second = *(Incoming *const *) b;
	int order = strcmp(first->key, second->key);

	return order != 0 ? order : first->ordinal - second->ordinal;
}

/* ---- the guard ---- */

/* Changes that may take something away, and from how many members they do. */
typedef struct Losses
{
	Accept *a;
	Incoming **changes;
	int n;
	int64 deleted;
	int64 blanked;
} Losses;

static bool
is_delete(const Incoming *in)
{
	return strcmp(in->entry.action, "delete") == 0;
}

static bool
may_take_away(const Incoming *in)
{
	ListCell *lc;

	if (is_delete(in))
		return settings.on_remote_delete == REMOTE_DELETE_DELETE;
	foreach (lc, in->entry.parsed)
		if (guard_is_blank(((EntryChange *) lfirst(lc))->value))
			return true;
	return false;
}

/* Would a value that is there become none? */
static bool
is_blanking(const Accept *a, const Incoming *in, const Member *m)
{
	ListCell *lc;

	foreach (lc, in->entry.parsed)
	{
		const EntryChange *change = lfirst(lc);
		const char *local = m->local[change->field];

		if (!a->map->fields[change->field].push_only && local != NULL &&
			guard_is_blank(change->value) && !guard_is_blank(local))
			return true;
	}
	return false;
}

static void
losses_work(void *arg)
{
	Losses *l = arg;
	int n;
	Member **members = members_of(l->a, l->changes, l->n, &n);
	int i = 0;
	int k;

	edit_read(l->a->map, members, n, false);
	for (k = 0; k < n; k++)
	{
		const Member *m = members[k];
		bool deleted = false;
		bool blanked = false;

		for (; i < l->n && strcmp(l->changes[i]->key, m->key) == 0; i++)
		{
			if (m->nrows != 1)
				continue;
			deleted = deleted || is_delete(l->changes[i]);
			blanked = blanked || is_blanking(l->a, l->changes[i], m);
		}
		l->deleted += deleted;
		l->blanked += blanked && !deleted;
	}
}

/* Count a part; members that cannot be read might all lose something. */
static void
count_losses(Losses *l)
{
	MemoryContext old = MemoryContextSwitchTo(l->a->part_cxt);
	ErrorData *error = sql_guarded_error(losses_work, l);

	if (error != NULL && is_for_all(error->sqlerrcode))
		ReThrowError(error);
	if (error != NULL)
		l->blanked += l->n;
	MemoryContextSwitchTo(old);
	MemoryContextReset(l->a->part_cxt);
}

/* So many are damage, as the guard of a run (guard.c) has it. */
static bool
is_damage(int64 n, int64 members)
{
	return n >= 2 && n * 100 > members * settings.max_delete_percent;
}

/*
 * Would the call take something away from too many?  The changes are in the
 * order of their keys; rows are read only where they might be too many.
 */
static void
check_losses(Accept *a, Incoming **changes, int n)
{
	Incoming **some = palloc(sizeof(Incoming *) * (n + 1));
	Losses l = {.a = a};
	int64 members;
	int count = 0;
	int i;

	for (i = 0; i < n; i++)
		if (may_take_away(changes[i]))
			some[count++] = changes[i];
	if (count < 2)
		return;
	members = store_count_members();
	for (i = 0; i < count && is_damage(count, members); i += l.n)
	{
		CHECK_FOR_INTERRUPTS();
		l.changes = some + i;
		l.n = Min(EKKSYNC_MEMBER_PAGE, count - i);
		while (i + l.n < count &&
			   strcmp(some[i + l.n]->key, some[i + l.n - 1]->key) == 0)
			l.n++;
		count_losses(&l);
	}
	if (!is_damage(l.deleted + l.blanked, members))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 l.blanked == 0 ? errmsg("the call would delete " INT64_FORMAT
									 " of " INT64_FORMAT " members",
									 l.deleted, members)
			 : l.deleted == 0
				 ? errmsg("the call would blank values of " INT64_FORMAT
						  " of " INT64_FORMAT " members",
						  l.blanked, members)
				 : errmsg("the call would delete " INT64_FORMAT
						  " and blank values of " INT64_FORMAT
						  " of " INT64_FORMAT " members",
						  l.deleted, l.blanked, members),
			 errdetail("ekksync.max_delete_percent is %d.",
					   settings.max_delete_percent),
			 errhint("If that is right, give the changes in a few calls.")));
}

/* ---- all changes ---- */

static void
accept_all(Accept *a, Incoming *all, int n)
{
	Incoming **usable = palloc(sizeof(Incoming *) * (n + 1));
	int count = 0;
	int size;
	int i;

	for (i = 0; i < n; i++)
		if (all[i].error == NULL)
			usable[count++] = &all[i];
	qsort(usable, count, sizeof(Incoming *), compare_changes);
	check_losses(a, usable, count);
	size = Max(ACCEPT_PART, count / ACCEPT_PARTS + 1);
	for (i = 0; i < count; i += size)
		accept_part(a, usable + i, Min(size, count - i));
}

/* ---- the function ---- */

static void
put_result(Tuplestorestate *store, TupleDesc desc, const Incoming *in)
{
	const char *ssn = in->key != NULL ? in->key : in->given;
	const char *message = in->error != NULL ? in->error : in->note;
	bool isnull[APPLY_COLUMNS] = {false};
	Datum values[APPLY_COLUMNS];

	values[0] = Int32GetDatum(in->ordinal);
	values[1] = ssn != NULL ? CStringGetTextDatum(ssn) : (Datum) 0;
	isnull[1] = ssn == NULL;
	values[2] = CStringGetTextDatum(in->error != NULL ? "error" : "success");
	values[3] = sql_text_array(in->updated, in->nupdated);
	isnull[3] = in->error != NULL;
	values[4] = message != NULL ? CStringGetTextDatum(message) : (Datum) 0;
	isnull[4] = message == NULL;
	tuplestore_putvalues(store, desc, values, isnull);
}

/*
 * ekksync_apply(changes)
 */
Datum
ekksync_apply(PG_FUNCTION_ARGS)
{
	TupleDesc desc;
	Tuplestorestate *store = srf_begin(fcinfo, &desc);
	Accept a = {0};
	Incoming *all;
	int n;
	int i;

	PreventCommandIfReadOnly("ekksync_apply()");
	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("changes must not be null")));
	a.map = edit_mapping();
	edit_require_role(a.map, "ekksync_apply");
	a.cxt = CurrentMemoryContext;
	a.part_cxt =
		AllocSetContextCreate(a.cxt, "ekksync apply", ALLOCSET_DEFAULT_SIZES);
	a.run.map = unconstify(Mapping *, a.map);
	all = incoming_parse(a.map, PG_GETARG_JSONB_P(0), &n);
	edit_check_deferred();
	accept_all(&a, all, n);
	for (i = 0; i < n; i++)
		put_result(store, desc, &all[i]);
	MemoryContextDelete(a.part_cxt);
	return (Datum) 0;
}
