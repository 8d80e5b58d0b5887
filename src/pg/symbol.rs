//! Which of this library's C functions is behind a SQL function or an aggregate, whatever its name and schema.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use pgrx::pg_sys::{self, Oid};

use crate::pg::text;

/// The language C (catalog/pg_language.dat).
const C_LANGUAGE: u32 = 13;

/// The column aggtransfn of pg_aggregate, which pgrx does not bind (catalog/pg_aggregate.h).
const AGGREGATE_TRANSITION: i16 = 4;

type Symbols = HashMap<u32, Option<Rc<str>>>;

thread_local! {
    /// What was looked at; emptied when any function changes.
    static FUNCTIONS: RefCell<Symbols> = RefCell::default();
    static AGGREGATES: RefCell<Symbols> = RefCell::default();
}

/// Forgets what functions are.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn forget(_argument: pg_sys::Datum, _cache: i32, _hash: u32) {
    FUNCTIONS.with_borrow_mut(HashMap::clear);
    AGGREGATES.with_borrow_mut(HashMap::clear);
}

/// Watches functions change. Once a process.
pub(crate) fn watch() {
    // SAFETY: registers a function that stays where it is.
    unsafe {
        for cache in [pg_sys::SysCacheIdentifier::PROCOID, pg_sys::SysCacheIdentifier::AGGFNOID] {
            pg_sys::CacheRegisterSyscacheCallback(cache as i32, Some(forget), pg_sys::Datum::from(0));
        }
    }
}

/// The C function of this library that a SQL function calls; none where it is not one of ours.
pub(crate) fn of_function(function: Oid) -> Option<Rc<str>> {
    if function.to_u32() < pg_sys::FirstNormalObjectId {
        return None;
    }
    if let Some(known) = FUNCTIONS.with_borrow(|f| f.get(&function.to_u32()).cloned()) {
        return known;
    }
    // SAFETY: reads the function cache; the values are copied before the entry is released.
    let symbol = unsafe {
        let cache = pg_sys::SysCacheIdentifier::PROCOID as i32;
        let tuple = pg_sys::SearchSysCache1(cache, function.into());
        if tuple.is_null() {
            return None;
        }
        let language = (*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_proc>()).prolang;
        let attribute = |number: u32| {
            let mut null = false;
            let datum = pg_sys::SysCacheGetAttr(cache, tuple, number as i16, &raw mut null);
            (!null).then(|| text::text(datum).map(std::borrow::Cow::into_owned).unwrap_or_default())
        };
        let of_c = language.to_u32() == C_LANGUAGE;
        let library = attribute(pg_sys::Anum_pg_proc_probin).filter(|_| of_c);
        let symbol = attribute(pg_sys::Anum_pg_proc_prosrc).filter(|_| of_c);
        pg_sys::ReleaseSysCache(tuple);
        let ours =
            library.is_some_and(|l| l.rsplit('/').next().is_some_and(|l| l.trim_end_matches(".so") == "pg_predict"));
        symbol.filter(|_| ours).map(Rc::from)
    };
    FUNCTIONS.with_borrow_mut(|f| f.insert(function.to_u32(), symbol.clone()));
    symbol
}

/// The C function of this library that an aggregate calls for every row; none where it is not one of ours.
pub(crate) fn of_aggregate(aggregate: Oid) -> Option<Rc<str>> {
    if aggregate.to_u32() < pg_sys::FirstNormalObjectId {
        return None;
    }
    if let Some(known) = AGGREGATES.with_borrow(|f| f.get(&aggregate.to_u32()).cloned()) {
        return known;
    }
    // SAFETY: reads the aggregate cache; the value is copied before the entry is released.
    let transition = unsafe {
        let cache = pg_sys::SysCacheIdentifier::AGGFNOID as i32;
        let tuple = pg_sys::SearchSysCache1(cache, aggregate.into());
        if tuple.is_null() {
            return None;
        }
        let mut null = false;
        let datum = pg_sys::SysCacheGetAttr(cache, tuple, AGGREGATE_TRANSITION, &raw mut null);
        pg_sys::ReleaseSysCache(tuple);
        Oid::from(datum.value() as u32)
    };
    let symbol = of_function(transition);
    AGGREGATES.with_borrow_mut(|f| f.insert(aggregate.to_u32(), symbol.clone()));
    symbol
}
