/*
 * mapping.c
 *		The mapping in force, kept by each process until something that it was
 *		made of changes; and where the extension's own objects are.
 *
 * Knows nothing of documents or of the queue's contents.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "mapload.h"
#include "mapping.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

static struct
{
	bool watching;	  /* the callbacks are registered */
	bool valid;		  /* mapping is what the tables say */
	Oid state_relid;  /* ekksync.state, when it was loaded */
	Mapping *mapping; /* NULL: nothing is attached */
} cache;

static bool
mapping_uses(const Mapping *mapping, Oid relid)
{
	int i;

	if (relid == mapping->member_relid || relid == mapping->queue_relid)
		return true;
	for (i = 0; i < mapping->nfields; i++)
	{
		if (mapping->fields[i].relid == relid)
			return true;
	}
	return mapping_watched(mapping, relid) != NULL;
}

static void
relation_changed(Datum arg, Oid relid)
{
	if (cache.valid &&
		(!OidIsValid(relid) || relid == cache.state_relid ||
		 (cache.mapping != NULL && mapping_uses(cache.mapping, relid))))
		cache.valid = false;
}

/* A schema, role or function: the mapping holds names of them. */
static void
names_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	cache.valid = false;
}

/*
 * Load the mapping into the cache.  The one it replaces may still be in use
 * by a trigger further up the stack: it lives until the transaction ends.
 */
static void
refresh(void)
{
	Mapping *loaded;

	if (!cache.watching)
	{
		CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
		CacheRegisterSyscacheCallback(NAMESPACEOID, names_changed, (Datum) 0);
		CacheRegisterSyscacheCallback(AUTHOID, names_changed, (Datum) 0);
		CacheRegisterSyscacheCallback(PROCOID, names_changed, (Datum) 0);
		cache.watching = true;
	}
	if (cache.mapping != NULL)
	{
		MemoryContextSetParent(cache.mapping->cxt, TopTransactionContext);
		cache.mapping = NULL;
	}

	/*
	 * A message that arrives while loading may be about what was already
	 * read: it makes the result good for this call only.  Until the result is
	 * known, every message counts.
	 */
	cache.state_relid = InvalidOid;
	cache.valid = true;
	PG_TRY();
	{
		cache.state_relid = ekksync_table_oid("state");
		loaded = mapload(CurrentMemoryContext);
	}
	PG_CATCH();
	{
		cache.valid = false;
		PG_RE_THROW();
	}
	PG_END_TRY();
	if (loaded != NULL)
		MemoryContextSetParent(loaded->cxt, CacheMemoryContext);
	cache.mapping = loaded;
}

const Mapping *
mapping_get(void)
{
	if (!cache.valid)
		refresh();
	return cache.mapping;
}

Mapping *
mapping_load(MemoryContext parent)
{
	return mapload(parent);
}

void
mapping_invalidate(void)
{
	CacheInvalidateRelcacheByRelid(ekksync_table_oid("state"));
	CommandCounterIncrement();
}

int
mapping_find(const Mapping *mapping, const char *name)
{
	int i;

	for (i = 0; i < mapping->nfields; i++)
	{
		if (strcmp(mapping->fields[i].name, name) == 0)
			return i;
	}
	return -1;
}

const Watched *
mapping_watched(const Mapping *mapping, Oid relid)
{
	int i;

	for (i = 0; i < mapping->nwatched; i++)
	{
		if (mapping->watched[i].relid == relid)
			return &mapping->watched[i];
	}
	return NULL;
}

/*
 * The extension's row in pg_extension: its owner, InvalidOid if there is none,
 * and, unless version is NULL, its version, palloc'd.
 */
static Oid
extension_owner(char **version)
{
	Relation rel = table_open(ExtensionRelationId, AccessShareLock);
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple tuple;
	Oid owner = InvalidOid;
	bool isnull;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber,
				F_NAMEEQ, CStringGetDatum("ekksync"));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		owner = ((Form_pg_extension) GETSTRUCT(tuple))->extowner;
		if (version != NULL)
			*version = TextDatumGetCString(
				heap_getattr(tuple, Anum_pg_extension_extversion,
							 RelationGetDescr(rel), &isnull));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return owner;
}

void
ekksync_check_version(void)
{
	char *version = NULL;

	if (!OidIsValid(extension_owner(&version)))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
						errmsg("extension \"%s\" is not installed", "ekksync"),
						errhint("Use CREATE EXTENSION ekksync.")));
	if (strcmp(version, EKKSYNC_VERSION) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("extension \"%s\" has version %s, and the server's "
						"library version %s",
						"ekksync", version, EKKSYNC_VERSION),
				 errhint("Use ALTER EXTENSION ekksync UPDATE, or restart the "
						 "server if it is the library that is older.")));
}

Oid
ekksync_schema_oid(void)
{
	return get_namespace_oid(EKKSYNC_SCHEMA, false);
}

Oid
ekksync_owner_oid(void)
{
	Oid owner = extension_owner(NULL);

	/* dropped meanwhile: this ends a run */
	if (!OidIsValid(owner))
		ereport(ERROR, (errcode(ERRCODE_OPERATOR_INTERVENTION),
						errmsg("extension \"%s\" does not exist", "ekksync")));
	return owner;
}

Oid
ekksync_table_oid(const char *name)
{
	Oid relid = get_relname_relid(name, ekksync_schema_oid());

	if (!OidIsValid(relid))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
						errmsg("relation \"%s.%s\" does not exist",
							   EKKSYNC_SCHEMA, name)));
	return relid;
}
