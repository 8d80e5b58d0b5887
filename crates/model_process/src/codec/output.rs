//! Results in shared memory. The backend checks everything that it reads here, because a model process may be hostile.

use pg_predict_engine::batch::{Keys, Maps, Open, Values};
use pg_predict_engine::run::{RunOutput, TokenCounts};
use pg_predict_engine::signature::Output;
use pg_predict_engine::tensor::{Column, ElementType};
use pg_predict_engine::{Error, Result};

use crate::codec::columns::{read_column, read_strings, write_column, write_strings};
use crate::codec::reader::{Reader, broken};
use crate::codec::writer::Writer;

/// Writes the result of a request: an error, or what `ok` writes.
pub fn write_result<T>(result: &Result<T>, out: &mut Writer<'_>, ok: impl FnOnce(&T, &mut Writer<'_>)) {
    match result {
        Ok(value) => {
            out.number(1);
            ok(value, out);
        }
        Err(error) => {
            out.number(0);
            write_error(error, out);
        }
    }
}

/// Reads the result of a request.
pub fn read_result<T>(from: &mut Reader<'_>, ok: impl FnOnce(&mut Reader<'_>) -> Result<T>) -> Result<T> {
    let value = match from.number()? {
        1 => ok(from)?,
        0 => return Err(read_error(from)?),
        _ => return Err(broken("a result is neither a value nor an error")),
    };
    from.finish()?;
    Ok(value)
}

fn write_error(error: &Error, out: &mut Writer<'_>) {
    // Errors consist of texts and numbers, which JSON can represent.
    out.text(&serde_json::to_string(error).unwrap_or_default());
}

fn read_error(from: &mut Reader<'_>) -> Result<Error> {
    let error = serde_json::from_str::<Error>(&from.text()?).map_err(|_| broken("an error cannot be read"))?;
    if has_zero(&error) { Err(broken("an error has a zero byte")) } else { Ok(error) }
}

/// Whether a text of an error has a zero byte, which SQL cannot hold.
fn has_zero(error: &Error) -> bool {
    // JSON writes a zero byte as an escape.
    serde_json::to_string(error).is_ok_and(|json| json.contains("\\u0000"))
}

/// Writes the outputs of a batch.
pub fn write_output(ran: &RunOutput, out: &mut Writer<'_>) {
    out.number(ran.tokens.own);
    out.number(ran.tokens.padded);
    out.number(ran.failed.len());
    for (row, reason) in &ran.failed {
        out.number(*row);
        out.text(reason);
    }
    match &ran.broken {
        None => out.number(0),
        Some((row, error)) => {
            out.number(1);
            out.number(*row);
            write_error(error, out);
        }
    }
    out.number(ran.values.len());
    for values in &ran.values {
        match values {
            Values::Tensor { width, data } => {
                out.number(0);
                out.number(*width);
                write_column(data, out);
            }
            Values::Open(open) => {
                out.number(1);
                out.array(&open.dims);
                out.array(&open.dim_ends);
                out.array(&open.ends);
                write_column(&open.data, out);
            }
            Values::Maps(maps) => {
                out.number(2);
                out.array(&maps.ends);
                match &maps.keys {
                    Keys::Int64(keys) => {
                        out.number(0);
                        out.array(keys);
                    }
                    Keys::Text(keys) => {
                        out.number(1);
                        write_strings(keys, out);
                    }
                }
                out.array(&maps.values);
            }
            Values::Nested(texts) => {
                out.number(3);
                write_strings(texts, out);
            }
        }
    }
}

/// What a run may give.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The outputs that are wanted, in order.
    pub outputs: &'a [Output],
    /// Whether rows may fail one by one.
    pub failed_rows: bool,
    /// Whether the run may end before a row that fails.
    pub early_end: bool,
}

/// The most tokens of a batch: a response has no room for so many.
const MOST_TOKENS: usize = 1 << 40;

/// Reads the outputs of a batch of `rows` rows, and checks that they are possible results.
pub fn read_output(from: &mut Reader<'_>, rows: usize, expected: Expected<'_>) -> Result<RunOutput> {
    let Expected { outputs, failed_rows, early_end } = expected;
    let tokens = TokenCounts { own: from.number()?, padded: from.number()? };
    if tokens.own.max(tokens.padded) > MOST_TOKENS {
        return Err(broken("a batch has more tokens than fit into it"));
    }
    let mut failed = Vec::new();
    for _ in 0..from.number()? {
        let (row, reason) = (from.number()?, from.text()?);
        if row >= rows || failed.last().is_some_and(|(last, _)| *last >= row) || reason.contains('\0') {
            return Err(broken("a failed row is not a row of the batch"));
        }
        failed.push((row, reason));
    }
    if !failed.is_empty() && !failed_rows {
        return Err(broken("rows failed, where one failed row is an error"));
    }
    let stopped = match from.number()? {
        0 => None,
        1 if !early_end => return Err(broken("a batch ended early, where that is an error")),
        1 => Some((from.number()?, read_error(from)?)),
        _ => return Err(broken("the end of a batch is unknown")),
    };
    let complete = match &stopped {
        Some((row, _)) if *row < rows && failed.is_empty() => *row,
        Some(_) => return Err(broken("the row that ended a batch is not a row of it")),
        None => rows - failed.len(),
    };
    if from.number()? != outputs.len() {
        return Err(broken("the number of outputs is wrong"));
    }
    let values = outputs.iter().map(|output| read_values(from, complete, output)).collect::<Result<_>>()?;
    Ok(RunOutput { values, failed, broken: stopped, tokens })
}

/// Whether the ends of parts rise and the last one is `total`.
fn are_ends(ends: &[usize], parts: usize, total: usize) -> bool {
    ends.len() == parts && ends.is_sorted() && ends.last().copied().unwrap_or(0) == total
}

fn read_values(from: &mut Reader<'_>, rows: usize, output: &Output) -> Result<Values> {
    let values = match from.number()? {
        0 => {
            let (width, data) = (from.number()?, read_column(from)?);
            check_element(&data, output)?;
            if width.checked_mul(rows) != Some(data.len()) {
                return Err(broken("a tensor does not have one value per row"));
            }
            Values::Tensor { width, data }
        }
        1 => {
            let (dims, dim_ends, ends) = (from.numbers()?, from.numbers()?, from.numbers()?);
            let open = Open { dims, dim_ends, ends, data: read_column(from)? };
            check_element(&open.data, output)?;
            if !are_ends(&open.dim_ends, rows, open.dims.len()) || !are_ends(&open.ends, rows, open.data.len()) {
                return Err(broken("tensors do not end where they should"));
            }
            if !open.shapes_fit() {
                return Err(broken("the shape of a tensor is not that of its elements"));
            }
            Values::Open(open)
        }
        2 => {
            let ends = from.numbers()?;
            let keys = match from.number()? {
                0 => Keys::Int64(from.array()?),
                1 => Keys::Text(read_strings(from)?),
                _ => return Err(broken("a type of keys is unknown")),
            };
            let values: Vec<f32> = from.array()?;
            let (count, zero) = match &keys {
                Keys::Int64(keys) => (keys.len(), false),
                Keys::Text(keys) => (keys.len(), keys.has_zero()),
            };
            if count != values.len() || zero || !are_ends(&ends, rows, count) {
                return Err(broken("maps do not end where they should"));
            }
            Values::Maps(Maps { ends, keys, values })
        }
        3 => {
            let texts = read_strings(from)?;
            let is_json = |text| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
            if texts.len() != rows || texts.has_zero() || !texts.iter().all(is_json) {
                return Err(broken("a nested value is not JSON"));
            }
            Values::Nested(texts)
        }
        _ => return Err(broken("a kind of output is unknown")),
    };
    if values.is_of(output) { Ok(values) } else { Err(broken("an output is of another kind than its signature")) }
}

/// Checks that a column may be the content of an output. Pooling makes float32 of every float type.
fn check_element(data: &Column, output: &Output) -> Result<()> {
    if let Column::String(texts) = data
        && texts.has_zero()
    {
        return Err(broken("a text has a zero byte"));
    }
    let expected = output.element();
    let pooled = output.is_pooled() && data.element() == ElementType::Float32;
    if expected == Some(data.element()) || pooled { Ok(()) } else { Err(broken("an output has another type")) }
}
