//! Which thread a cache is attached to, in a form that can be asked later whether it still lives.
//!
//! ```text
//! bits   63..44                       43..22               21..0
//!        forks since the first        process              thread         0: nobody, 1: being asked about
//!        process of this program
//! ```
//!
//! The number of the thread in the kernel, with that of its process and of the forks that led to
//! it: after a fork the caches of the parent's threads, which may have been in the middle of
//! something, are not mistaken for those of dead threads, not even by a grandchild that was given
//! the number of the parent's process anew. A number that was given to another thread of the
//! process meanwhile only delays the answer.

use crate::primitive::{AtomicU32, AtomicU64, Ordering};

/// Stands for an owner who is being asked about: no thread.
const ASKED: u64 = 1;

/// Bits of the number of a process or thread: Linux has at most 4,194,304 of them.
const BITS: u32 = 22;

/// Whom a cache belongs to.
#[derive(Debug)]
pub(crate) struct Owner(AtomicU64);

impl Owner {
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Owner {
        Owner(AtomicU64::new(0))
    }

    /// Loom's atomics cannot be made at compile time.
    #[cfg(loom)]
    pub(crate) fn new() -> Owner {
        Owner(AtomicU64::new(0))
    }

    pub(crate) fn get(&self) -> u64 {
        // Relaxed: a number; nothing is read through it.
        self.0.load(Ordering::Relaxed)
    }

    /// The cache is that of `thread` now, of which [`current`] gave the number.
    pub(crate) fn set(&self, thread: u64) {
        // Release: pairs with the first Acquire in `take_if_dead`: who sees the number sees that
        // its thread lives.
        self.0.store(thread, Ordering::Release);
    }

    /// The thread gives the cache up: it alone uses it until it is on the list of idle ones.
    pub(crate) fn leave(&self) {
        // Relaxed: whoever takes the cache next does so under the lock on idle caches. A swap, so
        // that it comes after a claim that it did not see, and not before it (loom would have it
        // so).
        self.0.swap(0, Ordering::Relaxed);
    }

    /// Takes the cache from its thread if that is dead: then it is the caller's alone.
    ///
    /// One caller at a time ([`Asking`]): a second one would put `ASKED` where a first one had, on
    /// a cache that left and was taken meanwhile, and the first would take that for its own and
    /// empty a cache in use.
    pub(crate) fn take_if_dead(&self, is_dead: impl FnOnce(u64) -> bool) -> bool {
        let owner = self.get();
        // Claimed first and asked about then: between the two its number may be given to a new
        // thread that is handed this very cache. Acquire, twice: the kernel's report that a thread
        // is gone comes after all it wrote.
        let claim = |from, to| {
            self.0.compare_exchange(from, to, Ordering::Acquire, Ordering::Relaxed).is_ok()
        };
        if owner <= ASKED || !claim(owner, ASKED) {
            return false;
        }
        let next = if is_dead(owner) { 0 } else { owner };
        // Fails where the owner left meanwhile.
        claim(ASKED, next) && next == 0
    }
}

/// Lets one thread at a time look for caches of the dead.
#[derive(Debug)]
pub(crate) struct Asking(AtomicU64);

impl Asking {
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Asking {
        Asking(AtomicU64::new(0))
    }

    /// Loom's atomics cannot be made at compile time.
    #[cfg(loom)]
    pub(crate) fn new() -> Asking {
        Asking(AtomicU64::new(0))
    }

    /// Begins, unless another thread of this process, [`here`], is at it: a child of fork does not
    /// inherit that thread, nor does a grandchild that got the number of the process anew.
    pub(crate) fn begin(&self, process: u64) -> bool {
        // Acquire: pairs with the Release in `end`: owners are as the last one left them.
        self.0.swap(process, Ordering::Acquire) != process
    }

    pub(crate) fn end(&self) {
        // Release: pairs with the Acquire in `begin`. A swap, as in `Turn::unclaim`.
        self.0.swap(0, Ordering::Release);
    }
}

/// Forks between the first process of this program and this one.
#[cfg(not(loom))]
static FORKS: AtomicU32 = AtomicU32::new(0);

/// In a child of fork: owners known until now are of another process.
#[cfg(not(loom))]
pub(crate) fn note_fork() {
    // Relaxed: the child has one thread.
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// The number of this process in the kernel.
#[cfg(not(loom))]
pub(crate) fn process() -> u32 {
    // SAFETY: always callable.
    unsafe { libc::getpid() }.unsigned_abs()
}

/// What all owners of this process have in common, in their upper bits.
#[cfg(all(target_os = "linux", not(loom)))]
pub(crate) fn here() -> u64 {
    // Relaxed: changes while the process has one thread. Wraps after a million forks, one after the other.
    u64::from(FORKS.load(Ordering::Relaxed)) << BITS | u64::from(process())
}

/// Whether an owner is a thread of the process that [`here`] stands for, dead or not.
#[cfg(not(loom))]
pub(crate) fn is_of(owner: u64, here: u64) -> bool {
    // Who is being asked about is one: nobody asks about others.
    cfg!(not(target_os = "linux")) && owner != 0
        || owner == ASKED
        || owner >> BITS == here & (u64::MAX >> BITS)
}

/// The calling thread; never 0 or [`ASKED`].
#[cfg(not(loom))]
pub(crate) fn current() -> u64 {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: always callable.
        let thread = unsafe { libc::syscall(libc::SYS_gettid) };
        here() << BITS | (thread.unsigned_abs() & ((1 << BITS) - 1))
    }
    #[cfg(not(target_os = "linux"))]
    u64::MAX
}

/// The number in the kernel of a thread of this process that owns a cache.
#[cfg(not(loom))]
pub(crate) fn thread_of(owner: u64) -> Option<u32> {
    // The casts keep the values: 22 bits.
    (owner > ASKED && is_of(owner, here())).then_some((owner & ((1 << BITS) - 1)) as u32)
}

/// Nothing in common: they cannot be told apart.
#[cfg(all(not(target_os = "linux"), not(loom)))]
pub(crate) fn here() -> u64 {
    0
}

/// Whether `owner` is a thread of this process that is no more. One system call.
#[cfg(not(loom))]
pub(crate) fn is_dead(owner: u64) -> bool {
    #[cfg(target_os = "linux")]
    {
        if owner <= ASKED || !is_of(owner, here()) {
            return false;
        }
        // The number of a thread: the cast keeps it.
        let thread = (owner & ((1 << BITS) - 1)) as libc::pid_t;
        alloc_core::keeping_errno(|| {
            // SAFETY: signal 0 is not sent; it only asks whether the thread exists.
            let sent = unsafe { libc::syscall(libc::SYS_tgkill, process(), thread, 0) };
            // SAFETY: always callable; valid for the life of the thread.
            let errno = unsafe { libc::__errno_location() };
            // SAFETY: valid, see above.
            sent == -1 && unsafe { errno.read() } == libc::ESRCH
        })
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = owner;
        false
    }
}

#[cfg(all(test, target_os = "linux", not(loom)))]
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
        assert!(!is_dead(ended ^ (1 << BITS)), "of another process");
        assert!(!is_dead(ended ^ (1 << (2 * BITS))), "of the process that had this one's number");
        assert!(is_of(current(), here()) && is_of(ended, here()) && !is_of(0, here()));
        // SAFETY: always callable.
        let number = unsafe { libc::syscall(libc::SYS_gettid) };
        assert_eq!(thread_of(current()).map(i64::from), Some(number));
        assert_eq!(
            (thread_of(0), thread_of(ASKED), thread_of(ended ^ (1 << BITS))),
            (None, None, None)
        );
    }
}
