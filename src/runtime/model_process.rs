//! The model process of this backend: starts it, keeps it, and ends it with the backend.
//!
//! A backend has at most one model process. Each one that it starts has a new generation, so that what belongs to an
//! earlier process is recognized. The lock of the process is held only briefly: for a message, or for at most one tick
//! while an answer is awaited.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use pg_predict_engine::device::Device;
use pg_predict_model_process::client::{Cause, End, ModelProcess, Slot};
use pg_predict_model_process::codec::output::read_result;
use pg_predict_model_process::codec::reader::Reader;
use pg_predict_model_process::codec::writer::Writer;
use pg_predict_model_process::control::Kind;
use pg_predict_model_process::killed::wait_for_all;
use pg_predict_model_process::messages::{Message, Start};
use pg_predict_model_process::sandbox::{Limits, Profile, Report};
use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::pg::process::{check_interrupts, is_interrupted};
use crate::pg::report;
use crate::runtime::activity;
use crate::settings;

/// Interval between checks for interrupts while waiting.
pub(crate) const TICK: Duration = Duration::from_millis(10);
/// How long a run that is no longer needed may take to stop before its process is killed. A cancel is honoured within
/// 100 ms, and this is a part of it.
const STOP_TIMEOUT: Duration = Duration::from_millis(50);
/// The largest file that a model process may write. It writes only to its error output.
const LARGEST_FILE: u64 = 1 << 20;
/// The same with CUDA, whose driver makes shared memory, which counts as a file.
const LARGEST_FILE_WITH_CUDA: u64 = 64 << 20;
/// The largest response, in bytes. A response is also within the memory that the process may use.
const LARGEST_RESPONSE: usize = 4 << 30;

/// The model process, its generation, the idle timeout that it was told, and whether its sandbox was logged.
struct KeptProcess {
    process: ModelProcess,
    generation: u64,
    idle_timeout: u64,
    is_logged: bool,
}

static PROCESS: Mutex<Option<KeptProcess>> = Mutex::new(None);
/// How the processes that ended last have ended, and their generations.
static ENDS: Mutex<VecDeque<(u64, End)>> = Mutex::new(VecDeque::new());
/// The most ends that are kept. Batches of a query wait in at most a few processes.
const MOST_ENDS: usize = 16;
static GENERATIONS: AtomicU64 = AtomicU64::new(0);
/// Numbers of sessions and of prepared runs.
static NUMBERS: AtomicU64 = AtomicU64::new(0);

/// Returns a new number for a session or a prepared run.
pub(crate) fn number() -> u64 {
    NUMBERS.fetch_add(1, Ordering::Relaxed)
}

/// Why a request was not answered.
pub(crate) enum Failure {
    /// The process of this generation has ended.
    Ended,
    /// Another error.
    Error(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<pg_predict_engine::Error> for Failure {
    fn from(error: pg_predict_engine::Error) -> Self {
        Self::Error(error.into())
    }
}

/// Returns how a process has ended, if it is one of those that ended last.
pub(crate) fn end_of(generation: u64) -> Option<End> {
    ENDS.lock().iter().find(|(ended, _)| *ended == generation).map(|(_, end)| end.clone())
}

/// Keeps how a process has ended.
fn keep_end(generation: u64, end: End) {
    let mut ends = ENDS.lock();
    if ends.len() >= MOST_ENDS {
        ends.pop_front();
    }
    ends.push_back((generation, end));
}

/// Whether a process ended by itself because it was idle.
pub(crate) fn is_idle_end(generation: u64) -> bool {
    end_of(generation).is_some_and(|end| end.cause == Cause::Exit(0))
}

/// The profile of the sandbox for a device. Only a build of ONNX Runtime with CUDA needs more than the CPU.
fn profile(device: Device, library: &str) -> Profile {
    let cuda = Path::new(library).with_file_name("libonnxruntime_providers_cuda.so");
    if device != Device::Cpu && cuda.exists() { Profile::Cuda } else { Profile::Cpu }
}

fn start_with(profile: Profile, library: String) -> Start {
    let memory = settings::model_process_memory_limit();
    let limits = match profile {
        Profile::Cpu => {
            Limits { address_space: memory, private_memory: None, cpu_seconds: None, file_size: LARGEST_FILE }
        }
        // CUDA reserves addresses for the memory of the machine and of all its GPUs, and does not start with fewer.
        Profile::Cuda => {
            let file_size = LARGEST_FILE_WITH_CUDA;
            Limits { address_space: None, private_memory: memory, cpu_seconds: None, file_size }
        }
    };
    Start { profile, library, limits }
}

/// The child process that validates a model now. 0: none.
static VALIDATION: AtomicI32 = AtomicI32::new(0);

/// Ends the child processes with their backend, also when a terminate leaves no time for anything else. A child that
/// outlives the backend would be inherited by process 1. In a container this can be the postmaster, which would take
/// its end for the crash of a backend, and restart the server.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn end_with_backend(_code: i32, _argument: pg_sys::Datum) {
    drop(PROCESS.lock().take());
    wait_for_all();
    let child = VALIDATION.swap(0, Ordering::AcqRel);
    if child > 0 {
        let child = nix::unistd::Pid::from_raw(child);
        let _ = nix::sys::signal::killpg(child, nix::sys::signal::Signal::SIGKILL);
        let _ = nix::sys::wait::waitpid(child, None);
    }
}

/// Makes sure that child processes end with this backend.
fn watch_exit() {
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    if !REGISTERED.swap(true, Ordering::AcqRel) {
        // SAFETY: registers a function that is never unloaded.
        unsafe { pg_sys::on_proc_exit(Some(end_with_backend), pg_sys::Datum::from(0)) };
    }
}

/// Notes the child process that validates a model now, so that it ends with this backend. 0: none.
pub(crate) fn watch_validation(pid: i32) {
    watch_exit();
    VALIDATION.store(pid, Ordering::Release);
}

/// Starts a process, unless one is running that suits the device. Returns its generation.
pub(crate) fn connect(device: Device) -> Result<u64> {
    let library = settings::onnxruntime_library();
    let start = start_with(profile(device, &library), library);
    let mut kept = PROCESS.lock();
    if let Some(process) = kept.as_mut() {
        let running = process.process.started_with();
        // A process for CUDA also runs models on the CPU.
        let suits = *running == start || *running == start_with(Profile::Cuda, start.library.clone());
        match process.process.has_ended() {
            None if suits => {
                set_idle_timeout(process);
                return Ok(process.generation);
            }
            None => {
                let end = process.process.kill();
                keep_end(process.generation, End { taken: 0, ..end });
            }
            Some(end) => keep_end(process.generation, end),
        }
        *kept = None;
    }
    let path = settings::model_process_program();
    let failed = |reason: std::io::Error| Error::NoModelProcess { path: path.clone(), reason: reason.to_string() };
    watch_exit();
    let process = ModelProcess::start(Path::new(&path), start).map_err(failed)?;
    let generation = GENERATIONS.fetch_add(1, Ordering::Relaxed) + 1;
    activity::show_process(process.pid());
    let process = kept.insert(KeptProcess { process, generation, idle_timeout: 0, is_logged: false });
    set_idle_timeout(process);
    Ok(generation)
}

fn set_idle_timeout(kept: &mut KeptProcess) {
    let timeout = settings::model_process_idle_timeout();
    // If the process has ended, the next request notices it.
    if kept.idle_timeout != timeout && kept.process.send(&Message::IdleTimeout(timeout), None).is_ok() {
        kept.idle_timeout = timeout;
    }
}

/// Calls a function with the process of a generation. Records how the process ended if it has.
fn with<T>(
    generation: u64,
    work: impl FnOnce(&mut ModelProcess) -> pg_predict_engine::Result<std::result::Result<T, End>>,
) -> std::result::Result<T, Failure> {
    let mut kept = PROCESS.lock();
    let Some(process) = kept.as_mut().filter(|kept| kept.generation == generation) else {
        return Err(Failure::Ended);
    };
    match work(&mut process.process) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(end)) => {
            keep_end(generation, end);
            *kept = None;
            activity::show_process(0);
            Err(Failure::Ended)
        }
        Err(error @ pg_predict_engine::Error::Protocol { .. }) => {
            // Nothing more is believed of a process that broke the protocol.
            let end = process.process.kill();
            keep_end(generation, end);
            *kept = None;
            activity::show_process(0);
            Err(error.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether the process of a generation runs. Asks the system, so this is for the beginning of a query.
pub(crate) fn is_running(generation: u64) -> bool {
    with(generation, |process| Ok(process.has_died().map_or(Ok(()), Err))).is_ok()
}

/// Whether the process of a generation is the one that runs, as far as is known without asking the system.
pub(crate) fn is_current(generation: u64) -> bool {
    PROCESS.lock().as_ref().is_some_and(|kept| kept.generation == generation)
}

/// Sends a message. If the process has ended, there is nobody who needs it.
pub(crate) fn send(generation: u64, message: &Message) {
    let _ = with(generation, |process| Ok(process.send(message, None)));
}

/// Sends the files of a session that is about to be loaded.
pub(crate) fn send_files(generation: u64, session: u64, files: &[std::fs::File]) -> std::result::Result<(), Failure> {
    use std::os::fd::AsFd;
    files.iter().try_for_each(|file| {
        with(generation, |process| Ok(process.send(&Message::File { session }, Some(file.as_fd()))))
    })
}

/// Submits a request.
pub(crate) fn submit(
    generation: u64,
    kind: Kind,
    write: impl Fn(&mut Writer<'_>),
) -> std::result::Result<Slot, Failure> {
    with(generation, |process| process.submit(kind, write))
}

/// Waits for an answer, for at most a tick. Returns whether it has arrived.
pub(crate) fn wait(generation: u64, slot: &Slot) -> std::result::Result<bool, Failure> {
    with(generation, |process| Ok(process.wait(slot, TICK)))
}

/// Reads the answer to a request. Returns `None` if it has to be waited for again. The error of the request itself is
/// the inner result.
pub(crate) fn read<T>(
    generation: u64,
    slot: &mut Slot,
    read: impl FnOnce(&mut Reader<'_>) -> pg_predict_engine::Result<T>,
) -> std::result::Result<Option<(pg_predict_engine::Result<T>, Duration)>, Failure> {
    let memory = settings::model_process_memory_limit().and_then(|bytes| usize::try_from(bytes).ok());
    let most = memory.unwrap_or(LARGEST_RESPONSE).min(LARGEST_RESPONSE);
    with(generation, |process| {
        process.read(
            slot,
            most,
            || !is_interrupted(),
            |from| match read_result(from, read) {
                Err(error @ pg_predict_engine::Error::Protocol { .. }) => Err(error),
                result => Ok(result),
            },
        )
    })
}

/// Keeps the slot of an answered request for a later one.
pub(crate) fn put_back(generation: u64, slot: Slot) {
    if let Some(kept) = PROCESS.lock().as_mut().filter(|kept| kept.generation == generation) {
        kept.process.put_back(slot);
    }
}

/// Whether texts are being tokenised.
pub(crate) fn is_tokenising() -> bool {
    PROCESS.lock().as_ref().is_some_and(|kept| kept.process.is_tokenising())
}

/// Stops requests whose answers are no longer needed. Kills the process if they do not stop in time, and returns whether
/// it did. Never raises.
pub(crate) fn give_up(generation: u64, slots: Vec<Slot>) -> bool {
    give_up_within(generation, slots, STOP_TIMEOUT)
}

fn give_up_within(generation: u64, slots: Vec<Slot>, time: Duration) -> bool {
    if slots.is_empty() || !is_current(generation) {
        return false;
    }
    let gave_up = with(generation, |process| Ok(process.give_up(slots.into(), time).map_or(Ok(()), Err)));
    gave_up.is_err() && end_of(generation).is_some_and(|end| end.cause == Cause::Killed)
}

/// A request under way that cannot be stopped, such as a load. If it is dropped before its answer has been read, its
/// process is killed, unless the answer has arrived.
struct Pending(u64, Option<Slot>);

impl Drop for Pending {
    fn drop(&mut self) {
        give_up_within(self.0, self.1.take().into_iter().collect(), Duration::ZERO);
    }
}

/// Submits a request and waits for its answer, while checking for interrupts.
pub(crate) fn call<T>(
    generation: u64,
    kind: Kind,
    write: impl Fn(&mut Writer<'_>),
    mut parse: impl FnMut(&mut Reader<'_>) -> pg_predict_engine::Result<T>,
) -> std::result::Result<pg_predict_engine::Result<T>, Failure> {
    let mut pending = Pending(generation, Some(submit(generation, kind, write)?));
    loop {
        let Some(slot) = pending.1.as_mut() else { return Err(Failure::Ended) };
        if !wait(generation, slot)? {
            check_interrupts();
            continue;
        }
        if let Some((result, _)) = read(generation, slot, &mut parse)? {
            if let Some(slot) = pending.1.take() {
                put_back(generation, slot);
            }
            return Ok(result);
        }
        check_interrupts();
    }
}

/// Returns the build of ONNX Runtime that the process has loaded.
pub(crate) fn runtime() -> Result<String> {
    let generation = connect(settings::device().unwrap_or(Device::Cpu))?;
    match call(generation, Kind::Runtime, |_| {}, |from| from.text()) {
        Ok(result) => Ok(result?),
        Err(Failure::Error(error)) => Err(error),
        Err(Failure::Ended) => Err(ended(None, generation)),
    }
}

/// The error of a process that ended.
pub(crate) fn ended(model: Option<&str>, generation: u64) -> Error {
    let (cause, said) = end_of(generation).map_or((Cause::Killed, String::new()), |end| (end.cause, end.said));
    Error::ModelProcessEnded { model: model.map(str::to_owned), cause, said }
}

/// Returns the process id and the sandbox of the process, if it runs. Waits until the process has reported.
pub(crate) fn sandbox() -> Result<(i32, Option<Report>)> {
    runtime()?;
    let mut kept = PROCESS.lock();
    Ok(kept.as_mut().map_or((0, None), |kept| (kept.process.pid(), kept.process.report().cloned())))
}

/// Logs what the sandbox of a process enforces, once, after the process has answered a request.
pub(crate) fn log_sandbox(generation: u64) {
    let said = {
        let mut kept = PROCESS.lock();
        let Some(kept) = kept.as_mut().filter(|kept| kept.generation == generation && !kept.is_logged) else { return };
        kept.is_logged = true;
        kept.process.report().cloned().map(|report| (kept.process.pid(), report))
    };
    if let Some((pid, Report { landlock, seccomp, address_space, private_memory })) = said {
        let limit = address_space.or(private_memory);
        let limit = limit.map_or_else(|| "no limit of memory".to_owned(), |bytes| format!("{bytes} bytes of memory"));
        report::debug(format!("model process {pid}: {landlock}; {seccomp}; {limit}"));
    }
}

/// Ends the process. The next prediction starts another one.
pub(crate) fn end() -> bool {
    let kept = PROCESS.lock().take();
    activity::show_process(0);
    let Some(mut kept) = kept else { return false };
    let end = kept.process.kill();
    // No request is blamed for this end.
    keep_end(kept.generation, End { taken: 0, ..end });
    true
}
