//! How batches and results lie in shared memory: numbers and arrays one after another, each array after its length.

pub mod batch;
mod columns;
pub mod output;
pub mod reader;
pub mod writer;
