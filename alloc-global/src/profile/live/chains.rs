//! The chains of the table's area: finding, adding and taking out an entry, for who holds its stripe.
//!
//! Invariants are those of `live`. Unsafe, as there: entries are read and written in mapped memory.

use super::{Added, BUCKET_SHIFT, Entry, GOLDEN, Live, MIB_BITS, Slot, Stripe};
use crate::prefetch::fetch;
use core::mem::offset_of;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};

/// Where the entries of an area are.
#[derive(Clone, Copy)]
pub(super) struct Parts {
    pub(super) heads: NonNull<u32>,
    pub(super) buckets: usize,
    pub(super) slots: NonNull<Slot>,
}

/// Where a block is to be looked for.
#[derive(Clone, Copy)]
pub(crate) struct Spot {
    pub(super) address: usize,
    pub(super) parts: Parts,
    pub(super) bucket: usize,
}

impl Parts {
    /// `bucket` is below the number of buckets.
    #[inline]
    pub(super) fn head(&self, bucket: usize) -> NonNull<u32> {
        // SAFETY: inside the heads.
        unsafe { self.heads.add(bucket) }
    }

    /// The number of an address's bucket.
    #[inline]
    pub(super) fn bucket_of(&self, address: usize) -> usize {
        // Memory that is mapped in one piece has buckets of its own as far as there are some;
        // pieces are strewn.
        let mixed = (address as u64 >> (MIB_BITS + 6)).wrapping_mul(GOLDEN);
        let piece = (mixed >> (u64::BITS - MIB_BITS)) as usize;
        ((address >> BUCKET_SHIFT) + (piece << (MIB_BITS - BUCKET_SHIFT))) & (self.buckets - 1)
    }

    /// The address of the first entry of a bucket.
    ///
    /// # Safety
    ///
    /// The stripe of the bucket is held.
    pub(super) unsafe fn first(&self, bucket: usize) -> Option<usize> {
        // SAFETY: a head; the caller's promise.
        match unsafe { Parts::read(self.head(bucket)) } {
            0 => None,
            // SAFETY: an entry of this stripe (1).
            number => Some(unsafe { self.slot(number).read() }.address),
        }
    }

    /// The place of an entry. `number` came from a head, an entry or a row: below `capacity`.
    #[inline]
    pub(super) fn slot(&self, number: u32) -> NonNull<Slot> {
        // SAFETY: inside the area.
        unsafe { self.slots.add(number as usize) }
    }

    #[inline]
    pub(super) fn fetch_slot(&self, number: u32) {
        let slot = self.slots.as_ptr().wrapping_add(number as usize);
        fetch(slot);
        // It may lie on two lines.
        fetch(slot.wrapping_byte_add(size_of::<Slot>() - 1));
    }

    /// What a head or the link of an entry says. Atomic, for heads are also looked at by who does
    /// not hold their stripe.
    ///
    /// # Safety
    ///
    /// `link` is a head, or the link of an entry of a stripe that is held.
    #[inline]
    pub(super) unsafe fn read(link: NonNull<u32>) -> u32 {
        // SAFETY: the caller's promise.
        let link = unsafe { AtomicU32::from_ptr(link.as_ptr()) };
        // Relaxed: guarded by the stripe.
        link.load(Ordering::Relaxed)
    }

    /// # Safety
    ///
    /// As for [`read`](Parts::read), and the stripe of the head is held.
    #[inline]
    pub(super) unsafe fn write(link: NonNull<u32>, number: u32) {
        // SAFETY: the caller's promise.
        let link = unsafe { AtomicU32::from_ptr(link.as_ptr()) };
        // Relaxed: guarded by the stripe.
        link.store(number, Ordering::Relaxed);
    }

    /// Takes an entry out of what a stripe has at hand; 0 where it has none.
    ///
    /// # Safety
    ///
    /// The stripe is held.
    #[inline]
    pub(super) unsafe fn take(&self, stripe: &mut Stripe) -> u32 {
        let number = stripe.next();
        if stripe.free != 0 {
            // SAFETY: a free entry of this stripe (1).
            stripe.free = unsafe { self.slot(number).read() }.next;
        } else if number != 0 {
            stripe.unused += 1;
        }
        number
    }
}

impl Spot {
    /// The word that names the entry of the address in its chain, or the last word of the chain,
    /// which is 0.
    ///
    /// # Safety
    ///
    /// The stripe of the bucket is held.
    #[inline]
    pub(super) unsafe fn link(&self) -> (NonNull<u32>, u32) {
        let mut link = self.parts.head(self.bucket);
        loop {
            // SAFETY: a head or the link of an entry of this stripe, which is held.
            let number = unsafe { Parts::read(link) };
            if number == 0 {
                return (link, 0);
            }
            let slot = self.parts.slot(number);
            // SAFETY: an entry of this stripe (1).
            if unsafe { slot.cast::<usize>().read() } == self.address {
                return (link, number);
            }
            // SAFETY: inside the entry; the field `next`.
            link = unsafe { slot.byte_add(offset_of!(Slot, next)) }.cast();
        }
    }

    /// # Safety
    ///
    /// `stripe` is that of the bucket.
    #[inline]
    pub(super) unsafe fn add(&self, live: &Live, stripe: &mut Stripe, entry: Entry) -> Added {
        // SAFETY: the stripe is held.
        let (link, found) = unsafe { self.link() };
        if found != 0 {
            let at = self.parts.slot(found);
            // SAFETY: an entry of this stripe (1).
            let old = unsafe { at.read() };
            // SAFETY: as above.
            unsafe { at.write(Slot::new(self.address, old.next, entry)) };
            return Added::Replaced(old.entry());
        }
        if stripe.next() == 0 {
            live.take_row(&self.parts, stripe);
        }
        // SAFETY: the stripe is held.
        let number = unsafe { self.parts.take(stripe) };
        if number == 0 {
            return Added::Full;
        }
        // SAFETY: neither in a chain nor free any more: this stripe's to write.
        unsafe { self.parts.slot(number).write(Slot::new(self.address, 0, entry)) };
        // SAFETY: the last word of the chain, in this stripe.
        unsafe { Parts::write(link, number) };
        stripe.live += 1;
        Added::New
    }

    /// # Safety
    ///
    /// `stripe` is that of the bucket.
    #[inline]
    pub(super) unsafe fn remove(&self, stripe: &mut Stripe) -> Option<Entry> {
        // SAFETY: the stripe is held.
        let (link, number) = unsafe { self.link() };
        if number == 0 {
            return None;
        }
        let at = self.parts.slot(number);
        // SAFETY: an entry of this stripe (1).
        let slot = unsafe { at.read() };
        // SAFETY: the word that named it, in this stripe.
        unsafe { Parts::write(link, slot.next) };
        // SAFETY: out of its chain: this stripe's to write.
        unsafe { at.write(Slot::free(stripe.free)) };
        stripe.free = number;
        stripe.live -= 1;
        Some(slot.entry())
    }
}
