//! The lock of a job. A session holds it across transactions until the job run ends.
//!
//! It is not an advisory lock, because any role could take an advisory lock and block the job.

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

/// The OID of the table `predict.job`, which is the class in the lock tag.
pub(crate) fn class() -> Oid {
    // SAFETY: looks up two names. The table exists as long as the extension's functions do.
    unsafe { pg_sys::get_relname_relid(c"job".as_ptr(), pg_sys::get_namespace_oid(c"predict".as_ptr(), false)) }
}

/// Takes the lock of a job if no other session holds it. If this session already holds it, it stays held once.
pub(crate) fn take(job: i32) -> bool {
    let tag = tag(class(), job);
    let mode = pg_sys::ExclusiveLock.cast_signed();
    // SAFETY: the tag is valid. If the lock was already held, the second hold is released.
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

/// Releases the lock of a job.
pub(crate) fn give_back(job: i32) -> bool {
    let tag = tag(class(), job);
    // SAFETY: the tag is valid. PostgreSQL reports a warning if the lock is not held.
    unsafe { pg_sys::LockRelease(&raw const tag, pg_sys::ExclusiveLock.cast_signed(), true) }
}
