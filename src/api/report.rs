//! `predict.report`: renders the page from the facts that SQL has gathered.
//!
//! SQL decides what the caller may see; this module reads nothing. The template, report/page.html, cannot mark a text
//! as HTML: its tags escape what they print. The page is ASCII in every encoding of the database or the client.

mod chart;
mod figures;

use std::collections::HashMap;
use std::fmt::Write;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use pgrx::pg_sys::Datum;
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::pg::call::{Call, pg_function};
use crate::pg::{quoting, text};

pg_function!(pg_predict_render_report, pg_finfo_pg_predict_render_report, render_report);

fn render_report(call: &Call) -> Result<Option<Datum>> {
    let Some(facts) = call.argument(0) else { return Ok(None) };
    let page = page(&text::of_jsonb(facts)).map_err(|error| Error::Report { reason: format!("{error:#}") })?;
    Ok(Some(text::datum(&page)))
}

fn page(facts: &str) -> std::result::Result<String, minijinja::Error> {
    let facts: Value = serde_json::from_str(facts)
        .map_err(|error| minijinja::Error::new(minijinja::ErrorKind::CannotDeserialize, error.to_string()))?;
    let page = environment()?.get_template("page.html")?.render(facts)?;
    // The macros at the start of the template leave empty lines.
    Ok(page.trim_start().to_owned())
}

/// Returns the template and the filters that it may use.
fn environment() -> std::result::Result<Environment<'static>, minijinja::Error> {
    let mut env = Environment::new();
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    // A misspelt fact is an error, but the template may test whether an optional fact is present.
    env.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    env.set_auto_escape_callback(|_| AutoEscape::Html);
    env.remove_filter("safe");
    env.set_formatter(|out, _, value| {
        if value.is_undefined() {
            return Err(minijinja::ErrorKind::UndefinedError.into());
        }
        if value.is_none() {
            return Ok(out.write_str("&#8211;")?);
        }
        Ok(if value.is_safe() {
            out.write_str(&value.to_string())
        } else {
            out.write_str(&escaped(&value.to_string()))
        }?)
    });
    env.add_global("style", Value::from_safe_string(include_str!("report/style.css").to_owned()));

    env.add_filter("figure", |x: &Value| of_number(x, figures::figure));
    env.add_filter("duration", |x: &Value| of_number(x, figures::duration));
    env.add_filter("percent", |x: &Value| of_number(x, figures::percent));
    env.add_filter("decimals", |x: &Value| of_number(x, |x| figures::fixed(x, 3)));
    env.add_filter("moment", |at: &str| figures::moment(at).map(|(date, time, _)| format!("{date} {time}")));
    env.add_filter("datetime", |at: &str| figures::moment(at).map(|(date, time, zone)| format!("{date}T{time}{zone}")));
    env.add_filter("shape", shape);
    env.add_filter("plain", |html: &Value| plain(&html.to_string()));
    env.add_filter("lines", |text: &str| Value::from_safe_string(lines(text)));

    env.add_filter("literal", |text: &str| quoting::literal(text));
    env.add_filter("quoted", |text: &str| text::quote_literal(text));
    env.add_filter("identifier", |name: &str| quoting::identifier(name));
    env.add_filter("columns", |taken: Serde<Taken>, values: Serde<HashMap<String, serde_json::Value>>| {
        columns(&taken, &values).map(|columns| Value::from(Serde(columns)))
    });

    env.add_filter("histogram_chart", |h: Serde<chart::Histogram>| Value::from(Serde(chart::histogram(&h))));
    env.add_filter("small_chart", |h: Serde<chart::Histogram>| Value::from(Serde(chart::small(&h))));
    env.add_filter("rows_chart", |runs: Serde<Vec<chart::Run>>| Value::from(Serde(chart::rows(&runs))));
    env.add_filter("latency_chart", |runs: Serde<Vec<chart::Run>>| Value::from(Serde(chart::latency(&runs))));
    env.add_filter("speed_chart", |speed: Serde<chart::Speed>| Value::from(Serde(chart::speed(&speed))));
    env.add_template("page.html", include_str!("report/page.html"))?;
    Ok(env)
}

/// Writes a text as HTML in ASCII and in one line. Control characters, and those that change the direction of writing,
/// are shown as escapes.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in quoting::printable(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_ascii() => out.push(c),
            c => {
                let _ = write!(out, "&#{};", u32::from(c));
            }
        }
    }
    out
}

/// Writes a text of several lines, such as a statement, as HTML.
fn lines(text: &str) -> String {
    let lines = text.trim_end_matches('\n').split('\n');
    lines.map(|line| escaped(line.trim_end_matches('\r'))).collect::<Vec<_>>().join("\n")
}

/// Returns the text of HTML without its tags.
fn plain(html: &str) -> String {
    html.split('<')
        .enumerate()
        .map(|(i, part)| if i == 0 { part } else { part.split_once('>').map_or(part, |p| p.1) })
        .collect()
}

/// Formats a number. JSON represents numbers that are not finite as strings. Returns None if there is no number.
fn of_number(value: &Value, write: impl Fn(f64) -> String) -> Option<String> {
    let number = f64::try_from(value.clone()).ok().or_else(|| value.as_str()?.parse().ok());
    number.map(|x| if x.is_finite() { write(x) } else { figures::figure(x) })
}

/// Formats the shape of a row, for example [3, 224, ?]. Returns None for a map or a sequence.
fn shape(dimensions: Serde<Option<Vec<i64>>>) -> Option<String> {
    let Serde(Some(dimensions)) = dimensions else { return None };
    if dimensions.is_empty() {
        return Some("one value".to_owned());
    }
    let written: Vec<String> = dimensions.iter().map(|d| if *d < 0 { "?".to_owned() } else { d.to_string() }).collect();
    Some(format!("[{}]", written.join(", ")))
}

/// The inputs of a version.
#[derive(Deserialize)]
struct Taken {
    /// The columns that fill its only input.
    features: Option<Vec<String>>,
    inputs: Option<Vec<Input>>,
}

#[derive(Deserialize)]
struct Input {
    name: String,
    row_shape: Vec<i64>,
    /// The SQL type of one value.
    sql_type: Option<String>,
}

/// Returns the columns of an example call, each with its name and its value in SQL; None if a value is not known.
fn columns(taken: &Taken, values: &HashMap<String, serde_json::Value>) -> Option<Vec<(String, String)>> {
    let inputs = taken.inputs.as_ref()?;
    let column =
        |name: &String, input: &Input| Some((name.clone(), constant(input.sql_type.as_deref()?, values.get(name)?)?));
    match &taken.features {
        Some(features) => features.iter().map(|name| column(name, inputs.first()?)).collect(),
        None if inputs.iter().any(|input| input.row_shape.iter().any(|d| *d != 1)) => None,
        None => inputs.iter().map(|input| column(&input.name, input)).collect(),
    }
}

/// Writes a value of the baseline as an SQL constant with a type.
fn constant(sql_type: &str, value: &serde_json::Value) -> Option<String> {
    let number = value.as_f64();
    let text = match sql_type {
        "text" => return Some(quoting::literal(&value.as_str().map_or_else(|| value.to_string(), str::to_owned))),
        "boolean" => return Some(format!("{}::boolean", quoting::literal(value.as_str()?))),
        "smallint" | "integer" | "bigint" => format!("{:.0}", number?.round_ties_even()),
        // The shortest text that is read back as the same value.
        "real" => number?.to_string().parse::<f32>().ok()?.to_string(),
        _ => number?.to_string(),
    };
    // A cast binds more tightly than a sign.
    Some(format!("{}::{sql_type}", if text.starts_with('-') { quoting::literal(&text) } else { text }))
}
