//! The text form of results: JSON that names everything. Reads it without a tree of values, so that memory follows what is
//! there, and writes it piece by piece.
//!
//! Reading is linear. `tick` is called every so often, and may unwind: PostgreSQL cancels a statement there.

use std::fmt::Write as _;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::batch::{Keys, Maps, Values};
use crate::chunk::{Chunk, Key};
use crate::error::{Error, Result};
use crate::layout::{ElementKey, MOST_DIMENSIONS};
use crate::signature::{Output, OutputRow};
use crate::tensor::{Column, Scalar};

/// The format that is written, and the only one that is read.
pub const FORMAT: u32 = 1;
/// How deep JSON may be nested: as deep as its other readers go.
const DEEPEST: usize = 128;
/// The most bytes of everything but the rows.
const LONGEST_HEAD: usize = 16 << 20;
/// The most bytes that the values of a result may take.
const MOST_BYTES: usize = 1 << 30;
/// Bytes between two ticks.
const TICK: usize = 1 << 20;

/// Everything but the rows.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// The number of the format; values of before it had one have the first.
    #[serde(default = "first_format")]
    pub format: u32,
    /// The model's name.
    pub model: String,
    /// The version's number.
    pub version: i32,
    /// The outputs of the rows.
    pub outputs: Vec<Output>,
    /// Which of them is selected.
    pub selected: usize,
    /// An element of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub element: Option<ElementKey>,
    /// The columns that rows carry.
    pub carried: Vec<CarriedText>,
    /// No row ever told its type.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unbound: bool,
    /// The rows, which are written and read apart.
    pub rows: [(); 0],
}

/// A carried column, as text.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CarriedText {
    /// Its name.
    pub name: String,
    /// Its type with schema and modifier, as SQL writes it.
    pub r#type: String,
    /// The columns of the row types in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<String>,
    /// The modifier, where the type does not say it.
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

fn malformed(reason: impl Into<String>) -> Error {
    Error::Malformed { reason: reason.into() }
}

/// Walks over JSON values without looking into them.
struct Scanner<'a, 't> {
    text: &'a str,
    at: usize,
    next_tick: usize,
    tick: &'t mut dyn FnMut(),
}

impl<'a> Scanner<'a, '_> {
    fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = bytes.get(self.at) {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }

    fn require(&mut self, wanted: u8) -> Result<()> {
        if self.peek() == Some(wanted) {
            self.at += 1;
            return Ok(());
        }
        Err(malformed(format!("\"{}\" was expected at byte {}", char::from(wanted), self.at + 1)))
    }

    /// A value, from its first byte to its last. What is within is read by others.
    fn value(&mut self) -> Result<&'a str> {
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

    fn string(&mut self) -> Result<()> {
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

/// Whether a text is a JSON value that others can read.
pub(crate) fn is_json(text: &str) -> bool {
    let mut tick = || {};
    let mut scanner = Scanner { text, at: 0, next_tick: usize::MAX, tick: &mut tick };
    scanner.value().is_ok() && serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// Takes a text apart: everything but its rows, and the rows.
pub fn read<'a>(text: &'a str, tick: &mut dyn FnMut()) -> Result<(Head, &'a str)> {
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
    // The rows are left out, and whatever is wrong elsewhere is found there.
    let head = [text.get(..at), text.get(at + rows.len()..)].map(Option::unwrap_or_default).join("[]");
    let head: Head = serde_json::from_str(&head).map_err(|e| malformed(e.to_string()))?;
    if head.format != FORMAT {
        return Err(malformed(format!(
            "it has format {}, and this version of pg_predict reads format {FORMAT}",
            head.format
        )));
    }
    Ok((head, rows))
}

/// What a row carries, as texts.
#[derive(Default)]
pub struct Texts {
    text: String,
    spans: Vec<Option<(usize, usize)>>,
}

impl Texts {
    /// The text of a column; none where it is NULL.
    #[must_use]
    pub fn get(&self, column: usize) -> Option<&str> {
        self.spans.get(column).copied().flatten().and_then(|(start, end)| self.text.get(start..end))
    }
}

/// Reads rows one after the other.
pub struct Rows<'a, 't> {
    scanner: Scanner<'a, 't>,
    columns: usize,
    /// Rows read.
    rows: u64,
}

impl<'a, 't> Rows<'a, 't> {
    /// The rows of a text, each of which carries so many columns.
    pub fn new(text: &'a str, columns: usize, tick: &'t mut dyn FnMut()) -> Result<Self> {
        let mut scanner = Scanner { text, at: 0, next_tick: TICK, tick };
        scanner.require(b'[')?;
        Ok(Self { scanner, columns, rows: 0 })
    }

    /// Appends the next row to the values of its outputs, and gives whether it was run; none after the last.
    pub fn next(&mut self, outputs: &[Output], values: &mut [Values], carried: &mut Texts) -> Result<Option<bool>> {
        if self.scanner.peek() == Some(b']') {
            self.scanner.at += 1;
            return match self.scanner.peek() {
                None => Ok(None),
                Some(_) => Err(malformed("something follows the rows")),
            };
        }
        if self.rows > 0 {
            self.scanner.require(b',')?;
        }
        self.rows += 1;
        let text = self.scanner.value()?;
        (self.scanner.tick)();
        let mut state = State { count: 0, failed: None, tick: &mut *self.scanner.tick };
        let mut json = serde_json::Deserializer::from_str(text);
        let row = Row { outputs, values, carried, columns: self.columns, state: &mut state };
        let ran = row.deserialize(&mut json).and_then(|ran| json.end().map(|()| ran));
        match (state.failed, ran) {
            (Some(error), _) => Err(error),
            (None, Ok(ran)) => Ok(Some(ran)),
            (None, Err(e)) => Err(malformed(format!("in row {}: {e}", self.rows))),
        }
    }
}

/// What is the same for all values of a row.
struct State<'t> {
    count: usize,
    /// An error that is not one of the text.
    failed: Option<Error>,
    tick: &'t mut dyn FnMut(),
}

impl State<'_> {
    /// Makes room for a value.
    fn room(&mut self, column: &mut Column) -> bool {
        self.count += 1;
        if self.count.is_multiple_of(4096) {
            (self.tick)();
            if column.bytes() > MOST_BYTES {
                self.failed = Some(Error::TooLarge { bytes: column.bytes() });
            }
        }
        if let Err(error) = column.try_reserve(1) {
            self.failed = Some(error);
        }
        self.failed.is_none()
    }
}

struct Row<'r, 's, 't> {
    outputs: &'r [Output],
    values: &'r mut [Values],
    carried: &'r mut Texts,
    columns: usize,
    state: &'s mut State<'t>,
}

impl<'de> DeserializeSeed<'de> for Row<'_, '_, '_> {
    type Value = bool;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<bool, D::Error> {
        d.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Row<'_, '_, '_> {
    type Value = bool;
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a row: carried values, and outputs or null")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<bool, A::Error> {
        let missing = || A::Error::custom("a row has carried values, and outputs or null");
        let Row { outputs, values, carried, columns, state } = self;
        seq.next_element_seed(Carry { carried, columns })?.ok_or_else(missing)?;
        let ran = seq.next_element_seed(Outputs { outputs, values, state })?.ok_or_else(missing)?;
        if seq.next_element::<IgnoredAny>()?.is_some() {
            return Err(missing());
        }
        Ok(ran)
    }
}

struct Carry<'r> {
    carried: &'r mut Texts,
    columns: usize,
}

impl<'de> DeserializeSeed<'de> for Carry<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<(), D::Error> {
        d.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Carry<'_> {
    type Value = ();
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("carried values as texts")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<(), A::Error> {
        self.carried.text.clear();
        self.carried.spans.clear();
        while seq.next_element_seed(One(self.carried))?.is_some() {
            if self.carried.spans.len() > self.columns {
                break;
            }
        }
        if self.carried.spans.len() == self.columns {
            return Ok(());
        }
        Err(A::Error::custom("a row has another number of carried values than there are carried columns"))
    }
}

struct One<'r>(&'r mut Texts);

impl<'de> DeserializeSeed<'de> for One<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for One<'_> {
    type Value = ();
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a text or null")
    }
    fn visit_unit<E: serde::de::Error>(self) -> std::result::Result<(), E> {
        self.0.spans.push(None);
        Ok(())
    }
    fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<(), E> {
        if text.contains('\0') {
            return Err(E::custom("a carried value has a zero byte"));
        }
        let start = self.0.text.len();
        if self.0.text.try_reserve(text.len()).is_err() {
            return Err(E::custom("a carried value is too large"));
        }
        self.0.text.push_str(text);
        self.0.spans.push(Some((start, self.0.text.len())));
        Ok(())
    }
}

struct Outputs<'r, 's, 't> {
    outputs: &'r [Output],
    values: &'r mut [Values],
    state: &'s mut State<'t>,
}

impl<'de> DeserializeSeed<'de> for Outputs<'_, '_, '_> {
    type Value = bool;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<bool, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Outputs<'_, '_, '_> {
    type Value = bool;
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the outputs of a row, or null")
    }
    fn visit_unit<E: serde::de::Error>(self) -> std::result::Result<bool, E> {
        Ok(false)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<bool, A::Error> {
        let wrong = || A::Error::custom("a row has another number of outputs than the model");
        for (output, values) in self.outputs.iter().zip(self.values) {
            seq.next_element_seed(Answer { output, values, state: self.state })?.ok_or_else(wrong)?;
        }
        if seq.next_element::<IgnoredAny>()?.is_some() {
            return Err(wrong());
        }
        Ok(true)
    }
}

/// One output of a row.
struct Answer<'r, 's, 't> {
    output: &'r Output,
    values: &'r mut Values,
    state: &'s mut State<'t>,
}

impl<'de> DeserializeSeed<'de> for Answer<'_, '_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<(), D::Error> {
        let wrong = || {
            D::Error::custom(format!("a value of output \"{}\" is not {}", self.output.name, self.output.describe()))
        };
        let result = match (&self.output.row, self.values) {
            (OutputRow::Tensor { shape, .. }, Values::Tensor { data, .. }) => {
                Nested { shape, column: data, state: self.state }.deserialize(d)
            }
            (OutputRow::Open { .. }, Values::Open(open)) => {
                let mut walk =
                    Walk { shape: Vec::new(), begin: open.data.len(), column: &mut open.data, state: self.state };
                Level { walk: &mut walk, depth: 0 }.deserialize(d)?;
                let shape: Vec<usize> = walk.shape.iter().map(|n| n.unwrap_or(0)).collect();
                open.dims.extend_from_slice(&shape);
                open.dim_ends.push(open.dims.len());
                open.ends.push(open.data.len());
                return Ok(());
            }
            (OutputRow::Nested { .. }, Values::Nested(texts)) => {
                let raw: Box<RawValue> = Box::<RawValue>::deserialize(d)?;
                texts.push(raw.get());
                return Ok(());
            }
            (OutputRow::Map { .. }, Values::Maps(maps)) => Pairs { maps, state: self.state }.deserialize(d),
            _ => return Err(wrong()),
        };
        result.map_err(|e| {
            D::Error::custom(format!("output \"{}\" is {}: {e}", self.output.name, self.output.describe()))
        })
    }
}

/// A single value.
struct Single<'c, 's, 't> {
    column: &'c mut Column,
    state: &'s mut State<'t>,
}

impl Single<'_, '_, '_> {
    fn push<E: serde::de::Error>(self, value: &Value) -> std::result::Result<(), E> {
        if self.state.room(self.column) && self.column.push_json(value) {
            return Ok(());
        }
        Err(E::custom(format!("a value does not fit {}", self.column.element())))
    }

    fn text<E: serde::de::Error>(self, text: &str) -> std::result::Result<(), E> {
        match self.column {
            Column::String(texts) if !text.contains('\0') => {
                self.state.count += 1;
                if texts.try_push(text) { Ok(()) } else { Err(E::custom("a text is too large")) }
            }
            _ if matches!(text, "NaN" | "Infinity" | "-Infinity") => self.push(&Value::from(text)),
            column => Err(E::custom(format!("a text does not fit {}", column.element()))),
        }
    }
}

/// The values of nested arrays of one shape.
struct Nested<'c, 's, 't> {
    shape: &'c [usize],
    column: &'c mut Column,
    state: &'s mut State<'t>,
}

impl<'de> DeserializeSeed<'de> for Nested<'_, '_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

/// The ways of a single value, for a visitor that takes one in one case.
macro_rules! singles {
    () => {
        fn visit_bool<E: serde::de::Error>(self, x: bool) -> std::result::Result<(), E> {
            self.single::<E>()?.push(&Value::from(x))
        }
        fn visit_i64<E: serde::de::Error>(self, x: i64) -> std::result::Result<(), E> {
            self.single::<E>()?.push(&Value::from(x))
        }
        fn visit_u64<E: serde::de::Error>(self, x: u64) -> std::result::Result<(), E> {
            self.single::<E>()?.push(&Value::from(x))
        }
        fn visit_f64<E: serde::de::Error>(self, x: f64) -> std::result::Result<(), E> {
            self.single::<E>()?.push(&Value::from(x))
        }
        fn visit_str<E: serde::de::Error>(self, x: &str) -> std::result::Result<(), E> {
            self.single::<E>()?.text(x)
        }
    };
}

impl<'c, 's, 't> Nested<'c, 's, 't> {
    fn single<E: serde::de::Error>(self) -> std::result::Result<Single<'c, 's, 't>, E> {
        if self.shape.is_empty() {
            return Ok(Single { column: self.column, state: self.state });
        }
        Err(E::custom("a single value is where an array belongs"))
    }
}

impl<'de> Visitor<'de> for Nested<'_, '_, '_> {
    type Value = ();
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value of the output")
    }
    singles!();
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<(), A::Error> {
        let wrong = || A::Error::custom("an array has another length");
        let Some((n, rest)) = self.shape.split_first() else {
            return Err(A::Error::custom("an array is where a single value belongs"));
        };
        for _ in 0..*n {
            let inner = Nested { shape: rest, column: self.column, state: self.state };
            seq.next_element_seed(inner)?.ok_or_else(wrong)?;
        }
        if seq.next_element::<IgnoredAny>()?.is_some() { Err(wrong()) } else { Ok(()) }
    }
}

/// The values of nested arrays whose shape is seen on the way.
struct Walk<'c, 's, 't> {
    /// The dimensions so far; none for those whose first array has not ended.
    shape: Vec<Option<usize>>,
    begin: usize,
    column: &'c mut Column,
    state: &'s mut State<'t>,
}

struct Level<'w, 'c, 's, 't> {
    walk: &'w mut Walk<'c, 's, 't>,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Level<'_, '_, '_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

impl<'w, 's, 't> Level<'w, '_, 's, 't> {
    fn single<E: serde::de::Error>(self) -> std::result::Result<Single<'w, 'w, 't>, E>
    where
        's: 'w,
    {
        if self.depth == self.walk.shape.len() {
            return Ok(Single { column: &mut *self.walk.column, state: &mut *self.walk.state });
        }
        Err(E::custom("arrays are not all nested as deep"))
    }
}

impl<'de> Visitor<'de> for Level<'_, '_, '_, '_> {
    type Value = ();
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value of the output")
    }
    singles!();
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<(), A::Error> {
        let Level { walk, depth } = self;
        match walk.shape.get(depth) {
            Some(_) => {}
            // A new level is known on the way to the first value only.
            None if walk.shape.iter().all(Option::is_none) && walk.column.len() == walk.begin => {
                if depth == MOST_DIMENSIONS {
                    return Err(A::Error::custom(format!("a value has more than {MOST_DIMENSIONS} dimensions")));
                }
                walk.shape.push(None);
            }
            None => return Err(A::Error::custom("arrays are not all nested as deep")),
        }
        let mut n = 0_usize;
        while seq.next_element_seed(Level { walk, depth: depth + 1 })?.is_some() {
            n += 1;
        }
        match walk.shape.get_mut(depth) {
            Some(Some(known)) if *known == n => Ok(()),
            Some(unknown @ None) => {
                *unknown = Some(n);
                Ok(())
            }
            _ => Err(A::Error::custom("arrays of one level have different lengths")),
        }
    }
}

/// The pairs of a map.
struct Pairs<'c, 's, 't> {
    maps: &'c mut Maps,
    state: &'s mut State<'t>,
}

impl<'de> DeserializeSeed<'de> for Pairs<'_, '_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<(), D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Pairs<'_, '_, '_> {
    type Value = ();
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a map")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let Maps { ends, keys, values } = self.maps;
        let begin = values.len();
        let mut numbers = Column::Float32(std::mem::take(values));
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            let pushed = match keys {
                Keys::Text(keys) => !key.contains('\0') && keys.try_push(&key),
                Keys::Int64(keys) => keys.try_reserve(1).is_ok() && key.parse().map(|key| keys.push(key)).is_ok(),
            };
            if !pushed {
                return Err(A::Error::custom("a key is not one of its map"));
            }
            map.next_value_seed(Nested { shape: &[], column: &mut numbers, state: self.state })?;
        }
        if let Column::Float32(numbers) = numbers {
            *values = numbers;
        }
        let twice = match keys {
            Keys::Text(keys) => {
                let mut all: Vec<&str> = (begin..values.len()).map(|i| keys.get(i)).collect();
                all.sort_unstable();
                all.windows(2).any(|two| two[0] == two[1])
            }
            Keys::Int64(keys) => {
                let mut all = keys.get(begin..).unwrap_or_default().to_vec();
                all.sort_unstable();
                all.windows(2).any(|two| two[0] == two[1])
            }
        };
        if twice {
            return Err(A::Error::custom("a map has a key twice"));
        }
        ends.push(values.len());
        Ok(())
    }
}

/// Writes JSON into a text that grows piece by piece, up to a limit.
pub struct Writer<'t> {
    text: String,
    limit: usize,
    next_tick: usize,
    tick: &'t mut dyn FnMut(),
}

impl<'t> Writer<'t> {
    /// One whose text may have so many bytes.
    pub fn new(limit: usize, tick: &'t mut dyn FnMut()) -> Self {
        Self { text: String::new(), limit, next_tick: TICK, tick }
    }

    /// What was written.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }

    /// Makes room for so many more bytes.
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

    /// Writes what is JSON already.
    pub fn raw(&mut self, json: &str) -> Result<()> {
        self.room(json.len())?;
        self.text.push_str(json);
        Ok(())
    }

    /// Writes a text as a string.
    pub fn string(&mut self, text: &str) -> Result<()> {
        self.raw("\"")?;
        let mut rest = text;
        while let Some(at) = rest.bytes().position(|b| b < 0x20 || b == b'"' || b == b'\\') {
            let (plain, tail) = rest.split_at(at);
            self.raw(plain)?;
            // What is found is one byte long.
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
        // No number is longer.
        self.room(32)?;
        write!(self.text, "{}", scalar.json()).map_err(|_| Error::Corrupt { what: "a number has no text".into() })
    }

    /// Writes output `place` of the `nth` row that was run.
    pub fn output(&mut self, output: &Output, chunk: &Chunk<'_>, place: usize, nth: usize) -> Result<()> {
        match &output.row {
            OutputRow::Map { .. } => {
                let mut before = "{";
                for pair in chunk.each_pair(place, nth)? {
                    let (key, value) = pair?;
                    self.raw(before)?;
                    before = ",";
                    match key {
                        Key::Int64(key) => self.string(&key.to_string())?,
                        Key::Text(key) => self.string(key)?,
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
