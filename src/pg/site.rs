//! The call site: what every row of one call in one query shares, and the groups of rows that it scores.
//!
//! A site holds the session, the inference thread and the binding; it lives as long as the query. A group holds the rows
//! of one aggregate group that wait for their batch, and the results so far. One batch of a site is under way at a time;
//! results go to the group that they came from, in the order in which the rows came.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use pg_predict_engine::batch::Batch;
use pg_predict_engine::chunk::{self, Rows};
use pg_predict_engine::layout::MOST_COLUMNS;
use pg_predict_engine::options::OnNull;
use pg_predict_engine::reference::Selection;
use pg_predict_engine::run::Ran;
use pg_predict_engine::session::Session;
use pg_predict_engine::version::Version;
use pgrx::pg_sys;

use crate::error::{Error, Result, of_model};
use crate::guc;
use crate::pg::call::Call;
use crate::pg::carry;
use crate::pg::convert::{Binding, Carried, Direct};
use crate::pg::emit;
use crate::pg::exchange::Parcel;
use crate::pg::results::{Faults, Layout, Results};
use crate::pg::runner::{Runner, Terms};
use crate::pg::shared::Form;
use crate::pg::spill::Pool;

/// Room for so many rows is made at first, and doubles: a query may have very many groups of few rows.
const FIRST_ROWS: usize = 4;
/// Pairs of buffers that are kept to be used again.
const MOST_SPARE: usize = 3;

/// Rows of a chunk that did not go into the inputs, by their place in it, and why.
type Bad = Vec<(usize, String)>;

/// Where a row is among the arguments of a call.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    /// Its first argument.
    pub(crate) first: usize,
    /// The argument that names its columns, where it was taken apart.
    pub(crate) names: Option<usize>,
}

/// What the rows of one call share.
pub(crate) struct Site {
    runner: Runner,
    selection: Selection,
    binding: Option<Binding>,
    /// How rows without NULLs are gathered; all groups share it.
    plain: Option<Rc<PlainRow>>,
    layout: Option<Arc<Layout>>,
    /// Rows under way, and whose they are.
    under_way: VecDeque<(Rows, Bad, Rc<RefCell<Results>>)>,
    /// Buffers to be used again.
    spare: Vec<(Batch, Rows)>,
    /// Bytes that wait in groups other than the one being filled.
    waiting: usize,
    pool: Rc<Pool>,
    context: pg_sys::MemoryContext,
}

impl Site {
    /// Makes the site of a call, of this form and with so many rows expected. `only_selected`: the other outputs are not wanted.
    pub(crate) fn new(
        version: Arc<Version>,
        selection: Selection,
        only_selected: bool,
        session: Arc<Session>,
        context: pg_sys::MemoryContext,
        (form, expected): (Form, Option<f64>),
    ) -> Result<Self> {
        let outputs = version.signature.outputs.len();
        let wanted: Vec<bool> = (0..outputs).map(|i| !only_selected || i == selection.output).collect();
        let selection =
            Selection { output: if only_selected { 0 } else { selection.output }, element: selection.element };
        Ok(Self {
            runner: Runner::new(Terms::new(version, &wanted), session, form, expected)?,
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

    /// What its results consist of.
    fn layout(&mut self) -> Result<Arc<Layout>> {
        if let Some(layout) = &self.layout {
            return Ok(Arc::clone(layout));
        }
        let carried: Vec<Carried> = self.binding.as_ref().map(|b| b.carried().to_vec()).unwrap_or_default();
        let bound = self.binding.is_some();
        let layout = Arc::new(self.runner.terms.layout(&self.selection, carried, !bound));
        // Its rows are rows of PostgreSQL, sooner or later.
        let columns = layout.carried.len() + layout.outputs.len();
        if columns > MOST_COLUMNS {
            return Err(Error::TooManyColumns { columns, limit: MOST_COLUMNS });
        }
        // Before the first row that tells its type, the layout is not final.
        if bound {
            self.layout = Some(Arc::clone(&layout));
        }
        Ok(layout)
    }

    /// Binds the call's arguments at the first row that tells their types. `columns`: which columns are carried, where
    /// the reader is known.
    pub(crate) fn bind(&mut self, call: &Call, row: Row, columns: Option<&[String]>) -> Result<bool> {
        if self.binding.is_none() {
            let arguments = call.row(row.first, row.names)?;
            self.binding = Binding::new(&self.runner.terms.version, &arguments, columns, self.context)?;
            let limit = self.runner.batch_size;
            let plain = self.binding.as_ref().and_then(Binding::plain_row);
            self.plain = plain.map(|(direct, carried, form)| Rc::new(PlainRow { direct, carried, form, limit }));
        }
        Ok(self.binding.is_some())
    }

    /// Encodes a chunk of results; rows that failed become NULL, and are given by their place with the reason.
    fn encode(&self, rows: &mut Rows, mut bad: Bad, ran: &Ran) -> Result<(Vec<u8>, Bad)> {
        if !ran.failed.is_empty() {
            let run: Vec<usize> = (0..rows.ran.len()).filter(|row| rows.ran[*row]).collect();
            for (nth, reason) in &ran.failed {
                let Some(row) = run.get(*nth) else { continue };
                rows.ran[*row] = false;
                bad.push((*row, reason.clone()));
            }
            bad.sort_unstable_by_key(|(row, _)| *row);
        }
        Ok((chunk::encode(rows, &ran.values).map_err(of_model(&self.runner.terms.label))?, bad))
    }

    /// Counts rows that have their answers.
    fn count(&mut self, rows: &Rows, failed: usize) {
        let nulls = rows.ran.iter().filter(|ran| !**ran).count() - failed;
        self.runner.count(rows.ran.len(), nulls, failed);
    }

    /// Puts a chunk of results where it belongs.
    fn finish(
        &mut self,
        rows: &mut Rows,
        bad: Bad,
        ran: &Ran,
        results: &Rc<RefCell<Results>>,
        call: &Call,
    ) -> Result<()> {
        let (chunk, bad) = self.encode(rows, bad, ran)?;
        self.count(rows, bad.len());
        let mut results = results.borrow_mut();
        if let Some((row, reason)) = bad.first() {
            let key = emit::first_carried(&results.layout, &chunk, *row)?;
            let which =
                key.unwrap_or_else(|| format!("row {} of those that were gathered", results.rows() + *row as u64 + 1));
            results.count_faults(Faults { rows: bad.len() as u64, first: Some((which, reason.clone())) });
        }
        results.push(chunk, call)
    }

    /// Waits for all batches under way, and keeps their results.
    pub(crate) fn collect(&mut self, call: &Call) -> Result<()> {
        while !self.under_way.is_empty() {
            self.collect_first(call)?;
        }
        Ok(())
    }

    /// Waits for the first of the batches under way, and keeps its results.
    fn collect_first(&mut self, call: &Call) -> Result<()> {
        let Some((mut rows, bad, results)) = self.under_way.pop_front() else { return Ok(()) };
        let (mut batch, ran, _) = self.runner.collect()?;
        self.finish(&mut rows, bad, &ran, &results, call)?;
        rows.clear();
        batch.clear();
        if self.spare.len() < MOST_SPARE {
            self.spare.push((batch, rows));
        }
        Ok(())
    }

    /// Sends the rows of a group on their way.
    fn submit(&mut self, group: &mut Group, call: &Call) -> Result<()> {
        if group.rows.ran.is_empty() {
            return Ok(());
        }
        let layout = self.layout()?;
        let results = Rc::clone(
            group.results.get_or_insert_with(|| Rc::new(RefCell::new(Results::new(layout, Rc::clone(&self.pool))))),
        );
        let bad = std::mem::take(&mut group.bad);
        if group.batch.rows == 0 {
            // All of them are NULL: there is nothing to run. Results keep the order of rows: what came before comes first.
            self.collect(call)?;
            let nothing = self.runner.nothing();
            self.finish(&mut group.rows, bad, &nothing, &results, call)?;
            group.rows.clear();
            group.batch.clear();
            return Ok(());
        }
        while !self.runner.has_room(group.batch.bytes()) {
            self.collect_first(call)?;
        }
        // The group gets other buffers with its next row, should there be one.
        let (full, rows) = (std::mem::take(&mut group.batch), std::mem::take(&mut group.rows));
        group.room = 0;
        self.runner.submit(full)?;
        self.under_way.push_back((rows, bad, results));
        if !guc::pipeline() {
            self.collect(call)?;
        }
        Ok(())
    }

    /// Runs a batch at once and returns its encoded results: for plain calls.
    pub(crate) fn run_now(&mut self, group: &mut Group) -> Result<Vec<u8>> {
        let ran = if group.batch.rows == 0 {
            self.runner.nothing()
        } else if self.runner.is_short(1) {
            self.runner.run_here(&group.batch)?.0
        } else {
            self.runner.submit(std::mem::take(&mut group.batch))?;
            let (batch, ran, _) = self.runner.collect()?;
            group.batch = batch;
            ran
        };
        let (chunk, bad) = self.encode(&mut group.rows, std::mem::take(&mut group.bad), &ran)?;
        self.count(&group.rows, bad.len());
        if let Some((_, reason)) = bad.first() {
            self.runner.warn_once(reason);
        }
        group.batch.clear();
        group.rows.clear();
        Ok(chunk)
    }

    /// The layout of plain calls' results.
    pub(crate) fn plain_layout(&mut self) -> Result<Arc<Layout>> {
        self.layout()
    }
}

/// The rows of one aggregate group: those that wait for a batch, and the results of those before.
pub(crate) struct Group {
    /// None for what a worker sent: results only.
    site: Option<Rc<RefCell<Site>>>,
    /// The model reference, as bytes: it must stay the same.
    reference: Vec<u8>,
    batch: Batch,
    rows: Rows,
    /// Rows that the buffers have room for, and bytes of texts that their batch may still take.
    room: usize,
    left: usize,
    /// Rows that came before the first that told the row type; all NULL.
    unbound: usize,
    bound: bool,
    results: Option<Rc<RefCell<Results>>>,
    parcel: Option<Parcel>,
    noted: usize,
    bad: Bad,
    plain: Option<Rc<PlainRow>>,
}

/// Where the values of rows are that go into the tensor as they are, of calls that all name the same model.
struct PlainRow {
    direct: Direct,
    /// The arguments that are carried, and how.
    carried: Vec<usize>,
    form: carry::Form,
    /// Rows of a batch.
    limit: usize,
}

impl Group {
    /// A group without rows.
    pub(crate) fn new(site: Option<Rc<RefCell<Site>>>, reference: &[u8]) -> Self {
        Self {
            site,
            reference: reference.to_vec(),
            batch: Batch::default(),
            rows: Rows::default(),
            room: 0,
            left: 0,
            unbound: 0,
            bound: false,
            results: None,
            parcel: None,
            noted: 0,
            bad: Bad::new(),
            plain: None,
        }
    }

    /// A group that holds only what a worker sent.
    pub(crate) fn of_parcel(parcel: Option<Parcel>) -> Self {
        let mut group = Self::new(None, &[]);
        group.parcel = parcel;
        group
    }

    /// Checks that a call is for the model that the group began with.
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

    /// Takes a row right into the tensors, and what it carries along. False, and nothing is done, where it has a NULL or a value that
    /// does not go in as it is, or is the last that there is room for.
    #[inline]
    pub(crate) fn take(&mut self, arguments: &[pg_sys::NullableDatum]) -> bool {
        let Some(plain) = &self.plain else { return false };
        if self.batch.rows + 1 >= self.room || self.rows.ran.len() + 1 >= plain.limit {
            return false;
        }
        if plain.carried.iter().any(|i| arguments[*i].isnull) || !plain.form.make_room(&mut self.rows) {
            return false;
        }
        let value = |i: usize| (!arguments[i].isnull).then_some(arguments[i].value);
        let Some(texts) = plain.direct.write(&mut self.batch, value) else { return false };
        let Some(left) = self.left.checked_sub(texts) else {
            self.batch.undo();
            return false;
        };
        self.left = left;
        self.rows.ran.push(true);
        self.batch.rows += 1;
        if !plain.carried.is_empty() {
            plain.form.write(plain.carried.iter().map(|i| arguments[*i].value), &mut self.rows);
        }
        true
    }

    /// Gathers the row of a call; runs a batch when one is full. `constant`: all calls name the same model.
    pub(crate) fn add(&mut self, call: &Call, row: Row, columns: Option<&[String]>, constant: bool) -> Result<()> {
        let Some(site) = self.site.clone() else { return Err(Error::RowsDiffer) };
        let mut site = site.borrow_mut();
        if !self.bound {
            if !site.bind(call, row, columns)? {
                if site.runner.terms.version.options.on_null == OnNull::Error {
                    return Err(Error::NullRow { model: site.runner.terms.label.clone() });
                }
                self.unbound += 1;
                return Ok(());
            }
            self.bound = true;
            self.plain = site.plain.clone().filter(|_| constant);
            if let Some(binding) = site.binding.as_mut() {
                for _ in 0..std::mem::take(&mut self.unbound) {
                    binding.gather_null(&mut self.rows)?;
                }
            }
        }
        if self.batch.rows >= self.room {
            self.make_room(&mut site, call)?;
        }
        let (limit, max_bytes) = (site.runner.batch_size, site.runner.max_bytes);
        let Some(binding) = site.binding.as_mut() else { return Ok(()) };
        if let Some(reason) = binding.gather(&call.arguments()[row.first..], &mut self.batch, &mut self.rows)? {
            self.bad.push((self.rows.ran.len() - 1, reason));
        }
        let mut large = false;
        if binding.varies() {
            // The places of the texts that there is room for count, too.
            let rest = (self.room - self.batch.rows.min(self.room)) * Binding::row_bytes(&self.batch);
            self.left = max_bytes.saturating_sub(self.batch.bytes() + rest);
            large = self.batch.bytes() > max_bytes;
        }
        if self.rows.ran.len() >= limit || self.rows.carried.len() > max_bytes || large {
            self.flush(&mut site, call)?;
        }
        Ok(())
    }

    /// Makes room for more rows. Runs those that wait first if all groups together would take more memory than a batch may.
    fn make_room(&mut self, site: &mut Site, call: &Call) -> Result<()> {
        let (limit, max_bytes) = (site.runner.batch_size, site.runner.max_bytes);
        loop {
            let Some(binding) = site.binding.as_ref() else { return Ok(()) };
            if self.batch.columns.is_empty() {
                (self.batch, self.rows) = match site.spare.pop() {
                    Some((batch, rows)) if self.rows.ran.is_empty() => (batch, rows),
                    _ => (binding.batch(), std::mem::take(&mut self.rows)),
                };
            }
            let each = Binding::row_bytes(&self.batch).max(1);
            let more = self.room.clamp(FIRST_ROWS, 4096).min(limit).min(max_bytes / each).max(1);
            let bytes = (self.batch.bytes() + self.rows.bytes()).saturating_add(more.saturating_mul(each));
            site.waiting =
                (site.waiting.saturating_add(bytes)).saturating_sub(std::mem::replace(&mut self.noted, bytes));
            if site.waiting > max_bytes && self.batch.rows > 0 {
                self.flush(site, call)?;
                continue;
            }
            binding.reserve(&mut self.batch, more)?;
            self.room = self.batch.rows + more;
            return Ok(());
        }
    }

    fn flush(&mut self, site: &mut Site, call: &Call) -> Result<()> {
        site.waiting = site.waiting.saturating_sub(std::mem::take(&mut self.noted));
        site.submit(self, call)
    }

    /// Gathers the row of a plain call and runs it by itself.
    pub(crate) fn run_one(&mut self, call: &Call, first: usize) -> Result<Vec<u8>> {
        let Some(site) = self.site.clone() else { return Err(Error::RowsDiffer) };
        let mut site = site.borrow_mut();
        if !site.bind(call, Row { first, names: None }, Some(&[]))? {
            if site.runner.terms.version.options.on_null == OnNull::Error {
                return Err(Error::NullRow { model: site.runner.terms.label.clone() });
            }
            // An anonymous row that is NULL: nothing is known of it but that.
            self.rows.ran.push(false);
            return site.run_now(self);
        }
        if self.batch.columns.is_empty() {
            self.batch = site.binding.as_ref().map(Binding::batch).unwrap_or_default();
        }
        // A failed call leaves its row behind.
        self.batch.clear();
        self.rows.clear();
        self.bad.clear();
        if let Some(binding) = site.binding.as_mut()
            && let Some(reason) = binding.gather(&call.arguments()[first..], &mut self.batch, &mut self.rows)?
        {
            self.bad.push((0, reason));
        }
        site.run_now(self)
    }

    /// Runs what waits, waits for all, and gives the results away.
    pub(crate) fn complete(&mut self, call: &Call) -> Result<Option<Results>> {
        if let Some(site) = self.site.clone() {
            let mut site = site.borrow_mut();
            // Nothing ever told the row type: nothing is carried.
            let unbound = self.rows.ran.len() + std::mem::take(&mut self.unbound);
            self.rows.ran.resize(unbound, false);
            self.flush(&mut site, call)?;
            site.collect(call)?;
        }
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
