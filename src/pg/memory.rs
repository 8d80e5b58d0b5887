//! Rust values owned by memory contexts: dropped when their context is reset or deleted, on abort too.

use std::ffi::c_void;

use pgrx::pg_sys;

/// Runs when a context goes: must not raise and must not call PostgreSQL beyond freeing memory.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn drop_boxed<T>(argument: *mut c_void) {
    // SAFETY: `own` registered this callback once, with the pointer that it got from Box::into_raw.
    drop(unsafe { Box::from_raw(argument.cast::<T>()) });
}

/// Gives a value to a memory context; the pointer is good for as long as the context is.
pub(crate) fn own<T>(context: pg_sys::MemoryContext, value: T) -> *mut T {
    // SAFETY: the context is one that the caller was handed by PostgreSQL and is alive; the callback's own memory is in
    // it. The allocation comes first, since it can raise and the box would be lost.
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

/// Runs `work` with another current memory context, and restores the one before, on a panic too.
pub(crate) fn within<T>(context: pg_sys::MemoryContext, work: impl FnOnce() -> T) -> T {
    struct Restore(pg_sys::MemoryContext);
    impl Drop for Restore {
        fn drop(&mut self) {
            // SAFETY: this context was current when `within` began and outlives it.
            unsafe { pg_sys::MemoryContextSwitchTo(self.0) };
        }
    }
    // SAFETY: the caller's context is alive, as for `own`.
    let _restore = Restore(unsafe { pg_sys::MemoryContextSwitchTo(context) });
    work()
}

/// A private context below TopMemoryContext, deleted with its holder.
pub(crate) struct Private(pg_sys::MemoryContext);

impl Private {
    /// Makes one.
    pub(crate) fn new(name: &'static std::ffi::CStr) -> Self {
        // SAFETY: TopMemoryContext is always there; the name is static, as PostgreSQL asks.
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

    /// The context.
    pub(crate) fn context(&self) -> pg_sys::MemoryContext {
        self.0
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        // SAFETY: made by `new`, deleted only here.
        unsafe { pg_sys::MemoryContextDelete(self.0) };
    }
}

/// The memory context that is current.
pub(crate) fn current() -> pg_sys::MemoryContext {
    // SAFETY: reads a variable.
    unsafe { pg_sys::CurrentMemoryContext }
}
