//! What users call: thin, one file for each SQL form. Everything that is more than arguments in and a datum out is below.

mod batch;
mod behalf;
mod describe;
mod models;
mod plain;
mod predictions;
mod stats;
mod trust;
