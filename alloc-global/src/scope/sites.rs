//! Who allocates in a scope: stacks, each with what it allocated and what of that is live, in pages
//! of their own.
//!
//! ```text
//! slot 0: all that has no other    slots 1 to 255: a stack each, in the order of its hash's probe; at most half are used
//! ```
//!
//! Invariants:
//!
//! 1. The counts of all slots sum to what was noted: a stack that has no room, or was not walked,
//!    counts in slot 0.
//! 2. A slot that is used stays: a site's number is good for as long as the table is there.
//!
//! For one thread, the scope's. Nothing here allocates. Unsafe to use those pages.

use crate::profile;
use alloc_core::{OsPages, PAGE_SIZE, PageSource};
use core::ptr::NonNull;

/// Slots of a table.
const SLOTS: usize = 256;

/// Frames of each stack.
const FRAMES: usize = 32;

/// Stacks that are walked where that takes the C library's unwinder, at microseconds each: those of
/// the first allocations.
const MOST_UNWOUND: u32 = 4_096;

/// What one site did in a scope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SiteCounts {
    /// Blocks allocated, those that a `realloc` moved into among them.
    pub(crate) allocs: u64,
    /// Their bytes.
    pub(crate) alloc_bytes: u64,
    /// Blocks of them that the thread did not free.
    pub(crate) live: u64,
    /// Their bytes.
    pub(crate) live_bytes: u64,
}

#[repr(C)]
struct Slot {
    /// 0 in a free one.
    hash: u64,
    frames: usize,
    stack: [usize; FRAMES],
    counts: SiteCounts,
}

#[repr(C)]
struct Table {
    used: usize,
    noted: u32,
    slots: [Slot; SLOTS],
}

const LEN: usize = size_of::<Table>().next_multiple_of(PAGE_SIZE);

/// The sites of one scope.
#[derive(Debug)]
pub(crate) struct Sites(NonNull<Table>);

impl Sites {
    /// An empty table; `None` where there is no memory for it.
    pub(crate) fn new() -> Option<Sites> {
        // Fresh pages are zeros, and those are an empty table.
        Some(Sites(OsPages.map(LEN, PAGE_SIZE)?.cast()))
    }

    fn table(&self) -> &Table {
        // SAFETY: mapped for as long as this value is there, and changed through it only.
        unsafe { self.0.as_ref() }
    }

    fn table_mut(&mut self) -> &mut Table {
        // SAFETY: as in `table`.
        unsafe { self.0.as_mut() }
    }

    /// A block was allocated here; returns the number of its site.
    pub(crate) fn note_alloc(&mut self, size: usize) -> u8 {
        let mut stack = [0; FRAMES];
        let table = self.table_mut();
        table.noted = table.noted.saturating_add(1);
        let frames = profile::stack_here(&mut stack, table.noted <= MOST_UNWOUND);
        let site = table.place(stack.get(..frames).unwrap_or_default());
        if let Some(Slot { counts, .. }) = table.slots.get_mut(usize::from(site)) {
            counts.allocs += 1;
            counts.alloc_bytes += size as u64;
            counts.live += 1;
            counts.live_bytes += size as u64;
        }
        site
    }

    /// A block of this site was freed.
    pub(crate) fn note_free(&mut self, site: u8, size: usize) {
        if let Some(Slot { counts, .. }) = self.table_mut().slots.get_mut(usize::from(site)) {
            counts.live = counts.live.saturating_sub(1);
            // A block that was resized in its place is freed with another size.
            counts.live_bytes = counts.live_bytes.saturating_sub(size as u64);
        }
    }

    /// The return addresses of each stack, the innermost first, and what it did; the empty one is
    /// all that has no other.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[usize], SiteCounts)> {
        let used = self.table().slots.iter().filter(|slot| slot.counts.allocs > 0);
        used.map(|slot| (slot.stack.get(..slot.frames).unwrap_or_default(), slot.counts))
    }

    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> u64 {
        LEN as u64
    }
}

impl Drop for Sites {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length, and nobody's any more.
        unsafe { OsPages.unmap(self.0.cast(), LEN) };
    }
}

impl Table {
    /// The number of a stack's slot, a new one if there is room; 0 where there is none (1).
    fn place(&mut self, stack: &[usize]) -> u8 {
        if stack.is_empty() {
            return 0;
        }
        let hash = stack.iter().fold(0, |hash, &address| profile::mix(hash, address as u64)).max(1);
        // The upper bits are the best mixed.
        let mut at = (hash >> 56) as u8;
        loop {
            // Slot 0 is nobody's; a free one is there, for at most half are used.
            at = at.wrapping_add(u8::from(at == 0));
            let is_full = self.used >= SLOTS / 2;
            let Some(slot) = self.slots.get_mut(usize::from(at)) else { return 0 };
            match slot.hash {
                0 if is_full => return 0,
                0 => break,
                found if found == hash && slot.stack.get(..slot.frames) == Some(stack) => {
                    return at;
                }
                _ => at = at.wrapping_add(1),
            }
        }
        if let Some(slot) = self.slots.get_mut(usize::from(at)) {
            self.used += 1;
            slot.hash = hash;
            slot.frames = stack.len();
            slot.stack.iter_mut().zip(stack).for_each(|(to, from)| *to = *from);
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn stacks_are_told_apart_and_what_has_no_room_is_counted_together() {
        let mut sites = Sites::new().unwrap();
        let table = sites.table_mut();
        let stack = |number: usize| [number * 16, 7, number % 3];
        let mut places = HashMap::new();
        for number in 0..SLOTS {
            let place = table.place(&stack(number));
            if place != 0 {
                assert_eq!(places.insert(place, number), None, "one for each");
            }
        }
        assert_eq!(places.len(), SLOTS / 2, "as many as fit");
        for (place, number) in &places {
            assert_eq!(table.place(&stack(*number)), *place);
            assert_eq!(table.place(stack(*number).get(..2).unwrap()), 0, "another stack");
        }
        assert_eq!(table.place(&[]), 0);
    }

    #[test]
    fn counts_sum_to_what_was_noted_also_beyond_what_is_walked() {
        let mut sites = Sites::new().unwrap();
        let all = u64::from(MOST_UNWOUND) + 10;
        let noted: Vec<u8> = (0..all).map(|_| sites.note_alloc(24)).collect();
        noted.iter().take(4).for_each(|site| sites.note_free(*site, 24));
        let sum = |of: fn(SiteCounts) -> u64| sites.iter().map(|site| of(site.1)).sum::<u64>();
        assert_eq!((sum(|site| site.allocs), sum(|site| site.alloc_bytes)), (all, all * 24));
        assert_eq!((sum(|site| site.live), sum(|site| site.live_bytes)), (all - 4, all * 24 - 96));
        if cfg!(feature = "report") {
            let walked = sites.iter().filter(|site| !site.0.is_empty());
            let walked: u64 = walked.map(|site| site.1.allocs).sum();
            // All of them with frame pointers.
            assert!([u64::from(MOST_UNWOUND), all].contains(&walked), "{walked}");
        }
    }
}
