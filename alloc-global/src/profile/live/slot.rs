//! An entry in its place, in five words: what is live of a program that is traced is many times
//! larger than a processor's caches.
//!
//! ```text
//!   0 address   8 next (4)  12 site (4)   16 requested (48 bits), lost (16)   24 birth (48), exact (1), -, lost (8)   32 weight
//! ```
//!
//! `lost` is what the block has beyond what was requested, 24 bits: at most a quarter of 32 MiB.
//! Births are in microseconds: 48 bits last nine years. No unsafe here.

use super::Entry;
use crate::profile::sites::SiteRef;
use core::mem::offset_of;

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Slot {
    pub(super) address: usize,
    pub(super) next: u32,
    site: u32,
    asked: u64,
    birth: u64,
    weight: u64,
}

const _: () = assert!(offset_of!(Slot, next) == 8 && size_of::<Slot>() == 40);

/// Bits of a size, and of a time.
const WIDE: u32 = 48;

const MOST: u64 = (1 << WIDE) - 1;

/// Where it says that all blocks were recorded.
const EXACT: u64 = 1 << WIDE;

/// Bits of what is lost, and how many of them lie beside the size.
const LOST: u32 = 24;
const LOST_LOW: u32 = u64::BITS - WIDE;
const LOST_HIGH: u32 = LOST - LOST_LOW;

impl Slot {
    /// An entry in a chain.
    #[inline]
    pub(super) fn new(address: usize, next: u32, entry: Entry) -> Slot {
        let Entry { size, requested, birth, weight, exact, site } = entry;
        let lost = size.saturating_sub(requested).min((1 << LOST) - 1);
        Slot {
            address,
            next,
            site: site.0,
            // Shifted out of the word: the upper bits of what is lost.
            asked: requested.min(MOST) | lost << WIDE,
            birth: birth.min(MOST)
                | if exact { EXACT } else { 0 }
                | lost >> LOST_LOW << (u64::BITS - LOST_HIGH),
            weight,
        }
    }

    /// A free entry.
    #[inline]
    pub(super) fn free(next: u32) -> Slot {
        Slot { address: 0, next, site: 0, asked: 0, birth: 0, weight: 0 }
    }

    #[inline]
    pub(super) fn entry(&self) -> Entry {
        let lost = self.asked >> WIDE | self.birth >> (u64::BITS - LOST_HIGH) << LOST_LOW;
        let requested = self.asked & MOST;
        Entry {
            size: requested + lost,
            requested,
            birth: self.birth & MOST,
            weight: self.weight,
            exact: self.birth & EXACT != 0,
            site: SiteRef(self.site),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_comes_out_as_it_went_in() {
        let most = (1 << LOST) - 1;
        for (requested, lost) in [(0, 8), (1, 511), (1_100, 180), (24 << 20, most), (MOST, 0)] {
            for (birth, exact) in [(0, true), (MOST, false), (1 << 47, true)] {
                let size = requested + lost;
                let (weight, site) = (u64::MAX - birth, SiteRef(lost as u32));
                let entry = Entry { size, requested, birth, weight, exact, site };
                let slot = Slot::new(4096, 7, entry);
                assert_eq!((slot.address, slot.next, slot.entry()), (4096, 7, entry));
            }
        }
    }
}
