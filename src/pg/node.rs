//! Helpers for PostgreSQL node trees: lists, tags, walking and rebuilding expressions.

use std::ffi::c_void;

use pgrx::pg_sys::{self, Node, NodeTag};

/// Returns the members of a list of pointers.
pub(crate) fn members<T>(list: *mut pg_sys::List) -> Vec<*mut T> {
    if list.is_null() {
        return Vec::new();
    }
    // SAFETY: a List has `length` cells. The caller chooses the type that they point to.
    unsafe { (0..length(list)).map(|i| (*(*list).elements.add(i)).ptr_value.cast::<T>()).collect() }
}

/// Builds a list of nodes.
pub(crate) fn list<T>(members: impl IntoIterator<Item = *mut T>) -> *mut pg_sys::List {
    // SAFETY: appends pointers to a list of pointers.
    members.into_iter().fold(std::ptr::null_mut(), |list, m| unsafe { pg_sys::lappend(list, m.cast()) })
}

/// Returns the length of a list.
pub(crate) fn length(list: *const pg_sys::List) -> usize {
    // SAFETY: a list that is not null has a length.
    if list.is_null() { 0 } else { usize::try_from(unsafe { (*list).length }).unwrap_or(0) }
}

pub(crate) fn is(node: *const Node, tag: NodeTag) -> bool {
    self::tag(node) == tag
}

/// Returns the tag of a node, or `T_Invalid` for null.
pub(crate) fn tag(node: *const Node) -> NodeTag {
    // SAFETY: every node begins with its tag.
    if node.is_null() { NodeTag::T_Invalid } else { unsafe { (*node).type_ } }
}

/// Allocates a zeroed node with its tag in the current context.
pub(crate) fn make<T>(tag: NodeTag) -> *mut T {
    // SAFETY: every node begins with its tag, and zeros are valid for all node types that callers make.
    unsafe {
        let node = pg_sys::palloc0(size_of::<T>()).cast::<Node>();
        (*node).type_ = tag;
        node.cast()
    }
}

// pgrx does not bind the walkers, and binds the mutator without its arguments. The call sites catch errors that the
// callbacks raise.
unsafe extern "C-unwind" {
    #[cfg_attr(not(feature = "pg15"), link_name = "expression_tree_walker_impl")]
    pub(crate) fn expression_tree_walker(
        node: *mut Node,
        walker: unsafe extern "C-unwind" fn(*mut Node, *mut c_void) -> bool,
        context: *mut c_void,
    ) -> bool;
    #[cfg_attr(not(feature = "pg15"), link_name = "query_tree_walker_impl")]
    pub(crate) fn query_tree_walker(
        query: *mut pg_sys::Query,
        walker: unsafe extern "C-unwind" fn(*mut Node, *mut c_void) -> bool,
        context: *mut c_void,
        flags: std::ffi::c_int,
    ) -> bool;
    #[cfg_attr(not(feature = "pg15"), link_name = "expression_tree_mutator_impl")]
    fn expression_tree_mutator(
        node: *mut Node,
        mutator: unsafe extern "C-unwind" fn(*mut Node, *mut c_void) -> *mut Node,
        context: *mut c_void,
    ) -> *mut Node;
}

type Test<'a> = &'a mut dyn FnMut(*mut Node) -> bool;

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn walk(node: *mut Node, context: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: `contains` passes a pointer to its own test, which outlives the walk.
    unsafe {
        let test = &mut *context.cast::<Test<'_>>();
        test(node) || pg_sys::ffi::pg_guard_ffi_boundary(|| expression_tree_walker(node, walk, context))
    }
}

/// Whether a test holds for any node of an expression or of a list of expressions. Does not descend into sub-selects.
pub(crate) fn contains(node: *mut Node, mut test: Test<'_>) -> bool {
    // SAFETY: as for `walk`.
    unsafe { walk(node, (&raw mut test).cast()) }
}

type Change<'a> = &'a mut dyn FnMut(*mut Node) -> Option<*mut Node>;

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn mutate(node: *mut Node, context: *mut c_void) -> *mut Node {
    if node.is_null() {
        return node;
    }
    // SAFETY: `rebuilt` passes a pointer to its own closure, which outlives the walk.
    unsafe {
        let change = &mut *context.cast::<Change<'_>>();
        match change(node) {
            Some(new) => new,
            None => pg_sys::ffi::pg_guard_ffi_boundary(|| expression_tree_mutator(node, mutate, context)),
        }
    }
}

/// Copies an expression or a list of expressions. Replaces every node for which `change` returns another node.
pub(crate) fn rebuilt<T>(node: *mut T, mut change: Change<'_>) -> *mut T {
    // SAFETY: as for `mutate`.
    unsafe { mutate(node.cast(), (&raw mut change).cast()).cast() }
}
