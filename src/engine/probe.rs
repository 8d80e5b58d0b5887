//! The trial of a model: what it takes, gives, needs and how fast it is, seen by running it.
//!
//! Runs in the probe program, a process of its own that may crash, hang or be killed for its memory without harm. Rows
//! of 1, 2 and 3 show where the batch axis of each output is and whether a row's answer depends on its batch mates;
//! growing batches show how many rows run best together. Where no batch axis is to be found, a row is a whole run.

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::batch::{Batch, Each, Shapes, Values};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::file::Facts;
use crate::options::{Batching, Options, Pooling};
use crate::pipeline::resident;
use crate::run::Work;
use crate::session::{Config, Content, Declared, DeclaredInput, DeclaredOutput, Got, Session, Stop, content_hash, hex};
use crate::signature::{External, Input, Output, OutputRow, Sample, Signature, Source};
use crate::tensor::{Column, ElementType, Strings};
use crate::version::Version;

/// What the probe is asked: as JSON behind its length (8 bytes, little-endian) on standard input. The model, the
/// tokenizer and the files of weights follow, one behind the other.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// The path of the ONNX Runtime library.
    pub library: String,
    /// The options that the version will have.
    pub options: Options,
    /// Bytes of the model.
    pub model: usize,
    /// Bytes of the tokenizer, where there is one.
    pub tokenizer: Option<usize>,
    /// The files of weights: the name that the model has for each, and its bytes. No name stands for the only file.
    pub external: Vec<(Option<String>, usize)>,
    /// Weights may be asked for with `Answer::Needs`.
    pub may_ask: bool,
}

/// What the probe answers, as JSON on standard output.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// The model is fit; this is its signature.
    Signature(Box<Signature>),
    /// It needs these files of weights.
    Needs(Vec<String>),
    /// It is not fit, and why.
    Refusal(Error),
}

/// A run of a batch should not take longer: a cancelled one is waited for until its next graph node.
const LONGEST_RUN: Duration = Duration::from_millis(50);
/// What all timing together may take.
const TIMING_BUDGET: Duration = Duration::from_millis(600);
/// What a batch costs besides: the handing over, and what each brings of its own. A batch must be long enough for that to vanish.
const HANDOVER: Duration = Duration::from_micros(20);
/// The largest batch size that is no slower than this is taken: what a batch costs besides varies, and fewer of them never cost more.
const AS_GOOD: f64 = 1.02;
/// Batches of so many bytes are kept, to be run again.
const AGAIN: usize = 16 << 20;
/// Rows that are enough to tell what a row takes.
const ENOUGH: usize = 256;
/// Times that each size is run again, once all have been.
const ROUNDS: usize = 4;
/// The batch sizes that are tried.
const SIZES: [usize; 7] = [1, 16, 64, 256, 1024, 2048, 4096];
/// Used where a model could not be run.
const UNMEASURED_BATCH_SIZE: usize = 256;
/// The most rows that are gathered where each is a run: more give nothing, and wait.
const MOST_SINGLE_RUNS: f64 = 256.0;
/// Texts that are gathered: of so many, enough are of like length.
const WINDOW_OF_TEXTS: usize = 1024;
/// Operators whose output is as long as the values of their input make it.
const SHAPED_BY_DATA: [&str; 6] = ["Compress", "Loop", "NonMaxSuppression", "NonZero", "StringSplit", "Unique"];
/// What the outputs of a batch should not exceed, in bytes.
const LARGEST_ANSWERS: usize = 64 << 20;
/// How far a row's answer may move with its batch mates: ONNX's own tolerance.
const RELATIVE: f64 = 1e-3;
const ABSOLUTE: f64 = 1e-5;

/// Reads a request and what belongs to it.
pub fn read(input: &mut impl Read) -> std::io::Result<(Request, Content)> {
    let mut length = [0; 8];
    input.read_exact(&mut length)?;
    let mut part = |n: usize| {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(n).map_err(|_| std::io::Error::from(std::io::ErrorKind::OutOfMemory))?;
        input.take(n as u64).read_to_end(&mut bytes)?;
        if bytes.len() == n { Ok(bytes) } else { Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)) }
    };
    let request: Request = serde_json::from_slice(&part(usize::try_from(u64::from_le_bytes(length)).unwrap_or(0))?)?;
    let model = part(request.model)?;
    let tokenizer = request.tokenizer.map(&mut part).transpose()?;
    let mut external = Vec::new();
    for (name, n) in &request.external {
        external.push((name.clone().unwrap_or_default(), part(*n)?));
    }
    Ok((request, Content { model, tokenizer, external }))
}

/// Tries a model.
pub fn run(request: &Request, content: Content) -> Answer {
    match signature(request, content) {
        Ok(answer) => answer,
        Err(error) => Answer::Refusal(error),
    }
}

/// Gives the files of weights the names that the model has for them. None: they have to be asked for.
fn external(request: &Request, facts: &Facts, content: &mut Content) -> Result<bool> {
    let refused = |location: &str, reason: String| {
        Err(Error::ExternalFile { location: location.to_owned(), reason: reason.into() })
    };
    let unnamed = request.external.iter().any(|(name, _)| name.is_none());
    match (facts.external.as_slice(), content.external.as_mut_slice()) {
        ([], []) => return Ok(true),
        ([], _) => return refused("", "the model has all its weights in itself".to_owned()),
        (_, []) if request.may_ask => return Ok(false),
        ([first, ..], []) => return refused(first, "it was not given".to_owned()),
        ([one], [(name, _)]) if unnamed => name.clone_from(one),
        (several, _) if unnamed => {
            return refused("", format!("the model has them in {} files: {}", several.len(), several.join(", ")));
        }
        _ => {}
    }
    match facts.external.iter().find(|l| !content.external.iter().any(|(name, _)| name == *l)) {
        Some(missing) => refused(missing, "it was not given".to_owned()),
        None => Ok(true),
    }
}

fn signature(request: &Request, mut content: Content) -> Result<Answer> {
    let facts = crate::file::inspect(&content.model)?;
    if !external(request, &facts, &mut content)? {
        return Ok(Answer::Needs(facts.external));
    }
    let mut options = request.options.clone();
    // The signature is the same on every device; the processor is always there.
    let config = Config::of(request.library.clone(), Device::Cpu, 1);
    crate::session::prepare(&config)?;
    let hash = content_hash(&content.model);
    let tokenizer = content.tokenizer.as_ref().map(|t| hex(&content_hash(t)));
    let external = content
        .external
        .iter()
        .map(|(l, b)| External { location: l.clone(), hash: hex(&content_hash(b)), bytes: b.len() })
        .collect();
    let before = resident();
    // The session's own share: what was read stays with this process, and weights do not stay with a session.
    let size = content.model.len();
    let session = Arc::new(Session::load(content, &options, &config)?);
    let session_bytes = resident().saturating_sub(before).max(size);
    let declared = session.declared()?;
    let arranged = arrange(&declared, &options, session.text().is_some())?;
    let mut signature = Signature {
        inputs: arranged.inputs,
        outputs: Vec::new(),
        whole: arranged.whole.is_some(),
        fixed_rows: arranged.fixed_rows,
        batch_sensitive: false,
        verified: false,
        batch_size: arranged.fixed_rows.unwrap_or(UNMEASURED_BATCH_SIZE),
        single_micros: 0.0,
        row_micros: 0.0,
        sweep: Vec::new(),
        session_bytes,
        tokenizer,
        external,
        sample: None,
        metadata: facts.metadata,
    };
    for (key, value) in &declared.metadata {
        signature.metadata.entry(key.clone()).or_insert_with(|| value.clone());
    }
    take_features(&mut options, &mut signature);
    options.check(&signature)?;
    let mut reason = arranged.whole;
    let version = |signature: &Signature| {
        Arc::new(Version {
            model: String::new(),
            number: 0,
            hash,
            signature: signature.clone(),
            options: options.clone(),
        })
    };
    let mut found = Trial::find(&session, &version(&signature));
    let fit = |trial: &Trial<'_>| {
        let outputs = trial.outputs(&declared)?;
        let mut with = signature.clone();
        with.outputs = outputs;
        trial.has_rows(&version(&with))
    };
    if let Ok(trial) = &found
        && let Err(error) = fit(trial)
    {
        if options.batch != Batching::Auto || signature.takes_text() {
            return Err(error);
        }
        // It ran, and what it gave is not one value a row: a row is a whole run.
        reason = Some(reason_of(&error));
        make_whole(&mut signature, &declared, &options);
        options.check(&signature)?;
        found = Trial::find(&session, &version(&signature));
    }
    if let Some(reason) = reason.filter(|_| options.batch == Batching::Auto) {
        signature.metadata.insert("no_batch".to_owned(), reason.into());
    }
    match found {
        Ok(trial) => {
            signature.verified = true;
            signature.outputs = trial.outputs(&declared)?;
            options.check_outputs(&signature)?;
            pooled(&mut signature, &options);
            let version = version(&signature);
            signature.batch_sensitive = trial.is_sensitive(&version)?;
            trial.time(&mut signature);
            signature.sample = trial.sample(&version);
        }
        // Values made up here can be refused by a model that is right about real ones.
        Err(error @ Error::Run { .. }) => {
            signature.outputs = declared_outputs(&declared, &signature);
            options.check_outputs(&signature)?;
            pooled(&mut signature, &options);
            signature.metadata.insert("unverified".to_owned(), reason_of(&error).into());
        }
        Err(error) => return Err(error),
    }
    Ok(Answer::Signature(Box::new(signature)))
}

/// Takes the names of features that the file holds, where the options name none.
fn take_features(options: &mut Options, signature: &mut Signature) {
    let slots = signature.slots(1);
    let ([input], None, false) = (slots.as_slice(), &options.features, signature.takes_text()) else { return };
    let [Some(width)] = input.shape.as_slice() else { return };
    if let Some(names) = crate::file::feature_names(&signature.metadata, *width).filter(|_| *width > 1) {
        signature.metadata.insert("features".to_owned(), names.clone().into());
        options.features = Some(names);
    }
}

/// Notes the vectors that pooling makes of the states of tokens.
fn pooled(signature: &mut Signature, options: &Options) {
    if options.pooling == Pooling::None {
        return;
    }
    for output in signature.outputs.iter_mut().filter(|o| o.is_pooled()) {
        if let OutputRow::Open { shape, .. } = &output.row {
            let width = shape.last().copied().flatten().unwrap_or(1);
            output.row = OutputRow::Tensor { element: ElementType::Float32, shape: vec![width] };
        }
    }
}

fn reason_of(error: &Error) -> String {
    match error {
        Error::Run { reason } | Error::Unsupported { reason, .. } => reason.clone(),
        other => other.to_string(),
    }
}

/// The inputs, and how rows go into them.
struct Arranged {
    inputs: Vec<Input>,
    fixed_rows: Option<usize>,
    /// Why a row is a whole run, where it is.
    whole: Option<String>,
}

/// Whether the name of an open dimension says that it is the batch.
fn names_batch(symbol: &str) -> bool {
    let symbol = symbol.to_lowercase();
    symbol.contains("batch") || ["n", "b", "bs", "none"].contains(&symbol.as_str())
}

/// Finds out which dimension of each input is the batch.
fn arrange(declared: &Declared, options: &Options, text: bool) -> Result<Arranged> {
    let source = |input: &DeclaredInput| {
        if options.constants.contains_key(&input.name) {
            return Source::Constant;
        }
        Source::of_tokens(&input.name).filter(|_| text && input.dims.len() == 2).unwrap_or_default()
    };
    let sources: Vec<Source> = declared.inputs.iter().map(source).collect();
    if text && !sources.contains(&Source::TokenIds) {
        let names: Vec<&str> = declared.inputs.iter().map(|i| i.name.as_str()).collect();
        return Err(Error::Unsupported {
            what: "a tokenizer for a model that takes no tokens".to_owned(),
            reason: format!("it has no input input_ids; its inputs are {}", names.join(", ")),
        });
    }
    let rows: Vec<&DeclaredInput> =
        declared.inputs.iter().zip(&sources).filter(|(_, s)| **s != Source::Constant).map(|(i, _)| i).collect();
    let input = |i: usize, axis: Option<usize>| {
        let d = &declared.inputs[i];
        let mut shape: Vec<Option<usize>> = d.dims.iter().map(|d| usize::try_from(*d).ok()).collect();
        if let Some(axis) = axis {
            shape.remove(axis);
        }
        told(options, &d.name, &mut shape);
        // The names of columns say how wide an open input is.
        if let (Some(features), [None], 1, Source::Row, false) =
            (&options.features, shape.as_slice(), rows.len(), sources[i], text)
        {
            shape = vec![Some(features.len())];
        }
        Input { name: d.name.clone(), element: d.element, shape, declared: d.dims.clone(), axis, source: sources[i] }
    };
    let whole = |reason: &str| {
        Ok(Arranged {
            inputs: (0..declared.inputs.len()).map(|i| input(i, None)).collect(),
            fixed_rows: None,
            whole: Some(reason.to_owned()),
        })
    };
    let no_batch = |reason: String| match options.batch {
        Batching::Auto if !text => whole(&reason),
        _ => Err(Error::Unsupported { what: "a model without a batch axis".to_owned(), reason }),
    };
    if options.batch == Batching::None {
        if text {
            return Err(Error::Option {
                key: "batch".to_owned(),
                reason: "The value \"none\" is for arrays, and a tokenizer makes a batch of texts".to_owned(),
            });
        }
        return whole("the option batch");
    }
    if rows.is_empty() {
        return no_batch("no input comes from a row".to_owned());
    }
    // The name of the batch: one that says so, or else what the first open first dimension is called.
    let symbols = || rows.iter().flat_map(|i| &i.symbols);
    let open = |i: &&DeclaredInput| i.dims.first() == Some(&-1);
    let batch = symbols()
        .find(|s| names_batch(s))
        .or_else(|| rows.iter().find(|i| open(i)).and_then(|i| i.symbols.first()))
        .cloned()
        // Some exporters call every open dimension "?".
        .filter(|s| s.chars().any(char::is_alphanumeric));
    let axis_of = |i: &DeclaredInput| {
        let named = batch.as_ref().and_then(|b| i.symbols.iter().position(|s| s == b));
        named.or((i.dims.first() == Some(&-1)).then_some(0))
    };
    let mut axes = Vec::new();
    if rows.iter().any(|i| axis_of(i).is_some()) {
        for (d, source) in declared.inputs.iter().zip(&sources) {
            let axis = axis_of(d);
            if axis.is_none() && *source != Source::Constant {
                return no_batch(format!(
                    "input \"{}\" of shape {:?} has no open dimension for a batch",
                    d.name, d.dims
                ));
            }
            axes.push(axis);
        }
        let inputs = axes.into_iter().enumerate().map(|(i, axis)| input(i, axis)).collect();
        return Ok(Arranged { inputs, fixed_rows: None, whole: None });
    }
    let first = rows[0].dims.first().copied().unwrap_or(0);
    match rows.iter().find(|i| i.dims.len() < 2 || i.dims[0] != first || first < 1) {
        Some(other) => no_batch(format!("input \"{}\" of shape {:?} has no batch", other.name, other.dims)),
        None => {
            let axis = |s: &Source| (*s != Source::Constant).then_some(0);
            let inputs = sources.iter().enumerate().map(|(i, s)| input(i, axis(s))).collect();
            Ok(Arranged { inputs, fixed_rows: usize::try_from(first).ok(), whole: None })
        }
    }
}

/// Fills the open dimensions of a row that the option `shapes` tells; one that does not fit is found when the options
/// are checked.
fn told(options: &Options, name: &str, shape: &mut [Option<usize>]) {
    if let Some(told) = options.shapes.get(name).filter(|told| told.len() == shape.len()) {
        shape.iter_mut().zip(told).filter(|(d, _)| d.is_none()).for_each(|(d, told)| *d = *told);
    }
}

/// Turns a signature into one of whole runs.
fn make_whole(signature: &mut Signature, declared: &Declared, options: &Options) {
    signature.whole = true;
    signature.fixed_rows = None;
    signature.batch_size = UNMEASURED_BATCH_SIZE;
    for (input, d) in signature.inputs.iter_mut().zip(&declared.inputs) {
        input.axis = None;
        input.shape = d.dims.iter().map(|d| usize::try_from(*d).ok()).collect();
        told(options, &d.name, &mut input.shape);
    }
}

/// Outputs as declared, for a model that refused made-up rows.
fn declared_outputs(declared: &Declared, signature: &Signature) -> Vec<Output> {
    let axis = if signature.whole { None } else { Some(0) };
    let output = |(name, kind): &(String, DeclaredOutput)| {
        let (row, dims) = match kind {
            DeclaredOutput::Maps(key) if !signature.whole => (OutputRow::Map { key: *key }, vec![-1]),
            DeclaredOutput::Maps(key) => (OutputRow::Nested { of: format!("sequence(map({key}, float32))") }, vec![]),
            DeclaredOutput::Nested(of) => (OutputRow::Nested { of: of.clone() }, vec![]),
            DeclaredOutput::Tensor(element, dims) => {
                let own = if signature.whole { dims.as_slice() } else { dims.get(1..).unwrap_or_default() };
                let shape: Vec<Option<usize>> = own.iter().map(|d| usize::try_from(*d).ok()).collect();
                (fixed_or_open(*element, shape), dims.clone())
            }
        };
        let tokens =
            signature.takes_text() && matches!(&row, OutputRow::Open { shape, .. } if shape.first() == Some(&None));
        let axis = if matches!(row, OutputRow::Nested { .. }) { None } else { axis };
        Output { name: name.clone(), row, declared: dims, axis, tokens }
    };
    declared.outputs.iter().map(output).collect()
}

fn fixed_or_open(element: ElementType, shape: Vec<Option<usize>>) -> OutputRow {
    match shape.iter().copied().collect::<Option<Vec<usize>>>() {
        Some(shape) => OutputRow::Tensor { element, shape },
        None => OutputRow::Open { element, shape },
    }
}

/// What one output of a run looked like.
fn dims_of(got: &Got) -> Vec<usize> {
    match got {
        Got::Tensor { dims, .. } => dims.clone(),
        Got::Maps(maps) => vec![maps.ends.len()],
        Got::Nested(json) => json.as_array().map(|items| vec![items.len()]).unwrap_or_default(),
    }
}

/// A way to make up rows that the model takes, and what it answered.
struct Trial<'a> {
    session: &'a Arc<Session>,
    work: Work,
    /// Which made-up values.
    flavour: usize,
    /// The length taken for open dimensions.
    open: usize,
    /// The dimensions of each output for 1, 2 and 3 rows; for the one fixed batch where there is one.
    answers: Vec<(usize, Vec<Vec<usize>>)>,
    /// The dimensions for one row with open dimensions of another length, and that length.
    other: Option<Vec<Vec<usize>>>,
}

/// Made-up texts, of different length.
const WORDS: [&str; 3] = ["good", "it was not what we had hoped for after all these years", "a second one"];

impl<'a> Trial<'a> {
    /// Tries made-up values, and lengths for open dimensions, until the model takes some.
    fn find(session: &'a Arc<Session>, version: &Arc<Version>) -> Result<Self> {
        let signature = &version.signature;
        let has_open = signature.slots(1).iter().any(|i| i.width().is_none());
        let lengths: Vec<usize> = if has_open { (1..=32).rev().collect() } else { vec![1] };
        let work = Work::new(Arc::clone(session), Arc::clone(version), Arc::new([]))?;
        let mut last = Error::Run { reason: String::new() };
        for flavour in 0..3 {
            for &open in &lengths {
                let mut trial = Self { session, work: work.clone(), flavour, open, answers: Vec::new(), other: None };
                match trial.observe() {
                    Ok(()) => {
                        let shorter = Self {
                            open: open.saturating_sub(1),
                            answers: Vec::new(),
                            other: None,
                            work: trial.work.clone(),
                            ..trial
                        };
                        if has_open && open > 1 {
                            trial.other = shorter.dims(signature.fixed_rows.unwrap_or(1), 0).ok();
                        }
                        if signature.takes_text() {
                            trial.other = trial.dims(signature.fixed_rows.unwrap_or(1), 1).ok();
                        }
                        return Ok(trial);
                    }
                    Err(error @ Error::Run { .. }) => last = error,
                    Err(error) => return Err(error),
                }
            }
        }
        Err(last)
    }

    fn signature(&self) -> &Signature {
        &self.work.version.signature
    }

    /// The dimensions of the outputs of a run.
    fn dims(&self, rows: usize, from: usize) -> Result<Vec<Vec<usize>>> {
        Ok(self.work.raw(&self.rows(rows, from, None), &Stop::new()?)?.iter().map(dims_of).collect())
    }

    fn observe(&mut self) -> Result<()> {
        let sizes = match self.signature().fixed_rows {
            Some(n) => vec![n],
            None if self.signature().whole => vec![1],
            None => vec![1, 2, 3],
        };
        for rows in sizes {
            self.answers.push((rows, self.dims(rows, 0)?));
        }
        Ok(())
    }

    /// Makes up rows, from one on; a row is the same whatever batch it is in. `fill`: one value everywhere.
    fn rows(&self, rows: usize, from: usize, fill: Option<u8>) -> Batch {
        let mut batch = Batch { rows, ..Batch::default() };
        for input in self.signature().slots(1) {
            let shape: Vec<usize> = input.shape.iter().map(|d| d.unwrap_or(self.open)).collect();
            let width: usize = shape.iter().product();
            let at = from * width;
            let n = rows * width;
            // A small number that differs by row and by place.
            let seed = |i: usize| match (fill, self.flavour) {
                (Some(fill), _) => usize::from(fill),
                (None, 0) => ((at + i) / width.max(1) * 7 + (at + i) % width.max(1) * 3) % 10,
                (None, flavour) => flavour - 1,
            };
            let whole = |i: usize| match (fill, self.flavour) {
                (Some(fill), _) => usize::from(fill),
                (None, 0) => ((at + i) / width.max(1)) % 2,
                (None, flavour) => flavour - 1,
            };
            macro_rules! make {
                ($kind:ident, $t:ty) => {
                    Column::$kind((0..n).map(|i| whole(i) as $t).collect())
                };
            }
            let column = match input.element {
                ElementType::Float32 => Column::Float32((0..n).map(|i| seed(i) as f32 / 4.0).collect()),
                ElementType::Float64 => Column::Float64((0..n).map(|i| seed(i) as f64 / 4.0).collect()),
                ElementType::Float16 => {
                    Column::Float16((0..n).map(|i| half::f16::from_f32(seed(i) as f32 / 4.0)).collect())
                }
                ElementType::Bfloat16 => {
                    Column::Bfloat16((0..n).map(|i| half::bf16::from_f32(seed(i) as f32 / 4.0)).collect())
                }
                ElementType::Int8 => make!(Int8, i8),
                ElementType::Int16 => make!(Int16, i16),
                ElementType::Int32 => make!(Int32, i32),
                ElementType::Int64 => make!(Int64, i64),
                ElementType::Uint8 => make!(Uint8, u8),
                ElementType::Uint16 => make!(Uint16, u16),
                ElementType::Uint32 => make!(Uint32, u32),
                ElementType::Uint64 => make!(Uint64, u64),
                ElementType::Bool => Column::Bool((0..n).map(|i| whole(i) == 1).collect()),
                ElementType::String => {
                    let mut texts = Strings::default();
                    let words = if self.signature().takes_text() { WORDS } else { ["a", "b", ""] };
                    (0..n).for_each(|i| texts.push(words[(at + i + self.flavour) % 3]));
                    Column::String(texts)
                }
            };
            let shapes = if input.width().is_some() {
                Shapes::Same(shape)
            } else {
                let mut each = Each { rank: shape.len(), ..Each::default() };
                (0..rows).for_each(|_| each.push(&shape));
                Shapes::Each(each)
            };
            batch.columns.push(column);
            batch.shapes.push(shapes);
        }
        batch
    }

    /// The outputs as seen.
    fn outputs(&self, declared: &Declared) -> Result<Vec<Output>> {
        declared.outputs.iter().enumerate().map(|(i, (name, kind))| self.output(i, name, kind)).collect()
    }

    fn output(&self, i: usize, name: &str, kind: &DeclaredOutput) -> Result<Output> {
        let signature = self.signature();
        let seen: Vec<(usize, &[usize])> = self.answers.iter().map(|(n, all)| (*n, all[i].as_slice())).collect();
        let (first_rows, first) = seen[0];
        let other = self.other.as_ref().map(|all| all[i].as_slice());
        let axis = if signature.whole {
            None
        } else {
            let in_step = |axis: &usize| {
                seen.iter().all(|(n, dims)| {
                    let same = |(d, (a, b)): (usize, (&usize, &usize))| d == *axis || a == b || signature.takes_text();
                    dims.len() == first.len() && dims[*axis] == *n && dims.iter().zip(first).enumerate().all(same)
                })
            };
            let axis = (0..first.len()).find(in_step);
            let constant = seen.iter().all(|(_, dims)| *dims == first) && (first_rows == 1 || first.is_empty());
            if axis.is_none() && !constant {
                let gave: Vec<String> = seen.iter().map(|(n, s)| format!("{n} rows gave {s:?}")).collect();
                return Err(Error::Unsupported {
                    what: format!("output \"{name}\", which has no dimension of rows"),
                    reason: format!("output \"{name}\" has no dimension of rows: {}", gave.join(", ")),
                });
            }
            axis
        };
        let mut tokens = false;
        let (row, dims) = match kind {
            DeclaredOutput::Maps(key) if !signature.whole => (OutputRow::Map { key: *key }, vec![-1]),
            DeclaredOutput::Maps(key) => (OutputRow::Nested { of: format!("sequence(map({key}, float32))") }, vec![]),
            DeclaredOutput::Nested(of) => (OutputRow::Nested { of: of.clone() }, vec![]),
            DeclaredOutput::Tensor(element, dims) => {
                let mut shape: Vec<Option<usize>> = first.iter().copied().map(Some).collect();
                // What follows the length of an open input, or of the text, differs by row.
                if let Some(other) = other.filter(|o| o.len() == shape.len()) {
                    shape.iter_mut().zip(other).filter(|(a, b)| **a != Some(**b)).for_each(|(a, _)| *a = None);
                }
                // As long as the data has it: only what the file tells and the trial confirms is the same for all rows.
                if signature.has_operator(&SHAPED_BY_DATA) && dims.len() == shape.len() {
                    let told = |a: &Option<usize>, d: i64| usize::try_from(d).is_ok_and(|d| *a == Some(d));
                    shape.iter_mut().zip(dims).filter(|(a, d)| !told(a, **d)).for_each(|(a, _)| *a = None);
                }
                if signature.whole {
                    let told = |d: usize| dims.len() == first.len() && dims[d] == first[d] as i64;
                    shape.iter_mut().enumerate().filter(|(d, _)| !told(*d)).for_each(|(_, a)| *a = None);
                }
                if let Some(axis) = axis {
                    shape.remove(axis);
                }
                // As many tokens as the model fixes: those of a row are as many as its text has.
                if axis == Some(0) && shape.len() == 2 && signature.takes_text() && shape[0] == signature.fixed_tokens()
                {
                    shape[0] = None;
                }
                tokens = signature.takes_text() && axis == Some(0) && shape.first() == Some(&None);
                // A single value is a value, whichever way it is wrapped.
                let single = !signature.whole && shape.iter().all(|d| *d == Some(1));
                (fixed_or_open(*element, if single { vec![] } else { shape }), dims.clone())
            }
        };
        Ok(Output { name: name.to_owned(), row, declared: dims, axis, tokens })
    }

    /// Whether the first row's answer moves with its batch mates.
    fn is_sensitive(&self, version: &Arc<Version>) -> Result<bool> {
        if self.answers.len() < 2 {
            return Ok(false);
        }
        let wanted = vec![true; version.signature.outputs.len()].into();
        let work = Work::new(Arc::clone(self.session), Arc::clone(version), wanted)?;
        let stop = Stop::new()?;
        let (alone, together) = (work.run(&self.rows(1, 0, None), &stop)?, work.run(&self.rows(3, 0, None), &stop)?);
        Ok(alone.values.iter().zip(&together.values).any(|(a, b)| differ(a, &b.pick(&[0]))))
    }

    /// Whether a fixed batch is one of rows: where they change places, their answers must do so too.
    fn has_rows(&self, version: &Arc<Version>) -> Result<()> {
        let Some(n) = version.signature.fixed_rows.filter(|n| *n > 1) else { return Ok(()) };
        let wanted = vec![true; version.signature.outputs.len()].into();
        let work = Work::new(Arc::clone(self.session), Arc::clone(version), wanted)?;
        let stop = Stop::new()?;
        let refused = || Error::Unsupported {
            what: format!("a batch of {n}"),
            reason: format!("the first dimension of its inputs is {n}, and that is no batch of rows"),
        };
        let run = |from| work.run(&self.rows(n, from, None), &stop).map_err(|_| refused());
        let (one, next) = (run(0)?, run(1)?);
        let moved = |values: &Values, from: usize| values.pick(&(from..from + n - 1).collect::<Vec<_>>());
        if one.values.iter().zip(&next.values).any(|(a, b)| differ(&moved(a, 1), &moved(b, 0))) {
            return Err(refused());
        }
        Ok(())
    }

    /// A value that fills a row that the model takes.
    fn sample(&self, version: &Arc<Version>) -> Option<Sample> {
        let work = Work::new(
            Arc::clone(self.session),
            Arc::clone(version),
            vec![true; version.signature.outputs.len()].into(),
        )
        .ok()?;
        let stop = Stop::new().ok()?;
        let fill = [0, 1].into_iter().find(|fill| work.run(&self.rows(1, 0, Some(*fill)), &stop).is_ok())?;
        Some(Sample { fill, length: self.open })
    }

    /// Measures growing batches and notes the best of them.
    fn time(&self, signature: &mut Signature) {
        let started = Instant::now();
        let Ok(stop) = Stop::new() else { return };
        let mut seen: Vec<(usize, f64)> = Vec::new();
        let alone =
            signature.whole || (signature.batch_sensitive && self.work.version.options.batch != Batching::Force);
        let sizes: Vec<usize> = match signature.fixed_rows {
            Some(n) => vec![n],
            None if alone => vec![1],
            None if signature.takes_text() => vec![1, 16],
            None => SIZES.to_vec(),
        };
        let most = self.rows_that_fit(signature);
        // Some are particular about their values.
        let mut some = self.rows(1, 0, None);
        some.columns.iter_mut().for_each(scatter);
        let scatters = signature.fixed_rows.is_none() && self.work.raw(&some, &stop).is_ok();
        let mut batches = Vec::new();
        for rows in sizes.into_iter().filter(|n| *n <= most || signature.fixed_rows.is_some()) {
            let mut batch = self.rows(rows, 0, None);
            if scatters {
                batch.columns.iter_mut().for_each(scatter);
            }
            // The first run of a size makes its memory, and does not count where there is time for another.
            let mut fastest = Duration::MAX;
            for _ in 0..2 {
                let run = Instant::now();
                if self.work.raw(&batch, &stop).is_err() {
                    // Too many for the memory that there is, it may be: what was found is good.
                    fastest = Duration::MAX;
                    break;
                }
                fastest = fastest.min(run.elapsed());
                if started.elapsed() > TIMING_BUDGET || fastest > LONGEST_RUN {
                    break;
                }
            }
            if fastest == Duration::MAX {
                break;
            }
            // Past the first, a size must be short enough.
            if seen.is_empty() || fastest <= LONGEST_RUN {
                seen.push((rows, fastest.as_secs_f64() * 1e6));
                // One that takes long to run does not come out wrong for a moment of something else.
                batches.push((batch.bytes() <= AGAIN).then_some(batch));
            }
            if fastest > LONGEST_RUN || started.elapsed() > TIMING_BUDGET {
                break;
            }
        }
        // The sizes in turns: what else the machine does meanwhile is no size's fault.
        for _ in 0..ROUNDS {
            for ((_, micros), batch) in seen.iter_mut().zip(&batches) {
                let Some(batch) = batch else { continue };
                let run = Instant::now();
                if started.elapsed() < TIMING_BUDGET && self.work.raw(batch, &stop).is_ok() {
                    *micros = micros.min(run.elapsed().as_secs_f64() * 1e6);
                }
            }
        }
        let Some((rows, each)) = best_of(&seen) else { return };
        signature.single_micros = seen[0].1;
        signature.row_micros = each;
        signature.sweep = seen;
        let fit = LONGEST_RUN.as_secs_f64() * 1e6 / each.max(0.001);
        signature.batch_size = if let Some(n) = signature.fixed_rows {
            n
        } else if signature.takes_text() {
            WINDOW_OF_TEXTS.min(most)
        } else if alone {
            (fit.clamp(1.0, MOST_SINGLE_RUNS) as usize).min(most)
        } else {
            // Gathering rows has a cost of its own that a few rows cannot carry.
            rows.max((fit / 2.0).min(ENOUGH as f64) as usize).clamp(1, most)
        };
    }

    /// Rows whose outputs stay within what a batch may hold.
    fn rows_that_fit(&self, signature: &Signature) -> usize {
        let Some((n, answers)) = self.answers.first() else { return usize::MAX };
        let tokens = self.session.text().map_or(1, |text| text.max_length);
        let bytes: usize = signature
            .outputs
            .iter()
            .zip(answers)
            .map(|(output, dims)| {
                let size = output.element().map_or(8, ElementType::size);
                match (&output.row, output.tokens) {
                    // One vector of the states of tokens.
                    (OutputRow::Tensor { shape, .. }, true) => shape.iter().product::<usize>() * size,
                    (_, true) => dims.iter().skip(2).product::<usize>().saturating_mul(size * tokens),
                    (_, false) => dims.iter().product::<usize>().saturating_mul(size) / n.max(&1),
                }
            })
            .sum();
        (LARGEST_ANSWERS / bytes.max(1)).max(1)
    }
}

/// The batch size that takes least for a row, and what its row takes in the model, in microseconds. `seen`: sizes, and what runs of them
/// took.
fn best_of(seen: &[(usize, f64)]) -> Option<(usize, f64)> {
    let cost = |(rows, micros): (usize, f64)| (micros + HANDOVER.as_secs_f64() * 1e6) / rows as f64;
    // A processor that sees the same few rows again learns every branch of their trees: they seem to take half of what they do.
    let enough = &seen[seen.iter().position(|(rows, _)| *rows >= ENOUGH).unwrap_or(0)..];
    let least = enough.iter().map(|s| cost(*s)).reduce(f64::min)?;
    let best = enough.iter().rfind(|s| cost(**s) <= least * AS_GOOD)?;
    Some((best.0, best.1 / best.0 as f64))
}

/// Gives floats values of many sizes, none like its neighbours: trees walk every way then, and no branch is foreseen.
fn scatter(column: &mut Column) {
    let value = |i: usize| {
        // Knuth's multiplicative hash.
        let hash = (i as u32).wrapping_mul(2_654_435_761);
        let scale = [0.01, 0.1, 1.0, 10.0, 100.0, 1000.0][(hash >> 7) as usize % 6];
        (f64::from(hash >> 12) / f64::from(1_u32 << 20) - 0.25) * scale
    };
    match column {
        Column::Float32(v) => v.iter_mut().enumerate().for_each(|(i, x)| *x = value(i) as f32),
        Column::Float64(v) => v.iter_mut().enumerate().for_each(|(i, x)| *x = value(i)),
        _ => {}
    }
}

/// Whether two values of one row are further apart than another order of additions moves them.
fn differ(a: &Values, b: &Values) -> bool {
    let apart =
        |x: f64, y: f64| !(x == y || (x.is_nan() && y.is_nan()) || (x - y).abs() <= ABSOLUTE + RELATIVE * y.abs());
    let columns = |a: &Column, b: &Column| {
        a.len() != b.len()
            || (0..a.len()).any(|i| match (a.scalar(i), b.scalar(i)) {
                (Some(x), Some(y)) => match (x.number(), y.number()) {
                    (Some(x), Some(y)) => apart(x, y),
                    _ => x != y,
                },
                _ => true,
            })
    };
    match (a, b) {
        (Values::Tensor { data: a, .. }, Values::Tensor { data: b, .. }) => columns(a, b),
        (Values::Open(a), Values::Open(b)) => a.dims != b.dims || columns(&a.data, &b.data),
        (Values::Maps(a), Values::Maps(b)) => {
            a.keys != b.keys || a.values.iter().zip(&b.values).any(|(x, y)| apart((*x).into(), (*y).into()))
        }
        (a, b) => a != b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{model, probe, signature};

    #[test]
    fn the_batch_axis_is_the_one_that_was_seen() {
        // LightGBM's converter declares [1] for the label, and returns [N].
        let s = signature(&model("tests/reference/models/credit_lgbm.onnx"));
        assert_eq!(s.outputs[0].declared, [1]);
        assert_eq!(s.outputs[0].row, OutputRow::Tensor { element: ElementType::Int64, shape: vec![] });
        assert_eq!(s.outputs[1].row, OutputRow::Tensor { element: ElementType::Float32, shape: vec![2] });
        assert!(s.verified && !s.batch_sensitive && s.batch_size >= 64 && s.single_micros > 0.0);
    }

    #[test]
    fn mixed_inputs_keep_their_names_and_types() {
        let s = signature(&model("models/late.onnx"));
        let strings: Vec<&str> =
            s.inputs.iter().filter(|i| i.element == ElementType::String).map(|i| i.name.as_str()).collect();
        assert_eq!(strings, ["carrier", "origin", "dest"]);
        assert!(s.inputs.iter().all(|i| i.width() == Some(1)));
    }

    #[test]
    fn bytes_that_are_no_model_are_refused() {
        let good = model("models/credit.onnx");
        let mut flipped = good.clone();
        flipped.iter_mut().skip(10).step_by(97).for_each(|b| *b ^= 0x55);
        for bytes in [&b""[..], b"not a model", &good[..good.len() / 2], &flipped] {
            assert!(matches!(probe(bytes), Answer::Refusal(_)));
        }
    }

    #[test]
    fn a_request_and_an_answer_survive_their_way_as_json() {
        let answer = probe(&model("models/credit_zipmap.onnx"));
        let json = serde_json::to_string(&answer).unwrap();
        let Answer::Signature(back) = serde_json::from_str(&json).unwrap() else { panic!("{json}") };
        assert_eq!(back.outputs[1].row, OutputRow::Map { key: ElementType::Int64 });
        let refusal = Answer::Refusal(Error::ExternalData { tensor: "w".to_owned() });
        assert!(serde_json::from_str::<Answer>(&serde_json::to_string(&refusal).unwrap()).is_ok());
    }

    #[test]
    fn the_largest_batch_size_of_those_that_are_as_good_is_taken() {
        // 20 us a batch are charged: 1,024 rows at 1 us are within 2 % of 4,096, and 256 are not.
        let flat = [(1, 3.0), (16, 16.0), (256, 256.0), (1024, 1024.0), (4096, 4096.0)];
        assert_eq!(best_of(&flat).map(|(rows, _)| rows), Some(4096));
        let worse_when_large = [(1, 3.0), (256, 256.0), (1024, 1024.0), (4096, 8192.0)];
        assert_eq!(best_of(&worse_when_large).map(|(rows, _)| rows), Some(1024));
        // Few rows that were run again and again seem to be fast.
        let learnt = [(16, 4.0), (256, 512.0), (1024, 2000.0), (4096, 7900.0)];
        assert_eq!(best_of(&learnt), Some((4096, 7900.0 / 4096.0)));
        // Where no more were short enough, what there is counts.
        assert_eq!(best_of(&[(1, 9000.0), (4, 30000.0)]), Some((4, 7500.0)));
        assert_eq!(best_of(&[]), None);
    }
}
