//! Raw ONNX Runtime: what a program of its own would reach with the same library, the same threads and the rows in memory.
//!
//! One intra-op thread, no spinning, subnormals flushed to zero: as the extension runs its sessions. The tensors of a
//! batch are made before the clock starts, those of strings too; `run_built` makes them on the clock.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ort::environment::Environment;
use ort::session::Session;
use ort::value::{DynValue, Tensor};

use crate::figures::{Point, median};
use crate::statements::workload::{Output, Workload};

/// Batch sizes that the sweeps try.
pub const BATCHES: [usize; 9] = [1, 4, 16, 64, 256, 1024, 4096, 16384, 65536];

/// Runs of each batch size; the median counts.
const SWEEP_RUNS: usize = 3;

/// The most rows that a run of a sweep reads, as a rule and where there shall be few, and the most where batches are tiny.
const SWEEP_ROWS: usize = 1_000_000;
const SWEEP_ROWS_FEW: usize = 50_000;
const SWEEP_ROWS_OF_TINY: usize = 20_000;
const SWEEP_ROWS_OF_TINY_FEW: usize = 2_000;
const TINY: usize = 4;

/// Rows that a sweep reads at a batch size, of so many.
pub fn sweep_rows(batch: usize, rows: usize, few: bool) -> usize {
    rows.min(match (batch <= TINY, few) {
        (false, false) => SWEEP_ROWS,
        (false, true) => SWEEP_ROWS_FEW,
        (true, false) => SWEEP_ROWS_OF_TINY,
        (true, true) => SWEEP_ROWS_OF_TINY_FEW,
    })
}

/// What a model's input gets, for all rows.
pub enum Input {
    /// All features of a row, one row behind the other.
    Wide {
        /// The input's name.
        name: &'static str,
        /// Values of a row.
        width: usize,
        /// All of them.
        values: Vec<f32>,
    },
    /// One number a row.
    Numbers(&'static str, Vec<f32>),
    /// One text a row.
    Texts(&'static str, Vec<String>),
}

impl Input {
    /// The tensor of the rows from `from` to `to`, and the input's name.
    fn tensor(&self, from: usize, to: usize) -> Result<(&'static str, DynValue)> {
        let count = (to - from) as i64;
        Ok(match self {
            Self::Wide { name, width, values } => {
                let part = values[from * width..to * width].to_vec();
                (name, Tensor::from_array(([count, *width as i64], part))?.into_dyn())
            }
            Self::Numbers(name, values) => {
                (name, Tensor::from_array(([count, 1], values[from..to].to_vec()))?.into_dyn())
            }
            Self::Texts(name, values) => (name, Tensor::from_string_array(([count, 1], &values[from..to]))?.into_dyn()),
        })
    }
}

/// All rows of a workload.
pub struct Rows {
    /// How many there are.
    pub count: usize,
    /// What each input gets.
    pub inputs: Vec<Input>,
}

/// The tensors of one batch.
struct Batch {
    rows: usize,
    tensors: Vec<(&'static str, DynValue)>,
}

impl Rows {
    /// The tensors of the rows from `from` to `to`.
    fn batch(&self, from: usize, to: usize) -> Result<Batch> {
        let tensors = self.inputs.iter().map(|input| input.tensor(from, to)).collect::<Result<_>>()?;
        Ok(Batch { rows: to - from, tensors })
    }

    /// The tensors of the first rows, in batches.
    fn batches(&self, rows: usize, size: usize) -> Result<Vec<Batch>> {
        (0..rows).step_by(size).map(|from| self.batch(from, (from + size).min(rows))).collect()
    }
}

/// A model loaded in ONNX Runtime, twice, so that two threads can run it without waiting for each other.
pub struct Model {
    sessions: [Session; 2],
    output: &'static Output,
    batches: Vec<Batch>,
    answers: Vec<f32>,
    halves: [Vec<f32>; 2],
    /// The batch size that the sweep found.
    pub best_batch: usize,
    /// What the sweep saw.
    pub sweep: Vec<Point>,
}

/// Loads the library; nothing of ONNX Runtime may be used before.
pub fn start(library: &Path) -> Result<Environment> {
    let builder = ort::init_from(library).with_context(|| format!("could not load {}", library.display()))?;
    Ok(builder.with_name("pg_predict_bench").with_telemetry(false).build()?)
}

/// The version of the library and the commit it was built from. The build information does not tell the version, but
/// the version of the library's exported symbols does.
pub fn version(library: &Path) -> Result<String> {
    const MARK: &[u8] = b"\0VERS_";
    let bytes = std::fs::read(library).with_context(|| format!("could not read {}", library.display()))?;
    let version: String = bytes
        .windows(MARK.len())
        .position(|window| window == MARK)
        .map(|at| bytes[at + MARK.len()..].iter().map(|byte| char::from(*byte)))
        .map(|rest| rest.take_while(|letter| letter.is_ascii_digit() || *letter == '.').collect())
        .unwrap_or_else(|| "of unknown version".to_owned());
    let commit = ort::info().split(", ").find_map(|part| part.strip_prefix("git-commit-id="));
    Ok(format!("{version} (commit {})", commit.unwrap_or("unknown")))
}

impl Model {
    /// Loads a model, finds its best batch size over some rows, or over few, and makes the tensors of all rows in that size.
    pub fn load(
        environment: &Environment,
        file: &Path,
        workload: &'static Workload,
        rows: &Rows,
        few: bool,
    ) -> Result<Self> {
        let mut model = Self {
            sessions: [open(environment, file)?, open(environment, file)?],
            output: &workload.output,
            batches: Vec::new(),
            answers: Vec::with_capacity(rows.count),
            halves: Default::default(),
            best_batch: 1,
            sweep: Vec::new(),
        };
        for batch in BATCHES {
            let most = sweep_rows(batch, rows.count, few);
            model.batches = rows.batches(most, batch)?;
            let mut times = Vec::with_capacity(SWEEP_RUNS);
            for run in 0..=SWEEP_RUNS {
                let time = model.run()?;
                // The first run warms the caches and the allocator.
                if run > 0 {
                    times.push(time.as_nanos() as f64 / most as f64);
                }
            }
            model.sweep.push(Point { at: batch, ns_per_row: median(&times) });
        }
        let best = model.sweep.iter().min_by(|a, b| a.ns_per_row.total_cmp(&b.ns_per_row));
        model.best_batch = best.context("no batch size was tried")?.at;
        model.batches = rows.batches(rows.count, model.best_batch)?;
        Ok(model)
    }

    /// Runs all rows on this thread.
    pub fn run(&mut self) -> Result<Duration> {
        self.answers.clear();
        let started = Instant::now();
        run_batches(&mut self.sessions[0], self.output, &self.batches, &mut self.answers)?;
        Ok(started.elapsed())
    }

    /// The answers of the last `run`.
    pub fn answers(&self) -> &[f32] {
        &self.answers
    }

    /// Runs all rows on this thread and makes each batch's tensors on the clock.
    pub fn run_built(&mut self, rows: &Rows) -> Result<Duration> {
        let Self { sessions, output, halves, best_batch, .. } = self;
        let answers = &mut halves[0];
        answers.clear();
        let started = Instant::now();
        for from in (0..rows.count).step_by(*best_batch) {
            let batch = rows.batch(from, (from + *best_batch).min(rows.count))?;
            run_batches(&mut sessions[0], output, std::slice::from_ref(&batch), answers)?;
        }
        Ok(started.elapsed())
    }

    /// Runs all rows on two threads, half of the batches each.
    pub fn run_by_two(&mut self) -> Result<Duration> {
        let Self { sessions, output, batches, halves, .. } = self;
        let (first, second) = batches.split_at(batches.len() / 2);
        let started = Instant::now();
        std::thread::scope(|scope| {
            let threads: Vec<_> = sessions
                .iter_mut()
                .zip(halves)
                .zip([first, second])
                .map(|((session, answers), half)| {
                    answers.clear();
                    scope.spawn(|| run_batches(session, output, half, answers))
                })
                .collect();
            for thread in threads {
                match thread.join() {
                    Ok(result) => result?,
                    Err(_) => bail!("a thread of the raw run died"),
                }
            }
            Ok(())
        })?;
        Ok(started.elapsed())
    }
}

/// Opens a session as the extension does.
pub fn open(environment: &Environment, file: &Path) -> Result<Session> {
    let builder = Session::builder(environment)?;
    let builder = builder.with_intra_threads(1).map_err(|error| anyhow::anyhow!("{error}"))?;
    let mut builder = builder.with_intra_op_spinning(false).map_err(|error| anyhow::anyhow!("{error}"))?;
    builder.commit_from_file(file).with_context(|| format!("could not load {}", file.display()))
}

/// Runs batches and appends their answers.
fn run_batches(session: &mut Session, output: &Output, batches: &[Batch], answers: &mut Vec<f32>) -> Result<()> {
    without_subnormals(|| {
        for batch in batches {
            let inputs: Vec<_> = batch.tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
            let outputs = session.run(inputs)?;
            let value = outputs.get(output.name);
            let value = value.with_context(|| format!("the model has no output \"{}\"", output.name))?;
            let (_, scores) = value.try_extract_tensor::<f32>()?;
            if scores.len() != batch.rows * output.width {
                bail!("the model gave {} values for {} rows", scores.len(), batch.rows);
            }
            answers.extend(scores.iter().skip(output.width - 1).step_by(output.width));
        }
        Ok(())
    })
}

/// Runs something as the extension runs a model: subnormal numbers are zero.
pub fn without_subnormals<T>(run: impl FnOnce() -> T) -> T {
    // SAFETY: The mode is set for this thread and put back when the closure returns; in between no code depends on
    // subnormal numbers.
    unsafe { no_denormals::no_denormals(run) }
}
