//! Reads the rows of the text form without building a tree of values.

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::batch::{Keys, Maps, Values};
use crate::encoding::text_form::{MOST_BYTES, Scanner, TICK, malformed};
use crate::error::{Error, Result};
use crate::signature::{Output, OutputRow};
use crate::tensor::{Column, MOST_DIMENSIONS};

/// The carried values of a row, as texts.
#[derive(Default)]
pub struct CarriedTexts {
    text: String,
    spans: Vec<Option<(usize, usize)>>,
}

impl CarriedTexts {
    /// Returns the text of a column, or `None` if it is NULL.
    #[must_use]
    pub fn get(&self, column: usize) -> Option<&str> {
        self.spans.get(column).copied().flatten().and_then(|(start, end)| self.text.get(start..end))
    }
}

/// Reads rows one after the other.
pub struct TextRows<'a, 't> {
    scanner: Scanner<'a, 't>,
    columns: usize,
    /// The number of rows read so far.
    rows: u64,
}

impl<'a, 't> TextRows<'a, 't> {
    /// Creates a reader of rows that carry `columns` columns each.
    pub fn new(text: &'a str, columns: usize, tick: &'t mut dyn FnMut()) -> Result<Self> {
        let mut scanner = Scanner { text, at: 0, next_tick: TICK, tick };
        scanner.require(b'[')?;
        Ok(Self { scanner, columns, rows: 0 })
    }

    /// Appends the outputs of the next row to `values`. Returns whether the model ran for the row, or `None` after the
    /// last row.
    pub fn next(
        &mut self,
        outputs: &[Output],
        values: &mut [Values],
        carried: &mut CarriedTexts,
    ) -> Result<Option<bool>> {
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
        let mut state = ReadState { count: 0, failed: None, tick: &mut *self.scanner.tick };
        let mut json = serde_json::Deserializer::from_str(text);
        let row = RowSeed { outputs, values, carried, columns: self.columns, state: &mut state };
        let ran = row.deserialize(&mut json).and_then(|ran| json.end().map(|()| ran));
        match (state.failed, ran) {
            (Some(error), _) => Err(error),
            (None, Ok(ran)) => Ok(Some(ran)),
            (None, Err(e)) => Err(malformed(format!("in row {}: {e}", self.rows))),
        }
    }
}

/// The state that all values of a row share.
pub(crate) struct ReadState<'t> {
    count: usize,
    /// An error that is not in the text, such as a failed allocation.
    failed: Option<Error>,
    tick: &'t mut dyn FnMut(),
}

impl ReadState<'_> {
    /// Reserves room for a value.
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

struct RowSeed<'r, 's, 't> {
    outputs: &'r [Output],
    values: &'r mut [Values],
    carried: &'r mut CarriedTexts,
    columns: usize,
    state: &'s mut ReadState<'t>,
}

impl<'de> DeserializeSeed<'de> for RowSeed<'_, '_, '_> {
    type Value = bool;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<bool, D::Error> {
        d.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for RowSeed<'_, '_, '_> {
    type Value = bool;
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a row: carried values, and outputs or null")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<bool, A::Error> {
        let missing = || A::Error::custom("a row has carried values, and outputs or null");
        let RowSeed { outputs, values, carried, columns, state } = self;
        seq.next_element_seed(Carry { carried, columns })?.ok_or_else(missing)?;
        let ran = seq.next_element_seed(Outputs { outputs, values, state })?.ok_or_else(missing)?;
        if seq.next_element::<IgnoredAny>()?.is_some() {
            return Err(missing());
        }
        Ok(ran)
    }
}

struct Carry<'r> {
    carried: &'r mut CarriedTexts,
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

struct One<'r>(&'r mut CarriedTexts);

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
    state: &'s mut ReadState<'t>,
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
            seq.next_element_seed(OutputSeed { output, values, state: self.state })?.ok_or_else(wrong)?;
        }
        if seq.next_element::<IgnoredAny>()?.is_some() {
            return Err(wrong());
        }
        Ok(true)
    }
}

/// Reads one output of a row.
struct OutputSeed<'r, 's, 't> {
    output: &'r Output,
    values: &'r mut Values,
    state: &'s mut ReadState<'t>,
}

impl<'de> DeserializeSeed<'de> for OutputSeed<'_, '_, '_> {
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

/// Reads a single value.
pub(crate) struct Single<'c, 's, 't> {
    column: &'c mut Column,
    state: &'s mut ReadState<'t>,
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

/// Reads nested arrays of a known shape.
pub(crate) struct Nested<'c, 's, 't> {
    pub(crate) shape: &'c [usize],
    pub(crate) column: &'c mut Column,
    pub(crate) state: &'s mut ReadState<'t>,
}

impl<'de> DeserializeSeed<'de> for Nested<'_, '_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

/// Defines the visitor methods of a single value, for visitors that also read arrays.
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
    pub(crate) fn single<E: serde::de::Error>(self) -> std::result::Result<Single<'c, 's, 't>, E> {
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

/// The state of reading nested arrays whose shape is not known in advance.
struct Walk<'c, 's, 't> {
    /// The dimensions so far; `None` for a dimension whose first array has not ended yet.
    shape: Vec<Option<usize>>,
    begin: usize,
    column: &'c mut Column,
    state: &'s mut ReadState<'t>,
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
            // A new dimension can appear only before the first value.
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

/// Reads the pairs of a map.
struct Pairs<'c, 's, 't> {
    maps: &'c mut Maps,
    state: &'s mut ReadState<'t>,
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
