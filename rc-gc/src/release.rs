//! What happens when the last handle goes: finalize, drop, give the memory back. Without recursion.
//!
//! ```text
//! Gc::drop ─► count 0? ─► plain: drop value ─► free block
//!                  │                  └─ drops handles inside: the same, one deeper; from depth
//!                  │                     64 on an object is put into `pending` instead, which the
//!                  │                     outermost drop empties
//!                  └────► odd: finalizer, `Weak`s, callbacks, large, dead
//! ```
//!
//! So a chain of any length drops in a stack of 64 frames. Objects past that depth are dropped
//! after their parents' memory is free, before the outermost `drop` returns.
//!
//! A panic in user code: the memory is freed, what is pending is dropped, then the first panic goes on.
//! Cycles are not this module's business: it only notes candidates.

use std::any::Any;
use std::mem::needs_drop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::NonNull;

use crate::header::{COUNT, DEAD, FINALIZER, IMMORTAL, LARGE, Obj, SIDE, VISITED};
use crate::heap::Inner;

/// Drops one inside the other before objects are put off.
const MAX_DEPTH: u32 = 64;

/// What a panic carries.
pub(crate) type Panic = Box<dyn Any + Send>;

/// Runs user code; keeps its panic if it is the first.
pub(crate) fn guarded(first: &mut Option<Panic>, user: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(user)) {
        match first {
            None => *first = Some(panic),
            // The payload of a later panic is user code too: its drop must not panic here.
            Some(_) => std::mem::forget(panic),
        }
    }
}

/// Lets the first panic go on, except into a panic that is already under way.
pub(crate) fn resume(first: Option<Panic>) {
    match first {
        Some(panic) if std::thread::panicking() => std::mem::forget(panic),
        Some(panic) => resume_unwind(panic),
        None => {}
    }
}

/// The part of `Gc::drop` after a decrement that left a word which is not quiet.
///
/// # Safety
/// The handle to `value` is gone, and counted as gone: `word` is the object's count word.
#[inline(never)]
pub(crate) unsafe fn drop_slow<T: ?Sized>(value: NonNull<T>, word: u32) {
    // SAFETY: the pointer of a handle that existed until now; the memory stays until released below.
    let obj = unsafe { Obj::of(value) };
    if word & (COUNT | IMMORTAL) == 0 {
        if obj.has(DEAD | FINALIZER | LARGE | SIDE) {
            // SAFETY: count 0.
            unsafe { release_odd(obj) };
        } else {
            // SAFETY: count 0, and no flag that asks for more.
            unsafe { release_plain(obj, value) };
        }
    } else if word & IMMORTAL != 0 {
        obj.pin();
    } else if !obj.has(DEAD) {
        // SAFETY: it has handles, so it is allocated.
        let heap = unsafe { Inner::of(obj) };
        // SAFETY: of that heap; a leaf is PURPLE from birth and never here.
        unsafe { heap.set_candidate(obj) };
    }
}

/// Ends the drop of a value, also if it panicked.
struct Finish<'a> {
    heap: &'a Inner,
    obj: Obj,
}

impl Drop for Finish<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        let depth = self.heap.depth.get() - 1;
        self.heap.depth.set(depth);
        let panic = if depth == 0 && self.heap.has_pending.get() { drain(self.heap) } else { None };
        // SAFETY: `release_plain` made this for an object whose value it dropped; last use of both.
        unsafe { Inner::free(NonNull::from(self.heap), self.obj) };
        if panic.is_some() {
            resume(panic);
        }
    }
}

/// Drops and frees an object without `Weak`s, finalizer or other peculiarity.
///
/// # Safety
/// Count 0, value whole; in a pool; `value` is its value.
#[inline(always)]
unsafe fn release_plain<T: ?Sized>(obj: Obj, value: NonNull<T>) {
    // SAFETY: allocated until freed below.
    let heap = unsafe { Inner::of_pooled(obj) };
    if !needs_drop::<T>() {
        // SAFETY: nothing to drop; nothing leads to it.
        return unsafe { Inner::free(NonNull::from(heap), obj) };
    }
    // From here on the value is coming apart: no collection may find the object.
    // SAFETY: of this heap.
    unsafe { heap.clear_candidate(obj) };
    if heap.depth.get() >= MAX_DEPTH {
        return defer(heap, obj);
    }
    heap.depth.set(heap.depth.get() + 1);
    let finish = Finish { heap, obj };
    // SAFETY: count 0: no handle sees the value again. USER CODE; `finish` leaves all in order.
    unsafe { value.drop_in_place() };
    drop(finish);
}

/// Puts an object off until the outermost drop.
#[cold]
fn defer(heap: &Inner, obj: Obj) {
    heap.pending.borrow_mut().push(obj);
    heap.has_pending.set(true);
}

/// Drops what was put off; the first panic.
#[cold]
fn drain(heap: &Inner) -> Option<Panic> {
    let mut first = None;
    // A depth of at least 1 says that somebody drains already.
    heap.depth.set(heap.depth.get() + 1);
    loop {
        let Some(obj) = heap.pending.borrow_mut().pop() else { break };
        guarded(&mut first, || {
            if obj.has(FINALIZER | LARGE | SIDE) {
                // SAFETY: `pending` holds objects with count 0 and whole values (heap invariant 2).
                unsafe { release_odd(obj) };
            } else {
                // SAFETY: as above, without a flag that asks for more.
                unsafe { release_untyped(obj) };
            }
        });
    }
    heap.pending.borrow_mut().shrink_to(1024);
    heap.has_pending.set(false);
    heap.depth.set(heap.depth.get() - 1);
    first
}

/// `release_plain` where the type is known to the vtable only.
///
/// # Safety
/// Count 0, value whole; in a pool.
unsafe fn release_untyped(obj: Obj) {
    // SAFETY: allocated until freed by `finish`.
    let heap = unsafe { Inner::of(obj) };
    heap.depth.set(heap.depth.get() + 1);
    let finish = Finish { heap, obj };
    // SAFETY: as in `release_plain`. USER CODE.
    unsafe { drop_value(obj) };
    drop(finish);
}

/// Drops the value.
///
/// # Safety
/// It is whole, and nothing looks at it afterwards.
#[inline]
pub(crate) unsafe fn drop_value(obj: Obj) {
    let drop = obj.vtable().drop;
    // SAFETY: the vtable is of the value's type. USER CODE.
    unsafe { drop(obj.value().as_ptr()) };
}

/// Releases an object with one of the flags DEAD, FINALIZER, LARGE, SIDE.
///
/// # Safety
/// Count 0; the value is whole unless DEAD.
#[cold]
pub(crate) unsafe fn release_odd(obj: Obj) {
    if obj.has(DEAD) {
        // In the collector's hands it is the collector that frees it.
        if !obj.has(VISITED) {
            // SAFETY: dropped by the collector, and this was the last dead handle.
            unsafe { bury(obj) };
        }
        return;
    }
    // SAFETY: allocated until buried below.
    let heap = unsafe { Inner::of(obj) };
    // SAFETY: of this heap.
    unsafe { heap.clear_candidate(obj) };
    if heap.depth.get() >= MAX_DEPTH {
        return defer(heap, obj);
    }
    heap.depth.set(heap.depth.get() + 1);
    let mut panic = None;
    // SAFETY: by contract.
    let dead = !obj.has(FINALIZER) || !unsafe { finalize_alone(heap, obj, &mut panic) };
    if dead {
        obj.set(DEAD);
        run_callbacks(obj, &mut panic);
        // SAFETY: DEAD, so nothing looks at it again. USER CODE.
        guarded(&mut panic, || unsafe { drop_value(obj) });
    }
    let depth = heap.depth.get() - 1;
    heap.depth.set(depth);
    if depth == 0 && heap.has_pending.get() {
        let later = drain(heap);
        panic = panic.or(later);
    }
    if dead {
        // SAFETY: the value is dropped, no handle exists.
        unsafe { bury(obj) };
    }
    resume(panic);
}

/// Runs the finalizer of an object that nobody holds. Whether somebody does afterwards.
///
/// # Safety
/// Count 0, value whole, FINALIZER set.
unsafe fn finalize_alone(heap: &Inner, obj: Obj, panic: &mut Option<Panic>) -> bool {
    obj.clear(FINALIZER);
    obj.increment();
    // SAFETY: whole, and kept by the count just added. USER CODE.
    guarded(panic, || unsafe { finalize_value(obj) });
    let word = obj.decrement();
    let held = word & (COUNT | IMMORTAL) != 0;
    if held {
        // SAFETY: of this heap, alive. It may be held by a cycle only, so it is a candidate.
        unsafe { heap.set_candidate(obj) };
    } else {
        // SAFETY: of this heap.
        unsafe { heap.clear_candidate(obj) };
    }
    held
}

/// Runs the finalizer.
///
/// # Safety
/// The value is whole, and stays so meanwhile.
pub(crate) unsafe fn finalize_value(obj: Obj) {
    let finalize = obj.vtable().finalize;
    // SAFETY: the vtable is of the value's type. USER CODE.
    unsafe { finalize(obj.value().as_ptr()) };
}

/// Runs the callbacks of an object that is DEAD; each once.
pub(crate) fn run_callbacks(obj: Obj, panic: &mut Option<Panic>) {
    let Some(side) = obj.side() else { return };
    let callbacks = side.callbacks.take();
    for callback in callbacks {
        // USER CODE.
        guarded(panic, callback);
    }
}

/// Frees an object whose value is dropped and that has no handle; while there are `Weak`s it stays,
/// and the last of them frees it.
///
/// # Safety
/// DEAD or moved out, count 0, not in the collector's hands. Not used afterwards.
pub(crate) unsafe fn bury(obj: Obj) {
    if let Some(side) = obj.side() {
        let weak = side.weak.get() - 1;
        side.weak.set(weak);
        if weak != 0 {
            return;
        }
        // SAFETY: the vtable is not needed any more.
        unsafe { obj.free_side() };
    }
    // SAFETY: allocated until the next line.
    let heap = NonNull::from(unsafe { Inner::of(obj) });
    // SAFETY: by contract.
    unsafe { Inner::free(heap, obj) };
}
