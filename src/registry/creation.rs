//! Creates versions of models.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use pg_predict_engine::hash::{content_hash, hex};
use pg_predict_engine::options::{Batching, Options};
use pg_predict_engine::reference::check_name;
use pg_predict_engine::signature::Signature;
use pgrx::pg_sys::Oid;

use crate::error::{Error, Result};
use crate::pg::catalog::roles;
use crate::pg::catalog::sql::{self, Mode, Value};
use crate::pg::report;
use crate::registry::history::note;
use crate::registry::rights::own_model;
use crate::runtime::validation_process::{Parts, Verdict};

/// Bytes of a stored chunk: small enough to read one at a time, large enough that most overhead is TOAST's own.
const CHUNK: usize = 1 << 20;

/// The contents of a new version, as the caller passes them.
pub(crate) struct Given<'a> {
    pub(crate) model: &'a [u8],
    pub(crate) tokenizer: Option<Vec<u8>>,
    /// The model's only external data file.
    pub(crate) external: Option<&'a [u8]>,
    /// The directory that external data files are read from.
    pub(crate) folder: Option<PathBuf>,
}

/// Validates a model and stores it as a new version. Returns the version's number.
pub(crate) fn create(name: &str, given: &Given<'_>, options: &serde_json::Value) -> Result<i32> {
    check_name(name).map_err(|reason| Error::BadName { what: "a model", name: name.to_owned(), reason })?;
    let mut options = Options::parse(options)?;
    // Refuse a model of another owner before the expensive validation.
    let mut owners = Vec::new();
    roles::as_registry_owner(|| {
        sql::run(
            Mode::Read,
            c"SELECT role::oid FROM predict.privilege WHERE model = $1 AND privilege = 'owner'",
            &[Value::Text(name)],
            |row| owners.extend(row.oid(0)),
        );
    });
    let owns = |owners: &[Oid]| owners.iter().any(|r| roles::caller_is(*r)) || roles::caller_is_superuser();
    if !owners.is_empty() && !owns(&owners) {
        return Err(Error::NotPermitted { model: name.to_owned(), verb: "change" });
    }
    let mut parts = Parts {
        model: given.model,
        tokenizer: given.tokenizer.as_deref(),
        external: given.external.map(|bytes| (None, bytes)).into_iter().collect(),
    };
    let mut files = Vec::new();
    let mut found = crate::runtime::validation_process::run(&parts, &options, given.folder.is_some())?;
    if let (Verdict::Needs(locations), Some(folder)) = (&found, &given.folder) {
        for location in locations {
            files.push((location.clone(), beside(folder, location)?));
        }
        parts.external = files.iter().map(|(location, bytes)| (Some(location.clone()), bytes.as_slice())).collect();
        found = crate::runtime::validation_process::run(&parts, &options, false)?;
    }
    let signature = match found {
        Verdict::Signature(signature) => *signature,
        Verdict::Needs(locations) => {
            let location = locations.into_iter().next().unwrap_or_default();
            return Err(pg_predict_engine::Error::ExternalFile { location, reason: "it was not given".into() }.into());
        }
    };
    if let (None, Some(names)) = (&options.features, signature.metadata.get("features")) {
        options.features = serde_json::from_value(names.clone()).ok();
    }
    tell_of(name, &signature, &options);

    let hash = content_hash(parts.model);
    let stored: Vec<&[u8]> =
        parts.tokenizer.into_iter().chain(parts.external.iter().map(|(_, bytes)| *bytes)).collect();
    let mut contents: Vec<([u8; 32], &[u8])> = stored.iter().map(|bytes| (content_hash(bytes), *bytes)).collect();
    let others = contents.iter().map(|(hash, _)| hex(hash)).collect::<Vec<_>>().join(" ");
    contents.push((hash, parts.model));
    // Contents are locked in the order of their hashes everywhere, so that creations and drops cannot deadlock.
    contents.sort_unstable_by_key(|(hash, _)| *hash);
    let caller = roles::caller();
    let caller_name = roles::role_name(caller);
    let to_text = |value: serde_json::Result<String>| value.map_err(|e| Error::BadBatch { reason: e.to_string() });
    let signature = to_text(serde_json::to_string(&signature))?;
    let options = to_text(serde_json::to_string(&options))?;

    let made = roles::as_registry_owner(|| {
        sql::run(
            Mode::Write,
            c"INSERT INTO predict.model (name) VALUES ($1) ON CONFLICT DO NOTHING",
            &[Value::Text(name)],
            |_| {},
        )
    });
    if made == 0 {
        own_model(name, "change")?;
    }
    let mut number = 0;
    roles::as_registry_owner(|| {
        if made > 0 {
            sql::run(
                Mode::Write,
                c"INSERT INTO predict.privilege VALUES ($1, $2::oid::regrole, 'owner')",
                &[Value::Text(name), Value::Oid(caller)],
                |_| {},
            );
        }
        contents.iter().for_each(|(hash, bytes)| store_content(hash, bytes));
        sql::run(
            Mode::Write,
            c"UPDATE predict.model SET last_version = last_version + 1 WHERE name = $1 RETURNING last_version",
            &[Value::Text(name)],
            |row| number = row.int(0).unwrap_or(0),
        );
        sql::run(
            Mode::Write,
            c"INSERT INTO predict.version (model, number, hash, parts, signature, options, created_by)
              VALUES ($1, $2, $3, ARRAY(SELECT decode(h, 'hex') FROM string_to_table($7, ' ') h), $4::jsonb, $5::jsonb, $6::name)",
            &[
                Value::Text(name),
                Value::Int(number),
                Value::Bytes(&hash),
                Value::Text(&signature),
                Value::Text(&options),
                Value::Text(&caller_name),
                Value::OptionalText((!others.is_empty()).then_some(&others)),
            ],
            |_| {},
        );
        if made > 0 {
            sql::run(
                Mode::Write,
                c"INSERT INTO predict.alias VALUES ($1, 'default', $2)",
                &[Value::Text(name), Value::Int(number)],
                |_| {},
            );
        }
    });
    note(name, "create version", Some(number), None, None);
    if made > 0 {
        note(name, "set alias", Some(number), Some("default"), None);
    }
    Ok(number)
}

/// Reports what the owner of a new version should know, as notices and warnings.
fn tell_of(name: &str, signature: &Signature, options: &Options) {
    let fact = |key: &str| signature.metadata.get(key).and_then(|r| r.as_str());
    if let (Some(_), Some(names)) = (signature.metadata.get("features"), &options.features) {
        report::notice(
            &format!("the features of model \"{name}\" are named as the file names them"),
            &format!("The option \"features\" is {}.", serde_json::Value::from(names.clone())),
        );
    }
    if let Some(reason) = fact("no_batch") {
        report::notice(
            &format!("model \"{name}\" has no batch axis, so a row is one whole run, and its arrays are whole tensors"),
            &format!("As if created with the option \"batch\": \"none\": {reason}."),
        );
    }
    let unverified = fact("unverified");
    if let Some(reason) = unverified {
        report::warn(
            &format!(
                "model \"{name}\" could not be run with generated rows, so its declared shapes are used unchecked"
            ),
            &format!("{}.", reason.trim_end_matches('.')),
            "Compare some predictions with known answers.",
        );
    }
    if signature.batch_sensitive && options.batch != Batching::Force {
        let reason = match (fact("batch_dependent"), unverified) {
            (Some(reason), _) => reason.to_owned(),
            _ => "Whether a row depends on the other rows of its batch is not known".to_owned(),
        };
        let mut reason = reason;
        if let Some(first) = reason.get(..1).map(str::to_uppercase) {
            reason.replace_range(..1, &first);
        }
        report::warn(
            &format!(
                "rows of model \"{name}\" are run one at a time, because they may influence each other in a batch"
            ),
            &format!("{reason}."),
            "If they do not, create the model with the option \"batch\": \"force\".",
        );
    }
}

/// Stores bytes under their hash. If they are stored already, keeps a concurrent drop from removing them.
fn store_content(hash: &[u8; 32], model: &[u8]) {
    loop {
        let new = sql::run(
            Mode::Write,
            c"INSERT INTO predict.content (hash, bytes) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            &[Value::Bytes(hash), Value::Big(i64::try_from(model.len()).unwrap_or(i64::MAX))],
            |_| {},
        );
        if new > 0 {
            break;
        }
        // An update, and not only a lock: a drop under an older snapshot then fails instead of missing the new version.
        let there = sql::run(
            Mode::Write,
            c"UPDATE predict.content SET bytes = bytes WHERE hash = $1",
            &[Value::Bytes(hash)],
            |_| {},
        );
        if there > 0 {
            return;
        }
        // The content was dropped in between, so insert it again.
        crate::pg::process::check_interrupts();
    }
    for (position, data) in model.chunks(CHUNK).enumerate() {
        crate::pg::process::check_interrupts();
        sql::run(
            Mode::Write,
            c"INSERT INTO predict.chunk VALUES ($1, $2, $3)",
            &[Value::Bytes(hash), Value::Int(i32::try_from(position).unwrap_or(i32::MAX)), Value::Bytes(data)],
            |_| {},
        );
    }
}

/// Creates a version from files of the server.
pub(crate) fn create_from_file(
    name: &str,
    path: &str,
    options: &serde_json::Value,
    tokenizer: Option<&str>,
) -> Result<i32> {
    if !roles::caller_reads_files() {
        return Err(Error::NoFilePermission);
    }
    let model = read_file(path)?;
    let tokenizer = tokenizer.map(read_file).transpose()?;
    let folder = Path::new(path).parent().map(Path::to_path_buf);
    create(name, &Given { model: &model, tokenizer, external: None, folder }, options)
}

/// Reads a file of the server.
fn read_file(path: &str) -> Result<Vec<u8>> {
    let failed = |reason: String| {
        // Keep the system's message without the error number that Rust appends.
        let reason = reason.split(" (os error").next().unwrap_or_default().to_owned();
        Error::File { path: path.to_owned(), reason }
    };
    // Opening a file that is not a regular file may block forever.
    let about = std::fs::metadata(path).map_err(|e| failed(e.to_string()))?;
    if !about.is_file() {
        return Err(failed("it is not a regular file".to_owned()));
    }
    std::fs::read(path).map_err(|e| failed(e.to_string()))
}

/// Reads an external data file that a model names, from the directory of the model. The kernel resolves the path and
/// keeps it inside the directory, even if the path changes meanwhile.
fn beside(folder: &Path, location: &str) -> Result<Vec<u8>> {
    let outside = |reason| Error::Outside { location: location.to_owned(), reason };
    let failed = |reason: String| {
        let reason = reason.split(" (os error").next().unwrap_or_default().to_owned();
        Error::File { path: folder.join(location).to_string_lossy().into_owned(), reason }
    };
    // An empty path means the working directory of the server.
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let directory = std::fs::File::open(folder).map_err(|e| failed(e.to_string()))?;
    let how = OpenHow::new()
        // O_NONBLOCK: opening a named pipe must not block the server.
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let mut file = match openat2(&directory, Path::new(location), how) {
        Ok(file) => std::fs::File::from(file),
        Err(Errno::ELOOP) => return Err(outside("it is a link")),
        Err(Errno::EXDEV) => return Err(outside("it is outside of the folder of the model")),
        Err(e) => return Err(failed(e.desc().to_owned())),
    };
    let about = file.metadata().map_err(|e| failed(e.to_string()))?;
    if !about.is_file() {
        return Err(outside("it is not a regular file"));
    }
    if about.nlink() > 1 {
        return Err(outside("it has another name elsewhere"));
    }
    let mut bytes = Vec::new();
    let size = usize::try_from(about.len()).unwrap_or(usize::MAX);
    bytes
        .try_reserve_exact(size)
        .map_err(|_| pg_predict_engine::Error::OutOfMemory { what: "the model's weights".into(), bytes: size })?;
    file.read_to_end(&mut bytes).map_err(|e| failed(e.to_string()))?;
    Ok(bytes)
}
