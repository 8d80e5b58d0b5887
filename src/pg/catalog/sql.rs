//! Runs SQL through SPI: read-only under the snapshot of the current query, or as a writing command.
//!
//! pgrx's SPI wrapper is not used, because it decides by itself whether a query is read-only. A read with a new
//! snapshot could see another version than the rest of the statement, and fails in a parallel worker.

use pgrx::pg_sys::{self, Datum, Oid};

use crate::pg::text;

/// A parameter of a query.
#[derive(Clone, Copy)]
pub(crate) enum Value<'a> {
    Text(&'a str),
    OptionalText(Option<&'a str>),
    Int(i32),
    OptionalInt(Option<i32>),
    Big(i64),
    Bytes(&'a [u8]),
    Oid(Oid),
    /// An argument of the calling function, with its type.
    Given(Oid, Option<Datum>),
}

impl Value<'_> {
    fn parts(self) -> (Oid, Option<Datum>) {
        match self {
            Value::Text(t) => (pg_sys::TEXTOID, Some(text::datum(t))),
            Value::OptionalText(t) => (pg_sys::TEXTOID, t.map(text::datum)),
            Value::Int(n) => (pg_sys::INT4OID, Some(n.into())),
            Value::OptionalInt(n) => (pg_sys::INT4OID, n.map(Datum::from)),
            Value::Big(n) => (pg_sys::INT8OID, Some(n.into())),
            Value::Bytes(b) => (pg_sys::BYTEAOID, Some(text::bytes(b))),
            Value::Oid(o) => (pg_sys::OIDOID, Some(o.into())),
            Value::Given(oid, datum) => (oid, datum),
        }
    }
}

/// Whether a query may write.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Mode {
    Read,
    Write,
}

/// A connection to SPI, closed on drop. PostgreSQL closes it itself after an error.
struct Connection;

impl Connection {
    fn open() -> Self {
        // SAFETY: SPI may be entered anywhere inside a transaction. It raises an error only if memory is exhausted.
        unsafe { pg_sys::SPI_connect() };
        Self
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: closes what `open` opened.
            unsafe { pg_sys::SPI_finish() };
        }
    }
}

/// One row of a result, valid during the callback.
pub(crate) struct QueryRow {
    tuple: pg_sys::HeapTuple,
    desc: pg_sys::TupleDesc,
}

impl QueryRow {
    fn datum(&self, column: usize) -> Option<Datum> {
        let mut null = true;
        let number = i32::try_from(column + 1).unwrap_or(i32::MAX);
        // SAFETY: SPI owns the tuple and its descriptor for the current query.
        let datum = unsafe { pg_sys::SPI_getbinval(self.tuple, self.desc, number, &raw mut null) };
        (!null).then_some(datum)
    }

    /// Returns a text column. A query returns other types by casting them to text.
    pub(crate) fn text(&self, column: usize) -> Option<String> {
        self.datum(column).and_then(|d| text::text(d).ok().map(std::borrow::Cow::into_owned))
    }

    /// Returns an integer column.
    pub(crate) fn int(&self, column: usize) -> Option<i32> {
        self.datum(column).map(text::int)
    }

    /// Returns a bigint column.
    pub(crate) fn big(&self, column: usize) -> Option<i64> {
        self.datum(column).map(text::big)
    }

    /// Passes the bytes of a bytea column to `read`.
    pub(crate) fn bytes<T>(&self, column: usize, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        self.datum(column).map(|d| read(text::varlena(d)))
    }

    /// Returns an oid column.
    pub(crate) fn oid(&self, column: usize) -> Option<Oid> {
        self.datum(column).map(text::oid)
    }
}

fn parameters(values: &[Value<'_>]) -> (Vec<Oid>, Vec<Datum>, Vec<std::ffi::c_char>) {
    let mut types = Vec::new();
    let mut datums = Vec::new();
    let mut nulls = Vec::new();
    for value in values {
        let (oid, datum) = value.parts();
        types.push(oid);
        datums.push(datum.unwrap_or(Datum::from(0)));
        nulls.push((if datum.is_some() { b' ' } else { b'n' }).try_into().unwrap_or_default());
    }
    (types, datums, nulls)
}

/// Calls `each` for every row of SPI's current result. Returns the number of processed rows.
fn rows(mut each: impl FnMut(&QueryRow)) -> u64 {
    // SAFETY: after a successful command, SPI's globals describe its result until the next command.
    unsafe {
        let table = pg_sys::SPI_tuptable;
        let processed = pg_sys::SPI_processed;
        if !table.is_null() {
            for i in 0..usize::try_from(processed).unwrap_or(0) {
                each(&QueryRow { tuple: *(*table).vals.add(i), desc: (*table).tupdesc });
            }
            pg_sys::SPI_freetuptable(table);
        }
        processed
    }
}

/// Runs one statement and calls `each` for every row. Returns the number of returned or affected rows.
pub(crate) fn run(mode: Mode, statement: &std::ffi::CStr, values: &[Value<'_>], each: impl FnMut(&QueryRow)) -> u64 {
    let _connection = Connection::open();
    let (mut types, mut datums, nulls) = parameters(values);
    // SAFETY: the three arrays have one entry per parameter and outlive the call. Errors are raised.
    unsafe {
        pg_sys::SPI_execute_with_args(
            statement.as_ptr(),
            i32::try_from(values.len()).unwrap_or(0),
            types.as_mut_ptr(),
            datums.as_mut_ptr(),
            nulls.as_ptr(),
            mode == Mode::Read,
            0,
        );
    }
    rows(each)
}

/// Runs one read-only statement through a cursor, so that only one large row is in memory at a time.
pub(crate) fn scan(statement: &std::ffi::CStr, values: &[Value<'_>], mut each: impl FnMut(&QueryRow)) {
    let _connection = Connection::open();
    let (mut types, mut datums, nulls) = parameters(values);
    // SAFETY: as in `run`. The portal is closed below, or by PostgreSQL after an error.
    unsafe {
        let portal = pg_sys::SPI_cursor_open_with_args(
            std::ptr::null(),
            statement.as_ptr(),
            i32::try_from(values.len()).unwrap_or(0),
            types.as_mut_ptr(),
            datums.as_mut_ptr(),
            nulls.as_ptr(),
            true,
            0,
        );
        loop {
            pg_sys::check_for_interrupts!();
            pg_sys::SPI_cursor_fetch(portal, true, 1);
            if rows(&mut each) == 0 {
                break;
            }
        }
        pg_sys::SPI_cursor_close(portal);
    }
}

/// Whether the calling procedure may commit.
pub(crate) fn may_commit() -> bool {
    // SAFETY: reads the state of the procedure's SPI connection.
    unsafe { pg_sys::SPI_inside_nonatomic_context() }
}
