//! Determines the batch axis of each input from the declared shapes and the options.

use crate::error::{Error, Result};
use crate::options::{Batching, MAX_BATCH_SIZE, Options};
use crate::ort::declared::{Declared, DeclaredInput, DeclaredOutput};
use crate::signature::{Input, Output, OutputRow, Signature, Source};
use crate::tensor::ElementType;
use crate::validation::timing::UNMEASURED_BATCH_SIZE;

/// The inputs of a model, with their batch axes.
pub(crate) struct Arranged {
    pub(crate) inputs: Vec<Input>,
    pub(crate) fixed_rows: Option<usize>,
    /// The reason why each row is a whole run, if it is.
    pub(crate) whole: Option<String>,
}

/// Whether the name of an open dimension denotes the batch.
pub(crate) fn names_batch(symbol: &str) -> bool {
    let symbol = symbol.to_lowercase();
    symbol.contains("batch") || ["n", "b", "bs", "none"].contains(&symbol.as_str())
}

/// Finds the batch axis of each input. `second`: an axis to use in every input in which it is open and no axis is
/// named.
pub(crate) fn arrange(declared: &Declared, options: &Options, text: bool, second: Option<usize>) -> Result<Arranged> {
    let source = |input: &DeclaredInput| {
        if options.constants.contains_key(&input.name) {
            return Source::Constant;
        }
        Source::of_tokens(&input.name).filter(|_| text && input.dims.len() == 2).unwrap_or_default()
    };
    let sources: Vec<Source> = declared.inputs.iter().map(source).collect();
    if text && !sources.contains(&Source::TokenIds) {
        let names: Vec<&str> = declared.inputs.iter().map(|i| i.name.as_str()).collect();
        return Err(Error::Unsupported {
            what: "a tokenizer for a model that takes no tokens".to_owned(),
            reason: format!("it has no input input_ids; its inputs are {}", names.join(", ")),
        });
    }
    let rows: Vec<&DeclaredInput> =
        declared.inputs.iter().zip(&sources).filter(|(_, s)| **s != Source::Constant).map(|(i, _)| i).collect();
    let input = |i: usize, axis: Option<usize>| {
        let d = &declared.inputs[i];
        let mut shape: Vec<Option<usize>> = d.dims.iter().map(|d| usize::try_from(*d).ok()).collect();
        if let Some(axis) = axis {
            shape.remove(axis);
        }
        told(options, &d.name, &mut shape);
        // The option `features` determines the width of a single open input.
        if let (Some(features), [None], 1, Source::Row, false) =
            (&options.features, shape.as_slice(), rows.len(), sources[i], text)
        {
            shape = vec![Some(features.len())];
        }
        Input { name: d.name.clone(), element: d.element, shape, declared: d.dims.clone(), axis, source: sources[i] }
    };
    let whole = |reason: &str| {
        Ok(Arranged {
            inputs: (0..declared.inputs.len()).map(|i| input(i, None)).collect(),
            fixed_rows: None,
            whole: Some(reason.to_owned()),
        })
    };
    let no_batch = |reason: String| match options.batch {
        Batching::Auto if !text => whole(&reason),
        _ => Err(Error::Unsupported { what: "a model without a batch axis".to_owned(), reason }),
    };
    if options.batch == Batching::None {
        if text {
            return Err(Error::Option {
                key: "batch".to_owned(),
                reason: "The value \"none\" is for arrays, and a tokenizer makes a batch of texts".to_owned(),
            });
        }
        return whole("the option batch");
    }
    if rows.is_empty() {
        return no_batch("no input comes from a row".to_owned());
    }
    // The name of the batch dimension: a name that denotes the batch, or else the name of the first open leading
    // dimension.
    let symbols = || rows.iter().flat_map(|i| &i.symbols);
    let open = |i: &&DeclaredInput| i.dims.first() == Some(&-1);
    let batch = symbols()
        .find(|s| names_batch(s))
        .or_else(|| rows.iter().find(|i| open(i)).and_then(|i| i.symbols.first()))
        .cloned()
        // Some exporters call every open dimension "?".
        .filter(|s| s.chars().any(char::is_alphanumeric));
    let open_at = |i: &DeclaredInput, axis: usize| (i.dims.get(axis) == Some(&-1)).then_some(axis);
    // The option `shapes` gives the shape of a row: the shape of the tensor without its batch axis.
    let shaped = |i: &DeclaredInput| {
        let row = options.shapes.get(&i.name).filter(|row| row.len() + 1 == i.dims.len())?;
        let fits = |axis: &usize| {
            let others = i.dims.iter().enumerate().filter(|(d, _)| d != axis).map(|(_, n)| n);
            others.zip(row).all(|(n, of_row)| *n == -1 || of_row.is_none_or(|m| usize::try_from(*n) == Ok(m)))
        };
        (0..i.dims.len()).filter(|axis| i.dims[*axis] == -1).find(fits)
    };
    // If a shape in `shapes` has as many dimensions as its tensor, a row is the whole tensor, unless a dimension is
    // named as the batch.
    let told_whole = |i: &&&DeclaredInput| options.shapes.get(&i.name).is_some_and(|row| row.len() == i.dims.len());
    if let Some(told) = rows.iter().find(told_whole).filter(|_| !symbols().any(|s| names_batch(s))) {
        return no_batch(format!("the option \"shapes\" gives input \"{}\" all its dimensions", told.name));
    }
    let axis_of = |i: &DeclaredInput| {
        let named = batch.as_ref().and_then(|b| i.symbols.iter().position(|s| s == b));
        named.or(second.and_then(|axis| open_at(i, axis))).or_else(|| shaped(i)).or(open_at(i, 0))
    };
    if rows.iter().any(|i| axis_of(i).is_some()) {
        let mut axes = Vec::new();
        for (d, source) in declared.inputs.iter().zip(&sources) {
            // If some input has a batch axis, the only open dimension of another input is its batch axis.
            let open: Vec<usize> = (0..d.dims.len()).filter_map(|axis| open_at(d, axis)).collect();
            let axis = axis_of(d).or(if let [axis] = open.as_slice() { Some(*axis) } else { None });
            if axis.is_none() && *source != Source::Constant && !open.is_empty() {
                return no_batch(format!(
                    "none of the open dimensions of input \"{}\" of shape {:?} is known to be the batch",
                    d.name, d.dims
                ));
            }
            // An input without an open dimension has one value for the whole batch.
            axes.push(axis);
        }
        let inputs = axes.into_iter().enumerate().map(|(i, axis)| input(i, axis)).collect();
        return Ok(Arranged { inputs, fixed_rows: None, whole: None });
    }
    let first = rows[0].dims.first().copied().unwrap_or(0);
    let is_batch = |n: i64| usize::try_from(n).is_ok_and(|n| (1..=MAX_BATCH_SIZE).contains(&n));
    match rows.iter().find(|i| i.dims.len() < 2 || i.dims[0] != first || !is_batch(first)) {
        Some(other) => no_batch(format!("input \"{}\" of shape {:?} has no batch", other.name, other.dims)),
        None => {
            let axis = |s: &Source| (*s != Source::Constant).then_some(0);
            let inputs = sources.iter().enumerate().map(|(i, s)| input(i, axis(s))).collect();
            Ok(Arranged { inputs, fixed_rows: usize::try_from(first).ok(), whole: None })
        }
    }
}

/// Fills the open dimensions of a row from the option `shapes`. `Options::check` reports a shape that does not fit.
pub(crate) fn told(options: &Options, name: &str, shape: &mut [Option<usize>]) {
    if let Some(told) = options.shapes.get(name).filter(|told| told.len() == shape.len()) {
        shape.iter_mut().zip(told).filter(|(d, _)| d.is_none()).for_each(|(d, told)| *d = *told);
    }
}

/// Changes a signature so that each row is a whole run.
pub(crate) fn make_whole(signature: &mut Signature, declared: &Declared, options: &Options) {
    signature.whole = true;
    signature.fixed_rows = None;
    signature.batch_size = UNMEASURED_BATCH_SIZE;
    for (input, d) in signature.inputs.iter_mut().zip(&declared.inputs) {
        input.axis = None;
        input.shape = d.dims.iter().map(|d| usize::try_from(*d).ok()).collect();
        told(options, &d.name, &mut input.shape);
    }
}

/// Returns the outputs as declared, for a model that rejected synthetic rows.
pub(crate) fn declared_outputs(declared: &Declared, signature: &Signature) -> Vec<Output> {
    let axis = if signature.whole { None } else { Some(0) };
    let output = |(name, kind): &(String, DeclaredOutput)| {
        let (row, dims) = match kind {
            DeclaredOutput::Maps(key) if !signature.whole => (OutputRow::Map { key: *key }, vec![-1]),
            DeclaredOutput::Maps(key) => (OutputRow::Nested { of: format!("sequence(map({key}, float32))") }, vec![]),
            DeclaredOutput::Nested(of) => (OutputRow::Nested { of: of.clone() }, vec![]),
            DeclaredOutput::Tensor(element, dims) => {
                let own = if signature.whole { dims.as_slice() } else { dims.get(1..).unwrap_or_default() };
                let shape: Vec<Option<usize>> = own.iter().map(|d| usize::try_from(*d).ok()).collect();
                (fixed_or_open(*element, shape), dims.clone())
            }
        };
        let tokens =
            signature.takes_text() && matches!(&row, OutputRow::Open { shape, .. } if shape.first() == Some(&None));
        let axis = if matches!(row, OutputRow::Nested { .. }) { None } else { axis };
        Output { name: name.clone(), row, declared: dims, axis, tokens }
    };
    declared.outputs.iter().map(output).collect()
}

pub(crate) fn fixed_or_open(element: ElementType, shape: Vec<Option<usize>>) -> OutputRow {
    match shape.iter().copied().collect::<Option<Vec<usize>>>() {
        Some(shape) => OutputRow::Tensor { element, shape },
        None => OutputRow::Open { element, shape },
    }
}
