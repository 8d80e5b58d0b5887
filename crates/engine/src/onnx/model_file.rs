//! Reads and checks a model file without running it.
//!
//! A tensor may keep its weights in another file. ONNX Runtime looks for that file relative to the working directory of
//! the process, which the user has no right to read. Therefore every tensor of the model is checked: only the
//! initializers of the main graph may name a file, and that file must be given together with the model.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::onnx::schema::{self, Message};

// The decoded fields, with their numbers in onnx.proto (github.com/onnx/onnx).

#[derive(Clone, PartialEq, prost::Message)]
struct Model {
    #[prost(int64, optional, tag = "1")]
    ir_version: Option<i64>,
    #[prost(string, optional, tag = "2")]
    producer_name: Option<String>,
    #[prost(string, optional, tag = "3")]
    producer_version: Option<String>,
    #[prost(message, repeated, tag = "8")]
    opset_import: Vec<Opset>,
    #[prost(message, repeated, tag = "14")]
    metadata: Vec<Entry>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Opset {
    #[prost(string, optional, tag = "1")]
    domain: Option<String>,
    #[prost(int64, optional, tag = "2")]
    version: Option<i64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Entry {
    #[prost(string, optional, tag = "1")]
    pub(super) key: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(super) value: Option<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Node {
    #[prost(string, optional, tag = "4")]
    op_type: Option<String>,
    #[prost(string, optional, tag = "7")]
    domain: Option<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Tensor {
    #[prost(int64, repeated, tag = "1")]
    pub(super) dims: Vec<i64>,
    #[prost(int32, optional, tag = "2")]
    pub(super) data_type: Option<i32>,
    #[prost(string, optional, tag = "8")]
    pub(super) name: Option<String>,
    #[prost(message, repeated, tag = "13")]
    pub(super) external_data: Vec<Entry>,
    #[prost(int32, optional, tag = "14")]
    pub(super) data_location: Option<i32>,
}

/// The metadata of a model file, and the external data files that it names.
#[derive(Debug, PartialEq)]
pub struct Facts {
    /// The producer, opsets, operators and properties.
    pub metadata: Map<String, Value>,
    /// The names of the external data files.
    pub external: Vec<String>,
}

/// Reads the facts of a model file. Rejects a file that must not be loaded.
pub fn inspect(bytes: &[u8]) -> Result<Facts> {
    let mut has_graph = false;
    let mut operators = BTreeSet::new();
    let mut external = Vec::new();
    schema::walk(bytes, &mut |path, message| {
        match path {
            [.., Message::Graph] => has_graph = true,
            [.., Message::Node] => {
                operators.insert(operator(decoded(message)?));
            }
            // An initializer of the main graph.
            [Message::Model, Message::Graph, Message::Tensor] => {
                if let Some(location) = location(&decoded(message)?)?
                    && !external.contains(&location)
                {
                    external.push(location);
                }
            }
            [.., Message::Tensor] => {
                let tensor: Tensor = decoded(message)?;
                if tensor.is_external() {
                    return Err(Error::ExternalData { tensor: tensor.name.unwrap_or_default() });
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    if !has_graph {
        return Err(Error::InvalidModel { reason: "there is no graph in it".to_owned() });
    }
    let model: Model = decoded(bytes)?;

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

fn decoded<M: prost::Message + Default>(bytes: &[u8]) -> Result<M> {
    M::decode(bytes).map_err(|e| Error::InvalidModel { reason: e.to_string() })
}

/// Returns the operator of a node, with its domain unless that is the default domain of ONNX.
fn operator(node: Node) -> String {
    let operator = node.op_type.unwrap_or_default();
    match node.domain.as_deref() {
        None | Some("" | "ai.onnx") => operator,
        Some(domain) => format!("{domain}.{operator}"),
    }
}

/// Property keys under which exporters and users store feature names, in lower case without separators.
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

/// Returns the feature names of an input with `width` values if the metadata lists exactly that many.
#[must_use]
pub fn feature_names(metadata: &Map<String, Value>, width: usize) -> Option<Vec<String>> {
    let properties = metadata.get("properties")?.as_object()?;
    let plain = |key: &str| key.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    FEATURE_KEYS.iter().find_map(|wanted| {
        let (_, value) = properties.iter().find(|(key, _)| plain(key) == *wanted)?;
        let text = value.as_str()?.trim();
        let names: Vec<String> = serde_json::from_str(text).unwrap_or_else(|_| {
            // Accepts a printed Python list, or names with a separator.
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

impl Tensor {
    fn is_external(&self) -> bool {
        self.data_location.unwrap_or(0) != 0 || !self.external_data.is_empty()
    }
}

/// Returns the name of the external data file of an initializer of the main graph, or `None` if its weights are in the
/// model.
fn location(tensor: &Tensor) -> Result<Option<String>> {
    if !tensor.is_external() {
        return Ok(None);
    }
    // ONNX Runtime uses the last of several locations, so more than one is rejected.
    let mut locations = tensor.external_data.iter().filter(|e| e.key.as_deref() == Some("location"));
    let location = locations.next().and_then(|e| e.value.clone()).unwrap_or_default();
    let refused = |reason: &'static str| Err(Error::ExternalFile { location: location.clone(), reason: reason.into() });
    if locations.next().is_some() {
        return refused("the model names several files for one tensor");
    }
    if location.is_empty() || location.contains('\0') {
        return refused("the model does not name it");
    }
    // ONNX Runtime reads "*/_ORT_MEM_ADDR_/*" as an address in this process.
    if location.contains('*') || location.contains("_ORT_MEM_ADDR_") {
        return refused("the name is one that ONNX Runtime keeps for itself");
    }
    let path = std::path::Path::new(&location);
    if location.contains('\\') || !path.components().all(|c| matches!(c, std::path::Component::Normal(_))) {
        return refused("the name leaves the folder of the model");
    }
    Ok(Some(location))
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::onnx::wire::{put, put_number};

    /// Encodes a message field.
    fn field(number: u32, content: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        put(number, content, &mut bytes);
        bytes
    }

    /// Encodes a tensor with its weights in the given files.
    fn outside(locations: &[&str]) -> Vec<u8> {
        let entry = |l: &&str| Entry { key: Some("location".to_owned()), value: Some((*l).to_owned()) };
        let external_data = locations.iter().map(entry).collect();
        Tensor { name: Some("w".to_owned()), data_location: Some(1), external_data, ..Tensor::default() }
            .encode_to_vec()
    }

    /// Encodes a model with the given field and an empty graph.
    fn model(content: &[u8]) -> Vec<u8> {
        [field(7, &[]), content.to_vec()].concat()
    }

    /// Encodes a model whose main graph has the given content.
    fn graph(content: &[u8]) -> Vec<u8> {
        field(7, content)
    }

    #[test]
    fn weights_outside_the_file_are_rejected_wherever_they_cannot_be_given() {
        // Each path from the model down to a tensor, as field numbers.
        let ways: [&[u32]; 18] = [
            &[7, 1, 5, 5],          // an attribute of a node
            &[7, 1, 5, 10],         // one of several tensors of an attribute
            &[7, 1, 5, 22, 1],      // the values of a sparse tensor
            &[7, 1, 5, 22, 2],      // its indices
            &[7, 1, 5, 23, 1],      // one of several sparse tensors
            &[7, 1, 5, 6, 5],       // an initializer of a subgraph
            &[7, 1, 5, 11, 5],      // an initializer of one of several subgraphs
            &[7, 1, 5, 6, 15, 1],   // a sparse initializer of a subgraph
            &[7, 1, 5, 6, 1, 5, 5], // a node of a subgraph
            &[7, 15, 1],            // a sparse initializer
            &[7, 15, 2],
            &[25, 7, 5, 5],    // a node of a function
            &[25, 7, 5, 6, 5], // a node of a subgraph of a function
            &[25, 11, 5],      // the default of a function's attribute
            &[25, 11, 6, 5],   // a subgraph of the default
            &[25, 11, 23, 2],
            &[20, 1, 5], // training information
            &[20, 2, 1, 5, 5],
        ];
        for way in ways {
            let mut bytes = outside(&["a"]);
            let mut inside = Tensor { name: Some("w".to_owned()), ..Tensor::default() }.encode_to_vec();
            for number in way.iter().rev() {
                bytes = field(*number, &bytes);
                inside = field(*number, &inside);
            }
            assert_eq!(inspect(&model(&bytes)), Err(Error::ExternalData { tensor: "w".to_owned() }), "{way:?}");
            assert!(inspect(&model(&inside)).is_ok(), "{way:?}");
        }
    }

    #[test]
    fn a_tensor_in_two_pieces_is_checked_in_each() {
        // protobuf merges repeated occurrences of a singular field.
        let [location, place] = [13, 14].map(|number| {
            let mut whole = Vec::new();
            match number {
                14 => put_number(14, 1, &mut whole),
                _ => put(
                    13,
                    &Entry { key: Some("location".to_owned()), value: Some("a".to_owned()) }.encode_to_vec(),
                    &mut whole,
                ),
            }
            field(5, &whole)
        });
        for pieces in [[location.clone(), place.clone()].concat(), [place, location].concat()] {
            let bytes = graph(&field(1, &field(5, &pieces)));
            assert!(matches!(inspect(&bytes), Err(Error::ExternalData { .. })));
        }
    }

    #[test]
    fn fields_that_the_schema_does_not_define_are_rejected() {
        // In the model, a graph, a node, a tensor and a type. Then a known field with a number, and a group.
        let unknown = field(99, &outside(&["a"]));
        let mut number = Vec::new();
        put_number(5, 1, &mut number);
        for bytes in [
            unknown.clone(),
            graph(&unknown),
            graph(&field(1, &unknown)),
            graph(&field(5, &unknown)),
            graph(&field(11, &field(2, &unknown))),
            graph(&number),
            vec![0x3b, 0x3c],
        ] {
            assert!(matches!(inspect(&model(&bytes)), Err(Error::InvalidModel { .. })), "{bytes:?}");
        }
    }

    #[test]
    fn deep_nesting_is_rejected_before_the_stack_ends() {
        let mut bytes = Vec::new();
        for _ in 0..100_000 {
            bytes = [field(1, &field(5, &field(6, &bytes)))].concat();
            if bytes.len() > 4_000 {
                break;
            }
        }
        assert!(matches!(inspect(&graph(&bytes)), Err(Error::InvalidModel { .. })));
    }

    #[test]
    fn files_of_weights_are_named_once_and_never_leave_the_folder() {
        let with = |tensors: &[&[&str]]| {
            inspect(&graph(&tensors.iter().flat_map(|l| field(5, &outside(l))).collect::<Vec<_>>()))
        };
        assert_eq!(with(&[&["a.data"], &["b/c.data"], &["a.data"]]).unwrap().external, ["a.data", "b/c.data"]);
        for bad in ["", "/etc/passwd", "../x", "a/../../x", "./x", "*/_ORT_MEM_ADDR_/*", "a\\..\\x", "x\0y"] {
            assert!(matches!(with(&[&[bad]]), Err(Error::ExternalFile { .. })), "{bad}");
        }
        for several in [&["a", "/etc/passwd"][..], &["a", "a"]] {
            assert!(matches!(with(&[several]), Err(Error::ExternalFile { .. })), "{several:?}");
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
