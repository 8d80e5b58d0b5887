/*
 * A planner hook of somebody else's, for the test of neighbours: a statement that begins with a NoSeqScan hint is planned with
 * enable_seqscan off, in the way of pg_hint_plan.
 */
#include "postgres.h"

#include "fmgr.h"
#include "optimizer/cost.h"
#include "optimizer/planner.h"

PG_MODULE_MAGIC;

void _PG_init(void);

static planner_hook_type next_planner = NULL;

static PlannedStmt *
hinted_planner(Query *parse, const char *query_string, int cursorOptions, ParamListInfo boundParams)
{
	bool before = enable_seqscan;
	PlannedStmt *plan;

	if (query_string != NULL && strstr(query_string, "/*+ NoSeqScan */") != NULL)
		enable_seqscan = false;
	PG_TRY();
	{
		plan = next_planner ? next_planner(parse, query_string, cursorOptions, boundParams)
			: standard_planner(parse, query_string, cursorOptions, boundParams);
	}
	PG_FINALLY();
	{
		enable_seqscan = before;
	}
	PG_END_TRY();
	return plan;
}

void
_PG_init(void)
{
	next_planner = planner_hook;
	planner_hook = hinted_planner;
}
