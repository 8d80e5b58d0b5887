//! Assigns the columns of a BatchPredict node and groups the calls that it evaluates.

use std::collections::HashMap;

use pgrx::pg_sys::{self, Node, NodeTag};

use crate::pg::node::{self, is, list, members, rebuilt};
use crate::pg::tuple;
use crate::planner::calls::{self, FoundCall};
use crate::planner::node_spec::Left;
use crate::results::call_form::CallForm;

pub(crate) const OUTER: i32 = pg_sys::OUTER_VAR;

pub(crate) const INDEX: i32 = pg_sys::INDEX_VAR;

pub(crate) unsafe fn variable(number: i32, column: usize, like: *const Node) -> *mut Node {
    // SAFETY: reads the type of an expression; a Var by its tag.
    unsafe {
        let variable = pg_sys::makeVar(
            number,
            tuple::number(column),
            pg_sys::exprType(like),
            pg_sys::exprTypmod(like),
            pg_sys::exprCollation(like),
            0,
        );
        // Keeps the column of the query that the Var refers to, because error messages name it.
        if is(like, NodeTag::T_Var) {
            let like = &*like.cast::<pg_sys::Var>();
            (*variable).varnosyn = like.varnosyn;
            (*variable).varattnosyn = like.varattnosyn;
        }
        variable.cast()
    }
}

/// The columns of a node being built: those that its input returns, and those that its own expressions read.
pub(crate) struct Columns {
    /// The target list of the input; empty if the input keeps its own.
    pub(crate) input: Vec<*mut Node>,
    /// The input returns all columns of a table in their order. `input` is not used then.
    pub(crate) stored: bool,
    pub(crate) scan: Vec<*mut Node>,
    /// The input evaluates aggregates and window functions.
    pub(crate) keeps_aggregates: bool,
}

impl Columns {
    pub(crate) fn is_leaf(&self, n: *const Node) -> bool {
        match node::tag(n) {
            NodeTag::T_Var => true,
            NodeTag::T_Aggref | NodeTag::T_WindowFunc | NodeTag::T_GroupingFunc => self.keeps_aggregates,
            _ => false,
        }
    }

    /// Returns the number of the input column that holds a value, from 1.
    pub(crate) unsafe fn of_input(&mut self, leaf: *mut Node) -> usize {
        // SAFETY: a leaf is an expression; a Var by its tag.
        unsafe {
            if self.stored {
                return tuple::counted((*leaf.cast::<pg_sys::Var>()).varattno);
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

    /// Returns an expression as the node evaluates it on a row of its input.
    pub(crate) unsafe fn on_input<T>(&mut self, expression: *mut T) -> *mut T {
        rebuilt(expression, &mut |n| {
            // SAFETY: a leaf is an expression.
            self.is_leaf(n).then(|| unsafe { variable(OUTER, self.of_input(n), n) })
        })
    }

    /// Returns the number of the scan column that holds an expression, from 1.
    pub(crate) unsafe fn of_scan(&mut self, expression: *mut Node) -> usize {
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

    pub(crate) fn entries(expressions: &[*mut Node]) -> *mut pg_sys::List {
        list(expressions.iter().enumerate().map(|(i, e)| {
            // SAFETY: makes a target entry for an expression.
            unsafe { pg_sys::makeTargetEntry(e.cast(), tuple::number(i + 1), std::ptr::null_mut(), false) }
        }))
    }
}

/// Whether two conditions are equal. A null condition is always true.
unsafe fn same_condition(a: *mut Node, b: *mut Node) -> bool {
    // SAFETY: compares two expressions.
    unsafe { a.is_null() == b.is_null() && (a.is_null() || pg_sys::equal(a.cast(), b.cast())) }
}

/// The calls that one node evaluates. Equal calls are evaluated once.
///
/// Calls share a run only under the same condition. A call under another condition may fail although PostgreSQL would
/// never evaluate it. It may even fail before the first row, for example if its output does not exist.
pub(crate) struct Taken {
    /// Each distinct call, its form, and its scan column. The column is `usize::MAX` until it is assigned.
    pub(crate) different: Vec<(*mut pg_sys::FuncExpr, CallForm, usize)>,
    /// The position in `different` of each call, by the address of its node.
    pub(crate) of: HashMap<usize, usize>,
    /// The groups of calls that share their runs, as positions in `different`, and their guards.
    pub(crate) groups: Vec<(Vec<usize>, *mut Node)>,
}

/// Whether the same runs serve two calls: the models are equal except for the output, and the arguments are equal.
/// Columns of a definition list share runs only with columns of the same list. A scored row has the outputs that its own
/// model names, and shares its run with no other.
unsafe fn share(a: *const pg_sys::FuncExpr, b: *const pg_sys::FuncExpr) -> bool {
    // SAFETY: two calls; a Const by its tag.
    unsafe {
        let (x, y) = (members::<Node>((*a).args), members::<Node>((*b).args));
        let before = |call: *const pg_sys::FuncExpr| calls::form(call.cast()).map_or(1, CallForm::before_row);
        let before_row = before(a);
        let is_row = calls::form(a.cast()) == Some(CallForm::Row);
        if is_row && !pg_sys::equal(x[0].cast(), y[0].cast()) {
            return false;
        }
        if before(b) != before_row || (before_row > 1 && !pg_sys::equal(x[1].cast(), y[1].cast())) {
            return false;
        }
        let model = |n: *mut Node| {
            is(n, NodeTag::T_Const).then(|| constant_text(n)).flatten().map(|t| match t.split_once('/') {
                Some((model, _)) => model.to_owned(),
                None => t,
            })
        };
        x.len() == y.len()
            && (*a).funcvariadic == (*b).funcvariadic
            && (pg_sys::equal(x[0].cast(), y[0].cast()) || (model(x[0]).is_some() && model(x[0]) == model(y[0])))
            && x.iter().zip(&y).skip(before_row).all(|(x, y)| pg_sys::equal((*x).cast(), (*y).cast()))
    }
}

/// Returns the text of a constant that is not NULL.
pub(crate) unsafe fn constant_text(constant: *const Node) -> Option<String> {
    // SAFETY: the caller checked the tag.
    let constant = unsafe { &*constant.cast::<pg_sys::Const>() };
    if constant.constisnull || constant.consttype != pg_sys::TEXTOID {
        return None;
    }
    crate::pg::text::text(constant.constvalue).ok().map(|t| t.into_owned())
}

impl Taken {
    pub(crate) unsafe fn new(found: &[FoundCall]) -> Self {
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

    pub(crate) fn is_taken(&self, n: *const Node) -> Option<usize> {
        self.of.get(&(n as usize)).copied()
    }
}

pub(crate) fn told(left: Vec<calls::Left>) -> Vec<Left> {
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

/// Moves the join filters of an inner join that have calls, and those after them, to the filter of its result. The
/// result of an inner join stays the same.
pub(crate) unsafe fn lift_join_filter(join: *mut pg_sys::Join) {
    // SAFETY: a join by its tag.
    unsafe {
        let quals = members::<Node>((*join).joinqual);
        let Some(first) = quals.iter().position(|q| calls::any(*q)) else { return };
        if (*join).jointype != pg_sys::JoinType::JOIN_INNER {
            return;
        }
        // With a unique inner side, the join stops at the first row that passes its whole filter. In a hash join, the
        // hash keys alone make the row unique, so no second row reaches the filter.
        if (*join).inner_unique && (*join).plan.type_ != NodeTag::T_HashJoin {
            return;
        }
        (*join).joinqual = list(quals[..first].iter().copied());
        let after = members::<Node>((*join).plan.qual);
        (*join).plan.qual = list(quals[first..].iter().copied().chain(after));
        // The first match may fail the moved filters, so the join must not stop at it.
        (*join).inner_unique = false;
    }
}
