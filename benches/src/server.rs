//! The server's side: registers the models, reads the rows back, and times statements.
//!
//! The clock is read around a statement that sends at most one row over a unix socket, so what it sees is the
//! server's work and one round trip. One connection serves a whole run: sessions are warm as in a long-lived backend.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use postgres::binary_copy::BinaryCopyOutIter;
use postgres::fallible_iterator::FallibleIterator;
use postgres::types::{ToSql, Type};
use postgres::{Client, Config, NoTls, SimpleQueryMessage};

use crate::contender::{Expect, Form, Rows, Statement};
use crate::raw::Matrix;
use crate::workload::{FEATURES, Workload};

/// Settings of the server that belong in the results, beside everything of `pg_predict`.
const SETTINGS: &[&str] = &[
    "autovacuum",
    "fsync",
    "jit",
    "max_parallel_workers_per_gather",
    "shared_buffers",
    "synchronize_seqscans",
    "work_mem",
];

/// Where the server listens.
pub struct Address {
    /// The directory of the unix socket.
    pub socket: String,
    /// The port, which names the socket's file.
    pub port: u16,
}

/// A connection to the server.
pub struct Server(Client);

/// What one run of a form came to beside raw ONNX Runtime.
pub struct Difference {
    /// Rows compared.
    pub rows: u64,
    /// The largest difference, relative to the larger of 1 and the raw answer.
    pub largest: f64,
}

impl Server {
    /// Connects as the cluster's superuser.
    pub fn connect(address: &Address) -> Result<Self> {
        let client = Config::new()
            .host_path(&address.socket)
            .port(address.port)
            .user("postgres")
            .dbname("postgres")
            .application_name("pg_predict_bench")
            .connect(NoTls)
            .with_context(|| format!("could not connect to the server in {}", address.socket))?;
        Ok(Self(client))
    }

    /// Registers a workload's model.
    pub fn create_model(&mut self, workload: &Workload, bytes: &[u8]) -> Result<()> {
        let options = serde_json::json!({ "features": FEATURES }).to_string();
        let sql = format!("SELECT predict.create_model($1, $2, '{options}')");
        self.0
            .query(&sql, &[&workload.model, &bytes])
            .with_context(|| format!("could not create {}", workload.model))?;
        Ok(())
    }

    /// Registers a model of texts, whose vectors are pooled and normalised.
    pub fn create_text_model(&mut self, name: &str, model: &Path, tokenizer: &Path, max_length: usize) -> Result<()> {
        let bytes = std::fs::read(model).with_context(|| format!("could not read {}", model.display()))?;
        let tokenizer: serde_json::Value = serde_json::from_slice(
            &std::fs::read(tokenizer).with_context(|| format!("could not read {}", tokenizer.display()))?,
        )?;
        let options = serde_json::json!({ "pooling": "mean", "normalize": true, "max_length": max_length });
        let sql = format!("SELECT predict.create_model($1, $2, '{options}', ($3::text)::jsonb)");
        self.0
            .query(&sql, &[&name, &bytes, &tokenizer.to_string()])
            .with_context(|| format!("could not create {name}"))?;
        Ok(())
    }

    /// Texts, in order.
    pub fn texts(&mut self, sql: &str) -> Result<Vec<String>> {
        self.0.query(sql, &[])?.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// Embeds some texts, so that the session is warm.
    pub fn embed_some(&mut self, model: &str) -> Result<()> {
        let sql = "SELECT count(embed($1, text)) FROM (SELECT text FROM bench_tweets ORDER BY id LIMIT 50) t";
        self.0.query(sql, &[&model])?;
        Ok(())
    }

    /// Makes a table and gives the time of it; one that is there goes before.
    pub fn make(&mut self, table: &str, sql: &str) -> Result<Duration> {
        self.0.batch_execute(&format!("DROP TABLE IF EXISTS {table}"))?;
        let started = Instant::now();
        self.0.batch_execute(sql).with_context(|| sql.to_owned())?;
        Ok(started.elapsed())
    }

    /// Vectors by key, from 1 on.
    pub fn vectors(&mut self, sql: &str, expected: usize) -> Result<Vec<Vec<f32>>> {
        let rows = self.0.query(sql, &[])?;
        ensure!(rows.len() == expected, "{} vectors came back of {expected}", rows.len());
        rows.iter()
            .enumerate()
            .map(|(place, row)| {
                let id: i32 = row.try_get(0)?;
                ensure!(usize::try_from(id)? == place + 1, "row {id} is in the place of row {}", place + 1);
                Ok(row.try_get(1)?)
            })
            .collect()
    }

    /// Counts what there is to read.
    pub fn rows(&mut self) -> Result<Rows> {
        let mut count = |table: &str| -> Result<u64> {
            let count: i64 = self.0.query_one(&format!("SELECT count(*) FROM {table}"), &[])?.try_get(0)?;
            Ok(u64::try_from(count)?)
        };
        let (all, arrays, sample) = (count("bench_rows")?, count("bench_arrays")?, count("bench_sample")?);
        ensure!(all > 0 && all == arrays, "bench_rows has {all} rows, bench_arrays {arrays}");
        Ok(Rows { all, sample })
    }

    /// Copies the feature rows out of the table, in the order of their ids.
    pub fn matrix(&mut self) -> Result<Matrix> {
        let sql =
            format!("COPY (SELECT {} FROM bench_rows ORDER BY id) TO STDOUT (FORMAT binary)", FEATURES.join(", "));
        let mut rows = BinaryCopyOutIter::new(self.0.copy_out(&sql)?, &[Type::FLOAT4; FEATURES.len()]);
        let mut values = Vec::new();
        while let Some(row) = rows.next()? {
            for feature in 0..FEATURES.len() {
                values.push(row.try_get::<f32>(feature)?);
            }
        }
        Ok(Matrix(values))
    }

    /// Runs a statement and gives its time.
    pub fn time(&mut self, statement: &Statement) -> Result<Duration> {
        self.set(&statement.settings)?;
        for sql in &statement.before {
            self.0.batch_execute(sql)?;
        }
        let started = Instant::now();
        let messages = self.0.simple_query(&statement.sql);
        let took = started.elapsed();
        let messages = messages.with_context(|| statement.sql.clone())?;
        check(statement, &messages).with_context(|| statement.sql.clone())?;
        self.reset(&statement.settings)?;
        Ok(took)
    }

    /// The statement's plan, a line each; a statement for two processes must really have run with a worker.
    pub fn plan(&mut self, statement: &Statement) -> Result<Vec<String>> {
        self.set(&statement.settings)?;
        let options = if statement.is_by_two() { "ANALYZE, TIMING OFF, COSTS OFF, SUMMARY OFF" } else { "COSTS OFF" };
        for sql in &statement.before {
            self.0.batch_execute(sql)?;
        }
        let messages = self.0.simple_query(&format!("EXPLAIN ({options}) {}", statement.sql))?;
        let lines: Vec<String> = messages
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            })
            .collect();
        if statement.is_by_two() && !lines.iter().any(|line| line.trim() == "Workers Launched: 1") {
            bail!("no worker took part in {}:\n{}", statement.sql, lines.join("\n"));
        }
        self.reset(&statement.settings)?;
        Ok(lines)
    }

    /// Compares a form's answers with the raw ones: every id once, in any order.
    pub fn compare(&mut self, form: &Form, raw: &[f32]) -> Result<Difference> {
        self.set(&form.settings)?;
        let expected = usize::try_from(form.rows)?;
        let mut seen = vec![false; expected];
        let mut largest = 0.0_f64;
        let mut rows = 0;
        {
            let nothing: [&(dyn ToSql + Sync); 0] = [];
            let mut answers = self.0.query_raw(&form.sql, nothing).with_context(|| form.sql.clone())?;
            while let Some(row) = answers.next().with_context(|| form.sql.clone())? {
                let id: i32 = row.try_get(0)?;
                let score: f32 = row.try_get(1).with_context(|| format!("the score of row {id}"))?;
                let place = usize::try_from(id)?.checked_sub(1).filter(|place| *place < expected);
                let place = place.with_context(|| format!("{}: row {id} is not one of ours", form.title))?;
                ensure!(!seen[place], "{}: row {id} came twice", form.title);
                seen[place] = true;
                rows += 1;
                largest = largest.max(difference(score, raw[place]));
            }
        }
        ensure!(rows == form.rows, "{}: {rows} rows came back of {}", form.title, form.rows);
        self.reset(&form.settings)?;
        Ok(Difference { rows, largest })
    }

    /// One value as text.
    pub fn text(&mut self, sql: &str) -> Result<String> {
        let value: String = self.0.query_one(sql, &[]).with_context(|| sql.to_owned())?.try_get(0)?;
        Ok(value)
    }

    /// The settings that belong in the results.
    pub fn settings(&mut self) -> Result<BTreeMap<String, String>> {
        let sql =
            "SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY ($1) OR name LIKE 'pg\\_predict.%'";
        let rows = self.0.query(sql, &[&SETTINGS])?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get::<_, Option<String>>(1)?.unwrap_or_default()))).collect()
    }

    fn set(&mut self, settings: &[(&str, &str)]) -> Result<()> {
        for (name, value) in settings {
            self.0.batch_execute(&format!("SET {name} = {value}"))?;
        }
        Ok(())
    }

    fn reset(&mut self, settings: &[(&str, &str)]) -> Result<()> {
        for (name, _) in settings {
            self.0.batch_execute(&format!("RESET {name}"))?;
        }
        Ok(())
    }
}

/// Reads a model's file.
pub fn model_bytes(models: &Path, workload: &Workload) -> Result<Vec<u8>> {
    let file = models.join(workload.file);
    std::fs::read(&file).with_context(|| format!("could not read {}", file.display()))
}

/// Checks that a statement came to what it must come to.
fn check(statement: &Statement, messages: &[SimpleQueryMessage]) -> Result<()> {
    let mut values = Vec::new();
    let mut made = 0;
    for message in messages {
        match message {
            SimpleQueryMessage::Row(row) => values.push(row.get(0)),
            SimpleQueryMessage::CommandComplete(count) => made = *count,
            _ => {}
        }
    }
    match (&statement.expect, values.as_slice()) {
        (Expect::Value, [Some(_)]) => Ok(()),
        (Expect::Exactly(expected), [Some(value)]) if value == expected => Ok(()),
        (Expect::Made(expected), []) if made == *expected => Ok(()),
        (Expect::Value, _) => bail!("wanted one value, got {values:?}"),
        (Expect::Exactly(expected), _) => bail!("wanted {expected}, got {values:?}"),
        (Expect::Made(expected), _) => bail!("wanted {expected} rows made, got {made}"),
    }
}

/// The difference of two answers, relative to the larger of 1 and the raw one; a NaN on one side only is infinitely far.
fn difference(ours: f32, raw: f32) -> f64 {
    if ours.is_nan() && raw.is_nan() {
        return 0.0;
    }
    let difference = f64::from(ours) - f64::from(raw);
    if difference.is_nan() { f64::INFINITY } else { difference.abs() / f64::from(raw).abs().max(1.0) }
}
