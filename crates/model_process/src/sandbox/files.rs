//! Refuses files and networks with Landlock, as far as the kernel supports it.

use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope, path_beneath_rules,
};

use crate::sandbox::Profile;

/// The newest interface that the rules use. An older kernel gets what it supports.
const NEWEST: ABI = ABI::V6;
/// What the C library and ONNX Runtime read while they start.
const READABLE: [&str; 12] = [
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/share/locale",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/usr/share/zoneinfo",
    "/proc/cpuinfo",
    "/sys/devices/system",
    "/sys/bus/pci",
];
/// What the NVIDIA driver needs in addition.
const CUDA_READABLE: [&str; 4] = ["/proc", "/sys", "/etc", "/opt"];
const CUDA_WRITABLE: [&str; 2] = ["/dev", "/tmp"];

/// Refuses all files except those that a profile needs, and all networks. Returns what is in force.
pub(crate) fn refuse(profile: Profile, library: &Path) -> io::Result<String> {
    restrict(profile, library).map_err(|e| io::Error::other(format!("Landlock cannot be applied: {e}")))
}

fn restrict(profile: Profile, library: &Path) -> Result<String, RulesetError> {
    let mut readable: Vec<PathBuf> = READABLE.iter().map(PathBuf::from).collect();
    readable.push(library.to_owned());
    // The library may be a link to a file elsewhere.
    readable.extend(library.join("libonnxruntime.so").canonicalize().ok());
    let mut writable = Vec::new();
    if profile == Profile::Cuda {
        readable.extend(CUDA_READABLE.iter().map(PathBuf::from));
        writable.extend(CUDA_WRITABLE.iter().map(PathBuf::from));
    }
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .add_rules(path_beneath_rules(&readable, AccessFs::from_read(NEWEST)))?
        .add_rules(path_beneath_rules(&writable, AccessFs::from_all(NEWEST)))?
        .restrict_self()?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => "fully enforced",
        RulesetStatus::PartiallyEnforced => "partially enforced: the kernel supports a part of the rules",
        RulesetStatus::NotEnforced => "not available in this kernel",
    }
    .to_owned())
}
