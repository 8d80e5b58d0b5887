//! Finds the leaves of rows and adds up their weights, with the widest vectors that the processor has.
//!
//! Rows are taken in parts that fit into the caches. A part's values become ranks, and then it goes tree by tree, so
//! that a tree is read from memory once for a part. A row's weights are added in the order of the trees in every kernel,
//! and each weight by itself. So the sums are those of ONNX Runtime with one thread.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
mod walk;

use crate::trees::compiled::{Compiled, CompiledTree, Cut, Form, LeafWeights};
use crate::trees::ensemble::{Aggregate, Scored};
use crate::trees::index;
use crate::trees::number::Number;
use crate::trees::ranks::{self, Ranks, Values};
use crate::trees::scores::{Finish, Score};

/// Kernels read and write whole blocks of this number of rows.
pub(crate) const BLOCK: usize = 64;

/// The number of rows that go through a tree together, and the rows of a part if no tree needs a walk.
pub(crate) const GROUP: usize = 256;

/// The number of trees that few rows go through at the same time.
const TOGETHER: usize = 4;

/// The number of rows of a part, if a tree needs a walk. Such trees are large, so they are read less often.
const PART_OF_WALKS: usize = 1024;

/// The most rows that are faster walked through all trees than cut, as measured.
const FEW: usize = 4;

/// The most memory for the ranks of a part, in bytes.
const RANKS: usize = 256 << 10;

/// The environment variable that names the kernel, for tests and benchmarks: `avx512`, `avx2`, `neon` or `portable`.
pub const KERNEL_VARIABLE: &str = "PG_PREDICT_TREE_KERNEL";

/// The instructions that a kernel uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kernel {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "aarch64")]
    Neon,
    Portable,
}

impl Kernel {
    /// Returns the kernels that the processor can run, the fastest first.
    pub(crate) fn all() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("popcnt");
            let avx512 = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
            if avx2 && avx512 {
                all.push(Self::Avx512);
            }
            if avx2 {
                all.push(Self::Avx2);
            }
        }
        #[cfg(target_arch = "aarch64")]
        all.push(Self::Neon);
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
            #[cfg(target_arch = "aarch64")]
            Self::Neon => "neon",
            Self::Portable => "portable",
        }
    }

    /// Finds the leaves of rows in trees: of up to `GROUP` rows in one, or of up to `BLOCK` in several. Reads the ranks of
    /// whole blocks only.
    fn leaves<const TREES: usize>(
        self,
        cuts: [&[Cut]; TREES],
        ranks: &RanksOfRows<'_>,
        rows: usize,
        leaves: &mut [[u8; GROUP]; TREES],
    ) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => avx512::leaves(cuts, ranks, rows, leaves),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => avx2::leaves(cuts, ranks, rows, leaves),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => neon::leaves(cuts, ranks, rows, leaves),
            Self::Portable => portable::leaves(cuts, ranks, rows, leaves),
        }
    }
}

/// The ranks of a part's rows, from one row on. Each column has `capacity` ranks.
struct RanksOfRows<'a> {
    ranks: &'a [i8],
    capacity: usize,
}

impl RanksOfRows<'_> {
    /// Returns the ranks of `N` rows in a column, from `row` on. A check here would cost a tenth of a run, as measured.
    ///
    /// # Safety
    ///
    /// The column must be one that `Ranks` has given a cut of the same ensemble. The rows must be within blocks of which
    /// each has a row. Such blocks are whole, because `capacity` is a multiple of `BLOCK`.
    #[inline(always)]
    unsafe fn of<const N: usize>(&self, column: u32, row: usize) -> &[i8; N] {
        let start = index(column) * self.capacity + row;
        debug_assert!(start + N <= self.ranks.len());
        // SAFETY: as the caller promises.
        unsafe { &*self.ranks.as_ptr().add(start).cast() }
    }
}

/// Adds the values of leaves to the sums of rows.
pub(crate) struct Addition<'a, T> {
    by: Aggregate,
    /// The values of a tree's leaves for one target.
    values: &'a [T],
    /// The number of leaves.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        allow(dead_code, reason = "only vector kernels look values up in registers")
    )]
    count: u32,
    /// The leaf of each row.
    leaves: &'a [u8; GROUP],
    rows: usize,
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
    /// The ranks that cuts test, `capacity` for each column.
    pub(crate) ranks: &'a [i8],
    /// For each target, the sums of the rows of the part. The sums of a target are `capacity` values.
    pub(crate) sums: &'a mut [T],
    /// Like `sums`: whether a score is set. Empty if that is known for every target.
    pub(crate) set: &'a mut [bool],
    pub(crate) capacity: usize,
}

/// Adds the weights of all trees to the sums.
fn add_trees<T: Computed>(kernel: Kernel, part: &mut Part<'_, T>) {
    let compiled = part.compiled;
    let mut leaves = [[0; GROUP]; TOGETHER];
    // Few rows do not fill the processor's pipeline, because each cut of a tree waits for the one before it.
    let together = if part.rows <= BLOCK { TOGETHER } else { 1 };
    for trees in compiled.trees.chunks(together) {
        let cuts = std::array::from_fn(|i| trees.get(i).map_or(&[][..], |tree| compiled.cuts_of(tree)));
        for first in (0..part.rows).step_by(GROUP) {
            let rows = (part.rows - first).min(GROUP);
            // Without cuts there are no ranks.
            let ranks = part.ranks.get(first..).unwrap_or_default();
            let ranks = RanksOfRows { ranks, capacity: part.capacity };
            match trees {
                [_] => kernel.leaves([cuts[0]], &ranks, rows, std::array::from_mut(&mut leaves[0])),
                _ => kernel.leaves::<TOGETHER>(cuts, &ranks, rows, &mut leaves),
            }
            for (tree, leaves) in trees.iter().zip(&leaves) {
                let count = match tree.form {
                    Form::Walk(tests) => {
                        walk::add(part, first, rows, tree, tests);
                        continue;
                    }
                    Form::Cuts { leaves, .. } => leaves,
                };
                let by = compiled.scoring.aggregate;
                let add = |values: &[T], sums: &mut [T]| {
                    T::add_values(kernel, &Addition { by, values, count, leaves, rows }, sums);
                };
                add_weights(part, first, rows, tree, add, |row| u32::from(leaves[row]));
            }
        }
    }
}

/// Adds the weights of a tree's leaves to the sums of rows, from `first` on. `add` adds the values of one target to
/// sums of whole blocks, and `leaf` gives the leaf of a row.
#[inline(always)]
fn add_weights<T: Number>(
    part: &mut Part<'_, T>,
    first: usize,
    rows: usize,
    tree: &CompiledTree,
    add: impl Fn(&[T], &mut [T]),
    leaf: impl Fn(usize) -> u32,
) {
    let compiled = part.compiled;
    let mut add = |target: u32, values: usize| {
        let sums = index(target) * part.capacity + first;
        add(&compiled.values[values..], &mut part.sums[sums..sums + rows.next_multiple_of(BLOCK)]);
    };
    match tree.weights {
        LeafWeights::One { target, values } => add(target, index(values)),
        LeafWeights::Same { targets, count, values, stride } => {
            for (i, target) in compiled.targets[index(targets)..][..index(count)].iter().enumerate() {
                add(*target, index(values) + i * index(stride));
            }
        }
        LeafWeights::Any { .. } => {
            for row in 0..rows {
                portable::add_weights_of_row(part, first + row, tree.weights, leaf(row));
            }
        }
    }
}

/// A type that has kernels.
pub(crate) trait Computed: Number {
    /// Writes the ranks of rows, as `Ranks::fill` does.
    fn fill(kernel: Kernel, of: &Ranks<Self>, ranks: &mut [i8], capacity: usize, rows: Values<'_, Self>);

    /// Adds values to `sums`, which has whole blocks.
    fn add_values(kernel: Kernel, addition: &Addition<'_, Self>, sums: &mut [Self]);

    /// Returns the rows without conversion, or `None` if they have another type.
    fn as_they_are(rows: Rows<'_>) -> Option<&[Self]>;

    /// Converts an integer as ONNX Runtime does when it compares it with a threshold.
    fn of_integer(value: i64) -> Self;
}

impl Computed for f32 {
    fn fill(kernel: Kernel, of: &Ranks<Self>, ranks: &mut [i8], capacity: usize, rows: Values<'_, Self>) {
        match kernel {
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => avx512::fill(of, ranks, capacity, rows),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => avx2::fill(of, ranks, capacity, rows),
            #[cfg(target_arch = "aarch64")]
            Kernel::Neon => neon::fill(of, ranks, capacity, rows),
            Kernel::Portable => of.fill(ranks, capacity, rows, ranks::Portable),
        }
    }

    fn add_values(kernel: Kernel, addition: &Addition<'_, Self>, sums: &mut [Self]) {
        match kernel {
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => avx512::add(addition, sums),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => avx2::add(addition, sums),
            #[cfg(target_arch = "aarch64")]
            Kernel::Neon => portable::add_bytes(addition, sums),
            Kernel::Portable => portable::add_bytes(addition, sums),
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
    fn fill(_: Kernel, of: &Ranks<Self>, ranks: &mut [i8], capacity: usize, rows: Values<'_, Self>) {
        of.fill(ranks, capacity, rows, ranks::Portable);
    }

    fn add_values(_: Kernel, addition: &Addition<'_, Self>, sums: &mut [Self]) {
        portable::add_bytes(addition, sums);
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
    ranks: Vec<i8>,
    converted: Vec<T>,
    sums: Vec<T>,
    set: Vec<bool>,
    outputs: Vec<T>,
    labels: Vec<i64>,
    finish: Finish<T>,
}

impl<T: Computed> Runner<T> {
    pub(crate) fn new(compiled: &Compiled<T>, kernel: Kernel) -> Self {
        let most = if compiled.has_walks { PART_OF_WALKS } else { GROUP };
        let fitting = RANKS / index(compiled.ranks.columns).max(1);
        Self {
            kernel,
            capacity: (fitting / BLOCK * BLOCK).clamp(BLOCK, most),
            ranks: Vec::new(),
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
        let capacity = self.capacity.min(count.next_multiple_of(BLOCK));
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
                let size = index(compiled.ranks.columns) * capacity;
                if self.ranks.len() != size {
                    filled(&mut self.ranks, size, 0)?;
                }
                T::fill(self.kernel, &compiled.ranks, &mut self.ranks, capacity, Values { input, width, rows: len });
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
                ranks: &self.ranks,
                sums: &mut self.sums,
                set: &mut self.set,
                capacity,
            };
            if is_few {
                walk::add_few(&mut part);
            } else {
                add_trees(self.kernel, &mut part);
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
