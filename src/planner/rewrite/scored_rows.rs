//! Scores the rows of `predict_batch` below an aggregation of many small groups, so that rows of different groups share a
//! batch.
//!
//! Sorted groups end one after another. Without this, each of them would be a batch of its own.

use pgrx::pg_sys::{self, Node, NodeTag, Oid, Plan};

use crate::pg::catalog::roles;
use crate::pg::node::{self, is, list, members};
use crate::pg::{text, tuple};
use crate::planner::rewrite::node_columns::{OUTER, constant_text};
use crate::planner::{calls, support, symbol};

/// The most rows of a group, on average, for which sharing pays: the batches of larger groups are large enough, and the
/// aggregate gathers a row faster than a node does. As measured.
const MOST_ROWS: f64 = 256.0;

/// An aggregate, and the call that scores a row for it.
pub(super) struct ScoredAggregate {
    pub(super) aggregate: *mut pg_sys::Aggref,
    pub(super) call: *mut pg_sys::FuncExpr,
}

/// Returns the calls of `predict_batch` of a plan node whose rows may be scored below it.
pub(super) unsafe fn scored(plan: *mut Plan) -> Vec<ScoredAggregate> {
    let mut found: Vec<*mut pg_sys::Aggref> = Vec::new();
    // SAFETY: each node is cast to the type that its tag names.
    unsafe {
        if !is(plan.cast(), NodeTag::T_Agg) {
            return Vec::new();
        }
        let agg = &*plan.cast::<pg_sys::Agg>();
        let rows_of_group = (*agg.plan.lefttree).plan_rows / agg.plan.plan_rows.max(1.0);
        let is_grouped = agg.aggstrategy == pg_sys::AggStrategy::AGG_SORTED
            && agg.aggsplit == pg_sys::AggSplit::AGGSPLIT_SIMPLE
            && agg.numCols > 0
            && agg.groupingSets.is_null()
            && agg.chain.is_null();
        if !is_grouped || rows_of_group > MOST_ROWS {
            return Vec::new();
        }
        let mut look = |n: *mut Node| {
            if is(n, NodeTag::T_Aggref) {
                found.push(n.cast());
            }
            false
        };
        node::contains(agg.plan.targetlist.cast(), &mut look);
        node::contains(agg.plan.qual.cast(), &mut look);
        let made = |aggregate: *mut pg_sys::Aggref| call(&*aggregate).map(|call| ScoredAggregate { aggregate, call });
        found.into_iter().filter_map(made).collect()
    }
}

/// Returns the call that scores a row for an aggregate. None if it must stay as it is.
unsafe fn call(aggregate: &pg_sys::Aggref) -> Option<*mut pg_sys::FuncExpr> {
    // SAFETY: as above; new nodes are made in the planner's context.
    unsafe {
        let symbol = symbol::of_aggregate(aggregate.aggfnoid)?;
        let is_spread = match &*symbol {
            "pg_predict_batch_transition" => false,
            "pg_predict_batch_transition_columns" => true,
            _ => return None,
        };
        let is_plain = aggregate.aggorder.is_null() && aggregate.aggdistinct.is_null() && aggregate.aggfilter.is_null();
        let arguments = members::<pg_sys::TargetEntry>(aggregate.args);
        let mut arguments = arguments.into_iter().map(|entry| (*entry).expr.cast::<Node>());
        let model = arguments.next()?;
        let has_subplan = node::contains(aggregate.args.cast(), &mut |n| is(n, NodeTag::T_SubPlan));
        if !is_plain
            || has_subplan
            || !is(model, NodeTag::T_Const)
            || constant_text(model).is_none()
            || calls::any(aggregate.args.cast())
            || calls::is_volatile(aggregate.args.cast())
            || !roles::may_execute(aggregate.aggfnoid)
        {
            return None;
        }
        let names = if is_spread { Some(arguments.next()?) } else { None };
        let mut row: Vec<*mut Node> = arguments.collect();
        // The first row must tell the columns of all.
        if row.is_empty() || row.iter().any(|value| pg_sys::exprType(*value) == pg_sys::RECORDOID) {
            return None;
        }
        if let Some(names) = names {
            if !is(names, NodeTag::T_Const) || (*names.cast::<pg_sys::Const>()).constisnull {
                return None;
            }
            let names = text::array((*names.cast::<pg_sys::Const>()).constvalue).ok()?;
            row = vec![support::named_row(&names, row)];
        }
        let types = [pg_sys::TEXTOID, pg_sys::OIDOID, pg_sys::INTERNALOID, pg_sys::ANYOID];
        let function = support::function(c"scored_row", &types);
        if function == Oid::INVALID {
            return None;
        }
        let by_value = |oid, value| pg_sys::makeConst(oid, -1, Oid::INVALID, 4, value, false, true).cast::<Node>();
        let mut all = vec![
            model,
            by_value(pg_sys::OIDOID, aggregate.aggfnoid.into()),
            pg_sys::makeNullConst(pg_sys::INTERNALOID, -1, Oid::INVALID).cast(),
        ];
        all.extend(row);
        let form = pg_sys::CoercionForm::COERCE_EXPLICIT_CALL;
        let call =
            pg_sys::makeFuncExpr(function, pg_sys::INT8OID, list(all), Oid::INVALID, aggregate.inputcollid, form);
        (*call).funcvariadic = aggregate.aggvariadic;
        Some(call)
    }
}

/// Returns the aggregate of scored rows that replaces an aggregate. `column` is the column of the input with their numbers.
pub(super) unsafe fn replaced(aggregate: *mut pg_sys::Aggref, column: usize) -> *mut Node {
    // SAFETY: copies a node, and makes others in the planner's context.
    unsafe {
        let new = pg_sys::copyObjectImpl(aggregate.cast()).cast::<pg_sys::Aggref>();
        let number = pg_sys::makeVar(OUTER, tuple::number(column), pg_sys::INT8OID, -1, Oid::INVALID, 0);
        let entry = pg_sys::makeTargetEntry(number.cast(), 1, std::ptr::null_mut(), false);
        (*new).aggfnoid = support::function(c"batch_of_scored", &[pg_sys::INT8OID]);
        (*new).args = list([entry]);
        (*new).aggargtypes = pg_sys::lappend_oid(std::ptr::null_mut(), pg_sys::INT8OID);
        (*new).aggvariadic = false;
        new.cast()
    }
}
