//! Attempts to escape from the sandbox. Each runs in a process of its own, once without the sandbox and once in it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "functions of a test fail by panicking")]

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};

use pg_predict_model_process::sandbox::{self, Limits, Profile};

/// The name of the attempt that this process makes.
const ATTEMPT: &str = "PG_PREDICT_ATTEMPT";
/// Whether this process enters the sandbox first.
const SANDBOXED: &str = "PG_PREDICT_SANDBOXED";
/// Exit codes of a process that was not ended: it did what it attempted, or it got an error.
const DONE: i32 = 10;
const REFUSED: i32 = 11;

/// Makes a system call. Returns whether it succeeded.
fn call(number: libc::c_long, arguments: [libc::c_long; 6]) -> bool {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the tests pass only valid pointers, to constants that live for the whole process.
    unsafe { libc::syscall(number, a, b, c, d, e, f) >= 0 }
}

fn address(text: &'static std::ffi::CStr) -> libc::c_long {
    text.as_ptr() as libc::c_long
}

fn attempt(name: &str, parent: u32) -> bool {
    let at = libc::c_long::from(libc::AT_FDCWD);
    let parent = libc::c_long::from(parent);
    match name {
        "open /etc/passwd" => std::fs::read("/etc/passwd").is_ok(),
        "create a file" => std::fs::write("/tmp/pg_predict_escape", "x").is_ok(),
        "list a folder" => std::fs::read_dir("/").is_ok(),
        "remove a file" => call(libc::SYS_unlinkat, [at, address(c"/tmp/pg_predict_escape"), 0, 0, 0, 0]),
        "internet socket" => call(libc::SYS_socket, [2, 1, 0, 0, 0, 0]),
        "unix socket" => call(libc::SYS_socket, [1, 1, 0, 0, 0, 0]),
        "ptrace the parent" => call(libc::SYS_ptrace, [0x4206, parent, 0, 0, 0, 0]),
        "signal the parent" => call(libc::SYS_kill, [parent, 0, 0, 0, 0, 0]),
        "signal a thread of the parent" => call(libc::SYS_tgkill, [parent, parent, 0, 0, 0, 0]),
        "read the parent's memory" => call(libc::SYS_process_vm_readv, [parent, 0, 0, 0, 0, 0]),
        "start a program" => Command::new("/bin/true").status().is_ok(),
        "fork" => call(libc::SYS_clone, [libc::c_long::from(libc::SIGCHLD), 0, 0, 0, 0, 0]),
        "executable memory" => call(libc::SYS_mmap, [0, 4096, 7, 0x22, -1, 0]),
        "another user namespace" => call(libc::SYS_unshare, [0x1000_0000, 0, 0, 0, 0, 0]),
        "io_uring" => call(libc::SYS_io_uring_setup, [1, address(c"0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890"), 0, 0, 0, 0]),
        "memory beyond the limit" => call(libc::SYS_mmap, [0, 8 << 30, 3, 0x4022, -1, 0]),
        "a thread" => std::thread::spawn(|| 1).join().is_ok(),
        "memory" => {
            let memory = vec![1_u8; 64 << 20];
            memory.iter().map(|b| u64::from(*b)).sum::<u64>() == 64 << 20
        }
        other => panic!("{other}"),
    }
}

fn run(name: &str, sandboxed: bool) -> ExitStatus {
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(program);
    command.args(["--exact", "the_process_of_an_attempt", "--nocapture", "--test-threads=1"]).env(ATTEMPT, name);
    if sandboxed {
        command.env(SANDBOXED, "1");
    }
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).status().unwrap()
}

/// Not a test by itself: the process that the other tests start.
#[test]
fn the_process_of_an_attempt() {
    let Ok(name) = std::env::var(ATTEMPT) else { return };
    let parent = std::os::unix::process::parent_id();
    if std::env::var_os(SANDBOXED).is_some() {
        let limits = Limits { address_space: Some(4 << 30), cpu_seconds: Some(60), file_size: 1 << 20 };
        let landlock = sandbox::prepare(Profile::Cpu, &limits, Path::new("/usr/lib")).unwrap();
        sandbox::hold_locale();
        if let Some(name) = name.strip_prefix("landlock: ") {
            // Without seccomp, Landlock must refuse files by itself.
            let code = if landlock.starts_with("not") || !attempt(name, parent) { REFUSED } else { DONE };
            // SAFETY: ends the process.
            unsafe { libc::_exit(code) };
        }
        sandbox::enter(Profile::Cpu, &limits, landlock).unwrap();
    }
    let code = if attempt(name.strip_prefix("landlock: ").unwrap_or(&name), parent) { DONE } else { REFUSED };
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) };
}

#[test]
fn no_attempt_to_escape_succeeds_in_the_sandbox() {
    // The last word: whether the attempt ends the process, or is an error.
    let attempts = [
        ("open /etc/passwd", false),
        ("create a file", false),
        ("list a folder", false),
        ("remove a file", false),
        ("internet socket", true),
        ("unix socket", true),
        ("ptrace the parent", true),
        ("signal the parent", true),
        ("signal a thread of the parent", false),
        ("read the parent's memory", true),
        ("start a program", true),
        ("fork", true),
        ("executable memory", true),
        ("another user namespace", true),
        ("io_uring", true),
        ("memory beyond the limit", false),
    ];
    for (name, ends) in attempts {
        let free = run(name, false);
        // What the machine refuses without the sandbox shows nothing, but must not be the rule.
        let shown = free.code() == Some(DONE);
        let held = run(name, true);
        let expected = if ends { held.signal() == Some(libc::SIGSYS) } else { held.code() == Some(REFUSED) };
        assert!(expected, "{name}: {held:?}");
        let may_be_refused = ["another user namespace", "io_uring", "ptrace the parent", "remove a file"];
        assert!(shown || may_be_refused.contains(&name), "{name} does not succeed without the sandbox: {free:?}");
    }
}

#[test]
fn landlock_refuses_files_without_seccomp() {
    assert_eq!(run("landlock: open /etc/passwd", false).code(), Some(DONE));
    assert_eq!(run("landlock: open /etc/passwd", true).code(), Some(REFUSED));
}

#[test]
fn what_a_model_needs_is_allowed_in_the_sandbox() {
    for name in ["a thread", "memory"] {
        assert_eq!(run(name, true).code(), Some(DONE), "{name}");
    }
}
