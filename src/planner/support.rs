//! Implements the planner support functions of this library's SQL functions.
//!
//! The support function of `predictions` receives its argument before planning. If the argument is a sub-select of one
//! `predict_batch`, both functions are replaced by their forms that pass a handle. The names in the column definition
//! list are passed along, so that only the columns that are read are carried. Any other query stays as it is and is
//! also correct.

use pgrx::pg_sys::{self, Datum, Node, NodeTag, Oid};

use crate::error::Result;
use crate::pg::call::Call;
use crate::pg::catalog::roles;
use crate::pg::node::{is, members};
use crate::pg::{text, tuple};
use crate::planner::{calls, row_expansion, streaming, symbol};
use crate::results::call_form::CallForm;
use crate::settings;

/// Returns the OID of a function of the schema `predict_internal`, or 0 if it does not exist.
pub(crate) fn function(name: &std::ffi::CStr, types: &[Oid]) -> Oid {
    // SAFETY: looks up a qualified name; returns 0 if it does not exist.
    unsafe {
        let mut list =
            pg_sys::lappend(std::ptr::null_mut(), pg_sys::makeString(c"predict_internal".as_ptr().cast_mut()).cast());
        list = pg_sys::lappend(list, pg_sys::makeString(name.as_ptr().cast_mut()).cast());
        pg_sys::LookupFuncName(list, i32::try_from(types.len()).unwrap_or(i32::MAX), types.as_ptr(), true)
    }
}

/// Returns the form of an aggregate that passes a handle. Only `predict_batch` and its form over columns have one.
///
/// The caller must have the right to execute the aggregate, because everybody may execute the handle form.
fn handle_form(aggregate: &pg_sys::Aggref) -> Option<Oid> {
    let (name, names): (_, &[Oid]) = match &*symbol::of_aggregate(aggregate.aggfnoid)? {
        "pg_predict_batch_transition" => (c"predict_batch_handle", &[]),
        "pg_predict_batch_transition_columns" => (c"predict_batch_columns_handle", &[pg_sys::TEXTARRAYOID]),
        _ => return None,
    };
    let types = [&[pg_sys::TEXTOID, pg_sys::TEXTARRAYOID], names, &[pg_sys::ANYOID]].concat();
    let form = function(name, &types);
    (form != Oid::INVALID && roles::may_execute(aggregate.aggfnoid)).then_some(form)
}

/// Makes a constant of type text[]. None becomes NULL.
pub(crate) fn text_array(texts: Option<&[String]>) -> *mut pg_sys::Const {
    let value = texts.and_then(|texts| {
        let mut datums: Vec<Datum> = texts.iter().map(|t| text::datum(t)).collect();
        let mut nulls = vec![false; datums.len()];
        let count = datums.len();
        crate::results::output_values::array(&mut datums, &mut nulls, &[count], pg_sys::TEXTOID).ok()
    });
    let (datum, null) = (value.unwrap_or(Datum::from(0)), value.is_none());
    // SAFETY: makes a node in the current context, where the array is too.
    unsafe { pg_sys::makeConst(pg_sys::TEXTARRAYOID, -1, pg_sys::DEFAULT_COLLATION_OID, -1, datum, null, false) }
}

/// Returns the names in the column definition list of a call of `predictions` in FROM, as a constant of type text[].
fn definition(root: *mut pg_sys::PlannerInfo, call: *mut pg_sys::FuncExpr) -> *mut pg_sys::Const {
    let mut names: Vec<Option<Vec<String>>> = Vec::new();
    // SAFETY: walks the range table of the query being planned; node types are checked by their tags.
    unsafe {
        if !root.is_null() {
            for rte in members::<pg_sys::RangeTblEntry>((*(*root).parse).rtable) {
                if (*rte).rtekind != pg_sys::RTEKind::RTE_FUNCTION {
                    continue;
                }
                for f in members::<pg_sys::RangeTblFunction>((*rte).functions) {
                    let e = (*f).funcexpr.cast::<pg_sys::FuncExpr>();
                    if !is(e.cast(), NodeTag::T_FuncExpr) || (*e).funcid != (*call).funcid {
                        continue;
                    }
                    let list = (*f).funccolnames;
                    let own = pg_sys::equal(e.cast(), call.cast());
                    let columns = (!list.is_null()).then(|| {
                        members::<pg_sys::String>(list).into_iter().map(|n| text::copied((*n).sval)).collect()
                    });
                    if own {
                        names = vec![columns];
                        break;
                    }
                    names.push(columns);
                }
            }
        }
        // With several candidate calls it is unknown which is meant, so no names are passed.
        let columns = match names.as_slice() {
            [Some(columns)] => Some(columns),
            _ => None,
        };
        text_array(columns.map(Vec::as_slice))
    }
}

/// Makes an anonymous row of fields with these names.
pub(crate) unsafe fn named_row(names: &[String], fields: Vec<*mut Node>) -> *mut Node {
    // SAFETY: makes a node in the current context.
    unsafe {
        let row = crate::pg::node::make::<pg_sys::RowExpr>(NodeTag::T_RowExpr);
        (*row).args = crate::pg::node::list(fields);
        (*row).row_typeid = pg_sys::RECORDOID;
        (*row).row_format = pg_sys::CoercionForm::COERCE_IMPLICIT_CAST;
        let name = |name: &String| pg_sys::makeString(pg_sys::pstrdup(text::c(name).as_ptr()));
        (*row).colnames = crate::pg::node::list(names.iter().map(name));
        (*row).location = -1;
        row.cast()
    }
}

/// Returns the columns of a whole row of a table, a view, a sub-select or a CTE: their names and expressions.
///
/// Returns None for any other node. Also returns None if an outer join may null-extend the row. Such a row is NULL, not
/// a row of NULLs.
pub(crate) unsafe fn columns_of_row(query: &pg_sys::Query, row: *mut Node) -> Option<(Vec<String>, Vec<*mut Node>)> {
    if !is(row, NodeTag::T_Var) {
        return None;
    }
    // SAFETY: each node is cast to the type that its tag names.
    unsafe {
        let row = &*row.cast::<pg_sys::Var>();
        let number = usize::try_from(row.varno).unwrap_or(0);
        let table = members::<pg_sys::RangeTblEntry>(query.rtable).get(number.checked_sub(1)?).copied()?;
        let kind = (*table).rtekind;
        let known = [pg_sys::RTEKind::RTE_RELATION, pg_sys::RTEKind::RTE_SUBQUERY, pg_sys::RTEKind::RTE_CTE];
        if row.varattno != 0
            || row.varlevelsup != 0
            || !known.contains(&kind)
            || may_be_left_out(query.jointree.cast(), number, false) != Some(false)
        {
            return None;
        }
        let (names, fields) = expanded(table, row);
        if row.vartype == pg_sys::RECORDOID {
            return (names.len() == fields.len()).then_some((names, fields));
        }
        // The names come from the row type, because the query may use other names for the table's columns.
        if kind == pg_sys::RTEKind::RTE_RELATION && pg_sys::get_rel_type_id((*table).relid) != row.vartype {
            return None;
        }
        let desc = pg_sys::lookup_rowtype_tupdesc_copy(row.vartype, -1);
        if tuple::count(desc) != fields.len() {
            return None;
        }
        let own = fields.into_iter().enumerate().filter_map(|(i, field)| {
            let a = crate::rows::composite::attribute(desc, i);
            (!(*a).attisdropped).then(|| (text::copied((*a).attname.data.as_ptr()), field))
        });
        Some(own.unzip())
    }
}

/// Returns the columns of a range table entry, including dropped ones, and their names in the query.
unsafe fn expanded(table: *mut pg_sys::RangeTblEntry, row: &pg_sys::Var) -> (Vec<String>, Vec<*mut Node>) {
    let (mut names, mut fields) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: expands an entry of the query being planned.
    unsafe {
        pg_sys::expandRTE(
            table,
            row.varno,
            0,
            #[cfg(feature = "pg18")]
            row.varreturningtype,
            row.location,
            true,
            &raw mut names,
            &raw mut fields,
        );
        let names = members::<pg_sys::String>(names).into_iter().map(|n| text::copied((*n).sval)).collect();
        (names, members(fields))
    }
}

/// The support function of the plain calls. Its lookup loads this library when the first call is planned.
///
/// Replaces the whole row of a table by a row expression of its columns. No plan node then has to form the row, only
/// for it to be deformed again.
pub(crate) fn call_support(call: &Call) -> Result<Option<Datum>> {
    let nothing = Ok(Some(Datum::null()));
    let Some(request) = call.argument(0) else { return nothing };
    let request = request.cast_mut_ptr::<pg_sys::SupportRequestSimplify>();
    // SAFETY: the planner passes a request node; the call is copied before it is changed.
    unsafe {
        if !is(request.cast(), NodeTag::T_SupportRequestSimplify) || (*request).root.is_null() {
            return nothing;
        }
        let query = (*(*request).root).parse;
        let arguments = members::<Node>((*(*request).fcall).args);
        let [_, row] = arguments[..] else { return nothing };
        if !is(row, NodeTag::T_Var) || (*(*request).fcall).funcvariadic {
            return nothing;
        }
        let row = &*row.cast::<pg_sys::Var>();
        let number = usize::try_from(row.varno).unwrap_or(0);
        let tables = members::<pg_sys::RangeTblEntry>((*query).rtable);
        let Some(table) = number.checked_sub(1).and_then(|i| tables.get(i).copied()) else { return nothing };
        // A row that an outer join null-extends is NULL, not a row of NULLs. A row in GROUP BY must stay one value.
        let whole = row.varattno == 0 && row.varlevelsup == 0 && (*table).rtekind == pg_sys::RTEKind::RTE_RELATION;
        if !whole
            || !(*query).groupClause.is_null()
            || !(*query).groupingSets.is_null()
            || pg_sys::get_rel_type_id((*table).relid) != row.vartype
            || may_be_left_out((*query).jointree.cast(), number, false) != Some(false)
        {
            return nothing;
        }
        let (_, fields) = expanded(table, row);
        let columns = crate::pg::node::make::<pg_sys::RowExpr>(NodeTag::T_RowExpr);
        (*columns).args = crate::pg::node::list(fields);
        (*columns).row_typeid = row.vartype;
        (*columns).row_format = pg_sys::CoercionForm::COERCE_IMPLICIT_CAST;
        (*columns).location = row.location;
        let new = pg_sys::copyObjectImpl((*request).fcall.cast()).cast::<pg_sys::FuncExpr>();
        (*new).args = crate::pg::node::list([members::<Node>((*new).args)[0], columns.cast()]);
        Ok(Some(Datum::from(new)))
    }
}

/// The support function of the casts of a `prediction_batch`.
///
/// Expands the whole row of an aggregate that is cast. The planner's hook has done that for all statements but the one
/// that loads this library.
pub(crate) fn cast_support(call: &Call) -> Result<Option<Datum>> {
    let nothing = Ok(Some(Datum::null()));
    let Some(request) = call.argument(0) else { return nothing };
    let request = request.cast_mut_ptr::<pg_sys::SupportRequestSimplify>();
    // SAFETY: the planner passes a request node; the call is copied before it is changed.
    unsafe {
        if !settings::enable_batch_scan()
            || !is(request.cast(), NodeTag::T_SupportRequestSimplify)
            || (*request).root.is_null()
        {
            return nothing;
        }
        let new = pg_sys::copyObjectImpl((*request).fcall.cast()).cast::<pg_sys::FuncExpr>();
        let [aggregate] = members::<Node>((*new).args)[..] else { return nothing };
        if !is(aggregate, NodeTag::T_Aggref) {
            return nothing;
        }
        let spread = row_expansion::spread(&*(*(*request).root).parse, aggregate.cast());
        Ok(Some(spread.map_or(Datum::null(), |()| Datum::from(new))))
    }
}

/// Whether an outer join may null-extend the rows of a table. None if the table is not below this node.
unsafe fn may_be_left_out(node: *mut Node, number: usize, outer: bool) -> Option<bool> {
    // SAFETY: each node is cast to the type that its tag names.
    unsafe {
        match crate::pg::node::tag(node) {
            NodeTag::T_RangeTblRef => {
                (usize::try_from((*node.cast::<pg_sys::RangeTblRef>()).rtindex) == Ok(number)).then_some(outer)
            }
            NodeTag::T_FromExpr => members::<Node>((*node.cast::<pg_sys::FromExpr>()).fromlist)
                .into_iter()
                .find_map(|n| may_be_left_out(n, number, outer)),
            NodeTag::T_JoinExpr => {
                let join = &*node.cast::<pg_sys::JoinExpr>();
                let (left, right) = match join.jointype {
                    pg_sys::JoinType::JOIN_INNER => (outer, outer),
                    pg_sys::JoinType::JOIN_LEFT => (outer, true),
                    pg_sys::JoinType::JOIN_RIGHT => (true, outer),
                    _ => (true, true),
                };
                may_be_left_out(join.larg, number, left).or_else(|| may_be_left_out(join.rarg, number, right))
            }
            _ => None,
        }
    }
}

/// The setting `cpu_operator_cost`.
pub(crate) fn operator_cost() -> f64 {
    // SAFETY: reads a setting.
    unsafe { pg_sys::cpu_operator_cost }
}

/// The setting `parallel_setup_cost`.
pub(crate) fn parallel_setup_cost() -> f64 {
    // SAFETY: reads a setting.
    unsafe { pg_sys::parallel_setup_cost }
}

/// Sets `parallel_setup_cost` for the current planning. The caller must restore the previous value.
pub(crate) fn set_parallel_setup_cost(cost: f64) {
    // SAFETY: a setting of this process, which nothing else changes during planning.
    unsafe { pg_sys::parallel_setup_cost = cost };
}

/// The planner's request for the cost of a function.
pub(crate) struct CostQuestion(*mut pg_sys::SupportRequestCost);

/// The subject of a cost request.
pub(crate) enum Subject {
    /// A call, with its model reference if that is a constant.
    Call(Option<String>),
    /// A further column of rows whose model another call runs.
    Column,
    /// Only the function is known.
    Unknown,
}

impl CostQuestion {
    /// Returns the request of a support function if it is a cost request.
    pub(crate) fn of(call: &Call) -> Option<Self> {
        let request = call.argument(0)?.cast_mut_ptr::<pg_sys::SupportRequestCost>();
        is(request.cast(), NodeTag::T_SupportRequestCost).then_some(Self(request))
    }

    /// Returns the subject of the request.
    pub(crate) fn subject(&self) -> Subject {
        // SAFETY: the planner's request lives as long as the call; each node is cast to the type that its tag names.
        unsafe {
            let node = (*self.0).node;
            if !is(node, NodeTag::T_FuncExpr) {
                return Subject::Unknown;
            }
            let arguments = members::<Node>((*node.cast::<pg_sys::FuncExpr>()).args);
            // The call with the number 0 stands for the run of the model.
            if let [_, _, number, _, ..] = arguments[..]
                && calls::form(node) == Some(CallForm::Column)
                && is(number, NodeTag::T_Const)
                && text::int((*number.cast::<pg_sys::Const>()).constvalue) != 0
            {
                return Subject::Column;
            }
            Subject::Call(arguments.first().and_then(|m| row_expansion::constant(*m)))
        }
    }

    /// Whether the query may not be read to its end: it has a LIMIT or belongs to a cursor.
    pub(crate) fn may_stop(&self) -> bool {
        // SAFETY: as above; the planner's state may be null.
        unsafe {
            let root = (*self.0).root;
            !root.is_null() && ((*root).tuple_fraction > 0.0 || !(*(*root).parse).limitCount.is_null())
        }
    }

    /// Sets the cost of one call.
    pub(crate) fn answer(&self, per_call: f64) {
        // SAFETY: as above.
        unsafe {
            (*self.0).startup = 0.0;
            (*self.0).per_tuple = per_call;
        }
    }

    /// The value that the support function returns for an answered request.
    pub(crate) fn datum(&self) -> Datum {
        Datum::from(self.0)
    }
}

/// The support function of `predictions`.
pub(crate) fn predictions_support(call: &Call) -> Result<Option<Datum>> {
    // A null pointer, not an SQL NULL, means that the call is not replaced.
    let nothing = Ok(Some(Datum::null()));
    let Some(request) = call.argument(0) else { return nothing };
    let request = request.cast_mut_ptr::<pg_sys::SupportRequestSimplify>();
    // SAFETY: the planner passes a request node; nodes are copied before they are changed.
    unsafe {
        if !is(request.cast(), NodeTag::T_SupportRequestSimplify) {
            return nothing;
        }
        let outer = (*request).fcall;
        let [argument] = members::<Node>((*outer).args)[..] else { return nothing };
        if !is(argument, NodeTag::T_SubLink) {
            return nothing;
        }
        let sublink = pg_sys::copyObjectImpl(argument.cast()).cast::<pg_sys::SubLink>();
        if (*sublink).subLinkType != pg_sys::SubLinkType::EXPR_SUBLINK || !is((*sublink).subselect, NodeTag::T_Query) {
            return nothing;
        }
        let query = (*sublink).subselect.cast::<pg_sys::Query>();
        // A set operation takes its column types from its branches, so the type of a branch must not change.
        if !(*query).setOperations.is_null() {
            return nothing;
        }
        let [target] = members::<pg_sys::TargetEntry>((*query).targetList)[..] else { return nothing };
        let aggregate = (*target).expr.cast::<pg_sys::Aggref>();
        if !is(aggregate.cast(), NodeTag::T_Aggref) {
            return nothing;
        }
        // A result in ORDER BY or DISTINCT is compared, so it stays a `prediction_batch`.
        if (*target).ressortgroupref != 0 {
            return nothing;
        }
        if !roles::may_execute((*outer).funcid) {
            return nothing;
        }
        // The planner hook has replaced the items that it knew. It did not know those of the statement that loads this
        // library, and of SQL functions that the planner inlines.
        let root = (*request).root;
        if settings::enable_batch_scan() && !root.is_null() && streaming::replace_item((*root).parse, outer) {
            return nothing;
        }
        let Some(stream) = handle_form(&*aggregate) else { return nothing };
        let handle_type = pg_sys::get_func_rettype(stream);
        let reader = function(c"predictions_of_handle", &[handle_type]);
        if reader == Oid::INVALID {
            return nothing;
        }

        // Inserts the names of the carried columns as an argument after the model.
        let columns = definition((*request).root, outer);
        let mut arguments: *mut pg_sys::List = std::ptr::null_mut();
        for (i, entry) in members::<pg_sys::TargetEntry>((*aggregate).args).into_iter().enumerate() {
            (*entry).resno = tuple::number(i + if i == 0 { 1 } else { 2 });
            arguments = pg_sys::lappend(arguments, entry.cast());
            if i == 0 {
                let entry = pg_sys::makeTargetEntry(columns.cast(), 2, std::ptr::null_mut(), false);
                arguments = pg_sys::lappend(arguments, entry.cast());
            }
        }
        // DISTINCT needs a sort entry for every argument, so such an aggregate is not replaced.
        if !(*aggregate).aggdistinct.is_null() {
            return nothing;
        }
        let mut types: *mut pg_sys::List = std::ptr::null_mut();
        let old = (*aggregate).aggargtypes;
        for i in 0..crate::pg::node::length(old) {
            types = pg_sys::lappend_oid(types, (*(*old).elements.add(i)).oid_value);
            if i == 0 {
                types = pg_sys::lappend_oid(types, pg_sys::TEXTARRAYOID);
            }
        }
        (*aggregate).aggfnoid = stream;
        (*aggregate).aggtype = handle_type;
        (*aggregate).args = arguments;
        (*aggregate).aggargtypes = types;

        let inner = pg_sys::lappend(std::ptr::null_mut(), sublink.cast());
        let new = pg_sys::makeFuncExpr(
            reader,
            (*outer).funcresulttype,
            inner,
            (*outer).funccollid,
            (*outer).inputcollid,
            (*outer).funcformat,
        );
        (*new).funcretset = true;
        (*new).location = (*outer).location;
        Ok(Some(Datum::from(new)))
    }
}
