//! The results: what is kept of a run, for programs. `page.rs` writes them for people, `checklist.rs` judges them.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::checklist::Line;
use crate::contender::Kind;
use crate::machine::Machine;
use crate::memory::MemoryResults;
use crate::peer::{Hello, Job};
use crate::scale::ScaleResults;
use crate::small::SmallResults;
use crate::start::StartResults;
use crate::text::TextResults;

/// Answers may differ from raw ONNX Runtime by this much, relative to the larger of 1 and the raw answer.
pub const TOLERANCE: f64 = 1e-4;

/// Everything of one run.
#[derive(Serialize)]
pub struct Results {
    /// When it was measured, in UTC.
    pub date: String,
    /// Whether it was the short run.
    pub quick: bool,
    /// Rows of `bench_rows`.
    pub rows: u64,
    /// Warm runs of each contender.
    pub runs: usize,
    /// The machine.
    pub machine: Machine,
    /// Versions of what was measured.
    pub software: Software,
    /// The server's settings.
    pub settings: BTreeMap<String, String>,
    /// What the peers said of themselves.
    pub peers: Option<Hello>,
    /// The targets, and whether they were met.
    pub checklist: Vec<Line>,
    /// One entry a workload.
    pub workloads: Vec<WorkloadResults>,
    /// Embedding texts.
    pub text: Option<TextResults>,
    /// From few rows to many.
    pub scale: Option<ScaleResults>,
    /// Small calls.
    pub small: Option<SmallResults>,
    /// The first prediction of a backend.
    pub start: Option<StartResults>,
    /// Memory of sessions.
    pub memory: Option<MemoryResults>,
}

/// Versions of what was measured.
#[derive(Serialize)]
pub struct Software {
    /// The server's own words.
    pub postgresql: String,
    /// The extension's version.
    pub pg_predict: String,
    /// The commit that this program was run from.
    pub commit: String,
    /// The library's version and build.
    pub onnxruntime: String,
}

/// What was measured of one workload.
#[derive(Serialize)]
pub struct WorkloadResults {
    /// Its key.
    pub name: &'static str,
    /// What the model is.
    pub title: &'static str,
    /// Rows of its table.
    pub rows: u64,
    /// The batch size of the raw runs.
    pub best_batch: usize,
    /// Raw ONNX Runtime by batch size.
    pub raw_sweep: Vec<Point>,
    /// `predict_batch` over columns by batch size; 0 is the version's own.
    pub sweep: Vec<Point>,
    /// The times.
    pub contenders: Vec<Timing>,
    /// The answers beside raw ONNX Runtime.
    pub agreement: Vec<Agreement>,
}

/// A time by something that was varied.
#[derive(Serialize)]
pub struct Point {
    /// Where it was set.
    pub at: usize,
    /// The median time of a row.
    pub ns_per_row: f64,
}

/// The times of one contender.
#[derive(Serialize)]
pub struct Timing {
    /// Its key.
    pub key: String,
    /// What it is.
    pub title: String,
    /// What it is to the comparison.
    pub kind: Kind,
    /// What a peer was asked.
    pub job: Option<Job>,
    /// The statement; none where it is none.
    pub sql: Option<String>,
    /// Its plan.
    pub plan: Vec<String>,
    /// Rows that one run reads.
    pub rows: u64,
    /// ns per row of every warm run, in the order in which they ran.
    pub ns_per_row: Vec<f64>,
    /// Processor time of server and clients, ns per row, over all warm runs together.
    pub cpu_ns_per_row: f64,
    /// The median time.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
    /// The key of its floor.
    pub floor: Option<&'static str>,
    /// Its median over the floor's.
    pub over_floor: Option<f64>,
    /// The key of its raw run.
    pub raw: Option<&'static str>,
    /// Its median over the raw run's.
    pub over_raw: Option<f64>,
    /// Its median over the larger of floor and raw run.
    pub over_larger: Option<f64>,
}

/// The answers of one form beside raw ONNX Runtime.
#[derive(Serialize)]
pub struct Agreement {
    /// The form.
    pub form: String,
    /// Rows compared.
    pub rows: u64,
    /// The largest difference, relative to the larger of 1 and the raw answer; none where it is infinite.
    pub largest_difference: Option<f64>,
    /// Whether it is within the tolerance.
    pub agrees: bool,
}

/// A figure with its median, least and most.
#[derive(Clone, Serialize)]
pub struct Figure {
    /// Every run.
    pub runs: Vec<f64>,
    /// The median.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

/// The median; NaN of nothing.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

impl From<Vec<f64>> for Figure {
    fn from(runs: Vec<f64>) -> Self {
        Self {
            median: median(&runs),
            min: runs.iter().copied().fold(f64::INFINITY, f64::min),
            max: runs.iter().copied().fold(0.0, f64::max),
            runs,
        }
    }
}

impl WorkloadResults {
    /// Fills in the ratios, when every contender has its times.
    pub fn relate(&mut self) -> Result<()> {
        for timing in &mut self.contenders {
            let figure = Figure::from(timing.ns_per_row.clone());
            (timing.median, timing.min, timing.max) = (figure.median, figure.min, figure.max);
        }
        let medians: BTreeMap<&str, f64> =
            self.contenders.iter().map(|timing| (timing.key.as_str(), timing.median)).collect();
        let find = |key: Option<&str>| {
            key.map(|key| medians.get(key).copied().with_context(|| format!("nothing is called {key}"))).transpose()
        };
        let over = |timing: &Timing| -> Result<[Option<f64>; 3]> {
            let (floor, raw) = (find(timing.floor)?, find(timing.raw)?);
            let larger = floor.zip(raw).map(|(floor, raw)| floor.max(raw));
            Ok([floor, raw, larger].map(|below| below.map(|below| timing.median / below)))
        };
        let ratios = self.contenders.iter().map(over).collect::<Result<Vec<_>>>()?;
        for (timing, ratios) in self.contenders.iter_mut().zip(ratios) {
            [timing.over_floor, timing.over_raw, timing.over_larger] = ratios;
        }
        Ok(())
    }

    /// The times of one contender, where it was timed.
    pub fn timing(&self, key: &str) -> Option<&Timing> {
        self.contenders.iter().find(|timing| timing.key == key)
    }

    /// The median of one contender, in ns per row.
    pub fn median(&self, key: &str) -> Option<f64> {
        self.timing(key).map(|timing| timing.median)
    }
}

impl Results {
    /// Whether every form of every workload gave raw ONNX Runtime's answers.
    pub fn agree(&self) -> bool {
        self.workloads.iter().all(|workload| workload.agreement.iter().all(|form| form.agrees))
            && self.text.as_ref().is_none_or(TextResults::agrees)
    }

    /// A workload, where it was measured.
    pub fn workload(&self, name: &str) -> Option<&WorkloadResults> {
        self.workloads.iter().find(|workload| workload.name == name)
    }
}
