//! The tables of a profile together: what an event changes in them, and what they know at one moment.
//!
//! Invariants:
//!
//! 1. The blocks of a site are those freed of it and those live, each in one of the two: a block moves from one to the
//!    other under the lock of its stripe.
//! 2. So the sums over all sites, with that of what had no room, are the sums of all events, while all stripes are held.
//!
//! No unsafe here.

use super::live::{Added, Entry, Live};
use super::sites::{Counted, Counts, Place, Sites, WEIGHT_ONE, variance};
use super::stack::{End, Stack, mix};
use alloc_core::{Block, MAX_SMALL};
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
    pub(crate) stamp: u64,
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

/// How many blocks a sample stands for, in parts of [`WEIGHT_ONE`], rounded up or down by chance so that the mean is right.
fn weight(size: usize, rate: u64, dice: u64) -> u64 {
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

/// The bytes of a block that its chance to be a sample grew with (`watch`): its class's, or above 512 bytes the layout's.
#[inline]
fn chosen_by(requested: usize, size: usize) -> usize {
    if size > MAX_SMALL { requested } else { size }
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
    /// Tables that take as many bytes as `sites` and `live` say. `peak` tells the number of the process's last peak.
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

    /// Records an allocation.
    #[inline]
    pub(crate) fn on_alloc(&self, event: Allocation, stack: &Stack) {
        // Relaxed, here and below: values of their own.
        if self.rate.load(Relaxed) != event.rate || stack.end != End::Whole {
            self.note(&event, stack.end);
        }
        let site = self.sites.intern(stack, event.place);
        let dice = if event.rate <= 1 { 0 } else { self.dice(&event) };
        let entry = Entry {
            size: event.size as u64,
            requested: event.requested as u64,
            birth: event.now,
            weight: weight(chosen_by(event.requested, event.size), event.rate, dice),
            stamp: event.stamp,
            site,
        };
        self.live.add(event.block, entry, |added| match added {
            Added::New => self.count_new(self.sites.counts(site), entry),
            Added::Replaced(old) => {
                self.count_freed(self.sites.counts(old.site), old, None, false);
                self.count_new(self.sites.counts(site), entry);
            }
            Added::Full => {
                self.count_new(self.sites.counts(site), entry);
                self.count_freed(self.sites.counts(site), entry, None, false);
            }
        });
    }

    /// A number that looks like chance: it differs from event to event.
    fn dice(&self, event: &Allocation) -> u64 {
        let mixed = mix(mix(event.stamp, event.now), event.block.addr().get() as u64);
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

    #[inline]
    fn count_new(&self, counts: &Counts, entry: Entry) {
        counts.come(entry.weight, bytes(entry.weight, entry.counted()), (self.peak)());
    }

    #[inline]
    fn count_freed(&self, counts: &Counts, entry: Entry, lifetime: Option<u64>, temporary: bool) {
        let bytes = bytes(entry.weight, entry.counted());
        counts.go(entry.weight, bytes, lifetime, temporary, (self.peak)());
    }

    /// Whether a block may be recorded: false for sure, or true most likely.
    #[inline(always)]
    pub(crate) fn may_hold(&self, block: Block) -> bool {
        self.live.may_hold(block)
    }

    /// Whether any of these blocks may be recorded.
    #[inline]
    pub(crate) fn may_hold_any(&self, blocks: &[Block]) -> bool {
        self.live.may_hold_any(blocks)
    }

    /// Records that a block is free. `now` tells the time for a block that was one of all, or of some (those have no stamp); `stamp`
    /// is that of the calling thread's last allocation.
    #[inline]
    pub(crate) fn on_free(&self, block: Block, stamp: u64, now: impl Fn(bool) -> u64) {
        self.live.remove(block, |entry| {
            // By the clock that its birth was read from. A sample may have the weight of one too.
            let lifetime = now(entry.stamp != 0).saturating_sub(entry.birth);
            let temporary = entry.stamp == stamp && stamp != 0;
            self.count_freed(self.sites.counts(entry.site), entry, Some(lifetime), temporary);
        });
    }

    /// Records that a block that stays has another size.
    pub(crate) fn on_resize(&self, block: Block, requested: usize) {
        self.live.resize(block, requested as u64, |old, new| {
            let bytes = |entry: Entry| bytes(entry.weight, entry.counted());
            self.sites.counts(new.site).resize(bytes(old), bytes(new), (self.peak)());
        });
    }

    /// Calls `f` with every site of which anything is known. All stripes are held while it is put together, not while `f` runs.
    pub(crate) fn for_each(&self, mut f: impl FnMut(Known<'_>)) {
        let tallies = self.tallies();
        let mut tallies = tallies.iter();
        self.sites.for_each((self.peak)(), |site| {
            // Sites that are new since have none.
            let Some(tally) = tallies.next() else { return };
            if tally.counted.samples + tally.live_samples > 0 {
                f(Known { stack: site.stack, cut: site.cut, place: site.place, tally: *tally });
            }
        });
    }

    /// The numbers of the sites of live blocks. `blocks` is in order; `sites` is as long, and left alone where a block
    /// is not recorded.
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

    /// The stacks of those sites, by their numbers: addresses of calls, which are return addresses less one.
    pub(crate) fn stacks_of(&self, sites: &[Option<usize>]) -> HashMap<usize, Vec<u64>> {
        let wanted: HashSet<usize> = sites.iter().flatten().copied().collect();
        let (mut stacks, mut number) = (HashMap::new(), 0);
        self.sites.for_each((self.peak)(), |site| {
            if wanted.contains(&number) {
                stacks
                    .insert(number, site.stack.iter().map(|address| *address as u64 - 1).collect());
            }
            number += 1;
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
            let mut number = 0;
            self.sites.for_each((self.peak)(), |site| {
                if let Some(tally) = tallies.get_mut(number) {
                    tally.counted = site.counted;
                }
                number += 1;
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

    /// Verifies the invariants of all tables.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        self.sites.check()?;
        self.live.hold().check()
    }
}
