//! Runs the rows of a batch through the model and returns one value per row and output, in row order.
//!
//! Rows run together if their shapes are equal or are padded to be equal. Texts of similar length are padded to the
//! longest text of their run, and so are rows of an input with the option `pad`. A model without a batch axis runs one
//! row at a time, and so does a batch-dependent version, unless the option `batch` is `force`. Padding rows and padding
//! inside rows are removed from the outputs.

mod feeds;
mod outputs;
pub mod pipeline;
mod pooling;
pub(crate) mod row_groups;

use std::sync::Arc;

use crate::batch::{Batch, Values};
use crate::error::{Error, Result};
use crate::options::{Constant, OnError, Pooling};
use crate::ort::session::Session;
use crate::ort::stop::Stop;
use crate::ort::values::RawOutput;
use crate::run::outputs::cut;
use crate::run::pooling::normalize;
use crate::run::row_groups::{Part, RowSet};
use crate::signature::{Output, OutputRow, Signature, Source};
use crate::tensor::{Column, Strings};
use crate::text::Tokens;
use crate::version::Version;

/// The state that all runs of a query share.
#[derive(Clone)]
pub struct RunContext {
    /// The session that runs the model.
    pub session: Arc<Session>,
    /// The version: its signature and options.
    pub version: Arc<Version>,
    /// Whether each output is copied.
    pub wanted: Arc<[bool]>,
    /// For each input, its content if it is the same for every row.
    pub(crate) constants: Arc<[Option<Constant>]>,
    /// Whether the rows of a failed batch run one by one, up to the first row that fails.
    pub(crate) finds_failure: bool,
    /// Is told when texts begin and end to be tokenised.
    pub(crate) tokenising: Phase,
}

/// A function that is called with true when tokenising begins, and with false when it ends.
pub type Phase = Arc<dyn Fn(bool) + Send + Sync>;

/// The results of running a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct RunOutput {
    /// The wanted outputs of the rows that did not fail, in row order.
    pub values: Vec<Values>,
    /// The rows that failed, in row order, with the reason. Empty unless the option `on_error` is `null`.
    pub failed: Vec<(usize, String)>,
    /// The row that ended the batch, and its error. `values` then holds the outputs of the rows before it. Set only for
    /// a context made by `finding_failure`.
    pub broken: Option<(usize, Error)>,
    /// The number of tokens in its texts.
    pub tokens: TokenCounts,
}

/// The number of tokens that were run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenCounts {
    /// Tokens of the texts, without padding.
    pub own: usize,
    /// Tokens of the tensors, including padding.
    pub padded: usize,
}

/// Reports that texts are tokenised, until it is dropped.
struct Tokenising<'a>(&'a Phase);

impl<'a> Tokenising<'a> {
    fn begin(phase: &'a Phase) -> Self {
        phase(true);
        Self(phase)
    }
}

impl Drop for Tokenising<'_> {
    fn drop(&mut self) {
        (self.0)(false);
    }
}

/// Parses the values of the option `constants`: for each input, its content if it is the same for every row.
fn constants(version: &Version) -> Result<Arc<[Option<Constant>]>> {
    let inputs = version.signature.inputs.iter();
    inputs
        .map(|input| match (input.source, version.options.constants.get(&input.name)) {
            (Source::Constant, Some(value)) => Constant::parse(input, value).map(Some),
            _ => Ok(None),
        })
        .collect()
}

/// Returns the bytes that a run needs per row in addition to the row's own values. These are the constants and the
/// outputs of known size. An output without a batch axis counts too, because it is repeated for every row.
pub fn row_bytes(version: &Version) -> Result<usize> {
    let constants = constants(version)?;
    let constants = constants.iter().flatten().map(|c| c.data.bytes());
    let outputs = version.signature.outputs.iter().map(|output| match &output.row {
        OutputRow::Tensor { element, shape } => {
            shape.iter().fold(element.size(), |bytes, dim| bytes.saturating_mul(*dim))
        }
        _ => 0,
    });
    Ok(constants.chain(outputs).fold(0, usize::saturating_add))
}

impl RunOutput {
    /// Appends the outputs of the batch that follows. `rows` is the number of rows of this one.
    pub fn append(&mut self, rows: usize, next: Self) {
        self.values.iter_mut().zip(next.values).for_each(|(all, part)| all.append(part));
        self.failed.extend(next.failed.into_iter().map(|(row, reason)| (rows + row, reason)));
        self.tokens.own += next.tokens.own;
        self.tokens.padded += next.tokens.padded;
    }
}

impl RunContext {
    /// Creates the context for runs of a version. Parses the values of the option `constants`.
    pub fn new(session: Arc<Session>, version: Arc<Version>, wanted: Arc<[bool]>) -> Result<Self> {
        let constants = constants(&version)?;
        Ok(Self { session, version, wanted, constants, finds_failure: false, tokenising: Arc::new(|_| {}) })
    }

    /// Makes a failed batch find the first row that fails by itself, and return the outputs of the rows before it.
    #[must_use]
    pub fn finding_failure(mut self) -> Self {
        self.finds_failure = true;
        self
    }

    /// Calls a function whenever texts begin and end to be tokenised.
    #[must_use]
    pub fn reporting(mut self, tokenising: Phase) -> Self {
        self.tokenising = tokenising;
        self
    }

    pub(crate) fn signature(&self) -> &Signature {
        &self.version.signature
    }

    /// Whether the session runs on a GPU.
    #[must_use]
    pub fn is_on_card(&self) -> bool {
        self.session.is_on_card()
    }

    /// Releases the memory that earlier runs allocated. Only a run can do this, so one row is run again.
    pub fn release_memory(&self, one: &Batch) {
        // The result of this run is not used.
        let _ = self.session.shrinking().and_then(|shrinking| self.run(one, &shrinking));
    }

    /// Runs the rows of a batch and returns their outputs in row order.
    pub fn run(&self, batch: &Batch, stop: &Stop) -> Result<RunOutput> {
        let mut failed = Vec::new();
        let tokens = match self.tokens(batch, stop, &mut failed) {
            Ok(tokens) => tokens,
            Err(error) => return self.up_to_failure(batch, stop, error),
        };
        let tokens = tokens.as_deref();
        let mut parts: Vec<Part> = Vec::new();
        for rows in self.groups(batch, tokens, &failed) {
            let most = self.most().unwrap_or(rows.len()).max(1);
            let mut at = 0;
            while at < rows.len() {
                let n = most.min(rows.len() - at);
                if let Err(error) = self.attempt(batch, tokens, rows.part(at, n), stop, &mut parts, &mut failed) {
                    return self.up_to_failure(batch, stop, error);
                }
                at += n;
            }
        }
        failed.sort_unstable_by_key(|(row, _)| *row);
        let counted = tokens.map(|t| self.count(t, &parts)).unwrap_or_default();
        Ok(RunOutput { values: self.in_order(parts, batch.rows), failed, broken: None, tokens: counted })
    }

    /// Counts the tokens that were run.
    pub(crate) fn count(&self, tokens: &[Tokens], parts: &[Part]) -> TokenCounts {
        let own = |rows: &RowSet| rows.iter().map(|row| tokens[row].ids.len()).sum::<usize>();
        TokenCounts {
            own: parts.iter().map(|(rows, _)| own(rows)).sum(),
            padded: parts.iter().map(|(rows, _)| self.tensor_rows(rows) * self.text_length(tokens, rows)).sum(),
        }
    }

    /// Runs the rows of a failed batch one by one, up to the first row that fails. Returns `error` instead if the
    /// context does not find failures, if a single row cannot cause `error`, or if the run was asked to stop.
    pub(crate) fn up_to_failure(&self, batch: &Batch, stop: &Stop, error: Error) -> Result<RunOutput> {
        let of_row = matches!(
            error,
            Error::Run { .. } | Error::OutputRows { .. } | Error::OutputChanged { .. } | Error::NotText { .. }
        );
        if !self.finds_failure || !of_row || stop.asked() {
            return Err(error);
        }
        let mut parts: Vec<Part> = Vec::new();
        let mut broken = None;
        for row in 0..batch.rows {
            let own = batch.part(row..row + 1);
            let ran = self
                .tokens(&own, stop, &mut Vec::new())
                .and_then(|tokens| self.once(&own, tokens.as_deref(), &RowSet::Span(0, 1), stop));
            match ran {
                Ok(values) => parts.push((RowSet::List(vec![row]), values)),
                Err(_) if stop.asked() => return Err(error),
                Err(error) => {
                    broken = Some((row, error));
                    break;
                }
            }
        }
        let rows = parts.len();
        Ok(RunOutput { values: self.in_order(parts, rows), failed: Vec::new(), broken, tokens: TokenCounts::default() })
    }

    /// Runs a batch once, unchanged, and returns the raw outputs. Validation uses this.
    pub(crate) fn raw(&self, batch: &Batch, stop: &Stop) -> Result<Vec<RawOutput>> {
        let tokens = self.tokens(batch, stop, &mut Vec::new())?;
        let rows = RowSet::Span(0, batch.rows);
        self.session.infer(&self.feeds(batch, tokens.as_deref(), &rows)?, None, stop)
    }

    /// Tokenises the texts of a batch, if the model takes text. A text that cannot be tokenised fails its row if the
    /// option `on_error` is `null`, and the batch otherwise.
    pub(crate) fn tokens(
        &self,
        batch: &Batch,
        stop: &Stop,
        failed: &mut Vec<(usize, String)>,
    ) -> Result<Option<Vec<Tokens>>> {
        if !self.signature().takes_text() {
            return Ok(None);
        }
        let Some(text) = self.session.text() else {
            return Err(Error::Tokenizer { reason: "the session has none".to_owned() });
        };
        // The columns of texts come first, followed by the columns of the other inputs.
        let others = self.signature().inputs.iter().filter(|i| i.source == Source::Row).count();
        let texts: Vec<&Strings> = batch
            .columns
            .iter()
            .take(batch.columns.len().saturating_sub(others))
            .filter_map(|c| if let Column::String(s) = c { Some(s) } else { None })
            .collect();
        let Some(first) = texts.first() else { return Ok(None) };
        let _tokenising = Tokenising::begin(&self.tokenising);
        let mut all = Vec::with_capacity(batch.rows);
        for row in 0..batch.rows {
            if stop.asked() {
                return Err(Error::Run { reason: "it was asked to stop".to_owned() });
            }
            match text.encode(first.get(row), texts.get(1).map(|s| s.get(row))) {
                Ok(tokens) => all.push(tokens),
                Err(Error::Run { reason }) if self.version.options.on_error == OnError::Null => {
                    failed.push((row, reason));
                    all.push(Tokens::default());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Some(all))
    }

    /// Runs rows together. If the run fails and the option `on_error` is `null`, splits the rows in half until each
    /// failing row is alone.
    pub(crate) fn attempt(
        &self,
        batch: &Batch,
        tokens: Option<&[Tokens]>,
        rows: RowSet,
        stop: &Stop,
        parts: &mut Vec<Part>,
        failed: &mut Vec<(usize, String)>,
    ) -> Result<()> {
        let error = match self.once(batch, tokens, &rows, stop) {
            Ok(values) => {
                parts.push((rows, values));
                return Ok(());
            }
            Err(error) => error,
        };
        let reason = match &error {
            Error::Run { reason } => reason.clone(),
            Error::OutputRows { output, shape, rows } => {
                format!("output \"{output}\" has shape {shape:?} for {rows} rows")
            }
            Error::OutputChanged { output, expected, got } => format!("output \"{output}\" is {got}, not {expected}"),
            Error::NotText { output, why } => format!("output \"{output}\" holds a text that {why}"),
            _ => return Err(error),
        };
        if self.version.options.on_error != OnError::Null || stop.asked() {
            return Err(error);
        }
        if rows.len() == 1 {
            failed.push((rows.at(0), reason));
            return Ok(());
        }
        let half = rows.len() / 2;
        self.attempt(batch, tokens, rows.part(0, half), stop, parts, failed)?;
        self.attempt(batch, tokens, rows.part(half, rows.len() - half), stop, parts, failed)
    }

    /// Runs rows together once and divides the outputs among them.
    pub(crate) fn once(
        &self,
        batch: &Batch,
        tokens: Option<&[Tokens]>,
        rows: &RowSet,
        stop: &Stop,
    ) -> Result<Vec<Values>> {
        let feeds = self.feeds(batch, tokens, rows)?;
        let got = self.session.infer(&feeds, Some(&self.wanted), stop)?;
        drop(feeds);
        let signature = self.signature();
        let padded = self.padded(batch, rows);
        let pools = signature.outputs.iter().any(Output::is_pooled) && self.version.options.pooling != Pooling::None;
        signature
            .outputs
            .iter()
            .enumerate()
            .zip(self.wanted.iter())
            .filter(|(_, wanted)| **wanted)
            .zip(got)
            .map(|(((i, output), _), got)| {
                let mut values = self.rows_of(output, got, rows, tokens)?;
                if let (Some((padded, own)), Values::Open(open), Some(_)) = (&padded, &mut values, output.axis) {
                    *open = cut(open, output, *padded, own);
                }
                if let Values::Open(open) = &values
                    && !open.shapes_fit()
                {
                    let name = &output.name;
                    return Err(Error::Run {
                        reason: format!("A row of output \"{name}\" has too many empty arrays."),
                    });
                }
                let vector = if pools { output.is_pooled() } else { i == 0 };
                if self.version.options.normalize && vector {
                    normalize(&mut values);
                }
                Ok(values)
            })
            .collect()
    }
}
