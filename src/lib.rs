//! pg_predict: batch inference where the data already is.
//!
//! This file holds the module's magic, the order in which it is set up and the order of its SQL; no logic.

// Numbers come from users, models and stored bytes: a conversion that may change one is made explicit.
#![cfg_attr(not(test), deny(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss))]

use pgrx::prelude::*;

mod api;
mod cost;
mod error;
mod guc;
mod pg;
mod registry;
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "not converted yet"
)]
mod scan;
mod stats;

::pgrx::pg_module_magic!(name, version);

extension_sql_file!("../sql/registry.sql", name = "registry", bootstrap);
extension_sql_file!("../sql/prediction_batch.sql", name = "prediction_batch", requires = ["registry"]);
extension_sql_file!("../sql/predict.sql", name = "predict", requires = ["prediction_batch"]);
extension_sql_file!("../sql/stats.sql", name = "stats", requires = ["predict"]);
extension_sql_file!("../sql/trust.sql", name = "trust", requires = ["stats"]);
extension_sql_file!("../sql/jobs.sql", name = "jobs", requires = ["trust"]);
extension_sql_file!("../sql/drift.sql", name = "drift", requires = ["trust"]);
extension_sql_file!("../sql/report.sql", name = "report", requires = ["jobs", "drift"]);

/// Called once by every process that loads the library, the postmaster too when it is preloaded: it must touch nothing
/// of ONNX Runtime.
#[pg_guard]
#[allow(non_snake_case)]
pub extern "C-unwind" fn _PG_init() {
    pg::setting::quiet_backtraces();
    guc::define();
    pg::exchange::watch_transactions();
    pg::shared::init();
    scan::init();
}
