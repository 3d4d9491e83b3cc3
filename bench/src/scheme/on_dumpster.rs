//! The program on `dumpster`. Unsafe code only to implement its trait for types without its
//! derive's way to skip a field.

use std::cell::RefCell;

use dumpster::unsync::{Gc as Handle, collect as collect_all};
use dumpster::{TraceWith, Visitor};

#[path = "program.rs"]
mod program;

macro_rules! traced {
    (struct $name:ident { $($field:ident),* }) => {
        // SAFETY: these fields hold all its handles, each once.
        unsafe impl<V: Visitor> TraceWith<V> for $name {
            #[inline]
            fn accept(&self, visitor: &mut V) -> Result<(), ()> {
                $(self.$field.accept(visitor)?;)*
                Ok(())
            }
        }
    };
    (enum $name:ident { $($variant:ident),* }) => {
        // SAFETY: these variants hold a handle, the others none.
        unsafe impl<V: Visitor> TraceWith<V> for $name {
            #[inline]
            fn accept(&self, visitor: &mut V) -> Result<(), ()> {
                match self {
                    $($name::$variant(held) => held.accept(visitor),)*
                    _ => Ok(()),
                }
            }
        }
    };
}

bench::scheme_heap! {
    handle = Handle, cell = RefCell, ask = None, collect = collect_all, derive = [], skip = [], trace = traced,
}
