//! The sandboxed process that runs models: its protocol, its sandbox and its program.
//!
//! ONNX Runtime is a large C++ library, and a model is a program. So a backend does not run models itself. It starts a
//! model process, passes it the bytes of the models and the batches, and checks what it gets back.

#![cfg_attr(not(test), deny(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss))]

pub mod client;
pub mod codec;
pub mod control;
pub mod killed;
pub mod memory;
pub mod messages;
pub mod sandbox;
pub mod server;
pub mod spawn;
