//! A window of rows becomes runs of the model, and what the runs give becomes a value a row again, in row order.
//!
//! Rows run together where their shapes are the same, or are made the same: texts of like length are padded to the
//! longest of their run, rows of an input with the option `pad` too. A model without a batch axis, or whose answers
//! depend on batch mates, runs a row at a time. Padding, of rows and inside them, is cut off before anybody sees it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use half::{bf16, f16};

use crate::batch::{Batch, Keys, Maps, Open, Shapes, Values};
use crate::error::{Error, Result};
use crate::options::{Constant, OnError, Pooling};
use crate::session::{Feed, Got, Session, Stop};
use crate::signature::{Input, Output, OutputRow, Signature, Source};
use crate::tensor::{Column, ElementType, Strings};
use crate::text::{Tokens, by_length};
use crate::version::Version;

/// Tokens of a run of texts, padding counted: more of them run no faster, and a cancelled run is waited for.
const TOKEN_BUDGET: usize = 512;
/// Elements of a run of rows that are padded alike.
const PADDED_BUDGET: usize = 1 << 20;

/// Bytes that an output without a batch axis may take when it is repeated for every row of a run.
const LARGEST_REPEATED: usize = 1 << 30;

/// What every run of a query has in common.
#[derive(Clone)]
pub struct Work {
    /// The session.
    pub session: Arc<Session>,
    /// What is run, and how.
    pub version: Arc<Version>,
    /// Which outputs are copied out.
    pub wanted: Arc<[bool]>,
    /// The content of inputs that are the same for every row: one for each input.
    constants: Arc<[Option<Constant>]>,
    /// Where a batch fails, its rows are run one by one up to the one that fails.
    finds_failure: bool,
    /// Texts are being made into tokens now.
    tokenising: Arc<AtomicBool>,
}

/// What a window of rows gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Ran {
    /// The wanted outputs of the rows that did not fail, in row order.
    pub values: Vec<Values>,
    /// The rows that failed, in row order, with ONNX Runtime's words: where the version says that such are NULL.
    pub failed: Vec<(usize, String)>,
    /// The row that ended the batch, and why: where that is asked for. The outputs are those of the rows before it.
    pub broken: Option<(usize, Error)>,
    /// Tokens of its texts, with padding and without.
    pub tokens: Counted,
}

/// Tokens that were run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// Of the texts.
    pub own: usize,
    /// With what makes the texts of a run alike.
    pub padded: usize,
}

/// Rows of a window that run together.
enum Rows {
    /// All of them, as they lie.
    Span(usize, usize),
    /// Some of them.
    List(Vec<usize>),
}

impl Rows {
    fn len(&self) -> usize {
        match self {
            Self::Span(_, n) => *n,
            Self::List(list) => list.len(),
        }
    }

    fn at(&self, i: usize) -> usize {
        match self {
            Self::Span(start, _) => start + i,
            Self::List(list) => list[i],
        }
    }

    fn iter(&self) -> impl Iterator<Item = usize> {
        (0..self.len()).map(|i| self.at(i))
    }

    /// Whether the rows lie behind each other.
    fn is_span(&self) -> bool {
        match self {
            Self::Span(..) => true,
            Self::List(list) => list.windows(2).all(|w| w[1] == w[0] + 1),
        }
    }

    fn part(&self, from: usize, n: usize) -> Self {
        match self {
            Self::Span(start, _) => Self::Span(start + from, n),
            Self::List(list) => Self::List(list[from..from + n].to_vec()),
        }
    }
}

/// Says that texts are being made into tokens, until it goes.
struct Tokenising<'a>(&'a AtomicBool);

impl<'a> Tokenising<'a> {
    fn begin(flag: &'a AtomicBool) -> Self {
        flag.store(true, Ordering::Relaxed);
        Self(flag)
    }
}

impl Drop for Tokenising<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Rows that run together, and the outputs that they gave.
type Part = (Rows, Vec<Values>);

impl Work {
    /// What runs of a version have in common.
    pub fn new(session: Arc<Session>, version: Arc<Version>, wanted: Arc<[bool]>) -> Result<Self> {
        let constants = version
            .signature
            .inputs
            .iter()
            .map(|input| match (input.source, version.options.constants.get(&input.name)) {
                (Source::Constant, Some(value)) => Constant::parse(input, value).map(Some),
                _ => Ok(None),
            })
            .collect::<Result<_>>()?;
        Ok(Self { session, version, wanted, constants, finds_failure: false, tokenising: Arc::default() })
    }

    /// The same, but where a batch fails, its first row that fails by itself is found, and the rows before it are given.
    #[must_use]
    pub fn finding_failure(mut self) -> Self {
        self.finds_failure = true;
        self
    }

    /// Whether texts are being made into tokens now, and the model does not run yet.
    #[must_use]
    pub fn is_tokenising(&self) -> bool {
        self.tokenising.load(Ordering::Relaxed)
    }

    fn signature(&self) -> &Signature {
        &self.version.signature
    }

    /// Bytes that a run takes for each of its rows beside what the row brings: its share of the constants, and its outputs as far as
    /// their size is known. An output without a batch axis is repeated for every row.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        let constants = self.constants.iter().flatten().map(|c| c.data.bytes());
        let outputs = self.signature().outputs.iter().map(|output| match &output.row {
            OutputRow::Tensor { element, shape } => {
                shape.iter().fold(element.size(), |bytes, dim| bytes.saturating_mul(*dim))
            }
            _ => 0,
        });
        constants.chain(outputs).fold(0, usize::saturating_add)
    }

    /// The most rows that a run takes, where it takes no number.
    fn most(&self) -> Option<usize> {
        let signature = self.signature();
        if signature.whole {
            return Some(1);
        }
        match signature.fixed_rows {
            Some(n) => Some(n.max(1)),
            None => self.version.runs_alone().then_some(1),
        }
    }

    /// Runs the rows of a batch and gives their outputs in row order.
    pub fn run(&self, batch: &Batch, stop: &Stop) -> Result<Ran> {
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
        Ok(Ran { values: self.in_order(parts, batch.rows), failed, broken: None, tokens: counted })
    }

    /// The tokens that were run.
    fn count(&self, tokens: &[Tokens], parts: &[Part]) -> Counted {
        let own = |rows: &Rows| rows.iter().map(|row| tokens[row].ids.len()).sum::<usize>();
        Counted {
            own: parts.iter().map(|(rows, _)| own(rows)).sum(),
            padded: parts.iter().map(|(rows, _)| self.tensor_rows(rows) * self.text_length(tokens, rows)).sum(),
        }
    }

    /// Runs the rows of a batch that failed one by one, up to the first that fails: where that is asked for, and the error is
    /// one of a row's.
    fn up_to_failure(&self, batch: &Batch, stop: &Stop, error: Error) -> Result<Ran> {
        let of_row = matches!(error, Error::Run { .. } | Error::OutputRows { .. } | Error::OutputChanged { .. });
        if !self.finds_failure || !of_row || stop.asked() {
            return Err(error);
        }
        let mut parts: Vec<Part> = Vec::new();
        let mut broken = None;
        for row in 0..batch.rows {
            let own = batch.part(row);
            let ran = self
                .tokens(&own, stop, &mut Vec::new())
                .and_then(|tokens| self.once(&own, tokens.as_deref(), &Rows::Span(0, 1), stop));
            match ran {
                Ok(values) => parts.push((Rows::List(vec![row]), values)),
                Err(_) if stop.asked() => return Err(error),
                Err(error) => {
                    broken = Some((row, error));
                    break;
                }
            }
        }
        let rows = parts.len();
        Ok(Ran { values: self.in_order(parts, rows), failed: Vec::new(), broken, tokens: Counted::default() })
    }

    /// Runs a batch once, as it is, and gives what came: for the probe.
    pub(crate) fn raw(&self, batch: &Batch, stop: &Stop) -> Result<Vec<Got>> {
        let tokens = self.tokens(batch, stop, &mut Vec::new())?;
        let rows = Rows::Span(0, batch.rows);
        self.session.infer(&self.feeds(batch, tokens.as_deref(), &rows)?, None, stop)
    }

    /// Tokenises the texts of a batch, where they are. A text that cannot be is a row that fails.
    fn tokens(&self, batch: &Batch, stop: &Stop, failed: &mut Vec<(usize, String)>) -> Result<Option<Vec<Tokens>>> {
        if !self.signature().takes_text() {
            return Ok(None);
        }
        let Some(text) = self.session.text() else {
            return Err(Error::Tokenizer { reason: "the session has none".to_owned() });
        };
        // The texts come first; what else rows bring comes behind them.
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

    /// Which rows run together.
    fn groups(&self, batch: &Batch, tokens: Option<&[Tokens]>, failed: &[(usize, String)]) -> Vec<Rows> {
        let most = self.most().unwrap_or(batch.rows).max(1);
        if let Some(tokens) = tokens {
            let lengths: Vec<usize> = tokens.iter().map(|t| t.ids.len()).collect();
            let bad: Vec<usize> = failed.iter().map(|(row, _)| *row).collect();
            let good = |mut run: Vec<usize>| {
                run.retain(|row| bad.binary_search(row).is_err());
                (!run.is_empty()).then_some(Rows::List(run))
            };
            return by_length(&lengths, TOKEN_BUDGET, most).into_iter().filter_map(good).collect();
        }
        let uneven: Vec<&Shapes> = batch
            .shapes
            .iter()
            .filter(|s| matches!(s, Shapes::Each(each) if each.dims.chunks(each.rank.max(1)).any(|d| *d != each.dims[..each.rank.min(each.dims.len())])))
            .collect();
        if uneven.is_empty() {
            return vec![Rows::Span(0, batch.rows)];
        }
        // Inputs that are padded may differ inside a group, others may not.
        let slots: Vec<&Input> = self.signature().inputs.iter().filter(|i| i.source == Source::Row).collect();
        let padded = |i: usize| slots.get(i).is_some_and(|input| self.version.options.pad.contains_key(&input.name));
        let mut groups: Vec<Vec<usize>> = Vec::new();
        let mut known: HashMap<Vec<usize>, usize> = HashMap::new();
        for row in 0..batch.rows {
            let key: Vec<usize> = batch
                .shapes
                .iter()
                .enumerate()
                .filter(|(i, _)| !padded(*i))
                .flat_map(|(_, s)| s.of(row))
                .copied()
                .collect();
            let group = *known.entry(key).or_insert_with(|| {
                groups.push(Vec::new());
                groups.len() - 1
            });
            groups[group].push(row);
        }
        if self.version.options.pad.is_empty() {
            return groups.into_iter().map(Rows::List).collect();
        }
        let length =
            |row: usize| (0..batch.shapes.len()).filter(|i| padded(*i)).map(|i| batch.shapes[i].span(row).1).sum();
        groups
            .into_iter()
            .flat_map(|rows| {
                let lengths: Vec<usize> = rows.iter().map(|r| length(*r)).collect();
                by_length(&lengths, PADDED_BUDGET, most)
                    .into_iter()
                    .map(move |run| Rows::List(run.into_iter().map(|i| rows[i]).collect()))
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    /// Runs rows together; where they fail and the version says so, in halves, until the bad ones are alone.
    fn attempt(
        &self,
        batch: &Batch,
        tokens: Option<&[Tokens]>,
        rows: Rows,
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

    /// One run.
    fn once(&self, batch: &Batch, tokens: Option<&[Tokens]>, rows: &Rows, stop: &Stop) -> Result<Vec<Values>> {
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
                let vector = if pools { output.is_pooled() } else { i == 0 };
                if self.version.options.normalize && vector {
                    normalize(&mut values);
                }
                Ok(values)
            })
            .collect()
    }

    /// The length that rows of a run were padded to, and their own: where one open dimension was.
    fn padded(&self, batch: &Batch, rows: &Rows) -> Option<(usize, Vec<usize>)> {
        let slots: Vec<(usize, &Input)> =
            self.signature().inputs.iter().filter(|i| i.source == Source::Row).enumerate().collect();
        let mut padded = slots.iter().filter(|(_, input)| self.version.options.pad.contains_key(&input.name));
        let ((slot, input), None) = (padded.next()?, padded.next()) else { return None };
        let mut open = input.shape.iter().enumerate().filter(|(_, d)| d.is_none()).map(|(i, _)| i);
        let (dimension, None) = (open.next()?, open.next()) else { return None };
        let shapes = batch.shapes.get(*slot)?;
        let own: Vec<usize> = rows.iter().map(|row| shapes.of(row).get(dimension).copied().unwrap_or(0)).collect();
        let longest = own.iter().copied().max()?;
        Some((longest, own))
    }

    /// The length that the texts of a run are padded to. A model cannot take none.
    fn text_length(&self, tokens: &[Tokens], rows: &Rows) -> usize {
        let longest = || rows.iter().map(|row| tokens[row].ids.len()).max().unwrap_or(0).max(1);
        self.signature().fixed_tokens().unwrap_or_else(longest)
    }

    /// The number of rows that the tensors of a run have.
    fn tensor_rows(&self, rows: &Rows) -> usize {
        self.signature().fixed_rows.unwrap_or(rows.len())
    }

    /// The tensors of a run.
    fn feeds<'a>(&'a self, batch: &'a Batch, tokens: Option<&[Tokens]>, rows: &Rows) -> Result<Vec<Feed<'a>>> {
        let n = self.tensor_rows(rows);
        let inputs = &self.signature().inputs;
        let others = inputs.iter().filter(|i| i.source == Source::Row).count();
        let mut slot = batch.columns.len().saturating_sub(others);
        let length = tokens.map(|t| self.text_length(t, rows)).unwrap_or_default();
        inputs
            .iter()
            .zip(self.constants.iter())
            .map(|(input, constant)| {
                let name = input.name.as_str();
                match input.source {
                    Source::Constant => {
                        let Some(constant) = constant else {
                            return Err(Error::Run { reason: format!("input \"{name}\" has no constant") });
                        };
                        Ok(constant_feed(input, constant, n))
                    }
                    Source::Row => {
                        slot += 1;
                        let missing = || Error::Run { reason: format!("input \"{name}\" has no column") };
                        let column = batch.columns.get(slot - 1).ok_or_else(missing)?;
                        let shapes = batch.shapes.get(slot - 1).ok_or_else(missing)?;
                        let (has, needs) = (column.len(), shapes.elements(batch.rows));
                        if has != needs {
                            let reason =
                                format!("input \"{name}\" has {has} elements for {} rows of {needs}", batch.rows);
                            return Err(Error::Run { reason });
                        }
                        self.row_feed(input, column, shapes, rows, n)
                    }
                    source => {
                        let Some((tokens, text)) = tokens.zip(self.session.text()) else {
                            return Err(Error::Run { reason: format!("input \"{name}\" has no text") });
                        };
                        let padding = match source {
                            Source::TokenIds => text.pad_id,
                            Source::TokenTypes => text.pad_type,
                            _ => 0,
                        };
                        let mut all: Vec<i64> = Vec::with_capacity(n * length);
                        for i in 0..n {
                            let tokens = &tokens[rows.at(i.min(rows.len() - 1))];
                            let pad = length - tokens.ids.len();
                            let padding = std::iter::repeat_n(i64::from(padding), pad);
                            let before = if text.pad_left { pad } else { 0 };
                            all.extend(padding.clone().take(before));
                            match source {
                                Source::TokenIds => all.extend(tokens.ids.iter().map(|x| i64::from(*x))),
                                Source::TokenTypes => all.extend(tokens.types.iter().map(|x| i64::from(*x))),
                                Source::TokenPositions => all.extend(0..tokens.ids.len() as i64),
                                _ => all.extend(tokens.mask.iter().map(|x| i64::from(*x))),
                            }
                            all.extend(padding.skip(before));
                        }
                        let len = all.len();
                        let column = match input.element {
                            ElementType::Int32 => Column::Int32(all.into_iter().map(|x| x as i32).collect()),
                            ElementType::Float32 => Column::Float32(all.into_iter().map(|x| x as f32).collect()),
                            _ => Column::Int64(all),
                        };
                        Ok(Feed { name, column: Cow::Owned(column), from: 0, len, shape: vec![n, length] })
                    }
                }
            })
            .collect()
    }

    /// The tensor of an input that rows bring.
    fn row_feed<'a>(
        &'a self,
        input: &'a Input,
        column: &'a Column,
        shapes: &Shapes,
        rows: &Rows,
        n: usize,
    ) -> Result<Feed<'a>> {
        let name = input.name.as_str();
        let first = shapes.of(rows.at(0)).to_vec();
        let Some(axis) = input.axis else {
            let (from, len) = shapes.span(rows.at(0));
            return Ok(Feed { name, column: Cow::Borrowed(column), from, len, shape: first });
        };
        let even = matches!(shapes, Shapes::Same(_)) || rows.iter().all(|row| shapes.of(row) == first);
        let width: usize = first.iter().product();
        if even && axis == 0 && n == rows.len() && rows.is_span() {
            let mut shape = vec![n];
            shape.extend(first);
            let from = shapes.span(rows.at(0)).0;
            return Ok(Feed { name, column: Cow::Borrowed(column), from, len: n * width, shape });
        }
        // The last row stands in for those that are missing to a fixed batch.
        let row = |i: usize| rows.at(i.min(rows.len() - 1));
        let (data, mut shape) = if even {
            let spans: Vec<(usize, usize)> = (0..n).map(|i| shapes.span(row(i))).collect();
            (column.copy(&spans), first)
        } else {
            let mut filler = Column::new(input.element);
            let value = self.version.options.pad.get(name);
            if !value.is_some_and(|v| filler.push_json(v)) {
                return Err(Error::Run { reason: format!("rows of input \"{name}\" differ in shape") });
            }
            let mut target = first;
            for r in rows.iter() {
                target.iter_mut().zip(shapes.of(r)).for_each(|(a, b)| *a = (*a).max(*b));
            }
            let mut data = Column::new(input.element);
            (0..n).for_each(|i| pad(column, shapes.span(row(i)).0, shapes.of(row(i)), &target, &filler, &mut data));
            (data, target)
        };
        let inner: usize = shape[axis.min(shape.len())..].iter().product();
        let outer: usize = shape[..axis.min(shape.len())].iter().product();
        let data = if axis == 0 { data } else { data.swap(n, outer, inner) };
        shape.insert(axis.min(shape.len()), n);
        let len = data.len();
        Ok(Feed { name, column: Cow::Owned(data), from: 0, len, shape })
    }

    /// One output of a run, by row.
    fn rows_of(&self, output: &Output, got: Got, rows: &Rows, tokens: Option<&[Tokens]>) -> Result<Values> {
        let (count, n) = (rows.len(), self.tensor_rows(rows));
        let out_of_step = |shape: Vec<i64>| Error::OutputRows { output: output.name.clone(), shape, rows: n };
        let changed =
            |got: String| Error::OutputChanged { output: output.name.clone(), expected: output.describe(), got };
        match (&output.row, got) {
            (OutputRow::Map { .. }, Got::Maps(maps)) => {
                if maps.ends.len() != n {
                    return Err(out_of_step(vec![maps.ends.len() as i64]));
                }
                let maps = Values::Maps(maps);
                Ok(if count == n { maps } else { maps.pick(&(0..count).collect::<Vec<_>>()) })
            }
            (OutputRow::Nested { .. }, got) => {
                let json = match got {
                    Got::Tensor { data, dims } => data.json(&dims),
                    Got::Maps(maps) => maps_json(&maps),
                    Got::Nested(json) => json,
                };
                let mut texts = Strings::default();
                match (json.as_array(), output.axis) {
                    (Some(items), Some(_)) if !self.signature().whole => {
                        if items.len() != n {
                            return Err(out_of_step(vec![items.len() as i64]));
                        }
                        items.iter().take(count).for_each(|item| texts.push(&item.to_string()));
                    }
                    _ => {
                        let text = json.to_string();
                        (0..count).for_each(|_| texts.push(&text));
                    }
                }
                Ok(Values::Nested(texts))
            }
            (OutputRow::Tensor { .. } | OutputRow::Open { .. }, Got::Tensor { data, dims }) => {
                let pooled = output.is_pooled() && self.version.options.pooling != Pooling::None;
                if output.element() != Some(data.element()) && !(pooled && data.element().is_float()) {
                    return Err(changed(format!("{}{dims:?}", data.element())));
                }
                let Some(axis) = output.axis else { return whole(output, data, &dims, count, changed) };
                if dims.get(axis) != Some(&n) {
                    return Err(out_of_step(dims.iter().map(|d| *d as i64).collect()));
                }
                let outer: usize = dims[..axis].iter().product();
                let inner: usize = dims[axis + 1..].iter().product();
                let mut data = if outer == 1 { data } else { data.swap(outer, n, inner) };
                let mut shape = dims;
                shape.remove(axis);
                if let (true, Some(tokens), Some(text)) = (output.tokens, tokens, self.session.text())
                    && shape.first() == Some(&self.text_length(tokens, rows))
                {
                    let own: Vec<(usize, usize)> = rows
                        .iter()
                        .map(|row| {
                            let n = tokens[row].ids.len();
                            (if text.pad_left { shape[0] - n } else { 0 }, n)
                        })
                        .collect();
                    let masks = rows.iter().map(|row| tokens[row].mask.as_slice());
                    return Ok(match data {
                        data if !pooled => trim(&data, &shape, &own),
                        data => pool(data, &shape, &own, masks, self.version.options.pooling),
                    });
                }
                match &output.row {
                    OutputRow::Open { .. } => {
                        let width: usize = shape.iter().product();
                        let mut open = Open::new(data.element());
                        (0..count).for_each(|i| open.push(&shape, data.copy(&[(i * width, width)])));
                        Ok(Values::Open(open))
                    }
                    row => {
                        let width = if let OutputRow::Tensor { shape, .. } = row { shape.iter().product() } else { 1 };
                        // Rows in are rows out: the one check that nothing gets past.
                        if data.len() != n * width {
                            shape.insert(axis, n);
                            return Err(changed(format!("{}{shape:?}", data.element())));
                        }
                        data.truncate(count * width);
                        Ok(Values::Tensor { width, data })
                    }
                }
            }
            (_, got) => Err(changed(match got {
                Got::Tensor { data, dims } => format!("{}{dims:?}", data.element()),
                Got::Maps(_) => "a sequence of maps".to_owned(),
                Got::Nested(_) => "another kind of value".to_owned(),
            })),
        }
    }

    /// Puts the outputs of all runs into the order of rows; rows that failed are left out.
    fn in_order(&self, mut parts: Vec<Part>, rows: usize) -> Vec<Values> {
        if parts.is_empty() {
            let outputs = self.signature().outputs.iter().zip(self.wanted.iter()).filter(|(_, wanted)| **wanted);
            return outputs.map(|(output, _)| Values::none(output)).collect();
        }
        // The common case: one run of all rows.
        if let [(Rows::Span(..), _)] = parts.as_slice() {
            return parts.remove(0).1;
        }
        let mut places = vec![None; rows];
        let mut sorted = true;
        let mut last = None;
        for (next, row) in parts.iter().flat_map(|(rows, _)| rows.iter()).enumerate() {
            places[row] = Some(next);
            sorted &= last.is_none_or(|l| l < row);
            last = Some(row);
        }
        let mut all = parts.remove(0).1;
        for (_, values) in parts {
            all.iter_mut().zip(values).for_each(|(all, part)| all.append(part));
        }
        if sorted {
            return all;
        }
        let places: Vec<usize> = places.into_iter().flatten().collect();
        all.iter().map(|values| values.pick(&places)).collect()
    }
}

/// The tensor of an input that is the same for every row.
fn constant_feed<'a>(input: &'a Input, constant: &'a Constant, n: usize) -> Feed<'a> {
    let name = input.name.as_str();
    let len = constant.data.len();
    let Some(axis) = input.axis else {
        return Feed { name, column: Cow::Borrowed(&constant.data), from: 0, len, shape: constant.shape.clone() };
    };
    let axis = axis.min(constant.shape.len());
    let outer: usize = constant.shape[..axis].iter().product();
    let inner: usize = constant.shape[axis..].iter().product();
    let spans: Vec<(usize, usize)> = (0..outer).flat_map(|o| std::iter::repeat_n((o * inner, inner), n)).collect();
    let mut shape = constant.shape.clone();
    shape.insert(axis, n);
    Feed { name, column: Cow::Owned(constant.data.copy(&spans)), from: 0, len: len * n, shape }
}

/// Appends a row of one shape as a row of a larger one.
fn pad(column: &Column, from: usize, shape: &[usize], target: &[usize], filler: &Column, out: &mut Column) {
    match (shape, target) {
        ([n, inside @ ..], [wide, target @ ..]) => {
            let step: usize = inside.iter().product();
            for i in 0..*wide {
                if i < *n {
                    pad(column, from + i * step, inside, target, filler, out);
                } else {
                    out.repeat(filler, 0, target.iter().product());
                }
            }
        }
        _ => out.append(column.copy(&[(from, 1)])),
    }
}

/// A tensor without a batch axis: every row has it whole.
fn whole(
    output: &Output,
    data: Column,
    dims: &[usize],
    rows: usize,
    changed: impl Fn(String) -> Error,
) -> Result<Values> {
    match &output.row {
        OutputRow::Tensor { shape, .. } => {
            let width = shape.iter().product();
            if data.len() != width {
                return Err(changed(format!("{}{dims:?}", data.element())));
            }
            let data = if rows == 1 { data } else { data.copy(&vec![(0, width); rows]) };
            Ok(Values::Tensor { width, data })
        }
        _ => {
            // Its size is known only now, so that the number of rows does not take account of it.
            let bytes = data.bytes().saturating_mul(rows);
            if rows > 1 && bytes > LARGEST_REPEATED {
                let what = "an output without a batch axis, repeated for every row".into();
                return Err(Error::OutOfMemory { what, bytes });
            }
            let mut open = Open::new(data.element());
            (1..rows).for_each(|_| open.push(dims, data.clone()));
            open.push(dims, data);
            Ok(Values::Open(open))
        }
    }
}

/// Rows of an output cut back to their own length where it follows the length that their input was padded to.
fn cut(open: &Open, output: &Output, padded: usize, own: &[usize]) -> Open {
    let OutputRow::Open { shape: declared, .. } = &output.row else { return open.clone() };
    let mut result = Open::new(open.data.element());
    for (row, own) in own.iter().enumerate().take(open.ends.len()) {
        let (shape, (from, len)) = (open.shape(row), open.span(row));
        let follows = |(d, n): (usize, &usize)| declared.get(d) == Some(&None) && *n == padded;
        let Some(axis) = shape.iter().enumerate().position(follows) else {
            result.push(shape, open.data.copy(&[(from, len)]));
            continue;
        };
        let inner: usize = shape[axis + 1..].iter().product();
        let outer: usize = shape[..axis].iter().product();
        let spans: Vec<(usize, usize)> = (0..outer).map(|o| (from + o * padded * inner, own * inner)).collect();
        let mut shape = shape.to_vec();
        shape[axis] = *own;
        result.push(&shape, open.data.copy(&spans));
    }
    result
}

/// The states of each row's own tokens, without those of padding.
fn trim(data: &Column, shape: &[usize], own: &[(usize, usize)]) -> Values {
    let step: usize = shape[1..].iter().product();
    let mut open = Open::new(data.element());
    for (i, (from, n)) in own.iter().enumerate() {
        let mut row = vec![*n];
        row.extend(&shape[1..]);
        open.push(&row, data.copy(&[((i * shape[0] + from) * step, n * step)]));
    }
    Values::Open(open)
}

/// One vector for each row, of the states of its tokens.
fn pool<'a>(
    data: Column,
    shape: &[usize],
    own: &[(usize, usize)],
    masks: impl Iterator<Item = &'a [u32]>,
    pooling: Pooling,
) -> Values {
    let width: usize = shape[1..].iter().product();
    let states = data.into_float32().unwrap_or_default();
    let mut out = Vec::with_capacity(own.len() * width);
    for (i, ((from, n), mask)) in own.iter().zip(masks).enumerate() {
        let start = out.len();
        out.resize(start + width, 0.0_f32);
        let state = |token: usize| &states[(i * shape[0] + from + token) * width..][..width];
        let counted: Vec<usize> = match pooling {
            Pooling::Cls => (0..(*n).min(1)).collect(),
            _ => (0..*n).filter(|t| mask.get(*t).is_some_and(|m| *m != 0)).collect(),
        };
        for token in &counted {
            out[start..].iter_mut().zip(state(*token)).for_each(|(sum, x)| *sum += x);
        }
        let count = counted.len().max(1) as f32;
        out[start..].iter_mut().for_each(|x| *x /= count);
    }
    Values::Tensor { width, data: Column::Float32(out) }
}

/// Gives every row a Euclidean length of 1; one without a length stays as it is.
fn normalize(values: &mut Values) {
    fn unit<T: Copy>(row: &mut [T], number: impl Fn(T) -> f64, back: impl Fn(f64) -> T) {
        let length = row.iter().map(|x| number(*x).powi(2)).sum::<f64>().sqrt();
        if length > 0.0 {
            row.iter_mut().for_each(|x| *x = back(number(*x) / length));
        }
    }
    fn spans(column: &mut Column, rows: impl Iterator<Item = (usize, usize)>) {
        for (from, n) in rows {
            match column {
                Column::Float32(v) => unit(&mut v[from..from + n], f64::from, |x| x as f32),
                Column::Float64(v) => unit(&mut v[from..from + n], |x| x, |x| x),
                Column::Float16(v) => unit(&mut v[from..from + n], f64::from, f16::from_f64),
                Column::Bfloat16(v) => unit(&mut v[from..from + n], f64::from, bf16::from_f64),
                // The options are checked against the outputs when the version is created.
                _ => {}
            }
        }
    }
    match values {
        Values::Tensor { width, data } => {
            let (width, rows) = (*width, data.len() / (*width).max(1));
            spans(data, (0..rows).map(|i| (i * width, width)));
        }
        Values::Open(open) => {
            let starts = std::iter::once(0).chain(open.ends.iter().copied());
            let rows: Vec<(usize, usize)> = starts.zip(&open.ends).map(|(a, b)| (a, b - a)).collect();
            spans(&mut open.data, rows.into_iter());
        }
        Values::Maps(_) | Values::Nested(_) => {}
    }
}

/// Maps as a JSON array of objects.
fn maps_json(maps: &Maps) -> serde_json::Value {
    let mut start = 0;
    maps.ends
        .iter()
        .map(|end| {
            let object = (start..*end).map(|i| {
                let key = match &maps.keys {
                    Keys::Int64(keys) => keys[i].to_string(),
                    Keys::Text(keys) => keys.get(i).to_owned(),
                };
                (key, crate::tensor::Scalar::Float32(maps.values[i]).json())
            });
            let object: serde_json::Map<String, serde_json::Value> = object.collect();
            start = *end;
            serde_json::Value::Object(object)
        })
        .collect()
}
