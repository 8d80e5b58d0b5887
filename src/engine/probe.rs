//! The trial of a model: what it takes, gives, needs and how fast it is, seen by running it.
//!
//! Runs in the probe program, a process of its own that may crash, hang or be killed for its memory without harm. Rows
//! of 1, 2 and 3 show where the batch axis of each output is and whether a row's answer depends on its batch mates;
//! growing batches show how many rows run best together.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::device::Device;
use crate::error::{Error, Result};
use crate::options::Options;
use crate::session::{Config, Declared, DeclaredOutput, Observed, Session};
use crate::signature::{Input, Output, OutputRow, Signature};
use crate::tensor::{Column, ElementType, Strings};

/// What the probe is asked, as JSON in its first argument; the model's bytes come on standard input.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// The path of the ONNX Runtime library.
    pub library: String,
    /// The options that the version will have.
    pub options: Options,
}

/// What the probe answers, as JSON on standard output.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// The model is fit; this is its signature.
    Signature(Box<Signature>),
    /// It is not, and why.
    Refusal(Error),
}

/// A run of a batch should not take longer: a cancelled one is waited for until its next graph node.
const LONGEST_RUN: Duration = Duration::from_millis(50);
/// What all timing together may take.
const TIMING_BUDGET: Duration = Duration::from_millis(600);
/// The batch sizes that are tried.
const SIZES: [usize; 7] = [1, 16, 64, 256, 1024, 2048, 4096];
/// Used where a model could not be run.
const UNMEASURED_BATCH_SIZE: usize = 256;
/// How far a row's answer may move with its batch mates: ONNX's own tolerance.
const RELATIVE: f64 = 1e-3;
const ABSOLUTE: f64 = 1e-5;

/// Tries a model.
pub fn run(bytes: &[u8], request: &Request) -> Answer {
    match signature(bytes, request) {
        Ok(signature) => Answer::Signature(Box::new(signature)),
        Err(error) => Answer::Refusal(error),
    }
}

fn signature(bytes: &[u8], request: &Request) -> Result<Signature> {
    let facts = crate::file::inspect(bytes)?;
    // The signature is the same on every device; the processor is always there.
    let config = Config { library: request.library.clone(), device: Device::Cpu, threads: 1, session_bytes: 0 };
    crate::session::prepare(&config)?;
    let before = resident();
    let session = Session::load(bytes, &config)?;
    let session_bytes = resident().saturating_sub(before).max(bytes.len());
    let declared = session.declared()?;
    let (inputs, fixed_rows) = inputs(&declared, &request.options)?;
    let mut signature = Signature {
        inputs,
        outputs: Vec::new(),
        fixed_rows,
        batch_sensitive: false,
        verified: false,
        batch_size: fixed_rows.unwrap_or(UNMEASURED_BATCH_SIZE),
        single_micros: 0.0,
        row_micros: 0.0,
        session_bytes,
        metadata: facts,
    };
    for (key, value) in &declared.metadata {
        signature.metadata.entry(key.clone()).or_insert_with(|| value.clone());
    }
    request.options.check(&signature)?;
    match Trial::find(&session, &signature.inputs, fixed_rows) {
        Ok(trial) => {
            signature.verified = true;
            signature.outputs = trial.outputs(&declared)?;
            signature.batch_sensitive = trial.batch_sensitive();
            trial.time(&mut signature);
        }
        // Values made up here can be refused by a model that is right about real ones.
        Err(error @ Error::Run { .. }) => {
            signature.outputs = declared_outputs(&declared, &error)?;
            signature.metadata.insert("unverified".to_owned(), reason_of(&error).into());
        }
        Err(error) => return Err(error),
    }
    Ok(signature)
}

fn reason_of(error: &Error) -> String {
    match error {
        Error::Run { reason } => reason.clone(),
        other => other.to_string(),
    }
}

/// Resident memory of this process, in bytes; 0 where the system does not tell.
fn resident() -> usize {
    std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|s| s.split_whitespace().nth(1)?.parse::<usize>().ok())
        .unwrap_or(0)
        * 4096
}

/// The inputs, and the batch that the model fixes, where it does.
fn inputs(declared: &Declared, options: &Options) -> Result<(Vec<Input>, Option<usize>)> {
    let no_axis = |name: &str, dims: &[i64]| Error::Unsupported {
        what: format!("input \"{name}\" of shape {dims:?}"),
        reason: "its first dimension is not a batch of rows".to_owned(),
    };
    let mut fixed: Option<usize> = None;
    let mut open = false;
    let mut inputs = Vec::new();
    for (name, element, dims) in &declared.inputs {
        match dims.split_first() {
            Some((-1, _)) => open = true,
            Some((n, rest)) if *n > 0 && !rest.is_empty() => {
                let n = *n as usize;
                if fixed.is_some_and(|f| f != n) {
                    return Err(no_axis(name, dims));
                }
                fixed = Some(n);
            }
            _ => return Err(no_axis(name, dims)),
        }
        if let (true, Some(_)) = (open, fixed) {
            return Err(no_axis(name, dims));
        }
        let mut shape: Vec<Option<usize>> = dims[1..].iter().map(|d| usize::try_from(*d).ok()).collect();
        if let (Some(features), [None]) = (&options.features, shape.as_slice()) {
            shape = vec![Some(features.len())];
        }
        inputs.push(Input { name: name.clone(), element: *element, shape, declared: dims.clone() });
    }
    if inputs.is_empty() {
        return Err(Error::Unsupported {
            what: "a model without inputs".to_owned(),
            reason: "there is nothing to predict from".to_owned(),
        });
    }
    Ok((inputs, fixed))
}

/// Outputs as declared, for a model that refused made-up rows.
fn declared_outputs(declared: &Declared, why: &Error) -> Result<Vec<Output>> {
    declared
        .outputs
        .iter()
        .map(|(name, kind)| {
            let (row, dims) = match kind {
                DeclaredOutput::Maps(key) => (OutputRow::Map { key: *key }, vec![-1]),
                DeclaredOutput::Tensor(element, dims) => {
                    let shape: Option<Vec<usize>> =
                        dims.iter().skip(1).map(|d| usize::try_from(*d).ok().filter(|d| *d > 0)).collect();
                    let shape = shape.ok_or_else(|| Error::Unsupported {
                        what: format!("output \"{name}\" of open shape {dims:?}"),
                        reason: format!("the model could not be tried: {}", reason_of(why)),
                    })?;
                    (OutputRow::Tensor { element: *element, shape }, dims.clone())
                }
            };
            Ok(Output { name: name.clone(), row, declared: dims })
        })
        .collect()
}

/// A way to make up rows that the model takes, and what it answered.
struct Trial<'a> {
    session: &'a Session,
    inputs: Vec<Input>,
    fixed_rows: Option<usize>,
    /// Which made-up values.
    flavour: usize,
    /// The length taken for open dimensions.
    open: usize,
    /// Answers to 1, 2 and 3 rows; to the one fixed batch where there is one.
    answers: Vec<(usize, Vec<Observed>)>,
}

impl<'a> Trial<'a> {
    /// Tries made-up values, and lengths for open dimensions, until the model takes some.
    fn find(session: &'a Session, inputs: &[Input], fixed_rows: Option<usize>) -> Result<Self> {
        let has_open = inputs.iter().any(|i| i.width().is_none());
        let lengths: Vec<usize> = if has_open { (1..=32).rev().collect() } else { vec![1] };
        let mut last = Error::Run { reason: String::new() };
        for flavour in 0..3 {
            for &open in &lengths {
                let mut trial =
                    Self { session, inputs: inputs.to_vec(), fixed_rows, flavour, open, answers: Vec::new() };
                match trial.observe() {
                    Ok(()) => return Ok(trial),
                    Err(error @ Error::Run { .. }) => last = error,
                    Err(error) => return Err(error),
                }
            }
        }
        Err(last)
    }

    fn observe(&mut self) -> Result<()> {
        let sizes = match self.fixed_rows {
            Some(n) => vec![n],
            None => vec![1, 2, 3],
        };
        for rows in sizes {
            let answer = self.session.observe(&self.rows(rows))?;
            self.answers.push((rows, answer));
        }
        Ok(())
    }

    /// Makes up rows; a row is the same whatever batch it is in.
    fn rows(&self, rows: usize) -> Vec<(String, Column, Vec<usize>)> {
        self.inputs
            .iter()
            .map(|input| {
                let mut shape = vec![rows];
                shape.extend(input.shape.iter().map(|d| d.unwrap_or(self.open)));
                let width: usize = shape[1..].iter().product();
                let n = rows * width;
                // A small number that differs by row and by place.
                let seed = |i: usize| {
                    if self.flavour == 0 {
                        (i / width.max(1) * 7 + i % width.max(1) * 3) % 10
                    } else {
                        self.flavour - 1
                    }
                };
                let whole = |i: usize| if self.flavour == 0 { (i / width.max(1)) % 2 } else { self.flavour - 1 };
                macro_rules! make {
                    ($kind:ident, $t:ty) => {
                        Column::$kind((0..n).map(|i| whole(i) as $t).collect())
                    };
                }
                let column = match input.element {
                    ElementType::Float32 => Column::Float32((0..n).map(|i| seed(i) as f32 / 4.0).collect()),
                    ElementType::Float64 => Column::Float64((0..n).map(|i| seed(i) as f64 / 4.0).collect()),
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
                        (0..n).for_each(|i| texts.push(["a", "b", ""][(whole(i) + self.flavour) % 3]));
                        Column::String(texts)
                    }
                };
                (input.name.clone(), column, shape)
            })
            .collect()
    }

    /// The outputs as seen: the batch must be their first axis.
    fn outputs(&self, declared: &Declared) -> Result<Vec<Output>> {
        declared
            .outputs
            .iter()
            .enumerate()
            .map(|(i, (name, kind))| {
                let shapes: Vec<(usize, &[i64])> =
                    self.answers.iter().map(|(n, answer)| (*n, answer[i].shape.as_slice())).collect();
                let rest = shapes[0].1.get(1..).unwrap_or_default();
                let in_step = shapes.iter().all(|(n, s)| s.first() == Some(&(*n as i64)) && &s[1..] == rest);
                if !in_step {
                    let seen: Vec<String> = shapes.iter().map(|(n, s)| format!("{n} rows gave {s:?}")).collect();
                    return Err(Error::Unsupported {
                        what: format!("output \"{name}\", whose first dimension is not the batch"),
                        reason: seen.join(", "),
                    });
                }
                let (row, dims) = match kind {
                    DeclaredOutput::Maps(key) => (OutputRow::Map { key: *key }, vec![-1]),
                    DeclaredOutput::Tensor(element, dims) => {
                        let shape: Vec<usize> = rest.iter().map(|d| *d as usize).collect();
                        // A single value is a value, whichever way it is wrapped.
                        let shape = if shape.iter().product::<usize>() == 1 { vec![] } else { shape };
                        (OutputRow::Tensor { element: *element, shape }, dims.clone())
                    }
                };
                Ok(Output { name: name.clone(), row, declared: dims })
            })
            .collect()
    }

    /// Whether the first row's answer moves with its batch mates.
    fn batch_sensitive(&self) -> bool {
        let (Some((_, alone)), Some((n, together))) = (self.answers.first(), self.answers.last()) else { return false };
        if *n == 1 || self.answers.len() < 2 {
            return false;
        }
        alone.iter().zip(together).any(|(a, b)| {
            a.numbers.iter().zip(&b.numbers).any(|(x, y)| {
                let (x, y) = (*x, *y);
                !(x == y || (x.is_nan() && y.is_nan()) || (x - y).abs() <= ABSOLUTE + RELATIVE * y.abs())
            })
        })
    }

    /// Measures growing batches and notes the best of them.
    fn time(&self, signature: &mut Signature) {
        let started = Instant::now();
        let mut best: Option<(usize, f64)> = None;
        let sizes: Vec<usize> = match signature.fixed_rows {
            Some(n) => vec![n],
            None => SIZES.to_vec(),
        };
        for rows in sizes {
            let inputs = self.rows(rows);
            let mut fastest = Duration::MAX;
            for _ in 0..4 {
                let run = Instant::now();
                if self.session.observe(&inputs).is_err() {
                    return;
                }
                fastest = fastest.min(run.elapsed());
                if started.elapsed() > TIMING_BUDGET || fastest > LONGEST_RUN {
                    break;
                }
            }
            let micros = fastest.as_secs_f64() * 1e6;
            let each = micros / rows as f64;
            if best.is_none() {
                signature.single_micros = micros;
            }
            // Past the first, a size must be short enough, and better by more than noise.
            if best.is_none_or(|(_, b)| each < b * 0.97 && fastest <= LONGEST_RUN) {
                best = Some((rows, each));
            }
            if fastest > LONGEST_RUN || started.elapsed() > TIMING_BUDGET {
                break;
            }
        }
        if let Some((rows, each)) = best {
            signature.row_micros = each;
            // Gathering rows has a cost of its own that a few rows cannot carry.
            let floor = (LONGEST_RUN.as_secs_f64() * 1e6 / 2.0 / each.max(0.001)) as usize;
            signature.batch_size = signature.fixed_rows.unwrap_or(rows.max(floor.min(256)).max(1));
        }
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
}
