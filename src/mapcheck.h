/*
 * mapcheck.h
 *		A mapping in the making, and whether it can be.
 */
#ifndef EKKSYNC_MAPCHECK_H
#define EKKSYNC_MAPCHECK_H

#include "attach.h"
#include "mapping.h"
#include "pg_compat.h"

/* A table that a computed field depends on. */
typedef struct Dependency
{
	Oid relid;
	char *link;
	char *members;
} Dependency;

/* A mapping in the making. */
typedef struct MapRequest
{
	const Mapping *mapping; /* in force */
	MappingRow row;
	Codec codec;
	Oid compute;
	Oid apply;
	List *depends; /* Dependency */
} MapRequest;

/* Throw: a parameter is not valid.  hint may be NULL. */
pg_noreturn extern void map_invalid(const char *message, const char *hint);

/* Check the words of a request: its field, path, direction and policy. */
extern void map_check_words(const MapRequest *request);

/* Check where its values come from; sets its codec. */
extern void map_check_source(MapRequest *request);

#endif /* EKKSYNC_MAPCHECK_H */
