//! Replaces the tree-ensemble operators of a model file by the operator that runs compiled ensembles.
//!
//! Only operators of the main graph are replaced. The replacement has the same inputs and outputs, and one attribute:
//! the position of its ensemble. The trees themselves are not in the rewritten file, so ONNX Runtime does not read them
//! a second time.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::onnx::wire::{self, Field};
use crate::trees::Unfit;
use crate::trees::attributes::attribute;
use crate::trees::ensemble::{Attributes, Ensemble, Labels, Operator};

/// The domain of the operators that run compiled ensembles.
pub(crate) const DOMAIN: &str = "pg_predict.trees";

/// The attribute with the position of the ensemble.
pub(crate) const POSITION: &str = "ensemble";

/// The name of the classifier whose labels are texts. The other operators keep their names.
pub(crate) const TEXT_CLASSIFIER: &str = "TreeEnsembleTextClassifier";

/// The most memory that reading, compiling and running an ensemble takes, as a multiple of the size of its node.
const MEMORY: usize = 16;

/// A model whose tree ensembles are replaced.
pub(crate) struct Rewritten {
    pub(crate) model: Vec<u8>,
    /// By their numbers in the model.
    pub(crate) ensembles: Vec<Arc<Ensemble>>,
}

/// The field numbers of `ModelProto`, `GraphProto`, `TensorProto` and `NodeProto`.
mod number {
    pub(super) const INITIALIZER: u32 = 5;
    pub(super) const EXTERNAL: u32 = 13;
    pub(super) const LOCATION: u32 = 14;
    pub(super) const GRAPH: u32 = 7;
    pub(super) const OPSET: u32 = 8;
    pub(super) const FUNCTION: u32 = 25;
    pub(super) const NODE: u32 = 1;
    pub(super) const INPUT: u32 = 1;
    pub(super) const OUTPUT: u32 = 2;
    pub(super) const NAME: u32 = 3;
    pub(super) const OPERATOR: u32 = 4;
    pub(super) const ATTRIBUTE: u32 = 5;
    pub(super) const DOCUMENTATION: u32 = 6;
    pub(super) const DOMAIN: u32 = 7;
    pub(super) const METADATA: u32 = 9;
}

impl Operator {
    fn of(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"TreeEnsembleRegressor" => Self::Regressor,
            b"TreeEnsembleClassifier" => Self::Classifier,
            b"TreeEnsemble" => Self::Ensemble,
            _ => return None,
        })
    }

    /// Returns the name of the operator that runs the compiled ensemble.
    pub(crate) fn name(self, texts: bool) -> &'static str {
        match self {
            Self::Regressor => "TreeEnsembleRegressor",
            Self::Classifier if texts => TEXT_CLASSIFIER,
            Self::Classifier => "TreeEnsembleClassifier",
            Self::Ensemble => "TreeEnsemble",
        }
    }
}

/// Replaces the tree ensembles of a model. Returns `None` if there is none that can be compiled. A model with a cycle in
/// a tree is an error.
pub(crate) fn rewritten(model: &[u8]) -> Result<Option<Rewritten>> {
    let Some(outer) = wire::fields(model) else { return Ok(None) };
    // A function may give the operators another meaning.
    if outer.iter().any(|f| f.number == number::FUNCTION) || mentions(&outer, DOMAIN) {
        return Ok(None);
    }
    let Some(graph) = wire::only(&outer, number::GRAPH).and_then(wire::fields) else { return Ok(None) };
    let mut ensembles = Vec::new();
    let mut nodes: HashMap<*const u8, Vec<u8>> = HashMap::new();
    for field in graph.iter().filter(|f| f.number == number::NODE) {
        match replaced(field.content, ensembles.len()) {
            Ok((ensemble, node)) => {
                ensembles.push(Arc::new(ensemble));
                nodes.insert(field.content.as_ptr(), node);
            }
            Err(Unfit::Left(_)) => {}
            Err(Unfit::Refused(reason)) => return Err(Error::InvalidModel { reason: reason.to_owned() }),
        }
    }
    if ensembles.is_empty() {
        return Ok(None);
    }
    let mut graph = copied(&graph, |f| if f.number == number::NODE { nodes.remove(&f.content.as_ptr()) } else { None });
    let mut model = copied(&outer, |f| (f.number == number::GRAPH).then(|| std::mem::take(&mut graph)));
    let mut opset = Vec::new();
    wire::put(1, DOMAIN.as_bytes(), &mut opset);
    wire::put_number(2, 1, &mut opset);
    wire::put(number::OPSET, &opset, &mut model);
    Ok(Some(Rewritten { model, ensembles }))
}

/// Whether an initializer of the main graph is in another file. ONNX Runtime looks for that file relative to the model
/// file, and relative to the working directory if the model has no file.
pub(crate) fn names_files(model: &[u8]) -> bool {
    let graph = |f: &Field<'_>| f.number == number::GRAPH;
    let is_outside = |f: &Field<'_>| {
        let outside = |f: &Field<'_>| matches!(f.number, number::EXTERNAL | number::LOCATION);
        f.number == number::INITIALIZER && wire::fields(f.content).is_none_or(|tensor| tensor.iter().any(outside))
    };
    let in_graph = |f: &Field<'_>| wire::fields(f.content).is_none_or(|graph| graph.iter().any(is_outside));
    wire::fields(model).is_none_or(|model| model.iter().filter(|f| graph(f)).any(in_graph))
}

/// Whether the model imports operators of this domain.
fn mentions(model: &[Field<'_>], domain: &str) -> bool {
    model
        .iter()
        .filter(|f| f.number == number::OPSET)
        .any(|f| wire::fields(f.content).is_none_or(|opset| opset.iter().any(|f| f.content == domain.as_bytes())))
}

/// Copies a message with some fields changed, without room for the fields that become smaller.
fn copied<'a>(fields: &[Field<'a>], mut change: impl FnMut(&Field<'a>) -> Option<Vec<u8>>) -> Vec<u8> {
    let mut to = Vec::new();
    for field in fields {
        match change(field) {
            Some(content) => wire::put(field.number, &content, &mut to),
            None => to.extend_from_slice(field.whole),
        }
    }
    to
}

/// Reads a node that is a tree ensemble. Returns the ensemble, and the node that replaces it.
fn replaced(node: &[u8], position: usize) -> std::result::Result<(Ensemble, Vec<u8>), Unfit> {
    const OTHER: Unfit = Unfit::Left("another operator");
    let fields = wire::fields(node).ok_or(OTHER)?;
    let operator = wire::only(&fields, number::OPERATOR).and_then(Operator::of).ok_or(OTHER)?;
    if wire::only(&fields, number::DOMAIN) != Some(b"ai.onnx.ml".as_slice()) {
        return Err(OTHER);
    }
    let mut attributes = Attributes(HashMap::new());
    let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
    for field in &fields {
        match field.number {
            number::INPUT => inputs.push(field.content),
            number::OUTPUT => outputs.push(field.content),
            number::ATTRIBUTE => {
                let (name, value) = attribute(field.content).ok_or(Unfit::Left("an unusual attribute"))?;
                if attributes.0.insert(name, value).is_some() {
                    return Err(Unfit::Left("an attribute that is given twice"));
                }
            }
            number::NAME | number::OPERATOR | number::DOCUMENTATION | number::DOMAIN | number::METADATA => {}
            _ => return Err(Unfit::Left("an unusual node")),
        }
    }
    let wanted = if operator == Operator::Classifier { 2 } else { 1 };
    if inputs.len() != 1 || outputs.len() != wanted || inputs.iter().chain(&outputs).any(|name| name.is_empty()) {
        return Err(Unfit::Left("unused inputs or outputs"));
    }
    // A compiled ensemble takes a few times the size of its node. If that much memory is not there, ONNX Runtime, whose
    // allocations can fail, reports it.
    if Vec::<u8>::new().try_reserve(MEMORY.saturating_mul(node.len())).is_err() {
        return Err(Unfit::Left("not enough memory"));
    }
    let ensemble = Ensemble::read(operator, attributes)?;
    let texts = matches!(ensemble.scoring.labels, Some(Labels::Texts(_)));
    let name = wire::only(&fields, number::NAME);
    let node = ensemble_node(inputs[0], &outputs, name, operator.name(texts), position);
    Ok((ensemble, node))
}

/// Encodes the node of a compiled ensemble.
pub(crate) fn ensemble_node(
    input: &[u8],
    outputs: &[&[u8]],
    name: Option<&[u8]>,
    operator: &str,
    position: usize,
) -> Vec<u8> {
    let mut node = Vec::new();
    wire::put(number::INPUT, input, &mut node);
    outputs.iter().for_each(|output| wire::put(number::OUTPUT, output, &mut node));
    if let Some(name) = name {
        wire::put(number::NAME, name, &mut node);
    }
    wire::put(number::OPERATOR, operator.as_bytes(), &mut node);
    wire::put(number::DOMAIN, DOMAIN.as_bytes(), &mut node);
    let mut attribute = Vec::new();
    wire::put(1, POSITION.as_bytes(), &mut attribute);
    wire::put_number(3, position as u64, &mut attribute);
    // `AttributeProto.INT`
    wire::put_number(20, 2, &mut attribute);
    wire::put(number::ATTRIBUTE, &attribute, &mut node);
    node
}
