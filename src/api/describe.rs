//! `predict.describe`: describes the inputs and outputs of a model, and writes an example call that runs unchanged.

use std::fmt::Write;

use pg_predict_engine::device::Device;
use pg_predict_engine::signature::{Input, Sample};
use pg_predict_engine::tensor::ElementType;
use pgrx::pg_sys::Datum;

use crate::error::Result;
use crate::pg::call::{Call, pg_function};
use crate::pg::{quoting, text};
use crate::registry;
use crate::results::output_values;

pg_function!(pg_predict_describe, pg_finfo_pg_predict_describe, describe);
pg_function!(pg_predict_literal_of, pg_finfo_pg_predict_literal_of, literal_of);
pg_function!(pg_predict_name_of, pg_finfo_pg_predict_name_of, name_of);
pg_function!(pg_predict_printable_of, pg_finfo_pg_predict_printable_of, printable_of);

fn literal_of(call: &Call) -> Result<Option<Datum>> {
    Ok(Some(text::datum(&quoting::literal(&call.text(0, "the text")?))))
}

fn name_of(call: &Call) -> Result<Option<Datum>> {
    Ok(Some(text::datum(&quoting::identifier(&call.text(0, "the name")?))))
}

fn printable_of(call: &Call) -> Result<Option<Datum>> {
    Ok(Some(text::datum(&quoting::printable(&call.text(0, "the text")?))))
}

/// Returns the SQL expression of one value of an element type.
fn value(element: ElementType, fill: u8) -> String {
    match element {
        ElementType::String => "'a'::text".to_owned(),
        ElementType::Bool => (if fill == 0 { "false" } else { "true" }).to_owned(),
        _ => format!("{fill}::{}", text::type_name(output_values::scalar_type(element))),
    }
}

/// Returns the SQL expression of what a row contains for an input.
fn content(input: &Input, sample: Sample) -> String {
    let one = value(input.element, sample.fill);
    let shape: Vec<usize> = input.shape.iter().map(|d| d.unwrap_or(sample.length)).collect();
    if shape.iter().product::<usize>() == 1 && input.width().is_some() {
        return one;
    }
    let dims: Vec<String> = if shape.len() > output_values::MOST_DIMENSIONS {
        vec![shape.iter().product::<usize>().to_string()]
    } else {
        shape.iter().map(ToString::to_string).collect()
    };
    format!("array_fill({one}, ARRAY[{}])", dims.join(", "))
}

/// Returns the shape of an input as the comments of the description show it.
fn shape(input: &Input) -> String {
    let dims: Vec<String> = input.shape.iter().map(|d| d.map_or("?".to_owned(), |d| d.to_string())).collect();
    if dims.is_empty() { String::new() } else { format!("[{}]", dims.join(",")) }
}

fn describe(call: &Call) -> Result<Option<Datum>> {
    let reference = call.text(0, "the model reference")?;
    let resolved = registry::resolve(&reference)?;
    let version = &resolved.version;
    let signature = &version.signature;
    let features = version.options.features.as_ref();
    let texts = features.filter(|_| signature.takes_text()).map_or(1, Vec::len);
    let slots = signature.slots(texts);
    let sample = signature.sample.unwrap_or_default();

    let mut out = String::new();
    let mut line = |text: std::fmt::Arguments<'_>| {
        let _ = writeln!(out, "{text}");
    };
    // Names must not end the line of the comment that contains them.
    let printable = |names: &[String]| quoting::printable(&names.join(", ")).into_owned();
    let batch = if signature.whole {
        "a row is one whole run".to_owned()
    } else if version.runs_alone() {
        "rows are run one at a time, because they may influence each other in a batch".to_owned()
    } else if signature.takes_text() {
        "texts of like length are run together".to_owned()
    } else {
        format!("{} rows are run together", version.batch_size())
    };
    line(format_args!("-- Model {}: {batch}.", quoting::printable(&version.label())));
    let takes: Vec<String> = slots.iter().map(|i| format!("{} {}{}", i.name, i.element, shape(i))).collect();
    line(format_args!(
        "-- Takes of a row: {}.",
        if takes.is_empty() { "nothing".to_owned() } else { printable(&takes) }
    ));
    if let Some(features) = features.filter(|_| !signature.takes_text()) {
        line(format_args!("-- Its features, in order: {}.", printable(features)));
    }
    let gives: Vec<String> = signature.outputs.iter().map(|o| format!("{} {}", o.name, o.describe())).collect();
    line(format_args!("-- Gives: {}.", printable(&gives)));
    if let Some(device) = version.options.device.filter(|device| *device != Device::Cpu) {
        line(format_args!("-- Runs on the device {device}, unless the setting pg_predict.device names another."));
    }
    if signature.sample.is_none() {
        line(format_args!("-- The values below are made up, and this model takes others: put your own."));
    }
    // The reference as the caller wrote it, without an output.
    let name = quoting::literal(reference.split('/').next().unwrap_or(&reference));
    if slots.is_empty() {
        line(format_args!("SELECT predict_json({name}, ROW());"));
        return Ok(Some(text::datum(&out)));
    }
    let (columns, values): (Vec<String>, Vec<String>) = match features {
        Some(features) if signature.takes_text() => {
            features.iter().map(|f| (f.clone(), "'a text to look at'::text".to_owned())).unzip()
        }
        Some(features) => features.iter().map(|f| (f.clone(), value(slots[0].element, sample.fill))).unzip(),
        None if signature.takes_text() => {
            slots.iter().map(|i| (i.name.clone(), "'a text to look at'::text".to_owned())).unzip()
        }
        None => slots.iter().map(|i| (i.name.clone(), content(i, sample))).unzip(),
    };
    let quoted = |names: &[String]| names.iter().map(|n| quoting::identifier(n)).collect::<Vec<_>>().join(", ");
    let outputs: Vec<String> = signature
        .outputs
        .iter()
        .map(|o| format!("{} {}", quoting::identifier(&o.name), text::type_name(output_values::natural_type(o))))
        .collect();
    line(format_args!("SELECT p.*"));
    line(format_args!("  FROM predictions(("));
    line(format_args!("         SELECT predict_batch({name}, r)"));
    line(format_args!("           FROM (VALUES ({})) AS r({})", values.join(", "), quoted(&columns)));
    line(format_args!("       )) AS p({});", outputs.join(", ")));
    if features.is_none()
        && !signature.whole
        && matches!(slots.as_slice(), [i] if i.shape.len() == 1 && i.width().is_some_and(|w| w > 1))
    {
        line(format_args!(
            "-- The option \"features\" of predict.create_model() takes columns by their names instead of one array."
        ));
    }
    Ok(Some(text::datum(&out)))
}
