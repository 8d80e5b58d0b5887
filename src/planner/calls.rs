//! Finds the plain calls of models in an expression, and the condition under which PostgreSQL evaluates each.
//!
//! A call can be batched in two cases. Either it is evaluated for every row, or it is evaluated exactly for the rows
//! that satisfy a condition which can be evaluated beforehand. Such conditions come from the branches of CASE, the
//! later arguments of AND, OR and COALESCE, and the FILTER of an aggregate. Every other call stays where it is, with a
//! reason.

use pgrx::pg_sys::{self, Node, NodeTag};

use crate::pg::node::{self, is, members};
use crate::planner::symbol;
use crate::results::call_form::CallForm;

/// Returns the form of a node that is a plain call.
pub(crate) fn form(node: *const Node) -> Option<CallForm> {
    if !is(node, NodeTag::T_FuncExpr) {
        return None;
    }
    // SAFETY: a FuncExpr by its tag.
    let call = unsafe { &*node.cast::<pg_sys::FuncExpr>() };
    symbol::of_function(call.funcid).and_then(|symbol| CallForm::of_symbol(&symbol))
}

/// Whether an expression, or a list of expressions, has a plain call.
pub(crate) fn any(node: *mut Node) -> bool {
    node::contains(node, &mut |n| form(n).is_some())
}

/// Whether an expression, or a list of expressions, has a volatile function.
pub(crate) fn is_volatile(node: *mut Node) -> bool {
    // SAFETY: walks an expression.
    !node.is_null() && unsafe { pg_sys::contain_volatile_functions(node) }
}

/// A call that can be batched, and the condition under which it is evaluated. A null guard means always.
pub(crate) struct FoundCall {
    pub(crate) call: *mut pg_sys::FuncExpr,
    pub(crate) form: CallForm,
    pub(crate) guard: *mut Node,
}

/// A call that is evaluated per row, and the reason.
pub(crate) struct Left {
    pub(crate) call: *mut pg_sys::FuncExpr,
    pub(crate) reason: &'static str,
}

/// The calls in the expressions of one plan node.
#[derive(Default)]
pub(crate) struct Calls {
    pub(crate) found: Vec<FoundCall>,
    pub(crate) left: Vec<Left>,
    /// Search only the arguments of aggregates and window functions.
    inside_aggregates: bool,
    /// A sub-select of the statement calls a volatile function.
    volatile_subplans: bool,
}

impl Calls {
    /// Searches a node's expressions for calls outside of its aggregates.
    pub(crate) fn outside(volatile_subplans: bool) -> Self {
        Self { volatile_subplans, ..Self::default() }
    }

    /// Searches the arguments of a node's aggregates and window functions.
    pub(crate) fn inside(volatile_subplans: bool) -> Self {
        Self { volatile_subplans, inside_aggregates: true, ..Self::default() }
    }

    /// Searches a list of expressions or target entries.
    pub(crate) fn list(&mut self, list: *mut pg_sys::List) {
        for node in members::<Node>(list) {
            self.look(node, std::ptr::null_mut());
        }
    }

    fn all(&mut self, list: *mut pg_sys::List, guard: *mut Node) {
        for node in members::<Node>(list) {
            self.look(node, guard);
        }
    }

    fn leave(&mut self, node: *mut Node, reason: &'static str) {
        node::contains(node, &mut |n| {
            if form(n).is_some() {
                self.left.push(Left { call: n.cast(), reason });
            }
            false
        });
    }

    fn call(&mut self, call: *mut pg_sys::FuncExpr, form: CallForm, guard: *mut Node) {
        // SAFETY: a FuncExpr by its tag.
        let arguments = unsafe { (*call).args };
        if any(arguments.cast()) {
            // The calls in the arguments are batched first. This call then goes into a further node. A column of
            // `predictions()` is batched even if those calls are not: the row of all its columns is evaluated once.
            let found = self.found.len();
            self.all(arguments, guard);
            if form != CallForm::Column || self.found.len() > found {
                return;
            }
        }
        let has_subplan = |node: *mut Node| node::contains(node, &mut |n| is(n, NodeTag::T_SubPlan));
        let reason = if is_volatile(arguments.cast()) || (self.volatile_subplans && has_subplan(arguments.cast())) {
            "volatile argument"
        } else if has_free_test(arguments.cast()) {
            "argument known only where it is evaluated"
        } else if is_volatile(guard) {
            "volatile condition"
        } else if has_subplan(guard) {
            "condition with a subquery"
        } else if any(guard) {
            // The calls in the condition are batched first.
            return;
        } else {
            self.found.push(FoundCall { call, form, guard });
            return;
        };
        self.left.push(Left { call, reason });
    }

    /// Searches an expression that is evaluated if `guard` holds.
    fn look(&mut self, node: *mut Node, guard: *mut Node) {
        if node.is_null() {
            return;
        }
        if self.inside_aggregates {
            return self.look_for_aggregates(node);
        }
        if let Some(form) = form(node) {
            return self.call(node.cast(), form, guard);
        }
        if !any(node) {
            return;
        }
        // SAFETY: raises an error if the stack has no room for the recursion.
        unsafe { pg_sys::check_stack_depth() };
        // SAFETY: each node is cast to the type that its tag names.
        unsafe {
            match (*node).type_ {
                NodeTag::T_List => self.all(node.cast(), guard),
                NodeTag::T_TargetEntry => self.look((*node.cast::<pg_sys::TargetEntry>()).expr.cast(), guard),
                // A set-returning function is in a ProjectSet node, which evaluates the arguments for every row.
                NodeTag::T_FuncExpr => self.all((*node.cast::<pg_sys::FuncExpr>()).args, guard),
                NodeTag::T_OpExpr | NodeTag::T_DistinctExpr | NodeTag::T_NullIfExpr => {
                    self.all((*node.cast::<pg_sys::OpExpr>()).args, guard);
                }
                NodeTag::T_ScalarArrayOpExpr => self.all((*node.cast::<pg_sys::ScalarArrayOpExpr>()).args, guard),
                NodeTag::T_RelabelType => self.look((*node.cast::<pg_sys::RelabelType>()).arg.cast(), guard),
                NodeTag::T_CoerceViaIO => self.look((*node.cast::<pg_sys::CoerceViaIO>()).arg.cast(), guard),
                NodeTag::T_ArrayCoerceExpr => self.look((*node.cast::<pg_sys::ArrayCoerceExpr>()).arg.cast(), guard),
                NodeTag::T_CoerceToDomain => self.look((*node.cast::<pg_sys::CoerceToDomain>()).arg.cast(), guard),
                NodeTag::T_ConvertRowtypeExpr => {
                    self.look((*node.cast::<pg_sys::ConvertRowtypeExpr>()).arg.cast(), guard);
                }
                NodeTag::T_CollateExpr => self.look((*node.cast::<pg_sys::CollateExpr>()).arg.cast(), guard),
                NodeTag::T_FieldSelect => self.look((*node.cast::<pg_sys::FieldSelect>()).arg.cast(), guard),
                NodeTag::T_NullTest => self.look((*node.cast::<pg_sys::NullTest>()).arg.cast(), guard),
                NodeTag::T_BooleanTest => self.look((*node.cast::<pg_sys::BooleanTest>()).arg.cast(), guard),
                NodeTag::T_ArrayExpr => self.all((*node.cast::<pg_sys::ArrayExpr>()).elements, guard),
                NodeTag::T_RowExpr => self.all((*node.cast::<pg_sys::RowExpr>()).args, guard),
                NodeTag::T_MinMaxExpr => self.all((*node.cast::<pg_sys::MinMaxExpr>()).args, guard),
                NodeTag::T_SubscriptingRef => self.subscripts(node.cast(), guard),
                NodeTag::T_BoolExpr => self.boolean(node.cast(), guard),
                NodeTag::T_CaseExpr => self.case(node.cast(), guard),
                NodeTag::T_CoalesceExpr => self.coalesce(node.cast(), guard),
                NodeTag::T_SubPlan => self.subplan(node.cast()),
                // Their arguments are searched separately, because they are evaluated in another place.
                NodeTag::T_Aggref | NodeTag::T_WindowFunc => {}
                _ => self.leave(node, "place whose evaluation depends on values"),
            }
        }
    }

    /// Searches a subscript expression. The array is evaluated first, the subscripts only if it is not NULL.
    unsafe fn subscripts(&mut self, node: *mut pg_sys::SubscriptingRef, guard: *mut Node) {
        // SAFETY: the caller checked the tag.
        unsafe {
            self.look((*node).refexpr.cast(), guard);
            self.leave((*node).refupperindexpr.cast(), "subscript");
            self.leave((*node).reflowerindexpr.cast(), "subscript");
            self.leave((*node).refassgnexpr.cast(), "subscript");
        }
    }

    /// Searches a boolean expression. AND evaluates its arguments until one is false, OR until one is true.
    unsafe fn boolean(&mut self, node: *mut pg_sys::BoolExpr, guard: *mut Node) {
        // SAFETY: the caller checked the tag.
        unsafe {
            let goes_on = match (*node).boolop {
                pg_sys::BoolExprType::NOT_EXPR => return self.all((*node).args, guard),
                pg_sys::BoolExprType::AND_EXPR => pg_sys::BoolTestType::IS_NOT_FALSE,
                _ => pg_sys::BoolTestType::IS_NOT_TRUE,
            };
            let arguments = members::<Node>((*node).args);
            for (i, argument) in arguments.iter().enumerate().filter(|(_, a)| any(**a)) {
                let before = arguments[..i].iter().map(|earlier| {
                    let test = node::make::<pg_sys::BooleanTest>(NodeTag::T_BooleanTest);
                    (*test).arg = earlier.cast();
                    (*test).booltesttype = goes_on;
                    (*test).location = -1;
                    test.cast::<Node>()
                });
                self.look(*argument, all_of(guard, before));
            }
        }
    }

    /// Searches a CASE expression. A WHEN condition is evaluated if no earlier one is true. A result is evaluated if
    /// its condition is the first that is true.
    unsafe fn case(&mut self, node: *mut pg_sys::CaseExpr, guard: *mut Node) {
        // SAFETY: the caller checked the tag; the copies are changed before anything else refers to them.
        unsafe {
            self.look((*node).arg.cast(), guard);
            let whens = members::<pg_sys::CaseWhen>((*node).args);
            // A copy of the CASE that returns only whether the branch `chosen` is taken.
            let takes = |chosen: usize, upto: usize, otherwise: bool| {
                let copy = pg_sys::copyObjectImpl(node.cast()).cast::<pg_sys::CaseExpr>();
                (*copy).casetype = pg_sys::BOOLOID;
                (*copy).casecollid = pg_sys::Oid::INVALID;
                let mut arms: *mut pg_sys::List = std::ptr::null_mut();
                for (i, when) in members::<pg_sys::CaseWhen>((*copy).args).into_iter().take(upto).enumerate() {
                    (*when).result = pg_sys::makeBoolConst(i == chosen, false).cast();
                    arms = pg_sys::lappend(arms, when.cast());
                }
                (*copy).args = arms;
                (*copy).defresult = pg_sys::makeBoolConst(otherwise, false).cast();
                copy.cast::<Node>()
            };
            for (i, when) in whens.iter().enumerate() {
                if any((**when).expr.cast()) {
                    let asked = if i == 0 { guard } else { all_of(guard, [takes(usize::MAX, i, true)]) };
                    self.look((**when).expr.cast(), asked);
                }
                if any((**when).result.cast()) {
                    self.look((**when).result.cast(), all_of(guard, [takes(i, i + 1, false)]));
                }
            }
            if any((*node).defresult.cast()) {
                self.look((*node).defresult.cast(), all_of(guard, [takes(usize::MAX, whens.len(), true)]));
            }
        }
    }

    /// Searches a COALESCE expression. An argument is evaluated if all arguments before it are NULL.
    unsafe fn coalesce(&mut self, node: *mut pg_sys::CoalesceExpr, guard: *mut Node) {
        // SAFETY: the caller checked the tag.
        unsafe {
            let arguments = members::<Node>((*node).args);
            for (i, argument) in arguments.iter().enumerate().filter(|(_, a)| any(**a)) {
                let before = arguments[..i].iter().map(|earlier| {
                    let test = node::make::<pg_sys::NullTest>(NodeTag::T_NullTest);
                    (*test).arg = earlier.cast();
                    (*test).nulltesttype = pg_sys::NullTestType::IS_NULL;
                    (*test).location = -1;
                    test.cast::<Node>()
                });
                self.look(*argument, all_of(guard, before));
            }
        }
    }

    /// Leaves the calls of a sub-select's arguments and of its comparison in place. The comparison is evaluated for
    /// each row of the sub-select, and not at all if it has no rows.
    unsafe fn subplan(&mut self, node: *mut pg_sys::SubPlan) {
        // SAFETY: the caller checked the tag.
        unsafe {
            self.leave((*node).testexpr, "comparison with a subquery");
            self.leave((*node).args.cast(), "argument of a subquery");
        }
    }

    /// Finds aggregates and window functions, and searches their arguments.
    fn look_for_aggregates(&mut self, node: *mut Node) {
        let mut found: Vec<*mut Node> = Vec::new();
        node::contains(node, &mut |n| {
            if matches!(node::tag(n), NodeTag::T_Aggref | NodeTag::T_WindowFunc) {
                found.push(n);
            }
            false
        });
        self.inside_aggregates = false;
        for node in found {
            // SAFETY: each node is cast to the type that its tag names.
            let (arguments, filter, direct) = unsafe {
                match (*node).type_ {
                    NodeTag::T_Aggref => {
                        let a = node.cast::<pg_sys::Aggref>();
                        ((*a).args, (*a).aggfilter, (*a).aggdirectargs)
                    }
                    // lag() and similar functions evaluate their arguments only for the rows that they choose.
                    _ if !(*node.cast::<pg_sys::WindowFunc>()).winagg => {
                        self.leave(node, "argument of a window function");
                        continue;
                    }
                    _ => {
                        let w = node.cast::<pg_sys::WindowFunc>();
                        ((*w).args, (*w).aggfilter, std::ptr::null_mut())
                    }
                }
            };
            self.look(filter.cast(), std::ptr::null_mut());
            self.all(arguments, filter.cast());
            self.leave(direct.cast(), "direct argument of an aggregate");
        }
        self.inside_aggregates = true;
    }
}

/// Whether an expression reads the test value of an expression around it: of a CASE, an array coercion or a domain
/// check.
fn has_free_test(node: *mut Node) -> bool {
    let mut found = false;
    node::rebuilt(node, &mut |n| {
        // SAFETY: each node is cast to the type that its tag names.
        let bound = unsafe {
            match node::tag(n) {
                NodeTag::T_CaseTestExpr | NodeTag::T_CoerceToDomainValue => {
                    found = true;
                    return Some(n);
                }
                NodeTag::T_CaseExpr => (*n.cast::<pg_sys::CaseExpr>()).arg,
                NodeTag::T_ArrayCoerceExpr => (*n.cast::<pg_sys::ArrayCoerceExpr>()).arg,
                _ => return None,
            }
        };
        if bound.is_null() {
            return None;
        }
        // The other parts of the node read its own test value. Only its argument can read an outer one.
        found |= has_free_test(bound.cast());
        Some(n)
    });
    found
}

/// The conjunction of `guard`, which may be null, and other conditions.
fn all_of(guard: *mut Node, others: impl IntoIterator<Item = *mut Node>) -> *mut Node {
    let conditions: Vec<*mut Node> = std::iter::once(guard).filter(|g| !g.is_null()).chain(others).collect();
    match conditions[..] {
        [] => std::ptr::null_mut(),
        [one] => one,
        // SAFETY: makes a node from other nodes in the current context.
        _ => unsafe { pg_sys::makeBoolExpr(pg_sys::BoolExprType::AND_EXPR, node::list(conditions), -1).cast() },
    }
}

/// The disjunction of two guards. Null, which means always, if either is null.
pub(crate) fn either(a: *mut Node, b: *mut Node) -> *mut Node {
    if a.is_null() || b.is_null() {
        return std::ptr::null_mut();
    }
    // SAFETY: compares two trees, or makes a node from them in the current context.
    unsafe {
        if pg_sys::equal(a.cast(), b.cast()) {
            return a;
        }
        pg_sys::makeBoolExpr(pg_sys::BoolExprType::OR_EXPR, node::list([a, b]), -1).cast()
    }
}
