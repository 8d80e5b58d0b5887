//! Writes the text form of results.

use std::fmt::Write as _;

use crate::encoding::encoded_reader::{EncodedRows, MapKey};
use crate::encoding::text_form::TICK;
use crate::error::{Error, Result};
use crate::signature::{Output, OutputRow};
use crate::tensor::{MOST_DIMENSIONS, Scalar};

/// Writes JSON into a text that grows up to a limit.
pub struct Writer<'t> {
    text: String,
    limit: usize,
    next_tick: usize,
    tick: &'t mut dyn FnMut(),
}

impl<'t> Writer<'t> {
    /// Creates a writer with a limit in bytes.
    pub fn new(limit: usize, tick: &'t mut dyn FnMut()) -> Self {
        Self { text: String::new(), limit, next_tick: TICK, tick }
    }

    /// Returns the written text.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }

    /// Reserves `bytes` more bytes, within the limit.
    fn room(&mut self, bytes: usize) -> Result<()> {
        let all = self.text.len().saturating_add(bytes);
        if all > self.limit {
            return Err(Error::TooLarge { bytes: all });
        }
        if self.text.len() >= self.next_tick {
            self.next_tick = self.text.len() + TICK;
            (self.tick)();
        }
        self.text.try_reserve(bytes).map_err(|_| Error::OutOfMemory { what: "a text".into(), bytes: all })
    }

    /// Writes text that is already JSON.
    pub fn raw(&mut self, json: &str) -> Result<()> {
        self.room(json.len())?;
        self.text.push_str(json);
        Ok(())
    }

    /// Writes a text as a JSON string.
    pub fn string(&mut self, text: &str) -> Result<()> {
        self.raw("\"")?;
        let mut rest = text;
        while let Some(at) = rest.bytes().position(|b| b < 0x20 || b == b'"' || b == b'\\') {
            let (plain, tail) = rest.split_at(at);
            self.raw(plain)?;
            // The special character is one byte long.
            let (special, tail) = tail.split_at(1);
            match special.as_bytes().first().copied().unwrap_or_default() {
                b'"' => self.raw("\\\"")?,
                b'\\' => self.raw("\\\\")?,
                0x08 => self.raw("\\b")?,
                0x0c => self.raw("\\f")?,
                b'\n' => self.raw("\\n")?,
                b'\r' => self.raw("\\r")?,
                b'\t' => self.raw("\\t")?,
                byte => self.raw(&format!("\\u{byte:04x}"))?,
            }
            rest = tail;
        }
        self.raw(rest)?;
        self.raw("\"")
    }

    fn scalar(&mut self, scalar: Scalar<'_>) -> Result<()> {
        if let Scalar::Text(text) = scalar {
            return self.string(text);
        }
        // No number is longer than this.
        self.room(32)?;
        write!(self.text, "{}", scalar.json()).map_err(|_| Error::Corrupt { what: "a number has no text".into() })
    }

    /// Writes output `place` of the `nth` row that the model ran for.
    pub fn output(&mut self, output: &Output, chunk: &EncodedRows<'_>, place: usize, nth: usize) -> Result<()> {
        match &output.row {
            OutputRow::Map { .. } => {
                let mut before = "{";
                for pair in chunk.each_pair(place, nth)? {
                    let (key, value) = pair?;
                    self.raw(before)?;
                    before = ",";
                    match key {
                        MapKey::Int64(key) => self.string(&key.to_string())?,
                        MapKey::Text(key) => self.string(key)?,
                    }
                    self.raw(":")?;
                    self.scalar(Scalar::Float32(value))?;
                }
                self.raw(if before == "{" { "{}" } else { "}" })
            }
            OutputRow::Nested { .. } => self.raw(chunk.nested(place, nth)?),
            OutputRow::Tensor { shape, .. } => self.level(shape, &mut 0, &mut |i| chunk.scalar(place, nth, i)),
            OutputRow::Open { .. } => {
                let shape = chunk.shape(place, nth)?.unwrap_or_default();
                self.level(&shape, &mut 0, &mut |i| chunk.scalar(place, nth, i))
            }
        }
    }

    fn level<'v>(
        &mut self,
        shape: &[usize],
        at: &mut usize,
        value: &mut dyn FnMut(usize) -> Result<Scalar<'v>>,
    ) -> Result<()> {
        if shape.len() > MOST_DIMENSIONS {
            return Err(Error::TooLarge { bytes: self.limit });
        }
        let Some((n, rest)) = shape.split_first() else {
            *at += 1;
            return self.scalar(value(*at - 1)?);
        };
        self.raw("[")?;
        for i in 0..*n {
            if i > 0 {
                self.raw(",")?;
            }
            self.level(rest, at, value)?;
        }
        self.raw("]")
    }
}
