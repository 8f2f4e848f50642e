/*
 * mapping.h
 *		Which column or computed value belongs to which path of a document,
 *		as loaded from ekksync.state, ekksync.mapping and ekksync.dependency.
 */
#ifndef EKKSYNC_MAPPING_H
#define EKKSYNC_MAPPING_H

#include "access/attnum.h"

#include "value.h"

typedef enum Policy
{
	POLICY_LWW,
	POLICY_DJANGO_WINS,
	POLICY_FIRESTORE_WINS,
	POLICY_MANUAL
} Policy;

typedef struct Field
{
	char *name;		 /* as in fields_changed, e.g. "email" */
	FieldPath path;	 /* in the document */
	char *path_text; /* as the user wrote it */
	Codec codec;
	bool push_only; /* never written from Firestore */
	Policy policy;
	char *problem; /* why the field is suspended, NULL if it is not */

	/* a column */
	Oid relid; /* InvalidOid for a computed field */
	AttrNumber attnum;
	Oid typid;
	int32 typmod;
	bool notnull;
	char *relation; /* qualified and quoted */
	char *column;	/* raw */
	char *link;		/* raw; NULL on the member table itself */

	/* computed */
	char *compute;	  /* qualified and quoted function name */
	Oid compute_type; /* its result type */
	char *apply;	  /* qualified and quoted function name or NULL */
} Field;

/* A table that a trigger of ours watches. */
typedef struct WatchedField
{
	int field;		   /* index into Mapping.fields */
	AttrNumber attnum; /* 0: the field is computed, any change counts */
} WatchedField;

typedef struct Watched
{
	Oid relid;
	bool is_member_table;
	AttrNumber link_attnum; /* column that references the member, 0 if none */
	char *members;			/* else: query from row id ($1) to member ids */
	AttrNumber id_attnum;	/* the row's id column, for members */
	Oid ref_typid;			/* type of the link or id column */
	int nfields;
	WatchedField *fields;

	/*
	 * SQL from $1, the link or id column's value, to the members concerned:
	 * id, key; and with a filter also: id, key, whether the filter holds.
	 */
	char *resolve;
	char *resolve_filtered; /* NULL without a filter */
	char *problem;			/* link or id column gone: why, else NULL */
} Watched;

typedef struct Mapping
{
	MemoryContext cxt; /* holds all of it */
	char *problem;	   /* nothing can be mapped: why, else NULL */

	Oid owner;	   /* role the run works as */
	Oid extowner;  /* owner of the extension */
	char *uuid;	   /* of the attachment */
	char *initial; /* django, firestore, newest */
	TimestampTz attached_at;

	Oid member_relid;
	char *member_table; /* qualified and quoted */
	char *id_column;	/* raw */
	AttrNumber id_attnum;
	Oid id_typid;
	char *key_column; /* raw */
	AttrNumber key_attnum;
	Oid key_typid;
	char *key_name; /* name of the key in fields_changed */
	Oid member_rowtype;
	char *filter;	  /* canonical SQL over the member table, or NULL */
	char *filter_row; /* SQL: does the filter hold for row $1; or NULL */

	Oid queue_relid;
	Oid queue_owner;
	char *queue_table;		 /* qualified and quoted */
	const char *queue_lacks; /* a column we write that it lacks, or NULL */
	int queue_key_chars;	 /* most characters of its ssn, 0: no limit */
	char *queue_insert;		 /* SQL of the capture trigger, see outbox.c */
	char *queue_forget;

	int nfields;
	Field *fields; /* in name order; the last is MAPPING_STATUS */
	int nwatched;
	Watched *watched;
} Mapping;

/*
 * membership.status is not in ekksync.mapping: the field of this name is
 * added by the loader.  It is push-only, always "active" for a live member.
 */
#define MAPPING_STATUS "status"
#define MAPPING_STATUS_PATH "membership.status"
#define MAPPING_DELETED_AT_PATH "metadata.deleted_at"

/*
 * The mapping in force, from this process's cache; NULL when nothing is
 * attached.  Must be called in a transaction.  The cache is dropped by
 * invalidation messages (mapping_invalidate, DDL on a watched table); what is
 * returned stays valid until the transaction ends.  A mapping that cannot be
 * used whole comes back with problem set; this never throws for a broken
 * mapping.
 */
extern const Mapping *mapping_get(void);

/*
 * Load a private copy into a new child of parent, for a run.  NULL when
 * nothing is attached.
 */
extern Mapping *mapping_load(MemoryContext parent);

/*
 * Tell this process now, and the others at commit, that the mapping has
 * changed.  Called after the change.
 */
extern void mapping_invalidate(void);

/* Index of a field by name, -1 if none. */
extern int mapping_find(const Mapping *mapping, const char *name);

/* Entry for a watched table, NULL if none. */
extern const Watched *mapping_watched(const Mapping *mapping, Oid relid);

/*
 * Throw an error unless the extension is there, in the version that the
 * library is made for.
 */
extern void ekksync_check_version(void);

/* Oid of the schema ekksync, of the extension's owner, of one of our tables. */
extern Oid ekksync_schema_oid(void);
extern Oid ekksync_owner_oid(void);
extern Oid ekksync_table_oid(const char *name);

#endif /* EKKSYNC_MAPPING_H */
