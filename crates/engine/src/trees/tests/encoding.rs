//! Encodes models of one tree-ensemble operator.

use std::collections::BTreeMap;

use crate::onnx::wire::{put, put_number};

/// An attribute of an operator.
#[derive(Debug, Clone)]
pub(super) enum Attribute {
    Integer(i64),
    Float(f32),
    Text(String),
    Floats(Vec<f32>),
    Integers(Vec<i64>),
    Texts(Vec<String>),
    FloatTensor(Vec<f32>),
    DoubleTensor(Vec<f64>),
    ByteTensor(Vec<u8>),
}

/// The element type of the input, as `TensorProto.DataType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    Float32 = 1,
    Float64 = 11,
    Int64 = 7,
    Int32 = 6,
}

/// A model of one operator.
#[derive(Debug, Clone)]
pub(super) struct ModelOfTrees {
    pub(super) operator: &'static str,
    pub(super) opset: u64,
    pub(super) attributes: Vec<(String, Attribute)>,
    pub(super) input: Input,
    pub(super) width: usize,
}

impl ModelOfTrees {
    pub(super) fn set(&mut self, name: &str, attribute: Attribute) {
        self.attributes.retain(|(other, _)| other != name);
        self.attributes.push((name.to_owned(), attribute));
    }

    /// Describes the model for a failure.
    pub(super) fn summary(&self) -> String {
        let mut modes = BTreeMap::new();
        let mut told = vec![format!("{} {} {:?}", self.operator, self.opset, self.input)];
        for (name, attribute) in &self.attributes {
            match attribute {
                Attribute::Texts(texts) if name == "nodes_modes" => {
                    texts.iter().for_each(|text| *modes.entry(text.as_str()).or_insert(0) += 1);
                }
                Attribute::Texts(_) | Attribute::Text(_) | Attribute::Integer(_) => {
                    told.push(format!("{name} {attribute:?}"));
                }
                Attribute::Floats(v) if name == "base_values" => told.push(format!("{name} {v:?}")),
                Attribute::ByteTensor(v) => told.push(format!("{name} {v:.60?}")),
                Attribute::Integers(v) if name == "nodes_missing_value_tracks_true" => {
                    told.push(format!("missing {}", v.iter().sum::<i64>()));
                }
                _ => {}
            }
        }
        format!("{} {modes:?}", told.join(", "))
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let classifier = self.operator == "TreeEnsembleClassifier";
        let outputs: &[&str] = if classifier { &["label", "y"] } else { &["y"] };
        let mut graph = Vec::new();
        put(1, &node("ai.onnx.ml", self.operator, &["x"], outputs, &self.attributes), &mut graph);
        put(2, b"trees", &mut graph);
        put(11, &value("x", self.input as u64, &[None, Some(self.width)]), &mut graph);
        let texts = self.attributes.iter().any(|(name, _)| name == "classlabels_strings");
        for output in outputs {
            let element = match *output {
                "label" if texts => 8,
                "label" => 7,
                _ if self.operator == "TreeEnsemble" => self.input as u64,
                _ => 1,
            };
            put(12, &value(output, element, &[]), &mut graph);
        }
        model(&graph, self.opset)
    }
}

/// Encodes a model of this graph. `opset` is that of ai.onnx.ml.
pub(super) fn model(graph: &[u8], opset: u64) -> Vec<u8> {
    let mut model = Vec::new();
    put_number(1, 8, &mut model);
    put(7, graph, &mut model);
    for (domain, version) in [("", 17), ("ai.onnx.ml", opset)] {
        let mut opset = Vec::new();
        put(1, domain.as_bytes(), &mut opset);
        put_number(2, version, &mut opset);
        put(8, &opset, &mut model);
    }
    model
}

/// Encodes a node.
pub(super) fn node(
    domain: &str,
    operator: &str,
    inputs: &[&str],
    outputs: &[&str],
    attributes: &[(String, Attribute)],
) -> Vec<u8> {
    let mut node = Vec::new();
    inputs.iter().for_each(|input| put(1, input.as_bytes(), &mut node));
    outputs.iter().for_each(|output| put(2, output.as_bytes(), &mut node));
    put(4, operator.as_bytes(), &mut node);
    attributes.iter().for_each(|(name, attribute)| put(5, &encoded(name, attribute), &mut node));
    put(7, domain.as_bytes(), &mut node);
    node
}

/// Encodes a constant.
pub(super) fn constant(name: &str, element: u64, dims: &[usize], raw: &[u8]) -> Vec<u8> {
    let mut tensor = Vec::new();
    dims.iter().for_each(|n| put_number(1, *n as u64, &mut tensor));
    put_number(2, element, &mut tensor);
    put(8, name.as_bytes(), &mut tensor);
    put(9, raw, &mut tensor);
    tensor
}

/// Encodes the declaration of an input or output. No dimensions: it has no shape.
pub(super) fn value(name: &str, element: u64, dims: &[Option<usize>]) -> Vec<u8> {
    let mut tensor = Vec::new();
    put_number(1, element, &mut tensor);
    if !dims.is_empty() {
        let mut shape = Vec::new();
        for n in dims {
            let mut dim = Vec::new();
            match n {
                Some(n) => put_number(1, *n as u64, &mut dim),
                None => put(2, b"N", &mut dim),
            }
            put(1, &dim, &mut shape);
        }
        put(2, &shape, &mut tensor);
    }
    let (mut ty, mut value) = (Vec::new(), Vec::new());
    put(1, &tensor, &mut ty);
    put(1, name.as_bytes(), &mut value);
    put(2, &ty, &mut value);
    value
}

fn encoded(name: &str, attribute: &Attribute) -> Vec<u8> {
    let mut to = Vec::new();
    put(1, name.as_bytes(), &mut to);
    let tensor = |element: u64, len: usize, raw: Vec<u8>| {
        let mut tensor = Vec::new();
        put_number(1, len as u64, &mut tensor);
        put_number(2, element, &mut tensor);
        put(9, &raw, &mut tensor);
        tensor
    };
    let kind = match attribute {
        Attribute::Integer(v) => {
            put_number(3, v.cast_unsigned(), &mut to);
            2
        }
        Attribute::Float(v) => {
            to.push(0x15);
            to.extend(v.to_le_bytes());
            1
        }
        Attribute::Text(v) => {
            put(4, v.as_bytes(), &mut to);
            3
        }
        Attribute::Floats(v) => {
            put(7, &v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>(), &mut to);
            6
        }
        Attribute::Integers(v) => {
            v.iter().for_each(|x| put_number(8, x.cast_unsigned(), &mut to));
            7
        }
        Attribute::Texts(v) => {
            v.iter().for_each(|x| put(9, x.as_bytes(), &mut to));
            8
        }
        Attribute::FloatTensor(v) => {
            put(5, &tensor(1, v.len(), v.iter().flat_map(|x| x.to_le_bytes()).collect()), &mut to);
            4
        }
        Attribute::DoubleTensor(v) => {
            put(5, &tensor(11, v.len(), v.iter().flat_map(|x| x.to_le_bytes()).collect()), &mut to);
            4
        }
        Attribute::ByteTensor(v) => {
            put(5, &tensor(2, v.len(), v.clone()), &mut to);
            4
        }
    };
    put_number(20, kind, &mut to);
    to
}
