//! The 16 bytes before every value: count, flags, vtable; and [`Obj`], the pointer to them.
//!
//! ```text
//!   0        4        8                16
//!   +--------+--------+-----------------+----------------
//!   | mark   | count  | vtable or side  | value ...
//!   +--------+--------+-----------------+----------------
//!                                       ^ Gc<T>, Weak<T>
//!   count  bit 31       PURPLE: a decrement needs nothing more than the subtraction
//!          bit 30       IMMORTAL: the count was saturated and means nothing any more
//!          bits 0..30   the number of handles
//!   mark   bits 0..8    flags, below
//!          bits 8..32   epoch of birth; while VISITED: handles not yet explained by an edge
//! ```
//!
//! Count and PURPLE share a word, so that a decrement is one load, one store and one comparison:
//! after the subtraction everything that is not simply "purple and 1 to 2^30 - 1 handles left" is
//! outside *one* range ([`is_quiet`]).
//!
//! Invariants of an object (checked by `Heap::check`):
//!
//! 1. An [`Obj`] points to a header whose memory is not given back: the object is allocated, and
//!    stays so while it has handles, `Weak`s, or is in the collector's hands (which count as a handle).
//! 2. `DEAD` is set, or `count` is 0, exactly if the value must not be looked at any more.
//! 3. `PURPLE` of an object that is neither LEAF nor DEAD says that its bit is set in one of the
//!    purple bitmaps of its pool (or that it is in the list of large candidates); but for the
//!    garbage that is looked at again after finalizers, which `recheck` holds a list of.
//! 4. `VISITED` is set only while a collection follows edges, never while user code other than
//!    `Trace` runs: collections of other heaps would mistake the object for one of their set.
//!    (Where a `Trace` panics the panic hook runs, and meanwhile no heap of the thread collects:
//!    `collector::tracing`.)
//! 5. With `SIDE` the last word points to a [`Side`], else to a [`Vtable`].
//!
//! This module does not know where an object's memory comes from.

use std::cell::{Cell, RefCell};
use std::mem::offset_of;
use std::ptr::NonNull;

use crate::trace::{Trace, Tracer};

/// Set by the first decrement to non-zero: the object may be what is left of a cycle.
pub(crate) const PURPLE: u32 = 1 << 31;
/// The count was saturated.
pub(crate) const IMMORTAL: u32 = 1 << 30;
/// Where a saturated count is put back to: 2^29 steps away from either end.
const PINNED: u32 = IMMORTAL | 1 << 29;
/// The bits of the count.
pub(crate) const COUNT: u32 = IMMORTAL - 1;

/// The value is dropped, or about to be; see invariant 2.
pub(crate) const DEAD: u32 = 1 << 0;
/// The memory is from the global allocator, not from a pool.
pub(crate) const LARGE: u32 = 1 << 1;
/// The object has a [`Side`].
pub(crate) const SIDE: u32 = 1 << 2;
/// The object has a finalizer that did not run yet.
pub(crate) const FINALIZER: u32 = 1 << 3;
/// The type holds no handles.
pub(crate) const LEAF: u32 = 1 << 4;
/// The object belongs to a heap other than its thread's first.
pub(crate) const ISOLATED: u32 = 1 << 5;
/// In the set a collection looks at, and not found to be reachable from outside.
pub(crate) const VISITED: u32 = 1 << 6;

/// The object was one of `MaybeUninit`s, and got the type of its value.
pub(crate) const TYPED: u32 = 1 << 7;

/// One epoch, one unexplained handle.
pub(crate) const STEP: u32 = 1 << 8;
/// The number of epochs; the number of handles from which a mark word cannot count them (`settle`).
pub(crate) const STEPS: u32 = u32::MAX / STEP;

/// See the module. All of it is plain memory behind `Cell`s.
#[repr(C, align(8))]
pub(crate) struct Header {
    mark: Cell<u32>,
    count: Cell<u32>,
    info: Cell<NonNull<()>>,
}

const _: () = assert!(size_of::<Header>() == 16);
const _: () = assert!(offset_of!(Header, mark) == 0);
const _: () = assert!(offset_of!(Header, count) == 4);
const _: () = assert!(offset_of!(Header, info) == 8);

/// What the collector must know of a type. Functions take the address of the value, or a list of
/// objects of which the first has this vtable: those behind it that have it too are dealt with in
/// the same call ([`run`], [`run_off`]).
pub(crate) struct Vtable {
    /// Reports the edges of objects at the beginning of a list; of how many. USER CODE in principle.
    pub(crate) trace: unsafe fn(&[Obj], &mut Tracer) -> usize,
    /// Drops the value in place. USER CODE.
    pub(crate) drop: unsafe fn(*mut u8),
    /// Takes objects from the beginning of a list, and drops the value of each in place. One whose
    /// drop panics is taken. USER CODE.
    pub(crate) drop_run: unsafe fn(&mut &[Obj]),
    /// Runs the finalizer. USER CODE.
    pub(crate) finalize: unsafe fn(*const u8),
    /// The name of the type, for messages.
    pub(crate) name: fn() -> &'static str,
    /// A wide pointer lies before the header (`dst`).
    pub(crate) wide: bool,
}

/// What few objects have: `Weak`s, callbacks, a length that was not known at birth.
pub(crate) struct Side {
    /// The vtable that the header has no room for.
    vtable: Cell<&'static Vtable>,
    /// `Weak`s, and one for all the handles together.
    pub(crate) weak: Cell<usize>,
    /// Of an array that became a slice in place (`dst::VtableOf::COUNTED`): its length.
    pub(crate) len: Cell<usize>,
    /// To be called when the object is found dead.
    pub(crate) callbacks: RefCell<Vec<Box<dyn FnOnce()>>>,
}

impl Side {
    /// For an object with this vtable: no `Weak`, no callback.
    pub(crate) const fn new(vtable: &'static Vtable) -> Side {
        Side {
            vtable: Cell::new(vtable),
            weak: Cell::new(1),
            len: Cell::new(0),
            callbacks: RefCell::new(Vec::new()),
        }
    }

    /// Whether somebody asked to be called.
    pub(crate) fn has_callbacks(&self) -> bool {
        !self.callbacks.borrow().is_empty()
    }
}

/// Whether a count word, after the subtraction, asks for nothing more.
#[inline(always)]
pub(crate) const fn is_quiet(count: u32) -> bool {
    count.wrapping_sub(PURPLE + 1) < IMMORTAL - 1
}

/// A pointer to an object's header, by invariant 1. Its own functions are safe to call while that
/// holds; it is never handed out of the crate.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Obj(NonNull<Header>);

impl Obj {
    /// The object whose header is at `header`.
    ///
    /// # Safety
    /// Invariant 1 holds for as long as the result is used.
    #[inline(always)]
    pub(crate) const unsafe fn at(header: NonNull<Header>) -> Self {
        Obj(header)
    }

    /// The object whose value is at `value`.
    ///
    /// # Safety
    /// `value` is the pointer of a `Gc` or a `Weak` (not a dangling one) that exists.
    #[inline(always)]
    pub(crate) const unsafe fn of<T: ?Sized>(value: NonNull<T>) -> Self {
        // SAFETY: the header lies directly before the value, in the same allocation.
        Obj(unsafe { value.cast::<Header>().sub(1) })
    }

    /// Where the header is.
    #[inline(always)]
    pub(crate) const fn header(self) -> NonNull<Header> {
        self.0
    }

    /// Where the value is.
    #[inline(always)]
    pub(crate) const fn value(self) -> NonNull<u8> {
        // SAFETY: the value lies directly behind the header, in the same allocation (1).
        unsafe { self.0.add(1) }.cast()
    }

    /// Asks the processor for the header's cache line.
    #[inline(always)]
    pub(crate) fn prefetch(self) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a hint, for any address; SSE is part of x86-64.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(self.0.as_ptr().cast::<i8>()) };
        }
    }

    #[inline(always)]
    fn get(&self) -> &Header {
        // SAFETY: invariant 1; the fields are `Cell`s, and no `&mut Header` is ever made.
        unsafe { self.0.as_ref() }
    }

    /// Writes the header of a new object.
    ///
    /// # Safety
    /// The 16 bytes are the caller's to write.
    #[inline(always)]
    pub(crate) unsafe fn init(self, mark: u32, count: u32, vtable: &'static Vtable) {
        let info = Cell::new(NonNull::from(vtable).cast());
        let header = Header { mark: Cell::new(mark), count: Cell::new(count), info };
        // SAFETY: by contract.
        unsafe { self.0.write(header) };
    }

    /// The mark word.
    #[inline(always)]
    pub(crate) fn mark(self) -> u32 {
        self.get().mark.get()
    }

    /// Sets the mark word.
    #[inline(always)]
    pub(crate) fn set_mark(self, mark: u32) {
        self.get().mark.set(mark);
    }

    /// Whether any of `flags` is set.
    #[inline(always)]
    pub(crate) fn has(self, flags: u32) -> bool {
        self.mark() & flags != 0
    }

    /// Sets `flags`.
    #[inline(always)]
    pub(crate) fn set(self, flags: u32) {
        self.set_mark(self.mark() | flags);
    }

    /// Clears `flags`.
    #[inline(always)]
    pub(crate) fn clear(self, flags: u32) {
        self.set_mark(self.mark() & !flags);
    }

    /// Epoch of birth (or of the last collection survived), where not VISITED.
    #[inline(always)]
    pub(crate) fn epoch(self) -> u32 {
        self.mark() / STEP
    }

    /// The count word.
    #[inline(always)]
    pub(crate) fn word(self) -> u32 {
        self.get().count.get()
    }

    /// Sets the count word.
    #[inline(always)]
    pub(crate) fn set_word(self, word: u32) {
        self.get().count.set(word);
    }

    /// The number of handles; of an immortal object, about 2^30.
    #[inline(always)]
    pub(crate) fn count(self) -> u32 {
        self.word() & (COUNT | IMMORTAL)
    }

    /// Whether a value can be looked at (invariant 2).
    #[inline(always)]
    pub(crate) fn is_alive(self) -> bool {
        !self.has(DEAD) && self.count() != 0
    }

    /// One handle more. Never fails.
    #[inline(always)]
    pub(crate) fn increment(self) {
        let word = self.word().wrapping_add(1);
        self.set_word(word);
        if word & IMMORTAL != 0 {
            self.pin();
        }
    }

    /// One handle less; the word that is left. See [`is_quiet`].
    #[inline(always)]
    pub(crate) fn decrement(self) -> u32 {
        let word = self.word().wrapping_sub(1);
        self.set_word(word);
        word
    }

    /// Puts a saturated count back to the middle, from where no number of handles that fit into
    /// memory between two pins can move it out: each clone and each drop pins again.
    #[cold]
    pub(crate) fn pin(self) {
        self.set_word((self.word() & PURPLE) | PINNED);
    }

    /// The vtable.
    #[inline(always)]
    pub(crate) fn vtable(self) -> &'static Vtable {
        match self.side() {
            Some(side) => side.vtable.get(),
            // SAFETY: invariant 5: without SIDE this is the `&'static Vtable` from `init`.
            None => unsafe { self.get().info.get().cast::<Vtable>().as_ref() },
        }
    }

    /// Gives an object of `MaybeUninit`s its type: the flags that objects of it are born with, and
    /// its vtable.
    ///
    /// # Safety
    /// The object is neither DEAD nor a candidate; its value is of that type too, and looked for
    /// where the type's vtable does.
    pub(crate) unsafe fn retype(self, flags: u32, vtable: &'static Vtable) {
        match self.side() {
            Some(side) => side.vtable.set(vtable),
            None => self.get().info.set(NonNull::from(vtable).cast()),
        }
        self.clear(LEAF | FINALIZER);
        self.set(flags | TYPED);
        // Only leaves are PURPLE without being candidates.
        let purple = if flags & LEAF == 0 { 0 } else { PURPLE };
        self.set_word(self.word() & !PURPLE | purple);
    }

    /// The side box, if the object has one. It lives until `side::free_side`.
    #[inline(always)]
    pub(crate) fn side(&self) -> Option<&Side> {
        if !self.has(SIDE) {
            return None;
        }
        // SAFETY: invariant 5; the box is only ever used by shared reference.
        Some(unsafe { self.get().info.get().cast::<Side>().as_ref() })
    }

    /// Gives the object its side box.
    ///
    /// # Safety
    /// It has none, and this one is for its vtable.
    pub(crate) unsafe fn set_side(self, side: NonNull<Side>) {
        self.get().info.set(side.cast());
        self.set(SIDE);
    }

    /// Where the side box is.
    ///
    /// # Safety
    /// SIDE is set.
    #[inline(always)]
    pub(crate) unsafe fn side_pointer(self) -> NonNull<Side> {
        debug_assert!(self.has(SIDE));
        self.get().info.get().cast()
    }

    /// The last word: two objects that have the same one are of one type and without a side box.
    #[inline(always)]
    fn info(self) -> NonNull<()> {
        self.get().info.get()
    }

    /// Count word and mark word as one: the count in the upper half.
    #[inline(always)]
    pub(crate) fn both(self) -> u64 {
        u64::from(self.word()) << 32 | u64::from(self.mark())
    }

    /// Sets count word and mark word.
    #[inline(always)]
    pub(crate) fn set_both(self, both: u64) {
        self.set_word((both >> 32) as u32);
        self.set_mark(both as u32);
    }
}

/// How far ahead lists of objects are prefetched.
pub(crate) const AHEAD: usize = 16;

/// Calls `f` with the value of the first object of a list, and of those behind it that are like it;
/// how many.
#[inline(always)]
pub(crate) fn run(objects: &[Obj], mut f: impl FnMut(*mut u8)) -> usize {
    let Some(first) = objects.first() else { return 0 };
    let info = first.info();
    let mut done = 0;
    for obj in objects {
        if obj.info() != info {
            break;
        }
        f(obj.value().as_ptr());
        done += 1;
    }
    done
}

/// Takes the first object from a list, and those behind it that are like it; calls `f` with the
/// value of each. What `f` does to those behind is seen: one that gets a side box meanwhile is not
/// like the first any more.
#[inline(always)]
pub(crate) fn run_off(objects: &mut &[Obj], mut f: impl FnMut(*mut u8)) {
    let Some(first) = objects.first() else { return };
    let info = first.info();
    while let [obj, rest @ ..] = *objects
        && obj.info() == info
    {
        *objects = rest;
        if let Some(later) = rest.get(AHEAD) {
            later.prefetch();
        }
        f(obj.value().as_ptr());
    }
}

/// Makes the vtable of a type.
pub(crate) struct VtableOf<T>(std::marker::PhantomData<T>);

impl<T: Trace> VtableOf<T> {
    /// For objects whose value is a `T`.
    pub(crate) const SIZED: &'static Vtable = &Vtable {
        trace: trace_sized::<T>,
        drop: drop_sized::<T>,
        drop_run: drop_run_sized::<T>,
        finalize: finalize_sized::<T>,
        name: std::any::type_name::<T>,
        wide: false,
    };
}

/// # Safety
/// The first of `objects`, and all with its last word, have a live `T` as their value.
unsafe fn trace_sized<T: Trace>(objects: &[Obj], tracer: &mut Tracer) -> usize {
    run(objects, |value| {
        // SAFETY: by contract.
        let value = unsafe { &*value.cast::<T>() };
        value.trace(tracer);
    })
}

/// # Safety
/// As for `trace_sized`; the values are not used afterwards.
unsafe fn drop_run_sized<T>(objects: &mut &[Obj]) {
    // SAFETY: by contract.
    run_off(objects, |value| unsafe { value.cast::<T>().drop_in_place() });
}

/// # Safety
/// `value` points to a live `T` that is not used afterwards.
unsafe fn drop_sized<T>(value: *mut u8) {
    // SAFETY: by contract.
    unsafe { value.cast::<T>().drop_in_place() };
}

/// # Safety
/// `value` points to a live `T`.
unsafe fn finalize_sized<T: Trace>(value: *const u8) {
    // SAFETY: by contract.
    let value = unsafe { &*value.cast::<T>() };
    value.finalize_hook();
}
