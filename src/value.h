/*
 * value.h
 *		Values in their three forms, and the codecs between them.
 *
 *	 Datum		a column's value in PostgreSQL
 *	 Value		a Firestore Value: {"stringValue": "..."} and so on
 *	 canonical	the form in which both sides are compared and kept: the text
 *				that PostgreSQL prints for the value as jsonb, so that equal
 *				values are equal strings (strcmp), with numbers as short as they
 *				can be (1.5, not 1.50); "null" (CANON_NULL) for no value
 *
 * canon(encode(decode(x))) = canon(x) for every codec.
 */
#ifndef EKKSYNC_VALUE_H
#define EKKSYNC_VALUE_H

#include <cjson/cJSON.h>

#include "ekksync.h"
#include "lib/stringinfo.h"

typedef enum CodecKind
{
	CODEC_TEXT,		 /* stringValue; '' is no value */
	CODEC_INT,		 /* integerValue, 64 bits */
	CODEC_BOOL,		 /* booleanValue */
	CODEC_DATE,		 /* stringValue YYYY-MM-DD */
	CODEC_TIMESTAMP, /* timestampValue, microseconds */
	CODEC_NUMERIC,	 /* stringValue, lossless; numbers read too */
	CODEC_ENUM,		 /* column code <-> document label; reads both */
	CODEC_KENNITALA, /* stringValue, ten digits; hyphen read */
	CODEC_PHONE,	 /* stringValue XXX-XXXX */
	CODEC_JSONB,	 /* any Value */
	CODEC_TEXT_ARRAY /* arrayValue of stringValue */
} CodecKind;

/* One pair of an enum: the column's value and the document's. */
typedef struct EnumPair
{
	char *code;	 /* canonical, e.g. 1 */
	char *label; /* canonical, e.g. "male" */
} EnumPair;

typedef struct Codec
{
	CodecKind kind;
	int npairs; /* CODEC_ENUM: its pairs */
	EnumPair *pairs;
} Codec;

/* A parsed field path, e.g. profile.`a.b` -> {"profile", "a.b"}. */
typedef struct FieldPath
{
	int nsegments;
	char **segments; /* raw keys, unquoted */
	char *quoted;	 /* as Firestore wants it in masks */
} FieldPath;

/* ---- the wire ---- */

/*
 * Parse JSON from the wire: len bytes, text[len] is '\0'.  Use this and not
 * cJSON's own functions, which end a string at \u0000 in silence; from here
 * it reaches value_decode, which refuses it.  The caller frees the tree by
 * cJSON_Delete; NULL when the text is malformed.
 */
extern cJSON *wire_parse(const char *text, size_t len);

/* ---- codecs ---- */

/*
 * Find a codec by its name in the mapping ("text", "int", "bool", "date",
 * "timestamp", "numeric", "enum", "kennitala", "phone", "jsonb", "text[]").
 * options: for enum, a jsonb object as text from document label to column
 * code, {"male": 1, "female": 2}: codes are different, and all integers or
 * all texts, and nothing is empty; NULL otherwise.  Filled in the current
 * memory context.  False with *err for an unknown name or unfit options.
 */
extern bool codec_lookup(const char *name, const char *options, Codec *codec,
						 SyncError *err);

/* The codec's name, as codec_lookup takes it. */
extern const char *codec_name(const Codec *codec);

/*
 * Can a column (or a computed value) of this type be mapped with the codec?
 * Domains count as what they are over.
 */
extern bool codec_accepts(const Codec *codec, Oid typid);

/*
 * Datum -> canonical, palloc'd.  typid is the column's type.  NULL with *err
 * when the value has no canonical form (infinity, a code outside the enum, a
 * kennitala that is not ten digits ...).
 */
extern char *value_from_datum(const Codec *codec, Datum value, bool isnull,
							  Oid typid, SyncError *err);

/*
 * canonical -> Datum of the column's type, palloc'd.  Checks that the value
 * fits (length by typmod, range, NOT NULL; null becomes '' in a NOT NULL
 * column of a text codec) before PostgreSQL's input functions see it, so that
 * an unfit value is a false with *err, not an error.  For a domain the Datum
 * is of the type under it, unchecked: pass it to SQL as a parameter of that
 * type, getBaseType(typid), so that the assignment checks the domain.
 */
extern bool value_to_datum(const Codec *codec, const char *canon, Oid typid,
						   int32 typmod, bool notnull, Datum *value,
						   bool *isnull, SyncError *err);

/*
 * Value -> canonical, palloc'd.  value NULL means that the field is absent:
 * canonical null.  NULL with *err when the value's type or content is not
 * the codec's.  Never throws an error.
 */
extern char *value_decode(const Codec *codec, const cJSON *value,
						  SyncError *err);

/*
 * canonical -> Value, appended to out as compact JSON.  False with *err when
 * Firestore cannot hold it (over 1 MiB - 89 bytes, an array in an array), or
 * canon is not of the codec.  out holds a part of it then.
 */
extern bool value_encode(const Codec *codec, const char *canon, StringInfo out,
						 SyncError *err);

/*
 * A Value of any type as plain JSON, appended to out: timestamps, bytes
 * (base64), references as strings; NaN and infinities as strings; geo points
 * as {"latitude", "longitude"}.  False with *err for what JSON in PostgreSQL
 * cannot hold (\u0000) or for what is not a Value.
 */
extern bool value_to_plain(const cJSON *value, StringInfo out, SyncError *err);

/* Canonical text of a C string, i.e. its JSON string; NULL or "": null. */
extern char *canon_from_text(const char *s);

/* The text in a canonical string; NULL for canonical null or another type. */
extern char *canon_to_text(const char *canon);

/* A canonical value of a JSON text (through jsonb); NULL with *err. */
extern char *canon_from_json(const char *json, SyncError *err);

/* ---- field paths ---- */

/*
 * Parse a field path: segments divided by dots; a segment in backticks may
 * hold anything, with \ before ` and \ ; an unquoted segment may also hold
 * letters that Firestore wants quoted (símanúmer) -- quoted is right in any
 * case.  False with *err for an empty segment, a bad quote, a name of the
 * form __x__, one over 1500 bytes, or more than 20 segments.
 */
extern bool path_parse(const char *text, FieldPath *path, SyncError *err);

/* A segment as Firestore wants it in a field path. */
extern void path_append_quoted(StringInfo out, const char *segment);

/* The Value at a path below a document's "fields" object; NULL if absent. */
extern const cJSON *path_find(const cJSON *fields, const FieldPath *path);

/* ---- times ---- */

/*
 * RFC 3339 with any offset -> TimestampTz, digits beyond microseconds cut.
 * False when it is not one, or out of Firestore's range (years 1 to 9999).
 */
extern bool time_parse(const char *text, TimestampTz *t);

/* TimestampTz -> "2026-11-22T13:39:02.250584Z", always six digits; palloc'd. */
extern char *time_format(TimestampTz t);

#endif /* EKKSYNC_VALUE_H */
