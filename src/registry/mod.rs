//! Manages models, versions, aliases and rights in the tables of the schema `predict`, and resolves model references.

mod aliases;
mod creation;
mod history;
mod removal;
mod resolution;
mod rights;

pub(crate) use aliases::{drop_alias, set_alias};
pub(crate) use creation::{Given, create, create_from_file};
pub(crate) use removal::drop_model;
pub(crate) use resolution::{Resolved, load_model, look_up, resolve, session};
pub(crate) use rights::{may_use, owns, set_usage};
