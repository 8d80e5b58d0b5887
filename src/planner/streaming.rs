//! Replaces `predictions((SELECT predict_batch(model, row) FROM ..)) AS p(..)` in FROM by a sub-select that calls the
//! model for each row.
//!
//! The sub-select has the FROM and WHERE of the original one. Each column of the definition list becomes a call of
//! `prediction_column`, and the rewrite of the plan puts these calls into a BatchPredict node. One more call returns no
//! column. It runs the model even if the query reads no column, because the aggregate would do so, too.
//!
//! The sub-select has the clause `OFFSET 0`. So the planner neither merges it into the query nor moves conditions of
//! the query into it: the model is run for the same rows as by the aggregate. Only a LIMIT or a cursor stops earlier.
//!
//! A query for which this would not give the same rows stays as it is.

use std::ffi::c_void;

use pgrx::pg_sys::{self, Node, NodeTag, Oid};

use crate::pg::catalog::roles;
use crate::pg::node::{self, is, length, list, members};
use crate::pg::{text, tuple};
use crate::planner::{calls, support, symbol};
use crate::results::definition_list::{DefinedColumn, DefinitionList};
use crate::results::result_rows;
use crate::rows::composite::is_composite;
use crate::rows::stored_type;

/// Replaces every such item of a query and of the queries in it.
pub(crate) fn replace(query: *mut pg_sys::Query) {
    // SAFETY: the planner may change the query that it is given, and so may its hook.
    unsafe { visit(query.cast(), std::ptr::null_mut()) };
}

/// Replaces the item of a query that calls `predictions()` like this. Returns whether there is one.
///
/// PostgreSQL simplifies the items in FROM before it merges sub-selects into the query (`preprocess_function_rtes`). At
/// that time it may also replace the item of an inlined function by a sub-select.
pub(crate) unsafe fn replace_item(query: *mut pg_sys::Query, call: *mut pg_sys::FuncExpr) -> bool {
    // SAFETY: the query that is being planned; each node is cast to the type that its tag names.
    unsafe {
        let calls = |item: &pg_sys::RangeTblEntry| {
            item.rtekind == pg_sys::RTEKind::RTE_FUNCTION
                && members::<pg_sys::RangeTblFunction>(item.functions)
                    .iter()
                    .any(|f| pg_sys::equal((**f).funcexpr.cast(), call.cast()))
        };
        let items = members::<pg_sys::RangeTblEntry>((*query).rtable);
        items.into_iter().any(|item| calls(&*item) && replace_entry(item))
    }
}

/// Replaces an entry of the range table, if it can be replaced. Returns whether it was.
unsafe fn replace_entry(item: *mut pg_sys::RangeTblEntry) -> bool {
    // SAFETY: an entry of the query that is being planned.
    unsafe {
        let Some(select) = streamed(&*item) else { return false };
        (*item).rtekind = pg_sys::RTEKind::RTE_SUBQUERY;
        (*item).subquery = select;
        (*item).functions = std::ptr::null_mut();
        true
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn visit(node: *mut Node, context: *mut c_void) -> bool {
    // SAFETY: walks a query tree; each node is cast to the type that its tag names.
    unsafe {
        match node::tag(node) {
            NodeTag::T_Invalid => false,
            NodeTag::T_Query => {
                let query = node.cast::<pg_sys::Query>();
                for item in members::<pg_sys::RangeTblEntry>((*query).rtable) {
                    replace_entry(item);
                }
                pg_sys::ffi::pg_guard_ffi_boundary(|| node::query_tree_walker(query, visit, context, 0))
            }
            _ => pg_sys::ffi::pg_guard_ffi_boundary(|| node::expression_tree_walker(node, visit, context)),
        }
    }
}

/// The parts of an item in FROM that can be replaced.
struct Parts {
    /// The sub-select.
    select: *mut pg_sys::Query,
    aggregate: *mut pg_sys::Aggref,
    model: *mut Node,
    row: Vec<*mut Node>,
    predictions: Oid,
}

/// Returns the sub-select that replaces an item in FROM. None if the item stays as it is.
unsafe fn streamed(item: &pg_sys::RangeTblEntry) -> Option<*mut pg_sys::Query> {
    // SAFETY: each node is cast to the type that its tag names; new nodes are made in the planner's context.
    unsafe {
        if item.rtekind != pg_sys::RTEKind::RTE_FUNCTION || item.funcordinality {
            return None;
        }
        let [function] = members::<pg_sys::RangeTblFunction>(item.functions)[..] else { return None };
        let function = &*function;
        if function.funccolnames.is_null() {
            return None;
        }
        let parts = parts(function.funcexpr)?;
        let target = support::function(
            c"prediction_column",
            &[pg_sys::TEXTOID, pg_sys::TEXTOID, pg_sys::INT4OID, pg_sys::ANYOID, pg_sys::ANYOID],
        );
        let allowed = roles::may_execute((*parts.aggregate).aggfnoid) && roles::may_execute(parts.predictions);
        if target == Oid::INVALID || !allowed {
            return None;
        }
        let (definition, carried, row) = defined(function, &parts)?;
        let of_row = definition.of_row.first().copied();
        let definition = definition.json().ok()?;
        let variadic = (*parts.aggregate).aggvariadic;
        let call = |number: usize, value: *mut Node, oid: Oid, collation: Oid| {
            let mut arguments = vec![
                pg_sys::copyObjectImpl(parts.model.cast()).cast::<Node>(),
                constant(pg_sys::TEXTOID, text::datum(&definition)),
                constant(pg_sys::INT4OID, pg_sys::Datum::from(number)),
                value,
            ];
            arguments.extend(row.iter().map(|r| pg_sys::copyObjectImpl((*r).cast()).cast::<Node>()));
            let (input, form) = ((*parts.aggregate).inputcollid, pg_sys::CoercionForm::COERCE_EXPLICIT_CALL);
            let new = pg_sys::makeFuncExpr(target, oid, list(arguments), collation, input, form);
            (*new).funcvariadic = variadic;
            new.cast::<Node>()
        };
        let mut first = (constant_null(pg_sys::BOOLOID), pg_sys::BOOLOID, Oid::INVALID);
        if let Some(i) = of_row {
            let (oid, _, collation) = column(function, i);
            let plain = is(carried[i], NodeTag::T_Var);
            let value = if plain { pg_sys::copyObjectImpl(carried[i].cast()).cast() } else { constant_null(oid) };
            first = (value, oid, collation);
        }
        let mut entries = Vec::new();
        let names = members::<pg_sys::String>(function.funccolnames);
        for (i, value) in carried.into_iter().enumerate() {
            let (oid, typmod, collation) = column(function, i);
            let mut value = call(i + 1, value, oid, collation);
            if typmod != -1 {
                let form = pg_sys::CoercionForm::COERCE_IMPLICIT_CAST;
                value = pg_sys::makeRelabelType(value.cast(), oid, typmod, collation, form).cast();
            }
            let name = pg_sys::pstrdup((*names[i]).sval);
            entries.push(pg_sys::makeTargetEntry(value.cast(), tuple::number(i + 1), name, false));
        }
        let hidden = |expression: *mut Node, number: usize| {
            pg_sys::makeTargetEntry(expression.cast(), tuple::number(number), std::ptr::null_mut(), true)
        };
        entries.push(hidden(call(0, first.0, first.1, first.2), entries.len() + 1));
        for argument in members::<pg_sys::TargetEntry>((*parts.aggregate).args) {
            if (*argument).ressortgroupref != 0 {
                let entry = hidden((*argument).expr.cast(), entries.len() + 1);
                (*entry).ressortgroupref = (*argument).ressortgroupref;
                entries.push(entry);
            }
        }
        let select = parts.select;
        (*select).targetList = list(entries);
        (*select).hasAggs = false;
        (*select).sortClause = (*parts.aggregate).aggorder;
        (*select).limitOffset = constant(pg_sys::INT8OID, pg_sys::Datum::from(0));
        (*select).limitOption = pg_sys::LimitOption::LIMIT_OPTION_COUNT;
        Some(select)
    }
}

/// Returns what EXPLAIN shows for a call in a finished plan: the column of the item in FROM, or NULL for the call that
/// returns no column. `item` is the number of the item if it is known. Otherwise it is the first one with these columns.
pub(crate) unsafe fn shown(
    range_table: *mut pg_sys::List,
    item: pg_sys::Index,
    call: *mut pg_sys::FuncExpr,
) -> *mut Node {
    // SAFETY: each node is cast to the type that its tag names.
    unsafe {
        let oid = (*call).funcresulttype;
        let number = DefinitionList::of_call(call).ok().and_then(|(list, number)| {
            let named = |item: &*mut pg_sys::RangeTblEntry| {
                let names = members::<pg_sys::String>((*(**item).eref).colnames);
                (**item).rtekind == pg_sys::RTEKind::RTE_SUBQUERY
                    && names
                        .into_iter()
                        .map(|n| text::copied((*n).sval))
                        .eq(list.columns.iter().map(|c| c.name.clone()))
            };
            let items = members::<pg_sys::RangeTblEntry>(range_table);
            let known = (item as usize).checked_sub(1).filter(|i| items.get(*i).is_some_and(named));
            let item = known.or_else(|| items.iter().position(named))?;
            Some((i32::try_from(item + 1).ok()?, number)).filter(|_| number > 0)
        });
        match number {
            Some((item, number)) => pg_sys::makeVar(item, tuple::number(number), oid, -1, (*call).funccollid, 0).cast(),
            None => constant_null(oid),
        }
    }
}

unsafe fn constant_null(oid: Oid) -> *mut Node {
    // SAFETY: makes a constant of a type that exists.
    unsafe { pg_sys::makeNullConst(oid, -1, pg_sys::get_typcollation(oid)).cast() }
}

unsafe fn constant(oid: Oid, value: pg_sys::Datum) -> *mut Node {
    // SAFETY: makes a constant of a type that exists.
    unsafe {
        let (mut length, mut by_value) = (0, false);
        pg_sys::get_typlenbyval(oid, &raw mut length, &raw mut by_value);
        let collation = pg_sys::get_typcollation(oid);
        pg_sys::makeConst(oid, -1, collation, length.into(), value, false, by_value).cast()
    }
}

/// Returns the type, the type modifier and the collation of a column of a definition list.
unsafe fn column(function: &pg_sys::RangeTblFunction, i: usize) -> (Oid, i32, Oid) {
    // SAFETY: the three lists are as long as that of the names.
    unsafe {
        (
            (*(*function.funccoltypes).elements.add(i)).oid_value,
            (*(*function.funccoltypmods).elements.add(i)).int_value,
            (*(*function.funccolcollations).elements.add(i)).oid_value,
        )
    }
}

/// Returns the parts of `predictions((SELECT predict_batch(..) FROM ..))`. None for any other expression, and for a
/// sub-select whose rows the aggregate would not score one for one, once, and in any case.
unsafe fn parts(expression: *mut Node) -> Option<Parts> {
    // SAFETY: each node is cast to the type that its tag names.
    unsafe {
        if !is(expression, NodeTag::T_FuncExpr) {
            return None;
        }
        let outer = &*expression.cast::<pg_sys::FuncExpr>();
        if symbol::of_function(outer.funcid).as_deref() != Some("pg_predict_predictions") {
            return None;
        }
        let [argument] = members::<Node>(outer.args)[..] else { return None };
        if !is(argument, NodeTag::T_SubLink) {
            return None;
        }
        let link = &*argument.cast::<pg_sys::SubLink>();
        if link.subLinkType != pg_sys::SubLinkType::EXPR_SUBLINK || !is(link.subselect, NodeTag::T_Query) {
            return None;
        }
        let select = link.subselect.cast::<pg_sys::Query>();
        let query = &*select;
        let clauses = [
            query.setOperations,
            query.havingQual,
            query.limitOffset,
            query.limitCount,
            query.groupClause.cast(),
            query.groupingSets.cast(),
            query.windowClause.cast(),
            query.distinctClause.cast(),
            query.sortClause.cast(),
            query.rowMarks.cast(),
        ];
        let plain = query.commandType == pg_sys::CmdType::CMD_SELECT
            && clauses.iter().all(|clause| clause.is_null())
            && !query.hasWindowFuncs
            && !query.hasTargetSRFs
            && length((*query.jointree).fromlist) > 0;
        let [entry] = members::<pg_sys::TargetEntry>(query.targetList)[..] else { return None };
        let aggregate = (*entry).expr.cast::<pg_sys::Aggref>();
        if !plain || !is(aggregate.cast(), NodeTag::T_Aggref) {
            return None;
        }
        let call = &*aggregate;
        let given = members::<pg_sys::TargetEntry>(call.args);
        let mut given = given.into_iter().filter(|e| !(**e).resjunk).map(|e| (*e).expr.cast::<Node>());
        let model = given.next()?;
        let row: Vec<*mut Node> = given.collect();
        // The aggregate reports an error if the model changes from row to row. A volatile function would be called
        // again if the sub-select is read again.
        let same = symbol::of_aggregate(call.aggfnoid).as_deref() == Some("pg_predict_batch_transition")
            && call.agglevelsup == 0
            && call.aggfilter.is_null()
            && call.aggdistinct.is_null()
            && !pg_sys::contain_vars_of_level(model, 0)
            && !pg_sys::checkExprHasSubLink(model)
            && !calls::is_volatile(select.cast())
            && !locks_rows(select.cast(), std::ptr::null_mut());
        same.then_some(Parts { select, aggregate, model, row, predictions: outer.funcid })
    }
}

/// Whether a query or a query in it locks rows. A query that stops early would lock fewer rows.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn locks_rows(node: *mut Node, context: *mut c_void) -> bool {
    // SAFETY: walks a query tree; each node is cast to the type that its tag names.
    unsafe {
        match node::tag(node) {
            NodeTag::T_Invalid => false,
            NodeTag::T_Query => {
                let query = node.cast::<pg_sys::Query>();
                !(*query).rowMarks.is_null()
                    || pg_sys::ffi::pg_guard_ffi_boundary(|| node::query_tree_walker(query, locks_rows, context, 0))
            }
            _ => pg_sys::ffi::pg_guard_ffi_boundary(|| node::expression_tree_walker(node, locks_rows, context)),
        }
    }
}

type Defined = (DefinitionList, Vec<*mut Node>, Vec<*mut Node>);

/// Returns the definition list, the value of the row's column for each of its columns, and the arguments of the row.
///
/// None if a value of the row would need more than a cast to its declared type.
unsafe fn defined(function: &pg_sys::RangeTblFunction, parts: &Parts) -> Option<Defined> {
    // SAFETY: each node is cast to the type that its tag names; new nodes are made in the planner's context.
    unsafe {
        let names = members::<pg_sys::String>(function.funccolnames);
        let mut columns = Vec::new();
        let mut values = Vec::new();
        for (i, name) in names.iter().enumerate() {
            let (oid, typmod, collation) = column(function, i);
            columns.push(DefinedColumn { name: text::copied((**name).sval), oid: oid.to_u32(), typmod });
            values.push(pg_sys::makeNullConst(oid, typmod, collation).cast::<Node>());
        }
        let functions = [(*parts.aggregate).aggfnoid.to_u32(), parts.predictions.to_u32()];
        let mut definition = DefinitionList { columns, of_row: Vec::new(), functions };
        let composite = |n: &*mut Node| is_composite(stored_type::base(pg_sys::exprType(*n), -1).0);
        let whole = match parts.row[..] {
            [ref row] if !(*parts.aggregate).aggvariadic && composite(row) => *row,
            _ => return Some((definition, values, parts.row.clone())),
        };
        let (columns, fields) = support::columns_of_row(&*parts.select, whole)?;
        for (name, field) in columns.iter().zip(&fields) {
            let Some(i) = definition.columns.iter().position(|c| c.name == *name) else { continue };
            // Two columns of the row have this name.
            if definition.of_row.contains(&i) {
                return None;
            }
            let (oid, typmod, _) = column(function, i);
            values[i] = carried(*field, oid, typmod)?;
            definition.of_row.push(i);
        }
        Some((definition, values, vec![support::named_row(&columns, fields)]))
    }
}

/// Returns a column of the row as its declared type, or None if `predictions()` would read it otherwise.
unsafe fn carried(field: *mut Node, declared: Oid, typmod: i32) -> Option<*mut Node> {
    // SAFETY: makes expressions in the planner's context.
    unsafe {
        let own = pg_sys::exprType(field);
        let (base, base_typmod) = stored_type::base(own, pg_sys::exprTypmod(field));
        let integer = matches!(base, pg_sys::INT4OID | pg_sys::INT8OID);
        let reads_as_it_is = base == declared || stored_type::is_trusted(base);
        if !stored_type::may_be_carried(own)
            || !reads_as_it_is
            || (integer && result_rows::float_of(declared).is_some())
        {
            return None;
        }
        let mut value = pg_sys::copyObjectImpl(field.cast()).cast::<Node>();
        if own != base {
            let (collation, form) = (pg_sys::exprCollation(field), pg_sys::CoercionForm::COERCE_IMPLICIT_CAST);
            value = pg_sys::makeRelabelType(value.cast(), base, base_typmod, collation, form).cast();
        }
        if base == declared && (typmod == -1 || typmod == base_typmod) {
            return Some(value);
        }
        let value = pg_sys::coerce_to_target_type(
            std::ptr::null_mut(),
            value,
            base,
            declared,
            typmod,
            pg_sys::CoercionContext::COERCION_ASSIGNMENT,
            pg_sys::CoercionForm::COERCE_IMPLICIT_CAST,
            -1,
        );
        (!value.is_null() && !calls::is_volatile(value)).then_some(value)
    }
}
