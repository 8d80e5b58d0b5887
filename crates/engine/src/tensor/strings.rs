//! Stores many strings in one buffer.

/// Many short strings in one buffer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Strings {
    pub(crate) text: String,
    pub(crate) ends: Vec<usize>,
}

impl Strings {
    /// Appends a string.
    pub fn push(&mut self, s: &str) {
        self.text.push_str(s);
        self.ends.push(self.text.len());
    }

    /// Returns all strings as one text, and the end of each in it.
    #[must_use]
    pub fn parts(&self) -> (&str, &[usize]) {
        (&self.text, &self.ends)
    }

    /// Creates strings from one text and the end of each string in it. Returns `None` if the ends do not rise, are not
    /// at character boundaries, or do not cover the text.
    #[must_use]
    pub fn of_parts(text: String, ends: Vec<usize>) -> Option<Self> {
        let valid = ends.is_sorted()
            && ends.last().copied().unwrap_or(0) == text.len()
            && ends.iter().all(|end| text.is_char_boundary(*end));
        valid.then_some(Self { text, ends })
    }

    /// Appends a string. Returns `false` if memory cannot be allocated.
    #[must_use]
    pub fn try_push(&mut self, s: &str) -> bool {
        let room = self.text.try_reserve(s.len()).is_ok() && self.ends.try_reserve(1).is_ok();
        if room {
            self.push(s);
        }
        room
    }

    /// Returns whether any string has a zero byte.
    #[must_use]
    pub fn has_zero(&self) -> bool {
        self.text.contains('\0')
    }

    /// Returns the number of strings.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns whether there are no strings.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Returns the string at `i`, or the empty string if `i` is out of range.
    #[must_use]
    pub fn get(&self, i: usize) -> &str {
        let start = if i == 0 { 0 } else { self.ends.get(i - 1).copied().unwrap_or(0) };
        self.ends.get(i).and_then(|end| self.text.get(start..*end)).unwrap_or("")
    }

    /// Iterates over all strings, in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|i| self.get(i))
    }

    /// Keeps the first `n` strings.
    pub fn truncate(&mut self, n: usize) {
        self.ends.truncate(n);
        self.text.truncate(self.ends.last().copied().unwrap_or(0));
    }

    /// Returns the size of the strings and their ends, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.text.len() + 8 * self.ends.len()
    }

    /// Returns the size of the allocated buffers, in bytes.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.text.capacity() + 8 * self.ends.capacity()
    }
}
