//! Births threads with every signal blocked, and knows how many are inside ONNX Runtime.
//!
//! A server delivers signals to whichever thread takes them; its handlers must only run in its own. So every thread
//! that this process gets through us, and every thread that ONNX Runtime starts while we are calling it, inherits a
//! full mask. A process must not run ONNX Runtime's static destructors while a thread is inside: `inside()` tells.

use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};

use crate::error::{Error, Result};

static INSIDE: AtomicUsize = AtomicUsize::new(0);

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
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut old)).map_err(no_thread)?;
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

/// Starts a thread whose signals are all blocked.
pub fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let _deaf = Deaf::new()?;
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map(drop).map_err(no_thread)
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
    fn threads_are_born_with_every_signal_blocked_and_the_caller_keeps_its_mask() {
        let mask = || {
            let mut now = SigSet::empty();
            pthread_sigmask(SigmaskHow::SIG_BLOCK, None, Some(&mut now)).unwrap();
            now
        };
        let before = mask();
        let inner = spawn_for("t", mask).unwrap().recv().unwrap();
        assert!(inner.contains(nix::sys::signal::Signal::SIGINT) && inner.contains(nix::sys::signal::Signal::SIGTERM));
        assert_eq!(before, mask());
    }

    #[test]
    fn a_panicking_thread_closes_its_channel() {
        assert!(spawn_for("t", || -> u8 { panic!("on purpose") }).unwrap().recv().is_err());
    }
}
