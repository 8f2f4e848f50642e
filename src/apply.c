/*
 * apply.c
 *		Writes decisions to PostgreSQL: values that won to the member's rows,
 *		and with them, in the same transaction, the base, the audit trail, the
 *		outcome of entries, and notes of what is about to be sent.
 *
 * Members that get values are locked, read again and decided again if they
 * moved since they were read.  They go in transactions so small that a writer
 * who wants one of these rows hardly notices; no row is waited for.  If such a
 * transaction fails, its members go one by one, so that one bad member stops
 * nobody.  Queue rows, which a DELETE of the member wants, come last.
 *
 * May not know: HTTP.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "capture.h"
#include "flight.h"
#include "held.h"
#include "queue.h"
#include "rows.h"
#include "scope.h"
#include "steps.h"
#include "store.h"

/* How long rows should be locked, in microseconds, and for how many members. */
#define APPLY_TIME 15000
#define APPLY_FIRST 1
#define APPLY_MAX 100

/* ---- recheck ---- */

static bool
same_text(const char *a, const char *b)
{
	if (a == NULL || b == NULL)
		return a == b;
	return strcmp(a, b) == 0;
}

static bool
same_pending(List *a, List *b)
{
	ListCell *la;
	ListCell *lb;

	if (list_length(a) != list_length(b))
		return false;
	forboth (la, a, lb, b)
		if (((PendingRow *) lfirst(la))->id != ((PendingRow *) lfirst(lb))->id)
			return false;
	return true;
}

/*
 * Lock the members' rows and read them again.  The queue is read before and
 * after: where it has moved, a value may be without its row, and the member is
 * left to be read again, as is one whose rows cannot be locked at once.
 */
static void
read_again(Run *run, Member **members, int n)
{
	List **pending = palloc(sizeof(List *) * (n + 1));
	int i;

	for (i = 0; i < n; i++)
		members[i]->pending = NIL;
	queue_read_pending(run->map, members, n, run->page_cxt);
	for (i = 0; i < n; i++)
	{
		pending[i] = members[i]->pending;
		members[i]->pending = NIL;
	}
	rows_lock(run->map, members, n, false, run->page_cxt);
	at_step(in_values);
	queue_read_pending(run->map, members, n, run->page_cxt);
	for (i = 0; i < n; i++)
		if (!same_pending(pending[i], members[i]->pending))
			members[i]->again = true;
}

/* Read members again under their locks; decide those again that have moved. */
static void
recheck(Run *run, Member **members, int n)
{
	Member *before = palloc(sizeof(Member) * (n + 1));
	MemoryContext old;
	int i;
	int f;

	for (i = 0; i < n; i++)
		before[i] = *members[i];
	read_again(run, members, n);
	run_tell_time(run);
	old = MemoryContextSwitchTo(run->page_cxt);
	for (i = 0; i < n; i++)
	{
		Member *m = members[i];
		bool moved = !same_pending(m->pending, before[i].pending);

		if (m->again)
			continue;
		for (f = 0; f < run->map->nfields && !moved; f++)
			moved = !same_text(m->local[f], before[i].local[f]);
		if (moved)
		{
			decide_member(run, m);
			/* the guard has not counted that */
			m->again = guard_loses(run, m) && !guard_loses(run, &before[i]);
		}
		else
			m->pending = before[i].pending; /* with their outcome */
	}
	MemoryContextSwitchTo(old);
}

/* ---- one member ---- */

/*
 * Fields that take Firestore's value go to the member's rows: one, or -1, all.
 * False when the application's triggers did not let them stay.
 */
static bool
write_rows(Run *run, Member *m, int only)
{
	int *fields = palloc(sizeof(int) * run->map->nfields);
	char **values = palloc(sizeof(char *) * run->map->nfields);
	bool taken;
	int n = 0;
	int f;

	for (f = 0; f < run->map->nfields; f++)
	{
		if (m->result[f].action != MERGE_PULL || (only >= 0 && f != only))
			continue;
		fields[n] = f;
		values[n++] = unconstify(char *, m->inputs[f].remote);
		capture_expect(m->key, run->map->fields[f].name, m->inputs[f].remote);
	}
	taken = rows_write(run->map, m, fields, values, n);
	capture_expect_end();
	return taken;
}

static void
set_base(Member *m, int f, const char *value, MergeStamp stamp,
		 MergeOrigin origin)
{
	BaseValue *base = &m->base[f];

	base->value = unconstify(char *, value);
	base->stamp = base->value != NULL && stamp.upto < base->stamp ? base->stamp
																  : stamp.upto;
	base->origin = origin;
	base->dirty = true;
}

/*
 * What both sides now agree on.  A remote value that lost becomes the base as
 * well: it has been seen, so that a push which has to be tried again is not a
 * second conflict.
 */
static void
update_base(Run *run, Member *m)
{
	int f;

	for (f = 0; f < run->map->nfields; f++)
	{
		const MergeInput *in = &m->inputs[f];
		const MergeResult *res = &m->result[f];

		if (m->create && m->has_push && m->base[f].value != NULL &&
			!decide_writes(run, m, f))
		{
			/* the new document has no value there: nobody has cleared one */
			m->base[f].value = CANON_NULL;
			m->base[f].dirty = true;
		}
		else if (res->action == MERGE_AGREE ||
				 (res->action == MERGE_PULL && run->opt.pull))
		{
			if (!m->enqueued[f])
				set_base(m, f, in->remote, res->stamp, res->winner);
		}
		else if (res->conflict && in->remote != NULL && !m->enqueued[f] &&
				 (m->gone ||
				  (res->action == MERGE_PUSH && decide_writes(run, m, f))))
			set_base(m, f, in->remote, in->remote_stamp, ORIGIN_FIRESTORE);
	}
}

/*
 * {"field": [old, new], ...} of what is written to one side; NULL if nothing.
 * A third element says that there was nothing before: it was filled in (but
 * not of a document that was made as a whole).
 */
char *
change_json(const Run *run, const Member *m, bool firestore)
{
	StringInfoData buf;
	int f;

	if (m->fate == FATE_ERASE)
		return firestore ? NULL : fate_change_json(run, m);
	initStringInfo(&buf);
	for (f = 0; f < run->map->nfields; f++)
	{
		const MergeInput *in = &m->inputs[f];
		bool pull = m->result[f].action == MERGE_PULL;
		const char *was;
		const char *now;

		if (firestore ? !decide_writes(run, m, f) : !(pull && run->opt.pull))
			continue;
		was = !firestore		   ? in->local
			  : m->enqueued[f]	   ? m->base[f].value
			  : in->remote != NULL ? in->remote
								   : m->remote_plain[f];
		now = firestore && m->result[f].action == MERGE_PUSH ? in->local
															 : in->remote;
		appendStringInfoChar(&buf, buf.len == 0 ? '{' : ',');
		escape_json(&buf, run->map->fields[f].name);
		was = was ? was : CANON_NULL;
		appendStringInfo(&buf, ":[%s,%s%s]", was, now,
						 in->base == NULL && strcmp(was, CANON_NULL) == 0 &&
								 !(firestore && m->doc->missing)
							 ? "," FLIGHT_FILLED
							 : "");
	}
	if (buf.len == 0)
		return NULL;
	appendStringInfoChar(&buf, '}');
	return buf.data;
}

/* ---- members in one transaction ---- */

static void
count_entries(Run *run, Member *m)
{
	ListCell *lc;

	foreach (lc, m->entries)
		if (((Entry *) lfirst(lc))->outcome == ENTRY_FAILED)
			run->figures.to_django_failed++;
}

/* Everything of one member but its rows; palloc's in the batch's context. */
static void
record_member(Run *run, Member *m)
{
	if (m->problem != NULL)
		return;
	update_base(run, m);
	if (m->has_push)
		flight_note(run, m);
	if (m->withheld)
		return;
	if (!m->unseen)
		m->doc_update_time = m->doc->missing ? 0 : m->doc->update_time;
	if (!m->has_push)
	{
		m->first_contact = m->first_contact && m->put_off;
		if (m->fate == FATE_WAIT)
			return;
		if (!m->gone)
			m->tombstone = 0;
		else if (m->tombstone == 0 || m->pending != NIL)
			m->tombstone = run->started_at;
		m->away = m->fate != FATE_AWAY ? 0
				  : m->away != 0	   ? m->away
									   : run->started_at;
	}
}

/* Does a field of the member wait for a person? */
static bool
is_held(const Run *run, const Member *m)
{
	int f;

	for (f = 0; f < run->map->nfields; f++)
		if (m->result[f].action == MERGE_HOLD)
			return true;
	return false;
}

/*
 * Lock those that get values; and of those, and of whom something is held, see
 * whether a person has decided meanwhile.  Returns how many of n can be worked
 * on, first.
 */
static int
lock_members(Run *run, Member **members, int n)
{
	Member **pulls = palloc(sizeof(Member *) * (n + 1));
	Member **seen = palloc(sizeof(Member *) * (n + 1));
	bool *pull = palloc(sizeof(bool) * (n + 1));
	int npulls = 0;
	int nseen = 0;
	int kept = 0;
	int i;

	for (i = 0; i < n; i++)
	{
		pull[i] = members[i]->has_pull && members[i]->fate != FATE_INSERT;
		if (pull[i])
			pulls[npulls++] = members[i];
	}
	if (npulls > 0)
		recheck(run, pulls, npulls);
	for (i = 0; i < n; i++)
		if (pull[i] || is_held(run, members[i]))
			seen[nseen++] = members[i];
	if (nseen > 0)
		store_recheck(seen, nseen);
	for (i = 0; i < n; i++)
		if (!members[i]->again)
			members[kept++] = members[i];
	return kept;
}

static void
apply_members(Run *run, Member **all, int n)
{
	Member **members =
		memcpy(palloc(sizeof(Member *) * (n + 1)), all, sizeof(Member *) * n);
	char **keys = palloc(sizeof(char *) * (n + 1));
	char **changes = palloc(sizeof(char *) * (n + 1));
	List *conflicts = NIL;
	List *entries = NIL;
	MemoryContext old;
	int nchanges = 0;
	int i;

	n = lock_members(run, members, n);
	at_step(in_lock);
	for (i = 0; i < n; i++)
	{
		if (!members[i]->has_pull)
			continue;
		keys[nchanges] = members[i]->key;
		changes[nchanges++] = change_json(run, members[i], false);
		if (members[i]->fate == FATE_ERASE || members[i]->fate == FATE_INSERT)
		{
			if (!fate_apply(run, members[i]))
				nchanges--;
		}
		else if (!write_rows(run, members[i], -1))
		{
			/* to be pushed back, when it is read again */
			members[i]->has_push = false;
			members[i]->again = true;
		}
	}
	at_step(in_rows);
	for (i = 0; i < n; i++)
	{
		conflicts = list_concat(conflicts, decide_conflicts(run, members[i]));
		entries = list_concat(entries, members[i]->entries);
		count_entries(run, members[i]);
		old = MemoryContextSwitchTo(run->page_cxt);
		record_member(run, members[i]);
		MemoryContextSwitchTo(old);
		report_field_errors(run, members[i]);
	}
	store_change_log(run, "django", keys, changes, nchanges);
	store_landed(run, members, n);
	run->figures.conflicts += store_conflicts(run, conflicts);
	run->figures.to_django += nchanges;
	held_close(run, members, n);
	store_decide_entries(run, entries);
	store_write_members(run, members, n);
	store_strangers(run, members, n);
	settle_by_hand(run, members, n);
	settle_unsent(run, members, n);
	at_step(in_record);
}

/* ---- failures ---- */

/* What apply_work does. */
typedef struct ApplyWork
{
	Run *run;
	Member **members;
	int n;
	int only; /* >= 0: no more than write this field */
} ApplyWork;

static void
apply_work(void *arg)
{
	ApplyWork *work = arg;
	SqlScope scope;

	tx_wait_briefly();
	if (work->only >= 0)
		(void) write_rows(work->run, work->members[0], work->only);
	else
		apply_members(work->run, work->members, work->n);
	sql_enter_bare(&scope, work->run->map->owner);
	SPI_execute("SET CONSTRAINTS ALL IMMEDIATE", false, 0);
	sql_leave(&scope);
}

/* Apply members; when that fails they are as they were before. */
static ErrorData *
try_apply(Run *run, Member **members, int n)
{
	RunFigures figures = run->figures;
	Member *saved = palloc(sizeof(Member) * (n + 1));
	Size base_size = sizeof(BaseValue) * run->map->nfields;
	ApplyWork work = {run, members, n, -1};
	ErrorData *error;
	int i;

	for (i = 0; i < n; i++)
	{
		saved[i] = *members[i];
		saved[i].base = memcpy(palloc(base_size), members[i]->base, base_size);
	}
	error = tx_guarded(apply_work, &work, true);
	if (error == NULL)
		return NULL;
	run->figures = figures;
	for (i = 0; i < n; i++)
		*members[i] = saved[i];
	return error;
}

/*
 * PostgreSQL refused a member's values: decide again without those that it
 * refuses one by one, or, with all, without any of them.
 */
static void
refuse_fields(Run *run, Member *m, const ErrorData *error, bool all)
{
	int f;

	if (m->refused == NULL)
		m->refused =
			MemoryContextAllocZero(run->page_cxt,
								   sizeof(char *) * run->map->nfields);
	for (f = 0; f < run->map->nfields; f++)
	{
		ApplyWork work = {run, &m, 1, f};
		const ErrorData *why = error;

		if (m->result[f].action != MERGE_PULL)
			continue;
		if (!all)
			why = tx_guarded(apply_work, &work, false);
		if (why != NULL && !error_is_passing(why->sqlerrcode))
			m->refused[f] = clip_message(why->message);
	}
	tx_begin();
	MemoryContextSwitchTo(run->page_cxt);
	decide_member(run, m);
	tx_commit();
}

static void
fail_member_work(void *arg)
{
	ApplyWork *work = arg;
	Member *m = work->members[0];

	tx_wait_briefly();
	(void) ekksync_owner_oid(); /* its being gone is nobody's failure */
	decide_rows(work->run, m);
	entries_fail(m, m->problem);
	count_entries(work->run, m);
	report_field_errors(work->run, m);
	settle_by_hand(work->run, &m, 1);
	settle_unsent(work->run, &m, 1);
	store_decide_entries(work->run, m->entries);
	if (m->fate != FATE_INSERT)
		return;
	store_strangers(work->run, &m, 1);
	if (m->entries == NIL)
		work->run->figures.to_django_failed++;
}

/*
 * What became of a member cannot be recorded: all of it fails, with the
 * reason.  Should even that be refused, the run says so at its end.
 */
static void
fail_member(Run *run, Member *m, const ErrorData *error)
{
	ApplyWork work = {run, &m, 1, -1};
	RunFigures figures = run->figures;

	m->problem = fate_problem(m, error);
	if (m->fate == FATE_INSERT)
		m->stranger = m->problem;
	error = tx_guarded(fail_member_work, &work, true);
	if (error == NULL)
		return;
	run->figures = figures;
	run_stuck(run, m, error);
}

/* A member on its own: what it cannot take is held and said. */
static void
apply_alone(Run *run, Member *m)
{
	ErrorData *error = try_apply(run, &m, 1);
	int tries;

	/* the application may just have inserted the row: it is seen now */
	if (error != NULL && error->sqlerrcode == ERRCODE_UNIQUE_VIOLATION)
		error = try_apply(run, &m, 1);
	/* no value is at fault when the tables have changed */
	if (error != NULL && !error_is_passing(error->sqlerrcode) &&
		batch_is_unreadable(run))
		ReThrowError(error);
	for (tries = 0;
		 tries < 2 && error != NULL && m->has_pull && m->fate != FATE_ERASE &&
		 m->fate != FATE_INSERT && !error_is_passing(error->sqlerrcode);
		 tries++)
	{
		refuse_fields(run, m, error, tries > 0);
		error = try_apply(run, &m, 1);
	}
	if (error == NULL)
		return;
	m->has_push = false;
	m->again = error_is_passing(error->sqlerrcode);
	if (!m->again)
		fail_member(run, m, error);
}

static void
apply_together(Run *run, Member **members, int n)
{
	int i;

	if (n > 1 && try_apply(run, members, n) == NULL)
		return;
	for (i = 0; i < n; i++)
		apply_alone(run, members[i]);
}

/* Members that get values: as many at a time as take no longer than they may. */
static void
apply_pulls(Run *run, Member **members, int n)
{
	int done;
	int size;

	for (done = 0; done < n; done += size)
	{
		TimestampTz start = GetCurrentTimestamp();
		int64 took;

		if (run->apply_size == 0)
			run->apply_size = APPLY_FIRST;
		size = Min(run->apply_size, n - done);
		apply_together(run, members + done, size);
		took = GetCurrentTimestamp() - start;
		if (took > APPLY_TIME)
			run->apply_size = Max(size / 2, 1);
		else if (took < APPLY_TIME / 2 && size == run->apply_size)
			run->apply_size = Min(size * 2, APPLY_MAX);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * Apply a batch.  Afterwards members with has_push are noted and are to be
 * sent; those with again are to be read again.
 */
void
apply_batch(Run *run, Batch *batch)
{
	Member **pulls = palloc(sizeof(Member *) * (batch->n + 1));
	Member **others = palloc(sizeof(Member *) * (batch->n + 1));
	int npulls = 0;
	int nothers = 0;
	int size;
	int i;

	run->nwrites++;
	for (i = 0; i < batch->n; i++)
	{
		Member *m = &batch->members[i];

		if (m->has_pull)
			pulls[npulls++] = m;
		else
			others[nothers++] = m;
	}
	apply_pulls(run, pulls, npulls);
	for (i = 0; i < nothers; i += size)
	{
		size = batch_slice(others + i, nothers - i);
		apply_together(run, others + i, size);
	}
}
