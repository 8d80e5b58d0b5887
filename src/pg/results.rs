//! Results: the scored rows of one group, as encoded chunks, in memory up to half of work_mem and in a temporary file beyond.
//!
//! The file is a tuplestore's with one bytea a chunk: PostgreSQL accounts for it, names it and removes it. It is closed
//! when its aggregate ends; after an error PostgreSQL closes the file itself and only the memory is given back here.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use pg_predict_engine::Error as Engine;
use pg_predict_engine::chunk::Chunk;
use pg_predict_engine::reference::Element;
use pg_predict_engine::signature::Output;
use pgrx::pg_sys;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::pg::call::Call;
use crate::pg::convert::Carried;
use crate::pg::{memory, text};

/// What the rows of a result consist of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Layout {
    /// The model's name.
    pub(crate) model: String,
    /// The version's number.
    pub(crate) version: i32,
    /// The outputs that were kept.
    pub(crate) outputs: Vec<Output>,
    /// The output that casts and plain calls give: its place in `outputs`.
    pub(crate) selected: usize,
    /// An element of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) element: Option<ElementKey>,
    /// The columns that came along.
    pub(crate) carried: Vec<Carried>,
}

/// An element, as stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ElementKey {
    Position(usize),
    Integer(i64),
    Text(String),
}

impl From<&Element> for ElementKey {
    fn from(element: &Element) -> Self {
        match element {
            Element::Position(n) => Self::Position(*n),
            Element::Integer(n) => Self::Integer(*n),
            Element::Text(t) => Self::Text(t.clone()),
        }
    }
}

/// The scored rows of one group.
pub(crate) struct Results {
    pub(crate) layout: Arc<Layout>,
    rows: u64,
    memory: Vec<Vec<u8>>,
    in_memory: usize,
    spill: Option<Spill>,
    /// Encoded bytes of all chunks, and their number.
    bytes: usize,
    chunks: u32,
}

/// Chunks in a temporary file. Shared with the aggregate that wrote it, which closes the file when it ends.
struct Spill(Rc<Store>);

struct Store {
    store: *mut pg_sys::Tuplestorestate,
    desc: pg_sys::TupleDesc,
    slot: *mut pg_sys::TupleTableSlot,
    closed: Cell<bool>,
    /// Holds all of the above.
    _home: memory::Private,
}

/// Closes the file when the aggregate that wrote it ends. Not called after an error.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn close(argument: pg_sys::Datum) {
    // SAFETY: registered with a share that the aggregate's context holds, which is reset after this.
    let store = unsafe { &*argument.cast_mut_ptr::<Rc<Store>>() };
    if !store.closed.replace(true) {
        // SAFETY: open until here.
        unsafe { pg_sys::tuplestore_end(store.store) };
    }
}

impl Spill {
    fn new(call: &Call) -> Result<Self> {
        let context = call.aggregate_context("predict_batch")?;
        let home = memory::Private::new(c"pg_predict results");
        let (store, desc, slot) = memory::within(home.context(), || {
            // SAFETY: all three are made in the private context; the store keeps next to nothing in memory.
            unsafe {
                let store = pg_sys::tuplestore_begin_heap(true, false, 64);
                let desc = pg_sys::CreateTemplateTupleDesc(1);
                pg_sys::TupleDescInitEntry(desc, 1, c"chunk".as_ptr(), pg_sys::BYTEAOID, -1, 0);
                let slot = pg_sys::MakeSingleTupleTableSlot(desc, &raw const pg_sys::TTSOpsMinimalTuple);
                (store, desc, slot)
            }
        });
        let shared = Rc::new(Store { store, desc, slot, closed: Cell::new(false), _home: home });
        let theirs = memory::own(context, Rc::clone(&shared));
        // SAFETY: the callback's share lives in the aggregate's context, which is reset after the callback.
        unsafe { pg_sys::AggRegisterCallback(call.frame(), Some(close), pg_sys::Datum::from(theirs)) };
        Ok(Self(shared))
    }

    fn put(&mut self, chunk: &[u8]) {
        let mut datum = text::bytes(chunk);
        let mut null = false;
        // SAFETY: one attribute, one value; the store copies it.
        unsafe {
            pg_sys::tuplestore_putvalues(self.0.store, self.0.desc, &raw mut datum, &raw mut null);
            pg_sys::pfree(datum.cast_mut_ptr());
        }
    }

    fn each(&self, mut f: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        if self.0.closed.get() {
            return Err(Error::StaleHandle);
        }
        // SAFETY: the store and the slot live as long as self; the datum points into the slot's tuple, which stays
        // until the next is fetched.
        unsafe {
            pg_sys::tuplestore_rescan(self.0.store);
            while pg_sys::tuplestore_gettupleslot(self.0.store, true, false, self.0.slot) {
                pg_sys::slot_getsomeattrs_int(self.0.slot, 1);
                f(text::varlena(*(*self.0.slot).tts_values))?;
            }
            pg_sys::ExecClearTuple(self.0.slot);
        }
        Ok(())
    }
}

/// Half of work_mem: whoever reads the rows keeps as many again.
fn memory_limit() -> usize {
    // SAFETY: reads a setting.
    unsafe { pg_sys::work_mem as usize * 1024 / 2 }
}

impl Results {
    /// An empty one.
    pub(crate) fn new(layout: Arc<Layout>) -> Self {
        Self { layout, rows: 0, memory: Vec::new(), in_memory: 0, spill: None, bytes: 0, chunks: 0 }
    }

    /// Rows in it.
    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// Appends a chunk. `call` is the aggregate's, for the file.
    pub(crate) fn push(&mut self, chunk: Vec<u8>, call: &Call) -> Result<()> {
        self.rows += Chunk::parse(&chunk)?.rows() as u64;
        self.bytes += chunk.len();
        self.chunks += 1;
        if self.spill.is_none() && self.in_memory + chunk.len() <= memory_limit() {
            self.in_memory += chunk.len();
            self.memory.push(chunk);
        } else {
            if self.spill.is_none() {
                self.spill = Some(Spill::new(call)?);
            }
            if let Some(spill) = self.spill.as_mut() {
                spill.put(&chunk);
            }
        }
        Ok(())
    }

    /// Appends a chunk that stays in memory: for values that are being read.
    pub(crate) fn push_in_memory(&mut self, chunk: Vec<u8>) -> Result<()> {
        self.rows += Chunk::parse(&chunk)?.rows() as u64;
        self.bytes += chunk.len();
        self.chunks += 1;
        self.memory.push(chunk);
        Ok(())
    }

    /// Calls `f` for every chunk, in order.
    pub(crate) fn each(&self, mut f: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        for chunk in &self.memory {
            f(chunk)?;
        }
        match &self.spill {
            Some(spill) => spill.each(f),
            None => Ok(()),
        }
    }

    /// Takes on the layout of rows that are to be appended.
    pub(crate) fn agree(&mut self, layout: &Arc<Layout>) -> Result<()> {
        if self.layout != *layout {
            if self.rows != 0 {
                return Err(Error::RowsDiffer);
            }
            self.layout = Arc::clone(layout);
        }
        Ok(())
    }

    /// The size of the flat form.
    pub(crate) fn flat_size(&self) -> Result<usize> {
        Ok(self.header()?.len() + 4 * self.chunks as usize + self.bytes)
    }

    fn header(&self) -> Result<Vec<u8>> {
        let layout = serde_json::to_vec(&*self.layout).map_err(|e| Error::BadBatch { reason: e.to_string() })?;
        let mut out = Vec::with_capacity(layout.len() + 8);
        out.extend_from_slice(&(layout.len() as u32).to_ne_bytes());
        out.extend_from_slice(&layout);
        out.extend_from_slice(&self.chunks.to_ne_bytes());
        Ok(out)
    }

    /// Writes the flat form, piece by piece.
    pub(crate) fn write_flat(&self, mut put: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        put(&self.header()?)?;
        self.each(|chunk| {
            put(&(chunk.len() as u32).to_ne_bytes())?;
            put(chunk)
        })
    }

    /// Reads the layout out of the flat form.
    pub(crate) fn read_layout(bytes: &[u8]) -> Result<Layout> {
        serde_json::from_slice(bytes).map_err(|_| Engine::Corrupt { what: "its layout cannot be read".into() }.into())
    }

    /// Reads the flat form; everything stays in memory.
    pub(crate) fn read_flat(bytes: &[u8]) -> Result<Self> {
        fn cut() -> Error {
            Engine::Corrupt { what: "it is cut short".into() }.into()
        }
        fn take<'a>(rest: &mut &'a [u8], n: usize) -> Result<&'a [u8]> {
            if n > rest.len() {
                return Err(cut());
            }
            let (head, tail) = rest.split_at(n);
            *rest = tail;
            Ok(head)
        }
        fn number(rest: &mut &[u8]) -> Result<usize> {
            Ok(u32::from_ne_bytes(take(rest, 4)?.try_into().map_err(|_| cut())?) as usize)
        }
        let mut rest = bytes;
        let n = number(&mut rest)?;
        let layout = Self::read_layout(take(&mut rest, n)?)?;
        let mut results = Self::new(Arc::new(layout));
        for _ in 0..number(&mut rest)? {
            let n = number(&mut rest)?;
            let chunk = take(&mut rest, n)?;
            let mut copy = Vec::new();
            copy.try_reserve_exact(n).map_err(|_| Engine::OutOfMemory { what: "results".into(), bytes: n })?;
            copy.extend_from_slice(chunk);
            results.push_in_memory(copy)?;
        }
        Ok(results)
    }
}
