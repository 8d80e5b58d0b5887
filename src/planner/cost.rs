//! Estimates the cost of calls from the run times measured when the version was created.
//!
//! The cost of a row is the time that the model takes for it in a batch. A parallel worker must load the model before
//! its first row. So `parallel_setup_cost` is raised in proportion to the load time while a statement with calls is
//! planned, and workers are chosen only if they save time. A model that a column names, or that does not exist, has an
//! unknown cost. Its calls then have the cost that the functions declare.

use std::cell::{Cell, RefCell};

use lru::LruCache;
use pg_predict_engine::version::Version;

use crate::planner::support::{self, CostQuestion, Subject};
use crate::{registry, settings};

/// Cost of a microsecond of model time, in units of `cpu_operator_cost`. The planner estimates about 0.02 for a row of
/// a cached table, which is read in a tenth of a microsecond.
const OPERATORS_A_MICROSECOND: f64 = 80.0;
/// Time that `parallel_setup_cost` stands for, in microseconds: the start of a worker that loads no model.
const SETUP: f64 = 5_000.0;
/// Time that a new process takes before it can load a model, in microseconds: the start of ONNX Runtime.
const START: f64 = 20_000.0;
/// Time to load a model, in microseconds: a fixed part, and a part per megabyte of the session.
const LOAD: f64 = 3_000.0;
const LOAD_A_MEGABYTE: f64 = 2_500.0;
/// Minimum cost of a call in a query that may not be read to its end, in units of `cpu_operator_cost`.
///
/// PostgreSQL evaluates expressions of more than 10 operators after a sort, so only for the rows that are read. The
/// minimum ensures this for models that are cheap in a batch, too.
const POSTPONED: f64 = 11.0;
/// Number of references whose cost is cached.
const KEPT: std::num::NonZeroUsize = std::num::NonZeroUsize::MIN.saturating_add(255);

/// The cost of a model, in microseconds.
#[derive(Debug, Clone, Copy)]
struct Cost {
    /// Per row: in a batch, and if the row is run alone.
    row: f64,
    single: f64,
    /// Of a load in a new process.
    load: f64,
}

impl Cost {
    fn of(version: &Version) -> Option<Self> {
        let signature = &version.signature;
        let megabytes = signature.session_bytes as f64 / (1 << 20) as f64;
        signature.verified.then_some(Self {
            row: signature.row_micros,
            single: signature.single_micros,
            load: START + LOAD + LOAD_A_MEGABYTE * megabytes,
        })
    }
}

thread_local! {
    /// Cached costs by reference. If a reference has changed to another version, its next resolution for a run corrects
    /// the cost.
    static COSTS: RefCell<LruCache<String, Option<Cost>>> = RefCell::new(LruCache::new(KEPT));
    /// Cost per row of the most expensive model of the statement that is being planned.
    static PLANNED: Cell<Option<f64>> = const { Cell::new(None) };
}

/// Records the cost of the version that a reference was resolved to.
pub(crate) fn note(reference: &str, version: &Version) {
    COSTS.with_borrow_mut(|costs| {
        let cost = Cost::of(version);
        match costs.get_mut(reference) {
            Some(known) => *known = cost,
            None => {
                costs.put(reference.to_owned(), cost);
            }
        }
    });
}

/// Returns the cost of a model. Raises no error: an invalid reference is reported when it is run.
fn of(reference: &str) -> Option<Cost> {
    if let Some(known) = COSTS.with_borrow_mut(|costs| costs.get(reference).copied()) {
        return known;
    }
    let cost = registry::look_up(reference).and_then(|version| Cost::of(&version));
    COSTS.with_borrow_mut(|costs| costs.put(reference.to_owned(), cost));
    cost
}

fn operators(micros: f64) -> f64 {
    micros * OPERATORS_A_MICROSECOND * support::operator_cost()
}

/// The cost settings during the planning of a statement. Dropping it restores the previous ones, after an error too.
pub(crate) struct Planning {
    setup: f64,
    planned: Option<f64>,
}

impl Planning {
    /// Begins to plan a statement that calls these models.
    pub(crate) fn begin(references: &[String]) -> Self {
        let costs: Vec<Cost> = references.iter().filter_map(|r| of(r)).collect();
        let planned = costs.iter().map(|c| c.row).reduce(f64::max);
        let load = costs.iter().map(|c| c.load).reduce(f64::max).unwrap_or(0.0);
        let setup = support::parallel_setup_cost();
        support::set_parallel_setup_cost(setup * (1.0 + load / SETUP));
        Self { setup, planned: PLANNED.replace(planned) }
    }
}

impl Drop for Planning {
    fn drop(&mut self) {
        support::set_parallel_setup_cost(self.setup);
        PLANNED.set(self.planned);
    }
}

/// Answers the planner's request for the cost of a call, or of an aggregate per row. Returns false if the cost is
/// unknown.
pub(crate) fn answer(question: &CostQuestion) -> bool {
    let micros = match question.subject() {
        Subject::Call(model) => model
            .and_then(|reference| of(&reference))
            .map(|cost| if settings::enable_batch_scan() { cost.row } else { cost.single }),
        Subject::Column => Some(0.0),
        // The planner passes no arguments for an aggregate's transition function.
        Subject::Unknown => PLANNED.get(),
    };
    let Some(micros) = micros else { return false };
    let cost = support::operator_cost() + operators(micros);
    let least = if question.may_stop() { POSTPONED * support::operator_cost() } else { 0.0 };
    question.answer(cost.max(least));
    true
}
