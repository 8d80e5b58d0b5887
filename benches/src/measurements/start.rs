//! The first prediction of a backend: the first statement of a new connection, which loads the model.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::address::Address;
use crate::figures::Figure;
use crate::measurements::server::Server;
use crate::statements::workload::Workload;

/// The name of the model of 100 MB.
pub const BIG: &str = "bench_big_mlp";

/// Milliseconds of the first statement.
#[derive(Serialize)]
pub struct StartResults {
    /// With the linear model.
    pub linear: Figure,
    /// With the model of 100 MB.
    pub big: Figure,
    /// With no model: `SELECT 1`.
    pub nothing: Figure,
}

/// Registers the model of 100 MB.
pub fn create_big(server: &mut Server, file: &Path, workload: &Workload) -> Result<()> {
    let features: Vec<&str> = workload.features.iter().map(|feature| feature.name()).collect();
    server.create(BIG, file, &serde_json::json!({ "features": features }), None)
}

/// Measures.
pub fn measure(address: &Address, workload: &Workload, runs: usize) -> Result<StartResults> {
    let call = |model: &str| format!("SELECT predict('{model}', .1, .2, .3, .4, .5, .6, .7, .8, .9, 1)");
    let statements = [call(workload.model), call(BIG), "SELECT 1".to_owned()];
    let mut times = [const { Vec::new() }; 3];
    for round in 0..=runs {
        for (sql, times) in statements.iter().zip(&mut times) {
            let mut server = Server::connect(address)?;
            let started = Instant::now();
            server.client().simple_query(sql).with_context(|| sql.clone())?;
            if round > 0 {
                times.push(started.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    eprintln!("bench: first predictions done");
    let [linear, big, nothing] = times.map(Figure::from);
    Ok(StartResults { linear, big, nothing })
}
