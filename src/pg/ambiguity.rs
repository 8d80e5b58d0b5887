//! Detects an argument that resolved to a column although the user may have meant a whole row.
//!
//! SQL prefers a column to an item in FROM of the same name.

use pgrx::pg_sys::{self, Node, NodeTag, RangeTblEntry};

use crate::error::Error;
use crate::pg::node::{is, members};
use crate::pg::{text, tuple};

/// Adds a hint to a binding error if `row`, the only argument of the call, may have been meant as a whole row.
pub(crate) unsafe fn explained(error: Error, row: *mut Node, state: *const pg_sys::EState) -> Error {
    if !matches!(error, Error::Arguments { .. } | Error::WrongType { .. } | Error::MissingColumns { .. }) {
        return error;
    }
    // SAFETY: the caller guarantees that the argument belongs to the plan of this state.
    match unsafe { column_named_like_row(row, state) } {
        Some(column) => Error::ColumnNotRow { column, error: Box::new(error) },
        None => error,
    }
}

/// Returns the column name of an expression if an item in FROM has the same name.
unsafe fn column_named_like_row(expression: *mut Node, state: *const pg_sys::EState) -> Option<String> {
    if !is(expression, NodeTag::T_Var) || state.is_null() {
        return None;
    }
    // SAFETY: a Var by its tag; entries of the range table keep the names that the query gave them.
    unsafe {
        let column = &*expression.cast::<pg_sys::Var>();
        let items = members::<RangeTblEntry>((*state).es_range_table);
        // `varnosyn` and `varattnosyn` refer to the range table of the query; the planner may have changed `varno`.
        let own = columns(*items.get((column.varnosyn as usize).checked_sub(1)?)?);
        let name = own.into_iter().nth(tuple::place(column.varattnosyn)?)?;
        if items.iter().any(|item| alias(*item) == name) {
            return Some(name);
        }
        // After the planner pulled up a subquery, the Var may refer to a column under the name that it has inside the
        // subquery.
        items.into_iter().filter(|item| (**item).rtekind == pg_sys::RTEKind::RTE_SUBQUERY).find_map(|item| {
            let (alias, columns) = (alias(item), columns(item));
            (columns.contains(&alias) && !columns.contains(&name)).then_some(alias)
        })
    }
}

unsafe fn alias(item: *const RangeTblEntry) -> String {
    // SAFETY: every entry has an alias name.
    text::copied(unsafe { (*(*item).eref).aliasname })
}

unsafe fn columns(item: *const RangeTblEntry) -> Vec<String> {
    // SAFETY: every entry has a list of column names, which are strings.
    unsafe {
        members::<pg_sys::String>((*(*item).eref).colnames).into_iter().map(|n| text::copied((*n).sval)).collect()
    }
}
