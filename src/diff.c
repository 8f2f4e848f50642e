/*
 * diff.c
 *		Where the two sides differ now, field by field, and why: a run that
 *		only looks.
 *
 * All documents are read, page by page in the order of their ids, and beside
 * them all members in the same order, in batches as in any run.  What a batch
 * shows is kept in ekksync.diff; nothing else is written.
 *
 * May not know: SQL, curl, how a field is decided.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "http.h"
#include "progress.h"
#include "queue.h"
#include "rows.h"
#include "store.h"

/* What ekksync.on_remote_delete lets stand. */
#define ACCEPTED "it was deleted in Firestore, and stays so"

/* What it let stand, and does no longer. */
#define RECLAIMED                                                             \
	"it was deleted in Firestore, and stayed so: the next full scan ends "    \
	"that"

/* Documents read at a time. */
#define DIFF_PAGE 2000

/* The documents, in the order of their ids. */
typedef struct Documents
{
	FsQuery query;
	MemoryContext cxt; /* of the page */
	FsDoc *docs;
	int n;
	int next; /* the first one that is not compared */
} Documents;

/* ---- rows ---- */

static void
add(List **rows, const Member *m, const char *field, const char *django,
	const char *firestore, const char *why, const char *detail)
{
	DiffRow *row = palloc(sizeof(DiffRow));

	row->key = m->key;
	row->field = field;
	row->django_value = django;
	row->firestore_value = firestore;
	row->why = why;
	row->detail = detail;
	*rows = lappend(*rows, row);
}

/* ---- why ---- */

/* A pending row that names the field (-1: any), as text; NULL: none. */
static char *
pending_row(const Member *m, int f)
{
	ListCell *lc;

	foreach (lc, m->pending)
	{
		const PendingRow *row = lfirst(lc);

		if (f < 0 || row->fields == NULL || bms_is_member(f, row->fields))
			return psprintf(row->by_hand ? "queue row " INT64_FORMAT
										   " was marked synced by hand"
										 : "queue row " INT64_FORMAT,
							row->id);
	}
	return NULL;
}

static bool
entry_names(const Entry *entry, int f)
{
	ListCell *lc;

	foreach (lc, entry->parsed)
		if (((EntryChange *) lfirst(lc))->field == f)
			return true;
	return false;
}

static char *
pending_entry(const Member *m, int f)
{
	ListCell *lc;

	foreach (lc, m->entries)
	{
		const Entry *entry = lfirst(lc);

		if (f < 0 || entry_names(entry, f))
			return psprintf("entry %s of sync_queue", entry->doc_id);
	}
	return NULL;
}

/* What failed because of the field, or of the member (-1): its text. */
static const char *
failure(const Mapping *map, const Member *m, int f)
{
	const char *found = NULL;
	ListCell *lc;

	foreach (lc, m->failures)
	{
		const Failure *fail = lfirst(lc);
		char *prefix = f < 0 ? "" : psprintf("%s: ", map->fields[f].name);

		if (fail->entry != NULL
				? f < 0 || entry_names(fail->entry, f)
				: f < 0 || bms_is_member(f, fail->fields) ||
					  strncmp(fail->error, prefix, strlen(prefix)) == 0)
			found = fail->error;
	}
	return found;
}

static bool
same_text(const char *a, const char *b)
{
	if (a == NULL || b == NULL)
		return a == b;
	return strcmp(a, b) == 0;
}

/* The open conflict that holds the field; exact: of just these values. */
static char *
held_conflict(const Member *m, const char *field, const char *django,
			  const char *firestore, bool exact)
{
	ListCell *lc;

	foreach (lc, m->held)
	{
		const HeldConflict *held = lfirst(lc);

		if (strcmp(held->field, field) == 0 &&
			(!exact || (same_text(held->django_value, django) &&
						same_text(held->firestore_value, firestore))))
			return psprintf("conflict " INT64_FORMAT ": %s", held->id,
							held->rule);
	}
	return NULL;
}

/* Has the next run a reason to look at the member?  NULL: none. */
static char *
reason_to_look(const Member *m)
{
	char *change = pending_row(m, -1);
	ListCell *lc;

	if (change == NULL)
		change = pending_entry(m, -1);
	if (change != NULL)
		return change; /* of other fields: but it is the member's turn */
	if (m->first_contact)
		return "first contact: the member was never synced";
	foreach (lc, m->notes)
	{
		const FlightNote *note = lfirst(lc);

		if (!note->dropped)
			return psprintf("a write of run " INT64_FORMAT
							" may be on its way",
							note->run);
	}
	if (m->touched != NIL)
		return ((const Touched *) linitial(m->touched))->row_id != 0
				   ? "a queue row was settled or deleted by hand"
				   : "a backfill has left the member for the next run";
	if (m->known && m->doc->update_time != m->doc_update_time)
		return m->doc->missing ? "the document has gone since a run saw it"
							   : "the document has changed since a run saw it";
	return m->due ? "the next run looks at this member" : NULL;
}

/* Why does a field differ?  *detail says more. */
static const char *
why_field(const Run *run, const Member *m, int f, const char *firestore,
		  const char **detail)
{
	const char *name = run->map->fields[f].name;
	const char *base = m->base[f].value;

	*detail = held_conflict(m, name, m->local[f], firestore, true);
	if (*detail != NULL)
		return "conflict";
	*detail = pending_row(m, f);
	if (*detail == NULL)
		*detail = pending_entry(m, f);
	if (*detail != NULL)
		return "pending";
	*detail = held_conflict(m, name, NULL, NULL, false);
	if (*detail != NULL)
		return "conflict";
	*detail = failure(run->map, m, f);
	if (*detail != NULL)
		return "failed";
	*detail = reason_to_look(m);
	if (*detail != NULL)
		return "pending";
	if (m->fate == FATE_INACTIVE && f == run->map->nfields - 1)
	{
		*detail = ACCEPTED;
		return "held";
	}
	if (f == run->map->nfields - 1 && base != NULL &&
		m->base[f].origin == ORIGIN_FIRESTORE && same_text(base, m->remote[f]))
	{
		*detail = RECLAIMED;
		return "pending";
	}
	*detail = base == NULL ? "the sides never agreed on a value"
			  : same_text(base, m->remote[f])
				  ? "changed in PostgreSQL, and no queue row says so"
			  : strcmp(base, m->local[f]) == 0
				  ? "changed in Firestore, and a run has seen the document "
					"since"
				  : "changed on both sides, and nothing says so";
	return "unexplained";
}

/* ---- a member ---- */

static void
compare_field(const Run *run, const Member *m, int f, List **rows)
{
	const Field *field = &run->map->fields[f];
	const char *firestore =
		m->remote[f] != NULL ? m->remote[f] : m->remote_plain[f];
	const char *detail;
	const char *why;

	if (field->problem != NULL)
		add(rows, m, field->name, NULL, NULL, "held",
			psprintf("the field is suspended: %s", field->problem));
	else if (m->local[f] == NULL)
		add(rows, m, field->name, NULL, firestore, "held", m->local_error[f]);
	else if (!same_text(m->local[f], m->remote[f]))
	{
		why = why_field(run, m, f, firestore, &detail);
		add(rows, m, field->name, m->local[f], firestore, why, detail);
	}
}

/* One side has nothing of the member. */
static void
compare_whole(const Run *run, const Member *m, const char *what, List **rows)
{
	const char *why = "pending";
	const char *detail = pending_row(m, -1);

	if (detail == NULL)
		detail = pending_entry(m, -1);
	if (detail == NULL)
	{
		why = "failed";
		detail = failure(run->map, m, -1);
	}
	if (detail == NULL)
	{
		why = "pending";
		detail = reason_to_look(m);
	}
	if (detail == NULL && m->fate == FATE_AWAY)
	{
		why = "held";
		detail = ACCEPTED;
	}
	if (detail == NULL && m->away != 0)
	{
		why = "pending";
		detail = RECLAIMED;
	}
	if (detail == NULL)
	{
		why = "unexplained";
		detail = "no queue row says so";
	}
	add(rows, m, NULL, NULL, NULL, why, psprintf("%s: %s", what, detail));
}

static void
compare_member(const Run *run, const Member *m, List **rows)
{
	int f;

	if (m->nrows == 0 && !m->doc->missing && !m->known && m->pending == NIL)
		add(rows, m, NULL, NULL, NULL, "unknown member",
			m->entries == NIL ? "PostgreSQL knows no such member"
							  : pending_entry(m, -1));
	else if (m->problem != NULL)
	{
		if (m->nrows > 0 || m->unreadable != NULL || m->key[0] == '\0')
			add(rows, m, NULL, NULL, NULL, "held", m->problem);
	}
	else if (m->gone)
	{
		if (m->result[run->map->nfields - 1].action == MERGE_PUSH)
			compare_whole(run, m, "deleted in PostgreSQL, not in Firestore",
						  rows);
	}
	else if (m->doc->missing)
		compare_whole(run, m, "there is no document", rows);
	else
		for (f = 0; f < run->map->nfields; f++)
			compare_field(run, m, f, rows);
}

/* ---- batches ---- */

/* The documents of a batch, whose keys are in order; they are taken. */
static void
take_documents(Documents *docs, Batch *batch, int n)
{
	FsDoc *none = palloc0(sizeof(FsDoc));
	int i;

	none->missing = true;
	for (i = 0; i < batch->n; i++)
		batch->members[i].doc = none;
	for (i = 0; i < n; i++)
		if (docs->next < docs->n &&
			strcmp(docs->docs[docs->next].id, batch->members[i].key) == 0)
			batch->members[i].doc = &docs->docs[docs->next++];
}

/* What failed is known by its fields. */
static void
parse_failures(const Mapping *map, Member *m)
{
	ListCell *lc;

	foreach (lc, m->failures)
	{
		Failure *fail = lfirst(lc);
		Member nobody = {0};

		if (fail->entry == NULL)
			continue;
		nobody.entries = list_make1(fail->entry);
		entries_parse(map, &nobody);
	}
}

static void
compare_batch(Run *run, Documents *docs, List *keys)
{
	int n = list_length(keys);
	List *rows = NIL;
	Member **members;
	DiffRow *array;
	Batch batch;
	int i;

	if (!batch_read(run, &batch, keys))
		ereport(ERROR, (errcode(ERRCODE_LOCK_NOT_AVAILABLE),
						errmsg("the members cannot be read now: a table is "
							   "locked")));
	take_documents(docs, &batch, n);
	members = palloc(sizeof(Member *) * (n + 1));
	for (i = 0; i < n; i++)
		members[i] = &batch.members[i];
	tx_begin();
	queue_read_failed(run->map, members, n, run->page_cxt);
	store_read_failed(members, n, run->page_cxt);
	store_read_held(members, n, run->page_cxt);
	MemoryContextSwitchTo(run->page_cxt);
	for (i = 0; i < n; i++)
	{
		parse_failures(run->map, members[i]);
		decide_remote(run, members[i]);
		decide_member(run, members[i]);
		compare_member(run, members[i], &rows);
		CHECK_FOR_INTERRUPTS();
	}
	array = palloc(sizeof(DiffRow) * (list_length(rows) + 1));
	for (i = 0; i < list_length(rows); i++)
		array[i] = *(DiffRow *) list_nth(rows, i);
	store_diff(run, array, list_length(rows));
	tx_commit();
}

/* Read the next page of documents when all of the last one are compared. */
static void
more_documents(Run *run, Documents *docs)
{
	FsError err;

	if (docs->next < docs->n || docs->query.done)
		return;
	MemoryContextReset(docs->cxt);
	MemoryContextSwitchTo(docs->cxt);
	docs->next = 0;
	if (!fs_query(run->fs, &docs->query, &docs->docs, &docs->n, NULL, &err))
		run_stop(&err);
}

/*
 * The keys of the next batch after a key: of rows, of members that we know and
 * of documents, as far as documents are read.
 */
static List *
next_keys(Run *run, Documents *docs, const char *after)
{
	List *keys = NIL;
	int i;

	for (i = docs->next; i < docs->n && i < docs->next + EKKSYNC_MEMBER_PAGE;
		 i++)
		keys = lappend(keys, docs->docs[i].id);
	tx_begin();
	keys = merge_keys(keys,
					  rows_keys(run->map, after, EKKSYNC_MEMBER_PAGE,
								run->page_cxt),
					  EKKSYNC_MEMBER_PAGE);
	keys = merge_keys(keys,
					  store_due_keys(after, EKKSYNC_MEMBER_PAGE, true,
									 run->page_cxt),
					  EKKSYNC_MEMBER_PAGE);
	MemoryContextSwitchTo(run->page_cxt);
	keys = list_copy(keys);
	tx_commit();
	while (!docs->query.done && keys != NIL && docs->n > 0 &&
		   strcmp(llast(keys), docs->docs[docs->n - 1].id) > 0)
		keys = list_truncate(keys, list_length(keys) - 1);
	return keys;
}

void
diff_members(Run *run)
{
	Documents docs = {0};
	char *after = NULL;

	docs.query.collection = "members";
	docs.query.mask = run->mask;
	docs.query.nmask = run->nmask;
	docs.query.limit = DIFF_PAGE;
	docs.query.cxt = run->cxt;
	docs.cxt = AllocSetContextCreate(run->cxt, "ekksync documents",
									 ALLOCSET_DEFAULT_SIZES);
	tx_begin();
	progress_total(run, store_count_members());
	tx_commit();
	run_progress(run, 0);
	for (;;)
	{
		List *keys;
		int n;

		CHECK_FOR_INTERRUPTS();
		more_documents(run, &docs);
		MemoryContextReset(run->page_cxt);
		MemoryContextSwitchTo(run->page_cxt);
		keys = next_keys(run, &docs, after);
		if (keys == NIL)
			break;
		if (after != NULL)
			pfree(after);
		after = MemoryContextStrdup(run->cxt, llast(keys));
		n = list_length(keys);
		compare_batch(run, &docs, keys);
		run_progress(run, n);
	}
	MemoryContextSwitchTo(run->cxt);
	MemoryContextDelete(docs.cxt);
}
