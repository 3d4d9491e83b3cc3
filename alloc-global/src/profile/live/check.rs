//! Whether the invariants of the table hold.
//!
//! Unsafe, as in `live`: entries are read while all stripes are held.

use super::classes::index_of;
use super::{Held, Parts, STRIPES, Spot, filter_index, stripe_of};
use alloc_core::CLASS_TABLE;
use core::sync::atomic::{AtomicU8, Ordering};

impl Held<'_> {
    /// Verifies invariants 1 to 4, without memory: nothing may ask for any while the stripes are held.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let Some(start) = self.live.area.mapped() else { return Ok(()) };
        let parts = self.live.parts(start);
        let used = self.live.used.load(Ordering::Relaxed);
        let chained = self.check_chains(&parts, used)?;
        let mut seen = 0u64;
        for (guard, chained) in self.guards.iter().zip(chained) {
            if guard.live != chained {
                return Err("live 1: a stripe counts other than its chains");
            }
            seen += u64::from(chained);
            if guard.unused_end > used + 1 || guard.unused > guard.unused_end {
                return Err("live 1: a row beyond the last entry");
            }
            seen += u64::from(guard.unused_end - guard.unused);
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
        // Relaxed: changed under stripes, which are held.
        if seen + self.live.moving.load(Ordering::Relaxed) as u64 != used as u64 {
            return Err("live 1: an entry is neither in a chain nor free");
        }
        self.check_classes(&parts, used)?;
        self.check_filter(&parts, used)
    }

    /// Verifies the counts of samples by class.
    fn check_classes(&self, parts: &Parts, used: u32) -> Result<(), &'static str> {
        let mut counts = [0u32; CLASS_TABLE];
        for number in 1..=used {
            // SAFETY: an entry; all stripes are held.
            let slot = unsafe { parts.slot(number).read() };
            if slot.address != 0 && !slot.entry().exact {
                counts.get_mut(index_of(&slot.entry())).into_iter().for_each(|count| *count += 1);
            }
        }
        let differs = |(index, count): (usize, &u32)| self.live.classes.samples(index) != *count;
        if counts.iter().enumerate().any(differs) {
            return Err("live 4: samples of a class are counted wrong");
        }
        Ok(())
    }

    /// Verifies all chains. Returns how many entries are in those of each stripe.
    fn check_chains(&self, parts: &Parts, used: u32) -> Result<[u32; STRIPES], &'static str> {
        let mut chained = [0u32; STRIPES];
        for bucket in 0..parts.buckets {
            let Some(chained) = chained.get_mut(stripe_of(bucket)) else { continue };
            let mut number = Held::first_of(parts, bucket);
            while number != 0 {
                if number > used || *chained > used {
                    return Err("live 1: a chain that leads nowhere");
                }
                // SAFETY: an entry; all stripes are held.
                let slot = unsafe { parts.slot(number).read() };
                if slot.address == 0 || parts.bucket_of(slot.address) != bucket {
                    return Err("live 1: an entry in another's chain");
                }
                let spot = Spot { address: slot.address, parts: *parts, bucket };
                // SAFETY: all stripes are held.
                if unsafe { spot.link() }.1 != number {
                    return Err("live 2: an address twice");
                }
                *chained += 1;
                number = slot.next;
            }
        }
        Ok(chained)
    }

    /// Verifies the filter: chunk by chunk, for there is no memory for all of it.
    fn check_filter(&self, parts: &Parts, used: u32) -> Result<(), &'static str> {
        const CHUNK: usize = 1024;
        for (chunk, filter) in self.live.filter.chunks(CHUNK).enumerate() {
            let mut counts = [0u32; CHUNK];
            for number in 1..=used {
                // SAFETY: an entry; all stripes are held.
                let address = unsafe { parts.slot(number).read() }.address;
                let index = filter_index(address).wrapping_sub(chunk * CHUNK);
                if address != 0 {
                    counts.get_mut(index).into_iter().for_each(|count| *count += 1);
                }
            }
            let low = |(count, want): (&AtomicU8, &u32)| {
                // Relaxed: the stripe is held.
                u32::from(count.load(Ordering::Relaxed)) < (*want).min(255)
            };
            if filter.iter().zip(&counts).any(low) {
                return Err("live 3: the filter counts too few");
            }
        }
        Ok(())
    }

    /// What the head of a bucket says.
    fn first_of(parts: &Parts, bucket: usize) -> u32 {
        // SAFETY: a head; all stripes are held.
        unsafe { Parts::read(parts.head(bucket)) }
    }
}
