//! Sessions: the only file that names `ort`.
//!
//! Owns the one environment of the process and every session's run. Nothing here is touched before a first use. A
//! session runs on one thread at a time (`Run` is not safe to share, whatever its documentation says), guarded by a
//! mutex; loads and runs happen on threads whose signals are blocked, or, for short single runs, on the caller's.
//! Denormals are zero during a run, and the caller's floating-point state is as before afterwards.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ort::ep::{ArenaExtendStrategy, CUDA};
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{NoSelectedOutputs, RunOptions, SessionInputValue};
use ort::value::{
    DynMapValueType, DynTensorValueType, DynValue, Tensor, TensorElementType, TensorRef, Value, ValueType,
};
use parking_lot::Mutex;

use crate::batch::{Keys, Maps};
use crate::categories::{self, Categories};
use crate::device::Device;
use crate::error::{DeviceMissing, Error, Result};
use crate::files::{Entry, Files};
use crate::float::without_denormals;
use crate::options::Options;
use crate::signature::Source;
use crate::string_tensor::string_tensor;
use crate::tensor::{Column, ElementType, Scalar, Strings};
use crate::text::Text;
use crate::threads::Inside;
use crate::version::Version;

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
    /// Weights stay as they are in their file, which processes share: they are not packed anew for the processor.
    pub share_weights: bool,
    /// What a session may take of a card's memory, in bytes.
    pub gpu_memory: Option<usize>,
}

impl Config {
    /// The common one: no limits, nothing shared.
    #[must_use]
    pub fn of(library: String, device: Device, threads: usize) -> Self {
        Self { library, device, threads, session_bytes: 0, share_weights: false, gpu_memory: None }
    }
}

/// Where the bytes of a session come from.
enum Origin<'a> {
    Memory(&'a [u8], Vec<(String, Arc<[u8]>)>),
    File(&'a Path),
}

/// A file of more bytes is a model of other things than tables, and is loaded as it is.
const LARGEST_TABLE_MODEL: u64 = 256 << 20;

impl Origin<'_> {
    /// The same model where texts that it only looks up go in as numbers, and their categories; none where it has no such
    /// input.
    fn by_number(&self) -> Option<(Vec<u8>, Vec<Categories>)> {
        match self {
            Self::Memory(model, external) => external.is_empty().then(|| categories::rewritten(model))?,
            Self::File(path) => {
                let size = std::fs::metadata(path).ok()?.len();
                let model = (size <= LARGEST_TABLE_MODEL).then(|| std::fs::read(path).ok())??;
                categories::rewritten(&model)
            }
        }
    }

    /// Gives a builder the weights, and makes the session.
    fn commit(&self, builder: SessionBuilder) -> Result<ort::Result<ort::session::Session>> {
        Ok(match self {
            Self::Memory(model, external) => with_external(builder, external)?.commit_from_memory(model),
            Self::File(path) => {
                let mut builder = builder;
                builder.commit_from_file(path)
            }
        })
    }
}

/// What a session is loaded from.
#[derive(Debug, Default)]
pub struct Content {
    /// The bytes of the model.
    pub model: Vec<u8>,
    /// A `tokenizer.json`.
    pub tokenizer: Option<Vec<u8>>,
    /// Weights outside of the model: the name that it has for them, and the bytes.
    pub external: Vec<(String, Vec<u8>)>,
}

impl Content {
    /// A model that is one file.
    #[must_use]
    pub fn of(model: Vec<u8>) -> Self {
        Self { model, ..Self::default() }
    }

    /// Its size.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let external: usize = self.external.iter().map(|(_, bytes)| bytes.len()).sum();
        self.model.len() + self.tokenizer.as_ref().map_or(0, Vec::len) + external
    }

    /// Checks that everything has the hash under which it is stored.
    pub fn check(&self, version: &Version) -> Result<()> {
        let same = |bytes: &[u8], expected: &str| {
            let got = hex(&content_hash(bytes));
            if got == expected { Ok(()) } else { Err(Error::Hash { expected: expected.to_owned(), got }) }
        };
        same(&self.model, &hex(&version.hash))?;
        let missing = |what: &str| Error::Hash { expected: what.to_owned(), got: "nothing".to_owned() };
        if let Some(expected) = &version.signature.tokenizer {
            same(self.tokenizer.as_deref().ok_or_else(|| missing(expected))?, expected)?;
        }
        for external in &version.signature.external {
            let stored = self.external.iter().find(|(location, _)| *location == external.location);
            same(&stored.ok_or_else(|| missing(&external.hash))?.1, &external.hash)?;
        }
        Ok(())
    }
}

/// A version loaded in ONNX Runtime.
pub struct Session {
    inner: Mutex<ort::session::Session>,
    text: Option<Text>,
    /// The inputs that take the numbers of categories where the model takes texts.
    categories: Vec<Categories>,
    bytes: usize,
    /// Runs of cancelled queries that have not come back yet.
    abandoned: AtomicUsize,
    /// Set where `auto` fell back to the processor: ONNX Runtime's words.
    fallback: Option<String>,
    /// The card that it runs on; none on the processor.
    card: Option<i32>,
    /// Why it could not be kept in the file cache, where that failed.
    uncached: Option<String>,
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

    /// One whose runs give the memory back that runs before them took, on the processor and on the card of a device.
    pub(crate) fn shrinking(device: &str) -> Result<Self> {
        let mut options = RunOptions::new().map_err(|e| Error::Run { reason: e.message().to_owned() })?;
        options
            .set("memory.enable_memory_arena_shrinkage", device)
            .map_err(|e| Error::Run { reason: e.message().to_owned() })?;
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

/// What the library says of its build. Loads it where it is not loaded yet.
pub fn runtime(library: &str) -> Result<String> {
    let _inside = Inside::enter();
    environment(library)?;
    Ok(ort::info().trim_start_matches("ORT Build Info: ").to_owned())
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
        TensorElementType::Float16 => ElementType::Float16,
        TensorElementType::Bfloat16 => ElementType::Bfloat16,
        other => {
            return Err(Error::Unsupported {
                what: format!("tensors of type {other}"),
                reason: "SQL has no type for their elements".to_owned(),
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

/// Bytes in hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
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
        .and_then(|b| b.with_prepacking(!config.share_weights))
        .map_err(|e| failed(e.message()))
}

fn with_cuda(config: &Config, id: i32) -> Result<SessionBuilder> {
    // What was asked for and not twice as much: other backends share the card.
    let mut cuda = CUDA::default().with_device_id(id).with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested);
    if let Some(limit) = config.gpu_memory {
        cuda = cuda.with_memory_limit(limit);
    }
    builder(config)?
        .with_execution_providers([cuda.build().error_on_failure()])
        .map_err(|e| device_error(config.device, e.message().to_owned()))
}

/// Gives the weights that are outside of the model.
fn with_external(mut builder: SessionBuilder, external: &[(String, Arc<[u8]>)]) -> Result<SessionBuilder> {
    for (location, bytes) in external {
        builder = builder
            .with_external_initializer_file_in_memory(location, Arc::clone(bytes))
            .map_err(|e| load_error(e.message().to_owned()))?;
    }
    Ok(builder)
}

impl Session {
    /// Loads a model. Call it on a thread whose signals are blocked: ONNX Runtime starts threads of its own.
    pub fn load(content: Content, options: &Options, config: &Config) -> Result<Self> {
        let bytes = config.session_bytes.max(content.bytes());
        let Content { model, tokenizer, external } = content;
        let external = external.into_iter().map(|(l, b)| (l, b.into())).collect();
        Self::of(&Origin::Memory(&model, external), tokenizer, options, config, bytes)
    }

    /// Loads a version after checking that what is stored of it has the hash under which it is stored. It is kept in the file cache,
    /// where that can be.
    pub fn load_checked(content: Content, version: &Version, config: &Config, files: Option<&Files>) -> Result<Self> {
        content.check(version)?;
        let mut uncached = None;
        match files.map(|files| files.keep(&version.files(), &content)) {
            Some(Ok(Some(entry))) => {
                if let Ok(Some(session)) = Self::load_files(&entry, &version.options, config) {
                    return Ok(session);
                }
            }
            Some(Err(error)) => uncached = Some(error.to_string()),
            Some(Ok(None)) | None => {}
        }
        let mut session = Self::load(content, &version.options, config)?;
        session.uncached = uncached;
        Ok(session)
    }

    /// Loads a model that is in the file cache. None where what is there is damaged. The same thread as above.
    pub fn load_files(entry: &Entry, options: &Options, config: &Config) -> Result<Option<Self>> {
        let Ok(tokenizer) = entry.check_model().and_then(|()| entry.tokenizer()) else { return Ok(None) };
        // Weights are only numbers until the session is used: they are read twice at the same time.
        let theirs = entry.clone();
        let checked = crate::threads::spawn_for("pg_predict check", move || theirs.check_weights().is_ok())?;
        let path = entry.model();
        let bytes = config.session_bytes.max(entry.bytes());
        let session = Self::of(&Origin::File(&path), tokenizer, options, config, bytes);
        if checked.recv().unwrap_or(false) { session.map(Some) } else { Ok(None) }
    }

    fn of(
        origin: &Origin<'_>,
        tokenizer: Option<Vec<u8>>,
        options: &Options,
        config: &Config,
        bytes: usize,
    ) -> Result<Self> {
        let _inside = Inside::enter();
        let mut text = tokenizer.map(|json| Text::parse(&json, options)).transpose()?;
        let rewritten = origin.by_number().and_then(|(model, categories)| {
            // Where ONNX Runtime would rather have the model as it was, it gets that.
            let opened = Self::open(&Origin::Memory(&model, Vec::new()), config).ok()?;
            Some((opened, categories))
        });
        let ((inner, fallback), categories) = match rewritten {
            Some(rewritten) => rewritten,
            None => (Self::open(origin, config)?, Vec::new()),
        };
        let card = match config.device {
            Device::Cpu => None,
            Device::Cuda(id) => Some(id),
            Device::Auto => fallback.is_none().then_some(0),
        };
        // A model that fixes the number of tokens takes no longer text.
        let ids = inner.inputs().iter().filter(|i| Source::of_tokens(i.name()).is_some());
        let fixed = ids.filter_map(|i| i.dtype().tensor_shape()).find_map(|dims| match dims.as_ref() {
            [_, n] if *n > 0 => usize::try_from(*n).ok(),
            _ => None,
        });
        if let (Some(text), Some(most)) = (&mut text, fixed) {
            text.limit(most)?;
        }
        Ok(Self {
            inner: Mutex::new(inner),
            text,
            categories,
            bytes,
            abandoned: AtomicUsize::new(0),
            card,
            fallback,
            uncached: None,
        })
    }

    /// Makes the session, and says why `auto` fell back to the processor, where it did.
    fn open(origin: &Origin<'_>, config: &Config) -> Result<(ort::session::Session, Option<String>)> {
        let mut fallback = None;
        let builder = match config.device {
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
        let inner = match origin.commit(builder)? {
            Ok(session) => session,
            Err(e) if config.device == Device::Auto && fallback.is_none() => {
                // The card may be found missing only now.
                let first = e.message().to_owned();
                let session = origin.commit(self::builder(config)?)?.map_err(|e| load_error(e.message().to_owned()))?;
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
        Ok((inner, fallback))
    }

    /// Its tokenizer.
    pub(crate) fn text(&self) -> Option<&Text> {
        self.text.as_ref()
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

    /// Why it could not be kept in the file cache, where that failed.
    #[must_use]
    pub fn uncached(&self) -> Option<&str> {
        self.uncached.as_deref()
    }

    /// The categories of an input that takes their numbers.
    fn categories_of(&self, input: &str) -> Option<&Categories> {
        self.categories.iter().find(|c| c.input == input)
    }

    /// What goes into a run: as it is, or the numbers of categories.
    fn encoded<'a>(&self, feed: &'a Feed<'_>) -> Result<(Cow<'a, Column>, usize)> {
        let column: &Column = &feed.column;
        Ok(match (column, self.categories_of(feed.name)) {
            (Column::String(texts), Some(categories)) => {
                (Cow::Owned(Column::Int64(categories.numbers(texts, feed.from, feed.len)?)), 0)
            }
            _ => (Cow::Borrowed(column), feed.from),
        })
    }

    /// A stop whose runs give memory back.
    pub(crate) fn shrinking(&self) -> Result<Stop> {
        Stop::shrinking(&match self.card {
            None => "cpu:0".to_owned(),
            Some(id) => format!("cpu:0;gpu:{id}"),
        })
    }

    /// Whether it runs on a card.
    pub(crate) fn is_on_card(&self) -> bool {
        self.card.is_some()
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
            let ty = match input.dtype() {
                // What may be left out may be given.
                ValueType::Optional(inner) => inner.as_ref(),
                ty => ty,
            };
            match ty {
                ValueType::Tensor { ty, shape, dimension_symbols } => declared.inputs.push(DeclaredInput {
                    name: input.name().to_owned(),
                    element: match self.categories_of(input.name()) {
                        Some(_) => ElementType::String,
                        None => element_type(*ty)?,
                    },
                    dims: shape.to_vec(),
                    symbols: dimension_symbols.iter().map(ToString::to_string).collect(),
                }),
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
                    _ => DeclaredOutput::Nested(type_name(output.dtype())?),
                },
                other => DeclaredOutput::Nested(type_name(other)?),
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

    /// Runs the model once and copies out its outputs, those whose place in `wanted` is true.
    pub(crate) fn infer(&self, feeds: &[Feed<'_>], wanted: Option<&[bool]>, stop: &Stop) -> Result<Vec<Got>> {
        let _inside = Inside::enter();
        let encoded = feeds.iter().map(|feed| self.encoded(feed)).collect::<Result<Vec<_>>>()?;
        let mut session = self.inner.lock();
        if let Some(card) = self.card {
            return infer_on_card(&mut session, card, feeds, &encoded, wanted, stop);
        }
        let inputs = feeds
            .iter()
            .zip(&encoded)
            .map(|(feed, (column, from))| Ok((Cow::from(feed.name), tensor(column, *from, feed.len, &feed.shape)?)))
            .collect::<Result<Vec<_>>>()?;
        without_denormals(|| {
            let outputs =
                session.run_with_options(inputs, &*stop.options).map_err(|e| run_error(e.message().to_owned()))?;
            let keep = |i: usize| wanted.is_none_or(|w| w.get(i).copied().unwrap_or(false));
            outputs.values().enumerate().filter(|(i, _)| keep(*i)).map(|(_, value)| got(&value)).collect()
        })
    }
}

/// A run on a card. What goes in is put into pinned memory, from where the card reads it by itself; what comes out lands there, and
/// only what is wanted does.
fn infer_on_card(
    session: &mut ort::session::Session,
    card: i32,
    feeds: &[Feed<'_>],
    encoded: &[(Cow<'_, Column>, usize)],
    wanted: Option<&[bool]>,
    stop: &Stop,
) -> Result<Vec<Got>> {
    let failed = |e: ort::Error| run_error(e.message().to_owned());
    let pinned = |ty| MemoryInfo::new(AllocationDevice::CUDA_PINNED, card, AllocatorType::Device, ty).map_err(failed);
    let outputs: Vec<(String, bool)> = session
        .outputs()
        .iter()
        .enumerate()
        .filter(|(i, _)| wanted.is_none_or(|w| w.get(*i).copied().unwrap_or(false)))
        .map(|(_, output)| {
            let plain = matches!(output.dtype(), ValueType::Tensor { ty, .. } if *ty != TensorElementType::String);
            (output.name().to_owned(), plain)
        })
        .collect();
    let memory = Allocator::new(session, pinned(MemoryType::CPUInput)?).map_err(failed)?;
    let mut binding = session.create_binding().map_err(failed)?;
    for (feed, (column, from)) in feeds.iter().zip(encoded) {
        macro_rules! bind {
            ($v:expr, $t:ty) => {{
                let mut tensor = Tensor::<$t>::new(&memory, feed.shape.clone()).map_err(failed)?;
                tensor.extract_tensor_mut().1.copy_from_slice(&$v[*from..*from + feed.len]);
                binding.bind_input(feed.name, &tensor).map_err(failed)?;
            }};
        }
        match &**column {
            Column::Float32(v) => bind!(v, f32),
            Column::Float64(v) => bind!(v, f64),
            Column::Int8(v) => bind!(v, i8),
            Column::Int16(v) => bind!(v, i16),
            Column::Int32(v) => bind!(v, i32),
            Column::Int64(v) => bind!(v, i64),
            Column::Uint8(v) => bind!(v, u8),
            Column::Uint16(v) => bind!(v, u16),
            Column::Uint32(v) => bind!(v, u32),
            Column::Uint64(v) => bind!(v, u64),
            Column::Bool(v) => bind!(v, bool),
            Column::Float16(v) => bind!(v, half::f16),
            Column::Bfloat16(v) => bind!(v, half::bf16),
            Column::String(s) => {
                let tensor = string_tensor(s, *from, feed.len, &feed.shape)?;
                binding.bind_input(feed.name, &tensor).map_err(failed)?;
            }
        }
    }
    for (name, plain) in &outputs {
        let place = if *plain { pinned(MemoryType::CPUOutput)? } else { MemoryInfo::default() };
        binding.bind_output_to_device(name, &place).map_err(failed)?;
    }
    without_denormals(|| {
        let mut values = session.run_binding_with_options(&binding, &stop.options).map_err(failed)?;
        let lost = || Error::Run { reason: "an output did not come back from the card".to_owned() };
        outputs.iter().map(|(name, _)| got(&values.remove(name).ok_or_else(lost)?)).collect()
    })
}

/// The name of a type that SQL has no other form for than JSON; an error where its elements have none either.
fn type_name(ty: &ValueType) -> Result<String> {
    Ok(match ty {
        ValueType::Tensor { ty, .. } => element_type(*ty)?.to_string(),
        ValueType::Sequence(inner) => format!("sequence({})", type_name(inner)?),
        ValueType::Optional(inner) => format!("optional({})", type_name(inner)?),
        ValueType::Map { key, value } => format!("map({}, {})", element_type(*key)?, element_type(*value)?),
    })
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
    /// The inputs, in the model's order.
    pub inputs: Vec<DeclaredInput>,
    /// Name and kind of each output.
    pub outputs: Vec<(String, DeclaredOutput)>,
    /// Facts about the file.
    pub metadata: serde_json::Map<String, serde_json::Value>,
}

/// An input as the file declares it.
#[derive(Debug, Clone)]
pub struct DeclaredInput {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    pub element: ElementType,
    /// Its dimensions; -1 is open.
    pub dims: Vec<i64>,
    /// The names of its open dimensions, empty where they have none.
    pub symbols: Vec<String>,
}

/// The declared kind of an output.
#[derive(Debug, Clone)]
pub enum DeclaredOutput {
    /// Element type and dimensions.
    Tensor(ElementType, Vec<i64>),
    /// A sequence of maps with keys of this type.
    Maps(ElementType),
    /// Anything else, by its type's name.
    Nested(String),
}

/// What goes into one input of a run.
pub(crate) struct Feed<'a> {
    pub(crate) name: &'a str,
    pub(crate) column: Cow<'a, Column>,
    /// Where its elements begin in the column, and how many they are.
    pub(crate) from: usize,
    pub(crate) len: usize,
    pub(crate) shape: Vec<usize>,
}

/// One output of one run, as it came.
#[derive(Debug, Clone)]
pub(crate) enum Got {
    Tensor { data: Column, dims: Vec<usize> },
    Maps(Maps),
    Nested(serde_json::Value),
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
        Column::Float16(v) => view!(v),
        Column::Bfloat16(v) => view!(v),
        Column::String(s) => string_tensor(s, from, len, shape)?.into(),
    })
}

/// The elements of a tensor as a column.
fn column_of(value: &DynValue, element: ElementType) -> Result<Column> {
    let failed = |e: ort::Error| Error::Run { reason: e.message().to_owned() };
    macro_rules! copy {
        ($kind:ident, $t:ty) => {{
            let (_, data) = value.try_extract_tensor::<$t>().map_err(failed)?;
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
        ElementType::Float16 => copy!(Float16, half::f16),
        ElementType::Bfloat16 => copy!(Bfloat16, half::bf16),
        ElementType::String => {
            let (_, texts) = value.try_extract_strings().map_err(failed)?;
            let mut out = Strings::default();
            texts.iter().for_each(|t| out.push(t.as_str()));
            Column::String(out)
        }
    })
}

/// Copies a value out.
fn got(value: &DynValue) -> Result<Got> {
    match value.dtype() {
        ValueType::Tensor { ty, shape, .. } => {
            let dims = shape.iter().map(|d| usize::try_from(*d).unwrap_or(0)).collect();
            Ok(Got::Tensor { data: column_of(value, element_type(*ty)?)?, dims })
        }
        ValueType::Sequence(inner) => match inner.as_ref() {
            ValueType::Map { key: TensorElementType::Int64, value: TensorElementType::Float32 } => {
                maps_of(value, ElementType::Int64).map(Got::Maps)
            }
            ValueType::Map { key: TensorElementType::String, value: TensorElementType::Float32 } => {
                maps_of(value, ElementType::String).map(Got::Maps)
            }
            _ => json_of(value).map(Got::Nested),
        },
        _ => json_of(value).map(Got::Nested),
    }
}

/// A value of any type as JSON.
fn json_of(value: &DynValue) -> Result<serde_json::Value> {
    use serde_json::Value as Json;
    let failed = |e: ort::Error| Error::Run { reason: e.message().to_owned() };
    Ok(match value.dtype() {
        ValueType::Tensor { ty, shape, .. } => {
            let dims: Vec<usize> = shape.iter().map(|d| usize::try_from(*d).unwrap_or(0)).collect();
            column_of(value, element_type(*ty)?)?.json(&dims)
        }
        ValueType::Sequence(inner) => {
            let sequence = value.view().downcast::<ort::value::DynSequenceValueType>().map_err(failed)?;
            if matches!(inner.as_ref(), ValueType::Map { .. }) {
                let items: Vec<Value<DynMapValueType>> = sequence.try_extract_sequence().map_err(failed)?;
                items.iter().map(map_json).collect::<Result<Json>>()?
            } else {
                let items: Vec<Value<DynTensorValueType>> = sequence.try_extract_sequence().map_err(failed)?;
                items.into_iter().map(|item| json_of(&item.into_dyn())).collect::<Result<Json>>()?
            }
        }
        ValueType::Map { .. } => map_json(&*value.view().downcast::<DynMapValueType>().map_err(failed)?)?,
        // An optional value that is there has the type of what it holds.
        ValueType::Optional(_) => Json::Null,
    })
}

/// A map as a JSON object, its keys as texts.
fn map_json(map: &Value<DynMapValueType>) -> Result<serde_json::Value> {
    let ValueType::Map { key, value } = map.dtype() else { return Ok(serde_json::Value::Null) };
    let failed = |e: ort::Error| Error::Run { reason: e.message().to_owned() };
    let mut object = serde_json::Map::new();
    macro_rules! pairs {
        ($k:ty, $v:ty, $x:ident => $scalar:expr) => {{
            let mut pairs = map.try_extract_key_values::<$k, $v>().map_err(failed)?;
            pairs.sort_by(|a, b| a.0.cmp(&b.0));
            object.extend(pairs.into_iter().map(|(k, $x)| (k.to_string(), $scalar.json())));
        }};
    }
    match (key, value) {
        (TensorElementType::Int64, TensorElementType::Float32) => pairs!(i64, f32, x => Scalar::Float32(x)),
        (TensorElementType::Int64, TensorElementType::Float64) => pairs!(i64, f64, x => Scalar::Float64(x)),
        (TensorElementType::Int64, TensorElementType::Int64) => pairs!(i64, i64, x => Scalar::Int(x)),
        (TensorElementType::String, TensorElementType::Float32) => pairs!(String, f32, x => Scalar::Float32(x)),
        (TensorElementType::String, TensorElementType::Float64) => pairs!(String, f64, x => Scalar::Float64(x)),
        (TensorElementType::String, TensorElementType::Int64) => pairs!(String, i64, x => Scalar::Int(x)),
        _ => {
            return Err(Error::Unsupported {
                what: format!("a map from {key} to {value}"),
                reason: "ONNX Runtime's interface does not give it".to_owned(),
            });
        }
    }
    Ok(object.into())
}

/// The maps of a sequence of maps, the pairs of each in the order of their keys.
fn maps_of(value: &DynValue, key: ElementType) -> Result<Maps> {
    let failed = |e: ort::Error| Error::Run { reason: e.message().to_owned() };
    let sequence = value.view().downcast::<ort::value::DynSequenceValueType>().map_err(failed)?;
    let items: Vec<Value<DynMapValueType>> = sequence.try_extract_sequence::<DynMapValueType>().map_err(failed)?;
    let mut maps = Maps::default();
    if key == ElementType::String {
        let mut keys = Strings::default();
        for item in &items {
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
        for item in &items {
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
    Ok(maps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Batch, Shapes, Values};
    use crate::run::Work;
    use crate::tests::{config, floats, model, signature, work};

    fn all(work: &Work, batch: &Batch) -> Vec<Values> {
        work.run(batch, &Stop::new().unwrap()).unwrap().values
    }

    /// The rows from `at` on of a batch of one float input.
    fn part(batch: &Batch, at: usize, rows: usize) -> Batch {
        let width = batch.shapes[0].of(0)[0];
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

    /// The same work where texts go in as texts.
    fn as_texts(path: &str, work: &Work) -> Work {
        let bytes = model(path);
        let (inner, _) = Session::open(&Origin::Memory(&bytes, Vec::new()), &config(Device::Cpu)).unwrap();
        let session = Session::load(Content::of(bytes), &Options::default(), &config(Device::Cpu)).unwrap();
        let session = Session { inner: Mutex::new(inner), categories: Vec::new(), ..session };
        let mut as_texts = work.clone();
        as_texts.session = Arc::new(session);
        as_texts
    }

    fn texts(rows: &[&str]) -> Column {
        let mut texts = Strings::default();
        rows.iter().for_each(|row| texts.push(row));
        Column::String(texts)
    }

    #[test]
    fn categories_go_in_as_numbers_and_nothing_else_changes() {
        let names = |work: &Work| -> Vec<String> { work.session.categories.iter().map(|c| c.input.clone()).collect() };
        let path = "tests/models/categories.onnx";
        let by_number = work(path);
        // Not those of which more is done.
        assert_eq!(names(&by_number), ["colour", "size"]);
        let inputs = &by_number.version.signature.inputs;
        assert!(inputs.iter().all(|i| i.element == ElementType::String));
        let long = "L".repeat(1000);
        let columns = vec![
            texts(&["red", "", "grün", "Red", "gru", "red "]),
            texts(&["S", "M", "L", "XL", &long, ""]),
            texts(&["a", "b", "c", "", "a", "b"]),
            texts(&["yes", "no", "no", "yes", "yes", "no"]),
            texts(&["a", "b", "c", "a", "b", "a"]),
        ];
        let batch = Batch { rows: 6, columns, shapes: vec![Shapes::Same(vec![1]); 5] };
        let theirs = all(&as_texts(path, &by_number), &batch);
        assert_eq!(all(&by_number, &batch), theirs);
        assert_eq!(numbers(&theirs[2]), [9.0, 9.0, 0.5, 1.5, 9.0, 9.0]);
        // What is no category still fails where the model wants one.
        let mut wrong = batch;
        wrong.columns[3] = texts(&["yes", "no", "maybe", "yes", "yes", "no"]);
        for work in [&by_number, &as_texts(path, &by_number)] {
            let error = work.run(&wrong, &Stop::new().unwrap()).unwrap_err();
            assert!(matches!(&error, Error::Run { reason } if reason.contains("Unknown Category")), "{error}");
        }
    }

    #[test]
    fn the_categories_of_real_models_are_found() {
        for (path, count) in [
            ("models/late.onnx", 3),
            ("models/credit.onnx", 5),
            ("models/credit_zipmap.onnx", 5),
            ("tests/models/tap_words.onnx", 1),
            ("tests/models/text.onnx", 0),
            ("tests/models/types.onnx", 0),
            ("models/diamonds.onnx", 0),
        ] {
            let bytes = model(path);
            let found = categories::rewritten(&bytes).map_or(0, |(_, categories)| categories.len());
            assert_eq!(found, count, "{path}");
            // Damaged bytes are never worse than no model.
            for n in 0..bytes.len().min(4096) {
                let _ = categories::rewritten(&bytes[..n]);
                let mut flipped = bytes[..bytes.len().min(8192)].to_vec();
                flipped[n] ^= 0x55;
                let _ = categories::rewritten(&flipped);
            }
        }
    }

    #[test]
    fn a_fixed_batch_is_padded_and_the_padding_never_shows() {
        let free = work("tests/reference/models/diamonds_mlp.onnx");
        for (path, fixed) in [("diamonds_mlp_batch1", 1), ("diamonds_mlp_batch8", 8)] {
            let work = work(&format!("tests/reference/models/{path}.onnx"));
            assert_eq!(work.version.signature.fixed_rows, Some(fixed));
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
        let mut some = work.clone();
        some.wanted = vec![false, true].into();
        assert_eq!(all(&some, &batch), all(&work, &batch)[1..]);
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
        let mut version = (*work("models/diamonds.onnx").version).clone();
        version.hash = content_hash(&bytes);
        let load =
            |version: &Version| Session::load_checked(Content::of(bytes.clone()), version, &config(Device::Cpu), None);
        assert!(load(&version).is_ok());
        version.signature.tokenizer = Some("0".repeat(64));
        assert!(matches!(load(&version), Err(Error::Hash { .. })));
        version.signature.tokenizer = None;
        version.hash[0] ^= 1;
        assert!(matches!(load(&version), Err(Error::Hash { .. })));
    }

    #[test]
    fn damaged_models_are_errors_and_never_worse() {
        let bytes = model("models/credit.onnx");
        for n in [0, 1, 100, bytes.len() / 2, bytes.len() - 1] {
            let cut = Content::of(bytes[..n].to_vec());
            assert!(Session::load(cut, &Options::default(), &config(Device::Cpu)).is_err(), "cut at {n}");
        }
    }

    #[test]
    fn cuda_without_cuda_says_what_is_missing_and_auto_falls_back() {
        let bytes = model("models/diamonds.onnx");
        let load = |device| Session::load(Content::of(bytes.clone()), &Options::default(), &config(device));
        match load(Device::Cuda(0)) {
            Err(Error::Device { missing, device, .. }) => {
                assert_eq!((missing, device.as_str()), (DeviceMissing::Provider, "cuda"));
            }
            Ok(_) => eprintln!("skipped: this machine has CUDA"),
            Err(other) => panic!("{other}"),
        }
        let session = load(Device::Auto).unwrap();
        let batch =
            Batch { rows: 1, columns: vec![Column::Float32(vec![1.0; 9])], shapes: vec![Shapes::Same(vec![9])] };
        let mut work = work("models/diamonds.onnx");
        work.session = Arc::new(session);
        assert_eq!(all(&work, &batch).len(), signature(&bytes).outputs.len());
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
