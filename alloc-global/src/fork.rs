//! `fork` in a process with threads: the child finds every heap whole.
//!
//! Before a fork the forking thread takes all locks in one order; parent and child free them. glibc
//! does not run the handlers of concurrent forks one after the other, so there is no counter and no
//! state here: two forks simply take the same locks in the same order.
//!
//! The child has one thread. Caches of the parent's other threads stay as they are, attached to
//! nobody: what their arrays held is lost to the child, at most what a cache may hold for each
//! thread; their lists of the fallback's blocks are visited like any other's, unless one was at
//! them. Lost is also what another thread had between two locks at that moment: at most a batch of
//! blocks or the free blocks of a span, an arena or a span that it was giving back, or a chunk that
//! it had just mapped.
//!
//! Handlers of others that were registered before ours run while all our locks are held. They may
//! allocate; but one that waits for another thread, which waits for a lock of ours in its turn,
//! waits for ever.

#[cfg(feature = "report")]
use crate::time_line;
use crate::{depot, glibc_heap, lock, membarrier, profile, purge, purger, shared, spans, thread};

/// Registers the handlers; called once.
pub(crate) fn register() {
    // SAFETY: the handlers fit their signatures and are never unloaded before the process ends.
    unsafe { libc::pthread_atfork(Some(prepare), Some(in_parent), Some(in_child)) };
}

unsafe extern "C" fn prepare() {
    profile::lock_loader_for_fork();
    thread::lock_idle();
    shared::lock_all();
    depot::lock_for_fork();
    spans::lock_for_fork();
    profile::lock_for_fork();
    // Handlers of others that run now may allocate; this thread must not wait for itself.
    lock::set_holds_all(true);
}

unsafe extern "C" fn in_parent() {
    lock::set_holds_all(false);
    profile::unlock_after_fork();
    spans::unlock_after_fork();
    depot::unlock_after_fork();
    shared::unlock_all();
    thread::unlock_idle();
    profile::unlock_loader_after_fork();
}

unsafe extern "C" fn in_child() {
    purger::forget_after_fork();
    // Another thread may have been at what waited, and does not exist here.
    purge::note_pending_now();
    #[cfg(feature = "report")]
    time_line::forget_after_fork();
    membarrier::register();
    glibc_heap::forget_after_fork();
    thread::adopt_after_fork();
    depot::recount_after_fork();
    lock::set_holds_all(false);
    profile::unlock_after_fork();
    spans::unlock_after_fork();
    depot::unlock_after_fork();
    shared::unlock_all();
    thread::unlock_idle();
    profile::unlock_loader_after_fork();
}
