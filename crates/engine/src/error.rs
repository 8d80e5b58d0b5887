//! Engine errors, as facts. The extension adds the SQLSTATE and the message text in one table.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The result type of the engine.
pub type Result<T> = std::result::Result<T, Error>;

/// An error, with the facts that its message needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Error {
    /// The ONNX Runtime library is missing or cannot be loaded.
    Library {
        /// The path of the library.
        path: String,
        /// The error of the dynamic loader.
        reason: String,
    },
    /// The requested device is not available.
    Device {
        /// The device as requested: `cuda`, `cuda:1`.
        device: String,
        /// The cause.
        missing: DeviceMissing,
        /// The message of ONNX Runtime.
        reason: String,
    },
    /// The bytes are not a model that ONNX Runtime can read.
    InvalidModel {
        /// The message of ONNX Runtime, or of a check of the model file.
        reason: String,
    },
    /// The model is well formed but needs something that is not available.
    Unsupported {
        /// The missing operator, type or opset.
        what: String,
        /// The message of ONNX Runtime, or the cause.
        reason: String,
    },
    /// A tensor names an external file in a place where external data is not allowed.
    ExternalData {
        /// The name of the first such tensor.
        tensor: String,
    },
    /// An external data file that the model names, or that was given, cannot be used.
    ExternalFile {
        /// The file name in the model.
        location: String,
        /// The cause.
        reason: Cow<'static, str>,
    },
    /// The given tokenizer is not valid.
    Tokenizer {
        /// The message of the tokenizer library.
        reason: String,
    },
    /// A locale that an operator needs is not installed.
    Locale {
        /// The message of ONNX Runtime.
        reason: String,
    },
    /// A memory allocation failed.
    OutOfMemory {
        /// The purpose of the allocation.
        what: Cow<'static, str>,
        /// The size in bytes, or 0 if it is not known.
        bytes: usize,
    },
    /// The model failed while running.
    Run {
        /// The message of ONNX Runtime or of the engine.
        reason: String,
    },
    /// The model returned an output that does not have one value (or group of values) per row.
    OutputRows {
        /// The output's name.
        output: String,
        /// The returned shape.
        shape: Vec<usize>,
        /// The number of rows of the run.
        rows: usize,
    },
    /// The shape or type of an output differs from the signature.
    OutputChanged {
        /// The output's name.
        output: String,
        /// The shape and type in the signature.
        expected: String,
        /// The returned shape and type.
        got: String,
    },
    /// The model returned a text that SQL cannot hold.
    NotText {
        /// The output's name.
        output: String,
        /// The defect of the text: "is not UTF-8".
        why: String,
    },
    /// The hash of stored bytes differs from the recorded one.
    Hash {
        /// The recorded hash, in hexadecimal.
        expected: String,
        /// The hash of the bytes, in hexadecimal; `nothing` if they are missing.
        got: String,
    },
    /// A session needs more memory than the session cache may hold.
    CacheTooSmall {
        /// The memory of the session, in bytes.
        needed: usize,
        /// The limit of the cache, in bytes.
        limit: usize,
    },
    /// An option is not valid.
    Option {
        /// The option's key.
        key: String,
        /// The defect of the value.
        reason: String,
    },
    /// A model reference cannot be parsed.
    Reference {
        /// The reference as given.
        text: String,
        /// The defect of the reference.
        reason: Cow<'static, str>,
    },
    /// A reference names an output that the model does not have.
    NoOutput {
        /// The name in the reference.
        output: String,
        /// The names of the model's outputs.
        known: Vec<String>,
    },
    /// A reference names an element that the output does not have.
    NoElement {
        /// The output's name.
        output: String,
        /// The element in the reference.
        element: String,
        /// The elements that the output has.
        known: String,
    },
    /// A text is not a valid `prediction_batch` literal.
    Malformed {
        /// The defect of the text.
        reason: String,
    },
    /// The model process broke a rule of the protocol.
    Protocol {
        /// The rule that it broke.
        what: Cow<'static, str>,
    },
    /// A result is too large for one value.
    TooLarge {
        /// The size of the result, in bytes.
        bytes: usize,
    },
    /// Encoded results are damaged.
    Corrupt {
        /// The defect of the bytes.
        what: Cow<'static, str>,
    },
}

/// Why a device is not available.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceMissing {
    /// This build of ONNX Runtime does not include CUDA.
    Provider,
    /// The CUDA or cuDNN libraries cannot be loaded.
    Libraries,
    /// There is no NVIDIA driver or no GPU.
    Driver,
    /// There is no GPU with this number.
    Id,
    /// ONNX Runtime reported another cause.
    Other,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Error {}
