//! The layout of a result's rows, and the checks of a layout that comes from outside.

use serde::{Deserialize, Serialize};

use crate::reference::Element;
use crate::signature::{Output, OutputRow};
use crate::tensor::{ElementType, MOST_DIMENSIONS, element_count};

/// The maximum number of columns of a row in PostgreSQL (MaxTupleAttributeNumber in access/htup_details.h).
pub const MOST_COLUMNS: usize = 1664;
/// The maximum length of a carried column's name, in bytes: 63 characters of the server encoding, as UTF-8.
const LONGEST_NAME: usize = 63 * 4;

/// The layout of the rows of a result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// The model's name.
    pub model: String,
    /// The version's number.
    pub version: i32,
    /// The outputs in the result.
    pub outputs: Vec<Output>,
    /// The position in `outputs` of the output that casts and plain calls return.
    pub selected: usize,
    /// The selected element of that output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub element: Option<ElementKey>,
    /// The carried columns.
    pub carried: Vec<Carried>,
    /// Whether the model reference names the selected output. The other outputs are then not returned.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub named: bool,
    /// No row determined the row type: all predictions are NULL, and so are all carried values.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unbound: bool,
}

/// A column that is returned with its row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Carried {
    /// The column's name.
    pub name: String,
    /// The type's OID. It is that of `text` if the values are stored as text.
    pub oid: u32,
    /// The type modifier.
    pub typmod: i32,
    /// The original type, if the values are stored in its text form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_of: Option<TypeText>,
}

/// A type in text form. Other servers and later versions look it up by its name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TypeText {
    /// The type name, with schema and modifier.
    pub name: String,
    /// The columns of the row types in it. Values are matched to columns by order, so a change must be detected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<String>,
}

/// A selected element, as stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ElementKey {
    /// A position, from 0.
    Position(usize),
    /// An integer key of a map.
    Integer(i64),
    /// A text key of a map.
    Text(String),
}

impl From<&Element> for ElementKey {
    fn from(element: &Element) -> Self {
        match element {
            Element::Position(n) => Self::Position(*n),
            Element::Integer(n) => Self::Integer(*n),
            Element::Text(t) => Self::Text(t.clone()),
        }
    }
}

/// Rows that failed and are NULL because the version's options say so.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Faults {
    /// The number of rows.
    pub rows: u64,
    /// The first such row, and its error.
    pub first: Option<(String, String)>,
}

impl Faults {
    /// Adds the faults of later rows.
    pub fn add(&mut self, later: Self) {
        self.rows = self.rows.saturating_add(later.rows);
        self.first = self.first.take().or(later.first);
    }
}

impl Layout {
    /// Checks a layout that comes from outside. The error describes the defect.
    pub fn check(&self) -> Result<(), String> {
        let columns = self.carried.len().saturating_add(self.outputs.len());
        if columns > MOST_COLUMNS {
            return Err(format!("it has {columns} columns, and a row has at most {MOST_COLUMNS}"));
        }
        if self.model.is_empty() || self.model.contains('\0') {
            return Err("it has no name of a model".to_owned());
        }
        if self.version < 1 {
            return Err(format!("a model has no version {}", self.version));
        }
        for column in &self.carried {
            if column.name.contains('\0') || column.name.len() > LONGEST_NAME {
                return Err("a carried column has no valid name".to_owned());
            }
        }
        for output in &self.outputs {
            check_output(output)?;
        }
        let Some(selected) = self.outputs.get(self.selected) else { return Err("no output is selected".to_owned()) };
        match (&selected.row, &self.element) {
            (_, None) | (OutputRow::Open { .. }, Some(ElementKey::Position(_))) => Ok(()),
            (OutputRow::Tensor { shape, .. }, Some(ElementKey::Position(n)))
                if element_count(shape).is_some_and(|w| *n < w) =>
            {
                Ok(())
            }
            (OutputRow::Map { key: ElementType::Int64 }, Some(ElementKey::Integer(_)))
            | (OutputRow::Map { key: ElementType::String }, Some(ElementKey::Text(_))) => Ok(()),
            _ => Err("the selected element is not one of its output".to_owned()),
        }
    }
}

fn check_output(output: &Output) -> Result<(), String> {
    if output.name.contains('\0') {
        return Err("an output has no valid name".to_owned());
    }
    let name = &output.name;
    if output.declared.len() > MOST_DIMENSIONS {
        return Err(format!("output \"{name}\" has more than {MOST_DIMENSIONS} dimensions"));
    }
    match &output.row {
        OutputRow::Tensor { shape, .. } if element_count(shape).is_none() => {
            Err(format!("output \"{name}\" has a shape that is too large"))
        }
        OutputRow::Open { shape, .. } if shape.len() > MOST_DIMENSIONS => {
            Err(format!("output \"{name}\" has more than {MOST_DIMENSIONS} dimensions"))
        }
        OutputRow::Map { key } if !matches!(key, ElementType::Int64 | ElementType::String) => {
            Err(format!("output \"{name}\" has keys of type {key}"))
        }
        _ => Ok(()),
    }
}
