//! The signature of a version: its inputs and outputs as validation observed them, and its measured batch size.
//!
//! A declared shape may be wrong: LightGBM declares `[1]` for its label and returns `[N]`. Therefore `shape` and the
//! batch axis come from runs of 1, 2 and 3 rows. The declared shape is stored as well, for
//! reference.

use serde::{Deserialize, Serialize};

use crate::tensor::ElementType;

/// The inputs and outputs of a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Signature {
    /// The inputs, in the model's order.
    pub inputs: Vec<Input>,
    /// The outputs, in the model's order.
    pub outputs: Vec<Output>,
    /// The model has no batch axis: every row is a run of its own, and its arrays are whole tensors.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub whole: bool,
    /// The number of rows of every run, if the model fixes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fixed_rows: Option<usize>,
    /// The model is batch-dependent: the answer for a row changes with the other rows of its batch.
    #[serde(default)]
    pub batch_sensitive: bool,
    /// Validation ran the model, so the shapes are observed and not only declared.
    #[serde(default)]
    pub verified: bool,
    /// The best batch size that validation measured, in rows.
    pub batch_size: usize,
    /// The time of a run of one row, in microseconds, as validation measured it.
    #[serde(default)]
    pub single_micros: f64,
    /// The time per row in a batch of `batch_size` rows, in microseconds.
    #[serde(default)]
    pub row_micros: f64,
    /// The measured runs of growing batches: the number of rows, and the time of the run in microseconds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sweep: Vec<(usize, f64)>,
    /// The memory of a session, in bytes, as validation measured it.
    #[serde(default)]
    pub session_bytes: usize,
    /// The sha256 of the stored tokenizer, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// The external data files that are stored with the version.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub external: Vec<External>,
    /// A row that the model accepts, if validation found one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<Sample>,
    /// The producer, opsets and other facts of the model file.
    #[serde(default)]
    pub metadata: serde_json::Map<String, serde_json::Value>,
}

/// A row that a model accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sample {
    /// The value of all elements: 0 or 1.
    pub fill: u8,
    /// The length of the open dimensions.
    pub length: usize,
}

/// A file of external data: weights outside the model file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct External {
    /// The file name in the model.
    pub location: String,
    /// The sha256 of the file, in hexadecimal.
    pub hash: String,
    /// The size of the file, in bytes.
    pub bytes: usize,
}

/// An input of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// The input's name.
    pub name: String,
    /// The element type.
    pub element: ElementType,
    /// The shape per row; `None` for an open dimension.
    pub shape: Vec<Option<usize>>,
    /// The declared shape of the tensor; -1 for an open dimension.
    pub declared: Vec<i64>,
    /// The position of the batch axis in the tensor; `None` if the input has no batch axis.
    #[serde(default = "first", skip_serializing_if = "is_first")]
    pub axis: Option<usize>,
    /// The source of the content.
    #[serde(default, skip_serializing_if = "Source::is_row")]
    pub source: Source,
}

/// The batch axis of nearly all inputs and outputs.
#[allow(clippy::unnecessary_wraps)]
fn first() -> Option<usize> {
    Some(0)
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_first(axis: &Option<usize>) -> bool {
    *axis == Some(0)
}

/// The source of an input's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The row.
    #[default]
    Row,
    /// The option `constants`.
    Constant,
    /// The tokenizer: token ids.
    TokenIds,
    /// The tokenizer: 1 for a token, 0 for padding.
    TokenMask,
    /// The tokenizer: 0 for the first text, 1 for the second.
    TokenTypes,
    /// The tokenizer: positions 0, 1, 2, and so on.
    TokenPositions,
}

impl Source {
    fn is_row(&self) -> bool {
        *self == Self::Row
    }

    /// Returns the tokenizer output for an input of this name. The names are those that Hugging Face models use.
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

    /// Returns whether the tokenizer provides the content.
    #[must_use]
    pub fn is_tokens(self) -> bool {
        !matches!(self, Self::Row | Self::Constant)
    }
}

/// The names of the texts that a version with a tokenizer takes, as Hugging Face tokenizers call them.
pub const TEXTS: [&str; 2] = ["text", "text_pair"];

impl Input {
    /// Returns the number of elements per row, or `None` if a dimension is open.
    #[must_use]
    pub fn width(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |n, d| d.map(|d| n.saturating_mul(d)))
    }
}

/// An output of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// The output's name.
    pub name: String,
    /// The kind of value per row.
    #[serde(flatten)]
    pub row: OutputRow,
    /// The declared shape of the tensor; -1 for an open dimension.
    pub declared: Vec<i64>,
    /// The position of the batch axis in the tensor; `None` if every row of a run gets the whole tensor.
    #[serde(default = "first", skip_serializing_if = "is_first")]
    pub axis: Option<usize>,
    /// The second dimension has one element per token of the text.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tokens: bool,
}

/// The kind of value that an output has per row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum OutputRow {
    /// A value, or a fixed number of values, of one type.
    Tensor {
        /// The element type.
        element: ElementType,
        /// The shape per row; empty for a single value.
        shape: Vec<usize>,
    },
    /// Values of one type in a shape that may differ by row.
    Open {
        /// The element type.
        element: ElementType,
        /// The shape per row; `None` for a dimension that may differ.
        shape: Vec<Option<usize>>,
    },
    /// Values by key (scikit-learn's ZipMap).
    Map {
        /// The key type: int64 or string.
        key: ElementType,
    },
    /// A value that SQL can represent only as JSON: a sequence, an optional value, or a map of other types.
    Nested {
        /// The type as ONNX Runtime names it.
        of: String,
    },
}

impl Output {
    /// Returns whether each row has a single value, not an array or a map.
    #[must_use]
    pub fn is_scalar(&self) -> bool {
        self.width() == Some(1)
    }

    /// Returns the number of elements per row, or `None` if it may differ by row.
    #[must_use]
    pub fn width(&self) -> Option<usize> {
        match &self.row {
            OutputRow::Tensor { shape, .. } => Some(shape.iter().product()),
            _ => None,
        }
    }

    /// Returns the number of dimensions of the tensor that validation observed.
    #[must_use]
    pub fn rank(&self) -> usize {
        let row = match &self.row {
            // The row shape of a single value omits dimensions of 1, but the declared shape has them.
            OutputRow::Tensor { shape, .. } if shape.is_empty() => return self.declared.len(),
            OutputRow::Tensor { shape, .. } => shape.len(),
            OutputRow::Open { shape, .. } => shape.len(),
            OutputRow::Map { .. } | OutputRow::Nested { .. } => 0,
        };
        row + usize::from(self.axis.is_some())
    }

    /// Returns the element type, or `None` for maps and nested values.
    #[must_use]
    pub fn element(&self) -> Option<ElementType> {
        match &self.row {
            OutputRow::Tensor { element, .. } | OutputRow::Open { element, .. } => Some(*element),
            _ => None,
        }
    }

    /// Returns whether the output has a state per token, which pooling can combine into one vector.
    #[must_use]
    pub fn is_pooled(&self) -> bool {
        self.tokens && self.element().is_some_and(ElementType::is_float) && self.declared.len() == 3
    }

    /// Formats the value per row for messages and views: `float32[2]`, `int64`, `map(string, float32)`.
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

/// More bytes than a process can have, and more rows than a batch. Numbers of hostile processes are compared with it.
pub const IMPOSSIBLE: usize = 1 << 48;

impl Signature {
    /// Whether validation can have found this. A model always has an output.
    #[must_use]
    pub fn is_possible(&self) -> bool {
        let numbers = [self.batch_size, self.session_bytes, self.fixed_rows.unwrap_or(1)];
        !self.outputs.is_empty() && numbers.iter().all(|n| *n < IMPOSSIBLE)
    }

    /// Returns the position of the output with this name.
    #[must_use]
    pub fn output(&self, name: &str) -> Option<usize> {
        self.outputs.iter().position(|o| o.name == name)
    }

    /// Returns the inputs that rows provide. With a tokenizer, the first `texts` of `TEXTS` come first.
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

    /// Returns the number of tokens per text if the model fixes it.
    #[must_use]
    pub fn fixed_tokens(&self) -> Option<usize> {
        self.inputs.iter().filter(|i| i.source.is_tokens()).find_map(|i| i.shape.first().copied().flatten())
    }

    /// Returns whether the tokenizer provides the content of an input.
    #[must_use]
    pub fn takes_text(&self) -> bool {
        self.inputs.iter().any(|i| i.source.is_tokens())
    }

    /// Returns whether the model file has one of these operators, or `true` if its operators are not recorded.
    #[must_use]
    pub fn has_operator(&self, names: &[&str]) -> bool {
        match self.metadata.get("operators").and_then(|o| o.as_array()) {
            Some(operators) => operators.iter().any(|o| names.iter().any(|n| o == n)),
            None => true,
        }
    }

    /// Returns the names of all outputs.
    #[must_use]
    pub fn output_names(&self) -> Vec<String> {
        self.outputs.iter().map(|o| o.name.clone()).collect()
    }
}
