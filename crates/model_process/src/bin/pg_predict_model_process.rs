//! The program of the model process. A backend starts it to run models, or to validate one.
//!
//! It loads ONNX Runtime, enters its sandbox, and only then reads the bytes of a model.

use std::io::Write;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

use pg_predict_engine::memory::resident;
use pg_predict_engine::threads::run_with_less_stack;
use pg_predict_engine::validation::{ValidationResult, read, run};
use pg_predict_model_process::memory::SharedMemory;
use pg_predict_model_process::messages::{Message, Start, receive, send};
use pg_predict_model_process::sandbox;
use pg_predict_model_process::server::{load_environment, serve};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [_, "serve"] => start_serving(),
        [_, "validate", start] => validate(start),
        _ => Err("this program is started by pg_predict".to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::from(2)
        }
    }
}

/// Loads ONNX Runtime and enters the sandbox. Returns the build of ONNX Runtime, or the error of loading it.
fn enter(start: &Start) -> Result<(pg_predict_engine::Result<String>, sandbox::Report), String> {
    // The kernel kills this process before any other of the server when memory runs out.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    // One arena for all threads: an arena of a thread grows page by page, with a system call for each. What a batch
    // frees stays for the next one. The runner gives memory back when it has nothing to do.
    // SAFETY: sets a number in the allocator.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 16 << 20);
    }
    // Rust's handlers of these signals return if the stack has not overflowed, and would swallow the first one.
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        // SAFETY: restores the default of a signal.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // The first call opens a file, which the sandbox would refuse.
    let _ = resident();
    let directory = Path::new(&start.library).parent().unwrap_or(Path::new("/"));
    let landlock = sandbox::prepare(start.profile, &start.limits, directory).map_err(|e| e.to_string())?;
    sandbox::hold_locale();
    let environment = load_environment(&start.library);
    let report = sandbox::enter(start.profile, &start.limits, landlock).map_err(|e| e.to_string())?;
    Ok((environment, report))
}

fn start_serving() -> Result<(), String> {
    // SAFETY: the parent passes the socket as standard input, and nothing else in this program uses it.
    let socket = unsafe { OwnedFd::from_raw_fd(0) };
    let hello = receive(std::os::fd::AsFd::as_fd(&socket), true).map_err(|e| e.to_string())?;
    let Some((bytes, Some(region))) = hello else { return Err("there is no first message".to_owned()) };
    let Ok(Message::Hello(start)) = serde_json::from_slice(&bytes) else {
        return Err("the first message is not a greeting".to_owned());
    };
    let region = SharedMemory::map(region).map_err(|e| e.to_string())?;
    let (environment, report) = enter(&start)?;
    let report = serde_json::to_vec(&report).map_err(|e| e.to_string())?;
    send(std::os::fd::AsFd::as_fd(&socket), &report, None).map_err(|e| e.to_string())?;
    serve(socket, region, start.library, environment)
}

fn validate(start: &str) -> Result<(), String> {
    let start: Start = serde_json::from_str(start).map_err(|e| e.to_string())?;
    let (_, _) = enter(&start)?;
    let (request, content) =
        read(&mut std::io::stdin().lock()).map_err(|e| format!("the model cannot be read: {e}"))?;
    // A model that loads on this stack also loads on the stack of a server's thread, which is larger.
    let answer = run_with_less_stack(move || -> ValidationResult { run(&request, content) });
    let Ok(Some(answer)) = answer else { return Err("validation ended without a result".to_owned()) };
    let written = serde_json::to_vec(&answer).map_err(std::io::Error::from).and_then(|json| {
        let mut out = std::io::stdout().lock();
        out.write_all(&json)?;
        out.flush()
    });
    written.map_err(|e| format!("the result cannot be written: {e}"))
}
