//! The options of a version: parsed strictly, checked against its signature when the version is created.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::device::Device;
use crate::error::{Error, Result};
use crate::signature::Signature;

/// The options of a version. A key that is not here is an error.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// The ordered column names of a single wide input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub features: Option<Vec<String>>,
    /// What a NULL feature does.
    #[serde(skip_serializing_if = "is_default")]
    pub on_null: OnNull,
    /// A value by column, taken where the column is NULL.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub defaults: Map<String, Value>,
    /// Rows run together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<usize>,
    /// Where it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<Device>,
    /// Threads of a session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What a NULL feature does to its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnNull {
    /// The row's prediction is NULL and the row is not run.
    #[default]
    Null,
    /// The statement fails.
    Error,
    /// A float input gets NaN; a NULL for another input makes the prediction NULL.
    Nan,
}

/// The largest batch size that can be asked for.
pub const MAX_BATCH_SIZE: usize = 1 << 20;
/// The most threads that a session can be given.
pub const MAX_THREADS: usize = 256;

/// The options, and what their values are.
const KEYS: [(&str, &str); 6] = [
    ("features", "an array of column names"),
    ("on_null", "one of \"null\", \"error\", \"nan\""),
    ("defaults", "an object with a value for each column"),
    ("batch_size", "a whole number of rows"),
    ("device", "one of \"cpu\", \"cuda\", \"cuda:N\", \"auto\""),
    ("threads", "a whole number"),
];

impl Options {
    /// Parses options; an unknown key or a value of the wrong type is an error that names it.
    pub fn parse(value: &Value) -> Result<Self> {
        let bad = |key: &str, reason: String| Error::Option { key: key.to_owned(), reason };
        let Some(object) = value.as_object() else { return Err(bad("", "Options are a JSON object".to_owned())) };
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
        Ok(options)
    }

    /// Checks the options against what the model takes.
    pub fn check(&self, signature: &Signature) -> Result<()> {
        let bad = |key: &str, reason: String| Err(Error::Option { key: key.to_owned(), reason });
        if let Some(features) = &self.features {
            let [input] = signature.inputs.as_slice() else {
                return bad(
                    "features",
                    format!("It is for models with one input, and this one has {}", signature.inputs.len()),
                );
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
            if let Some(twice) = features.iter().enumerate().find(|(i, f)| features[..*i].contains(f)) {
                return bad("features", format!("Column \"{}\" is named twice", twice.1));
            }
        }
        if self.on_null == OnNull::Nan && !signature.inputs.iter().any(|i| i.element.is_float()) {
            return bad(
                "on_null",
                "The value \"nan\" is for models with a float input, and this one has none".to_owned(),
            );
        }
        for (column, value) in &self.defaults {
            let names: Vec<&str> = match &self.features {
                Some(features) => features.iter().map(String::as_str).collect(),
                None => signature.inputs.iter().map(|i| i.name.as_str()).collect(),
            };
            if !names.iter().any(|n| n == column) {
                return bad(
                    "defaults",
                    format!("Column \"{column}\" is not one that the model takes: {}", names.join(", ")),
                );
            }
            let wide =
                signature.inputs.iter().find(|i| self.features.is_none() && &i.name == column && i.width() != Some(1));
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
        if let (Some(fixed), Some(_)) = (signature.fixed_rows, self.batch_size) {
            return bad("batch_size", format!("The model itself fixes its batch at {fixed} rows"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
}
