/*
 * auth.c
 *		Access tokens for the Firestore service: asked for, kept, renewed.
 *
 * A service account's key file is turned into a token by a token server (see
 * authkey.c); without a key file the metadata server of Google's machines
 * gives one.
 *
 * Secrets (the file, the signed statement, answers, the token) are in no
 * message, are kept no longer than they are needed, and are overwritten
 * before their memory is freed; libcurl's own buffers are out of reach.
 *
 * May not know: documents, tables, runs, and what tokens are used for.
 */
#include "postgres.h"

#include "auth.h"
#include "authint.h"
#include "settings.h"
#include "utils/memutils.h"
#include "waits.h"

#define METADATA_PATH                                                         \
	"/computeMetadata/v1/instance/service-accounts/default/token"

/* A token is renewed this many seconds before its end. */
#define RENEW_BEFORE 60

/* Longest wait for a token in milliseconds, and how often one is asked for. */
#define TOKEN_TIMEOUT 20000
#define TOKEN_TRIES 3

/* The token of this process; its strings are in TopMemoryContext. */
static struct
{
	char *token;  /* NULL: none */
	char *origin; /* where it is from, for people */
	char *source; /* path of the key file, "" for none */
	TimestampTz renew_at;
} auth;

/* ---- the token that is kept ---- */

static void
forget_token(void)
{
	if (auth.token != NULL)
	{
		explicit_bzero(auth.token, strlen(auth.token));
		pfree(auth.token);
	}
	if (auth.origin != NULL)
		pfree(auth.origin);
	if (auth.source != NULL)
		pfree(auth.source);
	memset(&auth, 0, sizeof(auth));
}

/* Keep a token that was asked for at a time, with its life in seconds. */
static void
keep_token(const char *token, const cJSON *life, TimestampTz asked,
		   const char *origin, const char *path)
{
	double seconds = cJSON_IsNumber(life) ? life->valuedouble : 0;

	seconds = Max(0, Min(seconds, SECS_PER_DAY));
	auth.renew_at = asked + ((int64) seconds - RENEW_BEFORE) * USECS_PER_SEC;
	auth.origin = MemoryContextStrdup(TopMemoryContext, origin);
	auth.source = MemoryContextStrdup(TopMemoryContext, path ? path : "");
	auth.token = MemoryContextStrdup(TopMemoryContext, token);
}

/* ---- asking for a token ---- */

/* Fill in the request for a token of the metadata server. */
static void
grant_by_metadata(AuthGrant *grant)
{
	const char *host = getenv("GCE_METADATA_HOST");

	if (host == NULL || *host == '\0')
		host = HTTP_METADATA_HOST;
	grant->request.method = "GET";
	grant->request.url = psprintf("http://%s" METADATA_PATH, host);
	grant->request.header = "Metadata-Flavor: Google";
	grant->server = "the metadata server (no key file is set)";
	grant->origin = "service account of this machine, by the metadata server";
}

/* Send a request, again after failures that may pass. */
static void
send_request(const HttpRequest *request, HttpResponse *response)
{
	HttpClient *http =
		http_open(CurrentMemoryContext, settings.connect_timeout,
				  Min(settings.request_timeout, TOKEN_TIMEOUT),
				  wait_event(WAIT_TOKEN));

	for (int attempt = 1;; attempt++)
	{
		bool passing;

		http_perform(http, request, response, 1);
		if (response->body != NULL)
			auth_guard(response->body, response->body_len);
		passing = response->failure == HTTP_CONNECT ||
				  response->failure == HTTP_LOST || response->status == 429 ||
				  response->status >= 500;
		if (!passing || attempt == TOKEN_TRIES)
			return;
		http_sleep(500 * attempt, wait_event(WAIT_TOKEN));
	}
}

/* The server refused: say so with its reason, {"error": ...}. */
static bool
grant_refused(const AuthGrant *grant, int status, const cJSON *json,
			  SyncError *err)
{
	const char *code = auth_string(json, "error");
	const char *reason = cJSON_GetStringValue(
		cJSON_GetObjectItemCaseSensitive(json, "error_description"));
	bool invalid = code != NULL && strcmp(code, "invalid_grant") == 0;

	return sync_error(
		err, ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
		"%s answered %d%s%s%s%s%s", grant->server, status, code ? " " : "",
		code ? auth_safe_text(code) : "", reason ? ": " : "",
		reason ? auth_safe_text(reason) : "",
		invalid
			? "; check this server's clock, and that the key is still valid"
			: "");
}

/*
 * Get a token and keep it, working in the current memory context; false with
 * *err when there is none.
 */
static bool
fetch_token(const char *path, const char *name, SyncError *err)
{
	TimestampTz asked = GetCurrentTimestamp();
	AuthGrant grant = {{0}};
	HttpResponse response;
	const cJSON *json = NULL;
	const char *token;

	if (path == NULL)
		grant_by_metadata(&grant);
	else if (!auth_key_grant(&grant, path, name, err))
		return false;

	send_request(&grant.request, &response);
	if (response.failure != HTTP_DONE)
		return sync_error(err, ERRCODE_CONNECTION_FAILURE,
						  "no answer from %s: %s", grant.server,
						  response.error);
	if (response.body_len <= AUTH_MAX_TEXT)
		json = auth_parse(response.body, response.body_len);
	if (response.status != 200)
		return grant_refused(&grant, response.status, json, err);
	token = auth_string(json, "access_token");
	if (token == NULL)
		return sync_error(err, ERRCODE_CONNECTION_FAILURE,
						  "no token in the answer of %s", grant.server);

	keep_token(token, cJSON_GetObjectItemCaseSensitive(json, "expires_in"),
			   asked, grant.origin, path);
	return true;
}

/* ---- for the Firestore client ---- */

const char *
auth_token(void *arg, bool refresh, SyncError *err)
{
	MemoryContext old = CurrentMemoryContext;
	MemoryContext cxt;
	SyncError why = {0};
	const char *name = "ekksync.credentials";
	const char *path = settings.credentials;

	if (path == NULL || *path == '\0')
	{
		name = "GOOGLE_APPLICATION_CREDENTIALS";
		path = getenv(name);
	}
	if (path != NULL && *path == '\0')
		path = NULL;
	if (auth.token != NULL && !refresh &&
		strcmp(auth.source, path ? path : "") == 0 &&
		GetCurrentTimestamp() < auth.renew_at)
		return auth.token;

	forget_token();
	cxt = AllocSetContextCreate(old, "ekksync token", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(cxt);
	(void) fetch_token(path, name, &why);
	MemoryContextSwitchTo(old);
	if (auth.token == NULL)
		sync_error(err, why.sqlstate, "%s", why.message);
	MemoryContextDelete(cxt);
	return auth.token;
}

const char *
auth_origin(void)
{
	return auth.origin;
}
