//! The sessions of this backend: loading one without blocking the server, and leaving the process while one runs.
//!
//! A load, its hash check too, runs on a thread of its own, so that a cancel need not wait for it. A process must not
//! run ONNX Runtime's static destructors while a thread is inside it, and a backend that is told to go must not wait for
//! a long run: such a process ends without them.
//!
//! The lock of what is kept is held for moments: never while a session is loaded, run or dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use once_cell::sync::Lazy;
use parking_lot::{Condvar, Mutex};
use pg_predict_engine::cache::{Cache, Key};
use pg_predict_engine::device::Device;
use pg_predict_engine::pipeline::{Done, Pipeline};
use pg_predict_engine::session::{Config, Content, Session};
use pg_predict_engine::threads;
use pg_predict_engine::version::Version;
use pgrx::pg_sys;

use crate::error::{Result, of_model};
use crate::guc;
use crate::pg::shared::{self, Counter, Entry, Kept, Phase, Shown, Window};

/// The sessions that are kept. Whoever changes them shows it before the lock goes.
#[derive(Default)]
struct Home {
    cache: Cache,
    /// What is shown of the sessions in it, and whose counters they are on.
    shown: Vec<(Key, Entry, Kept)>,
    /// Where it is shown.
    window: Option<Window>,
}

static HOME: Lazy<Mutex<Home>> = Lazy::new(Mutex::default);

impl Home {
    /// Shows the sessions that are kept, where something has changed.
    fn show(&mut self) {
        let Some(window) = self.window else { return };
        let cache = &self.cache;
        self.shown.retain(|(key, ..)| cache.contains(key));
        window.show(&self.shown.iter().map(|(.., kept)| kept).collect::<Vec<_>>());
    }

    /// The session with this key, which is used now.
    fn get(&mut self, key: &Key) -> Option<Arc<Session>> {
        let session = self.cache.get(key)?;
        if let Some(window) = self.window
            && let Some((nth, (.., kept))) = self.shown.iter_mut().enumerate().find(|(_, (k, ..))| k == key)
        {
            kept.used = shared::clock();
            window.use_session(nth, kept.used);
        }
        Some(session)
    }
}

/// Milliseconds after which a session that nobody uses is dropped; 0 for never.
static IDLE: AtomicU64 = AtomicU64::new(0);
/// Tells the thread that drops them that there is something to do.
static IDLE_CHANGED: Condvar = Condvar::new();

/// Sees to it that sessions go that nobody uses for as long as the setting says. By a thread, since a backend that is idle does
/// nothing by itself.
fn watch_idle() -> Result<()> {
    static STARTED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
    let timeout = guc::session_idle_timeout();
    if IDLE.swap(timeout, Ordering::AcqRel) != timeout {
        IDLE_CHANGED.notify_one();
    }
    if timeout > 0 && !STARTED.swap(true, Ordering::AcqRel) {
        threads::spawn("pg_predict idle", drop_idle)?;
    }
    Ok(())
}

fn drop_idle() {
    let mut home = HOME.lock();
    loop {
        let timeout = IDLE.load(Ordering::Acquire);
        let (gone, next) = match timeout {
            0 => (Vec::new(), None),
            n => home.cache.take_idle(Duration::from_millis(n)),
        };
        if !gone.is_empty() {
            home.show();
            // A large one takes its time.
            parking_lot::MutexGuard::unlocked(&mut home, || {
                let _inside = threads::Inside::enter();
                drop(gone);
                give_back();
            });
            continue;
        }
        match next {
            Some(next) => drop(IDLE_CHANGED.wait_for(&mut home, next)),
            None => IDLE_CHANGED.wait(&mut home),
        }
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

/// What a session of a version is kept under now.
fn key(version: &Version) -> Key {
    Key {
        hash: version.content_key(),
        device: guc::device().or(version.options.device).unwrap_or(Device::Cpu),
        threads: guc::threads().or(version.options.threads).unwrap_or(1),
        share_weights: guc::share_weights(),
    }
}

/// Whether a version is loaded.
pub(crate) fn has(version: &Version) -> bool {
    HOME.lock().cache.contains(&key(version))
}

/// The session of a version: from the cache, or loaded from what `fetch` reads.
pub(crate) fn open(version: &Arc<Version>, fetch: impl FnOnce() -> Result<Content>) -> Result<Arc<Session>> {
    let key = key(version);
    let Key { device, threads, .. } = key;
    watch_idle()?;
    let kept = HOME.lock().get(&key);
    if let Some(session) = kept {
        return Ok(session);
    }
    let label = version.label();
    let entry = shared::entry(version);
    let loading = Shown::new(version, shared::Form::Call, Phase::Loading, None);
    let started = Instant::now();
    let session = load(version, &key, &label, fetch).inspect_err(|error| {
        entry.failed(&crate::error::in_a_line(error.clone()));
    })?;
    entry.add(Counter::Loads, 1);
    entry.add(Counter::LoadNanos, u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX));
    drop(loading);
    let mut home = HOME.lock();
    home.window = shared::window();
    if home.window.is_some() {
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
        home.shown.push((key, entry, kept));
        home.show();
    }
    drop(home);
    // There is one more that can become idle.
    IDLE_CHANGED.notify_one();
    Ok(session)
}

/// What the ONNX Runtime library says of its build: its version, or the commit that it was built from, among it.
pub(crate) fn runtime() -> Result<String> {
    prepare_process();
    let library = guc::onnxruntime_library();
    let said = wait(threads::spawn_for("pg_predict load", move || pg_predict_engine::session::runtime(&library))?)
        .unwrap_or_else(|| Err(crashed()));
    Ok(said?)
}

fn crashed() -> pg_predict_engine::Error {
    pg_predict_engine::Error::InvalidModel { reason: "loading it crashed".to_owned() }
}

/// Loads a session, once there is room for it: from the file cache, or from what `fetch` reads.
fn load(
    version: &Arc<Version>,
    key: &Key,
    label: &str,
    fetch: impl FnOnce() -> Result<Content>,
) -> Result<Arc<Session>> {
    let Key { device, threads, share_weights, .. } = *key;
    let bytes = version.signature.session_bytes;
    {
        let mut home = HOME.lock();
        let gone = home.cache.make_room(bytes, guc::session_cache_size()).map_err(of_model(label))?;
        let evicted = home.shown.iter().filter(|(key, ..)| gone.contains(key));
        evicted.for_each(|(_, entry, _)| entry.add(Counter::Evictions, 1));
        if !gone.is_empty() {
            home.show();
        }
    }
    let config = Config {
        library: guc::onnxruntime_library(),
        device,
        threads,
        session_bytes: bytes,
        share_weights,
        gpu_memory: guc::gpu_memory_limit(),
    };
    prepare_process();
    let files = guc::files();
    let entry = files.as_ref().and_then(|files| files.find(&version.files()));
    let mut loaded = None;
    if let Some(entry) = entry {
        let (theirs, config) = (Arc::clone(version), config.clone());
        let answer =
            threads::spawn_for("pg_predict load", move || Session::load_files(&entry, &theirs.options, &config))?;
        match wait(answer).unwrap_or_else(|| Err(crashed())) {
            Ok(Some(session)) => loaded = Some(session),
            // What the device says is the same wherever the bytes come from.
            Err(error @ (pg_predict_engine::Error::Device { .. } | pg_predict_engine::Error::Library { .. })) => {
                return Err(of_model(label)(error));
            }
            // Damaged, or not to be read: it is made anew.
            Ok(None) | Err(_) => {
                crate::error::log(format!("model \"{label}\": its files are damaged, and are made anew"));
                files.iter().for_each(|files| files.drop_entry(&version.files()));
            }
        }
    }
    let session = match loaded {
        Some(session) => session,
        None => {
            let content = fetch()?;
            let theirs = Arc::clone(version);
            let load = move || Session::load_checked(content, &theirs, &config, files.as_ref());
            wait(threads::spawn_for("pg_predict load", load)?)
                .unwrap_or_else(|| Err(crashed()))
                .map_err(of_model(label))?
        }
    };
    let session = Arc::new(session);
    if let Some(reason) = session.fallback() {
        crate::error::log(format!("model \"{label}\": device \"auto\" falls back to cpu: {reason}"));
    }
    if let Some(reason) = session.uncached() {
        crate::error::log(format!("model \"{label}\" could not be kept in the file cache: {reason}"));
    }
    HOME.lock().cache.insert(key.clone(), Arc::clone(&session));
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
