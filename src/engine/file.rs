//! The ONNX file as a file: what can be read of it without running it.
//!
//! Only the fields that are looked at are declared, by their numbers in onnx.proto (github.com/onnx/onnx, `onnx.proto3`);
//! the rest is skipped, weights too. Weights outside the file must have been given with it, under the name that the model
//! has for them: ONNX Runtime would look for others relative to the directory of the process, which is not the user's to
//! read. It takes given ones for the initializers of the main graph; elsewhere they are refused.

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

/// What a file says of itself.
#[derive(Debug, PartialEq)]
pub struct Facts {
    /// Producer, opsets, operators, properties.
    pub metadata: Map<String, Value>,
    /// The names of the files of weights that it needs.
    pub external: Vec<String>,
}

/// Reads a file's facts and refuses what must not be loaded.
pub fn inspect(bytes: &[u8]) -> Result<Facts> {
    let model = Model::decode(bytes).map_err(|e| Error::InvalidModel { reason: e.to_string() })?;
    let Some(graph) = &model.graph else {
        return Err(Error::InvalidModel { reason: "there is no graph in it".to_owned() });
    };
    let mut operators = BTreeSet::new();
    let mut external = Vec::new();
    for tensor in &graph.initializer {
        if let Some(location) = location(tensor)?
            && !external.contains(&location)
        {
            external.push(location);
        }
    }
    graph.sparse_initializer.iter().try_for_each(check_sparse)?;
    walk_nodes(&graph.node, &mut operators)?;
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
    Ok(Facts { metadata: facts, external })
}

/// The keys under which exporters and their users keep the names of features, in lower case without separators.
const FEATURE_KEYS: [&str; 8] = [
    "featurenames",
    "featurename",
    "featurenamesin",
    "inputfeatures",
    "features",
    "columnnames",
    "columns",
    "inputcolumns",
];

/// The names of the features of a wide input, where the file holds as many.
#[must_use]
pub fn feature_names(metadata: &Map<String, Value>, width: usize) -> Option<Vec<String>> {
    let properties = metadata.get("properties")?.as_object()?;
    let plain = |key: &str| key.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    FEATURE_KEYS.iter().find_map(|wanted| {
        let (_, value) = properties.iter().find(|(key, _)| plain(key) == *wanted)?;
        let text = value.as_str()?.trim();
        let names: Vec<String> = serde_json::from_str(text).unwrap_or_else(|_| {
            // As Python prints a list, or a line of names.
            let text = text.trim_start_matches(['[', '(']).trim_end_matches([']', ')']);
            let separator = [',', '|', ';', '\n'].into_iter().find(|c| text.contains(*c)).unwrap_or(',');
            text.split(separator).map(|name| name.trim().trim_matches(['\'', '"']).to_owned()).collect()
        });
        let distinct: BTreeSet<&String> = names.iter().collect();
        let good =
            names.len() == width && distinct.len() == width && names.iter().all(|n| !n.is_empty() && n.len() < 64);
        good.then_some(names)
    })
}

/// The name of the file that a tensor of the main graph has its weights in, where they are outside of the model.
fn location(tensor: &Tensor) -> Result<Option<String>> {
    if tensor.data_location.unwrap_or(0) == 0 && tensor.external_data.is_empty() {
        return Ok(None);
    }
    let entry = tensor.external_data.iter().find(|e| e.key.as_deref() == Some("location"));
    let location = entry.and_then(|e| e.value.clone()).unwrap_or_default();
    let refused = |reason: &'static str| Err(Error::ExternalFile { location: location.clone(), reason: reason.into() });
    if location.is_empty() || location.contains('\0') {
        return refused("the model does not name it");
    }
    // "*/_ORT_MEM_ADDR_/*" is an address in this process.
    if location.contains('*') || location.contains("_ORT_MEM_ADDR_") {
        return refused("the name is one that ONNX Runtime keeps for itself");
    }
    let path = std::path::Path::new(&location);
    if location.contains('\\') || !path.components().all(|c| matches!(c, std::path::Component::Normal(_))) {
        return refused("the name leaves the folder of the model");
    }
    Ok(Some(location))
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

    fn outside(location: &str) -> Tensor {
        let entry = Entry { key: Some("location".to_owned()), value: Some(location.to_owned()) };
        Tensor { name: Some("w".to_owned()), data_location: Some(1), external_data: vec![entry] }
    }

    fn model(graph: Graph) -> Vec<u8> {
        Model { graph: Some(graph), ..Model::default() }.encode_to_vec()
    }

    #[test]
    fn weights_outside_the_file_are_refused_where_they_cannot_be_given() {
        let inner = |tensor| {
            let attribute = Attribute {
                graphs: vec![Graph { initializer: vec![tensor], ..Graph::default() }],
                ..Attribute::default()
            };
            let node = Node { op_type: Some("If".to_owned()), attribute: vec![attribute], ..Node::default() };
            model(Graph { node: vec![node], ..Graph::default() })
        };
        assert_eq!(inspect(&inner(outside("a"))), Err(Error::ExternalData { tensor: "w".to_owned() }));
        assert_eq!(inspect(&inner(Tensor::default())).unwrap().metadata["operators"], serde_json::json!(["If"]));
    }

    #[test]
    fn files_of_weights_are_named_once_and_never_leave_the_folder() {
        let with = |locations: &[&str]| {
            inspect(&model(Graph { initializer: locations.iter().map(|l| outside(l)).collect(), ..Graph::default() }))
        };
        assert_eq!(with(&["a.data", "b/c.data", "a.data"]).unwrap().external, ["a.data", "b/c.data"]);
        for bad in ["", "/etc/passwd", "../x", "a/../../x", "./x", "*/_ORT_MEM_ADDR_/*", "a\\..\\x", "x\0y"] {
            assert!(matches!(with(&[bad]), Err(Error::ExternalFile { .. })), "{bad}");
        }
    }

    #[test]
    fn what_is_no_model_is_refused() {
        for bytes in [&b""[..], b"hello, world", &[0xff; 64]] {
            assert!(matches!(inspect(bytes), Err(Error::InvalidModel { .. })));
        }
    }

    #[test]
    fn names_of_features_are_read_in_the_forms_that_exporters_write() {
        let names = |key: &str, value: &str, width| {
            let metadata = serde_json::json!({"properties": {key: value}});
            feature_names(metadata.as_object().unwrap(), width)
        };
        let ab = Some(vec!["a".to_owned(), "b c".to_owned()]);
        for value in [r#"["a", "b c"]"#, "['a', 'b c']", "a,b c", "a|b c", "a\nb c"] {
            assert_eq!(names("feature_names", value, 2), ab, "{value}");
        }
        assert_eq!(names("feature_names_in_", "a,b c", 2), ab);
        for (value, width) in [("a,b", 3), ("a,a", 2), ("a,", 2), ("", 1)] {
            assert_eq!(names("feature_names", value, width), None, "{value}");
        }
        assert_eq!(names("genres", "a,b", 2), None);
    }
}
