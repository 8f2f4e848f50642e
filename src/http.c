/*
 * http.c
 *		HTTP requests that wait together with the process's latch.
 *
 * With transfer.c, which has what belongs to one request, the only file that
 * knows libcurl.  It knows nothing of Firestore, of tables or of settings.
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

#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "transfer.h"

/* Most transfers at one time. */
#define MAX_TRANSFERS 4

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

/* How often the process's tick is called, in ms. */
#define TICK_EVERY 500

/* State of this process. */
static struct
{
	bool ready;			/* libcurl is initialized */
	void (*tick)(void); /* NULL: there is none */
	int64 next_tick;
} http;

/* Milliseconds of a clock that never goes back. */
static int64
now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64) t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

void
http_on_tick(void (*tick)(void))
{
	http.tick = tick;
}

/* How long to wait, if not for longer than timeout (-1: for ever). */
static long
until_tick(long timeout)
{
	long left;

	if (http.tick == NULL)
		return timeout;
	left = (long) Max(http.next_tick - now_ms(), 0);
	return timeout < 0 ? left : Min(timeout, left);
}

/* No call of libcurl is on the stack. */
static void
tick(void)
{
	if (http.tick == NULL || now_ms() < http.next_tick)
		return;
	http.next_tick = now_ms() + TICK_EVERY;
	http.tick();
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

/* ---- opening and closing ---- */

/* Forget a transfer, finished or not; it may have held tokens. */
static void
transfer_drop(HttpClient *client, Transfer *t)
{
	if (!t->busy)
		return;
	curl_multi_remove_handle(client->multi, t->easy);
	transfer_clear(t);
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

	refused = transfer_refused(request->url, &tls);
	if (refused)
	{
		response->failure = HTTP_REFUSED;
		response->error = pstrdup(refused);
		return;
	}

	t->busy = true;
	client->busy++;
	t->index = index;
	rc = transfer_set(t, request, tls, client->connect_timeout,
					  client->request_timeout);
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
		timeout = (long) Max(client->timer - now_ms(), 0);
	timeout = until_tick(timeout);
	if (timeout >= 0)
		events |= WL_TIMEOUT;
	events = WaitLatchOrSocket(MyLatch, events, client->mux, timeout,
							   client->wait_event);
	if (events & WL_LATCH_SET)
		ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	tick();
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
		transfer_outcome(t, rc, response);
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
		tick();
		if (left <= 0)
			break;
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 until_tick((long) left), wait_event);
		ResetLatch(MyLatch);
	}
}
