//! The monotonic clock, coarse in milliseconds and fine in nanoseconds: read without a system call
//! where there is a vDSO.

#[cfg(target_os = "linux")]
const CLOCK: libc::clockid_t = libc::CLOCK_MONOTONIC_COARSE;
#[cfg(not(target_os = "linux"))]
const CLOCK: libc::clockid_t = libc::CLOCK_MONOTONIC;

/// Milliseconds since some point in the past; 0 where the clock cannot be read.
pub(crate) fn milliseconds() -> u64 {
    let time = read(CLOCK);
    // Neither is negative on a monotonic clock.
    time.tv_sec.unsigned_abs() * 1000 + time.tv_nsec.unsigned_abs() / 1_000_000
}

/// Nanoseconds since some point in the past; some 20 ns.
pub(crate) fn nanoseconds() -> u64 {
    let time = read(libc::CLOCK_MONOTONIC);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// Nanoseconds of processor time of this thread; a system call.
pub(crate) fn thread_nanoseconds() -> u64 {
    let time = read(libc::CLOCK_THREAD_CPUTIME_ID);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

fn read(clock: libc::clockid_t) -> libc::timespec {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the time to a place that is ours.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time
}
