/*
 * datum.c
 *		Column values -> canonical form and back, by codec.
 *
 * Everything that PostgreSQL's input functions would refuse is checked before
 * they are called.  May not know: Firestore.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"

#include "codecs.h"

/* A column's type, seen through domains. */
typedef struct ColumnType
{
	Oid typid;
	int32 typmod;
} ColumnType;

/* ---- types ---- */

/* Types that hold any text; name and "char" would cut it. */
static bool
is_text_type(Oid typid)
{
	char category;
	bool preferred;

	switch (typid)
	{
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
			return true;
		case NAMEOID:
		case CHAROID:
			return false;
		default:
			get_type_category_preferred(typid, &category, &preferred);
			return category == TYPCATEGORY_STRING;
	}
}

static bool
is_int_type(Oid typid)
{
	return typid == INT2OID || typid == INT4OID || typid == INT8OID;
}

/* Does the codec take values of this type, which is not a domain? */
static bool
accepts(const Codec *codec, Oid typid)
{
	switch (codec->kind)
	{
		case CODEC_TEXT:
		case CODEC_KENNITALA:
		case CODEC_PHONE:
			return is_text_type(typid);
		case CODEC_INT:
			return is_int_type(typid);
		case CODEC_BOOL:
			return typid == BOOLOID;
		case CODEC_DATE:
			return typid == DATEOID;
		case CODEC_TIMESTAMP:
			return typid == TIMESTAMPTZOID;
		case CODEC_NUMERIC:
			return typid == NUMERICOID;
		case CODEC_ENUM:
			return codec->pairs[0].code[0] == '"' ? is_text_type(typid)
												  : is_int_type(typid);
		case CODEC_JSONB:
			return typid == JSONBOID;
		case CODEC_TEXT_ARRAY:
			return typid == TEXTARRAYOID ||
				   get_element_type(typid) == VARCHAROID;
	}
	return false;
}

/* See value.h. */
bool
codec_accepts(const Codec *codec, Oid typid)
{
	return accepts(codec, getBaseType(typid));
}

static bool
type_error(const Codec *codec, Oid typid, SyncError *err)
{
	return sync_error(err, ERRCODE_DATATYPE_MISMATCH,
					  "codec \"%s\" does not take type %s", codec_name(codec),
					  format_type_be(typid));
}

/* ---- Datum -> canonical ---- */

/* NULL with *err, for use in a return. */
static char *
range_error(const char *what, SyncError *err)
{
	sync_error(err, ERRCODE_DATETIME_FIELD_OVERFLOW,
			   "%s is infinite or outside the years 1 to 9999", what);
	return NULL;
}

static int64
int_from_datum(Datum value, Oid typid)
{
	if (typid == INT2OID)
		return DatumGetInt16(value);
	if (typid == INT4OID)
		return DatumGetInt32(value);
	return DatumGetInt64(value);
}

/* Text of a text type, without the blanks that fill up a char(n). */
static char *
text_from_datum(Datum value, Oid typid)
{
	Oid output;
	bool varlena;
	char *s;
	size_t len;

	if (typid == TEXTOID || typid == VARCHAROID)
		return TextDatumGetCString(value);
	if (typid != BPCHAROID)
	{
		getTypeOutputInfo(typid, &output, &varlena);
		return OidOutputFunctionCall(output, value);
	}

	s = TextDatumGetCString(value);
	for (len = strlen(s); len > 0 && s[len - 1] == ' ';)
		s[--len] = '\0';
	return s;
}

static char *
canon_from_numeric(Datum value, SyncError *err)
{
	char *number = numeric_normalize(DatumGetNumeric(value));

	if (strspn(number, "-0123456789.") != strlen(number))
	{
		sync_error(err, ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
				   "%s has no form in a document", number);
		return NULL;
	}
	return psprintf("\"%s\"", number);
}

/* A code of an enum column; it is never read as a label. */
static char *
canon_from_code(const Codec *codec, Datum value, Oid typid, SyncError *err)
{
	char *canon;

	if (is_int_type(typid))
		canon = psprintf(INT64_FORMAT, int_from_datum(value, typid));
	else
		canon = canon_from_text(text_from_datum(value, typid));

	if (strcmp(canon, CANON_NULL) != 0 &&
		codec_find_code(codec, canon, err) == NULL)
		return NULL;
	return canon;
}

static char *
canon_from_array(Datum value, SyncError *err)
{
	ArrayType *array = DatumGetArrayTypeP(value);
	Datum *elements;
	bool *nulls;
	int n;
	int i;
	StringInfoData canon;

	if (ARR_NDIM(array) > 1)
	{
		sync_error(err, ERRCODE_FEATURE_NOT_SUPPORTED,
				   "array has more than one dimension");
		return NULL;
	}

	deconstruct_array(array, ARR_ELEMTYPE(array), -1, false, TYPALIGN_INT,
					  &elements, &nulls, &n);
	initStringInfo(&canon);
	appendStringInfoChar(&canon, '[');
	for (i = 0; i < n; i++)
	{
		if (nulls[i])
		{
			sync_error(err, ERRCODE_NULL_VALUE_NOT_ALLOWED,
					   "array holds a null");
			return NULL;
		}
		if (i > 0)
			appendStringInfoString(&canon, ", ");
		escape_json(&canon, TextDatumGetCString(elements[i]));
	}
	appendStringInfoChar(&canon, ']');
	return canon.data;
}

/*
 * Datum -> canonical, palloc'd in the current context.  typid is the column's
 * type, which may be a domain.  NULL with *err when the codec does not take
 * the type, or the value has no canonical form.
 */
char *
value_from_datum(const Codec *codec, Datum value, bool isnull, Oid typid,
				 SyncError *err)
{
	Oid base = getBaseType(typid);

	if (!accepts(codec, base))
	{
		type_error(codec, typid, err);
		return NULL;
	}
	if (isnull)
		return pstrdup(CANON_NULL);

	switch (codec->kind)
	{
		case CODEC_TEXT:
		case CODEC_KENNITALA:
		case CODEC_PHONE:
			return codec_read_text(codec, text_from_datum(value, base), err);
		case CODEC_INT:
			return psprintf(INT64_FORMAT, int_from_datum(value, base));
		case CODEC_BOOL:
			return pstrdup(DatumGetBool(value) ? "true" : "false");
		case CODEC_DATE:
			if (!date_in_range(DatumGetDateADT(value)))
				return range_error("date", err);
			return psprintf("\"%s\"", date_format(DatumGetDateADT(value)));
		case CODEC_TIMESTAMP:
			if (!time_in_range(DatumGetTimestampTz(value)))
				return range_error("time", err);
			return psprintf("\"%s\"", time_format(DatumGetTimestampTz(value)));
		case CODEC_NUMERIC:
			return canon_from_numeric(value, err);
		case CODEC_ENUM:
			return canon_from_code(codec, value, base, err);
		case CODEC_JSONB:
			return canon_from_jsonb(DatumGetJsonbP(value));
		case CODEC_TEXT_ARRAY:
			return canon_from_array(value, err);
	}
	return NULL;
}

/* ---- canonical -> Datum ---- */

static bool
form_error(const Codec *codec, SyncError *err)
{
	return sync_error(err, ERRCODE_INVALID_PARAMETER_VALUE,
					  "value is not in the canonical form of codec \"%s\"",
					  codec_name(codec));
}

/* Does s fit a varchar(n) or char(n)? */
static bool
check_length(const char *s, int32 typmod, SyncError *err)
{
	int limit = typmod - VARHDRSZ;
	int len = strlen(s);

	if (limit <= 0 || len <= limit)
		return true;
	len = pg_mbstrlen_with_len(s, len);
	if (len <= limit)
		return true;
	return sync_error(err, ERRCODE_STRING_DATA_RIGHT_TRUNCATION,
					  "text of %d characters is too long for %d", len, limit);
}

/* Typmods of other types than varchar and char are their own affair. */
static bool
text_to_datum(const char *s, const ColumnType *type, Datum *value,
			  SyncError *err)
{
	Oid input;
	Oid ioparam;

	if (type->typid == TEXTOID)
	{
		*value = CStringGetTextDatum(s);
		return true;
	}
	if ((type->typid == VARCHAROID || type->typid == BPCHAROID) &&
		!check_length(s, type->typmod, err))
		return false;

	getTypeInputInfo(type->typid, &input, &ioparam);
	*value = OidInputFunctionCall(input, unconstify(char *, s), ioparam,
								  type->typmod);
	return true;
}

static bool
int_to_datum(const Codec *codec, const char *canon, Oid typid, Datum *value,
			 SyncError *err)
{
	int64 number;

	if (!int_parse(canon, &number))
		return form_error(codec, err);
	if ((typid == INT2OID && number != (int16) number) ||
		(typid == INT4OID && number != (int32) number))
		return sync_error(err, ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
						  "number is out of range for type %s",
						  format_type_be(typid));

	if (typid == INT2OID)
		*value = Int16GetDatum((int16) number);
	else if (typid == INT4OID)
		*value = Int32GetDatum((int32) number);
	else
		*value = Int64GetDatum(number);
	return true;
}

/*
 * Does a number (as number_read returns it) fit numeric(p,s) without loss?
 * Scales below zero and above the precision exist since PostgreSQL 15.
 */
static bool
check_numeric(const char *number, int32 typmod, SyncError *err)
{
	int precision = ((typmod - VARHDRSZ) >> 16) & 0xffff;
	int scale = (((typmod - VARHDRSZ) & 0x7ff) ^ 1024) - 1024;
	const char *whole = number + (*number == '-');
	const char *end = whole + strspn(whole, "0123456789");
	const char *fraction = *end == '.' ? end + 1 : end;
	int first; /* digits before the point; or minus zeros after it */
	int last;  /* digits after the point; or minus zeros before it */

	if (typmod < (int32) VARHDRSZ || strcmp(number, "0") == 0)
		return true;

	first = *whole == '0' ? -(int) strspn(fraction, "0") : end - whole;
	last = strlen(fraction);
	if (last == 0)
	{
		while (end[last - 1] == '0')
			last--;
	}
	if (first > precision - scale)
		return sync_error(err, ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
						  "number is too large for numeric(%d,%d)", precision,
						  scale);
	if (last > scale)
		return sync_error(err, ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
						  "number has too many digits for numeric(%d,%d)",
						  precision, scale);
	return true;
}

static bool
numeric_to_datum(const char *text, int32 typmod, Datum *value, SyncError *err)
{
	char *number = number_read(text, err);

	if (number == NULL || !check_numeric(number, typmod, err))
		return false;
	*value = DirectFunctionCall3(numeric_in, CStringGetDatum(number),
								 ObjectIdGetDatum(InvalidOid),
								 Int32GetDatum(typmod));
	return true;
}

static bool
array_to_datum(const Codec *codec, const char *canon, const ColumnType *type,
			   Datum *value, SyncError *err)
{
	ColumnType element = {get_element_type(type->typid), type->typmod};
	char **texts;
	Datum *datums;
	int n = canon_to_texts(canon, &texts);
	int i;

	if (n < 0)
		return form_error(codec, err);

	datums = palloc(n * sizeof(Datum));
	for (i = 0; i < n; i++)
	{
		if (!text_to_datum(texts[i], &element, &datums[i], err))
			return false;
	}
	*value = PointerGetDatum(
		construct_array(datums, n, element.typid, -1, false, TYPALIGN_INT));
	return true;
}

/* Codecs whose canonical form is a string. */
static bool
string_to_datum(const Codec *codec, const char *canon, const ColumnType *type,
				Datum *value, SyncError *err)
{
	char *text = canon_to_text(canon);
	DateADT date;
	TimestampTz t;

	if (text == NULL)
		return form_error(codec, err);

	switch (codec->kind)
	{
		case CODEC_DATE:
			if (!date_parse(text, &date))
				return form_error(codec, err);
			*value = DateADTGetDatum(date);
			return true;
		case CODEC_TIMESTAMP:
			if (!time_parse(text, &t))
				return form_error(codec, err);
			*value = TimestampTzGetDatum(t);
			return true;
		case CODEC_NUMERIC:
			return numeric_to_datum(text, type->typmod, value, err);
		default:
			return text_to_datum(text, type, value, err);
	}
}

/* A value that is not null. */
static bool
canon_to_datum(const Codec *codec, const char *canon, const ColumnType *type,
			   Datum *value, SyncError *err)
{
	switch (codec->kind)
	{
		case CODEC_INT:
			return int_to_datum(codec, canon, type->typid, value, err);
		case CODEC_BOOL:
			if (strcmp(canon, "true") != 0 && strcmp(canon, "false") != 0)
				return form_error(codec, err);
			*value = BoolGetDatum(*canon == 't');
			return true;
		case CODEC_ENUM:
			if (codec_find_code(codec, canon, err) == NULL)
				return false;
			return is_int_type(type->typid)
					   ? int_to_datum(codec, canon, type->typid, value, err)
					   : string_to_datum(codec, canon, type, value, err);
		case CODEC_JSONB:
			*value = DirectFunctionCall1(jsonb_in, CStringGetDatum(canon));
			return true;
		case CODEC_TEXT_ARRAY:
			return array_to_datum(codec, canon, type, value, err);
		default:
			return string_to_datum(codec, canon, type, value, err);
	}
}

/*
 * canonical -> Datum of the column's type (under its domains), palloc'd in
 * the current context.  False with *err when the codec does not take the type
 * or the value does not fit; null becomes '' in a NOT NULL column of text.
 */
bool
value_to_datum(const Codec *codec, const char *canon, Oid typid, int32 typmod,
			   bool notnull, Datum *value, bool *isnull, SyncError *err)
{
	ColumnType type;

	type.typmod = typmod;
	type.typid = getBaseTypeAndTypmod(typid, &type.typmod);
	if (!accepts(codec, type.typid))
		return type_error(codec, typid, err);

	*value = (Datum) 0;
	*isnull = strcmp(canon, CANON_NULL) == 0;
	if (!*isnull)
		return canon_to_datum(codec, canon, &type, value, err);
	if (!notnull)
		return true;
	if (!is_text_type(type.typid))
		return sync_error(err, ERRCODE_NOT_NULL_VIOLATION,
						  "the column takes no null");
	*isnull = false;
	return text_to_datum("", &type, value, err);
}
