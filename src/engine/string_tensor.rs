//! Tensors of text: the one value that ONNX Runtime takes only as a copy. One of the engine's two `unsafe` blocks lives here.
//!
//! `ort` makes a C string of its own out of every text first, which costs a model of trees with three columns of text 7 % of its
//! time. Here the texts of a run are laid into one buffer that is kept, each with its zero behind it, and copied from there.

use std::cell::RefCell;
use std::ffi::c_char;

use ort::memory::Allocator;
use ort::value::{DynTensor, TensorElementType};
use ort::{AsPointer, ortsys};

use crate::tensor::Strings;

thread_local! {
    static LAID: RefCell<(Vec<u8>, Vec<*const c_char>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// The most bytes that are kept for the next run.
const KEPT: usize = 4 << 20;

/// The tensor of `len` texts from `from` on.
pub(crate) fn string_tensor(strings: &Strings, from: usize, len: usize, shape: &[usize]) -> ort::Result<DynTensor> {
    let mut tensor = DynTensor::new(&Allocator::default(), TensorElementType::String, shape.to_vec())?;
    LAID.with_borrow_mut(|(bytes, places)| {
        bytes.clear();
        places.clear();
        let texts = (from..from + len).map(|i| strings.get(i).as_bytes());
        bytes.reserve(texts.clone().map(|text| text.len() + 1).sum());
        for text in texts {
            if text.contains(&0) {
                return Err(ort::Error::new("a text with a zero byte cannot be an element of a tensor"));
            }
            bytes.extend_from_slice(text);
            bytes.push(0);
        }
        let mut at = 0;
        for i in from..from + len {
            places.push(bytes[at..].as_ptr().cast());
            at += strings.get(i).len() + 1;
        }
        // SAFETY: the tensor is one of text, and ONNX Runtime refuses another number of texts than it has elements; each place is
        // the beginning of a text in `bytes` that ends with a zero, and `bytes` is not touched before the texts are copied.
        unsafe {
            ort::Error::result_from_status(ortsys![FillStringTensor](tensor.ptr_mut(), places.as_ptr(), places.len()))?;
        }
        if bytes.capacity() + 8 * places.capacity() > KEPT {
            (*bytes, *places) = (Vec::new(), Vec::new());
        }
        Ok(())
    })?;
    Ok(tensor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::work;

    #[test]
    fn texts_come_back_as_they_went_in_and_a_zero_byte_is_refused() {
        // Loads the library.
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
        assert!(string_tensor(&strings, 6, 2, &[2]).is_err_and(|e| e.message().contains("zero byte")));
        // ONNX Runtime refuses a shape of another number of texts.
        assert!(string_tensor(&strings, 0, 2, &[3]).is_err());
    }
}
