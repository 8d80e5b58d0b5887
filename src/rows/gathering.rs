//! Gathers the values of a row into a batch.

use pg_predict_engine::batch::{Batch, Shapes};
use pg_predict_engine::encoding::encoded_rows::RowHeaders;
use pg_predict_engine::options::OnNull;
use pg_predict_engine::signature::Input;
use pg_predict_engine::tensor::Column;
use pgrx::pg_sys::{Datum, NullableDatum};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::pg::text;
use crate::rows::array_shape::{describe, note};
use crate::rows::binding::{Binding, Composite, Feature};
use crate::rows::composite::{deform, row_type, same_columns};
use crate::rows::encoders::{CAST_TEXT, Convert, float4, output};

/// The result of gathering a row.
#[derive(PartialEq)]
pub(crate) enum Gathered {
    Row,
    Null,
    /// The row cannot be converted, and the version gives NULL for such rows. Contains the reason.
    Bad(String),
}

impl Binding {
    /// Gathers one row from the arguments of a call. Returns the reason if the row cannot be converted and gives NULL.
    pub(crate) fn gather(
        &mut self,
        arguments: &[NullableDatum],
        batch: &mut Batch,
        rows: &mut RowHeaders,
    ) -> Result<Option<String>> {
        // The most common row first, which needs no further checks.
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

    /// Stores the carried columns of a row that is passed as one argument per column.
    #[inline]
    pub(crate) fn carry_arguments(&mut self, arguments: &[NullableDatum], rows: &mut RowHeaders) -> Result<()> {
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
    pub(crate) fn gather_values(&self, batch: &mut Batch, read: impl Fn(usize) -> Option<Datum>) -> Result<Gathered> {
        match gather_features(&self.features, &self.inputs, self.on_null, &self.model, batch, read) {
            Err(
                error @ (Error::OutOfRange { .. }
                | Error::ArrayShape { .. }
                | Error::ArrayNull { .. }
                | Error::BadBatch { .. }),
            ) if self.skip_bad => {
                batch.undo();
                Ok(Gathered::Bad(crate::pg::report::message(error)))
            }
            gathered => gathered,
        }
    }

    /// Records a row that is NULL as a whole.
    pub(crate) fn gather_null(&mut self, rows: &mut RowHeaders) -> Result<()> {
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

    pub(crate) fn gather_composite(
        &mut self,
        row: NullableDatum,
        batch: &mut Batch,
        rows: &mut RowHeaders,
    ) -> Result<Gathered> {
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

/// Writes float4 values into one float32 input. Returns false and writes nothing if a value is NULL.
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

/// Writes every feature of a row. Writes nothing if a feature without a default is NULL and gives a NULL row.
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
                        hint: Some(CAST_TEXT),
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
                            given: if dims.is_empty() {
                                "no elements".to_owned()
                            } else {
                                describe(dims.iter().map(|d| Some(*d)))
                            },
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
                    // A NULL array becomes an array of NaN if its size is known.
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

/// Stores the carried columns of a row.
#[inline]
fn carry(composite: &mut Composite, rows: &mut RowHeaders) -> Result<()> {
    composite.form.keep(&composite.carried_values, &composite.carried_nulls, rows)
}
