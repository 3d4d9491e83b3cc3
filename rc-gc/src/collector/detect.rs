//! The two passes that tell live objects from garbage, and the set they work on.
//!
//! ```text
//! candidates ──16 at a time──► visited ──16 at a time──► trace: edges, prefetched ──► followed
//!                                 ▲                                                      │ in the set, not visited yet
//!                                 └──────────────────────────────────────────────────────┘
//! ```
//!
//! Candidates are fed as soon as fewer than 16 objects wait, so that a chain is not followed one
//! object at a time. Objects of one type that follow one another are traced in one call
//! (`Vtable::trace`).
//!
//! What an object's mark word says of it: VISITED, garbage unless found to be live; its upper bits
//! then count the handles not yet explained. A live one is not VISITED after pass 2, and as old as
//! the present epoch.

use super::{Scratch, Tracing};
use crate::Generation;
use crate::header::{AHEAD, DEAD, IMMORTAL, ISOLATED, LEAF, Obj, PURPLE, STEP, STEPS, VISITED};
use crate::heap::Inner;
use crate::trace::Tracer;
use crate::verify::Verify;

/// Objects whose edges are gathered together: their headers are asked for before the first is looked at.
const GROUP: usize = AHEAD;

impl Inner {
    /// What becomes of objects that a collection of `generation` finds to be live.
    pub(super) fn verdict(&self, generation: Generation) -> Verdict {
        let clear = if generation == Generation::Old { PURPLE } else { 0 };
        Verdict { epoch: self.epoch() * STEP, clear }
    }

    /// Passes 1 and 2. What is live is not VISITED afterwards, and counted; the garbage is VISITED.
    pub(super) fn detect(&self, s: &mut Scratch, floor: u32, verdict: Verdict) {
        let _tracing = Tracing::new(self);
        s.verify = Verify::new();
        let unexplained = self.visit_closure(s, floor, true);
        if unexplained != 0 || !s.crowded.is_empty() {
            s.live = rescue(s, verdict);
        }
        if s.unsure {
            let forgotten = |obj: &&Obj| !obj.has(VISITED) && obj.word() & IMMORTAL == 0;
            for &obj in s.crowded.iter().filter(forgotten) {
                // SAFETY: of this heap, in the set until now, and so neither LEAF nor DEAD.
                unsafe { self.set_candidate_anew(obj) };
            }
        }
    }

    /// Pass 1: visits the candidates and all they reach in the set; the handles left unexplained.
    ///
    /// Works in groups: the edges of up to [`GROUP`] objects are gathered, and prefetched, before the
    /// first is followed. A large heap's headers are in no cache; this waits for 16 at a time.
    ///
    /// `discover` is whether objects not visited yet join the set when reached.
    pub(super) fn visit_closure(&self, s: &mut Scratch, floor: u32, discover: bool) -> u64 {
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
        if !s.crowded.is_empty() {
            settle(s, unexplained);
        }
        unexplained
    }
}

/// After pass 1, sees to objects with more handles than a mark word can count: it has the remainder
/// of a division by 2^24. The sum over all objects is known without such a loss; so if the
/// remainders are all that is left, they are right. Else one of them at least is held by 2^24
/// handles or more, and as it is not known which, all are taken as live. So are they if the count
/// of one means nothing.
#[cold]
fn settle(s: &mut Scratch, unexplained: u64) {
    let counted: u64 = s.visited.iter().map(|obj| u64::from(obj.mark() / STEP)).sum();
    s.unsure = counted != unexplained || s.crowded.iter().any(|obj| obj.word() & IMMORTAL != 0);
    if s.unsure {
        s.crowded.iter().for_each(|obj| obj.set_mark(obj.mark() | (STEPS * STEP)));
    }
}

/// What becomes of an object that is found to be live: it is as old as the present epoch, and if
/// the collection is a full one, no candidate.
#[derive(Clone, Copy)]
pub(super) struct Verdict {
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

/// Pass 2: takes what is held from outside, and all it reaches, out of the set; how many. In
/// groups, as pass 1, but the last found first: what leads far waits on the stack, and the stack
/// stays short.
pub(super) fn rescue(s: &mut Scratch, verdict: Verdict) -> usize {
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

/// Adds an object with mark word `mark` to the set, with `explained` of its handles explained; how
/// many are left.
///
/// # Safety
/// `s.visited` has room for one more.
#[inline(always)]
pub(super) unsafe fn visit(s: &mut Scratch, obj: Obj, mark: u32, explained: u32) -> u64 {
    let count = obj.count();
    s.flags |= mark;
    // SAFETY: by contract.
    unsafe { push_within(&mut s.visited, obj) };
    let unexplained = count.saturating_sub(explained);
    if count >= STEPS {
        // More than fits; see `settle`.
        s.crowded.push(obj);
    }
    obj.set_mark(mark & (STEP - 1) | VISITED | unexplained.wrapping_mul(STEP));
    u64::from(unexplained)
}

/// Adds to a list that need not grow.
///
/// # Safety
/// Its capacity is larger than its length.
#[inline(always)]
pub(super) unsafe fn push_within(list: &mut Vec<Obj>, obj: Obj) {
    let len = list.len();
    debug_assert!(len < list.capacity());
    // SAFETY: inside the capacity by contract.
    let at = unsafe { list.as_mut_ptr().add(len) };
    // SAFETY: the list's, and nothing is there.
    unsafe { at.write(obj) };
    // SAFETY: the element was just written.
    unsafe { list.set_len(len + 1) };
}
