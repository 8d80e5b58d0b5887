//! The current executor run: its number, the state of its query and the number of rows that it requests.
//!
//! Executor hooks record it. An error skips the end of a run. The abort of the transaction or subtransaction then
//! clears the query, so that its freed state is never read.

use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use pgrx::pg_sys;

// Only the main thread of the backend uses them.
static RUN: AtomicU64 = AtomicU64::new(0);
static RUNS: AtomicU64 = AtomicU64::new(0);
static QUERY: AtomicPtr<pg_sys::EState> = AtomicPtr::new(std::ptr::null_mut());
static WANTED: AtomicU64 = AtomicU64::new(0);

/// The values that were in force before a run. `end` restores them.
#[derive(Clone, Copy)]
pub(crate) struct Before(u64, *mut pg_sys::EState, u64);

/// Records the start of a run. `wanted` is the number of requested rows (0: all).
pub(crate) fn begin(query: *mut pg_sys::EState, wanted: u64) -> Before {
    let order = Ordering::Relaxed;
    let before = Before(RUN.load(order), QUERY.load(order), WANTED.load(order));
    RUN.store(RUNS.fetch_add(1, order) + 1, order);
    QUERY.store(query, order);
    WANTED.store(wanted, order);
    before
}

/// Records the end of a run.
pub(crate) fn end(before: Before) {
    RUN.store(before.0, Ordering::Relaxed);
    QUERY.store(before.1, Ordering::Relaxed);
    WANTED.store(before.2, Ordering::Relaxed);
}

/// Clears the query after an error.
pub(crate) fn forget_query() {
    QUERY.store(std::ptr::null_mut(), Ordering::Relaxed);
}

/// The number of the current run.
#[inline(always)]
pub(crate) fn number() -> u64 {
    RUN.load(Ordering::Relaxed)
}

/// The state of the running query, or null if it is not known.
pub(crate) fn query() -> *const pg_sys::EState {
    QUERY.load(Ordering::Relaxed)
}

/// The number of rows that the current run requests (0: all), or `None` if another query runs.
pub(crate) fn rows_wanted(of: *const pg_sys::EState) -> Option<u64> {
    (query() == of).then(|| WANTED.load(Ordering::Relaxed))
}
