//! Implements the plain calls `predict`, `predict_text`, `predict_array`, `predict_json` and `embed`: one run per call.

use std::cell::RefCell;
use std::rc::Rc;

use pg_predict_engine::encoding::encoded_reader::EncodedRows;
use pgrx::pg_sys::Datum;

use crate::error::{Error, Result};
use crate::pg::call::{Call, pg_function};
use crate::pg::catalog::snapshot;
use crate::pg::text;
use crate::planner::support::CostQuestion;
use crate::planner::{cost, support};
use crate::results::call_form::CallForm;
use crate::results::call_site::{CallSite, GroupState};
use crate::runtime::activity;

pg_function!(pg_predict_predict, pg_finfo_pg_predict_predict, predict);
pg_function!(pg_predict_predict_text, pg_finfo_pg_predict_predict_text, predict_text);
pg_function!(pg_predict_predict_array, pg_finfo_pg_predict_predict_array, predict_array);
pg_function!(pg_predict_embed, pg_finfo_pg_predict_embed, embed);
pg_function!(pg_predict_predict_json, pg_finfo_pg_predict_predict_json, predict_json);

pg_function!(pg_predict_call_support, pg_finfo_pg_predict_call_support, support);

/// What a call site keeps between calls.
#[derive(Default)]
struct SiteSlot {
    open: Option<OpenSite>,
}

struct OpenSite {
    reference: Vec<u8>,
    /// The state of the database in which the reference was resolved.
    seen: snapshot::SnapshotState,
    site: Rc<RefCell<CallSite>>,
    group: GroupState,
}

/// Scores the row of a call. Returns the state of the call site and the encoded row.
fn score(call: &Call) -> Result<(Rc<RefCell<CallSite>>, Vec<u8>)> {
    let Some(reference) = call.argument(0) else { return Err(Error::NullArgument { what: "the model reference" }) };
    let raw = text::raw(reference);
    let seen = snapshot::seen();
    let slot = call.site(|| Ok(SiteSlot::default()))?;
    // An expression may outlive its statement. So a resolution is valid for one state of the database only.
    if slot.open.as_ref().is_none_or(|o| o.reference != raw || o.seen != seen) {
        slot.open = None;
        let site = Rc::new(RefCell::new(super::batch::open(&text::text(reference)?, call, activity::QueryForm::Call)?));
        let group = GroupState::new(Some(Rc::clone(&site)), raw);
        slot.open = Some(OpenSite { reference: raw.to_vec(), seen, site, group });
    }
    let Some(open) = slot.open.as_mut() else { return Err(Error::StaleHandle) };
    let chunk = open.group.run_one(call, 1)?;
    Ok((Rc::clone(&open.site), chunk))
}

/// Returns the value of a call in the given form.
fn value(call: &Call, form: CallForm) -> Result<Option<Datum>> {
    let (site, bytes) = score(call)?;
    let mut site = site.borrow_mut();
    let layout = site.plain_layout()?;
    form.check(&layout)?;
    let chunk = EncodedRows::parse(&bytes)?;
    if chunk.ran(0) { site.answer(form.value(&layout, &chunk, 0)) } else { Ok(None) }
}

/// Planner support function of plain calls and of the aggregates' functions. It estimates their cost.
fn support(call: &Call) -> Result<Option<Datum>> {
    if let Some(question) = CostQuestion::of(call) {
        // A null pointer, not an SQL NULL, means that the cost is not known.
        return Ok(Some(if cost::answer(&question) { question.datum() } else { Datum::null() }));
    }
    support::call_support(call)
}

fn predict(call: &Call) -> Result<Option<Datum>> {
    value(call, CallForm::Predict)
}

fn predict_text(call: &Call) -> Result<Option<Datum>> {
    value(call, CallForm::Text)
}

fn predict_array(call: &Call) -> Result<Option<Datum>> {
    value(call, CallForm::Array)
}

fn predict_json(call: &Call) -> Result<Option<Datum>> {
    value(call, CallForm::Json)
}

fn embed(call: &Call) -> Result<Option<Datum>> {
    value(call, CallForm::Embed)
}
