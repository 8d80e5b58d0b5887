//! Types of carried values: which types may be carried, which are stored in binary form, and how the others are stored
//! as text.
//!
//! Values of types that users can change, or whose content names other objects, are stored as text with the name of the
//! type. The owner of a type controls its columns, its domain constraints and its casts. Reading a stored value must
//! therefore not run a function that its writer could have created, unless the reader names the type.

use pg_predict_engine::encoding::layout::TypeText;
use pgrx::pg_sys::{self, Datum, Oid};

use crate::error::{Error, Result};
use crate::pg::text;

/// Calls `f` with the pg_type row of a type. `None` if there is no such type.
fn with_type<T>(oid: Oid, f: impl FnOnce(&pg_sys::FormData_pg_type) -> T) -> Option<T> {
    // SAFETY: the row is read before it is released. The columns before the variable-length ones exist in every row.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::TYPEOID.cast_signed(), oid.into());
        if tuple.is_null() {
            return None;
        }
        let header = (*tuple).t_data;
        let found = f(&*header.cast::<u8>().add(usize::from((*header).t_hoff)).cast::<pg_sys::FormData_pg_type>());
        pg_sys::ReleaseSysCache(tuple);
        Some(found)
    }
}

/// Returns the base type of a domain and its type modifier. Other types are returned unchanged.
pub(crate) fn base(oid: Oid, typmod: i32) -> (Oid, i32) {
    let mut typmod = typmod;
    // SAFETY: reads the type cache of a type that exists.
    let oid = unsafe { pg_sys::getBaseTypeAndTypmod(oid, &raw mut typmod) };
    (oid, typmod)
}

/// The component types of a type.
enum CompositeParts {
    None,
    One(Oid),
    Columns(Vec<(String, Oid, i32)>),
    /// Not storable: a pseudo-type, or a type that is not defined.
    Pseudo,
}

fn parts(oid: Oid) -> CompositeParts {
    #[allow(clippy::cast_sign_loss, clippy::unnecessary_cast, reason = "a letter; a C char has a sign on x86_64 only")]
    let known = with_type(oid, |t| (t.typtype as u8, t.typisdefined, t.typelem, t.typsubscript, t.typbasetype));
    let Some((kind, defined, element, subscript, over)) = known else { return CompositeParts::Pseudo };
    if !defined {
        return CompositeParts::Pseudo;
    }
    // SAFETY: reads the catalogs for types that exist.
    unsafe {
        pg_sys::check_stack_depth();
        match kind {
            pg_sys::TYPTYPE_DOMAIN => CompositeParts::One(over),
            pg_sys::TYPTYPE_RANGE => CompositeParts::One(pg_sys::get_range_subtype(oid)),
            pg_sys::TYPTYPE_MULTIRANGE => CompositeParts::One(pg_sys::get_multirange_range(oid)),
            pg_sys::TYPTYPE_COMPOSITE => {
                let desc = pg_sys::lookup_rowtype_tupdesc_copy(oid, -1);
                let columns = (0..usize::try_from((*desc).natts).unwrap_or(0))
                    .map(|i| &*crate::rows::composite::attribute(desc, i))
                    .filter(|a| !a.attisdropped)
                    .map(|a| (text::copied(a.attname.data.as_ptr()), a.atttypid, a.atttypmod))
                    .collect();
                pg_sys::FreeTupleDesc(desc);
                CompositeParts::Columns(columns)
            }
            // True arrays use the subscripting function of all arrays.
            pg_sys::TYPTYPE_BASE if element != Oid::INVALID && subscript != Oid::INVALID => {
                match pg_sys::get_element_type(oid) {
                    Oid::INVALID => CompositeParts::None,
                    element => CompositeParts::One(element),
                }
            }
            pg_sys::TYPTYPE_BASE | pg_sys::TYPTYPE_ENUM => CompositeParts::None,
            _ => CompositeParts::Pseudo,
        }
    }
}

/// Whether values of a type may be carried: they must mean the same in every session. Anonymous rows do not, nor do
/// types that contain them.
pub(crate) fn may_be_carried(oid: Oid) -> bool {
    match parts(oid) {
        CompositeParts::None => true,
        CompositeParts::One(part) => may_be_carried(part),
        CompositeParts::Columns(columns) => columns.iter().all(|(_, oid, _)| may_be_carried(*oid)),
        CompositeParts::Pseudo => false,
    }
}

/// Whether values of a type are stored in binary form. The format of such a type never changes, and any bytes are a
/// valid value of it.
///
/// The list does not depend on the catalogs, so it stays valid for values that are already stored.
pub(crate) fn is_kept(oid: Oid) -> bool {
    matches!(
        oid,
        pg_sys::BOOLOID
            | pg_sys::CHAROID
            | pg_sys::INT2OID
            | pg_sys::INT4OID
            | pg_sys::INT8OID
            | pg_sys::FLOAT4OID
            | pg_sys::FLOAT8OID
            | pg_sys::OIDOID
            | pg_sys::MONEYOID
            | pg_sys::DATEOID
            | pg_sys::TIMEOID
            | pg_sys::TIMETZOID
            | pg_sys::TIMESTAMPOID
            | pg_sys::TIMESTAMPTZOID
            | pg_sys::INTERVALOID
            | pg_sys::UUIDOID
            | pg_sys::TEXTOID
            | pg_sys::VARCHAROID
            | pg_sys::BPCHAROID
            | pg_sys::BYTEAOID
            | pg_sys::JSONOID
    )
}

/// Returns the name of a type, with its schema and type modifier.
pub(crate) fn name(oid: Oid, typmod: i32) -> String {
    let flags = pg_sys::FORMAT_TYPE_TYPEMOD_GIVEN | pg_sys::FORMAT_TYPE_FORCE_QUALIFY;
    let flags = u16::try_from(flags).unwrap_or_default();
    // SAFETY: returns a palloc'd name of a type that exists.
    text::copied(unsafe { pg_sys::format_type_extended(oid, typmod, flags) })
}

/// Returns the columns of the row types within a type, or `None` if it has none.
pub(crate) fn definition(oid: Oid) -> Option<String> {
    match parts(oid) {
        CompositeParts::One(part) => definition(part),
        CompositeParts::Columns(columns) => {
            let columns: Vec<String> = columns
                .into_iter()
                .map(|(column, oid, typmod)| {
                    let inner = definition(oid).unwrap_or_default();
                    format!("{} {}{inner}", text::quote_identifier(&column), name(oid, typmod))
                })
                .collect();
            Some(format!("({})", columns.join(", ")))
        }
        CompositeParts::None | CompositeParts::Pseudo => None,
    }
}

/// Returns the stored description of a type.
pub(crate) fn written(oid: Oid, typmod: i32) -> TypeText {
    TypeText { name: name(oid, typmod), definition: definition(oid) }
}

/// Returns the current type for a stored description. It is an error if the type no longer exists or has other columns.
pub(crate) fn known(column: &str, written: &TypeText) -> Result<(Oid, i32)> {
    let (oid, typmod) = named(&written.name);
    if definition(oid) != written.definition {
        return Err(Error::TypeChanged { column: column.to_owned(), of: written.name.clone() });
    }
    Ok((oid, typmod))
}

/// The maximum length of a type name: two names and a type modifier.
const LONGEST: usize = 1024;

/// Looks up a type by name. Raises an error if there is no such type.
pub(crate) fn named(name: &str) -> (Oid, i32) {
    let shown: &str = if name.len() > LONGEST || name.contains('\0') { "" } else { name };
    let name = text::c(shown);
    let (mut oid, mut typmod) = (Oid::INVALID, -1);
    // SAFETY: parses a type name; raises an error if there is no such type.
    unsafe {
        #[cfg(feature = "pg15")]
        pg_sys::parseTypeString(name.as_ptr(), &raw mut oid, &raw mut typmod, false);
        #[cfg(not(feature = "pg15"))]
        pg_sys::parseTypeString(name.as_ptr(), &raw mut oid, &raw mut typmod, std::ptr::null_mut());
    }
    (oid, typmod)
}

/// Whether a number is a valid type modifier of a type. The functions of a type trust their modifier: a `char(n)` value
/// is padded to any n.
pub(crate) fn is_modifier(oid: Oid, typmod: i32) -> bool {
    if typmod == -1 {
        return true;
    }
    // SAFETY: reads the type cache.
    let element = unsafe { pg_sys::get_element_type(oid) };
    let oid = if element == Oid::INVALID { oid } else { element };
    match oid {
        // The header and at most MaxAttrSize characters (htup_details.h).
        pg_sys::VARCHAROID | pg_sys::BPCHAROID => (5..=10_485_764).contains(&typmod),
        pg_sys::BITOID | pg_sys::VARBITOID => (1..=83_886_080).contains(&typmod),
        pg_sys::TIMEOID | pg_sys::TIMETZOID | pg_sys::TIMESTAMPOID | pg_sys::TIMESTAMPTZOID => {
            (0..=6).contains(&typmod)
        }
        // Precision and scale are packed into one number (numeric.c).
        pg_sys::NUMERICOID => {
            let both = typmod.wrapping_sub(4);
            let (precision, scale) = (both >> 16, ((both & 0x7ff) ^ 1024) - 1024);
            (1..=1000).contains(&precision) && (-1000..=1000).contains(&scale) && both & 0xf800 == 0
        }
        _ => false,
    }
}

/// Whether the reader may run the functions of a type without naming it. True for system types, types of a superuser
/// (of an extension, for example) and the reader's own types.
pub(crate) fn is_trusted(oid: Oid) -> bool {
    // SAFETY: reads the type cache, the user and the catalog of roles.
    unsafe {
        let element = pg_sys::get_element_type(oid);
        let oid = if element == Oid::INVALID { oid } else { element };
        oid.to_u32() < pg_sys::FirstNormalObjectId
            || with_type(oid, |t| t.typowner)
                .is_some_and(|owner| owner == pg_sys::GetUserId() || pg_sys::superuser_arg(owner))
    }
}

/// The output function of a type, looked up once.
pub(crate) struct TypeOutput(pg_sys::FmgrInfo);

impl TypeOutput {
    pub(crate) fn of(oid: Oid) -> Self {
        let (mut function, mut varlena) = (Oid::INVALID, false);
        let mut info = pg_sys::FmgrInfo::default();
        // SAFETY: looks up the output function of a type that exists.
        unsafe {
            pg_sys::getTypeOutputInfo(oid, &raw mut function, &raw mut varlena);
            pg_sys::fmgr_info(function, &raw mut info);
        }
        Self(info)
    }

    /// Formats a value as text.
    pub(crate) fn text(&self, value: Datum) -> String {
        // SAFETY: calls the output function of the type with a value of the type.
        text::copied(unsafe { pg_sys::OutputFunctionCall(std::ptr::from_ref(&self.0).cast_mut(), value) })
    }
}

/// The input function of a type, looked up once.
pub(crate) struct TypeInput {
    function: pg_sys::FmgrInfo,
    parameter: Oid,
    typmod: i32,
}

impl TypeInput {
    pub(crate) fn of(oid: Oid, typmod: i32) -> Self {
        let (mut id, mut parameter) = (Oid::INVALID, Oid::INVALID);
        let mut function = pg_sys::FmgrInfo::default();
        // SAFETY: looks up the input function of a type that exists.
        unsafe {
            pg_sys::getTypeInputInfo(oid, &raw mut id, &raw mut parameter);
            pg_sys::fmgr_info(id, &raw mut function);
        }
        Self { function, parameter, typmod }
    }

    /// Parses a text to a value in the current memory context.
    pub(crate) fn value(&self, text: &str) -> Datum {
        let text = text::cstring_datum(text);
        // SAFETY: calls the input function of the type; it raises an error if the text is not a value of the type.
        unsafe {
            pg_sys::InputFunctionCall(
                std::ptr::from_ref(&self.function).cast_mut(),
                text.cast_mut_ptr(),
                self.parameter,
                self.typmod,
            )
        }
    }
}

/// The settings for converting values to and from text. They are fixed, whatever the settings of the session, as in
/// pg_dump and postgres_fdw.
///
/// `finish`, or the abort of the (sub)transaction, restores the settings of the session.
pub(crate) struct Style(i32);

impl Style {
    pub(crate) fn begin() -> Self {
        // SAFETY: opens a nesting level of settings, which `finish` or an abort closes. The names and values are
        // static.
        unsafe {
            let level = pg_sys::NewGUCNestLevel();
            for (name, value) in [
                (c"datestyle", c"ISO, YMD"),
                (c"intervalstyle", c"postgres"),
                (c"extra_float_digits", c"3"),
                (c"bytea_output", c"hex"),
                (c"lc_monetary", c"C"),
                (c"search_path", c"pg_catalog"),
            ] {
                pg_sys::set_config_option(
                    name.as_ptr(),
                    value.as_ptr(),
                    pg_sys::GucContext::PGC_USERSET,
                    pg_sys::GucSource::PGC_S_SESSION,
                    pg_sys::GucAction::GUC_ACTION_SAVE,
                    true,
                    0,
                    false,
                );
            }
            Self(level)
        }
    }

    pub(crate) fn finish(self) {
        // SAFETY: closes the nesting level that `begin` opened.
        unsafe { pg_sys::AtEOXact_GUC(true, self.0) };
    }
}
