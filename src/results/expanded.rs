//! The forms of results as a datum: an expanded object, its flat form, and a handle.
//!
//! An expanded object points to results that live in this backend. PostgreSQL copies the value of an uncorrelated
//! sub-select into a heap tuple, which flattens an expanded object. To avoid this copy, the planner uses a handle for
//! `predictions((SELECT predict_batch(..) ..))`. A handle is a number that names results of this backend for as long as
//! their aggregate keeps them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use pg_predict_engine::Error as Engine;
use pg_predict_engine::encoding::encoded_reader::EncodedRows;
use pg_predict_engine::encoding::encoded_rows::RowHeaders;
use pg_predict_engine::encoding::layout::TypeText;
use pg_predict_engine::encoding::stored_form::Purpose;
use pgrx::pg_sys::{self, Datum, Oid};

use crate::error::{Error, Result};
use crate::pg::report::raise;
use crate::pg::{memory, process, text};
use crate::results::result_set::{Layout, Results};
use crate::results::spill::Pool;
use crate::rows::binding::Carried;
use crate::rows::carried_values;
use crate::rows::stored_type::{self, Style, TypeOutput};

/// An expanded object of this extension. PostgreSQL's header must come first.
#[repr(C)]
struct Expanded {
    header: pg_sys::ExpandedObjectHeader,
    results: *const Results,
    /// The flat form, if it differs from the results. `get_flat_size` makes it and `flatten_into` takes it.
    flat: *mut Option<Vec<u8>>,
}

struct Methods(pg_sys::ExpandedObjectMethods);
// SAFETY: two function pointers that never change.
unsafe impl Sync for Methods {}
static METHODS: Methods =
    Methods(pg_sys::ExpandedObjectMethods { get_flat_size: Some(get_flat_size), flatten_into: Some(flatten_into) });

/// PostgreSQL's limit for one value, in bytes.
const MAX_DATUM: usize = 0x3fff_ffff;

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn get_flat_size(header: *mut pg_sys::ExpandedObjectHeader) -> pg_sys::Size {
    // SAFETY: PostgreSQL passes a header that `expand` created.
    let expanded = unsafe { &mut *header.cast::<Expanded>() };
    // SAFETY: `expand` set both pointers; the results and the flat form live in the same context as the header.
    let (results, flat) = unsafe { (&*expanded.results, &mut *expanded.flat) };
    match flat_size(results, flat) {
        Ok(n) => n + 4,
        Err(e) => raise(e),
    }
}

/// Returns the size of the flat form of results. Makes the flat form here if values are not stored as they are.
fn flat_size(results: &Results, made: &mut Option<Vec<u8>>) -> Result<usize> {
    let size =
        if results.is_lasting() { results.flat_size(Purpose::Stored)? } else { made.insert(as_stored(results)?).len() };
    if size + 4 > MAX_DATUM { Err(Error::TooLarge { bytes: size }) } else { Ok(size) }
}

/// Returns a carried column whose values are kept as the text of a type.
pub(crate) fn as_text(name: &str, written: TypeText) -> Carried {
    Carried { name: name.to_owned(), oid: pg_sys::TEXTOID.to_u32(), typmod: -1, text_of: Some(written) }
}

/// Returns the flat form of results, with text in place of values that cannot be stored as they are.
fn as_stored(results: &Results) -> Result<Vec<u8>> {
    let types: Vec<Oid> = results.layout.carried.iter().map(|c| Oid::from(c.oid)).collect();
    let outputs: Vec<Option<TypeOutput>> =
        types.iter().map(|oid| (!stored_type::is_kept(*oid)).then(|| TypeOutput::of(*oid))).collect();
    let mut layout = Layout::clone(&results.layout);
    for column in &mut layout.carried {
        let oid = Oid::from(column.oid);
        if !stored_type::is_kept(oid) {
            *column = as_text(&column.name, stored_type::written(oid, column.typmod));
        }
    }
    let (old, new) = (
        carried_values::CarriedForm::of_types(types.iter().copied()),
        carried_values::CarriedForm::of_types(layout.carried.iter().map(|c| Oid::from(c.oid))),
    );
    let mut stored = Results::new(Arc::new(layout), Pool::new());
    stored.faults = results.faults.clone();
    let home = memory::Private::new(c"pg_predict row");
    let (mut values, mut nulls) = (vec![Datum::null(); types.len()], vec![true; types.len()]);
    let style = Style::begin();
    results.each(|bytes| {
        let chunk = EncodedRows::parse(bytes)?;
        let mut rows = RowHeaders::default();
        for row in 0..chunk.rows() {
            rows.ran.push(chunk.ran(row));
            let Some(bytes) = chunk.carried(row)? else { continue };
            memory::within(home.context(), || {
                old.open(Some(bytes), &mut values, &mut nulls)?;
                for ((value, null), output) in values.iter_mut().zip(&nulls).zip(&outputs) {
                    if let (false, Some(output)) = (null, output) {
                        *value = text::datum(&output.text(*value));
                    }
                }
                new.keep(&values, &nulls, &mut rows)
            })?;
            // SAFETY: the row has been copied.
            unsafe { pg_sys::MemoryContextReset(home.context()) };
            if row % 1024 == 0 {
                process::check_interrupts();
            }
        }
        stored.push_in_memory(chunk.with_rows(&rows)?)?;
        if stored.bytes() > MAX_DATUM { Err(Error::TooLarge { bytes: stored.bytes() }) } else { Ok(()) }
    })?;
    style.finish();
    let size = stored.flat_size(Purpose::Stored)?;
    let mut flat = Vec::new();
    flat.try_reserve_exact(size).map_err(|_| Engine::OutOfMemory { what: "results".into(), bytes: size })?;
    stored.write_flat(Purpose::Stored, |piece| {
        flat.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(flat)
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn flatten_into(
    header: *mut pg_sys::ExpandedObjectHeader,
    target: *mut std::ffi::c_void,
    allocated: pg_sys::Size,
) {
    // SAFETY: as in `get_flat_size`. The target has the size that `get_flat_size` returned.
    unsafe {
        let expanded = &*header.cast::<Expanded>();
        let mut at = target.cast::<u8>().add(4);
        let end = target.cast::<u8>().add(allocated);
        let mut put = |piece: &[u8]| {
            if piece.len() > end.offset_from_unsigned(at) {
                return Err(Engine::Corrupt { what: "a result grew while it was copied".into() }.into());
            }
            std::ptr::copy_nonoverlapping(piece.as_ptr(), at, piece.len());
            at = at.add(piece.len());
            Ok(())
        };
        let written = match (*expanded.flat).take() {
            Some(flat) => put(&flat),
            None if (*expanded.results).is_lasting() => (*expanded.results).write_flat(Purpose::Stored, put),
            None => as_stored(&*expanded.results).and_then(|flat| put(&flat)),
        };
        if let Err(e) = written {
            raise(e);
        }
        // `get_flat_size` has checked that the size is at most MAX_DATUM.
        pgrx::varlena::set_varsize_4b(target.cast(), i32::try_from(allocated).unwrap_or_default());
    }
}

/// Makes results an expanded object below the current memory context, and returns a read-only pointer to it.
///
/// The pointer is copied into the current context: PostgreSQL 15 copies, and so flattens, an aggregate's result that is
/// not allocated there.
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
        (*object).flat = memory::own(context, None);
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

/// Returns results as a flat value in the current memory context.
pub(crate) fn flat(results: &Results) -> Result<Datum> {
    let size = results.flat_size(Purpose::Stored)?;
    if size + 4 > MAX_DATUM {
        return Err(Error::TooLarge { bytes: size });
    }
    text::bytes_of(size, |put| results.write_flat(Purpose::Stored, put))
}

/// Results that are read from a datum.
pub(crate) enum ExpandedBatch<'a> {
    /// In an expanded object of this backend.
    Here(&'a Results),
    /// Decoded from a flat value.
    Flat(Box<Results>),
}

impl std::ops::Deref for ExpandedBatch<'_> {
    type Target = Results;
    fn deref(&self) -> &Results {
        match self {
            Self::Here(r) => r,
            Self::Flat(r) => r,
        }
    }
}

/// Returns the results of a datum of type prediction_batch.
pub(crate) fn read<'a>(datum: Datum) -> Result<ExpandedBatch<'a>> {
    // SAFETY: the datum is a prediction_batch and not NULL: an expanded object of this extension, or a flat value.
    unsafe {
        let p = datum.cast_mut_ptr::<pg_sys::varlena>();
        if pgrx::varlena::varatt_is_1b_e(p) {
            let tag = u32::from(*p.cast::<u8>().add(1));
            let expanded = tag == pg_sys::vartag_external::VARTAG_EXPANDED_RO
                || tag == pg_sys::vartag_external::VARTAG_EXPANDED_RW;
            if expanded {
                let header = pg_sys::DatumGetEOHP(datum);
                if std::ptr::eq((*header).eoh_methods, &raw const METHODS.0) {
                    return Ok(ExpandedBatch::Here(&*(*header.cast::<Expanded>()).results));
                }
            }
        }
    }
    Ok(ExpandedBatch::Flat(Box::new(Results::read_flat(text::varlena(datum), Purpose::Stored)?)))
}

/// The user whose query made the results, and their address.
type KnownBatches = (Oid, *const Results);

thread_local! {
    /// The last handle, and the results of every handle.
    static HANDLES: RefCell<(i64, HashMap<i64, KnownBatches>)> = RefCell::new((0, HashMap::new()));
}

/// Results that a handle names. Dropping them removes the handle.
struct Named {
    handle: i64,
    _results: Box<Results>,
}

impl Drop for Named {
    fn drop(&mut self) {
        HANDLES.with_borrow_mut(|(_, all)| all.remove(&self.handle));
    }
}

/// Creates a handle for results. It is valid for as long as the context lives.
pub(crate) fn name(results: Results, context: pg_sys::MemoryContext) -> i64 {
    let results = Box::new(results);
    let handle = HANDLES.with_borrow_mut(|(last, all)| {
        *last += 1;
        all.insert(*last, (user(), &raw const *results));
        *last
    });
    memory::own(context, Named { handle, _results: results });
    handle
}

fn user() -> Oid {
    // SAFETY: reads a variable.
    unsafe { pg_sys::GetUserId() }
}

/// Returns the results that a handle names. A handle is easily guessed, so the results of another user's query are not
/// found, for example those of a SECURITY DEFINER function.
pub(crate) fn named<'a>(handle: i64) -> Result<&'a Results> {
    let found = HANDLES.with_borrow(|(_, all)| all.get(&handle).filter(|(of, _)| *of == user()).map(|(_, r)| *r));
    // SAFETY: the entry is removed when the results are dropped, and only one thread of this backend runs queries.
    found.map(|r| unsafe { &*r }).ok_or(Error::StaleHandle)
}
