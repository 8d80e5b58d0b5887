//! Reads the statistics for their views, and resets them.

use std::cell::RefCell;
use std::collections::HashMap;

use pgrx::pg_sys::Datum;

use crate::error::Result;
use crate::pg::call::{Call, pg_function};
use crate::pg::catalog::roles;
use crate::results::output_values;
use crate::runtime::model_process;
use crate::{registry, stats};

pg_function!(pg_predict_stat_models, pg_finfo_pg_predict_stat_models, models);
pg_function!(pg_predict_stat_sessions, pg_finfo_pg_predict_stat_sessions, sessions);
pg_function!(pg_predict_stat_progress, pg_finfo_pg_predict_stat_progress, progress);
pg_function!(pg_predict_model_processes, pg_finfo_pg_predict_model_processes, processes);
pg_function!(pg_predict_sandbox, pg_finfo_pg_predict_sandbox, sandbox);
pg_function!(pg_predict_end_model_process, pg_finfo_pg_predict_end_model_process, end_process);
pg_function!(pg_predict_stat_reset, pg_finfo_pg_predict_stat_reset, reset);

fn models(_call: &Call) -> Result<Option<Datum>> {
    let all = roles::caller_reads_all_stats();
    let known: RefCell<HashMap<String, bool>> = RefCell::default();
    let may_see =
        |model: &str| all || *known.borrow_mut().entry(model.to_owned()).or_insert_with(|| registry::may_use(model));
    stats::models(may_see).map(|rows| Some(output_values::jsonb(&rows)))
}

fn sessions(_call: &Call) -> Result<Option<Datum>> {
    stats::sessions().map(|rows| Some(output_values::jsonb(&rows)))
}

fn progress(_call: &Call) -> Result<Option<Datum>> {
    stats::progress().map(|rows| Some(output_values::jsonb(&rows)))
}

fn processes(_call: &Call) -> Result<Option<Datum>> {
    stats::processes().map(|rows| Some(output_values::jsonb(&rows)))
}

/// Starts the model process if it does not run, and returns what its sandbox enforces.
fn sandbox(_call: &Call) -> Result<Option<Datum>> {
    let (pid, report) = model_process::sandbox()?;
    let report = report.map(|r| (r.landlock, r.seccomp, r.address_space, r.private_memory));
    let (landlock, seccomp, address_space, private_memory) = report.unwrap_or_default();
    let text = serde_json::json!({
        "pid": pid,
        "landlock": landlock,
        "seccomp": seccomp,
        "address_space": address_space,
        "private_memory": private_memory,
    });
    Ok(Some(output_values::jsonb(&text.to_string())))
}

fn end_process(_call: &Call) -> Result<Option<Datum>> {
    Ok(Some(model_process::end().into()))
}

fn reset(call: &Call) -> Result<Option<Datum>> {
    let model = call.argument(0).map(|_| call.text(0, "the model's name")).transpose()?;
    stats::reset(model.as_deref()).map(|()| Some(Datum::null()))
}
