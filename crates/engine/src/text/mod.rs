//! Tokenizes texts with a Hugging Face tokenizer, and groups texts of similar length into runs.
//!
//! The tokenizer does not pad. The texts of a run are padded to the same length when its tensors are built.

use std::num::NonZeroUsize;

use tokenizers::{PaddingDirection, PostProcessor, Tokenizer, TruncationDirection, TruncationParams};

use crate::error::{Error, Result};
use crate::options::Options;

/// The token limit if neither the tokenizer nor the options set one. Most encoders were trained with it.
const MAX_LENGTH: usize = 512;

/// Bytes of a text up to which it is tokenized as a whole.
const LONG_TEXT: usize = 64 << 10;

/// Names of the padding token in common tokenizers.
const PADDING: [&str; 4] = ["[PAD]", "<pad>", "<|padding|>", "<|endoftext|>"];

/// A tokenizer with its truncation and padding.
pub struct Text {
    tokenizer: Tokenizer,
    /// The id of the padding token.
    pub(crate) pad_id: u32,
    /// The token type of padding.
    pub(crate) pad_type: u32,
    /// Whether padding comes before the text.
    pub(crate) pad_left: bool,
    /// The maximum number of tokens per text.
    pub(crate) max_length: usize,
    /// Whether truncation removes the end of a text, not its beginning.
    cuts_end: bool,
}

/// The tokens of a text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tokens {
    /// The token ids.
    pub ids: Vec<u32>,
    /// The attention mask: 1 for text.
    pub mask: Vec<u32>,
    /// The token types: 0 for the first text, 1 for the second.
    pub types: Vec<u32>,
}

impl Text {
    /// Parses a `tokenizer.json`.
    pub fn parse(json: &[u8], options: &Options) -> Result<Self> {
        // The library's own threads would use other cores of the server.
        tokenizers::utils::parallelism::set_parallelism(false);
        let bad = |reason: String| Error::Tokenizer { reason };
        // The library panics on some texts that are not JSON.
        serde_json::from_slice::<serde_json::Value>(json).map_err(|e| bad(e.to_string()))?;
        let mut tokenizer = guarded(|| Tokenizer::from_bytes(json)).map_err(bad)?;
        let own = tokenizer.get_truncation().cloned();
        let max_length = options.max_length.or(own.as_ref().map(|t| t.max_length)).unwrap_or(MAX_LENGTH);
        let added = tokenizer.get_post_processor().map_or(0, |p| p.added_tokens(true));
        if NonZeroUsize::new(max_length.saturating_sub(added)).is_none() {
            return Err(Error::Option {
                key: "max_length".to_owned(),
                reason: format!(
                    "The tokenizer adds {added} tokens of its own to a text, so {max_length} leave no room"
                ),
            });
        }
        let truncation = TruncationParams { max_length, stride: 0, ..own.unwrap_or_default() };
        let cuts_end = matches!(truncation.direction, TruncationDirection::Right);
        tokenizer.with_truncation(Some(truncation)).map_err(|e| bad(e.to_string()))?;
        let padding = tokenizer.get_padding().cloned();
        tokenizer.with_padding(None);
        let known = PADDING.iter().find_map(|token| tokenizer.token_to_id(token));
        Ok(match padding {
            Some(p) => Self {
                pad_id: p.pad_id,
                pad_type: p.pad_type_id,
                pad_left: matches!(p.direction, PaddingDirection::Left),
                max_length,
                cuts_end,
                tokenizer,
            },
            None => Self { pad_id: known.unwrap_or(0), pad_type: 0, pad_left: false, max_length, cuts_end, tokenizer },
        })
    }

    /// Lowers the maximum number of tokens to `most`.
    pub(crate) fn limit(&mut self, most: usize) -> Result<()> {
        if self.max_length <= most {
            return Ok(());
        }
        let own = self.tokenizer.get_truncation().cloned().unwrap_or_default();
        let added = self.tokenizer.get_post_processor().map_or(0, |p| p.added_tokens(true));
        if most <= added {
            return Err(Error::Tokenizer {
                reason: format!("it adds {added} tokens to a text, and the model takes {most}"),
            });
        }
        let cut = TruncationParams { max_length: most, ..own };
        self.tokenizer.with_truncation(Some(cut)).map_err(|e| Error::Tokenizer { reason: e.to_string() })?;
        self.max_length = most;
        Ok(())
    }

    /// Returns the beginning of a text, cut at the end of a word. A tokenizer needs many times the memory of its text,
    /// and nearly all tokens of a long text are truncated. If truncation removes the beginning, the whole text is
    /// needed.
    fn head<'t>(&self, text: &'t str, size: usize) -> &'t str {
        if text.len() <= size || !self.cuts_end {
            return text;
        }
        let end = text.floor_char_boundary(size);
        let end = text[..end].rfind(char::is_whitespace).filter(|end| *end > 0).unwrap_or(end);
        &text[..end]
    }

    /// Tokenizes a text or a pair of texts.
    pub fn encode(&self, text: &str, pair: Option<&str>) -> Result<Tokens> {
        let mut size = LONG_TEXT;
        let encoding = loop {
            let (first, second) = (self.head(text, size), pair.map(|p| self.head(p, size)));
            let encoding = guarded(|| match second {
                Some(second) => self.tokenizer.encode_fast((first, second), true),
                None => self.tokenizer.encode_fast(first, true),
            });
            let encoding = encoding.map_err(|reason| Error::Run { reason })?;
            // The cut part does not matter if the beginnings alone already have too many tokens.
            let whole = first.len() == text.len() && second.map(str::len) == pair.map(str::len);
            let tokens: usize = encoding.get_overflowing().iter().map(|o| o.get_ids().len()).sum();
            if whole || tokens > self.max_length {
                break encoding;
            }
            size = size.saturating_mul(4);
        };
        Ok(Tokens {
            ids: encoding.get_ids().to_vec(),
            mask: encoding.get_attention_mask().to_vec(),
            types: encoding.get_type_ids().to_vec(),
        })
    }
}

/// Calls the tokenizer library and turns a panic into an error.
fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> std::result::Result<T, String> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_) => Err("the tokenizer panicked".to_owned()),
    }
}

/// Groups rows into runs by length, so that little padding is needed. The longest row of a run times its number of rows
/// stays within `budget`, except in a run of one row. No run has more than `most` rows.
#[must_use]
pub fn by_length(lengths: &[usize], budget: usize, most: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    // The longest rows come first, so that the run that needs the most memory comes first.
    order.sort_by_key(|row| std::cmp::Reverse(lengths[*row]));
    let mut runs: Vec<Vec<usize>> = Vec::new();
    let mut longest = 0;
    for row in order {
        match runs.last_mut() {
            Some(run) if run.len() < most && longest * (run.len() + 1) <= budget => run.push(row),
            _ => {
                longest = lengths[row].max(1);
                runs.push(vec![row]);
            }
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A tokenizer of whole words.
    pub(crate) const WORDS: &str = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
        "pre_tokenizer":{"type":"Whitespace"},"post_processor":null,"decoder":null,
        "model":{"type":"WordLevel","vocab":{"[PAD]":3,"[UNK]":0,"a":1,"b":2},"unk_token":"[UNK]"}}"#;

    #[test]
    fn a_text_is_cut_to_its_length_and_padded_by_its_own_token() {
        let text = Text::parse(WORDS.as_bytes(), &Options { max_length: Some(2), ..Options::default() }).unwrap();
        assert_eq!(text.encode("a b a", None).unwrap().ids, [1, 2]);
        assert_eq!(text.encode("", None).unwrap().ids, [0; 0]);
        assert_eq!(text.encode("a", Some("z")).unwrap().ids, [1, 0]);
        assert_eq!((text.pad_id, text.pad_left), (3, false));
    }

    #[test]
    fn the_end_of_a_long_text_changes_nothing() {
        let options = |n| Options { max_length: Some(n), ..Options::default() };
        let text = |n| Text::parse(WORDS.as_bytes(), &options(n)).unwrap();
        let long = format!("{}{}{}", "a b z ".repeat(20), " ".repeat(3 * LONG_TEXT), "b a ".repeat(2 * LONG_TEXT));
        for n in [3, 70, 5_000] {
            let ids: Vec<u32> = long
                .split_whitespace()
                .take(n)
                .map(|w| ["z", "a", "b"].iter().position(|x| *x == w).unwrap() as u32)
                .collect();
            assert_eq!(text(n).encode(&long, None).unwrap().ids, ids, "{n}");
        }
        // A word without an end, made of multi-byte letters.
        assert_eq!(text(3).encode(&"é".repeat(LONG_TEXT), None).unwrap().ids, [0]);
    }

    #[test]
    fn what_is_no_tokenizer_is_refused() {
        // The library panics on the last of these.
        let no_json = WORDS.replace("\"decoder\":null", "\"decoder\":nul");
        for json in ["", "{}", "[]", "null", r#"{"model":{"type":"Nope"}}"#, &WORDS[..WORDS.len() / 2], &no_json] {
            assert!(
                matches!(Text::parse(json.as_bytes(), &Options::default()), Err(Error::Tokenizer { .. })),
                "{json}"
            );
        }
        let none = Options { max_length: Some(0), ..Options::default() };
        assert!(matches!(Text::parse(WORDS.as_bytes(), &none), Err(Error::Option { .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn every_row_is_in_one_run_and_no_run_is_over_its_budget(
            lengths in prop::collection::vec(0usize..600, 0..300), budget in 1usize..4000, most in 1usize..70,
        ) {
            let runs = by_length(&lengths, budget, most);
            let mut rows: Vec<usize> = runs.iter().flatten().copied().collect();
            rows.sort_unstable();
            prop_assert_eq!(rows, (0..lengths.len()).collect::<Vec<_>>());
            for run in runs {
                let longest = run.iter().map(|r| lengths[*r]).max().unwrap_or(0);
                prop_assert!(run.len() <= most && (run.len() == 1 || longest * run.len() <= budget));
            }
        }

        #[test]
        fn a_damaged_tokenizer_is_refused_or_takes_any_text(
            at in 0usize..400, with in "[\\PC]{0,3}", cut in 0usize..6, text in "\\PC{0,40}", length in 1usize..5,
        ) {
            let places: Vec<usize> = WORDS.char_indices().map(|(i, _)| i).collect();
            let (at, end) = (places[at % places.len()], places[(at + cut).min(places.len() - 1) % places.len()]);
            let damaged = format!("{}{with}{}", &WORDS[..at], &WORDS[end.max(at)..]);
            match Text::parse(damaged.as_bytes(), &Options { max_length: Some(length), ..Options::default() }) {
                Ok(tokenizer) => {
                    if let Ok(tokens) = tokenizer.encode(&text, None) {
                        prop_assert!(tokens.ids.len() <= length);
                        prop_assert_eq!(tokens.ids.len(), tokens.mask.len());
                    }
                }
                Err(error) => {
                    let told = matches!(error, Error::Tokenizer { .. } | Error::Option { .. });
                    prop_assert!(told);
                }
            }
        }
    }
}
