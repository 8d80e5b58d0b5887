//! The scored rows of one group: encoded chunks, in memory or in the temporary file of their pool. And the rows of a
//! batch that a BatchPredict node has scored for several groups.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use pg_predict_engine::Error as Engine;
use pg_predict_engine::batch::Values;
use pg_predict_engine::encoding::encoded_reader::EncodedRows;
use pg_predict_engine::encoding::encoded_rows::{self, RowHeaders};

pub(crate) use pg_predict_engine::encoding::layout::{ElementKey, Faults, Layout};
use pg_predict_engine::encoding::stored_form::{self, Purpose};

use pgrx::pg_sys::Oid;

use crate::error::{Error, Result};
use crate::pg::call::Call;
use crate::pg::catalog::roles;
use crate::pg::process;
use crate::results::spill::{Piece, Pool};
use crate::rows::row_buffer::Failures;
use crate::rows::stored_type;

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
    /// Creates empty results.
    pub(crate) fn new(layout: Arc<Layout>, pool: Rc<Pool>) -> Self {
        Self { layout, faults: Faults::default(), rows: 0, chunks: Vec::new(), pool, bytes: 0 }
    }

    /// Returns the number of rows.
    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// Encoded bytes of all chunks.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn count(&mut self, chunk: &[u8]) -> Result<()> {
        self.rows += EncodedRows::parse(chunk)?.rows() as u64;
        self.bytes += chunk.len();
        Ok(())
    }

    /// Appends a chunk. A chunk that does not fit in memory goes to the file of the aggregate of `call`.
    pub(crate) fn push(&mut self, chunk: Vec<u8>, call: &Call) -> Result<()> {
        self.count(&chunk)?;
        self.chunks.push(self.pool.keep(chunk, call)?);
        Ok(())
    }

    /// Appends a chunk that stays in memory. Used for values that are being read.
    pub(crate) fn push_in_memory(&mut self, chunk: Vec<u8>) -> Result<()> {
        self.count(&chunk)?;
        self.chunks.push(self.pool.keep_here(chunk));
        Ok(())
    }

    /// Counts rows that failed.
    pub(crate) fn count_faults(&mut self, faults: Faults) {
        self.faults.add(faults);
    }

    /// Calls `f` for every chunk, in order.
    pub(crate) fn each(&self, mut f: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.chunks.iter().try_for_each(|chunk| {
            process::check_interrupts();
            chunk.read(&mut f)
        })
    }

    /// Adopts the layout of the rows that follow. Reports an error if there are rows with another layout already.
    pub(crate) fn agree(&mut self, layout: &Arc<Layout>) -> Result<()> {
        if self.layout != *layout {
            if self.rows != 0 {
                return Err(Error::RowsDiffer);
            }
            self.layout = Arc::clone(layout);
        }
        Ok(())
    }

    /// Whether the bytes may be stored as they are: the bytes of every carried type keep their meaning for good.
    pub(crate) fn is_lasting(&self) -> bool {
        self.layout.carried.iter().all(|c| stored_type::is_kept(c.oid.into()))
    }

    fn head(&self, purpose: Purpose) -> Result<Vec<u8>> {
        Ok(stored_form::head(purpose, &self.layout, &self.faults, self.chunks.len())?)
    }

    /// Returns the size of the flat form, in bytes.
    pub(crate) fn flat_size(&self, purpose: Purpose) -> Result<usize> {
        Ok(self.head(purpose)?.len() + 4 * self.chunks.len() + self.bytes)
    }

    /// Writes the flat form piece by piece.
    pub(crate) fn write_flat(&self, purpose: Purpose, mut put: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        put(&self.head(purpose)?)?;
        self.each(|chunk| {
            put(&stored_form::length(chunk.len())?)?;
            put(chunk)
        })
    }

    /// Reads the flat form. All chunks stay in memory.
    pub(crate) fn read_flat(bytes: &[u8], purpose: Purpose) -> Result<Self> {
        let mut copies = Vec::new();
        let (layout, faults) = stored_form::read(bytes, purpose, |layout, chunk| {
            process::check_interrupts();
            // The types in a stored value are not trusted. Only types for which any bytes are a valid value are read.
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

/// The rows of a batch that a BatchPredict node has scored. The rows of several groups share a batch, so a row reaches its
/// aggregate as a number: that of its batch in this backend, and its own in the batch.
pub(crate) struct ScoredRows {
    number: u32,
    pub(crate) layout: Arc<Layout>,
    rows: RowHeaders,
    all_ran: bool,
    values: Vec<Values>,
    failures: Failures,
}

/// The user whose query scored the rows, and the rows.
type KnownRows = (Oid, Weak<ScoredRows>);

thread_local! {
    /// The number of the last batch, and the batches that exist.
    static SCORED: RefCell<(u32, HashMap<u32, KnownRows>)> = RefCell::default();
}

impl Drop for ScoredRows {
    fn drop(&mut self) {
        SCORED.with_borrow_mut(|(_, all)| all.remove(&self.number));
    }
}

impl ScoredRows {
    /// Keeps the rows of a batch, for as long as the result or a group has them.
    pub(crate) fn new(layout: Arc<Layout>, rows: RowHeaders, values: Vec<Values>, failures: Failures) -> Rc<Self> {
        SCORED.with_borrow_mut(|(last, all)| {
            *last = last.wrapping_add(1);
            let all_ran = !rows.ran.contains(&false);
            let scored = Rc::new(Self { number: *last, layout, rows, all_ran, values, failures });
            all.insert(*last, (roles::caller(), Rc::downgrade(&scored)));
            scored
        })
    }

    /// Returns the number of a row.
    pub(crate) fn number(&self, row: u32) -> u64 {
        u64::from(self.number) << 32 | u64::from(row)
    }

    /// Returns the position of the row with a number, if it is one of these rows.
    #[inline]
    pub(crate) fn position(&self, number: u64) -> Option<usize> {
        let row = number ^ u64::from(self.number) << 32;
        usize::try_from(row).ok().filter(|row| *row < self.rows.ran.len())
    }

    /// Returns the rows among which a number is, and its position. A number is easily guessed, so the rows of another
    /// user's query are not found.
    pub(crate) fn find(number: u64) -> Result<(Rc<Self>, usize)> {
        let batch = u32::try_from(number >> 32).unwrap_or_default();
        let known = SCORED.with_borrow(|(_, all)| {
            all.get(&batch).filter(|(of, _)| *of == roles::caller()).and_then(|(_, rows)| rows.upgrade())
        });
        let rows = known.ok_or(Error::StaleHandle)?;
        let row = rows.position(number).ok_or(Error::StaleHandle)?;
        Ok((rows, row))
    }

    /// Encodes consecutive rows.
    pub(crate) fn encoded(&self, rows: Range<usize>) -> Result<Vec<u8>> {
        if rows.len() == self.rows.ran.len() {
            return Ok(encoded_rows::encode(&self.rows, &self.values)?);
        }
        let ran = |rows: Range<usize>| {
            if self.all_ran { rows.len() } else { self.rows.ran[rows].iter().filter(|ran| **ran).count() }
        };
        let first = ran(0..rows.start);
        let run: Vec<usize> = (first..first + ran(rows.clone())).collect();
        let values: Vec<Values> = self.values.iter().map(|values| values.pick(&run)).collect();
        Ok(encoded_rows::encode(&self.rows.part(rows)?, &values)?)
    }

    /// Returns the rows that failed, of consecutive rows, and the first of them.
    pub(crate) fn failures(&self, rows: Range<usize>) -> (u64, Option<&(usize, String)>) {
        let mut failed = self.failures.iter().filter(|(row, _)| rows.contains(row));
        let first = failed.next();
        (u64::from(first.is_some()) + failed.count() as u64, first)
    }
}
