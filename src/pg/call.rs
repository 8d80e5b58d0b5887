//! A call of a SQL function: its arguments, their types and the state of its call site.
//!
//! The macro `pg_function!` defines the entry point.

use pgrx::pg_sys::{self, Datum, Oid};

use crate::error::{Error, Result};
use crate::pg::{ambiguity, memory, node, running_query, text, tuple};

/// The row arguments of a call: the types that the parser resolved, and the first argument of the first row.
#[derive(Clone)]
pub(crate) struct Arguments {
    pub(crate) types: Vec<Oid>,
    /// Whether the last argument was passed with VARIADIC.
    pub(crate) variadic: bool,
    pub(crate) first: Option<Datum>,
    /// The columns that the arguments are the values of, if a row was expanded into its columns. Null otherwise.
    pub(crate) columns: pg_sys::TupleDesc,
}

/// A function call in progress.
pub(crate) struct Call {
    fcinfo: pg_sys::FunctionCallInfo,
}

/// Defines the two symbols of a SQL function: its version record, and an entry point that turns errors into SQL errors.
macro_rules! pg_function {
    ($name:ident, $info:ident, $body:path) => {
        #[unsafe(no_mangle)]
        #[doc(hidden)]
        pub extern "C" fn $info() -> &'static pgrx::pg_sys::Pg_finfo_record {
            const V1: pgrx::pg_sys::Pg_finfo_record = pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
            &V1
        }
        #[unsafe(no_mangle)]
        #[doc(hidden)]
        pub unsafe extern "C-unwind" fn $name(fcinfo: pgrx::pg_sys::FunctionCallInfo) -> pgrx::pg_sys::Datum {
            // SAFETY: PostgreSQL passes a valid call frame, which outlives the call. The guard turns a panic into a
            // PostgreSQL error at this boundary.
            unsafe {
                pgrx::pg_sys::panic::pgrx_extern_c_guard(move || {
                    let call = $crate::pg::call::Call::new(fcinfo);
                    match $body(&call) {
                        Ok(datum) => call.give(datum),
                        Err(error) => $crate::pg::report::raise(error),
                    }
                })
            }
        }
    };
}
pub(crate) use pg_function;

impl Call {
    /// Wraps a call frame.
    pub(crate) unsafe fn new(fcinfo: pg_sys::FunctionCallInfo) -> Self {
        Self { fcinfo }
    }

    /// The call frame.
    pub(crate) fn frame(&self) -> pg_sys::FunctionCallInfo {
        self.fcinfo
    }

    /// Sets the result of the call. `None` is NULL.
    pub(crate) fn give(&self, datum: Option<Datum>) -> Datum {
        // SAFETY: the frame is valid.
        unsafe { (*self.fcinfo).isnull = datum.is_none() };
        datum.unwrap_or(Datum::from(0))
    }

    /// The arguments.
    pub(crate) fn arguments(&self) -> &[pg_sys::NullableDatum] {
        // SAFETY: the frame has `nargs` arguments.
        unsafe { (*self.fcinfo).args.as_slice(tuple::counted((*self.fcinfo).nargs)) }
    }

    /// Returns an argument, or `None` if it is NULL.
    pub(crate) fn argument(&self, i: usize) -> Option<Datum> {
        self.arguments().get(i).filter(|a| !a.isnull).map(|a| a.value)
    }

    /// Returns a text argument. `what` names it in the error if it is NULL.
    pub(crate) fn text(&self, i: usize, what: &'static str) -> Result<String> {
        let datum = self.argument(i).ok_or(Error::NullArgument { what })?;
        Ok(text::text(datum)?.into_owned())
    }

    /// Returns an integer argument, or `None` if it is NULL.
    pub(crate) fn int(&self, i: usize) -> Option<i32> {
        self.argument(i).map(text::int)
    }

    /// Returns the name of the called SQL function and the types of its arguments.
    pub(crate) fn function(&self) -> (String, Vec<Oid>) {
        let (mut types, mut count) = (std::ptr::null_mut(), 0);
        // SAFETY: the called function exists. Its name and its array of types are palloc'd, and are copied here.
        unsafe {
            let function = (*(*self.fcinfo).flinfo).fn_oid;
            pg_sys::get_func_signature(function, &raw mut types, &raw mut count);
            let count = usize::try_from(count).unwrap_or(0);
            let types = (0..count).map(|i| *types.add(i)).collect();
            (text::copied(pg_sys::get_func_name(function)), types)
        }
    }

    /// Returns the type of an argument as the parser resolved it.
    pub(crate) fn argument_type(&self, i: usize) -> Oid {
        // SAFETY: reads the expression of the call; returns 0 if there is none.
        unsafe { pg_sys::get_fn_expr_argtype((*self.fcinfo).flinfo, i32::try_from(i).unwrap_or(i32::MAX)) }
    }

    /// Returns the row arguments, which begin at `first`. If a row was expanded into its columns, `names` is the index
    /// of the argument that holds the column names.
    pub(crate) fn row(&self, first: usize, names: Option<usize>) -> Result<Arguments> {
        Ok(Arguments {
            types: (first..self.arguments().len()).map(|i| self.argument_type(i)).collect(),
            variadic: self.is_variadic(),
            first: self.argument(first),
            columns: match names {
                Some(i) => {
                    let names =
                        text::array(self.argument(i).ok_or(Error::NullArgument { what: "the columns' names" })?)?;
                    if names.len() != self.arguments().len() - first {
                        return Err(Error::RowsDiffer);
                    }
                    self.columns(&names, first)
                }
                None => std::ptr::null_mut(),
            },
        })
    }

    /// Adds a hint to an error of binding the row arguments, if the user may have meant a whole row.
    #[cold]
    pub(crate) fn explained(&self, error: Error, first: usize) -> Error {
        if self.arguments().len() != first + 1 {
            return error;
        }
        // SAFETY: an aggregate function is called with its Aggref node, which has the arguments; the transition state
        // comes before them. A function is called with its expression.
        unsafe {
            let aggregate = pg_sys::AggGetAggref(self.fcinfo).cast::<pg_sys::Aggref>();
            let call = (*(*self.fcinfo).flinfo).fn_expr;
            let (row, state) = if !aggregate.is_null() {
                let state = (*(*self.fcinfo).context.cast::<pg_sys::AggState>()).ss.ps.state;
                let entries = node::members::<pg_sys::TargetEntry>((*aggregate).args);
                (entries.get(first - 1).map(|entry| (**entry).expr.cast()), state.cast_const())
            } else if node::is(call, pg_sys::NodeTag::T_FuncExpr) {
                let arguments = node::members::<pg_sys::Node>((*call.cast::<pg_sys::FuncExpr>()).args);
                (arguments.get(first).copied(), running_query::query())
            } else {
                return error;
            };
            match row {
                Some(row) => ambiguity::explained(error, row, state),
                None => error,
            }
        }
    }

    /// Whether the first argument of an aggregate is a constant.
    pub(crate) fn names_model(&self) -> bool {
        // SAFETY: an aggregate function is called with its Aggref node, which has the arguments.
        unsafe {
            let aggregate = pg_sys::AggGetAggref(self.fcinfo).cast::<pg_sys::Aggref>();
            !aggregate.is_null()
                && node::members::<pg_sys::TargetEntry>((*aggregate).args)
                    .first()
                    .is_some_and(|e| node::is((**e).expr.cast(), pg_sys::NodeTag::T_Const))
        }
    }

    /// Describes the columns that the arguments from `first` on are the values of. The tuple descriptor is allocated in
    /// the context of the call site.
    fn columns(&self, names: &[String], first: usize) -> pg_sys::TupleDesc {
        // SAFETY: an aggregate function is called with its Aggref node, which has the arguments. Their type modifiers
        // are read from it.
        let typmods: Vec<i32> = unsafe {
            let aggregate = pg_sys::AggGetAggref(self.fcinfo).cast::<pg_sys::Aggref>();
            let entries =
                if aggregate.is_null() { Vec::new() } else { node::members::<pg_sys::TargetEntry>((*aggregate).args) };
            // The transition state comes before the arguments.
            entries.iter().skip(first - 1).map(|e| pg_sys::exprTypmod((**e).expr.cast())).collect()
        };
        memory::within(self.site_context(), || {
            // SAFETY: the new descriptor has an entry for each name.
            unsafe {
                let desc = tuple::description(names.len());
                for (i, name) in names.iter().enumerate() {
                    let (oid, typmod) = (self.argument_type(first + i), typmods.get(i).copied().unwrap_or(-1));
                    pg_sys::TupleDescInitEntry(desc, tuple::number(i + 1), text::c(name).as_ptr(), oid, typmod, 0);
                }
                desc
            }
        })
    }

    /// Returns a mutable reference to a state that the caller just created.
    #[allow(clippy::mut_from_ref)]
    pub(crate) fn give_state<T>(&self, state: *mut T) -> &mut T {
        // SAFETY: the caller just created the state in a context that outlives this call.
        unsafe { &mut *state }
    }

    /// Whether the caller wrote VARIADIC before the last argument.
    pub(crate) fn is_variadic(&self) -> bool {
        // SAFETY: the frame is valid, and every call through fmgr has its FmgrInfo.
        unsafe { pg_sys::get_fn_expr_variadic((*self.fcinfo).flinfo) }
    }

    /// Returns the type that the caller expects as the result. 0 if it is not known.
    pub(crate) fn result_type(&self) -> Oid {
        // SAFETY: reads the expression of the call; returns 0 if there is none.
        unsafe { pg_sys::get_fn_expr_rettype((*self.fcinfo).flinfo) }
    }

    /// The memory context of the call site.
    pub(crate) fn site_context(&self) -> pg_sys::MemoryContext {
        // SAFETY: every call through fmgr has its FmgrInfo.
        unsafe { (*(*self.fcinfo).flinfo).fn_mcxt }
    }

    /// Returns the state of this call site. The first call creates it with `make`.
    #[allow(clippy::mut_from_ref)]
    pub(crate) fn site<T>(&self, make: impl FnOnce() -> Result<T>) -> Result<&mut T> {
        // SAFETY: only this extension uses fn_extra. It is set once, to a value that the context of the FmgrInfo owns.
        // A call site has one caller at a time, and a recursive call uses another FmgrInfo.
        unsafe {
            let info = (*self.fcinfo).flinfo;
            if (*info).fn_extra.is_null() {
                (*info).fn_extra = memory::own((*info).fn_mcxt, make()?).cast();
            }
            Ok(&mut *(*info).fn_extra.cast::<T>())
        }
    }

    /// Returns the memory context of the aggregate group that the function is called for.
    pub(crate) fn aggregate_context(&self, function: &'static str) -> Result<pg_sys::MemoryContext> {
        let mut context: pg_sys::MemoryContext = std::ptr::null_mut();
        // SAFETY: reads the context node of the frame.
        if unsafe { pg_sys::AggCheckCallContext(self.fcinfo, &raw mut context) } == 0 {
            return Err(Error::Context { function, reason: "is called outside of an aggregate" });
        }
        Ok(context)
    }

    /// Number of rows that the planner estimates for the aggregate's input. `None` outside of an aggregate.
    pub(crate) fn expected_rows(&self) -> Option<f64> {
        // SAFETY: an aggregate is called with its AggState node, which has its plan.
        unsafe {
            let node = (*self.fcinfo).context;
            if !crate::pg::node::is(node, pg_sys::NodeTag::T_AggState) {
                return None;
            }
            let input = (*(*node.cast::<pg_sys::AggState>()).ss.ps.plan).lefttree;
            (!input.is_null()).then(|| (*input).plan_rows)
        }
    }

    /// Returns a state that an earlier call of the same aggregate returned as `internal`.
    #[allow(clippy::mut_from_ref)]
    pub(crate) fn state<T>(&self, i: usize) -> Option<&mut T> {
        // SAFETY: PostgreSQL only accepts `internal` arguments from functions that return `internal`. For this
        // aggregate these are functions of this extension, which return a T. SQL cannot call them directly.
        self.argument(i).map(|d| unsafe { &mut *d.cast_mut_ptr::<T>() })
    }
}

/// Converts a pointer to a state into a datum of type `internal`.
pub(crate) fn internal<T>(state: *mut T) -> Datum {
    Datum::from(state)
}
