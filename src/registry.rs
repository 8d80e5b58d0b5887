//! The registry: models, versions, aliases and who may use them; resolving a reference, fetching bytes.
//!
//! The tables belong to the extension's owner and PUBLIC cannot read them: this file reads and writes them as their
//! owner, after checking the caller. What a query reads, it reads under its own snapshot, so a reference means the same
//! version from its first row to its last.

use std::cell::RefCell;
use std::io::Read;
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use pg_predict_engine::options::{Batching, Options};
use pg_predict_engine::reference::{Reference, Selection, VersionRef, check_alias, check_name};
use pg_predict_engine::session::{Content, Session, content_hash, hex};
use pg_predict_engine::signature::Signature;
use pg_predict_engine::version::Version;
use pgrx::pg_sys::Oid;

use crate::error::{self, Error, Result, of_model};
use crate::guc;
use crate::pg::lookup::{self, Key, Place};
use crate::pg::owner;
use crate::pg::printed;
use crate::pg::probe::{Parts, Verdict};
use crate::pg::sessions;
use crate::pg::snapshot::{self, Seen};
use crate::pg::sql::{self, Mode, Value};

/// Bytes of a chunk: small enough to read one at a time, large enough that TOAST's own pieces dominate.
const CHUNK: usize = 1 << 20;

/// A resolved reference.
#[derive(Clone)]
pub(crate) struct Resolved {
    pub(crate) version: Arc<Version>,
    pub(crate) selection: Selection,
    /// The reference names an output.
    pub(crate) names_output: bool,
}

thread_local! {
    /// Versions already parsed, with the rows that they were parsed from.
    static PARSED: RefCell<Vec<(Place, Arc<Version>)>> = const { RefCell::new(Vec::new()) };
    /// What references meant, with the rows that said so: it holds for a query that sees the same rows.
    static RESOLVED: RefCell<LruCache<String, Known>> = RefCell::new(LruCache::new(RESOLVED_KEPT));
}

/// What the tables say of a reference.
struct Found {
    version: Option<Arc<Version>>,
    /// Those who may use the model.
    roles: Vec<Oid>,
    /// The rows that say so.
    places: Vec<Place>,
}

/// What a reference meant, for whoever may use the model.
struct Known {
    resolved: Resolved,
    roles: Vec<Oid>,
    places: Vec<Place>,
    /// When the rows were last seen.
    seen: Seen,
}

/// How many parsed versions are kept.
const PARSED_KEPT: usize = 64;
/// How many references are.
const RESOLVED_KEPT: NonZeroUsize = NonZeroUsize::MIN.saturating_add(63);

/// Reads what the tables say of a reference. None: there is no such model.
fn find(reference: &Reference) -> Result<Option<Found>> {
    let name = reference.name.as_str();
    let mut exists = false;
    lookup::rows(c"model", c"model_pkey", &[Key::Text(name)], |_| exists = true);
    if !exists {
        return Ok(None);
    }
    let mut places = Vec::new();
    let mut number = None;
    match &reference.version {
        VersionRef::Number(n) => number = Some(*n),
        VersionRef::Alias(alias) => {
            lookup::rows(c"alias", c"alias_pkey", &[Key::Text(name), Key::Text(alias)], |row| {
                number = row.int(2);
                places.push(row.place);
            });
        }
    }
    let mut stored = None;
    if let Some(number) = number {
        lookup::rows(c"version", c"version_pkey", &[Key::Text(name), Key::Int(number)], |row| {
            stored = Some(version(name, number, row));
            places.push(row.place);
        });
    }
    let mut roles = Vec::new();
    lookup::rows(c"privilege", c"privilege_pkey", &[Key::Text(name)], |row| {
        roles.extend(row.oid(1));
        places.push(row.place);
    });
    Ok(Some(Found { version: stored.transpose()?, roles, places }))
}

/// Whether the caller is one of those who may use a model.
fn admits(roles: &[Oid]) -> bool {
    roles.iter().any(|r| owner::caller_is(*r)) || owner::caller_is_superuser()
}

/// Resolves a reference under the snapshot of the query, and checks that the caller may use the model.
///
/// What it meant the last time it means still where the query sees the rows that said so: a model has one row by each key. Rows
/// that came since can only admit more callers, so a caller who was not admitted is looked for again.
pub(crate) fn resolve(text: &str) -> Result<Resolved> {
    let now = snapshot::seen();
    let known = RESOLVED.with_borrow_mut(|all| {
        let known = all.get_mut(text)?;
        if !known.seen.is_still(&now) {
            if !lookup::sees(&known.places) {
                return None;
            }
            known.seen = now;
        }
        admits(&known.roles).then(|| known.resolved.clone())
    });
    if let Some(resolved) = known {
        return Ok(resolved);
    }
    let reference = Reference::parse(text)?;
    let Some(Found { version, roles, places }) = find(&reference)? else {
        return Err(Error::NoModel { name: reference.name });
    };
    if !admits(&roles) {
        return Err(Error::NotPermitted { model: reference.name, verb: "use" });
    }
    let Some(version) = version else {
        return Err(match reference.version {
            VersionRef::Number(version) => Error::NoVersion { model: reference.name, version },
            VersionRef::Alias(alias) => Error::NoAlias { model: reference.name, alias },
        });
    };
    let selection = reference.select(&version.signature).map_err(of_model(&version.label()))?;
    let resolved = Resolved { names_output: reference.output.is_some(), version, selection };
    let known = Known { resolved: resolved.clone(), roles, places, seen: now };
    RESOLVED.with_borrow_mut(|all| all.put(text.to_owned(), known));
    Ok(resolved)
}

/// The version that a reference means, for the planner: whoever may not use it learns that when it is run.
pub(crate) fn look_up(text: &str) -> Option<Arc<Version>> {
    let reference = Reference::parse(text).ok().filter(|_| snapshot::is_active())?;
    find(&reference).ok()??.version
}

/// The version of a row, parsed once.
fn version(model: &str, number: i32, row: &lookup::Row<'_>) -> Result<Arc<Version>> {
    let same = |(place, v): &&(Place, Arc<Version>)| *place == row.place && v.number == number && v.model == model;
    if let Some(version) = PARSED.with_borrow(|all| all.iter().find(same).map(|(_, v)| Arc::clone(v))) {
        return Ok(version);
    }
    fn damaged<T>(_: T) -> Error {
        pg_predict_engine::Error::Corrupt { what: "the signature of a version cannot be read".into() }.into()
    }
    let version = Arc::new(Version {
        model: model.to_owned(),
        number,
        hash: row.hash(2).ok_or(()).map_err(damaged)?,
        signature: serde_json::from_str::<Signature>(&row.json(4).unwrap_or_default()).map_err(damaged)?,
        options: serde_json::from_str::<Options>(&row.json(5).unwrap_or_default()).map_err(damaged)?,
    });
    PARSED.with_borrow_mut(|all| {
        if all.len() >= PARSED_KEPT {
            all.remove(0);
        }
        all.push((row.place, Arc::clone(&version)));
    });
    Ok(version)
}

/// Whether the caller owns a model.
pub(crate) fn owns(name: &str) -> bool {
    has_privilege(name, true)
}

/// Whether the caller may use a model.
pub(crate) fn may_use(name: &str) -> bool {
    has_privilege(name, false)
}

fn has_privilege(name: &str, as_owner: bool) -> bool {
    if owner::caller_is_superuser() {
        return true;
    }
    let mut roles = Vec::new();
    owner::as_registry_owner(|| {
        sql::run(
            Mode::Read,
            c"SELECT role::oid, privilege FROM predict.privilege WHERE model = $1",
            &[Value::Text(name)],
            |row| {
                if !as_owner || row.text(1).as_deref() == Some("owner") {
                    roles.extend(row.oid(0));
                }
            },
        );
    });
    roles.into_iter().any(owner::caller_is)
}

/// The session of a version. Where it is loaded now by another ONNX Runtime than its checks were last run with, a warning says so.
pub(crate) fn session(version: &Arc<Version>) -> Result<Arc<Session>> {
    let loads = !sessions::has(version);
    let session = sessions::open(version, || content(version))?;
    if loads && !sessions::is_worker() {
        let runtime = sessions::runtime()?;
        let mut others = false;
        let key = [Key::Text(&version.model), Key::Int(version.number)];
        lookup::rows(c"check_result", c"check_result_pkey", &key, |row| {
            others |= row.text(7).is_some_and(|theirs| theirs != runtime);
        });
        if others {
            let label = version.label();
            error::warn(
                &format!("the checks of model \"{label}\" were last run with another ONNX Runtime"),
                &format!("Now it is {runtime}."),
                &format!("Run them: SELECT * FROM predict.check({}).", printed::literal(&label)),
            );
        }
    }
    Ok(session)
}

/// Loads the session of a version, and says how long that took; zero where it was loaded.
pub(crate) fn warm(version: &Arc<Version>) -> Result<Duration> {
    if sessions::has(version) {
        return Ok(Duration::ZERO);
    }
    let started = Instant::now();
    session(version)?;
    Ok(started.elapsed())
}

/// Notes what was done to a model, for predict.history.
fn note(model: &str, action: &str, version: Option<i32>, alias: Option<&str>, detail: Option<&str>) {
    let caller = owner::caller();
    let role = owner::role_name(caller);
    owner::as_registry_owner(|| {
        sql::run(
            Mode::Write,
            c"INSERT INTO predict.event (role, model, action, version, alias, detail, actor, gone) VALUES ($1::name, $2, $3, $4, $5, $6, $7, $3 = 'drop model')",
            &[
                Value::Text(&role),
                Value::Text(model),
                Value::Text(action),
                Value::OptionalInt(version),
                Value::OptionalText(alias),
                Value::OptionalText(detail),
                Value::Oid(caller),
            ],
            |_| {},
        );
    });
}

/// Reads all that a version is loaded from.
fn content(version: &Version) -> Result<Content> {
    let stored = |hash: &str| match unhex(hash) {
        Some(hash) => bytes(&hash),
        None => {
            Err(pg_predict_engine::Error::Corrupt { what: "the signature of a version cannot be read".into() }.into())
        }
    };
    let signature = &version.signature;
    let mut external = Vec::new();
    for file in &signature.external {
        external.push((file.location.clone(), stored(&file.hash)?));
    }
    let tokenizer = signature.tokenizer.as_deref().map(stored).transpose()?;
    Ok(Content { model: bytes(&version.hash)?, tokenizer, external })
}

/// Bytes out of hexadecimal digits.
fn unhex(digits: &str) -> Option<Vec<u8>> {
    let pair = |i| digits.get(i..i + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    (0..digits.len()).step_by(2).map(pair).collect()
}

/// Reads stored bytes, chunk by chunk.
fn bytes(hash: &[u8]) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    let mut failed = None;
    owner::as_registry_owner(|| {
        let mut size = 0;
        let hash = [Value::Bytes(hash)];
        sql::run(Mode::Read, c"SELECT bytes FROM predict.content WHERE hash = $1", &hash, |row| {
            size = usize::try_from(row.big(0).unwrap_or(0)).unwrap_or(0);
        });
        if content.try_reserve_exact(size).is_err() {
            failed = Some(pg_predict_engine::Error::OutOfMemory { what: "the model's bytes".into(), bytes: size });
            return;
        }
        sql::scan(c"SELECT data FROM predict.chunk WHERE hash = $1 ORDER BY position", &hash, |row| {
            row.bytes(0, |b| content.extend_from_slice(b));
        });
    });
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(content),
    }
}

/// Reads who owns a model, keeping others from changing it until the transaction ends. None: there is no such model.
fn lock_model(name: &str) -> Option<Vec<Oid>> {
    let mut exists = false;
    let mut owners = Vec::new();
    sql::run(Mode::Write, c"SELECT 1 FROM predict.model WHERE name = $1 FOR UPDATE", &[Value::Text(name)], |_| {
        exists = true
    });
    sql::run(
        Mode::Write,
        c"SELECT role::oid FROM predict.privilege WHERE model = $1 AND privilege = 'owner'",
        &[Value::Text(name)],
        |row| owners.extend(row.oid(0)),
    );
    exists.then_some(owners)
}

/// Locks a model that the caller owns.
fn own_model(name: &str, verb: &'static str) -> Result<()> {
    // Asked of the caller, before acting as somebody else.
    let owners =
        owner::as_registry_owner(|| lock_model(name)).ok_or_else(|| Error::NoModel { name: name.to_owned() })?;
    if owners.iter().any(|r| owner::caller_is(*r)) || owner::caller_is_superuser() {
        Ok(())
    } else {
        Err(Error::NotPermitted { model: name.to_owned(), verb })
    }
}

/// What the caller gives of a version.
pub(crate) struct Given<'a> {
    pub(crate) model: &'a [u8],
    pub(crate) tokenizer: Option<Vec<u8>>,
    /// The only file of weights outside of the model.
    pub(crate) external: Option<&'a [u8]>,
    /// The folder that files of weights are taken from.
    pub(crate) folder: Option<PathBuf>,
}

/// Tries a model and stores it as a new version; gives its number.
pub(crate) fn create(name: &str, given: &Given<'_>, options: &serde_json::Value) -> Result<i32> {
    check_name(name).map_err(|reason| Error::BadName { what: "a model", name: name.to_owned(), reason })?;
    let mut options = Options::parse(options)?;
    // A model of somebody else's is refused before the work.
    let mut owners = Vec::new();
    owner::as_registry_owner(|| {
        sql::run(
            Mode::Read,
            c"SELECT role::oid FROM predict.privilege WHERE model = $1 AND privilege = 'owner'",
            &[Value::Text(name)],
            |row| owners.extend(row.oid(0)),
        );
    });
    let owns = |owners: &[Oid]| owners.iter().any(|r| owner::caller_is(*r)) || owner::caller_is_superuser();
    if !owners.is_empty() && !owns(&owners) {
        return Err(Error::NotPermitted { model: name.to_owned(), verb: "change" });
    }
    let mut parts = Parts {
        model: given.model,
        tokenizer: given.tokenizer.as_deref(),
        external: given.external.map(|bytes| (None, bytes)).into_iter().collect(),
    };
    let mut files = Vec::new();
    let mut found = crate::pg::probe::run(&parts, &options, given.folder.is_some())?;
    if let (Verdict::Needs(locations), Some(folder)) = (&found, &given.folder) {
        for location in locations {
            files.push((location.clone(), beside(folder, location)?));
        }
        parts.external = files.iter().map(|(location, bytes)| (Some(location.clone()), bytes.as_slice())).collect();
        found = crate::pg::probe::run(&parts, &options, false)?;
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
    // In one order everywhere, so that two who create or drop do not wait for each other.
    contents.sort_unstable_by_key(|(hash, _)| *hash);
    let caller = owner::caller();
    let caller_name = owner::role_name(caller);
    let to_text = |value: serde_json::Result<String>| value.map_err(|e| Error::BadBatch { reason: e.to_string() });
    let signature = to_text(serde_json::to_string(&signature))?;
    let options = to_text(serde_json::to_string(&options))?;

    let made = owner::as_registry_owner(|| {
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
    owner::as_registry_owner(|| {
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

/// Says what the owner of a new version should know.
fn tell_of(name: &str, signature: &Signature, options: &Options) {
    let fact = |key: &str| signature.metadata.get(key).and_then(|r| r.as_str());
    if let (Some(_), Some(names)) = (signature.metadata.get("features"), &options.features) {
        error::notice(
            &format!("the features of model \"{name}\" are named as the file names them"),
            &format!("The option \"features\" is {}.", serde_json::Value::from(names.clone())),
        );
    }
    if let Some(reason) = fact("no_batch") {
        error::notice(
            &format!("model \"{name}\" has no batch axis, so a row is one whole run, and its arrays are whole tensors"),
            &format!("As if created with the option \"batch\": \"none\": {reason}."),
        );
    }
    if signature.batch_sensitive && options.batch != Batching::Force {
        error::warn(
            &format!("model \"{name}\" answers a row differently in different batches, so its rows are run one by one"),
            "Dynamically quantised models do so.",
            "The option \"batch\": \"force\" runs it in batches all the same.",
        );
    }
    if let Some(reason) = signature.metadata.get("unverified").and_then(|r| r.as_str()) {
        error::warn(
            &format!(
                "model \"{name}\" could not be tried on made-up rows: the shapes that it declares are taken as they are"
            ),
            reason,
            "Compare some predictions with known answers.",
        );
    }
}

/// Stores bytes under their hash, or keeps whoever would drop those that are there from doing so.
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
        // An update and not a lock alone: a drop under an older snapshot fails on it instead of missing our version.
        let there = sql::run(
            Mode::Write,
            c"UPDATE predict.content SET bytes = bytes WHERE hash = $1",
            &[Value::Bytes(hash)],
            |_| {},
        );
        if there > 0 {
            return;
        }
        // Dropped in between.
        crate::pg::sessions::check_interrupts();
    }
    for (position, data) in model.chunks(CHUNK).enumerate() {
        crate::pg::sessions::check_interrupts();
        sql::run(
            Mode::Write,
            c"INSERT INTO predict.chunk VALUES ($1, $2, $3)",
            &[Value::Bytes(hash), Value::Int(i32::try_from(position).unwrap_or(i32::MAX)), Value::Bytes(data)],
            |_| {},
        );
    }
}

/// Stores files of the server as a new version.
pub(crate) fn create_from_file(
    name: &str,
    path: &str,
    options: &serde_json::Value,
    tokenizer: Option<&str>,
) -> Result<i32> {
    if !owner::caller_reads_files() {
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
        // The system's words without the number that Rust adds.
        let reason = reason.split(" (os error").next().unwrap_or_default().to_owned();
        Error::File { path: path.to_owned(), reason }
    };
    // Opening something that is no file may never end.
    let about = std::fs::metadata(path).map_err(|e| failed(e.to_string()))?;
    if !about.is_file() {
        return Err(failed("it is not a regular file".to_owned()));
    }
    std::fs::read(path).map_err(|e| failed(e.to_string()))
}

/// Reads a file of weights that a model names, out of the folder of the model. The system itself keeps the way to it
/// inside, whatever changes meanwhile.
fn beside(folder: &Path, location: &str) -> Result<Vec<u8>> {
    let outside = |reason| Error::Outside { location: location.to_owned(), reason };
    let failed = |reason: String| {
        let reason = reason.split(" (os error").next().unwrap_or_default().to_owned();
        Error::File { path: folder.join(location).to_string_lossy().into_owned(), reason }
    };
    // An empty folder is the one that the server runs in.
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let directory = std::fs::File::open(folder).map_err(|e| failed(e.to_string()))?;
    let how = OpenHow::new()
        // A pipe must not keep the server waiting.
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

/// Drops contents that no version has any more. Whoever is about to use one again is waited for first.
fn drop_orphans(mut hashes: Vec<Vec<u8>>) {
    // In one order everywhere, so that two who drop do not wait for each other.
    hashes.sort_unstable();
    hashes.dedup();
    for hash in &hashes {
        let hash = [Value::Bytes(hash)];
        sql::run(Mode::Write, c"SELECT FROM predict.content WHERE hash = $1 FOR UPDATE", &hash, |_| {});
        let dropped = sql::run(
            Mode::Write,
            c"DELETE FROM predict.content c
               WHERE c.hash = $1
                 AND NOT EXISTS (SELECT FROM predict.version v WHERE v.hash = c.hash OR c.hash = ANY (v.parts))",
            &hash,
            |_| {},
        );
        if dropped > 0 {
            sql::run(Mode::Write, c"DELETE FROM predict.chunk WHERE hash = $1", &hash, |_| {});
            // Where this is rolled back, or another database has it too, it is made anew.
            if let [Value::Bytes(hash)] = hash {
                guc::files().iter().for_each(|files| files.drop_model(hash));
            }
        }
    }
}

/// Drops a model, or one version of it.
pub(crate) fn drop_model(name: &str, version: Option<i32>) -> Result<()> {
    own_model(name, "drop")?;
    let mut hashes = Vec::new();
    let Some(number) = version else {
        owner::as_registry_owner(|| {
            let name = [Value::Text(name)];
            sql::run(Mode::Write, c"DELETE FROM predict.alias WHERE model = $1", &name, |_| {});
            sql::run(Mode::Write, c"DELETE FROM predict.privilege WHERE model = $1", &name, |_| {});
            drop_trust(&name);
            sql::run(
                Mode::Write,
                c"WITH gone AS (DELETE FROM predict.version WHERE model = $1 RETURNING hash, parts)
                  SELECT unnest(array_prepend(hash, parts)) FROM gone",
                &name,
                |row| hashes.extend(row.bytes(0, <[u8]>::to_vec)),
            );
            sql::run(Mode::Write, c"DELETE FROM predict.model WHERE name = $1", &name, |_| {});
            drop_orphans(hashes);
        });
        note(name, "drop model", None, None, None);
        return Ok(());
    };
    let mut aliases = Vec::new();
    let mut dropped = false;
    owner::as_registry_owner(|| {
        let values = [Value::Text(name), Value::Int(number)];
        sql::run(
            Mode::Write,
            c"SELECT alias FROM predict.alias WHERE model = $1 AND version = $2 ORDER BY alias",
            &values,
            |row| aliases.extend(row.text(0)),
        );
        if aliases.is_empty() {
            sql::run(
                Mode::Write,
                c"WITH gone AS (DELETE FROM predict.version WHERE model = $1 AND number = $2 RETURNING hash, parts)
                  SELECT unnest(array_prepend(hash, parts)) FROM gone",
                &values,
                |row| hashes.extend(row.bytes(0, <[u8]>::to_vec)),
            );
            dropped = !hashes.is_empty();
            sql::run(
                Mode::Write,
                c"DELETE FROM predict.check_result WHERE model = $1 AND version = $2",
                &values,
                |_| {},
            );
            drop_orphans(std::mem::take(&mut hashes));
        }
    });
    if !aliases.is_empty() {
        return Err(Error::AliasNames { model: name.to_owned(), version: number, aliases });
    }
    if !dropped {
        return Err(Error::NoVersion { model: name.to_owned(), version: number });
    }
    note(name, "drop version", Some(number), None, None);
    Ok(())
}

/// Drops what is kept of a model beside its versions: its checks and its baseline. Its history stays, and is not that of a later
/// model of the name.
fn drop_trust(name: &[Value<'_>]) {
    sql::run(Mode::Write, c"DELETE FROM predict.check_row WHERE model = $1", name, |_| {});
    sql::run(Mode::Write, c"DELETE FROM predict.check_result WHERE model = $1", name, |_| {});
    sql::run(Mode::Write, c"DELETE FROM predict.check_set WHERE model = $1", name, |_| {});
    sql::run(Mode::Write, c"DELETE FROM predict.baseline WHERE model = $1", name, |_| {});
    sql::run(Mode::Write, c"UPDATE predict.event SET gone = true WHERE model = $1 AND NOT gone", name, |_| {});
}

/// The checks of a model that a version fails, each as a sentence. They are run as the caller, who owns the model.
fn failed_checks(name: &str, number: i32) -> Vec<String> {
    let mut any = false;
    owner::as_registry_owner(|| {
        let statement = c"SELECT FROM predict.check_set WHERE model = $1 LIMIT 1";
        sql::run(Mode::Read, statement, &[Value::Text(name)], |_| any = true);
    });
    let mut failed = Vec::new();
    if any {
        sql::run(
            Mode::Write,
            c"SELECT c.name, c.failed, c.rows FROM predict.check($1) c WHERE NOT c.passed",
            &[Value::Text(&format!("{name}@{number}"))],
            |row| {
                let (check, bad, rows) = (row.text(0), row.int(1), row.int(2));
                failed.push(format!(
                    "Check \"{}\": {} of {} rows differ.",
                    check.unwrap_or_default(),
                    bad.unwrap_or_default(),
                    rows.unwrap_or_default()
                ));
            },
        );
    }
    failed
}

/// Points an alias at a version, if that passes the model's checks. `force`: also if not.
pub(crate) fn set_alias(name: &str, alias: &str, number: i32, force: bool) -> Result<()> {
    check_alias(alias).map_err(|reason| Error::BadName { what: "an alias", name: alias.to_owned(), reason })?;
    own_model(name, "change")?;
    let mut exists = false;
    owner::as_registry_owner(|| {
        sql::run(
            Mode::Write,
            c"SELECT 1 FROM predict.version WHERE model = $1 AND number = $2",
            &[Value::Text(name), Value::Int(number)],
            |_| exists = true,
        );
    });
    if !exists {
        return Err(Error::NoVersion { model: name.to_owned(), version: number });
    }
    let failed = failed_checks(name, number);
    let failing = (!failed.is_empty()).then(|| failed.join(" "));
    if let Some(failing) = &failing {
        if !force {
            return Err(Error::ChecksFail { model: name.to_owned(), version: number, failed });
        }
        error::warn(
            &format!("alias \"{alias}\" of model \"{name}\" is pointed at version {number}, which fails its checks"),
            failing,
            "It was forced; predict.history keeps it.",
        );
    }
    let mut before = None;
    owner::as_registry_owner(|| {
        sql::run(
            Mode::Write,
            c"SELECT version FROM predict.alias WHERE model = $1 AND alias = $2",
            &[Value::Text(name), Value::Text(alias)],
            |row| before = row.int(0),
        );
        sql::run(
            Mode::Write,
            c"INSERT INTO predict.alias VALUES ($1, $2, $3)
              ON CONFLICT (model, alias) DO UPDATE SET version = excluded.version",
            &[Value::Text(name), Value::Text(alias), Value::Int(number)],
            |_| {},
        );
    });
    let from = before.map(|before| format!("It named version {before}."));
    let forced = failing.map(|failing| format!("Forced: {failing}"));
    let detail: Vec<String> = from.into_iter().chain(forced).collect();
    note(name, "set alias", Some(number), Some(alias), (!detail.is_empty()).then(|| detail.join(" ")).as_deref());
    Ok(())
}

/// Drops an alias.
pub(crate) fn drop_alias(name: &str, alias: &str) -> Result<()> {
    own_model(name, "change")?;
    let dropped = owner::as_registry_owner(|| {
        sql::run(
            Mode::Write,
            c"DELETE FROM predict.alias WHERE model = $1 AND alias = $2",
            &[Value::Text(name), Value::Text(alias)],
            |_| {},
        )
    });
    if dropped == 0 {
        return Err(Error::NoAlias { model: name.to_owned(), alias: alias.to_owned() });
    }
    note(name, "drop alias", None, Some(alias), None);
    Ok(())
}

/// Drops privileges of roles that are gone: a later role must not come to them with the number.
fn drop_strays(name: &str) {
    let statement = c"DELETE FROM predict.privilege p
                       WHERE p.model = $1 AND p.role <> 0 AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = p.role)";
    sql::run(Mode::Write, statement, &[Value::Text(name)], |_| {});
}

/// Lets a role use a model, or takes that away.
pub(crate) fn set_usage(name: &str, role: &str, grant: bool) -> Result<()> {
    own_model(name, "grant the use of")?;
    let named = role;
    let role = owner::role_named(role).ok_or_else(|| Error::NoRole { role: role.to_owned() })?;
    let statement = if grant {
        c"INSERT INTO predict.privilege VALUES ($1, $2::oid::regrole, 'usage') ON CONFLICT DO NOTHING"
    } else {
        c"DELETE FROM predict.privilege WHERE model = $1 AND role = $2::oid::regrole AND privilege = 'usage'"
    };
    owner::as_registry_owner(|| {
        drop_strays(name);
        sql::run(Mode::Write, statement, &[Value::Text(name), Value::Oid(role)], |_| {});
    });
    let action = if grant { "grant usage" } else { "revoke usage" };
    note(name, action, None, None, Some(&format!("Role {}.", printed::identifier(named))));
    Ok(())
}
