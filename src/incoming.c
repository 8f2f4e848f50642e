/*
 * incoming.c
 *		Changes as callers of ekksync_apply() give them: JSON, made into the
 *		entries that Firestore's queue has of such changes, and parsed as those
 *		are.
 *
 * May not know: SQL, members, what becomes of a change.
 */
#include "postgres.h"

#include "incoming.h"
#include "store.h"

#define FORM                                                                  \
	"Give {\"changes\": [{\"kennitala\": \"...\", \"action\": \"update\", "   \
	"\"changes\": {\"profile.email\": \"...\"}}]}, or the array alone."

pg_noreturn static void
throw_shape(const char *what)
{
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("the argument is not a list of changes"),
					errdetail("%s", what), errhint(FORM)));
}

/* A member of an object; false when it is not there, or null. */
static bool
look_up(JsonbContainer *object, const char *name, JsonbValue *value)
{
	return getKeyJsonValueFromContainer(object, name, (int) strlen(name),
										value) != NULL &&
		   value->type != jbvNull;
}

static bool
is_array(const JsonbValue *value)
{
	return value->type == jbvBinary &&
		   JsonContainerIsArray(value->val.binary.data);
}

static bool
is_object(const JsonbValue *value)
{
	return value->type == jbvBinary &&
		   JsonContainerIsObject(value->val.binary.data);
}

static char *
string_of(const JsonbValue *value)
{
	return value->type == jbvString
			   ? pnstrdup(value->val.string.val, value->val.string.len)
			   : NULL;
}

/* The array of changes. */
static JsonbContainer *
list_of_changes(Jsonb *given)
{
	JsonbValue value;

	if (JB_ROOT_IS_SCALAR(given))
		throw_shape("It is neither an object nor an array.");
	if (JB_ROOT_IS_ARRAY(given))
		return &given->root;
	if (!look_up(&given->root, "changes", &value))
		throw_shape("The object has no \"changes\".");
	if (!is_array(&value))
		throw_shape("\"changes\" is not an array.");
	return value.val.binary.data;
}

/* ---- one change ---- */

static const char *
parse_key(Incoming *in, JsonbContainer *object)
{
	JsonbValue value;
	char *key;

	if (!look_up(object, "kennitala", &value))
		return "kennitala is missing";
	in->given = string_of(&value);
	if (in->given == NULL)
		return "kennitala is malformed";
	key = pstrdup(in->given);
	if (strlen(key) == 11 && key[6] == '-')
		memmove(key + 6, key + 7, 5);
	if (strlen(key) != 10 || strspn(key, "0123456789") != 10)
		return "kennitala is malformed";
	in->key = key;
	return NULL;
}

static const char *
parse_action(Incoming *in, JsonbContainer *object)
{
	JsonbValue value;
	char *action = "update";

	if (look_up(object, "action", &value))
		action = string_of(&value);
	if (action == NULL)
		return "the action is not a string";
	in->entry.action = action;
	if (!entries_is_change(&in->entry) && strcmp(action, "delete") != 0)
		return clip_message(psprintf("unknown action \"%s\"", action));
	return NULL;
}

static const char *
parse_time(Incoming *in, JsonbContainer *object)
{
	JsonbValue value;
	const char *text;

	if (!look_up(object, "created_at", &value))
		return NULL;
	text = string_of(&value);
	if (text == NULL || !time_parse(text, &in->entry.stamp))
		return "created_at is not a time";
	return NULL;
}

/* Paths and values, as Firestore would hold them. */
static const char *
parse_values(Incoming *in, JsonbContainer *object)
{
	static const Codec plain = {CODEC_JSONB, 0, NULL};
	StringInfoData wire;
	SyncError err = {0};
	JsonbValue value;
	cJSON *map;

	if (strcmp(in->entry.action, "delete") == 0)
		return NULL;
	if (!look_up(object, "changes", &value))
		return "the change has no changes";
	if (!is_object(&value))
		return "its changes are not an object";
	initStringInfo(&wire);
	if (!value_encode(&plain,
					  JsonbToCString(NULL, value.val.binary.data,
									 value.val.binary.len),
					  &wire, &err))
		return err.message;
	map = store_json(wire.data, CurrentMemoryContext);
	map = cJSON_GetObjectItemCaseSensitive(map, "mapValue");
	in->entry.changes = cJSON_GetObjectItemCaseSensitive(map, "fields");
	return NULL;
}

char *
incoming_join(const char *message, const char *what, const char *why)
{
	return psprintf("%s%s%s: %s", message != NULL ? message : "",
					message != NULL ? "; " : "", what, why);
}

/* Why values cannot be taken, whoever the member is. */
static const char *
parse_entry(const Mapping *map, Incoming *in)
{
	Member m = {0};
	char *error = NULL;
	ListCell *lc;

	m.entries = list_make1(&in->entry);
	entries_parse(map, &m);
	foreach (lc, in->entry.parsed)
	{
		const EntryChange *change = lfirst(lc);

		if (change->error != NULL)
			error = incoming_join(error, change->path, change->error);
	}
	return error;
}

static void
parse_change(const Mapping *map, Incoming *in, JsonbValue *value)
{
	JsonbContainer *object;
	const char *error;

	if (!is_object(value))
	{
		in->error = "the change is not an object";
		return;
	}
	object = value->val.binary.data;
	error = parse_key(in, object);
	if (error == NULL)
		error = parse_action(in, object);
	if (error == NULL)
		error = parse_time(in, object);
	if (error == NULL)
		error = parse_values(in, object);
	if (error == NULL)
		error = parse_entry(map, in);
	if (error != NULL)
		in->error = clip_message(error);
}

Incoming *
incoming_parse(const Mapping *map, Jsonb *given, int *n)
{
	JsonbContainer *list = list_of_changes(given);
	Incoming *changes;
	int i;

	*n = (int) JsonContainerSize(list);
	changes = palloc0(sizeof(Incoming) * (*n + 1));
	for (i = 0; i < *n; i++)
	{
		changes[i].ordinal = i + 1;
		parse_change(map, &changes[i],
					 getIthJsonbValueFromContainer(list, (uint32) i));
	}
	return changes;
}
