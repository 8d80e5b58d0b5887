//! The sandbox of a model process: limits, Landlock and seccomp.
//!
//! A process calls `prepare` first, then loads ONNX Runtime, and then calls `enter`, before it reads a model. Landlock
//! refuses files and networks, as far as the kernel supports it. seccomp refuses system calls: one that is not in the
//! profile ends the process, and one that opens a file by name is an error.
//!
//! The profile for CUDA is wider, because the driver works in the process. It opens its devices and libraries by name,
//! as far as Landlock allows, and it generates code. A system call that is not in the profile is an error there: which
//! calls the next version of the driver tries is not known.

mod files;
mod limits;
mod system_calls;

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use limits::Limits;

/// What the process may do, depending on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Profile {
    /// Runs models on the CPU.
    Cpu,
    /// Runs models on a GPU: its devices, libraries and executable memory are allowed. No machine with a GPU has run it
    /// yet; `scripts/gpu_check.sh` does.
    Cuda,
}

/// What is in force in a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Which files Landlock refuses, or why it is not available.
    pub landlock: String,
    /// Which system calls seccomp refuses, or why it is not available.
    pub seccomp: String,
    /// The limit on the address space in bytes.
    pub address_space: Option<u64>,
    /// The limit on private memory that can be written, in bytes.
    #[serde(default)]
    pub private_memory: Option<u64>,
}

/// Applies the limits and refuses files. Call this first, while the process has one thread. The files that ONNX Runtime
/// and the C library read while they start stay readable.
pub fn prepare(profile: Profile, limits: &Limits, library: &Path) -> io::Result<String> {
    limits.apply()?;
    files::refuse(profile, library)
}

/// Refuses system calls, for all threads. Call this after ONNX Runtime has been loaded. `landlock` is what `prepare`
/// returned.
pub fn enter(profile: Profile, limits: &Limits, landlock: String) -> io::Result<Report> {
    let seccomp = system_calls::refuse(profile)?;
    Ok(Report { landlock, seccomp, address_space: limits.address_space, private_memory: limits.private_memory })
}

/// Loads the locale that the operator StringNormalizer needs, and keeps it, because its files cannot be opened later. A
/// system without it gets an error from ONNX Runtime, as it would without a sandbox.
pub fn hold_locale() {
    // SAFETY: creates a locale, which is never freed.
    unsafe { libc::newlocale(libc::LC_ALL_MASK, c"en_US.UTF-8".as_ptr(), std::ptr::null_mut()) };
}
