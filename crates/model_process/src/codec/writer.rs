//! Writes values into a region of shared memory.

use bytemuck::Pod;

use crate::memory::SharedMemory;

/// The alignment of arrays in a region, in bytes.
pub(crate) const ALIGNMENT: usize = 64;

/// Writes values one after another. A value beyond the end of the region is counted but not written.
pub struct Writer<'a> {
    region: &'a SharedMemory,
    at: usize,
}

impl<'a> Writer<'a> {
    /// Creates a writer that starts at the beginning of a region.
    #[must_use]
    pub fn new(region: &'a SharedMemory) -> Self {
        Self { region, at: 0 }
    }

    /// Writes a number.
    pub fn number(&mut self, number: usize) {
        self.wide_number(number as u64);
    }

    /// Writes a number of 64 bits.
    pub fn wide_number(&mut self, number: u64) {
        self.bytes(&number.to_ne_bytes());
    }

    /// Writes an array after its length.
    pub fn array<T: Pod>(&mut self, values: &[T]) {
        self.number(values.len());
        self.at = self.at.next_multiple_of(ALIGNMENT);
        self.bytes(bytemuck::cast_slice(values));
    }

    /// Writes a text.
    pub fn text(&mut self, text: &str) {
        self.array(text.as_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.region.copy_in(self.at, bytes);
        self.at += bytes.len();
    }

    /// Returns the length of everything that was written or counted, in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.at
    }

    /// Returns whether nothing has been written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.at == 0
    }

    /// Returns whether everything fit into the region.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.at <= self.region.len()
    }
}
