//! Chunks: runs of address space that hold a whole number of arenas.
//!
//! A chunk is mapped at once, so that mappings are few and two neighbouring arenas share a huge page; its
//! arenas come into use one by one. A chunk goes back to the page source when none of its arenas is in use.
//!
//! ```text
//! chunk, 1 to 32 MiB, aligned to 2 MiB (1 MiB if it is that small)
//! +-----------------+---------+---------+-----
//! | arena 0         | arena 1 | arena 2 | ...
//! +-----------------+---------+---------+-----
//! | slot 0: arena header (0..128), chunk header (128..256)
//! ```
//!
//! Invariants of a chunk header:
//!
//! 1. `arenas` is 1..=32 and the chunk is mapped for its whole length.
//! 2. `active` and `idle` are disjoint and have bits below `arenas` only; an arena in neither is
//!    detached: its memory is being given back, and one caller owns it.
//! 3. The memory of an idle arena is zero, except for the first page of arena 0.
//!
//! The bookkeeping of arenas among each other is not here but in `arena`.

use crate::arena::ArenaRef;
use crate::layout_math::{ARENA_SIZE, HUGE_PAGE, MAX_CHUNK_ARENAS, PAGE_SIZE};
use crate::list::Linked;
use crate::page_source::PageSource;
use core::cell::Cell;
use core::mem::offset_of;
use core::ops::Deref;
use core::ptr::NonNull;

/// Where a chunk's header lies, in bytes from the chunk's base.
const HEADER_OFFSET: usize = 128;

#[repr(C)]
#[derive(Debug)]
pub(crate) struct ChunkHeader {
    next: Cell<Option<ChunkRef>>,
    prev: Cell<Option<ChunkRef>>,
    pub(crate) arenas: Cell<u32>,
    pub(crate) active: Cell<u32>,
    pub(crate) idle: Cell<u32>,
}

const _: () = assert!(offset_of!(ChunkHeader, arenas) == 16);
const _: () = assert!(HEADER_OFFSET + size_of::<ChunkHeader>() <= crate::layout_math::SLOT_SIZE);

/// A handle to the header of a mapped chunk (invariant 1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ChunkRef(NonNull<ChunkHeader>);

impl Deref for ChunkRef {
    type Target = ChunkHeader;
    #[inline]
    fn deref(&self) -> &ChunkHeader {
        // SAFETY: the header of a mapped chunk, initialised in `MappedChunk::init`; all fields are
        // `Cell`s, so shared references may coexist.
        unsafe { self.0.as_ref() }
    }
}

impl Linked for ChunkRef {
    fn next(&self) -> &Cell<Option<ChunkRef>> {
        let header: &ChunkHeader = self;
        &header.next
    }
    fn prev(&self) -> &Cell<Option<ChunkRef>> {
        let header: &ChunkHeader = self;
        &header.prev
    }
}

impl ChunkRef {
    /// The chunk's base, which is also the base of its first arena.
    pub(crate) fn base(self) -> NonNull<u8> {
        // SAFETY: the header lies `HEADER_OFFSET` bytes into the chunk.
        unsafe { self.0.cast::<u8>().sub(HEADER_OFFSET) }
    }

    pub(crate) fn len(self) -> usize {
        self.arenas.get() as usize * ARENA_SIZE
    }

    /// A mask with a bit for each of its arenas.
    pub(crate) fn all(self) -> u32 {
        u32::MAX >> (u32::BITS - self.arenas.get())
    }

    /// Base of arena `index`, which is below `arenas`.
    pub(crate) fn arena_base(self, index: u32) -> NonNull<u8> {
        debug_assert!(index < self.arenas.get());
        // SAFETY: invariant 1, and callers take `index` from bits of `active` or `idle` (2).
        unsafe { self.base().add(index as usize * ARENA_SIZE) }
    }

    /// The bit of the arena that starts at `base`.
    pub(crate) fn bit(self, base: NonNull<u8>) -> u32 {
        1 << ((base.addr().get() - self.base().addr().get()) / ARENA_SIZE)
    }

    pub(crate) fn active_arenas(self) -> impl Iterator<Item = ArenaRef> {
        let mut bits = self.active.get();
        core::iter::from_fn(move || {
            if bits == 0 {
                return None;
            }
            let index = bits.trailing_zeros();
            bits &= bits - 1;
            // SAFETY: active (2): its header was initialised by `ArenaRef::init`.
            Some(unsafe { ArenaRef::from_base(self.arena_base(index)) })
        })
    }
}

/// A chunk fresh from the page source, not yet known to any [`Arenas`](crate::Arenas).
///
/// It is mapped without a lock held, and then added under one. Dropping it leaks the mapping. It
/// borrows its source, so that the memory stays.
#[derive(Debug)]
#[must_use = "a mapped chunk that is dropped is never given back"]
pub struct MappedChunk<'s, S: PageSource + ?Sized> {
    base: NonNull<u8>,
    arenas: u32,
    source: &'s S,
}

impl<'s, S: PageSource + ?Sized> MappedChunk<'s, S> {
    /// Maps a chunk of `arenas` arenas (at least 1, at most 32), or of half, a quarter, ... as
    /// many where the source has no more. `None` where it has not even one.
    pub fn map(source: &'s S, arenas: usize) -> Option<Self> {
        let mut arenas = arenas.clamp(1, MAX_CHUNK_ARENAS);
        loop {
            let align = if arenas == 1 { ARENA_SIZE } else { HUGE_PAGE };
            if let Some(base) = source.map(arenas * ARENA_SIZE, align) {
                return Some(MappedChunk { base, arenas: arenas as u32, source });
            }
            if arenas == 1 {
                return None;
            }
            arenas /= 2;
        }
    }

    /// Asks the source to back the chunk by huge pages.
    pub fn advise_huge(&self) {
        // SAFETY: mapped by `map` from this source, not given back.
        unsafe { self.source.advise_huge(self.base, self.arenas as usize * ARENA_SIZE) };
    }

    /// Takes the wish for huge pages back.
    pub fn advise_small(&self) {
        // SAFETY: mapped by `map` from this source, not given back.
        unsafe { self.source.advise_small(self.base, self.arenas as usize * ARENA_SIZE) };
    }

    /// Writes to the first page, so that it is resident.
    pub fn touch(&self) {
        // SAFETY: mapped, zero, and nothing else knows it yet. Volatile: the write is for its fault.
        unsafe { self.base.write_volatile(0) };
    }

    /// Writes the header: all arenas idle (3: memory fresh from the source is zero).
    pub(crate) fn init(self) -> ChunkRef {
        // SAFETY: the first page of a mapped chunk; nothing else knows it yet.
        let header = unsafe { self.base.add(HEADER_OFFSET) }.cast::<ChunkHeader>();
        let arenas = Cell::new(self.arenas);
        let (active, idle) = (Cell::new(0), Cell::new(0));
        let value =
            ChunkHeader { next: Cell::new(None), prev: Cell::new(None), arenas, active, idle };
        // SAFETY: in bounds, aligned to 128, exclusive.
        unsafe { header.write(value) };
        let chunk = ChunkRef(header);
        chunk.idle.set(chunk.all());
        chunk
    }
}

/// A chunk that left its [`Arenas`](crate::Arenas): to be given back without a lock held.
#[derive(Debug)]
#[must_use = "a chunk that is dropped is never given back"]
pub struct UnusedChunk {
    base: NonNull<u8>,
    len: usize,
}

impl UnusedChunk {
    pub(crate) fn new(chunk: ChunkRef) -> Self {
        UnusedChunk { base: chunk.base(), len: chunk.len() }
    }

    /// Gives the chunk back to the source that it was mapped from.
    ///
    /// # Safety
    ///
    /// `source` is that source.
    pub unsafe fn unmap<S: PageSource + ?Sized>(self, source: &S) {
        // SAFETY: mapped by `MappedChunk::map`; none of its arenas is in use or in any list.
        unsafe { source.unmap(self.base, self.len) };
    }
}

/// An arena that was taken out of use, on its way to having its memory given back.
#[derive(Debug)]
#[must_use = "an arena that is dropped while detached is lost to its chunk"]
pub struct DetachedArena {
    pub(crate) base: NonNull<u8>,
    pub(crate) chunk: ChunkRef,
}

impl DetachedArena {
    /// Gives the arena's memory back, keeping its addresses. Returns bytes given back: 0 where
    /// the source refused; then the arena must be put back into use.
    ///
    /// # Safety
    ///
    /// `source` is the one that the arena's chunk was mapped from.
    pub unsafe fn purge<S: PageSource + ?Sized>(&self, source: &S) -> usize {
        // The first page of a chunk holds the chunk's header.
        let keep = if self.base == self.chunk.base() { PAGE_SIZE } else { 0 };
        // SAFETY: `keep` is less than an arena.
        let start = unsafe { self.base.add(keep) };
        // SAFETY: the arena is detached (2): this value owns its memory.
        let done = unsafe { source.purge(start, ARENA_SIZE - keep) };
        if done { ARENA_SIZE - keep } else { 0 }
    }
}
