//! The plain calls: `predict`, `predict_text`, `predict_array`, `predict_json`, `embed`. One run a call.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use pg_predict_engine::chunk::Chunk;
use pg_predict_engine::signature::OutputRow;
use pg_predict_engine::tensor::{ElementType, Scalar};
use pgrx::pg_sys::{self, Datum};

use crate::error::{Error, Result};
use crate::pg::call::{Call, pg_function};
use crate::pg::results::Layout;
use crate::pg::site::{Group, Site};
use crate::pg::{emit, snapshot, text};

pg_function!(pg_predict_predict, pg_finfo_pg_predict_predict, predict);
pg_function!(pg_predict_predict_text, pg_finfo_pg_predict_predict_text, predict_text);
pg_function!(pg_predict_predict_array, pg_finfo_pg_predict_predict_array, predict_array);
pg_function!(pg_predict_embed, pg_finfo_pg_predict_embed, embed);
pg_function!(pg_predict_predict_json, pg_finfo_pg_predict_predict_json, predict_json);

/// What a call site keeps from call to call.
#[derive(Default)]
struct Slot {
    open: Option<Open>,
}

struct Open {
    reference: Vec<u8>,
    /// What of the database the reference was resolved in.
    seen: snapshot::Seen,
    site: Rc<RefCell<Site>>,
    group: Group,
}

/// Scores the row of a call; gives the layout and the encoded row.
fn score(call: &Call) -> Result<(Arc<Layout>, Vec<u8>)> {
    let Some(reference) = call.argument(0) else { return Err(Error::NullArgument { what: "the model reference" }) };
    let raw = text::raw(reference);
    let seen = snapshot::seen();
    let slot = call.site(|| Ok(Slot::default()))?;
    // An expression may outlive its statement: what it resolved is good for one state of the database only.
    if slot.open.as_ref().is_none_or(|o| o.reference != raw || o.seen != seen) {
        slot.open = None;
        let site = Rc::new(RefCell::new(super::batch::open(&text::text(reference)?, call)?));
        let group = Group::new(Some(Rc::clone(&site)), raw);
        slot.open = Some(Open { reference: raw.to_vec(), seen, site, group });
    }
    let Some(open) = slot.open.as_mut() else { return Err(Error::StaleHandle) };
    let chunk = open.group.run_one(call, 1)?;
    let layout = open.site.borrow_mut().plain_layout();
    Ok((layout, chunk))
}

/// Refuses an output that is not one value a row.
fn one_value(layout: &Layout, function: &'static str) -> Result<()> {
    if emit::selects_scalar(layout) {
        return Ok(());
    }
    let output = &layout.outputs[layout.selected];
    let hint = match &output.row {
        OutputRow::Map { .. } => {
            format!("Name one key, as in '{}/{}[key]', or use predict_json().", layout.model, output.name)
        }
        OutputRow::Nested { .. } => "predict_json() returns it.".to_owned(),
        OutputRow::Tensor { .. } | OutputRow::Open { .. } => {
            format!(
                "Name one element, as in '{}/{}[1]', or use predict_array() or predict_json().",
                layout.model, output.name
            )
        }
    };
    Err(Error::OutputKind {
        model: format!("{}@{}", layout.model, layout.version),
        output: output.name.clone(),
        kind: output.describe(),
        function,
        hint,
    })
}

fn predict(call: &Call) -> Result<Option<Datum>> {
    let (layout, bytes) = score(call)?;
    one_value(&layout, "predict()")?;
    let chunk = Chunk::parse(&bytes)?;
    if !chunk.ran(0) {
        return Ok(None);
    }
    let Some(scalar) = emit::selected(&layout, &chunk, 0)? else { return Ok(None) };
    let number = scalar.number().ok_or_else(|| {
        let output = &layout.outputs[layout.selected];
        Error::OutputKind {
            model: format!("{}@{}", layout.model, layout.version),
            output: output.name.clone(),
            kind: output.describe(),
            function: "predict()",
            hint: "predict_text() returns it.".to_owned(),
        }
    })?;
    Ok(Some(Datum::from(number.to_bits())))
}

fn predict_text(call: &Call) -> Result<Option<Datum>> {
    let (layout, bytes) = score(call)?;
    one_value(&layout, "predict_text()")?;
    let chunk = Chunk::parse(&bytes)?;
    if !chunk.ran(0) {
        return Ok(None);
    }
    Ok(emit::selected(&layout, &chunk, 0)?.map(|s| text::datum(&emit::as_text(s))))
}

fn predict_array(call: &Call) -> Result<Option<Datum>> {
    let (layout, bytes) = score(call)?;
    array(&layout, &bytes, "predict_array()")
}

fn embed(call: &Call) -> Result<Option<Datum>> {
    let (layout, bytes) = score(call)?;
    let output = &layout.outputs[layout.selected];
    let is_vector = match &output.row {
        OutputRow::Tensor { shape, .. } => shape.len() == 1,
        OutputRow::Open { shape, .. } => shape.len() == 1,
        _ => false,
    };
    if !is_vector {
        return Err(Error::OutputKind {
            model: format!("{}@{}", layout.model, layout.version),
            output: output.name.clone(),
            kind: output.describe(),
            function: "embed()",
            hint: if output.tokens {
                "Create the version with the option \"pooling\": \"mean\", which makes one vector of the states of tokens."
            } else {
                "Name an output that is one vector, as in 'model/output'."
            }
            .to_owned(),
        });
    }
    array(&layout, &bytes, "embed()")
}

/// The selected output of a row as real[].
fn array(layout: &Layout, bytes: &[u8], function: &'static str) -> Result<Option<Datum>> {
    let chunk = Chunk::parse(bytes)?;
    let output = &layout.outputs[layout.selected];
    let of_map = matches!(output.row, OutputRow::Map { .. }) && layout.element.is_some();
    let refused = || Error::OutputKind {
        model: format!("{}@{}", layout.model, layout.version),
        output: output.name.clone(),
        kind: output.describe(),
        function,
        hint: "predict_json() returns it.".to_owned(),
    };
    if !of_map && output.element().is_none_or(|e| e == ElementType::String) {
        return Err(refused());
    }
    if !chunk.ran(0) {
        return Ok(None);
    }
    let float4 = |s: Scalar<'_>| s.number().map(|x| Datum::from((x as f32).to_bits()));
    let mut values = Vec::new();
    let mut shape =
        if layout.element.is_some() { vec![] } else { emit::row_shape(output, &chunk, layout.selected, 0)? };
    if layout.element.is_some() {
        values.extend(emit::selected(layout, &chunk, 0)?.and_then(float4));
    } else {
        for i in 0..shape.iter().product() {
            values.extend(float4(chunk.scalar(layout.selected, 0, i)?));
        }
    }
    if shape.is_empty() {
        shape = vec![values.len()];
    }
    if shape.len() > emit::MOST_DIMENSIONS {
        return Err(refused());
    }
    let count = values.len();
    emit::array(&mut values, &mut vec![false; count], &shape, pg_sys::FLOAT4OID).map(Some)
}

fn predict_json(call: &Call) -> Result<Option<Datum>> {
    let (layout, bytes) = score(call)?;
    let chunk = Chunk::parse(&bytes)?;
    if !chunk.ran(0) {
        return Ok(None);
    }
    if layout.element.is_some() {
        return Ok(emit::selected(&layout, &chunk, 0)?.map(|s| emit::jsonb(&s.json().to_string())));
    }
    let mut all = serde_json::Map::new();
    for (place, output) in layout.outputs.iter().enumerate() {
        all.insert(output.name.clone(), emit::output_json(output, &chunk, place, 0)?);
    }
    Ok(Some(emit::jsonb(&serde_json::Value::Object(all).to_string())))
}
