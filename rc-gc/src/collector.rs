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
    AHEAD, DEAD, FINALIZER, ISOLATED, LEAF, Obj, PURPLE, SIDE, STEP, STEPS, VISITED,
};
use crate::heap::Inner;
use crate::pools::{IN_FRESH, IN_MID, IN_OLD, PoolRef, WORDS};
use crate::release::{Panic, discard, guarded, resume};
use crate::stats::GenerationStats;
use crate::trace::Tracer;
use crate::verify::Verify;

/// The collector's working memory, kept between collections.
pub(crate) struct Scratch {
    pub(crate) candidates: Vec<Obj>,
    /// The set, as far as reached; after `detect` the garbage is what is VISITED in it.
    pub(crate) visited: Vec<Obj>,
    /// How many others are there.
    pub(crate) live: usize,
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
            live: 0,
            stack: Vec::new(),
            crowded: Vec::new(),
            tracer: Tracer::new(),
            verify: Verify::new(),
            flags: 0,
        }
    }

    /// Whether a heap without objects may keep it.
    pub(crate) fn is_small(&self) -> bool {
        self.candidates.capacity().max(self.visited.capacity()) <= 1 << 12
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
        self.live = 0;
    }
}

/// Objects whose edges are gathered together: their headers are asked for before the first is looked at.
const GROUP: usize = AHEAD;

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
            // USER CODE: implementations of `Trace`.
            let verdict = self.verdict(generation);
            guarded(&mut panic, || self.detect(&mut s, floor, verdict));
            run.visited = s.visited.len() as u64;
            if panic.is_some() {
                self.undo(&mut s);
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

    /// Finds the candidates of age ≤ `generation`, and few others. Those of a full collection are taken out of the
    /// bitmaps; the others are noted as one generation older.
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

    /// What becomes of objects that a collection of `generation` finds to be live.
    fn verdict(&self, generation: Generation) -> Verdict {
        let clear = if generation == Generation::Old { PURPLE } else { 0 };
        Verdict { epoch: self.epoch() * STEP, clear }
    }

    /// Passes 1 and 2. What is live is not VISITED afterwards, and counted; the garbage is VISITED.
    fn detect(&self, s: &mut Scratch, floor: u32, verdict: Verdict) {
        #[cfg(feature = "verify")]
        let _tracing = crate::verify::tracing::Guard::new();
        s.verify = Verify::new();
        let unexplained = self.visit_closure(s, floor, true);
        if unexplained != 0 || !s.crowded.is_empty() {
            s.live = rescue(s, verdict);
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
        let isolated = self.birth() & ISOLATED;
        let (mut unexplained, mut next, mut fed) = (0u64, 0, 0);
        let mut tracer = std::mem::replace(&mut s.tracer, Tracer::new());
        loop {
            let waiting = s.visited.len() - next;
            if waiting < GROUP && fed < s.candidates.len() {
                s.visited.reserve(GROUP);
                let end = s.candidates.len().min(fed + GROUP - waiting);
                let later = &s.candidates[end.min(s.candidates.len())..];
                later.iter().take(GROUP).for_each(|obj| obj.prefetch());
                for at in fed..end {
                    let candidate = s.candidates[at];
                    let mark = candidate.mark();
                    if mark & (VISITED | DEAD) == 0 && mark >= floor {
                        // SAFETY: room for a group.
                        unexplained += unsafe { visit(s, candidate, mark, 0) };
                    }
                }
                fed = end;
            } else if waiting == 0 {
                break;
            }
            let end = (next + GROUP).min(s.visited.len());
            tracer.clear();
            while next < end {
                // SAFETY: alive: candidates or reached from one, and not DEAD. USER CODE.
                next += unsafe { trace(&s.visited[next..end], &mut tracer, &mut s.verify) };
            }
            s.visited.reserve(tracer.edges().len());
            for &target in tracer.edges() {
                let mark = target.mark();
                if mark & VISITED != 0 {
                    Verify::edge(target, mark / STEP);
                    target.set_mark(mark.wrapping_sub(STEP));
                    unexplained = unexplained.wrapping_sub(1);
                } else if discover
                    && mark & (LEAF | DEAD) == 0
                    && mark >= floor
                    // A thread has one heap without ISOLATED, and all objects it can reach are its own.
                    && ((mark & ISOLATED) | isolated == 0 || self.owns(target))
                {
                    // SAFETY: room for one for each edge.
                    unexplained += unsafe { visit(s, target, mark, 1) };
                }
            }
        }
        s.tracer = tracer;
        for obj in &s.crowded {
            obj.set_mark(obj.mark() | (STEPS * STEP));
        }
        unexplained
    }

    /// After a panic in pass 1 or 2: nothing was judged, everything is a candidate again.
    fn undo(&self, s: &mut Scratch) {
        self.spare(&s.visited);
        s.visited.clear();
        for &obj in s.candidates.iter().filter(|obj| !obj.has(DEAD)) {
            // SAFETY: a candidate of this heap that nobody could drop meanwhile.
            unsafe { self.set_candidate_anew(obj) };
        }
    }

    /// Takes objects out of the set, alive and as candidates. (After a panic in `recheck` one may have no handle left,
    /// given up by its finalizer: nothing leads to it but the list of candidates, by which the next collection finds it.)
    fn spare(&self, visited: &[Obj]) {
        let birth = self.birth();
        for &obj in visited {
            let mark = obj.mark();
            obj.set_mark(mark & (STEP - 1) & !VISITED | birth & !(STEP - 1));
            // SAFETY: of this heap, and alive.
            unsafe { self.set_candidate_anew(obj) };
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
        self.detect(&mut s, 0, self.verdict(Generation::Young));
        let garbage = s.visited.len() - s.live;
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
        match (panic.is_some(), first) {
            (true, Some(later)) => discard(later),
            (false, first) => *panic = first,
            (true, None) => {}
        }
        live.len()
    }
}

/// What becomes of an object that is found to be live: it is as old as the present epoch, and if the collection is a
/// full one, no candidate.
#[derive(Clone, Copy)]
struct Verdict {
    epoch: u32,
    clear: u32,
}

impl Verdict {
    #[inline(always)]
    fn live(self, obj: Obj, mark: u32) {
        obj.set_mark(mark & (STEP - 1) & !VISITED | self.epoch);
        obj.set_word(obj.word() & !self.clear);
    }
}

/// Pass 2: takes what is held from outside, and all it reaches, out of the set; how many. In groups, as pass 1, but the
/// last found first: what leads far waits on the stack, and the stack stays short.
fn rescue(s: &mut Scratch, verdict: Verdict) -> usize {
    let (mut at, mut live) = (0, 0);
    loop {
        while s.stack.len() < GROUP && at < s.visited.len() {
            if let Some(later) = s.visited.get(at + GROUP) {
                later.prefetch();
            }
            let root = s.visited[at];
            at += 1;
            let mark = root.mark();
            if mark & VISITED != 0 && mark >= STEP {
                verdict.live(root, mark);
                s.stack.push(root);
            }
        }
        let from = s.stack.len().saturating_sub(GROUP);
        if from == s.stack.len() {
            return live;
        }
        live += s.stack.len() - from;
        s.tracer.clear();
        let mut next = from;
        while next < s.stack.len() {
            // SAFETY: was in the set, so alive. USER CODE.
            next += unsafe { trace_again(&s.stack[next..], &mut s.tracer, &s.verify) };
        }
        s.stack.truncate(from);
        s.stack.reserve(s.tracer.edges().len());
        for &target in s.tracer.edges() {
            let mark = target.mark();
            if mark & VISITED != 0 {
                verdict.live(target, mark);
                // SAFETY: room for one for each edge.
                unsafe { push_within(&mut s.stack, target) };
            }
        }
    }
}

/// Reports the edges of objects at the beginning of a list; of how many.
///
/// # Safety
/// The list is not empty, and its objects are alive.
#[inline(always)]
unsafe fn trace(objects: &[Obj], tracer: &mut Tracer, verify: &mut Verify) -> usize {
    let trace = objects[0].vtable().trace;
    if cfg!(feature = "verify") {
        let seen = tracer.handles().len();
        // SAFETY: the vtable is of the object's type; alive by contract. USER CODE.
        let done = unsafe { trace(&objects[..1], tracer) };
        verify.first(objects[0], &tracer.handles()[seen..]);
        return done;
    }
    // SAFETY: as above; those that are dealt with too have the same vtable. USER CODE.
    unsafe { trace(objects, tracer) }
}

/// `trace` for pass 2.
///
/// # Safety
/// As for `trace`.
#[inline(always)]
unsafe fn trace_again(objects: &[Obj], tracer: &mut Tracer, verify: &Verify) -> usize {
    let trace = objects[0].vtable().trace;
    if cfg!(feature = "verify") {
        let seen = tracer.handles().len();
        // SAFETY: as in `trace`. USER CODE.
        let done = unsafe { trace(&objects[..1], tracer) };
        verify.second(objects[0], &tracer.handles()[seen..]);
        return done;
    }
    // SAFETY: as in `trace`. USER CODE.
    unsafe { trace(objects, tracer) }
}

/// Adds an object with mark word `mark` to the set, with `explained` of its handles explained; how many are left.
///
/// # Safety
/// `s.visited` has room for one more.
#[inline(always)]
unsafe fn visit(s: &mut Scratch, obj: Obj, mark: u32, explained: u32) -> u64 {
    let count = obj.count();
    s.flags |= mark;
    // SAFETY: by contract.
    unsafe { push_within(&mut s.visited, obj) };
    let mut unexplained = count.saturating_sub(explained);
    if count >= STEPS {
        // More than can be counted down: taken as held from outside, see `visit_closure`.
        s.crowded.push(obj);
        unexplained = STEPS - 1;
    }
    obj.set_mark(mark & (STEP - 1) | VISITED | (unexplained * STEP));
    u64::from(unexplained)
}

/// Adds to a list that need not grow.
///
/// # Safety
/// Its capacity is larger than its length.
#[inline(always)]
unsafe fn push_within(list: &mut Vec<Obj>, obj: Obj) {
    let len = list.len();
    debug_assert!(len < list.capacity());
    // SAFETY: inside the capacity by contract.
    let at = unsafe { list.as_mut_ptr().add(len) };
    // SAFETY: the list's, and nothing is there.
    unsafe { at.write(obj) };
    // SAFETY: the element was just written.
    unsafe { list.set_len(len + 1) };
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
