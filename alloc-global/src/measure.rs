//! Measurements: what the calling thread allocates and frees between two points of the program, exactly.
//!
//! ```text
//! measure(|| ..)          opens a scope (`scope`), runs, closes it, hands out the counts
//! measured_so_far()       the innermost open measurement of the calling thread, until now
//! thread_stats()          what the calling thread did since it began; no measurement needed
//! assert_no_alloc! ...    the same with a verdict (`asserts`)
//! ```
//!
//! A reading that would be a guess is an error: [`MeasureError`] says which.
//!
//! Invariants:
//!
//! 1. Measurements of a thread are a stack, in the order in which they began: only the innermost
//!    may end. One that is dropped out of turn is left open for good, memory and all, so that no
//!    scope ever points to one that is gone.
//!
//! It sees one thread. What other threads do for this one, or with its blocks, is theirs. No unsafe here.

use crate::scope::{ScopeCounts, Sites, ThreadScope};
use crate::thread;
use core::alloc::Layout;
use core::fmt;
use core::hint::black_box;
use core::ops::Sub;
use once_cell::race::OnceBool;

/// What a thread did in a measurement. Bytes are those of blocks: a request of 20 bytes takes a
/// block of 24.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Measured {
    /// Calls that allocated; `realloc` is not among them.
    pub allocs: u64,
    /// Calls that freed; `realloc` is not among them.
    pub deallocs: u64,
    /// Calls of `realloc`, in place or not.
    pub reallocs: u64,
    /// Bytes of the blocks allocated, those that `realloc` moved into among them.
    pub alloc_bytes: u64,
    /// Bytes of the blocks of this measurement that were freed in it.
    pub dealloc_bytes: u64,
    /// Blocks of this measurement that this thread has not freed.
    pub live_blocks: u64,
    /// Their bytes.
    pub live_bytes: u64,
    /// The most that `live_bytes` was.
    pub peak_bytes: u64,
    /// Blocks freed that were allocated before the measurement, or by another thread.
    pub foreign_deallocs: u64,
}

/// Why a measurement would be a guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MeasureError {
    /// `PoolAlloc` is not the global allocator of this process: nothing that the program does would
    /// be seen.
    NotInstalled,
    /// The thread has no cache: it is ending, or there is no memory for one.
    NoCache,
    /// No measurement of this thread is open.
    NotOpen,
    /// Another measurement that began later on this thread is still open, as happens when futures
    /// that each hold one take turns on a thread.
    OutOfTurn,
    /// There was no memory to remember which blocks belong to the measurement.
    NoMemory,
}

impl fmt::Display for MeasureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MeasureError::NotInstalled => {
                "PoolAlloc is not the global allocator of this process: nothing would be seen"
            }
            MeasureError::NoCache => "this thread has no cache: it is ending, or memory is out",
            MeasureError::NotOpen => "no measurement is open on this thread",
            MeasureError::OutOfTurn => {
                "a measurement that began later on this thread is still open: they do not nest"
            }
            MeasureError::NoMemory => "there was no memory to remember which blocks were measured",
        })
    }
}

impl std::error::Error for MeasureError {}

/// Runs `body` and counts what the calling thread allocates and frees meanwhile.
///
/// Exact, whatever other threads do: tests that run side by side do not disturb each other.
/// Meanwhile every operation of this thread goes out of line and costs some tens of nanoseconds.
/// Measurements nest; the outer one counts what the inner ones do.
///
/// The compiler may remove an allocation whose block is not used: pass it through [`black_box`].
///
/// # Errors
///
/// Why the counts would be a guess. `body` has not run if the measurement could not begin.
///
/// ```
/// # use alloc_global::PoolAlloc;
/// # #[global_allocator]
/// # static ALLOC: PoolAlloc = PoolAlloc::new();
/// use std::hint::black_box;
/// let (list, stats) = alloc_global::measure(|| black_box(vec![1u8; 100]))?;
/// assert_eq!((stats.allocs, stats.live_bytes), (1, 104));
/// # drop(list);
/// # Ok::<(), alloc_global::MeasureError>(())
/// ```
pub fn measure<T>(body: impl FnOnce() -> T) -> Result<(T, Measured), MeasureError> {
    let measure = Measure::begin()?;
    let value = body();
    let stats = measure.end()?;
    Ok((value, stats))
}

/// What the innermost open measurement of the calling thread counted until now.
///
/// # Errors
///
/// [`MeasureError::NotOpen`] outside of measurements.
///
/// ```
/// # use alloc_global::PoolAlloc;
/// # #[global_allocator]
/// # static ALLOC: PoolAlloc = PoolAlloc::new();
/// let (peak, all) = alloc_global::measure(|| {
///     drop(std::hint::black_box(vec![0u8; 4096]));
///     alloc_global::measured_so_far().map_or(0, |measured| measured.peak_bytes)
/// })?;
/// assert_eq!(peak, all.peak_bytes);
/// assert!(alloc_global::measured_so_far().is_err());
/// # Ok::<(), alloc_global::MeasureError>(())
/// ```
pub fn measured_so_far() -> Result<Measured, MeasureError> {
    stats_of(ThreadScope::innermost_counts().ok_or(MeasureError::NotOpen)?)
}

/// What the calling thread did since it began. Bytes are those that [`stats`](crate::stats())
/// counts: of blocks up to 4 KiB, of layouts above.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ThreadStats {
    /// Calls that allocated; `realloc` is not among them.
    pub allocs: u64,
    /// Calls that freed, whichever thread had allocated; `realloc` is not among them.
    pub deallocs: u64,
    /// Calls of `realloc`, in place or not.
    pub reallocs: u64,
    /// Bytes of the blocks allocated, those that `realloc` moved into or grew to among them.
    pub alloc_bytes: u64,
    /// Bytes of the blocks freed, those that `realloc` moved out of or grew from among them.
    pub dealloc_bytes: u64,
}

/// Less what it was before: what happened between two readings.
impl Sub for ThreadStats {
    type Output = ThreadStats;

    fn sub(self, before: ThreadStats) -> ThreadStats {
        ThreadStats {
            allocs: self.allocs.saturating_sub(before.allocs),
            deallocs: self.deallocs.saturating_sub(before.deallocs),
            reallocs: self.reallocs.saturating_sub(before.reallocs),
            alloc_bytes: self.alloc_bytes.saturating_sub(before.alloc_bytes),
            dealloc_bytes: self.dealloc_bytes.saturating_sub(before.dealloc_bytes),
        }
    }
}

/// What the calling thread did since it first allocated or freed. Exact, always on, some 200
/// instructions a reading, and nothing for anybody else: put together from counters that are there
/// anyway.
///
/// What other threads do with this thread's blocks is theirs: one that frees what others allocated
/// has more `deallocs` than `allocs`. All zero where `PoolAlloc` is not the global allocator, and
/// in the last destructors of a thread, when its cache is gone.
///
/// ```
/// # use alloc_global::PoolAlloc;
/// # #[global_allocator]
/// # static ALLOC: PoolAlloc = PoolAlloc::new();
/// use std::hint::black_box;
/// let before = alloc_global::thread_stats();
/// drop(black_box(vec![0u8; 100]));
/// let more = alloc_global::thread_stats() - before;
/// assert_eq!((more.allocs, more.deallocs, more.alloc_bytes), (1, 1, 104));
/// ```
pub fn thread_stats() -> ThreadStats {
    let totals = thread::own_totals();
    ThreadStats {
        allocs: totals.allocs.wrapping_sub(totals.moves),
        deallocs: totals.frees.wrapping_sub(totals.moves),
        reallocs: totals.reallocs,
        alloc_bytes: totals.alloc_bytes,
        dealloc_bytes: totals.free_bytes,
    }
}

fn stats_of(counts: ScopeCounts) -> Result<Measured, MeasureError> {
    if counts.lost {
        return Err(MeasureError::NoMemory);
    }
    Ok(Measured {
        allocs: counts.allocs,
        deallocs: counts.deallocs,
        reallocs: counts.reallocs,
        alloc_bytes: counts.alloc_bytes,
        dealloc_bytes: counts.dealloc_bytes,
        live_blocks: counts.left_blocks,
        live_bytes: counts.left_bytes,
        peak_bytes: counts.peak_bytes,
        foreign_deallocs: counts.foreign_frees,
    })
}

/// An open measurement of the calling thread.
#[derive(Debug)]
pub(crate) struct Measure(Option<ThreadScope>);

impl Measure {
    pub(crate) fn begin() -> Result<Measure, MeasureError> {
        Measure::begin_as(ThreadScope::begin)
    }

    /// The same; it notes who allocates.
    pub(crate) fn begin_with_sites() -> Result<Measure, MeasureError> {
        Measure::begin_as(ThreadScope::begin_with_sites)
    }

    /// Who allocated until now, if that was to be noted; from here on it is not.
    pub(crate) fn take_sites(&mut self) -> Option<Sites> {
        self.0.as_mut()?.take_sites()
    }

    fn begin_as(begin: fn() -> Option<ThreadScope>) -> Result<Measure, MeasureError> {
        if !is_installed()? {
            return Err(MeasureError::NotInstalled);
        }
        let scope = begin().ok_or(MeasureError::NoCache)?;
        Ok(Measure(Some(scope)))
    }

    pub(crate) fn end(mut self) -> Result<Measured, MeasureError> {
        let counts = self.close().ok_or(MeasureError::OutOfTurn)?;
        stats_of(counts)
    }

    /// Ends the scope if it is its turn (1).
    fn close(&mut self) -> Option<ScopeCounts> {
        let scope = self.0.take()?;
        if scope.is_innermost() {
            Some(scope.end())
        } else {
            core::mem::forget(scope);
            None
        }
    }
}

impl Drop for Measure {
    fn drop(&mut self) {
        self.close();
    }
}

/// Whether this process allocates through `PoolAlloc`. Asked once: the answer needs a block from
/// the global allocator.
fn is_installed() -> Result<bool, MeasureError> {
    static INSTALLED: OnceBool = OnceBool::new();
    INSTALLED.get_or_try_init(|| {
        let scope = ThreadScope::begin().ok_or(MeasureError::NoCache)?;
        drop(black_box(Box::new(black_box(Layout::new::<u64>()))));
        let counts = scope.end();
        Ok(counts.allocs == 1 && counts.deallocs == 1)
    })
}
