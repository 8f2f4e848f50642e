/*
 * fates.c
 *		Carries out what Firestore decided about whole members: rows that go
 *		because they were deleted there, rows that come because they are new.
 *
 * Called in the transaction that applies the member; what it writes is not
 * queued again, but what triggers of the application add to it is.
 *
 * May not know: why, HTTP.
 */
#include "postgres.h"

#include "utils/elog.h"
#include "utils/json.h"

#include "capture.h"
#include "queue.h"
#include "rows.h"
#include "run.h"
#include "settings.h"
#include "store.h"

char *
fate_change_json(const Run *run, const Member *m)
{
	StringInfoData buf;
	int f;

	initStringInfo(&buf);
	appendStringInfoChar(&buf, '{');
	for (f = 0; f < run->map->nfields; f++)
	{
		if (m->local[f] == NULL || strcmp(m->local[f], CANON_NULL) == 0)
			continue;
		if (buf.len > 1)
			appendStringInfoChar(&buf, ',');
		escape_json(&buf, run->map->fields[f].name);
		appendStringInfo(&buf, ":[%s,null]", m->local[f]);
	}
	appendStringInfoChar(&buf, '}');
	return buf.data;
}

char *
fate_problem(const Member *m, const ErrorData *error)
{
	if (m->fate != FATE_ERASE && m->fate != FATE_INSERT)
		return clip_message(error->message);
	return clip_message(
		psprintf("the member could not be %s: %s (SQLSTATE %s)",
				 m->fate == FATE_ERASE ? "deleted" : "inserted",
				 error->message, unpack_sql_state(error->sqlerrcode)));
}

/* Has the document still to be deactivated, or to go?  Not one that is inactive. */
static bool
leaves_document(const Run *run, const Member *m)
{
	const char *status = m->remote[run->map->nfields - 1];

	return !m->doc->missing &&
		   (status == NULL || strcmp(status, "\"inactive\"") != 0);
}

static bool
was_read(const Member *m, const PendingRow *row)
{
	ListCell *lc;

	foreach (lc, m->pending)
		if (((PendingRow *) lfirst(lc))->id == row->id)
			return true;
	return false;
}

/*
 * The rows that go are locked: has an edit of them been queued since the
 * member was read?  Then it has another turn.
 */
static void
see_queue(Run *run, Member *m)
{
	Member now = {.key = m->key};
	Member *p = &now;
	ListCell *lc;

	queue_read_pending(run->map, &p, 1, CurrentMemoryContext);
	foreach (lc, now.pending)
		if (!was_read(m, lfirst(lc)))
			ereport(ERROR, (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
							errmsg("the member was edited meanwhile")));
}

static void
erase(Run *run, Member *m)
{
	int f;

	rows_lock_linked(run->map, m);
	see_queue(run, m);
	capture_expect(m->key, CAPTURE_ROW, CAPTURE_DELETED);
	for (f = 0; f < run->map->nfields; f++)
		capture_expect(m->key, run->map->fields[f].name, CANON_NULL);
	rows_delete(run->map, m);
	capture_expect_end();
	m->erased = true;
	m->gone = true;
	m->nrows = 0;
	m->again = leaves_document(run, m);
}

/* A row came first: nothing of what was decided holds. */
static void
forget_decision(const Run *run, Member *m)
{
	memset(m->result, 0, sizeof(MergeResult) * run->map->nfields);
	entries_leave_open(m);
	m->again = true;
}

/* What the document holds where only we write is seen: it is no conflict. */
static void
see_one_way(const Run *run, Member *m, int f)
{
	BaseValue *base = &m->base[f];

	if (!run->map->fields[f].push_only || m->remote[f] == NULL ||
		m->remote_missing[f])
		return;
	base->value = m->remote[f];
	base->stamp = m->doc->update_time;
	base->origin = ORIGIN_FIRESTORE;
	base->dirty = true;
}

static bool
insert(Run *run, Member *m)
{
	int *fields = palloc(sizeof(int) * run->map->nfields);
	char **values = palloc(sizeof(char *) * run->map->nfields);
	bool inserted;
	int n = 0;
	int f;

	capture_expect(m->key, CAPTURE_ROW, CAPTURE_INSERTED);
	for (f = 0; f < run->map->nfields; f++)
	{
		if (m->result[f].action != MERGE_PULL)
			continue;
		fields[n] = f;
		values[n++] = unconstify(char *, m->inputs[f].remote);
		capture_expect(m->key, run->map->fields[f].name, m->inputs[f].remote);
	}
	inserted = rows_insert(run->map, m, fields, values, n, run->page_cxt);
	capture_expect_end();
	if (!inserted)
	{
		forget_decision(run, m);
		return false;
	}
	/* what was agreed on in an earlier life does not count */
	store_forget_member(m->key);
	memset(m->base, 0, sizeof(BaseValue) * run->map->nfields);
	for (f = 0; f < run->map->nfields; f++)
		see_one_way(run, m, f);
	m->gone = false;
	m->first_contact = false;
	m->again = true; /* for what only we write to the document */
	return true;
}

bool
fate_apply(Run *run, Member *m)
{
	if (m->fate == FATE_INSERT)
		return insert(run, m);
	erase(run, m);
	return true;
}
