//! The signature: what a version takes and gives, as the probe saw it, and how many rows to run together.
//!
//! Declared shapes lie (LightGBM's label says `[1]` and returns `[N]`), so what counts is `shape` and the batch axis
//! that runs of 1, 2 and 3 rows showed; what the file declares is kept beside it to be looked at.

use serde::{Deserialize, Serialize};

use crate::tensor::ElementType;

/// What a version takes and gives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Signature {
    /// In the model's order.
    pub inputs: Vec<Input>,
    /// In the model's order.
    pub outputs: Vec<Output>,
    /// The model has no batch axis: a row is one whole run, and its arrays are whole tensors.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub whole: bool,
    /// The only number of rows that a run takes, where the model fixes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fixed_rows: Option<usize>,
    /// A row's answer depends on the other rows of its batch.
    #[serde(default)]
    pub batch_sensitive: bool,
    /// The probe could run the model: shapes are seen, not only declared.
    #[serde(default)]
    pub verified: bool,
    /// Rows that run best together, as the probe measured.
    pub batch_size: usize,
    /// Time of a run of one row, in microseconds, as the probe measured.
    #[serde(default)]
    pub single_micros: f64,
    /// Time of one row inside a batch of `batch_size`, in microseconds.
    #[serde(default)]
    pub row_micros: f64,
    /// Runs of growing batches: rows, and the time of the run in microseconds, as the probe measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sweep: Vec<(usize, f64)>,
    /// What a session needs, in bytes, as the probe measured.
    #[serde(default)]
    pub session_bytes: usize,
    /// The sha256 of the tokenizer that is stored with the version, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// The files of weights that are stored with the version.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub external: Vec<External>,
    /// A row that the model takes, where the probe found one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<Sample>,
    /// Producer, opsets and other facts of the file.
    #[serde(default)]
    pub metadata: serde_json::Map<String, serde_json::Value>,
}

/// A row that a model takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sample {
    /// The value of all its elements: 0 or 1.
    pub fill: u8,
    /// The length of its open dimensions.
    pub length: usize,
}

/// A file of weights outside of the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct External {
    /// The name that the model has for it.
    pub location: String,
    /// Its sha256, in hexadecimal.
    pub hash: String,
    /// Its size.
    pub bytes: usize,
}

/// One input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    pub element: ElementType,
    /// The shape of one row; `None` where the model leaves a dimension open.
    pub shape: Vec<Option<usize>>,
    /// As the file declares it; -1 is open.
    pub declared: Vec<i64>,
    /// Which dimension of the tensor is the batch; none where it has no such.
    #[serde(default = "first", skip_serializing_if = "is_first")]
    pub axis: Option<usize>,
    /// Where its content comes from.
    #[serde(default, skip_serializing_if = "Source::is_row")]
    pub source: Source,
}

/// The axis that nearly every input and output is batched along.
#[allow(clippy::unnecessary_wraps)]
fn first() -> Option<usize> {
    Some(0)
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_first(axis: &Option<usize>) -> bool {
    *axis == Some(0)
}

/// Where the content of an input comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The row.
    #[default]
    Row,
    /// The option `constants`.
    Constant,
    /// The tokenizer: which tokens.
    TokenIds,
    /// The tokenizer: 1 for a token, 0 for padding.
    TokenMask,
    /// The tokenizer: 0 for the first text, 1 for the second.
    TokenTypes,
    /// The tokenizer: 0, 1, 2 ..
    TokenPositions,
}

impl Source {
    fn is_row(&self) -> bool {
        *self == Self::Row
    }

    /// The input of the tokenizer that a name stands for, as its field calls them.
    #[must_use]
    pub(crate) fn of_tokens(name: &str) -> Option<Self> {
        match name {
            "input_ids" | "ids" | "tokens" => Some(Self::TokenIds),
            "attention_mask" | "input_mask" | "mask" => Some(Self::TokenMask),
            "token_type_ids" | "segment_ids" => Some(Self::TokenTypes),
            "position_ids" => Some(Self::TokenPositions),
            _ => None,
        }
    }

    /// Whether it is made of text.
    #[must_use]
    pub fn is_tokens(self) -> bool {
        !matches!(self, Self::Row | Self::Constant)
    }
}

/// The names of the texts that a version with a tokenizer takes, as its field calls them.
pub const TEXTS: [&str; 2] = ["text", "text_pair"];

impl Input {
    /// Elements of one row, where the model says.
    #[must_use]
    pub fn width(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |n, d| d.map(|d| n.saturating_mul(d)))
    }
}

/// One output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// What a row of it is.
    #[serde(flatten)]
    pub row: OutputRow,
    /// As the file declares it; -1 is open.
    pub declared: Vec<i64>,
    /// Which dimension of the tensor is the batch; none where every row of a run has the whole.
    #[serde(default = "first", skip_serializing_if = "is_first")]
    pub axis: Option<usize>,
    /// Its second dimension follows the tokens of the text.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tokens: bool,
}

/// What one row of an output is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum OutputRow {
    /// A value or a group of values of one type.
    Tensor {
        /// The type of its elements.
        element: ElementType,
        /// The shape of one row; empty for a single value.
        shape: Vec<usize>,
    },
    /// Values of one type in a shape that may differ by row.
    Open {
        /// The type of its elements.
        element: ElementType,
        /// The shape of one row; `None` where it may differ.
        shape: Vec<Option<usize>>,
    },
    /// Values by key (scikit-learn's ZipMap).
    Map {
        /// The keys: int64 or string.
        key: ElementType,
    },
    /// What SQL has only JSON for: a sequence, an optional value, a map of other types.
    Nested {
        /// Its type in ONNX Runtime's words.
        of: String,
    },
}

impl Output {
    /// Whether a row of it is one value of the given sort, not an array or a map.
    #[must_use]
    pub fn is_scalar(&self) -> bool {
        self.width() == Some(1)
    }

    /// Elements of one row, where all rows have as many.
    #[must_use]
    pub fn width(&self) -> Option<usize> {
        match &self.row {
            OutputRow::Tensor { shape, .. } => Some(shape.iter().product()),
            _ => None,
        }
    }

    /// The type of its elements, where it has one for all.
    #[must_use]
    pub fn element(&self) -> Option<ElementType> {
        match &self.row {
            OutputRow::Tensor { element, .. } | OutputRow::Open { element, .. } => Some(*element),
            _ => None,
        }
    }

    /// Whether it has a state for each token, which pooling makes one vector of.
    #[must_use]
    pub fn is_pooled(&self) -> bool {
        self.tokens && self.element().is_some_and(ElementType::is_float) && self.declared.len() == 3
    }

    /// How a row of it is written in messages and views: `float32[2]`, `int64`, `map(string, float32)`.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.row {
            OutputRow::Tensor { element, shape } if shape.iter().product::<usize>() == 1 => element.to_string(),
            OutputRow::Tensor { element, shape } => {
                let dims: Vec<String> = shape.iter().map(ToString::to_string).collect();
                format!("{element}[{}]", dims.join(","))
            }
            OutputRow::Open { element, shape } => {
                let dims: Vec<String> = shape.iter().map(|d| d.map_or("?".to_owned(), |d| d.to_string())).collect();
                format!("{element}[{}]", dims.join(","))
            }
            OutputRow::Map { key } => format!("map({key}, float32)"),
            OutputRow::Nested { of } => of.clone(),
        }
    }
}

impl Signature {
    /// The position of the output with this name.
    #[must_use]
    pub fn output(&self, name: &str) -> Option<usize> {
        self.outputs.iter().position(|o| o.name == name)
    }

    /// What a row brings: the inputs that come from it, or the texts of a version with a tokenizer.
    #[must_use]
    pub fn slots(&self, texts: usize) -> Vec<Input> {
        let rows = self.inputs.iter().filter(|i| i.source == Source::Row).cloned();
        let text = |name: &&str| Input {
            name: (*name).to_owned(),
            element: ElementType::String,
            shape: Vec::new(),
            declared: Vec::new(),
            axis: Some(0),
            source: Source::Row,
        };
        if self.takes_text() { TEXTS.iter().take(texts).map(text).chain(rows).collect() } else { rows.collect() }
    }

    /// The number of tokens that the model takes, where it fixes it.
    #[must_use]
    pub fn fixed_tokens(&self) -> Option<usize> {
        self.inputs.iter().filter(|i| i.source.is_tokens()).find_map(|i| i.shape.first().copied().flatten())
    }

    /// Whether inputs are made of text.
    #[must_use]
    pub fn takes_text(&self) -> bool {
        self.inputs.iter().any(|i| i.source.is_tokens())
    }

    /// Whether the file has one of these operators; true where that is not known.
    #[must_use]
    pub fn has_operator(&self, names: &[&str]) -> bool {
        match self.metadata.get("operators").and_then(|o| o.as_array()) {
            Some(operators) => operators.iter().any(|o| names.iter().any(|n| o == n)),
            None => true,
        }
    }

    /// The names of all outputs.
    #[must_use]
    pub fn output_names(&self) -> Vec<String> {
        self.outputs.iter().map(|o| o.name.clone()).collect()
    }
}
