//! What runs the batches of one model for a query: its session, its inference thread, and the bounds of a batch.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pg_predict_engine::batch::{Batch, Values};
use pg_predict_engine::pipeline::Pipeline;
use pg_predict_engine::reference::Selection;
use pg_predict_engine::run::{Ran, Work};
use pg_predict_engine::session::Session;
use pg_predict_engine::signature::Output;
use pg_predict_engine::version::Version;

use crate::error::{self, Error, Result, of_model};
use crate::guc;
use crate::pg::convert::Carried;
use crate::pg::results::Layout;
use crate::pg::sessions;
use crate::pg::shared::{Form, Phase, Watch};

/// Batches that are sent before the first of them must be back: with one that waits, the inference thread goes on while the
/// backend is told and takes the answers.
const MOST_UNDER_WAY: usize = 2;
/// Runs may keep the backend's own thread for so long altogether, in microseconds: a query that is over by then needs no other.
const SHORT_QUERY: f64 = 2000.0;
/// After that a run must be shorter than what it costs to hand it over, in microseconds.
const SHORT_RUN: f64 = 50.0;

/// What is the same for every query that wants the same outputs of a version.
pub(crate) struct Terms {
    pub(crate) version: Arc<Version>,
    /// The name that messages use.
    pub(crate) label: String,
    /// The outputs that are kept.
    pub(crate) outputs: Vec<Output>,
    wanted: Arc<[bool]>,
    /// Its runs stay off the backend's own thread: the model divides integers, perhaps, or a text may be long.
    off_thread: bool,
}

impl Terms {
    /// Those for the outputs that are wanted.
    pub(crate) fn new(version: Arc<Version>, wanted: &[bool]) -> Arc<Self> {
        let signature = &version.signature;
        let outputs = signature.outputs.iter().zip(wanted).filter(|(_, w)| **w).map(|(o, _)| o.clone()).collect();
        let off_thread = signature.has_operator(&["Div", "Mod"]) || signature.takes_text();
        Arc::new(Self { label: version.label(), outputs, wanted: wanted.into(), off_thread, version })
    }

    /// What results of it consist of. The selection's output is a place among those that are kept.
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

/// Runs the batches of a version.
pub(crate) struct Runner {
    pub(crate) terms: Arc<Terms>,
    /// Rows of a batch.
    pub(crate) batch_size: usize,
    /// Bytes of a batch.
    pub(crate) max_bytes: usize,
    pipeline: Pipeline,
    /// Bytes of each batch under way.
    under_way: VecDeque<usize>,
    /// What runs on the backend's own thread have taken.
    here: Duration,
    /// A bad row has been told of.
    has_warned: bool,
    watch: Watch,
}

impl Runner {
    /// One that runs a session on these terms. `expected`: rows that the plan expects.
    pub(crate) fn new(terms: Arc<Terms>, session: Arc<Session>, form: Form, expected: Option<f64>) -> Result<Self> {
        let watch = Watch::new(&terms.version, form, expected);
        Self::with(terms, session, watch, |work| work)
    }

    /// The same, but where a batch fails, the rows before the first that fails by itself are given, and that row.
    pub(crate) fn finding_failure(terms: Arc<Terms>, session: Arc<Session>, expected: Option<f64>) -> Result<Self> {
        let watch = Watch::new(&terms.version, Form::Scan, expected);
        Self::with(terms, session, watch, Work::finding_failure)
    }

    fn with(terms: Arc<Terms>, session: Arc<Session>, watch: Watch, adapt: impl FnOnce(Work) -> Work) -> Result<Self> {
        let work = Work::new(session, Arc::clone(&terms.version), Arc::clone(&terms.wanted));
        let pipeline = work.and_then(|work| Pipeline::new(adapt(work))).map_err(of_model(&terms.label))?;
        let max_bytes = guc::max_batch_memory();
        let fit = max_bytes / pipeline.work().row_bytes().max(1);
        Ok(Self {
            batch_size: guc::batch_size().unwrap_or_else(|| terms.version.batch_size()).min(fit).max(1),
            max_bytes,
            pipeline,
            under_way: VecDeque::with_capacity(MOST_UNDER_WAY),
            here: Duration::ZERO,
            has_warned: false,
            watch,
            terms,
        })
    }

    /// What a batch without rows to run gives.
    pub(crate) fn nothing(&self) -> Ran {
        let values = self.terms.outputs.iter().map(Values::none).collect();
        Ran { values, failed: Vec::new(), broken: None, tokens: Default::default() }
    }

    /// Whether so many rows may be run on the backend's own thread: they take no time worth another.
    pub(crate) fn is_short(&self, rows: usize) -> bool {
        let signature = &self.terms.version.signature;
        let micros = signature.single_micros.max(signature.row_micros * rows as f64);
        let so_far = self.here.as_secs_f64() * 1e6;
        let short = micros < SHORT_RUN || so_far + micros < SHORT_QUERY;
        signature.verified && short && !self.terms.off_thread && self.pipeline.is_free()
    }

    /// Runs a batch on the backend's own thread, and says how long that took.
    pub(crate) fn run_here(&mut self, batch: &Batch) -> Result<(Ran, Took)> {
        let started = Instant::now();
        let ran = self.pipeline.run_here(batch);
        let took = started.elapsed();
        self.here += took;
        let ran = self.seen(ran)?;
        self.watch.batch(took, took, ran.tokens.own);
        Ok((ran, Took { run: took, wait: took }))
    }

    /// What a run gave; a failure is counted.
    fn seen(&self, ran: pg_predict_engine::Result<Ran>) -> Result<Ran> {
        ran.map_err(|error| {
            let error = of_model(&self.terms.label)(error);
            self.watch.failed(&error::in_a_line(error.clone()));
            error
        })
    }

    /// Counts rows that have their answers: so many of them NULL, so many failed. Says how far the query is, where that is
    /// asked for.
    pub(crate) fn count(&mut self, rows: usize, nulls: usize, failed: usize) {
        self.watch.rows(rows, nulls, failed);
        if let Some((rows, expected, time)) = self.watch.progress(guc::progress_interval()) {
            error::progress(&self.terms.label, rows, expected, time);
        }
    }

    /// Counts the failure of a row that ended its batch.
    pub(crate) fn count_failure(&self, error: &Error) {
        self.watch.failed(&error::in_a_line(error.clone()));
    }

    /// Whether a batch of so many bytes may be sent before one under way is collected. All of them together stay within the
    /// memory of one batch that is as large as may be.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        let held: usize = self.under_way.iter().sum();
        self.under_way.is_empty() || self.under_way.len() < MOST_UNDER_WAY && held + bytes <= self.max_bytes
    }

    /// Sends a batch on its way. There must be room for it.
    pub(crate) fn submit(&mut self, batch: Batch) -> Result<()> {
        let bytes = batch.bytes();
        self.pipeline.submit(batch).map_err(of_model(&self.terms.label))?;
        self.under_way.push_back(bytes);
        Ok(())
    }

    /// Waits for the first batch under way: gives it back with its results, and how long it was waited for and ran.
    pub(crate) fn collect(&mut self) -> Result<(Batch, Ran, Took)> {
        let started = Instant::now();
        let watch = &self.watch;
        let done = sessions::collect(&mut self.pipeline, &self.terms.label, |tokenising| {
            watch.phase(if tokenising { Phase::Tokenising } else { Phase::Running });
        })?;
        self.under_way.pop_front();
        let took = Took { run: done.took, wait: started.elapsed() };
        let ran = self.seen(done.result)?;
        self.watch.batch(took.run, took.wait, ran.tokens.own);
        Ok((done.batch, ran, took))
    }

    /// Ends the batches under way, whose results nobody wants, and waits for them: the session goes on serving this backend.
    pub(crate) fn give_up(&mut self) {
        if self.pipeline.under_way() > 0 {
            self.pipeline.ask_to_stop();
        }
        while self.pipeline.under_way() > 0 {
            // What it gives, or how it fails, is of no use any more.
            if sessions::collect(&mut self.pipeline, &self.terms.label, |_| {}).is_err() {
                break;
            }
        }
        self.under_way.clear();
    }

    /// Warns of a bad row that is NULL: of the first only.
    pub(crate) fn warn_once(&mut self, reason: &str) {
        if std::mem::replace(&mut self.has_warned, true) {
            return;
        }
        error::warn(
            &format!("a row could not be run with model \"{}\", and its prediction is NULL", self.terms.label),
            reason,
            "Further such rows of this call are NULL too and are not told of; predict_batch() counts them.",
        );
    }
}

/// Times of a batch.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Took {
    /// In the model.
    pub(crate) run: Duration,
    /// The query stood still for it.
    pub(crate) wait: Duration,
}
