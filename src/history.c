/*
 * history.c
 *		ekksync_history: what has become of a member, or of one of its fields.
 *
 * Puts together, by time, what the queue says of edits in Django, the inbox of
 * edits in Firestore, and the change log and the conflicts of runs.
 *
 * May not know: how a run works.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "edit.h"
#include "look.h"
#include "scope.h"
#include "sqlvalue.h"
#include "srf.h"
#include "trail.h"

PG_FUNCTION_INFO_V1(ekksync_history);

#define HISTORY_COLUMNS 7

/* ---- edits in Django ---- */

/* What the queue says, as its owner: TrailEvents. */
static List *
queue_events(const Mapping *map, const char *key)
{
	MemoryContext cxt = CurrentMemoryContext;
	Oid types[] = {TEXTOID};
	Datum values[] = {sql_text(key)};
	List *list = NIL;
	SqlScope scope;
	uint64 i;

	if (!OidIsValid(map->queue_relid) || map->queue_lacks != NULL)
		return NIL;
	look_check_queue(map);
	sql_enter(&scope, map->queue_owner);
	sql_run(psprintf(
				"SELECT q.created_at, CASE q.action WHEN 'create' "
				"THEN 'created in Django' WHEN 'delete' "
				"THEN 'deleted in Django' ELSE 'edited in Django' END, e.key, "
				"e.value, q.sync_status || CASE WHEN q.error_message <> '' "
				"THEN ': ' || q.error_message ELSE '' END "
				"FROM %s q LEFT JOIN LATERAL jsonb_each(CASE "
				"WHEN jsonb_typeof(q.fields_changed) = 'object' "
				"THEN q.fields_changed END) e ON true "
				"WHERE q.ssn = $1 ORDER BY q.created_at, q.id, e.key",
				map->queue_table),
			1, types, values, NULL, true, 0);
	MemoryContextSwitchTo(cxt);
	for (i = 0; i < SPI_processed; i++)
	{
		TrailEvent *event = palloc0(sizeof(TrailEvent));

		event->at = sql_get_time(i, 1);
		event->what = sql_get_text(i, 2, cxt);
		event->field = sql_get_text(i, 3, cxt);
		event->new_value = sql_get_text(i, 4, cxt);
		event->detail = sql_get_text(i, 5, cxt);
		list = lappend(list, event);
	}
	sql_leave(&scope);
	return list;
}

/* ---- edits in Firestore ---- */

static const char *
entry_action(const Entry *entry)
{
	if (strcmp(entry->action, "create") == 0)
		return "created in Firestore";
	if (strcmp(entry->action, "delete") == 0)
		return "deleted in Firestore";
	return "edited in Firestore";
}

/* A copy of the entry's event for one of its changes. */
static TrailEvent *
change_event(const Mapping *map, const TrailEvent *of,
			 const EntryChange *change)
{
	TrailEvent *event = palloc(sizeof(TrailEvent));

	*event = *of;
	event->field = change->field >= 0 ? map->fields[change->field].name
									  : pstrdup(change->path);
	event->new_value = change->value;
	return event;
}

/* What entries say: TrailEvents.  A path that is not mapped is its own name. */
static List *
entry_events(const Mapping *map, const char *key)
{
	Member m = {0};
	List *events;
	List *list = NIL;
	ListCell *lc;
	ListCell *lc2;
	ListCell *lc3;

	m.entries = trail_entries(key, &events);
	entries_parse(map, &m);
	forboth (lc, m.entries, lc2, events)
	{
		const Entry *entry = lfirst(lc);
		TrailEvent *event = lfirst(lc2);

		event->what = entry_action(entry);
		if (entry->parsed == NIL)
			list = lappend(list, event);
		foreach (lc3, entry->parsed)
			list = lappend(list, change_event(map, event, lfirst(lc3)));
	}
	return list;
}

/* ---- all of it ---- */

static int
compare_events(const ListCell *a, const ListCell *b)
{
	const TrailEvent *first = lfirst(a);
	const TrailEvent *second = lfirst(b);
	int order;

	if (first->at != second->at)
		return first->at < second->at ? -1 : 1;
	if (first->rank != second->rank)
		return first->rank - second->rank;
	if (first->field == NULL || second->field == NULL)
		return (first->field != NULL) - (second->field != NULL);
	order = strcmp(first->field, second->field);
	return order != 0 ? order : strcmp(first->what, second->what);
}

static Datum
json_or_null(char *json, bool *isnull)
{
	*isnull = json == NULL;
	return json == NULL ? (Datum) 0
						: DirectFunctionCall1(jsonb_in, CStringGetDatum(json));
}

static Datum
text_or_null(const char *s, bool *isnull)
{
	*isnull = s == NULL;
	return s == NULL ? (Datum) 0 : CStringGetTextDatum(s);
}

static void
put_event(Tuplestorestate *store, TupleDesc desc, const TrailEvent *event)
{
	Datum values[HISTORY_COLUMNS];
	bool isnull[HISTORY_COLUMNS];

	values[0] = TimestampTzGetDatum(event->at);
	isnull[0] = event->at == 0;
	values[1] = text_or_null(event->what, &isnull[1]);
	values[2] = text_or_null(event->field, &isnull[2]);
	values[3] = json_or_null(event->old_value, &isnull[3]);
	values[4] = json_or_null(event->new_value, &isnull[4]);
	values[5] = Int64GetDatum(event->run);
	isnull[5] = event->run == 0;
	values[6] = text_or_null(event->detail, &isnull[6]);
	tuplestore_putvalues(store, desc, values, isnull);
}

/* A field that is not mapped, and that nothing tells of, is a mistake. */
static void
require_field(const Mapping *map, const char *field, List *events)
{
	ListCell *lc;

	if (mapping_find(map, field) >= 0)
		return;
	foreach (lc, events)
	{
		const TrailEvent *event = lfirst(lc);

		if (event->field != NULL && strcmp(event->field, field) == 0)
			return;
	}
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("field \"%s\" is not mapped", field),
					errhint("See the view ekksync_mapping.")));
}

/*
 * ekksync_history(key, field)
 *
 * With a field, what concerns the member as a whole (it was deleted) is told
 * as well.
 */
Datum
ekksync_history(PG_FUNCTION_ARGS)
{
	TupleDesc desc;
	Tuplestorestate *store = srf_begin(fcinfo, &desc);
	const Mapping *map;
	char *field = NULL;
	List *events;
	char *key;
	ListCell *lc;

	if (PG_ARGISNULL(0))
		return (Datum) 0;
	key = look_key(PG_GETARG_TEXT_PP(0));
	if (!PG_ARGISNULL(1))
		field = text_to_cstring(PG_GETARG_TEXT_PP(1));
	map = edit_mapping();
	events = queue_events(map, key);
	events = list_concat(events, entry_events(map, key));
	events = list_concat(events, trail_events(key));
	if (field != NULL)
		require_field(map, field, events);
	list_sort(events, compare_events);
	foreach (lc, events)
	{
		const TrailEvent *event = lfirst(lc);

		if (field == NULL || event->field == NULL ||
			strcmp(event->field, field) == 0)
			put_event(store, desc, event);
	}
	return (Datum) 0;
}
