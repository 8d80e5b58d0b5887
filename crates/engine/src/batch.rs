//! Batches of input rows, with one column per input, and the output values of a run.

use crate::signature::{Output, OutputRow};
use crate::tensor::{Column, ElementType, Strings, element_count};

/// Rows that are run together.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// The number of complete rows.
    pub rows: usize,
    /// One column for each input of `Signature::slots`, in that order.
    pub columns: Vec<Column>,
    /// The row shapes of each column.
    pub shapes: Vec<Shapes>,
}

/// The row shapes of one column.
#[derive(Debug, Clone, PartialEq)]
pub enum Shapes {
    /// All rows have this shape.
    Same(Vec<usize>),
    /// Each row has its own shape.
    Each(Each),
}

/// One shape per row.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Each {
    /// The number of dimensions, which is the same for all rows.
    pub rank: usize,
    /// The dimensions of all rows, in row order.
    pub dims: Vec<usize>,
    /// The end of each row's elements in the column.
    pub ends: Vec<usize>,
}

impl Each {
    /// Appends the shape of a row.
    pub fn push(&mut self, shape: &[usize]) {
        let end = self.ends.last().copied().unwrap_or(0) + shape.iter().product::<usize>();
        self.dims.extend_from_slice(shape);
        self.ends.push(end);
    }

    fn truncate(&mut self, rows: usize) {
        self.dims.truncate(rows * self.rank);
        self.ends.truncate(rows);
    }
}

impl Shapes {
    /// Returns the shape of a row.
    #[must_use]
    pub fn of(&self, row: usize) -> &[usize] {
        match self {
            Self::Same(shape) => shape,
            Self::Each(each) => each.dims.get(row * each.rank..(row + 1) * each.rank).unwrap_or_default(),
        }
    }

    /// Returns the offset and the number of a row's elements.
    #[must_use]
    pub fn span(&self, row: usize) -> (usize, usize) {
        match self {
            Self::Same(shape) => {
                let width = shape.iter().product();
                (row * width, width)
            }
            Self::Each(each) => {
                let start = if row == 0 { 0 } else { each.ends.get(row - 1).copied().unwrap_or(0) };
                (start, each.ends.get(row).copied().unwrap_or(start) - start)
            }
        }
    }

    /// Returns the number of elements of the first `rows` rows.
    #[must_use]
    pub fn elements(&self, rows: usize) -> usize {
        if rows == 0 { 0 } else { self.span(rows - 1).0 + self.span(rows - 1).1 }
    }
}

impl Batch {
    /// Removes all rows and keeps the buffers.
    pub fn clear(&mut self) {
        self.rows = 0;
        self.undo();
    }

    /// Removes the values of an incomplete row, which `rows` does not count yet.
    pub fn undo(&mut self) {
        for (column, shapes) in self.columns.iter_mut().zip(&mut self.shapes) {
            if let Shapes::Each(each) = shapes {
                each.truncate(self.rows);
            }
            column.truncate(shapes.elements(self.rows));
        }
    }

    /// Copies consecutive rows into a batch of their own.
    #[must_use]
    pub fn part(&self, rows: std::ops::Range<usize>) -> Self {
        let shapes = |shapes: &Shapes| match shapes {
            Shapes::Same(shape) => Shapes::Same(shape.clone()),
            Shapes::Each(each) => {
                let mut part = Each { rank: each.rank, ..Each::default() };
                rows.clone().for_each(|row| part.push(shapes.of(row)));
                Shapes::Each(part)
            }
        };
        let span = |shapes: &Shapes| {
            let start = shapes.elements(rows.start);
            (start, shapes.elements(rows.end).saturating_sub(start))
        };
        let columns = self.columns.iter().zip(&self.shapes);
        Self {
            rows: rows.len(),
            columns: columns.map(|(column, shapes)| column.copy(&[span(shapes)])).collect(),
            shapes: self.shapes.iter().map(shapes).collect(),
        }
    }

    /// Returns the size of the values, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.columns.iter().map(Column::bytes).sum()
    }

    /// Returns the size of the allocated buffers, in bytes.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.columns.iter().map(Column::capacity).sum()
    }
}

/// The values of one output for all rows of a run.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// `width` elements per row.
    Tensor {
        /// Elements of one row.
        width: usize,
        /// All elements, in row order.
        data: Column,
    },
    /// Elements with a shape per row.
    Open(Open),
    /// Key and value pairs, any number per row.
    Maps(Maps),
    /// One JSON text per row, for values without another representation, such as a sequence of tensors.
    Nested(Strings),
}

/// The tensors of many rows, each with its own shape, in one buffer.
#[derive(Debug, Clone, PartialEq)]
pub struct Open {
    /// The dimensions of all rows, in row order.
    pub dims: Vec<usize>,
    /// The end of each row's dimensions in `dims`.
    pub dim_ends: Vec<usize>,
    /// The end of each row's elements in `data`.
    pub ends: Vec<usize>,
    /// All elements, in row order.
    pub data: Column,
}

impl Open {
    /// Creates a value without rows.
    #[must_use]
    pub fn new(element: ElementType) -> Self {
        Self { dims: Vec::new(), dim_ends: Vec::new(), ends: Vec::new(), data: Column::new(element) }
    }

    /// Appends a row.
    pub fn push(&mut self, shape: &[usize], elements: Column) {
        self.dims.extend_from_slice(shape);
        self.dim_ends.push(self.dims.len());
        self.data.append(elements);
        self.ends.push(self.data.len());
    }

    /// Returns whether the shape of every row has as many elements as the row, and not too many empty arrays. The ends
    /// must be valid.
    #[must_use]
    pub fn shapes_fit(&self) -> bool {
        (0..self.ends.len()).all(|row| element_count(self.shape(row)) == Some(self.span(row).1))
    }

    /// Returns the shape of a row.
    #[must_use]
    pub(crate) fn shape(&self, row: usize) -> &[usize] {
        let start = if row == 0 { 0 } else { self.dim_ends[row - 1] };
        &self.dims[start..self.dim_ends[row]]
    }

    /// Returns the offset and the number of a row's elements.
    pub(crate) fn span(&self, row: usize) -> (usize, usize) {
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        (start, self.ends[row] - start)
    }
}

impl Values {
    /// Creates values without rows for an output.
    #[must_use]
    pub fn none(output: &Output) -> Self {
        match &output.row {
            OutputRow::Tensor { element, shape } => {
                Self::Tensor { width: shape.iter().product(), data: Column::new(*element) }
            }
            OutputRow::Open { element, .. } => Self::Open(Open::new(*element)),
            OutputRow::Map { key: ElementType::String } => {
                Self::Maps(Maps { keys: Keys::Text(Strings::default()), ..Maps::default() })
            }
            OutputRow::Map { .. } => Self::Maps(Maps::default()),
            OutputRow::Nested { .. } => Self::Nested(Strings::default()),
        }
    }

    /// Returns whether the values are of the kind that an output has. Pooling makes vectors of every output of tokens.
    #[must_use]
    pub fn is_of(&self, output: &Output) -> bool {
        match (&output.row, self) {
            (_, Self::Tensor { data: Column::Float32(_), .. }) if output.is_pooled() => true,
            (OutputRow::Tensor { shape, .. }, Self::Tensor { width, .. }) => *width == shape.iter().product::<usize>(),
            (OutputRow::Open { .. }, Self::Open(_)) | (OutputRow::Nested { .. }, Self::Nested(_)) => true,
            (OutputRow::Map { key }, Self::Maps(maps)) => {
                (*key == ElementType::String) == matches!(maps.keys, Keys::Text(_)) || maps.ends.is_empty()
            }
            _ => false,
        }
    }

    /// Returns the size of the values, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Tensor { data, .. } => data.bytes(),
            Self::Open(open) => open.data.bytes() + 8 * (open.dims.len() + open.dim_ends.len() + open.ends.len()),
            Self::Maps(maps) => {
                let keys = match &maps.keys {
                    Keys::Int64(keys) => 8 * keys.len(),
                    Keys::Text(keys) => keys.bytes(),
                };
                8 * maps.ends.len() + keys + 4 * maps.values.len()
            }
            Self::Nested(texts) => texts.bytes(),
        }
    }

    /// Appends the rows of another run of the same output.
    pub(crate) fn append(&mut self, other: Self) {
        match (self, other) {
            (Self::Tensor { data, .. }, Self::Tensor { data: more, .. }) => data.append(more),
            (Self::Open(open), Self::Open(more)) => {
                let (dims, elements) = (open.dims.len(), open.data.len());
                open.dims.extend(more.dims);
                open.dim_ends.extend(more.dim_ends.iter().map(|e| e + dims));
                open.ends.extend(more.ends.iter().map(|e| e + elements));
                open.data.append(more.data);
            }
            (Self::Maps(maps), Self::Maps(more)) => {
                let base = maps.values.len();
                maps.ends.extend(more.ends.iter().map(|e| e + base));
                maps.values.extend(more.values);
                match (&mut maps.keys, more.keys) {
                    (Keys::Int64(a), Keys::Int64(b)) => a.extend(b),
                    (Keys::Text(a), Keys::Text(b)) => b.iter().for_each(|k| a.push(k)),
                    // The keys of one output have one type.
                    _ => {}
                }
            }
            (Self::Nested(texts), Self::Nested(more)) => more.iter().for_each(|t| texts.push(t)),
            // The values of one output have one variant.
            _ => {}
        }
    }

    /// Copies the given rows, in the given order.
    #[must_use]
    pub fn pick(&self, rows: &[usize]) -> Self {
        match self {
            Self::Tensor { width, data } => {
                let spans: Vec<(usize, usize)> = rows.iter().map(|r| (r * width, *width)).collect();
                Self::Tensor { width: *width, data: data.copy(&spans) }
            }
            Self::Open(open) => {
                let mut picked = Open::new(open.data.element());
                let spans: Vec<(usize, usize)> = rows.iter().map(|r| open.span(*r)).collect();
                picked.data = open.data.copy(&spans);
                let mut end = 0;
                for (row, (_, n)) in rows.iter().zip(&spans) {
                    picked.dims.extend_from_slice(open.shape(*row));
                    picked.dim_ends.push(picked.dims.len());
                    end += n;
                    picked.ends.push(end);
                }
                Self::Open(picked)
            }
            Self::Maps(maps) => {
                let mut picked = Maps::default();
                let spans: Vec<(usize, usize)> = rows
                    .iter()
                    .map(|r| {
                        let start = if *r == 0 { 0 } else { maps.ends[r - 1] };
                        (start, maps.ends[*r] - start)
                    })
                    .collect();
                for (at, n) in &spans {
                    picked.values.extend_from_slice(&maps.values[*at..at + n]);
                    picked.ends.push(picked.values.len());
                }
                picked.keys = match &maps.keys {
                    Keys::Int64(keys) => {
                        Keys::Int64(spans.iter().flat_map(|(at, n)| &keys[*at..at + n]).copied().collect())
                    }
                    Keys::Text(keys) => {
                        let mut texts = Strings::default();
                        spans.iter().for_each(|(at, n)| (*at..at + n).for_each(|i| texts.push(keys.get(i))));
                        Keys::Text(texts)
                    }
                };
                Self::Maps(picked)
            }
            Self::Nested(texts) => {
                let mut picked = Strings::default();
                rows.iter().for_each(|r| picked.push(texts.get(*r)));
                Self::Nested(picked)
            }
        }
    }
}

/// The maps of many rows in one buffer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Maps {
    /// The end of each row's pairs.
    pub ends: Vec<usize>,
    /// The keys of all pairs.
    pub keys: Keys,
    /// The values of all pairs.
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
