/*
 * canon.c
 *		The canonical form: the text that PostgreSQL prints for a value as
 *		jsonb, with numbers as short as they can be.
 *
 * Texts and other scalars are written and read without going through jsonb;
 * only JSON that came from elsewhere does.  May not know: codecs, Values.
 */
#include "postgres.h"

#include <errno.h>

#include "common/jsonapi.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"

#include "codecs.h"
#include "pg_compat.h"

/*
 * Of foreign JSON: most digits and largest exponent of a number, most arrays
 * and objects in each other (a Value nests three for one of its own).
 */
#define MAX_NUMBER_LENGTH 1000
#define MAX_JSON_DEPTH 128

/*
 * Can PostgreSQL hold this text from outside?  The wire is UTF-8 always.  The
 * database's encoding must be UTF-8 too, which is a precondition of attaching
 * to a table, so that nothing is converted here.
 */
bool
text_check(const char *s, SyncError *err)
{
	if (pg_verify_mbstr(PG_UTF8, s, (int) strlen(s), true))
		return true;

	/* wire_parse leaves this where the JSON text had \u0000 */
	if (strstr(s, WIRE_ZERO) != NULL)
		return sync_error(
			err, ERRCODE_UNTRANSLATABLE_CHARACTER,
			"text holds the character \\u0000, which PostgreSQL cannot store");
	return sync_error(err, ERRCODE_CHARACTER_NOT_IN_REPERTOIRE,
					  "text is not valid UTF-8");
}

/* Canonical text of s, palloc'd; NULL and "" are no value. */
char *
canon_from_text(const char *s)
{
	StringInfoData buf;

	if (s == NULL || *s == '\0')
		return pstrdup(CANON_NULL);
	initStringInfo(&buf);
	escape_json(&buf, s);
	return buf.data;
}

/*
 * Append what the escape at *p (a backslash) stands for.  Canonical strings
 * use \u for control characters only.
 */
static bool
unescape(const char **p, StringInfo buf)
{
	static const char escapes[] = "\"\\/bfnrt";
	static const char meanings[] = "\"\\/\b\f\n\r\t";
	const char *escape;
	unsigned int code;

	(*p)++;
	if (**p == 'u')
	{
		if (strspn(*p + 1, "0123456789abcdefABCDEF") < 4 ||
			sscanf(*p + 1, "%4x", &code) != 1 || code == 0 || code > 0x7f)
			return false;
		appendStringInfoChar(buf, (char) code);
		*p += 5;
		return true;
	}

	escape = **p ? strchr(escapes, **p) : NULL;
	if (escape == NULL)
		return false;
	appendStringInfoChar(buf, meanings[escape - escapes]);
	(*p)++;
	return true;
}

/* See codecs.h. */
const char *
canon_scan_string(const char *p, char **text)
{
	StringInfoData buf;

	if (*p++ != '"')
		return NULL;

	initStringInfo(&buf);
	while (*p != '"')
	{
		size_t len = strcspn(p, "\"\\");

		appendBinaryStringInfo(&buf, p, (int) len);
		p += len;
		if (*p == '\0' || (*p == '\\' && !unescape(&p, &buf)))
		{
			pfree(buf.data);
			return NULL;
		}
	}
	*text = buf.data;
	return p + 1;
}

/*
 * The text in a canonical string, palloc'd; NULL for canonical null and for
 * what is not a canonical string.
 */
char *
canon_to_text(const char *canon)
{
	char *text;
	const char *end = canon_scan_string(canon, &text);

	return (end != NULL && *end == '\0') ? text : NULL;
}

/* See codecs.h. */
int
canon_to_texts(const char *canon, char ***texts)
{
	const char *p = canon + 1;
	int size = 8;
	int n = 0;

	*texts = palloc(size * sizeof(char *));
	if (strcmp(canon, "[]") == 0)
		return 0;
	if (*canon != '[')
		return -1;

	for (;;)
	{
		if (n == size)
		{
			size *= 2;
			*texts = repalloc(*texts, size * sizeof(char *));
		}
		p = canon_scan_string(p, &(*texts)[n]);
		if (p == NULL)
			return -1;
		n++;
		if (strcmp(p, "]") == 0)
			return n;
		if (strncmp(p, ", ", 2) != 0)
			return -1;
		p += 2;
	}
}

/* See codecs.h. */
bool
int_parse(const char *s, int64 *number)
{
	const char *digits = (*s == '-') ? s + 1 : s;
	size_t len = strspn(digits, "0123456789");

	if (len == 0 || digits[len] != '\0')
		return false;
	errno = 0;
	*number = strtoll(s, NULL, 10);
	return errno == 0;
}

/*
 * Take insignificant zeros from the numbers of a jsonb text, in place: 1.50
 * and 1.5 are equal, but jsonb keeps the zeros and a document does not.
 */
static char *
canon_trim_numbers(char *json)
{
	const char *from = json;
	char *to = json;

	while (*from)
	{
		if (*from == '"')
		{
			do
			{
				if (*from == '\\')
					*to++ = *from++;
				*to++ = *from++;
			} while (*from != '"');
			*to++ = *from++;
		}
		else if (*from >= '0' && *from <= '9')
		{
			size_t len = strspn(from, "0123456789.");
			size_t keep = len;

			if (memchr(from, '.', len) != NULL)
			{
				while (from[keep - 1] == '0')
					keep--;
				if (from[keep - 1] == '.')
					keep--;
			}
			memmove(to, from, keep);
			to += keep;
			from += len;
		}
		else
			*to++ = *from++;
	}
	*to = '\0';
	return json;
}

/*
 * Is a JSON text within the limits in which jsonb_in cannot fail but for its
 * syntax?  (Depth; digits and exponents of numbers.)
 */
static bool
check_json_limits(const char *json, SyncError *err)
{
	int depth = 0;
	bool in_string = false;
	const char *p;

	for (p = json; *p; p++)
	{
		if (in_string)
		{
			if (*p == '\\' && p[1] != '\0')
				p++;
			else if (*p == '"')
				in_string = false;
		}
		else if (*p == '"')
			in_string = true;
		else if (*p == '[' || *p == '{')
		{
			if (++depth > MAX_JSON_DEPTH)
				return sync_error(
					err, ERRCODE_PROGRAM_LIMIT_EXCEEDED,
					"JSON text is nested more than %d levels deep",
					MAX_JSON_DEPTH);
		}
		else if (*p == ']' || *p == '}')
			depth--;
		else if (*p >= '0' && *p <= '9')
		{
			size_t len = strspn(p, "0123456789.");
			long exponent = 0;

			if (p[len] == 'e' || p[len] == 'E')
				exponent = strtol(p + len + 1, NULL, 10);
			if (len > MAX_NUMBER_LENGTH || exponent > MAX_NUMBER_LENGTH ||
				exponent < -MAX_NUMBER_LENGTH)
				return sync_error(err, ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
								  "number is out of range");
			p += len - 1;
		}
	}
	return true;
}

/* Is json one JSON value that jsonb can hold?  Does not throw. */
static bool
check_json(char *json, SyncError *err)
{
	JsonLexContext *lex;
	JsonParseErrorType result;
	JsonSemAction actions;

	if (!text_check(json, err) || !check_json_limits(json, err))
		return false;

	memset(&actions, 0, sizeof(actions));
	lex = makeJsonLexContextCstringLen(NULL, json, (int) strlen(json), PG_UTF8,
									   true);
	result = pg_parse_json(lex, &actions);
	if (result == JSON_SUCCESS)
		return true;
	if (result == JSON_UNICODE_CODE_POINT_ZERO)
		return sync_error(
			err, ERRCODE_UNTRANSLATABLE_CHARACTER,
			"text holds the character \\u0000, which PostgreSQL cannot store");
	return sync_error(err, ERRCODE_INVALID_TEXT_REPRESENTATION,
					  "JSON text is malformed");
}

/*
 * Canonical form of a JSON text, palloc'd; NULL with *err when it is
 * malformed or holds what jsonb cannot hold.
 */
char *
canon_from_json(const char *json, SyncError *err)
{
	char *copy = pstrdup(json);
	char *canon = NULL;

	if (check_json(copy, err))
		canon = canon_from_jsonb(DatumGetJsonbP(
			DirectFunctionCall1(jsonb_in, CStringGetDatum(copy))));
	pfree(copy);
	return canon;
}

/* Canonical form of a jsonb, palloc'd. */
char *
canon_from_jsonb(Jsonb *jsonb)
{
	return canon_trim_numbers(
		JsonbToCString(NULL, &jsonb->root, VARSIZE(jsonb)));
}
