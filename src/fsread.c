/*
 * fsread.c
 *		Reading documents: by id, and by query in pages.
 *
 * Part of the Firestore client.  Knows documents, not what is in them.
 */
#include "postgres.h"

#include "fsint.h"
#include "miscadmin.h"
#include "utils/memutils.h"

/* A document asked for; sorted by id to find it when its answer comes. */
typedef struct Wanted
{
	const char *id;
	int index; /* in the caller's arrays */
	bool answered;
} Wanted;

/* One fs_get. */
typedef struct GetJob
{
	FsClient *client;
	const char *collection;
	const FieldPath *const *mask;
	int nmask;
	MemoryContext result; /* where answers go */
	Wanted *wanted;		  /* in order of id */
	int nwanted;
	FsDoc *docs;
	TimestampTz read_time;
	FsError *err;
} GetJob;

/* A part of GetJob.wanted. */
typedef struct GetRange
{
	int first;
	int n;
} GetRange;

static int
wanted_cmp(const void *a, const void *b)
{
	return strcmp(((const Wanted *) a)->id, ((const Wanted *) b)->id);
}

/* Keep the earliest read time. */
static void
note_read_time(TimestampTz *earliest, TimestampTz t)
{
	if (t != 0 && (*earliest == 0 || t < *earliest))
		*earliest = t;
}

/* ---- by id ---- */

/*
 * Build the call for as much of a range as one request may hold; range->n is
 * set to that.
 */
static void
get_call(GetJob *job, GetRange *range, FsCall *call)
{
	StringInfo body = &call->body;
	int n = 0;

	memset(call, 0, sizeof(FsCall));
	call->verb = ":batchGet";
	call->repeatable = true;
	initStringInfo(body);
	appendStringInfoChar(body, '{');
	if (job->nmask == 0)
		appendStringInfoString(body,
							   "\"mask\":{\"fieldPaths\":[\"__name__\"]},");
	else if (job->nmask > 0)
	{
		appendStringInfoString(body, "\"mask\":{\"fieldPaths\":");
		fs_append_paths(body, job->mask, job->nmask);
		appendStringInfoString(body, "},");
	}
	appendStringInfoString(body, "\"documents\":[");
	while (n < Min(range->n, EKKSYNC_READ_PAGE))
	{
		int mark = body->len;

		if (n > 0)
			appendStringInfoChar(body, ',');
		fs_append_name(body, job->client, job->collection,
					   job->wanted[range->first + n].id);
		if (n > 0 && body->len + 2 > EKKSYNC_MAX_REQUEST)
		{
			body->len = mark;
			body->data[mark] = '\0';
			break;
		}
		n++;
	}
	appendStringInfoString(body, "]}");
	range->n = n;
}

/* Take one element of an answer; false when it is not what was asked for. */
static bool
get_element(GetJob *job, const cJSON *element)
{
	const cJSON *found = cJSON_GetObjectItemCaseSensitive(element, "found");
	FsDoc doc = {0};
	Wanted key = {0};
	Wanted *wanted;

	if (found == NULL)
	{
		const char *name = fs_string(element, "missing");
		const char *slash = name ? strrchr(name, '/') : NULL;

		if (slash == NULL)
			return false;
		doc.id = pstrdup(slash + 1);
		doc.missing = true;
	}
	else if (!fs_document(found, &doc))
		return false;

	key.id = doc.id;
	wanted =
		bsearch(&key, job->wanted, job->nwanted, sizeof(Wanted), wanted_cmp);
	if (wanted == NULL)
		return false;
	wanted->answered = true;
	job->docs[wanted->index] = doc;
	note_read_time(&job->read_time, fs_time(element, "readTime"));
	return true;
}

/* Take the answer for a range; false with job->err. */
static bool
get_answer(GetJob *job, const GetRange *range, const FsCall *call)
{
	const cJSON *element;

	cJSON_ArrayForEach (element, call->answer)
	{
		if (!get_element(job, element))
		{
			fs_fail(job->err, FS_RETRY,
					"Firestore answered a read with something else");
			return false;
		}
	}
	for (int i = 0; i < range->n; i++)
	{
		if (!job->wanted[range->first + i].answered)
		{
			fs_fail(job->err, FS_RETRY,
					"Firestore left out a document that was asked for");
			return false;
		}
	}
	job->client->cost.docs_read += range->n;
	return true;
}

/*
 * Read some ranges at the same time; one that is too large is read again in
 * halves.  False with job->err.
 */
static bool
get_ranges(GetJob *job, GetRange *ranges, FsCall *calls, int n)
{
	MemoryContext old = MemoryContextSwitchTo(job->result);
	bool ok = true;

	fs_calls(job->client, calls, n);
	for (int i = 0; i < n && ok; i++)
	{
		GetRange *range = &ranges[i];
		int half = range->n / 2;

		if (calls[i].error.class == FS_OK)
			ok = get_answer(job, range, &calls[i]);
		else if (calls[i].too_large && half > 0)
		{
			GetRange halves[2] = {{range->first, half},
								  {range->first + half, range->n - half}};
			FsCall again[2];

			get_call(job, &halves[0], &again[0]);
			get_call(job, &halves[1], &again[1]);
			ok = get_ranges(job, halves, again, 2);
			pfree(again[0].body.data);
			pfree(again[1].body.data);
		}
		else
		{
			*job->err = calls[i].error;
			ok = false;
		}
	}
	MemoryContextSwitchTo(old);
	return ok;
}

/* Read all that is wanted, a few requests at a time. */
static bool
get_all(GetJob *job)
{
	MemoryContext tmp =
		AllocSetContextCreate(CurrentMemoryContext, "ekksync batchGet",
							  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(tmp);
	int next = 0;
	bool ok = true;

	while (ok && next < job->nwanted)
	{
		GetRange ranges[FS_PARALLEL];
		FsCall calls[FS_PARALLEL];
		int n;

		CHECK_FOR_INTERRUPTS();
		for (n = 0; n < FS_PARALLEL && next < job->nwanted; n++)
		{
			ranges[n].first = next;
			ranges[n].n = job->nwanted - next;
			get_call(job, &ranges[n], &calls[n]);
			next += ranges[n].n;
		}
		ok = get_ranges(job, ranges, calls, n);
		MemoryContextReset(tmp);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(tmp);
	return ok;
}

bool
fs_get(FsClient *client, const char *collection, char **ids, int n,
	   const FieldPath *const *mask, int nmask, FsDoc *docs,
	   TimestampTz *read_time, FsError *err)
{
	GetJob job = {0};
	bool ok;

	memset(err, 0, sizeof(FsError));
	memset(docs, 0, sizeof(FsDoc) * n);
	job.client = client;
	job.collection = collection;
	job.mask = mask;
	job.nmask = nmask;
	job.result = CurrentMemoryContext;
	job.wanted = palloc0(sizeof(Wanted) * Max(n, 1));
	job.docs = docs;
	job.err = err;
	for (int i = 0; i < n; i++)
	{
		if (fs_id_valid(ids[i]))
		{
			job.wanted[job.nwanted].id = ids[i];
			job.wanted[job.nwanted++].index = i;
		}
		else
		{
			docs[i].id = pstrdup(ids[i]);
			docs[i].missing = true;
		}
	}
	qsort(job.wanted, job.nwanted, sizeof(Wanted), wanted_cmp);
	ok = job.nwanted <= fs_reads_left(client);
	if (ok)
		ok = get_all(&job);
	else
		fs_over_reads(err);
	pfree(job.wanted);
	if (read_time)
		*read_time = job.read_time;
	return ok;
}

/* ---- by query ---- */

/* Put the cursor behind a document; name is its full name. */
static void
query_advance(FsQuery *query, const char *name, const FsDoc *doc)
{
	MemoryContext old;
	const cJSON *value = NULL;
	char *text = NULL;

	if (query->order_by)
	{
		FieldPath path;

		if (path_parse(query->order_by, &path, NULL) && doc->fields != NULL)
			value = path_find(doc->fields, &path);
		if (value)
			text = cJSON_PrintUnformatted(value);
	}
	if (query->after_name)
		pfree(query->after_name);
	if (query->after_value)
		pfree(query->after_value);
	old = MemoryContextSwitchTo(query->cxt);
	query->after_name = pstrdup(name);
	query->after_value = pstrdup(text ? text : "{\"nullValue\":null}");
	MemoryContextSwitchTo(old);
	cJSON_free(text);
}

/* Take an answer: its documents into docs, and the cursor behind them. */
static bool
query_answer(FsQuery *query, const cJSON *answer, FsDoc **docs, int *n,
			 TimestampTz *read_time)
{
	const cJSON *element;
	const cJSON *last = NULL;

	*n = 0;
	*docs = palloc0(sizeof(FsDoc) * Max(cJSON_GetArraySize(answer), 1));
	cJSON_ArrayForEach (element, answer)
	{
		const cJSON *document =
			cJSON_GetObjectItemCaseSensitive(element, "document");

		note_read_time(read_time, fs_time(element, "readTime"));
		if (document == NULL)
			continue;
		if (!fs_document(document, &(*docs)[*n]))
			return false;
		last = document;
		(*n)++;
	}
	query->done = *n < query->limit;
	if (last)
		query_advance(query, fs_string(last, "name"), &(*docs)[*n - 1]);
	return true;
}

bool
fs_query(FsClient *client, FsQuery *query, FsDoc **docs, int *n,
		 TimestampTz *read_time, FsError *err)
{
	TimestampTz earliest = 0;
	FsCall call;

	memset(&call, 0, sizeof(FsCall));
	call.verb = ":runQuery";
	call.repeatable = true;
	initStringInfo(&call.body);
	*n = 0;
	*docs = NULL;
	if (fs_reads_left(client) == 0)
	{
		fs_over_reads(err);
		return false;
	}
	query->limit = (int) Min(query->limit, fs_reads_left(client));
	for (;;)
	{
		resetStringInfo(&call.body);
		fs_append_query(&call.body, query);
		fs_calls(client, &call, 1);
		if (!call.too_large || query->limit <= 1)
			break;
		query->limit /= 2;
	}
	pfree(call.body.data);
	*err = call.error;
	if (err->class != FS_OK)
		return false;
	/* an answer without documents still has an element, the time of reading */
	if (!cJSON_IsArray(call.answer) || call.answer->child == NULL ||
		!query_answer(query, call.answer, docs, n, &earliest))
	{
		fs_fail(err, FS_RETRY,
				"Firestore answered a query with something else");
		return false;
	}
	client->cost.docs_read += Max(*n, 1);
	if (read_time)
		*read_time = earliest;
	return true;
}
