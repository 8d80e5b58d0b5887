//! Looks up the C function of this library that a SQL function or an aggregate calls, regardless of name and schema.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use pgrx::pg_sys::{self, Oid};

use crate::pg::{text, tuple};

/// The OID of the language C (catalog/pg_language.dat).
const C_LANGUAGE: u32 = 13;

/// The number of the column aggtransfn of pg_aggregate, which pgrx does not bind (catalog/pg_aggregate.h).
const AGGREGATE_TRANSITION: i16 = 4;

type Symbols = HashMap<u32, Option<Rc<str>>>;

thread_local! {
    /// Cached C functions by OID of the SQL function; cleared if any function changes.
    static FUNCTIONS: RefCell<Symbols> = RefCell::default();
    static AGGREGATES: RefCell<Symbols> = RefCell::default();
}

/// Clears both caches.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn forget(_argument: pg_sys::Datum, _cache: i32, _hash: u32) {
    FUNCTIONS.with_borrow_mut(HashMap::clear);
    AGGREGATES.with_borrow_mut(HashMap::clear);
}

/// Registers the invalidation of the caches. Called once per process.
pub(crate) fn watch() {
    // SAFETY: the registered function is never unloaded.
    unsafe {
        for cache in [pg_sys::SysCacheIdentifier::PROCOID, pg_sys::SysCacheIdentifier::AGGFNOID] {
            pg_sys::CacheRegisterSyscacheCallback(cache.cast_signed(), Some(forget), pg_sys::Datum::from(0));
        }
    }
}

/// Returns the C function of this library that a SQL function calls. None if it calls no function of this library.
pub(crate) fn of_function(function: Oid) -> Option<Rc<str>> {
    if function.to_u32() < pg_sys::FirstNormalObjectId {
        return None;
    }
    if let Some(known) = FUNCTIONS.with_borrow(|f| f.get(&function.to_u32()).cloned()) {
        return known;
    }
    // SAFETY: reads the function cache; the values are copied before the entry is released.
    let symbol = unsafe {
        let cache = pg_sys::SysCacheIdentifier::PROCOID.cast_signed();
        let tuple = pg_sys::SearchSysCache1(cache, function.into());
        if tuple.is_null() {
            return None;
        }
        let language = (*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_proc>()).prolang;
        let column = |number: u32| {
            let mut null = false;
            let datum = pg_sys::SysCacheGetAttr(cache, tuple, tuple::number(number as usize), &raw mut null);
            (!null).then(|| text::text(datum).map(std::borrow::Cow::into_owned).unwrap_or_default())
        };
        let of_c = language.to_u32() == C_LANGUAGE;
        let library = column(pg_sys::Anum_pg_proc_probin).filter(|_| of_c);
        let symbol = column(pg_sys::Anum_pg_proc_prosrc).filter(|_| of_c);
        pg_sys::ReleaseSysCache(tuple);
        let ours =
            library.is_some_and(|l| l.rsplit('/').next().is_some_and(|l| l.trim_end_matches(".so") == "pg_predict"));
        symbol.filter(|_| ours).map(Rc::from)
    };
    FUNCTIONS.with_borrow_mut(|f| f.insert(function.to_u32(), symbol.clone()));
    symbol
}

/// Returns the C function of this library that is an aggregate's transition function. None if it is not of this
/// library.
pub(crate) fn of_aggregate(aggregate: Oid) -> Option<Rc<str>> {
    if aggregate.to_u32() < pg_sys::FirstNormalObjectId {
        return None;
    }
    if let Some(known) = AGGREGATES.with_borrow(|f| f.get(&aggregate.to_u32()).cloned()) {
        return known;
    }
    // SAFETY: reads the aggregate cache; the value is copied before the entry is released.
    let transition = unsafe {
        let cache = pg_sys::SysCacheIdentifier::AGGFNOID.cast_signed();
        let tuple = pg_sys::SearchSysCache1(cache, aggregate.into());
        if tuple.is_null() {
            return None;
        }
        let mut null = false;
        let datum = pg_sys::SysCacheGetAttr(cache, tuple, AGGREGATE_TRANSITION, &raw mut null);
        pg_sys::ReleaseSysCache(tuple);
        text::oid(datum)
    };
    let symbol = of_function(transition);
    AGGREGATES.with_borrow_mut(|f| f.insert(aggregate.to_u32(), symbol.clone()));
    symbol
}
