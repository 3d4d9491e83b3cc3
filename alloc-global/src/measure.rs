//! Measurements: what the calling thread allocates and frees between two points of the program, exactly.
//!
//! ```text
//! measure(|| ..)          opens a scope (`scope`), runs, closes it, hands out the counts
//! thread_stats()          the innermost open measurement of the calling thread, until now
//! assert_no_alloc! ...    the same with a verdict (`asserts`)
//! ```
//!
//! A reading that would be a guess is an error: [`MeasureError`] says which.
//!
//! Invariants:
//!
//! 1. Measurements of a thread are a stack, in the order in which they began: only the innermost may end. One that is dropped
//!    out of turn is left open for good, memory and all, so that no scope ever points to one that is gone.
//!
//! It sees one thread. What other threads do for this one, or with its blocks, is theirs. No unsafe here.

use crate::scope::{ScopeCounts, ThreadScope};
use core::alloc::Layout;
use core::fmt;
use core::hint::black_box;
use once_cell::race::OnceBool;

/// What a thread did in a measurement. Bytes are those of blocks: a request of 20 bytes takes a block of 24.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ThreadStats {
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
    /// `PoolAlloc` is not the global allocator of this process: nothing that the program does would be seen.
    NotInstalled,
    /// The thread has no cache: it is ending, or there is no memory for one.
    NoCache,
    /// No measurement of this thread is open.
    NotOpen,
    /// Another measurement that began later on this thread is still open, as happens when futures that each hold one
    /// take turns on a thread.
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
/// Exact, whatever other threads do: tests that run side by side do not disturb each other. Meanwhile every
/// operation of this thread goes out of line and costs some tens of nanoseconds. Measurements nest; the outer one counts
/// what the inner ones do.
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
pub fn measure<T>(body: impl FnOnce() -> T) -> Result<(T, ThreadStats), MeasureError> {
    let measure = Measure::begin()?;
    let value = body();
    let stats = measure.end()?;
    Ok((value, stats))
}

/// What the innermost open measurement of the calling thread counted until now.
///
/// # Errors
///
/// [`MeasureError::NotOpen`] outside of measurements: a thread that is not measured keeps no such counts.
///
/// ```
/// # use alloc_global::PoolAlloc;
/// # #[global_allocator]
/// # static ALLOC: PoolAlloc = PoolAlloc::new();
/// let (peak, all) = alloc_global::measure(|| {
///     drop(std::hint::black_box(vec![0u8; 4096]));
///     alloc_global::thread_stats().map_or(0, |stats| stats.peak_bytes)
/// })?;
/// assert_eq!(peak, all.peak_bytes);
/// assert!(alloc_global::thread_stats().is_err());
/// # Ok::<(), alloc_global::MeasureError>(())
/// ```
pub fn thread_stats() -> Result<ThreadStats, MeasureError> {
    stats_of(ThreadScope::innermost_counts().ok_or(MeasureError::NotOpen)?)
}

fn stats_of(counts: ScopeCounts) -> Result<ThreadStats, MeasureError> {
    if counts.lost {
        return Err(MeasureError::NoMemory);
    }
    Ok(ThreadStats {
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
        if !is_installed()? {
            return Err(MeasureError::NotInstalled);
        }
        let scope = ThreadScope::begin().ok_or(MeasureError::NoCache)?;
        Ok(Measure(Some(scope)))
    }

    pub(crate) fn end(mut self) -> Result<ThreadStats, MeasureError> {
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

/// Whether this process allocates through `PoolAlloc`. Asked once: the answer needs a block from the global allocator.
fn is_installed() -> Result<bool, MeasureError> {
    static INSTALLED: OnceBool = OnceBool::new();
    INSTALLED.get_or_try_init(|| {
        let scope = ThreadScope::begin().ok_or(MeasureError::NoCache)?;
        drop(black_box(Box::new(black_box(Layout::new::<u64>()))));
        let counts = scope.end();
        Ok(counts.allocs == 1 && counts.deallocs == 1)
    })
}
