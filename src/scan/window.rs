//! Holds a window of rows: their values and results, in the order in which they are returned.

use std::rc::Rc;

use pgrx::pg_sys::{self, Datum};

use crate::error::{Error, Result};
use crate::pg::memory;
use crate::results::result_set::ScoredRows;
use crate::scan::state::FIRST_ROOM;

/// Number of rows of the first window. Each further window is four times as large, up to the batch size.
pub(crate) const FIRST_WINDOW: usize = 256;

/// The flag of an empty slot. The flags of a slot have 16 bits.
pub(crate) const EMPTY: u16 = (pg_sys::TTS_FLAG_EMPTY & 0xffff) as u16;

/// Size of an arena block, in bytes.
const BLOCK: usize = 64 << 10;

/// Holds values that are passed by reference, in blocks that never move.
#[derive(Default)]
pub(crate) struct Arena {
    blocks: Vec<Vec<u64>>,
    block: usize,
    used: usize,
}

impl Arena {
    fn clear(&mut self) {
        // Releases the blocks of oversized rows, and all blocks after the first 16.
        self.blocks.truncate(16);
        self.blocks.retain(|b| b.len() * 8 <= BLOCK);
        (self.block, self.used) = (0, 0);
    }

    /// Allocates `bytes` bytes, with an alignment that is sufficient for every type.
    pub(crate) fn room(&mut self, bytes: usize) -> Result<*mut u8> {
        let words = bytes.div_ceil(8);
        while self.blocks.get(self.block).is_some_and(|b| self.used + words > b.len()) {
            self.block += 1;
            self.used = 0;
        }
        if self.block >= self.blocks.len() {
            let size = words.max(BLOCK / 8);
            let mut block = Vec::new();
            block.try_reserve_exact(size).map_err(|_| pg_predict_engine::Error::OutOfMemory {
                what: "rows that wait for a batch".into(),
                bytes: size * 8,
            })?;
            block.resize(size, 0);
            self.blocks.push(block);
        }
        let at = self.blocks[self.block][self.used..].as_mut_ptr();
        self.used += words;
        Ok(at.cast())
    }
}

/// Rows that were read together.
pub(super) struct RowWindow {
    pub(crate) columns: usize,
    /// The values of all rows that there is room for. Those of row `rows` and later are meaningless.
    pub(crate) values: Vec<Datum>,
    pub(crate) nulls: Vec<bool>,
    pub(crate) rows: u32,
    /// The next row to return.
    pub(crate) next: u32,
    /// The first row that failed, and its error. Rows after it are not returned.
    pub(crate) spoiled: Option<(u32, Error)>,
    pub(crate) arena: Arena,
    pub(crate) bytes: usize,
    /// Holds results that are passed by reference; created for the first of them.
    pub(crate) home: Option<memory::Private>,
    /// The batches whose rows are passed to an aggregate by number.
    pub(super) scored: Vec<Rc<ScoredRows>>,
}

impl RowWindow {
    pub(crate) fn new(columns: usize) -> Self {
        Self {
            columns,
            values: Vec::new(),
            nulls: Vec::new(),
            rows: 0,
            next: 0,
            spoiled: None,
            arena: Arena::default(),
            bytes: 0,
            home: None,
            scored: Vec::new(),
        }
    }

    pub(crate) fn clear(&mut self) {
        // A column without a value is NULL.
        self.nulls[..self.rows as usize * self.columns].fill(true);
        (self.rows, self.next, self.bytes) = (0, 0, 0);
        self.spoiled = None;
        self.arena.clear();
        self.scored.clear();
        if let Some(home) = &self.home {
            // SAFETY: the window owns the context, and all rows whose values it held have been returned.
            unsafe { pg_sys::MemoryContextReset(home.context()) };
        }
    }

    /// Makes room for more rows. Returns an error if memory is exhausted, instead of aborting the process.
    #[cold]
    pub(crate) fn grow(&mut self) -> Result<()> {
        let more = self.values.len().max(FIRST_ROOM * self.columns);
        let full =
            |_| pg_predict_engine::Error::OutOfMemory { what: "rows that wait for a batch".into(), bytes: more * 9 };
        self.values.try_reserve(more).map_err(full)?;
        self.nulls.try_reserve(more).map_err(full)?;
        self.values.resize(self.values.len() + more, Datum::from(0));
        self.nulls.resize(self.nulls.len() + more, true);
        Ok(())
    }

    /// Returns the memory that the rows use, in bytes.
    pub(crate) fn held(&self) -> usize {
        self.bytes + self.rows as usize * self.columns * 9
    }

    /// Returns the memory context for results.
    pub(super) fn context(&mut self) -> pg_sys::MemoryContext {
        self.home.get_or_insert_with(|| memory::Private::new(c"pg_predict window")).context()
    }

    /// Stores a result. None is NULL.
    #[inline]
    pub(super) fn answer(&mut self, row: u32, column: usize, value: Option<Datum>) {
        let at = row as usize * self.columns + column;
        if let (Some(value), Some(v), Some(n)) = (value, self.values.get_mut(at), self.nulls.get_mut(at)) {
            *v = value;
            *n = false;
        }
    }

    /// Stores a value, also over another one. None is NULL.
    pub(super) fn put(&mut self, row: u32, column: usize, value: Option<Datum>) {
        let at = row as usize * self.columns + column;
        if let (Some(v), Some(n)) = (self.values.get_mut(at), self.nulls.get_mut(at)) {
            *v = value.unwrap_or(Datum::from(0));
            *n = value.is_none();
        }
    }

    /// Returns a value. None is NULL.
    pub(super) fn value(&self, row: u32, column: usize) -> Option<Datum> {
        let at = row as usize * self.columns + column;
        self.nulls.get(at).is_some_and(|null| !null).then(|| self.values[at])
    }

    /// Records a row that failed.
    pub(super) fn spoil(&mut self, row: u32, error: Error) {
        if self.spoiled.as_ref().is_none_or(|(first, _)| row < *first) {
            self.spoiled = Some((row, error));
        }
    }
}
