//! Transfers results from a parallel worker to its leader.
//!
//! A worker sends its results once, when it has finished. Small results go through the queue between the two processes.
//! Large results go into a temporary file, and only the file's name goes through the queue. So neither process ever
//! holds them in memory as a whole.
//!
//! Each leader has its own directory among PostgreSQL's temporary files. The leader reads and removes the files. It
//! removes the directory with all its files when its transaction or a subtransaction fails, and at commit if it has
//! read any. The server removes it when it restarts after a crash. The workers of a leader have exited when its
//! transaction ends, so no process writes to the directory any more.

use std::cell::Cell;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::PathBuf;
use std::sync::Arc;

use pg_predict_engine::Error as Engine;
use pg_predict_engine::encoding::encoded_reader::EncodedRows;
use pg_predict_engine::encoding::stored_form::{self, Purpose};
use pgrx::pg_sys::{self, Datum};

use crate::error::{Error, Result};
use crate::pg::process::leader;
use crate::pg::{running_query, text};
use crate::results::result_set::{Faults, Layout, Results};

/// The largest result that goes through the queue itself, in bytes.
const INLINE: usize = 1 << 20;
/// Tags of the two forms: the result itself, or the name of a file.
const HERE: u8 = 0;
const FILE: u8 = 1;

thread_local! {
    /// Whether this transaction has read files of this backend's workers.
    static READ: Cell<bool> = const { Cell::new(false) };
    static SERIAL: Cell<u32> = const { Cell::new(0) };
}

/// Returns the directory for the files of a leader's workers, relative to the data directory.
fn directory(leader: i32) -> PathBuf {
    PathBuf::from(format!("base/pgsql_tmp/pgsql_tmp{leader}.predict"))
}

/// Registers the callbacks that remove the files at the end of the transaction and forget the query after an error.
/// Called once, when the library is loaded.
pub(crate) fn watch_transactions() {
    // SAFETY: both callbacks are functions of this library, which is never unloaded.
    unsafe {
        pg_sys::RegisterXactCallback(Some(at_end), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(at_part_end), std::ptr::null_mut());
    }
}

fn remove() {
    READ.set(false);
    // SAFETY: reads a variable.
    let directory = directory(unsafe { pg_sys::MyProcPid });
    if directory.exists() {
        // A directory that cannot be removed now is removed when the server starts. An abort must not raise an error.
        let _ = std::fs::remove_dir_all(directory);
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn at_end(event: pg_sys::XactEvent::Type, _argument: *mut std::ffi::c_void) {
    match event {
        pg_sys::XactEvent::XACT_EVENT_ABORT => {
            running_query::forget_query();
            remove();
        }
        pg_sys::XactEvent::XACT_EVENT_COMMIT if READ.get() => remove(),
        _ => {}
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn at_part_end(
    event: pg_sys::SubXactEvent::Type,
    _this: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _argument: *mut std::ffi::c_void,
) {
    if event == pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB {
        running_query::forget_query();
    }
    // SAFETY: reads a variable. A worker's subtransactions end with the worker, and the directory is its leader's.
    if event == pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB && unsafe { pg_sys::ParallelWorkerNumber } < 0 {
        remove();
    }
}

/// Serializes a worker's results. Returns the bytes for the leader: the results, or the name of their file.
pub(crate) fn put(results: &Results) -> Result<Datum> {
    let size = results.flat_size(Purpose::Exchange)?;
    if size <= INLINE {
        let mut flat = vec![HERE];
        results.write_flat(Purpose::Exchange, |piece| {
            flat.extend_from_slice(piece);
            Ok(())
        })?;
        return Ok(text::bytes(&flat));
    }
    let directory = directory(leader());
    let serial = SERIAL.replace(SERIAL.get() + 1);
    let name = format!("{}.{serial}", std::process::id());
    let path = directory.join(&name).to_string_lossy().into_owned();
    let (top, own, file_path) = (text::c("base/pgsql_tmp"), text::c(&directory.to_string_lossy()), text::c(&path));
    let failed = |reason: String| Error::TemporaryFile { path: path.clone(), reason };
    // SAFETY: creates the directory, which may exist already, and a file that counts against temp_file_limit. Both
    // calls raise an error if they fail. The file is closed below or, after an error, with its resource owner.
    unsafe {
        pg_sys::PathNameCreateTemporaryDir(top.as_ptr(), own.as_ptr());
        let file = pg_sys::PathNameCreateTemporaryFile(file_path.as_ptr(), true);
        let mut at = 0;
        let written = results.write_flat(Purpose::Exchange, |piece| {
            for part in piece.chunks(1 << 20) {
                // The amount is an int up to PostgreSQL 15, and a size_t from 16 on. A part of 1 MB fits both.
                #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "at most 1 MB")]
                let n = pg_sys::FileWrite(
                    file,
                    part.as_ptr().cast_mut().cast(),
                    part.len() as _,
                    at,
                    pg_sys::WaitEventIO::WAIT_EVENT_BUFFILE_WRITE,
                );
                if usize::try_from(n).ok() != Some(part.len()) {
                    return Err(failed(std::io::Error::last_os_error().to_string()));
                }
                at += i64::try_from(part.len()).unwrap_or(0);
            }
            Ok(())
        });
        pg_sys::FileClose(file);
        written?;
    }
    let mut sent = vec![FILE];
    sent.extend_from_slice(name.as_bytes());
    Ok(text::bytes(&sent))
}

/// Results as the leader receives them.
pub(crate) enum Parcel {
    Here(Results),
    File(PathBuf),
}

/// Decodes what a worker sent. Returns None if the worker had no rows.
pub(crate) fn take(bytes: &[u8]) -> Result<Option<Parcel>> {
    match bytes.split_first() {
        None => Ok(None),
        // Digits and dots only: a worker can name no file outside the directory that this backend's workers write to.
        Some((&FILE, name)) if name.iter().all(|b| b.is_ascii_digit() || *b == b'.') => {
            READ.set(true);
            // SAFETY: reads a variable.
            let directory = directory(unsafe { pg_sys::MyProcPid });
            Ok(Some(Parcel::File(directory.join(String::from_utf8_lossy(name).as_ref()))))
        }
        Some((&HERE, flat)) => Results::read_flat(flat, Purpose::Exchange).map(|r| Some(Parcel::Here(r))),
        Some(_) => Err(Engine::Corrupt { what: "a worker sent what is no result".into() }.into()),
    }
}

impl Parcel {
    /// Passes the layout and the faults to `layout` and then every chunk to `chunk`. Removes the file at the end.
    pub(crate) fn unpack(
        self,
        layout: impl FnOnce(Arc<Layout>, Faults) -> Result<()>,
        mut chunk: impl FnMut(Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        let path = match self {
            Self::Here(results) => {
                layout(Arc::clone(&results.layout), results.faults.clone())?;
                return results.each(|c| chunk(c.to_vec()));
            }
            Self::File(path) => path,
        };
        let failed =
            |e: std::io::Error| Error::TemporaryFile { path: path.display().to_string(), reason: e.to_string() };
        let file = File::open(&path).map_err(failed)?;
        // The size of the file bounds every allocation, whatever the lengths in the file say.
        let mut left = usize::try_from(file.metadata().map_err(failed)?.len()).unwrap_or(usize::MAX);
        let mut file = BufReader::with_capacity(1 << 16, file);
        let mut take = |n: usize| -> Result<Vec<u8>> {
            left =
                left.checked_sub(n).ok_or_else(|| Engine::Corrupt { what: "a worker's file is cut short".into() })?;
            let mut bytes = Vec::new();
            bytes.try_reserve_exact(n).map_err(|_| Engine::OutOfMemory { what: "results".into(), bytes: n })?;
            bytes.resize(n, 0);
            file.read_exact(&mut bytes).map_err(failed)?;
            Ok(bytes)
        };
        let mut head = take(HEAD)?;
        let n = number(head.get(HEAD - 4..));
        head.append(&mut take(n + 4)?);
        let (head, faults, chunks) = stored_form::StoredReader(&head).head(Purpose::Exchange)?;
        let head = Arc::new(head);
        layout(Arc::clone(&head), faults)?;
        for _ in 0..chunks {
            let n = number(take(4)?.get(..));
            let bytes = take(n)?;
            EncodedRows::parse(&bytes)?.check(&head)?;
            chunk(bytes)?;
        }
        std::fs::remove_file(&path).map_err(failed)
    }
}

/// Bytes of a flat result before its header, including the length of the header.
const HEAD: usize = 12;

fn number(bytes: Option<&[u8]>) -> usize {
    let bytes = bytes.and_then(|bytes| bytes.first_chunk()).copied().unwrap_or_default();
    u32::from_ne_bytes(bytes) as usize
}
