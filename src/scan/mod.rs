//! BatchPredict: the plan node that gathers the rows of plain calls into batches.
//!
//! `plan` puts it into finished plans, `exec` runs it, `lane` feeds one model, `explain` tells what it did. Hooks are chained
//! with those of other libraries.
//!
//! Executor callbacks call back into the executor through its function pointers, without a guard: an error jumps over the
//! frames of this room to whoever waits for it, so no value with a destructor may be alive on the stack across such a call.
//! What a node owns is in its state, which its query's memory context frees.

use std::ffi::{c_char, c_int};

use pgrx::pg_sys::{self, NodeTag};

use crate::cost::Planning;
use crate::error::raise;
use crate::guc;
use crate::pg::node::is;
use crate::pg::query;

mod calls;
mod exec;
mod executor;
mod explain;
mod kit;
mod lane;
mod plan;
mod recipe;

/// Tables of function pointers that PostgreSQL keeps.
struct Methods<T>(T);
// SAFETY: constants; PostgreSQL only reads them.
unsafe impl<T> Sync for Methods<T> {}

const NAME: *const c_char = c"BatchPredict".as_ptr();

static METHODS: Methods<pg_sys::CustomScanMethods> =
    Methods(pg_sys::CustomScanMethods { CustomName: NAME, CreateCustomScanState: Some(exec::create) });

static EXECUTION: Methods<pg_sys::CustomExecMethods> = Methods(pg_sys::CustomExecMethods {
    CustomName: NAME,
    BeginCustomScan: Some(exec::begin),
    ExecCustomScan: Some(exec::next),
    EndCustomScan: Some(exec::end),
    ReScanCustomScan: Some(exec::rescan),
    MarkPosCustomScan: None,
    RestrPosCustomScan: None,
    EstimateDSMCustomScan: Some(explain::estimate),
    InitializeDSMCustomScan: Some(explain::initialize),
    ReInitializeDSMCustomScan: Some(explain::reinitialize),
    InitializeWorkerCustomScan: Some(explain::join),
    ShutdownCustomScan: Some(explain::collect),
    ExplainCustomScan: Some(explain::explain),
});

/// Whether a plan node is one of ours.
fn is_ours(plan: *const pg_sys::Plan) -> bool {
    // SAFETY: a custom scan by its tag.
    is(plan.cast(), NodeTag::T_CustomScan)
        && unsafe { (*plan.cast::<pg_sys::CustomScan>()).methods == &raw const METHODS.0 }
}

static mut PLANNER: pg_sys::planner_hook_type = None;
static mut EXECUTOR_START: pg_sys::ExecutorStart_hook_type = None;
static mut EXECUTOR_RUN: pg_sys::ExecutorRun_hook_type = None;

/// Sets the hooks. Once a process.
pub(crate) fn init() {
    // SAFETY: called by _PG_init, before any query of this process can use what it sets.
    unsafe {
        pg_sys::RegisterCustomScanMethods(&raw const METHODS.0);
        crate::pg::symbol::watch();
        PLANNER = pg_sys::planner_hook;
        pg_sys::planner_hook = Some(planner);
        EXECUTOR_START = pg_sys::ExecutorStart_hook;
        pg_sys::ExecutorStart_hook = Some(executor_start);
        EXECUTOR_RUN = pg_sys::ExecutorRun_hook;
        pg_sys::ExecutorRun_hook = Some(executor_run);
    }
}

/// Prepares the query, plans as before, and rewrites the result.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn planner(
    query: *mut pg_sys::Query,
    text: *const c_char,
    options: c_int,
    parameters: pg_sys::ParamListInfo,
) -> *mut pg_sys::PlannedStmt {
    let plan = || {
        // SAFETY: hands on what it was given.
        unsafe {
            match PLANNER {
                Some(next) => next(query, text, options, parameters),
                None => executor::standard_planner(query, text, options, parameters),
            }
        }
    };
    let models = if guc::enable_batch_scan() { query::prepare(query) } else { None };
    let statement = match models {
        None => plan(),
        Some(models) => {
            let _planning = Planning::begin(&models);
            // SAFETY: an error comes back as a panic, so that what holds while it plans ends; it is raised again.
            unsafe { pg_sys::ffi::pg_guard_ffi_boundary(plan) }
        }
    };
    let of_cursor = pg_sys::CURSOR_OPT_FAST_PLAN | pg_sys::CURSOR_OPT_SCROLL;
    if guc::enable_batch_scan()
        && let Err(error) = plan::rewrite(statement, options as u32 & of_cursor != 0)
    {
        raise(error);
    }
    plan::mark_seen(statement);
    statement
}

/// Rewrites a copy of a plan that was made before this library was loaded: its own planning loads it.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn executor_start(query: *mut pg_sys::QueryDesc, flags: c_int) {
    // SAFETY: the plan may be one that is kept for other executions, so a copy is changed; it lives as long as the query.
    unsafe {
        let statement = (*query).plannedstmt;
        if guc::enable_batch_scan() && plan::is_unseen(statement) {
            let copy = pg_sys::copyObjectImpl(statement.cast()).cast::<pg_sys::PlannedStmt>();
            let portal = pg_sys::ActivePortal;
            let cursor = flags as u32 & pg_sys::EXEC_FLAG_BACKWARD != 0
                || (!portal.is_null() && (*portal).cursorOptions as u32 & pg_sys::CURSOR_OPT_FAST_PLAN != 0);
            if let Err(error) = plan::rewrite(copy, cursor) {
                raise(error);
            }
            (*query).plannedstmt = copy;
        }
        if (*statement).parallelModeNeeded {
            crate::pg::shared::lead_query();
        }
        match EXECUTOR_START {
            Some(next) => next(query, flags),
            None => executor::standard_ExecutorStart(query, flags),
        }
    }
}

/// Notes how many rows are wanted, so that no more are read ahead. A cursor asks for some of them.
#[cfg(not(feature = "pg18"))]
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn executor_run(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
    once: bool,
) {
    // SAFETY: hands on what it was given.
    unsafe {
        let before = executor::begin_run((*query).estate, count);
        match EXECUTOR_RUN {
            Some(next) => next(query, direction, count, once),
            None => executor::standard_ExecutorRun(query, direction, count, once),
        }
        executor::end_run(before);
    }
}

/// As above; from PostgreSQL 18 on a query does not say that it runs once.
#[cfg(feature = "pg18")]
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn executor_run(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
) {
    // SAFETY: hands on what it was given.
    unsafe {
        let before = executor::begin_run((*query).estate, count);
        match EXECUTOR_RUN {
            Some(next) => next(query, direction, count),
            None => executor::standard_ExecutorRun(query, direction, count),
        }
        executor::end_run(before);
    }
}
