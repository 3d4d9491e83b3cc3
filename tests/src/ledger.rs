//! A fallback allocator that checks what it is handed.
//!
//! Every block it gives out is entered in a table with its layout, and every block that comes back
//! must be in the table with exactly that layout. Fresh blocks are dirty (0xA5), freed ones are
//! overwritten (0xDD), so that a caller that takes recycled memory for zeroed memory, or uses a
//! block after it was given back, is found by its contents.
//!
//! What it does not do: panic or allocate. A breach of the contract is noted in
//! [`Entries::faults`], and the call is then served as well as can be: a foreign block is leaked.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Entries of the table; a power of two, four times what the tests have live.
const SLOTS: usize = 1 << 16;
/// Address of an entry that was taken out.
const GONE: usize = usize::MAX;

/// One live block: address (0 = never used), size, alignment.
type Entry = (usize, usize, usize);

/// The allocator: [`System`] behind a table.
#[derive(Debug)]
pub struct Ledger {
    live: Mutex<[Entry; SLOTS]>,
    refuse: AtomicBool,
    allocs: AtomicU64,
    deallocs: AtomicU64,
    reallocs: AtomicU64,
    small: AtomicU64,
    largest: AtomicU64,
    faults: AtomicU64,
}

/// Counters of a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entries {
    /// Blocks handed out.
    pub allocs: u64,
    /// Blocks taken back.
    pub deallocs: u64,
    /// Blocks whose size was changed.
    pub reallocs: u64,
    /// Requests of at most 512 bytes and an alignment of at most 16, which pools are there for.
    pub small: u64,
    /// The most bytes of one request.
    pub largest: u64,
    /// Breaches of the contract: a block or a layout that was never handed out.
    pub faults: u64,
}

impl Default for Ledger {
    fn default() -> Self {
        Ledger::new()
    }
}

impl Ledger {
    /// An empty ledger.
    pub const fn new() -> Ledger {
        Ledger {
            live: Mutex::new([(0, 0, 0); SLOTS]),
            refuse: AtomicBool::new(false),
            allocs: AtomicU64::new(0),
            deallocs: AtomicU64::new(0),
            reallocs: AtomicU64::new(0),
            small: AtomicU64::new(0),
            largest: AtomicU64::new(0),
            faults: AtomicU64::new(0),
        }
    }

    /// From now on answers null (true) or serves again (false).
    pub fn refuse(&self, refuse: bool) {
        // Ordering: a switch that the test flips between phases of one thread; no data goes with it.
        self.refuse.store(refuse, Ordering::Relaxed);
    }

    /// The counters now.
    pub fn entries(&self) -> Entries {
        // Ordering: read at quiescence, after joins that order everything.
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Entries {
            allocs: read(&self.allocs),
            deallocs: read(&self.deallocs),
            reallocs: read(&self.reallocs),
            small: read(&self.small),
            largest: read(&self.largest),
            faults: read(&self.faults),
        }
    }

    /// Bytes of the blocks that are out.
    pub fn live_bytes(&self) -> usize {
        self.table(|live| live.iter().filter(|entry| is_live(entry)).map(|entry| entry.1).sum())
    }

    /// Blocks that are out.
    pub fn live_blocks(&self) -> usize {
        self.table(|live| live.iter().filter(|entry| is_live(entry)).count())
    }

    fn table<R>(&self, body: impl FnOnce(&mut [Entry; SLOTS]) -> R) -> R {
        // Nothing below panics, so a poisoned table is as good as another.
        body(&mut self.live.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    fn refuses(&self, layout: Layout) -> bool {
        if layout.size() <= 512 && layout.align() <= 16 {
            bump(&self.small);
        }
        // Ordering: see `entries`.
        self.largest.fetch_max(layout.size() as u64, Ordering::Relaxed);
        // Ordering: see `refuse`.
        self.refuse.load(Ordering::Relaxed)
    }

    fn enter(&self, block: *mut u8, layout: Layout) {
        if block.is_null() {
            return;
        }
        let entered = self.table(|live| {
            let free = probe(block.addr()).find(|&slot| !is_live(&live[slot]));
            free.is_some_and(|slot| {
                live[slot] = (block.addr(), layout.size(), layout.align());
                true
            })
        });
        if !entered {
            bump(&self.faults);
        }
    }

    /// Takes the entry out; false, and a fault noted, if there is none with this layout.
    fn strike(&self, block: *mut u8, layout: Layout) -> bool {
        let entry = (block.addr(), layout.size(), layout.align());
        let struck = self.table(|live| {
            let used = probe(block.addr()).take_while(|&slot| live[slot].0 != 0);
            let found = used.into_iter().find(|&slot| live[slot] == entry);
            found.is_some_and(|slot| {
                live[slot].0 = GONE;
                true
            })
        });
        if !struck {
            bump(&self.faults);
        }
        struck
    }
}

fn is_live(entry: &Entry) -> bool {
    entry.0 != 0 && entry.0 != GONE
}

/// Slots where an address may be entered, best first.
fn probe(addr: usize) -> impl Iterator<Item = usize> {
    let first = (addr >> 4).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
    (0..SLOTS).map(move |step| (first + step) % SLOTS)
}

fn bump(counter: &AtomicU64) {
    // Ordering: a plain count, read at quiescence.
    counter.fetch_add(1, Ordering::Relaxed);
}

// SAFETY: blocks come from `System` for the layout asked for; only blocks that it handed out for
// the same layout go back.
unsafe impl GlobalAlloc for Ledger {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if self.refuses(layout) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's contract is the same.
        let block = unsafe { System.alloc(layout) };
        if !block.is_null() {
            // SAFETY: the block is ours and has `size` bytes.
            unsafe { block.write_bytes(0xA5, layout.size()) };
            bump(&self.allocs);
        }
        self.enter(block, layout);
        block
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if self.refuses(layout) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's contract is the same.
        let block = unsafe { System.alloc_zeroed(layout) };
        if !block.is_null() {
            bump(&self.allocs);
        }
        self.enter(block, layout);
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if self.strike(block, layout) {
            bump(&self.deallocs);
            // SAFETY: the block was handed out with this size and is not used again.
            unsafe { block.write_bytes(0xDD, layout.size()) };
            // SAFETY: `strike` found that `System` handed it out for this layout.
            unsafe { System.dealloc(block, layout) }
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promised that `size`, rounded up to this alignment, fits isize.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        if self.refuses(new) || !self.strike(block, layout) {
            return std::ptr::null_mut();
        }
        bump(&self.reallocs);
        // SAFETY: `strike` found that `System` handed it out for this layout.
        let moved = unsafe { System.realloc(block, layout, size) };
        if moved.is_null() {
            self.enter(block, layout);
        } else {
            self.enter(moved, new);
        }
        moved
    }
}

/// A ledger in a static, as a fallback: `GlobalAlloc` is not implemented for references.
#[derive(Clone, Copy, Debug)]
pub struct Shared(pub &'static Ledger);

// SAFETY: forwards every call to an allocator that keeps the contract.
unsafe impl GlobalAlloc for Shared {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is the same.
        unsafe { self.0.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is the same.
        unsafe { self.0.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is the same.
        unsafe { self.0.dealloc(block, layout) }
    }
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's contract is the same.
        unsafe { self.0.realloc(block, layout, size) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::layout;

    static LEDGER: Ledger = Ledger::new();

    #[test]
    fn a_wrong_layout_or_a_second_free_is_a_fault() {
        let asked = layout(600, 8);
        // SAFETY: the size is not zero.
        let block = unsafe { LEDGER.alloc(asked) };
        assert!(!block.is_null());
        for wrong in [layout(599, 8), layout(601, 8), layout(600, 16), layout(600, 4)] {
            let before = LEDGER.entries().faults;
            // SAFETY: not kept on purpose: the ledger refuses layouts that it did not hand out, and
            // frees nothing.
            unsafe { LEDGER.dealloc(block, wrong) };
            assert_eq!(LEDGER.entries().faults, before + 1);
        }
        assert_eq!((LEDGER.live_blocks(), LEDGER.live_bytes()), (1, 600));
        let before = LEDGER.entries();
        // SAFETY: handed out above with this layout.
        unsafe { LEDGER.dealloc(block, asked) };
        assert_eq!(LEDGER.entries(), Entries { deallocs: before.deallocs + 1, ..before });
        // SAFETY: not kept on purpose: the entry is gone, so nothing is freed.
        unsafe { LEDGER.dealloc(block, asked) };
        assert_eq!(LEDGER.entries().faults, before.faults + 1);
        assert_eq!(LEDGER.live_blocks(), 0);
    }
}
