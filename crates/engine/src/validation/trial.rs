//! Runs synthetic rows through a model and derives its outputs from the results.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::batch::{Batch, Values};
use crate::error::{Error, Result};
use crate::ort::declared::{Declared, DeclaredOutput};
use crate::ort::session::Session;
use crate::ort::stop::Stop;
use crate::ort::values::RawOutput;
use crate::run::RunContext;
use crate::signature::{Output, OutputRow, Sample, Signature};
use crate::tensor::element_count;
use crate::validation::axes::{fixed_or_open, names_batch};
use crate::validation::comparison::differ;
use crate::validation::made_rows::{MAGNITUDES, Made};
use crate::validation::reason_of;
use crate::version::Version;

/// Operators whose output shape depends on the values of their inputs.
const SHAPED_BY_DATA: [&str; 6] = ["Compress", "Loop", "NonMaxSuppression", "NonZero", "StringSplit", "Unique"];

/// The limit on the outputs of a batch, in bytes, when the batch size is chosen.
pub(crate) const LARGEST_ANSWERS: usize = 64 << 20;

/// The number of rows in a trial batch. `FEW_ROWS` are enough once the search for rows has taken `TRIAL_BUDGET`.
const TRIAL_ROWS: usize = 7;

const FEW_ROWS: usize = 4;

const TRIAL_BUDGET: Duration = Duration::from_millis(200);

/// The lengths tried for open dimensions, up to 32 first. Some models accept a single length, or none below the size of
/// their filter.
const LENGTHS: [usize; 44] = [
    32, 31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2,
    1, 48, 64, 96, 128, 160, 224, 256, 384, 512, 640, 1024, 4096,
];

/// The largest number of elements of a row in one input. An array of PostgreSQL holds no more.
const LARGEST_ROW: usize = (1 << 27) - 1;

/// Whether an array can have a shape in which `open` replaces every open dimension.
fn fits_in_an_array(shape: &[Option<usize>], open: usize) -> bool {
    let shape: Vec<usize> = shape.iter().map(|dim| dim.unwrap_or(open)).collect();
    element_count(&shape).is_some_and(|n| n <= LARGEST_ROW)
}

/// Returns the dimensions of one output of a run.
fn dims_of(got: &RawOutput) -> Vec<usize> {
    match got {
        RawOutput::Tensor { dims, .. } => dims.clone(),
        RawOutput::Maps(maps) => vec![maps.ends.len()],
        RawOutput::Nested(json) => json.as_array().map(|items| vec![items.len()]).unwrap_or_default(),
    }
}

/// The kind of synthetic rows that a model accepts, and the results of running them.
pub(crate) struct Trial<'a> {
    pub(crate) session: &'a Arc<Session>,
    pub(crate) work: RunContext,
    /// The kind of synthetic values, from 0 to 2.
    pub(crate) flavour: usize,
    /// The length used for open dimensions.
    pub(crate) open: usize,
    /// For each run so far, its number of rows and the dimensions of each output.
    pub(crate) answers: Vec<(usize, Vec<Vec<usize>>)>,
    /// The dimensions of the outputs for open dimensions or texts of another length. `None` if the model accepts no
    /// other.
    pub(crate) other: Option<Vec<Vec<usize>>>,
    /// Very unequal rows that the model accepts.
    pub(crate) unequal: Vec<Made>,
    /// The reason why a batch of the unequal rows failed, if it did.
    pub(crate) failed: Option<String>,
}

impl<'a> Trial<'a> {
    /// Searches for synthetic values, and lengths of open dimensions, that the model accepts.
    pub(crate) fn find(session: &'a Arc<Session>, version: &Arc<Version>) -> Result<Self> {
        let signature = &version.signature;
        let has_open = signature.slots(1).iter().any(|i| i.width().is_none());
        let lengths = if has_open { LENGTHS.as_slice() } else { &[1] };
        let fits = |open: usize| signature.slots(1).iter().all(|input| fits_in_an_array(&input.shape, open));
        let lengths: Vec<usize> = lengths.iter().copied().filter(|length| fits(*length)).collect();
        if lengths.is_empty() {
            let inputs = signature.slots(1);
            let large = inputs.iter().find(|input| !fits_in_an_array(&input.shape, 1)).map_or("", |input| &input.name);
            let reason = format!("A row of it has more than {LARGEST_ROW} elements, or too many empty arrays.");
            return Err(Error::Unsupported { what: format!("input \"{large}\" of this size"), reason });
        }
        let work = RunContext::new(Arc::clone(session), Arc::clone(version), Arc::new([]))?;
        let mut last = Error::Run { reason: String::new() };
        for flavour in 0..3 {
            for &open in &lengths {
                let of = |open| Self {
                    session,
                    work: work.clone(),
                    flavour,
                    open,
                    answers: Vec::new(),
                    other: None,
                    unequal: Vec::new(),
                    failed: None,
                };
                let mut trial = of(open);
                match trial.observe() {
                    Ok(()) => {
                        let rows = signature.fixed_rows.unwrap_or(1);
                        if has_open {
                            trial.other =
                                lengths.iter().filter(|l| **l != open).find_map(|l| of(*l).dims(rows, 0).ok());
                        }
                        if signature.takes_text() {
                            trial.other = trial.dims(rows, 1).ok();
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

    pub(crate) fn signature(&self) -> &Signature {
        &self.work.version.signature
    }

    /// Runs simple rows and returns the dimensions of the outputs.
    pub(crate) fn dims(&self, rows: usize, from: usize) -> Result<Vec<Vec<usize>>> {
        self.dims_of(&self.rows(rows, from, None))
    }

    pub(crate) fn dims_of(&self, batch: &Batch) -> Result<Vec<Vec<usize>>> {
        Ok(self.work.raw(batch, &Stop::new()?)?.iter().map(dims_of).collect())
    }

    pub(crate) fn observe(&mut self) -> Result<()> {
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

    /// Searches for very unequal rows that the model accepts, first alone and then in one batch.
    pub(crate) fn try_unequal_rows(&mut self) {
        if self.signature().whole {
            return;
        }
        let began = Instant::now();
        let fixed = self.signature().fixed_rows;
        let wanted = fixed.map_or(TRIAL_ROWS, |n| n.min(TRIAL_ROWS));
        for number in 0..MAGNITUDES.len() {
            let enough = if began.elapsed() > TRIAL_BUDGET { FEW_ROWS.min(wanted) } else { wanted };
            if self.unequal.len() >= enough {
                break;
            }
            for simple_keys in [false, true] {
                let row = Made::Unequal { number, simple_keys };
                let rows = vec![row; fixed.unwrap_or(1)];
                if let Ok(dims) = self.dims_of(&self.made(&rows)) {
                    self.answers.push((rows.len(), dims));
                    self.unequal.push(row);
                    break;
                }
            }
        }
        // A model that rejects the unequal rows has accepted the simple ones.
        for row in [Made::Simple(0), Made::Simple(1)] {
            if self.unequal.len() < wanted.max(2) {
                self.unequal.push(row);
            }
        }
        let rows = self.in_batch(&(0..self.unequal.len()).collect::<Vec<_>>());
        match self.dims_of(&self.made(&rows)) {
            Ok(dims) => self.answers.push((rows.len(), dims)),
            Err(error) => self.failed = Some(reason_of(&error)),
        }
    }

    /// Returns the unequal rows in this order, as one batch. A fixed batch size is filled up with the last row.
    pub(crate) fn in_batch(&self, order: &[usize]) -> Vec<Made> {
        let mut rows: Vec<Made> = order.iter().map(|i| self.unequal[*i]).collect();
        if let (Some(n), Some(last)) = (self.signature().fixed_rows, rows.last().copied()) {
            rows.resize(n, last);
        }
        rows
    }

    /// Returns the outputs as observed.
    pub(crate) fn outputs(&self, declared: &Declared) -> Result<Vec<Output>> {
        declared.outputs.iter().enumerate().map(|(i, (name, kind))| self.output(i, name, kind)).collect()
    }

    pub(crate) fn output(&self, i: usize, name: &str, kind: &DeclaredOutput) -> Result<Output> {
        let signature = self.signature();
        let seen = self.seen(i);
        let (_, first) = seen[0];
        let other = self.other.as_ref().map(|all| all[i].as_slice());
        let axis = self.axis(i);
        // The batch axis is the only dimension that may differ between runs, unless the data determine the length.
        let by_data = signature.has_operator(&SHAPED_BY_DATA) || (axis.is_none() && self.is_out_of_step(i));
        let mut tokens = false;
        let (row, dims) = match kind {
            DeclaredOutput::Maps(key) if axis.is_some() => (OutputRow::Map { key: *key }, vec![-1]),
            DeclaredOutput::Maps(key) => (OutputRow::Nested { of: format!("sequence(map({key}, float32))") }, vec![]),
            DeclaredOutput::Nested(of) => (OutputRow::Nested { of: of.clone() }, vec![]),
            DeclaredOutput::Tensor(element, dims) => {
                let mut shape: Vec<Option<usize>> = first.iter().copied().map(Some).collect();
                // A dimension that follows the length of an open input, or of the text, differs by row.
                let all = other.into_iter().chain(seen.iter().map(|(_, dims)| *dims));
                for dims in all.filter(|o| o.len() == first.len()) {
                    shape.iter_mut().zip(dims).filter(|(a, b)| **a != Some(**b)).for_each(|(a, _)| *a = None);
                }
                // If the data determine the length, or the model accepted only one length, a dimension is the same for
                // all rows only if the file declares it and the trial confirms it.
                let only_length = self.other.is_none() && signature.slots(1).iter().any(|i| i.width().is_none());
                if by_data || only_length || signature.whole {
                    let told = |d: usize| dims.len() == first.len() && usize::try_from(dims[d]) == Ok(first[d]);
                    shape.iter_mut().enumerate().filter(|(d, _)| !told(*d)).for_each(|(_, a)| *a = None);
                }
                if let Some(axis) = axis {
                    shape.remove(axis);
                }
                // The model fixes the number of tokens, but a row has only as many as its text.
                if axis == Some(0) && shape.len() == 2 && signature.takes_text() && shape[0] == signature.fixed_tokens()
                {
                    shape[0] = None;
                }
                tokens = signature.takes_text() && axis == Some(0) && shape.first() == Some(&None);
                // A row of one element is a single value, regardless of its dimensions.
                let single = !signature.whole && shape.iter().all(|d| *d == Some(1));
                (fixed_or_open(*element, if single { vec![] } else { shape }), dims.clone())
            }
        };
        Ok(Output { name: name.to_owned(), row, declared: dims, axis, tokens })
    }

    /// Returns the number of rows and the dimensions of an output for each run. Runs of one row are left out if the
    /// model drops the batch axis for them.
    pub(crate) fn seen(&self, i: usize) -> Vec<(usize, &[usize])> {
        let all = || self.answers.iter().map(|(n, all)| (*n, all[i].as_slice()));
        let rank = all().filter(|(n, _)| *n > 1).map(|(_, dims)| dims.len()).max();
        let kept: Vec<_> = all().filter(|(n, dims)| *n > 1 || rank.is_none_or(|rank| rank != dims.len() + 1)).collect();
        if kept.is_empty() { all().collect() } else { kept }
    }

    /// Returns the batch axis of an output: the dimension that was as long as the batch in each run. An axis that is
    /// the only difference between the runs comes first.
    pub(crate) fn axis(&self, i: usize) -> Option<usize> {
        if self.signature().whole {
            return None;
        }
        let seen = self.seen(i);
        let (_, first) = seen[0];
        let in_step = |axis: &usize| seen.iter().all(|(n, dims)| dims.len() == first.len() && dims[*axis] == *n);
        let alone = |axis: &usize| {
            seen.iter().all(|(_, dims)| dims.iter().zip(first).enumerate().all(|(d, (a, b))| d == *axis || a == b))
        };
        let found = || (0..first.len()).filter(in_step);
        found().find(alone).or_else(|| found().next())
    }

    /// Whether an output without a batch axis differs in shape between runs. With a fixed batch of several rows, it is
    /// enough that the output has dimensions.
    pub(crate) fn is_out_of_step(&self, i: usize) -> bool {
        let seen = self.seen(i);
        let fixed = self.signature().fixed_rows.is_some_and(|n| n > 1);
        self.axis(i).is_none() && seen.iter().any(|(_, dims)| *dims != seen[0].1 || (fixed && !dims.is_empty()))
    }

    /// Returns the reason why the outputs cannot be divided among rows, or `None` if they can.
    pub(crate) fn out_of_step(&self, declared: &Declared) -> Option<String> {
        if self.signature().whole {
            return None;
        }
        let of_output = |(i, (name, _)): (usize, &(String, DeclaredOutput))| {
            self.is_out_of_step(i).then(|| {
                let mut gave: Vec<String> = self.seen(i).iter().map(|(n, dims)| format!("{dims:?} for {n}")).collect();
                gave.dedup();
                gave.truncate(4);
                format!("output \"{name}\" has no dimension of rows: its shape was {} rows", gave.join(", "))
            })
        };
        let failed = || self.failed.as_ref().map(|reason| format!("a batch of unequal rows failed: {reason}"));
        declared.outputs.iter().enumerate().find_map(of_output).or_else(failed)
    }

    /// Checks that the batches of the model consist of rows: a row that moves within a batch must keep its outputs.
    pub(crate) fn has_rows(&self, declared: &Declared) -> Result<()> {
        let signature = self.signature();
        let no_rows =
            |reason: String| Err(Error::Unsupported { what: "a model without a batch axis".to_owned(), reason });
        if let Some(n) = signature.fixed_rows.filter(|n| *n > 1) {
            let refused = || format!("the first dimension of its inputs is {n}, and that is no batch of rows");
            if (0..declared.outputs.len()).any(|i| self.is_out_of_step(i)) {
                return no_rows(refused());
            }
            let mut version = (*self.work.version).clone();
            version.signature.outputs = self.outputs(declared)?;
            let wanted = vec![true; version.signature.outputs.len()].into();
            let work = RunContext::new(Arc::clone(self.session), Arc::new(version), wanted)?;
            let stop = Stop::new()?;
            let moved = |values: &Values, from: usize| values.pick(&(from..from + n - 1).collect::<Vec<_>>());
            let run = |from| work.run(&self.rows(n, from, None), &stop);
            return match (run(0), run(1)) {
                (Ok(one), Ok(next))
                    if !one.values.iter().zip(&next.values).any(|(a, b)| differ(&moved(a, 1), &moved(b, 0), 0.0)) =>
                {
                    Ok(())
                }
                _ => no_rows(refused()),
            };
        }
        // If outputs do not follow an open first dimension, it is a length and not the batch, unless its name or the
        // operators indicate otherwise.
        let named = declared.inputs.iter().flat_map(|i| &i.symbols).any(|s| names_batch(s));
        match self.out_of_step(declared) {
            Some(reason) if !named && !signature.has_operator(&SHAPED_BY_DATA) && self.failed.is_none() => {
                no_rows(reason)
            }
            _ => Ok(()),
        }
    }

    /// Returns a row that the model accepts: one value in every element, and the length of open dimensions.
    pub(crate) fn sample(&self, version: &Arc<Version>) -> Option<Sample> {
        let work = RunContext::new(
            Arc::clone(self.session),
            Arc::clone(version),
            vec![true; version.signature.outputs.len()].into(),
        )
        .ok()?;
        let stop = Stop::new().ok()?;
        let fill = [0, 1].into_iter().find(|fill| work.run(&self.rows(1, 0, Some(*fill)), &stop).is_ok())?;
        Some(Sample { fill, length: self.open })
    }
}
