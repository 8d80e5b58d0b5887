//! The model process: takes requests one after another, and answers them.
//!
//! One thread runs the requests. A second one reads the socket, so that a request to stop arrives during a run and the
//! end of the backend is noticed at once. The lock of the state is held only briefly, never during a run or a load.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use pg_predict_engine::batch::Batch;
use pg_predict_engine::device::Device;
use pg_predict_engine::file_cache::Part;
use pg_predict_engine::hash::{content_hash, hex};
use pg_predict_engine::memory::resident;
use pg_predict_engine::ort::environment::{self, Config};
use pg_predict_engine::ort::session::Session;
use pg_predict_engine::ort::stop::Stop;
use pg_predict_engine::ort::weights::SharedBytes;
use pg_predict_engine::run::{RunContext, RunOutput};
use pg_predict_engine::{Error, Result, threads};

use crate::codec::batch::read_batch;
use crate::codec::output::{write_output, write_result};
use crate::codec::reader::{Reader, broken};
use crate::codec::writer::Writer;
use crate::control::{Control, DONE, Kind, SLOTS, SpinTime, TOO_SMALL, clock, control, sleep_on, wake};
use crate::memory::SharedMemory;
use crate::messages::{FilePart, LoadRequest, Loaded, Message, PrepareRequest, receive};

/// How long the process waits for the next request without sleeping: longer than a client on the same machine takes
/// between two statements.
const LONGEST_SPIN: Duration = Duration::from_micros(200);
/// The time without requests after which memory is given back.
const QUIET: Duration = Duration::from_millis(100);
/// The growth of the process, in bytes, above which memory is given back.
const WORTH_GIVING_BACK: usize = 16 << 20;

/// What the thread that reads the socket has received.
#[derive(Default)]
struct Received {
    /// The number of messages.
    messages: u32,
    /// The new regions of slots: for requests and for responses.
    regions: Vec<(u32, bool, SharedMemory)>,
    /// The files of sessions that are not loaded yet.
    files: HashMap<u64, VecDeque<OwnedFd>>,
    unloads: Vec<u64>,
    releases: Vec<u64>,
    /// Requests whose answers are no longer needed.
    stopped: HashMap<u32, u32>,
    /// The request that runs, and its stop handle.
    running: Option<(u32, u32, Stop)>,
    idle_timeout: Duration,
}

/// What both threads share.
struct Shared {
    region: SharedMemory,
    received: Mutex<Received>,
    arrived: Condvar,
    socket: OwnedFd,
}

impl Shared {
    fn control(&self) -> &Control {
        // The size of the region was checked when it arrived.
        control(&self.region).unwrap_or_else(|| end(2))
    }
}

/// Ends the process if a thread panics, because the backend waits for the thread's answer.
struct EndOnPanic;

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// Ends the process at once, without ONNX Runtime's destructors.
fn end(code: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}

/// A prepared run.
struct Plan {
    work: RunContext,
    stop: Stop,
    session: u64,
}

/// A response, which is kept until it fits into its region.
enum Response {
    Loaded(Result<Loaded>),
    Prepared(Result<()>),
    Ran(Box<Result<RunOutput>>),
    Runtime(Result<String>),
}

impl Response {
    fn write(&self, out: &mut Writer<'_>) {
        match self {
            Self::Loaded(result) => write_result(result, out, |loaded, out| {
                out.text(&serde_json::to_string(loaded).unwrap_or_default());
            }),
            Self::Prepared(result) => write_result(result, out, |(), _| {}),
            Self::Ran(result) => write_result(result, out, write_output),
            Self::Runtime(result) => write_result(result, out, |text, out| out.text(text)),
        }
    }
}

/// Serves requests until the backend ends. `environment` is the result of loading ONNX Runtime.
pub fn serve(socket: OwnedFd, region: SharedMemory, library: String, environment: Result<String>) -> ! {
    let shared = Arc::new(Shared { region, received: Mutex::default(), arrived: Condvar::new(), socket });
    if shared.control().protocol.load(Ordering::Acquire) != crate::control::PROTOCOL {
        end(2);
    }
    let reader = Arc::clone(&shared);
    let read = move || {
        let _end = EndOnPanic;
        read_socket(&reader);
    };
    if threads::spawn("pg_predict reader", read).is_err() {
        end(2);
    }
    let started = threads::spawn("pg_predict runner", move || {
        let _end = EndOnPanic;
        Runner {
            shared,
            library,
            environment,
            messages: 0,
            regions: HashMap::new(),
            sessions: HashMap::new(),
            plans: HashMap::new(),
            waiting: HashMap::new(),
            ones: HashMap::new(),
            before: resident(),
        }
        .run();
    });
    if started.is_err() {
        end(2);
    }
    loop {
        std::thread::park();
    }
}

/// Reads messages until the backend closes the socket, and then ends the process.
fn read_socket(shared: &Shared) {
    loop {
        let Ok(Some((bytes, descriptor))) = receive(shared.socket.as_fd(), true) else { end(3) };
        if bytes.is_empty() {
            end(0);
        }
        let Ok(message) = serde_json::from_slice::<Message>(&bytes) else { end(3) };
        let mut received = shared.received.lock();
        match (message, descriptor) {
            (Message::Region { slot, response }, Some(file)) => {
                let Ok(region) = SharedMemory::map(file) else { end(3) };
                received.regions.push((slot, response, region));
            }
            (Message::File { session }, Some(file)) => received.files.entry(session).or_default().push_back(file),
            (Message::Stop { slot, number }, _) => {
                received.stopped.insert(slot, number);
                if let Some((_, _, stop)) = received.running.as_ref().filter(|r| (r.0, r.1) == (slot, number)) {
                    stop.ask();
                }
            }
            (Message::Unload { session }, _) => received.unloads.push(session),
            (Message::Release { plan }, _) => received.releases.push(plan),
            (Message::IdleTimeout(milliseconds), _) => received.idle_timeout = Duration::from_millis(milliseconds),
            _ => end(3),
        }
        received.messages = received.messages.wrapping_add(1);
        let is_work = !received.unloads.is_empty() || !received.releases.is_empty();
        drop(received);
        shared.arrived.notify_one();
        if is_work {
            wake(&shared.control().submitted);
        }
    }
}

/// The thread that runs requests.
struct Runner {
    shared: Arc<Shared>,
    library: String,
    environment: Result<String>,
    /// The number of messages whose regions have been taken.
    messages: u32,
    /// The regions of each slot: for requests and for responses.
    regions: HashMap<(u32, bool), Arc<SharedMemory>>,
    sessions: HashMap<u64, Arc<Session>>,
    plans: HashMap<u64, Plan>,
    /// Responses that did not fit into their region.
    waiting: HashMap<u32, Response>,
    /// A row of each plan that was run since memory was given back, to run again then.
    ones: HashMap<u64, Batch>,
    /// The memory of the process when it was last given back.
    before: usize,
}

impl Runner {
    fn run(&mut self) {
        let shared = Arc::clone(&self.shared);
        let control = shared.control();
        let mut spin = SpinTime::new(LONGEST_SPIN);
        let mut done = 0_u32;
        let mut idle_since = Instant::now();
        let mut is_quiet = false;
        loop {
            let is_new = || control.submitted.load(Ordering::SeqCst) != done;
            if !spin.wait(is_new) {
                self.tidy();
                control.process_sleeps.store(1, Ordering::SeqCst);
                if !is_new() {
                    let timeout = shared.received.lock().idle_timeout;
                    let left = timeout.saturating_sub(idle_since.elapsed());
                    let longest = if timeout.is_zero() { Duration::from_secs(3600) } else { left };
                    let wait = if is_quiet { longest } else { longest.min(QUIET) };
                    sleep_on(&control.submitted, done, wait.max(Duration::from_millis(1)));
                    if is_new() {
                        spin.woken(control.process_woken.load(Ordering::Relaxed));
                    }
                    let idle = idle_since.elapsed();
                    if !is_new() && !timeout.is_zero() && idle >= timeout {
                        end(0);
                    }
                    if !is_new() && !is_quiet && idle >= QUIET {
                        is_quiet = true;
                        self.give_back();
                    }
                }
                control.process_sleeps.store(0, Ordering::SeqCst);
                continue;
            }
            done = done.wrapping_add(1);
            let slot = control.ring[done as usize % SLOTS].load(Ordering::Acquire);
            self.wait_for_messages();
            control.taken.store(done, Ordering::SeqCst);
            self.answer(control, slot, done);
            idle_since = Instant::now();
            is_quiet = false;
        }
    }

    /// Waits until the messages that the backend sent before its request have arrived, and takes their regions.
    fn wait_for_messages(&mut self) {
        let sent = self.shared.control().messages.load(Ordering::Acquire);
        if sent == self.messages {
            return;
        }
        let mut received = self.shared.received.lock();
        while received.messages.wrapping_sub(sent) > u32::MAX / 2 {
            self.shared.arrived.wait(&mut received);
        }
        let regions = std::mem::take(&mut received.regions);
        drop(received);
        self.take_regions(regions);
        self.messages = sent;
    }

    fn take_regions(&mut self, regions: Vec<(u32, bool, SharedMemory)>) {
        for (slot, response, region) in regions {
            self.regions.insert((slot, response), Arc::new(region));
        }
    }

    /// Drops what the backend no longer needs, such as large regions that it has replaced.
    fn tidy(&mut self) {
        let mut received = self.shared.received.lock();
        let (unloads, releases) = (std::mem::take(&mut received.unloads), std::mem::take(&mut received.releases));
        let regions = std::mem::take(&mut received.regions);
        drop(received);
        self.take_regions(regions);
        if unloads.is_empty() && releases.is_empty() {
            return;
        }
        releases.iter().for_each(|plan| drop(self.plans.remove(plan)));
        for session in unloads {
            self.plans.retain(|_, plan| plan.session != session);
            self.sessions.remove(&session);
        }
        self.ones.retain(|plan, _| self.plans.contains_key(plan));
        // SAFETY: may be called from any thread.
        unsafe { libc::malloc_trim(0) };
    }

    /// Gives memory back that earlier runs allocated. Only a run can release ONNX Runtime's memory. The memory of a GPU is
    /// not part of the process, so it is given back whenever it was used.
    fn give_back(&mut self) {
        let ones = std::mem::take(&mut self.ones);
        let has_grown = resident().saturating_sub(self.before) > WORTH_GIVING_BACK;
        for (plan, one) in &ones {
            let Some(plan) = self.plans.get(plan).filter(|plan| has_grown || plan.work.is_on_card()) else { continue };
            plan.work.release_memory(one);
            // SAFETY: may be called from any thread.
            unsafe { libc::malloc_trim(0) };
        }
        self.before = resident();
    }

    /// Answers the request in a slot.
    fn answer(&mut self, control: &Control, slot: u32, number: u32) {
        let Some(state) = control.slots.get(slot as usize) else { end(3) };
        let region = |response| self.regions.get(&(slot, response)).cloned();
        let (request, response) = (region(false), region(true));
        let (Some(request), Some(response)) = (request, response) else { end(3) };
        let length = usize::try_from(state.request.load(Ordering::Acquire)).unwrap_or(usize::MAX);
        let started = Instant::now();
        let kind = Kind::of(state.kind.load(Ordering::Acquire));
        if kind != Some(Kind::Repeat) {
            // The backend has given up the response that waited.
            self.waiting.remove(&slot);
        }
        let answer = match kind {
            Some(Kind::Load) => Response::Loaded(self.load(&request, length)),
            Some(Kind::Prepare) => Response::Prepared(self.prepare(&request, length)),
            Some(Kind::Run) => Response::Ran(Box::new(self.run_batch(&request, length, slot, number))),
            Some(Kind::Runtime) => Response::Runtime(self.environment.clone()),
            Some(Kind::Repeat) => match self.waiting.remove(&slot) {
                Some(answer) => answer,
                None => end(3),
            },
            None => end(3),
        };
        let mut out = Writer::new(&response);
        answer.write(&mut out);
        let nanos = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        state.nanos.store(nanos, Ordering::Relaxed);
        state.response.store(out.len() as u64, Ordering::Relaxed);
        if out.fits() {
            state.outcome.store(DONE, Ordering::Relaxed);
        } else {
            self.waiting.insert(slot, answer);
            state.outcome.store(TOO_SMALL, Ordering::Relaxed);
        }
        state.answered.store(number, Ordering::SeqCst);
        if control.backend_sleeps.swap(0, Ordering::SeqCst) == 1 {
            control.backend_woken.store(clock(), Ordering::Relaxed);
            wake(&state.answered);
        }
    }

    fn load(&mut self, request: &SharedMemory, length: usize) -> Result<Loaded> {
        let request: LoadRequest = read_json(request, length)?;
        self.environment.clone()?;
        let files = self.shared.received.lock().files.remove(&request.session).unwrap_or_default();
        if files.len() != request.files.len() {
            return Err(broken("a file of a session is missing"));
        }
        let device: Device = request.device.parse().map_err(|_| broken("a device is unknown"))?;
        let config = Config {
            library: self.library.clone(),
            device,
            threads: request.threads,
            session_bytes: request.session_bytes,
            share_weights: request.share_weights,
            gpu_memory: request.gpu_memory,
        };
        let (mut model, mut tokenizer, mut weights, mut bytes) = (None, None, Vec::new(), 0);
        let mut checks = Vec::new();
        for (FilePart { part, hash }, file) in request.files.into_iter().zip(files) {
            let mapped = Arc::new(Mapped::new(file)?);
            bytes += (*mapped).as_ref().len();
            match part {
                Part::Model => model = Some(mapped.checked(&hash)?),
                Part::Tokenizer => tokenizer = Some((*mapped.checked(&hash)?).as_ref().to_vec()),
                Part::Weights(name) => {
                    // Weights are only numbers until the session runs, so they are checked while it is loaded.
                    let theirs = Arc::clone(&mapped);
                    checks.push(threads::spawn_for("pg_predict check", move || theirs.checked(&hash).map(drop))?);
                    weights.push((name, mapped as SharedBytes));
                }
            }
        }
        let model = model.ok_or_else(|| broken("a session has no model file"))?;
        let bytes = request.session_bytes.max(bytes);
        let session = Session::load_parts((*model).as_ref(), weights, tokenizer, &request.options, &config, bytes);
        for check in checks {
            check.recv().unwrap_or_else(|_| Err(broken("the check of a file ended")))?;
        }
        let session = session?;
        let loaded = Loaded { bytes: session.bytes(), fallback: session.fallback().map(str::to_owned) };
        self.sessions.insert(request.session, Arc::new(session));
        Ok(loaded)
    }

    fn prepare(&mut self, request: &SharedMemory, length: usize) -> Result<()> {
        let request: PrepareRequest = read_json(request, length)?;
        let session = self.sessions.get(&request.session).ok_or_else(|| broken("a session is unknown"))?;
        let work = RunContext::new(Arc::clone(session), Arc::new(request.version), request.wanted.into())?;
        let shared = Arc::clone(&self.shared);
        let work = work.reporting(Arc::new(move |begins| {
            shared.control().tokenising.store(u32::from(begins), Ordering::Relaxed);
        }));
        let work = if request.finds_failure { work.finding_failure() } else { work };
        self.plans.insert(request.plan, Plan { work, stop: Stop::new()?, session: request.session });
        Ok(())
    }

    fn run_batch(&mut self, request: &SharedMemory, length: usize, slot: u32, number: u32) -> Result<RunOutput> {
        let mut from = Reader::new(request, length)?;
        let id = from.number()? as u64;
        let batch = read_batch(&mut from)?;
        from.finish()?;
        let plan = self.plans.get_mut(&id).ok_or_else(|| broken("a prepared run is unknown"))?;
        if plan.stop.asked() {
            plan.stop = Stop::new()?;
        }
        {
            let mut received = self.shared.received.lock();
            if received.stopped.remove(&slot) == Some(number) {
                return Err(Error::Run { reason: "it was asked to stop".to_owned() });
            }
            received.running = Some((slot, number, plan.stop.clone()));
        }
        let ran = plan.work.run(&batch, &plan.stop);
        let mut received = self.shared.received.lock();
        received.running = None;
        received.stopped.remove(&slot);
        drop(received);
        if batch.rows > 0 {
            self.ones.entry(id).or_insert_with(|| batch.part(0..1));
        }
        ran
    }
}

fn read_json<T: serde::de::DeserializeOwned>(region: &SharedMemory, length: usize) -> Result<T> {
    let text = Reader::new(region, length)?.text()?;
    serde_json::from_str(&text).map_err(|_| broken("a request cannot be read"))
}

/// A file that is mapped for reading.
struct Mapped(SharedMemory);

impl Mapped {
    fn new(file: OwnedFd) -> Result<Self> {
        let memory =
            |e: std::io::Error| Error::OutOfMemory { what: format!("a file of the model ({e})").into(), bytes: 0 };
        SharedMemory::map_to_read(file).map(Self).map_err(memory)
    }

    /// Checks the content against its hash.
    fn checked(self: &Arc<Self>, expected: &str) -> Result<Arc<Self>> {
        let got = hex(&content_hash((**self).as_ref()));
        if got == expected {
            return Ok(Arc::clone(self));
        }
        Err(Error::Hash { expected: expected.to_owned(), got })
    }
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the file is sealed, or lies in the server's file cache, whose files never change.
        unsafe { self.0.bytes() }
    }
}

/// Loads ONNX Runtime and returns its build.
pub fn load_environment(library: &str) -> Result<String> {
    environment::runtime(library)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    #[test]
    fn a_thread_that_panics_ends_the_process() {
        const CHILD: &str = "PG_PREDICT_PANIC";
        if std::env::var_os(CHILD).is_some() {
            let thread = std::thread::spawn(|| {
                let _end = EndOnPanic;
                panic!("on purpose");
            });
            let _ = thread.join();
            return;
        }
        let name = "server::tests::a_thread_that_panics_ends_the_process";
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", name]).env(CHILD, "1").stdout(Stdio::null()).stderr(Stdio::null());
        assert_eq!(child.status().unwrap().signal(), Some(libc::SIGABRT));
    }
}
