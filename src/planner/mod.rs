//! Planner hooks: choose which calls are batched, rewrite queries and plans, estimate costs.

pub(crate) mod calls;
pub(crate) mod cost;
pub(crate) mod executor;
pub(crate) mod hooks;
pub(crate) mod node_spec;
pub(crate) mod rewrite;
pub(crate) mod row_expansion;
pub(crate) mod streaming;
pub(crate) mod support;
pub(crate) mod symbol;
