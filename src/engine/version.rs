//! A version as its users need it: a name for messages, the hash of its bytes, what it takes and gives.

use crate::options::{Batching, Options};
use crate::session::{content_hash, hex};
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

    /// Rows gathered together: what the options say, else what the probe found.
    #[must_use]
    pub fn batch_size(&self) -> usize {
        self.options.batch_size.unwrap_or(self.signature.batch_size)
    }

    /// What a session of it is kept under: a hash of everything that it is loaded from.
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
        // How a text is cut is set in the tokenizer.
        all.push_str(&format!(" {:?}", self.options.max_length));
        content_hash(all.as_bytes())
    }

    /// What its files are kept under: the hash of the model, and of all else that belongs to it.
    #[must_use]
    pub fn files(&self) -> String {
        let (model, all) = (hex(&self.hash), self.content_key());
        if all == self.hash { model } else { format!("{model}-{}", hex(&all[..8])) }
    }

    /// Whether its rows run one by one because their answers depend on their batch mates.
    #[must_use]
    pub fn runs_alone(&self) -> bool {
        self.signature.batch_sensitive && self.options.batch != Batching::Force && self.signature.fixed_rows.is_none()
    }
}
