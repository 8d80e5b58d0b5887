//! The inference thread of a query: runs batches while their gatherer fills the next.
//!
//! Lock order: none is held across a run but the session's own. The thread owns the batch and a share of the session
//! while it runs; when the gatherer goes away in the middle, the run is asked to stop and left to its thread, and the
//! session is marked until it has come back.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::run::{Ran, Work};
use crate::session::Stop;
use crate::threads;

/// What a query's runs made the process grow by, in bytes, before it is given back at the end.
const WORTH_GIVING_BACK: usize = 16 << 20;

/// Resident memory of this process, in bytes; 0 where the system does not tell.
pub(crate) fn resident() -> usize {
    std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|s| s.split_whitespace().nth(1)?.parse::<usize>().ok())
        .unwrap_or(0)
        * 4096
}

/// A batch that has been run.
pub struct Done {
    /// The batch, to be used again.
    pub batch: Batch,
    /// Its outputs.
    pub result: Result<Ran>,
    /// How long the run took.
    pub took: Duration,
}

#[derive(Default)]
struct State {
    running: bool,
    abandoned: bool,
}

struct Thread {
    jobs: Sender<Batch>,
    done: Receiver<Done>,
    state: Arc<Mutex<State>>,
}

/// An inference thread, started with its first batch. It runs the batches that it was sent in their order, one at a time.
pub struct Pipeline {
    work: Work,
    stop: Stop,
    thread: Option<Thread>,
    /// Batches that were sent and not collected.
    under_way: usize,
    /// Traps when the first of them was sent.
    traps: usize,
}

impl Pipeline {
    /// One that has no thread yet.
    pub fn new(work: Work) -> Result<Self> {
        Ok(Self { work, stop: Stop::new()?, thread: None, under_way: 0, traps: 0 })
    }

    /// What its runs have in common.
    #[must_use]
    pub fn work(&self) -> &Work {
        &self.work
    }

    /// Batches that were sent and not collected.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.under_way
    }

    /// Whether no run is in the session now, so that one on the caller's thread need not wait.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.work.session.is_free()
    }

    /// Runs a batch on the caller's thread: for runs that are known to be short.
    pub fn run_here(&self, batch: &Batch) -> Result<Ran> {
        self.work.run(batch, &self.stop)
    }

    /// Asks the batches under way to stop; nothing is run after that.
    pub fn ask_to_stop(&self) {
        self.stop.ask();
    }

    /// Hands a batch to the thread, which runs it after those before it.
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

    /// Waits for the first of the batches under way, at most for so long.
    pub fn collect(&mut self, wait: Duration) -> Result<Option<Done>> {
        let Some(thread) = self.thread.as_ref() else { return Err(ended()) };
        match thread.done.recv_timeout(wait) {
            Ok(done) => {
                self.under_way -= 1;
                Ok(Some(done))
            }
            Err(RecvTimeoutError::Timeout) if threads::traps() != self.traps => {
                // Its thread will never come back, and the session is locked for good.
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

fn start(work: Work, stop: Stop) -> Result<Thread> {
    let (jobs, inbox) = channel::<Batch>();
    let (outbox, done) = channel::<Done>();
    let state = Arc::new(Mutex::new(State::default()));
    let mine = Arc::clone(&state);
    threads::spawn("pg_predict", move || {
        let before = resident();
        let mut one: Option<Batch> = None;
        while let Ok(batch) = inbox.recv() {
            if one.is_none() {
                one = Some(batch.part(0));
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
            if outbox.send(Done { batch, result, took }).is_err() {
                break;
            }
        }
        let grown = resident().saturating_sub(before);
        if let Some(one) = one.filter(|_| !stop.asked() && (grown > WORTH_GIVING_BACK || work.session.is_on_card())) {
            // A run is what gives memory back; what this one says is of no use to anybody.
            let _ = work.session.shrinking().and_then(|shrinking| work.run(&one, &shrinking));
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

    fn wait(pipeline: &mut Pipeline) -> Done {
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
        while threads::inside() == 0 {
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
