//! The program on `bacon_rajan_cc`, which has to be asked to collect. No unsafe here.

use std::cell::RefCell;

use bacon_rajan_cc::{Cc, Trace, Tracer, collect_cycles};

#[path = "program.rs"]
mod program;

macro_rules! traced {
    (struct $name:ident { $($field:ident),* }) => {
        impl Trace for $name {
            #[inline]
            fn trace(&self, tracer: &mut Tracer<'_>) {
                $(self.$field.trace(tracer);)*
            }
        }
    };
    (enum $name:ident { $($variant:ident),* }) => {
        impl Trace for $name {
            #[inline]
            fn trace(&self, tracer: &mut Tracer<'_>) {
                match self {
                    $($name::$variant(held) => held.trace(tracer),)*
                    _ => {}
                }
            }
        }
    };
}

bench::scheme_heap! {
    handle = Cc, cell = RefCell, ask = Some(collect_cycles), collect = collect_cycles, derive = [], skip = [],
    trace = traced,
}
