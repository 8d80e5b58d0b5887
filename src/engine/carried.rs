//! The values that a row carries, as bytes: how each of them lies there, and how they are found again.
//!
//! A row is a byte that says its form. `PLAIN` is followed by the values, one after the other, where all are numbers or like
//! numbers and none is NULL. `MIXED` is followed by a bitmap of the values that are there, and then by those. Variable-length
//! values keep PostgreSQL's header; whatever a header says is checked against the bytes that there are.

use crate::error::{Error, Result};

/// All values are there, and each has a size of its own.
pub const PLAIN: u8 = 1;
/// Values may be NULL or of any length.
pub const MIXED: u8 = 2;

/// How the values of a column lie.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Slot {
    /// Passed by value, in so many bytes.
    Value(usize),
    /// Passed by a pointer to so many bytes, aligned so.
    Fixed {
        /// Bytes.
        size: usize,
        /// A power of two.
        align: usize,
    },
    /// Passed by a pointer to a header and its content, aligned so where the header has four bytes.
    Variable {
        /// A power of two.
        align: usize,
        /// A short value may have a header of one byte.
        short: bool,
    },
}

/// Where a value is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Place {
    /// It is NULL.
    Null,
    /// Its bytes, of a value that is passed as such.
    Value(u64),
    /// It begins there in its row.
    At(usize),
}

fn cut() -> Error {
    Error::Corrupt { what: "a carried value is cut short".into() }
}

/// Bytes of the bitmap of so many values.
#[must_use]
pub fn bitmap(columns: usize) -> usize {
    columns.div_ceil(8)
}

/// Calls `found` with the place of each value of a row of the form `MIXED`. Nothing is found outside of the row.
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

/// Where a variable-length value at or after `at` begins, and its size with its header. As PostgreSQL reads it
/// (varatt.h, little-endian): an odd byte is a header by itself, and an even one is padding or the first of four.
fn variable(row: &[u8], at: usize, align: usize) -> Result<(usize, usize)> {
    let first = *row.get(at).ok_or_else(cut)?;
    let (start, size, header) = if first & 1 == 1 {
        (at, usize::from(first >> 1), 1)
    } else {
        let start = at.next_multiple_of(align);
        let header: [u8; 4] = row.get(start..).and_then(|rest| rest.first_chunk()).copied().ok_or_else(cut)?;
        let header = u32::from_le_bytes(header);
        // A compressed value has the size of its content after the header.
        let least = if header & 3 == 2 { 8 } else { 4 };
        if header & 1 == 1 {
            return Err(cut());
        }
        (start, (header >> 2) as usize, least)
    };
    // A header byte of 1 is that of a pointer to another place, which nothing here is.
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
        // The pointer of a value that is elsewhere, a short length that is too long, a long one, and one of nothing.
        for (at, byte) in [(6, 1), (6, 0xff), (33, 0xff), (32, 0)] {
            let mut bad = row.clone();
            bad[at] = byte;
            assert!(read(&bad).is_err(), "{at} {byte}");
        }
    }
}
