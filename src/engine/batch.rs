//! A batch: the rows that run together, as one column an input; and what a run gives back.

use crate::signature::{Output, OutputRow};
use crate::tensor::{Column, ElementType, Strings};

/// Rows on their way into a session.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Rows gathered.
    pub rows: usize,
    /// What rows bring, in the order of `Signature::slots`: a column for each.
    pub columns: Vec<Column>,
    /// The shapes of their rows.
    pub shapes: Vec<Shapes>,
}

/// The shapes that rows have in one column.
#[derive(Debug, Clone, PartialEq)]
pub enum Shapes {
    /// Every row has this one.
    Same(Vec<usize>),
    /// Every row has its own.
    Each(Each),
}

/// Shapes by row.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Each {
    /// Dimensions of every row: all have as many.
    pub rank: usize,
    /// The dimensions of all rows, one row after the other.
    pub dims: Vec<usize>,
    /// Where each row's elements end.
    pub ends: Vec<usize>,
}

impl Each {
    /// Notes the shape of one more row.
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
    /// The shape of a row.
    #[must_use]
    pub fn of(&self, row: usize) -> &[usize] {
        match self {
            Self::Same(shape) => shape,
            Self::Each(each) => each.dims.get(row * each.rank..(row + 1) * each.rank).unwrap_or_default(),
        }
    }

    /// Where the elements of a row begin, and how many they are.
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

    /// Elements of the first `rows` rows.
    #[must_use]
    pub fn elements(&self, rows: usize) -> usize {
        if rows == 0 { 0 } else { self.span(rows - 1).0 + self.span(rows - 1).1 }
    }
}

impl Batch {
    /// Forgets the rows and keeps the buffers.
    pub fn clear(&mut self) {
        self.rows = 0;
        self.undo();
    }

    /// Takes back what has been written of a row that is not counted yet.
    pub fn undo(&mut self) {
        for (column, shapes) in self.columns.iter_mut().zip(&mut self.shapes) {
            if let Shapes::Each(each) = shapes {
                each.truncate(self.rows);
            }
            column.truncate(shapes.elements(self.rows));
        }
    }

    /// One of its rows, as a batch.
    pub(crate) fn part(&self, row: usize) -> Self {
        let shapes = |shapes: &Shapes| match shapes {
            Shapes::Same(shape) => Shapes::Same(shape.clone()),
            Shapes::Each(each) => {
                let mut one = Each { rank: each.rank, ..Each::default() };
                one.push(shapes.of(row));
                Shapes::Each(one)
            }
        };
        let columns = self.columns.iter().zip(&self.shapes);
        Self {
            rows: 1,
            columns: columns.map(|(column, shapes)| column.copy(&[shapes.span(row)])).collect(),
            shapes: self.shapes.iter().map(shapes).collect(),
        }
    }

    /// Bytes gathered.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.columns.iter().map(Column::bytes).sum()
    }

    /// Bytes that there is room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.columns.iter().map(Column::capacity).sum()
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
    /// Elements of a shape that each row has for itself.
    Open(Open),
    /// Key and value pairs, as many as each row has.
    Maps(Maps),
    /// What has no other form here, a sequence of tensors say: JSON for each row.
    Nested(Strings),
}

/// Tensors of many rows, each with its shape, in one place.
#[derive(Debug, Clone, PartialEq)]
pub struct Open {
    /// The dimensions of all rows.
    pub dims: Vec<usize>,
    /// Where each row's dimensions end.
    pub dim_ends: Vec<usize>,
    /// Where each row's elements end.
    pub ends: Vec<usize>,
    /// All elements, in row order.
    pub data: Column,
}

impl Open {
    /// One without rows.
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

    /// The shape of a row.
    #[must_use]
    pub(crate) fn shape(&self, row: usize) -> &[usize] {
        let start = if row == 0 { 0 } else { self.dim_ends[row - 1] };
        &self.dims[start..self.dim_ends[row]]
    }

    /// Where the elements of a row begin, and how many they are.
    pub(crate) fn span(&self, row: usize) -> (usize, usize) {
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        (start, self.ends[row] - start)
    }
}

impl Values {
    /// Values of no rows.
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

    /// Bytes held.
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
                    // One output has keys of one type.
                    _ => {}
                }
            }
            (Self::Nested(texts), Self::Nested(more)) => more.iter().for_each(|t| texts.push(t)),
            // One output is of one kind.
            _ => {}
        }
    }

    /// The rows at these places, in this order.
    #[must_use]
    pub(crate) fn pick(&self, rows: &[usize]) -> Self {
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
