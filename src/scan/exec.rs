//! Runs a BatchPredict node: reads a window of rows, runs their batches, and gives the rows on with their answers.
//!
//! While the last batches of one window run, the next is read; rows are given in the order in which they were read. A row
//! that cannot be answered ends its window: its error is raised when its turn comes, after the rows before it.
//!
//! A cursor that may go back keeps its rows in a tuplestore.

use std::ffi::c_int;
use std::rc::Rc;
use std::sync::Arc;

use pg_predict_engine::version::Version;
use pgrx::pg_sys::{self, Datum, ExprState, NodeTag, NullableDatum};

use crate::error::{Error, Result, raise};
use crate::guc;
use crate::pg::convert::Arguments;
use crate::pg::form::Form;
use crate::pg::node::{self, is, members};
use crate::pg::{memory, owner, sessions, text};
use crate::scan::explain::{Counters, Shared};
use crate::scan::kit::Look;
use crate::scan::lane::Lane;
use crate::scan::recipe::{Recipe, Top};
use crate::scan::{EXECUTION, executor};

/// Rows of the first window; the next ones are four times as large each.
const FIRST_WINDOW: usize = 256;
/// Rows that a window has room for at first.
const FIRST_ROOM: usize = 16;
/// Models that one group keeps ready, where their name is different from row to row.
const LANES: usize = 16;
/// Bytes of a block of kept values.
const BLOCK: usize = 64 << 10;

/// Values of rows that are kept by reference, in blocks that do not move.
#[derive(Default)]
struct Arena {
    blocks: Vec<Vec<u64>>,
    block: usize,
    used: usize,
}

impl Arena {
    fn clear(&mut self) {
        // What one large row needed is given back.
        self.blocks.truncate(16);
        self.blocks.retain(|b| b.len() * 8 <= BLOCK);
        (self.block, self.used) = (0, 0);
    }

    /// Room for so many bytes, aligned as every type wants it.
    fn room(&mut self, bytes: usize) -> Result<*mut u8> {
        let words = bytes.div_ceil(8);
        while self.blocks.get(self.block).is_some_and(|b| self.used + words > b.len()) {
            self.block += 1;
            self.used = 0;
        }
        if self.block >= self.blocks.len() {
            let size = words.max(BLOCK / 8);
            let mut block = Vec::new();
            block.try_reserve_exact(size).map_err(|_| pg_predict_engine::Error::OutOfMemory {
                what: "rows that wait for a batch".into(),
                bytes: size * 8,
            })?;
            block.resize(size, 0);
            self.blocks.push(block);
        }
        let at = self.blocks[self.block][self.used..].as_mut_ptr();
        self.used += words;
        Ok(at.cast())
    }
}

/// Rows that were read together.
pub(super) struct Window {
    columns: usize,
    /// The columns of all rows that there is room for; what is behind `rows` means nothing.
    values: Vec<Datum>,
    nulls: Vec<bool>,
    rows: usize,
    /// The next row to be given.
    next: usize,
    /// A row that cannot be answered, and why; those behind it do not count.
    spoiled: Option<(usize, Error)>,
    arena: Arena,
    bytes: usize,
    /// Holds the answers that are kept by reference; made for the first of them.
    home: Option<memory::Private>,
}

impl Window {
    fn new(columns: usize) -> Self {
        Self {
            columns,
            values: Vec::new(),
            nulls: Vec::new(),
            rows: 0,
            next: 0,
            spoiled: None,
            arena: Arena::default(),
            bytes: 0,
            home: None,
        }
    }

    fn clear(&mut self) {
        // A column that nothing is put into is NULL.
        self.nulls[..self.rows * self.columns].fill(true);
        (self.rows, self.next, self.bytes) = (0, 0, 0);
        self.spoiled = None;
        self.arena.clear();
        if let Some(home) = &self.home {
            // SAFETY: its own context; what it held has been given.
            unsafe { pg_sys::MemoryContextReset(home.context()) };
        }
    }

    /// Makes room for more rows, or fails without ending the process.
    #[cold]
    fn grow(&mut self) -> Result<()> {
        let more = self.values.len().max(FIRST_ROOM * self.columns);
        let full =
            |_| pg_predict_engine::Error::OutOfMemory { what: "rows that wait for a batch".into(), bytes: more * 9 };
        self.values.try_reserve(more).map_err(full)?;
        self.nulls.try_reserve(more).map_err(full)?;
        self.values.resize(self.values.len() + more, Datum::from(0));
        self.nulls.resize(self.nulls.len() + more, true);
        Ok(())
    }

    /// Bytes of the rows in it.
    fn held(&self) -> usize {
        self.bytes + self.rows * self.columns * 9
    }

    /// Where answers are made.
    pub(super) fn context(&mut self) -> pg_sys::MemoryContext {
        self.home.get_or_insert_with(|| memory::Private::new(c"pg_predict window")).context()
    }

    /// Puts an answer in its place; none is NULL.
    #[inline]
    pub(super) fn answer(&mut self, row: usize, column: usize, value: Option<Datum>) {
        let at = row * self.columns + column;
        if let (Some(value), Some(v), Some(n)) = (value, self.values.get_mut(at), self.nulls.get_mut(at)) {
            *v = value;
            *n = false;
        }
    }

    /// Notes a row that cannot be answered.
    pub(super) fn spoil(&mut self, row: usize, error: Error) {
        if self.spoiled.as_ref().is_none_or(|(first, _)| row < *first) {
            self.spoiled = Some((row, error));
        }
    }
}

/// A column of the scan that is one of the input's.
struct Kept {
    column: usize,
    attribute: usize,
    by_value: bool,
    length: i16,
}

/// Where a value of a call comes from.
#[derive(Clone, Copy)]
enum Input {
    /// An attribute of the input's row.
    Attribute(usize),
    Expression(*mut ExprState),
}

/// Calls that share their runs.
struct Group {
    calls: Vec<(usize, Form)>,
    guard: *mut ExprState,
    /// The model reference of each call, and the reference itself where it is a constant.
    references: Vec<(*mut ExprState, Option<String>)>,
    inputs: Vec<Input>,
    types: Vec<pg_sys::Oid>,
    variadic: bool,
    /// The columns of a row that is not put together.
    columns: pg_sys::TupleDesc,
    /// It has no condition, one model for all rows, and only attributes of the input as arguments.
    is_plain: bool,
    /// How its calls look, where kits may serve them.
    look: Option<Rc<Look>>,
    lanes: Vec<Lane>,
    /// The references of the row at hand, for those that are no constants.
    at_hand: Vec<String>,
    counters: Counters,
    /// Rows that the plan expects.
    expected: f64,
}

/// What a node is doing.
pub(super) struct Scan {
    pub(super) recipe: Rc<Recipe>,
    groups: Vec<Group>,
    kept: Vec<Kept>,
    last_attribute: i32,
    windows: [Window; 2],
    /// The window that is being given.
    now: usize,
    /// The other one has been read and may be under way.
    ahead: bool,
    ended: bool,
    size: usize,
    most: usize,
    max_bytes: usize,
    pipelined: bool,
    bound: Option<(*mut ExprState, *mut ExprState)>,
    /// The rows that a LIMIT above wants, once that is known.
    limit: Option<u64>,
    /// Rows that were given since the node began.
    given: u64,
    /// The run of the query that the node is in, the rows that the client wants of it (0: all; none where that is not known), and those
    /// given in it.
    run: u64,
    wanted_by_run: Option<u64>,
    given_in_run: u64,
    /// Rows of a cursor that may go back.
    store: *mut pg_sys::Tuplestorestate,
    store_slot: *mut pg_sys::TupleTableSlot,
    goes_back: bool,
    store_ended: bool,
    context: pg_sys::MemoryContext,
    pub(super) shared: Shared,
    pub(super) explain_only: bool,
}

/// The node's state, as PostgreSQL holds it.
#[repr(C)]
pub(super) struct State {
    css: pg_sys::CustomScanState,
    scan: *mut Scan,
}

/// The state of a node, once it has begun.
pub(super) fn scan_of<'a>(node: *mut pg_sys::CustomScanState) -> Option<&'a mut Scan> {
    // SAFETY: nodes of our methods have our state; the query's memory context owns what it points to.
    unsafe { (*node.cast::<State>()).scan.as_mut() }
}

#[pgrx::pg_guard]
pub(super) unsafe extern "C-unwind" fn create(_scan: *mut pg_sys::CustomScan) -> *mut pg_sys::Node {
    let state = node::make::<State>(NodeTag::T_CustomScanState);
    // SAFETY: a new node.
    unsafe { (*state).css.methods = &raw const EXECUTION.0 };
    state.cast()
}

#[pgrx::pg_guard]
pub(super) unsafe extern "C-unwind" fn begin(
    node: *mut pg_sys::CustomScanState,
    estate: *mut pg_sys::EState,
    flags: c_int,
) {
    // SAFETY: PostgreSQL begins a node with its plan in place.
    unsafe {
        let plan = (*node).ss.ps.plan.cast::<pg_sys::CustomScan>();
        let goes_back = flags & pg_sys::EXEC_FLAG_BACKWARD as c_int != 0;
        let mask = (pg_sys::EXEC_FLAG_BACKWARD | pg_sys::EXEC_FLAG_MARK) as c_int;
        (*node).ss.ps.lefttree = executor::ExecInitNode((*plan).scan.plan.lefttree, estate, flags & !mask);
        match set_up(node, plan, (*estate).es_query_cxt) {
            Ok(mut scan) => {
                scan.goes_back = goes_back;
                scan.explain_only = flags & pg_sys::EXEC_FLAG_EXPLAIN_ONLY as c_int != 0;
                // A cursor finds its current row by the scan of the table.
                if scan.recipe.row_place.is_some() {
                    (*node).ss.ss_currentRelation =
                        (*(*node).ss.ps.lefttree.cast::<pg_sys::ScanState>()).ss_currentRelation;
                }
                (*node.cast::<State>()).scan = memory::own((*estate).es_query_cxt, scan);
            }
            Err(error) => raise(error),
        }
    }
}

unsafe fn set_up(
    node: *mut pg_sys::CustomScanState,
    plan: *mut pg_sys::CustomScan,
    context: pg_sys::MemoryContext,
) -> Result<Scan> {
    // SAFETY: the plan is one that `plan` made; expressions are compiled for this node.
    unsafe {
        let parent = &raw mut (*node).ss.ps;
        let compiled = |e: *mut pg_sys::Node| pg_sys::ExecInitExpr(e.cast(), parent);
        let recipe = Recipe::of(plan)?;
        let extra = members::<pg_sys::Node>((*plan).custom_exprs);
        let columns = members::<pg_sys::TargetEntry>((*plan).custom_scan_tlist);
        let (mut kept, mut last) = (Vec::new(), 0);
        for (column, entry) in columns.iter().enumerate() {
            let e = (**entry).expr;
            if is(e.cast(), NodeTag::T_Var) {
                let v = &*e.cast::<pg_sys::Var>();
                let (mut length, mut by_value) = (0, false);
                pg_sys::get_typlenbyval(v.vartype, &raw mut length, &raw mut by_value);
                last = last.max(i32::from(v.varattno));
                kept.push(Kept { column, attribute: v.varattno as usize - 1, by_value, length });
            }
        }
        let mut groups = Vec::new();
        for group in &recipe.groups {
            let mut calls = Vec::new();
            let mut references = Vec::new();
            let mut first: *mut pg_sys::FuncExpr = std::ptr::null_mut();
            for call in &group.calls {
                let f = (*columns[call.column]).expr.cast::<pg_sys::FuncExpr>();
                owner::check_execute((*f).funcid);
                let model = members::<pg_sys::Node>((*f).args)[0];
                let constant = is(model, NodeTag::T_Const) && !(*model.cast::<pg_sys::Const>()).constisnull;
                let text = if constant {
                    Some(text::text((*model.cast::<pg_sys::Const>()).constvalue)?.into_owned())
                } else {
                    None
                };
                let compiled = if text.is_none() { compiled(model) } else { std::ptr::null_mut() };
                references.push((compiled, text));
                calls.push((call.column, call.form));
                if first.is_null() {
                    first = f;
                }
            }
            let mut arguments = members::<pg_sys::Node>((*first).args).split_off(1);
            let types: Vec<_> = arguments.iter().map(|a| pg_sys::exprType(*a)).collect();
            let row = columns_of(&arguments, context);
            if !row.is_null() {
                arguments = members((*arguments[0].cast::<pg_sys::RowExpr>()).args);
            }
            let inputs: Vec<Input> = arguments
                .iter()
                .map(|a| match node::tag(*a) {
                    NodeTag::T_Var if (*a.cast::<pg_sys::Var>()).varattno > 0 => {
                        let attribute = (*a.cast::<pg_sys::Var>()).varattno;
                        last = last.max(i32::from(attribute));
                        Input::Attribute(attribute as usize - 1)
                    }
                    _ => Input::Expression(compiled(*a)),
                })
                .collect();
            let attributes: Option<Vec<usize>> = inputs
                .iter()
                .map(|i| match i {
                    Input::Attribute(i) => Some(*i),
                    Input::Expression(_) => None,
                })
                .collect();
            let named = references.iter().all(|(_, text)| text.is_some());
            let variadic = (*first).funcvariadic;
            let look = attributes.clone().filter(|_| named && row.is_null()).map(|attributes| {
                Rc::new(Look { calls: calls.clone(), types: Vec::clone(&types), attributes, variadic })
            });
            groups.push(Group {
                is_plain: group.guard.is_none() && named && attributes.is_some(),
                look,
                calls,
                guard: group.guard.map_or(std::ptr::null_mut(), |i| compiled(extra[i])),
                references,
                inputs,
                types,
                variadic,
                columns: row,
                lanes: Vec::new(),
                at_hand: Vec::new(),
                counters: Counters::default(),
                expected: (*(*plan).scan.plan.lefttree).plan_rows,
            });
        }
        let bound = recipe.bound.map(|(count, offset)| {
            (compiled(extra[count]), offset.map_or(std::ptr::null_mut(), |o| compiled(extra[o])))
        });
        let max_bytes = guc::max_batch_memory().min(pg_sys::work_mem as usize * 1024);
        Ok(Scan {
            groups,
            kept,
            last_attribute: last,
            windows: [Window::new(columns.len()), Window::new(columns.len())],
            now: 0,
            ahead: false,
            ended: false,
            size: 0,
            most: FIRST_WINDOW,
            max_bytes,
            pipelined: guc::pipeline(),
            bound,
            limit: None,
            given: 0,
            run: 0,
            wanted_by_run: None,
            given_in_run: 0,
            store: std::ptr::null_mut(),
            store_slot: std::ptr::null_mut(),
            goes_back: false,
            store_ended: false,
            context,
            shared: Shared::default(),
            explain_only: false,
            recipe,
        })
    }
}

/// The columns of a row that is put together of plain values only, so that it need not be; none for other arguments.
unsafe fn columns_of(arguments: &[*mut pg_sys::Node], context: pg_sys::MemoryContext) -> pg_sys::TupleDesc {
    // SAFETY: a row by its tag; the description is a copy in the query's context.
    unsafe {
        let &[one] = arguments else { return std::ptr::null_mut() };
        if !is(one, NodeTag::T_RowExpr) {
            return std::ptr::null_mut();
        }
        let row = one.cast::<pg_sys::RowExpr>();
        let fields = members::<pg_sys::Node>((*row).args);
        let plain =
            |n: &*mut pg_sys::Node| matches!(node::tag(*n), NodeTag::T_Var | NodeTag::T_Const | NodeTag::T_Param);
        if !fields.iter().all(plain) {
            return std::ptr::null_mut();
        }
        memory::within(context, || {
            if (*row).row_typeid != pg_sys::RECORDOID {
                let desc = pg_sys::lookup_rowtype_tupdesc_copy((*row).row_typeid, -1);
                return if (*desc).natts as usize == fields.len() { desc } else { std::ptr::null_mut() };
            }
            let names = members::<pg_sys::String>((*row).colnames);
            let desc = pg_sys::CreateTemplateTupleDesc(fields.len() as i32);
            for (i, field) in fields.iter().enumerate() {
                let name = names.get(i).map_or(std::ptr::null_mut(), |n| (**n).sval);
                let (oid, typmod) = (pg_sys::exprType(*field), pg_sys::exprTypmod(*field));
                pg_sys::TupleDescInitEntry(desc, i as i16 + 1, name, oid, typmod, 0);
            }
            desc
        })
    }
}

#[pgrx::pg_guard]
pub(super) unsafe extern "C-unwind" fn end(node: *mut pg_sys::CustomScanState) {
    // SAFETY: ends what `begin` began.
    unsafe {
        if let Some(scan) = scan_of(node) {
            for group in &mut scan.groups {
                group.lanes.drain(..).for_each(|lane| lane.end(group.look.as_ref()));
            }
            if !scan.store.is_null() {
                pg_sys::tuplestore_end(std::mem::replace(&mut scan.store, std::ptr::null_mut()));
            }
            if !scan.store_slot.is_null() {
                pg_sys::ExecDropSingleTupleTableSlot(std::mem::replace(&mut scan.store_slot, std::ptr::null_mut()));
            }
        }
        // The relation is the node's below.
        (*node).ss.ss_currentRelation = std::ptr::null_mut();
        executor::ExecEndNode((*node).ss.ps.lefttree);
    }
}

#[pgrx::pg_guard]
pub(super) unsafe extern "C-unwind" fn rescan(node: *mut pg_sys::CustomScanState) {
    // SAFETY: the node has begun.
    unsafe {
        let child = (*node).ss.ps.lefttree;
        if let Some(scan) = scan_of(node) {
            if !scan.store.is_null() && (*child).chgParam.is_null() {
                pg_sys::tuplestore_rescan(scan.store);
                return;
            }
            if !scan.store.is_null() {
                pg_sys::tuplestore_end(std::mem::replace(&mut scan.store, std::ptr::null_mut()));
            }
            for lane in scan.groups.iter_mut().flat_map(|g| &mut g.lanes) {
                lane.forget();
            }
            scan.windows.iter_mut().for_each(Window::clear);
            (scan.ahead, scan.ended, scan.store_ended, scan.size) = (false, false, false, 0);
            (scan.limit, scan.given) = (None, 0);
        }
        if (*child).chgParam.is_null() {
            executor::ExecReScan(child);
        }
    }
}

/// The next row of the input; none at its end.
#[inline(always)]
unsafe fn fetch(child: *mut pg_sys::PlanState) -> Option<*mut pg_sys::TupleTableSlot> {
    // SAFETY: as ExecProcNode does; an error jumps over frames that own nothing.
    unsafe {
        if !(*child).chgParam.is_null() {
            executor::ExecReScan(child);
        }
        let slot = ((*child).ExecProcNode.unwrap_unchecked())(child);
        (!slot.is_null() && u32::from((*slot).tts_flags) & pg_sys::TTS_FLAG_EMPTY == 0).then_some(slot)
    }
}

/// Evaluates an expression on the row of a context, in the context's memory.
#[inline(always)]
unsafe fn evaluate(expression: *mut ExprState, context: *mut pg_sys::ExprContext) -> NullableDatum {
    // SAFETY: as ExecEvalExprSwitchContext does.
    unsafe {
        let before = pg_sys::CurrentMemoryContext;
        pg_sys::CurrentMemoryContext = (*context).ecxt_per_tuple_memory;
        let mut isnull = false;
        let value = ((*expression).evalfunc.unwrap_unchecked())(expression, context, &raw mut isnull);
        pg_sys::CurrentMemoryContext = before;
        NullableDatum { value, isnull }
    }
}

#[inline(always)]
unsafe fn reset(context: *mut pg_sys::ExprContext) {
    // SAFETY: the context of one row.
    unsafe {
        if !(*(*context).ecxt_per_tuple_memory).isReset {
            executor::MemoryContextReset((*context).ecxt_per_tuple_memory);
        }
    }
}

impl Group {
    /// The lane of the row that `context` holds, opened where it is its first.
    unsafe fn lane(&mut self, context: *mut pg_sys::ExprContext, home: pg_sys::MemoryContext) -> Result<&mut Lane> {
        let constant = self.references.iter().all(|(_, text)| text.is_some());
        if constant && !self.lanes.is_empty() {
            return Ok(&mut self.lanes[0]);
        }
        self.at_hand.clear();
        for i in 0..self.references.len() {
            let reference = match &self.references[i].1 {
                Some(text) => text.clone(),
                None => {
                    // SAFETY: a compiled expression; it is a parameter, or of columns of the row.
                    let value = unsafe { evaluate(self.references[i].0, context) };
                    if value.isnull {
                        return Err(Error::NullArgument { what: "the model reference" });
                    }
                    text::text(value.value)?.into_owned()
                }
            };
            self.at_hand.push(reference);
        }
        if let Some(i) = self.lanes.iter().position(|l| l.references() == self.at_hand) {
            return Ok(&mut self.lanes[i]);
        }
        let lane = Lane::open(self.at_hand.clone(), &self.calls, self.look.as_deref(), home, self.expected)?;
        self.lanes.push(lane);
        let last = self.lanes.len() - 1;
        Ok(&mut self.lanes[last])
    }
}

impl Group {
    /// Takes the row of a slot, whose values go from there into the tensors: where the group has one model, whose rows are
    /// columns of the input, and neither the batch is full afterwards nor anything is special about the row.
    #[inline(always)]
    unsafe fn take(&mut self, slot: *mut pg_sys::TupleTableSlot, place: usize) -> bool {
        let (true, [lane]) = (self.is_plain, self.lanes.as_mut_slice()) else { return false };
        // SAFETY: the slot has the attributes that the group reads.
        unsafe { lane.take((*slot).tts_values, (*slot).tts_isnull, place) }
    }
}

impl Scan {
    /// Gathers the row of a slot for one group.
    unsafe fn gather(
        &mut self,
        which: usize,
        window: usize,
        slot: *mut pg_sys::TupleTableSlot,
        context: *mut pg_sys::ExprContext,
    ) -> Result<()> {
        // SAFETY: the slot holds a row with the attributes that are read; expressions are compiled for it.
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
            let inputs = &raw const group.inputs;
            let value = |input: Input| match input {
                Input::Attribute(i) => {
                    NullableDatum { value: *(*slot).tts_values.add(i), isnull: *(*slot).tts_isnull.add(i) }
                }
                Input::Expression(e) => evaluate(e, context),
            };
            let lane: *mut Lane = group.lane(context, home)?;
            let lane = &mut *lane;
            if !lane.is_bound() {
                let first = if columns.is_null() { (&(*inputs)).first().map(|i| value(*i)) } else { None };
                let first = first.filter(|f| !f.isnull).map(|f| f.value);
                let arguments = Arguments { types: (*types).clone(), variadic, first, columns: std::ptr::null_mut() };
                if !lane.bind(columns, &arguments)? {
                    group.counters.rows += 1;
                    group.counters.nulls += 1;
                    return lane.skip();
                }
                if group.is_plain {
                    lane.read_attributes(|source| match (&(*inputs))[source] {
                        Input::Attribute(i) => i,
                        Input::Expression(_) => 0,
                    });
                }
            }
            for i in 0..lane.sources().len() {
                let source = lane.sources()[i];
                let v = value((&(*inputs))[source]);
                lane.values()[i] = v;
            }
            let before = pg_sys::CurrentMemoryContext;
            pg_sys::CurrentMemoryContext = (*context).ecxt_per_tuple_memory;
            let full = lane.gather(place);
            pg_sys::CurrentMemoryContext = before;
            if full? {
                // Its place in the window is not counted yet.
                lane.send(window, &mut self.windows, &mut group.counters)?;
            }
            Ok(())
        }
    }

    /// Notes that the query runs anew: a cursor's, for other rows.
    #[cold]
    unsafe fn enter_run(&mut self, node: *mut pg_sys::CustomScanState, run: u64) {
        self.run = run;
        // SAFETY: a node that has begun has the state of its query. A run of another query says nothing of this one.
        if let Some(wanted) = executor::rows_wanted(unsafe { (*node).ss.ps.state }) {
            (self.wanted_by_run, self.given_in_run) = (Some(wanted), 0);
        }
    }

    /// The rows that PostgreSQL would read at least before it stops, apart from those that wait; none where it reads all.
    unsafe fn wanted(&mut self, node: *mut pg_sys::CustomScanState, waiting: usize) -> Option<usize> {
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
                // SAFETY: constants and parameters, of type bigint.
                let v = unsafe { evaluate(e, context) };
                (!v.isnull).then(|| u64::try_from(v.value.value().cast_signed()).unwrap_or(0))
            };
            // LIMIT NULL is none.
            self.limit = Some(match (number(count), number(offset)) {
                (Some(count), offset) => count.saturating_add(offset.unwrap_or(0)),
                (None, _) => u64::MAX,
            });
            // As a LIMIT tells the node below it: a sort then keeps no more rows.
            if let Some(limit) = self.limit.and_then(|limit| i64::try_from(limit).ok()).filter(|_| self.recipe.exact) {
                // SAFETY: the node's own child.
                unsafe { executor::ExecSetTupleBound(limit, child) };
            }
        }
        let of_limit = self.limit.map(|limit| limit.saturating_sub(self.given));
        let of_run = match (self.recipe.top, self.wanted_by_run) {
            (Top::Below, _) | (_, Some(0)) => None,
            // A node above may have sent rows that it kept from an earlier run.
            (Top::Exact, Some(wanted)) => Some(wanted.saturating_sub(self.given_in_run.max(sent))),
            (Top::Exact, None) | (Top::Loose, _) => Some(1),
        };
        let wanted = of_limit.into_iter().chain(of_run).min()?;
        Some(usize::try_from(wanted).unwrap_or(usize::MAX).saturating_sub(waiting))
    }

    /// Rows of the next window, while so many wait; 0 if none may be read before they are given.
    unsafe fn next_size(&mut self, node: *mut pg_sys::CustomScanState, waiting: usize) -> usize {
        let first = if self.size == 0 { FIRST_WINDOW } else { self.size.saturating_mul(4) };
        self.size = first.clamp(1, self.most.max(1));
        // SAFETY: as for `wanted`, which tells the node below of a LIMIT too.
        let wanted = unsafe { self.wanted(node, waiting) };
        if self.recipe.one_by_one.is_some() || (self.recipe.first_alone && self.given == 0) {
            return usize::from(waiting == 0);
        }
        match wanted {
            None => self.size,
            // All of them are needed, so that there is no reason to begin with few.
            Some(wanted) => {
                self.size = self.most.max(1);
                wanted.min(self.size).max(usize::from(waiting == 0))
            }
        }
    }

    /// Reads a window and sends its rows on their way.
    unsafe fn fill(&mut self, node: *mut pg_sys::CustomScanState, which: usize, most: usize) -> Result<()> {
        // SAFETY: the node has begun; the slot is read before the next one is fetched.
        unsafe {
            let child = (*node).ss.ps.lefttree;
            let context = (*node).ss.ps.ps_ExprContext;
            self.windows[which].clear();
            while self.windows[which].rows < most && self.windows[which].bytes < self.max_bytes {
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
                    // What a conversion allocates goes with the row.
                    let before = pg_sys::CurrentMemoryContext;
                    pg_sys::CurrentMemoryContext = (*context).ecxt_per_tuple_memory;
                    let taken = self.groups[group].take(slot, self.windows[which].rows);
                    pg_sys::CurrentMemoryContext = before;
                    if taken {
                        continue;
                    }
                    if let Err(error) = self.gather(group, which, slot, context) {
                        let row = self.windows[which].rows;
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
                if self.groups.iter().any(|g| g.lanes.len() > LANES) {
                    break;
                }
            }
            let mut peak = 0;
            for group in &mut self.groups {
                for lane in &mut group.lanes {
                    peak += lane.bytes();
                    lane.send(which, &mut self.windows, &mut group.counters)?;
                    self.most = self.most.max(lane.batch_size());
                }
                if group.lanes.len() > LANES {
                    for lane in &mut group.lanes {
                        lane.arrive(&mut self.windows, &mut group.counters)?;
                    }
                    group.lanes.drain(..LANES / 2);
                }
            }
            let held: usize = self.windows.iter().map(Window::held).sum();
            for group in &mut self.groups {
                group.counters.peak = group.counters.peak.max((held + peak) as u64);
            }
        }
        Ok(())
    }

    /// Keeps the values of a row that go on.
    #[inline]
    unsafe fn keep(&mut self, which: usize, slot: *mut pg_sys::TupleTableSlot) -> Result<()> {
        // SAFETY: the slot has the attributes; a value by reference is as long as its type says.
        unsafe {
            let window = &mut self.windows[which];
            let base = window.rows * window.columns;
            if window.values.len() - base < window.columns {
                window.grow()?;
            }
            for kept in &self.kept {
                if *(*slot).tts_isnull.add(kept.attribute) {
                    continue;
                }
                let mut value = *(*slot).tts_values.add(kept.attribute);
                if !kept.by_value {
                    let from = value.cast_mut_ptr::<u8>();
                    let length = match kept.length {
                        -1 if pgrx::varlena::varatt_is_1b_e(from.cast()) && is_expanded(from) => {
                            let flat = pg_sys::pg_detoast_datum_copy(from.cast());
                            let n = pgrx::varlena::varsize_any(flat);
                            let to = window.arena.room(n)?;
                            std::ptr::copy_nonoverlapping(flat.cast::<u8>(), to, n);
                            pg_sys::pfree(flat.cast());
                            value = Datum::from(to);
                            window.bytes += n;
                            0
                        }
                        -1 => pgrx::varlena::varsize_any(from.cast()),
                        -2 => libc::strlen(from.cast()) + 1,
                        n => n as usize,
                    };
                    if length > 0 {
                        let to = window.arena.room(length)?;
                        std::ptr::copy_nonoverlapping(from, to, length);
                        value = Datum::from(to);
                        window.bytes += length;
                    }
                }
                window.values[base + kept.column] = value;
                window.nulls[base + kept.column] = false;
            }
        }
        Ok(())
    }

    /// Waits for all that is under way.
    fn arrive(&mut self) -> Result<()> {
        for group in &mut self.groups {
            for lane in &mut group.lanes {
                lane.arrive(&mut self.windows, &mut group.counters)?;
            }
        }
        Ok(())
    }

    /// Makes the next window the one that is given. False at the end.
    unsafe fn refill(&mut self, node: *mut pg_sys::CustomScanState) -> Result<bool> {
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
        let waiting = self.windows[self.now].rows;
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

    /// Waits for the rows of the window that is to be given; those of the other stay under way.
    fn settle(&mut self) -> Result<()> {
        for group in &mut self.groups {
            for lane in &mut group.lanes {
                lane.settle(self.now, &mut self.windows, &mut group.counters)?;
            }
        }
        Ok(())
    }

    /// Lets the leader of parallel workers see the counters.
    fn share(&mut self) {
        self.shared.put(self.groups.iter().map(|g| g.counters));
    }

    /// The counters of a group.
    pub(super) fn counters(&self, group: usize) -> Counters {
        self.groups.get(group).map(|g| g.counters).unwrap_or_default()
    }

    /// The versions that a group has run.
    pub(super) fn versions(&self, group: usize) -> Vec<Arc<Version>> {
        self.groups.get(group).map(|g| g.lanes.iter().map(Lane::version).collect()).unwrap_or_default()
    }

    /// Puts the next row into the scan's slot. False at the end.
    #[inline]
    unsafe fn store_next(&mut self, node: *mut pg_sys::CustomScanState) -> Result<bool> {
        // SAFETY: the slot has as many columns as a window's rows.
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
            let base = window.next * window.columns;
            window.next += 1;
            // Few columns as a rule: less than a call for their copies.
            let row = window.values[base..].iter().zip(&window.nulls[base..]).take(window.columns);
            for (i, (value, null)) in row.enumerate() {
                *(*slot).tts_values.add(i) = *value;
                *(*slot).tts_isnull.add(i) = *null;
            }
            (*slot).tts_flags &= !(pg_sys::TTS_FLAG_EMPTY as u16);
            (*slot).tts_nvalid = window.columns as i16;
        }
        Ok(true)
    }

    /// The same for a cursor that may go back: rows come out of its store, or go into it. As nodeMaterial.c does.
    unsafe fn store_next_kept(&mut self, node: *mut pg_sys::CustomScanState) -> Result<bool> {
        // SAFETY: the store is the query's own.
        unsafe {
            let forward = pg_sys::ScanDirection::ForwardScanDirection == (*(*node).ss.ps.state).es_direction;
            let slot = (*node).ss.ss_ScanTupleSlot;
            if self.store.is_null() {
                self.store =
                    memory::within(self.context, || pg_sys::tuplestore_begin_heap(true, false, pg_sys::work_mem));
                pg_sys::tuplestore_set_eflags(
                    self.store,
                    (pg_sys::EXEC_FLAG_BACKWARD | pg_sys::EXEC_FLAG_REWIND) as c_int,
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

/// Whether a value is an object that is spread out in memory.
unsafe fn is_expanded(value: *const u8) -> bool {
    // SAFETY: an external value has its kind in its second byte; 2 and 3 are expanded ones (varatt.h).
    unsafe { matches!(*value.add(1), 2 | 3) }
}

#[pgrx::pg_guard]
pub(super) unsafe extern "C-unwind" fn next(node: *mut pg_sys::CustomScanState) -> *mut pg_sys::TupleTableSlot {
    // SAFETY: the node has begun; as ExecScan does.
    unsafe {
        let Some(scan) = scan_of(node) else { return std::ptr::null_mut() };
        let slot = (*node).ss.ss_ScanTupleSlot;
        let ps = &raw mut (*node).ss.ps;
        let context = (*ps).ps_ExprContext;
        let run = executor::run();
        if run != scan.run {
            scan.enter_run(node, run);
        }
        loop {
            reset(context);
            let stored = if scan.goes_back { scan.store_next_kept(node) } else { scan.store_next(node) };
            match stored {
                Ok(true) => {}
                Ok(false) => {
                    let result = if (*ps).ps_ProjInfo.is_null() { slot } else { (*ps).ps_ResultTupleSlot };
                    ((*(*result).tts_ops).clear.unwrap_unchecked())(result);
                    return result;
                }
                Err(error) => raise(error),
            }
            if let Some((tid, table)) = scan.recipe.row_place {
                let place = (*(*slot).tts_values.add(tid)).cast_mut_ptr::<pg_sys::ItemPointerData>();
                (*slot).tts_tid = *place;
                (*slot).tts_tableOid = pg_sys::Oid::from((*(*slot).tts_values.add(table)).value() as u32);
            }
            (*context).ecxt_scantuple = slot;
            if !(*ps).qual.is_null() {
                let passes = evaluate((*ps).qual, context);
                if passes.isnull || passes.value.value() == 0 {
                    if !(*ps).instrument.is_null() {
                        (*(*ps).instrument).nfiltered1 += 1.0;
                    }
                    sessions::check_interrupts();
                    continue;
                }
            }
            scan.given += 1;
            scan.given_in_run += 1;
            if (*ps).ps_ProjInfo.is_null() {
                return slot;
            }
            let state = &raw mut (*(*ps).ps_ProjInfo).pi_state;
            let result = (*state).resultslot;
            ((*(*result).tts_ops).clear.unwrap_unchecked())(result);
            evaluate(state, context);
            (*result).tts_flags &= !(pg_sys::TTS_FLAG_EMPTY as u16);
            (*result).tts_nvalid = (*(*result).tts_tupleDescriptor).natts as i16;
            return result;
        }
    }
}
