//! The dear side of an asymmetric fence: every running thread of the process passes a full fence.
//!
//! Some microseconds. A thread that is not running passed one when it stopped. `errno` is left as it was.

#[cfg(target_os = "linux")]
use alloc_core::keeping_errno;
use core::sync::atomic::{AtomicBool, Ordering, fence};

/// Whether the kernel knows the command and this process registered for it.
static READY: AtomicBool = AtomicBool::new(false);

#[cfg(target_os = "linux")]
fn membarrier(command: libc::c_int) -> bool {
    // SAFETY: takes numbers only.
    keeping_errno(|| unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 })
}

#[cfg(not(target_os = "linux"))]
fn membarrier(_command: i32) -> bool {
    false
}

/// Registers the process; called once at its start, and in a child of fork.
pub(crate) fn register() {
    #[cfg(target_os = "linux")]
    let done = membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED);
    #[cfg(not(target_os = "linux"))]
    let done = membarrier(0);
    // Relaxed: only says whether to try.
    READY.store(done, Ordering::Relaxed);
}

/// Returns `false` where there is no such fence; then nothing may be concluded.
pub(crate) fn heavy_fence() -> bool {
    // SeqCst: this thread's own part of the fence; the other threads' part is the system call.
    fence(Ordering::SeqCst);
    // Relaxed: see `register`.
    if !READY.load(Ordering::Relaxed) {
        return false;
    }
    #[cfg(target_os = "linux")]
    let done = membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED);
    #[cfg(not(target_os = "linux"))]
    let done = membarrier(0);
    done
}
