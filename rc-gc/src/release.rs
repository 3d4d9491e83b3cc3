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

use crate::header::{
    COUNT, DEAD, FINALIZER, IMMORTAL, ISOLATED, LARGE, LEAF, Obj, PURPLE, SIDE, Side,
};
use crate::heap::{Inner, NEVER};
use crate::large;
use crate::pools::{Place, PoolRef};
use crate::side::free_side;
use crate::thread;

/// Drops one inside the other before objects are put off.
const MAX_DEPTH: u32 = 64;

/// What a panic carries.
pub(crate) type Panic = Box<dyn Any + Send>;

/// Runs user code; keeps its panic if it is the first.
pub(crate) fn guarded(first: &mut Option<Panic>, user: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(user)) {
        match first {
            None => *first = Some(panic),
            Some(_) => discard(panic),
        }
    }
}

/// Drops the payload of a panic that goes no further. Its drop is user code too.
pub(crate) fn discard(panic: Panic) {
    // USER CODE. What a payload's drop throws is leaked: there is nobody left to tell.
    if let Err(worse) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        std::mem::forget(worse);
    }
}

/// Lets the first panic go on, except into a panic that is already under way.
pub(crate) fn resume(first: Option<Panic>) {
    match first {
        Some(panic) if std::thread::panicking() => discard(panic),
        Some(panic) => resume_unwind(panic),
        None => {}
    }
}

/// The part of `Gc::drop` after a decrement to zero.
///
/// # Safety
/// The handle to `value` was the last, and is counted as gone: `word` is the object's count word.
#[inline(never)]
pub(crate) unsafe fn drop_last<T: ?Sized>(value: NonNull<T>, word: u32) {
    // SAFETY: the pointer of a handle that existed until now; the memory stays until released below.
    let obj = unsafe { Obj::of(value) };
    if obj.has(DEAD | FINALIZER | LARGE | SIDE | ISOLATED) {
        // SAFETY: by contract.
        unsafe { drop_last_elsewhere(value, word) };
    } else {
        // Finding it through the pool takes six instructions more.
        // SAFETY: the object is one of it.
        let heap = unsafe { thread::existing().unwrap_unchecked() };
        // SAFETY: count 0, in the thread's heap, and no flag that asks for more.
        unsafe { release_plain(heap, obj, value, word) };
    }
}

/// `drop_last` for objects of a `Heap`, and those with flags that ask for more.
///
/// # Safety
/// As for `drop_last`.
#[inline(never)]
unsafe fn drop_last_elsewhere<T: ?Sized>(value: NonNull<T>, word: u32) {
    // SAFETY: as in `drop_last`.
    let obj = unsafe { Obj::of(value) };
    if obj.has(DEAD | FINALIZER | LARGE | SIDE) {
        // SAFETY: count 0.
        return unsafe { release_other(obj) };
    }
    // SAFETY: in a pool.
    let heap = unsafe { PoolRef::of(obj) }.heap();
    // SAFETY: count 0, in that heap, and no flag that asks for more.
    unsafe { release_plain(heap, obj, value, word) };
}

/// The part of `Gc::drop` after a decrement to non-zero that left a word which is not quiet: the
/// object is a candidate from now on.
///
/// # Safety
/// The object has handles, and `word` is its count word; if it is not IMMORTAL, it is neither
/// PURPLE nor LEAF. The caller uses neither it nor its heap afterwards, unless by another handle:
/// in a heap that has ended this collects (USER CODE).
#[inline(never)]
pub(crate) unsafe fn note(obj: Obj, word: u32) {
    if word & IMMORTAL != 0 || obj.has(DEAD | LARGE) {
        // SAFETY: by contract.
        return unsafe { note_odd(obj, word) };
    }
    // SAFETY: just tested, and allocated: it has handles.
    let pool = unsafe { PoolRef::of(obj) };
    obj.set_word(word | PURPLE);
    // SAFETY: of that heap; by contract, neither is used afterwards.
    unsafe { Inner::set_pool_candidate(pool.heap(), pool, obj) };
}

/// # Safety
/// As for `note`.
#[cold]
#[inline(never)]
unsafe fn note_odd(obj: Obj, word: u32) {
    if word & IMMORTAL != 0 {
        obj.pin();
    } else if !obj.has(DEAD) {
        obj.set_word(word | PURPLE);
        // SAFETY: LARGE, or it would not be here.
        let heap = unsafe { large::heap_of(obj) };
        // SAFETY: a heap lives as long as its objects.
        let heap_ref = unsafe { heap.as_ref() };
        // SAFETY: of that heap; by contract no leaf, and no candidate yet.
        unsafe { heap_ref.large.set_candidate(obj, heap_ref.generation_of(obj)) };
        // SAFETY: the caller has given up the handle, and uses neither object nor heap.
        unsafe { Inner::noted(heap) };
    }
}

/// One level of drops. Ended by `leave`; by its own drop only if user code panicked.
struct Level<'a> {
    heap: &'a Inner,
    obj: Obj,
    /// Levels outside this one. Kept here so that `leave` stores it without a load: counting up and
    /// down in memory would make each drop wait for the one before.
    outer: u32,
}

impl<'a> Level<'a> {
    /// `None`: too deep, put it off.
    #[inline(always)]
    fn enter(heap: &'a Inner, obj: Obj) -> Option<Self> {
        let outer = heap.depth.get();
        if outer >= MAX_DEPTH {
            return None;
        }
        heap.depth.set(outer + 1);
        Some(Level { heap, obj, outer })
    }

    /// The first panic of what was put off, if this was the outermost level.
    #[inline(always)]
    fn leave(self) -> Option<Panic> {
        let (heap, outer) = (self.heap, self.outer);
        std::mem::forget(self);
        heap.depth.set(outer);
        if heap.drain_at.get() == outer { drain(heap) } else { None }
    }
}

impl Drop for Level<'_> {
    /// User code panicked.
    #[inline(always)]
    fn drop(&mut self) {
        // By value, so that the level need not be in memory for this alone.
        abandon(self.heap.pointer(), self.obj, self.outer);
    }
}

/// After a panic in a value's drop: the object is freed, and what was put off is dropped, all the same.
#[cold]
#[inline(never)]
fn abandon(heap: NonNull<Inner>, obj: Obj, outer: u32) {
    // SAFETY: a heap lives as long as its objects. Not used across `bury`, which may free it.
    let heap = unsafe { heap.as_ref() };
    let later = Level { heap, obj, outer }.leave();
    // SAFETY: the value is dropped, as far as it could be; no handle leads to it.
    unsafe { bury(obj) };
    // A panic is under way already.
    if let Some(later) = later {
        discard(later);
    }
}

/// What `drop_last` does not do in line.
///
/// # Safety
/// Count 0; the value is whole unless DEAD.
#[inline(never)]
unsafe fn release_other(obj: Obj) {
    if obj.has(DEAD | FINALIZER) || obj.side().is_some_and(Side::has_callbacks) {
        // SAFETY: by contract.
        return unsafe { release_odd(obj) };
    }
    // SAFETY: allocated until the end.
    let heap = unsafe { Inner::pointer_of(obj) };
    // SAFETY: a heap lives as long as its objects.
    let heap_ref = unsafe { heap.as_ref() };
    // SAFETY: of this heap.
    unsafe { heap_ref.clear_candidate(obj) };
    // SAFETY: by contract, and no flag that asks for more.
    let later = unsafe { release_untyped(heap, obj) };
    if later.is_some() {
        resume(later);
    }
}

/// Drops and frees an object without `Weak`s, finalizer or other peculiarity.
///
/// # Safety
/// Count 0, value whole; in a pool of `heap`; `value` is its value and `word` its count word: PURPLE or 0.
#[inline(always)]
unsafe fn release_plain<T: ?Sized>(heap: NonNull<Inner>, obj: Obj, value: NonNull<T>, word: u32) {
    // SAFETY: whole until dropped below.
    let place = place_of(unsafe { value.as_ref() });
    // SAFETY: in a pool.
    debug_assert!(heap == unsafe { PoolRef::of(obj) }.heap());
    if !needs_drop::<T>() && obj.has(LEAF) {
        // SAFETY: nothing to drop, nothing leads to it, and a leaf is no candidate. The last use of
        // the heap.
        return unsafe { Inner::free_near(heap, obj, place) };
    }
    // From here on the value is coming apart: no collection may find the object.
    if word != 0 {
        // SAFETY: in a pool.
        unsafe { forget(obj) };
    }
    // SAFETY: a heap lives as long as its objects.
    let heap_ref = unsafe { heap.as_ref() };
    // Even without anything to drop: the collector may be looking at it (`collector::tracing`).
    let Some(level) = Level::enter(heap_ref, obj) else { return defer(heap_ref, obj) };
    // SAFETY: count 0: no handle sees the value again. USER CODE; `level` leaves all in order.
    unsafe { value.drop_in_place() };
    let later = level.leave();
    if later.is_some() {
        // SAFETY: as below.
        unsafe { Inner::free_near(heap, obj, place) };
        return resume(later);
    }
    // SAFETY: dropped; nothing leads to it. The last use of the heap.
    unsafe { Inner::free_near(heap, obj, place) };
}

/// Where `Gc::new` puts a value of this type, a constant; of values without a size nothing is known.
#[inline(always)]
fn place_of<T: ?Sized>(value: &T) -> Place {
    if size_of::<&T>() != size_of::<usize>() {
        return Place::Large;
    }
    Place::of(size_of_val(value), align_of_val(value), false)
}

/// Sees to it that an object with PURPLE is no candidate.
///
/// # Safety
/// It lies in a pool.
#[inline(never)]
unsafe fn forget(obj: Obj) {
    if !obj.has(LEAF) {
        // SAFETY: by contract.
        let pool = unsafe { PoolRef::of(obj) };
        pool.clear_candidate(pool.index_of(obj));
        obj.set_word(0);
    }
}

/// Drops what was put off while edges were followed, unless a drop is under way that will. `first`
/// is there already.
#[cold]
pub(crate) fn drain_outermost(heap: &Inner, first: &mut Option<Panic>) {
    if heap.drain_at.get() != heap.depth.get() {
        return;
    }
    match (drain(heap), &first) {
        (Some(later), Some(_)) => discard(later),
        (later, None) => *first = later,
        (None, Some(_)) => {}
    }
}

/// Puts an object off until the outermost drop.
#[cold]
fn defer(heap: &Inner, obj: Obj) {
    heap.pending.borrow_mut().push(obj);
    heap.drain_at.set(0);
}

/// Drops what was put off; the first panic.
#[cold]
fn drain(heap: &Inner) -> Option<Panic> {
    let mut first = None;
    // A depth of at least 1 says that somebody drains already.
    heap.depth.set(1);
    loop {
        let Some(obj) = heap.pending.borrow_mut().pop() else { break };
        guarded(&mut first, || {
            if obj.has(FINALIZER) || obj.side().is_some_and(Side::has_callbacks) {
                // SAFETY: `pending` holds objects with count 0 and whole values (heap invariant 2).
                unsafe { release_odd(obj) };
            } else {
                // SAFETY: as above, without a flag that asks for more. Not the outermost level, so
                // nothing was put off that it dropped.
                unsafe { release_untyped(heap.pointer(), obj) };
            }
        });
    }
    heap.pending.borrow_mut().shrink_to(1024);
    heap.drain_at.set(NEVER);
    heap.depth.set(0);
    first
}

/// `release_plain` where the type is known to the vtable only, for any heap, for large objects too,
/// and where there may be `Weak`s; the first panic of what was put off.
///
/// # Safety
/// Count 0, value whole; of `heap`; no candidate; without finalizer and callbacks.
#[inline(always)]
unsafe fn release_untyped(heap: NonNull<Inner>, obj: Obj) -> Option<Panic> {
    // SAFETY: a heap lives as long as its objects. Not used across `bury_in`, which may free it.
    let heap_ref = unsafe { heap.as_ref() };
    let Some(level) = Level::enter(heap_ref, obj) else {
        defer(heap_ref, obj);
        return None;
    };
    if obj.has(SIDE) {
        // `Weak`s may keep the memory: walks over the heap must know that there is no value.
        obj.set(DEAD);
    }
    // SAFETY: as in `release_plain`. USER CODE.
    unsafe { drop_value(obj) };
    let later = level.leave();
    // SAFETY: dropped; no handle leads to it.
    unsafe { bury_in(heap, obj) };
    later
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

/// Releases an object that is DEAD, or has a finalizer or callbacks.
///
/// # Safety
/// Count 0; the value is whole unless DEAD.
#[cold]
pub(crate) unsafe fn release_odd(obj: Obj) {
    if obj.has(DEAD) {
        // SAFETY: dropped by the collector, whose pin is gone, and this was the last dead handle.
        return unsafe { bury(obj) };
    }
    // SAFETY: allocated until buried below.
    let heap = unsafe { Inner::of(obj) };
    // SAFETY: of this heap.
    unsafe { heap.clear_candidate(obj) };
    let Some(level) = Level::enter(heap, obj) else { return defer(heap, obj) };
    let mut panic = None;
    // SAFETY: by contract.
    let dead = !obj.has(FINALIZER) || !unsafe { finalize_alone(heap, obj, &mut panic) };
    if dead {
        obj.set(DEAD);
        run_callbacks(obj, &mut panic);
        // SAFETY: DEAD, so nothing looks at it again. USER CODE.
        guarded(&mut panic, || unsafe { drop_value(obj) });
    }
    let later = level.leave();
    if panic.is_none() {
        panic = later;
    } else if let Some(later) = later {
        discard(later);
    }
    if dead {
        // SAFETY: the value is dropped, no handle exists.
        unsafe { bury(obj) };
    } else {
        // SAFETY: resurrected, but perhaps by a cycle only. Not used any more.
        unsafe { Inner::noted(heap.pointer()) };
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
    if held && !obj.has(LEAF) {
        // SAFETY: of this heap, alive. It may be held by a cycle only, so it is a candidate.
        unsafe { heap.set_candidate_anew(obj) };
    } else if !held {
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
#[inline(never)]
pub(crate) unsafe fn bury(obj: Obj) {
    // SAFETY: allocated until it is buried.
    let heap = unsafe { Inner::pointer_of(obj) };
    // SAFETY: by contract.
    unsafe { bury_in(heap, obj) };
}

/// # Safety
/// As for `bury`; the object is of that heap.
#[inline(always)]
unsafe fn bury_in(heap: NonNull<Inner>, obj: Obj) {
    if let Some(side) = obj.side() {
        let weak = side.weak.get() - 1;
        side.weak.set(weak);
        if weak != 0 {
            return;
        }
        // SAFETY: a heap lives as long as its objects.
        let heap_ref = unsafe { heap.as_ref() };
        // SAFETY: of that heap; the vtable is not needed any more.
        unsafe { free_side(heap_ref, obj) };
    }
    // SAFETY: by contract.
    unsafe { Inner::free(heap, obj) };
}
