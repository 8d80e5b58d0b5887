//! The binary form of a whole result, in a stored `prediction_batch` and in messages of parallel workers.
//!
//! It consists of `pgpb`, the format number (2 bytes), the purpose (1 byte) and a zero byte. The length of the JSON
//! header and the header follow, then the number of encoded batches, and for each its length and its bytes. Numbers are
//! in native byte order. docs/architecture.md also describes the format.

use crate::encoding::encoded_reader::EncodedRows;
use crate::encoding::layout::{Faults, Layout};
use crate::error::{Error, Result};

/// The format that this version writes, and the only one that it reads.
pub const FORMAT: u16 = 1;
const MAGIC: [u8; 4] = *b"pgpb";

/// The purpose of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// Storage: the value reads the same if types change later.
    Stored = 1,
    /// Exchange between processes of one query.
    Exchange = 2,
}

fn corrupt(what: &'static str) -> Error {
    Error::Corrupt { what: what.into() }
}

/// Encodes everything before the encoded batches.
pub fn head(purpose: Purpose, layout: &Layout, faults: &Faults, chunks: usize) -> Result<Vec<u8>> {
    let json = serde_json::to_vec(&(layout, faults)).map_err(|_| corrupt("its header cannot be written"))?;
    let mut out = Vec::new();
    out.try_reserve_exact(json.len() + 16)
        .map_err(|_| Error::OutOfMemory { what: "results".into(), bytes: json.len() })?;
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&FORMAT.to_ne_bytes());
    out.extend_from_slice(&[purpose as u8, 0]);
    out.extend_from_slice(&length(json.len())?);
    out.extend_from_slice(&json);
    out.extend_from_slice(&length(chunks)?);
    Ok(out)
}

/// Encodes a length.
pub fn length(n: usize) -> Result<[u8; 4]> {
    u32::try_from(n).map(u32::to_ne_bytes).map_err(|_| Error::TooLarge { bytes: n })
}

/// Reads the binary form from the front.
pub struct StoredReader<'a>(pub &'a [u8]);

impl<'a> StoredReader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n).ok_or_else(|| corrupt("it is cut short"))?;
        self.0 = tail;
        Ok(head)
    }

    fn number(&mut self) -> Result<usize> {
        let bytes = self.take(4)?.first_chunk().copied().ok_or_else(|| corrupt("it is cut short"))?;
        Ok(u32::from_ne_bytes(bytes) as usize)
    }

    /// Returns the layout, the failed rows, and the number of encoded batches that follow.
    pub fn head(&mut self, purpose: Purpose) -> Result<(Layout, Faults, usize)> {
        let (magic, format) = (self.take(4)?, self.take(2)?);
        let format = u16::from_ne_bytes(format.first_chunk().copied().unwrap_or_default());
        if magic != MAGIC {
            return Err(corrupt("it does not begin as one, or was stored before formats had numbers"));
        }
        if format != FORMAT {
            return Err(Error::Corrupt {
                what: format!("it has format {format}, and this version of pg_predict reads format {FORMAT}").into(),
            });
        }
        if self.take(2)? != [purpose as u8, 0] {
            return Err(corrupt("it is for another purpose"));
        }
        let json = self.block()?;
        let (layout, faults): (Layout, Faults) =
            serde_json::from_slice(json).map_err(|_| corrupt("its header cannot be read"))?;
        layout.check().map_err(|what| Error::Corrupt { what: what.into() })?;
        Ok((layout, faults, self.number()?))
    }

    /// Returns the next block of bytes, which follows its length.
    pub fn block(&mut self) -> Result<&'a [u8]> {
        let n = self.number()?;
        self.take(n)
    }
}

/// Reads a whole result and checks all of it. `chunk` receives the bytes of each encoded batch.
pub fn read<'a>(
    bytes: &'a [u8],
    purpose: Purpose,
    mut chunk: impl FnMut(&Layout, &'a [u8]) -> Result<()>,
) -> Result<(Layout, Faults)> {
    let mut reader = StoredReader(bytes);
    let (layout, faults, chunks) = reader.head(purpose)?;
    for _ in 0..chunks {
        let bytes = reader.block()?;
        EncodedRows::parse(bytes)?.check(&layout)?;
        chunk(&layout, bytes)?;
    }
    if reader.0.is_empty() { Ok((layout, faults)) } else { Err(corrupt("something follows its last chunk")) }
}
