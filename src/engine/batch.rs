//! A batch: the rows that run together, as one column an input; and what a run gives back.

use crate::tensor::{Column, Strings};

/// Rows on their way into a session.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Rows gathered.
    pub rows: usize,
    /// One an input, in the signature's order, each with `rows` times its width elements.
    pub columns: Vec<Column>,
    /// The shape of one row, for each input.
    pub shapes: Vec<Vec<usize>>,
}

impl Batch {
    /// Forgets the rows and keeps the buffers.
    pub fn clear(&mut self) {
        self.rows = 0;
        for column in &mut self.columns {
            column.truncate(0);
        }
    }

    /// Bytes gathered.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.columns.iter().map(Column::bytes).sum()
    }
}

/// One output of a run, for all its rows.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// `width` elements a row.
    Tensor {
        /// Elements of one row.
        width: usize,
        /// All elements, in row order.
        data: Column,
    },
    /// Key and value pairs, as many as each row has.
    Maps(Maps),
}

/// Maps of many rows in one place.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Maps {
    /// Where each row's pairs end.
    pub ends: Vec<usize>,
    /// Their keys.
    pub keys: Keys,
    /// Their values.
    pub values: Vec<f32>,
}

/// The keys of maps.
#[derive(Debug, Clone, PartialEq)]
pub enum Keys {
    /// Integers.
    Int64(Vec<i64>),
    /// Texts.
    Text(Strings),
}

impl Default for Keys {
    fn default() -> Self {
        Self::Int64(Vec::new())
    }
}
