//! The program on `rust-cc`. Unsafe code only to implement its trait, whose derive would forbid to
//! take values apart.

use std::cell::RefCell;

use rust_cc::{Cc, Context, Finalize, Trace, collect_cycles};

#[path = "program.rs"]
mod program;

macro_rules! traced {
    (struct $name:ident { $($field:ident),* }) => {
        impl Finalize for $name {}
        // SAFETY: these fields hold all its handles, each once.
        unsafe impl Trace for $name {
            #[inline]
            fn trace(&self, context: &mut Context<'_>) {
                $(self.$field.trace(context);)*
            }
        }
    };
    (enum $name:ident { $($variant:ident),* }) => {
        impl Finalize for $name {}
        // SAFETY: these variants hold a handle, the others none.
        unsafe impl Trace for $name {
            #[inline]
            fn trace(&self, context: &mut Context<'_>) {
                match self {
                    $($name::$variant(held) => held.trace(context),)*
                    _ => {}
                }
            }
        }
    };
}

bench::scheme_heap! {
    handle = Cc, cell = RefCell, ask = None, collect = collect_cycles, derive = [], skip = [], trace = traced,
}
