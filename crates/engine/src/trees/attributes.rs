//! Reads the attributes of a tree-ensemble operator from its encoded node.
//!
//! Values are read in one pass without an object for each of them: an ensemble has millions of them. Texts stay where
//! they are in the model file.

use prost::encoding::{WireType, decode_key, decode_varint};

use crate::onnx::wire;

/// The field numbers of `AttributeProto` and `TensorProto` (github.com/onnx/onnx).
mod number {
    pub(super) const NAME: u32 = 1;
    pub(super) const FLOAT: u32 = 2;
    pub(super) const INTEGER: u32 = 3;
    pub(super) const TEXT: u32 = 4;
    pub(super) const TENSOR: u32 = 5;
    pub(super) const FLOATS: u32 = 7;
    pub(super) const INTEGERS: u32 = 8;
    pub(super) const TEXTS: u32 = 9;
    pub(super) const KIND: u32 = 20;
    pub(super) const TENSOR_KIND: u32 = 2;
    pub(super) const TENSOR_FLOATS: u32 = 4;
    pub(super) const TENSOR_INTEGERS: u32 = 5;
    pub(super) const TENSOR_RAW: u32 = 9;
    pub(super) const TENSOR_DOUBLES: u32 = 10;
    pub(super) const TENSOR_LOCATION: u32 = 14;
}

/// The value of an attribute.
#[derive(Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Integer(i64),
    Text(&'a [u8]),
    Floats(Vec<f32>),
    Integers(Vec<i64>),
    Texts(Vec<&'a [u8]>),
    Tensor(Numbers),
}

/// The elements of a tensor, or the numbers of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Numbers {
    Float32(Vec<f32>),
    Float64(Vec<f64>),
    Uint8(Vec<u8>),
}

impl Numbers {
    /// Returns the number of elements.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Float32(v) => v.len(),
            Self::Float64(v) => v.len(),
            Self::Uint8(v) => v.len(),
        }
    }

    /// Returns an element. Every float is exact as a double.
    pub(crate) fn get(&self, i: usize) -> Option<f64> {
        match self {
            Self::Float32(v) => v.get(i).copied().map(f64::from),
            Self::Float64(v) => v.get(i).copied(),
            Self::Uint8(v) => v.get(i).copied().map(f64::from),
        }
    }
}

/// Reads one attribute. Returns `None` if it is damaged, or of a type that no tree ensemble has.
pub(crate) fn attribute(bytes: &[u8]) -> Option<(&str, Value<'_>)> {
    let (mut name, mut kind) = ("", 0);
    let (mut integer, mut text, mut tensor) = (0, None, None);
    let (mut floats, mut integers, mut texts) = (Vec::new(), Vec::new(), Vec::new());
    let mut rest = bytes;
    while !rest.is_empty() {
        let (number, wire) = decode_key(&mut rest).ok()?;
        match (number, wire) {
            (number::NAME, WireType::LengthDelimited) => name = std::str::from_utf8(content(&mut rest)?).ok()?,
            (number::INTEGER, WireType::Varint) => integer = signed(decode_varint(&mut rest).ok()?),
            (number::KIND, WireType::Varint) => kind = decode_varint(&mut rest).ok()?,
            (number::FLOAT, WireType::ThirtyTwoBit) => drop(fixed::<4>(&mut rest)?),
            (number::TEXT, WireType::LengthDelimited) => text = Some(content(&mut rest)?),
            (number::TENSOR, WireType::LengthDelimited) => tensor = Some(content(&mut rest)?),
            (number::FLOATS, WireType::ThirtyTwoBit) => floats.push(f32::from_le_bytes(fixed(&mut rest)?)),
            (number::FLOATS, WireType::LengthDelimited) => packed_floats(content(&mut rest)?, &mut floats)?,
            (number::INTEGERS, WireType::Varint) => integers.push(signed(decode_varint(&mut rest).ok()?)),
            (number::INTEGERS, WireType::LengthDelimited) => {
                let mut packed = content(&mut rest)?;
                while !packed.is_empty() {
                    integers.push(signed(decode_varint(&mut packed).ok()?));
                }
            }
            (number::TEXTS, WireType::LengthDelimited) => texts.push(content(&mut rest)?),
            // A description of the attribute, or what only other operators have.
            (13, WireType::LengthDelimited) => drop(content(&mut rest)?),
            _ => return None,
        }
    }
    // `AttributeProto.AttributeType`
    let value = match kind {
        2 => Value::Integer(integer),
        3 => Value::Text(text?),
        4 => Value::Tensor(elements(tensor?)?),
        6 => Value::Floats(floats),
        7 => Value::Integers(integers),
        8 => Value::Texts(texts),
        _ => return None,
    };
    Some((name, value))
}

/// Reads the elements of a tensor of floats, doubles or bytes that is stored in the model file itself.
fn elements(tensor: &[u8]) -> Option<Numbers> {
    let fields = wire::fields(tensor)?;
    if fields.iter().any(|f| f.number == number::TENSOR_LOCATION) {
        return None;
    }
    let mut kind = None;
    let mut raw: Option<&[u8]> = None;
    let (mut floats, mut doubles, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    for field in &fields {
        let mut rest = field.whole;
        let (_, wire) = decode_key(&mut rest).ok()?;
        match (field.number, wire) {
            (number::TENSOR_KIND, WireType::Varint) => kind = decode_varint(&mut rest).ok(),
            (number::TENSOR_RAW, WireType::LengthDelimited) => raw = Some(field.content),
            (number::TENSOR_FLOATS, WireType::LengthDelimited) => packed_floats(field.content, &mut floats)?,
            (number::TENSOR_FLOATS, WireType::ThirtyTwoBit) => floats.push(f32::from_le_bytes(fixed(&mut rest)?)),
            (number::TENSOR_DOUBLES, WireType::LengthDelimited) => {
                let (values, []) = field.content.as_chunks::<8>() else { return None };
                doubles.extend(values.iter().map(|b| f64::from_le_bytes(*b)));
            }
            (number::TENSOR_DOUBLES, WireType::SixtyFourBit) => doubles.push(f64::from_le_bytes(fixed(&mut rest)?)),
            (number::TENSOR_INTEGERS, WireType::LengthDelimited) => {
                let mut packed = field.content;
                while !packed.is_empty() {
                    bytes.push(u8::try_from(decode_varint(&mut packed).ok()?).ok()?);
                }
            }
            (number::TENSOR_INTEGERS, WireType::Varint) => {
                bytes.push(u8::try_from(decode_varint(&mut rest).ok()?).ok()?);
            }
            _ => {}
        }
    }
    // `TensorProto.DataType`
    Some(match (kind?, raw) {
        (1, None) => Numbers::Float32(floats),
        (1, Some(raw)) => {
            packed_floats(raw, &mut floats)?;
            Numbers::Float32(floats)
        }
        (11, None) => Numbers::Float64(doubles),
        (11, Some(raw)) => {
            let (values, []) = raw.as_chunks::<8>() else { return None };
            Numbers::Float64(values.iter().map(|b| f64::from_le_bytes(*b)).collect())
        }
        (2, None) => Numbers::Uint8(bytes),
        (2, Some(raw)) => Numbers::Uint8(raw.to_vec()),
        _ => return None,
    })
}

fn packed_floats(bytes: &[u8], to: &mut Vec<f32>) -> Option<()> {
    let (values, []) = bytes.as_chunks::<4>() else { return None };
    to.extend(values.iter().map(|b| f32::from_le_bytes(*b)));
    Some(())
}

/// Takes the content of a field with a length.
fn content<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(decode_varint(rest).ok()?).ok()?;
    let (content, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(content)
}

fn fixed<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (value, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*value)
}

/// Reads the two's complement that protobuf stores for a negative number.
fn signed(value: u64) -> i64 {
    value.cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_and_single_values_are_read_alike_and_damage_is_none() {
        let mut single = Vec::new();
        wire::put(1, b"n", &mut single);
        let mut packed = single.clone();
        wire::put_number(8, 3, &mut single);
        wire::put_number(8, u64::MAX, &mut single);
        wire::put_number(20, 7, &mut single);
        wire::put(8, &[3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], &mut packed);
        wire::put_number(20, 7, &mut packed);
        let wanted = Some(("n", Value::Integers(vec![3, -1])));
        assert_eq!(attribute(&single), wanted);
        assert_eq!(attribute(&packed), wanted);
        for cut in 1..packed.len() {
            assert_ne!(attribute(&packed[..cut]), wanted);
        }
    }
}
