//! Datum to tensor: how the arguments of a call find the inputs of a model, and the converters that write them.
//!
//! A `Binding` is made once per call site, at its first row: for every feature in tensor order it holds where the value
//! comes from and one function that writes it. Per row nothing is looked up.

use pg_predict_engine::batch::{Batch, Each, Shapes};
use pg_predict_engine::chunk::Rows;
use pg_predict_engine::options::{OnError, OnNull};
use pg_predict_engine::signature::{Input, TEXTS};
use pg_predict_engine::tensor::{Column, ElementType, narrow, narrow_bf16, narrow_f16};
use pg_predict_engine::version::Version;
use pgrx::pg_sys::{self, Datum, NullableDatum, Oid};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::pg::{carry, memory, stored_type, text};

/// Writes one value; false where it does not fit.
type Write = fn(Datum, &mut Column) -> Result<bool>;

/// How a value gets into its column.
enum Convert {
    Scalar(Write),
    /// A literal that the parser left alone: a bare NULL, or text where a number is wanted.
    Untyped,
    /// Through the type's output function: enums.
    Output(Box<pg_sys::FmgrInfo>),
    Array(ArrayConvert),
    /// The elements as they lie in memory, little-endian.
    Bytes,
}

impl Convert {
    /// Whether it brings all elements of an input.
    fn is_many(&self) -> bool {
        matches!(self, Self::Array(_) | Self::Bytes)
    }
}

struct ArrayConvert {
    element: Oid,
    length: i16,
    by_value: bool,
    align: std::ffi::c_char,
    write: Write,
}

/// One value of a row that goes into an input.
struct Feature {
    /// The argument, or the attribute of the composite.
    source: usize,
    name: String,
    input: usize,
    convert: Convert,
    default: Option<Value>,
}

/// The composite type that rows have.
struct Composite {
    /// A row comes as the values of its columns, one argument each.
    spread: bool,
    typeid: Oid,
    typmod: i32,
    desc: pg_sys::TupleDesc,
    values: Vec<Datum>,
    nulls: Vec<bool>,
    /// Attributes that are carried, and their description.
    carried: Vec<usize>,
    carried_values: Vec<Datum>,
    carried_nulls: Vec<bool>,
    form: carry::Form,
}

pub(crate) use pg_predict_engine::layout::Carried;

/// How the arguments of a call site find the inputs of its model.
pub(crate) struct Binding {
    model: String,
    on_null: OnNull,
    features: Vec<Feature>,
    composite: Option<Composite>,
    carried: Vec<Carried>,
    inputs: Vec<Input>,
    /// Every feature is a float4 into one float32 input, in order.
    all_float4: bool,
    /// Where they are among the arguments.
    sources: Vec<usize>,
    /// Rows differ in size.
    varies: bool,
    /// A row that does not go into the inputs is NULL.
    skip_bad: bool,
    context: pg_sys::MemoryContext,
}

/// Whether a row was gathered, or is NULL.
#[derive(PartialEq)]
pub(crate) enum Gathered {
    Row,
    Null,
    /// It does not go into the inputs, and the version says that such rows are NULL: why it does not.
    Bad(String),
}

fn float4(d: Datum) -> f32 {
    f32::from_bits(d.value() as u32)
}
fn float8(d: Datum) -> f64 {
    f64::from_bits(d.value() as u64)
}
/// A numeric as float8; none where it is too large for one.
fn numeric(d: Datum) -> Option<f64> {
    // SAFETY: callers pass a numeric that is not NULL.
    unsafe {
        let x = pgrx::direct_function_call_as_datum(pg_sys::numeric_float8_no_overflow, &[Some(d)]).map(float8)?;
        let infinite = || pg_sys::numeric_is_inf(pg_sys::pg_detoast_datum(d.cast_mut_ptr()).cast());
        (x.is_finite() || x.is_nan() || infinite()).then_some(x)
    }
}
/// A numeric as an integer; none where it is not one, or too large.
fn whole(d: Datum) -> Option<i128> {
    // SAFETY: callers pass a numeric that is not NULL; its output function returns a C string.
    let text = unsafe { pgrx::direct_function_call_as_datum(pg_sys::numeric_out, &[Some(d)]) }?;
    let text = text::copied(text.cast_mut_ptr());
    let (digits, fraction) = text.split_once('.').unwrap_or((&text, ""));
    fraction.bytes().all(|b| b == b'0').then(|| digits.parse().ok()).flatten()
}

/// A non-capturing function that reads with `$read`, converts with `$convert` and writes to column `$kind`.
macro_rules! write {
    ($kind:ident, $read:expr, $convert:expr) => {{
        let f: Write = |datum, column| {
            let Column::$kind(v) = column else { return Ok(false) };
            match $convert($read(datum)) {
                Some(x) => {
                    v.push(x);
                    Ok(true)
                }
                None => Ok(false),
            }
        };
        Some(f)
    }};
}

macro_rules! write_integer {
    ($element:expr, $read:expr) => {
        match $element {
            ElementType::Float32 => write!(Float32, $read, |x| Some(x as f32)),
            ElementType::Float64 => write!(Float64, $read, |x| Some(x as f64)),
            ElementType::Int8 => write!(Int8, $read, |x| i8::try_from(x).ok()),
            ElementType::Int16 => write!(Int16, $read, |x| i16::try_from(x).ok()),
            ElementType::Int32 => write!(Int32, $read, |x| i32::try_from(x).ok()),
            ElementType::Int64 => write!(Int64, $read, |x| Some(i64::from(x))),
            ElementType::Uint8 => write!(Uint8, $read, |x| u8::try_from(x).ok()),
            ElementType::Uint16 => write!(Uint16, $read, |x| u16::try_from(x).ok()),
            ElementType::Uint32 => write!(Uint32, $read, |x| u32::try_from(x).ok()),
            ElementType::Uint64 => write!(Uint64, $read, |x| u64::try_from(x).ok()),
            ElementType::Float16 => write!(Float16, $read, |x| narrow_f16(x as f64)),
            ElementType::Bfloat16 => write!(Bfloat16, $read, |x| narrow_bf16(x as f64)),
            ElementType::Bool | ElementType::String => None,
        }
    };
}

macro_rules! write_string {
    ($read:expr) => {{
        let f: Write = |datum, column| {
            let Column::String(v) = column else { return Ok(false) };
            v.push(&$read(datum)?);
            Ok(true)
        };
        Some(f)
    }};
}

/// The function that takes values of this type into this element type, where the conversion is exact by type.
fn writer(oid: Oid, element: ElementType) -> Option<Write> {
    match oid {
        pg_sys::FLOAT4OID => match element {
            ElementType::Float32 => write!(Float32, float4, Some),
            ElementType::Float64 => write!(Float64, float4, |x| Some(f64::from(x))),
            ElementType::Float16 => write!(Float16, float4, |x| narrow_f16(f64::from(x))),
            ElementType::Bfloat16 => write!(Bfloat16, float4, |x| narrow_bf16(f64::from(x))),
            _ => None,
        },
        pg_sys::FLOAT8OID => match element {
            ElementType::Float32 => write!(Float32, float8, narrow),
            ElementType::Float64 => write!(Float64, float8, Some),
            ElementType::Float16 => write!(Float16, float8, narrow_f16),
            ElementType::Bfloat16 => write!(Bfloat16, float8, narrow_bf16),
            _ => None,
        },
        pg_sys::NUMERICOID => match element {
            ElementType::Float32 => write!(Float32, numeric, |x: Option<f64>| x.and_then(narrow)),
            ElementType::Float64 => write!(Float64, numeric, |x| x),
            ElementType::Float16 => write!(Float16, numeric, |x: Option<f64>| x.and_then(narrow_f16)),
            ElementType::Bfloat16 => write!(Bfloat16, numeric, |x: Option<f64>| x.and_then(narrow_bf16)),
            ElementType::Uint64 => write!(Uint64, whole, |x: Option<i128>| x.and_then(|x| u64::try_from(x).ok())),
            _ => None,
        },
        pg_sys::INT2OID => write_integer!(element, |d: Datum| d.value() as i16),
        pg_sys::INT4OID => write_integer!(element, |d: Datum| d.value() as i32),
        pg_sys::INT8OID => write_integer!(element, |d: Datum| d.value() as i64),
        pg_sys::BOOLOID => match element {
            ElementType::Bool => write!(Bool, |d: Datum| d.value() & 1 == 1, Some),
            _ => write_integer!(element, |d: Datum| (d.value() & 1) as u8),
        },
        pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::BPCHAROID if element == ElementType::String => {
            write_string!(text::text)
        }
        pg_sys::UNKNOWNOID | pg_sys::CSTRINGOID | pg_sys::NAMEOID if element == ElementType::String => {
            write_string!(text::cstring)
        }
        _ => None,
    }
}

/// A domain is as what it is over.
fn base_type(oid: Oid) -> Oid {
    // SAFETY: reads the type cache.
    unsafe { pg_sys::getBaseType(oid) }
}

fn is_composite(oid: Oid) -> bool {
    // SAFETY: reads the type cache.
    oid == pg_sys::RECORDOID || unsafe { pg_sys::type_is_rowtype(oid) }
}

/// The row arguments of a call: their types as the parser resolved them, and the first row's first.
pub(crate) struct Arguments {
    pub(crate) types: Vec<Oid>,
    /// VARIADIC stood before the last.
    pub(crate) variadic: bool,
    pub(crate) first: Option<Datum>,
    /// What they are the columns of, where they are a row that was taken apart; null elsewhere.
    pub(crate) columns: pg_sys::TupleDesc,
}

impl Binding {
    /// One without features.
    fn empty(version: &Version, context: pg_sys::MemoryContext) -> Self {
        Self {
            model: version.label(),
            on_null: version.options.on_null,
            features: Vec::new(),
            composite: None,
            carried: Vec::new(),
            inputs: Vec::new(),
            all_float4: false,
            sources: Vec::new(),
            varies: false,
            skip_bad: version.options.on_error == OnError::Null,
            context,
        }
    }

    /// Binds the arguments of a call. None while the row type is not known yet: an anonymous row that is NULL does not
    /// tell it.
    ///
    /// `columns` names the columns that come back with their row, where the reader says; else those do that the model
    /// does not take.
    pub(crate) fn new(
        version: &Version,
        arguments: &Arguments,
        columns: Option<&[String]>,
        context: pg_sys::MemoryContext,
    ) -> Result<Option<Self>> {
        let mut binding = Self::empty(version, context);
        let types = &arguments.types;
        let named = version.options.features.as_ref().filter(|_| version.signature.takes_text());
        match types.as_slice() {
            _ if !arguments.columns.is_null() => {
                binding.bind_composite(version, arguments.columns, columns)?;
                if let Some(composite) = binding.composite.as_mut() {
                    composite.spread = true;
                }
            }
            [one] if is_composite(base_type(*one)) => {
                let (typeid, typmod) = match arguments.first {
                    Some(row) => row_type(row),
                    // A NULL of an anonymous row type tells nothing.
                    None if base_type(*one) == pg_sys::RECORDOID => return Ok(None),
                    None => (base_type(*one), -1),
                };
                let desc = memory::within(context, || {
                    // SAFETY: a composite value names a type that the cache knows; the copy belongs to the call site.
                    unsafe { pg_sys::lookup_rowtype_tupdesc_copy(typeid, typmod) }
                });
                binding.bind_composite(version, desc, columns)?;
                if let Some(composite) = binding.composite.as_mut() {
                    (composite.typeid, composite.typmod) = (typeid, typmod);
                }
            }
            _ => {
                // As many texts as there are arguments beside the other inputs.
                let others = version.signature.slots(0).len();
                let texts = types.len().saturating_sub(others).clamp(1, named.map_or(TEXTS.len(), Vec::len));
                binding.inputs = version.signature.slots(texts);
                binding.bind_values(version, types, arguments.variadic)?;
            }
        }
        binding.settle();
        Ok(Some(binding))
    }

    /// Binds the columns of a row that is never put together: rows are gathered from the values of its features alone.
    pub(crate) fn of_columns(
        version: &Version,
        desc: pg_sys::TupleDesc,
        context: pg_sys::MemoryContext,
    ) -> Result<Self> {
        let mut binding = Self::empty(version, context);
        binding.bind_composite(version, desc, Some(&[]))?;
        binding.composite = None;
        binding.settle();
        Ok(binding)
    }

    /// Notes what is the same for every row.
    fn settle(&mut self) {
        self.sources = self.features.iter().map(|f| f.source).collect();
        self.varies = self.inputs.iter().any(|i| i.element == ElementType::String || i.width().is_none());
        self.all_float4 = self.inputs.len() == 1
            && self.features.iter().all(|f| match &f.convert {
                // One function for one pair of types: its address tells the pair.
                Convert::Scalar(w) => writer(pg_sys::FLOAT4OID, ElementType::Float32)
                    .is_some_and(|x| std::ptr::fn_addr_eq(x, *w) && f.default.is_none()),
                _ => false,
            });
    }

    /// Makes the values of features all that a row is gathered from, in their order, and gives where each of them is among
    /// the arguments. A row that comes as one value stays one.
    pub(crate) fn compact(&mut self) -> Vec<usize> {
        if self.composite.is_some() {
            return vec![0];
        }
        let sources = self.features.iter_mut().enumerate().map(|(i, f)| std::mem::replace(&mut f.source, i)).collect();
        self.settle();
        sources
    }

    /// The columns that rows carry.
    pub(crate) fn carried(&self) -> &[Carried] {
        &self.carried
    }

    /// Where the wide input of a model with one input takes its values from.
    fn wide_width(&self, version: &Version) -> Option<usize> {
        match self.inputs.as_slice() {
            [_] if version.signature.takes_text() => Some(1),
            [input] => input.width().or(version.options.features.as_ref().map(Vec::len)),
            _ => None,
        }
    }

    fn bind_values(&mut self, version: &Version, types: &[Oid], variadic: bool) -> Result<()> {
        let names: Vec<String> = self.inputs.iter().map(|i| i.name.clone()).collect();
        let default = |name: &str| version.options.defaults.get(name).cloned();
        let is_array = |oid: Oid| {
            // SAFETY: reads the type cache.
            unsafe { pg_sys::get_element_type(base_type(oid)) != Oid::INVALID || base_type(oid) == pg_sys::BYTEAOID }
        };
        // An array alone is the row's content of the only input; so is what VARIADIC passes.
        if let ([one], [name]) = (types, names.as_slice())
            && (variadic || is_array(*one) || self.wide_width(version) == Some(1))
        {
            let feature = self.feature(0, name.clone(), 0, *one, default(name))?;
            self.features.push(feature);
            return Ok(());
        }
        if types.len() == self.inputs.len() && self.inputs.len() > 1 {
            for (i, name) in names.into_iter().enumerate() {
                let default = default(&name);
                let feature = self.feature(i, name, i, types[i], default)?;
                self.features.push(feature);
            }
            return Ok(());
        }
        let wanted = match (self.wide_width(version), self.inputs.len()) {
            (width, 1) if width == Some(types.len()) || (width.is_none() && !types.is_empty()) => {
                for (i, oid) in types.iter().enumerate() {
                    let name = version.options.features.as_ref().and_then(|f| f.get(i)).cloned();
                    let name = name.unwrap_or_else(|| format!("argument {}", i + 1));
                    let default = default(&name);
                    let feature = self.feature(i, name, 0, *oid, default)?;
                    self.features.push(feature);
                }
                return self.only_scalars();
            }
            (Some(1), _) => "1 value".to_owned(),
            (Some(width), _) => format!("{width} values or one array of {width}"),
            (None, 1) if types.is_empty() => "one array".to_owned(),
            (None, 1) => "1 value".to_owned(),
            (None, n) => format!("{n} values"),
        };
        Err(Error::Arguments { model: self.model.clone(), given: types.len(), wanted })
    }

    /// Values that make up one input together are single values.
    fn only_scalars(&self) -> Result<()> {
        match self.features.iter().find(|f| f.convert.is_many()) {
            None => Ok(()),
            Some(f) => Err(Error::WrongType {
                model: self.model.clone(),
                column: f.name.clone(),
                given: "array".to_owned(),
                wanted: self.inputs[f.input].element.to_string(),
                hint: Some("Pass single values, or one array for the whole row."),
            }),
        }
    }

    fn bind_composite(
        &mut self,
        version: &Version,
        desc: pg_sys::TupleDesc,
        wanted_back: Option<&[String]>,
    ) -> Result<()> {
        let context = self.context;
        let columns = columns(desc);
        let takes_text = version.signature.takes_text();
        let texts = match &version.options.features {
            Some(features) => features.len().clamp(1, TEXTS.len()),
            // The second text is taken where the row has it.
            None if columns.iter().any(|c| c.name == TEXTS[1]) => TEXTS.len(),
            None => 1,
        };
        self.inputs = version.signature.slots(texts);
        let wanted: Vec<(String, usize)> = match &version.options.features {
            Some(features) if takes_text => self
                .inputs
                .iter()
                .enumerate()
                .map(|(i, input)| (features.get(i).unwrap_or(&input.name).clone(), i))
                .collect(),
            Some(features) => features.iter().map(|f| (f.clone(), 0)).collect(),
            None => self.inputs.iter().enumerate().map(|(i, input)| (input.name.clone(), i)).collect(),
        };
        if wanted.is_empty() && !version.signature.whole {
            return Err(Error::Arguments { model: self.model.clone(), given: 1, wanted: "no values".to_owned() });
        }
        let mut missing = Vec::new();
        let mut several = None;
        let mut used = Vec::new();
        for (name, input) in &wanted {
            // Exactly, or else ignoring case: SQL folds unquoted names to lower case, models keep theirs.
            let exact = columns.iter().find(|c| &c.name == name);
            let mut folded = columns.iter().filter(|c| c.name.to_lowercase() == name.to_lowercase());
            let found = exact.or_else(|| {
                let first = folded.next();
                if folded.next().is_some() {
                    several = Some(name.clone());
                    return None;
                }
                first
            });
            match found {
                Some(column) => {
                    let default = version.options.defaults.get(name).cloned();
                    let feature = self.feature(column.attribute, column.name.clone(), *input, column.oid, default)?;
                    self.features.push(feature);
                    used.push(column.attribute);
                }
                None => missing.push(name.clone()),
            }
        }
        if !missing.is_empty() {
            return Err(Error::MissingColumns {
                model: self.model.clone(),
                missing,
                given: columns.into_iter().map(|c| c.name).collect(),
                several_match: several,
                features_hint: version.options.features.is_none()
                    && self.inputs.len() == 1
                    && (takes_text || self.inputs[0].width().is_none_or(|w| w > 1)),
            });
        }
        if version.options.features.is_some() && !takes_text {
            self.only_scalars()?;
        }
        let carried: Vec<&RowColumn> = columns
            .iter()
            .filter(|c| match wanted_back {
                Some(names) => names.contains(&c.name) && version.signature.output(&c.name).is_none(),
                None => !used.contains(&c.attribute),
            })
            .filter(|c| stored_type::may_be_carried(c.oid_itself))
            .collect();
        for c in &carried {
            let (oid, typmod) = stored_type::base(c.oid_itself, c.typmod);
            self.carried.push(Carried { name: c.name.clone(), oid: oid.to_u32(), typmod, text_of: None });
        }
        // SAFETY: `desc` was made above; the new description has one entry a carried column.
        let (natts, form) = memory::within(context, || unsafe {
            let natts = (*desc).natts as usize;
            (natts, carry::Form::of_attributes(carried.iter().map(|c| attribute(desc, c.attribute))))
        });
        self.composite = Some(Composite {
            spread: false,
            form,
            typeid: Oid::INVALID,
            typmod: -1,
            desc,
            values: vec![Datum::from(0); natts],
            nulls: vec![true; natts],
            carried: carried.iter().map(|c| c.attribute).collect(),
            carried_values: vec![Datum::from(0); carried.len()],
            carried_nulls: vec![true; carried.len()],
        });
        Ok(())
    }

    /// Makes the converter of one value.
    fn feature(&self, source: usize, name: String, input: usize, oid: Oid, default: Option<Value>) -> Result<Feature> {
        let target = &self.inputs[input];
        let base = base_type(oid);
        let wrong = |hint| Error::WrongType {
            model: self.model.clone(),
            column: name.clone(),
            given: text::type_name(oid),
            wanted: target.element.to_string(),
            hint,
        };
        // SAFETY: reads the type cache.
        let element = unsafe { pg_sys::get_element_type(base) };
        let convert = if element != Oid::INVALID {
            let write = writer(base_type(element), target.element).ok_or_else(|| wrong(None))?;
            let (mut length, mut by_value, mut align) = (0, false, 0);
            // SAFETY: reads the type cache into the three places.
            unsafe { pg_sys::get_typlenbyvalalign(element, &raw mut length, &raw mut by_value, &raw mut align) };
            Convert::Array(ArrayConvert { element, length, by_value, align, write })
        } else if base == pg_sys::BYTEAOID && target.element != ElementType::String {
            Convert::Bytes
        } else if let Some(write) = writer(base, target.element) {
            Convert::Scalar(write)
        } else if base == pg_sys::UNKNOWNOID {
            Convert::Untyped
        } else if target.element == ElementType::String && is_enum(base) {
            Convert::Output(Box::new(output_function(base)))
        } else {
            let is_text = matches!(base, pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::BPCHAROID | pg_sys::NAMEOID);
            return Err(wrong(match (is_text, target.element) {
                (true, _) => Some("Text does not turn into a number by itself: cast it."),
                (false, ElementType::String) => Some("Cast it to text."),
                _ => None,
            }));
        };
        // A default is one value; a whole array has none.
        let default = default.filter(|_| !convert.is_many());
        Ok(Feature { source, name, input, convert, default })
    }

    /// Makes the empty batch that this binding fills.
    pub(crate) fn batch(&self) -> Batch {
        let shapes = |(n, input): (usize, &Input)| {
            let mut features = self.features.iter().filter(|f| f.input == n);
            match input.shape.iter().copied().collect::<Option<Vec<usize>>>() {
                Some(shape) => Shapes::Same(shape),
                None if features.clone().any(|f| f.convert.is_many()) => {
                    Shapes::Each(Each { rank: input.shape.len(), ..Each::default() })
                }
                // Single values make up an open input: it is as wide as they are many.
                None => {
                    let count = features.by_ref().count();
                    Shapes::Same(input.shape.iter().map(|d| d.unwrap_or(count)).collect())
                }
            }
        };
        Batch {
            rows: 0,
            columns: self.inputs.iter().map(|i| Column::new(i.element)).collect(),
            shapes: self.inputs.iter().enumerate().map(shapes).collect(),
        }
    }

    /// How a row goes into the inputs that is single values, and where the arguments are that are carried with it and how: where that is
    /// all there is to a row without NULLs.
    pub(crate) fn plain_row(&self) -> Option<(Direct, Vec<usize>, carry::Form)> {
        let direct = self.direct(|source| source)?;
        match &self.composite {
            None => Some((direct, Vec::new(), carry::Form::default())),
            Some(c) => c.form.is_plain().then(|| (direct, c.carried.clone(), c.form.clone())),
        }
    }

    /// How a row goes into the inputs that is single values; `place` says where each of its sources is.
    pub(crate) fn direct(&self, place: impl Fn(usize) -> usize) -> Option<Direct> {
        if self.composite.as_ref().is_some_and(|c| !c.spread) || self.features.is_empty() {
            return None;
        }
        let mut steps = Vec::with_capacity(self.features.len());
        for feature in &self.features {
            let Convert::Scalar(write) = feature.convert else { return None };
            // One function for one pair of types: its address tells the pair.
            let is = |oid, element| writer(oid, element).is_some_and(|w| std::ptr::fn_addr_eq(w, write));
            let how = if is(pg_sys::FLOAT4OID, ElementType::Float32) {
                How::Float4
            } else if is(pg_sys::TEXTOID, ElementType::String) {
                How::Text
            } else {
                How::By(write)
            };
            steps.push(Step { place: place(feature.source), input: feature.input, how });
        }
        Some(Direct { steps, all_float4: self.all_float4 })
    }

    /// Whether it holds nothing that goes with the query: single values alone, by functions that need no state.
    pub(crate) fn outlives_query(&self) -> bool {
        let stateless = |f: &Feature| matches!(f.convert, Convert::Scalar(_) | Convert::Untyped);
        self.composite.is_none() && self.carried.is_empty() && self.features.iter().all(stateless)
    }

    /// Whether rows differ in size, so that each of them counts for itself.
    pub(crate) fn varies(&self) -> bool {
        self.varies
    }

    /// Bytes that a row takes in a batch; of what differs by row, the place only.
    pub(crate) fn row_bytes(batch: &Batch) -> usize {
        let width = |shapes: &Shapes| if let Shapes::Same(s) = shapes { s.iter().product() } else { 1_usize };
        batch.columns.iter().zip(&batch.shapes).map(|(c, s)| c.element().size() * width(s)).sum()
    }

    /// Makes room for more rows in a batch, or fails without ending the process.
    pub(crate) fn reserve(&self, batch: &mut Batch, rows: usize) -> Result<()> {
        for (column, shapes) in batch.columns.iter_mut().zip(&batch.shapes) {
            if let Shapes::Same(shape) = shapes {
                column.try_reserve(rows.saturating_mul(shape.iter().product()))?;
            }
        }
        Ok(())
    }

    /// Gathers one row from the arguments of a call. Gives why it is bad, where it is and such rows are NULL.
    pub(crate) fn gather(
        &mut self,
        arguments: &[NullableDatum],
        batch: &mut Batch,
        rows: &mut Rows,
    ) -> Result<Option<String>> {
        // The commonest row first: nothing of it needs more than this.
        let whole = self.composite.as_ref().is_some_and(|c| !c.spread);
        if self.all_float4 && !whole && gather_float4(arguments, &self.sources, batch) {
            rows.ran.push(true);
            batch.rows += 1;
            self.carry_arguments(arguments, rows)?;
            return Ok(None);
        }
        let gathered = if whole {
            self.gather_composite(arguments[0], batch, rows)?
        } else {
            self.gather_values(batch, |source| {
                let a = &arguments[source];
                (!a.isnull).then_some(a.value)
            })?
        };
        if gathered == Gathered::Null && self.on_null == OnNull::Error {
            let null =
                self.features.iter().find(|f| f.default.is_none() && arguments.get(f.source).is_some_and(|a| a.isnull));
            return Err(Error::NullFeature {
                model: self.model.clone(),
                column: null.map_or_else(String::new, |f| f.name.clone()),
            });
        }
        if !whole {
            self.carry_arguments(arguments, rows)?;
        }
        rows.ran.push(gathered == Gathered::Row);
        batch.rows += usize::from(gathered == Gathered::Row);
        Ok(if let Gathered::Bad(reason) = gathered { Some(reason) } else { None })
    }

    /// Keeps the carried columns of a row that comes as their values.
    #[inline]
    fn carry_arguments(&mut self, arguments: &[NullableDatum], rows: &mut Rows) -> Result<()> {
        if let Some(composite) = self.composite.as_mut().filter(|c| !c.carried.is_empty()) {
            for (i, argument) in composite.carried.iter().enumerate() {
                composite.carried_values[i] = arguments[*argument].value;
                composite.carried_nulls[i] = arguments[*argument].isnull;
            }
            carry(composite, rows)?;
        }
        Ok(())
    }

    /// Writes the features of a row.
    fn gather_values(&self, batch: &mut Batch, read: impl Fn(usize) -> Option<Datum>) -> Result<Gathered> {
        match gather_features(&self.features, &self.inputs, self.on_null, &self.model, batch, read) {
            Err(error @ (Error::OutOfRange { .. } | Error::ArrayShape { .. })) if self.skip_bad => {
                batch.undo();
                Ok(Gathered::Bad(crate::error::message(error)))
            }
            gathered => gathered,
        }
    }

    /// Notes a row that is NULL as a whole.
    pub(crate) fn gather_null(&mut self, rows: &mut Rows) -> Result<()> {
        if self.on_null == OnNull::Error {
            return Err(Error::NullRow { model: self.model.clone() });
        }
        rows.ran.push(false);
        if let Some(composite) = self.composite.as_mut().filter(|c| !c.carried.is_empty()) {
            composite.carried_nulls.fill(true);
            carry(composite, rows)?;
        }
        Ok(())
    }

    fn gather_composite(&mut self, row: NullableDatum, batch: &mut Batch, rows: &mut Rows) -> Result<Gathered> {
        let Some(composite) = self.composite.as_mut() else { return Err(Error::RowsDiffer) };
        if row.isnull {
            if self.on_null == OnNull::Error {
                return Err(Error::NullRow { model: self.model.clone() });
            }
            composite.nulls.fill(true);
        } else {
            let (typeid, typmod) = row_type(row.value);
            if (typeid, typmod) != (composite.typeid, composite.typmod) {
                same_columns(composite, typeid, typmod)?;
            }
            deform(composite, row.value);
        }
        let Some(composite) = self.composite.as_ref() else { return Err(Error::RowsDiffer) };
        let gathered =
            self.gather_values(batch, |source| (!composite.nulls[source]).then(|| composite.values[source]))?;
        if gathered == Gathered::Null && self.on_null == OnNull::Error {
            let null = self.features.iter().find(|f| f.default.is_none() && composite.nulls[f.source]);
            return Err(Error::NullFeature {
                model: self.model.clone(),
                column: null.map_or_else(String::new, |f| f.name.clone()),
            });
        }
        if let Some(composite) = self.composite.as_mut().filter(|c| !c.carried.is_empty()) {
            for (i, attribute) in composite.carried.iter().enumerate() {
                composite.carried_values[i] = composite.values[*attribute];
                composite.carried_nulls[i] = composite.nulls[*attribute];
            }
            carry(composite, rows)?;
        }
        Ok(gathered)
    }
}

/// How one value gets into its input.
#[derive(Clone, Copy)]
enum How {
    Float4,
    Text,
    By(Write),
}

/// One value of a row: where it is, and where it goes.
struct Step {
    place: usize,
    input: usize,
    how: How,
}

/// How a row goes into the inputs that is single values and has no NULL: nothing is decided per row but by what the values are.
pub(crate) struct Direct {
    steps: Vec<Step>,
    all_float4: bool,
}

impl Direct {
    /// Writes a row and gives the bytes of its texts; the caller counts it. None, and nothing is written, where it is one that needs
    /// more than this: a NULL, a text that is not inline, a value that does not fit.
    #[inline(always)]
    pub(crate) fn write(&self, batch: &mut Batch, value: impl Fn(usize) -> Option<Datum>) -> Option<usize> {
        if let (true, [Column::Float32(column)]) = (self.all_float4, batch.columns.as_mut_slice()) {
            // Written in place: `extend` is a call of its own for every row, where the compiler does not inline it.
            column.reserve(self.steps.len());
            let mut null = false;
            for (free, step) in column.spare_capacity_mut().iter_mut().zip(&self.steps) {
                let value = value(step.place);
                null |= value.is_none();
                free.write(value.map_or(0.0, float4));
            }
            if null {
                return None;
            }
            // SAFETY: as many were reserved and written.
            unsafe { column.set_len(column.len() + self.steps.len()) };
            return Some(0);
        }
        let mut texts = 0;
        for step in &self.steps {
            let written = match (value(step.place), &step.how, &mut batch.columns[step.input]) {
                (Some(datum), How::Float4, Column::Float32(v)) => {
                    v.push(float4(datum));
                    true
                }
                (Some(datum), How::Text, Column::String(v)) => text::inline(datum).is_some_and(|text| {
                    texts += text.len();
                    v.push(text);
                    true
                }),
                (Some(datum), How::By(write), column) => matches!(write(datum, column), Ok(true)),
                _ => false,
            };
            if !written {
                batch.undo();
                return None;
            }
        }
        Some(texts)
    }
}

/// The commonest row: float4 values into one float32 input. False, and nothing written, where one is NULL.
#[inline]
fn gather_float4(arguments: &[NullableDatum], sources: &[usize], batch: &mut Batch) -> bool {
    let Some(Column::Float32(column)) = batch.columns.first_mut() else { return false };
    let before = column.len();
    for source in sources {
        let a = &arguments[*source];
        if a.isnull {
            column.truncate(before);
            return false;
        }
        column.push(float4(a.value));
    }
    true
}

/// Writes every feature of a row, or none where one is NULL.
fn gather_features(
    features: &[Feature],
    inputs: &[Input],
    on_null: OnNull,
    model: &str,
    batch: &mut Batch,
    read: impl Fn(usize) -> Option<Datum>,
) -> Result<Gathered> {
    for feature in features {
        let column = &mut batch.columns[feature.input];
        let input = &inputs[feature.input];
        let written = match read(feature.source) {
            Some(datum) => match &feature.convert {
                Convert::Scalar(write) => write(datum, column)?,
                Convert::Untyped => {
                    return Err(Error::WrongType {
                        model: model.to_owned(),
                        column: feature.name.clone(),
                        given: "unknown".to_owned(),
                        wanted: column.element().to_string(),
                        hint: Some("Text does not turn into a number by itself: cast it."),
                    });
                }
                Convert::Output(function) => {
                    if let Column::String(v) = column {
                        v.push(&output(function, datum));
                    }
                    true
                }
                Convert::Array(array) => {
                    let dims = array.write(datum, column, on_null, model, &feature.name)?;
                    if !note(&dims, input, &mut batch.shapes[feature.input]) {
                        return Err(Error::ArrayShape {
                            model: model.to_owned(),
                            column: feature.name.clone(),
                            given: describe(dims.iter().map(|d| Some(*d))),
                            wanted: describe(input.shape.iter().copied()),
                            bytes: false,
                        });
                    }
                    true
                }
                Convert::Bytes => {
                    let before = column.len();
                    let content = text::varlena(datum);
                    let whole = column.push_bytes(content);
                    if !whole || !note(&[column.len() - before], input, &mut batch.shapes[feature.input]) {
                        return Err(Error::ArrayShape {
                            model: model.to_owned(),
                            column: feature.name.clone(),
                            given: format!("{} bytes", content.len()),
                            wanted: format!("{} of {}", describe(input.shape.iter().copied()), input.element),
                            bytes: true,
                        });
                    }
                    true
                }
            },
            None => match &feature.default {
                Some(value) => column.push_json(value),
                None if on_null == OnNull::Nan && input.element.is_float() => {
                    // A NULL array is one of NaNs, where its size is known.
                    let n = match &batch.shapes[feature.input] {
                        Shapes::Same(shape) if feature.convert.is_many() => shape.iter().product(),
                        Shapes::Same(_) => 1,
                        Shapes::Each(_) => 0,
                    };
                    if n == 0 {
                        batch.undo();
                        return Ok(Gathered::Null);
                    }
                    (0..n).all(|_| column.push_json(&Value::from("NaN")))
                }
                None => {
                    batch.undo();
                    return Ok(Gathered::Null);
                }
            },
        };
        if !written {
            return Err(Error::OutOfRange {
                model: model.to_owned(),
                column: feature.name.clone(),
                element: batch.columns[feature.input].element().to_string(),
            });
        }
    }
    Ok(Gathered::Row)
}

/// Checks the dimensions of an array against the shape of an input's rows, and notes them where rows have their own.
fn note(dims: &[usize], input: &Input, shapes: &mut Shapes) -> bool {
    match shapes {
        // The commonest: all elements of a shape that is known.
        Shapes::Same(shape) if dims.len() == 1 => dims[0] == shape.iter().product::<usize>(),
        Shapes::Same(shape) if dims == shape.as_slice() => true,
        Shapes::Same(_) => fit(dims, input).is_some(),
        Shapes::Each(each) => match fit(dims, input) {
            Some(shape) => {
                each.push(&shape);
                true
            }
            None => false,
        },
    }
}

/// The shape that an array has as a row of an input: its own, dimensions of one aside; or, for an array of one dimension,
/// the input's, where it has all elements. None where it does not fit.
fn fit(dims: &[usize], input: &Input) -> Option<Vec<usize>> {
    let same = |(a, b): (&usize, &Option<usize>)| b.is_none_or(|b| *a == b);
    if dims.len() == input.shape.len() && dims.iter().zip(&input.shape).all(same) {
        return Some(dims.to_vec());
    }
    // Dimensions of one change nothing about the order of elements.
    let ours: Option<Vec<usize>> = input.shape.iter().copied().filter(|d| *d != Some(1)).collect();
    if ours.is_some_and(|ours| dims.iter().copied().filter(|d| *d != 1).eq(ours)) && !dims.is_empty() {
        return input.shape.iter().copied().collect();
    }
    // An empty array has no dimensions in PostgreSQL.
    let count = match dims {
        [] => 0,
        [n] => *n,
        _ => return None,
    };
    let known: usize = input.shape.iter().flatten().product();
    match input.shape.iter().filter(|d| d.is_none()).count() {
        0 => (known == count).then(|| input.shape.iter().flatten().copied().collect()),
        // One open dimension follows from the rest.
        1 if known > 0 && count % known == 0 => Some(input.shape.iter().map(|d| d.unwrap_or(count / known)).collect()),
        _ if count == 0 => {
            Some(input.shape.iter().map(|d| d.unwrap_or(0)).collect()).filter(|s: &Vec<usize>| s.contains(&0))
        }
        _ => None,
    }
}

/// A shape, for a message.
fn describe(dims: impl Iterator<Item = Option<usize>>) -> String {
    let dims: Vec<String> = dims.map(|d| d.map_or_else(|| "any".to_owned(), |d| d.to_string())).collect();
    format!("shape [{}]", dims.join(", "))
}

/// The dimensions of an array: PostgreSQL's have at most MAXDIM of them (utils/array.h).
struct Dimensions {
    count: usize,
    each: [usize; 6],
}

impl Dimensions {
    fn new(count: usize, read: impl Fn(usize) -> usize) -> Self {
        let mut each = [0; 6];
        each.iter_mut().take(count).enumerate().for_each(|(i, d)| *d = read(i));
        Self { count: count.min(6), each }
    }
}

impl std::ops::Deref for Dimensions {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        &self.each[..self.count]
    }
}

impl ArrayConvert {
    /// Writes the elements of an array and gives its dimensions.
    fn write(&self, datum: Datum, column: &mut Column, on_null: OnNull, model: &str, name: &str) -> Result<Dimensions> {
        let shape: Dimensions;
        let mut datums: *mut Datum = std::ptr::null_mut();
        let mut nulls: *mut bool = std::ptr::null_mut();
        let mut n = 0;
        // SAFETY: the datum is an array of this element type that is not NULL. Its elements are plain memory up to the
        // length that its header gives; others are taken apart by PostgreSQL.
        unsafe {
            let array = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
            let has_nulls = (*array).dataoffset != 0;
            let dims = array.cast::<i32>().add(4);
            shape = Dimensions::new((*array).ndim as usize, |i| *dims.add(i) as usize);
            let count = pg_sys::ArrayGetNItems((*array).ndim, dims) as usize;
            column.try_reserve(count)?;
            if !has_nulls {
                let data = array.cast::<u8>().add((16 + 8 * (*array).ndim as usize).next_multiple_of(8));
                match (self.element, &mut *column) {
                    (pg_sys::FLOAT4OID, Column::Float32(v)) => {
                        v.extend_from_slice(std::slice::from_raw_parts(data.cast::<f32>(), count));
                        return Ok(shape);
                    }
                    (pg_sys::FLOAT8OID, Column::Float64(v)) => {
                        v.extend_from_slice(std::slice::from_raw_parts(data.cast::<f64>(), count));
                        return Ok(shape);
                    }
                    (pg_sys::INT8OID, Column::Int64(v)) => {
                        v.extend_from_slice(std::slice::from_raw_parts(data.cast::<i64>(), count));
                        return Ok(shape);
                    }
                    (pg_sys::INT4OID, Column::Int32(v)) => {
                        v.extend_from_slice(std::slice::from_raw_parts(data.cast::<i32>(), count));
                        return Ok(shape);
                    }
                    _ => {}
                }
            }
            pg_sys::deconstruct_array(
                array,
                self.element,
                i32::from(self.length),
                self.by_value,
                self.align,
                &raw mut datums,
                &raw mut nulls,
                &raw mut n,
            );
        }
        for i in 0..n as usize {
            // SAFETY: both arrays have n entries.
            let (datum, null) = unsafe { (*datums.add(i), *nulls.add(i)) };
            if null {
                let nan = on_null == OnNull::Nan && column.element().is_float();
                if !(nan && column.push_json(&Value::from("NaN"))) {
                    return Err(Error::ArrayNull { model: model.to_owned(), column: name.to_owned(), position: i + 1 });
                }
            } else if !(self.write)(datum, column)? {
                return Err(Error::OutOfRange {
                    model: model.to_owned(),
                    column: name.to_owned(),
                    element: column.element().to_string(),
                });
            }
        }
        Ok(shape)
    }
}

fn is_enum(oid: Oid) -> bool {
    // SAFETY: reads the type cache.
    unsafe { pg_sys::type_is_enum(oid) }
}

fn output_function(oid: Oid) -> pg_sys::FmgrInfo {
    let (mut function, mut varlena) = (Oid::INVALID, false);
    let mut info = pg_sys::FmgrInfo::default();
    // SAFETY: looks up the output function of a type that exists.
    unsafe {
        pg_sys::getTypeOutputInfo(oid, &raw mut function, &raw mut varlena);
        pg_sys::fmgr_info(function, &raw mut info);
    }
    info
}

fn output(function: &pg_sys::FmgrInfo, datum: Datum) -> String {
    // SAFETY: calls the type's output function with a value of the type.
    text::copied(unsafe { pg_sys::OutputFunctionCall(std::ptr::from_ref(function).cast_mut(), datum) })
}

/// A column of a row type.
struct RowColumn {
    attribute: usize,
    name: String,
    /// The type, with domains looked through.
    oid: Oid,
    oid_itself: Oid,
    typmod: i32,
}

/// The columns of a row type that have not been dropped.
fn columns(desc: pg_sys::TupleDesc) -> Vec<RowColumn> {
    // SAFETY: the description is valid and has so many attributes.
    unsafe {
        (0..(*desc).natts as usize)
            .filter_map(|i| {
                let a = attribute(desc, i);
                (!(*a).attisdropped).then(|| RowColumn {
                    attribute: i,
                    name: text::copied((*a).attname.data.as_ptr()),
                    oid: base_type((*a).atttypid),
                    oid_itself: (*a).atttypid,
                    typmod: (*a).atttypmod,
                })
            })
            .collect()
    }
}

/// An attribute of a row description.
pub(crate) fn attribute(desc: pg_sys::TupleDesc, i: usize) -> *const pg_sys::FormData_pg_attribute {
    #[cfg(not(feature = "pg18"))]
    // SAFETY: callers keep i below natts.
    unsafe {
        (*desc).attrs.as_ptr().add(i)
    }
    #[cfg(feature = "pg18")]
    // SAFETY: callers keep i below natts.
    unsafe {
        pg_sys::TupleDescAttr(desc, i as i32)
    }
}

/// The type that a composite value says it has.
fn row_type(row: Datum) -> (Oid, i32) {
    // SAFETY: a composite datum is a varlena whose header holds its type; detoasting leaves an inline one alone.
    unsafe {
        let header = pg_sys::pg_detoast_datum(row.cast_mut_ptr()).cast::<pg_sys::HeapTupleHeaderData>();
        ((*header).t_choice.t_datum.datum_typeid, (*header).t_choice.t_datum.datum_typmod)
    }
}

/// Takes a composite value apart.
fn deform(composite: &mut Composite, row: Datum) {
    // SAFETY: the value has the type that `desc` describes, or one with the same columns; the arrays have natts entries.
    unsafe {
        let header = pg_sys::pg_detoast_datum(row.cast_mut_ptr()).cast::<pg_sys::HeapTupleHeaderData>();
        let mut tuple = pg_sys::HeapTupleData {
            t_len: pgrx::varlena::varsize_4b(header.cast()) as u32,
            t_data: header,
            ..Default::default()
        };
        pg_sys::heap_deform_tuple(
            &raw mut tuple,
            composite.desc,
            composite.values.as_mut_ptr(),
            composite.nulls.as_mut_ptr(),
        );
    }
}

/// Accepts another anonymous row type with the same columns.
fn same_columns(composite: &mut Composite, typeid: Oid, typmod: i32) -> Result<()> {
    // SAFETY: a composite value names a type that the cache knows.
    let desc = unsafe { pg_sys::lookup_rowtype_tupdesc_copy(typeid, typmod) };
    let (ours, theirs) = (columns(composite.desc), columns(desc));
    let key = |c: &RowColumn| (c.attribute, c.name.clone(), c.oid_itself);
    if ours.iter().map(key).ne(theirs.iter().map(key)) {
        return Err(Error::RowsDiffer);
    }
    (composite.typeid, composite.typmod) = (typeid, typmod);
    Ok(())
}

/// Keeps the carried columns of a row.
#[inline]
fn carry(composite: &mut Composite, rows: &mut Rows) -> Result<()> {
    composite.form.keep(&composite.carried_values, &composite.carried_nulls, rows)
}
