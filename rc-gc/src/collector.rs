//! Finds garbage: trial deletion from candidates, in the style of CPython's collector.
//!
//! ```text
//!              candidates            1 visit: unexplained := count, of all they reach
//!                  │                   and one less for every edge from a visited object
//!     ┌────────────┼──────────┐
//!     ▼            ▼          ▼      2 rescue: unexplained > 0 ⇒ held from outside ⇒ live,
//!    (a:0) ⇄ (b:0)      (c:1) → (d:0)   and with it all it reaches
//!     garbage            live          leaves the set: c, d. The rest is garbage: a, b
//! ```
//!
//! A *candidate* is an object that saw a decrement to non-zero (PURPLE) since a full collection last
//! found it live. Nothing else can be what is left of a cycle: the last handle from outside went by
//! a decrement of a member. (It cannot vanish by being moved *into* a member: reaching the member
//! to write to it needs another handle from outside, and so on; the last event is a decrement.)
//!
//! A collection of generation g looks at objects of age ≤ g only; the *set*. Handles from older
//! objects, other heaps, stacks, skipped fields are never subtracted, so they keep what they lead to
//! alive: there is no write barrier. What survives is as old as the present epoch; the next epoch begins.
//!
//! Rules that keep a candidate from being forgotten:
//!
//! 1. Only a full collection that found an object live clears PURPLE (or `get_mut` and
//!    `assume_init`, which have it from their caller that the object is live now).
//! 2. A survivor of a younger collection stays a candidate; one that a finalizer resurrected too.
//! 3. After a panic while tracing, what was a candidate and is still PURPLE is one again.
//!
//! Both passes (`detect`) trace the same objects with no user code between them that could change
//! an edge. If a `Trace` panics, there is some before it unwinds: the panic hook. It may do what it
//! likes with handles while `Scratch` is full of pointers to objects that nothing pins; see
//! [`Tracing`]. Nothing here drops or frees: that is `garbage`.

mod detect;
mod tracing;

use std::ptr::NonNull;
use std::time::Instant;

use alloc_core::OsPages;

use detect::{push_within, rescue, visit};
use tracing::Tracing;
pub(crate) use tracing::is_tracing;

use crate::Generation;
use crate::header::{DEAD, FINALIZER, LEAF, Obj, PURPLE, SIDE, STEP, VISITED};
use crate::heap::Inner;
use crate::pools::{IN_FRESH, IN_MID, IN_OLD, PoolRef, WORDS};
use crate::release::{Panic, discard, drain_outermost, guarded, resume};
use crate::stats::GenerationStats;
use crate::trace::Tracer;
use crate::verify::Verify;

/// Entries for which the lists keep room between collections.
const KEEP: usize = 1 << 16;

/// The collector's working memory, kept between collections.
pub(crate) struct Scratch {
    pub(crate) candidates: Vec<Obj>,
    /// The set, as far as reached; after `detect` the garbage is what is VISITED in it.
    pub(crate) visited: Vec<Obj>,
    /// How many others are there.
    pub(crate) live: usize,
    stack: Vec<Obj>,
    /// Objects with more handles than a mark word can count.
    crowded: Vec<Obj>,
    /// Whether some of them were taken as live without being known to be: those stay candidates.
    unsure: bool,
    tracer: Tracer,
    verify: Verify,
    /// Flags seen on any visited object.
    pub(crate) flags: u32,
}

impl Scratch {
    fn new() -> Self {
        Scratch {
            candidates: Vec::new(),
            visited: Vec::new(),
            live: 0,
            stack: Vec::new(),
            crowded: Vec::new(),
            unsure: false,
            tracer: Tracer::new(),
            verify: Verify::new(),
            flags: 0,
        }
    }

    /// Whether a heap without objects may keep it.
    pub(crate) fn is_small(&self) -> bool {
        let lists = [&self.candidates, &self.visited, &self.stack, &self.crowded];
        let most = lists.map(Vec::capacity).into_iter().max();
        most.max(Some(self.tracer.capacity())) <= Some(1 << 12)
    }

    /// Empty, and not larger than a young collection needs.
    fn reset(&mut self) {
        for list in [&mut self.candidates, &mut self.visited, &mut self.stack, &mut self.crowded] {
            list.clear();
            list.shrink_to(KEEP);
        }
        self.tracer.clear();
        self.tracer.shrink_to(KEEP);
        self.flags = 0;
        self.live = 0;
        self.unsure = false;
    }
}

/// A collection under way; ends it also if user code panics.
struct Running<'a>(&'a Inner);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.collecting.set(false);
    }
}

impl Inner {
    /// Collects a generation and all younger ones; the number of objects freed. Does nothing inside
    /// another collection of the same heap, while any heap's edges are followed, or in a heap that
    /// has ended.
    pub(crate) fn collect(&self, generation: Generation) -> usize {
        if self.collecting.get() || self.is_retired() || is_tracing() {
            return 0;
        }
        let (freed, panic) = self.collect_now(generation);
        resume(panic);
        freed
    }

    /// `collect` where nothing speaks against it; also the first panic of user code.
    pub(crate) fn collect_now(&self, generation: Generation) -> (usize, Option<Panic>) {
        self.collecting.set(true);
        let running = Running(self);
        self.schedule.waiting.set(false);
        self.refill_budget();
        let (freed, panic) = self.run(generation);
        drop(running);
        if self.is_retired() {
            // It may have ended in a drop just now; there is another object then that leads to it.
            self.unlist();
        }
        (freed, panic)
    }

    /// A budget of allocations is spent: collects what is due, if this is the time.
    #[cold]
    pub(crate) fn budget_spent(&self) {
        let left = self.budget.get().min(0);
        self.schedule.spent(u64::from(self.schedule.budget()) + left.unsigned_abs());
        self.refill_budget();
        if !self.schedule.enabled.get() {
            return;
        }
        match self.schedule.mode.get() {
            crate::Mode::Automatic => {
                self.collect_due();
            }
            crate::Mode::AtSafepoint => self.schedule.waiting.set(true),
            crate::Mode::Manual => {}
        }
    }

    /// The collection that is due, or the passing over of its generation.
    pub(crate) fn collect_due(&self) -> usize {
        let generation = self.schedule.due(self.live(), self.large.bytes());
        if self.collecting.get() || !self.schedule.pass_over(generation) {
            return self.collect(generation);
        }
        self.schedule.waiting.set(false);
        self.gather(generation, &mut Unseen);
        self.schedule.passed(generation);
        self.end_epoch(generation);
        0
    }

    /// What exists is one collection older.
    fn end_epoch(&self, generation: Generation) {
        self.next_epoch();
        if generation >= Generation::Middle {
            self.middle_from.set(self.epoch());
        }
    }

    fn run(&self, generation: Generation) -> (usize, Option<Panic>) {
        let start = Instant::now();
        let mut s = self.scratch.take().unwrap_or_else(|| Box::new(Scratch::new()));
        let mut run = GenerationStats::default();
        let mut panic = None;
        let mut freed = 0;

        let floor = match generation {
            Generation::Young => self.epoch(),
            Generation::Middle => self.middle_from.get(),
            Generation::Old => 0,
        };
        self.gather(generation, &mut s.candidates);
        run.candidates = s.candidates.len() as u64;
        if !s.candidates.is_empty() {
            if s.candidates.len() > KEEP {
                make_room(&mut s.visited, self.live() as usize);
            }
            // USER CODE: implementations of `Trace`; the panic hook.
            let verdict = self.verdict(generation);
            guarded(&mut panic, || self.detect(&mut s, floor, verdict));
            run.visited = s.visited.len() as u64;
            if panic.is_some() {
                self.undo(&mut s, &mut panic);
            } else if s.live < s.visited.len() {
                // USER CODE: finalizers, callbacks, drops.
                freed = self.dispose(&mut s, &mut run, &mut panic);
            }
        }

        self.end_epoch(generation);
        if generation == Generation::Old {
            self.trim_some(freed as u64);
        }
        let left = (self.live(), self.large.bytes());
        self.schedule.done(generation, run.visited, run.collected, left);
        self.refill_budget();
        self.counters.add(generation, run, start.elapsed());
        s.reset();
        self.scratch.set(Some(s));
        (freed, panic)
    }

    /// Finds the candidates of age ≤ `generation`, and few others. Those of a full collection are
    /// taken out of the bitmaps; the others are noted as one generation older.
    fn gather(&self, generation: Generation, to: &mut impl Candidates) {
        if generation == Generation::Old {
            let mut take = |pool: PoolRef| {
                for at in 0..WORDS {
                    to.add(pool, at, pool.take_candidates(at));
                }
            };
            // A pool may be in several lists; it is without candidates the second time.
            let mut young = self.fresh.take();
            young.append(&mut self.mid.borrow_mut());
            young.retain(|&pool| {
                let first = pool.is(IN_FRESH | IN_MID);
                pool.set_state(0, IN_FRESH | IN_MID);
                take(pool);
                first
            });
            self.old.drain(take);
            young.into_iter().for_each(|pool| self.release_if_empty(pool));
            self.large.take_candidates(|obj| to.add_one(obj));
            return;
        }
        let middle = generation == Generation::Middle;
        for pool in self.fresh.borrow_mut().drain(..) {
            for at in 0..WORDS {
                let bits = pool.age_candidates(at);
                if !middle {
                    to.add(pool, at, bits);
                }
            }
            if !pool.is(IN_MID) {
                self.mid.borrow_mut().push(pool);
            }
            pool.set_state(IN_MID, IN_FRESH);
        }
        if middle {
            let pools = self.mid.take();
            for &pool in &pools {
                let mut retired = 0;
                for at in 0..WORDS {
                    let bits = pool.retire_candidates(at);
                    retired |= bits;
                    to.add(pool, at, bits);
                }
                pool.set_state(0, IN_MID);
                if retired != 0 && !pool.is(IN_OLD) {
                    self.old.push(pool);
                }
            }
            pools.into_iter().for_each(|pool| self.release_if_empty(pool));
        }
        self.large.age_candidates(middle, |obj| to.add_one(obj));
    }

    /// After a panic in pass 1 or 2: nothing becomes garbage, what was a candidate is one again.
    /// USER CODE: drops.
    fn undo(&self, s: &mut Scratch, panic: &mut Option<Panic>) {
        self.spare(&s.visited);
        self.spare(&s.candidates);
        s.visited.clear();
        drain_outermost(self, panic);
    }

    /// Takes objects out of the set, alive and, if they are PURPLE, as candidates. Those that are
    /// not have been found to be live, or a panic hook has dropped their last handle, or lent the
    /// value for good (`get_mut`).
    ///
    /// (After a panic in `recheck` one may have no handle left, given up by its finalizer: nothing
    /// leads to it but the list of candidates, by which the next collection finds it.)
    fn spare(&self, objects: &[Obj]) {
        let birth = self.birth();
        for &obj in objects {
            let mark = obj.mark();
            if mark & VISITED != 0 {
                obj.set_mark(mark & (STEP - 1) & !VISITED | birth & !(STEP - 1));
            }
            if obj.word() & PURPLE != 0 {
                // SAFETY: of this heap, and allocated: what was dropped meanwhile was put off. No
                // leaf, which never was a candidate and did not become one meanwhile (`uninit`),
                // and not DEAD: nothing dies while edges are followed.
                unsafe { self.set_candidate_anew(obj) };
            }
        }
    }

    /// How many objects are garbage by a pass over the whole heap that ignores PURPLE. Leaves the
    /// heap as it was, but that objects with more handles than a mark word can count may be
    /// candidates.
    pub(crate) fn count_garbage_slowly(&self) -> usize {
        self.flush_caches();
        let mut s = Scratch::new();
        self.for_each(|obj| {
            if !obj.has(DEAD | LEAF) {
                s.candidates.push(obj);
            }
        });
        let marks: Vec<u32> = s.candidates.iter().map(|obj| obj.mark()).collect();
        self.detect(&mut s, 0, self.verdict(Generation::Young));
        let garbage = s.visited.len() - s.live;
        s.candidates.iter().zip(marks).for_each(|(obj, mark)| obj.set_mark(mark));
        garbage
    }

    /// After finalizers: whether the garbage, pinned by one count each, is garbage still. What is
    /// not leaves the set; the number of those. A panic spares all. USER CODE: `Trace`; after a
    /// panic, drops.
    pub(crate) fn recheck(&self, s: &mut Scratch, panic: &mut Option<Panic>) -> usize {
        let garbage = std::mem::take(&mut s.visited);
        for &obj in &garbage {
            // A candidate, as far as decrements and `get_mut` are concerned, and noted nowhere: see
            // `spare`.
            obj.set_word(obj.decrement() | PURPLE);
        }
        s.candidates.clone_from(&garbage);
        s.crowded.clear();
        s.unsure = false;
        // Every member is visited before the first is traced, so that none is discovered.
        let mut first = None;
        guarded(&mut first, || {
            let _tracing = Tracing::new(self);
            s.verify = Verify::new();
            s.visited.reserve(garbage.len());
            for &obj in &garbage {
                // SAFETY: room for all.
                unsafe { visit(s, obj, obj.mark(), 0) };
            }
            self.visit_closure(s, 0, false);
            rescue(s, self.verdict(Generation::Young));
        });
        debug_assert!(s.visited.len() == garbage.len());
        let (live, dead): (Vec<Obj>, Vec<Obj>) =
            garbage.iter().partition(|obj| first.is_some() || !obj.has(VISITED));
        self.spare(&live);
        (s.visited, s.live) = (dead, 0);
        if let Some(first) = first {
            match panic {
                Some(_) => discard(first),
                None => *panic = Some(first),
            }
            drain_outermost(self, panic);
        }
        live.len()
    }
}

/// Makes room in an empty list for as many objects as a heap has, on huge pages if that is
/// megabytes: page by page, and moved each time it doubles, the first touch of it takes as long as
/// the work on what stands there. What is not used is not touched.
fn make_room(list: &mut Vec<Obj>, objects: usize) {
    const MANY: usize = (4 << 20) / size_of::<Obj>();
    if objects >= MANY {
        // A little more, for edges that lead nowhere new.
        list.reserve(objects + objects / 64);
        let room = NonNull::from(list.spare_capacity_mut());
        OsPages::advise_huge_around(room.cast(), room.len() * size_of::<Obj>());
    }
}

/// Where [`Inner::gather`] puts what it finds.
trait Candidates {
    /// The objects of the set bits of word `at` of a pool's candidates.
    fn add(&mut self, pool: PoolRef, at: usize, bits: u64);
    /// A large one.
    fn add_one(&mut self, obj: Obj);
}

impl Candidates for Vec<Obj> {
    #[inline]
    fn add(&mut self, pool: PoolRef, at: usize, mut bits: u64) {
        if bits == 0 {
            return;
        }
        self.reserve(64);
        while bits != 0 {
            let index = at * 64 + bits.trailing_zeros() as usize;
            bits &= bits - 1;
            // SAFETY: only objects have candidate bits (pool invariant 4).
            let obj = unsafe { pool.object(index) };
            // SAFETY: room for a word of them.
            unsafe { push_within(self, obj) };
        }
    }

    fn add_one(&mut self, obj: Obj) {
        self.push(obj);
    }
}

/// Nowhere: they only grow older.
struct Unseen;

impl Candidates for Unseen {
    fn add(&mut self, _: PoolRef, _: usize, _: u64) {}

    fn add_one(&mut self, _: Obj) {}
}

/// Flags that ask for more than dropping.
pub(crate) const ODD: u32 = FINALIZER | SIDE;
const _: () = assert!(VISITED < STEP);
