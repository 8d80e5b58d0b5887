//! Low-level PostgreSQL interface: function calls, memory contexts, node trees, text and the running query.
//!
//! This module does not depend on the modules above it: it has no notion of models, rows or the registry. It documents
//! every raw pointer that it returns.

pub(crate) mod ambiguity;
pub(crate) mod call;
pub(crate) mod catalog;
pub(crate) mod memory;
pub(crate) mod node;
pub(crate) mod process;
pub(crate) mod quoting;
pub(crate) mod report;
pub(crate) mod running_query;
pub(crate) mod setting;
pub(crate) mod text;
pub(crate) mod tuple;
