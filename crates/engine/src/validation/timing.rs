//! Measures batches of different sizes and chooses the batch size.

use std::time::{Duration, Instant};

use crate::options::Batching;
use crate::ort::stop::Stop;
use crate::signature::{OutputRow, Signature};
use crate::tensor::{Column, ElementType};
use crate::validation::made_rows::{hash, rounded, whole};
use crate::validation::trial::{LARGEST_ANSWERS, Trial};

/// The longest run that a batch should cause. A cancelled run continues until its next graph node.
const LONGEST_RUN: Duration = Duration::from_millis(50);

/// The time limit for all measurements together.
const TIMING_BUDGET: Duration = Duration::from_millis(600);

/// The overhead charged per batch, for its handover and its other fixed costs. A batch must be long enough to make this
/// negligible.
const HANDOVER: Duration = Duration::from_micros(20);

/// The largest batch size whose cost per row is within this factor of the lowest cost is chosen. The overhead per batch
/// varies, and fewer batches never cost more.
const AS_GOOD: f64 = 1.02;

/// The largest batch, in bytes, that is kept to be run again.
const AGAIN: usize = 16 << 20;

/// The number of rows from which the time per row is reliable.
const ENOUGH: usize = 256;

/// The number of times that each size is run again after all sizes were measured once.
const ROUNDS: usize = 4;

/// The batch sizes that are measured.
const SIZES: [usize; 7] = [1, 16, 64, 256, 1024, 2048, 4096];

/// The batch size of a model that could not be run.
pub(crate) const UNMEASURED_BATCH_SIZE: usize = 256;

/// The largest batch size if each row is a run of its own. A larger one is no faster and increases latency.
const MOST_SINGLE_RUNS: f64 = 256.0;

/// The batch size for texts. So many texts contain enough of similar length to run together.
const WINDOW_OF_TEXTS: usize = 1024;

impl<'a> Trial<'a> {
    /// Measures batches of growing size and stores the times and the best batch size in the signature.
    pub(crate) fn time(&self, signature: &mut Signature) {
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
        // Some models reject scattered values.
        let mut some = self.rows(1, 0, None);
        some.columns.iter_mut().for_each(scatter);
        let scatters = signature.fixed_rows.is_none() && self.work.raw(&some, &stop).is_ok();
        let mut batches = Vec::new();
        for rows in sizes.into_iter().filter(|n| *n <= most || signature.fixed_rows.is_some()) {
            let mut batch = self.rows(rows, 0, None);
            if scatters {
                batch.columns.iter_mut().for_each(scatter);
            }
            // The first run of a size allocates its memory. It does not count if there is time for a second run.
            let mut fastest = Duration::MAX;
            for _ in 0..2 {
                let run = Instant::now();
                if self.work.raw(&batch, &stop).is_err() {
                    // The batch may be too large for the available memory. The sizes measured so far remain valid.
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
            // Sizes after the first count only if their runs are short enough.
            if seen.is_empty() || fastest <= LONGEST_RUN {
                seen.push((rows, fastest.as_secs_f64() * 1e6));
                // Large batches need no repetition, because other load distorts a long run only slightly.
                batches.push((batch.bytes() <= AGAIN).then_some(batch));
            }
            if fastest > LONGEST_RUN || started.elapsed() > TIMING_BUDGET {
                break;
            }
        }
        // The sizes take turns, so that other load on the machine affects all of them alike.
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
            whole(fit.clamp(1.0, MOST_SINGLE_RUNS)).min(most)
        } else {
            // Gathering rows has a fixed cost that a batch of a few rows does not amortise.
            rows.max(whole((fit / 2.0).clamp(0.0, ENOUGH as f64))).clamp(1, most)
        };
    }

    /// Returns the number of rows whose outputs stay within `LARGEST_ANSWERS`.
    pub(crate) fn rows_that_fit(&self, signature: &Signature) -> usize {
        let Some((n, answers)) = self.answers.first() else { return usize::MAX };
        let tokens = self.session.text().map_or(1, |text| text.max_length);
        let bytes: usize = signature
            .outputs
            .iter()
            .zip(answers)
            .map(|(output, dims)| {
                let size = output.element().map_or(8, ElementType::size);
                match (&output.row, output.tokens) {
                    // Pooling makes one vector of the states of tokens.
                    (OutputRow::Tensor { shape, .. }, true) => shape.iter().product::<usize>() * size,
                    (_, true) => dims.iter().skip(2).product::<usize>().saturating_mul(size * tokens),
                    (_, false) => dims.iter().product::<usize>().saturating_mul(size) / n.max(&1),
                }
            })
            .sum();
        (LARGEST_ANSWERS / bytes.max(1)).max(1)
    }
}

/// Returns the batch size with the lowest cost per row, and its time per row in the model, in microseconds. `seen`: the
/// batch sizes and the times of their runs, in microseconds.
pub(crate) fn best_of(seen: &[(usize, f64)]) -> Option<(usize, f64)> {
    let cost = |(rows, micros): (usize, f64)| (micros + HANDOVER.as_secs_f64() * 1e6) / rows as f64;
    // Repeated runs of the same few rows train the CPU's branch predictor on their trees. They appear to take half
    // their real time.
    let enough = &seen[seen.iter().position(|(rows, _)| *rows >= ENOUGH).unwrap_or(0)..];
    let least = enough.iter().map(|s| cost(*s)).reduce(f64::min)?;
    let best = enough.iter().rfind(|s| cost(**s) <= least * AS_GOOD)?;
    Some((best.0, best.1 / best.0 as f64))
}

/// Fills float columns with values of many magnitudes, each unlike its neighbours. Rows then take all paths through a
/// tree, and branches are not predictable.
fn scatter(column: &mut Column) {
    let value = |i: usize| {
        let hash = hash(0, i);
        let scale = [0.01, 0.1, 1.0, 10.0, 100.0, 1000.0][(hash >> 7) as usize % 6];
        (f64::from(hash >> 12) / f64::from(1_u32 << 20) - 0.25) * scale
    };
    match column {
        Column::Float32(v) => v.iter_mut().enumerate().for_each(|(i, x)| *x = rounded(value(i))),
        Column::Float64(v) => v.iter_mut().enumerate().for_each(|(i, x)| *x = value(i)),
        _ => {}
    }
}
