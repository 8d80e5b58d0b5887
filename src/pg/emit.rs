//! Tensor to datum: what an output is in SQL, and results back as rows, typed as their reader declares.

use pg_predict_engine::Error as Engine;
use pg_predict_engine::chunk::{Chunk, Key};
use pg_predict_engine::layout::MOST_COLUMNS;
use pg_predict_engine::portable::Writer;
use pg_predict_engine::signature::{Output, OutputRow};
use pg_predict_engine::tensor::{ElementType, Scalar, nest};
use pgrx::pg_sys::{self, Datum, Oid};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::pg::convert::Carried;
use crate::pg::results::{ElementKey, Layout, Results};
use crate::pg::stored_type::{self, Input, Output as TypeOutput, Style};
use crate::pg::{carry, text};

/// The SQL type that holds every value of an element type.
pub(crate) fn scalar_type(element: ElementType) -> Oid {
    match element {
        ElementType::Float32 | ElementType::Float16 | ElementType::Bfloat16 => pg_sys::FLOAT4OID,
        ElementType::Float64 => pg_sys::FLOAT8OID,
        ElementType::Int8 | ElementType::Int16 | ElementType::Uint8 => pg_sys::INT2OID,
        ElementType::Int32 | ElementType::Uint16 => pg_sys::INT4OID,
        ElementType::Int64 | ElementType::Uint32 => pg_sys::INT8OID,
        ElementType::Uint64 => pg_sys::NUMERICOID,
        ElementType::Bool => pg_sys::BOOLOID,
        ElementType::String => pg_sys::TEXTOID,
    }
}

/// The most dimensions that PostgreSQL's arrays have (MAXDIM in utils/array.h).
pub(crate) const MOST_DIMENSIONS: usize = 6;

/// The SQL type that a row of an output is by itself.
pub(crate) fn natural_type(output: &Output) -> Oid {
    let (element, rank) = match &output.row {
        OutputRow::Tensor { element, .. } if output.is_scalar() => return scalar_type(*element),
        OutputRow::Tensor { element, shape } => (element, shape.len()),
        OutputRow::Open { element, shape } => (element, shape.len()),
        OutputRow::Map { .. } | OutputRow::Nested { .. } => return pg_sys::JSONBOID,
    };
    if rank > MOST_DIMENSIONS {
        return pg_sys::JSONBOID;
    }
    // SAFETY: reads the type cache.
    unsafe { pg_sys::get_array_type(scalar_type(*element)) }
}

/// The shape of a row of an output that is a tensor.
pub(crate) fn row_shape(output: &Output, chunk: &Chunk<'_>, place: usize, nth: usize) -> Result<Vec<usize>> {
    match &output.row {
        OutputRow::Tensor { shape, .. } => Ok(shape.clone()),
        _ => Ok(chunk.shape(place, nth)?.unwrap_or_default()),
    }
}

/// A value in the SQL type of its element type.
pub(crate) fn scalar_datum(scalar: Scalar<'_>) -> Datum {
    match scalar {
        Scalar::Float32(x) => Datum::from(x.to_bits()),
        Scalar::Float64(x) => Datum::from(x.to_bits()),
        Scalar::Bool(x) => Datum::from(x),
        Scalar::Text(t) => text::datum(t),
        // Shorter integers are datums with their sign, too (postgres.h).
        Scalar::Int(x) => Datum::from(x),
        Scalar::Uint64(x) => {
            let digits = text::c(&x.to_string());
            // SAFETY: numeric_in of digits; the three arguments that it takes.
            unsafe {
                pgrx::direct_function_call_as_datum(
                    pg_sys::numeric_in,
                    &[Some(Datum::from(digits.as_ptr())), Some(Datum::from(0)), Some(Datum::from(-1))],
                )
            }
            .unwrap_or(Datum::from(0))
        }
    }
}

/// A value as text, as PostgreSQL would write it.
pub(crate) fn as_text(scalar: Scalar<'_>) -> String {
    match scalar {
        Scalar::Float32(x) => float_text(pg_sys::float4out, Datum::from(x.to_bits())),
        Scalar::Float64(x) => float_text(pg_sys::float8out, Datum::from(x.to_bits())),
        Scalar::Int(x) => x.to_string(),
        Scalar::Uint64(x) => x.to_string(),
        Scalar::Bool(x) => if x { "true" } else { "false" }.to_owned(),
        Scalar::Text(t) => t.to_owned(),
    }
}

/// A float in PostgreSQL's own form.
fn float_text(output: unsafe fn(pg_sys::FunctionCallInfo) -> Datum, x: Datum) -> String {
    // SAFETY: the output function of a float returns a C string.
    unsafe { pgrx::direct_function_call_as_datum(output, &[Some(x)]) }
        .map_or_else(String::new, |d| text::copied(d.cast_mut_ptr::<std::ffi::c_char>()))
}

/// A row of an output as JSON, nested as its shape is.
pub(crate) fn output_json(output: &Output, chunk: &Chunk<'_>, place: usize, nth: usize) -> Result<Value> {
    match &output.row {
        OutputRow::Map { .. } => {
            let mut map = Map::new();
            for (key, value) in chunk.pairs(place, nth)? {
                map.insert(key_text(key), Scalar::Float32(value).json());
            }
            Ok(Value::Object(map))
        }
        OutputRow::Nested { .. } => {
            let json = chunk.nested(place, nth)?;
            serde_json::from_str(json).map_err(|_| Engine::Corrupt { what: "an output is no JSON".into() }.into())
        }
        OutputRow::Tensor { .. } | OutputRow::Open { .. } => {
            let shape = row_shape(output, chunk, place, nth)?;
            Ok(nest(&shape, &mut |i| Ok(chunk.scalar(place, nth, i)?.json()))?)
        }
    }
}

/// The same as text, however large the row is.
fn json_text(output: &Output, chunk: &Chunk<'_>, place: usize, nth: usize) -> Result<String> {
    let mut tick = crate::pg::sessions::check_interrupts;
    let mut json = Writer::new(MOST_JSON, &mut tick);
    json.output(output, chunk, place, nth)?;
    Ok(json.into_text())
}

/// The longest text of a value that becomes one of PostgreSQL's.
const MOST_JSON: usize = 0x3fff_ff00;

/// JSON as a json datum.
fn json_datum(json: &str) -> Datum {
    let json = text::c(json);
    // SAFETY: json_in of a C string; it raises where the text is no JSON.
    unsafe { pgrx::direct_function_call_as_datum(pg_sys::json_in, &[Some(Datum::from(json.as_ptr()))]) }
        .unwrap_or(Datum::from(0))
}

fn key_text(key: Key<'_>) -> String {
    match key {
        Key::Int64(k) => k.to_string(),
        Key::Text(k) => k.to_owned(),
    }
}

/// JSON as a jsonb datum.
pub(crate) fn jsonb(json: &str) -> Datum {
    let json = text::c(json);
    // SAFETY: jsonb_in of a C string; it raises where the text is no JSON or too large.
    unsafe { pgrx::direct_function_call_as_datum(pg_sys::jsonb_in, &[Some(Datum::from(json.as_ptr()))]) }
        .unwrap_or(Datum::from(0))
}

/// An array datum; no dimension is an empty array.
pub(crate) fn array(values: &mut [Datum], nulls: &mut [bool], dimensions: &[usize], element: Oid) -> Result<Datum> {
    if values.len() >= (1 << 27) - 8 {
        return Err(Error::TooLarge { bytes: values.len() * 8 });
    }
    let too_large = |_| Error::TooLarge { bytes: values.len() * 8 };
    let shape = if values.is_empty() { &[] } else { dimensions };
    let mut dims: Vec<i32> =
        shape.iter().map(|d| i32::try_from(*d)).collect::<std::result::Result<_, _>>().map_err(too_large)?;
    let mut lower = vec![1; dims.len()];
    let (mut length, mut by_value, mut align) = (0, false, 0);
    let count = i32::try_from(dims.len()).map_err(too_large)?;
    // SAFETY: values and nulls have as many entries as the dimensions multiply to.
    Ok(unsafe {
        pg_sys::get_typlenbyvalalign(element, &raw mut length, &raw mut by_value, &raw mut align);
        Datum::from(pg_sys::construct_md_array(
            values.as_mut_ptr(),
            nulls.as_mut_ptr(),
            count,
            dims.as_mut_ptr(),
            lower.as_mut_ptr(),
            element,
            i32::from(length),
            by_value,
            align,
        ))
    })
}

/// A row of an output in its natural SQL type.
pub(crate) fn natural(output: &Output, chunk: &Chunk<'_>, place: usize, nth: usize) -> Result<Datum> {
    let element = match output.element() {
        Some(element) if natural_type(output) != pg_sys::JSONBOID => element,
        _ => return Ok(jsonb(&json_text(output, chunk, place, nth)?)),
    };
    if output.is_scalar() {
        return Ok(scalar_datum(chunk.scalar(place, nth, 0)?));
    }
    let shape = row_shape(output, chunk, place, nth)?;
    let width = shape.iter().product();
    let mut values = (0..width).map(|i| Ok(scalar_datum(chunk.scalar(place, nth, i)?))).collect::<Result<Vec<_>>>()?;
    // A single value of no dimension is an array of one.
    let shape = if shape.is_empty() { vec![1] } else { shape };
    array(&mut values, &mut vec![false; width], &shape, scalar_type(element))
}

/// The selected element of a row: of a map by its key, none where the key is not there.
pub(crate) fn selected<'a>(layout: &Layout, chunk: &Chunk<'a>, nth: usize) -> Result<Option<Scalar<'a>>> {
    let place = layout.selected;
    match &layout.element {
        None => Ok(Some(chunk.scalar(place, nth, 0)?)),
        Some(ElementKey::Position(n)) => {
            // An element that this row does not have.
            let shape = chunk.shape(place, nth)?;
            if shape.is_some_and(|s| *n >= s.iter().product()) {
                return Ok(None);
            }
            Ok(Some(chunk.scalar(place, nth, *n)?))
        }
        Some(key) => Ok(chunk
            .pairs(place, nth)?
            .into_iter()
            .find(|(k, _)| match (k, key) {
                (Key::Int64(a), ElementKey::Integer(b)) => a == b,
                (Key::Text(a), ElementKey::Text(b)) => a == b,
                _ => false,
            })
            .map(|(_, v)| Scalar::Float32(v))),
    }
}

/// Whether the selection is one value a row.
pub(crate) fn selects_scalar(layout: &Layout) -> bool {
    layout.element.is_some() || layout.outputs[layout.selected].is_scalar()
}

/// A conversion from one SQL type to another, as an assignment would make it, typmods and domains too.
struct Coercion {
    expression: *mut pg_sys::ExprState,
    context: *mut pg_sys::ExprContext,
}

impl Coercion {
    /// None where no conversion is needed.
    fn new(column: &str, from: Oid, from_typmod: i32, to: Oid, to_typmod: i32) -> Result<Option<Self>> {
        if from == to && (to_typmod == -1 || from_typmod == to_typmod) {
            return Ok(None);
        }
        // SAFETY: builds and compiles an expression over a placeholder, all in the current context.
        unsafe {
            let value = pg_sys::palloc0(size_of::<pg_sys::CaseTestExpr>()).cast::<pg_sys::CaseTestExpr>();
            (*value).xpr.type_ = pg_sys::NodeTag::T_CaseTestExpr;
            (*value).typeId = from;
            (*value).typeMod = from_typmod;
            (*value).collation = pg_sys::get_typcollation(from);
            let node = pg_sys::coerce_to_target_type(
                std::ptr::null_mut(),
                value.cast(),
                from,
                to,
                to_typmod,
                pg_sys::CoercionContext::COERCION_ASSIGNMENT,
                pg_sys::CoercionForm::COERCE_IMPLICIT_CAST,
                -1,
            );
            if node.is_null() {
                return Err(Error::CannotCast {
                    column: column.to_owned(),
                    from: text::type_name(from),
                    to: text::type_name(to),
                });
            }
            let planned = pg_sys::expression_planner(node.cast());
            Ok(Some(Self {
                expression: pg_sys::ExecInitExpr(planned, std::ptr::null_mut()),
                context: pg_sys::CreateStandaloneExprContext(),
            }))
        }
    }

    fn apply(&self, datum: Datum, null: &mut bool) -> Datum {
        // SAFETY: the expression reads the placeholder's value from its context.
        unsafe {
            (*self.context).caseValue_datum = datum;
            (*self.context).caseValue_isNull = *null;
            pg_sys::ExecEvalExpr(self.expression, self.context, null)
        }
    }
}

/// Where a column of the result comes from.
enum Source {
    Output(usize),
    /// An output as JSON, for columns of type json and (true) jsonb.
    Json(usize, bool),
    /// A single value as an array of one.
    One(usize),
    Carried(usize, Reading),
    /// A column of rows whose type nobody knows.
    Null,
}

/// What a carried value is before it is converted to the type that the reader declares.
enum Reading {
    /// What it is kept as.
    Kept,
    /// Its text, written now: its type's casts are not the reader's to run.
    Written(TypeOutput),
    /// Read from the text that it is kept as.
    Parsed(Input),
}

struct Column {
    source: Source,
    coercion: Option<Coercion>,
}

/// Turns results into rows of a description.
pub(crate) struct Rows {
    columns: Vec<Column>,
    form: carry::Form,
    values: Vec<Datum>,
    nulls: Vec<bool>,
    carried_values: Vec<Datum>,
    carried_nulls: Vec<bool>,
    uses_carried: bool,
    /// Values are written or read as text.
    uses_text: bool,
}

/// How a layout's rows carry their columns.
fn form(layout: &Layout) -> carry::Form {
    carry::Form::of_types(layout.carried.iter().map(|c| Oid::from(c.oid)))
}

/// How a carried column is read as this type, or as the type that it is by itself: how its values are made, and as what type.
fn reading(c: &Carried, declared: Option<Oid>) -> Result<(Reading, Oid, i32)> {
    let kept = (Reading::Kept, Oid::from(c.oid), c.typmod);
    let Some(written) = &c.text_of else {
        let oid = Oid::from(c.oid);
        if stored_type::is_trusted(oid) || declared == Some(oid) {
            return Ok(kept);
        }
        return Ok((Reading::Written(TypeOutput::of(oid)), pg_sys::TEXTOID, -1));
    };
    // A reader of texts gets them whatever has become of the type.
    if declared.is_some_and(|d| matches!(d, pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::BPCHAROID | pg_sys::NAMEOID))
    {
        return Ok(kept);
    }
    let (oid, typmod) = stored_type::known(&c.name, written)?;
    let names_it = declared.is_some_and(|d| stored_type::base(d, -1).0 == oid);
    if stored_type::is_trusted(oid) || names_it {
        return Ok((Reading::Parsed(Input::of(oid, typmod)), oid, typmod));
    }
    Ok(kept)
}

/// The row that results are by themselves: carried columns, then outputs.
pub(crate) fn natural_desc(layout: &Layout) -> Result<pg_sys::TupleDesc> {
    let mut columns = Vec::new();
    for c in &layout.carried {
        let (_, oid, typmod) = reading(c, None)?;
        columns.push((&c.name, oid, typmod));
    }
    columns.extend(layout.outputs.iter().map(|o| (&o.name, natural_type(o), -1)));
    let too_many = || Error::TooManyColumns { columns: columns.len(), limit: MOST_COLUMNS };
    let count = i16::try_from(columns.len()).map_err(|_| too_many())?;
    if columns.len() > MOST_COLUMNS {
        return Err(too_many());
    }
    // SAFETY: one entry a column, in the current context; blessed, so that rows of it can be told apart.
    unsafe {
        let desc = pg_sys::CreateTemplateTupleDesc(count.into());
        for ((name, oid, typmod), number) in columns.iter().zip(1..=count) {
            // Names are cut as PostgreSQL cuts them, between characters.
            let name = text::c(name);
            let length = i32::try_from(name.as_bytes().len()).unwrap_or(i32::MAX);
            let cut = usize::try_from(pg_sys::pg_mbcliplen(name.as_ptr(), length, 63)).unwrap_or(0);
            let name = std::ffi::CString::new(&name.as_bytes()[..cut.min(name.as_bytes().len())]).unwrap_or_default();
            pg_sys::TupleDescInitEntry(desc, number, name.as_ptr(), *oid, *typmod, 0);
        }
        Ok(pg_sys::BlessTupleDesc(desc))
    }
}

impl Rows {
    /// Matches the columns of a description by name to outputs, then to carried columns. Makes everything in the
    /// current memory context.
    pub(crate) fn new(layout: &Layout, desc: pg_sys::TupleDesc) -> Result<Self> {
        let mut columns = Vec::new();
        // SAFETY: the description is valid and has so many attributes.
        let natts = usize::try_from(unsafe { (*desc).natts }).unwrap_or(0);
        for i in 0..natts {
            // SAFETY: i is below natts.
            let a = unsafe { &*crate::pg::convert::attribute(desc, i) };
            let name = text::copied(a.attname.data.as_ptr());
            let output = layout.outputs.iter().position(|o| o.name == name).or_else(|| {
                // SQL folds unquoted names to lower case, models keep theirs; a carried column comes before a guess.
                let mut folded =
                    layout.outputs.iter().enumerate().filter(|(_, o)| o.name.to_lowercase() == name.to_lowercase());
                let taken = layout.carried.iter().any(|c| c.name == name);
                match (taken, folded.next(), folded.next()) {
                    (false, Some((place, _)), None) => Some(place),
                    _ => None,
                }
            });
            if let Some(place) = output {
                let output = &layout.outputs[place];
                let natural = natural_type(output);
                // SAFETY: reads the type cache.
                let element = unsafe { pg_sys::get_element_type(a.atttypid) };
                let (source, from) =
                    if matches!(a.atttypid, pg_sys::JSONOID | pg_sys::JSONBOID) && natural != a.atttypid {
                        (Source::Json(place, a.atttypid == pg_sys::JSONBOID), pg_sys::TEXTOID)
                    } else if output.is_scalar() && element != Oid::INVALID {
                        // SAFETY: reads the type cache.
                        (Source::One(place), unsafe { pg_sys::get_array_type(natural) })
                    } else {
                        (Source::Output(place), natural)
                    };
                let coercion = if matches!(source, Source::Json(..)) {
                    None
                } else {
                    Coercion::new(&name, from, -1, a.atttypid, a.atttypmod)?
                };
                columns.push(Column { source, coercion });
            } else if let Some(place) = layout.carried.iter().position(|c| c.name == name) {
                let c = &layout.carried[place];
                let (reading, oid, typmod) = reading(c, Some(a.atttypid))?;
                let coercion =
                    Coercion::new(&name, oid, typmod, a.atttypid, a.atttypmod).map_err(|e| match (e, &c.text_of) {
                        (Error::CannotCast { column, to, .. }, Some(of)) => {
                            Error::CannotCast { column, from: of.name.clone(), to }
                        }
                        (Error::CannotCast { column, to, .. }, None) => {
                            Error::CannotCast { column, from: text::type_name(Oid::from(c.oid)), to }
                        }
                        (e, _) => e,
                    })?;
                columns.push(Column { source: Source::Carried(place, reading), coercion });
            } else if layout.unbound {
                columns.push(Column { source: Source::Null, coercion: None });
            } else {
                return Err(Error::UnknownColumn {
                    name,
                    outputs: layout.outputs.iter().map(|o| o.name.clone()).collect(),
                    carried: layout.carried.iter().map(|c| c.name.clone()).collect(),
                });
            }
        }
        let uses_carried = columns.iter().any(|c| matches!(c.source, Source::Carried(..)));
        let uses_text =
            columns.iter().any(|c| matches!(c.source, Source::Carried(_, Reading::Written(_) | Reading::Parsed(_))));
        Ok(Self {
            columns,
            form: form(layout),
            values: vec![Datum::from(0); natts],
            nulls: vec![true; natts],
            carried_values: vec![Datum::from(0); layout.carried.len()],
            carried_nulls: vec![true; layout.carried.len()],
            uses_carried,
            uses_text,
        })
    }

    /// For the carried columns alone.
    fn of_carried(layout: &Layout) -> Self {
        Self {
            columns: Vec::new(),
            form: form(layout),
            values: Vec::new(),
            nulls: Vec::new(),
            carried_values: vec![Datum::from(0); layout.carried.len()],
            carried_nulls: vec![true; layout.carried.len()],
            uses_carried: true,
            uses_text: false,
        }
    }

    /// Fills `values` and `nulls` for one row of a chunk.
    fn fill(&mut self, layout: &Layout, chunk: &Chunk<'_>, row: usize, nth: Option<usize>) -> Result<()> {
        if self.uses_carried {
            self.open_carried(chunk.carried(row)?)?;
        }
        for (i, column) in self.columns.iter().enumerate() {
            let mut null = false;
            let datum = match (&column.source, nth) {
                (Source::Carried(place, reading), _) => {
                    null = self.carried_nulls[*place];
                    let value = self.carried_values[*place];
                    match reading {
                        Reading::Written(output) if !null => text::datum(&output.text(value)),
                        Reading::Parsed(input) if !null => input.value(&text::text(value)?),
                        _ => value,
                    }
                }
                (_, None) | (Source::Null, _) => {
                    null = true;
                    Datum::from(0)
                }
                (Source::Output(place), Some(nth)) => natural(&layout.outputs[*place], chunk, *place, nth)?,
                (Source::Json(place, binary), Some(nth)) => {
                    let json = json_text(&layout.outputs[*place], chunk, *place, nth)?;
                    if *binary { jsonb(&json) } else { json_datum(&json) }
                }
                (Source::One(place), Some(nth)) => {
                    let output = &layout.outputs[*place];
                    let OutputRow::Tensor { element, .. } = &output.row else { continue };
                    let value = scalar_datum(chunk.scalar(*place, nth, 0)?);
                    array(&mut [value], &mut [false], &[1], scalar_type(*element))?
                }
            };
            self.values[i] = match &column.coercion {
                Some(c) => c.apply(datum, &mut null),
                None => datum,
            };
            self.nulls[i] = null;
        }
        Ok(())
    }

    /// Takes the carried columns of a row apart.
    fn open_carried(&mut self, row: Option<&[u8]>) -> Result<()> {
        self.form.open(row, &mut self.carried_values, &mut self.carried_nulls)
    }

    /// Calls `f` with the values and nulls of every row, each in a memory context that is reset after it.
    pub(crate) fn each(
        &mut self,
        results: &Results,
        mut f: impl FnMut(&mut [Datum], &mut [bool]) -> Result<()>,
    ) -> Result<()> {
        let home = crate::pg::memory::Private::new(c"pg_predict row");
        let layout = std::sync::Arc::clone(&results.layout);
        let style = self.uses_text.then(Style::begin);
        results.each(|bytes| {
            let chunk = Chunk::parse(bytes)?;
            let mut nth = 0;
            for row in 0..chunk.rows() {
                if row % 256 == 0 {
                    crate::pg::sessions::check_interrupts();
                }
                let ran = chunk.ran(row);
                crate::pg::memory::within(home.context(), || {
                    self.fill(&layout, &chunk, row, ran.then_some(nth))?;
                    f(&mut self.values, &mut self.nulls)
                })?;
                nth += usize::from(ran);
                // SAFETY: the row has been taken.
                unsafe { pg_sys::MemoryContextReset(home.context()) };
            }
            Ok(())
        })?;
        if let Some(style) = style {
            style.finish();
        }
        Ok(())
    }
}

/// Every row as a composite value of the natural description, turned to JSON text by PostgreSQL.
pub(crate) fn json_rows(results: &Results, mut f: impl FnMut(&str) -> Result<()>) -> Result<()> {
    let desc = natural_desc(&results.layout)?;
    let mut rows = Rows::new(&results.layout, desc)?;
    rows.each(results, |values, nulls| {
        // SAFETY: the values match the description; row_to_json takes a composite datum and returns text.
        let json = unsafe {
            let tuple = pg_sys::heap_form_tuple(desc, values.as_mut_ptr(), nulls.as_mut_ptr());
            let composite = pg_sys::heap_copy_tuple_as_datum(tuple, desc);
            let json = pgrx::direct_function_call_as_datum(pg_sys::row_to_json, &[Some(composite)]);
            pg_sys::heap_freetuple(tuple);
            json
        };
        f(&json.map_or(Ok(std::borrow::Cow::Borrowed("null")), text::text)?)
    })
}

/// Puts every row into a tuplestore.
pub(crate) fn store(results: &Results, desc: pg_sys::TupleDesc, store: *mut pg_sys::Tuplestorestate) -> Result<()> {
    let mut rows = Rows::new(&results.layout, desc)?;
    rows.each(results, |values, nulls| {
        // SAFETY: the values match the description; the store copies them.
        unsafe { pg_sys::tuplestore_putvalues(store, desc, values.as_mut_ptr(), nulls.as_mut_ptr()) };
        Ok(())
    })
}

/// The first carried column of a row, as an error names it: `customer_id = 42`. None where nothing is carried.
pub(crate) fn first_carried(layout: &Layout, chunk: &[u8], row: usize) -> Result<Option<String>> {
    let chunk = Chunk::parse(chunk)?;
    let (Some(column), Some(bytes)) = (layout.carried.first(), chunk.carried(row)?) else { return Ok(None) };
    let home = crate::pg::memory::Private::new(c"pg_predict row");
    crate::pg::memory::within(home.context(), || {
        let mut rows = Rows::of_carried(layout);
        rows.open_carried(Some(bytes))?;
        if rows.carried_nulls[0] {
            return Ok(None);
        }
        let (mut function, mut varlena) = (Oid::INVALID, false);
        // SAFETY: calls the output function of the column's type with a value of it.
        let value = unsafe {
            pg_sys::getTypeOutputInfo(Oid::from(column.oid), &raw mut function, &raw mut varlena);
            text::copied(pg_sys::OidOutputFunctionCall(function, rows.carried_values[0]))
        };
        Ok(Some(format!("{} = {value}", column.name)))
    })
}

/// Calls `f` for every row with its chunk, its place among the rows that were run, and its carried values.
pub(crate) fn each_carried(
    results: &Results,
    mut f: impl FnMut(&Chunk<'_>, Option<usize>, &[Datum], &[bool]) -> Result<()>,
) -> Result<()> {
    let mut rows = Rows::of_carried(&results.layout);
    let home = crate::pg::memory::Private::new(c"pg_predict row");
    results.each(|bytes| {
        let chunk = Chunk::parse(bytes)?;
        let mut nth = 0;
        for row in 0..chunk.rows() {
            if row % 256 == 0 {
                crate::pg::sessions::check_interrupts();
            }
            let ran = chunk.ran(row);
            crate::pg::memory::within(home.context(), || {
                rows.open_carried(chunk.carried(row)?)?;
                f(&chunk, ran.then_some(nth), &rows.carried_values, &rows.carried_nulls)
            })?;
            nth += usize::from(ran);
            // SAFETY: the row has been taken.
            unsafe { pg_sys::MemoryContextReset(home.context()) };
        }
        Ok(())
    })
}
