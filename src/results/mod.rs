//! Converts tensors to SQL values: results as `prediction_batch`, as rows, as text, and as the value of a plain call.

pub(crate) mod call_form;
pub(crate) mod call_site;
pub(crate) mod definition_list;
pub(crate) mod exchange;
pub(crate) mod expanded;
pub(crate) mod output_values;
pub(crate) mod result_rows;
pub(crate) mod result_set;
pub(crate) mod set_returning;
pub(crate) mod spill;
pub(crate) mod text_form;
