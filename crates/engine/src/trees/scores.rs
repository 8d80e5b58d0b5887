//! Turns the summed weights of a row into outputs, with the rounding of ONNX Runtime.
//!
//! Several rules look arbitrary. They are what ONNX Runtime 1.32 does, and `tests` compares them with it.

use crate::trees::ensemble::{Aggregate, Labels, Operator, Scoring, Transform};
use crate::trees::number::Number;

/// The score of a target. It counts as 0 if no weight was added to it, even after a base value was.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Score<T> {
    pub(crate) sum: T,
    pub(crate) is_set: bool,
}

impl<T: Number> Score<T> {
    fn value(self) -> T {
        if self.is_set { self.sum } else { T::ZERO }
    }

    fn set(&mut self, to: T) {
        *self = Self { sum: to, is_set: true };
    }
}

/// How a binary classifier with one score makes two of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Second {
    /// There is no second score.
    None,
    /// The scores are probabilities.
    Complement,
    /// The scores are on both sides of 0.
    Opposite,
}

/// Finishes the rows of an ensemble.
pub(crate) struct Finish<T> {
    base: Vec<T>,
    trees: T,
    /// The scores of one row. Reused for each row.
    row: Vec<Score<T>>,
}

impl<T: Number> Finish<T> {
    pub(crate) fn new(scoring: &Scoring) -> Self {
        Self {
            base: scoring.base.iter().map(|b| T::of_double(*b)).collect(),
            trees: T::of_count(scoring.trees),
            row: Vec::with_capacity(scoring.targets),
        }
    }

    /// Finishes a row of a single target. `sum` has no score if there are no trees, which cannot be.
    pub(crate) fn single(&self, scoring: &Scoring, sum: T) -> T {
        let origin = self.base.first().copied().unwrap_or(T::ZERO);
        let sum = if scoring.aggregate == Aggregate::Average { sum / self.trees } else { sum };
        let sum = sum + origin;
        // ONNX Runtime applies no other transformation to a single target.
        if scoring.transform == Transform::Probit { T::of_float(probit(sum.to_float())) } else { sum }
    }

    /// Finishes a row of several targets. Writes the outputs, and returns the position of the label of a classifier:
    /// `None` if no class has a score.
    pub(crate) fn several(
        &mut self,
        scoring: &Scoring,
        scores: impl Iterator<Item = Score<T>>,
        outputs: &mut [T],
    ) -> Option<i64> {
        self.row.clear();
        self.row.extend(scores);
        if scoring.operator == Operator::Classifier {
            return self.classify(scoring, outputs);
        }
        match scoring.aggregate {
            Aggregate::Sum | Aggregate::Average => {
                for (i, score) in self.row.iter_mut().enumerate() {
                    if scoring.aggregate == Aggregate::Average {
                        score.sum = score.sum / self.trees;
                    }
                    if let Some(base) = self.base.get(i) {
                        score.sum = score.sum + *base;
                    }
                }
            }
            Aggregate::Min | Aggregate::Max => {
                for (i, score) in self.row.iter_mut().enumerate() {
                    score.sum = self.base.get(i).copied().unwrap_or(T::ZERO) + score.value();
                }
            }
        }
        self.write(scoring.transform, Second::None, outputs);
        Some(0)
    }

    fn classify(&mut self, scoring: &Scoring, outputs: &mut [T]) -> Option<i64> {
        let mut second = Second::None;
        let label = if scoring.targets > 2 {
            for (score, base) in self.row.iter_mut().zip(&self.base) {
                score.set(if score.is_set { score.sum + *base } else { *base });
            }
            let mut best: Option<(usize, T)> = None;
            for (i, score) in self.row.iter().enumerate().filter(|(_, s)| s.is_set) {
                if best.is_none_or(|(_, most)| score.sum > most) {
                    best = Some((i, score.sum));
                }
            }
            i64::try_from(best?.0).ok()?
        } else {
            match *self.base.as_slice() {
                [zero, one] => {
                    let [first, last] = self.row.as_mut_slice() else { return None };
                    if last.is_set {
                        last.sum = one + first.sum;
                        first.sum = -last.sum;
                    } else {
                        last.sum = last.sum + one;
                        first.sum = first.sum + zero;
                    }
                }
                [one] => {
                    let [first, last] = self.row.as_mut_slice() else { return None };
                    first.sum = first.sum + one;
                    if !last.is_set {
                        self.row.pop();
                    }
                }
                _ => {
                    second = Second::Opposite;
                    if !self.row.get(1)?.is_set {
                        self.row.pop();
                    }
                }
            }
            let positive = match *self.row.as_slice() {
                [_, last] if last.is_set => last.sum,
                [first, ..] if first.is_set => first.sum,
                _ => T::ZERO,
            };
            if scoring.one_class_weighted {
                second = if scoring.no_negative_weight { Second::Complement } else { Second::Opposite };
            }
            let limit = if scoring.one_class_weighted && scoring.no_negative_weight { 0.5 } else { 0.0 };
            i64::from(positive.to_double() > limit)
        };
        self.write(scoring.transform, second, outputs);
        Some(label)
    }

    fn write(&mut self, transform: Transform, second: Second, outputs: &mut [T]) {
        if let [score] = *self.row.as_slice() {
            let sum = score.value();
            let (first, last) = match (transform, second) {
                (Transform::Probit, _) => (T::of_float(probit(sum.to_float())), None),
                (Transform::Logistic, Second::Complement | Second::Opposite) => {
                    let (of_sum, of_opposite) = logistic_of_both(sum.to_float());
                    (T::of_float(of_opposite), Some(T::of_float(of_sum)))
                }
                (_, Second::Complement) => (T::ONE - sum, Some(sum)),
                (_, Second::Opposite) => (-sum, Some(sum)),
                (_, Second::None) => (sum, None),
            };
            if let Some(output) = outputs.first_mut() {
                *output = first;
            }
            if let (Some(output), Some(last)) = (outputs.get_mut(1), last) {
                *output = last;
            }
            return;
        }
        match transform {
            Transform::None => {}
            Transform::Probit => self.each(probit),
            Transform::Logistic => self.each(|x| logistic_of_both(x).0),
            Transform::Softmax => self.softmax(),
            Transform::SoftmaxZero => self.softmax_zero(),
        }
        for (output, score) in outputs.iter_mut().zip(&self.row) {
            *output = score.value();
        }
    }

    fn each(&mut self, function: impl Fn(f32) -> f32) {
        for score in &mut self.row {
            score.set(T::of_float(function(score.value().to_float())));
        }
    }

    fn largest(&self) -> f32 {
        self.row.iter().fold(f32::MIN, |most, score| {
            let value = score.value().to_float();
            if value > most { value } else { most }
        })
    }

    fn softmax(&mut self) {
        let largest = self.largest();
        let mut sum = 0.0_f32;
        for score in &mut self.row {
            let power = (score.value().to_float() - largest).exp();
            score.set(T::of_float(power));
            sum += power;
        }
        for score in &mut self.row {
            score.set(T::of_float(score.value().to_float() / sum));
        }
    }

    fn softmax_zero(&mut self) {
        let largest = self.largest();
        let of_zero = (-largest).exp();
        let mut sum = 0.0_f32;
        for score in &mut self.row {
            let value = score.value().to_float();
            #[allow(clippy::manual_range_contains, reason = "NaN takes the other branch of the negation")]
            if value > 0.000_000_1 || value < -0.000_000_1 {
                let power = (value - largest).exp();
                score.set(T::of_float(power));
                sum += power;
            } else {
                score.set(score.value() * T::of_float(of_zero));
            }
        }
        for score in &mut self.row {
            score.set(score.value() / T::of_float(sum));
        }
    }
}

/// Returns the logistic function of a number and of its opposite, which share the power.
fn logistic_of_both(x: f32) -> (f32, f32) {
    let upper = 1.0 / (1.0 + (-x.abs()).exp());
    let of = |x: f32| if x < 0.0 { 1.0 - upper } else { upper };
    (of(x), of(-x))
}

/// The inverse of the error function, by Winitzki's approximation, scaled to the inverse of the normal distribution.
fn probit(x: f32) -> f32 {
    let x = 2.0 * x - 1.0;
    let sign = if x < 0.0 { -1.0 } else { 1.0 };
    let log = ((1.0 - x) * (1.0 + x)).ln();
    let v = 2.0 / (std::f32::consts::PI * 0.147) + 0.5 * log;
    let v2 = 1.0 / 0.147 * log;
    let v3 = -v + (v * v - v2).sqrt();
    let result = std::f32::consts::SQRT_2 * (sign * v3.sqrt());
    // The sign that NaN has in ONNX Runtime. Rust does not specify the sign of a computed NaN.
    if result.is_nan() { -f32::NAN } else { result }
}

impl Labels {
    /// Returns the number that a classifier answers for a label's position. A binary classifier whose classes both have
    /// weights answers 0 or 1, whatever its labels are.
    pub(crate) fn answer(&self, position: i64, scoring: &Scoring) -> Option<i64> {
        match self {
            Self::Texts(_) => Some(position),
            Self::Integers(_) if scoring.targets == 2 && !scoring.one_class_weighted => Some(position),
            Self::Integers(labels) => labels.get(usize::try_from(position).ok()?).copied(),
        }
    }
}
