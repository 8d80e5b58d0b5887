//! Implements `prediction_column`, a column of a `predictions()` that the planner replaced, for one row per call.
//!
//! A BatchPredict node usually evaluates these calls. The function is for the few places where there is none.

use std::cell::RefCell;
use std::rc::Rc;

use pg_predict_engine::encoding::encoded_reader::EncodedRows;
use pgrx::pg_sys::Datum;

use crate::api::batch;
use crate::error::{Error, Result};
use crate::pg::call::{Call, pg_function};
use crate::pg::catalog::snapshot;
use crate::pg::{memory, text};
use crate::results::call_site::GroupState;
use crate::results::definition_list::{BEFORE_ROW, DefinitionList};
use crate::results::result_rows::RowReader;
use crate::results::result_set::Layout;
use crate::runtime::activity::QueryForm;

pg_function!(pg_predict_prediction_column, pg_finfo_pg_predict_prediction_column, prediction_column);

/// What a call site keeps between calls.
struct SiteSlot {
    definition: DefinitionList,
    number: usize,
    open: Option<OpenSite>,
}

struct OpenSite {
    reference: Vec<u8>,
    /// The state of the database in which the reference was resolved.
    seen: snapshot::SnapshotState,
    group: GroupState,
    layout: Layout,
    reader: RowReader,
}

/// Reads the arguments that are the same for every row.
fn slot(call: &Call) -> Result<SiteSlot> {
    let definition = DefinitionList::parse(&call.text(1, "the definition list")?)?;
    let number = call.int(2).and_then(|n| usize::try_from(n).ok()).ok_or_else(DefinitionList::misused)?;
    definition.check(number, call.result_type(), call.argument_type(3))?;
    Ok(SiteSlot { definition, number, open: None })
}

fn prediction_column(call: &Call) -> Result<Option<Datum>> {
    let Some(reference) = call.argument(0) else { return Err(Error::NullArgument { what: "the model reference" }) };
    let raw = text::raw(reference);
    let seen = snapshot::seen();
    let slot = call.site(|| slot(call))?;
    if slot.open.as_ref().is_none_or(|o| o.reference != raw || o.seen != seen) {
        slot.open = None;
        let mut site = batch::open(&text::text(reference)?, call, QueryForm::Call)?;
        let mut layout = Layout::clone(&*site.plain_layout()?);
        layout.carried = slot.definition.carried(site.outputs());
        layout.unbound = false;
        let reader = memory::within(call.site_context(), || RowReader::new(&layout, slot.definition.describe()))?;
        let group = GroupState::new(Some(Rc::new(RefCell::new(site))), raw);
        slot.open = Some(OpenSite { reference: raw.to_vec(), seen, group, layout, reader });
    }
    let Some(open) = slot.open.as_mut() else { return Err(Error::StaleHandle) };
    let Some(column) = slot.number.checked_sub(1) else {
        // The call that returns no column, and that the others are counted by.
        open.group.run_one(call, BEFORE_ROW)?;
        return Ok(call.argument(3));
    };
    if open.reader.output(column).is_none() {
        return Ok(call.argument(3));
    }
    let bytes = open.group.run_one(call, BEFORE_ROW)?;
    let chunk = EncodedRows::parse(&bytes)?;
    if chunk.ran(0) { open.reader.output_value(column, &open.layout, &chunk, 0) } else { Ok(open.reader.null(column)) }
}
