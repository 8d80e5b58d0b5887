//! Measures the memory of this process.

use std::fs::File;
use std::os::unix::fs::FileExt;

use once_cell::sync::Lazy;

/// The kernel's figures of this process. The file stays open, because a sandboxed process cannot open it again.
static FIGURES: Lazy<Option<File>> = Lazy::new(|| File::open("/proc/self/statm").ok());

/// The size of a page in bytes, on every supported platform.
const PAGE: usize = 4096;

/// Returns the resident memory of this process in bytes, or 0 if the system does not report it. A process that enters
/// a sandbox must call this before.
#[must_use]
pub fn resident() -> usize {
    let mut text = [0; 256];
    let Some(length) = FIGURES.as_ref().and_then(|file| file.read_at(&mut text, 0).ok()) else { return 0 };
    let text = str::from_utf8(&text[..length]).unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * PAGE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_used_is_counted_each_time() {
        // Other tests of this process free memory at the same time, but never so much.
        const SIZE: usize = 512 << 20;
        let before = resident();
        let used = std::hint::black_box(vec![1_u8; SIZE]);
        let after = resident();
        assert!(before > 0 && after >= before + SIZE / 2, "{before} {after} {}", used.len());
    }
}
