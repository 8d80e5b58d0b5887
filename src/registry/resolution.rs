//! Resolves model references to versions, and caches the results.

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;
use pg_predict_engine::onnx::content::Content;
use pg_predict_engine::options::Options;
use pg_predict_engine::reference::{Reference, Selection, VersionRef};
use pg_predict_engine::signature::Signature;
use pg_predict_engine::version::Version;
use pgrx::pg_sys::Oid;

use crate::error::{Error, Result, of_model};
use crate::pg::catalog::lookup::{self, IndexKey, RowPlace};
use crate::pg::catalog::roles;
use crate::pg::catalog::snapshot::{self, SnapshotState};
use crate::pg::catalog::sql::{self, Mode, Value};
use crate::pg::{process, quoting, report};
use crate::runtime::sessions::{self, LoadedModel};

/// A resolved reference.
#[derive(Clone)]
pub(crate) struct Resolved {
    pub(crate) version: Arc<Version>,
    pub(crate) selection: Selection,
    /// Whether the reference names an output.
    pub(crate) names_output: bool,
}

thread_local! {
    /// Versions already parsed, with the places of the rows that they were parsed from.
    static PARSED: RefCell<Vec<(RowPlace, Arc<Version>)>> = const { RefCell::new(Vec::new()) };
    /// Resolved references, with the places of the rows that they were read from.
    static RESOLVED: RefCell<LruCache<String, CachedResolution>> = RefCell::new(LruCache::new(RESOLVED_KEPT));
}

/// What the tables of the registry contain for a reference.
struct RegistryRow {
    version: Option<Arc<Version>>,
    /// The roles that may use the model.
    roles: Vec<Oid>,
    /// The places of the rows that this was read from.
    places: Vec<RowPlace>,
}

/// A resolved reference, for every role that may use the model. It is valid for a query that sees the same rows.
struct CachedResolution {
    resolved: Resolved,
    roles: Vec<Oid>,
    places: Vec<RowPlace>,
    /// The state of the database in which the rows were last seen.
    seen: SnapshotState,
}

/// The most parsed versions that are kept.
const PARSED_KEPT: usize = 64;

/// The most resolved references that are kept.
const RESOLVED_KEPT: NonZeroUsize = NonZeroUsize::MIN.saturating_add(63);

/// Reads what the tables contain for a reference. Returns None if there is no such model.
fn find(reference: &Reference) -> Result<Option<RegistryRow>> {
    let name = reference.name.as_str();
    let mut exists = false;
    lookup::rows(c"model", c"model_pkey", &[IndexKey::Text(name)], |_| exists = true);
    if !exists {
        return Ok(None);
    }
    let mut places = Vec::new();
    let mut number = None;
    match &reference.version {
        VersionRef::Number(n) => number = Some(*n),
        VersionRef::Alias(alias) => {
            lookup::rows(c"alias", c"alias_pkey", &[IndexKey::Text(name), IndexKey::Text(alias)], |row| {
                number = row.int(2);
                places.push(row.place);
            });
        }
    }
    let mut stored = None;
    if let Some(number) = number {
        lookup::rows(c"version", c"version_pkey", &[IndexKey::Text(name), IndexKey::Int(number)], |row| {
            stored = Some(version(name, number, row));
            places.push(row.place);
        });
    }
    let mut roles = Vec::new();
    lookup::rows(c"privilege", c"privilege_pkey", &[IndexKey::Text(name)], |row| {
        roles.extend(row.oid(1));
        places.push(row.place);
    });
    Ok(Some(RegistryRow { version: stored.transpose()?, roles, places }))
}

/// Whether the caller may use a model that these roles may use. Superusers may use every model.
fn admits(roles: &[Oid]) -> bool {
    roles.iter().any(|r| roles::caller_is(*r)) || roles::caller_is_superuser()
}

/// Resolves a reference under the snapshot of the query, and checks that the caller may use the model.
///
/// A cached resolution stays valid while the rows it was read from are visible, because a model has one row per key.
/// Rows added since can only admit more callers. So the tables are read again for a caller who is not admitted.
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
    let Some(RegistryRow { version, roles, places }) = find(&reference)? else {
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
    let known = CachedResolution { resolved: resolved.clone(), roles, places, seen: now };
    RESOLVED.with_borrow_mut(|all| all.put(text.to_owned(), known));
    Ok(resolved)
}

/// Returns the version that a reference means, for the planner. The rights of the caller are checked at execution.
pub(crate) fn look_up(text: &str) -> Option<Arc<Version>> {
    let reference = Reference::parse(text).ok().filter(|_| snapshot::is_active())?;
    find(&reference).ok()??.version
}

/// Returns the version of a catalog row. Each row is parsed once.
pub(crate) fn version(model: &str, number: i32, row: &lookup::CatalogRow<'_>) -> Result<Arc<Version>> {
    let same = |(place, v): &&(RowPlace, Arc<Version>)| *place == row.place && v.number == number && v.model == model;
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

/// Returns the session of a version. Warns if its checks were last run with another ONNX Runtime than the present one.
pub(crate) fn session(version: &Arc<Version>) -> Result<Arc<LoadedModel>> {
    let loads = !sessions::has(version);
    let session = sessions::open(version, content)?;
    if loads && !process::is_worker() {
        let runtime = sessions::runtime()?;
        let mut others = false;
        let key = [IndexKey::Text(&version.model), IndexKey::Int(version.number)];
        lookup::rows(c"check_result", c"check_result_pkey", &key, |row| {
            others |= row.text(7).is_some_and(|theirs| theirs != runtime);
        });
        if others {
            let label = version.label();
            report::warn(
                &format!("the checks of model \"{label}\" were last run with another ONNX Runtime"),
                &format!("Now it is {runtime}."),
                &format!("Run them: SELECT * FROM predict.check({}).", quoting::literal(&label)),
            );
        }
    }
    Ok(session)
}

/// Loads the session of a version and returns how long that took. Returns zero if it was loaded already.
pub(crate) fn load_model(version: &Arc<Version>) -> Result<Duration> {
    if sessions::has(version) {
        return Ok(Duration::ZERO);
    }
    let started = Instant::now();
    session(version)?;
    Ok(started.elapsed())
}

/// Reads all the bytes that a version is loaded from.
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

/// Decodes hexadecimal digits.
fn unhex(digits: &str) -> Option<Vec<u8>> {
    let pair = |i| digits.get(i..i + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    (0..digits.len()).step_by(2).map(pair).collect()
}

/// Reads stored bytes chunk by chunk.
pub(crate) fn bytes(hash: &[u8]) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    let mut failed = None;
    roles::as_registry_owner(|| {
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
