//! Which heaps there are: one for each thread, made with its first object; and how a heap ends.
//!
//! ```text
//! first object ─► heap ─► thread exits: collect, retire ─► last object dropped: heap freed
//!                              (or `Heap` is dropped)        (at once, if there is none)
//! after that   ─► a heap that is retired from the start: each object from the global allocator
//! ```
//!
//! As long as there is an object without ISOLATED in a thread, `CURRENT` leads to its heap: that heap is
//! replaced only when its last object is gone. `CURRENT` has no destructor, so it can be read for as
//! long as the thread runs; `EXIT` has one and holds nothing. So a handle in another thread-local may
//! be dropped, and objects be made, in any order of destructors.
//!
//! It does not know how a heap works.

use std::cell::Cell;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::AtomicPtr;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::generations::Generation;
use crate::heap::Inner;
use crate::release::{discard, guarded};

thread_local! {
    /// The thread's heap; null before its first object.
    static CURRENT: Cell<*const Inner> = const { Cell::new(std::ptr::null()) };
    /// The latest of the thread's heaps, [`Heap`](crate::Heap)s and retired ones among them; the
    /// others by `next`.
    static ALL: Cell<*const Inner> = const { Cell::new(std::ptr::null()) };
    /// A heap that ended and was renewed, for the next [`Heap`](crate::Heap); or null.
    static SPARE: Cell<*const Inner> = const { Cell::new(std::ptr::null()) };
    /// Retires the thread's heap.
    static EXIT: Exit = const { Exit };
}

/// A heap whose thread has ended and that was renewed, for the next one of any thread; or null. One
/// in a process: an arena at most, and some 100 KiB of lists. It stays until a thread takes it, or
/// [`trim`](crate::trim) gives it back.
///
/// A pointer that is swapped, not a lock: a child of fork may find it in any state, and each is a good one.
static SHARED: AtomicPtr<Inner> = AtomicPtr::new(null_mut());

/// See [`EXIT`].
struct Exit;

impl Drop for Exit {
    fn drop(&mut self) {
        if let Some(heap) = existing() {
            // SAFETY: the thread's heap, which nothing but its last object frees.
            unsafe { retire(heap) };
        }
        if let Some(spare) = take_own() {
            // SAFETY: ended and renewed, and nothing leads to it any more.
            unsafe { share(spare) };
        }
    }
}

/// The thread's heap, made if there is none.
#[inline(always)]
pub(crate) fn current() -> NonNull<Inner> {
    match existing() {
        Some(heap) => heap,
        None => first(),
    }
}

/// The thread's heap, if there is one.
#[inline(always)]
pub(crate) fn existing() -> Option<NonNull<Inner>> {
    NonNull::new(CURRENT.get().cast_mut())
}

/// A heap at hand, which is as good as new: for a [`Heap`](crate::Heap) that of the thread, or else
/// that of the process.
pub(crate) fn take_spare(isolated: bool) -> Option<NonNull<Inner>> {
    let own = if isolated { take_own() } else { None };
    own.or_else(take_shared)
}

fn take_own() -> Option<NonNull<Inner>> {
    NonNull::new(SPARE.replace(std::ptr::null()).cast_mut())
}

fn take_shared() -> Option<NonNull<Inner>> {
    // Most often there is none: not a write then, which others would wait for. Relaxed: the swap decides.
    if SHARED.load(Relaxed).is_null() {
        return None;
    }
    // Acquire: pairs with the exchange in `share`, behind all that its thread did to the heap.
    NonNull::new(SHARED.swap(null_mut(), Acquire))
}

/// Keeps a heap for the next thread, if none is kept; else frees it.
///
/// # Safety
/// The heap has ended and was renewed, and nothing leads to it.
unsafe fn share(heap: NonNull<Inner>) {
    // Release: pairs with the swap in `take_shared`. Relaxed where it fails: what is there is not
    // looked at.
    if SHARED.compare_exchange(null_mut(), heap.as_ptr(), Release, Relaxed).is_err() {
        // SAFETY: by contract.
        unsafe { destroy(heap) };
    }
}

/// Frees the heap that is kept for the next thread, if there is one; the bytes that were mapped for it.
pub(crate) fn trim_shared() -> usize {
    let Some(heap) = take_shared() else { return 0 };
    // SAFETY: just taken, so it exists and is ours.
    let (mapped, _) = unsafe { heap.as_ref() }.pages();
    // SAFETY: as above.
    unsafe { destroy(heap) };
    mapped
}

/// # Safety
/// The heap holds nothing, and nothing leads to it.
unsafe fn destroy(heap: NonNull<Inner>) {
    // SAFETY: made by `Box::leak` in `create`.
    drop(unsafe { Box::from_raw(heap.as_ptr()) });
}

/// Keeps a heap that is small: for the next [`Heap`](crate::Heap) of the thread, if none is kept
/// and the thread goes on, or for the next thread. Frees it, if it is not. A program with many
/// small heaps, or with many threads that live shortly, would otherwise map and unmap memory for
/// each.
///
/// # Safety
/// The heap has ended, and nothing leads to it.
unsafe fn keep_or_free(heap: NonNull<Inner>) {
    let ends = EXIT.try_with(|_| ()).is_err();
    let full = if ends { !SHARED.load(Relaxed).is_null() } else { !SPARE.get().is_null() };
    // SAFETY: by contract it exists.
    if full || !unsafe { heap.as_ref() }.renew() {
        // SAFETY: by contract.
        unsafe { destroy(heap) };
    } else if ends {
        // SAFETY: by contract, and renewed.
        unsafe { share(heap) };
    } else {
        SPARE.set(heap.as_ptr());
    }
}

/// Adds a heap just made to those of its thread.
pub(crate) fn enlist(heap: NonNull<Inner>) {
    // SAFETY: just made.
    unsafe { heap.as_ref() }.next.set(ALL.replace(heap.as_ptr()));
}

/// Takes a heap that is about to be freed out of those of its thread. A step for each that is younger.
fn delist(heap: &Inner) {
    let mut at = ALL.get();
    if std::ptr::eq(at, heap) {
        ALL.set(heap.next.get());
        return;
    }
    // SAFETY: only heaps that exist are in the list.
    while let Some(younger) = unsafe { at.as_ref() } {
        at = younger.next.get();
        if std::ptr::eq(at, heap) {
            younger.next.set(heap.next.get());
            return;
        }
    }
}

/// Calls `f` with each of the thread's heaps. `f` must neither make nor free one.
#[cfg(feature = "report")]
pub(crate) fn for_each_heap(mut f: impl FnMut(&Inner)) {
    let mut at = ALL.get();
    // SAFETY: only heaps that exist are in the list.
    while let Some(heap) = unsafe { at.as_ref() } {
        f(heap);
        at = heap.next.get();
    }
}

/// Makes the thread's heap. After the thread's exit code ran, one that is retired from the start:
/// its objects are all large, and it goes with the last of them.
///
/// Never unwinds, and the compiler knows it by the ABI: see `Gc::new_inner`.
#[cold]
#[inline(never)]
extern "C" fn first() -> NonNull<Inner> {
    let heap = Inner::create(false);
    if EXIT.try_with(|_| ()).is_err() {
        // SAFETY: just made.
        let inner = unsafe { heap.as_ref() };
        inner.set_retired();
        inner.isolate();
    }
    CURRENT.set(heap.as_ptr());
    heap
}

/// Ends a heap: collects what can be collected; what is still held stays until it is dropped, and
/// the heap with it. A panic of user code in this last collection goes no further: at the end of a
/// thread it could only abort the process.
///
/// # Safety
/// The heap exists, and is not retired yet; the caller does not use it afterwards.
pub(crate) unsafe fn retire(heap: NonNull<Inner>) {
    // SAFETY: by contract.
    let inner = unsafe { heap.as_ref() };
    for _ in 0..3 {
        if inner.live() == 0 {
            break;
        }
        let (mut freed, mut panic) = (0, None);
        // USER CODE. Drops may leave new garbage, finalizers may resurrect: a few rounds only.
        guarded(&mut panic, || freed = inner.collect(Generation::Old));
        if let Some(panic) = panic {
            discard(panic);
        }
        if freed == 0 {
            break;
        }
    }
    inner.set_retired();
    // SAFETY: by contract the caller is done with it.
    unsafe { free_if_done(heap) };
}

/// Frees a retired heap that holds nothing.
///
/// # Safety
/// The heap exists. If it is retired and empty, nobody uses it afterwards.
#[inline(always)]
pub(crate) unsafe fn free_if_done(heap: NonNull<Inner>) {
    // SAFETY: by contract.
    if unsafe { heap.as_ref() }.is_retired() {
        // SAFETY: by contract.
        unsafe { free_retired(heap) };
    }
}

/// # Safety
/// As for `free_if_done`; the heap is retired.
#[cold]
#[inline(never)]
unsafe fn free_retired(heap: NonNull<Inner>) {
    // SAFETY: by contract.
    let inner = unsafe { heap.as_ref() };
    if inner.in_use() != 0 || inner.collecting.get() || inner.depth.get() != 0 {
        return;
    }
    if std::ptr::eq(CURRENT.get(), heap.as_ptr()) {
        CURRENT.set(std::ptr::null());
    }
    delist(inner);
    #[cfg(feature = "report")]
    crate::report::note_freed(inner);
    // SAFETY: ended, empty, and in no list any more.
    unsafe { keep_or_free(heap) };
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;
    use crate::{Finalize, Gc, Heap};

    /// The thread's heaps, but for the one at hand.
    fn heaps() -> usize {
        let (mut at, mut count) = (ALL.get(), 0);
        // SAFETY: only heaps that exist are in the list.
        while let Some(heap) = unsafe { at.as_ref() } {
            at = heap.next.get();
            count += 1;
        }
        count
    }

    #[test]
    fn a_question_at_the_end_of_a_thread_leaves_no_heap_behind() {
        /// Asks when the thread's heap is gone, and says whether there is another then.
        struct Late(std::sync::mpsc::Sender<(usize, usize)>);
        impl Drop for Late {
            fn drop(&mut self) {
                let before = heaps();
                crate::enable();
                assert_eq!(crate::stats().live, 0);
                self.0.send((before, heaps())).unwrap();
                // One that gets an object stays as long as that.
                let number = Gc::new(before);
                assert_eq!((crate::stats().live, heaps()), (1, 1));
                drop(number);
                assert_eq!(heaps(), before);
            }
        }
        thread_local!(static LATE: RefCell<Option<Late>> = const { RefCell::new(None) });
        let (sender, receiver) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            // Before the first object, and so dropped after its heap.
            LATE.set(Some(Late(sender)));
            drop(Gc::new(1));
        });
        thread.join().unwrap();
        assert_eq!(receiver.recv(), Ok((0, 0)));
    }

    #[derive(rc_gc::Trace)]
    #[gc(finalize)]
    struct Saved(RefCell<Option<Gc<Saved>>>, Cell<u32>);

    thread_local!(static SAVED: RefCell<Vec<Gc<Saved>>> = const { RefCell::new(Vec::new()) });

    impl Finalize for Saved {
        fn finalize(&self) {
            let me = self.0.borrow_mut().take().unwrap();
            SAVED.with_borrow_mut(|saved| saved.push(me));
        }
    }

    #[test]
    fn a_heap_goes_with_an_object_that_its_last_collection_resurrected() {
        let before = heaps();
        for round in 0..20 {
            let heap = Heap::new();
            let saved = Gc::new_in(Saved(RefCell::default(), Cell::new(round)), &heap);
            *saved.0.borrow_mut() = Some(saved.clone());
            // Also where the object has survived a collection of the youngest.
            if round % 2 == 0 {
                heap.collect_generation(Generation::Young);
            }
            drop((saved, heap));
            assert_eq!(heaps(), before + 1);
            let saved = SAVED.take().remove(0);
            assert_eq!(saved.1.get(), round);
            drop(saved);
            assert_eq!(heaps(), before, "{round}");
        }
    }
}
