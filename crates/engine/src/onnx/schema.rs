//! The schema of ONNX model files, and a walk that visits every message of a file.
//!
//! The tables hold every message and field of `onnx-ml.proto` (github.com/onnx/onnx, release 1.23). The walk rejects
//! all other fields, because an unknown field may hold a tensor, and a tensor may name a file.
//! tests/conformance/schema.py compares the tables with the schema of the onnx package.

use prost::encoding::{WireType, decode_key, decode_varint};

use crate::error::{Error, Result};

/// The messages of a model file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Message {
    Attribute,
    DeviceConfiguration,
    Dimension,
    Entry,
    Function,
    Graph,
    IntIntList,
    MapType,
    Model,
    Node,
    NodeDeviceConfiguration,
    OpaqueType,
    Opset,
    OptionalType,
    Segment,
    SequenceType,
    ShardedDim,
    ShardingSpec,
    Shape,
    SimpleShardedDim,
    SparseTensor,
    Tensor,
    TensorAnnotation,
    TensorType,
    TrainingInfo,
    Type,
    ValueInfo,
}

/// The type of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Integer,
    /// Integers, packed or one by one.
    Integers,
    Float,
    /// Packed or one by one.
    Floats,
    Doubles,
    /// A string or bytes.
    Bytes,
    Of(Message),
}

impl Message {
    /// Returns the name in the schema.
    fn name(self) -> &'static str {
        match self {
            Self::Attribute => "AttributeProto",
            Self::DeviceConfiguration => "DeviceConfigurationProto",
            Self::Dimension => "TensorShapeProto.Dimension",
            Self::Entry => "StringStringEntryProto",
            Self::Function => "FunctionProto",
            Self::Graph => "GraphProto",
            Self::IntIntList => "IntIntListEntryProto",
            Self::MapType => "TypeProto.Map",
            Self::Model => "ModelProto",
            Self::Node => "NodeProto",
            Self::NodeDeviceConfiguration => "NodeDeviceConfigurationProto",
            Self::OpaqueType => "TypeProto.Opaque",
            Self::Opset => "OperatorSetIdProto",
            Self::OptionalType => "TypeProto.Optional",
            Self::Segment => "TensorProto.Segment",
            Self::SequenceType => "TypeProto.Sequence",
            Self::ShardedDim => "ShardedDimProto",
            Self::ShardingSpec => "ShardingSpecProto",
            Self::Shape => "TensorShapeProto",
            Self::SimpleShardedDim => "SimpleShardedDimProto",
            Self::SparseTensor => "SparseTensorProto",
            Self::Tensor => "TensorProto",
            Self::TensorAnnotation => "TensorAnnotation",
            Self::TensorType => "TypeProto.Tensor",
            Self::TrainingInfo => "TrainingInfoProto",
            Self::Type => "TypeProto",
            Self::ValueInfo => "ValueInfoProto",
        }
    }

    /// Returns the type of a field, or `None` if the schema has no such field.
    fn field(self, number: u32) -> Option<Field> {
        use Field::{Bytes, Doubles, Float, Floats, Integer, Integers, Of};
        Some(match (self, number) {
            (Self::Model, 1 | 5) => Integer,
            (Self::Model, 2 | 3 | 4 | 6) => Bytes,
            (Self::Model, 7) => Of(Self::Graph),
            (Self::Model, 8) => Of(Self::Opset),
            (Self::Model, 14) => Of(Self::Entry),
            (Self::Model, 20) => Of(Self::TrainingInfo),
            (Self::Model, 25) => Of(Self::Function),
            (Self::Model, 26) => Of(Self::DeviceConfiguration),
            (Self::Opset, 1) => Bytes,
            (Self::Opset, 2) => Integer,
            (Self::Entry, 1 | 2) => Bytes,
            (Self::TrainingInfo, 1 | 2) => Of(Self::Graph),
            (Self::TrainingInfo, 3 | 4) => Of(Self::Entry),
            (Self::DeviceConfiguration, 1 | 3) => Bytes,
            (Self::DeviceConfiguration, 2) => Integer,
            (Self::Function, 1 | 4 | 5 | 6 | 8 | 10 | 13) => Bytes,
            (Self::Function, 7) => Of(Self::Node),
            (Self::Function, 9) => Of(Self::Opset),
            (Self::Function, 11) => Of(Self::Attribute),
            (Self::Function, 12) => Of(Self::ValueInfo),
            (Self::Function, 14) => Of(Self::Entry),
            (Self::Graph, 1) => Of(Self::Node),
            (Self::Graph, 2 | 10) => Bytes,
            (Self::Graph, 5) => Of(Self::Tensor),
            (Self::Graph, 11..=13) => Of(Self::ValueInfo),
            (Self::Graph, 14) => Of(Self::TensorAnnotation),
            (Self::Graph, 15) => Of(Self::SparseTensor),
            (Self::Graph, 16) => Of(Self::Entry),
            (Self::Node, 1 | 2 | 3 | 4 | 6 | 7 | 8) => Bytes,
            (Self::Node, 5) => Of(Self::Attribute),
            (Self::Node, 9) => Of(Self::Entry),
            (Self::Node, 10) => Of(Self::NodeDeviceConfiguration),
            (Self::NodeDeviceConfiguration, 1) => Bytes,
            (Self::NodeDeviceConfiguration, 2) => Of(Self::ShardingSpec),
            (Self::NodeDeviceConfiguration, 3) => Integer,
            (Self::ShardingSpec, 1) => Bytes,
            (Self::ShardingSpec, 2) => Integers,
            (Self::ShardingSpec, 3) => Of(Self::IntIntList),
            (Self::ShardingSpec, 4) => Of(Self::ShardedDim),
            (Self::IntIntList, 1) => Integer,
            (Self::IntIntList, 2) => Integers,
            (Self::ShardedDim, 1) => Integer,
            (Self::ShardedDim, 2) => Of(Self::SimpleShardedDim),
            (Self::SimpleShardedDim, 1 | 3) => Integer,
            (Self::SimpleShardedDim, 2) => Bytes,
            (Self::Attribute, 1 | 4 | 9 | 13 | 21) => Bytes,
            (Self::Attribute, 2) => Float,
            (Self::Attribute, 3 | 20) => Integer,
            (Self::Attribute, 5 | 10) => Of(Self::Tensor),
            (Self::Attribute, 6 | 11) => Of(Self::Graph),
            (Self::Attribute, 7) => Floats,
            (Self::Attribute, 8) => Integers,
            (Self::Attribute, 14 | 15) => Of(Self::Type),
            (Self::Attribute, 22 | 23) => Of(Self::SparseTensor),
            (Self::Tensor, 1 | 5 | 7 | 11) => Integers,
            (Self::Tensor, 2 | 14) => Integer,
            (Self::Tensor, 3) => Of(Self::Segment),
            (Self::Tensor, 4) => Floats,
            (Self::Tensor, 6 | 8 | 9 | 12) => Bytes,
            (Self::Tensor, 10) => Doubles,
            (Self::Tensor, 13 | 16) => Of(Self::Entry),
            (Self::Segment, 1 | 2) => Integer,
            (Self::SparseTensor, 1 | 2) => Of(Self::Tensor),
            (Self::SparseTensor, 3) => Integers,
            (Self::TensorAnnotation, 1) => Bytes,
            (Self::TensorAnnotation, 2) => Of(Self::Entry),
            (Self::ValueInfo, 1 | 3) => Bytes,
            (Self::ValueInfo, 2) => Of(Self::Type),
            (Self::ValueInfo, 4) => Of(Self::Entry),
            (Self::Type, 1) => Of(Self::TensorType),
            (Self::Type, 4) => Of(Self::SequenceType),
            (Self::Type, 5) => Of(Self::MapType),
            (Self::Type, 6) => Bytes,
            (Self::Type, 7) => Of(Self::OpaqueType),
            // The type of a sparse tensor has the same fields as that of a tensor.
            (Self::Type, 8) => Of(Self::TensorType),
            (Self::Type, 9) => Of(Self::OptionalType),
            (Self::TensorType, 1) => Integer,
            (Self::TensorType, 2) => Of(Self::Shape),
            (Self::SequenceType | Self::OptionalType, 1) => Of(Self::Type),
            (Self::MapType, 1) => Integer,
            (Self::MapType, 2) => Of(Self::Type),
            (Self::OpaqueType, 1 | 2) => Bytes,
            (Self::Shape, 1) => Of(Self::Dimension),
            (Self::Dimension, 1) => Integer,
            (Self::Dimension, 2 | 3) => Bytes,
            _ => return None,
        })
    }
}

/// The limit of protobuf on nested messages. ONNX Runtime does not read deeper nesting.
const DEEPEST: usize = 100;

/// Visits every message of a model file, parents before children. `path` lists the messages from the file down to the
/// visited one.
pub(crate) fn walk(model: &[u8], visit: &mut impl FnMut(&[Message], &[u8]) -> Result<()>) -> Result<()> {
    let mut path = vec![Message::Model];
    walk_message(model, &mut path, visit)
}

fn walk_message(
    bytes: &[u8],
    path: &mut Vec<Message>,
    visit: &mut impl FnMut(&[Message], &[u8]) -> Result<()>,
) -> Result<()> {
    let Some(message) = path.last().copied() else { return Ok(()) };
    if path.len() > DEEPEST {
        return Err(invalid(format!("messages are nested more than {DEEPEST} deep")));
    }
    visit(path, bytes)?;
    let damaged = || invalid(format!("a {} is damaged", message.name()));
    let mut rest = bytes;
    while !rest.is_empty() {
        let (number, wire) = decode_key(&mut rest).map_err(|_| damaged())?;
        let field = message.field(number).filter(|field| field.may_be(wire)).ok_or_else(|| {
            invalid(format!("{} has field {number}, which the ONNX schema does not define", message.name()))
        })?;
        match wire {
            WireType::Varint => drop(decode_varint(&mut rest).map_err(|_| damaged())?),
            WireType::ThirtyTwoBit => rest = rest.get(4..).ok_or_else(damaged)?,
            WireType::SixtyFourBit => rest = rest.get(8..).ok_or_else(damaged)?,
            WireType::LengthDelimited => {
                let length = decode_varint(&mut rest).ok().and_then(|n| usize::try_from(n).ok());
                let content;
                (content, rest) = length.and_then(|n| rest.split_at_checked(n)).ok_or_else(damaged)?;
                if let Field::Of(inner) = field {
                    path.push(inner);
                    walk_message(content, path, visit)?;
                    path.pop();
                }
            }
            WireType::StartGroup | WireType::EndGroup => return Err(damaged()),
        }
    }
    Ok(())
}

impl Field {
    /// Returns whether a value of the field may have this wire type.
    fn may_be(self, wire: WireType) -> bool {
        match self {
            Self::Integer => wire == WireType::Varint,
            Self::Integers => matches!(wire, WireType::Varint | WireType::LengthDelimited),
            Self::Float => wire == WireType::ThirtyTwoBit,
            Self::Floats => matches!(wire, WireType::ThirtyTwoBit | WireType::LengthDelimited),
            Self::Doubles => matches!(wire, WireType::SixtyFourBit | WireType::LengthDelimited),
            Self::Bytes | Self::Of(_) => wire == WireType::LengthDelimited,
        }
    }
}

fn invalid(reason: String) -> Error {
    Error::InvalidModel { reason }
}
