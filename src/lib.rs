//! pg_predict: batch inference with ONNX models inside PostgreSQL.
//!
//! This file holds the module magic, the order of initialization and the order of the SQL files. It has no logic.

// Numbers come from users, models and stored bytes. Conversions that may change a value must be explicit.
#![cfg_attr(not(test), deny(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss))]

use pgrx::prelude::*;

mod api;
mod error;
mod pg;
mod planner;
mod registry;
mod results;
mod rows;
mod runtime;
mod scan;
mod settings;
mod stats;

::pgrx::pg_module_magic!(name, version);

extension_sql_file!("../sql/tables/registry.sql", name = "registry_tables", bootstrap);
extension_sql_file!("../sql/functions/registry.sql", name = "registry_functions", requires = ["registry_tables"]);
extension_sql_file!("../sql/tables/prediction_batch.sql", name = "batch_tables", requires = ["registry_functions"]);
extension_sql_file!("../sql/functions/prediction_batch.sql", name = "batch_functions", requires = ["batch_tables"]);
extension_sql_file!("../sql/functions/predict.sql", name = "predict_functions", requires = ["batch_functions"]);
extension_sql_file!("../sql/functions/stats.sql", name = "stats_functions", requires = ["predict_functions"]);
extension_sql_file!("../sql/tables/checks.sql", name = "checks_tables", requires = ["stats_functions"]);
extension_sql_file!("../sql/functions/checks.sql", name = "checks_functions", requires = ["checks_tables"]);
extension_sql_file!("../sql/tables/jobs.sql", name = "jobs_tables", requires = ["checks_functions"]);
extension_sql_file!("../sql/functions/job_records.sql", name = "job_records", requires = ["jobs_tables"]);
extension_sql_file!("../sql/functions/jobs.sql", name = "jobs_functions", requires = ["job_records"]);
extension_sql_file!("../sql/tables/drift.sql", name = "drift_tables", requires = ["jobs_functions"]);
extension_sql_file!("../sql/functions/drift.sql", name = "drift_functions", requires = ["drift_tables"]);
extension_sql_file!("../sql/functions/comparison.sql", name = "comparison_functions", requires = ["drift_functions"]);
extension_sql_file!("../sql/functions/report.sql", name = "report_functions", requires = ["comparison_functions"]);

/// Initializes the extension. Every process that loads the library calls it once. The postmaster calls it too if the
/// library is preloaded, so it must not touch ONNX Runtime.
#[pg_guard]
#[allow(non_snake_case)]
pub extern "C-unwind" fn _PG_init() {
    pg::setting::quiet_backtraces();
    settings::define();
    results::exchange::watch_transactions();
    runtime::shared_memory::init();
    scan::register();
    planner::hooks::init();
}
