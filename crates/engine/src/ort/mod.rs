//! Wraps ONNX Runtime's environment, sessions, runs and values. Only this module names the `ort` crate.

pub mod declared;
pub(crate) mod denormals;
pub mod environment;
pub(crate) mod origin;
pub mod session;
pub mod session_cache;
pub mod stop;
pub(crate) mod string_tensor;
pub(crate) mod tree_operator;
pub(crate) mod values;
pub mod weights;
