//! Functions for the SQL of checks, jobs and drift: rights, versions, differences of predictions, tail probabilities.

use pgrx::pg_sys::Datum;
use serde_json::Value;
use statrs::distribution::{ChiSquared, ContinuousCDF};

use crate::error::{Error, Result};
use crate::pg::call::{Call, pg_function};
use crate::pg::catalog::sql;
use crate::pg::text;
use crate::registry;
use crate::runtime::sessions;

pg_function!(pg_predict_owns_model, pg_finfo_pg_predict_owns_model, owns_model);
pg_function!(pg_predict_may_use_model, pg_finfo_pg_predict_may_use_model, may_use_model);
pg_function!(pg_predict_version_of, pg_finfo_pg_predict_version_of, version_of);
pg_function!(pg_predict_may_commit, pg_finfo_pg_predict_may_commit, may_commit);
pg_function!(pg_predict_runtime, pg_finfo_pg_predict_runtime, runtime);
pg_function!(pg_predict_difference, pg_finfo_pg_predict_difference, difference);
pg_function!(pg_predict_chi_squared_sf, pg_finfo_pg_predict_chi_squared_sf, chi_squared_sf);
pg_function!(pg_predict_kolmogorov_sf, pg_finfo_pg_predict_kolmogorov_sf, kolmogorov_sf);

fn owns_model(call: &Call) -> Result<Option<Datum>> {
    Ok(Some(registry::owns(&call.text(0, "the model's name")?).into()))
}

fn may_use_model(call: &Call) -> Result<Option<Datum>> {
    Ok(Some(registry::may_use(&call.text(0, "the model's name")?).into()))
}

fn version_of(call: &Call) -> Result<Option<Datum>> {
    let resolved = registry::resolve(&call.text(0, "the model reference")?)?;
    Ok(Some(resolved.version.number.into()))
}

fn runtime(_call: &Call) -> Result<Option<Datum>> {
    sessions::runtime().map(|said| Some(text::datum(&said)))
}

fn may_commit(_call: &Call) -> Result<Option<Datum>> {
    Ok(Some(sql::may_commit().into()))
}

fn number(call: &Call, i: usize) -> Option<f64> {
    call.argument(i).map(|d| f64::from_bits(d.value() as u64))
}

/// Reads a number. JSON represents NaN and the infinities as strings.
fn as_number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(n) => n.as_f64(),
        Value::String(s) => match s.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

/// Returns the difference of two predictions: |a - b| / max(1, |a|) for numbers, and the largest difference of the
/// elements for arrays and objects. It is infinity if they differ in anything else.
fn apart(a: &Value, b: &Value) -> f64 {
    if a == b {
        return 0.0;
    }
    if let (Some(a), Some(b)) = (as_number(a), as_number(b)) {
        if a == b || a.is_nan() && b.is_nan() {
            return 0.0;
        }
        let apart = (a - b).abs() / a.abs().max(1.0);
        return if apart.is_finite() { apart } else { f64::INFINITY };
    }
    match (a, b) {
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).map(|(a, b)| apart(a, b)).fold(0.0, f64::max)
        }
        (Value::Object(a), Value::Object(b)) if a.len() == b.len() => {
            a.iter().map(|(key, a)| b.get(key).map_or(f64::INFINITY, |b| apart(a, b))).fold(0.0, f64::max)
        }
        // A label may have been recorded as text, and an output of one value as an array of one element.
        (Value::String(s), Value::Number(n)) | (Value::Number(n), Value::String(s)) if *s == n.to_string() => 0.0,
        (Value::Array(one), other) | (other, Value::Array(one)) if one.len() == 1 && !other.is_array() => {
            apart(&one[0], other)
        }
        _ => f64::INFINITY,
    }
}

fn difference(call: &Call) -> Result<Option<Datum>> {
    let parse = |i: usize| -> Result<Value> {
        let Some(json) = call.argument(i) else { return Ok(Value::Null) };
        serde_json::from_str(&text::of_jsonb(json)).map_err(|e| Error::BadBatch { reason: e.to_string() })
    };
    Ok(Some(Datum::from(apart(&parse(0)?, &parse(1)?).to_bits())))
}

fn chi_squared_sf(call: &Call) -> Result<Option<Datum>> {
    let (Some(statistic), Some(freedom)) = (number(call, 0), number(call, 1)) else { return Ok(None) };
    // Without degrees of freedom nothing can differ.
    let sf = ChiSquared::new(freedom).map_or(1.0, |d| d.sf(statistic.max(0.0)));
    Ok(Some(Datum::from(sf.to_bits())))
}

/// Returns P(K > x) of Kolmogorov's distribution. Uses whichever of its two series converges fast. Both are given in
/// Marsaglia, Tsang and Wang, "Evaluating Kolmogorov's Distribution", 2003.
fn kolmogorov(x: f64) -> f64 {
    if x.is_nan() {
        return f64::NAN;
    }
    if x <= 0.0 {
        return 1.0;
    }
    if x < 1.0 {
        let term =
            |k: i32| (-f64::from((2 * k - 1) * (2 * k - 1)) * std::f64::consts::PI.powi(2) / (8.0 * x * x)).exp();
        let sum: f64 = (1..=20).map(term).sum();
        return 1.0 - (2.0 * std::f64::consts::PI).sqrt() / x * sum;
    }
    let term = |k: i32| 2.0 * (-2.0 * f64::from(k * k) * x * x).exp() * if k % 2 == 1 { 1.0 } else { -1.0 };
    (1..=20).map(term).sum()
}

fn kolmogorov_sf(call: &Call) -> Result<Option<Datum>> {
    Ok(number(call, 0).map(|x| Datum::from(kolmogorov(x).clamp(0.0, 1.0).to_bits())))
}
