//! The encoding of a row's carried values, and the lookup of each value in it.
//!
//! The first byte of a row is its form. In the form `PLAIN`, the values follow one after the other: all have a fixed
//! size, are passed by value, and none is NULL. In the form `MIXED`, a bitmap of the values that are not NULL comes
//! first, then those values. Variable-length values keep their PostgreSQL header. Every length in a header is checked
//! against the bytes of the row.

use crate::error::{Error, Result};

/// No value is NULL, and all are passed by value.
pub const PLAIN: u8 = 1;
/// Values may be NULL or of variable length.
pub const MIXED: u8 = 2;

/// The representation of a column's values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Slot {
    /// Passed by value; the size in bytes.
    Value(usize),
    /// Passed by pointer to a fixed number of bytes.
    Fixed {
        /// The size in bytes.
        size: usize,
        /// The alignment, a power of two.
        align: usize,
    },
    /// Passed by pointer to a header and content. The alignment applies to a header of four bytes.
    Variable {
        /// The alignment, a power of two.
        align: usize,
        /// Whether a short value may have a header of one byte.
        short: bool,
    },
}

/// The position of a value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Place {
    /// The value is NULL.
    Null,
    /// The bytes of a value that is passed by value.
    Value(u64),
    /// The offset of the value in its row.
    At(usize),
}

fn cut() -> Error {
    Error::Corrupt { what: "a carried value is cut short".into() }
}

/// Returns the size of the NULL bitmap for `columns` values, in bytes.
#[must_use]
pub fn bitmap(columns: usize) -> usize {
    columns.div_ceil(8)
}

/// Calls `found` with the place of each value of a row in the form `MIXED`. A value outside the row is an error.
pub fn places(slots: &[Slot], row: &[u8], mut found: impl FnMut(usize, Place)) -> Result<()> {
    let start = 1 + bitmap(slots.len());
    let bits = row.get(1..start).ok_or_else(cut)?;
    let mut at = start;
    for (i, slot) in slots.iter().enumerate() {
        if bits[i / 8] & (1 << (i % 8)) == 0 {
            found(i, Place::Null);
            continue;
        }
        match *slot {
            Slot::Value(size) => {
                let mut value = [0; 8];
                let bytes = row.get(at..).and_then(|rest| rest.get(..size)).ok_or_else(cut)?;
                value.get_mut(..size).ok_or_else(cut)?.copy_from_slice(bytes);
                found(i, Place::Value(u64::from_ne_bytes(value)));
                at += size;
            }
            Slot::Fixed { size, align } => {
                at = at.next_multiple_of(align);
                row.get(at..).and_then(|rest| rest.get(..size)).ok_or_else(cut)?;
                found(i, Place::At(at));
                at += size;
            }
            Slot::Variable { align, .. } => {
                let (start, size) = variable(row, at, align)?;
                found(i, Place::At(start));
                at = start + size;
            }
        }
    }
    if at == row.len() { Ok(()) } else { Err(Error::Corrupt { what: "a row carries more than its columns".into() }) }
}

/// Returns the start of a variable-length value at or after `at`, and its size including the header. The format is that
/// of PostgreSQL on little-endian machines (varatt.h): an odd byte is a header of one byte, an even one is padding or
/// the first byte of a header of four.
fn variable(row: &[u8], at: usize, align: usize) -> Result<(usize, usize)> {
    let first = *row.get(at).ok_or_else(cut)?;
    let (start, size, header) = if first & 1 == 1 {
        (at, usize::from(first >> 1), 1)
    } else {
        let start = at.next_multiple_of(align);
        let header: [u8; 4] = row.get(start..).and_then(|rest| rest.first_chunk()).copied().ok_or_else(cut)?;
        let header = u32::from_le_bytes(header);
        // The header of a compressed value is followed by the size of its uncompressed content.
        let least = if header & 3 == 2 { 8 } else { 4 };
        if header & 1 == 1 {
            return Err(cut());
        }
        (start, (header >> 2) as usize, least)
    };
    // A header byte of 1 marks a TOAST pointer, which is not allowed in carried values.
    if size < header {
        return Err(cut());
    }
    row.get(start..).and_then(|rest| rest.get(..size)).ok_or_else(cut)?;
    Ok((start, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOTS: [Slot; 4] = [
        Slot::Value(4),
        Slot::Variable { align: 4, short: true },
        Slot::Fixed { size: 16, align: 8 },
        Slot::Variable { align: 8, short: false },
    ];

    fn sample() -> Vec<u8> {
        let mut row = vec![MIXED, 0b1111, 7, 0, 0, 0, 5 << 1 | 1];
        row.extend_from_slice(b"four");
        row.resize(row.len().next_multiple_of(8), 0);
        row.extend_from_slice(&[9; 16]);
        row.extend_from_slice(&(6_u32 << 2).to_le_bytes());
        row.extend_from_slice(b"ab");
        row
    }

    fn read(row: &[u8]) -> Result<Vec<Place>> {
        let mut found = vec![Place::Null; SLOTS.len()];
        places(&SLOTS, row, |i, place| found[i] = place)?;
        Ok(found)
    }

    #[test]
    fn values_are_found_where_they_were_put() {
        assert_eq!(read(&sample()).unwrap(), [Place::Value(7), Place::At(6), Place::At(16), Place::At(32)]);
        assert_eq!(read(&[MIXED, 0]).unwrap(), [Place::Null; 4]);
    }

    #[test]
    fn a_cut_or_lengthened_row_and_a_false_length_are_errors() {
        let row = sample();
        for n in 0..row.len() {
            assert!(read(&row[..n]).is_err(), "{n}");
        }
        let mut longer = row.clone();
        longer.push(0);
        assert!(read(&longer).is_err());
        // A TOAST pointer, a short length that is too large, a long one that is too large, and a length of zero.
        for (at, byte) in [(6, 1), (6, 0xff), (33, 0xff), (32, 0)] {
            let mut bad = row.clone();
            bad[at] = byte;
            assert!(read(&bad).is_err(), "{at} {byte}");
        }
    }
}
