//! The targets of this project, what was measured for each, and whether it was met. A target that was not met fails
//! no run; only a wrong answer does.

use crate::figures::Timing;
use crate::report::results::{Results, WorkloadResults};
use crate::statements::contender::Kind;
use crate::statements::peer::Class;
use crate::target::Line;

/// The least that a peer's best may be over ours, by workload: scored, written back, scored by two.
const PEERS: &[(&str, [f64; 3])] =
    &[("linear", [3.5, 1.4, 4.0]), ("mlp", [3.0, 1.4, 2.8]), ("lgbm", [1.0, 1.0, 1.05]), ("flights", [1.3, 1.25, 1.3])];

/// What chance may do to the same plan twice.
const NOISE: f64 = 1.03;

/// Every target, judged.
pub fn lines(results: &Results) -> Vec<Line> {
    let mut lines = Vec::new();
    forms(results, &mut lines);
    peers(results, &mut lines);
    sessions(results, &mut lines);
    lines
}

pub fn at_most(what: impl Into<String>, target: f64, unit: &'static str, measured: Option<f64>) -> Line {
    Line { what: what.into(), target, at_most: true, unit, measured }
}

fn at_least(what: impl Into<String>, target: f64, unit: &'static str, measured: Option<f64>) -> Line {
    Line { what: what.into(), target, at_most: false, unit, measured }
}

/// The ratio of two contenders' medians.
fn over(workload: Option<&WorkloadResults>, above: &str, below: &str) -> Option<f64> {
    let workload = workload?;
    Some(workload.median(above)? / workload.median(below)?)
}

/// The forms beside their floors, and beside each other.
fn forms(results: &Results, lines: &mut Vec<Line>) {
    let larger = |name: &str, key: &str| results.workload(name)?.timing(key)?.over_larger;
    let ratio = |name: &str, above: &str, below: &str| over(results.workload(name), above, below);
    // `predict` under an aggregate may take 5 % of the floor more than `predict_batch`; for linear its own bound.
    for (form, key, linear, more) in
        [("predict_batch, columns", "columns", 1.15, 0.0), ("sum(predict(columns))", "plain", 1.25, 0.05)]
    {
        lines.push(at_most(format!("linear: {form} / scan"), linear, "x", ratio("linear", key, "scan")));
        lines.push(at_most(format!("MLP: {form} / max(scan, model)"), 1.15 + more, "x", larger("mlp", key)));
    }
    // Trees take a small part of what raw ONNX Runtime takes. The bound on LightGBM is that of a processor with AVX-512.
    for (name, form, key, bound) in [
        ("lgbm", "predict_batch, columns", "columns", 250.0),
        ("lgbm", "sum(predict(columns))", "plain", 250.0),
        ("flights", "predict_batch, columns", "columns", 700.0),
        ("flights", "sum(predict(columns))", "plain", 700.0),
    ] {
        let measured = results.workload(name).and_then(|workload| workload.median(key));
        lines.push(at_most(format!("{name}: {form}"), bound, "ns", measured));
    }
    let what = "lgbm: raw ONNX Runtime / predict_batch, columns";
    lines.push(at_least(what, 20.0, "x", ratio("lgbm", "raw", "columns")));
    for name in ["linear", "mlp", "flights", "loans"] {
        let of = |key: &str| results.workload(name).and_then(|workload| workload.median(key));
        let forms: Option<Vec<f64>> = ["columns", "row", "plain", "plain_row"].into_iter().map(of).collect();
        let spread = forms.map(|forms| {
            let (least, most) = forms.iter().fold((f64::INFINITY, 0.0_f64), |(l, m), x| (l.min(*x), m.max(*x)));
            most / least
        });
        lines.push(at_most(format!("{name}: the slowest form / the fastest"), 1.1, "x", spread));
    }
    lines.push(at_most("linear: predictions() of a whole row / scan", 1.25, "x", ratio("linear", "row", "scan")));
    let what = "linear: predictions() of a whole row, speed-up by two processes";
    lines.push(at_least(what, 1.7, "x", ratio("linear", "row", "row_2")));
    let what = "linear: CREATE TABLE AS (id, score) from predictions() / (id, a)";
    lines.push(at_most(what, 1.25, "x", ratio("linear", "ctas", "ctas_floor")));
    lines.push(at_most("linear: predict_batch cast to real[] / scan", 1.15, "x", ratio("linear", "cast", "scan")));
    let first = results.workload("linear").and_then(|workload| workload.median("limit"));
    lines.push(at_most("linear: predictions(), the first row", 20.0, "ms", first.map(|ns| ns / 1e6)));
    lines.push(at_most(
        "flights: predictions() of a whole row / sum(predict(columns))",
        1.05,
        "x",
        ratio("flights", "row", "plain"),
    ));
    let what = "linear: CREATE TABLE AS (id, score) / (id, a)";
    lines.push(at_most(what, 1.35, "x", ratio("linear", "plain_ctas", "ctas_floor")));
    for (form, own, serial) in [("predict_batch", "columns_planner", "columns"), ("predict", "plain_planner", "plain")]
    {
        let what = format!("linear: {form}, the planner's choice with two workers / serial");
        lines.push(at_most(what, NOISE, "x", ratio("linear", own, serial)));
    }
    for workload in &results.workloads {
        let of = |point: &crate::figures::Point| point.ns_per_row;
        let own = workload.sweep.iter().find(|point| point.at == 0).map(of);
        let best = workload.sweep.iter().filter(|point| point.at > 0).map(of).reduce(f64::min);
        let what = format!("{}: batch_size 0 / the best fixed size", workload.name);
        lines.push(at_most(what, 1.05, "x", own.zip(best).map(|(own, best)| own / best)));
    }
}

/// The fastest that competes, of those that a test lets through.
fn best<'a>(workload: &'a WorkloadResults, task: &str, threads: u32, of: impl Fn(&str) -> bool) -> Option<&'a Timing> {
    let competes = |timing: &&Timing| {
        timing.kind == Kind::Peer
            && timing.job.as_ref().is_some_and(|job| {
                job.class == Class::Competes && job.task == task && job.threads == threads && of(&job.peer)
            })
    };
    workload.contenders.iter().filter(competes).min_by(|a, b| a.median.total_cmp(&b.median))
}

/// The peers beside us.
fn peers(results: &Results, lines: &mut Vec<Line>) {
    for (name, targets) in PEERS {
        let forms = [
            ("score and aggregate", "plain", "score", 1),
            ("written back", "plain_ctas", "write", 1),
            ("two processes, best peer with two threads", "plain_2", "score", 2),
        ];
        for ((what, ours, task, threads), target) in forms.into_iter().zip(targets) {
            let workload = results.workload(name);
            let found = workload.and_then(|workload| best(workload, task, threads, |_| true));
            let measured = found.zip(workload.and_then(|workload| workload.median(ours)));
            let who = found.and_then(|timing| timing.job.as_ref()).map_or("best peer", |job| job.peer.as_str());
            let what = format!("{name}: {what}: {who} / ours");
            lines.push(at_least(what, *target, "x", measured.map(|(peer, ours)| peer.median / ours)));
        }
    }
    let linear = results.workload("linear");
    let python = linear.and_then(|workload| best(workload, "write", 1, |peer| peer.starts_with("plpython")));
    let measured = python.zip(linear.and_then(|workload| workload.median("plain_ctas")));
    let what = "linear: written back: plpython / ours";
    lines.push(at_least(what, 4.0, "x", measured.map(|(peer, ours)| peer.median / ours)));
    for (name, target) in [("linear", 0.2), ("mlp", 1.0 / 3.0)] {
        let workload = results.workload(name);
        let adbc = workload.and_then(|workload| best(workload, "score", 1, |peer| peer.starts_with("adbc")));
        let measured = workload.and_then(|workload| workload.timing("plain")).zip(adbc);
        let what = format!("{name}: processor time, ours / ADBC");
        lines.push(at_most(what, target, "x", measured.map(|(ours, adbc)| ours.cpu_ns_per_row / adbc.cpu_ns_per_row)));
    }
}

/// Texts, many rows, small calls, first calls, and memory.
fn sessions(results: &Results, lines: &mut Vec<Line>) {
    let text = results.text.as_ref();
    let what = "MiniLM: texts a second, ours / raw ONNX Runtime sorted by length";
    lines.push(at_least(what, 0.97, "x", text.map(|text| text.over_raw)));
    let scale = results.scale.as_ref();
    lines.push(at_most(
        "linear: ten times the rows, predict_batch",
        10.5,
        "x",
        scale.and_then(|scale| scale.growth(|point| point.batch.median)),
    ));
    lines.push(at_most(
        "linear: ten times the rows, sum(predict(columns))",
        10.5,
        "x",
        scale.and_then(|scale| scale.growth(|point| point.plain.median)),
    ));
    lines.push(at_most(
        "linear: memory more for ten times the rows, predict_batch",
        64.0,
        "MB",
        scale.and_then(|scale| scale.memory_growth(|point| point.batch_memory)),
    ));
    lines.push(at_most(
        "linear: memory more for ten times the rows, sum(predict(columns))",
        64.0,
        "MB",
        scale.and_then(|scale| scale.memory_growth(|point| point.plain_memory)),
    ));
    let small = results.small.as_ref();
    lines.push(at_most("point query: what predict adds", 10.0, "us", small.map(|small| small.added())));
    let what = "point query in a loop of PL/pgSQL: what predict adds";
    lines.push(at_most(what, 10.0, "us", small.map(|small| small.added_in_loop())));
    let [with, without] = small.map(|small| small.speed_up()).unwrap_or([f64::NAN; 2]);
    let what = "point query: how 16 sessions scale over two, with predict / with a column";
    lines.push(at_least(what, 1.0, "x", small.map(|_| with / without)));
    let start = results.start.as_ref();
    let what = "first prediction of a backend, linear";
    lines.push(at_most(what, 40.0, "ms", start.map(|start| start.linear.median)));
    let what = "first prediction of a backend, model of 100 MB";
    lines.push(at_most(what, 350.0, "ms", start.map(|start| start.big.median)));
}
