//! What the planner is told of a model's cost: the time that its runs take, as measured when the version was created.
//!
//! A row costs what the model takes for it in a batch; a parallel worker costs the load of the model before its first row, which
//! makes the cost of starting workers (`parallel_setup_cost`) so much higher while a statement with calls is planned. So workers are chosen where they pay. What
//! is not known, a model that a column names or that is not there, is taken to cost what the functions say.

use std::cell::{Cell, RefCell};

use lru::LruCache;
use pg_predict_engine::version::Version;

use crate::guc;
use crate::pg::planner::{self, CostQuestion, Subject};
use crate::registry;

/// Operators (`cpu_operator_cost`) that take as long as a microsecond of a model: a row of a cached table, which the planner
/// takes for some 0.02, is read in a tenth of a microsecond.
const OPERATORS_A_MICROSECOND: f64 = 80.0;
/// What `parallel_setup_cost` stands for, in microseconds: a worker that has nothing to load.
const SETUP: f64 = 5_000.0;
/// What a new process takes besides before it can load a model, in microseconds: ONNX Runtime's own start.
const START: f64 = 20_000.0;
/// How long a load takes besides, in microseconds: for itself, and for a megabyte of the session.
const LOAD: f64 = 3_000.0;
const LOAD_A_MEGABYTE: f64 = 2_500.0;
/// Operators that a call costs at least in a query that may not be read to its end: PostgreSQL evaluates what costs more than 10 of
/// them after a sort, so only for the rows that are read, however cheap a model is in a batch.
const POSTPONED: f64 = 11.0;
/// References whose cost is kept.
const KEPT: std::num::NonZeroUsize = std::num::NonZeroUsize::MIN.saturating_add(255);

/// The cost of a model, in microseconds.
#[derive(Debug, Clone, Copy)]
struct Cost {
    /// Of a row in a batch, and of one that is run alone.
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
    /// Costs by reference. One that means another version meanwhile is corrected when it is next looked up to be run.
    static COSTS: RefCell<LruCache<String, Option<Cost>>> = RefCell::new(LruCache::new(KEPT));
    /// The cost of a row of the dearest model of the statement that is being planned.
    static PLANNED: Cell<Option<f64>> = const { Cell::new(None) };
}

/// Notes what a reference means.
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

/// The cost of a model. Nothing is raised: what is wrong with a reference is told when it is run.
fn of(reference: &str) -> Option<Cost> {
    if let Some(known) = COSTS.with_borrow_mut(|costs| costs.get(reference).copied()) {
        return known;
    }
    let cost = registry::look_up(reference).and_then(|version| Cost::of(&version));
    COSTS.with_borrow_mut(|costs| costs.put(reference.to_owned(), cost));
    cost
}

fn operators(micros: f64) -> f64 {
    micros * OPERATORS_A_MICROSECOND * planner::operator_cost()
}

/// What holds while a statement is planned; what was before comes back when it goes, after an error too.
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
        let setup = planner::parallel_setup_cost();
        planner::set_parallel_setup_cost(setup * (1.0 + load / SETUP));
        Self { setup, planned: PLANNED.replace(planned) }
    }
}

impl Drop for Planning {
    fn drop(&mut self) {
        planner::set_parallel_setup_cost(self.setup);
        PLANNED.set(self.planned);
    }
}

/// Answers the planner's question for the cost of a call of a function, or of a row of an aggregate: false where it is not known.
pub(crate) fn answer(question: &CostQuestion) -> bool {
    let micros = match question.subject() {
        Subject::Call(model) => model
            .and_then(|reference| of(&reference))
            .map(|cost| if guc::enable_batch_scan() { cost.row } else { cost.single }),
        // Of an aggregate's function nothing else is told than that it is called.
        Subject::Unknown => PLANNED.get(),
    };
    let Some(micros) = micros else { return false };
    let cost = planner::operator_cost() + operators(micros);
    let least = if question.may_stop() { POSTPONED * planner::operator_cost() } else { 0.0 };
    question.answer(cost.max(least));
    true
}
