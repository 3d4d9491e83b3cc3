//! Which thread a cache is attached to, in a form that can be asked later whether it still lives.
//!
//! The number of the thread in the kernel, with that of its process: after a fork the caches of the parent's threads,
//! which may have been in the middle of something, are not mistaken for those of dead threads.
//! A number that was given to another thread meanwhile only delays the answer.

/// Stands for an owner who is being asked about: no thread.
pub(crate) const ASKED: u64 = 1;

/// The calling thread; never 0 or [`ASKED`].
pub(crate) fn current() -> u64 {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: always callable.
        let thread = unsafe { libc::syscall(libc::SYS_gettid) };
        (process() << 32) | (thread.unsigned_abs() & 0xFFFF_FFFF)
    }
    #[cfg(not(target_os = "linux"))]
    u64::MAX
}

#[cfg(target_os = "linux")]
fn process() -> u64 {
    // SAFETY: always callable.
    unsafe { libc::getpid() }.unsigned_abs() as u64
}

/// Whether `owner` is a thread of this process that is no more. One system call.
pub(crate) fn is_dead(owner: u64) -> bool {
    #[cfg(target_os = "linux")]
    {
        if owner == 0 || owner >> 32 != process() {
            return false;
        }
        // Both numbers were those of a process and a thread: the casts keep them.
        let (process, thread) = ((owner >> 32) as libc::pid_t, owner as u32 as libc::pid_t);
        // SAFETY: always callable; valid for the life of the thread.
        let errno = unsafe { libc::__errno_location() };
        // SAFETY: valid, see above.
        let before = unsafe { errno.read() };
        // SAFETY: signal 0 is not sent; it only asks whether the thread exists.
        let sent = unsafe { libc::syscall(libc::SYS_tgkill, process, thread, 0) };
        // SAFETY: valid, see above.
        let gone = sent == -1 && unsafe { errno.read() } == libc::ESRCH;
        // SAFETY: valid, see above.
        unsafe { errno.write(before) };
        gone
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = owner;
        false
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_thread_lives_until_it_is_joined() {
        assert!(!is_dead(current()) && !is_dead(0));
        let ended = std::thread::spawn(current).join().unwrap();
        // The kernel may take a moment to forget it after the join.
        while !is_dead(ended) {
            std::thread::yield_now();
        }
        assert!(!is_dead(ended ^ (1 << 32)), "of another process");
    }
}
