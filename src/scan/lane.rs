//! A lane: the rows of one group of calls on their way through one model, and the counters of what was done.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use pg_predict_engine::batch::Batch;
use pg_predict_engine::chunk::{self, Chunk, Rows};
use pg_predict_engine::reference::Selection;
use pg_predict_engine::run::Ran;
use pg_predict_engine::tensor::Column;
use pg_predict_engine::version::Version;
use pgrx::pg_sys::{self, Datum, NullableDatum};

use crate::cost;
use crate::error::{Error, Result, of_model};
use crate::pg::convert::{Arguments, Binding};
use crate::pg::form::Form;
use crate::pg::memory;
use crate::pg::results::Layout;
use crate::pg::runner::{Runner, Terms, Took};
use crate::registry::{self, Resolved};
use crate::scan::exec::Window;
use crate::scan::explain::Counters;
use crate::scan::kit::{Kit, Look};

/// Room for so many rows is made at first; it doubles.
const FIRST_ROWS: usize = 64;

/// What a call gives of its row's outputs.
pub(super) struct Answer {
    /// Its column of the scan.
    pub(super) column: usize,
    pub(super) form: Form,
    layout: Layout,
}

/// Rows under way, the window that they are of, and their places in it.
struct Flight {
    rows: Rows,
    bad: Vec<(usize, String)>,
    places: Vec<u32>,
    window: usize,
}

/// One model for one group of calls.
pub(super) struct Lane {
    kit: Kit,
    runner: Runner,
    /// In the order in which they were sent.
    flights: VecDeque<Flight>,
    spare: Vec<(Batch, Rows, Vec<u32>)>,
    context: pg_sys::MemoryContext,
}

impl Lane {
    /// Opens the lane of calls: `references` are theirs, in the order of `calls`, their columns and forms. So many rows are
    /// expected. `look`: how the calls look, where another query may have left a kit for them.
    pub(super) fn open(
        references: Vec<String>,
        calls: &[(usize, Form)],
        look: Option<&Look>,
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
        let kit = match look.and_then(|look| Kit::find(look, &references, &version)) {
            Some(kit) => kit,
            None => Self::kit(references, calls, &resolved, version),
        };
        Ok(Self {
            runner: Runner::finding_failure(Arc::clone(&kit.terms), session, Some(expected))?,
            kit,
            flights: VecDeque::new(),
            spare: Vec::new(),
            context,
        })
    }

    /// What a lane works with, before it is known how rows find the inputs.
    fn kit(references: Vec<String>, calls: &[(usize, Form)], resolved: &[Resolved], version: Arc<Version>) -> Kit {
        let count = version.signature.outputs.len();
        let all = |i: usize| calls[i].1 == Form::Json && !resolved[i].names_output;
        let wanted: Vec<bool> =
            (0..count).map(|o| (0..resolved.len()).any(|i| all(i) || resolved[i].selection.output == o)).collect();
        let terms = Terms::new(version, &wanted);
        let mut answers = Vec::with_capacity(calls.len());
        for ((column, form), resolved) in calls.iter().zip(resolved) {
            let output = wanted.iter().take(resolved.selection.output).filter(|w| **w).count();
            let selection = Selection { output, element: resolved.selection.element.clone() };
            let mut layout = terms.layout(&selection, Vec::new(), false);
            layout.named = resolved.names_output;
            answers.push(Answer { column: *column, form: *form, layout });
        }
        Kit {
            references,
            terms,
            answers,
            binding: None,
            sources: Vec::new(),
            values: Vec::new(),
            direct: None,
            batch: Batch::default(),
            rows: Rows::default(),
            bad: Vec::new(),
            places: Vec::new(),
            room: 0,
            left: 0,
        }
    }

    /// Ends it, and leaves its kit to the next query whose calls look so.
    pub(super) fn end(mut self, look: Option<&Rc<Look>>) {
        self.runner.give_up();
        if let Some(look) = look {
            self.kit.keep(Rc::clone(look));
        }
    }

    /// The references of the group's calls.
    pub(super) fn references(&self) -> &[String] {
        &self.kit.references
    }

    /// Where the values of a row are among the group's inputs.
    pub(super) fn sources(&self) -> &[usize] {
        &self.kit.sources
    }

    /// The name that messages use.
    pub(super) fn label(&self) -> &str {
        &self.kit.terms.label
    }

    /// What it runs.
    pub(super) fn version(&self) -> Arc<Version> {
        Arc::clone(&self.kit.terms.version)
    }

    /// Rows of a batch.
    pub(super) fn batch_size(&self) -> usize {
        self.runner.batch_size
    }

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.kit.batch.bytes() + 4 * self.kit.places.len()
    }

    /// Whether it is known how rows find the inputs.
    pub(super) fn is_bound(&self) -> bool {
        self.kit.binding.is_some()
    }

    /// Finds out how rows find the inputs: from the columns of a row, where they are known, else from arguments.
    pub(super) fn bind(&mut self, columns: pg_sys::TupleDesc, arguments: &Arguments) -> Result<bool> {
        let version = &self.kit.terms.version;
        let bound = if columns.is_null() {
            Binding::new(version, arguments, Some(&[]), self.context)?
        } else {
            Some(Binding::of_columns(version, columns, self.context)?)
        };
        let Some(mut binding) = bound else { return Ok(false) };
        for answer in &self.kit.answers {
            answer.form.check(&answer.layout)?;
        }
        self.kit.sources = binding.compact();
        self.kit.values = vec![NullableDatum { value: Datum::from(0), isnull: true }; self.kit.sources.len()];
        self.kit.batch = binding.batch();
        self.kit.binding = Some(binding);
        Ok(true)
    }

    /// Notes which attributes of the input the values are, so that `take` may read them from there.
    pub(super) fn read_attributes(&mut self, attribute: impl Fn(usize) -> usize) {
        let sources = &self.kit.sources;
        self.kit.direct = self.kit.binding.as_ref().and_then(|b| b.direct(|i| attribute(sources[i])));
    }

    /// Takes a row right into the tensors. False, and nothing is done, where it has a NULL or a value that does not go in as it is, or
    /// is the last that the batch has room for.
    ///
    /// # Safety
    /// Both arrays have the attributes that `read_attributes` was told of.
    #[inline(always)]
    pub(super) unsafe fn take(&mut self, values: *const Datum, nulls: *const bool, place: usize) -> bool {
        let Some(direct) = &self.kit.direct else { return false };
        let rows = self.kit.batch.rows;
        // Buffers are made, and full batches sent, by `gather`.
        if rows + 1 >= self.kit.room
            || self.kit.rows.ran.len() + 1 >= self.runner.batch_size
            || self.kit.places.len() == self.kit.places.capacity()
            || self.kit.rows.ran.len() == self.kit.rows.ran.capacity()
        {
            return false;
        }
        // SAFETY: the arrays have the attributes.
        let value = |i: usize| unsafe { (!*nulls.add(i)).then(|| *values.add(i)) };
        let Some(texts) = direct.write(&mut self.kit.batch, value) else { return false };
        let Some(left) = self.kit.left.checked_sub(texts) else {
            self.kit.batch.undo();
            return false;
        };
        self.kit.left = left;
        self.kit.rows.ran.push(true);
        self.kit.places.push(place as u32);
        self.kit.batch.rows = rows + 1;
        true
    }

    /// Where the values of the next row go, in the order of `sources`.
    pub(super) fn values(&mut self) -> &mut [NullableDatum] {
        &mut self.kit.values
    }

    /// A row that tells no type: it is NULL, or an error.
    pub(super) fn skip(&mut self) -> Result<()> {
        if self.kit.terms.version.options.on_null == pg_predict_engine::options::OnNull::Error {
            return Err(Error::NullRow { model: self.label().to_owned() });
        }
        self.runner.count(1, 1, 0);
        Ok(())
    }

    /// Gathers the row whose values were put into `values()`; its place in the window is `place`.
    pub(super) fn gather(&mut self, place: usize) -> Result<bool> {
        let Some(binding) = self.kit.binding.as_mut() else { return Ok(false) };
        if self.kit.batch.rows >= self.kit.room {
            let fit = self.runner.max_bytes / Binding::row_bytes(&self.kit.batch).max(1);
            let more = self
                .kit
                .room
                .clamp(FIRST_ROWS, 4096)
                .min(self.runner.batch_size)
                .min(fit.saturating_sub(self.kit.batch.rows))
                .max(1);
            binding.reserve(&mut self.kit.batch, more)?;
            let full = |_| pg_predict_engine::Error::OutOfMemory { what: "a batch".into(), bytes: 5 * more };
            self.kit.places.try_reserve(more).map_err(full)?;
            self.kit.rows.ran.try_reserve(more).map_err(full)?;
            self.kit.room = self.kit.batch.rows + more;
        }
        let before = self.kit.rows.ran.len();
        match binding.gather(&self.kit.values, &mut self.kit.batch, &mut self.kit.rows) {
            Ok(reason) => self.kit.bad.extend(reason.map(|reason| (before, reason))),
            Err(error) => {
                // What was written of the row goes.
                self.kit.batch.undo();
                self.kit.rows.ran.truncate(before);
                return Err(error);
            }
        }
        self.kit.places.push(place as u32);
        let each = Binding::row_bytes(&self.kit.batch).max(1);
        let mut large = false;
        if binding.varies() {
            let bytes = self.kit.batch.bytes();
            // The places of the texts that there is room for count, too.
            let rest = self.kit.room.saturating_sub(self.kit.batch.rows) * each;
            self.kit.left = self.runner.max_bytes.saturating_sub(bytes + rest);
            large = bytes > self.runner.max_bytes;
        }
        let full = self.runner.max_bytes / each;
        Ok(self.kit.rows.ran.len() >= self.runner.batch_size || large || self.kit.batch.rows >= full.max(1))
    }

    /// Sends the rows gathered on their way; runs that are short are made at once.
    pub(super) fn send(&mut self, window: usize, windows: &mut [Window], counters: &mut Counters) -> Result<()> {
        if self.kit.rows.ran.is_empty() {
            return Ok(());
        }
        counters.rows += self.kit.rows.ran.len() as u64;
        let bytes = self.kit.batch.bytes();
        counters.peak = counters.peak.max(bytes as u64);
        let bad = std::mem::take(&mut self.kit.bad);
        let run = self.kit.batch.rows;
        if run == 0 || self.runner.is_short(run) {
            self.arrive(windows, counters)?;
            let (ran, took) = if run == 0 {
                (self.runner.nothing(), Took::default())
            } else {
                self.runner.run_here(&self.kit.batch)?
            };
            let mut flight = Flight {
                rows: std::mem::take(&mut self.kit.rows),
                bad,
                places: std::mem::take(&mut self.kit.places),
                window,
            };
            let result = self.scatter(&mut flight, &ran, run, took, windows, counters);
            self.kit.batch.clear();
            flight.rows.clear();
            flight.places.clear();
            (self.kit.rows, self.kit.places) = (flight.rows, flight.places);
            return result;
        }
        while !self.runner.has_room(bytes) {
            self.arrive_first(windows, counters)?;
        }
        let (batch, rows, places) = self.spare.pop().unwrap_or_default();
        let batch = if batch.columns.is_empty() {
            self.kit.binding.as_ref().map(Binding::batch).unwrap_or_default()
        } else {
            batch
        };
        self.kit.room = 0;
        let full = std::mem::replace(&mut self.kit.batch, batch);
        let rows = std::mem::replace(&mut self.kit.rows, rows);
        let places = std::mem::replace(&mut self.kit.places, places);
        self.runner.submit(full)?;
        self.flights.push_back(Flight { rows, bad, places, window });
        Ok(())
    }

    /// Waits for all rows under way, and puts their answers where they belong.
    pub(super) fn arrive(&mut self, windows: &mut [Window], counters: &mut Counters) -> Result<()> {
        while !self.flights.is_empty() {
            self.arrive_first(windows, counters)?;
        }
        Ok(())
    }

    /// Waits for the rows of a window.
    pub(super) fn settle(&mut self, window: usize, windows: &mut [Window], counters: &mut Counters) -> Result<()> {
        while self.flights.iter().any(|f| f.window == window) {
            self.arrive_first(windows, counters)?;
        }
        Ok(())
    }

    /// Waits for the first of the rows under way.
    fn arrive_first(&mut self, windows: &mut [Window], counters: &mut Counters) -> Result<()> {
        let Some(mut flight) = self.flights.pop_front() else { return Ok(()) };
        let (mut batch, ran, took) = self.runner.collect()?;
        let run = batch.rows;
        self.scatter(&mut flight, &ran, run, took, windows, counters)?;
        batch.clear();
        flight.rows.clear();
        flight.places.clear();
        self.spare.push((batch, flight.rows, flight.places));
        Ok(())
    }

    /// Forgets the rows that are gathered or under way: nobody wants their answers, nor to know that they failed.
    pub(super) fn forget(&mut self) {
        while self.flights.pop_front().is_some() {
            if let Ok((mut batch, _, _)) = self.runner.collect() {
                batch.clear();
                self.spare.push((batch, Rows::default(), Vec::new()));
            }
        }
        self.kit.clear();
    }

    /// Puts the answers of a batch into the rows of its window.
    fn scatter(
        &mut self,
        flight: &mut Flight,
        ran: &Ran,
        run: usize,
        took: Took,
        windows: &mut [Window],
        counters: &mut Counters,
    ) -> Result<()> {
        let Flight { rows, bad, places, window } = flight;
        let window = &mut windows[*window];
        if run > 0 {
            counters.batches += 1;
            counters.run += run as u64;
            counters.run_nanos += took.run.as_nanos() as u64;
            counters.wait_nanos += took.wait.as_nanos() as u64;
            counters.tokens += ran.tokens.own as u64;
            counters.padded += ran.tokens.padded as u64;
        }
        if !ran.failed.is_empty() {
            let run: Vec<usize> = (0..rows.ran.len()).filter(|row| rows.ran[*row]).collect();
            for (nth, reason) in &ran.failed {
                if let Some(row) = run.get(*nth) {
                    rows.ran[*row] = false;
                    bad.push((*row, reason.clone()));
                }
            }
            bad.sort_unstable_by_key(|(row, _)| *row);
        }
        counters.failed += bad.len() as u64;
        if let Some((_, reason)) = bad.first() {
            self.runner.warn_once(reason);
        }
        let (mut count, mut answered) = (usize::MAX, rows.ran.len());
        if let Some((nth, error)) = &ran.broken {
            // The row of the batch that was its `nth` to run.
            let mut seen = 0;
            if let Some(row) = (0..rows.ran.len()).find(|row| {
                seen += usize::from(rows.ran[*row]);
                rows.ran[*row] && seen == nth + 1
            }) {
                let error = of_model(&self.kit.terms.label)(error.clone());
                self.runner.count_failure(&error);
                window.spoil(places[row] as usize, error);
                count = *nth;
                answered = row;
            }
        }
        let mut encoded = None;
        for answer in &self.kit.answers {
            if let Some((column, width, element)) = answer.form.plain_numbers(&answer.layout, &ran.values) {
                numbers(column, width, element, count, rows, places, answer.column, window);
                continue;
            }
            let bytes = match &encoded {
                Some(bytes) => bytes,
                None => encoded.insert(chunk::encode(rows, &ran.values).map_err(of_model(&self.kit.terms.label))?),
            };
            let chunk = Chunk::parse(bytes)?;
            let mut nth = 0;
            for (row, place) in places.iter().enumerate() {
                if !rows.ran[row] {
                    continue;
                }
                if nth >= count {
                    break;
                }
                let context = window.context();
                match memory::within(context, || answer.form.value(&answer.layout, &chunk, nth)) {
                    Ok(value) => window.answer(*place as usize, answer.column, value),
                    Err(error) => {
                        window.spoil(*place as usize, error);
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

/// Puts the numbers of one output into a column.
#[allow(clippy::too_many_arguments)]
fn numbers(
    column: &Column,
    width: usize,
    element: usize,
    count: usize,
    rows: &Rows,
    places: &[u32],
    to: usize,
    window: &mut Window,
) {
    let ran = places.iter().zip(&rows.ran).filter(|(_, ran)| **ran).map(|(place, _)| *place as usize).take(count);
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
