//! The operators of ONNX Runtime that run compiled tree ensembles. Contains six `unsafe` blocks.
//!
//! The blocks call the C API of ONNX Runtime. `ort`'s own functions collect the type, the shape and the dimension names
//! of every tensor, which takes half a microsecond for each run.
//!
//! There is one operator for each element type of the input, because the type is known only when ONNX Runtime has
//! inferred it. A panic must not cross into C++, so the operators catch it.

use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::{ptr, slice};

use ort::operator::{
    BoxedKernel, ComputeContext, Kernel as OrtKernel, KernelContext, Operator as OrtOperator, OperatorDomain,
    OperatorInput, OperatorOutput,
};
use ort::value::{PrimitiveTensorElementType, TensorElementType};
use ort::{AsPointer, ortsys};
use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::trees::Unfit;
use crate::trees::compiled::Compiled;
use crate::trees::ensemble::{Ensemble, Labels, Operator, Scoring};
use crate::trees::kernels::{Computed, Failure, Kernel, Rows, Runner};
use crate::trees::rewriting::{DOMAIN, POSITION};

/// The ensembles of one session, for the operators that compile them.
pub(crate) struct Ensembles {
    kernel: Kernel,
    waiting: Mutex<Vec<Arc<Ensemble>>>,
}

impl Ensembles {
    pub(crate) fn new(ensembles: Vec<Arc<Ensemble>>, kernel: Kernel) -> Arc<Self> {
        Arc::new(Self { kernel, waiting: Mutex::new(ensembles) })
    }

    /// Frees the ensembles. Call this after the session was created.
    pub(crate) fn release(&self) {
        *self.waiting.lock() = Vec::new();
    }
}

/// An operator for one type of input.
struct TreeOperator {
    operator: Operator,
    texts: bool,
    input: TensorElementType,
    ensembles: Arc<Ensembles>,
}

/// Creates the operators for the ensembles of a session.
#[allow(clippy::arc_with_non_send_sync, reason = "`ort` takes the domain in an `Arc`")]
pub(crate) fn domain(ensembles: &Arc<Ensembles>) -> Result<Arc<OperatorDomain>> {
    let failed = |e: ort::Error| Error::InvalidModel { reason: e.message().to_owned() };
    let mut domain = OperatorDomain::new(DOMAIN).map_err(failed)?;
    let floats = [TensorElementType::Float32, TensorElementType::Float64].as_slice();
    let numbers =
        &[TensorElementType::Float32, TensorElementType::Float64, TensorElementType::Int64, TensorElementType::Int32];
    for (operator, texts, inputs) in [
        (Operator::Regressor, false, floats),
        (Operator::Classifier, false, numbers),
        (Operator::Classifier, true, numbers),
        (Operator::Ensemble, false, floats),
    ] {
        for input in inputs {
            let ensembles = Arc::clone(ensembles);
            domain = domain.add(TreeOperator { operator, texts, input: *input, ensembles }).map_err(failed)?;
        }
    }
    Ok(Arc::new(domain))
}

fn failed(reason: impl Into<String>) -> ort::Error {
    ort::Error::new(reason)
}

impl OrtOperator for TreeOperator {
    type Kernel<'a> = BoxedKernel<'a>;

    fn name(&self) -> &str {
        self.operator.name(self.texts)
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [OperatorInput::required(self.input)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        let label = if self.texts { TensorElementType::String } else { TensorElementType::Int64 };
        match self.operator {
            Operator::Regressor => vec![OperatorOutput::required(TensorElementType::Float32)],
            Operator::Ensemble => vec![OperatorOutput::required(self.input)],
            Operator::Classifier => {
                vec![OperatorOutput::required(label), OperatorOutput::required(TensorElementType::Float32)]
            }
        }
    }

    fn create_kernel<'a>(&self, context: &KernelContext<'a>) -> ort::Result<BoxedKernel<'a>> {
        let position = context.get::<i64>(POSITION).and_then(|p| usize::try_from(p).ok());
        let ensemble = position.and_then(|p| self.ensembles.waiting.lock().get(p).cloned());
        let ensemble = ensemble.ok_or_else(|| failed("no such tree ensemble"))?;
        let kernel = self.ensembles.kernel;
        let create = || -> ort::Result<BoxedKernel<'a>> {
            Ok(match (self.operator, self.input) {
                (Operator::Ensemble, TensorElementType::Float64) => {
                    Box::new(TreeKernel::<f64, f64, f64>::new(&ensemble, kernel, |x| Rows::Float64(x))?)
                }
                (_, TensorElementType::Float64) => {
                    Box::new(TreeKernel::<f64, f64, f32>::new(&ensemble, kernel, |x| Rows::Float64(x))?)
                }
                (_, TensorElementType::Int64) => {
                    Box::new(TreeKernel::<i64, f32, f32>::new(&ensemble, kernel, |x| Rows::Int64(x))?)
                }
                (_, TensorElementType::Int32) => {
                    Box::new(TreeKernel::<i32, f32, f32>::new(&ensemble, kernel, |x| Rows::Int32(x))?)
                }
                _ => Box::new(TreeKernel::<f32, f32, f32>::new(&ensemble, kernel, |x| Rows::Float32(x))?),
            })
        };
        catch_unwind(AssertUnwindSafe(create)).unwrap_or_else(|_| Err(failed("the tree ensemble was not compiled")))
    }
}

/// A compiled ensemble for inputs of type `I`, numbers of type `T` and scores of type `O`.
struct TreeKernel<I, T, O> {
    compiled: Compiled<T>,
    runner: Runner<T>,
    rows: fn(&[I]) -> Rows<'_>,
    texts: Vec<CString>,
    of_table: bool,
    output: std::marker::PhantomData<fn() -> O>,
}

/// A type of scores.
trait Output<T>: PrimitiveTensorElementType + Copy {
    fn of(value: T) -> Self;
}

impl Output<f32> for f32 {
    fn of(value: f32) -> Self {
        value
    }
}

impl Output<f64> for f32 {
    fn of(value: f64) -> Self {
        crate::trees::number::Number::to_float(value)
    }
}

impl Output<f64> for f64 {
    fn of(value: f64) -> Self {
        value
    }
}

impl<I, T, O> TreeKernel<I, T, O>
where
    I: PrimitiveTensorElementType,
    T: Computed,
    O: Output<T>,
{
    fn new(ensemble: &Ensemble, kernel: Kernel, rows: fn(&[I]) -> Rows<'_>) -> ort::Result<Self> {
        let is_double = size_of::<T>() == size_of::<f64>();
        if ensemble.double.is_some_and(|double| double != is_double) {
            return Err(failed("the tree ensemble has another type than its input"));
        }
        let compiled = Compiled::of(ensemble).map_err(|unfit| match unfit {
            Unfit::Left(reason) | Unfit::Refused(reason) => failed(reason),
        })?;
        let texts = match &compiled.scoring.labels {
            Some(Labels::Texts(texts)) => texts.iter().map(|t| CString::new(t.as_str())).collect(),
            _ => Ok(Vec::new()),
        };
        let texts = texts.map_err(|_| failed("a label contains a zero byte"))?;
        let runner = Runner::new(&compiled, kernel);
        Ok(Self { compiled, runner, rows, texts, of_table: ensemble.of_table, output: std::marker::PhantomData })
    }

    fn run(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let (dims, values) = input::<I>(context)?;
        let (count, width, features) = match dims {
            Dims::One(_) if self.of_table => return Err(failed("the input of the trees has no columns")),
            Dims::One(n) => (1, n, 1),
            Dims::Two(rows, width) => (rows, width, width),
        };
        let last = self.compiled.last_feature;
        if last >= features || values.len() != count * width {
            return Err(failed(format!(
                "One path in the graph requests feature {last} but input tensor has {features} features."
            )));
        }
        let rows = (self.rows)(values);
        let targets = self.compiled.scoring.targets;
        let unable = |failure| match failure {
            Failure::NoClass => failed("no class of the tree ensemble has a score"),
            Failure::OutOfMemory => failed("out of memory in a tree ensemble"),
        };
        let Some(labels) = &self.compiled.scoring.labels else {
            let scores = output::<O, 2>(context, 0, [count, targets])?;
            let done = self.runner.run(&self.compiled, rows, count, width, |row, values, _| {
                write_scores(scores, row * targets, values);
            });
            return done.map_err(unable);
        };
        let scores = output::<O, 2>(context, 1, [count, targets])?;
        if self.texts.is_empty() {
            let label = output::<i64, 1>(context, 0, [count])?;
            let scoring: &Scoring = &self.compiled.scoring;
            let done = self.runner.run(&self.compiled, rows, count, width, |row, values, positions| {
                write_scores(scores, row * targets, values);
                for (label, position) in label.iter_mut().skip(row).zip(positions) {
                    *label = labels.answer(*position, scoring).unwrap_or_default();
                }
            });
            return done.map_err(unable);
        }
        let texts = &self.texts;
        let mut places: Vec<*const c_char> = Vec::new();
        places.try_reserve_exact(count).map_err(|_| failed("out of memory for the labels of a tree ensemble"))?;
        let done = self.runner.run(&self.compiled, rows, count, width, |row, values, positions| {
            write_scores(scores, row * targets, values);
            let text = |position: &i64| usize::try_from(*position).ok().and_then(|p| texts.get(p));
            places.extend(positions.iter().filter_map(text).map(|text| text.as_ptr()));
        });
        done.map_err(unable)?;
        let dims = signed([count])?;
        // SAFETY: the first output of this operator is a text tensor, and ONNX Runtime rejects any number of texts other
        // than its number of elements. Each pointer is the beginning of a text in `self.texts`, which ends with a zero
        // byte.
        unsafe {
            let mut value = ptr::null_mut();
            checked(ortsys![KernelContext_GetOutput](pointer(context), 0, dims.as_ptr(), 1, &mut value))?;
            checked(ortsys![FillStringTensor](value, places.as_ptr(), places.len()))
        }
    }
}

/// The dimensions of an input.
enum Dims {
    One(usize),
    Two(usize, usize),
}

fn pointer(context: &ComputeContext) -> *mut <ComputeContext as AsPointer>::Sys {
    context.ptr().cast_mut()
}

/// Converts ONNX Runtime's status, which must be its answer to the last call.
fn checked(status: ort::sys::OrtStatusPtr) -> ort::Result<()> {
    // SAFETY: each caller passes the status that ONNX Runtime has just returned, and passes it once.
    unsafe { ort::Error::result_from_status(status) }
}

fn signed<const N: usize>(dims: [usize; N]) -> ort::Result<[i64; N]> {
    let signed = dims.map(|n| i64::try_from(n).unwrap_or(-1));
    if signed.contains(&-1) { Err(failed("an output of the tree ensemble is too large")) } else { Ok(signed) }
}

/// Returns the dimensions and the elements of the input, whose type is the one that the operator declares.
fn input<I>(context: &ComputeContext) -> ort::Result<(Dims, &[I])> {
    let (mut dims, mut rank, mut data) = ([0_i64; 2], 0, ptr::null_mut());
    // SAFETY: `context` is the context of the run. ONNX Runtime returns a tensor for a required input, and it lives for
    // the run. At most two dimensions are written into the room for two. The shape is released once.
    unsafe {
        let (mut value, mut shape) = (ptr::null(), ptr::null_mut());
        checked(ortsys![KernelContext_GetInput](pointer(context), 0, &mut value))?;
        checked(ortsys![GetTensorTypeAndShape](value, &mut shape))?;
        let read = checked(ortsys![GetDimensionsCount](shape, &mut rank))
            .and_then(|()| checked(ortsys![GetDimensions](shape, dims.as_mut_ptr(), rank.min(dims.len()))));
        ortsys![ReleaseTensorTypeAndShapeInfo](shape);
        read?;
        checked(ortsys![GetTensorMutableData](value.cast_mut(), &mut data))?;
    }
    let [first, second] = dims.map(|n| usize::try_from(n).unwrap_or(0));
    let dims = match rank {
        1 => Dims::One(first),
        2 => Dims::Two(first, second),
        _ => return Err(failed("TreeEnsemble only works on 1D, 2D tensors.")),
    };
    let len = if rank == 1 { first } else { first * second };
    if len == 0 || data.is_null() {
        return Ok((dims, &[]));
    }
    // SAFETY: the tensor has as many elements as its dimensions say, of the type that the operator declares.
    Ok((dims, unsafe { slice::from_raw_parts(data.cast(), len) }))
}

/// Creates an output, whose type is the one that the operator declares, and returns its elements.
#[allow(clippy::mut_from_ref, reason = "the memory is that of the output, which is no part of the context")]
fn output<O, const N: usize>(context: &ComputeContext, position: usize, dims: [usize; N]) -> ort::Result<&mut [O]> {
    let (shape, len) = (signed(dims)?, dims.iter().product());
    let mut data = ptr::null_mut();
    // SAFETY: `context` is the context of the run. ONNX Runtime creates a tensor of this shape, or returns an error.
    unsafe {
        let mut value = ptr::null_mut();
        checked(ortsys![KernelContext_GetOutput](pointer(context), position, shape.as_ptr(), shape.len(), &mut value))?;
        checked(ortsys![GetTensorMutableData](value, &mut data))?;
    }
    if len == 0 || data.is_null() {
        return Ok(&mut []);
    }
    // SAFETY: the tensor has as many elements as `dims` say, of the type that the operator declares, and a run asks for
    // each output once.
    Ok(unsafe { slice::from_raw_parts_mut(data.cast(), len) })
}

fn write_scores<T: Copy, O: Output<T>>(to: &mut [O], start: usize, values: &[T]) {
    if let Some(to) = to.get_mut(start..start + values.len()) {
        to.iter_mut().zip(values).for_each(|(to, value)| *to = O::of(*value));
    }
}

impl<I, T, O> OrtKernel for TreeKernel<I, T, O>
where
    I: PrimitiveTensorElementType,
    T: Computed,
    O: Output<T>,
{
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        catch_unwind(AssertUnwindSafe(|| self.run(context)))
            .unwrap_or_else(|_| Err(failed("the tree ensemble was not computed")))
    }
}
