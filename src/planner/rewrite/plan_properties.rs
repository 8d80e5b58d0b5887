//! Determines properties of plan nodes that the rewrite depends on.

use pgrx::pg_sys::{self, Node, NodeTag, Plan};

use crate::pg::node::{self, is, members};
use crate::planner::calls;
use crate::planner::node_spec::is_ours;

/// The reason that EXPLAIN shows for rows that are read one by one.
pub(crate) const MAY_STOP: &str = "reading may stop at any row";

/// Returns the numbers of the sub-plans that are always read to the end once they are started.
pub(crate) unsafe fn subplans_read_whole(plans: &[*mut Plan]) -> Vec<i32> {
    let mut whole = Vec::new();
    let mut note = |n: *mut Node| {
        if is(n, NodeTag::T_SubPlan) {
            // SAFETY: a SubPlan by its tag.
            let subplan = unsafe { &*n.cast::<pg_sys::SubPlan>() };
            if subplan.useHashTable || subplan.subLinkType == pg_sys::SubLinkType::ARRAY_SUBLINK {
                whole.push(subplan.plan_id);
            }
        }
        false
    };
    for plan in plans {
        // SAFETY: a plan node and its expressions.
        unsafe {
            node::contains((**plan).initPlan.cast(), &mut note);
            node::contains((**plan).targetlist.cast(), &mut note);
            node::contains((**plan).qual.cast(), &mut note);
            for expression in other_expressions(*plan) {
                node::contains(expression, &mut note);
            }
        }
    }
    whole
}

/// Whether a statement depends on functions that are not built into PostgreSQL.
pub(crate) unsafe fn calls_functions(statement: *const pg_sys::PlannedStmt) -> bool {
    // SAFETY: the list holds the dependencies of the plan.
    unsafe {
        members::<pg_sys::PlanInvalItem>((*statement).invalItems)
            .into_iter()
            .any(|item| (*item).cacheId == pg_sys::SysCacheIdentifier::PROCOID.cast_signed())
    }
}

/// Returns the child plans of a node.
pub(crate) unsafe fn below(plan: *mut Plan) -> Vec<*mut Plan> {
    // SAFETY: each node is cast to the type that its tag names.
    unsafe {
        let mut all = vec![(*plan).lefttree, (*plan).righttree];
        match (*plan).type_ {
            NodeTag::T_Append => all.extend(members::<Plan>((*plan.cast::<pg_sys::Append>()).appendplans)),
            NodeTag::T_MergeAppend => all.extend(members::<Plan>((*plan.cast::<pg_sys::MergeAppend>()).mergeplans)),
            NodeTag::T_BitmapAnd => all.extend(members::<Plan>((*plan.cast::<pg_sys::BitmapAnd>()).bitmapplans)),
            NodeTag::T_BitmapOr => all.extend(members::<Plan>((*plan.cast::<pg_sys::BitmapOr>()).bitmapplans)),
            NodeTag::T_SubqueryScan => all.push((*plan.cast::<pg_sys::SubqueryScan>()).subplan),
            NodeTag::T_CustomScan => all.extend(members::<Plan>((*plan.cast::<pg_sys::CustomScan>()).custom_plans)),
            NodeTag::T_Agg => all.extend(members::<Plan>((*plan.cast::<pg_sys::Agg>()).chain)),
            _ => {}
        }
        all.retain(|plan| !plan.is_null());
        all
    }
}

/// Collects every node of a plan.
pub(crate) unsafe fn every(plan: *mut Plan, all: &mut Vec<*mut Plan>) {
    if plan.is_null() {
        return;
    }
    all.push(plan);
    // SAFETY: raises an error if the stack has no room for the recursion.
    unsafe { pg_sys::check_stack_depth() };
    // SAFETY: a plan node; its children are null or valid.
    unsafe { below(plan).into_iter().for_each(|p| every(p, all)) }
}

/// Returns the expressions of a node other than its target list and filter.
unsafe fn other_expressions(plan: *mut Plan) -> Vec<*mut Node> {
    // SAFETY: each node is cast to the type that its tag names.
    unsafe {
        match (*plan).type_ {
            NodeTag::T_NestLoop | NodeTag::T_MergeJoin | NodeTag::T_HashJoin => {
                let join = plan.cast::<pg_sys::Join>();
                let keys = match (*plan).type_ {
                    NodeTag::T_HashJoin => (*plan.cast::<pg_sys::HashJoin>()).hashclauses,
                    NodeTag::T_MergeJoin => (*plan.cast::<pg_sys::MergeJoin>()).mergeclauses,
                    _ => std::ptr::null_mut(),
                };
                vec![(*join).joinqual.cast(), keys.cast()]
            }
            NodeTag::T_FunctionScan => vec![(*plan.cast::<pg_sys::FunctionScan>()).functions.cast()],
            NodeTag::T_ValuesScan => vec![(*plan.cast::<pg_sys::ValuesScan>()).values_lists.cast()],
            NodeTag::T_IndexScan => vec![(*plan.cast::<pg_sys::IndexScan>()).indexqual.cast()],
            NodeTag::T_IndexOnlyScan => vec![(*plan.cast::<pg_sys::IndexOnlyScan>()).indexqual.cast()],
            NodeTag::T_Result => vec![(*plan.cast::<pg_sys::Result>()).resconstantqual],
            _ => Vec::new(),
        }
    }
}

pub(crate) unsafe fn is_volatile(plan: *mut Plan) -> bool {
    // SAFETY: a plan node.
    unsafe {
        calls::is_volatile((*plan).targetlist.cast())
            || calls::is_volatile((*plan).qual.cast())
            || other_expressions(plan).into_iter().any(calls::is_volatile)
    }
}

/// Whether a node evaluates a volatile function for each row that it returns.
///
/// A function in FROM is read to its end before its first row is returned. It counts only if it is called again for
/// each row of another table.
pub(crate) unsafe fn is_volatile_per_row(plan: *mut Plan) -> bool {
    // SAFETY: a plan node.
    unsafe {
        let once = (*plan).type_ == NodeTag::T_FunctionScan && (*plan).extParam.is_null();
        calls::is_volatile((*plan).targetlist.cast())
            || calls::is_volatile((*plan).qual.cast())
            || (!once && other_expressions(plan).into_iter().any(calls::is_volatile))
    }
}

/// Whether a WindowAgg evaluates the arguments of its aggregates exactly once for every row that it reads.
pub(crate) unsafe fn evaluates_each_row_once(window: *mut pg_sys::WindowAgg) -> bool {
    // SAFETY: a WindowAgg node.
    let (frame, stops) = unsafe {
        let stops = !(*window).runCondition.is_null() || !(*window).plan.qual.is_null();
        ((*window).frameOptions.cast_unsigned(), stops)
    };
    let has = |options: u32| frame & options != 0;
    !stops
        && has(pg_sys::FRAMEOPTION_START_UNBOUNDED_PRECEDING)
        && has(pg_sys::FRAMEOPTION_END_CURRENT_ROW | pg_sys::FRAMEOPTION_END_UNBOUNDED_FOLLOWING)
        && !has(pg_sys::FRAMEOPTION_EXCLUSION)
}

/// Whether a node returns every row that it reads.
pub(crate) unsafe fn gives_what_it_reads(plan: *mut Plan) -> bool {
    use NodeTag::{T_Append, T_CteScan, T_Gather, T_LockRows, T_Material, T_MergeAppend, T_Result, T_SubqueryScan};
    // SAFETY: a plan node.
    unsafe {
        (*plan).qual.is_null()
            && matches!(
                (*plan).type_,
                T_Append | T_CteScan | T_Gather | T_LockRows | T_Material | T_MergeAppend | T_Result | T_SubqueryScan
            )
    }
}

/// Whether the row count of a LIMIT is known before execution.
pub(crate) unsafe fn limit_is_known(limit: *mut pg_sys::Limit) -> bool {
    let known = |n: *mut Node| match node::tag(n) {
        // SAFETY: a Const by its tag.
        NodeTag::T_Const => unsafe { !(*n.cast::<pg_sys::Const>()).constisnull },
        // SAFETY: a Param by its tag.
        NodeTag::T_Param => unsafe { (*n.cast::<pg_sys::Param>()).paramkind == pg_sys::ParamKind::PARAM_EXTERN },
        _ => false,
    };
    // SAFETY: a Limit node.
    unsafe {
        (*limit).limitOption == pg_sys::LimitOption::LIMIT_OPTION_COUNT
            && known((*limit).limitCount)
            && ((*limit).limitOffset.is_null() || known((*limit).limitOffset))
    }
}

/// Makes the scans below a BatchPredict node synchronous if the node is a child of an Append. An asynchronous foreign
/// scan returns its rows only to its Append.
pub(crate) unsafe fn scan_synchronously(child: *mut Plan) {
    // SAFETY: each node is cast to the type that its tag names.
    unsafe {
        let mut all = Vec::new();
        every(child, &mut all);
        if !all.iter().any(|plan| is_ours(*plan)) {
            return;
        }
        for plan in all {
            // Scans below a nested Append return their rows to that Append, so they stay asynchronous.
            if (*plan).type_ == NodeTag::T_Append {
                break;
            }
            (*plan).async_capable = false;
        }
    }
}

pub(crate) unsafe fn evaluates_calls(plan: *mut Plan) -> bool {
    // SAFETY: a plan node.
    unsafe {
        calls::any((*plan).targetlist.cast())
            || calls::any((*plan).qual.cast())
            || other_expressions(plan).into_iter().any(calls::any)
    }
}

/// Whether a node evaluates a target list on the rows it reads, and filters them by `qual`.
pub(crate) fn projects(tag: NodeTag) -> bool {
    use NodeTag::*;
    matches!(
        tag,
        T_Result
            | T_SeqScan
            | T_SampleScan
            | T_IndexScan
            | T_IndexOnlyScan
            | T_BitmapHeapScan
            | T_TidScan
            | T_TidRangeScan
            | T_SubqueryScan
            | T_FunctionScan
            | T_TableFuncScan
            | T_ValuesScan
            | T_CteScan
            | T_NamedTuplestoreScan
            | T_WorkTableScan
            | T_ForeignScan
            | T_NestLoop
            | T_MergeJoin
            | T_HashJoin
            | T_Agg
            | T_Group
            | T_WindowAgg
            | T_Gather
            | T_GatherMerge
    )
}

/// Whether a node reads the rows of a table as they are stored.
pub(crate) fn reads_table(tag: NodeTag) -> bool {
    use NodeTag::*;
    matches!(tag, T_SeqScan | T_SampleScan | T_IndexScan | T_BitmapHeapScan | T_TidScan | T_TidRangeScan)
}
