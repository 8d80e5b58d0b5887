//! What can go wrong in the engine, as facts. No prose for users and no SQLSTATE: one table elsewhere adds those.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The engine's result.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure, with the facts that a message needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Error {
    /// The ONNX Runtime library is not there or cannot be loaded.
    Library {
        /// The path that was tried.
        path: String,
        /// What the loader said.
        reason: String,
    },
    /// The device asked for is not there.
    Device {
        /// As asked for: `cuda`, `cuda:1`.
        device: String,
        /// Which of the reasons it is.
        missing: DeviceMissing,
        /// ONNX Runtime's words.
        reason: String,
    },
    /// The bytes are not a model that ONNX Runtime can read.
    InvalidModel {
        /// ONNX Runtime's words.
        reason: String,
    },
    /// The model is well formed and asks for something that is not there.
    Unsupported {
        /// What: an operator, a type, an opset.
        what: String,
        /// ONNX Runtime's words, or why.
        reason: String,
    },
    /// Weights are stored outside the file, at a place where they cannot be given.
    ExternalData {
        /// The first such tensor's name.
        tensor: String,
    },
    /// A file of weights that the model names cannot be had.
    ExternalFile {
        /// The name that the model has for it.
        location: String,
        /// Why.
        reason: Cow<'static, str>,
    },
    /// What should be a tokenizer is none.
    Tokenizer {
        /// The tokenizer library's words.
        reason: String,
    },
    /// A locale that an operator needs is not installed.
    Locale {
        /// ONNX Runtime's words.
        reason: String,
    },
    /// Memory could not be had.
    OutOfMemory {
        /// What it was for.
        what: Cow<'static, str>,
        /// How much, where known.
        bytes: usize,
    },
    /// The model failed while running.
    Run {
        /// ONNX Runtime's words.
        reason: String,
    },
    /// The model gave an output that is not one value (or group of values) a row.
    OutputRows {
        /// The output's name.
        output: String,
        /// Its shape as returned.
        shape: Vec<i64>,
        /// The rows that went in.
        rows: usize,
    },
    /// An output has another shape or type than its signature says.
    OutputChanged {
        /// The output's name.
        output: String,
        /// What the signature says.
        expected: String,
        /// What came.
        got: String,
    },
    /// The bytes do not have the hash under which they are stored.
    Hash {
        /// The hash that they should have, in hexadecimal.
        expected: String,
        /// The hash that they have.
        got: String,
    },
    /// A session is larger than the whole cache may be.
    CacheTooSmall {
        /// What the session needs.
        needed: usize,
        /// What the cache may hold.
        limit: usize,
    },
    /// An option does not hold.
    Option {
        /// Its key.
        key: String,
        /// What is wrong with its value.
        reason: String,
    },
    /// A model reference that cannot be parsed.
    Reference {
        /// The text as given.
        text: String,
        /// What is wrong with it.
        reason: Cow<'static, str>,
    },
    /// A reference to an output that the model does not have.
    NoOutput {
        /// The name asked for.
        output: String,
        /// The names that there are.
        known: Vec<String>,
    },
    /// A reference to an element that the output does not have.
    NoElement {
        /// The output's name.
        output: String,
        /// The element asked for.
        element: String,
        /// What there is.
        known: String,
    },
    /// A text that is no result.
    Malformed {
        /// What is wrong.
        reason: String,
    },
    /// A result does not fit into one value.
    TooLarge {
        /// What it would take.
        bytes: usize,
    },
    /// Encoded results that cannot be read.
    Corrupt {
        /// What is wrong.
        what: Cow<'static, str>,
    },
}

/// Why a device is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceMissing {
    /// This build of ONNX Runtime has no CUDA in it.
    Provider,
    /// The CUDA or cuDNN libraries cannot be loaded.
    Libraries,
    /// There is no driver, or no card.
    Driver,
    /// There is no card with this number.
    Id,
    /// ONNX Runtime gave another reason.
    Other,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Error {}
