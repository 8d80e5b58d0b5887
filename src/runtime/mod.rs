//! Runs models: the sessions of the backend, the batch runner of a query, the validation process and shared statistics.

pub(crate) mod activity;
pub(crate) mod batch_runner;
pub(crate) mod model_counters;
pub(crate) mod model_process;
pub(crate) mod process_loading;
pub(crate) mod process_runs;
pub(crate) mod sessions;
pub(crate) mod shared_memory;
pub(crate) mod validation_process;
