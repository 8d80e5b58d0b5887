//! BatchPredict: the plan node that evaluates plain calls in batches.
//!
//! - `state` sets up, rescans and ends the node.
//! - `exec` returns its rows.
//! - `filling` and `window` read the input into windows of rows.
//! - `model_batcher` runs the batches of one model, and `cached_binding` keeps its binding across queries.
//! - `streamed` returns the columns of a `predictions()` that the planner replaced.
//! - `explain` shows what was run.
//!
//! Executor callbacks call back into the executor through its function pointers, without a guard. An error then jumps
//! over the frames of this module. So no value with a destructor may be alive on the stack across such a call. The
//! state of a node owns its values, and the memory context of the query frees them.

use pgrx::pg_sys;

use crate::planner::node_spec::NAME;

mod cached_binding;
mod exec;
mod explain;
mod filling;
mod model_batcher;
mod state;
mod streamed;
mod window;

/// A table of function pointers that PostgreSQL refers to.
struct Methods<T>(T);
// SAFETY: the tables are constants; PostgreSQL only reads them.
unsafe impl<T> Sync for Methods<T> {}

static METHODS: Methods<pg_sys::CustomScanMethods> =
    Methods(pg_sys::CustomScanMethods { CustomName: NAME, CreateCustomScanState: Some(state::create) });

static EXECUTION: Methods<pg_sys::CustomExecMethods> = Methods(pg_sys::CustomExecMethods {
    CustomName: NAME,
    BeginCustomScan: Some(state::begin),
    ExecCustomScan: Some(exec::next),
    EndCustomScan: Some(state::end),
    ReScanCustomScan: Some(state::rescan),
    MarkPosCustomScan: None,
    RestrPosCustomScan: None,
    EstimateDSMCustomScan: Some(explain::estimate),
    InitializeDSMCustomScan: Some(explain::initialize),
    ReInitializeDSMCustomScan: Some(explain::reinitialize),
    InitializeWorkerCustomScan: Some(explain::join),
    ShutdownCustomScan: Some(explain::collect),
    ExplainCustomScan: Some(explain::explain),
});

/// Registers the node. Called once per process.
pub(crate) fn register() {
    // SAFETY: called by _PG_init; the methods are constants.
    unsafe { pg_sys::RegisterCustomScanMethods(&raw const METHODS.0) };
}
