//! Binds SQL arguments to model inputs.
//!
//! A `Binding` is created once per call site, at its first row. For every feature, in tensor order, it holds the source
//! of the value and one function that writes it. Nothing is looked up per row.

use pg_predict_engine::batch::{Batch, Each, Shapes};

use crate::error::{Error, Result};
use crate::pg::call::Arguments;
use crate::pg::{memory, text};
use crate::rows::composite::{RowColumn, attribute, columns, is_composite, row_type};
use crate::rows::direct::{Direct, How, Step};
use crate::rows::encoders::{
    ArrayConvert, CAST_TEXT, Convert, base_type, is_enum, is_text, output_function, size, writer,
};
use crate::rows::{carried_values, stored_type};

pub(crate) use pg_predict_engine::encoding::layout::Carried;
use pg_predict_engine::options::{OnError, OnNull};
use pg_predict_engine::signature::{Input, TEXTS};
use pg_predict_engine::tensor::{Column, ElementType};
use pg_predict_engine::version::Version;
use pgrx::pg_sys::{self, Datum, Oid};
use serde_json::Value;

/// One value of a row that goes into an input.
pub(crate) struct Feature {
    /// The index of the argument, or of the attribute of the composite.
    pub(crate) source: usize,
    pub(crate) name: String,
    pub(crate) input: usize,
    pub(crate) convert: Convert,
    pub(crate) default: Option<Value>,
}

/// The composite type of the rows.
pub(crate) struct Composite {
    /// Whether a row is passed as one argument per column.
    pub(crate) spread: bool,
    pub(crate) typeid: Oid,
    pub(crate) typmod: i32,
    pub(crate) desc: pg_sys::TupleDesc,
    pub(crate) values: Vec<Datum>,
    pub(crate) nulls: Vec<bool>,
    /// The carried attributes. The next three fields hold their values, their NULL flags and their storage form.
    pub(crate) carried: Vec<usize>,
    pub(crate) carried_values: Vec<Datum>,
    pub(crate) carried_nulls: Vec<bool>,
    pub(crate) form: carried_values::CarriedForm,
}

/// How the arguments of a call site map to the inputs of its model.
pub(crate) struct Binding {
    pub(crate) model: String,
    pub(crate) on_null: OnNull,
    pub(crate) features: Vec<Feature>,
    pub(crate) composite: Option<Composite>,
    pub(crate) carried: Vec<Carried>,
    pub(crate) inputs: Vec<Input>,
    /// Whether every feature is a float4 into one float32 input, in order.
    pub(crate) all_float4: bool,
    /// The argument indexes of the features.
    pub(crate) sources: Vec<usize>,
    /// Whether rows differ in size.
    pub(crate) varies: bool,
    /// Whether a row that cannot be converted gives NULL instead of an error (option `on_error`).
    pub(crate) skip_bad: bool,
    pub(crate) context: pg_sys::MemoryContext,
}

impl Binding {
    /// Creates a binding without features.
    pub(crate) fn empty(version: &Version, context: pg_sys::MemoryContext) -> Self {
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

    /// Binds the arguments of a call. Returns `None` if the row type is not known yet, because an anonymous row is
    /// NULL.
    ///
    /// `columns` names the columns to carry. If it is `None`, every column that the model does not use is carried.
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
                    // A NULL of an anonymous row type does not reveal the type.
                    None if base_type(*one) == pg_sys::RECORDOID => return Ok(None),
                    None => (base_type(*one), -1),
                };
                let desc = memory::within(context, || {
                    // SAFETY: a composite value names a type in the type cache. The copy belongs to the call site.
                    unsafe { pg_sys::lookup_rowtype_tupdesc_copy(typeid, typmod) }
                });
                binding.bind_composite(version, desc, columns)?;
                if let Some(composite) = binding.composite.as_mut() {
                    (composite.typeid, composite.typmod) = (typeid, typmod);
                }
            }
            _ => {
                // The arguments that are not for other inputs are texts.
                let others = version.signature.slots(0).len();
                let texts = types.len().saturating_sub(others).clamp(1, named.map_or(TEXTS.len(), Vec::len));
                binding.inputs = version.signature.slots(texts);
                binding.bind_values(version, types, arguments.variadic)?;
            }
        }
        binding.settle();
        Ok(Some(binding))
    }

    /// Binds the columns of a row that is never formed: the values of its features are passed separately.
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

    /// Precomputes what is the same for every row.
    pub(crate) fn settle(&mut self) {
        self.sources = self.features.iter().map(|f| f.source).collect();
        self.varies = self.inputs.iter().any(|i| i.element == ElementType::String || i.width().is_none());
        self.all_float4 = self.inputs.len() == 1
            && self.features.iter().all(|f| match &f.convert {
                // Each pair of types has its own function, so its address identifies the pair.
                Convert::Scalar(w) => writer(pg_sys::FLOAT4OID, ElementType::Float32)
                    .is_some_and(|x| std::ptr::fn_addr_eq(x, *w) && f.default.is_none()),
                _ => false,
            });
    }

    /// Renumbers the features so that their values, in order, are the only arguments. Returns the previous argument
    /// index of each. A row passed as one value stays one argument, and one passed as its columns stays these.
    pub(crate) fn compact(&mut self) -> Vec<usize> {
        if let Some(composite) = &self.composite {
            return if composite.spread { (0..composite.values.len()).collect() } else { vec![0] };
        }
        let sources = self.features.iter_mut().enumerate().map(|(i, f)| std::mem::replace(&mut f.source, i)).collect();
        self.settle();
        sources
    }

    /// The carried columns.
    pub(crate) fn carried(&self) -> &[Carried] {
        &self.carried
    }

    /// The number of values that make up a row of a model with one input, if known.
    pub(crate) fn wide_width(&self, version: &Version) -> Option<usize> {
        match self.inputs.as_slice() {
            [_] if version.signature.takes_text() => Some(1),
            [input] => input.width().or(version.options.features.as_ref().map(Vec::len)),
            _ => None,
        }
    }

    pub(crate) fn bind_values(&mut self, version: &Version, types: &[Oid], variadic: bool) -> Result<()> {
        let names: Vec<String> = self.inputs.iter().map(|i| i.name.clone()).collect();
        let default = |name: &str| version.options.defaults.get(name).cloned();
        let is_array = |oid: Oid| {
            // SAFETY: reads the type cache.
            unsafe { pg_sys::get_element_type(base_type(oid)) != Oid::INVALID || base_type(oid) == pg_sys::BYTEAOID }
        };
        // A single array is the whole row of the only input, and so is an argument passed with VARIADIC.
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
        let hint = matches!(types, [one] if is_text(base_type(*one))).then_some(CAST_TEXT);
        Err(Error::Arguments { model: self.model.clone(), given: types.len(), wanted, hint })
    }

    /// Reports an error if a value is not a scalar. Values that make up one input together must be scalars.
    pub(crate) fn only_scalars(&self) -> Result<()> {
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

    pub(crate) fn bind_composite(
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
            // The second text is optional: it is used if the row has it.
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
            return Err(Error::Arguments {
                model: self.model.clone(),
                given: 1,
                wanted: "no values".to_owned(),
                hint: None,
            });
        }
        let mut missing = Vec::new();
        let mut several = None;
        let mut used = Vec::new();
        let named_exactly = |c: &RowColumn| wanted.iter().any(|(name, _)| text::is_called(name, &c.name));
        for (name, input) in &wanted {
            // Match exactly, or else ignoring case: SQL folds unquoted names to lower case, but models keep theirs. A
            // case-insensitive match skips columns that another name matches exactly.
            let mut exact = columns.iter().filter(|c| text::is_called(name, &c.name));
            let mut folded =
                columns.iter().filter(|c| c.name.to_lowercase() == name.to_lowercase() && !named_exactly(c));
            let found = match (exact.next(), exact.next()) {
                (Some(_), Some(_)) => return Err(Error::AmbiguousName { what: "column", name: name.clone() }),
                (Some(column), None) => Some(column),
                (None, _) => match (folded.next(), folded.next()) {
                    (first, None) => first,
                    _ => {
                        several = Some(name.clone());
                        None
                    }
                },
            };
            match found {
                Some(column) => {
                    // Two feature names that PostgreSQL treats as the same, by case or by their first 63 bytes.
                    if used.iter().any(|(attribute, other)| *attribute == column.attribute && other != name) {
                        return Err(Error::AmbiguousName { what: "column", name: column.name.clone() });
                    }
                    let default = version.options.defaults.get(name).cloned();
                    let feature = self.feature(column.attribute, column.name.clone(), *input, column.oid, default)?;
                    self.features.push(feature);
                    used.push((column.attribute, name.clone()));
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
                Some(names) => {
                    names.contains(&c.name)
                        && !version.signature.outputs.iter().any(|o| text::is_called(&o.name, &c.name))
                }
                None => !used.iter().any(|(attribute, _)| *attribute == c.attribute),
            })
            .filter(|c| stored_type::may_be_carried(c.oid_itself))
            .collect();
        for c in &carried {
            let (oid, typmod) = stored_type::base(c.oid_itself, c.typmod);
            self.carried.push(Carried { name: c.name.clone(), oid: oid.to_u32(), typmod, text_of: None });
        }
        // SAFETY: the caller created `desc`. Each carried column is one of its attributes.
        let (natts, form) = memory::within(context, || unsafe {
            let natts = size((*desc).natts);
            (natts, carried_values::CarriedForm::of_attributes(carried.iter().map(|c| attribute(desc, c.attribute))))
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

    /// Creates the feature for one value, with its converter.
    pub(crate) fn feature(
        &self,
        source: usize,
        name: String,
        input: usize,
        oid: Oid,
        default: Option<Value>,
    ) -> Result<Feature> {
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
            // SAFETY: reads the type cache into the three variables.
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
            return Err(wrong(match (is_text(base), target.element) {
                (true, _) => Some(CAST_TEXT),
                (false, ElementType::String) => Some("Cast it to text."),
                _ => None,
            }));
        };
        // A default is a single value, so arrays have none.
        let default = default.filter(|_| !convert.is_many());
        Ok(Feature { source, name, input, convert, default })
    }

    /// Creates an empty batch for this binding.
    pub(crate) fn batch(&self) -> Batch {
        let shapes = |(n, input): (usize, &Input)| {
            let mut features = self.features.iter().filter(|f| f.input == n);
            match input.shape.iter().copied().collect::<Option<Vec<usize>>>() {
                Some(shape) => Shapes::Same(shape),
                None if features.clone().any(|f| f.convert.is_many()) => {
                    Shapes::Each(Each { rank: input.shape.len(), ..Each::default() })
                }
                // Single values make up an open input: its width is their number.
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

    /// Returns the direct path of a row of single values without NULL, the argument indexes of its carried columns and
    /// their storage form. `None` if a row needs more than that.
    pub(crate) fn plain_row(&self) -> Option<(Direct, Vec<usize>, carried_values::CarriedForm)> {
        let direct = self.direct(|source| source)?;
        match &self.composite {
            None => Some((direct, Vec::new(), carried_values::CarriedForm::default())),
            Some(c) => c.form.is_plain().then(|| (direct, c.carried.clone(), c.form.clone())),
        }
    }

    /// Returns the direct path of a row of single values. `place` maps the source of a feature to its index.
    pub(crate) fn direct(&self, place: impl Fn(usize) -> usize) -> Option<Direct> {
        if self.composite.as_ref().is_some_and(|c| !c.spread) || self.features.is_empty() {
            return None;
        }
        let mut steps = Vec::with_capacity(self.features.len());
        for feature in &self.features {
            let Convert::Scalar(write) = feature.convert else { return None };
            // Each pair of types has its own function, so its address identifies the pair.
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

    /// Whether the binding may outlive its query: it binds only single values, with functions that need no state.
    pub(crate) fn outlives_query(&self) -> bool {
        let stateless = |f: &Feature| matches!(f.convert, Convert::Scalar(_) | Convert::Untyped);
        self.composite.is_none() && self.carried.is_empty() && self.features.iter().all(stateless)
    }

    /// Whether rows differ in size, so that each row's size must be checked.
    pub(crate) fn varies(&self) -> bool {
        self.varies
    }

    /// Returns the bytes of a row in a batch. Parts whose size differs by row count only with their fixed part.
    pub(crate) fn row_bytes(batch: &Batch) -> usize {
        let width = |shapes: &Shapes| if let Shapes::Same(s) = shapes { s.iter().product() } else { 1_usize };
        batch.columns.iter().zip(&batch.shapes).map(|(c, s)| c.element().size() * width(s)).sum()
    }

    /// Reserves memory for more rows in a batch. Returns an error instead of aborting the process if memory is
    /// exhausted.
    pub(crate) fn reserve(&self, batch: &mut Batch, rows: usize) -> Result<()> {
        for (column, shapes) in batch.columns.iter_mut().zip(&batch.shapes) {
            if let Shapes::Same(shape) = shapes {
                column.try_reserve(rows.saturating_mul(shape.iter().product()))?;
            }
        }
        Ok(())
    }
}
