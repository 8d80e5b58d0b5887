//! Fills the tuplestore of a set-returning call, and reads the message of a `recv` function.

use pgrx::pg_sys::{self, Datum};

use crate::error::{Error, Result};
use crate::pg::call::Call;
use crate::pg::memory;
use crate::results::result_rows;
use crate::results::result_set::Results;

/// Returns the rows of results, with the types that the caller declares or else with their natural types.
pub(crate) fn materialize(call: &Call, results: &Results) -> Result<Option<Datum>> {
    let refuse = || Error::Context { function: "predictions()", reason: "is called where a set cannot be returned" };
    // SAFETY: the caller of a set-returning function passes a ReturnSetInfo. The tuplestore and the descriptor live in
    // the per-query memory, as materialize mode requires (utils/fmgr/README).
    unsafe {
        let info = (*call.frame()).resultinfo.cast::<pg_sys::ReturnSetInfo>();
        if info.is_null()
            || (*info).type_ != pg_sys::NodeTag::T_ReturnSetInfo
            || (*info).allowedModes.cast_unsigned() & pg_sys::SetFunctionReturnMode::SFRM_Materialize == 0
        {
            return Err(refuse());
        }
        let random = (*info).allowedModes.cast_unsigned() & pg_sys::SetFunctionReturnMode::SFRM_Materialize_Random != 0;
        let (store, desc) = memory::within((*(*info).econtext).ecxt_per_query_memory, || -> Result<_> {
            let desc = if (*info).expectedDesc.is_null() {
                result_rows::natural_desc(&results.layout)?
            } else {
                pg_sys::CreateTupleDescCopy((*info).expectedDesc)
            };
            Ok((pg_sys::tuplestore_begin_heap(random, false, pg_sys::work_mem), desc))
        })?;
        (*info).returnMode = pg_sys::SetFunctionReturnMode::SFRM_Materialize;
        (*info).setResult = store;
        (*info).setDesc = desc;
        result_rows::store(results, desc, store)?;
    }
    Ok(None)
}

/// Returns the whole message of a `recv` function as text.
pub(crate) fn received_text(call: &Call) -> Result<&str> {
    let Some(message) = call.argument(0) else { return Err(Error::NullArgument { what: "the message" }) };
    // SAFETY: PostgreSQL passes a StringInfo. The value is everything from its cursor up to its length.
    let bytes = unsafe {
        let message = message.cast_mut_ptr::<pg_sys::StringInfoData>();
        let (length, cursor) = (usize::try_from((*message).len), usize::try_from((*message).cursor));
        let (length, cursor) = (length.unwrap_or(0), cursor.unwrap_or(0));
        (*message).cursor = (*message).len;
        std::slice::from_raw_parts((*message).data.add(cursor).cast::<u8>(), length.saturating_sub(cursor))
    };
    std::str::from_utf8(bytes).map_err(|e| Error::BadBatch { reason: e.to_string() })
}
