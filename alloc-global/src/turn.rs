//! Whose turn it is with a thread's cache of large blocks: the owner's at almost no cost, another
//! thread's while the owner rests.
//!
//! The owner only stores a flag on entry and looks at another: no atomic read-modify-write, no
//! fence. Who wants to give back what an idle thread keeps pays for that with a system call
//! (`membarrier`), which makes every running thread of the process pass a full fence. The idea is
//! that of asymmetric fences (Dice et al.; Linux 4.14).
//!
//! ```text
//! owner                          another
//!   busy := true                   claimed := true (was false)
//!   (compiler fence)               membarrier
//!   if claimed: busy := false      if busy: claimed := false, gives up
//!   ... uses the cache ...         ... uses the cache ...
//!   busy := false (Release)        claimed := false (Release)
//! ```
//!
//! If the owner's store of `busy` comes before the fence that the membarrier put into it, the other
//! sees `busy` and gives up. If it comes after, the owner's look at `claimed` comes after too, and
//! sees it.
//!
//! It guards the large cache only: the arrays of small blocks have a fast path without any flag.

use crate::primitive::{AtomicBool, Ordering, heavy_fence, light_fence};

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Turn {
    busy: AtomicBool,
    claimed: AtomicBool,
}

impl Turn {
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Self {
        Turn { busy: AtomicBool::new(false), claimed: AtomicBool::new(false) }
    }

    /// Loom's atomics cannot be made at compile time.
    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Turn { busy: AtomicBool::new(false), claimed: AtomicBool::new(false) }
    }

    /// The owner begins. `false`: it is in the middle of something already, or another thread is at it.
    #[inline]
    pub(crate) fn enter(&self) -> bool {
        // Relaxed: read back by the owner itself.
        if self.busy.load(Ordering::Relaxed) {
            return false;
        }
        // Relaxed: made visible by the fence that `claim` puts into this thread.
        self.busy.store(true, Ordering::Relaxed);
        light_fence();
        // Acquire: pairs with the Release in `unclaim`: what the other thread did is seen.
        if self.claimed.load(Ordering::Acquire) {
            self.leave();
            return false;
        }
        true
    }

    /// The owner ends.
    #[inline]
    pub(crate) fn leave(&self) {
        // Release: pairs with the Acquire in `claim`.
        self.busy.store(false, Ordering::Release);
    }

    /// Another thread begins. `false`: the owner or a third thread is at it, or the system has no
    /// such fence.
    pub(crate) fn claim(&self) -> bool {
        // Acquire: pairs with the Release in `unclaim` of a third thread.
        if self.claimed.swap(true, Ordering::Acquire) {
            return false;
        }
        // Acquire: pairs with the Release in `leave`: what the owner did is seen.
        if heavy_fence() && !self.busy.load(Ordering::Acquire) {
            return true;
        }
        self.unclaim();
        false
    }

    /// In a child of fork: another thread that was at it does not exist here. Whether there was one.
    pub(crate) fn forget_other(&self) -> bool {
        // Relaxed: the child has one thread.
        self.claimed.swap(false, Ordering::Relaxed)
    }

    /// Another thread ends.
    pub(crate) fn unclaim(&self) {
        // Release: pairs with the Acquire in `enter`, and in `claim` of a third thread. A swap, so that it
        // comes after a third thread's swap in `claim` and not before it.
        self.claimed.swap(false, Ordering::Release);
    }
}
