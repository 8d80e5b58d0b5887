//! Starts the validation process for a model, within limits, and waits for its result while checking for interrupts.
//!
//! The child process has the same sandbox as a model process, and in addition an empty working directory and limits on
//! address space, CPU time, file size and core dumps. The model, the result and the error output pass through unnamed
//! files in memory, so that neither side waits for the other to read.

use std::fs::{DirBuilder, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use pg_predict_engine::options::Options;
use pg_predict_engine::signature::Signature;
use pg_predict_engine::validation::{ValidationRequest, ValidationResult};
use pg_predict_model_process::messages::Start;
use pg_predict_model_process::sandbox::{Limits, Profile};
use pg_predict_model_process::spawn::spawn;

use crate::error::{Error, Result};
use crate::pg::process::check_interrupts;
use crate::runtime::model_process;
use crate::settings;

/// Maximum size of a result: enough for thousands of inputs.
const LARGEST_ANSWER: u64 = 64 << 20;

fn memory_file() -> Result<File> {
    memfd_create(c"pg_predict", MFdFlags::MFD_CLOEXEC)
        .map(File::from)
        .map_err(|_| pg_predict_engine::Error::OutOfMemory { what: "trying the model".into(), bytes: 0 }.into())
}

/// An empty directory as the working directory of the child. A relative file name in a model then refers to no file.
struct EmptyDirectory(PathBuf);

impl EmptyDirectory {
    /// Creates a directory among PostgreSQL's temporary files. If the backend is killed before it removes the
    /// directory, the server removes it at restart because of its name.
    fn new() -> std::io::Result<Self> {
        let parent = Path::new("base/pgsql_tmp");
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        let path = parent.join(format!("pgsql_tmp{}.validation", std::process::id()));
        // A killed process with the same process id left it.
        if path.exists() {
            std::fs::remove_dir_all(&path)?;
        }
        DirBuilder::new().mode(0o500).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for EmptyDirectory {
    /// Removes the directory. The child, whose working directory it is, cannot create files in a removed directory.
    fn drop(&mut self) {
        // A directory that cannot be removed now is empty, and the server removes it at startup.
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// The child process and all processes that it started. Dropping this value kills them.
pub(crate) struct ProcessGroup(pub(crate) Child);

impl ProcessGroup {
    /// Whether a signal has stopped the child, so that it will not end by itself.
    fn is_stopped(&self) -> bool {
        let Ok(pid) = i32::try_from(self.0.id()) else { return false };
        let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        matches!(waitid(Id::Pid(nix::unistd::Pid::from_raw(pid)), flags), Ok(WaitStatus::Stopped(..)))
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.0.id()) {
            let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
        // Reaps the child, which is dead or dying.
        let _ = self.0.wait();
        model_process::watch_validation(0);
    }
}

/// The content of a version.
pub(crate) struct Parts<'a> {
    pub(crate) model: &'a [u8],
    pub(crate) tokenizer: Option<&'a [u8]>,
    /// Files of external weights, each with its name in the model. `None` for a single file.
    pub(crate) external: Vec<(Option<String>, &'a [u8])>,
}

/// The result of validation.
pub(crate) enum Verdict {
    /// The model is valid.
    Signature(Box<Signature>),
    /// The model needs these files of weights, which are in the same directory.
    Needs(Vec<String>),
}

/// Validates a model. If `may_ask` is true, the result may request files of weights.
pub(crate) fn run(parts: &Parts<'_>, options: &Options, may_ask: bool) -> Result<Verdict> {
    let path = settings::model_process_program();
    let request = ValidationRequest {
        library: settings::onnxruntime_library(),
        options: options.clone(),
        model: parts.model.len(),
        tokenizer: parts.tokenizer.map(<[u8]>::len),
        external: parts.external.iter().map(|(name, bytes)| (name.clone(), bytes.len())).collect(),
        may_ask,
    };
    let request = serde_json::to_vec(&request).map_err(|e| Error::BadBatch { reason: e.to_string() })?;
    let failed = |reason: std::io::Error| Error::NoModelProcess { path: path.clone(), reason: reason.to_string() };

    let mut input = memory_file()?;
    let length = (request.len() as u64).to_le_bytes();
    let mut all = vec![&length[..], &request, parts.model];
    all.extend(parts.tokenizer);
    all.extend(parts.external.iter().map(|(_, bytes)| *bytes));
    for part in all {
        input.write_all(part).map_err(failed)?;
        check_interrupts();
    }
    input.seek(SeekFrom::Start(0)).map_err(failed)?;
    let (mut output, mut complaints) = (memory_file()?, memory_file()?);
    let memory = settings::validation_memory_limit();
    let timeout = settings::validation_timeout();
    let seconds = timeout.as_secs() + 1;
    let directory = EmptyDirectory::new().map_err(failed)?;

    let limits = Limits {
        address_space: Some(memory),
        private_memory: None,
        cpu_seconds: Some(seconds * 8),
        file_size: LARGEST_ANSWER,
    };
    let start = Start { library: settings::onnxruntime_library(), profile: Profile::Cpu, limits };
    let start = serde_json::to_string(&start).map_err(|e| Error::BadBatch { reason: e.to_string() })?;
    let stdout = Stdio::from(output.try_clone().map_err(failed)?);
    let stderr = complaints.try_clone().map_err(failed)?;
    let child = spawn(Path::new(&path), &["validate", &start], Some(&directory.0), Stdio::from(input), stdout, stderr);
    // The program has an absolute path and has been started when `spawn` returns, so the directory may be removed.
    let mut group = ProcessGroup(child.map_err(failed)?);
    model_process::watch_validation(i32::try_from(group.0.id()).unwrap_or(0));
    drop(directory);
    let started = Instant::now();
    let mut pause = Duration::from_millis(1);
    let status = loop {
        if let Some(status) = group.0.try_wait().map_err(failed)? {
            break status;
        }
        if started.elapsed() > timeout {
            return Err(Error::ProbeTimeout { milliseconds: timeout.as_millis() });
        }
        if group.is_stopped() {
            return Err(Error::ProbeDied { how: "it was stopped by a signal".to_owned(), said: String::new() });
        }
        check_interrupts();
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    };

    let mut answer = Vec::new();
    let mut said = String::new();
    output.seek(SeekFrom::Start(0)).and_then(|_| output.read_to_end(&mut answer)).map_err(failed)?;
    // The error output goes into the DETAIL. Bytes that are not valid text are replaced.
    if complaints.seek(SeekFrom::Start(0)).is_ok() {
        let mut bytes = Vec::new();
        let _ = complaints.take(4096).read_to_end(&mut bytes);
        said = String::from_utf8_lossy(&bytes).trim().to_owned();
    }
    let limit = format!("The limit is {} MB of address space.", memory >> 20);
    match serde_json::from_slice::<ValidationResult>(&answer) {
        Ok(ValidationResult::Signature(signature)) if status.success() && signature.is_possible() => {
            Ok(Verdict::Signature(signature))
        }
        Ok(ValidationResult::Needs(files)) if status.success() && may_ask => Ok(Verdict::Needs(files)),
        Ok(ValidationResult::Refusal(pg_predict_engine::Error::OutOfMemory { .. })) => {
            Err(Error::ProbeMemory { detail: limit })
        }
        Ok(ValidationResult::Refusal(error)) => Err(error.into()),
        _ if status.success() => Err(Error::ProbeAnswer { said }),
        _ => {
            if ["memory allocation of", "bad_alloc", "cannot allocate", "Cannot allocate"]
                .iter()
                .any(|w| said.contains(w))
            {
                return Err(Error::ProbeMemory { detail: limit });
            }
            let how = match (status.signal(), status.code()) {
                (Some(signal), _) => format!("signal {signal}"),
                (None, Some(code)) => format!("exit code {code}"),
                _ => "it ended".to_owned(),
            };
            Err(Error::ProbeDied { how, said })
        }
    }
}
