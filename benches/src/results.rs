//! The results: what is kept of a run, and how it is written, as JSON for programs and as Markdown for people.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::contender::Kind;
use crate::machine::Machine;
use crate::raw::Point;
use crate::text::TextResults;

/// Answers may differ from raw ONNX Runtime by this much, relative to the larger of 1 and the raw answer.
pub const TOLERANCE: f64 = 1e-4;

/// The contender that the summary shows: one form, named beforehand, that reads the table of the scan floor. The
/// fastest of several would flatter.
const HEADLINE: &str = "columns";

/// Everything of one run.
#[derive(Serialize)]
pub struct Results {
    /// When it was measured, in UTC.
    pub date: String,
    /// Whether it was the short run.
    pub quick: bool,
    /// Rows in the table.
    pub rows: u64,
    /// Rows in the sample.
    pub sample_rows: u64,
    /// Warm runs of each contender.
    pub runs: usize,
    /// The machine.
    pub machine: Machine,
    /// Versions of what was measured.
    pub software: Software,
    /// The server's settings.
    pub settings: BTreeMap<String, String>,
    /// One entry a workload.
    pub workloads: Vec<WorkloadResults>,
    /// Embedding texts.
    pub text: Option<TextResults>,
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
    /// Bytes of the model's file.
    pub model_bytes: usize,
    /// The batch size of the raw runs.
    pub best_batch: usize,
    /// The sweep that found it.
    pub sweep: Vec<Point>,
    /// The times.
    pub contenders: Vec<Timing>,
    /// The answers beside raw ONNX Runtime.
    pub agreement: Vec<Agreement>,
}

/// The times of one contender.
#[derive(Serialize)]
pub struct Timing {
    /// Its key.
    pub key: &'static str,
    /// What it is.
    pub title: &'static str,
    /// What it is to the comparison.
    pub kind: Kind,
    /// The statement; none for raw ONNX Runtime.
    pub sql: Option<String>,
    /// Its plan.
    pub plan: Vec<String>,
    /// Rows that one run reads.
    pub rows: u64,
    /// ns per row of every warm run, in the order in which they ran.
    pub ns_per_row: Vec<f64>,
    /// The median of them.
    pub median: f64,
    /// The least of them.
    pub min: f64,
    /// The most of them.
    pub max: f64,
    /// The key of its floor.
    pub floor: Option<&'static str>,
    /// Its median over the floor's.
    pub over_floor: Option<f64>,
    /// The key of its raw run.
    pub raw: Option<&'static str>,
    /// Its median over the raw run's.
    pub over_raw: Option<f64>,
    /// Its median over floor and raw run together.
    pub over_both: Option<f64>,
}

/// The answers of one form beside raw ONNX Runtime.
#[derive(Serialize)]
pub struct Agreement {
    /// The form.
    pub form: &'static str,
    /// Rows compared.
    pub rows: u64,
    /// The largest difference, relative to the larger of 1 and the raw answer; none where it is infinite.
    pub largest_difference: Option<f64>,
    /// Whether it is within the tolerance.
    pub agrees: bool,
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

impl WorkloadResults {
    /// Fills in the ratios, when every contender has its times.
    pub fn relate(&mut self) -> Result<()> {
        for timing in &mut self.contenders {
            timing.median = median(&timing.ns_per_row);
            timing.min = timing.ns_per_row.iter().copied().fold(f64::INFINITY, f64::min);
            timing.max = timing.ns_per_row.iter().copied().fold(0.0, f64::max);
        }
        let medians: BTreeMap<&str, f64> = self.contenders.iter().map(|timing| (timing.key, timing.median)).collect();
        let find = |key: Option<&str>| {
            key.map(|key| medians.get(key).copied().with_context(|| format!("nothing is called {key}"))).transpose()
        };
        for timing in &mut self.contenders {
            let (floor, raw) = (find(timing.floor)?, find(timing.raw)?);
            timing.over_floor = floor.map(|floor| timing.median / floor);
            timing.over_raw = raw.map(|raw| timing.median / raw);
            timing.over_both = floor.zip(raw).map(|(floor, raw)| timing.median / (floor + raw));
        }
        Ok(())
    }

    /// The times of one contender.
    fn timing(&self, key: &str) -> Result<&Timing> {
        let found = self.contenders.iter().find(|timing| timing.key == key);
        found.with_context(|| format!("{} has no contender {key}", self.name))
    }
}

impl Results {
    /// Whether every form of every workload gave raw ONNX Runtime's answers.
    pub fn agree(&self) -> bool {
        self.workloads.iter().all(|workload| workload.agreement.iter().all(|form| form.agrees))
            && self.text.as_ref().is_none_or(TextResults::agrees)
    }

    /// The results as a Markdown page.
    pub fn markdown(&self) -> Result<String> {
        let mut page = String::new();
        let p = &mut page;
        let (machine, software) = (&self.machine, &self.software);
        let setting = |name: &str| self.settings.get(name).map_or("unknown", String::as_str);
        writeln!(p, "# pg_predict beside the scan and beside raw ONNX Runtime\n")?;
        writeln!(
            p,
            "{} rows x 10 float4, medians of {} warm runs in ns per row, the contenders taking turns.{}\n",
            thousands(self.rows),
            self.runs,
            if self.quick { " A quick run: good for a look, not for a claim." } else { "" }
        )?;
        writeln!(p, "- date: {}", self.date)?;
        writeln!(
            p,
            "- machine: {}, {} processors, {} GiB, {}, Linux {}; load before: {}",
            machine.processor,
            machine.processors,
            machine.memory_gib,
            machine.system,
            machine.kernel,
            machine.load_before
        )?;
        writeln!(p, "- PostgreSQL {}", software.postgresql)?;
        writeln!(p, "- pg_predict {} (commit {})", software.pg_predict, software.commit)?;
        writeln!(p, "- ONNX Runtime {}; 1 thread a session, no spinning, subnormals flushed", software.onnxruntime)?;
        writeln!(
            p,
            "- settings: shared_buffers {}, work_mem {}, jit {}, fsync {}, autovacuum {}\n",
            setting("shared_buffers"),
            setting("work_mem"),
            setting("jit"),
            setting("fsync"),
            setting("autovacuum")
        )?;
        self.write_summary(p)?;
        for workload in &self.workloads {
            workload.write(p)?;
        }
        if let Some(text) = &self.text {
            text.write(p)?;
        }
        writeln!(p, "\nHow to read this: benches/README.md.")?;
        Ok(page)
    }

    fn write_summary(&self, p: &mut String) -> Result<()> {
        writeln!(p, "| model | scan | raw ONNX Runtime | predict_batch | x scan | x raw | x (scan + raw) |")?;
        writeln!(p, "|---|--:|--:|--:|--:|--:|--:|")?;
        for workload in &self.workloads {
            let ours = workload.timing(HEADLINE)?;
            writeln!(
                p,
                "| {} | {} | {} | **{}** | {} | {} | {} |",
                workload.title,
                ns(workload.timing("scan")?.median),
                ns(workload.timing("raw")?.median),
                ns(ours.median),
                ratio(ours.over_floor),
                ratio(ours.over_raw),
                ratio(ours.over_both)
            )?;
        }
        Ok(())
    }
}

impl WorkloadResults {
    fn write(&self, p: &mut String) -> Result<()> {
        writeln!(p, "\n## {}\n", self.title)?;
        writeln!(p, "| | what | median | min | max | x its floor | x its raw | x (floor + raw) |")?;
        writeln!(p, "|---|---|--:|--:|--:|--:|--:|--:|")?;
        for kind in [Kind::Floor, Kind::Raw, Kind::Ours] {
            for timing in self.contenders.iter().filter(|timing| timing.kind == kind) {
                writeln!(
                    p,
                    "| {} | {} | {} | {} | {} | {} | {} | {} |",
                    match kind {
                        Kind::Floor => "floor",
                        Kind::Raw => "raw",
                        Kind::Ours => "ours",
                    },
                    timing.title,
                    ns(timing.median),
                    ns(timing.min),
                    ns(timing.max),
                    ratio(timing.over_floor),
                    ratio(timing.over_raw),
                    ratio(timing.over_both)
                )?;
            }
        }
        let sweep: Vec<String> =
            self.sweep.iter().map(|point| format!("{}: {}", point.batch, ns(point.ns_per_row))).collect();
        writeln!(p, "\nRaw by batch size (best {}): {}.", self.best_batch, sweep.join(", "))?;
        let agreement: Vec<String> = self
            .agreement
            .iter()
            .map(|form| {
                let largest = form.largest_difference.map_or("infinite".to_owned(), |value| format!("{value:.1e}"));
                let verdict = if form.agrees { "" } else { " **WRONG**" };
                format!("{} {largest}{verdict} ({} rows)", form.form, thousands(form.rows))
            })
            .collect();
        writeln!(
            p,
            "\nAnswers beside raw, largest difference (at most {TOLERANCE:.0e} is the same): {}.",
            agreement.join(", ")
        )?;
        Ok(())
    }
}

/// A time with three digits that mean something.
fn ns(value: f64) -> String {
    if value < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

fn ratio(value: Option<f64>) -> String {
    value.map_or_else(String::new, |value| if value < 100.0 { format!("{value:.2}") } else { format!("{value:.0}") })
}

fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
