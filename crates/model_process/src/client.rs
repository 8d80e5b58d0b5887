//! The backend's side of a model process: starts it, sends requests, waits for answers and notices its end.
//!
//! Nothing that the process writes is believed. A slot is used again only after its request was answered, so a process
//! that answers late or twice cannot disturb a later request.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use pg_predict_engine::{Error, Result};

use crate::codec::reader::Reader;
use crate::codec::writer::Writer;
use crate::control::{
    Control, DONE, Kind, PROTOCOL, SLOTS, SlotState, SpinTime, TOO_SMALL, clock, control, is_answered, sleep_on, wake,
};
use crate::killed::{collect, wait_briefly};
use crate::memory::SharedMemory;
use crate::messages::{Message, Start, receive, send_message, set_send_timeout};
use crate::sandbox::Report;
use crate::spawn::spawn;

/// How long a backend waits for an answer without sleeping.
const LONGEST_SPIN: Duration = Duration::from_micros(50);
/// How long a message may wait for room in the socket. The process always reads, unless it is stopped.
const SEND_TIMEOUT: Duration = Duration::from_millis(500);
/// The size of a new region, in bytes.
const FIRST_REGION: usize = 1 << 16;
/// The largest region that is kept for the next request, in bytes.
const LARGEST_KEPT: usize = 32 << 20;
/// The most slots that keep large regions for later requests.
const MOST_SPARE: usize = 8;
/// The most bytes of the process's error output that are read.
const MOST_SAID: u64 = 4096;

/// How a process ended.
#[derive(Debug, Clone, PartialEq)]
pub struct End {
    /// The cause.
    pub cause: Cause,
    /// What the process wrote to its error output.
    pub said: String,
    /// The number of the request that it had taken last.
    pub taken: u32,
}

/// Why a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A signal ended it.
    Signal(i32),
    /// It exited with this code.
    Exit(i32),
    /// It was stopped, as by SIGSTOP, and was therefore killed.
    Stopped,
    /// It did not read its messages, broke the protocol or did not stop in time, and was therefore killed.
    Killed,
}

/// A request under way: its slot and its number.
#[derive(Debug)]
pub struct Slot {
    index: u32,
    number: u32,
    request: SharedMemory,
    response: SharedMemory,
}

impl Slot {
    /// Returns the number of its request.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }
}

/// A running model process.
pub struct ModelProcess {
    pid: Pid,
    socket: OwnedFd,
    region: SharedMemory,
    said: File,
    start: Start,
    submitted: u32,
    next_slot: u32,
    spare: Vec<Slot>,
    spin: SpinTime,
    report: Option<Report>,
    end: Option<End>,
}

impl ModelProcess {
    /// Starts a process. It loads ONNX Runtime and enters its sandbox while the backend goes on.
    pub fn start(program: &Path, start: Start) -> io::Result<Self> {
        collect();
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        set_send_timeout(&ours, SEND_TIMEOUT)?;
        let region = SharedMemory::create(size_of::<Control>())?;
        if let Some(control) = control(&region) {
            control.protocol.store(PROTOCOL, Ordering::Release);
        }
        let said = File::from(nix::sys::memfd::memfd_create(c"pg_predict", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?);
        let child = spawn(program, &["serve"], None, Stdio::from(theirs), Stdio::null(), said.try_clone()?)?;
        let pid = Pid::from_raw(i32::try_from(child.id()).map_err(|_| io::ErrorKind::InvalidData)?);
        let hello = send_message(ours.as_fd(), &Message::Hello(start.clone()), Some(region.descriptor()));
        let process = Self {
            pid,
            socket: ours,
            region,
            said,
            start,
            submitted: 0,
            next_slot: 0,
            spare: Vec::new(),
            spin: SpinTime::new(LONGEST_SPIN),
            report: None,
            end: None,
        };
        match hello {
            // A process that something has ended already is noticed like any other end, by the first request.
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(e),
            _ => Ok(process),
        }
    }

    fn control(&self) -> Option<&Control> {
        control(&self.region)
    }

    fn state(&self, slot: u32) -> Option<&SlotState> {
        self.control()?.slots.get(slot as usize)
    }

    /// Returns the process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Returns how the process was started.
    #[must_use]
    pub fn started_with(&self) -> &Start {
        &self.start
    }

    /// Returns the sandbox that is in force, once the process has reported it.
    pub fn report(&mut self) -> Option<&Report> {
        self.read_socket();
        self.report.as_ref()
    }

    /// Sends a message.
    pub fn send(&mut self, message: &Message, descriptor: Option<BorrowedFd<'_>>) -> std::result::Result<(), End> {
        if send_message(self.socket.as_fd(), message, descriptor).is_err() {
            return Err(self.kill());
        }
        if let Some(control) = self.control() {
            control.messages.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Returns a slot: one that was used before, or a new one.
    fn slot(&mut self) -> Result<std::result::Result<Slot, End>> {
        if let Some(slot) = self.spare.pop() {
            return Ok(Ok(slot));
        }
        if self.next_slot as usize >= SLOTS {
            return Err(Error::OutOfMemory { what: "a slot of the model process".into(), bytes: 0 });
        }
        let (request, response) = (new_region(FIRST_REGION)?, new_region(FIRST_REGION)?);
        let slot = Slot { index: self.next_slot, number: 0, request, response };
        self.next_slot += 1;
        let region = |response| Message::Region { slot: slot.index, response };
        let sent = self
            .send(&region(false), Some(slot.request.descriptor()))
            .and_then(|()| self.send(&region(true), Some(slot.response.descriptor())));
        Ok(sent.map(|()| slot))
    }

    /// Keeps a slot whose request was answered.
    pub fn put_back(&mut self, mut slot: Slot) {
        let is_many = self.spare.len() >= MOST_SPARE;
        let mut replace = |region: &mut SharedMemory, response: bool| -> bool {
            if region.len() <= if is_many { FIRST_REGION } else { LARGEST_KEPT } {
                return true;
            }
            let Ok(small) = new_region(FIRST_REGION) else { return false };
            let message = Message::Region { slot: slot.index, response };
            let sent = self.send(&message, Some(small.descriptor())).is_ok();
            *region = small;
            sent
        };
        if replace(&mut slot.request, false) && replace(&mut slot.response, true) {
            self.spare.push(slot);
        }
    }

    /// Submits a request, which `write` writes.
    pub fn submit(&mut self, kind: Kind, write: impl Fn(&mut Writer<'_>)) -> Result<std::result::Result<Slot, End>> {
        let mut slot = match self.slot()? {
            Ok(slot) => slot,
            Err(end) => return Ok(Err(end)),
        };
        let mut length = written(&slot.request, &write);
        if length > slot.request.len() {
            slot.request = new_region(length.next_power_of_two())?;
            let message = Message::Region { slot: slot.index, response: false };
            if let Err(end) = self.send(&message, Some(slot.request.descriptor())) {
                return Ok(Err(end));
            }
            length = written(&slot.request, &write);
        }
        self.push(&mut slot, kind, length);
        Ok(Ok(slot))
    }

    fn push(&mut self, slot: &mut Slot, kind: Kind, length: usize) {
        let number = self.submitted.wrapping_add(1);
        slot.number = number;
        let (Some(control), Some(state)) = (self.control(), self.state(slot.index)) else { return };
        state.kind.store(kind as u32, Ordering::Relaxed);
        state.request.store(length as u64, Ordering::Relaxed);
        control.ring[number as usize % SLOTS].store(slot.index, Ordering::Relaxed);
        control.submitted.store(number, Ordering::SeqCst);
        if control.process_sleeps.swap(0, Ordering::SeqCst) == 1 {
            control.process_woken.store(clock(), Ordering::Relaxed);
            wake(&control.submitted);
        }
        self.submitted = number;
    }

    /// Waits until a request has been answered, for at most `time`. A signal ends the wait early.
    pub fn wait(&mut self, slot: &Slot, time: Duration) -> std::result::Result<bool, End> {
        let Some(control) = control(&self.region) else { return Ok(false) };
        let Some(state) = control.slots.get(slot.index as usize) else { return Ok(false) };
        let answered = || is_answered(state, slot.number);
        if self.spin.wait(answered) {
            return Ok(true);
        }
        control.backend_sleeps.store(1, Ordering::SeqCst);
        let before = state.answered.load(Ordering::SeqCst);
        if before == slot.number {
            control.backend_sleeps.store(0, Ordering::SeqCst);
            return Ok(true);
        }
        // A signal for the backend ends this too.
        sleep_on(&state.answered, before, time);
        control.backend_sleeps.store(0, Ordering::SeqCst);
        if answered() {
            self.spin.woken(control.backend_woken.load(Ordering::Relaxed));
            return Ok(true);
        }
        self.has_ended().map_or(Ok(false), Err)
    }

    /// Whether texts are being tokenised.
    #[must_use]
    pub fn is_tokenising(&self) -> bool {
        self.control().is_some_and(|c| c.tokenising.load(Ordering::Relaxed) != 0)
    }

    fn read_socket(&mut self) -> bool {
        read_socket(&self.socket, &mut self.report)
    }

    /// Reads the answer to a request. Returns `None` if it has to be waited for again, because the response did not fit
    /// into its region. `most` is the largest response, in bytes. A process may ask for gigabytes, so `goes_on` is asked
    /// now and then whether to go on; if not, the answer has to be waited for again too.
    pub fn read<T>(
        &mut self,
        slot: &mut Slot,
        most: usize,
        goes_on: impl Fn() -> bool,
        read: impl FnOnce(&mut Reader<'_>) -> Result<T>,
    ) -> Result<std::result::Result<Option<(T, Duration)>, End>> {
        let Some(state) = self.state(slot.index) else { return Ok(Err(self.kill())) };
        // Each value is read once, so that the process cannot change it after it was checked.
        let (outcome, length) = (state.outcome.load(Ordering::Relaxed), state.response.load(Ordering::Relaxed));
        let took = Duration::from_nanos(state.nanos.load(Ordering::Relaxed));
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        match outcome {
            DONE => {
                let mut from = Reader::new(&slot.response, length)?;
                Ok(Ok(Some((read(&mut from)?, took))))
            }
            TOO_SMALL if length > most => Err(Error::TooLarge { bytes: length }),
            TOO_SMALL if length > slot.response.len() => {
                slot.response = match SharedMemory::create_while(length.next_power_of_two(), goes_on) {
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(Ok(None)),
                    region => region.map_err(|_| no_region(length))?,
                };
                let message = Message::Region { slot: slot.index, response: true };
                if let Err(end) = self.send(&message, Some(slot.response.descriptor())) {
                    return Ok(Err(end));
                }
                self.push(slot, Kind::Repeat, 0);
                Ok(Ok(None))
            }
            _ => Ok(Err(self.kill())),
        }
    }

    /// Tells the process that answers are no longer needed, and waits for them for at most `time`. Keeps the slots, or
    /// kills the process if it does not answer in time.
    pub fn give_up(&mut self, slots: VecDeque<Slot>, time: Duration) -> Option<End> {
        for slot in &slots {
            let message = Message::Stop { slot: slot.index, number: slot.number };
            if let Err(end) = self.send(&message, None) {
                return Some(end);
            }
        }
        let started = std::time::Instant::now();
        for mut slot in slots {
            loop {
                let left = time.saturating_sub(started.elapsed());
                match self.wait(&slot, left.min(Duration::from_millis(5))) {
                    Ok(true) => break,
                    Ok(false) if left.is_zero() => return Some(self.kill()),
                    Ok(false) => {}
                    Err(end) => return Some(end),
                }
            }
            // A response that did not fit waits in the process until its slot has another one.
            slot.number = 0;
            self.put_back(slot);
        }
        None
    }

    /// Returns why the process has ended or must end, or `None` if it runs.
    fn status(&self) -> Option<Cause> {
        loop {
            match waitpid(self.pid, Some(WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED)) {
                Ok(WaitStatus::Exited(_, code)) => return Some(Cause::Exit(code)),
                Ok(WaitStatus::Signaled(_, signal, _)) => return Some(Cause::Signal(signal as i32)),
                Ok(WaitStatus::Stopped(..)) => return Some(Cause::Stopped),
                Err(Errno::EINTR) => {}
                // Somebody else has waited for it.
                Err(_) => return Some(Cause::Killed),
                Ok(_) => return None,
            }
        }
    }

    /// Returns how the process has ended, or `None` if it runs.
    pub fn has_ended(&mut self) -> Option<End> {
        self.has_died().or_else(|| self.read_socket().then(|| self.kill()))
    }

    /// Like `has_ended`, but does not look whether the process has closed its socket, which takes longer.
    pub fn has_died(&mut self) -> Option<End> {
        match &self.end {
            Some(end) => Some(end.clone()),
            None => self.status().map(|cause| self.ended(cause)),
        }
    }

    fn ended(&mut self, cause: Cause) -> End {
        if cause == Cause::Stopped {
            self.kill();
            if let Some(end) = &mut self.end {
                end.cause = Cause::Stopped;
            }
        }
        let end = match self.end.take() {
            Some(end) => end,
            None => End { cause, said: self.error_output(), taken: self.taken() },
        };
        self.end.insert(end).clone()
    }

    fn taken(&self) -> u32 {
        self.control().map_or(0, |c| c.taken.load(Ordering::SeqCst))
    }

    /// Kills the process. A process that has ended by itself keeps its own cause.
    pub fn kill(&mut self) -> End {
        if let Some(end) = &self.end {
            return end.clone();
        }
        // A process that has closed its socket is about to end by itself.
        let mut cause = None;
        for _ in 0..20 {
            cause = self.status();
            if cause.is_some() || !self.read_socket() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let cause = match cause {
            Some(cause) if cause != Cause::Stopped => cause,
            other => {
                let _ = killpg(self.pid, Signal::SIGKILL);
                let _ = kill(self.pid, Signal::SIGKILL);
                wait_briefly(self.pid);
                other.unwrap_or(Cause::Killed)
            }
        };
        let end = End { cause, said: self.error_output(), taken: self.taken() };
        self.end.insert(end).clone()
    }

    /// Returns the beginning of what the process wrote to its error output.
    fn error_output(&mut self) -> String {
        let mut bytes = Vec::new();
        // The text only adds to an error message, so a failure leaves it out.
        let _ = self.said.seek(SeekFrom::Start(0)).and_then(|_| (&self.said).take(MOST_SAID).read_to_end(&mut bytes));
        String::from_utf8_lossy(&bytes).replace('\0', "").trim().to_owned()
    }
}

impl Drop for ModelProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The most packets that are read at once. A process sends a handful.
const MOST_PACKETS: usize = 64;

/// Reads what the process wrote to the socket. Returns whether it closed the socket.
fn read_socket(socket: &OwnedFd, report: &mut Option<Report>) -> bool {
    for _ in 0..MOST_PACKETS {
        match receive(socket.as_fd(), false) {
            Ok(Some((bytes, _))) if bytes.is_empty() => return true,
            Ok(Some((bytes, _))) if report.is_none() => *report = serde_json::from_slice(&bytes).ok(),
            Ok(Some(_)) => {}
            Ok(None) => return false,
            Err(_) => return true,
        }
    }
    // More will be read the next time, so that a process that never stops sending holds nobody up.
    false
}

fn new_region(length: usize) -> Result<SharedMemory> {
    SharedMemory::create(length).map_err(|_| no_region(length))
}

fn no_region(length: usize) -> Error {
    Error::OutOfMemory { what: "a batch in shared memory".into(), bytes: length }
}

fn written(region: &SharedMemory, write: &impl Fn(&mut Writer<'_>)) -> usize {
    let mut out = Writer::new(region);
    write(&mut out);
    out.len()
}
