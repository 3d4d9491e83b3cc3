//! The program on `Gc`. No unsafe here.

use std::cell::RefCell;

use rc_gc::{Gc as Handle, Trace};

#[path = "program.rs"]
mod program;

/// It is derived.
macro_rules! derived {
    ($($any:tt)*) => {};
}

crate::scheme_heap! {
    handle = Handle, cell = RefCell, ask = None, collect = rc_gc::collect, derive = [Trace], skip = [gc(skip)],
    trace = derived,
}
