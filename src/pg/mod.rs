//! PostgreSQL plumbing: the one place, with `scan/`, for hand-written `unsafe`.
//!
//! Turns datums into tensors and results into datums, keeps call-site state in memory contexts, waits for the inference
//! thread while honouring interrupts. It knows the engine and no registry. No raw pointer leaves this room except to
//! `scan/`.

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "not converted yet"
)]
pub(crate) mod call;
pub(crate) mod carry;
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "not converted yet"
)]
pub(crate) mod convert;
pub(crate) mod emit;
pub(crate) mod exchange;
pub(crate) mod expanded;
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "not converted yet"
)]
pub(crate) mod form;
pub(crate) mod joblock;
pub(crate) mod lookup;
pub(crate) mod memory;
pub(crate) mod node;
pub(crate) mod owner;
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "not converted yet"
)]
pub(crate) mod planner;
pub(crate) mod portable;
pub(crate) mod printed;
pub(crate) mod probe;
pub(crate) mod query;
pub(crate) mod results;
pub(crate) mod runner;
pub(crate) mod sessions;
pub(crate) mod setting;
pub(crate) mod shared;
pub(crate) mod site;
pub(crate) mod snapshot;
pub(crate) mod spill;
pub(crate) mod sql;
pub(crate) mod srf;
pub(crate) mod stored_type;
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "not converted yet"
)]
pub(crate) mod symbol;
pub(crate) mod text;
