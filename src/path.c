/*
 * path.c
 *		Field paths: which value of a document.
 *
 * May not know: tables, codecs.
 */
#include "postgres.h"

#include "codecs.h"

/* May a segment stand in a field path as it is? */
static bool
is_plain_segment(const char *segment)
{
	const char *p;

	for (p = segment; *p; p++)
	{
		if (!((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') ||
			  *p == '_' || (*p >= '0' && *p <= '9' && p > segment)))
			return false;
	}
	return p > segment;
}

/*
 * Append a segment (a raw key) to out as Firestore wants it in a field path:
 * in backticks unless it is an ASCII identifier.
 */
void
path_append_quoted(StringInfo out, const char *segment)
{
	const char *p;

	if (is_plain_segment(segment))
	{
		appendStringInfoString(out, segment);
		return;
	}

	appendStringInfoChar(out, '`');
	for (p = segment; *p; p++)
	{
		if (*p == '`' || *p == '\\')
			appendStringInfoChar(out, '\\');
		appendStringInfoChar(out, *p);
	}
	appendStringInfoChar(out, '`');
}

/*
 * Read one segment at *p into key.  In backticks it may hold anything, with a
 * backslash before a backtick or a backslash; without them anything but a dot
 * and a backtick.
 */
static bool
read_segment(const char **p, StringInfo key, SyncError *err)
{
	bool quoted = (**p == '`');

	resetStringInfo(key);
	if (quoted)
		(*p)++;
	while (**p && **p != '`' && (quoted || **p != '.'))
	{
		if (quoted && **p == '\\')
		{
			(*p)++;
			if (**p != '`' && **p != '\\')
				return sync_error(err, ERRCODE_INVALID_NAME,
								  "field path has a backslash that does not "
								  "escape a backtick or a backslash");
		}
		appendStringInfoChar(key, *(*p)++);
	}

	if (quoted != (**p == '`'))
		return sync_error(err, ERRCODE_INVALID_NAME,
						  "field path has an unmatched backtick");
	if (quoted)
		(*p)++;
	if (**p != '.' && **p != '\0')
		return sync_error(err, ERRCODE_INVALID_NAME,
						  "field path has text after a closing backtick");
	return name_check(key->data, err);
}

/*
 * False with *err when name cannot be the name of a field in Firestore: it is
 * empty, over 1500 bytes, or has the reserved form __x__.
 */
bool
name_check(const char *name, SyncError *err)
{
	size_t len = strlen(name);

	if (len == 0)
		return sync_error(err, ERRCODE_INVALID_NAME, "field name is empty");
	if (len > FIRESTORE_MAX_NAME)
		return sync_error(err, ERRCODE_NAME_TOO_LONG,
						  "field name is longer than %d bytes",
						  FIRESTORE_MAX_NAME);
	if (len >= 4 && strncmp(name, "__", 2) == 0 &&
		strcmp(name + len - 2, "__") == 0)
		return sync_error(
			err, ERRCODE_RESERVED_NAME,
			"field name of the form __x__ is reserved by Firestore");
	return true;
}

/*
 * Parse a field path, e.g. profile.`a.b`, into *path, palloc'd in the current
 * context.  Letters that Firestore wants quoted may stand unquoted here.
 * False with *err when it is malformed or too deep for Firestore; *path is
 * undefined then.
 */
bool
path_parse(const char *text, FieldPath *path, SyncError *err)
{
	const char *p = text;
	StringInfoData key;
	StringInfoData quoted;

	if (!text_check(text, err))
		return false;

	path->nsegments = 0;
	path->segments = palloc(FIRESTORE_MAX_DEPTH * sizeof(char *));
	initStringInfo(&key);
	initStringInfo(&quoted);

	for (;;)
	{
		if (!read_segment(&p, &key, err))
			return false;
		if (path->nsegments == FIRESTORE_MAX_DEPTH)
			return sync_error(err, ERRCODE_PROGRAM_LIMIT_EXCEEDED,
							  "field path has more than %d segments",
							  FIRESTORE_MAX_DEPTH);
		path->segments[path->nsegments++] = pstrdup(key.data);
		path_append_quoted(&quoted, key.data);
		if (*p == '\0')
			break;
		appendStringInfoChar(&quoted, *p++);
	}

	pfree(key.data);
	path->quoted = quoted.data;
	return true;
}

/*
 * The Value at a path below a document's "fields" object (NULL: a document
 * without fields); NULL if it is absent.  It belongs to fields.
 */
const cJSON *
path_find(const cJSON *fields, const FieldPath *path)
{
	const cJSON *value = NULL;
	int i;

	for (i = 0; i < path->nsegments; i++)
	{
		value = cJSON_GetObjectItemCaseSensitive(fields, path->segments[i]);
		fields = cJSON_GetObjectItemCaseSensitive(value, "mapValue");
		fields = cJSON_GetObjectItemCaseSensitive(fields, "fields");
	}
	return value;
}
