//! Births threads with every signal blocked, and knows how many are inside ONNX Runtime.
//!
//! A server delivers signals to whichever thread takes them; its handlers must only run in its own. So every thread
//! that this process gets through us, and every thread that ONNX Runtime starts while we are calling it, inherits a
//! full mask. The one exception is SIGFPE, which only the thread itself can cause: ONNX Runtime divides integers without
//! a look at the divisor, and a process is killed for a trap that is blocked. Whoever embeds the engine handles it,
//! calls `note_trap()` and keeps the thread from returning; who waits for the run is told that it failed.
//!
//! A process must not run ONNX Runtime's static destructors while a thread is inside: `inside()` tells.

use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};

use crate::error::{Error, Result};

static INSIDE: AtomicUsize = AtomicUsize::new(0);
static TRAPS: AtomicUsize = AtomicUsize::new(0);

/// What the stack of a thread is: a model's graph is walked by recursion.
const STACK: usize = 8 << 20;
/// What the probe's is: what passes there must fit in a server.
const PROBE_STACK: usize = 4 << 20;

/// Notes that a thread of ours has trapped. May be called from a signal handler.
pub fn note_trap() {
    TRAPS.fetch_add(1, Ordering::AcqRel);
}

/// How many threads have trapped so far.
#[must_use]
pub fn traps() -> usize {
    TRAPS.load(Ordering::Acquire)
}

static AFTER_ABANDONED: once_cell::sync::OnceCell<fn()> = once_cell::sync::OnceCell::new();

/// Sets what is done in a thread whose run nobody waited for, when that has ended: giving memory back, say.
pub fn set_after_abandoned(work: fn()) {
    let _ = AFTER_ABANDONED.set(work);
}

pub(crate) fn after_abandoned() {
    if let Some(work) = AFTER_ABANDONED.get() {
        work();
    }
}

/// How many threads are inside ONNX Runtime now.
#[must_use]
pub fn inside() -> usize {
    INSIDE.load(Ordering::Acquire)
}

/// Counts this thread as inside ONNX Runtime for as long as it lives.
#[must_use]
pub struct Inside(());

impl Inside {
    /// Enters.
    pub fn enter() -> Self {
        INSIDE.fetch_add(1, Ordering::AcqRel);
        Self(())
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Blocks every signal in this thread until dropped, so that threads started meanwhile are born deaf.
struct Deaf(SigSet);

impl Deaf {
    fn new() -> Result<Self> {
        let mut old = SigSet::empty();
        let mut deaf = SigSet::all();
        deaf.remove(Signal::SIGFPE);
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&deaf), Some(&mut old)).map_err(no_thread)?;
        Ok(Self(old))
    }
}

impl Drop for Deaf {
    fn drop(&mut self) {
        // Setting a mask that was in force before cannot fail.
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.0), None);
    }
}

fn no_thread(_: impl std::fmt::Display) -> Error {
    Error::OutOfMemory { what: "a thread".into(), bytes: 0 }
}

/// Starts a thread whose signals are blocked.
pub fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    start(name, STACK, work)
}

fn start(name: &str, stack: usize, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let _deaf = Deaf::new()?;
    std::thread::Builder::new().name(name.to_owned()).stack_size(stack).spawn(work).map(drop).map_err(no_thread)
}

/// Runs the probe's work on a thread with less stack than a server's have; none when it panicked.
pub fn run_with_less_stack<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<Option<T>> {
    let (send, receive) = std::sync::mpsc::channel();
    start("pg_predict_probe", PROBE_STACK, move || {
        let _ = send.send(work());
    })?;
    Ok(receive.recv().ok())
}

/// Starts a thread and gives the receiver of what it returns; a panic in it shows as a closed channel.
pub fn spawn_for<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<std::sync::mpsc::Receiver<T>> {
    let (send, receive) = std::sync::mpsc::channel();
    spawn(name, move || {
        // The other side may have given up waiting: then the answer is dropped here.
        let _ = send.send(work());
    })?;
    Ok(receive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_born_with_every_signal_but_the_trap_blocked_and_the_caller_keeps_its_mask() {
        let mask = || {
            let mut now = SigSet::empty();
            pthread_sigmask(SigmaskHow::SIG_BLOCK, None, Some(&mut now)).unwrap();
            now
        };
        let before = mask();
        let inner = spawn_for("t", mask).unwrap().recv().unwrap();
        assert!(
            Signal::iterator()
                .all(|s| s == Signal::SIGFPE || matches!(s, Signal::SIGKILL | Signal::SIGSTOP) || inner.contains(s))
        );
        assert_eq!(before, mask());
    }

    #[test]
    fn a_panicking_thread_closes_its_channel() {
        assert!(spawn_for("t", || -> u8 { panic!("on purpose") }).unwrap().recv().is_err());
    }
}
