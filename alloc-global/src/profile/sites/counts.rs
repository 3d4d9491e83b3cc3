//! What is counted of one site: what came, what went, how long it lived, and what there was at most.
//!
//! ```text
//! line 0   (the record's key)            peak, what there was then     read by all, hardly ever written
//! line 1   own     came, gone, most      the lane's thread: plain stores; in lane 0 any thread: one step each
//! line 2   others  gone, beyond, ...     any other thread: one step each
//! lines 3- lifetimes                     whoever frees: one step each
//! ```
//!
//! A site belongs to a lane (`local`), and a lane to one thread at a time, so most of what is
//! counted needs no step that waits for other processors: those cost more than all else that an
//! event counts, and many times as much where threads meet.
//!
//! Invariants are those of `sites`, and: `own` of a site in a lane other than 0 is written by that
//! lane's thread only. No unsafe here.

use super::{LIFETIMES, WEIGHT_ONE};
use crate::cache::bump;
use crate::prefetch::fetch;
use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

/// What is counted of a site. Weights are in parts of [`WEIGHT_ONE`], bytes are estimates in whole bytes.
#[repr(C)]
pub(crate) struct Counts {
    /// The number of the process's last peak that the site knows of.
    peak: AtomicU64,
    /// What it had then.
    at_peak: Had,
    /// Whether `others` has anything.
    has_others: AtomicBool,
    _rest: u64,
    own: Own,
    others: Others,
    /// Freed blocks whose lifetime is known, by the power of two of microseconds.
    lifetimes: [AtomicU64; LIFETIMES],
}

/// Bytes of a line of the processor's caches.
pub(super) const LINE: usize = 64;

// With the key before it, each part has lines of its own.
const _: () = assert!(offset_of!(Counts, own) + super::KEY_BYTES == LINE);
const _: () = assert!(size_of::<Own>() == LINE && size_of::<Others>() == LINE);

/// What the lane's thread counts.
#[repr(C)]
struct Own {
    came: Sum,
    beyond: AtomicU64,
    gone: Sum,
    /// When the site had most bytes.
    most: Had,
    /// What `came` less `gone` must exceed for there to be more: what others took away counts too,
    /// as it was known last.
    limit: AtomicI64,
}

/// What other threads count, and what is rare.
#[repr(C)]
struct Others {
    gone: Sum,
    /// Of what went, own or not.
    gone_beyond: AtomicU64,
    /// The bits of a number with a fraction: [`variance`] of the bytes that went. What is live
    /// knows its own.
    gone_variance: AtomicU64,
    /// Bytes that blocks grew by in the hands of other threads.
    grown: AtomicU64,
    /// Freed blocks whose lifetime is not known: the live table had no room for them, or missed their end.
    unseen: AtomicU64,
    temporary: AtomicU64,
    _rest: u64,
}

/// What a sample adds to the variance of a sum to which it adds `estimate`. It was chosen with the
/// chance `p`, the inverse of its weight, and adds `value / p`: by Horvitz and Thompson (1952)
/// `value^2 * (1 - p) / p^2` is the unbiased estimate of the variance. 0 where it stands for
/// itself.
pub(crate) fn variance(weight: u64, estimate: f64) -> f64 {
    let chance = WEIGHT_ONE as f64 / weight.max(WEIGHT_ONE) as f64;
    estimate * estimate * (1.0 - chance)
}

/// Blocks that came, or went: each stands for [`WEIGHT_ONE`], and what it stands for beyond that is
/// counted apart.
#[repr(C)]
struct Sum {
    bytes: AtomicU64,
    samples: AtomicU64,
}

/// Adds: `alone` where no other thread writes.
#[inline]
fn add(count: &AtomicU64, more: u64, alone: bool) {
    if alone {
        bump(count, more);
    } else {
        // Relaxed: a sum; who needs sums consistent holds the locks of all stripes (4).
        count.fetch_add(more, Ordering::Relaxed);
    }
}

#[inline]
fn read(count: &AtomicU64) -> u64 {
    // Relaxed: see invariant 4.
    count.load(Ordering::Relaxed)
}

impl Sum {
    const fn nothing() -> Sum {
        Sum { bytes: AtomicU64::new(0), samples: AtomicU64::new(0) }
    }

    #[inline]
    fn add(&self, bytes: u64, alone: bool) {
        add(&self.bytes, bytes, alone);
        add(&self.samples, 1, alone);
    }

    /// Bytes, and samples.
    #[inline]
    fn get(&self) -> (u64, u64) {
        (read(&self.bytes), read(&self.samples))
    }
}

/// Bytes and weights of a site at one moment.
#[repr(C)]
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
        // Relaxed, twice: see invariant 4.
        self.bytes.store(bytes, Ordering::Relaxed);
        self.blocks.store(blocks, Ordering::Relaxed);
    }

    fn get(&self) -> (u64, u64) {
        (read(&self.bytes), read(&self.blocks))
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
    /// Bytes and blocks when the site had most bytes; of several lanes the sum.
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

    /// Adds what was counted of the same site in another lane.
    pub(crate) fn add(&mut self, other: &Counted) {
        let plus = |a: (u64, u64), b: (u64, u64)| (a.0.wrapping_add(b.0), a.1.wrapping_add(b.1));
        for (sum, more) in self.lifetimes.iter_mut().zip(&other.lifetimes) {
            *sum = sum.wrapping_add(*more);
        }
        self.unseen = self.unseen.wrapping_add(other.unseen);
        self.bytes = self.bytes.wrapping_add(other.bytes);
        self.variance += other.variance;
        self.samples = self.samples.wrapping_add(other.samples);
        self.temporary = self.temporary.wrapping_add(other.temporary);
        self.most = plus(self.most, other.most);
        self.at_peak = plus(self.at_peak, other.at_peak);
    }
}

impl Counts {
    pub(super) const fn new() -> Self {
        Counts {
            peak: AtomicU64::new(0),
            at_peak: Had::nothing(),
            has_others: AtomicBool::new(false),
            _rest: 0,
            own: Own {
                came: Sum::nothing(),
                beyond: AtomicU64::new(0),
                gone: Sum::nothing(),
                most: Had::nothing(),
                limit: AtomicI64::new(0),
            },
            others: Others {
                gone: Sum::nothing(),
                gone_beyond: AtomicU64::new(0),
                gone_variance: AtomicU64::new(0),
                grown: AtomicU64::new(0),
                unseen: AtomicU64::new(0),
                temporary: AtomicU64::new(0),
                _rest: 0,
            },
            lifetimes: [const { AtomicU64::new(0) }; LIFETIMES],
        }
    }

    /// Has the processor bring in what [`come`](Counts::come) will write.
    #[inline]
    pub(super) fn fetch(&self) {
        fetch(&raw const self.own);
    }

    /// Bytes and weights of what is live.
    #[inline]
    fn live(&self) -> (u64, u64) {
        let ((came, came_blocks), (gone, gone_blocks)) = (self.own.came.get(), self.own.gone.get());
        let (mut bytes, mut blocks) =
            (came.wrapping_sub(gone), came_blocks.wrapping_sub(gone_blocks));
        let mut beyond = read(&self.own.beyond);
        // Relaxed: see invariant 4.
        if self.has_others.load(Ordering::Relaxed) {
            let (gone, gone_blocks) = self.others.gone.get();
            bytes = bytes.wrapping_sub(gone).wrapping_add(read(&self.others.grown));
            blocks = blocks.wrapping_sub(gone_blocks);
            beyond = beyond.wrapping_sub(read(&self.others.gone_beyond));
        }
        (bytes, blocks.wrapping_mul(WEIGHT_ONE).wrapping_add(beyond))
    }

    #[inline]
    fn note_others(&self) {
        // Relaxed, twice: see invariant 4. Mostly read, so that the line stays with all who read it.
        if !self.has_others.load(Ordering::Relaxed) {
            self.has_others.store(true, Ordering::Relaxed);
        }
    }

    /// Before each change: `peak` is the number of the process's last peak.
    #[inline]
    fn note_peak(&self, peak: u64) {
        // Relaxed, twice: see invariant 4.
        if self.peak.load(Ordering::Relaxed) != peak {
            self.at_peak.set(self.live());
            self.peak.store(peak, Ordering::Relaxed);
        }
    }

    /// Counts a block that came; `peak` is the number of the process's last peak. `alone` where the
    /// site is in the lane of the calling thread.
    #[inline]
    pub(crate) fn come(&self, weight: u64, bytes: u64, peak: u64, alone: bool) {
        self.note_peak(peak);
        self.own.came.add(bytes, alone);
        if weight != WEIGHT_ONE {
            add(&self.own.beyond, weight.wrapping_sub(WEIGHT_ONE), alone);
        }
        self.note_most();
    }

    /// Counts a block that stays with other bytes, as if it had come with them.
    pub(crate) fn resize(&self, old: u64, new: u64, peak: u64, alone: bool) {
        self.note_peak(peak);
        let more = new.wrapping_sub(old);
        if alone {
            bump(&self.own.came.bytes, more);
        } else {
            self.note_others();
            add(&self.others.grown, more, false);
            // Relaxed: what the next look compares with; see invariant 4.
            self.own.limit.store(i64::MIN, Ordering::Relaxed);
        }
        self.note_most();
    }

    #[inline]
    fn note_most(&self) {
        let own = &self.own;
        // Wrapping: a sum of estimates may.
        let here = read(&own.came.bytes).wrapping_sub(read(&own.gone.bytes)).cast_signed();
        // Relaxed, here and below: see invariant 4.
        if here <= own.limit.load(Ordering::Relaxed) {
            return;
        }
        let (bytes, blocks) = self.live();
        let most = read(&own.most.bytes);
        if bytes.cast_signed() > most.cast_signed() {
            own.most.set((bytes, blocks));
        }
        let taken = here.wrapping_sub(bytes.cast_signed());
        let most = most.cast_signed().max(bytes.cast_signed());
        own.limit.store(most.wrapping_add(taken), Ordering::Relaxed);
    }

    /// Counts a block that went, of which `lifetime` is known in microseconds or not. `alone` as in
    /// [`Counts::come`].
    #[inline]
    pub(crate) fn go(&self, gone: Gone, peak: u64, alone: bool) {
        let Gone { weight, bytes, lifetime, temporary } = gone;
        self.note_peak(peak);
        if alone {
            self.own.gone.add(bytes, true);
        } else {
            self.note_others();
            self.others.gone.add(bytes, false);
        }
        if weight != WEIGHT_ONE {
            self.note_others();
            self.others.gone_beyond.fetch_add(weight.wrapping_sub(WEIGHT_ONE), Ordering::Relaxed);
            self.add_variance(variance(weight, bytes as f64));
        }
        let slot = lifetime.and_then(|us| {
            let power = us.checked_ilog2().unwrap_or(0) as usize;
            self.lifetimes.get(power.min(LIFETIMES - 1))
        });
        // Relaxed, here and below: sums.
        slot.unwrap_or(&self.others.unseen).fetch_add(weight, Ordering::Relaxed);
        if temporary {
            self.others.temporary.fetch_add(weight, Ordering::Relaxed);
        }
    }

    /// A sample in thousands comes here: the loop costs nothing that counts.
    #[cold]
    fn add_variance(&self, more: f64) {
        let add = |bits: u64| Some((f64::from_bits(bits) + more).to_bits());
        // Relaxed, twice: a sum, see invariant 4. It does not fail: `add` always has an answer.
        let _ = self.others.gone_variance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    pub(super) fn copy(&self, peak: u64) -> Counted {
        let known = read(&self.peak) == peak;
        let ((own, own_samples), (others, other_samples)) =
            (self.own.gone.get(), self.others.gone.get());
        Counted {
            lifetimes: core::array::from_fn(|power| self.lifetimes.get(power).map_or(0, read)),
            unseen: read(&self.others.unseen),
            bytes: own.wrapping_add(others),
            variance: f64::from_bits(read(&self.others.gone_variance)),
            samples: own_samples.wrapping_add(other_samples),
            temporary: read(&self.others.temporary),
            most: self.own.most.get(),
            at_peak: if known { self.at_peak.get() } else { self.live() },
        }
    }
}

/// A block that went, as it is counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gone {
    pub(crate) weight: u64,
    pub(crate) bytes: u64,
    /// In microseconds.
    pub(crate) lifetime: Option<u64>,
    pub(crate) temporary: bool,
}
