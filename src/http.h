/*
 * http.h
 *		HTTP requests that wait together with the process's latch.
 */
#ifndef EKKSYNC_HTTP_H
#define EKKSYNC_HTTP_H

#include "ekksync.h"

/*
 * The metadata server of Google's machines.  It has no TLS and is reached
 * without leaving the machine's host: the one place beside the machine itself
 * to which plain HTTP is allowed.
 */
#define HTTP_METADATA_HOST "metadata.google.internal"

typedef struct HttpClient HttpClient;

typedef struct HttpRequest
{
	const char *method; /* "GET", "POST", "PATCH", "DELETE" */
	const char *url;
	const char *bearer; /* token for Authorization, or NULL */
	const char *header; /* one more header line, or NULL */
	const char *body;	/* or NULL; must outlive the call */
	size_t body_len;
	const char *content_type; /* NULL: application/json */
} HttpRequest;

typedef enum HttpFailure
{
	HTTP_DONE,		/* an answer came, whatever its status */
	HTTP_CONNECT,	/* the server was not reached: nothing was done */
	HTTP_LOST,		/* cut off or timed out: it may have been done */
	HTTP_TOO_LARGE, /* the answer is over EKKSYNC_MAX_RESPONSE */
	HTTP_REFUSED	/* not sent: TLS, redirect, plain HTTP to elsewhere */
} HttpFailure;

typedef struct HttpResponse
{
	HttpFailure failure;
	int status; /* HTTP status, 0 without an answer */
	char *body; /* NUL-terminated, in CurrentMemoryContext */
	size_t body_len;
	bool is_json;	 /* by its Content-Type */
	int retry_after; /* milliseconds, -1: not said */
	char *error;	 /* why it failed, phase named; NULL if HTTP_DONE */
} HttpResponse;

typedef struct HttpStats
{
	int64 requests;
	int64 bytes_sent; /* bodies */
	int64 bytes_received;
} HttpStats;

/*
 * Open a client.  All of it (curl handles, sockets, epoll fd) is freed with
 * the memory context owner, whether it ends normally or by an error.
 * Timeouts in milliseconds.  wait_event: what pg_stat_activity says meanwhile.
 */
extern HttpClient *http_open(MemoryContext owner, int connect_timeout,
							 int request_timeout, uint32 wait_event);

/*
 * Perform n requests, at most four at a time; returns when all have an
 * outcome in responses[], whose texts are in the current memory context.
 * Serves interrupts while it waits: a cancel or a shutdown throws from here;
 * the transfers are dropped by the next call or with the client.  A body is
 * never sent twice without the caller knowing.  Must not be called
 * inside a transaction that holds a snapshot, except by SQL functions that
 * say so.
 */
extern void http_perform(HttpClient *client, const HttpRequest *requests,
						 HttpResponse *responses, int n);

extern const HttpStats *http_stats(const HttpClient *client);

/*
 * In this process, call tick about twice a second while http_perform or
 * http_sleep wait; NULL: nobody.  It may throw as an interrupt may.
 */
extern void http_on_tick(void (*tick)(void));

/* Sleep, served by the latch like http_perform. */
extern void http_sleep(int milliseconds, uint32 wait_event);

#endif /* EKKSYNC_HTTP_H */
