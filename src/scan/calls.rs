//! Which calls in an expression are plain calls of a model, and under what condition PostgreSQL would evaluate each.
//!
//! A call may go into a batch when it is evaluated for every row, or exactly for the rows for which a condition holds that
//! can be asked beforehand: the arm of a CASE, what comes after an AND, an OR or inside COALESCE, the argument of an
//! aggregate with FILTER. Every other call stays where it is, with a reason.

use pgrx::pg_sys::{self, Node, NodeTag};

use crate::pg::form::Form;
use crate::pg::node::{self, is, members};
use crate::pg::symbol;

/// The form of a node that is a plain call.
pub(super) fn form(node: *const Node) -> Option<Form> {
    if !is(node, NodeTag::T_FuncExpr) {
        return None;
    }
    // SAFETY: the tag says what it is.
    let call = unsafe { &*node.cast::<pg_sys::FuncExpr>() };
    symbol::of_function(call.funcid).and_then(|symbol| Form::of_symbol(&symbol))
}

/// Whether there is a plain call anywhere in an expression or a list of them.
pub(super) fn any(node: *mut Node) -> bool {
    node::contains(node, &mut |n| form(n).is_some())
}

/// Whether a volatile function is anywhere in an expression or a list of them.
pub(super) fn is_volatile(node: *mut Node) -> bool {
    // SAFETY: walks an expression.
    !node.is_null() && unsafe { pg_sys::contain_volatile_functions(node) }
}

/// A call that can go into a batch, and when it is evaluated: always, where there is no condition.
pub(super) struct Found {
    pub(super) call: *mut pg_sys::FuncExpr,
    pub(super) form: Form,
    pub(super) guard: *mut Node,
}

/// A call that stays where it is.
pub(super) struct Left {
    pub(super) call: *mut pg_sys::FuncExpr,
    pub(super) reason: &'static str,
}

/// What is inside of expressions of one plan node.
#[derive(Default)]
pub(super) struct Calls {
    pub(super) found: Vec<Found>,
    pub(super) left: Vec<Left>,
    /// Look into the arguments of aggregates and window functions, and nowhere else.
    inside_aggregates: bool,
    /// A sub-select somewhere in the statement calls a volatile function.
    volatile_subplans: bool,
}

impl Calls {
    /// A look at the calls of a node's expressions that are not arguments of its aggregates.
    pub(super) fn outside(volatile_subplans: bool) -> Self {
        Self { volatile_subplans, ..Self::default() }
    }

    /// A look at the arguments of a node's aggregates and window functions.
    pub(super) fn inside(volatile_subplans: bool) -> Self {
        Self { volatile_subplans, inside_aggregates: true, ..Self::default() }
    }

    /// Looks at a list of expressions, or of target entries.
    pub(super) fn list(&mut self, list: *mut pg_sys::List) {
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

    fn call(&mut self, call: *mut pg_sys::FuncExpr, form: Form, guard: *mut Node) {
        // SAFETY: a FuncExpr by its tag.
        let arguments = unsafe { (*call).args };
        if any(arguments.cast()) {
            // It waits for them.
            return self.all(arguments, guard);
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
            // It waits for those.
            return;
        } else {
            self.found.push(Found { call, form, guard });
            return;
        };
        self.left.push(Left { call, reason });
    }

    /// Looks at an expression that is evaluated when `guard` holds.
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
        // SAFETY: raises where the stack has no room for what is inside.
        unsafe { pg_sys::check_stack_depth() };
        // SAFETY: each node is read as what its tag says it is.
        unsafe {
            match (*node).type_ {
                NodeTag::T_List => self.all(node.cast(), guard),
                NodeTag::T_TargetEntry => self.look((*node.cast::<pg_sys::TargetEntry>()).expr.cast(), guard),
                // A set-returning one stands in a ProjectSet, which evaluates its arguments for every row.
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
                // They are looked into by themselves, since they are evaluated elsewhere.
                NodeTag::T_Aggref | NodeTag::T_WindowFunc => {}
                _ => self.leave(node, "place whose evaluation depends on values"),
            }
        }
    }

    /// The array itself is evaluated first; subscripts only where it is not NULL.
    unsafe fn subscripts(&mut self, node: *mut pg_sys::SubscriptingRef, guard: *mut Node) {
        // SAFETY: the caller read its tag.
        unsafe {
            self.look((*node).refexpr.cast(), guard);
            self.leave((*node).refupperindexpr.cast(), "subscript");
            self.leave((*node).reflowerindexpr.cast(), "subscript");
            self.leave((*node).refassgnexpr.cast(), "subscript");
        }
    }

    /// AND goes on while nothing is false, OR while nothing is true.
    unsafe fn boolean(&mut self, node: *mut pg_sys::BoolExpr, guard: *mut Node) {
        // SAFETY: the caller read its tag.
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

    /// A condition is evaluated where none before it was true, a result where its own was the first.
    unsafe fn case(&mut self, node: *mut pg_sys::CaseExpr, guard: *mut Node) {
        // SAFETY: the caller read its tag; the copies are changed before anybody else sees them.
        unsafe {
            self.look((*node).arg.cast(), guard);
            let whens = members::<pg_sys::CaseWhen>((*node).args);
            // The same CASE, asked only which arm it takes.
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

    /// An argument is evaluated where those before it are NULL.
    unsafe fn coalesce(&mut self, node: *mut pg_sys::CoalesceExpr, guard: *mut Node) {
        // SAFETY: the caller read its tag.
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

    /// What a sub-select is compared with is evaluated for each row of the sub-select, and not at all if it has none.
    unsafe fn subplan(&mut self, node: *mut pg_sys::SubPlan) {
        // SAFETY: the caller read its tag.
        unsafe {
            self.leave((*node).testexpr, "comparison with a subquery");
            self.leave((*node).args.cast(), "argument of a subquery");
        }
    }

    /// Finds aggregates and window functions, and looks at their arguments.
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
            // SAFETY: each node is read as what its tag says it is.
            let (arguments, filter, direct) = unsafe {
                match (*node).type_ {
                    NodeTag::T_Aggref => {
                        let a = node.cast::<pg_sys::Aggref>();
                        ((*a).args, (*a).aggfilter, (*a).aggdirectargs)
                    }
                    // lag() and others evaluate their arguments for the rows that they choose.
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

/// Whether an expression reads the value that a CASE around it compares.
fn has_free_test(node: *mut Node) -> bool {
    let mut found = false;
    node::rebuilt(node, &mut |n| {
        // SAFETY: each node is read as what its tag says it is.
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
        // Inside, its own value is meant.
        found |= has_free_test(bound.cast());
        Some(n)
    });
    found
}

/// A condition, which may be none, and others.
fn all_of(guard: *mut Node, others: impl IntoIterator<Item = *mut Node>) -> *mut Node {
    let conditions: Vec<*mut Node> = std::iter::once(guard).filter(|g| !g.is_null()).chain(others).collect();
    match conditions[..] {
        [] => std::ptr::null_mut(),
        [one] => one,
        // SAFETY: makes a node of others in the current context.
        _ => unsafe { pg_sys::makeBoolExpr(pg_sys::BoolExprType::AND_EXPR, node::list(conditions), -1).cast() },
    }
}

/// One of two conditions; where one is none, so is the result.
pub(super) fn either(a: *mut Node, b: *mut Node) -> *mut Node {
    if a.is_null() || b.is_null() {
        return std::ptr::null_mut();
    }
    // SAFETY: compares two trees, or makes a node of them in the current context.
    unsafe {
        if pg_sys::equal(a.cast(), b.cast()) {
            return a;
        }
        pg_sys::makeBoolExpr(pg_sys::BoolExprType::OR_EXPR, node::list([a, b]), -1).cast()
    }
}
