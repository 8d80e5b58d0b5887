//! Refuses files and networks with Landlock, as far as the kernel supports it.

use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, path_beneath_rules,
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
/// What the NVIDIA driver reads in addition: its own parameters, its profiles of applications, and the machine.
const CUDA_READABLE: [&str; 11] = [
    "/proc/driver/nvidia",
    "/proc/driver/nvidia-uvm",
    "/proc/devices",
    "/proc/modules",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/sys/vm",
    "/sys",
    "/etc/nvidia",
    "/usr/share/nvidia",
    "/dev/urandom",
];
/// The devices of the driver, beside those of the single cards. It does not start without nvidia-uvm-tools.
const CUDA_DEVICES: [&str; 4] = ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-caps"];

/// Refuses all files except those that a profile needs, and all networks. Returns what is in force.
pub(crate) fn refuse(profile: Profile, library: &Path) -> io::Result<String> {
    restrict(profile, library).map_err(|e| io::Error::other(format!("Landlock cannot be applied: {e}")))
}

fn restrict(profile: Profile, library: &Path) -> Result<String, RulesetError> {
    let mut readable: Vec<PathBuf> = READABLE.iter().map(PathBuf::from).collect();
    readable.push(library.to_owned());
    // The library may be a link to a file elsewhere.
    readable.extend(library.join("libonnxruntime.so").canonicalize().ok());
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    if profile == Profile::Cuda {
        readable.extend(CUDA_READABLE.iter().map(PathBuf::from));
        readable.extend(linker_folders(Path::new("/etc/ld.so.conf")));
        let devices = AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::WriteFile | AccessFs::IoctlDev;
        rules = rules.add_rules(path_beneath_rules(cuda_devices(Path::new("/dev")), devices))?;
        rules = allow_own_threads(rules)?;
    }
    let status = rules.add_rules(path_beneath_rules(&readable, AccessFs::from_read(NEWEST)))?.restrict_self()?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => "fully enforced",
        RulesetStatus::PartiallyEnforced => "partially enforced: the kernel supports a part of the rules",
        RulesetStatus::NotEnforced => "not available in this kernel",
    }
    .to_owned())
}

/// Allows the process to read its own entries in /proc and to name its threads there, which the driver does while it
/// starts. procfs makes a new file when an entry has left its cache, and a rule does not apply to the new one, so the
/// descriptors stay open.
fn allow_own_threads(rules: RulesetCreated) -> Result<RulesetCreated, RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let entries = [("/proc/self", read), ("/proc/self/task", read | AccessFs::WriteFile | AccessFs::Truncate)];
    entries.into_iter().try_fold(rules, |rules, (path, access)| {
        let Ok(entry) = PathFd::new(path) else { return Ok(rules) };
        let rules = rules.add_rule(PathBeneath::new(&entry, access))?;
        std::mem::forget(entry);
        Ok(rules)
    })
}

/// Returns the devices of the driver and of its cards: nvidia0, nvidia1 and so on.
fn cuda_devices(folder: &Path) -> Vec<PathBuf> {
    let is_card = |name: &str| {
        name.strip_prefix("nvidia").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let cards = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let cards = cards.filter(|entry| entry.file_name().to_str().is_some_and(is_card)).map(|entry| entry.path());
    CUDA_DEVICES.iter().map(PathBuf::from).chain(cards).collect()
}

/// Returns the folders that the dynamic linker searches by its configuration, where CUDA's libraries are installed.
fn linker_folders(configuration: &Path) -> Vec<PathBuf> {
    let Ok(text) = std::fs::read_to_string(configuration) else { return Vec::new() };
    let mut folders = Vec::new();
    for line in text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()) {
        if let Some(pattern) = line.strip_prefix("include").map(str::trim) {
            // Only the form that systems use: all files of a folder with one ending.
            let Some((folder, ending)) = pattern.split_once("/*") else { continue };
            let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.path());
            files
                .filter(|file| file.to_str().is_some_and(|name| name.ends_with(ending)))
                .for_each(|file| folders.extend(linker_folders(&file)));
        } else if line.len() > 1 && line.starts_with('/') {
            folders.push(PathBuf::from(line));
        }
    }
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Creates an empty folder of this test.
    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("pg_predict_files_{name}_{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn only_the_devices_of_the_driver_are_allowed() {
        let folder = folder("devices");
        for name in ["nvidia0", "nvidia12", "nvidia", "nvidia1x", "nvidia-modeset", "sda", "null"] {
            std::fs::write(folder.join(name), "").unwrap();
        }
        let mut cards: Vec<PathBuf> = cuda_devices(&folder).split_off(CUDA_DEVICES.len());
        cards.sort();
        assert_eq!(cards, [folder.join("nvidia0"), folder.join("nvidia12")]);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn the_folders_of_the_dynamic_linker_are_found() {
        let folder = folder("linker");
        let included = folder.join("conf.d");
        std::fs::create_dir(&included).unwrap();
        std::fs::write(included.join("cuda.conf"), "/usr/local/cuda/lib64 # CUDA\n").unwrap();
        std::fs::write(included.join("other.txt"), "/not/this\n").unwrap();
        let configuration = folder.join("ld.so.conf");
        let text = format!("# comment\n/\n/opt/lib\ninclude {}/*.conf\nrelative\n", included.display());
        std::fs::write(&configuration, text).unwrap();
        assert_eq!(linker_folders(&configuration), [PathBuf::from("/opt/lib"), "/usr/local/cuda/lib64".into()]);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
