//! Attempts to escape from the sandbox. Each runs in a process of its own, without the sandbox, and in it by both
//! profiles.

#![allow(clippy::unwrap_used, clippy::panic, reason = "functions of a test fail by panicking")]

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
use pg_predict_model_process::sandbox::{self, Limits, Profile};

/// The name of the attempt that this process makes.
const ATTEMPT: &str = "PG_PREDICT_ATTEMPT";
/// The profile of the sandbox that this process enters first, if it does: `cpu` or `cuda`.
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
        "unix socket of datagrams" => call(libc::SYS_socket, [1, 2, 0, 0, 0, 0]),
        "connect to a server" => connect().is_ok(),
        "listen without a file" => listen_without_a_file().is_ok(),
        "name a thread" => name_own_thread(),
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

/// Opens a socket of packets, as the driver of CUDA does.
fn packets() -> nix::Result<OwnedFd> {
    socket::socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::empty(), None)
}

/// Listens on a socket whose name is in no folder, as the driver of CUDA does.
fn listen_without_a_file() -> nix::Result<()> {
    let name = UnixAddr::new_abstract(format!("pg_predict_escape_{}", std::process::id()).as_bytes())?;
    let server = packets()?;
    socket::bind(server.as_raw_fd(), &name)?;
    socket::listen(&server, Backlog::new(1)?)
}

/// The name of the server that an attempt connects to.
fn server_name() -> PathBuf {
    std::env::temp_dir().join(format!("pg_predict_escape_{}", std::process::id()))
}

/// Starts the server that an attempt connects to.
fn serve() -> nix::Result<OwnedFd> {
    let server = packets()?;
    socket::bind(server.as_raw_fd(), &UnixAddr::new(&server_name())?)?;
    socket::listen(&server, Backlog::new(1)?)?;
    Ok(server)
}

fn connect() -> nix::Result<()> {
    socket::connect(packets()?.as_raw_fd(), &UnixAddr::new(&server_name())?)
}

/// Names the first thread as the driver of CUDA does.
fn name_own_thread() -> bool {
    std::fs::write(format!("/proc/self/task/{}/comm", std::process::id()), "pg_predict").is_ok()
}

fn run(name: &str, sandbox: Option<&str>) -> ExitStatus {
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(program);
    command.args(["--exact", "the_process_of_an_attempt", "--nocapture", "--test-threads=1"]).env(ATTEMPT, name);
    if let Some(profile) = sandbox {
        command.env(SANDBOXED, profile);
    }
    let mut child = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let status = child.wait().unwrap();
    let _ = std::fs::remove_file(std::env::temp_dir().join(format!("pg_predict_escape_{}", child.id())));
    status
}

/// Not a test by itself: the process that the other tests start.
#[test]
fn the_process_of_an_attempt() {
    let Ok(name) = std::env::var(ATTEMPT) else { return };
    let parent = std::os::unix::process::parent_id();
    let attempted = name.strip_prefix("landlock: ").unwrap_or(&name);
    // The server is there before the sandbox.
    let _server = (attempted == "connect to a server").then(|| serve().unwrap());
    if let Ok(profile) = std::env::var(SANDBOXED) {
        let profile = if profile == "cuda" { Profile::Cuda } else { Profile::Cpu };
        let limits =
            Limits { address_space: Some(4 << 30), private_memory: None, cpu_seconds: Some(60), file_size: 1 << 20 };
        let landlock = sandbox::prepare(profile, &limits, Path::new("/usr/lib")).unwrap();
        sandbox::hold_locale();
        if name != attempted {
            // Without seccomp, Landlock must refuse files by itself.
            let code = if landlock.starts_with("not") || !attempt(attempted, parent) { REFUSED } else { DONE };
            // SAFETY: ends the process.
            unsafe { libc::_exit(code) };
        }
        sandbox::enter(profile, &limits, landlock).unwrap();
    }
    let code = if attempt(attempted, parent) { DONE } else { REFUSED };
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) };
}

/// What the sandbox does about an attempt.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Held {
    /// The process is ended.
    Ended,
    /// The attempt is an error.
    Refused,
    /// The attempt succeeds.
    Allowed,
}

/// The attempts, and what the profiles `cpu` and `cuda` do about them.
const ATTEMPTS: [(&str, Held, Held); 20] = [
    ("open /etc/passwd", Held::Refused, Held::Refused),
    ("create a file", Held::Refused, Held::Refused),
    ("list a folder", Held::Refused, Held::Refused),
    ("remove a file", Held::Refused, Held::Refused),
    ("internet socket", Held::Ended, Held::Refused),
    ("unix socket", Held::Ended, Held::Refused),
    ("unix socket of datagrams", Held::Ended, Held::Refused),
    ("connect to a server", Held::Ended, Held::Refused),
    ("ptrace the parent", Held::Ended, Held::Refused),
    ("signal the parent", Held::Ended, Held::Refused),
    ("signal a thread of the parent", Held::Refused, Held::Refused),
    ("read the parent's memory", Held::Ended, Held::Refused),
    ("start a program", Held::Ended, Held::Refused),
    ("fork", Held::Ended, Held::Refused),
    ("another user namespace", Held::Ended, Held::Refused),
    ("io_uring", Held::Ended, Held::Refused),
    ("memory beyond the limit", Held::Refused, Held::Refused),
    // What the driver of CUDA needs.
    ("executable memory", Held::Ended, Held::Allowed),
    ("listen without a file", Held::Ended, Held::Allowed),
    ("name a thread", Held::Refused, Held::Allowed),
];

#[test]
fn no_attempt_to_escape_succeeds_in_the_sandbox() {
    for (name, cpu, cuda) in ATTEMPTS {
        let free = run(name, None);
        // What the machine refuses without the sandbox shows nothing, but must not be the rule.
        let shown = free.code() == Some(DONE);
        let may_be_refused = ["another user namespace", "io_uring", "ptrace the parent", "remove a file"];
        assert!(shown || may_be_refused.contains(&name), "{name} does not succeed without the sandbox: {free:?}");
        for (profile, expected) in [("cpu", cpu), ("cuda", cuda)] {
            let status = run(name, Some(profile));
            let held = match (status.code(), status.signal()) {
                (Some(DONE), _) => Held::Allowed,
                (Some(REFUSED), _) => Held::Refused,
                (_, Some(libc::SIGSYS)) => Held::Ended,
                _ => panic!("{name} with profile {profile}: {status:?}"),
            };
            assert_eq!(held, expected, "{name} with profile {profile}");
        }
    }
}

#[test]
fn landlock_refuses_files_without_seccomp() {
    for name in ["landlock: open /etc/passwd", "landlock: create a file", "landlock: list a folder"] {
        assert_eq!(run(name, None).code(), Some(DONE), "{name}");
        for profile in ["cpu", "cuda"] {
            assert_eq!(run(name, Some(profile)).code(), Some(REFUSED), "{name} with profile {profile}");
        }
    }
}

#[test]
fn what_a_model_needs_is_allowed_in_the_sandbox() {
    for name in ["a thread", "memory"] {
        for profile in ["cpu", "cuda"] {
            assert_eq!(run(name, Some(profile)).code(), Some(DONE), "{name} with profile {profile}");
        }
    }
}
