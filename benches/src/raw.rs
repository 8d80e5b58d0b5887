//! Raw ONNX Runtime: what a program of its own would reach with the same library, the same threads and the rows in memory.
//!
//! One intra-op thread, no spinning, subnormals flushed to zero: as the extension runs its sessions.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ort::environment::Environment;
use ort::session::Session;
use ort::value::TensorRef;

use crate::workload::FEATURES;

/// Batch sizes that the sweep tries.
pub const BATCHES: [usize; 8] = [1, 16, 64, 256, 1024, 4096, 16384, 65536];

/// Runs of each batch size; the median counts.
const SWEEP_RUNS: usize = 3;

/// The most rows that a run of the sweep reads, and the most that it reads one by one.
const SWEEP_ROWS: usize = 200_000;
const SWEEP_ROWS_ONE_BY_ONE: usize = 20_000;

/// The feature rows, one behind the other.
pub struct Matrix(pub Vec<f32>);

impl Matrix {
    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.0.len() / FEATURES.len()
    }

    /// Rows `from` to `to`.
    fn slice(&self, from: usize, to: usize) -> &[f32] {
        &self.0[from * FEATURES.len()..to * FEATURES.len()]
    }
}

/// One point of the sweep.
#[derive(serde::Serialize)]
pub struct Point {
    /// Rows in a batch.
    pub batch: usize,
    /// The median time of a row.
    pub ns_per_row: f64,
}

/// A model loaded in ONNX Runtime, twice, so that two threads can run it without waiting for each other.
pub struct Model {
    sessions: [Session; 2],
    output: &'static str,
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
    /// Loads a model and finds its best batch size over the rows.
    pub fn load(environment: &Environment, file: &Path, output: &'static str, matrix: &Matrix) -> Result<Self> {
        let sessions = [open(environment, file)?, open(environment, file)?];
        let mut model = Self { sessions, output, best_batch: 1, sweep: Vec::new() };
        let mut answers = Vec::with_capacity(matrix.rows());
        for batch in BATCHES {
            let most = if batch == 1 { SWEEP_ROWS_ONE_BY_ONE } else { SWEEP_ROWS };
            let rows = matrix.rows().min(most);
            let mut times = Vec::with_capacity(SWEEP_RUNS);
            for run in 0..=SWEEP_RUNS {
                let time = model.run(matrix, rows, batch, &mut answers)?;
                // The first run warms the caches and the allocator.
                if run > 0 {
                    times.push(time.as_nanos() as f64 / rows as f64);
                }
            }
            model.sweep.push(Point { batch, ns_per_row: crate::results::median(&times) });
        }
        let best = model.sweep.iter().min_by(|a, b| a.ns_per_row.total_cmp(&b.ns_per_row));
        model.best_batch = best.context("no batch size was tried")?.batch;
        Ok(model)
    }

    /// Runs the first rows in batches on this thread; the answers replace what `answers` held.
    pub fn run(&mut self, matrix: &Matrix, rows: usize, batch: usize, answers: &mut Vec<f32>) -> Result<Duration> {
        answers.clear();
        let started = Instant::now();
        run_slice(&mut self.sessions[0], self.output, matrix.slice(0, rows), batch, answers)?;
        Ok(started.elapsed())
    }

    /// Runs all rows on two threads, half each.
    pub fn run_by_two(&mut self, matrix: &Matrix, batch: usize, answers: &mut [Vec<f32>; 2]) -> Result<Duration> {
        let output = self.output;
        let middle = matrix.rows() / 2;
        let halves = [matrix.slice(0, middle), matrix.slice(middle, matrix.rows())];
        let started = Instant::now();
        std::thread::scope(|scope| {
            let threads: Vec<_> = self
                .sessions
                .iter_mut()
                .zip(answers.iter_mut())
                .zip(halves)
                .map(|((session, answers), half)| {
                    answers.clear();
                    scope.spawn(move || run_slice(session, output, half, batch, answers))
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

/// Runs rows in batches and appends their answers.
fn run_slice(session: &mut Session, output: &str, rows: &[f32], batch: usize, answers: &mut Vec<f32>) -> Result<()> {
    let width = FEATURES.len();
    let all = || -> Result<()> {
        for chunk in rows.chunks(batch * width) {
            let count = chunk.len() / width;
            let tensor = TensorRef::from_array_view(([count as i64, width as i64], chunk))?;
            let outputs = session.run(ort::inputs![tensor])?;
            let value = outputs.get(output).with_context(|| format!("the model has no output \"{output}\""))?;
            let (_, scores) = value.try_extract_tensor::<f32>()?;
            if scores.len() != count {
                bail!("the model gave {} answers for {count} rows", scores.len());
            }
            answers.extend_from_slice(scores);
        }
        Ok(())
    };
    without_subnormals(all)
}

/// Runs something as the extension runs a model: subnormal numbers are zero.
pub fn without_subnormals<T>(run: impl FnOnce() -> T) -> T {
    // SAFETY: The mode is set for this thread and put back when the closure returns; in between no code depends on
    // subnormal numbers.
    unsafe { no_denormals::no_denormals(run) }
}
