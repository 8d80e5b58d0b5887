//! The current backend process: its parallel leader and its pending interrupts.

use pgrx::pg_sys;

/// The process id of the parallel leader, or of this process if it is not a parallel worker.
pub(crate) fn leader() -> i32 {
    // SAFETY: the lock group of a worker points to the entry of its leader, which stays valid until the worker has
    // exited.
    unsafe {
        let leader = (*pg_sys::MyProc).lockGroupLeader;
        if leader.is_null() { pg_sys::MyProcPid } else { (*leader).pid }
    }
}

/// Whether this process is a parallel worker.
pub(crate) fn is_worker() -> bool {
    // SAFETY: reads a variable.
    unsafe { pg_sys::ParallelWorkerNumber >= 0 }
}

/// Whether `check_interrupts` has something to process.
pub(crate) fn is_interrupted() -> bool {
    // SAFETY: reads variables, of which a signal handler sets the first.
    unsafe {
        let is_pending = (&raw const pg_sys::InterruptPending).read_volatile() != 0;
        is_pending && pg_sys::InterruptHoldoffCount == 0 && pg_sys::CritSectionCount == 0
    }
}

/// Processes pending interrupts. Raises an error for a cancel, a terminate or a timeout.
pub(crate) fn check_interrupts() {
    pg_sys::check_for_interrupts!();
}
