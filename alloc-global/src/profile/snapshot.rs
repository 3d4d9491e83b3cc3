//! A snapshot: what the profile knew at one moment, as plain data.
//!
//! Invariants:
//!
//! 1. Estimates are unbiased per sample, then summed: a sample of `s` bytes stands for
//!    `1 / (1 - exp(-s / rate))` blocks of `s` bytes (Go's issue 26618 shows what the other order
//!    costs).
//! 2. Sites are distinct by stack, region and thread; their sums are the totals, what was dropped apart.
//!
//! No unsafe here.

use crate::Stats;
use std::time::{Duration, SystemTime};

/// What the profile knew at one moment.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Snapshot {
    /// The exact counters of the same moment.
    pub stats: Stats,
    /// Mean bytes between two samples; 1 where every block was traced; 0 where nothing was watched.
    pub rate: u64,
    /// Call sites, the most live bytes first.
    pub sites: Vec<Site>,
    /// What was loaded, for symbols to be found later.
    pub modules: Vec<Module>,
    /// What the bounded tables could not hold.
    pub dropped: Dropped,
    /// Bytes that the profile itself takes, in pages of its own.
    pub tool_bytes: u64,
    /// When the snapshot was taken.
    pub taken: SystemTime,
    /// How long the profile had been on.
    pub duration: Duration,
}

/// One call site: a stack, in one region and one thread. Counts are estimates where blocks are sampled (see
/// [`Snapshot::rate`]), and exact where all are traced.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Site {
    /// Addresses of the calls, the innermost first: return addresses less one. Empty where no stack
    /// could be had.
    pub stack: Vec<u64>,
    /// Whether the walk of the stack was cut, by the bound or by what looked corrupt.
    pub truncated: bool,
    /// The region that was entered, or empty.
    pub region: String,
    /// The name of the thread that allocated, or its number.
    pub thread: String,
    /// Blocks allocated.
    pub allocs: f64,
    /// Their bytes, as the counters have them: up to 4 KiB those of the block, above it those of
    /// the layout.
    pub alloc_bytes: f64,
    /// The variance of `alloc_bytes`: the square of its standard error. Of each sample its own
    /// chance is known, so it holds for blocks of any sizes and across changes of the rate; 0 where
    /// every block was recorded.
    pub alloc_bytes_variance: f64,
    /// Blocks live.
    pub live: f64,
    /// The variance of `live`.
    pub live_variance: f64,
    /// Their bytes, as the counters have them.
    pub live_bytes: f64,
    /// The variance of `live_bytes`.
    pub live_bytes_variance: f64,
    /// Bytes that the layouts of the live blocks asked for.
    pub live_requested_bytes: f64,
    /// Bytes that the live blocks have beyond that: lost to rounding. See [`rounding`](crate::rounding).
    pub live_lost_bytes: f64,
    /// What was live of it when that was most. An estimate from samples rests on those that were
    /// live then: its relative standard error is that of as many bytes live now. Where every block
    /// is traced and several threads have one name, the sum of what each allocated and had live at
    /// most; and what another thread frees at that very moment may still be in it.
    pub most: Peak,
    /// What was live of it when the process had most bytes live, to 64 KiB a thread.
    pub at_peak: Peak,
    /// Blocks freed before the thread allocated again: temporary, in heaptrack's sense. Known where
    /// all are traced, else 0: what came between a sample and its end is not known.
    pub temporary: f64,
    /// Samples that the estimates of allocations rest on.
    pub samples: u64,
    /// Samples that the estimates of what is live rest on.
    pub live_samples: u64,
    /// How long the freed blocks lived.
    pub lifetimes: Lifetimes,
}

/// What was live of a site at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Peak {
    /// Bytes, as the counters have them.
    pub bytes: f64,
    /// Blocks.
    pub blocks: f64,
}

/// How long freed blocks lived: a count per power of two of microseconds. Where every block is
/// traced, times are read from a clock that advances every few milliseconds (4 on most systems).
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Lifetimes {
    /// `counts[i]`: blocks that lived from `2^i` to `2^(i+1)` microseconds; in `counts[0]` also
    /// shorter ones, in the last also longer ones (six days and up).
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_list"))]
    pub counts: [f64; 40],
}

/// `serde` has no arrays of this length of its own.
#[cfg(feature = "serde")]
fn as_list<S: serde::Serializer>(counts: &[f64; 40], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(counts)
}

impl Default for Lifetimes {
    fn default() -> Self {
        Lifetimes { counts: [0.0; 40] }
    }
}

/// Something loaded into the process that code lies in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Module {
    /// Its first address.
    pub start: u64,
    /// Past its last.
    pub end: u64,
    /// Address in memory less address in the file.
    pub bias: u64,
    /// The file.
    pub path: String,
    /// Its build identifier, in hexadecimal, or empty.
    pub build_id: String,
}

/// What bounded tables could not hold: sums of sites are short by that much, and say so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Dropped {
    /// Samples whose stack had no room: they count in the site without a stack.
    pub stacks: u64,
    /// Samples whose block had no room among the live ones: they count as allocated and freed.
    pub blocks: u64,
    /// Stacks whose walk was cut by the bound on frames.
    pub truncated: u64,
    /// Stacks whose walk met what looked corrupt, and stopped there.
    pub corrupt: u64,
}
