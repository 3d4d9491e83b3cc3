//! Whether the invariants of the table hold.
//!
//! Unsafe, as in `live`: entries are read while all stripes are held.

use super::{FILTER, Held, Parts, STRIPE_BITS, STRIPES, Stripe, filter_index};
use core::sync::atomic::{AtomicU8, Ordering};

impl Held<'_> {
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
        // Relaxed: changed under stripes, which are held.
        if seen + self.live.moving.load(Ordering::Relaxed) as u64 != used as u64 {
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
                if slot.address == 0 || parts.bucket_of(slot.address) != bucket {
                    return Err("live 1: an entry in another's chain");
                }
                // SAFETY: all stripes are held.
                if unsafe { parts.link(slot.address) }.1 != number {
                    return Err("live 2: an address twice");
                }
                let index = filter_index(slot.address) % counts.len();
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
