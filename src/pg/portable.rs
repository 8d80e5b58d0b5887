//! The text form of a prediction_batch: JSON that names everything, so that it can be looked at, stored elsewhere and
//! read back by another server.
//!
//! `{"format", "model", "version", "outputs", "selected", "carried": [{"name", "type"}], "rows": [[carried, outputs]]}`;
//! `outputs` of a row is null where the row was not run, carried values are in their types' text form.
//! docs/architecture.md describes it.

use std::sync::Arc;

use pg_predict_engine::Error as Engine;
use pg_predict_engine::batch::Values;
use pg_predict_engine::chunk::{self, Rows};
use pg_predict_engine::layout::{Layout, TypeText};
use pg_predict_engine::portable::{self, CarriedText, FORMAT, Head, Texts, Writer};
use pgrx::pg_sys::{self, Datum, Oid};

use crate::error::{Error, Result};
use crate::pg::convert::Carried;
use crate::pg::results::Results;
use crate::pg::sessions::check_interrupts;
use crate::pg::stored_type::{self, Input, Output, Style};
use crate::pg::{carry, emit, expanded, memory, text};

/// PostgreSQL's limit for one value, with room for the end.
const LONGEST: usize = 0x3fff_ff00;

fn bad(reason: impl Into<String>) -> Error {
    Error::BadBatch { reason: reason.into() }
}

/// Prints results.
pub(crate) fn print(results: &Results) -> Result<String> {
    let layout = &results.layout;
    let head = Head {
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
    let outputs: Vec<Option<Output>> =
        layout.carried.iter().map(|c| c.text_of.is_none().then(|| Output::of(Oid::from(c.oid)))).collect();
    let mut tick = check_interrupts;
    let mut json = Writer::new(LONGEST, &mut tick);
    // The rows are last, and there is none yet: `..,"rows":[]}`.
    json.raw(head.strip_suffix("]}").unwrap_or(&head))?;
    let style = Style::begin();
    let mut separator = "";
    emit::each_carried(results, |chunk, nth, values, nulls| {
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

/// Rows of a chunk made by reading text, and bytes after which it ends.
const ROWS: usize = 4096;
const BYTES: usize = 1 << 20;

/// How many times longer than its text a result may be, and 16 MB more.
const MOST_GROWTH: usize = 16;

/// What a carried column of a text becomes.
struct Column {
    input: Input,
    /// Where its values are kept as text.
    output: Option<Output>,
}

/// The carried columns of a text, and how their values are read.
fn columns(carried: &[CarriedText]) -> Result<(Vec<Carried>, Vec<Column>)> {
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
        let input = Input::of(oid, typmod);
        if stored_type::is_kept(oid) {
            kept.push(Carried { name: c.name.clone(), oid: oid.to_u32(), typmod, text_of: None });
            columns.push(Column { input, output: None });
        } else {
            kept.push(expanded::as_text(&c.name, written));
            columns.push(Column { input, output: Some(Output::of(oid)) });
        }
    }
    Ok((kept, columns))
}

/// Reads the text form into a flat value.
pub(crate) fn parse(json: &str) -> Result<Datum> {
    let (head, rows) = portable::read(json, &mut { check_interrupts })?;
    // Counts come first: nothing is sized by a column before it is known that there may be so many.
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
    // SAFETY: looks at the stack: a carried value may be one of this type.
    unsafe { pg_sys::check_stack_depth() };
    let (carried, columns) = columns(&head.carried)?;
    let layout = Arc::new(layout(carried));
    let form = carry::Form::of_types(layout.carried.iter().map(|c| Oid::from(c.oid)));
    let mut results = Results::new(Arc::clone(&layout), crate::pg::spill::Pool::new());
    let home = memory::Private::new(c"pg_predict row");
    let mut tick = check_interrupts;
    let mut read = portable::Rows::new(rows, columns.len(), &mut tick)?;
    let mut texts = Texts::default();
    let style = Style::begin();
    let mut more = true;
    while more {
        let mut rows = Rows::default();
        let mut values: Vec<Values> = layout.outputs.iter().map(Values::none).collect();
        more = false;
        while let Some(ran) = read.next(&layout.outputs, &mut values, &mut texts)? {
            if !columns.is_empty() {
                memory::within(home.context(), || keep(&columns, &form, &texts, &mut rows))?;
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
            results.push_in_memory(chunk::encode(&rows, &values)?)?;
        }
        // A short text may stand for a long value: one of char(10485760).
        if results.bytes() > json.len().saturating_mul(MOST_GROWTH).saturating_add(16 << 20) {
            return Err(bad(format!("its values are more than {MOST_GROWTH} times as long as their text")));
        }
        if results.bytes() > LONGEST {
            return Err(Error::TooLarge { bytes: results.bytes() });
        }
    }
    style.finish();
    expanded::flat(&results)
}

/// Keeps carried values, read by their types' input functions.
fn keep(columns: &[Column], form: &carry::Form, texts: &Texts, rows: &mut Rows) -> Result<()> {
    let mut values = Vec::with_capacity(columns.len());
    let mut nulls = Vec::with_capacity(columns.len());
    for (i, column) in columns.iter().enumerate() {
        let value = texts.get(i).map(|text| {
            let value = column.input.value(text);
            // As the type writes it, which is not always how it was given.
            column.output.as_ref().map_or(value, |output| text::datum(&output.text(value)))
        });
        nulls.push(value.is_none());
        values.push(value.unwrap_or(Datum::null()));
    }
    form.keep(&values, &nulls, rows)
}

/// What is wrong with a binary value, where the error of a text says what is wrong with a text.
pub(crate) fn in_binary(error: Error) -> Error {
    match error {
        Error::BadBatch { reason } | Error::Engine { error: Engine::Malformed { reason }, .. } => {
            Error::BadBinary { reason }
        }
        other => other,
    }
}
