//! Converts outputs of a model to SQL values.

use pg_predict_engine::Error as Engine;
use pg_predict_engine::encoding::encoded_reader::{EncodedRows, MapKey};
use pg_predict_engine::encoding::text_writer::Writer;
use pg_predict_engine::signature::{Output, OutputRow};
use pg_predict_engine::tensor::{ElementType, Scalar, nest};
use pgrx::pg_sys::{self, Datum, Oid};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::pg::text;
use crate::results::result_set::{ElementKey, Layout};

/// Returns the SQL type that can hold every value of an element type.
pub(crate) fn scalar_type(element: ElementType) -> Oid {
    match element {
        ElementType::Float32 | ElementType::Float16 | ElementType::Bfloat16 => pg_sys::FLOAT4OID,
        ElementType::Float64 => pg_sys::FLOAT8OID,
        ElementType::Int8 | ElementType::Int16 | ElementType::Uint8 => pg_sys::INT2OID,
        ElementType::Int32 | ElementType::Uint16 => pg_sys::INT4OID,
        ElementType::Int64 | ElementType::Uint32 => pg_sys::INT8OID,
        ElementType::Uint64 => pg_sys::NUMERICOID,
        ElementType::Bool => pg_sys::BOOLOID,
        ElementType::String => pg_sys::TEXTOID,
    }
}

/// The largest number of dimensions of a PostgreSQL array (MAXDIM in utils/array.h).
pub(crate) const MOST_DIMENSIONS: usize = 6;

/// The number of elements that an array must stay below (MaxArraySize in utils/array.h).
const MOST_ELEMENTS: usize = (1 << 27) - 8;

/// Returns the natural SQL type of an output: the type of its value in one row, before any conversion.
pub(crate) fn natural_type(output: &Output) -> Oid {
    let (element, rank) = match &output.row {
        OutputRow::Tensor { element, .. } if output.is_scalar() => return scalar_type(*element),
        OutputRow::Tensor { element, shape } => (element, shape.len()),
        OutputRow::Open { element, shape } => (element, shape.len()),
        OutputRow::Map { .. } | OutputRow::Nested { .. } => return pg_sys::JSONBOID,
    };
    if rank > MOST_DIMENSIONS {
        return pg_sys::JSONBOID;
    }
    // SAFETY: reads the type cache.
    unsafe { pg_sys::get_array_type(scalar_type(*element)) }
}

/// Returns the shape of one row of a tensor output.
pub(crate) fn row_shape(output: &Output, chunk: &EncodedRows<'_>, place: usize, nth: usize) -> Result<Vec<usize>> {
    match &output.row {
        OutputRow::Tensor { shape, .. } => Ok(shape.clone()),
        _ => Ok(chunk.shape(place, nth)?.unwrap_or_default()),
    }
}

/// Converts a value to a datum of the SQL type of its element type.
pub(crate) fn scalar_datum(scalar: Scalar<'_>) -> Datum {
    match scalar {
        Scalar::Float32(x) => Datum::from(x.to_bits()),
        Scalar::Float64(x) => Datum::from(x.to_bits()),
        Scalar::Bool(x) => Datum::from(x),
        Scalar::Text(t) => text::datum(t),
        // Datums of shorter integers are sign-extended, too (postgres.h).
        Scalar::Int(x) => Datum::from(x),
        Scalar::Uint64(x) => {
            let digits = text::c(&x.to_string());
            // SAFETY: calls numeric_in with its three arguments; the first is a C string of digits.
            unsafe {
                pgrx::direct_function_call_as_datum(
                    pg_sys::numeric_in,
                    &[Some(Datum::from(digits.as_ptr())), Some(Datum::from(0)), Some(Datum::from(-1))],
                )
            }
            .unwrap_or(Datum::from(0))
        }
    }
}

/// Returns the error for a value that an SQL type cannot hold.
pub(crate) fn not_held(layout: &Layout, place: usize, scalar: Scalar<'_>, oid: Oid) -> Error {
    Error::ResultOutOfRange {
        model: format!("{}@{}", layout.model, layout.version),
        output: layout.outputs[place].name.clone(),
        value: as_text(scalar),
        type_name: text::type_name(oid),
    }
}

/// Formats a value as PostgreSQL writes it.
pub(crate) fn as_text(scalar: Scalar<'_>) -> String {
    match scalar {
        Scalar::Float32(x) => float_text(pg_sys::float4out, Datum::from(x.to_bits())),
        Scalar::Float64(x) => float_text(pg_sys::float8out, Datum::from(x.to_bits())),
        Scalar::Int(x) => x.to_string(),
        Scalar::Uint64(x) => x.to_string(),
        Scalar::Bool(x) => if x { "true" } else { "false" }.to_owned(),
        Scalar::Text(t) => t.to_owned(),
    }
}

/// Formats a float with PostgreSQL's output function.
fn float_text(output: unsafe fn(pg_sys::FunctionCallInfo) -> Datum, x: Datum) -> String {
    // SAFETY: the output function of a float returns a C string.
    unsafe { pgrx::direct_function_call_as_datum(output, &[Some(x)]) }
        .map_or_else(String::new, |d| text::copied(d.cast_mut_ptr::<std::ffi::c_char>()))
}

/// Returns a row of an output as JSON, nested according to its shape.
pub(crate) fn output_json(output: &Output, chunk: &EncodedRows<'_>, place: usize, nth: usize) -> Result<Value> {
    match &output.row {
        OutputRow::Map { .. } => {
            let mut map = Map::new();
            for (key, value) in chunk.pairs(place, nth)? {
                map.insert(key_text(key), Scalar::Float32(value).json());
            }
            Ok(Value::Object(map))
        }
        OutputRow::Nested { .. } => {
            let json = chunk.nested(place, nth)?;
            serde_json::from_str(json).map_err(|_| Engine::Corrupt { what: "an output is no JSON".into() }.into())
        }
        OutputRow::Tensor { .. } | OutputRow::Open { .. } => {
            let shape = row_shape(output, chunk, place, nth)?;
            Ok(nest(&shape, &mut |i| Ok(chunk.scalar(place, nth, i)?.json()))?)
        }
    }
}

/// Writes the same JSON directly as text, with a limit on its length and checks for interrupts.
pub(crate) fn json_text(output: &Output, chunk: &EncodedRows<'_>, place: usize, nth: usize) -> Result<String> {
    let mut tick = crate::pg::process::check_interrupts;
    let mut json = Writer::new(MOST_JSON, &mut tick);
    json.output(output, chunk, place, nth)?;
    Ok(json.into_text())
}

/// The longest JSON text that becomes a PostgreSQL value, in bytes.
const MOST_JSON: usize = 0x3fff_ff00;

/// Converts JSON text to a json datum.
pub(crate) fn json_datum(json: &str) -> Datum {
    let json = text::c(json);
    // SAFETY: json_in takes a C string, and raises an error if the text is not JSON.
    unsafe { pgrx::direct_function_call_as_datum(pg_sys::json_in, &[Some(Datum::from(json.as_ptr()))]) }
        .unwrap_or(Datum::from(0))
}

fn key_text(key: MapKey<'_>) -> String {
    match key {
        MapKey::Int64(k) => k.to_string(),
        MapKey::Text(k) => k.to_owned(),
    }
}

/// Converts JSON text to a jsonb datum.
pub(crate) fn jsonb(json: &str) -> Datum {
    let json = text::c(json);
    // SAFETY: jsonb_in takes a C string, and raises an error if the text is not JSON or is too large.
    unsafe { pgrx::direct_function_call_as_datum(pg_sys::jsonb_in, &[Some(Datum::from(json.as_ptr()))]) }
        .unwrap_or(Datum::from(0))
}

/// Builds an array datum. Without values it is the empty array.
pub(crate) fn array(values: &mut [Datum], nulls: &mut [bool], dimensions: &[usize], element: Oid) -> Result<Datum> {
    if values.len() >= MOST_ELEMENTS {
        return Err(Error::TooLarge { bytes: values.len() * 8 });
    }
    let too_large = |_| Error::TooLarge { bytes: values.len() * 8 };
    let shape = if values.is_empty() { &[] } else { dimensions };
    let mut dims: Vec<i32> =
        shape.iter().map(|d| i32::try_from(*d)).collect::<std::result::Result<_, _>>().map_err(too_large)?;
    let mut lower = vec![1; dims.len()];
    let (mut length, mut by_value, mut align) = (0, false, 0);
    let count = i32::try_from(dims.len()).map_err(too_large)?;
    // SAFETY: values and nulls have as many entries as the product of the dimensions.
    Ok(unsafe {
        pg_sys::get_typlenbyvalalign(element, &raw mut length, &raw mut by_value, &raw mut align);
        Datum::from(pg_sys::construct_md_array(
            values.as_mut_ptr(),
            nulls.as_mut_ptr(),
            count,
            dims.as_mut_ptr(),
            lower.as_mut_ptr(),
            element,
            i32::from(length),
            by_value,
            align,
        ))
    })
}

/// The form of arrays without NULLs that have the same dimensions. Their elements are passed by value, without padding
/// between them.
pub(crate) struct PlainArray {
    /// What comes before the elements, but for the length.
    head: Vec<u8>,
    /// The length of an array and of its elements, in bytes.
    total: usize,
    pub(crate) bytes: usize,
}

impl PlainArray {
    /// Describes arrays of elements of `size` bytes.
    pub(crate) fn new(dimensions: &[usize], element: Oid, size: usize) -> Result<Self> {
        let count = dimensions.iter().try_fold(1_usize, |n, d| n.checked_mul(*d)).unwrap_or(usize::MAX);
        let bytes = count.saturating_mul(size);
        let too_large = || Error::TooLarge { bytes };
        if count >= MOST_ELEMENTS || bytes > 0x3fff_ff00 {
            return Err(too_large());
        }
        let number = |n: usize| i32::try_from(n).map_err(|_| too_large());
        // ArrayType in utils/array.h: length, number of dimensions, offset of the elements if there are NULLs, type of
        // the elements; then the dimensions, and the lower bounds.
        let mut head = vec![0; 4];
        head.extend(number(dimensions.len())?.to_ne_bytes());
        head.extend(0_i32.to_ne_bytes());
        head.extend(element.to_u32().to_ne_bytes());
        for d in dimensions {
            head.extend(number(*d)?.to_ne_bytes());
        }
        dimensions.iter().for_each(|_| head.extend(1_i32.to_ne_bytes()));
        head.resize(head.len().next_multiple_of(8), 0);
        Ok(Self { total: head.len() + bytes, head, bytes })
    }

    /// Returns the length of an array, in bytes.
    pub(crate) fn total(&self) -> usize {
        self.total
    }

    /// Writes all but the elements of an array. Returns the room for the elements.
    ///
    /// # Safety
    /// There must be room for `total()` bytes, aligned to 8 bytes, and nothing else may refer to it.
    pub(crate) unsafe fn write<'a>(&self, to: *mut u8) -> &'a mut [u8] {
        // SAFETY: the caller guarantees the room. The elements are zeroed by the caller or written next.
        unsafe {
            std::ptr::copy_nonoverlapping(self.head.as_ptr(), to, self.head.len());
            pgrx::varlena::set_varsize_4b(to.cast(), i32::try_from(self.total).unwrap_or(i32::MAX));
            std::slice::from_raw_parts_mut(to.add(self.head.len()), self.bytes)
        }
    }
}

/// Builds an array without NULLs. `fill` writes the bytes of its elements.
pub(crate) fn plain_array(array: &PlainArray, fill: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<Datum> {
    // SAFETY: PostgreSQL's memory is zeroed, and aligned to 8 bytes.
    unsafe {
        let to = pg_sys::palloc0(array.total()).cast::<u8>();
        fill(array.write(to))?;
        Ok(Datum::from(to))
    }
}

/// Returns a row of an output in its natural SQL type.
pub(crate) fn natural(output: &Output, chunk: &EncodedRows<'_>, place: usize, nth: usize) -> Result<Datum> {
    let element = match output.element() {
        Some(element) if natural_type(output) != pg_sys::JSONBOID => element,
        _ => return Ok(jsonb(&json_text(output, chunk, place, nth)?)),
    };
    if output.is_scalar() {
        return Ok(scalar_datum(chunk.scalar(place, nth, 0)?));
    }
    let shape = row_shape(output, chunk, place, nth)?;
    let width = shape.iter().product();
    let mut values = (0..width).map(|i| Ok(scalar_datum(chunk.scalar(place, nth, i)?))).collect::<Result<Vec<_>>>()?;
    // A single value without dimensions becomes an array of one element.
    let shape = if shape.is_empty() { vec![1] } else { shape };
    array(&mut values, &mut vec![false; width], &shape, scalar_type(element))
}

/// Returns the selected element of a row. None if the row has no element at the position or no such key.
pub(crate) fn selected<'a>(layout: &Layout, chunk: &EncodedRows<'a>, nth: usize) -> Result<Option<Scalar<'a>>> {
    let place = layout.selected;
    match &layout.element {
        None => Ok(Some(chunk.scalar(place, nth, 0)?)),
        Some(ElementKey::Position(n)) => {
            // The row has fewer elements than the selected position.
            let shape = chunk.shape(place, nth)?;
            if shape.is_some_and(|s| *n >= s.iter().product()) {
                return Ok(None);
            }
            Ok(Some(chunk.scalar(place, nth, *n)?))
        }
        Some(key) => Ok(chunk
            .pairs(place, nth)?
            .into_iter()
            .find(|(k, _)| match (k, key) {
                (MapKey::Int64(a), ElementKey::Integer(b)) => a == b,
                (MapKey::Text(a), ElementKey::Text(b)) => a == b,
                _ => false,
            })
            .map(|(_, v)| Scalar::Float32(v))),
    }
}

/// Whether the selection is one value per row.
pub(crate) fn selects_scalar(layout: &Layout) -> bool {
    layout.element.is_some() || layout.outputs[layout.selected].is_scalar()
}
