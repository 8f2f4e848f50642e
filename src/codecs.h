/*
 * codecs.h
 *		What the files behind value.h share: readers of one kind of text each,
 *		the parts of a Firestore Value, and the canonical text of JSON.
 *
 * Included by value.c, codecs.c, canon.c, datum.c, times.c, wire.c, path.c and
 * values_sql.c only.
 */
#ifndef EKKSYNC_CODECS_H
#define EKKSYNC_CODECS_H

#include "utils/date.h"
#include "utils/jsonb.h"

#include "value.h"

/* Most bytes of a string in Firestore: 1 MiB - 89. */
#define FIRESTORE_MAX_STRING 1048487

/* Most bytes of a field name, and most maps and arrays in each other. */
#define FIRESTORE_MAX_NAME 1500
#define FIRESTORE_MAX_DEPTH 20

/* Most maps and arrays in each other that are read at all. */
#define READ_MAX_DEPTH 32

/* Types of a Firestore Value. */
typedef enum WireType
{
	WIRE_NULL,
	WIRE_BOOLEAN,
	WIRE_INTEGER,
	WIRE_DOUBLE,
	WIRE_TIMESTAMP,
	WIRE_STRING,
	WIRE_BYTES,
	WIRE_REFERENCE,
	WIRE_GEO_POINT,
	WIRE_ARRAY,
	WIRE_MAP
} WireType;

/* ---- wire.c ---- */

/*
 * Type and content of a Value; false with *err when it has not exactly one
 * type that is known, or a content that is not of this type.
 */
extern bool wire_open(const cJSON *value, WireType *type,
					  const cJSON **content, SyncError *err);

/* "stringValue" and so on. */
extern const char *wire_type_name(WireType type);

/*
 * Contents, for the types that have them: a number (false with *err if it is
 * malformed), a text that PostgreSQL can hold (NULL with *err if it cannot;
 * it belongs to content), the first element of an array or field of a map
 * (NULL if there is none).
 */
extern bool wire_integer(const cJSON *content, int64 *number, SyncError *err);
extern bool wire_double(const cJSON *content, double *number, SyncError *err);
extern const char *wire_text(const cJSON *content, SyncError *err);
extern const cJSON *wire_children(const cJSON *content);

/* As value_to_plain, but NaN and infinities are refused, and it nests. */
extern bool wire_append_plain(const cJSON *value, StringInfo out, int depth,
							  bool finite, SyncError *err);

/* Append canonical JSON of any shape as a Value; false with *err. */
extern bool wire_append_value(const char *canon, StringInfo out,
							  SyncError *err);

/* ---- canon.c ---- */

/* What wire_parse puts in place of \u0000. */
#define WIRE_ZERO "\xc0\x80"

/* False with *err when s is not valid UTF-8. */
extern bool text_check(const char *s, SyncError *err);

/*
 * The JSON string that starts at p, in canonical form: returns the end of it,
 * NULL if there is none or it is malformed; *text is its text, palloc'd.
 */
extern const char *canon_scan_string(const char *p, char **text);

/*
 * Texts of an array of strings in canonical form, palloc'd; -1 if canon is
 * not one.
 */
extern int canon_to_texts(const char *canon, char ***texts);

/* Canonical form of a jsonb, palloc'd. */
extern char *canon_from_jsonb(Jsonb *jsonb);

/* Decimal integer, nothing around it. */
extern bool int_parse(const char *s, int64 *number);

/* ---- codecs.c ---- */

/*
 * Text or number as the codec reads it from a document -> canonical, palloc'd;
 * NULL with *err when the codec does not read it.
 */
extern char *codec_read_text(const Codec *codec, const char *s,
							 SyncError *err);
extern char *codec_read_int(const Codec *codec, int64 number, SyncError *err);
extern char *codec_read_double(const Codec *codec, double number,
							   SyncError *err);

/* NULL with *err: the codec reads no Values of this type. */
extern char *codec_unread(const Codec *codec, WireType type, SyncError *err);

/* The pair of a canonical code, NULL with *err if there is none. */
extern const EnumPair *codec_find_code(const Codec *codec, const char *code,
									   SyncError *err);

/* Text of a decimal number without insignificant zeros; NULL with *err. */
extern char *number_read(const char *s, SyncError *err);

/* ---- path.c ---- */

/* False with *err when Firestore takes no field of this name. */
extern bool name_check(const char *name, SyncError *err);

/* ---- times.c ---- */

/* YYYY-MM-DD, years 1 to 9999; false if it is not one. */
extern bool date_parse(const char *text, DateADT *date);

/* Of a date that date_in_range accepts, palloc'd. */
extern char *date_format(DateADT date);

/* Finite and in the years 1 to 9999? */
extern bool date_in_range(DateADT date);
extern bool time_in_range(TimestampTz t);

#endif /* EKKSYNC_CODECS_H */
