//! Finds operators that let a row of a batch influence another row.
//!
//! An operator such as `CumSum` or `Softmax` works along one axis. It mixes rows only if that axis is the batch axis of
//! its input. A model file does not contain the batch axes of intermediate values. So the model runs with two batch
//! sizes, and its outputs are replaced by the shapes of its intermediate values. A dimension that grows with the batch
//! is the batch axis. A value without a batch axis that was computed from a value with one was reduced over the batch.
//!
//! Operators in subgraphs and functions cannot be observed. They count as mixing if they can mix rows at all.

use std::collections::{HashMap, HashSet};

use prost::Message as _;

use crate::onnx::wire;

// The messages below contain only the fields that are read. The tags are those of onnx.proto (github.com/onnx/onnx).

#[derive(Clone, PartialEq, prost::Message)]
struct Model {
    #[prost(message, optional, tag = "7")]
    graph: Option<Graph>,
    #[prost(message, repeated, tag = "8")]
    opsets: Vec<Opset>,
    #[prost(message, repeated, tag = "25")]
    functions: Vec<Function>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Opset {
    #[prost(string, optional, tag = "1")]
    domain: Option<String>,
    #[prost(int64, optional, tag = "2")]
    version: Option<i64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Function {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(message, repeated, tag = "7")]
    nodes: Vec<GraphNode>,
    #[prost(string, optional, tag = "10")]
    domain: Option<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Graph {
    #[prost(message, repeated, tag = "1")]
    nodes: Vec<GraphNode>,
    #[prost(message, repeated, tag = "5")]
    initializers: Vec<Tensor>,
    #[prost(message, repeated, tag = "11")]
    inputs: Vec<Named>,
    #[prost(message, repeated, tag = "12")]
    outputs: Vec<Named>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Tensor {
    #[prost(string, optional, tag = "8")]
    name: Option<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Named {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct GraphNode {
    #[prost(string, repeated, tag = "1")]
    inputs: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    outputs: Vec<String>,
    #[prost(string, optional, tag = "3")]
    name: Option<String>,
    #[prost(string, optional, tag = "4")]
    operator: Option<String>,
    #[prost(message, repeated, tag = "5")]
    attributes: Vec<Attribute>,
    #[prost(string, optional, tag = "7")]
    domain: Option<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Attribute {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(int64, optional, tag = "3")]
    integer: Option<i64>,
    #[prost(message, optional, tag = "6")]
    graph: Option<Graph>,
    #[prost(int64, repeated, packed = "false", tag = "8")]
    integers: Vec<i64>,
    #[prost(bytes = "vec", repeated, tag = "9")]
    texts: Vec<Vec<u8>>,
}

/// Operators that compute each element, or each row of a table, from the same position in their inputs. A model that
/// contains only these operators does not mix rows.
const ROW_WISE: [&str; 61] = [
    "Abs",
    "Add",
    "And",
    "Binarizer",
    "Cast",
    "Ceil",
    "Clip",
    "Constant",
    "Cos",
    "DequantizeLinear",
    "Div",
    "Elu",
    "Equal",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "Gemm",
    "Greater",
    "GreaterOrEqual",
    "HardSigmoid",
    "Identity",
    "Imputer",
    "IsInf",
    "IsNaN",
    "LabelEncoder",
    "LeakyRelu",
    "Less",
    "LessOrEqual",
    "LinearClassifier",
    "LinearRegressor",
    "Log",
    "MatMul",
    "Max",
    "Min",
    "Mod",
    "Mul",
    "Neg",
    "Not",
    "Or",
    "PRelu",
    "Pow",
    "QuantizeLinear",
    "Reciprocal",
    "Relu",
    "Round",
    "SVMClassifier",
    "SVMRegressor",
    "Scaler",
    "Selu",
    "Sigmoid",
    "Sign",
    "Softplus",
    "Sqrt",
    "Sub",
    "Sum",
    "Tanh",
    "TreeEnsemble",
    "TreeEnsembleClassifier",
    "TreeEnsembleRegressor",
    "ZipMap",
];
/// Operators that mix rows whenever their input has a batch axis, because they sort or select by all elements.
const ALWAYS: [&str; 4] = ["Compress", "NonMaxSuppression", "NonZero", "Unique"];
/// Operators whose outputs are sequences, maps or optional values, which have no shape.
const WITHOUT_SHAPE: [&str; 11] = [
    "CastMap",
    "DictVectorizer",
    "Optional",
    "OptionalGetElement",
    "SequenceConstruct",
    "SequenceEmpty",
    "SequenceErase",
    "SequenceInsert",
    "SequenceMap",
    "SplitToSequence",
    "ZipMap",
];
/// Operators that read only the shape of their input.
const ONLY_SHAPE: [&str; 2] = ["Shape", "Size"];

/// The nesting depth to which subgraphs and functions are searched. Deeper operators count as mixing.
const DEEPEST: usize = 32;

impl GraphNode {
    /// Names the node in messages.
    fn describe(&self) -> String {
        let name = self.name.as_deref().filter(|n| !n.is_empty()).or(self.outputs.first().map(String::as_str));
        format!("operator {} (node \"{}\")", self.operator(), name.unwrap_or_default())
    }

    fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes.iter().find(|a| a.name.as_deref() == Some(name))
    }

    fn integer(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).and_then(|a| a.integer).unwrap_or(default)
    }

    fn graphs(&self) -> impl Iterator<Item = &Graph> {
        self.attributes.iter().filter_map(|a| a.graph.as_ref())
    }

    /// Whether the operator quantises by the range of all elements of its input.
    fn quantises_dynamically(&self) -> bool {
        self.operator().starts_with("DynamicQuantize")
    }

    fn mixes_always(&self) -> bool {
        let drops_words =
            self.operator() == "StringNormalizer" && self.attribute("stopwords").is_some_and(|a| !a.texts.is_empty());
        let trains = self.operator() == "BatchNormalization" && self.integer("training_mode", 0) != 0;
        ALWAYS.contains(&self.operator()) || self.quantises_dynamically() || drops_words || trains
    }

    /// Returns the axes of the first input that the operator works along: each output element depends on all elements
    /// along these axes. `given`: the axis that another input contains.
    fn axes(&self, rank: usize, opset: i64, given: Option<i64>) -> Vec<usize> {
        let at = |axis: i64| {
            let positive = if axis < 0 { axis.saturating_add_unsigned(rank as u64) } else { axis };
            usize::try_from(positive).ok().filter(|a| *a < rank)
        };
        let one = |axis: i64| at(axis).into_iter().collect::<Vec<_>>();
        let from = |axis: i64| at(axis).map(|a| (a..rank).collect()).unwrap_or_default();
        match self.operator() {
            // Before opset 13, these operators flatten their input to a matrix at `axis`.
            "Softmax" | "LogSoftmax" | "Hardmax" if opset < 13 => from(self.integer("axis", 1)),
            "Softmax" | "LogSoftmax" | "Hardmax" | "TopK" | "LpNormalization" => one(self.integer("axis", -1)),
            "LayerNormalization" | "RMSNormalization" | "SimplifiedLayerNormalization" => {
                from(self.integer("axis", -1))
            }
            "CumSum" | "CumProd" => given.map_or_else(|| (0..rank).collect(), one),
            "MeanVarianceNormalization" => match self.attribute("axes") {
                Some(axes) => axes.integers.iter().filter_map(|a| at(*a)).collect(),
                None => [0, 2, 3].into_iter().filter_map(at).collect(),
            },
            "InstanceNormalization" | "GroupNormalization" | "LRN" => (1..rank).collect(),
            "GRU" | "LSTM" | "RNN" => one(i64::from(self.integer("layout", 0) != 0)),
            "ReverseSequence" => one(self.integer("time_axis", 0)),
            _ => Vec::new(),
        }
    }

    /// Whether the operator can mix rows if nothing is known about its inputs.
    fn may_mix(&self, functions: &HashMap<(String, String), &Function>, depth: usize) -> bool {
        if depth == 0 {
            return true;
        }
        let inner = |n: &GraphNode| n.may_mix(functions, depth - 1);
        let operator = self.operator();
        let last =
            |a: &Attribute| a.integer == Some(-1) || (!a.integers.is_empty() && a.integers.iter().all(|x| *x == -1));
        let along_last = self.attribute("axis").or(self.attribute("axes")).is_some_and(last);
        if self.mixes_always() || self.graphs().any(|g| g.nodes.iter().any(inner)) {
            return true;
        }
        if let Some(function) = functions.get(&self.key()) {
            return function.nodes.iter().any(inner);
        }
        match operator {
            "ArgMax" | "ArgMin" | "CumProd" | "CumSum" | "GRU" | "LSTM" | "RNN" | "MeanVarianceNormalization" => {
                !along_last
            }
            // Their default is the last axis.
            "Hardmax" | "LogSoftmax" | "Softmax" | "TopK" | "LpNormalization" => {
                self.attribute("axis").is_some_and(|a| !last(a))
            }
            operator => operator.starts_with("Reduce") && !along_last,
        }
    }

    fn key(&self) -> (String, String) {
        (self.domain.clone().unwrap_or_default(), self.operator().to_owned())
    }

    /// Returns the names of the enclosing graph that its subgraphs use.
    fn captured(&self) -> Vec<&str> {
        self.graphs().flat_map(Graph::free).collect()
    }

    /// Returns the number of inputs that a `Scan` carries from step to step.
    fn states(&self) -> usize {
        let scanned = usize::try_from(self.integer("num_scan_inputs", 0)).unwrap_or(0);
        self.inputs.len().saturating_sub(scanned)
    }

    /// Whether a `Scan` carries no result of one step to the next, only unchanged values.
    fn is_map(&self) -> bool {
        let Some(body) = self.attribute("body").and_then(|a| a.graph.as_ref()) else { return false };
        (0..self.states()).all(|i| {
            body.inputs
                .get(i)
                .zip(body.outputs.get(i))
                .is_some_and(|(before, after)| body.passes(before.name(), after.name()))
        })
    }

    /// Whether a `Loop` runs as many times as its first input states, regardless of the values that it computes.
    fn counts_only(&self) -> bool {
        self.attribute("body").and_then(|a| a.graph.as_ref()).is_some_and(|body| {
            let (before, after) = (body.inputs.get(1), body.outputs.first());
            let constant = |name: &str| {
                body.initializers.iter().any(|t| t.name.as_deref() == Some(name))
                    || body.nodes.iter().any(|n| n.operator() == "Constant" && n.outputs.iter().any(|o| o == name))
            };
            before.zip(after).is_some_and(|(b, a)| body.passes(b.name(), a.name()) || constant(a.name()))
        })
    }
}

impl Graph {
    /// Returns the names that the graph uses but does not define.
    fn free(&self) -> Vec<&str> {
        let mut defined: HashSet<&str> = self.inputs.iter().map(Named::name).collect();
        defined.extend(self.initializers.iter().filter_map(|t| t.name.as_deref()));
        defined.extend(self.nodes.iter().flat_map(|n| &n.outputs).map(String::as_str));
        let used = self.nodes.iter().flat_map(|n| n.inputs.iter().map(String::as_str).chain(n.captured()));
        used.chain(self.outputs.iter().map(Named::name)).filter(|name| !defined.contains(name)).collect()
    }

    /// Whether the graph returns the value `before` unchanged as `after`.
    fn passes(&self, before: &str, after: &str) -> bool {
        before == after
            || self.nodes.iter().any(|n| {
                n.operator() == "Identity"
                    && n.outputs.iter().any(|o| o == after)
                    && n.inputs.first().is_some_and(|i| i == before)
            })
    }
}

/// The result of one observed run: the dimensions of values, and the axes that inputs of operators contain, by name.
#[derive(Debug, Default)]
pub(crate) struct ObservedShapes {
    pub(crate) rows: usize,
    pub(crate) shapes: HashMap<String, Vec<i64>>,
    pub(crate) axes: HashMap<String, i64>,
}

/// The operators of a model.
pub(crate) struct Operators {
    model: Model,
    opset: i64,
}

/// What an output of the observed model holds.
pub(crate) enum Observed {
    /// The shape of the value of this name.
    Shape(String),
    /// The axis that the value of this name contains.
    Axis(String),
}

impl Operators {
    /// Reads a model. Returns `None` if the bytes are not a model.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let model = Model::decode(bytes).ok()?;
        let own = |o: &&Opset| matches!(o.domain.as_deref(), None | Some("" | "ai.onnx"));
        let opset = model.opsets.iter().find(own).and_then(|o| o.version).unwrap_or(0);
        model.graph.is_some().then_some(Self { model, opset })
    }

    fn nodes(&self) -> &[GraphNode] {
        self.model.graph.as_ref().map(|g| g.nodes.as_slice()).unwrap_or_default()
    }

    fn functions(&self) -> HashMap<(String, String), &Function> {
        let key = |f: &Function| (f.domain.clone().unwrap_or_default(), f.name.clone().unwrap_or_default());
        self.model.functions.iter().map(|f| (key(f), f)).collect()
    }

    /// Whether every operator computes a row from that row alone, so that no run has to be observed.
    pub(crate) fn are_row_wise(&self) -> bool {
        self.model.functions.is_empty() && self.nodes().iter().all(|n| ROW_WISE.contains(&n.operator()))
    }

    /// Returns the reason why rows are mixed regardless of the batch axis, or `None` if there is none.
    pub(crate) fn certain(&self) -> Option<String> {
        let node = self.nodes().iter().find(|n| n.mixes_always())?;
        Some(format!("{} computes with all rows of the batch", node.describe()))
    }

    /// Returns the reason why rows may be mixed if no run could be observed, or `None` if no operator can mix rows.
    pub(crate) fn unobserved(&self) -> Option<String> {
        let functions = self.functions();
        let suspect = self.nodes().iter().find(|n| n.may_mix(&functions, DEEPEST))?;
        Some(format!("{} can mix the rows of a batch, and its inputs could not be observed", suspect.describe()))
    }

    /// Returns the model with the shapes of its values, and the axes in its inputs, as its only outputs. Also returns
    /// what each output contains.
    pub(crate) fn observed(&self, bytes: &[u8]) -> Option<(Vec<u8>, Vec<Observed>)> {
        let mut model = Vec::with_capacity(bytes.len() + (64 << 10));
        let mut seen = Vec::new();
        for field in wire::fields(bytes)? {
            if field.number != 7 {
                model.extend_from_slice(field.whole);
                continue;
            }
            let mut graph = Vec::with_capacity(field.content.len() + (64 << 10));
            for inner in wire::fields(field.content)?.iter().filter(|f| f.number != 12) {
                graph.extend_from_slice(inner.whole);
            }
            let mut add = |operator: &str, of: &str, observed: Observed| {
                let name = format!("pg_predict observed {}", seen.len());
                let text = Some(operator.to_owned());
                let node = GraphNode {
                    inputs: vec![of.to_owned()],
                    outputs: vec![name.clone()],
                    operator: text,
                    ..GraphNode::default()
                };
                wire::put(1, &node.encode_to_vec(), &mut graph);
                wire::put(12, &Named { name: Some(name) }.encode_to_vec(), &mut graph);
                seen.push(observed);
            };
            let inputs = self.model.graph.iter().flat_map(|g| &g.inputs).map(Named::name);
            let computed = self.nodes().iter().filter(|n| !WITHOUT_SHAPE.contains(&n.operator()));
            let computed = computed.flat_map(|n| &n.outputs).map(String::as_str).filter(|name| !name.is_empty());
            for name in inputs.chain(computed) {
                add("Shape", name, Observed::Shape(name.to_owned()));
            }
            for node in self.nodes().iter().filter(|n| matches!(n.operator(), "CumSum" | "CumProd")) {
                if let Some(axis) = node.inputs.get(1) {
                    add("Identity", axis, Observed::Axis(axis.clone()));
                }
            }
            wire::put(7, &graph, &mut model);
        }
        if self.opset == 0 {
            let opset = Opset { domain: Some(String::new()), version: Some(13) };
            wire::put(8, &opset.encode_to_vec(), &mut model);
        }
        Some((model, seen))
    }

    /// Compares two runs with different numbers of rows. Returns the reason why a row may depend on the others of its
    /// batch, or `None` if no operator mixes rows. `inputs`: the inputs that have a batch axis.
    pub(crate) fn mixing(&self, inputs: &[&str], a: &ObservedShapes, b: &ObservedShapes) -> Option<String> {
        // The dimensions of a value that grow with the batch.
        let growing = |name: &str| -> Option<Vec<usize>> {
            let (x, y) = (a.shapes.get(name)?, b.shapes.get(name)?);
            if x.len() != y.len() {
                return None;
            }
            let grows =
                |(x, y): (&i64, &i64)| x != y && i128::from(*x) * b.rows as i128 == i128::from(*y) * a.rows as i128;
            Some((0..x.len()).filter(|d| grows((&x[*d], &y[*d]))).collect())
        };
        let functions = self.functions();
        // The values that are computed from the rows.
        let mut of_rows: HashSet<&str> = inputs.iter().copied().collect();
        for node in self.nodes() {
            let captured = node.captured();
            // `CastLike` reads only the type of its second input.
            let read = if node.operator() == "CastLike" { 1 } else { node.inputs.len() };
            let uses: Vec<&str> =
                node.inputs.iter().take(read).map(String::as_str).chain(captured.iter().copied()).collect();
            if ONLY_SHAPE.contains(&node.operator()) || !uses.iter().any(|name| of_rows.contains(name)) {
                continue;
            }
            of_rows.extend(node.outputs.iter().map(String::as_str).filter(|name| !name.is_empty()));
            // A value without a shape, such as a sequence, may contain the rows of a batch.
            let has_batch = |name: &&str| of_rows.contains(name) && growing(name).is_none_or(|axes| !axes.is_empty());
            if !uses.iter().any(&has_batch) {
                continue;
            }
            let first = node.inputs.first().map(String::as_str).unwrap_or_default();
            if node.mixes_always() {
                let why = if node.quantises_dynamically() {
                    "quantises by the range of the whole batch"
                } else {
                    "selects by the values of the whole batch"
                };
                return Some(format!("{} {why}", node.describe()));
            }
            if let Some(reason) = self.mixing_inside(node, &functions, &captured, &growing, &has_batch) {
                return Some(reason);
            }
            if let Some(shape) = a.shapes.get(first).filter(|_| of_rows.contains(first)) {
                let given = node.inputs.get(1).and_then(|name| a.axes.get(name)).copied();
                let along = node.axes(shape.len(), self.opset, given);
                if growing(first).unwrap_or_default().iter().any(|axis| along.contains(axis)) {
                    return Some(format!("{} works along the batch axis", node.describe()));
                }
            }
            // A `Scan` that maps over rows returns its carried values unchanged, so they are not checked.
            let carried = if node.operator() == "Scan" && node.is_map() { node.states() } else { 0 };
            for output in node.outputs.iter().skip(carried).filter(|name| !name.is_empty()) {
                match growing(output) {
                    Some(axes) if axes.is_empty() => {
                        let shape = a.shapes.get(output.as_str()).cloned().unwrap_or_default();
                        return Some(format!("{} makes one value of all rows, of shape {shape:?}", node.describe()));
                    }
                    Some(axes)
                        if axes.len() > 1
                            && !uses.iter().any(|name| growing(name).is_some_and(|own| own.len() >= axes.len())) =>
                    {
                        return Some(format!("{} combines each row with every other", node.describe()));
                    }
                    _ => {}
                }
            }
        }
        None
    }

    /// Returns the reason why the subgraphs or the function of an operator may mix rows, or `None` if they cannot.
    fn mixing_inside(
        &self,
        node: &GraphNode,
        functions: &HashMap<(String, String), &Function>,
        captured: &[&str],
        growing: &impl Fn(&str) -> Option<Vec<usize>>,
        has_batch: &impl Fn(&&str) -> bool,
    ) -> Option<String> {
        let inside =
            node.may_mix(functions, DEEPEST) && (node.graphs().next().is_some() || functions.contains_key(&node.key()));
        let unseen = || Some(format!("{} contains operators that can mix the rows of a batch", node.describe()));
        match node.operator() {
            "Scan" => {
                let first = node.states();
                let axes = node.attribute("scan_input_axes").map(|a| a.integers.as_slice()).unwrap_or_default();
                let along_batch = node.inputs.iter().skip(first).enumerate().any(|(i, name)| {
                    let Some(own) = growing(name) else { return true };
                    let axis = axes.get(i).copied().unwrap_or(0);
                    own.iter().any(|batch| usize::try_from(axis).map_or(true, |axis| axis == *batch))
                });
                if along_batch && !node.is_map() {
                    return Some(format!("{} goes from row to row of the batch", node.describe()));
                }
                let others = node.inputs.iter().take(first).map(String::as_str).chain(captured.iter().copied());
                let sees_batch = !along_batch || others.into_iter().any(|name| has_batch(&name));
                if inside && sees_batch { unseen() } else { None }
            }
            "Loop" if !node.counts_only() => Some(format!("{} ends by the values of the whole batch", node.describe())),
            _ if inside => unseen(),
            _ => None,
        }
    }
}
