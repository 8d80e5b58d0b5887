//! Limits on the resources of a model process.

use std::io;

use serde::{Deserialize, Serialize};

/// The most descriptors: those of the files of a version, and of the regions of slots while they are mapped.
const DESCRIPTORS: u64 = 4096;

/// The limits of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Address space in bytes.
    pub address_space: Option<u64>,
    /// CPU time in seconds.
    pub cpu_seconds: Option<u64>,
    /// Private memory that can be written, in bytes. It bounds a process whose address space cannot be bounded.
    #[serde(default)]
    pub private_memory: Option<u64>,
    /// Size of a file in bytes.
    pub file_size: u64,
}

impl Limits {
    /// Applies the limits to this process. There are never core files, and no program that it might start gains
    /// privileges.
    pub(crate) fn apply(&self) -> io::Result<()> {
        set(libc::RLIMIT_CORE, 0)?;
        set(libc::RLIMIT_FSIZE, self.file_size)?;
        set(libc::RLIMIT_NOFILE, DESCRIPTORS)?;
        if let Some(bytes) = self.address_space {
            set(libc::RLIMIT_AS, bytes)?;
        }
        if let Some(bytes) = self.private_memory {
            set(libc::RLIMIT_DATA, bytes)?;
        }
        if let Some(seconds) = self.cpu_seconds {
            set(libc::RLIMIT_CPU, seconds)?;
        }
        // SAFETY: sets a flag of this process.
        if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

/// Lowers a limit. A lower one that is in force already stays.
fn set(which: libc::__rlimit_resource_t, value: u64) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: reads a limit of this process into a local structure.
    if unsafe { libc::getrlimit(which, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let value = value.min(limit.rlim_max);
    let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: sets a limit of this process.
    if unsafe { libc::setrlimit(which, &raw const limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
