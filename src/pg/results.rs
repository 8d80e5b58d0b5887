//! Results: the scored rows of one group, as encoded chunks, in memory or in the temporary file of their pool.

use std::rc::Rc;
use std::sync::Arc;

use pg_predict_engine::Error as Engine;
use pg_predict_engine::chunk::Chunk;
use pg_predict_engine::flat::{self, Purpose};
pub(crate) use pg_predict_engine::layout::{ElementKey, Faults, Layout};

use crate::error::{Error, Result};
use crate::pg::call::Call;
use crate::pg::spill::{Piece, Pool};
use crate::pg::{sessions, stored_type};

/// The scored rows of one group.
pub(crate) struct Results {
    pub(crate) layout: Arc<Layout>,
    pub(crate) faults: Faults,
    rows: u64,
    chunks: Vec<Piece>,
    pool: Rc<Pool>,
    /// Encoded bytes of all chunks.
    bytes: usize,
}

impl Results {
    /// An empty one.
    pub(crate) fn new(layout: Arc<Layout>, pool: Rc<Pool>) -> Self {
        Self { layout, faults: Faults::default(), rows: 0, chunks: Vec::new(), pool, bytes: 0 }
    }

    /// Rows in it.
    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// Encoded bytes of all chunks.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn count(&mut self, chunk: &[u8]) -> Result<()> {
        self.rows += Chunk::parse(chunk)?.rows() as u64;
        self.bytes += chunk.len();
        Ok(())
    }

    /// Appends a chunk. `call` is the aggregate's, for the file.
    pub(crate) fn push(&mut self, chunk: Vec<u8>, call: &Call) -> Result<()> {
        self.count(&chunk)?;
        self.chunks.push(self.pool.keep(chunk, call)?);
        Ok(())
    }

    /// Appends a chunk that stays in memory: for values that are being read.
    pub(crate) fn push_in_memory(&mut self, chunk: Vec<u8>) -> Result<()> {
        self.count(&chunk)?;
        self.chunks.push(self.pool.keep_here(chunk));
        Ok(())
    }

    /// Counts bad rows.
    pub(crate) fn count_faults(&mut self, faults: Faults) {
        self.faults.add(faults);
    }

    /// Calls `f` for every chunk, in order.
    pub(crate) fn each(&self, mut f: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.chunks.iter().try_for_each(|chunk| {
            sessions::check_interrupts();
            chunk.read(&mut f)
        })
    }

    /// Takes on the layout of rows that are to be appended.
    pub(crate) fn agree(&mut self, layout: &Arc<Layout>) -> Result<()> {
        if self.layout != *layout {
            if self.rows != 0 {
                return Err(Error::RowsDiffer);
            }
            self.layout = Arc::clone(layout);
        }
        Ok(())
    }

    /// Whether its bytes may be stored as they are: every carried value is of a type that stays what it is.
    pub(crate) fn is_lasting(&self) -> bool {
        self.layout.carried.iter().all(|c| stored_type::is_kept(c.oid.into()))
    }

    fn head(&self, purpose: Purpose) -> Result<Vec<u8>> {
        Ok(flat::head(purpose, &self.layout, &self.faults, self.chunks.len())?)
    }

    /// The size of the flat form.
    pub(crate) fn flat_size(&self, purpose: Purpose) -> Result<usize> {
        Ok(self.head(purpose)?.len() + 4 * self.chunks.len() + self.bytes)
    }

    /// Writes the flat form, piece by piece.
    pub(crate) fn write_flat(&self, purpose: Purpose, mut put: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        put(&self.head(purpose)?)?;
        self.each(|chunk| {
            put(&flat::length(chunk.len())?)?;
            put(chunk)
        })
    }

    /// Reads the flat form; everything stays in memory.
    pub(crate) fn read_flat(bytes: &[u8], purpose: Purpose) -> Result<Self> {
        let mut copies = Vec::new();
        let (layout, faults) = flat::read(bytes, purpose, |layout, chunk| {
            sessions::check_interrupts();
            // What a stored value says of its types is not trusted: only those are read whose bytes may be anything.
            if purpose == Purpose::Stored && !layout.carried.iter().all(|c| stored_type::is_kept(c.oid.into())) {
                return Err(Engine::Corrupt { what: "a carried column is of a type that is not stored so".into() });
            }
            let mut copy = Vec::new();
            let full = |_| Engine::OutOfMemory { what: "results".into(), bytes: chunk.len() };
            copy.try_reserve_exact(chunk.len()).map_err(full)?;
            copy.extend_from_slice(chunk);
            copies.push(copy);
            Ok(())
        })?;
        let mut results = Self::new(Arc::new(layout), Pool::new());
        results.faults = faults;
        copies.into_iter().try_for_each(|copy| results.push_in_memory(copy))?;
        Ok(results)
    }
}
