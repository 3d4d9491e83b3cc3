//! Where side boxes come from: a few that were given back are kept at hand, others are the global
//! allocator's.
//!
//! A program that makes and drops `Weak`s all the time would otherwise ask the global allocator for
//! each object.
//!
//! Invariants:
//!
//! 1. What `spare` leads to, and each next one, is memory for a [`Side`] from the global allocator,
//!    without a side in it; its first word is the next.
//! 2. `count` is their number, [`MOST`] at most.
//!
//! It does not know which objects have one: that is `header`'s flag SIDE.

use std::alloc::Layout;
use std::cell::Cell;
use std::ptr::NonNull;

use crate::header::{Obj, Side};
use crate::heap::Inner;

/// How many are kept: 28 KiB.
const MOST: u32 = 512;

const LAYOUT: Layout = Layout::new::<Side>();
const _: () = assert!(LAYOUT.size() >= size_of::<Next>() && LAYOUT.align() >= align_of::<Next>());

type Next = Option<NonNull<Side>>;

/// Side boxes at hand.
pub(crate) struct Sides {
    spare: Cell<Next>,
    count: Cell<u32>,
}

impl Sides {
    /// None.
    pub(crate) const fn new() -> Self {
        Sides { spare: Cell::new(None), count: Cell::new(0) }
    }

    /// Memory for a side box.
    fn take(&self) -> NonNull<Side> {
        let Some(first) = self.spare.get() else {
            // SAFETY: a side box has a size.
            let at = unsafe { std::alloc::alloc(LAYOUT) };
            return NonNull::new(at.cast())
                .unwrap_or_else(|| std::alloc::handle_alloc_error(LAYOUT));
        };
        // SAFETY: the next is there (1).
        self.spare.set(unsafe { first.cast::<Next>().read() });
        self.count.set(self.count.get() - 1);
        first
    }

    /// Takes memory back.
    ///
    /// # Safety
    /// It is from `take`, of any heap, and not used any more.
    unsafe fn give(&self, side: NonNull<Side>) {
        if self.count.get() == MOST {
            // SAFETY: from the global allocator, by contract.
            return unsafe { std::alloc::dealloc(side.as_ptr().cast(), LAYOUT) };
        }
        // SAFETY: ours, and large enough (1).
        unsafe { side.cast::<Next>().write(self.spare.get()) };
        self.spare.set(Some(side));
        self.count.set(self.count.get() + 1);
    }
}

impl Drop for Sides {
    fn drop(&mut self) {
        while self.count.get() != 0 {
            let side = self.take();
            // SAFETY: a spare, so from the global allocator (1).
            unsafe { std::alloc::dealloc(side.as_ptr().cast(), LAYOUT) };
        }
    }
}

/// The object's side box, made if there is none.
///
/// # Safety
/// The object is allocated; the box is used only as long as the object has it.
#[inline(always)]
pub(crate) unsafe fn side_or_new<'a>(obj: Obj) -> &'a Side {
    match obj.side() {
        // SAFETY: by contract not used longer.
        Some(side) => unsafe { NonNull::from(side).as_ref() },
        // SAFETY: by contract.
        None => unsafe { make(obj) },
    }
}

/// # Safety
/// As for `side_or_new`; the object has none.
#[inline(never)]
unsafe fn make<'a>(obj: Obj) -> &'a Side {
    // SAFETY: by contract.
    let heap = unsafe { Inner::of(obj) };
    let side = heap.sides.take();
    // SAFETY: memory for a side box, ours.
    unsafe { side.write(Side::new(obj.vtable())) };
    // SAFETY: just written, and the object has none.
    unsafe { obj.set_side(side) };
    // SAFETY: by contract not used longer than the object has it.
    unsafe { side.as_ref() }
}

/// Gives the object's side box back, with the callbacks in it: USER CODE.
///
/// # Safety
/// The object is of that heap, and SIDE is set; its memory is about to be given back, or its vtable
/// never used again.
#[inline]
pub(crate) unsafe fn free_side(heap: &Inner, obj: Obj) {
    // SAFETY: by contract.
    let side = unsafe { obj.side_pointer() };
    // SAFETY: whole until now, and not used from here on.
    unsafe { side.drop_in_place() };
    // SAFETY: made by `make`.
    unsafe { heap.sides.give(side) };
}
