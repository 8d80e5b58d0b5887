//! Denormals as zero, for the length of a run. One of the engine's two `unsafe` blocks lives here.
//!
//! Some trained models carry hundreds of denormal weights, which a processor multiplies up to 75 times slower. ONNX
//! Runtime's own switch leaves the calling thread changed for good; this one puts it back.

/// Runs `work` with denormals flushed to zero in this thread, and restores the thread's state, on a panic too.
pub(crate) fn without_denormals<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: the flags are changed behind the compiler's back only around `work`, whose arithmetic is ONNX Runtime's,
    // behind a foreign call that the compiler cannot move or fold; no Rust float arithmetic depends on them.
    unsafe { no_denormals::no_denormals(work) }
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    #[test]
    fn denormals_are_zero_inside_and_back_outside() {
        let product = || black_box(1e-300_f64) * black_box(1e-10_f64);
        assert_eq!(super::without_denormals(product), 0.0);
        assert!(product() > 0.0);
    }
}
