//! Reads encoded rows in place. Every size and offset is checked before it is used.

use bytemuck::{Pod, pod_read_unaligned};
use half::{bf16, f16};

use crate::encoding::encoded_rows::{MAPS_INT64, MAPS_TEXT, NESTED, OPEN, RowHeaders, put_rows};
use crate::encoding::layout::Layout;
use crate::encoding::text_form;
use crate::error::{Error, Result};
use crate::signature::OutputRow;
use crate::tensor::{ElementType, MOST_DIMENSIONS, Scalar, element_count};

/// An encoded batch of rows, read in place.
pub struct EncodedRows<'a> {
    pub(crate) ran: &'a [u8],
    pub(crate) ends: &'a [u8],
    pub(crate) carried: &'a [u8],
    outputs: Vec<Encoded<'a>>,
    /// The encoded outputs.
    pub(crate) rest: &'a [u8],
}

enum Encoded<'a> {
    Tensor { element: ElementType, width: usize, data: Block<'a> },
    Open { element: ElementType, dims: &'a [u8], dim_ends: &'a [u8], ends: &'a [u8], data: Block<'a> },
    Nested(EncodedTexts<'a>),
    Maps { ends: &'a [u8], keys: MapKeys<'a>, values: &'a [u8] },
}

enum Block<'a> {
    Plain(&'a [u8]),
    Text(EncodedTexts<'a>),
}

enum MapKeys<'a> {
    Int64(&'a [u8]),
    Text(EncodedTexts<'a>),
}

struct EncodedTexts<'a> {
    ends: &'a [u8],
    text: &'a str,
}

impl<'a> EncodedTexts<'a> {
    fn get(&self, i: usize) -> Result<&'a str> {
        let start = if i == 0 { 0 } else { at::<u32>(self.ends, i - 1)? as usize };
        self.text.get(start..at::<u32>(self.ends, i)? as usize).ok_or_else(short)
    }
}

impl Block<'_> {
    /// Returns the number of elements, after checking that all of them are there.
    fn check(&self, element: ElementType) -> Result<usize> {
        match self {
            Self::Text(texts) => texts.check(),
            Self::Plain(bytes) if bytes.len() % element.size() == 0 => Ok(bytes.len() / element.size()),
            Self::Plain(_) => Err(short()),
        }
    }
}

impl EncodedTexts<'_> {
    /// Returns the number of texts, after checking that all of them are there.
    fn check(&self) -> Result<usize> {
        let n = self.ends.len() / 4;
        if last_end(self.ends)? != self.text.len() {
            return Err(short());
        }
        (0..n).try_for_each(|i| self.get(i).map(|_| ()))?;
        Ok(n)
    }
}

/// Returns the last of the ends, after checking that they never decrease.
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
pub enum MapKey<'a> {
    /// An integer.
    Int64(i64),
    /// A text.
    Text(&'a str),
}

fn short() -> Error {
    Error::Corrupt { what: "a chunk is cut short".into() }
}

/// Returns the start and the length of the `nth` part, given the ends of all parts.
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

    fn texts(&mut self) -> Result<EncodedTexts<'a>> {
        let n = self.u32()?;
        let ends = self.take(n.saturating_mul(4))?;
        let text =
            std::str::from_utf8(self.block()?).map_err(|_| Error::Corrupt { what: "text is not UTF-8".into() })?;
        Ok(EncodedTexts { ends, text })
    }
}

impl<'a> EncodedRows<'a> {
    /// Parses the structure of encoded rows. `check` validates their content.
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

    /// Encodes the same outputs with other row headers.
    pub fn with_rows(&self, rows: &RowHeaders) -> Result<Vec<u8>> {
        let size = rows.bytes() + 16 + self.rest.len();
        let mut w = Vec::new();
        w.try_reserve_exact(size).map_err(|_| Error::OutOfMemory { what: "results".into(), bytes: size })?;
        put_rows(&mut w, rows, self.outputs.len())?;
        w.extend_from_slice(self.rest);
        Ok(w)
    }

    /// Checks encoded rows from outside against a layout: every row has what the layout says, and every offset is
    /// valid. Carried values are checked when they are read.
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
                        && element_count(shape) == Some(*width)
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
                        for i in start..start + n.min(MOST_DIMENSIONS + 1) {
                            shape.push(at::<u32>(dims, i)? as usize);
                        }
                        if element_count(&shape) != Some(span(ends, row)?.1) {
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
                        if !text_form::is_json(texts.get(row)?) {
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

    /// Returns the number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.ran.len()
    }

    /// Returns whether the model ran for a row.
    #[must_use]
    pub fn ran(&self, row: usize) -> bool {
        self.ran.get(row) == Some(&1)
    }

    /// Returns whether the model ran for every row.
    #[must_use]
    pub fn all_ran(&self) -> bool {
        self.ran.iter().all(|ran| *ran == 1)
    }

    /// Returns all elements of an output whose rows have the same shape, as bytes. `None` for other outputs and for
    /// texts.
    #[must_use]
    pub fn plain(&self, output: usize) -> Option<(ElementType, &'a [u8])> {
        match self.outputs.get(output)? {
            Encoded::Tensor { element, data: Block::Plain(bytes), .. } => Some((*element, bytes)),
            _ => None,
        }
    }

    /// Returns the carried bytes of a row, or `None` if nothing is carried. Without ends, all rows have equally many
    /// bytes.
    pub fn carried(&self, row: usize) -> Result<Option<&'a [u8]>> {
        if self.ends.is_empty() {
            let each = self.carried.len() / self.ran.len().max(1);
            return Ok(self.carried.get(row * each..(row + 1) * each).filter(|_| each > 0));
        }
        let start = if row == 0 { 0 } else { at::<u32>(self.ends, row - 1)? as usize };
        self.carried.get(start..at::<u32>(self.ends, row)? as usize).map(Some).ok_or_else(short)
    }

    /// Returns the shape of output `output` of the `nth` row that ran, or `None` if rows do not have shapes of their
    /// own.
    pub fn shape(&self, output: usize, nth: usize) -> Result<Option<Vec<usize>>> {
        let Some(Encoded::Open { dims, dim_ends, .. }) = self.outputs.get(output) else { return Ok(None) };
        let (start, n) = span(dim_ends, nth)?;
        (start..start + n).map(|i| Ok(at::<u32>(dims, i)? as usize)).collect::<Result<_>>().map(Some)
    }

    /// Returns the JSON of output `output` of the `nth` row that ran. It is an error if the output has another kind.
    pub fn nested(&self, output: usize, nth: usize) -> Result<&'a str> {
        match self.outputs.get(output) {
            Some(Encoded::Nested(texts)) => texts.get(nth),
            _ => Err(Error::Corrupt { what: "an output is missing".into() }),
        }
    }

    /// Returns element `position` of output `output` of the `nth` row that ran.
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

    /// Returns the pairs of output `output`, a map, of the `nth` row that ran.
    pub fn pairs(&self, output: usize, nth: usize) -> Result<Vec<(MapKey<'a>, f32)>> {
        self.each_pair(output, nth)?.collect()
    }

    /// Iterates over the pairs of output `output`, a map, of the `nth` row that ran.
    pub fn each_pair(
        &self,
        output: usize,
        nth: usize,
    ) -> Result<impl Iterator<Item = Result<(MapKey<'a>, f32)>> + use<'_, 'a>> {
        let Some(Encoded::Maps { ends, keys, values }) = self.outputs.get(output) else {
            return Err(Error::Corrupt { what: "an output is missing".into() });
        };
        let (start, n) = span(ends, nth)?;
        Ok((start..start + n).map(move |i| {
            let key = match keys {
                MapKeys::Int64(k) => MapKey::Int64(at(k, i)?),
                MapKeys::Text(k) => MapKey::Text(k.get(i)?),
            };
            Ok((key, at(values, i)?))
        }))
    }
}
