//! Returns counters, sessions and running queries as JSON rows for the views `predict.stat_*`.
//!
//! `runtime/shared_memory.rs` describes the counters. This file decides which backends a caller may see: those of roles
//! whose privileges the caller has, or all for readers of all statistics. The caller of `models` decides which versions
//! a caller may see.

use serde::Serialize;

use crate::error::{Error, Result};
use crate::pg::catalog::roles;
use crate::runtime::model_counters::{Counter, ModelStats};
use crate::runtime::shared_memory;
use crate::runtime::{activity, model_counters};

/// The counters of a version. Timestamps are microseconds since 1970, durations are milliseconds.
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
    process_crashes: u64,
    process_kills: u64,
    process_cancels: u64,
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

/// A model process. Its memory is what its private and shared pages take now, in bytes.
#[derive(Serialize)]
struct ProcessRow {
    pid: i32,
    backend_pid: i32,
    memory: Option<u64>,
    models: usize,
    last_used: Option<i64>,
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
    if shared_memory::is_there() { Ok(()) } else { Err(Error::NotPreloaded) }
}

fn rows<T: Serialize>(rows: &[T]) -> Result<String> {
    serde_json::to_string(rows).map_err(|e| Error::BadBatch { reason: e.to_string() })
}

fn millis(stats: &ModelStats, counter: Counter) -> f64 {
    stats.of(counter) as f64 / 1e6
}

/// Returns, as JSON, the counters of the versions of all models that `may_see` accepts.
pub(crate) fn models(may_see: impl Fn(&str) -> bool) -> Result<String> {
    check()?;
    let all: Vec<ModelRow> = model_counters::model_stats()
        .into_iter()
        .filter(|s| may_see(&s.model))
        .map(|s| ModelRow {
            version: s.version,
            sha256: pg_predict_engine::hash::hex(&s.hash),
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
            process_crashes: s.of(Counter::ProcessCrashes),
            process_kills: s.of(Counter::ProcessKills),
            process_cancels: s.of(Counter::ProcessCancels),
            last_used: Some(s.last_used).filter(|at| *at != 0),
            last_error: s.last_error.as_ref().map(|(said, _)| said.clone()),
            last_error_at: s.last_error.as_ref().map(|(_, at)| *at),
            stats_reset: s.reset,
            model: s.model,
        })
        .collect();
    rows(&all)
}

/// Whether the caller may see the activity of backends of this role.
fn may_see(role: pgrx::pg_sys::Oid) -> bool {
    roles::caller_reads_all_stats() || roles::caller_is(role)
}

/// Returns the loaded sessions of all visible backends as JSON.
pub(crate) fn sessions() -> Result<String> {
    check()?;
    let mut all = Vec::new();
    for backend in activity::backend_stats().into_iter().filter(|b| may_see(b.role)) {
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

/// Returns the model processes of all visible backends as JSON. A process that has ended is left out.
pub(crate) fn processes() -> Result<String> {
    check()?;
    let visible = activity::backend_stats().into_iter().filter(|b| b.process != 0 && may_see(b.role));
    let all: Vec<ProcessRow> = visible
        .filter_map(|b| {
            let memory = resident(b.process)?;
            Some(ProcessRow {
                pid: b.process,
                backend_pid: b.pid,
                memory: Some(memory),
                models: b.sessions.len(),
                last_used: b.sessions.iter().map(|s| s.used).max(),
            })
        })
        .collect();
    rows(&all)
}

/// Returns the resident memory of a process in bytes, or `None` if it has ended.
fn resident(pid: i32) -> Option<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    // A process that has ended but was not waited for has no pages.
    (pages > 0).then(|| pages * 4096)
}

/// Returns the running queries of all visible backends as JSON.
pub(crate) fn progress() -> Result<String> {
    check()?;
    let mut all = Vec::new();
    for backend in activity::backend_stats().into_iter().filter(|b| may_see(b.role)) {
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

/// Resets the counters of one model, or of all models.
pub(crate) fn reset(model: Option<&str>) -> Result<()> {
    check()?;
    model_counters::reset(model);
    Ok(())
}
