//! Builds a BatchPredict node above a plan node.

use pgrx::pg_sys::{self, Node, NodeTag, Oid, Plan};

use crate::error::Result;
use crate::pg::node::{self, is, list, members, rebuilt};
use crate::pg::tuple;
use crate::planner::calls::{self, Calls, FoundCall};
use crate::planner::node_spec::{NodeSpec, is_ours};
use crate::planner::rewrite::node_columns::{Columns, INDEX, OUTER, Taken, lift_join_filter, told, variable};
use crate::planner::rewrite::plan_properties::{MAY_STOP, reads_table};
use crate::planner::rewrite::{CallPlace, Rewrite};
use crate::results::call_form::CallForm;

impl Rewrite {
    /// Returns the input columns that a node reads, from 1. None if it may read all of them.
    pub(crate) unsafe fn needed(&self, plan: *mut Plan) -> Option<Vec<usize>> {
        // SAFETY: each node is cast to the type that its tag names; the arrays have the lengths stored next to them.
        unsafe {
            let mut all: Vec<usize> = Vec::new();
            let mut add = |keys: *const i16, n: i32| {
                (0..usize::try_from(n).unwrap_or(0)).for_each(|i| all.push(tuple::counted(*keys.add(i))));
            };
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
                    all.push(tuple::counted((*n.cast::<pg_sys::Var>()).varattno));
                }
                false
            };
            node::contains((*plan).targetlist.cast(), &mut collect);
            node::contains((*plan).qual.cast(), &mut collect);
            Some(all)
        }
    }

    /// Whether expressions read only columns of the scanned table as they are stored.
    pub(crate) unsafe fn stored(&self, plan: *mut Plan, expressions: &[*mut Node]) -> bool {
        // SAFETY: a scan of a table refers to it by its range table index; the planner has opened and locked the table.
        unsafe {
            if !reads_table((*plan).type_) {
                return false;
            }
            let number = (*plan.cast::<pg_sys::Scan>()).scanrelid;
            let odd = &mut |n: *mut Node| {
                is(n, NodeTag::T_Var) && {
                    let v = &*n.cast::<pg_sys::Var>();
                    v.varno != number.cast_signed() || v.varattno <= 0
                }
            };
            if expressions.iter().any(|e| node::contains(*e, odd)) {
                return false;
            }
            !self.table_columns(number).is_empty()
        }
    }

    /// Returns the columns of a table as Vars of its scan. Empty if a column was dropped.
    pub(crate) unsafe fn table_columns(&self, number: pg_sys::Index) -> Vec<*mut Node> {
        // SAFETY: as for `stored`.
        unsafe {
            let entry = members::<pg_sys::RangeTblEntry>(self.range_table)[number as usize - 1];
            if (*entry).rtekind != pg_sys::RTEKind::RTE_RELATION {
                return Vec::new();
            }
            let relation = pg_sys::table_open((*entry).relid, pg_sys::NoLock.cast_signed());
            let desc = (*relation).rd_att;
            let mut columns = Vec::new();
            for i in 0..tuple::count(desc) {
                let a = &*crate::rows::composite::attribute(desc, i);
                if a.attisdropped {
                    columns.clear();
                    break;
                }
                let (oid, typmod, collation) = (a.atttypid, a.atttypmod, a.attcollation);
                columns.push(
                    pg_sys::makeVar(number.cast_signed(), tuple::number(i + 1), oid, typmod, collation, 0).cast(),
                );
            }
            pg_sys::table_close(relation, pg_sys::NoLock.cast_signed());
            columns
        }
    }

    /// Puts a BatchPredict node above a node that evaluates calls.
    pub(crate) unsafe fn cover(&mut self, plan: *mut Plan, place: CallPlace) -> Result<*mut Plan> {
        // SAFETY: each node is cast to the type that its tag names.
        unsafe {
            let tag = (*plan).type_;
            // A Result without input returns one row, so there is nothing to batch. An index-only scan does not return
            // the ctid that WHERE CURRENT OF needs.
            let alone = tag == NodeTag::T_Result && (*plan).lefttree.is_null();
            // It never finds a row through `predictions()`.
            let is_column = &mut |n: *mut Node| calls::form(n) == Some(CallForm::Column);
            let unplaced = self.cursor
                && !self.has_row_marks
                && tag == NodeTag::T_IndexOnlyScan
                && !node::contains((*plan).targetlist.cast(), is_column);
            // A run condition refers to target list columns by number, and ends the evaluation of the target list.
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
            // The first filter with calls that can be batched moves to the new node, with all filters after it.
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
                // A call in the target list or in a later filter is evaluated only for rows that pass. It joins this
                // node only if the same call is already made for every row. Then no additional row is run, and no
                // additional error can occur.
                let made = |f: &FoundCall| {
                    calls.found.iter().any(|c| c.guard.is_null() && pg_sys::equal(c.call.cast(), f.call.cast()))
                };
                let with: Vec<FoundCall> = rest.found.into_iter().filter(|f| made(f)).collect();
                calls.found.extend(with.into_iter().map(|f| FoundCall { guard: std::ptr::null_mut(), ..f }));
            }
            calls.left.extend(rest.left);
            if calls.found.is_empty() {
                return Ok(plan);
            }
            self.build(plan, moved, kept, calls, place)
        }
    }

    pub(crate) unsafe fn build(
        &mut self,
        plan: *mut Plan,
        moved: Vec<*mut Node>,
        kept: usize,
        mut calls: Calls,
        place: CallPlace,
    ) -> Result<*mut Plan> {
        // SAFETY: each node is cast to the type that its tag names.
        unsafe {
            let tag = (*plan).type_;
            let goes_back = self.cursor && pg_sys::ExecSupportsBackwardScan(plan);
            let mut taken = Taken::new(&calls.found);
            let scanned = if is_ours(plan) { NodeSpec::of(plan.cast())?.row_place } else { None };
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
            let mut recipe = NodeSpec { left: told(std::mem::take(&mut calls.left)), exact, ..NodeSpec::default() };
            if placed {
                let mut hidden = |system: i32, oid: Oid| {
                    let system = i16::try_from(system).unwrap_or(0);
                    let (number, column) = match scanned {
                        None => ((*plan.cast::<pg_sys::Scan>()).scanrelid.cast_signed(), system),
                        Some((tid, _)) if oid == pg_sys::TIDOID => (INDEX, tuple::number(tid + 1)),
                        Some((_, table)) => (INDEX, tuple::number(table + 1)),
                    };
                    let v = pg_sys::makeVar(number, column, oid, -1, Oid::INVALID, 0).cast::<Node>();
                    let below = variable(OUTER, columns.of_input(v), v);
                    columns.of_scan(below) - 1
                };
                recipe.row_place = Some((
                    hidden(pg_sys::SelfItemPointerAttributeNumber, pg_sys::TIDOID),
                    hidden(pg_sys::TableOidAttributeNumber, pg_sys::OIDOID),
                ));
            }
            // A Result that only passes its input on is dropped: the new node reads the input of the Result.
            let passes = tag == NodeTag::T_Result
                && (*plan.cast::<pg_sys::Result>()).resconstantqual.is_null()
                && (*plan).initPlan.is_null()
                && kept == 0
                && columns.input.iter().all(|e| is(*e, NodeTag::T_Var));
            let child = if passes {
                // Replaces the column numbers of the Result by those of its input.
                let numbers: Vec<i16> = columns.input.iter().map(|e| (*e.cast::<pg_sys::Var>()).varattno).collect();
                let renumber = &mut |n: *mut Node| {
                    if is(n, NodeTag::T_Var) && (*n.cast::<pg_sys::Var>()).varno == OUTER {
                        let column = *numbers.get(tuple::place((*n.cast::<pg_sys::Var>()).varattno)?)?;
                        return Some(variable(OUTER, tuple::counted(column), n));
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
                // Each filter that moved up is assumed to pass a third of the rows, as PostgreSQL assumes for an
                // inequality.
                (*plan).plan_rows = moved.iter().fold(rows, |rows, _| rows * 3.0);
                scan
            };
            let above = child.cast::<Plan>();
            (*above).targetlist = top[0].cast();
            (*above).qual = list(top[1..].iter().copied());
            if goes_back {
                (*child).flags |= pg_sys::CUSTOMPATH_SUPPORT_BACKWARD_SCAN;
            }
            // Calls that depend on these calls go into a further node.
            self.cover_again(above, place)
        }
    }

    /// Merges the scan of a streamed `predictions()` into the node that returns its rows, which then evaluates the target
    /// list and the filter of the scan. None if that is not possible.
    pub(crate) unsafe fn merged(&self, scan: *mut pg_sys::SubqueryScan) -> Result<Option<*mut Plan>> {
        // SAFETY: each node is cast to the type that its tag names.
        unsafe {
            let (plan, child) = (&(*scan).scan.plan, (*scan).subplan);
            let alone = !self.cursor && !self.has_row_marks && plan.initPlan.is_null();
            if !alone || !is_ours(child) || !(*child).qual.is_null() || !NodeSpec::of(child.cast())?.reads_ahead {
                return Ok(None);
            }
            let item = (*scan).scan.scanrelid.cast_signed();
            let entries = members::<pg_sys::TargetEntry>((*child).targetlist);
            // The entry that a Var of the item refers to.
            let entry = |n: *mut Node| {
                let v = &*n.cast::<pg_sys::Var>();
                tuple::place(v.varattno).and_then(|i| entries.get(i)).filter(|_| v.varno == item)
            };
            let odd = &mut |n: *mut Node| {
                calls::form(n).is_some() || is(n, NodeTag::T_SubPlan) || (is(n, NodeTag::T_Var) && entry(n).is_none())
            };
            if node::contains(plan.targetlist.cast(), &mut *odd) || node::contains(plan.qual.cast(), odd) {
                return Ok(None);
            }
            let change = &mut |n: *mut Node| {
                let entry = if is(n, NodeTag::T_Var) { entry(n)? } else { return None };
                Some(pg_sys::copyObjectImpl((**entry).expr.cast()).cast::<Node>())
            };
            let targets = rebuilt(plan.targetlist, &mut *change);
            (*child).qual = rebuilt(plan.qual, change);
            (*child).targetlist = targets;
            (*child).plan_rows = plan.plan_rows;
            (*child).plan_width = plan.plan_width;
            (*child).total_cost = plan.total_cost;
            (*child).extParam = pg_sys::bms_copy(plan.extParam);
            (*child).allParam = pg_sys::bms_copy(plan.allParam);
            Ok(Some(child))
        }
    }

    /// Puts a further node above a BatchPredict node whose target list or filter still has calls.
    pub(crate) unsafe fn cover_again(&mut self, plan: *mut Plan, place: CallPlace) -> Result<*mut Plan> {
        // SAFETY: a BatchPredict node.
        unsafe {
            if calls::any((*plan).targetlist.cast()) || calls::any((*plan).qual.cast()) {
                // The filter of the further node may reject the first row, so another row may be read before one is
                // returned.
                if place.first_alone && calls::any((*plan).qual.cast()) && !NodeSpec::of(plan.cast())?.reads_ahead {
                    let scan = plan.cast::<pg_sys::CustomScan>();
                    let mut recipe = NodeSpec::clone(&*NodeSpec::of(scan)?);
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
