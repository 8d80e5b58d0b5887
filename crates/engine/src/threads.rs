//! Starts threads with every signal blocked.
//!
//! The kernel delivers a signal to any thread that does not block it, but a server's handlers must run only in the
//! server's own thread. Every thread that the engine starts, and every thread that ONNX Runtime starts during a call,
//! therefore inherits a full signal mask.
//!
//! The one exception is SIGFPE, which only the thread itself can cause. ONNX Runtime divides integers without checking
//! the divisor, and the kernel kills a process for a blocked trap. The embedding program must handle SIGFPE, call
//! `note_trap()` and keep the thread from returning. The thread that waits for the run then reports an error.
//!
//! A process must not run static destructors while such a thread exists: the thread could be inside ONNX Runtime, or
//! enter it at any time. A server that has used the engine therefore ends with `_exit`.

use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};

use crate::error::{Error, Result};

static TRAPS: AtomicUsize = AtomicUsize::new(0);

/// Stack size of a thread, in bytes. ONNX Runtime walks a model's graph recursively.
const STACK: usize = 8 << 20;
/// Stack size of the validation thread, in bytes. It is smaller than `STACK`, so a model that passes also fits in a
/// server.
const PROBE_STACK: usize = 4 << 20;

/// Counts a trap of an engine thread. This function is async-signal-safe.
pub fn note_trap() {
    TRAPS.fetch_add(1, Ordering::AcqRel);
}

/// Returns the number of traps so far.
#[must_use]
pub fn traps() -> usize {
    TRAPS.load(Ordering::Acquire)
}

static AFTER_ABANDONED: once_cell::sync::OnceCell<fn()> = once_cell::sync::OnceCell::new();

/// Sets the function that a run's thread calls when it can return memory to the system, for example after an abandoned
/// run.
pub fn set_after_abandoned(work: fn()) {
    let _ = AFTER_ABANDONED.set(work);
}

pub(crate) fn after_abandoned() {
    if let Some(work) = AFTER_ABANDONED.get() {
        work();
    }
}

/// Blocks every signal except SIGFPE in this thread until dropped, so that threads started meanwhile inherit the mask.
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
        // Restoring a mask that was in force before cannot fail.
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.0), None);
    }
}

fn no_thread(_: impl std::fmt::Display) -> Error {
    Error::OutOfMemory { what: "a thread".into(), bytes: 0 }
}

/// Starts a thread with blocked signals.
pub fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    start(name, STACK, work)
}

fn start(name: &str, stack: usize, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let _deaf = Deaf::new()?;
    std::thread::Builder::new().name(name.to_owned()).stack_size(stack).spawn(work).map(drop).map_err(no_thread)
}

/// Runs the validation on a thread with a smaller stack than a server's threads have. Returns `None` if it panicked.
pub fn run_with_less_stack<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<Option<T>> {
    let (send, receive) = std::sync::mpsc::channel();
    start("pg_predict_probe", PROBE_STACK, move || {
        let _ = send.send(work());
    })?;
    Ok(receive.recv().ok())
}

/// Starts a thread and returns the receiver of its result. A panic closes the channel.
pub fn spawn_for<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<std::sync::mpsc::Receiver<T>> {
    let (send, receive) = std::sync::mpsc::channel();
    spawn(name, move || {
        // The receiver may be gone if it stopped waiting. The result is then dropped.
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
