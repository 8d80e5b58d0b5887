//! Starts the probe program on a model, within limits, and waits for its answer while honouring interrupts.
//!
//! The child gets no descriptor but its three, an empty environment, an empty working directory and a process group of its own,
//! limits on memory, processor time, file size and core dumps, and dies with its parent. Model, answer and complaints pass through
//! unnamed files in memory, so that neither side ever waits for the other to read.

use std::fs::{DirBuilder, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};
use pg_predict_engine::options::Options;
use pg_predict_engine::probe::{Answer, Request};
use pg_predict_engine::signature::Signature;

use crate::error::{Error, Result};
use crate::guc;
use crate::pg::sessions::check_interrupts;

/// What an answer may grow to: thousands of inputs.
const LARGEST_ANSWER: u64 = 64 << 20;

fn memory_file() -> Result<File> {
    memfd_create(c"pg_predict", MFdFlags::MFD_CLOEXEC)
        .map(File::from)
        .map_err(|_| pg_predict_engine::Error::OutOfMemory { what: "trying the model".into(), bytes: 0 }.into())
}

/// An empty directory that is the child's working directory: a name in a model that is looked up relative to it finds nothing.
struct EmptyDirectory(PathBuf);

impl EmptyDirectory {
    /// Makes one among PostgreSQL's temporary files. Should the backend be killed before it can remove it, the server does when it
    /// restarts, because of its name.
    fn new() -> std::io::Result<Self> {
        let parent = Path::new("base/pgsql_tmp");
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        let path = parent.join(format!("pgsql_tmp{}.validation", std::process::id()));
        // Left by a process of the same number that was killed.
        if path.exists() {
            std::fs::remove_dir_all(&path)?;
        }
        DirBuilder::new().mode(0o500).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for EmptyDirectory {
    /// Removes it. The child, which is in it by then, can make nothing in a directory that is gone.
    fn drop(&mut self) {
        // What cannot be removed now is an empty directory that is removed when the server starts.
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// The child, and all that it started, ended when this goes.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.0.id()) {
            let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
        // Reaps it; it is dead or dying.
        let _ = self.0.wait();
    }
}

/// What a version is made of.
pub(crate) struct Parts<'a> {
    pub(crate) model: &'a [u8],
    pub(crate) tokenizer: Option<&'a [u8]>,
    /// Files of weights: the name that the model has for each; none for the only one.
    pub(crate) external: Vec<(Option<String>, &'a [u8])>,
}

/// What a trial says.
pub(crate) enum Verdict {
    /// The model is fit.
    Signature(Box<Signature>),
    /// It needs these files of weights, which lie beside it.
    Needs(Vec<String>),
}

/// Tries a model. `may_ask`: it may ask for files of weights.
pub(crate) fn run(parts: &Parts<'_>, options: &Options, may_ask: bool) -> Result<Verdict> {
    let path = guc::probe_program();
    let request = Request {
        library: guc::onnxruntime_library(),
        options: options.clone(),
        model: parts.model.len(),
        tokenizer: parts.tokenizer.map(<[u8]>::len),
        external: parts.external.iter().map(|(name, bytes)| (name.clone(), bytes.len())).collect(),
        may_ask,
    };
    let request = serde_json::to_vec(&request).map_err(|e| Error::BadBatch { reason: e.to_string() })?;
    let failed = |reason: std::io::Error| Error::NoProbe { path: path.clone(), reason: reason.to_string() };

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
    let memory = guc::probe_memory();
    let timeout = guc::probe_timeout();
    let seconds = timeout.as_secs() + 1;
    let parent = std::process::id();
    let directory = EmptyDirectory::new().map_err(failed)?;

    let mut command = Command::new(&path);
    command
        .env_clear()
        // Both names, so that no build of ONNX Runtime reports anything to anybody.
        .env("ORT_DISABLE_TELEMETRY", "1")
        .env("ORT_TELEMETRY_DISABLED", "1")
        .current_dir(&directory.0)
        .stdin(Stdio::from(input))
        .stdout(Stdio::from(output.try_clone().map_err(failed)?))
        .stderr(Stdio::from(complaints.try_clone().map_err(failed)?))
        .process_group(0);
    // SAFETY: between fork and exec only system calls are made, no memory is allocated and no lock is taken.
    unsafe {
        command.pre_exec(move || {
            let limit = |which, value: u64| {
                let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
                if libc::setrlimit(which, &raw const limit) == 0 {
                    Ok(())
                } else {
                    Err(std::io::Error::last_os_error())
                }
            };
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            // The parent may have gone before the line above.
            if libc::getppid().unsigned_abs() != parent {
                return Err(std::io::Error::from_raw_os_error(libc::ESRCH));
            }
            limit(libc::RLIMIT_AS, memory)?;
            limit(libc::RLIMIT_CPU, seconds * 8)?;
            limit(libc::RLIMIT_FSIZE, LARGEST_ANSWER)?;
            limit(libc::RLIMIT_CORE, 0)?;
            // Closed on exec rather than now: the standard library reports a failed exec through one of them.
            libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 4_u32);
            Ok(())
        });
    }
    // The program is named by an absolute path and has been started when this returns.
    let mut group = Group(command.spawn().map_err(failed)?);
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
        check_interrupts();
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    };

    let mut answer = Vec::new();
    let mut said = String::new();
    output.seek(SeekFrom::Start(0)).and_then(|_| output.read_to_end(&mut answer)).map_err(failed)?;
    // What it said is for the DETAIL: bytes that are no text are left out.
    if complaints.seek(SeekFrom::Start(0)).is_ok() {
        let mut bytes = Vec::new();
        let _ = complaints.take(4096).read_to_end(&mut bytes);
        said = String::from_utf8_lossy(&bytes).trim().to_owned();
    }
    let limit = format!("The limit is {} MB of address space.", memory >> 20);
    match serde_json::from_slice::<Answer>(&answer) {
        Ok(Answer::Signature(signature)) if status.success() => Ok(Verdict::Signature(signature)),
        Ok(Answer::Needs(files)) if status.success() && may_ask => Ok(Verdict::Needs(files)),
        Ok(Answer::Refusal(pg_predict_engine::Error::OutOfMemory { .. })) => Err(Error::ProbeMemory { detail: limit }),
        Ok(Answer::Refusal(error)) => Err(error.into()),
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
