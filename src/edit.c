/*
 * edit.c
 *		A member's row, edited for a person in the caller's own transaction.
 *
 * May not know: Firestore's side, the extension's own tables, why it is done.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/json.h"

#include "edit.h"
#include "outbox.h"
#include "rows.h"
#include "scope.h"

const Mapping *
edit_mapping(void)
{
	const Mapping *map = mapping_get();

	if (map == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("ekksync is not attached to a member table"),
				 errhint("Call ekksync_attach('membership_comrade') first.")));
	if (map->problem != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the mapping cannot be used: %s", map->problem)));
	return map;
}

void
edit_require_role(const Mapping *map, const char *function)
{
	const char *role = GetUserNameFromId(map->owner, false);

	if (has_privs_of_role(GetUserId(), map->owner))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied to call %s()", function),
			 errdetail("Only roles with privileges of the \"%s\" role, as "
					   "which it writes, may call it.",
					   role),
			 errhint("Grant membership in role \"%s\", or call it through a "
					 "function of that role that says SECURITY DEFINER and "
					 "sets search_path.",
					 role)));
}

void
edit_check_deferred(void)
{
	SqlScope scope;

	sql_enter_bare(&scope, GetOuterUserId());
	SPI_execute("SET CONSTRAINTS ALL IMMEDIATE", false, 0);
	sql_leave(&scope);
}

/* As a Firestore Value of its own type, it is read as the field's codec does. */
char *
edit_value(const Field *field, const char *json, SyncError *err)
{
	const Codec plain = {CODEC_JSONB, 0, NULL};
	StringInfoData wire;
	cJSON *value;
	char *canon;
	Datum datum;
	bool isnull;

	initStringInfo(&wire);
	if (!value_encode(&plain, json, &wire, err))
		return NULL;
	value = wire_parse(wire.data, wire.len);
	canon = value == NULL ? NULL : value_decode(&field->codec, value, err);
	cJSON_Delete(value);
	if (canon != NULL && OidIsValid(field->relid) &&
		!value_to_datum(&field->codec, canon, field->typid, field->typmod,
						field->notnull, &datum, &isnull, err))
		return NULL;
	return canon;
}

bool
edit_is_writable(const Field *field)
{
	return field->problem == NULL && !field->push_only &&
		   (OidIsValid(field->relid) || field->apply != NULL);
}

void
edit_read(const Mapping *map, Member **members, int n, bool lock)
{
	Member **found = palloc(sizeof(Member *) * (n + 1));
	int nfound = 0;
	int i;

	rows_read(map, members, n, CurrentMemoryContext);
	for (i = 0; i < n; i++)
	{
		members[i]->again = false;
		if (members[i]->nrows == 1)
			found[nfound++] = members[i];
	}
	if (!lock || nfound == 0)
		return;
	rows_lock(map, found, nfound, true, CurrentMemoryContext);
	for (i = 0; i < nfound; i++)
		if (found[i]->again)
			found[i]->nrows = 0;
}

void
edit_write(const Mapping *map, Member *m, const int *fields, char **values,
		   int n)
{
	if (!rows_write(map, m, fields, values, n))
		ereport(ERROR,
				(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
				 errmsg("a trigger of the table did not let the value stay")));
}

void
edit_announce(const Mapping *map, const Member *m, int field,
			  const char *value)
{
	StringInfoData fields;
	OutboxRow row;

	initStringInfo(&fields);
	appendStringInfoChar(&fields, '{');
	escape_json(&fields, map->fields[field].name);
	appendStringInfo(&fields, ":%s}", value != NULL ? value : CANON_NULL);
	row.member_id = m->id;
	row.no_member = false;
	row.key = m->key;
	row.action = "update";
	row.fields = fields.data;
	row.error = "";
	outbox_write(map, &row);
}
