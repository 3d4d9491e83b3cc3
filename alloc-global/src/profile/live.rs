//! Recorded blocks that are live, by address.
//!
//! ```text
//! address:  | MiB .. | 19 stripe (6) 14 | 13 .. offset in a page of 16 KiB .. |
//!                    | 19 filter (15)                    5 |
//! bucket:   in the stripe's part, at a place that the MiB is hashed to, plus the offset in steps of 16 bytes
//!
//! area:  | heads: u32 per bucket | entry 1 | entry 2 | entry 3 | ...          | not used |
//!          a head, and each entry, names the next entry of its bucket; 0 is none
//! filter: a count per 15 bits of the address, that stays at 255 once it was there
//! ```
//!
//! Blocks that lie side by side, as most do that are allocated one after the other, have their heads side by side and one
//! stripe: a table of all blocks is many times larger than a processor's caches.
//!
//! Each bucket, each count of the filter and each list of free entries belongs to one of 64 stripes, and each stripe has a
//! leaf lock, held for some ten steps.
//!
//! Order. A block is removed before its memory can be handed out again, and added before the program has it: its
//! removal comes before the lock or queue by which another thread gets the block, and that before its next
//! addition. So an address is in the table at most once; one that was freed unseen (while nothing was watched) is
//! replaced when it comes again. For the same reason the filter needs no order of its own: the count of a block
//! went up before the program could pass the block on, and comes down only when it is freed.
//!
//! Invariants, for who holds the stripe:
//!
//! 1. An entry is in the chain of its address's bucket or in its stripe's list of free entries, never in both, and in each once; or on its
//!    way from one list to another.
//! 2. No two entries have the same address.
//! 3. A count of the filter is at least the number of entries that it counts, or 255.
//!
//! The filter has 32,768 counts: with `n` recorded blocks live, `1 - exp(-n / 32768)` of all others are taken for
//! recorded (1,000: 3 %; 10,000: 26 %), and cost a look into their bucket.

mod check;

use super::pages::Area;
use super::sites::SiteRef;
use super::stack::GOLDEN;
use crate::lock::{Guard, Lock};
use crate::mid_class::MID_MAX;
use alloc_core::Block;
use core::mem::offset_of;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

const STRIPE_BITS: u32 = 6;
const STRIPES: usize = 1 << STRIPE_BITS;
const FILTER_BITS: u32 = 15;

/// Counts of the filter.
pub(crate) const FILTER: usize = 1 << FILTER_BITS;

/// Bytes of the area for each bucket: about as many buckets as entries.
const BYTES_PER_BUCKET: usize = 64;

/// A recorded block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) size: u64,
    pub(crate) requested: u64,
    /// Of the monotonic clock, in microseconds.
    pub(crate) birth: u64,
    /// How many blocks it stands for, in parts of `WEIGHT_ONE`.
    pub(crate) weight: u64,
    /// Of the allocation among all.
    pub(crate) stamp: u64,
    pub(crate) site: SiteRef,
}

impl Entry {
    /// The bytes that the allocator's own counters count for the block: its class's, above 1 KiB the layout's.
    #[inline]
    pub(crate) fn counted(&self) -> u64 {
        if self.size > MID_MAX as u64 { self.requested } else { self.size }
    }
}

/// An entry in its place.
///
/// ```text
///   0 address   8 next (4)  12 site (4)  16 size  24 requested  32 birth  40 weight  48 stamp
/// ```
#[repr(C)]
#[derive(Clone, Copy)]
struct Slot {
    address: usize,
    next: u32,
    site: u32,
    size: u64,
    requested: u64,
    birth: u64,
    weight: u64,
    stamp: u64,
}

const _: () = assert!(offset_of!(Slot, next) == 8 && offset_of!(Slot, stamp) == 48);
const _: () = assert!(size_of::<Slot>() == 56);

impl Slot {
    fn entry(&self) -> Entry {
        let Slot { size, requested, birth, weight, stamp, .. } = *self;
        Entry { size, requested, birth, weight, stamp, site: SiteRef(self.site) }
    }
}

/// What a stripe has to itself.
struct Stripe {
    /// The first of its free entries.
    free: u32,
    /// Entries in chains.
    live: u32,
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
}

/// All recorded blocks.
pub(crate) struct Live {
    area: Area,
    stripes: [Lock<Stripe>; STRIPES],
    filter: [AtomicU8; FILTER],
    /// Entries that were ever used: 1 to this.
    used: AtomicU32,
    /// Entries on their way from one stripe to another.
    moving: AtomicU32,
    /// Whether no stripe had a free entry when one was looked for.
    exhausted: AtomicBool,
    /// Blocks that had no room.
    dropped: AtomicU64,
}

/// Bits of an offset in what has one stripe: a pool.
const PAGE_BITS: u32 = 14;

/// Bits of an address below those of the filter.
const FILTER_SHIFT: u32 = 5;

/// Bits of an address below those of its bucket.
const BUCKET_SHIFT: u32 = 4;

// A count of the filter belongs to one stripe.
const _: () = assert!(PAGE_BITS + STRIPE_BITS == FILTER_SHIFT + FILTER_BITS);

#[inline]
fn stripe_of(address: usize) -> usize {
    address >> PAGE_BITS & (STRIPES - 1)
}

#[inline]
fn filter_index(address: usize) -> usize {
    address >> FILTER_SHIFT & (FILTER - 1)
}

/// Where the entries of an area are.
#[derive(Clone, Copy)]
struct Parts {
    heads: NonNull<u32>,
    bucket_bits: u32,
    slots: NonNull<Slot>,
}

impl Live {
    /// A table in an area of as many bytes as `len` says.
    pub(crate) const fn new(len: fn() -> usize) -> Self {
        Live {
            area: Area::new(len),
            stripes: [const { Lock::new(Stripe { free: 0, live: 0 }) }; STRIPES],
            filter: [const { AtomicU8::new(0) }; FILTER],
            used: AtomicU32::new(0),
            moving: AtomicU32::new(0),
            exhausted: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
        }
    }

    #[inline]
    fn parts(&self, start: NonNull<u8>) -> Parts {
        let len = self.area.len();
        let bucket_bits = (len / BYTES_PER_BUCKET).max(STRIPES).ilog2();
        let heads = (size_of::<u32>() << bucket_bits).next_multiple_of(align_of::<Slot>());
        // SAFETY: heads are a sixteenth of the area, which is a page at least.
        let slots = unsafe { start.add(heads) }.cast();
        Parts { heads: start.cast(), bucket_bits, slots }
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

    /// Whether any of these blocks may be in the table.
    #[inline]
    pub(crate) fn may_hold_any(&self, blocks: &[Block]) -> bool {
        // No branch for each.
        let seen = |any: u8, block: &Block| {
            let count = self.filter.get(filter_index(block.addr().get()));
            // Relaxed: see "Order" in the head of this file.
            any | count.map_or(0, |count| count.load(Ordering::Relaxed))
        };
        blocks.iter().fold(0, seen) != 0
    }

    #[inline]
    fn stripe(&self, address: usize) -> &Lock<Stripe> {
        // Below the length; the first stripe stands for what cannot be.
        let [first, ..] = &self.stripes;
        self.stripes.get(stripe_of(address)).unwrap_or(first)
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

    /// Adds a block, and calls `then` with what became of it, while the stripe is held.
    #[inline]
    pub(crate) fn add(&self, block: Block, entry: Entry, then: impl FnOnce(Added)) {
        let address = block.addr().get();
        // May map it: before the lock.
        let start = self.area.start();
        let mut stripe = self.stripe(address).lock();
        if stripe.free == 0 && self.is_used_up() {
            // One lock at a time.
            drop(stripe);
            let spare = self.take_spare();
            stripe = self.stripe(address).lock();
            self.put_spare(&mut stripe, spare);
        }
        let added = match start {
            Some(start) => {
                // SAFETY: the stripe is held.
                unsafe { self.parts(start).add(self, &mut stripe, address, entry) }
            }
            None => Added::Full,
        };
        if added == Added::New {
            self.count(address, true);
        }
        if added == Added::Full {
            // Relaxed: a count.
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        then(added);
    }

    /// Removes a block, and calls `then` with its entry if it was there, while the stripe is held.
    #[inline]
    pub(crate) fn remove(&self, block: Block, then: impl FnOnce(Entry)) {
        let Some(start) = self.area.mapped() else { return };
        let address = block.addr().get();
        let mut stripe = self.stripe(address).lock();
        // SAFETY: the stripe is held.
        if let Some(entry) = unsafe { self.parts(start).remove(&mut stripe, address) } {
            self.count(address, false);
            // Relaxed, twice: a hint.
            if self.exhausted.load(Ordering::Relaxed) {
                self.exhausted.store(false, Ordering::Relaxed);
            }
            then(entry);
        }
    }

    /// Gives a block another size, and calls `then` with its entry before and after if it is there, while the stripe is held.
    pub(crate) fn resize(&self, block: Block, requested: u64, then: impl FnOnce(Entry, Entry)) {
        let Some(start) = self.area.mapped() else { return };
        let address = block.addr().get();
        let _stripe = self.stripe(address).lock();
        let parts = self.parts(start);
        // SAFETY: the stripe is held.
        let (_, number) = unsafe { parts.link(address) };
        if number == 0 {
            return;
        }
        let at = parts.slot(number);
        // SAFETY: an entry of this stripe (1).
        let old = unsafe { at.read() };
        let new = Slot { requested, ..old };
        // SAFETY: as above.
        unsafe { at.write(new) };
        then(old.entry(), new.entry());
    }

    /// Whether every entry was used, and some stripe may have a free one.
    #[inline]
    fn is_used_up(&self) -> bool {
        let Some(start) = self.area.mapped() else { return false };
        // Relaxed, here and below: counts and a hint; entries are guarded by stripes.
        let used = self.used.load(Ordering::Relaxed) as usize;
        used + 1 >= self.capacity(&self.parts(start)) && !self.exhausted.load(Ordering::Relaxed)
    }

    /// A free entry out of any stripe; 0 where none has one. Until [`put_spare`](Live::put_spare) it is this thread's alone.
    #[cold]
    #[inline(never)]
    fn take_spare(&self) -> u32 {
        let Some(start) = self.area.mapped() else { return 0 };
        let parts = self.parts(start);
        for stripe in &self.stripes {
            let mut stripe = stripe.lock();
            let free = stripe.free;
            if free != 0 {
                // SAFETY: a free entry of this stripe (1).
                stripe.free = unsafe { parts.slot(free).read() }.next;
                self.moving.fetch_add(1, Ordering::Relaxed);
                return free;
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
        let at = self.parts(start).slot(spare);
        // SAFETY: this thread's alone until now.
        let slot = unsafe { at.read() };
        // SAFETY: as above.
        unsafe { at.write(Slot { address: 0, next: stripe.free, ..slot }) };
        stripe.free = spare;
        self.moving.fetch_sub(1, Ordering::Relaxed);
    }

    /// An entry that was never used; 0 where there is none.
    #[inline]
    fn fresh(&self, parts: &Parts) -> u32 {
        let capacity = self.capacity(parts);
        // Relaxed, twice: only hands out numbers; what is written to the entry is guarded by its stripe.
        let used = self.used.load(Ordering::Relaxed);
        if used as usize + 1 >= capacity {
            return 0;
        }
        let mine = self.used.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if (mine as usize) < capacity {
            return mine;
        }
        // Others took the last ones meanwhile: the number stays out of use.
        self.used.fetch_sub(1, Ordering::Relaxed);
        0
    }

    /// Holds all stripes, and so everything that is changed under one.
    pub(crate) fn hold(&self) -> Held<'_> {
        Held { live: self, guards: self.stripes.each_ref().map(Lock::lock) }
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
        self.stripes.iter().for_each(Lock::lock_for_fork);
    }

    pub(crate) fn unlock_after_fork(&self) {
        self.stripes.iter().for_each(Lock::unlock_after_fork);
    }
}

impl Parts {
    /// # Safety
    ///
    /// `index` is below the number of buckets.
    #[inline]
    unsafe fn head(&self, index: usize) -> NonNull<u32> {
        // SAFETY: inside the heads.
        unsafe { self.heads.add(index) }
    }

    /// The number of an address's bucket.
    #[inline]
    fn bucket_of(&self, address: usize) -> usize {
        let bits = self.bucket_bits - STRIPE_BITS;
        // Fibonacci hashing (Knuth, 6.4): the top bits are good.
        let mixed = (address as u64 >> (PAGE_BITS + STRIPE_BITS)).wrapping_mul(GOLDEN);
        // In two steps: there may be no bits.
        let place = (mixed >> 1 >> (u64::BITS - 1 - bits)) as usize;
        let offset = (address & ((1 << PAGE_BITS) - 1)) >> BUCKET_SHIFT;
        stripe_of(address) << bits | (place + offset) & ((1 << bits) - 1)
    }

    #[inline]
    fn bucket(&self, address: usize) -> NonNull<u32> {
        // SAFETY: as many bits as there are buckets.
        unsafe { self.head(self.bucket_of(address)) }
    }

    /// The place of an entry. `number` came from a head, an entry or `fresh`: below `capacity`.
    #[inline]
    fn slot(&self, number: u32) -> NonNull<Slot> {
        // SAFETY: inside the area.
        unsafe { self.slots.add(number as usize) }
    }

    /// The word that names the entry of an address in its chain, or the last word of the chain, which is 0.
    ///
    /// # Safety
    ///
    /// The stripe of the address is held.
    #[inline]
    unsafe fn link(&self, address: usize) -> (NonNull<u32>, u32) {
        let mut link = self.bucket(address);
        loop {
            // SAFETY: a head or the link of an entry of this stripe, which is held.
            let number = unsafe { link.read() };
            if number == 0 {
                return (link, 0);
            }
            let slot = self.slot(number);
            // SAFETY: an entry of this stripe (1).
            if unsafe { slot.cast::<usize>().read() } == address {
                return (link, number);
            }
            // SAFETY: inside the entry; the field `next`.
            link = unsafe { slot.byte_add(offset_of!(Slot, next)) }.cast();
        }
    }

    /// # Safety
    ///
    /// `stripe` is that of the address.
    #[inline]
    unsafe fn add(&self, live: &Live, stripe: &mut Stripe, address: usize, entry: Entry) -> Added {
        // SAFETY: the stripe is held.
        let (link, found) = unsafe { self.link(address) };
        let Entry { size, requested, birth, weight, stamp, site } = entry;
        let mut slot =
            Slot { address, next: 0, site: site.0, size, requested, birth, weight, stamp };
        if found != 0 {
            let at = self.slot(found);
            // SAFETY: an entry of this stripe (1).
            let old = unsafe { at.read() };
            slot.next = old.next;
            // SAFETY: as above.
            unsafe { at.write(slot) };
            return Added::Replaced(old.entry());
        }
        let number = match stripe.free {
            0 => live.fresh(self),
            free => {
                // SAFETY: a free entry of this stripe (1).
                stripe.free = unsafe { self.slot(free).read() }.next;
                free
            }
        };
        if number == 0 {
            return Added::Full;
        }
        // SAFETY: neither in a chain nor free any more: this stripe's to write.
        unsafe { self.slot(number).write(slot) };
        // SAFETY: the last word of the chain, in this stripe.
        unsafe { link.write(number) };
        stripe.live += 1;
        Added::New
    }

    /// # Safety
    ///
    /// `stripe` is that of the address.
    #[inline]
    unsafe fn remove(&self, stripe: &mut Stripe, address: usize) -> Option<Entry> {
        // SAFETY: the stripe is held.
        let (link, number) = unsafe { self.link(address) };
        if number == 0 {
            return None;
        }
        let at = self.slot(number);
        // SAFETY: an entry of this stripe (1).
        let slot = unsafe { at.read() };
        // SAFETY: the word that named it, in this stripe.
        unsafe { link.write(slot.next) };
        // SAFETY: out of its chain: this stripe's to write.
        unsafe { at.write(Slot { address: 0, next: stripe.free, ..slot }) };
        stripe.free = number;
        stripe.live -= 1;
        Some(slot.entry())
    }
}

/// All stripes are held for as long as this lives.
pub(crate) struct Held<'a> {
    live: &'a Live,
    guards: [Guard<'a, Stripe>; STRIPES],
}

impl Held<'_> {
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
