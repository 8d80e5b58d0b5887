//! Reads and edits the protobuf encoding of model files. Field numbers are those of `onnx.proto3`
//! (github.com/onnx/onnx).
//!
//! Code that changes a model must edit single fields and copy all others byte by byte. Decoding and encoding a whole
//! message would lose the fields that are not declared here.

use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};

/// One field of a message.
pub(crate) struct Field<'a> {
    pub(crate) number: u32,
    /// The bytes of the field, including its key.
    pub(crate) whole: &'a [u8],
    /// The content of a message, string or bytes field; empty for a number.
    pub(crate) content: &'a [u8],
}

/// Splits a message into its fields. Returns `None` if the bytes are not a valid message.
pub(crate) fn fields(message: &[u8]) -> Option<Vec<Field<'_>>> {
    let mut rest = message;
    let mut found = Vec::new();
    while !rest.is_empty() {
        let begin = rest;
        let (number, wire) = decode_key(&mut rest).ok()?;
        let mut content: &[u8] = &[];
        match wire {
            WireType::Varint => drop(decode_varint(&mut rest).ok()?),
            WireType::ThirtyTwoBit => rest = rest.get(4..)?,
            WireType::SixtyFourBit => rest = rest.get(8..)?,
            WireType::LengthDelimited => {
                let length = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
                (content, rest) = rest.split_at_checked(length)?;
            }
            WireType::StartGroup | WireType::EndGroup => return None,
        }
        found.push(Field { number, whole: &begin[..begin.len() - rest.len()], content });
    }
    Some(found)
}

/// Returns the content of the field with this number if it occurs exactly once.
pub(crate) fn only<'a>(fields: &[Field<'a>], number: u32) -> Option<&'a [u8]> {
    let mut with = fields.iter().filter(|f| f.number == number);
    let first = with.next()?;
    with.next().is_none().then_some(first.content)
}

/// Appends a message, string or bytes field.
pub(crate) fn put(number: u32, content: &[u8], to: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, to);
    encode_varint(content.len() as u64, to);
    to.extend_from_slice(content);
}

/// Appends a number field.
pub(crate) fn put_number(number: u32, value: u64, to: &mut Vec<u8>) {
    encode_key(number, WireType::Varint, to);
    encode_varint(value, to);
}

/// Copies a message with some fields changed. `change` returns the new content, or `None` to copy the field unchanged.
pub(crate) fn edited(fields: &[Field<'_>], mut change: impl FnMut(&Field<'_>) -> Option<Vec<u8>>) -> Vec<u8> {
    let mut to = Vec::with_capacity(fields.iter().map(|f| f.whole.len() + 16).sum());
    for field in fields {
        match change(field) {
            Some(content) => put(field.number, &content, &mut to),
            None => to.extend_from_slice(field.whole),
        }
    }
    to
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_unchanged_fields_is_the_same_and_a_cut_one_is_none() {
        let model = crate::tests::model("models/late.onnx");
        let outer = fields(&model).unwrap();
        assert!(edited(&outer, |_| None) == model);
        let graph = only(&outer, 7).unwrap();
        assert!(edited(&outer, |f| (f.number == 7).then(|| graph.to_vec())) == model);
        // A length beyond the end, unterminated numbers, a group, and field number 0.
        for cut in [&[0x3a, 0xff][..], &[0x3a, 2, 0], &[0x08, 0x80], &[0x0d, 0, 0], &[0x09, 0], &[0x0b], &[0x02, 0]] {
            assert!(fields(cut).is_none(), "{cut:?}");
        }
    }
}
