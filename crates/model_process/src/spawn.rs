//! Starts the program of the model process.
//!
//! The child has no descriptors except its standard ones, an empty environment apart from ONNX Runtime's telemetry
//! switches and the variable that names the kernel for trees, and its own process group. It is killed if its parent
//! ends. It applies its own limits and its sandbox.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use pg_predict_engine::KERNEL_VARIABLE;

/// Starts the program with these arguments and standard descriptors.
pub fn spawn(
    program: &Path,
    arguments: &[&str],
    directory: Option<&Path>,
    stdin: Stdio,
    stdout: Stdio,
    stderr: File,
) -> io::Result<Child> {
    let parent = std::process::id();
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        // Both names of the variable, so that no build of ONNX Runtime sends telemetry.
        .env("ORT_DISABLE_TELEMETRY", "1")
        .env("ORT_TELEMETRY_DISABLED", "1")
        .envs(std::env::var_os(KERNEL_VARIABLE).map(|kernel| (KERNEL_VARIABLE, kernel)))
        .current_dir(directory.unwrap_or(Path::new("/")))
        .stdin(stdin)
        .stdout(stdout)
        .stderr(stderr)
        .process_group(0);
    // SAFETY: between fork and exec, only system calls are made. No memory is allocated and no lock is taken.
    unsafe {
        command.pre_exec(move || {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            // The parent may have exited before the line above.
            if libc::getppid().unsigned_abs() != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            // Closed on exec and not now: the standard library reports a failed exec through one of the descriptors.
            libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 4_u32);
            Ok(())
        });
    }
    command.spawn()
}
