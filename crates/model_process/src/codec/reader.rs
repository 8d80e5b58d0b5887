//! Reads values from a region of shared memory, which the other process may have filled with anything.

use bytemuck::Pod;
use pg_predict_engine::{Error, Result};

use crate::codec::writer::ALIGNMENT;
use crate::memory::SharedMemory;

/// Reads values one after another. Each value is copied before it is used.
pub struct Reader<'a> {
    region: &'a SharedMemory,
    at: usize,
    end: usize,
}

/// The error of a response that breaks a rule of the protocol.
pub(crate) fn broken(what: &'static str) -> Error {
    Error::Protocol { what: what.into() }
}

fn too_early() -> Error {
    broken("a message ends too early")
}

impl<'a> Reader<'a> {
    /// Creates a reader for the first `len` bytes of a region.
    pub fn new(region: &'a SharedMemory, len: usize) -> Result<Self> {
        if len > region.len() {
            return Err(broken("the length of a message exceeds its memory"));
        }
        Ok(Self { region, at: 0, end: len })
    }

    /// Reads a number.
    pub fn number(&mut self) -> Result<usize> {
        let end = self.end_of(size_of::<u64>())?;
        let mut bytes = [0; size_of::<u64>()];
        if !self.region.copy_to(self.at, &mut bytes) {
            return Err(too_early());
        }
        self.at = end;
        usize::try_from(u64::from_ne_bytes(bytes)).map_err(|_| broken("a number is too large"))
    }

    /// Reads an array. Its memory is allocated only if its bytes are there.
    pub fn array<T: Pod>(&mut self) -> Result<Vec<T>> {
        let count = self.number()?;
        self.at = self.at.next_multiple_of(ALIGNMENT);
        self.take(count)
    }

    /// Reads numbers.
    pub fn numbers(&mut self) -> Result<Vec<usize>> {
        // A number is as wide as a `u64` on every supported platform.
        self.array::<usize>()
    }

    /// Reads a text.
    pub fn text(&mut self) -> Result<String> {
        String::from_utf8(self.array()?).map_err(|_| broken("a text is not UTF-8"))
    }

    /// Returns where the next `bytes` bytes end.
    fn end_of(&self, bytes: usize) -> Result<usize> {
        self.at.checked_add(bytes).filter(|end| *end <= self.end).ok_or_else(too_early)
    }

    fn take<T: Pod>(&mut self, count: usize) -> Result<Vec<T>> {
        let bytes = count.checked_mul(size_of::<T>()).ok_or_else(|| broken("a length is too large"))?;
        let end = self.end_of(bytes)?;
        let memory = || Error::OutOfMemory { what: "a result".into(), bytes };
        let values = self.region.copy_out(self.at, count).ok_or_else(memory)?;
        self.at = end;
        Ok(values)
    }

    /// Checks that everything has been read.
    pub fn finish(&self) -> Result<()> {
        if self.at == self.end { Ok(()) } else { Err(broken("a message has more than its content")) }
    }
}
