//! Runs the batches of a query in the model process.
//!
//! If the process ends, the batch that it was running is to blame, and all others are run again in a new process. With
//! the option `on_error` = `null`, the batch to blame is split until each row that ends the process is alone.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use pg_predict_engine::batch::{Batch, Values};
use pg_predict_engine::options::OnError;
use pg_predict_engine::run::RunOutput;
use pg_predict_engine::run::pipeline::FinishedBatch;
use pg_predict_engine::version::Version;
use pg_predict_model_process::client::{Cause, Slot};
use pg_predict_model_process::codec::batch::write_batch;
use pg_predict_model_process::codec::output::{Expected, read_output};
use pg_predict_model_process::control::Kind;
use pg_predict_model_process::messages::{Message, PrepareRequest};

use crate::error::{Error, Result};
use crate::pg::process::check_interrupts;
use crate::pg::report;
use crate::runtime::batch_runner::RunSpec;
use crate::runtime::model_counters::{self, Counter};
use crate::runtime::model_process::{self, Failure};
use crate::runtime::sessions::{self, LoadedModel, ProcessSession};

/// The most times that a query starts the model process again.
const MOST_RESTARTS: usize = 64;

/// The most prepared runs that are kept for later queries.
const MOST_PREPARED: usize = 16;

/// A prepared run in a model process. Dropping it releases it there.
struct Prepared {
    plan: u64,
    session: u64,
    generation: u64,
    finds_failure: bool,
    version: Arc<Version>,
    wanted: Arc<[bool]>,
}

impl Prepared {
    /// Whether this is the run of a specification.
    fn is_of(&self, spec: &RunSpec) -> bool {
        let same = Arc::ptr_eq(&self.version, &spec.version) || *self.version == *spec.version;
        same && self.wanted == spec.wanted
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        model_process::send(self.generation, &Message::Release { plan: self.plan });
    }
}

/// The prepared runs of this backend, the last used one at the end.
static PREPARED: Mutex<Vec<Arc<Prepared>>> = Mutex::new(Vec::new());

/// A batch under way.
struct InFlight {
    batch: Batch,
    slot: Slot,
    generation: u64,
}

/// The batches of a query.
pub(crate) struct ProcessRuns {
    spec: Arc<RunSpec>,
    session: Arc<LoadedModel>,
    finds_failure: bool,
    prepared: Option<Arc<Prepared>>,
    in_flight: VecDeque<InFlight>,
    restarts: usize,
}

impl ProcessRuns {
    pub(crate) fn new(spec: Arc<RunSpec>, session: Arc<LoadedModel>, finds_failure: bool) -> Self {
        Self { spec, session, finds_failure, prepared: None, in_flight: VecDeque::new(), restarts: 0 }
    }

    /// Counts an end of the process. Returns the error if the query has restarted it too often.
    fn note_end(&mut self, generation: u64) -> Result<()> {
        // Each start takes its time, and a hostile process can end at every one.
        check_interrupts();
        self.restarts += 1;
        if self.restarts > MOST_RESTARTS { Err(self.ended(generation)) } else { Ok(()) }
    }

    fn ended(&self, generation: u64) -> Error {
        model_process::ended(Some(&self.spec.label), generation)
    }

    /// Names the model in an error of the engine or of the protocol.
    fn named(&self, error: Error) -> Error {
        match error {
            Error::Engine { model: None, error } => crate::error::of_model(&self.spec.label)(error),
            other => other,
        }
    }

    /// Makes sure that the session is loaded and the run prepared in a running process. Returns its generation and the
    /// number of the prepared run.
    fn prepare(&mut self) -> Result<(u64, u64)> {
        loop {
            let LoadedModel::Process(session) = &*self.session else { return Err(nothing_under_way()) };
            let (generation, number) = (session.generation, session.number);
            if !model_process::is_current(generation) {
                self.session = sessions::open_again(session)?;
                continue;
            }
            let in_session = |prepared: &&Arc<Prepared>| {
                prepared.generation == generation
                    && prepared.session == number
                    && prepared.finds_failure == self.finds_failure
            };
            if let Some(prepared) = self.prepared.as_ref().filter(in_session) {
                return Ok((generation, prepared.plan));
            }
            let kept = {
                let mut all = PREPARED.lock();
                let found = all.iter().position(|prepared| in_session(&prepared) && prepared.is_of(&self.spec));
                found.map(|nth| {
                    let prepared = all.remove(nth);
                    all.push(Arc::clone(&prepared));
                    prepared
                })
            };
            if let Some(prepared) = kept {
                let plan = prepared.plan;
                self.prepared = Some(prepared);
                return Ok((generation, plan));
            }
            match self.prepare_in(generation, session) {
                Ok(prepared) => {
                    let prepared = Arc::new(prepared);
                    let plan = prepared.plan;
                    // Dropping a run sends a message, so it is dropped without the lock.
                    let mut gone = Vec::new();
                    {
                        let mut all = PREPARED.lock();
                        gone.extend(all.extract_if(.., |other| other.generation != generation));
                        if all.len() >= MOST_PREPARED {
                            gone.push(all.remove(0));
                        }
                        all.push(Arc::clone(&prepared));
                    }
                    drop(gone);
                    self.prepared = Some(prepared);
                    return Ok((generation, plan));
                }
                Err(Failure::Error(error)) => return Err(error),
                Err(Failure::Ended) => self.note_end(generation)?,
            }
        }
    }

    fn prepare_in(&self, generation: u64, session: &ProcessSession) -> std::result::Result<Prepared, Failure> {
        let plan = model_process::number();
        let request = PrepareRequest {
            plan,
            session: session.number,
            version: (*self.spec.version).clone(),
            wanted: self.spec.wanted.to_vec(),
            finds_failure: self.finds_failure,
        };
        let request = serde_json::to_string(&request).map_err(|e| Error::BadBatch { reason: e.to_string() })?;
        model_process::call(generation, Kind::Prepare, |out| out.text(&request), |_| Ok(()))?
            .map_err(crate::error::of_model(&self.spec.label))?;
        Ok(Prepared {
            plan,
            session: session.number,
            generation,
            finds_failure: self.finds_failure,
            version: Arc::clone(&self.spec.version),
            wanted: Arc::clone(&self.spec.wanted),
        })
    }

    /// Submits a batch, which runs after the batches before it.
    pub(crate) fn submit(&mut self, batch: Batch) -> Result<()> {
        let (slot, generation) = self.send(&batch)?;
        self.in_flight.push_back(InFlight { batch, slot, generation });
        Ok(())
    }

    fn send(&mut self, batch: &Batch) -> Result<(Slot, u64)> {
        loop {
            let (generation, plan) = self.prepare()?;
            let sent = model_process::submit(generation, Kind::Run, |out| {
                out.wide_number(plan);
                write_batch(batch, out);
            });
            match sent {
                Ok(slot) => return Ok((slot, generation)),
                Err(Failure::Error(error)) => return Err(error),
                Err(Failure::Ended) => self.note_end(generation)?,
            }
        }
    }

    /// Waits for the oldest batch. Calls `each_tick` at every check for interrupts, with true while texts are being
    /// tokenised.
    pub(crate) fn collect(&mut self, each_tick: impl Fn(bool)) -> Result<FinishedBatch> {
        loop {
            let spec = Arc::clone(&self.spec);
            let expected = expected(&spec, self.finds_failure);
            let Some(first) = self.in_flight.front_mut() else { return Err(nothing_under_way()) };
            let generation = first.generation;
            match answer(first, expected) {
                Ok(Some((result, took))) => {
                    let Some(first) = self.in_flight.pop_front() else { return Err(nothing_under_way()) };
                    model_process::put_back(generation, first.slot);
                    return Ok(FinishedBatch { batch: first.batch, result, took });
                }
                Ok(None) => {
                    each_tick(model_process::is_tokenising());
                    check_interrupts();
                }
                Err(Failure::Error(error)) => {
                    // The slot may not be used again, because its answer was not read.
                    self.in_flight.pop_front();
                    return Err(self.named(error));
                }
                Err(Failure::Ended) => {
                    let Some(first) = self.in_flight.pop_front() else { return Err(nothing_under_way()) };
                    if let Some(done) = self.after_end(first)? {
                        return Ok(done);
                    }
                }
            }
        }
    }

    /// Handles a batch whose process has ended. Submits it again if another request was to blame. Otherwise isolates
    /// the rows that end the process, or returns the error.
    fn after_end(&mut self, lost: InFlight) -> Result<Option<FinishedBatch>> {
        let InFlight { batch, slot, generation } = lost;
        if !is_to_blame(generation, slot.number()) {
            self.note_end(generation)?;
            let (slot, generation) = self.send(&batch)?;
            self.in_flight.push_front(InFlight { batch, slot, generation });
            return Ok(None);
        }
        self.count_end(generation);
        let error = self.ended(generation);
        if self.spec.version.options.on_error != OnError::Null {
            return Err(error);
        }
        self.note_end(generation)?;
        let ran = self.isolate(&batch, &error)?;
        Ok(Some(FinishedBatch { batch, result: Ok(ran), took: Duration::ZERO }))
    }

    fn count_end(&self, generation: u64) {
        let cause = model_process::end_of(generation).map(|end| end.cause);
        let counter = match cause {
            Some(Cause::Signal(libc::SIGKILL)) => Counter::ProcessKills,
            _ => Counter::ProcessCrashes,
        };
        model_counters::entry(&self.spec.version).add(counter, 1);
    }

    /// Runs the halves of a batch that ended the process, down to single rows. A single row fails.
    fn isolate(&mut self, batch: &Batch, error: &Error) -> Result<RunOutput> {
        if batch.rows <= 1 {
            let values = self.spec.outputs.iter().map(Values::none).collect();
            let reason = report::in_a_line(error.clone());
            let failed = (0..batch.rows).map(|row| (row, reason.clone())).collect();
            return Ok(RunOutput { values, failed, broken: None, tokens: Default::default() });
        }
        let half = batch.rows / 2;
        let mut ran = self.run_part(&batch.part(0..half))?;
        ran.append(half, self.run_part(&batch.part(half..batch.rows))?);
        Ok(ran)
    }

    /// Runs a part of a batch, and isolates the rows that end the process.
    fn run_part(&mut self, part: &Batch) -> Result<RunOutput> {
        loop {
            let (slot, generation) = self.send(part)?;
            let mut flight = PartInFlight(Some(InFlight { batch: Batch::default(), slot, generation }));
            let rows = part.rows;
            let result = loop {
                let Some(first) = flight.0.as_mut() else { return Err(nothing_under_way()) };
                match answer_of(first, rows, expected(&self.spec, self.finds_failure)) {
                    Ok(None) => check_interrupts(),
                    Ok(Some((result, _))) => break Ok(result),
                    Err(failure) => break Err(failure),
                }
            };
            let Some(InFlight { slot, .. }) = flight.0.take() else { return Err(nothing_under_way()) };
            match result {
                Ok(result) => {
                    model_process::put_back(generation, slot);
                    return result.map_err(crate::error::of_model(&self.spec.label));
                }
                Err(Failure::Error(error)) => return Err(self.named(error)),
                Err(Failure::Ended) => {
                    self.note_end(generation)?;
                    if is_to_blame(generation, slot.number()) {
                        self.count_end(generation);
                        let error = self.ended(generation);
                        return self.isolate(part, &error);
                    }
                }
            }
        }
    }

    /// Gives up the batches under way, whose results are not needed.
    pub(crate) fn give_up(&mut self) {
        let mut current = Vec::new();
        let mut generation = 0;
        for flight in self.in_flight.drain(..) {
            if flight.generation != generation {
                current.clear();
            }
            generation = flight.generation;
            current.push(flight.slot);
        }
        if model_process::give_up(generation, current) {
            model_counters::entry(&self.spec.version).add(Counter::ProcessCancels, 1);
        }
    }
}

impl Drop for ProcessRuns {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// A part under way, which is given up if an interrupt ends the query.
struct PartInFlight(Option<InFlight>);

impl Drop for PartInFlight {
    fn drop(&mut self) {
        if let Some(flight) = self.0.take() {
            model_process::give_up(flight.generation, vec![flight.slot]);
        }
    }
}

/// The error of a result that is asked for without a batch.
fn nothing_under_way() -> Error {
    pg_predict_engine::Error::Run { reason: "no batch is under way".to_owned() }.into()
}

/// Whether the process of a generation ended while it ran this request.
fn is_to_blame(generation: u64, number: u32) -> bool {
    model_process::end_of(generation).is_some_and(|end| end.taken == number && end.cause != Cause::Exit(0))
}

type Answer = std::result::Result<Option<(pg_predict_engine::Result<RunOutput>, Duration)>, Failure>;

/// Returns what a run of a version may give.
fn expected(spec: &RunSpec, finds_failure: bool) -> Expected<'_> {
    let failed_rows = spec.version.options.on_error == OnError::Null;
    Expected { outputs: &spec.outputs, failed_rows, early_end: finds_failure }
}

/// Waits for the answer of a batch for at most a tick. Returns `None` if it has not arrived.
fn answer(flight: &mut InFlight, expected: Expected<'_>) -> Answer {
    let rows = flight.batch.rows;
    answer_of(flight, rows, expected)
}

fn answer_of(flight: &mut InFlight, rows: usize, expected: Expected<'_>) -> Answer {
    let InFlight { slot, generation, .. } = flight;
    if !model_process::wait(*generation, slot)? {
        return Ok(None);
    }
    model_process::read(*generation, slot, |from| read_output(from, rows, expected))
}
