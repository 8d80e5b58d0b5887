//! Adds weights that are stored outside the model file. Contains one of the engine's three `unsafe` blocks.

use std::ffi::CString;
use std::sync::Arc;

use ort::session::builder::SessionBuilder;
use ort::{AsPointer, ortsys};

use crate::error::{Error, Result};
use crate::ort::environment::load_error;

/// Bytes that several owners share. They may be mapped from a file.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Adds the weights that are stored outside the model file: the name that the model has for each file, and its bytes.
/// The caller must keep the bytes for as long as the session exists, because ONNX Runtime does not copy them.
pub(crate) fn with_external(mut builder: SessionBuilder, external: &[(String, SharedBytes)]) -> Result<SessionBuilder> {
    for (location, bytes) in external {
        let bytes = (**bytes).as_ref();
        let refused = |_| Error::ExternalFile { location: location.clone(), reason: "has a zero byte".into() };
        let name = CString::new(location.as_str()).map_err(refused)?;
        // SAFETY: the name and the sizes live during the call. The bytes live as long as the session, which keeps an
        // owner of them, and ONNX Runtime only reads them.
        let added = unsafe {
            let names = [name.as_ptr()];
            let buffers = [bytes.as_ptr().cast::<std::ffi::c_char>().cast_mut()];
            let sizes = [bytes.len()];
            let status = ortsys![AddExternalInitializersFromMemory](
                builder.ptr_mut(),
                names.as_ptr(),
                buffers.as_ptr(),
                sizes.as_ptr(),
                1,
            );
            ort::Error::result_from_status(status)
        };
        added.map_err(|e| load_error(e.message().to_owned()))?;
    }
    Ok(builder)
}
