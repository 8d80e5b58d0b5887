//! What the planner tells the executor of a BatchPredict node: kept in the plan as JSON, which can be copied, cached and sent
//! to parallel workers.

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::rc::Rc;

use lru::LruCache;
use pgrx::pg_sys::{self, NodeTag};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::pg::form::Form;
use crate::pg::node::{is, members};
use crate::pg::text;

/// Recipes that are kept.
const KEPT: NonZeroUsize = NonZeroUsize::MIN.saturating_add(63);

thread_local! {
    /// Recipes that were read, by their JSON.
    static READ: RefCell<LruCache<String, Rc<Recipe>>> = RefCell::new(LruCache::new(KEPT));
}

/// A BatchPredict node, beyond its expressions.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Recipe {
    /// Calls that share their runs.
    pub(super) groups: Vec<Group>,
    /// Whether the client may stop reading.
    pub(super) top: Top,
    /// A first row may be all that is read.
    pub(super) first_alone: bool,
    /// Rows are read and run one by one, and why.
    pub(super) one_by_one: Option<String>,
    /// The rows that a LIMIT above wants at least: places in `custom_exprs` of LIMIT and OFFSET.
    pub(super) bound: Option<(usize, Option<usize>)>,
    /// The LIMIT wants no more rows of the node than that.
    pub(super) exact: bool,
    /// Columns of the scan that hold the row's ctid and tableoid: the node stands for the scan of a cursor.
    pub(super) row_place: Option<(usize, usize)>,
    /// It runs in parallel workers: its counters are shared.
    pub(super) shared: bool,
    /// Calls of the plan node below that stay there.
    pub(super) left: Vec<Left>,
}

/// How the number of rows that a client asks for at a time (FETCH, a row count in the protocol) bounds what a node reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Top {
    /// Not at all: a node above reads all rows first.
    #[default]
    Below,
    /// Each row that the client gets needs at least one row of the node.
    Exact,
    /// One row of the node may give the client several.
    Loose,
}

/// Calls with the same model and arguments.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Group {
    pub(super) calls: Vec<Call>,
    /// When they are evaluated: a place in `custom_exprs`; always, where there is none.
    pub(super) guard: Option<usize>,
}

/// One call.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Call {
    /// Its column of the scan, from 0; the call itself is the column's expression.
    pub(super) column: usize,
    pub(super) form: Form,
}

/// A call that is evaluated row by row, and why.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub(super) struct Left {
    pub(super) form: Form,
    pub(super) model: Option<String>,
    pub(super) reason: String,
}

impl Recipe {
    /// Writes it into a plan node.
    pub(super) fn put(&self, scan: *mut pg_sys::CustomScan) -> Result<()> {
        let json = serde_json::to_string(self).map_err(|e| Error::Plan { reason: e.to_string() })?;
        let json = text::c(&json);
        // SAFETY: the string is copied into the current context, where the plan is.
        unsafe {
            let node = pg_sys::makeString(pg_sys::pstrdup(json.as_ptr()));
            (*scan).custom_private = pg_sys::lappend(std::ptr::null_mut(), node.cast());
        }
        Ok(())
    }

    /// Reads it from a plan node; one that was read before is not parsed again.
    pub(super) fn of(scan: *const pg_sys::CustomScan) -> Result<Rc<Self>> {
        let lost = || Error::Plan { reason: "the node has no recipe".to_owned() };
        // SAFETY: the list of a node of ours holds one string.
        let json = unsafe {
            let [node] = members::<pg_sys::String>((*scan).custom_private)[..] else { return Err(lost()) };
            if !is(node.cast(), NodeTag::T_String) {
                return Err(lost());
            }
            text::copied((*node).sval)
        };
        READ.with_borrow_mut(|read| {
            if let Some(recipe) = read.get(&json) {
                return Ok(Rc::clone(recipe));
            }
            let recipe: Rc<Self> =
                Rc::new(serde_json::from_str(&json).map_err(|e| Error::Plan { reason: e.to_string() })?);
            read.put(json, Rc::clone(&recipe));
            Ok(recipe)
        })
    }
}
