//! PostgreSQL's planner and executor without pgrx's guard around them, which turns an error into a Rust panic and back, and on
//! the way loses where in the query it was and what it was doing. An error jumps over the frames that call these: none of
//! them may own a value.

use std::ffi::{c_char, c_int};

use pgrx::pg_sys;

unsafe extern "C-unwind" {
    pub(super) fn standard_planner(
        query: *mut pg_sys::Query,
        text: *const c_char,
        options: c_int,
        parameters: pg_sys::ParamListInfo,
    ) -> *mut pg_sys::PlannedStmt;
    pub(super) fn standard_ExecutorStart(query: *mut pg_sys::QueryDesc, flags: c_int);
    pub(super) fn ExecInitNode(
        plan: *mut pg_sys::Plan,
        state: *mut pg_sys::EState,
        flags: c_int,
    ) -> *mut pg_sys::PlanState;
    pub(super) fn ExecReScan(node: *mut pg_sys::PlanState);
    pub(super) fn ExecEndNode(node: *mut pg_sys::PlanState);
    pub(super) fn slot_getsomeattrs_int(slot: *mut pg_sys::TupleTableSlot, attribute: c_int);
    pub(super) fn MemoryContextReset(context: pg_sys::MemoryContext);
}
