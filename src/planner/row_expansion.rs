//! Expands the whole-row argument of `predict_batch` into its columns before planning.
//!
//! PostgreSQL would form every row as one composite value, which the aggregate deforms again. That costs several times
//! as much as the scan. So the aggregate is replaced by its form that takes the columns and their names. Only a plain
//! row of a table, a view, a sub-select or a CTE is expanded. Any other argument stays as it is and is also correct.

use std::ffi::c_void;

use pgrx::pg_sys::{self, Node, NodeTag, Oid};

use crate::pg::catalog::roles;
use crate::pg::node::{self, is, members};
use crate::pg::text;
use crate::planner::{streaming, support, symbol};

/// The maximum number of columns passed as arguments. A function takes at most 100 arguments (FUNC_MAX_ARGS).
const MOST_COLUMNS: usize = 90;

/// The calls of this library in a query and its sub-queries.
#[derive(Default)]
struct FoundRow {
    queries: Vec<*mut pg_sys::Query>,
    aggregates: Vec<(*mut pg_sys::Query, *mut pg_sys::Aggref)>,
    /// The model arguments of all calls.
    models: Vec<*mut Node>,
}

/// Returns the arguments of a node that is a call of this library, and the aggregate node if it is an aggregate.
fn call(node: *mut Node) -> Option<(*mut pg_sys::List, Option<*mut pg_sys::Aggref>)> {
    // SAFETY: each node is cast to the type that its tag names.
    unsafe {
        match node::tag(node) {
            NodeTag::T_Aggref => {
                let aggregate = node.cast::<pg_sys::Aggref>();
                symbol::of_aggregate((*aggregate).aggfnoid).map(|_| ((*aggregate).args, Some(aggregate)))
            }
            NodeTag::T_FuncExpr => {
                let call = node.cast::<pg_sys::FuncExpr>();
                symbol::of_function((*call).funcid)
                    .and_then(|s| crate::results::call_form::CallForm::of_symbol(&s))
                    .map(|_| ((*call).args, None))
            }
            _ => None,
        }
    }
}

/// Whether a query has a call of this library. Runs for every query of the server, so it owns nothing and sets up
/// nothing.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn mentions(node: *mut Node, context: *mut c_void) -> bool {
    // SAFETY: walks a query tree; an error jumps over frames that own nothing.
    unsafe {
        match node::tag(node) {
            NodeTag::T_Invalid => false,
            NodeTag::T_Query => node::query_tree_walker(node.cast(), mentions, context, 0),
            _ => call(node).is_some() || node::expression_tree_walker(node, mentions, context),
        }
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn find(node: *mut Node, context: *mut c_void) -> bool {
    // SAFETY: `prepare` passes a pointer to its `FoundRow`, which outlives the walk; nothing else accesses it
    // meanwhile.
    unsafe {
        let found = context.cast::<FoundRow>();
        match node::tag(node) {
            NodeTag::T_Invalid => false,
            NodeTag::T_Query => {
                (*found).queries.push(node.cast());
                let ended =
                    pg_sys::ffi::pg_guard_ffi_boundary(|| node::query_tree_walker(node.cast(), find, context, 0));
                (*found).queries.pop();
                ended
            }
            _ => {
                if let Some((arguments, aggregate)) = call(node) {
                    let first = members::<Node>(arguments).first().copied();
                    let model = first.map(|n| {
                        if is(n, NodeTag::T_TargetEntry) { (*n.cast::<pg_sys::TargetEntry>()).expr.cast() } else { n }
                    });
                    (*found).models.extend(model);
                    if let (Some(aggregate), Some(query)) = (aggregate, (*found).queries.last()) {
                        (*found).aggregates.push((*query, aggregate));
                    }
                }
                pg_sys::ffi::pg_guard_ffi_boundary(|| node::expression_tree_walker(node, find, context))
            }
        }
    }
}

/// Prepares a query for planning. Returns the model references that its calls name as constants, or None if it has no
/// call of this library.
pub(crate) fn prepare(query: *mut pg_sys::Query) -> Option<Vec<String>> {
    let mut found = FoundRow::default();
    // SAFETY: the planner may change the query that it is given, and so may its hook.
    unsafe {
        let mentioned = pg_sys::ffi::pg_guard_ffi_boundary(|| mentions(query.cast(), std::ptr::null_mut()));
        if !mentioned {
            return None;
        }
        streaming::replace(query);
        find(query.cast(), (&raw mut found).cast());
        for (query, aggregate) in &found.aggregates {
            spread(&**query, *aggregate);
        }
    }
    let references = found.models.into_iter().filter_map(|m| constant(m));
    let mut references: Vec<String> = references.collect();
    references.sort_unstable();
    references.dedup();
    Some(references)
}

/// Returns a model reference that is a constant.
pub(crate) fn constant(node: *const Node) -> Option<String> {
    if !is(node, NodeTag::T_Const) {
        return None;
    }
    // SAFETY: a Const by its tag; the model argument of this library's functions is of type text.
    unsafe {
        let c = &*node.cast::<pg_sys::Const>();
        let is_text = !c.constisnull && c.consttype == pg_sys::TEXTOID;
        is_text.then(|| text::text(c.constvalue).ok().map(std::borrow::Cow::into_owned)).flatten()
    }
}

/// Replaces `predict_batch` of a whole row by its form that takes the columns. Returns None, and changes nothing, for any
/// other aggregate.
pub(crate) unsafe fn spread(query: &pg_sys::Query, aggregate: *mut pg_sys::Aggref) -> Option<()> {
    // SAFETY: each node is cast to the type that its tag names; new nodes are made in the planner's context.
    unsafe {
        let symbol = symbol::of_aggregate((*aggregate).aggfnoid)?;
        let plain = &*symbol == "pg_predict_batch_transition"
            && (*aggregate).agglevelsup == 0
            && (*aggregate).aggdistinct.is_null()
            && !(*aggregate).aggvariadic
            && roles::may_execute((*aggregate).aggfnoid);
        if !plain {
            return None;
        }
        let entries = members::<pg_sys::TargetEntry>((*aggregate).args);
        let (given, extra): (Vec<_>, Vec<_>) = entries.into_iter().partition(|e| !(**e).resjunk);
        let [model, row] = given[..] else { return None };
        // ORDER BY in the aggregate compares the row, so the row must stay one value.
        if (*row).ressortgroupref != 0 {
            return None;
        }
        let (names, fields) = support::columns_of_row(query, (*row).expr.cast())?;
        if fields.len() > MOST_COLUMNS {
            return None;
        }
        let types = [pg_sys::TEXTOID, pg_sys::TEXTARRAYOID, pg_sys::ANYOID];
        let columns = support::function(c"predict_batch_columns", &types);
        if columns == Oid::INVALID {
            return None;
        }
        let names = support::text_array(Some(&names));
        let mut values = vec![(*model).expr, names.cast()];
        values.extend(fields.iter().map(|f| f.cast()));
        let types = values.iter().map(|v| pg_sys::exprType(v.cast()));
        (*aggregate).aggargtypes = types.fold(std::ptr::null_mut(), |list, oid| pg_sys::lappend_oid(list, oid));
        let mut arguments = Vec::with_capacity(values.len() + extra.len());
        for value in values {
            let entry = if arguments.is_empty() {
                model
            } else {
                pg_sys::makeTargetEntry(value, 0, std::ptr::null_mut(), false)
            };
            arguments.push(entry);
        }
        arguments.extend(extra);
        for (entry, number) in arguments.iter().zip(1_i16..) {
            (**entry).resno = number;
        }
        (*aggregate).args = node::list(arguments);
        (*aggregate).aggfnoid = columns;
        Some(())
    }
}
