//! Shared memory of the backends: counters of each version, and the sessions and running queries of each backend.
//!
//! It exists if the library is in shared_preload_libraries. Otherwise nothing is counted, and nothing else changes.
//!
//! Locking rules:
//! - Every field is an atomic, so a reader never sees a torn word.
//! - Any backend adds to the counters of a version without a lock, usually a batch or more at a time.
//! - Only the backend itself writes the sessions and queries of its entry. Its change counter is odd during a write,
//!   and readers then retry.
//! - One lock guards the assignment of entries to versions, the error messages, and the counted calls of parallel
//!   queries. Code that holds it must not raise an error or take another lock.

use std::sync::atomic::{AtomicI32, AtomicI64, AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};
use std::time::Duration;

use pgrx::pg_sys;

use crate::pg::process;
use crate::pg::process::is_worker;
use crate::runtime::activity::EPOCH;
use crate::runtime::model_counters::{COUNTERS, MINE};

/// Maximum number of counted versions. The least recently used one is replaced.
pub(crate) const MODELS: usize = 1024;

/// Maximum number of sessions that a backend shows.
pub(crate) const SESSIONS: usize = 32;

/// Maximum number of queries that a backend shows. Queries nest, and each call in a query counts as one.
const QUERIES: usize = 8;

/// Maximum number of versions whose calls are deduplicated in one parallel query.
const CLAIMS: usize = 16;

pub(crate) const RELAXED: Ordering = Ordering::Relaxed;

/// Text in atomic words.
#[repr(C)]
pub(crate) struct Words<const N: usize>([AtomicU64; N]);

impl<const N: usize> Words<N> {
    /// Writes the bytes, truncated to the available space.
    pub(crate) fn set(&self, bytes: &[u8]) {
        for (i, word) in self.0.iter().enumerate() {
            let mut eight = [0; 8];
            let part = bytes.get(i * 8..).unwrap_or_default();
            let n = part.len().min(8);
            eight[..n].copy_from_slice(&part[..n]);
            word.store(u64::from_ne_bytes(eight), RELAXED);
        }
    }

    pub(crate) fn get(&self) -> Vec<u8> {
        self.0.iter().flat_map(|word| word.load(RELAXED).to_ne_bytes()).collect()
    }

    pub(crate) fn text(&self) -> String {
        let bytes = self.get();
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).trim_end_matches('\u{fffd}').to_owned()
    }
}

/// The name of a model: at most 63 bytes.
type Name = Words<8>;

#[repr(C)]
pub(crate) struct ModelPlace {
    /// Changes with each version that uses the entry. 0: never used.
    pub(crate) generation: AtomicU32,
    pub(crate) database: AtomicU32,
    pub(crate) number: AtomicI32,
    pub(crate) name: Name,
    pub(crate) hash: Words<4>,
    pub(crate) counters: [AtomicU64; COUNTERS],
    pub(crate) last_used: AtomicI64,
    pub(crate) reset: AtomicI64,
    pub(crate) error_at: AtomicI64,
    pub(crate) error: Words<48>,
}

#[repr(C)]
pub(crate) struct SessionPlace {
    pub(crate) name: Name,
    pub(crate) number: AtomicI32,
    pub(crate) threads: AtomicU32,
    pub(crate) bytes: AtomicU64,
    pub(crate) device: Words<2>,
    pub(crate) loaded: AtomicI64,
    pub(crate) used: AtomicI64,
}

#[repr(C)]
pub(crate) struct QueryPlace {
    /// Whether the entry shows a query.
    pub(crate) taken: AtomicU32,
    pub(crate) phase: AtomicU32,
    pub(crate) form: AtomicU32,
    pub(crate) number: AtomicI32,
    pub(crate) name: Name,
    pub(crate) rows: AtomicU64,
    pub(crate) batches: AtomicU64,
    /// `u64::MAX` if it is not known.
    pub(crate) expected: AtomicU64,
    pub(crate) started: AtomicI64,
}

/// The number of calls of a version that have been counted for a parallel query.
#[repr(C)]
pub(crate) struct Claim {
    pub(crate) query: AtomicU64,
    pub(crate) place: AtomicU32,
    pub(crate) calls: AtomicU32,
}

#[repr(C)]
pub(crate) struct BackendPlace {
    /// 0: the entry is free.
    pub(crate) pid: AtomicI32,
    pub(crate) leader: AtomicI32,
    pub(crate) database: AtomicU32,
    pub(crate) role: AtomicU32,
    /// Odd while its backend writes.
    pub(crate) change: AtomicU32,
    pub(crate) sessions_kept: AtomicU32,
    /// The process id of its model process. 0: none.
    pub(crate) process: AtomicI32,
    /// Identifies the parallel query that it leads. Incremented per query.
    pub(crate) queries_led: AtomicU64,
    pub(crate) claims: [Claim; CLAIMS],
    pub(crate) sessions: [SessionPlace; SESSIONS],
    pub(crate) queries: [QueryPlace; QUERIES],
}

#[repr(C)]
pub(crate) struct SharedHeader {
    /// Number of used version entries, from the first.
    pub(crate) used: AtomicU32,
    pub(crate) backends: AtomicU32,
}

static HEAD: AtomicPtr<SharedHeader> = AtomicPtr::new(std::ptr::null_mut());

static LOCK: AtomicPtr<pg_sys::LWLock> = AtomicPtr::new(std::ptr::null_mut());

static mut REQUEST: pg_sys::shmem_request_hook_type = None;

static mut STARTUP: pg_sys::shmem_startup_hook_type = None;

const TRANCHE: &std::ffi::CStr = c"pg_predict";

pub(crate) fn backends() -> usize {
    // SAFETY: the postmaster sets it before it requests shared memory.
    usize::try_from(unsafe { pg_sys::MaxBackends }).unwrap_or(0)
}

/// Converts a small count for shared memory.
pub(crate) fn narrow(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Converts an estimate of rows to an integer.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "such a cast ends at the bounds of the type"
)]
pub(crate) fn count(rows: f64) -> u64 {
    rows as u64
}

/// Converts a time to nanoseconds, the unit of the counters.
pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn size() -> usize {
    size_of::<SharedHeader>().next_multiple_of(64)
        + MODELS * size_of::<ModelPlace>()
        + backends() * size_of::<BackendPlace>()
}

/// Requests shared memory if the library is being preloaded. Called by _PG_init.
pub(crate) fn init() {
    // SAFETY: called once, by _PG_init; the hooks are chained.
    unsafe {
        if !pg_sys::process_shared_preload_libraries_in_progress {
            return;
        }
        REQUEST = pg_sys::shmem_request_hook;
        pg_sys::shmem_request_hook = Some(request);
        STARTUP = pg_sys::shmem_startup_hook;
        pg_sys::shmem_startup_hook = Some(startup);
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn request() {
    // SAFETY: the postmaster calls this hook when memory may be requested.
    unsafe {
        if let Some(next) = REQUEST {
            next();
        }
        pg_sys::RequestAddinShmemSpace(size());
        pg_sys::RequestNamedLWLockTranche(TRANCHE.as_ptr(), 1);
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn startup() {
    // SAFETY: the postmaster calls this hook once, and again after a crash, before it has children. All zeros is valid
    // for every field.
    unsafe {
        if let Some(next) = STARTUP {
            next();
        }
        let mut found = false;
        let memory = pg_sys::ShmemInitStruct(c"pg_predict".as_ptr(), size(), &raw mut found);
        if !found {
            std::ptr::write_bytes(memory.cast::<u8>(), 0, size());
            (*memory.cast::<SharedHeader>()).backends.store(narrow(backends()), RELAXED);
        }
        LOCK.store(&raw mut (*pg_sys::GetNamedLWLockTranche(TRANCHE.as_ptr())).lock, RELAXED);
        HEAD.store(memory.cast(), RELAXED);
    }
}

/// The shared memory.
#[derive(Clone, Copy)]
pub(crate) struct SharedState {
    pub(crate) head: &'static SharedHeader,
    pub(crate) models: &'static [ModelPlace],
    pub(crate) backends: &'static [BackendPlace],
}

/// Whether statistics are collected.
pub(crate) fn is_there() -> bool {
    !HEAD.load(RELAXED).is_null()
}

pub(crate) fn shared() -> Option<SharedState> {
    let head = HEAD.load(RELAXED);
    if head.is_null() {
        return None;
    }
    // SAFETY: `startup` used the same memory layout. The memory exists as long as the process, and all fields are
    // atomics.
    unsafe {
        let models = head.cast::<u8>().add(size_of::<SharedHeader>().next_multiple_of(64)).cast::<ModelPlace>();
        let backends = models.add(MODELS).cast::<BackendPlace>();
        Some(SharedState {
            head: &*head,
            models: std::slice::from_raw_parts(models, MODELS),
            backends: std::slice::from_raw_parts(backends, (*head).backends.load(RELAXED) as usize),
        })
    }
}

/// A guard that holds the lock.
pub(crate) struct Locked(*mut pg_sys::LWLock);

pub(crate) fn lock(exclusive: bool) -> Locked {
    let lock = LOCK.load(RELAXED);
    let mode = if exclusive { pg_sys::LWLockMode::LW_EXCLUSIVE } else { pg_sys::LWLockMode::LW_SHARED };
    // SAFETY: the lock exists if the shared memory does.
    unsafe { pg_sys::LWLockAcquire(lock, mode) };
    Locked(lock)
}

impl Drop for Locked {
    fn drop(&mut self) {
        // SAFETY: held since `lock`. Code that holds it raises no error.
        unsafe { pg_sys::LWLockRelease(self.0) };
    }
}

pub(crate) fn now() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() + EPOCH }
}

pub(crate) fn database() -> u32 {
    // SAFETY: reads a variable.
    unsafe { pg_sys::MyDatabaseId.into() }
}

impl ModelPlace {
    pub(crate) fn clear(&self) {
        self.counters.iter().for_each(|c| c.store(0, RELAXED));
        self.last_used.store(0, RELAXED);
        self.error_at.store(0, RELAXED);
        self.error.set(&[]);
        self.reset.store(now(), RELAXED);
    }
}

/// Frees the entry of a backend at its exit.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn leave(_code: i32, _argument: pg_sys::Datum) {
    if let Some(mine) = MINE.take() {
        mine.queries.iter().for_each(|q| q.taken.store(0, RELAXED));
        mine.sessions_kept.store(0, RELAXED);
        mine.process.store(0, RELAXED);
        mine.pid.store(0, Ordering::Release);
    }
}

/// Returns the entry of this backend, and claims one at first use.
pub(crate) fn mine() -> Option<&'static BackendPlace> {
    if let Some(mine) = MINE.with_borrow(|m| *m) {
        return Some(mine);
    }
    // SAFETY: reads variables of this process.
    let (pid, role) = unsafe { (pg_sys::MyProcPid, pg_sys::GetSessionUserId()) };
    let free = |place: &&BackendPlace| place.pid.compare_exchange(0, pid, Ordering::AcqRel, RELAXED).is_ok();
    let mine = shared()?.backends.iter().find(free)?;
    mine.leader.store(if is_worker() { process::leader() } else { 0 }, RELAXED);
    mine.database.store(database(), RELAXED);
    mine.role.store(role.into(), RELAXED);
    mine.sessions_kept.store(0, RELAXED);
    mine.process.store(0, RELAXED);
    mine.queries_led.store(u64::from(pid.unsigned_abs()) << 32, RELAXED);
    MINE.with_borrow_mut(|m| *m = Some(mine));
    // SAFETY: registers a function that is never unloaded.
    unsafe { pg_sys::before_shmem_exit(Some(leave), pg_sys::Datum::from(0)) };
    Some(mine)
}

/// Returns the entry of the leader of a parallel query.
pub(crate) fn leading_place() -> Option<&'static BackendPlace> {
    if !is_worker() {
        return mine();
    }
    let leader = process::leader();
    shared()?.backends.iter().find(|place| place.pid.load(Ordering::Acquire) == leader)
}

impl BackendPlace {
    pub(crate) fn writing(&self, write: impl FnOnce()) {
        self.change.fetch_add(1, Ordering::AcqRel);
        fence(Ordering::Release);
        write();
        self.change.fetch_add(1, Ordering::AcqRel);
    }

    /// Reads fields that the backend may be writing. Retries up to 100 times, and then returns a possibly inconsistent
    /// result.
    pub(crate) fn read<T>(&self, mut read: impl FnMut() -> T) -> T {
        for _ in 0..100 {
            let before = self.change.load(Ordering::Acquire);
            let value = read();
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.change.load(RELAXED) == before {
                return value;
            }
            std::hint::spin_loop();
        }
        read()
    }
}
