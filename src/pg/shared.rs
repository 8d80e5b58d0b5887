//! What backends keep in shared memory: counters of each version, the sessions and the running queries of each backend.
//!
//! It is there when the library is in shared_preload_libraries; without it nothing is counted and nothing else changes.
//! Everything in it is an atomic, so that a reader never sees a torn word. A version's counters are added to by any backend,
//! a batch or more at a time, without a lock. What a backend says of itself is written by it alone; a counter that is odd
//! while it writes lets readers try again. The one lock guards who has which place among the versions, the texts of errors,
//! and which calls of a parallel query have been counted; under it nothing can raise, and no other lock is taken.

use std::cell::RefCell;
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

use pg_predict_engine::version::Version;
use pgrx::pg_sys;

use crate::pg::exchange;
use crate::pg::sessions::is_worker;

/// Versions that are counted; the one not used for longest makes room for another.
const MODELS: usize = 1024;
/// Sessions that a backend shows.
const SESSIONS: usize = 32;
/// Queries that a backend shows: they nest, and each call in them is one.
const QUERIES: usize = 8;
/// Versions of a parallel query whose calls are told apart.
const CLAIMS: usize = 16;
/// Rows are told to shared memory after so many calls of one row each.
const CALLS_KEPT: u64 = 256;

const RELAXED: Ordering = Ordering::Relaxed;

/// Microseconds from 1970, PostgreSQL's zero is in 2000.
const EPOCH: i64 = 946_684_800_000_000;

/// Text, in words.
#[repr(C)]
struct Words<const N: usize>([AtomicU64; N]);

impl<const N: usize> Words<N> {
    /// Writes as much of it as there is room for.
    fn set(&self, bytes: &[u8]) {
        for (i, word) in self.0.iter().enumerate() {
            let mut eight = [0; 8];
            let part = bytes.get(i * 8..).unwrap_or_default();
            let n = part.len().min(8);
            eight[..n].copy_from_slice(&part[..n]);
            word.store(u64::from_ne_bytes(eight), RELAXED);
        }
    }

    fn get(&self) -> Vec<u8> {
        self.0.iter().flat_map(|word| word.load(RELAXED).to_ne_bytes()).collect()
    }

    fn text(&self) -> String {
        let bytes = self.get();
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).trim_end_matches('\u{fffd}').to_owned()
    }
}

/// A model's name: at most 63 bytes.
type Name = Words<8>;

/// What is counted of a version.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(usize)]
pub(crate) enum Counter {
    Calls,
    Rows,
    NullRows,
    FailedRows,
    Batches,
    RunNanos,
    WaitNanos,
    Tokens,
    Loads,
    LoadNanos,
    Evictions,
    Errors,
}

const COUNTERS: usize = Counter::Errors as usize + 1;

#[repr(C)]
struct ModelPlace {
    /// Changes with each version that has the place; 0: nobody has had it.
    generation: AtomicU32,
    database: AtomicU32,
    number: AtomicI32,
    name: Name,
    hash: Words<4>,
    counters: [AtomicU64; COUNTERS],
    last_used: AtomicI64,
    reset: AtomicI64,
    error_at: AtomicI64,
    error: Words<48>,
}

#[repr(C)]
struct SessionPlace {
    name: Name,
    number: AtomicI32,
    threads: AtomicU32,
    bytes: AtomicU64,
    device: Words<2>,
    loaded: AtomicI64,
    used: AtomicI64,
}

#[repr(C)]
struct QueryPlace {
    /// Whether a query is in it.
    taken: AtomicU32,
    phase: AtomicU32,
    form: AtomicU32,
    number: AtomicI32,
    name: Name,
    rows: AtomicU64,
    batches: AtomicU64,
    /// `u64::MAX` where it is not known.
    expected: AtomicU64,
    started: AtomicI64,
}

/// Calls of a version that a parallel query has been seen to make.
#[repr(C)]
struct Claim {
    query: AtomicU64,
    place: AtomicU32,
    calls: AtomicU32,
}

#[repr(C)]
struct BackendPlace {
    /// 0: the place is free.
    pid: AtomicI32,
    leader: AtomicI32,
    database: AtomicU32,
    role: AtomicU32,
    /// Odd while its backend writes.
    change: AtomicU32,
    sessions_kept: AtomicU32,
    /// Parallel queries that it has led.
    queries_led: AtomicU64,
    claims: [Claim; CLAIMS],
    sessions: [SessionPlace; SESSIONS],
    queries: [QueryPlace; QUERIES],
}

#[repr(C)]
struct Head {
    /// Places among the versions that have been used, from the first.
    used: AtomicU32,
    backends: AtomicU32,
}

static HEAD: AtomicPtr<Head> = AtomicPtr::new(std::ptr::null_mut());
static LOCK: AtomicPtr<pg_sys::LWLock> = AtomicPtr::new(std::ptr::null_mut());

static mut REQUEST: pg_sys::shmem_request_hook_type = None;
static mut STARTUP: pg_sys::shmem_startup_hook_type = None;

const TRANCHE: &std::ffi::CStr = c"pg_predict";

fn backends() -> usize {
    // SAFETY: set by the postmaster before it asks for shared memory.
    usize::try_from(unsafe { pg_sys::MaxBackends }).unwrap_or(0)
}

/// A number of things of which there are few, as shared memory keeps it.
fn narrow(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// An estimate of rows as a number of them.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "such a cast ends at the bounds of the type"
)]
fn count(rows: f64) -> u64 {
    rows as u64
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn size() -> usize {
    size_of::<Head>().next_multiple_of(64) + MODELS * size_of::<ModelPlace>() + backends() * size_of::<BackendPlace>()
}

/// Asks for the shared memory, where the library is preloaded. Called by _PG_init.
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
    // SAFETY: the postmaster calls this when memory may be asked for.
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
    // SAFETY: the postmaster calls this once, and again after a crash, before it has children. All zero is a value of
    // every field.
    unsafe {
        if let Some(next) = STARTUP {
            next();
        }
        let mut found = false;
        let memory = pg_sys::ShmemInitStruct(c"pg_predict".as_ptr(), size(), &raw mut found);
        if !found {
            std::ptr::write_bytes(memory.cast::<u8>(), 0, size());
            (*memory.cast::<Head>()).backends.store(narrow(backends()), RELAXED);
        }
        LOCK.store(&raw mut (*pg_sys::GetNamedLWLockTranche(TRANCHE.as_ptr())).lock, RELAXED);
        HEAD.store(memory.cast(), RELAXED);
    }
}

/// The shared memory.
#[derive(Clone, Copy)]
struct Shared {
    head: &'static Head,
    models: &'static [ModelPlace],
    backends: &'static [BackendPlace],
}

/// Whether anything is counted.
pub(crate) fn is_there() -> bool {
    !HEAD.load(RELAXED).is_null()
}

fn shared() -> Option<Shared> {
    let head = HEAD.load(RELAXED);
    if head.is_null() {
        return None;
    }
    // SAFETY: `startup` laid the memory out so; it stays for as long as the process lives, and all of it is atomics.
    unsafe {
        let models = head.cast::<u8>().add(size_of::<Head>().next_multiple_of(64)).cast::<ModelPlace>();
        let backends = models.add(MODELS).cast::<BackendPlace>();
        Some(Shared {
            head: &*head,
            models: std::slice::from_raw_parts(models, MODELS),
            backends: std::slice::from_raw_parts(backends, (*head).backends.load(RELAXED) as usize),
        })
    }
}

/// The lock, held.
struct Locked(*mut pg_sys::LWLock);

fn lock(exclusive: bool) -> Locked {
    let lock = LOCK.load(RELAXED);
    let mode = if exclusive { pg_sys::LWLockMode::LW_EXCLUSIVE } else { pg_sys::LWLockMode::LW_SHARED };
    // SAFETY: the lock is there where the memory is.
    unsafe { pg_sys::LWLockAcquire(lock, mode) };
    Locked(lock)
}

impl Drop for Locked {
    fn drop(&mut self) {
        // SAFETY: held since `lock`; nothing under it raises.
        unsafe { pg_sys::LWLockRelease(self.0) };
    }
}

fn now() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() + EPOCH }
}

fn database() -> u32 {
    // SAFETY: reads a variable.
    unsafe { pg_sys::MyDatabaseId.into() }
}

/// A version's place among the counters; none where nothing is counted.
#[derive(Clone, Copy)]
pub(crate) struct Entry(Option<(&'static ModelPlace, u32, u32)>);

/// A version by name, number and hash, and its place.
type Known = (String, i32, [u8; 32], Entry);

thread_local! {
    /// Places that this backend has looked up.
    static KNOWN: RefCell<Vec<Known>> = const { RefCell::new(Vec::new()) };
    /// This backend's own place.
    static MINE: RefCell<Option<&'static BackendPlace>> = const { RefCell::new(None) };
    /// The parallel query at hand, and its calls of each version that this process has begun.
    static BEGUN: RefCell<(u64, Vec<(u32, u32)>)> = const { RefCell::new((0, Vec::new())) };
}

/// Finds the place of a version, or takes one for it.
pub(crate) fn entry(version: &Version) -> Entry {
    let Some(shared) = shared() else { return Entry(None) };
    let known = KNOWN.with_borrow(|known| {
        let same = |(m, n, h, _): &&Known| *n == version.number && *h == version.hash && *m == version.model;
        known.iter().find(same).map(|(.., entry)| *entry).filter(Entry::is_current)
    });
    if let Some(entry) = known {
        return entry;
    }
    let database = database();
    let is_its = |place: &ModelPlace| {
        place.generation.load(RELAXED) != 0
            && place.database.load(RELAXED) == database
            && place.number.load(RELAXED) == version.number
            && place.hash.get() == version.hash
            && place.name.text() == version.model
    };
    let _locked = lock(true);
    let used = (shared.head.used.load(RELAXED) as usize).min(MODELS);
    let i = match shared.models[..used].iter().position(is_its) {
        Some(i) => i,
        None => {
            let i = if used < MODELS {
                shared.head.used.store(narrow(used + 1), RELAXED);
                used
            } else {
                (0..MODELS).min_by_key(|i| shared.models[*i].last_used.load(RELAXED)).unwrap_or(0)
            };
            let place = &shared.models[i];
            place.generation.store(place.generation.load(RELAXED).wrapping_add(1).max(1), RELAXED);
            place.database.store(database, RELAXED);
            place.number.store(version.number, RELAXED);
            place.name.set(version.model.as_bytes());
            place.hash.set(&version.hash);
            place.clear();
            i
        }
    };
    let place = &shared.models[i];
    let entry = Entry(Some((place, place.generation.load(RELAXED), narrow(i))));
    KNOWN.with_borrow_mut(|known| {
        // One whose place has gone to another version.
        known.retain(|(.., entry)| entry.is_current());
        if known.len() >= 64 {
            known.remove(0);
        }
        known.push((version.model.clone(), version.number, version.hash, entry));
    });
    entry
}

impl ModelPlace {
    fn clear(&self) {
        self.counters.iter().for_each(|c| c.store(0, RELAXED));
        self.last_used.store(0, RELAXED);
        self.error_at.store(0, RELAXED);
        self.error.set(&[]);
        self.reset.store(now(), RELAXED);
    }
}

impl Entry {
    /// Whether the place is still this version's.
    fn is_current(&self) -> bool {
        self.0.is_some_and(|(place, generation, _)| place.generation.load(RELAXED) == generation)
    }

    fn place(&self) -> Option<&'static ModelPlace> {
        self.0.filter(|_| self.is_current()).map(|(place, ..)| place)
    }

    /// Adds to a counter.
    pub(crate) fn add(&self, counter: Counter, n: u64) {
        if let Some(place) = self.place() {
            place.counters[counter as usize].fetch_add(n, RELAXED);
        }
    }

    /// Counts a failure, and keeps what it said.
    pub(crate) fn failed(&self, message: &str) {
        let Some(place) = self.place() else { return };
        place.counters[Counter::Errors as usize].fetch_add(1, RELAXED);
        let at = now();
        let _locked = lock(true);
        place.error.set(message.as_bytes());
        place.error_at.store(at, RELAXED);
        place.last_used.store(at, RELAXED);
    }

    /// Counts a call of the version; in a parallel query only where no other process of it has counted it.
    fn count_call(&self) {
        let Some((_, _, number)) = self.0 else { return };
        // SAFETY: reads whether a parallel query is under way.
        let parallel = is_worker() || unsafe { pg_sys::IsInParallelMode() };
        let leads = if parallel { leading_place() } else { None };
        let Some(leads) = leads else { return self.add(Counter::Calls, 1) };
        let query = leads.queries_led.load(RELAXED);
        let nth = BEGUN.with_borrow_mut(|(of, begun)| {
            if *of != query {
                (*of, *begun) = (query, Vec::new());
            }
            match begun.iter_mut().find(|(n, _)| *n == number) {
                Some((_, calls)) => {
                    *calls += 1;
                    *calls
                }
                None => {
                    begun.push((number, 1));
                    1
                }
            }
        });
        let new = {
            let _locked = lock(true);
            let is_its = |c: &&Claim| c.query.load(RELAXED) == query && c.place.load(RELAXED) == number;
            match leads.claims.iter().find(is_its) {
                Some(claim) => claim.calls.fetch_max(nth, RELAXED) < nth,
                None => {
                    if let Some(claim) = leads.claims.iter().find(|c| c.query.load(RELAXED) != query) {
                        claim.query.store(query, RELAXED);
                        claim.place.store(number, RELAXED);
                        claim.calls.store(nth, RELAXED);
                    }
                    true
                }
            }
        };
        if new {
            self.add(Counter::Calls, 1);
        }
    }
}

/// Gives the place of a backend free when it ends.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn leave(_code: i32, _argument: pg_sys::Datum) {
    if let Some(mine) = MINE.take() {
        mine.queries.iter().for_each(|q| q.taken.store(0, RELAXED));
        mine.sessions_kept.store(0, RELAXED);
        mine.pid.store(0, Ordering::Release);
    }
}

/// This backend's own place, taken at its first use.
fn mine() -> Option<&'static BackendPlace> {
    if let Some(mine) = MINE.with_borrow(|m| *m) {
        return Some(mine);
    }
    // SAFETY: reads variables of this process.
    let (pid, role) = unsafe { (pg_sys::MyProcPid, pg_sys::GetSessionUserId()) };
    let free = |place: &&BackendPlace| place.pid.compare_exchange(0, pid, Ordering::AcqRel, RELAXED).is_ok();
    let mine = shared()?.backends.iter().find(free)?;
    mine.leader.store(if is_worker() { exchange::leader() } else { 0 }, RELAXED);
    mine.database.store(database(), RELAXED);
    mine.role.store(role.into(), RELAXED);
    mine.sessions_kept.store(0, RELAXED);
    mine.queries_led.store(u64::from(pid.unsigned_abs()) << 32, RELAXED);
    MINE.with_borrow_mut(|m| *m = Some(mine));
    // SAFETY: registers a function that stays where it is.
    unsafe { pg_sys::before_shmem_exit(Some(leave), pg_sys::Datum::from(0)) };
    Some(mine)
}

/// The place of the process that leads a parallel query.
fn leading_place() -> Option<&'static BackendPlace> {
    if !is_worker() {
        return mine();
    }
    let leader = exchange::leader();
    shared()?.backends.iter().find(|place| place.pid.load(Ordering::Acquire) == leader)
}

/// Notes that this process begins a query that may have parallel workers.
pub(crate) fn lead_query() {
    if let Some(mine) = mine() {
        mine.queries_led.fetch_add(1, RELAXED);
    }
}

/// What a backend is doing with a version.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(u32)]
pub(crate) enum Phase {
    Loading,
    Tokenising,
    Running,
}

/// The SQL form that a version is called by.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(u32)]
pub(crate) enum Form {
    /// predict_batch().
    Aggregate,
    /// Plain calls, in batches.
    Scan,
    /// A plain call, a row at a time.
    Call,
}

/// A place that shows a query of this backend, until it goes.
pub(crate) struct Shown(Option<&'static QueryPlace>);

impl Shown {
    /// Shows a query. Where all places are taken it is not shown.
    pub(crate) fn new(version: &Version, form: Form, phase: Phase, expected: Option<f64>) -> Self {
        let Some(mine) = mine() else { return Self(None) };
        let place = mine.queries.iter().find(|q| q.taken.load(RELAXED) == 0);
        if let Some(place) = place {
            mine.writing(|| {
                place.name.set(version.model.as_bytes());
                place.number.store(version.number, RELAXED);
                place.form.store(form as u32, RELAXED);
                place.phase.store(phase as u32, RELAXED);
                place.rows.store(0, RELAXED);
                place.batches.store(0, RELAXED);
                place.expected.store(expected.map_or(u64::MAX, count), RELAXED);
                place.started.store(now(), RELAXED);
                place.taken.store(1, RELAXED);
            });
        }
        Self(place)
    }

    /// Shows what is being done.
    pub(crate) fn phase(&self, phase: Phase) {
        if let Some(place) = self.0 {
            place.phase.store(phase as u32, RELAXED);
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some(place) = self.0 {
            place.taken.store(0, RELAXED);
        }
    }
}

impl BackendPlace {
    fn writing(&self, write: impl FnOnce()) {
        self.change.fetch_add(1, Ordering::AcqRel);
        fence(Ordering::Release);
        write();
        self.change.fetch_add(1, Ordering::AcqRel);
    }

    /// Reads what its backend may be writing.
    fn read<T>(&self, mut read: impl FnMut() -> T) -> T {
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

/// A session that this backend keeps.
#[derive(Clone)]
pub(crate) struct Kept {
    pub(crate) model: String,
    pub(crate) number: i32,
    pub(crate) bytes: usize,
    pub(crate) device: String,
    pub(crate) threads: usize,
    pub(crate) loaded: i64,
    pub(crate) used: i64,
}

/// Where a backend shows the sessions that it keeps. One thread at a time.
#[derive(Clone, Copy)]
pub(crate) struct Window(&'static BackendPlace);

/// This backend's own.
pub(crate) fn window() -> Option<Window> {
    mine().map(Window)
}

impl Window {
    /// Shows the sessions that are kept.
    pub(crate) fn show(self, sessions: &[&Kept]) {
        self.0.writing(|| {
            for (place, session) in self.0.sessions.iter().zip(sessions) {
                place.name.set(session.model.as_bytes());
                place.number.store(session.number, RELAXED);
                place.bytes.store(session.bytes as u64, RELAXED);
                place.device.set(session.device.as_bytes());
                place.threads.store(narrow(session.threads), RELAXED);
                place.loaded.store(session.loaded, RELAXED);
                place.used.store(session.used, RELAXED);
            }
            self.0.sessions_kept.store(narrow(sessions.len().min(SESSIONS)), RELAXED);
        });
    }

    /// Shows that a session is used now.
    pub(crate) fn use_session(self, nth: usize, at: i64) {
        if let Some(place) = self.0.sessions.get(nth) {
            place.used.store(at, RELAXED);
        }
    }
}

/// The time, as it is kept here: microseconds from 1970.
pub(crate) fn clock() -> i64 {
    now()
}

/// Counts what a query does with a version, and shows how far it is. What it counted is told to the others from time to time,
/// and when it goes.
pub(crate) struct Watch {
    entry: Entry,
    kept: [u64; COUNTERS],
    shown: Shown,
    model: String,
    number: i32,
    began: Instant,
    told: Instant,
    rows: u64,
    expected: Option<f64>,
}

impl Watch {
    /// Begins to watch a call.
    pub(crate) fn new(version: &Version, form: Form, expected: Option<f64>) -> Self {
        let entry = entry(version);
        entry.count_call();
        let now = Instant::now();
        Self {
            entry,
            kept: [0; COUNTERS],
            shown: Shown::new(version, form, Phase::Running, expected),
            model: version.model.clone(),
            number: version.number,
            began: now,
            told: now,
            rows: 0,
            expected,
        }
    }

    /// Counts a batch.
    pub(crate) fn batch(&mut self, run: Duration, wait: Duration, tokens: usize) {
        self.kept[Counter::Batches as usize] += 1;
        self.kept[Counter::RunNanos as usize] += nanos(run);
        self.kept[Counter::WaitNanos as usize] += nanos(wait);
        self.kept[Counter::Tokens as usize] += tokens as u64;
    }

    /// Counts rows that have their answers: so many of them NULL, so many failed.
    pub(crate) fn rows(&mut self, rows: usize, nulls: usize, failed: usize) {
        self.kept[Counter::Rows as usize] += rows as u64;
        self.kept[Counter::NullRows as usize] += nulls as u64;
        self.kept[Counter::FailedRows as usize] += failed as u64;
        self.rows += rows as u64;
        if rows > 1 || self.kept[Counter::Rows as usize] >= CALLS_KEPT {
            self.flush();
        }
    }

    /// Counts a failure.
    pub(crate) fn failed(&self, message: &str) {
        self.entry.failed(message);
    }

    /// Shows what is being done.
    pub(crate) fn phase(&self, phase: Phase) {
        self.shown.phase(phase);
    }

    fn flush(&mut self) {
        if self.kept == [0; COUNTERS] {
            return;
        }
        let kept = std::mem::replace(&mut self.kept, [0; COUNTERS]);
        if let Some(place) = self.entry.place() {
            for (counter, n) in place.counters.iter().zip(kept) {
                if n > 0 {
                    counter.fetch_add(n, RELAXED);
                }
            }
            place.last_used.store(now(), RELAXED);
        }
        if let Some(shown) = self.shown.0 {
            shown.rows.store(self.rows, RELAXED);
            shown.batches.fetch_add(kept[Counter::Batches as usize], RELAXED);
        }
    }

    /// How far the query is, at most once an interval: rows of it and its workers, how many are expected, and the time it took.
    pub(crate) fn progress(&mut self, interval: Duration) -> Option<(u64, Option<f64>, Duration)> {
        if interval.is_zero() || is_worker() || self.told.elapsed() < interval {
            return None;
        }
        self.told = Instant::now();
        let (mut rows, mut processes) = (self.rows, 1.0);
        // SAFETY: reads a variable.
        let pid = unsafe { pg_sys::MyProcPid };
        for place in shared().iter().flat_map(|s| s.backends).filter(|b| b.leader.load(RELAXED) == pid) {
            for query in place.queries.iter().filter(|q| q.taken.load(RELAXED) != 0 && place.pid.load(RELAXED) != 0) {
                if query.number.load(RELAXED) == self.number && query.name.text() == self.model {
                    rows += query.rows.load(RELAXED);
                    processes += 1.0;
                }
            }
        }
        Some((rows, self.expected.map(|e| e * processes), self.began.elapsed()))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.flush();
    }
}

/// A version's counters, as they are.
pub(crate) struct ModelStats {
    pub(crate) model: String,
    pub(crate) version: i32,
    pub(crate) hash: Vec<u8>,
    pub(crate) counters: [u64; COUNTERS],
    pub(crate) last_used: i64,
    pub(crate) last_error: Option<(String, i64)>,
    pub(crate) reset: i64,
}

impl ModelStats {
    pub(crate) fn of(&self, counter: Counter) -> u64 {
        self.counters[counter as usize]
    }
}

/// The counters of the versions of this database.
pub(crate) fn model_stats() -> Vec<ModelStats> {
    let Some(shared) = shared() else { return Vec::new() };
    let _locked = lock(false);
    let used = (shared.head.used.load(RELAXED) as usize).min(MODELS);
    let database = database();
    shared.models[..used]
        .iter()
        .filter(|place| place.database.load(RELAXED) == database)
        .map(|place| {
            let error_at = place.error_at.load(RELAXED);
            ModelStats {
                model: place.name.text(),
                version: place.number.load(RELAXED),
                hash: place.hash.get(),
                counters: std::array::from_fn(|i| place.counters[i].load(RELAXED)),
                last_used: place.last_used.load(RELAXED),
                last_error: (error_at != 0).then(|| (place.error.text(), error_at)),
                reset: place.reset.load(RELAXED),
            }
        })
        .collect()
}

/// Sets the counters of a model's versions in this database to zero, or of all.
pub(crate) fn reset(model: Option<&str>) {
    let Some(shared) = shared() else { return };
    let database = database();
    let _locked = lock(true);
    let used = (shared.head.used.load(RELAXED) as usize).min(MODELS);
    shared.models[..used]
        .iter()
        .filter(|place| place.database.load(RELAXED) == database && model.is_none_or(|m| place.name.text() == m))
        .for_each(ModelPlace::clear);
}

/// What a backend shows.
pub(crate) struct BackendStats {
    pub(crate) pid: i32,
    pub(crate) leader: i32,
    pub(crate) role: pg_sys::Oid,
    pub(crate) sessions: Vec<Kept>,
    pub(crate) queries: Vec<QueryStats>,
}

/// A query that runs.
pub(crate) struct QueryStats {
    pub(crate) model: String,
    pub(crate) version: i32,
    pub(crate) form: &'static str,
    pub(crate) phase: &'static str,
    pub(crate) rows: u64,
    pub(crate) expected: Option<u64>,
    pub(crate) batches: u64,
    pub(crate) started: i64,
}

/// What the backends of this database show.
pub(crate) fn backend_stats() -> Vec<BackendStats> {
    let database = database();
    let is_ours = |b: &&BackendPlace| b.pid.load(Ordering::Acquire) != 0 && b.database.load(RELAXED) == database;
    let queries = |place: &BackendPlace| {
        place
            .queries
            .iter()
            .filter(|q| q.taken.load(RELAXED) != 0)
            .map(|q| QueryStats {
                model: q.name.text(),
                version: q.number.load(RELAXED),
                form: match q.form.load(RELAXED) {
                    n if n == Form::Aggregate as u32 => "aggregate",
                    n if n == Form::Scan as u32 => "scan",
                    _ => "call",
                },
                phase: match q.phase.load(RELAXED) {
                    n if n == Phase::Loading as u32 => "loading",
                    n if n == Phase::Tokenising as u32 => "tokenising",
                    _ => "running",
                },
                rows: q.rows.load(RELAXED),
                expected: Some(q.expected.load(RELAXED)).filter(|n| *n != u64::MAX),
                batches: q.batches.load(RELAXED),
                started: q.started.load(RELAXED),
            })
            .collect()
    };
    let sessions = |place: &BackendPlace| {
        place
            .sessions
            .iter()
            .take(place.sessions_kept.load(RELAXED) as usize)
            .map(|s| Kept {
                model: s.name.text(),
                number: s.number.load(RELAXED),
                bytes: usize::try_from(s.bytes.load(RELAXED)).unwrap_or(usize::MAX),
                device: s.device.text(),
                threads: s.threads.load(RELAXED) as usize,
                loaded: s.loaded.load(RELAXED),
                used: s.used.load(RELAXED),
            })
            .collect()
    };
    shared()
        .iter()
        .flat_map(|s| s.backends)
        .filter(is_ours)
        .map(|place| {
            let (sessions, queries) = place.read(|| (sessions(place), queries(place)));
            BackendStats {
                pid: place.pid.load(RELAXED),
                leader: place.leader.load(RELAXED),
                role: pg_sys::Oid::from(place.role.load(RELAXED)),
                sessions,
                queries,
            }
        })
        .collect()
}
