//! Checks, grants and revokes the rights to use, change and drop a model.

use pgrx::pg_sys::Oid;

use crate::error::{Error, Result};
use crate::pg::catalog::roles;
use crate::pg::catalog::sql::{self, Mode, Value};
use crate::pg::quoting;
use crate::registry::history::note;
use crate::registry::removal::drop_strays;

/// Whether the caller owns a model.
pub(crate) fn owns(name: &str) -> bool {
    has_privilege(name, true)
}

/// Whether the caller may use a model.
pub(crate) fn may_use(name: &str) -> bool {
    has_privilege(name, false)
}

fn has_privilege(name: &str, as_owner: bool) -> bool {
    if roles::caller_is_superuser() {
        return true;
    }
    let mut roles = Vec::new();
    roles::as_registry_owner(|| {
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
    roles.into_iter().any(roles::caller_is)
}

/// Locks a model against changes until the transaction ends, and returns its owners. None if there is no such model.
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

/// Locks a model and checks that the caller owns it.
pub(crate) fn own_model(name: &str, verb: &'static str) -> Result<()> {
    // `caller_is` must run outside `as_registry_owner`, which changes the current user.
    let owners =
        roles::as_registry_owner(|| lock_model(name)).ok_or_else(|| Error::NoModel { name: name.to_owned() })?;
    if owners.iter().any(|r| roles::caller_is(*r)) || roles::caller_is_superuser() {
        Ok(())
    } else {
        Err(Error::NotPermitted { model: name.to_owned(), verb })
    }
}

/// Grants a role the use of a model, or revokes it.
pub(crate) fn set_usage(name: &str, role: &str, grant: bool) -> Result<()> {
    own_model(name, "grant the use of")?;
    let named = role;
    let role = roles::role_named(role).ok_or_else(|| Error::NoRole { role: role.to_owned() })?;
    let statement = if grant {
        c"INSERT INTO predict.privilege VALUES ($1, $2::oid::regrole, 'usage') ON CONFLICT DO NOTHING"
    } else {
        c"DELETE FROM predict.privilege WHERE model = $1 AND role = $2::oid::regrole AND privilege = 'usage'"
    };
    roles::as_registry_owner(|| {
        drop_strays(name);
        sql::run(Mode::Write, statement, &[Value::Text(name), Value::Oid(role)], |_| {});
    });
    let action = if grant { "grant usage" } else { "revoke usage" };
    note(name, action, None, None, Some(&format!("Role {}.", quoting::identifier(named))));
    Ok(())
}
