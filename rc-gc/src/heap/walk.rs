//! What goes over a whole heap: every object, giving memory back, checking.
//!
//! It does not run user code.

use alloc_core::OsPages;

use super::Inner;
use crate::header::Obj;
use crate::pools::{IN_FRESH, IN_MID, IN_OLD, PoolRef, WORDS};

impl Inner {
    /// Gives empty pools of all lists back.
    pub(crate) fn release_listed(&self) {
        for list in self.lists.iter().flatten() {
            let mut empty = Vec::new();
            list.for_each(|pool| {
                if pool.used() == 0 && !pool.is(IN_FRESH | IN_MID) {
                    empty.push(pool);
                }
            });
            empty.into_iter().for_each(|pool| self.release(pool));
        }
    }

    /// Gives free memory back to the system: all empty pools, all arenas but `keep` empty ones.
    pub(crate) fn trim(&self, keep: usize) -> usize {
        self.flush_caches();
        self.release_listed();
        let mut arenas = self.arenas.borrow_mut();
        let mut bytes = 0;
        while let Some(arena) = arenas.detach_empty(keep, u64::MAX) {
            // SAFETY: its chunk is from `OsPages`.
            let given = unsafe { arena.purge(&OsPages) };
            bytes += given;
            // SAFETY: detached from there.
            let chunk = unsafe { arenas.reattach(arena, given != 0) };
            if let Some(chunk) = chunk {
                // SAFETY: as above.
                unsafe { chunk.unmap(&OsPages) };
            }
            if given == 0 {
                break;
            }
        }
        bytes
    }

    /// After a full collection that freed `freed` objects: keeps a quarter of the arenas in use for
    /// growth, at least two.
    ///
    /// Going over all pools with free blocks waits until a sixteenth of the heap was freed: a
    /// program may collect often.
    pub(crate) fn trim_some(&self, freed: u64) {
        let freed = self.untrimmed.get() + freed;
        self.untrimmed.set(freed);
        if freed * 16 >= self.in_use() {
            self.untrimmed.set(0);
            self.flush_caches();
            self.release_listed();
        }
        let (arenas, empty) = {
            let arenas = self.arenas.borrow();
            (arenas.arenas(), arenas.empty_arenas())
        };
        let keep = ((arenas - empty) / 4).max(2);
        if empty > keep {
            self.trim(keep);
        }
    }

    /// Calls `f` with every pool.
    pub(crate) fn for_each_pool(&self, mut f: impl FnMut(PoolRef)) {
        self.arenas.borrow().for_each_taken(|base| {
            // SAFETY: taken by this heap, which alone takes pools from its arenas.
            f(unsafe { PoolRef::containing(base) });
        });
    }

    /// Calls `f` with every object whose memory is in use, dead and unborn ones too. The caches
    /// must be flushed; `f` must not allocate from or free to this heap.
    pub(crate) fn for_each(&self, mut f: impl FnMut(Obj)) {
        self.for_each_pool(|pool| {
            for at in 0..WORDS {
                let mut bits = pool.used_word(at);
                while bits != 0 {
                    let index = at * 64 + bits.trailing_zeros() as usize;
                    bits &= bits - 1;
                    // SAFETY: used, and no cache holds blocks: an object is there.
                    f(unsafe { pool.object(index) });
                }
            }
        });
        self.large.for_each(f);
    }

    /// Calls `f` with every object and the size of its block, dead and unborn objects too. Changes
    /// nothing, and leaves out what is being changed at this moment, so it may be called at any:
    /// from drops, from inside an allocation. `f` must not allocate from or free to this heap.
    #[cfg(feature = "report")]
    pub(crate) fn for_each_sized(&self, mut f: impl FnMut(Obj, usize)) {
        self.large.for_each_sized(&mut f);
        let Ok(arenas) = self.arenas.try_borrow() else { return };
        arenas.for_each_taken(|base| {
            // SAFETY: as in `for_each_pool`.
            let pool = unsafe { PoolRef::containing(base) };
            let cache = &self.caches[pool.shape()][pool.class()];
            for at in 0..WORDS {
                let mut bits = pool.used_word(at) & !cache.bits_of(pool, at);
                while bits != 0 {
                    let index = at * 64 + bits.trailing_zeros() as usize;
                    bits &= bits - 1;
                    // SAFETY: neither free nor in a cache: an object is there.
                    f(unsafe { pool.object(index) }, pool.block_size());
                }
            }
        });
    }

    /// Pages, for the statistics: mapped bytes, and bytes in pools that are taken.
    pub(crate) fn pages(&self) -> (usize, usize) {
        let arenas = self.arenas.borrow();
        let (mapped, pools) = (arenas.arenas(), arenas.pools_in_use());
        (mapped * alloc_core::ARENA_SIZE, pools * alloc_core::POOL_SIZE)
    }

    /// Verifies all arenas and lists, and `live`; part of `Heap::check`.
    pub(crate) fn check_memory(&self) -> Result<(), &'static str> {
        self.arenas.borrow().check()?;
        self.large.check()?;
        let (mut used, mut fault) = (self.large.len() as u64, None);
        self.for_each_pool(|pool| {
            used += pool.used() as u64;
            fault = fault.or(pool.check(!self.is_retired()).err());
        });
        if used != self.in_use() {
            return Err("heap 1: the count of live objects is wrong");
        }
        for (list, flag) in [(&self.fresh, IN_FRESH), (&self.mid, IN_MID)] {
            let list = list.borrow();
            let mut flagged = 0;
            self.for_each_pool(|pool| flagged += usize::from(pool.is(flag)));
            if flagged != list.len() || list.iter().any(|pool| !pool.is(flag)) {
                return Err("pool 5: a list of candidates and the state of pools differ");
            }
        }
        let mut old = 0;
        self.for_each_pool(|pool| old += usize::from(pool.is(IN_OLD)));
        if self.old.len() != Some(old) {
            return Err("pool 5: the list of old candidates and the state of pools differ");
        }
        fault.map_or(Ok(()), Err)
    }
}
