//! The program on `gc`. Unsafe code only to implement its trait, whose derive would forbid to take
//! values apart.

use gc::{Finalize, Gc as Handle, GcCell, Trace, custom_trace, force_collect};

#[path = "program.rs"]
mod program;

macro_rules! traced {
    (struct $name:ident { $($field:ident),* }) => {
        impl Finalize for $name {}
        // SAFETY: these fields hold all its handles.
        unsafe impl Trace for $name {
            custom_trace!(this, {
                // SAFETY: called where its caller may be.
                $(unsafe { mark(&this.$field) };)*
            });
        }
    };
    (enum $name:ident { $($variant:ident),* }) => {
        impl Finalize for $name {}
        // SAFETY: these variants hold a handle, the others none.
        unsafe impl Trace for $name {
            custom_trace!(this, {
                match this {
                    // SAFETY: called where its caller may be.
                    $($name::$variant(held) => unsafe { mark(held) },)*
                    _ => {}
                }
            });
        }
    };
}

bench::scheme_heap! {
    handle = Handle, cell = GcCell, ask = None, collect = force_collect, derive = [], skip = [], trace = traced,
}
