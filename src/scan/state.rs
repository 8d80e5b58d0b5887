//! Sets up, rescans and ends the state of a BatchPredict node.

use std::ffi::c_int;
use std::rc::Rc;
use std::sync::Arc;

use pg_predict_engine::version::Version;
use pgrx::pg_sys::{self, Datum, ExprState, NodeTag, NullableDatum};

use crate::error::{Error, Result};
use crate::pg::catalog::roles;
use crate::pg::node::{self, is, length, members};
use crate::pg::report::raise;
use crate::pg::{memory, text, tuple};
use crate::planner::executor;
use crate::planner::node_spec::NodeSpec;
use crate::planner::rewrite::node_columns::OUTER;
use crate::results::call_form::CallForm;
use crate::results::definition_list::DefinitionList;
use crate::scan::EXECUTION;
use crate::scan::cached_binding::CallShape;
use crate::scan::exec::evaluate;
use crate::scan::explain::{Counters, WorkerCounters};
use crate::scan::model_batcher::ModelBatcher;
use crate::scan::streamed::{StreamedColumn, StreamedColumns};
use crate::scan::window::{FIRST_WINDOW, RowWindow};
use crate::settings;

/// Number of rows that a window first has room for.
pub(crate) const FIRST_ROOM: usize = 16;

/// Number of batchers that one group keeps, if the model reference differs per row.
pub(crate) const BATCHERS: usize = 16;

/// A column of the scan that is a column of the input.
pub(crate) struct KeptColumn {
    pub(crate) column: usize,
    pub(crate) attribute: usize,
    /// None if the value is passed by value.
    pub(crate) length: Option<Length>,
}

/// The length of a value that is passed by reference.
#[derive(Clone, Copy)]
pub(crate) enum Length {
    /// Stored in its varlena header.
    Varlena,
    /// Up to and including its zero byte.
    CString,
    Bytes(usize),
}

impl Length {
    /// Returns the length of the values of a type, or None for a type that is passed by value.
    pub(crate) unsafe fn of(oid: pg_sys::Oid) -> Option<Self> {
        let (mut length, mut by_value) = (0, false);
        // SAFETY: looks up the type; raises an error if it does not exist.
        unsafe { pg_sys::get_typlenbyval(oid, &raw mut length, &raw mut by_value) };
        match usize::try_from(length) {
            _ if by_value => None,
            Ok(n) => Some(Self::Bytes(n)),
            Err(_) if length == -2 => Some(Self::CString),
            Err(_) => Some(Self::Varlena),
        }
    }
}

/// The source of an argument of a call.
#[derive(Clone, Copy)]
pub(crate) enum RowSource {
    /// An attribute of the input row.
    Attribute(usize),
    Expression(*mut ExprState),
    /// A value that was computed for the current row, by its position in `computed`.
    Computed(usize),
}

/// The execution state of calls that share their runs.
pub(crate) struct CallGroupState {
    pub(crate) calls: Vec<(usize, CallForm)>,
    pub(crate) guard: *mut ExprState,
    /// The model reference of each call: its expression, and its text if it is a constant.
    pub(crate) references: Vec<(*mut ExprState, Option<String>)>,
    pub(crate) inputs: Vec<RowSource>,
    pub(crate) types: Vec<pg_sys::Oid>,
    pub(crate) variadic: bool,
    /// The columns of a row argument that is passed as separate values. Null for other arguments.
    pub(crate) columns: pg_sys::TupleDesc,
    /// The group has no condition, one model for all rows, and only attributes of the input as arguments.
    pub(crate) is_plain: bool,
    /// The shape of its calls, if a cached binding may be used for them.
    pub(crate) shape: Option<Rc<CallShape>>,
    /// The columns of a definition list, if the calls return them.
    pub(crate) streamed: Option<StreamedColumns>,
    /// The values of a streamed row that must be computed, and their results for the current row.
    pub(crate) expressions: Vec<*mut ExprState>,
    pub(crate) computed: Vec<NullableDatum>,
    pub(crate) batchers: Vec<ModelBatcher>,
    /// The references of the current row. Not updated if all references are constants.
    pub(crate) at_hand: Vec<String>,
    /// The batcher of the current row.
    pub(crate) current: usize,
    pub(crate) counters: Counters,
    /// Number of rows that the plan expects.
    pub(crate) expected: f64,
}

/// The execution state of a BatchPredict node.
pub(super) struct BatchScan {
    pub(super) recipe: Rc<NodeSpec>,
    pub(crate) groups: Vec<CallGroupState>,
    pub(crate) kept: Vec<KeptColumn>,
    /// Number of columns of the scan, and of its projection.
    pub(crate) columns: i16,
    pub(crate) projected: i16,
    pub(crate) last_attribute: i32,
    pub(crate) windows: [RowWindow; 2],
    /// The window whose rows are being returned.
    pub(crate) now: usize,
    /// The other window has been read, and its batches may still be running.
    pub(crate) ahead: bool,
    pub(crate) ended: bool,
    pub(crate) size: usize,
    pub(crate) most: usize,
    pub(crate) max_bytes: usize,
    pub(crate) pipelined: bool,
    pub(crate) bound: Option<(*mut ExprState, *mut ExprState)>,
    /// Number of rows that a LIMIT above reads, once it was evaluated.
    pub(crate) limit: Option<u64>,
    /// Number of rows returned since the node began or was rescanned.
    pub(crate) given: u64,
    /// The current run of the query, the number of rows that the client requested in it, and the number returned in it.
    /// A request of 0 means all rows. None means that the request is unknown.
    pub(crate) run: u64,
    pub(crate) wanted_by_run: Option<u64>,
    pub(crate) given_in_run: u64,
    /// Rows of a cursor that may be fetched backwards.
    pub(crate) store: *mut pg_sys::Tuplestorestate,
    pub(crate) store_slot: *mut pg_sys::TupleTableSlot,
    pub(crate) goes_back: bool,
    pub(crate) store_ended: bool,
    pub(crate) context: pg_sys::MemoryContext,
    pub(super) shared: WorkerCounters,
    pub(super) explain_only: bool,
}

/// The node's state, as PostgreSQL allocates it.
#[repr(C)]
pub(super) struct NodeState {
    css: pg_sys::CustomScanState,
    scan: *mut BatchScan,
}

/// Returns the state of a node, once it has begun.
pub(super) fn scan_of<'a>(node: *mut pg_sys::CustomScanState) -> Option<&'a mut BatchScan> {
    // SAFETY: a node with these methods has this state; the memory context of the query owns what it points to.
    unsafe { (*node.cast::<NodeState>()).scan.as_mut() }
}

#[pgrx::pg_guard]
pub(super) unsafe extern "C-unwind" fn create(_scan: *mut pg_sys::CustomScan) -> *mut pg_sys::Node {
    let state = node::make::<NodeState>(NodeTag::T_CustomScanState);
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
    // SAFETY: PostgreSQL sets the plan of a node before it begins it.
    unsafe {
        let plan = (*node).ss.ps.plan.cast::<pg_sys::CustomScan>();
        let goes_back = flags & pg_sys::EXEC_FLAG_BACKWARD.cast_signed() != 0;
        let mask = (pg_sys::EXEC_FLAG_BACKWARD | pg_sys::EXEC_FLAG_MARK).cast_signed();
        (*node).ss.ps.lefttree = executor::ExecInitNode((*plan).scan.plan.lefttree, estate, flags & !mask);
        match set_up(node, plan, (*estate).es_query_cxt) {
            Ok(mut scan) => {
                scan.goes_back = goes_back || scan.recipe.keeps_rows;
                scan.explain_only = flags & pg_sys::EXEC_FLAG_EXPLAIN_ONLY.cast_signed() != 0;
                // WHERE CURRENT OF finds the current row of a cursor by the relation of its scan.
                if scan.recipe.row_place.is_some() {
                    (*node).ss.ss_currentRelation =
                        (*(*node).ss.ps.lefttree.cast::<pg_sys::ScanState>()).ss_currentRelation;
                }
                (*node.cast::<NodeState>()).scan = memory::own((*estate).es_query_cxt, scan);
            }
            Err(error) => raise(error),
        }
    }
}

unsafe fn set_up(
    node: *mut pg_sys::CustomScanState,
    plan: *mut pg_sys::CustomScan,
    context: pg_sys::MemoryContext,
) -> Result<BatchScan> {
    // SAFETY: the rewrite made the plan; expressions are compiled for this node.
    unsafe {
        let parent = &raw mut (*node).ss.ps;
        let compiled = |e: *mut pg_sys::Node| pg_sys::ExecInitExpr(e.cast(), parent);
        let recipe = NodeSpec::of(plan)?;
        let extra = members::<pg_sys::Node>((*plan).custom_exprs);
        let columns = members::<pg_sys::TargetEntry>((*plan).custom_scan_tlist);
        let place = |v: &pg_sys::Var| {
            let reason = || Error::Plan { reason: format!("column {} is none of the input's", v.varattno) };
            tuple::place(v.varattno).ok_or_else(reason)
        };
        let (mut kept, mut last) = (Vec::new(), 0);
        for (column, entry) in columns.iter().enumerate() {
            let e = (**entry).expr;
            // A Var of another item is shown by EXPLAIN, and its value comes from a call.
            if is(e.cast(), NodeTag::T_Var) && (*e.cast::<pg_sys::Var>()).varno == OUTER {
                let v = &*e.cast::<pg_sys::Var>();
                last = last.max(i32::from(v.varattno));
                kept.push(KeptColumn { column, attribute: place(v)?, length: Length::of(v.vartype) });
            }
        }
        let mut groups = Vec::new();
        for group in &recipe.groups {
            let mut calls = Vec::new();
            let mut references = Vec::new();
            let mut streamed: Option<StreamedColumns> = None;
            let mut first: *mut pg_sys::FuncExpr = std::ptr::null_mut();
            let mut scores_rows = false;
            for call in &group.calls {
                let f = call.call(plan);
                roles::check_execute((*f).funcid);
                let model = members::<pg_sys::Node>((*f).args)[0];
                let constant = is(model, NodeTag::T_Const) && !(*model.cast::<pg_sys::Const>()).constisnull;
                let text = if constant {
                    Some(text::text((*model.cast::<pg_sys::Const>()).constvalue)?.into_owned())
                } else {
                    None
                };
                let expression = if text.is_none() { compiled(model) } else { std::ptr::null_mut() };
                references.push((expression, text));
                calls.push((call.column, call.form));
                if call.form == CallForm::Column {
                    let (definition, column, value) = streamed_column(f, call.column)?;
                    let columns = &mut streamed.get_or_insert(StreamedColumns { definition, columns: vec![] }).columns;
                    let mut column = StreamedColumn { length: Length::of((*f).funcresulttype), ..column };
                    match node::tag(value) {
                        NodeTag::T_Var => {
                            let v = &*value.cast::<pg_sys::Var>();
                            last = last.max(i32::from(v.varattno));
                            kept.push(KeptColumn { column: call.column, attribute: place(v)?, length: column.length });
                            column.is_kept = true;
                        }
                        NodeTag::T_Const if (*value.cast::<pg_sys::Const>()).constisnull => {}
                        _ => column.expression = compiled(value),
                    }
                    columns.push(column);
                }
                if call.form == CallForm::Row {
                    check_scored_row(f)?;
                    scores_rows = true;
                }
                if first.is_null() {
                    first = f;
                }
            }
            let before_row = calls.first().map_or(1, |(_, form): &(usize, CallForm)| form.before_row());
            let mut arguments = members::<pg_sys::Node>((*first).args).split_off(before_row);
            let types: Vec<_> = arguments.iter().map(|a| pg_sys::exprType(*a)).collect();
            let row = columns_of(&arguments, streamed.is_some() || scores_rows, context);
            if !row.is_null() {
                arguments = members((*arguments[0].cast::<pg_sys::RowExpr>()).args);
            }
            let mut expressions = Vec::new();
            let inputs: Vec<RowSource> = arguments
                .iter()
                .map(|a| {
                    let var = is(*a, NodeTag::T_Var).then(|| (*a.cast::<pg_sys::Var>()).varattno);
                    match var.and_then(|number| Some((number, tuple::place(number)?))) {
                        Some((number, place)) => {
                            // Of a row that is streamed, only the columns that the model takes are read.
                            if row.is_null() || streamed.is_none() {
                                last = last.max(i32::from(number));
                            }
                            RowSource::Attribute(place)
                        }
                        // The aggregate computes all values of a row, so a streamed one does so, too.
                        None if streamed.is_some() => {
                            expressions.push(compiled(*a));
                            RowSource::Computed(expressions.len() - 1)
                        }
                        None => RowSource::Expression(compiled(*a)),
                    }
                })
                .collect();
            let attributes: Option<Vec<usize>> = inputs
                .iter()
                .map(|i| match i {
                    RowSource::Attribute(i) => Some(*i),
                    RowSource::Expression(_) | RowSource::Computed(_) => None,
                })
                .collect();
            let named = references.iter().all(|(_, text)| text.is_some());
            let variadic = (*first).funcvariadic;
            let is_cached = named && row.is_null() && streamed.is_none() && !scores_rows;
            let shape = attributes.clone().filter(|_| is_cached).map(|attributes| {
                Rc::new(CallShape { calls: calls.clone(), types: Vec::clone(&types), attributes, variadic })
            });
            groups.push(CallGroupState {
                is_plain: group.guard.is_none() && named && (attributes.is_some() || streamed.is_some()),
                shape,
                streamed,
                computed: vec![NullableDatum { value: Datum::from(0), isnull: true }; expressions.len()],
                expressions,
                current: 0,
                calls,
                guard: group.guard.map_or(std::ptr::null_mut(), |i| compiled(extra[i])),
                references,
                inputs,
                types,
                variadic,
                columns: row,
                batchers: Vec::new(),
                at_hand: Vec::new(),
                counters: Counters::default(),
                expected: (*(*plan).scan.plan.lefttree).plan_rows,
            });
        }
        let bound = recipe.bound.map(|(count, offset)| {
            (compiled(extra[count]), offset.map_or(std::ptr::null_mut(), |o| compiled(extra[o])))
        });
        let max_bytes =
            settings::max_batch_memory().min(usize::try_from(pg_sys::work_mem).unwrap_or(0).saturating_mul(1024));
        Ok(BatchScan {
            groups,
            kept,
            columns: tuple::number(columns.len()),
            projected: tuple::number(length((*plan).scan.plan.targetlist)),
            last_attribute: last,
            windows: [RowWindow::new(columns.len()), RowWindow::new(columns.len())],
            now: 0,
            ahead: false,
            ended: false,
            size: 0,
            most: FIRST_WINDOW,
            max_bytes,
            pipelined: settings::enable_pipelining(),
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
            shared: WorkerCounters::default(),
            explain_only: false,
            recipe,
        })
    }
}

/// Returns the definition list of a call that returns one of its columns, the column, and the value of the row's column
/// of the same name.
///
/// Anybody may write such a call, but not with a result of another type than record.
unsafe fn streamed_column(
    call: *mut pg_sys::FuncExpr,
    column: usize,
) -> Result<(DefinitionList, StreamedColumn, *mut pg_sys::Node)> {
    // SAFETY: each node is cast to the type that its tag names.
    unsafe {
        let &[_, _, _, value, ..] = &members::<pg_sys::Node>((*call).args)[..] else {
            return Err(DefinitionList::misused());
        };
        let (definition, number) = DefinitionList::of_call(call)?;
        definition.check(number, (*call).funcresulttype, pg_sys::exprType(value))?;
        let column = StreamedColumn { column, number, is_kept: false, expression: std::ptr::null_mut(), length: None };
        Ok((definition, column, value))
    }
}

/// Checks that the caller may execute the aggregate that a call scores a row for.
unsafe fn check_scored_row(call: *mut pg_sys::FuncExpr) -> Result<()> {
    // SAFETY: each node is cast to the type that its tag names.
    unsafe {
        let &[_, aggregate, ..] = &members::<pg_sys::Node>((*call).args)[..] else { return Err(Error::RowsDiffer) };
        if !is(aggregate, NodeTag::T_Const) {
            return Err(Error::RowsDiffer);
        }
        roles::check_execute_aggregate(text::oid((*aggregate.cast::<pg_sys::Const>()).constvalue));
        Ok(())
    }
}

/// Whether an expression is a plain value, which takes no time to evaluate and cannot fail.
unsafe fn is_plain_value(n: *const pg_sys::Node) -> bool {
    matches!(node::tag(n), NodeTag::T_Var | NodeTag::T_Const | NodeTag::T_Param)
}

/// Returns the columns of a row argument that consists only of plain values, so that the row need not be formed. Null
/// for other arguments. `any`: the columns may be any expressions.
unsafe fn columns_of(arguments: &[*mut pg_sys::Node], any: bool, context: pg_sys::MemoryContext) -> pg_sys::TupleDesc {
    // SAFETY: a RowExpr by its tag; the descriptor is a copy in the memory context of the query.
    unsafe {
        let &[one] = arguments else { return std::ptr::null_mut() };
        if !is(one, NodeTag::T_RowExpr) {
            return std::ptr::null_mut();
        }
        let row = one.cast::<pg_sys::RowExpr>();
        let fields = members::<pg_sys::Node>((*row).args);
        if !any && !fields.iter().all(|n| is_plain_value(*n)) {
            return std::ptr::null_mut();
        }
        memory::within(context, || {
            if (*row).row_typeid != pg_sys::RECORDOID {
                let desc = pg_sys::lookup_rowtype_tupdesc_copy((*row).row_typeid, -1);
                return if tuple::count(desc) == fields.len() { desc } else { std::ptr::null_mut() };
            }
            let names = members::<pg_sys::String>((*row).colnames);
            let desc = tuple::description(fields.len());
            for (i, field) in fields.iter().enumerate() {
                let name = names.get(i).map_or(std::ptr::null_mut(), |n| (**n).sval);
                let (oid, typmod) = (pg_sys::exprType(*field), pg_sys::exprTypmod(*field));
                pg_sys::TupleDescInitEntry(desc, tuple::number(i + 1), name, oid, typmod, 0);
            }
            desc
        })
    }
}

#[pgrx::pg_guard]
pub(super) unsafe extern "C-unwind" fn end(node: *mut pg_sys::CustomScanState) {
    // SAFETY: frees what `begin` and the execution created.
    unsafe {
        if let Some(scan) = scan_of(node) {
            for group in &mut scan.groups {
                group.batchers.drain(..).for_each(|batcher| batcher.end(group.shape.as_ref()));
            }
            if !scan.store.is_null() {
                pg_sys::tuplestore_end(std::mem::replace(&mut scan.store, std::ptr::null_mut()));
            }
            if !scan.store_slot.is_null() {
                pg_sys::ExecDropSingleTupleTableSlot(std::mem::replace(&mut scan.store_slot, std::ptr::null_mut()));
            }
        }
        // The child node owns the relation.
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
            for batcher in scan.groups.iter_mut().flat_map(|g| &mut g.batchers) {
                batcher.forget();
            }
            scan.windows.iter_mut().for_each(RowWindow::clear);
            (scan.ahead, scan.ended, scan.store_ended, scan.size) = (false, false, false, 0);
            (scan.limit, scan.given) = (None, 0);
        }
        if (*child).chgParam.is_null() {
            executor::ExecReScan(child);
        }
    }
}

impl CallGroupState {
    /// Returns the batcher for the row in `context`, and opens it for the first row of a model.
    pub(crate) unsafe fn batcher(
        &mut self,
        context: *mut pg_sys::ExprContext,
        home: pg_sys::MemoryContext,
    ) -> Result<&mut ModelBatcher> {
        let constant = self.references.iter().all(|(_, text)| text.is_some());
        self.current = 0;
        if constant && !self.batchers.is_empty() {
            return Ok(&mut self.batchers[0]);
        }
        self.at_hand.clear();
        for i in 0..self.references.len() {
            let reference = match &self.references[i].1 {
                Some(text) => text.clone(),
                None => {
                    // SAFETY: a compiled expression; it reads only parameters and columns of the row.
                    let value = unsafe { evaluate(self.references[i].0, context) };
                    if value.isnull {
                        return Err(Error::NullArgument { what: "the model reference" });
                    }
                    text::text(value.value)?.into_owned()
                }
            };
            self.at_hand.push(reference);
        }
        if let Some(i) = self.batchers.iter().position(|l| l.references() == self.at_hand) {
            self.current = i;
            return Ok(&mut self.batchers[i]);
        }
        let (shape, streamed) = (self.shape.as_deref(), self.streamed.as_ref());
        let batcher = ModelBatcher::open(self.at_hand.clone(), &self.calls, shape, streamed, home, self.expected)?;
        self.batchers.push(batcher);
        self.current = self.batchers.len() - 1;
        Ok(&mut self.batchers[self.current])
    }
}

impl CallGroupState {
    /// Writes the values of a slot directly into the tensors. Returns false, and does nothing, in these cases:
    /// - The group has a condition, several models, or arguments that are neither columns of the input nor computed.
    /// - The row would fill the batch.
    /// - The row needs the general path, for example because it has a NULL.
    #[inline(always)]
    pub(crate) unsafe fn take(&mut self, slot: *mut pg_sys::TupleTableSlot, place: u32) -> bool {
        let (true, [batcher]) = (self.is_plain, self.batchers.as_mut_slice()) else { return false };
        // SAFETY: the slot has the attributes that the group reads.
        unsafe { batcher.take((*slot).tts_values, (*slot).tts_isnull, &self.computed, place) }
    }
}

impl BatchScan {
    /// Returns the counters of a group.
    pub(super) fn counters(&self, group: usize) -> Counters {
        self.groups.get(group).map(|g| g.counters).unwrap_or_default()
    }

    /// Returns the versions that a group has run.
    pub(super) fn versions(&self, group: usize) -> Vec<Arc<Version>> {
        self.groups.get(group).map(|g| g.batchers.iter().map(ModelBatcher::version).collect()).unwrap_or_default()
    }
}
