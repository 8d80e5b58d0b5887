//! Parses the options of a version strictly and validates them against its signature when the version is created.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::device::Device;
use crate::error::{Error, Result};
use crate::signature::{Input, Output, Signature, Source, TEXTS};
use crate::tensor::{Column, ElementType, from_json};

/// The options of a version. An unknown key is an error.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// The column names of the features of the only input, in order. With a tokenizer, the columns of the texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub features: Option<Vec<String>>,
    /// The handling of NULL features.
    #[serde(skip_serializing_if = "is_default")]
    pub on_null: OnNull,
    /// A value by column, used if the column is NULL.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub defaults: Map<String, Value>,
    /// The handling of rows for which the model fails.
    #[serde(skip_serializing_if = "is_default")]
    pub on_error: OnError,
    /// The content, by name, of inputs that are the same for every row.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub constants: Map<String, Value>,
    /// The row shape by input, for inputs with open dimensions.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub shapes: BTreeMap<String, Vec<Option<usize>>>,
    /// The padding value by input, used to bring rows of different shapes to the same shape.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub pad: Map<String, Value>,
    /// Whether rows share a run.
    #[serde(skip_serializing_if = "is_default")]
    pub batch: Batching,
    /// The batch size, in rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<usize>,
    /// The device of the session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<Device>,
    /// The number of threads of a session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// What runs tree ensembles.
    #[serde(skip_serializing_if = "is_default")]
    pub trees: Trees,
    /// The maximum number of tokens per text. Longer texts are truncated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<usize>,
    /// How the token states of a text are combined into one vector.
    #[serde(skip_serializing_if = "is_default")]
    pub pooling: Pooling,
    /// Whether vectors are scaled to length 1.
    #[serde(skip_serializing_if = "is_default")]
    pub normalize: bool,
}

/// Names the JSON type of a value, for error messages.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The handling of a row with a NULL feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnNull {
    /// The prediction is NULL, and the model does not run for the row.
    #[default]
    Null,
    /// The statement fails.
    Error,
    /// A float input gets NaN. A NULL for any other input makes the prediction NULL.
    Nan,
}

/// The handling of a row for which the model fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// The statement fails.
    #[default]
    Error,
    /// The prediction is NULL, and the row is counted.
    Null,
}

/// Whether rows share a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Batching {
    /// As validation finds.
    #[default]
    Auto,
    /// The model has no batch axis: every row is a run of its own.
    None,
    /// Rows share a run even if the model is batch-dependent.
    Force,
}

/// What runs tree ensembles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trees {
    /// The kernels of the engine, if they can run the ensemble. The results are those of ONNX Runtime with one thread.
    #[default]
    Compiled,
    /// ONNX Runtime.
    OnnxRuntime,
}

/// How the token states of a text are combined into one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// They are not combined.
    #[default]
    None,
    /// The mean over all tokens except padding.
    Mean,
    /// The state of the first token.
    Cls,
    /// The state of the last token that is not padding.
    Last,
}

/// The largest value of the option `max_length`, in tokens.
pub const MAX_LENGTH: usize = 1 << 20;
/// The largest value of the option `batch_size`, in rows.
pub const MAX_BATCH_SIZE: usize = 1 << 20;
/// The largest value of the option `threads`.
pub const MAX_THREADS: usize = 256;

/// The option names, and a description of the values for error messages.
const KEYS: [(&str, &str); 15] = [
    ("features", "an array of column names"),
    ("on_null", "one of \"null\", \"error\", \"nan\""),
    ("on_error", "one of \"error\", \"null\""),
    ("defaults", "an object with a value for each column"),
    ("constants", "an object with a value for each input"),
    ("shapes", "an object with an array of dimensions for each input"),
    ("pad", "an object with a value for each input"),
    ("batch", "one of \"auto\", \"none\", \"force\""),
    ("batch_size", "a whole number of rows"),
    ("device", "one of \"cpu\", \"cuda\", \"cuda:N\", \"auto\""),
    ("threads", "a whole number"),
    ("trees", "one of \"compiled\", \"onnxruntime\""),
    ("max_length", "a whole number of tokens"),
    ("pooling", "one of \"mean\", \"cls\", \"last\", \"none\""),
    ("normalize", "true or false"),
];

impl Options {
    /// Parses options. An unknown key or a value of the wrong type is an error that names the key.
    pub fn parse(value: &Value) -> Result<Self> {
        let bad = |key: &str, reason: String| Error::Option { key: key.to_owned(), reason };
        let Some(object) = value.as_object() else {
            return Err(bad("", format!("Options are a JSON object, and this is {}", kind(value))));
        };
        for (key, value) in object {
            let Some((_, wanted)) = KEYS.iter().find(|(k, _)| k == key) else {
                return Err(bad(key, "There is no such option".to_owned()));
            };
            let one = Value::Object(Map::from_iter([(key.clone(), value.clone())]));
            if serde_json::from_value::<Self>(one).is_err() {
                return Err(bad(key, format!("Its value {value} is not {wanted}")));
            }
        }
        let options: Self = serde_json::from_value(value.clone()).map_err(|e| bad("", e.to_string()))?;
        let range = |key: &str, n: Option<usize>, max: usize| match n {
            Some(n) if n < 1 || n > max => Err(bad(key, format!("Its value {n} is not between 1 and {max}"))),
            _ => Ok(()),
        };
        range("batch_size", options.batch_size, MAX_BATCH_SIZE)?;
        range("threads", options.threads, MAX_THREADS)?;
        range("max_length", options.max_length, MAX_LENGTH)?;
        Ok(options)
    }

    /// Returns the names of all options, for the error about an unknown one.
    #[must_use]
    pub fn names() -> Vec<&'static str> {
        KEYS.iter().map(|(key, _)| *key).collect()
    }

    /// Validates the options against the inputs in the signature.
    pub fn check(&self, signature: &Signature) -> Result<()> {
        let bad = |key: &str, reason: String| Err(Error::Option { key: key.to_owned(), reason });
        let texts = self.features.as_ref().filter(|_| signature.takes_text()).map_or(1, Vec::len);
        let slots = signature.slots(texts);
        self.check_inputs(signature)?;
        if let Some(features) = self.features.as_ref().filter(|_| signature.takes_text()) {
            if features.is_empty() || features.len() > TEXTS.len() {
                return bad("features", "It names the column of the text, and maybe that of a second one".to_owned());
            }
        } else if let Some(features) = &self.features {
            let [input] = slots.as_slice() else {
                return bad("features", format!("It is for models with one input, and this one has {}", slots.len()));
            };
            if features.is_empty() {
                return bad("features", "It names no column".to_owned());
            }
            if let Some(width) = input.width().filter(|w| *w != features.len()) {
                return bad(
                    "features",
                    format!("It names {} columns, and input \"{}\" takes {width}", features.len(), input.name),
                );
            }
        }
        if let Some(features) = &self.features
            && let Some(twice) = features.iter().enumerate().find(|(i, f)| features[..*i].contains(f))
        {
            return bad("features", format!("Column \"{}\" is named twice", twice.1));
        }
        if self.on_null == OnNull::Nan && !slots.iter().any(|i| i.element.is_float()) {
            return bad(
                "on_null",
                "The value \"nan\" is for models with a float input, and this one has none".to_owned(),
            );
        }
        for (column, value) in &self.defaults {
            let names: Vec<&str> = match &self.features {
                Some(features) => features.iter().map(String::as_str).collect(),
                None => slots.iter().map(|i| i.name.as_str()).collect(),
            };
            if !names.iter().any(|n| n == column) {
                return bad(
                    "defaults",
                    format!("Column \"{column}\" is not one that the model takes: {}", names.join(", ")),
                );
            }
            let wide = slots.iter().find(|i| self.features.is_none() && &i.name == column && i.width() != Some(1));
            if let Some(input) = wide {
                return bad(
                    "defaults",
                    format!("Input \"{}\" takes more than one value a row; a default is one", input.name),
                );
            }
            if !(value.is_number() || value.is_string() || value.is_boolean()) {
                return bad(
                    "defaults",
                    format!("The default of column \"{column}\" is not a number, a text or a boolean"),
                );
            }
        }
        for (column, value) in &self.defaults {
            let text = signature.takes_text();
            let input = slots.iter().find(|i| &i.name == column).or(slots.first());
            let Some(input) = input.filter(|i| !text || i.element == ElementType::String) else { continue };
            if !Column::new(input.element).push_json(value) {
                let reason = format!("The default {value} of column \"{column}\" does not fit type {}", input.element);
                return bad("defaults", reason);
            }
        }
        if let (Some(fixed), Some(_)) = (signature.fixed_rows, self.batch_size) {
            return bad("batch_size", format!("The model itself fixes its batch at {fixed} rows"));
        }
        Ok(())
    }
}

impl Options {
    /// Validates the options that name inputs, and the options for texts.
    fn check_inputs(&self, signature: &Signature) -> Result<()> {
        let bad = |key: &str, reason: String| Err(Error::Option { key: key.to_owned(), reason });
        for (name, shape) in &self.shapes {
            let Some(input) = signature.inputs.iter().find(|i| &i.name == name) else {
                let known: Vec<&str> = signature.inputs.iter().map(|i| i.name.as_str()).collect();
                return bad("shapes", format!("There is no input \"{name}\"; the inputs are {}", known.join(", ")));
            };
            if input.source.is_tokens() {
                let most = "the option \"max_length\" limits its number of tokens";
                return bad("shapes", format!("Input \"{name}\" is made from the text; {most}"));
            }
            if &input.shape != shape {
                return bad("shapes", format!("A row of input \"{name}\" has shape {}", shape_text(&input.shape)));
            }
        }
        for (key, map) in [("constants", &self.constants), ("pad", &self.pad)] {
            for (name, value) in map {
                let Some(input) = signature.inputs.iter().find(|i| &i.name == name) else {
                    let known: Vec<&str> = signature.inputs.iter().map(|i| i.name.as_str()).collect();
                    return bad(key, format!("There is no input \"{name}\"; the inputs are {}", known.join(", ")));
                };
                if input.source.is_tokens() {
                    return bad(key, format!("Input \"{name}\" is made from the text"));
                }
                if key == "constants" {
                    Constant::parse(input, value)?;
                } else if input.source == Source::Constant {
                    return bad(key, format!("Input \"{name}\" is a constant"));
                } else if input.shape.iter().all(Option::is_some) {
                    return bad(key, format!("All rows of input \"{name}\" have the same shape"));
                } else if signature.whole {
                    return bad(key, "A row is a whole run, so nothing is padded".to_owned());
                } else if !Column::new(input.element).push_json(value) {
                    return bad(
                        key,
                        format!("The value {value} does not fit type {} of input \"{name}\"", input.element),
                    );
                }
            }
        }
        if !signature.takes_text() {
            if self.max_length.is_some() {
                return bad("max_length", "It is for versions with a tokenizer".to_owned());
            }
            if self.pooling != Pooling::None {
                return bad("pooling", "It is for versions with a tokenizer".to_owned());
            }
        }
        Ok(())
    }

    /// Validates the options against the outputs in the signature.
    pub fn check_outputs(&self, signature: &Signature) -> Result<()> {
        let bad = |key: &str, reason: &str| Err(Error::Option { key: key.to_owned(), reason: reason.to_owned() });
        if self.pooling != Pooling::None && !signature.outputs.iter().any(Output::is_pooled) {
            return bad("pooling", "No output of the model has a state for each token of the text");
        }
        let first = signature.outputs.first().and_then(Output::element);
        if self.normalize
            && !signature.outputs.iter().any(Output::is_pooled)
            && !first.is_some_and(ElementType::is_float)
        {
            return bad("normalize", "The first output of the model is not of a float type");
        }
        Ok(())
    }
}

/// Formats a shape for messages.
fn shape_text(shape: &[Option<usize>]) -> String {
    let dims: Vec<String> = shape.iter().map(|d| d.map_or("?".to_owned(), |d| d.to_string())).collect();
    format!("[{}]", dims.join(", "))
}

/// The content of an input that is the same for every row.
#[derive(Debug, Clone, PartialEq)]
pub struct Constant {
    /// The shape per row.
    pub shape: Vec<usize>,
    /// Its elements.
    pub data: Column,
}

impl Constant {
    /// Parses the option value for an input: nested arrays, or a single value that fills the input.
    pub fn parse(input: &Input, value: &Value) -> Result<Self> {
        let bad = |reason: String| Error::Option { key: "constants".to_owned(), reason };
        let wanted = shape_text(&input.shape);
        let (column, shape) = from_json(value, input.element).ok_or_else(|| {
            bad(format!("The value of input \"{}\" is not of type {}, or not an even array", input.name, input.element))
        })?;
        let fits =
            shape.len() == input.shape.len() && shape.iter().zip(&input.shape).all(|(a, b)| b.is_none_or(|b| *a == b));
        if fits {
            return Ok(Self { shape, data: column });
        }
        if !shape.is_empty() {
            return Err(bad(format!("The value of input \"{}\" has shape {shape:?}, not {wanted}", input.name)));
        }
        let Some(shape) = input.shape.iter().copied().collect::<Option<Vec<usize>>>() else {
            return Err(bad(format!(
                "One value cannot fill input \"{}\", whose shape {wanted} is open: give it as arrays",
                input.name
            )));
        };
        let mut data = Column::new(input.element);
        data.repeat(&column, 0, shape.iter().product());
        Ok(Self { shape, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn unknown_keys_and_wrong_values_are_named() {
        for (value, key) in [
            (json!({"batchsize": 3}), "batchsize"),
            (json!({"batch_size": "3"}), "batch_size"),
            (json!({"batch_size": 0}), "batch_size"),
            (json!({"device": "gpu", "threads": 1}), "device"),
            (json!({"on_null": "nul"}), "on_null"),
            (json!([]), ""),
            (json!("{}"), ""),
            (json!(null), ""),
        ] {
            match Options::parse(&value) {
                Err(Error::Option { key: k, .. }) => assert_eq!(k, key, "{value}"),
                other => panic!("{value}: {other:?}"),
            }
        }
    }

    #[test]
    fn options_survive_a_round_trip() {
        let value = json!({"features": ["a"], "on_null": "nan", "defaults": {"a": 1}, "batch_size": 7, "device": "cuda:1", "threads": 2});
        let options = Options::parse(&value).unwrap();
        assert_eq!(serde_json::to_value(&options).unwrap(), value);
        assert_eq!(serde_json::to_value(Options::default()).unwrap(), json!({}));
    }

    /// Generates arbitrary JSON that includes the keys and values of options.
    fn json() -> impl Strategy<Value = Value> {
        let keys = Options::names();
        let word = prop::sample::select(vec!["x", "mean", "last", "none", "null", "force", "cuda:1", "NaN", ""]);
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (0_i64..9).prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            word.prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, move |inner| {
            let key = prop::sample::select(keys.clone()).prop_map(str::to_owned);
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((key, inner), 0..4).prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn options_of_any_json_are_refused_or_mean_the_same_when_read_again(value in json()) {
            match Options::parse(&value) {
                Ok(options) => {
                    let stored = serde_json::to_value(&options).unwrap();
                    prop_assert_eq!(Options::parse(&stored).unwrap(), options);
                }
                Err(error) => {
                    let named = matches!(error, Error::Option { .. });
                    prop_assert!(named);
                }
            }
        }

        #[test]
        fn nested_arrays_of_any_json_are_refused_or_have_as_many_elements_as_their_shape(value in json()) {
            for element in ElementType::ALL {
                if let Some((column, shape)) = from_json(&value, element) {
                    prop_assert_eq!(column.len(), shape.iter().product::<usize>());
                }
            }
        }

        #[test]
        fn any_bytes_are_elements_or_refused_whole(bytes in prop::collection::vec(any::<u8>(), 0..70)) {
            for element in ElementType::ALL {
                let mut column = Column::new(element);
                if column.push_bytes(&bytes) {
                    prop_assert_eq!(column.len() * element.size(), bytes.len());
                } else {
                    prop_assert_eq!(column.len(), 0);
                }
            }
        }
    }
}
