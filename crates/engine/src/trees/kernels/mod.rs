//! Finds the leaves of rows and adds up their weights, with the widest vectors that the processor has.
//!
//! Rows are taken in parts that fit into the caches, and a part in blocks of `LANES` rows. The kernels go through a
//! part tree by tree, so that a tree is read from memory once for a part. A row's weights are added in the order of the
//! trees in every kernel, and each weight by itself. So the sums are those of ONNX Runtime with one thread.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
mod walk;

use crate::trees::compiled::{Compiled, Limits};
use crate::trees::ensemble::{Aggregate, Scored};
use crate::trees::number::Number;
use crate::trees::scores::{Finish, Score};

/// The number of rows of a block.
pub(crate) const LANES: usize = 64;

/// The number of rows of a part, if no tree needs a walk.
const PART: usize = 256;

/// The number of rows of a part, if a tree needs a walk. Such trees are large, so they are read less often.
const PART_OF_WALKS: usize = 1024;

/// The most rows that are faster walked through all trees than tested with masks, as measured.
const FEW: usize = 4;

/// The most memory for the columns of a part, in bytes.
const COLUMNS: usize = 256 << 10;

/// The environment variable that names the kernel, for tests and benchmarks: `avx512`, `avx2` or `portable`.
pub const KERNEL_VARIABLE: &str = "PG_PREDICT_TREE_KERNEL";

/// The instructions that a kernel uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kernel {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl Kernel {
    /// Returns the kernels that the processor can run, the fastest first.
    pub(crate) fn all() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi1");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512cd")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            if avx2 && avx512 {
                all.push(Self::Avx512);
            }
            if avx2 {
                all.push(Self::Avx2);
            }
        }
        all.push(Self::Portable);
        all
    }

    /// Returns the kernel that `KERNEL_VARIABLE` names, or the fastest one that the processor can run.
    pub(crate) fn chosen() -> Self {
        Self::named(std::env::var(KERNEL_VARIABLE).ok().as_deref())
    }

    /// Returns the kernel of this name. Without a name, or if the processor cannot run it, that is the fastest one.
    pub(crate) fn named(name: Option<&str>) -> Self {
        let all = Self::all();
        let is_named = |kernel: &&Self| Some(kernel.name()) == name;
        all.iter().find(is_named).or(all.first()).copied().unwrap_or(Self::Portable)
    }

    fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            Self::Portable => "portable",
        }
    }

    /// Returns the limits up to which masks are faster than walks, as measured.
    pub(crate) fn limits(self) -> Limits {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Limits { cuts: 512 },
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Limits { cuts: 320 },
            Self::Portable => Limits { cuts: 96 },
        }
    }
}

/// The rows of an input tensor, with `width` values each.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rows<'a> {
    Float32(&'a [f32]),
    Float64(&'a [f64]),
    Int64(&'a [i64]),
    Int32(&'a [i32]),
}

/// What a kernel reads and writes for one part of the rows.
pub(crate) struct Part<'a, T> {
    pub(crate) compiled: &'a Compiled<T>,
    /// The number of rows.
    pub(crate) rows: usize,
    /// The rows as they are in the input.
    pub(crate) input: &'a [T],
    pub(crate) width: usize,
    /// For each block, the compiled features, with `LANES` values each.
    pub(crate) columns: &'a [T],
    /// For each target, the sums of the rows of the part. The sums of a target are `capacity` values.
    pub(crate) sums: &'a mut [T],
    /// Like `sums`: whether a score is set. Empty if that is known for every target.
    pub(crate) set: &'a mut [bool],
    pub(crate) capacity: usize,
}

/// A type that has kernels.
pub(crate) trait Computed: Number {
    /// Adds the weights of all trees to the sums.
    fn add_trees(kernel: Kernel, part: &mut Part<'_, Self>);

    /// Returns the rows without conversion, or `None` if they have another type.
    fn as_they_are(rows: Rows<'_>) -> Option<&[Self]>;

    /// Converts an integer as ONNX Runtime does when it compares it with a threshold.
    fn of_integer(value: i64) -> Self;
}

impl Computed for f32 {
    fn add_trees(kernel: Kernel, part: &mut Part<'_, Self>) {
        match kernel {
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => avx512::add(part),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => avx2::add(part),
            Kernel::Portable => portable::add(part),
        }
    }

    fn as_they_are(rows: Rows<'_>) -> Option<&[Self]> {
        if let Rows::Float32(rows) = rows { Some(rows) } else { None }
    }

    #[allow(clippy::cast_precision_loss, reason = "as ONNX Runtime converts it")]
    fn of_integer(value: i64) -> Self {
        value as Self
    }
}

impl Computed for f64 {
    fn add_trees(kernel: Kernel, part: &mut Part<'_, Self>) {
        match kernel {
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => avx512::add_doubles(part),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => avx2::add_doubles(part),
            Kernel::Portable => portable::add(part),
        }
    }

    fn as_they_are(rows: Rows<'_>) -> Option<&[Self]> {
        if let Rows::Float64(rows) = rows { Some(rows) } else { None }
    }

    #[allow(clippy::cast_precision_loss, reason = "as ONNX Runtime converts it")]
    fn of_integer(value: i64) -> Self {
        value as Self
    }
}

/// Runs a compiled ensemble. Owns the memory that a run needs.
pub(crate) struct Runner<T> {
    kernel: Kernel,
    capacity: usize,
    columns: Vec<T>,
    converted: Vec<T>,
    sums: Vec<T>,
    set: Vec<bool>,
    outputs: Vec<T>,
    labels: Vec<i64>,
    finish: Finish<T>,
}

impl<T: Computed> Runner<T> {
    pub(crate) fn new(compiled: &Compiled<T>, kernel: Kernel) -> Self {
        let block = compiled.features.len().max(1) * LANES * size_of::<T>();
        let most = if compiled.has_walks { PART_OF_WALKS } else { PART };
        let blocks = (COLUMNS / block).clamp(1, most / LANES);
        Self {
            kernel,
            capacity: blocks * LANES,
            columns: Vec::new(),
            converted: Vec::new(),
            sums: Vec::new(),
            set: Vec::new(),
            outputs: Vec::new(),
            labels: Vec::new(),
            finish: Finish::new(&compiled.scoring),
        }
    }

    /// Computes rows. Calls `write` for each part with the position of its first row, its scores row by row, and the
    /// positions of its labels if it is a classifier. `width` is larger than every feature of the ensemble.
    pub(crate) fn run(
        &mut self,
        compiled: &Compiled<T>,
        rows: Rows<'_>,
        count: usize,
        width: usize,
        mut write: impl FnMut(usize, &[T], &[i64]),
    ) -> Result<(), Failure> {
        let targets = compiled.scoring.targets;
        let is_few = count <= FEW;
        // Few rows do not need the memory of a whole part.
        let capacity = self.capacity.min(count.next_multiple_of(LANES));
        let initial = match compiled.scoring.aggregate {
            Aggregate::Sum | Aggregate::Average => T::ZERO,
            Aggregate::Min => T::INFINITY,
            Aggregate::Max => -T::INFINITY,
        };
        for start in (0..count).step_by(capacity.max(1)) {
            let len = capacity.min(count - start);
            let input = match T::as_they_are(rows) {
                Some(rows) => &rows[start * width..(start + len) * width],
                None => {
                    filled(&mut self.converted, len * width, T::ZERO)?;
                    self.converted.clear();
                    convert(rows, start * width, len * width, &mut self.converted);
                    self.converted.as_slice()
                }
            };
            if !is_few {
                fill_columns(&mut self.columns, input, width, len, &compiled.features)?;
            }
            filled(&mut self.sums, targets * capacity, initial)?;
            if compiled.has_sometimes() {
                filled(&mut self.set, targets * capacity, false)?;
            }
            let mut part = Part {
                compiled,
                rows: len,
                input,
                width,
                columns: &self.columns,
                sums: &mut self.sums,
                set: &mut self.set,
                capacity,
            };
            if is_few {
                walk::add_few(&mut part);
            } else {
                T::add_trees(self.kernel, &mut part);
            }
            if targets == 1 {
                let sums = &mut self.sums[..len];
                sums.iter_mut().for_each(|sum| *sum = self.finish.single(&compiled.scoring, *sum));
                write(start, sums, &[]);
                continue;
            }
            filled(&mut self.outputs, len * targets, T::ZERO)?;
            self.labels.clear();
            for (i, outputs) in self.outputs.chunks_exact_mut(targets).enumerate() {
                let scores = compiled.scoring.scored.iter().enumerate().map(|(target, scored)| {
                    let at = target * capacity + i;
                    match scored {
                        Scored::Always => Score { sum: self.sums[at], is_set: true },
                        Scored::Never => Score { sum: T::ZERO, is_set: false },
                        Scored::Sometimes if self.set[at] => Score { sum: self.sums[at], is_set: true },
                        Scored::Sometimes => Score { sum: T::ZERO, is_set: false },
                    }
                });
                let label = self.finish.several(&compiled.scoring, scores, outputs);
                self.labels.push(label.ok_or(Failure::NoClass)?);
            }
            write(start, &self.outputs, &self.labels);
        }
        Ok(())
    }
}

/// The reason why rows could not be computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// A classifier found no class with a score.
    NoClass,
    OutOfMemory,
}

/// Fills a buffer that is reused with `len` values.
fn filled<T: Clone>(buffer: &mut Vec<T>, len: usize, value: T) -> Result<(), Failure> {
    buffer.clear();
    buffer.try_reserve(len).map_err(|_| Failure::OutOfMemory)?;
    buffer.resize(len, value);
    Ok(())
}

fn convert<T: Computed>(rows: Rows<'_>, start: usize, len: usize, to: &mut Vec<T>) {
    match rows {
        Rows::Float32(rows) => to.extend(rows[start..start + len].iter().map(|x| T::of_float(*x))),
        Rows::Float64(rows) => to.extend(rows[start..start + len].iter().map(|x| T::of_double(*x))),
        Rows::Int64(rows) => to.extend(rows[start..start + len].iter().map(|x| T::of_integer(*x))),
        Rows::Int32(rows) => to.extend(rows[start..start + len].iter().map(|x| T::of_integer(i64::from(*x)))),
    }
}

/// Copies the compiled features of each block, feature by feature. What is beyond the last row stays unspecified.
fn fill_columns<T: Number>(
    columns: &mut Vec<T>,
    input: &[T],
    width: usize,
    rows: usize,
    features: &[u32],
) -> Result<(), Failure> {
    let block = features.len() * LANES;
    let len = rows.div_ceil(LANES) * block;
    if columns.len() != len {
        filled(columns, len, T::ZERO)?;
    }
    if block == 0 || width == 0 {
        return Ok(());
    }
    for (columns, rows) in columns.chunks_exact_mut(block).zip(input.chunks(LANES * width)) {
        for (column, feature) in columns.chunks_exact_mut(LANES).zip(features) {
            for (value, row) in column.iter_mut().zip(rows.chunks_exact(width)) {
                *value = row[*feature as usize];
            }
        }
    }
    Ok(())
}
