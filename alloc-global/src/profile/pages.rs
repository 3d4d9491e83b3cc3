//! Memory of the profile itself: mapped from the system, never from the allocator that is watched.
//!
//! Each table has one [`Area`], mapped at its first use and never given back. Its length is fixed
//! by the cap; pages that no entry reached are not backed by memory, so an area costs what was used
//! of it.
//!
//! Invariants:
//!
//! 1. An area is zeroed when it is first seen, and stays mapped at one address with one length for
//!    the life of the process.
//! 2. The areas of all tables together are at most [`cap`] bytes long.

use crate::residency;
use alloc_core::{OsPages, PAGE_SIZE, PageSource};
use core::num::NonZeroUsize;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use once_cell::race::OnceNonZeroUsize;

/// Bytes that the tables may take where nobody asked for more or less.
const DEFAULT_CAP: usize = 4 << 20;

/// The same where every block is recorded: some three million live ones, and 200,000 sites. Pages
/// are backed as they are used.
const TRACE_CAP: usize = 320 << 20;

/// Below this the tables would hold nothing of use.
const LEAST_CAP: usize = 256 << 10;

/// Above this the places in tables would no longer fit their 32 bits.
const MOST_CAP: usize = 16 << 30;

/// What was asked for; 0 = nothing.
static ASKED: AtomicUsize = AtomicUsize::new(0);

/// What is: fixed when the first table is mapped.
static CAP: OnceNonZeroUsize = OnceNonZeroUsize::new();

/// Sets the bytes that the tables of the profile together may take: 4 MiB unless set (320 MiB where
/// the first event is one of a trace of all blocks), from 256 KiB to 16 GiB. `false` where the
/// first watched event was recorded already: then nothing changes.
pub fn limit_profile(bytes: usize) -> bool {
    // Relaxed: a value of its own.
    ASKED.store(bytes.clamp(LEAST_CAP, MOST_CAP), Ordering::Relaxed);
    !is_cap_fixed()
}

/// Every block is to be recorded: more room, unless somebody set how much.
pub(crate) fn make_room_for_all() {
    // Relaxed, twice: a value of its own. Fails where a limit was set.
    let _ = ASKED.compare_exchange(0, TRACE_CAP, Ordering::Relaxed, Ordering::Relaxed);
}

/// Bytes that all tables together may take. Fixed by the first call.
pub(crate) fn cap() -> usize {
    // Relaxed: a value of its own.
    let asked = || match NonZeroUsize::new(ASKED.load(Ordering::Relaxed)) {
        Some(asked) => asked,
        None => NonZeroUsize::MIN.saturating_add(DEFAULT_CAP - 1),
    };
    CAP.get_or_init(asked).get()
}

/// Whether a table was mapped, or its length asked for.
pub(crate) fn is_cap_fixed() -> bool {
    CAP.get().is_some()
}

/// Zeroed memory, mapped at its first use.
pub(crate) struct Area {
    start: AtomicPtr<u8>,
    /// Its length, once it is mapped.
    len: AtomicUsize,
    /// Its length, the same at each call.
    wanted: fn() -> usize,
}

impl Area {
    pub(crate) const fn new(wanted: fn() -> usize) -> Self {
        Area { start: AtomicPtr::new(null_mut()), len: AtomicUsize::new(0), wanted }
    }

    /// How many bytes it has, for who has its start: whole pages.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        // Relaxed: written before the start was, by whoever wrote that.
        self.len.load(Ordering::Relaxed)
    }

    /// Its first byte; `None` where the system has no memory.
    #[inline]
    pub(crate) fn start(&self) -> Option<NonNull<u8>> {
        // Acquire: pairs with the Release in `map`: the mapping is there before its address.
        NonNull::new(self.start.load(Ordering::Acquire)).or_else(|| self.map())
    }

    /// Its first byte if it was used.
    pub(crate) fn mapped(&self) -> Option<NonNull<u8>> {
        // Acquire: as in `start`.
        NonNull::new(self.start.load(Ordering::Acquire))
    }

    /// Bytes of it that are backed by memory, as the system says: some system calls.
    pub(crate) fn backed(&self) -> usize {
        self.mapped()
            .map_or(0, |start| residency::resident_bytes(start.addr().get(), self.len()) as usize)
    }

    #[cold]
    fn map(&self) -> Option<NonNull<u8>> {
        let len = (self.wanted)().max(PAGE_SIZE).checked_next_multiple_of(PAGE_SIZE)?;
        let new = OsPages.map(len, PAGE_SIZE)?;
        // Relaxed: the same from every thread, and seen before the start is.
        self.len.store(len, Ordering::Relaxed);
        let (release, acquire) = (Ordering::Release, Ordering::Acquire);
        // Release: pairs with the Acquire in `start`. Acquire: another thread's mapping is used as its own.
        match self.start.compare_exchange(null_mut(), new.as_ptr(), release, acquire) {
            Ok(_) => Some(new),
            Err(other) => {
                // SAFETY: mapped above, and nobody saw it.
                unsafe { OsPages.unmap(new, len) };
                NonNull::new(other)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_race_for_an_area_get_the_same_one() {
        static AREA: Area = Area::new(|| 5000);
        assert!(AREA.mapped().is_none());
        let starts: Vec<usize> = std::thread::scope(|scope| {
            let find = || AREA.start().map_or(0, |start| start.addr().get());
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(find)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(starts[0] != 0 && starts.iter().all(|start| *start == starts[0]));
        assert_eq!(AREA.len(), 8192);
    }
}
