/*
 * values_sql.c
 *		The codecs as SQL functions: what a value becomes on its way, to look
 *		at and to test with.
 *
 * May not know: tables, documents.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "codecs.h"

PG_FUNCTION_INFO_V1(ekksync_encode_value);
PG_FUNCTION_INFO_V1(ekksync_decode_value);
PG_FUNCTION_INFO_V1(ekksync_canonical);
PG_FUNCTION_INFO_V1(ekksync_plain);
PG_FUNCTION_INFO_V1(ekksync_field_path);

static void throw(const SyncError *err)
{
	ereport(ERROR, (errcode(err->sqlstate), errmsg("%s", err->message)));
}

/* Codec by the arguments codec (the first) and options (the third). */
static void
get_codec(FunctionCallInfo fcinfo, Codec *codec)
{
	char *options = NULL;
	SyncError err;

	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("codec must not be null")));
	if (!PG_ARGISNULL(2))
		options = canon_from_jsonb(PG_GETARG_JSONB_P(2));
	if (!codec_lookup(text_to_cstring(PG_GETARG_TEXT_PP(0)), options, codec,
					  &err))
		throw(&err);
}

static Datum
jsonb_from_text(char *json)
{
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(json));
}

/* The tree of a jsonb argument; the caller frees it before anything throws. */
static cJSON *
get_tree(Jsonb *jsonb)
{
	char *text = JsonbToCString(NULL, &jsonb->root, VARSIZE(jsonb));
	cJSON *tree = wire_parse(text, strlen(text));

	if (tree == NULL)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("value cannot be read as JSON from the wire")));
	return tree;
}

/* encode_value(codec text, value jsonb, options jsonb) returns jsonb */
Datum
ekksync_encode_value(PG_FUNCTION_ARGS)
{
	const char *canon = CANON_NULL;
	Codec codec;
	StringInfoData out;
	SyncError err;

	get_codec(fcinfo, &codec);
	if (!PG_ARGISNULL(1))
		canon = canon_from_jsonb(PG_GETARG_JSONB_P(1));

	initStringInfo(&out);
	if (!value_encode(&codec, canon, &out, &err))
		throw(&err);
	return jsonb_from_text(out.data);
}

/* decode_value(codec text, value jsonb, options jsonb) returns jsonb */
Datum
ekksync_decode_value(PG_FUNCTION_ARGS)
{
	cJSON *tree = NULL;
	Codec codec;
	char *canon;
	SyncError err;

	get_codec(fcinfo, &codec);
	if (!PG_ARGISNULL(1))
		tree = get_tree(PG_GETARG_JSONB_P(1));
	canon = value_decode(&codec, tree, &err);
	cJSON_Delete(tree);

	if (canon == NULL)
		throw(&err);
	return jsonb_from_text(canon);
}

/* canonical(codec text, value anyelement, options jsonb) returns jsonb */
Datum
ekksync_canonical(PG_FUNCTION_ARGS)
{
	Oid typid = get_fn_expr_argtype(fcinfo->flinfo, 1);
	Codec codec;
	char *canon;
	SyncError err;

	get_codec(fcinfo, &codec);
	canon = value_from_datum(&codec,
							 PG_ARGISNULL(1) ? (Datum) 0 : PG_GETARG_DATUM(1),
							 PG_ARGISNULL(1), typid, &err);
	if (canon == NULL)
		throw(&err);
	return jsonb_from_text(canon);
}

/* plain(value jsonb) returns jsonb */
Datum
ekksync_plain(PG_FUNCTION_ARGS)
{
	cJSON *tree = get_tree(PG_GETARG_JSONB_P(0));
	StringInfoData out;
	SyncError err;
	bool done;

	initStringInfo(&out);
	done = value_to_plain(tree, &out, &err);
	cJSON_Delete(tree);

	if (!done)
		throw(&err);
	return jsonb_from_text(out.data);
}

/* field_path(path text) returns text */
Datum
ekksync_field_path(PG_FUNCTION_ARGS)
{
	FieldPath path;
	SyncError err;

	if (!path_parse(text_to_cstring(PG_GETARG_TEXT_PP(0)), &path, &err))
		throw(&err);
	PG_RETURN_TEXT_P(cstring_to_text(path.quoted));
}
