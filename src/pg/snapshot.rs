//! What of the database a query sees, in a form that can be compared.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use pgrx::pg_sys::{self, Oid};

/// A state of the database as one query of one transaction sees it, and who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    others: Others,
    transaction: u32,
    /// Changes that a subtransaction takes back when it fails are seen by no number of a command.
    subtransaction: u32,
    command: u32,
    user: Oid,
    /// The transaction has changed something, or may have.
    writes: bool,
}

/// Which other transactions count as ended: what a snapshot says of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Others {
    xmin: u32,
    xmax: u32,
    /// A hash of those that were running.
    running: u64,
}

impl Seen {
    /// Whether committed rows look the same in a later state: the same transactions count as ended, and none of the two has changes of
    /// its own, which a snapshot does not tell.
    pub(crate) fn is_still(&self, now: &Self) -> bool {
        self.others.xmax != 0 && self.others == now.others && !self.writes && !now.writes
    }
}

/// What the query under way sees.
pub(crate) fn seen() -> Seen {
    // SAFETY: reads the active snapshot, which every executing query has, and its arrays, which are as long as it says.
    unsafe {
        let snapshot = if pg_sys::ActiveSnapshotSet() { pg_sys::GetActiveSnapshot() } else { std::ptr::null_mut() };
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        let transaction = (*pg_sys::MyProc).lxid;
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        let transaction = (*pg_sys::MyProc).vxid.lxid;
        let mut seen = Seen {
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
                // A copied snapshot that has lost track of subtransactions counts them still, and has no array.
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

/// Whether there is a snapshot to read with.
pub(crate) fn is_active() -> bool {
    // SAFETY: reads a variable.
    unsafe { pg_sys::ActiveSnapshotSet() }
}
