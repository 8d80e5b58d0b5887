//! Composite values: their columns and their attribute values.

use pgrx::pg_sys::{self, Datum, Oid};

use crate::error::{Error, Result};
use crate::pg::text;
use crate::rows::binding::Composite;
use crate::rows::encoders::{base_type, size};

pub(crate) fn is_composite(oid: Oid) -> bool {
    // SAFETY: reads the type cache.
    oid == pg_sys::RECORDOID || unsafe { pg_sys::type_is_rowtype(oid) }
}

/// A column of a row type.
pub(crate) struct RowColumn {
    pub(crate) attribute: usize,
    pub(crate) name: String,
    /// The type, with domains resolved to their base type.
    pub(crate) oid: Oid,
    pub(crate) oid_itself: Oid,
    pub(crate) typmod: i32,
}

/// Returns the columns of a row type, without dropped ones.
pub(crate) fn columns(desc: pg_sys::TupleDesc) -> Vec<RowColumn> {
    // SAFETY: the descriptor is valid and has natts attributes.
    unsafe {
        (0..size((*desc).natts))
            .filter_map(|i| {
                let a = attribute(desc, i);
                (!(*a).attisdropped).then(|| RowColumn {
                    attribute: i,
                    name: text::copied((*a).attname.data.as_ptr()),
                    oid: base_type((*a).atttypid),
                    oid_itself: (*a).atttypid,
                    typmod: (*a).atttypmod,
                })
            })
            .collect()
    }
}

/// Returns an attribute of a tuple descriptor.
pub(crate) fn attribute(desc: pg_sys::TupleDesc, i: usize) -> *const pg_sys::FormData_pg_attribute {
    #[cfg(not(feature = "pg18"))]
    // SAFETY: callers keep i below natts.
    unsafe {
        (*desc).attrs.as_ptr().add(i)
    }
    #[cfg(feature = "pg18")]
    // SAFETY: callers keep i below natts.
    unsafe {
        pg_sys::TupleDescAttr(desc, i32::try_from(i).unwrap_or(i32::MAX))
    }
}

/// Returns the type in the header of a composite value.
pub(crate) fn row_type(row: Datum) -> (Oid, i32) {
    // SAFETY: a composite datum is a varlena whose header contains its type. Detoasting does not change an inline
    // value.
    unsafe {
        let header = pg_sys::pg_detoast_datum(row.cast_mut_ptr()).cast::<pg_sys::HeapTupleHeaderData>();
        ((*header).t_choice.t_datum.datum_typeid, (*header).t_choice.t_datum.datum_typmod)
    }
}

/// Splits a composite value into the values of its attributes.
pub(crate) fn deform(composite: &mut Composite, row: Datum) {
    // SAFETY: the value has the type that `desc` describes, or one with the same columns. The arrays have natts
    // entries.
    unsafe {
        let header = pg_sys::pg_detoast_datum(row.cast_mut_ptr()).cast::<pg_sys::HeapTupleHeaderData>();
        let mut tuple = pg_sys::HeapTupleData {
            t_len: u32::try_from(pgrx::varlena::varsize_4b(header.cast())).unwrap_or(0),
            t_data: header,
            ..Default::default()
        };
        pg_sys::heap_deform_tuple(
            &raw mut tuple,
            composite.desc,
            composite.values.as_mut_ptr(),
            composite.nulls.as_mut_ptr(),
        );
    }
}

/// Accepts another anonymous row type if it has the same columns. Returns an error otherwise.
pub(crate) fn same_columns(composite: &mut Composite, typeid: Oid, typmod: i32) -> Result<()> {
    // SAFETY: a composite value names a type in the type cache.
    let desc = unsafe { pg_sys::lookup_rowtype_tupdesc_copy(typeid, typmod) };
    let (ours, theirs) = (columns(composite.desc), columns(desc));
    let key = |c: &RowColumn| (c.attribute, c.name.clone(), c.oid_itself);
    if ours.iter().map(key).ne(theirs.iter().map(key)) {
        return Err(Error::RowsDiffer);
    }
    (composite.typeid, composite.typmod) = (typeid, typmod);
    Ok(())
}
