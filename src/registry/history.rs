//! Records changes of a model in its history.

use crate::pg::catalog::roles;
use crate::pg::catalog::sql::{self, Mode, Value};

/// Records an action on a model for predict.history.
pub(crate) fn note(model: &str, action: &str, version: Option<i32>, alias: Option<&str>, detail: Option<&str>) {
    let caller = roles::caller();
    let role = roles::role_name(caller);
    roles::as_registry_owner(|| {
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
