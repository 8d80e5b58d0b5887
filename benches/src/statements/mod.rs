//! What is measured: workloads, and the statements of every contender.

pub mod contender;
pub mod forms;
pub mod peer;
pub mod workload;
