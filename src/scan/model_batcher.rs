//! Gathers the rows of one group of calls, runs them through one model, and counts what was run.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use pg_predict_engine::batch::Batch;
use pg_predict_engine::encoding::encoded_reader::EncodedRows;
use pg_predict_engine::encoding::encoded_rows::{self, RowHeaders};
use pg_predict_engine::encoding::layout::MOST_COLUMNS;
use pg_predict_engine::reference::Selection;
use pg_predict_engine::run::RunOutput;
use pg_predict_engine::tensor::Column;
use pg_predict_engine::version::Version;
use pgrx::pg_sys::{self, Datum, NullableDatum};

use crate::error::{Error, Result, of_model};
use crate::pg::call::Arguments;
use crate::pg::memory;
use crate::planner::cost;
use crate::registry::{self, Resolved};
use crate::results::call_form::CallForm;
use crate::results::result_set::{Layout, ScoredRows};
use crate::rows::binding::Binding;
use crate::rows::carried_values::CarriedForm;
use crate::rows::row_buffer::RowBuffer;
use crate::runtime::batch_runner::{BatchRunner, RunSpec, Took};
use crate::runtime::shared_memory::nanos;
use crate::scan::cached_binding::{CachedBinding, CallShape};
use crate::scan::explain::Counters;
use crate::scan::streamed::{ComputedColumn, Streamed, StreamedColumns};
use crate::scan::window::RowWindow;

/// Number of rows that a buffer first has room for; doubled when it is full.
const FIRST_ROWS: usize = 64;

/// The attribute that stands for the first computed value of a row. PostgreSQL has fewer attributes.
pub(super) const COMPUTED: usize = 1 << 16;

/// The result column of a call.
pub(super) struct CallColumn {
    /// Its column of the scan.
    pub(super) column: usize,
    pub(super) form: CallForm,
    layout: Layout,
}

/// A batch in flight, the window of its rows, and their positions in it.
struct PendingBatch {
    buffer: RowBuffer,
    places: Vec<u32>,
    window: usize,
}

/// Runs one model for one group of calls.
pub(super) struct ModelBatcher {
    cached: CachedBinding,
    runner: BatchRunner,
    /// Batches in flight, in the order in which they were submitted.
    flights: VecDeque<PendingBatch>,
    spare: Vec<(RowBuffer, Vec<u32>)>,
    /// The columns of a definition list, if the calls return them.
    streamed: Option<Streamed>,
    /// What the rows are made of, if the calls return scored rows.
    scored: Option<Arc<Layout>>,
    /// How a row's carried values are kept that goes directly into the tensors: the attributes, and the form.
    carried: (Vec<usize>, CarriedForm),
    context: pg_sys::MemoryContext,
}

impl ModelBatcher {
    /// Opens the batcher of a group of calls.
    ///
    /// - `references`: the model references of the calls, in the order of `calls`.
    /// - `calls`: the column and form of each call.
    /// - `shape`: the shape of the calls, if a cached binding may be used.
    /// - `streamed`: the columns of a definition list, if the calls return them.
    /// - `expected`: the number of rows that the plan expects.
    pub(super) fn open(
        references: Vec<String>,
        calls: &[(usize, CallForm)],
        shape: Option<&CallShape>,
        streamed: Option<&StreamedColumns>,
        context: pg_sys::MemoryContext,
        expected: f64,
    ) -> Result<Self> {
        let mut resolved = Vec::with_capacity(references.len());
        for reference in &references {
            let one = registry::resolve(reference)?;
            cost::note(reference, &one.version);
            resolved.push(one);
        }
        let Some(first) = resolved.first() else { return Err(Error::RowsDiffer) };
        let version = Arc::clone(&first.version);
        let session = registry::session(&version)?;
        let found = shape.and_then(|shape| CachedBinding::find(shape, &references, &version));
        let (cached, streamed) = match (found, streamed) {
            (Some(cached), _) => (cached, None),
            (None, Some(columns)) => {
                let (spec, streamed) = Streamed::resolve(columns, first, &version, context)?;
                (Self::unbound(references, spec, Vec::new()), Some(streamed))
            }
            (None, None) => (Self::cached(references, calls, &resolved, version), None),
        };
        Ok(Self {
            runner: BatchRunner::finding_failure(Arc::clone(&cached.spec), session, Some(expected))?,
            cached,
            flights: VecDeque::new(),
            spare: Vec::new(),
            streamed,
            scored: None,
            carried: Default::default(),
            context,
        })
    }

    /// Creates the state of a batcher without a binding. The first row with known argument types sets the binding.
    fn cached(
        references: Vec<String>,
        calls: &[(usize, CallForm)],
        resolved: &[Resolved],
        version: Arc<Version>,
    ) -> CachedBinding {
        let count = version.signature.outputs.len();
        let all = |i: usize| matches!(calls[i].1, CallForm::Json | CallForm::Row) && !resolved[i].names_output;
        let wanted: Vec<bool> =
            (0..count).map(|o| (0..resolved.len()).any(|i| all(i) || resolved[i].selection.output == o)).collect();
        let spec = RunSpec::new(version, &wanted);
        let mut answers = Vec::with_capacity(calls.len());
        for ((column, form), resolved) in calls.iter().zip(resolved) {
            let output = wanted.iter().take(resolved.selection.output).filter(|w| **w).count();
            let selection = Selection { output, element: resolved.selection.element.clone() };
            let mut layout = spec.layout(&selection, Vec::new(), false);
            layout.named = resolved.names_output && *form != CallForm::Row;
            answers.push(CallColumn { column: *column, form: *form, layout });
        }
        Self::unbound(references, spec, answers)
    }

    fn unbound(references: Vec<String>, spec: Arc<RunSpec>, answers: Vec<CallColumn>) -> CachedBinding {
        CachedBinding {
            references,
            spec,
            answers,
            binding: None,
            sources: Vec::new(),
            values: Vec::new(),
            direct: None,
            buffer: RowBuffer::default(),
            places: Vec::new(),
        }
    }

    /// Ends the batcher, and caches its binding for the next query with calls of this shape.
    pub(super) fn end(mut self, shape: Option<&Rc<CallShape>>) {
        self.runner.give_up();
        if let Some(streamed) = &self.streamed {
            streamed.warn();
        }
        if let Some(shape) = shape {
            self.cached.keep(Rc::clone(shape));
        }
    }

    /// Returns the references of the group's calls.
    pub(super) fn references(&self) -> &[String] {
        &self.cached.references
    }

    /// Returns the position among the group's inputs of each value that the binding reads.
    pub(super) fn sources(&self) -> &[usize] {
        &self.cached.sources
    }

    /// Returns the model's name for messages.
    pub(super) fn label(&self) -> &str {
        &self.cached.spec.label
    }

    /// Returns the version that it runs.
    pub(super) fn version(&self) -> Arc<Version> {
        Arc::clone(&self.cached.spec.version)
    }

    /// Returns the columns of the row that must be computed.
    pub(super) fn computed(&self) -> &[ComputedColumn] {
        self.streamed.as_ref().map_or(&[], |s| &s.computed)
    }

    /// Returns the number of rows of a full batch.
    pub(super) fn batch_size(&self) -> usize {
        self.runner.batch_size
    }

    /// Returns the memory of the gathered rows, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.cached.buffer.batch.bytes() + 4 * self.cached.places.len()
    }

    /// Whether the arguments are bound to the inputs.
    pub(super) fn is_bound(&self) -> bool {
        self.cached.binding.is_some()
    }

    /// Binds the arguments to the inputs, by the columns of a row if they are known. Returns false if the row type is
    /// not known yet.
    pub(super) fn bind(&mut self, columns: pg_sys::TupleDesc, arguments: &Arguments) -> Result<bool> {
        let version = &self.cached.spec.version;
        let scored = self.cached.answers.iter_mut().find(|answer| answer.form == CallForm::Row);
        let bound = match (&scored, columns.is_null()) {
            // A scored row carries what the model does not take.
            (Some(_), _) => Binding::new(version, &Arguments { columns, ..arguments.clone() }, None, self.context)?,
            (None, true) => Binding::new(version, arguments, Some(&[]), self.context)?,
            (None, false) => Some(Binding::of_columns(version, columns, self.context)?),
        };
        let Some(mut binding) = bound else { return Ok(false) };
        if let Some(answer) = scored {
            answer.layout.carried = binding.carried().to_vec();
            let columns = answer.layout.carried.len() + answer.layout.outputs.len();
            if columns > MOST_COLUMNS {
                return Err(Error::TooManyColumns { columns, limit: MOST_COLUMNS });
            }
            self.scored = Some(Arc::new(answer.layout.clone()));
        }
        for answer in &self.cached.answers {
            answer.form.check(&answer.layout)?;
        }
        if let Some(streamed) = &self.streamed {
            streamed.check()?;
        }
        self.cached.sources = binding.compact();
        self.cached.values = vec![NullableDatum { value: Datum::from(0), isnull: true }; self.cached.sources.len()];
        self.cached.buffer.batch = binding.batch();
        self.cached.binding = Some(binding);
        Ok(true)
    }

    /// Records which attributes of the input hold the values, so that `take` can read them directly.
    pub(super) fn read_attributes(&mut self, attribute: impl Fn(usize) -> usize) {
        let sources = &self.cached.sources;
        let Some(binding) = &self.cached.binding else { return };
        if self.scored.is_some() {
            let Some((_, carried, form)) = binding.plain_row() else { return };
            self.carried = (carried.into_iter().map(|i| attribute(sources[i])).collect(), form);
        }
        self.cached.direct = binding.direct(|i| attribute(sources[i]));
    }

    /// Writes a row directly into the tensors. Returns false, and does nothing, in these cases:
    /// - The row has a NULL, or a value that needs a conversion.
    /// - The row is the last one that the batch or its buffers have room for.
    ///
    /// # Safety
    /// The arrays must hold the attributes that were passed to `read_attributes`, and the computed values.
    #[inline(always)]
    pub(super) unsafe fn take(
        &mut self,
        values: *const Datum,
        nulls: *const bool,
        computed: &[NullableDatum],
        place: u32,
    ) -> bool {
        let Some(direct) = &self.cached.direct else { return false };
        if self.cached.places.len() == self.cached.places.capacity() {
            return false;
        }
        // SAFETY: the caller guarantees that the arrays hold the attributes.
        let value = |i: usize| unsafe { (!*nulls.add(i)).then(|| *values.add(i)) };
        let (carried, form) = &self.carried;
        if !carried.is_empty() {
            let rows = &mut self.cached.buffer.rows;
            if carried.iter().any(|i| value(*i).is_none()) || !form.make_room(rows) {
                return false;
            }
        }
        let written = if computed.is_empty() {
            self.cached.buffer.write_direct(direct, self.runner.batch_size, value)
        } else {
            self.cached.buffer.write_direct(direct, self.runner.batch_size, |i| match i.checked_sub(COMPUTED) {
                None => value(i),
                Some(i) => computed.get(i).filter(|c| !c.isnull).map(|c| c.value),
            })
        };
        if written {
            self.cached.places.push(place);
            if !carried.is_empty() {
                form.write(carried.iter().filter_map(|i| value(*i)), &mut self.cached.buffer.rows);
            }
        }
        written
    }

    /// Returns the buffer for the values of the next row, in the order of `sources`.
    pub(super) fn values(&mut self) -> &mut [NullableDatum] {
        &mut self.cached.values
    }

    /// Counts a row without a known type as NULL, or reports an error if the version's `on_null` is `error`.
    pub(super) fn skip(&mut self) -> Result<()> {
        if self.cached.spec.version.options.on_null == pg_predict_engine::options::OnNull::Error {
            return Err(Error::NullRow { model: self.label().to_owned() });
        }
        self.runner.count(1, 1, 0);
        Ok(())
    }

    /// Gathers the row whose values are in `values()`. Its position in the window is `place`. Returns whether the batch
    /// is full.
    pub(super) fn gather(&mut self, place: u32) -> Result<bool> {
        let Some(binding) = self.cached.binding.as_mut() else { return Ok(false) };
        let (buffer, places, bounds) = (&mut self.cached.buffer, &mut self.cached.places, self.runner.bounds());
        if buffer.is_at_its_end() {
            let more = buffer.growth(FIRST_ROWS, bounds);
            let full = |_| pg_predict_engine::Error::OutOfMemory { what: "a batch".into(), bytes: 4 * more };
            places.try_reserve(more).map_err(full)?;
            buffer.reserve(binding, more)?;
        }
        let is_full = buffer.gather(binding, &self.cached.values, bounds)?;
        places.push(place);
        Ok(is_full)
    }

    /// Submits the gathered rows to the inference thread. A short run is executed on the backend's own thread.
    pub(super) fn send(&mut self, window: usize, windows: &mut [RowWindow], counters: &mut Counters) -> Result<()> {
        let buffer = &mut self.cached.buffer;
        if buffer.rows.ran.is_empty() {
            return Ok(());
        }
        counters.rows += buffer.rows.ran.len() as u64;
        let bytes = buffer.batch.bytes();
        counters.peak = counters.peak.max(bytes as u64);
        let run = buffer.batch.rows;
        if run == 0 || self.runner.is_short(run) {
            self.arrive(windows, counters)?;
            let (ran, took) = if run == 0 {
                (self.runner.nothing(), Took::default())
            } else {
                self.runner.run_here(&self.cached.buffer.batch)?
            };
            let mut flight = PendingBatch {
                buffer: self.cached.buffer.take(),
                places: std::mem::take(&mut self.cached.places),
                window,
            };
            let result = self.scatter(&mut flight, ran, run, took, windows, counters);
            (self.cached.buffer, self.cached.places) = (flight.buffer, flight.places);
            self.cached.clear();
            return result;
        }
        while !self.runner.has_room(bytes) {
            self.arrive_first(windows, counters)?;
        }
        let (mut buffer, places) = self.spare.pop().unwrap_or_default();
        if buffer.batch.columns.is_empty() {
            buffer.batch = self.cached.binding.as_ref().map(Binding::batch).unwrap_or_default();
        }
        let mut buffer = std::mem::replace(&mut self.cached.buffer, buffer);
        let places = std::mem::replace(&mut self.cached.places, places);
        self.runner.submit(std::mem::take(&mut buffer.batch))?;
        self.flights.push_back(PendingBatch { buffer, places, window });
        Ok(())
    }

    /// Waits for all batches in flight, and stores their results.
    pub(super) fn arrive(&mut self, windows: &mut [RowWindow], counters: &mut Counters) -> Result<()> {
        while !self.flights.is_empty() {
            self.arrive_first(windows, counters)?;
        }
        Ok(())
    }

    /// Waits for the batches of a window.
    pub(super) fn settle(&mut self, window: usize, windows: &mut [RowWindow], counters: &mut Counters) -> Result<()> {
        while self.flights.iter().any(|f| f.window == window) {
            self.arrive_first(windows, counters)?;
        }
        Ok(())
    }

    /// Waits for the oldest batch in flight.
    fn arrive_first(&mut self, windows: &mut [RowWindow], counters: &mut Counters) -> Result<()> {
        let Some(mut flight) = self.flights.pop_front() else { return Ok(()) };
        let (batch, ran, took) = self.runner.collect()?;
        let run = batch.rows;
        self.scatter(&mut flight, ran, run, took, windows, counters)?;
        self.put_back(batch, flight);
        Ok(())
    }

    /// Discards the rows that are gathered or in flight. Their results and errors are no longer needed.
    pub(super) fn forget(&mut self) {
        while let Some(flight) = self.flights.pop_front() {
            if let Ok((batch, _, _)) = self.runner.collect() {
                self.put_back(batch, flight);
            }
        }
        self.cached.clear();
    }

    /// Keeps the buffers of a finished batch for another one.
    fn put_back(&mut self, batch: Batch, flight: PendingBatch) {
        let PendingBatch { mut buffer, mut places, .. } = flight;
        buffer.batch = batch;
        buffer.clear();
        places.clear();
        self.spare.push((buffer, places));
    }

    /// Stores the results of a batch in the rows of its window.
    fn scatter(
        &mut self,
        flight: &mut PendingBatch,
        mut ran: RunOutput,
        run: usize,
        took: Took,
        windows: &mut [RowWindow],
        counters: &mut Counters,
    ) -> Result<()> {
        let PendingBatch { buffer, places, window } = flight;
        let window = &mut windows[*window];
        if run > 0 {
            counters.batches += 1;
            counters.run += run as u64;
            counters.run_nanos += nanos(took.run);
            counters.wait_nanos += nanos(took.wait);
            counters.tokens += ran.tokens.own as u64;
            counters.padded += ran.tokens.padded as u64;
        }
        buffer.note_failures(&ran);
        let (rows, bad) = (&buffer.rows, &buffer.failures);
        counters.failed += bad.len() as u64;
        if let (Some((_, reason)), None, None) = (bad.first(), &self.streamed, &self.scored) {
            self.runner.warn_once(reason);
        }
        let (mut count, mut answered) = (usize::MAX, rows.ran.len());
        if let Some((nth, error)) = &ran.broken {
            // Finds the row of the batch that was its `nth` to be run.
            let mut seen = 0;
            if let Some(row) = (0..rows.ran.len()).find(|row| {
                seen += usize::from(rows.ran[*row]);
                rows.ran[*row] && seen == nth + 1
            }) {
                let error = of_model(&self.cached.spec.label)(error.clone());
                self.runner.count_failure(&error);
                window.spoil(places[row], error);
                count = *nth;
                answered = row;
            }
        }
        if let Some(streamed) = &mut self.streamed {
            streamed.scatter(buffer, &ran.values, places, count, window)?;
        }
        let mut encoded = None;
        for answer in &self.cached.answers {
            if let (CallForm::Row, Some(layout)) = (answer.form, &self.scored) {
                // The call has its runs for itself, so nothing else reads the values.
                let rows = rows.part(0..answered).map_err(of_model(&self.cached.spec.label))?;
                let scored = ScoredRows::new(Arc::clone(layout), rows, std::mem::take(&mut ran.values), bad.clone());
                for (place, row) in places[..answered].iter().zip(0..) {
                    window.answer(*place, answer.column, Some(Datum::from(scored.number(row))));
                }
                window.scored.push(scored);
                continue;
            }
            if let Some((column, width, element)) = answer.form.plain_numbers(&answer.layout, &ran.values) {
                numbers(column, width, element, count, rows, places, answer.column, window);
                continue;
            }
            let bytes = match &encoded {
                Some(bytes) => bytes,
                None => {
                    encoded.insert(encoded_rows::encode(rows, &ran.values).map_err(of_model(&self.cached.spec.label))?)
                }
            };
            let chunk = EncodedRows::parse(bytes)?;
            let mut nth = 0;
            for (row, place) in places.iter().enumerate() {
                if !rows.ran[row] {
                    continue;
                }
                if nth >= count {
                    break;
                }
                let context = window.context();
                let value = memory::within(context, || answer.form.value(&answer.layout, &chunk, nth));
                match self.runner.answer(value) {
                    Ok(value) => window.answer(*place, answer.column, value),
                    Err(error) => {
                        window.spoil(*place, error);
                        break;
                    }
                }
                nth += 1;
            }
        }
        counters.nulls += rows.ran.iter().filter(|ran| !**ran).count() as u64;
        let failed = bad.iter().filter(|(row, _)| *row < answered).count();
        let nulls = rows.ran[..answered].iter().filter(|ran| !**ran).count() - failed;
        self.runner.count(answered, nulls, failed);
        Ok(())
    }
}

/// Stores the numbers of one output in a column.
#[allow(clippy::too_many_arguments)]
fn numbers(
    column: &Column,
    width: usize,
    element: usize,
    count: usize,
    rows: &RowHeaders,
    places: &[u32],
    to: usize,
    window: &mut RowWindow,
) {
    let ran = places.iter().zip(&rows.ran).filter(|(_, ran)| **ran).map(|(place, _)| *place).take(count);
    let datum = |x: f64| Some(Datum::from(x.to_bits()));
    if let Column::Float32(v) = column {
        let values = v.iter().skip(element).step_by(width.max(1));
        for (place, x) in ran.zip(values) {
            window.answer(place, to, datum(f64::from(*x)));
        }
        return;
    }
    for (nth, place) in ran.enumerate() {
        window.answer(place, to, column.number(nth * width + element).and_then(datum));
    }
}
