//! Parses model references: `name[@version | @alias][/output[element]]`.

use crate::error::{Error, Result};
use crate::signature::{OutputRow, Signature};
use crate::tensor::ElementType;

/// A parsed model reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The model's name.
    pub name: String,
    /// The version or alias.
    pub version: VersionRef,
    /// The text after the slash: an output, optionally with an element in brackets.
    pub output: Option<String>,
}

/// The version or alias in a reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VersionRef {
    /// A version number.
    Number(i32),
    /// An alias; `default` if the reference has neither.
    Alias(String),
}

/// The alias of a reference that is a bare name.
pub const DEFAULT_ALIAS: &str = "default";

/// The output, and optionally the element, that a reference selects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// The output's position in the signature.
    pub output: usize,
    /// The selected element of each row.
    pub element: Option<Element>,
}

/// An element of a row's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Element {
    /// A position in a tensor, from 0.
    Position(usize),
    /// An integer key of a map.
    Integer(i64),
    /// A text key of a map.
    Text(String),
}

/// Validates the name of a model or an alias.
pub fn check_name(name: &str) -> std::result::Result<(), &'static str> {
    if name.is_empty() {
        Err("it is empty")
    } else if name.len() > 63 {
        Err("it is longer than 63 bytes")
    } else if name.contains(['@', '/', '[', ']']) {
        Err("it contains one of the characters @ / [ ]")
    } else if name.chars().any(char::is_control) || name.trim() != name {
        Err("it contains a control character, or begins or ends with a space")
    } else {
        Ok(())
    }
}

/// Validates an alias: a valid name that does not begin with a digit.
pub fn check_alias(alias: &str) -> std::result::Result<(), &'static str> {
    check_name(alias)?;
    if alias.starts_with(|c: char| c.is_ascii_digit()) {
        Err("it begins with a digit, as version numbers do")
    } else {
        Ok(())
    }
}

impl Reference {
    /// Parses a reference.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |reason: &'static str| Error::Reference { text: text.to_owned(), reason: reason.into() };
        let (model, output) = match text.split_once('/') {
            Some((_, "")) => return Err(bad("there is no output after the slash")),
            Some((model, output)) => (model, Some(output.to_owned())),
            None => (text, None),
        };
        let (name, version) = match model.split_once('@') {
            None => (model, VersionRef::Alias(DEFAULT_ALIAS.to_owned())),
            Some((_, "")) => return Err(bad("there is no version or alias after the @")),
            Some((name, v)) if v.starts_with(|c: char| c.is_ascii_digit()) => {
                (name, VersionRef::Number(v.parse().map_err(|_| bad("the version is not a number that fits"))?))
            }
            Some((name, alias)) => {
                check_alias(alias).map_err(bad)?;
                (name, VersionRef::Alias(alias.to_owned()))
            }
        };
        check_name(name).map_err(bad)?;
        Ok(Self { name: name.to_owned(), version, output })
    }

    /// Looks up the selected output and element in a signature. The default is the first output.
    pub fn select(&self, signature: &Signature) -> Result<Selection> {
        let Some(wanted) = &self.output else {
            return Ok(Selection { output: 0, element: None });
        };
        if let Some(output) = signature.output(wanted) {
            return Ok(Selection { output, element: None });
        }
        let unknown = |output: &str| Error::NoOutput { output: output.to_owned(), known: signature.output_names() };
        let (name, key) = wanted.strip_suffix(']').and_then(|w| w.split_once('[')).ok_or_else(|| unknown(wanted))?;
        let output = signature.output(name).ok_or_else(|| unknown(name))?;
        let missing = |known: String| Error::NoElement { output: name.to_owned(), element: key.to_owned(), known };
        let element = match &signature.outputs[output].row {
            OutputRow::Tensor { shape, .. } => {
                let width: usize = shape.iter().product();
                match key.parse::<usize>() {
                    Ok(n) if n >= 1 && n <= width => Element::Position(n - 1),
                    _ => return Err(missing(format!("positions 1 to {width}"))),
                }
            }
            // The number of elements is known only after the run. If a row has fewer, the element is NULL.
            OutputRow::Open { .. } => match key.parse::<usize>() {
                Ok(n) if n >= 1 => Element::Position(n - 1),
                _ => return Err(missing("positions from 1".to_owned())),
            },
            OutputRow::Nested { of } => return Err(missing(format!("the form {of}, without elements"))),
            OutputRow::Map { key: ElementType::String } => Element::Text(key.to_owned()),
            OutputRow::Map { .. } => Element::Integer(key.parse().map_err(|_| missing("integer keys".to_owned()))?),
        };
        Ok(Selection { output, element: Some(element) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::Output;

    fn signature() -> Signature {
        let output =
            |name: &str, row| Output { name: name.to_owned(), row, declared: vec![], axis: Some(0), tokens: false };
        Signature {
            inputs: vec![],
            whole: false,
            tokenizer: None,
            external: vec![],
            sample: None,
            outputs: vec![
                output("label", OutputRow::Tensor { element: ElementType::Int64, shape: vec![] }),
                output("p", OutputRow::Tensor { element: ElementType::Float32, shape: vec![2] }),
                output("dense/out:0[x]", OutputRow::Tensor { element: ElementType::Float32, shape: vec![] }),
                output("byname", OutputRow::Map { key: ElementType::String }),
                output("bynumber", OutputRow::Map { key: ElementType::Int64 }),
            ],
            fixed_rows: None,
            batch_sensitive: false,
            verified: true,
            batch_size: 1,
            single_micros: 0.0,
            row_micros: 0.0,
            sweep: Vec::new(),
            session_bytes: 0,
            metadata: serde_json::Map::new(),
        }
    }

    #[test]
    fn every_form_parses() {
        let alias = |a: &str| VersionRef::Alias(a.to_owned());
        for (text, name, version, output) in [
            ("churn", "churn", alias("default"), None),
            ("churn@3", "churn", VersionRef::Number(3), None),
            ("churn@staging", "churn", alias("staging"), None),
            ("a b/p[2]", "a b", alias("default"), Some("p[2]")),
            ("m@1/dense/out:0[x]", "m", VersionRef::Number(1), Some("dense/out:0[x]")),
        ] {
            let r = Reference::parse(text).unwrap();
            assert_eq!((r.name.as_str(), r.version, r.output.as_deref()), (name, version, output), "{text}");
        }
    }

    #[test]
    fn malformed_references_are_refused() {
        for text in ["", "@1", "m@", "m/", "m@99999999999", "m@a@b", "m[1]", " m", "m@1x"] {
            assert!(Reference::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn selections_find_outputs_and_elements() {
        let s = signature();
        let select = |t: &str| Reference::parse(t).unwrap().select(&s);
        assert_eq!(select("m").unwrap(), Selection { output: 0, element: None });
        assert_eq!(select("m/p[2]").unwrap(), Selection { output: 1, element: Some(Element::Position(1)) });
        assert_eq!(select("m/dense/out:0[x]").unwrap(), Selection { output: 2, element: None });
        assert_eq!(select("m/byname[bad]").unwrap().element, Some(Element::Text("bad".to_owned())));
        assert_eq!(select("m/bynumber[-1]").unwrap().element, Some(Element::Integer(-1)));
        for text in ["m/nope", "m/p[0]", "m/p[3]", "m/p[x]", "m/nope[1]", "m/bynumber[x]"] {
            assert!(select(text).is_err(), "{text}");
        }
    }
}
