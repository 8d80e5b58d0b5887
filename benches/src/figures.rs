//! Measured figures: points, medians, and how closely answers agree.

use serde::Serialize;

use crate::statements::contender::Kind;
use crate::statements::peer::Job;

/// Answers may differ from raw ONNX Runtime by this much, relative to the larger of 1 and the raw answer.
pub const TOLERANCE: f64 = 1e-4;

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
