//! `pg_predict_bench`: times predictions in SQL beside a plain scan and beside raw ONNX Runtime, all in one run.
//!
//! It owns the order of things: the contenders of a workload take turns, round by round, so that a drift of the machine
//! hits all of them alike; the first round warms and is not counted. The server, its table and the extension are there
//! already (`run.sh`); the models it registers itself.

mod contender;
mod machine;
mod raw;
mod results;
mod server;
mod text;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use ort::environment::Environment;

use contender::{Contender, RawRun, Rows, Work, contenders, forms};
use machine::Machine;
use raw::{Matrix, Model};
use results::{Agreement, Results, Software, TOLERANCE, Timing, WorkloadResults};
use server::{Address, Server};
use workload::{WORKLOADS, Workload};

const USAGE: &str = "pg_predict_bench --socket DIR --port N --library FILE --models DIR --minilm DIR --out DIR --runs N --commit TEXT [--only WORKLOAD] [--quick]";

/// What the command line says.
struct Arguments {
    address: Address,
    library: PathBuf,
    models: PathBuf,
    minilm: PathBuf,
    only: Option<String>,
    out: PathBuf,
    runs: usize,
    commit: String,
    quick: bool,
}

fn main() -> ExitCode {
    match bench() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("bench: answers differ from raw ONNX Runtime, see the lines marked WRONG");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs everything and writes the results; false where an answer is wrong.
fn bench() -> Result<bool> {
    let arguments = parse(std::env::args().skip(1))?;
    let environment = raw::start(&arguments.library)?;
    let mut server = Server::connect(&arguments.address)?;
    let rows = server.rows()?;
    let matrix = server.matrix()?;
    let mut results = Results {
        date: server.text("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI \"UTC\"')")?,
        quick: arguments.quick,
        rows: rows.all,
        sample_rows: rows.sample,
        runs: arguments.runs,
        machine: Machine::look(),
        software: Software {
            postgresql: server.text("SELECT current_setting('server_version')")?,
            pg_predict: server.text("SELECT extversion FROM pg_extension WHERE extname = 'pg_predict'")?,
            commit: arguments.commit.clone(),
            onnxruntime: raw::version(&arguments.library)?,
        },
        settings: Default::default(),
        workloads: Vec::new(),
        text: None,
    };
    let asked = |name: &str| arguments.only.as_ref().is_none_or(|only| only == name);
    ensure!(WORKLOADS.iter().any(|w| asked(w.name)) || asked("text"), "there is no workload of that name\n{USAGE}");
    for workload in WORKLOADS.iter().filter(|w| asked(w.name)) {
        results.workloads.push(measure(workload, &arguments, &environment, &mut server, &matrix, rows)?);
    }
    if asked("text") {
        results.text = Some(text::measure(&environment, &mut server, &arguments.minilm, arguments.runs)?);
    }
    // Last, because a backend learns the extension's settings when the library is first used.
    results.settings = server.settings()?;

    std::fs::create_dir_all(&arguments.out)?;
    let page = results.markdown()?;
    std::fs::write(arguments.out.join("results.json"), serde_json::to_string_pretty(&results)? + "\n")?;
    std::fs::write(arguments.out.join("results.md"), &page)?;
    println!("{page}");
    eprintln!("bench: written to {0}/results.json and {0}/results.md", arguments.out.display());
    Ok(results.agree())
}

/// Times one workload's contenders in turns and checks the answers.
fn measure(
    workload: &Workload,
    arguments: &Arguments,
    environment: &Environment,
    server: &mut Server,
    matrix: &Matrix,
    rows: Rows,
) -> Result<WorkloadResults> {
    let bytes = server::model_bytes(&arguments.models, workload)?;
    server.create_model(workload, &bytes)?;
    eprintln!("bench: {}: finding the best batch size", workload.name);
    let mut model = Model::load(environment, &arguments.models.join(workload.file), workload.output, matrix)
        .with_context(|| workload.file.to_owned())?;
    let list = contenders(workload, rows);
    let mut runner = Runner { server, model: &mut model, matrix, answers: Vec::new(), halves: Default::default() };
    let mut timings = Vec::with_capacity(list.len());
    for contender in &list {
        timings.push(runner.begin(contender)?);
    }
    for round in 0..=arguments.runs {
        for (contender, timing) in list.iter().zip(&mut timings) {
            let time = runner.run(contender).with_context(|| format!("{}: {}", workload.name, contender.title))?;
            // Round 0 warms sessions, caches and the allocator.
            if round > 0 {
                timing.ns_per_row.push(time);
            } else {
                eprintln!("bench: {}: warm-up: {} {time:.0} ns per row", workload.name, contender.title);
            }
        }
        if round > 0 {
            eprintln!("bench: {}: round {round} of {} done", workload.name, arguments.runs);
        }
    }
    eprintln!("bench: {}: comparing answers", workload.name);
    let agreement = agree(workload, server, &mut model, matrix, rows)?;
    let mut measured = WorkloadResults {
        name: workload.name,
        title: workload.title,
        model_bytes: bytes.len(),
        best_batch: model.best_batch,
        sweep: model.sweep,
        contenders: timings,
        agreement,
    };
    measured.relate()?;
    Ok(measured)
}

/// Runs contenders of one workload, whatever they are.
struct Runner<'a> {
    server: &'a mut Server,
    model: &'a mut Model,
    matrix: &'a Matrix,
    answers: Vec<f32>,
    halves: [Vec<f32>; 2],
}

impl Runner<'_> {
    /// Describes a contender before its first run.
    fn begin(&mut self, contender: &Contender) -> Result<Timing> {
        let (sql, plan) = match &contender.work {
            Work::Sql(statement) => (Some(statement.sql.clone()), self.server.plan(statement)?),
            Work::Raw(_) => (None, Vec::new()),
        };
        Ok(Timing {
            key: contender.key,
            title: contender.title,
            kind: contender.kind,
            sql,
            plan,
            rows: contender.rows,
            ns_per_row: Vec::new(),
            median: f64::NAN,
            min: f64::NAN,
            max: f64::NAN,
            floor: contender.floor,
            over_floor: None,
            raw: contender.raw,
            over_raw: None,
            over_both: None,
        })
    }

    /// Runs a contender once and gives its ns per row.
    fn run(&mut self, contender: &Contender) -> Result<f64> {
        let batch = self.model.best_batch;
        let rows = usize::try_from(contender.rows)?;
        let time = match &contender.work {
            Work::Sql(statement) => self.server.time(statement)?,
            Work::Raw(RawRun::Best) => self.model.run(self.matrix, rows, batch, &mut self.answers)?,
            Work::Raw(RawRun::BestByTwo) => self.model.run_by_two(self.matrix, batch, &mut self.halves)?,
            Work::Raw(RawRun::OneByOne) => self.model.run(self.matrix, rows, 1, &mut self.answers)?,
        };
        Ok(time.as_nanos() as f64 / contender.rows as f64)
    }
}

/// Compares every form's answers with the raw ones.
fn agree(
    workload: &Workload,
    server: &mut Server,
    model: &mut Model,
    matrix: &Matrix,
    rows: Rows,
) -> Result<Vec<Agreement>> {
    let mut raw = Vec::with_capacity(matrix.rows());
    model.run(matrix, matrix.rows(), model.best_batch, &mut raw)?;
    forms(workload, rows)
        .iter()
        .map(|form| {
            let difference = server.compare(form, &raw)?;
            Ok(Agreement {
                form: form.title,
                rows: difference.rows,
                largest_difference: Some(difference.largest).filter(|value| value.is_finite()),
                agrees: difference.largest <= TOLERANCE,
            })
        })
        .collect()
}

/// Reads the command line.
fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments> {
    let mut values = std::collections::BTreeMap::new();
    let mut quick = false;
    while let Some(word) = words.next() {
        match word.as_str() {
            "--quick" => quick = true,
            "--socket" | "--port" | "--library" | "--models" | "--minilm" | "--only" | "--out" | "--runs"
            | "--commit" => {
                let value = words.next().with_context(|| format!("{word} needs a value\n{USAGE}"))?;
                values.insert(word, value);
            }
            _ => bail!("unknown argument {word}\n{USAGE}"),
        }
    }
    let only = values.remove("--only");
    let mut take = |name: &str| values.remove(name).with_context(|| format!("{name} is missing\n{USAGE}"));
    Ok(Arguments {
        address: Address { socket: take("--socket")?, port: take("--port")?.parse().context("--port")? },
        library: take("--library")?.into(),
        models: take("--models")?.into(),
        minilm: take("--minilm")?.into(),
        only,
        out: take("--out")?.into(),
        runs: take("--runs")?.parse().ok().filter(|runs| *runs > 0).context("--runs must be a positive number")?,
        commit: take("--commit")?,
        quick,
    })
}
