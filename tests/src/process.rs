//! Processes: fork, waiting with a limit, resource limits, resident memory.
//!
//! [`fork`] is for the tests that are about fork; everything else starts a fresh process through
//! [`crate::cases`]. Limits are there to notice a process that hangs: no test expects anything to
//! be fast.

use std::fs::File;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Not at all: it was killed when its time was up.
    Hung,
}

/// A child made by [`fork`].
#[derive(Debug)]
pub struct Child(libc::pid_t);

/// Forks. The child runs `body` and ends with its code, or 101 if it panics, without the parent's
/// atexit handlers.
///
/// # Panics
/// If there is no process to be had.
pub fn fork(body: impl FnOnce() -> i32) -> Child {
    // SAFETY: the child of a threaded process may only use what survives a fork; that this holds
    // for the allocator is what is tested, and `body` uses nothing else that another thread may
    // have held.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork failed: {}", std::io::Error::last_os_error());
    if pid == 0 {
        leave(catch_unwind(AssertUnwindSafe(body)).unwrap_or(101));
    }
    Child(pid)
}

impl Child {
    /// Waits for the end; kills the child when `limit` is over.
    ///
    /// # Panics
    /// If the child is not there.
    pub fn wait(self, limit: Duration) -> Ended {
        let start = Instant::now();
        let mut pause = Duration::from_micros(50);
        let mut hung = false;
        loop {
            let mut status = 0;
            // SAFETY: `status` is ours; WNOHANG never blocks.
            let pid = unsafe { libc::waitpid(self.0, &raw mut status, libc::WNOHANG) };
            assert!(pid >= 0, "waitpid failed: {}", std::io::Error::last_os_error());
            if pid == self.0 {
                return match hung {
                    true => Ended::Hung,
                    false if libc::WIFSIGNALED(status) => Ended::Signal(libc::WTERMSIG(status)),
                    false => Ended::Code(libc::WEXITSTATUS(status)),
                };
            }
            if !hung && start.elapsed() > limit {
                hung = true;
                // SAFETY: the child is ours and was not waited for yet, so its number is still its own.
                unsafe { libc::kill(self.0, libc::SIGKILL) };
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(5));
        }
    }
}

/// Kills every process of a group that this process made.
pub(crate) fn kill_group(group: i32) {
    // SAFETY: no memory is involved; the caller made the group and has not waited for its leader yet.
    unsafe { libc::kill(-group, libc::SIGKILL) };
}

/// Ends the process at once: no atexit handlers, no destructors.
pub fn leave(code: i32) -> ! {
    // SAFETY: no preconditions.
    unsafe { libc::_exit(code) }
}

/// Runs `handler` when the process exits.
///
/// # Panics
/// If the C library cannot take another handler.
pub fn at_exit(handler: extern "C" fn()) {
    // SAFETY: the handler is a function of this program, which is never unloaded.
    let answer = unsafe { libc::atexit(handler) };
    assert_eq!(answer, 0, "atexit failed");
}

/// Runs `handler` before each fork, and after it in both processes.
///
/// # Panics
/// If the C library cannot take more handlers.
pub fn at_fork(handler: extern "C" fn()) {
    unsafe extern "C" {
        /// As POSIX has it; libc's declaration wants handlers that are unsafe to call.
        fn pthread_atfork(
            prepare: extern "C" fn(),
            parent: extern "C" fn(),
            child: extern "C" fn(),
        ) -> libc::c_int;
    }
    // SAFETY: the handler is a function of this program, which is never unloaded.
    let answer = unsafe { pthread_atfork(handler, handler, handler) };
    assert_eq!(answer, 0, "pthread_atfork failed");
}

/// Limits the address space of this process to `bytes`, for good.
///
/// # Panics
/// If the system refuses.
pub fn limit_address_space(bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: the structure is initialised and outlives the call.
    let answer = unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) };
    assert_eq!(answer, 0, "setrlimit failed: {}", std::io::Error::last_os_error());
}

/// Address space in use, in bytes.
pub fn address_space() -> u64 {
    statm(0)
}

/// Resident memory, in bytes.
pub fn resident() -> u64 {
    statm(1)
}

/// Number `field` of /proc/self/statm, in bytes. Read onto the stack: measuring must not allocate.
fn statm(field: usize) -> u64 {
    let mut text = [0; 256];
    let mut file = File::open("/proc/self/statm").expect("/proc is mounted");
    let len = file.read(&mut text).expect("statm can be read");
    let text = std::str::from_utf8(&text[..len]).expect("statm is plain text");
    let pages: u64 = text
        .split_ascii_whitespace()
        .nth(field)
        .and_then(|word| word.parse().ok())
        .expect("statm holds numbers");
    // SAFETY: no preconditions.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    pages * page.unsigned_abs()
}
