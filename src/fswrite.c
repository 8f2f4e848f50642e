/*
 * fswrite.c
 *		Writing documents: pages of writes, and who is to blame for a page
 *		that is refused.
 *
 * Part of the Firestore client.  A page goes by :commit, which is atomic and
 * by far the fastest.  When a precondition fails it does not say whose, so
 * the page goes again by :batchWrite, which answers for each write.  When a
 * write is invalid both refuse the whole page without saying which, so it is
 * sent again in halves.
 */
#include "postgres.h"

#include "fsint.h"
#include "miscadmin.h"
#include "utils/memutils.h"

/* One fs_write. */
typedef struct WriteJob
{
	FsClient *client;
	MemoryContext result; /* where messages go */
	FsError stop;		  /* why the rest is not tried; FS_OK: go on */
} WriteJob;

/* The writes of one request. */
typedef struct Page
{
	FsWrite **writes;
	int n;
	StringInfoData body; /* the same for :commit and :batchWrite */
	bool repeatable;	 /* all writes have a precondition */
	bool lost;			 /* was sent without a certain answer */
} Page;

static bool pages_send(WriteJob *job, Page *pages, int npages);

/* ---- outcomes of single writes ---- */

static void
write_failed(WriteJob *job, FsWrite *write, const FsError *error, bool lost)
{
	lost |= write->error.maybe_applied; /* by an earlier try */
	write->error = *error;
	write->error.maybe_applied |= lost;
	write->error.message = MemoryContextStrdup(job->result, error->message);
}

static void
write_done(WriteJob *job, FsWrite *write, TimestampTz update_time)
{
	memset(&write->error, 0, sizeof(FsError));
	if (write->delete)
		job->client->cost.docs_deleted++;
	else
	{
		write->update_time = update_time;
		job->client->cost.docs_written++;
	}
}

/* A write that need not be sent to know that it fails. */
static void
write_unfit(WriteJob *job, FsWrite *write, const char *reason)
{
	FsError error = {0};

	fs_fail(&error, FS_ROW, "%s", reason);
	write_failed(job, write, &error, false);
}

/* Try nothing further, for this reason. */
static void
stop(WriteJob *job, const FsError *error)
{
	job->stop = *error;
	job->stop.message = MemoryContextStrdup(job->result, error->message);
	job->stop.maybe_applied = false;
}

/* Bytes of the values of a write. */
static size_t
write_size(const FsWrite *write)
{
	size_t size = write->whole ? strlen(write->whole) : 0;

	for (int i = 0; i < write->nvalues; i++)
	{
		if (write->values[i].value)
			size += strlen(write->values[i].value);
	}
	return size;
}

/* ---- pages ---- */

/* Append a write to a page's body; false if it does not fit. */
static bool
page_append(WriteJob *job, Page *page, const FsWrite *write)
{
	int mark = page->body.len;

	if (page->n > 0)
		appendStringInfoChar(&page->body, ',');
	fs_append_write(&page->body, job->client, write);
	if (page->body.len + 2 <= EKKSYNC_MAX_REQUEST)
		return true;
	page->body.len = mark;
	page->body.data[mark] = '\0';
	return false;
}

/*
 * Fill a page, of at most room writes, from list[*next .. n-1], and move *next
 * on.  Writes that can never be sent fail here.
 */
static void
page_fill(WriteJob *job, Page *page, FsWrite **list, int n, int *next,
		  int room)
{
	memset(page, 0, sizeof(Page));
	page->writes = palloc(sizeof(FsWrite *) * EKKSYNC_MAX_WRITES);
	page->repeatable = true;
	initStringInfo(&page->body);
	appendStringInfoString(&page->body, "{\"writes\":[");
	for (; *next < n && page->n < Min(room, EKKSYNC_MAX_WRITES); (*next)++)
	{
		FsWrite *write = list[*next];

		if (!fs_id_valid(write->id))
			write_unfit(job, write,
						"the document's id is not valid in Firestore");
		else if (write_size(write) > EKKSYNC_MAX_REQUEST)
			write_unfit(job, write, "the document is too large for Firestore");
		else if (page_append(job, page, write))
		{
			page->writes[page->n++] = write;
			page->repeatable &= write->pre != FS_PRE_NONE;
		}
		else if (page->n > 0)
			break;
		else
			write_unfit(job, write, "the document is too large for Firestore");
	}
	appendStringInfoString(&page->body, "]}");
}

/* Make the call that sends a page. */
static void
page_call(const Page *page, const char *verb, FsCall *call)
{
	memset(call, 0, sizeof(FsCall));
	call->verb = verb;
	call->body = page->body;
	call->write = true;
	call->nwrites = page->n;
	call->repeatable = page->repeatable;
}

/* All writes of a page fail with the same error. */
static void
page_failed(WriteJob *job, Page *page, const FsError *error)
{
	for (int i = 0; i < page->n; i++)
		write_failed(job, page->writes[i], error, page->lost);
}

/* A page fails, and nothing further is tried. */
static void
page_stop(WriteJob *job, Page *page, const FsError *error)
{
	page_failed(job, page, error);
	stop(job, error);
}

/* An answer does not fit the request: nobody knows what was done. */
static void
page_unclear(WriteJob *job, Page *page)
{
	FsError error = {0};

	fs_fail(&error, FS_RETRY,
			"Firestore answered a write with something else");
	page->lost = true;
	page_stop(job, page, &error);
}

/* A page refused as invalid or too large: in halves, unless it is alone. */
static void
page_split(WriteJob *job, Page *page, const FsError *error)
{
	Page halves[2];
	int next = 0;

	if (page->n == 1)
	{
		page_failed(job, page, error);
		return;
	}
	page_fill(job, &halves[0], page->writes, page->n / 2, &next, page->n);
	page_fill(job, &halves[1], page->writes, page->n, &next, page->n);
	halves[0].lost = halves[1].lost = page->lost;
	pages_send(job, halves, 2);
}

/* ---- :batchWrite ---- */

/*
 * Settle the writes of a page by the answer of :batchWrite.  Those that
 * failed for the moment only are left in the page, with their error.
 */
static bool
batch_settle(WriteJob *job, Page *page, const cJSON *answer)
{
	const cJSON *results =
		cJSON_GetObjectItemCaseSensitive(answer, "writeResults");
	const cJSON *statuses = cJSON_GetObjectItemCaseSensitive(answer, "status");
	const cJSON *result;
	const cJSON *status;
	int left = 0;

	if (cJSON_GetArraySize(results) != page->n ||
		cJSON_GetArraySize(statuses) != page->n)
		return false;
	result = results->child;
	status = statuses->child;
	for (int i = 0; i < page->n; i++)
	{
		FsWrite *write = page->writes[i];
		const cJSON *code = cJSON_GetObjectItemCaseSensitive(status, "code");

		if (code == NULL || code->valueint == 0)
			write_done(job, write, fs_time(result, "updateTime"));
		else
		{
			FsError error = {0};

			fs_write_status(&error, code->valueint,
							fs_string(status, "message"));
			write_failed(job, write, &error, page->lost);
			if (error.class == FS_STOP)
				stop(job, &error);
			else if (error.class == FS_RETRY)
				page->writes[left++] = write;
		}
		result = result->next;
		status = status->next;
	}
	page->n = left;
	return true;
}

/* Send a page again as :batchWrite, to learn which writes are refused. */
static void
page_batch(WriteJob *job, Page *page)
{
	for (int attempt = 0;; attempt++)
	{
		Page rest;
		int next = 0;
		FsCall call;

		page_call(page, ":batchWrite", &call);
		fs_calls(job->client, &call, 1);
		page->lost |= call.lost;
		if (call.error.class == FS_ROW)
		{
			page_split(job, page, &call.error);
			return;
		}
		if (call.error.class != FS_OK)
		{
			/* not about a document, or it would have answered for each */
			if (call.error.class == FS_REREAD)
				call.error.class = FS_STOP;
			page_stop(job, page, &call.error);
			return;
		}
		if (!batch_settle(job, page, call.answer))
		{
			page_unclear(job, page);
			return;
		}
		if (page->n == 0 || job->stop.class != FS_OK ||
			attempt >= job->client->config.max_retries)
			return;
		fs_backoff(attempt, -1);
		job->client->cost.retries++;
		page_fill(job, &rest, page->writes, page->n, &next, page->n);
		rest.lost = page->lost;
		*page = rest;
	}
}

/* ---- :commit ---- */

/* All writes of a page are done; false if the answer says otherwise. */
static bool
commit_settle(WriteJob *job, Page *page, const cJSON *answer)
{
	const cJSON *results =
		cJSON_GetObjectItemCaseSensitive(answer, "writeResults");
	TimestampTz commit_time = fs_time(answer, "commitTime");
	const cJSON *result;

	if (cJSON_GetArraySize(results) != page->n)
		return false;
	result = results->child;
	for (int i = 0; i < page->n; i++)
	{
		TimestampTz t = fs_time(result, "updateTime");

		write_done(job, page->writes[i], t != 0 ? t : commit_time);
		result = result->next;
	}
	return true;
}

/* Deal with the outcome of a page's :commit. */
static void
page_settle(WriteJob *job, Page *page, FsCall *call)
{
	page->lost |= call->lost;
	if (call->error.class != FS_OK && job->stop.class != FS_OK)
	{
		page_failed(job, page, &job->stop);
		return;
	}
	switch (call->error.class)
	{
		case FS_OK:
			if (!commit_settle(job, page, call->answer))
				page_unclear(job, page);
			break;
		case FS_REREAD:
			page_batch(job, page);
			break;
		case FS_ROW:
			page_split(job, page, &call->error);
			break;
		case FS_RETRY:
		case FS_STOP:
			page_stop(job, page, &call->error);
			break;
	}
}

/* Send pages at the same time and settle them; false to stop. */
static bool
pages_send(WriteJob *job, Page *pages, int npages)
{
	FsCall *calls = palloc0(sizeof(FsCall) * npages);
	int n = 0;

	/* a page is empty when all its writes were unfit */
	for (int i = 0; i < npages; i++)
	{
		if (pages[i].n > 0)
			page_call(&pages[i], ":commit", &calls[n++]);
	}
	fs_calls(job->client, calls, n);
	n = 0;
	for (int i = 0; i < npages; i++)
	{
		if (pages[i].n > 0)
			page_settle(job, &pages[i], &calls[n++]);
	}
	return job->stop.class == FS_OK;
}

bool
fs_write(FsClient *client, FsWrite *writes, int n)
{
	WriteJob job = {0};
	MemoryContext tmp =
		AllocSetContextCreate(CurrentMemoryContext, "ekksync writes",
							  ALLOCSET_DEFAULT_SIZES);
	FsWrite **list = palloc(sizeof(FsWrite *) * Max(n, 1));
	int next = 0;

	job.client = client;
	job.result = CurrentMemoryContext;
	for (int i = 0; i < n; i++)
	{
		memset(&writes[i].error, 0, sizeof(FsError));
		writes[i].update_time = 0;
		list[i] = &writes[i];
	}
	MemoryContextSwitchTo(tmp);
	while (next < n && job.stop.class == FS_OK)
	{
		Page pages[FS_PARALLEL];
		int room = fs_write_room(client);
		int npages = 0;

		CHECK_FOR_INTERRUPTS();
		if (room == 0)
		{
			FsError error;

			fs_over_writes(&error);
			stop(&job, &error);
			break;
		}
		for (; npages < FS_PARALLEL && next < n && room > 0; npages++)
		{
			page_fill(&job, &pages[npages], list, n, &next, room);
			room -= pages[npages].n;
		}
		pages_send(&job, pages, npages);
		MemoryContextReset(tmp);
	}
	MemoryContextSwitchTo(job.result);
	MemoryContextDelete(tmp);

	/* no page reached the writes behind the one that stopped it all */
	for (; next < n; next++)
		writes[next].error = job.stop;
	pfree(list);
	return job.stop.class == FS_OK;
}
