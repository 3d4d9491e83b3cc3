//! What collections did, in numbers. No unsafe here.
//!
//! Counted only during collections: allocating and dropping touches none of this.

use std::cell::Cell;
use std::fmt;
use std::time::Duration;

use crate::Generation;

/// What the collections of one generation did since the heap was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GenerationStats {
    /// Collections.
    pub collections: u64,
    /// Objects they started from: decremented to a count other than zero before.
    pub candidates: u64,
    /// Objects they looked at.
    pub visited: u64,
    /// Objects they found to be garbage and dropped.
    pub collected: u64,
    /// Objects that were garbage until a finalizer brought them back.
    pub resurrected: u64,
    /// Time spent, finalizers and drops included.
    pub total: Duration,
    /// The longest of them.
    pub longest: Duration,
}

/// A heap in numbers; see [`stats`](crate::stats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// By generation: young, middle, old. A collection counts for the oldest generation it covers.
    pub generations: [GenerationStats; 3],
    /// Objects whose memory is in use, dead ones that are still held among them.
    pub live: u64,
    /// Bytes of arenas mapped from the system.
    pub mapped_bytes: u64,
    /// Bytes of pools in use, free blocks in them included.
    pub pool_bytes: u64,
    /// Objects from the global allocator: above 512 bytes, or aligned to more than 32.
    pub large: u64,
    /// Allocations between two automatic collections, at present.
    pub budget: u32,
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} objects, {} of them large; {} KiB in pools, {} KiB mapped; budget {}",
            self.live,
            self.large,
            self.pool_bytes / 1024,
            self.mapped_bytes / 1024,
            self.budget
        )?;
        writeln!(
            f,
            "{:<8} {:>11} {:>11} {:>11} {:>11} {:>11} {:>11} {:>11}",
            "",
            "collections",
            "candidates",
            "visited",
            "collected",
            "resurrected",
            "total",
            "longest"
        )?;
        for (name, g) in ["young", "middle", "old"].iter().zip(&self.generations) {
            writeln!(
                f,
                "{:<8} {:>11} {:>11} {:>11} {:>11} {:>11} {:>11.1?} {:>11.1?}",
                name,
                g.collections,
                g.candidates,
                g.visited,
                g.collected,
                g.resurrected,
                g.total,
                g.longest
            )?;
        }
        Ok(())
    }
}

/// The counters of a heap.
pub(crate) struct Counters {
    generations: [Cell<GenerationStats>; 3],
}

impl Counters {
    pub(crate) const fn new() -> Self {
        const ZERO: GenerationStats = GenerationStats {
            collections: 0,
            candidates: 0,
            visited: 0,
            collected: 0,
            resurrected: 0,
            total: Duration::ZERO,
            longest: Duration::ZERO,
        };
        Counters { generations: [const { Cell::new(ZERO) }; 3] }
    }

    /// Adds one collection. `run` has the fields of a single one, without time.
    pub(crate) fn add(&self, generation: Generation, run: GenerationStats, time: Duration) {
        let cell = &self.generations[generation.index()];
        let mut sum = cell.get();
        sum.collections += 1;
        sum.candidates += run.candidates;
        sum.visited += run.visited;
        sum.collected += run.collected;
        sum.resurrected += run.resurrected;
        sum.total += time;
        sum.longest = sum.longest.max(time);
        cell.set(sum);
    }

    /// All of them.
    pub(crate) fn all(&self) -> [GenerationStats; 3] {
        [0, 1, 2].map(|index| self.generations[index].get())
    }
}
