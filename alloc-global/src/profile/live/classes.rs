//! Of which size classes samples are live: of most, at most times, none is, and then none of their
//! blocks needs a look.
//!
//! Invariant, for who holds the stripe of an entry that is a sample: the entry is in the count of
//! its class. Entries of a profile of all blocks are in none: they would have threads write to the
//! same few lines all the time. Once there was one, every class may have some.
//!
//! Readers need no order, as `live` says of its filter. No unsafe here.

use super::Entry;
use alloc_core::{CLASS_STEP, CLASS_TABLE, MAX_SMALL, SizeClass};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

/// See the head of this file. Index 0 stands for all above 512 bytes.
pub(super) struct Classes {
    samples: [AtomicU32; CLASS_TABLE],
    /// Whether there ever was an entry that is in no count.
    others: AtomicBool,
}

impl Classes {
    pub(super) const fn new() -> Self {
        Classes {
            samples: [const { AtomicU32::new(0) }; CLASS_TABLE],
            others: AtomicBool::new(false),
        }
    }

    /// Counts an entry that is in from now on.
    #[inline]
    pub(super) fn add(&self, entry: &Entry) {
        // Relaxed, here and below: see the head of this file.
        if !entry.exact {
            self.count(entry).fetch_add(1, Relaxed);
        } else if !self.others.load(Relaxed) {
            self.others.store(true, Relaxed);
        }
    }

    /// Counts an entry that is out.
    #[inline]
    pub(super) fn remove(&self, entry: &Entry) {
        if !entry.exact {
            self.count(entry).fetch_sub(1, Relaxed);
        }
    }

    /// Whether a block of a class, or without one a block above 512 bytes, may be in the table:
    /// false for sure.
    #[inline]
    pub(super) fn may_have(&self, class: Option<SizeClass>) -> bool {
        let samples = self.samples.get(class.map_or(0, SizeClass::index));
        samples.is_none_or(|count| count.load(Relaxed) != 0) || self.others.load(Relaxed)
    }

    /// What is counted for a class, or for all above 512 bytes.
    pub(super) fn samples(&self, index: usize) -> u32 {
        self.samples.get(index).map_or(0, |count| count.load(Relaxed))
    }

    fn count(&self, entry: &Entry) -> &AtomicU32 {
        let [others, ..] = &self.samples;
        self.samples.get(index_of(entry)).unwrap_or(others)
    }
}

/// Where an entry is counted.
pub(super) fn index_of(entry: &Entry) -> usize {
    match usize::try_from(entry.size) {
        Ok(size) if size <= MAX_SMALL => size / CLASS_STEP,
        _ => 0,
    }
}
