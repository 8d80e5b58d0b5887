//! The lock of a job: held by a session, over its transactions, until the run ends.
//!
//! It is no advisory lock, which any role could take to keep a job from running.

use pgrx::pg_sys::{self, Oid};

fn tag(class: Oid, job: i32) -> pg_sys::LOCKTAG {
    // SAFETY: reads a variable.
    let database = unsafe { pg_sys::MyDatabaseId };
    pg_sys::LOCKTAG {
        locktag_field1: database.into(),
        locktag_field2: class.into(),
        locktag_field3: u32::from_ne_bytes(job.to_ne_bytes()),
        locktag_field4: 0,
        locktag_type: pg_sys::LockTagType::LOCKTAG_OBJECT.to_le_bytes()[0],
        locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD.to_le_bytes()[0],
    }
}

/// The table of jobs: the class of the lock.
pub(crate) fn class() -> Oid {
    // SAFETY: looks two names up; the table is there as long as the extension's functions are.
    unsafe { pg_sys::get_relname_relid(c"job".as_ptr(), pg_sys::get_namespace_oid(c"predict".as_ptr(), false)) }
}

/// Takes the lock of a job, if nobody else has it. One that this session has it has still, once.
pub(crate) fn take(job: i32) -> bool {
    let tag = tag(class(), job);
    let mode = pg_sys::ExclusiveLock.cast_signed();
    // SAFETY: the tag is valid; a lock taken twice is given back once.
    unsafe {
        match pg_sys::LockAcquire(&raw const tag, mode, true, true) {
            pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL => false,
            pg_sys::LockAcquireResult::LOCKACQUIRE_ALREADY_HELD
            | pg_sys::LockAcquireResult::LOCKACQUIRE_ALREADY_CLEAR => {
                pg_sys::LockRelease(&raw const tag, mode, true);
                true
            }
            _ => true,
        }
    }
}

/// Gives the lock of a job back.
pub(crate) fn give_back(job: i32) -> bool {
    let tag = tag(class(), job);
    // SAFETY: the tag is valid; a lock that is not held makes a warning.
    unsafe { pg_sys::LockRelease(&raw const tag, pg_sys::ExclusiveLock.cast_signed(), true) }
}
