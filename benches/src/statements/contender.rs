//! The contenders: what is timed for a workload, what each must come to, and what each is compared with.
//!
//! A contender names its own floor and its own raw run, so that like is compared with like: two processes with a scan by
//! two processes, a table that is written with a table that is written. `forms.rs` lists them.

use serde::Serialize;

use crate::statements::peer::Job;

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
    /// Another way to the same answers.
    Peer,
}

/// What one run of a contender does.
pub enum Work {
    /// Runs a statement.
    Sql(Statement),
    /// Runs the session over rows that are in memory already.
    Raw(RawRun),
    /// Lets the program of the peers run one.
    Peer(Job),
}

/// A statement and what surrounds it; only `sql` is on the clock.
#[derive(Default)]
pub struct Statement {
    /// The statement.
    pub sql: String,
    /// Statements that come before it.
    pub before: Vec<String>,
    /// Settings that hold while it runs.
    pub settings: Vec<(&'static str, &'static str)>,
    /// What it must come to: a benchmark of a wrong answer is worth nothing.
    pub expect: Expect,
    /// The table of (id integer, score real) that it leaves, to be compared row by row.
    pub leaves: Option<&'static str>,
}

/// What a statement must come to.
#[derive(Default)]
pub enum Expect {
    /// One row with one value that is not NULL.
    #[default]
    Value,
    /// One row with the sum of raw ONNX Runtime's answers.
    Sum,
    /// So many rows made or changed.
    Made(u64),
}

/// How the raw runs are cut up.
#[derive(Clone, Copy)]
pub enum RawRun {
    /// One thread, at the best batch size.
    Best,
    /// Two threads with a session each, at the best batch size.
    BestByTwo,
    /// One thread, at the best batch size, with the tensors built on the clock.
    Built,
}

/// One thing to time.
pub struct Contender {
    /// Short name, the key in the results.
    pub key: String,
    /// What it is, for a reader.
    pub title: String,
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

/// What makes the planner use one worker beside the leader, whatever it thinks of the costs.
pub const TWO_PROCESSES: &[(&str, &str)] = &[
    ("max_parallel_workers_per_gather", "1"),
    ("min_parallel_table_scan_size", "0"),
    ("parallel_setup_cost", "0"),
    ("parallel_tuple_cost", "0"),
];

/// What leaves the choice to the planner, with the costs that PostgreSQL has by default.
pub const PLANNER: &[(&str, &str)] = &[("max_parallel_workers_per_gather", "2")];

impl Statement {
    /// A statement with one value.
    pub fn new(sql: String, expect: Expect) -> Self {
        Self { sql, expect, ..Self::default() }
    }

    /// The same with settings around it.
    pub fn with(self, settings: &[(&'static str, &'static str)]) -> Self {
        Self { settings: settings.to_vec(), ..self }
    }

    /// A statement that makes `bench_out`, which is dropped before; the checkpoint keeps an earlier run's pages out of it.
    pub fn make(query: &str, rows: u64) -> Self {
        Self {
            before: vec!["DROP TABLE IF EXISTS bench_out".into(), "CHECKPOINT".into()],
            ..Self::new(format!("CREATE TABLE bench_out AS {query}"), Expect::Made(rows))
        }
    }

    /// A statement that changes every row of a table with a column `score`, which is made before.
    pub fn update(score: &str, table: &str, rows: u64) -> Self {
        Self {
            before: vec![
                "DROP TABLE IF EXISTS bench_upd".into(),
                format!("CREATE TABLE bench_upd AS SELECT *, NULL::real AS score FROM {table}"),
                "CHECKPOINT".into(),
            ],
            ..Self::new(format!("UPDATE bench_upd SET score = {score}"), Expect::Made(rows))
        }
    }

    /// The same, with the table that it leaves compared row by row.
    pub fn leaving(self, table: &'static str) -> Self {
        Self { leaves: Some(table), ..self }
    }

    /// Whether the plan must have a worker.
    pub fn is_by_two(&self) -> bool {
        self.settings == TWO_PROCESSES
    }
}
