//! PostgreSQL's planner and executor without pgrx's guard around them, which turns an error into a Rust panic and back, and on
//! the way loses where in the query it was and what it was doing. An error jumps over the frames that call these: none of
//! them may own a value.

use std::ffi::{c_char, c_int};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use pgrx::pg_sys;

/// The run of a query that is going on: its number, the state of its query, and the rows that are wanted of it (0: all). Only the
/// backend's own thread uses them.
static RUN: AtomicU64 = AtomicU64::new(0);
static RUNS: AtomicU64 = AtomicU64::new(0);
static QUERY: AtomicUsize = AtomicUsize::new(0);
static WANTED: AtomicU64 = AtomicU64::new(0);

/// What was going on before a run.
#[derive(Clone, Copy)]
pub(super) struct Before(u64, usize, u64);

/// Notes that a query runs for so many rows.
pub(super) fn begin_run(query: *const pg_sys::EState, wanted: u64) -> Before {
    let order = Ordering::Relaxed;
    let before = Before(RUN.load(order), QUERY.load(order), WANTED.load(order));
    RUN.store(RUNS.fetch_add(1, order) + 1, order);
    QUERY.store(query as usize, order);
    WANTED.store(wanted, order);
    before
}

/// Notes that the run is over. After an error nothing does: the next run notes its own.
pub(super) fn end_run(before: Before) {
    RUN.store(before.0, Ordering::Relaxed);
    QUERY.store(before.1, Ordering::Relaxed);
    WANTED.store(before.2, Ordering::Relaxed);
}

/// The number of the run that is going on.
#[inline(always)]
pub(super) fn run() -> u64 {
    RUN.load(Ordering::Relaxed)
}

/// The rows that are wanted of a query in the run that is going on (0: all); none where another query runs.
pub(super) fn rows_wanted(query: *const pg_sys::EState) -> Option<u64> {
    (QUERY.load(Ordering::Relaxed) == query as usize).then(|| WANTED.load(Ordering::Relaxed))
}

unsafe extern "C-unwind" {
    pub(super) fn standard_planner(
        query: *mut pg_sys::Query,
        text: *const c_char,
        options: c_int,
        parameters: pg_sys::ParamListInfo,
    ) -> *mut pg_sys::PlannedStmt;
    pub(super) fn standard_ExecutorStart(query: *mut pg_sys::QueryDesc, flags: c_int);
    #[cfg(not(feature = "pg18"))]
    pub(super) fn standard_ExecutorRun(
        query: *mut pg_sys::QueryDesc,
        direction: pg_sys::ScanDirection::Type,
        count: u64,
        once: bool,
    );
    #[cfg(feature = "pg18")]
    pub(super) fn standard_ExecutorRun(
        query: *mut pg_sys::QueryDesc,
        direction: pg_sys::ScanDirection::Type,
        count: u64,
    );
    pub(super) fn ExecInitNode(
        plan: *mut pg_sys::Plan,
        state: *mut pg_sys::EState,
        flags: c_int,
    ) -> *mut pg_sys::PlanState;
    pub(super) fn ExecSetTupleBound(rows: i64, node: *mut pg_sys::PlanState);
    pub(super) fn ExecReScan(node: *mut pg_sys::PlanState);
    pub(super) fn ExecEndNode(node: *mut pg_sys::PlanState);
    pub(super) fn slot_getsomeattrs_int(slot: *mut pg_sys::TupleTableSlot, attribute: c_int);
    pub(super) fn MemoryContextReset(context: pg_sys::MemoryContext);
}
