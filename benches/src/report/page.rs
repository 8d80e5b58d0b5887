//! The results as a Markdown page: the targets first, then the floors and forms of each workload, then everything else.

use std::fmt::Write;

use anyhow::Result;

use crate::figures::{Figure, TOLERANCE, Timing};
use crate::measurements::memory::{self, Mode};
use crate::measurements::raw::sweep_rows;
use crate::measurements::small;
use crate::report::results::{Results, WorkloadResults};
use crate::statements::contender::Kind;
use crate::statements::peer::Class;

/// The forms that the summary shows: named beforehand, because the fastest of several would flatter.
const HEADLINES: [(&str, &str); 3] =
    [("columns", "predict_batch"), ("plain", "sum(predict)"), ("plain_ctas", "written back")];

/// The page.
pub fn write(results: &Results) -> Result<String> {
    let mut page = String::new();
    let p = &mut page;
    write_head(results, p)?;
    write_checklist(results, p)?;
    write_summary(results, p)?;
    for workload in &results.workloads {
        write_workload(workload, p)?;
    }
    write_batches(results, p)?;
    write_text(results, p)?;
    write_scale(results, p)?;
    write_sessions(results, p)?;
    writeln!(p, "\nHow to read this: benches/README.md.")?;
    Ok(page)
}

fn write_head(results: &Results, p: &mut String) -> Result<()> {
    let (machine, software) = (&results.machine, &results.software);
    let setting = |name: &str| results.settings.get(name).map_or("unknown", String::as_str);
    writeln!(p, "# pg_predict beside the scan, the model and its peers\n")?;
    writeln!(
        p,
        "Medians of {} warm runs in ns per row, the contenders taking turns.{}\n",
        results.runs,
        if results.quick { " A quick run: good for a look, not for a claim." } else { "" }
    )?;
    writeln!(p, "- date: {}", results.date)?;
    writeln!(
        p,
        "- machine: {}, {} processors, {} GiB, {}, Linux {}; load before: {}",
        machine.processor, machine.processors, machine.memory_gib, machine.system, machine.kernel, machine.load_before
    )?;
    writeln!(p, "- PostgreSQL {}", software.postgresql)?;
    writeln!(p, "- pg_predict {} (commit {})", software.pg_predict, software.commit)?;
    writeln!(p, "- ONNX Runtime {}; 1 thread a session, no spinning, subnormals flushed", software.onnxruntime)?;
    let names = ["shared_buffers", "work_mem", "jit", "fsync", "autovacuum", "wal_level", "shared_preload_libraries"];
    let settings: Vec<String> = names.iter().map(|name| format!("{name} {}", setting(name))).collect();
    writeln!(p, "- settings: {}", settings.join(", "))?;
    if let Some(hello) = &results.peers {
        if let Some(versions) = hello.versions.as_object() {
            let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let versions: Vec<String> =
                versions.iter().map(|(name, version)| format!("{name} {}", text(version))).collect();
            writeln!(p, "- peers: {}", versions.join(", "))?;
        }
        for missing in &hello.missing {
            writeln!(p, "- peer left out: {}: {}", missing.name, missing.why)?;
        }
    }
    Ok(())
}

fn write_checklist(results: &Results, p: &mut String) -> Result<()> {
    let met = results.checklist.iter().filter(|line| line.met() == Some(true)).count();
    let measured = results.checklist.iter().filter(|line| line.met().is_some()).count();
    writeln!(p, "\n## Targets\n\n{met} of {measured} measured ones met.\n")?;
    writeln!(p, "| what | target | measured | |\n|---|--:|--:|---|")?;
    for line in &results.checklist {
        let figure = |value: f64| match line.unit {
            "x" => format!("{value:.2} x"),
            unit => format!("{value:.1} {unit}"),
        };
        writeln!(
            p,
            "| {} | {} {} | {} | {} |",
            line.what,
            if line.at_most { "≤" } else { "≥" },
            figure(line.target),
            line.measured.map_or_else(String::new, figure),
            match line.met() {
                Some(true) => "met",
                Some(false) => "**not met**",
                None => "not measured",
            }
        )?;
    }
    Ok(())
}

fn write_summary(results: &Results, p: &mut String) -> Result<()> {
    let titles = HEADLINES.map(|(_, title)| title).join(" | ");
    writeln!(p, "\n## Summary\n\nns per row.\n")?;
    writeln!(p, "| workload | rows | scan | model | {titles} | best peer, scored | best peer, written back |")?;
    writeln!(p, "|---|--:|--:|--:|--:|--:|--:|--:|--:|")?;
    for workload in &results.workloads {
        let of = |key: &str| workload.median(key).map_or_else(String::new, ns);
        let ours = HEADLINES.map(|(key, _)| format!("**{}**", of(key))).join(" | ");
        let best = |task: &str| {
            let peers = workload.contenders.iter().filter_map(|timing| {
                let job = timing.job.as_ref()?;
                (job.class == Class::Competes && job.task == task && job.threads == 1).then_some((timing, job))
            });
            let best = peers.min_by(|a, b| a.0.median.total_cmp(&b.0.median));
            best.map_or_else(String::new, |(timing, job)| format!("{} ({})", ns(timing.median), job.peer))
        };
        writeln!(
            p,
            "| {} | {} | {} | {} | {ours} | {} | {} |",
            workload.title,
            thousands(workload.rows),
            of("scan"),
            of("raw"),
            best("score"),
            best("write")
        )?;
    }
    Ok(())
}

fn write_workload(workload: &WorkloadResults, p: &mut String) -> Result<()> {
    writeln!(p, "\n## {}, {} rows\n", workload.title, thousands(workload.rows))?;
    writeln!(
        p,
        "| | what | median | min | max | processor time | rows | runs | x its floor | x its model | x the larger |"
    )?;
    writeln!(p, "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")?;
    for kind in [Kind::Floor, Kind::Raw, Kind::Ours, Kind::Peer] {
        for timing in workload.contenders.iter().filter(|timing| timing.kind == kind) {
            writeln!(
                p,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                name_of(timing),
                timing.title,
                ns(timing.median),
                ns(timing.min),
                ns(timing.max),
                ns(timing.cpu_ns_per_row),
                thousands(timing.rows),
                timing.ns_per_row.len(),
                ratio(timing.over_floor),
                ratio(timing.over_raw),
                ratio(timing.over_larger)
            )?;
        }
    }
    let agreement: Vec<String> = workload
        .agreement
        .iter()
        .map(|form| {
            let largest = form.largest_difference.map_or("infinite".to_owned(), |value| format!("{value:.1e}"));
            let verdict = if form.agrees { "" } else { " **WRONG**" };
            format!("{} {largest}{verdict}", form.form)
        })
        .collect();
    writeln!(
        p,
        "\nAnswers beside raw ONNX Runtime, row by row, largest difference (at most {TOLERANCE:.0e} is the same): {}.",
        agreement.join("; ")
    )?;
    Ok(())
}

/// What a contender is, in a word or two.
fn name_of(timing: &Timing) -> &'static str {
    match (timing.kind, timing.job.as_ref().map(|job| job.class)) {
        (Kind::Floor, _) => "floor",
        (Kind::Raw, _) => "model",
        (Kind::Ours, _) => "ours",
        (Kind::Peer, Some(Class::Ordinary)) => "peer, as users write it",
        (Kind::Peer, Some(Class::Left)) => "peer, data has left the database",
        (Kind::Peer, _) => "peer",
    }
}

fn write_batches(results: &Results, p: &mut String) -> Result<()> {
    let Some(first) = results.workloads.first() else { return Ok(()) };
    let sizes: Vec<String> = first
        .sweep
        .iter()
        .map(|point| if point.at == 0 { "0 (measured)".to_owned() } else { thousands(point.at as u64) })
        .collect();
    writeln!(p, "\n## By batch size\n")?;
    writeln!(
        p,
        "`predict_batch` over columns by `pg_predict.batch_size`, and raw ONNX Runtime, ns per row; at most {} rows, {} for \
         batches of 1 and 4 (LightGBM: {} and {}).\n\n![by batch size](batch_size.svg)\n",
        thousands(sweep_rows(usize::MAX, usize::MAX, results.quick) as u64),
        thousands(sweep_rows(1, usize::MAX, results.quick) as u64),
        thousands(sweep_rows(usize::MAX, usize::MAX, true) as u64),
        thousands(sweep_rows(1, usize::MAX, true) as u64)
    )?;
    writeln!(p, "| | {} |\n|---|{}", sizes.join(" | "), "--:|".repeat(sizes.len()))?;
    for workload in &results.workloads {
        let ours: Vec<String> = workload.sweep.iter().map(|point| ns(point.ns_per_row)).collect();
        writeln!(p, "| {} | {} |", workload.name, ours.join(" | "))?;
        let raw: Vec<String> = workload.raw_sweep.iter().map(|point| ns(point.ns_per_row)).collect();
        writeln!(p, "| {}, raw | | {} |", workload.name, raw.join(" | "))?;
    }
    if results.peers.is_some() {
        writeln!(p, "\n## Peers\n\n![peers](peers.svg)")?;
    }
    Ok(())
}

fn write_text(results: &Results, p: &mut String) -> Result<()> {
    let Some(text) = &results.text else { return Ok(()) };
    writeln!(p, "\n## Sentence embeddings of {} tweets (MiniLM, 23 MB)\n", thousands(text.texts as u64))?;
    writeln!(p, "Seconds for all, tokenising counted; one thread each.\n")?;
    writeln!(p, "| what | median | min | max | runs | texts a second |\n|---|--:|--:|--:|--:|--:|")?;
    let raw = format!("raw ONNX Runtime, sorted by length, batches of {} padded tokens", text.budget);
    for (what, figure) in [("one statement", &text.statement), (raw.as_str(), &text.raw)] {
        let Figure { runs, median, min, max } = figure;
        let each = text.texts as f64 / median;
        writeln!(p, "| {what} | {median:.2} | {min:.2} | {max:.2} | {} | {each:.0} |", runs.len())?;
    }
    let budgets: Vec<String> = text.budgets.iter().map(|(budget, each)| format!("{budget}: {each:.0}")).collect();
    writeln!(
        p,
        "\nThe statement is **{:.2}** times as fast; least cosine between the vectors {:.6}{}. Raw by budget, texts a second: {}.",
        text.over_raw,
        text.least_cosine,
        if text.agrees() { "" } else { " **WRONG**" },
        budgets.join(", ")
    )?;
    Ok(())
}

fn write_scale(results: &Results, p: &mut String) -> Result<()> {
    let Some(scale) = &results.scale else { return Ok(()) };
    writeln!(p, "\n## From few rows to many, linear\n")?;
    writeln!(
        p,
        "Milliseconds of a statement, and the most anonymous memory of its backend.\n\n![by rows](rows.svg)\n"
    )?;
    writeln!(
        p,
        "| rows | scan | predict_batch | sum(predict(columns)) | memory, predict_batch | memory, sum(predict) |"
    )?;
    writeln!(p, "|--:|--:|--:|--:|--:|--:|")?;
    for point in &scale.points {
        writeln!(
            p,
            "| {} | {} | {} | {} | {:.0} MB | {:.0} MB |",
            thousands(point.rows),
            milliseconds(&point.scan),
            milliseconds(&point.batch),
            milliseconds(&point.plain),
            point.batch_memory,
            point.plain_memory
        )?;
    }
    if let Some(growth) = scale.growth(|point| point.scan.median) {
        writeln!(p, "\nThe scan itself takes {growth:.2} times as long for the last ten times of rows.")?;
    }
    Ok(())
}

fn write_sessions(results: &Results, p: &mut String) -> Result<()> {
    if let Some(small) = &results.small {
        let (few, many) = (small::FEW_SESSIONS, small::SESSIONS);
        let [with, without] = small.speed_up();
        writeln!(p, "\n## Small calls, linear\n\n`{}`, prepared, beside the same with a column.\n", small.sql)?;
        writeln!(p, "| | with predict | with a column |\n|---|--:|--:|")?;
        writeln!(p, "| one session, us a query | {} | {} |", three(&small.with), three(&small.without))?;
        writeln!(p, "| one session, queries a second | {} | {} |", whole(&small.one_with), whole(&small.one_without))?;
        writeln!(
            p,
            "| in a loop of PL/pgSQL, us a query | {} | {} |",
            three(&small.loop_with),
            three(&small.loop_without)
        )?;
        writeln!(
            p,
            "| {few} sessions, queries a second | {} | {} |",
            whole(&small.two_with),
            whole(&small.two_without)
        )?;
        let (by_many, by_many_without) = (whole(&small.many_with), whole(&small.many_without));
        writeln!(p, "| {many} sessions, queries a second | {by_many} | {by_many_without} |")?;
        writeln!(p, "| {many} sessions / {few} | {with:.2} x | {without:.2} x |")?;
        writeln!(
            p,
            "\nA prediction adds **{:.1} us** for a client that waits for each, {:.1} us in the loop, and {:.1} and {:.1} us of a processor's time where {few} and {many} sessions keep the server busy.",
            small.added(),
            small.added_in_loop(),
            small.added_when_busy()[0],
            small.added_when_busy()[1]
        )?;
    }
    if let Some(start) = &results.start {
        writeln!(
            p,
            "\n## First statement of a new connection, ms\n\n| linear | model of 100 MB | SELECT 1 |\n|--:|--:|--:|"
        )?;
        writeln!(p, "| {} | {} | {} |", three(&start.linear), three(&start.big), three(&start.nothing))?;
    }
    if let Some(memory) = &results.memory {
        writeln!(p, "\n## Memory of {} sessions with the model of 100 MB\n", memory::SESSIONS)?;
        writeln!(p, "| weights | private memory a session, MB | of all | us per row |\n|---|--:|--:|--:|")?;
        let mut row = |what: &str, mode: &Mode| {
            let all: f64 = mode.private.runs.iter().sum();
            writeln!(p, "| {what} | {} | {all:.0} | {:.0} |", three(&mode.private), mode.ns_per_row.median / 1e3)
        };
        row("of its own", &memory.own)?;
        match &memory.shared {
            Some(mode) => row(&format!("shared (`{}`)", memory::SHARING), mode)?,
            None => writeln!(p, "\nThe server does not know `{}`: sharing was not measured.", memory::SHARING)?,
        }
    }
    Ok(())
}

/// A median with its least and most.
fn three(figure: &Figure) -> String {
    format!("{:.1} ({:.1} to {:.1})", figure.median, figure.min, figure.max)
}

/// The same without fractions.
fn whole(figure: &Figure) -> String {
    format!("{:.0} ({:.0} to {:.0})", figure.median, figure.min, figure.max)
}

/// The same for times that differ a lot.
fn milliseconds(figure: &Figure) -> String {
    if figure.median < 100.0 { three(figure) } else { whole(figure) }
}

/// A time with three digits that mean something.
pub fn ns(value: f64) -> String {
    if value < 100.0 { format!("{value:.1}") } else { thousands(value.round() as u64) }
}

fn ratio(value: Option<f64>) -> String {
    value.map_or_else(String::new, |value| if value < 100.0 { format!("{value:.2}") } else { format!("{value:.0}") })
}

/// A number with its thousands apart.
pub fn thousands(value: u64) -> String {
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
