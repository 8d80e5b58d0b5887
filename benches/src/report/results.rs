//! The results: what is kept of a run, for programs. `page.rs` writes them for people, `checklist.rs` judges them.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::figures::{Agreement, Figure, Point, Timing};
use crate::machine::Machine;
use crate::measurements::memory::MemoryResults;
use crate::measurements::scale::ScaleResults;
use crate::measurements::small::SmallResults;
use crate::measurements::start::StartResults;
use crate::measurements::text::TextResults;
use crate::statements::peer::Hello;
use crate::target::Line;

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
