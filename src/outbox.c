/*
 * outbox.c
 *		Writes rows of the queue table, as its owner.
 *
 * Called by the capture trigger in the member's own transaction, so it keeps
 * cheap: kept plans, no settings changed for a single row.  Does not know
 * what a field is.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "outbox.h"
#include "scope.h"
#include "sqlvalue.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"

static const Codec kennitala = {CODEC_KENNITALA, 0, NULL};

/* The value as it stands, cut to what the queue's column takes. */
static char *
cut_key(const Mapping *mapping, Datum key)
{
	char *text;
	Oid output;
	bool varlena;
	int len;

	getTypeOutputInfo(mapping->key_typid, &output, &varlena);
	text = OidOutputFunctionCall(output, key);
	len = strlen(text);
	if (mapping->queue_key_chars > 0)
		text[pg_mbcharcliplen(text, len, mapping->queue_key_chars)] = '\0';
	return text;
}

char *
outbox_key(const Mapping *mapping, Datum key, bool isnull, const char **error)
{
	char *canon;
	char *text;

	*error = NULL;
	canon =
		value_from_datum(&kennitala, key, isnull, mapping->key_typid, NULL);
	if (canon == NULL)
	{
		*error = "kennitala is malformed";
		return cut_key(mapping, key);
	}
	text = canon_to_text(canon);
	if (text == NULL)
	{
		*error = "kennitala is missing";
		return pstrdup("");
	}
	return text;
}

/* Without one of its columns, nothing can be queued: say so in our words. */
static void
require_columns(const Mapping *mapping)
{
	if (mapping->queue_lacks != NULL)
		ereport(
			ERROR,
			(errcode(ERRCODE_UNDEFINED_COLUMN),
			 errmsg("the queue table lacks column \"%s\"",
					mapping->queue_lacks),
			 errdetail("The change cannot be queued for ekksync."),
			 errhint(
				 "Call ekksync_attach() again: it mends what is missing.")));
}

void
outbox_write(const Mapping *mapping, const OutboxRow *row)
{
	Oid types[6] = {mapping->id_typid, TEXTOID,		   TEXTOID,
					JSONBOID,		   TIMESTAMPTZOID, TEXTOID};
	Datum values[6];
	char nulls[6] = {' ', ' ', ' ', ' ', ' ', ' '};
	SqlScope scope;

	require_columns(mapping);
	if (!OidIsValid(types[0]))
		types[0] = INT8OID;
	values[0] = row->member_id;
	if (row->no_member)
		nulls[0] = 'n';
	values[1] = CStringGetTextDatum(row->key);
	values[2] = CStringGetTextDatum(row->action);
	values[3] = DirectFunctionCall1(jsonb_in, CStringGetDatum(row->fields));
	values[4] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[5] = CStringGetTextDatum(row->error);
	sql_enter_bare(&scope, mapping->queue_owner);
	sql_run_by_index(mapping->queue_insert, 6, types, values, nulls, false, 0);
	sql_leave(&scope);
}

void
outbox_forget_member(const Mapping *mapping, Datum member_id)
{
	Oid type = mapping->id_typid;
	SqlScope scope;

	require_columns(mapping);
	sql_enter_bare(&scope, mapping->queue_owner);
	sql_run_by_index(mapping->queue_forget, 1, &type, &member_id, NULL, false,
					 0);
	sql_leave(&scope);
}

/* Keys of the members that the base holds as alive: text[], palloc'd. */
static Datum
base_keys(const Mapping *mapping)
{
	MemoryContext caller = CurrentMemoryContext;
	SqlScope scope;
	Datum keys;
	bool isnull;

	sql_enter(&scope, mapping->extowner);
	sql_run("SELECT COALESCE(array_agg(key), '{}')"
			" FROM ekksync.member WHERE tombstone IS NULL",
			0, NULL, NULL, NULL, false, 0);
	keys = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
						 &isnull);
	MemoryContextSwitchTo(caller);
	keys = datumCopy(keys, false, -1);
	sql_leave(&scope);
	return keys;
}

/*
 * A key is live when the base or a pending row has it and its last queue row
 * is not a delete.
 */
void
outbox_delete_all(const Mapping *mapping)
{
	Oid types[2] = {TEXTARRAYOID, TIMESTAMPTZOID};
	Datum values[2];
	SqlScope scope;
	char *forget;
	char *insert;

	require_columns(mapping);
	values[0] = base_keys(mapping);
	values[1] = TimestampTzGetDatum(GetCurrentTimestamp());
	forget = psprintf("UPDATE %s SET member_id = NULL"
					  " WHERE member_id IS NOT NULL",
					  mapping->queue_table);
	insert = psprintf(
		"INSERT INTO %s (member_id, ssn, action, fields_changed,"
		" created_at, synced_at, sync_status, error_message, retry_count)"
		" SELECT NULL, live.key, 'delete', '{}',"
		" GREATEST($2, last.created_at + '1 microsecond'),"
		" NULL, 'pending', '', 0"
		" FROM (SELECT unnest($1) AS key UNION"
		" SELECT ssn FROM %s WHERE sync_status = 'pending'"
		" AND ssn <> '') AS live"
		" LEFT JOIN LATERAL (SELECT q.action, q.created_at FROM %s AS q"
		" WHERE q.ssn = live.key"
		" ORDER BY q.created_at DESC, q.id DESC LIMIT 1) AS last ON true"
		" WHERE last.action IS DISTINCT FROM 'delete'",
		mapping->queue_table, mapping->queue_table, mapping->queue_table);
	sql_enter(&scope, mapping->queue_owner);
	sql_run(forget, 0, NULL, NULL, NULL, false, 0);
	sql_run(insert, 2, types, values, NULL, false, 0);
	sql_leave(&scope);
}
