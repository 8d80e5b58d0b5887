//! Reads and checks ONNX model files without running them, moves large weights out, and rewrites category lookups and
//! broadcast constants.

pub(crate) mod broadcasts;
pub(crate) mod categories;
pub mod content;
pub(crate) mod external_data;
pub(crate) mod graph;
pub mod model_file;
mod schema;
pub(crate) mod wire;
