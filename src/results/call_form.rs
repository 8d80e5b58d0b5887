//! Converts the outputs of a row to the value of `predict`, `predict_text`, `predict_array`, `predict_json` or `embed`.

use pg_predict_engine::batch::Values;
use pg_predict_engine::encoding::encoded_reader::EncodedRows;
use pg_predict_engine::signature::{Output, OutputRow};
use pg_predict_engine::tensor::{Column, ElementType, Scalar};
use pgrx::pg_sys::{self, Datum};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::pg::text;
use crate::results::definition_list::BEFORE_ROW;
use crate::results::output_values;
use crate::results::result_set::{ElementKey, Layout};

/// The arguments of a call of `scored_row` before those of its row: the model, the aggregate that the user called, and
/// one that only the planner can make.
pub(crate) const BEFORE_SCORED_ROW: usize = 3;

/// The function of a plain call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CallForm {
    Predict,
    Text,
    Array,
    Json,
    Embed,
    /// A column of a `predictions()` that the planner replaced.
    Column,
    /// A row of a `predict_batch()` whose groups share their batches. Its value is the number of the scored row.
    Row,
}

impl CallForm {
    /// Returns the form that a C function of this extension implements.
    pub(crate) fn of_symbol(symbol: &str) -> Option<Self> {
        Some(match symbol {
            "pg_predict_predict" => Self::Predict,
            "pg_predict_predict_text" => Self::Text,
            "pg_predict_predict_array" => Self::Array,
            "pg_predict_predict_json" => Self::Json,
            "pg_predict_embed" => Self::Embed,
            "pg_predict_prediction_column" => Self::Column,
            "pg_predict_scored_row" => Self::Row,
            _ => return None,
        })
    }

    /// Returns the function's name for messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Predict => "predict()",
            Self::Text => "predict_text()",
            Self::Array => "predict_array()",
            Self::Json => "predict_json()",
            Self::Embed => "embed()",
            Self::Column => "predictions()",
            Self::Row => "predict_batch()",
        }
    }

    /// Returns the number of arguments before those of the row.
    pub(crate) fn before_row(self) -> usize {
        match self {
            Self::Column => BEFORE_ROW,
            Self::Row => BEFORE_SCORED_ROW,
            _ => 1,
        }
    }

    /// Reports an error if the form cannot return the selected output.
    pub(crate) fn check(self, layout: &Layout) -> Result<()> {
        let output = &layout.outputs[layout.selected];
        match self {
            Self::Predict | Self::Text if !output_values::selects_scalar(layout) => Err(refused(
                layout,
                self,
                &match &output.row {
                    OutputRow::Map { .. } => {
                        format!("Name one key, as in '{}/{}[key]', or use predict_json().", layout.model, output.name)
                    }
                    OutputRow::Nested { .. } => "predict_json() returns it.".to_owned(),
                    OutputRow::Tensor { .. } | OutputRow::Open { .. } => format!(
                        "Name one element, as in '{}/{}[1]', or use predict_array() or predict_json().",
                        layout.model, output.name
                    ),
                },
            )),
            Self::Embed if !is_vector(output) => Err(refused(
                layout,
                self,
                if output.tokens {
                    "Create the version with the option \"pooling\": \"mean\", which makes one vector of the states of tokens."
                } else {
                    "Name an output that is one vector, as in 'model/output'."
                },
            )),
            Self::Embed | Self::Array if !has_numbers(layout) => {
                Err(refused(layout, self, "predict_json() returns it."))
            }
            _ => Ok(()),
        }
    }

    /// Returns the value of the `nth` row that was run; None is NULL. The layout must have passed `check`.
    pub(crate) fn value(self, layout: &Layout, chunk: &EncodedRows<'_>, nth: usize) -> Result<Option<Datum>> {
        Ok(match self {
            Self::Predict => match output_values::selected(layout, chunk, nth)? {
                Some(scalar) => Some(Datum::from(number(layout, scalar)?.to_bits())),
                None => None,
            },
            Self::Text => output_values::selected(layout, chunk, nth)?.map(|s| text::datum(&output_values::as_text(s))),
            Self::Array | Self::Embed => Some(array(layout, chunk, nth, self)?),
            Self::Json => json(layout, chunk, nth)?,
            // Their values are no outputs.
            Self::Column | Self::Row => None,
        })
    }

    /// Returns the numbers of `predict` as a column of one tensor, the width of its rows and the position of the
    /// element. None if the values are elsewhere or may not fit float8.
    pub(crate) fn plain_numbers<'a>(self, layout: &Layout, values: &'a [Values]) -> Option<(&'a Column, usize, usize)> {
        let element = match &layout.element {
            None => 0,
            Some(ElementKey::Position(n)) => *n,
            _ => return None,
        };
        match values.get(layout.selected) {
            Some(Values::Tensor { width, data }) if self == Self::Predict && data.fits_float8() => {
                Some((data, *width, element))
            }
            _ => None,
        }
    }
}

fn refused(layout: &Layout, form: CallForm, hint: &str) -> Error {
    let output = &layout.outputs[layout.selected];
    Error::OutputKind {
        model: format!("{}@{}", layout.model, layout.version),
        output: output.name.clone(),
        kind: output.describe(),
        function: form.name(),
        hint: hint.to_owned(),
    }
}

fn is_vector(output: &Output) -> bool {
    match &output.row {
        OutputRow::Tensor { shape, .. } => shape.len() == 1,
        OutputRow::Open { shape, .. } => shape.len() == 1,
        _ => false,
    }
}

/// Whether the selection consists of numbers.
fn has_numbers(layout: &Layout) -> bool {
    let output = &layout.outputs[layout.selected];
    let of_map = matches!(output.row, OutputRow::Map { .. }) && layout.element.is_some();
    of_map || output.element().is_some_and(|e| e != ElementType::String)
}

fn number(layout: &Layout, scalar: Scalar<'_>) -> Result<f64> {
    let no_number = || refused(layout, CallForm::Predict, "predict_text() returns it.");
    match (scalar.exact(), scalar.number()) {
        (Some(x), _) => Ok(x),
        (None, Some(_)) => Err(output_values::not_held(layout, layout.selected, scalar, pg_sys::FLOAT8OID)),
        (None, None) => Err(no_number()),
    }
}

/// Returns the selected output of a row as real[].
fn array(layout: &Layout, chunk: &EncodedRows<'_>, nth: usize, form: CallForm) -> Result<Datum> {
    let output = &layout.outputs[layout.selected];
    let float4 = |s: Scalar<'_>| match s.real() {
        Some(x) => Ok(Datum::from(x.to_bits())),
        None => Err(output_values::not_held(layout, layout.selected, s, pg_sys::FLOAT4OID)),
    };
    let mut values = Vec::new();
    let mut shape = Vec::new();
    if layout.element.is_some() {
        values.extend(output_values::selected(layout, chunk, nth)?.map(float4).transpose()?);
    } else {
        shape = output_values::row_shape(output, chunk, layout.selected, nth)?;
        for i in 0..shape.iter().product() {
            values.push(float4(chunk.scalar(layout.selected, nth, i)?)?);
        }
    }
    if shape.is_empty() {
        shape = vec![values.len()];
    }
    if shape.len() > output_values::MOST_DIMENSIONS {
        return Err(refused(layout, form, "predict_json() returns it."));
    }
    let count = values.len();
    output_values::array(&mut values, &mut vec![false; count], &shape, pg_sys::FLOAT4OID)
}

/// Returns the outputs of a row by name, or the selected element. A named output is the only one returned.
fn json(layout: &Layout, chunk: &EncodedRows<'_>, nth: usize) -> Result<Option<Datum>> {
    if layout.element.is_some() {
        return Ok(output_values::selected(layout, chunk, nth)?.map(|s| output_values::jsonb(&s.json().to_string())));
    }
    let mut all = serde_json::Map::new();
    let wanted = |place: &usize| !layout.named || *place == layout.selected;
    for (place, output) in layout.outputs.iter().enumerate().filter(|(place, _)| wanted(place)) {
        all.insert(output.name.clone(), output_values::output_json(output, chunk, place, nth)?);
    }
    Ok(Some(output_values::jsonb(&serde_json::Value::Object(all).to_string())))
}
