//! The registry: models, versions, aliases and who may use them; resolving a reference, fetching bytes.
//!
//! The tables belong to the extension's owner and PUBLIC cannot read them: this file reads and writes them as their
//! owner, after checking the caller. What a query reads, it reads under its own snapshot, so a reference means the same
//! version from its first row to its last.

use std::cell::RefCell;
use std::sync::Arc;

use pg_predict_engine::options::Options;
use pg_predict_engine::reference::{Reference, Selection, VersionRef, check_alias, check_name};
use pg_predict_engine::session::content_hash;
use pg_predict_engine::signature::Signature;
use pg_predict_engine::version::Version;
use pgrx::pg_sys::Oid;

use crate::error::{self, Error, Result, of_model};
use crate::pg::owner;
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
    /// Versions already parsed, with the texts that they were parsed from: a number can come back with other options
    /// after its model was dropped, or its creation rolled back.
    static PARSED: RefCell<Vec<(String, String, Arc<Version>)>> = const { RefCell::new(Vec::new()) };
}

/// What the tables say of a reference.
struct Found {
    number: Option<i32>,
    hash: Option<[u8; 32]>,
    signature: String,
    options: String,
    /// Those who may use the model.
    roles: Vec<Oid>,
}

/// How many parsed versions are kept.
const PARSED_KEPT: usize = 64;

/// Resolves a reference under the snapshot of the query, and checks that the caller may use the model.
pub(crate) fn resolve(text: &str) -> Result<Resolved> {
    let reference = Reference::parse(text)?;
    let (number, alias) = match &reference.version {
        VersionRef::Number(n) => (Some(*n), None),
        VersionRef::Alias(a) => (None, Some(a.as_str())),
    };
    let mut found: Option<Found> = None;
    owner::as_registry_owner(|| {
        sql::run(
            Mode::Read,
            c"SELECT v.number, v.hash, p.role::oid, v.signature::text, v.options::text
                FROM predict.model m
                LEFT JOIN predict.version v ON v.model = m.name AND v.number = coalesce($2,
                          (SELECT a.version FROM predict.alias a WHERE a.model = m.name AND a.alias = $3))
                LEFT JOIN predict.privilege p ON p.model = m.name
               WHERE m.name = $1",
            &[Value::Text(&reference.name), Value::OptionalInt(number), Value::OptionalText(alias)],
            |row| {
                let found = found.get_or_insert_with(|| Found {
                    number: row.int(0),
                    hash: row.bytes(1, |b| b.try_into().ok()).flatten(),
                    signature: row.text(3).unwrap_or_default(),
                    options: row.text(4).unwrap_or_default(),
                    roles: Vec::new(),
                });
                found.roles.extend(row.oid(2));
            },
        );
    });
    let Some(Found { number, hash, roles, signature, options }) = found else {
        return Err(Error::NoModel { name: reference.name });
    };
    if !roles.iter().any(|r| owner::caller_is(*r)) && !owner::caller_is_superuser() {
        return Err(Error::NotPermitted { model: reference.name, verb: "use" });
    }
    let (Some(number), Some(hash)) = (number, hash) else {
        return Err(match reference.version {
            VersionRef::Number(version) => Error::NoVersion { model: reference.name, version },
            VersionRef::Alias(alias) => Error::NoAlias { model: reference.name, alias },
        });
    };
    let version = version(&reference.name, number, hash, signature, options)?;
    let selection = reference.select(&version.signature).map_err(of_model(&version.label()))?;
    Ok(Resolved { names_output: reference.output.is_some(), version, selection })
}

/// A version, parsed once.
fn version(model: &str, number: i32, hash: [u8; 32], signature: String, options: String) -> Result<Arc<Version>> {
    let same = |(s, o, v): &&(String, String, Arc<Version>)| {
        v.hash == hash && v.number == number && v.model == model && *s == signature && *o == options
    };
    if let Some(version) = PARSED.with_borrow(|all| all.iter().find(same).map(|(_, _, v)| Arc::clone(v))) {
        return Ok(version);
    }
    let damaged =
        |_| Error::from(pg_predict_engine::Error::Corrupt { what: "the signature of a version cannot be read".into() });
    let version = Arc::new(Version {
        model: model.to_owned(),
        number,
        hash,
        signature: serde_json::from_str::<Signature>(&signature).map_err(damaged)?,
        options: serde_json::from_str::<Options>(&options).map_err(damaged)?,
    });
    PARSED.with_borrow_mut(|all| {
        if all.len() >= PARSED_KEPT {
            all.remove(0);
        }
        all.push((signature, options, Arc::clone(&version)));
    });
    Ok(version)
}

/// Reads the bytes of a version, chunk by chunk.
pub(crate) fn bytes(version: &Version) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    let mut failed = None;
    owner::as_registry_owner(|| {
        let mut size = 0;
        sql::run(
            Mode::Read,
            c"SELECT bytes FROM predict.content WHERE hash = $1",
            &[Value::Bytes(&version.hash)],
            |row| {
                size = usize::try_from(row.big(0).unwrap_or(0)).unwrap_or(0);
            },
        );
        if content.try_reserve_exact(size).is_err() {
            failed = Some(pg_predict_engine::Error::OutOfMemory { what: "the model's bytes".into(), bytes: size });
            return;
        }
        sql::scan(
            c"SELECT data FROM predict.chunk WHERE hash = $1 ORDER BY position",
            &[Value::Bytes(&version.hash)],
            |row| {
                row.bytes(0, |b| content.extend_from_slice(b));
            },
        );
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

/// Stores a tried model as a new version, and gives its number.
pub(crate) fn create(name: &str, model: &[u8], options: &serde_json::Value) -> Result<i32> {
    check_name(name).map_err(|reason| Error::BadName { what: "a model", name: name.to_owned(), reason })?;
    let options = Options::parse(options)?;
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
    let signature = crate::pg::probe::run(model, &options)?;
    crate::pg::convert::check_defaults(&options, &signature.inputs)?;
    warn_of(name, &signature, &options);

    let hash = content_hash(model);
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
        store_content(&hash, model);
        sql::run(
            Mode::Write,
            c"UPDATE predict.model SET last_version = last_version + 1 WHERE name = $1 RETURNING last_version",
            &[Value::Text(name)],
            |row| number = row.int(0).unwrap_or(0),
        );
        sql::run(
            Mode::Write,
            c"INSERT INTO predict.version (model, number, hash, signature, options, created_by)
              VALUES ($1, $2, $3, $4::jsonb, $5::jsonb, $6::name)",
            &[
                Value::Text(name),
                Value::Int(number),
                Value::Bytes(&hash),
                Value::Text(&signature),
                Value::Text(&options),
                Value::Text(&caller_name),
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
    Ok(number)
}

/// Says what the owner of a new version should know.
fn warn_of(name: &str, signature: &Signature, options: &Options) {
    if signature.batch_sensitive && options.batch_size.is_none() {
        error::warn(
            &format!("model \"{name}\" answers a row differently in different batches, so its rows are run one by one"),
            "Dynamically quantised models do so.",
            "The option \"batch_size\" runs it in batches all the same.",
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
            &[Value::Bytes(hash), Value::Big(model.len() as i64)],
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
            &[Value::Bytes(hash), Value::Int(position as i32), Value::Bytes(data)],
            |_| {},
        );
    }
}

/// Stores a file of the server as a new version.
pub(crate) fn create_from_file(name: &str, path: &str, options: &serde_json::Value) -> Result<i32> {
    if !owner::caller_reads_files() {
        return Err(Error::NoFilePermission);
    }
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
    let content = std::fs::read(path).map_err(|e| failed(e.to_string()))?;
    create(name, &content, options)
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
               WHERE c.hash = $1 AND NOT EXISTS (SELECT FROM predict.version v WHERE v.hash = c.hash)",
            &hash,
            |_| {},
        );
        if dropped > 0 {
            sql::run(Mode::Write, c"DELETE FROM predict.chunk WHERE hash = $1", &hash, |_| {});
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
            sql::run(Mode::Write, c"DELETE FROM predict.version WHERE model = $1 RETURNING hash", &name, |row| {
                hashes.extend(row.bytes(0, <[u8]>::to_vec));
            });
            sql::run(Mode::Write, c"DELETE FROM predict.model WHERE name = $1", &name, |_| {});
            drop_orphans(hashes);
        });
        return Ok(());
    };
    let mut aliases = Vec::new();
    let mut dropped = 0;
    owner::as_registry_owner(|| {
        let values = [Value::Text(name), Value::Int(number)];
        sql::run(
            Mode::Write,
            c"SELECT alias FROM predict.alias WHERE model = $1 AND version = $2 ORDER BY alias",
            &values,
            |row| aliases.extend(row.text(0)),
        );
        if aliases.is_empty() {
            dropped = sql::run(
                Mode::Write,
                c"DELETE FROM predict.version WHERE model = $1 AND number = $2 RETURNING hash",
                &values,
                |row| hashes.extend(row.bytes(0, <[u8]>::to_vec)),
            );
            drop_orphans(hashes);
        }
    });
    if !aliases.is_empty() {
        return Err(Error::AliasNames { model: name.to_owned(), version: number, aliases });
    }
    if dropped == 0 {
        return Err(Error::NoVersion { model: name.to_owned(), version: number });
    }
    Ok(())
}

/// Points an alias at a version.
pub(crate) fn set_alias(name: &str, alias: &str, number: i32) -> Result<()> {
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
        if exists {
            sql::run(
                Mode::Write,
                c"INSERT INTO predict.alias VALUES ($1, $2, $3)
                  ON CONFLICT (model, alias) DO UPDATE SET version = excluded.version",
                &[Value::Text(name), Value::Text(alias), Value::Int(number)],
                |_| {},
            );
        }
    });
    if exists { Ok(()) } else { Err(Error::NoVersion { model: name.to_owned(), version: number }) }
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
    Ok(())
}

/// Lets a role use a model, or takes that away.
pub(crate) fn set_usage(name: &str, role: &str, grant: bool) -> Result<()> {
    own_model(name, "grant the use of")?;
    let role = owner::role_named(role).ok_or_else(|| Error::NoRole { role: role.to_owned() })?;
    let statement = if grant {
        c"INSERT INTO predict.privilege VALUES ($1, $2::oid::regrole, 'usage') ON CONFLICT DO NOTHING"
    } else {
        c"DELETE FROM predict.privilege WHERE model = $1 AND role = $2::oid::regrole AND privilege = 'usage'"
    };
    owner::as_registry_owner(|| {
        sql::run(Mode::Write, statement, &[Value::Text(name), Value::Oid(role)], |_| {});
    });
    Ok(())
}
