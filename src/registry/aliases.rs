//! Sets and drops aliases.

use pg_predict_engine::reference::check_alias;

use crate::error::{Error, Result};
use crate::pg::catalog::roles;
use crate::pg::catalog::sql::{self, Mode, Value};
use crate::pg::report;
use crate::registry::history::note;
use crate::registry::rights::own_model;

/// Returns the checks of a model that a version fails, each as a sentence. They run as the caller, who owns the model.
fn failed_checks(name: &str, number: i32) -> Vec<String> {
    let mut any = false;
    roles::as_registry_owner(|| {
        let statement = c"SELECT FROM predict.check_set WHERE model = $1 LIMIT 1";
        sql::run(Mode::Read, statement, &[Value::Text(name)], |_| any = true);
    });
    let mut failed = Vec::new();
    if any {
        sql::run(
            Mode::Write,
            c"SELECT f FROM predict_internal.check_failures($1) f",
            &[Value::Text(&format!("{name}@{number}"))],
            |row| failed.extend(row.text(0)),
        );
    }
    failed
}

/// Points an alias at a version that passes the model's checks. `force`: also if the version fails them.
pub(crate) fn set_alias(name: &str, alias: &str, number: i32, force: bool) -> Result<()> {
    check_alias(alias).map_err(|reason| Error::BadName { what: "an alias", name: alias.to_owned(), reason })?;
    own_model(name, "change")?;
    let mut exists = false;
    roles::as_registry_owner(|| {
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
        report::warn(
            &format!("alias \"{alias}\" of model \"{name}\" is pointed at version {number}, which fails its checks"),
            failing,
            "It was forced; predict.history keeps it.",
        );
    }
    let mut before = None;
    roles::as_registry_owner(|| {
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
    let dropped = roles::as_registry_owner(|| {
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
