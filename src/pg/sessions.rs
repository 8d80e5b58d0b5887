//! The sessions of this backend: loading one without blocking the server, and leaving the process while one runs.
//!
//! A load, its hash check too, runs on a thread of its own, so that a cancel need not wait for it. A process must not
//! run ONNX Runtime's static destructors while a thread is inside it, and a backend that is told to go must not wait for
//! a long run: such a process ends without them.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use pg_predict_engine::cache::{Cache, Key};
use pg_predict_engine::device::Device;
use pg_predict_engine::pipeline::{Done, Pipeline};
use pg_predict_engine::session::{Config, Content, Session};
use pg_predict_engine::threads;
use pg_predict_engine::version::Version;
use pgrx::pg_sys;

use crate::error::{Result, of_model};
use crate::guc;
use crate::pg::shared::{self, Counter, Entry, Kept, Phase, Shown};

thread_local! {
    static CACHE: RefCell<Cache> = RefCell::default();
    /// What is shown of the sessions in it, and whose counters they are on.
    static SHOWN: RefCell<Vec<(Key, Entry, Kept)>> = const { RefCell::new(Vec::new()) };
}

/// Shows the sessions that are kept, where something has changed.
fn show() {
    SHOWN.with_borrow_mut(|shown| {
        CACHE.with_borrow(|cache| shown.retain(|(key, ..)| cache.contains(key)));
        shared::show_sessions(&shown.iter().map(|(.., kept)| kept).collect::<Vec<_>>());
    });
}

/// Notes that a session is used.
fn note_use(key: &Key) {
    if shared::is_there() {
        SHOWN.with_borrow_mut(|shown| {
            if let Some((nth, (.., kept))) = shown.iter_mut().enumerate().find(|(_, (k, ..))| k == key) {
                kept.used = shared::clock();
                shared::use_session(nth, kept.used);
            }
        });
    }
}

/// How long a wait lasts before interrupts are looked at.
const TICK: Duration = Duration::from_millis(10);

static EXIT_CODE: AtomicI32 = AtomicI32::new(0);

/// The last of what PostgreSQL calls at exit, before exit handlers: ours is registered here, behind those of ONNX
/// Runtime, and so comes before them.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn note_exit(code: i32, _argument: pg_sys::Datum) {
    EXIT_CODE.store(code, Ordering::Relaxed);
    // SAFETY: registers a function that stays where it is.
    unsafe { libc::atexit(leave) };
}

/// Runs after all that PostgreSQL does at exit, and before ONNX Runtime's static destructors.
extern "C" fn leave() {
    if threads::inside() > 0 {
        // SAFETY: ends the process without running the destructors that the other thread would fall over.
        unsafe { libc::_exit(EXIT_CODE.load(Ordering::Relaxed)) };
    }
}

/// PostgreSQL's own handler of the trap.
static PREVIOUS: std::sync::OnceLock<libc::sigaction> = std::sync::OnceLock::new();

/// Handles the trap of an integer division. In the backend's own thread it is PostgreSQL's to handle; one of ours is kept
/// from returning, for the instruction would trap again, and whoever waits for its run is told.
extern "C" fn on_trap(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: only what may be called in a signal handler is called: system calls, atomics, and the handler that
    // PostgreSQL had installed, with its own arguments.
    unsafe {
        if libc::syscall(libc::SYS_gettid) == i64::from(libc::getpid()) {
            match PREVIOUS.get() {
                Some(previous) if previous.sa_sigaction > libc::SIG_IGN => {
                    if previous.sa_flags & libc::SA_SIGINFO != 0 {
                        let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) =
                            std::mem::transmute(previous.sa_sigaction);
                        handler(signal, info, context);
                    } else {
                        let handler: extern "C" fn(i32) = std::mem::transmute(previous.sa_sigaction);
                        handler(signal);
                    }
                }
                _ => libc::_exit(2),
            }
            return;
        }
        threads::note_trap();
        loop {
            libc::pause();
        }
    }
}

/// Gives freed memory back to the system: what an abandoned run had is in its own thread's arena.
fn give_back() {
    // SAFETY: may be called from any thread.
    unsafe { libc::malloc_trim(0) };
}

/// Makes sure that the process can end at any time, and that no build of ONNX Runtime reports anything to anybody. Once,
/// before the first use of ONNX Runtime.
fn prepare_process() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        threads::set_after_abandoned(give_back);
        // SAFETY: registers functions that stay where they are: the library is never unloaded. The environment is
        // changed before this process has a second thread.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            let mut previous: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_trap as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
            if libc::sigaction(libc::SIGFPE, std::ptr::null(), &raw mut previous) == 0 {
                let _ = PREVIOUS.set(previous);
                libc::sigaction(libc::SIGFPE, &raw const action, std::ptr::null_mut());
            }
            // Large blocks go back to the system when they are freed. By itself glibc stops doing so after the first of
            // them, and what models leave behind stays with the backend.
            libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
            pg_sys::on_proc_exit(Some(note_exit), pg_sys::Datum::from(0));
            std::env::set_var("ORT_DISABLE_TELEMETRY", "1");
            std::env::set_var("ORT_TELEMETRY_DISABLED", "1");
        }
    });
}

/// Whether this process is a parallel worker.
pub(crate) fn is_worker() -> bool {
    // SAFETY: reads a variable.
    unsafe { pg_sys::ParallelWorkerNumber >= 0 }
}

/// Raises what is pending: cancel, terminate, timeout.
pub(crate) fn check_interrupts() {
    pg_sys::check_for_interrupts!();
}

/// The session of a version: from the cache, or loaded from what `fetch` reads.
pub(crate) fn open(version: &Arc<Version>, fetch: impl FnOnce() -> Result<Content>) -> Result<Arc<Session>> {
    let device = guc::device().or(version.options.device).unwrap_or(Device::Cpu);
    let threads = guc::threads().or(version.options.threads).unwrap_or(1);
    let key = Key { hash: version.content_key(), device, threads };
    if let Some(session) = CACHE.with_borrow_mut(|c| c.get(&key)) {
        note_use(&key);
        return Ok(session);
    }
    let label = version.label();
    let limit = guc::session_cache_size();
    let bytes = version.signature.session_bytes;
    let entry = shared::entry(version);
    let loading = Shown::new(version, shared::Form::Call, Phase::Loading, None);
    let started = Instant::now();
    let session = load(version, &key, &label, (bytes, limit), fetch).inspect_err(|error| {
        entry.failed(&crate::error::in_a_line(error.clone()));
    })?;
    entry.add(Counter::Loads, 1);
    entry.add(Counter::LoadNanos, started.elapsed().as_nanos() as u64);
    drop(loading);
    if shared::is_there() {
        let now = shared::clock();
        let kept = Kept {
            model: version.model.clone(),
            number: version.number,
            bytes: session.bytes(),
            device: device.to_string(),
            threads,
            loaded: now,
            used: now,
        };
        SHOWN.with_borrow_mut(|shown| shown.push((key, entry, kept)));
        show();
    }
    Ok(session)
}

/// What the ONNX Runtime library says of its build: its version, or the commit that it was built from, among it.
pub(crate) fn runtime() -> Result<String> {
    prepare_process();
    let library = guc::onnxruntime_library();
    let said = wait(threads::spawn_for("pg_predict load", move || pg_predict_engine::session::runtime(&library))?)
        .unwrap_or_else(|| Err(pg_predict_engine::Error::InvalidModel { reason: "loading it crashed".to_owned() }));
    Ok(said?)
}

/// Loads a session, once there is room for it.
fn load(
    version: &Arc<Version>,
    key: &Key,
    label: &str,
    (bytes, limit): (usize, usize),
    fetch: impl FnOnce() -> Result<Content>,
) -> Result<Arc<Session>> {
    let Key { device, threads, .. } = *key;
    let gone = CACHE.with_borrow_mut(|c| c.make_room(bytes, limit)).map_err(of_model(label))?;
    SHOWN.with_borrow(|shown| {
        let evicted = shown.iter().filter(|(key, ..)| gone.contains(key));
        evicted.for_each(|(_, entry, _)| entry.add(Counter::Evictions, 1));
    });
    if !gone.is_empty() {
        show();
    }
    let content = fetch()?;
    let config = Config { library: guc::onnxruntime_library(), device, threads, session_bytes: bytes };
    let theirs = Arc::clone(version);
    prepare_process();
    let loaded = wait(threads::spawn_for("pg_predict load", move || Session::load_checked(content, &theirs, &config))?)
        .unwrap_or_else(|| Err(pg_predict_engine::Error::InvalidModel { reason: "loading it crashed".to_owned() }));
    let session = Arc::new(loaded.map_err(of_model(label))?);
    if let Some(reason) = session.fallback() {
        crate::error::log(format!("model \"{label}\": device \"auto\" falls back to cpu: {reason}"));
    }
    CACHE.with_borrow_mut(|c| c.insert(key.clone(), Arc::clone(&session)));
    Ok(session)
}

/// Waits for a thread's answer, looking at interrupts; none when the thread panicked.
pub(crate) fn wait<T>(answer: std::sync::mpsc::Receiver<T>) -> Option<T> {
    loop {
        match answer.recv_timeout(TICK) {
            Ok(value) => return Some(value),
            Err(RecvTimeoutError::Timeout) => check_interrupts(),
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
}

/// Waits for the batch under way, looking at interrupts. `each_tick` is told now and then whether texts are made into tokens.
pub(crate) fn collect(pipeline: &mut Pipeline, model: &str, each_tick: impl Fn(bool)) -> Result<Done> {
    loop {
        if let Some(done) = pipeline.collect(TICK).map_err(of_model(model))? {
            return Ok(done);
        }
        each_tick(pipeline.work().is_tokenising());
        check_interrupts();
    }
}
