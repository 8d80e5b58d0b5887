//! Results: the scored rows of one group, as encoded chunks, in memory or in the temporary file of their pool.

use std::rc::Rc;
use std::sync::Arc;

use pg_predict_engine::Error as Engine;
use pg_predict_engine::chunk::Chunk;
use pg_predict_engine::reference::Element;
use pg_predict_engine::signature::Output;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::pg::call::Call;
use crate::pg::convert::Carried;
use crate::pg::spill::{Piece, Pool};

/// What the rows of a result consist of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Layout {
    /// The model's name.
    pub(crate) model: String,
    /// The version's number.
    pub(crate) version: i32,
    /// The outputs that were kept.
    pub(crate) outputs: Vec<Output>,
    /// The output that casts and plain calls give: its place in `outputs`.
    pub(crate) selected: usize,
    /// An element of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) element: Option<ElementKey>,
    /// The columns that came along.
    pub(crate) carried: Vec<Carried>,
    /// The selected output was named: the others are not wanted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) named: bool,
    /// No row ever told its type: all are NULL, and so is whatever they carried.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) unbound: bool,
}

/// An element, as stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ElementKey {
    Position(usize),
    Integer(i64),
    Text(String),
}

impl From<&Element> for ElementKey {
    fn from(element: &Element) -> Self {
        match element {
            Element::Position(n) => Self::Position(*n),
            Element::Integer(n) => Self::Integer(*n),
            Element::Text(t) => Self::Text(t.clone()),
        }
    }
}

/// Rows that were bad, and are NULL because their version says so.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Faults {
    /// How many.
    pub(crate) rows: u64,
    /// Which was the first, and why it was bad.
    pub(crate) first: Option<(String, String)>,
}

impl Faults {
    /// Counts those of other rows, which came later.
    fn add(&mut self, later: Self) {
        self.rows += later.rows;
        self.first = self.first.take().or(later.first);
    }
}

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
        self.chunks.iter().try_for_each(|chunk| chunk.read(&mut f))
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

    /// The size of the flat form.
    pub(crate) fn flat_size(&self) -> Result<usize> {
        Ok(self.header()?.len() + 4 * self.chunks.len() + self.bytes)
    }

    fn header(&self) -> Result<Vec<u8>> {
        let layout = serde_json::to_vec(&(&*self.layout, &self.faults))
            .map_err(|e| Error::BadBatch { reason: e.to_string() })?;
        let mut out = Vec::with_capacity(layout.len() + 8);
        out.extend_from_slice(&(layout.len() as u32).to_ne_bytes());
        out.extend_from_slice(&layout);
        out.extend_from_slice(&(self.chunks.len() as u32).to_ne_bytes());
        Ok(out)
    }

    /// Writes the flat form, piece by piece.
    pub(crate) fn write_flat(&self, mut put: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        put(&self.header()?)?;
        self.each(|chunk| {
            put(&(chunk.len() as u32).to_ne_bytes())?;
            put(chunk)
        })
    }

    /// Reads layout and faults out of the flat form.
    pub(crate) fn read_layout(bytes: &[u8]) -> Result<(Layout, Faults)> {
        serde_json::from_slice(bytes).map_err(|_| Engine::Corrupt { what: "its layout cannot be read".into() }.into())
    }

    /// Reads the flat form; everything stays in memory.
    pub(crate) fn read_flat(bytes: &[u8]) -> Result<Self> {
        fn cut() -> Error {
            Engine::Corrupt { what: "it is cut short".into() }.into()
        }
        fn take<'a>(rest: &mut &'a [u8], n: usize) -> Result<&'a [u8]> {
            if n > rest.len() {
                return Err(cut());
            }
            let (head, tail) = rest.split_at(n);
            *rest = tail;
            Ok(head)
        }
        fn number(rest: &mut &[u8]) -> Result<usize> {
            Ok(u32::from_ne_bytes(take(rest, 4)?.try_into().map_err(|_| cut())?) as usize)
        }
        let mut rest = bytes;
        let n = number(&mut rest)?;
        let (layout, faults) = Self::read_layout(take(&mut rest, n)?)?;
        let mut results = Self::new(Arc::new(layout), Pool::new());
        results.faults = faults;
        for _ in 0..number(&mut rest)? {
            let n = number(&mut rest)?;
            let chunk = take(&mut rest, n)?;
            let mut copy = Vec::new();
            copy.try_reserve_exact(n).map_err(|_| Engine::OutOfMemory { what: "results".into(), bytes: n })?;
            copy.extend_from_slice(chunk);
            results.push_in_memory(copy)?;
        }
        Ok(results)
    }
}
