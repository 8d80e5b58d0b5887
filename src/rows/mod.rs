//! Converts SQL values to tensors: binds values to model inputs, gathers rows into batches and stores carried columns.

mod array_shape;
pub(crate) mod binding;
pub(crate) mod carried_values;
pub(crate) mod composite;
pub(crate) mod direct;
pub(crate) mod encoders;
pub(crate) mod gathering;
pub(crate) mod row_buffer;
pub(crate) mod stored_type;
