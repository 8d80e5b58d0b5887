//! The peers: other ways from rows in PostgreSQL to predictions, run by a program of their own (`peers/peers.py`).
//!
//! That program takes one JSON object a line and answers each with one line. It holds its sessions and connections open,
//! so peers are warm as we are.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::address::Address;

/// How a peer counts.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// It starts from rows in PostgreSQL, in its best form: it competes.
    Competes,
    /// What ordinary users write: a row a call, or by pandas.
    Ordinary,
    /// It reads a copy of its own: the data has already left the database.
    Left,
}

/// A peer as it introduces itself.
#[derive(Clone, Deserialize, Serialize)]
pub struct Peer {
    /// Its key.
    pub name: String,
    /// What it is, for a reader.
    pub title: String,
    /// `score`, `write`.
    pub tasks: Vec<String>,
    /// The workloads that it can do.
    pub workloads: Vec<String>,
    /// The numbers of threads that it can use.
    pub threads: Vec<u32>,
}

/// A peer that could not be had.
#[derive(Clone, Deserialize, Serialize)]
pub struct Missing {
    /// Its key.
    pub name: String,
    /// Why it is not there.
    pub why: String,
}

/// Everything that the program says of itself.
#[derive(Clone, Default, Deserialize, Serialize)]
pub struct Hello {
    /// Versions of what the peers use.
    #[serde(default)]
    pub versions: Value,
    /// The peers.
    pub peers: Vec<Peer>,
    /// Those that could not be had.
    #[serde(default)]
    pub missing: Vec<Missing>,
}

/// What a peer is asked to do.
#[derive(Clone, Serialize)]
pub struct Job {
    /// The peer.
    pub peer: String,
    /// The workload.
    pub workload: &'static str,
    /// `score` or `write`.
    pub task: &'static str,
    /// Threads that it may use.
    pub threads: u32,
    /// How it counts.
    #[serde(skip)]
    pub class: Class,
}

/// What a run of a peer came to.
#[derive(Deserialize)]
pub struct Ran {
    /// By the peer's own clock.
    pub seconds: f64,
    /// Rows that it scored.
    pub rows: u64,
    /// The sum of the scores; none where it wrote them.
    pub sum: Option<f64>,
}

/// The table that a peer's `write` leaves.
pub const OUT: &str = "bench_peer_out";

/// Peers of a short run.
const QUICK: &[&str] = &["adbc", "copy", "plpython_cursor"];
/// Workloads of the peers in a short run.
const QUICK_WORKLOADS: &[&str] = &["linear", "flights"];

/// The program, running.
pub struct Peers {
    child: Child,
    into: ChildStdin,
    from: BufReader<ChildStdout>,
    /// What it said at first.
    pub hello: Hello,
}

impl Peer {
    /// How it counts, by its name.
    pub fn class(&self) -> Class {
        match self.name.as_str() {
            "duckdb_copy" => Class::Left,
            "pandas" | "plpython_row" | "spark" => Class::Ordinary,
            _ => Class::Competes,
        }
    }
}

impl Peers {
    /// Starts the program with a Python that has what it needs; `root` is the checkout.
    pub fn start(python: &Path, root: &Path, address: &Address) -> Result<Self> {
        let benches = root.join("benches");
        let mut child = Command::new(python)
            .arg(benches.join("peers/peers.py"))
            .args(["--socket", &address.socket, "--port", &address.port.to_string()])
            .args(["--user", "postgres", "--database", "postgres", "--models"])
            .arg(benches.join("models"))
            .arg("--flights")
            .arg(root.join("models/late.onnx"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("could not start {}", python.display()))?;
        let into = child.stdin.take().context("the peers have no input")?;
        let from = BufReader::new(child.stdout.take().context("the peers have no output")?);
        let mut peers = Self { child, into, from, hello: Hello::default() };
        let hello = peers.ask(&json!({ "do": "hello" }))?;
        peers.hello = serde_json::from_value(hello).context("the peers' introduction")?;
        Ok(peers)
    }

    /// What they can do of a workload.
    pub fn jobs(&self, workload: &'static str, quick: bool) -> Vec<(Job, String)> {
        let mut jobs = Vec::new();
        for peer in &self.hello.peers {
            let asked = !quick || QUICK.contains(&peer.name.as_str()) && QUICK_WORKLOADS.contains(&workload);
            if !asked || !peer.workloads.iter().any(|name| name == workload) {
                continue;
            }
            for task in ["score", "write"] {
                if !peer.tasks.iter().any(|name| name == task) {
                    continue;
                }
                let class = peer.class();
                let least = peer.threads.iter().min();
                for &threads in &peer.threads {
                    // More threads matter where a peer competes, and are compared when it scores.
                    if Some(&threads) == least || class == Class::Competes && task == "score" {
                        let job = Job { peer: peer.name.clone(), workload, task, threads, class };
                        jobs.push((job, peer.title.clone()));
                    }
                }
            }
        }
        jobs
    }

    /// Runs one; none where it could not, which is noted among the missing ones.
    pub fn run(&mut self, job: &Job) -> Result<Option<Ran>> {
        let mut request = serde_json::to_value(job)?;
        request["do"] = "run".into();
        let answer = self.ask(&request)?;
        if let Some(error) = answer.get("error") {
            let name = format!("{} ({}, {}, {} threads)", job.peer, job.workload, job.task, job.threads);
            eprintln!("bench: {name} failed: {error}");
            self.hello.missing.push(Missing { name, why: error.to_string() });
            return Ok(None);
        }
        let ran = serde_json::from_value(answer);
        ran.map(Some).with_context(|| format!("the answer of {}", job.peer))
    }

    fn ask(&mut self, request: &Value) -> Result<Value> {
        writeln!(self.into, "{request}")?;
        self.into.flush()?;
        let mut line = String::new();
        if self.from.read_line(&mut line)? == 0 {
            bail!("the program of the peers ended");
        }
        serde_json::from_str(&line).with_context(|| format!("the peers said: {}", line.trim_end()))
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        let asked = writeln!(self.into, "{}", json!({ "do": "quit" })).and_then(|()| self.into.flush());
        if asked.is_err() || self.child.wait().is_err() {
            eprintln!("bench: the program of the peers did not end by itself");
        }
    }
}
