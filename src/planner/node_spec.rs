//! Describes a BatchPredict node to the executor.
//!
//! The description is stored in the plan as JSON, which can be copied, cached and sent to parallel workers.

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::rc::Rc;

use lru::LruCache;
use pgrx::pg_sys::{self, NodeTag};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::pg::node::{is, members};
use crate::pg::text;
use crate::results::call_form::CallForm;

/// The name of the node, by which PostgreSQL finds its methods.
pub(crate) const NAME: *const std::ffi::c_char = c"BatchPredict".as_ptr();

/// Whether a plan node is a BatchPredict node.
pub(crate) fn is_ours(plan: *const pg_sys::Plan) -> bool {
    // SAFETY: a CustomScan by its tag.
    is(plan.cast(), NodeTag::T_CustomScan) && unsafe { (*plan.cast::<pg_sys::CustomScan>()).methods == methods() }
}

/// Returns the methods of the node.
pub(crate) fn methods() -> *const pg_sys::CustomScanMethods {
    // SAFETY: looks up the methods that were registered when the library was loaded, before any plan was made.
    unsafe { pg_sys::GetCustomScanMethods(NAME, true) }
}

/// Number of cached specs.
const KEPT: NonZeroUsize = NonZeroUsize::MIN.saturating_add(63);

thread_local! {
    /// Parsed specs by their JSON.
    static READ: RefCell<LruCache<String, Rc<NodeSpec>>> = RefCell::new(LruCache::new(KEPT));
}

/// The description of a BatchPredict node, apart from its expressions.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct NodeSpec {
    /// Groups of calls that share their runs.
    pub(crate) groups: Vec<CallGroup>,
    /// How a limited fetch of the client bounds the rows that are read.
    pub(crate) top: Top,
    /// Reading may stop after the first row.
    pub(crate) first_alone: bool,
    /// The node may read and run rows that the nodes above do not need. Its calls are the columns of `predictions()`.
    #[serde(default)]
    pub(crate) reads_ahead: bool,
    /// The node may be read again with the same rows, so it keeps them.
    #[serde(default)]
    pub(crate) keeps_rows: bool,
    /// The reason, if rows must be read and run one by one.
    pub(crate) one_by_one: Option<String>,
    /// A LIMIT above, each row of which needs at least one row of this node: the positions of LIMIT and OFFSET in
    /// `custom_exprs`.
    pub(crate) bound: Option<(usize, Option<usize>)>,
    /// The LIMIT reads no more rows of this node than its count and offset.
    pub(crate) exact: bool,
    /// Columns of the scan that hold the row's ctid and tableoid. Set if the node replaces the table scan of a cursor.
    pub(crate) row_place: Option<(usize, usize)>,
    /// The node runs in parallel workers, so its counters are in shared memory.
    pub(crate) shared: bool,
    /// Calls that the plan node below evaluates per row.
    pub(crate) left: Vec<Left>,
}

/// How the number of rows that a client fetches at a time (FETCH, a row count in the protocol) bounds what a node
/// reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Top {
    /// No bound: a node above reads all rows before it returns one.
    #[default]
    Below,
    /// Each row that the client receives needs at least one row of the node.
    Exact,
    /// One row of the node may become several rows for the client.
    Loose,
}

/// Calls with the same model and arguments.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CallGroup {
    pub(crate) calls: Vec<CallSpec>,
    /// The condition under which they are evaluated, as a position in `custom_exprs`. None means always.
    pub(crate) guard: Option<usize>,
}

/// One call.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CallSpec {
    /// Its column of the scan, from 0.
    pub(crate) column: usize,
    pub(crate) form: CallForm,
    /// The position of the call in `custom_exprs`. None if the expression of its column is the call.
    #[serde(default)]
    pub(crate) expression: Option<usize>,
}

impl CallSpec {
    /// Returns the call.
    pub(crate) unsafe fn call(&self, scan: *const pg_sys::CustomScan) -> *mut pg_sys::FuncExpr {
        // SAFETY: the rewrite made the plan; the lists have these entries.
        unsafe {
            match self.expression {
                Some(i) => members::<pg_sys::FuncExpr>((*scan).custom_exprs)[i],
                None => (*members::<pg_sys::TargetEntry>((*scan).custom_scan_tlist)[self.column]).expr.cast(),
            }
        }
    }
}

/// A call that is evaluated per row, and the reason.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub(crate) struct Left {
    pub(crate) form: CallForm,
    pub(crate) model: Option<String>,
    pub(crate) reason: String,
}

impl NodeSpec {
    /// Stores the spec in a plan node.
    pub(crate) fn put(&self, scan: *mut pg_sys::CustomScan) -> Result<()> {
        let json = serde_json::to_string(self).map_err(|e| Error::Plan { reason: e.to_string() })?;
        let json = text::c(&json);
        // SAFETY: the string is copied into the current context, where the plan is.
        unsafe {
            let node = pg_sys::makeString(pg_sys::pstrdup(json.as_ptr()));
            (*scan).custom_private = pg_sys::lappend(std::ptr::null_mut(), node.cast());
        }
        Ok(())
    }

    /// Reads the spec of a plan node. Parses each JSON text only once, as long as it stays in the cache.
    pub(crate) fn of(scan: *const pg_sys::CustomScan) -> Result<Rc<Self>> {
        let lost = || Error::Plan { reason: "the node has no recipe".to_owned() };
        // SAFETY: the list of a BatchPredict node holds one string.
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
