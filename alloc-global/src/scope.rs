//! A scope: every operation of one thread counted, exactly, between two points of the program.
//!
//! While a scope is open all operations of its thread go out of line (mode `Every` of `watch`). It
//! keeps the addresses of the blocks that were allocated inside it and are still live, so that a
//! free of an older block is told apart from that of one of its own, and what is left over is known
//! exactly.
//!
//! Invariants:
//!
//! 1. Scopes of a thread are a stack: each knows the one around it, and closes before it.
//! 2. `live` holds exactly the blocks that this thread allocated since the scope opened and did not
//!    free, unless `lost` says that there was no memory to remember them.
//! 3. Used by the thread that opened it only.
//!
//! Blocks that another thread frees stay in `live`: this thread does not see that.

mod sites;

use crate::thread;
use alloc_core::{Block, OsPages, PAGE_SIZE, PageSource};
use core::marker::PhantomData;
use core::ptr::NonNull;
pub(crate) use sites::Sites;

/// What one thread did between two points of the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ScopeCounts {
    /// Calls that allocated, `realloc` apart.
    pub(crate) allocs: u64,
    /// Calls that freed, `realloc` apart.
    pub(crate) deallocs: u64,
    /// Calls of `realloc`.
    pub(crate) reallocs: u64,
    /// Bytes of blocks allocated, as blocks take them, `realloc` included.
    pub(crate) alloc_bytes: u64,
    /// Bytes of blocks freed.
    pub(crate) dealloc_bytes: u64,
    /// The most bytes in blocks of the scope at once.
    pub(crate) peak_bytes: u64,
    /// Frees of blocks that were allocated outside the scope.
    pub(crate) foreign_frees: u64,
    /// Blocks of the scope that this thread did not free.
    pub(crate) left_blocks: u64,
    /// Their bytes.
    pub(crate) left_bytes: u64,
    /// Whether there was no memory to remember blocks: counts of foreign frees and of what is left
    /// are guesses.
    pub(crate) lost: bool,
}

/// See the head of this file.
pub(crate) struct Scope {
    outer: Option<NonNull<Scope>>,
    counts: ScopeCounts,
    live: AddressSet,
    /// The thread's own counts when the scope opened: calls of `realloc`, and those that moved.
    reallocs: u64,
    moves: u64,
    /// Who allocates; `None` where nobody will ask, or there was no memory for it.
    sites: Option<Sites>,
}

impl Scope {
    /// # Safety
    ///
    /// `scope` and those around it are open scopes of the calling thread.
    pub(crate) unsafe fn note_alloc(scope: NonNull<Scope>, block: Block, size: usize) {
        let mut at = Some(scope);
        while let Some(mut scope) = at {
            // SAFETY: the caller's promise; used by this thread only (3), and not re-entered:
            // nothing here allocates.
            let scope = unsafe { scope.as_mut() };
            scope.counts.allocs += 1;
            scope.counts.alloc_bytes += size as u64;
            scope.counts.left_blocks += 1;
            scope.counts.left_bytes += size as u64;
            scope.counts.peak_bytes = scope.counts.peak_bytes.max(scope.counts.left_bytes);
            let site = scope.sites.as_mut().map_or(0, |sites| sites.note_alloc(size));
            scope.counts.lost |= !scope.live.insert(block, site);
            at = scope.outer;
        }
    }

    /// # Safety
    ///
    /// `scope` and those around it are open scopes of the calling thread.
    pub(crate) unsafe fn note_free(scope: NonNull<Scope>, block: Block, size: usize) {
        let mut at = Some(scope);
        while let Some(mut scope) = at {
            // SAFETY: as in `note_alloc`.
            let scope = unsafe { scope.as_mut() };
            scope.counts.deallocs += 1;
            if let Some(site) = scope.live.remove(block) {
                if let Some(sites) = &mut scope.sites {
                    sites.note_free(site, size);
                }
                scope.counts.dealloc_bytes += size as u64;
                scope.counts.left_blocks -= 1;
                scope.counts.left_bytes = scope.counts.left_bytes.saturating_sub(size as u64);
            } else {
                scope.counts.foreign_frees += 1;
            }
            at = scope.outer;
        }
    }
}

impl Scope {
    /// What was counted until now, in the terms of [`ScopeCounts`].
    fn counts(&self) -> ScopeCounts {
        let (reallocs, moves) = thread::own_reallocs();
        let moves = moves.wrapping_sub(self.moves);
        let mut counts = self.counts;
        counts.reallocs = reallocs.wrapping_sub(self.reallocs);
        // A `realloc` that moves allocates and frees.
        counts.allocs = counts.allocs.saturating_sub(moves);
        counts.deallocs = counts.deallocs.saturating_sub(moves);
        counts
    }

    /// A free and an allocation just counted were one call of `realloc`.
    ///
    /// # Safety
    ///
    /// `scope` and those around it are open scopes of the calling thread.
    pub(crate) unsafe fn note_realloc(scope: NonNull<Scope>) {
        let mut at = Some(scope);
        while let Some(mut scope) = at {
            // SAFETY: as in `note_alloc`.
            let scope = unsafe { scope.as_mut() };
            scope.counts.allocs = scope.counts.allocs.saturating_sub(1);
            scope.counts.deallocs = scope.counts.deallocs.saturating_sub(1);
            at = scope.outer;
        }
    }
}

/// An open scope of the calling thread; it must be closed by the same thread, after all that were
/// opened later.
#[derive(Debug)]
pub(crate) struct ThreadScope {
    scope: NonNull<Scope>,
    not_send: PhantomData<*const ()>,
}

impl ThreadScope {
    /// Opens a scope; `None` where the thread has no cache, or there is no memory.
    pub(crate) fn begin() -> Option<ThreadScope> {
        ThreadScope::begin_with(None)
    }

    /// The same; it notes who allocates, if there is memory for that.
    pub(crate) fn begin_with_sites() -> Option<ThreadScope> {
        ThreadScope::begin_with(Sites::new())
    }

    /// Who allocated until now, if that was to be noted; from here on it is not.
    pub(crate) fn take_sites(&mut self) -> Option<Sites> {
        // SAFETY: open (3); nothing that allocates or frees runs while the reference lives.
        unsafe { self.scope.as_mut() }.sites.take()
    }

    fn begin_with(sites: Option<Sites>) -> Option<ThreadScope> {
        let cache = thread::attached()?;
        let scope = OsPages.map(PAGE_SIZE, PAGE_SIZE)?.cast::<Scope>();
        let (reallocs, moves) = thread::own_reallocs();
        let value = Scope {
            outer: cache.watch.scope(),
            counts: ScopeCounts::default(),
            live: AddressSet::new(),
            reallocs,
            moves,
            sites,
        };
        // SAFETY: a fresh page, large enough.
        unsafe { scope.write(value) };
        crate::watch::set_scope(cache, Some(scope));
        Some(ThreadScope { scope, not_send: PhantomData })
    }

    /// Whether no scope of this thread was opened after this one and is still open.
    pub(crate) fn is_innermost(&self) -> bool {
        thread::attached().and_then(|cache| cache.watch.scope()) == Some(self.scope)
    }

    /// What the innermost open scope of this thread counted until now.
    pub(crate) fn innermost_counts() -> Option<ScopeCounts> {
        let scope = thread::attached()?.watch.scope()?;
        // SAFETY: open scopes of this thread; nothing that allocates or frees runs while the
        // reference lives.
        Some(unsafe { scope.as_ref() }.counts())
    }

    /// Closes it. Dropping it does the same.
    pub(crate) fn end(mut self) -> ScopeCounts {
        self.close()
    }

    fn close(&mut self) -> ScopeCounts {
        // SAFETY: open until now (3).
        let scope = unsafe { self.scope.as_mut() };
        // First: closing may give blocks back, which is not the scope's doing.
        let counts = scope.counts();
        if let Some(cache) = thread::attached() {
            crate::watch::set_scope(cache, scope.outer);
        }
        scope.live.unmap();
        drop(scope.sites.take());
        counts
    }
}

impl Drop for ThreadScope {
    fn drop(&mut self) {
        // After `end` the set is empty and the counts are the same: only the page is left.
        let is_innermost = thread::attached().and_then(|cache| cache.watch.scope());
        if is_innermost == Some(self.scope) {
            self.close();
        }
        // SAFETY: mapped by `begin`, and nobody's any more.
        unsafe { OsPages.unmap(self.scope.cast(), PAGE_SIZE) };
    }
}

const _: () = assert!(size_of::<Scope>() <= PAGE_SIZE);

/// Addresses, each with the number of a site, in pages of its own: open addressing, linear probing,
/// removal by shifting back (Knuth, 6.4 R).
///
/// ```text
/// word:  | site (8 bits) | - | address (48 bits) |     48 bits are what Linux hands out unless it is asked for more
/// ```
///
/// Invariant: `slots` is null or `1 << bits` words, at most half of them not 0; a word lies between
/// its address's home and the next 0.
struct AddressSet {
    slots: Option<NonNull<u64>>,
    bits: u32,
    len: usize,
}

/// The part of a word that is an address.
const ADDRESS: u64 = (1 << 48) - 1;

/// Where in a word the site is.
const SITE: u32 = 56;

/// Slots of a new set: one page.
const FIRST_BITS: u32 = 9;

impl AddressSet {
    const fn new() -> AddressSet {
        AddressSet { slots: None, bits: 0, len: 0 }
    }

    fn home(word: u64, bits: u32) -> usize {
        // Fibonacci hashing (Knuth, 6.4).
        ((word & ADDRESS).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - bits)) as usize
    }

    fn slot(slots: NonNull<u64>, bits: u32, index: usize) -> NonNull<u64> {
        // SAFETY: below `1 << bits`: inside the mapping.
        unsafe { slots.add(index & ((1 << bits) - 1)) }
    }

    /// Adds an address; whether there was memory for it.
    fn insert(&mut self, block: Block, site: u8) -> bool {
        let address = block.addr().get() as u64;
        let is_full = self.slots.is_none() || (self.len + 1) * 2 > 1 << self.bits;
        if address & !ADDRESS != 0 || is_full && !self.grow() {
            return false;
        }
        let Some(slots) = self.slots else { return false };
        self.len += 1;
        Self::put(slots, self.bits, address | u64::from(site) << SITE);
        true
    }

    fn put(slots: NonNull<u64>, bits: u32, word: u64) {
        let mut index = Self::home(word, bits);
        loop {
            let slot = Self::slot(slots, bits, index);
            // SAFETY: inside the mapping.
            if unsafe { slot.read() } == 0 {
                // SAFETY: inside the mapping.
                return unsafe { slot.write(word) };
            }
            index += 1;
        }
    }

    /// Removes an address; its site, if it was there.
    fn remove(&mut self, block: Block) -> Option<u8> {
        let slots = self.slots?;
        let address = block.addr().get() as u64;
        let (bits, mask) = (self.bits, (1usize << self.bits) - 1);
        let read = |index: usize| {
            // SAFETY: inside the mapping.
            unsafe { Self::slot(slots, bits, index).read() }
        };
        let mut hole = Self::home(address, bits);
        let site = loop {
            match read(hole) {
                0 => return None,
                found if found & ADDRESS == address => break (found >> SITE) as u8,
                _ => hole += 1,
            }
        };
        let mut at = hole;
        loop {
            at += 1;
            let moved = read(at);
            if moved == 0 {
                break;
            }
            let home = Self::home(moved, bits);
            // Whether the hole lies between the word's home and its place.
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                // SAFETY: inside the mapping.
                unsafe { Self::slot(slots, bits, hole).write(moved) };
                hole = at;
            }
        }
        // SAFETY: inside the mapping.
        unsafe { Self::slot(slots, bits, hole).write(0) };
        self.len -= 1;
        Some(site)
    }

    fn grow(&mut self) -> bool {
        let bits = (self.bits + 1).max(FIRST_BITS);
        let Some(new) = OsPages.map(size_of::<u64>() << bits, PAGE_SIZE) else { return false };
        let new = new.cast::<u64>();
        if let Some(old) = self.slots {
            for index in 0..1 << self.bits {
                // SAFETY: inside the mapping.
                let word = unsafe { Self::slot(old, self.bits, index).read() };
                if word != 0 {
                    Self::put(new, bits, word);
                }
            }
        }
        let len = self.len;
        self.unmap();
        *self = AddressSet { slots: Some(new), bits, len };
        true
    }

    fn unmap(&mut self) {
        if let Some(slots) = self.slots.take() {
            // SAFETY: mapped by `grow` with this size.
            unsafe { OsPages.unmap(slots.cast(), size_of::<u64>() << self.bits) };
        }
        *self = AddressSet::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn a_set_agrees_with_std() {
        let (mut set, mut model) = (AddressSet::new(), HashMap::new());
        let mut x = 1u64;
        for _ in 0..200_000 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Few distinct addresses, close together: long probes, wraps, removals that shift.
            let address = ((x >> 33) as usize % 3_000 + 1) * 8;
            let block = NonNull::without_provenance(address.try_into().unwrap());
            if x & 1 << 20 == 0 {
                model.entry(address).or_insert_with(|| {
                    let site = (x >> 56) as u8;
                    assert!(set.insert(block, site));
                    site
                });
            } else {
                assert_eq!(set.remove(block), model.remove(&address), "{address}");
            }
            assert_eq!(set.len, model.len());
        }
        set.unmap();
    }
}
