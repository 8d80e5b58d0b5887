//! Runs the batches of a query on an inference thread, while the caller fills the next batch.
//!
//! Lock order: no lock except the session's own is held across a run. During a run, the thread owns the batch and a
//! reference to the session. If the pipeline is dropped during a run, the run is asked to stop and left to its thread.
//! The session is marked as abandoned until that run has returned.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::memory::resident;
use crate::ort::stop::Stop;
use crate::run::{RunContext, RunOutput};
use crate::threads;

/// The growth of the process during a query, in bytes, above which the memory is released at the end of the query.
const WORTH_GIVING_BACK: usize = 16 << 20;

/// A batch that has been run.
pub struct FinishedBatch {
    /// The batch, whose buffers can be reused.
    pub batch: Batch,
    /// Its outputs, or the error of the run.
    pub result: Result<RunOutput>,
    /// The duration of the run.
    pub took: Duration,
}

#[derive(Default)]
pub(crate) struct ThreadState {
    running: bool,
    abandoned: bool,
}

struct Thread {
    jobs: Sender<Batch>,
    done: Receiver<FinishedBatch>,
    state: Arc<Mutex<ThreadState>>,
}

/// An inference thread that starts with its first batch. It runs batches one at a time, in the order of submission.
pub struct Pipeline {
    work: RunContext,
    stop: Stop,
    thread: Option<Thread>,
    /// The number of batches that were submitted and not collected yet.
    under_way: usize,
    /// The number of traps in the process when the first of these batches was submitted.
    traps: usize,
    /// Whether texts are being tokenised now.
    tokenising: Arc<AtomicBool>,
}

impl Pipeline {
    /// Creates a pipeline whose thread is not started yet.
    pub fn new(work: RunContext) -> Result<Self> {
        let tokenising = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&tokenising);
        let work = work.reporting(Arc::new(move |begins| flag.store(begins, Ordering::Relaxed)));
        Ok(Self { work, stop: Stop::new()?, thread: None, under_way: 0, traps: 0, tokenising })
    }

    /// Whether texts are being tokenised now, so that the model does not run yet.
    #[must_use]
    pub fn is_tokenising(&self) -> bool {
        self.tokenising.load(Ordering::Relaxed)
    }

    /// The number of batches that were submitted and not collected yet.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.under_way
    }

    /// Whether the session is free, so that a run on the caller's thread need not wait.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.work.session.is_free()
    }

    /// Runs a batch on the caller's thread. Use this only for runs that are known to be short.
    pub fn run_here(&self, batch: &Batch) -> Result<RunOutput> {
        self.work.run(batch, &self.stop)
    }

    /// Asks the submitted batches to stop. No batch runs after that.
    pub fn ask_to_stop(&self) {
        self.stop.ask();
    }

    /// Submits a batch, which runs after the batches before it.
    pub fn submit(&mut self, batch: Batch) -> Result<()> {
        if self.under_way == 0 {
            self.traps = threads::traps();
        }
        if self.thread.is_none() {
            self.thread = Some(start(self.work.clone(), self.stop.clone())?);
        }
        let sent = self.thread.as_ref().map(|t| t.jobs.send(batch).is_ok());
        if sent != Some(true) {
            return Err(ended());
        }
        self.under_way += 1;
        Ok(())
    }

    /// Waits for the oldest submitted batch, for at most `wait`. Returns `None` on timeout.
    pub fn collect(&mut self, wait: Duration) -> Result<Option<FinishedBatch>> {
        let Some(thread) = self.thread.as_ref() else { return Err(ended()) };
        match thread.done.recv_timeout(wait) {
            Ok(done) => {
                self.under_way -= 1;
                Ok(Some(done))
            }
            Err(RecvTimeoutError::Timeout) if threads::traps() != self.traps => {
                // A thread that trapped never returns, and its session stays locked.
                self.under_way = 0;
                self.thread = None;
                self.work.session.abandon();
                Err(Error::Run { reason: "An integer was divided by zero, or a quotient did not fit.".to_owned() })
            }
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(ended()),
        }
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        if self.under_way > 0 {
            self.stop.ask();
            let mut state = thread.state.lock();
            if state.running {
                state.abandoned = true;
                self.work.session.abandon();
            }
        }
    }
}

fn ended() -> Error {
    Error::Run { reason: "the inference thread ended".to_owned() }
}

fn start(work: RunContext, stop: Stop) -> Result<Thread> {
    let (jobs, inbox) = channel::<Batch>();
    let (outbox, done) = channel::<FinishedBatch>();
    let state = Arc::new(Mutex::new(ThreadState::default()));
    let mine = Arc::clone(&state);
    threads::spawn("pg_predict", move || {
        let before = resident();
        let mut one: Option<Batch> = None;
        while let Ok(batch) = inbox.recv() {
            if one.is_none() {
                one = Some(batch.part(0..1));
            }
            mine.lock().running = true;
            let started = Instant::now();
            let result = if stop.asked() { Err(ended()) } else { work.run(&batch, &stop) };
            let took = started.elapsed();
            {
                let mut state = mine.lock();
                state.running = false;
                if std::mem::take(&mut state.abandoned) {
                    work.session.reclaim();
                    threads::after_abandoned();
                }
            }
            if outbox.send(FinishedBatch { batch, result, took }).is_err() {
                break;
            }
        }
        let grown = resident().saturating_sub(before);
        if let Some(one) = one.filter(|_| !stop.asked() && (grown > WORTH_GIVING_BACK || work.session.is_on_card())) {
            work.release_memory(&one);
            threads::after_abandoned();
        }
    })?;
    Ok(Thread { jobs, done, state })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Shapes;
    use crate::tests::{floats, work};

    fn wait(pipeline: &mut Pipeline) -> FinishedBatch {
        pipeline.collect(Duration::from_secs(60)).unwrap().expect("a run ends")
    }

    #[test]
    fn batches_come_back_with_their_results_and_their_buffers() {
        let work = work("models/diamonds.onnx");
        let mut pipeline = Pipeline::new(work.clone()).unwrap();
        for rows in [1, 50, 7] {
            let batch = floats(&work, rows);
            let here = pipeline.run_here(&batch).unwrap();
            pipeline.submit(batch.clone()).unwrap();
            let done = wait(&mut pipeline);
            assert_eq!((done.result.unwrap(), done.batch.rows), (here, batch.rows));
        }
    }

    #[test]
    fn batches_that_wait_are_run_in_the_order_in_which_they_were_sent() {
        let work = work("models/diamonds.onnx");
        let mut pipeline = Pipeline::new(work.clone()).unwrap();
        for rows in [300, 1, 20] {
            pipeline.submit(floats(&work, rows)).unwrap();
        }
        assert_eq!(pipeline.under_way(), 3);
        for rows in [300, 1, 20] {
            let here = pipeline.run_here(&floats(&work, rows)).unwrap();
            let done = wait(&mut pipeline);
            assert_eq!((done.batch.rows, done.result.unwrap()), (rows, here));
        }
        assert_eq!(pipeline.under_way(), 0);
    }

    #[test]
    fn a_query_that_goes_away_does_not_wait_for_its_run() {
        let work = work("tests/reference/models/credit_isoforest.onnx");
        let session = Arc::clone(&work.session);
        let mut pipeline = Pipeline::new(work.clone()).unwrap();
        pipeline.submit(floats(&work, 200_000)).unwrap();
        pipeline.submit(floats(&work, 200_000)).unwrap();
        while session.is_free() {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(20));
        let started = Instant::now();
        drop(pipeline);
        assert!(started.elapsed() < Duration::from_millis(50), "dropping took {:?}", started.elapsed());
        assert!(session.is_abandoned());
        let deadline = Instant::now() + Duration::from_secs(60);
        while session.is_abandoned() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(!session.is_abandoned(), "the run comes back and gives the session free");
    }

    #[test]
    fn a_failed_run_says_why_and_the_next_one_works() {
        let work = work("models/diamonds.onnx");
        let mut pipeline = Pipeline::new(work.clone()).unwrap();
        let mut wrong = floats(&work, 3);
        wrong.shapes[0] = Shapes::Same(vec![5]);
        wrong.columns[0].truncate(15);
        pipeline.submit(wrong).unwrap();
        assert!(matches!(wait(&mut pipeline).result, Err(Error::Run { .. })));
        pipeline.submit(floats(&work, 3)).unwrap();
        assert!(wait(&mut pipeline).result.is_ok());
    }
}
