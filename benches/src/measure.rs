//! Times the contenders of one workload, round by round, and compares their answers.
//!
//! Within a round each contender runs once, so that a machine which drifts slows all alike. Round 0 warms sessions and
//! caches and is not counted, but for slow peers: those are warm before their clock starts, and run seldom.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ort::environment::Environment;

use crate::cpu;
use crate::figures::{Agreement, Point, TOLERANCE, Timing, median};
use crate::measurements::raw::{BATCHES, Model, Rows, sweep_rows};
use crate::measurements::server::{Difference, Server, same_sum};
use crate::report::results::WorkloadResults;
use crate::statements::contender::{Contender, Expect, Kind, RawRun, Statement, Work};
use crate::statements::forms::{contenders, forms};
use crate::statements::peer::{Class, Job, OUT, Peers};
use crate::statements::workload::Workload;

/// A peer that takes longer than this runs twice; one that does not compete and takes longer than the second, once.
const SLOW_SECONDS: f64 = 3.0;
const SLOWEST_SECONDS: f64 = 10.0;

/// What all workloads are measured with.
pub struct Bench<'a> {
    /// ONNX Runtime.
    pub environment: &'a Environment,
    /// The checkout, which holds the models.
    pub root: &'a Path,
    /// The connection.
    pub server: &'a mut Server,
    /// The peers, where there are any.
    pub peers: Option<&'a mut Peers>,
    /// The processes whose trees' processor time counts: the server's first one and this one.
    pub trees: [u32; 2],
    /// Warm rounds.
    pub runs: usize,
    /// Whether it is the short run.
    pub quick: bool,
}

/// What one run came to.
struct Once {
    seconds: f64,
    /// Seconds of the processors.
    cpu: f64,
    /// Rows that it scored.
    rows: u64,
}

/// A contender with what it came to.
struct Turn {
    contender: Contender,
    timing: Timing,
    cpu: f64,
    /// Rounds after the first in which it takes part.
    rounds: usize,
}

impl Turn {
    /// Counts a run.
    fn count(&mut self, once: &Once) {
        self.timing.rows = once.rows;
        self.timing.ns_per_row.push(once.seconds * 1e9 / once.rows as f64);
        self.cpu += once.cpu;
    }
}

impl Bench<'_> {
    /// Times one workload's contenders in turns and checks the answers.
    pub fn measure(&mut self, workload: &'static Workload) -> Result<WorkloadResults> {
        let file = self.root.join(workload.file);
        self.server.create_model(workload, &file)?;
        let rows = self.server.rows(workload)?;
        eprintln!("bench: {}: finding the best batch size of raw ONNX Runtime", workload.name);
        let model = Model::load(self.environment, &file, workload, &rows, self.quick || workload.slow)
            .context(workload.file)?;
        let mut run = Run { bench: self, workload, rows, model, sum: 0.0, agreement: Vec::new() };
        run.model.run()?;
        run.sum = run.model.answers().iter().map(|score| f64::from(*score)).sum();
        let contenders = run.take_turns()?;
        let sweep = run.sweep()?;
        run.compare_forms()?;
        let mut measured = WorkloadResults {
            name: workload.name,
            title: workload.title,
            rows: run.rows.count as u64,
            best_batch: run.model.best_batch,
            raw_sweep: run.model.sweep,
            sweep,
            contenders,
            agreement: run.agreement,
        };
        measured.relate()?;
        Ok(measured)
    }
}

/// The measuring of one workload.
struct Run<'a, 'b> {
    bench: &'a mut Bench<'b>,
    workload: &'static Workload,
    rows: Rows,
    model: Model,
    sum: f64,
    agreement: Vec<Agreement>,
}

impl Run<'_, '_> {
    /// Runs every contender in every round.
    fn take_turns(&mut self) -> Result<Vec<Timing>> {
        let (name, runs) = (self.workload.name, self.bench.runs);
        let sample = self.bench.server.count("bench_sample")?;
        let mut list = contenders(self.workload, self.rows.count as u64, sample);
        if let Some(peers) = &self.bench.peers {
            list.extend(peers.jobs(name, self.bench.quick).into_iter().map(|(job, title)| self.peer(job, &title)));
        }
        let mut turns = Vec::with_capacity(list.len());
        for contender in list {
            let mut turn = self.begin(contender)?;
            let Some(once) = self.run(&turn.contender)? else { continue };
            let (title, ns) = (&turn.timing.title, once.seconds * 1e9 / once.rows as f64);
            eprintln!("bench: {name}: warm-up: {title}: {ns:.0} ns per row");
            self.compare_written(&turn.contender)?;
            turn.rounds = rounds(&turn.contender, once.seconds, runs);
            if turn.rounds < runs {
                turn.count(&once);
            }
            turns.push(turn);
        }
        for round in 1..=runs {
            for turn in turns.iter_mut().filter(|turn| round <= turn.rounds) {
                if let Some(once) = self.run(&turn.contender)? {
                    turn.count(&once);
                }
            }
            eprintln!("bench: {name}: round {round} of {runs} done");
        }
        let end = |mut turn: Turn| {
            turn.timing.cpu_ns_per_row =
                turn.cpu * 1e9 / (turn.timing.rows as f64 * turn.timing.ns_per_row.len() as f64);
            turn.timing
        };
        Ok(turns.into_iter().map(end).collect())
    }

    /// A peer as a contender.
    fn peer(&self, job: Job, title: &str) -> Contender {
        let written = job.task == "write";
        let doing = match (job.task, job.threads) {
            ("write", _) => ", written back",
            (_, 1) => "",
            _ => ", two threads",
        };
        Contender {
            key: format!("{}_{}_{}", job.peer, job.task, job.threads),
            title: format!("{title}{doing}"),
            kind: Kind::Peer,
            rows: self.rows.count as u64,
            floor: Some(if written { "ctas_floor" } else { "scan" }),
            raw: Some(if job.threads == 1 { "raw" } else { "raw_2" }),
            work: Work::Peer(job),
        }
    }

    /// Describes a contender before its first run.
    fn begin(&mut self, contender: Contender) -> Result<Turn> {
        let (sql, plan, job) = match &contender.work {
            Work::Sql(statement) => (Some(statement.sql.clone()), self.bench.server.plan(statement)?, None),
            Work::Raw(_) => (None, Vec::new(), None),
            Work::Peer(job) => (None, Vec::new(), Some(job.clone())),
        };
        let timing = Timing {
            key: contender.key.clone(),
            title: contender.title.clone(),
            kind: contender.kind,
            job,
            sql,
            plan,
            rows: contender.rows,
            ns_per_row: Vec::new(),
            cpu_ns_per_row: f64::NAN,
            median: f64::NAN,
            min: f64::NAN,
            max: f64::NAN,
            floor: contender.floor,
            over_floor: None,
            raw: contender.raw,
            over_raw: None,
            over_larger: None,
        };
        Ok(Turn { contender, timing, cpu: 0.0, rounds: 0 })
    }

    /// Runs a contender once; none where a peer could not.
    fn run(&mut self, contender: &Contender) -> Result<Option<Once>> {
        let before = cpu::seconds(&self.bench.trees)?;
        let all = |took| Some((took, contender.rows));
        let ran = match &contender.work {
            Work::Sql(statement) => self.bench.server.time(statement, self.sum).map(all),
            Work::Raw(RawRun::Best) => self.model.run().map(all),
            Work::Raw(RawRun::BestByTwo) => self.model.run_by_two().map(all),
            Work::Raw(RawRun::Built) => self.model.run_built(&self.rows).map(all),
            Work::Peer(job) => self.run_peer(job),
        };
        let ran = ran.with_context(|| format!("{}: {}", self.workload.name, contender.title))?;
        let cpu = cpu::seconds(&self.bench.trees)? - before;
        Ok(ran.map(|(took, rows)| Once { seconds: took.as_secs_f64(), cpu, rows }))
    }

    /// Lets a peer run and checks what it came to.
    fn run_peer(&mut self, job: &Job) -> Result<Option<(Duration, u64)>> {
        let peers = self.bench.peers.as_mut().context("there are no peers")?;
        let Some(ran) = peers.run(job)? else { return Ok(None) };
        let answers = self.model.answers();
        // A slow one scores the first rows only, when it writes no table.
        let scored = usize::try_from(ran.rows)?;
        ensure!(scored > 0 && scored <= answers.len(), "scored {scored} rows of {}", answers.len());
        match ran.sum {
            Some(sum) => {
                let raw = answers[..scored].iter().map(|score| f64::from(*score)).sum();
                ensure!(same_sum(sum, raw), "the sum is {sum}, that of raw ONNX Runtime {raw}");
            }
            None => ensure!(scored == answers.len(), "wrote {scored} rows of {}", answers.len()),
        }
        Ok(Some((Duration::from_secs_f64(ran.seconds), ran.rows)))
    }

    /// `predict_batch` over columns by batch size, the sizes in turns; 0 is what the version measured for itself.
    fn sweep(&mut self) -> Result<Vec<Point>> {
        let (workload, rows) = (self.workload, self.rows.count);
        let sizes: Vec<usize> = std::iter::once(0).chain(BATCHES).collect();
        let (runs, few) = (self.bench.runs, self.bench.quick || workload.slow);
        let mut times = vec![Vec::new(); sizes.len()];
        for round in 0..=runs {
            // Forwards and backwards in turn: what a large size leaves in the caches slows none more than others.
            let forwards = round % 2 == 0;
            for place in (0..sizes.len()).map(|place| if forwards { place } else { sizes.len() - 1 - place }) {
                let (size, times) = (&sizes[place], &mut times[place]);
                let read = sweep_rows(if *size == 0 { usize::MAX } else { *size }, rows, few);
                let rows = format!("(SELECT * FROM {} LIMIT {read}) s", workload.table);
                let sql = workload.sum_of_predictions(&workload.columns(), &rows);
                let size = size.to_string();
                let settings = [("pg_predict.batch_size", size.as_str())];
                self.bench.server.set(&settings)?;
                let took = self.bench.server.time(&Statement::new(sql, Expect::Value), self.sum)?;
                self.bench.server.reset(&settings)?;
                if round > 0 {
                    times.push(took.as_nanos() as f64 / read as f64);
                }
            }
        }
        eprintln!("bench: {}: batch sizes done", workload.name);
        Ok(sizes.into_iter().zip(times).map(|(at, times)| Point { at, ns_per_row: median(&times) }).collect())
    }

    /// Compares the table that a contender left.
    fn compare_written(&mut self, contender: &Contender) -> Result<()> {
        let table = match &contender.work {
            Work::Sql(statement) => statement.leaves,
            Work::Peer(job) => (job.task == "write").then_some(OUT),
            Work::Raw(_) => None,
        };
        let Some(table) = table else { return Ok(()) };
        let sql = format!("SELECT id, score FROM {table}");
        let difference = self.bench.server.compare_query(&sql, self.model.answers())?;
        self.agree(contender.title.clone(), &difference);
        Ok(())
    }

    /// Compares every other form's answers.
    fn compare_forms(&mut self) -> Result<()> {
        eprintln!("bench: {}: comparing answers", self.workload.name);
        for form in forms(self.workload) {
            let difference = self.bench.server.compare(&form, self.model.answers())?;
            self.agree(form.title.to_owned(), &difference);
        }
        Ok(())
    }

    fn agree(&mut self, form: String, difference: &Difference) {
        self.agreement.push(Agreement {
            form,
            rows: difference.rows,
            largest_difference: Some(difference.largest).filter(|value| value.is_finite()),
            agrees: difference.largest <= TOLERANCE,
        });
    }
}

/// In how many rounds after the first a contender takes part, whose first run took so long.
fn rounds(contender: &Contender, seconds: f64, runs: usize) -> usize {
    match &contender.work {
        Work::Peer(job) if job.class != Class::Competes && seconds > SLOWEST_SECONDS => 0,
        Work::Peer(_) if seconds > SLOW_SECONDS => runs.min(1),
        _ => runs,
    }
}
