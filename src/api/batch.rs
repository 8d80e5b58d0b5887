//! Implements the aggregate `predict_batch`: its transition, combine, serialize, deserialize and final functions.

use std::cell::RefCell;
use std::rc::Rc;

use pgrx::pg_sys::Datum;

use crate::error::{Error, Result};
use crate::pg::call::{Call, internal, pg_function};
use crate::pg::{memory, report, text};
use crate::planner::cost;
use crate::registry;
use crate::results::call_site::{CallSite, GroupState, RowArguments};
use crate::results::expanded;
use crate::results::result_set::Results;
use crate::results::spill::Pool;
use crate::runtime::activity::QueryForm;

pg_function!(pg_predict_batch_transition, pg_finfo_pg_predict_batch_transition, transition);
pg_function!(pg_predict_batch_transition_handle, pg_finfo_pg_predict_batch_transition_handle, transition_handle);
pg_function!(pg_predict_batch_transition_columns, pg_finfo_pg_predict_batch_transition_columns, transition_columns);
pg_function!(
    pg_predict_batch_transition_columns_handle,
    pg_finfo_pg_predict_batch_transition_columns_handle,
    transition_columns_handle
);
pg_function!(pg_predict_batch_transition_scored, pg_finfo_pg_predict_batch_transition_scored, transition_scored);
pg_function!(pg_predict_scored_row, pg_finfo_pg_predict_scored_row, scored_row);
pg_function!(pg_predict_batch_combine, pg_finfo_pg_predict_batch_combine, combine);
pg_function!(pg_predict_batch_serialize, pg_finfo_pg_predict_batch_serialize, serialize);
pg_function!(pg_predict_batch_deserialize, pg_finfo_pg_predict_batch_deserialize, deserialize);
pg_function!(pg_predict_batch_final, pg_finfo_pg_predict_batch_final, finish);
pg_function!(pg_predict_batch_final_handle, pg_finfo_pg_predict_batch_final_handle, finish_handle);

/// The call sites of one aggregate call: one per model reference, and nearly always a single one.
#[derive(Default)]
struct Sites {
    sites: Vec<(Vec<u8>, Rc<RefCell<CallSite>>)>,
    /// The columns that the reader names.
    columns: Option<Vec<String>>,
    /// Whether all rows name the same model.
    constant: bool,
}

/// Opens the call site of a model reference.
pub(super) fn open(reference: &str, call: &Call, form: QueryForm) -> Result<CallSite> {
    let resolved = registry::resolve(reference)?;
    cost::note(reference, &resolved.version);
    let session = registry::session(&resolved.version)?;
    CallSite::new(
        resolved.version,
        resolved.selection,
        resolved.names_output,
        session,
        call.site_context(),
        (form, call.expected_rows()),
    )
}

fn transition(call: &Call) -> Result<Option<Datum>> {
    step(call, RowArguments { first: 2, names: None }, None)
}

fn transition_handle(call: &Call) -> Result<Option<Datum>> {
    step(call, RowArguments { first: 3, names: None }, Some(2))
}

fn transition_columns(call: &Call) -> Result<Option<Datum>> {
    step(call, RowArguments { first: 3, names: Some(2) }, None)
}

fn transition_columns_handle(call: &Call) -> Result<Option<Datum>> {
    step(call, RowArguments { first: 4, names: Some(3) }, Some(2))
}

/// Adds one row. `wanted`: the argument with the names of the columns that the reader uses.
fn step(call: &Call, row: RowArguments, wanted: Option<usize>) -> Result<Option<Datum>> {
    // The most common case first: a row that goes directly into the tensors needs nothing else.
    if let Some(group) = call.state::<GroupState>(0)
        && group.take(&call.arguments()[row.first..])
    {
        return Ok(Some(internal(group)));
    }
    let Some(reference) = call.argument(1) else { return Err(Error::NullArgument { what: "the model reference" }) };
    let sites = call.site(|| {
        let columns = wanted.and_then(|i| call.argument(i)).map(text::array).transpose()?;
        Ok(Sites { sites: Vec::new(), columns, constant: call.names_model() })
    })?;
    let group = match call.state::<GroupState>(0) {
        Some(group) => {
            if !sites.constant {
                group.check_reference(reference)?;
            }
            group
        }
        None => {
            let context = call.aggregate_context("predict_batch")?;
            let raw = text::raw(reference);
            let site = match sites.sites.iter().find(|(r, _)| r == raw) {
                Some((_, site)) => Rc::clone(site),
                None => {
                    let site = Rc::new(RefCell::new(open(&text::text(reference)?, call, QueryForm::Aggregate)?));
                    sites.sites.push((raw.to_vec(), Rc::clone(&site)));
                    site
                }
            };
            call.give_state(memory::own(context, GroupState::new(Some(site), raw)))
        }
    };
    group.add(call, row, sites.columns.as_deref(), sites.constant)?;
    Ok(Some(internal(group)))
}

/// Adds a row that a BatchPredict node has scored.
fn transition_scored(call: &Call) -> Result<Option<Datum>> {
    let Some(number) = call.argument(1) else { return Err(Error::StaleHandle) };
    let pool = call.site(|| Ok(Pool::new()))?;
    let group = match call.state::<GroupState>(0) {
        Some(group) => group,
        None => {
            let context = call.aggregate_context("predict_batch")?;
            call.give_state(memory::own(context, GroupState::new(None, &[])))
        }
    };
    group.add_scored(number.value() as u64, pool, call)?;
    Ok(Some(internal(group)))
}

/// A row that is scored for `transition_scored`. Only a BatchPredict node evaluates it.
fn scored_row(_call: &Call) -> Result<Option<Datum>> {
    Err(Error::Context { function: "scored_row()", reason: "is called by a user" })
}

fn combine(call: &Call) -> Result<Option<Datum>> {
    let Some(theirs) = call.state::<GroupState>(1) else { return Ok(call.argument(0)) };
    let ours = match call.state::<GroupState>(0) {
        Some(ours) => ours,
        None => {
            let context = call.aggregate_context("predict_batch")?;
            call.give_state(memory::own(context, GroupState::new(None, &[])))
        }
    };
    let pool = call.site(|| Ok(Pool::new()))?;
    ours.absorb(theirs, pool, call)?;
    Ok(Some(internal(ours)))
}

fn serialize(call: &Call) -> Result<Option<Datum>> {
    let Some(group) = call.state::<GroupState>(0) else { return Ok(None) };
    let Some(results) = group.complete(call)? else { return Ok(Some(text::bytes(&[]))) };
    crate::results::exchange::put(&results).map(Some)
}

fn deserialize(call: &Call) -> Result<Option<Datum>> {
    let Some(bytes) = call.argument(0) else { return Ok(None) };
    let group = GroupState::of_parcel(crate::results::exchange::take(text::varlena(bytes))?);
    let context = memory::current();
    Ok(Some(internal(memory::own(context, group))))
}

/// Returns the results of a group after its last row, and warns about rows that failed.
fn complete(call: &Call) -> Result<Option<Results>> {
    let Some(group) = call.state::<GroupState>(0) else { return Ok(None) };
    let results = group.complete(call)?;
    if let Some(results) = &results {
        let (layout, faults) = (&results.layout, &results.faults);
        report::rows_failed(&layout.model, layout.version, faults.rows, faults.first.as_ref());
    }
    Ok(results)
}

fn finish(call: &Call) -> Result<Option<Datum>> {
    Ok(complete(call)?.map(expanded::expand))
}

fn finish_handle(call: &Call) -> Result<Option<Datum>> {
    let context = call.aggregate_context("predict_batch")?;
    Ok(complete(call)?.map(|results| Datum::from(expanded::name(results, context))))
}
