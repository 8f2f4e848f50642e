/*
 * transfer.c
 *		One HTTP request as libcurl has it: what is asked of it, the parts of
 *		the answer as they come, and what came of it.
 *
 * With http.c the only file that knows libcurl.  It knows nothing of waiting,
 * nor of Firestore, tables or settings.  The callbacks neither palloc nor
 * throw.
 */
#include "postgres.h"

#include <arpa/inet.h>

#include "transfer.h"

/* Longest life of a connection in seconds. */
#define CONNECTION_LIFE 600

/* ---- callbacks of libcurl: no palloc, no error ---- */

/* A part of the answer has come. */
static size_t
on_answer(char *data, size_t size, size_t n, void *arg)
{
	Transfer *t = arg;
	size_t len = size * n;

	if (len > EKKSYNC_MAX_RESPONSE - t->answer_len)
	{
		t->too_large = true;
		return 0;
	}
	if (t->answer_len + len > t->answer_size)
	{
		size_t newsize = Max(t->answer_size * 2, 16 * 1024);
		char *newbuf;

		while (newsize < t->answer_len + len)
			newsize *= 2;
		newbuf = realloc(t->answer, newsize);
		if (newbuf == NULL)
		{
			t->too_large = true;
			return 0;
		}
		t->answer = newbuf;
		t->answer_size = newsize;
	}
	memcpy(t->answer + t->answer_len, data, len);
	t->answer_len += len;
	return len;
}

/* The next part of the request's body is wanted. */
static size_t
on_body(char *buffer, size_t size, size_t n, void *arg)
{
	Transfer *t = arg;
	size_t len = Min(size * n, t->request->body_len - t->sent);

	memcpy(buffer, t->request->body + t->sent, len);
	t->sent += len;
	return len;
}

/*
 * libcurl wants to send the body again, on a new connection.  It must not:
 * the first one may have done its work, and the caller has to know that.
 */
static int
on_rewind(void *arg, curl_off_t offset, int origin)
{
	Transfer *t = arg;

	return t->sent == 0 && offset == 0 ? CURL_SEEKFUNC_OK : CURL_SEEKFUNC_FAIL;
}

/* ---- what is asked ---- */

/* Is this host, as libcurl's parser gives it, the machine itself? */
static bool
host_is_loopback(const char *host)
{
	struct in_addr ip;

	if (pg_strcasecmp(host, "localhost") == 0 || strcmp(host, "[::1]") == 0)
		return true;
	return inet_pton(AF_INET, host, &ip) == 1 &&
		   (ntohl(ip.s_addr) >> 24) == 127;
}

/* HTTPS anywhere, plain HTTP only to the machine and the metadata server. */
const char *
transfer_refused(const char *url, bool *tls)
{
	CURLU *parsed = curl_url();
	char *scheme = NULL;
	char *host = NULL;
	const char *reason = NULL;

	if (parsed == NULL ||
		curl_url_set(parsed, CURLUPART_URL, url, 0) != CURLUE_OK ||
		curl_url_get(parsed, CURLUPART_SCHEME, &scheme, 0) != CURLUE_OK ||
		curl_url_get(parsed, CURLUPART_HOST, &host, 0) != CURLUE_OK)
		reason = "not sent: the address is not a valid URL";
	else
	{
		*tls = strcmp(scheme, "https") == 0;
		if (!*tls && strcmp(scheme, "http") != 0)
			reason = "not sent: the address is neither http nor https";
		else if (!*tls && !host_is_loopback(host) &&
				 pg_strcasecmp(host, HTTP_METADATA_HOST) != 0)
			reason =
				"not sent: plain HTTP is only allowed to the machine itself";
	}
	curl_free(scheme);
	curl_free(host);
	curl_url_cleanup(parsed);
	return reason;
}

/* Add a header to the transfer's list; false when out of memory. */
static bool
add_header(Transfer *t, const char *header)
{
	struct curl_slist *list = curl_slist_append(t->headers, header);

	if (list == NULL)
		return false;
	t->headers = list;
	return true;
}

/* The request's headers; false when out of memory. */
static bool
set_headers(Transfer *t)
{
	const HttpRequest *r = t->request;
	char *line;
	bool ok = add_header(t, "Expect:");

	if (ok && r->body)
	{
		line =
			psprintf("Content-Type: %s",
					 r->content_type ? r->content_type : "application/json");
		ok = add_header(t, line);
		pfree(line);
	}
	if (ok && r->bearer)
	{
		line = psprintf("Authorization: Bearer %s", r->bearer);
		ok = add_header(t, line);
		explicit_bzero(line, strlen(line));
		pfree(line);
	}
	if (ok && r->header)
		ok = add_header(t, r->header);
	return ok;
}

#define SETOPT(option, value)                                                 \
	do                                                                        \
	{                                                                         \
		if (rc == CURLE_OK)                                                   \
			rc = curl_easy_setopt(t->easy, (option), (value));                \
	} while (0)

/* What is the same for all requests of a client: safety, limits, callbacks. */
static CURLcode
set_common(Transfer *t, bool tls, int connect_timeout, int request_timeout)
{
	CURLcode rc = CURLE_OK;

	SETOPT(CURLOPT_NOSIGNAL, 1L);
#if LIBCURL_VERSION_NUM >= 0x075500
	SETOPT(CURLOPT_PROTOCOLS_STR, tls ? "https" : "http");
#else
	SETOPT(CURLOPT_PROTOCOLS, (long) (tls ? CURLPROTO_HTTPS : CURLPROTO_HTTP));
#endif
	SETOPT(CURLOPT_SSL_VERIFYPEER, 1L);
	SETOPT(CURLOPT_SSL_VERIFYHOST, 2L);
	SETOPT(CURLOPT_FOLLOWLOCATION, 0L);
	SETOPT(CURLOPT_PROXY, "");
	SETOPT(CURLOPT_NETRC, (long) CURL_NETRC_IGNORED);
	SETOPT(CURLOPT_USERAGENT, "ekksync");
	SETOPT(CURLOPT_CONNECTTIMEOUT_MS, (long) connect_timeout);
	SETOPT(CURLOPT_TIMEOUT_MS, (long) request_timeout);
#if LIBCURL_VERSION_NUM >= 0x075000
	SETOPT(CURLOPT_MAXLIFETIME_CONN, (long) CONNECTION_LIFE);
#endif
#if LIBCURL_VERSION_NUM >= 0x075700
	/* a dropped transfer does not wait for a name being looked up */
	SETOPT(CURLOPT_QUICK_EXIT, 1L);
#endif
	SETOPT(CURLOPT_ERRORBUFFER, t->error);
	SETOPT(CURLOPT_WRITEFUNCTION, on_answer);
	SETOPT(CURLOPT_WRITEDATA, t);
	SETOPT(CURLOPT_PRIVATE, t);

	/* a libcurl without HTTP/2 refuses this option, and does without */
	curl_easy_setopt(t->easy, CURLOPT_HTTP_VERSION,
					 (long) (tls ? CURL_HTTP_VERSION_2TLS
								 : CURL_HTTP_VERSION_1_1));
	return rc;
}

/* What belongs to this request. */
static CURLcode
set_request(Transfer *t)
{
	const HttpRequest *r = t->request;
	CURLcode rc = CURLE_OK;

	SETOPT(CURLOPT_URL, r->url);
	if (r->body)
	{
		SETOPT(CURLOPT_POST, 1L);
		SETOPT(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) r->body_len);
		SETOPT(CURLOPT_READFUNCTION, on_body);
		SETOPT(CURLOPT_READDATA, t);
		SETOPT(CURLOPT_SEEKFUNCTION, on_rewind);
		SETOPT(CURLOPT_SEEKDATA, t);
	}
	SETOPT(CURLOPT_CUSTOMREQUEST, r->method);
	if (set_headers(t))
		SETOPT(CURLOPT_HTTPHEADER, t->headers);
	else
		rc = CURLE_OUT_OF_MEMORY;
	return rc;
}

CURLcode
transfer_set(Transfer *t, const HttpRequest *request, bool tls,
			 int connect_timeout, int request_timeout)
{
	CURLcode rc;

	t->request = request;
	t->sent = 0;
	t->too_large = false;
	t->error[0] = '\0';
	rc = set_common(t, tls, connect_timeout, request_timeout);
	return rc == CURLE_OK ? set_request(t) : rc;
}

void
transfer_clear(Transfer *t)
{
	curl_easy_reset(t->easy);
	for (struct curl_slist *h = t->headers; h; h = h->next)
		explicit_bzero(h->data, strlen(h->data));
	if (t->answer)
		explicit_bzero(t->answer, t->answer_len);
	curl_slist_free_all(t->headers);
	free(t->answer);
	t->headers = NULL;
	t->answer = NULL;
	t->answer_len = t->answer_size = 0;
}

/* ---- what came of it ---- */

/*
 * Can the server have seen the request?  Not before the connection stands,
 * and not as long as no byte of its body was sent.
 */
static bool
transfer_was_sent(const Transfer *t)
{
	curl_off_t ready = 0;

	if (t->request->body && t->request->body_len > 0)
		return t->sent > 0;
	curl_easy_getinfo(t->easy, CURLINFO_PRETRANSFER_TIME_T, &ready);
	return ready > 0;
}

/* Kind of a failed transfer, and the phase in which it failed. */
static HttpFailure
failure_kind(const Transfer *t, CURLcode rc, const char **phase)
{
	long status = 0;

	*phase = "connecting";
	if (t->too_large)
	{
		*phase = "receiving the answer";
		return HTTP_TOO_LARGE;
	}
	switch (rc)
	{
		case CURLE_PEER_FAILED_VERIFICATION:
		case CURLE_SSL_CACERT_BADFILE:
		case CURLE_SSL_CERTPROBLEM:
		case CURLE_SSL_CIPHER:
		case CURLE_SSL_ISSUER_ERROR:
		case CURLE_UNSUPPORTED_PROTOCOL:
		case CURLE_URL_MALFORMAT:
			return HTTP_REFUSED;
		default:
			break;
	}
	if (!transfer_was_sent(t))
		return HTTP_CONNECT;
	curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
	if (status != 0)
		*phase = "receiving the answer";
	else if (t->sent < t->request->body_len)
		*phase = "sending the request";
	else
		*phase = "waiting for the answer";
	return HTTP_LOST;
}

/* Fill in the response of a transfer that failed. */
static void
finish_failed(Transfer *t, CURLcode rc, HttpResponse *response)
{
	const char *phase;
	const char *reason = t->error[0] ? t->error : curl_easy_strerror(rc);

	if (t->too_large)
		reason = "the answer is too large";
	else if (rc == CURLE_SEND_FAIL_REWIND)
		reason = "the connection was closed";
	response->failure = failure_kind(t, rc, &phase);
	response->error = psprintf("%s: %s", phase, reason);
}

/* Fill in the response of a transfer that got an answer. */
static void
finish_answered(Transfer *t, HttpResponse *response)
{
	long status = 0;
	curl_off_t retry_after = 0;
	char *type = NULL;

	curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
	curl_easy_getinfo(t->easy, CURLINFO_CONTENT_TYPE, &type);
	curl_easy_getinfo(t->easy, CURLINFO_RETRY_AFTER, &retry_after);
	response->status = (int) status;
	if (status >= 300 && status < 400)
	{
		response->failure = HTTP_REFUSED;
		response->error = psprintf(
			"the server redirects with status %ld, which is not followed",
			status);
		return;
	}
	response->failure = HTTP_DONE;
	response->is_json =
		type != NULL && pg_strncasecmp(type, "application/json", 16) == 0;
	if (retry_after > 0)
		response->retry_after = (int) Min(retry_after, 86400) * 1000;
	response->body = palloc(t->answer_len + 1);
	if (t->answer_len > 0)
		memcpy(response->body, t->answer, t->answer_len);
	response->body[t->answer_len] = '\0';
	response->body_len = t->answer_len;
}

void
transfer_outcome(Transfer *t, CURLcode rc, HttpResponse *response)
{
	if (rc == CURLE_OK)
		finish_answered(t, response);
	else
		finish_failed(t, rc, response);
}
