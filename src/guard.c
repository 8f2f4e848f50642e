/*
 * guard.c
 *		The guard against mass damage: stops a run that would take something
 *		away from a large part of the members, before it writes.
 *
 * What a run would take away shows when a batch is read and decided.  Where
 * that may be too much, and there is more than one batch, sync.c looks at all
 * of them before it works on the first one.  Each is counted again when it is
 * worked on: the world may have changed.
 *
 * May not know: SQL, HTTP, how a field is decided.
 */
#include "postgres.h"

#include "run.h"
#include "settings.h"
#include "store.h"
#include "sync.h"

/* What the message says of each kind. */
static const char *const deeds[] = {
	[LOSS_DELETED] = "delete",
	[LOSS_RECREATED] = "create again the documents of",
	[LOSS_BLANKED] = "blank values of",
};

/* ---- what is taken away from a member ---- */

bool
guard_is_blank(const char *value)
{
	return strcmp(value, CANON_NULL) == 0 || strcmp(value, "\"\"") == 0 ||
		   strcmp(value, "[]") == 0;
}

/* Is there a value in the document, be it one that cannot be read? */
static bool
document_has_value(const Member *m, int f)
{
	const char *value =
		m->remote[f] != NULL ? m->remote[f] : m->remote_plain[f];

	return value != NULL && !guard_is_blank(value);
}

/* Does a value that is there become none, on either side? */
static bool
is_blanked(const Run *run, const Member *m, int f)
{
	const MergeInput *in = &m->inputs[f];
	MergeDecision action = m->result[f].action;

	if (action == MERGE_PULL && run->opt.pull && guard_is_blank(in->remote) &&
		!guard_is_blank(in->local))
		return true;
	return decide_writes(run, m, f) && document_has_value(m, f) &&
		   guard_is_blank(action == MERGE_PUSH ? in->local : in->remote);
}

static Loss
loss_of(const Run *run, const Member *m)
{
	int f;

	if (m->problem != NULL)
		return LOSS_NONE;
	if (m->fate == FATE_ERASE)
		return run->opt.pull ? LOSS_DELETED : LOSS_NONE;
	if (m->gone && m->tombstone != 0 && m->last_run == run->id)
		return LOSS_NONE; /* erased a moment ago: it was counted then */
	if (m->gone)
		return m->has_push && !m->moved ? LOSS_DELETED : LOSS_NONE;
	if (m->create)
		return m->has_push && m->recreate ? LOSS_RECREATED : LOSS_NONE;
	for (f = 0; f < run->map->nfields; f++)
		if (is_blanked(run, m, f))
			return LOSS_BLANKED;
	return LOSS_NONE;
}

/*
 * Would the row's value take one away from a document that is met for the
 * first time?  Null does so only where the document has no say.
 */
static bool
may_blank(const Run *run, const Member *m, int f)
{
	const char *value = m->local[f];

	return value != NULL && guard_is_blank(value) &&
		   (run->map->fields[f].push_only || strcmp(value, CANON_NULL) != 0);
}

/*
 * Where Django wins, a member that was never synced can lose something only if
 * its row is gone, if somebody cleared a value since, or by an empty value.
 */
static bool
may_lose(const Run *run, const Member *m)
{
	ListCell *lc;
	int f;

	if ((m->known && !m->first_contact) || m->nrows == 0 ||
		strcmp(run->map->initial, "django") != 0 ||
		run->opt.take != CHOICE_NONE)
		return true;
	foreach (lc, m->pending)
		if (strcmp(((PendingRow *) lfirst(lc))->action, "create") != 0)
			return true;
	for (f = 0; f < run->map->nfields; f++)
		if (may_blank(run, m, f))
			return true;
	return false;
}

/* ---- counting ---- */

/* How a run like this one is called. */
static const char *
call_of(const Run *run)
{
	return run->opt.backfill
			   ? psprintf("ekksync_backfill('%s', ", sync_direction(&run->opt))
		   : run->opt.take == CHOICE_DJANGO	   ? "ekksync_repair('django', "
		   : run->opt.take == CHOICE_FIRESTORE ? "ekksync_repair('firestore', "
											   : "ekksync_run(";
}

/* End the run if these are too many of the members. */
static void
check(Run *run, const int64 *losses)
{
	StringInfoData text;
	int64 n = 0;
	int kinds = 0;
	int i;

	for (i = LOSS_NONE + 1; i < LOSS_KINDS; i++)
	{
		n += losses[i];
		kinds += losses[i] > 0;
	}
	if (!guard_is_too_many(run, n))
		return;
	initStringInfo(&text);
	for (i = LOSS_NONE + 1; i < LOSS_KINDS; i++)
	{
		if (losses[i] == 0)
			continue;
		kinds--;
		appendStringInfo(&text, "%s%s " INT64_FORMAT,
						 text.len == 0 ? ""
						 : kinds == 0  ? " and "
									   : ", ",
						 deeds[i], losses[i]);
	}
	ereport(ERROR,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("the run would %s of " INT64_FORMAT " members", text.data,
					run->members),
			 errdetail("ekksync.max_delete_percent is %d.",
					   settings.max_delete_percent),
			 errhint("%sdry_run => true) shows them; if they are right, use "
					 "%sforce => true).",
					 call_of(run), call_of(run))));
}

/* Is the member to be worked on again, so that it is counted then? */
static bool
comes_again(const Member *m)
{
	return m->again && !m->erased;
}

static void
add(const Run *run, const Member *m, int64 *losses)
{
	losses[loss_of(run, m)]++;
}

/* ---- for the run ---- */

bool
guard_watches(const Run *run)
{
	return !run->opt.dry_run && !run->opt.force;
}

/*
 * One is always let through.  The members are counted once: those whom a run
 * deletes are no members afterwards.
 */
bool
guard_is_too_many(Run *run, int64 n)
{
	if (n < 2)
		return false;
	if (run->members < 0)
	{
		tx_begin();
		run->members = store_count_members();
		tx_commit();
	}
	return n * 100 > run->members * settings.max_delete_percent;
}

bool
guard_loses(const Run *run, const Member *m)
{
	return loss_of(run, m) != LOSS_NONE;
}

bool
guard_may_lose(const Run *run, const Batch *batch)
{
	int i;

	for (i = 0; i < batch->n; i++)
		if (may_lose(run, &batch->members[i]))
			return true;
	return false;
}

void
guard_add(Run *run, const Batch *batch, int n)
{
	int i;

	for (i = 0; i < n; i++)
		if (!comes_again(&batch->members[i]))
			add(run, &batch->members[i], run->losses);
}

void
guard_survey_end(Run *run)
{
	check(run, run->losses);
	memset(run->losses, 0, sizeof(run->losses));
}

void
guard_batch(Run *run, const Batch *batch)
{
	int64 losses[LOSS_KINDS];
	int i;

	if (!guard_watches(run))
		return;
	memcpy(losses, run->losses, sizeof(losses));
	for (i = 0; i < batch->n; i++)
		if (!comes_again(&batch->members[i]))
			add(run, &batch->members[i], losses);
	check(run, losses);
}
