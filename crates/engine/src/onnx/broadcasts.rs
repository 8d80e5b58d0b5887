//! Gives one-element constants two dimensions, so that ONNX Runtime broadcasts them to a whole tensor at once.
//!
//! ONNX Runtime aligns shapes at their last dimension. It therefore combines a tensor of shape `[N, 1]` with a constant
//! of shape `[1]` or `[]` one element at a time, which takes about six times as long as with a constant of shape
//! `[1, 1]`. The results are the same. Exporters write such operators for isolation forests, hundreds for each model.

use std::collections::{HashMap, HashSet};

use prost::encoding::{WireType, decode_key, decode_varint};

use crate::onnx::wire::{self, edited, fields, only, put_number};

/// The field numbers of `GraphProto`, `NodeProto`, `AttributeProto` and `TensorProto`.
mod number {
    pub(super) const GRAPH: u32 = 7;
    pub(super) const NODE: u32 = 1;
    pub(super) const INITIALIZER: u32 = 5;
    pub(super) const INPUT: u32 = 11;
    pub(super) const OUTPUT: u32 = 12;
    pub(super) const NODE_INPUT: u32 = 1;
    pub(super) const NODE_OUTPUT: u32 = 2;
    pub(super) const OPERATOR: u32 = 4;
    pub(super) const ATTRIBUTE: u32 = 5;
    pub(super) const DOMAIN: u32 = 7;
    pub(super) const SUBGRAPHS: [u32; 2] = [6, 11];
    pub(super) const DIMS: u32 = 1;
    pub(super) const VALUE_NAME: u32 = 1;
    pub(super) const TENSOR_NAME: u32 = 8;
    pub(super) const LOCATION: u32 = 14;
}

/// The operators that broadcast their inputs.
const BROADCASTING: [&[u8]; 14] = [
    b"Add",
    b"Sub",
    b"Mul",
    b"Div",
    b"Pow",
    b"Max",
    b"Min",
    b"Sum",
    b"Mean",
    b"Equal",
    b"Less",
    b"Greater",
    b"LessOrEqual",
    b"GreaterOrEqual",
];

/// The operators whose output has the shape of their first input.
const SAME_SHAPE: [&[u8]; 9] =
    [b"Identity", b"Cast", b"Neg", b"Abs", b"Log", b"Exp", b"Sqrt", b"LabelEncoder", b"Sigmoid"];

/// The operators of tree ensembles with one output. It has two dimensions.
const TWO_DIMENSIONS: [&[u8]; 2] = [b"TreeEnsembleRegressor", b"TreeEnsemble"];

/// A node of the graph.
struct Node<'a> {
    operator: &'a [u8],
    inputs: Vec<&'a [u8]>,
    outputs: Vec<&'a [u8]>,
}

/// Returns the model with two dimensions for each one-element constant that is only combined with tensors of two
/// dimensions. Returns `None` if there is no such constant. `trees` is the domain of the compiled trees.
pub(crate) fn widened(model: &[u8], trees: &str) -> Option<Vec<u8>> {
    let outer = fields(model)?;
    let graph = fields(only(&outer, number::GRAPH)?)?;
    let mut constants: HashMap<&[u8], Vec<u64>> = HashMap::new();
    // Names that mean something outside the graph: inputs replace constants, and outputs keep their shape.
    let mut outside: HashSet<&[u8]> = HashSet::new();
    let mut nodes = Vec::new();
    for field in &graph {
        match field.number {
            number::INITIALIZER => {
                let tensor = fields(field.content)?;
                if tensor.iter().all(|f| f.number != number::LOCATION) {
                    constants.insert(only(&tensor, number::TENSOR_NAME)?, dims(&tensor)?);
                }
            }
            number::INPUT | number::OUTPUT => {
                outside.insert(only(&fields(field.content)?, number::VALUE_NAME)?);
            }
            number::NODE => nodes.push(node(field.content, trees)?),
            _ => {}
        }
    }
    let is_single = |name: &[u8]| constants.get(name).is_some_and(|dims| matches!(dims.as_slice(), [] | [1]));
    let mut two_dimensions: HashSet<&[u8]> = HashSet::new();
    let (mut combined, mut used_otherwise): (HashSet<&[u8]>, HashSet<&[u8]>) = Default::default();
    for node in &nodes {
        let has_two = |name: &&[u8]| two_dimensions.contains(name);
        let shape = node.inputs.get(1).and_then(|name| constants.get(name));
        let is_combination = BROADCASTING.contains(&node.operator)
            && node.inputs.iter().any(has_two)
            && node.inputs.iter().all(|name| has_two(name) || is_single(name));
        let result_has_two = is_combination
            || TWO_DIMENSIONS.contains(&node.operator)
            || (node.operator == b"Reshape" && shape.is_some_and(|dims| dims == &[2]))
            || (SAME_SHAPE.contains(&node.operator) && node.inputs.first().is_some_and(has_two));
        let uses = if is_combination { &mut combined } else { &mut used_otherwise };
        uses.extend(node.inputs.iter().copied().filter(|name| is_single(name)));
        if result_has_two {
            two_dimensions.extend(node.outputs.iter().copied());
        }
    }
    combined.retain(|name| !used_otherwise.contains(name) && !outside.contains(name));
    if combined.is_empty() {
        return None;
    }
    let mut changed = edited(&graph, |field| {
        let tensor = (field.number == number::INITIALIZER).then(|| fields(field.content)).flatten()?;
        let name = only(&tensor, number::TENSOR_NAME)?;
        combined.contains(name).then(|| {
            let mut to = field.content.to_vec();
            for _ in constants.get(name).map_or(2, Vec::len)..2 {
                put_number(number::DIMS, 1, &mut to);
            }
            to
        })
    });
    Some(edited(&outer, |field| (field.number == number::GRAPH).then(|| std::mem::take(&mut changed))))
}

/// Reads a node. Returns `None` if it has a subgraph, which may use constants of the graph.
fn node<'a>(bytes: &'a [u8], trees: &str) -> Option<Node<'a>> {
    let fields = fields(bytes)?;
    // The operators of ai.onnx.ml have no subgraphs, and trees have attributes with millions of values.
    let mut domains = fields.iter().filter(|f| f.number == number::DOMAIN).map(|f| f.content);
    let domain = domains.next().unwrap_or_default();
    if domains.next().is_some() {
        return None;
    }
    let may_have_subgraph = domain != b"ai.onnx.ml";
    let has_subgraph = |attribute: &wire::Field<'_>| {
        wire::fields(attribute.content).is_none_or(|f| f.iter().any(|f| number::SUBGRAPHS.contains(&f.number)))
    };
    if may_have_subgraph && fields.iter().filter(|f| f.number == number::ATTRIBUTE).any(has_subgraph) {
        return None;
    }
    let all = |of: u32| fields.iter().filter(|f| f.number == of).map(|f| f.content).collect();
    // An operator of another domain may have the name of one of ONNX, and mean something else.
    let is_known = [b"" as &[u8], b"ai.onnx", b"ai.onnx.ml", trees.as_bytes()].contains(&domain);
    Some(Node {
        operator: if is_known { only(&fields, number::OPERATOR)? } else { b"" },
        inputs: all(number::NODE_INPUT),
        outputs: all(number::NODE_OUTPUT),
    })
}

/// Returns the dimensions of a tensor.
fn dims(tensor: &[wire::Field<'_>]) -> Option<Vec<u64>> {
    let mut dims = Vec::new();
    for field in tensor.iter().filter(|f| f.number == number::DIMS) {
        let mut rest = field.whole;
        if decode_key(&mut rest).ok()?.1 == WireType::Varint {
            dims.push(decode_varint(&mut rest).ok()?);
            continue;
        }
        let mut packed = field.content;
        while !packed.is_empty() {
            dims.push(decode_varint(&mut packed).ok()?);
        }
    }
    Some(dims)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::wire::put;

    fn initializer(name: &str, dims: &[u64], to: &mut Vec<u8>) {
        let mut tensor = Vec::new();
        dims.iter().for_each(|n| put_number(number::DIMS, *n, &mut tensor));
        put_number(2, 1, &mut tensor);
        put(number::TENSOR_NAME, name.as_bytes(), &mut tensor);
        put(number::INITIALIZER, &tensor, to);
    }

    fn operator(name: &str, inputs: &[&str], output: &str, to: &mut Vec<u8>) {
        operator_of("", name, inputs, output, to);
    }

    fn operator_of(domain: &str, name: &str, inputs: &[&str], output: &str, to: &mut Vec<u8>) {
        let mut node = Vec::new();
        put(number::DOMAIN, domain.as_bytes(), &mut node);
        inputs.iter().for_each(|input| put(number::NODE_INPUT, input.as_bytes(), &mut node));
        put(number::NODE_OUTPUT, output.as_bytes(), &mut node);
        put(number::OPERATOR, name.as_bytes(), &mut node);
        put(number::NODE, &node, to);
    }

    /// Returns the dimensions of each constant after the rewrite.
    fn dims_after(graph: &[u8]) -> Option<HashMap<String, Vec<u64>>> {
        let mut model = Vec::new();
        put(number::GRAPH, graph, &mut model);
        let model = widened(&model, "trees")?;
        let outer = fields(&model).unwrap();
        let graph = fields(only(&outer, number::GRAPH).unwrap()).unwrap();
        let tensors = graph.iter().filter(|f| f.number == number::INITIALIZER).map(|f| fields(f.content).unwrap());
        let name = |t: &[wire::Field<'_>]| String::from_utf8(only(t, number::TENSOR_NAME).unwrap().to_vec()).unwrap();
        Some(tensors.map(|t| (name(&t), dims(&t).unwrap())).collect())
    }

    #[test]
    fn only_constants_that_meet_nothing_but_two_dimensions_are_widened() {
        let mut graph = Vec::new();
        for (name, dims) in [
            ("a", &[1][..]),
            ("b", &[]),
            ("shared", &[1]),
            ("row", &[3]),
            ("unknown", &[1]),
            ("out", &[1]),
            ("other", &[1]),
        ] {
            initializer(name, dims, &mut graph);
        }
        operator("TreeEnsembleRegressor", &["x"], "y", &mut graph);
        operator("Mul", &["y", "a"], "p", &mut graph);
        operator("Log", &["p"], "q", &mut graph);
        operator("Max", &["q", "b", "p"], "r", &mut graph);
        operator("Add", &["r", "shared"], "s", &mut graph);
        operator("Add", &["x", "shared"], "t", &mut graph);
        operator("Add", &["r", "row"], "u", &mut graph);
        operator("Add", &["x", "unknown"], "v", &mut graph);
        operator("Add", &["r", "out"], "w", &mut graph);
        operator_of("mine", "Add", &["r", "other"], "z", &mut graph);
        let mut output = Vec::new();
        put(number::VALUE_NAME, b"out", &mut output);
        put(number::OUTPUT, &output, &mut graph);
        let after = dims_after(&graph).unwrap();
        assert_eq!((&after["a"], &after["b"]), (&vec![1, 1], &vec![1, 1]));
        for (name, dims) in
            [("shared", vec![1]), ("row", vec![3]), ("unknown", vec![1]), ("out", vec![1]), ("other", vec![1])]
        {
            assert_eq!(after[name], dims, "{name}");
        }
    }

    #[test]
    fn a_graph_with_subgraphs_is_left_as_it_is() {
        let mut graph = Vec::new();
        initializer("a", &[1], &mut graph);
        operator("TreeEnsembleRegressor", &["x"], "y", &mut graph);
        operator("Mul", &["y", "a"], "p", &mut graph);
        assert!(dims_after(&graph).is_some());
        let (mut attribute, mut node) = (Vec::new(), Vec::new());
        put(number::SUBGRAPHS[0], b"", &mut attribute);
        put(number::OPERATOR, b"If", &mut node);
        put(number::ATTRIBUTE, &attribute, &mut node);
        put(number::NODE, &node, &mut graph);
        assert!(dims_after(&graph).is_none());
    }
}
