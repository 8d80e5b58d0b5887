//! `pg_predict_bench`: times predictions in SQL beside a plain scan, beside raw ONNX Runtime and beside peers, all in one run.
//!
//! It owns the order of things. The server, its tables and the extension are there already (`run.sh`); the models it
//! registers itself.

mod address;
mod arguments;
mod cpu;
mod figures;
mod machine;
mod measure;
mod measurements;
mod report;
mod statements;
mod target;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use arguments::Arguments;
use machine::Machine;
use measure::Bench;
use measurements::server::Server;
use measurements::{memory, raw, scale, small, start, text};
use report::results::{Results, Software};
use report::{checklist, page, plot};
use statements::peer::Peers;
use statements::workload::WORKLOADS;

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
    let arguments = Arguments::read(std::env::args().skip(1))?;
    let environment = raw::start(&arguments.library)?;
    let mut server = Server::connect(&arguments.address)?;
    let rows = server.count("bench_rows")?;
    let start = |python: &PathBuf| Peers::start(python, &arguments.root, &arguments.address);
    let mut peers = arguments.peers.as_ref().map(start).transpose()?;
    let mut results = Results {
        date: server.text("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI \"UTC\"')")?,
        quick: arguments.quick,
        rows,
        runs: arguments.runs,
        machine: Machine::look(),
        software: Software {
            postgresql: server.text("SELECT current_setting('server_version')")?,
            pg_predict: server.text("SELECT extversion FROM pg_extension WHERE extname = 'pg_predict'")?,
            commit: arguments.commit.clone(),
            onnxruntime: raw::version(&arguments.library)?,
        },
        settings: Default::default(),
        peers: None,
        checklist: Vec::new(),
        workloads: Vec::new(),
        text: None,
        scale: None,
        small: None,
        start: None,
        memory: None,
    };
    let only = arguments.only.as_deref();
    let asked = |name: &str| only.is_none_or(|only| only.split(',').any(|one| one == name));
    let known = WORKLOADS.iter().map(|workload| workload.name).chain(["text", "sessions"]);
    ensure!(known.into_iter().any(asked), "nothing is called {}", only.unwrap_or_default());

    let mut bench = Bench {
        environment: &environment,
        root: &arguments.root,
        trees: [cpu::parent(server.backend)?, std::process::id()],
        server: &mut server,
        peers: peers.as_mut(),
        runs: arguments.runs,
        quick: arguments.quick,
    };
    for workload in WORKLOADS.iter().filter(|workload| asked(workload.name)) {
        results.workloads.push(bench.measure(workload)?);
    }
    results.peers = peers.map(|peers| peers.hello.clone());
    if asked("sessions") {
        measure_sessions(&arguments, &mut server, &mut results)?;
    }
    if asked("text") {
        results.text = Some(text::measure(&environment, &mut server, &arguments.minilm, arguments.runs)?);
    }
    // Last, because a backend learns the extension's settings when the library is first used.
    results.settings = server.settings()?;
    results.checklist = checklist::lines(&results);
    write(&arguments, &results)?;
    Ok(results.agree())
}

/// What is about rows, sessions and memory, and needs the linear model only.
fn measure_sessions(arguments: &Arguments, server: &mut Server, results: &mut Results) -> Result<()> {
    let Arguments { address, root, out, big_model, runs, quick, .. } = arguments;
    let linear = &WORKLOADS[0];
    if results.workload(linear.name).is_none() {
        server.create_model(linear, &root.join(linear.file))?;
    }
    results.small = Some(small::measure(address, out, linear, *runs, *quick)?);
    results.scale = Some(scale::measure(address, linear, results.rows * 10, *runs)?);
    start::create_big(server, big_model, linear)?;
    results.start = Some(start::measure(address, linear, *runs)?);
    results.memory = Some(memory::measure(address, linear, *runs)?);
    Ok(())
}

/// Writes the page, the plots and every figure.
fn write(arguments: &Arguments, results: &Results) -> Result<()> {
    let out = &arguments.out;
    std::fs::create_dir_all(out)?;
    std::fs::write(out.join("results.json"), serde_json::to_string_pretty(results)? + "\n")?;
    let page = page::write(results)?;
    std::fs::write(out.join("results.md"), &page)?;
    plot::write(results, out)?;
    println!("{page}");
    eprintln!("bench: written to {0}/results.json, {0}/results.md and {0}/*.svg", out.display());
    Ok(())
}
