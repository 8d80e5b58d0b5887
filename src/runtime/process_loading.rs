//! Loads versions into the model process. Their bytes go there as descriptors, of the file cache or of memory.

use std::fs::File;
use std::sync::Arc;

use pg_predict_engine::file_cache::{FileEntry, Files, Part};
use pg_predict_engine::hash::hex;
use pg_predict_engine::onnx::content::Content;
use pg_predict_engine::ort::session_cache::SessionKey;
use pg_predict_engine::signature::IMPOSSIBLE;
use pg_predict_engine::threads;
use pg_predict_engine::version::Version;
use pg_predict_model_process::control::Kind;
use pg_predict_model_process::memory::sealed_file;
use pg_predict_model_process::messages::{FilePart, LoadRequest, Loaded};

use crate::error::{Error, Result, of_model};
use crate::runtime::model_process::{self, Failure};
use crate::runtime::sessions::{Fetch, ProcessSession, crashed, wait};
use crate::settings;

/// The files of a version, opened.
type OpenFiles = Vec<(FilePart, File)>;

/// The most times that a load is tried, if the process ends before it has taken the request.
const MOST_TRIES: usize = 3;

/// Loads a version into the model process.
pub(crate) fn load(version: &Arc<Version>, key: &SessionKey, fetch: Fetch) -> Result<ProcessSession> {
    let label = version.label();
    let files = settings::files();
    if let Some(entry) = files.as_ref().and_then(|files| files.find(&version.files())) {
        let loaded = match of_entry(&entry) {
            Ok(open) => load_files(version, key, fetch, open),
            Err(_) => Err(crashed().into()),
        };
        match loaded {
            // The files are damaged or unreadable, so they are dropped and made again.
            Err(Error::Engine { error, .. })
                if !matches!(
                    error,
                    pg_predict_engine::Error::Device { .. } | pg_predict_engine::Error::Library { .. }
                ) =>
            {
                crate::pg::report::log(format!("model \"{label}\": its files are damaged, and are made anew"));
                files.iter().for_each(|files| files.drop_entry(&version.files()));
            }
            other => return other,
        }
    }
    let content = fetch(version)?;
    let theirs = Arc::clone(version);
    let kept = wait(threads::spawn_for("pg_predict load", move || keep(content, &theirs, files.as_ref()))?)
        .unwrap_or_else(|| Err(crashed()));
    let (open, uncached) = kept.map_err(of_model(&label))?;
    if let Some(reason) = uncached {
        crate::pg::report::log(format!("model \"{label}\" could not be kept in the file cache: {reason}"));
    }
    load_files(version, key, fetch, open)
}

/// Checks the content and stores it in the file cache. Returns files with it, of the cache or of memory, and the reason
/// if it could not be stored.
fn keep(
    content: Content,
    version: &Version,
    files: Option<&Files>,
) -> pg_predict_engine::Result<(OpenFiles, Option<String>)> {
    content.check(version)?;
    let mut uncached = None;
    match files.map(|files| files.keep(&version.files(), &content)) {
        Some(Ok(Some(entry))) => {
            if let Ok(open) = of_entry(&entry) {
                return Ok((open, None));
            }
        }
        Some(Err(error)) => uncached = Some(error.to_string()),
        Some(Ok(None)) | None => {}
    }
    let in_memory = |bytes: &[u8]| {
        let memory = |_| pg_predict_engine::Error::OutOfMemory { what: "the model's bytes".into(), bytes: bytes.len() };
        sealed_file(&[bytes]).map_err(memory)
    };
    let mut open = vec![(FilePart { part: Part::Model, hash: hex(&version.hash) }, in_memory(&content.model)?)];
    if let (Some(tokenizer), Some(hash)) = (&content.tokenizer, &version.signature.tokenizer) {
        open.push((FilePart { part: Part::Tokenizer, hash: hash.clone() }, in_memory(tokenizer)?));
    }
    for external in &version.signature.external {
        if let Some((name, bytes)) = content.external.iter().find(|(name, _)| *name == external.location) {
            let part = FilePart { part: Part::Weights(name.clone()), hash: external.hash.clone() };
            open.push((part, in_memory(bytes)?));
        }
    }
    Ok((open, uncached))
}

fn of_entry(entry: &FileEntry) -> std::io::Result<OpenFiles> {
    let files = entry.open()?;
    Ok(files.into_iter().map(|(part, hash, file)| (FilePart { part, hash }, file)).collect())
}

/// Loads a version from its files.
fn load_files(version: &Arc<Version>, key: &SessionKey, fetch: Fetch, open: OpenFiles) -> Result<ProcessSession> {
    let label = version.label();
    let number = model_process::number();
    let (parts, files): (Vec<FilePart>, Vec<File>) = open.into_iter().unzip();
    let request = LoadRequest {
        session: number,
        device: key.device.to_string(),
        threads: key.threads,
        session_bytes: version.signature.session_bytes,
        share_weights: key.share_weights,
        gpu_memory: settings::gpu_memory_limit(),
        options: version.options.clone(),
        files: parts,
    };
    let request = serde_json::to_string(&request).map_err(|e| Error::BadBatch { reason: e.to_string() })?;
    for _ in 0..MOST_TRIES {
        let generation = model_process::connect(key.device)?;
        let loaded = model_process::send_files(generation, number, &files).and_then(|()| {
            model_process::call(
                generation,
                Kind::Load,
                |out| out.text(&request),
                |from| {
                    let loaded = serde_json::from_str::<Loaded>(&from.text()?).ok();
                    loaded.filter(|loaded| loaded.bytes < IMPOSSIBLE).ok_or_else(|| {
                        pg_predict_engine::Error::Protocol { what: "the answer to a load cannot be read".into() }
                    })
                },
            )
        });
        match loaded {
            Ok(loaded) => {
                model_process::log_sandbox(generation);
                let Loaded { bytes, fallback } = loaded.map_err(of_model(&label))?;
                let fell_back = fallback.is_some();
                if let Some(reason) = fallback {
                    crate::pg::report::log(format!("model \"{label}\": device \"auto\" falls back to cpu: {reason}"));
                }
                let version = Arc::clone(version);
                return Ok(ProcessSession { number, generation, version, fetch, bytes, fell_back });
            }
            Err(Failure::Error(Error::Engine { error, .. })) => return Err(of_model(&label)(error)),
            Err(Failure::Error(error)) => return Err(error),
            // A process that became idle may end as it is asked.
            Err(Failure::Ended) if model_process::is_idle_end(generation) => {}
            Err(Failure::Ended) => return Err(model_process::ended(Some(&label), generation)),
        }
    }
    Err(model_process::ended(Some(&label), 0))
}
