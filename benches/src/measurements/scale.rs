//! From few rows to many: time and memory of the linear model, where the model itself costs next to nothing.
//!
//! The largest table holds ten times the rows of `bench_rows` and was read into shared buffers before, as `bench_rows`
//! was. While a statement runs, a thread reads the anonymous memory of its backend.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use postgres::Client;
use serde::Serialize;

use crate::address::Address;
use crate::figures::Figure;
use crate::measurements::server::Server;
use crate::statements::workload::Workload;

/// How often the memory is read.
const PAUSE: Duration = Duration::from_millis(10);

/// What was measured of one form.
#[derive(Serialize)]
pub struct ScaleResults {
    /// By the number of rows, rising.
    pub points: Vec<ScalePoint>,
}

/// One number of rows.
#[derive(Serialize)]
pub struct ScalePoint {
    /// How many rows.
    pub rows: u64,
    /// Milliseconds of the scan.
    pub scan: Figure,
    /// Milliseconds of `predict_batch` over columns.
    pub batch: Figure,
    /// Milliseconds of `sum(predict(columns))`.
    pub plain: Figure,
    /// The most anonymous memory of the backend in `predict_batch`, MB.
    pub batch_memory: f64,
    /// The same in `sum(predict(columns))`.
    pub plain_memory: f64,
}

/// Measures; `most` is the number of rows of `bench_big`.
pub fn measure(address: &Address, workload: &Workload, most: u64, runs: usize) -> Result<ScaleResults> {
    let columns = workload.columns();
    let mut points = Vec::new();
    let mut sizes: Vec<u64> = (0..5).map(|step| most / 10_u64.pow(step)).filter(|rows| *rows > 0).collect();
    sizes.reverse();
    for rows in sizes {
        // A session of its own: what an earlier size left in the allocator is not this one's.
        let mut server = Server::connect(address)?;
        server.client().batch_execute("DROP TABLE IF EXISTS bench_part")?;
        let table = if rows == most {
            "bench_big"
        } else {
            let sql = format!("CREATE TABLE bench_part AS SELECT * FROM bench_big LIMIT {rows}");
            server.client().batch_execute(&sql)?;
            server.client().batch_execute("VACUUM (FREEZE, ANALYZE) bench_part")?;
            "bench_part"
        };
        let statements = [
            format!("SELECT {} FROM {table}", workload.sum()),
            workload.sum_of_predictions(&columns, table),
            format!("SELECT sum({}) FROM {table}", workload.predict(&columns)),
        ];
        let file = PathBuf::from(format!("/proc/{}/status", server.backend));
        let (mut times, mut memory) = ([const { Vec::new() }; 3], [0.0_f64; 3]);
        for round in 0..=runs {
            for (place, sql) in statements.iter().enumerate() {
                let (took, most) = watched(server.client(), sql, &file)?;
                if round > 0 {
                    times[place].push(took.as_secs_f64() * 1e3);
                }
                memory[place] = memory[place].max(most);
            }
        }
        let [scan, batch, plain] = times.map(Figure::from);
        points.push(ScalePoint { rows, scan, batch, plain, batch_memory: memory[1], plain_memory: memory[2] });
        eprintln!("bench: {rows} rows done");
    }
    Ok(ScaleResults { points })
}

/// Runs a statement and gives its time and the most anonymous memory that its backend had, in MB.
fn watched(client: &mut Client, sql: &str, file: &std::path::Path) -> Result<(Duration, f64)> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| -> Result<f64> {
            let mut most = anonymous(file)?;
            while !done.load(Ordering::Relaxed) {
                std::thread::sleep(PAUSE);
                most = most.max(anonymous(file)?);
            }
            Ok(most)
        });
        let started = Instant::now();
        let ran = client.query_one(sql, &[]);
        let took = started.elapsed();
        done.store(true, Ordering::Relaxed);
        ran.with_context(|| sql.to_owned())?;
        match watcher.join() {
            Ok(most) => Ok((took, most?)),
            Err(_) => bail!("the thread that reads the memory died"),
        }
    })
}

/// Anonymous memory of a process in MB.
fn anonymous(file: &std::path::Path) -> Result<f64> {
    let text = std::fs::read_to_string(file).with_context(|| format!("could not read {}", file.display()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("Linux tells no RssAnon")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}

impl ScaleResults {
    /// How many times the time of a tenth of the rows the most rows take, by a form.
    pub fn growth(&self, form: impl Fn(&ScalePoint) -> f64) -> Option<f64> {
        match self.points.as_slice() {
            [.., tenth, most] => Some(form(most) / form(tenth)),
            _ => None,
        }
    }

    /// By how much memory grows from a tenth of the rows to the most, by a form, in MB.
    pub fn memory_growth(&self, form: impl Fn(&ScalePoint) -> f64) -> Option<f64> {
        match self.points.as_slice() {
            [.., tenth, most] => Some(form(most) - form(tenth)),
            _ => None,
        }
    }
}
