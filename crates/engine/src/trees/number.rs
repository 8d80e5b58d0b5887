//! The two types that ONNX Runtime computes tree ensembles with: floats, and doubles if the input has doubles.

use std::ops::{Add, Div, Mul, Neg, Sub};

/// A float or a double.
pub(crate) trait Number:
    Copy
    + Default
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + Send
    + Sync
    + 'static
{
    const NAN: Self;
    const INFINITY: Self;
    const ZERO: Self;
    const ONE: Self;

    /// Returns the nearest number. A number that came from this type comes back unchanged.
    fn of_double(value: f64) -> Self;
    fn of_float(value: f32) -> Self;
    fn of_count(value: usize) -> Self;
    fn to_float(self) -> f32;
    fn to_double(self) -> f64;
}

impl Number for f32 {
    const NAN: Self = Self::NAN;
    const INFINITY: Self = Self::INFINITY;
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;

    #[allow(clippy::cast_possible_truncation, reason = "rounding to the nearest float is what is asked for")]
    #[inline(always)]
    fn of_double(value: f64) -> Self {
        value as Self
    }

    #[inline(always)]
    fn of_float(value: f32) -> Self {
        value
    }

    #[allow(clippy::cast_precision_loss, reason = "as ONNX Runtime converts it")]
    #[inline(always)]
    fn of_count(value: usize) -> Self {
        value as Self
    }

    #[inline(always)]
    fn to_float(self) -> f32 {
        self
    }

    #[inline(always)]
    fn to_double(self) -> f64 {
        f64::from(self)
    }
}

impl Number for f64 {
    const NAN: Self = Self::NAN;
    const INFINITY: Self = Self::INFINITY;
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;

    #[inline(always)]
    fn of_double(value: f64) -> Self {
        value
    }

    #[inline(always)]
    fn of_float(value: f32) -> Self {
        Self::from(value)
    }

    #[allow(clippy::cast_precision_loss, reason = "as ONNX Runtime converts it")]
    #[inline(always)]
    fn of_count(value: usize) -> Self {
        value as Self
    }

    #[allow(clippy::cast_possible_truncation, reason = "rounding to the nearest float is what is asked for")]
    #[inline(always)]
    fn to_float(self) -> f32 {
        self as f32
    }

    #[inline(always)]
    fn to_double(self) -> f64 {
        self
    }
}
