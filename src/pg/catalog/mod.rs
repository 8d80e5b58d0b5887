//! Access to catalogs and tables: index lookups, SQL commands, roles, snapshots and the lock of a job.

pub(crate) mod job_lock;
pub(crate) mod lookup;
pub(crate) mod roles;
pub(crate) mod snapshot;
pub(crate) mod sql;
