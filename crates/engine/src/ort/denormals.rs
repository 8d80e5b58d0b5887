//! Treats denormals as zero during a run. Contains one of the engine's two `unsafe` blocks.
//!
//! Some trained models contain hundreds of denormal weights, which a CPU multiplies up to 75 times slower. ONNX
//! Runtime's own setting changes the calling thread permanently; this module restores the thread's state.

/// Runs `work` with denormals flushed to zero in this thread. Restores the thread's state afterwards, even on a panic.
pub(crate) fn without_denormals<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: the flags change without the compiler's knowledge only around `work`. The arithmetic of `work` is ONNX
    // Runtime's, inside a foreign call that the compiler cannot move or fold. No Rust float arithmetic depends on the
    // flags.
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
