//! Moves the large weights of a model into a separate file, which the processes of a machine can share.
//!
//! All other content of the model is copied unchanged.

use std::io::{Error, ErrorKind, Result, Write};

use crate::onnx::wire::{Field, fields, put, put_number};

/// Size in bytes below which weights stay in the model: ONNX Runtime reads shapes and similar tensors when it loads a
/// model.
const LARGE: usize = 64 << 10;
/// Alignment of weights in their file, in bytes: the page size.
const PAGE: usize = 4096;

// Field numbers of ModelProto, GraphProto, TensorProto and StringStringEntryProto in onnx.proto.
const MODEL_GRAPH: u32 = 7;
const GRAPH_INITIALIZER: u32 = 5;
const TENSOR_FLOAT_DATA: u32 = 4;
const TENSOR_RAW_DATA: u32 = 9;
const TENSOR_EXTERNAL_DATA: u32 = 13;
const TENSOR_DATA_LOCATION: u32 = 14;
const ENTRY_KEY: u32 = 1;
const ENTRY_VALUE: u32 = 2;

/// Splits a message of the model into its fields.
fn parts(message: &[u8]) -> Result<Vec<Field<'_>>> {
    fields(message).ok_or_else(|| Error::new(ErrorKind::InvalidData, "a field of the model is cut short"))
}

/// Returns the data of a large tensor, or `None` if the tensor is small, external, or has several data fields.
fn data<'a>(tensor: &[Field<'a>]) -> Option<&'a [u8]> {
    if tensor.iter().any(|f| f.number == TENSOR_DATA_LOCATION || f.number == TENSOR_EXTERNAL_DATA) {
        return None;
    }
    // Packed floats have the same encoding as raw data.
    let mut data = tensor.iter().filter(|f| f.number == TENSOR_RAW_DATA || f.number == TENSOR_FLOAT_DATA);
    let (first, second) = (data.next()?, data.next());
    (second.is_none() && first.content.len() >= LARGE).then_some(first.content)
}

/// Encodes a tensor whose data is in a file.
fn moved(tensor: &[Field<'_>], file: &str, offset: usize, length: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for field in tensor {
        if field.number != TENSOR_RAW_DATA && field.number != TENSOR_FLOAT_DATA {
            out.extend_from_slice(field.whole);
        }
    }
    for (key, value) in [("location", file.to_owned()), ("offset", offset.to_string()), ("length", length.to_string())]
    {
        let mut entry = Vec::new();
        put(ENTRY_KEY, key.as_bytes(), &mut entry);
        put(ENTRY_VALUE, value.as_bytes(), &mut entry);
        put(TENSOR_EXTERNAL_DATA, &entry, &mut out);
    }
    put_number(TENSOR_DATA_LOCATION, 1, &mut out);
    out
}

/// Writes the large weights of a model one after the other, each aligned to a page. Returns the model without them,
/// which refers to a file of the given name in its own folder. Returns `None` if the model has no large weights; then
/// nothing is written.
pub fn take_out(model: &[u8], file: &str, weights: &mut impl Write) -> Result<Option<Vec<u8>>> {
    let mut out = Vec::new();
    let mut at = 0;
    for field in parts(model)? {
        if field.number != MODEL_GRAPH {
            out.extend_from_slice(field.whole);
            continue;
        }
        let mut inside = Vec::new();
        for field in parts(field.content)? {
            let tensor = if field.number == GRAPH_INITIALIZER { parts(field.content)? } else { Vec::new() };
            let Some(large) = data(&tensor) else {
                inside.extend_from_slice(field.whole);
                continue;
            };
            let begin = usize::next_multiple_of(at, PAGE);
            let padding = [0; PAGE];
            weights.write_all(&padding[..begin - at])?;
            weights.write_all(large)?;
            put(GRAPH_INITIALIZER, &moved(&tensor, file, begin, large.len()), &mut inside);
            at = begin + large.len();
        }
        put(MODEL_GRAPH, &inside, &mut out);
    }
    Ok((at > 0).then_some(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_of_small_weights_stays_whole() {
        let mut weights = Vec::new();
        let out = take_out(&crate::tests::model("models/diamonds.onnx"), "w", &mut weights).unwrap();
        assert!(out.is_none() && weights.is_empty());
    }

    #[test]
    fn cut_files_are_refused_and_never_read_beyond() {
        let model = crate::tests::model("models/diamonds.onnx");
        for n in (0..model.len()).step_by(97) {
            let _ = take_out(&model[..n], "w", &mut Vec::new());
        }
        assert!(take_out(&[0x3a, 0xff], "w", &mut Vec::new()).is_err());
    }
}
