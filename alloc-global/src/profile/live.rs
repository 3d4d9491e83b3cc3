//! Recorded blocks that are live, by address.
//!
//! ```text
//! hash of the address, from its top bits:   | stripe (6) | .. filter (15) | .. bucket (as many as the table has) | ..
//!
//! area:  | heads: u32 per bucket | entry 1 | entry 2 | entry 3 | ...          | not used |
//!          a head, and each entry, names the next entry of its bucket; 0 is none
//! filter: a count per 15 bits of hash, that stays at 255 once it was there
//! ```
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
//! 1. An entry is in the chain of its address's bucket or in its stripe's list of free entries, never in both, and in each once.
//! 2. No two entries have the same address.
//! 3. A count of the filter is at least the number of entries that it counts, or 255.
//!
//! The filter has 32,768 counts: with `n` recorded blocks live, `1 - exp(-n / 32768)` of all others are taken for
//! recorded (1,000: 3 %; 10,000: 26 %), and cost a look into their bucket.

use super::pages::Area;
use super::sites::SiteRef;
use crate::lock::{Guard, Lock};
use alloc_core::Block;
use core::mem::offset_of;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

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
    /// Blocks that had no room.
    dropped: AtomicU64,
}

/// Spreads addresses: the top bits are good.
#[inline]
fn hash(address: usize) -> u64 {
    (address as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[inline]
fn filter_index(hash: u64) -> usize {
    (hash >> (u64::BITS - FILTER_BITS)) as usize
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
        let index = filter_index(hash(block.addr().get()));
        // Relaxed: see "Order" in the head of this file.
        self.filter.get(index).is_some_and(|count| count.load(Ordering::Relaxed) != 0)
    }

    /// Whether any of these blocks may be in the table.
    #[inline]
    pub(crate) fn may_hold_any(&self, blocks: &[Block]) -> bool {
        // No branch for each.
        let seen = |any: u8, block: &Block| {
            let count = self.filter.get(filter_index(hash(block.addr().get())));
            // Relaxed: see "Order" in the head of this file.
            any | count.map_or(0, |count| count.load(Ordering::Relaxed))
        };
        blocks.iter().fold(0, seen) != 0
    }

    #[inline]
    fn stripe(&self, hash: u64) -> &Lock<Stripe> {
        // The top bits of a hash are below the length; the first stripe stands for what cannot be.
        let [first, ..] = &self.stripes;
        self.stripes.get((hash >> (u64::BITS - STRIPE_BITS)) as usize).unwrap_or(first)
    }

    /// The holder of the stripe counts one more entry, or one less.
    #[inline]
    fn count(&self, hash: u64, more: bool) {
        let Some(count) = self.filter.get(filter_index(hash)) else { return };
        // Relaxed, twice: only the holder of the stripe writes; see "Order" for readers.
        let now = count.load(Ordering::Relaxed);
        if now < u8::MAX {
            count.store(if more { now + 1 } else { now.saturating_sub(1) }, Ordering::Relaxed);
        }
    }

    /// Adds a block, and calls `then` with what became of it, while the stripe is held.
    #[inline]
    pub(crate) fn add(&self, block: Block, entry: Entry, then: impl FnOnce(Added)) {
        let hash = hash(block.addr().get());
        let mut stripe = self.stripe(hash).lock();
        let added = match self.area.start() {
            Some(start) => {
                // SAFETY: the stripe is held.
                unsafe { self.parts(start).add(self, &mut stripe, hash, block, entry) }
            }
            None => Added::Full,
        };
        if added == Added::New {
            self.count(hash, true);
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
        let hash = hash(block.addr().get());
        let mut stripe = self.stripe(hash).lock();
        // SAFETY: the stripe is held.
        if let Some(entry) = unsafe { self.parts(start).remove(&mut stripe, hash, block) } {
            self.count(hash, false);
            then(entry);
        }
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
        let Some(start) = self.area.mapped() else { return 0 };
        let parts = self.parts(start);
        // Relaxed: a count.
        let used = self.used.load(Ordering::Relaxed) as usize + 1;
        let heads = size_of::<u32>() << parts.bucket_bits;
        (heads + used * size_of::<Slot>()).next_multiple_of(alloc_core::PAGE_SIZE) + FILTER
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

    #[inline]
    fn bucket(&self, hash: u64) -> NonNull<u32> {
        // SAFETY: as many bits as there are buckets.
        unsafe { self.head((hash >> (u64::BITS - self.bucket_bits)) as usize) }
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
    unsafe fn link(&self, hash: u64, address: usize) -> (NonNull<u32>, u32) {
        let mut link = self.bucket(hash);
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
    /// `stripe` is that of the hash, which is that of the block.
    #[inline]
    unsafe fn add(
        &self,
        live: &Live,
        stripe: &mut Stripe,
        hash: u64,
        block: Block,
        entry: Entry,
    ) -> Added {
        let address = block.addr().get();
        // SAFETY: the stripe is held.
        let (link, found) = unsafe { self.link(hash, address) };
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
    /// `stripe` is that of the hash, which is that of the block.
    #[inline]
    unsafe fn remove(&self, stripe: &mut Stripe, hash: u64, block: Block) -> Option<Entry> {
        // SAFETY: the stripe is held.
        let (link, number) = unsafe { self.link(hash, block.addr().get()) };
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

    /// Verifies invariants 1 to 3, without memory: nothing may ask for any while the stripes are held.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let Some(start) = self.live.area.mapped() else { return Ok(()) };
        let parts = self.live.parts(start);
        let used = self.live.used.load(Ordering::Relaxed);
        let mut seen = 0u64;
        for (stripe, guard) in self.guards.iter().enumerate() {
            seen += self.check_stripe(&parts, stripe, guard, used)?;
            let mut number = guard.free;
            while number != 0 {
                seen += 1;
                if number > used || seen > used as u64 {
                    return Err("live 1: a list of free entries that leads nowhere");
                }
                // SAFETY: an entry; all stripes are held.
                number = unsafe { parts.slot(number).read() }.next;
            }
        }
        if seen != used as u64 {
            return Err("live 1: an entry is neither in a chain nor free");
        }
        Ok(())
    }

    /// Verifies the chains of one stripe and its part of the filter. Returns how many entries it has.
    fn check_stripe(
        &self,
        parts: &Parts,
        stripe: usize,
        guard: &Stripe,
        used: u32,
    ) -> Result<u64, &'static str> {
        let mut counts = [0u32; FILTER / STRIPES];
        let mut chained = 0;
        let buckets = 1usize << (parts.bucket_bits - STRIPE_BITS);
        for bucket in stripe * buckets..(stripe + 1) * buckets {
            // SAFETY: below the number of buckets.
            let head = unsafe { parts.head(bucket) };
            // SAFETY: all stripes are held.
            let mut number = unsafe { head.read() };
            while number != 0 {
                if number > used || chained > used {
                    return Err("live 1: a chain that leads nowhere");
                }
                // SAFETY: an entry; all stripes are held.
                let slot = unsafe { parts.slot(number).read() };
                let hash = hash(slot.address);
                if slot.address == 0 || hash >> (u64::BITS - parts.bucket_bits) != bucket as u64 {
                    return Err("live 1: an entry in another's chain");
                }
                // SAFETY: all stripes are held.
                if unsafe { parts.link(hash, slot.address) }.1 != number {
                    return Err("live 2: an address twice");
                }
                let index = filter_index(hash) % counts.len();
                counts.get_mut(index).into_iter().for_each(|count| *count += 1);
                chained += 1;
                number = slot.next;
            }
        }
        if guard.live != chained {
            return Err("live 1: a stripe counts other than its chains");
        }
        let low = |(count, want): (&AtomicU8, &u32)| {
            // Relaxed: the stripe is held.
            (count.load(Ordering::Relaxed) as u32) < (*want).min(255)
        };
        if self.live.filter.iter().skip(stripe * counts.len()).zip(&counts).any(low) {
            return Err("live 3: the filter counts too few");
        }
        Ok(chained as u64)
    }
}
