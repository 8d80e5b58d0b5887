//! Reads rows of the registry's tables by key, through their indexes, under the snapshot of the current query.
//!
//! A statement resolves models before its first row, which must cost microseconds. An SQL query costs a hundred of
//! them. These functions check no privileges: their callers check those of the user.

use std::ffi::CStr;

use pgrx::pg_sys::{self, Datum, Oid};

use crate::pg::text;

/// The equality strategy of a btree, in the type of a scan key.
#[allow(clippy::cast_possible_truncation, reason = "a strategy of a btree is a number from 1 to 5")]
const EQUAL: pg_sys::StrategyNumber = pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber;

/// The value that an index column must equal.
pub(crate) enum IndexKey<'a> {
    Text(&'a str),
    Int(i32),
}

/// Identifies a tuple version: no other in the same file has the same position and the same inserting transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    xmin: u32,
    block: (u16, u16),
    offset: u16,
}

/// Identifies a tuple version across files. `sees` tells whether a query still sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowPlace {
    table: Oid,
    /// The file of the table. A rewrite creates a new file, in which the same position holds another row.
    file: Oid,
    identity: Identity,
}

/// A row, valid during the callback.
pub(crate) struct CatalogRow<'a> {
    values: &'a [Datum],
    nulls: &'a [bool],
    /// Identifies the tuple version of the row.
    pub(crate) place: RowPlace,
}

impl CatalogRow<'_> {
    fn datum(&self, column: usize) -> Option<Datum> {
        self.nulls.get(column).filter(|null| !**null).and_then(|_| self.values.get(column).copied())
    }

    /// Returns an integer column.
    pub(crate) fn int(&self, column: usize) -> Option<i32> {
        self.datum(column).map(text::int)
    }

    /// Returns an oid column.
    pub(crate) fn oid(&self, column: usize) -> Option<Oid> {
        self.datum(column).map(text::oid)
    }

    /// Returns a text column.
    pub(crate) fn text(&self, column: usize) -> Option<String> {
        self.datum(column).and_then(|d| text::text(d).ok().map(std::borrow::Cow::into_owned))
    }

    /// Returns a bytea column of 32 bytes.
    pub(crate) fn hash(&self, column: usize) -> Option<[u8; 32]> {
        self.datum(column).and_then(|d| text::varlena(d).try_into().ok())
    }

    /// Returns a jsonb column as text.
    pub(crate) fn json(&self, column: usize) -> Option<String> {
        self.datum(column).map(text::of_jsonb)
    }
}

/// Calls `each` for every row of a table in the schema `predict` whose first columns equal `keys`. These columns must
/// also be the first columns of the index.
pub(crate) fn rows(table: &CStr, index: &CStr, keys: &[IndexKey<'_>], mut each: impl FnMut(&CatalogRow<'_>)) {
    let mut scan_keys = [pg_sys::ScanKeyData::default(); 2];
    // SAFETY: opens relations of the extension, which exist as long as its functions do. They are closed here, or by
    // PostgreSQL after an error. A row is read before the next one is fetched, with the descriptor of the table.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"predict".as_ptr(), false);
        let lock = pg_sys::AccessShareLock.cast_signed();
        let relation = pg_sys::table_open(pg_sys::get_relname_relid(table.as_ptr(), schema), lock);
        for (number, (scan_key, key)) in (1..).zip(scan_keys.iter_mut().zip(keys)) {
            let (procedure, collation, value) = match key {
                IndexKey::Text(t) => (pg_sys::F_TEXTEQ, pg_sys::C_COLLATION_OID, text::datum(t)),
                IndexKey::Int(n) => (pg_sys::F_INT4EQ, Oid::INVALID, Datum::from(*n)),
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
                let place = RowPlace { table: (*relation).rd_id, file: (*(*relation).rd_rel).relfilenode, identity };
                each(&CatalogRow { values: &values, nulls: &nulls, place });
            }
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, lock);
    }
}

/// Whether the current query still sees all these tuple versions: none of them was updated or deleted.
pub(crate) fn sees(places: &[RowPlace]) -> bool {
    let lock = pg_sys::AccessShareLock.cast_signed();
    places.iter().all(|place| {
        // SAFETY: the relation is open while its row is read. The result is false if the position no longer exists or
        // holds no visible row. A found row is read while its buffer is pinned.
        unsafe {
            let relation = pg_sys::try_relation_open(place.table, lock);
            if relation.is_null() {
                return false;
            }
            let mut seen = false;
            // The file may have been truncated. It cannot be truncated while the table is locked.
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
