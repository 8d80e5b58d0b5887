//! Encodes the results of a batch as flat bytes, which can be stored, spilled, sent to another process of the same
//! machine, and read in place.
//!
//! The bytes record for each row whether the model ran for it; if not, its outputs are NULL. They also contain the
//! carried values of each row, which are opaque here, and the outputs of the rows that ran. Integers are in native byte
//! order.

use bytemuck::cast_slice;

use crate::batch::{Keys, Maps, Open, Values};
use crate::error::{Error, Result};
use crate::tensor::{Column, Strings};

/// The rows of a batch as they were gathered: whether each ran, and its carried values.
#[derive(Debug, Clone, Default)]
pub struct RowHeaders {
    /// Whether the model ran for each row.
    pub ran: Vec<bool>,
    /// The end of each row's carried bytes; empty while all rows have the same number of them.
    pub(crate) ends: Vec<u32>,
    /// The carried bytes of all rows.
    pub carried: Vec<u8>,
    /// The number of rows with carried bytes.
    pub(crate) carrying: usize,
}

impl RowHeaders {
    /// Removes all rows and keeps the buffers.
    pub fn clear(&mut self) {
        self.ran.clear();
        self.ends.clear();
        self.carried.clear();
        self.carrying = 0;
    }

    /// Ends a row whose `bytes` carried bytes were just appended.
    #[inline]
    pub fn end_row(&mut self, bytes: usize) {
        self.carrying += 1;
        if !self.ends.is_empty() || bytes * self.carrying != self.carried.len() {
            self.end_uneven_row(bytes);
        }
    }

    #[cold]
    pub(crate) fn end_uneven_row(&mut self, bytes: usize) {
        if self.ends.is_empty() && self.carrying > 1 {
            // All earlier rows had the same number of bytes.
            let each = (self.carried.len() - bytes) / (self.carrying - 1);
            self.ends.extend((1..self.carrying).map(|row| offset(row * each)));
        }
        self.ends.push(offset(self.carried.len()));
    }

    /// Copies consecutive rows. Either all rows carry something, or none does.
    pub fn part(&self, rows: std::ops::Range<usize>) -> Result<Self> {
        let ran = copied(&self.ran[rows.clone()])?;
        if self.carried.is_empty() {
            return Ok(Self { ran, ..Self::default() });
        }
        let each = self.carried.len() / self.ran.len();
        let end = |row: usize| match row {
            0 => 0,
            _ if self.ends.is_empty() => row * each,
            _ => self.ends[row - 1] as usize,
        };
        let (from, to) = (end(rows.start), end(rows.end));
        let mut ends = if self.ends.is_empty() { Vec::new() } else { copied(&self.ends[rows])? };
        ends.iter_mut().for_each(|end| *end -= offset(from));
        Ok(Self { carrying: ran.len(), ran, ends, carried: copied(&self.carried[from..to])? })
    }

    /// Reserves room for `bytes` more carried bytes. Returns `false` if that fails or offsets would not fit in 32 bits.
    #[inline]
    #[must_use]
    pub fn make_room(&mut self, bytes: usize) -> bool {
        self.carried.try_reserve(bytes).is_ok() && self.carried.len() + bytes <= u32::MAX as usize
    }

    /// Returns the size of the rows, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.ran.len() + 4 * self.ends.len() + self.carried.len()
    }
}

fn copied<T: Copy>(values: &[T]) -> Result<Vec<T>> {
    let mut copy = Vec::new();
    let full = |_| Error::OutOfMemory { what: "rows of a group".into(), bytes: size_of_val(values) };
    copy.try_reserve_exact(values.len()).map_err(full)?;
    copy.extend_from_slice(values);
    Ok(copy)
}

/// Converts an offset to 32 bits. `make_room` guarantees that it fits.
pub(crate) fn offset(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

pub(crate) const MAPS_INT64: u8 = 101;

pub(crate) const MAPS_TEXT: u8 = 102;

pub(crate) const OPEN: u8 = 103;

pub(crate) const NESTED: u8 = 104;

/// Encodes the rows of a batch and the outputs of the rows that ran.
pub fn encode(rows: &RowHeaders, outputs: &[Values]) -> Result<Vec<u8>> {
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

/// Writes everything before the outputs.
pub(crate) fn put_rows(w: &mut Vec<u8>, rows: &RowHeaders, outputs: usize) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::encoded_reader::EncodedRows;
    use crate::encoding::encoded_reader::MapKey;
    use crate::tensor::Scalar;

    fn texts(list: &[&str]) -> Strings {
        let mut s = Strings::default();
        list.iter().for_each(|t| s.push(t));
        s
    }

    fn sample() -> Vec<u8> {
        let mut rows = RowHeaders { ran: vec![true, false, true], ..RowHeaders::default() };
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
    fn a_part_of_rows_carries_what_these_rows_carried() {
        for parts in [["ab", "cd", "ef", "gh"], ["", "abc", "d", "ef"], ["a", "bc", "de", ""], ["", "", "", ""]] {
            let mut rows = RowHeaders::default();
            for (i, part) in parts.iter().enumerate() {
                rows.ran.push(i % 2 == 0);
                rows.carried.extend_from_slice(part.as_bytes());
                rows.end_row(part.len());
            }
            for (from, to) in (0..4).flat_map(|from| (from + 1..=4).map(move |to| (from, to))) {
                let bytes = encode(&rows.part(from..to).unwrap(), &[]).unwrap();
                let got = EncodedRows::parse(&bytes).unwrap();
                assert_eq!(got.rows(), to - from, "{parts:?}");
                for (row, part) in parts[from..to].iter().enumerate() {
                    assert_eq!(got.ran(row), (from + row) % 2 == 0, "{parts:?}");
                    assert_eq!(got.carried(row).unwrap().unwrap_or_default(), part.as_bytes(), "{parts:?}");
                }
            }
        }
    }

    #[test]
    fn rows_that_carry_as_much_need_no_ends_and_others_have_them() {
        for (parts, ends) in [(["ab", "cd", "ef", "gh"], 0), (["ab", "cd", "e", "fg"], 4), (["a", "bc", "de", "fg"], 4)]
        {
            let mut rows = RowHeaders::default();
            for part in parts {
                rows.ran.push(true);
                rows.carried.extend_from_slice(part.as_bytes());
                rows.end_row(part.len());
            }
            assert_eq!(rows.ends.len(), ends, "{parts:?}");
            let bytes = encode(&rows, &[]).unwrap();
            let chunk = EncodedRows::parse(&bytes).unwrap();
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
        let c = EncodedRows::parse(&bytes).unwrap();
        assert_eq!((c.rows(), c.ran(0), c.ran(1), c.ran(2)), (3, true, false, true));
        assert_eq!(c.carried(0).unwrap(), Some(&b"ab"[..]));
        assert_eq!(c.carried(1).unwrap(), Some(&b""[..]));
        assert_eq!(c.carried(2).unwrap(), Some(&b"cde"[..]));
        assert_eq!(c.scalar(0, 1, 0).unwrap(), Scalar::Int(-7));
        assert_eq!(c.scalar(1, 1, 1).unwrap(), Scalar::Float32(2.5));
        assert_eq!(c.scalar(2, 0, 0).unwrap(), Scalar::Text("x"));
        assert_eq!(c.scalar(3, 1, 0).unwrap(), Scalar::Bool(false));
        assert_eq!(c.pairs(4, 1).unwrap(), vec![(MapKey::Text("é"), 1.0)]);
    }

    #[test]
    fn a_cut_chunk_is_an_error_and_never_a_panic() {
        let bytes = sample();
        for n in 0..bytes.len() {
            if let Ok(c) = EncodedRows::parse(&bytes[..n]) {
                assert!(c.pairs(4, 1).is_err() || c.scalar(0, 0, 0).is_err(), "{n}");
            }
        }
    }
}
