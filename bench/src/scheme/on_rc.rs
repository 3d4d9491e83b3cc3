//! The program on std's `Rc`, which leaks cycles. No unsafe here.

use std::cell::RefCell;
use std::rc::Rc;

#[path = "program.rs"]
mod program;

/// There is nothing to show to a collector.
macro_rules! untraced {
    ($($any:tt)*) => {};
}

/// There is none.
fn no_collection() {}

crate::scheme_heap! {
    handle = Rc, cell = RefCell, ask = None, collect = no_collection, derive = [], skip = [], trace = untraced,
}
