//! What the views of statistics read, and setting them to zero.

use std::cell::RefCell;
use std::collections::HashMap;

use pgrx::pg_sys::Datum;

use crate::error::Result;
use crate::pg::call::{Call, pg_function};
use crate::pg::{emit, owner};
use crate::{registry, stats};

pg_function!(pg_predict_stat_models, pg_finfo_pg_predict_stat_models, models);
pg_function!(pg_predict_stat_sessions, pg_finfo_pg_predict_stat_sessions, sessions);
pg_function!(pg_predict_stat_progress, pg_finfo_pg_predict_stat_progress, progress);
pg_function!(pg_predict_stat_reset, pg_finfo_pg_predict_stat_reset, reset);

fn models(_call: &Call) -> Result<Option<Datum>> {
    let all = owner::caller_reads_all_stats();
    let known: RefCell<HashMap<String, bool>> = RefCell::default();
    let may_see =
        |model: &str| all || *known.borrow_mut().entry(model.to_owned()).or_insert_with(|| registry::may_use(model));
    stats::models(may_see).map(|rows| Some(emit::jsonb(&rows)))
}

fn sessions(_call: &Call) -> Result<Option<Datum>> {
    stats::sessions().map(|rows| Some(emit::jsonb(&rows)))
}

fn progress(_call: &Call) -> Result<Option<Datum>> {
    stats::progress().map(|rows| Some(emit::jsonb(&rows)))
}

fn reset(call: &Call) -> Result<Option<Datum>> {
    let model = call.argument(0).map(|_| call.text(0, "the model's name")).transpose()?;
    stats::reset(model.as_deref()).map(|()| Some(Datum::null()))
}
