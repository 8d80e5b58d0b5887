//! Rewrites a finished plan: inserts BatchPredict nodes that evaluate calls of models in batches.
//!
//! A node is inserted in one of two positions:
//! - *Above* a node with calls in its target list or filter. The original node returns the columns that the expressions
//!   need. The BatchPredict node evaluates the expressions, and each call becomes a column of its own.
//! - *Below* a node whose aggregates, window functions or set-returning functions have calls as arguments. The
//!   BatchPredict node returns the columns of the node's input, and the calls as further columns.
//!
//! A call may depend on another call, or on rows that pass a filter with one. Such a call goes into a further node
//! above. Column numbers do not change, so that no other node of the plan is modified.

mod node_building;
pub(crate) mod node_columns;
mod plan_properties;
mod scored_rows;

use std::collections::HashMap;
use std::ptr::null_mut;

use pgrx::pg_sys::{self, Node, NodeTag, Plan};

use crate::error::Result;
use crate::pg::node::{self, length, list, members, rebuilt};
use crate::pg::tuple;
use crate::planner::calls::{Calls, FoundCall};
use crate::planner::node_spec::{CallGroup, CallSpec, NodeSpec, Top, is_ours, methods};
use crate::planner::rewrite::node_columns::{Columns, INDEX, OUTER, Taken, told, variable};
use crate::planner::rewrite::plan_properties::{
    MAY_STOP, calls_functions, evaluates_calls, evaluates_each_row_once, every, gives_what_it_reads, is_volatile,
    is_volatile_per_row, limit_is_known, projects, scan_synchronously, subplans_read_whole,
};
use crate::planner::rewrite::scored_rows::ScoredAggregate;
use crate::planner::streaming;
use crate::results::call_form::CallForm;

/// How the nodes above a position in the plan read its rows. Rows are read ahead only if PostgreSQL would read them
/// too.
#[derive(Clone, Copy)]
pub(crate) struct CallPlace {
    /// How a limited fetch of the client bounds the rows that are read.
    pub(crate) top: Top,
    /// A LIMIT above, each row of which needs at least one row of this position.
    pub(crate) limit: Option<*mut pg_sys::Limit>,
    /// The LIMIT is directly above and reads no more rows than its count and offset.
    pub(crate) exact: bool,
    /// Reading may stop at any row.
    pub(crate) stops: bool,
    /// Reading may stop after the first row.
    pub(crate) first_alone: bool,
    /// The position is executed by parallel workers.
    pub(crate) shared: bool,
    /// The position may be read again from its start.
    pub(crate) again: bool,
}

impl CallPlace {
    /// A position whose rows are all read.
    pub(crate) fn whole(shared: bool) -> Self {
        Self { top: Top::Below, limit: None, exact: false, stops: false, first_alone: false, shared, again: false }
    }

    /// A position that may stop being read at any row.
    pub(crate) fn stopping(self) -> Self {
        Self { limit: None, stops: true, ..self }
    }

    /// A position below a node that may return several rows for one.
    pub(crate) fn multiplied(self) -> Self {
        let top = if self.top == Top::Exact { Top::Loose } else { self.top };
        let below = Self { top, ..self };
        if self.limit.is_some() { below.stopping() } else { below }
    }

    /// The position of a CTE that several nodes read.
    pub(crate) fn of_all(places: &[Self]) -> Self {
        if let [only] = places {
            return *only;
        }
        if places.iter().any(|p| p.stops || p.limit.is_some()) {
            return Self::whole(false).stopping();
        }
        let top = if places.iter().all(|p| p.top == Top::Below) { Top::Below } else { Top::Loose };
        Self { top, first_alone: places.iter().any(|p| p.first_alone), ..Self::whole(false) }
    }

    /// Whether the plan shows that reading may stop here. A node above that reads one row ahead may then have read a
    /// row without evaluating its expressions.
    pub(crate) fn may_stop(&self, cursor: bool) -> bool {
        self.stops || self.limit.is_some() || (cursor && self.top != Top::Below)
    }
}

/// The rewrite of one statement.
pub(crate) struct Rewrite {
    pub(crate) next_id: i32,
    /// The statement is the query of a cursor. It may be fetched backwards, and WHERE CURRENT OF may refer to its
    /// current row.
    pub(crate) cursor: bool,
    pub(crate) has_row_marks: bool,
    pub(crate) volatile_subplans: bool,
    /// A WITH query inserts, updates or deletes while it is read, and may fire triggers.
    pub(crate) modifying_cte: bool,
    pub(crate) range_table: *mut pg_sys::List,
    /// The item in FROM whose sub-select is being rewritten, if the plan has a node for it. 0 otherwise.
    pub(crate) item: pg_sys::Index,
    /// The positions at which each CTE is read, by the number of its sub-plan.
    pub(crate) cte_places: HashMap<i32, Vec<CallPlace>>,
}

/// Cache number of an entry in `invalItems` that marks a statement which the planner hook has processed. No cache of
/// PostgreSQL has this number.
const SEEN: i32 = -1;

/// Marks a statement as processed, so that the executor hook does not rewrite it.
pub(crate) fn mark_seen(statement: *mut pg_sys::PlannedStmt) {
    // SAFETY: the planner's own result, which nothing else reads yet.
    unsafe {
        if calls_functions(statement) {
            let item = node::make::<pg_sys::PlanInvalItem>(NodeTag::T_PlanInvalItem);
            (*item).cacheId = SEEN;
            (*statement).invalItems = pg_sys::lappend((*statement).invalItems, item.cast());
        }
    }
}

/// Rewrites a statement in place. `cursor` says that it is the query of a cursor.
pub(crate) fn rewrite(statement: *mut pg_sys::PlannedStmt, cursor: bool) -> Result<()> {
    // SAFETY: the planner's own result, or a copy of it, which nothing else reads yet.
    unsafe {
        if !calls_functions(statement) {
            return Ok(());
        }
        let mut plans = vec![(*statement).planTree];
        plans.extend(members::<Plan>((*statement).subplans));
        let mut all = Vec::new();
        plans.iter().for_each(|plan| every(*plan, &mut all));
        if !all.iter().any(|plan| evaluates_calls(*plan) || !scored_rows::scored(*plan).is_empty()) {
            return Ok(());
        }
        let mut subplan_nodes = Vec::new();
        plans.iter().skip(1).for_each(|plan| every(*plan, &mut subplan_nodes));
        let read_whole = subplans_read_whole(&all);
        let init_plans = all.iter().flat_map(|plan| members::<pg_sys::SubPlan>((**plan).initPlan));
        let once: Vec<i32> = init_plans.map(|subplan| (*subplan).plan_id).collect();
        let mut rewrite = Rewrite {
            next_id: all.iter().map(|plan| (**plan).plan_node_id).max().unwrap_or(0) + 1,
            cursor,
            has_row_marks: !(*statement).rowMarks.is_null(),
            volatile_subplans: subplan_nodes.iter().any(|plan| is_volatile(*plan)),
            modifying_cte: (*statement).hasModifyingCTE,
            range_table: (*statement).rtable,
            item: 0,
            cte_places: HashMap::new(),
        };
        let top = CallPlace { top: Top::Exact, ..CallPlace::whole(false) };
        (*statement).planTree = rewrite.plan((*statement).planTree, top)?;
        // A sub-plan is never the scan of a cursor. A CTE has a smaller number than the sub-plans that read it, so the
        // sub-plans are rewritten in reverse order.
        rewrite.cursor = false;
        for (i, number) in (0..length((*statement).subplans)).zip(1..).collect::<Vec<(usize, i32)>>().into_iter().rev()
        {
            let place = match rewrite.cte_places.remove(&number).as_deref() {
                Some(places) => CallPlace::of_all(places),
                None if read_whole.contains(&number) => CallPlace { again: true, ..CallPlace::whole(false) },
                // A sub-plan that is evaluated before the query is read once.
                _ => CallPlace { again: !once.contains(&number), ..CallPlace::whole(false).stopping() },
            };
            let cell = (*(*statement).subplans).elements.add(i);
            (*cell).ptr_value = rewrite.plan((*cell).ptr_value.cast(), place)?.cast();
        }
        Ok(())
    }
}

/// Whether a statement may have calls and was planned before this library was loaded.
pub(crate) fn is_unseen(statement: *const pg_sys::PlannedStmt) -> bool {
    // SAFETY: reads a finished plan.
    unsafe {
        let seen = |item: *mut pg_sys::PlanInvalItem| (*item).cacheId == SEEN;
        calls_functions(statement) && !members((*statement).invalItems).into_iter().any(seen)
    }
}

impl Rewrite {
    pub(crate) fn id(&mut self) -> i32 {
        self.next_id += 1;
        self.next_id - 1
    }

    pub(crate) unsafe fn each(&mut self, plans: *mut pg_sys::List, place: CallPlace) -> Result<()> {
        // SAFETY: a list of plans, some of them null; its cells are changed in place.
        unsafe {
            for i in 0..length(plans) {
                let cell = (*plans).elements.add(i);
                (*cell).ptr_value = self.plan((*cell).ptr_value.cast(), place)?.cast();
            }
        }
        Ok(())
    }

    /// Rewrites a plan from the bottom up.
    pub(crate) unsafe fn plan(&mut self, plan: *mut Plan, place: CallPlace) -> Result<*mut Plan> {
        if plan.is_null() {
            return Ok(plan);
        }
        // SAFETY: each node is cast to the type that its tag names.
        unsafe {
            pg_sys::check_stack_depth();
            let tag = (*plan).type_;
            let (mut left, mut right) = (CallPlace { exact: false, ..place }, CallPlace { exact: false, ..place });
            match tag {
                NodeTag::T_Limit if place.limit.is_none() && limit_is_known(plan.cast()) => {
                    (left.limit, left.exact) = (Some(plan.cast()), true);
                }
                NodeTag::T_Limit | NodeTag::T_MergeJoin | NodeTag::T_RecursiveUnion => {
                    (left, right) = (place.stopping(), place.stopping());
                }
                // From PostgreSQL 18 on, a SetOp may have two inputs and may not read all of either.
                NodeTag::T_SetOp if !(*plan).righttree.is_null() => {
                    (left, right) = (place.stopping(), place.stopping());
                }
                NodeTag::T_Sort | NodeTag::T_Hash | NodeTag::T_ModifyTable => left = CallPlace::whole(place.shared),
                NodeTag::T_Agg => {
                    let agg = &*plan.cast::<pg_sys::Agg>();
                    if matches!(agg.aggstrategy, pg_sys::AggStrategy::AGG_PLAIN | pg_sys::AggStrategy::AGG_HASHED) {
                        left = CallPlace::whole(place.shared);
                    } else if !agg.groupingSets.is_null() {
                        left = left.multiplied();
                    }
                }
                // A WindowAgg stops reading once its run condition is false.
                NodeTag::T_WindowAgg if !(*plan.cast::<pg_sys::WindowAgg>()).runCondition.is_null() => {
                    left = left.stopping();
                }
                NodeTag::T_Gather | NodeTag::T_GatherMerge => {
                    left = CallPlace { shared: true, ..place.multiplied() };
                }
                NodeTag::T_NestLoop => {
                    let join = &*plan.cast::<pg_sys::Join>();
                    (left, right) = (place.multiplied(), place.multiplied());
                    if join.inner_unique
                        || matches!(join.jointype, pg_sys::JoinType::JOIN_SEMI | pg_sys::JoinType::JOIN_ANTI)
                    {
                        right = right.stopping();
                    }
                }
                // A hash join reads one outer row before it checks whether the inner side is empty.
                NodeTag::T_HashJoin => left = CallPlace { first_alone: true, ..place.multiplied() },
                NodeTag::T_ProjectSet => left = place.multiplied(),
                NodeTag::T_CteScan => {
                    let number = (*plan.cast::<pg_sys::CteScan>()).ctePlanId;
                    self.cte_places.entry(number).or_default().push(CallPlace { shared: false, again: false, ..place });
                }
                _ => {}
            }
            left.again = place.again;
            right.again = place.again || matches!(tag, NodeTag::T_NestLoop | NodeTag::T_RecursiveUnion);
            // A node that does not return every row it reads may read several rows before it returns the first.
            if place.first_alone && !gives_what_it_reads(plan) {
                left = if left.first_alone { left.stopping() } else { left };
                right = if right.first_alone { right.stopping() } else { right };
            }
            (*plan).lefttree = self.plan((*plan).lefttree, left)?;
            (*plan).righttree = self.plan((*plan).righttree, right)?;
            match tag {
                NodeTag::T_Append => {
                    let children = (*plan.cast::<pg_sys::Append>()).appendplans;
                    // The rows of a LIMIT may come from another child.
                    self.each(children, if left.limit.is_some() { left.stopping() } else { left })?;
                    members::<Plan>(children).into_iter().for_each(|child| scan_synchronously(child));
                }
                NodeTag::T_MergeAppend => {
                    self.each((*plan.cast::<pg_sys::MergeAppend>()).mergeplans, left.multiplied())?
                }
                NodeTag::T_SubqueryScan => {
                    let scan = plan.cast::<pg_sys::SubqueryScan>();
                    let around = std::mem::replace(&mut self.item, (*scan).scan.scanrelid);
                    (*scan).subplan = self.plan((*scan).subplan, left)?;
                    self.item = around;
                    if let Some(merged) = self.merged(scan)? {
                        return Ok(merged);
                    }
                }
                // A merge join marks and restores positions of its inner side, which a BatchPredict node does not
                // support.
                NodeTag::T_MergeJoin
                    if !(*plan.cast::<pg_sys::MergeJoin>()).skip_mark_restore && is_ours((*plan).righttree) =>
                {
                    (*plan).righttree = self.material((*plan).righttree);
                }
                _ => {}
            }
            if matches!(tag, NodeTag::T_Agg | NodeTag::T_WindowAgg | NodeTag::T_ProjectSet)
                && !(*plan).lefttree.is_null()
            {
                self.feed(plan, left)?;
            }
            if projects(tag) { self.cover(plan, place) } else { Ok(plan) }
        }
    }

    /// Builds a Material node above a plan.
    pub(crate) unsafe fn material(&mut self, plan: *mut Plan) -> *mut Plan {
        // SAFETY: makes a node with the columns of the node below.
        unsafe {
            let material = node::make::<pg_sys::Material>(NodeTag::T_Material);
            self.above(&mut (*material).plan, plan);
            (*material).plan.targetlist =
                list(members::<pg_sys::TargetEntry>((*plan).targetlist).into_iter().map(|entry| {
                    let copy = pg_sys::flatCopyTargetEntry(entry);
                    (*copy).expr = variable(OUTER, tuple::counted((*entry).resno), (*entry).expr.cast()).cast();
                    copy
                }));
            material.cast()
        }
    }

    /// Puts a new node above another, and copies the fields that both have in common.
    pub(crate) unsafe fn above(&mut self, new: *mut Plan, plan: *mut Plan) {
        // SAFETY: two nodes of the same plan.
        unsafe {
            (*new).startup_cost = (*plan).startup_cost;
            (*new).total_cost = (*plan).total_cost;
            (*new).plan_rows = (*plan).plan_rows;
            (*new).plan_width = (*plan).plan_width;
            (*new).parallel_safe = (*plan).parallel_safe;
            (*new).plan_node_id = self.id();
            (*new).lefttree = plan;
            (*new).extParam = pg_sys::bms_copy((*plan).extParam);
            (*new).allParam = pg_sys::bms_copy((*plan).allParam);
        }
    }

    /// Builds a BatchPredict node above another node.
    pub(crate) unsafe fn node(
        &mut self,
        plan: *mut Plan,
        columns: &Columns,
        taken: &Taken,
        guards: &[*mut Node],
        place: CallPlace,
        mut recipe: NodeSpec,
    ) -> Result<*mut pg_sys::CustomScan> {
        // SAFETY: makes a node above another node of the same plan.
        unsafe {
            let scan = node::make::<pg_sys::CustomScan>(NodeTag::T_CustomScan);
            self.above(&mut (*scan).scan.plan, plan);
            (*scan).custom_scan_tlist = Columns::entries(&columns.scan);
            (*scan).methods = methods();
            let mut below = Vec::new();
            every(plan, &mut below);
            let modifies = self.modifying_cte && below.iter().any(|p| (**p).type_ == NodeTag::T_CteScan);
            // The aggregate that a streamed `predictions()` stands for reads all rows before the first is returned.
            recipe.reads_ahead = taken.different.iter().all(|(_, form, _)| *form == CallForm::Column);
            let varies = |n: *mut Node| {
                node::is(n, NodeTag::T_Param) && (*n.cast::<pg_sys::Param>()).paramkind == pg_sys::ParamKind::PARAM_EXEC
            };
            let calls_vary = taken.different.iter().any(|(_, _, i)| node::contains(columns.scan[*i], &mut { varies }));
            recipe.keeps_rows = recipe.reads_ahead && place.again && !calls_vary;
            recipe.one_by_one = if recipe.reads_ahead {
                None
            } else if self.volatile_subplans || modifies || below.iter().any(|p| is_volatile_per_row(*p)) {
                Some("volatile function below".to_owned())
            } else if place.stops {
                Some(MAY_STOP.to_owned())
            } else {
                None
            };
            recipe.top = place.top;
            recipe.first_alone = place.first_alone && !recipe.reads_ahead;
            recipe.bound = place.limit.map(|limit| {
                let add = |n: *mut Node| {
                    (*scan).custom_exprs = pg_sys::lappend((*scan).custom_exprs, pg_sys::copyObjectImpl(n.cast()));
                    length((*scan).custom_exprs) - 1
                };
                let (count, offset) = ((*limit).limitCount, (*limit).limitOffset);
                (add(count), (!offset.is_null()).then(|| add(offset)))
            });
            recipe.shared = place.shared;
            (*scan).scan.plan.parallel_aware = place.shared;
            for ((members, _), guard) in taken.groups.iter().zip(guards) {
                let mut calls = Vec::new();
                for (_, form, column) in members.iter().map(|m| taken.different[*m]) {
                    let expression = (form == CallForm::Column).then(|| self.show_column(scan, column));
                    calls.push(CallSpec { column, form, expression });
                }
                let guard = (!guard.is_null()).then(|| {
                    (*scan).custom_exprs = pg_sys::lappend((*scan).custom_exprs, guard.cast());
                    length((*scan).custom_exprs) - 1
                });
                recipe.groups.push(CallGroup { calls, guard });
            }
            recipe.put(scan)?;
            Ok(scan)
        }
    }

    /// Moves a call that returns a column of `predictions()` out of the columns of a scan. EXPLAIN then shows the column
    /// and not the call, with all that it needs. Returns the new position of the call.
    unsafe fn show_column(&self, scan: *mut pg_sys::CustomScan, column: usize) -> usize {
        // SAFETY: a node that is being made.
        unsafe {
            let entry = node::members::<pg_sys::TargetEntry>((*scan).custom_scan_tlist)[column];
            let call = (*entry).expr;
            (*entry).expr = streaming::shown(self.range_table, self.item, call.cast()).cast();
            (*scan).custom_exprs = pg_sys::lappend((*scan).custom_exprs, call.cast());
            length((*scan).custom_exprs) - 1
        }
    }

    /// Whether a node above a plan would read several of its rows before it returns one.
    unsafe fn reads_rows_together(&self, plan: *mut Plan, place: CallPlace) -> bool {
        let mut below = Vec::new();
        // SAFETY: reads a finished plan.
        unsafe {
            every(plan, &mut below);
            let is_volatile = below.iter().any(|p| is_volatile_per_row(*p));
            !place.stops && !place.first_alone && !self.volatile_subplans && !self.modifying_cte && !is_volatile
        }
    }

    /// Inserts a BatchPredict node below a node, to evaluate the calls in the arguments of its aggregates, window
    /// functions or set-returning functions.
    pub(crate) unsafe fn feed(&mut self, plan: *mut Plan, place: CallPlace) -> Result<()> {
        // SAFETY: each node is cast to the type that its tag names.
        unsafe {
            let tag = (*plan).type_;
            // Agg and WindowAgg read the first row of the next group or peer group before they return a row. PostgreSQL
            // has not evaluated the arguments of that row yet, so a batch must not do so if reading may stop.
            if matches!(tag, NodeTag::T_Agg | NodeTag::T_WindowAgg) && place.may_stop(self.cursor) {
                return Ok(());
            }
            loop {
                let mut calls = match tag {
                    NodeTag::T_ProjectSet => Calls::outside(self.volatile_subplans),
                    NodeTag::T_WindowAgg if !evaluates_each_row_once(plan.cast()) => return Ok(()),
                    _ => Calls::inside(self.volatile_subplans),
                };
                calls.list((*plan).targetlist);
                if tag == NodeTag::T_Agg {
                    calls.list((*plan).qual);
                }
                let child = (*plan).lefttree;
                let scored =
                    if self.reads_rows_together(child, place) { scored_rows::scored(plan) } else { Vec::new() };
                let found = |s: &ScoredAggregate| FoundCall { call: s.call, form: CallForm::Row, guard: null_mut() };
                calls.found.extend(scored.iter().map(found));
                if calls.found.is_empty() {
                    return Ok(());
                }
                let mut taken = Taken::new(&calls.found);
                let entries = members::<pg_sys::TargetEntry>((*child).targetlist);
                let mut columns = Columns {
                    input: Vec::new(),
                    stored: true,
                    scan: entries
                        .iter()
                        .map(|e| variable(OUTER, tuple::counted((*(*e)).resno), (*(*e)).expr.cast()))
                        .collect(),
                    keeps_aggregates: false,
                };
                for (call, _, place) in &mut taken.different {
                    columns.scan.push((*call).cast());
                    *place = columns.scan.len() - 1;
                }
                let scan_columns: Vec<*mut Node> = columns.scan.clone();
                let guards: Vec<*mut Node> = taken.groups.iter().map(|(_, guard)| *guard).collect();
                let place_of = |n: *const Node| taken.is_taken(n).map(|which| taken.different[which].2);
                let change = |n: *mut Node| {
                    if let Some(scored) = scored.iter().find(|scored| std::ptr::eq(scored.aggregate.cast(), n)) {
                        return place_of(scored.call.cast()).map(|place| scored_rows::replaced(n.cast(), place + 1));
                    }
                    place_of(n).map(|place| variable(OUTER, place + 1, scan_columns[place]))
                };
                (*plan).targetlist = rebuilt((*plan).targetlist, &mut |n| change(n));
                (*plan).qual = rebuilt((*plan).qual, &mut |n| change(n));
                // Columns that the plan no longer reads become NULL, so they are not carried.
                let needed = self.needed(plan);
                for (i, column) in columns.scan.iter_mut().enumerate().take(entries.len()) {
                    if needed.as_ref().is_some_and(|needed| !needed.contains(&(i + 1))) {
                        let v = &*(*column).cast::<pg_sys::Var>();
                        *column = pg_sys::makeNullConst(v.vartype, v.vartypmod, v.varcollid).cast();
                    }
                }
                let recipe = NodeSpec { left: told(std::mem::take(&mut calls.left)), ..NodeSpec::default() };
                let scan = self.node(child, &columns, &taken, &guards, place, recipe)?;
                let named = |i: usize| entries.get(i).map(|e| **e);
                (*scan).scan.plan.targetlist = list(scan_columns.iter().enumerate().map(|(i, e)| {
                    let entry = pg_sys::makeTargetEntry(
                        variable(INDEX, i + 1, *e).cast(),
                        tuple::number(i + 1),
                        named(i).map_or(std::ptr::null_mut(), |e| e.resname),
                        named(i).is_some_and(|e| e.resjunk),
                    );
                    (*entry).ressortgroupref = named(i).map_or(0, |e| e.ressortgroupref);
                    entry
                }));
                (*plan).lefttree = scan.cast();
            }
        }
    }
}
