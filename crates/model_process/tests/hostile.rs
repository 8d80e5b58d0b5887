//! A model process that writes false sizes, numbers and bytes: each attack ends in an error or in the end of the
//! process, within a second, and the backend reads nothing outside of its regions.

#![allow(clippy::unwrap_used, clippy::panic, reason = "functions of a test fail by panicking")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pg_predict_engine::Error;
use pg_predict_model_process::client::{Cause, ModelProcess};
use pg_predict_model_process::codec::output::{Expected, read_output, read_result};
use pg_predict_model_process::control::Kind;
use pg_predict_model_process::messages::Start;
use pg_predict_model_process::sandbox::{Limits, Profile};

/// What a run may give. Everything that can be allowed is, so that it is read.
const EXPECTED: Expected<'_> = Expected { outputs: &[], failed_rows: true, early_end: true };

/// The largest response of these tests in bytes.
const LARGEST: usize = 1 << 20;

/// What the backend concludes.
#[derive(Debug)]
enum Seen {
    /// The process has ended or was killed.
    End(Cause),
    /// A rule was broken, and the backend would kill the process.
    Broken,
    /// A response is too large.
    TooLarge,
    /// Nothing is answered. The process was killed when the backend gave up.
    Silent,
}

/// A link to the program of the attack, whose name says how.
fn program(how: &str) -> PathBuf {
    let examples = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("examples");
    let folder = examples.join("hostile_links");
    std::fs::create_dir_all(&folder).unwrap();
    let link = folder.join(how);
    let _ = std::fs::remove_file(&link);
    std::os::unix::fs::symlink(examples.join("hostile"), &link).unwrap();
    link
}

fn attacked(how: &str) -> Seen {
    let limits = Limits { address_space: None, private_memory: None, cpu_seconds: None, file_size: 1 << 20 };
    let start = Start { library: String::new(), profile: Profile::Cpu, limits };
    let mut process = ModelProcess::start(&program(how), start).unwrap();
    let mut slot = match process.submit(Kind::Run, |out| out.wide_number(7)).unwrap() {
        Ok(slot) => slot,
        Err(end) => return Seen::End(end.cause),
    };
    let started = Instant::now();
    loop {
        match process.wait(&slot, Duration::from_millis(10)) {
            Ok(true) => {}
            Ok(false) if started.elapsed() > Duration::from_millis(300) => {
                let end = process.give_up(vec![slot].into(), Duration::from_millis(50)).unwrap();
                assert_eq!(end.cause, Cause::Killed, "{how}");
                return Seen::Silent;
            }
            Ok(false) => continue,
            Err(end) => return Seen::End(end.cause),
        }
        let read =
            process.read(&mut slot, LARGEST, || true, |from| read_result(from, |from| read_output(from, 3, EXPECTED)));
        match read {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(answer))) => panic!("{how}: believed {answer:?}"),
            Ok(Err(end)) => return Seen::End(end.cause),
            Err(Error::Protocol { .. }) => return Seen::Broken,
            Err(Error::TooLarge { .. }) => return Seen::TooLarge,
            Err(other) => panic!("{how}: {other}"),
        }
    }
}

#[test]
fn no_attack_on_the_protocol_is_believed() {
    assert!(Path::new("/proc/self/fd").exists());
    for how in [
        "length_beyond_region",
        "length_of_all_memory",
        "unknown_outcome",
        "ever_larger",
        "too_small_but_fits",
        "empty_response",
        "count_beyond_response",
        "random_bytes",
        "answers_to_nobody",
        "overwritten_control",
        "beyond_the_region",
        "shrunk_region",
        "full_socket",
        "nonsense_in_socket",
        "silent",
    ] {
        let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let before = descriptors();
        let started = Instant::now();
        let seen = attacked(how);
        let expected = match how {
            "length_beyond_region" | "length_of_all_memory" | "empty_response" | "count_beyond_response" => {
                matches!(seen, Seen::Broken)
            }
            "random_bytes" | "overwritten_control" => matches!(seen, Seen::Broken | Seen::End(Cause::Killed)),
            "unknown_outcome" | "too_small_but_fits" | "nonsense_in_socket" => {
                matches!(seen, Seen::End(Cause::Killed))
            }
            "ever_larger" => matches!(seen, Seen::TooLarge),
            // AddressSanitizer exits where the kernel would end the process.
            "beyond_the_region" => {
                matches!(seen, Seen::End(Cause::Signal(libc::SIGSEGV | libc::SIGBUS) | Cause::Exit(1)))
            }
            "shrunk_region" => matches!(seen, Seen::End(Cause::Exit(40))),
            _ => matches!(seen, Seen::Silent),
        };
        assert!(expected, "{how}: {seen:?}");
        assert!(started.elapsed() < Duration::from_secs(1), "{how} took {:?}", started.elapsed());
        assert_eq!(descriptors(), before, "{how} leaves descriptors open");
    }
}
