//! Computes the positions of the marks in the report's charts. A chart is 400 units wide; the template draws it.

use serde::{Deserialize, Serialize};

use super::figures::{duration, figure, fixed, percent, tick, trimmed};

/// The elements of a chart. Coordinates are those of SVG, from the top left.
#[derive(Serialize, Default)]
pub(super) struct Chart {
    height: u32,
    /// The figures as text, for readers who do not see the chart.
    description: String,
    /// The y coordinates of the horizontal grid lines.
    grid: Vec<String>,
    bars: Vec<Bar>,
    /// The points of a line, in SVG's notation.
    line: String,
    dots: Vec<Dot>,
    labels: Vec<Label>,
    /// The x coordinate of a vertical line.
    mark: Option<String>,
}

#[derive(Serialize)]
struct Bar {
    class: &'static str,
    x: String,
    y: String,
    width: String,
    height: String,
    title: String,
}

#[derive(Serialize)]
struct Dot {
    class: &'static str,
    x: String,
    y: String,
    title: String,
}

#[derive(Serialize)]
struct Label {
    class: &'static str,
    x: String,
    y: String,
    text: String,
}

/// The distribution of the values of a feature or an output: shares of the rows per bin or category.
#[derive(Deserialize)]
pub(super) struct Histogram {
    name: String,
    base: Vec<f64>,
    now: Option<Vec<f64>>,
    /// The categories; None for numbers.
    labels: Option<Vec<String>>,
    /// The lower bound of the first bin. `step` is the width of each bin.
    #[serde(default)]
    low: f64,
    #[serde(default)]
    step: f64,
    /// Whether each bin is one whole number.
    #[serde(default)]
    whole: bool,
}

/// A run of a job.
#[derive(Deserialize)]
pub(super) struct Run {
    id: i64,
    status: String,
    scored: f64,
    skipped: f64,
    failed: f64,
    row_micros: Option<f64>,
}

/// The measured throughput of a version.
#[derive(Deserialize)]
pub(super) struct Speed {
    batch_size: Option<f64>,
    sweep: Vec<Sample>,
}

/// The measurement of one batch.
#[derive(Deserialize)]
struct Sample {
    rows: Option<f64>,
    /// Throughput in rows per second.
    speed: Option<f64>,
}

/// Formats a coordinate with at most one decimal.
fn at(x: f64) -> String {
    trimmed(x, 1)
}

/// Pairs each item with its index: 0, 1, 2 and so on.
fn numbered<T>(items: impl IntoIterator<Item = T>) -> impl Iterator<Item = (f64, T)> {
    (0_u32..).map(f64::from).zip(items)
}

fn label(class: &'static str, x: f64, y: f64, text: String) -> Label {
    Label { class, x: at(x), y: at(y), text }
}

/// Returns the distance between about `marks` marks on an axis: 1, 2 or 5 times a power of ten.
fn tick_step(span: f64, marks: f64) -> f64 {
    let step = span / marks;
    let power = 10_f64.powf(step.log10().floor());
    power
        * match step / power {
            f if f < 1.5 => 1.0,
            f if f < 3.5 => 2.0,
            f if f < 7.5 => 5.0,
            _ => 10.0,
        }
}

fn largest(values: impl IntoIterator<Item = f64>, least: f64) -> f64 {
    values.into_iter().fold(least, f64::max)
}

impl Bar {
    fn new(class: &'static str, (x, y): (f64, f64), (width, height): (f64, f64), title: String) -> Self {
        Self { class, x: at(x), y: at(y), width: at(width), height: at(height), title }
    }
}

impl Chart {
    /// Adds the vertical axis from 0 to `most`: grid lines, and their numbers followed by the unit.
    fn axis(mut self, most: f64, bottom: f64, top: f64, unit: &str) -> Self {
        let step = tick_step(most, 4.0);
        for value in (0_u8..20).map(|i| f64::from(i) * step).take_while(|value| *value <= most * 1.0001) {
            let y = bottom - value / most * (bottom - top);
            self.grid.push(at(y));
            self.labels.push(label("end", 41.0, y + 4.0, tick(value) + unit));
        }
        self
    }
}

impl Histogram {
    fn most(&self) -> f64 {
        largest(self.base.iter().chain(self.now.iter().flatten()).copied(), 1e-6)
    }

    /// Returns the index and name of each bar, its share of the baseline and its current share.
    fn bars(&self) -> impl Iterator<Item = (f64, String, f64, Option<f64>)> {
        numbered(&self.base).enumerate().map(|(i, (n, base))| {
            let name = match &self.labels {
                Some(labels) => labels.get(i).cloned().unwrap_or_default(),
                None if self.whole => tick(self.low + (n + 0.5) * self.step),
                None => format!("{} to {}", tick(self.low + n * self.step), tick(self.low + (n + 1.0) * self.step)),
            };
            (n, name, *base, self.now.as_ref().and_then(|now| now.get(i)).copied())
        })
    }

    fn figures(&self) -> String {
        let bars = self.bars().map(|(_, name, base, now)| {
            let now = now.map_or_else(String::new, |now| format!(", {} %", fixed(now * 100.0, 1)));
            format!("{name}: {} %{now}", fixed(base * 100.0, 1))
        });
        bars.collect::<Vec<_>>().join("; ")
    }

    fn size(&self) -> f64 {
        numbered(&self.base).last().map_or(1.0, |(n, _)| n + 1.0)
    }
}

/// Draws a histogram with vertical bars for numbers and horizontal bars for categories. The baseline's bars are wide.
/// The current ones are narrow and in front of them.
pub(super) fn histogram(h: &Histogram) -> Chart {
    if h.labels.is_some() { categories(h) } else { numbers(h) }
}

fn numbers(h: &Histogram) -> Chart {
    let (most, size) = (h.most(), h.size());
    let width = 342.0 / size;
    let mut chart = Chart {
        height: 206,
        description: format!(
            "Histogram of {} in {size} bins. Shares of the rows, baseline first, then now where there are rows: {}.",
            h.name,
            h.figures()
        ),
        ..Chart::default()
    }
    .axis(most * 100.0, 182.0, 12.0, "%");
    let bar = |class, n: f64, margin: f64, share: f64, title| {
        let height = share / most * 170.0;
        let x = 46.0 + (n + margin) * width;
        Bar::new(class, (x, 182.0 - height), (width * (1.0 - 2.0 * margin), height), title)
    };
    for (n, name, base, _) in h.bars() {
        chart.bars.push(bar("base", n, 0.06, base, format!("{name}: {} of the baseline", percent(base))));
    }
    for (n, name, _, now) in h.bars() {
        chart.bars.extend(now.map(|now| bar("now", n, 0.28, now, format!("{name}: {} now", percent(now)))));
    }
    // The label is a whole number below the middle of its bar, or a bound below the edge of two bars.
    let middle = if h.whole { 0.5 } else { 0.0 };
    let every = (size / 6.0).ceil().max(1.0);
    for n in (0_u32..).map(f64::from).take_while(|n| n + 2.0 * middle <= size).filter(|n| n % every == 0.0) {
        let text = tick(h.low + (n + middle) * h.step);
        chart.labels.push(label("mid", 46.0 + (n + middle) * width, 199.0, text));
    }
    chart
}

fn categories(h: &Histogram) -> Chart {
    let (most, size) = (h.most(), h.size());
    let height = if size <= 5.0 { 32.0 } else { 17.0 };
    let mut chart = Chart {
        height: h.base.iter().fold(14, |sum, _| sum + if size <= 5.0 { 32 } else { 17 }),
        description: format!(
            "Shares of the categories of {}, baseline first, then now where there are rows: {}.",
            h.name,
            h.figures()
        ),
        ..Chart::default()
    };
    for (n, name, base, now) in h.bars() {
        let (y, middle) = (6.0 + n * height, 10.0 + (n + 0.5) * height);
        let short =
            if name.chars().count() <= 14 { name.clone() } else { name.chars().take(13).chain(['\u{2026}']).collect() };
        chart.labels.push(label("end", 96.0, middle, short));
        let title = format!("{name}: {} of the baseline", percent(base));
        chart.bars.push(Bar::new("base", (102.0, y + 1.5), (base / most * 186.0, height - 3.0), title));
        let mut shares = percent(base);
        if let Some(now) = now {
            let title = format!("{name}: {} now", percent(now));
            let size = (now / most * 186.0, height * 0.44);
            chart.bars.push(Bar::new("now", (102.0, y + height * 0.28), size, title));
            shares += " \u{2192} ";
            shares += &percent(now);
        }
        let longest = base.max(now.unwrap_or(0.0));
        chart.labels.push(label("", longest / most * 186.0 + 108.0, middle, shares));
    }
    chart
}

/// Draws a histogram of either kind, 110 wide and 26 high, for a table cell next to the figures.
pub(super) fn small(h: &Histogram) -> Chart {
    let (most, width) = (h.most(), 110.0 / h.size());
    let bar = |class, n: f64, left: f64, wide: f64, share: f64| {
        let height = share / most * 25.0;
        Bar::new(class, ((n + left) * width, 26.0 - height), (width * wide, height), String::new())
    };
    let base = h.bars().map(|(n, _, base, _)| bar("base", n, 0.0, 0.88, base));
    let now = h.bars().filter_map(|(n, _, _, now)| Some(bar("now", n, 0.22, 0.44, now?)));
    Chart { bars: base.chain(now).collect(), ..Chart::default() }
}

/// Returns the width of each run on the axis of runs, and the labels below the axis.
fn run_axis(runs: &[Run]) -> (f64, Vec<Label>) {
    let size = numbered(runs).last().map_or(0.0, |(n, _)| n + 1.0);
    let width = 350.0 / size.max(6.0);
    let every = (size / 8.0).ceil();
    let marks = numbered(runs).filter(|(n, _)| n % every == 0.0);
    let mut labels: Vec<Label> =
        marks.map(|(n, run)| label("mid", 46.0 + (n + 0.5) * width, 179.0, run.id.to_string())).collect();
    labels.push(label("mid", 221.0, 196.0, "run".to_owned()));
    (width, labels)
}

/// Draws the rows of a job's runs as stacked bars: scored, skipped and failed.
pub(super) fn rows(runs: &[Run]) -> Chart {
    let most = largest(runs.iter().map(|r| r.scored + r.skipped + r.failed), 1.0);
    let (width, labels) = run_axis(runs);
    let figures: Vec<String> = runs
        .iter()
        .map(|r| format!("run {}: {} scored, {} skipped, {} failed", r.id, r.scored, r.skipped, r.failed))
        .collect();
    let mut chart = Chart {
        height: 200,
        description: format!("Rows of the last {} runs: {}.", runs.len(), figures.join("; ")),
        labels,
        ..Chart::default()
    }
    .axis(most, 162.0, 12.0, "");
    for (n, run) in numbered(runs) {
        let mut below = 0.0;
        let kinds = [("now", "scored", run.scored), ("base", "skipped", run.skipped), ("bad", "failed", run.failed)];
        for (class, name, rows) in kinds {
            let height = rows / most * 150.0;
            if rows > 0.0 {
                let place = (46.0 + (n + 0.14) * width, 162.0 - below / most * 150.0 - height);
                let title = format!("run {}: {} rows {name}", run.id, figure(rows));
                chart.bars.push(Bar::new(class, place, (width * 0.72, height), title));
            }
            below += rows;
        }
    }
    chart
}

/// Draws the latency per row over the runs of a job. Runs that did not succeed are hollow. Runs without a measured
/// latency have no point.
pub(super) fn latency(runs: &[Run]) -> Chart {
    let most = largest(runs.iter().filter_map(|r| r.row_micros), 1e-3);
    let (width, labels) = run_axis(runs);
    let (mut figures, mut line, mut dots) = (Vec::new(), Vec::new(), Vec::new());
    for (n, run) in numbered(runs) {
        let Some(micros) = run.row_micros else { continue };
        let (x, y) = (at(46.0 + (n + 0.5) * width), at(162.0 - micros / most * 150.0));
        let succeeded = run.status == "succeeded";
        figures.push(format!("run {}: {} ({})", run.id, figure(micros), run.status));
        if succeeded {
            line.push(format!("{x},{y}"));
        }
        let title = format!("run {}, {}: {} for a row", run.id, run.status, duration(micros));
        dots.push(Dot { class: if succeeded { "dot" } else { "hollow" }, x, y, title });
    }
    Chart {
        height: 200,
        description: format!("Microseconds for a row, over the last {} runs: {}.", runs.len(), figures.join("; ")),
        line: line.join(" "),
        dots,
        labels,
        ..Chart::default()
    }
    .axis(most, 162.0, 12.0, "")
}

/// Draws the measured throughput over the batch size, with a mark at the batch size in use.
/// Returns None if nothing was measured.
pub(super) fn speed(speed: &Speed) -> Option<Chart> {
    let batch_size = speed.batch_size.filter(|size| *size >= 1.0)?;
    let samples = speed.sweep.iter().filter_map(|s| Some((s.rows?, s.speed?)));
    let samples: Vec<(f64, f64)> = samples.filter(|(rows, speed)| *rows >= 1.0 && *speed > 0.0).collect();
    if samples.is_empty() {
        return None;
    }
    let most = largest(samples.iter().map(|(_, speed)| *speed), 1.0);
    let low = samples.iter().map(|(rows, _)| *rows).fold(batch_size, f64::min).ln();
    let span = (largest(samples.iter().map(|(rows, _)| *rows), batch_size).ln() - low).max(1e-9);
    let place = |rows: f64| 58.0 + (rows.ln() - low) / span * 326.0;
    let figures: Vec<String> =
        samples.iter().map(|(rows, speed)| format!("{rows} rows: {} a second", figure(*speed))).collect();
    let mut chart = Chart {
        height: 220,
        description: format!(
            "Rows a second for batches of growing size; {batch_size} rows are run together. {}.",
            figures.join("; ")
        ),
        mark: Some(at(place(batch_size))),
        ..Chart::default()
    }
    .axis(most, 182.0, 17.0, "");
    let right = batch_size.ln() - low > span / 2.0;
    let (class, x) = if right { ("end", place(batch_size) - 5.0) } else { ("", place(batch_size) + 5.0) };
    chart.labels.push(label(class, x, 174.0, format!("used: {}", figure(batch_size))));
    let every = numbered(&samples).last().map_or(1.0, |(n, _)| ((n + 1.0) / 8.0).ceil());
    let mut line = Vec::new();
    for (n, (rows, speed)) in numbered(&samples) {
        let (x, y) = (at(place(*rows)), at(182.0 - speed / most * 165.0));
        line.push(format!("{x},{y}"));
        if n % every == 0.0 {
            let text = if rows % 1024.0 == 0.0 { format!("{}k", rows / 1024.0) } else { tick(*rows) };
            chart.labels.push(label("mid", place(*rows), 199.0, text));
        }
        let title = format!("{} rows together: {} rows a second", figure(*rows), figure(*speed));
        chart.dots.push(Dot { class: "dot", x, y, title });
    }
    chart.line = line.join(" ");
    chart.labels.push(label("mid", 221.0, 216.0, "rows run together".to_owned()));
    Some(chart)
}
