//! Divides the rows of a batch into groups that run together.

use std::collections::HashMap;

use crate::batch::{Batch, Shapes, Values};
use crate::run::RunContext;
use crate::signature::{Input, Source};
use crate::text::{Tokens, by_length};

/// The most tokens in a run of several texts, including padding. A larger run is no faster, and takes longer to cancel.
const TOKEN_BUDGET: usize = 512;

/// The same on a GPU, which works on all tokens of a run at once. 64 of the longest texts of most encoders.
const CARD_TOKEN_BUDGET: usize = 1 << 15;

/// The most elements in a run of several padded rows, including padding.
const PADDED_BUDGET: usize = 1 << 20;

/// Rows of a batch that run together.
pub(crate) enum RowSet {
    /// Consecutive rows: the first row and the number of rows.
    Span(usize, usize),
    /// The listed rows, in this order.
    List(Vec<usize>),
}

impl RowSet {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Span(_, n) => *n,
            Self::List(list) => list.len(),
        }
    }

    pub(crate) fn at(&self, i: usize) -> usize {
        match self {
            Self::Span(start, _) => start + i,
            Self::List(list) => list[i],
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> {
        (0..self.len()).map(|i| self.at(i))
    }

    /// Whether the rows are consecutive.
    pub(crate) fn is_span(&self) -> bool {
        match self {
            Self::Span(..) => true,
            Self::List(list) => list.windows(2).all(|w| w[1] == w[0] + 1),
        }
    }

    pub(crate) fn part(&self, from: usize, n: usize) -> Self {
        match self {
            Self::Span(start, _) => Self::Span(start + from, n),
            Self::List(list) => Self::List(list[from..from + n].to_vec()),
        }
    }
}

/// Rows that ran together, and their outputs.
pub(crate) type Part = (RowSet, Vec<Values>);

impl RunContext {
    /// Returns the most rows that one run takes, or `None` if there is no limit.
    pub(crate) fn most(&self) -> Option<usize> {
        let signature = self.signature();
        if signature.whole {
            return Some(1);
        }
        if self.version.runs_alone() {
            return Some(1);
        }
        signature.fixed_rows.map(|n| n.max(1))
    }

    /// Divides the rows of a batch into sets that run together. Texts that failed are left out.
    pub(crate) fn groups(&self, batch: &Batch, tokens: Option<&[Tokens]>, failed: &[(usize, String)]) -> Vec<RowSet> {
        let most = self.most().unwrap_or(batch.rows).max(1);
        if let Some(tokens) = tokens {
            let lengths: Vec<usize> = tokens.iter().map(|t| t.ids.len()).collect();
            let bad: Vec<usize> = failed.iter().map(|(row, _)| *row).collect();
            let good = |mut run: Vec<usize>| {
                run.retain(|row| bad.binary_search(row).is_err());
                (!run.is_empty()).then_some(RowSet::List(run))
            };
            let budget = if self.session.is_on_card() { CARD_TOKEN_BUDGET } else { TOKEN_BUDGET };
            return by_length(&lengths, budget, most).into_iter().filter_map(good).collect();
        }
        let slots: Vec<&Input> = self.signature().inputs.iter().filter(|i| i.source == Source::Row).collect();
        // An input without a batch axis has one value per run, so rows run together only if they agree on it.
        let shared: Vec<usize> = if self.signature().whole {
            Vec::new()
        } else {
            (0..slots.len().min(batch.columns.len())).filter(|i| slots[*i].axis.is_none()).collect()
        };
        let is_uneven = |s: &Shapes| matches!(s, Shapes::Each(each) if each.dims.chunks(each.rank.max(1)).any(|d| *d != each.dims[..each.rank.min(each.dims.len())]));
        if shared.is_empty() && !batch.shapes.iter().any(is_uneven) {
            return vec![RowSet::Span(0, batch.rows)];
        }
        // Rows of a group may differ in the shapes of padded inputs only.
        let padded = |i: usize| slots.get(i).is_some_and(|input| self.version.options.pad.contains_key(&input.name));
        let mut groups: Vec<Vec<usize>> = Vec::new();
        let mut known: HashMap<(Vec<usize>, String), usize> = HashMap::new();
        let content = |row: usize| -> String {
            shared.iter().map(|i| format!("{:?};", batch.columns[*i].copy(&[batch.shapes[*i].span(row)]))).collect()
        };
        for row in 0..batch.rows {
            let key: Vec<usize> = batch
                .shapes
                .iter()
                .enumerate()
                .filter(|(i, _)| !padded(*i))
                .flat_map(|(_, s)| s.of(row))
                .copied()
                .collect();
            let group = *known.entry((key, content(row))).or_insert_with(|| {
                groups.push(Vec::new());
                groups.len() - 1
            });
            groups[group].push(row);
        }
        if self.version.options.pad.is_empty() {
            return groups.into_iter().map(RowSet::List).collect();
        }
        let length =
            |row: usize| (0..batch.shapes.len()).filter(|i| padded(*i)).map(|i| batch.shapes[i].span(row).1).sum();
        groups
            .into_iter()
            .flat_map(|rows| {
                let lengths: Vec<usize> = rows.iter().map(|r| length(*r)).collect();
                by_length(&lengths, PADDED_BUDGET, most)
                    .into_iter()
                    .map(move |run| RowSet::List(run.into_iter().map(|i| rows[i]).collect()))
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    /// Returns the length that the rows of a run were padded to, and the length of each row. Returns `None` unless
    /// exactly one input is padded and has exactly one open dimension.
    pub(crate) fn padded(&self, batch: &Batch, rows: &RowSet) -> Option<(usize, Vec<usize>)> {
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

    /// Returns the length that the texts of a run are padded to. It is at least 1, because a model cannot take 0
    /// tokens.
    pub(crate) fn text_length(&self, tokens: &[Tokens], rows: &RowSet) -> usize {
        let longest = || rows.iter().map(|row| tokens[row].ids.len()).max().unwrap_or(0).max(1);
        self.signature().fixed_tokens().unwrap_or_else(longest)
    }

    /// Returns the number of rows in the tensors of a run: the fixed batch size, or else the number of rows.
    pub(crate) fn tensor_rows(&self, rows: &RowSet) -> usize {
        self.signature().fixed_rows.unwrap_or(rows.len())
    }
}
