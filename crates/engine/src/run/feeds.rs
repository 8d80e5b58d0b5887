//! Builds the input tensors of a run from the rows of a batch.

use std::borrow::Cow;

use crate::batch::{Batch, Shapes};
use crate::error::{Error, Result};
use crate::options::Constant;
use crate::ort::values::Feed;
use crate::run::RunContext;
use crate::run::row_groups::RowSet;
use crate::signature::{Input, Source};
use crate::tensor::{Column, ElementType};
use crate::text::Tokens;

/// Limit on the bytes of an output without a batch axis after it is repeated for every row of a run.
pub(crate) const LARGEST_REPEATED: usize = 1 << 30;

impl RunContext {
    /// Builds the tensors of all inputs for a run of these rows.
    pub(crate) fn feeds<'a>(
        &'a self,
        batch: &'a Batch,
        tokens: Option<&[Tokens]>,
        rows: &RowSet,
    ) -> Result<Vec<Feed<'a>>> {
        let n = self.tensor_rows(rows);
        let inputs = &self.signature().inputs;
        let others = inputs.iter().filter(|i| i.source == Source::Row).count();
        let mut slot = batch.columns.len().saturating_sub(others);
        let length = tokens.map(|t| self.text_length(t, rows)).unwrap_or_default();
        inputs
            .iter()
            .zip(self.constants.iter())
            .map(|(input, constant)| {
                let name = input.name.as_str();
                match input.source {
                    Source::Constant => {
                        let Some(constant) = constant else {
                            return Err(Error::Run { reason: format!("input \"{name}\" has no constant") });
                        };
                        Ok(constant_feed(input, constant, n))
                    }
                    Source::Row => {
                        slot += 1;
                        let missing = || Error::Run { reason: format!("input \"{name}\" has no column") };
                        let column = batch.columns.get(slot - 1).ok_or_else(missing)?;
                        let shapes = batch.shapes.get(slot - 1).ok_or_else(missing)?;
                        let (has, needs) = (column.len(), shapes.elements(batch.rows));
                        if has != needs {
                            let reason =
                                format!("input \"{name}\" has {has} elements for {} rows of {needs}", batch.rows);
                            return Err(Error::Run { reason });
                        }
                        self.row_feed(input, column, shapes, rows, n)
                    }
                    source => {
                        let Some((tokens, text)) = tokens.zip(self.session.text()) else {
                            return Err(Error::Run { reason: format!("input \"{name}\" has no text") });
                        };
                        let padding = match source {
                            Source::TokenIds => text.pad_id,
                            Source::TokenTypes => text.pad_type,
                            _ => 0,
                        };
                        let mut all: Vec<u32> = Vec::with_capacity(n * length);
                        for i in 0..n {
                            let tokens = &tokens[rows.at(i.min(rows.len() - 1))];
                            let pad = length - tokens.ids.len();
                            let padding = std::iter::repeat_n(padding, pad);
                            let before = if text.pad_left { pad } else { 0 };
                            all.extend(padding.clone().take(before));
                            match source {
                                Source::TokenIds => all.extend(&tokens.ids),
                                Source::TokenTypes => all.extend(&tokens.types),
                                Source::TokenPositions => all.extend((0..).take(tokens.ids.len())),
                                _ => all.extend(&tokens.mask),
                            }
                            all.extend(padding.skip(before));
                        }
                        let len = all.len();
                        let column = match input.element {
                            ElementType::Int32 => {
                                let ids = all.into_iter().map(i32::try_from).collect::<std::result::Result<_, _>>();
                                let reason = || format!("input \"{name}\" has no room for a token's number");
                                Column::Int32(ids.map_err(|_| Error::Run { reason: reason() })?)
                            }
                            ElementType::Float32 => Column::Float32(all.into_iter().map(|x| x as f32).collect()),
                            _ => Column::Int64(all.into_iter().map(i64::from).collect()),
                        };
                        Ok(Feed { name, column: Cow::Owned(column), from: 0, len, shape: vec![n, length] })
                    }
                }
            })
            .collect()
    }

    /// Builds the tensor of an input whose content comes from the rows. `n` is the number of rows in the tensor.
    pub(crate) fn row_feed<'a>(
        &'a self,
        input: &'a Input,
        column: &'a Column,
        shapes: &Shapes,
        rows: &RowSet,
        n: usize,
    ) -> Result<Feed<'a>> {
        let name = input.name.as_str();
        let first = shapes.of(rows.at(0)).to_vec();
        let Some(axis) = input.axis else {
            let (from, len) = shapes.span(rows.at(0));
            return Ok(Feed { name, column: Cow::Borrowed(column), from, len, shape: first });
        };
        let even = matches!(shapes, Shapes::Same(_)) || rows.iter().all(|row| shapes.of(row) == first);
        let width: usize = first.iter().product();
        if even && axis == 0 && n == rows.len() && rows.is_span() {
            let mut shape = vec![n];
            shape.extend(first);
            let from = shapes.span(rows.at(0)).0;
            return Ok(Feed { name, column: Cow::Borrowed(column), from, len: n * width, shape });
        }
        // A fixed batch size is filled up with copies of the last row.
        let row = |i: usize| rows.at(i.min(rows.len() - 1));
        let (data, mut shape) = if even {
            let spans: Vec<(usize, usize)> = (0..n).map(|i| shapes.span(row(i))).collect();
            (column.copy(&spans), first)
        } else {
            let mut filler = Column::new(input.element);
            let value = self.version.options.pad.get(name);
            if !value.is_some_and(|v| filler.push_json(v)) {
                return Err(Error::Run { reason: format!("rows of input \"{name}\" differ in shape") });
            }
            let mut target = first;
            for r in rows.iter() {
                target.iter_mut().zip(shapes.of(r)).for_each(|(a, b)| *a = (*a).max(*b));
            }
            let mut data = Column::new(input.element);
            (0..n).for_each(|i| pad(column, shapes.span(row(i)).0, shapes.of(row(i)), &target, &filler, &mut data));
            (data, target)
        };
        let inner: usize = shape[axis.min(shape.len())..].iter().product();
        let outer: usize = shape[..axis.min(shape.len())].iter().product();
        let data = if axis == 0 { data } else { data.swap(n, outer, inner) };
        shape.insert(axis.min(shape.len()), n);
        let len = data.len();
        Ok(Feed { name, column: Cow::Owned(data), from: 0, len, shape })
    }
}

/// Builds the tensor of an input that is the same for every row.
fn constant_feed<'a>(input: &'a Input, constant: &'a Constant, n: usize) -> Feed<'a> {
    let name = input.name.as_str();
    let len = constant.data.len();
    let Some(axis) = input.axis else {
        return Feed { name, column: Cow::Borrowed(&constant.data), from: 0, len, shape: constant.shape.clone() };
    };
    let axis = axis.min(constant.shape.len());
    let outer: usize = constant.shape[..axis].iter().product();
    let inner: usize = constant.shape[axis..].iter().product();
    let spans: Vec<(usize, usize)> = (0..outer).flat_map(|o| std::iter::repeat_n((o * inner, inner), n)).collect();
    let mut shape = constant.shape.clone();
    shape.insert(axis, n);
    Feed { name, column: Cow::Owned(constant.data.copy(&spans)), from: 0, len: len * n, shape }
}

/// Appends to `out` a row of the shape `shape`, padded with `filler` to the shape `target`.
pub(crate) fn pad(column: &Column, from: usize, shape: &[usize], target: &[usize], filler: &Column, out: &mut Column) {
    match (shape, target) {
        ([n, inside @ ..], [wide, target @ ..]) => {
            let step: usize = inside.iter().product();
            for i in 0..*wide {
                if i < *n {
                    pad(column, from + i * step, inside, target, filler, out);
                } else {
                    out.repeat(filler, 0, target.iter().product());
                }
            }
        }
        _ => out.append(column.copy(&[(from, 1)])),
    }
}
