//! Converts results to rows, typed as their reader declares.

use std::collections::HashSet;

use pg_predict_engine::encoding::encoded_reader::EncodedRows;
use pg_predict_engine::encoding::layout::MOST_COLUMNS;
use pg_predict_engine::signature::OutputRow;
use pg_predict_engine::tensor::{ElementType, has_digits};
use pgrx::pg_sys::{self, Datum, Oid};

use crate::error::{Error, Result};
use crate::pg::text;
use crate::pg::text::is_called;
use crate::results::output_values::{
    array, json_datum, json_text, jsonb, natural, natural_type, not_held, row_shape, scalar_datum, scalar_type,
};
use crate::results::result_set::{Layout, Results};
use crate::rows::binding::Carried;
use crate::rows::carried_values;
use crate::rows::stored_type::{self, Style, TypeInput, TypeOutput};

/// Converts values from one SQL type to another as an assignment does, with type modifiers and domains.
struct Coercion {
    expression: *mut pg_sys::ExprState,
    context: *mut pg_sys::ExprContext,
}

impl Coercion {
    /// Returns None if no conversion is needed.
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

/// The source of a column of a result row.
enum ColumnSource {
    Output(usize),
    /// An output as JSON. The flag is true for jsonb and false for json.
    Json(usize, bool),
    /// A single value as an array of one element.
    One(usize),
    Carried(usize, Reading),
    /// NULL: no row determined the row type, so the carried columns are not known.
    Null,
}

/// How a carried value is read before it is converted to the type that the reader declares.
enum Reading {
    /// As it is kept.
    Kept,
    /// As text, written on reading: the casts of a type that is not trusted must not run with the reader's rights.
    Written(TypeOutput),
    /// Parsed from the text that is kept.
    Parsed(TypeInput),
}

struct ResultColumn {
    source: ColumnSource,
    coercion: Option<Coercion>,
    /// The float type that must hold integers exactly. PostgreSQL's cast would round them.
    float: Option<Oid>,
}

/// Returns the float type that a type is, or is an array of. None for other types.
pub(crate) fn float_of(oid: Oid) -> Option<Oid> {
    let base = stored_type::base(oid, -1).0;
    // SAFETY: reads the type cache.
    let element = unsafe { pg_sys::get_element_type(base) };
    let scalar = if element == Oid::INVALID { base } else { stored_type::base(element, -1).0 };
    matches!(scalar, pg_sys::FLOAT4OID | pg_sys::FLOAT8OID).then_some(scalar)
}

/// Checks that a float type holds the integers of a row exactly.
fn check_exact(layout: &Layout, chunk: &EncodedRows<'_>, place: usize, nth: usize, float: Oid) -> Result<()> {
    let width: usize = row_shape(&layout.outputs[place], chunk, place, nth)?.iter().product();
    for i in 0..width {
        let scalar = chunk.scalar(place, nth, i)?;
        let held = if float == pg_sys::FLOAT4OID { scalar.real().is_some() } else { scalar.exact().is_some() };
        if !held {
            return Err(not_held(layout, place, scalar, float));
        }
    }
    Ok(())
}

/// Checks that a float type holds the integer of a carried column exactly.
fn check_carried(column: &Carried, value: Datum, float: Oid) -> Result<()> {
    let x = if Oid::from(column.oid) == pg_sys::INT8OID { text::big(value) } else { text::int(value).into() };
    let digits = if float == pg_sys::FLOAT4OID { f32::MANTISSA_DIGITS } else { f64::MANTISSA_DIGITS };
    if has_digits(x.into(), digits) {
        return Ok(());
    }
    Err(Error::CarriedOutOfRange { column: column.name.clone(), value: x, type_name: text::type_name(float) })
}

/// Converts results to rows of a tuple descriptor.
pub(crate) struct RowReader {
    columns: Vec<ResultColumn>,
    form: carried_values::CarriedForm,
    values: Vec<Datum>,
    nulls: Vec<bool>,
    carried_values: Vec<Datum>,
    carried_nulls: Vec<bool>,
    uses_carried: bool,
    /// Whether any values are written or parsed as text.
    uses_text: bool,
}

/// Returns the form in which the rows of a layout keep their carried columns.
fn form(layout: &Layout) -> carried_values::CarriedForm {
    carried_values::CarriedForm::of_types(layout.carried.iter().map(|c| Oid::from(c.oid)))
}

/// Returns how a carried column is read as the declared type, or with its natural type if none is declared.
/// Also returns the type and the modifier of the values that are read.
fn reading(c: &Carried, declared: Option<Oid>) -> Result<(Reading, Oid, i32)> {
    let kept = (Reading::Kept, Oid::from(c.oid), c.typmod);
    let Some(written) = &c.text_of else {
        let oid = Oid::from(c.oid);
        if stored_type::is_trusted(oid) || declared == Some(oid) {
            return Ok(kept);
        }
        return Ok((Reading::Written(TypeOutput::of(oid)), pg_sys::TEXTOID, -1));
    };
    // A reader that declares a text type gets the kept text, even if the original type was changed or dropped since.
    if declared.is_some_and(|d| matches!(d, pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::BPCHAROID | pg_sys::NAMEOID))
    {
        return Ok(kept);
    }
    let (oid, typmod) = stored_type::known(&c.name, written)?;
    let names_it = declared.is_some_and(|d| stored_type::base(d, -1).0 == oid);
    if stored_type::is_trusted(oid) || names_it {
        return Ok((Reading::Parsed(TypeInput::of(oid, typmod)), oid, typmod));
    }
    Ok(kept)
}

/// Returns the natural descriptor of result rows: carried columns, then outputs.
pub(crate) fn natural_desc(layout: &Layout) -> Result<pg_sys::TupleDesc> {
    let mut columns = Vec::new();
    for c in &layout.carried {
        let (_, oid, typmod) = reading(c, None)?;
        columns.push((&c.name, oid, typmod));
    }
    columns.extend(layout.outputs.iter().map(|o| (&o.name, natural_type(o), -1)));
    // An output takes precedence over a carried column of its name. Two of the same kind are ambiguous.
    let (carried, outputs) = columns.split_at(layout.carried.len());
    for (what, of_kind) in [("column", carried), ("output", outputs)] {
        let mut seen = HashSet::new();
        if let Some((name, ..)) = of_kind.iter().find(|(name, ..)| !seen.insert(text::as_identifier(name))) {
            return Err(Error::AmbiguousName { what, name: text::as_identifier(name).to_owned() });
        }
    }
    let too_many = || Error::TooManyColumns { columns: columns.len(), limit: MOST_COLUMNS };
    let count = i16::try_from(columns.len()).map_err(|_| too_many())?;
    if columns.len() > MOST_COLUMNS {
        return Err(too_many());
    }
    // SAFETY: one entry per column, in the current context. The descriptor is blessed, so its rows can be identified.
    unsafe {
        let desc = pg_sys::CreateTemplateTupleDesc(count.into());
        for ((name, oid, typmod), number) in columns.iter().zip(1..=count) {
            let name = text::c(text::as_identifier(name));
            pg_sys::TupleDescInitEntry(desc, number, name.as_ptr(), *oid, *typmod, 0);
        }
        Ok(pg_sys::BlessTupleDesc(desc))
    }
}

impl RowReader {
    /// Matches the columns of a tuple descriptor by name to outputs, then to carried columns. Allocates everything in
    /// the current memory context.
    pub(crate) fn new(layout: &Layout, desc: pg_sys::TupleDesc) -> Result<Self> {
        let mut columns = Vec::new();
        // SAFETY: the descriptor is valid.
        let natts = usize::try_from(unsafe { (*desc).natts }).unwrap_or(0);
        // SAFETY: i is below natts.
        let attribute = |i| unsafe { &*crate::rows::composite::attribute(desc, i) };
        let names: Vec<String> = (0..natts).map(|i| text::copied(attribute(i).attname.data.as_ptr())).collect();
        for (i, name) in names.iter().enumerate() {
            let a = attribute(i);
            let mut exact = layout.outputs.iter().enumerate().filter(|(_, o)| is_called(&o.name, name)).map(|(i, _)| i);
            let first = exact.next();
            if first.is_some() && exact.next().is_some() {
                return Err(Error::AmbiguousName { what: "output", name: name.clone() });
            }
            let output = first.or_else(|| {
                // SQL folds unquoted names to lower case, and models do not. So compare without case, unless a carried
                // column has exactly this name. Skip an output whose exact name is another column of the descriptor.
                let mut folded = layout.outputs.iter().enumerate().filter(|(_, o)| {
                    o.name.to_lowercase() == name.to_lowercase() && !names.iter().any(|n| is_called(&o.name, n))
                });
                let taken = layout.carried.iter().any(|c| c.name == *name);
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
                        (ColumnSource::Json(place, a.atttypid == pg_sys::JSONBOID), pg_sys::TEXTOID)
                    } else if output.is_scalar() && element != Oid::INVALID {
                        // SAFETY: reads the type cache.
                        (ColumnSource::One(place), unsafe { pg_sys::get_array_type(natural) })
                    } else {
                        (ColumnSource::Output(place), natural)
                    };
                let coercion = if matches!(source, ColumnSource::Json(..)) {
                    None
                } else {
                    Coercion::new(name, from, -1, a.atttypid, a.atttypmod)?
                };
                let integers = output.element().is_some_and(|e| !e.is_float() && e != ElementType::String);
                let float = if integers && coercion.is_some() { float_of(a.atttypid) } else { None };
                columns.push(ResultColumn { source, coercion, float });
            } else if let Some(place) = layout.carried.iter().position(|c| c.name == *name) {
                let c = &layout.carried[place];
                if layout.carried[place + 1..].iter().any(|other| other.name == *name) {
                    return Err(Error::AmbiguousName { what: "column", name: name.clone() });
                }
                let (reading, oid, typmod) = reading(c, Some(a.atttypid))?;
                let coercion =
                    Coercion::new(name, oid, typmod, a.atttypid, a.atttypmod).map_err(|e| match (e, &c.text_of) {
                        (Error::CannotCast { column, to, .. }, Some(of)) => {
                            Error::CannotCast { column, from: of.name.clone(), to }
                        }
                        (Error::CannotCast { column, to, .. }, None) => {
                            Error::CannotCast { column, from: text::type_name(Oid::from(c.oid)), to }
                        }
                        (e, _) => e,
                    })?;
                let integers = matches!(oid, pg_sys::INT4OID | pg_sys::INT8OID);
                let float = if integers { float_of(a.atttypid) } else { None };
                columns.push(ResultColumn { source: ColumnSource::Carried(place, reading), coercion, float });
            } else if layout.unbound {
                columns.push(ResultColumn { source: ColumnSource::Null, coercion: None, float: None });
            } else {
                return Err(Error::UnknownColumn {
                    name: name.clone(),
                    outputs: layout.outputs.iter().map(|o| o.name.clone()).collect(),
                    carried: layout.carried.iter().map(|c| c.name.clone()).collect(),
                });
            }
        }
        let uses_carried = columns.iter().any(|c| matches!(c.source, ColumnSource::Carried(..)));
        let uses_text = columns
            .iter()
            .any(|c| matches!(c.source, ColumnSource::Carried(_, Reading::Written(_) | Reading::Parsed(_))));
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

    /// Creates a reader of the carried columns only.
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
    fn fill(&mut self, layout: &Layout, chunk: &EncodedRows<'_>, row: usize, nth: Option<usize>) -> Result<()> {
        if self.uses_carried {
            self.open_carried(chunk.carried(row)?)?;
        }
        for i in 0..self.columns.len() {
            let column = &self.columns[i];
            let value = match (&column.source, nth) {
                (ColumnSource::Carried(place, reading), _) => {
                    let mut null = self.carried_nulls[*place];
                    let value = self.carried_values[*place];
                    let value = match reading {
                        Reading::Written(output) if !null => text::datum(&output.text(value)),
                        Reading::Parsed(input) if !null => input.value(&text::text(value)?),
                        Reading::Kept if !null => {
                            if let Some(float) = column.float {
                                check_carried(&layout.carried[*place], value, float)?;
                            }
                            value
                        }
                        _ => value,
                    };
                    let value = column.coercion.as_ref().map_or(value, |c| c.apply(value, &mut null));
                    (!null).then_some(value)
                }
                (_, Some(nth)) => self.output_value(i, layout, chunk, nth)?,
                (_, None) => self.null(i),
            };
            self.values[i] = value.unwrap_or(Datum::from(0));
            self.nulls[i] = value.is_none();
        }
        Ok(())
    }

    /// Returns the value of a column that is not of the row, for the `nth` row that was run.
    pub(crate) fn output_value(
        &self,
        column: usize,
        layout: &Layout,
        chunk: &EncodedRows<'_>,
        nth: usize,
    ) -> Result<Option<Datum>> {
        let ResultColumn { source, coercion, float } = &self.columns[column];
        if let (Some(float), ColumnSource::Output(place) | ColumnSource::One(place)) = (float, source) {
            check_exact(layout, chunk, *place, nth, *float)?;
        }
        let value = match source {
            ColumnSource::Output(place) => natural(&layout.outputs[*place], chunk, *place, nth)?,
            ColumnSource::Json(place, binary) => {
                let json = json_text(&layout.outputs[*place], chunk, *place, nth)?;
                if *binary { jsonb(&json) } else { json_datum(&json) }
            }
            ColumnSource::One(place) => {
                let output = &layout.outputs[*place];
                let OutputRow::Tensor { element, .. } = &output.row else { return Ok(None) };
                let value = scalar_datum(chunk.scalar(*place, nth, 0)?);
                array(&mut [value], &mut [false], &[1], scalar_type(*element))?
            }
            ColumnSource::Null | ColumnSource::Carried(..) => return Ok(self.null(column)),
        };
        let mut null = false;
        let value = coercion.as_ref().map_or(value, |c| c.apply(value, &mut null));
        Ok((!null).then_some(value))
    }

    /// Returns the value of a column for a row that was not run: NULL, unless the declared type is a domain that forbids
    /// it.
    pub(crate) fn null(&self, column: usize) -> Option<Datum> {
        let mut null = true;
        let value = self.columns[column].coercion.as_ref().map(|c| c.apply(Datum::from(0), &mut null))?;
        (!null).then_some(value)
    }

    /// Returns the position of the output that a column reads. None if it reads none.
    pub(crate) fn output(&self, column: usize) -> Option<usize> {
        match self.columns.get(column)?.source {
            ColumnSource::Output(place) | ColumnSource::Json(place, _) | ColumnSource::One(place) => Some(place),
            ColumnSource::Carried(..) | ColumnSource::Null => None,
        }
    }

    /// Moves a column to another position of its output.
    pub(crate) fn move_output(&mut self, column: usize, to: usize) {
        if let ColumnSource::Output(place) | ColumnSource::Json(place, _) | ColumnSource::One(place) =
            &mut self.columns[column].source
        {
            *place = to;
        }
    }

    /// Whether a column is an output in its natural type, unchanged.
    pub(crate) fn is_natural(&self, column: usize) -> bool {
        let column = &self.columns[column];
        matches!(column.source, ColumnSource::Output(_)) && column.coercion.is_none()
    }

    /// Whether a row that was not run may have a value other than NULL, or an error, in a column.
    pub(crate) fn coerces(&self, column: usize) -> bool {
        self.columns[column].coercion.is_some()
    }

    /// Decodes the carried columns of a row.
    fn open_carried(&mut self, row: Option<&[u8]>) -> Result<()> {
        self.form.open(row, &mut self.carried_values, &mut self.carried_nulls)
    }

    /// Calls `f` with the values and nulls of every row, in a memory context that is reset after each call.
    pub(crate) fn each(
        &mut self,
        results: &Results,
        mut f: impl FnMut(&mut [Datum], &mut [bool]) -> Result<()>,
    ) -> Result<()> {
        let layout = std::sync::Arc::clone(&results.layout);
        let style = self.uses_text.then(Style::begin);
        each_row(results, |chunk, row, nth| {
            self.fill(&layout, chunk, row, nth)?;
            f(&mut self.values, &mut self.nulls)
        })?;
        if let Some(style) = style {
            style.finish();
        }
        Ok(())
    }
}

/// Calls `f` with every row as JSON text, which PostgreSQL makes from a composite of the natural descriptor.
pub(crate) fn json_rows(results: &Results, mut f: impl FnMut(&str) -> Result<()>) -> Result<()> {
    let desc = natural_desc(&results.layout)?;
    let mut rows = RowReader::new(&results.layout, desc)?;
    rows.each(results, |values, nulls| {
        // SAFETY: the values match the descriptor; row_to_json takes a composite datum and returns text.
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

/// Stores every row in a tuplestore.
pub(crate) fn store(results: &Results, desc: pg_sys::TupleDesc, store: *mut pg_sys::Tuplestorestate) -> Result<()> {
    let mut rows = RowReader::new(&results.layout, desc)?;
    rows.each(results, |values, nulls| {
        // SAFETY: the values match the descriptor; the tuplestore copies them.
        unsafe { pg_sys::tuplestore_putvalues(store, desc, values.as_mut_ptr(), nulls.as_mut_ptr()) };
        Ok(())
    })
}

/// Returns the first carried column of a row as errors name it: `customer_id = 42`.
/// None if the row carries nothing, or the value is NULL.
pub(crate) fn first_carried(layout: &Layout, chunk: &[u8], row: usize) -> Result<Option<String>> {
    let chunk = EncodedRows::parse(chunk)?;
    let (Some(column), Some(bytes)) = (layout.carried.first(), chunk.carried(row)?) else { return Ok(None) };
    let home = crate::pg::memory::Private::new(c"pg_predict row");
    crate::pg::memory::within(home.context(), || {
        let mut rows = RowReader::of_carried(layout);
        rows.open_carried(Some(bytes))?;
        if rows.carried_nulls[0] {
            return Ok(None);
        }
        let (mut function, mut varlena) = (Oid::INVALID, false);
        // SAFETY: calls the output function of the column's type with a value of that type.
        let value = unsafe {
            pg_sys::getTypeOutputInfo(Oid::from(column.oid), &raw mut function, &raw mut varlena);
            text::copied(pg_sys::OidOutputFunctionCall(function, rows.carried_values[0]))
        };
        Ok(Some(format!("{} = {value}", column.name)))
    })
}

/// Calls `f` for every row with its chunk, its index among the rows that were run, and its carried values.
/// The index is None if the row was not run.
pub(crate) fn each_carried(
    results: &Results,
    mut f: impl FnMut(&EncodedRows<'_>, Option<usize>, &[Datum], &[bool]) -> Result<()>,
) -> Result<()> {
    let mut rows = RowReader::of_carried(&results.layout);
    each_row(results, |chunk, row, nth| {
        rows.open_carried(chunk.carried(row)?)?;
        f(chunk, nth, &rows.carried_values, &rows.carried_nulls)
    })
}

/// Calls `f` for every row with its chunk, its index in the chunk, and its index among the rows that were run (None if
/// the row was not run). The memory context is reset after each call.
fn each_row(results: &Results, mut f: impl FnMut(&EncodedRows<'_>, usize, Option<usize>) -> Result<()>) -> Result<()> {
    let home = crate::pg::memory::Private::new(c"pg_predict row");
    results.each(|bytes| {
        let chunk = EncodedRows::parse(bytes)?;
        let mut nth = 0;
        for row in 0..chunk.rows() {
            if row % 256 == 0 {
                crate::pg::process::check_interrupts();
            }
            let ran = chunk.ran(row);
            crate::pg::memory::within(home.context(), || f(&chunk, row, ran.then_some(nth)))?;
            nth += usize::from(ran);
            // SAFETY: `f` has finished with the row, so nothing uses the context's memory any more.
            unsafe { pg_sys::MemoryContextReset(home.context()) };
        }
        Ok(())
    })
}
