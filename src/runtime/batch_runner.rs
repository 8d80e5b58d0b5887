//! Runs the batches of one model for a query: its session, its inference thread and the limits of a batch.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pg_predict_engine::batch::{Batch, Values};
use pg_predict_engine::encoding::layout::Layout;
use pg_predict_engine::options::OnError;
use pg_predict_engine::reference::Selection;
use pg_predict_engine::run::pipeline::Pipeline;
use pg_predict_engine::run::{RunContext, RunOutput, row_bytes};
use pg_predict_engine::signature::Output;
use pg_predict_engine::version::Version;
use pgrx::pg_sys::Datum;

use crate::error::{Error, Result, of_model};
use crate::pg::report;
use crate::rows::binding::Carried;
use crate::rows::row_buffer::Bounds;
use crate::runtime::activity::{Phase, ProgressWatch, QueryForm};
use crate::runtime::process_runs::ProcessRuns;
use crate::runtime::sessions::{self, LoadedModel};
use crate::settings;

/// The number of batches that may be submitted before the first must be collected. With one batch waiting, the
/// inference thread continues while the backend processes the results of another.
const MOST_UNDER_WAY: usize = 2;
/// Total time in microseconds that a query may run batches on the main thread of the backend. A query that finishes
/// within it needs no inference thread.
const SHORT_QUERY: f64 = 2000.0;
/// Beyond SHORT_QUERY, a run must be shorter than the cost of handing it to the inference thread, in microseconds.
const SHORT_RUN: f64 = 50.0;

/// The specification of a run: what is the same for every query of the same outputs of a version.
pub(crate) struct RunSpec {
    pub(crate) version: Arc<Version>,
    /// The name for messages.
    pub(crate) label: String,
    /// The requested outputs.
    pub(crate) outputs: Vec<Output>,
    pub(crate) wanted: Arc<[bool]>,
    /// Whether runs must not use the main thread: the model may divide integers, which can trap, or a text may be long.
    off_thread: bool,
}

impl RunSpec {
    /// Creates the specification for the requested outputs.
    pub(crate) fn new(version: Arc<Version>, wanted: &[bool]) -> Arc<Self> {
        let signature = &version.signature;
        let outputs = signature.outputs.iter().zip(wanted).filter(|(_, w)| **w).map(|(o, _)| o.clone()).collect();
        let off_thread = signature.has_operator(&["Div", "Mod"]) || signature.takes_text();
        Arc::new(Self { label: version.label(), outputs, wanted: wanted.into(), off_thread, version })
    }

    /// The layout of results. The output of the selection is an index into the requested outputs.
    pub(crate) fn layout(&self, selection: &Selection, carried: Vec<Carried>, unbound: bool) -> Layout {
        Layout {
            model: self.version.model.clone(),
            version: self.version.number,
            outputs: self.outputs.clone(),
            selected: selection.output,
            element: selection.element.as_ref().map(Into::into),
            carried,
            named: false,
            unbound,
        }
    }
}

/// Where batches run.
enum Runs {
    /// In this process.
    Backend(Pipeline),
    /// In the model process.
    Process(ProcessRuns),
}

/// Runs the batches of a version.
pub(crate) struct BatchRunner {
    pub(crate) spec: Arc<RunSpec>,
    /// Maximum number of rows in a batch.
    pub(crate) batch_size: usize,
    /// Maximum size of a batch in bytes.
    pub(crate) max_bytes: usize,
    runs: Runs,
    /// The size in bytes of each submitted batch.
    under_way: VecDeque<usize>,
    /// Total time of the runs on the main thread.
    here: Duration,
    /// Whether the warning about a failed row has been reported.
    has_warned: bool,
    watch: ProgressWatch,
}

impl BatchRunner {
    /// The limits of a batch.
    pub(crate) fn bounds(&self) -> Bounds {
        Bounds { rows: self.batch_size, bytes: self.max_bytes }
    }

    /// Creates a runner for a session and a specification. `expected` is the planner's estimate of rows.
    pub(crate) fn new(
        spec: Arc<RunSpec>,
        session: Arc<LoadedModel>,
        form: QueryForm,
        expected: Option<f64>,
    ) -> Result<Self> {
        let watch = ProgressWatch::new(&spec.version, form, expected);
        Self::with(spec, session, watch, false)
    }

    /// Like `new`, but a failing batch returns the rows before the first row that fails on its own, and reports that
    /// row.
    pub(crate) fn finding_failure(
        spec: Arc<RunSpec>,
        session: Arc<LoadedModel>,
        expected: Option<f64>,
    ) -> Result<Self> {
        let watch = ProgressWatch::new(&spec.version, QueryForm::Scan, expected);
        Self::with(spec, session, watch, true)
    }

    fn with(spec: Arc<RunSpec>, session: Arc<LoadedModel>, watch: ProgressWatch, finds_failure: bool) -> Result<Self> {
        let row_bytes = row_bytes(&spec.version).map_err(of_model(&spec.label))?;
        let runs = match &*session {
            LoadedModel::Process(_) => Runs::Process(ProcessRuns::new(Arc::clone(&spec), session, finds_failure)),
            LoadedModel::Backend(session) => {
                let (session, version) = (Arc::clone(session), Arc::clone(&spec.version));
                let work = RunContext::new(session, version, Arc::clone(&spec.wanted));
                let work = work.map(|work| if finds_failure { work.finding_failure() } else { work });
                Runs::Backend(work.and_then(Pipeline::new).map_err(of_model(&spec.label))?)
            }
        };
        let max_bytes = settings::max_batch_memory();
        let fit = max_bytes / row_bytes.max(1);
        Ok(Self {
            batch_size: settings::batch_size().unwrap_or_else(|| spec.version.batch_size()).min(fit).max(1),
            max_bytes,
            runs,
            under_way: VecDeque::with_capacity(MOST_UNDER_WAY),
            here: Duration::ZERO,
            has_warned: false,
            watch,
            spec,
        })
    }

    /// Returns the output of a batch in which no row is run.
    pub(crate) fn nothing(&self) -> RunOutput {
        let values = self.spec.outputs.iter().map(Values::none).collect();
        RunOutput { values, failed: Vec::new(), broken: None, tokens: Default::default() }
    }

    /// Whether this many rows may run on the main thread. Their expected time must be short: see `SHORT_QUERY` and
    /// `SHORT_RUN`.
    pub(crate) fn is_short(&self, rows: usize) -> bool {
        let Runs::Backend(pipeline) = &self.runs else { return false };
        let signature = &self.spec.version.signature;
        let micros = signature.single_micros.max(signature.row_micros * rows as f64);
        let so_far = self.here.as_secs_f64() * 1e6;
        let short = micros < SHORT_RUN || so_far + micros < SHORT_QUERY;
        signature.verified && short && !self.spec.off_thread && pipeline.is_free()
    }

    /// Runs a batch on the main thread. `is_short` must be true. Returns its output and the times.
    pub(crate) fn run_here(&mut self, batch: &Batch) -> Result<(RunOutput, Took)> {
        let Runs::Backend(pipeline) = &self.runs else {
            return Err(pg_predict_engine::Error::Run { reason: "the model is not in this process".to_owned() }.into());
        };
        let started = Instant::now();
        let ran = pipeline.run_here(batch);
        let took = started.elapsed();
        self.here += took;
        let ran = self.seen(ran)?;
        self.watch.batch(took, took, ran.tokens.own);
        Ok((ran, Took { run: took, wait: took }))
    }

    /// Adds the label of the model to an error of a run, and counts the error.
    fn seen(&self, ran: pg_predict_engine::Result<RunOutput>) -> Result<RunOutput> {
        ran.map_err(|error| {
            let error = of_model(&self.spec.label)(error);
            self.watch.failed(&report::in_a_line(error.clone()));
            error
        })
    }

    /// Counts finished rows: `nulls` of them are NULL, `failed` of them failed. Reports progress if the setting asks
    /// for it.
    pub(crate) fn count(&mut self, rows: usize, nulls: usize, failed: usize) {
        self.watch.rows(rows, nulls, failed);
        if let Some((rows, expected, time)) = self.watch.progress(settings::progress_interval()) {
            report::progress(&self.spec.label, rows, expected, time);
        }
    }

    /// Counts the error of a row that ended its batch.
    pub(crate) fn count_failure(&self, error: &Error) {
        self.watch.failed(&report::in_a_line(error.clone()));
    }

    /// Whether a batch of this size may be submitted before another is collected. All submitted batches together stay
    /// within the memory limit of one batch.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        let held: usize = self.under_way.iter().sum();
        self.under_way.is_empty() || self.under_way.len() < MOST_UNDER_WAY && held + bytes <= self.max_bytes
    }

    /// Submits a batch to the inference thread or to the model process. `has_room` must be true.
    pub(crate) fn submit(&mut self, batch: Batch) -> Result<()> {
        let bytes = batch.bytes();
        match &mut self.runs {
            Runs::Backend(pipeline) => pipeline.submit(batch).map_err(of_model(&self.spec.label))?,
            Runs::Process(runs) => runs.submit(batch).inspect_err(|error| {
                self.watch.failed(&report::in_a_line(error.clone()));
            })?,
        }
        self.under_way.push_back(bytes);
        Ok(())
    }

    /// Waits for the first submitted batch. Returns the batch, its results and the times of waiting and running.
    pub(crate) fn collect(&mut self) -> Result<(Batch, RunOutput, Took)> {
        let started = Instant::now();
        let watch = &self.watch;
        let each_tick = |tokenising| watch.phase(if tokenising { Phase::Tokenising } else { Phase::Running });
        let done = match &mut self.runs {
            Runs::Backend(pipeline) => sessions::collect(pipeline, &self.spec.label, each_tick)?,
            Runs::Process(runs) => runs.collect(each_tick).inspect_err(|error| {
                watch.failed(&report::in_a_line(error.clone()));
            })?,
        };
        self.under_way.pop_front();
        let took = Took { run: done.took, wait: started.elapsed() };
        let ran = self.seen(done.result)?;
        self.watch.batch(took.run, took.wait, ran.tokens.own);
        Ok((done.batch, ran, took))
    }

    /// Cancels the submitted batches, whose results are not needed, and waits for them to end. The session stays usable
    /// for this backend.
    pub(crate) fn give_up(&mut self) {
        match &mut self.runs {
            Runs::Backend(pipeline) => {
                if pipeline.under_way() > 0 {
                    pipeline.ask_to_stop();
                }
                while pipeline.under_way() > 0 {
                    // Its result or error is not needed.
                    if sessions::collect(pipeline, &self.spec.label, |_| {}).is_err() {
                        break;
                    }
                }
            }
            Runs::Process(runs) => runs.give_up(),
        }
        self.under_way.clear();
    }

    /// Returns the value of a call for a row. A value out of range for the result type gives NULL with a warning if
    /// `on_error` is `null`.
    pub(crate) fn answer(&mut self, value: Result<Option<Datum>>) -> Result<Option<Datum>> {
        match value {
            Err(error @ Error::ResultOutOfRange { .. }) if self.spec.version.options.on_error == OnError::Null => {
                self.warn_once(&report::message(error));
                Ok(None)
            }
            value => value,
        }
    }

    /// Warns about the first failed row that gives NULL. Later failing rows give NULL without a warning.
    pub(crate) fn warn_once(&mut self, reason: &str) {
        if std::mem::replace(&mut self.has_warned, true) {
            return;
        }
        report::warn(
            &format!("a row could not be run with model \"{}\", and its prediction is NULL", self.spec.label),
            reason,
            "Further such rows of this call are NULL too and are not told of; predict_batch() counts them.",
        );
    }
}

/// Times of a batch.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Took {
    /// Time of the run in the model.
    pub(crate) run: Duration,
    /// Time that the query waited for the batch.
    pub(crate) wait: Duration,
}
