//! Prints and reads the text form of a prediction_batch.
//!
//! The text is JSON with all names and types, so that it can be inspected, stored elsewhere and read by another server:
//! `{"format", "model", "version", "outputs", "selected", "carried": [{"name", "type"}], "rows": [[carried, outputs]]}`
//! The `outputs` of a row are null if the row was not run. Carried values are in the text form of their types.
//! docs/architecture.md describes the format.

use std::sync::Arc;

use pg_predict_engine::Error as Engine;
use pg_predict_engine::batch::Values;
use pg_predict_engine::encoding::encoded_rows::{self, RowHeaders};
use pg_predict_engine::encoding::layout::{Layout, TypeText};
use pg_predict_engine::encoding::text_form::{self, CarriedText, FORMAT, TextHeader};
use pg_predict_engine::encoding::text_rows;
use pg_predict_engine::encoding::text_rows::CarriedTexts;
use pg_predict_engine::encoding::text_writer::Writer;
use pgrx::pg_sys::{self, Datum, Oid};

use crate::error::{Error, Result};
use crate::pg::process::check_interrupts;
use crate::pg::{memory, text};
use crate::results::result_set::Results;
use crate::results::{expanded, result_rows};
use crate::rows::binding::Carried;
use crate::rows::carried_values;
use crate::rows::stored_type::{self, Style, TypeInput, TypeOutput};

/// PostgreSQL's limit for one value in bytes, less some room for the end of the text.
const LONGEST: usize = 0x3fff_ff00;

fn bad(reason: impl Into<String>) -> Error {
    Error::BadBatch { reason: reason.into() }
}

/// Prints results in the text form.
pub(crate) fn print(results: &Results) -> Result<String> {
    let layout = &results.layout;
    let head = TextHeader {
        format: FORMAT,
        model: layout.model.clone(),
        version: layout.version,
        outputs: layout.outputs.clone(),
        selected: layout.selected,
        element: layout.element.clone(),
        carried: layout
            .carried
            .iter()
            .map(|c| {
                let TypeText { name, definition } =
                    c.text_of.clone().unwrap_or_else(|| stored_type::written(Oid::from(c.oid), c.typmod));
                CarriedText { name: c.name.clone(), r#type: name, definition, typmod: -1 }
            })
            .collect(),
        unbound: layout.unbound,
        rows: [],
    };
    let head = serde_json::to_string(&head).map_err(|e| bad(e.to_string()))?;
    let outputs: Vec<Option<TypeOutput>> =
        layout.carried.iter().map(|c| c.text_of.is_none().then(|| TypeOutput::of(Oid::from(c.oid)))).collect();
    let mut tick = check_interrupts;
    let mut json = Writer::new(LONGEST, &mut tick);
    // The header ends with an empty list of rows, `..,"rows":[]}`. The rows are written into that list.
    json.raw(head.strip_suffix("]}").unwrap_or(&head))?;
    let style = Style::begin();
    let mut separator = "";
    result_rows::each_carried(results, |chunk, nth, values, nulls| {
        json.raw(separator)?;
        separator = ",";
        let mut before = "[[";
        for (i, output) in outputs.iter().enumerate() {
            json.raw(before)?;
            before = ",";
            match output {
                _ if nulls[i] => json.raw("null")?,
                Some(output) => json.string(&output.text(values[i]))?,
                None => json.string(&text::text(values[i])?)?,
            }
        }
        json.raw(if outputs.is_empty() { "[[]," } else { "]," })?;
        let Some(nth) = nth else { return Ok(json.raw("null]")?) };
        let mut before = "[";
        for (place, output) in layout.outputs.iter().enumerate() {
            json.raw(before)?;
            before = ",";
            json.output(output, chunk, place, nth)?;
        }
        Ok(json.raw("]]")?)
    })?;
    style.finish();
    json.raw("]}")?;
    Ok(json.into_text())
}

/// Limits of a chunk that is made from text: rows, and bytes. Reaching either one ends the chunk.
const ROWS: usize = 4096;
const BYTES: usize = 1 << 20;

/// How many times longer than its text a result may be. `BYTES` more are always allowed.
const MOST_GROWTH: usize = 16;

/// A carried column that is read from text.
struct CarriedColumn {
    input: TypeInput,
    /// The output function, if the column's values are kept as text.
    output: Option<TypeOutput>,
}

/// Returns the carried columns of a text, and how their values are read.
fn columns(carried: &[CarriedText]) -> Result<(Vec<Carried>, Vec<CarriedColumn>)> {
    let (mut kept, mut columns) = (Vec::new(), Vec::new());
    for c in carried {
        let (oid, typmod) = stored_type::named(&c.r#type);
        if !stored_type::is_modifier(oid, c.typmod) {
            return Err(bad(format!("column \"{}\" has a modifier that its type has not", c.name)));
        }
        if !stored_type::may_be_carried(oid) {
            return Err(bad(format!("column \"{}\" is of the type \"{}\", which cannot be stored", c.name, c.r#type)));
        }
        let typmod = if c.typmod == -1 { typmod } else { c.typmod };
        let (oid, typmod) = stored_type::base(oid, typmod);
        let written = stored_type::written(oid, typmod);
        if c.definition.is_some() && c.definition != written.definition {
            return Err(Error::TypeChanged { column: c.name.clone(), of: c.r#type.clone() });
        }
        let input = TypeInput::of(oid, typmod);
        if stored_type::is_kept(oid) {
            kept.push(Carried { name: c.name.clone(), oid: oid.to_u32(), typmod, text_of: None });
            columns.push(CarriedColumn { input, output: None });
        } else {
            kept.push(expanded::as_text(&c.name, written));
            columns.push(CarriedColumn { input, output: Some(TypeOutput::of(oid)) });
        }
    }
    Ok((kept, columns))
}

/// Reads the text form into a flat value.
pub(crate) fn parse(json: &str) -> Result<Datum> {
    let (head, rows) = text_form::read(json, &mut { check_interrupts })?;
    // Check the counts first: nothing is allocated per column before the number of columns is known to be allowed.
    let layout = |carried| Layout {
        model: head.model.clone(),
        version: head.version,
        outputs: head.outputs.clone(),
        selected: head.selected,
        element: head.element.clone(),
        carried,
        named: false,
        unbound: head.unbound,
    };
    let names = head.carried.iter().map(|c| Carried { name: c.name.clone(), oid: 0, typmod: -1, text_of: None });
    layout(names.collect()).check().map_err(bad)?;
    // SAFETY: checks the depth of the stack. This function recurses if a carried value is a prediction_batch.
    unsafe { pg_sys::check_stack_depth() };
    let (carried, columns) = columns(&head.carried)?;
    let layout = Arc::new(layout(carried));
    let form = carried_values::CarriedForm::of_types(layout.carried.iter().map(|c| Oid::from(c.oid)));
    let mut results = Results::new(Arc::clone(&layout), crate::results::spill::Pool::new());
    let home = memory::Private::new(c"pg_predict row");
    let mut tick = check_interrupts;
    let mut read = text_rows::TextRows::new(rows, columns.len(), &mut tick)?;
    let mut texts = CarriedTexts::default();
    // A short text may stand for a long value, for example one of char(10485760).
    let most = json.len().saturating_mul(MOST_GROWTH).saturating_add(BYTES);
    let fits = |bytes| {
        if bytes > most {
            return Err(bad(format!("its values are more than {MOST_GROWTH} times as long as their text")));
        }
        Ok(())
    };
    let style = Style::begin();
    let mut more = true;
    while more {
        let mut rows = RowHeaders::default();
        let mut values: Vec<Values> = layout.outputs.iter().map(Values::none).collect();
        more = false;
        while let Some(ran) = read.next(&layout.outputs, &mut values, &mut texts)? {
            if !columns.is_empty() {
                memory::within(home.context(), || keep(&columns, &form, &texts, &mut rows, || fits(home.bytes())))?;
                // SAFETY: the row has been copied.
                unsafe { pg_sys::MemoryContextReset(home.context()) };
            }
            rows.ran.push(ran);
            if rows.ran.len() >= ROWS || rows.bytes() + values.iter().map(Values::bytes).sum::<usize>() > BYTES {
                more = true;
                break;
            }
        }
        if !rows.ran.is_empty() {
            results.push_in_memory(encoded_rows::encode(&rows, &values)?)?;
        }
        fits(results.bytes())?;
        if results.bytes() > LONGEST {
            return Err(Error::TooLarge { bytes: results.bytes() });
        }
    }
    style.finish();
    expanded::flat(&results)
}

/// Reads carried values with the input functions of their types, and keeps them. Calls `fits` after each value.
fn keep(
    columns: &[CarriedColumn],
    form: &carried_values::CarriedForm,
    texts: &CarriedTexts,
    rows: &mut RowHeaders,
    fits: impl Fn() -> Result<()>,
) -> Result<()> {
    let mut values = Vec::with_capacity(columns.len());
    let mut nulls = Vec::with_capacity(columns.len());
    for (i, column) in columns.iter().enumerate() {
        let value = texts.get(i).map(|text| {
            let value = column.input.value(text);
            // Keep the text that the type writes, which may differ from the given one.
            column.output.as_ref().map_or(value, |output| text::datum(&output.text(value)))
        });
        fits()?;
        nulls.push(value.is_none());
        values.push(value.unwrap_or(Datum::null()));
    }
    form.keep(&values, &nulls, rows)
}

/// Turns an error about a malformed text into an error about a malformed binary value.
pub(crate) fn in_binary(error: Error) -> Error {
    match error {
        Error::BadBatch { reason } | Error::Engine { error: Engine::Malformed { reason }, .. } => {
            Error::BadBinary { reason }
        }
        other => other,
    }
}
