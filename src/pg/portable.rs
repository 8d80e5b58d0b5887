//! The text form of a prediction_batch: JSON that names everything, so that it can be looked at, stored elsewhere and
//! read back by another server.
//!
//! `{"model", "version", "outputs", "selected", "carried": [{"name", "type", "typmod"}], "rows": [[carried, outputs]]}`;
//! `outputs` of a row is null where the row was not run, carried values are in their types' text form.

use std::sync::Arc;

use pg_predict_engine::batch::{Keys, Maps, Values};
use pg_predict_engine::chunk::{self, Rows};
use pg_predict_engine::signature::{Output, OutputRow};
use pg_predict_engine::tensor::{Column, ElementType, from_json};
use pgrx::pg_sys::{self, Datum, Oid};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::{Error, Result};
use crate::pg::convert::Carried;
use crate::pg::results::{ElementKey, Layout, Results};
use crate::pg::{emit, expanded, memory, text};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Portable {
    model: String,
    version: i32,
    outputs: Vec<Output>,
    selected: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    element: Option<ElementKey>,
    carried: Vec<NamedType>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unbound: bool,
    /// Each a `Row`, read one at a time: as values all of them would take many times the text.
    rows: Vec<Box<RawValue>>,
}

/// Carried values, and outputs where the row was run.
type Row = (Vec<Option<String>>, Option<Vec<Value>>);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedType {
    name: String,
    r#type: String,
    #[serde(default = "no_typmod", skip_serializing_if = "is_no_typmod")]
    typmod: i32,
}

fn no_typmod() -> i32 {
    -1
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_no_typmod(n: &i32) -> bool {
    *n == -1
}

fn bad(reason: impl Into<String>) -> Error {
    Error::BadBatch { reason: reason.into() }
}

/// Prints results.
pub(crate) fn print(results: &Results) -> Result<String> {
    let layout = &results.layout;
    // The text is never much shorter than the flat form.
    if results.flat_size()? / 4 >= LONGEST {
        return Err(Error::TooLarge { bytes: results.flat_size()? });
    }
    let mut outputs: Vec<_> = Vec::new();
    for c in &layout.carried {
        let (mut function, mut varlena) = (Oid::INVALID, false);
        // SAFETY: looks up the output function of a type that exists.
        unsafe { pg_sys::getTypeOutputInfo(Oid::from(c.oid), &raw mut function, &raw mut varlena) };
        outputs.push(function);
    }
    let head = Portable {
        model: layout.model.clone(),
        version: layout.version,
        outputs: layout.outputs.clone(),
        selected: layout.selected,
        element: layout.element.clone(),
        carried: layout
            .carried
            .iter()
            .map(|c| NamedType {
                name: c.name.clone(),
                // SAFETY: returns a palloc'd name.
                r#type: text::copied(unsafe { pg_sys::format_type_be_qualified(Oid::from(c.oid)) }),
                typmod: c.typmod,
            })
            .collect(),
        unbound: layout.unbound,
        rows: Vec::new(),
    };
    let mut json = serde_json::to_string(&head).map_err(|e| bad(e.to_string()))?;
    // The rows are last, and there is none yet: `..,"rows":[]}`.
    json.truncate(json.len() - 2);
    let mut separator = "";
    emit::each_carried(results, |chunk, nth, values, nulls| {
        let carried: Vec<Option<String>> = (0..layout.carried.len())
            .map(|i| {
                // SAFETY: calls the type's output function with a value of the type.
                (!nulls[i]).then(|| text::copied(unsafe { pg_sys::OidOutputFunctionCall(outputs[i], values[i]) }))
            })
            .collect();
        let answer: Option<Vec<Value>> = match nth {
            None => None,
            Some(nth) => Some(
                layout
                    .outputs
                    .iter()
                    .enumerate()
                    .map(|(place, output)| emit::output_json(output, chunk, place, nth))
                    .collect::<Result<Vec<_>>>()?,
            ),
        };
        json.push_str(separator);
        separator = ",";
        json.push_str(&serde_json::to_string(&(carried, answer)).map_err(|e| bad(e.to_string()))?);
        if json.len() >= LONGEST { Err(Error::TooLarge { bytes: json.len() }) } else { Ok(()) }
    })?;
    json.push_str("]}");
    Ok(json)
}

/// PostgreSQL's limit for one value, with room for the end.
const LONGEST: usize = 0x3fff_ff00;

/// Rows of a chunk made by reading text.
const ROWS: usize = 4096;

/// Reads the text form into a flat value.
pub(crate) fn parse(json: &str) -> Result<Datum> {
    let portable: Portable = serde_json::from_str(json).map_err(|e| bad(e.to_string()))?;
    let Some(selected) = portable.outputs.get(portable.selected) else { return Err(bad("no output is selected")) };
    match (&selected.row, &portable.element) {
        (_, None) => {}
        (OutputRow::Tensor { shape, .. }, Some(ElementKey::Position(n))) if *n < shape.iter().product() => {}
        (OutputRow::Open { .. }, Some(ElementKey::Position(_))) => {}
        (OutputRow::Map { key: ElementType::Int64 }, Some(ElementKey::Integer(_)))
        | (OutputRow::Map { key: ElementType::String }, Some(ElementKey::Text(_))) => {}
        _ => return Err(bad("the selected element is not one of its output")),
    }
    let mut carried = Vec::new();
    let mut inputs = Vec::new();
    for c in &portable.carried {
        let oid = type_named(&c.r#type);
        let (mut function, mut parameter) = (Oid::INVALID, Oid::INVALID);
        // SAFETY: looks up the input function of a type that exists.
        unsafe { pg_sys::getTypeInputInfo(oid, &raw mut function, &raw mut parameter) };
        inputs.push((function, parameter, c.typmod));
        carried.push(Carried { name: c.name.clone(), oid: oid.to_u32(), typmod: c.typmod });
    }
    let layout = Arc::new(Layout {
        model: portable.model,
        version: portable.version,
        outputs: portable.outputs,
        selected: portable.selected,
        element: portable.element,
        carried,
        named: false,
        unbound: portable.unbound,
    });
    let desc = emit::carried_desc(&layout);
    let mut results = Results::new(Arc::clone(&layout), crate::pg::spill::Pool::new());
    let home = memory::Private::new(c"pg_predict row");
    for part in portable.rows.chunks(ROWS) {
        let mut rows = Rows::default();
        let mut values: Vec<Values> = layout.outputs.iter().map(Values::none).collect();
        for row in part {
            let (carried, answer): Row = serde_json::from_str(row.get()).map_err(|e| bad(e.to_string()))?;
            if carried.len() != inputs.len() {
                return Err(bad("a row has another number of carried values than there are carried columns"));
            }
            if !inputs.is_empty() {
                memory::within(home.context(), || carry(&carried, &inputs, desc, &mut rows));
                // SAFETY: the row has been copied.
                unsafe { pg_sys::MemoryContextReset(home.context()) };
            }
            rows.ran.push(answer.is_some());
            let Some(answer) = answer else { continue };
            if answer.len() != layout.outputs.len() {
                return Err(bad("a row has another number of outputs than the model"));
            }
            for ((output, values), answer) in layout.outputs.iter().zip(&mut values).zip(&answer) {
                append(output, values, answer)?;
            }
        }
        results.push_in_memory(chunk::encode(&rows, &values)?)?;
    }
    expanded::flat(&results)
}

/// A type by its name.
fn type_named(name: &str) -> Oid {
    let name = text::c(name);
    let (mut oid, mut typmod) = (Oid::INVALID, -1);
    // SAFETY: parses a type name; raises where there is no such type.
    unsafe {
        #[cfg(feature = "pg15")]
        pg_sys::parseTypeString(name.as_ptr(), &raw mut oid, &raw mut typmod, false);
        #[cfg(not(feature = "pg15"))]
        pg_sys::parseTypeString(name.as_ptr(), &raw mut oid, &raw mut typmod, std::ptr::null_mut());
    }
    oid
}

/// Keeps carried values, read by their types' input functions.
fn carry(carried: &[Option<String>], inputs: &[(Oid, Oid, i32)], desc: pg_sys::TupleDesc, rows: &mut Rows) {
    let mut nulls: Vec<bool> = carried.iter().map(Option::is_none).collect();
    let mut values: Vec<Datum> = carried
        .iter()
        .zip(inputs)
        .map(|(value, (function, parameter, typmod))| match value {
            None => Datum::null(),
            Some(value) => {
                let value = text::cstring_datum(value);
                // SAFETY: calls the type's input function; it raises where the text is not of the type.
                unsafe { pg_sys::OidInputFunctionCall(*function, value.cast_mut_ptr(), *parameter, *typmod) }
            }
        })
        .collect();
    crate::pg::carry::keep(desc, None, &mut values, &mut nulls, rows);
}

/// Appends one row of an output.
fn append(output: &Output, values: &mut Values, answer: &Value) -> Result<()> {
    let wrong = || bad(format!("a value of output \"{}\" is not {}", output.name, output.describe()));
    match (&output.row, values) {
        (OutputRow::Tensor { .. }, Values::Tensor { width, data }) => {
            let before = data.len();
            if flatten(answer, data) && data.len() - before == *width { Ok(()) } else { Err(wrong()) }
        }
        (OutputRow::Open { element, .. }, Values::Open(open)) => {
            let (data, shape) = from_json(answer, *element).ok_or_else(wrong)?;
            open.push(&shape, data);
            Ok(())
        }
        (OutputRow::Nested { .. }, Values::Nested(texts)) => {
            texts.push(&answer.to_string());
            Ok(())
        }
        (OutputRow::Map { .. }, Values::Maps(Maps { ends, keys, values })) => {
            let mut numbers = Column::new(ElementType::Float32);
            for (k, v) in answer.as_object().ok_or_else(wrong)? {
                match keys {
                    Keys::Text(keys) => keys.push(k),
                    Keys::Int64(keys) => keys.push(k.parse().map_err(|_| wrong())?),
                }
                if !numbers.push_json(v) {
                    return Err(wrong());
                }
            }
            if let Column::Float32(numbers) = numbers {
                values.extend(numbers);
            }
            ends.push(values.len());
            Ok(())
        }
        _ => Err(wrong()),
    }
}

/// Appends the values of nested arrays; false where one is of another type.
fn flatten(value: &Value, column: &mut Column) -> bool {
    match value {
        Value::Array(items) => items.iter().all(|v| flatten(v, column)),
        single => column.push_json(single),
    }
}
