//! The forms of a plain call: what `predict`, `predict_text`, `predict_array`, `predict_json` and `embed` make of a row's
//! outputs.

use pg_predict_engine::batch::Values;
use pg_predict_engine::chunk::Chunk;
use pg_predict_engine::signature::{Output, OutputRow};
use pg_predict_engine::tensor::{Column, ElementType, Scalar};
use pgrx::pg_sys::{self, Datum};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::pg::results::{ElementKey, Layout};
use crate::pg::{emit, text};

/// A plain call, by what it returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Form {
    Predict,
    Text,
    Array,
    Json,
    Embed,
}

impl Form {
    /// The form that a C function of ours has.
    pub(crate) fn of_symbol(symbol: &str) -> Option<Self> {
        Some(match symbol {
            "pg_predict_predict" => Self::Predict,
            "pg_predict_predict_text" => Self::Text,
            "pg_predict_predict_array" => Self::Array,
            "pg_predict_predict_json" => Self::Json,
            "pg_predict_embed" => Self::Embed,
            _ => return None,
        })
    }

    /// The function's name, as messages have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Predict => "predict()",
            Self::Text => "predict_text()",
            Self::Array => "predict_array()",
            Self::Json => "predict_json()",
            Self::Embed => "embed()",
        }
    }

    /// Refuses an output that the form cannot give.
    pub(crate) fn check(self, layout: &Layout) -> Result<()> {
        let output = &layout.outputs[layout.selected];
        match self {
            Self::Predict | Self::Text if !emit::selects_scalar(layout) => Err(refused(
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

    /// The value of row `nth` of those that were run; none is NULL. The layout has been checked.
    pub(crate) fn value(self, layout: &Layout, chunk: &Chunk<'_>, nth: usize) -> Result<Option<Datum>> {
        Ok(match self {
            Self::Predict => match emit::selected(layout, chunk, nth)? {
                Some(scalar) => Some(Datum::from(number(layout, scalar)?.to_bits())),
                None => None,
            },
            Self::Text => emit::selected(layout, chunk, nth)?.map(|s| text::datum(&emit::as_text(s))),
            Self::Array | Self::Embed => Some(array(layout, chunk, nth, self)?),
            Self::Json => json(layout, chunk, nth)?,
        })
    }

    /// The numbers of `predict` where they lie in a row of one tensor: `width` and the place of the element.
    pub(crate) fn plain_numbers<'a>(self, layout: &Layout, values: &'a [Values]) -> Option<(&'a Column, usize, usize)> {
        let element = match &layout.element {
            None => 0,
            Some(ElementKey::Position(n)) => *n,
            _ => return None,
        };
        match values.get(layout.selected) {
            Some(Values::Tensor { width, data }) if self == Self::Predict && data.element() != ElementType::String => {
                Some((data, *width, element))
            }
            _ => None,
        }
    }
}

fn refused(layout: &Layout, form: Form, hint: &str) -> Error {
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
    scalar.number().ok_or_else(|| refused(layout, Form::Predict, "predict_text() returns it."))
}

/// The selected output of a row as real[].
fn array(layout: &Layout, chunk: &Chunk<'_>, nth: usize, form: Form) -> Result<Datum> {
    let output = &layout.outputs[layout.selected];
    let float4 = |s: Scalar<'_>| s.number().map(|x| Datum::from((x as f32).to_bits()));
    let mut values = Vec::new();
    let mut shape = Vec::new();
    if layout.element.is_some() {
        values.extend(emit::selected(layout, chunk, nth)?.and_then(float4));
    } else {
        shape = emit::row_shape(output, chunk, layout.selected, nth)?;
        for i in 0..shape.iter().product() {
            values.extend(float4(chunk.scalar(layout.selected, nth, i)?));
        }
    }
    if shape.is_empty() {
        shape = vec![values.len()];
    }
    if shape.len() > emit::MOST_DIMENSIONS {
        return Err(refused(layout, form, "predict_json() returns it."));
    }
    let count = values.len();
    emit::array(&mut values, &mut vec![false; count], &shape, pg_sys::FLOAT4OID)
}

/// All outputs of a row by name, or the selected element.
fn json(layout: &Layout, chunk: &Chunk<'_>, nth: usize) -> Result<Option<Datum>> {
    if layout.element.is_some() {
        return Ok(emit::selected(layout, chunk, nth)?.map(|s| emit::jsonb(&s.json().to_string())));
    }
    let mut all = serde_json::Map::new();
    let wanted = |place: &usize| !layout.named || *place == layout.selected;
    for (place, output) in layout.outputs.iter().enumerate().filter(|(place, _)| wanted(place)) {
        all.insert(output.name.clone(), emit::output_json(output, chunk, place, nth)?);
    }
    Ok(Some(emit::jsonb(&serde_json::Value::Object(all).to_string())))
}
