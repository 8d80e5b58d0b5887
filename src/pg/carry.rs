//! The columns that come back with their row: how a row of them is kept, and taken apart again.
//!
//! A row is a byte that says how it is kept, and then either its values one behind the other, where all are plain numbers and none
//! is NULL, or a minimal tuple.

use pg_predict_engine::chunk::Rows;
use pgrx::pg_sys::{self, Datum};

use crate::pg::convert::attribute;

const TUPLE: u8 = 0;
const PLAIN: u8 = 1;

/// How rows of a description are kept where none of their values is NULL.
#[derive(Clone, Default)]
pub(crate) struct Form {
    sizes: Vec<usize>,
    bytes: usize,
}

impl Form {
    /// That of a description whose values are all numbers or like numbers.
    pub(crate) fn of(desc: pg_sys::TupleDesc) -> Option<Self> {
        // SAFETY: the description is valid and has so many attributes.
        let sizes: Option<Vec<usize>> = unsafe {
            (0..(*desc).natts as usize)
                .map(|i| {
                    let a = attribute(desc, i);
                    usize::try_from((*a).attlen).ok().filter(|_| (*a).attbyval)
                })
                .collect()
        };
        sizes.map(|sizes| Self { bytes: sizes.iter().sum(), sizes })
    }

    /// Keeps a row of values that are not NULL.
    #[inline]
    pub(crate) fn write(&self, values: impl Iterator<Item = Datum>, rows: &mut Rows) {
        rows.carried.reserve(self.bytes + 1);
        rows.carried.push(PLAIN);
        for (size, value) in self.sizes.iter().zip(values) {
            let bytes = value.value().to_ne_bytes();
            match size {
                8 => rows.carried.extend_from_slice(&bytes),
                4 => rows.carried.extend_from_slice(&bytes[..4]),
                n => rows.carried.extend_from_slice(&bytes[..*n]),
            }
        }
        rows.end_row(self.bytes + 1);
    }

    /// The values of a row; false where it is not as long as they are.
    #[inline]
    fn read(&self, bytes: &[u8], values: &mut [Datum]) -> bool {
        if bytes.len() != self.bytes {
            return false;
        }
        let mut rest = bytes;
        for (size, value) in self.sizes.iter().zip(values) {
            let (own, behind) = rest.split_at(*size);
            // As fetch_att does (access/tupmacs.h): integers with their sign.
            *value = match own {
                [a] => Datum::from(i64::from(*a as i8) as usize),
                [a, b] => Datum::from(i64::from(i16::from_ne_bytes([*a, *b])) as usize),
                [a, b, c, d] => Datum::from(i64::from(i32::from_ne_bytes([*a, *b, *c, *d])) as usize),
                _ => Datum::from(own.try_into().map_or(0, usize::from_ne_bytes)),
            };
            rest = behind;
        }
        true
    }
}

/// Keeps the values of a row.
#[inline]
pub(crate) fn keep(
    desc: pg_sys::TupleDesc,
    form: Option<&Form>,
    values: &mut [Datum],
    nulls: &mut [bool],
    rows: &mut Rows,
) {
    match form {
        Some(form) if !nulls.contains(&true) => form.write(values.iter().copied(), rows),
        _ => keep_tuple(desc, values, nulls, rows),
    }
}

fn keep_tuple(desc: pg_sys::TupleDesc, values: &mut [Datum], nulls: &mut [bool], rows: &mut Rows) {
    let before = rows.carried.len();
    rows.carried.push(TUPLE);
    // SAFETY: the values match the description; the tuple is copied and freed at once.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        let tuple = pg_sys::heap_form_minimal_tuple(desc, values.as_mut_ptr(), nulls.as_mut_ptr());
        #[cfg(feature = "pg18")]
        let tuple = pg_sys::heap_form_minimal_tuple(desc, values.as_mut_ptr(), nulls.as_mut_ptr(), 0);
        rows.carried.extend_from_slice(std::slice::from_raw_parts(tuple.cast::<u8>(), (*tuple).t_len as usize));
        pg_sys::pfree(tuple.cast());
    }
    rows.end_row(rows.carried.len() - before);
}

/// Takes a row apart. What its values point to is in the current context. A row that keeps nothing is NULLs.
#[inline]
pub(crate) fn open(
    desc: pg_sys::TupleDesc,
    form: Option<&Form>,
    row: Option<&[u8]>,
    values: &mut [Datum],
    nulls: &mut [bool],
) {
    match row {
        Some([PLAIN, bytes @ ..]) if form.is_some_and(|form| form.read(bytes, values)) => nulls.fill(false),
        Some([TUPLE, bytes @ ..]) if !bytes.is_empty() => open_tuple(desc, bytes, values, nulls),
        _ => nulls.fill(true),
    }
}

fn open_tuple(desc: pg_sys::TupleDesc, bytes: &[u8], values: &mut [Datum], nulls: &mut [bool]) {
    // SAFETY: the bytes are a minimal tuple that heap_form_minimal_tuple made with the same description; the copy
    // is aligned and lives in the current, per-row context. A minimal tuple lies MINIMAL_TUPLE_OFFSET behind the
    // start of the heap tuple that it stands for (access/htup_details.h).
    unsafe {
        let copy = pg_sys::palloc(bytes.len()).cast::<u8>();
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), copy, bytes.len());
        let offset = std::mem::offset_of!(pg_sys::HeapTupleHeaderData, t_infomask2)
            - std::mem::offset_of!(pg_sys::MinimalTupleData, t_infomask2);
        let mut tuple = pg_sys::HeapTupleData {
            t_len: (bytes.len() + offset) as u32,
            t_data: copy.wrapping_sub(offset).cast(),
            ..Default::default()
        };
        pg_sys::heap_deform_tuple(&raw mut tuple, desc, values.as_mut_ptr(), nulls.as_mut_ptr());
    }
}
