//! The server's side: registers the models, reads the rows back, and times statements.
//!
//! The clock is read around a statement that sends at most one row over a unix socket, so what it sees is the
//! server's work and one round trip. One connection serves all workloads: sessions are warm as in a long-lived backend.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use postgres::binary_copy::BinaryCopyOutIter;
use postgres::fallible_iterator::FallibleIterator;
use postgres::types::{ToSql, Type};
use postgres::{Client, Config, NoTls, SimpleQueryMessage};

use crate::address::Address;
use crate::figures::TOLERANCE;
use crate::measurements::raw::{Input, Rows};
use crate::statements::contender::{Expect, Statement};
use crate::statements::forms::Form;
use crate::statements::workload::{Feature, Workload};

/// Settings of the server that belong in the results, beside everything of `pg_predict`.
const SETTINGS: &[&str] = &[
    "autovacuum",
    "fsync",
    "jit",
    "max_parallel_workers_per_gather",
    "shared_buffers",
    "shared_preload_libraries",
    "synchronize_seqscans",
    "wal_level",
    "work_mem",
];

/// A connection to the server.
pub struct Server {
    client: Client,
    /// The process of this connection.
    pub backend: u32,
}

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
        let mut client = Config::new()
            .host_path(&address.socket)
            .port(address.port)
            .user("postgres")
            .dbname("postgres")
            .application_name("pg_predict_bench")
            .connect(NoTls)
            .with_context(|| format!("could not connect to the server in {}", address.socket))?;
        let backend: i32 = client.query_one("SELECT pg_backend_pid()", &[])?.try_get(0)?;
        Ok(Self { client, backend: u32::try_from(backend)? })
    }

    /// The connection itself, for statements of one's own.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Registers a workload's model.
    pub fn create_model(&mut self, workload: &Workload, file: &Path) -> Result<()> {
        let features: Vec<&str> = workload.features.iter().map(|feature| feature.name()).collect();
        let options = match workload.wide {
            Some(_) => serde_json::json!({ "features": features }),
            None => serde_json::json!({}),
        };
        self.create(workload.model, file, &options, None)
    }

    /// Registers a model, with its tokenizer where it has one.
    pub fn create(
        &mut self,
        name: &str,
        file: &Path,
        options: &serde_json::Value,
        tokenizer: Option<&Path>,
    ) -> Result<()> {
        let read = |file: &Path| std::fs::read(file).with_context(|| format!("could not read {}", file.display()));
        let bytes = read(file)?;
        let tokenizer = tokenizer.map(|file| Ok::<_, anyhow::Error>(String::from_utf8(read(file)?)?)).transpose()?;
        let created = match tokenizer {
            Some(tokenizer) => {
                let sql = format!("SELECT predict.create_model($1, $2, '{options}', ($3::text)::jsonb)");
                self.client.query(&sql, &[&name, &bytes, &tokenizer])
            }
            None => self.client.query(&format!("SELECT predict.create_model($1, $2, '{options}')"), &[&name, &bytes]),
        };
        created.with_context(|| format!("could not create {name}"))?;
        Ok(())
    }

    /// Counts the rows of a table.
    pub fn count(&mut self, table: &str) -> Result<u64> {
        let count: i64 = self.client.query_one(&format!("SELECT count(*) FROM {table}"), &[])?.try_get(0)?;
        ensure!(count > 0, "{table} is empty");
        Ok(u64::try_from(count)?)
    }

    /// Copies a workload's features out of its table, in the order of their ids.
    pub fn rows(&mut self, workload: &Workload) -> Result<Rows> {
        let sql = format!(
            "COPY (SELECT {} FROM {} ORDER BY id) TO STDOUT (FORMAT binary)",
            workload.columns(),
            workload.table
        );
        let types: Vec<Type> = workload
            .features
            .iter()
            .map(|feature| match feature {
                Feature::Number(_) => Type::FLOAT4,
                Feature::Text(_) => Type::TEXT,
            })
            .collect();
        let mut inputs: Vec<Input> = match workload.wide {
            Some(name) => vec![Input::Wide { name, width: types.len(), values: Vec::new() }],
            None => workload
                .features
                .iter()
                .map(|feature| match feature {
                    Feature::Number(name) => Input::Numbers(name, Vec::new()),
                    Feature::Text(name) => Input::Texts(name, Vec::new()),
                })
                .collect(),
        };
        let mut count = 0;
        let mut rows = BinaryCopyOutIter::new(self.client.copy_out(&sql)?, &types);
        while let Some(row) = rows.next()? {
            count += 1;
            if let [Input::Wide { values, .. }] = inputs.as_mut_slice() {
                for place in 0..types.len() {
                    values.push(row.try_get::<f32>(place)?);
                }
                continue;
            }
            for (place, input) in inputs.iter_mut().enumerate() {
                match input {
                    Input::Wide { .. } => bail!("a wide input beside others"),
                    Input::Numbers(_, values) => values.push(row.try_get(place)?),
                    Input::Texts(_, values) => values.push(row.try_get::<&str>(place)?.to_owned()),
                }
            }
        }
        Ok(Rows { count, inputs })
    }

    /// Runs a statement and gives its time; `sum` is what raw ONNX Runtime's answers add up to.
    pub fn time(&mut self, statement: &Statement, sum: f64) -> Result<Duration> {
        self.set(&statement.settings)?;
        for sql in &statement.before {
            self.client.batch_execute(sql)?;
        }
        let started = Instant::now();
        let messages = self.client.simple_query(&statement.sql);
        let took = started.elapsed();
        let messages = messages.with_context(|| statement.sql.clone())?;
        check(statement, &messages, sum).with_context(|| statement.sql.clone())?;
        self.reset(&statement.settings)?;
        Ok(took)
    }

    /// The statement's plan, a line each; a statement for two processes must really have run with a worker.
    pub fn plan(&mut self, statement: &Statement) -> Result<Vec<String>> {
        self.set(&statement.settings)?;
        let options = if statement.is_by_two() { "ANALYZE, TIMING OFF, COSTS OFF, SUMMARY OFF" } else { "COSTS OFF" };
        for sql in &statement.before {
            self.client.batch_execute(sql)?;
        }
        let messages = self.client.simple_query(&format!("EXPLAIN ({options}) {}", statement.sql))?;
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
        let difference = self.compare_query(&form.sql, raw).with_context(|| form.title)?;
        self.reset(&form.settings)?;
        Ok(difference)
    }

    /// Compares (id integer, score real) of a query with the raw answers, which are in the order of the ids.
    pub fn compare_query(&mut self, sql: &str, raw: &[f32]) -> Result<Difference> {
        let mut seen = vec![false; raw.len()];
        let mut largest = 0.0_f64;
        let mut rows = 0;
        let nothing: [&(dyn ToSql + Sync); 0] = [];
        let mut answers = self.client.query_raw(sql, nothing).with_context(|| sql.to_owned())?;
        while let Some(row) = answers.next().with_context(|| sql.to_owned())? {
            let id: i32 = row.try_get(0)?;
            let score: f32 = row.try_get(1).with_context(|| format!("the score of row {id}"))?;
            let place = usize::try_from(id)?.checked_sub(1).filter(|place| *place < raw.len());
            let place = place.with_context(|| format!("row {id} is not one of ours"))?;
            ensure!(!seen[place], "row {id} came twice");
            seen[place] = true;
            rows += 1;
            largest = largest.max(difference(score, raw[place]));
        }
        ensure!(rows == raw.len() as u64, "{rows} rows came back of {}", raw.len());
        Ok(Difference { rows, largest })
    }

    /// One value as text.
    pub fn text(&mut self, sql: &str) -> Result<String> {
        let value: String = self.client.query_one(sql, &[]).with_context(|| sql.to_owned())?.try_get(0)?;
        Ok(value)
    }

    /// The settings that belong in the results.
    pub fn settings(&mut self) -> Result<BTreeMap<String, String>> {
        let sql =
            "SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY ($1) OR name LIKE 'pg\\_predict.%'";
        let rows = self.client.query(sql, &[&SETTINGS])?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get::<_, Option<String>>(1)?.unwrap_or_default()))).collect()
    }

    /// Sets what shall hold for this session.
    pub fn set(&mut self, settings: &[(&str, &str)]) -> Result<()> {
        for (name, value) in settings {
            self.client.batch_execute(&format!("SET {name} = {value}"))?;
        }
        Ok(())
    }

    /// Puts back what was set.
    pub fn reset(&mut self, settings: &[(&str, &str)]) -> Result<()> {
        for (name, _) in settings {
            self.client.batch_execute(&format!("RESET {name}"))?;
        }
        Ok(())
    }
}

/// Checks that a statement came to what it must come to.
fn check(statement: &Statement, messages: &[SimpleQueryMessage], sum: f64) -> Result<()> {
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
        (Expect::Sum, [Some(value)]) if same_sum(value.parse()?, sum) => Ok(()),
        (Expect::Made(expected), []) if made == *expected => Ok(()),
        (Expect::Value, _) => bail!("wanted one value, got {values:?}"),
        (Expect::Sum, _) => bail!("wanted the sum {sum}, got {values:?}"),
        (Expect::Made(expected), _) => bail!("wanted {expected} rows made, got {made}"),
    }
}

/// Whether two sums of answers are the same.
pub fn same_sum(ours: f64, raw: f64) -> bool {
    (ours - raw).abs() <= TOLERANCE * raw.abs().max(1.0)
}

/// The difference of two answers, relative to the larger of 1 and the raw one; a NaN on one side only is infinitely far.
fn difference(ours: f32, raw: f32) -> f64 {
    if ours.is_nan() && raw.is_nan() {
        return 0.0;
    }
    let difference = f64::from(ours) - f64::from(raw);
    if difference.is_nan() { f64::INFINITY } else { difference.abs() / f64::from(raw).abs().max(1.0) }
}
