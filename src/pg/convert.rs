//! Datum to tensor: how the arguments of a call find the inputs of a model, and the converters that write them.
//!
//! A `Binding` is made once per call site, at its first row: for every feature in tensor order it holds where the value
//! comes from and one function that writes it. Per row nothing is looked up.

use pg_predict_engine::batch::Batch;
use pg_predict_engine::chunk::Rows;
use pg_predict_engine::options::OnNull;
use pg_predict_engine::signature::Input;
use pg_predict_engine::tensor::{Column, ElementType};
use pg_predict_engine::version::Version;
use pgrx::pg_sys::{self, Datum, NullableDatum, Oid};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::pg::call::Call;
use crate::pg::{memory, text};

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
}

struct ArrayConvert {
    element: Oid,
    length: i16,
    by_value: bool,
    align: std::ffi::c_char,
    write: Write,
    /// How many elements a row has, where the model says; else the first row's.
    wanted: Option<usize>,
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
    typeid: Oid,
    typmod: i32,
    desc: pg_sys::TupleDesc,
    values: Vec<Datum>,
    nulls: Vec<bool>,
    /// Attributes that are carried, and their description.
    carried: Vec<usize>,
    carried_desc: pg_sys::TupleDesc,
    carried_values: Vec<Datum>,
    carried_nulls: Vec<bool>,
}

/// A column that comes back with its row.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Carried {
    pub(crate) name: String,
    pub(crate) oid: u32,
    pub(crate) typmod: i32,
}

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
    context: pg_sys::MemoryContext,
}

/// Whether a row was gathered, or is NULL.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Gathered {
    Row,
    Null,
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
fn narrow(x: f64) -> Option<f32> {
    let y = x as f32;
    (y.is_finite() || !x.is_finite()).then_some(y)
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
            _ => None,
        },
        pg_sys::FLOAT8OID => match element {
            ElementType::Float32 => write!(Float32, float8, narrow),
            ElementType::Float64 => write!(Float64, float8, Some),
            _ => None,
        },
        pg_sys::NUMERICOID => match element {
            ElementType::Float32 => write!(Float32, numeric, |x: Option<f64>| x.and_then(narrow)),
            ElementType::Float64 => write!(Float64, numeric, |x| x),
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

/// Writes a default of the options; false where it does not fit.
fn write_default(value: &Value, column: &mut Column) -> bool {
    macro_rules! integer {
        ($v:expr, $t:ty) => {
            match value
                .as_i64()
                .and_then(|x| <$t>::try_from(x).ok())
                .or(value.as_u64().and_then(|x| <$t>::try_from(x).ok()))
            {
                Some(x) => {
                    $v.push(x);
                    true
                }
                None => false,
            }
        };
    }
    match column {
        Column::Float32(v) => match value.as_f64().and_then(narrow) {
            Some(x) => {
                v.push(x);
                true
            }
            None => false,
        },
        Column::Float64(v) => match value.as_f64() {
            Some(x) => {
                v.push(x);
                true
            }
            None => false,
        },
        Column::Int8(v) => integer!(v, i8),
        Column::Int16(v) => integer!(v, i16),
        Column::Int32(v) => integer!(v, i32),
        Column::Int64(v) => integer!(v, i64),
        Column::Uint8(v) => integer!(v, u8),
        Column::Uint16(v) => integer!(v, u16),
        Column::Uint32(v) => integer!(v, u32),
        Column::Uint64(v) => integer!(v, u64),
        Column::Bool(v) => match value.as_bool() {
            Some(x) => {
                v.push(x);
                true
            }
            None => false,
        },
        Column::String(v) => match value.as_str() {
            Some(x) => {
                v.push(x);
                true
            }
            None => false,
        },
    }
}

/// Checks that a version's defaults fit its inputs: for when it is created.
pub(crate) fn check_defaults(options: &pg_predict_engine::options::Options, inputs: &[Input]) -> Result<()> {
    for (name, value) in &options.defaults {
        let input = inputs.iter().find(|i| &i.name == name).or(inputs.first());
        let Some(input) = input else { continue };
        if !write_default(value, &mut Column::new(input.element)) {
            return Err(pg_predict_engine::Error::Option {
                key: "defaults".to_owned(),
                reason: format!("The default {value} of column \"{name}\" does not fit type {}", input.element),
            }
            .into());
        }
    }
    Ok(())
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

impl Binding {
    /// Binds a call whose row arguments begin at `first`. None while the row type is not known yet: an anonymous row
    /// that is NULL does not tell it.
    ///
    /// `columns` names the columns that come back with their row, where the reader says; else those do that the model
    /// does not take.
    pub(crate) fn new(
        version: &Version,
        call: &Call,
        first: usize,
        columns: Option<&[String]>,
        context: pg_sys::MemoryContext,
    ) -> Result<Option<Self>> {
        let mut binding = Self {
            model: version.label(),
            on_null: version.options.on_null,
            features: Vec::new(),
            composite: None,
            carried: Vec::new(),
            inputs: version.signature.inputs.clone(),
            all_float4: false,
            context,
        };
        let types: Vec<Oid> = (first..call.arguments().len()).map(|i| call.argument_type(i)).collect();
        match types.as_slice() {
            [one] if is_composite(base_type(*one)) => {
                let (typeid, typmod) = match call.argument(first) {
                    Some(row) => row_type(row),
                    // A NULL of an anonymous row type tells nothing.
                    None if base_type(*one) == pg_sys::RECORDOID => return Ok(None),
                    None => (base_type(*one), -1),
                };
                binding.bind_composite(version, typeid, typmod, columns)?;
            }
            _ => binding.bind_values(version, &types, call.is_variadic())?,
        }
        binding.all_float4 = binding.inputs.len() == 1
            && binding.features.iter().all(|f| match &f.convert {
                // One function for one pair of types: its address tells the pair.
                Convert::Scalar(w) => writer(pg_sys::FLOAT4OID, ElementType::Float32)
                    .is_some_and(|x| std::ptr::fn_addr_eq(x, *w) && f.default.is_none()),
                _ => false,
            });
        Ok(Some(binding))
    }

    /// The columns that rows carry.
    pub(crate) fn carried(&self) -> &[Carried] {
        &self.carried
    }

    /// Where the wide input of a model with one input takes its values from.
    fn wide_width(&self, version: &Version) -> Option<usize> {
        match self.inputs.as_slice() {
            [input] => input.width().or(version.options.features.as_ref().map(Vec::len)),
            _ => None,
        }
    }

    fn bind_values(&mut self, version: &Version, types: &[Oid], variadic: bool) -> Result<()> {
        let names: Vec<String> = self.inputs.iter().map(|i| i.name.clone()).collect();
        let default = |name: &str| version.options.defaults.get(name).cloned();
        let is_array = |oid: Oid| {
            // SAFETY: reads the type cache.
            unsafe { pg_sys::get_element_type(base_type(oid)) != Oid::INVALID }
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
            (Some(width), _) => format!("{width} values or one array of {width}"),
            (None, 1) if types.is_empty() => "one array".to_owned(),
            (None, n) => format!("{n} values"),
        };
        Err(Error::Arguments { model: self.model.clone(), given: types.len(), wanted })
    }

    /// Values that make up one input together are single values.
    fn only_scalars(&self) -> Result<()> {
        match self.features.iter().find(|f| matches!(f.convert, Convert::Array(_))) {
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
        typeid: Oid,
        typmod: i32,
        wanted_back: Option<&[String]>,
    ) -> Result<()> {
        let context = self.context;
        let desc = memory::within(context, || {
            // SAFETY: a composite value names a type that the cache knows; the copy belongs to the call site.
            unsafe { pg_sys::lookup_rowtype_tupdesc_copy(typeid, typmod) }
        });
        let columns = columns(desc);
        let wanted: Vec<(String, usize)> = match &version.options.features {
            Some(features) => features.iter().map(|f| (f.clone(), 0)).collect(),
            None => self.inputs.iter().enumerate().map(|(i, input)| (input.name.clone(), i)).collect(),
        };
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
                    && self.inputs[0].width().is_none_or(|w| w > 1),
            });
        }
        if version.options.features.is_some() {
            self.only_scalars()?;
        }
        let carried: Vec<&RowColumn> = columns
            .iter()
            .filter(|c| match wanted_back {
                Some(names) => names.contains(&c.name) && version.signature.output(&c.name).is_none(),
                None => !used.contains(&c.attribute),
            })
            .collect();
        for c in &carried {
            self.carried.push(Carried { name: c.name.clone(), oid: c.oid_itself.to_u32(), typmod: c.typmod });
        }
        // SAFETY: `desc` was made above; the new description has one entry a carried column.
        let (natts, carried_desc) = memory::within(context, || unsafe {
            let natts = (*desc).natts as usize;
            let copy = pg_sys::CreateTemplateTupleDesc(carried.len() as i32);
            for (i, c) in carried.iter().enumerate() {
                pg_sys::TupleDescCopyEntry(copy, i as i16 + 1, desc, c.attribute as i16 + 1);
            }
            (natts, copy)
        });
        self.composite = Some(Composite {
            typeid,
            typmod,
            desc,
            values: vec![Datum::from(0); natts],
            nulls: vec![true; natts],
            carried: carried.iter().map(|c| c.attribute).collect(),
            carried_desc,
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
            Convert::Array(ArrayConvert { element, length, by_value, align, write, wanted: target.width() })
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
        let default = default.filter(|_| !matches!(convert, Convert::Array(_)));
        Ok(Feature { source, name, input, convert, default })
    }

    /// Makes the empty batch that this binding fills.
    pub(crate) fn batch(&self) -> Batch {
        Batch {
            rows: 0,
            columns: self.inputs.iter().map(|i| Column::new(i.element)).collect(),
            shapes: self
                .inputs
                .iter()
                .enumerate()
                .map(|(n, i)| {
                    let features = self.features.iter().filter(|f| f.input == n).count();
                    i.shape.iter().map(|d| d.unwrap_or(features)).collect()
                })
                .collect(),
        }
    }

    /// Bytes that a row takes in a batch; texts count with their place only.
    pub(crate) fn row_bytes(batch: &Batch) -> usize {
        batch.columns.iter().zip(&batch.shapes).map(|(c, s)| c.element().size() * s.iter().product::<usize>()).sum()
    }

    /// Makes room for more rows in a batch, or fails without ending the process.
    pub(crate) fn reserve(&self, batch: &mut Batch, rows: usize) -> Result<()> {
        for (column, shape) in batch.columns.iter_mut().zip(&batch.shapes) {
            column.try_reserve(rows.saturating_mul(shape.iter().product()))?;
        }
        Ok(())
    }

    /// Gathers one row from the arguments of a call.
    pub(crate) fn gather(&mut self, arguments: &[NullableDatum], batch: &mut Batch, rows: &mut Rows) -> Result<()> {
        let gathered = if self.composite.is_some() {
            self.gather_composite(arguments[0], batch, rows)?
        } else if self.all_float4 {
            gather_float4(arguments, batch)
        } else {
            gather_features(&self.features, self.on_null, &self.model, batch, |source| {
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
        rows.ran.push(gathered == Gathered::Row);
        batch.rows += usize::from(gathered == Gathered::Row);
        Ok(())
    }

    /// Notes a row that is NULL as a whole.
    pub(crate) fn gather_null(&mut self, rows: &mut Rows) -> Result<()> {
        if self.on_null == OnNull::Error {
            return Err(Error::NullRow { model: self.model.clone() });
        }
        rows.ran.push(false);
        if let Some(composite) = self.composite.as_mut().filter(|c| !c.carried.is_empty()) {
            composite.carried_nulls.fill(true);
            carry(composite, rows);
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
        let composite = &*composite;
        let gathered = gather_features(&self.features, self.on_null, &self.model, batch, |source| {
            (!composite.nulls[source]).then(|| composite.values[source])
        })?;
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
            carry(composite, rows);
        }
        Ok(gathered)
    }
}

/// The commonest row: float4 values into one float32 input.
#[inline]
fn gather_float4(arguments: &[NullableDatum], batch: &mut Batch) -> Gathered {
    let Some(Column::Float32(column)) = batch.columns.first_mut() else { return Gathered::Null };
    let before = column.len();
    for a in arguments {
        if a.isnull {
            column.truncate(before);
            return Gathered::Null;
        }
        column.push(float4(a.value));
    }
    Gathered::Row
}

/// Writes every feature of a row, or none where one is NULL.
fn gather_features(
    features: &[Feature],
    on_null: OnNull,
    model: &str,
    batch: &mut Batch,
    read: impl Fn(usize) -> Option<Datum>,
) -> Result<Gathered> {
    for feature in features {
        let column = &mut batch.columns[feature.input];
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
                    let width = array.wanted;
                    let before = column.len();
                    array.write(datum, column, on_null, model, &feature.name)?;
                    let given = column.len() - before;
                    let shape = &mut batch.shapes[feature.input];
                    let wanted = width.unwrap_or_else(|| {
                        if batch.rows == 0 {
                            open(shape, given);
                        }
                        shape.iter().product()
                    });
                    if given != wanted {
                        return Err(Error::ArrayLength {
                            model: model.to_owned(),
                            column: feature.name.clone(),
                            given,
                            wanted,
                        });
                    }
                    true
                }
            },
            None => match &feature.default {
                Some(value) => write_default(value, column),
                None if on_null == OnNull::Nan => match column {
                    Column::Float32(v) => {
                        let n = batch.shapes[feature.input].iter().product::<usize>();
                        let n = if matches!(feature.convert, Convert::Array(_)) { n } else { 1 };
                        v.extend(std::iter::repeat_n(f32::NAN, n));
                        true
                    }
                    Column::Float64(v) => {
                        let n = batch.shapes[feature.input].iter().product::<usize>();
                        let n = if matches!(feature.convert, Convert::Array(_)) { n } else { 1 };
                        v.extend(std::iter::repeat_n(f64::NAN, n));
                        true
                    }
                    _ => {
                        undo(batch);
                        return Ok(Gathered::Null);
                    }
                },
                None => {
                    undo(batch);
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

/// Takes the length of the first row for a dimension that the model leaves open.
fn open(shape: &mut [usize], given: usize) {
    if let Some(last) = shape.last_mut() {
        *last = 0;
    }
    let rest: usize = shape.iter().rev().skip(1).product::<usize>().max(1);
    if let Some(last) = shape.last_mut() {
        *last = given / rest;
    }
}

/// Takes back what a row that turns out NULL has written.
fn undo(batch: &mut Batch) {
    let rows = batch.rows;
    for (column, shape) in batch.columns.iter_mut().zip(&batch.shapes) {
        column.truncate(rows * shape.iter().product::<usize>());
    }
}

impl ArrayConvert {
    fn write(&self, datum: Datum, column: &mut Column, on_null: OnNull, model: &str, name: &str) -> Result<()> {
        let mut datums: *mut Datum = std::ptr::null_mut();
        let mut nulls: *mut bool = std::ptr::null_mut();
        let mut n = 0;
        // SAFETY: the datum is an array of this element type that is not NULL. Its elements are plain memory up to the
        // length that its header gives; others are taken apart by PostgreSQL.
        unsafe {
            let array = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
            let has_nulls = (*array).dataoffset != 0;
            if !has_nulls {
                let dims = array.cast::<i32>().add(4);
                let count = pg_sys::ArrayGetNItems((*array).ndim, dims) as usize;
                let data = array.cast::<u8>().add((16 + 8 * (*array).ndim as usize).next_multiple_of(8));
                match (self.element, &mut *column) {
                    (pg_sys::FLOAT4OID, Column::Float32(v)) => {
                        v.extend_from_slice(std::slice::from_raw_parts(data.cast::<f32>(), count));
                        return Ok(());
                    }
                    (pg_sys::FLOAT8OID, Column::Float64(v)) => {
                        v.extend_from_slice(std::slice::from_raw_parts(data.cast::<f64>(), count));
                        return Ok(());
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
                match column {
                    Column::Float32(v) if on_null == OnNull::Nan => v.push(f32::NAN),
                    Column::Float64(v) if on_null == OnNull::Nan => v.push(f64::NAN),
                    _ => {
                        return Err(Error::ArrayNull {
                            model: model.to_owned(),
                            column: name.to_owned(),
                            position: i + 1,
                        });
                    }
                }
            } else if !(self.write)(datum, column)? {
                return Err(Error::OutOfRange {
                    model: model.to_owned(),
                    column: name.to_owned(),
                    element: column.element().to_string(),
                });
            }
        }
        Ok(())
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
fn carry(composite: &mut Composite, rows: &mut Rows) {
    keep(composite.carried_desc, &mut composite.carried_values, &mut composite.carried_nulls, rows);
}

/// Keeps the values of a row, as a minimal tuple.
pub(crate) fn keep(desc: pg_sys::TupleDesc, values: &mut [Datum], nulls: &mut [bool], rows: &mut Rows) {
    // SAFETY: the values match the description; the tuple is copied and freed at once.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        let tuple = pg_sys::heap_form_minimal_tuple(desc, values.as_mut_ptr(), nulls.as_mut_ptr());
        #[cfg(feature = "pg18")]
        let tuple = pg_sys::heap_form_minimal_tuple(desc, values.as_mut_ptr(), nulls.as_mut_ptr(), 0);
        let bytes = std::slice::from_raw_parts(tuple.cast::<u8>(), (*tuple).t_len as usize);
        rows.carried.extend_from_slice(bytes);
        rows.ends.push(rows.carried.len() as u32);
        pg_sys::pfree(tuple.cast());
    }
}
