//! The bytes that a session is created from.

use std::path::Path;

use ort::session::builder::SessionBuilder;

use crate::error::Result;
use crate::onnx::categories::{self, Categories};
use crate::ort::weights::{SharedBytes, in_place, with_external};

/// The source of a session's bytes.
pub(crate) enum Origin<'a> {
    Memory(&'a [u8], Vec<(String, SharedBytes)>),
    File(&'a Path),
}

/// The largest model file that is rewritten, in bytes. Larger models do not predict from tables and are loaded
/// unchanged.
const LARGEST_TABLE_MODEL: u64 = 256 << 20;

impl Origin<'_> {
    /// Returns the model rewritten to take category numbers for the text inputs that it only looks up, and the
    /// categories. Returns `None` if there is no such input or the model cannot be rewritten.
    pub(crate) fn by_number(&self) -> Option<(Vec<u8>, Vec<Categories>)> {
        match self {
            Self::Memory(model, external) => external.is_empty().then(|| categories::rewritten(model))?,
            Self::File(path) => {
                let size = std::fs::metadata(path).ok()?.len();
                let model = (size <= LARGEST_TABLE_MODEL).then(|| std::fs::read(path).ok())??;
                categories::rewritten(&model)
            }
        }
    }

    /// Adds the weights to the builder and creates the session. `on_cpu`: whether it runs on the CPU alone.
    pub(crate) fn commit(&self, builder: SessionBuilder, on_cpu: bool) -> Result<ort::Result<ort::session::Session>> {
        Ok(match self {
            Self::Memory(model, external) => {
                // A device copies weights into its own memory.
                let builder = if on_cpu { in_place(builder, model, external)? } else { builder };
                with_external(builder, external)?.commit_from_memory(model)
            }
            Self::File(path) => {
                let mut builder = builder;
                builder.commit_from_file(path)
            }
        })
    }
}
