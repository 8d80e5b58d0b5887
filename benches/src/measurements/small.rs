//! Small calls: a prepared point query with a prediction beside the same query with a column: by a client, in a loop of
//! PL/pgSQL as a trigger would, and by one, two and sixteen sessions at once.
//!
//! A session that waits for its client lets the processor sleep, and waking it up takes longer than the query. So sixteen sessions are
//! compared with two, which keep both processors of the benchmark's machine busy.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::address::Address;
use crate::figures::Figure;
use crate::measurements::server::Server;
use crate::statements::workload::Workload;

/// Queries of one run.
const QUERIES: i32 = 2000;
/// Sessions at once.
pub const SESSIONS: u32 = 16;
pub const FEW_SESSIONS: u32 = 2;
/// Queries of a loop in the server.
const LOOPS: u32 = 20_000;
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
    /// Microseconds of the query in a loop of PL/pgSQL, with a prediction.
    pub loop_with: Figure,
    /// Without.
    pub loop_without: Figure,
    /// Queries a second by one session, with a prediction.
    pub one_with: Figure,
    /// Without.
    pub one_without: Figure,
    /// Queries a second by two sessions, with a prediction.
    pub two_with: Figure,
    /// Without.
    pub two_without: Figure,
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

    let mut loops = [Vec::new(), Vec::new()];
    for round in 0..=runs {
        for (value, times) in [&call, "a"].into_iter().zip(&mut loops) {
            let query = format!("SELECT {value} INTO x FROM {} q WHERE id = n", workload.table);
            let sql = format!(
                "DO $$ DECLARE x float8; BEGIN FOR n IN 1..{} LOOP {query}; END LOOP; END $$",
                LOOPS.min(u32::try_from(rows)?)
            );
            let started = Instant::now();
            client.batch_execute(&sql)?;
            if round > 0 {
                times.push(started.elapsed().as_secs_f64() * 1e6 / f64::from(LOOPS.min(u32::try_from(rows)?)));
            }
        }
    }

    let scripts = [("with.sql", &call), ("without.sql", &"a".to_owned())];
    for (name, value) in scripts {
        let script = format!("\\set id random(1, {rows})\n{};\n", select(value, ":id"));
        std::fs::write(folder.join(name), script)?;
    }
    let mut throughput: [Vec<f64>; 6] = Default::default();
    for _ in 0..runs {
        for (place, throughput) in throughput.iter_mut().enumerate() {
            let sessions = [1, FEW_SESSIONS, SESSIONS][place / 2];
            let script = folder.join(scripts[place % 2].0);
            throughput.push(pgbench(address, &script, sessions, if quick { 1 } else { SECONDS })?);
        }
    }
    eprintln!("bench: small calls done");
    let [with_times, without_times] = times.map(Figure::from);
    let [loop_with, loop_without] = loops.map(Figure::from);
    let [one_with, one_without, two_with, two_without, many_with, many_without] = throughput.map(Figure::from);
    Ok(SmallResults {
        sql: with,
        with: with_times,
        without: without_times,
        loop_with,
        loop_without,
        one_with,
        one_without,
        two_with,
        two_without,
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

    /// What it adds in a loop of PL/pgSQL, in microseconds.
    pub fn added_in_loop(&self) -> f64 {
        self.loop_with.median - self.loop_without.median
    }

    /// What it adds to the time of a processor that is busy, in microseconds, by two sessions and by sixteen.
    pub fn added_when_busy(&self) -> [f64; 2] {
        let each = |with: &Figure, without: &Figure| {
            f64::from(FEW_SESSIONS) * 1e6 * (1.0 / with.median - 1.0 / without.median)
        };
        [each(&self.two_with, &self.two_without), each(&self.many_with, &self.many_without)]
    }

    /// Throughput of sixteen sessions over that of two, with and without a prediction.
    pub fn speed_up(&self) -> [f64; 2] {
        [self.many_with.median / self.two_with.median, self.many_without.median / self.two_without.median]
    }
}
