//! State of a call site: what all its rows share, and the groups of rows that it scores.
//!
//! A `CallSite` holds the session, the inference thread and the binding. It lives as long as the query. A `GroupState`
//! holds the rows of one aggregate group that wait for their batch, and the results so far. Several batches of a call
//! site may be under way. Results are appended to the group that their rows came from, in the order of the rows.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use pg_predict_engine::encoding::encoded_rows::{self};
use pg_predict_engine::encoding::layout::MOST_COLUMNS;
use pg_predict_engine::options::OnNull;
use pg_predict_engine::reference::Selection;
use pg_predict_engine::run::RunOutput;
use pg_predict_engine::signature::Output;
use pg_predict_engine::version::Version;
use pgrx::pg_sys;

use crate::error::{Error, Result, of_model};
use crate::pg::call::Call;
use crate::results::exchange::Parcel;
use crate::results::result_rows;
use crate::results::result_set::{Faults, Layout, Results, ScoredRows};
use crate::results::spill::Pool;
use crate::rows::binding::{Binding, Carried};
use crate::rows::carried_values;
use crate::rows::direct::Direct;
use crate::rows::row_buffer::RowBuffer;
use crate::runtime::activity::QueryForm;
use crate::runtime::batch_runner::{BatchRunner, RunSpec};
use crate::runtime::sessions::LoadedModel;
use crate::settings;

/// Rows that a group reserves room for at first. The room doubles, because a query may have many groups of few rows.
const FIRST_ROWS: usize = 4;
/// The most buffers that are kept for reuse.
const MOST_SPARE: usize = 3;

/// The position of a row among the arguments of a call.
#[derive(Clone, Copy)]
pub(crate) struct RowArguments {
    /// Its first argument.
    pub(crate) first: usize,
    /// The argument with the names of its columns, if the row was expanded into its columns.
    pub(crate) names: Option<usize>,
}

/// State shared by the rows of one call site.
pub(crate) struct CallSite {
    runner: BatchRunner,
    selection: Selection,
    binding: Option<Binding>,
    /// How rows without NULLs are written directly into the batch. All groups share it.
    plain: Option<Rc<PlainRow>>,
    layout: Option<Arc<Layout>>,
    /// The batches under way, oldest first, and the results that each is appended to.
    under_way: VecDeque<(RowBuffer, Rc<RefCell<Results>>)>,
    /// Buffers for reuse.
    spare: Vec<RowBuffer>,
    /// Bytes of the buffers of all groups with waiting rows.
    waiting: usize,
    pool: Rc<Pool>,
    context: pg_sys::MemoryContext,
}

impl CallSite {
    /// Returns the value of a call for a row. An out-of-range value becomes NULL if `on_error` is `null`.
    pub(crate) fn answer(&mut self, value: Result<Option<pg_sys::Datum>>) -> Result<Option<pg_sys::Datum>> {
        self.runner.answer(value)
    }

    /// Creates the state of a call site. `only_selected`: the other outputs are discarded. The last argument is the
    /// form of the query and the number of rows that the plan expects.
    pub(crate) fn new(
        version: Arc<Version>,
        selection: Selection,
        only_selected: bool,
        session: Arc<LoadedModel>,
        context: pg_sys::MemoryContext,
        (form, expected): (QueryForm, Option<f64>),
    ) -> Result<Self> {
        let outputs = version.signature.outputs.len();
        let wanted: Vec<bool> = (0..outputs).map(|i| !only_selected || i == selection.output).collect();
        let selection =
            Selection { output: if only_selected { 0 } else { selection.output }, element: selection.element };
        Ok(Self {
            runner: BatchRunner::new(RunSpec::new(version, &wanted), session, form, expected)?,
            selection,
            binding: None,
            plain: None,
            layout: None,
            under_way: VecDeque::new(),
            spare: Vec::new(),
            waiting: 0,
            pool: Pool::new(),
            context,
        })
    }

    /// Returns the layout of the results.
    fn layout(&mut self) -> Result<Arc<Layout>> {
        if let Some(layout) = &self.layout {
            return Ok(Arc::clone(layout));
        }
        let carried: Vec<Carried> = self.binding.as_ref().map(|b| b.carried().to_vec()).unwrap_or_default();
        let bound = self.binding.is_some();
        let layout = Arc::new(self.runner.spec.layout(&self.selection, carried, !bound));
        // The results become rows of PostgreSQL sooner or later, so PostgreSQL's limit applies.
        let columns = layout.carried.len() + layout.outputs.len();
        if columns > MOST_COLUMNS {
            return Err(Error::TooManyColumns { columns, limit: MOST_COLUMNS });
        }
        // Without a binding the layout is not final: no row has determined the carried columns yet.
        if bound {
            self.layout = Some(Arc::clone(&layout));
        }
        Ok(layout)
    }

    /// Binds the call's arguments at the first row that determines their types. Returns whether they are bound.
    /// `columns`: the columns to carry, if the reader is known.
    pub(crate) fn bind(&mut self, call: &Call, row: RowArguments, columns: Option<&[String]>) -> Result<bool> {
        if self.binding.is_none() {
            let arguments = call.row(row.first, row.names)?;
            self.binding = Binding::new(&self.runner.spec.version, &arguments, columns, self.context)
                .map_err(|error| call.explained(error, row.first))?;
            let limit = self.runner.batch_size;
            let plain = self.binding.as_ref().and_then(Binding::plain_row);
            self.plain = plain.map(|(direct, carried, form)| Rc::new(PlainRow { direct, carried, form, limit }));
        }
        Ok(self.binding.is_some())
    }

    /// Encodes the results of a batch and counts its rows. Rows that failed become NULL.
    fn encode(&mut self, buffer: &mut RowBuffer, ran: &RunOutput) -> Result<Vec<u8>> {
        buffer.note_failures(ran);
        let rows = &buffer.rows;
        let encoded = encoded_rows::encode(rows, &ran.values).map_err(of_model(&self.runner.spec.label))?;
        let failed = buffer.failures.len();
        let nulls = rows.ran.iter().filter(|ran| !**ran).count() - failed;
        self.runner.count(rows.ran.len(), nulls, failed);
        Ok(encoded)
    }

    /// Appends the results of a batch to those of its group.
    fn finish(
        &mut self,
        buffer: &mut RowBuffer,
        ran: &RunOutput,
        results: &Rc<RefCell<Results>>,
        call: &Call,
    ) -> Result<()> {
        let encoded = self.encode(buffer, ran)?;
        let failed =
            (buffer.failures.len() as u64, buffer.failures.first().map(|(row, reason)| (*row, reason.as_str())));
        append(&mut results.borrow_mut(), encoded, failed, call)
    }

    /// Waits for all batches under way, and keeps their results.
    pub(crate) fn collect(&mut self, call: &Call) -> Result<()> {
        while !self.under_way.is_empty() {
            self.collect_first(call)?;
        }
        Ok(())
    }

    /// Waits for the oldest batch under way, and keeps its results.
    fn collect_first(&mut self, call: &Call) -> Result<()> {
        let Some((mut buffer, results)) = self.under_way.pop_front() else { return Ok(()) };
        let (batch, ran, _) = self.runner.collect()?;
        self.finish(&mut buffer, &ran, &results, call)?;
        buffer.batch = batch;
        self.keep(buffer);
        Ok(())
    }

    /// Keeps a buffer for other rows.
    fn keep(&mut self, mut buffer: RowBuffer) {
        buffer.clear();
        if self.spare.len() < MOST_SPARE {
            self.spare.push(buffer);
        }
    }

    /// Submits the waiting rows of a group as a batch. `is_last`: they are its last rows.
    fn submit(&mut self, group: &mut GroupState, is_last: bool, call: &Call) -> Result<()> {
        if group.buffer.rows.ran.is_empty() {
            return Ok(());
        }
        let layout = self.layout()?;
        let results = Rc::clone(
            group.results.get_or_insert_with(|| Rc::new(RefCell::new(Results::new(layout, Rc::clone(&self.pool))))),
        );
        if group.buffer.batch.rows == 0 {
            // All rows are NULL: there is nothing to run. Collect earlier batches first to keep the order of rows.
            self.collect(call)?;
            let nothing = self.runner.nothing();
            self.finish(&mut group.buffer, &nothing, &results, call)?;
            group.buffer.clear();
            return Ok(());
        }
        // The last rows of a group are waited for at once, so a thread would only cost time.
        if is_last && self.under_way.is_empty() && self.runner.is_short(group.buffer.batch.rows) {
            let ran = self.runner.run_here(&group.buffer.batch)?.0;
            self.finish(&mut group.buffer, &ran, &results, call)?;
            self.keep(group.buffer.take());
            return Ok(());
        }
        while !self.runner.has_room(group.buffer.batch.bytes()) {
            self.collect_first(call)?;
        }
        // The group gets another buffer with its next row, if there is one.
        let mut full = group.buffer.take();
        self.runner.submit(std::mem::take(&mut full.batch))?;
        self.under_way.push_back((full, results));
        if !settings::enable_pipelining() {
            self.collect(call)?;
        }
        Ok(())
    }

    /// Runs a batch immediately and returns its encoded results. Used by plain calls.
    pub(crate) fn run_now(&mut self, group: &mut GroupState) -> Result<Vec<u8>> {
        let buffer = &mut group.buffer;
        let ran = if buffer.batch.rows == 0 {
            self.runner.nothing()
        } else if self.runner.is_short(1) {
            self.runner.run_here(&buffer.batch)?.0
        } else {
            self.runner.submit(std::mem::take(&mut buffer.batch))?;
            let (batch, ran, _) = self.runner.collect()?;
            buffer.batch = batch;
            ran
        };
        let encoded = self.encode(buffer, &ran)?;
        if let Some((_, reason)) = buffer.failures.first() {
            self.runner.warn_once(reason);
        }
        buffer.clear();
        Ok(encoded)
    }

    /// Returns all outputs of the version.
    pub(crate) fn outputs(&self) -> &[Output] {
        &self.runner.spec.version.signature.outputs
    }

    /// Returns the layout of the results of plain calls.
    pub(crate) fn plain_layout(&mut self) -> Result<Arc<Layout>> {
        self.layout()
    }
}

/// Appends encoded rows to the results of a group. `failed`: how many of them failed, and the first of them.
fn append(
    results: &mut Results,
    encoded: Vec<u8>,
    (rows, first): (u64, Option<(usize, &str)>),
    call: &Call,
) -> Result<()> {
    if let Some((row, reason)) = first {
        let key = result_rows::first_carried(&results.layout, &encoded, row)?;
        let which =
            key.unwrap_or_else(|| format!("row {} of those that were gathered", results.rows() + row as u64 + 1));
        results.count_faults(Faults { rows, first: Some((which, reason.to_owned())) });
    }
    results.push(encoded, call)
}

/// The rows of one aggregate group that wait for a batch, and the results of earlier rows.
pub(crate) struct GroupState {
    /// None for a group that holds only results of parallel workers.
    pub(crate) site: Option<Rc<RefCell<CallSite>>>,
    /// The model reference, as bytes. It must be the same for every row.
    pub(crate) reference: Vec<u8>,
    pub(crate) buffer: RowBuffer,
    /// The number of rows before the first one that determined the row type. All of them are NULL.
    pub(crate) unbound: usize,
    pub(crate) bound: bool,
    pub(crate) results: Option<Rc<RefCell<Results>>>,
    pub(crate) parcel: Option<Parcel>,
    /// The last rows of the group, if a BatchPredict node has scored them.
    scored: Option<(Rc<ScoredRows>, Range<usize>)>,
    pub(crate) noted: usize,
    pub(crate) plain: Option<Rc<PlainRow>>,
}

/// How rows are gathered whose values go into the tensor unchanged. Used only if all calls name the same model.
pub(crate) struct PlainRow {
    direct: Direct,
    /// The arguments that are carried.
    carried: Vec<usize>,
    form: carried_values::CarriedForm,
    /// Rows per batch.
    limit: usize,
}

impl GroupState {
    /// Creates a group without rows.
    pub(crate) fn new(site: Option<Rc<RefCell<CallSite>>>, reference: &[u8]) -> Self {
        Self {
            site,
            reference: reference.to_vec(),
            buffer: RowBuffer::default(),
            unbound: 0,
            bound: false,
            results: None,
            parcel: None,
            scored: None,
            noted: 0,
            plain: None,
        }
    }

    /// Creates a group that holds only the results of a parallel worker.
    pub(crate) fn of_parcel(parcel: Option<Parcel>) -> Self {
        let mut group = Self::new(None, &[]);
        group.parcel = parcel;
        group
    }

    /// Adds a row that a BatchPredict node has scored.
    pub(crate) fn add_scored(&mut self, number: u64, pool: &Rc<Pool>, call: &Call) -> Result<()> {
        if let Some((rows, range)) = &mut self.scored
            && rows.position(number) == Some(range.end)
        {
            range.end += 1;
            return Ok(());
        }
        self.keep_scored(call)?;
        let (rows, row) = ScoredRows::find(number)?;
        let layout = &rows.layout;
        self.results
            .get_or_insert_with(|| Rc::new(RefCell::new(Results::new(Arc::clone(layout), Rc::clone(pool)))))
            .borrow_mut()
            .agree(layout)?;
        self.scored = Some((rows, row..row + 1));
        Ok(())
    }

    /// Appends the last rows of the group, if a BatchPredict node has scored them, to its results.
    fn keep_scored(&mut self, call: &Call) -> Result<()> {
        let (Some((rows, range)), Some(results)) = (self.scored.take(), &self.results) else { return Ok(()) };
        let encoded = rows.encoded(range.clone())?;
        let (failed, first) = rows.failures(range.clone());
        let first = first.map(|(row, reason)| (row - range.start, reason.as_str()));
        append(&mut results.borrow_mut(), encoded, (failed, first), call)
    }

    /// Checks that a call names the model that the group began with.
    #[inline]
    pub(crate) fn check_reference(&self, datum: pg_sys::Datum) -> Result<()> {
        if crate::pg::text::raw(datum) != self.reference.as_slice() {
            return Err(Error::ModelChanges {
                first: String::from_utf8_lossy(&self.reference).into_owned(),
                then: crate::pg::text::text(datum)?.into_owned(),
            });
        }
        Ok(())
    }

    /// Writes a row directly into the tensors and keeps its carried values. Returns false, and adds nothing, for a row
    /// with a NULL or a value that needs a conversion, and for the last row that there is room for.
    #[inline]
    pub(crate) fn take(&mut self, arguments: &[pg_sys::NullableDatum]) -> bool {
        let Some(plain) = &self.plain else { return false };
        let buffer = &mut self.buffer;
        if plain.carried.iter().any(|i| arguments[*i].isnull) || !plain.form.make_room(&mut buffer.rows) {
            return false;
        }
        let value = |i: usize| (!arguments[i].isnull).then_some(arguments[i].value);
        let written = buffer.write_direct(&plain.direct, plain.limit, value);
        if written && !plain.carried.is_empty() {
            plain.form.write(plain.carried.iter().map(|i| arguments[*i].value), &mut buffer.rows);
        }
        written
    }

    /// Gathers the row of a call, and submits the batch if it is full. `constant`: all calls name the same model.
    pub(crate) fn add(
        &mut self,
        call: &Call,
        row: RowArguments,
        columns: Option<&[String]>,
        constant: bool,
    ) -> Result<()> {
        let Some(site) = self.site.clone() else { return Err(Error::RowsDiffer) };
        let mut site = site.borrow_mut();
        if !self.bound {
            if !site.bind(call, row, columns)? {
                if site.runner.spec.version.options.on_null == OnNull::Error {
                    return Err(Error::NullRow { model: site.runner.spec.label.clone() });
                }
                self.unbound += 1;
                return Ok(());
            }
            self.bound = true;
            self.plain = site.plain.clone().filter(|_| constant);
            if let Some(binding) = site.binding.as_mut() {
                for _ in 0..std::mem::take(&mut self.unbound) {
                    binding.gather_null(&mut self.buffer.rows)?;
                }
            }
        }
        if self.buffer.is_at_its_end() {
            self.make_room(&mut site, call)?;
        }
        let bounds = site.runner.bounds();
        let Some(binding) = site.binding.as_mut() else { return Ok(()) };
        if self.buffer.gather(binding, &call.arguments()[row.first..], bounds)? {
            self.flush(&mut site, false, call)?;
        }
        Ok(())
    }

    /// Makes room for more rows. Submits the group's rows first if all groups would exceed the memory of a batch.
    fn make_room(&mut self, site: &mut CallSite, call: &Call) -> Result<()> {
        let bounds = site.runner.bounds();
        loop {
            let Some(binding) = site.binding.as_ref() else { return Ok(()) };
            let buffer = &mut self.buffer;
            if buffer.batch.columns.is_empty() {
                match site.spare.pop() {
                    Some(spare) if buffer.rows.ran.is_empty() => *buffer = spare,
                    _ => buffer.batch = binding.batch(),
                }
            }
            let more = buffer.growth(FIRST_ROWS, bounds);
            let each = Binding::row_bytes(&buffer.batch).max(1);
            let bytes = (buffer.batch.bytes() + buffer.rows.bytes()).saturating_add(more.saturating_mul(each));
            site.waiting =
                (site.waiting.saturating_add(bytes)).saturating_sub(std::mem::replace(&mut self.noted, bytes));
            if site.waiting > bounds.bytes && buffer.batch.rows > 0 {
                self.flush(site, false, call)?;
                continue;
            }
            return buffer.reserve(binding, more);
        }
    }

    fn flush(&mut self, site: &mut CallSite, is_last: bool, call: &Call) -> Result<()> {
        site.waiting = site.waiting.saturating_sub(std::mem::take(&mut self.noted));
        site.submit(self, is_last, call)
    }

    /// Gathers the row of a plain call and runs it alone.
    pub(crate) fn run_one(&mut self, call: &Call, first: usize) -> Result<Vec<u8>> {
        let Some(site) = self.site.clone() else { return Err(Error::RowsDiffer) };
        let mut site = site.borrow_mut();
        if !site.bind(call, RowArguments { first, names: None }, Some(&[]))? {
            if site.runner.spec.version.options.on_null == OnNull::Error {
                return Err(Error::NullRow { model: site.runner.spec.label.clone() });
            }
            // The row is NULL and anonymous, so its type is not known.
            self.buffer.rows.ran.push(false);
            return site.run_now(self);
        }
        // A call that failed leaves its row in the buffer.
        self.buffer.clear();
        let bounds = site.runner.bounds();
        if let Some(binding) = site.binding.as_mut() {
            if self.buffer.batch.columns.is_empty() {
                self.buffer.batch = binding.batch();
            }
            self.buffer.gather(binding, &call.arguments()[first..], bounds)?;
        }
        site.run_now(self)
    }

    /// Submits the waiting rows, waits for all batches, and returns the results.
    pub(crate) fn complete(&mut self, call: &Call) -> Result<Option<Results>> {
        if let Some(site) = self.site.clone() {
            let mut site = site.borrow_mut();
            // No row determined the row type, so nothing is carried.
            let unbound = self.buffer.rows.ran.len() + std::mem::take(&mut self.unbound);
            self.buffer.rows.ran.resize(unbound, false);
            self.flush(&mut site, true, call)?;
            site.collect(call)?;
        }
        self.keep_scored(call)?;
        Ok(self.results.take().map(|r| {
            let empty = Results::new(Arc::clone(&r.borrow().layout), Pool::new());
            r.replace(empty)
        }))
    }

    /// Appends the results of another group of the same query.
    pub(crate) fn absorb(&mut self, other: &mut Self, pool: &Rc<Pool>, call: &Call) -> Result<()> {
        let parcel = match other.parcel.take() {
            Some(parcel) => parcel,
            None => match other.complete(call)? {
                Some(theirs) => Parcel::Here(theirs),
                None => return Ok(()),
            },
        };
        let ours = RefCell::new(self.complete(call)?);
        parcel.unpack(
            |layout, faults| {
                let mut ours = ours.borrow_mut();
                let ours = ours.get_or_insert_with(|| Results::new(Arc::clone(&layout), Rc::clone(pool)));
                ours.count_faults(faults);
                ours.agree(&layout)
            },
            |chunk| match &mut *ours.borrow_mut() {
                Some(ours) => ours.push(chunk, call),
                None => Ok(()),
            },
        )?;
        let Some(ours) = ours.into_inner() else { return Ok(()) };
        self.results = Some(Rc::new(RefCell::new(ours)));
        Ok(())
    }
}
