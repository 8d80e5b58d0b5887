//! Adds weights that are stored outside the model file. Contains two of the engine's `unsafe` blocks.

use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::Arc;

use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::builder::SessionBuilder;
use ort::value::{DynValue, TensorElementType};
use ort::{AsPointer, ortsys, sys as ort_sys};

use crate::error::{Error, Result};
use crate::onnx::external_data::external_tensors;
use crate::ort::environment::load_error;
use crate::tensor::ElementType;

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

/// Lets a session on the CPU use large weights where they lie. Weights that come by `with_external` alone are copied.
/// The caller must keep the bytes for as long as the session exists.
pub(crate) fn in_place(
    mut builder: SessionBuilder,
    model: &[u8],
    external: &[(String, SharedBytes)],
) -> Result<SessionBuilder> {
    for tensor in external_tensors(model) {
        let file = external.iter().find(|(location, _)| *location == tensor.location);
        let Some(data) = file.and_then(|(_, bytes)| tensor.data((**bytes).as_ref())) else { continue };
        let Some(element) = element_type(tensor.element) else { continue };
        let value = value_of(&tensor.dims, element, data).map_err(|e| load_error(e.message().to_owned()))?;
        builder = builder.with_initializer(&tensor.name, value).map_err(|e| load_error(e.message().to_owned()))?;
    }
    Ok(builder)
}

/// Returns the element type for ONNX Runtime. Large weights have no others.
fn element_type(element: ElementType) -> Option<TensorElementType> {
    Some(match element {
        ElementType::Float32 => TensorElementType::Float32,
        ElementType::Float64 => TensorElementType::Float64,
        ElementType::Float16 => TensorElementType::Float16,
        ElementType::Bfloat16 => TensorElementType::Bfloat16,
        ElementType::Int8 => TensorElementType::Int8,
        ElementType::Uint8 => TensorElementType::Uint8,
        ElementType::Int32 => TensorElementType::Int32,
        ElementType::Int64 => TensorElementType::Int64,
        _ => return None,
    })
}

/// Creates a value of ONNX Runtime whose elements stay in `data`, which has the size and the alignment of such a tensor.
fn value_of(dims: &[i64], element: TensorElementType, data: &[u8]) -> ort::Result<DynValue> {
    let memory = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default)?;
    let allocator = Allocator::default();
    let mut value = std::ptr::null_mut();
    // SAFETY: the shape lives during the call. The data lives as long as the session, and ONNX Runtime only reads
    // initializers. A call that succeeds returns a value, which is then owned by `DynValue`.
    unsafe {
        let status = ortsys![CreateTensorWithDataAsOrtValue](
            memory.ptr(),
            data.as_ptr().cast_mut().cast(),
            data.len(),
            dims.as_ptr(),
            dims.len(),
            element.into(),
            &raw mut value,
        );
        ort::Error::result_from_status(status)?;
        let value: NonNull<ort_sys::OrtValue> =
            NonNull::new(value).ok_or_else(|| ort::Error::new("a tensor could not be created"))?;
        Ok(DynValue::from_ptr(value, Some(&allocator)))
    }
}
