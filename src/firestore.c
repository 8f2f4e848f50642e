/*
 * firestore.c
 *		One call of the Firestore REST API: its address and token, its retries,
 *		and what its errors mean.
 *
 * Knows neither documents (fsjson.c, fsread.c, fswrite.c) nor sockets
 * (http.c).  Errors are told apart by error.status; the HTTP status counts
 * only where there is none, since Firestore uses 400 and 409 for several
 * things and proxies answer without JSON.
 */
#include "postgres.h"

#include "fsint.h"
#include "pg_compat.h"
#include "portability/instr_time.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "waits.h"

/* Delays between tries in milliseconds. */
#define BACKOFF_START 250
#define BACKOFF_CAP (30 * 1000)
#define RETRY_AFTER_CAP (60 * 1000)

#define SERVICE_URL "https://firestore.googleapis.com"

/* What a status means; one not named here is classed by its HTTP status. */
static const struct
{
	const char *status;
	int code; /* gRPC */
	FsClass write;
	FsClass read;
	bool unclear; /* what was refused with it may have been done */
} statuses[] = {
	{"CANCELLED", 1, FS_RETRY, FS_RETRY, true},
	{"UNKNOWN", 2, FS_RETRY, FS_RETRY, true},
	{"INVALID_ARGUMENT", 3, FS_ROW, FS_ROW, false},
	{"DEADLINE_EXCEEDED", 4, FS_RETRY, FS_RETRY, true},
	{"NOT_FOUND", 5, FS_REREAD, FS_STOP, false},
	{"ALREADY_EXISTS", 6, FS_REREAD, FS_STOP, false},
	{"PERMISSION_DENIED", 7, FS_STOP, FS_STOP, false},
	{"RESOURCE_EXHAUSTED", 8, FS_RETRY, FS_RETRY, false},
	{"FAILED_PRECONDITION", 9, FS_REREAD, FS_STOP, false},
	{"ABORTED", 10, FS_RETRY, FS_RETRY, false},
	{"OUT_OF_RANGE", 11, FS_ROW, FS_ROW, false},
	{"UNIMPLEMENTED", 12, FS_STOP, FS_STOP, false},
	{"INTERNAL", 13, FS_RETRY, FS_RETRY, true},
	{"UNAVAILABLE", 14, FS_RETRY, FS_RETRY, true},
	{"UNAUTHENTICATED", 16, FS_STOP, FS_STOP, false},
};

/* ---- opening ---- */

/* Append text as one segment of a URL's path. */
static void
append_url_segment(StringInfo out, const char *text)
{
	for (const char *s = text; *s; s++)
	{
		if ((*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') ||
			(*s >= '0' && *s <= '9') || strchr("-_.~()", *s))
			appendStringInfoChar(out, *s);
		else
			appendStringInfo(out, "%%%02X", (unsigned char) *s);
	}
}

FsClient *
fs_open(MemoryContext owner, const FsConfig *config)
{
	MemoryContext old = MemoryContextSwitchTo(owner);
	FsClient *client = palloc0(sizeof(FsClient));
	StringInfoData url;

	client->config = *config;
	client->config.project = pstrdup(config->project);
	client->config.database_id = pstrdup(config->database_id);
	if (config->emulator_host)
		client->config.emulator_host = pstrdup(config->emulator_host);

	initStringInfo(&url);
	if (config->emulator_host)
		appendStringInfo(&url, "http://%s", config->emulator_host);
	else
		appendStringInfoString(&url, SERVICE_URL);
	appendStringInfoString(&url, "/v1/projects/");
	append_url_segment(&url, config->project);
	appendStringInfoString(&url, "/databases/");
	append_url_segment(&url, config->database_id);
	appendStringInfoString(&url, "/documents");
	client->url = url.data;
	client->root = psprintf("projects/%s/databases/%s/documents",
							config->project, config->database_id);
	client->http =
		http_open(owner, config->connect_timeout, config->request_timeout,
				  wait_event(WAIT_FIRESTORE));
	client->rate.limited =
		config->max_writes_per_second > 0 ||
		(config->max_writes_per_second == 0 && config->emulator_host == NULL);
	client->rate.cap = Max(config->max_writes_per_second, 0);
	fs_limit(client, -1, -1);
	MemoryContextSwitchTo(old);
	return client;
}

const FsCost *
fs_cost(FsClient *client)
{
	const HttpStats *stats = http_stats(client->http);

	client->cost.requests = stats->requests;
	client->cost.bytes_sent = stats->bytes_sent;
	client->cost.bytes_received = stats->bytes_received;
	return &client->cost;
}

/* ---- limits ---- */

#define OVER_LIMIT "OVER_LIMIT"

static int64
documents_written(const FsClient *client)
{
	return client->cost.docs_written + client->cost.docs_deleted;
}

void
fs_limit(FsClient *client, int64 reads, int64 writes)
{
	client->max_reads =
		reads < 0 ? PG_INT64_MAX : client->cost.docs_read + reads;
	client->max_writes =
		writes < 0 ? PG_INT64_MAX : documents_written(client) + writes;
}

int64
fs_reads_left(const FsClient *client)
{
	if (client->max_reads == PG_INT64_MAX)
		return PG_INT64_MAX;
	return Max(client->max_reads - client->cost.docs_read, 0);
}

int64
fs_writes_left(const FsClient *client)
{
	if (client->max_writes == PG_INT64_MAX)
		return PG_INT64_MAX;
	return Max(client->max_writes - documents_written(client), 0);
}

bool
fs_is_over_limit(const FsError *err)
{
	return strcmp(err->status, OVER_LIMIT) == 0;
}

static void
over_limit(FsError *err, const char *setting)
{
	memset(err, 0, sizeof(FsError));
	strlcpy(err->status, OVER_LIMIT, sizeof(err->status));
	fs_fail(err, FS_STOP, "%s is reached", setting);
}

void
fs_over_reads(FsError *err)
{
	over_limit(err, "ekksync.max_reads_per_day");
}

void
fs_over_writes(FsError *err)
{
	over_limit(err, "ekksync.max_writes_per_day");
}

/* Microseconds of a clock that never goes back. */
static int64
steady_now(void)
{
	instr_time now;

	INSTR_TIME_SET_CURRENT(now);
	return (int64) INSTR_TIME_GET_MICROSEC(now);
}

int
fs_write_room(FsClient *client)
{
	return (int) Min(fs_writes_left(client),
					 rate_most(&client->rate, steady_now()));
}

/*
 * Before calls are tried that write: wait for their turn.  Nothing is held
 * meanwhile, and who stops the run stops the waiting.
 */
static void
wait_for_rate(FsClient *client, const FsCall *calls, int n)
{
	int nwrites = 0;
	int64 wait;

	for (int i = 0; i < n; i++)
		nwrites += calls[i].done ? 0 : calls[i].nwrites;
	wait = rate_take(&client->rate, nwrites, steady_now());
	if (wait > 0)
		http_sleep((int) ((wait + 999) / 1000), wait_event(WAIT_RATE));
}

/* ---- clock ---- */

const FsClock *
fs_clock(const FsClient *client)
{
	return &client->clock;
}

/* An answer told its time: what that says of the clocks. */
static void
note_clock(FsClient *client, const cJSON *answer, TimestampTz asked,
		   TimestampTz answered)
{
	TimestampTz told = cJSON_IsArray(answer)
						   ? fs_time(answer->child, "readTime")
						   : fs_time(answer, "commitTime");
	FsClock *clock = &client->clock;
	int64 error = (answered - asked + 1) / 2;

	/* who was set back meanwhile tells nothing */
	if (told == 0 || error < 0 || (clock->known && clock->error <= error))
		return;
	clock->known = true;
	clock->skew = told - asked - (answered - asked) / 2;
	clock->error = error;
}

/* ---- errors ---- */

void
fs_fail(FsError *err, FsClass class, const char *fmt, ...)
{
	StringInfoData message;
	va_list args;
	int needed;

	initStringInfo(&message);
	for (;;)
	{
		va_start(args, fmt);
		needed = appendStringInfoVA(&message, fmt, args);
		va_end(args);
		if (needed == 0)
			break;
		enlargeStringInfo(&message, needed);
	}
	err->class = class;
	err->message = message.data;
}

/* Class of an error, by status name or else by HTTP status. */
static FsClass
error_class(int http, const char *status, bool write)
{
	for (int i = 0; i < lengthof(statuses); i++)
	{
		if (strcmp(statuses[i].status, status) == 0)
			return write ? statuses[i].write : statuses[i].read;
	}
	switch (http)
	{
		case 408:
		case 429:
		case 500:
		case 502:
		case 503:
		case 504:
			return FS_RETRY;
		default:
			return FS_STOP;
	}
}

/* Can what was refused with this error have been done all the same? */
static bool
error_is_unclear(int http, const char *status)
{
	for (int i = 0; i < lengthof(statuses); i++)
	{
		if (strcmp(statuses[i].status, status) == 0 && statuses[i].unclear)
			return true;
	}
	return http == 408 || http == 499 || http >= 500;
}

void
fs_write_status(FsError *err, int code, const char *message)
{
	const char *name = "UNKNOWN";

	for (int i = 0; i < lengthof(statuses); i++)
	{
		if (statuses[i].code == code)
			name = statuses[i].status;
	}
	strlcpy(err->status, name, sizeof(err->status));
	err->maybe_applied = error_is_unclear(0, name);
	fs_fail(err, error_class(0, name, true),
			"Firestore refused the write with %s: %s", name,
			fs_safe_text(message ? message : "no reason given"));
}

/*
 * The error object of an answer: {"error": {...}}, in the last element of a
 * streaming call's array, or bare.  NULL if there is none.
 */
static const cJSON *
find_error(const cJSON *answer)
{
	const cJSON *error;

	if (cJSON_IsArray(answer))
	{
		const cJSON *last = NULL;
		const cJSON *element;

		cJSON_ArrayForEach (element, answer)
			last = element;
		answer = last;
	}
	error = cJSON_GetObjectItemCaseSensitive(answer, "error");
	if (cJSON_IsObject(error))
		return error;
	return fs_string(answer, "status") != NULL ? answer : NULL;
}

/* The answer says that the call failed; error is NULL if not in JSON. */
static void
call_refused(FsCall *call, int http, const cJSON *error)
{
	const char *status = error ? fs_string(error, "status") : NULL;
	const char *message = error ? fs_string(error, "message") : NULL;
	FsClass class;

	call->error.http = http;
	strlcpy(call->error.status, status ? status : "",
			sizeof(call->error.status));
	class = error_class(http, call->error.status, call->write);
	if (http == 413 ||
		(message != NULL && strstr(message, "exceeds maximum size") != NULL))
	{
		call->too_large = true;
		class = FS_ROW;
	}
	if (error_is_unclear(http, call->error.status))
		call->lost = true;
	fs_fail(&call->error, class, "Firestore answered %d%s%s: %s", http,
			status ? " " : "", call->error.status,
			message ? fs_safe_text(message) : "no reason given");
}

/* Put the outcome of one try into the call. */
static void
call_answered(FsCall *call, HttpResponse *response)
{
	const cJSON *error;

	memset(&call->error, 0, sizeof(call->error));
	call->too_large = false;
	call->cut = false;
	call->answer = NULL;
	call->retry_after = response->retry_after;
	switch (response->failure)
	{
		case HTTP_DONE:
			break;
		case HTTP_LOST:
			call->cut = call->lost = true;
			/* FALLTHROUGH */
		case HTTP_CONNECT:
			fs_fail(&call->error, FS_RETRY, "no answer from Firestore: %s",
					response->error);
			return;
		case HTTP_TOO_LARGE:
			/* a write is answered in few words: this is not about its rows */
			call->lost = true;
			call->cut = call->write;
			call->too_large = !call->write;
			fs_fail(&call->error, call->write ? FS_RETRY : FS_ROW,
					"no answer from Firestore: %s", response->error);
			return;
		case HTTP_REFUSED:
			fs_fail(&call->error, FS_STOP, "Firestore cannot be reached: %s",
					response->error);
			return;
	}

	if (response->is_json)
		call->answer = fs_parse(response->body, response->body_len);
	error = find_error(call->answer);
	if (response->status != 200 || error != NULL)
	{
		const cJSON *code = cJSON_GetObjectItemCaseSensitive(error, "code");

		call_refused(call,
					 response->status != 200 ? response->status
					 : cJSON_IsNumber(code)	 ? code->valueint
											 : 500,
					 error);
		call->answer = NULL;
	}
	else if (call->answer == NULL)
	{
		call->cut = call->lost = true;
		call->error.http = response->status;
		fs_fail(&call->error, FS_RETRY,
				"Firestore answered %d with something that is not JSON",
				response->status);
	}
}

/* ---- calls ---- */

/*
 * Set client->token, from a source that keeps it and knows when it ends;
 * false with the reason.
 */
static bool
get_token(FsClient *client, bool refresh, FsError *err)
{
	SyncError why = {0};

	if (client->config.emulator_host)
		client->token = "owner";
	else if (client->config.token == NULL)
	{
		fs_fail(err, FS_STOP,
				"no credentials for the Firestore service: set "
				"ekksync.emulator_host or FIRESTORE_EMULATOR_HOST to use the "
				"emulator");
		return false;
	}
	else
		client->token =
			client->config.token(client->config.token_arg, refresh, &why);
	if (client->token == NULL)
	{
		fs_fail(err, FS_STOP, "no credentials for the Firestore service: %s",
				why.message ? why.message : "no token");
		strlcpy(err->status, "UNAUTHENTICATED", sizeof(err->status));
	}
	return client->token != NULL;
}

/*
 * After a try: is the call done?  If not it is tried again.  *renewed: a new
 * token was asked for in this round.
 */
static bool
call_is_done(FsClient *client, FsCall *call, bool *renewed)
{
	if (call->error.http == 401 && !call->refreshed &&
		client->config.emulator_host == NULL)
	{
		call->refreshed = true;
		if (!*renewed && !get_token(client, true, &call->error))
			return true;
		*renewed = true;
		return false;
	}
	if (call->error.class != FS_RETRY)
		return true;
	return call->cut && !call->repeatable;
}

/* Try all calls once that are not done.  How many are still not? */
static int
try_calls(FsClient *client, FsCall *calls, int n)
{
	HttpRequest *requests = palloc0(sizeof(HttpRequest) * n);
	HttpResponse *responses = palloc0(sizeof(HttpResponse) * n);
	FsCall **tried = palloc(sizeof(FsCall *) * n);
	int ntried = 0;
	int left = 0;
	bool renewed = false;
	TimestampTz asked;
	TimestampTz answered;

	for (int i = 0; i < n; i++)
	{
		HttpRequest *request = &requests[ntried];

		if (calls[i].done)
			continue;
		request->method = "POST";
		request->url = psprintf("%s%s", client->url, calls[i].verb);
		request->bearer = client->token;
		request->body = calls[i].body.data;
		request->body_len = calls[i].body.len;
		tried[ntried++] = &calls[i];
	}
	wait_for_rate(client, calls, n);
	asked = GetCurrentTimestamp();
	http_perform(client->http, requests, responses, ntried);
	answered = GetCurrentTimestamp();
	for (int i = 0; i < ntried; i++)
	{
		call_answered(tried[i], &responses[i]);
		note_clock(client, tried[i]->answer, asked, answered);
		if (responses[i].body)
			pfree(responses[i].body);
	}
	for (int i = 0; i < ntried; i++)
	{
		tried[i]->done = call_is_done(client, tried[i], &renewed);
		if (!tried[i]->done)
			left++;
	}
	pfree(requests);
	pfree(responses);
	pfree(tried);
	return left;
}

void
fs_backoff(int attempt, int at_least)
{
	double jitter;
	int delay = BACKOFF_CAP;

	if (attempt < 16)
		delay = Min(BACKOFF_START << attempt, BACKOFF_CAP);
	jitter = pg_prng_double(&pg_global_prng_state);
	delay = (int) (delay * (0.5 + jitter / 2));
	http_sleep(Max(delay, Min(at_least, RETRY_AFTER_CAP)),
			   wait_event(WAIT_RETRY));
}

void
fs_calls(FsClient *client, FsCall *calls, int n)
{
	FsError no_token = {0};
	int attempt = 0;
	int left;
	bool ready = get_token(client, false, &no_token);

	for (int i = 0; i < n; i++)
	{
		calls[i].error = no_token;
		calls[i].done = !ready;
		calls[i].lost = calls[i].refreshed = false;
	}
	while ((left = try_calls(client, calls, n)) > 0)
	{
		int at_least = -1;
		bool wait = false;

		for (int i = 0; i < n; i++)
		{
			if (calls[i].done || calls[i].error.class != FS_RETRY)
				continue;
			wait = true;
			at_least = Max(at_least, calls[i].retry_after);
		}
		/* a refused token alone is tried again at once, and not counted */
		if (wait && attempt >= client->config.max_retries)
			break;
		if (wait)
			fs_backoff(attempt++, at_least);
		client->cost.retries += left;
	}
	for (int i = 0; i < n; i++)
		calls[i].error.maybe_applied =
			calls[i].write && calls[i].lost && calls[i].error.class != FS_OK;
}
