//! Executes a BatchPredict node: reads a window of rows, runs their batches, and returns the rows with their results.
//!
//! The next window is read while the last batches of the current window run. Rows are returned in the order in which
//! they were read. A row that fails ends its window. Its error is raised after the rows before it have been returned.
//!
//! A cursor that may be fetched backwards keeps its rows in a tuplestore.

use pgrx::pg_sys::{self, ExprState, NullableDatum};

use crate::pg::report::raise;
use crate::pg::{process, running_query, text};
use crate::planner::executor;
use crate::scan::state::scan_of;
use crate::scan::window::EMPTY;

/// Returns the next row of the input, or None at its end.
#[inline(always)]
pub(crate) unsafe fn fetch(child: *mut pg_sys::PlanState) -> Option<*mut pg_sys::TupleTableSlot> {
    // SAFETY: as in ExecProcNode; an error jumps over frames that own nothing.
    unsafe {
        if !(*child).chgParam.is_null() {
            executor::ExecReScan(child);
        }
        let slot = ((*child).ExecProcNode.unwrap_unchecked())(child);
        (!slot.is_null() && (*slot).tts_flags & EMPTY == 0).then_some(slot)
    }
}

/// Evaluates an expression on the row of a context, in the context's per-row memory.
#[inline(always)]
pub(crate) unsafe fn evaluate(expression: *mut ExprState, context: *mut pg_sys::ExprContext) -> NullableDatum {
    // SAFETY: as in ExecEvalExprSwitchContext.
    unsafe {
        let before = pg_sys::CurrentMemoryContext;
        pg_sys::CurrentMemoryContext = (*context).ecxt_per_tuple_memory;
        let mut isnull = false;
        let value = ((*expression).evalfunc.unwrap_unchecked())(expression, context, &raw mut isnull);
        pg_sys::CurrentMemoryContext = before;
        NullableDatum { value, isnull }
    }
}

#[inline(always)]
pub(crate) unsafe fn reset(context: *mut pg_sys::ExprContext) {
    // SAFETY: the expression context of the node; nothing refers to the per-row memory of the previous row.
    unsafe {
        if !(*(*context).ecxt_per_tuple_memory).isReset {
            executor::MemoryContextReset((*context).ecxt_per_tuple_memory);
        }
    }
}

/// Whether an external value is an expanded object.
pub(crate) unsafe fn is_expanded(value: *const u8) -> bool {
    // SAFETY: the second byte of an external value is its kind; 2 and 3 are expanded objects (varatt.h).
    unsafe { matches!(*value.add(1), 2 | 3) }
}

#[pgrx::pg_guard]
pub(super) unsafe extern "C-unwind" fn next(node: *mut pg_sys::CustomScanState) -> *mut pg_sys::TupleTableSlot {
    // SAFETY: the node has begun; as in ExecScan.
    unsafe {
        let Some(scan) = scan_of(node) else { return std::ptr::null_mut() };
        let slot = (*node).ss.ss_ScanTupleSlot;
        let ps = &raw mut (*node).ss.ps;
        let context = (*ps).ps_ExprContext;
        let run = running_query::number();
        if run != scan.run {
            scan.enter_run(node, run);
        }
        loop {
            reset(context);
            let stored = if scan.goes_back { scan.store_next_kept(node) } else { scan.store_next(node) };
            match stored {
                Ok(true) => {}
                Ok(false) => {
                    let result = if (*ps).ps_ProjInfo.is_null() { slot } else { (*ps).ps_ResultTupleSlot };
                    ((*(*result).tts_ops).clear.unwrap_unchecked())(result);
                    return result;
                }
                Err(error) => raise(error),
            }
            if let Some((tid, table)) = scan.recipe.row_place {
                let place = (*(*slot).tts_values.add(tid)).cast_mut_ptr::<pg_sys::ItemPointerData>();
                (*slot).tts_tid = *place;
                (*slot).tts_tableOid = text::oid(*(*slot).tts_values.add(table));
            }
            (*context).ecxt_scantuple = slot;
            if !(*ps).qual.is_null() {
                let passes = evaluate((*ps).qual, context);
                if passes.isnull || passes.value.value() == 0 {
                    if !(*ps).instrument.is_null() {
                        (*(*ps).instrument).nfiltered1 += 1.0;
                    }
                    process::check_interrupts();
                    continue;
                }
            }
            scan.given += 1;
            scan.given_in_run += 1;
            if (*ps).ps_ProjInfo.is_null() {
                return slot;
            }
            let state = &raw mut (*(*ps).ps_ProjInfo).pi_state;
            let result = (*state).resultslot;
            ((*(*result).tts_ops).clear.unwrap_unchecked())(result);
            evaluate(state, context);
            (*result).tts_flags &= !EMPTY;
            (*result).tts_nvalid = scan.projected;
            return result;
        }
    }
}
