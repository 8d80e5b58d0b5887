//! Shows the activity of backends in shared memory: their sessions and running queries.

use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pg_predict_engine::version::Version;
use pgrx::pg_sys;

use crate::pg::process::is_worker;
use crate::runtime::model_counters::{CALLS_KEPT, COUNTERS, Counter, CounterEntry, entry};
use crate::runtime::shared_memory::{
    BackendPlace, QueryPlace, RELAXED, SESSIONS, count, database, mine, nanos, narrow, now, shared,
};

/// Microseconds from 1970 to 2000, the epoch of PostgreSQL.
pub(crate) const EPOCH: i64 = 946_684_800_000_000;

/// Records that this process starts a query that may have parallel workers.
pub(crate) fn lead_query() {
    if let Some(mine) = mine() {
        mine.queries_led.fetch_add(1, RELAXED);
    }
}

/// What a backend is doing with a version.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(u32)]
pub(crate) enum Phase {
    Loading,
    Tokenising,
    Running,
}

/// The SQL form that calls a version.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(u32)]
pub(crate) enum QueryForm {
    /// predict_batch().
    Aggregate,
    /// Plain calls, run in batches.
    Scan,
    /// A plain call, run row by row.
    Call,
}

/// An entry in shared memory that shows a query of this backend. Dropping it frees the entry.
pub(crate) struct Shown(Option<&'static QueryPlace>);

impl Shown {
    /// Shows a query. If all entries are taken, the query is not shown.
    pub(crate) fn new(version: &Version, form: QueryForm, phase: Phase, expected: Option<f64>) -> Self {
        let Some(mine) = mine() else { return Self(None) };
        let place = mine.queries.iter().find(|q| q.taken.load(RELAXED) == 0);
        if let Some(place) = place {
            mine.writing(|| {
                place.name.set(version.model.as_bytes());
                place.number.store(version.number, RELAXED);
                place.form.store(form as u32, RELAXED);
                place.phase.store(phase as u32, RELAXED);
                place.rows.store(0, RELAXED);
                place.batches.store(0, RELAXED);
                place.expected.store(expected.map_or(u64::MAX, count), RELAXED);
                place.started.store(now(), RELAXED);
                place.taken.store(1, RELAXED);
            });
        }
        Self(place)
    }

    /// Shows the current phase.
    pub(crate) fn phase(&self, phase: Phase) {
        if let Some(place) = self.0 {
            place.phase.store(phase as u32, RELAXED);
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some(place) = self.0 {
            place.taken.store(0, RELAXED);
        }
    }
}

/// A session that a backend keeps loaded.
#[derive(Clone)]
pub(crate) struct KeptSession {
    pub(crate) model: String,
    pub(crate) number: i32,
    pub(crate) bytes: usize,
    pub(crate) device: String,
    pub(crate) threads: usize,
    pub(crate) loaded: i64,
    pub(crate) used: i64,
}

/// The list of loaded sessions that a backend shows. Only one thread at a time may use it.
#[derive(Clone, Copy)]
pub(crate) struct SessionList(&'static BackendPlace);

/// Returns the list of this backend.
pub(crate) fn window() -> Option<SessionList> {
    mine().map(SessionList)
}

impl SessionList {
    /// Shows the loaded sessions.
    pub(crate) fn show(self, sessions: &[&KeptSession]) {
        self.0.writing(|| {
            for (place, session) in self.0.sessions.iter().zip(sessions) {
                place.name.set(session.model.as_bytes());
                place.number.store(session.number, RELAXED);
                place.bytes.store(session.bytes as u64, RELAXED);
                place.device.set(session.device.as_bytes());
                place.threads.store(narrow(session.threads), RELAXED);
                place.loaded.store(session.loaded, RELAXED);
                place.used.store(session.used, RELAXED);
            }
            self.0.sessions_kept.store(narrow(sessions.len().min(SESSIONS)), RELAXED);
        });
    }

    /// Updates the time of last use of a session.
    pub(crate) fn use_session(self, nth: usize, at: i64) {
        if let Some(place) = self.0.sessions.get(nth) {
            place.used.store(at, RELAXED);
        }
    }
}

/// The entry of this backend, for threads that have no access to it.
static PROCESS_SHOWN: OnceLock<Option<&'static BackendPlace>> = OnceLock::new();

/// Shows the process id of the model process of this backend. 0: it has none. The first call must come from the main
/// thread.
pub(crate) fn show_process(pid: i32) {
    if let Some(place) = PROCESS_SHOWN.get_or_init(mine) {
        place.process.store(pid, RELAXED);
    }
}

/// The current time in microseconds since 1970.
pub(crate) fn clock() -> i64 {
    now()
}

/// Counts what a query does with a version, and shows its progress.
///
/// Counts are collected locally. They are added to shared memory from time to time, and on drop.
pub(crate) struct ProgressWatch {
    entry: CounterEntry,
    kept: [u64; COUNTERS],
    shown: Shown,
    model: String,
    number: i32,
    began: Instant,
    told: Instant,
    rows: u64,
    expected: Option<f64>,
}

impl ProgressWatch {
    /// Starts to count a call.
    pub(crate) fn new(version: &Version, form: QueryForm, expected: Option<f64>) -> Self {
        let entry = entry(version);
        entry.count_call();
        let now = Instant::now();
        Self {
            entry,
            kept: [0; COUNTERS],
            shown: Shown::new(version, form, Phase::Running, expected),
            model: version.model.clone(),
            number: version.number,
            began: now,
            told: now,
            rows: 0,
            expected,
        }
    }

    /// Counts a batch.
    pub(crate) fn batch(&mut self, run: Duration, wait: Duration, tokens: usize) {
        self.kept[Counter::Batches as usize] += 1;
        self.kept[Counter::RunNanos as usize] += nanos(run);
        self.kept[Counter::WaitNanos as usize] += nanos(wait);
        self.kept[Counter::Tokens as usize] += tokens as u64;
    }

    /// Counts finished rows: `nulls` of them are NULL, `failed` of them failed.
    pub(crate) fn rows(&mut self, rows: usize, nulls: usize, failed: usize) {
        self.kept[Counter::Rows as usize] += rows as u64;
        self.kept[Counter::NullRows as usize] += nulls as u64;
        self.kept[Counter::FailedRows as usize] += failed as u64;
        self.rows += rows as u64;
        if rows > 1 || self.kept[Counter::Rows as usize] >= CALLS_KEPT {
            self.flush();
        }
    }

    /// Counts an error.
    pub(crate) fn failed(&self, message: &str) {
        self.entry.failed(message);
    }

    /// Shows the current phase.
    pub(crate) fn phase(&self, phase: Phase) {
        self.shown.phase(phase);
    }

    fn flush(&mut self) {
        if self.kept == [0; COUNTERS] {
            return;
        }
        let kept = std::mem::replace(&mut self.kept, [0; COUNTERS]);
        if let Some(place) = self.entry.place() {
            for (counter, n) in place.counters.iter().zip(kept) {
                if n > 0 {
                    counter.fetch_add(n, RELAXED);
                }
            }
            place.last_used.store(now(), RELAXED);
        }
        if let Some(shown) = self.shown.0 {
            shown.rows.store(self.rows, RELAXED);
            shown.batches.fetch_add(kept[Counter::Batches as usize], RELAXED);
        }
    }

    /// Returns the progress of the query, at most once per interval. Contains the rows done by it and its workers, the
    /// expected rows and the elapsed time.
    pub(crate) fn progress(&mut self, interval: Duration) -> Option<(u64, Option<f64>, Duration)> {
        if interval.is_zero() || is_worker() || self.told.elapsed() < interval {
            return None;
        }
        self.told = Instant::now();
        let (mut rows, mut processes) = (self.rows, 1.0);
        // SAFETY: reads a variable.
        let pid = unsafe { pg_sys::MyProcPid };
        for place in shared().iter().flat_map(|s| s.backends).filter(|b| b.leader.load(RELAXED) == pid) {
            for query in place.queries.iter().filter(|q| q.taken.load(RELAXED) != 0 && place.pid.load(RELAXED) != 0) {
                if query.number.load(RELAXED) == self.number && query.name.text() == self.model {
                    rows += query.rows.load(RELAXED);
                    processes += 1.0;
                }
            }
        }
        Some((rows, self.expected.map(|e| e * processes), self.began.elapsed()))
    }
}

impl Drop for ProgressWatch {
    fn drop(&mut self) {
        self.flush();
    }
}

/// The activity that a backend shows.
pub(crate) struct BackendStats {
    pub(crate) pid: i32,
    pub(crate) leader: i32,
    pub(crate) role: pg_sys::Oid,
    /// The process id of its model process. 0: none.
    pub(crate) process: i32,
    pub(crate) sessions: Vec<KeptSession>,
    pub(crate) queries: Vec<QueryStats>,
}

/// A running query.
pub(crate) struct QueryStats {
    pub(crate) model: String,
    pub(crate) version: i32,
    pub(crate) form: &'static str,
    pub(crate) phase: &'static str,
    pub(crate) rows: u64,
    pub(crate) expected: Option<u64>,
    pub(crate) batches: u64,
    pub(crate) started: i64,
}

/// Returns the activity of the backends of this database.
pub(crate) fn backend_stats() -> Vec<BackendStats> {
    let database = database();
    let is_ours = |b: &&BackendPlace| b.pid.load(Ordering::Acquire) != 0 && b.database.load(RELAXED) == database;
    let queries = |place: &BackendPlace| {
        place
            .queries
            .iter()
            .filter(|q| q.taken.load(RELAXED) != 0)
            .map(|q| QueryStats {
                model: q.name.text(),
                version: q.number.load(RELAXED),
                form: match q.form.load(RELAXED) {
                    n if n == QueryForm::Aggregate as u32 => "aggregate",
                    n if n == QueryForm::Scan as u32 => "scan",
                    _ => "call",
                },
                phase: match q.phase.load(RELAXED) {
                    n if n == Phase::Loading as u32 => "loading",
                    n if n == Phase::Tokenising as u32 => "tokenising",
                    _ => "running",
                },
                rows: q.rows.load(RELAXED),
                expected: Some(q.expected.load(RELAXED)).filter(|n| *n != u64::MAX),
                batches: q.batches.load(RELAXED),
                started: q.started.load(RELAXED),
            })
            .collect()
    };
    let sessions = |place: &BackendPlace| {
        place
            .sessions
            .iter()
            .take(place.sessions_kept.load(RELAXED) as usize)
            .map(|s| KeptSession {
                model: s.name.text(),
                number: s.number.load(RELAXED),
                bytes: usize::try_from(s.bytes.load(RELAXED)).unwrap_or(usize::MAX),
                device: s.device.text(),
                threads: s.threads.load(RELAXED) as usize,
                loaded: s.loaded.load(RELAXED),
                used: s.used.load(RELAXED),
            })
            .collect()
    };
    shared()
        .iter()
        .flat_map(|s| s.backends)
        .filter(is_ours)
        .map(|place| {
            let (sessions, queries) = place.read(|| (sessions(place), queries(place)));
            BackendStats {
                pid: place.pid.load(RELAXED),
                leader: place.leader.load(RELAXED),
                role: pg_sys::Oid::from(place.role.load(RELAXED)),
                process: place.process.load(RELAXED),
                sessions,
                queries,
            }
        })
        .collect()
}
