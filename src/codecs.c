/*
 * codecs.c
 *		The codecs by name, and how each reads a text or a number of a document.
 *
 * Messages show a value only where it is a code, a number or a time, 40
 * characters of it at most, and never the digits of a kennitala.  May not
 * know: columns, cJSON.
 */
#include "postgres.h"

#include <ctype.h>
#include <math.h>

#include "common/shortest_dec.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"

#include "codecs.h"

#define DIGITS "0123456789"

#define KENNITALA_DIGITS 10
#define KENNITALA_HYPHEN 6 /* position of the hyphen, if there is one */

/* Most digits of numeric before and after the point. */
#define NUMERIC_MAX_WHOLE 131072
#define NUMERIC_MAX_FRACTION 16383

/* Most characters of a value in a message. */
#define SHOWN_CHARS 40

static const char *const codec_names[] =
	{[CODEC_TEXT] = "text",			  [CODEC_INT] = "int",
	 [CODEC_BOOL] = "bool",			  [CODEC_DATE] = "date",
	 [CODEC_TIMESTAMP] = "timestamp", [CODEC_NUMERIC] = "numeric",
	 [CODEC_ENUM] = "enum",			  [CODEC_KENNITALA] = "kennitala",
	 [CODEC_PHONE] = "phone",		  [CODEC_JSONB] = "jsonb",
	 [CODEC_TEXT_ARRAY] = "text[]"};

/* Canonical string, also of the empty text; palloc'd. */
static char *
quote_json(const char *s)
{
	StringInfoData buf;

	initStringInfo(&buf);
	escape_json(&buf, s);
	return buf.data;
}

/* ---- lookup ---- */

/* See value.h. */
const char *
codec_name(const Codec *codec)
{
	return codec_names[codec->kind];
}

/*
 * One pair of an enum's options: a label, not empty, and a code, which is an
 * integer or a text that is not empty.
 */
static bool
read_pair(const JsonbValue *label, const JsonbValue *code, EnumPair *pair,
		  SyncError *err)
{
	int64 number;

	pair->label =
		quote_json(pnstrdup(label->val.string.val, label->val.string.len));
	if (code->type == jbvString && code->val.string.len > 0)
		pair->code =
			quote_json(pnstrdup(code->val.string.val, code->val.string.len));
	else if (code->type == jbvNumeric)
		pair->code = numeric_normalize(code->val.numeric);
	else
		pair->code = pstrdup("");

	if (label->val.string.len == 0 ||
		(pair->code[0] != '"' && !int_parse(pair->code, &number)))
		return sync_error(err, ERRCODE_INVALID_PARAMETER_VALUE,
						  "enum options must map labels to integers or texts "
						  "that are not empty");
	return true;
}

/* Append a pair; all codes must be of one type and different. */
static bool
add_pair(Codec *codec, const EnumPair *pair, SyncError *err)
{
	int i;

	for (i = 0; i < codec->npairs; i++)
	{
		if (strcmp(codec->pairs[i].code, pair->code) == 0)
			return sync_error(err, ERRCODE_INVALID_PARAMETER_VALUE,
							  "enum options give the code %s to two labels",
							  pair->code);
		if ((codec->pairs[i].code[0] == '"') != (pair->code[0] == '"'))
			return sync_error(err, ERRCODE_INVALID_PARAMETER_VALUE,
							  "enum options mix integers and texts");
	}
	codec->pairs[codec->npairs++] = *pair;
	return true;
}

static bool
read_pairs(const char *options, Codec *codec, SyncError *err)
{
	char *canon = canon_from_json(options, err);
	Jsonb *jsonb;
	JsonbIterator *it;
	JsonbValue label;
	JsonbValue code;
	EnumPair pair;

	if (canon == NULL)
		return false;
	jsonb =
		DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(canon)));
	if (!JB_ROOT_IS_OBJECT(jsonb) || JB_ROOT_COUNT(jsonb) == 0)
		return sync_error(
			err, ERRCODE_INVALID_PARAMETER_VALUE,
			"enum options are not an object of labels and codes");

	codec->pairs = palloc(JB_ROOT_COUNT(jsonb) * sizeof(EnumPair));
	it = JsonbIteratorInit(&jsonb->root);
	(void) JsonbIteratorNext(&it, &label, true); /* the object's start */
	while (JsonbIteratorNext(&it, &label, true) == WJB_KEY)
	{
		(void) JsonbIteratorNext(&it, &code, true);
		if (!read_pair(&label, &code, &pair, err) ||
			!add_pair(codec, &pair, err))
			return false;
	}
	return true;
}

/* See value.h. */
bool
codec_lookup(const char *name, const char *options, Codec *codec,
			 SyncError *err)
{
	int i;

	for (i = 0; i < (int) lengthof(codec_names); i++)
	{
		if (strcmp(name, codec_names[i]) == 0)
			break;
	}
	if (i == (int) lengthof(codec_names))
		return sync_error(err, ERRCODE_UNDEFINED_OBJECT,
						  "codec \"%s\" does not exist", name);

	codec->kind = (CodecKind) i;
	codec->npairs = 0;
	codec->pairs = NULL;
	if ((codec->kind == CODEC_ENUM) != (options != NULL))
		return sync_error(
			err, ERRCODE_INVALID_PARAMETER_VALUE,
			options ? "codec \"%s\" takes no options"
					: "codec \"%s\" needs options that map labels to codes",
			name);
	return options == NULL || read_pairs(options, codec, err);
}

/* ---- readers of text ---- */

/*
 * Length of the run of digits at s if it may be a kennitala: ten digits or
 * more, or six and four with a hyphen or a space between; else 0.
 */
static size_t
kennitala_length(const char *s)
{
	size_t len = strspn(s, DIGITS);

	if (len == KENNITALA_HYPHEN && (s[len] == '-' || s[len] == ' ') &&
		strspn(s + len + 1, DIGITS) == KENNITALA_DIGITS - KENNITALA_HYPHEN)
		return KENNITALA_DIGITS + 1;
	return len >= KENNITALA_DIGITS ? len : 0;
}

/* A value as a message may show it, palloc'd. */
static char *
shown(const char *s)
{
	char *copy = pstrdup(s);
	char *p;
	int len;
	int clipped;

	for (p = copy; *p; p += Max(strspn(p, DIGITS), 1))
		memset(p, '*', kennitala_length(p));

	len = p - copy;
	clipped = pg_mbcharcliplen(copy, len, SHOWN_CHARS);
	return psprintf("\"%.*s%s\"", clipped, copy, clipped < len ? "..." : "");
}

/* False with *err: s is not what a codec wants. */
static char *
misread(const char *s, int sqlstate, const char *wanted, SyncError *err)
{
	if ((*s >= '0' && *s <= '9') || *s == '-' || *s == '+')
		sync_error(err, sqlstate, "%s is not %s", shown(s), wanted);
	else
		sync_error(err, sqlstate, "text is not %s", wanted);
	return NULL;
}

static char *
read_date(const char *s, SyncError *err)
{
	DateADT date;

	if (!date_parse(s, &date))
		return misread(s, ERRCODE_INVALID_DATETIME_FORMAT,
					   "a date of the form YYYY-MM-DD", err);
	return quote_json(date_format(date));
}

static char *
read_time(const char *s, SyncError *err)
{
	TimestampTz t;

	if (!time_parse(s, &t))
		return misread(s, ERRCODE_INVALID_DATETIME_FORMAT,
					   "a time of the form YYYY-MM-DDTHH:MM:SSZ", err);
	return quote_json(time_format(t));
}

/*
 * Take a decimal number apart: its digits without zeros at either end (their
 * number is *ndigits), and the place of the point in them, which may lie
 * outside.  False if s is not a number.
 */
static bool
split_number(const char *s, char *digits, int *ndigits, int *point)
{
	int n = 0;
	int whole = -1;
	int exponent = 0;

	for (; isdigit((unsigned char) *s) || (*s == '.' && whole < 0); s++)
	{
		if (*s == '.')
			whole = n;
		else
			digits[n++] = *s;
	}
	if (n == 0)
		return false;
	if (whole < 0)
		whole = n;

	if (*s == 'e' || *s == 'E')
	{
		size_t len;

		s++;
		len = strspn(*s == '-' || *s == '+' ? s + 1 : s, DIGITS);
		if (len == 0 || len > 6)
			return false;
		exponent = atoi(s);
		s += len + (*s == '-' || *s == '+');
	}
	if (*s != '\0')
		return false;

	*point = whole + exponent;
	while (n > 0 && digits[n - 1] == '0')
		n--;
	*ndigits = n;
	return true;
}

/*
 * Text of a decimal number (sign, digits, point, exponent; nothing around it)
 * without exponent and insignificant zeros, as numeric prints it; palloc'd.
 * NULL with *err when it is none or has more digits than numeric.
 */
char *
number_read(const char *s, SyncError *err)
{
	bool negative = (*s == '-');
	char *buf = palloc(strlen(s) + 1);
	char *digits = buf;
	int ndigits;
	int point;
	StringInfoData out;

	if (!split_number(*s == '-' || *s == '+' ? s + 1 : s, buf, &ndigits,
					  &point))
		return misread(s, ERRCODE_INVALID_TEXT_REPRESENTATION, "a number",
					   err);
	for (; ndigits > 0 && *digits == '0'; digits++, ndigits--)
		point--;

	if (ndigits == 0)
		return pstrdup("0");
	if (point > NUMERIC_MAX_WHOLE || ndigits - point > NUMERIC_MAX_FRACTION)
	{
		sync_error(err, ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
				   "number is out of range");
		return NULL;
	}

	initStringInfo(&out);
	if (negative)
		appendStringInfoChar(&out, '-');
	if (point <= 0)
	{
		appendStringInfoString(&out, "0.");
		for (; point < 0; point++)
			appendStringInfoChar(&out, '0');
		appendBinaryStringInfo(&out, digits, ndigits);
	}
	else
	{
		appendBinaryStringInfo(&out, digits, Min(point, ndigits));
		for (; point > ndigits; point--)
			appendStringInfoChar(&out, '0');
		if (point < ndigits)
		{
			appendStringInfoChar(&out, '.');
			appendBinaryStringInfo(&out, digits + point, ndigits - point);
		}
	}
	pfree(buf);
	return out.data;
}

static char *
read_number(const char *s, SyncError *err)
{
	char *number = number_read(s, err);

	return number ? quote_json(number) : NULL;
}

/* A label, or a code as text. */
static char *
read_label(const Codec *codec, const char *s, SyncError *err)
{
	char *quoted = quote_json(s);
	int i;

	for (i = 0; i < codec->npairs; i++)
	{
		if (strcmp(codec->pairs[i].label, quoted) == 0)
			return pstrdup(codec->pairs[i].code);
	}
	for (i = 0; i < codec->npairs; i++)
	{
		const char *code = codec->pairs[i].code;

		if (strcmp(code, *code == '"' ? quoted : s) == 0)
			return pstrdup(code);
	}
	sync_error(err, ERRCODE_INVALID_PARAMETER_VALUE,
			   "%s is not one of the field's values", shown(s));
	return NULL;
}

/* Ten digits, with or without a hyphen; only the shape is looked at. */
static char *
read_kennitala(const char *s, SyncError *err)
{
	size_t len = strlen(s);
	size_t hyphen =
		(len > KENNITALA_HYPHEN && s[KENNITALA_HYPHEN] == '-') ? 1 : 0;
	const char *tail = s + KENNITALA_HYPHEN + hyphen;

	if (len != KENNITALA_DIGITS + hyphen ||
		strspn(s, DIGITS) < KENNITALA_HYPHEN ||
		strspn(tail, DIGITS) != KENNITALA_DIGITS - KENNITALA_HYPHEN)
	{
		sync_error(err, ERRCODE_INVALID_PARAMETER_VALUE,
				   "text is not a kennitala of ten digits");
		return NULL;
	}
	return psprintf("\"%.*s%s\"", KENNITALA_HYPHEN, s, tail);
}

/*
 * Seven digits, however they are spaced and with Iceland's country code or
 * without it, become XXX-XXXX; anything else stays as it stands, trimmed.
 */
static char *
read_phone(const char *s)
{
	char digits[13]; /* longest wanted: 00354 and seven digits */
	int n = 0;
	const char *p;
	const char *number = digits;
	char *trimmed;

	for (p = s; *p && n < (int) sizeof(digits); p++)
	{
		if (*p != ' ' && *p != '-')
			digits[n++] = *p;
	}
	if (*p == '\0' && n < (int) sizeof(digits))
	{
		digits[n] = '\0';
		if (strncmp(number, "+354", 4) == 0)
			number += 4;
		else if (strncmp(number, "00354", 5) == 0)
			number += 5;
		if (strspn(number, DIGITS) == 7 && number[7] == '\0')
			return psprintf("\"%.3s-%s\"", number, number + 3);
	}

	while (isspace((unsigned char) *s))
		s++;
	trimmed = pstrdup(s);
	for (n = strlen(trimmed);
		 n > 0 && isspace((unsigned char) trimmed[n - 1]);)
		trimmed[--n] = '\0';
	return canon_from_text(trimmed);
}

/* See codecs.h. */
char *
codec_unread(const Codec *codec, WireType type, SyncError *err)
{
	sync_error(err, ERRCODE_DATATYPE_MISMATCH,
			   "codec \"%s\" does not read values of type %s",
			   codec_name(codec), wire_type_name(type));
	return NULL;
}

/* See codecs.h.  The empty text is no value. */
char *
codec_read_text(const Codec *codec, const char *s, SyncError *err)
{
	switch (codec->kind)
	{
		case CODEC_TEXT:
			return canon_from_text(s);
		case CODEC_PHONE:
			return read_phone(s);
		case CODEC_DATE:
			return *s ? read_date(s, err) : pstrdup(CANON_NULL);
		case CODEC_TIMESTAMP:
			return *s ? read_time(s, err) : pstrdup(CANON_NULL);
		case CODEC_NUMERIC:
			return *s ? read_number(s, err) : pstrdup(CANON_NULL);
		case CODEC_ENUM:
			return *s ? read_label(codec, s, err) : pstrdup(CANON_NULL);
		case CODEC_KENNITALA:
			return *s ? read_kennitala(s, err) : pstrdup(CANON_NULL);
		default:
			return codec_unread(codec, WIRE_STRING, err);
	}
}

/* ---- readers of numbers ---- */

/* See codecs.h. */
const EnumPair *
codec_find_code(const Codec *codec, const char *code, SyncError *err)
{
	char *text;
	int i;

	for (i = 0; i < codec->npairs; i++)
	{
		if (strcmp(codec->pairs[i].code, code) == 0)
			return &codec->pairs[i];
	}
	text = canon_to_text(code);
	sync_error(err, ERRCODE_INVALID_PARAMETER_VALUE,
			   "%s is not one of the field's codes",
			   shown(text ? text : code));
	return NULL;
}

/* See codecs.h. */
char *
codec_read_int(const Codec *codec, int64 number, SyncError *err)
{
	char *text = psprintf(INT64_FORMAT, number);
	const EnumPair *pair;

	switch (codec->kind)
	{
		case CODEC_INT:
			return text;
		case CODEC_NUMERIC:
			return quote_json(text);
		case CODEC_ENUM:
			pair = codec_find_code(codec, text, err);
			return pair ? pstrdup(pair->code) : NULL;
		default:
			return codec_unread(codec, WIRE_INTEGER, err);
	}
}

/* See codecs.h. */
char *
codec_read_double(const Codec *codec, double number, SyncError *err)
{
	char text[DOUBLE_SHORTEST_DECIMAL_LEN];

	if (codec->kind != CODEC_NUMERIC && codec->kind != CODEC_INT &&
		codec->kind != CODEC_ENUM)
		return codec_unread(codec, WIRE_DOUBLE, err);

	double_to_shortest_decimal_buf(number, text);
	if (!isfinite(number))
	{
		sync_error(err, ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
				   "%s is not a number that the field can hold", text);
		return NULL;
	}
	if (codec->kind == CODEC_NUMERIC)
		return read_number(text, err);

	/* 2^63 is the first double that is not an int64 */
	if (number != rint(number) || number < (double) PG_INT64_MIN ||
		number >= -(double) PG_INT64_MIN)
	{
		sync_error(err, ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
				   "%s is not a 64 bit integer", text);
		return NULL;
	}
	return codec_read_int(codec, (int64) number, err);
}
