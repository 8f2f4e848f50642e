/*
 * wire.c
 *		Firestore Values as JSON: their types, their content as plain JSON, and
 *		JSON as Values.
 *
 * Works on cJSON trees and never keeps them; nothing here throws for what a
 * document holds.  May not know: columns, codecs.
 */
#include "postgres.h"

#include <math.h>

#include "common/shortest_dec.h"
#include "utils/builtins.h"
#include "utils/json.h"

#include "codecs.h"

/* Doubles below this hold integers exactly. */
#define MAX_EXACT_DOUBLE 9007199254740992.0

static const char *const wire_names[] = {[WIRE_NULL] = "nullValue",
										 [WIRE_BOOLEAN] = "booleanValue",
										 [WIRE_INTEGER] = "integerValue",
										 [WIRE_DOUBLE] = "doubleValue",
										 [WIRE_TIMESTAMP] = "timestampValue",
										 [WIRE_STRING] = "stringValue",
										 [WIRE_BYTES] = "bytesValue",
										 [WIRE_REFERENCE] = "referenceValue",
										 [WIRE_GEO_POINT] = "geoPointValue",
										 [WIRE_ARRAY] = "arrayValue",
										 [WIRE_MAP] = "mapValue"};

/* A place in canonical JSON that becomes a Value. */
typedef struct Encoder
{
	const char *p;
	StringInfo out;
	SyncError *err;
} Encoder;

static bool encode_any(Encoder *e, int depth, bool in_array);

/*
 * Parse len bytes of JSON from the wire (text[len] is '\0').  cJSON ends a string at \u0000, so
 * that escape is replaced first by two bytes that are not valid UTF-8
 * (WIRE_ZERO), by which text_check knows it.  NULL when malformed; the caller
 * frees the tree by cJSON_Delete.
 */
cJSON *
wire_parse(const char *text, size_t len)
{
	const char *end = text + len;
	const char *p = text;
	char *copy;
	char *to;
	cJSON *tree;

	if (strstr(text, "\\u0000") == NULL)
		return cJSON_ParseWithLength(text, len);

	copy = to = palloc(len + 1);
	while (p < end)
	{
		if (*p != '\\' || end - p < 2)
			*to++ = *p++;
		else if (end - p >= 6 && memcmp(p, "\\u0000", 6) == 0)
		{
			memcpy(to, WIRE_ZERO, strlen(WIRE_ZERO));
			to += strlen(WIRE_ZERO);
			p += 6;
		}
		else
		{
			*to++ = *p++;
			*to++ = *p++;
		}
	}
	*to = '\0';

	tree = cJSON_ParseWithLength(copy, to - copy);
	pfree(copy);
	return tree;
}

/* See codecs.h. */
const char *
wire_type_name(WireType type)
{
	return wire_names[type];
}

/* Is content an object with nothing but one array or object of this name? */
static bool
holds_only(const cJSON *content, const char *name, int json_type)
{
	const cJSON *item;

	if (!cJSON_IsObject(content))
		return false;
	cJSON_ArrayForEach (item, content)
	{
		if (strcmp(item->string, name) != 0 ||
			(item->type & 0xff) != json_type)
			return false;
	}
	return true;
}

/* A latitude or longitude, of which zero is left out; false if malformed. */
static bool
geo_coordinate(const cJSON *content, const char *name, double *number)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(content, name);

	*number = cJSON_IsNumber(item) ? item->valuedouble : 0;
	return (item == NULL || cJSON_IsNumber(item)) && isfinite(*number);
}

/* Has content the JSON type that a Value of this type has? */
static bool
content_fits(WireType type, const cJSON *content)
{
	double number;

	switch (type)
	{
		case WIRE_NULL:
			return cJSON_IsNull(content) ||
				   (cJSON_IsString(content) &&
					strcmp(content->valuestring, "NULL_VALUE") == 0);
		case WIRE_BOOLEAN:
			return cJSON_IsBool(content);
		case WIRE_INTEGER:
		case WIRE_DOUBLE:
			return cJSON_IsNumber(content) || cJSON_IsString(content);
		case WIRE_TIMESTAMP:
		case WIRE_STRING:
		case WIRE_BYTES:
		case WIRE_REFERENCE:
			return cJSON_IsString(content);
		case WIRE_GEO_POINT:
			return cJSON_IsObject(content) &&
				   geo_coordinate(content, "latitude", &number) &&
				   geo_coordinate(content, "longitude", &number);
		case WIRE_ARRAY:
			return holds_only(content, "values", cJSON_Array);
		case WIRE_MAP:
			return holds_only(content, "fields", cJSON_Object);
	}
	return false;
}

/* See codecs.h. */
bool
wire_open(const cJSON *value, WireType *type, const cJSON **content,
		  SyncError *err)
{
	const cJSON *item = cJSON_IsObject(value) ? value->child : NULL;
	int i;

	if (item != NULL && item->next == NULL)
	{
		for (i = 0; i < (int) lengthof(wire_names); i++)
		{
			if (strcmp(item->string, wire_names[i]) == 0 &&
				content_fits((WireType) i, item))
			{
				*type = (WireType) i;
				*content = item;
				return true;
			}
		}
	}
	return sync_error(err, ERRCODE_INVALID_PARAMETER_VALUE,
					  "not a Firestore Value of a known type");
}

/* See codecs.h.  Numbers are 64 bit integers as text; or exact as doubles. */
bool
wire_integer(const cJSON *content, int64 *number, SyncError *err)
{
	if (cJSON_IsString(content))
	{
		if (int_parse(content->valuestring, number))
			return true;
	}
	else if (fabs(content->valuedouble) < MAX_EXACT_DOUBLE &&
			 content->valuedouble == rint(content->valuedouble))
	{
		*number = (int64) content->valuedouble;
		return true;
	}
	return sync_error(err, ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
					  "integerValue is not a 64 bit integer");
}

/* See codecs.h. */
bool
wire_double(const cJSON *content, double *number, SyncError *err)
{
	if (cJSON_IsNumber(content))
	{
		*number = content->valuedouble;
		return true;
	}
	if (strcmp(content->valuestring, "NaN") == 0)
		*number = NAN;
	else if (strcmp(content->valuestring, "Infinity") == 0)
		*number = INFINITY;
	else if (strcmp(content->valuestring, "-Infinity") == 0)
		*number = -INFINITY;
	else if (number_read(content->valuestring, err) != NULL)
		*number = strtod(content->valuestring, NULL);
	else
		return false;
	return true;
}

/* See codecs.h. */
const char *
wire_text(const cJSON *content, SyncError *err)
{
	return text_check(content->valuestring, err) ? content->valuestring : NULL;
}

/* See codecs.h. */
const cJSON *
wire_children(const cJSON *content)
{
	return content->child != NULL ? content->child->child : NULL;
}

static bool
append_plain_double(double number, StringInfo out, bool finite, SyncError *err)
{
	char buf[DOUBLE_SHORTEST_DECIMAL_LEN];

	if (!isfinite(number) && finite)
		return sync_error(err, ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
						  "NaN and infinities have no form in JSON");
	double_to_shortest_decimal_buf(number, buf);
	if (isfinite(number))
		appendStringInfoString(out, buf);
	else
		appendStringInfo(out, "\"%s\"", buf);
	return true;
}

static bool
append_plain_time(const cJSON *content, StringInfo out, SyncError *err)
{
	TimestampTz t;

	if (!time_parse(content->valuestring, &t))
		return sync_error(
			err, ERRCODE_INVALID_DATETIME_FORMAT,
			"timestampValue is not a time in the years 1 to 9999");
	appendStringInfo(out, "\"%s\"", time_format(t));
	return true;
}

static bool
append_plain_array(const cJSON *content, StringInfo out, int depth,
				   bool finite, SyncError *err)
{
	const cJSON *item;
	const char *separator = "";

	appendStringInfoChar(out, '[');
	for (item = wire_children(content); item != NULL; item = item->next)
	{
		appendStringInfoString(out, separator);
		if (!wire_append_plain(item, out, depth + 1, finite, err))
			return false;
		separator = ", ";
	}
	appendStringInfoChar(out, ']');
	return true;
}

static bool
append_plain_map(const cJSON *content, StringInfo out, int depth, bool finite,
				 SyncError *err)
{
	const cJSON *item;
	const char *separator = "";

	appendStringInfoChar(out, '{');
	for (item = wire_children(content); item != NULL; item = item->next)
	{
		if (!text_check(item->string, err))
			return false;
		appendStringInfoString(out, separator);
		escape_json(out, item->string);
		appendStringInfoString(out, ": ");
		if (!wire_append_plain(item, out, depth + 1, finite, err))
			return false;
		separator = ", ";
	}
	appendStringInfoChar(out, '}');
	return true;
}

static void
append_plain_geo(const cJSON *content, StringInfo out)
{
	double latitude;
	double longitude;

	(void) geo_coordinate(content, "latitude", &latitude);
	(void) geo_coordinate(content, "longitude", &longitude);
	appendStringInfoString(out, "{\"latitude\": ");
	(void) append_plain_double(latitude, out, true, NULL);
	appendStringInfoString(out, ", \"longitude\": ");
	(void) append_plain_double(longitude, out, true, NULL);
	appendStringInfoChar(out, '}');
}

/* See codecs.h. */
bool
wire_append_plain(const cJSON *value, StringInfo out, int depth, bool finite,
				  SyncError *err)
{
	WireType type;
	const cJSON *content;
	int64 integer;
	double number;

	if (depth > READ_MAX_DEPTH)
		return sync_error(err, ERRCODE_PROGRAM_LIMIT_EXCEEDED,
						  "value is nested more than %d levels deep",
						  READ_MAX_DEPTH);
	if (!wire_open(value, &type, &content, err))
		return false;

	switch (type)
	{
		case WIRE_NULL:
			appendStringInfoString(out, CANON_NULL);
			return true;
		case WIRE_BOOLEAN:
			appendStringInfoString(out,
								   cJSON_IsTrue(content) ? "true" : "false");
			return true;
		case WIRE_INTEGER:
			if (!wire_integer(content, &integer, err))
				return false;
			appendStringInfo(out, INT64_FORMAT, integer);
			return true;
		case WIRE_DOUBLE:
			return wire_double(content, &number, err) &&
				   append_plain_double(number, out, finite, err);
		case WIRE_TIMESTAMP:
			return append_plain_time(content, out, err);
		case WIRE_STRING:
		case WIRE_BYTES:
		case WIRE_REFERENCE:
			if (wire_text(content, err) == NULL)
				return false;
			escape_json(out, content->valuestring);
			return true;
		case WIRE_GEO_POINT:
			append_plain_geo(content, out);
			return true;
		case WIRE_ARRAY:
			return append_plain_array(content, out, depth, finite, err);
		case WIRE_MAP:
			return append_plain_map(content, out, depth, finite, err);
	}
	return false;
}

/*
 * A Value of any type as plain JSON, appended to out (which holds a part of
 * it when this fails).  Timestamps (UTC, six digits), bytes (base64),
 * references, NaN and infinities become strings.  False with *err for what
 * jsonb cannot hold, for over 32 levels, and for what is not a Value.
 */
bool
value_to_plain(const cJSON *value, StringInfo out, SyncError *err)
{
	return wire_append_plain(value, out, 0, false, err);
}

/* ---- canonical JSON -> Value ---- */

static bool
encode_malformed(Encoder *e)
{
	return sync_error(e->err, ERRCODE_INVALID_PARAMETER_VALUE,
					  "value is not in canonical form");
}

/* Step over the canonical string at e->p; *text is what it stands for. */
static bool
encode_scan_string(Encoder *e, char **text)
{
	const char *end = canon_scan_string(e->p, text);

	if (end == NULL)
		return encode_malformed(e);
	e->p = end;
	return true;
}

static bool
encode_string(Encoder *e)
{
	const char *start = e->p;
	char *text;
	size_t len;

	if (!encode_scan_string(e, &text))
		return false;
	len = strlen(text);
	pfree(text);
	if (len > FIRESTORE_MAX_STRING)
		return sync_error(
			e->err, ERRCODE_PROGRAM_LIMIT_EXCEEDED,
			"text of %zu bytes is over Firestore's limit of %d bytes", len,
			FIRESTORE_MAX_STRING);

	appendStringInfoString(e->out, "{\"stringValue\":");
	appendBinaryStringInfo(e->out, start, (int) (e->p - start));
	appendStringInfoChar(e->out, '}');
	return true;
}

/* An integer of 64 bits; else a double, if no digit is lost by that. */
static bool
encode_number(Encoder *e)
{
	size_t len = strspn(e->p, "-0123456789.");
	char *token = pnstrdup(e->p, len);
	char *exact = number_read(token, NULL);
	char shortest[DOUBLE_SHORTEST_DECIMAL_LEN];
	char *back;
	int64 integer;

	if (exact == NULL)
		return encode_malformed(e);
	e->p += len;

	if (int_parse(exact, &integer))
	{
		appendStringInfo(e->out, "{\"integerValue\":\"" INT64_FORMAT "\"}",
						 integer);
		return true;
	}

	double_to_shortest_decimal_buf(strtod(token, NULL), shortest);
	back = number_read(shortest, NULL);
	if (back == NULL || strcmp(back, exact) != 0)
		return sync_error(
			e->err, ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
			"number has more digits than a Firestore number can hold");
	appendStringInfo(e->out, "{\"doubleValue\":%s}", shortest);
	return true;
}

static bool
encode_literal(Encoder *e)
{
	static const struct
	{
		const char *literal;
		const char *value;
	} literals[] = {{"null", "{\"nullValue\":null}"},
					{"true", "{\"booleanValue\":true}"},
					{"false", "{\"booleanValue\":false}"}};
	int i;

	for (i = 0; i < (int) lengthof(literals); i++)
	{
		size_t len = strlen(literals[i].literal);

		if (strncmp(e->p, literals[i].literal, len) == 0)
		{
			appendStringInfoString(e->out, literals[i].value);
			e->p += len;
			return true;
		}
	}
	return encode_malformed(e);
}

/*
 * After an element: step over ", " and append a comma, or over the closing
 * character; *more says which.
 */
static bool
encode_separator(Encoder *e, char closing, bool *more)
{
	*more = (*e->p == ',');
	if (*e->p == closing)
	{
		e->p++;
		return true;
	}
	if (strncmp(e->p, ", ", 2) != 0)
		return encode_malformed(e);
	e->p += 2;
	appendStringInfoChar(e->out, ',');
	return true;
}

static bool
encode_array(Encoder *e, int depth)
{
	bool more = (e->p[1] != ']');

	appendStringInfoString(e->out, "{\"arrayValue\":{\"values\":[");
	e->p += more ? 1 : 2;
	while (more)
	{
		if (!encode_any(e, depth + 1, true) ||
			!encode_separator(e, ']', &more))
			return false;
	}
	appendStringInfoString(e->out, "]}}");
	return true;
}

static bool
encode_map(Encoder *e, int depth)
{
	bool more = (e->p[1] != '}');

	appendStringInfoString(e->out, "{\"mapValue\":{\"fields\":{");
	e->p += more ? 1 : 2;
	while (more)
	{
		const char *start = e->p;
		char *name;

		if (!encode_scan_string(e, &name) || !name_check(name, e->err))
			return false;
		pfree(name);
		appendBinaryStringInfo(e->out, start, (int) (e->p - start));
		if (strncmp(e->p, ": ", 2) != 0)
			return encode_malformed(e);
		e->p += 2;
		appendStringInfoChar(e->out, ':');
		if (!encode_any(e, depth + 1, false) ||
			!encode_separator(e, '}', &more))
			return false;
	}
	appendStringInfoString(e->out, "}}}");
	return true;
}

static bool
encode_any(Encoder *e, int depth, bool in_array)
{
	if (*e->p == '"')
		return encode_string(e);
	if (*e->p != '[' && *e->p != '{')
		return (*e->p == '-' || (*e->p >= '0' && *e->p <= '9'))
				   ? encode_number(e)
				   : encode_literal(e);

	if (depth == FIRESTORE_MAX_DEPTH)
		return sync_error(
			e->err, ERRCODE_PROGRAM_LIMIT_EXCEEDED,
			"value is nested deeper than the %d levels that Firestore allows",
			FIRESTORE_MAX_DEPTH);
	if (*e->p == '{')
		return encode_map(e, depth);
	if (in_array)
		return sync_error(e->err, ERRCODE_FEATURE_NOT_SUPPORTED,
						  "Firestore cannot hold an array in an array");
	return encode_array(e, depth);
}

/* See codecs.h.  out holds a part of the Value when this fails. */
bool
wire_append_value(const char *canon, StringInfo out, SyncError *err)
{
	Encoder e = {canon, out, err};

	if (!encode_any(&e, 0, false))
		return false;
	return *e.p == '\0' || encode_malformed(&e);
}
