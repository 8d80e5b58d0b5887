//! The sessions of this backend, in its model process or in itself: loads them without blocking interrupts, and ends
//! the backend safely while one runs.
//!
//! Loading, with the check of the hash, runs on a thread of its own, so that a cancel takes effect at once. A process
//! must not run ONNX Runtime's static destructors while a thread is inside ONNX Runtime. A terminated backend must not
//! wait for a long run either. Such a process therefore exits without running destructors.
//!
//! The lock of the session cache is held only briefly: never while a session is loaded, run or dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use once_cell::sync::Lazy;
use parking_lot::{Condvar, Mutex};
use pg_predict_engine::device::Device;
use pg_predict_engine::onnx::content::Content;
use pg_predict_engine::ort::environment::Config;
use pg_predict_engine::ort::session::Session;
use pg_predict_engine::ort::session_cache::{Cache, CachedSession, SessionKey};
use pg_predict_engine::run::pipeline::{FinishedBatch, Pipeline};
use pg_predict_engine::threads;
use pg_predict_engine::version::Version;
use pg_predict_model_process::messages::Message;
use pgrx::pg_sys;

use crate::error::{Result, of_model};
use crate::pg::process::check_interrupts;
use crate::runtime::activity::{KeptSession, Phase, SessionList, Shown};
use crate::runtime::model_counters::{Counter, CounterEntry};
use crate::runtime::model_process::TICK;
use crate::runtime::{activity, model_counters, model_process, process_loading};
use crate::settings;

/// Reads the content of a version from the registry.
pub(crate) type Fetch = fn(&Version) -> Result<Content>;

/// A loaded version.
pub(crate) enum LoadedModel {
    /// In this process.
    Backend(Arc<Session>),
    /// In the model process.
    Process(ProcessSession),
}

/// A session in the model process. Dropping it unloads it there.
pub(crate) struct ProcessSession {
    pub(crate) number: u64,
    /// The generation of its process.
    pub(crate) generation: u64,
    pub(crate) version: Arc<Version>,
    pub(crate) fetch: Fetch,
    pub(crate) bytes: usize,
    /// Whether the device `auto` fell back to the CPU.
    pub(crate) fell_back: bool,
}

impl Drop for ProcessSession {
    fn drop(&mut self) {
        model_process::send(self.generation, &Message::Unload { session: self.number });
    }
}

impl LoadedModel {
    /// Returns the device that it runs on, which for `auto` is known only now.
    fn device(&self, asked: Device) -> Device {
        let fell_back = match self {
            Self::Backend(session) => session.fallback().is_some(),
            Self::Process(session) => session.fell_back,
        };
        match asked {
            Device::Auto if fell_back => Device::Cpu,
            Device::Auto => Device::Cuda(0),
            device => device,
        }
    }
}

impl CachedSession for LoadedModel {
    fn bytes(&self) -> usize {
        match self {
            Self::Backend(session) => session.bytes(),
            Self::Process(session) => session.bytes,
        }
    }

    fn is_lost(&self) -> bool {
        match self {
            Self::Backend(session) => session.is_abandoned(),
            Self::Process(session) => !model_process::is_running(session.generation),
        }
    }
}

/// The loaded sessions. Code that changes them must update the shown list before it releases the lock.
#[derive(Default)]
struct Home {
    cache: Cache<LoadedModel>,
    /// The shown data of each cached session, and the counters of its version.
    shown: Vec<(SessionKey, CounterEntry, KeptSession)>,
    /// The list in shared memory.
    window: Option<SessionList>,
}

static HOME: Lazy<Mutex<Home>> = Lazy::new(Mutex::default);

impl Home {
    /// Removes evicted sessions from the shown list and publishes the list.
    fn show(&mut self) {
        let Some(window) = self.window else { return };
        let cache = &self.cache;
        self.shown.retain(|(key, ..)| cache.contains(key));
        window.show(&self.shown.iter().map(|(.., kept)| kept).collect::<Vec<_>>());
    }

    /// Returns the session with this key and updates its time of last use.
    fn get(&mut self, key: &SessionKey) -> Option<Arc<LoadedModel>> {
        let session = self.cache.get(key)?;
        if let Some(window) = self.window
            && let Some((nth, (.., kept))) = self.shown.iter_mut().enumerate().find(|(_, (k, ..))| k == key)
        {
            kept.used = activity::clock();
            window.use_session(nth, kept.used);
        }
        Some(session)
    }
}

/// Time in milliseconds after which an unused session is dropped. 0 disables the timeout.
static IDLE: AtomicU64 = AtomicU64::new(0);
/// Wakes the thread that drops idle sessions.
static IDLE_CHANGED: Condvar = Condvar::new();

/// Applies the idle timeout. A thread drops idle sessions, because an idle backend runs no code of its own.
fn watch_idle() -> Result<()> {
    static STARTED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
    let timeout = settings::session_idle_timeout();
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
            // Dropping a large session takes time.
            parking_lot::MutexGuard::unlocked(&mut home, || {
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

static EXIT_CODE: AtomicI32 = AtomicI32::new(0);

/// PostgreSQL calls this callback at the end of its exit work. It registers `leave` after ONNX Runtime has registered
/// its own exit handlers, so that `leave` runs before them.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn note_exit(code: i32, _argument: pg_sys::Datum) {
    EXIT_CODE.store(code, Ordering::Relaxed);
    // SAFETY: registers a function that is never unloaded.
    unsafe { libc::atexit(leave) };
}

/// Ends the process after PostgreSQL's own exit work and before ONNX Runtime's static destructors. A thread of this
/// extension may be inside ONNX Runtime or about to enter it, and no check could rule that out.
extern "C" fn leave() {
    // SAFETY: ends the process without running destructors.
    unsafe { libc::_exit(EXIT_CODE.load(Ordering::Relaxed)) };
}

/// PostgreSQL's handler of SIGFPE.
static PREVIOUS: std::sync::OnceLock<libc::sigaction> = std::sync::OnceLock::new();

/// Handles SIGFPE, the trap of an integer division. On the main thread, PostgreSQL's handler runs. A thread of this
/// extension must not return, because the instruction would trap again. The waiter for its run gets an error.
extern "C" fn on_trap(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: calls only what is allowed in a signal handler: system calls, atomics, and PostgreSQL's previous handler
    // with its own arguments.
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

/// Returns freed memory to the system. The memory of an abandoned run is in the arena of its thread.
fn give_back() {
    // SAFETY: may be called from any thread.
    unsafe { libc::malloc_trim(0) };
}

/// Prepares the process once, before the first use of ONNX Runtime. Afterwards the process can end at any time, and no
/// build of ONNX Runtime sends telemetry.
fn prepare_process() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        threads::set_after_abandoned(give_back);
        // SAFETY: registers functions that are never unloaded, because the library is not. The environment is changed
        // before this process has a second thread.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            let mut previous: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_trap as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
            if libc::sigaction(libc::SIGFPE, std::ptr::null(), &raw mut previous) == 0 {
                let _ = PREVIOUS.set(previous);
                libc::sigaction(libc::SIGFPE, &raw const action, std::ptr::null_mut());
            }
            // Large blocks are returned to the system when they are freed. By default glibc raises this threshold after
            // the first such block is freed, and the backend would keep the memory of dropped models.
            libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
            pg_sys::on_proc_exit(Some(note_exit), pg_sys::Datum::from(0));
            std::env::set_var("ORT_DISABLE_TELEMETRY", "1");
            std::env::set_var("ORT_TELEMETRY_DISABLED", "1");
        }
    });
}

/// Returns the cache key of a version under the current settings.
fn key(version: &Version) -> SessionKey {
    SessionKey {
        hash: version.content_key(),
        device: settings::device().or(version.options.device).unwrap_or(Device::Cpu),
        threads: settings::threads().or(version.options.threads).unwrap_or(1),
        share_weights: settings::share_weights(),
        isolated: settings::is_isolated(),
        trees: version.options.trees,
    }
}

/// Whether a version is loaded.
pub(crate) fn has(version: &Version) -> bool {
    HOME.lock().cache.contains(&key(version))
}

/// Loads a session of a model process again, after that process has ended.
pub(crate) fn open_again(lost: &ProcessSession) -> Result<Arc<LoadedModel>> {
    open(&lost.version, lost.fetch)
}

/// Returns the session of a version: from the cache, or loaded from the content that `fetch` reads.
pub(crate) fn open(version: &Arc<Version>, fetch: Fetch) -> Result<Arc<LoadedModel>> {
    let key = key(version);
    let SessionKey { device, threads, .. } = key;
    watch_idle()?;
    let kept = HOME.lock().get(&key);
    if let Some(session) = kept {
        return Ok(session);
    }
    let label = version.label();
    let entry = model_counters::entry(version);
    let loading = Shown::new(version, activity::QueryForm::Call, Phase::Loading, None);
    let started = Instant::now();
    let session = load(version, &key, &label, fetch).inspect_err(|error| {
        entry.failed(&crate::pg::report::in_a_line(error.clone()));
    })?;
    entry.add(Counter::Loads, 1);
    entry.add(Counter::LoadNanos, u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX));
    drop(loading);
    let mut home = HOME.lock();
    home.window = activity::window();
    if home.window.is_some() {
        let now = activity::clock();
        let kept = KeptSession {
            model: version.model.clone(),
            number: version.number,
            bytes: session.bytes(),
            device: session.device(device).to_string(),
            threads,
            loaded: now,
            used: now,
        };
        home.shown.push((key, entry, kept));
        home.show();
    }
    drop(home);
    // The new session can become idle.
    IDLE_CHANGED.notify_one();
    Ok(session)
}

/// Returns the build information of the ONNX Runtime library, with its version or the commit it was built from.
pub(crate) fn runtime() -> Result<String> {
    if settings::is_isolated() {
        return model_process::runtime();
    }
    prepare_process();
    let library = settings::onnxruntime_library();
    let said =
        wait(threads::spawn_for("pg_predict load", move || pg_predict_engine::ort::environment::runtime(&library))?)
            .unwrap_or_else(|| Err(crashed()));
    Ok(said?)
}

pub(crate) fn crashed() -> pg_predict_engine::Error {
    pg_predict_engine::Error::InvalidModel { reason: "loading it crashed".to_owned() }
}

/// Evicts sessions to make room, then loads a session: from the file cache, or from the content that `fetch` reads.
fn load(version: &Arc<Version>, key: &SessionKey, label: &str, fetch: Fetch) -> Result<Arc<LoadedModel>> {
    let bytes = version.signature.session_bytes;
    {
        let mut home = HOME.lock();
        let gone = home.cache.make_room(bytes, settings::session_cache_size()).map_err(of_model(label))?;
        let evicted = home.shown.iter().filter(|(key, ..)| gone.contains(key));
        evicted.for_each(|(_, entry, _)| entry.add(Counter::Evictions, 1));
        if !gone.is_empty() {
            home.show();
        }
    }
    let loaded = if key.isolated {
        LoadedModel::Process(process_loading::load(version, key, fetch)?)
    } else {
        LoadedModel::Backend(Arc::new(load_here(version, key, label, fetch)?))
    };
    let loaded = Arc::new(loaded);
    HOME.lock().cache.insert(key.clone(), Arc::clone(&loaded));
    Ok(loaded)
}

/// Loads a session in this process: from the file cache, or from the content that `fetch` reads.
fn load_here(version: &Arc<Version>, key: &SessionKey, label: &str, fetch: Fetch) -> Result<Session> {
    let SessionKey { device, threads, share_weights, .. } = *key;
    let config = Config {
        library: settings::onnxruntime_library(),
        device,
        threads,
        session_bytes: version.signature.session_bytes,
        share_weights,
        gpu_memory: settings::gpu_memory_limit(),
    };
    prepare_process();
    let files = settings::files();
    let entry = files.as_ref().and_then(|files| files.find(&version.files()));
    let mut loaded = None;
    if let Some(entry) = entry {
        let (theirs, config) = (Arc::clone(version), config.clone());
        let answer =
            threads::spawn_for("pg_predict load", move || Session::load_files(&entry, &theirs.options, &config))?;
        match wait(answer).unwrap_or_else(|| Err(crashed())) {
            Ok(Some(session)) => loaded = Some(session),
            // Errors of the device or the library do not depend on the source of the bytes.
            Err(error @ (pg_predict_engine::Error::Device { .. } | pg_predict_engine::Error::Library { .. })) => {
                return Err(of_model(label)(error));
            }
            // The files are damaged or unreadable, so they are dropped and created again.
            Ok(None) | Err(_) => {
                crate::pg::report::log(format!("model \"{label}\": its files are damaged, and are made anew"));
                files.iter().for_each(|files| files.drop_entry(&version.files()));
            }
        }
    }
    let session = match loaded {
        Some(session) => session,
        None => {
            let content = fetch(version)?;
            let theirs = Arc::clone(version);
            let load = move || Session::load_checked(content, &theirs, &config, files.as_ref());
            wait(threads::spawn_for("pg_predict load", load)?)
                .unwrap_or_else(|| Err(crashed()))
                .map_err(of_model(label))?
        }
    };
    if let Some(reason) = session.fallback() {
        crate::pg::report::log(format!("model \"{label}\": device \"auto\" falls back to cpu: {reason}"));
    }
    if let Some(reason) = session.uncached() {
        crate::pg::report::log(format!("model \"{label}\" could not be kept in the file cache: {reason}"));
    }
    Ok(session)
}

/// Waits for the result of a thread and checks for interrupts. Returns `None` if the thread panicked.
pub(crate) fn wait<T>(answer: std::sync::mpsc::Receiver<T>) -> Option<T> {
    loop {
        match answer.recv_timeout(TICK) {
            Ok(value) => return Some(value),
            Err(RecvTimeoutError::Timeout) => check_interrupts(),
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
}

/// Waits for the submitted batch and checks for interrupts. Calls `each_tick` at every check, with true while the texts
/// are being tokenized.
pub(crate) fn collect(pipeline: &mut Pipeline, model: &str, each_tick: impl Fn(bool)) -> Result<FinishedBatch> {
    loop {
        if let Some(done) = pipeline.collect(TICK).map_err(of_model(model))? {
            return Ok(done);
        }
        each_tick(pipeline.is_tokenising());
        check_interrupts();
    }
}
