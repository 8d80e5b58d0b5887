//! Validates a model by running it: finds its signature, memory use, speed and batch dependence.
//!
//! This runs in the validation process, which may crash, hang or exceed its memory limit without harm to the server.
//! Batches of 1, 2 and 3 rows show the batch axis of each output. Operators and batches of unequal rows show whether
//! the version is batch-dependent. Batches of growing size show the best batch size. If there is no batch axis, a row
//! is a whole run.

mod axes;
mod comparison;
mod dependence;
mod made_rows;
mod observer;
mod timing;
mod trial;

use std::cell::{Cell, OnceCell};
use std::io::Read;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::device::Device;
use crate::error::{Error, Result};
use crate::hash::{content_hash, hex};
use crate::memory::resident;
use crate::onnx::content::Content;
use crate::onnx::model_file::Facts;
use crate::options::{Batching, Options, Pooling};
use crate::ort::declared::{Declared, DeclaredInput};
use crate::ort::environment::Config;
use crate::ort::session::Session;
use crate::signature::{External, Output, OutputRow, Signature};
use crate::tensor::{ElementType, element_count};
use crate::validation::axes::{arrange, declared_outputs, make_whole, names_batch};
use crate::validation::dependence::Operators;
use crate::validation::observer::{LARGEST_OBSERVED, Observer};
use crate::validation::timing::UNMEASURED_BATCH_SIZE;
use crate::validation::trial::Trial;
use crate::version::Version;

/// A request to the validation process, as JSON after its length (8 bytes, little-endian) on standard input. The bytes
/// of the model, the tokenizer and the weight files follow in this order.
#[derive(Debug, Serialize, Deserialize)]
pub struct ValidationRequest {
    /// The path of the ONNX Runtime library.
    pub library: String,
    /// The options of the version.
    pub options: Options,
    /// The size of the model in bytes.
    pub model: usize,
    /// The size of the tokenizer in bytes, if there is one.
    pub tokenizer: Option<usize>,
    /// The weight files: the name that the model has for each, and its size in bytes. A single file needs no name.
    pub external: Vec<(Option<String>, usize)>,
    /// Whether the result may be `ValidationResult::Needs`, which requests the weight files.
    pub may_ask: bool,
}

/// The result of the validation process, as JSON on standard output.
#[derive(Debug, Serialize, Deserialize)]
pub enum ValidationResult {
    /// The model is valid and has this signature.
    Signature(Box<Signature>),
    /// The model needs these weight files.
    Needs(Vec<String>),
    /// The model is not valid, for this reason.
    Refusal(Error),
}

/// Reads a request and the files that follow it.
pub fn read(input: &mut impl Read) -> std::io::Result<(ValidationRequest, Content)> {
    let mut length = [0; 8];
    input.read_exact(&mut length)?;
    let mut part = |n: usize| {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(n).map_err(|_| std::io::Error::from(std::io::ErrorKind::OutOfMemory))?;
        input.take(n as u64).read_to_end(&mut bytes)?;
        if bytes.len() == n { Ok(bytes) } else { Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)) }
    };
    let request: ValidationRequest =
        serde_json::from_slice(&part(usize::try_from(u64::from_le_bytes(length)).unwrap_or(0))?)?;
    let model = part(request.model)?;
    let tokenizer = request.tokenizer.map(&mut part).transpose()?;
    let mut external = Vec::new();
    for (name, n) in &request.external {
        external.push((name.clone().unwrap_or_default(), part(*n)?));
    }
    Ok((request, Content { model, tokenizer, external }))
}

/// Validates a model. An error becomes a `ValidationResult::Refusal`.
pub fn run(request: &ValidationRequest, content: Content) -> ValidationResult {
    match signature(request, content) {
        Ok(answer) => answer,
        Err(error) => ValidationResult::Refusal(error),
    }
}

/// Names the weight files as the model does and checks that all are given. Returns `false` if they have to be
/// requested.
fn external(request: &ValidationRequest, facts: &Facts, content: &mut Content) -> Result<bool> {
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

pub(crate) fn signature(request: &ValidationRequest, mut content: Content) -> Result<ValidationResult> {
    let facts = crate::onnx::model_file::inspect(&content.model)?;
    if !external(request, &facts, &mut content)? {
        return Ok(ValidationResult::Needs(facts.external));
    }
    // The signature is the same on every device, and the CPU is always available.
    let config = Config::of(request.library.clone(), Device::Cpu, 1);
    crate::ort::environment::prepare(&config)?;
    let hash = content_hash(&content.model);
    let tokenizer = content.tokenizer.as_ref().map(|t| hex(&content_hash(t)));
    let external = content
        .external
        .iter()
        .map(|(l, b)| External { location: l.clone(), hash: hex(&content_hash(b)), bytes: b.len() })
        .collect();
    let size = content.model.len();
    let operators = Operators::read(&content.model);
    let observer = operators.as_ref().filter(|o| !o.are_row_wise() && size <= LARGEST_OBSERVED).and_then(|o| {
        let (model, observed) = o.observed(&content.model)?;
        let content = Content { model, tokenizer: content.tokenizer.clone(), external: content.external.clone() };
        Some(Observer { content: Cell::new(Some(content)), session: OnceCell::new(), observed, config: config.clone() })
    });
    // Only growth from here on belongs to the session: the bytes read stay with this process, and a session does not
    // keep the weight files.
    let before = resident();
    let session = Arc::new(Session::load(content, &request.options, &config)?);
    let session_bytes = resident().saturating_sub(before).max(size);
    let declared = session.declared()?;
    let metadata = {
        let mut metadata = facts.metadata;
        for (key, value) in &declared.metadata {
            metadata.entry(key.clone()).or_insert_with(|| value.clone());
        }
        metadata
    };
    let model = Candidate { session, declared, operators, observer, hash };
    let facts = ModelFacts { session_bytes, tokenizer, external, metadata };
    let signature = model.signature(&request.options, &facts, None)?;
    // Some exporters put the sequence axis before the batch axis and name neither. So if rows depend on each other
    // along the first axis, validation is repeated with the second axis as the batch axis.
    let second = || {
        let inputs = &model.declared.inputs;
        let open = |i: &DeclaredInput| i.dims.len() > 1 && i.dims[..2] == [-1, -1];
        let named = inputs.iter().flat_map(|i| &i.symbols).any(|s| names_batch(s));
        (signature.batch_sensitive && !signature.takes_text() && !named && inputs.iter().any(open))
            .then(|| model.signature(&request.options, &facts, Some(1)).ok())
            .flatten()
            .filter(|other| other.verified && !other.batch_sensitive && !other.whole)
    };
    let signature = second().unwrap_or(signature);
    Ok(ValidationResult::Signature(Box::new(signature)))
}

/// Facts about a version that are known before its trial runs.
struct ModelFacts {
    pub(crate) session_bytes: usize,
    pub(crate) tokenizer: Option<String>,
    pub(crate) external: Vec<External>,
    pub(crate) metadata: serde_json::Map<String, serde_json::Value>,
}

/// A model under validation.
struct Candidate {
    pub(crate) session: Arc<Session>,
    pub(crate) declared: Declared,
    pub(crate) operators: Option<Operators>,
    pub(crate) observer: Option<Observer>,
    pub(crate) hash: [u8; 32],
}

impl Candidate {
    pub(crate) fn version(&self, options: &Options, signature: &Signature) -> Arc<Version> {
        Arc::new(Version {
            model: String::new(),
            number: 0,
            hash: self.hash,
            signature: signature.clone(),
            options: options.clone(),
        })
    }

    /// Runs the model and returns its signature. `second`: an axis that is the batch axis of every input in which it is
    /// open, unless a dimension is named as the batch.
    pub(crate) fn signature(&self, options: &Options, facts: &ModelFacts, second: Option<usize>) -> Result<Signature> {
        let (session, declared) = (&self.session, &self.declared);
        let mut options = options.clone();
        let arranged = arrange(declared, &options, session.text().is_some(), second)?;
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
            session_bytes: facts.session_bytes,
            tokenizer: facts.tokenizer.clone(),
            external: facts.external.clone(),
            sample: None,
            metadata: facts.metadata.clone(),
        };
        take_features(&mut options, &mut signature);
        options.check(&signature)?;
        let mut reason = arranged.whole;
        let mut found = Trial::find(session, &self.version(&options, &signature));
        if let Ok(trial) = &mut found {
            trial.try_unequal_rows();
        }
        // An open dimension may be a length instead of a batch. A model that rejects batches of a few rows may accept
        // whole tensors.
        let no_rows = match &found {
            Ok(trial) => trial.has_rows(declared).err(),
            Err(error @ Error::Run { .. }) if self.may_be_whole(&signature, &options) => Some(error.clone()),
            Err(_) => None,
        };
        if let Some(error) = no_rows {
            if options.batch != Batching::Auto || signature.takes_text() {
                return Err(error);
            }
            // Each row becomes a whole run.
            reason = Some(reason_of(&error));
            make_whole(&mut signature, declared, &options);
            options.check(&signature)?;
            found = Trial::find(session, &self.version(&options, &signature));
        }
        if let Some(reason) = reason.filter(|_| options.batch == Batching::Auto) {
            signature.metadata.insert("no_batch".to_owned(), reason.into());
        }
        match found {
            Ok(trial) => {
                signature.verified = true;
                signature.outputs = trial.outputs(declared)?;
                for Output { name, row, .. } in &signature.outputs {
                    if matches!(row, OutputRow::Tensor { shape, .. } if element_count(shape).is_none()) {
                        let reason = "A row has too many elements, dimensions or empty arrays in it.".to_owned();
                        return Err(Error::Unsupported { what: format!("output \"{name}\" of this size"), reason });
                    }
                }
                options.check_outputs(&signature)?;
                pooled(&mut signature, &options);
                let version = self.version(&options, &signature);
                let mixed = if signature.whole { None } else { self.mixing(&trial, &version)? };
                if let Some(reason) = mixed {
                    signature.batch_sensitive = true;
                    signature.metadata.insert("batch_dependent".to_owned(), reason.into());
                }
                trial.time(&mut signature);
                signature.sample = trial.sample(&version);
            }
            // A valid model may reject synthetic values, so the version is accepted without verification.
            Err(error @ Error::Run { .. }) => {
                signature.outputs = declared_outputs(declared, &signature);
                options.check_outputs(&signature)?;
                pooled(&mut signature, &options);
                signature.batch_sensitive = !signature.whole;
                signature.metadata.insert("unverified".to_owned(), reason_of(&error).into());
            }
            Err(error) => return Err(error),
        }
        Ok(signature)
    }

    /// Whether a model that accepted no synthetic batch accepts whole tensors instead.
    pub(crate) fn may_be_whole(&self, signature: &Signature, options: &Options) -> bool {
        let named = self.declared.inputs.iter().flat_map(|i| &i.symbols).any(|s| names_batch(s));
        if named || signature.whole || signature.takes_text() || options.batch != Batching::Auto {
            return false;
        }
        let mut whole = signature.clone();
        make_whole(&mut whole, &self.declared, options);
        options.check(&whole).is_ok() && Trial::find(&self.session, &self.version(options, &whole)).is_ok()
    }

    /// Returns the reason why rows of a batch influence each other, or `None` if nothing shows that they do.
    pub(crate) fn mixing(&self, trial: &Trial<'_>, version: &Arc<Version>) -> Result<Option<String>> {
        if let Some(reason) = trial.out_of_step(&self.declared) {
            return Ok(Some(reason));
        }
        let observed = match (&self.operators, &self.observer) {
            // A fixed batch size leaves no second size to compare with.
            (Some(operators), _) if version.signature.fixed_rows.is_some() => operators.certain(),
            (Some(operators), Some(observer)) => observer.mixing(operators, trial, version),
            (Some(operators), _) if !operators.are_row_wise() => operators.unobserved(),
            _ => None,
        };
        match observed {
            Some(reason) => Ok(Some(reason)),
            None => trial.compare(version),
        }
    }
}

/// Takes the feature names from the file if the options contain none.
fn take_features(options: &mut Options, signature: &mut Signature) {
    let slots = signature.slots(1);
    let ([input], None, false) = (slots.as_slice(), &options.features, signature.takes_text()) else { return };
    let [Some(width)] = input.shape.as_slice() else { return };
    if let Some(names) = crate::onnx::model_file::feature_names(&signature.metadata, *width).filter(|_| *width > 1) {
        signature.metadata.insert("features".to_owned(), names.clone().into());
        options.features = Some(names);
    }
}

/// Sets the row type of pooled outputs to the vector that pooling makes of the states of tokens.
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

pub(crate) fn reason_of(error: &Error) -> String {
    match error {
        Error::Run { reason } | Error::Unsupported { reason, .. } => reason.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Values;
    use crate::tensor::Column;
    use crate::tests::{model, probe, signature};
    use crate::validation::comparison::differ;
    use crate::validation::made_rows::{MAGNITUDES, Made};
    use crate::validation::timing::best_of;
    use crate::validation::trial::Trial;

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
    fn a_version_is_batched_only_if_nothing_shows_that_rows_influence_each_other() {
        let reason = |path: &str| {
            let s = signature(&model(path));
            s.batch_sensitive
                .then(|| s.metadata.get("batch_dependent").and_then(|r| r.as_str()).unwrap_or_default().to_owned())
        };
        // Both models reduce over the rows of the batch.
        assert!(reason("tests/models/centred.onnx").is_some_and(|r| r.contains("ReduceMean")));
        assert!(reason("tests/models/slow.onnx").is_some_and(|r| r.contains("ReduceMax")));
        for independent in
            ["models/late.onnx", "tests/models/state.onnx", "tests/models/ragged.onnx", "tests/models/fixed8.onnx"]
        {
            assert_eq!(reason(independent), None, "{independent}");
        }
    }

    #[test]
    fn a_row_is_the_same_in_every_batch_that_it_is_made_up_for() {
        let work = crate::tests::work("models/late.onnx");
        let trial = Trial::find(&work.session, &work.version).unwrap();
        let rows: Vec<Made> =
            (0..MAGNITUDES.len()).map(|number| Made::Unequal { number, simple_keys: false }).collect();
        let together = trial.made(&rows);
        for (i, row) in rows.iter().enumerate() {
            let (alone, part) = (trial.made(&[*row]), together.part(i..i + 1));
            assert_eq!(format!("{:?}", alone.columns), format!("{:?}", part.columns));
        }
    }

    #[test]
    fn rounding_of_large_numbers_is_no_difference_and_a_coarser_scale_is_one() {
        let values = |v: &[f32]| Values::Tensor { width: v.len(), data: Column::Float32(v.to_vec()) };
        assert!(!differ(&values(&[1e6, 0.25]), &values(&[1e6 + 0.5, 0.3]), 1e6));
        assert!(differ(&values(&[1.0, 0.25]), &values(&[1.0, 0.3]), 1.0));
        assert!(differ(&values(&[f32::NAN]), &values(&[0.0]), 1.0));
        assert!(!differ(&values(&[f32::NAN, f32::INFINITY]), &values(&[f32::NAN, f32::INFINITY]), 1.0));
        assert!(differ(&values(&[1.0]), &values(&[1.0, 1.0]), 1.0));
    }

    #[test]
    fn bytes_that_are_no_model_are_refused() {
        let good = model("models/credit.onnx");
        let mut flipped = good.clone();
        flipped.iter_mut().skip(10).step_by(97).for_each(|b| *b ^= 0x55);
        for bytes in [&b""[..], b"not a model", &good[..good.len() / 2], &flipped] {
            assert!(matches!(probe(bytes), ValidationResult::Refusal(_)));
        }
    }

    #[test]
    fn a_request_and_an_answer_survive_their_way_as_json() {
        let answer = probe(&model("models/credit_zipmap.onnx"));
        let json = serde_json::to_string(&answer).unwrap();
        let ValidationResult::Signature(back) = serde_json::from_str(&json).unwrap() else { panic!("{json}") };
        assert_eq!(back.outputs[1].row, OutputRow::Map { key: ElementType::Int64 });
        let refusal = ValidationResult::Refusal(Error::ExternalData { tensor: "w".to_owned() });
        assert!(serde_json::from_str::<ValidationResult>(&serde_json::to_string(&refusal).unwrap()).is_ok());
    }

    #[test]
    fn the_largest_batch_size_of_those_that_are_as_good_is_taken() {
        // Each batch is charged 20 us. So 1,024 rows at 1 us each are within 2 % of 4,096 rows, and 256 rows are not.
        let flat = [(1, 3.0), (16, 16.0), (256, 256.0), (1024, 1024.0), (4096, 4096.0)];
        assert_eq!(best_of(&flat).map(|(rows, _)| rows), Some(4096));
        let worse_when_large = [(1, 3.0), (256, 256.0), (1024, 1024.0), (4096, 8192.0)];
        assert_eq!(best_of(&worse_when_large).map(|(rows, _)| rows), Some(1024));
        // A few rows that run repeatedly appear to be fast.
        let learnt = [(16, 4.0), (256, 512.0), (1024, 2000.0), (4096, 7900.0)];
        assert_eq!(best_of(&learnt), Some((4096, 7900.0 / 4096.0)));
        // If no larger batch was short enough, the measured sizes count.
        assert_eq!(best_of(&[(1, 9000.0), (4, 30000.0)]), Some((4, 7500.0)));
        assert_eq!(best_of(&[]), None);
    }
}
