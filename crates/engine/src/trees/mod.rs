//! Runs tree ensembles on kernels of our own, with the answers of ONNX Runtime bit for bit.
//!
//! When a version is loaded, `rewriting` finds the tree-ensemble operators of the model and `ensemble` reads them.
//! `compiled` lays each tree out for a kernel. The operators that are unusual in any way stay with ONNX Runtime. The
//! others are replaced in the bytes that ONNX Runtime gets by an operator that calls `kernels` and then `scores`.

pub(crate) mod attributes;
pub(crate) mod compiled;
pub(crate) mod ensemble;
pub(crate) mod folding;
pub(crate) mod forest;
pub(crate) mod kernels;
pub(crate) mod node_places;
pub(crate) mod number;
pub(crate) mod ranks;
pub(crate) mod rewriting;
pub(crate) mod scores;
#[cfg(test)]
mod tests;

/// The reason why an operator is not compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// It is left to ONNX Runtime.
    Left(&'static str),
    /// ONNX Runtime must not see it either.
    Refused(&'static str),
}

/// Returns a position as an index.
#[inline(always)]
fn index(position: u32) -> usize {
    position as usize
}
