//! Implements EXPLAIN for a BatchPredict node, and the counters that it shows.
//!
//! Parallel workers keep their counters in shared memory.

use std::ffi::{CStr, c_void};

use pgrx::pg_sys::{self, NodeTag};

use crate::pg::catalog::snapshot;
use crate::pg::node::{is, members};
use crate::pg::{quoting, text};
use crate::planner::node_spec::CallGroup;
use crate::planner::rewrite::node_columns::constant_text;
use crate::scan::state::{BatchScan, scan_of};
use crate::{registry, settings};

/// Counters of one group of calls.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Counters {
    /// Rows received.
    pub(super) rows: u64,
    /// Rows that were not run or failed. Their results are NULL.
    pub(super) nulls: u64,
    /// Rows that failed.
    pub(super) failed: u64,
    pub(super) batches: u64,
    /// Rows that were run.
    pub(super) run: u64,
    pub(super) run_nanos: u64,
    pub(super) wait_nanos: u64,
    pub(super) tokens: u64,
    pub(super) padded: u64,
    /// Peak memory of the rows that waited, in bytes.
    pub(super) peak: u64,
}

impl Counters {
    fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        self.nulls += other.nulls;
        self.failed += other.failed;
        self.batches += other.batches;
        self.run += other.run;
        self.run_nanos += other.run_nanos;
        self.wait_nanos += other.wait_nanos;
        self.tokens += other.tokens;
        self.padded += other.padded;
        self.peak = self.peak.max(other.peak);
    }
}

/// The counters of parallel workers: for each worker, one entry per group.
#[derive(Default)]
pub(super) struct WorkerCounters {
    /// In a worker: its own entries in shared memory.
    pub(crate) mine: Option<*mut Counters>,
    /// In the leader: the entries of all workers in shared memory, and the number of workers.
    pub(crate) all: Option<(*const Counters, usize)>,
    /// In the leader: the counters of each worker, kept after the shared memory is released.
    pub(crate) last: Vec<Vec<Counters>>,
}

impl WorkerCounters {
    /// Publishes a worker's counters to its leader.
    pub(super) fn put(&mut self, counters: impl Iterator<Item = Counters>) {
        if let Some(mine) = self.mine {
            for (i, c) in counters.enumerate() {
                // SAFETY: the worker has an entry for every group, and only this worker writes to it.
                unsafe { mine.add(i).write_volatile(c) };
            }
        }
    }
}

/// Returns the number of planned workers.
unsafe fn planned(parallel: *const pg_sys::ParallelContext) -> usize {
    // SAFETY: PostgreSQL passes the parallel context of the query.
    usize::try_from(unsafe { (*parallel).nworkers }).unwrap_or(0)
}

#[pgrx::pg_guard]
pub(super) unsafe extern "C-unwind" fn estimate(
    node: *mut pg_sys::CustomScanState,
    parallel: *mut pg_sys::ParallelContext,
) -> pg_sys::Size {
    let groups = scan_of(node).map_or(0, |s| s.recipe.groups.len());
    // SAFETY: reads the number of planned workers.
    unsafe { size_of::<Counters>() * groups * planned(parallel) }
}

#[pgrx::pg_guard]
pub(super) unsafe extern "C-unwind" fn initialize(
    node: *mut pg_sys::CustomScanState,
    parallel: *mut pg_sys::ParallelContext,
    memory: *mut c_void,
) {
    if let Some(scan) = scan_of(node) {
        // SAFETY: PostgreSQL allocates as many bytes as `estimate` returned.
        unsafe {
            let workers = planned(parallel);
            std::ptr::write_bytes(memory.cast::<u8>(), 0, size_of::<Counters>() * scan.recipe.groups.len() * workers);
            scan.shared.all = Some((memory.cast(), workers));
        }
    }
}

/// Does nothing: the workers of a rescan write to the entries of the workers before them.
#[pgrx::pg_guard]
pub(super) unsafe extern "C-unwind" fn reinitialize(
    _node: *mut pg_sys::CustomScanState,
    _parallel: *mut pg_sys::ParallelContext,
    _memory: *mut c_void,
) {
}

#[pgrx::pg_guard]
pub(super) unsafe extern "C-unwind" fn join(
    node: *mut pg_sys::CustomScanState,
    _toc: *mut pg_sys::shm_toc,
    memory: *mut c_void,
) {
    if let Some(scan) = scan_of(node) {
        // SAFETY: a worker's number is less than the number of planned workers.
        unsafe {
            let number = usize::try_from(pg_sys::ParallelWorkerNumber).unwrap_or(0);
            scan.shared.mine = Some(memory.cast::<Counters>().add(number * scan.recipe.groups.len()));
        }
    }
}

/// Copies the workers' counters before their shared memory is released.
#[pgrx::pg_guard]
pub(super) unsafe extern "C-unwind" fn collect(node: *mut pg_sys::CustomScanState) {
    let Some(scan) = scan_of(node) else { return };
    let groups = scan.recipe.groups.len();
    if let Some((all, workers)) = scan.shared.all.take() {
        scan.shared.last.resize(workers.max(scan.shared.last.len()), vec![Counters::default(); groups]);
        for (worker, sum) in scan.shared.last.iter_mut().enumerate().take(workers) {
            for (group, sum) in sum.iter_mut().enumerate() {
                // SAFETY: the memory is valid until this callback returns.
                sum.add(&unsafe { all.add(worker * groups + group).read_volatile() });
            }
        }
    }
}

fn put_text(name: &CStr, value: &str, state: *mut pg_sys::ExplainState) {
    let value = text::c(&quoting::printable(value));
    // SAFETY: writes a property to the output of EXPLAIN.
    unsafe { pg_sys::ExplainPropertyText(name.as_ptr(), value.as_ptr(), state) };
}

fn put_number(name: &CStr, value: u64, state: *mut pg_sys::ExplainState) {
    put_integer(name, None, value, state);
}

fn put_integer(name: &CStr, unit: Option<&CStr>, value: u64, state: *mut pg_sys::ExplainState) {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    // SAFETY: as above.
    unsafe { pg_sys::ExplainPropertyInteger(name.as_ptr(), unit.map_or(std::ptr::null(), CStr::as_ptr), value, state) };
}

fn put_float(name: &CStr, unit: &CStr, value: f64, digits: i32, state: *mut pg_sys::ExplainState) {
    // SAFETY: as above.
    unsafe { pg_sys::ExplainPropertyFloat(name.as_ptr(), unit.as_ptr(), value, digits, state) };
}

/// Writes the counters of a group.
fn put_counters(c: &Counters, state: *mut pg_sys::ExplainState) {
    put_number(c"Rows", c.rows, state);
    put_number(c"NULL Rows", c.nulls, state);
    if c.failed > 0 {
        put_number(c"Failed Rows", c.failed, state);
    }
    put_number(c"Batches", c.batches, state);
    put_float(c"Rows per Batch", c"", c.run as f64 / c.batches.max(1) as f64, 1, state);
    // SAFETY: reads an option of EXPLAIN.
    if unsafe { (*state).timing } {
        put_float(c"Inference Time", c"ms", c.run_nanos as f64 / 1e6, 3, state);
        put_float(c"Waited", c"ms", c.wait_nanos as f64 / 1e6, 3, state);
    }
    if c.padded > 0 {
        put_number(c"Tokens", c.tokens, state);
        put_number(c"Padding Tokens", c.padded - c.tokens, state);
    }
    put_integer(c"Peak Memory", Some(c"kB"), c.peak.div_ceil(1024), state);
}

/// Writes what a group runs: model, version, outputs, device, batch size.
fn put_group(
    scan: &BatchScan,
    plan: *mut pg_sys::CustomScan,
    number: usize,
    group: &CallGroup,
    state: *mut pg_sys::ExplainState,
) {
    // SAFETY: the expression of a call's column is the call.
    let (references, mut outputs): (Vec<Option<String>>, Vec<String>) = unsafe {
        group
            .calls
            .iter()
            .map(|call| {
                let f = call.call(plan);
                let model = members::<pg_sys::Node>((*f).args)[0];
                let reference = is(model, NodeTag::T_Const).then(|| constant_text(model)).flatten();
                let output = reference.as_ref().and_then(|r| r.split_once('/')).map(|(_, o)| o.to_owned());
                (
                    reference,
                    output.unwrap_or_else(|| "default".to_owned()) + " as " + call.form.name().trim_end_matches("()"),
                )
            })
            .unzip()
    };
    let streamed = scan.groups.get(number).and_then(|g| g.streamed.as_ref());
    if let Some(streamed) = streamed {
        let names = streamed.columns.iter().filter_map(|c| streamed.definition.columns.get(c.number.checked_sub(1)?));
        outputs = names.map(|c| c.name.clone()).collect();
    }
    // Shows the versions that were run. Before the first run, resolves the reference if a snapshot is active.
    let mut versions = scan.versions(number);
    let reference = references.first().cloned().flatten();
    let mut refusal = None;
    if let (true, true, Some(reference)) = (versions.is_empty(), snapshot::is_active(), &reference) {
        match registry::resolve(reference) {
            Ok(resolved) => versions.push(resolved.version),
            Err(error) => refusal = Some(crate::pg::report::message(error)),
        }
    }
    match (versions.first(), reference, refusal) {
        (None, Some(reference), Some(refusal)) => put_text(c"Model", &format!("{reference} ({refusal})"), state),
        (None, Some(reference), None) => put_text(c"Model", &reference, state),
        (None, None, _) => put_text(c"Model", "known for each row", state),
        (Some(version), ..) => {
            let labels: Vec<String> = versions.iter().map(|v| v.label()).collect();
            put_text(c"Model", &labels.join(", "), state);
            let name = if streamed.is_some() { c"Columns" } else { c"Outputs" };
            if !outputs.is_empty() {
                put_text(name, &outputs.join(", "), state);
            }
            let device =
                settings::device().or(version.options.device).map_or_else(|| "cpu".to_owned(), |d| d.to_string());
            put_text(c"Device", &device, state);
            let size = settings::batch_size().unwrap_or_else(|| version.batch_size()).max(1);
            put_number(c"Batch Size", size as u64, state);
        }
    }
    let how = match (&scan.recipe.one_by_one, group.guard) {
        (Some(reason), _) => format!("row by row: {reason}"),
        (None, Some(_)) => "batched, where its condition holds".to_owned(),
        (None, None) => "batched".to_owned(),
    };
    put_text(c"Calls", &how, state);
}

#[pgrx::pg_guard]
pub(super) unsafe extern "C-unwind" fn explain(
    node: *mut pg_sys::CustomScanState,
    _ancestors: *mut pg_sys::List,
    state: *mut pg_sys::ExplainState,
) {
    let Some(scan) = scan_of(node) else { return };
    // SAFETY: PostgreSQL explains only nodes that have begun.
    unsafe {
        let plan = (*node).ss.ps.plan.cast::<pg_sys::CustomScan>();
        pg_sys::ExplainOpenGroup(c"Predictions".as_ptr(), c"Predictions".as_ptr(), false, state);
        for (i, group) in scan.recipe.groups.iter().enumerate() {
            pg_sys::ExplainOpenGroup(c"Prediction".as_ptr(), std::ptr::null(), true, state);
            put_group(scan, plan, i, group, state);
            if (*state).analyze {
                let mut total = scan.counters(i);
                for worker in &scan.shared.last {
                    total.add(&worker[i]);
                }
                put_counters(&total, state);
                if !scan.shared.last.is_empty() {
                    let each: Vec<String> = scan
                        .shared
                        .last
                        .iter()
                        .enumerate()
                        .map(|(w, c)| format!("{w}: {} rows in {} batches", c[i].rows, c[i].batches))
                        .collect();
                    put_text(c"Prediction Workers", &each.join(", "), state);
                }
            }
            pg_sys::ExplainCloseGroup(c"Prediction".as_ptr(), std::ptr::null(), true, state);
        }
        pg_sys::ExplainCloseGroup(c"Predictions".as_ptr(), c"Predictions".as_ptr(), false, state);
        for left in &scan.recipe.left {
            let model = left.model.as_deref().map(|m| format!("'{m}', ..")).unwrap_or_else(|| "..".to_owned());
            let name = left.form.name().trim_end_matches("()");
            put_text(c"Row by Row", &format!("{name}({model}): {}", left.reason), state);
        }
    }
}
