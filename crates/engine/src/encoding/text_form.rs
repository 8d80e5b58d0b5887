//! The text form of results: JSON that names the model, outputs and carried columns.
//!
//! It is read without building a tree of values, so that memory use is proportional to the rows, and it is written in
//! pieces. Reading takes linear time. `tick` is called regularly and may unwind, because PostgreSQL cancels a statement
//! there.

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::encoding::layout::ElementKey;
use crate::error::{Error, Result};
use crate::signature::Output;

/// The format that is written, and the only one that is read.
pub const FORMAT: u32 = 1;

/// The maximum nesting depth of JSON. Its other readers have the same limit.
const DEEPEST: usize = 128;

/// The maximum length of everything except the rows, in bytes.
const LONGEST_HEAD: usize = 16 << 20;

/// The maximum size of the values of a result, in bytes.
pub(crate) const MOST_BYTES: usize = 1 << 30;

/// The number of bytes between two calls of `tick`.
pub(crate) const TICK: usize = 1 << 20;

/// Everything in the text form except the rows.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextHeader {
    /// The format number. Values from before formats had numbers have the first format.
    #[serde(default = "first_format")]
    pub format: u32,
    /// The model's name.
    pub model: String,
    /// The version's number.
    pub version: i32,
    /// The outputs in the result.
    pub outputs: Vec<Output>,
    /// The position of the selected output in `outputs`.
    pub selected: usize,
    /// The selected element of that output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub element: Option<ElementKey>,
    /// The carried columns.
    pub carried: Vec<CarriedText>,
    /// No row determined the row type.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unbound: bool,
    /// Always empty here. The rows are written and read separately.
    pub rows: [(); 0],
}

/// A carried column in the text form.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CarriedText {
    /// The column's name.
    pub name: String,
    /// The type with schema and modifier, as in SQL.
    pub r#type: String,
    /// The columns of the row types in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<String>,
    /// The type modifier, if the type name does not include it.
    #[serde(default = "no_typmod", skip_serializing_if = "is_no_typmod")]
    pub typmod: i32,
}

fn first_format() -> u32 {
    1
}

fn no_typmod() -> i32 {
    -1
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_no_typmod(n: &i32) -> bool {
    *n == -1
}

pub(crate) fn malformed(reason: impl Into<String>) -> Error {
    Error::Malformed { reason: reason.into() }
}

/// Skips over JSON values without parsing their content.
pub(crate) struct Scanner<'a, 't> {
    pub(crate) text: &'a str,
    pub(crate) at: usize,
    pub(crate) next_tick: usize,
    pub(crate) tick: &'t mut dyn FnMut(),
}

impl<'a> Scanner<'a, '_> {
    pub(crate) fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = bytes.get(self.at) {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }

    pub(crate) fn require(&mut self, wanted: u8) -> Result<()> {
        if self.peek() == Some(wanted) {
            self.at += 1;
            return Ok(());
        }
        Err(malformed(format!("\"{}\" was expected at byte {}", char::from(wanted), self.at + 1)))
    }

    /// Returns the text of the next value. Its content is not checked here.
    pub(crate) fn value(&mut self) -> Result<&'a str> {
        self.peek();
        let start = self.at;
        let bytes = self.text.as_bytes();
        let mut depth = 0_usize;
        loop {
            if self.at >= self.next_tick {
                self.next_tick = self.at + TICK;
                (self.tick)();
            }
            let Some(byte) = bytes.get(self.at) else { return Err(malformed("it ends too early")) };
            match byte {
                b'"' => {
                    self.string()?;
                    if depth == 0 {
                        break;
                    }
                    continue;
                }
                b'[' | b'{' => {
                    depth += 1;
                    if depth > DEEPEST {
                        return Err(malformed(format!("it is nested deeper than {DEEPEST} levels")));
                    }
                }
                b']' | b'}' if depth > 0 => {
                    depth -= 1;
                    if depth == 0 {
                        self.at += 1;
                        break;
                    }
                }
                b']' | b'}' | b',' | b':' if depth == 0 => break,
                _ => {}
            }
            self.at += 1;
            if depth == 0 && matches!(bytes.get(self.at), None | Some(b' ' | b'\n' | b'\r' | b'\t')) {
                break;
            }
        }
        match self.text.get(start..self.at) {
            Some(value) if !value.is_empty() => Ok(value),
            _ => Err(malformed(format!("a value was expected at byte {}", start + 1))),
        }
    }

    pub(crate) fn string(&mut self) -> Result<()> {
        let bytes = self.text.as_bytes();
        self.at += 1;
        loop {
            if self.at >= self.next_tick {
                self.next_tick = self.at + TICK;
                (self.tick)();
            }
            match bytes.get(self.at) {
                None => return Err(malformed("it ends within a string")),
                Some(b'"') => break,
                Some(b'\\') => self.at += 2,
                Some(_) => self.at += 1,
            }
        }
        self.at += 1;
        Ok(())
    }
}

/// Returns whether a text is a JSON value that the other readers accept.
pub(crate) fn is_json(text: &str) -> bool {
    let mut tick = || {};
    let mut scanner = Scanner { text, at: 0, next_tick: usize::MAX, tick: &mut tick };
    scanner.value().is_ok() && serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// Splits a text into the header and the rows.
pub fn read<'a>(text: &'a str, tick: &mut dyn FnMut()) -> Result<(TextHeader, &'a str)> {
    let mut scanner = Scanner { text, at: 0, next_tick: TICK, tick };
    scanner.require(b'{')?;
    let mut rows = None;
    while scanner.peek() != Some(b'}') {
        let key = scanner.value()?;
        scanner.require(b':')?;
        let value = scanner.value()?;
        if key == "\"rows\"" {
            if rows.is_some() {
                return Err(malformed("it has \"rows\" twice"));
            }
            rows = Some((scanner.at - value.len(), value));
        }
        if scanner.peek() != Some(b'}') {
            scanner.require(b',')?;
        }
    }
    let Some((at, rows)) = rows else { return Err(malformed("it has no \"rows\"")) };
    if text.len() - rows.len() > LONGEST_HEAD {
        return Err(malformed(format!("what describes its rows is longer than {} MB", LONGEST_HEAD >> 20)));
    }
    // The rows are replaced by an empty array, and parsing the rest finds any error in it.
    let head = [text.get(..at), text.get(at + rows.len()..)].map(Option::unwrap_or_default).join("[]");
    let head: TextHeader = serde_json::from_str(&head).map_err(|e| malformed(e.to_string()))?;
    if head.format != FORMAT {
        return Err(malformed(format!(
            "it has format {}, and this version of pg_predict reads format {FORMAT}",
            head.format
        )));
    }
    Ok((head, rows))
}
