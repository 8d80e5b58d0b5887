//! The ONNX file as a file: what can be read of it without running it.
//!
//! Only the fields that are looked at are declared, by their numbers in onnx.proto (github.com/onnx/onnx, `onnx.proto3`);
//! the rest is skipped, weights too. Weights outside the file are refused here: ONNX Runtime would look for them relative
//! to the directory of the process, which is not the user's to read.

use std::collections::BTreeSet;

use prost::Message;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(int64, optional, tag = "1")]
    ir_version: Option<i64>,
    #[prost(string, optional, tag = "2")]
    producer_name: Option<String>,
    #[prost(string, optional, tag = "3")]
    producer_version: Option<String>,
    #[prost(message, optional, tag = "7")]
    graph: Option<Graph>,
    #[prost(message, repeated, tag = "8")]
    opset_import: Vec<Opset>,
    #[prost(message, repeated, tag = "14")]
    metadata: Vec<Entry>,
    #[prost(message, repeated, tag = "25")]
    functions: Vec<Function>,
}

#[derive(Clone, PartialEq, Message)]
struct Opset {
    #[prost(string, optional, tag = "1")]
    domain: Option<String>,
    #[prost(int64, optional, tag = "2")]
    version: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(string, optional, tag = "1")]
    key: Option<String>,
    #[prost(string, optional, tag = "2")]
    value: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Function {
    #[prost(message, repeated, tag = "7")]
    node: Vec<Node>,
}

#[derive(Clone, PartialEq, Message)]
struct Graph {
    #[prost(message, repeated, tag = "1")]
    node: Vec<Node>,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<Tensor>,
    #[prost(message, repeated, tag = "15")]
    sparse_initializer: Vec<Sparse>,
}

#[derive(Clone, PartialEq, Message)]
struct Node {
    #[prost(string, optional, tag = "4")]
    op_type: Option<String>,
    #[prost(message, repeated, tag = "5")]
    attribute: Vec<Attribute>,
    #[prost(string, optional, tag = "7")]
    domain: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(message, optional, tag = "5")]
    tensor: Option<Tensor>,
    #[prost(message, optional, tag = "6")]
    graph: Option<Graph>,
    #[prost(message, repeated, tag = "10")]
    tensors: Vec<Tensor>,
    #[prost(message, repeated, tag = "11")]
    graphs: Vec<Graph>,
    #[prost(message, optional, tag = "22")]
    sparse: Option<Sparse>,
    #[prost(message, repeated, tag = "23")]
    sparses: Vec<Sparse>,
}

#[derive(Clone, PartialEq, Message)]
struct Sparse {
    #[prost(message, optional, tag = "1")]
    values: Option<Tensor>,
    #[prost(message, optional, tag = "2")]
    indices: Option<Tensor>,
}

#[derive(Clone, PartialEq, Message)]
struct Tensor {
    #[prost(string, optional, tag = "8")]
    name: Option<String>,
    #[prost(message, repeated, tag = "13")]
    external_data: Vec<Entry>,
    #[prost(int32, optional, tag = "14")]
    data_location: Option<i32>,
}

/// Reads a file's facts and refuses what must not be loaded.
pub fn inspect(bytes: &[u8]) -> Result<Map<String, Value>> {
    let model = Model::decode(bytes).map_err(|e| Error::InvalidModel { reason: e.to_string() })?;
    let Some(graph) = &model.graph else {
        return Err(Error::InvalidModel { reason: "there is no graph in it".to_owned() });
    };
    let mut operators = BTreeSet::new();
    walk_graph(graph, &mut operators)?;
    model.functions.iter().try_for_each(|f| walk_nodes(&f.node, &mut operators))?;

    let mut facts = Map::new();
    if let Some(ir) = model.ir_version {
        facts.insert("ir_version".to_owned(), ir.into());
    }
    let producer = [model.producer_name, model.producer_version].into_iter().flatten().collect::<Vec<_>>().join(" ");
    if !producer.trim().is_empty() {
        facts.insert("producer".to_owned(), producer.trim().into());
    }
    let opsets = model.opset_import.into_iter().map(|o| {
        let domain = o.domain.filter(|d| !d.is_empty()).unwrap_or_else(|| "ai.onnx".to_owned());
        (domain, Value::from(o.version.unwrap_or(0)))
    });
    facts.insert("opsets".to_owned(), Value::Object(opsets.collect()));
    facts.insert("operators".to_owned(), operators.into_iter().collect());
    let properties: Map<String, Value> =
        model.metadata.into_iter().filter_map(|e| Some((e.key?, Value::from(e.value.unwrap_or_default())))).collect();
    if !properties.is_empty() {
        facts.insert("properties".to_owned(), Value::Object(properties));
    }
    Ok(facts)
}

fn walk_graph(graph: &Graph, operators: &mut BTreeSet<String>) -> Result<()> {
    graph.initializer.iter().try_for_each(check)?;
    graph.sparse_initializer.iter().try_for_each(check_sparse)?;
    walk_nodes(&graph.node, operators)
}

fn walk_nodes(nodes: &[Node], operators: &mut BTreeSet<String>) -> Result<()> {
    for node in nodes {
        let operator = node.op_type.clone().unwrap_or_default();
        operators.insert(match node.domain.as_deref() {
            None | Some("" | "ai.onnx") => operator,
            Some(domain) => format!("{domain}.{operator}"),
        });
        for attribute in &node.attribute {
            attribute.tensor.iter().chain(&attribute.tensors).try_for_each(check)?;
            attribute.sparse.iter().chain(&attribute.sparses).try_for_each(check_sparse)?;
            attribute.graph.iter().chain(&attribute.graphs).try_for_each(|g| walk_graph(g, operators))?;
        }
    }
    Ok(())
}

fn check_sparse(sparse: &Sparse) -> Result<()> {
    sparse.values.iter().chain(&sparse.indices).try_for_each(check)
}

fn check(tensor: &Tensor) -> Result<()> {
    if tensor.data_location.unwrap_or(0) == 0 && tensor.external_data.is_empty() {
        return Ok(());
    }
    Err(Error::ExternalData { tensor: tensor.name.clone().unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(tensor: Tensor) -> Vec<u8> {
        let inner = Graph { initializer: vec![tensor], ..Graph::default() };
        let attribute = Attribute { graphs: vec![inner], ..Attribute::default() };
        let node = Node { op_type: Some("If".to_owned()), attribute: vec![attribute], ..Node::default() };
        Model { graph: Some(Graph { node: vec![node], ..Graph::default() }), ..Model::default() }.encode_to_vec()
    }

    #[test]
    fn weights_outside_the_file_are_refused_wherever_they_hide() {
        let outside = Tensor { name: Some("w".to_owned()), data_location: Some(1), ..Tensor::default() };
        assert_eq!(inspect(&model(outside)), Err(Error::ExternalData { tensor: "w".to_owned() }));
        let facts = inspect(&model(Tensor::default())).unwrap();
        assert_eq!(facts["operators"], serde_json::json!(["If"]));
    }

    #[test]
    fn what_is_no_model_is_refused() {
        for bytes in [&b""[..], b"hello, world", &[0xff; 64]] {
            assert!(matches!(inspect(bytes), Err(Error::InvalidModel { .. })));
        }
    }
}
