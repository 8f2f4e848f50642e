/*
 * firstcontact.c
 *		Notes the members that are there when a table is attached.
 *
 * Reads the member table as the role of the runs and writes ekksync.member as
 * the extension's owner, page by page, never both at once.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "firstcontact.h"
#include "mapping.h"
#include "miscadmin.h"
#include "scope.h"
#include "sqlvalue.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "value.h"

#define KEY_PAGE 5000

typedef struct KeyCount
{
	bool note; /* note the keys, do not only count */
	uint64 noted;
	uint64 unusable; /* rows whose key is missing or malformed */
} KeyCount;

static char *
from_clause(const Attach *attach)
{
	return psprintf("FROM %s%s%s%s", attach->member_table,
					attach->filter ? " WHERE (" : "",
					attach->filter ? attach->filter : "",
					attach->filter ? ")" : "");
}

static void
report_doubled(Attach *attach)
{
	MemoryContext caller = CurrentMemoryContext;
	SqlScope scope;
	uint64 i;

	sql_enter(&scope, attach->role);
	sql_run(
		psprintf("SELECT key, count(*) FROM (SELECT %s::text AS key %s) AS k"
				 " GROUP BY key HAVING count(*) > 1 AND key <> ''"
				 " ORDER BY key COLLATE \"C\"",
				 quote_identifier(attach->key_column), from_clause(attach)),
		0, NULL, NULL, NULL, false, 0);
	for (i = 0; i < SPI_processed; i++)
		report_row(&attach->report,
				   psprintf("key %s", sql_get_text(i, 1, caller)), "warning",
				   INT64_FORMAT " rows have it: none of them will be synced",
				   sql_get_int8(i, 2));
	sql_leave(&scope);
}

/* Write a page of keys; how many were new. */
static uint64
note_keys(char **keys, int n)
{
	Oid type = TEXTARRAYOID;
	Datum value = sql_text_array(keys, n);
	SqlScope scope;
	uint64 noted;

	sql_enter(&scope, ekksync_owner_oid());
	sql_run("INSERT INTO ekksync.member (key)"
			" SELECT DISTINCT k FROM unnest($1) AS k"
			" ON CONFLICT (key) DO NOTHING",
			1, &type, &value, NULL, false, 0);
	noted = SPI_processed;
	sql_leave(&scope);
	return noted;
}

/* The rows that the cursor has fetched: their usable keys may be noted. */
static void
note_page(const Attach *attach, KeyCount *count)
{
	static const Codec kennitala = {CODEC_KENNITALA, 0, NULL};
	char **keys = palloc(SPI_processed * sizeof(char *));
	int n = 0;
	uint64 i;

	for (i = 0; i < SPI_processed; i++)
	{
		bool isnull;
		Datum value = SPI_getbinval(SPI_tuptable->vals[i],
									SPI_tuptable->tupdesc, 1, &isnull);
		char *canon = value_from_datum(&kennitala, value, isnull,
									   attach->key_typid, NULL);
		char *key = canon ? canon_to_text(canon) : NULL;

		if (key != NULL)
			keys[n++] = key;
		else
			count->unusable++;
	}
	if (n > 0 && count->note)
		count->noted += note_keys(keys, n);
}

/*
 * Go through the keys by a cursor of the role; each page is written in a
 * scope of its own, inside this one.
 */
static KeyCount
read_members(Attach *attach, bool note)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext page =
		AllocSetContextCreate(caller, "ekksync keys", ALLOCSET_DEFAULT_SIZES);
	KeyCount count = {note, 0, 0};
	SqlScope scope;
	SPIPlanPtr plan;
	Portal portal;

	sql_enter(&scope, attach->role);
	plan = SPI_prepare(psprintf("SELECT %s %s",
								quote_identifier(attach->key_column),
								from_clause(attach)),
					   0, NULL);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s",
			 SPI_result_code_string(SPI_result));
	portal = SPI_cursor_open(NULL, plan, NULL, NULL, false);
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		SPI_cursor_fetch(portal, true, KEY_PAGE);
		if (SPI_processed == 0)
			break;
		MemoryContextSwitchTo(page);
		note_page(attach, &count);
		MemoryContextReset(page);
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_cursor_close(portal);
	sql_leave(&scope);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(page);
	return count;
}

static void
mark_all_due(void)
{
	SqlScope scope;

	sql_enter(&scope, ekksync_owner_oid());
	sql_run("UPDATE ekksync.member SET due = true WHERE NOT due", 0, NULL,
			NULL, NULL, false, 0);
	sql_leave(&scope);
}

void
first_contact(Attach *attach)
{
	KeyCount count;

	report_doubled(attach);
	count = read_members(attach, !attach->again || attach->missed);
	if (count.unusable == 1)
		report_row(
			&attach->report, "keys", "warning", "%s",
			"1 row has no key or a malformed one: it will not be synced");
	else if (count.unusable > 1)
		report_row(
			&attach->report, "keys", "warning",
			UINT64_FORMAT
			" rows have no key or a malformed one: they will not be synced",
			count.unusable);
	if (!count.note)
		return;
	if (attach->again)
		mark_all_due();
	report_row(&attach->report, "members",
			   count.noted > 0 ? "created" : "kept",
			   UINT64_FORMAT " noted as never synced%s", count.noted,
			   attach->again ? ", all noted as due" : "");
}
