//! Replaces category lookups inside a model: string categories enter a run as integers.
//!
//! A model of tabular data often uses a string input only for lookups, with the `OneHotEncoder` or `LabelEncoder` that
//! exporters put directly after it. A string tensor needs a C++ object per element, and ONNX Runtime hashes each string
//! again. Therefore the session gets a rewritten model whose input takes the index of the category, and the lookup
//! happens here, once. This is not visible to users: the signature stays that of the given model, and an unknown
//! category stays unknown. A model with any unusual structure is not rewritten.

use std::collections::{HashMap, HashSet};

use foldhash::fast::FixedState;
use prost::Message;

use crate::error::{Error, Result};
use crate::onnx::wire::{edited, fields, only, put_number};
use crate::tensor::Strings;

/// An input that takes categories as integers.
#[derive(Debug)]
pub(crate) struct Categories {
    pub(crate) input: String,
    /// The integer of each category.
    numbers: HashMap<Box<[u8]>, i64, FixedState>,
}

/// The integer of an unknown category. No category has it, so the model handles it as it handles unknown categories.
const UNKNOWN: i64 = -1;

impl Categories {
    /// Returns the integers of `len` texts, starting at `from`.
    pub(crate) fn numbers(&self, texts: &Strings, from: usize, len: usize) -> Result<Vec<i64>> {
        let mut numbers = Vec::new();
        let full = |_| Error::OutOfMemory { what: "categories of a run".into(), bytes: 8 * len };
        numbers.try_reserve_exact(len).map_err(full)?;
        numbers
            .extend((from..from + len).map(|i| self.numbers.get(texts.get(i).as_bytes()).copied().unwrap_or(UNKNOWN)));
        Ok(numbers)
    }
}

#[derive(Clone, PartialEq, Message)]
struct ValueInfo {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(message, optional, tag = "2")]
    ty: Option<Type>,
}

#[derive(Clone, PartialEq, Message)]
struct Type {
    #[prost(message, optional, tag = "1")]
    tensor: Option<TensorType>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorType {
    #[prost(int32, optional, tag = "1")]
    element: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct EncoderNode {
    #[prost(string, repeated, tag = "1")]
    input: Vec<String>,
    #[prost(string, optional, tag = "4")]
    op_type: Option<String>,
    #[prost(message, repeated, tag = "5")]
    attribute: Vec<Attribute>,
    #[prost(string, optional, tag = "7")]
    domain: Option<String>,
}

/// An attribute. For one that holds graphs, only their presence matters.
#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(int64, optional, tag = "3")]
    i: Option<i64>,
    #[prost(bytes = "vec", optional, tag = "6")]
    graph: Option<Vec<u8>>,
    #[prost(int64, repeated, tag = "8")]
    ints: Vec<i64>,
    #[prost(bytes = "vec", repeated, tag = "9")]
    strings: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "11")]
    graphs: Vec<Vec<u8>>,
    #[prost(int32, optional, tag = "20")]
    kind: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct Initializer {
    #[prost(string, optional, tag = "8")]
    name: Option<String>,
    #[prost(int32, optional, tag = "14")]
    data_location: Option<i32>,
}

/// `AttributeProto.INTS`, `TensorProto.STRING` and `TensorProto.INT64`.
const INTS: i32 = 7;
const STRING: i32 = 8;
const INT64: u64 = 7;

/// Returns the declaration of an input with the element type changed to int64.
fn declared_as_numbers(input: &[u8]) -> Option<Vec<u8>> {
    let input = fields(input)?;
    let ty = fields(only(&input, 2)?)?;
    let tensor = fields(only(&ty, 1)?)?;
    let mut as_numbers = Vec::new();
    for field in &tensor {
        if field.number == 1 {
            put_number(1, INT64, &mut as_numbers);
        } else {
            as_numbers.extend_from_slice(field.whole);
        }
    }
    let ty = edited(&ty, |f| (f.number == 1).then(|| as_numbers.clone()));
    Some(edited(&input, |f| (f.number == 2).then(|| ty.clone())))
}

/// Returns the attribute with the categories of a node that only looks them up, and the name of the attribute for
/// integers.
fn looked_up(node: &EncoderNode) -> Option<(&Attribute, &'static str)> {
    let attribute = |name: &str| node.attribute.iter().find(|a| a.name.as_deref() == Some(name));
    if node.domain.as_deref() != Some("ai.onnx.ml") || node.input.len() != 1 {
        return None;
    }
    let (categories, name) = match node.op_type.as_deref()? {
        // If `zeros` is 0, an unknown category is an error of the run. The input stays a string tensor, so that the
        // error names the text.
        "OneHotEncoder" if attribute("zeros").is_none_or(|a| a.i == Some(1)) && attribute("cats_int64s").is_none() => {
            (attribute("cats_strings")?, "cats_int64s")
        }
        "LabelEncoder" => {
            let known = ["keys_strings", "values_int64s", "values_floats", "values_strings"];
            let known = |a: &Attribute| {
                a.name.as_deref().is_some_and(|name| known.contains(&name) || name.starts_with("default_"))
            };
            if !node.attribute.iter().all(known) {
                return None;
            }
            (attribute("keys_strings")?, "keys_int64s")
        }
        _ => return None,
    };
    let distinct: HashSet<&Vec<u8>> = categories.strings.iter().collect();
    // ONNX Runtime decides which of two equal categories counts, so such a node is not rewritten.
    (!categories.strings.is_empty() && distinct.len() == categories.strings.len()).then_some((categories, name))
}

/// Rewrites a model so that string inputs that are only looked up take integers. Also returns the categories of these
/// inputs. Returns `None` if the model has no such input.
pub(crate) fn rewritten(model: &[u8]) -> Option<(Vec<u8>, Vec<Categories>)> {
    let outer = fields(model)?;
    let graph = fields(only(&outer, 7)?)?;
    let mut texts = Vec::new();
    for field in graph.iter().filter(|f| f.number == 11) {
        let input = ValueInfo::decode(field.content).ok()?;
        if input.ty.and_then(|t| t.tensor).and_then(|t| t.element) == Some(STRING) {
            texts.push(input.name?);
        }
    }
    if texts.is_empty() {
        return None;
    }
    // Other uses of an input: an initializer as its default, an output of the model, and subgraphs.
    let mut taken = Vec::new();
    for field in &graph {
        match field.number {
            5 => {
                let initializer = Initializer::decode(field.content).ok()?;
                // External data is found relative to the model file, and a rewritten model has no file.
                if initializer.data_location.unwrap_or(0) != 0 {
                    return None;
                }
                taken.extend(initializer.name);
            }
            12 => taken.extend(ValueInfo::decode(field.content).ok()?.name),
            _ => {}
        }
    }
    let mut uses: HashMap<String, usize> = HashMap::new();
    // The nodes that only look up an input. The address of a node's bytes in the file identifies it.
    let mut lookups: Vec<(&[u8], EncoderNode)> = Vec::new();
    for field in graph.iter().filter(|f| f.number == 1) {
        let node = EncoderNode::decode(field.content).ok()?;
        if node.attribute.iter().any(|a| a.graph.is_some() || !a.graphs.is_empty()) {
            return None;
        }
        for input in &node.input {
            *uses.entry(input.clone()).or_default() += 1;
        }
        if looked_up(&node).is_some() && texts.contains(&node.input[0]) {
            lookups.push((field.content, node));
        }
    }
    let count = |input: &String| lookups.iter().filter(|(_, node)| node.input[0] == *input).count();
    let mut found: Vec<Categories> = texts
        .iter()
        .filter(|input| !taken.contains(input) && uses.get(*input) == Some(&count(input)))
        .map(|input| Categories { input: input.clone(), numbers: HashMap::default() })
        .collect();
    let mut nodes = Vec::new();
    for (was, node) in &lookups {
        let Some(categories) = found.iter_mut().find(|c| c.input == node.input[0]) else { continue };
        let (attribute, name) = looked_up(node)?;
        // A text has the same integer in all nodes that look it up.
        let mut number = |text: &Vec<u8>| {
            let next = i64::try_from(categories.numbers.len()).unwrap_or(i64::MAX);
            *categories.numbers.entry(text.clone().into_boxed_slice()).or_insert(next)
        };
        let numbers = Attribute {
            name: Some(name.to_owned()),
            ints: attribute.strings.iter().map(&mut number).collect(),
            kind: Some(INTS),
            ..Attribute::default()
        };
        let now = edited(&fields(was)?, |f| {
            let is_it = f.number == 5 && Attribute::decode(f.content).is_ok_and(|a| a.name == attribute.name);
            is_it.then(|| numbers.encode_to_vec())
        });
        nodes.push((*was, now));
    }
    if found.is_empty() {
        return None;
    }
    let mut changed = edited(&graph, |field| match field.number {
        1 => nodes.iter().find(|(was, _)| std::ptr::eq(*was, field.content)).map(|(_, now)| now.clone()),
        11 => {
            let name = ValueInfo::decode(field.content).ok()?.name?;
            found.iter().any(|c| c.input == name).then(|| declared_as_numbers(field.content))?
        }
        _ => None,
    });
    let model = edited(&outer, |field| (field.number == 7).then(|| std::mem::take(&mut changed)));
    Some((model, found))
}
