//! The encoding of results: one chunk a batch, flat bytes that can be kept, spilled, sent to another process of the
//! same machine, and read in place.
//!
//! A chunk says for each row whether it was run (a row that was not has NULL outputs), what it carries (bytes that mean
//! nothing here), and the outputs of the rows that were run. Integers are in the machine's own order.

use bytemuck::{Pod, cast_slice, pod_read_unaligned};
use half::{bf16, f16};

use crate::batch::{Keys, Maps, Open, Values};
use crate::error::{Error, Result};
use crate::layout::{self, Layout};
use crate::portable;
use crate::signature::OutputRow;
use crate::tensor::{Column, ElementType, Scalar, Strings};

/// The rows of a batch as they were gathered.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    /// For each row, whether it was run.
    pub ran: Vec<bool>,
    /// Where each row's carried bytes end; empty while all rows carry as many.
    ends: Vec<u32>,
    /// The carried bytes of all rows.
    pub carried: Vec<u8>,
    /// Rows that carry something.
    carrying: usize,
}

impl Rows {
    /// Forgets the rows and keeps the buffers.
    pub fn clear(&mut self) {
        self.ran.clear();
        self.ends.clear();
        self.carried.clear();
        self.carrying = 0;
    }

    /// Notes that a row's carried bytes have been appended, of which it has so many.
    #[inline]
    pub fn end_row(&mut self, bytes: usize) {
        self.carrying += 1;
        if !self.ends.is_empty() || bytes * self.carrying != self.carried.len() {
            self.end_uneven_row(bytes);
        }
    }

    #[cold]
    fn end_uneven_row(&mut self, bytes: usize) {
        if self.ends.is_empty() && self.carrying > 1 {
            // Until now all had as many.
            let each = (self.carried.len() - bytes) / (self.carrying - 1);
            self.ends.extend((1..self.carrying).map(|row| end(row * each)));
        }
        self.ends.push(end(self.carried.len()));
    }

    /// Makes room for so many more carried bytes; false where there is none.
    #[inline]
    #[must_use]
    pub fn make_room(&mut self, bytes: usize) -> bool {
        self.carried.try_reserve(bytes).is_ok() && self.carried.len() + bytes <= u32::MAX as usize
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.ran.len() + 4 * self.ends.len() + self.carried.len()
    }
}

/// An end, of which `make_room` saw to it that it fits.
fn end(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

const MAPS_INT64: u8 = 101;
const MAPS_TEXT: u8 = 102;
const OPEN: u8 = 103;
const NESTED: u8 = 104;

/// Encodes the rows of a batch and the outputs of those that were run.
pub fn encode(rows: &Rows, outputs: &[Values]) -> Result<Vec<u8>> {
    let size = rows.bytes()
        + 64
        + outputs
            .iter()
            .map(|o| match o {
                Values::Tensor { data, .. } => data.bytes() + 32,
                Values::Open(o) => o.data.bytes() + 4 * (o.dims.len() + o.dim_ends.len() + o.ends.len()) + 64,
                Values::Nested(texts) => texts.bytes() + 32,
                Values::Maps(m) => {
                    let keys = match &m.keys {
                        Keys::Int64(k) => 8 * k.len(),
                        Keys::Text(k) => k.bytes(),
                    };
                    4 * m.ends.len() + keys + 4 * m.values.len() + 64
                }
            })
            .sum::<usize>();
    let mut w = Vec::new();
    w.try_reserve_exact(size).map_err(|_| Error::OutOfMemory { what: "results".into(), bytes: size })?;
    put_rows(&mut w, rows, outputs.len())?;
    for output in outputs {
        match output {
            Values::Tensor { width, data } => {
                w.push(data.element() as u8);
                put_u32(&mut w, *width)?;
                put_column(&mut w, data)?;
            }
            Values::Open(Open { dims, dim_ends, ends, data }) => {
                w.push(OPEN);
                w.push(data.element() as u8);
                for list in [dims, dim_ends, ends] {
                    put_u32(&mut w, list.len())?;
                    list.iter().try_for_each(|n| put_u32(&mut w, *n))?;
                }
                put_column(&mut w, data)?;
            }
            Values::Nested(texts) => {
                w.push(NESTED);
                put_strings(&mut w, texts)?;
            }
            Values::Maps(Maps { ends, keys, values }) => {
                w.push(match keys {
                    Keys::Int64(_) => MAPS_INT64,
                    Keys::Text(_) => MAPS_TEXT,
                });
                put_u32(&mut w, ends.len())?;
                ends.iter().try_for_each(|e| put_u32(&mut w, *e))?;
                match keys {
                    Keys::Int64(k) => put_block(&mut w, cast_slice(k))?,
                    Keys::Text(k) => put_strings(&mut w, k)?,
                }
                put_block(&mut w, cast_slice(values))?;
            }
        }
    }
    Ok(w)
}

/// What comes before the outputs.
fn put_rows(w: &mut Vec<u8>, rows: &Rows, outputs: usize) -> Result<()> {
    put_u32(w, rows.ran.len())?;
    put_u32(w, outputs)?;
    w.extend(rows.ran.iter().map(|r| u8::from(*r)));
    put_u32(w, rows.ends.len())?;
    w.extend_from_slice(cast_slice(&rows.ends));
    put_block(w, &rows.carried)
}

fn put_u32(w: &mut Vec<u8>, n: usize) -> Result<()> {
    let n = u32::try_from(n).map_err(|_| Error::TooLarge { bytes: n })?;
    w.extend_from_slice(&n.to_ne_bytes());
    Ok(())
}

fn put_block(w: &mut Vec<u8>, bytes: &[u8]) -> Result<()> {
    put_u32(w, bytes.len())?;
    w.extend_from_slice(bytes);
    Ok(())
}

fn put_strings(w: &mut Vec<u8>, s: &Strings) -> Result<()> {
    put_u32(w, s.len())?;
    let mut end = 0;
    for t in s.iter() {
        end += t.len();
        put_u32(w, end)?;
    }
    put_u32(w, end)?;
    s.iter().for_each(|t| w.extend_from_slice(t.as_bytes()));
    Ok(())
}

fn put_column(w: &mut Vec<u8>, column: &Column) -> Result<()> {
    match column {
        Column::Float32(v) => put_block(w, cast_slice(v)),
        Column::Float64(v) => put_block(w, cast_slice(v)),
        Column::Int8(v) => put_block(w, cast_slice(v)),
        Column::Int16(v) => put_block(w, cast_slice(v)),
        Column::Int32(v) => put_block(w, cast_slice(v)),
        Column::Int64(v) => put_block(w, cast_slice(v)),
        Column::Uint8(v) => put_block(w, v),
        Column::Uint16(v) => put_block(w, cast_slice(v)),
        Column::Uint32(v) => put_block(w, cast_slice(v)),
        Column::Uint64(v) => put_block(w, cast_slice(v)),
        Column::Float16(v) => put_block(w, cast_slice(v)),
        Column::Bfloat16(v) => put_block(w, cast_slice(v)),
        Column::Bool(v) => {
            put_u32(w, v.len())?;
            w.extend(v.iter().map(|b| u8::from(*b)));
            Ok(())
        }
        Column::String(s) => put_strings(w, s),
    }
}

/// A chunk, read in place.
pub struct Chunk<'a> {
    ran: &'a [u8],
    ends: &'a [u8],
    carried: &'a [u8],
    outputs: Vec<Encoded<'a>>,
    /// The bytes of the outputs.
    rest: &'a [u8],
}

enum Encoded<'a> {
    Tensor { element: ElementType, width: usize, data: Block<'a> },
    Open { element: ElementType, dims: &'a [u8], dim_ends: &'a [u8], ends: &'a [u8], data: Block<'a> },
    Nested(Texts<'a>),
    Maps { ends: &'a [u8], keys: MapKeys<'a>, values: &'a [u8] },
}

enum Block<'a> {
    Plain(&'a [u8]),
    Text(Texts<'a>),
}

enum MapKeys<'a> {
    Int64(&'a [u8]),
    Text(Texts<'a>),
}

struct Texts<'a> {
    ends: &'a [u8],
    text: &'a str,
}

impl<'a> Texts<'a> {
    fn get(&self, i: usize) -> Result<&'a str> {
        let start = if i == 0 { 0 } else { at::<u32>(self.ends, i - 1)? as usize };
        self.text.get(start..at::<u32>(self.ends, i)? as usize).ok_or_else(short)
    }
}

impl Block<'_> {
    /// The number of elements, all of which are there.
    fn check(&self, element: ElementType) -> Result<usize> {
        match self {
            Self::Text(texts) => texts.check(),
            Self::Plain(bytes) if bytes.len() % element.size() == 0 => Ok(bytes.len() / element.size()),
            Self::Plain(_) => Err(short()),
        }
    }
}

impl Texts<'_> {
    /// The number of texts, all of which are there.
    fn check(&self) -> Result<usize> {
        let n = self.ends.len() / 4;
        if last_end(self.ends)? != self.text.len() {
            return Err(short());
        }
        (0..n).try_for_each(|i| self.get(i).map(|_| ()))?;
        Ok(n)
    }
}

/// The last of ends, none of which is before another.
fn last_end(ends: &[u8]) -> Result<usize> {
    let mut last = 0;
    for i in 0..ends.len() / 4 {
        let end = at::<u32>(ends, i)? as usize;
        if end < last {
            return Err(short());
        }
        last = end;
    }
    Ok(last)
}

/// A key of a map.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Key<'a> {
    /// An integer.
    Int64(i64),
    /// A text.
    Text(&'a str),
}

fn short() -> Error {
    Error::Corrupt { what: "a chunk is cut short".into() }
}

/// Where the `nth` of parts with these ends begins, and how long it is.
fn span(ends: &[u8], nth: usize) -> Result<(usize, usize)> {
    let start = if nth == 0 { 0 } else { at::<u32>(ends, nth - 1)? as usize };
    (at::<u32>(ends, nth)? as usize).checked_sub(start).map(|n| (start, n)).ok_or_else(short)
}

fn at<T: Pod>(bytes: &[u8], i: usize) -> Result<T> {
    let size = std::mem::size_of::<T>();
    bytes.get(i * size..(i + 1) * size).map(pod_read_unaligned).ok_or_else(short)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        if n > self.0.len() {
            return Err(short());
        }
        let (head, tail) = self.0.split_at(n);
        self.0 = tail;
        Ok(head)
    }

    fn u32(&mut self) -> Result<usize> {
        Ok(at::<u32>(self.take(4)?, 0)? as usize)
    }

    fn block(&mut self) -> Result<&'a [u8]> {
        let n = self.u32()?;
        self.take(n)
    }

    fn list(&mut self) -> Result<&'a [u8]> {
        let n = self.u32()?;
        self.take(n.saturating_mul(4))
    }

    fn element(&mut self, tag: u8) -> Result<ElementType> {
        ElementType::from_tag(tag).ok_or_else(|| Error::Corrupt { what: "an unknown element type".into() })
    }

    fn elements(&mut self, element: ElementType) -> Result<Block<'a>> {
        Ok(match element {
            ElementType::String => Block::Text(self.texts()?),
            _ => Block::Plain(self.block()?),
        })
    }

    fn texts(&mut self) -> Result<Texts<'a>> {
        let n = self.u32()?;
        let ends = self.take(n.saturating_mul(4))?;
        let text =
            std::str::from_utf8(self.block()?).map_err(|_| Error::Corrupt { what: "text is not UTF-8".into() })?;
        Ok(Texts { ends, text })
    }
}

impl<'a> Chunk<'a> {
    /// Reads a chunk's outline.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let mut r = Reader(bytes);
        let rows = r.u32()?;
        let outputs = r.u32()?;
        let ran = r.take(rows)?;
        let ends = r.u32()?;
        let ends = r.take(ends.saturating_mul(4))?;
        let carried = r.block()?;
        let rest = r.0;
        let outputs: Vec<Encoded<'a>> = (0..outputs)
            .map(|_| {
                let tag = r.take(1)?[0];
                match tag {
                    MAPS_INT64 | MAPS_TEXT => {
                        let n = r.u32()?;
                        let ends = r.take(n.saturating_mul(4))?;
                        let keys =
                            if tag == MAPS_INT64 { MapKeys::Int64(r.block()?) } else { MapKeys::Text(r.texts()?) };
                        Ok(Encoded::Maps { ends, keys, values: r.block()? })
                    }
                    OPEN => {
                        let tag = r.take(1)?[0];
                        let element = r.element(tag)?;
                        let (dims, dim_ends, ends) = (r.list()?, r.list()?, r.list()?);
                        Ok(Encoded::Open { element, dims, dim_ends, ends, data: r.elements(element)? })
                    }
                    NESTED => Ok(Encoded::Nested(r.texts()?)),
                    _ => {
                        let element = r.element(tag)?;
                        let width = r.u32()?;
                        Ok(Encoded::Tensor { element, width, data: r.elements(element)? })
                    }
                }
            })
            .collect::<Result<_>>()?;
        if !r.0.is_empty() {
            return Err(Error::Corrupt { what: "something follows the outputs of a chunk".into() });
        }
        Ok(Self { ran, ends, carried, outputs, rest })
    }

    /// The same chunk, whose rows carry something else.
    pub fn with_rows(&self, rows: &Rows) -> Result<Vec<u8>> {
        let size = rows.bytes() + 16 + self.rest.len();
        let mut w = Vec::new();
        w.try_reserve_exact(size).map_err(|_| Error::OutOfMemory { what: "results".into(), bytes: size })?;
        put_rows(&mut w, rows, self.outputs.len())?;
        w.extend_from_slice(self.rest);
        Ok(w)
    }

    /// Checks that a chunk from outside is one of this layout: that every row has what the layout says, and that whatever is found
    /// by a number is there. The values that rows carry are checked where they are read.
    pub fn check(&self, layout: &Layout) -> Result<()> {
        let wrong = |what: &'static str| Err(Error::Corrupt { what: what.into() });
        if self.ran.iter().any(|ran| *ran > 1) {
            return wrong("a row was neither run nor not run");
        }
        let run = self.ran.iter().filter(|ran| **ran == 1).count();
        if layout.carried.is_empty() || self.ends.is_empty() {
            let even = self.carried.len().checked_rem(self.ran.len()).unwrap_or(self.carried.len()) == 0;
            if !self.ends.is_empty() || !even || layout.carried.is_empty() && !self.carried.is_empty() {
                return wrong("rows carry other columns than their layout says");
            }
        } else if self.ends.len() != 4 * self.ran.len() || last_end(self.ends)? != self.carried.len() {
            return wrong("rows carry other columns than their layout says");
        }
        if self.outputs.len() != layout.outputs.len() {
            return wrong("it has another number of outputs than its layout says");
        }
        for (encoded, output) in self.outputs.iter().zip(&layout.outputs) {
            let fits = match (encoded, &output.row) {
                (Encoded::Tensor { element, width, data }, OutputRow::Tensor { element: same, shape }) => {
                    element == same
                        && layout::width(shape) == Some(*width)
                        && Some(data.check(*element)?) == run.checked_mul(*width)
                }
                (Encoded::Open { element, dims, dim_ends, ends, data }, OutputRow::Open { element: same, .. }) => {
                    let elements = data.check(*element)?;
                    if element != same
                        || dim_ends.len() != 4 * run
                        || ends.len() != 4 * run
                        || last_end(ends)? != elements
                        || last_end(dim_ends)?.checked_mul(4) != Some(dims.len())
                    {
                        return wrong("an output is not what its layout says");
                    }
                    let mut shape = Vec::new();
                    for row in 0..run {
                        let (start, n) = span(dim_ends, row)?;
                        shape.clear();
                        for i in start..start + n.min(layout::MOST_DIMENSIONS + 1) {
                            shape.push(at::<u32>(dims, i)? as usize);
                        }
                        if layout::width(&shape) != Some(span(ends, row)?.1) {
                            return wrong("a row of an output has another shape than elements");
                        }
                    }
                    true
                }
                (Encoded::Nested(texts), OutputRow::Nested { .. }) => {
                    if texts.check()? != run {
                        return wrong("an output is not what its layout says");
                    }
                    for row in 0..run {
                        if !portable::is_json(texts.get(row)?) {
                            return wrong("an output is no JSON");
                        }
                    }
                    true
                }
                (Encoded::Maps { ends, keys, values }, OutputRow::Map { key }) => {
                    let (count, kind) = match keys {
                        MapKeys::Int64(keys) => (keys.len() / 8, ElementType::Int64),
                        MapKeys::Text(keys) => (keys.check()?, ElementType::String),
                    };
                    let whole = !matches!(keys, MapKeys::Int64(keys) if keys.len() % 8 != 0);
                    whole
                        && kind == *key
                        && ends.len() == 4 * run
                        && last_end(ends)? == count
                        && values.len() == 4 * count
                }
                _ => false,
            };
            if !fits {
                return wrong("an output is not what its layout says");
            }
        }
        Ok(())
    }

    /// Rows in it.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.ran.len()
    }

    /// Whether a row was run.
    #[must_use]
    pub fn ran(&self, row: usize) -> bool {
        self.ran.get(row) == Some(&1)
    }

    /// What a row carries; none when nothing is carried. Without ends all rows carry as many bytes.
    pub fn carried(&self, row: usize) -> Result<Option<&'a [u8]>> {
        if self.ends.is_empty() {
            let each = self.carried.len() / self.ran.len().max(1);
            return Ok(self.carried.get(row * each..(row + 1) * each).filter(|_| each > 0));
        }
        let start = if row == 0 { 0 } else { at::<u32>(self.ends, row - 1)? as usize };
        self.carried.get(start..at::<u32>(self.ends, row)? as usize).map(Some).ok_or_else(short)
    }

    /// The shape of output `output` of the `nth` row that was run, where rows have their own.
    pub fn shape(&self, output: usize, nth: usize) -> Result<Option<Vec<usize>>> {
        let Some(Encoded::Open { dims, dim_ends, .. }) = self.outputs.get(output) else { return Ok(None) };
        let (start, n) = span(dim_ends, nth)?;
        (start..start + n).map(|i| Ok(at::<u32>(dims, i)? as usize)).collect::<Result<_>>().map(Some)
    }

    /// The JSON of output `output` of the `nth` row that was run, where that is its form.
    pub fn nested(&self, output: usize, nth: usize) -> Result<&'a str> {
        match self.outputs.get(output) {
            Some(Encoded::Nested(texts)) => texts.get(nth),
            _ => Err(Error::Corrupt { what: "an output is missing".into() }),
        }
    }

    /// Element `position` of output `output` of the `nth` row that was run.
    pub fn scalar(&self, output: usize, nth: usize, position: usize) -> Result<Scalar<'a>> {
        let (element, data, i) = match self.outputs.get(output) {
            Some(Encoded::Tensor { element, width, data }) => (element, data, nth * width + position),
            Some(Encoded::Open { element, ends, data, .. }) => {
                let (start, n) = span(ends, nth)?;
                if position >= n {
                    return Err(short());
                }
                (element, data, start + position)
            }
            _ => return Err(Error::Corrupt { what: "an output is missing".into() }),
        };
        let bytes = match data {
            Block::Text(t) => return Ok(Scalar::Text(t.get(i)?)),
            Block::Plain(bytes) => bytes,
        };
        Ok(match element {
            ElementType::Float32 => Scalar::Float32(at(bytes, i)?),
            ElementType::Float64 => Scalar::Float64(at(bytes, i)?),
            ElementType::Int8 => Scalar::Int(at::<i8>(bytes, i)?.into()),
            ElementType::Int16 => Scalar::Int(at::<i16>(bytes, i)?.into()),
            ElementType::Int32 => Scalar::Int(at::<i32>(bytes, i)?.into()),
            ElementType::Int64 => Scalar::Int(at(bytes, i)?),
            ElementType::Uint8 => Scalar::Int(at::<u8>(bytes, i)?.into()),
            ElementType::Uint16 => Scalar::Int(at::<u16>(bytes, i)?.into()),
            ElementType::Uint32 => Scalar::Int(at::<u32>(bytes, i)?.into()),
            ElementType::Uint64 => Scalar::Uint64(at(bytes, i)?),
            ElementType::Bool => Scalar::Bool(at::<u8>(bytes, i)? != 0),
            ElementType::Float16 => Scalar::Float32(at::<f16>(bytes, i)?.to_f32()),
            ElementType::Bfloat16 => Scalar::Float32(at::<bf16>(bytes, i)?.to_f32()),
            ElementType::String => return Err(short()),
        })
    }

    /// The pairs of output `output`, a map, of the `nth` row that was run.
    pub fn pairs(&self, output: usize, nth: usize) -> Result<Vec<(Key<'a>, f32)>> {
        self.each_pair(output, nth)?.collect()
    }

    /// The same, one after the other.
    pub fn each_pair(
        &self,
        output: usize,
        nth: usize,
    ) -> Result<impl Iterator<Item = Result<(Key<'a>, f32)>> + use<'_, 'a>> {
        let Some(Encoded::Maps { ends, keys, values }) = self.outputs.get(output) else {
            return Err(Error::Corrupt { what: "an output is missing".into() });
        };
        let (start, n) = span(ends, nth)?;
        Ok((start..start + n).map(move |i| {
            let key = match keys {
                MapKeys::Int64(k) => Key::Int64(at(k, i)?),
                MapKeys::Text(k) => Key::Text(k.get(i)?),
            };
            Ok((key, at(values, i)?))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(list: &[&str]) -> Strings {
        let mut s = Strings::default();
        list.iter().for_each(|t| s.push(t));
        s
    }

    fn sample() -> Vec<u8> {
        let mut rows = Rows { ran: vec![true, false, true], ..Rows::default() };
        for part in ["ab", "", "cde"] {
            rows.carried.extend_from_slice(part.as_bytes());
            rows.end_row(part.len());
        }
        let maps = Maps { ends: vec![2, 3], keys: Keys::Text(texts(&["a", "b", "é"])), values: vec![0.1, 0.9, 1.0] };
        let outputs = [
            Values::Tensor { width: 1, data: Column::Int64(vec![7, -7]) },
            Values::Tensor { width: 2, data: Column::Float32(vec![0.5, f32::NAN, 1.5, 2.5]) },
            Values::Tensor { width: 1, data: Column::String(texts(&["x", ""])) },
            Values::Tensor { width: 1, data: Column::Bool(vec![true, false]) },
            Values::Maps(maps),
        ];
        encode(&rows, &outputs).unwrap()
    }

    #[test]
    fn rows_that_carry_as_much_need_no_ends_and_others_have_them() {
        for (parts, ends) in [(["ab", "cd", "ef", "gh"], 0), (["ab", "cd", "e", "fg"], 4), (["a", "bc", "de", "fg"], 4)]
        {
            let mut rows = Rows::default();
            for part in parts {
                rows.ran.push(true);
                rows.carried.extend_from_slice(part.as_bytes());
                rows.end_row(part.len());
            }
            assert_eq!(rows.ends.len(), ends, "{parts:?}");
            let bytes = encode(&rows, &[]).unwrap();
            let chunk = Chunk::parse(&bytes).unwrap();
            for (row, part) in parts.iter().enumerate() {
                assert_eq!(chunk.carried(row).unwrap(), Some(part.as_bytes()), "{parts:?}");
            }
            rows.clear();
            assert_eq!(rows.bytes(), 0);
        }
    }

    #[test]
    fn what_is_encoded_is_read_back_row_by_row() {
        let bytes = sample();
        let c = Chunk::parse(&bytes).unwrap();
        assert_eq!((c.rows(), c.ran(0), c.ran(1), c.ran(2)), (3, true, false, true));
        assert_eq!(c.carried(0).unwrap(), Some(&b"ab"[..]));
        assert_eq!(c.carried(1).unwrap(), Some(&b""[..]));
        assert_eq!(c.carried(2).unwrap(), Some(&b"cde"[..]));
        assert_eq!(c.scalar(0, 1, 0).unwrap(), Scalar::Int(-7));
        assert_eq!(c.scalar(1, 1, 1).unwrap(), Scalar::Float32(2.5));
        assert_eq!(c.scalar(2, 0, 0).unwrap(), Scalar::Text("x"));
        assert_eq!(c.scalar(3, 1, 0).unwrap(), Scalar::Bool(false));
        assert_eq!(c.pairs(4, 1).unwrap(), vec![(Key::Text("é"), 1.0)]);
    }

    #[test]
    fn a_cut_chunk_is_an_error_and_never_a_panic() {
        let bytes = sample();
        for n in 0..bytes.len() {
            if let Ok(c) = Chunk::parse(&bytes[..n]) {
                assert!(c.pairs(4, 1).is_err() || c.scalar(0, 0, 0).is_err(), "{n}");
            }
        }
    }
}
