//! Fills windows of rows: reads the input, gathers batches and scatters their results.

use pgrx::pg_sys::{self, Datum, ExprState, NullableDatum};

use crate::error::{Error, Result};
use crate::pg::call::Arguments;
use crate::pg::node::members;
use crate::pg::{ambiguity, memory, running_query};
use crate::planner::executor;
use crate::planner::node_spec::Top;
use crate::scan::exec::{evaluate, fetch, is_expanded, reset};
use crate::scan::model_batcher::{COMPUTED, ModelBatcher};
use crate::scan::state::{BATCHERS, BatchScan, Length, RowSource};
use crate::scan::window::{EMPTY, FIRST_WINDOW, RowWindow};

impl BatchScan {
    /// Gathers the row of a slot for one group.
    pub(crate) unsafe fn gather(
        &mut self,
        which: usize,
        window: usize,
        slot: *mut pg_sys::TupleTableSlot,
        context: *mut pg_sys::ExprContext,
    ) -> Result<()> {
        // SAFETY: the slot holds a row with the attributes that are read; the expressions are compiled for this row.
        unsafe {
            let home = self.context;
            let place = self.windows[window].rows;
            let group = &mut self.groups[which];
            if !group.guard.is_null() {
                let holds = evaluate(group.guard, context);
                if holds.isnull || holds.value.value() == 0 {
                    return Ok(());
                }
            }
            let (types, variadic, columns) = (&raw const group.types, group.variadic, group.columns);
            let (inputs, computed) = (&raw const group.inputs, &raw const group.computed);
            let value = |input: RowSource| match input {
                RowSource::Computed(i) => (&*computed)[i],
                RowSource::Attribute(i) => {
                    NullableDatum { value: *(*slot).tts_values.add(i), isnull: *(*slot).tts_isnull.add(i) }
                }
                RowSource::Expression(e) => evaluate(e, context),
            };
            let batcher: *mut ModelBatcher = group.batcher(context, home)?;
            let batcher = &mut *batcher;
            // An argument is evaluated only once per row, because it may contain a subquery with side effects.
            let mut evaluated = None;
            if !batcher.is_bound() {
                evaluated = if columns.is_null() { (&(*inputs)).first().map(|i| value(*i)) } else { None };
                let first = evaluated.as_ref().filter(|f| !f.isnull).map(|f| f.value);
                let arguments = Arguments { types: (*types).clone(), variadic, first, columns: std::ptr::null_mut() };
                if !batcher.bind(columns, &arguments)? {
                    group.counters.rows += 1;
                    group.counters.nulls += 1;
                    return batcher.skip();
                }
                if group.is_plain {
                    batcher.read_attributes(|source| match (&(*inputs))[source] {
                        RowSource::Attribute(i) => i,
                        RowSource::Computed(i) => COMPUTED + i,
                        RowSource::Expression(_) => 0,
                    });
                }
                // Of a row that is streamed, no columns have been read but those that are returned.
                for source in batcher.sources() {
                    if let Some(RowSource::Attribute(i)) = (&*inputs).get(*source) {
                        self.last_attribute = self.last_attribute.max(i32::try_from(i + 1).unwrap_or(0));
                    }
                }
                if i32::from((*slot).tts_nvalid) < self.last_attribute {
                    executor::slot_getsomeattrs_int(slot, self.last_attribute);
                }
            }
            for i in 0..batcher.sources().len() {
                let source = batcher.sources()[i];
                batcher.values()[i] = match evaluated {
                    Some(first) if source == 0 => first,
                    _ => value((&(*inputs))[source]),
                };
            }
            let before = pg_sys::CurrentMemoryContext;
            pg_sys::CurrentMemoryContext = (*context).ecxt_per_tuple_memory;
            let full = batcher.gather(place);
            pg_sys::CurrentMemoryContext = before;
            if full? {
                // This row is part of the batch, although the window does not count it yet.
                batcher.send(window, &mut self.windows, &mut group.counters)?;
            }
            Ok(())
        }
    }

    /// Records that the query is run again, for example by the next FETCH of a cursor.
    #[cold]
    pub(crate) unsafe fn enter_run(&mut self, node: *mut pg_sys::CustomScanState, run: u64) {
        self.run = run;
        // SAFETY: a node that has begun has the state of its query. If another query is running, its row count does not
        // apply.
        if let Some(wanted) = running_query::rows_wanted(unsafe { (*node).ss.ps.state }) {
            (self.wanted_by_run, self.given_in_run) = (Some(wanted), 0);
        }
    }

    /// Returns the minimum number of rows that PostgreSQL would still read, apart from the `waiting` rows. None if it
    /// would read all rows.
    pub(crate) unsafe fn wanted(&mut self, node: *mut pg_sys::CustomScanState, waiting: usize) -> Option<usize> {
        // SAFETY: the node has begun.
        let (context, child, sent) = unsafe {
            let ps = &(*node).ss.ps;
            (ps.ps_ExprContext, ps.lefttree, (*ps.state).es_processed)
        };
        if let (None, Some((count, offset))) = (self.limit, self.bound) {
            let number = |e: *mut ExprState| {
                if e.is_null() {
                    return Some(0);
                }
                // SAFETY: constants and parameters of type bigint.
                let v = unsafe { evaluate(e, context) };
                (!v.isnull).then(|| u64::try_from(v.value.value().cast_signed()).unwrap_or(0))
            };
            // LIMIT NULL means no limit.
            self.limit = Some(match (number(count), number(offset)) {
                (Some(count), offset) => count.saturating_add(offset.unwrap_or(0)),
                (None, _) => u64::MAX,
            });
            // Passes the bound to the node below, as a Limit node does, so that a sort keeps no more rows.
            if let Some(limit) = self.limit.and_then(|limit| i64::try_from(limit).ok()).filter(|_| self.recipe.exact) {
                // SAFETY: the node's own child.
                unsafe { executor::ExecSetTupleBound(limit, child) };
            }
        }
        let of_limit = self.limit.map(|limit| limit.saturating_sub(self.given));
        let of_run = match (self.recipe.top, self.wanted_by_run) {
            (Top::Below, _) | (_, Some(0)) => None,
            // A node above may return rows that it kept from an earlier run, so the rows already sent to the client
            // count, too.
            (Top::Exact, Some(wanted)) => Some(wanted.saturating_sub(self.given_in_run.max(sent))),
            (Top::Exact, None) | (Top::Loose, _) if self.recipe.reads_ahead => None,
            (Top::Exact, None) | (Top::Loose, _) => Some(1),
        };
        let wanted = of_limit.into_iter().chain(of_run).min()?;
        Some(usize::try_from(wanted).unwrap_or(usize::MAX).saturating_sub(waiting))
    }

    /// Returns the number of rows to read into the next window, while `waiting` rows wait. Returns 0 if the waiting
    /// rows must be returned first.
    pub(crate) unsafe fn next_size(&mut self, node: *mut pg_sys::CustomScanState, waiting: usize) -> usize {
        let first = if self.size == 0 { FIRST_WINDOW } else { self.size.saturating_mul(4) };
        self.size = first.clamp(1, self.most.max(1));
        // SAFETY: as for `wanted`. The call also passes the bound of a LIMIT to the node below, so it comes first.
        let wanted = unsafe { self.wanted(node, waiting) };
        if self.recipe.one_by_one.is_some() || (self.recipe.first_alone && self.given == 0) {
            return usize::from(waiting == 0);
        }
        match wanted {
            None => self.size,
            // The rows that were needed at least have been read. More of them are needed if none waits.
            Some(0) if self.recipe.reads_ahead => {
                if waiting > 0 {
                    0
                } else {
                    self.size
                }
            }
            Some(wanted) if self.recipe.reads_ahead && wanted < self.most => wanted,
            // All of these rows are needed, so there is no reason to start with a small window.
            Some(wanted) => {
                self.size = self.most.max(1);
                wanted.min(self.size).max(usize::from(waiting == 0))
            }
        }
    }

    /// Reads a window of rows and submits their batches.
    pub(crate) unsafe fn fill(&mut self, node: *mut pg_sys::CustomScanState, which: usize, most: usize) -> Result<()> {
        // SAFETY: the node has begun; the slot is read before the next one is fetched.
        unsafe {
            let child = (*node).ss.ps.lefttree;
            let context = (*node).ss.ps.ps_ExprContext;
            self.windows[which].clear();
            while (self.windows[which].rows as usize) < most && self.windows[which].bytes < self.max_bytes {
                let Some(slot) = fetch(child) else {
                    self.ended = true;
                    break;
                };
                if i32::from((*slot).tts_nvalid) < self.last_attribute {
                    executor::slot_getsomeattrs_int(slot, self.last_attribute);
                }
                self.keep(which, slot)?;
                (*context).ecxt_outertuple = slot;
                let mut spoiled = false;
                for group in 0..self.groups.len() {
                    for i in 0..self.groups[group].expressions.len() {
                        let value = evaluate(self.groups[group].expressions[i], context);
                        self.groups[group].computed[i] = value;
                    }
                    // Memory that a conversion allocates is freed with the row.
                    let before = pg_sys::CurrentMemoryContext;
                    pg_sys::CurrentMemoryContext = (*context).ecxt_per_tuple_memory;
                    let taken = self.groups[group].take(slot, self.windows[which].rows);
                    pg_sys::CurrentMemoryContext = before;
                    let gathered = if taken { Ok(()) } else { self.gather(group, which, slot, context) };
                    if let Err(error) = gathered.and_then(|()| self.compute(group, which, context)) {
                        let row = self.windows[which].rows;
                        let error = self.explained(node, group, error);
                        self.windows[which].spoil(row, error);
                        spoiled = true;
                        break;
                    }
                }
                reset(context);
                self.windows[which].rows += 1;
                if spoiled || self.windows[which].spoiled.is_some() {
                    self.ended = true;
                    break;
                }
                if self.groups.iter().any(|g| g.batchers.len() > BATCHERS) {
                    break;
                }
            }
            let mut peak = 0;
            for group in &mut self.groups {
                for batcher in &mut group.batchers {
                    peak += batcher.bytes();
                    batcher.send(which, &mut self.windows, &mut group.counters)?;
                    self.most = self.most.max(batcher.batch_size());
                }
                if group.batchers.len() > BATCHERS {
                    for batcher in &mut group.batchers {
                        batcher.arrive(&mut self.windows, &mut group.counters)?;
                    }
                    group.batchers.drain(..BATCHERS / 2);
                }
            }
            let held: usize = self.windows.iter().map(RowWindow::held).sum();
            for group in &mut self.groups {
                group.counters.peak = group.counters.peak.max((held + peak) as u64);
            }
        }
        Ok(())
    }

    /// Returns the error of a row. Replaces it if the argument is a column that hides an item in FROM of the same name.
    #[cold]
    pub(crate) unsafe fn explained(&self, node: *mut pg_sys::CustomScanState, group: usize, error: Error) -> Error {
        // SAFETY: the expression of a call's column is the call.
        unsafe {
            let plan = (*node).ss.ps.plan.cast::<pg_sys::CustomScan>();
            let Some(spec) = self.recipe.groups[group].calls.first() else { return error };
            let call = spec.call(plan);
            match members::<pg_sys::Node>((*call).args).split_off(spec.form.before_row())[..] {
                [row] => ambiguity::explained(error, row, (*node).ss.ps.state),
                _ => error,
            }
        }
    }

    /// Computes the columns of a streamed row that are not columns of the input.
    #[inline]
    pub(crate) unsafe fn compute(
        &mut self,
        group: usize,
        which: usize,
        context: *mut pg_sys::ExprContext,
    ) -> Result<()> {
        let group = &self.groups[group];
        let Some(batcher) = group.batchers.get(group.current) else { return Ok(()) };
        for i in 0..batcher.computed().len() {
            let computed = batcher.computed()[i];
            // SAFETY: the expression is compiled for this row.
            let value = unsafe { evaluate(computed.expression, context) };
            let window = &mut self.windows[which];
            let value = match computed.length {
                _ if value.isnull => None,
                // SAFETY: the length is that of the expression's type.
                Some(length) => Some(unsafe { copied(window, value.value, length)? }),
                None => Some(value.value),
            };
            window.put(window.rows, computed.column, value);
        }
        Ok(())
    }

    /// Copies the values of a row that the node returns.
    #[inline]
    pub(crate) unsafe fn keep(&mut self, which: usize, slot: *mut pg_sys::TupleTableSlot) -> Result<()> {
        // SAFETY: the slot has the attributes; a value by reference is as long as its type says.
        unsafe {
            let window = &mut self.windows[which];
            let base = window.rows as usize * window.columns;
            if window.values.len() - base < window.columns {
                window.grow()?;
            }
            for kept in &self.kept {
                if *(*slot).tts_isnull.add(kept.attribute) {
                    continue;
                }
                let mut value = *(*slot).tts_values.add(kept.attribute);
                if let Some(length) = kept.length {
                    value = copied(window, value, length)?;
                }
                window.values[base + kept.column] = value;
                window.nulls[base + kept.column] = false;
            }
        }
        Ok(())
    }

    /// Waits for all batches in flight.
    pub(crate) fn arrive(&mut self) -> Result<()> {
        for group in &mut self.groups {
            for batcher in &mut group.batchers {
                batcher.arrive(&mut self.windows, &mut group.counters)?;
            }
        }
        Ok(())
    }

    /// Makes the next window the current one. Returns false at the end of the input.
    pub(crate) unsafe fn refill(&mut self, node: *mut pg_sys::CustomScanState) -> Result<bool> {
        if self.ahead {
            self.now = 1 - self.now;
            self.ahead = false;
        } else {
            if self.ended {
                return Ok(false);
            }
            // SAFETY: as for `fill`.
            unsafe {
                let most = self.next_size(node, 0);
                self.fill(node, self.now, most)?;
            }
        }
        let waiting = self.windows[self.now].rows as usize;
        let goes_ahead = !self.ended && self.size >= self.most && self.pipelined;
        // SAFETY: as above.
        let most = if goes_ahead { unsafe { self.next_size(node, waiting) } } else { 0 };
        if most == 0 {
            self.arrive()?;
        } else {
            // SAFETY: as above.
            unsafe { self.fill(node, 1 - self.now, most)? };
            self.ahead = self.windows[self.now].spoiled.is_none();
            self.settle()?;
        }
        self.share();
        Ok(self.windows[self.now].rows > 0)
    }

    /// Waits for the batches of the current window. Those of the other window stay in flight.
    pub(crate) fn settle(&mut self) -> Result<()> {
        for group in &mut self.groups {
            for batcher in &mut group.batchers {
                batcher.settle(self.now, &mut self.windows, &mut group.counters)?;
            }
        }
        Ok(())
    }

    /// Publishes the counters to the leader of parallel workers.
    pub(crate) fn share(&mut self) {
        self.shared.put(self.groups.iter().map(|g| g.counters));
    }

    /// Stores the next row in the scan slot. Returns false at the end.
    #[inline]
    pub(crate) unsafe fn store_next(&mut self, node: *mut pg_sys::CustomScanState) -> Result<bool> {
        // SAFETY: the slot has as many columns as a row of the window.
        unsafe {
            let slot = (*node).ss.ss_ScanTupleSlot;
            ((*(*slot).tts_ops).clear.unwrap_unchecked())(slot);
            if self.windows[self.now].next >= self.windows[self.now].rows && !self.refill(node)? {
                return Ok(false);
            }
            let window = &mut self.windows[self.now];
            if window.spoiled.as_ref().is_some_and(|(row, _)| *row <= window.next) {
                window.rows = 0;
                if let Some((_, error)) = window.spoiled.take() {
                    return Err(error);
                }
            }
            let base = window.next as usize * window.columns;
            window.next += 1;
            // Rows usually have few columns, so a loop is cheaper than calls to copy the arrays.
            let row = window.values[base..].iter().zip(&window.nulls[base..]).take(window.columns);
            for (i, (value, null)) in row.enumerate() {
                *(*slot).tts_values.add(i) = *value;
                *(*slot).tts_isnull.add(i) = *null;
            }
            (*slot).tts_flags &= !EMPTY;
            (*slot).tts_nvalid = self.columns;
        }
        Ok(true)
    }

    /// Stores the next row for a cursor that may be fetched backwards. Rows are read from its tuplestore or added to
    /// it, as in nodeMaterial.c.
    pub(crate) unsafe fn store_next_kept(&mut self, node: *mut pg_sys::CustomScanState) -> Result<bool> {
        // SAFETY: the tuplestore belongs to this query.
        unsafe {
            let forward = pg_sys::ScanDirection::ForwardScanDirection == (*(*node).ss.ps.state).es_direction;
            let slot = (*node).ss.ss_ScanTupleSlot;
            if self.store.is_null() {
                self.store =
                    memory::within(self.context, || pg_sys::tuplestore_begin_heap(true, false, pg_sys::work_mem));
                pg_sys::tuplestore_set_eflags(
                    self.store,
                    (pg_sys::EXEC_FLAG_BACKWARD | pg_sys::EXEC_FLAG_REWIND).cast_signed(),
                );
            }
            if self.store_slot.is_null() {
                self.store_slot = memory::within(self.context, || {
                    pg_sys::MakeSingleTupleTableSlot((*slot).tts_tupleDescriptor, &raw const pg_sys::TTSOpsMinimalTuple)
                });
            }
            let mut at_end = pg_sys::tuplestore_ateof(self.store);
            if !forward && at_end {
                if !self.store_ended && !pg_sys::tuplestore_advance(self.store, false) {
                    ((*(*slot).tts_ops).clear.unwrap_unchecked())(slot);
                    return Ok(false);
                }
                at_end = false;
            }
            if !at_end {
                if pg_sys::tuplestore_gettupleslot(self.store, forward, true, self.store_slot) {
                    ((*(*slot).tts_ops).copyslot.unwrap_unchecked())(slot, self.store_slot);
                    return Ok(true);
                }
                at_end = forward;
            }
            if at_end && !self.store_ended {
                if self.store_next(node)? {
                    pg_sys::tuplestore_puttupleslot(self.store, slot);
                    return Ok(true);
                }
                self.store_ended = true;
            }
            ((*(*slot).tts_ops).clear.unwrap_unchecked())(slot);
            Ok(false)
        }
    }
}

/// Copies a value that is passed by reference into the arena of a window.
#[inline]
unsafe fn copied(window: &mut RowWindow, value: Datum, length: Length) -> Result<Datum> {
    // SAFETY: the value is as long as its type says.
    unsafe {
        let mut from = value.cast_mut_ptr::<u8>();
        let mut flat = std::ptr::null_mut();
        let length = match length {
            Length::Varlena if pgrx::varlena::varatt_is_1b_e(from.cast()) && is_expanded(from) => {
                flat = pg_sys::pg_detoast_datum_copy(from.cast());
                from = flat.cast();
                pgrx::varlena::varsize_any(flat)
            }
            Length::Varlena => pgrx::varlena::varsize_any(from.cast()),
            Length::CString => libc::strlen(from.cast()) + 1,
            Length::Bytes(n) => n,
        };
        if length == 0 {
            return Ok(value);
        }
        let to = window.arena.room(length)?;
        std::ptr::copy_nonoverlapping(from, to, length);
        window.bytes += length;
        if !flat.is_null() {
            pg_sys::pfree(flat.cast());
        }
        Ok(Datum::from(to))
    }
}
