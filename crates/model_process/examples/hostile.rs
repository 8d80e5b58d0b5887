//! A model process that attacks the backend, for `tests/hostile.rs` and `tests/tap/hostile.pl`.
//!
//! Its file name is the name of the attack. If that is the name of the real program, the file `PROGRAM.attack` says it:
//! the request at which the attack begins (`load`, `prepare`, `run` or `second`, the second run), and its name. Until
//! then, the process answers as the real one does for a model that doubles its input. Further lines are the answer of
//! the attack `say` to a validation.

#![allow(clippy::unwrap_used, reason = "a test program fails by panicking")]

use std::collections::HashMap;
use std::io::{IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use pg_predict_engine::Error;
use pg_predict_engine::batch::Values;
use pg_predict_engine::run::{RunOutput, TokenCounts};
use pg_predict_engine::tensor::Column;
use pg_predict_model_process::codec::batch::read_batch;
use pg_predict_model_process::codec::output::{write_output, write_result};
use pg_predict_model_process::codec::reader::Reader;
use pg_predict_model_process::codec::writer::Writer;
use pg_predict_model_process::control::{self, Control, DONE, Kind, SLOTS, SlotState, TOO_SMALL, control};
use pg_predict_model_process::memory::SharedMemory;
use pg_predict_model_process::messages::{Loaded, Message, Start, receive, send};
use pg_predict_model_process::sandbox::{self, Report};

/// The file name of the program that this one replaces.
const REAL_NAME: &str = "pg_predict_model_process";
/// The attacks from inside the sandbox.
const ESCAPES: [&str; 6] = ["open", "socket", "exec", "fork", "ptrace", "kill"];
/// Exit codes of an attack that the sandbox refused, and of one that succeeded.
const REFUSED: i32 = 50;
const ESCAPED: i32 = 51;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let program = arguments.first().unwrap();
    let name = Path::new(program).file_name().unwrap().to_str().unwrap();
    let text =
        if name == REAL_NAME { std::fs::read_to_string(format!("{program}.attack")).unwrap() } else { name.to_owned() };
    let (attack, words) = text.split_once('\n').unwrap_or((&text, ""));
    let (begins, how) = attack.rsplit_once(' ').unwrap_or(("load", attack));
    match arguments.get(1).map(String::as_str) {
        Some("validate") => validate(how, words, &serde_json::from_str(arguments.get(2).unwrap()).unwrap()),
        _ => serve(begins, how),
    }
}

/// The regions of the slots, for requests and for responses.
type Regions = HashMap<(u32, bool), SharedMemory>;

fn serve(begins: &str, how: &str) {
    let parent = std::os::unix::process::parent_id().cast_signed();
    // SAFETY: the parent passes the socket as standard input, and nothing else in this program uses it.
    let socket = unsafe { OwnedFd::from_raw_fd(0) };
    let mut regions = Regions::new();
    let mut shared = None;
    let (mut done, mut messages, mut runs) = (0, 0_u32, 0);
    let mut has_begun = false;
    loop {
        if let Some(control) = shared.as_ref().and_then(control)
            && control.submitted.load(Ordering::SeqCst) != done
            // The regions of the request have arrived.
            && messages.wrapping_sub(control.messages.load(Ordering::SeqCst)) < u32::MAX / 2
        {
            done += 1;
            let slot = control.ring[done as usize % SLOTS].load(Ordering::SeqCst);
            if control.slots.get(slot as usize).is_none() {
                // An attack has overwritten what the backend wrote. It will end this process.
                continue;
            }
            control.taken.store(done, Ordering::SeqCst);
            let kind = Kind::of(control.slots[slot as usize].kind.load(Ordering::SeqCst)).unwrap();
            runs += u32::from(kind == Kind::Run);
            has_begun |= match begins {
                "prepare" => kind == Kind::Prepare,
                "run" => kind == Kind::Run,
                "second" => runs == 2,
                _ => true,
            };
            if has_begun {
                attack(how, kind, &socket, control, &regions, slot, done, parent);
            } else {
                answer_rightly(kind, control, &regions, slot, done, &|_| {});
            }
            continue;
        }
        let Ok(received) = receive(socket.as_fd(), false) else { return };
        match received {
            None => std::thread::sleep(Duration::from_micros(100)),
            Some((bytes, _)) if bytes.is_empty() => return,
            Some((bytes, descriptor)) => match serde_json::from_slice::<Message>(&bytes).unwrap() {
                Message::Hello(start) => {
                    shared = SharedMemory::map(descriptor.unwrap()).ok();
                    let report = if ESCAPES.contains(&how) { enter_sandbox(&start) } else { false_report(how) };
                    send(socket.as_fd(), &serde_json::to_vec(&report).unwrap(), None).unwrap();
                }
                Message::Region { slot, response } => {
                    messages += 1;
                    regions.insert((slot, response), SharedMemory::map(descriptor.unwrap()).unwrap());
                }
                _ => messages += 1,
            },
        }
    }
}

/// Enters the same sandbox as the real program.
fn enter_sandbox(start: &Start) -> Report {
    let library = Path::new(&start.library).parent().unwrap();
    let landlock = sandbox::prepare(start.profile, &start.limits, library).unwrap();
    sandbox::hold_locale();
    sandbox::enter(start.profile, &start.limits, landlock).unwrap()
}

/// What a process without a sandbox says of its sandbox.
fn false_report(how: &str) -> Report {
    let landlock = if how == "zero_byte_in_report" { "a\0b\nc".to_owned() } else { "x".repeat(1000) };
    Report { landlock, seccomp: String::new(), address_space: None, private_memory: None }
}

/// Tries to leave the sandbox, and ends the process.
fn escape(how: &str, parent: libc::pid_t) -> ! {
    let arguments = [c"true".as_ptr(), std::ptr::null()];
    // SAFETY: all pointers are to constants or to `arguments`, or null where that is allowed.
    let is_refused = unsafe {
        match how {
            "open" => libc::open(c"/etc/passwd".as_ptr(), libc::O_RDONLY) < 0,
            "socket" => libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) < 0,
            "exec" => libc::execv(c"/bin/true".as_ptr(), arguments.as_ptr()) < 0,
            "fork" => libc::fork() < 0,
            "ptrace" => libc::ptrace(libc::PTRACE_SEIZE, parent, 0, 0) < 0,
            _ => libc::kill(parent, libc::SIGTERM) < 0,
        }
    };
    std::process::exit(if is_refused { REFUSED } else { ESCAPED });
}

/// Attacks the validation of a model.
fn validate(how: &str, words: &str, start: &Start) {
    let parent = std::os::unix::process::parent_id().cast_signed();
    match how {
        "silent" => std::thread::sleep(Duration::from_secs(60)),
        "crash" => std::process::abort(),
        "stopped" => stop(),
        "say" => println!("{words}"),
        "endless_output" => {
            enter_sandbox(start);
            while std::io::stdout().write_all(&[b' '; 1 << 16]).is_ok() {}
        }
        "noisy_exit" => noisy_exit(),
        _ if ESCAPES.contains(&how) => {
            enter_sandbox(start);
            escape(how, parent)
        }
        _ => std::process::exit(99),
    }
}

/// Ends the process with an error output that is no text.
fn noisy_exit() -> ! {
    let _ = std::io::stderr().write_all(b"a\0b\xff\x1b[31m\nc");
    std::process::exit(3);
}

fn stop() {
    // SAFETY: stops this process.
    unsafe { libc::raise(libc::SIGSTOP) };
}

/// Says that the request is answered, with this outcome and this length.
fn answer(control: &Control, state: &SlotState, outcome: u32, length: u64, number: u32) {
    state.outcome.store(outcome, Ordering::SeqCst);
    state.response.store(length, Ordering::SeqCst);
    state.nanos.store(u64::MAX, Ordering::SeqCst);
    state.answered.store(number, Ordering::SeqCst);
    control.backend_sleeps.store(0, Ordering::SeqCst);
    control::wake(&state.answered);
}

/// Answers as the real process would, after `change` has changed the outputs of a run.
fn answer_rightly(
    kind: Kind,
    control: &Control,
    regions: &Regions,
    slot: u32,
    number: u32,
    change: &dyn Fn(&mut RunOutput),
) {
    let state = &control.slots[slot as usize];
    let mut out = Writer::new(&regions[&(slot, true)]);
    match kind {
        Kind::Load => write_loaded(&Loaded { bytes: 1 << 20, fallback: None }, &mut out),
        Kind::Run => {
            let request = &regions[&(slot, false)];
            let length = usize::try_from(state.request.load(Ordering::SeqCst)).unwrap();
            let mut from = Reader::new(request, length).unwrap();
            from.number().unwrap();
            let batch = read_batch(&mut from).unwrap();
            let Column::Float32(input) = &batch.columns[0] else { std::process::exit(98) };
            let data = Column::Float32(input.iter().map(|x| 2.0 * x).collect());
            let values = vec![Values::Tensor { width: 1, data }];
            let mut ran = RunOutput { values, failed: Vec::new(), broken: None, tokens: TokenCounts::default() };
            change(&mut ran);
            write_result(&Ok(ran), &mut out, write_output);
        }
        Kind::Runtime => write_result(&Ok(()), &mut out, |(), out| out.text("1.0")),
        _ => write_result(&Ok(()), &mut out, |(), _| {}),
    }
    answer(control, state, DONE, out.len() as u64, number);
}

fn write_loaded(loaded: &Loaded, out: &mut Writer<'_>) {
    write_result(&Ok(()), out, |(), out| out.text(&serde_json::to_string(loaded).unwrap()));
}

/// Sends descriptors of its own in one packet, more than the backend expects.
fn send_descriptors(socket: &OwnedFd, count: usize) {
    let memory = SharedMemory::create(4096).unwrap();
    let raw: Vec<RawFd> = vec![memory.descriptor().as_raw_fd(); count];
    let rights = [ControlMessage::ScmRights(&raw)];
    let parts = [IoSlice::new(b"x")];
    let _ = sendmsg::<UnixAddr>(socket.as_raw_fd(), &parts, &rights, MsgFlags::MSG_NOSIGNAL, None);
}

#[allow(clippy::too_many_arguments, reason = "an attack may use all that the process has")]
fn attack(
    how: &str,
    kind: Kind,
    socket: &OwnedFd,
    control: &Control,
    regions: &Regions,
    slot: u32,
    number: u32,
    parent: libc::pid_t,
) {
    let state = &control.slots[slot as usize];
    let response = &regions[&(slot, true)];
    // Answers a run with changed outputs, and everything else rightly.
    let changed = |change: &dyn Fn(&mut RunOutput)| answer_rightly(kind, control, regions, slot, number, change);
    let wake = || {
        let _ = send(socket.as_fd(), b"w", None);
    };
    match how {
        "length_beyond_region" => answer(control, state, DONE, response.len() as u64 + 1, number),
        "length_of_all_memory" => answer(control, state, DONE, u64::MAX, number),
        "unknown_outcome" => answer(control, state, 77, 8, number),
        // The first step is 32 MB, the second one is more than any response may have.
        "ever_larger" => answer(control, state, TOO_SMALL, (response.len() as u64) << 9, number),
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
        "flooded_socket" => {
            // More senders than the backend has readers, so that it never finds the socket empty.
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| while send(socket.as_fd(), b"x", None).is_ok() {});
                }
            });
        }
        "closed_socket" => {
            // SAFETY: the process does nothing with its socket afterwards.
            unsafe { libc::close(socket.as_raw_fd()) };
            std::thread::sleep(Duration::from_secs(60));
        }
        "descriptors" => {
            for _ in 0..100 {
                send_descriptors(socket, 4);
            }
            answer(control, state, DONE, 0, number);
        }
        "too_many_descriptors" => {
            send_descriptors(socket, 200);
            std::thread::sleep(Duration::from_secs(60));
        }
        "stopped" => stop(),
        "exit_as_if_idle" => std::process::exit(0),
        "noisy_exit" => noisy_exit(),
        "zero_byte_in_error" => {
            let mut out = Writer::new(response);
            let error: Result<(), Error> = Err(Error::Run { reason: "a\0b".to_owned() });
            write_result(&error, &mut out, |(), _| {});
            answer(control, state, DONE, out.len() as u64, number);
        }
        "zero_byte_in_fallback" if kind == Kind::Load => {
            let mut out = Writer::new(response);
            write_loaded(&Loaded { bytes: 1 << 20, fallback: Some("a\0b\nc".to_owned()) }, &mut out);
            answer(control, state, DONE, out.len() as u64, number);
        }
        "largest_session" if kind == Kind::Load => {
            let mut out = Writer::new(response);
            write_loaded(&Loaded { bytes: usize::MAX, fallback: None }, &mut out);
            answer(control, state, DONE, out.len() as u64, number);
        }
        "largest_figures" => {
            changed(&|ran| ran.tokens = TokenCounts { own: usize::MAX, padded: usize::MAX });
        }
        "failed_rows" => changed(&|ran| {
            ran.failed.push((0, "a failed row".to_owned()));
            shorten(ran, 1);
        }),
        "early_end" => changed(&|ran| {
            ran.broken = Some((0, Error::Run { reason: "an early end".to_owned() }));
            shorten(ran, usize::MAX);
        }),
        "missing_values" => changed(&|ran| shorten(ran, 1)),
        "other_type" => changed(&|ran| {
            ran.values = vec![Values::Tensor { width: 1, data: Column::Float64(vec![8.0]) }];
        }),
        "no_outputs" => changed(&|ran| ran.values.clear()),
        "silent" => std::thread::sleep(Duration::from_secs(60)),
        "zero_byte_in_report" | "zero_byte_in_fallback" | "largest_session" => changed(&|_| {}),
        _ if ESCAPES.contains(&how) => escape(how, parent),
        _ => std::process::exit(99),
    }
    wake();
}

/// Removes so many values of the output from its beginning.
fn shorten(ran: &mut RunOutput, count: usize) {
    if let [Values::Tensor { data: Column::Float32(values), .. }] = ran.values.as_mut_slice() {
        values.drain(..count.min(values.len()));
    }
}
