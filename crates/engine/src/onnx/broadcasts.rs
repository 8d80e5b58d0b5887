//! Gives one-element constants two dimensions, so that ONNX Runtime broadcasts them to a whole tensor at once.
//!
//! ONNX Runtime aligns shapes at their last dimension. It therefore combines a tensor of shape `[N, 1]` with a constant
//! of shape `[1]` or `[]` one element at a time, which takes about six times as long as with a constant of shape
//! `[1, 1]`. The results are the same. Exporters write such operators for isolation forests, hundreds for each model.

use std::collections::HashSet;

use crate::onnx::graph::{Graph, number};
use crate::onnx::wire::{edited, fields, only, put_number};

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

/// Returns the model with two dimensions for each one-element constant that is only combined with tensors of two
/// dimensions. Returns `None` if there is no such constant. `trees` is the domain of the compiled trees.
pub(crate) fn widened(model: &[u8], trees: &str) -> Option<Vec<u8>> {
    let Graph { outer, fields: graph, nodes, constants, outputs } = Graph::of(model)?;
    let is_single = |name: &[u8]| constants.get(name).is_some_and(|c| matches!(c.dims.as_slice(), [] | [1]));
    // An operator of another domain may have the name of one of ONNX, and mean something else.
    let known = [b"" as &[u8], b"ai.onnx.ml", trees.as_bytes()];
    let mut two_dimensions: HashSet<&[u8]> = HashSet::new();
    let (mut combined, mut used_otherwise): (HashSet<&[u8]>, HashSet<&[u8]>) = Default::default();
    for node in &nodes {
        let has_two = |name: &&[u8]| two_dimensions.contains(name);
        let is_one_of = |operators: &[&[u8]]| operators.contains(&node.operator) && known.contains(&node.domain);
        let shape = node.inputs.get(1).and_then(|name| constants.get(name));
        let is_combination = is_one_of(&BROADCASTING)
            && node.inputs.iter().any(has_two)
            && node.inputs.iter().all(|name| has_two(name) || is_single(name));
        let result_has_two = is_combination
            || is_one_of(&TWO_DIMENSIONS)
            || (is_one_of(&[b"Reshape"]) && shape.is_some_and(|shape| shape.dims == [2]))
            || (is_one_of(&SAME_SHAPE) && node.inputs.first().is_some_and(has_two));
        let uses = if is_combination { &mut combined } else { &mut used_otherwise };
        uses.extend(node.inputs.iter().copied().filter(|name| is_single(name)));
        if result_has_two {
            two_dimensions.extend(node.outputs.iter().copied());
        }
    }
    combined.retain(|name| !used_otherwise.contains(name) && !outputs.contains(name));
    if combined.is_empty() {
        return None;
    }
    let mut changed = edited(&graph, |field| {
        let tensor = (field.number == number::INITIALIZER).then(|| fields(field.content)).flatten()?;
        let name = only(&tensor, number::TENSOR_NAME)?;
        combined.contains(name).then(|| {
            let mut to = field.content.to_vec();
            for _ in constants.get(name).map_or(2, |c| c.dims.len())..2 {
                put_number(number::DIMS, 1, &mut to);
            }
            to
        })
    });
    Some(edited(&outer, |field| (field.number == number::GRAPH).then(|| std::mem::take(&mut changed))))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::onnx::graph::numbers;
    use crate::onnx::wire::{Field, put};

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
        let name = |t: &[Field<'_>]| String::from_utf8(only(t, number::TENSOR_NAME).unwrap().to_vec()).unwrap();
        Some(tensors.map(|t| (name(&t), numbers(&t, number::DIMS).unwrap())).collect())
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
