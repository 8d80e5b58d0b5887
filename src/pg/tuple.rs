//! Converts column numbers. PostgreSQL counts columns from 1, in 16 bits; slices count from 0.

use pgrx::pg_sys;

/// Converts a count from 1 to a column number. PostgreSQL rejects rows of more than 1,664 columns, so the count fits.
pub(crate) fn number(counted: usize) -> i16 {
    i16::try_from(counted).unwrap_or(i16::MAX)
}

/// Converts a column number to a count from 1. Whole rows and system columns give 0.
pub(crate) fn counted(number: i16) -> usize {
    usize::try_from(number).unwrap_or(0)
}

/// Converts a column number to an index into a slice of all columns. `None` for whole rows and system columns.
pub(crate) fn place(number: i16) -> Option<usize> {
    counted(number).checked_sub(1)
}

/// Returns the number of columns of a tuple descriptor, with dropped columns.
pub(crate) unsafe fn count(desc: pg_sys::TupleDesc) -> usize {
    // SAFETY: the caller guarantees a valid descriptor.
    usize::try_from(unsafe { (*desc).natts }).unwrap_or(0)
}

/// Creates a tuple descriptor for this many columns in the current context.
pub(crate) fn description(columns: usize) -> pg_sys::TupleDesc {
    // SAFETY: allocates a new descriptor.
    unsafe { pg_sys::CreateTemplateTupleDesc(i32::from(number(columns))) }
}
