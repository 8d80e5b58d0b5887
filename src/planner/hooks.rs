//! Installs the planner and executor hooks, chained with those of other libraries.

use std::ffi::{c_char, c_int};

use pgrx::pg_sys;

use crate::pg::report::raise;
use crate::pg::running_query;
use crate::planner::cost::Planning;
use crate::planner::{executor, rewrite, row_expansion, symbol};
use crate::settings;

static mut PLANNER: pg_sys::planner_hook_type = None;
static mut EXECUTOR_START: pg_sys::ExecutorStart_hook_type = None;
static mut EXECUTOR_RUN: pg_sys::ExecutorRun_hook_type = None;

/// Sets the hooks. Called once per process.
pub(crate) fn init() {
    // SAFETY: called by _PG_init, before any query of this process can use these statics.
    unsafe {
        symbol::watch();
        PLANNER = pg_sys::planner_hook;
        pg_sys::planner_hook = Some(planner);
        EXECUTOR_START = pg_sys::ExecutorStart_hook;
        pg_sys::ExecutorStart_hook = Some(executor_start);
        EXECUTOR_RUN = pg_sys::ExecutorRun_hook;
        pg_sys::ExecutorRun_hook = Some(executor_run);
    }
}

/// Prepares the query, calls the previous planner, and rewrites the plan.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn planner(
    query: *mut pg_sys::Query,
    text: *const c_char,
    options: c_int,
    parameters: pg_sys::ParamListInfo,
) -> *mut pg_sys::PlannedStmt {
    let plan = || {
        // SAFETY: passes the arguments of the hook on.
        unsafe {
            match PLANNER {
                Some(next) => next(query, text, options, parameters),
                None => executor::standard_planner(query, text, options, parameters),
            }
        }
    };
    let models = if settings::enable_batch_scan() { row_expansion::prepare(query) } else { None };
    let statement = match models {
        None => plan(),
        Some(models) => {
            let _planning = Planning::begin(&models);
            // SAFETY: `pg_guard_ffi_boundary` turns an error into a panic, so that `_planning` is dropped. The guard of
            // this function raises the error again.
            unsafe { pg_sys::ffi::pg_guard_ffi_boundary(plan) }
        }
    };
    let of_cursor = pg_sys::CURSOR_OPT_FAST_PLAN | pg_sys::CURSOR_OPT_SCROLL;
    if settings::enable_batch_scan()
        && let Err(error) = rewrite::rewrite(statement, options.cast_unsigned() & of_cursor != 0)
    {
        raise(error);
    }
    rewrite::mark_seen(statement);
    statement
}

/// Rewrites a copy of a plan that was made before this library was loaded. Planning the first statement with a call
/// loads the library, but too late for its own planner hook.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn executor_start(query: *mut pg_sys::QueryDesc, flags: c_int) {
    // SAFETY: the plan may be kept for other executions, so a copy is changed. The copy lives as long as the query.
    unsafe {
        let statement = (*query).plannedstmt;
        if settings::enable_batch_scan() && rewrite::is_unseen(statement) {
            let copy = pg_sys::copyObjectImpl(statement.cast()).cast::<pg_sys::PlannedStmt>();
            let portal = pg_sys::ActivePortal;
            let cursor = flags.cast_unsigned() & pg_sys::EXEC_FLAG_BACKWARD != 0
                || (!portal.is_null() && (*portal).cursorOptions.cast_unsigned() & pg_sys::CURSOR_OPT_FAST_PLAN != 0);
            if let Err(error) = rewrite::rewrite(copy, cursor) {
                raise(error);
            }
            (*query).plannedstmt = copy;
        }
        if (*statement).parallelModeNeeded {
            crate::runtime::activity::lead_query();
        }
        match EXECUTOR_START {
            Some(next) => next(query, flags),
            None => executor::standard_ExecutorStart(query, flags),
        }
    }
}

/// Records how many rows this run may return, so that scans do not read ahead further. FETCH runs a cursor's query for
/// a limited number of rows.
#[cfg(not(feature = "pg18"))]
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn executor_run(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
    once: bool,
) {
    // SAFETY: passes the arguments of the hook on.
    unsafe {
        let before = running_query::begin((*query).estate, count);
        match EXECUTOR_RUN {
            Some(next) => next(query, direction, count, once),
            None => executor::standard_ExecutorRun(query, direction, count, once),
        }
        running_query::end(before);
    }
}

/// Same as above. PostgreSQL 18 removed the argument that says that a query runs only once.
#[cfg(feature = "pg18")]
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn executor_run(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
) {
    // SAFETY: passes the arguments of the hook on.
    unsafe {
        let before = running_query::begin((*query).estate, count);
        match EXECUTOR_RUN {
            Some(next) => next(query, direction, count),
            None => executor::standard_ExecutorRun(query, direction, count),
        }
        running_query::end(before);
    }
}
