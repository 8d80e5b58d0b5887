//! Reads a prediction_batch: `predictions()`, the casts, and the text and binary forms of the type.

use pg_predict_engine::Error as Engine;
use pg_predict_engine::encoding::encoded_reader::EncodedRows;
use pg_predict_engine::signature::OutputRow;
use pg_predict_engine::tensor::{ElementType, Scalar};
use pgrx::pg_sys::{self, Datum, Oid};

use crate::error::{Error, Result};
use crate::pg::call::{Call, pg_function};
use crate::pg::process::check_interrupts;
use crate::pg::text;
use crate::planner::support;
use crate::results::output_values::PlainArray;
use crate::results::result_set::{Layout, Results};
use crate::results::{expanded, output_values, result_rows, set_returning, text_form};

pg_function!(pg_predict_predictions, pg_finfo_pg_predict_predictions, predictions);
pg_function!(pg_predict_predictions_of_handle, pg_finfo_pg_predict_predictions_of_handle, predictions_of_handle);
pg_function!(pg_predict_cast_support, pg_finfo_pg_predict_cast_support, support::cast_support);
pg_function!(pg_predict_predictions_support, pg_finfo_pg_predict_predictions_support, support::predictions_support);
pg_function!(pg_predict_handle_in, pg_finfo_pg_predict_handle_in, handle_in);
pg_function!(pg_predict_handle_out, pg_finfo_pg_predict_handle_out, handle_out);
pg_function!(pg_predict_batch_in, pg_finfo_pg_predict_batch_in, batch_in);
pg_function!(pg_predict_batch_out, pg_finfo_pg_predict_batch_out, batch_out);
pg_function!(pg_predict_batch_recv, pg_finfo_pg_predict_batch_recv, batch_recv);
pg_function!(pg_predict_batch_send, pg_finfo_pg_predict_batch_send, batch_send);
pg_function!(pg_predict_batch_to_real, pg_finfo_pg_predict_batch_to_real, to_real);
pg_function!(pg_predict_batch_to_double, pg_finfo_pg_predict_batch_to_double, to_double);
pg_function!(pg_predict_batch_to_bigint, pg_finfo_pg_predict_batch_to_bigint, to_bigint);
pg_function!(pg_predict_batch_to_text, pg_finfo_pg_predict_batch_to_text, to_text);
pg_function!(pg_predict_batch_to_jsonb, pg_finfo_pg_predict_batch_to_jsonb, to_jsonb);

fn predictions(call: &Call) -> Result<Option<Datum>> {
    let Some(batch) = call.argument(0) else { return Ok(None) };
    set_returning::materialize(call, &*expanded::read(batch)?)
}

fn predictions_of_handle(call: &Call) -> Result<Option<Datum>> {
    let Some(handle) = call.argument(0) else { return Ok(None) };
    set_returning::materialize(call, expanded::named(handle.value().cast_signed() as i64)?)
}

fn handle_in(_: &Call) -> Result<Option<Datum>> {
    Err(Error::StaleHandle)
}

fn handle_out(_: &Call) -> Result<Option<Datum>> {
    Err(Error::StaleHandle)
}

fn batch_in(call: &Call) -> Result<Option<Datum>> {
    let Some(input) = call.argument(0) else { return Ok(None) };
    text_form::parse(&text::cstring(input)?).map(Some)
}

fn batch_out(call: &Call) -> Result<Option<Datum>> {
    let Some(batch) = call.argument(0) else { return Ok(None) };
    let json = text_form::print(&*expanded::read(batch)?)?;
    Ok(Some(text::cstring_datum(&json)))
}

fn batch_recv(call: &Call) -> Result<Option<Datum>> {
    set_returning::received_text(call).and_then(text_form::parse).map(Some).map_err(text_form::in_binary)
}

fn batch_send(call: &Call) -> Result<Option<Datum>> {
    let Some(batch) = call.argument(0) else { return Ok(None) };
    Ok(Some(text::bytes(text_form::print(&*expanded::read(batch)?)?.as_bytes())))
}

/// Returns the selected output of every row as an array: one dimension for single values, more for groups of values.
fn to_array(
    call: &Call,
    name: &'static str,
    element: Oid,
    accepts: fn(ElementType) -> bool,
    convert: fn(Scalar<'_>) -> Option<Datum>,
) -> Result<Option<Datum>> {
    let Some(batch) = call.argument(0) else { return Ok(None) };
    let results = &*expanded::read(batch)?;
    let layout = &results.layout;
    let rows = usize::try_from(results.rows()).unwrap_or(usize::MAX);
    if let Some(array) = copied_array(results, element)? {
        return Ok(Some(array));
    }
    let (mut values, mut nulls) = (Vec::new(), Vec::new());
    // The shape of every row. It is known at the start or, if rows have their own shapes, after the first row that ran.
    let mut shape = selected_shape(layout, name, accepts)?;
    let mut unknown = 0;
    results.each(|bytes| {
        let chunk = EncodedRows::parse(bytes)?;
        let mut nth = 0;
        for row in 0..chunk.rows() {
            if row % 1024 == 0 {
                check_interrupts();
            }
            let ran = chunk.ran(row);
            if ran && let Some(own) = own_shape(layout, &chunk, nth)? {
                match &shape {
                    None => shape = Some(own),
                    Some(shape) if *shape != own => return Err(uneven(layout, name)),
                    Some(_) => {}
                }
            }
            let Some(width) = shape.as_ref().map(|s| s.iter().product::<usize>()) else {
                unknown += 1;
                continue;
            };
            if values.is_empty() {
                let total = rows.saturating_mul(width);
                // NULLs of a row that was not run take no bytes in the results. So a shape alone must not decide how
                // many are made.
                let most = results.bytes().saturating_mul(64).saturating_add(MOST_NULLS);
                if total.saturating_mul(8) > 0x3fff_ffff || total > most {
                    return Err(Error::TooLarge { bytes: total.saturating_mul(8) });
                }
                let full = |_| Engine::OutOfMemory { what: "an array".into(), bytes: total.saturating_mul(9) };
                values.try_reserve(total).map_err(full)?;
                nulls.try_reserve(total).map_err(full)?;
                // The rows before the first one with a known shape are NULL.
                values.resize(std::mem::take(&mut unknown) * width, Datum::null());
                nulls.resize(values.len(), true);
            }
            for i in 0..width {
                let scalar = match ran {
                    true if layout.element.is_some() => output_values::selected(layout, &chunk, nth)?,
                    true => Some(chunk.scalar(layout.selected, nth, i)?),
                    false => None,
                };
                let held = |s| convert(s).ok_or_else(|| output_values::not_held(layout, layout.selected, s, element));
                let datum = scalar.map(held).transpose()?;
                nulls.push(datum.is_none());
                values.push(datum.unwrap_or(Datum::null()));
            }
            nth += usize::from(ran);
        }
        Ok(())
    })?;
    values.resize(values.len() + unknown, Datum::null());
    nulls.resize(values.len(), true);
    let mut dimensions = vec![rows];
    dimensions.extend(shape.unwrap_or_default());
    if dimensions.len() > output_values::MOST_DIMENSIONS {
        return Err(uneven(layout, name));
    }
    output_values::array(&mut values, &mut nulls, &dimensions, element).map(Some)
}

/// Returns the selected output of every row as an array whose elements are copied at once. None if a row was not run, or
/// if the elements must be converted.
fn copied_array(results: &Results, element: Oid) -> Result<Option<Datum>> {
    let layout = &results.layout;
    let (kind, size) = match element {
        pg_sys::FLOAT4OID => (ElementType::Float32, 4),
        pg_sys::FLOAT8OID => (ElementType::Float64, 8),
        pg_sys::INT8OID => (ElementType::Int64, 8),
        _ => return Ok(None),
    };
    let (OutputRow::Tensor { element: own, shape }, None) = (&layout.outputs[layout.selected].row, &layout.element)
    else {
        return Ok(None);
    };
    let mut dimensions = vec![usize::try_from(results.rows()).unwrap_or(usize::MAX)];
    dimensions.extend(shape);
    if *own != kind || dimensions.len() > output_values::MOST_DIMENSIONS || dimensions.contains(&0) {
        return Ok(None);
    }
    let (mut is_plain, mut bytes) = (true, 0);
    results.each(|chunk| {
        let chunk = EncodedRows::parse(chunk)?;
        match chunk.plain(layout.selected) {
            Some((own, data)) if own == kind && chunk.all_ran() => bytes += data.len(),
            _ => is_plain = false,
        }
        Ok(())
    })?;
    let count = dimensions.iter().try_fold(size, |n: usize, d| n.checked_mul(*d));
    if !is_plain || count != Some(bytes) {
        return Ok(None);
    }
    let fill = |mut room: &mut [u8]| {
        results.each(|chunk| {
            if let Some((_, data)) = EncodedRows::parse(chunk)?.plain(layout.selected) {
                let (own, rest) = std::mem::take(&mut room).split_at_mut(data.len());
                own.copy_from_slice(data);
                room = rest;
            }
            Ok(())
        })
    };
    output_values::plain_array(&PlainArray::new(&dimensions, element, size)?, fill).map(Some)
}

/// Returns the error for an output that does not fit a cast.
fn uneven(layout: &Layout, name: &'static str) -> Error {
    let output = &layout.outputs[layout.selected];
    Error::OutputKind {
        model: format!("{}@{}", layout.model, layout.version),
        output: output.name.clone(),
        kind: output.describe(),
        function: name,
        hint: "::jsonb and predictions() give every kind of output.".to_owned(),
    }
}

/// Returns the shape of the selection in one row. None if all rows have the same shape.
fn own_shape(layout: &Layout, chunk: &EncodedRows<'_>, nth: usize) -> Result<Option<Vec<usize>>> {
    if layout.element.is_some() { Ok(None) } else { Ok(chunk.shape(layout.selected, nth)?) }
}

/// Returns the shape of the selection if all rows have the same one. Reports an error if it does not fit the cast.
fn selected_shape(layout: &Layout, name: &'static str, accepts: fn(ElementType) -> bool) -> Result<Option<Vec<usize>>> {
    let one = layout.element.is_some();
    match &layout.outputs[layout.selected].row {
        OutputRow::Tensor { element, shape } if accepts(*element) => Ok(Some(if one { vec![] } else { shape.clone() })),
        OutputRow::Open { element, .. } if accepts(*element) => Ok(one.then(Vec::new)),
        OutputRow::Map { .. } if one && accepts(ElementType::Float32) => Ok(Some(vec![])),
        _ => Err(uneven(layout, name)),
    }
}

fn to_real(call: &Call) -> Result<Option<Datum>> {
    to_array(
        call,
        "the cast to real[]",
        pg_sys::FLOAT4OID,
        |e| e != ElementType::String,
        |s| s.real().map(|x| Datum::from(x.to_bits())),
    )
}

fn to_double(call: &Call) -> Result<Option<Datum>> {
    to_array(
        call,
        "the cast to float8[]",
        pg_sys::FLOAT8OID,
        |e| e != ElementType::String,
        |s| s.exact().map(|x| Datum::from(x.to_bits())),
    )
}

fn to_bigint(call: &Call) -> Result<Option<Datum>> {
    let integer = |e: ElementType| !e.is_float() && e != ElementType::String && e != ElementType::Uint64;
    to_array(call, "the cast to bigint[]", pg_sys::INT8OID, integer, |s| match s {
        Scalar::Int(x) => Some(Datum::from(x)),
        Scalar::Bool(x) => Some(Datum::from(i64::from(x))),
        _ => None,
    })
}

fn to_text(call: &Call) -> Result<Option<Datum>> {
    to_array(call, "the cast to text[]", pg_sys::TEXTOID, |_| true, |s| Some(text::datum(&output_values::as_text(s))))
}

/// The longest JSON text of a jsonb array, in bytes. The array itself holds at most 256 MB (utils/jsonb.h), which is
/// shorter than its text may be, but not by much.
const LONGEST_JSON: usize = 512 << 20;
/// The number of array elements allowed on top of those that the bytes of the results account for.
const MOST_NULLS: usize = 1 << 25;

fn to_jsonb(call: &Call) -> Result<Option<Datum>> {
    let Some(batch) = call.argument(0) else { return Ok(None) };
    let results: &Results = &*expanded::read(batch)?;
    let mut json = String::from("[");
    result_rows::json_rows(results, |row| {
        if json.len() > 1 {
            json.push(',');
        }
        let bytes = json.len() + row.len();
        if bytes > LONGEST_JSON {
            return Err(Error::TooLarge { bytes });
        }
        json.try_reserve(row.len() + 2).map_err(|_| Engine::OutOfMemory { what: "a text".into(), bytes })?;
        json.push_str(row);
        Ok(())
    })?;
    json.push(']');
    Ok(Some(output_values::jsonb(&json)))
}
