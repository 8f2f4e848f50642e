/*
 * value.c
 *		Firestore Values -> canonical form and back, by codec.
 *
 * May not know: columns, documents as wholes.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"

#include "codecs.h"

/* ---- Value -> canonical ---- */

static char *
decode_jsonb(const cJSON *value, SyncError *err)
{
	StringInfoData plain;
	Datum jsonb;

	initStringInfo(&plain);
	if (!wire_append_plain(value, &plain, 0, true, err))
		return NULL;

	/* well-formed by construction: this cannot fail */
	jsonb = DirectFunctionCall1(jsonb_in, CStringGetDatum(plain.data));
	return canon_from_jsonb(DatumGetJsonbP(jsonb));
}

static char *
decode_texts(const Codec *codec, const cJSON *content, SyncError *err)
{
	StringInfoData canon;
	const cJSON *item;

	initStringInfo(&canon);
	appendStringInfoChar(&canon, '[');
	for (item = wire_children(content); item != NULL; item = item->next)
	{
		WireType type;
		const cJSON *element;

		if (!wire_open(item, &type, &element, err))
			return NULL;
		if (type != WIRE_STRING)
		{
			sync_error(err, ERRCODE_DATATYPE_MISMATCH,
					   "codec \"%s\" does not read an array with an element "
					   "of type %s",
					   codec_name(codec), wire_type_name(type));
			return NULL;
		}
		if (wire_text(element, err) == NULL)
			return NULL;
		if (canon.len > 1)
			appendStringInfoString(&canon, ", ");
		escape_json(&canon, element->valuestring);
	}
	appendStringInfoChar(&canon, ']');
	return canon.data;
}

static char *
decode_text(const Codec *codec, const cJSON *content, SyncError *err)
{
	const char *text = wire_text(content, err);

	return text ? codec_read_text(codec, text, err) : NULL;
}

/*
 * Value -> canonical, palloc'd in the current context; value stays the
 * caller's.  NULL value (absent) and nullValue are canonical null.  NULL with
 * *err when the value's type or content is not the codec's.
 */
char *
value_decode(const Codec *codec, const cJSON *value, SyncError *err)
{
	WireType type;
	const cJSON *content;
	int64 integer;
	double number;

	if (value == NULL)
		return pstrdup(CANON_NULL);
	if (!wire_open(value, &type, &content, err))
		return NULL;
	if (type == WIRE_NULL)
		return pstrdup(CANON_NULL);
	if (codec->kind == CODEC_JSONB)
		return decode_jsonb(value, err);

	switch (type)
	{
		case WIRE_STRING:
			return decode_text(codec, content, err);
		case WIRE_TIMESTAMP:
			if (codec->kind == CODEC_TIMESTAMP)
				return decode_text(codec, content, err);
			break;
		case WIRE_BOOLEAN:
			if (codec->kind == CODEC_BOOL)
				return pstrdup(cJSON_IsTrue(content) ? "true" : "false");
			break;
		case WIRE_INTEGER:
			return wire_integer(content, &integer, err)
					   ? codec_read_int(codec, integer, err)
					   : NULL;
		case WIRE_DOUBLE:
			return wire_double(content, &number, err)
					   ? codec_read_double(codec, number, err)
					   : NULL;
		case WIRE_ARRAY:
			if (codec->kind == CODEC_TEXT_ARRAY)
				return decode_texts(codec, content, err);
			break;
		default:
			break;
	}
	return codec_unread(codec, type, err);
}

/* ---- canonical -> Value ---- */

static bool
not_canonical(const Codec *codec, SyncError *err)
{
	return sync_error(err, ERRCODE_INVALID_PARAMETER_VALUE,
					  "value is not in the canonical form of codec \"%s\"",
					  codec_name(codec));
}

static bool
encode_int(const Codec *codec, const char *canon, StringInfo out,
		   SyncError *err)
{
	int64 number;

	if (!int_parse(canon, &number))
		return not_canonical(codec, err);
	appendStringInfo(out, "{\"integerValue\":\"" INT64_FORMAT "\"}", number);
	return true;
}

static bool
encode_bool(const Codec *codec, const char *canon, StringInfo out,
			SyncError *err)
{
	if (strcmp(canon, "true") != 0 && strcmp(canon, "false") != 0)
		return not_canonical(codec, err);
	appendStringInfo(out, "{\"booleanValue\":%s}", canon);
	return true;
}

static bool
encode_enum(const Codec *codec, const char *canon, StringInfo out,
			SyncError *err)
{
	const EnumPair *pair = codec_find_code(codec, canon, err);

	if (pair == NULL)
		return false;
	appendStringInfo(out, "{\"stringValue\":%s}", pair->label);
	return true;
}

static bool
encode_texts(const Codec *codec, const char *canon, StringInfo out,
			 SyncError *err)
{
	char **texts;

	if (canon_to_texts(canon, &texts) < 0)
		return not_canonical(codec, err);
	return wire_append_value(canon, out, err);
}

/* Codecs whose canonical form is a string that they read as they write it. */
static bool
encode_string(const Codec *codec, const char *canon, StringInfo out,
			  SyncError *err)
{
	char *text = canon_to_text(canon);
	char *again;

	if (text == NULL)
		return not_canonical(codec, err);
	again = codec_read_text(codec, text, err);
	if (again == NULL)
		return false;
	if (strcmp(again, canon) != 0)
		return not_canonical(codec, err);

	if (codec->kind != CODEC_TIMESTAMP)
		return wire_append_value(canon, out, err);
	appendStringInfo(out, "{\"timestampValue\":%s}", canon);
	return true;
}

/*
 * canonical -> Value, appended to out as compact JSON.  False with *err when
 * canon is not the codec's, or when Firestore cannot hold it; out may then
 * hold a part of it.
 */
bool
value_encode(const Codec *codec, const char *canon, StringInfo out,
			 SyncError *err)
{
	if (strcmp(canon, CANON_NULL) == 0)
		return wire_append_value(canon, out, err);

	switch (codec->kind)
	{
		case CODEC_INT:
			return encode_int(codec, canon, out, err);
		case CODEC_BOOL:
			return encode_bool(codec, canon, out, err);
		case CODEC_ENUM:
			return encode_enum(codec, canon, out, err);
		case CODEC_JSONB:
			return wire_append_value(canon, out, err);
		case CODEC_TEXT_ARRAY:
			return encode_texts(codec, canon, out, err);
		case CODEC_TEXT:
		case CODEC_DATE:
		case CODEC_TIMESTAMP:
		case CODEC_NUMERIC:
		case CODEC_KENNITALA:
		case CODEC_PHONE:
			return encode_string(codec, canon, out, err);
	}
	return not_canonical(codec, err);
}
