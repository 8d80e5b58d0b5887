//! Texts that are printed to be read or copied: names and literals of SQL in one line.
//!
//! A name may contain anything. Where it is printed within SQL, its line ends would end a comment, or look like the end of a
//! statement; and characters that turn the direction of writing show another statement than the one that runs. So these are
//! written as escapes.

use std::borrow::Cow;
use std::fmt::Write;

use crate::pg::text;

/// Whether a character is not to be printed as it is.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A text for a message or a comment, in one line.
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

/// A text as a literal of SQL.
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

/// A name as SQL writes it.
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
