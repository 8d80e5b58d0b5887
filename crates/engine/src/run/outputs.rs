//! Divides the outputs of a run among its rows.

use crate::batch::{Keys, Maps, Open, Values};
use crate::error::{Error, Result};
use crate::options::Pooling;
use crate::ort::values::RawOutput;
use crate::run::RunContext;
use crate::run::feeds::LARGEST_REPEATED;
use crate::run::pooling::pool;
use crate::run::row_groups::{Part, RowSet};
use crate::signature::{Output, OutputRow};
use crate::tensor::{Column, Strings};
use crate::text::Tokens;

impl RunContext {
    /// Divides one output of a run among its rows.
    pub(crate) fn rows_of(
        &self,
        output: &Output,
        got: RawOutput,
        rows: &RowSet,
        tokens: Option<&[Tokens]>,
    ) -> Result<Values> {
        let (count, n) = (rows.len(), self.tensor_rows(rows));
        let out_of_step = |shape: Vec<usize>| Error::OutputRows { output: output.name.clone(), shape, rows: n };
        let changed =
            |got: String| Error::OutputChanged { output: output.name.clone(), expected: output.describe(), got };
        match (&output.row, got) {
            (OutputRow::Map { .. }, RawOutput::Maps(maps)) => {
                if maps.ends.len() != n {
                    return Err(out_of_step(vec![maps.ends.len()]));
                }
                let maps = Values::Maps(maps);
                Ok(if count == n { maps } else { maps.pick(&(0..count).collect::<Vec<_>>()) })
            }
            (OutputRow::Nested { .. }, got) => {
                let json = match got {
                    RawOutput::Tensor { data, dims } => data.json(&dims)?,
                    RawOutput::Maps(maps) => maps_json(&maps),
                    RawOutput::Nested(json) => json,
                };
                let mut texts = Strings::default();
                match (json.as_array(), output.axis) {
                    (Some(items), Some(_)) if !self.signature().whole => {
                        if items.len() != n {
                            return Err(out_of_step(vec![items.len()]));
                        }
                        items.iter().take(count).for_each(|item| texts.push(&item.to_string()));
                    }
                    _ => {
                        let text = json.to_string();
                        (0..count).for_each(|_| texts.push(&text));
                    }
                }
                Ok(Values::Nested(texts))
            }
            (OutputRow::Tensor { .. } | OutputRow::Open { .. }, RawOutput::Tensor { data, dims }) => {
                let pooled = output.is_pooled() && self.version.options.pooling != Pooling::None;
                if output.element() != Some(data.element()) && !(pooled && data.element().is_float()) {
                    return Err(changed(format!("{}{dims:?}", data.element())));
                }
                let Some(axis) = output.axis else { return whole(output, data, &dims, count, changed) };
                let mut dims = dims;
                // Some models drop the dimension of a batch of one row.
                if n == 1 && dims.len() + 1 == output.rank() && axis <= dims.len() {
                    dims.insert(axis, 1);
                }
                if dims.get(axis) != Some(&n) {
                    return Err(out_of_step(dims));
                }
                let outer: usize = dims[..axis].iter().product();
                let inner: usize = dims[axis + 1..].iter().product();
                let mut data = if outer == 1 { data } else { data.swap(outer, n, inner) };
                let mut shape = dims;
                shape.remove(axis);
                if let (true, Some(tokens), Some(text)) = (output.tokens, tokens, self.session.text())
                    && shape.first() == Some(&self.text_length(tokens, rows))
                {
                    let own: Vec<(usize, usize)> = rows
                        .iter()
                        .map(|row| {
                            let n = tokens[row].ids.len();
                            (if text.pad_left { shape[0] - n } else { 0 }, n)
                        })
                        .collect();
                    let masks = rows.iter().map(|row| tokens[row].mask.as_slice());
                    return Ok(match data {
                        data if !pooled => trim(&data, &shape, &own),
                        data => pool(data, &shape, &own, masks, self.version.options.pooling),
                    });
                }
                match &output.row {
                    OutputRow::Open { .. } => {
                        let width: usize = shape.iter().product();
                        let mut open = Open::new(data.element());
                        (0..count).for_each(|i| open.push(&shape, data.copy(&[(i * width, width)])));
                        Ok(Values::Open(open))
                    }
                    row => {
                        let width = if let OutputRow::Tensor { shape, .. } = row { shape.iter().product() } else { 1 };
                        // No tensor of fixed shape may bypass this check: as many rows come out as went in.
                        if data.len() != n * width {
                            shape.insert(axis, n);
                            return Err(changed(format!("{}{shape:?}", data.element())));
                        }
                        data.truncate(count * width);
                        Ok(Values::Tensor { width, data })
                    }
                }
            }
            (_, got) => Err(changed(match got {
                RawOutput::Tensor { data, dims } => format!("{}{dims:?}", data.element()),
                RawOutput::Maps(_) => "a sequence of maps".to_owned(),
                RawOutput::Nested(_) => "another kind of value".to_owned(),
            })),
        }
    }

    /// Merges the outputs of all runs in row order. Rows that failed are left out.
    pub(crate) fn in_order(&self, mut parts: Vec<Part>, rows: usize) -> Vec<Values> {
        if parts.is_empty() {
            let outputs = self.signature().outputs.iter().zip(self.wanted.iter()).filter(|(_, wanted)| **wanted);
            return outputs.map(|(output, _)| Values::none(output)).collect();
        }
        // The common case is a single run of all rows.
        if let [(RowSet::Span(..), _)] = parts.as_slice() {
            return parts.remove(0).1;
        }
        let mut places = vec![None; rows];
        let mut sorted = true;
        let mut last = None;
        for (next, row) in parts.iter().flat_map(|(rows, _)| rows.iter()).enumerate() {
            places[row] = Some(next);
            sorted &= last.is_none_or(|l| l < row);
            last = Some(row);
        }
        let mut all = parts.remove(0).1;
        for (_, values) in parts {
            all.iter_mut().zip(values).for_each(|(all, part)| all.append(part));
        }
        if sorted {
            return all;
        }
        let places: Vec<usize> = places.into_iter().flatten().collect();
        all.iter().map(|values| values.pick(&places)).collect()
    }
}

/// Gives every row the whole tensor of an output without a batch axis.
pub(crate) fn whole(
    output: &Output,
    data: Column,
    dims: &[usize],
    rows: usize,
    changed: impl Fn(String) -> Error,
) -> Result<Values> {
    match &output.row {
        OutputRow::Tensor { shape, .. } => {
            let width = shape.iter().product();
            if data.len() != width {
                return Err(changed(format!("{}{dims:?}", data.element())));
            }
            let data = if rows == 1 { data } else { data.copy(&vec![(0, width); rows]) };
            Ok(Values::Tensor { width, data })
        }
        _ => {
            // The size is known only now, so the number of rows was chosen without it.
            let bytes = data.bytes().saturating_mul(rows);
            if rows > 1 && bytes > LARGEST_REPEATED {
                let what = "an output without a batch axis, repeated for every row".into();
                return Err(Error::OutOfMemory { what, bytes });
            }
            let mut open = Open::new(data.element());
            (1..rows).for_each(|_| open.push(dims, data.clone()));
            open.push(dims, data);
            Ok(Values::Open(open))
        }
    }
}

/// Cuts the rows of an output back to their own length in the first open dimension that has the padded length.
pub(crate) fn cut(open: &Open, output: &Output, padded: usize, own: &[usize]) -> Open {
    let OutputRow::Open { shape: declared, .. } = &output.row else { return open.clone() };
    let mut result = Open::new(open.data.element());
    for (row, own) in own.iter().enumerate().take(open.ends.len()) {
        let (shape, (from, len)) = (open.shape(row), open.span(row));
        let follows = |(d, n): (usize, &usize)| declared.get(d) == Some(&None) && *n == padded;
        let Some(axis) = shape.iter().enumerate().position(follows) else {
            result.push(shape, open.data.copy(&[(from, len)]));
            continue;
        };
        let inner: usize = shape[axis + 1..].iter().product();
        let outer: usize = shape[..axis].iter().product();
        let spans: Vec<(usize, usize)> = (0..outer).map(|o| (from + o * padded * inner, own * inner)).collect();
        let mut shape = shape.to_vec();
        shape[axis] = *own;
        result.push(&shape, open.data.copy(&spans));
    }
    result
}

/// Returns the states of each row's own tokens, without the states of padding.
fn trim(data: &Column, shape: &[usize], own: &[(usize, usize)]) -> Values {
    let step: usize = shape[1..].iter().product();
    let mut open = Open::new(data.element());
    for (i, (from, n)) in own.iter().enumerate() {
        let mut row = vec![*n];
        row.extend(&shape[1..]);
        open.push(&row, data.copy(&[((i * shape[0] + from) * step, n * step)]));
    }
    Values::Open(open)
}

/// Converts maps to a JSON array of objects.
fn maps_json(maps: &Maps) -> serde_json::Value {
    let mut start = 0;
    maps.ends
        .iter()
        .map(|end| {
            let object = (start..*end).map(|i| {
                let key = match &maps.keys {
                    Keys::Int64(keys) => keys[i].to_string(),
                    Keys::Text(keys) => keys.get(i).to_owned(),
                };
                (key, crate::tensor::Scalar::Float32(maps.values[i]).json())
            });
            let object: serde_json::Map<String, serde_json::Value> = object.collect();
            start = *end;
            serde_json::Value::Object(object)
        })
        .collect()
}
