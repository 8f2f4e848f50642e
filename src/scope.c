/*
 * scope.c
 *		SPI under another role with a pinned search_path.
 *
 * Knows nothing of members, mappings or Firestore: it only provides the roof
 * under which the other files run SQL.
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "scope.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

/* More texts than this are not kept: they are prepared for each use. */
#define MAX_KEPT_PLANS 1024

typedef struct PlanKey
{
	const char *query;
	int nargs;
	const Oid *types;
} PlanKey;

typedef struct KeptPlan
{
	PlanKey key; /* hash key; its pointers are the entry's own */
	SPIPlanPtr plan;
	bool planned; /* sql_run_by_index has executed it */
} KeptPlan;

static struct
{
	HTAB *plans; /* KeptPlan, in TopMemoryContext */
} state;

static void
pin_setting(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

/*
 * Become role for the SQL that follows: with a local change of the user, as
 * foreign-key triggers do, so that SET ROLE and the like are refused.
 */
static void
become(SqlScope *scope, Oid role)
{
	GetUserIdAndSecContext(&scope->saved_user, &scope->saved_context);
	SetUserIdAndSecContext(role, scope->saved_context |
									 SECURITY_LOCAL_USERID_CHANGE |
									 SECURITY_NOFORCE_RLS);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
}

void
sql_enter(SqlScope *scope, Oid role)
{
	scope->guc_level = NewGUCNestLevel();
	pin_setting("search_path", "pg_catalog, pg_temp");
	pin_setting("DateStyle", "ISO, YMD");
	pin_setting("TimeZone", "UTC");
	become(scope, role);
}

void
sql_enter_bare(SqlScope *scope, Oid role)
{
	scope->guc_level = 0;
	become(scope, role);
}

void
sql_leave(SqlScope *scope)
{
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "SPI_finish failed");
	SetUserIdAndSecContext(scope->saved_user, scope->saved_context);
	if (scope->guc_level > 0)
		AtEOXact_GUC(true, scope->guc_level);
}

static uint32
plan_key_hash(const void *key, Size keysize)
{
	const PlanKey *k = key;

	return hash_bytes((const unsigned char *) k->query, strlen(k->query));
}

static int
plan_key_match(const void *key1, const void *key2, Size keysize)
{
	const PlanKey *a = key1;
	const PlanKey *b = key2;

	if (a->nargs != b->nargs ||
		(a->nargs > 0 &&
		 memcmp(a->types, b->types, a->nargs * sizeof(Oid)) != 0))
		return 1;
	return strcmp(a->query, b->query);
}

static void
make_plan_table(void)
{
	HASHCTL ctl;

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(PlanKey);
	ctl.entrysize = sizeof(KeptPlan);
	ctl.hash = plan_key_hash;
	ctl.match = plan_key_match;
	state.plans = hash_create("ekksync plans", 64, &ctl,
							  HASH_ELEM | HASH_FUNCTION | HASH_COMPARE);
}

static KeptPlan *
find_plan(const char *query, int nargs, Oid *types)
{
	PlanKey key;

	if (state.plans == NULL)
		make_plan_table();
	key.query = query;
	key.nargs = nargs;
	key.types = types;
	return hash_search(state.plans, &key, HASH_FIND, NULL);
}

/* Prepare a plan, and keep it while there is room: NULL in *kept if not. */
static SPIPlanPtr
make_plan(const char *query, int nargs, Oid *types, int options,
		  KeptPlan **kept)
{
	PlanKey key;
	SPIPlanPtr plan;
	Oid *own_types;

	*kept = NULL;
	plan = SPI_prepare_cursor(query, nargs, types, options);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare_cursor failed: %s",
			 SPI_result_code_string(SPI_result));
	if (hash_get_num_entries(state.plans) >= MAX_KEPT_PLANS)
		return plan;

	own_types =
		MemoryContextAlloc(TopMemoryContext, Max(nargs, 1) * sizeof(Oid));
	if (nargs > 0)
		memcpy(own_types, types, nargs * sizeof(Oid));
	key.query = MemoryContextStrdup(TopMemoryContext, query);
	key.nargs = nargs;
	key.types = own_types;
	SPI_keepplan(plan);
	*kept = hash_search(state.plans, &key, HASH_ENTER, NULL);
	(*kept)->plan = plan;
	(*kept)->planned = false;
	return plan;
}

static int
execute(SPIPlanPtr plan, Datum *values, const char *nulls, bool read_only,
		long limit)
{
	int code = SPI_execute_plan(plan, values, nulls, read_only, limit);

	if (code < 0)
		elog(ERROR, "SPI_execute_plan failed: %s",
			 SPI_result_code_string(code));
	return code;
}

int
sql_run(const char *query, int nargs, Oid *types, Datum *values,
		const char *nulls, bool read_only, long limit)
{
	KeptPlan *kept = find_plan(query, nargs, types);
	SPIPlanPtr plan;

	plan = kept ? kept->plan : make_plan(query, nargs, types, 0, &kept);
	return execute(plan, values, nulls, read_only, limit);
}

int
sql_run_by_index(const char *query, int nargs, Oid *types, Datum *values,
				 const char *nulls, bool read_only, long limit)
{
	KeptPlan *kept = find_plan(query, nargs, types);
	SPIPlanPtr plan;
	int level = 0;
	int code;

	plan =
		kept ? kept->plan
			 : make_plan(query, nargs, types, CURSOR_OPT_GENERIC_PLAN, &kept);
	if (kept == NULL || !kept->planned || !SPI_plan_is_valid(plan))
	{
		/* it will be planned now; what is needed all the same must not start
		 * JIT */
		level = NewGUCNestLevel();
		pin_setting("enable_seqscan", "off");
		pin_setting("enable_sort", "off");
		pin_setting("jit", "off");
	}
	code = execute(plan, values, nulls, read_only, limit);
	if (level > 0)
		AtEOXact_GUC(true, level);
	if (kept != NULL)
		kept->planned = true;
	return code;
}

ErrorData *
sql_guarded_error(void (*work)(void *arg), void *arg)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData *volatile problem = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		work(arg);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(caller);
		CurrentResourceOwner = owner;
		if (ERRCODE_TO_CATEGORY(error->sqlerrcode) ==
			ERRCODE_OPERATOR_INTERVENTION)
			ReThrowError(error);
		problem = error;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
	return problem;
}

char *
sql_guarded(void (*work)(void *arg), void *arg)
{
	ErrorData *error = sql_guarded_error(work, arg);

	if (error == NULL)
		return NULL;
	return error->message ? error->message : pstrdup("unknown error");
}
