//! Texts: embedding a table of tweets by one statement, beside the same session fed in the order of the table.
//!
//! The raw contenders tokenise with the same library, pool and normalise as the statement does, and pad each batch to
//! its longest text; all with one thread, taking turns. Only the order and the size of batches differ.

use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ort::environment::Environment;
use ort::session::Session;
use ort::value::TensorRef;
use serde::Serialize;
use tokenizers::{Tokenizer, TruncationParams};

use crate::raw;
use crate::results::median;
use crate::server::Server;

/// Tokens that a text is cut to, as the model's own tokenizer cuts them.
const MAX_LENGTH: usize = 128;
/// Warm rounds at most: a round takes minutes.
const RUNS: usize = 3;
/// Vectors whose cosine is less are not the same.
const COSINE: f64 = 0.9999;
/// The statement under test.
const STATEMENT: &str = "CREATE TEMPORARY TABLE bench_vectors AS SELECT p.* FROM predictions((SELECT predict_batch('bench_minilm', t) \
     FROM bench_tweets t)) AS p(id integer, last_hidden_state real[])";

/// What was measured of texts.
#[derive(Serialize)]
pub struct TextResults {
    /// Texts in the table.
    pub texts: usize,
    /// Warm runs of each contender.
    pub runs: usize,
    /// The statement.
    pub sql: &'static str,
    /// The times.
    pub contenders: Vec<TextTiming>,
    /// How many times as fast the statement is as the session fed in batches of 32.
    pub over_batches: f64,
    /// How many times as fast it is as the session fed text by text.
    pub over_single: f64,
    /// The least cosine between the vectors of a text by statement and by session.
    pub least_cosine: f64,
}

/// The times of one contender.
#[derive(Serialize)]
pub struct TextTiming {
    /// What it is.
    pub title: &'static str,
    /// Seconds of every warm run.
    pub seconds: Vec<f64>,
    /// The median of them.
    pub median: f64,
    /// Texts in a second, by the median.
    pub per_second: f64,
}

/// Measures; `limit` texts of the table.
pub fn measure(environment: &Environment, server: &mut Server, folder: &Path, runs: usize) -> Result<TextResults> {
    let runs = runs.min(RUNS);
    let (model, tokenizer) = (folder.join("model.onnx"), folder.join("tokenizer.json"));
    server.create_text_model("bench_minilm", &model, &tokenizer, MAX_LENGTH)?;
    let texts = server.texts("SELECT text FROM bench_tweets ORDER BY id")?;
    ensure!(!texts.is_empty(), "there is no text in bench_tweets");
    let mut alone = Alone::open(environment, &model, &tokenizer)?;
    let mut times: [Vec<f64>; 3] = Default::default();
    let mut vectors = Vec::new();
    // Texts enough to warm sessions and the allocator.
    alone.run(&texts[..texts.len().min(200)], 32)?;
    server.embed_some("bench_minilm")?;
    for round in 1..=runs {
        let (took, made) = alone.run(&texts, 32)?;
        times[0].push(took.as_secs_f64());
        vectors = made;
        times[1].push(alone.run(&texts, 1)?.0.as_secs_f64());
        times[2].push(server.make("bench_vectors", STATEMENT)?.as_secs_f64());
        eprintln!("bench: text: round {round} of {runs} done");
    }
    let ours = server.vectors("SELECT id, last_hidden_state FROM bench_vectors ORDER BY id", texts.len())?;
    let cosine = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum() };
    let least_cosine = ours.iter().zip(&vectors).map(|(a, b)| cosine(a, b)).fold(f64::INFINITY, f64::min);
    let titles = [
        "raw ONNX Runtime, order of the table, batches of 32 padded to their longest",
        "raw ONNX Runtime, order of the table, one text a run",
        "one statement",
    ];
    let contenders: Vec<TextTiming> = titles
        .into_iter()
        .zip(times)
        .map(|(title, seconds)| {
            let median = median(&seconds);
            TextTiming { title, seconds, median, per_second: texts.len() as f64 / median }
        })
        .collect();
    Ok(TextResults {
        texts: texts.len(),
        runs,
        sql: STATEMENT,
        over_batches: contenders[0].median / contenders[2].median,
        over_single: contenders[1].median / contenders[2].median,
        contenders,
        least_cosine,
    })
}

impl TextResults {
    /// Whether both made the same vectors.
    pub fn agrees(&self) -> bool {
        self.least_cosine > COSINE
    }

    /// Writes its part of the page.
    pub fn write(&self, p: &mut String) -> Result<()> {
        writeln!(p, "\n## Sentence embeddings of {} tweets (MiniLM, 23 MB)\n", self.texts)?;
        writeln!(p, "Seconds for all, tokenising counted; medians of {} runs, one thread each.\n", self.runs)?;
        writeln!(p, "| what | median | min | max | texts a second |")?;
        writeln!(p, "|---|--:|--:|--:|--:|")?;
        for c in &self.contenders {
            let min = c.seconds.iter().copied().fold(f64::INFINITY, f64::min);
            let max = c.seconds.iter().copied().fold(0.0, f64::max);
            writeln!(p, "| {} | {:.1} | {min:.1} | {max:.1} | {:.0} |", c.title, c.median, c.per_second)?;
        }
        writeln!(
            p,
            "\nThe statement is **{:.2}** times as fast as batches of 32, and {:.2} times as fast as one text a run; least cosine between the vectors {:.6}{}.",
            self.over_batches,
            self.over_single,
            self.least_cosine,
            if self.agrees() { "" } else { " **WRONG**" }
        )?;
        Ok(())
    }
}

/// The model in a session of its own.
struct Alone {
    session: Session,
    tokenizer: Tokenizer,
}

impl Alone {
    fn open(environment: &Environment, model: &Path, tokenizer: &Path) -> Result<Self> {
        tokenizers::utils::parallelism::set_parallelism(false);
        let mut tokenizer = Tokenizer::from_file(tokenizer).map_err(|e| anyhow::anyhow!("{e}"))?;
        let cut = TruncationParams { max_length: MAX_LENGTH, ..TruncationParams::default() };
        tokenizer.with_truncation(Some(cut)).map_err(|e| anyhow::anyhow!("{e}"))?;
        tokenizer.with_padding(None);
        Ok(Self { session: raw::open(environment, model)?, tokenizer })
    }

    /// Embeds texts in their order.
    fn run(&mut self, texts: &[String], batch: usize) -> Result<(Duration, Vec<Vec<f32>>)> {
        let started = Instant::now();
        let mut vectors = Vec::with_capacity(texts.len());
        let run = || -> Result<()> {
            for part in texts.chunks(batch) {
                self.embed(part, &mut vectors)?;
            }
            Ok(())
        };
        // As the extension runs it.
        raw::without_subnormals(run)?;
        Ok((started.elapsed(), vectors))
    }

    fn embed(&mut self, texts: &[String], vectors: &mut Vec<Vec<f32>>) -> Result<()> {
        let encoded = texts
            .iter()
            .map(|t| self.tokenizer.encode_fast(t.as_str(), true).map_err(|e| anyhow::anyhow!("{e}")))
            .collect::<Result<Vec<_>>>()?;
        let longest = encoded.iter().map(|e| e.get_ids().len()).max().unwrap_or(1);
        let shape = [texts.len() as i64, longest as i64];
        let (mut ids, mut mask) = (Vec::new(), Vec::new());
        for e in &encoded {
            let padding = longest - e.get_ids().len();
            ids.extend(e.get_ids().iter().map(|x| i64::from(*x)).chain(std::iter::repeat_n(0, padding)));
            mask.extend(e.get_attention_mask().iter().map(|x| i64::from(*x)).chain(std::iter::repeat_n(0, padding)));
        }
        let types = vec![0_i64; ids.len()];
        let outputs = self.session.run(ort::inputs![
            "input_ids" => TensorRef::from_array_view((shape, ids.as_slice()))?,
            "attention_mask" => TensorRef::from_array_view((shape, mask.as_slice()))?,
            "token_type_ids" => TensorRef::from_array_view((shape, types.as_slice()))?,
        ])?;
        let value = outputs.get("last_hidden_state").context("the model has no output last_hidden_state")?;
        let (dims, states) = value.try_extract_tensor::<f32>()?;
        let width = usize::try_from(dims[2])?;
        for (row, e) in encoded.iter().enumerate() {
            let count = e.get_ids().len();
            let mut mean = vec![0.0_f32; width];
            for token in 0..count {
                let state = &states[(row * longest + token) * width..][..width];
                mean.iter_mut().zip(state).for_each(|(sum, x)| *sum += x / count as f32);
            }
            let length = mean.iter().map(|x| x * x).sum::<f32>().sqrt();
            mean.iter_mut().for_each(|x| *x /= length);
            vectors.push(mean);
        }
        Ok(())
    }
}
