//! Moves the large weights of a model into a separate file, which the processes of a machine can share.
//!
//! All other content of the model is copied unchanged.

use std::io::{Error, ErrorKind, Result, Write};

use crate::onnx::model_file::Tensor;
use crate::onnx::wire::{Field, fields, put, put_number};
use crate::tensor::ElementType;

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

/// A large tensor of the main graph whose data is in another file.
#[derive(Debug, PartialEq)]
pub(crate) struct ExternalTensor {
    pub(crate) name: String,
    /// The name of the file.
    pub(crate) location: String,
    pub(crate) dims: Vec<i64>,
    pub(crate) element: ElementType,
    offset: usize,
    bytes: usize,
}

impl ExternalTensor {
    fn of(tensor: Tensor) -> Option<Self> {
        if tensor.data_location != Some(1) {
            return None;
        }
        // The numbers of TensorProto.DataType in onnx.proto.
        let element = match tensor.data_type? {
            1 => ElementType::Float32,
            2 => ElementType::Uint8,
            3 => ElementType::Int8,
            6 => ElementType::Int32,
            7 => ElementType::Int64,
            10 => ElementType::Float16,
            11 => ElementType::Float64,
            16 => ElementType::Bfloat16,
            _ => return None,
        };
        let entry = |key: &str| {
            let mut with = tensor.external_data.iter().filter(|e| e.key.as_deref() == Some(key));
            with.next().and_then(|e| e.value.clone())
        };
        let count = tensor.dims.iter().try_fold(1_usize, |n, d| n.checked_mul(usize::try_from(*d).ok()?))?;
        let bytes = count.checked_mul(element.size())?;
        let offset = entry("offset").map_or(Some(0), |text| text.parse().ok())?;
        let has_all = entry("length").is_none_or(|text| text.parse() == Ok(bytes));
        let name = tensor.name.clone()?;
        let location = entry("location")?;
        (bytes >= LARGE && has_all).then_some(Self { name, location, dims: tensor.dims, element, offset, bytes })
    }

    /// Returns the data in its file. Returns `None` if the file is too short or the data is not aligned.
    pub(crate) fn data<'a>(&self, file: &'a [u8]) -> Option<&'a [u8]> {
        let data = file.get(self.offset..self.offset.checked_add(self.bytes)?)?;
        data.as_ptr().addr().is_multiple_of(self.element.size()).then_some(data)
    }
}

/// Returns the large tensors of a model whose data is in other files. ONNX Runtime decides about tensors that are left
/// out.
pub(crate) fn external_tensors(model: &[u8]) -> Vec<ExternalTensor> {
    // A graph in several parts is one graph, as for every reader of protocol buffers.
    let graphs = parts(model).unwrap_or_default().into_iter().filter(|f| f.number == MODEL_GRAPH);
    let fields = graphs.flat_map(|graph| parts(graph.content).unwrap_or_default());
    let initializers = fields.filter(|f| f.number == GRAPH_INITIALIZER);
    initializers.filter_map(|f| ExternalTensor::of(prost::Message::decode(f.content).ok()?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::model_file::Entry;

    #[test]
    fn a_model_of_small_weights_stays_whole() {
        let mut weights = Vec::new();
        let out = take_out(&crate::tests::model("models/diamonds.onnx"), "w", &mut weights).unwrap();
        assert!(out.is_none() && weights.is_empty());
    }

    #[test]
    fn a_tensor_is_found_where_take_out_wrote_it_and_nowhere_else() {
        let floats: Vec<u8> = (0..LARGE).map(|n| (n % 251) as u8).collect();
        let tensor = Tensor { dims: vec![128, 128], data_type: Some(1), name: Some("w".into()), ..Tensor::default() };
        let mut whole = prost::Message::encode_to_vec(&tensor);
        put(TENSOR_RAW_DATA, &floats, &mut whole);
        let (mut graph, mut model, mut weights) = (Vec::new(), Vec::new(), vec![0; 0]);
        put(GRAPH_INITIALIZER, &whole, &mut graph);
        put(MODEL_GRAPH, &graph, &mut model);
        assert_eq!(external_tensors(&model), []);
        let model = take_out(&model, "file", &mut weights).unwrap().unwrap();
        let found = external_tensors(&model);
        let [one] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((one.name.as_str(), one.location.as_str(), one.dims.as_slice()), ("w", "file", &[128, 128][..]));
        assert_eq!(one.data(&weights), Some(floats.as_slice()));
        assert_eq!(one.data(&weights[..LARGE - 1]), None);
        assert!(external_tensors(&model[..model.len() - 3]).is_empty());
        // Sizes that do not agree, or that overflow.
        for dims in [vec![128, 127], vec![i64::MAX, 8], vec![-1, 128]] {
            let entry = |key: &str, value: &str| Entry { key: Some(key.into()), value: Some(value.into()) };
            let external_data = vec![entry("location", "f"), entry("length", "65536")];
            let wrong = Tensor { dims, data_location: Some(1), external_data, ..tensor.clone() };
            assert_eq!(ExternalTensor::of(wrong), None);
        }
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
