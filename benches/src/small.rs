//! Small calls: a prepared point query with a prediction beside the same query with a column, alone and by sixteen
//! sessions at once.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::results::Figure;
use crate::server::{Address, Server};
use crate::workload::Workload;

/// Queries of one run.
const QUERIES: i32 = 2000;
/// Sessions at once.
pub const SESSIONS: u32 = 16;
/// Seconds of one run of sessions.
const SECONDS: u32 = 2;

/// What was measured of small calls.
#[derive(Serialize)]
pub struct SmallResults {
    /// The query with a prediction.
    pub sql: String,
    /// Microseconds of it.
    pub with: Figure,
    /// Microseconds of the query with a column.
    pub without: Figure,
    /// Queries a second by one session, with a prediction.
    pub one_with: Figure,
    /// Without.
    pub one_without: Figure,
    /// Queries a second by sixteen sessions, with a prediction.
    pub many_with: Figure,
    /// Without.
    pub many_without: Figure,
}

/// Measures; `folder` takes the scripts for pgbench.
pub fn measure(
    address: &Address,
    folder: &Path,
    workload: &Workload,
    runs: usize,
    quick: bool,
) -> Result<SmallResults> {
    let mut server = Server::connect(address)?;
    let rows = server.count(workload.table)?;
    let select = |value: &str, key: &str| format!("SELECT {value} FROM {} WHERE id = {key}", workload.table);
    let call = workload.predict(&workload.columns());
    let (with, without) = (select(&call, "$1"), select("a", "$1"));

    let client = server.client();
    let prepared = [client.prepare(&with)?, client.prepare(&without)?];
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..=runs {
        for (statement, times) in prepared.iter().zip(&mut times) {
            let started = Instant::now();
            for query in 0..QUERIES {
                let id = i32::try_from(i64::from(query) * 7919 % i64::try_from(rows)?)? + 1;
                client.query_one(statement, &[&id])?;
            }
            if round > 0 {
                times.push(started.elapsed().as_secs_f64() * 1e6 / f64::from(QUERIES));
            }
        }
    }

    let scripts = [("with.sql", &call), ("without.sql", &"a".to_owned())];
    for (name, value) in scripts {
        let script = format!("\\set id random(1, {rows})\n{};\n", select(value, ":id"));
        std::fs::write(folder.join(name), script)?;
    }
    let mut throughput: [Vec<f64>; 4] = Default::default();
    for _ in 0..runs {
        for (place, throughput) in throughput.iter_mut().enumerate() {
            let sessions = if place < 2 { 1 } else { SESSIONS };
            let script = folder.join(scripts[place % 2].0);
            throughput.push(pgbench(address, &script, sessions, if quick { 1 } else { SECONDS })?);
        }
    }
    eprintln!("bench: small calls done");
    let [with_times, without_times] = times.map(Figure::from);
    let [one_with, one_without, many_with, many_without] = throughput.map(Figure::from);
    Ok(SmallResults {
        sql: with,
        with: with_times,
        without: without_times,
        one_with,
        one_without,
        many_with,
        many_without,
    })
}

/// Queries a second by so many sessions, without the time that connecting takes.
fn pgbench(address: &Address, script: &Path, sessions: u32, seconds: u32) -> Result<f64> {
    let output = Command::new(address.programs.join("pgbench"))
        .args(["-n", "-M", "prepared", "-j", "2", "-c", &sessions.to_string(), "-T", &seconds.to_string(), "-f"])
        .arg(script)
        .args(["-h", &address.socket, "-p", &address.port.to_string(), "-U", "postgres", "postgres"])
        .output()
        .context("could not start pgbench")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "pgbench failed: {}", String::from_utf8_lossy(&output.stderr));
    let line = text.lines().find_map(|line| line.strip_prefix("tps = ")).context("pgbench tells no tps")?;
    Ok(line.split(' ').next().context("pgbench tells no tps")?.parse()?)
}

impl SmallResults {
    /// What a prediction adds to the point query, in microseconds.
    pub fn added(&self) -> f64 {
        self.with.median - self.without.median
    }

    /// Throughput of sixteen sessions over that of one, with and without a prediction.
    pub fn speed_up(&self) -> [f64; 2] {
        [self.many_with.median / self.one_with.median, self.many_without.median / self.one_without.median]
    }
}
