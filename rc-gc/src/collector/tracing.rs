//! What holds while edges are followed: nothing that the collector has a pointer to is freed.
//!
//! The set is held by nobody: its objects may be garbage. `Trace` does nothing with handles, by
//! contract, but if it panics the panic hook runs first, on top of it, and that is anybody's safe
//! code. So until the collector is told of the panic
//!
//! * the last drop of a handle is put off, as if it came too deep, and done afterwards ([`Inner::depth`]);
//! * `try_unwrap` and `make_mut` see a handle that is not the only one;
//! * no heap of the thread collects: it would take VISITED for its own (header invariant 4).
//!
//! Leaves without drop glue are freed at once: the collector never looks at one. The rest - clones,
//! new objects, first decrements, `get_mut` - is seen by counts and PURPLE, from which `spare`
//! starts.

use std::cell::Cell;

use crate::heap::Inner;

thread_local!(static TRACING: Cell<bool> = const { Cell::new(false) });

/// Whether edges are followed in a heap of this thread.
#[inline]
pub(crate) fn is_tracing() -> bool {
    TRACING.get()
}

/// A depth at which every drop is put off.
const TOO_DEEP: u32 = u32::MAX / 2;

/// A heap's edges are followed as long as this. One in a thread at a time.
pub(super) struct Tracing<'a> {
    heap: &'a Inner,
    depth: u32,
}

impl<'a> Tracing<'a> {
    pub(super) fn new(heap: &'a Inner) -> Self {
        TRACING.set(true);
        Tracing { heap, depth: heap.depth.replace(TOO_DEEP) }
    }
}

impl Drop for Tracing<'_> {
    fn drop(&mut self) {
        self.heap.depth.set(self.depth);
        TRACING.set(false);
    }
}
