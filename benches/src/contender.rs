//! The contenders: everything that is timed for a workload, and what each is compared with.
//!
//! A contender names its own floor and its own raw run, so that like is compared with like: two processes with a scan by
//! two processes, one run a row with one run a row. A new form or a peer is a new entry in `contenders`; one that
//! is neither SQL nor raw ONNX Runtime is a new variant of `Work`.

use serde::Serialize;

use crate::workload::{FEATURES, Workload};

/// What a contender is to the comparison.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The work of PostgreSQL alone, with no model.
    Floor,
    /// ONNX Runtime alone, with no PostgreSQL.
    Raw,
    /// This extension.
    Ours,
}

/// What one run of a contender does.
pub enum Work {
    /// Runs a statement.
    Sql(Statement),
    /// Runs the session over rows that are in memory already.
    Raw(RawRun),
}

/// A statement and what surrounds it; only `sql` is on the clock.
pub struct Statement {
    /// The statement.
    pub sql: String,
    /// Statements that come before it.
    pub before: Vec<String>,
    /// Settings that hold while it runs.
    pub settings: Vec<(&'static str, &'static str)>,
    /// What it must come to: a benchmark of a wrong answer is worth nothing.
    pub expect: Expect,
}

/// What a statement must come to.
pub enum Expect {
    /// One row with one value that is not NULL.
    Value,
    /// One row with this value.
    Exactly(String),
    /// So many rows made.
    Made(u64),
}

/// How the raw runs are cut up.
#[derive(Clone, Copy)]
pub enum RawRun {
    /// One thread, at the best batch size.
    Best,
    /// Two threads with a session each, at the best batch size.
    BestByTwo,
    /// One thread, one run a row.
    OneByOne,
}

/// One thing to time.
pub struct Contender {
    /// Short name, the key in the results.
    pub key: &'static str,
    /// What it is, for a reader.
    pub title: &'static str,
    /// What it is to the comparison.
    pub kind: Kind,
    /// What it does.
    pub work: Work,
    /// Rows that one run reads.
    pub rows: u64,
    /// The key of the floor that it stands on; none for the floors themselves and the raw runs.
    pub floor: Option<&'static str>,
    /// The key of the raw run that does the same predictions.
    pub raw: Option<&'static str>,
}

/// How many rows there are to read.
#[derive(Clone, Copy)]
pub struct Rows {
    /// In `bench_rows` and `bench_arrays`.
    pub all: u64,
    /// In `bench_sample`.
    pub sample: u64,
}

/// What makes the planner use one worker beside the leader, whatever it thinks of the costs.
pub const TWO_PROCESSES: &[(&str, &str)] = &[
    ("max_parallel_workers_per_gather", "1"),
    ("min_parallel_table_scan_size", "0"),
    ("parallel_setup_cost", "0"),
    ("parallel_tuple_cost", "0"),
];

/// What keeps plain calls out of batches.
pub const ONE_BY_ONE: &[(&str, &str)] = &[("pg_predict.enable_batch_scan", "off")];

impl Statement {
    fn plain(sql: String, expect: Expect) -> Self {
        Self { sql, before: Vec::new(), settings: Vec::new(), expect }
    }

    fn by_two(sql: String, expect: Expect) -> Self {
        Self { settings: TWO_PROCESSES.to_vec(), ..Self::plain(sql, expect) }
    }

    /// A statement whose calls run a row at a time.
    fn one_by_one(sql: String, expect: Expect) -> Self {
        Self { settings: ONE_BY_ONE.to_vec(), ..Self::plain(sql, expect) }
    }

    /// A statement that makes `bench_out`, which is dropped before; the checkpoint keeps an earlier run's pages out of it.
    fn make(sql: String, rows: u64) -> Self {
        Self {
            before: vec!["DROP TABLE IF EXISTS bench_out".into(), "CHECKPOINT".into()],
            ..Self::plain(sql, Expect::Made(rows))
        }
    }

    /// Whether the plan must have a worker.
    pub fn is_by_two(&self) -> bool {
        self.settings == TWO_PROCESSES
    }
}

/// Everything that is timed for a workload, in the order in which each round runs it.
pub fn contenders(workload: &Workload, rows: Rows) -> Vec<Contender> {
    let Workload { model, output, .. } = workload;
    let features = FEATURES.join(", ");
    let sum = format!("SELECT sum({}) FROM bench_rows", FEATURES.join(" + "));
    let all = rows.all;
    // IS NOT NULL ends the aggregate without looking into its result.
    let held = |arguments: &str, table: &str| {
        format!("SELECT (predict_batch('{model}', {arguments})) IS NOT NULL FROM {table}")
    };
    let held_is = || Expect::Exactly("t".into());
    let keyed =
        format!("predictions((SELECT predict_batch('{model}', r) FROM bench_rows r)) AS p(id integer, {output} real)");

    let floor = |key, title, statement| Contender {
        key,
        title,
        kind: Kind::Floor,
        work: Work::Sql(statement),
        rows: all,
        floor: None,
        raw: None,
    };
    let raw = |key, title, run, rows| Contender {
        key,
        title,
        kind: Kind::Raw,
        work: Work::Raw(run),
        rows,
        floor: None,
        raw: None,
    };
    let ours = |key, title, statement| Contender {
        key,
        title,
        kind: Kind::Ours,
        work: Work::Sql(statement),
        rows: all,
        floor: Some("scan"),
        raw: Some("raw"),
    };

    vec![
        floor(
            "count",
            "count(*)",
            Statement::plain("SELECT count(*) FROM bench_rows".into(), Expect::Exactly(all.to_string())),
        ),
        floor("scan", "scan: sum(a + .. + j)", Statement::plain(sum.clone(), Expect::Value)),
        raw("raw", "raw ONNX Runtime, best batch", RawRun::Best, all),
        ours("columns", "predict_batch, ten columns", Statement::plain(held(&features, "bench_rows"), held_is())),
        ours("row", "predict_batch, whole row", Statement::plain(held("r", "bench_rows r"), held_is())),
        ours("array", "predict_batch, real[] column", Statement::plain(held("x", "bench_arrays"), held_is())),
        ours(
            "predictions",
            "predictions() of whole rows, counted",
            Statement::plain(format!("SELECT count(p.{output}) FROM {keyed}"), Expect::Exactly(all.to_string())),
        ),
        floor(
            "ctas_floor",
            "CREATE TABLE AS (id, a)",
            Statement::make("CREATE TABLE bench_out AS SELECT id, a FROM bench_rows".into(), all),
        ),
        Contender {
            floor: Some("ctas_floor"),
            ..ours(
                "ctas",
                "CREATE TABLE AS (id, score) from predictions()",
                Statement::make(
                    format!("CREATE TABLE bench_out AS SELECT p.id, p.{output} AS score FROM {keyed}"),
                    all,
                ),
            )
        },
        floor("scan_2", "scan by two processes", Statement::by_two(sum, Expect::Value)),
        raw("raw_2", "raw ONNX Runtime, two threads", RawRun::BestByTwo, all),
        Contender {
            floor: Some("scan_2"),
            raw: Some("raw_2"),
            ..ours(
                "columns_2",
                "predict_batch, ten columns, two processes",
                Statement::by_two(held(&features, "bench_rows"), held_is()),
            )
        },
        raw("raw_1", "raw ONNX Runtime, one run a row (sample)", RawRun::OneByOne, rows.sample),
        Contender {
            rows: rows.sample,
            raw: Some("raw_1"),
            ..ours(
                "predict",
                "sum(predict(..)), one run a row (sample)",
                Statement::one_by_one(
                    format!("SELECT sum(predict('{model}', {features})) FROM bench_sample"),
                    Expect::Value,
                ),
            )
        },
        ours(
            "plain",
            "sum(predict(..)), batched",
            Statement::plain(format!("SELECT sum(predict('{model}', {features})) FROM bench_rows"), Expect::Value),
        ),
        ours(
            "plain_row",
            "sum(predict(.., whole row)), batched",
            Statement::plain(format!("SELECT sum(predict('{model}', r)) FROM bench_rows r"), Expect::Value),
        ),
        ours(
            "plain_filter",
            "count(*) WHERE predict(..) > .5, batched",
            Statement::plain(
                format!("SELECT count(*) >= 0 FROM bench_rows WHERE predict('{model}', {features}) > .5"),
                Expect::Exactly("t".into()),
            ),
        ),
        Contender {
            floor: Some("ctas_floor"),
            ..ours(
                "plain_ctas",
                "CREATE TABLE AS (id, predict(..)), batched",
                Statement::make(
                    format!(
                        "CREATE TABLE bench_out AS SELECT id, predict('{model}', {features}) AS score FROM bench_rows"
                    ),
                    all,
                ),
            )
        },
        Contender {
            rows: 10,
            ..floor(
                "limit_floor",
                "LIMIT 10, one run a row",
                Statement::one_by_one(limited(model, &features), Expect::Exactly("10".into())),
            )
        },
        Contender {
            rows: 10,
            floor: Some("limit_floor"),
            ..ours(
                "plain_limit",
                "LIMIT 10, batched",
                Statement::plain(limited(model, &features), Expect::Exactly("10".into())),
            )
        },
    ]
}

/// Predictions of ten rows.
fn limited(model: &str, features: &str) -> String {
    format!("SELECT count(y) FROM (SELECT predict('{model}', {features}) AS y FROM bench_rows LIMIT 10) s")
}

/// A query whose answers are compared with raw ONNX Runtime: (id integer, score real).
pub struct Form {
    /// What it is, for a reader.
    pub title: &'static str,
    /// The query.
    pub sql: String,
    /// Settings that hold while it runs.
    pub settings: Vec<(&'static str, &'static str)>,
    /// Rows that it must give, with the ids 1 to this.
    pub rows: u64,
}

/// Every form whose answers are checked. Where the form carries no key, the order of the scan, which is the order of
/// the ids in a table that was just loaded, stands for it.
pub fn forms(workload: &Workload, rows: Rows) -> Vec<Form> {
    let Workload { model, output, .. } = workload;
    let features = FEATURES.join(", ");
    let keyed = format!(
        "SELECT p.id, p.{output} FROM predictions((SELECT predict_batch('{model}', r) FROM bench_rows r)) AS p(id integer, {output} real)"
    );
    let unnested = |arguments: &str, table: &str| {
        format!(
            "SELECT u.place::integer, u.score FROM unnest((SELECT predict_batch('{model}', {arguments})::real[] FROM {table})) WITH ORDINALITY AS u(score, place)"
        )
    };
    let form = |title, sql, rows| Form { title, sql, settings: Vec::new(), rows };
    vec![
        form("whole row", keyed.clone(), rows.all),
        form("ten columns", unnested(&features, "bench_rows"), rows.all),
        form("real[] column", unnested("x", "bench_arrays"), rows.all),
        Form { settings: TWO_PROCESSES.to_vec(), ..form("whole row, two processes", keyed, rows.all) },
        form("predict()", format!("SELECT id, predict('{model}', {features})::real FROM bench_sample"), rows.sample),
    ]
}
