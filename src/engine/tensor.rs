//! Element types, and columns: growing typed buffers that become tensors without another copy.

use serde::{Deserialize, Serialize};

/// The type of a tensor's elements, under the names that the views and errors use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum ElementType {
    /// IEEE single.
    Float32 = 1,
    /// IEEE double.
    Float64,
    /// Signed, 8 bits.
    Int8,
    /// Signed, 16 bits.
    Int16,
    /// Signed, 32 bits.
    Int32,
    /// Signed, 64 bits.
    Int64,
    /// Unsigned, 8 bits.
    Uint8,
    /// Unsigned, 16 bits.
    Uint16,
    /// Unsigned, 32 bits.
    Uint32,
    /// Unsigned, 64 bits.
    Uint64,
    /// True or false.
    Bool,
    /// UTF-8 text.
    String,
}

impl ElementType {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Float32,
        Self::Float64,
        Self::Int8,
        Self::Int16,
        Self::Int32,
        Self::Int64,
        Self::Uint8,
        Self::Uint16,
        Self::Uint32,
        Self::Uint64,
        Self::Bool,
        Self::String,
    ];

    /// Bytes of one element (text: of its place in the index).
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Self::Int8 | Self::Uint8 | Self::Bool => 1,
            Self::Int16 | Self::Uint16 => 2,
            Self::Float32 | Self::Int32 | Self::Uint32 => 4,
            Self::Float64 | Self::Int64 | Self::Uint64 | Self::String => 8,
        }
    }

    /// Whether NaN exists in it.
    #[must_use]
    pub fn is_float(self) -> bool {
        matches!(self, Self::Float32 | Self::Float64)
    }

    /// The type with this tag in encoded results.
    #[must_use]
    pub fn from_tag(tag: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|t| *t as u8 == tag)
    }

    /// The name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Float64 => "float64",
            Self::Int8 => "int8",
            Self::Int16 => "int16",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Uint8 => "uint8",
            Self::Uint16 => "uint16",
            Self::Uint32 => "uint32",
            Self::Uint64 => "uint64",
            Self::Bool => "bool",
            Self::String => "string",
        }
    }
}

impl std::fmt::Display for ElementType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Many short texts in one buffer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Strings {
    text: String,
    ends: Vec<usize>,
}

impl Strings {
    /// Appends one.
    pub fn push(&mut self, s: &str) {
        self.text.push_str(s);
        self.ends.push(self.text.len());
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The one at `i`, or the empty text where there is none.
    #[must_use]
    pub fn get(&self, i: usize) -> &str {
        let start = if i == 0 { 0 } else { self.ends.get(i - 1).copied().unwrap_or(0) };
        self.ends.get(i).and_then(|end| self.text.get(start..*end)).unwrap_or("")
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|i| self.get(i))
    }

    /// Keeps the first `n`.
    pub fn truncate(&mut self, n: usize) {
        self.ends.truncate(n);
        self.text.truncate(self.ends.last().copied().unwrap_or(0));
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.text.len() + 8 * self.ends.len()
    }
}

/// A typed buffer of elements, in row order.
#[derive(Debug, Clone, PartialEq)]
pub enum Column {
    /// `float32`
    Float32(Vec<f32>),
    /// `float64`
    Float64(Vec<f64>),
    /// `int8`
    Int8(Vec<i8>),
    /// `int16`
    Int16(Vec<i16>),
    /// `int32`
    Int32(Vec<i32>),
    /// `int64`
    Int64(Vec<i64>),
    /// `uint8`
    Uint8(Vec<u8>),
    /// `uint16`
    Uint16(Vec<u16>),
    /// `uint32`
    Uint32(Vec<u32>),
    /// `uint64`
    Uint64(Vec<u64>),
    /// `bool`
    Bool(Vec<bool>),
    /// `string`
    String(Strings),
}

/// Runs one expression for whichever vector a column holds.
macro_rules! each {
    ($column:expr, $v:ident => $e:expr, $s:ident => $se:expr) => {
        match $column {
            Column::Float32($v) => $e,
            Column::Float64($v) => $e,
            Column::Int8($v) => $e,
            Column::Int16($v) => $e,
            Column::Int32($v) => $e,
            Column::Int64($v) => $e,
            Column::Uint8($v) => $e,
            Column::Uint16($v) => $e,
            Column::Uint32($v) => $e,
            Column::Uint64($v) => $e,
            Column::Bool($v) => $e,
            Column::String($s) => $se,
        }
    };
}

impl Column {
    /// An empty one.
    #[must_use]
    pub fn new(element: ElementType) -> Self {
        match element {
            ElementType::Float32 => Self::Float32(Vec::new()),
            ElementType::Float64 => Self::Float64(Vec::new()),
            ElementType::Int8 => Self::Int8(Vec::new()),
            ElementType::Int16 => Self::Int16(Vec::new()),
            ElementType::Int32 => Self::Int32(Vec::new()),
            ElementType::Int64 => Self::Int64(Vec::new()),
            ElementType::Uint8 => Self::Uint8(Vec::new()),
            ElementType::Uint16 => Self::Uint16(Vec::new()),
            ElementType::Uint32 => Self::Uint32(Vec::new()),
            ElementType::Uint64 => Self::Uint64(Vec::new()),
            ElementType::Bool => Self::Bool(Vec::new()),
            ElementType::String => Self::String(Strings::default()),
        }
    }

    /// The type of its elements.
    #[must_use]
    pub fn element(&self) -> ElementType {
        match self {
            Self::Float32(_) => ElementType::Float32,
            Self::Float64(_) => ElementType::Float64,
            Self::Int8(_) => ElementType::Int8,
            Self::Int16(_) => ElementType::Int16,
            Self::Int32(_) => ElementType::Int32,
            Self::Int64(_) => ElementType::Int64,
            Self::Uint8(_) => ElementType::Uint8,
            Self::Uint16(_) => ElementType::Uint16,
            Self::Uint32(_) => ElementType::Uint32,
            Self::Uint64(_) => ElementType::Uint64,
            Self::Bool(_) => ElementType::Bool,
            Self::String(_) => ElementType::String,
        }
    }

    /// Elements held.
    #[must_use]
    pub fn len(&self) -> usize {
        each!(self, v => v.len(), s => s.len())
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keeps the first `n` elements.
    pub fn truncate(&mut self, n: usize) {
        each!(self, v => v.truncate(n), s => s.truncate(n));
    }

    /// Appends the elements of another column of the same type.
    pub(crate) fn append(&mut self, other: Self) {
        match (self, other) {
            (Self::Float32(a), Self::Float32(b)) => a.extend(b),
            (Self::Float64(a), Self::Float64(b)) => a.extend(b),
            (Self::Int8(a), Self::Int8(b)) => a.extend(b),
            (Self::Int16(a), Self::Int16(b)) => a.extend(b),
            (Self::Int32(a), Self::Int32(b)) => a.extend(b),
            (Self::Int64(a), Self::Int64(b)) => a.extend(b),
            (Self::Uint8(a), Self::Uint8(b)) => a.extend(b),
            (Self::Uint16(a), Self::Uint16(b)) => a.extend(b),
            (Self::Uint32(a), Self::Uint32(b)) => a.extend(b),
            (Self::Uint64(a), Self::Uint64(b)) => a.extend(b),
            (Self::Bool(a), Self::Bool(b)) => a.extend(b),
            (Self::String(a), Self::String(b)) => b.iter().for_each(|t| a.push(t)),
            // Callers append runs of one output, which has one type.
            _ => {}
        }
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        each!(self, v => std::mem::size_of_val(v.as_slice()), s => s.bytes())
    }

    /// Makes room for `n` more elements, or fails without ending the process.
    pub fn try_reserve(&mut self, n: usize) -> crate::Result<()> {
        let bytes = n.saturating_mul(self.element().size());
        let full = |_| crate::Error::OutOfMemory { what: "a batch".into(), bytes };
        each!(self, v => v.try_reserve(n).map_err(full), s => s.ends.try_reserve(n).map_err(full))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_keep_order_and_truncate() {
        let mut s = Strings::default();
        for x in ["a", "", "ünï", "b"] {
            s.push(x);
        }
        assert_eq!(s.iter().collect::<Vec<_>>(), ["a", "", "ünï", "b"]);
        s.truncate(2);
        s.push("z");
        assert_eq!(s.iter().collect::<Vec<_>>(), ["a", "", "z"]);
        assert_eq!(s.get(9), "");
    }

    #[test]
    fn tags_name_every_type_once() {
        for t in ElementType::ALL {
            assert_eq!(ElementType::from_tag(t as u8), Some(t));
            assert_eq!(Column::new(t).element(), t);
            assert_eq!(serde_json::to_value(t).unwrap(), t.name());
        }
        assert_eq!(ElementType::from_tag(0), None);
    }
}
