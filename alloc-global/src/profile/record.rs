//! One watched event: from the slow paths of the allocator into the profile's tables.
//!
//! Reached from `GlobalAlloc`: nothing here allocates from the allocator, panics, or waits on a
//! lock while another is held. What the C library does for a thread's first event (it looks up
//! where the stack lies) is done while the thread is untracked and holds no lock.
//!
//! It decides nothing: who calls has chosen the block.

use super::local::{self, NAMES};
use super::sites::Place;
use super::stack::{self, Stack, frame_pointer};
use super::tables::{Allocation, Freed, Tables};
use super::{live, pages};
use crate::{stats, watch};
use alloc_core::{Block, SizeClass};

/// The tables of the process: half of what they may take for sites, and half, less what else there
/// is, for blocks.
pub(super) static TABLES: Tables = Tables::new(
    || pages::cap() / 2,
    || (pages::cap() / 2).saturating_sub(live::FILTER + stack::rule_bytes_wanted() + (64 << 10)),
    stats::peaks,
);

/// A block was allocated and chosen: stands for `1 / (1 - exp(-size / rate))` blocks like it, or,
/// where `rate` is at most 1, for itself.
///
/// `requested` is the size of the layout, `size` what the block takes: that of its class, or of the
/// layout that the fallback was asked for.
#[inline(never)]
pub(crate) fn on_alloc(block: Block, requested: usize, size: usize, rate: u64) {
    let fp = frame_pointer();
    local::with(|local| {
        if local.is_untracked() {
            return;
        }
        let (region, thread) = local.names();
        let exact = rate <= 1;
        let mut lane = 0;
        if exact {
            lane = local.lane();
            local.note_last(block.addr().get());
        }
        let (place, now) = (Place { region, thread, lane }, microseconds(exact));
        let event = Allocation { block, requested, size, rate, now, place };
        let walk = |stack: &mut Stack| stack::capture(local, fp, stack, true);
        TABLES.on_alloc(event, &mut Stack::empty(), walk, is_wanted);
    });
}

/// Whether anything is to be recorded. The tests here do not go through `watch`.
fn is_wanted() -> bool {
    cfg!(test) || watch::is_recording()
}

/// Whether no block is on record. After whoever asks saw that nothing is to be recorded any more,
/// it stays so.
pub(crate) fn is_empty() -> bool {
    TABLES.is_empty()
}

/// Forgets the blocks that are on record: they count as freed, unseen.
pub(crate) fn forget_live() {
    TABLES.forget_live();
}

/// Writes the return addresses of the calling thread's stack into `frames`, the innermost first,
/// and says how many. As for an event, but nothing is recorded. None where only the unwinder could
/// tell, unless it may be asked.
#[inline(never)]
pub(crate) fn stack_here(frames: &mut [usize], may_unwind: bool) -> usize {
    let fp = frame_pointer();
    local::with(|local| {
        let mut stack = Stack::new(frames.len());
        stack::capture(local, fp, &mut stack, may_unwind);
        let kept = frames.iter_mut().zip(stack.frames());
        kept.map(|(to, from)| *to = *from).count()
    })
}

/// Whether a block may be among those chosen: false for sure, or true most likely. A few instructions.
#[inline(always)]
pub(crate) fn is_recorded(block: Block) -> bool {
    TABLES.may_hold(block)
}

/// Whether any of these blocks of a class, or above 512 bytes, may be: nothing for each, or where
/// such samples are live, four instructions.
#[inline]
pub(crate) fn are_recorded(class: Option<SizeClass>, blocks: &[Block]) -> bool {
    TABLES.may_hold_any(class, blocks)
}

/// A block for which [`is_recorded`] held is free.
#[inline(never)]
pub(crate) fn on_free(block: Block) {
    local::with(|local| {
        let by = Freed { is_last: local.take_last(block.addr().get()), lane: local.lane() };
        TABLES.on_free(block, by, microseconds);
    });
}

/// A block for which [`is_recorded`] held stays, and has another size from now on.
pub(crate) fn on_resize(block: Block, requested: usize) {
    TABLES.on_resize(block, requested, local::with(local::Local::lane));
}

/// Microseconds of the monotonic clock: to a few milliseconds where it is `coarse`, which costs a quarter.
fn microseconds(coarse: bool) -> u64 {
    #[cfg(target_os = "linux")]
    let clock = if coarse { libc::CLOCK_MONOTONIC_COARSE } else { libc::CLOCK_MONOTONIC };
    #[cfg(not(target_os = "linux"))]
    let (clock, _) = (libc::CLOCK_MONOTONIC, coarse);
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the time to a place that is ours.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    // Neither is negative on a monotonic clock.
    time.tv_sec.unsigned_abs() * 1_000_000 + time.tv_nsec.unsigned_abs() / 1_000
}

/// The rate that is set, or where that is none, that of the last event; and microseconds since the
/// first event.
pub(super) fn rate_and_duration() -> (u64, u64) {
    let (last, start) = TABLES.rate_and_start();
    let rate = match crate::watch::rate() {
        0 => last,
        rate => rate,
    };
    (rate, if start == 0 { 0 } else { microseconds(false).saturating_sub(start) })
}

/// Bytes that the profile takes.
pub(crate) fn tool_bytes() -> usize {
    TABLES.bytes() + NAMES.bytes() + stack::rule_bytes()
}

/// Takes every lock of the profile in one order, after those of the allocator: before a fork.
pub(crate) fn lock_for_fork() {
    TABLES.lock_for_fork();
    NAMES.lock_for_fork();
}

/// Frees what [`lock_for_fork`] took, in parent and child.
pub(crate) fn unlock_after_fork() {
    NAMES.unlock_after_fork();
    TABLES.unlock_after_fork();
}

/// Verifies every numbered invariant of the tables.
pub(crate) fn check() -> Result<(), &'static str> {
    local::untracked(|| TABLES.check())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Snapshot;
    use core::num::NonZeroUsize;

    /// The tables of the process, fed with addresses that no allocator has.
    #[test]
    fn events_come_out_in_a_snapshot() {
        let block =
            |n: usize| Block::without_provenance(NonZeroUsize::new((1 << 60) + n * 64).unwrap());
        let region = crate::Region::enter("record test");
        for n in 0..10 {
            on_alloc(block(n), 40, 48, 1);
            assert!(is_recorded(block(n)));
        }
        crate::untracked(|| on_alloc(block(100), 40, 48, 1));
        drop(region);
        for n in 0..4 {
            on_free(block(n));
        }
        check().unwrap();
        let snapshot = Snapshot::take();
        let sites: Vec<_> =
            snapshot.sites.iter().filter(|site| site.region == "record test").collect();
        let sum =
            |count: fn(&crate::Site) -> f64| sites.iter().map(|site| count(site)).sum::<f64>();
        assert_eq!((sum(|site| site.allocs), sum(|site| site.live)), (10.0, 6.0));
        assert_eq!((sum(|site| site.alloc_bytes), sum(|site| site.live_bytes)), (480.0, 288.0));
        assert_eq!(
            (sum(|site| site.live_requested_bytes), sum(|site| site.temporary)),
            (240.0, 0.0)
        );
        assert_eq!(sum(|site| site.lifetimes.counts.iter().sum()), 4.0);
        assert!(sites.iter().all(|site| !site.thread.is_empty()));
        if cfg!(feature = "report") {
            assert!(sites.iter().all(|site| !site.stack.is_empty()));
        }
        assert!(snapshot.tool_bytes > 0 && snapshot.tool_bytes <= pages::cap() as u64);
        assert_eq!(snapshot.rate, 1);
        (4..10).for_each(|n| on_free(block(n)));
        assert!(
            Snapshot::take()
                .sites
                .iter()
                .filter(|site| site.region == "record test")
                .all(|site| site.live == 0.0)
        );
    }
}
