//! What a query leaves for the next one of its kind: how rows find the inputs of their model, and small buffers.
//!
//! A statement that scores one row by its key takes microseconds, most of which it would spend on finding out what the statement
//! before it knew. A kit holds nothing of the query: no session, no memory of PostgreSQL, no right to use a model. It serves calls
//! that look the same and mean the same version.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use pg_predict_engine::batch::Batch;
use pg_predict_engine::chunk::Rows;
use pg_predict_engine::version::Version;
use pgrx::pg_sys::{NullableDatum, Oid};

use crate::pg::convert::{Binding, Direct};
use crate::pg::form::Form;
use crate::pg::runner::Terms;
use crate::scan::lane::Answer;

/// Kits that a backend keeps.
const KEPT: usize = 16;
/// Buffers for more rows, or of more bytes, are not kept with it.
const FEW_ROWS: usize = 64;
const FEW_BYTES: usize = 64 << 10;

/// How calls look that share their runs.
#[derive(Debug, PartialEq)]
pub(super) struct Look {
    /// Their columns and forms.
    pub(super) calls: Vec<(usize, Form)>,
    /// The types of their arguments, and which attributes of the input these are.
    pub(super) types: Vec<Oid>,
    pub(super) attributes: Vec<usize>,
    pub(super) variadic: bool,
}

/// What a lane works with.
pub(super) struct Kit {
    /// The references of the group's calls.
    pub(super) references: Vec<String>,
    pub(super) terms: Arc<Terms>,
    pub(super) answers: Vec<Answer>,
    pub(super) binding: Option<Binding>,
    /// Where the values of a row are among the group's inputs.
    pub(super) sources: Vec<usize>,
    pub(super) values: Vec<NullableDatum>,
    /// How a row goes from the attributes of the input into the tensors, where they are single values.
    pub(super) direct: Option<Direct>,
    pub(super) batch: Batch,
    pub(super) rows: Rows,
    pub(super) bad: Vec<(usize, String)>,
    /// The rows' places in the window.
    pub(super) places: Vec<u32>,
    /// Rows that the batch has room for, and bytes of texts that it may still take.
    pub(super) room: usize,
    pub(super) left: usize,
}

thread_local! {
    static KITS: RefCell<Vec<(Rc<Look>, Kit)>> = const { RefCell::new(Vec::new()) };
}

impl Kit {
    /// One that is there for calls of this look, which mean this version.
    pub(super) fn find(look: &Look, references: &[String], version: &Arc<Version>) -> Option<Self> {
        KITS.with_borrow_mut(|kits| {
            let i = kits.iter().position(|(its, kit)| **its == *look && kit.references == references)?;
            let (_, kit) = kits.swap_remove(i);
            Arc::ptr_eq(&kit.terms.version, version).then_some(kit)
        })
    }

    /// Forgets the rows that were gathered.
    pub(super) fn clear(&mut self) {
        self.batch.clear();
        self.rows.clear();
        self.places.clear();
        self.bad.clear();
        self.left = 0;
    }

    /// Keeps it for the next query, without the buffers of a large one.
    pub(super) fn keep(mut self, look: Rc<Look>) {
        let Some(binding) = self.binding.as_ref().filter(|binding| binding.outlives_query()) else { return };
        if self.places.capacity() > FEW_ROWS || self.batch.capacity() > FEW_BYTES {
            (self.batch, self.room) = (binding.batch(), 0);
            (self.rows, self.places) = (Rows::default(), Vec::new());
        }
        self.clear();
        KITS.with_borrow_mut(|kits| {
            if kits.len() >= KEPT {
                kits.remove(0);
            }
            kits.push((look, self));
        });
    }
}
