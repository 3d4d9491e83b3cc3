//! A lock that neither allocates nor poisons, for critical sections of about a microsecond.
//!
//! Three states, as in Drepper's "Futexes Are Tricky" (2011): 0 free, 1 held, 2 held and someone may
//! wait. A thread spins shortly, then sleeps in the kernel, so that a holder that lost its
//! processor is not starved by those who wait for it.
//!
//! One lock at a time: no code waits for a lock while it holds another. The exceptions go in the
//! order of `fork`, which takes all of them (see there; the thread that does may then "take" any
//! lock again): who asks the loader what is loaded holds the first of them meanwhile, and who reads
//! the profile's live blocks all of its stripes.

use crate::primitive::{AtomicU32, Ordering, Watched, futex, spin};
use core::cell::{Cell, UnsafeCell};
use core::ops::{Deref, DerefMut};

const FREE: u32 = 0;
const HELD: u32 = 1;
const WAITED_FOR: u32 = 2;

thread_local! {
    /// Whether this thread holds every lock, because it is forking.
    static HOLDS_ALL: Cell<bool> = const { Cell::new(false) };
}

/// A value behind a lock.
#[derive(Debug)]
pub(crate) struct Lock<T> {
    state: AtomicU32,
    watched: Watched,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached by the holder only, one thread at a time.
unsafe impl<T: Send> Sync for Lock<T> {}

/// The lock is held for as long as this lives.
pub(crate) struct Guard<'a, T> {
    lock: &'a Lock<T>,
    /// Whether dropping frees the lock: not while this thread holds them all.
    frees: bool,
}

impl<T> Lock<T> {
    #[cfg(not(loom))]
    pub(crate) const fn new(value: T) -> Self {
        Lock { state: AtomicU32::new(FREE), watched: Watched::new(), value: UnsafeCell::new(value) }
    }

    /// Loom's atomics cannot be made at compile time.
    #[cfg(loom)]
    pub(crate) fn new(value: T) -> Self {
        Lock { state: AtomicU32::new(FREE), watched: Watched::new(), value: UnsafeCell::new(value) }
    }

    /// Waits until the lock is free and takes it.
    #[inline]
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        // Acquire: pairs with the Release in `unlock` of the holder before.
        let taken = self.state.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed);
        let frees = taken.is_ok() || self.lock_contended();
        self.watched.touch();
        Guard { lock: self, frees }
    }

    /// Returns whether the lock must be freed again.
    #[cold]
    #[inline(never)]
    fn lock_contended(&self) -> bool {
        if HOLDS_ALL.get() {
            return false;
        }
        let taken = spin(|| {
            // Relaxed: only a hint; the exchange synchronises.
            self.state.load(Ordering::Relaxed) == FREE
                // Acquire: pairs with the Release in `unlock` of the holder before.
                && self
                    .state
                    .compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
        });
        if taken {
            return true;
        }
        // From here on `unlock` must wake us: the state says so. Acquire: as above.
        while self.state.swap(WAITED_FOR, Ordering::Acquire) != FREE {
            futex::wait(&self.state, WAITED_FOR);
        }
        true
    }

    #[inline]
    fn unlock(&self) {
        self.watched.touch();
        // Release: pairs with the Acquire of the next holder.
        if self.state.swap(FREE, Ordering::Release) == WAITED_FOR {
            futex::wake_one(&self.state);
        }
    }

    /// Takes the lock without a guard, on behalf of a fork.
    pub(crate) fn lock_for_fork(&self) {
        core::mem::forget(self.lock());
    }

    /// Frees the lock that `lock_for_fork` took, in the parent or the child.
    pub(crate) fn unlock_after_fork(&self) {
        self.unlock();
    }
}

/// Says whether this thread holds every lock from here on.
pub(crate) fn set_holds_all(holds: bool) {
    HOLDS_ALL.set(holds);
}

/// Whether this thread holds every lock.
#[cfg(not(loom))]
pub(crate) fn holds_all() -> bool {
    HOLDS_ALL.get()
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the lock is held by this thread.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the lock is held by this thread, and the guard is borrowed exclusively.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        if self.frees {
            self.lock.unlock();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn increments_under_the_lock_are_not_lost() {
        static COUNT: Lock<u64> = Lock::new(0);
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    for round in 0..20_000 {
                        let mut count = COUNT.lock();
                        let before = *count;
                        if round % 1000 == 0 {
                            std::thread::yield_now();
                        }
                        *count = before + 1;
                    }
                });
            }
        });
        assert_eq!(*COUNT.lock(), 320_000);
    }

    #[test]
    fn a_thread_that_holds_all_does_not_wait_for_itself() {
        let lock = Lock::new(1);
        lock.lock_for_fork();
        set_holds_all(true);
        *lock.lock() += 1;
        set_holds_all(false);
        lock.unlock_after_fork();
        assert_eq!(*lock.lock(), 2);
    }
}
