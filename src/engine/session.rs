//! Sessions: the only file that names `ort`.
//!
//! Owns the one environment of the process and every session's run. Nothing here is touched before a first use. A
//! session runs on one thread at a time (`Run` is not safe to share, whatever its documentation says), guarded by a
//! mutex; loads and runs happen on threads whose signals are blocked, or, for short single runs, on the caller's.
//! Denormals are zero during a run, and the caller's floating-point state is as before afterwards.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ort::ep::CUDA;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{NoSelectedOutputs, RunOptions, SessionInputValue, SessionOutputs};
use ort::value::{DynMapValueType, DynValue, Tensor, TensorElementType, TensorRef, Value, ValueType};
use parking_lot::Mutex;

use crate::batch::{Batch, Keys, Maps, Values};
use crate::device::Device;
use crate::error::{DeviceMissing, Error, Result};
use crate::float::without_denormals;
use crate::signature::{Output, OutputRow, Signature};
use crate::tensor::{Column, ElementType, Strings};
use crate::threads::Inside;

static ENVIRONMENT: Mutex<Option<ort::environment::Environment>> = Mutex::new(None);

/// How a session is made.
#[derive(Debug, Clone)]
pub struct Config {
    /// The path of the ONNX Runtime library.
    pub library: String,
    /// Where it runs.
    pub device: Device,
    /// Threads inside one run.
    pub threads: usize,
    /// What is known of the model; the probe, which finds it out, has none yet.
    pub session_bytes: usize,
}

/// A version loaded in ONNX Runtime.
pub struct Session {
    inner: Mutex<ort::session::Session>,
    bytes: usize,
    /// Runs of cancelled queries that have not come back yet.
    abandoned: AtomicUsize,
    /// Set where `auto` fell back to the processor: ONNX Runtime's words.
    fallback: Option<String>,
}

/// Tells a run to stop at its next graph node.
#[derive(Clone)]
pub struct Stop {
    options: Arc<RunOptions<NoSelectedOutputs>>,
    asked: Arc<AtomicBool>,
}

impl Stop {
    /// A new one.
    pub fn new() -> Result<Self> {
        let options = RunOptions::new().map_err(|e| Error::Run { reason: e.message().to_owned() })?;
        Ok(Self { options: Arc::new(options), asked: Arc::default() })
    }

    /// Asks the run to end.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Release);
        // Fails only where the run has ended.
        let _ = self.options.terminate();
    }

    /// Whether it was asked.
    #[must_use]
    pub fn asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }
}

/// Loads the library and makes the environment, once. A library that cannot be loaded can be tried again.
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
        // ONNX Runtime writes to stderr otherwise; what matters reaches users through errors.
        .with_logger(Arc::new(|_level, _category, _id, _location, _message| {}))
        .build()
        .map_err(|e| failed(e.message().to_owned()))?;
    *slot = Some(environment.clone());
    Ok(environment)
}

/// Loads the library and makes the environment, so that what a session needs can be told apart from it.
pub(crate) fn prepare(config: &Config) -> Result<()> {
    let _inside = Inside::enter();
    environment(&config.library).map(drop)
}

fn element_type(ty: TensorElementType) -> Result<ElementType> {
    Ok(match ty {
        TensorElementType::Float32 => ElementType::Float32,
        TensorElementType::Float64 => ElementType::Float64,
        TensorElementType::Int8 => ElementType::Int8,
        TensorElementType::Int16 => ElementType::Int16,
        TensorElementType::Int32 => ElementType::Int32,
        TensorElementType::Int64 => ElementType::Int64,
        TensorElementType::Uint8 => ElementType::Uint8,
        TensorElementType::Uint16 => ElementType::Uint16,
        TensorElementType::Uint32 => ElementType::Uint32,
        TensorElementType::Uint64 => ElementType::Uint64,
        TensorElementType::Bool => ElementType::Bool,
        TensorElementType::String => ElementType::String,
        other => {
            return Err(Error::Unsupported {
                what: format!("tensors of type {other}"),
                reason: "this version of pg_predict does not convert them".to_owned(),
            });
        }
    })
}

/// The sha256 of a model's bytes: the name of its content.
#[must_use]
pub fn content_hash(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Sorts what ONNX Runtime says when it refuses a model.
fn load_error(reason: String) -> Error {
    let has = |words: &[&str]| words.iter().any(|w| reason.contains(w));
    if has(&["locale"]) {
        Error::Locale { reason }
    } else if has(&["bad_alloc", "Failed to allocate memory", "std::length_error", "out of memory"]) {
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

/// Sorts what ONNX Runtime says when a device is not there.
fn device_error(device: Device, reason: String) -> Error {
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

/// Starts a builder with everything but the device.
fn builder(config: &Config) -> Result<SessionBuilder> {
    let environment = environment(&config.library)?;
    let failed = |e: &str| Error::Library { path: config.library.clone(), reason: e.to_owned() };
    ort::session::Session::builder(&environment)
        .map_err(|e| failed(e.message()))?
        .with_intra_threads(config.threads.max(1))
        .and_then(|b| b.with_inter_threads(1))
        // A spinning worker takes a core from the server's other backends.
        .and_then(|b| b.with_intra_op_spinning(false))
        .and_then(|b| b.with_inter_op_spinning(false))
        .and_then(|b| b.with_optimization_level(GraphOptimizationLevel::All))
        // Patterns keep the arena of the largest batch; results are the same without.
        .and_then(|b| b.with_memory_pattern(false))
        .map_err(|e| failed(e.message()))
}

fn with_cuda(config: &Config, id: i32) -> Result<SessionBuilder> {
    builder(config)?
        .with_execution_providers([CUDA::default().with_device_id(id).build().error_on_failure()])
        .map_err(|e| device_error(config.device, e.message().to_owned()))
}

impl Session {
    /// Loads a model. Call it on a thread whose signals are blocked: ONNX Runtime starts threads of its own.
    pub fn load(bytes: &[u8], config: &Config) -> Result<Self> {
        let _inside = Inside::enter();
        let mut fallback = None;
        let mut builder = match config.device {
            Device::Cpu => builder(config)?,
            Device::Cuda(id) => with_cuda(config, id)?,
            Device::Auto => match with_cuda(config, 0) {
                Ok(b) => b,
                Err(Error::Device { reason, .. }) => {
                    fallback = Some(reason);
                    builder(config)?
                }
                Err(e) => return Err(e),
            },
        };
        let inner = match builder.commit_from_memory(bytes) {
            Ok(session) => session,
            Err(e) if config.device == Device::Auto && fallback.is_none() => {
                // The card may be found missing only now.
                let first = e.message().to_owned();
                let session =
                    self::builder(config)?.commit_from_memory(bytes).map_err(|e| load_error(e.message().to_owned()))?;
                fallback = Some(first);
                session
            }
            Err(e) => {
                let reason = e.message().to_owned();
                return Err(match config.device {
                    Device::Cuda(_) if reason.contains("CUDA") => device_error(config.device, reason),
                    _ => load_error(reason),
                });
            }
        };
        Ok(Self {
            inner: Mutex::new(inner),
            bytes: config.session_bytes.max(bytes.len()),
            abandoned: AtomicUsize::new(0),
            fallback,
        })
    }

    /// Loads a model after checking that its bytes have the hash under which they are stored.
    pub fn load_checked(bytes: Vec<u8>, hash: &[u8; 32], config: &Config) -> Result<Self> {
        let got = content_hash(&bytes);
        if got != *hash {
            return Err(Error::Hash { expected: hex(hash), got: hex(&got) });
        }
        Self::load(&bytes, config)
    }

    /// Bytes that it is taken to need.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Why `auto` fell back to the processor, where it did.
    #[must_use]
    pub fn fallback(&self) -> Option<&str> {
        self.fallback.as_deref()
    }

    /// Whether no run is in it.
    pub(crate) fn is_free(&self) -> bool {
        !self.inner.is_locked()
    }

    /// Whether a cancelled query's run is still in it.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire) > 0
    }

    /// Notes that nobody waits for the run that is in it.
    pub(crate) fn abandon(&self) {
        self.abandoned.fetch_add(1, Ordering::AcqRel);
    }

    /// Notes that such a run has come back.
    pub(crate) fn reclaim(&self) {
        self.abandoned.fetch_sub(1, Ordering::AcqRel);
    }

    /// Inputs and outputs as the file declares them, and facts about the file.
    pub fn declared(&self) -> Result<Declared> {
        let session = self.inner.lock();
        let mut declared = Declared::default();
        for input in session.inputs() {
            match input.dtype() {
                ValueType::Tensor { ty, shape, .. } => {
                    declared.inputs.push((input.name().to_owned(), element_type(*ty)?, shape.to_vec()));
                }
                other => {
                    return Err(Error::Unsupported {
                        what: format!("input \"{}\" of type {other}", input.name()),
                        reason: "inputs are tensors".to_owned(),
                    });
                }
            }
        }
        for output in session.outputs() {
            let kind = match output.dtype() {
                ValueType::Tensor { ty, shape, .. } => DeclaredOutput::Tensor(element_type(*ty)?, shape.to_vec()),
                ValueType::Sequence(inner) => match inner.as_ref() {
                    ValueType::Map { key: TensorElementType::Int64, value: TensorElementType::Float32 } => {
                        DeclaredOutput::Maps(ElementType::Int64)
                    }
                    ValueType::Map { key: TensorElementType::String, value: TensorElementType::Float32 } => {
                        DeclaredOutput::Maps(ElementType::String)
                    }
                    other => return Err(unsupported_output(output.name(), &format!("sequence of {other}"))),
                },
                other => return Err(unsupported_output(output.name(), &other.to_string())),
            };
            declared.outputs.push((output.name().to_owned(), kind));
        }
        if let Ok(metadata) = session.metadata() {
            let mut put = |key: &str, value: Option<String>| {
                if let Some(value) = value.filter(|v| !v.is_empty()) {
                    declared.metadata.insert(key.to_owned(), value.into());
                }
            };
            put("producer", metadata.producer());
            put("graph", metadata.name());
            put("domain", metadata.domain());
            put("description", metadata.description());
        }
        Ok(declared)
    }

    /// Runs a batch whole and copies its outputs out, those whose place in `wanted` is true.
    pub fn run(&self, batch: &Batch, signature: &Signature, wanted: &[bool], stop: &Stop) -> Result<Vec<Values>> {
        let _inside = Inside::enter();
        let mut session = self.inner.lock();
        let mut out: Vec<Values> = Vec::new();
        let step = signature.fixed_rows.unwrap_or(batch.rows).max(1);
        let mut at = 0;
        while at < batch.rows {
            let rows = step.min(batch.rows - at);
            let inputs = tensors(batch, signature, at, rows, step)?;
            let values = without_denormals(|| {
                let outputs =
                    session.run_with_options(inputs, &*stop.options).map_err(|e| run_error(e.message().to_owned()))?;
                extract(&outputs, signature, wanted, rows, step)
            })?;
            if out.is_empty() {
                out = values;
            } else {
                for (all, part) in out.iter_mut().zip(values) {
                    all.append(part);
                }
            }
            at += rows;
        }
        Ok(out)
    }

    /// Runs a batch and returns the shapes of the outputs, and their values as text-free numbers for comparison.
    pub(crate) fn observe(&self, inputs: &[(String, Column, Vec<usize>)]) -> Result<Vec<Observed>> {
        let _inside = Inside::enter();
        let mut session = self.inner.lock();
        let feeds = inputs
            .iter()
            .map(|(name, column, shape)| Ok((Cow::from(name.as_str()), tensor(column, 0, column.len(), shape)?)))
            .collect::<Result<Vec<_>>>()?;
        without_denormals(|| {
            let outputs = session.run(feeds).map_err(|e| run_error(e.message().to_owned()))?;
            outputs.values().map(|v| observed(&v)).collect()
        })
    }
}

fn unsupported_output(name: &str, kind: &str) -> Error {
    Error::Unsupported {
        what: format!("output \"{name}\" of type {kind}"),
        reason: "outputs are tensors, or sequences of maps from int64 or string to float32".to_owned(),
    }
}

fn run_error(reason: String) -> Error {
    if ["bad_alloc", "Failed to allocate memory", "out of memory", "CUDA failure 2:"].iter().any(|w| reason.contains(w))
    {
        return Error::OutOfMemory { what: "a run of the model".into(), bytes: 0 };
    }
    Error::Run { reason }
}

/// What a file declares.
#[derive(Debug, Default)]
pub struct Declared {
    /// Name, element type and dimensions of each input.
    pub inputs: Vec<(String, ElementType, Vec<i64>)>,
    /// Name and kind of each output.
    pub outputs: Vec<(String, DeclaredOutput)>,
    /// Facts about the file.
    pub metadata: serde_json::Map<String, serde_json::Value>,
}

/// The declared kind of an output.
#[derive(Debug, Clone)]
pub enum DeclaredOutput {
    /// Element type and dimensions.
    Tensor(ElementType, Vec<i64>),
    /// A sequence of maps with keys of this type.
    Maps(ElementType),
}

/// An output of a run of the probe.
#[derive(Debug, Clone)]
pub struct Observed {
    /// Its shape; the length, for a sequence of maps.
    pub shape: Vec<i64>,
    /// Its numbers, where it has any: for comparison.
    pub numbers: Vec<f64>,
}

/// The tensor of `len` elements of a column from `from` on.
fn tensor<'a>(column: &'a Column, from: usize, len: usize, shape: &[usize]) -> Result<SessionInputValue<'a>> {
    let failed = |e: ort::Error| Error::Run { reason: e.message().to_owned() };
    macro_rules! view {
        ($v:expr) => {
            TensorRef::from_array_view((shape.to_vec(), &$v[from..from + len])).map_err(failed)?.into()
        };
    }
    Ok(match column {
        Column::Float32(v) => view!(v),
        Column::Float64(v) => view!(v),
        Column::Int8(v) => view!(v),
        Column::Int16(v) => view!(v),
        Column::Int32(v) => view!(v),
        Column::Int64(v) => view!(v),
        Column::Uint8(v) => view!(v),
        Column::Uint16(v) => view!(v),
        Column::Uint32(v) => view!(v),
        Column::Uint64(v) => view!(v),
        Column::Bool(v) => view!(v),
        Column::String(s) => {
            let texts: Vec<String> = (from..from + len).map(|i| s.get(i).to_owned()).collect();
            let tensor = Tensor::from_string_array((shape.to_vec(), texts.as_slice())).map_err(failed)?;
            tensor.into()
        }
    })
}

/// The inputs of `rows` rows from `at` on, padded with the last of them to `step` rows.
fn tensors<'a>(
    batch: &'a Batch,
    signature: &'a Signature,
    at: usize,
    rows: usize,
    step: usize,
) -> Result<Vec<(Cow<'a, str>, SessionInputValue<'a>)>> {
    signature
        .inputs
        .iter()
        .zip(&batch.columns)
        .zip(&batch.shapes)
        .map(|((input, column), row_shape)| {
            let width: usize = row_shape.iter().product();
            if column.len() != batch.rows * width {
                let reason = format!(
                    "input \"{}\" has {} elements for {} rows of {width}",
                    input.name,
                    column.len(),
                    batch.rows
                );
                return Err(Error::Run { reason });
            }
            let mut shape = vec![step];
            shape.extend(row_shape);
            let value = if rows == step {
                tensor(column, at * width, step * width, &shape)?
            } else {
                own(pad(column, at * width, rows, step, width), &shape)?
            };
            Ok((Cow::from(input.name.as_str()), value))
        })
        .collect()
}

/// Copies rows out of a column and repeats the last until there are `step`.
fn pad(column: &Column, from: usize, rows: usize, step: usize, width: usize) -> Column {
    let pick = |i: usize| from + (i / width.max(1)).min(rows - 1) * width + i % width.max(1);
    macro_rules! copy {
        ($kind:ident, $v:expr) => {
            Column::$kind((0..step * width).map(|i| $v[pick(i)]).collect())
        };
    }
    match column {
        Column::Float32(v) => copy!(Float32, v),
        Column::Float64(v) => copy!(Float64, v),
        Column::Int8(v) => copy!(Int8, v),
        Column::Int16(v) => copy!(Int16, v),
        Column::Int32(v) => copy!(Int32, v),
        Column::Int64(v) => copy!(Int64, v),
        Column::Uint8(v) => copy!(Uint8, v),
        Column::Uint16(v) => copy!(Uint16, v),
        Column::Uint32(v) => copy!(Uint32, v),
        Column::Uint64(v) => copy!(Uint64, v),
        Column::Bool(v) => copy!(Bool, v),
        Column::String(s) => {
            let mut out = Strings::default();
            (0..step * width).for_each(|i| out.push(s.get(pick(i))));
            Column::String(out)
        }
    }
}

/// A tensor that owns its elements.
fn own(column: Column, shape: &[usize]) -> Result<SessionInputValue<'static>> {
    let failed = |e: ort::Error| Error::Run { reason: e.message().to_owned() };
    macro_rules! owned {
        ($v:expr) => {
            Tensor::from_array((shape.to_vec(), $v)).map_err(failed)?.into()
        };
    }
    Ok(match column {
        Column::Float32(v) => owned!(v),
        Column::Float64(v) => owned!(v),
        Column::Int8(v) => owned!(v),
        Column::Int16(v) => owned!(v),
        Column::Int32(v) => owned!(v),
        Column::Int64(v) => owned!(v),
        Column::Uint8(v) => owned!(v),
        Column::Uint16(v) => owned!(v),
        Column::Uint32(v) => owned!(v),
        Column::Uint64(v) => owned!(v),
        Column::Bool(v) => owned!(v),
        Column::String(s) => {
            let texts: Vec<String> = s.iter().map(str::to_owned).collect();
            let tensor = Tensor::from_string_array((shape.to_vec(), texts.as_slice())).map_err(failed)?;
            tensor.into()
        }
    })
}

/// The elements of a tensor as a column.
fn column_of(value: &DynValue, element: ElementType, keep: usize) -> Result<Column> {
    let failed = |e: ort::Error| Error::Run { reason: e.message().to_owned() };
    macro_rules! copy {
        ($kind:ident, $t:ty) => {{
            let (_, data) = value.try_extract_tensor::<$t>().map_err(failed)?;
            let data = &data[..keep.min(data.len())];
            let mut out: Vec<$t> = Vec::new();
            out.try_reserve_exact(data.len())
                .map_err(|_| Error::OutOfMemory { what: "an output".into(), bytes: std::mem::size_of_val(data) })?;
            out.extend_from_slice(data);
            Column::$kind(out)
        }};
    }
    Ok(match element {
        ElementType::Float32 => copy!(Float32, f32),
        ElementType::Float64 => copy!(Float64, f64),
        ElementType::Int8 => copy!(Int8, i8),
        ElementType::Int16 => copy!(Int16, i16),
        ElementType::Int32 => copy!(Int32, i32),
        ElementType::Int64 => copy!(Int64, i64),
        ElementType::Uint8 => copy!(Uint8, u8),
        ElementType::Uint16 => copy!(Uint16, u16),
        ElementType::Uint32 => copy!(Uint32, u32),
        ElementType::Uint64 => copy!(Uint64, u64),
        ElementType::Bool => copy!(Bool, bool),
        ElementType::String => {
            let (_, texts) = value.try_extract_strings().map_err(failed)?;
            let mut out = Strings::default();
            texts.iter().take(keep).for_each(|t| out.push(t.as_str()));
            Column::String(out)
        }
    })
}

/// Copies out the wanted outputs of a run of `step` rows, of which the first `rows` count.
fn extract(
    outputs: &SessionOutputs<'_>,
    signature: &Signature,
    wanted: &[bool],
    rows: usize,
    step: usize,
) -> Result<Vec<Values>> {
    let mut all = Vec::with_capacity(signature.outputs.len());
    for ((output, wanted), value) in signature.outputs.iter().zip(wanted).zip(outputs.values()) {
        if *wanted {
            all.push(extract_one(output, &value, rows, step)?);
        }
    }
    Ok(all)
}

fn extract_one(output: &Output, value: &DynValue, rows: usize, step: usize) -> Result<Values> {
    match &output.row {
        OutputRow::Tensor { element, shape } => {
            let ValueType::Tensor { ty, shape: got, .. } = value.dtype() else {
                return Err(changed(output, value));
            };
            if element_type(*ty).ok() != Some(*element) {
                return Err(changed(output, value));
            }
            let width: usize = shape.iter().product();
            // Rows in are rows out: the one check that nothing gets past.
            if got.num_elements() != step * width {
                return Err(Error::OutputRows { output: output.name.clone(), shape: got.to_vec(), rows: step });
            }
            Ok(Values::Tensor { width, data: column_of(value, *element, rows * width)? })
        }
        OutputRow::Map { key } => {
            let maps = maps_of(value, *key, rows)?;
            let Some(maps) = maps.filter(|m| m.ends.len() == rows) else {
                return Err(Error::OutputRows { output: output.name.clone(), shape: vec![], rows: step });
            };
            Ok(Values::Maps(maps))
        }
    }
}

fn changed(output: &Output, value: &DynValue) -> Error {
    Error::OutputChanged { output: output.name.clone(), expected: output.describe(), got: value.dtype().to_string() }
}

/// The first `rows` maps of a sequence of maps.
fn maps_of(value: &DynValue, key: ElementType, rows: usize) -> Result<Option<Maps>> {
    let failed = |e: ort::Error| Error::Run { reason: e.message().to_owned() };
    let ValueType::Sequence(_) = value.dtype() else { return Ok(None) };
    let sequence = value.view().downcast::<ort::value::DynSequenceValueType>().map_err(failed)?;
    let items: Vec<Value<DynMapValueType>> = sequence.try_extract_sequence::<DynMapValueType>().map_err(failed)?;
    let mut maps = Maps::default();
    if key == ElementType::String {
        let mut keys = Strings::default();
        for item in items.iter().take(rows) {
            let mut pairs = item.try_extract_key_values::<String, f32>().map_err(failed)?;
            pairs.sort_by(|a, b| a.0.cmp(&b.0));
            for (k, v) in pairs {
                keys.push(&k);
                maps.values.push(v);
            }
            maps.ends.push(maps.values.len());
        }
        maps.keys = Keys::Text(keys);
    } else {
        let mut keys = Vec::new();
        for item in items.iter().take(rows) {
            let mut pairs = item.try_extract_key_values::<i64, f32>().map_err(failed)?;
            pairs.sort_by_key(|p| p.0);
            for (k, v) in pairs {
                keys.push(k);
                maps.values.push(v);
            }
            maps.ends.push(maps.values.len());
        }
        maps.keys = Keys::Int64(keys);
    }
    Ok(Some(maps))
}

fn observed(value: &DynValue) -> Result<Observed> {
    Ok(match value.dtype() {
        ValueType::Tensor { ty, shape, .. } => {
            let shape = shape.to_vec();
            let numbers = match column_of(value, element_type(*ty)?, usize::MAX)? {
                Column::Float32(v) => v.into_iter().map(f64::from).collect(),
                Column::Float64(v) => v,
                Column::Int64(v) => v.into_iter().map(|x| x as f64).collect(),
                Column::Int32(v) => v.into_iter().map(f64::from).collect(),
                _ => Vec::new(),
            };
            Observed { shape, numbers }
        }
        ValueType::Sequence(_) => {
            let failed = |e: ort::Error| Error::Run { reason: e.message().to_owned() };
            let sequence = value.view().downcast::<ort::value::DynSequenceValueType>().map_err(failed)?;
            let items = sequence.try_extract_sequence::<DynMapValueType>().map_err(failed)?;
            Observed { shape: vec![items.len() as i64], numbers: Vec::new() }
        }
        other => return Err(unsupported_output("", &other.to_string())),
    })
}

impl Values {
    /// Appends the rows of another run of the same output.
    fn append(&mut self, other: Self) {
        match (self, other) {
            (Self::Tensor { data, .. }, Self::Tensor { data: more, .. }) => data.append(more),
            (Self::Maps(maps), Self::Maps(more)) => {
                let base = maps.values.len();
                maps.ends.extend(more.ends.iter().map(|e| e + base));
                maps.values.extend(more.values);
                match (&mut maps.keys, more.keys) {
                    (Keys::Int64(a), Keys::Int64(b)) => a.extend(b),
                    (Keys::Text(a), Keys::Text(b)) => b.iter().for_each(|k| a.push(k)),
                    // One output has keys of one type.
                    _ => {}
                }
            }
            // One output is of one kind.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{config, floats, model, signature, work};

    fn all(work: &crate::pipeline::Work, batch: &Batch) -> Vec<Values> {
        work.session.run(batch, &work.signature, &work.wanted, &Stop::new().unwrap()).unwrap()
    }

    /// The rows from `at` on of a batch of one float input.
    fn part(batch: &Batch, at: usize, rows: usize) -> Batch {
        let width = batch.shapes[0][0];
        let Column::Float32(data) = &batch.columns[0] else { panic!("floats") };
        let data = data[at * width..(at + rows) * width].to_vec();
        Batch { rows, columns: vec![Column::Float32(data)], shapes: batch.shapes.clone() }
    }

    fn numbers(values: &Values) -> Vec<f32> {
        match values {
            Values::Tensor { data: Column::Float32(v), .. } => v.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_row_has_the_same_answer_in_every_batch() {
        for path in ["models/diamonds.onnx", "tests/reference/models/diamonds_mlp.onnx"] {
            let work = work(path);
            let batch = floats(&work, 33);
            let together = numbers(&all(&work, &batch)[0]);
            for (i, together) in together.iter().enumerate() {
                let alone = numbers(&all(&work, &part(&batch, i, 1))[0])[0];
                assert!((alone - together).abs() <= 1e-3 * together.abs() + 1e-5, "{path} row {i}");
            }
        }
    }

    #[test]
    fn a_fixed_batch_is_padded_and_the_padding_never_shows() {
        let free = work("tests/reference/models/diamonds_mlp.onnx");
        for (path, fixed) in [("diamonds_mlp_batch1", 1), ("diamonds_mlp_batch8", 8)] {
            let work = work(&format!("tests/reference/models/{path}.onnx"));
            assert_eq!(work.signature.fixed_rows, Some(fixed));
            for rows in [1, 7, 8, 9, 16, 21] {
                let batch = floats(&work, rows);
                let (ours, theirs) = (numbers(&all(&work, &batch)[0]), numbers(&all(&free, &batch)[0]));
                assert_eq!(ours.len(), rows, "{path}");
                assert!(ours.iter().zip(&theirs).all(|(a, b)| (a - b).abs() <= 1e-3 * b.abs() + 1e-3), "{path} {rows}");
            }
        }
    }

    #[test]
    fn only_wanted_outputs_are_copied_out() {
        let work = work("tests/reference/models/credit_lgbm.onnx");
        let batch = floats(&work, 3);
        let some = work.session.run(&batch, &work.signature, &[false, true], &Stop::new().unwrap()).unwrap();
        assert_eq!(some, all(&work, &batch)[1..]);
    }

    #[test]
    fn maps_come_back_by_key_for_every_row() {
        let work = work("tests/reference/models/credit_lgbm_zipmap.onnx");
        let Values::Maps(maps) = &all(&work, &floats(&work, 5))[1] else { panic!("maps") };
        assert_eq!(maps.ends, [2, 4, 6, 8, 10]);
        assert_eq!(maps.keys, Keys::Int64([0, 1].repeat(5)));
        assert!(maps.values.chunks(2).all(|p| (p[0] + p[1] - 1.0).abs() < 1e-5));
    }

    #[test]
    fn bytes_that_fail_their_hash_are_not_loaded() {
        let bytes = model("models/diamonds.onnx");
        let mut hash = content_hash(&bytes);
        assert!(Session::load_checked(bytes.clone(), &hash, &config(Device::Cpu)).is_ok());
        hash[0] ^= 1;
        assert!(matches!(Session::load_checked(bytes, &hash, &config(Device::Cpu)), Err(Error::Hash { .. })));
    }

    #[test]
    fn damaged_models_are_errors_and_never_worse() {
        let bytes = model("models/credit.onnx");
        for n in [0, 1, 100, bytes.len() / 2, bytes.len() - 1] {
            assert!(Session::load(&bytes[..n], &config(Device::Cpu)).is_err(), "cut at {n}");
        }
    }

    #[test]
    fn cuda_without_cuda_says_what_is_missing_and_auto_falls_back() {
        let bytes = model("models/diamonds.onnx");
        match Session::load(&bytes, &config(Device::Cuda(0))) {
            Err(Error::Device { missing, device, .. }) => {
                assert_eq!((missing, device.as_str()), (DeviceMissing::Provider, "cuda"));
            }
            Ok(_) => eprintln!("skipped: this machine has CUDA"),
            Err(other) => panic!("{other}"),
        }
        let session = Session::load(&bytes, &config(Device::Auto)).unwrap();
        let batch = Batch { rows: 1, columns: vec![Column::Float32(vec![1.0; 9])], shapes: vec![vec![9]] };
        let signature = signature(&bytes);
        assert!(session.run(&batch, &signature, &[true], &Stop::new().unwrap()).is_ok());
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
