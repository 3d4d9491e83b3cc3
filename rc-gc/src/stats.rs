//! What collections did, in numbers. No unsafe here.
//!
//! Counted only during collections: allocating and dropping touches none of this.
//!
//! Pauses are counted in cells: below 64 ns one, then 18 of equal width for each doubling, up to
//! 2^38 ns (275 s); so no cell is wider than 1/18 of its lower end, 5.6 %. 2.3 KiB for each
//! generation of a heap.

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

/// Pauses up to this one share the first cell: 2^6 ns.
const FIRST: u32 = 6;
/// Cells for each doubling.
const STEPS: u64 = 18;
/// Doublings.
const DOUBLINGS: u32 = 32;
const CELLS: usize = 1 + DOUBLINGS as usize * STEPS as usize;

/// The cell of a pause.
fn cell_of(nanoseconds: u64) -> usize {
    let Some(log) = nanoseconds.checked_ilog2().filter(|&log| log >= FIRST) else { return 0 };
    let step = (u128::from(nanoseconds - (1 << log)) * u128::from(STEPS)) >> log;
    let index = 1 + u64::from(log - FIRST) * STEPS + step as u64;
    (index as usize).min(CELLS - 1)
}

/// The longest pause of a cell, as far as it is counted.
fn end_of(cell: usize) -> u64 {
    if cell == 0 {
        return (1 << FIRST) - 1;
    }
    let (log, step) = ((cell - 1) as u64 / STEPS, (cell - 1) as u64 % STEPS);
    let first = 1u64 << (log + u64::from(FIRST));
    // The first value of the next cell, less one.
    first + ((step + 1) * first).div_ceil(STEPS) - 1
}

/// How many pauses there were by length; sums of several heaps too.
pub(crate) struct Pauses {
    counts: [u64; CELLS],
    total: u64,
    longest: u64,
}

impl Pauses {
    pub(crate) const fn none() -> Self {
        Pauses { counts: [0; CELLS], total: 0, longest: 0 }
    }

    #[cfg(feature = "report")]
    pub(crate) fn merge(&mut self, other: &Pauses) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(to, from)| *to += from);
        self.total += other.total;
        self.longest = self.longest.max(other.longest);
    }

    /// The pause that a part `q` of all does not exceed, in nanoseconds: never too low, and too
    /// high by the width of a cell at most. 0 without pauses.
    pub(crate) fn percentile(&self, q: f64) -> u64 {
        // NaN becomes 0; what is out of range, the nearest end.
        let rank =
            ((q.clamp(0.0, 1.0) * self.total as f64).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (cell, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                let end = if cell == CELLS - 1 { u64::MAX } else { end_of(cell) };
                return end.min(self.longest);
            }
        }
        self.longest
    }
}

/// The counters of a heap.
pub(crate) struct Counters {
    generations: [Cell<GenerationStats>; 3],
    pauses: [[Cell<u32>; CELLS]; 3],
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
        Counters {
            generations: [const { Cell::new(ZERO) }; 3],
            pauses: [const { [const { Cell::new(0) }; CELLS] }; 3],
        }
    }

    /// No collections.
    pub(crate) fn reset(&self) {
        for (generation, pauses) in self.generations.iter().zip(&self.pauses) {
            if generation.take().collections != 0 {
                pauses.iter().for_each(|pauses| pauses.set(0));
            }
        }
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
        let pauses = &self.pauses[generation.index()][cell_of(nanoseconds(time))];
        pauses.set(pauses.get().saturating_add(1));
    }

    /// Adds the pauses of a generation to `sum`.
    pub(crate) fn add_pauses(&self, generation: Generation, sum: &mut Pauses) {
        let longest = self.generations[generation.index()].get().longest;
        sum.longest = sum.longest.max(nanoseconds(longest));
        for (to, from) in sum.counts.iter_mut().zip(&self.pauses[generation.index()]) {
            *to += u64::from(from.get());
            sum.total += u64::from(from.get());
        }
    }

    /// See [`pause_percentile`](crate::pause_percentile).
    pub(crate) fn pause_percentile(&self, generation: Generation, q: f64) -> Duration {
        let mut pauses = Pauses::none();
        self.add_pauses(generation, &mut pauses);
        Duration::from_nanos(pauses.percentile(q))
    }

    /// All of them.
    pub(crate) fn all(&self) -> [GenerationStats; 3] {
        [0, 1, 2].map(|index| self.generations[index].get())
    }
}

/// Saturates after 584 years.
fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_follow_each_other_and_none_is_wider_than_6_percent() {
        assert_eq!((cell_of(0), cell_of(63), cell_of(64)), (0, 0, 1));
        assert_eq!((cell_of(u64::MAX), cell_of(1 << 38)), (CELLS - 1, CELLS - 1));
        for cell in 0..CELLS - 1 {
            let end = end_of(cell);
            assert_eq!((cell_of(end), cell_of(end + 1)), (cell, cell + 1), "{cell}");
            if cell != 0 {
                let first = end_of(cell - 1) + 1;
                // Nanoseconds are whole: cells of a few of them hold one or two more values than
                // their width.
                assert!((end - first) as f64 <= 0.06 * first as f64, "{first}..={end}");
            }
        }
    }

    #[test]
    fn percentiles_are_those_of_a_sorted_list_within_a_cell() {
        let counters = Counters::new();
        assert_eq!(counters.pause_percentile(Generation::Young, 0.5), Duration::ZERO);
        let mut all: Vec<u64> = (1..=1_000u64).map(|n| n * n * 7 + 64).collect();
        for &pause in all.iter().rev() {
            let run = GenerationStats::default();
            counters.add(Generation::Young, run, Duration::from_nanos(pause));
        }
        all.sort_unstable();
        for (q, rank) in [(0.0, 1), (0.5, 500), (0.9, 900), (0.99, 990), (1.0, 1_000)] {
            let found = counters.pause_percentile(Generation::Young, q).as_nanos() as u64;
            let exact = all[rank - 1];
            assert!(exact <= found && found <= exact + exact * 6 / 100, "{q}: {found}, {exact}");
        }
        let longest = Duration::from_nanos(all[999]);
        assert_eq!(counters.pause_percentile(Generation::Young, 7.0), longest);
        assert_eq!(counters.pause_percentile(Generation::Young, -1.0).as_nanos() / 10, 7);
        assert!(counters.pause_percentile(Generation::Young, f64::NAN) < longest);
        assert_eq!(counters.pause_percentile(Generation::Old, 1.0), Duration::ZERO);
    }
}
