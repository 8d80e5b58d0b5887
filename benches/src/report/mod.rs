//! What is written: results, targets, the page and its charts.

pub mod checklist;
pub mod page;
pub mod plot;
pub mod results;
