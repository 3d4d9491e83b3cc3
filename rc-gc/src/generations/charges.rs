//! Memory that objects own outside of the heap, as far as the program says so (`charge`). Numbers only.
//!
//! ```text
//! charge ──► fresh ──full collection: times the part of the objects that survived──► held
//! ```
//!
//! Nobody says when such memory goes; it does with its objects. So of what was charged, as large a
//! part is taken to be held after a full collection as objects survived. Where most objects are
//! short-lived and the memory is not, that is too little, and full collections come after a
//! constant number of bytes instead of a part of what is held.
//!
//! 1. `add` gives away each whole step of `fresh` once: what many small charges take from the
//!    budget is what one large does.

use std::cell::Cell;

/// Bytes that count as one allocation, of large objects too.
pub(crate) const STEP_BYTES: usize = 512;
/// What an object is taken to have in the heap itself.
const OBJECT: u64 = 64;

/// See the module.
pub(super) struct Charges {
    /// Bytes charged since the last full collection.
    fresh: Cell<u64>,
    /// Bytes taken to be held after it.
    held: Cell<u64>,
    /// Objects that were left by it.
    live: Cell<u64>,
}

impl Charges {
    /// None.
    pub(super) const fn new() -> Self {
        Charges { fresh: Cell::new(0), held: Cell::new(0), live: Cell::new(0) }
    }

    /// As new.
    pub(super) fn reset(&self) {
        let Charges { fresh, held, live } = self;
        fresh.set(0);
        held.set(0);
        live.set(0);
    }

    /// More bytes; how many allocations they count as.
    #[inline]
    pub(super) fn add(&self, bytes: usize) -> u64 {
        let before = self.fresh.get();
        let after = before.saturating_add(bytes as u64);
        self.fresh.set(after);
        after / STEP_BYTES as u64 - before / STEP_BYTES as u64
    }

    /// Whether they have grown by `percent` of what is held, the heap's own memory included, and
    /// `slack` bytes.
    pub(super) fn swollen(&self, live: u64, percent: u64, slack: u64) -> bool {
        let base = self.held.get().saturating_add(live.saturating_mul(OBJECT));
        self.fresh.get() > (base / 100).saturating_mul(percent).saturating_add(slack)
    }

    /// A full collection has left `left` objects; so much was allocated since the one before.
    pub(super) fn full(&self, left: u64, allocated: u64) {
        let fresh = self.fresh.replace(0);
        let born = allocated.saturating_sub(fresh / STEP_BYTES as u64);
        let all = self.live.replace(left).saturating_add(born).max(left).max(1);
        let charged = u128::from(self.held.get().saturating_add(fresh));
        // No more than was charged: `left` is no more than `all`.
        self.held.set((charged * u128::from(left) / u128::from(all)) as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn small_charges_count_as_much_as_large_ones() {
        let charges = Charges::new();
        let sum: u64 = (0..10_000).map(|_| charges.add(1000)).sum();
        assert_eq!(sum, 10_000_000 / STEP_BYTES as u64);
        assert_eq!(charges.add(0), 0);
        // Nothing wraps.
        for _ in 0..3 {
            charges.add(usize::MAX);
        }
        assert!(charges.swollen(u64::MAX, 25, 1) || charges.fresh.get() == u64::MAX);
        charges.full(u64::MAX, u64::MAX);
        assert_eq!(charges.held.get(), u64::MAX);
    }

    #[test]
    fn what_was_charged_is_held_by_as_many_as_survive() {
        let charges = Charges::new();
        charges.add(1000 * MIB);
        let steps = (1000 * MIB / STEP_BYTES) as u64;
        // 1,000 objects, of which 400 are left, and 100 of these after the next.
        charges.full(400, 1000 + steps);
        assert_eq!(charges.held.get(), 400 * MIB as u64);
        charges.full(100, 0);
        assert_eq!(charges.held.get(), 100 * MIB as u64);
        charges.full(0, 0);
        assert_eq!(charges.held.get(), 0);
    }

    #[test]
    fn what_is_held_is_measured_by_the_part_it_grows_by_and_garbage_by_the_slack() {
        // All of it stays: full collections at 1.25 times the last, after the slack.
        let full = |survive: bool| {
            let charges = Charges::new();
            let mut full = 0;
            let (mut live, mut allocated) = (0, 0);
            for _ in 0..10_000 {
                allocated += 1 + charges.add(MIB);
                live += 1;
                if charges.swollen(live, 25, 32 << 20) {
                    live = if survive { live } else { 0 };
                    charges.full(live, allocated);
                    (full, allocated) = (full + 1, 0);
                }
            }
            full
        };
        assert!(full(true) < 30, "{}", full(true));
        assert_eq!(full(false), 10_000 / 33);
    }
}
