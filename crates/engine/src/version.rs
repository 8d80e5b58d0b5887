//! A resolved model version: its name, content hash, signature and options.

use serde::{Deserialize, Serialize};

use crate::hash::{content_hash, hex};
use crate::options::{Batching, Options};
use crate::signature::Signature;

/// A resolved version of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Version {
    /// The model's name.
    pub model: String,
    /// The version's number.
    pub number: i32,
    /// The sha256 of the model's bytes.
    pub hash: [u8; 32],
    /// The inputs and outputs.
    pub signature: Signature,
    /// The options of the version.
    pub options: Options,
}

impl Version {
    /// Returns the name for messages: `name@number`.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{}@{}", self.model, self.number)
    }

    /// Returns the batch size of the options, or else the one that validation measured.
    #[must_use]
    pub fn batch_size(&self) -> usize {
        self.options.batch_size.unwrap_or(self.signature.batch_size)
    }

    /// Returns the session cache key: a hash of everything that a session is loaded from.
    #[must_use]
    pub fn content_key(&self) -> [u8; 32] {
        let signature = &self.signature;
        if signature.tokenizer.is_none() && signature.external.is_empty() {
            return self.hash;
        }
        let mut all = hex(&self.hash);
        for part in signature.tokenizer.iter().chain(signature.external.iter().flat_map(|e| [&e.location, &e.hash])) {
            all.push(' ');
            all.push_str(part);
        }
        // The option `max_length` is applied to the tokenizer when it is loaded.
        all.push_str(&format!(" {:?}", self.options.max_length));
        content_hash(all.as_bytes())
    }

    /// Returns the name of the file cache entry: the model's hash, followed by a hash of the rest of the content, if
    /// any.
    #[must_use]
    pub fn files(&self) -> String {
        let (model, all) = (hex(&self.hash), self.content_key());
        if all == self.hash { model } else { format!("{model}-{}", hex(&all[..8])) }
    }

    /// Returns whether rows run one by one because the model is batch-dependent.
    #[must_use]
    pub fn runs_alone(&self) -> bool {
        self.signature.batch_sensitive && self.options.batch != Batching::Force
    }
}
