//! Rows of the registry's tables by key, read straight from their indexes under the snapshot of the query that asks.
//!
//! What a statement resolves before its first row must cost microseconds; a query of its own costs a hundred of them. Nobody's
//! privileges are looked at here: whoever calls checks the caller.

use std::ffi::CStr;

use pgrx::pg_sys::{self, Datum, Oid};

use crate::pg::text;

/// What a btree calls equal, as wide as a scan's key has it.
#[allow(clippy::cast_possible_truncation, reason = "a strategy of a btree is a number from 1 to 5")]
const EQUAL: pg_sys::StrategyNumber = pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber;

/// What a column of an index must be equal to.
pub(crate) enum Key<'a> {
    Text(&'a str),
    Int(i32),
}

/// Which version of a row a row is: no other in the file has its place and its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    xmin: u32,
    block: (u16, u16),
    offset: u16,
}

/// Where a row was read: no other is ever there, and it can be asked whether a query sees it still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    table: Oid,
    /// The table's file: another one once it is written anew, and then the same place holds another row.
    file: Oid,
    identity: Identity,
}

/// A row, while it is there.
pub(crate) struct Row<'a> {
    values: &'a [Datum],
    nulls: &'a [bool],
    /// Where it is, and so which one.
    pub(crate) place: Place,
}

impl Row<'_> {
    fn datum(&self, column: usize) -> Option<Datum> {
        self.nulls.get(column).filter(|null| !**null).and_then(|_| self.values.get(column).copied())
    }

    /// An integer column.
    pub(crate) fn int(&self, column: usize) -> Option<i32> {
        self.datum(column).map(text::int)
    }

    /// An oid column.
    pub(crate) fn oid(&self, column: usize) -> Option<Oid> {
        self.datum(column).map(text::oid)
    }

    /// A text column.
    pub(crate) fn text(&self, column: usize) -> Option<String> {
        self.datum(column).and_then(|d| text::text(d).ok().map(std::borrow::Cow::into_owned))
    }

    /// A bytea column of 32 bytes.
    pub(crate) fn hash(&self, column: usize) -> Option<[u8; 32]> {
        self.datum(column).and_then(|d| text::varlena(d).try_into().ok())
    }

    /// A jsonb column, as text.
    pub(crate) fn json(&self, column: usize) -> Option<String> {
        self.datum(column).map(text::of_jsonb)
    }
}

/// Calls `each` for every row of a table of the schema `predict` that has these values in the first columns of an index, which are
/// the first columns of the table too.
pub(crate) fn rows(table: &CStr, index: &CStr, keys: &[Key<'_>], mut each: impl FnMut(&Row<'_>)) {
    let mut scan_keys = [pg_sys::ScanKeyData::default(); 2];
    // SAFETY: opens relations of the extension, which are there as long as its functions are; what is opened is closed, or by
    // PostgreSQL after an error. A row is read before the next is fetched, and its values have the table's description.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"predict".as_ptr(), false);
        let lock = pg_sys::AccessShareLock.cast_signed();
        let relation = pg_sys::table_open(pg_sys::get_relname_relid(table.as_ptr(), schema), lock);
        for (number, (scan_key, key)) in (1..).zip(scan_keys.iter_mut().zip(keys)) {
            let (procedure, collation, value) = match key {
                Key::Text(t) => (pg_sys::F_TEXTEQ, pg_sys::C_COLLATION_OID, text::datum(t)),
                Key::Int(n) => (pg_sys::F_INT4EQ, Oid::INVALID, Datum::from(*n)),
            };
            pg_sys::ScanKeyEntryInitialize(
                scan_key,
                0,
                number,
                EQUAL,
                Oid::INVALID,
                collation,
                Oid::from(procedure),
                value,
            );
        }
        let count = if keys.len() < scan_keys.len() { 1 } else { 2 };
        let index = pg_sys::get_relname_relid(index.as_ptr(), schema);
        let scan = pg_sys::systable_beginscan(
            relation,
            index,
            true,
            pg_sys::GetActiveSnapshot(),
            count,
            scan_keys.as_mut_ptr(),
        );
        let desc = (*relation).rd_att;
        let (mut values, mut nulls) = ([Datum::from(0); 16], [true; 16]);
        if usize::try_from((*desc).natts).is_ok_and(|columns| columns <= values.len()) {
            loop {
                let tuple = pg_sys::systable_getnext(scan);
                if tuple.is_null() {
                    break;
                }
                pg_sys::heap_deform_tuple(tuple, desc, values.as_mut_ptr(), nulls.as_mut_ptr());
                let place = (*tuple).t_self;
                let identity = Identity {
                    xmin: u32::from((*(*tuple).t_data).t_choice.t_heap.t_xmin),
                    block: (place.ip_blkid.bi_hi, place.ip_blkid.bi_lo),
                    offset: place.ip_posid,
                };
                let place = Place { table: (*relation).rd_id, file: (*(*relation).rd_rel).relfilenode, identity };
                each(&Row { values: &values, nulls: &nulls, place });
            }
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, lock);
    }
}

/// Whether the query that asks sees rows as they were when they were read: none has been changed or deleted for it since.
pub(crate) fn sees(places: &[Place]) -> bool {
    let lock = pg_sys::AccessShareLock.cast_signed();
    places.iter().all(|place| {
        // SAFETY: the relation is opened for as long as its row is looked at. A place that the file no longer has, or that holds
        // nothing visible, is answered by false; a row found is read while its buffer is held.
        unsafe {
            let relation = pg_sys::try_relation_open(place.table, lock);
            if relation.is_null() {
                return false;
            }
            let mut seen = false;
            // The end of the file may have been cut off; nobody cuts while the table is locked.
            let blocks = pg_sys::RelationGetNumberOfBlocksInFork(relation, pg_sys::ForkNumber::MAIN_FORKNUM);
            let block = u32::from(place.identity.block.0) << 16 | u32::from(place.identity.block.1);
            if block < blocks
                && (*(*relation).rd_rel).relfilenode == place.file
                && (*relation).rd_tableam == pg_sys::GetHeapamTableAmRoutine()
            {
                let Identity { xmin, block: (bi_hi, bi_lo), offset } = place.identity;
                let mut tuple = pg_sys::HeapTupleData {
                    t_self: pg_sys::ItemPointerData {
                        ip_blkid: pg_sys::BlockIdData { bi_hi, bi_lo },
                        ip_posid: offset,
                    },
                    ..Default::default()
                };
                let mut buffer = pg_sys::InvalidBuffer.cast_signed();
                if pg_sys::heap_fetch(relation, pg_sys::GetActiveSnapshot(), &raw mut tuple, &raw mut buffer, false) {
                    seen = u32::from((*tuple.t_data).t_choice.t_heap.t_xmin) == xmin;
                    pg_sys::ReleaseBuffer(buffer);
                }
            }
            pg_sys::relation_close(relation, lock);
            seen
        }
    })
}
