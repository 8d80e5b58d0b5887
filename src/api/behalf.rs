//! Writes jobs, runs, checks and baselines for a caller who has no rights to the tables.
//!
//! With rights to a table, any role could lock it, choose ids and record events that never happened. So each write
//! operation is a pair of functions of the same name in the schema `predict_internal`. Everybody may call the first
//! one, which is implemented here. The second one takes the caller before the same arguments, and only the registry's
//! owner may call it. It is written in SQL and checks the rights of the caller.

use std::ffi::CString;

use pgrx::pg_sys::Datum;

use crate::error::{Error, Result};
use crate::pg::call::{Call, pg_function};
use crate::pg::catalog::sql::{self, Mode, Value};
use crate::pg::catalog::{job_lock, roles};

pg_function!(pg_predict_on_behalf, pg_finfo_pg_predict_on_behalf, on_behalf);
pg_function!(pg_predict_lock_job, pg_finfo_pg_predict_lock_job, lock_job);
pg_function!(pg_predict_unlock_job, pg_finfo_pg_predict_unlock_job, unlock_job);

/// Calls the function of the same name for the caller, as the registry's owner. Its result is a bigint.
fn on_behalf(call: &Call) -> Result<Option<Datum>> {
    let (name, types) = call.function();
    let parameters = (2..types.len() + 2).map(|i| format!(", ${i}")).collect::<String>();
    let statement = CString::new(format!("SELECT predict_internal.{name}($1{parameters})"))
        .map_err(|e| Error::Plan { reason: e.to_string() })?;
    let mut values = vec![Value::Oid(roles::caller())];
    values.extend(types.iter().enumerate().map(|(i, oid)| Value::Given(*oid, call.argument(i))));
    let mut result = None;
    roles::as_registry_owner(|| sql::run(Mode::Write, &statement, &values, |row| result = row.big(0)));
    Ok(result.map(Datum::from))
}

/// Whether the caller owns a job.
fn is_own(job: i32) -> bool {
    let caller = roles::caller();
    let mut owned = false;
    roles::as_registry_owner(|| {
        let statement = c"SELECT owner::oid FROM predict.job WHERE id = $1";
        sql::run(Mode::Read, statement, &[Value::Int(job)], |row| owned = row.oid(0) == Some(caller));
    });
    owned
}

/// Takes the lock of a job for this session. Returns false if the job is another role's or another session has it.
fn lock_job(call: &Call) -> Result<Option<Datum>> {
    let job = call.int(0).ok_or(Error::NullArgument { what: "the job" })?;
    Ok(Some((is_own(job) && job_lock::take(job)).into()))
}

/// Releases the lock of a job.
fn unlock_job(call: &Call) -> Result<Option<Datum>> {
    let job = call.int(0).ok_or(Error::NullArgument { what: "the job" })?;
    Ok(Some(job_lock::give_back(job).into()))
}
