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
    /// What a session needs, in bytes, as the probe measured.
    #[serde(default)]
    pub session_bytes: usize,
    /// Producer, opsets and other facts of the file.
    #[serde(default)]
    pub metadata: serde_json::Map<String, serde_json::Value>,
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
}

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
    /// Values by key (scikit-learn's ZipMap).
    Map {
        /// The keys: int64 or string.
        key: ElementType,
    },
}

impl Output {
    /// Whether a row of it is one value of the given sort, not an array or a map.
    #[must_use]
    pub fn is_scalar(&self) -> bool {
        self.width() == Some(1)
    }

    /// Elements of one row; none for a map.
    #[must_use]
    pub fn width(&self) -> Option<usize> {
        match &self.row {
            OutputRow::Tensor { shape, .. } => Some(shape.iter().product()),
            OutputRow::Map { .. } => None,
        }
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
            OutputRow::Map { key } => format!("map({key}, float32)"),
        }
    }
}

impl Signature {
    /// The position of the output with this name.
    #[must_use]
    pub fn output(&self, name: &str) -> Option<usize> {
        self.outputs.iter().position(|o| o.name == name)
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
