//! A call of a SQL function: its arguments, its types, the state of its call site. `pg_function!` makes the entry.

use pgrx::pg_sys::{self, Datum, Oid};

use crate::error::{Error, Result};
use crate::pg::convert::Arguments;
use crate::pg::{memory, node, text};

/// A function call under way.
pub(crate) struct Call {
    fcinfo: pg_sys::FunctionCallInfo,
}

/// Defines the two symbols of a SQL function: its version record, and an entry that turns errors into SQL errors.
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
            // SAFETY: PostgreSQL calls with a valid call frame, which outlives the call; the guard turns what unwinds
            // into a PostgreSQL error at this boundary.
            unsafe {
                pgrx::pg_sys::panic::pgrx_extern_c_guard(move || {
                    let call = $crate::pg::call::Call::new(fcinfo);
                    match $body(&call) {
                        Ok(datum) => call.give(datum),
                        Err(error) => $crate::error::raise(error),
                    }
                })
            }
        }
    };
}
pub(crate) use pg_function;

impl Call {
    /// Wraps the frame of a call.
    ///
    /// # Safety
    /// The frame is valid for as long as the value lives.
    pub(crate) unsafe fn new(fcinfo: pg_sys::FunctionCallInfo) -> Self {
        Self { fcinfo }
    }

    /// The frame, for this room.
    pub(in crate::pg) fn frame(&self) -> pg_sys::FunctionCallInfo {
        self.fcinfo
    }

    /// Gives a result back; none is NULL.
    pub(crate) fn give(&self, datum: Option<Datum>) -> Datum {
        // SAFETY: the frame is valid.
        unsafe { (*self.fcinfo).isnull = datum.is_none() };
        datum.unwrap_or(Datum::from(0))
    }

    /// The arguments.
    pub(crate) fn arguments(&self) -> &[pg_sys::NullableDatum] {
        // SAFETY: the frame has so many arguments.
        unsafe { (*self.fcinfo).args.as_slice((*self.fcinfo).nargs as usize) }
    }

    /// An argument that is not NULL.
    pub(crate) fn argument(&self, i: usize) -> Option<Datum> {
        self.arguments().get(i).filter(|a| !a.isnull).map(|a| a.value)
    }

    /// A text argument that must not be NULL.
    pub(crate) fn text(&self, i: usize, what: &'static str) -> Result<String> {
        let datum = self.argument(i).ok_or(Error::NullArgument { what })?;
        Ok(text::text(datum)?.into_owned())
    }

    /// An integer argument.
    pub(crate) fn int(&self, i: usize) -> Option<i32> {
        self.argument(i).map(|d| d.value() as i32)
    }

    /// The SQL function that is called: its name and the types of its arguments.
    pub(crate) fn function(&self) -> (String, Vec<Oid>) {
        let (mut types, mut count) = (std::ptr::null_mut(), 0);
        // SAFETY: the call's function exists; its name and its array of types are palloc'd, and copied.
        unsafe {
            let function = (*(*self.fcinfo).flinfo).fn_oid;
            pg_sys::get_func_signature(function, &raw mut types, &raw mut count);
            let count = usize::try_from(count).unwrap_or(0);
            let types = (0..count).map(|i| *types.add(i)).collect();
            (text::copied(pg_sys::get_func_name(function)), types)
        }
    }

    /// The type of an argument as the parser resolved it.
    pub(crate) fn argument_type(&self, i: usize) -> Oid {
        // SAFETY: reads the call's expression; 0 where there is none.
        unsafe { pg_sys::get_fn_expr_argtype((*self.fcinfo).flinfo, i as i32) }
    }

    /// The row arguments, which begin at `first`. `names`: the argument that names the columns that they are, where they are a
    /// row that was taken apart.
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

    /// Whether an aggregate's first argument is a constant.
    pub(crate) fn names_model(&self) -> bool {
        // SAFETY: an aggregate's function is called with its node, which has its arguments.
        unsafe {
            let aggregate = pg_sys::AggGetAggref(self.fcinfo).cast::<pg_sys::Aggref>();
            !aggregate.is_null()
                && node::members::<pg_sys::TargetEntry>((*aggregate).args)
                    .first()
                    .is_some_and(|e| node::is((**e).expr.cast(), pg_sys::NodeTag::T_Const))
        }
    }

    /// What the arguments from `first` on are the columns of: a description in the context of the call site.
    fn columns(&self, names: &[String], first: usize) -> pg_sys::TupleDesc {
        // SAFETY: an aggregate's function is called with its node, which has its arguments; a type modifier is read from there.
        let typmods: Vec<i32> = unsafe {
            let aggregate = pg_sys::AggGetAggref(self.fcinfo).cast::<pg_sys::Aggref>();
            let entries =
                if aggregate.is_null() { Vec::new() } else { node::members::<pg_sys::TargetEntry>((*aggregate).args) };
            // The state comes before the arguments.
            entries.iter().skip(first - 1).map(|e| pg_sys::exprTypmod((**e).expr.cast())).collect()
        };
        memory::within(self.site_context(), || {
            // SAFETY: a new description with an entry for each name.
            unsafe {
                let desc = pg_sys::CreateTemplateTupleDesc(names.len() as i32);
                for (i, name) in names.iter().enumerate() {
                    let (oid, typmod) = (self.argument_type(first + i), typmods.get(i).copied().unwrap_or(-1));
                    pg_sys::TupleDescInitEntry(desc, i as i16 + 1, text::c(name).as_ptr(), oid, typmod, 0);
                }
                desc
            }
        })
    }

    /// A state that was just made, to work on.
    #[allow(clippy::mut_from_ref)]
    pub(crate) fn give_state<T>(&self, state: *mut T) -> &mut T {
        // SAFETY: the caller made it a moment ago in a context that outlives this call.
        unsafe { &mut *state }
    }

    /// Whether the caller wrote VARIADIC before the last argument.
    pub(crate) fn is_variadic(&self) -> bool {
        // SAFETY: as above.
        unsafe { pg_sys::get_fn_expr_variadic((*self.fcinfo).flinfo) }
    }

    /// The memory context that lives as long as this call site does.
    pub(crate) fn site_context(&self) -> pg_sys::MemoryContext {
        // SAFETY: every call through fmgr has its FmgrInfo.
        unsafe { (*(*self.fcinfo).flinfo).fn_mcxt }
    }

    /// The state of this call site, made at its first call.
    #[allow(clippy::mut_from_ref)]
    pub(crate) fn site<T>(&self, make: impl FnOnce() -> Result<T>) -> Result<&mut T> {
        // SAFETY: fn_extra is ours alone; it is set once, to a value that its own context owns, and a call site is
        // called by one caller at a time. A recursive call comes through another FmgrInfo.
        unsafe {
            let info = (*self.fcinfo).flinfo;
            if (*info).fn_extra.is_null() {
                (*info).fn_extra = memory::own((*info).fn_mcxt, make()?).cast();
            }
            Ok(&mut *(*info).fn_extra.cast::<T>())
        }
    }

    /// The memory context of the group that an aggregate's function is called for.
    pub(crate) fn aggregate_context(&self, function: &'static str) -> Result<pg_sys::MemoryContext> {
        let mut context: pg_sys::MemoryContext = std::ptr::null_mut();
        // SAFETY: looks at the frame's context node.
        if unsafe { pg_sys::AggCheckCallContext(self.fcinfo, &raw mut context) } == 0 {
            return Err(Error::Context { function, reason: "is called outside of an aggregate" });
        }
        Ok(context)
    }

    /// Rows that the plan expects an aggregate to be called for; none elsewhere.
    pub(crate) fn expected_rows(&self) -> Option<f64> {
        // SAFETY: an aggregate is called with its node's state, which has its plan.
        unsafe {
            let node = (*self.fcinfo).context;
            if !crate::pg::node::is(node, pg_sys::NodeTag::T_AggState) {
                return None;
            }
            let input = (*(*node.cast::<pg_sys::AggState>()).ss.ps.plan).lefttree;
            (!input.is_null()).then(|| (*input).plan_rows)
        }
    }

    /// A state that an earlier call of the same aggregate gave back as `internal`.
    #[allow(clippy::mut_from_ref)]
    pub(crate) fn state<T>(&self, i: usize) -> Option<&mut T> {
        // SAFETY: PostgreSQL lets `internal` arguments come only from functions that return `internal`, which for this
        // aggregate are ours and give a T; SQL cannot call them by itself.
        self.argument(i).map(|d| unsafe { &mut *d.cast_mut_ptr::<T>() })
    }
}

/// A pointer to a state as a datum of type `internal`.
pub(crate) fn internal<T>(state: *mut T) -> Datum {
    Datum::from(state)
}
