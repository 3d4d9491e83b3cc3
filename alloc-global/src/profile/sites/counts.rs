//! What is counted of one site: what came, what went, how long it lived, and what there was at most.
//!
//! Invariants are those of `sites`. No unsafe here.

use super::{LIFETIMES, WEIGHT_ONE};
use core::sync::atomic::{AtomicU64, Ordering};

/// What is counted of a site. Weights are in parts of [`WEIGHT_ONE`], bytes are estimates in whole bytes.
pub(crate) struct Counts {
    came: Sum,
    gone: Sum,
    /// The bits of a number with a fraction: [`variance`] of the bytes that went. What is live knows its own.
    gone_variance: AtomicU64,
    /// When the site had most bytes.
    most: Had,
    /// The number of the process's last peak that the site knows of.
    peak: AtomicU64,
    /// What it had then.
    at_peak: Had,
    /// Freed blocks whose lifetime is not known: the live table had no room for them, or missed their end.
    unseen: AtomicU64,
    temporary: AtomicU64,
    /// Freed blocks whose lifetime is known, by the power of two of microseconds.
    lifetimes: [AtomicU64; LIFETIMES],
}

/// What a sample adds to the variance of a sum to which it adds `estimate`. It was chosen with the chance `p`, the inverse of
/// its weight, and adds `value / p`: by Horvitz and Thompson (1952) `value^2 * (1 - p) / p^2` is the unbiased estimate of the
/// variance. 0 where it stands for itself.
pub(crate) fn variance(weight: u64, estimate: f64) -> f64 {
    let chance = WEIGHT_ONE as f64 / weight.max(WEIGHT_ONE) as f64;
    estimate * estimate * (1.0 - chance)
}

/// Blocks that came, or went.
struct Sum {
    bytes: AtomicU64,
    samples: AtomicU64,
    /// Their weights, less [`WEIGHT_ONE`] for each sample: nothing where each stands for itself.
    beyond: AtomicU64,
}

impl Sum {
    const fn nothing() -> Sum {
        let [bytes, samples, beyond] = [const { AtomicU64::new(0) }; 3];
        Sum { bytes, samples, beyond }
    }

    #[inline]
    fn add(&self, weight: u64, bytes: u64) {
        // Relaxed, here and below: sums; who needs them consistent holds the locks of all stripes (4).
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.samples.fetch_add(1, Ordering::Relaxed);
        if weight != WEIGHT_ONE {
            self.beyond.fetch_add(weight.wrapping_sub(WEIGHT_ONE), Ordering::Relaxed);
        }
    }

    /// Bytes and weights.
    #[inline]
    fn get(&self) -> (u64, u64) {
        let [bytes, samples, beyond] =
            [&self.bytes, &self.samples, &self.beyond].map(|sum| sum.load(Ordering::Relaxed));
        (bytes, samples.wrapping_mul(WEIGHT_ONE).wrapping_add(beyond))
    }
}

/// Bytes and weights of a site at one moment.
struct Had {
    bytes: AtomicU64,
    blocks: AtomicU64,
}

impl Had {
    const fn nothing() -> Had {
        Had { bytes: AtomicU64::new(0), blocks: AtomicU64::new(0) }
    }

    #[inline]
    fn set(&self, (bytes, blocks): (u64, u64)) {
        // Relaxed, here and below: see invariant 4.
        self.bytes.store(bytes, Ordering::Relaxed);
        self.blocks.store(blocks, Ordering::Relaxed);
    }

    fn get(&self) -> (u64, u64) {
        (self.bytes.load(Ordering::Relaxed), self.blocks.load(Ordering::Relaxed))
    }
}

/// A copy of [`Counts`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Counted {
    pub(crate) lifetimes: [u64; LIFETIMES],
    pub(crate) unseen: u64,
    /// Bytes freed.
    pub(crate) bytes: u64,
    /// The variance of that.
    pub(crate) variance: f64,
    /// Samples freed.
    pub(crate) samples: u64,
    pub(crate) temporary: u64,
    /// Bytes and blocks when the site had most bytes.
    pub(crate) most: (u64, u64),
    /// The same when the process had most.
    pub(crate) at_peak: (u64, u64),
}

impl Counted {
    /// Of a site of which nothing came.
    pub(crate) const NONE: Counted = Counted {
        lifetimes: [0; LIFETIMES],
        unseen: 0,
        bytes: 0,
        variance: 0.0,
        samples: 0,
        temporary: 0,
        most: (0, 0),
        at_peak: (0, 0),
    };
}

impl Counts {
    pub(super) const fn new() -> Self {
        Counts {
            came: Sum::nothing(),
            gone: Sum::nothing(),
            gone_variance: AtomicU64::new(0),
            most: Had::nothing(),
            peak: AtomicU64::new(0),
            at_peak: Had::nothing(),
            unseen: AtomicU64::new(0),
            temporary: AtomicU64::new(0),
            lifetimes: [const { AtomicU64::new(0) }; LIFETIMES],
        }
    }

    /// Bytes and weights of what is live.
    #[inline]
    fn live(&self) -> (u64, u64) {
        let ((came, came_blocks), (gone, gone_blocks)) = (self.came.get(), self.gone.get());
        (came.wrapping_sub(gone), came_blocks.wrapping_sub(gone_blocks))
    }

    /// Before each change: `peak` is the number of the process's last peak.
    #[inline]
    fn note_peak(&self, peak: u64) {
        // Relaxed: see invariant 4.
        if self.peak.load(Ordering::Relaxed) != peak {
            self.at_peak.set(self.live());
            self.peak.store(peak, Ordering::Relaxed);
        }
    }

    /// Counts a block that came; `peak` is the number of the process's last peak.
    #[inline]
    pub(crate) fn come(&self, weight: u64, bytes: u64, peak: u64) {
        self.note_peak(peak);
        self.came.add(weight, bytes);
        self.note_most();
    }

    /// Counts a block that stays with other bytes, as if it had come with them.
    pub(crate) fn resize(&self, old: u64, new: u64, peak: u64) {
        self.note_peak(peak);
        // Relaxed: a sum.
        self.came.bytes.fetch_add(new.wrapping_sub(old), Ordering::Relaxed);
        self.note_most();
    }

    fn note_most(&self) {
        // Relaxed, here and below: see invariant 4.
        let [came, gone] = [&self.came, &self.gone].map(|sum| sum.bytes.load(Ordering::Relaxed));
        // Wrapping: a sum of estimates may.
        if came.wrapping_sub(gone) > self.most.bytes.load(Ordering::Relaxed) {
            self.most.set(self.live());
        }
    }

    /// Counts a block that went, of which `lifetime` is known in microseconds or not.
    #[inline]
    pub(crate) fn go(
        &self,
        weight: u64,
        bytes: u64,
        lifetime: Option<u64>,
        temporary: bool,
        peak: u64,
    ) {
        self.note_peak(peak);
        self.gone.add(weight, bytes);
        if weight != WEIGHT_ONE {
            self.add_variance(variance(weight, bytes as f64));
        }
        let slot = lifetime.and_then(|us| {
            let power = us.checked_ilog2().unwrap_or(0) as usize;
            self.lifetimes.get(power.min(LIFETIMES - 1))
        });
        // Relaxed, twice: sums.
        slot.unwrap_or(&self.unseen).fetch_add(weight, Ordering::Relaxed);
        if temporary {
            self.temporary.fetch_add(weight, Ordering::Relaxed);
        }
    }

    /// A sample in thousands comes here: the loop costs nothing that counts.
    #[cold]
    fn add_variance(&self, more: f64) {
        let add = |bits: u64| Some((f64::from_bits(bits) + more).to_bits());
        // Relaxed, twice: a sum, see invariant 4. It does not fail: `add` always has an answer.
        let _ = self.gone_variance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    pub(super) fn copy(&self, peak: u64) -> Counted {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let known = read(&self.peak) == peak;
        Counted {
            lifetimes: core::array::from_fn(|power| self.lifetimes.get(power).map_or(0, read)),
            unseen: read(&self.unseen),
            bytes: read(&self.gone.bytes),
            variance: f64::from_bits(read(&self.gone_variance)),
            samples: read(&self.gone.samples),
            temporary: read(&self.temporary),
            most: self.most.get(),
            at_peak: if known { self.at_peak.get() } else { self.live() },
        }
    }
}
