//! Drops models and versions.

use crate::error::{Error, Result};
use crate::pg::catalog::roles;
use crate::pg::catalog::sql::{self, Mode, Value};
use crate::registry::history::note;
use crate::registry::rights::own_model;
use crate::settings;

/// Drops contents that no version uses any more. First waits for transactions that are about to use one of them again.
fn drop_orphans(mut hashes: Vec<Vec<u8>>) {
    // Contents are locked in the order of their hashes everywhere, so that concurrent drops cannot deadlock.
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
            // If the drop is rolled back or another database uses the content, the files are created again.
            if let [Value::Bytes(hash)] = hash {
                settings::files().iter().for_each(|files| files.drop_model(hash));
            }
        }
    }
}

/// Drops a model, or one version of it.
pub(crate) fn drop_model(name: &str, version: Option<i32>) -> Result<()> {
    own_model(name, "drop")?;
    let mut hashes = Vec::new();
    let Some(number) = version else {
        roles::as_registry_owner(|| {
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
    roles::as_registry_owner(|| {
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

/// Drops the checks and the baseline of a model. Its history stays, marked so that it does not count as that of a later
/// model of the same name.
fn drop_trust(name: &[Value<'_>]) {
    sql::run(Mode::Write, c"DELETE FROM predict.check_row WHERE model = $1", name, |_| {});
    sql::run(Mode::Write, c"DELETE FROM predict.check_result WHERE model = $1", name, |_| {});
    sql::run(Mode::Write, c"DELETE FROM predict.check_set WHERE model = $1", name, |_| {});
    sql::run(Mode::Write, c"DELETE FROM predict.baseline WHERE model = $1", name, |_| {});
    sql::run(Mode::Write, c"UPDATE predict.event SET gone = true WHERE model = $1 AND NOT gone", name, |_| {});
}

/// Drops privileges of roles that no longer exist. A later role with the same OID must not inherit them.
pub(crate) fn drop_strays(name: &str) {
    let statement = c"DELETE FROM predict.privilege p
                       WHERE p.model = $1 AND p.role <> 0 AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = p.role)";
    sql::run(Mode::Write, statement, &[Value::Text(name)], |_| {});
}
