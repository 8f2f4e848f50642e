/*
 * sqlvalue.c
 *		Arrays as parameters, and columns of SPI results as C values.
 *
 * May not know: which tables they go to or come from.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

#include "sqlvalue.h"

static Datum
make_array(Datum *values, bool *nulls, int n, Oid type, int typlen, bool byval,
		   char align)
{
	int dims = n;
	int lbound = 1;

	if (n == 0)
		return PointerGetDatum(construct_empty_array(type));
	return PointerGetDatum(construct_md_array(values, nulls, 1, &dims, &lbound,
											  type, typlen, byval, align));
}

static Datum
string_array(char *const *values, int n, Oid type)
{
	Datum *datums = palloc(sizeof(Datum) * (n + 1));
	bool *nulls = palloc(sizeof(bool) * (n + 1));
	int i;

	for (i = 0; i < n; i++)
	{
		nulls[i] = values[i] == NULL;
		datums[i] = (Datum) 0;
		if (nulls[i])
			continue;
		datums[i] =
			type == TEXTOID
				? CStringGetTextDatum(values[i])
				: DirectFunctionCall1(jsonb_in, CStringGetDatum(values[i]));
	}
	return make_array(datums, nulls, n, type, -1, false, TYPALIGN_INT);
}

Datum
sql_text_array(char *const *values, int n)
{
	return string_array(values, n, TEXTOID);
}

Datum
sql_json_array(char *const *values, int n)
{
	return string_array(values, n, JSONBOID);
}

Datum
sql_int8_array(const int64 *values, int n)
{
	Datum *datums = palloc(sizeof(Datum) * (n + 1));
	int i;

	for (i = 0; i < n; i++)
		datums[i] = Int64GetDatum(values[i]);
	return make_array(datums, NULL, n, INT8OID, sizeof(int64), FLOAT8PASSBYVAL,
					  TYPALIGN_DOUBLE);
}

Datum
sql_time_array(const TimestampTz *values, int n)
{
	Datum *datums = palloc(sizeof(Datum) * (n + 1));
	bool *nulls = palloc(sizeof(bool) * (n + 1));
	int i;

	for (i = 0; i < n; i++)
	{
		datums[i] = TimestampTzGetDatum(values[i]);
		nulls[i] = values[i] == 0;
	}
	return make_array(datums, nulls, n, TIMESTAMPTZOID, sizeof(TimestampTz),
					  FLOAT8PASSBYVAL, TYPALIGN_DOUBLE);
}

Datum
sql_bool_array(const bool *values, int n)
{
	Datum *datums = palloc(sizeof(Datum) * (n + 1));
	int i;

	for (i = 0; i < n; i++)
		datums[i] = BoolGetDatum(values[i]);
	return make_array(datums, NULL, n, BOOLOID, 1, true, TYPALIGN_CHAR);
}

Datum
sql_text(const char *s)
{
	return s == NULL ? (Datum) 0 : CStringGetTextDatum(s);
}

char *
sql_get_text(int i, int column, MemoryContext cxt)
{
	char *value =
		SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, column);

	return value == NULL ? NULL : MemoryContextStrdup(cxt, value);
}

static Datum
get_datum(int i, int column, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, column,
						 isnull);
}

int64
sql_get_int8(int i, int column)
{
	bool isnull;
	Datum d = get_datum(i, column, &isnull);

	return isnull ? 0 : DatumGetInt64(d);
}

TimestampTz
sql_get_time(int i, int column)
{
	bool isnull;
	Datum d = get_datum(i, column, &isnull);

	return isnull ? 0 : DatumGetTimestampTz(d);
}

bool
sql_get_bool(int i, int column)
{
	bool isnull;
	Datum d = get_datum(i, column, &isnull);

	return isnull ? false : DatumGetBool(d);
}

List *
sql_get_list(MemoryContext cxt)
{
	List *list = NIL;
	uint64 i;

	for (i = 0; i < SPI_processed; i++)
	{
		char *s = sql_get_text(i, 1, cxt);
		MemoryContext old = MemoryContextSwitchTo(cxt);

		list = lappend(list, s);
		MemoryContextSwitchTo(old);
	}
	return list;
}

List *
sql_get_keys(char **upto, MemoryContext cxt)
{
	bool cut = SPI_processed > 0 && sql_get_bool(0, 2);
	List *list = sql_get_list(cxt);
	char *last;

	if (!cut)
		return list;
	if (list_length(list) > 1)
		list = list_truncate(list, list_length(list) - 1);
	last = llast(list);
	if (*upto == NULL || strcmp(last, *upto) < 0)
		*upto = last;
	return list;
}
