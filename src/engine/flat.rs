//! The bytes of a whole result: what a stored `prediction_batch` is, and what a parallel worker sends.
//!
//! `pgpb`, the format's number (2 bytes), what the bytes are for (1 byte), a zero byte; the length of the header and the header, which is
//! JSON; the number of chunks, and for each its length and its bytes. Numbers are in the machine's own order.
//! docs/architecture.md describes the format for those who meet it on disk.

use crate::chunk::Chunk;
use crate::error::{Error, Result};
use crate::layout::{Faults, Layout};

/// The format that this version writes, and the only one that it reads.
pub const FORMAT: u16 = 1;
const MAGIC: [u8; 4] = *b"pgpb";

/// What the bytes are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// To be stored: whatever types there are later, it reads the same.
    Stored = 1,
    /// To go to another process of the same query.
    Exchange = 2,
}

fn corrupt(what: &'static str) -> Error {
    Error::Corrupt { what: what.into() }
}

/// What comes before the chunks.
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

/// A length as it is written.
pub fn length(n: usize) -> Result<[u8; 4]> {
    u32::try_from(n).map(u32::to_ne_bytes).map_err(|_| Error::TooLarge { bytes: n })
}

/// Takes bytes from the front.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n).ok_or_else(|| corrupt("it is cut short"))?;
        self.0 = tail;
        Ok(head)
    }

    fn number(&mut self) -> Result<usize> {
        let bytes = self.take(4)?.first_chunk().copied().ok_or_else(|| corrupt("it is cut short"))?;
        Ok(u32::from_ne_bytes(bytes) as usize)
    }

    /// The layout, the rows that were bad, and how many chunks follow.
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

    /// The next block of bytes.
    pub fn block(&mut self) -> Result<&'a [u8]> {
        let n = self.number()?;
        self.take(n)
    }
}

/// Reads a whole result, and checks all of it. `chunk` gets each chunk's bytes.
pub fn read<'a>(
    bytes: &'a [u8],
    purpose: Purpose,
    mut chunk: impl FnMut(&Layout, &'a [u8]) -> Result<()>,
) -> Result<(Layout, Faults)> {
    let mut reader = Reader(bytes);
    let (layout, faults, chunks) = reader.head(purpose)?;
    for _ in 0..chunks {
        let bytes = reader.block()?;
        Chunk::parse(bytes)?.check(&layout)?;
        chunk(&layout, bytes)?;
    }
    if reader.0.is_empty() { Ok((layout, faults)) } else { Err(corrupt("something follows its last chunk")) }
}
