//! Converts text and bytes between datums and Rust, in the database encoding.

use std::borrow::Cow;
use std::ffi::{CStr, CString, c_char};

use once_cell::sync::OnceCell;
use pgrx::pg_sys::{self, Datum};

use crate::error::{Error, Result};

/// Returns the content of a variable-length value. Fetches and decompresses it if it is not inline.
pub(crate) fn varlena<'a>(datum: Datum) -> &'a [u8] {
    // SAFETY: callers pass a datum of a variable-length type that is not NULL. The memory lives as long as the row that
    // the datum belongs to, and callers read it at once.
    unsafe {
        let p = pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr());
        std::slice::from_raw_parts(pgrx::varlena::vardata_any(p).cast::<u8>(), pgrx::varlena::varsize_any_exhdr(p))
    }
}

/// Like `varlena`, but without a function call. Returns `None` if the value is not inline.
#[inline]
fn varlena_inline<'a>(datum: Datum) -> Option<&'a [u8]> {
    // SAFETY: as in `varlena`; the header is read first.
    unsafe {
        let p: *const u8 = datum.cast_mut_ptr();
        let h = *p;
        if h == 1 || h & 3 == 2 {
            None
        } else if h & 1 == 1 {
            Some(std::slice::from_raw_parts(p.add(1), usize::from(h >> 1) - 1))
        } else {
            let n = (p.cast::<u32>().read_unaligned() >> 2) as usize;
            Some(std::slice::from_raw_parts(p.add(4), n - 4))
        }
    }
}

/// PostgreSQL's id of the encoding.
const UTF8: i32 = pg_sys::pg_enc::PG_UTF8.cast_signed();

/// Converts a length to PostgreSQL's type. PostgreSQL cannot allocate longer texts either: it raises an error.
fn length(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// Whether the database encoding is UTF-8. A backend has one database, so the result is cached: a call into PostgreSQL
/// costs more than converting a short text.
#[inline]
fn is_utf8() -> bool {
    static KNOWN: OnceCell<bool> = OnceCell::new();
    KNOWN.get().copied().unwrap_or_else(|| {
        // SAFETY: reads variables.
        let (utf8, connected) = unsafe {
            let utf8 = pg_sys::GetDatabaseEncoding() == UTF8;
            (utf8, pg_sys::MyDatabaseId != pg_sys::InvalidOid)
        };
        // The postmaster has no database. Backends inherit its memory, so its result is not cached.
        if connected { *KNOWN.get_or_init(|| utf8) } else { utf8 }
    })
}

/// Prepares a text for an error message. pgrx passes error texts to PostgreSQL as UTF-8, whatever the database encoding
/// is. With another encoding, non-ASCII characters are replaced by their code points.
pub(crate) fn sendable(text: String) -> String {
    if text.is_ascii() || is_utf8() {
        return text;
    }
    text.chars().map(|c| if c.is_ascii() { c.to_string() } else { format!("\\u{:04x}", u32::from(c)) }).collect()
}

fn utf8<'a>(bytes: &'a [u8]) -> Result<Cow<'a, str>> {
    if !bytes.is_ascii() && !is_utf8() {
        // SAFETY: the bytes are in the server encoding. The result is NUL-terminated and in the current context.
        unsafe {
            let p = pg_sys::pg_server_to_any(bytes.as_ptr().cast(), length(bytes.len()), UTF8);
            if p.cast_const().cast() != bytes.as_ptr() {
                return Ok(Cow::Owned(CStr::from_ptr(p).to_string_lossy().into_owned()));
            }
        }
    }
    std::str::from_utf8(bytes)
        .map(Cow::Borrowed)
        .map_err(|_| Error::BadBatch { reason: "a text is not in the database's encoding".to_owned() })
}

/// Truncates a name as PostgreSQL truncates identifiers: to 63 bytes, at a character boundary.
pub(crate) fn as_identifier(name: &str) -> &str {
    let longest = pg_sys::NAMEDATALEN as usize - 1;
    let mut end = name.len().min(longest);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

/// Whether a column has the name of an input, an output or a feature. Long names are compared as truncated identifiers.
pub(crate) fn is_called(name: &str, column: &str) -> bool {
    name == column || (name.len() >= pg_sys::NAMEDATALEN as usize && as_identifier(name) == column)
}

/// A text datum.
pub(crate) fn text<'a>(datum: Datum) -> Result<Cow<'a, str>> {
    utf8(varlena_inline(datum).unwrap_or_else(|| varlena(datum)))
}

/// Returns a text datum without a copy, or `None` if it is not inline or not valid UTF-8.
#[inline]
pub(crate) fn inline<'a>(datum: Datum) -> Option<&'a str> {
    let bytes = varlena_inline(datum)?;
    if bytes.is_ascii() {
        // SAFETY: ASCII is UTF-8.
        return Some(unsafe { std::str::from_utf8_unchecked(bytes) });
    }
    is_utf8().then(|| std::str::from_utf8(bytes).ok())?
}

/// Returns the bytes of a text datum in the database encoding, for comparisons.
pub(crate) fn raw<'a>(datum: Datum) -> &'a [u8] {
    varlena_inline(datum).unwrap_or_else(|| varlena(datum))
}

/// Reads a C string datum.
pub(crate) fn cstring<'a>(datum: Datum) -> Result<Cow<'a, str>> {
    // SAFETY: callers pass a datum of type cstring or unknown that is not NULL.
    utf8(unsafe { CStr::from_ptr(datum.cast_mut_ptr::<c_char>()) }.to_bytes())
}

/// Copies a C string of PostgreSQL.
pub(crate) fn copied(p: *const c_char) -> String {
    // SAFETY: callers pass a C string that a PostgreSQL function returned.
    let bytes = unsafe { CStr::from_ptr(p) }.to_bytes();
    utf8(bytes).map(Cow::into_owned).unwrap_or_else(|_| String::from_utf8_lossy(bytes).into_owned())
}

/// Converts a text to a C string in the database encoding. Truncates it at a NUL, which PostgreSQL's texts cannot
/// contain.
pub(crate) fn c(text: &str) -> CString {
    let end = text.find('\0').unwrap_or(text.len());
    let text = CString::new(&text[..end]).unwrap_or_default();
    if is_utf8() || text.as_bytes().is_ascii() {
        return text;
    }
    // SAFETY: converts a NUL-terminated text; the result is copied.
    unsafe {
        let p = pg_sys::pg_any_to_server(text.as_ptr(), length(text.as_bytes().len()), UTF8);
        CStr::from_ptr(p).to_owned()
    }
}

/// Reads a smallint datum, which is in its low bits.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "a datum holds an integer in its low bits"
)]
pub(crate) fn small(datum: Datum) -> i16 {
    datum.value() as i16
}

/// Reads an integer datum, which is in its low bits.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "a datum holds an integer in its low bits"
)]
pub(crate) fn int(datum: Datum) -> i32 {
    datum.value() as i32
}

/// Reads a bigint datum.
#[allow(clippy::cast_possible_wrap, reason = "a datum holds a bigint as it is")]
pub(crate) fn big(datum: Datum) -> i64 {
    datum.value() as i64
}

/// Reads an oid datum, which is in its low bits.
#[allow(clippy::cast_possible_truncation, reason = "a datum holds an oid in its low bits")]
pub(crate) fn oid(datum: Datum) -> pg_sys::Oid {
    pg_sys::Oid::from(datum.value() as u32)
}

/// Creates a text datum in the current memory context.
pub(crate) fn datum(text: &str) -> Datum {
    if is_utf8() || text.is_ascii() {
        // SAFETY: copies the bytes into a new datum.
        return unsafe { pg_sys::cstring_to_text_with_len(text.as_ptr().cast(), length(text.len())) }.into();
    }
    let text = c(text);
    // SAFETY: copies a NUL-terminated text into a new datum.
    unsafe { pg_sys::cstring_to_text(text.as_ptr()) }.into()
}

/// Creates a bytea datum in the current memory context.
pub(crate) fn bytes(content: &[u8]) -> Datum {
    // SAFETY: allocates header and content, and fills both. palloc raises an error beyond 1 GB.
    unsafe {
        let size = content.len() + 4;
        let p = pg_sys::palloc(size).cast::<u8>();
        pgrx::varlena::set_varsize_4b(p.cast(), length(size));
        std::ptr::copy_nonoverlapping(content.as_ptr(), p.add(4), content.len());
        Datum::from(p)
    }
}

/// Creates a bytea datum of the given size. `fill` writes the content piece by piece. It is an error if it writes more
/// or less.
pub(crate) fn bytes_of(
    size: usize,
    fill: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>,
) -> Result<Datum> {
    let wrong = || crate::error::Error::TooLarge { bytes: size };
    let whole = size.checked_add(4).and_then(|n| i32::try_from(n).ok()).ok_or_else(wrong)?;
    // SAFETY: allocates header and content, with an error beyond 1 GB. Nothing is written beyond the end.
    unsafe {
        let p = pg_sys::palloc(size + 4).cast::<u8>();
        pgrx::varlena::set_varsize_4b(p.cast(), whole);
        let mut at = 4;
        fill(&mut |piece| {
            if piece.len() > size + 4 - at {
                return Err(wrong());
            }
            std::ptr::copy_nonoverlapping(piece.as_ptr(), p.add(at), piece.len());
            at += piece.len();
            Ok(())
        })?;
        if at == size + 4 { Ok(Datum::from(p)) } else { Err(wrong()) }
    }
}

/// Returns the name of a type in SQL.
pub(crate) fn type_name(oid: pg_sys::Oid) -> String {
    // SAFETY: returns a palloc'd name; "???" for an unknown type.
    copied(unsafe { pg_sys::format_type_be(oid) })
}

/// Formats a text as an SQL literal.
pub(crate) fn quote_literal(text: &str) -> String {
    let text = c(text);
    // SAFETY: returns a palloc'd C string.
    copied(unsafe { pg_sys::quote_literal_cstr(text.as_ptr()) })
}

/// Formats a name as an SQL identifier, with quotes if needed.
pub(crate) fn quote_identifier(name: &str) -> String {
    let name = c(name);
    // SAFETY: returns the name itself or a palloc'd C string.
    copied(unsafe { pg_sys::quote_identifier(name.as_ptr()) })
}

/// Creates a C string datum in the current memory context.
pub(crate) fn cstring_datum(text: &str) -> Datum {
    let text = c(text);
    // SAFETY: copies a NUL-terminated text.
    Datum::from(unsafe { pg_sys::pstrdup(text.as_ptr()) })
}

/// Returns a jsonb datum as text.
pub(crate) fn of_jsonb(datum: Datum) -> String {
    // SAFETY: jsonb_out returns a C string for a jsonb that is not NULL.
    unsafe { pgrx::direct_function_call_as_datum(pg_sys::jsonb_out, &[Some(datum)]) }
        .map_or_else(String::new, |d| copied(d.cast_mut_ptr::<c_char>()))
}

/// Returns the elements of a text[] datum. Skips NULLs.
#[allow(clippy::cast_possible_wrap, reason = "a letter")]
pub(crate) fn array(datum: Datum) -> Result<Vec<String>> {
    let mut values: *mut Datum = std::ptr::null_mut();
    let mut nulls: *mut bool = std::ptr::null_mut();
    let mut n = 0;
    // SAFETY: the datum is a text[] that is not NULL. Both arrays have n entries.
    unsafe {
        let array = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
        pg_sys::deconstruct_array(
            array,
            pg_sys::TEXTOID,
            -1,
            false,
            pg_sys::TYPALIGN_INT as c_char,
            &raw mut values,
            &raw mut nulls,
            &raw mut n,
        );
        (0..usize::try_from(n).unwrap_or(0))
            .filter(|i| !*nulls.add(*i))
            .map(|i| text(*values.add(i)).map(Cow::into_owned))
            .collect()
    }
}
