/*
 * transfer.h
 *		One HTTP request as libcurl has it; for http.c alone.
 */
#ifndef EKKSYNC_TRANSFER_H
#define EKKSYNC_TRANSFER_H

#include <curl/curl.h>

#include "http.h"

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

/*
 * May a request be sent to this address?  Sets *tls; returns the reason for a
 * no, a constant, or NULL.
 */
extern const char *transfer_refused(const char *url, bool *tls);

/*
 * Give t's easy handle all that this request needs; timeouts in milliseconds.
 * The request must outlive the transfer.
 */
extern CURLcode transfer_set(Transfer *t, const HttpRequest *request, bool tls,
							 int connect_timeout, int request_timeout);

/*
 * Fill in the response, whose texts are in the current memory context; rc: how
 * libcurl ended.
 */
extern void transfer_outcome(Transfer *t, CURLcode rc, HttpResponse *response);

/* Forget headers and answer, which may hold tokens; the handle stays. */
extern void transfer_clear(Transfer *t);

#endif /* EKKSYNC_TRANSFER_H */
