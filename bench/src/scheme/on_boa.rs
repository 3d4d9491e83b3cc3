//! The program on `boa_gc`. Unsafe code only to implement its trait, whose derive would forbid to
//! take values apart.

use boa_gc::{Finalize, Gc as Handle, GcRefCell, Trace, custom_trace, force_collect};

#[path = "program.rs"]
mod program;

macro_rules! traced {
    (struct $name:ident { $($field:ident),* }) => {
        impl Finalize for $name {}
        // SAFETY: these fields hold all its handles.
        unsafe impl Trace for $name {
            custom_trace!(this, mark, { $(mark(&this.$field);)* });
        }
    };
    (enum $name:ident { $($variant:ident),* }) => {
        impl Finalize for $name {}
        // SAFETY: these variants hold a handle, the others none.
        unsafe impl Trace for $name {
            custom_trace!(this, mark, {
                match this {
                    $($name::$variant(held) => mark(held),)*
                    _ => {}
                }
            });
        }
    };
}

bench::scheme_heap! {
    handle = Handle, cell = GcRefCell, ask = None, collect = force_collect, derive = [], skip = [], trace = traced,
}
