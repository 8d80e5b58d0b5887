//! Creates text tensors, whose elements ONNX Runtime always copies. Contains one of the engine's two `unsafe` blocks.
//!
//! `ort` allocates a C string for every text first. This module instead writes the texts of a run, each with its
//! terminating zero byte, into one buffer. ONNX Runtime copies them from there, and the next run reuses the buffer.

use std::cell::RefCell;
use std::ffi::c_char;

use ort::memory::Allocator;
use ort::value::{DynTensor, TensorElementType};
use ort::{AsPointer, ortsys};

use crate::error::{Error, Result};
use crate::tensor::Strings;

/// Consecutive texts, each with a terminating zero byte, and pointers to their beginnings.
#[derive(Default)]
struct Laid {
    bytes: Vec<u8>,
    places: Vec<*const c_char>,
}

thread_local! {
    static LAID: RefCell<Laid> = RefCell::default();
}

/// The largest buffer that a thread keeps for its next run, in bytes.
const KEPT: usize = 4 << 20;

impl Laid {
    fn lay<'a>(&mut self, texts: impl Iterator<Item = &'a [u8]> + Clone) -> Result<()> {
        self.bytes.clear();
        self.places.clear();
        let (count, size) = texts.clone().fold((0, 0), |(n, size), text| (n + 1, size + text.len() + 1));
        let full = |_| Error::OutOfMemory { what: "texts of a run".into(), bytes: size + 8 * count };
        self.bytes.try_reserve(size).map_err(full)?;
        self.places.try_reserve(count).map_err(full)?;
        for text in texts {
            if text.contains(&0) {
                let reason = "a text with a zero byte cannot be an element of a tensor".to_owned();
                return Err(Error::Run { reason });
            }
            // The buffer has room for all texts, so it does not move and the pointers stay valid.
            self.places.push(self.bytes.as_ptr_range().end.cast());
            self.bytes.extend_from_slice(text);
            self.bytes.push(0);
        }
        Ok(())
    }
}

/// Creates a tensor of `len` texts, starting at the text `from`.
pub(crate) fn string_tensor(strings: &Strings, from: usize, len: usize, shape: &[usize]) -> Result<DynTensor> {
    let failed = |e: ort::Error| Error::Run { reason: e.message().to_owned() };
    let mut tensor =
        DynTensor::new(&Allocator::default(), TensorElementType::String, shape.to_vec()).map_err(failed)?;
    LAID.with_borrow_mut(|laid| {
        let filled = laid.lay((from..from + len).map(|i| strings.get(i).as_bytes())).and_then(|()| {
            // SAFETY: `tensor` is a text tensor, and ONNX Runtime rejects any number of texts other than its number of
            // elements. Each pointer in `places` is the beginning of a text in `bytes` that ends with a zero byte.
            // `bytes` has not moved since the pointers were taken, and is not changed before the texts are copied.
            unsafe {
                let status = ortsys![FillStringTensor](tensor.ptr_mut(), laid.places.as_ptr(), laid.places.len());
                ort::Error::result_from_status(status).map_err(failed)
            }
        });
        if laid.bytes.capacity() + 8 * laid.places.capacity() > KEPT {
            *laid = Laid::default();
        }
        filled
    })?;
    Ok(tensor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::work;

    #[test]
    fn texts_come_back_as_they_went_in_and_a_zero_byte_is_refused() {
        // Loads the ONNX Runtime library, which creating a tensor requires.
        let _work = work("models/late.onnx");
        let mut strings = Strings::default();
        let long = "long ".repeat(100_000);
        let texts =
            ["", "JFK", "a text that is longer than what a string of C++ holds in itself", "é", &long, "", "JFK"];
        texts.iter().for_each(|text| strings.push(text));
        for (from, len) in [(0, texts.len()), (1, 3), (6, 1), (3, 0)] {
            let tensor = string_tensor(&strings, from, len, &[len, 1]).unwrap();
            let (_, back) = tensor.try_extract_strings().unwrap();
            assert_eq!(back, texts[from..from + len]);
        }
        strings.push("zero \0 byte");
        assert!(
            string_tensor(&strings, 6, 2, &[2])
                .is_err_and(|e| matches!(e, Error::Run { reason } if reason.contains("zero byte")))
        );
        // ONNX Runtime rejects a shape with another number of elements.
        assert!(string_tensor(&strings, 0, 2, &[3]).is_err());
    }
}
