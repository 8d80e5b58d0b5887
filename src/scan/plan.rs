//! The rewrite of a finished plan: a BatchPredict node goes where rows with calls of models pass by.
//!
//! Two ways. *Above* a node that would evaluate calls in its list or filter: the node gives the columns that the expressions
//! need, and the BatchPredict node above it evaluates them, with each call a column of its own. *Below* a node whose
//! aggregates, window functions or set-returning functions take calls: the BatchPredict node gives what the node's input
//! gave, and the calls as further columns. Calls that need other calls, or rows that passed a filter with one, go into a
//! further node above. Numbers of columns stay as they were, so that no other node of the plan is touched.

use std::collections::HashMap;

use pgrx::pg_sys::{self, Node, NodeTag, Oid, Plan};

use crate::error::Result;
use crate::pg::node::{self, is, length, list, members, rebuilt};
use crate::scan::calls::{self, Calls, Found};
use crate::scan::recipe::{Call, Group, Left, Recipe, Top};
use crate::scan::{METHODS, is_ours};

/// Why rows are read one by one.
const MAY_STOP: &str = "reading may stop at any row";

const OUTER: i32 = pg_sys::OUTER_VAR;
const INDEX: i32 = pg_sys::INDEX_VAR;

/// How much of its output the nodes above a place read. Rows are read ahead only if PostgreSQL would read them too.
#[derive(Clone, Copy)]
struct Place {
    /// Whether the client may stop reading.
    top: Top,
    /// A LIMIT above, each row of which needs at least one row of this place.
    limit: Option<*mut pg_sys::Limit>,
    /// The LIMIT is directly above: it wants no more rows than its number.
    exact: bool,
    /// Reading may stop at any row.
    stops: bool,
    /// A first row may be all that is read.
    first_alone: bool,
    /// It runs in parallel workers.
    shared: bool,
}

impl Place {
    /// A place whose rows are all read.
    fn whole(shared: bool) -> Self {
        Self { top: Top::Below, limit: None, exact: false, stops: false, first_alone: false, shared }
    }

    /// A place of which reading may stop at any row.
    fn stopping(self) -> Self {
        Self { limit: None, stops: true, ..self }
    }

    /// A place below a node that may make several rows of one.
    fn multiplied(self) -> Self {
        let top = if self.top == Top::Exact { Top::Loose } else { self.top };
        let below = Self { top, ..self };
        if self.limit.is_some() { below.stopping() } else { below }
    }

    /// A place that is read at several places.
    fn of_all(places: &[Self]) -> Self {
        if let [only] = places {
            return *only;
        }
        if places.iter().any(|p| p.stops || p.limit.is_some()) {
            return Self::whole(false).stopping();
        }
        let top = if places.iter().all(|p| p.top == Top::Below) { Top::Below } else { Top::Loose };
        Self { top, first_alone: places.iter().any(|p| p.first_alone), ..Self::whole(false) }
    }

    /// Whether it is known while planning that a node above a row-by-row reader may not want the row that it has read.
    fn may_stop(&self, cursor: bool) -> bool {
        self.stops || self.limit.is_some() || (cursor && self.top != Top::Below)
    }
}

/// The rewrite of one statement.
struct Rewrite {
    next_id: i32,
    /// The statement is a cursor's query, which may be read backwards and told to change its current row.
    cursor: bool,
    has_row_marks: bool,
    volatile_subplans: bool,
    /// A WITH query inserts, updates or deletes, perhaps with triggers, while it is read.
    modifying_cte: bool,
    range_table: *mut pg_sys::List,
    /// Where each sub-plan that is a CTE is read.
    cte_places: HashMap<i32, Vec<Place>>,
}

/// Marks a statement that the planner hook has seen, among its dependencies: none of PostgreSQL's caches has this number.
const SEEN: i32 = -1;

/// Notes that a statement need not be looked at again.
pub(super) fn mark_seen(statement: *mut pg_sys::PlannedStmt) {
    // SAFETY: the planner's own result, which nobody else reads yet.
    unsafe {
        if calls_functions(statement) {
            let item = node::make::<pg_sys::PlanInvalItem>(NodeTag::T_PlanInvalItem);
            (*item).cacheId = SEEN;
            (*statement).invalItems = pg_sys::lappend((*statement).invalItems, item.cast());
        }
    }
}

/// Rewrites a statement in place. `cursor`: it is a cursor's query.
pub(super) fn rewrite(statement: *mut pg_sys::PlannedStmt, cursor: bool) -> Result<()> {
    // SAFETY: the planner's own result, or a copy of it, which nobody else reads yet.
    unsafe {
        if !calls_functions(statement) {
            return Ok(());
        }
        let mut plans = vec![(*statement).planTree];
        plans.extend(members::<Plan>((*statement).subplans));
        let mut all = Vec::new();
        plans.iter().for_each(|plan| every(*plan, &mut all));
        if !all.iter().any(|plan| evaluates_calls(*plan)) {
            return Ok(());
        }
        let mut subplan_nodes = Vec::new();
        plans.iter().skip(1).for_each(|plan| every(*plan, &mut subplan_nodes));
        let read_whole = subplans_read_whole(&all);
        let mut rewrite = Rewrite {
            next_id: all.iter().map(|plan| (**plan).plan_node_id).max().unwrap_or(0) + 1,
            cursor,
            has_row_marks: !(*statement).rowMarks.is_null(),
            volatile_subplans: subplan_nodes.iter().any(|plan| is_volatile(*plan)),
            modifying_cte: (*statement).hasModifyingCTE,
            range_table: (*statement).rtable,
            cte_places: HashMap::new(),
        };
        let top = Place { top: Top::Exact, ..Place::whole(false) };
        (*statement).planTree = rewrite.plan((*statement).planTree, top)?;
        // None of them is a cursor's scan. A CTE has a smaller number than the sub-plans that read it.
        rewrite.cursor = false;
        for (i, number) in (0..length((*statement).subplans)).zip(1..).collect::<Vec<(usize, i32)>>().into_iter().rev()
        {
            let place = match rewrite.cte_places.remove(&number).as_deref() {
                Some(places) => Place::of_all(places),
                None if read_whole.contains(&number) => Place::whole(false),
                _ => Place::whole(false).stopping(),
            };
            let cell = (*(*statement).subplans).elements.add(i);
            (*cell).ptr_value = rewrite.plan((*cell).ptr_value.cast(), place)?.cast();
        }
        Ok(())
    }
}

/// The numbers of the sub-plans that are read to the end once they are read.
unsafe fn subplans_read_whole(plans: &[*mut Plan]) -> Vec<i32> {
    let mut whole = Vec::new();
    let mut note = |n: *mut Node| {
        if is(n, NodeTag::T_SubPlan) {
            // SAFETY: the tag says what it is.
            let subplan = unsafe { &*n.cast::<pg_sys::SubPlan>() };
            if subplan.useHashTable || subplan.subLinkType == pg_sys::SubLinkType::ARRAY_SUBLINK {
                whole.push(subplan.plan_id);
            }
        }
        false
    };
    for plan in plans {
        // SAFETY: a plan's node and its expressions.
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

/// Whether a statement may have calls and was planned before this library was loaded.
pub(super) fn is_unseen(statement: *const pg_sys::PlannedStmt) -> bool {
    // SAFETY: reads a finished plan.
    unsafe {
        let seen = |item: *mut pg_sys::PlanInvalItem| (*item).cacheId == SEEN;
        calls_functions(statement) && !members((*statement).invalItems).into_iter().any(seen)
    }
}

/// Whether a statement depends on functions that are not PostgreSQL's own.
unsafe fn calls_functions(statement: *const pg_sys::PlannedStmt) -> bool {
    // SAFETY: the list holds the plan's dependencies.
    unsafe {
        members::<pg_sys::PlanInvalItem>((*statement).invalItems)
            .into_iter()
            .any(|item| (*item).cacheId == pg_sys::SysCacheIdentifier::PROCOID as i32)
    }
}

/// The plans that a node has below it.
unsafe fn below(plan: *mut Plan) -> Vec<*mut Plan> {
    // SAFETY: each node is read as what its tag says it is.
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

/// Every node of a plan.
unsafe fn every(plan: *mut Plan, all: &mut Vec<*mut Plan>) {
    if plan.is_null() {
        return;
    }
    all.push(plan);
    // SAFETY: a plan's nodes; raises where the stack has no room for them.
    unsafe { pg_sys::check_stack_depth() };
    // SAFETY: as above.
    unsafe { below(plan).into_iter().for_each(|p| every(p, all)) }
}

/// Expressions of a node other than its list and filter.
unsafe fn other_expressions(plan: *mut Plan) -> Vec<*mut Node> {
    // SAFETY: each node is read as what its tag says it is.
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

unsafe fn is_volatile(plan: *mut Plan) -> bool {
    // SAFETY: a plan's node.
    unsafe {
        calls::is_volatile((*plan).targetlist.cast())
            || calls::is_volatile((*plan).qual.cast())
            || other_expressions(plan).into_iter().any(calls::is_volatile)
    }
}

/// Whether a node evaluates a volatile function for each row that it gives. A function in FROM is read to its end before its first row
/// is given, so that it counts only where it is called anew for each row of another table.
unsafe fn is_volatile_per_row(plan: *mut Plan) -> bool {
    // SAFETY: a plan's node.
    unsafe {
        let once = (*plan).type_ == NodeTag::T_FunctionScan && (*plan).extParam.is_null();
        calls::is_volatile((*plan).targetlist.cast())
            || calls::is_volatile((*plan).qual.cast())
            || (!once && other_expressions(plan).into_iter().any(calls::is_volatile))
    }
}

/// Whether a WindowAgg evaluates the arguments of its aggregates once for every row that it reads.
unsafe fn evaluates_each_row_once(window: *mut pg_sys::WindowAgg) -> bool {
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

/// Whether a node gives each row that it reads.
unsafe fn gives_what_it_reads(plan: *mut Plan) -> bool {
    use NodeTag::{T_Append, T_CteScan, T_Gather, T_LockRows, T_Material, T_MergeAppend, T_Result, T_SubqueryScan};
    // SAFETY: a plan's node.
    unsafe {
        (*plan).qual.is_null()
            && matches!(
                (*plan).type_,
                T_Append | T_CteScan | T_Gather | T_LockRows | T_Material | T_MergeAppend | T_Result | T_SubqueryScan
            )
    }
}

/// Whether the number of rows of a LIMIT is known before it is executed.
unsafe fn limit_is_known(limit: *mut pg_sys::Limit) -> bool {
    let known = |n: *mut Node| match node::tag(n) {
        // SAFETY: the tag says what it is.
        NodeTag::T_Const => unsafe { !(*n.cast::<pg_sys::Const>()).constisnull },
        // SAFETY: as above.
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

/// Makes the scans below a node of ours, which is a child of an Append, ordinary ones: a foreign scan that is planned to run
/// asynchronously gives its rows to its Append alone.
unsafe fn scan_synchronously(child: *mut Plan) {
    // SAFETY: each node is read as what its tag says it is.
    unsafe {
        let mut all = Vec::new();
        every(child, &mut all);
        if !all.iter().any(|plan| is_ours(*plan)) {
            return;
        }
        for plan in all {
            // Those of an Append further down are its own affair.
            if (*plan).type_ == NodeTag::T_Append {
                break;
            }
            (*plan).async_capable = false;
        }
    }
}

unsafe fn evaluates_calls(plan: *mut Plan) -> bool {
    // SAFETY: a plan's node.
    unsafe {
        calls::any((*plan).targetlist.cast())
            || calls::any((*plan).qual.cast())
            || other_expressions(plan).into_iter().any(calls::any)
    }
}

/// Whether a node projects what it reads, and filters it by `qual`.
fn projects(tag: NodeTag) -> bool {
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

/// Whether a node reads a table's rows as they are stored.
fn reads_table(tag: NodeTag) -> bool {
    use NodeTag::*;
    matches!(tag, T_SeqScan | T_SampleScan | T_IndexScan | T_BitmapHeapScan | T_TidScan | T_TidRangeScan)
}

unsafe fn variable(number: i32, column: usize, like: *const Node) -> *mut Node {
    // SAFETY: asks for the type of an expression.
    unsafe {
        pg_sys::makeVar(
            number,
            column as i16,
            pg_sys::exprType(like),
            pg_sys::exprTypmod(like),
            pg_sys::exprCollation(like),
            0,
        )
        .cast()
    }
}

/// The columns of a node being built: those that its input gives, and those that it gives to its own expressions.
struct Columns {
    /// The input's list; none where the input keeps its own.
    input: Vec<*mut Node>,
    /// Columns of the input that are a table's, all of them in their order: `input` is not used then.
    stored: bool,
    scan: Vec<*mut Node>,
    /// Aggregates and window functions are the input's to evaluate.
    keeps_aggregates: bool,
}

impl Columns {
    fn is_leaf(&self, n: *const Node) -> bool {
        match node::tag(n) {
            NodeTag::T_Var => true,
            NodeTag::T_Aggref | NodeTag::T_WindowFunc | NodeTag::T_GroupingFunc => self.keeps_aggregates,
            _ => false,
        }
    }

    /// The input's column that holds a value: its number, from 1.
    unsafe fn of_input(&mut self, leaf: *mut Node) -> usize {
        // SAFETY: a leaf is an expression; a Var by its tag.
        unsafe {
            if self.stored {
                return (*leaf.cast::<pg_sys::Var>()).varattno as usize;
            }
            let known = self.input.iter().position(|e| pg_sys::equal((*e).cast(), leaf.cast()));
            known.map_or_else(
                || {
                    self.input.push(leaf);
                    self.input.len()
                },
                |i| i + 1,
            )
        }
    }

    /// An expression as the node evaluates it on its input's row.
    unsafe fn on_input<T>(&mut self, expression: *mut T) -> *mut T {
        rebuilt(expression, &mut |n| {
            // SAFETY: a leaf is an expression.
            self.is_leaf(n).then(|| unsafe { variable(OUTER, self.of_input(n), n) })
        })
    }

    /// The scan's column that holds an expression: its number, from 1.
    unsafe fn of_scan(&mut self, expression: *mut Node) -> usize {
        // SAFETY: compares expressions.
        let known = self.scan.iter().position(|e| unsafe { pg_sys::equal((*e).cast(), expression.cast()) });
        known.map_or_else(
            || {
                self.scan.push(expression);
                self.scan.len()
            },
            |i| i + 1,
        )
    }

    fn entries(expressions: &[*mut Node]) -> *mut pg_sys::List {
        list(expressions.iter().enumerate().map(|(i, e)| {
            // SAFETY: makes an entry for an expression.
            unsafe { pg_sys::makeTargetEntry(e.cast(), i as i16 + 1, std::ptr::null_mut(), false) }
        }))
    }
}

/// Whether two conditions are the same one; none is always true.
unsafe fn same_condition(a: *mut Node, b: *mut Node) -> bool {
    // SAFETY: compares two expressions.
    unsafe { a.is_null() == b.is_null() && (a.is_null() || pg_sys::equal(a.cast(), b.cast())) }
}

/// The calls that one node takes: those that are equal are one.
///
/// Calls share a run only under the same condition. A call under another one may fail where PostgreSQL would never evaluate it, even
/// before any row: its output may not exist.
struct Taken {
    /// Each different call, and where it is in the scan once it is.
    different: Vec<(*mut pg_sys::FuncExpr, crate::pg::form::Form, usize)>,
    /// Which of them a call in an expression is.
    of: HashMap<usize, usize>,
    /// Which of them share their runs, and their guard.
    groups: Vec<(Vec<usize>, *mut Node)>,
}

/// Whether two calls are answered by the same runs: the same model, but for the output, on the same arguments.
unsafe fn share(a: *const pg_sys::FuncExpr, b: *const pg_sys::FuncExpr) -> bool {
    // SAFETY: two calls; a constant by its tag.
    unsafe {
        let (x, y) = (members::<Node>((*a).args), members::<Node>((*b).args));
        let model = |n: *mut Node| {
            is(n, NodeTag::T_Const).then(|| constant_text(n)).flatten().map(|t| match t.split_once('/') {
                Some((model, _)) => model.to_owned(),
                None => t,
            })
        };
        x.len() == y.len()
            && (*a).funcvariadic == (*b).funcvariadic
            && (pg_sys::equal(x[0].cast(), y[0].cast()) || (model(x[0]).is_some() && model(x[0]) == model(y[0])))
            && x.iter().zip(&y).skip(1).all(|(x, y)| pg_sys::equal((*x).cast(), (*y).cast()))
    }
}

/// The text of a constant that is not NULL.
pub(super) unsafe fn constant_text(constant: *const Node) -> Option<String> {
    // SAFETY: the caller checked the tag.
    let constant = unsafe { &*constant.cast::<pg_sys::Const>() };
    if constant.constisnull || constant.consttype != pg_sys::TEXTOID {
        return None;
    }
    crate::pg::text::text(constant.constvalue).ok().map(|t| t.into_owned())
}

impl Taken {
    unsafe fn new(found: &[Found]) -> Self {
        let mut taken = Self { different: Vec::new(), of: HashMap::new(), groups: Vec::new() };
        for f in found {
            // SAFETY: compares calls and conditions.
            let group = taken.groups.iter().position(|(members, guard)| unsafe {
                let same = |m: usize| pg_sys::equal(taken.different[m].0.cast(), f.call.cast());
                share(taken.different[members[0]].0, f.call)
                    && (same_condition(*guard, f.guard) || (members.len() == 1 && same(members[0])))
            });
            let group = group.unwrap_or_else(|| {
                taken.groups.push((Vec::new(), f.guard));
                taken.groups.len() - 1
            });
            let (members, guard) = &mut taken.groups[group];
            // SAFETY: as above.
            unsafe {
                if !same_condition(*guard, f.guard) {
                    *guard = calls::either(*guard, f.guard);
                }
            }
            let different = &mut taken.different;
            // SAFETY: as above.
            let known =
                members.iter().copied().find(|m| unsafe { pg_sys::equal(different[*m].0.cast(), f.call.cast()) });
            let which = known.unwrap_or_else(|| {
                different.push((f.call, f.form, usize::MAX));
                members.push(different.len() - 1);
                different.len() - 1
            });
            taken.of.insert(f.call as usize, which);
        }
        taken
    }

    fn is_taken(&self, n: *const Node) -> Option<usize> {
        self.of.get(&(n as usize)).copied()
    }
}

fn told(left: Vec<calls::Left>) -> Vec<Left> {
    let mut all: Vec<Left> = Vec::new();
    for l in left {
        // SAFETY: a call's first argument is its model.
        let model = unsafe {
            let first = members::<Node>((*l.call).args)[0];
            is(first, NodeTag::T_Const).then(|| constant_text(first)).flatten()
        };
        let Some(form) = calls::form(l.call.cast()) else { continue };
        let one = Left { form, model, reason: l.reason.to_owned() };
        if !all.contains(&one) {
            all.push(one);
        }
    }
    all
}

/// Makes the filters of an inner join that have calls, and those after them, filters of its result: which is the same.
unsafe fn lift_join_filter(join: *mut pg_sys::Join) {
    // SAFETY: a join by its tag.
    unsafe {
        let quals = members::<Node>((*join).joinqual);
        let Some(first) = quals.iter().position(|q| calls::any(*q)) else { return };
        if (*join).jointype != pg_sys::JoinType::JOIN_INNER {
            return;
        }
        // With a unique inner side the join stops at the first row that passes all of its filter. In a hash join the hash keys alone make
        // it unique, so that no second row comes to the filter.
        if (*join).inner_unique && (*join).plan.type_ != NodeTag::T_HashJoin {
            return;
        }
        (*join).joinqual = list(quals[..first].iter().copied());
        let after = members::<Node>((*join).plan.qual);
        (*join).plan.qual = list(quals[first..].iter().copied().chain(after));
        // The first match need not be the one that passes.
        (*join).inner_unique = false;
    }
}

impl Rewrite {
    fn id(&mut self) -> i32 {
        self.next_id += 1;
        self.next_id - 1
    }

    unsafe fn each(&mut self, plans: *mut pg_sys::List, place: Place) -> Result<()> {
        // SAFETY: a list of plans, some of them none; its cells are changed in place.
        unsafe {
            for i in 0..length(plans) {
                let cell = (*plans).elements.add(i);
                (*cell).ptr_value = self.plan((*cell).ptr_value.cast(), place)?.cast();
            }
        }
        Ok(())
    }

    /// Rewrites a plan: first what is below it.
    unsafe fn plan(&mut self, plan: *mut Plan, place: Place) -> Result<*mut Plan> {
        if plan.is_null() {
            return Ok(plan);
        }
        // SAFETY: each node is read as what its tag says it is.
        unsafe {
            pg_sys::check_stack_depth();
            let tag = (*plan).type_;
            let (mut left, mut right) = (Place { exact: false, ..place }, Place { exact: false, ..place });
            match tag {
                NodeTag::T_Limit if place.limit.is_none() && limit_is_known(plan.cast()) => {
                    (left.limit, left.exact) = (Some(plan.cast()), true);
                }
                NodeTag::T_Limit | NodeTag::T_MergeJoin | NodeTag::T_RecursiveUnion => {
                    (left, right) = (place.stopping(), place.stopping());
                }
                // From PostgreSQL 18 on it has two inputs, and may not read all of either.
                NodeTag::T_SetOp if !(*plan).righttree.is_null() => {
                    (left, right) = (place.stopping(), place.stopping());
                }
                NodeTag::T_Sort | NodeTag::T_Hash | NodeTag::T_ModifyTable => left = Place::whole(place.shared),
                NodeTag::T_Agg => {
                    let agg = &*plan.cast::<pg_sys::Agg>();
                    if matches!(agg.aggstrategy, pg_sys::AggStrategy::AGG_PLAIN | pg_sys::AggStrategy::AGG_HASHED) {
                        left = Place::whole(place.shared);
                    } else if !agg.groupingSets.is_null() {
                        left = left.multiplied();
                    }
                }
                // It stops where its run condition ends.
                NodeTag::T_WindowAgg if !(*plan.cast::<pg_sys::WindowAgg>()).runCondition.is_null() => {
                    left = left.stopping();
                }
                NodeTag::T_Gather | NodeTag::T_GatherMerge => {
                    left = Place { shared: true, ..place.multiplied() };
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
                // It reads one row of its outer side before it looks whether the inner side is empty.
                NodeTag::T_HashJoin => left = Place { first_alone: true, ..place.multiplied() },
                NodeTag::T_ProjectSet => left = place.multiplied(),
                NodeTag::T_CteScan => {
                    let number = (*plan.cast::<pg_sys::CteScan>()).ctePlanId;
                    self.cte_places.entry(number).or_default().push(Place { shared: false, ..place });
                }
                _ => {}
            }
            // Not every row that they read is one that they give.
            if place.first_alone && !gives_what_it_reads(plan) {
                left = if left.first_alone { left.stopping() } else { left };
                right = if right.first_alone { right.stopping() } else { right };
            }
            (*plan).lefttree = self.plan((*plan).lefttree, left)?;
            (*plan).righttree = self.plan((*plan).righttree, right)?;
            match tag {
                NodeTag::T_Append => {
                    let children = (*plan.cast::<pg_sys::Append>()).appendplans;
                    // The rows that a LIMIT wants may come from another child.
                    self.each(children, if left.limit.is_some() { left.stopping() } else { left })?;
                    members::<Plan>(children).into_iter().for_each(|child| scan_synchronously(child));
                }
                NodeTag::T_MergeAppend => {
                    self.each((*plan.cast::<pg_sys::MergeAppend>()).mergeplans, left.multiplied())?
                }
                NodeTag::T_SubqueryScan => {
                    let scan = plan.cast::<pg_sys::SubqueryScan>();
                    (*scan).subplan = self.plan((*scan).subplan, left)?;
                }
                // The inner side of a merge join goes back to where it was.
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

    /// A Material node above a plan.
    unsafe fn material(&mut self, plan: *mut Plan) -> *mut Plan {
        // SAFETY: makes a node with the columns of the one below.
        unsafe {
            let material = node::make::<pg_sys::Material>(NodeTag::T_Material);
            self.above(&mut (*material).plan, plan);
            (*material).plan.targetlist =
                list(members::<pg_sys::TargetEntry>((*plan).targetlist).into_iter().map(|entry| {
                    let copy = pg_sys::flatCopyTargetEntry(entry);
                    (*copy).expr = variable(OUTER, (*entry).resno as usize, (*entry).expr.cast()).cast();
                    copy
                }));
            material.cast()
        }
    }

    /// Puts a new node above another: what both have in common.
    unsafe fn above(&mut self, new: *mut Plan, plan: *mut Plan) {
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

    /// Makes a node of ours above another.
    unsafe fn node(
        &mut self,
        plan: *mut Plan,
        columns: &Columns,
        taken: &Taken,
        guards: &[*mut Node],
        place: Place,
        mut recipe: Recipe,
    ) -> Result<*mut pg_sys::CustomScan> {
        // SAFETY: makes a node above another.
        unsafe {
            let scan = node::make::<pg_sys::CustomScan>(NodeTag::T_CustomScan);
            self.above(&mut (*scan).scan.plan, plan);
            (*scan).custom_scan_tlist = Columns::entries(&columns.scan);
            (*scan).methods = &raw const METHODS.0;
            let mut below = Vec::new();
            every(plan, &mut below);
            let modifies = self.modifying_cte && below.iter().any(|p| (**p).type_ == NodeTag::T_CteScan);
            recipe.one_by_one = if self.volatile_subplans || modifies || below.iter().any(|p| is_volatile_per_row(*p)) {
                Some("volatile function below".to_owned())
            } else if place.stops {
                Some(MAY_STOP.to_owned())
            } else {
                None
            };
            recipe.top = place.top;
            recipe.first_alone = place.first_alone;
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
                let calls = members
                    .iter()
                    .map(|m| Call { column: taken.different[*m].2, form: taken.different[*m].1 })
                    .collect();
                let guard = (!guard.is_null()).then(|| {
                    (*scan).custom_exprs = pg_sys::lappend((*scan).custom_exprs, guard.cast());
                    length((*scan).custom_exprs) - 1
                });
                recipe.groups.push(Group { calls, guard });
            }
            recipe.put(scan)?;
            Ok(scan)
        }
    }

    /// Gives a node's aggregates, window functions or set-returning functions their calls from a node of ours below it.
    unsafe fn feed(&mut self, plan: *mut Plan, place: Place) -> Result<()> {
        // SAFETY: each node is read as what its tag says it is.
        unsafe {
            let tag = (*plan).type_;
            // They read the first row of the next group, or of the next peers, before they give one: PostgreSQL does not evaluate its
            // arguments yet.
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
                if calls.found.is_empty() {
                    return Ok(());
                }
                let child = (*plan).lefttree;
                let mut taken = Taken::new(&calls.found);
                let entries = members::<pg_sys::TargetEntry>((*child).targetlist);
                let mut columns = Columns {
                    input: Vec::new(),
                    stored: true,
                    scan: entries
                        .iter()
                        .map(|e| variable(OUTER, (*(*e)).resno as usize, (*(*e)).expr.cast()))
                        .collect(),
                    keeps_aggregates: false,
                };
                for (call, _, place) in &mut taken.different {
                    columns.scan.push((*call).cast());
                    *place = columns.scan.len() - 1;
                }
                let scan_columns: Vec<*mut Node> = columns.scan.clone();
                let guards: Vec<*mut Node> = taken.groups.iter().map(|(_, guard)| *guard).collect();
                let change = |n: *mut Node| {
                    taken.is_taken(n).map(|which| {
                        let place = taken.different[which].2;
                        variable(OUTER, place + 1, scan_columns[place])
                    })
                };
                (*plan).targetlist = rebuilt((*plan).targetlist, &mut |n| change(n));
                (*plan).qual = rebuilt((*plan).qual, &mut |n| change(n));
                // Columns that are not read any more are not carried.
                let needed = self.needed(plan);
                for (i, column) in columns.scan.iter_mut().enumerate().take(entries.len()) {
                    if needed.as_ref().is_some_and(|needed| !needed.contains(&(i + 1))) {
                        let v = &*(*column).cast::<pg_sys::Var>();
                        *column = pg_sys::makeNullConst(v.vartype, v.vartypmod, v.varcollid).cast();
                    }
                }
                let recipe = Recipe { left: told(std::mem::take(&mut calls.left)), ..Recipe::default() };
                let scan = self.node(child, &columns, &taken, &guards, place, recipe)?;
                let named = |i: usize| entries.get(i).map(|e| **e);
                (*scan).scan.plan.targetlist = list(scan_columns.iter().enumerate().map(|(i, e)| {
                    let entry = pg_sys::makeTargetEntry(
                        variable(INDEX, i + 1, *e).cast(),
                        i as i16 + 1,
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

    /// The columns of its input that a node reads; none where all may be.
    unsafe fn needed(&self, plan: *mut Plan) -> Option<Vec<usize>> {
        // SAFETY: each node is read as what its tag says it is; the arrays have the lengths beside them.
        unsafe {
            let mut all: Vec<usize> = Vec::new();
            let mut add = |keys: *const i16, n: i32| (0..n as usize).for_each(|i| all.push(*keys.add(i) as usize));
            match (*plan).type_ {
                NodeTag::T_Agg => {
                    let agg = &*plan.cast::<pg_sys::Agg>();
                    if !agg.chain.is_null() || !agg.groupingSets.is_null() {
                        return None;
                    }
                    add(agg.grpColIdx, agg.numCols);
                }
                NodeTag::T_WindowAgg => {
                    let window = &*plan.cast::<pg_sys::WindowAgg>();
                    add(window.partColIdx, window.partNumCols);
                    add(window.ordColIdx, window.ordNumCols);
                }
                _ => {}
            }
            let mut collect = |n: *mut Node| {
                if is(n, NodeTag::T_Var) && (*n.cast::<pg_sys::Var>()).varno == OUTER {
                    all.push((*n.cast::<pg_sys::Var>()).varattno as usize);
                }
                false
            };
            node::contains((*plan).targetlist.cast(), &mut collect);
            node::contains((*plan).qual.cast(), &mut collect);
            Some(all)
        }
    }

    /// Whether all that expressions read are columns of a table as they are stored.
    unsafe fn stored(&self, plan: *mut Plan, expressions: &[*mut Node]) -> bool {
        // SAFETY: a scan of a table names it by its place in the range table; the table is open and locked by the planner.
        unsafe {
            if !reads_table((*plan).type_) {
                return false;
            }
            let number = (*plan.cast::<pg_sys::Scan>()).scanrelid;
            let odd = &mut |n: *mut Node| {
                is(n, NodeTag::T_Var) && {
                    let v = &*n.cast::<pg_sys::Var>();
                    v.varno != number as i32 || v.varattno <= 0
                }
            };
            if expressions.iter().any(|e| node::contains(*e, odd)) {
                return false;
            }
            !self.table_columns(number).is_empty()
        }
    }

    /// The columns of a table as variables of its scan; none where one was dropped.
    unsafe fn table_columns(&self, number: pg_sys::Index) -> Vec<*mut Node> {
        // SAFETY: as for `stored`.
        unsafe {
            let entry = members::<pg_sys::RangeTblEntry>(self.range_table)[number as usize - 1];
            if (*entry).rtekind != pg_sys::RTEKind::RTE_RELATION {
                return Vec::new();
            }
            let relation = pg_sys::table_open((*entry).relid, pg_sys::NoLock as i32);
            let desc = (*relation).rd_att;
            let mut columns = Vec::new();
            for i in 0..(*desc).natts as usize {
                let a = &*crate::pg::convert::attribute(desc, i);
                if a.attisdropped {
                    columns.clear();
                    break;
                }
                let (oid, typmod, collation) = (a.atttypid, a.atttypmod, a.attcollation);
                columns.push(pg_sys::makeVar(number as i32, i as i16 + 1, oid, typmod, collation, 0).cast());
            }
            pg_sys::table_close(relation, pg_sys::NoLock as i32);
            columns
        }
    }

    /// Puts a node of ours above one that evaluates calls.
    unsafe fn cover(&mut self, plan: *mut Plan, place: Place) -> Result<*mut Plan> {
        // SAFETY: each node is read as what its tag says it is.
        unsafe {
            let tag = (*plan).type_;
            // One row, or a scan that gives no place of the row: nothing to gain, or not to be had.
            let alone = tag == NodeTag::T_Result && (*plan).lefttree.is_null();
            let unplaced = self.cursor && !self.has_row_marks && tag == NodeTag::T_IndexOnlyScan;
            // A run condition names columns of the list by their place, and stops the evaluation of the list.
            let stops = tag == NodeTag::T_WindowAgg
                && !((*plan.cast::<pg_sys::WindowAgg>()).runCondition.is_null() && (*plan).qual.is_null());
            if alone || unplaced || stops {
                return Ok(plan);
            }
            if matches!(tag, NodeTag::T_NestLoop | NodeTag::T_MergeJoin | NodeTag::T_HashJoin) {
                lift_join_filter(plan.cast());
            }
            let quals = if tag == NodeTag::T_WindowAgg { Vec::new() } else { members::<Node>((*plan).qual) };
            let has_calls = |n: *mut Node| calls::any(n);
            if !quals.iter().any(|q| has_calls(*q)) && !calls::any((*plan).targetlist.cast()) {
                return Ok(plan);
            }
            // The first filter with calls that can be taken; with it go all that come after it.
            let mut kept = quals.len();
            let mut calls = Calls::outside(self.volatile_subplans);
            for (i, qual) in quals.iter().enumerate() {
                calls.list(list([*qual]));
                if !calls.found.is_empty() {
                    kept = i;
                    break;
                }
            }
            let moved: Vec<*mut Node> = quals[kept..].to_vec();
            let mut rest = Calls::outside(self.volatile_subplans);
            rest.list(list(moved.iter().skip(1).copied()));
            rest.list((*plan).targetlist);
            if calls.found.is_empty() {
                calls.found = rest.found;
            } else {
                // A call of the list or of a later filter is evaluated only for rows that pass. It is taken with these only if it is
                // one of them, made for every row: then nothing more is run, and nothing more can fail.
                let made = |f: &Found| {
                    calls.found.iter().any(|c| c.guard.is_null() && pg_sys::equal(c.call.cast(), f.call.cast()))
                };
                let with: Vec<Found> = rest.found.into_iter().filter(|f| made(f)).collect();
                calls.found.extend(with.into_iter().map(|f| Found { guard: std::ptr::null_mut(), ..f }));
            }
            calls.left.extend(rest.left);
            if calls.found.is_empty() {
                return Ok(plan);
            }
            self.build(plan, moved, kept, calls, place)
        }
    }

    unsafe fn build(
        &mut self,
        plan: *mut Plan,
        moved: Vec<*mut Node>,
        kept: usize,
        mut calls: Calls,
        place: Place,
    ) -> Result<*mut Plan> {
        // SAFETY: each node is read as what its tag says it is.
        unsafe {
            let tag = (*plan).type_;
            let goes_back = self.cursor && pg_sys::ExecSupportsBackwardScan(plan);
            let mut taken = Taken::new(&calls.found);
            let scanned = if is_ours(plan) { Recipe::of(plan.cast())?.row_place } else { None };
            let placed = self.cursor && !self.has_row_marks && (reads_table(tag) || scanned.is_some());
            let mut expressions = vec![(*plan).targetlist.cast::<Node>()];
            expressions.extend(&moved);
            let mut columns = Columns {
                input: Vec::new(),
                stored: !placed && self.stored(plan, &expressions),
                scan: Vec::new(),
                keeps_aggregates: matches!(tag, NodeTag::T_Agg | NodeTag::T_WindowAgg),
            };
            let mut top = Vec::new();
            for expression in std::iter::once((*plan).targetlist.cast::<Node>()).chain(moved.iter().copied()) {
                let new = rebuilt(expression, &mut |n| {
                    if let Some(which) = taken.is_taken(n) {
                        let (call, _, place) = taken.different[which];
                        if place == usize::MAX {
                            let copy = columns.on_input(call);
                            columns.scan.push(copy.cast());
                            taken.different[which].2 = columns.scan.len() - 1;
                        }
                        return Some(variable(INDEX, taken.different[which].2 + 1, n));
                    }
                    if columns.is_leaf(n) {
                        let below = variable(OUTER, columns.of_input(n), n);
                        let column = columns.of_scan(below);
                        return Some(variable(INDEX, column, n));
                    }
                    None
                });
                top.push(new);
            }
            let guards: Vec<*mut Node> = taken.groups.iter().map(|(_, guard)| columns.on_input(*guard)).collect();
            let exact = place.exact && moved.is_empty();
            let mut recipe = Recipe { left: told(std::mem::take(&mut calls.left)), exact, ..Recipe::default() };
            if placed {
                let mut system = |attribute: i32, oid: Oid| {
                    let (number, column) = match scanned {
                        None => ((*plan.cast::<pg_sys::Scan>()).scanrelid as i32, attribute as i16),
                        Some((tid, _)) if oid == pg_sys::TIDOID => (INDEX, tid as i16 + 1),
                        Some((_, table)) => (INDEX, table as i16 + 1),
                    };
                    let v = pg_sys::makeVar(number, column, oid, -1, Oid::INVALID, 0).cast::<Node>();
                    let below = variable(OUTER, columns.of_input(v), v);
                    columns.of_scan(below) - 1
                };
                recipe.row_place = Some((
                    system(pg_sys::SelfItemPointerAttributeNumber, pg_sys::TIDOID),
                    system(pg_sys::TableOidAttributeNumber, pg_sys::OIDOID),
                ));
            }
            // A Result only hands on what it reads: its input does as well.
            let passes = tag == NodeTag::T_Result
                && (*plan.cast::<pg_sys::Result>()).resconstantqual.is_null()
                && (*plan).initPlan.is_null()
                && kept == 0
                && columns.input.iter().all(|e| is(*e, NodeTag::T_Var));
            let child = if passes {
                // Its columns by the numbers that its input has for them.
                let numbers: Vec<i16> = columns.input.iter().map(|e| (*e.cast::<pg_sys::Var>()).varattno).collect();
                let renumber = &mut |n: *mut Node| {
                    if is(n, NodeTag::T_Var) && (*n.cast::<pg_sys::Var>()).varno == OUTER {
                        let column = numbers[(*n.cast::<pg_sys::Var>()).varattno as usize - 1];
                        return Some(variable(OUTER, column as usize, n));
                    }
                    None
                };
                for column in &mut columns.scan {
                    *column = rebuilt(*column, &mut *renumber);
                }
                let guards: Vec<*mut Node> = guards.iter().map(|g| rebuilt(*g, &mut *renumber)).collect();
                let scan = self.node((*plan).lefttree, &columns, &taken, &guards, place, recipe)?;
                (*scan).scan.plan.plan_rows = (*plan).plan_rows;
                (*scan).scan.plan.total_cost = (*plan).total_cost;
                scan
            } else {
                let input = if columns.stored {
                    self.table_columns((*plan.cast::<pg_sys::Scan>()).scanrelid)
                } else {
                    columns.input.clone()
                };
                (*plan).targetlist = Columns::entries(&input);
                (*plan).qual = list(members::<Node>((*plan).qual).into_iter().take(if moved.is_empty() {
                    usize::MAX
                } else {
                    kept
                }));
                let rows = (*plan).plan_rows;
                let scan = self.node(plan, &columns, &taken, &guards, place, recipe)?;
                // Each filter that went up lets a third through, as PostgreSQL guesses for a comparison.
                (*plan).plan_rows = moved.iter().fold(rows, |rows, _| rows * 3.0);
                scan
            };
            let above = child.cast::<Plan>();
            (*above).targetlist = top[0].cast();
            (*above).qual = list(top[1..].iter().copied());
            if goes_back {
                (*child).flags |= pg_sys::CUSTOMPATH_SUPPORT_BACKWARD_SCAN;
            }
            // What waited for these calls comes next.
            self.cover_again(above, place)
        }
    }

    /// Puts a further node above one of ours whose list or filter still has calls.
    unsafe fn cover_again(&mut self, plan: *mut Plan, place: Place) -> Result<*mut Plan> {
        // SAFETY: a node of ours.
        unsafe {
            if calls::any((*plan).targetlist.cast()) || calls::any((*plan).qual.cast()) {
                // A filter further up may want another row before the first is given.
                if place.first_alone && calls::any((*plan).qual.cast()) {
                    let scan = plan.cast::<pg_sys::CustomScan>();
                    let mut recipe = Recipe::clone(&*Recipe::of(scan)?);
                    recipe.one_by_one.get_or_insert_with(|| MAY_STOP.to_owned());
                    recipe.put(scan)?;
                }
                self.cover(plan, place)
            } else {
                Ok(plan)
            }
        }
    }
}
