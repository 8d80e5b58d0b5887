//! How it is measured: the server, raw ONNX Runtime, and single questions.

pub mod memory;
pub mod raw;
pub mod scale;
pub mod server;
pub mod small;
pub mod start;
pub mod text;
