//! Entry points of the SQL functions, one file per SQL form.
//!
//! They only convert arguments and results; lower modules do the rest.

mod batch;
mod behalf;
mod checks;
mod describe;
mod models;
mod plain;
mod prediction_column;
mod predictions;
mod report;
mod stats;
