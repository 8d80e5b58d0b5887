//! The planner's help: `predictions((SELECT predict_batch(..) ..))` is planned with a handle.
//!
//! The support function of `predictions` sees its argument before planning. Where that is a sub-select of one
//! `predict_batch`, both are exchanged for their forms that pass a handle, and the names of the column definition list
//! are passed along, so that only what will be read is carried. Anything else is left as it is, and right as well.

use pgrx::pg_sys::{self, Datum, Node, NodeTag, Oid};

use crate::error::Result;
use crate::pg::call::Call;
use crate::pg::node::{is, members};
use crate::pg::{owner, symbol, text};

/// A function of the schema `predict`.
pub(crate) fn function(name: &std::ffi::CStr, types: &[Oid]) -> Oid {
    // SAFETY: looks up a qualified name; 0 where there is none.
    unsafe {
        let mut list = pg_sys::lappend(std::ptr::null_mut(), pg_sys::makeString(c"predict".as_ptr().cast_mut()).cast());
        list = pg_sys::lappend(list, pg_sys::makeString(name.as_ptr().cast_mut()).cast());
        pg_sys::LookupFuncName(list, types.len() as i32, types.as_ptr(), true)
    }
}

/// The form of an aggregate that passes a handle; none where it has none: only `predict_batch` has one, and its form over columns.
/// The caller must be allowed to call it: what it is exchanged for is open to all.
fn handle_form(aggregate: &pg_sys::Aggref) -> Option<Oid> {
    let (name, names): (_, &[Oid]) = match &*symbol::of_aggregate(aggregate.aggfnoid)? {
        "pg_predict_batch_transition" => (c"predict_batch_handle", &[]),
        "pg_predict_batch_transition_columns" => (c"predict_batch_columns_handle", &[pg_sys::TEXTARRAYOID]),
        _ => return None,
    };
    let types = [&[pg_sys::TEXTOID, pg_sys::TEXTARRAYOID], names, &[pg_sys::ANYOID]].concat();
    let form = function(name, &types);
    (form != Oid::INVALID && owner::may_execute(aggregate.aggfnoid)).then_some(form)
}

/// A constant of type text[]; none is NULL.
pub(crate) fn text_array(texts: Option<&[String]>) -> *mut pg_sys::Const {
    let value = texts.and_then(|texts| {
        let mut datums: Vec<Datum> = texts.iter().map(|t| text::datum(t)).collect();
        let mut nulls = vec![false; datums.len()];
        let count = datums.len();
        crate::pg::emit::array(&mut datums, &mut nulls, &[count], pg_sys::TEXTOID).ok()
    });
    let (datum, null) = (value.unwrap_or(Datum::from(0)), value.is_none());
    // SAFETY: makes a node in the current context, where the array is too.
    unsafe { pg_sys::makeConst(pg_sys::TEXTARRAYOID, -1, pg_sys::DEFAULT_COLLATION_OID, -1, datum, null, false) }
}

/// The column definition list that a call of `predictions` in FROM has: the names, as a constant of type text[].
fn definition(root: *mut pg_sys::PlannerInfo, call: *mut pg_sys::FuncExpr) -> *mut pg_sys::Const {
    let mut names: Vec<Option<Vec<String>>> = Vec::new();
    // SAFETY: walks the range table of the query being planned; node types are checked by kind.
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
        // Where several calls could be meant, none is.
        let columns = match names.as_slice() {
            [Some(columns)] => Some(columns),
            _ => None,
        };
        text_array(columns.map(Vec::as_slice))
    }
}

/// The columns of a table's, a view's, a sub-select's or a CTE's whole row, their names and what they are; none where a node is
/// something else, or where an outer join may leave the row out: such a row is NULL, not a row of NULLs.
pub(crate) unsafe fn columns_of_row(query: &pg_sys::Query, row: *mut Node) -> Option<(Vec<String>, Vec<*mut Node>)> {
    if !is(row, NodeTag::T_Var) {
        return None;
    }
    // SAFETY: nodes are read as what their tags say.
    unsafe {
        let row = &*row.cast::<pg_sys::Var>();
        let number = row.varno as usize;
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
        // The names are those of the type; the table may be called by others here.
        if kind == pg_sys::RTEKind::RTE_RELATION && pg_sys::get_rel_type_id((*table).relid) != row.vartype {
            return None;
        }
        let desc = pg_sys::lookup_rowtype_tupdesc_copy(row.vartype, -1);
        if (*desc).natts as usize != fields.len() {
            return None;
        }
        let own = fields.into_iter().enumerate().filter_map(|(i, field)| {
            let a = crate::pg::convert::attribute(desc, i);
            (!(*a).attisdropped).then(|| (text::copied((*a).attname.data.as_ptr()), field))
        });
        Some(own.unzip())
    }
}

/// The columns of a range table entry, dropped ones among them, and their names here.
unsafe fn expanded(table: *mut pg_sys::RangeTblEntry, row: &pg_sys::Var) -> (Vec<String>, Vec<*mut Node>) {
    let (mut names, mut fields) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: expands an entry of the query at hand.
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

/// The support function of the plain calls. That it is there loads this library when the first call is planned. A table's
/// whole row becomes the row of its columns, so that no node of the plan puts it together only to have it taken apart.
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
        let number = row.varno as usize;
        let tables = members::<pg_sys::RangeTblEntry>((*query).rtable);
        let Some(table) = number.checked_sub(1).and_then(|i| tables.get(i).copied()) else { return nothing };
        // A row that an outer join leaves out is NULL, not a row of NULLs; and one that is grouped by is one value.
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

/// Whether an outer join may leave out the rows of a table; none where the table is not below here.
unsafe fn may_be_left_out(node: *mut Node, number: usize, outer: bool) -> Option<bool> {
    // SAFETY: each node is read as what its tag says it is.
    unsafe {
        match crate::pg::node::tag(node) {
            NodeTag::T_RangeTblRef => {
                ((*node.cast::<pg_sys::RangeTblRef>()).rtindex as usize == number).then_some(outer)
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

/// What an operator is taken to cost (`cpu_operator_cost`).
pub(crate) fn operator_cost() -> f64 {
    // SAFETY: reads a setting.
    unsafe { pg_sys::cpu_operator_cost }
}

/// What starting workers is taken to cost (`parallel_setup_cost`).
pub(crate) fn parallel_setup_cost() -> f64 {
    // SAFETY: reads a setting.
    unsafe { pg_sys::parallel_setup_cost }
}

/// Sets it for what is planned now; whoever does puts back what was.
pub(crate) fn set_parallel_setup_cost(cost: f64) {
    // SAFETY: a setting of this process, which nobody else changes while it plans.
    unsafe { pg_sys::parallel_setup_cost = cost };
}

/// The planner's question for the cost of a function.
pub(crate) struct CostQuestion(*mut pg_sys::SupportRequestCost);

/// What a question is about.
pub(crate) enum Subject {
    /// A call: its model reference, where that is a constant.
    Call(Option<String>),
    /// Nothing is told but the function.
    Unknown,
}

impl CostQuestion {
    /// The question that a support function is asked, if it is one for the cost.
    pub(crate) fn of(call: &Call) -> Option<Self> {
        let request = call.argument(0)?.cast_mut_ptr::<pg_sys::SupportRequestCost>();
        is(request.cast(), NodeTag::T_SupportRequestCost).then_some(Self(request))
    }

    /// What it is about.
    pub(crate) fn subject(&self) -> Subject {
        // SAFETY: the planner's request lives as long as the call; nodes are read as what their tags say.
        unsafe {
            let node = (*self.0).node;
            if !is(node, NodeTag::T_FuncExpr) {
                return Subject::Unknown;
            }
            let arguments = members::<Node>((*node.cast::<pg_sys::FuncExpr>()).args);
            Subject::Call(arguments.first().and_then(|m| crate::pg::query::constant(*m)))
        }
    }

    /// Whether the query may not be read to its end: it has a LIMIT, or is a cursor's.
    pub(crate) fn may_stop(&self) -> bool {
        // SAFETY: as above; the planner's state may be missing.
        unsafe {
            let root = (*self.0).root;
            !root.is_null() && ((*root).tuple_fraction > 0.0 || !(*(*root).parse).limitCount.is_null())
        }
    }

    /// Answers with the cost of one call.
    pub(crate) fn answer(&self, per_call: f64) {
        // SAFETY: as above.
        unsafe {
            (*self.0).startup = 0.0;
            (*self.0).per_tuple = per_call;
        }
    }

    /// What the support function returns then.
    pub(crate) fn datum(&self) -> Datum {
        Datum::from(self.0)
    }
}

/// The support function of `predictions`.
pub(crate) fn predictions_support(call: &Call) -> Result<Option<Datum>> {
    // A null pointer, not an SQL NULL, says that there is nothing to put in its place.
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
        // A set operation takes its type from its arms.
        if !(*query).setOperations.is_null() {
            return nothing;
        }
        let [target] = members::<pg_sys::TargetEntry>((*query).targetList)[..] else { return nothing };
        let aggregate = (*target).expr.cast::<pg_sys::Aggref>();
        if !is(aggregate.cast(), NodeTag::T_Aggref) {
            return nothing;
        }
        // A result that is sorted or made distinct is compared: leave it.
        if (*target).ressortgroupref != 0 {
            return nothing;
        }
        let Some(stream) = handle_form(&*aggregate) else { return nothing };
        let handle_type = pg_sys::get_func_rettype(stream);
        let reader = function(c"predictions_of_handle", &[handle_type]);
        if reader == Oid::INVALID {
            return nothing;
        }

        // One argument more, after the model: the columns to carry.
        let columns = definition((*request).root, outer);
        let mut arguments: *mut pg_sys::List = std::ptr::null_mut();
        for (i, entry) in members::<pg_sys::TargetEntry>((*aggregate).args).into_iter().enumerate() {
            (*entry).resno = i as i16 + if i == 0 { 1 } else { 2 };
            arguments = pg_sys::lappend(arguments, entry.cast());
            if i == 0 {
                let entry = pg_sys::makeTargetEntry(columns.cast(), 2, std::ptr::null_mut(), false);
                arguments = pg_sys::lappend(arguments, entry.cast());
            }
        }
        // DISTINCT needs an entry for every argument; with one it is left alone.
        if !(*aggregate).aggdistinct.is_null() {
            return nothing;
        }
        let mut types: *mut pg_sys::List = std::ptr::null_mut();
        let old = (*aggregate).aggargtypes;
        for i in 0..(*old).length as usize {
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
