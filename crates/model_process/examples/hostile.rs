//! A model process that breaks the protocol, for `tests/hostile.rs`. Its file name says how.

#![allow(clippy::unwrap_used, reason = "a test program fails by panicking")]

use std::collections::HashMap;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

use pg_predict_model_process::codec::writer::Writer;
use pg_predict_model_process::control::{Control, DONE, SLOTS, SlotState, TOO_SMALL, control};
use pg_predict_model_process::memory::SharedMemory;
use pg_predict_model_process::messages::{Message, receive, send};
use pg_predict_model_process::sandbox::Report;

fn main() {
    let program = std::env::args().next().unwrap();
    let how = program.rsplit_once('/').unwrap().1.to_owned();
    // SAFETY: the parent passes the socket as standard input, and nothing else in this program uses it.
    let socket = unsafe { OwnedFd::from_raw_fd(0) };
    let mut regions = HashMap::new();
    let mut shared = None;
    let mut done = 0;
    loop {
        if let Some(control) = shared.as_ref().and_then(control)
            && control.submitted.load(Ordering::SeqCst) != done
        {
            let slot = control.ring[(done + 1) as usize % SLOTS].load(Ordering::SeqCst);
            if let Some(response) = regions.get(&slot) {
                done += 1;
                control.taken.store(done, Ordering::SeqCst);
                attack(&how, &socket, control, response, slot, done);
                continue;
            }
        }
        let Ok(received) = receive(socket.as_fd(), false) else { return };
        match received {
            None => std::thread::sleep(Duration::from_micros(100)),
            Some((bytes, _)) if bytes.is_empty() => return,
            Some((bytes, descriptor)) => match serde_json::from_slice::<Message>(&bytes).unwrap() {
                Message::Hello(_) => {
                    shared = SharedMemory::map(descriptor.unwrap()).ok();
                    let landlock = "x".repeat(1000);
                    let report = Report { landlock, seccomp: String::new(), address_space: None, private_memory: None };
                    send(socket.as_fd(), &serde_json::to_vec(&report).unwrap(), None).unwrap();
                }
                Message::Region { slot, response: true } => {
                    regions.insert(slot, SharedMemory::map(descriptor.unwrap()).unwrap());
                }
                _ => {}
            },
        }
    }
}

/// Says that the request is answered, with this outcome and this length.
fn answer(control: &Control, state: &SlotState, outcome: u32, length: u64, number: u32) {
    state.outcome.store(outcome, Ordering::SeqCst);
    state.response.store(length, Ordering::SeqCst);
    state.nanos.store(u64::MAX, Ordering::SeqCst);
    state.answered.store(number, Ordering::SeqCst);
    control.backend_sleeps.store(0, Ordering::SeqCst);
}

fn attack(how: &str, socket: &OwnedFd, control: &Control, response: &SharedMemory, slot: u32, number: u32) {
    let state = &control.slots[slot as usize];
    let wake = || {
        let _ = send(socket.as_fd(), b"w", None);
    };
    match how {
        "length_beyond_region" => answer(control, state, DONE, response.len() as u64 + 1, number),
        "length_of_all_memory" => answer(control, state, DONE, u64::MAX, number),
        "unknown_outcome" => answer(control, state, 77, 8, number),
        "ever_larger" => answer(control, state, TOO_SMALL, (response.len() as u64) << number, number),
        "too_small_but_fits" => answer(control, state, TOO_SMALL, 8, number),
        "empty_response" => answer(control, state, DONE, 0, number),
        "count_beyond_response" => {
            let mut out = Writer::new(response);
            // A value, and the length of a text that is not there.
            out.number(1);
            out.number(usize::MAX);
            answer(control, state, DONE, 4096, number);
        }
        "random_bytes" => {
            let mut out = Writer::new(response);
            let mut random = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            while out.len() + 8 <= response.len() {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                out.wide_number(random >> (random % 64));
            }
            answer(control, state, DONE, response.len() as u64, number);
        }
        "answers_to_nobody" => {
            for state in &control.slots {
                state.answered.store(number.wrapping_add(1), Ordering::SeqCst);
            }
            state.answered.store(u32::MAX, Ordering::SeqCst);
        }
        "overwritten_control" => {
            for entry in &control.ring {
                entry.store(u32::MAX, Ordering::SeqCst);
            }
            control.submitted.store(u32::MAX, Ordering::SeqCst);
            control.messages.store(u32::MAX, Ordering::SeqCst);
            answer(control, state, DONE, u64::MAX / 2, number);
        }
        "beyond_the_region" => {
            // SAFETY: there is none. The write behind the region must end this process and no other.
            unsafe { std::ptr::write_bytes(std::ptr::from_ref(control).cast_mut().cast::<u8>(), 0xff, 1 << 30) };
        }
        "shrunk_region" => {
            let file = std::fs::File::from(response.descriptor().try_clone_to_owned().unwrap());
            let code = if file.set_len(0).is_err() { 40 } else { 41 };
            std::process::exit(code);
        }
        "full_socket" => while send(socket.as_fd(), &[7; 4096], None).is_ok() {},
        "nonsense_in_socket" => {
            for _ in 0..10 {
                let _ = send(socket.as_fd(), b"{\"landlock\": 7", None);
            }
            answer(control, state, 0, 0, number);
        }
        "silent" => std::thread::sleep(Duration::from_secs(60)),
        _ => std::process::exit(99),
    }
    wake();
}
