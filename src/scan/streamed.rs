//! The columns of a streamed `predictions()`: which are outputs of the model, which are columns of the row, and how
//! their values get into the rows of a window.

use std::sync::Arc;

use pg_predict_engine::batch::Values;
use pg_predict_engine::encoding::encoded_reader::EncodedRows;
use pg_predict_engine::encoding::encoded_rows;
use pg_predict_engine::encoding::layout::MOST_COLUMNS;
use pg_predict_engine::reference::Selection;
use pg_predict_engine::signature::OutputRow;
use pg_predict_engine::tensor::Column;
use pg_predict_engine::version::Version;
use pgrx::pg_sys::{self, Datum, ExprState, Oid};

use crate::error::{Error, Result, of_model};
use crate::pg::{memory, process, report, text};
use crate::registry::Resolved;
use crate::results::definition_list::DefinitionList;
use crate::results::output_values::{MOST_DIMENSIONS, PlainArray, scalar_type};
use crate::results::result_rows::RowReader;
use crate::results::result_set::{Faults, Layout};
use crate::rows::row_buffer::RowBuffer;
use crate::runtime::batch_runner::RunSpec;
use crate::scan::state::Length;
use crate::scan::window::RowWindow;

/// A column that the node returns.
pub(crate) struct StreamedColumn {
    /// Its column of the scan.
    pub(crate) column: usize,
    /// Its number in the definition list, from 1. 0 is the call that returns no column.
    pub(crate) number: usize,
    /// The row has a column of this name, and the input holds its value.
    pub(crate) is_kept: bool,
    /// The value of the row's column of this name, if it must be computed. Null otherwise.
    pub(crate) expression: *mut ExprState,
    pub(crate) length: Option<Length>,
}

/// The columns that the calls of a group return.
pub(crate) struct StreamedColumns {
    pub(crate) definition: DefinitionList,
    pub(crate) columns: Vec<StreamedColumn>,
}

/// A column that is an output.
struct OutputColumn {
    /// Its column of the scan.
    column: usize,
    /// Its position in the definition list.
    place: usize,
    is_kept: bool,
}

/// A column of the row that must be computed.
#[derive(Clone, Copy)]
pub(super) struct ComputedColumn {
    pub(super) column: usize,
    pub(super) expression: *mut ExprState,
    pub(super) length: Option<Length>,
}

/// The columns of a definition list, resolved for one version of a model.
pub(super) struct Streamed {
    /// An error of the definition list. It is reported after the arguments have been bound, as by `predictions()`.
    reader: Result<RowReader>,
    layout: Layout,
    outputs: Vec<OutputColumn>,
    pub(super) computed: Vec<ComputedColumn>,
    /// The rows that failed.
    faults: Faults,
    /// The number of rows before the current batch.
    rows: u64,
    /// The column of the scan, the name and the type that failed rows are told by.
    key: Option<(usize, String, Oid)>,
}

impl Streamed {
    /// Resolves the columns, and specifies the run that gives the outputs among them.
    pub(super) fn resolve(
        given: &StreamedColumns,
        resolved: &Resolved,
        version: &Arc<Version>,
        context: pg_sys::MemoryContext,
    ) -> Result<(Arc<RunSpec>, Self)> {
        let list = &given.definition;
        let count = version.signature.outputs.len();
        let allowed: Vec<bool> = (0..count).map(|i| !resolved.names_output || i == resolved.selection.output).collect();
        let select = |outputs: &[bool]| Selection {
            output: outputs.iter().take(resolved.selection.output).filter(|w| **w).count(),
            element: resolved.selection.element.clone(),
        };
        let carried = list.carried(&version.signature.outputs);
        let all = RunSpec::new(Arc::clone(version), &allowed).layout(&select(&allowed), carried.clone(), false);
        let columns = all.carried.len() + all.outputs.len();
        if columns > MOST_COLUMNS {
            return Err(Error::TooManyColumns { columns, limit: MOST_COLUMNS });
        }
        let mut reader = memory::within(context, || RowReader::new(&all, list.describe()));
        // The outputs of the version, by their position in the layout.
        let of_version: Vec<usize> = (0..count).filter(|i| allowed[*i]).collect();
        let mut wanted = vec![false; count];
        let (mut outputs, mut computed) = (Vec::new(), Vec::new());
        for column in &given.columns {
            let (Some(place), Ok(reader)) = (column.number.checked_sub(1), &reader) else { continue };
            if let Some(output) = reader.output(place) {
                wanted[of_version[output]] = true;
                outputs.push(OutputColumn { column: column.column, place, is_kept: column.is_kept });
            } else if !column.expression.is_null() {
                let StreamedColumn { column, expression, length, .. } = *column;
                computed.push(ComputedColumn { column, expression, length });
            }
        }
        if !wanted.contains(&true)
            && let Some(selected) = wanted.get_mut(resolved.selection.output)
        {
            *selected = true;
        }
        if let Ok(reader) = &mut reader {
            for place in outputs.iter().map(|o| o.place) {
                if let Some(output) = reader.output(place) {
                    let before = wanted.iter().take(of_version[output]);
                    reader.move_output(place, before.filter(|w| **w).count());
                }
            }
        }
        let spec = RunSpec::new(Arc::clone(version), &wanted);
        let layout = spec.layout(&select(&wanted), carried, false);
        let key = layout.carried.first().and_then(|first| {
            let named = |i: usize| list.columns.get(i).is_some_and(|c| c.name == first.name);
            let column = given.columns.iter().find(|c| match c.number.checked_sub(1) {
                Some(i) => named(i),
                None => c.is_kept && list.of_row.first().is_some_and(|i| named(*i)),
            })?;
            Some((column.column, first.name.clone(), Oid::from(first.oid)))
        });
        Ok((spec, Self { reader, layout, outputs, computed, faults: Faults::default(), rows: 0, key }))
    }

    /// Reports an error of the definition list.
    pub(super) fn check(&self) -> Result<()> {
        match &self.reader {
            Ok(_) => Ok(()),
            Err(error) => Err(error.clone()),
        }
    }

    /// Stores the outputs of a batch in the rows of its window, up to the row that was the `count`-th to be run.
    pub(super) fn scatter(
        &mut self,
        buffer: &RowBuffer,
        values: &[Values],
        places: &[u32],
        count: usize,
        window: &mut RowWindow,
    ) -> Result<()> {
        let Ok(reader) = &self.reader else { return Ok(()) };
        let rows = &buffer.rows;
        let label = format!("{}@{}", self.layout.model, self.layout.version);
        let mut encoded = None;
        for OutputColumn { column, place, is_kept } in &self.outputs {
            if *is_kept || reader.coerces(*place) {
                for (row, _) in places.iter().zip(&rows.ran).filter(|(_, ran)| !**ran) {
                    let context = window.context();
                    window.put(*row, *column, memory::within(context, || reader.null(*place)));
                }
            }
            let ran = places.iter().zip(&rows.ran).filter(|(_, ran)| **ran).map(|(row, _)| *row).take(count);
            if let (true, Some(output)) = (reader.is_natural(*place), reader.output(*place))
                && self.layout.outputs[output].is_scalar()
                && let Some(Values::Tensor { width: 1, data }) = values.get(output)
                && copy(data, ran.clone(), *column, window)
            {
                continue;
            }
            if let (true, Some(output)) = (reader.is_natural(*place), reader.output(*place))
                && let OutputRow::Tensor { shape, element } = &self.layout.outputs[output].row
                && let Some(Values::Tensor { width, data }) = values.get(output)
                && let (true, Some(bytes)) = (*width > 1 && shape.len() <= MOST_DIMENSIONS, data.plain())
            {
                let size = bytes.len() / data.len().max(1);
                let array = PlainArray::new(shape, scalar_type(*element), size)?;
                copy_arrays(&array, bytes, ran, *column, window)?;
                continue;
            }
            let bytes = match &encoded {
                Some(bytes) => bytes,
                None => encoded.insert(encoded_rows::encode(rows, values).map_err(of_model(&label))?),
            };
            let chunk = EncodedRows::parse(bytes)?;
            for (nth, row) in ran.enumerate() {
                if nth % 256 == 0 {
                    process::check_interrupts();
                }
                let context = window.context();
                match memory::within(context, || reader.output_value(*place, &self.layout, &chunk, nth)) {
                    Ok(value) => window.put(row, *column, value),
                    Err(error) => {
                        window.spoil(row, error);
                        break;
                    }
                }
            }
        }
        if let Some((row, reason)) = buffer.failures.first() {
            let which = self.key.as_ref().and_then(|key| told(key, places[*row], window));
            let which =
                which.unwrap_or_else(|| format!("row {} of those that were gathered", self.rows + *row as u64 + 1));
            let first = Some((which, reason.clone()));
            self.faults.add(Faults { rows: buffer.failures.len() as u64, first });
        }
        self.rows += rows.ran.len() as u64;
        Ok(())
    }

    /// Warns about the rows that failed, after the last row.
    pub(super) fn warn(&self) {
        report::rows_failed(&self.layout.model, self.layout.version, self.faults.rows, self.faults.first.as_ref());
    }
}

/// Returns a row as errors name it, by its first column: `customer_id = 42`. None if the value is NULL.
fn told((column, name, oid): &(usize, String, Oid), row: u32, window: &RowWindow) -> Option<String> {
    let value = window.value(row, *column)?;
    let (mut function, mut varlena) = (Oid::INVALID, false);
    // SAFETY: calls the output function of the column's type with a value of that type.
    let value = unsafe {
        pg_sys::getTypeOutputInfo(*oid, &raw mut function, &raw mut varlena);
        text::copied(pg_sys::OidOutputFunctionCall(function, value))
    };
    Some(format!("{name} = {value}"))
}

/// Stores the elements of a tensor as arrays in one column of the rows.
fn copy_arrays(
    array: &PlainArray,
    mut bytes: &[u8],
    rows: impl Iterator<Item = u32>,
    to: usize,
    window: &mut RowWindow,
) -> Result<()> {
    for (nth, row) in rows.enumerate() {
        if nth % 256 == 0 {
            process::check_interrupts();
        }
        let Some((elements, rest)) = bytes.split_at_checked(array.bytes) else { break };
        bytes = rest;
        let room = window.arena.room(array.total())?;
        // SAFETY: the arena gives zeroed or reused memory of this length, aligned to 8 bytes, to this value only.
        unsafe { array.write(room) }.copy_from_slice(elements);
        window.answer(row, to, Some(Datum::from(room)));
    }
    Ok(())
}

/// Stores the elements of a column in one column of the rows. Returns false, and does nothing, for elements that are
/// not passed by value in their SQL type.
fn copy(data: &Column, rows: impl Iterator<Item = u32>, to: usize, window: &mut RowWindow) -> bool {
    let mut put = |row, value| window.answer(row, to, Some(value));
    match data {
        Column::Float32(v) => rows.zip(v).for_each(|(row, x)| put(row, Datum::from(x.to_bits()))),
        Column::Float64(v) => rows.zip(v).for_each(|(row, x)| put(row, Datum::from(x.to_bits()))),
        Column::Bool(v) => rows.zip(v).for_each(|(row, x)| put(row, Datum::from(*x))),
        // Datums of shorter integers are sign-extended, too (postgres.h).
        Column::Int8(v) => rows.zip(v).for_each(|(row, x)| put(row, Datum::from(i64::from(*x)))),
        Column::Int16(v) => rows.zip(v).for_each(|(row, x)| put(row, Datum::from(i64::from(*x)))),
        Column::Int32(v) => rows.zip(v).for_each(|(row, x)| put(row, Datum::from(i64::from(*x)))),
        Column::Int64(v) => rows.zip(v).for_each(|(row, x)| put(row, Datum::from(*x))),
        Column::Uint8(v) => rows.zip(v).for_each(|(row, x)| put(row, Datum::from(i64::from(*x)))),
        Column::Uint16(v) => rows.zip(v).for_each(|(row, x)| put(row, Datum::from(i64::from(*x)))),
        Column::Uint32(v) => rows.zip(v).for_each(|(row, x)| put(row, Datum::from(i64::from(*x)))),
        _ => return false,
    }
    true
}
