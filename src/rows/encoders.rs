//! Encoders: functions that write one SQL value into a column of a tensor.

use pg_predict_engine::options::OnNull;
use pg_predict_engine::tensor::{Column, ElementType, has_digits, narrow, narrow_bf16, narrow_f16};
use pgrx::pg_sys::{self, Datum, Oid};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::pg::text;

/// Writes one value. Returns false if it does not fit.
pub(crate) type Write = fn(Datum, &mut Column) -> Result<bool>;

/// How a value is converted for its column.
pub(crate) enum Convert {
    Scalar(Write),
    /// A literal whose type the parser left unknown: a bare NULL, or text in place of a number.
    Untyped,
    /// By the output function of the type, for enums.
    Output(Box<pg_sys::FmgrInfo>),
    Array(ArrayConvert),
    /// The elements as they are in memory, little-endian.
    Bytes,
}

impl Convert {
    /// Whether the value contains all elements of an input.
    pub(crate) fn is_many(&self) -> bool {
        matches!(self, Self::Array(_) | Self::Bytes)
    }
}

pub(crate) struct ArrayConvert {
    pub(crate) element: Oid,
    pub(crate) length: i16,
    pub(crate) by_value: bool,
    pub(crate) align: std::ffi::c_char,
    pub(crate) write: Write,
}

pub(crate) fn float4(d: Datum) -> f32 {
    f32::from_bits(text::int(d).cast_unsigned())
}

fn float8(d: Datum) -> f64 {
    f64::from_bits(text::big(d).cast_unsigned())
}

/// Converts a numeric to float8. `None` if it is too large, or is an integer that would be rounded.
fn numeric(d: Datum) -> Option<f64> {
    let x = numeric_rounded(d)?;
    if x.abs() < LARGEST_EXACT || !x.is_finite() {
        return Some(x);
    }
    // Fractions are rounded in every float type. An integer is formatted and compared.
    let text = printed(d)?;
    let (digits, fraction) = text.split_once('.').unwrap_or((&text, ""));
    (fraction.bytes().any(|b| b != b'0') || digits == format!("{x:.0}")).then_some(x)
}

/// The largest number up to which float8 represents every integer exactly.
const LARGEST_EXACT: f64 = 9_007_199_254_740_992.0;

/// Converts a numeric to float8. `None` if it is too large.
fn numeric_rounded(d: Datum) -> Option<f64> {
    // SAFETY: callers pass a numeric that is not NULL.
    unsafe {
        let x = pgrx::direct_function_call_as_datum(pg_sys::numeric_float8_no_overflow, &[Some(d)]).map(float8)?;
        let infinite = || pg_sys::numeric_is_inf(pg_sys::pg_detoast_datum(d.cast_mut_ptr()).cast());
        (x.is_finite() || x.is_nan() || infinite()).then_some(x)
    }
}

/// Formats a numeric as text.
fn printed(d: Datum) -> Option<String> {
    // SAFETY: callers pass a numeric that is not NULL. Its output function returns a C string.
    let text = unsafe { pgrx::direct_function_call_as_datum(pg_sys::numeric_out, &[Some(d)]) }?;
    Some(text::copied(text.cast_mut_ptr()))
}

/// Converts a numeric to an integer. `None` if it has a fraction or is too large.
pub(crate) fn whole(d: Datum) -> Option<i128> {
    let text = printed(d)?;
    let (digits, fraction) = text.split_once('.').unwrap_or((&text, ""));
    fraction.bytes().all(|b| b == b'0').then(|| digits.parse().ok()).flatten()
}

/// A non-capturing function that reads with `$read`, converts with `$convert` and writes to a column of kind `$kind`.
macro_rules! write {
    ($kind:ident, $read:expr, $convert:expr) => {{
        let f: Write = |datum, column| {
            let Column::$kind(v) = column else { return Ok(false) };
            match $convert($read(datum)) {
                Some(x) => {
                    v.push(x);
                    Ok(true)
                }
                None => Ok(false),
            }
        };
        Some(f)
    }};
}

macro_rules! write_integer {
    ($element:expr, $read:expr) => {
        match $element {
            ElementType::Float32 => write!(Float32, $read, |x| Some(x as f32)),
            // Beyond 53 bits, float8 represents only some integers exactly.
            ElementType::Float64 => {
                write!(Float64, $read, |x| { has_digits(i128::from(x), f64::MANTISSA_DIGITS).then_some(x as f64) })
            }
            ElementType::Int8 => write!(Int8, $read, |x| i8::try_from(x).ok()),
            ElementType::Int16 => write!(Int16, $read, |x| i16::try_from(x).ok()),
            ElementType::Int32 => write!(Int32, $read, |x| i32::try_from(x).ok()),
            ElementType::Int64 => write!(Int64, $read, |x| Some(i64::from(x))),
            ElementType::Uint8 => write!(Uint8, $read, |x| u8::try_from(x).ok()),
            ElementType::Uint16 => write!(Uint16, $read, |x| u16::try_from(x).ok()),
            ElementType::Uint32 => write!(Uint32, $read, |x| u32::try_from(x).ok()),
            ElementType::Uint64 => write!(Uint64, $read, |x| u64::try_from(x).ok()),
            ElementType::Float16 => write!(Float16, $read, |x| narrow_f16(x as f64)),
            ElementType::Bfloat16 => write!(Bfloat16, $read, |x| narrow_bf16(x as f64)),
            ElementType::Bool | ElementType::String => None,
        }
    };
}

macro_rules! write_string {
    ($read:expr) => {{
        let f: Write = |datum, column| {
            let Column::String(v) = column else { return Ok(false) };
            v.push(&$read(datum)?);
            Ok(true)
        };
        Some(f)
    }};
}

/// Returns the function that writes values of this type into columns of this element type, or `None` if there is no
/// such conversion.
pub(crate) fn writer(oid: Oid, element: ElementType) -> Option<Write> {
    match oid {
        pg_sys::FLOAT4OID => match element {
            ElementType::Float32 => write!(Float32, float4, Some),
            ElementType::Float64 => write!(Float64, float4, |x| Some(f64::from(x))),
            ElementType::Float16 => write!(Float16, float4, |x| narrow_f16(f64::from(x))),
            ElementType::Bfloat16 => write!(Bfloat16, float4, |x| narrow_bf16(f64::from(x))),
            _ => None,
        },
        pg_sys::FLOAT8OID => match element {
            ElementType::Float32 => write!(Float32, float8, narrow),
            ElementType::Float64 => write!(Float64, float8, Some),
            ElementType::Float16 => write!(Float16, float8, narrow_f16),
            ElementType::Bfloat16 => write!(Bfloat16, float8, narrow_bf16),
            _ => None,
        },
        pg_sys::NUMERICOID => match element {
            ElementType::Float32 => write!(Float32, numeric_rounded, |x: Option<f64>| x.and_then(narrow)),
            ElementType::Float64 => write!(Float64, numeric, |x| x),
            ElementType::Float16 => write!(Float16, numeric_rounded, |x: Option<f64>| x.and_then(narrow_f16)),
            ElementType::Bfloat16 => write!(Bfloat16, numeric_rounded, |x: Option<f64>| x.and_then(narrow_bf16)),
            ElementType::Int8 => write!(Int8, whole, |x: Option<i128>| x.and_then(|x| i8::try_from(x).ok())),
            ElementType::Int16 => write!(Int16, whole, |x: Option<i128>| x.and_then(|x| i16::try_from(x).ok())),
            ElementType::Int32 => write!(Int32, whole, |x: Option<i128>| x.and_then(|x| i32::try_from(x).ok())),
            ElementType::Int64 => write!(Int64, whole, |x: Option<i128>| x.and_then(|x| i64::try_from(x).ok())),
            ElementType::Uint8 => write!(Uint8, whole, |x: Option<i128>| x.and_then(|x| u8::try_from(x).ok())),
            ElementType::Uint16 => write!(Uint16, whole, |x: Option<i128>| x.and_then(|x| u16::try_from(x).ok())),
            ElementType::Uint32 => write!(Uint32, whole, |x: Option<i128>| x.and_then(|x| u32::try_from(x).ok())),
            ElementType::Uint64 => write!(Uint64, whole, |x: Option<i128>| x.and_then(|x| u64::try_from(x).ok())),
            ElementType::Bool | ElementType::String => None,
        },
        pg_sys::INT2OID => write_integer!(element, text::small),
        pg_sys::INT4OID => write_integer!(element, text::int),
        pg_sys::INT8OID => write_integer!(element, text::big),
        pg_sys::BOOLOID => match element {
            ElementType::Bool => write!(Bool, |d: Datum| d.value() & 1 == 1, Some),
            _ => write_integer!(element, |d: Datum| u8::from(d.value() & 1 == 1)),
        },
        pg_sys::TEXTOID | pg_sys::VARCHAROID if element == ElementType::String => write_string!(text::text),
        // The padding of char(n) is dropped, as in PostgreSQL's cast to text.
        pg_sys::BPCHAROID if element == ElementType::String => {
            write_string!(|d| text::text(d).map(|t| t.trim_end_matches(' ').to_owned()))
        }
        pg_sys::UNKNOWNOID | pg_sys::CSTRINGOID | pg_sys::NAMEOID if element == ElementType::String => {
            write_string!(text::cstring)
        }
        _ => None,
    }
}

/// Converts a count of PostgreSQL, which is never negative.
pub(crate) fn size(count: i32) -> usize {
    usize::try_from(count).unwrap_or(0)
}

/// Returns the base type of a domain, or the type itself.
pub(crate) fn base_type(oid: Oid) -> Oid {
    // SAFETY: reads the type cache.
    unsafe { pg_sys::getBaseType(oid) }
}

/// The hint for a text in place of a number.
pub(crate) const CAST_TEXT: &str =
    "Text does not turn into numbers by itself: cast it, as in '1.5'::real or '{1,2,3}'::real[].";

/// Whether a type is a text type or `unknown`, the type of an untyped literal.
pub(crate) fn is_text(oid: Oid) -> bool {
    matches!(oid, pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::BPCHAROID | pg_sys::NAMEOID | pg_sys::UNKNOWNOID)
}

/// The dimensions of an array. PostgreSQL allows at most MAXDIM of them (utils/array.h).
pub(crate) struct Dimensions {
    count: usize,
    each: [usize; 6],
}

impl Dimensions {
    fn new(count: usize, read: impl Fn(usize) -> usize) -> Self {
        let mut each = [0; 6];
        each.iter_mut().take(count).enumerate().for_each(|(i, d)| *d = read(i));
        Self { count: count.min(6), each }
    }
}

impl std::ops::Deref for Dimensions {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        &self.each[..self.count]
    }
}

impl ArrayConvert {
    /// Writes the elements of an array and returns its dimensions.
    pub(crate) fn write(
        &self,
        datum: Datum,
        column: &mut Column,
        on_null: OnNull,
        model: &str,
        name: &str,
    ) -> Result<Dimensions> {
        let shape: Dimensions;
        let mut datums: *mut Datum = std::ptr::null_mut();
        let mut nulls: *mut bool = std::ptr::null_mut();
        let mut n = 0;
        // SAFETY: the datum is an array of this element type that is not NULL. Elements of the types below are
        // contiguous memory of the length that the header gives. PostgreSQL deconstructs other arrays.
        unsafe {
            let array = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
            let has_nulls = (*array).dataoffset != 0;
            let dims = array.cast::<i32>().add(4);
            shape = Dimensions::new(size((*array).ndim), |i| size(*dims.add(i)));
            let count = size(pg_sys::ArrayGetNItems((*array).ndim, dims));
            column.try_reserve(count)?;
            if !has_nulls {
                let data = array.cast::<u8>().add((16 + 8 * size((*array).ndim)).next_multiple_of(8));
                match (self.element, &mut *column) {
                    (pg_sys::FLOAT4OID, Column::Float32(v)) => {
                        v.extend_from_slice(std::slice::from_raw_parts(data.cast::<f32>(), count));
                        return Ok(shape);
                    }
                    (pg_sys::FLOAT8OID, Column::Float64(v)) => {
                        v.extend_from_slice(std::slice::from_raw_parts(data.cast::<f64>(), count));
                        return Ok(shape);
                    }
                    (pg_sys::INT8OID, Column::Int64(v)) => {
                        v.extend_from_slice(std::slice::from_raw_parts(data.cast::<i64>(), count));
                        return Ok(shape);
                    }
                    (pg_sys::INT4OID, Column::Int32(v)) => {
                        v.extend_from_slice(std::slice::from_raw_parts(data.cast::<i32>(), count));
                        return Ok(shape);
                    }
                    _ => {}
                }
            }
            pg_sys::deconstruct_array(
                array,
                self.element,
                i32::from(self.length),
                self.by_value,
                self.align,
                &raw mut datums,
                &raw mut nulls,
                &raw mut n,
            );
        }
        for i in 0..size(n) {
            // SAFETY: both arrays have n entries.
            let (datum, null) = unsafe { (*datums.add(i), *nulls.add(i)) };
            if null {
                let nan = on_null == OnNull::Nan && column.element().is_float();
                if !(nan && column.push_json(&Value::from("NaN"))) {
                    return Err(Error::ArrayNull { model: model.to_owned(), column: name.to_owned(), position: i + 1 });
                }
            } else if !(self.write)(datum, column)? {
                return Err(Error::OutOfRange {
                    model: model.to_owned(),
                    column: name.to_owned(),
                    element: column.element().to_string(),
                });
            }
        }
        Ok(shape)
    }
}

pub(crate) fn is_enum(oid: Oid) -> bool {
    // SAFETY: reads the type cache.
    unsafe { pg_sys::type_is_enum(oid) }
}

pub(crate) fn output_function(oid: Oid) -> pg_sys::FmgrInfo {
    let (mut function, mut varlena) = (Oid::INVALID, false);
    let mut info = pg_sys::FmgrInfo::default();
    // SAFETY: looks up the output function of a type that exists.
    unsafe {
        pg_sys::getTypeOutputInfo(oid, &raw mut function, &raw mut varlena);
        pg_sys::fmgr_info(function, &raw mut info);
    }
    info
}

pub(crate) fn output(function: &pg_sys::FmgrInfo, datum: Datum) -> String {
    // SAFETY: calls the output function of the type with a value of the type.
    text::copied(unsafe { pg_sys::OutputFunctionCall(std::ptr::from_ref(function).cast_mut(), datum) })
}
