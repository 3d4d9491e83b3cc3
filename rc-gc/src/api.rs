//! The functions of the crate and of [`Heap`]: collect, switch, measure. What they do is elsewhere.

use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::time::Duration;

use crate::generations::{Generation, Mode, Thresholds};
use crate::header::{DEAD, LARGE, LEAF, Obj, PURPLE, VISITED};
use crate::heap::Inner;
use crate::pools::PoolRef;
use crate::release::resume;
use crate::stats::Stats;
use crate::thread;

/// A heap apart from the thread's own, with its own collector, thresholds and statistics.
///
/// Handles may lead from one heap to another and count as held from outside there: **a cycle across
/// two heaps is not collected.** Dropping the `Heap` collects it; what is still held stays until it
/// is dropped. Cycles that become garbage after that are collected when a handle to them is
/// dropped, there and then; but once such collections have looked at a million objects more than
/// they freed, there are no others in that heap, and **what is left of its cycles is leaked**. A
/// `Heap` that is dropped in a panic hook, while a `Trace` unwinds, is not collected then, as if it
/// had nothing but what is held. Drops that go from heap to heap may be 64 deep in each before any
/// is put off.
///
/// ```
/// use rc_gc::{Gc, Heap};
///
/// let heap = Heap::new();
/// let text = Gc::new_in(String::from("apart"), &heap);
/// assert_eq!((heap.stats().live, rc_gc::stats().live), (1, 0));
/// drop(heap);
/// assert_eq!(*text, "apart");
/// ```
pub struct Heap {
    inner: NonNull<Inner>,
    not_send: PhantomData<*const ()>,
}

impl Heap {
    /// An empty heap. Maps memory with its first object.
    pub fn new() -> Heap {
        Heap { inner: Inner::create(true), not_send: PhantomData }
    }

    #[inline(always)]
    pub(crate) fn inner(&self) -> &Inner {
        // SAFETY: made by `create`, and retired only when this is dropped.
        unsafe { self.inner.as_ref() }
    }

    /// Collects all generations; the number of objects freed. See [`collect`](crate::collect).
    pub fn collect(&self) -> usize {
        self.inner().collect(Generation::Old)
    }

    /// Collects a generation and the younger ones. See [`collect_generation`](crate::collect_generation).
    pub fn collect_generation(&self, generation: Generation) -> usize {
        self.inner().collect(generation)
    }

    /// Collects if a collection is due; the number of objects freed. See [`Mode::AtSafepoint`].
    pub fn safepoint(&self) -> usize {
        self.inner().safepoint()
    }

    /// Lets allocations start collections again.
    pub fn enable(&self) {
        self.inner().schedule.enabled.set(true);
    }

    /// Keeps allocations and safepoints from collecting. `collect` still does.
    pub fn disable(&self) {
        self.inner().schedule.enabled.set(false);
    }

    /// Whether allocations or safepoints collect.
    pub fn is_enabled(&self) -> bool {
        self.inner().schedule.enabled.get()
    }

    /// Sets who starts collections.
    pub fn set_mode(&self, mode: Mode) {
        self.inner().schedule.mode.set(mode);
    }

    /// Who starts collections.
    pub fn mode(&self) -> Mode {
        self.inner().schedule.mode.get()
    }

    /// Sets how often each generation is collected.
    pub fn set_thresholds(&self, thresholds: Thresholds) {
        self.inner().set_thresholds(thresholds);
    }

    /// How often each generation is collected.
    pub fn thresholds(&self) -> Thresholds {
        self.inner().schedule.thresholds.get()
    }

    /// The heap in numbers. Costs a few hundred steps.
    pub fn stats(&self) -> Stats {
        self.inner().stats()
    }

    /// The collection time that a part `q` of a generation's collections did not exceed. See
    /// [`pause_percentile`](crate::pause_percentile).
    pub fn pause_percentile(&self, generation: Generation, q: f64) -> Duration {
        self.inner().counters.pause_percentile(generation, q)
    }

    /// Says that objects of this heap own so many bytes more outside of it. See [`charge`](crate::charge).
    pub fn charge(&self, bytes: usize) {
        self.inner().charge(bytes);
    }

    /// Gives unused memory back to the system; the bytes given.
    pub fn trim(&self) -> usize {
        self.inner().trim(0)
    }

    /// Walks the heap and verifies its invariants.
    ///
    /// # Errors
    /// Which invariant does not hold; there is no way to get one from safe code.
    pub fn check(&self) -> Result<(), &'static str> {
        self.inner().check()
    }
}

impl Default for Heap {
    fn default() -> Self {
        Heap::new()
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        // SAFETY: this was its only owner, and is not used again.
        unsafe { thread::retire(self.inner) };
    }
}

impl fmt::Debug for Heap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heap").field("stats", &self.stats()).finish()
    }
}

/// Runs `f` on the thread's heap, made if there is none.
fn current<R>(f: impl FnOnce(&Inner) -> R) -> R {
    let exists = thread::existing().is_some();
    let heap = thread::current();
    // SAFETY: the thread's heap; it frees itself only with its last object after the thread's exit
    // code ran, and none of the functions below lets go of an object that its caller has.
    let result = f(unsafe { heap.as_ref() });
    if !exists {
        // After the end of the thread's heap one is made that goes with its last object; this one
        // may never have any.
        // SAFETY: the thread's heap, made just now, and not used afterwards.
        unsafe { thread::free_if_done(heap) };
    }
    result
}

/// Collects all generations of the thread's heap; the number of objects freed, those that only
/// garbage held included.
///
/// (Where drops allocate, as many of what they free may be left out of the number.)
///
/// After the end of the thread's heap, in destructors of thread-locals, it collects what of it is left.
///
/// Looks at what candidates can reach, not at the whole heap. Inside another collection it does
/// nothing and answers 0; also in a panic hook that runs on top of a `Trace` that panicked.
///
/// # Panics
/// With the first panic of user code (`Trace`, `Finalize`, callbacks, `Drop`), after all is done.
pub fn collect() -> usize {
    collect_generation(Generation::Old)
}

/// Collects a generation of the thread's heap and the younger ones; the number of objects freed.
///
/// Survivors move up: of `Young` into `Middle`, else into `Old`.
///
/// # Panics
/// As [`collect`].
pub fn collect_generation(generation: Generation) -> usize {
    let Some(heap) = thread::existing() else { return 0 };
    // SAFETY: the thread's heap.
    let inner = unsafe { heap.as_ref() };
    if !inner.is_retired() {
        return inner.collect(generation);
    }
    // SAFETY: the thread's heap, which nobody uses afterwards but by handles.
    let (freed, panic) = unsafe { Inner::collect_ended(heap) };
    resume(panic);
    freed
}

/// Collects if a collection is due in the thread's heap; the number of objects freed. For
/// [`Mode::AtSafepoint`]: call it where running `Drop`s is welcome.
///
/// # Panics
/// As [`collect`].
#[inline]
pub fn safepoint() -> usize {
    // SAFETY: the thread's heap.
    thread::existing().map_or(0, |heap| unsafe { heap.as_ref() }.safepoint())
}

/// Lets allocations on the thread's heap start collections again.
pub fn enable() {
    current(|heap| heap.schedule.enabled.set(true));
}

/// Keeps allocations and safepoints of the thread's heap from collecting. [`collect`] still does.
pub fn disable() {
    current(|heap| heap.schedule.enabled.set(false));
}

/// Whether allocations or safepoints of the thread's heap collect.
pub fn is_enabled() -> bool {
    current(|heap| heap.schedule.enabled.get())
}

/// Sets who starts collections of the thread's heap.
pub fn set_mode(mode: Mode) {
    current(|heap| heap.schedule.mode.set(mode));
}

/// Who starts collections of the thread's heap.
pub fn mode() -> Mode {
    current(|heap| heap.schedule.mode.get())
}

/// Sets how often each generation of the thread's heap is collected.
pub fn set_thresholds(thresholds: Thresholds) {
    current(|heap| heap.set_thresholds(thresholds));
}

/// How often each generation of the thread's heap is collected.
pub fn thresholds() -> Thresholds {
    current(|heap| heap.schedule.thresholds.get())
}

/// The thread's heap in numbers. Costs a few hundred steps.
pub fn stats() -> Stats {
    current(Inner::stats)
}

/// The time that a part `q` (0 to 1) of the collections of a generation in the thread's heap did
/// not exceed, finalizers and drops included; zero if there were none. Too long by 6 % at most,
/// never too short, and exact for a `q` of 1.
///
/// Collections count in a table of 2.3 KiB for each generation. Costs a few hundred steps.
///
/// ```
/// use rc_gc::Generation;
///
/// rc_gc::collect();
/// let (median, longest) = (rc_gc::pause_percentile(Generation::Old, 0.5), rc_gc::pause_percentile(Generation::Old, 1.0));
/// assert!(median <= longest);
/// ```
pub fn pause_percentile(generation: Generation, q: f64) -> Duration {
    current(|heap| heap.counters.pause_percentile(generation, q))
}

/// Says that objects of the thread's heap own so many bytes more outside of it: vectors, buffers,
/// textures, what a foreign library allocated for them. The collector does not see such memory, and
/// lets a few objects of garbage wait that hold much.
///
/// It brings the next collection nearer: 512 bytes count as one allocation, as those of large
/// objects do, and what is charged since the last full collection, beyond 1 MiB or 128 bytes for
/// each object there is, makes the next one due as growth of the heap does. It collects nothing
/// itself, and may be called anywhere, in `Drop` and `Trace` too; without a heap, or after its end,
/// it does nothing.
///
/// There is nothing to call when the memory goes: how much of it does is estimated from how many
/// objects do. Charge what an object that may be part of a cycle is made with, or grows by, where
/// that is some kilobytes; it costs about ten instructions.
///
/// ```
/// use rc_gc::{Gc, Trace};
/// use std::cell::RefCell;
///
/// #[derive(Trace)]
/// struct Page { pixels: Vec<u8>, next: RefCell<Option<Gc<Page>>> }
///
/// for _ in 0..1000 {
///     rc_gc::charge(1 << 20);
///     let page = Gc::new(Page { pixels: vec![0; 1 << 20], next: RefCell::default() });
///     *page.next.borrow_mut() = Some(page.clone());
/// }
/// assert!(rc_gc::stats().live < 20);     // without `charge` all of them: 1,000 objects are not many
/// # assert!(rc_gc::stats().live > 0);
/// ```
pub fn charge(bytes: usize) {
    if let Some(heap) = thread::existing() {
        // SAFETY: the thread's heap; nothing is freed here.
        unsafe { heap.as_ref() }.charge(bytes);
    }
}

/// Gives unused memory of the thread's heap back to the system, and what is kept for the next
/// thread: of those that have ended, one heap with an arena of 1 MiB at most. The bytes given.
pub fn trim() -> usize {
    let shared = thread::trim_shared();
    shared + thread::existing().map_or(0, |_| current(|heap| heap.trim(0)))
}

/// Walks the thread's heap and verifies its invariants.
///
/// # Errors
/// Which invariant does not hold; there is no way to get one from safe code.
pub fn check() -> Result<(), &'static str> {
    current(Inner::check)
}

/// How many objects of the thread's heap a whole-heap pass would find to be garbage now: the oracle
/// for what starts from candidates. Frees nothing. For tests.
///
/// # Safety
/// No reference from `get_mut` or `make_mut` is in use: objects are looked at that a collection would not
/// come to. No `Trace` panics, and no collection is under way.
#[doc(hidden)]
pub unsafe fn count_garbage_slowly() -> usize {
    current(Inner::count_garbage_slowly)
}

impl Inner {
    fn safepoint(&self) -> usize {
        let due = self.schedule.waiting.get() && self.schedule.enabled.get();
        // The mode may have changed since.
        if due && self.schedule.mode.get() != Mode::Manual { self.collect_due() } else { 0 }
    }

    fn set_thresholds(&self, thresholds: Thresholds) {
        self.schedule.set_thresholds(thresholds);
        self.refill_budget();
    }

    fn stats(&self) -> Stats {
        let (mapped, pools) = self.pages();
        Stats {
            generations: self.counters.all(),
            live: self.live(),
            mapped_bytes: mapped as u64,
            pool_bytes: pools as u64,
            large: self.large.len() as u64,
            budget: self.schedule.budget(),
        }
    }

    /// The generation of an object.
    pub(crate) fn generation_of(&self, obj: Obj) -> Generation {
        let epoch = obj.epoch();
        if epoch >= self.epoch() {
            Generation::Young
        } else if epoch >= self.middle_from.get() {
            Generation::Middle
        } else {
            Generation::Old
        }
    }

    /// Verifies the invariants of `heap`, `pools`, `large` and `header`.
    fn check(&self) -> Result<(), &'static str> {
        self.flush_caches();
        self.check_memory()?;
        let mut fault = None;
        self.for_each(|obj| fault = fault.or(self.check_object(obj).err()));
        fault.map_or(Ok(()), Err)
    }

    fn check_object(&self, obj: Obj) -> Result<(), &'static str> {
        if obj.has(VISITED) {
            return Err("header 4: marked as in a collection outside of one");
        }
        if obj.epoch() > self.epoch() {
            return Err("heap 3: an object from the future");
        }
        let noted = if obj.has(LARGE) {
            // SAFETY: just tested.
            unsafe { self.large.is_candidate(obj) }
        } else {
            // SAFETY: not LARGE.
            let pool = unsafe { PoolRef::of(obj) };
            pool.is_candidate(pool.index_of(obj))
        };
        if obj.has(LEAF | DEAD) {
            // In a collection's hands the dead keep their bits until they are freed.
            if noted && !self.collecting.get() {
                return Err("pool 4: a candidate that is a leaf or dead");
            }
        } else if (obj.word() & PURPLE != 0) != noted {
            return Err("header 3: PURPLE and what is noted differ");
        }
        Ok(())
    }
}
