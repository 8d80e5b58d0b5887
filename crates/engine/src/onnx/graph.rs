//! Reads the graph of a model as far as rewriting it asks for.

use std::collections::{HashMap, HashSet};

use prost::encoding::{WireType, decode_key, decode_varint};

use crate::onnx::wire::{Field, fields, only};

/// The field numbers of `ModelProto`, `GraphProto`, `NodeProto`, `AttributeProto`, `TensorProto` and `ValueInfoProto`
/// (github.com/onnx/onnx).
pub(crate) mod number {
    pub(crate) const IR_VERSION: u32 = 1;
    pub(crate) const OPSET: u32 = 8;
    pub(crate) const GRAPH: u32 = 7;
    pub(crate) const GRAPH_NAME: u32 = 2;
    pub(crate) const NODE: u32 = 1;
    pub(crate) const INITIALIZER: u32 = 5;
    pub(crate) const INPUT: u32 = 11;
    pub(crate) const OUTPUT: u32 = 12;
    pub(crate) const NODE_INPUT: u32 = 1;
    pub(crate) const NODE_OUTPUT: u32 = 2;
    pub(crate) const OPERATOR: u32 = 4;
    pub(crate) const ATTRIBUTE: u32 = 5;
    pub(crate) const DOMAIN: u32 = 7;
    pub(crate) const SUBGRAPHS: [u32; 2] = [6, 11];
    pub(crate) const ATTRIBUTE_NAME: u32 = 1;
    pub(crate) const ATTRIBUTE_INTEGER: u32 = 3;
    pub(crate) const DIMS: u32 = 1;
    pub(crate) const TENSOR_TYPE: u32 = 2;
    pub(crate) const TENSOR_INTEGERS: u32 = 7;
    pub(crate) const TENSOR_RAW: u32 = 9;
    pub(crate) const VALUE_NAME: u32 = 1;
    pub(crate) const TENSOR_NAME: u32 = 8;
    pub(crate) const LOCATION: u32 = 14;
}

/// The graph of a model without subgraphs.
pub(crate) struct Graph<'a> {
    /// The fields of the model, and those of its graph.
    pub(crate) outer: Vec<Field<'a>>,
    pub(crate) fields: Vec<Field<'a>>,
    pub(crate) nodes: Vec<Node<'a>>,
    /// The initializers that are stored in the model file and are no inputs, by name.
    pub(crate) constants: HashMap<&'a [u8], Constant<'a>>,
    /// The outputs of the model.
    pub(crate) outputs: HashSet<&'a [u8]>,
}

/// A node of a graph.
pub(crate) struct Node<'a> {
    pub(crate) domain: &'a [u8],
    pub(crate) operator: &'a [u8],
    pub(crate) inputs: Vec<&'a [u8]>,
    pub(crate) outputs: Vec<&'a [u8]>,
    pub(crate) attributes: Vec<&'a [u8]>,
    /// The encoded node.
    pub(crate) content: &'a [u8],
}

/// A tensor in the model file.
pub(crate) struct Constant<'a> {
    pub(crate) dims: Vec<u64>,
    /// The encoded tensor.
    pub(crate) content: &'a [u8],
}

/// `TensorProto.DataType.INT64`.
const INT64: u64 = 7;

impl Constant<'_> {
    /// Whether the tensor has one element, and no more dimensions than a column.
    pub(crate) fn is_single(&self) -> bool {
        matches!(self.dims.as_slice(), [] | [1] | [1, 1])
    }

    /// Returns the elements of a list of 64-bit integers.
    pub(crate) fn integers(&self) -> Option<Vec<i64>> {
        let [len] = *self.dims.as_slice() else { return None };
        let tensor = fields(self.content)?;
        if numbers(&tensor, number::TENSOR_TYPE)? != [INT64] {
            return None;
        }
        let integers = match only(&tensor, number::TENSOR_RAW) {
            Some(raw) => {
                let (integers, []) = raw.as_chunks::<8>() else { return None };
                integers.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect()
            }
            None => numbers(&tensor, number::TENSOR_INTEGERS)?.into_iter().map(u64::cast_signed).collect::<Vec<_>>(),
        };
        (u64::try_from(integers.len()) == Ok(len)).then_some(integers)
    }
}

impl<'a> Graph<'a> {
    /// Reads the graph of a model. Returns `None` if a node has a subgraph, which may use any value of the graph.
    pub(crate) fn of(model: &'a [u8]) -> Option<Self> {
        let outer = fields(model)?;
        let fields_of_graph = fields(only(&outer, number::GRAPH)?)?;
        let mut graph =
            Self { outer, fields: Vec::new(), nodes: Vec::new(), constants: HashMap::new(), outputs: HashSet::new() };
        // An input replaces the constant of its name.
        let mut inputs = HashSet::new();
        for field in &fields_of_graph {
            match field.number {
                number::INITIALIZER => {
                    let tensor = fields(field.content)?;
                    if tensor.iter().all(|f| f.number != number::LOCATION) {
                        let constant = Constant { dims: numbers(&tensor, number::DIMS)?, content: field.content };
                        graph.constants.insert(only(&tensor, number::TENSOR_NAME)?, constant);
                    }
                }
                number::INPUT => {
                    inputs.insert(only(&fields(field.content)?, number::VALUE_NAME)?);
                }
                number::OUTPUT => {
                    graph.outputs.insert(only(&fields(field.content)?, number::VALUE_NAME)?);
                }
                number::NODE => graph.nodes.push(Node::of(field.content)?),
                _ => {}
            }
        }
        graph.constants.retain(|name, _| !inputs.contains(name));
        graph.fields = fields_of_graph;
        Some(graph)
    }

    /// Returns the elements of a constant list of 64-bit integers.
    pub(crate) fn integers(&self, name: Option<&&[u8]>) -> Option<Vec<i64>> {
        self.constants.get(name?)?.integers()
    }
}

impl<'a> Node<'a> {
    /// Returns the name of each attribute.
    pub(crate) fn attribute_names(&self) -> Option<Vec<&'a [u8]>> {
        self.attributes.iter().map(|attribute| only(&fields(attribute)?, number::ATTRIBUTE_NAME)).collect()
    }

    /// Returns an integer attribute.
    pub(crate) fn integer(&self, name: &str) -> Option<i64> {
        let mut attributes = self.attributes.iter().filter_map(|attribute| fields(attribute));
        let attribute = attributes.find(|a| only(a, number::ATTRIBUTE_NAME) == Some(name.as_bytes()))?;
        match *numbers(&attribute, number::ATTRIBUTE_INTEGER)?.as_slice() {
            [] => Some(0),
            [integer] => Some(integer.cast_signed()),
            _ => None,
        }
    }

    /// Reads a node. Returns `None` if it has a subgraph.
    fn of(content: &'a [u8]) -> Option<Self> {
        let fields = fields(content)?;
        let all = |of: u32| fields.iter().filter(move |f| f.number == of).map(|f| f.content);
        let mut domains = all(number::DOMAIN);
        let domain = domains.next().unwrap_or_default();
        if domains.next().is_some() {
            return None;
        }
        // The operators of ai.onnx.ml have no subgraphs, and trees have attributes with millions of values.
        let has_subgraph = |attribute: &[u8]| {
            self::fields(attribute).is_none_or(|f| f.iter().any(|f| number::SUBGRAPHS.contains(&f.number)))
        };
        if domain != b"ai.onnx.ml" && all(number::ATTRIBUTE).any(has_subgraph) {
            return None;
        }
        Some(Self {
            domain: if domain == b"ai.onnx" { b"" } else { domain },
            operator: only(&fields, number::OPERATOR)?,
            inputs: all(number::NODE_INPUT).collect(),
            outputs: all(number::NODE_OUTPUT).collect(),
            attributes: all(number::ATTRIBUTE).collect(),
            content,
        })
    }
}

/// Returns the integers of a field that is there once for each, or once for all.
pub(crate) fn numbers(message: &[Field<'_>], number: u32) -> Option<Vec<u64>> {
    let mut numbers = Vec::new();
    for field in message.iter().filter(|f| f.number == number) {
        let mut rest = field.whole;
        if decode_key(&mut rest).ok()?.1 == WireType::Varint {
            numbers.push(decode_varint(&mut rest).ok()?);
            continue;
        }
        let mut packed = field.content;
        while !packed.is_empty() {
            numbers.push(decode_varint(&mut packed).ok()?);
        }
    }
    Some(numbers)
}
