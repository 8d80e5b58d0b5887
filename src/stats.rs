//! Counters and running queries as rows, for the views `predict.stat_*`. What is counted, and where, is in `pg/shared.rs`.
//!
//! Who may see a row is decided here for backends (their own role's, or a reader of all statistics) and by the caller of
//! `models` for versions.

use serde::Serialize;

use crate::error::{Error, Result};
use crate::pg::owner;
use crate::pg::shared::{self, Counter, ModelStats};

/// A version's counters. Times of a clock are microseconds from 1970, spans are milliseconds.
#[derive(Serialize)]
struct ModelRow {
    model: String,
    version: i32,
    sha256: String,
    calls: u64,
    rows: u64,
    null_rows: u64,
    failed_rows: u64,
    batches: u64,
    run_time: f64,
    wait_time: f64,
    tokens: u64,
    loads: u64,
    load_time: f64,
    evictions: u64,
    errors: u64,
    last_used: Option<i64>,
    last_error: Option<String>,
    last_error_at: Option<i64>,
    stats_reset: i64,
}

#[derive(Serialize)]
struct SessionRow {
    pid: i32,
    model: String,
    version: i32,
    bytes: usize,
    device: String,
    threads: usize,
    loaded_at: i64,
    last_used: i64,
}

#[derive(Serialize)]
struct ProgressRow {
    pid: i32,
    leader_pid: Option<i32>,
    model: String,
    version: i32,
    form: &'static str,
    phase: &'static str,
    rows_done: u64,
    rows_expected: Option<u64>,
    batches: u64,
    started: i64,
}

fn check() -> Result<()> {
    if shared::is_there() { Ok(()) } else { Err(Error::NotPreloaded) }
}

fn rows<T: Serialize>(rows: &[T]) -> Result<String> {
    serde_json::to_string(rows).map_err(|e| Error::BadBatch { reason: e.to_string() })
}

fn millis(stats: &ModelStats, counter: Counter) -> f64 {
    stats.of(counter) as f64 / 1e6
}

/// The counters of the versions of models that `may_see` lets through, as JSON.
pub(crate) fn models(may_see: impl Fn(&str) -> bool) -> Result<String> {
    check()?;
    let all: Vec<ModelRow> = shared::model_stats()
        .into_iter()
        .filter(|s| may_see(&s.model))
        .map(|s| ModelRow {
            version: s.version,
            sha256: pg_predict_engine::session::hex(&s.hash),
            calls: s.of(Counter::Calls),
            rows: s.of(Counter::Rows),
            null_rows: s.of(Counter::NullRows),
            failed_rows: s.of(Counter::FailedRows),
            batches: s.of(Counter::Batches),
            run_time: millis(&s, Counter::RunNanos),
            wait_time: millis(&s, Counter::WaitNanos),
            tokens: s.of(Counter::Tokens),
            loads: s.of(Counter::Loads),
            load_time: millis(&s, Counter::LoadNanos),
            evictions: s.of(Counter::Evictions),
            errors: s.of(Counter::Errors),
            last_used: Some(s.last_used).filter(|at| *at != 0),
            last_error: s.last_error.as_ref().map(|(said, _)| said.clone()),
            last_error_at: s.last_error.as_ref().map(|(_, at)| *at),
            stats_reset: s.reset,
            model: s.model,
        })
        .collect();
    rows(&all)
}

/// Whether the caller sees what backends of a role do.
fn may_see(role: pgrx::pg_sys::Oid) -> bool {
    owner::caller_reads_all_stats() || owner::caller_is(role)
}

/// The sessions that backends keep, as JSON.
pub(crate) fn sessions() -> Result<String> {
    check()?;
    let mut all = Vec::new();
    for backend in shared::backend_stats().into_iter().filter(|b| may_see(b.role)) {
        all.extend(backend.sessions.into_iter().map(|s| SessionRow {
            pid: backend.pid,
            model: s.model,
            version: s.number,
            bytes: s.bytes,
            device: s.device,
            threads: s.threads,
            loaded_at: s.loaded,
            last_used: s.used,
        }));
    }
    rows(&all)
}

/// The queries that run, as JSON.
pub(crate) fn progress() -> Result<String> {
    check()?;
    let mut all = Vec::new();
    for backend in shared::backend_stats().into_iter().filter(|b| may_see(b.role)) {
        all.extend(backend.queries.into_iter().map(|q| ProgressRow {
            pid: backend.pid,
            leader_pid: Some(backend.leader).filter(|pid| *pid != 0),
            model: q.model,
            version: q.version,
            form: q.form,
            phase: q.phase,
            rows_done: q.rows,
            rows_expected: q.expected,
            batches: q.batches,
            started: q.started,
        }));
    }
    rows(&all)
}

/// Sets counters to zero: those of a model, or all.
pub(crate) fn reset(model: Option<&str>) -> Result<()> {
    check()?;
    shared::reset(model);
    Ok(())
}
