//! Takes the large weights of a model out of it, so that they lie in a file of their own, which the processes of a machine share.
//!
//! Works on the fields of the file format as they are encoded (onnx.proto), and copies everything else byte by byte: what this code
//! does not know of stays in the model.

use std::io::{Error, ErrorKind, Result, Write};
use std::ops::Range;

use prost::bytes::Buf;
use prost::encoding::{WireType, decode_varint, encode_key, encode_varint};

/// Weights smaller than this stay in the model: shapes and the like are looked at when it is loaded.
const LARGE: usize = 64 << 10;
/// Where weights begin in their file: on a page.
const PAGE: usize = 4096;

// ModelProto, GraphProto, TensorProto and StringStringEntryProto of onnx.proto.
const MODEL_GRAPH: u32 = 7;
const GRAPH_INITIALIZER: u32 = 5;
const TENSOR_FLOAT_DATA: u32 = 4;
const TENSOR_RAW_DATA: u32 = 9;
const TENSOR_EXTERNAL_DATA: u32 = 13;
const TENSOR_DATA_LOCATION: u32 = 14;
const ENTRY_KEY: u32 = 1;
const ENTRY_VALUE: u32 = 2;

/// A field of a message: its number, all of its bytes, and those of its content where it has a length.
struct Field {
    number: u32,
    all: Range<usize>,
    content: Option<Range<usize>>,
}

/// The fields of a message that lies in these bytes.
fn fields(bytes: &[u8], message: Range<usize>) -> Result<Vec<Field>> {
    let broken = || Error::new(ErrorKind::InvalidData, "a field of the model is cut short");
    let mut found = Vec::new();
    let mut rest = bytes.get(message.clone()).ok_or_else(broken)?;
    while !rest.is_empty() {
        let start = message.end - rest.len();
        let key = decode_varint(&mut rest).map_err(|_| broken())?;
        let number = u32::try_from(key >> 3).map_err(|_| broken())?;
        let length = match WireType::try_from(key & 7).map_err(|_| broken())? {
            WireType::Varint => {
                decode_varint(&mut rest).map_err(|_| broken())?;
                None
            }
            WireType::SixtyFourBit => Some(8),
            WireType::ThirtyTwoBit => Some(4),
            WireType::LengthDelimited => {
                let n = decode_varint(&mut rest).map_err(|_| broken())?;
                Some(usize::try_from(n).map_err(|_| broken())?)
            }
            WireType::StartGroup | WireType::EndGroup => return Err(broken()),
        };
        let begin = message.end - rest.len();
        let content = match length {
            Some(n) if n > rest.len() => return Err(broken()),
            Some(n) => {
                rest.advance(n);
                Some(begin..begin + n)
            }
            None => None,
        };
        found.push(Field { number, all: start..message.end - rest.len(), content });
    }
    Ok(found)
}

/// The content of a large tensor's data; none of another one's.
fn data(bytes: &[u8], tensor: Range<usize>) -> Result<Option<Range<usize>>> {
    let fields = fields(bytes, tensor)?;
    if fields.iter().any(|f| f.number == TENSOR_DATA_LOCATION || f.number == TENSOR_EXTERNAL_DATA) {
        return Ok(None);
    }
    let mut large = fields
        .into_iter()
        // Packed floats lie as raw ones do.
        .filter(|f| f.number == TENSOR_RAW_DATA || f.number == TENSOR_FLOAT_DATA)
        .filter_map(|f| f.content);
    let (first, second) = (large.next(), large.next());
    Ok(first.filter(|c| second.is_none() && c.len() >= LARGE))
}

fn put_bytes(out: &mut Vec<u8>, number: u32, content: &[u8]) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(content.len() as u64, out);
    out.extend_from_slice(content);
}

/// A tensor whose data is in a file.
fn moved(bytes: &[u8], tensor: Range<usize>, file: &str, offset: usize, length: usize) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for field in fields(bytes, tensor)? {
        if field.number != TENSOR_RAW_DATA && field.number != TENSOR_FLOAT_DATA {
            out.extend_from_slice(&bytes[field.all]);
        }
    }
    for (key, value) in [("location", file.to_owned()), ("offset", offset.to_string()), ("length", length.to_string())]
    {
        let mut entry = Vec::new();
        put_bytes(&mut entry, ENTRY_KEY, key.as_bytes());
        put_bytes(&mut entry, ENTRY_VALUE, value.as_bytes());
        put_bytes(&mut out, TENSOR_EXTERNAL_DATA, &entry);
    }
    encode_key(TENSOR_DATA_LOCATION, WireType::Varint, &mut out);
    encode_varint(1, &mut out);
    Ok(out)
}

/// Writes the large weights of a model one behind the other, and gives the model without them, which looks for them in a file of that
/// name beside it. None where it has none, and nothing was written.
pub fn take_out(model: &[u8], file: &str, weights: &mut impl Write) -> Result<Option<Vec<u8>>> {
    let mut out = Vec::new();
    let mut at = 0;
    for field in fields(model, 0..model.len())? {
        let Some(graph) = field.content.filter(|_| field.number == MODEL_GRAPH) else {
            out.extend_from_slice(&model[field.all]);
            continue;
        };
        let mut inside = Vec::new();
        for field in fields(model, graph)? {
            let tensor = field.content.filter(|_| field.number == GRAPH_INITIALIZER);
            let large = tensor.clone().map(|t| data(model, t)).transpose()?.flatten();
            let (Some(tensor), Some(large)) = (tensor, large) else {
                inside.extend_from_slice(&model[field.all]);
                continue;
            };
            let begin = usize::next_multiple_of(at, PAGE);
            let padding = [0; PAGE];
            weights.write_all(&padding[..begin - at])?;
            weights.write_all(&model[large.clone()])?;
            put_bytes(&mut inside, GRAPH_INITIALIZER, &moved(model, tensor, file, begin, large.len())?);
            at = begin + large.len();
        }
        put_bytes(&mut out, MODEL_GRAPH, &inside);
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
        assert!(fields(&[0x3a, 0xff], 0..2).is_err());
    }
}
