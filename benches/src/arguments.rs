//! The command line.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::address::Address;

const USAGE: &str = "pg_predict_bench --socket DIR --port N --programs DIR --library FILE --root DIR --minilm DIR \
     --big-model FILE --out DIR --runs N --commit TEXT [--peers PYTHON] [--only NAME,..] [--quick]";

/// Words that a value follows.
const NAMES: &[&str] = &[
    "--socket",
    "--port",
    "--programs",
    "--library",
    "--root",
    "--minilm",
    "--big-model",
    "--out",
    "--runs",
    "--commit",
    "--peers",
    "--only",
];

/// What the command line says.
pub struct Arguments {
    /// The server.
    pub address: Address,
    /// ONNX Runtime's library.
    pub library: PathBuf,
    /// The checkout.
    pub root: PathBuf,
    /// The folder of MiniLM.
    pub minilm: PathBuf,
    /// The model of 100 MB.
    pub big_model: PathBuf,
    /// Where the results go.
    pub out: PathBuf,
    /// Warm rounds.
    pub runs: usize,
    /// The commit that is measured.
    pub commit: String,
    /// The Python that runs the peers.
    pub peers: Option<PathBuf>,
    /// Names of workloads, `text` or `sessions`.
    pub only: Option<String>,
    /// Whether it is the short run.
    pub quick: bool,
}

impl Arguments {
    /// Reads the words.
    pub fn read(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut values = BTreeMap::new();
        let mut quick = false;
        while let Some(word) = words.next() {
            if word == "--quick" {
                quick = true;
            } else if NAMES.contains(&word.as_str()) {
                let value = words.next().with_context(|| format!("{word} needs a value\n{USAGE}"))?;
                values.insert(word, value);
            } else {
                bail!("unknown argument {word}\n{USAGE}");
            }
        }
        let (peers, only) = (values.remove("--peers"), values.remove("--only"));
        let mut take = |name: &str| values.remove(name).with_context(|| format!("{name} is missing\n{USAGE}"));
        Ok(Self {
            address: Address {
                socket: take("--socket")?,
                port: take("--port")?.parse().context("--port")?,
                programs: take("--programs")?.into(),
            },
            library: take("--library")?.into(),
            root: take("--root")?.into(),
            minilm: take("--minilm")?.into(),
            big_model: take("--big-model")?.into(),
            out: take("--out")?.into(),
            runs: take("--runs")?.parse().ok().filter(|runs| *runs > 0).context("--runs must be a positive number")?,
            commit: take("--commit")?,
            peers: peers.map(PathBuf::from),
            only,
            quick,
        })
    }
}
