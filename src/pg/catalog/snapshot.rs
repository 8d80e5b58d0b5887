//! A comparable form of what a query sees of the database.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use pgrx::pg_sys::{self, Oid};

/// What one query of one transaction sees of the database, and the user of the query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SnapshotState {
    others: Others,
    transaction: u32,
    /// Command numbers do not reveal that a failed subtransaction rolled back its changes. The subtransaction id does.
    subtransaction: u32,
    command: u32,
    user: Oid,
    /// Whether the transaction has changed something, or may have.
    writes: bool,
}

/// Which other transactions the snapshot treats as finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Others {
    xmin: u32,
    xmax: u32,
    /// A hash of the transactions that were running.
    running: u64,
}

impl SnapshotState {
    /// Whether committed rows look the same in a later state. Both states must treat the same transactions as finished.
    /// Neither transaction may have changes of its own, which a snapshot does not reveal.
    pub(crate) fn is_still(&self, now: &Self) -> bool {
        self.others.xmax != 0 && self.others == now.others && !self.writes && !now.writes
    }
}

/// Returns the state that the current query sees.
pub(crate) fn seen() -> SnapshotState {
    // SAFETY: reads the active snapshot, if there is one, and its arrays, whose lengths it contains.
    unsafe {
        let snapshot = if pg_sys::ActiveSnapshotSet() { pg_sys::GetActiveSnapshot() } else { std::ptr::null_mut() };
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        let transaction = (*pg_sys::MyProc).lxid;
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        let transaction = (*pg_sys::MyProc).vxid.lxid;
        let mut seen = SnapshotState {
            others: Others { xmin: 0, xmax: 0, running: 0 },
            transaction,
            subtransaction: pg_sys::GetCurrentSubTransactionId(),
            command: 0,
            user: pg_sys::GetUserId(),
            writes: true,
        };
        if let Some(snapshot) = snapshot.as_ref()
            && snapshot.snapshot_type == pg_sys::SnapshotType::SNAPSHOT_MVCC
        {
            let numbers = |at: *mut pg_sys::TransactionId, count: usize| {
                // A copied snapshot whose subtransactions overflowed keeps the count but has no array.
                if count == 0 || at.is_null() { &[][..] } else { std::slice::from_raw_parts(at.cast::<u32>(), count) }
            };
            let running = (
                numbers(snapshot.xip, snapshot.xcnt as usize),
                numbers(snapshot.subxip, usize::try_from(snapshot.subxcnt).unwrap_or(0)),
                snapshot.suboverflowed,
                snapshot.takenDuringRecovery,
            );
            seen.others = Others {
                xmin: u32::from(snapshot.xmin),
                xmax: u32::from(snapshot.xmax),
                running: FixedState::default().hash_one(running),
            };
            seen.command = snapshot.curcid;
            seen.writes = snapshot.curcid != 0 || u32::from(pg_sys::GetTopTransactionIdIfAny()) != 0;
        }
        seen
    }
}

/// Whether a snapshot is active.
pub(crate) fn is_active() -> bool {
    // SAFETY: reads a variable.
    unsafe { pg_sys::ActiveSnapshotSet() }
}
