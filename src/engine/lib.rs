//! The engine room: batch inference on ONNX Runtime, with no PostgreSQL in it.
//!
//! Owns tensors, signatures, sessions, their cache, the inference thread and the encoding of results. It must never
//! name PostgreSQL: it compiles, is tested and is used by the probe without a server. Errors carry facts; the words
//! that a user reads are made elsewhere.

// Numbers come from users, models and stored bytes: a conversion that may change one is made explicit.
#![cfg_attr(not(test), deny(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss))]

pub mod batch;
pub mod cache;
pub mod carried;
mod categories;
pub mod chunk;
pub mod device;
pub mod error;
pub mod file;
pub mod files;
pub mod flat;
mod float;
pub mod layout;
pub mod options;
pub mod pipeline;
pub mod portable;
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "not converted yet"
)]
pub mod probe;
pub mod reference;
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "not converted yet"
)]
pub mod run;
mod schema;
pub mod session;
pub mod signature;
mod string_tensor;
pub mod tensor;
#[cfg(test)]
mod tests;
pub mod text;
pub mod threads;
pub mod version;
mod weights;
mod wire;

pub use error::{Error, Result};
