//! When to collect which generation. No unsafe here, and no memory: numbers only.
//!
//! ```text
//! allocations ──budget──► generation 0,   every `middle`-th time 1,   if the heap grew by a quarter 2
//! ```
//!
//! * **Generation 0** after `young` allocations. The budget adapts: it grows where collections find
//!   little, up to 16 times, and shrinks back where they find much (the rule is that of Nim's ORC).
//! * **Generation 1** instead, every `middle` collections.
//! * **Generation 2** instead, where the heap has grown by `growth` percent since the last full
//!   collection (CPython's 25 % rule: the cost of full collections stays linear in what was
//!   allocated), or four times as many objects as the heap holds were allocated since. Both twice
//!   and at last four times as far apart where full collections look at much and find little; back
//!   where one finds much, or is cheap. After a full collection the heap is measured from the
//!   *least* it is: what dies by counting alone lowers that, or what once was large would let
//!   garbage pile up to the same size. So a heap that comes and goes is gone over as it comes,
//!   which is linear too: what finds a quarter of what it looks at is paid by what was allocated,
//!   and what does not gets rarer.
//!
//! * Large objects count by their bytes: one allocation for each 512 bytes, and what holds of the number
//!   of objects holds of their bytes too. So does memory outside of the heap that the program
//!   charges (`charges`). Few bytes more are no growth: as many as looking at all that is live
//!   is worth, for a full collection costs objects, whatever it frees.
//!
//! A generation in which collections find next to nothing is *passed over*, up to 15 times in a row: its
//! candidates just grow older, unseen, and a later collection looks at them once. Programs
//! whose objects live long pay for one look instead of three.
//!
//! What a collection costs and finds is not decided here.

mod charges;

use std::cell::Cell;

use charges::Charges;
pub(crate) use charges::STEP_BYTES;

/// A generation: 0 young, 1 middle, 2 old. Collecting one collects the younger ones too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Generation {
    /// Objects that saw no collection yet.
    Young,
    /// Objects that survived collections of the young generation only.
    Middle,
    /// All others. Collecting it is a full collection.
    Old,
}

impl Generation {
    /// 0, 1 or 2.
    #[inline]
    pub const fn index(self) -> usize {
        match self {
            Generation::Young => 0,
            Generation::Middle => 1,
            Generation::Old => 2,
        }
    }

    /// The generation with this number.
    ///
    /// # Errors
    /// `None` for anything but 0, 1 and 2.
    #[inline]
    pub const fn from_index(index: usize) -> Option<Generation> {
        match index {
            0 => Some(Generation::Young),
            1 => Some(Generation::Middle),
            2 => Some(Generation::Old),
            _ => None,
        }
    }
}

/// How often each generation is collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Allocations between two collections, at least; 0 is taken as 1. Where collections find next
    /// to nothing there come to be up to 16 times as many: so much garbage of cycles may wait then.
    pub young: u32,
    /// Collections of generation 0 between two of generation 1.
    pub middle: u32,
    /// Growth in percent, over the least the heap was since the last full collection, after which
    /// another is due. Up to 8 times `young` objects more are no growth, nor, of large objects or of
    /// what is [charged](crate::charge), 128 bytes for each object there is, or 1 MiB where that is
    /// less, or 32 MiB where it is more. Where full collections find next to nothing it may be four
    /// times as much.
    pub growth: u32,
}

impl Thresholds {
    /// What a new heap has: 2,048 allocations, 8 collections, 25 %.
    pub const DEFAULT: Thresholds = Thresholds { young: 2048, middle: 8, growth: 25 };
}

impl Default for Thresholds {
    fn default() -> Self {
        Thresholds::DEFAULT
    }
}

/// Who starts collections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// An allocation may collect, before it allocates.
    Automatic,
    /// A collection that is due runs at the next [`safepoint`](crate::safepoint).
    AtSafepoint,
    /// Only `collect` and `collect_generation` collect.
    Manual,
}

/// The state of the rules above.
pub(crate) struct Schedule {
    pub(crate) thresholds: Cell<Thresholds>,
    pub(crate) mode: Cell<Mode>,
    pub(crate) enabled: Cell<bool>,
    /// A collection is due, and waits for a safepoint.
    pub(crate) waiting: Cell<bool>,
    budget: Cell<u32>,
    since_middle: Cell<u32>,
    /// For generations 0 and 1: how often to pass it over, and how often still.
    patience: [Cell<(u32, u32)>; 2],
    /// The least there was, at any decision since the last full collection: objects, and bytes of
    /// large ones.
    least_live: Cell<u64>,
    least_bytes: Cell<u64>,
    allocated_since_full: Cell<u64>,
    charges: Charges,
    /// By how much full collections are rarer than the thresholds say.
    rarer: Cell<u64>,
}

/// How often in a row a generation is passed over, at most.
const MOST_PASSED: u32 = 15;
/// How far the young budget grows.
const STRETCH: u32 = 16;
/// How much large objects, or what is charged, may grow before that counts: so many bytes for each
/// object that a full collection would look at, within bounds.
const SLACK_PER_OBJECT: u64 = 128;
const LEAST_SLACK: u64 = 1 << 20;
const MOST_SLACK: u64 = 32 << 20;
/// How much rarer than set full collections become.
const RAREST: u64 = 4;

/// See [`SLACK_PER_OBJECT`].
fn slack_bytes(live: u64) -> u64 {
    live.saturating_mul(SLACK_PER_OBJECT).clamp(LEAST_SLACK, MOST_SLACK)
}

impl Schedule {
    /// The default thresholds, automatic, enabled.
    pub(crate) const fn new() -> Self {
        Schedule {
            thresholds: Cell::new(Thresholds::DEFAULT),
            mode: Cell::new(Mode::Automatic),
            enabled: Cell::new(true),
            waiting: Cell::new(false),
            budget: Cell::new(Thresholds::DEFAULT.young),
            since_middle: Cell::new(0),
            patience: [const { Cell::new((0, 0)) }; 2],
            least_live: Cell::new(0),
            least_bytes: Cell::new(0),
            allocated_since_full: Cell::new(0),
            charges: Charges::new(),
            rarer: Cell::new(1),
        }
    }

    /// As new.
    pub(crate) fn reset(&self) {
        let Schedule {
            thresholds,
            mode,
            enabled,
            waiting,
            budget,
            since_middle,
            patience,
            least_live,
            least_bytes,
            allocated_since_full,
            charges,
            rarer,
        } = self;
        thresholds.set(Thresholds::DEFAULT);
        mode.set(Mode::Automatic);
        enabled.set(true);
        waiting.set(false);
        budget.set(Thresholds::DEFAULT.young);
        since_middle.set(0);
        patience.iter().for_each(|patience| patience.set((0, 0)));
        least_live.set(0);
        least_bytes.set(0);
        allocated_since_full.set(0);
        charges.reset();
        rarer.set(1);
    }

    /// Allocations until the next collection is due.
    pub(crate) fn budget(&self) -> u32 {
        self.budget.get()
    }

    /// Sets the thresholds; the budget starts anew.
    pub(crate) fn set_thresholds(&self, thresholds: Thresholds) {
        self.thresholds.set(Thresholds { young: thresholds.young.max(1), ..thresholds });
        self.budget.set(self.thresholds.get().young);
    }

    /// A budget of allocations is spent.
    pub(crate) fn spent(&self, allocations: u64) {
        let all = self.allocated_since_full.get().saturating_add(allocations);
        self.allocated_since_full.set(all);
    }

    /// Bytes outside of the heap are owned by objects of it; how many allocations they count as.
    #[inline]
    pub(crate) fn charge(&self, bytes: usize) -> u64 {
        self.charges.add(bytes)
    }

    /// Which generation is to be collected now, with `live` objects in the heap, and `bytes` of large ones.
    pub(crate) fn due(&self, live: u64, bytes: u64) -> Generation {
        let Thresholds { young, middle, growth } = self.thresholds.get();
        let (slack, rarer) = (u64::from(young) * 8, self.rarer.get());
        let beyond = |from: u64| from + from / 100 * u64::from(growth) * rarer;
        let (least, least_bytes) = self.note_least(live, bytes);
        let grown = live > beyond(least) + slack;
        let aged = self.allocated_since_full.get() > (4 * least + 16 * slack) * rarer;
        let slack_bytes = slack_bytes(live);
        let swollen = bytes > beyond(least_bytes) + slack_bytes
            || self.charges.swollen(least, u64::from(growth) * rarer, slack_bytes);
        if grown || aged || swollen {
            Generation::Old
        } else if self.since_middle.get() >= middle {
            Generation::Middle
        } else {
            Generation::Young
        }
    }

    /// So much is there now; the least since the last full collection.
    fn note_least(&self, live: u64, bytes: u64) -> (u64, u64) {
        self.least_live.set(self.least_live.get().min(live));
        // A full collection costs objects, whatever it frees: few large ones that come and go must
        // not bring many.
        if self.allocated_since_full.get() >= live {
            self.least_bytes.set(self.least_bytes.get().min(bytes));
        }
        (self.least_live.get(), self.least_bytes.get())
    }

    /// Whether an automatic collection of `generation` should only let candidates age.
    pub(crate) fn pass_over(&self, generation: Generation) -> bool {
        let Some(patience) = self.patience.get(generation.index()) else { return false };
        let (length, left) = patience.get();
        patience.set((length, left.saturating_sub(1)));
        left != 0
    }

    /// A generation was passed over.
    pub(crate) fn passed(&self, generation: Generation) {
        match generation {
            Generation::Young => self.since_middle.set(self.since_middle.get() + 1),
            _ => self.since_middle.set(0),
        }
    }

    /// A collection of `generation` looked at `visited` objects and freed `freed`; `left` remain,
    /// and bytes of large ones.
    pub(crate) fn done(&self, generation: Generation, visited: u64, freed: u64, left: (u64, u64)) {
        match generation {
            Generation::Young => self.since_middle.set(self.since_middle.get() + 1),
            Generation::Middle => self.since_middle.set(0),
            Generation::Old => {
                self.since_middle.set(0);
                self.least_live.set(left.0);
                self.least_bytes.set(left.1);
                let allocated = self.allocated_since_full.replace(0);
                self.charges.full(left.0, allocated);
                let rarer = self.rarer.get();
                let cheap = visited * 2 < allocated || visited * 8 < left.0;
                if freed * 2 >= visited || cheap {
                    self.rarer.set(1);
                } else if freed * 16 < visited {
                    self.rarer.set((rarer * 2).min(RAREST));
                } else if freed * 4 < visited {
                    self.rarer.set(2);
                }
            }
        }
        self.note_least(left.0, left.1);
        if let Some(patience) = self.patience.get(generation.index()) {
            let (length, _) = patience.get();
            let length = match freed * 6 < visited {
                true => (length * 2 + 1).min(MOST_PASSED),
                false => 0,
            };
            patience.set((length, length));
        }
        let least = self.thresholds.get().young;
        let budget = self.budget.get();
        if freed * 2 >= visited && visited != 0 {
            self.budget.set((budget / 3 * 2).max(least));
        } else if freed * 8 < visited {
            let most = least.saturating_mul(STRETCH);
            self.budget.set(budget.saturating_add(budget / 2).clamp(least, most));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ninth_collection_is_of_generation_1_in_a_heap_that_does_not_grow() {
        let schedule = Schedule::new();
        let mut seen = Vec::new();
        for _ in 0..18 {
            let generation = schedule.due(100, 0);
            seen.push(generation.index());
            schedule.done(generation, 10, 5, (100, 0));
        }
        assert_eq!(seen, [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn full_collections_of_a_growing_heap_cost_a_constant_times_what_was_allocated() {
        let schedule = Schedule::new();
        let (mut live, mut full_work) = (0u64, 0u64);
        while live < 10_000_000 {
            live += u64::from(schedule.budget());
            schedule.spent(u64::from(schedule.budget()));
            let generation = schedule.due(live, 0);
            if generation == Generation::Old {
                full_work += live;
            }
            schedule.done(generation, 1000, 0, (live, 0));
        }
        assert!(full_work > live && full_work < 6 * live, "{full_work} for {live}");
    }

    #[test]
    fn full_collections_that_look_at_all_and_find_nothing_cost_twice_what_was_allocated() {
        let schedule = Schedule::new();
        let (mut live, mut full_work) = (0u64, 0u64);
        while live < 10_000_000 {
            live += u64::from(schedule.budget());
            schedule.spent(u64::from(schedule.budget()));
            let generation = schedule.due(live, 0);
            let visited = if generation == Generation::Old { live } else { 1000 };
            full_work += if generation == Generation::Old { live } else { 0 };
            schedule.done(generation, visited, 0, (live, 0));
        }
        assert!(full_work > live / 2 && full_work < 5 * live / 2, "{full_work} for {live}");
        schedule.done(Generation::Old, live, live / 2, (live, 0));
        assert_eq!(schedule.rarer.get(), 1);
    }

    #[test]
    fn churn_of_old_garbage_brings_a_full_collection_without_growth() {
        let schedule = Schedule::new();
        schedule.done(Generation::Old, 0, 0, (10_000, 0));
        let rounds = (0..1000).position(|_| {
            schedule.spent(2048);
            let generation = schedule.due(10_000, 0);
            schedule.done(generation, 100, 40, (10_000, 0));
            generation == Generation::Old
        });
        assert!(rounds.is_some_and(|rounds| rounds < 200));
    }

    #[test]
    fn few_large_objects_bring_a_full_collection_by_their_bytes() {
        let schedule = Schedule::new();
        assert_eq!(schedule.due(10, LEAST_SLACK), Generation::Young);
        assert_eq!(schedule.due(10, LEAST_SLACK + 1), Generation::Old);
        schedule.done(Generation::Old, 10, 0, (10, 40 << 20));
        assert_eq!(schedule.due(10, 50 << 20), Generation::Young);
        assert_eq!(schedule.due(10, 70 << 20), Generation::Old);
        // Where there are many objects to look at, after more.
        schedule.done(Generation::Old, 200_000, 200_000, (200_000, 0));
        assert_eq!(schedule.due(200_000, 20 << 20), Generation::Young);
        assert_eq!(schedule.due(200_000, 30 << 20), Generation::Old);
        assert_eq!(slack_bytes(u64::MAX), MOST_SLACK);
    }

    #[test]
    fn a_heap_that_shrank_by_counting_is_measured_from_where_it_was_least() {
        let schedule = Schedule::new();
        schedule.done(Generation::Old, 0, 0, (1_000_000, 1 << 30));
        assert_eq!(schedule.due(1_000_000, 1 << 30), Generation::Young);
        // All but 1,000 are dropped; garbage piles up then.
        let (mut live, mut bytes) = (1_000, 0);
        let rounds = (0..1000).position(|_| {
            schedule.spent(2048);
            let generation = schedule.due(live, 0);
            schedule.done(generation, 100, 20, (live, 0));
            live += 2048;
            generation == Generation::Old
        });
        assert!(rounds.is_some_and(|rounds| rounds <= 10), "{rounds:?}");
        // The same with bytes of large ones.
        schedule.done(Generation::Old, 0, 0, (1_000, 1 << 30));
        let rounds = (0..1000).position(|_| {
            schedule.spent(2048);
            let generation = schedule.due(1_000, bytes);
            schedule.done(generation, 100, 20, (1_000, bytes));
            bytes += 8 << 20;
            generation == Generation::Old
        });
        assert!(rounds.is_some_and(|rounds| rounds <= 6), "{rounds:?}");
    }

    /// Work of full collections, and allocations, of a heap that comes and goes between `low` and
    /// `high`, all of it looked at and nothing found.
    fn oscillate(low: u64, high: u64, visited: impl Fn(u64) -> u64) -> (u64, u64) {
        let schedule = Schedule::new();
        let (mut work, mut allocated, mut live) = (0, 0, high);
        schedule.done(Generation::Old, high, 0, (high, 0));
        while allocated < 50 * high {
            let step = u64::from(schedule.budget());
            live = if live + step > high { low } else { live + step };
            allocated += step;
            schedule.spent(step);
            let generation = schedule.due(live, 0);
            let old = generation == Generation::Old;
            work += if old { visited(live) } else { 0 };
            schedule.done(generation, if old { visited(live) } else { 1000 }, 0, (live, 0));
        }
        (work, allocated)
    }

    #[test]
    fn a_heap_that_comes_and_goes_pays_for_full_collections_by_what_it_allocates() {
        for high in [20_000, 300_000, 5_000_000] {
            for percent in [0, 1, 10, 50, 75, 80, 90, 99] {
                let (work, allocated) = oscillate(high / 100 * percent, high, |live| live);
                assert!(work <= 2 * allocated, "{high} {percent}: {work} for {allocated}");
                // Cheap ones are not made rarer.
                let (work, allocated) = oscillate(high / 100 * percent, high, |live| live / 9);
                assert!(work <= allocated, "{high} {percent}: {work} for {allocated}");
            }
        }
    }

    #[test]
    fn few_large_objects_that_come_and_go_do_not_have_many_small_ones_looked_at_each_time() {
        let schedule = Schedule::new();
        let (live, mut bytes, mut full) = (1_000_000, 0, 0);
        schedule.done(Generation::Old, live, 0, (live, 40 << 20));
        for _ in 0..5_000 {
            schedule.spent(2048);
            bytes = if bytes >= 40 << 20 { 0 } else { bytes + (8 << 20) };
            let generation = schedule.due(live, bytes);
            let old = generation == Generation::Old;
            full += u64::from(old);
            schedule.done(generation, if old { live } else { 100 }, 50, (live, bytes));
        }
        assert!(full * live <= 5_000 * 2048, "{full}");
    }

    #[test]
    fn the_budget_stretches_where_nothing_is_found_and_shrinks_back() {
        let schedule = Schedule::new();
        for _ in 0..20 {
            schedule.done(Generation::Young, 1000, 0, (0, 0));
        }
        assert_eq!(schedule.budget(), 2048 * STRETCH);
        for _ in 0..20 {
            schedule.done(Generation::Young, 1000, 900, (0, 0));
        }
        assert_eq!(schedule.budget(), 2048);
        schedule.set_thresholds(Thresholds { young: 0, middle: 1, growth: 1 });
        assert_eq!(schedule.budget(), 1);
    }

    #[test]
    fn a_generation_without_garbage_is_passed_over_ever_longer_until_it_has_some() {
        let schedule = Schedule::new();
        let passed = || (0..).take_while(|_| schedule.pass_over(Generation::Young)).count();
        let mut seen = Vec::new();
        for _ in 0..6 {
            schedule.done(Generation::Young, 1000, 1, (0, 0));
            seen.push(passed());
        }
        assert_eq!(seen, [1, 3, 7, 15, 15, 15]);
        schedule.done(Generation::Young, 1000, 200, (0, 0));
        assert_eq!(passed(), 0);
        assert!(!schedule.pass_over(Generation::Old));
    }

    #[test]
    fn generations_are_numbered_0_to_2() {
        for index in 0..3 {
            assert_eq!(Generation::from_index(index).map(Generation::index), Some(index));
        }
        assert_eq!(Generation::from_index(3), None);
    }
}
