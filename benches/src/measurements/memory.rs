//! Memory of sessions: eight that use the model of 100 MB at once, each with weights of its own, and sharing them.

use anyhow::{Context, Result};
use serde::Serialize;

use crate::address::Address;
use crate::figures::Figure;
use crate::measurements::server::Server;
use crate::measurements::start::BIG;
use crate::statements::workload::Workload;

/// Sessions at once.
pub const SESSIONS: usize = 8;
/// Rows of one statement.
const ROWS: usize = 1000;
/// The setting of the sharing mode.
pub const SHARING: &str = "pg_predict.share_weights";

/// What was measured in each mode.
#[derive(Serialize)]
pub struct MemoryResults {
    /// Sessions with weights of their own.
    pub own: Mode,
    /// Sessions that share them; none where the server does not know the setting.
    pub shared: Option<Mode>,
}

/// One mode.
#[derive(Serialize)]
pub struct Mode {
    /// Private memory of each session, MB.
    pub private: Figure,
    /// ns per row of the last session, while the others are idle.
    pub ns_per_row: Figure,
}

/// Measures both modes, the second where there is such.
pub fn measure(address: &Address, workload: &Workload, runs: usize) -> Result<MemoryResults> {
    let own = measure_mode(address, workload, runs, &[])?;
    let mut server = Server::connect(address)?;
    server.client().batch_execute("LOAD 'pg_predict'")?;
    let known = !server.client().query("SELECT FROM pg_settings WHERE name = $1", &[&SHARING])?.is_empty();
    let shared = known.then(|| measure_mode(address, workload, runs, &[(SHARING, "on")])).transpose()?;
    eprintln!("bench: memory of sessions done");
    Ok(MemoryResults { own, shared })
}

/// Measures one mode.
fn measure_mode(address: &Address, workload: &Workload, runs: usize, settings: &[(&str, &str)]) -> Result<Mode> {
    let columns = workload.columns();
    let sql = format!("SELECT sum(predict('{BIG}', {columns})) FROM (SELECT * FROM {} LIMIT {ROWS}) s", workload.table);
    let mut sessions = Vec::with_capacity(SESSIONS);
    for _ in 0..SESSIONS {
        let mut server = Server::connect(address)?;
        server.client().batch_execute("LOAD 'pg_predict'")?;
        server.set(settings)?;
        server.client().query_one(&sql, &[])?;
        sessions.push(server);
    }
    let last = sessions.last_mut().context("there is no session")?;
    let mut times = Vec::with_capacity(runs);
    for _ in 0..runs {
        let started = std::time::Instant::now();
        last.client().query_one(&sql, &[])?;
        times.push(started.elapsed().as_nanos() as f64 / ROWS as f64);
    }
    let private = sessions.iter().map(|server| private(server.backend)).collect::<Result<Vec<_>>>()?;
    Ok(Mode { private: private.into(), ns_per_row: times.into() })
}

/// Private memory of a backend and of its model process in MB.
fn private(backend: u32) -> Result<f64> {
    let file = format!("/proc/{backend}/task/{backend}/children");
    let children = std::fs::read_to_string(&file).with_context(|| format!("could not read {file}"))?;
    let children = children.split_whitespace().map(str::parse).collect::<Result<Vec<u32>, _>>()?;
    children.into_iter().chain([backend]).map(private_of).sum()
}

/// Private memory of a process in MB.
fn private_of(pid: u32) -> Result<f64> {
    let file = format!("/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(&file).with_context(|| format!("could not read {file}"))?;
    let kib: f64 = text
        .lines()
        .filter(|line| line.starts_with("Private_Clean:") || line.starts_with("Private_Dirty:"))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok())
        .sum();
    Ok(kib / 1024.0)
}
