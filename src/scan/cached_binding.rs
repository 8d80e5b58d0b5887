//! Caches the binding and small buffers of a query's calls for the next query with the same calls.
//!
//! A statement that scores one row by its key takes microseconds. Without the cache it would spend most of that time on
//! building the binding again. A cached binding holds nothing that belongs to its query: no session, no PostgreSQL
//! memory, no privilege on a model. It is used only for calls of the same shape that refer to the same version.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use pg_predict_engine::version::Version;
use pgrx::pg_sys::{NullableDatum, Oid};

use crate::results::call_form::CallForm;
use crate::rows::binding::Binding;
use crate::rows::direct::Direct;
use crate::rows::row_buffer::RowBuffer;
use crate::runtime::batch_runner::RunSpec;
use crate::scan::model_batcher::CallColumn;

/// Number of cached bindings per backend.
const KEPT: usize = 16;
/// Buffers of more rows, or of more bytes, are not cached.
const FEW_ROWS: usize = 64;
const FEW_BYTES: usize = 64 << 10;

/// The shape of calls that share their runs. Calls of the same shape can use the same binding.
#[derive(Debug, PartialEq)]
pub(super) struct CallShape {
    /// The columns and forms of the calls.
    pub(super) calls: Vec<(usize, CallForm)>,
    /// The types of their arguments, and the attributes of the input that hold them.
    pub(super) types: Vec<Oid>,
    pub(super) attributes: Vec<usize>,
    pub(super) variadic: bool,
}

/// A binding, with the state and buffers that belong to it.
pub(super) struct CachedBinding {
    /// The references of the group's calls.
    pub(super) references: Vec<String>,
    pub(super) spec: Arc<RunSpec>,
    pub(super) answers: Vec<CallColumn>,
    pub(super) binding: Option<Binding>,
    /// The position among the group's inputs of each value that the binding reads.
    pub(super) sources: Vec<usize>,
    pub(super) values: Vec<NullableDatum>,
    /// Writes attributes of the input directly into the tensors, if all features are single values.
    pub(super) direct: Option<Direct>,
    pub(super) buffer: RowBuffer,
    /// The positions of the rows in the window.
    pub(super) places: Vec<u32>,
}

thread_local! {
    static CACHED: RefCell<Vec<(Rc<CallShape>, CachedBinding)>> = const { RefCell::new(Vec::new()) };
}

impl CachedBinding {
    /// Takes the cached binding for calls of this shape that refer to this version out of the cache.
    pub(super) fn find(shape: &CallShape, references: &[String], version: &Arc<Version>) -> Option<Self> {
        CACHED.with_borrow_mut(|cached_bindings| {
            let i =
                cached_bindings.iter().position(|(its, cached)| **its == *shape && cached.references == references)?;
            let (_, cached) = cached_bindings.swap_remove(i);
            Arc::ptr_eq(&cached.spec.version, version).then_some(cached)
        })
    }

    /// Discards the gathered rows.
    pub(super) fn clear(&mut self) {
        self.buffer.clear();
        self.places.clear();
    }

    /// Caches the binding for the next query, without the buffers of a large query.
    pub(super) fn keep(mut self, shape: Rc<CallShape>) {
        let Some(binding) = self.binding.as_ref().filter(|binding| binding.outlives_query()) else { return };
        if self.places.capacity() > FEW_ROWS || self.buffer.batch.capacity() > FEW_BYTES {
            (self.buffer, self.places) = (RowBuffer::default(), Vec::new());
            self.buffer.batch = binding.batch();
        }
        self.clear();
        CACHED.with_borrow_mut(|cached_bindings| {
            if cached_bindings.len() >= KEPT {
                cached_bindings.remove(0);
            }
            cached_bindings.push((shape, self));
        });
    }
}
