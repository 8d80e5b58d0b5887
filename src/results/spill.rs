//! Spills results that exceed their memory limit to one temporary file for all groups of a call.
//!
//! The file is a BufFile: PostgreSQL accounts for it, names it and removes it. It is closed when its aggregate ends.
//! After an error PostgreSQL closes it, and only the memory is freed here.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use pg_predict_engine::Error as Engine;
use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::pg::call::Call;
use crate::pg::memory;

/// The memory limit that all groups of a call share, and their file.
pub(crate) struct Pool {
    limit: usize,
    in_memory: Cell<usize>,
    file: RefCell<Option<Rc<TemporaryFile>>>,
}

/// A chunk, in memory or in the file.
pub(crate) enum Piece {
    Memory(CountedFile),
    File { file: Rc<TemporaryFile>, number: i32, offset: i64, length: usize },
}

/// A chunk in memory, counted by its pool.
pub(crate) struct CountedFile {
    bytes: Vec<u8>,
    pool: Rc<Pool>,
}

impl Drop for CountedFile {
    fn drop(&mut self) {
        self.pool.in_memory.set(self.pool.in_memory.get().saturating_sub(self.bytes.len()));
    }
}

/// An open temporary file.
pub(crate) struct TemporaryFile {
    file: *mut pg_sys::BufFile,
    end: Cell<(i32, i64)>,
    closed: Cell<bool>,
    /// The context of the BufFile's own memory.
    _home: memory::Private,
}

/// Closes the file when the aggregate that wrote it ends. Not called after an error.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn close(argument: pg_sys::Datum) {
    // SAFETY: the argument is an `Rc` in the aggregate's context, which is reset only after this callback.
    let file = unsafe { &*argument.cast_mut_ptr::<Rc<TemporaryFile>>() };
    if !file.closed.replace(true) {
        // SAFETY: the file has been open until here.
        unsafe { pg_sys::BufFileClose(file.file) };
    }
}

impl Pool {
    /// Creates a pool with a limit of half of work_mem. The reader of the rows uses as much again.
    pub(crate) fn new() -> Rc<Self> {
        // SAFETY: reads a setting.
        let limit = usize::try_from(unsafe { pg_sys::work_mem }).unwrap_or(0).saturating_mul(1024 / 2);
        Rc::new(Self { limit, in_memory: Cell::new(0), file: RefCell::new(None) })
    }

    /// Keeps a chunk in memory regardless of the limit. Used for a value that is being read.
    pub(crate) fn keep_here(self: &Rc<Self>, bytes: Vec<u8>) -> Piece {
        self.in_memory.set(self.in_memory.get() + bytes.len());
        Piece::Memory(CountedFile { bytes, pool: Rc::clone(self) })
    }

    /// Keeps a chunk, in memory if the limit allows it. The file is closed when the aggregate of `call` ends.
    pub(crate) fn keep(self: &Rc<Self>, bytes: Vec<u8>, call: &Call) -> Result<Piece> {
        if self.in_memory.get() + bytes.len() <= self.limit {
            return Ok(self.keep_here(bytes));
        }
        let mut slot = self.file.borrow_mut();
        let file = match &*slot {
            // A hash aggregate that itself spills finishes its groups in parts. The end of each part closes the file.
            Some(file) if !file.closed.get() => Rc::clone(file),
            _ => {
                let file = TemporaryFile::create(call)?;
                *slot = Some(Rc::clone(&file));
                file
            }
        };
        let (number, offset) = file.append(&bytes)?;
        Ok(Piece::File { file, number, offset, length: bytes.len() })
    }
}

impl TemporaryFile {
    fn create(call: &Call) -> Result<Rc<Self>> {
        let context = call.aggregate_context("predict_batch")?;
        let home = memory::Private::new(c"pg_predict results");
        // SAFETY: creates a file whose memory is in the private context. The current resource owner owns the file.
        let file = memory::within(home.context(), || unsafe { pg_sys::BufFileCreateTemp(false) });
        let shared = Rc::new(Self { file, end: Cell::new((0, 0)), closed: Cell::new(false), _home: home });
        let theirs = memory::own(context, Rc::clone(&shared));
        // SAFETY: the callback's `Rc` lives in the aggregate's context, which is reset only after the callback.
        unsafe { pg_sys::AggRegisterCallback(call.frame(), Some(close), pg_sys::Datum::from(theirs)) };
        Ok(shared)
    }

    fn seek(&self, (number, offset): (i32, i64)) -> Result<()> {
        if self.closed.get() {
            return Err(Error::StaleHandle);
        }
        // SAFETY: the file is open.
        match unsafe { pg_sys::BufFileSeek(self.file, number, offset, libc::SEEK_SET) } {
            0 => Ok(()),
            _ => Err(Engine::Corrupt { what: "a temporary file is shorter than it was".into() }.into()),
        }
    }

    /// Appends bytes to the file, and returns their position.
    fn append(&self, bytes: &[u8]) -> Result<(i32, i64)> {
        let at = self.end.get();
        self.seek(at)?;
        let mut end = (0, 0);
        // SAFETY: the file is open; a write that fails raises an error.
        unsafe {
            pg_sys::BufFileWrite(self.file, bytes.as_ptr().cast_mut().cast(), bytes.len());
            pg_sys::BufFileTell(self.file, &raw mut end.0, &raw mut end.1);
        }
        self.end.set(end);
        Ok(at)
    }
}

impl Piece {
    /// Calls `f` with the chunk.
    pub(crate) fn read(&self, f: impl FnOnce(&[u8]) -> Result<()>) -> Result<()> {
        match self {
            Self::Memory(counted) => f(&counted.bytes),
            Self::File { file, number, offset, length } => {
                file.seek((*number, *offset))?;
                let mut bytes = Vec::new();
                bytes
                    .try_reserve_exact(*length)
                    .map_err(|_| Engine::OutOfMemory { what: "results".into(), bytes: *length })?;
                bytes.resize(*length, 0);
                // SAFETY: the file is open, and the buffer has `length` bytes.
                let n = unsafe { pg_sys::BufFileRead(file.file, bytes.as_mut_ptr().cast(), *length) };
                if n != *length {
                    return Err(Engine::Corrupt { what: "a temporary file is shorter than it was".into() }.into());
                }
                f(&bytes)
            }
        }
    }
}
