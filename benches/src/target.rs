//! One target of the benchmark.

use serde::Serialize;

/// One target.
#[derive(Serialize)]
pub struct Line {
    /// What is compared.
    pub what: String,
    /// The bound.
    pub target: f64,
    /// Whether the bound is the most that is allowed, and not the least that is wanted.
    pub at_most: bool,
    /// What both are in: `x` for a ratio.
    pub unit: &'static str,
    /// What was measured; none where it was not.
    pub measured: Option<f64>,
}

impl Line {
    /// Whether the target was met; none where nothing was measured.
    pub fn met(&self) -> Option<bool> {
        self.measured.map(|measured| if self.at_most { measured <= self.target } else { measured >= self.target })
    }
}
