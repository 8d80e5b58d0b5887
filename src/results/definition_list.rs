//! The column definition list of a streamed `predictions()`, as the planner passes it to the calls that replace it.

use pg_predict_engine::signature::Output;
use pgrx::pg_sys::{self, NodeTag, Oid};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::pg::catalog::roles;
use crate::pg::{node, text, tuple};
use crate::rows::binding::Carried;

/// The arguments of a call before those of its row: the model, the definition list, the number of the column, and the
/// value of the column of the row that has its name.
pub(crate) const BEFORE_ROW: usize = 4;

/// A column definition list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct DefinitionList {
    pub(crate) columns: Vec<DefinedColumn>,
    /// The columns that the row has, too, as positions in `columns`, in the order of the row.
    pub(crate) of_row: Vec<usize>,
    /// The OIDs of the functions that the caller called, `predict_batch` and `predictions`. The caller must have the
    /// right to execute them.
    pub(crate) functions: [u32; 2],
}

/// A column of a definition list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct DefinedColumn {
    pub(crate) name: String,
    pub(crate) oid: u32,
    pub(crate) typmod: i32,
}

impl DefinitionList {
    /// Reads a list from its JSON.
    pub(crate) fn parse(json: &str) -> Result<Self> {
        let list: Self = serde_json::from_str(json).map_err(|_| Self::misused())?;
        if list.of_row.iter().any(|i| *i >= list.columns.len()) {
            return Err(Self::misused());
        }
        Ok(list)
    }

    /// Returns the list that a call has as a constant, and the number of the column that it returns.
    pub(crate) unsafe fn of_call(call: *const pg_sys::FuncExpr) -> Result<(Self, usize)> {
        // SAFETY: each node is cast to the type that its tag names.
        unsafe {
            let &[_, list, number, ..] = &node::members::<pg_sys::Node>((*call).args)[..] else {
                return Err(Self::misused());
            };
            if !node::is(list, NodeTag::T_Const) || !node::is(number, NodeTag::T_Const) {
                return Err(Self::misused());
            }
            let (list, number) = (&*list.cast::<pg_sys::Const>(), &*number.cast::<pg_sys::Const>());
            if list.constisnull || number.constisnull {
                return Err(Self::misused());
            }
            let number = usize::try_from(text::int(number.constvalue)).map_err(|_| Self::misused())?;
            Ok((Self::parse(&text::text(list.constvalue)?)?, number))
        }
    }

    /// Returns the error for a call that the planner did not make.
    pub(crate) fn misused() -> Error {
        Error::Context { function: "prediction_column()", reason: "is called by a user" }
    }

    /// Checks a call that returns the column with this number: its type, that of the row's value, and the rights of the
    /// caller. Anybody may write such a call, but not with a result of another type than record.
    pub(crate) fn check(&self, number: usize, result: Oid, value: Oid) -> Result<()> {
        let oid = self.type_of(number).ok_or_else(Self::misused)?;
        if result != oid || value != oid {
            return Err(Self::misused());
        }
        let [aggregate, function] = self.functions;
        roles::check_execute_aggregate(aggregate.into());
        roles::check_execute(function.into());
        Ok(())
    }

    /// Writes the list as JSON.
    pub(crate) fn json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|e| Error::Plan { reason: e.to_string() })
    }

    /// Returns the type of a column by its number, from 1. The number 0 is the call that returns no column. Its value is
    /// the first column of the row, by which errors name a row, and NULL of type boolean if there is none.
    fn type_of(&self, number: usize) -> Option<Oid> {
        match number.checked_sub(1).or(self.of_row.first().copied()) {
            None => Some(pg_sys::BOOLOID),
            Some(i) => self.columns.get(i).map(|c| Oid::from(c.oid)),
        }
    }

    /// Returns the columns of the row that may be returned: those that are not also outputs of the model. Their values
    /// have the declared types already.
    pub(crate) fn carried(&self, outputs: &[Output]) -> Vec<Carried> {
        let of_row = self.of_row.iter().map(|i| &self.columns[*i]);
        of_row
            .filter(|c| !outputs.iter().any(|o| text::is_called(&o.name, &c.name)))
            .map(|c| Carried { name: c.name.clone(), oid: c.oid, typmod: c.typmod, text_of: None })
            .collect()
    }

    /// Describes the columns. The descriptor is allocated in the current memory context.
    pub(crate) fn describe(&self) -> pg_sys::TupleDesc {
        let desc = tuple::description(self.columns.len());
        for (i, column) in self.columns.iter().enumerate() {
            let name = text::c(&column.name);
            // SAFETY: the descriptor has an entry for every column; the name is copied into it.
            unsafe {
                pg_sys::TupleDescInitEntry(
                    desc,
                    tuple::number(i + 1),
                    name.as_ptr(),
                    Oid::from(column.oid),
                    column.typmod,
                    0,
                );
            }
        }
        desc
    }
}
