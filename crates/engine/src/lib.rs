//! Batch inference on ONNX Runtime, without PostgreSQL.
//!
//! The crate does not depend on PostgreSQL: it builds and passes its tests without a server, and the validation process
//! uses it. Errors carry facts; the extension turns them into messages.

// Numbers come from users, models and stored bytes, so a conversion that may change a value must be explicit.
#![cfg_attr(not(test), deny(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss))]

pub mod batch;
pub mod device;
pub mod encoding;
pub mod error;
pub mod file_cache;
pub mod hash;
pub mod memory;
pub mod onnx;
pub mod options;
pub mod ort;
pub mod reference;
pub mod run;
pub mod signature;
pub mod tensor;
#[cfg(test)]
mod tests;
pub mod text;
pub mod threads;
pub(crate) mod trees;
pub mod validation;
pub mod version;

pub use error::{Error, Result};
pub use trees::kernels::KERNEL_VARIABLE;
