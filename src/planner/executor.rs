//! Declares functions of PostgreSQL's planner and executor without pgrx's guard.
//!
//! The guard turns an error into a Rust panic and back, which loses the error's position in the query and its context.
//! An error in these functions jumps over the frames of their callers. No such frame may own a value with a destructor.

use std::ffi::{c_char, c_int};

use pgrx::pg_sys;

unsafe extern "C-unwind" {
    pub(crate) fn standard_planner(
        query: *mut pg_sys::Query,
        text: *const c_char,
        options: c_int,
        parameters: pg_sys::ParamListInfo,
    ) -> *mut pg_sys::PlannedStmt;
    pub(crate) fn standard_ExecutorStart(query: *mut pg_sys::QueryDesc, flags: c_int);
    #[cfg(not(feature = "pg18"))]
    pub(crate) fn standard_ExecutorRun(
        query: *mut pg_sys::QueryDesc,
        direction: pg_sys::ScanDirection::Type,
        count: u64,
        once: bool,
    );
    #[cfg(feature = "pg18")]
    pub(crate) fn standard_ExecutorRun(
        query: *mut pg_sys::QueryDesc,
        direction: pg_sys::ScanDirection::Type,
        count: u64,
    );
    pub(crate) fn ExecInitNode(
        plan: *mut pg_sys::Plan,
        state: *mut pg_sys::EState,
        flags: c_int,
    ) -> *mut pg_sys::PlanState;
    pub(crate) fn ExecSetTupleBound(rows: i64, node: *mut pg_sys::PlanState);
    pub(crate) fn ExecReScan(node: *mut pg_sys::PlanState);
    pub(crate) fn ExecEndNode(node: *mut pg_sys::PlanState);
    pub(crate) fn slot_getsomeattrs_int(slot: *mut pg_sys::TupleTableSlot, attribute: c_int);
    pub(crate) fn MemoryContextReset(context: pg_sys::MemoryContext);
}
