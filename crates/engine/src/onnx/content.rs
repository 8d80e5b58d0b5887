//! The content of a version: its model file, tokenizer and external data, and their hashes.

use crate::error::{Error, Result};
use crate::hash::{content_hash, hex};
use crate::version::Version;

/// The bytes that a session is loaded from.
#[derive(Debug, Default)]
pub struct Content {
    /// The bytes of the model file.
    pub model: Vec<u8>,
    /// The bytes of `tokenizer.json`.
    pub tokenizer: Option<Vec<u8>>,
    /// The external data files: the file name in the model, and the bytes.
    pub external: Vec<(String, Vec<u8>)>,
}

impl Content {
    /// Creates the content of a model that is a single file.
    #[must_use]
    pub fn of(model: Vec<u8>) -> Self {
        Self { model, ..Self::default() }
    }

    /// Returns the total size, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let external: usize = self.external.iter().map(|(_, bytes)| bytes.len()).sum();
        self.model.len() + self.tokenizer.as_ref().map_or(0, Vec::len) + external
    }

    /// Checks the model, the tokenizer and the external data against the recorded hashes.
    pub fn check(&self, version: &Version) -> Result<()> {
        let same = |bytes: &[u8], expected: &str| {
            let got = hex(&content_hash(bytes));
            if got == expected { Ok(()) } else { Err(Error::Hash { expected: expected.to_owned(), got }) }
        };
        same(&self.model, &hex(&version.hash))?;
        let missing = |what: &str| Error::Hash { expected: what.to_owned(), got: "nothing".to_owned() };
        if let Some(expected) = &version.signature.tokenizer {
            same(self.tokenizer.as_deref().ok_or_else(|| missing(expected))?, expected)?;
        }
        for external in &version.signature.external {
            let stored = self.external.iter().find(|(location, _)| *location == external.location);
            same(&stored.ok_or_else(|| missing(&external.hash))?.1, &external.hash)?;
        }
        Ok(())
    }
}
