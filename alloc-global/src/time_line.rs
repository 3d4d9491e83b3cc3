//! The time line: how memory went up and down since the program began, in a bounded number of points.
//!
//! A point is taken on slow paths, at most one per step of time; when the table is full every
//! second point goes and the step doubles. So a program of any length has between 128 and 256
//! points, evenly spread.
//!
//! Reached from `GlobalAlloc`: it allocates nothing, and who finds another thread at it goes on without.
//!
//! Unsafe only to read a file of the system's.

use crate::{clock, shared, stats};
use alloc_core::ARENA_SIZE;
#[cfg(target_os = "linux")]
use alloc_core::keeping_errno;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};

/// Points kept.
const POINTS: usize = 256;

/// The first step, in milliseconds.
const FIRST_STEP: u64 = 10;

/// Memory at one moment: milliseconds of the clock, bytes in blocks, bytes of arenas, resident bytes.
type Point = [AtomicU64; 4];

static ON: AtomicBool = AtomicBool::new(false);
static BUSY: AtomicBool = AtomicBool::new(false);
static TABLE: [Point; POINTS] = [const { [const { AtomicU64::new(0) }; 4] }; POINTS];
static LEN: AtomicUsize = AtomicUsize::new(0);
static STEP: AtomicU64 = AtomicU64::new(FIRST_STEP);
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Takes points of the time line from now on, for reports: one look at a clock on each slow path,
/// and a few system calls for each point. A process that is started with `POOLALLOC_REPORT` has it
/// from its beginning.
///
/// ```
/// alloc_global::report::start_time_line();
/// ```
pub fn start_time_line() {
    // Relaxed: only says whether to look.
    ON.store(true, Relaxed);
}

/// In a child of fork: its own time line, from now on. The thread that was at it is not there to
/// say that it is done.
pub(crate) fn forget_after_fork() {
    // Relaxed, all four: the child has one thread.
    LEN.store(0, Relaxed);
    STEP.store(FIRST_STEP, Relaxed);
    NEXT.store(0, Relaxed);
    BUSY.store(false, Relaxed);
}

/// Takes a point if it is time for one. Called on slow paths.
#[inline]
pub(crate) fn tick() {
    // Relaxed: see `start_time_line`.
    if ON.load(Relaxed) {
        tick_at(clock::milliseconds());
    }
}

#[cold]
fn tick_at(now: u64) {
    // Relaxed: looked at again with `BUSY`. Acquire: pairs with the Release below: one thread after
    // another.
    if now < NEXT.load(Relaxed) || BUSY.swap(true, Acquire) {
        return;
    }
    if now >= NEXT.load(Relaxed) {
        let point = [
            now,
            stats::published_bytes(),
            shared::arenas().0 as u64 * ARENA_SIZE as u64,
            resident_bytes(),
        ];
        push(point);
        // Relaxed, here and in `push`: who has `BUSY` alone writes.
        NEXT.store(now + STEP.load(Relaxed), Relaxed);
    }
    // Release: pairs with the Acquire above.
    BUSY.store(false, Release);
}

fn push(point: [u64; 4]) {
    let mut len = LEN.load(Relaxed);
    if len == POINTS {
        for kept in 0..POINTS / 2 {
            if let (Some(to), Some(from)) = (TABLE.get(kept), TABLE.get(2 * kept)) {
                to.iter().zip(from).for_each(|(to, from)| to.store(from.load(Relaxed), Relaxed));
            }
        }
        len = POINTS / 2;
        STEP.store(STEP.load(Relaxed).saturating_mul(2), Relaxed);
    }
    if let Some(to) = TABLE.get(len) {
        to.iter().zip(point).for_each(|(to, value)| to.store(value, Relaxed));
        LEN.store(len + 1, Relaxed);
    }
}

/// Resident bytes of the process, by the system's account; 0 where it does not say. One open, read
/// and close. `errno` stays: a program that allocates between a failed call and its look at that
/// must not find another error there.
fn resident_bytes() -> u64 {
    #[cfg(target_os = "linux")]
    {
        keeping_errno(|| read_resident(c"/proc/self/statm"))
    }
    #[cfg(not(target_os = "linux"))]
    0
}

#[cfg(target_os = "linux")]
fn read_resident(path: &core::ffi::CStr) -> u64 {
    // SAFETY: a string that a zero byte ends.
    let file = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if file < 0 {
        return 0;
    }
    let mut text = [0u8; 64];
    // SAFETY: at most 64 bytes into a buffer of 64.
    let read = unsafe { libc::read(file, text.as_mut_ptr().cast(), text.len()) };
    // SAFETY: opened above.
    unsafe { libc::close(file) };
    // Not negative where it succeeded; the second number is that of resident pages.
    let text = text.get(..read.max(0).unsigned_abs()).unwrap_or_default();
    let second = text.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    let digits = second.iter().filter(|byte| byte.is_ascii_digit());
    let pages = digits.fold(0u64, |sum, byte| sum.wrapping_mul(10) + u64::from(byte - b'0'));
    pages.saturating_mul(alloc_core::PAGE_SIZE as u64)
}

/// Calls `f` with every point, the oldest first: milliseconds of the clock, bytes in blocks, bytes
/// of arenas, resident bytes. A point that is being moved meanwhile may come twice.
pub(crate) fn for_each(mut f: impl FnMut([u64; 4])) {
    // Relaxed: values of their own.
    for [ms, live, mapped, resident] in TABLE.iter().take(LEN.load(Relaxed)) {
        f([ms, live, mapped, resident].map(|value| value.load(Relaxed)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_points_is_spread_evenly() {
        // The one test that writes here.
        for time in 1..=100_000u64 {
            // As slow paths come: every few milliseconds.
            tick_at(time * 4);
        }
        let mut times = Vec::new();
        for_each(|[ms, _, _, resident]| {
            times.push(ms);
            assert!(resident > 0);
        });
        assert!((POINTS / 2..=POINTS).contains(&times.len()), "{}", times.len());
        let steps: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let (least, most) = (steps.iter().min().unwrap(), steps.iter().max().unwrap());
        // What is left of finer steps is off by up to one of them, of each fineness there was.
        assert!(*most <= *least * 5 / 4, "{least} {most}");
        assert!(400_000 - times.last().unwrap() <= 2 * most);
        // Another thread was at it when this process was forked.
        BUSY.store(true, Relaxed);
        tick_at(1_000_000);
        assert_eq!(LEN.load(Relaxed), times.len());
        forget_after_fork();
        tick_at(20);
        tick_at(25);
        tick_at(20 + FIRST_STEP);
        times.clear();
        for_each(|[ms, ..]| times.push(ms));
        assert_eq!(times, [20, 20 + FIRST_STEP]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_that_cannot_be_read_is_nothing_and_errno_stays() {
        assert_eq!(read_resident(c"/nowhere/at/all"), 0);
        // SAFETY: always callable; valid for the life of the thread.
        let errno = unsafe { libc::__errno_location() };
        // SAFETY: valid, see above.
        unsafe { errno.write(libc::EINTR) };
        let bytes = resident_bytes();
        // SAFETY: valid, see above.
        assert_eq!((unsafe { errno.read() }, bytes > 0), (libc::EINTR, true));
    }
}
