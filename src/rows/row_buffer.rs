//! Buffers the rows of one batch. The aggregate and the plan node both use it.

use pg_predict_engine::batch::Batch;
use pg_predict_engine::encoding::encoded_rows::RowHeaders;
use pg_predict_engine::run::RunOutput;
use pgrx::pg_sys::{Datum, NullableDatum};

use crate::error::Result;
use crate::rows::binding::Binding;
use crate::rows::direct::Direct;

/// Failed rows by their index in the batch, with the reason.
pub(crate) type Failures = Vec<(usize, String)>;

/// Limits of a batch.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) rows: usize,
    pub(crate) bytes: usize,
}

/// Rows that wait until their batch is full.
#[derive(Default)]
pub(crate) struct RowBuffer {
    /// The tensors. They contain only the rows that the model runs.
    pub(crate) batch: Batch,
    /// Which rows the model runs, and the carried columns of all rows.
    pub(crate) rows: RowHeaders,
    /// Rows that could not be converted or run.
    pub(crate) failures: Failures,
    /// Number of rows that the tensors have memory for.
    room: usize,
    /// Bytes of texts that the batch may still take.
    text_room: usize,
}

impl RowBuffer {
    /// Whether memory must be reserved before the next row.
    pub(crate) fn is_at_its_end(&self) -> bool {
        self.batch.rows >= self.room
    }

    /// Returns the number of rows to reserve next: `first`, then as many as there are already, up to 4096 and within
    /// the bounds.
    pub(crate) fn growth(&self, first: usize, bounds: Bounds) -> usize {
        let fit = bounds.bytes / Binding::row_bytes(&self.batch).max(1);
        self.room.clamp(first, 4096).min(bounds.rows).min(fit.saturating_sub(self.batch.rows)).max(1)
    }

    /// Reserves memory for more rows. Returns an error instead of aborting the process if memory is exhausted.
    pub(crate) fn reserve(&mut self, binding: &Binding, more: usize) -> Result<()> {
        binding.reserve(&mut self.batch, more)?;
        let full = |_| pg_predict_engine::Error::OutOfMemory { what: "a batch".into(), bytes: more };
        self.rows.ran.try_reserve(more).map_err(full)?;
        self.room = self.batch.rows + more;
        Ok(())
    }

    /// Writes a row of single values directly into the tensors.
    ///
    /// Returns false and writes nothing for a row with a NULL, for a value that needs conversion on the general path,
    /// and for the last row that there is memory for.
    #[inline(always)]
    pub(crate) fn write_direct(
        &mut self,
        direct: &Direct,
        most_rows: usize,
        value: impl Fn(usize) -> Option<Datum>,
    ) -> bool {
        let rows = self.rows.ran.len();
        // `gather` reserves memory, and its caller submits full batches.
        if self.batch.rows + 1 >= self.room || rows + 1 >= most_rows || rows == self.rows.ran.capacity() {
            return false;
        }
        let Some(texts) = direct.write(&mut self.batch, value) else { return false };
        let Some(left) = self.text_room.checked_sub(texts) else {
            self.batch.undo();
            return false;
        };
        self.text_room = left;
        self.rows.ran.push(true);
        self.batch.rows += 1;
        true
    }

    /// Gathers a row from the arguments of a call. Returns whether the batch is full.
    pub(crate) fn gather(
        &mut self,
        binding: &mut Binding,
        arguments: &[NullableDatum],
        bounds: Bounds,
    ) -> Result<bool> {
        let row = self.rows.ran.len();
        match binding.gather(arguments, &mut self.batch, &mut self.rows) {
            Ok(reason) => self.failures.extend(reason.map(|reason| (row, reason))),
            Err(error) => {
                self.batch.undo();
                self.rows.ran.truncate(row);
                return Err(error);
            }
        }
        let each = Binding::row_bytes(&self.batch).max(1);
        let mut is_large = self.rows.carried.len() > bounds.bytes;
        if binding.varies() {
            let bytes = self.batch.bytes();
            // The fixed part of reserved rows that are not yet filled counts too.
            let rest = self.room.saturating_sub(self.batch.rows) * each;
            self.text_room = bounds.bytes.saturating_sub(bytes + rest);
            is_large |= bytes > bounds.bytes;
        }
        Ok(is_large || self.rows.ran.len() >= bounds.rows || self.batch.rows >= (bounds.bytes / each).max(1))
    }

    /// Takes the gathered rows out to run them, and leaves empty buffers.
    pub(crate) fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    /// Clears the rows and keeps the buffers.
    pub(crate) fn clear(&mut self) {
        self.batch.clear();
        self.rows.clear();
        self.failures.clear();
        self.text_room = 0;
    }

    /// Records the rows that failed in a run. They become NULL.
    pub(crate) fn note_failures(&mut self, ran: &RunOutput) {
        if ran.failed.is_empty() {
            return;
        }
        let run: Vec<usize> = (0..self.rows.ran.len()).filter(|row| self.rows.ran[*row]).collect();
        for (nth, reason) in &ran.failed {
            if let Some(row) = run.get(*nth) {
                self.rows.ran[*row] = false;
                self.failures.push((*row, reason.clone()));
            }
        }
        self.failures.sort_unstable_by_key(|(row, _)| *row);
    }
}
