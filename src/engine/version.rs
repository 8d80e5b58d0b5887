//! A version as its users need it: a name for messages, the hash of its bytes, what it takes and gives.

use crate::options::Options;
use crate::signature::Signature;

/// A resolved version of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Version {
    /// The model's name.
    pub model: String,
    /// The version's number.
    pub number: i32,
    /// The sha256 of its bytes.
    pub hash: [u8; 32],
    /// What it takes and gives.
    pub signature: Signature,
    /// How it was asked to be run.
    pub options: Options,
}

impl Version {
    /// The name that messages use: `name@number`.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{}@{}", self.model, self.number)
    }

    /// Rows run together: what the options say, else what the probe found.
    #[must_use]
    pub fn batch_size(&self) -> usize {
        self.options.batch_size.unwrap_or(if self.signature.batch_sensitive { 1 } else { self.signature.batch_size })
    }
}
