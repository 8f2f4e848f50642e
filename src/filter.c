/*
 * filter.c
 *		A user's WHERE condition over the member table, made safe to keep.
 *
 * Only at attach; the capture trigger and the run use the text it makes.
 */
#include "postgres.h"

#include "access/table.h"
#include "attach.h"
#include "mapping.h"
#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "parser/parse_collate.h"
#include "parser/parse_expr.h"
#include "parser/parse_relation.h"
#include "scope.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"

static void
filter_refuse(const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("the filter is not one condition over the member table"),
			 errdetail("%s", detail),
			 errhint("Write it as you would after WHERE, for example: ssn NOT "
					 "LIKE '9999%%'.")));
}

/* Let a syntax error point into the filter's query, not the caller's. */
static void
filter_position(void *arg)
{
	int position = geterrposition();

	if (position > 0)
	{
		errposition(0);
		internalerrposition(position);
		internalerrquery((const char *) arg);
	}
}

/* The parse tree of the one expression that text is. */
static Node *
filter_parse(const char *text)
{
	char *query = psprintf("SELECT (%s\n)", text);
	ErrorContextCallback context;
	List *statements;
	SelectStmt *select;

	context.callback = filter_position;
	context.arg = query;
	context.previous = error_context_stack;
	error_context_stack = &context;
	statements = pg_parse_query(query);
	error_context_stack = context.previous;

	if (list_length(statements) != 1 ||
		!IsA(linitial_node(RawStmt, statements)->stmt, SelectStmt))
		filter_refuse("It holds more than one statement.");
	select = (SelectStmt *) linitial_node(RawStmt, statements)->stmt;
	if (select->op != SETOP_NONE || list_length(select->targetList) != 1 ||
		select->fromClause != NIL || select->whereClause != NULL ||
		select->groupClause != NIL || select->havingClause != NULL ||
		select->windowClause != NIL || select->sortClause != NIL ||
		select->limitCount != NULL || select->limitOffset != NULL ||
		select->intoClause != NULL || select->lockingClause != NIL ||
		select->valuesLists != NIL || select->withClause != NULL)
		filter_refuse("It holds more than an expression.");
	return linitial_node(ResTarget, select->targetList)->val;
}

/* Parse analysis, by the caller's search_path and rights. */
static Node *
filter_analyze(Relation rel, const char *text)
{
	ParseState *pstate = make_parsestate(NULL);
	ParseNamespaceItem *item;
	Node *expr;

	item = addRangeTableEntryForRelation(pstate, rel, AccessShareLock, NULL,
										 false, true);
	addNSItemToQuery(pstate, item, false, true, true);
	expr = transformExpr(pstate, filter_parse(text), EXPR_KIND_WHERE);
	expr = coerce_to_boolean(pstate, expr, "filter");
	assign_expr_collations(pstate, expr);
	if (pstate->p_hasSubLinks)
		filter_refuse(
			"It holds a subquery, whose tables would not be watched.");
	if (contain_volatile_functions(expr))
		filter_refuse("It holds a volatile function.");
	free_parsestate(pstate);
	return expr;
}

/* Evaluate it once, over a row of nulls, as the role that will. */
static void
filter_try(Oid relid, Oid role, const char *filter)
{
	SqlScope scope;
	Oid type = get_rel_type_id(relid);
	Datum row = (Datum) 0;

	sql_enter(&scope, role);
	sql_run(psprintf("SELECT (%s) FROM (SELECT ($1).*) AS %s", filter,
					 quote_identifier(get_rel_name(relid))),
			1, &type, &row, "n", true, 1);
	sql_leave(&scope);
}

char *
filter_canonical(Oid relid, Oid role, const char *text)
{
	Relation rel;
	Node *expr;
	MemoryContext caller = CurrentMemoryContext;
	SqlScope scope;
	char *filter;

	if (text[strspn(text, " \t\n\r\f\v")] == '\0')
		filter_refuse("It is empty.  Null means no filter.");
	rel = table_open(relid, AccessShareLock);
	expr = filter_analyze(rel, text);
	/* the names are written as the pinned search_path needs them */
	sql_enter(&scope, role);
	MemoryContextSwitchTo(caller);
	filter =
		deparse_expression(expr,
						   deparse_context_for(RelationGetRelationName(rel),
											   relid),
						   false, false);
	sql_leave(&scope);
	MemoryContextSwitchTo(caller);
	table_close(rel, AccessShareLock);
	filter_try(relid, role, filter);
	return filter;
}
