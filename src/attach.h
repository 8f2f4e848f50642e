/*
 * attach.h
 *		What attaching is made of: ownership, triggers, queue table, mapping
 *		rows, first contact.  For attach.c and the files it is cut into.
 */
#ifndef EKKSYNC_ATTACH_H
#define EKKSYNC_ATTACH_H

#include "funcapi.h"
#include "nodes/pg_list.h"

#include "ekksync.h"

/* Rows (object, outcome, detail) that a function returns. */
typedef struct Report
{
	Tuplestorestate *store;
	TupleDesc desc;
} Report;

/* An attachment in the making; texts live as long as the call. */
typedef struct Attach
{
	Report report;
	bool again;	 /* this table was attached before */
	bool missed; /* a trigger was missing: changes may be too */

	Oid relid;			/* the member table */
	Oid owner;			/* its owner */
	Oid role;			/* that a run works as */
	Oid run_as;			/* the same if it was named, else InvalidOid */
	char *schema;		/* raw */
	char *table;		/* raw */
	char *member_table; /* qualified and quoted */
	char *prefix;		/* of the table's name, with its underscore */
	char *model;		/* the rest of the name */
	char *id_column;	/* raw */
	Oid id_typid;
	char *key_column; /* raw */
	Oid key_typid;
	char *initial;
	char *filter; /* canonical, or NULL */
	Oid queue_relid;
} Attach;

/* One row of ekksync.mapping. */
typedef struct MappingRow
{
	const char *field;
	Oid relid; /* InvalidOid for a computed field */
	const char *column;
	const char *link;
	const char *path;
	const char *codec;
	const char *options; /* jsonb as text, or NULL */
	const char *direction;
	const char *policy;
	const char *compute; /* signature, or NULL */
	const char *apply;	 /* signature, or NULL */
} MappingRow;

/* ---- attach.c ---- */

/* Start a function's report: a materialized set. */
extern void report_begin(Report *report, FunctionCallInfo fcinfo);
extern void report_row(Report *report, const char *object, const char *outcome,
					   const char *fmt, ...) pg_attribute_printf(4, 5);

/* Error 42501 unless the current user may act as the relation's owner. */
extern void require_owner(Oid relid);

/* Owner of a relation. */
extern Oid relation_owner_oid(Oid relid);

/* Qualified and quoted name of a relation that exists. */
extern char *relation_qualified(Oid relid);

/* Type of a column, InvalidOid if there is none of that name. */
extern Oid column_type(Oid relid, const char *column);

/* Is there a primary key or unique index on exactly this column? */
extern bool column_is_unique(Oid relid, const char *column);

/*
 * Lock the attachment against runs and other sessions that attach, detach or
 * map; error when a run is in progress.  False if nothing is attached, else
 * the member and queue tables.
 */
extern bool lock_attachment(Oid *member_relid, Oid *queue_relid);

/* Run a utility statement as a role, with a pinned search_path. */
extern void run_ddl(Oid role, const char *statement);

/* ---- filter.c ---- */

/*
 * The canonical form of a filter over a table: parsed by the caller's
 * search_path, written with every name qualified that needs it.  Error unless
 * it is one boolean expression without subqueries or volatile functions that
 * role can evaluate.
 */
extern char *filter_canonical(Oid relid, Oid role, const char *text);

/* ---- triggers.c ---- */

/*
 * See to it that our triggers on a table exist, are enabled, and depend on
 * the queue table and the extension.  Reports what was done (report may be
 * NULL); true when one was missing or disabled.
 */
extern bool triggers_ensure(Report *report, Oid relid, Oid queue_relid);

/*
 * Drop our triggers from the tables that the mapping does not watch; from all
 * when all is true.
 */
extern void triggers_prune(Report *report, Oid member_relid, bool all);

/* The same for the triggers on the queue table; and drop these. */
extern bool triggers_ensure_queue(Report *report, Oid queue_relid);
extern void triggers_drop_queue(Report *report, Oid queue_relid);

/* Make an object go with the extension, silently (DROP EXTENSION). */
extern void depend_on_extension(Oid classid, Oid objid);

/* ---- queuetable.c ---- */

/*
 * Find, create, or adopt and mend the queue table.  name: as the user gave
 * it, or NULL for the default; known: of an earlier attach, or InvalidOid.
 */
extern void queuetable_ensure(Attach *attach, const char *name, Oid known);

/* ---- defaults.c ---- */

/* Fill the mapping with the default, for the tables and columns there are. */
extern void defaults_map(Attach *attach);

/* Create again what defaults_map created and is missing now. */
extern void defaults_mend(Attach *attach);

/* Drop the functions that defaults_map created. */
extern void defaults_drop(Report *report);

/* ---- mapsql.c ---- */

/*
 * Store a row of the mapping in the place of the field's last one.  True: it
 * is of the same values, and only who may write, or who wins, has changed.
 */
extern bool mapping_store(const MappingRow *row);

/* A table that a computed field depends on: by link or by members. */
extern void dependency_store(const char *field, Oid relid, const char *link,
							 const char *members);

#endif /* EKKSYNC_ATTACH_H */
