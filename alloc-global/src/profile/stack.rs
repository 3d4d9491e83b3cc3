//! Call stacks: by frame pointers where the program keeps them, else by unwind rules, else by the unwinder.
//!
//! ```text
//! frame pointer -> | caller's frame pointer | return address |      both inside the thread's stack, 8 bytes each
//!                          |
//!                          +-> | caller's frame pointer | return address |   further up, at least 16 bytes
//! ```
//!
//! A probe, once per process, calls a chain of functions of this crate and looks whether the walk
//! finds them: the flag that keeps frame pointers (`-C force-frame-pointers=yes`) holds for all
//! crates of a build, and the standard library has them. With frame pointers a stack costs some 15
//! instructions a frame, by rules (`rules`) some 30; the unwinder costs microseconds.
//!
//! Invariants:
//!
//! 1. The walk reads only words that lie wholly between the frame it starts from and the top of the
//!    thread's stack.
//! 2. Frame pointers grow strictly, so the walk ends; it keeps at most `limit` frames.
//! 3. What is kept are return addresses; a snapshot shows them less one: addresses inside the call.
//!
//! A frame pointer outside of the stack ends it: above stands code that keeps none, such as the C
//! library's start of a program. One inside that is not aligned or does not grow is corrupt, and is
//! counted as such. Code without frame pointers in the middle of a stack cuts off what called it,
//! unseen. Frames of the allocator itself are kept: they are left out by their names, when those
//! are known.

use super::local::Local;
#[cfg(target_os = "linux")]
use alloc_core::keeping_errno;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
pub(crate) use machine::frame_pointer;
use machine::{read_frame, stack_pointer};

mod machine;
mod probe;
#[cfg(all(
    feature = "report",
    target_os = "linux",
    target_env = "gnu",
    target_arch = "x86_64",
    not(miri)
))]
mod rules;
#[cfg(not(all(
    feature = "report",
    target_os = "linux",
    target_env = "gnu",
    target_arch = "x86_64",
    not(miri)
)))]
#[path = "stack/no_rules.rs"]
mod rules;

pub(crate) use rules::{bytes as rule_bytes, bytes_wanted as rule_bytes_wanted, prepare};

/// The most frames of a stack.
pub(crate) const MOST_FRAMES: usize = 64;

/// How many frames are kept, the allocator's own among them: set by settings.
static DEPTH: AtomicUsize = AtomicUsize::new(32);

/// Frames kept beyond what was asked for: the innermost are the allocator's own, which nobody means.
const OWN_FRAMES: usize = 6;

/// The most frames that can be asked for.
pub(crate) const MOST_ASKED: usize = MOST_FRAMES - OWN_FRAMES;

/// Sets how many frames of a stack are kept, from 1 to 58 (more is taken for 58), for what is
/// recorded from now on; 26 unless set. Those of the allocator itself are not counted. The same as
/// the number in `POOLALLOC_TRACE`.
///
/// Call sites whose stacks were cut at different depths are different sites: set it before the
/// profile is switched on.
///
/// ```
/// alloc_global::limit_frames(16);
/// alloc_global::start_tracing();
/// # alloc_global::stop_profiling();
/// ```
pub fn limit_frames(frames: usize) {
    // Relaxed: a value of its own.
    DEPTH.store(frames.clamp(1, MOST_ASKED) + OWN_FRAMES, Ordering::Relaxed);
}

/// How a walk ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// At the end of the chain.
    Whole,
    /// At the bound on frames.
    Cut,
    /// At a frame pointer that cannot be one.
    Corrupt,
}

/// A captured stack, and a hash of its addresses.
pub(crate) struct Stack {
    frames: [MaybeUninit<usize>; MOST_FRAMES],
    len: usize,
    limit: usize,
    pub(crate) hash: u64,
    pub(crate) end: End,
}

/// The odd number next to 2^64 divided by the golden ratio.
pub(super) const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// Mixes a word into a hash.
#[inline]
pub(crate) fn mix(hash: u64, word: u64) -> u64 {
    (hash.rotate_left(5) ^ word).wrapping_mul(GOLDEN)
}

impl Stack {
    #[inline]
    pub(crate) fn new(limit: usize) -> Stack {
        let frames = [const { MaybeUninit::uninit() }; MOST_FRAMES];
        Stack { frames, len: 0, limit: limit.min(MOST_FRAMES), hash: 0, end: End::Whole }
    }

    /// An empty stack with as much room as settings say.
    #[inline]
    pub(crate) fn empty() -> Stack {
        // Relaxed: a value of its own.
        Stack::new(DEPTH.load(Ordering::Relaxed))
    }

    /// Keeps an address; `false`, and the stack is cut, where there is no room.
    #[inline]
    pub(crate) fn push(&mut self, address: usize) -> bool {
        if self.len >= self.limit {
            self.end = End::Cut;
            return false;
        }
        let Some(slot) = self.frames.get_mut(self.len) else { return false };
        slot.write(address);
        self.len += 1;
        self.hash = mix(self.hash, address as u64);
        true
    }

    /// Ends a walk: `next` is the address that would have come after. Some chains end with a frame
    /// without one.
    #[inline]
    fn strip(&mut self, next: usize) {
        if self.frames().last() == Some(&0) {
            self.len -= 1;
            self.end = End::Whole;
        }
        if self.end == End::Cut && next == 0 {
            self.end = End::Whole;
        }
    }

    /// The return addresses, the innermost first.
    #[inline]
    pub(crate) fn frames(&self) -> &[usize] {
        let frames = self.frames.as_ptr().cast::<usize>();
        // SAFETY: `push` wrote the first `len`, which is at most the length of the array.
        unsafe { core::slice::from_raw_parts(frames, self.len) }
    }
}

/// Where a thread's stack lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Bounds {
    low: usize,
    high: usize,
}

impl Bounds {
    /// Not looked up yet.
    pub(crate) const UNKNOWN: Bounds = Bounds { low: 0, high: 0 };
    /// Looked up in vain: nothing lies inside.
    const NONE: Bounds = Bounds { low: usize::MAX, high: 0 };

    /// Whether a frame's two words at `fp` lie inside.
    #[inline]
    fn holds(self, fp: usize) -> bool {
        fp >= self.low && fp <= self.high
    }

    /// How a walk ends whose frame at `at` names one at `next` that it cannot follow.
    #[cold]
    fn end_at(self, at: usize, next: usize) -> End {
        if self.holds(next) || next == at { End::Corrupt } else { End::Whole }
    }

    /// Of a stack from `low` to `end`, for frames of two words.
    fn of(low: usize, end: usize) -> Bounds {
        end.checked_sub(2 * size_of::<usize>()).map_or(Bounds::NONE, |high| Bounds { low, high })
    }

    /// Those of the calling thread, from the C library. It may allocate with `malloc` and read
    /// `/proc/self/maps`, so this is called once per thread, and while the thread is untracked.
    #[cold]
    fn look_up() -> Bounds {
        #[cfg(target_os = "linux")]
        {
            keeping_errno(Bounds::ask).unwrap_or(Bounds::NONE)
        }
        #[cfg(not(target_os = "linux"))]
        Bounds::NONE
    }

    #[cfg(target_os = "linux")]
    fn ask() -> Option<Bounds> {
        let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
        // SAFETY: always callable.
        let thread = unsafe { libc::pthread_self() };
        // SAFETY: writes the attributes, or returns an error.
        if unsafe { libc::pthread_getattr_np(thread, attributes.as_mut_ptr()) } != 0 {
            return None;
        }
        let (mut start, mut len) = (core::ptr::null_mut(), 0);
        // SAFETY: written above.
        let got = unsafe {
            libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut start, &raw mut len)
        };
        // SAFETY: written above, not used again.
        unsafe { libc::pthread_attr_destroy(attributes.as_mut_ptr()) };
        let low = start.addr();
        if got == 0 { Some(Bounds::of(low, low.checked_add(len)?)) } else { None }
    }
}

impl Local {
    #[inline]
    fn stack_bounds(&self) -> Bounds {
        let bounds = self.bounds.get();
        if bounds != Bounds::UNKNOWN {
            return bounds;
        }
        let bounds = self.untracked(Bounds::look_up);
        self.bounds.set(bounds);
        bounds
    }
}

/// Follows frame pointers from `fp` on, into an empty stack.
///
/// # Safety
///
/// All words from the greater of `fp` and the lower bound to the upper bound can be read.
#[inline]
unsafe fn walk(fp: usize, bounds: Bounds, stack: &mut Stack) {
    const FRAME: usize = size_of::<[usize; 2]>();
    const ALIGN: usize = align_of::<usize>() - 1;
    if !bounds.holds(fp) {
        return;
    }
    // SAFETY: aligned, and inside the stack by the caller's promise and the tests below.
    let read = |at: usize| unsafe { read_frame(at) };
    // In registers, and written back once: this is the longest loop of an event.
    let (mut at, mut len, mut hash) = (fp, 0, 0);
    let mut end = if fp & ALIGN == 0 { End::Cut } else { End::Corrupt };
    let room = if end == End::Cut { stack.limit } else { 0 };
    for slot in stack.frames.iter_mut().take(room) {
        let [next, address] = read(at);
        slot.write(address);
        hash = mix(hash, address as u64);
        len += 1;
        if next < at + FRAME || next > bounds.high || next & ALIGN != 0 {
            end = bounds.end_at(at, next);
            break;
        }
        at = next;
    }
    (stack.len, stack.hash, stack.end) = (len, hash, end);
    stack.strip(if end == End::Cut { read(at)[1] } else { 0 });
}

/// Whether the probe found frame pointers.
#[inline]
fn has_frame_pointers(local: &Local) -> bool {
    // Relaxed: a value of its own, the same whoever writes it.
    match PROBED.load(Ordering::Relaxed) {
        0 => first_probe(local),
        probed => probed == 2,
    }
}

/// 0: not probed; 1: it did not; 2: it did.
static PROBED: AtomicU8 = AtomicU8::new(0);

#[cold]
#[inline(never)]
fn first_probe(local: &Local) -> bool {
    let found = probe::finds_callers(local.stack_bounds());
    // Relaxed: as above.
    PROBED.store(1 + found as u8, Ordering::Relaxed);
    found
}

/// Captures the stack of the calling thread, from the frame at `fp` on, into an empty stack. Where
/// only the unwinder can tell, and may not be asked, it stays empty.
#[inline]
pub(crate) fn capture(local: &Local, fp: usize, stack: &mut Stack, may_unwind: bool) {
    if has_frame_pointers(local) {
        let mut bounds = local.stack_bounds();
        let here = stack_pointer();
        if bounds.holds(here) && fp > here {
            bounds.low = here;
            // SAFETY: `here` is in use, so all from there to the top of the stack is mapped.
            unsafe { walk(fp, bounds, stack) };
            return;
        }
    }
    if !rules::capture(rules::registers(), local.stack_bounds(), stack) && may_unwind {
        local.untracked(|| unwind(stack));
    }
}

/// By the C library's unwinder: no frame pointers, and no rules, or a stack that is not the
/// thread's own (a coroutine's).
#[cold]
#[inline(never)]
fn unwind(stack: &mut Stack) {
    #[cfg(feature = "report")]
    {
        let here = stack_pointer();
        let keep = |frame: &backtrace::Frame| {
            // Frames below this one are those of the unwinder.
            if frame.sp().addr() <= here {
                return true;
            }
            match frame.ip().addr() {
                0 => false,
                address => stack.push(address),
            }
        };
        // SAFETY: the lock it does without guards the search for symbols on other systems; nothing
        // here does that.
        unsafe { backtrace::trace_unsynchronized(keep) };
    }
    #[cfg(not(feature = "report"))]
    let _ = stack;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::local;

    /// A stack made of words: `(frame pointer as an index, or a raw value; return address)` at the
    /// given places.
    fn walked(words: &[usize], first: usize, limit: usize) -> (Vec<usize>, End) {
        let start = words.as_ptr().expose_provenance();
        let bounds = Bounds::of(start, start + size_of_val(words));
        let mut stack = Stack::new(limit);
        // SAFETY: the bounds are those of the slice.
        unsafe { walk(start.wrapping_add(first), bounds, &mut stack) };
        (stack.frames().to_vec(), stack.end)
    }

    /// Words in which every value below 1000 that stands in an even place is an offset into themselves.
    fn linked(words: &mut [usize]) {
        let start = words.as_ptr().expose_provenance();
        words
            .iter_mut()
            .step_by(2)
            .filter(|word| **word > 0 && **word < 1000)
            .for_each(|word| *word += start);
    }

    #[test]
    fn a_chain_is_followed_to_its_end() {
        let mut words = [32, 101, 0, 0, 48, 201, 0, 301];
        linked(&mut words);
        assert_eq!(walked(&words, 0, 64), (vec![101, 201, 301], End::Whole));
        assert_eq!(walked(&words, 0, 2), (vec![101, 201], End::Cut));
        assert_eq!(walked(&words, 0, 3), (vec![101, 201, 301], End::Whole));
    }

    #[test]
    fn a_corrupt_chain_ends_where_it_is_and_reads_nothing_outside() {
        // Back to itself, and below itself.
        for back in [16, 8] {
            let mut words = [16, 101, back, 201, 0, 0];
            linked(&mut words);
            assert_eq!(walked(&words, 0, 64), (vec![101, 201], End::Corrupt));
        }
        // Not aligned.
        let mut words = [19, 101, 0, 201, 0, 0];
        linked(&mut words);
        assert_eq!(walked(&words, 0, 64), (vec![101], End::Corrupt));
        // Outside: what stands above keeps no frame pointers. Also one whose second word would be outside.
        for outside in [1usize << 60, 1000, usize::MAX, usize::MAX & !7] {
            assert_eq!(walked(&[outside, 101, 0, 0], 0, 64), (vec![101], End::Whole));
        }
        let mut words = [24, 101, 0, 201];
        linked(&mut words);
        assert_eq!(walked(&words, 0, 64), (vec![101], End::Whole));
        for start in [usize::MAX, 0x7FFF_0000, 32, 1 << 50] {
            assert_eq!(walked(&words, start, 64), (vec![], End::Whole));
        }
    }

    #[test]
    fn chains_of_chance_words_end() {
        let mut state = 1u64;
        for _ in 0..20_000 {
            let mut words = [0usize; 32];
            for word in &mut words {
                state = mix(state, 7);
                // Mostly offsets into the words, aligned or not.
                *word = (state >> 55) as usize & if state & 3 == 0 { 511 } else { 248 };
            }
            linked(&mut words);
            let (frames, _) = walked(&words, (state >> 60) as usize * 16, 64);
            assert!(frames.len() <= words.len() / 2);
        }
    }

    #[inline(never)]
    fn captured() -> Stack {
        let mut stack = Stack::empty();
        local::with(|local| capture(local, frame_pointer(), &mut stack, true));
        stack
    }

    #[test]
    fn a_capture_has_its_callers() {
        let stack = std::hint::black_box(captured());
        if !cfg!(feature = "report") && !local::with(has_frame_pointers) {
            assert!(stack.frames().is_empty());
            return;
        }
        // The test is called from a closure of the runner: whichever way the stack was had, it is
        // not empty.
        assert!(stack.frames().len() > 3, "{} frames", stack.frames().len());
        let here = captured as fn() -> Stack as usize;
        // In one module of code, the crate's own frames are not far from each other.
        assert!(stack.frames().iter().any(|address| address.abs_diff(here) < 64 << 20));
    }

    #[test]
    fn the_unwinder_is_asked_only_where_it_may_be() {
        let frames = local::with(|local| {
            let own = local.stack_bounds();
            // As on a coroutine's stack.
            local.bounds.set(Bounds::NONE);
            let frames = [false, true].map(|may_unwind| {
                let mut stack = Stack::new(32);
                capture(local, frame_pointer(), &mut stack, may_unwind);
                stack.frames().len()
            });
            local.bounds.set(own);
            frames
        });
        assert_eq!(frames[0], 0);
        assert_eq!(frames[1] > 3, cfg!(feature = "report"), "{} frames", frames[1]);
    }
}
