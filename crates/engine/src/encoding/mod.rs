//! Encodes results: the forms of a `prediction_batch` in memory, on disk and as a text literal.

pub mod carried;
pub mod encoded_reader;
pub mod encoded_rows;
pub mod layout;
pub mod stored_form;
pub mod text_form;
pub mod text_rows;
pub mod text_writer;
