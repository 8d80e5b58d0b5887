//! Shared memory between a backend and its model process.
//!
//! The backend creates every region. Its size is sealed, so neither side can shrink a region that the other has mapped.
//! Its pages are allocated when it is created, so running out of memory is an error and not a signal.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use bytemuck::Pod;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// A mapped region of shared memory.
#[derive(Debug)]
pub struct SharedMemory {
    file: OwnedFd,
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the region stays mapped as long as the value exists. All access is by copying or through atomics.
unsafe impl Send for SharedMemory {}
// SAFETY: as above.
unsafe impl Sync for SharedMemory {}

/// The bytes that are allocated at once, which takes some 25 ms.
const PIECE: usize = 64 << 20;

/// The seals of a region: its size is final.
fn seals() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL
}

impl SharedMemory {
    /// Creates a region of `len` bytes, which are zero.
    pub fn create(len: usize) -> io::Result<Self> {
        Self::create_while(len, || true)
    }

    /// Creates a region like `create`. Returns the error `Interrupted` as soon as `goes_on` returns false.
    pub fn create_while(len: usize, goes_on: impl Fn() -> bool) -> io::Result<Self> {
        let file = memfd_create(c"pg_predict", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        let size = |bytes: usize| i64::try_from(bytes).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory));
        for start in (0..len).step_by(PIECE) {
            if !goes_on() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let (start, piece) = (size(start)?, size(PIECE.min(len - start))?);
            // Older kernels stop for a signal.
            while let Err(e) = fallocate(&file, FallocateFlags::empty(), start, piece) {
                if e != nix::errno::Errno::EINTR {
                    return Err(e.into());
                }
            }
        }
        match fcntl(&file, FcntlArg::F_ADD_SEALS(seals())) {
            // Sealing is not available in some containers. Both sides then rely on the other not to shrink the region.
            Ok(_) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOSYS) => {}
            Err(e) => return Err(e.into()),
        }
        Self::map(file)
    }

    /// Maps a region that the other side created.
    pub fn map(file: OwnedFd) -> io::Result<Self> {
        Self::mapped(file, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)
    }

    fn mapped(file: OwnedFd, protection: ProtFlags) -> io::Result<Self> {
        let size = nix::sys::stat::fstat(&file)?.st_size;
        let len = usize::try_from(size).map_err(|_| io::ErrorKind::InvalidData)?;
        let length = std::num::NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidData)?;
        // SAFETY: maps a new range, which nothing else uses.
        let base = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, &file, 0)? };
        Ok(Self { file, base: base.cast(), len })
    }

    /// Maps a file for reading, such as the weights of a model.
    pub fn map_to_read(file: OwnedFd) -> io::Result<Self> {
        Self::mapped(file, ProtFlags::PROT_READ)
    }

    /// Returns the size in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether the region is empty, which it never is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the content.
    ///
    /// # Safety
    /// Nobody may write to the region while the slice exists. This holds for files that only the server writes, and for
    /// a request while the backend waits for its answer.
    #[must_use]
    pub unsafe fn bytes(&self) -> &[u8] {
        // SAFETY: the range is mapped, and the caller guarantees that nobody writes to it.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }

    /// Returns the value at an offset, which must be aligned for it and lie within the region.
    ///
    /// # Safety
    /// All fields of `T` must be atomics, because the other process writes to them.
    pub unsafe fn at<T>(&self, offset: usize) -> Option<&T> {
        let end = offset.checked_add(size_of::<T>())?;
        if end > self.len || !offset.is_multiple_of(align_of::<T>()) {
            return None;
        }
        // SAFETY: the range is mapped and aligned, and the caller guarantees that it holds atomics alone.
        unsafe { Some(&*self.base.as_ptr().add(offset).cast::<T>()) }
    }

    /// Copies values out of the region, starting at an offset in bytes. Returns `None` if they do not lie within it.
    #[must_use]
    pub(crate) fn copy_out<T: Pod>(&self, offset: usize, count: usize) -> Option<Vec<T>> {
        let bytes = count.checked_mul(size_of::<T>())?;
        if offset.checked_add(bytes)? > self.len {
            return None;
        }
        let mut values = Vec::<T>::new();
        values.try_reserve_exact(count).ok()?;
        // SAFETY: both ranges are as long as `bytes`, and every bit pattern is a valid `T`. The other process may write
        // at the same time; the copy then holds any bits, and its user checks them.
        unsafe {
            let from = self.base.as_ptr().add(offset);
            std::ptr::copy_nonoverlapping(from, values.as_mut_ptr().cast::<u8>(), bytes);
            values.set_len(count);
        }
        Some(values)
    }

    /// Copies bytes out of the region. Returns whether they lie within it.
    #[must_use]
    pub(crate) fn copy_to(&self, offset: usize, bytes: &mut [u8]) -> bool {
        if offset.checked_add(bytes.len()).is_none_or(|end| end > self.len) {
            return false;
        }
        // SAFETY: the range is mapped, and does not overlap with memory of Rust.
        unsafe { std::ptr::copy_nonoverlapping(self.base.as_ptr().add(offset), bytes.as_mut_ptr(), bytes.len()) };
        true
    }

    /// Copies bytes into the region. Bytes that do not lie within it are not written.
    pub(crate) fn copy_in(&self, offset: usize, bytes: &[u8]) {
        if offset.checked_add(bytes.len()).is_none_or(|end| end > self.len) {
            return;
        }
        // SAFETY: the range is mapped, and does not overlap with memory of Rust.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.as_ptr().add(offset), bytes.len()) };
    }

    /// Returns the descriptor, to pass it to the other side.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `map`, and no reference to it is left.
        let _ = unsafe { munmap(self.base.cast(), self.len) };
    }
}

/// Creates a file in memory from parts, which nobody can change afterwards.
pub fn sealed_file(parts: &[&[u8]]) -> io::Result<File> {
    use std::io::Write;
    let descriptor = memfd_create(c"pg_predict", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = File::from(descriptor);
    for part in parts {
        file.write_all(part)?;
    }
    let seals = seals() | SealFlag::F_SEAL_WRITE;
    match fcntl(&file, FcntlArg::F_ADD_SEALS(seals)) {
        Ok(_) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOSYS) => Ok(file),
        Err(e) => Err(e.into()),
    }
}

/// Returns whether the size of a file in memory is final.
#[must_use]
pub fn is_sealed(file: &impl AsRawFd) -> bool {
    // SAFETY: the descriptor is open as long as the borrow.
    let file = unsafe { BorrowedFd::borrow_raw(file.as_raw_fd()) };
    fcntl(file, FcntlArg::F_GET_SEALS).is_ok_and(|set| SealFlag::from_bits_truncate(set).contains(seals()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_side_writes_the_other_reads_and_no_further() {
        let ours = SharedMemory::create(64).unwrap();
        let theirs = SharedMemory::map(ours.file.try_clone().unwrap()).unwrap();
        ours.copy_in(8, &7_u64.to_ne_bytes());
        assert_eq!(theirs.copy_out::<u64>(8, 1), Some(vec![7]));
        // Outside the region, nothing is written and nothing is read.
        ours.copy_in(60, &[1; 8]);
        assert_eq!(theirs.copy_out::<u8>(60, 4), Some(vec![0; 4]));
        assert_eq!(theirs.copy_out::<u8>(60, 5), None);
        assert_eq!(theirs.copy_out::<u64>(usize::MAX, 1), None);
        assert_eq!(theirs.copy_out::<u64>(0, usize::MAX), None);
    }

    #[test]
    fn the_creation_of_a_large_region_can_be_ended() {
        let pieces = std::cell::Cell::new(0);
        let goes_on = |most| {
            pieces.set(pieces.get() + 1);
            pieces.get() <= most
        };
        assert_eq!(
            SharedMemory::create_while(10 * PIECE, || goes_on(3)).unwrap_err().kind(),
            io::ErrorKind::Interrupted
        );
        pieces.set(0);
        let region = SharedMemory::create_while(2 * PIECE + 1, || goes_on(3)).unwrap();
        assert_eq!((region.len(), pieces.get()), (2 * PIECE + 1, 3));
    }

    #[test]
    fn nobody_can_shrink_a_region() {
        let region = SharedMemory::create(8192).unwrap();
        assert!(is_sealed(&region.file));
        let other = File::from(region.file.try_clone().unwrap());
        assert!(other.set_len(0).is_err() && other.set_len(1 << 20).is_err());
    }

    #[test]
    fn nobody_can_change_a_sealed_file() {
        use std::io::Write;
        let mut file = sealed_file(&[b"ab", b"c"]).unwrap();
        assert!(file.write_all(b"d").is_err() && file.set_len(1).is_err());
    }
}
