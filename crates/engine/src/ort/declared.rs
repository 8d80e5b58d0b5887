//! Reads the inputs and outputs that a loaded model declares.

use ort::value::{TensorElementType, ValueType};

use crate::error::{Error, Result};
use crate::ort::session::Session;
use crate::tensor::ElementType;

pub(crate) fn element_type(ty: TensorElementType) -> Result<ElementType> {
    Ok(match ty {
        TensorElementType::Float32 => ElementType::Float32,
        TensorElementType::Float64 => ElementType::Float64,
        TensorElementType::Int8 => ElementType::Int8,
        TensorElementType::Int16 => ElementType::Int16,
        TensorElementType::Int32 => ElementType::Int32,
        TensorElementType::Int64 => ElementType::Int64,
        TensorElementType::Uint8 => ElementType::Uint8,
        TensorElementType::Uint16 => ElementType::Uint16,
        TensorElementType::Uint32 => ElementType::Uint32,
        TensorElementType::Uint64 => ElementType::Uint64,
        TensorElementType::Bool => ElementType::Bool,
        TensorElementType::String => ElementType::String,
        TensorElementType::Float16 => ElementType::Float16,
        TensorElementType::Bfloat16 => ElementType::Bfloat16,
        other => {
            return Err(Error::Unsupported {
                what: format!("tensors of type {other}"),
                reason: "SQL has no type for their elements".to_owned(),
            });
        }
    })
}

/// Names a type that SQL can represent only as JSON. It is an error if SQL has no type for its elements either.
pub(crate) fn type_name(ty: &ValueType) -> Result<String> {
    Ok(match ty {
        ValueType::Tensor { ty, .. } => element_type(*ty)?.to_string(),
        ValueType::Sequence(inner) => format!("sequence({})", type_name(inner)?),
        ValueType::Optional(inner) => format!("optional({})", type_name(inner)?),
        ValueType::Map { key, value } => format!("map({}, {})", element_type(*key)?, element_type(*value)?),
    })
}

/// The declarations of a model file.
#[derive(Debug, Default)]
pub struct Declared {
    /// The inputs, in the model's order.
    pub inputs: Vec<DeclaredInput>,
    /// Name and kind of each output.
    pub outputs: Vec<(String, DeclaredOutput)>,
    /// Producer, graph name, domain and description, if the file contains them, and the number of tree ensembles that
    /// are compiled.
    pub metadata: serde_json::Map<String, serde_json::Value>,
}

/// An input as the file declares it.
#[derive(Debug, Clone)]
pub struct DeclaredInput {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    pub element: ElementType,
    /// Its dimensions; -1 for an open dimension.
    pub dims: Vec<i64>,
    /// The names of its dimensions; empty for a dimension without a name.
    pub symbols: Vec<String>,
}

/// The declared kind of an output.
#[derive(Debug, Clone)]
pub enum DeclaredOutput {
    /// Element type and dimensions.
    Tensor(ElementType, Vec<i64>),
    /// A sequence of maps with keys of this type.
    Maps(ElementType),
    /// Any other type, by its name.
    Nested(String),
}

impl Session {
    /// Returns the inputs, outputs and metadata that the file declares.
    pub fn declared(&self) -> Result<Declared> {
        let session = self.inner.lock();
        let mut declared = Declared::default();
        for input in session.inputs() {
            let ty = match input.dtype() {
                // An optional input may always be supplied, so it counts as an input of its inner type.
                ValueType::Optional(inner) => inner.as_ref(),
                ty => ty,
            };
            match ty {
                ValueType::Tensor { ty, shape, dimension_symbols } => declared.inputs.push(DeclaredInput {
                    name: input.name().to_owned(),
                    element: match self.categories_of(input.name()) {
                        Some(_) => ElementType::String,
                        None => element_type(*ty)?,
                    },
                    dims: shape.to_vec(),
                    symbols: dimension_symbols.iter().map(ToString::to_string).collect(),
                }),
                other => {
                    return Err(Error::Unsupported {
                        what: format!("input \"{}\" of type {other}", input.name()),
                        reason: "inputs are tensors".to_owned(),
                    });
                }
            }
        }
        for output in session.outputs() {
            let kind = match output.dtype() {
                ValueType::Tensor { ty, shape, .. } => DeclaredOutput::Tensor(element_type(*ty)?, shape.to_vec()),
                ValueType::Sequence(inner) => match inner.as_ref() {
                    ValueType::Map { key: TensorElementType::Int64, value: TensorElementType::Float32 } => {
                        DeclaredOutput::Maps(ElementType::Int64)
                    }
                    ValueType::Map { key: TensorElementType::String, value: TensorElementType::Float32 } => {
                        DeclaredOutput::Maps(ElementType::String)
                    }
                    _ => DeclaredOutput::Nested(type_name(output.dtype())?),
                },
                other => DeclaredOutput::Nested(type_name(other)?),
            };
            declared.outputs.push((output.name().to_owned(), kind));
        }
        if let Ok(metadata) = session.metadata() {
            let mut put = |key: &str, value: Option<String>| {
                if let Some(value) = value.filter(|v| !v.is_empty()) {
                    declared.metadata.insert(key.to_owned(), value.into());
                }
            };
            put("producer", metadata.producer());
            put("graph", metadata.name());
            put("domain", metadata.domain());
            put("description", metadata.description());
        }
        if self.trees > 0 {
            declared.metadata.insert("compiled_trees".to_owned(), self.trees.into());
        }
        Ok(declared)
    }
}
