//! The fast path of a row into a batch, for rows of single values without NULL.

use pg_predict_engine::batch::Batch;
use pg_predict_engine::tensor::Column;
use pgrx::pg_sys::Datum;

use crate::pg::text;
use crate::rows::encoders::{Write, float4};

/// How one value is written to its input.
#[derive(Clone, Copy)]
pub(crate) enum How {
    Float4,
    Text,
    By(Write),
}

/// One value of a row: its index and its input.
pub(crate) struct Step {
    pub(crate) place: usize,
    pub(crate) input: usize,
    pub(crate) how: How,
}

/// Writes rows of single values without NULL. Only the values decide whether a row takes this path.
pub(crate) struct Direct {
    pub(crate) steps: Vec<Step>,
    pub(crate) all_float4: bool,
}

impl Direct {
    /// Writes a row and returns the bytes of its texts. The caller counts the row.
    ///
    /// Returns `None` and writes nothing if the row needs the general path: it has a NULL, a text that is not inline,
    /// or a value that does not fit.
    #[inline(always)]
    pub(crate) fn write(&self, batch: &mut Batch, value: impl Fn(usize) -> Option<Datum>) -> Option<usize> {
        if let (true, [Column::Float32(column)]) = (self.all_float4, batch.columns.as_mut_slice()) {
            // Written in place: `extend` costs a function call per row if the compiler does not inline it.
            column.reserve(self.steps.len());
            let mut null = false;
            for (free, step) in column.spare_capacity_mut().iter_mut().zip(&self.steps) {
                let value = value(step.place);
                null |= value.is_none();
                free.write(value.map_or(0.0, float4));
            }
            if null {
                return None;
            }
            // SAFETY: this many elements were reserved and written.
            unsafe { column.set_len(column.len() + self.steps.len()) };
            return Some(0);
        }
        let mut texts = 0;
        for step in &self.steps {
            let written = match (value(step.place), &step.how, &mut batch.columns[step.input]) {
                (Some(datum), How::Float4, Column::Float32(v)) => {
                    v.push(float4(datum));
                    true
                }
                (Some(datum), How::Text, Column::String(v)) => text::inline(datum).is_some_and(|text| {
                    texts += text.len();
                    v.push(text);
                    true
                }),
                (Some(datum), How::By(write), column) => matches!(write(datum, column), Ok(true)),
                _ => false,
            };
            if !written {
                batch.undo();
                return None;
            }
        }
        Some(texts)
    }
}
