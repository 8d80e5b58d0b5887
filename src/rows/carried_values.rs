//! Stores and reads the carried columns of a row.
//!
//! Stored values are complete: toasted values and expanded objects are fetched first.
//! `pg_predict_engine::encoding::carried` defines and checks the bytes.

use pg_predict_engine::Error as Engine;
use pg_predict_engine::encoding::carried::{self, MIXED, PLAIN, Place, Slot};
use pg_predict_engine::encoding::encoded_rows::RowHeaders;
use pgrx::pg_sys::{self, Datum, Oid};

use crate::error::Result;

/// How rows of carried values are stored.
#[derive(Clone, Default)]
pub(crate) struct CarriedForm {
    slots: Vec<Slot>,
    /// The total size of the values of a row in bytes, if all are passed by value.
    plain: Option<usize>,
    /// The maximum size of a row in bytes, without its variable-length values.
    bytes: usize,
}

#[allow(clippy::cast_sign_loss, clippy::unnecessary_cast, reason = "letters; a C char has a sign on x86_64 only")]
fn slot(length: i16, by_value: bool, align: std::ffi::c_char, storage: std::ffi::c_char) -> Slot {
    // pg_type.h: char, short, int and double alignment.
    let align = match align as u8 {
        b'c' => 1,
        b's' => 2,
        b'i' => 4,
        _ => 8,
    };
    match usize::try_from(length) {
        Ok(size) if by_value => Slot::Value(size),
        Ok(size) => Slot::Fixed { size, align },
        Err(_) => Slot::Variable { align: align.max(4), short: storage as u8 != pg_sys::TYPSTORAGE_PLAIN },
    }
}

/// The bytes of a variable-length value, with its header.
///
/// # Safety
/// The datum is a variable-length value that is not NULL and not stored elsewhere.
unsafe fn whole<'a>(p: *const u8) -> &'a [u8] {
    // SAFETY: the caller guarantees a valid value. Its header contains its length (varatt.h).
    unsafe {
        let size = match *p {
            h if h & 1 == 1 => usize::from(h >> 1),
            _ => (p.cast::<u32>().read_unaligned() >> 2) as usize,
        };
        std::slice::from_raw_parts(p, size)
    }
}

impl CarriedForm {
    fn new(slots: Vec<Slot>) -> Self {
        let size = |slot: &Slot| match slot {
            Slot::Value(size) => *size,
            Slot::Fixed { size, align } => size + align,
            Slot::Variable { align, .. } => *align,
        };
        let plain = slots.iter().map(|s| if let Slot::Value(size) = s { Some(*size) } else { None }).sum();
        Self { bytes: slots.iter().map(size).sum::<usize>() + 1 + carried::bitmap(slots.len()), plain, slots }
    }

    /// The form for attributes of a tuple descriptor.
    ///
    /// # Safety
    /// The pointers refer to attributes of a descriptor that is alive.
    pub(crate) unsafe fn of_attributes(attributes: impl Iterator<Item = *const pg_sys::FormData_pg_attribute>) -> Self {
        // SAFETY: the caller guarantees valid pointers.
        let slot = |a: *const pg_sys::FormData_pg_attribute| unsafe {
            slot((*a).attlen, (*a).attbyval, (*a).attalign, (*a).attstorage)
        };
        Self::new(attributes.map(slot).collect())
    }

    /// The form for these types, which must exist.
    pub(crate) fn of_types(types: impl Iterator<Item = Oid>) -> Self {
        Self::new(
            types
                .map(|oid| {
                    let (mut length, mut by_value, mut align) = (0, false, 0);
                    // SAFETY: reads the type cache into the three variables.
                    let storage = unsafe {
                        pg_sys::get_typlenbyvalalign(oid, &raw mut length, &raw mut by_value, &raw mut align);
                        pg_sys::get_typstorage(oid)
                    };
                    slot(length, by_value, align, storage)
                })
                .collect(),
        )
    }

    /// Whether all values are passed by value, so that `write` can store a row without NULLs.
    pub(crate) fn is_plain(&self) -> bool {
        self.plain.is_some()
    }

    /// Reserves memory for a row. Returns false if there is no room.
    #[inline]
    pub(crate) fn make_room(&self, rows: &mut RowHeaders) -> bool {
        rows.make_room(self.bytes)
    }

    /// Stores a row of pass-by-value values without NULL. Call `make_room` first.
    #[inline]
    pub(crate) fn write(&self, values: impl Iterator<Item = Datum>, rows: &mut RowHeaders) {
        let before = rows.carried.len();
        rows.carried.push(PLAIN);
        for (slot, value) in self.slots.iter().zip(values) {
            if let Slot::Value(size) = slot {
                put_value(value, *size, rows);
            }
        }
        rows.end_row(rows.carried.len() - before);
    }

    /// Stores a row.
    #[inline]
    pub(crate) fn keep(&self, values: &[Datum], nulls: &[bool], rows: &mut RowHeaders) -> Result<()> {
        if !self.make_room(rows) {
            return Err(full(rows.carried.len() + self.bytes).into());
        }
        if self.is_plain() && !nulls.contains(&true) {
            self.write(values.iter().copied(), rows);
            return Ok(());
        }
        self.keep_mixed(values, nulls, rows)
    }

    fn keep_mixed(&self, values: &[Datum], nulls: &[bool], rows: &mut RowHeaders) -> Result<()> {
        let before = rows.carried.len();
        rows.carried.push(MIXED);
        rows.carried.resize(before + 1 + carried::bitmap(self.slots.len()), 0);
        for (i, ((slot, value), null)) in self.slots.iter().zip(values).zip(nulls).enumerate() {
            if *null {
                continue;
            }
            rows.carried[before + 1 + i / 8] |= 1 << (i % 8);
            match *slot {
                Slot::Value(size) => put_value(*value, size, rows),
                Slot::Fixed { size, align } => {
                    pad(rows, before, align);
                    // SAFETY: a pass-by-reference value of this fixed length is a pointer to it.
                    rows.carried.extend_from_slice(unsafe { std::slice::from_raw_parts(value.cast_mut_ptr(), size) });
                }
                Slot::Variable { align, short } => keep_variable(*value, align, short, before, self.bytes, rows)?,
            }
        }
        rows.end_row(rows.carried.len() - before);
        Ok(())
    }

    /// Reads a row of pass-by-value values. Returns false if the length does not match.
    #[inline]
    fn read(&self, bytes: &[u8], values: &mut [Datum]) -> bool {
        if self.plain != Some(bytes.len()) {
            return false;
        }
        let mut rest = bytes;
        for (slot, value) in self.slots.iter().zip(values) {
            let Slot::Value(size) = slot else { return false };
            let (own, behind) = rest.split_at(*size);
            *value = signed(own);
            rest = behind;
        }
        true
    }

    /// Reads a row. By-reference values point into the current memory context. A row without stored values gives NULLs.
    #[inline]
    pub(crate) fn open(&self, row: Option<&[u8]>, values: &mut [Datum], nulls: &mut [bool]) -> Result<()> {
        match row {
            Some([PLAIN, bytes @ ..]) if self.read(bytes, values) => nulls.fill(false),
            Some(row @ [MIXED, ..]) => self.open_mixed(row, values, nulls)?,
            None => nulls.fill(true),
            Some(_) => return Err(Engine::Corrupt { what: "a row carries what is no row".into() }.into()),
        }
        Ok(())
    }

    fn open_mixed(&self, row: &[u8], values: &mut [Datum], nulls: &mut [bool]) -> Result<()> {
        // SAFETY: the copy has the length of the row, is aligned, and lives in the current, per-row context. `places`
        // only returns positions inside the row. A variable-length value is as long as its header says.
        let copy = unsafe {
            let copy = pg_sys::palloc(row.len()).cast::<u8>();
            std::ptr::copy_nonoverlapping(row.as_ptr(), copy, row.len());
            copy
        };
        carried::places(&self.slots, row, |i, place| {
            let (value, null) = match (place, self.slots.get(i)) {
                (Place::Null, _) => (Datum::null(), true),
                (Place::Value(value), Some(Slot::Value(size))) => {
                    (signed(value.to_ne_bytes().get(..*size).unwrap_or_default()), false)
                }
                (Place::Value(value), _) => (Datum::from(value), false),
                (Place::At(at), _) => (Datum::from(copy.wrapping_add(at)), false),
            };
            if let (Some(v), Some(n)) = (values.get_mut(i), nulls.get_mut(i)) {
                (*v, *n) = (value, null);
            }
        })?;
        Ok(())
    }
}

/// Appends a pass-by-value value. The most common sizes are constants, which the compiler copies without a function
/// call.
#[inline]
fn put_value(value: Datum, size: usize, rows: &mut RowHeaders) {
    let bytes = value.value().to_ne_bytes();
    match size {
        8 => rows.carried.extend_from_slice(&bytes),
        4 => rows.carried.extend_from_slice(&bytes[..4]),
        n => rows.carried.extend_from_slice(&bytes[..n]),
    }
}

fn full(bytes: usize) -> Engine {
    Engine::OutOfMemory { what: "carried columns".into(), bytes }
}

/// Pads, so that the next value starts aligned within its row.
#[inline]
fn pad(rows: &mut RowHeaders, before: usize, align: usize) {
    let size = (rows.carried.len() - before).next_multiple_of(align);
    rows.carried.resize(before + size, 0);
}

fn keep_variable(
    value: Datum,
    align: usize,
    short: bool,
    before: usize,
    reserve: usize,
    rows: &mut RowHeaders,
) -> Result<()> {
    // SAFETY: the value is of variable length and not NULL. An external value is fetched into the current context and
    // freed after it has been copied.
    unsafe {
        let given = value.cast_mut_ptr::<u8>();
        let fetched = (*given == 1).then(|| pg_sys::detoast_external_attr(given.cast()).cast::<u8>());
        let bytes = whole(fetched.unwrap_or(given));
        let room = bytes.len().saturating_add(reserve);
        if !rows.make_room(room) {
            return Err(full(rows.carried.len() + room).into());
        }
        let first = bytes.first().copied().unwrap_or_default();
        match bytes.split_at_checked(4) {
            // Use a short header, as heap_fill_tuple does.
            Some((_, content)) if short && first & 3 == 0 && content.len() <= 126 => {
                let size = u8::try_from(content.len() + 1).unwrap_or_default();
                rows.carried.push(size << 1 | 1);
                rows.carried.extend_from_slice(content);
            }
            _ => {
                if first & 1 == 0 {
                    pad(rows, before, align);
                }
                rows.carried.extend_from_slice(bytes);
            }
        }
        if let Some(fetched) = fetched {
            pg_sys::pfree(fetched.cast());
        }
    }
    Ok(())
}

/// Converts bytes to a datum as fetch_att does (access/tupmacs.h): integers are sign-extended.
#[inline]
fn signed(own: &[u8]) -> Datum {
    match own {
        [a] => Datum::from(i64::from(a.cast_signed())),
        [a, b] => Datum::from(i64::from(i16::from_ne_bytes([*a, *b]))),
        [a, b, c, d] => Datum::from(i64::from(i32::from_ne_bytes([*a, *b, *c, *d]))),
        _ => Datum::from(own.try_into().map_or(0, usize::from_ne_bytes)),
    }
}
