//! The control block: how a backend and its model process tell each other what is to be done and what is done.
//!
//! Rules:
//! - Every field is an atomic, and each has one writer.
//! - The backend fills a slot and its request region, stores the slot's number in the ring, and then increments
//!   `submitted`. The process takes requests in this order.
//! - The process fills the response region and the slot's answer, and then stores the number of the request in
//!   `answered`. Until then the slot's regions belong to the process, afterwards to the backend.
//! - A side that is about to sleep sets its `sleeps` flag and looks again. The other side clears the flag and wakes it.
//!   The process sleeps on `submitted`, and the backend on `answered` of the slot that it waits for.
//! - The backend believes nothing that the process writes: it copies a value once and checks the copy.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::memory::SharedMemory;

/// Version of the layout of shared memory and of the messages. Both sides come from the same build, and check it.
pub const PROTOCOL: u32 = 1;
/// The number of slots, which bounds the requests under way in a backend.
pub const SLOTS: usize = 1024;

/// The state of one slot.
#[repr(C)]
pub struct SlotState {
    /// The kind of the request. Written by the backend.
    pub kind: AtomicU32,
    /// The number of the request that was answered last. Written by the process.
    pub answered: AtomicU32,
    /// The length of the request in bytes. Written by the backend.
    pub request: AtomicU64,
    /// The length of the response in bytes. Written by the process.
    pub response: AtomicU64,
    /// The duration of the request in nanoseconds. Written by the process.
    pub nanos: AtomicU64,
    /// What became of the request. Written by the process.
    pub outcome: AtomicU32,
    spare: AtomicU32,
}

/// The control block.
#[repr(C)]
pub struct Control {
    /// `PROTOCOL`. Written by the backend.
    pub protocol: AtomicU32,
    /// The number of submitted requests. Written by the backend.
    pub submitted: AtomicU32,
    /// The number of requests that the process has taken. Written by the process.
    pub taken: AtomicU32,
    /// Whether the process sleeps until `submitted` changes.
    pub process_sleeps: AtomicU32,
    /// Whether the backend sleeps until a slot is answered.
    pub backend_sleeps: AtomicU32,
    /// The time at which the backend last woke the process. Written by the backend.
    pub process_woken: AtomicU64,
    /// The time at which the process last woke the backend. Written by the process.
    pub backend_woken: AtomicU64,
    /// Whether texts are being tokenised. Written by the process.
    pub tokenising: AtomicU32,
    /// The number of messages that the backend has sent through the socket. Written by the backend.
    pub messages: AtomicU32,
    /// The slot of each request, at its number modulo `SLOTS`. Written by the backend.
    pub ring: [AtomicU32; SLOTS],
    /// The slots.
    pub slots: [SlotState; SLOTS],
}

/// The kinds of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// Loads a session.
    Load = 1,
    /// Prepares runs of a session.
    Prepare,
    /// Runs a batch.
    Run,
    /// Writes the response again, into a larger region.
    Repeat,
    /// Returns the build of ONNX Runtime.
    Runtime,
}

impl Kind {
    /// Returns the kind with this number.
    #[must_use]
    pub fn of(number: u32) -> Option<Self> {
        [Self::Load, Self::Prepare, Self::Run, Self::Repeat, Self::Runtime].into_iter().find(|k| *k as u32 == number)
    }
}

/// The response is complete.
pub const DONE: u32 = 1;
/// The response did not fit into its region. The slot's length says how much room it needs.
pub const TOO_SMALL: u32 = 2;

/// Returns the control block of a region.
#[must_use]
pub fn control(region: &SharedMemory) -> Option<&Control> {
    // SAFETY: the control block consists of atomics.
    unsafe { region.at::<Control>(0) }
}

/// Returns the time of a clock that both sides share, in nanoseconds.
#[must_use]
pub fn clock() -> u64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    time.map_or(0, |t| u64::try_from(t.tv_sec() * 1_000_000_000 + t.tv_nsec()).unwrap_or(0))
}

/// How long a side spins before it sleeps. Spinning saves waking a sleeping core, which takes some 40 us, but takes a
/// core from others. So a side does not spin for a while after a sign that threads wait for cores: it was woken late, or
/// lost its core while it spun. A side whose spinning succeeds would never see such a sign, so it sleeps now and then. It
/// also stops when spinning has been in vain.
#[derive(Debug)]
pub struct SpinTime {
    longest: Duration,
    /// The waits without spinning that follow.
    pause: u32,
    /// Waits in a row that spinning did not shorten.
    vain: u32,
    /// Waits since this side slept last.
    awake: u32,
}

impl SpinTime {
    /// Vain waits in a row after which spinning stops.
    const MOST_VAIN: u32 = 4;
    /// The waits until it is tried again.
    const PAUSE: u32 = 32;
    /// The waits until it is tried again after a sign that threads wait for cores.
    const LONG_PAUSE: u32 = 256;
    /// The most waits in a row that are ended by spinning.
    const MOST_AWAKE: u32 = 128;
    /// A delay that a free core does not have.
    const LATE: Duration = Duration::from_micros(150);

    /// Creates a policy that spins for at most `longest`. A machine with one core never spins.
    #[must_use]
    pub fn new(longest: Duration) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        Self { longest: if cores > 1 { longest } else { Duration::ZERO }, pause: 0, vain: 0, awake: 0 }
    }

    /// Notes that this side slept, and that the other side woke it at this time of the clock.
    pub fn woken(&mut self, at: u64) {
        if Duration::from_nanos(clock().saturating_sub(at)) > Self::LATE {
            self.pause = Self::LONG_PAUSE;
        }
    }

    /// Waits until `done` returns true. Returns whether it did before it was time to sleep.
    pub fn wait(&mut self, mut done: impl FnMut() -> bool) -> bool {
        if done() {
            return true;
        }
        self.awake += 1;
        if self.longest.is_zero() || self.pause > 0 || self.awake > Self::MOST_AWAKE {
            self.pause = self.pause.saturating_sub(1);
            self.awake = 0;
            return false;
        }
        let (mut started, mut last) = (None, None);
        loop {
            for _ in 0..64 {
                if done() {
                    self.vain = 0;
                    return true;
                }
                std::hint::spin_loop();
            }
            // The clock costs as much as some rounds, so a short wait does without it.
            let now = Instant::now();
            if last.replace(now).is_some_and(|last| now - last > Self::LATE) {
                self.pause = Self::LONG_PAUSE;
                self.awake = 0;
                return done();
            }
            if now - *started.get_or_insert(now) >= self.longest {
                self.vain += 1;
                self.awake = 0;
                if self.vain >= Self::MOST_VAIN {
                    // One vain wait is enough the next time.
                    self.vain = Self::MOST_VAIN - 1;
                    self.pause = Self::PAUSE;
                }
                return done();
            }
        }
    }
}

/// Sleeps until `word` no longer has the value `old`, is woken, or `time` has passed.
pub fn sleep_on(word: &AtomicU32, old: u32, time: Duration) {
    let time = libc::timespec {
        tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: time.subsec_nanos().into(),
    };
    // SAFETY: waits on a word that stays mapped during the call. Every result is followed by another look at the word.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, old, &raw const time) };
}

/// Wakes the process that sleeps on `word`.
pub fn wake(word: &AtomicU32) {
    // SAFETY: wakes the waiters of a mapped word.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}

/// Whether request `number` has been answered in a slot.
#[must_use]
pub fn is_answered(slot: &SlotState, number: u32) -> bool {
    slot.answered.load(Ordering::Acquire) == number
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn spinning() -> SpinTime {
        SpinTime { longest: Duration::from_micros(5), pause: 0, vain: 0, awake: 0 }
    }

    /// Waits in vain. Returns whether it spun.
    fn has_spun(time: &mut SpinTime) -> bool {
        let calls = Cell::new(0_u32);
        let never = || {
            calls.set(calls.get() + 1);
            false
        };
        assert!(!time.wait(never));
        calls.get() > 1
    }

    #[test]
    fn spinning_in_vain_stops_and_is_tried_again() {
        let mut time = spinning();
        let spins = (0..SpinTime::MOST_VAIN + 2 * (SpinTime::PAUSE + 1)).filter(|_| has_spun(&mut time)).count();
        assert_eq!(spins, SpinTime::MOST_VAIN as usize + 2);
    }

    #[test]
    fn a_side_whose_spinning_succeeds_sleeps_now_and_then() {
        let mut time = SpinTime { longest: Duration::from_secs(60), ..spinning() };
        let sleeps = (0..3 * (SpinTime::MOST_AWAKE + 1)).filter(|_| {
            let calls = Cell::new(0_u32);
            !time.wait(|| {
                calls.set(calls.get() + 1);
                calls.get() > 2
            })
        });
        assert_eq!(sleeps.count(), 3);
    }

    #[test]
    fn a_side_that_is_woken_late_does_not_spin_for_a_while() {
        let mut time = spinning();
        time.woken(clock());
        assert!(has_spun(&mut time), "it was woken at once");
        time.woken(clock() - 1_000_000);
        let waits = (0..SpinTime::LONG_PAUSE).filter(|_| has_spun(&mut time)).count();
        assert_eq!(waits, 0);
        assert!(has_spun(&mut time));
        // The other side may write anything.
        time.woken(u64::MAX);
        time.woken(0);
    }
}
