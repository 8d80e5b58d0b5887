//! Counters of each version in shared memory.

use std::cell::RefCell;

use pg_predict_engine::version::Version;
use pgrx::pg_sys;

use crate::pg::process::is_worker;
use crate::runtime::shared_memory::{
    BackendPlace, Claim, MODELS, ModelPlace, RELAXED, database, leading_place, lock, narrow, now, shared,
};

/// Number of single-row calls after which local counts are added to shared memory.
pub(crate) const CALLS_KEPT: u64 = 256;

/// The counters of a version.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(usize)]
pub(crate) enum Counter {
    Calls,
    Rows,
    NullRows,
    FailedRows,
    Batches,
    RunNanos,
    WaitNanos,
    Tokens,
    Loads,
    LoadNanos,
    Evictions,
    Errors,
    /// Ends of the model process by the model: a crash, a limit or a violation of the sandbox.
    ProcessCrashes,
    /// Ends of the model process by SIGKILL, as when memory runs out.
    ProcessKills,
    /// Ends of the model process because a cancelled run did not stop.
    ProcessCancels,
}

pub(crate) const COUNTERS: usize = Counter::ProcessCancels as usize + 1;

/// The entry of a version in shared memory. `None` if nothing is counted.
#[derive(Clone, Copy)]
pub(crate) struct CounterEntry(pub(crate) Option<(&'static ModelPlace, u32, u32)>);

/// A version by name, number and hash, and its entry.
type KnownEntries = (String, i32, [u8; 32], CounterEntry);

thread_local! {
    /// Entries that this backend has looked up.
    pub(crate) static KNOWN: RefCell<Vec<KnownEntries>> = const { RefCell::new(Vec::new()) };
    /// The entry of this backend.
    pub(crate) static MINE: RefCell<Option<&'static BackendPlace>> = const { RefCell::new(None) };
    /// The current parallel query, and the number of calls of each version that this process has started in it.
    pub(crate) static BEGUN: RefCell<(u64, Vec<(u32, u32)>)> = const { RefCell::new((0, Vec::new())) };
}

/// Finds the entry of a version, or creates one.
pub(crate) fn entry(version: &Version) -> CounterEntry {
    let Some(shared) = shared() else { return CounterEntry(None) };
    let known = KNOWN.with_borrow(|known| {
        let same = |(m, n, h, _): &&KnownEntries| *n == version.number && *h == version.hash && *m == version.model;
        known.iter().find(same).map(|(.., entry)| *entry).filter(CounterEntry::is_current)
    });
    if let Some(entry) = known {
        return entry;
    }
    let database = database();
    let is_its = |place: &ModelPlace| {
        place.generation.load(RELAXED) != 0
            && place.database.load(RELAXED) == database
            && place.number.load(RELAXED) == version.number
            && place.hash.get() == version.hash
            && place.name.text() == version.model
    };
    let _locked = lock(true);
    let used = (shared.head.used.load(RELAXED) as usize).min(MODELS);
    let i = match shared.models[..used].iter().position(is_its) {
        Some(i) => i,
        None => {
            let i = if used < MODELS {
                shared.head.used.store(narrow(used + 1), RELAXED);
                used
            } else {
                (0..MODELS).min_by_key(|i| shared.models[*i].last_used.load(RELAXED)).unwrap_or(0)
            };
            let place = &shared.models[i];
            place.generation.store(place.generation.load(RELAXED).wrapping_add(1).max(1), RELAXED);
            place.database.store(database, RELAXED);
            place.number.store(version.number, RELAXED);
            place.name.set(version.model.as_bytes());
            place.hash.set(&version.hash);
            place.clear();
            i
        }
    };
    let place = &shared.models[i];
    let entry = CounterEntry(Some((place, place.generation.load(RELAXED), narrow(i))));
    KNOWN.with_borrow_mut(|known| {
        // Remove entries that now belong to another version.
        known.retain(|(.., entry)| entry.is_current());
        if known.len() >= 64 {
            known.remove(0);
        }
        known.push((version.model.clone(), version.number, version.hash, entry));
    });
    entry
}

impl CounterEntry {
    /// Whether the entry still belongs to this version.
    pub(crate) fn is_current(&self) -> bool {
        self.0.is_some_and(|(place, generation, _)| place.generation.load(RELAXED) == generation)
    }

    pub(crate) fn place(&self) -> Option<&'static ModelPlace> {
        self.0.filter(|_| self.is_current()).map(|(place, ..)| place)
    }

    /// Adds to a counter.
    pub(crate) fn add(&self, counter: Counter, n: u64) {
        if let Some(place) = self.place() {
            place.counters[counter as usize].fetch_add(n, RELAXED);
        }
    }

    /// Counts an error and stores its message.
    pub(crate) fn failed(&self, message: &str) {
        let Some(place) = self.place() else { return };
        place.counters[Counter::Errors as usize].fetch_add(1, RELAXED);
        let at = now();
        let _locked = lock(true);
        place.error.set(message.as_bytes());
        place.error_at.store(at, RELAXED);
        place.last_used.store(at, RELAXED);
    }

    /// Counts a call of the version. In a parallel query, the call counts only if no other process of the query has
    /// counted it.
    pub(crate) fn count_call(&self) {
        let Some((_, _, number)) = self.0 else { return };
        // SAFETY: reads whether a parallel query is running.
        let parallel = is_worker() || unsafe { pg_sys::IsInParallelMode() };
        let leads = if parallel { leading_place() } else { None };
        let Some(leads) = leads else { return self.add(Counter::Calls, 1) };
        let query = leads.queries_led.load(RELAXED);
        let nth = BEGUN.with_borrow_mut(|(of, begun)| {
            if *of != query {
                (*of, *begun) = (query, Vec::new());
            }
            match begun.iter_mut().find(|(n, _)| *n == number) {
                Some((_, calls)) => {
                    *calls += 1;
                    *calls
                }
                None => {
                    begun.push((number, 1));
                    1
                }
            }
        });
        let new = {
            let _locked = lock(true);
            let is_its = |c: &&Claim| c.query.load(RELAXED) == query && c.place.load(RELAXED) == number;
            match leads.claims.iter().find(is_its) {
                Some(claim) => claim.calls.fetch_max(nth, RELAXED) < nth,
                None => {
                    if let Some(claim) = leads.claims.iter().find(|c| c.query.load(RELAXED) != query) {
                        claim.query.store(query, RELAXED);
                        claim.place.store(number, RELAXED);
                        claim.calls.store(nth, RELAXED);
                    }
                    true
                }
            }
        };
        if new {
            self.add(Counter::Calls, 1);
        }
    }
}

/// A snapshot of the counters of a version.
pub(crate) struct ModelStats {
    pub(crate) model: String,
    pub(crate) version: i32,
    pub(crate) hash: Vec<u8>,
    pub(crate) counters: [u64; COUNTERS],
    pub(crate) last_used: i64,
    pub(crate) last_error: Option<(String, i64)>,
    pub(crate) reset: i64,
}

impl ModelStats {
    pub(crate) fn of(&self, counter: Counter) -> u64 {
        self.counters[counter as usize]
    }
}

/// Returns the counters of the versions of this database.
pub(crate) fn model_stats() -> Vec<ModelStats> {
    let Some(shared) = shared() else { return Vec::new() };
    let _locked = lock(false);
    let used = (shared.head.used.load(RELAXED) as usize).min(MODELS);
    let database = database();
    shared.models[..used]
        .iter()
        .filter(|place| place.database.load(RELAXED) == database)
        .map(|place| {
            let error_at = place.error_at.load(RELAXED);
            ModelStats {
                model: place.name.text(),
                version: place.number.load(RELAXED),
                hash: place.hash.get(),
                counters: std::array::from_fn(|i| place.counters[i].load(RELAXED)),
                last_used: place.last_used.load(RELAXED),
                last_error: (error_at != 0).then(|| (place.error.text(), error_at)),
                reset: place.reset.load(RELAXED),
            }
        })
        .collect()
}

/// Resets the counters of the versions of a model in this database, or of all models.
pub(crate) fn reset(model: Option<&str>) {
    let Some(shared) = shared() else { return };
    let database = database();
    let _locked = lock(true);
    let used = (shared.head.used.load(RELAXED) as usize).min(MODELS);
    shared.models[..used]
        .iter()
        .filter(|place| place.database.load(RELAXED) == database && model.is_none_or(|m| place.name.text() == m))
        .for_each(ModelPlace::clear);
}
