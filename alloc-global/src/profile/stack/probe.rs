//! A chain of calls that a walk must find, if the program keeps frame pointers. It decides nothing:
//! what follows from it is said in `stack`.

use super::{Bounds, Stack, frame_pointer, stack_pointer, walk};
use core::hint::black_box;

/// Longer than any of the functions below.
const LONGEST: usize = 1024;

#[inline(never)]
fn inner(bounds: Bounds, stack: &mut Stack) -> usize {
    let fp = frame_pointer();
    let here = stack_pointer();
    // A frame pointer lies above what its function keeps on the stack, and not far.
    if fp >= here && fp - here < LONGEST {
        // SAFETY: from this function's frame to the top of this thread's stack.
        unsafe { walk(fp, bounds, stack) };
    }
    black_box(stack.frames().len())
}

#[inline(never)]
fn middle(bounds: Bounds, stack: &mut Stack) -> usize {
    black_box(inner(bounds, black_box(stack))) + 1
}

#[inline(never)]
fn outer(bounds: Bounds, stack: &mut Stack) -> usize {
    black_box(middle(bounds, black_box(stack))) + 1
}

pub(super) fn finds_callers(bounds: Bounds) -> bool {
    let mut stack = Stack::new(2);
    outer(bounds, &mut stack);
    let within = |address: usize, function: fn(Bounds, &mut Stack) -> usize| {
        address.wrapping_sub(function as usize) < LONGEST
    };
    match stack.frames() {
        [first, second] => within(*first, middle) && within(*second, outer),
        _ => false,
    }
}
