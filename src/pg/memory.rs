//! Rust values owned by memory contexts.
//!
//! A value is dropped when its context is reset or deleted, on abort too.

use std::ffi::c_void;

use pgrx::pg_sys;

/// Reset callback of a memory context. It must not raise an error, and must not call PostgreSQL except to free memory.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn drop_boxed<T>(argument: *mut c_void) {
    // SAFETY: `own` registered this callback once, with the pointer from Box::into_raw.
    drop(unsafe { Box::from_raw(argument.cast::<T>()) });
}

/// Moves a value into a memory context. The pointer is valid for as long as the context exists.
pub(crate) fn own<T>(context: pg_sys::MemoryContext, value: T) -> *mut T {
    // SAFETY: PostgreSQL gave the caller this context, and it is alive. The callback structure is allocated in it. The
    // allocation comes first because it can raise an error, which would leak the box.
    unsafe {
        let callback = pg_sys::MemoryContextAllocZero(context, size_of::<pg_sys::MemoryContextCallback>())
            .cast::<pg_sys::MemoryContextCallback>();
        let boxed = Box::into_raw(Box::new(value));
        (*callback).func = Some(drop_boxed::<T>);
        (*callback).arg = boxed.cast();
        pg_sys::MemoryContextRegisterResetCallback(context, callback);
        boxed
    }
}

/// Runs `work` with another current memory context, and restores the previous one, on a panic too.
pub(crate) fn within<T>(context: pg_sys::MemoryContext, work: impl FnOnce() -> T) -> T {
    struct Restore(pg_sys::MemoryContext);
    impl Drop for Restore {
        fn drop(&mut self) {
            // SAFETY: this context was current when `within` began and outlives it.
            unsafe { pg_sys::MemoryContextSwitchTo(self.0) };
        }
    }
    // SAFETY: the context is alive, as for `own`.
    let _restore = Restore(unsafe { pg_sys::MemoryContextSwitchTo(context) });
    work()
}

/// A private memory context below TopMemoryContext. Dropping this value deletes it.
pub(crate) struct Private(pg_sys::MemoryContext);

impl Private {
    pub(crate) fn new(name: &'static std::ffi::CStr) -> Self {
        // SAFETY: TopMemoryContext always exists. The name is static, as PostgreSQL requires.
        Self(unsafe {
            pg_sys::AllocSetContextCreateExtended(
                pg_sys::TopMemoryContext,
                name.as_ptr(),
                pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            )
        })
    }

    /// Allocated memory in bytes, with child contexts.
    pub(crate) fn bytes(&self) -> usize {
        // SAFETY: `new` created the context, and it is alive until this value is dropped.
        unsafe { pg_sys::MemoryContextMemAllocated(self.0, true) }
    }

    /// The context.
    pub(crate) fn context(&self) -> pg_sys::MemoryContext {
        self.0
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        // SAFETY: `new` created the context, and only this function deletes it.
        unsafe { pg_sys::MemoryContextDelete(self.0) };
    }
}

/// The current memory context.
pub(crate) fn current() -> pg_sys::MemoryContext {
    // SAFETY: reads a variable.
    unsafe { pg_sys::CurrentMemoryContext }
}
