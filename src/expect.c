/*
 * expect.c
 *		The values that the run in this process is applying.
 *
 * Kept in this process's memory, where no SQL can reach, and gone at the end
 * of the (sub)transaction in which they were announced.
 */
#include "postgres.h"

#include "access/xact.h"
#include "capture.h"
#include "common/hashfn.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

typedef struct ExpectKey
{
	const char *key; /* the member's */
	const char *field;
} ExpectKey;

typedef struct Expectation
{
	ExpectKey key; /* hash key; its texts are in state.cxt */
	const char *canon;
} Expectation;

static struct
{
	bool registered;		/* the callbacks are */
	MemoryContext cxt;		/* of the table; NULL: nothing is expected */
	HTAB *table;			/* Expectation */
	SubTransactionId subid; /* in which the last one was announced */
} state;

static uint32
expect_hash(const void *key, Size keysize)
{
	const ExpectKey *k = key;

	return hash_combine(hash_bytes((const unsigned char *) k->key,
								   strlen(k->key)),
						hash_bytes((const unsigned char *) k->field,
								   strlen(k->field)));
}

static int
expect_match(const void *key1, const void *key2, Size keysize)
{
	const ExpectKey *a = key1;
	const ExpectKey *b = key2;
	int order = strcmp(a->key, b->key);

	return order != 0 ? order : strcmp(a->field, b->field);
}

static void
transaction_event(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_PRE_COMMIT &&
		event != XACT_EVENT_PARALLEL_PRE_COMMIT &&
		event != XACT_EVENT_PRE_PREPARE)
		capture_expect_end();
}

static void
subtransaction_event(SubXactEvent event, SubTransactionId subid,
					 SubTransactionId parent, void *arg)
{
	if ((event == SUBXACT_EVENT_COMMIT_SUB ||
		 event == SUBXACT_EVENT_ABORT_SUB) &&
		subid == state.subid)
		capture_expect_end();
}

static void
make_table(void)
{
	HASHCTL ctl;

	if (!state.registered)
	{
		RegisterXactCallback(transaction_event, NULL);
		RegisterSubXactCallback(subtransaction_event, NULL);
		state.registered = true;
	}
	state.cxt = AllocSetContextCreate(TopMemoryContext, "ekksync expectations",
									  ALLOCSET_DEFAULT_SIZES);
	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(ExpectKey);
	ctl.entrysize = sizeof(Expectation);
	ctl.hash = expect_hash;
	ctl.match = expect_match;
	ctl.hcxt = state.cxt;
	state.table =
		hash_create("ekksync expectations", 256, &ctl,
					HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
}

void
capture_expect(const char *key, const char *field, const char *canon)
{
	Expectation *expectation;
	ExpectKey own;

	if (state.cxt == NULL)
		make_table();
	state.subid = GetCurrentSubTransactionId();
	own.key = MemoryContextStrdup(state.cxt, key);
	own.field = MemoryContextStrdup(state.cxt, field);
	canon = MemoryContextStrdup(state.cxt, canon);
	expectation = hash_search(state.table, &own, HASH_ENTER, NULL);
	expectation->canon = canon;
}

void
capture_expect_end(void)
{
	if (state.cxt != NULL)
		MemoryContextDelete(state.cxt);
	state.cxt = NULL;
	state.table = NULL;
	state.subid = InvalidSubTransactionId;
}

bool
capture_expected(const char *key, const char *field, const char *canon)
{
	ExpectKey wanted;
	Expectation *expectation;

	if (state.cxt == NULL)
		return false;
	wanted.key = key;
	wanted.field = field;
	expectation = hash_search(state.table, &wanted, HASH_FIND, NULL);
	return expectation != NULL && strcmp(expectation->canon, canon) == 0;
}
