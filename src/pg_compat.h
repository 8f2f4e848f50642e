/*
 * pg_compat.h
 *		Differences between the PostgreSQL releases that we build with: what a
 *		newer one has is given to the older ones by the same name.
 *
 * The only place that asks for PG_VERSION_NUM.  Include postgres.h first.
 */
#ifndef EKKSYNC_PG_COMPAT_H
#define EKKSYNC_PG_COMPAT_H

#if PG_VERSION_NUM < 180000
/* 18 puts this before the declaration and has no other name for it. */
#define pg_noreturn pg_attribute_noreturn()
#endif

#if PG_VERSION_NUM < 170000
/* A worker can connect as a role without LOGIN since 17; 0 asks nothing. */
#define BGWORKER_BYPASS_ROLELOGINCHECK 0

/* Wait events have names of their own since 17. */
#define WaitEventExtensionNew(name) PG_WAIT_EXTENSION

/* The lexer may be the caller's since 17; NULL makes one, as before. */
#include "common/jsonapi.h"
#define makeJsonLexContextCstringLen(lex, json, len, encoding, need_escapes)  \
	makeJsonLexContextCstringLen(json, len, encoding, need_escapes)
#endif

#if PG_VERSION_NUM < 160000
/* One function for the owner of any object since 16; we ask for relations. */
#define object_ownercheck(classid, objectid, roleid)                          \
	pg_class_ownercheck(objectid, roleid)
#endif

#if PG_VERSION_NUM < 150000
/* A worker's notifications reach nobody by its commit alone before 15. */
#include "commands/async.h"
#define compat_send_notifies() ProcessCompletedNotifies()
#else
#define compat_send_notifies() ((void) 0)
#endif

#if PG_VERSION_NUM >= 150000
#include "common/pg_prng.h"

/* A library asks for shared memory in a hook since 15. */
#define compat_request_shmem(request, previous)                               \
	((previous) = shmem_request_hook, shmem_request_hook = (request))
#else
/* Before, it asked while it was loaded. */
typedef void (*shmem_request_hook_type)(void);
#define compat_request_shmem(request, previous)                               \
	((previous) = NULL, (request) ())

/* Random numbers are PostgreSQL's own since 15; of [0, 1). */
#define pg_prng_double(state) (random() / ((double) PG_INT32_MAX + 1))

/* The whole prefix is reserved since 15; before, a wrong name only warns. */
#define MarkGUCPrefixReserved(prefix) EmitWarningsOnPlaceholders(prefix)
#endif

#endif /* EKKSYNC_PG_COMPAT_H */
