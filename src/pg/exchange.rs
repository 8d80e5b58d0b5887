//! Results from a parallel worker to its leader.
//!
//! They are the worker's last word. Small ones go through the queue between the two; large ones into a temporary file of
//! which only the path goes, so that neither side ever holds them whole. The files of a leader are in a directory of its
//! own among PostgreSQL's temporary files: read and removed by the leader, removed with all that is in it when its
//! transaction (or a part of it) fails, and by the server when it restarts after a crash. The leader's workers are gone
//! when its transaction ends, so nobody writes there any more.

use std::cell::Cell;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::PathBuf;
use std::sync::Arc;

use pg_predict_engine::Error as Engine;
use pg_predict_engine::chunk::Chunk;
use pg_predict_engine::flat::{self, Purpose};
use pgrx::pg_sys::{self, Datum};

use crate::error::{Error, Result};
use crate::pg::results::{Faults, Layout, Results};
use crate::pg::text;

/// What goes through the queue as it is.
const INLINE: usize = 1 << 20;
/// Tags of the two forms.
const HERE: u8 = 0;
const FILE: u8 = 1;

thread_local! {
    /// Files of this backend's workers have been read in this transaction.
    static READ: Cell<bool> = const { Cell::new(false) };
    static SERIAL: Cell<u32> = const { Cell::new(0) };
}

/// The directory for the workers of a leader, in the server's data directory, where every backend is.
fn directory(leader: i32) -> PathBuf {
    PathBuf::from(format!("base/pgsql_tmp/pgsql_tmp{leader}.predict"))
}

/// The process that leads this one, or this one.
pub(crate) fn leader() -> i32 {
    // SAFETY: a worker's lock group has its leader's entry, which stays until the worker has gone.
    unsafe {
        let leader = (*pg_sys::MyProc).lockGroupLeader;
        if leader.is_null() { pg_sys::MyProcPid } else { (*leader).pid }
    }
}

/// Sees to it that the files go with the transaction. Once, when the library is loaded.
pub(crate) fn watch_transactions() {
    // SAFETY: registers two functions that stay where they are.
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
        // What cannot be removed now is removed when the server starts; a failed transaction must not fail again.
        let _ = std::fs::remove_dir_all(directory);
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn at_end(event: pg_sys::XactEvent::Type, _argument: *mut std::ffi::c_void) {
    match event {
        pg_sys::XactEvent::XACT_EVENT_ABORT => remove(),
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
    // SAFETY: reads a variable. A worker's parts end with it; the directory is its leader's.
    if event == pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB && unsafe { pg_sys::ParallelWorkerNumber } < 0 {
        remove();
    }
}

/// What a worker sends.
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
    // SAFETY: makes the directory, which may be there, and a file that counts against temp_file_limit; both raise where
    // they cannot. The file is closed below, or with its resource owner after an error.
    unsafe {
        pg_sys::PathNameCreateTemporaryDir(top.as_ptr(), own.as_ptr());
        let file = pg_sys::PathNameCreateTemporaryFile(file_path.as_ptr(), true);
        let mut at = 0;
        let written = results.write_flat(Purpose::Exchange, |piece| {
            for part in piece.chunks(1 << 20) {
                // An int until PostgreSQL 15, a size from 16 on: a part is as long as either.
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

/// What the leader gets.
pub(crate) enum Parcel {
    Here(Results),
    File(PathBuf),
}

/// Opens what a worker sent; none when the worker had no rows.
pub(crate) fn take(bytes: &[u8]) -> Result<Option<Parcel>> {
    match bytes.split_first() {
        None => Ok(None),
        // A worker names a file of the directory that this backend's workers write to, and nothing else.
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
    /// Gives the layout and the bad rows' count, then every chunk, and removes the file.
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
        // Memory is sized by what is there, whatever a length says.
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
        let (head, faults, chunks) = flat::Reader(&head).head(Purpose::Exchange)?;
        let head = Arc::new(head);
        layout(Arc::clone(&head), faults)?;
        for _ in 0..chunks {
            let n = number(take(4)?.get(..));
            let bytes = take(n)?;
            Chunk::parse(&bytes)?.check(&head)?;
            chunk(bytes)?;
        }
        std::fs::remove_file(&path).map_err(failed)
    }
}

/// Bytes of a flat result before its header, the length of the header included.
const HEAD: usize = 12;

fn number(bytes: Option<&[u8]>) -> usize {
    let bytes = bytes.and_then(|bytes| bytes.first_chunk()).copied().unwrap_or_default();
    u32::from_ne_bytes(bytes) as usize
}
