//! Texts: embedding a table of tweets by one statement, beside the same model in a session of its own, sorted by length.
//!
//! The raw contender tokenises with the same library, sorts all texts by length, runs them in batches of at most so many
//! tokens with their padding, pools and normalises as the statement does. Its budget is the best of a sweep. Both use one
//! thread and take turns.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ort::environment::Environment;
use ort::session::Session;
use ort::value::TensorRef;
use serde::Serialize;
use tokenizers::{Encoding, Tokenizer, TruncationParams};

use crate::figures::Figure;
use crate::measurements::raw;
use crate::measurements::server::Server;

/// Tokens that a text is cut to, as the model's own tokenizer cuts them.
const MAX_LENGTH: usize = 128;
/// Padded tokens in a batch that the sweep tries, and the texts that it reads.
const BUDGETS: [usize; 5] = [128, 256, 512, 1024, 4096];
const SWEEP_TEXTS: usize = 800;
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
    /// The statement.
    pub sql: &'static str,
    /// Its seconds.
    pub statement: Figure,
    /// Seconds of raw ONNX Runtime, sorted.
    pub raw: Figure,
    /// Texts a second of raw ONNX Runtime over some of the texts, by the budget of padded tokens.
    pub budgets: Vec<(usize, f64)>,
    /// The budget that was the best.
    pub budget: usize,
    /// How many times as fast the statement is as raw ONNX Runtime.
    pub over_raw: f64,
    /// The least cosine between the vectors of a text by statement and by session.
    pub least_cosine: f64,
}

/// Measures all texts of the table.
pub fn measure(environment: &Environment, server: &mut Server, folder: &Path, runs: usize) -> Result<TextResults> {
    let (model, tokenizer) = (folder.join("model.onnx"), folder.join("tokenizer.json"));
    let options = serde_json::json!({ "pooling": "mean", "normalize": true, "max_length": MAX_LENGTH });
    server.create("bench_minilm", &model, &options, Some(&tokenizer))?;
    let texts: Vec<String> = server
        .client()
        .query("SELECT text FROM bench_tweets ORDER BY id", &[])?
        .iter()
        .map(|row| Ok(row.try_get(0)?))
        .collect::<Result<_>>()?;
    ensure!(!texts.is_empty(), "there is no text in bench_tweets");
    let mut alone = Alone::open(environment, &model, &tokenizer)?;
    // Texts enough to warm sessions and the allocator.
    alone.run(&texts[..texts.len().min(200)], 512)?;
    server.client().query("SELECT count(embed('bench_minilm', text)) FROM bench_tweets WHERE id <= 50", &[])?;

    let some = &texts[..texts.len().min(SWEEP_TEXTS)];
    let mut budgets = Vec::new();
    for budget in BUDGETS {
        let (took, _) = alone.run(some, budget)?;
        budgets.push((budget, some.len() as f64 / took.as_secs_f64()));
    }
    let best = budgets.iter().max_by(|a, b| a.1.total_cmp(&b.1));
    let budget = best.context("no budget was tried")?.0;

    let (mut by_raw, mut by_statement, mut vectors) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=runs {
        let (took, made) = alone.run(&texts, budget)?;
        by_raw.push(took.as_secs_f64());
        vectors = made;
        server.client().batch_execute("DROP TABLE IF EXISTS bench_vectors")?;
        let started = Instant::now();
        server.client().batch_execute(STATEMENT)?;
        by_statement.push(started.elapsed().as_secs_f64());
        eprintln!("bench: text: round {round} of {runs} done");
    }
    let ours = read_vectors(server, texts.len())?;
    let cosine = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum() };
    let least_cosine = ours.iter().zip(&vectors).map(|(a, b)| cosine(a, b)).fold(f64::INFINITY, f64::min);
    let (statement, raw) = (Figure::from(by_statement), Figure::from(by_raw));
    Ok(TextResults {
        texts: texts.len(),
        sql: STATEMENT,
        over_raw: raw.median / statement.median,
        statement,
        raw,
        budgets,
        budget,
        least_cosine,
    })
}

/// The vectors of the statement, by key from 1 on.
fn read_vectors(server: &mut Server, expected: usize) -> Result<Vec<Vec<f32>>> {
    let rows = server.client().query("SELECT id, last_hidden_state FROM bench_vectors ORDER BY id", &[])?;
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

impl TextResults {
    /// Whether both made the same vectors.
    pub fn agrees(&self) -> bool {
        self.least_cosine > COSINE
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

    /// Embeds texts, sorted by length, in batches of at most so many padded tokens; the vectors are in the texts' order.
    fn run(&mut self, texts: &[String], budget: usize) -> Result<(Duration, Vec<Vec<f32>>)> {
        let started = Instant::now();
        let mut vectors = vec![Vec::new(); texts.len()];
        let encoded = texts
            .iter()
            .map(|text| self.tokenizer.encode_fast(text.as_str(), true).map_err(|e| anyhow::anyhow!("{e}")))
            .collect::<Result<Vec<_>>>()?;
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|place| encoded[*place].len());
        // As the extension runs it.
        raw::without_subnormals(|| -> Result<()> {
            let mut from = 0;
            while from < order.len() {
                // The longest text of a batch is its last.
                let fits = |to: &usize| (to - from) * encoded[order[to - 1]].len() <= budget;
                let to = (from + 2..=order.len()).take_while(fits).last().unwrap_or(from + 1);
                self.embed(&encoded, &order[from..to], &mut vectors)?;
                from = to;
            }
            Ok(())
        })?;
        Ok((started.elapsed(), vectors))
    }

    /// Embeds one batch: the texts in these places.
    fn embed(&mut self, encoded: &[Encoding], places: &[usize], vectors: &mut [Vec<f32>]) -> Result<()> {
        let longest = places.iter().map(|place| encoded[*place].len()).max().unwrap_or(1);
        let shape = [places.len() as i64, longest as i64];
        let (mut ids, mut mask) = (Vec::new(), Vec::new());
        for e in places.iter().map(|place| &encoded[*place]) {
            let padding = longest - e.len();
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
        for (row, place) in places.iter().enumerate() {
            let count = encoded[*place].len();
            let mut mean = vec![0.0_f32; width];
            for token in 0..count {
                let state = &states[(row * longest + token) * width..][..width];
                mean.iter_mut().zip(state).for_each(|(sum, x)| *sum += x / count as f32);
            }
            let length = mean.iter().map(|x| x * x).sum::<f32>().sqrt();
            mean.iter_mut().for_each(|x| *x /= length);
            vectors[*place] = mean;
        }
        Ok(())
    }
}
