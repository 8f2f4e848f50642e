/*
 * http.c
 *		HTTP requests that wait together with the process's latch.
 *
 * The only file that knows libcurl.  It knows nothing of Firestore, of tables
 * or of settings.
 *
 * All sockets of libcurl are kept in one epoll set, whose descriptor is
 * waited for together with the latch, so that a cancel, a shutdown or the
 * death of the postmaster is served at once, whatever the server does.
 *
 * Rules that keep libcurl and the server apart: its callbacks neither palloc
 * nor throw; interrupts are served only while no call of libcurl is on the
 * stack; signals are blocked around the calls that may start a thread.
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "http.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/fd.h"
#include "storage/latch.h"

/* Most transfers at one time. */
#define MAX_TRANSFERS 4

/* Longest life of a connection in seconds. */
#define CONNECTION_LIFE 600

/* One request under way. */
typedef struct Transfer
{
	CURL *easy;
	struct curl_slist *headers;
	bool busy;
	int index; /* of the request in http_perform */
	const HttpRequest *request;
	size_t sent;  /* bytes of the body given to libcurl */
	char *answer; /* malloc'd */
	size_t answer_len;
	size_t answer_size;
	bool too_large;
	char error[CURL_ERROR_SIZE];
} Transfer;

struct HttpClient
{
	int connect_timeout;
	int request_timeout;
	uint32 wait_event;
	CURLM *multi;
	int mux;	 /* epoll descriptor, -1 if none */
	int nfds;	 /* external descriptors reserved */
	int64 timer; /* when libcurl wants to be called, -1: never */
	int busy;	 /* transfers under way */
	Transfer transfers[MAX_TRANSFERS];
	HttpStats stats;
	MemoryContextCallback callback;
};

/* State of this process. */
static struct
{
	bool ready; /* libcurl is initialized */
} http;

/* Milliseconds of a clock that never goes back. */
static int64
now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64) t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* First use in this process; never from _PG_init, since it may start threads. */
static void
http_init(void)
{
	if (http.ready)
		return;
	if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
		ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR),
						errmsg("could not initialize libcurl")));
	http.ready = true;
}

/* ---- callbacks of libcurl: no palloc, no error ---- */

/* libcurl wants to know about other events on a socket. */
static int
on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *unused)
{
	HttpClient *client = arg;
	struct epoll_event event = {0};

	if (what == CURL_POLL_REMOVE)
	{
		(void) epoll_ctl(client->mux, EPOLL_CTL_DEL, fd, &event);
		return 0;
	}
	event.data.fd = fd;
	if (what & CURL_POLL_IN)
		event.events |= EPOLLIN;
	if (what & CURL_POLL_OUT)
		event.events |= EPOLLOUT;
	if (epoll_ctl(client->mux, EPOLL_CTL_MOD, fd, &event) == 0 ||
		epoll_ctl(client->mux, EPOLL_CTL_ADD, fd, &event) == 0)
		return 0;
	return -1;
}

/* libcurl wants to be called in timeout milliseconds (-1: not at all). */
static int
on_timer(CURLM *multi, long timeout, void *arg)
{
	HttpClient *client = arg;

	client->timer = timeout < 0 ? -1 : now_ms() + timeout;
	return 0;
}

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

/* ---- opening and closing ---- */

/* Forget a transfer, finished or not; it may have held tokens. */
static void
transfer_drop(HttpClient *client, Transfer *t)
{
	if (!t->busy)
		return;
	curl_multi_remove_handle(client->multi, t->easy);
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
	t->busy = false;
	client->busy--;
}

static void
drop_all(HttpClient *client)
{
	for (int i = 0; i < MAX_TRANSFERS; i++)
		transfer_drop(client, &client->transfers[i]);
}

/* Reset callback of the owner's memory context: all that is not palloc'd. */
static void
client_close(void *arg)
{
	HttpClient *client = arg;

	drop_all(client);
	for (int i = 0; i < MAX_TRANSFERS; i++)
		curl_easy_cleanup(client->transfers[i].easy);
	if (client->multi)
		curl_multi_cleanup(client->multi);
	if (client->mux >= 0)
		close(client->mux);
	for (; client->nfds > 0; client->nfds--)
		ReleaseExternalFD();
}

HttpClient *
http_open(MemoryContext owner, int connect_timeout, int request_timeout,
		  uint32 wait_event)
{
	HttpClient *client;
	bool ok;

	http_init();
	client = MemoryContextAllocZero(owner, sizeof(HttpClient));
	client->connect_timeout = connect_timeout;
	client->request_timeout = request_timeout;
	client->wait_event = wait_event;
	client->mux = -1;
	client->timer = -1;
	client->callback.func = client_close;
	client->callback.arg = client;
	MemoryContextRegisterResetCallback(owner, &client->callback);

	for (; client->nfds < MAX_TRANSFERS + 1; client->nfds++)
	{
		if (!AcquireExternalFD())
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
					 errmsg("too many open files for an HTTP client: %m")));
	}
	client->mux = epoll_create1(EPOLL_CLOEXEC);
	if (client->mux < 0)
		ereport(ERROR, (errcode_for_file_access(),
						errmsg("could not create an epoll set: %m")));

	client->multi = curl_multi_init();
	ok = client->multi != NULL;
	for (int i = 0; ok && i < MAX_TRANSFERS; i++)
		ok = (client->transfers[i].easy = curl_easy_init()) != NULL;
	if (!ok)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY),
						errmsg("could not create an HTTP client")));
	curl_multi_setopt(client->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
	curl_multi_setopt(client->multi, CURLMOPT_SOCKETDATA, client);
	curl_multi_setopt(client->multi, CURLMOPT_TIMERFUNCTION, on_timer);
	curl_multi_setopt(client->multi, CURLMOPT_TIMERDATA, client);
	curl_multi_setopt(client->multi, CURLMOPT_MAX_HOST_CONNECTIONS,
					  (long) MAX_TRANSFERS);
	curl_multi_setopt(client->multi, CURLMOPT_MAXCONNECTS,
					  (long) MAX_TRANSFERS);
	return client;
}

/* ---- one transfer ---- */

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

/*
 * May the request be sent to this address?  HTTPS anywhere, plain HTTP only
 * to the machine itself and to the metadata server.  Sets *tls; the reason
 * for a no is returned.
 */
static const char *
url_refused(const char *url, bool *tls)
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
set_common(HttpClient *client, Transfer *t, bool tls)
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
	SETOPT(CURLOPT_CONNECTTIMEOUT_MS, (long) client->connect_timeout);
	SETOPT(CURLOPT_TIMEOUT_MS, (long) client->request_timeout);
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

/* Block all signals of this thread, so that no thread of libcurl gets one. */
static void
block_signals(sigset_t *saved)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, saved);
}

static void
restore_signals(const sigset_t *saved)
{
	pthread_sigmask(SIG_SETMASK, saved, NULL);
}

/*
 * Start a request on a free transfer.  When it must not be sent the reason is
 * put into *response and the transfer stays free.
 */
static void
transfer_start(HttpClient *client, Transfer *t, const HttpRequest *request,
			   int index, HttpResponse *response)
{
	const char *refused;
	bool tls = false;
	CURLcode rc;
	CURLMcode mrc = CURLM_OK;
	sigset_t saved;

	refused = url_refused(request->url, &tls);
	if (refused)
	{
		response->failure = HTTP_REFUSED;
		response->error = pstrdup(refused);
		return;
	}

	t->busy = true;
	client->busy++;
	t->index = index;
	t->request = request;
	t->sent = 0;
	t->too_large = false;
	t->error[0] = '\0';
	rc = set_common(client, t, tls);
	if (rc == CURLE_OK)
		rc = set_request(t);
	if (rc == CURLE_OK)
	{
		block_signals(&saved);
		mrc = curl_multi_add_handle(client->multi, t->easy);
		restore_signals(&saved);
	}
	if (rc != CURLE_OK || mrc != CURLM_OK)
		ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR),
						errmsg("could not start an HTTP request: %s",
							   rc != CURLE_OK ? curl_easy_strerror(rc)
											  : curl_multi_strerror(mrc))));
	client->stats.requests++;
}

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

/* ---- the event loop ---- */

/* Let libcurl do what it can do now without waiting. */
static void
client_drive(HttpClient *client)
{
	struct epoll_event events[2 * MAX_TRANSFERS];
	sigset_t saved;
	int running;
	int n;

	n = epoll_wait(client->mux, events, lengthof(events), 0);
	if (n < 0 && errno != EINTR)
		ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR),
						errmsg("could not read an epoll set: %m")));

	block_signals(&saved);
	for (int i = 0; i < n; i++)
	{
		int what = 0;

		if (events[i].events & EPOLLIN)
			what |= CURL_CSELECT_IN;
		if (events[i].events & EPOLLOUT)
			what |= CURL_CSELECT_OUT;
		if (events[i].events & (EPOLLERR | EPOLLHUP))
			what |= CURL_CSELECT_ERR;
		curl_multi_socket_action(client->multi, events[i].data.fd, what,
								 &running);
	}
	if (client->timer >= 0 && client->timer <= now_ms())
	{
		client->timer = -1;
		curl_multi_socket_action(client->multi, CURL_SOCKET_TIMEOUT, 0,
								 &running);
	}
	restore_signals(&saved);
}

/* Wait for a socket, libcurl's timer or the latch, and serve interrupts. */
static void
client_wait(HttpClient *client)
{
	int events = WL_LATCH_SET | WL_SOCKET_READABLE | WL_EXIT_ON_PM_DEATH;
	long timeout = -1;

	if (client->timer >= 0)
	{
		events |= WL_TIMEOUT;
		timeout = (long) Max(client->timer - now_ms(), 0);
	}
	events = WaitLatchOrSocket(MyLatch, events, client->mux, timeout,
							   client->wait_event);
	if (events & WL_LATCH_SET)
		ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* Take the finished transfers out. */
static void
client_collect(HttpClient *client, HttpResponse *responses)
{
	CURLMsg *msg;
	int left;

	while ((msg = curl_multi_info_read(client->multi, &left)) != NULL)
	{
		CURLcode rc = msg->data.result;
		HttpResponse *response;
		Transfer *t;

		if (msg->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, (char **) &t);
		response = &responses[t->index];
		if (rc == CURLE_OK)
			finish_answered(t, response);
		else
			finish_failed(t, rc, response);
		client->stats.bytes_sent += t->sent;
		client->stats.bytes_received += t->answer_len;
		transfer_drop(client, t);
	}
}

/* Start requests as long as a transfer is free; returns the next one to start. */
static int
client_start(HttpClient *client, const HttpRequest *requests,
			 HttpResponse *responses, int next, int n)
{
	for (int i = 0; i < MAX_TRANSFERS && next < n; i++)
	{
		Transfer *t = &client->transfers[i];

		/* one that is refused leaves the transfer free for another */
		while (!t->busy && next < n)
		{
			transfer_start(client, t, &requests[next], next, &responses[next]);
			next++;
		}
	}
	return next;
}

void
http_perform(HttpClient *client, const HttpRequest *requests,
			 HttpResponse *responses, int n)
{
	int next = 0;

	/* left over by a call that ended by an error */
	drop_all(client);
	memset(responses, 0, sizeof(HttpResponse) * n);
	for (int i = 0; i < n; i++)
		responses[i].retry_after = -1;
	for (;;)
	{
		next = client_start(client, requests, responses, next, n);
		if (client->busy == 0)
			break;
		client_wait(client);
		client_drive(client);
		client_collect(client, responses);
	}
}

const HttpStats *
http_stats(const HttpClient *client)
{
	return &client->stats;
}

void
http_sleep(int milliseconds, uint32 wait_event)
{
	int64 until = now_ms() + milliseconds;

	for (;;)
	{
		int64 left = until - now_ms();

		CHECK_FOR_INTERRUPTS();
		if (left <= 0)
			break;
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 (long) left, wait_event);
		ResetLatch(MyLatch);
	}
}
