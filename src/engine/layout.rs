//! What the rows of a result consist of, and the rules that hold for a layout that was read from outside.

use serde::{Deserialize, Serialize};

use crate::reference::Element;
use crate::signature::{Output, OutputRow};
use crate::tensor::ElementType;

/// The most columns that a row has in PostgreSQL (MaxTupleAttributeNumber in access/htup_details.h).
pub const MOST_COLUMNS: usize = 1664;
/// The most dimensions that a value of an output has: JSON is nested as deep, and its readers recurse.
pub const MOST_DIMENSIONS: usize = 64;
/// The most arrays that a value without any element consists of, as JSON: `[30000000, 0]` holds nothing and is printed as 30
/// million arrays.
const MOST_EMPTY_ARRAYS: usize = 1 << 16;
/// The longest name of a carried column, in bytes: 63 characters of the server's encoding, as UTF-8.
const LONGEST_NAME: usize = 63 * 4;

/// What the rows of a result consist of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// The model's name.
    pub model: String,
    /// The version's number.
    pub version: i32,
    /// The outputs that were kept.
    pub outputs: Vec<Output>,
    /// The output that casts and plain calls give: its place in `outputs`.
    pub selected: usize,
    /// An element of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub element: Option<ElementKey>,
    /// The columns that came along.
    pub carried: Vec<Carried>,
    /// The selected output was named: the others are not wanted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub named: bool,
    /// No row ever told its type: all are NULL, and so is whatever they carried.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unbound: bool,
}

/// A column that comes back with its row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Carried {
    /// Its name.
    pub name: String,
    /// Its type; that of text where its values are kept as text.
    pub oid: u32,
    /// Its type modifier.
    pub typmod: i32,
    /// Its values are kept in the text form of this type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_of: Option<TypeText>,
}

/// A type, as it is written down: other servers, and later times, know it by its name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TypeText {
    /// Its name, with its schema and its modifier.
    pub name: String,
    /// The columns of the row types in it. Their values are told apart by their order, so a change must be noticed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<String>,
}

/// An element, as stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ElementKey {
    /// By its place.
    Position(usize),
    /// Of a map, by an integer key.
    Integer(i64),
    /// Of a map, by a text key.
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

/// Rows that were bad, and are NULL because their version says so.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Faults {
    /// How many.
    pub rows: u64,
    /// Which was the first, and why it was bad.
    pub first: Option<(String, String)>,
}

impl Faults {
    /// Counts those of other rows, which came later.
    pub fn add(&mut self, later: Self) {
        self.rows = self.rows.saturating_add(later.rows);
        self.first = self.first.take().or(later.first);
    }
}

/// The number of elements of a shape; none where it has too many dimensions, or elements or empty arrays beyond all bounds.
#[must_use]
pub fn width(shape: &[usize]) -> Option<usize> {
    if shape.len() > MOST_DIMENSIONS {
        return None;
    }
    let mut arrays = 1_usize;
    for n in shape {
        if *n == 0 {
            return (arrays <= MOST_EMPTY_ARRAYS).then_some(0);
        }
        arrays = arrays.checked_mul(*n)?;
    }
    u32::try_from(arrays).ok().map(|n| n as usize)
}

impl Layout {
    /// Checks a layout that comes from outside; the error says what is wrong.
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
                if width(shape).is_some_and(|w| *n < w) =>
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
        OutputRow::Tensor { shape, .. } if width(shape).is_none() => {
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
