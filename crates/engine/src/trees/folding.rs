//! Makes one ensemble of trees that a graph sums, with the operators between a tree and the sum computed once for each
//! leaf.
//!
//! scikit-learn's exporter writes an isolation forest as an ensemble of one tree for each tree. Some 20 element-wise
//! operators turn the number of a leaf into the length of its path, and `Sum` adds the lengths. What such an operator
//! gives depends on the leaf alone. So ONNX Runtime computes it for all leaves when the model is loaded, and the results
//! become the weights of the leaves.
//!
//! ONNX Runtime computes four elements of a logarithm at a time, and the last one to three of a tensor with another
//! function, which differs in the last bit for some numbers. Here every leaf has the result that is the usual one: that
//! of four at a time. So the score of a row does not depend on its place in a batch.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::onnx::graph::{Constant, Graph, Node, number};
use crate::onnx::wire::{edited, put, put_number};
use crate::trees::ensemble::{Aggregate, Ensemble, Operator, Scored, Scoring, Transform, Weight};
use crate::trees::forest::{Forest, LAST_FEATURE, Split, Tree};
use crate::trees::rewriting::{DOMAIN, Rewritten, ensemble_node};

/// Element-wise operators of ONNX. Their results at an element depend on nothing but their inputs there.
const ELEMENT_WISE: [&[u8]; 35] = [
    b"Abs",
    b"Add",
    b"And",
    b"Ceil",
    b"Clip",
    b"Cos",
    b"Div",
    b"Equal",
    b"Erf",
    b"Exp",
    b"Floor",
    b"Greater",
    b"GreaterOrEqual",
    b"Identity",
    b"IsNaN",
    b"Less",
    b"LessOrEqual",
    b"Log",
    b"Max",
    b"Mean",
    b"Min",
    b"Mul",
    b"Neg",
    b"Not",
    b"Or",
    b"Pow",
    b"Reciprocal",
    b"Relu",
    b"Round",
    b"Sigmoid",
    b"Sign",
    b"Sqrt",
    b"Sub",
    b"Sum",
    b"Where",
];

/// The attributes of a `LabelEncoder` of numbers.
const ENCODER_OF_NUMBERS: [&[u8]; 6] =
    [b"keys_int64s", b"keys_floats", b"values_int64s", b"values_floats", b"default_int64", b"default_float"];

/// `TensorProto.DataType` of the types that `Cast` may give: numbers and truth values, which have a fixed size.
const FLOAT: i64 = 1;
const INT64: i64 = 7;
const SIZED: [i64; 6] = [FLOAT, 6, INT64, 9, 10, 11];

/// The most results of operators that are computed when a model is loaded. They take some tenths of a second, and 128 MB
/// if the graph keeps all of them.
const MOST_RESULTS: usize = 1 << 24;

/// The number of leaves is padded to a multiple of this, so that no leaf is among the last of a tensor.
const PADDING: usize = 64;

/// A tree, and the values that depend on nothing but its leaf.
struct Chain<'a> {
    tree: &'a Ensemble,
    /// The position of the tree among the nodes.
    node: usize,
    /// The element-wise operators, by their position among the nodes.
    operators: Vec<usize>,
    /// The values that other operators take, once for each use, and those that are outputs of the model.
    uses: Vec<&'a [u8]>,
}

/// A `Sum` of trees.
struct SumOfTrees<'a> {
    /// The position among the nodes.
    node: usize,
    /// The chains in the order in which they are added, and the value of each that is added.
    added: Vec<(usize, &'a [u8])>,
}

/// A model of operators that are computed for the leaves of trees.
pub(crate) struct LeafModel {
    pub(crate) model: Vec<u8>,
    /// The inputs: columns of floats, one for each tree.
    pub(crate) inputs: Vec<(String, Vec<f32>)>,
}

/// Replaces the sums of trees in a model whose ensembles are replaced already. Returns `None` if there is no such sum.
///
/// `compute` runs a model and returns its outputs, one for each input, or `None` if it cannot run.
pub(crate) fn folded(
    rewritten: &Rewritten,
    compute: impl FnOnce(&LeafModel) -> Option<Vec<Vec<f32>>>,
) -> Option<Rewritten> {
    let graph = Graph::of(&rewritten.model)?;
    let producers = producers(&graph)?;
    let chains = chains(&graph, &rewritten.ensembles)?;
    let sums = sums(&graph, &chains);
    let results = results(&graph, &chains, &sums, compute)?;
    let mut ensembles = rewritten.ensembles.clone();
    let mut gone: HashSet<usize> = HashSet::new();
    let mut changed: HashMap<usize, Vec<u8>> = HashMap::new();
    let mut taken: HashSet<&[u8]> = graph.outputs.clone();
    for sum in &sums {
        let Some((input, merged)) = merged(&graph, &producers, &chains, sum, &results) else { continue };
        let outputs = &graph.nodes.get(sum.node)?.outputs;
        let name = merged.scoring.operator.name(false);
        changed.insert(sum.node, ensemble_node(input, outputs, None, name, ensembles.len()));
        ensembles.push(Arc::new(merged));
        taken.insert(input);
        for chain in sum.added.iter().filter_map(|(chain, _)| chains.get(*chain)) {
            gone.insert(chain.node);
            gone.extend(&chain.operators);
        }
    }
    if changed.is_empty() {
        return None;
    }
    // What only gathered columns for these trees has no use any more.
    let stays = |at: &usize| !gone.contains(at) && !changed.contains_key(at);
    taken.extend(graph.nodes.iter().enumerate().filter(|(at, _)| stays(at)).flat_map(|(_, node)| &node.inputs));
    let is_idle = |node: &Node<'_>| columns(&graph, node).is_some() && !node.outputs.iter().any(|o| taken.contains(o));
    gone.extend(graph.nodes.iter().enumerate().filter(|(_, node)| is_idle(node)).map(|(at, _)| at));

    let (mut at, mut content) = (0, Vec::new());
    for field in &graph.fields {
        if field.number == number::NODE {
            match changed.get(&at) {
                Some(node) => put(number::NODE, node, &mut content),
                None if gone.contains(&at) => {}
                None => content.extend_from_slice(field.whole),
            }
            at += 1;
        } else {
            content.extend_from_slice(field.whole);
        }
    }
    let model = edited(&graph.outer, |field| (field.number == number::GRAPH).then(|| std::mem::take(&mut content)));
    Some(Rewritten { model, ensembles })
}

/// Returns the position of the node that each value comes from. Returns `None` if two values have one name, which ONNX
/// Runtime rejects.
fn producers<'a>(graph: &Graph<'a>) -> Option<HashMap<&'a [u8], usize>> {
    let mut producers = HashMap::new();
    for (at, node) in graph.nodes.iter().enumerate() {
        for output in node.outputs.iter().filter(|output| !output.is_empty()) {
            if graph.constants.contains_key(output) || producers.insert(*output, at).is_some() {
                return None;
            }
        }
    }
    Some(producers)
}

/// Finds the ensembles of one tree, and the operators whose results depend on nothing but its leaf.
fn chains<'a>(graph: &Graph<'a>, ensembles: &'a [Arc<Ensemble>]) -> Option<Vec<Chain<'a>>> {
    let mut chains: Vec<Chain<'a>> = Vec::new();
    // The chain of each value. A node comes after those whose outputs it takes.
    let mut owners: HashMap<&[u8], usize> = HashMap::new();
    let mut ensembles = ensembles.iter();
    for (at, node) in graph.nodes.iter().enumerate() {
        let output = *node.outputs.first()?;
        if let Some(owner) = owner_of(graph, node, &owners) {
            owners.insert(output, owner);
            chains.get_mut(owner)?.operators.push(at);
            continue;
        }
        for input in &node.inputs {
            if let Some(owner) = owners.get(input) {
                chains.get_mut(*owner)?.uses.push(input);
            }
        }
        if node.domain == DOMAIN.as_bytes() {
            let tree = ensembles.next()?;
            if is_lone_tree(tree) {
                owners.insert(output, chains.len());
                chains.push(Chain { tree, node: at, operators: Vec::new(), uses: Vec::new() });
            }
        }
    }
    for output in &graph.outputs {
        if let Some(owner) = owners.get(output) {
            chains.get_mut(*owner)?.uses.push(output);
        }
    }
    Some(chains)
}

/// Whether the output of this ensemble is the weight of one leaf.
fn is_lone_tree(ensemble: &Ensemble) -> bool {
    let Scoring { transform, targets, trees, base, labels, .. } = &ensemble.scoring;
    (*trees, *targets, *transform) == (1, 1, Transform::None)
        && base.is_empty()
        && labels.is_none()
        && ensemble.double != Some(true)
}

/// Returns the chain of an element-wise operator. All its inputs are values of the chain, or constants of one element.
fn owner_of(graph: &Graph<'_>, node: &Node<'_>, owners: &HashMap<&[u8], usize>) -> Option<usize> {
    if node.outputs.len() != 1 || !is_element_wise(graph, node) {
        return None;
    }
    let mut of_values = node.inputs.iter().filter_map(|input| owners.get(input));
    let owner = *of_values.next()?;
    let is_single = |name: &[u8]| name.is_empty() || graph.constants.get(name).is_some_and(Constant::is_single);
    let fits = |(i, input): (usize, &&[u8])| match owners.get(input) {
        Some(other) => *other == owner,
        None => is_single(input) || (i == 1 && node.operator == b"Reshape"),
    };
    node.inputs.iter().enumerate().all(fits).then_some(owner)
}

fn is_element_wise(graph: &Graph<'_>, node: &Node<'_>) -> bool {
    match (node.domain, node.operator) {
        (b"", b"Cast") => matches!(node.integer("to"), Some(to) if SIZED.contains(&to)),
        // Values are columns already, so that these operators change nothing.
        (b"", b"Flatten") => matches!(node.integer("axis"), None | Some(1)),
        (b"", b"Reshape") => graph.integers(node.inputs.get(1)).is_some_and(|shape| shape == [-1, 1]),
        (b"", operator) => ELEMENT_WISE.contains(&operator),
        (b"ai.onnx.ml", b"LabelEncoder") => {
            node.attribute_names().is_some_and(|names| names.iter().all(|name| ENCODER_OF_NUMBERS.contains(name)))
        }
        _ => false,
    }
}

/// Finds the sums whose inputs are values of trees that have no other use. So no tree is there twice, and the sum is no
/// larger than the model.
fn sums<'a>(graph: &Graph<'a>, chains: &[Chain<'a>]) -> Vec<SumOfTrees<'a>> {
    let mut ends: HashMap<&[u8], usize> = HashMap::new();
    for (i, chain) in chains.iter().enumerate() {
        if let [value] = chain.uses.as_slice() {
            ends.insert(value, i);
        }
    }
    let is_sum = |node: &Node<'_>| node.domain.is_empty() && node.operator == b"Sum" && node.outputs.len() == 1;
    let sum = |(node, of): (usize, &Node<'a>)| {
        let added = of.inputs.iter().map(|value| ends.get(value).map(|chain| (*chain, *value)));
        (is_sum(of) && of.inputs.len() > 1).then_some(())?;
        Some(SumOfTrees { node, added: added.collect::<Option<_>>()? })
    };
    graph.nodes.iter().enumerate().filter_map(sum).collect()
}

/// Returns what each leaf of these chains adds to a sum.
fn results(
    graph: &Graph<'_>,
    chains: &[Chain<'_>],
    sums: &[SumOfTrees<'_>],
    compute: impl FnOnce(&LeafModel) -> Option<Vec<Vec<f32>>>,
) -> Option<HashMap<usize, Vec<f32>>> {
    let mut results = HashMap::new();
    let (mut model, mut outputs, mut work) = (LeafModel { model: Vec::new(), inputs: Vec::new() }, Vec::new(), 0_usize);
    let mut operators = HashSet::new();
    for (at, value) in sums.iter().flat_map(|sum| &sum.added) {
        let chain = chains.get(*at)?;
        if results.contains_key(at) {
            continue;
        }
        let mut leaves = chain.tree.leaf_weights()?;
        let count = leaves.len();
        if !chain.operators.is_empty() {
            leaves.resize(count.next_multiple_of(PADDING), *leaves.last()?);
            work = work.saturating_add(leaves.len().saturating_mul(chain.operators.len()));
            let name = graph.nodes.get(chain.node)?.outputs.first()?;
            model.inputs.push((String::from_utf8(name.to_vec()).ok()?, leaves));
            outputs.push((*at, *value, count));
            operators.extend(&chain.operators);
            leaves = Vec::new();
        }
        results.insert(*at, leaves);
    }
    if outputs.is_empty() {
        return Some(results);
    }
    if work > MOST_RESULTS {
        return None;
    }
    let values: Vec<&[u8]> = outputs.iter().map(|(_, value, _)| *value).collect();
    model.model = leaf_model(graph, &operators, &model.inputs, &values);
    let computed = compute(&model).filter(|computed| computed.len() == outputs.len())?;
    for ((at, _, count), mut column) in outputs.into_iter().zip(computed) {
        if column.len() != count.next_multiple_of(PADDING) {
            return None;
        }
        column.truncate(count);
        results.insert(at, column);
    }
    Some(results)
}

/// Encodes a model of some operators, whose inputs and outputs are columns of floats.
fn leaf_model(
    graph: &Graph<'_>,
    operators: &HashSet<usize>,
    inputs: &[(String, Vec<f32>)],
    outputs: &[&[u8]],
) -> Vec<u8> {
    let nodes: Vec<&Node<'_>> =
        graph.nodes.iter().enumerate().filter(|(at, _)| operators.contains(at)).map(|(_, node)| node).collect();
    let mut content = Vec::new();
    nodes.iter().for_each(|node| put(number::NODE, node.content, &mut content));
    put(number::GRAPH_NAME, b"leaves", &mut content);
    let constants: HashSet<&[u8]> = nodes.iter().flat_map(|node| &node.inputs).copied().collect();
    for constant in constants.iter().filter_map(|name| graph.constants.get(name)) {
        put(number::INITIALIZER, constant.content, &mut content);
    }
    inputs.iter().for_each(|(name, _)| put(number::INPUT, &column_of_floats(name.as_bytes()), &mut content));
    outputs.iter().for_each(|name| put(number::OUTPUT, &column_of_floats(name), &mut content));
    let mut model = Vec::new();
    for field in &graph.outer {
        match field.number {
            number::IR_VERSION | number::OPSET => model.extend_from_slice(field.whole),
            number::GRAPH => put(number::GRAPH, &content, &mut model),
            _ => {}
        }
    }
    model
}

/// Encodes the declaration of a value of shape [any, 1].
fn column_of_floats(name: &[u8]) -> Vec<u8> {
    let (mut one, mut shape, mut tensor, mut ty, mut value) =
        <(Vec<u8>, Vec<u8>, Vec<u8>, Vec<u8>, Vec<u8>)>::default();
    put_number(1, 1, &mut one);
    put(1, &[], &mut shape);
    put(1, &one, &mut shape);
    put_number(1, FLOAT.unsigned_abs(), &mut tensor);
    put(2, &shape, &mut tensor);
    put(1, &tensor, &mut ty);
    put(number::VALUE_NAME, name, &mut value);
    put(2, &ty, &mut value);
    value
}

/// Returns the ensemble that a sum is, and the name of its input. Returns `None` if its trees have different inputs, or
/// a leaf a weight that another ensemble would treat differently.
fn merged<'a>(
    graph: &Graph<'a>,
    producers: &HashMap<&[u8], usize>,
    chains: &[Chain<'a>],
    sum: &SumOfTrees<'a>,
    results: &HashMap<usize, Vec<f32>>,
) -> Option<(&'a [u8], Ensemble)> {
    let (mut forest, mut weights, mut source) = (Forest::default(), Vec::new(), None);
    let mut of_table = false;
    for (at, _) in &sum.added {
        let Chain { tree: Ensemble { forest: of_tree, .. }, node, .. } = chains.get(*at)?;
        let input = *graph.nodes.get(*node)?.inputs.first()?;
        let gathered = producers.get(input).and_then(|at| columns(graph, graph.nodes.get(*at)?));
        let input = gathered.as_ref().map_or(input, |(source, _)| *source);
        if *source.get_or_insert(input) != input {
            return None;
        }
        // Columns cannot be gathered from a list, which is one row for a tree.
        of_table |= gathered.is_some();
        let (split_start, leaf_start) = (forest.splits.len(), forest.leaves.len());
        // The input has all columns that are gathered, and the tree finds all its features among them.
        let last = match &gathered {
            None => of_tree.last_feature,
            Some((_, columns)) => {
                columns.get(of_tree.last_feature)?;
                usize::try_from(*columns.iter().max()?).ok()?
            }
        };
        forest.last_feature = forest.last_feature.max(last);
        for split in &of_tree.splits {
            let feature = match &gathered {
                None => split.feature,
                Some((_, columns)) => *columns.get(usize::try_from(split.feature).ok()?)?,
            };
            forest.splits.push(Split { feature, ..*split });
        }
        for value in results.get(at)? {
            // A sum that begins with 0 is not -0.0.
            if value.is_nan() || (*value == 0.0 && value.is_sign_negative()) {
                return None;
            }
            forest.leaves.push(weights.len()..weights.len() + 1);
            weights.push(Weight { target: 0, value: f64::from(*value) });
        }
        forest.trees.push(Tree { splits: split_start..forest.splits.len(), leaves: leaf_start..forest.leaves.len() });
    }
    let scoring = Scoring {
        operator: Operator::Regressor,
        aggregate: Aggregate::Sum,
        transform: Transform::None,
        targets: 1,
        trees: forest.trees.len(),
        base: Vec::new(),
        labels: None,
        scored: vec![Scored::Always],
        one_class_weighted: false,
        no_negative_weight: false,
    };
    Some((source?, Ensemble { forest, weights, scoring, double: Some(false), of_table }))
}

/// Returns the input of a node that takes columns of a table by constant numbers, and the numbers.
fn columns<'a>(graph: &Graph<'a>, node: &Node<'a>) -> Option<(&'a [u8], Vec<u32>)> {
    let [source, numbers] = *node.inputs.as_slice() else { return None };
    if (node.domain, node.operator, node.integer("axis")) != (b"", b"Gather", Some(1)) {
        return None;
    }
    let column = |n: &i64| u32::try_from(*n).ok().filter(|n| *n <= LAST_FEATURE);
    Some((source, graph.integers(Some(&numbers))?.iter().map(column).collect::<Option<_>>()?))
}
