//! Results from a parallel worker to its leader.
//!
//! They are the worker's last word: small ones go through the queue between the two as they are.

use pgrx::pg_sys::Datum;

use crate::error::Result;
use crate::pg::results::Results;

/// What a worker sends.
pub(crate) fn put(results: &Results) -> Result<Datum> {
    let mut flat = Vec::new();
    results.write_flat(|piece| flat.extend_from_slice(piece))?;
    Ok(crate::pg::text::bytes(&flat))
}

/// What the leader gets; none when the worker had no rows.
pub(crate) fn take(bytes: &[u8]) -> Result<Option<Results>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    Results::read_flat(bytes).map(Some)
}
