//! What of the database a query sees, in a form that can be compared.

use pgrx::pg_sys;

/// A state of the database as one transaction sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    transaction: u32,
    command: u32,
    completed: u64,
}

/// What the query under way sees: its transaction, how far its own changes are visible, and how many transactions had
/// ended when its snapshot was taken.
pub(crate) fn seen() -> Seen {
    // SAFETY: reads the active snapshot, which every executing query has.
    unsafe {
        let snapshot = if pg_sys::ActiveSnapshotSet() { pg_sys::GetActiveSnapshot() } else { std::ptr::null_mut() };
        let (command, completed) =
            if snapshot.is_null() { (0, 0) } else { ((*snapshot).curcid, (*snapshot).snapXactCompletionCount) };
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        let transaction = (*pg_sys::MyProc).lxid;
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        let transaction = (*pg_sys::MyProc).vxid.lxid;
        Seen { transaction, command, completed }
    }
}

/// Whether there is a snapshot to read with.
pub(crate) fn is_active() -> bool {
    // SAFETY: reads a variable.
    unsafe { pg_sys::ActiveSnapshotSet() }
}
