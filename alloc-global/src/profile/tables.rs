//! The tables of a profile together: what an event changes in them, and what they know at one moment.
//!
//! Invariants:
//!
//! 1. The blocks of a site are those freed of it and those live, each in one of the two: a block
//!    moves from one to the other under the lock of its stripe.
//! 2. So the sums over all sites, with that of what had no room, are the sums of all events, while
//!    all stripes are held.
//!
//! No unsafe here.

use super::live::{Added, Entry, Live};
use super::sites::{Counted, Counts, Gone, OTHER, Place, Sites, WEIGHT_ONE, variance};
use super::stack::{End, Stack, mix};
use crate::mid_class::counted;
use alloc_core::{Block, SizeClass};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::collections::{HashMap, HashSet};

/// An allocation that is recorded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allocation {
    pub(crate) block: Block,
    pub(crate) requested: usize,
    pub(crate) size: usize,
    pub(crate) rate: u64,
    /// Microseconds of the monotonic clock.
    pub(crate) now: u64,
    pub(crate) place: Place,
}

/// Who frees a block.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Freed {
    /// Whether the block is the one that the calling thread allocated last, of those that were all
    /// recorded.
    pub(crate) is_last: bool,
    /// The lane that is the thread's alone, or 0.
    pub(crate) lane: u8,
}

/// All tables, and what they could not hold.
pub(crate) struct Tables {
    sites: Sites,
    live: Live,
    cut: AtomicU64,
    corrupt: AtomicU64,
    /// The rate of the last event.
    rate: AtomicU64,
    /// When the first event was, in microseconds of the monotonic clock.
    since: AtomicU64,
    /// The number of the process's last peak.
    peak: fn() -> u64,
}

/// What is known of one site.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tally {
    pub(crate) counted: Counted,
    /// Live blocks, in parts of [`WEIGHT_ONE`].
    pub(crate) live: u64,
    pub(crate) live_bytes: u64,
    /// The variances of the two, the first in whole blocks.
    pub(crate) live_variance: f64,
    pub(crate) live_bytes_variance: f64,
    pub(crate) live_requested: u64,
    /// What the blocks have beyond that.
    pub(crate) live_lost: u64,
    pub(crate) live_samples: u64,
}

impl Tally {
    const NONE: Tally = Tally {
        counted: Counted::NONE,
        live: 0,
        live_bytes: 0,
        live_variance: 0.0,
        live_bytes_variance: 0.0,
        live_requested: 0,
        live_lost: 0,
        live_samples: 0,
    };

    /// Adds a live block.
    fn add(&mut self, entry: &Entry) {
        let estimate = bytes(entry.weight, entry.counted());
        let more = |sum: u64, size| sum.wrapping_add(bytes(entry.weight, size));
        self.live = self.live.wrapping_add(entry.weight);
        self.live_bytes = self.live_bytes.wrapping_add(estimate);
        self.live_requested = more(self.live_requested, entry.requested);
        self.live_lost = more(self.live_lost, entry.size.saturating_sub(entry.requested));
        self.live_samples += 1;
        let blocks = entry.weight as f64 / WEIGHT_ONE as f64;
        self.live_variance += variance(entry.weight, blocks);
        self.live_bytes_variance += variance(entry.weight, estimate as f64);
    }

    /// Blocks freed, in parts of [`WEIGHT_ONE`].
    pub(crate) fn freed_blocks(&self) -> u64 {
        let Counted { lifetimes, unseen, .. } = &self.counted;
        lifetimes.iter().fold(*unseen, |sum, count| sum.wrapping_add(*count))
    }
}

/// A site, as it is read for a snapshot.
pub(crate) struct Known<'a> {
    pub(crate) stack: &'a [usize],
    pub(crate) cut: bool,
    /// `None`: the site of all that had no room.
    pub(crate) place: Option<Place>,
    pub(crate) tally: Tally,
}

/// How many blocks a sample stands for, in parts of [`WEIGHT_ONE`], rounded up or down by chance so
/// that the mean is right.
fn weight(size: u64, rate: u64, dice: u64) -> u64 {
    if rate <= 1 {
        return WEIGHT_ONE;
    }
    // Not std's: see `draw_bytes` in `watch`.
    let chosen = -libm::expm1(-(size.max(1) as f64) / rate as f64);
    let exact = WEIGHT_ONE as f64 / chosen;
    // 53 bits of the dice as a fraction.
    let chance = (dice >> 11) as f64 / (1u64 << 53) as f64;
    // Neither negative nor, for any rate below 2^53, beyond 64 bits; the cast saturates.
    (exact + chance).floor() as u64
}

/// The bytes that blocks of a weight have.
#[inline]
fn bytes(weight: u64, size: u64) -> u64 {
    if weight == WEIGHT_ONE {
        return size;
    }
    let parts = weight as u128 * size as u128 + WEIGHT_ONE as u128 / 2;
    // A sum of estimates wraps where a sum of truths would.
    (parts / WEIGHT_ONE as u128) as u64
}

impl Tables {
    /// Tables that take as many bytes as `sites` and `live` say. `peak` tells the number of the
    /// process's last peak.
    pub(crate) const fn new(sites: fn() -> usize, live: fn() -> usize, peak: fn() -> u64) -> Self {
        Tables {
            sites: Sites::new(sites),
            live: Live::new(live),
            cut: AtomicU64::new(0),
            corrupt: AtomicU64::new(0),
            rate: AtomicU64::new(0),
            since: AtomicU64::new(0),
            peak,
        }
    }

    /// Records an allocation, unless it is not `wanted` any more. `walk` writes its stack; what an
    /// event waits for most is memory, which comes meanwhile.
    #[inline]
    pub(crate) fn on_alloc(
        &self,
        event: Allocation,
        stack: &mut Stack,
        walk: impl FnOnce(&mut Stack),
        wanted: impl FnOnce() -> bool,
    ) {
        let spot = self.live.spot(event.block);
        if let Some(spot) = &spot {
            self.live.fetch(spot);
            self.live.fetch_next(spot);
        }
        walk(stack);
        // Relaxed, here and below: values of their own.
        if self.rate.load(Relaxed) != event.rate || stack.end != End::Whole {
            self.note(&event, stack.end);
        }
        let (site, counts) = self.sites.intern(stack, event.place);
        let dice = if event.rate <= 1 { 0 } else { self.dice(&event) };
        let entry = Entry {
            size: event.size as u64,
            requested: event.requested as u64,
            birth: event.now,
            weight: weight(counted(event.requested as u64, event.size as u64), event.rate, dice),
            exact: event.rate <= 1,
            site,
        };
        let lane = event.place.lane;
        self.live.add(event.block, spot, entry, wanted, |added| {
            if added == Added::Unwanted {
                return;
            }
            if let Added::Replaced(old) = added {
                self.count_unseen(old, lane);
            }
            let alone = lane != 0 && site != OTHER;
            counts.come(entry.weight, bytes(entry.weight, entry.counted()), (self.peak)(), alone);
            if added == Added::Full {
                self.count_unseen(entry, lane);
            }
        });
    }

    /// A number that looks like chance: it differs from event to event.
    fn dice(&self, event: &Allocation) -> u64 {
        let mixed = mix(mix(0, event.now), event.block.addr().get() as u64);
        mixed ^ mixed.rotate_left(32).wrapping_mul(0xD6E8_FEB8_6659_FD93)
    }

    #[cold]
    fn note(&self, event: &Allocation, end: End) {
        self.rate.store(event.rate, Relaxed);
        // Fails where another event was the first.
        let _ = self.since.compare_exchange(0, event.now.max(1), Relaxed, Relaxed);
        match end {
            End::Whole => {}
            End::Cut => drop(self.cut.fetch_add(1, Relaxed)),
            End::Corrupt => drop(self.corrupt.fetch_add(1, Relaxed)),
        }
    }

    /// Counts as freed what nobody saw freed, or will.
    #[cold]
    fn count_unseen(&self, entry: Entry, lane: u8) {
        let (counts, in_lane) = self.sites.counts(entry.site, lane);
        self.count_freed(counts, entry, None, false, in_lane);
    }

    #[inline(always)]
    fn count_freed(
        &self,
        counts: &Counts,
        entry: Entry,
        lifetime: Option<u64>,
        temporary: bool,
        alone: bool,
    ) {
        let bytes = bytes(entry.weight, entry.counted());
        let gone = Gone { weight: entry.weight, bytes, lifetime, temporary };
        counts.go(gone, (self.peak)(), alone);
    }

    /// Whether a block may be recorded: false for sure, or true most likely.
    #[inline(always)]
    pub(crate) fn may_hold(&self, block: Block) -> bool {
        self.live.may_hold(block)
    }

    /// Whether any of these blocks of a class, or above 512 bytes, may be recorded.
    #[inline]
    pub(crate) fn may_hold_any(&self, class: Option<SizeClass>, blocks: &[Block]) -> bool {
        self.live.may_hold_any(class, blocks)
    }

    /// Records that a block is free. `now` tells the time, coarse for a block that was one of all,
    /// else fine.
    ///
    /// The last block of a thread that shares lane 0 may be taken for temporary though another
    /// thread of that lane freed it, and a third had it since.
    #[inline]
    pub(crate) fn on_free(&self, block: Block, by: Freed, now: impl Fn(bool) -> u64) {
        let Some(spot) = self.live.spot(block) else { return };
        self.live.fetch(&spot);
        let coarse = now(true);
        self.live.fetch_entry(&spot);
        self.live.remove(&spot, |entry| {
            // By the clock that its birth was read from. A sample may have the weight of one too.
            let now = if entry.exact { coarse } else { now(false) };
            let (counts, alone) = self.sites.counts(entry.site, by.lane);
            let temporary = by.is_last && entry.exact && (alone || by.lane == 0);
            let lifetime = Some(now.saturating_sub(entry.birth));
            self.count_freed(counts, entry, lifetime, temporary, alone);
        });
    }

    /// Records that a block that stays has another size; `lane` is that of the calling thread.
    pub(crate) fn on_resize(&self, block: Block, requested: usize, lane: u8) {
        self.live.resize(block, requested as u64, |old, new| {
            let bytes = |entry: Entry| bytes(entry.weight, entry.counted());
            let (counts, alone) = self.sites.counts(new.site, lane);
            counts.resize(bytes(old), bytes(new), (self.peak)(), alone);
        });
    }

    /// Calls `f` with every site of which anything is known. All stripes are held while it is put
    /// together, not while `f` runs.
    pub(crate) fn for_each(&self, mut f: impl FnMut(Known<'_>)) {
        let tallies = self.tallies();
        let mut tallies = tallies.iter().enumerate().peekable();
        self.sites.for_each((self.peak)(), |site| {
            // A site in another lane was there before; sites that are new since have none.
            let is_new = tallies.peek().is_some_and(|(number, _)| *number == site.number);
            let Some((_, tally)) = tallies.next_if(|_| is_new) else { return };
            if tally.counted.samples + tally.live_samples > 0 {
                f(Known { stack: site.stack, cut: site.cut, place: site.place, tally: *tally });
            }
        });
    }

    /// The numbers of the sites of live blocks. `blocks` is in order; `sites` is as long, and left
    /// alone where a block is not recorded.
    pub(crate) fn sites_of(&self, blocks: &[usize], sites: &mut [Option<usize>]) {
        self.live.hold().for_each(|address, entry| {
            let found = blocks.binary_search(&address).ok();
            if let Some(site) = found.and_then(|at| sites.get_mut(at)) {
                *site = Some(self.sites.number(entry.site));
            }
        });
    }

    /// The number of the site of a block.
    pub(crate) fn number_of(&self, entry: &Entry) -> usize {
        self.sites.number(entry.site)
    }

    /// The stacks of those sites, by their numbers: addresses of calls, which are return addresses
    /// less one.
    pub(crate) fn stacks_of(&self, sites: &[Option<usize>]) -> HashMap<usize, Vec<u64>> {
        let wanted: HashSet<usize> = sites.iter().flatten().copied().collect();
        let mut stacks = HashMap::new();
        self.sites.for_each((self.peak)(), |site| {
            if wanted.contains(&site.number) {
                let stack = || site.stack.iter().map(|address| *address as u64 - 1).collect();
                stacks.entry(site.number).or_insert_with(stack);
            }
        });
        stacks
    }

    /// What is known of each site, by their numbers.
    fn tallies(&self) -> Vec<Tally> {
        loop {
            // Made before the stripes are held: nothing may allocate or free meanwhile.
            let mut tallies = vec![Tally::NONE; self.sites.len() + 64];
            let held = self.live.hold();
            if self.sites.len() > tallies.len() {
                drop(held);
                continue;
            }
            self.sites.for_each((self.peak)(), |site| {
                if let Some(tally) = tallies.get_mut(site.number) {
                    tally.counted.add(&site.counted);
                }
            });
            held.for_each(|_, entry| {
                if let Some(tally) = tallies.get_mut(self.sites.number(entry.site)) {
                    tally.add(&entry);
                }
            });
            drop(held);
            return tallies;
        }
    }

    /// Every live block on record, by its address.
    pub(crate) fn live_entries(&self) -> Vec<(usize, Entry)> {
        let mut room = 1024;
        loop {
            // Made before the stripes are held: nothing may allocate or free meanwhile.
            let mut entries = Vec::with_capacity(room);
            let mut count = 0;
            let held = self.live.hold();
            held.for_each(|block, entry| {
                count += 1;
                if entries.len() < entries.capacity() {
                    entries.push((block, entry));
                }
            });
            drop(held);
            if count <= entries.len() {
                return entries;
            }
            room = count + count / 8;
        }
    }

    /// Samples whose stack had no room, samples whose block had none, stacks cut, stacks corrupt.
    pub(crate) fn dropped(&self) -> [u64; 4] {
        let (cut, corrupt) = (self.cut.load(Relaxed), self.corrupt.load(Relaxed));
        [self.sites.dropped(), self.live.dropped(), cut, corrupt]
    }

    /// The rate of the last event, 0 if there was none, and when the first was.
    pub(crate) fn rate_and_start(&self) -> (u64, u64) {
        (self.rate.load(Relaxed), self.since.load(Relaxed))
    }

    /// Bytes of pages that are backed by memory.
    pub(crate) fn bytes(&self) -> usize {
        self.sites.bytes() + self.live.bytes()
    }

    pub(crate) fn lock_for_fork(&self) {
        self.live.lock_for_fork();
        self.sites.lock_for_fork();
    }

    pub(crate) fn unlock_after_fork(&self) {
        self.sites.unlock_after_fork();
        self.live.unlock_after_fork();
    }

    /// Whether no block is on record.
    pub(crate) fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// Forgets the live blocks: counts them as freed, unseen.
    pub(crate) fn forget_live(&self) {
        self.live.hold().clear(|entry| self.count_unseen(entry, 0));
    }

    /// Verifies the invariants of all tables.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        self.sites.check()?;
        self.live.hold().check()
    }
}
