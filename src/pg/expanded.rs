//! The ways that a result travels as a datum: an expanded object (a pointer to results that live in this backend), its
//! flat form, and a handle.
//!
//! PostgreSQL copies what an uncorrelated sub-select returns into a heap tuple, which flattens an expanded object. So
//! that `predictions((SELECT predict_batch(..) ..))` needs no such copy, it is planned with a handle: a number that names
//! a result of this backend for as long as its aggregate keeps it.

use std::cell::RefCell;
use std::collections::HashMap;

use pgrx::pg_sys::{self, Datum};

use crate::error::{Error, Result, raise};
use crate::pg::results::Results;
use crate::pg::{memory, text};

/// An expanded object of ours. PostgreSQL's header comes first.
#[repr(C)]
struct Expanded {
    header: pg_sys::ExpandedObjectHeader,
    results: *const Results,
    size: usize,
}

struct Methods(pg_sys::ExpandedObjectMethods);
// SAFETY: two function pointers that never change.
unsafe impl Sync for Methods {}
static METHODS: Methods =
    Methods(pg_sys::ExpandedObjectMethods { get_flat_size: Some(get_flat_size), flatten_into: Some(flatten_into) });

/// PostgreSQL's limit for one value.
const MAX_DATUM: usize = 0x3fff_ffff;

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn get_flat_size(header: *mut pg_sys::ExpandedObjectHeader) -> pg_sys::Size {
    // SAFETY: PostgreSQL passes a header that `expand` made; the results live in the same context.
    let expanded = unsafe { &mut *header.cast::<Expanded>() };
    // SAFETY: as above.
    match unsafe { &*expanded.results }.flat_size() {
        Ok(n) if n + 4 > MAX_DATUM => raise(Error::TooLarge { bytes: n }),
        Ok(n) => expanded.size = n + 4,
        Err(e) => raise(e),
    }
    expanded.size
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn flatten_into(
    header: *mut pg_sys::ExpandedObjectHeader,
    target: *mut std::ffi::c_void,
    allocated: pg_sys::Size,
) {
    // SAFETY: as above, and the target has the size that `get_flat_size` gave.
    unsafe {
        let expanded = &*header.cast::<Expanded>();
        let mut at = target.cast::<u8>().add(4);
        let end = target.cast::<u8>().add(allocated);
        let written = (*expanded.results).write_flat(|piece| {
            if at.add(piece.len()) <= end {
                std::ptr::copy_nonoverlapping(piece.as_ptr(), at, piece.len());
            }
            at = at.add(piece.len());
            Ok(())
        });
        if let Err(e) = written {
            raise(e);
        }
        pgrx::varlena::set_varsize_4b(target.cast(), allocated as i32);
    }
}

/// Makes results an expanded object below the current memory context, and gives a read-only pointer to it.
///
/// The pointer is copied into the current context: PostgreSQL 15 copies, and so flattens, an aggregate's result that is
/// not there.
pub(crate) fn expand(results: Results) -> Datum {
    // SAFETY: the object's context holds the object and the results; `EOH_init_header` fills the header. The copied
    // pointer is a TOAST pointer of 10 bytes.
    unsafe {
        let parent = pg_sys::CurrentMemoryContext;
        let context = pg_sys::AllocSetContextCreateExtended(
            parent,
            c"pg_predict batch".as_ptr(),
            pg_sys::ALLOCSET_SMALL_MINSIZE as usize,
            pg_sys::ALLOCSET_SMALL_INITSIZE as usize,
            pg_sys::ALLOCSET_SMALL_MAXSIZE as usize,
        );
        let object = pg_sys::MemoryContextAllocZero(context, size_of::<Expanded>()).cast::<Expanded>();
        (*object).results = memory::own(context, results);
        pg_sys::EOH_init_header(&raw mut (*object).header, &raw const METHODS.0, context);
        let pointer = pg_sys::palloc((*object).header.eoh_ro_ptr.len()).cast::<u8>();
        std::ptr::copy_nonoverlapping(
            (*object).header.eoh_ro_ptr.as_ptr().cast(),
            pointer,
            (*object).header.eoh_ro_ptr.len(),
        );
        Datum::from(pointer)
    }
}

/// Results as a flat value in the current memory context.
pub(crate) fn flat(results: &Results) -> Result<Datum> {
    let size = results.flat_size()?;
    if size + 4 > MAX_DATUM {
        return Err(Error::TooLarge { bytes: size });
    }
    let mut bytes = Vec::with_capacity(size);
    results.write_flat(|piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(text::bytes(&bytes))
}

/// A result to be read, wherever it is.
pub(crate) enum Batch<'a> {
    /// In this backend.
    Here(&'a Results),
    /// Read from a flat value.
    Flat(Box<Results>),
}

impl std::ops::Deref for Batch<'_> {
    type Target = Results;
    fn deref(&self) -> &Results {
        match self {
            Self::Here(r) => r,
            Self::Flat(r) => r,
        }
    }
}

/// The result behind a datum of type prediction_batch.
pub(crate) fn read<'a>(datum: Datum) -> Result<Batch<'a>> {
    // SAFETY: the datum is of our type and not NULL: an expanded object of ours, or its flat form.
    unsafe {
        let p = datum.cast_mut_ptr::<pg_sys::varlena>();
        if pgrx::varlena::varatt_is_1b_e(p) {
            let tag = *p.cast::<u8>().add(1);
            let expanded = tag == pg_sys::vartag_external::VARTAG_EXPANDED_RO as u8
                || tag == pg_sys::vartag_external::VARTAG_EXPANDED_RW as u8;
            if expanded {
                let header = pg_sys::DatumGetEOHP(datum);
                if std::ptr::eq((*header).eoh_methods, &raw const METHODS.0) {
                    return Ok(Batch::Here(&*(*header.cast::<Expanded>()).results));
                }
            }
        }
    }
    Ok(Batch::Flat(Box::new(Results::read_flat(text::varlena(datum))?)))
}

thread_local! {
    static HANDLES: RefCell<(i64, HashMap<i64, *const Results>)> = RefCell::new((0, HashMap::new()));
}

/// Results that a handle names; the name goes when they do.
struct Named {
    handle: i64,
    _results: Box<Results>,
}

impl Drop for Named {
    fn drop(&mut self) {
        HANDLES.with_borrow_mut(|(_, all)| all.remove(&self.handle));
    }
}

/// Names results by a handle for as long as the context lives.
pub(crate) fn name(results: Results, context: pg_sys::MemoryContext) -> i64 {
    let results = Box::new(results);
    let handle = HANDLES.with_borrow_mut(|(last, all)| {
        *last += 1;
        all.insert(*last, &raw const *results);
        *last
    });
    memory::own(context, Named { handle, _results: results });
    handle
}

/// The results that a handle names.
pub(crate) fn named<'a>(handle: i64) -> Result<&'a Results> {
    let found = HANDLES.with_borrow(|(_, all)| all.get(&handle).copied());
    // SAFETY: the entry is removed when the results are dropped, and this backend has one thread that runs queries.
    found.map(|r| unsafe { &*r }).ok_or(Error::StaleHandle)
}
