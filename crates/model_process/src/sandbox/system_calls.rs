//! Refuses system calls with seccomp. The profiles are files that give a reason for each call.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter_all_threads, compile_from_json,
};

use crate::sandbox::Profile;

#[cfg(target_arch = "x86_64")]
const PROFILES: [&str; 2] =
    [include_str!("../../profiles/cpu-x86_64.json"), include_str!("../../profiles/cuda-x86_64.json")];
#[cfg(target_arch = "aarch64")]
const PROFILES: [&str; 2] =
    [include_str!("../../profiles/cpu-aarch64.json"), include_str!("../../profiles/cuda-aarch64.json")];

/// The filter of the calls that are allowed. It is applied last, because it does not allow to apply another.
const ALLOWED: &str = "allowed";

/// Applies a profile to all threads. Returns what is in force.
pub(crate) fn refuse(profile: Profile) -> io::Result<String> {
    // SAFETY: asks for the state of this process.
    if unsafe { libc::prctl(libc::PR_GET_SECCOMP) } < 0 {
        return Ok("not available in this kernel".to_owned());
    }
    for filter in filters(profile)? {
        apply_filter_all_threads(&filter).map_err(failed)?;
    }
    Ok(match profile {
        Profile::Cpu => "profile cpu",
        Profile::Cuda => "profile cuda",
    }
    .to_owned())
}

fn failed(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("seccomp cannot be applied: {error}"))
}

/// Compiles the filters of a profile, in the order in which they are applied.
fn filters(profile: Profile) -> io::Result<Vec<BpfProgram>> {
    let arch: TargetArch = std::env::consts::ARCH.try_into().map_err(failed)?;
    let text = match profile {
        Profile::Cpu => PROFILES[0],
        Profile::Cuda => PROFILES[1],
    };
    let mut compiled = compile_from_json(text.as_bytes(), arch).map_err(failed)?;
    let last = compiled.remove(ALLOWED).ok_or_else(|| failed("a profile allows nothing"))?;
    let mut all: Vec<BpfProgram> = compiled.into_values().collect();
    all.push(own_signals(arch)?);
    all.push(last);
    Ok(all)
}

/// Refuses signals to any other process. The process id is known only now.
fn own_signals(arch: TargetArch) -> io::Result<BpfProgram> {
    let other = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, std::process::id().into());
    let rule = SeccompRule::new(vec![other.map_err(failed)?]).map_err(failed)?;
    let rules = BTreeMap::from([(libc::SYS_tgkill, vec![rule])]);
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, refused, arch).map_err(failed)?.try_into().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_compiles_and_gives_a_reason_for_each_call() {
        for profile in [Profile::Cpu, Profile::Cuda] {
            assert!(filters(profile).unwrap().len() >= 3);
        }
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles");
        let mut files = 0;
        for file in std::fs::read_dir(folder).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            let profile: serde_json::Value = serde_json::from_str(&text).unwrap();
            for (_, filter) in profile.as_object().unwrap() {
                for rule in filter["filter"].as_array().unwrap() {
                    assert!(rule["comment"].as_str().is_some_and(|c| c.len() > 3), "{rule}");
                }
            }
            files += 1;
        }
        assert_eq!(files, 4);
    }

    /// The sum of the profile for the CPU, which nothing that a GPU needs may widen. A change of it is a decision: then
    /// this number is changed with it.
    #[test]
    fn the_profile_for_the_cpu_is_the_one_that_was_reviewed() {
        let expected = if cfg!(target_arch = "x86_64") {
            "af4d8a04cc0a8bc1342df4dffe1b44fa0423d51f1f35fcd124c79121320b694f"
        } else {
            "5b9b59d76978a0d258b091e70488b570161ef6f3fb5c7733d3f28036faa9d90e"
        };
        assert_eq!(
            pg_predict_engine::hash::hex(&pg_predict_engine::hash::content_hash(PROFILES[0].as_bytes())),
            expected
        );
    }

    #[test]
    fn a_call_that_does_not_exist_is_refused() {
        let text = PROFILES[0].replacen("\"read\"", "\"reed\"", 1);
        let arch: TargetArch = std::env::consts::ARCH.try_into().unwrap();
        assert!(compile_from_json(text.as_bytes(), arch).is_err());
    }
}
