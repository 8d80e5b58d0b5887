//! Converts columns to ONNX Runtime tensors, and ONNX Runtime values to columns.

use std::borrow::Cow;

use ort::session::SessionInputValue;
use ort::value::{DynMapValueType, DynTensorValueType, DynValue, TensorElementType, TensorRef, Value, ValueType};

use crate::batch::{Keys, Maps};
use crate::error::{Error, Result};
use crate::ort::declared::element_type;
use crate::ort::string_tensor::string_tensor;
use crate::tensor::{Column, ElementType, Scalar, Strings};

/// The data for one input of a run.
pub(crate) struct Feed<'a> {
    pub(crate) name: &'a str,
    pub(crate) column: Cow<'a, Column>,
    /// The position of the first element in the column. `len` is the number of elements.
    pub(crate) from: usize,
    pub(crate) len: usize,
    pub(crate) shape: Vec<usize>,
}

/// One output of one run, before it is divided among rows.
#[derive(Debug, Clone)]
pub(crate) enum RawOutput {
    Tensor { data: Column, dims: Vec<usize> },
    Maps(Maps),
    Nested(serde_json::Value),
}

/// Creates a tensor of `len` elements of a column, starting at the element `from`. Only texts are copied.
pub(crate) fn tensor<'a>(
    column: &'a Column,
    from: usize,
    len: usize,
    shape: &[usize],
) -> Result<SessionInputValue<'a>> {
    let failed = |e: ort::Error| Error::Run { reason: e.message().to_owned() };
    macro_rules! view {
        ($v:expr) => {
            TensorRef::from_array_view((shape.to_vec(), &$v[from..from + len])).map_err(failed)?.into()
        };
    }
    Ok(match column {
        Column::Float32(v) => view!(v),
        Column::Float64(v) => view!(v),
        Column::Int8(v) => view!(v),
        Column::Int16(v) => view!(v),
        Column::Int32(v) => view!(v),
        Column::Int64(v) => view!(v),
        Column::Uint8(v) => view!(v),
        Column::Uint16(v) => view!(v),
        Column::Uint32(v) => view!(v),
        Column::Uint64(v) => view!(v),
        Column::Bool(v) => view!(v),
        Column::Float16(v) => view!(v),
        Column::Bfloat16(v) => view!(v),
        Column::String(s) => string_tensor(s, from, len, shape)?.into(),
    })
}

/// Copies the elements of a tensor into a column.
fn column_of(value: &DynValue, element: ElementType) -> Result<Column> {
    macro_rules! copy {
        ($kind:ident, $t:ty) => {{
            let (_, data) = value.try_extract_tensor::<$t>().map_err(extract_error)?;
            let mut out: Vec<$t> = Vec::new();
            out.try_reserve_exact(data.len())
                .map_err(|_| Error::OutOfMemory { what: "an output".into(), bytes: std::mem::size_of_val(data) })?;
            out.extend_from_slice(data);
            Column::$kind(out)
        }};
    }
    Ok(match element {
        ElementType::Float32 => copy!(Float32, f32),
        ElementType::Float64 => copy!(Float64, f64),
        ElementType::Int8 => copy!(Int8, i8),
        ElementType::Int16 => copy!(Int16, i16),
        ElementType::Int32 => copy!(Int32, i32),
        ElementType::Int64 => copy!(Int64, i64),
        ElementType::Uint8 => copy!(Uint8, u8),
        ElementType::Uint16 => copy!(Uint16, u16),
        ElementType::Uint32 => copy!(Uint32, u32),
        ElementType::Uint64 => copy!(Uint64, u64),
        ElementType::Bool => copy!(Bool, bool),
        ElementType::Float16 => copy!(Float16, half::f16),
        ElementType::Bfloat16 => copy!(Bfloat16, half::bf16),
        ElementType::String => {
            let (_, texts) = value.try_extract_strings().map_err(extract_error)?;
            let mut out = Strings::default();
            texts.iter().for_each(|t| out.push(t.as_str()));
            Column::String(out)
        }
    })
}

/// Converts the error of an output that cannot be copied.
fn extract_error(error: ort::Error) -> Error {
    // `ort` converts bytes to Rust strings and passes on Rust's UTF-8 error, which only its message identifies.
    if error.message().contains("utf-8") {
        return Error::NotText { output: String::new(), why: "is not UTF-8".to_owned() };
    }
    Error::Run { reason: error.message().to_owned() }
}

/// Copies an output. A text that is not UTF-8 or contains a zero byte is an error that names the output.
pub(crate) fn got(name: &str, value: &DynValue) -> Result<RawOutput> {
    let got = value_of(value).map_err(|error| match error {
        Error::NotText { why, .. } => Error::NotText { output: name.to_owned(), why },
        other => other,
    })?;
    let zero = match &got {
        RawOutput::Tensor { data: Column::String(texts), .. }
        | RawOutput::Maps(Maps { keys: Keys::Text(texts), .. }) => texts.has_zero(),
        RawOutput::Tensor { .. } | RawOutput::Maps(_) => false,
        RawOutput::Nested(json) => has_zero(json),
    };
    if zero { Err(Error::NotText { output: name.to_owned(), why: "has a zero byte".to_owned() }) } else { Ok(got) }
}

/// Whether any text or key in the value contains a zero byte.
fn has_zero(json: &serde_json::Value) -> bool {
    match json {
        serde_json::Value::String(text) => text.contains('\0'),
        serde_json::Value::Array(items) => items.iter().any(has_zero),
        serde_json::Value::Object(map) => map.iter().any(|(key, value)| key.contains('\0') || has_zero(value)),
        _ => false,
    }
}

fn value_of(value: &DynValue) -> Result<RawOutput> {
    match value.dtype() {
        ValueType::Tensor { ty, shape, .. } => {
            let dims = shape.iter().map(|d| usize::try_from(*d).unwrap_or(0)).collect();
            Ok(RawOutput::Tensor { data: column_of(value, element_type(*ty)?)?, dims })
        }
        ValueType::Sequence(inner) => match inner.as_ref() {
            ValueType::Map { key: TensorElementType::Int64, value: TensorElementType::Float32 } => {
                maps_of(value, ElementType::Int64).map(RawOutput::Maps)
            }
            ValueType::Map { key: TensorElementType::String, value: TensorElementType::Float32 } => {
                maps_of(value, ElementType::String).map(RawOutput::Maps)
            }
            _ => json_of(value).map(RawOutput::Nested),
        },
        _ => json_of(value).map(RawOutput::Nested),
    }
}

/// Converts a value of any type to JSON.
fn json_of(value: &DynValue) -> Result<serde_json::Value> {
    use serde_json::Value as Json;
    Ok(match value.dtype() {
        ValueType::Tensor { ty, shape, .. } => {
            let dims: Vec<usize> = shape.iter().map(|d| usize::try_from(*d).unwrap_or(0)).collect();
            column_of(value, element_type(*ty)?)?.json(&dims)?
        }
        ValueType::Sequence(inner) => {
            let sequence = value.view().downcast::<ort::value::DynSequenceValueType>().map_err(extract_error)?;
            if matches!(inner.as_ref(), ValueType::Map { .. }) {
                let items: Vec<Value<DynMapValueType>> = sequence.try_extract_sequence().map_err(extract_error)?;
                items.iter().map(map_json).collect::<Result<Json>>()?
            } else {
                let items: Vec<Value<DynTensorValueType>> = sequence.try_extract_sequence().map_err(extract_error)?;
                items.into_iter().map(|item| json_of(&item.into_dyn())).collect::<Result<Json>>()?
            }
        }
        ValueType::Map { .. } => map_json(&*value.view().downcast::<DynMapValueType>().map_err(extract_error)?)?,
        // A present optional value reports the type of its content, so this one is absent.
        ValueType::Optional(_) => Json::Null,
    })
}

/// Converts a map to a JSON object with text keys.
fn map_json(map: &Value<DynMapValueType>) -> Result<serde_json::Value> {
    let ValueType::Map { key, value } = map.dtype() else { return Ok(serde_json::Value::Null) };
    let mut object = serde_json::Map::new();
    macro_rules! pairs {
        ($k:ty, $v:ty, $x:ident => $scalar:expr) => {{
            let mut pairs = map.try_extract_key_values::<$k, $v>().map_err(extract_error)?;
            pairs.sort_by(|a, b| a.0.cmp(&b.0));
            object.extend(pairs.into_iter().map(|(k, $x)| (k.to_string(), $scalar.json())));
        }};
    }
    match (key, value) {
        (TensorElementType::Int64, TensorElementType::Float32) => pairs!(i64, f32, x => Scalar::Float32(x)),
        (TensorElementType::Int64, TensorElementType::Float64) => pairs!(i64, f64, x => Scalar::Float64(x)),
        (TensorElementType::Int64, TensorElementType::Int64) => pairs!(i64, i64, x => Scalar::Int(x)),
        (TensorElementType::String, TensorElementType::Float32) => pairs!(String, f32, x => Scalar::Float32(x)),
        (TensorElementType::String, TensorElementType::Float64) => pairs!(String, f64, x => Scalar::Float64(x)),
        (TensorElementType::String, TensorElementType::Int64) => pairs!(String, i64, x => Scalar::Int(x)),
        _ => {
            return Err(Error::Unsupported {
                what: format!("a map from {key} to {value}"),
                reason: "ONNX Runtime's interface does not give it".to_owned(),
            });
        }
    }
    Ok(object.into())
}

/// Copies the maps of a sequence. The pairs of each map are sorted by key.
fn maps_of(value: &DynValue, key: ElementType) -> Result<Maps> {
    let sequence = value.view().downcast::<ort::value::DynSequenceValueType>().map_err(extract_error)?;
    let items: Vec<Value<DynMapValueType>> =
        sequence.try_extract_sequence::<DynMapValueType>().map_err(extract_error)?;
    let mut maps = Maps::default();
    if key == ElementType::String {
        let mut keys = Strings::default();
        for item in &items {
            let mut pairs = item.try_extract_key_values::<String, f32>().map_err(extract_error)?;
            pairs.sort_by(|a, b| a.0.cmp(&b.0));
            for (k, v) in pairs {
                keys.push(&k);
                maps.values.push(v);
            }
            maps.ends.push(maps.values.len());
        }
        maps.keys = Keys::Text(keys);
    } else {
        let mut keys = Vec::new();
        for item in &items {
            let mut pairs = item.try_extract_key_values::<i64, f32>().map_err(extract_error)?;
            pairs.sort_by_key(|p| p.0);
            for (k, v) in pairs {
                keys.push(k);
                maps.values.push(v);
            }
            maps.ends.push(maps.values.len());
        }
        maps.keys = Keys::Int64(keys);
    }
    Ok(maps)
}
