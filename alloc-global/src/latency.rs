//! How long calls take, by path: counts in cells, turned into histograms when a report is made.
//!
//! | path | what is timed | how often |
//! |---|---|---|
//! | fast | a free and an allocation from the thread's cache | a probe of eight, every 64th slow path |
//! | refill | half an array of blocks from the shared heaps | always |
//! | arena | a chunk of arenas mapped | always |
//! | fallback | a call of the fallback: for a block, to resize one, to free one | always |
//! | purge | free memory given back once it is due; `trim` is not in it | always |
//!
//! A cell holds values whose top five bits agree, as an HDR histogram's does (Gil Tene): at most 6
//! % wide. Nothing is allocated or formatted here; `hdrhistogram` comes in with the report. While
//! it is off, each of these slow paths carries one load and a branch.
//!
//! Times are in ticks of the processor's counter where it has one, else in nanoseconds; a report
//! turns ticks into nanoseconds by the clock's and the counter's advance from the first reading to
//! the first report. That ratio then stays: otherwise a cell could cross a bound from one report to
//! the next, and counts below the bound go down.
//!
//! Unsafe only to read that counter.

use crate::clock;
#[cfg(feature = "report")]
use core::sync::atomic::Ordering::Acquire;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::Release};
use crossbeam_utils::CachePadded;

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Path {
    Fast = 0,
    Refill = 1,
    Arena = 2,
    Fallback = 3,
    Purge = 4,
}

impl Path {
    #[cfg(feature = "report")]
    pub(crate) const ALL: [(Path, &'static str); PATHS] = [
        (Path::Fast, "fast"),
        (Path::Refill, "refill"),
        (Path::Arena, "arena"),
        (Path::Fallback, "fallback"),
        (Path::Purge, "purge"),
    ];
}

const PATHS: usize = 5;

/// Bits of a value, below its highest one, that tell cells apart.
const FINE: u32 = 4;

/// Cells: values below 2^40 ticks, some minutes.
const CELLS: usize = (40 - FINE as usize + 1) << FINE;

// Relaxed, where nothing else is said: counts and switches of their own; nobody infers anything
// else from them.
static ON: AtomicBool = AtomicBool::new(false);
// 64 bits: a cell of 32 is full after minutes of a busy path.
static COUNTS: [CachePadded<[AtomicU64; CELLS]>; PATHS] =
    [const { CachePadded::new([const { AtomicU64::new(0) }; CELLS]) }; PATHS];

/// The counter and the clock when timing was first switched on; 0 = never.
static FIRST_TICKS: AtomicU64 = AtomicU64::new(0);
static FIRST_NANOSECONDS: AtomicU64 = AtomicU64::new(0);

/// Whether somebody set the two.
static STARTED: AtomicBool = AtomicBool::new(false);

/// The bits of the nanoseconds in a tick, as of the first report; 0 = not known yet.
#[cfg(feature = "report")]
static PER_TICK: AtomicU64 = AtomicU64::new(0);

/// Nanoseconds that the ratio is taken over at least: two readings are off by some ten each.
#[cfg(feature = "report")]
const CALIBRATION: u64 = 1_000_000;

/// Times the slow paths of the allocator from now on, for reports. Some 10 ns per refill, arena or
/// fallback call; the fast path is probed now and then.
pub fn start_latency() {
    if !STARTED.swap(true, Relaxed) {
        let (ticks, nanoseconds) = reading();
        FIRST_NANOSECONDS.store(nanoseconds, Relaxed);
        // Release: pairs with the Acquire in `nanoseconds_per_tick`.
        FIRST_TICKS.store(ticks.max(1), Release);
    }
    ON.store(true, Relaxed);
}

/// Stops timing. What was counted stays.
pub fn stop_latency() {
    ON.store(false, Relaxed);
}

/// Whether calls are timed.
#[inline]
pub(crate) fn is_on() -> bool {
    ON.load(Relaxed)
}

#[inline]
pub(crate) fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: every x86-64 processor has the instruction, and Linux lets programs use it.
        unsafe { core::arch::x86_64::_rdtsc() }
    }
    #[cfg(not(target_arch = "x86_64"))]
    clock::nanoseconds()
}

/// The counter and the clock at one moment: of a few tries the one in which least time passed
/// between the two, for a thread may lose its processor there.
fn reading() -> (u64, u64) {
    let (mut best, mut least) = ((0, 0), u64::MAX);
    for _ in 0..4 {
        let before = ticks();
        let nanoseconds = clock::nanoseconds();
        let took = ticks().wrapping_sub(before);
        if took < least {
            (best, least) = ((before, nanoseconds), took);
        }
    }
    best
}

/// Runs `f`, and counts how long it took if calls are timed.
#[inline]
pub(crate) fn timed<R>(path: Path, f: impl FnOnce() -> R) -> R {
    if !is_on() {
        return f();
    }
    let begin = ticks();
    let result = f();
    count(path, ticks().wrapping_sub(begin));
    result
}

/// Counts a call that took so many ticks.
#[cold]
pub(crate) fn count(path: Path, ticks: u64) {
    if let Some(cells) = COUNTS.get(path as usize) {
        count_in(cells.as_slice(), ticks);
    }
}

fn count_in(cells: &[AtomicU64], ticks: u64) {
    if let Some(cell) = cells.get(cell_of(ticks)) {
        cell.fetch_add(1, Relaxed);
    }
}

/// The cell of a value; the last one for all that are larger.
fn cell_of(value: u64) -> usize {
    if value < 1 << FINE {
        return value as usize;
    }
    let shift = value.ilog2() - FINE;
    // The highest bit of the mantissa is 1: it adds one to the row.
    let cell = ((shift as usize) << FINE) + (value >> shift) as usize;
    cell.min(CELLS - 1)
}

/// The middle of a cell's values.
#[cfg(any(test, feature = "report"))]
fn middle_of(cell: usize) -> u64 {
    if cell < 2 << FINE {
        return cell as u64;
    }
    let shift = (cell >> FINE) as u32 - 1;
    let mantissa = (cell & ((1 << FINE) - 1)) as u64 + (1 << FINE);
    (mantissa << shift) + (1 << shift) / 2
}

/// Calls `f` with each cell of a path in which there is something: nanoseconds, and how many.
#[cfg(feature = "report")]
pub(crate) fn for_each(path: Path, mut f: impl FnMut(u64, u64)) {
    let per_tick = nanoseconds_per_tick();
    let Some(cells) = COUNTS.get(path as usize) else { return };
    for (cell, count) in cells.iter().enumerate() {
        let count = count.load(Relaxed);
        if count > 0 {
            // Saturates; some minutes at most.
            f((middle_of(cell) as f64 * per_tick).round() as u64, count);
        }
    }
}

/// The same in every report. The first one waits until there is something to divide, a millisecond at most.
#[cfg(feature = "report")]
fn nanoseconds_per_tick() -> f64 {
    let known = PER_TICK.load(Relaxed);
    if known != 0 {
        return f64::from_bits(known);
    }
    // Acquire: pairs with the Release in `start_latency`: the clock's first reading is there too.
    let first = FIRST_TICKS.load(Acquire);
    if first == 0 {
        return 1.0;
    }
    let (ticks, nanoseconds) = loop {
        let (ticks, nanoseconds) = reading();
        let passed = nanoseconds.saturating_sub(FIRST_NANOSECONDS.load(Relaxed));
        if passed >= CALIBRATION {
            break (ticks.saturating_sub(first), passed);
        }
        std::thread::sleep(std::time::Duration::from_nanos(CALIBRATION - passed));
    };
    let ratio = if ticks == 0 { 1.0 } else { nanoseconds as f64 / ticks as f64 };
    match PER_TICK.compare_exchange(0, ratio.to_bits(), Relaxed, Relaxed) {
        Ok(_) => ratio,
        // Another report was first.
        Err(known) => f64::from_bits(known),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_holds_its_middle_and_is_narrow() {
        for value in (0..5_000u64).chain((0..35).map(|bit| (1 << bit) + 7)) {
            let middle = middle_of(cell_of(value));
            assert_eq!(cell_of(middle), cell_of(value), "{value} {middle}");
            assert!(middle.abs_diff(value) * 16 <= value, "{value} {middle}");
        }
        assert_eq!(cell_of(u64::MAX), CELLS - 1);
    }

    #[test]
    fn cells_grow_with_values() {
        assert!((0..100_000u64).is_sorted_by_key(cell_of));
    }

    #[test]
    fn a_cell_counts_beyond_32_bits() {
        let cells = [const { AtomicU64::new(u32::MAX as u64) }; CELLS];
        count_in(&cells, u64::MAX);
        assert_eq!(cells[CELLS - 1].load(Relaxed), 1 << 32);
    }

    #[cfg(feature = "report")]
    #[test]
    fn the_length_of_a_tick_is_that_of_the_first_report() {
        start_latency();
        let first = nanoseconds_per_tick();
        // From 100 MHz to 10 GHz, or the clock itself.
        assert!((0.1..=10.0).contains(&first), "{first}");
        for _ in 0..100 {
            std::thread::sleep(std::time::Duration::from_micros(100));
            assert_eq!(nanoseconds_per_tick(), first);
        }
        stop_latency();
    }
}
