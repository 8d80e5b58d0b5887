//! Owns the process's ONNX Runtime environment and configures sessions and devices.

use std::sync::Arc;

use ort::ep::{ArenaExtendStrategy, CUDA};
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use parking_lot::Mutex;

use crate::device::Device;
use crate::error::{DeviceMissing, Error, Result};

static ENVIRONMENT: Mutex<Option<ort::environment::Environment>> = Mutex::new(None);

/// The configuration of a session.
#[derive(Debug, Clone)]
pub struct Config {
    /// The path of the ONNX Runtime library.
    pub library: String,
    /// The device that the session runs on.
    pub device: Device,
    /// The number of threads inside one run.
    pub threads: usize,
    /// The session's memory as validation measured it, in bytes; 0 during validation.
    pub session_bytes: usize,
    /// Uses the weights as they are in their file, which processes share, instead of prepacking them for the CPU.
    pub share_weights: bool,
    /// The most GPU memory that a session may use, in bytes.
    pub gpu_memory: Option<usize>,
}

impl Config {
    /// Creates a configuration without limits and without shared weights.
    #[must_use]
    pub fn of(library: String, device: Device, threads: usize) -> Self {
        Self { library, device, threads, session_bytes: 0, share_weights: false, gpu_memory: None }
    }
}

/// Loads the library and creates the environment, once per process. Loading may be retried after a failure.
fn environment(library: &str) -> Result<ort::environment::Environment> {
    let mut slot = ENVIRONMENT.lock();
    if let Some(environment) = slot.as_ref() {
        return Ok(environment.clone());
    }
    let failed = |reason: String| Error::Library { path: library.to_owned(), reason };
    let environment = ort::init_from(library)
        .map_err(|e| failed(e.to_string()))?
        .with_name("pg_predict")
        .with_telemetry(false)
        // Without a logger, ONNX Runtime writes to stderr. Users get the relevant messages as errors.
        .with_logger(Arc::new(|_level, _category, _id, _location, _message| {}))
        .build()
        .map_err(|e| failed(e.message().to_owned()))?;
    *slot = Some(environment.clone());
    Ok(environment)
}

/// Returns the library's build information. Loads the library if it is not loaded yet.
pub fn runtime(library: &str) -> Result<String> {
    environment(library)?;
    Ok(ort::info().trim_start_matches("ORT Build Info: ").to_owned())
}

/// Loads the library and creates the environment. Validation calls this before it measures a session, so that the
/// measurement covers the session alone.
pub(crate) fn prepare(config: &Config) -> Result<()> {
    environment(&config.library).map(drop)
}

/// Whether ONNX Runtime's message is about memory that is not there, of the machine or of a GPU.
pub(crate) fn is_out_of_memory(reason: &str) -> bool {
    let words = [
        "bad_alloc",
        "Failed to allocate memory",
        "out of memory",
        // The arena of a GPU has reached its limit.
        "is smaller than requested bytes of",
        "CUDA failure 2:",
        "CUBLAS_STATUS_ALLOC_FAILED",
        "CUDNN_STATUS_ALLOC_FAILED",
    ];
    words.iter().any(|w| reason.contains(w))
}

/// Classifies ONNX Runtime's message about a model that it rejects.
pub(crate) fn load_error(reason: String) -> Error {
    let has = |words: &[&str]| words.iter().any(|w| reason.contains(w));
    if has(&["locale"]) {
        Error::Locale { reason }
    } else if is_out_of_memory(&reason) || has(&["std::length_error"]) {
        Error::OutOfMemory { what: "the model's session".into(), bytes: 0 }
    } else if has(&[
        "is not a registered function/op",
        "NOT_IMPLEMENTED",
        "Could not find an implementation",
        "No Op registered",
        "Unsupported model IR version",
        "under development and support for this is limited",
        "No opset import for domain",
    ]) {
        Error::Unsupported { what: "it needs an operator or an opset that this ONNX Runtime lacks".to_owned(), reason }
    } else {
        Error::InvalidModel { reason }
    }
}

/// Classifies ONNX Runtime's message about a run that failed.
pub(crate) fn run_error(reason: String) -> Error {
    if is_out_of_memory(&reason) {
        return Error::OutOfMemory { what: "a run of the model".into(), bytes: 0 };
    }
    Error::Run { reason }
}

/// Classifies ONNX Runtime's message about a device that is not available.
pub(crate) fn device_error(device: Device, reason: String) -> Error {
    let has = |words: &[&str]| words.iter().any(|w| reason.contains(w));
    let missing = if has(&["is not enabled in this build"]) {
        DeviceMissing::Provider
    } else if has(&["invalid device ordinal", "Invalid device id", "invalid device_id", "device_id"]) {
        DeviceMissing::Id
    } else if has(&[
        "libcuda.so",
        "no CUDA-capable device",
        "driver version is insufficient",
        "CUDA failure 100",
        "CUDA failure 35",
        "CUDA driver",
    ]) {
        DeviceMissing::Driver
    } else if has(&["Failed to load library", "cannot open shared object"]) {
        DeviceMissing::Libraries
    } else {
        DeviceMissing::Other
    };
    Error::Device { device: device.to_string(), missing, reason }
}

/// Creates a session builder with every setting except the device.
pub(crate) fn builder(config: &Config) -> Result<SessionBuilder> {
    let environment = environment(&config.library)?;
    let failed = |e: &str| Error::Library { path: config.library.clone(), reason: e.to_owned() };
    ort::session::Session::builder(&environment)
        .map_err(|e| failed(e.message()))?
        .with_intra_threads(config.threads.max(1))
        .and_then(|b| b.with_inter_threads(1))
        // A spinning worker would take a core from the server's other backends.
        .and_then(|b| b.with_intra_op_spinning(false))
        .and_then(|b| b.with_inter_op_spinning(false))
        .and_then(|b| b.with_optimization_level(GraphOptimizationLevel::All))
        // Memory patterns would keep the arena of the largest batch. The results do not depend on them.
        .and_then(|b| b.with_memory_pattern(false))
        .and_then(|b| b.with_prepacking(!config.share_weights))
        .map_err(|e| failed(e.message()))
}

pub(crate) fn with_cuda(config: &Config, id: i32) -> Result<SessionBuilder> {
    // Extend the arena by the requested size only, instead of doubling it: other backends share the GPU.
    let mut cuda = CUDA::default().with_device_id(id).with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested);
    if let Some(limit) = config.gpu_memory {
        cuda = cuda.with_memory_limit(limit);
    }
    builder(config)?
        .with_execution_providers([cuda.build().error_on_failure()])
        .map_err(|e| device_error(config.device, e.message().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_a_gpu_lacks_is_an_error_of_memory() {
        for text in [
            "/onnxruntime/core/framework/bfc_arena.cc:376 Available memory of 4096 is smaller than requested bytes of 8192",
            "bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 8192",
            "CUDA failure 2: out of memory ; GPU=0 ; hostname=db ; file=cuda_allocator.cc",
            "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0",
        ] {
            assert!(matches!(run_error(text.to_owned()), Error::OutOfMemory { .. }), "{text}");
            assert!(matches!(load_error(text.to_owned()), Error::OutOfMemory { .. }), "{text}");
        }
        assert!(matches!(run_error("CUDA failure 700: an illegal memory access".to_owned()), Error::Run { .. }));
    }

    #[test]
    fn what_onnx_runtime_says_of_a_device_is_sorted() {
        let cases = [
            ("CUDA execution provider is not enabled in this build.", DeviceMissing::Provider),
            (
                "Failed to load library libonnxruntime_providers_cuda.so with error: libcublasLt.so.13: cannot open shared object file",
                DeviceMissing::Libraries,
            ),
            ("CUDA failure 100: no CUDA-capable device is detected", DeviceMissing::Driver),
            ("CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version", DeviceMissing::Driver),
            ("CUDA failure 101: invalid device ordinal ; GPU=7", DeviceMissing::Id),
        ];
        for (text, expected) in cases {
            match device_error(Device::Cuda(7), text.to_owned()) {
                Error::Device { missing, .. } => assert_eq!(missing, expected, "{text}"),
                other => panic!("{other}"),
            }
        }
    }
}
