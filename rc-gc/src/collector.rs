//! Finds garbage: trial deletion from candidates, in the style of CPython's collector.
//!
//! ```text
//!              candidates            1 visit: unexplained := count, of all they reach
//!                  │                   and one less for every edge from a visited object
//!     ┌────────────┼──────────┐
//!     ▼            ▼          ▼      2 rescue: unexplained > 0 ⇒ held from outside ⇒ live,
//!    (a:0) ⇄ (b:0)      (c:1) → (d:0)   and with it all it reaches: c, d
//!     garbage            live        3 the rest is garbage: a, b
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
//! 1. Only a full collection that found an object live clears PURPLE (or `get_mut`, which has it
//!    from its caller that the object is live now).
//! 2. A survivor of a younger collection stays a candidate; one that a finalizer resurrected too.
//! 3. After a panic while tracing, everything visited is a candidate again.
//!
//! Both passes trace the same objects with no user code between them that could change an edge.
//! Nothing here drops or frees: that is `garbage`.

use std::time::Instant;

use crate::Generation;
use crate::header::{
    DEAD, FINALIZER, ISOLATED, LEAF, LIVE, Obj, PURPLE, SIDE, STEP, STEPS, VISITED,
};
use crate::heap::Inner;
use crate::pools::{IN_FRESH, IN_MID, PoolRef, WORDS};
use crate::release::{Panic, discard, guarded, resume};
use crate::stats::GenerationStats;
use crate::trace::Tracer;
use crate::verify::Verify;

/// The collector's working memory, kept between collections.
pub(crate) struct Scratch {
    pub(crate) candidates: Vec<Obj>,
    /// The set, as far as reached; after `detect`, the garbage in it.
    pub(crate) visited: Vec<Obj>,
    stack: Vec<Obj>,
    /// Objects with more handles than `unexplained` can count.
    crowded: Vec<Obj>,
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
            stack: Vec::new(),
            crowded: Vec::new(),
            tracer: Tracer::new(),
            verify: Verify::new(),
            flags: 0,
        }
    }

    /// Empty, and not larger than a young collection needs.
    fn reset(&mut self) {
        const KEEP: usize = 1 << 16;
        for list in [&mut self.candidates, &mut self.visited, &mut self.stack, &mut self.crowded] {
            list.clear();
            list.shrink_to(KEEP);
        }
        self.tracer.clear();
        self.flags = 0;
    }
}

/// Objects whose edges are gathered together, and how far ahead lists are prefetched.
pub(crate) const GROUP: usize = 16;

/// Asks for the header of the object at `at`, if there is one.
#[inline(always)]
pub(crate) fn prefetch_at(list: &[Obj], at: usize) {
    if let Some(obj) = list.get(at) {
        obj.prefetch();
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
    /// another collection of the same heap, or in a heap that has ended.
    pub(crate) fn collect(&self, generation: Generation) -> usize {
        if self.collecting.get() || self.is_retired() {
            return 0;
        }
        self.collecting.set(true);
        let running = Running(self);
        self.schedule.waiting.set(false);
        self.refill_budget();
        let (freed, panic) = self.run(generation);
        drop(running);
        resume(panic);
        freed
    }

    /// A budget of allocations is spent: collects what is due, if this is the time.
    #[cold]
    pub(crate) fn budget_spent(&self) {
        self.schedule.spent(u64::from(self.schedule.budget()));
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
        let generation = self.schedule.due(self.live());
        if self.collecting.get() || !self.schedule.pass_over(generation) {
            return self.collect(generation);
        }
        self.schedule.waiting.set(false);
        self.gather(generation, &mut Vec::new());
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
            // USER CODE: implementations of `Trace`.
            guarded(&mut panic, || self.detect(&mut s, floor));
            run.visited = s.visited.len() as u64;
            if panic.is_some() {
                self.undo(&mut s);
            } else {
                self.settle(&mut s, generation);
                if !s.visited.is_empty() {
                    // USER CODE: finalizers, callbacks, drops.
                    freed = self.dispose(&mut s, &mut run, &mut panic);
                }
            }
        }

        self.end_epoch(generation);
        if generation == Generation::Old {
            self.trim_some();
        }
        self.schedule.done(generation, run.visited, run.collected, self.live());
        self.refill_budget();
        self.counters.add(generation, run, start.elapsed());
        s.reset();
        self.scratch.set(Some(s));
        (freed, panic)
    }

    /// Finds the candidates of age ≤ `generation`, and some others. Those of a full collection are taken out of the
    /// bitmaps; others become, or stay, stale.
    fn gather(&self, generation: Generation, to: &mut Vec<Obj>) {
        if generation == Generation::Old {
            self.fresh.borrow_mut().clear();
            self.mid.borrow_mut().clear();
            self.for_each_pool(|pool| {
                pool.set_state(0, IN_FRESH | IN_MID);
                for at in 0..WORDS {
                    objects(pool, at, pool.take_candidates(at), |obj| to.push(obj));
                }
            });
            self.large.take_candidates(to);
            return;
        }
        let mut push = |obj: Obj| to.push(obj);
        let middle = generation == Generation::Middle;
        for pool in self.fresh.borrow_mut().drain(..) {
            for at in 0..WORDS {
                let bits = pool.age_candidates(at);
                if !middle {
                    objects(pool, at, bits, &mut push);
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
                for at in 0..WORDS {
                    objects(pool, at, pool.stale_candidates(at), &mut push);
                }
                pool.set_state(0, IN_MID);
            }
            pools.into_iter().for_each(|pool| self.release_if_empty(pool));
        }
        self.large.for_each_candidate(push);
    }

    /// Passes 1 and 2. Afterwards what is live in the set has LIVE.
    fn detect(&self, s: &mut Scratch, floor: u32) {
        #[cfg(feature = "verify")]
        let _tracing = crate::verify::tracing::Guard::new();
        s.verify = Verify::new();
        let unexplained = self.visit_closure(s, floor, true);
        if unexplained != 0 || !s.crowded.is_empty() {
            rescue(s);
        }
    }

    /// Pass 1: visits the candidates and all they reach in the set; the handles left unexplained.
    ///
    /// Works in groups: the edges of up to [`GROUP`] objects are gathered, and prefetched, before the
    /// first is followed. A large heap's headers are in no cache; this waits for 16 at a time.
    ///
    /// `discover` is whether objects not visited yet join the set when reached.
    fn visit_closure(&self, s: &mut Scratch, floor: u32, discover: bool) -> u64 {
        let floor = floor * STEP;
        let (mut unexplained, mut next, mut fed) = (0u64, 0, 0);
        let mut tracer = std::mem::replace(&mut s.tracer, Tracer::new());
        loop {
            if next == s.visited.len() {
                let end = (fed + GROUP).min(s.candidates.len());
                if fed == end {
                    break;
                }
                for at in fed..end {
                    prefetch_at(&s.candidates, at + GROUP);
                    let candidate = s.candidates[at];
                    let mark = candidate.mark();
                    if mark & (VISITED | DEAD) == 0 && mark >= floor {
                        unexplained += visit(s, candidate, 0);
                    }
                }
                fed = end;
            }
            let end = (next + GROUP).min(s.visited.len());
            tracer.clear();
            let mut seen = 0;
            for at in next..end {
                // SAFETY: alive: a candidate or reached from one, and not DEAD. USER CODE.
                unsafe { s.visited[at].trace(&mut tracer) };
                if cfg!(feature = "verify") {
                    s.verify.first(s.visited[at], &tracer.handles()[seen..]);
                    seen = tracer.handles().len();
                }
            }
            next = end;
            for &target in tracer.edges() {
                let mark = target.mark();
                if mark & VISITED != 0 {
                    Verify::edge(target, mark / STEP);
                    target.set_mark(mark.wrapping_sub(STEP));
                    unexplained = unexplained.wrapping_sub(1);
                } else if discover
                    && mark & (LEAF | DEAD) == 0
                    && mark >= floor
                    && self.owns(target)
                {
                    unexplained += visit(s, target, 1);
                }
            }
        }
        s.tracer = tracer;
        for obj in &s.crowded {
            obj.set_mark(obj.mark() | (STEPS * STEP));
        }
        unexplained
    }

    /// Pass 3: what is live leaves the set, as old as the present epoch.
    fn settle(&self, s: &mut Scratch, generation: Generation) {
        let epoch = self.epoch() * STEP;
        let clear = if generation == Generation::Old { PURPLE } else { 0 };
        s.visited.retain(|obj| {
            let mark = obj.mark();
            if mark & LIVE == 0 {
                return true;
            }
            obj.set_mark(mark & (STEP - 1) & !(VISITED | LIVE) | epoch);
            obj.set_word(obj.word() & !clear);
            false
        });
    }

    /// After a panic in pass 1 or 2: nothing was judged, everything is a candidate again.
    fn undo(&self, s: &mut Scratch) {
        self.spare(&s.visited);
        s.visited.clear();
        for &obj in s.candidates.iter().filter(|obj| !obj.has(DEAD)) {
            // SAFETY: a candidate of this heap that nobody could drop meanwhile.
            unsafe { self.set_candidate(obj) };
        }
    }

    /// Takes objects out of the set, alive and as candidates. (After a panic in `recheck` one may have no handle left,
    /// given up by its finalizer: nothing leads to it but the list of candidates, by which the next collection finds it.)
    fn spare(&self, visited: &[Obj]) {
        let birth = self.birth();
        for &obj in visited {
            let mark = obj.mark();
            obj.set_mark(mark & (STEP - 1) & !(VISITED | LIVE) | birth & !(STEP - 1));
            // SAFETY: of this heap, and alive.
            unsafe { self.set_candidate(obj) };
        }
    }

    /// How many objects are garbage by a pass over the whole heap that ignores PURPLE. Leaves the
    /// heap as it was.
    pub(crate) fn count_garbage_slowly(&self) -> usize {
        self.flush_caches();
        let mut s = Scratch::new();
        self.for_each(|obj| {
            if !obj.has(DEAD | LEAF) {
                s.candidates.push(obj);
            }
        });
        let marks: Vec<u32> = s.candidates.iter().map(|obj| obj.mark()).collect();
        self.detect(&mut s, 0);
        let garbage = s.visited.iter().filter(|obj| !obj.has(LIVE)).count();
        s.candidates.iter().zip(marks).for_each(|(obj, mark)| obj.set_mark(mark));
        garbage
    }

    /// After finalizers: whether the garbage, pinned by one count each, is garbage still. What is
    /// not leaves the set; the number of those. A panic spares all.
    pub(crate) fn recheck(&self, s: &mut Scratch, panic: &mut Option<Panic>) -> usize {
        let garbage = std::mem::take(&mut s.visited);
        for &obj in &garbage {
            obj.decrement();
        }
        s.candidates.clone_from(&garbage);
        s.crowded.clear();
        // Every member is visited before the first is traced, so that none is discovered.
        let mut first = None;
        guarded(&mut first, || {
            #[cfg(feature = "verify")]
            let _tracing = crate::verify::tracing::Guard::new();
            s.verify = Verify::new();
            for &obj in &garbage {
                visit(s, obj, 0);
            }
            self.visit_closure(s, 0, false);
            rescue(s);
        });
        debug_assert!(s.visited.len() == garbage.len());
        let (live, dead): (Vec<Obj>, Vec<Obj>) =
            garbage.iter().partition(|obj| first.is_some() || obj.has(LIVE));
        self.spare(&live);
        s.visited = dead;
        match (panic.is_some(), first) {
            (true, Some(later)) => discard(later),
            (false, first) => *panic = first,
            (true, None) => {}
        }
        live.len()
    }
}

/// Pass 2: marks what is held from outside, and all it reaches, LIVE.
fn rescue(s: &mut Scratch) {
    for at in 0..s.visited.len() {
        let root = s.visited[at];
        if root.mark() < STEP || root.has(LIVE) {
            continue;
        }
        root.set(LIVE);
        s.stack.push(root);
        while let Some(obj) = s.stack.pop() {
            s.tracer.clear();
            // SAFETY: in the set, so alive. USER CODE.
            unsafe { obj.trace(&mut s.tracer) };
            s.verify.second(obj, s.tracer.handles());
            for &target in s.tracer.edges() {
                let mark = target.mark();
                if mark & (VISITED | LIVE) == VISITED {
                    target.set_mark(mark | LIVE);
                    s.stack.push(target);
                }
            }
        }
    }
}

/// Adds an object to the set, with `explained` of its handles explained; how many are left.
#[inline(always)]
fn visit(s: &mut Scratch, obj: Obj, explained: u32) -> u64 {
    let count = obj.count();
    let mark = obj.mark();
    s.flags |= mark;
    s.visited.push(obj);
    if count >= STEPS {
        // More than can be counted down: taken as held from outside, see `visit_closure`.
        s.crowded.push(obj);
    }
    let unexplained = count.min(STEPS).saturating_sub(explained);
    obj.set_mark(mark & (STEP - 1) | VISITED | (unexplained * STEP));
    u64::from(unexplained)
}

/// Calls `f` with the objects of the set bits of a word.
fn objects(pool: PoolRef, at: usize, mut bits: u64, mut f: impl FnMut(Obj)) {
    while bits != 0 {
        let index = at * 64 + bits.trailing_zeros() as usize;
        bits &= bits - 1;
        // SAFETY: only objects have candidate bits (pool invariant 4).
        f(unsafe { pool.object(index) });
    }
}

/// Flags that ask for more than dropping.
pub(crate) const ODD: u32 = FINALIZER | SIDE;
const _: () = assert!(ISOLATED < STEP && LIVE < STEP);
