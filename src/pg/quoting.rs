//! Formats names and literals of SQL in one line, for messages and for statements that users copy.
//!
//! A name may contain any character. Inside SQL, a line break could end a comment or look like the end of a statement.
//! Characters that change the writing direction could display another statement than the one that runs. These
//! characters are therefore written as escapes.

use std::borrow::Cow;
use std::fmt::Write;

use crate::pg::text;

/// Whether a character must be escaped.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Formats a text for a message or a comment, in one line.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_hidden(c) => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// Formats a text as an SQL literal.
pub(crate) fn literal(text: &str) -> String {
    if !text.contains(is_hidden) {
        return text::quote_literal(text);
    }
    let mut out = String::from("E'");
    for c in text.chars() {
        match c {
            '\'' => out.push_str("''"),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if is_hidden(c) => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('\'');
    out
}

/// Formats a name as an SQL identifier.
pub(crate) fn identifier(name: &str) -> String {
    if !name.contains(is_hidden) {
        return text::quote_identifier(name);
    }
    let mut out = String::from("U&\"");
    for c in name.chars() {
        match c {
            '"' => out.push_str("\"\""),
            '\\' => out.push_str("\\\\"),
            c if is_hidden(c) => {
                let _ = write!(out, "\\{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
