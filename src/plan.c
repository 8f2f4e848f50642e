/*
 * plan.c
 *		What a run would write, as rows for a person: the end of a dry run.
 *
 * May not know: HTTP, how to decide.
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "run.h"
#include "store.h"

static void
add_row(List **rows, const Member *m, const char *side, const char *field,
		const char *old_value, const char *new_value, const char *note)
{
	PlanRow *row = palloc(sizeof(PlanRow));

	row->key = m->key;
	row->side = side;
	row->field = field;
	row->old_value = old_value;
	row->new_value = new_value;
	row->note = note;
	*rows = lappend(*rows, row);
}

/* Why a field is written: the rule of the conflict, or which side changed. */
static const char *
why(const Member *m, int f)
{
	const MergeResult *res = &m->result[f];

	if (m->fate == FATE_INSERT)
		return "new in Firestore";
	if (m->create)
		return "new document";
	if (m->gone)
		return "member deleted";
	if (res->conflict)
		return psprintf("conflict: %s", merge_rule_name(res->rule));
	if (m->base[f].value == NULL)
		return "first contact";
	return res->action == MERGE_PULL ? "changed in Firestore"
									 : "changed in Django";
}

/* The row goes, and with it the values that it has. */
static void
plan_erase(const Run *run, Member *m, List **rows)
{
	int f;

	for (f = 0; f < run->map->nfields && run->opt.pull; f++)
		if (m->local[f] != NULL && strcmp(m->local[f], CANON_NULL) != 0)
			add_row(rows, m, "django", run->map->fields[f].name, m->local[f],
					NULL, "deleted in Firestore");
}

static void
plan_member(Run *run, Member *m, List **rows)
{
	ListCell *lc;
	int f;

	if (m->problem != NULL)
		add_row(rows, m, "none", NULL, NULL, NULL, m->problem);
	foreach (lc, m->entries)
	{
		Entry *entry = lfirst(lc);

		if (entry->outcome == ENTRY_FAILED)
			add_row(rows, m, "none", NULL, NULL, NULL,
					psprintf("entry fails: %s", entry->message));
	}
	if (m->problem != NULL)
		return;
	if (m->fate == FATE_ERASE)
	{
		plan_erase(run, m, rows);
		return;
	}
	for (f = 0; f < run->map->nfields && m->gone; f++)
		if (m->result[f].conflict)
			add_row(rows, m, "none", run->map->fields[f].name, NULL,
					m->inputs[f].remote, "conflict: member not found");
	for (f = 0; f < run->map->nfields; f++)
	{
		const MergeInput *in = &m->inputs[f];
		const char *name = run->map->fields[f].name;

		if (m->field_error[f] != NULL)
			add_row(rows, m, "none", name, NULL, NULL, m->field_error[f]);
		else if (m->result[f].action == MERGE_HOLD)
			add_row(rows, m, "none", name, in->local,
					in->remote ? in->remote : m->remote_plain[f],
					m->result[f].rule == RULE_CLOCK
						? "held: clock skew"
						: "held: the values need a decision");
		else if (m->result[f].action == MERGE_PULL && run->opt.pull)
			add_row(rows, m, "django", name, in->local, in->remote, why(m, f));
		if (m->has_push && decide_writes(run, m, f))
			add_row(rows, m, "firestore", name, m->remote[f],
					m->result[f].action == MERGE_PUSH ? in->local : in->remote,
					why(m, f));
	}
}

/* What would fail, counted as a run does. */
static void
count_failures(Run *run, const Member *m)
{
	bool said = false;
	ListCell *lc;
	int f;

	foreach (lc, m->entries)
		if (((Entry *) lfirst(lc))->outcome == ENTRY_FAILED)
			run->figures.to_django_failed++;
	foreach (lc, m->pending)
	{
		if (((PendingRow *) lfirst(lc))->error == NULL)
			continue;
		run->figures.to_firestore_failed++;
		said = true;
	}
	for (f = 0; f < run->map->nfields && !said; f++)
		if (m->field_error[f] != NULL)
		{
			run->figures.to_firestore_failed++;
			said = true;
		}
	if (!said && m->problem != NULL && m->pending == NIL &&
		(m->nrows > 0 || m->unreadable != NULL))
		run->figures.to_firestore_failed++;
}

static void
keep_rows(Run *run, List *list)
{
	PlanRow *rows = palloc(sizeof(PlanRow) * (list_length(list) + 1));
	int i;

	for (i = 0; i < list_length(list); i++)
		rows[i] = *(PlanRow *) list_nth(list, i);
	tx_begin();
	store_plan(run, rows, list_length(list));
	tx_commit();
}

/* Keep the plan of a batch and count it in the run's figures. */
void
plan_batch(Run *run, Batch *batch)
{
	List *list = NIL;
	int i;

	for (i = 0; i < batch->n; i++)
	{
		Member *m = &batch->members[i];

		plan_member(run, m, &list);
		count_failures(run, m);
		run->figures.conflicts += list_length(decide_conflicts(run, m));
		run->figures.to_django += m->has_pull ? 1 : 0;
		run->figures.to_firestore += m->has_push ? 1 : 0;
	}
	keep_rows(run, list);
}

/* Entries that failed when they were staged: no batch has them. */
void
plan_staged_failures(Run *run)
{
	char *after = "";
	List *entries;
	ListCell *lc;

	for (;;)
	{
		List *list = NIL;

		MemoryContextReset(run->page_cxt);
		MemoryContextSwitchTo(run->page_cxt);
		tx_begin();
		entries = store_unclosed(after, EKKSYNC_MAX_WRITES, run->page_cxt);
		tx_commit();
		if (entries == NIL)
			return;
		foreach (lc, entries)
		{
			UnclosedEntry *entry = lfirst(lc);
			Member nobody = {.key = entry->key ? entry->key : ""};

			after = MemoryContextStrdup(run->cxt, entry->doc_id);
			if (entry->decided)
				continue;
			add_row(&list, &nobody, "none", NULL, NULL, NULL,
					psprintf("entry fails: %s", entry->error));
			run->figures.to_django_failed++;
		}
		keep_rows(run, list);
	}
}
