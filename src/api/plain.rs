//! The plain calls: `predict`, `predict_text`, `predict_array`, `predict_json`, `embed`. One run a call.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use pg_predict_engine::chunk::Chunk;
use pgrx::pg_sys::Datum;

use crate::cost;
use crate::error::{Error, Result};
use crate::pg::call::{Call, pg_function};
use crate::pg::form::Form;
use crate::pg::planner::CostQuestion;
use crate::pg::results::Layout;
use crate::pg::site::{Group, Site};
use crate::pg::{planner, shared, snapshot, text};

pg_function!(pg_predict_predict, pg_finfo_pg_predict_predict, predict);
pg_function!(pg_predict_predict_text, pg_finfo_pg_predict_predict_text, predict_text);
pg_function!(pg_predict_predict_array, pg_finfo_pg_predict_predict_array, predict_array);
pg_function!(pg_predict_embed, pg_finfo_pg_predict_embed, embed);
pg_function!(pg_predict_predict_json, pg_finfo_pg_predict_predict_json, predict_json);

pg_function!(pg_predict_call_support, pg_finfo_pg_predict_call_support, support);

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
        let site = Rc::new(RefCell::new(super::batch::open(&text::text(reference)?, call, shared::Form::Call)?));
        let group = Group::new(Some(Rc::clone(&site)), raw);
        slot.open = Some(Open { reference: raw.to_vec(), seen, site, group });
    }
    let Some(open) = slot.open.as_mut() else { return Err(Error::StaleHandle) };
    let chunk = open.group.run_one(call, 1)?;
    let layout = open.site.borrow_mut().plain_layout()?;
    Ok((layout, chunk))
}

/// The value of a call.
fn value(call: &Call, form: Form) -> Result<Option<Datum>> {
    let (layout, bytes) = score(call)?;
    form.check(&layout)?;
    let chunk = Chunk::parse(&bytes)?;
    if chunk.ran(0) { form.value(&layout, &chunk, 0) } else { Ok(None) }
}

/// The support function of plain calls and of the aggregates' functions: it tells the planner what they cost.
fn support(call: &Call) -> Result<Option<Datum>> {
    if let Some(question) = CostQuestion::of(call) {
        // A null pointer, not an SQL NULL, says that nothing is known.
        return Ok(Some(if cost::answer(&question) { question.datum() } else { Datum::null() }));
    }
    planner::call_support(call)
}

fn predict(call: &Call) -> Result<Option<Datum>> {
    value(call, Form::Predict)
}

fn predict_text(call: &Call) -> Result<Option<Datum>> {
    value(call, Form::Text)
}

fn predict_array(call: &Call) -> Result<Option<Datum>> {
    value(call, Form::Array)
}

fn predict_json(call: &Call) -> Result<Option<Datum>> {
    value(call, Form::Json)
}

fn embed(call: &Call) -> Result<Option<Datum>> {
    value(call, Form::Embed)
}
