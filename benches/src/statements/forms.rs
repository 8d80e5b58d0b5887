//! The forms in which SQL asks for predictions: those that are timed, and those whose answers are compared row by row.

use crate::statements::contender::{Contender, Expect, Kind, PLANNER, RawRun, Statement, TWO_PROCESSES, Work};
use crate::statements::workload::Workload;

/// What keeps plain calls out of batches.
const ONE_BY_ONE: &[(&str, &str)] = &[("pg_predict.enable_batch_scan", "off")];

/// Everything of ours and every floor that is timed for a workload, in the order in which each round runs it.
pub fn contenders(workload: &Workload, rows: u64, sample: u64) -> Vec<Contender> {
    let table = workload.table;
    let columns = workload.columns();
    let first = workload.features[0].name();
    let scored =
        |arguments: &str, table: &str| Statement::new(workload.sum_of_predictions(arguments, table), Expect::Sum);
    let summed = |arguments: &str, table: &str| {
        Statement::new(format!("SELECT sum({}) FROM {table}", workload.predict(arguments)), Expect::Sum)
    };
    let scan = || Statement::new(format!("SELECT {} FROM {table}", workload.sum()), Expect::Value);
    let row = format!("{table} r");

    let floor = |key: &str, title: &str, statement| Contender {
        key: key.into(),
        title: title.into(),
        kind: Kind::Floor,
        work: Work::Sql(statement),
        rows,
        floor: None,
        raw: None,
    };
    let raw = |key: &str, title: &str, run| Contender {
        key: key.into(),
        title: title.into(),
        kind: Kind::Raw,
        work: Work::Raw(run),
        rows,
        floor: None,
        raw: None,
    };
    let ours = |key: &str, title: &str, statement| Contender {
        kind: Kind::Ours,
        floor: Some("scan"),
        raw: Some("raw"),
        ..floor(key, title, statement)
    };
    let by_two = |contender| Contender { floor: Some("scan_2"), raw: Some("raw_2"), ..contender };
    let written = |contender| Contender { floor: Some("ctas_floor"), ..contender };

    let mut list = vec![
        floor("scan", &format!("scan: {}", short_sum(workload)), scan()),
        raw("raw", "model: raw ONNX Runtime, best batch, tensors ready", RawRun::Best),
    ];
    if workload.has_text() {
        list.push(raw("raw_built", "raw ONNX Runtime, tensors built on the clock", RawRun::Built));
    }
    list.extend([
        ours("columns", "predict_batch, columns", scored(&columns, table)),
        ours("plain", "sum(predict(columns))", summed(&columns, table)),
        floor(
            "ctas_floor",
            &format!("CREATE TABLE AS (id, {first})"),
            Statement::make(&format!("SELECT id, {first} FROM {table}"), rows),
        ),
        written(ours(
            "plain_ctas",
            "CREATE TABLE AS (id, predict(columns)::real)",
            Statement::make(&format!("SELECT id, {}::real AS score FROM {table}", workload.predict(&columns)), rows)
                .leaving("bench_out"),
        )),
        floor("scan_2", "scan by two processes", scan().with(TWO_PROCESSES)),
        raw("raw_2", "model: raw ONNX Runtime, two threads", RawRun::BestByTwo),
        by_two(ours("plain_2", "sum(predict(columns)), two processes", summed(&columns, table).with(TWO_PROCESSES))),
        by_two(ours("columns_2", "predict_batch, columns, two processes", scored(&columns, table).with(TWO_PROCESSES))),
    ]);
    if !workload.slow {
        list.push(ours("row", "predict_batch, whole row", scored("r", &row)));
        list.push(ours("plain_row", "sum(predict(whole row))", summed("r", &row)));
        list.push(written(ours(
            "ctas",
            "CREATE TABLE AS (id, score) from predictions()",
            Statement::make(&workload.predictions(), rows).leaving("bench_out"),
        )));
        list.push(by_two(ours(
            "row_2",
            "predict_batch, whole row, two processes",
            scored("r", &row).with(TWO_PROCESSES),
        )));
    }
    if workload.every_form {
        list.extend([
            ours("array", "predict_batch, real[] column", scored("x", "bench_arrays")),
            ours(
                "cast",
                "predict_batch, columns, cast to real[]",
                Statement::new(
                    format!("SELECT array_length(({})::real[], 1) FROM {table}", workload.predict_batch(&columns)),
                    Expect::Value,
                ),
            ),
            Contender {
                rows: 1,
                floor: None,
                raw: None,
                ..ours(
                    "limit",
                    "predictions(), the first row",
                    Statement::new(format!("SELECT score FROM ({}) q LIMIT 1", workload.predictions()), Expect::Value),
                )
            },
            Contender {
                rows: sample,
                ..ours(
                    "one_by_one",
                    "sum(predict(columns)), one run a row (sample)",
                    Statement { expect: Expect::Value, ..summed(&columns, "bench_sample").with(ONE_BY_ONE) },
                )
            },
            ours("plain_planner", "sum(predict(columns)), the planner's choice", summed(&columns, table).with(PLANNER)),
            ours(
                "columns_planner",
                "predict_batch, columns, the planner's choice",
                scored(&columns, table).with(PLANNER),
            ),
            floor("update_floor", &format!("UPDATE SET score = {first}"), Statement::update(first, table, rows)),
            Contender {
                floor: Some("update_floor"),
                ..ours(
                    "update",
                    "UPDATE SET score = predict(columns)",
                    Statement::update(&workload.predict(&columns), table, rows).leaving("bench_upd"),
                )
            },
        ]);
    }
    list
}

/// The sum of the scan as a reader may read it.
fn short_sum(workload: &Workload) -> String {
    let names: Vec<&str> = workload.features.iter().map(|feature| feature.name()).collect();
    format!("sum({} + .. + {})", names[0], names[names.len() - 1])
}

/// A query whose answers are compared with raw ONNX Runtime: (id integer, score real).
pub struct Form {
    /// What it is, for a reader.
    pub title: &'static str,
    /// The query.
    pub sql: String,
    /// Settings that hold while it runs.
    pub settings: Vec<(&'static str, &'static str)>,
}

/// Every form whose answers are checked beside the tables that are written. Where the form carries no key, the order of
/// the scan, which is the order of the ids in a table that was just loaded, stands for it.
pub fn forms(workload: &Workload) -> Vec<Form> {
    let (table, width) = (workload.table, workload.output.width);
    let columns = workload.columns();
    let unnested = |arguments: &str, table: &str| {
        format!(
            "SELECT ((u.place + {width} - 1) / {width})::integer, u.score FROM unnest((SELECT {}::real[] FROM {table})) \
             WITH ORDINALITY AS u(score, place) WHERE u.place % {width} = 0",
            workload.predict_batch(arguments)
        )
    };
    let form = |title, sql| Form { title, sql, settings: Vec::new() };
    let mut list = vec![
        form("predict_batch, columns", unnested(&columns, table)),
        form("predict(whole row)", format!("SELECT id, {}::real FROM {table} r", workload.predict("r"))),
    ];
    if workload.slow {
        // The written table is the third form of theirs.
        return list;
    }
    list.push(form("predictions() of whole rows", workload.predictions()));
    list.push(Form {
        settings: TWO_PROCESSES.to_vec(),
        ..form("predictions(), two processes", workload.predictions())
    });
    if workload.every_form {
        list.push(form("predict_batch, real[] column", unnested("x", "bench_arrays")));
    }
    list
}
