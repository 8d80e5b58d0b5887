//! Loads models into ONNX Runtime sessions and runs them.
//!
//! ONNX Runtime is not touched before the first use. A mutex ensures that a session runs on one thread at a time: `Run`
//! is not safe to share, despite its documentation. Loads and runs happen on threads whose signals are blocked. Short
//! single runs may also happen on the caller's thread. Denormals are zero during a run, and the caller's floating-point
//! state is restored afterwards.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::value::{Tensor, TensorElementType, ValueType};
use parking_lot::Mutex;

use crate::device::Device;
use crate::error::{Error, Result};
use crate::file_cache::{FileEntry, Files};
use crate::onnx::categories::Categories;
use crate::onnx::content::Content;
use crate::options::Options;
use crate::ort::denormals::without_denormals;
use crate::ort::environment::{Config, builder, device_error, is_out_of_memory, load_error, run_error, with_cuda};
use crate::ort::origin::{Opened, Origin};
use crate::ort::stop::Stop;
use crate::ort::string_tensor::string_tensor;
use crate::ort::values::{Feed, RawOutput, got, tensor};
use crate::ort::weights::SharedBytes;
use crate::signature::Source;
use crate::tensor::Column;
use crate::text::Text;
use crate::version::Version;

/// A version loaded in ONNX Runtime.
pub struct Session {
    pub(crate) inner: Mutex<ort::session::Session>,
    pub(crate) text: Option<Text>,
    /// The inputs that take category numbers in this session, while the model declares texts.
    pub(crate) categories: Vec<Categories>,
    /// The number of tree ensembles that run on the engine's kernels.
    pub(crate) trees: usize,
    pub(crate) bytes: usize,
    /// The weights that ONNX Runtime uses where they are. Dropped after `inner`.
    pub(crate) weights: Vec<SharedBytes>,
    /// The number of runs of cancelled queries that have not returned yet.
    pub(crate) abandoned: AtomicUsize,
    /// ONNX Runtime's message, if the device `auto` fell back to the CPU.
    pub(crate) fallback: Option<String>,
    /// The number of the GPU that it runs on; `None` on the CPU.
    pub(crate) card: Option<i32>,
    /// Whether outputs of that GPU pass through pinned memory.
    pub(crate) pinned: bool,
    /// The reason why the version could not be stored in the file cache, if that failed.
    pub(crate) uncached: Option<String>,
}

impl Session {
    /// Loads a model. Call this on a thread whose signals are blocked, because ONNX Runtime starts threads of its own.
    pub fn load(content: Content, options: &Options, config: &Config) -> Result<Self> {
        let bytes = config.session_bytes.max(content.bytes());
        let Content { model, tokenizer, external } = content;
        let external = external.into_iter().map(|(l, b)| (l, Arc::new(b) as SharedBytes)).collect();
        Self::load_parts(&model, external, tokenizer, options, config, bytes)
    }

    /// Loads a model from its parts: the model file, the files of weights by name, and the tokenizer. The session is
    /// assumed to need `bytes`.
    pub fn load_parts(
        model: &[u8],
        external: Vec<(String, SharedBytes)>,
        tokenizer: Option<Vec<u8>>,
        options: &Options,
        config: &Config,
        bytes: usize,
    ) -> Result<Self> {
        let weights = external.iter().map(|(_, bytes)| Arc::clone(bytes)).collect();
        let mut session = Self::of(&Origin::Memory(model, external), tokenizer, options, config, bytes)?;
        session.weights = weights;
        Ok(session)
    }

    /// Loads a version after checking that its stored bytes match their hashes. Stores the version in the file cache if
    /// possible.
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

    /// Loads a model from the file cache. Returns `None` if the cached files are damaged. Call this on a thread whose
    /// signals are blocked, like `load`.
    pub fn load_files(entry: &FileEntry, options: &Options, config: &Config) -> Result<Option<Self>> {
        let Ok(tokenizer) = entry.check_model().and_then(|()| entry.tokenizer()) else { return Ok(None) };
        // Weights are only numbers until the session runs, so they are checked in parallel with loading.
        let theirs = entry.clone();
        let checked = crate::threads::spawn_for("pg_predict check", move || theirs.check_weights().is_ok())?;
        let path = entry.model();
        let bytes = config.session_bytes.max(entry.bytes());
        let session = Self::of(&Origin::File(&path), tokenizer, options, config, bytes);
        if checked.recv().unwrap_or(false) { session.map(Some) } else { Ok(None) }
    }

    pub(crate) fn of(
        origin: &Origin<'_>,
        tokenizer: Option<Vec<u8>>,
        options: &Options,
        config: &Config,
        bytes: usize,
    ) -> Result<Self> {
        let mut text = tokenizer.map(|json| Text::parse(&json, options)).transpose()?;
        let Opened { inner, fallback, categories, trees } = origin.open(options, config)?;
        let card = match config.device {
            Device::Cpu => None,
            Device::Cuda(id) => Some(id),
            Device::Auto => fallback.is_none().then_some(0),
        };
        let pinned = card.is_some_and(|card| has_pinned_memory(&inner, card));
        // A model with a fixed number of tokens accepts no longer text.
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
            trees,
            bytes,
            weights: Vec::new(),
            abandoned: AtomicUsize::new(0),
            card,
            pinned,
            fallback,
            uncached: None,
        })
    }

    /// Creates the session. Also returns the reason if the device `auto` fell back to the CPU.
    pub(crate) fn open(origin: &Origin<'_>, config: &Config) -> Result<(ort::session::Session, Option<String>)> {
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
        let inner = match origin.commit(builder, config.device == Device::Cpu)? {
            Ok(session) => session,
            Err(e) if config.device == Device::Auto && fallback.is_none() => {
                // ONNX Runtime may detect a missing GPU only when the session is created.
                let first = e.message().to_owned();
                let session =
                    origin.commit(self::builder(config)?, false)?.map_err(|e| load_error(e.message().to_owned()))?;
                fallback = Some(first);
                session
            }
            Err(e) => {
                let reason = e.message().to_owned();
                return Err(match config.device {
                    Device::Cuda(_) if reason.contains("CUDA") && !is_out_of_memory(&reason) => {
                        device_error(config.device, reason)
                    }
                    _ => load_error(reason),
                });
            }
        };
        Ok((inner, fallback))
    }

    /// Makes a session of what `open` returns, for tests of models that need nothing else.
    #[cfg(test)]
    pub(crate) fn bare((inner, fallback): (ort::session::Session, Option<String>)) -> Self {
        Self {
            inner: Mutex::new(inner),
            text: None,
            categories: Vec::new(),
            trees: 0,
            bytes: 0,
            weights: Vec::new(),
            abandoned: AtomicUsize::new(0),
            fallback,
            card: None,
            pinned: false,
            uncached: None,
        }
    }

    /// Returns the session's tokenizer.
    pub(crate) fn text(&self) -> Option<&Text> {
        self.text.as_ref()
    }

    /// Returns the bytes that the session is assumed to need.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the reason if the device `auto` fell back to the CPU.
    #[must_use]
    pub fn fallback(&self) -> Option<&str> {
        self.fallback.as_deref()
    }

    /// The reason why the version could not be stored in the file cache, if that failed.
    #[must_use]
    pub fn uncached(&self) -> Option<&str> {
        self.uncached.as_deref()
    }

    /// Returns the categories of an input that takes category numbers.
    pub(crate) fn categories_of(&self, input: &str) -> Option<&Categories> {
        self.categories.iter().find(|c| c.input == input)
    }

    /// Returns the column for a run and the position of its first element: the column itself, or its category numbers.
    pub(crate) fn encoded<'a>(&self, feed: &'a Feed<'_>) -> Result<(Cow<'a, Column>, usize)> {
        let column: &Column = &feed.column;
        Ok(match (column, self.categories_of(feed.name)) {
            (Column::String(texts), Some(categories)) => {
                (Cow::Owned(Column::Int64(categories.numbers(texts, feed.from, feed.len)?)), 0)
            }
            _ => (Cow::Borrowed(column), feed.from),
        })
    }

    /// Creates a stop handle whose runs release arena memory.
    pub(crate) fn shrinking(&self) -> Result<Stop> {
        Stop::shrinking(&match self.card {
            None => "cpu:0".to_owned(),
            Some(id) => format!("cpu:0;gpu:{id}"),
        })
    }

    /// Whether the session runs on a GPU.
    pub(crate) fn is_on_card(&self) -> bool {
        self.card.is_some()
    }

    /// Whether no run is in progress.
    pub(crate) fn is_free(&self) -> bool {
        !self.inner.is_locked()
    }

    /// Whether a run of a cancelled query still occupies the session.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire) > 0
    }

    /// Records that the run in progress is no longer awaited.
    pub(crate) fn abandon(&self) {
        self.abandoned.fetch_add(1, Ordering::AcqRel);
    }

    /// Records that an abandoned run has returned.
    pub(crate) fn reclaim(&self) {
        self.abandoned.fetch_sub(1, Ordering::AcqRel);
    }

    /// Runs the model once and copies the outputs whose position in `wanted` is true, or all outputs if it is `None`.
    pub(crate) fn infer(&self, feeds: &[Feed<'_>], wanted: Option<&[bool]>, stop: &Stop) -> Result<Vec<RawOutput>> {
        let encoded = feeds.iter().map(|feed| self.encoded(feed)).collect::<Result<Vec<_>>>()?;
        let mut session = self.inner.lock();
        if let Some(card) = self.card.filter(|_| self.pinned) {
            let place = pinned_memory(card).map_err(|e| run_error(e.message().to_owned()))?;
            return infer_bound(&mut session, &place, feeds, &encoded, wanted, stop);
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
            outputs.iter().enumerate().filter(|(i, _)| keep(*i)).map(|(_, (name, value))| got(name, &value)).collect()
        })
    }
}

/// Whether the session gives memory of the machine that the GPU writes by itself.
fn has_pinned_memory(session: &ort::session::Session, card: i32) -> bool {
    let pinned = pinned_memory(card).and_then(|info| Allocator::new(session, info));
    pinned.and_then(|memory| Tensor::<f32>::new(&memory, [1_usize])).is_ok_and(|t| t.memory_info().is_cpu_accessible())
}

fn pinned_memory(card: i32) -> ort::Result<MemoryInfo<'static>> {
    MemoryInfo::new(AllocationDevice::CUDA_PINNED, card, AllocatorType::Device, MemoryType::CPUOutput)
}

/// Runs the model on a GPU. Wanted outputs arrive in memory of the kind `place`; other outputs are not transferred.
fn infer_bound(
    session: &mut ort::session::Session,
    place: &MemoryInfo<'_>,
    feeds: &[Feed<'_>],
    encoded: &[(Cow<'_, Column>, usize)],
    wanted: Option<&[bool]>,
    stop: &Stop,
) -> Result<Vec<RawOutput>> {
    let failed = |e: ort::Error| run_error(e.message().to_owned());
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
    let mut binding = session.create_binding().map_err(failed)?;
    for (feed, (column, from)) in feeds.iter().zip(encoded) {
        macro_rules! bind {
            ($v:expr) => {{
                // A binding keeps what it is given, and does not take what is borrowed from the batch.
                let mut data = Vec::new();
                let bytes = std::mem::size_of_val(&$v[*from..*from + feed.len]);
                let full = |_| Error::OutOfMemory { what: "an input".into(), bytes };
                data.try_reserve_exact(feed.len).map_err(full)?;
                data.extend_from_slice(&$v[*from..*from + feed.len]);
                let tensor = Tensor::from_array((feed.shape.clone(), data)).map_err(failed)?;
                binding.bind_input(feed.name, &tensor).map_err(failed)?;
            }};
        }
        match &**column {
            Column::Float32(v) => bind!(v),
            Column::Float64(v) => bind!(v),
            Column::Int8(v) => bind!(v),
            Column::Int16(v) => bind!(v),
            Column::Int32(v) => bind!(v),
            Column::Int64(v) => bind!(v),
            Column::Uint8(v) => bind!(v),
            Column::Uint16(v) => bind!(v),
            Column::Uint32(v) => bind!(v),
            Column::Uint64(v) => bind!(v),
            Column::Bool(v) => bind!(v),
            Column::Float16(v) => bind!(v),
            Column::Bfloat16(v) => bind!(v),
            Column::String(s) => {
                let tensor = string_tensor(s, *from, feed.len, &feed.shape)?;
                binding.bind_input(feed.name, &tensor).map_err(failed)?;
            }
        }
    }
    let elsewhere = MemoryInfo::default();
    for (name, plain) in &outputs {
        binding.bind_output_to_device(name, if *plain { place } else { &elsewhere }).map_err(failed)?;
    }
    without_denormals(|| {
        // The copies of inputs have only been queued, and not in the queue of the run.
        binding.synchronize_inputs().map_err(failed)?;
        let mut values = session.run_binding_with_options(&binding, &stop.options).map_err(failed)?;
        let lost = || Error::Run { reason: "an output did not come back from the card".to_owned() };
        outputs.iter().map(|(name, _)| got(name, &values.remove(name).ok_or_else(lost)?)).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Keys;
    use crate::batch::{Batch, Shapes, Values};
    use crate::error::DeviceMissing;
    use crate::hash::content_hash;
    use crate::onnx::categories;
    use crate::onnx::content::Content;
    use crate::ort::stop::Stop;
    use crate::run::RunContext;
    use crate::run::row_groups::RowSet;
    use crate::tensor::{ElementType, Strings};
    use crate::tests::{config, floats, model, signature, work};

    fn all(work: &RunContext, batch: &Batch) -> Vec<Values> {
        work.run(batch, &Stop::new().unwrap()).unwrap().values
    }

    /// Returns `rows` rows of a batch of one float input, starting at the row `at`.
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

    /// Returns the same run context with a session that takes texts instead of category numbers.
    fn as_texts(path: &str, work: &RunContext) -> RunContext {
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
        let names =
            |work: &RunContext| -> Vec<String> { work.session.categories.iter().map(|c| c.input.clone()).collect() };
        let path = "tests/models/categories.onnx";
        let by_number = work(path);
        // Inputs that the model uses for more than a lookup are not rewritten.
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
        // An unknown category still fails if the model accepts only known ones.
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
            // Damaged bytes must not cause a panic.
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
    fn a_run_that_binds_its_inputs_and_outputs_gives_the_same() {
        for path in ["models/diamonds.onnx", "tests/reference/models/credit_lgbm_zipmap.onnx"] {
            let work = work(path);
            let batch = floats(&work, 7);
            let feeds = work.feeds(&batch, None, &RowSet::Span(0, batch.rows)).unwrap();
            let stop = Stop::new().unwrap();
            let plain = work.session.infer(&feeds, None, &stop).unwrap();
            let encoded: Vec<_> = feeds.iter().map(|feed| work.session.encoded(feed).unwrap()).collect();
            let mut session = work.session.inner.lock();
            let bound = |session: &mut _, wanted: Option<&[bool]>| {
                infer_bound(session, &MemoryInfo::default(), &feeds, &encoded, wanted, &stop).unwrap()
            };
            assert_eq!(format!("{:?}", bound(&mut session, None)), format!("{plain:?}"), "{path}");
            let first = bound(&mut session, Some(&[true]));
            assert_eq!(format!("{first:?}"), format!("{:?}", &plain[..1]), "{path}");
        }
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
}
