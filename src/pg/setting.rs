//! Functions for settings that pgrx lacks: a checked string setting, the reserved prefix, and the directories of the
//! installation.

use std::ffi::{CStr, CString, c_char, c_void};

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_sys};

static DEVICE_CHECK: once_cell::sync::OnceCell<fn(&str) -> bool> = once_cell::sync::OnceCell::new();

/// Check hook: rejects a value that the registered check rejects.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn check(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: PostgreSQL passes a pointer to a C string, or to NULL for no value.
    let text = unsafe { if (*value).is_null() { return true } else { CStr::from_ptr(*value) } };
    match (text.to_str(), DEVICE_CHECK.get()) {
        (Ok(text), Some(check)) => check(text),
        _ => false,
    }
}

/// Defines a string setting with a check hook. Supports one setting only, because the hook reads its check from a
/// static.
pub(crate) fn define_checked_string(
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
    setting: &'static GucSetting<Option<CString>>,
    context: GucContext,
    accept: fn(&str) -> bool,
) {
    let _ = DEVICE_CHECK.set(accept);
    // SAFETY: the hook is guarded and reads only its arguments.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            name,
            short,
            long,
            setting,
            context,
            GucFlags::default(),
            Some(check),
            None,
            None,
        );
    }
}

/// Reserves the prefix, so that unknown settings under it are errors.
pub(crate) fn reserve_prefix(prefix: &'static CStr) {
    // SAFETY: the name is a static C string.
    unsafe { pg_sys::MarkGUCPrefixReserved(prefix.as_ptr()) };
}

/// PostgreSQL's library directory, which contains this extension's library.
pub(crate) fn library_directory() -> String {
    // SAFETY: set when the process starts, and never changed.
    unsafe { CStr::from_ptr((&raw const pg_sys::pkglib_path).cast()) }.to_string_lossy().into_owned()
}

/// The data directory.
pub(crate) fn data_directory() -> std::path::PathBuf {
    // SAFETY: set when the server starts, and never changed.
    unsafe { CStr::from_ptr(pg_sys::DataDir) }.to_string_lossy().into_owned().into()
}

/// Disables backtraces in errors. With RUST_BACKTRACE in the server's environment, every error that passes through Rust
/// would contain one in its DETAIL, a cancel too. RUST_LIB_BACKTRACE enables them again.
pub(crate) fn quiet_backtraces() {
    if std::env::var_os("RUST_LIB_BACKTRACE").is_none() {
        // SAFETY: the process has one thread while it loads the library.
        unsafe { std::env::set_var("RUST_LIB_BACKTRACE", "0") };
    }
}
