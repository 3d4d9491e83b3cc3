//! Spans: blocks of 513 to 4,096 bytes by the hundred, out of pieces of the system allocator's memory.
//!
//! ```text
//! thread caches     [ ][ ][ ][ ][ ]             half an array at a time
//!                     \  |  /
//! bins              a lock per class            which block is free: a bit outside of it (`span`)
//!                        |
//! system allocator  no lock held                a span at a time: 260 KiB
//! ```
//!
//! The system allocator takes some 50 ns to hand out one such block and as much to take it back,
//! for it looks for neighbours to merge it with. A program that builds and drops thousands of them
//! (nodes of B-trees, rows, messages) spends most of its time there. Only such a program gets
//! spans: until [`MANY`] bytes of a class came through one thread's cache, less what went back, its
//! blocks come one by one, and memory that is free serves any size. Blocks aligned to more than 16
//! always come out of spans, where all are aligned to 128, and while they do, so do others of their
//! size: the system allocator would cut each out of a larger one. Other fallbacks than that one
//! see none of it: who names one may count on being asked for each block.
//!
//! A block is known by its address to lie in a span (`map`), so those of both kinds are freed and
//! cached alike. Spans belong to no thread. One of which all blocks are free goes back to the
//! system allocator, and of one that rests, pages of free blocks go back to the system. Blocks in
//! them count as given back to the fallback, in all counters; what is free in them is in
//! [`Memory`](crate::Memory).
//!
//! It does not know what a cache is, nor calls the fallback to get memory: that is `fallback`.

use crate::fatal::Line;
use crate::large_class::LargeClass;
use crate::lock::Lock;
use crate::mid_class::{MID_ALIGN, MID_SIZES};
use crate::visit::free_layout_to_registered;
use alloc_core::{Block, PAGE_SIZE};
use bin::{Bin, Emptied, Fault};
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use crossbeam_utils::CachePadded;
use span::Span;

mod bin;
mod map;
mod span;

pub(crate) use span::SPAN_LAYOUT;

/// When so many bytes of a class came through a thread's cache that did not go back through it, the
/// class gets spans: so many that a span of which little is used does not weigh.
pub(crate) const MANY: usize = 2 << 20;

static BINS: [CachePadded<Lock<Bin>>; MID_SIZES] =
    [const { CachePadded::new(Lock::new(Bin::new())) }; MID_SIZES];

/// Which classes have spans, a bit for each; a copy for who only looks.
static USED: AtomicUsize = AtomicUsize::new(0);

/// Whether blocks of a class may lie in spans: up to 4 KiB, aligned to up to 128.
#[inline]
pub(crate) fn may_have(class: LargeClass) -> bool {
    class.rank() < MID_SIZES && class.layout().align() <= MID_ALIGN
}

/// The bin of a class, if its blocks may lie in spans: one for both alignments.
#[inline]
fn bin(class: LargeClass) -> Option<&'static Lock<Bin>> {
    BINS.get(class.rank()).filter(|_| may_have(class)).map(|bin| &**bin)
}

fn bins() -> impl Iterator<Item = (LargeClass, &'static Lock<Bin>)> {
    BINS.iter()
        .enumerate()
        .filter_map(|(index, bin)| Some((LargeClass::from_index(index)?, &**bin)))
}

/// Whether there are spans of a class, or were since memory was last given back.
#[inline]
pub(crate) fn are_there(class: LargeClass) -> bool {
    // Relaxed: a hint.
    USED.load(Relaxed) >> class.rank() & 1 == 1
}

/// Whether a block of a class lies in a span.
#[inline]
pub(crate) fn has(class: LargeClass, block: Block) -> bool {
    may_have(class) && Span::of_block(block).is_some()
}

/// Takes blocks for the beginning of `out`, the lowest addresses last. Returns how many.
pub(crate) fn take(class: LargeClass, out: &mut [MaybeUninit<Block>]) -> usize {
    let taken = bin(class).map_or(0, |bin| bin.lock().take(out));
    // The bin fills the end.
    out.rotate_right(taken);
    taken
}

/// Makes a span of `memory` for a class. `false`: it cannot be one, and stays the caller's.
///
/// # Safety
///
/// The registered fallback, which is the system allocator, gave it for [`SPAN_LAYOUT`], and it is
/// the caller's.
pub(crate) unsafe fn add(class: LargeClass, memory: NonNull<u8>) -> bool {
    let Some(bin) = bin(class) else { return false };
    // SAFETY: the caller's promise.
    let Some(span) = (unsafe { Span::init(memory, class) }) else { return false };
    let mut bin = bin.lock();
    bin.add(span);
    // Relaxed: a hint.
    USED.fetch_or(1 << class.rank(), Relaxed);
    true
}

/// Takes back those of `blocks` that lie in spans; the others move to the front. Returns how many
/// those are; what lies behind them is unspecified.
///
/// # Safety
///
/// They are free blocks of that class of the registered fallback, and the caller's, who gives up
/// those in spans.
pub(crate) unsafe fn give(class: LargeClass, blocks: &mut [Block]) -> usize {
    let is_in_span = |block: &Block| Span::of_block(*block).is_some();
    let (Some(bin), Some(first)) = (bin(class), blocks.iter().position(is_in_span)) else {
        return blocks.len();
    };
    let mut emptied = Emptied::none();
    let blocks = blocks.get_mut(first..).unwrap_or_default();
    // SAFETY: the caller's promise.
    let given = unsafe { bin.lock().give(blocks, class, &mut emptied) };
    match given {
        Ok(others) => {
            release(emptied);
            first + others
        }
        Err(fault) => end(fault, class),
    }
}

/// Gives the memory of spans back that nothing refers to any more. Returns bytes.
fn release(mut emptied: Emptied) -> usize {
    let mut bytes = 0;
    while let Some(memory) = emptied.pop() {
        bytes += SPAN_LAYOUT.size();
        free_layout_to_registered(memory, SPAN_LAYOUT);
    }
    bytes
}

/// Gives back the empty spans that bins keep. Returns bytes.
pub(crate) fn drain() -> usize {
    bins()
        .map(|(class, bin)| {
            let mut bin = bin.lock();
            let emptied = bin.drain();
            if bin.spans() == 0 {
                // Relaxed: a hint.
                USED.fetch_and(!(1 << class.rank()), Relaxed);
            }
            drop(bin);
            release(emptied)
        })
        .sum()
}

/// Gives pages of free blocks back to the system, those of spans to which no block came back since
/// the last look but one, or of all if `at_once`. Returns bytes, and whether there are spans that
/// may rest at the next look.
pub(crate) fn purge(at_once: bool) -> (usize, bool) {
    let (mut pages, mut waits) = (0, false);
    for (class, bin) in bins() {
        let mut left = bin.lock().partly_used();
        loop {
            let Some(resting) = bin.lock().take_resting(&mut left, at_once, &mut waits) else {
                break;
            };
            let purged = resting.purge();
            pages += purged;
            let mut emptied = Emptied::none();
            let result = bin.lock().give_resting(&resting, purged, &mut emptied);
            if let Err(fault) = result {
                end(fault, class);
            }
            release(emptied);
        }
    }
    (pages * PAGE_SIZE, waits)
}

/// Bytes free in spans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Free {
    /// In blocks that were handed out before, and whose pages were not given back to the system.
    pub(crate) touched: u64,
    /// All else, headers and ends of spans among it.
    pub(crate) untouched: u64,
}

/// What is free in spans. Costs a step for each of them, with its bin locked.
pub(crate) fn free() -> Free {
    let mut sum = Free::default();
    for (class, bin) in bins() {
        let (touched, untouched) = bin.lock().free_bytes(class);
        sum.touched += touched as u64;
        sum.untouched += untouched as u64;
    }
    sum
}

/// Verifies every invariant of bins and spans.
pub(crate) fn check() -> Result<(), &'static str> {
    bins().try_for_each(|(class, bin)| bin.lock().check(class))
}

/// Ends the process: `GlobalAlloc`'s contract was broken.
#[cold]
fn end(fault: Fault, class: LargeClass) -> ! {
    match fault {
        Fault::DoubleFree(block) => Line::double_free(block, class.size()),
        Fault::WrongClass(block, actual) => {
            Line::wrong_layout(block, actual.map_or(0, LargeClass::size), class.size())
        }
    }
}

/// Takes every lock in one order; see `fork`.
pub(crate) fn lock_for_fork() {
    BINS.iter().for_each(|bin| bin.lock_for_fork());
}

/// Frees what `lock_for_fork` took.
pub(crate) fn unlock_after_fork() {
    BINS.iter().for_each(|bin| bin.unlock_after_fork());
}
