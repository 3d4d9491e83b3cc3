//! Sleeping until a word changes. `errno` is left as it was.
//!
//! Where the system has no futex, who waits gives its processor away instead.

#[cfg(target_os = "linux")]
use alloc_core::keeping_errno;
use core::sync::atomic::AtomicU32;

/// Sleeps while `word` holds `value`; may return early.
#[cfg(target_os = "linux")]
pub(crate) fn wait(word: &AtomicU32, value: u32) {
    futex(word, libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, value);
}

/// As [`wait`], for a word in memory that other processes have mapped too.
#[cfg(target_os = "linux")]
pub(crate) fn wait_shared(word: &AtomicU32, value: u32) {
    futex(word, libc::FUTEX_WAIT, value);
}

/// Wakes one of those who wait in [`wait_shared`], in whichever process.
#[cfg(target_os = "linux")]
pub(crate) fn wake_shared(word: &AtomicU32) {
    futex(word, libc::FUTEX_WAKE, 1);
}

/// Wakes one of those who wait.
#[cfg(target_os = "linux")]
pub(crate) fn wake_one(word: &AtomicU32) {
    futex(word, libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, 1);
}

#[cfg(target_os = "linux")]
fn futex(word: &AtomicU32, operation: i32, value: u32) {
    let no_timeout = core::ptr::null::<libc::timespec>();
    // SAFETY: the word is alive for the call; the kernel only reads it.
    keeping_errno(|| unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), operation, value, no_timeout);
    });
}

/// Gives the processor away.
#[cfg(not(target_os = "linux"))]
pub(crate) fn wait(_word: &AtomicU32, _value: u32) {
    // SAFETY: always callable.
    unsafe { libc::sched_yield() };
}

/// Looks again after a tenth of a second.
#[cfg(not(target_os = "linux"))]
pub(crate) fn wait_shared(_word: &AtomicU32, _value: u32) {
    // SAFETY: always callable.
    unsafe { libc::usleep(100_000) };
}

/// Nobody sleeps for long.
#[cfg(not(target_os = "linux"))]
pub(crate) fn wake_shared(_word: &AtomicU32) {}

/// Nobody sleeps.
#[cfg(not(target_os = "linux"))]
pub(crate) fn wake_one(_word: &AtomicU32) {}
