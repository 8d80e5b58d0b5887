//! Writing for a caller who has no right to the tables: jobs, runs, checks, baselines.
//!
//! Rights to a table would let anybody lock it, choose ids and write down what never happened. So each way to write is a
//! pair of functions of one name in the schema `predict`: one that everybody may call, which comes here, and one with the caller
//! before the same arguments, which only the registry's owner may call; it is written in SQL and checks what the caller may.

use std::ffi::CString;

use pgrx::pg_sys::Datum;

use crate::error::{Error, Result};
use crate::pg::call::{Call, pg_function};
use crate::pg::sql::{self, Mode, Value};
use crate::pg::{joblock, owner};

pg_function!(pg_predict_on_behalf, pg_finfo_pg_predict_on_behalf, on_behalf);
pg_function!(pg_predict_lock_job, pg_finfo_pg_predict_lock_job, lock_job);
pg_function!(pg_predict_unlock_job, pg_finfo_pg_predict_unlock_job, unlock_job);

/// Calls the function of the same name for the caller, as the registry's owner; what it gives is a bigint.
fn on_behalf(call: &Call) -> Result<Option<Datum>> {
    let (name, types) = call.function();
    let parameters = (2..types.len() + 2).map(|i| format!(", ${i}")).collect::<String>();
    let statement = CString::new(format!("SELECT predict.{name}($1{parameters})"))
        .map_err(|e| Error::Plan { reason: e.to_string() })?;
    let mut values = vec![Value::Oid(owner::caller())];
    values.extend(types.iter().enumerate().map(|(i, oid)| Value::Given(*oid, call.argument(i))));
    let mut result = None;
    owner::as_registry_owner(|| sql::run(Mode::Write, &statement, &values, |row| result = row.big(0)));
    Ok(result.map(Datum::from))
}

/// Whether a job is the caller's own.
fn is_own(job: i32) -> bool {
    let caller = owner::caller();
    let mut owned = false;
    owner::as_registry_owner(|| {
        let statement = c"SELECT owner::oid FROM predict.job WHERE id = $1";
        sql::run(Mode::Read, statement, &[Value::Int(job)], |row| owned = row.oid(0) == Some(caller));
    });
    owned
}

/// Takes the lock of a job of the caller's for this session; false where another one has it.
fn lock_job(call: &Call) -> Result<Option<Datum>> {
    let job = call.int(0).ok_or(Error::NullArgument { what: "the job" })?;
    Ok(Some((is_own(job) && joblock::take(job)).into()))
}

/// Gives the lock of a job back.
fn unlock_job(call: &Call) -> Result<Option<Datum>> {
    let job = call.int(0).ok_or(Error::NullArgument { what: "the job" })?;
    Ok(Some(joblock::give_back(job).into()))
}
