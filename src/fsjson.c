/*
 * fsjson.c
 *		Text of Firestore's requests, and parsing of its answers.
 *
 * Part of the Firestore client: it knows the JSON form of documents, writes
 * and queries.  It sends nothing, and knows neither tables nor codecs.
 */
#include "postgres.h"

#include "fsint.h"
#include "mb/pg_wchar.h"
#include "utils/json.h"
#include "utils/memutils.h"

/* Longest text of a server that is passed on. */
#define SAFE_TEXT_LEN 200

/* Longest id of a document in bytes. */
#define MAX_ID_LEN 1500

/* ---- answers ---- */

/* A parsed answer and what frees it. */
typedef struct ParsedJson
{
	MemoryContextCallback callback;
	cJSON *root;
} ParsedJson;

static void
json_free(void *arg)
{
	cJSON_Delete(((ParsedJson *) arg)->root);
}

cJSON *
fs_parse(const char *text, size_t len)
{
	ParsedJson *parsed;

	if (!pg_verify_mbstr(PG_UTF8, text, (int) len, true))
		return NULL;
	parsed = palloc0(sizeof(ParsedJson));
	parsed->callback.func = json_free;
	parsed->callback.arg = parsed;
	MemoryContextRegisterResetCallback(CurrentMemoryContext,
									   &parsed->callback);
	parsed->root = wire_parse(text, len);
	return parsed->root;
}

const char *
fs_string(const cJSON *object, const char *name)
{
	return cJSON_GetStringValue(
		cJSON_GetObjectItemCaseSensitive(object, name));
}

TimestampTz
fs_time(const cJSON *object, const char *name)
{
	const char *text = fs_string(object, name);
	TimestampTz t;

	return text != NULL && time_parse(text, &t) ? t : 0;
}

bool
fs_document(const cJSON *document, FsDoc *doc)
{
	const char *name = fs_string(document, "name");
	const char *slash = name ? strrchr(name, '/') : NULL;
	const cJSON *fields;

	memset(doc, 0, sizeof(FsDoc));
	if (slash == NULL)
		return false;
	doc->id = pstrdup(slash + 1);
	doc->create_time = fs_time(document, "createTime");
	doc->update_time = fs_time(document, "updateTime");
	fields = cJSON_GetObjectItemCaseSensitive(document, "fields");
	if (cJSON_IsObject(fields) && fields->child != NULL)
		doc->fields = fields;
	return doc->update_time != 0;
}

char *
fs_safe_text(const char *text)
{
	size_t len = strlen(text);
	char *safe = mask_message(text);
	bool ascii = GetDatabaseEncoding() != PG_UTF8 ||
				 !pg_verify_mbstr(PG_UTF8, text, (int) len, true);

	for (char *s = safe; *s; s++)
	{
		if ((unsigned char) *s < ' ' || *s == 0x7f)
			*s = ' ';
		else if (ascii && IS_HIGHBIT_SET(*s))
			*s = '?';
	}
	safe[pg_mbcliplen(safe, (int) len, SAFE_TEXT_LEN)] = '\0';
	return safe;
}

/* ---- names and paths ---- */

bool
fs_id_valid(const char *id)
{
	size_t len = strlen(id);

	if (len == 0 || len > MAX_ID_LEN || strchr(id, '/') != NULL)
		return false;
	if (strcmp(id, ".") == 0 || strcmp(id, "..") == 0)
		return false;
	return !(len >= 4 && strncmp(id, "__", 2) == 0 &&
			 strcmp(id + len - 2, "__") == 0);
}

void
fs_append_name(StringInfo out, const FsClient *client, const char *collection,
			   const char *id)
{
	char *name = psprintf("%s/%s/%s", client->root, collection, id);

	escape_json(out, name);
	pfree(name);
}

void
fs_append_paths(StringInfo out, const FieldPath *const *paths, int n)
{
	appendStringInfoChar(out, '[');
	for (int i = 0; i < n; i++)
	{
		if (i > 0)
			appendStringInfoChar(out, ',');
		escape_json(out, paths[i]->quoted);
	}
	appendStringInfoChar(out, ']');
}

/* ---- writes ---- */

/* Do two paths have the same first n segments? */
static bool
same_prefix(const FieldPath *a, const FieldPath *b, int n)
{
	if (a->nsegments <= n || b->nsegments <= n)
		return false;
	for (int i = 0; i < n; i++)
	{
		if (strcmp(a->segments[i], b->segments[i]) != 0)
			return false;
	}
	return true;
}

/*
 * Append, as members of a "fields" object, the values whose paths begin with
 * the first depth segments of values[first]: leaves as they are, everything
 * deeper in a map of its own.
 */
static void
append_level(StringInfo out, const FsFieldValue *values, int n, int first,
			 int depth)
{
	bool comma = false;

	for (int i = first; i < n; i++)
	{
		const FieldPath *path = values[i].path;
		bool again = false;

		if (values[i].value == NULL ||
			!same_prefix(path, values[first].path, depth))
			continue;
		/* a map was written with the first of its values */
		for (int j = first; j < i && !again; j++)
			again = values[j].value != NULL && path->nsegments > depth + 1 &&
					same_prefix(path, values[j].path, depth + 1);
		if (again)
			continue;

		if (comma)
			appendStringInfoChar(out, ',');
		comma = true;
		escape_json(out, path->segments[depth]);
		appendStringInfoChar(out, ':');
		if (path->nsegments == depth + 1)
			appendStringInfoString(out, values[i].value);
		else
		{
			appendStringInfoString(out, "{\"mapValue\":{\"fields\":{");
			append_level(out, values, n, i, depth + 1);
			appendStringInfoString(out, "}}}");
		}
	}
}

void
fs_append_fields(StringInfo out, const FsFieldValue *values, int n)
{
	appendStringInfoChar(out, '{');
	append_level(out, values, n, 0, 0);
	appendStringInfoChar(out, '}');
}

/* The document of a write and the mask of what is written. */
static void
append_update(StringInfo out, const FsClient *client, const FsWrite *write)
{
	const FieldPath **paths;

	appendStringInfoString(out, "\"update\":{\"name\":");
	fs_append_name(out, client, write->collection, write->id);
	appendStringInfoString(out, ",\"fields\":");
	if (write->whole)
	{
		appendStringInfoString(out, write->whole);
		appendStringInfoChar(out, '}');
		return;
	}
	fs_append_fields(out, write->values, write->nvalues);
	appendStringInfoString(out, "},\"updateMask\":{\"fieldPaths\":");
	paths = palloc(sizeof(FieldPath *) * Max(write->nvalues, 1));
	for (int i = 0; i < write->nvalues; i++)
		paths[i] = write->values[i].path;
	fs_append_paths(out, paths, write->nvalues);
	pfree(paths);
	appendStringInfoChar(out, '}');
}

/* The fields that the server sets to its own time. */
static void
append_transforms(StringInfo out, const FsWrite *write)
{
	appendStringInfoString(out, ",\"updateTransforms\":[");
	for (int i = 0; i < write->ntimes; i++)
	{
		appendStringInfoString(out,
							   i > 0 ? ",{\"fieldPath\":" : "{\"fieldPath\":");
		escape_json(out, write->times[i]->quoted);
		appendStringInfoString(out, ",\"setToServerValue\":\"REQUEST_TIME\"}");
	}
	appendStringInfoChar(out, ']');
}

void
fs_append_write(StringInfo out, const FsClient *client, const FsWrite *write)
{
	appendStringInfoChar(out, '{');
	if (write->delete)
	{
		appendStringInfoString(out, "\"delete\":");
		fs_append_name(out, client, write->collection, write->id);
	}
	else
	{
		append_update(out, client, write);
		if (write->ntimes > 0)
			append_transforms(out, write);
	}
	switch (write->pre)
	{
		case FS_PRE_NONE:
			break;
		case FS_PRE_EXISTS:
			appendStringInfoString(out,
								   ",\"currentDocument\":{\"exists\":true}");
			break;
		case FS_PRE_MISSING:
			appendStringInfoString(out,
								   ",\"currentDocument\":{\"exists\":false}");
			break;
		case FS_PRE_UPDATE_TIME:
			appendStringInfo(out,
							 ",\"currentDocument\":{\"updateTime\":\"%s\"}",
							 time_format(write->pre_time));
			break;
	}
	appendStringInfoChar(out, '}');
}

/* ---- queries ---- */

static void
append_filter(StringInfo out, const FsFilter *filter)
{
	appendStringInfoString(out, "{\"fieldFilter\":{\"field\":{\"fieldPath\":");
	escape_json(out, filter->field);
	appendStringInfoString(out, "},\"op\":");
	escape_json(out, filter->op);
	appendStringInfo(out, ",\"value\":%s}}", filter->value);
}

static void
append_where(StringInfo out, const FsQuery *query)
{
	appendStringInfoString(out, ",\"where\":");
	if (query->nfilters == 1)
	{
		append_filter(out, &query->filters[0]);
		return;
	}
	appendStringInfoString(
		out, "{\"compositeFilter\":{\"op\":\"AND\",\"filters\":[");
	for (int i = 0; i < query->nfilters; i++)
	{
		if (i > 0)
			appendStringInfoChar(out, ',');
		append_filter(out, &query->filters[i]);
	}
	appendStringInfoString(out, "]}}");
}

/* The fields wanted; the cursor's is always among them. */
static void
append_select(StringInfo out, const FsQuery *query)
{
	bool ordered = query->order_by == NULL;

	appendStringInfoString(out, ",\"select\":{\"fields\":[");
	for (int i = 0; i < query->nmask; i++)
	{
		appendStringInfoString(out,
							   i > 0 ? ",{\"fieldPath\":" : "{\"fieldPath\":");
		escape_json(out, query->mask[i]->quoted);
		appendStringInfoChar(out, '}');
		if (!ordered && strcmp(query->mask[i]->quoted, query->order_by) == 0)
			ordered = true;
	}
	if (query->nmask > 0 && !ordered)
		appendStringInfoChar(out, ',');
	if (!ordered || query->nmask == 0)
	{
		appendStringInfoString(out, "{\"fieldPath\":");
		escape_json(out, query->order_by ? query->order_by : "__name__");
		appendStringInfoChar(out, '}');
	}
	appendStringInfoString(out, "]}");
}

static void
append_order(StringInfo out, const FsQuery *query)
{
	appendStringInfoString(out, ",\"orderBy\":[");
	if (query->order_by)
	{
		appendStringInfoString(out, "{\"field\":{\"fieldPath\":");
		escape_json(out, query->order_by);
		appendStringInfoString(out, "},\"direction\":\"ASCENDING\"},");
	}
	appendStringInfoString(out, "{\"field\":{\"fieldPath\":\"__name__\"},"
								"\"direction\":\"ASCENDING\"}]");
}

void
fs_append_query(StringInfo out, const FsQuery *query)
{
	appendStringInfoString(
		out, "{\"structuredQuery\":{\"from\":[{\"collectionId\":");
	escape_json(out, query->collection);
	appendStringInfoString(out, "}]");
	if (!query->all_fields)
		append_select(out, query);
	if (query->nfilters > 0)
		append_where(out, query);
	append_order(out, query);
	if (query->after_name)
	{
		/* "before": false means after the document with these values */
		appendStringInfoString(out,
							   ",\"startAt\":{\"before\":false,\"values\":[");
		if (query->order_by)
			appendStringInfo(out, "%s,", query->after_value);
		appendStringInfoString(out, "{\"referenceValue\":");
		escape_json(out, query->after_name);
		appendStringInfoString(out, "}]}");
	}
	appendStringInfo(out, ",\"limit\":%d}}", query->limit);
}
