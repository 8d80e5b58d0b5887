//! What settings need of PostgreSQL that pgrx does not give: a checked string, the reserved prefix, where we are installed.

use std::ffi::{CStr, CString, c_char, c_void};

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_sys};

static DEVICE_CHECK: once_cell::sync::OnceCell<fn(&str) -> bool> = once_cell::sync::OnceCell::new();

/// Refuses a value that the check refuses.
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

/// Defines a text setting whose values are checked when they are set. One setting only.
pub(crate) fn define_checked_string(
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
    setting: &'static GucSetting<Option<CString>>,
    context: GucContext,
    accept: fn(&str) -> bool,
) {
    let _ = DEVICE_CHECK.set(accept);
    // SAFETY: the hook is guarded and reads only what it is handed.
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

/// Makes unknown settings under the prefix an error.
pub(crate) fn reserve_prefix(prefix: &'static CStr) {
    // SAFETY: the name is a static C string.
    unsafe { pg_sys::MarkGUCPrefixReserved(prefix.as_ptr()) };
}

/// PostgreSQL's library directory, where ours is.
pub(crate) fn library_directory() -> String {
    // SAFETY: set when the process started, and never again.
    unsafe { CStr::from_ptr((&raw const pg_sys::pkglib_path).cast()) }.to_string_lossy().into_owned()
}

/// The data directory.
pub(crate) fn data_directory() -> std::path::PathBuf {
    // SAFETY: set when the server started, and never again.
    unsafe { CStr::from_ptr(pg_sys::DataDir) }.to_string_lossy().into_owned().into()
}

/// Keeps backtraces out of users' errors: with RUST_BACKTRACE in the server's environment every error that passes through
/// Rust would carry one in its DETAIL, a cancel too. Who wants them sets RUST_LIB_BACKTRACE.
pub(crate) fn quiet_backtraces() {
    if std::env::var_os("RUST_LIB_BACKTRACE").is_none() {
        // SAFETY: a process that is loading the library has one thread.
        unsafe { std::env::set_var("RUST_LIB_BACKTRACE", "0") };
    }
}
