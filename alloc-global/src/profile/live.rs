//! Recorded blocks that are live, by address.
//!
//! ```text
//! address:  | MiB .. | 19 .. | 17 stripe (6) 12 | 11 .. offset in 4 KiB .. |
//!                    | 19 filter (15)                          5 |
//! bucket:   | place  | 19 offset in the MiB          4 |       as many of the lower bits as there are buckets
//!
//! area:  | heads: u32 per bucket | entry 1 | entry 2 | entry 3 | ...          | not used |
//!          a head, and each entry, names the next entry of its bucket; 0 is none
//! filter: a count per 15 bits of the address, that stays at 255 once it was there
//! ```
//!
//! Blocks that lie side by side, as most do that are allocated one after the other, have their
//! heads side by side and their entries too: a table of all blocks is many times larger than a
//! processor's caches. Nevertheless what an event waits for is memory, so the processor is told to
//! fetch it as early as may be.
//!
//! Each bucket, each count of the filter, each list of free entries and each row of entries not
//! used yet belongs to one of 64 stripes, and each stripe has a leaf lock, held for some ten steps,
//! and cache lines of its own. A small table has fewer: those that its buckets tell apart.
//!
//! Order. A block is removed before its memory can be handed out again, and added before the
//! program has it: its removal comes before the lock or queue by which another thread gets the
//! block, and that before its next addition. So an address is in the table at most once; one that
//! was freed unseen (while nothing was watched) is replaced when it comes again. For the same
//! reason the filter needs no order of its own: the count of a block went up before the program
//! could pass the block on, and comes down only when it is freed.
//!
//! Invariants, for who holds the stripe:
//!
//! 1. An entry is in the chain of its address's bucket, in its stripe's list of free entries or in
//!    its row of unused ones, in one of them and once; or on its way from one stripe to another.
//! 2. No two entries have the same address.
//! 3. A count of the filter is at least the number of entries that it counts, or 255.
//! 4. The samples among the entries are counted by their classes (`classes`).
//!
//! The filter has 32,768 counts: with `n` recorded blocks live, `1 - exp(-n / 32768)` of all others
//! are taken for recorded (1,000: 3 %; 10,000: 26 %), and cost a look into their bucket.

mod chains;
mod check;
mod classes;
mod slot;

use super::pages::Area;
use super::sites::SiteRef;
use super::stack::GOLDEN;
use crate::lock::{Guard, Lock};
use crate::mid_class::counted;
use crate::prefetch::fetch;
use alloc_core::{Block, SizeClass};
use chains::{Parts, Spot};
use classes::Classes;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use crossbeam_utils::CachePadded;
use slot::Slot;

const STRIPE_BITS: u32 = 6;
const STRIPES: usize = 1 << STRIPE_BITS;
const FILTER_BITS: u32 = 15;

/// Fewer would not fill a page of the area.
const LEAST_BUCKETS: usize = 64;

/// Counts of the filter.
pub(crate) const FILTER: usize = 1 << FILTER_BITS;

/// Bytes of the area for each bucket: more buckets than entries.
const BYTES_PER_BUCKET: usize = 32;

/// A recorded block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) size: u64,
    pub(crate) requested: u64,
    /// Of the monotonic clock, in microseconds.
    pub(crate) birth: u64,
    /// How many blocks it stands for, in parts of `WEIGHT_ONE`.
    pub(crate) weight: u64,
    /// Whether all blocks were recorded, and its birth read from the clock for that.
    pub(crate) exact: bool,
    pub(crate) site: SiteRef,
}

impl Entry {
    /// The bytes that the allocator's own counters count for the block: its class's, above 4 KiB
    /// the layout's.
    #[inline]
    pub(crate) fn counted(&self) -> u64 {
        counted(self.requested, self.size)
    }
}

/// Entries that a stripe takes out of the unused ones at once: not many, for few samples are to
/// need few pages.
const ROW: usize = 16;

/// What a stripe has to itself.
struct Stripe {
    /// The first of its free entries.
    free: u32,
    /// Entries in chains.
    live: u32,
    /// Its row of unused entries: from this one on ..
    unused: u32,
    /// .. up to this one, which is another's.
    unused_end: u32,
}

impl Stripe {
    const fn new() -> Stripe {
        Stripe { free: 0, live: 0, unused: 0, unused_end: 0 }
    }

    /// The entry that it will hand out next, if it has one.
    #[inline]
    fn next(&self) -> u32 {
        match self.free {
            0 if self.unused < self.unused_end => self.unused,
            free => free,
        }
    }
}

/// A stripe, and beside its lock what is good to know before it is taken.
struct Part {
    lock: Lock<Stripe>,
    /// What [`Stripe::next`] was when it was last held.
    next: AtomicU32,
}

/// What became of an entry that was to be added.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Added {
    /// It is in.
    New,
    /// It is in, and this one was there under its address: its end was not seen.
    Replaced(Entry),
    /// There is no room.
    Full,
    /// It was wanted no more.
    Unwanted,
}

/// All recorded blocks.
pub(crate) struct Live {
    area: Area,
    stripes: [CachePadded<Part>; STRIPES],
    filter: [AtomicU8; FILTER],
    classes: Classes,
    /// Entries that are some stripe's: 1 to this.
    used: AtomicU32,
    /// Entries on their way from one stripe to another.
    moving: AtomicU32,
    /// Whether no stripe had a free entry when one was looked for.
    exhausted: AtomicBool,
    /// Blocks that had no room.
    dropped: AtomicU64,
}

/// Bits of an offset in what has one stripe.
const PAGE_BITS: u32 = 12;

/// Bits of an address below those of the filter.
const FILTER_SHIFT: u32 = 5;

/// Bits of an address below those of its bucket: hardly any two blocks have one, for who looks for
/// one of them would wait for the other's entry too.
const BUCKET_SHIFT: u32 = 4;

/// Bits of an address below those that choose the place of its buckets.
const MIB_BITS: u32 = 20;

// A count of the filter belongs to one stripe.
const _: () = assert!(PAGE_BITS >= FILTER_SHIFT && MIB_BITS == FILTER_SHIFT + FILTER_BITS);
const _: () = assert!(PAGE_BITS + STRIPE_BITS <= MIB_BITS);

/// The stripe of a bucket.
#[inline]
fn stripe_of(bucket: usize) -> usize {
    bucket >> (PAGE_BITS - BUCKET_SHIFT) & (STRIPES - 1)
}

#[inline]
fn filter_index(address: usize) -> usize {
    address >> FILTER_SHIFT & (FILTER - 1)
}

impl Live {
    /// A table in an area of as many bytes as `len` says.
    pub(crate) const fn new(len: fn() -> usize) -> Self {
        Live {
            area: Area::new(len),
            stripes: [const {
                CachePadded::new(Part { lock: Lock::new(Stripe::new()), next: AtomicU32::new(0) })
            }; STRIPES],
            filter: [const { AtomicU8::new(0) }; FILTER],
            classes: Classes::new(),
            used: AtomicU32::new(0),
            moving: AtomicU32::new(0),
            exhausted: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
        }
    }

    #[inline]
    fn parts(&self, start: NonNull<u8>) -> Parts {
        let len = self.area.len();
        let buckets = 1 << (len / BYTES_PER_BUCKET).max(LEAST_BUCKETS).ilog2();
        // SAFETY: heads are an eighth of the area, which is a page at least.
        let slots = unsafe { start.add(buckets * size_of::<u32>()) }.cast();
        Parts { heads: start.cast(), buckets, slots }
    }

    /// Where a block is to be looked for; `None` where there is no table yet.
    #[inline]
    pub(crate) fn spot(&self, block: Block) -> Option<Spot> {
        Some(self.spot_in(self.area.mapped()?, block))
    }

    #[inline]
    fn spot_in(&self, start: NonNull<u8>, block: Block) -> Spot {
        let (address, parts) = (block.addr().get(), self.parts(start));
        Spot { address, parts, bucket: parts.bucket_of(address) }
    }

    /// Entries that fit, with the one that is never used. For who has the area's start.
    fn capacity(&self, parts: &Parts) -> usize {
        let heads = parts.slots.addr().get() - parts.heads.addr().get();
        (self.area.len() - heads) / size_of::<Slot>()
    }

    /// Whether a block may be in the table: false for sure, or true most likely.
    #[inline(always)]
    pub(crate) fn may_hold(&self, block: Block) -> bool {
        let index = filter_index(block.addr().get());
        // Relaxed: see "Order" in the head of this file.
        self.filter.get(index).is_some_and(|count| count.load(Ordering::Relaxed) != 0)
    }

    /// Whether any of these blocks of a class, or above 512 bytes, may be in the table.
    #[inline]
    pub(crate) fn may_hold_any(&self, class: Option<SizeClass>, blocks: &[Block]) -> bool {
        if !self.classes.may_have(class) {
            return false;
        }
        // No branch for each.
        let seen = |any: u8, block: &Block| {
            let count = self.filter.get(filter_index(block.addr().get()));
            // Relaxed: see "Order" in the head of this file.
            any | count.map_or(0, |count| count.load(Ordering::Relaxed))
        };
        blocks.iter().fold(0, seen) != 0
    }

    #[inline]
    fn part(&self, bucket: usize) -> &Part {
        // Below the length; the first stripe stands for what cannot be.
        let [first, ..] = &self.stripes;
        self.stripes.get(stripe_of(bucket)).unwrap_or(first)
    }

    /// The holder of the stripe counts one more entry, or one less.
    #[inline]
    fn count(&self, address: usize, more: bool) {
        let Some(count) = self.filter.get(filter_index(address)) else { return };
        // Relaxed, twice: only the holder of the stripe writes; see "Order" for readers.
        let now = count.load(Ordering::Relaxed);
        if now < u8::MAX {
            count.store(if more { now + 1 } else { now.saturating_sub(1) }, Ordering::Relaxed);
        }
    }

    /// Has the processor bring in what [`add`](Live::add) and [`remove`](Live::remove) will write first.
    #[inline]
    pub(crate) fn fetch(&self, spot: &Spot) {
        fetch(self.part(spot.bucket));
        fetch(spot.parts.head(spot.bucket).as_ptr());
    }

    /// The same for the entry that a block will have.
    #[inline]
    pub(crate) fn fetch_next(&self, spot: &Spot) {
        // Relaxed: a hint.
        spot.parts.fetch_slot(self.part(spot.bucket).next.load(Ordering::Relaxed));
    }

    /// The same for the entry that a block has, most likely.
    #[inline]
    pub(crate) fn fetch_entry(&self, spot: &Spot) {
        // SAFETY: heads are never unmapped, and all accesses to them are atomic.
        let head = unsafe { AtomicU32::from_ptr(spot.parts.head(spot.bucket).as_ptr()) };
        // Relaxed: a hint.
        spot.parts.fetch_slot(head.load(Ordering::Relaxed));
    }

    /// Adds a block, and calls `then` with what became of it, while the stripe is held. `spot` is
    /// where it is to be, if that is known.
    ///
    /// `wanted` is asked under the stripe too: who knows that it is false, and finds the stripe
    /// empty, knows that it stays so.
    #[inline]
    pub(crate) fn add(
        &self,
        block: Block,
        spot: Option<Spot>,
        entry: Entry,
        wanted: impl FnOnce() -> bool,
        then: impl FnOnce(Added),
    ) {
        // May map it: before the lock.
        let spot = spot.or_else(|| Some(self.spot_in(self.area.start()?, block)));
        let part = self.part(spot.map_or(0, |spot| spot.bucket));
        let mut stripe = part.lock.lock();
        if stripe.next() == 0 && self.is_used_up() {
            // One lock at a time.
            drop(stripe);
            let spare = self.take_spare();
            stripe = part.lock.lock();
            self.put_spare(&mut stripe, spare);
        }
        let added = match spot {
            _ if !wanted() => Added::Unwanted,
            Some(spot) => {
                // SAFETY: the stripe is held.
                unsafe { spot.add(self, &mut stripe, entry) }
            }
            None => Added::Full,
        };
        // Relaxed: a hint.
        part.next.store(stripe.next(), Ordering::Relaxed);
        match &added {
            Added::New => {
                self.count(block.addr().get(), true);
                self.classes.add(&entry);
            }
            Added::Replaced(old) => {
                self.classes.add(&entry);
                self.classes.remove(old);
            }
            Added::Full | Added::Unwanted => {}
        }
        if added == Added::Full {
            // Relaxed: a count.
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        then(added);
    }

    /// Removes a block, and calls `then` with its entry if it was there, while the stripe is held.
    #[inline]
    pub(crate) fn remove(&self, spot: &Spot, then: impl FnOnce(Entry)) {
        let part = self.part(spot.bucket);
        let mut stripe = part.lock.lock();
        // SAFETY: the stripe is held.
        if let Some(entry) = unsafe { spot.remove(&mut stripe) } {
            // Relaxed: a hint.
            part.next.store(stripe.free, Ordering::Relaxed);
            self.count(spot.address, false);
            self.classes.remove(&entry);
            // Relaxed, twice: a hint.
            if self.exhausted.load(Ordering::Relaxed) {
                self.exhausted.store(false, Ordering::Relaxed);
            }
            then(entry);
        }
    }

    /// Gives a block another size, and calls `then` with its entry before and after if it is there,
    /// while the stripe is held.
    pub(crate) fn resize(&self, block: Block, requested: u64, then: impl FnOnce(Entry, Entry)) {
        let Some(spot) = self.spot(block) else { return };
        let _stripe = self.part(spot.bucket).lock.lock();
        // SAFETY: the stripe is held.
        let (_, number) = unsafe { spot.link() };
        if number == 0 {
            return;
        }
        let at = spot.parts.slot(number);
        // SAFETY: an entry of this stripe (1).
        let old = unsafe { at.read() };
        let entry = old.entry();
        let new = Entry { requested, ..entry };
        // SAFETY: as above.
        unsafe { at.write(Slot::new(spot.address, old.next, new)) };
        then(entry, new);
    }

    /// Whether every entry is some stripe's, and some stripe may have one to spare.
    #[inline]
    fn is_used_up(&self) -> bool {
        let Some(start) = self.area.mapped() else { return false };
        // Relaxed, here and below: counts and a hint; entries are guarded by stripes.
        let used = self.used.load(Ordering::Relaxed) as usize;
        used + 1 >= self.capacity(&self.parts(start)) && !self.exhausted.load(Ordering::Relaxed)
    }

    /// An entry that any stripe can spare; 0 where none can. Until [`put_spare`](Live::put_spare)
    /// it is this thread's alone.
    #[cold]
    #[inline(never)]
    fn take_spare(&self) -> u32 {
        let Some(start) = self.area.mapped() else { return 0 };
        let parts = self.parts(start);
        for part in &self.stripes {
            let mut stripe = part.lock.lock();
            // SAFETY: the stripe is held.
            let spare = unsafe { parts.take(&mut stripe) };
            if spare != 0 {
                self.moving.fetch_add(1, Ordering::Relaxed);
                return spare;
            }
        }
        self.exhausted.store(true, Ordering::Relaxed);
        0
    }

    /// Gives an entry that [`take_spare`](Live::take_spare) found to a stripe.
    fn put_spare(&self, stripe: &mut Stripe, spare: u32) {
        let Some(start) = self.area.mapped() else { return };
        if spare == 0 {
            return;
        }
        // SAFETY: this thread's alone until now.
        unsafe { self.parts(start).slot(spare).write(Slot::free(stripe.free)) };
        stripe.free = spare;
        self.moving.fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes a row of entries that are nobody's yet, as long as there are some.
    #[cold]
    fn take_row(&self, parts: &Parts, stripe: &mut Stripe) {
        let capacity = self.capacity(parts);
        // A small table is not to be given away to the first few stripes.
        let row = (capacity / (STRIPES * 8)).clamp(1, ROW);
        let take = |used: u32| {
            let end = (used as usize + row).min(capacity.saturating_sub(1));
            // Inside the area, where numbers fit.
            (end > used as usize).then_some(end as u32)
        };
        // Relaxed, twice: only hands out numbers; what is written to an entry is guarded by its stripe.
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        if let Ok(before) = taken {
            stripe.unused = before + 1;
            stripe.unused_end = take(before).unwrap_or(before) + 1;
        }
    }

    /// Holds all stripes, and so everything that is changed under one.
    pub(crate) fn hold(&self) -> Held<'_> {
        Held { live: self, guards: self.stripes.each_ref().map(|part| part.lock.lock()) }
    }

    /// Whether no block is recorded. Takes one stripe after the other: holds for good where nothing
    /// is added any more.
    pub(crate) fn is_empty(&self) -> bool {
        self.stripes.iter().all(|part| part.lock.lock().live == 0)
    }

    /// Blocks that had no room.
    pub(crate) fn dropped(&self) -> u64 {
        // Relaxed: a count.
        self.dropped.load(Ordering::Relaxed)
    }

    /// Bytes of pages that are backed by memory, and of the filter.
    pub(crate) fn bytes(&self) -> usize {
        self.area.mapped().map_or(0, |_| self.area.backed() + FILTER)
    }

    pub(crate) fn lock_for_fork(&self) {
        self.stripes.iter().for_each(|part| part.lock.lock_for_fork());
    }

    pub(crate) fn unlock_after_fork(&self) {
        self.stripes.iter().for_each(|part| part.lock.unlock_after_fork());
    }
}

/// All stripes are held for as long as this lives.
pub(crate) struct Held<'a> {
    live: &'a Live,
    guards: [Guard<'a, Stripe>; STRIPES],
}

impl Held<'_> {
    /// Takes every block out, and calls `f` with its entry.
    pub(crate) fn clear(&mut self, mut f: impl FnMut(Entry)) {
        let Some(start) = self.live.area.mapped() else { return };
        let parts = self.live.parts(start);
        for bucket in 0..parts.buckets {
            let Some(stripe) = self.guards.get_mut(stripe_of(bucket)) else { continue };
            // SAFETY: all stripes are held.
            while let Some(address) = unsafe { parts.first(bucket) } {
                // SAFETY: as above.
                let entry = unsafe { Spot { address, parts, bucket }.remove(stripe) };
                self.live.count(address, false);
                if let Some(entry) = entry {
                    self.live.classes.remove(&entry);
                    f(entry);
                }
            }
        }
    }

    /// Calls `f` with the address of every recorded block and its entry.
    pub(crate) fn for_each(&self, mut f: impl FnMut(usize, Entry)) {
        let Some(start) = self.live.area.mapped() else { return };
        let parts = self.live.parts(start);
        // Relaxed: entries are used under the stripes, which are held.
        let used = self.live.used.load(Ordering::Relaxed);
        for number in 1..=used {
            if (number as usize) < self.live.capacity(&parts) {
                // SAFETY: inside the area; all stripes are held.
                let slot = unsafe { parts.slot(number).read() };
                if slot.address != 0 {
                    f(slot.address, slot.entry());
                }
            }
        }
    }
}
