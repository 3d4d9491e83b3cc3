//! A thread's cache: an array of free blocks per size class, in front of the shared heaps.
//!
//! ```text
//! Cache
//!     0  bins[89]: { top, low, high, allocs } per class, index 0 unused
//!  2848  short arrays: room for 8 blocks per class
//!        cold part: links, counters that the slow path keeps
//!        long arrays: room for 16 KiB of blocks per class, at most 256
//!        wide arrays: 32 KiB, at most 512, for classes that swing
//!
//!        low                 top            high
//! array  [b][b][b][b][b]......|...............|     alloc: take what lies before top
//!         oldest      newest                        free:  put at top
//! ```
//!
//! Most classes of most programs stay in their short arrays, so a thread that uses a little of
//! everything touches few pages.
//!
//! An array of addresses, unlike a list through the blocks, touches no block: blocks that are cold
//! when freed stay so, and batches move without following links (Bonwick's magazines, 2001). Full,
//! the older half goes back to the heaps; empty, half an array is taken. How long an array may be
//! is `room`'s to say.
//!
//! Invariants:
//!
//! 1. `low <= top <= high` for every class, except (5), all three in or at the end of one array of
//!    that class, `low` its start; or all three are null, as for index 0 and in the statics
//!    `NOT_ATTACHED`, `GATED` and `DETACHED`: there every operation takes the slow path.
//! 2. The slots from `low` to `top` are blocks of class c out of the shared heaps, above 64 blocks
//!    of the registered fallback (`mid_class`), each in one cache once.
//! 3. Only the thread that the cache is attached to writes to it; `top`, `low` and the counters are read
//!    by others, which is why they are atomic.
//! 4. Bit c - 1 of `used` is set if the room or the length of class c is not 0.
//! 5. A cache that only hands out (`watch`) has `high = low`: what lies before `top` is inside an
//!    array all the same.
//!
//! It does not know how threads find their cache: that is `thread`.

use crate::large_cache::LargeCache;
use crate::latency::{self, Path};
use crate::mid_class::{BIN_TABLE, CacheBin, HEAD_BYTES, MIDS};
use crate::owner::Owner;
use crate::watch::{self, Watch};
use crate::{depot, fallback, purge, shared, stats, thread};
use alloc_core::{Block, SizeClass};
use array::{Array, LongArrays, ShortArrays, max_cap};
use core::cell::Cell;
use core::mem::{MaybeUninit, offset_of};
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering::Relaxed};
use room::Runs;

mod array;
mod mid;
mod rest;
mod room;
mod totals;

pub(crate) use totals::CacheTotals;

/// Bytes freed to the fallback between two looks at the clock.
const FREED_PORTION: usize = 256 << 10;

/// Slow paths between two looks at the clock.
const TICKS: u32 = 64;

/// See the head of this file.
#[repr(C, align(64))]
pub(crate) struct Cache {
    bins: [Array; BIN_TABLE],
    short: ShortArrays,
    /// All caches ever made; set once, before the cache can be found.
    pub(crate) next_all: AtomicPtr<Cache>,
    /// Caches that wait for a thread; guarded by the lock on their list.
    pub(crate) next_idle: Cell<Option<&'static Cache>>,
    /// The heap that this cache takes blocks from; set once, before the cache can be found.
    pub(crate) heap: Cell<u8>,
    /// Which classes have an array (4).
    used: Cell<u64>,
    /// Which misses came last, by class.
    runs: Runs,
    /// Slow paths taken, and the time at which allocations were last gated; see `thread`.
    pub(crate) ticks: Cell<u32>,
    pub(crate) gate: Cell<u32>,
    pub(crate) gated_at: Cell<u64>,
    /// When the large blocks were last swept, by whoever had its turn.
    swept_at: AtomicU64,
    /// Bytes of blocks taken from the heaps less bytes given back, not yet published.
    unpublished: Cell<isize>,
    /// Bytes freed to the fallback, not yet told to `purge`.
    freed: Cell<usize>,
    /// How often all that is free had been asked for back when this thread last did (`glibc_heap`).
    pub(crate) round: Cell<u32>,
    /// From how many bytes in use on they are compared with those of the whole process (`mid`).
    compared: Cell<usize>,
    /// Blocks taken from the heaps less those given back, wrapping, and their bytes.
    taken: Cell<(u64, u64)>,
    /// What went through this cache before its thread had it, less what went through drains that
    /// the thread had for a time.
    pub(crate) before: Cell<CacheTotals>,
    /// The thread and the process that the cache is attached to; see `thread`.
    pub(crate) owner: Owner,
    /// Whether it is the drain of a thread that has a cache beside it (`watch`).
    pub(crate) is_drain: AtomicBool,
    /// Counters of the slow path, written by the owner only.
    pub(crate) counters: Counters,
    /// How many blocks bins had handed out and held when that was last looked at; see `rests`.
    seen: [Cell<u32>; BIN_TABLE],
    /// Spans that were made for it, and pools that classes got, since it was looked at what rests.
    spans: Cell<u64>,
    pools: Cell<u64>,
    /// Whether that was looked at since the last sweep.
    settled: Cell<bool>,
    /// What the thread watches.
    pub(crate) watch: Watch,
    /// Blocks above 512 bytes. These two last, so that what is always used lies together.
    pub(crate) large: LargeCache,
    long: LongArrays,
}

/// What is counted beside `allocs`; all written by the cache's owner only.
pub(crate) struct Counters {
    /// Calls of `realloc`.
    pub(crate) reallocs: AtomicU64,
    /// Blocks that `realloc` allocated to move into: they are in `allocs` of a class too.
    pub(crate) moves: AtomicU64,
    /// Bytes that those moves copied.
    pub(crate) copied: AtomicU64,
    /// Blocks that the fallback's own `realloc` moved: they are in no other count.
    pub(crate) fallback_moves: AtomicU64,
    /// Blocks that `realloc` moved into the fallback: they are in `fallback_allocs` too.
    pub(crate) fallback_allocs: AtomicU64,
    pub(crate) fallback_frees: AtomicU64,
    /// Bytes of layouts, wrapping; live bytes are the difference over all threads.
    pub(crate) fallback_bytes_in: AtomicU64,
    pub(crate) fallback_bytes_out: AtomicU64,
    /// Blocks of the bins above 64 that came from the fallback less those given back, wrapping.
    pub(crate) mid_out: [AtomicU64; MIDS],
    /// The bytes of those that may come to lie in a list, wrapping.
    listed_out: AtomicU64,
    /// What this thread was found to have in use beyond what can be, wrapping: less than nothing,
    /// as it freed what others allocated, or more than the whole process, as they freed its blocks.
    written_off: AtomicU64,
    /// Blocks of these bins that went to the drain (`watch`), which counts them.
    drained: AtomicU64,
}

impl Counters {
    const fn new() -> Self {
        Counters {
            reallocs: AtomicU64::new(0),
            moves: AtomicU64::new(0),
            copied: AtomicU64::new(0),
            fallback_moves: AtomicU64::new(0),
            fallback_allocs: AtomicU64::new(0),
            fallback_frees: AtomicU64::new(0),
            fallback_bytes_in: AtomicU64::new(0),
            fallback_bytes_out: AtomicU64::new(0),
            mid_out: [const { AtomicU64::new(0) }; MIDS],
            listed_out: AtomicU64::new(0),
            written_off: AtomicU64::new(0),
            drained: AtomicU64::new(0),
        }
    }
}

/// Adds to a counter that only this thread writes. Returns the sum.
#[inline(always)]
pub(crate) fn bump(counter: &AtomicU64, by: u64) -> u64 {
    // Relaxed, and no read-modify-write: one writer; readers want a recent value, no order.
    let sum = counter.load(Relaxed).wrapping_add(by);
    counter.store(sum, Relaxed);
    sum
}

const _: () = assert!(offset_of!(Cache, short) == 2848);
// Where long arrays begin with a cache line, batches in order cost 7 % more (docs/measurements.md).
const _: () = assert!(!offset_of!(Cache, long).is_multiple_of(64));
const _: () = assert!(size_of::<Array>() == HEAD_BYTES);

// SAFETY: by invariant 3 all that is not atomic is touched by one thread at a time: the owner; who
// holds the lock on the list of idle caches; who found that the owner died (`caches`); and for
// `large`, whose turn it is (`turn`).
unsafe impl Sync for Cache {}

impl Cache {
    pub(crate) const fn new() -> Cache {
        Cache {
            bins: [const { Array::new() }; BIN_TABLE],
            short: ShortArrays::new(),
            next_all: AtomicPtr::new(null_mut()),
            next_idle: Cell::new(None),
            heap: Cell::new(0),
            used: Cell::new(0),
            runs: Runs::new(),
            ticks: Cell::new(0),
            gate: Cell::new(0),
            gated_at: Cell::new(0),
            swept_at: AtomicU64::new(0),
            unpublished: Cell::new(0),
            freed: Cell::new(0),
            round: Cell::new(0),
            compared: Cell::new(0),
            taken: Cell::new((0, 0)),
            before: Cell::new(CacheTotals::NONE),
            owner: Owner::new(),
            is_drain: AtomicBool::new(false),
            counters: Counters::new(),
            seen: [const { Cell::new(0) }; BIN_TABLE],
            spans: Cell::new(0),
            pools: Cell::new(0),
            settled: Cell::new(false),
            watch: Watch::new(),
            large: LargeCache::new(),
            long: LongArrays::new(),
        }
    }

    /// Whose cache this is, as depots tell threads apart: a thread that samples has two, and gives
    /// itself nothing.
    pub(crate) fn who(&self) -> depot::Who {
        self.owner.get()
    }

    /// Counts a slow path; every 64th looks whether memory is due to go back.
    #[inline]
    pub(crate) fn tick(&'static self) {
        let ticks = self.ticks.get().wrapping_add(1);
        self.ticks.set(ticks);
        if ticks.is_multiple_of(TICKS) {
            thread::tick(self);
        }
    }

    /// When the large blocks were last swept.
    pub(crate) fn swept_at(&self) -> u64 {
        // Relaxed, here and below: a time, no order.
        self.swept_at.load(Relaxed)
    }

    pub(crate) fn set_swept_at(&self, now: u64) {
        self.swept_at.store(now, Relaxed);
    }

    /// Adds to the bytes in use, for the peak.
    pub(crate) fn note_bytes(&self, bytes: isize) {
        let sum = self.unpublished.get().wrapping_add(bytes);
        if sum.unsigned_abs() < stats::PUBLISH {
            self.unpublished.set(sum);
        } else {
            self.unpublished.set(0);
            stats::publish(sum);
        }
    }

    /// Adds to the bytes freed to the fallback.
    pub(crate) fn note_freed(&self, bytes: usize) {
        let sum = self.freed.get() + bytes;
        if sum < FREED_PORTION {
            return self.freed.set(sum);
        }
        self.freed.set(0);
        let now = purge::now();
        if purge::note_freed(sum, now) {
            thread::look_for_due(now);
        }
    }

    /// Takes the newest block of a class, if there is one. The fast path of `alloc`.
    ///
    /// # Safety
    ///
    /// The cache is that of the calling thread.
    #[inline(always)]
    pub(crate) unsafe fn pop(&self, bin: CacheBin) -> Option<Block> {
        let bin = self.head(bin);
        // Relaxed, here and below: one writer (3).
        let top = bin.top.load(Relaxed);
        if top == bin.low.load(Relaxed) {
            return None;
        }
        // SAFETY: above `low`, so behind a block of the same array (1).
        let top = unsafe { top.sub(1) };
        bin.top.store(top, Relaxed);
        bump(&bin.allocs, 1);
        // SAFETY: a slot of the array, the owner's access (3).
        let slot = unsafe { top.read() };
        // SAFETY: it was below `top`: a block (2).
        Some(unsafe { slot.assume_init() })
    }

    /// Puts a block into the array of its class, if there is room. The fast path of `dealloc`.
    ///
    /// # Safety
    ///
    /// The cache is that of the calling thread; the block is one for that bin and the caller's.
    #[inline(always)]
    pub(crate) unsafe fn push(&self, bin: CacheBin, block: Block) -> bool {
        let bin = self.head(bin);
        // Relaxed, here and below: one writer (3).
        let top = bin.top.load(Relaxed);
        if top >= bin.high.get() {
            return false;
        }
        // SAFETY: below `high`: a slot of the array (1), the owner's access (3).
        unsafe { top.write(MaybeUninit::new(block)) };
        // SAFETY: at most `high`.
        bin.top.store(unsafe { top.add(1) }, Relaxed);
        true
    }

    /// The head of a bin.
    #[inline(always)]
    fn head(&self, bin: CacheBin) -> &Array {
        // SAFETY: a multiple of the size of a head, at most 88 times as much: inside the table.
        let head = unsafe { self.bins.as_ptr().byte_add(bin.offset()) };
        // SAFETY: an element of the table.
        unsafe { &*head }
    }

    fn bin(&self, class: SizeClass) -> &Array {
        self.head(CacheBin::of_class(class))
    }

    /// The first `count` slots of a bin; at most as many as the array has.
    ///
    /// # Safety
    ///
    /// The cache is that of the calling thread, and no other reference to these slots is alive.
    /// `count` is at most the array's capacity, or its length.
    #[expect(
        clippy::mut_from_ref,
        reason = "slots are in UnsafeCells; the caller promises that it is alone"
    )]
    unsafe fn slots(&self, bin: CacheBin, count: u32) -> &mut [MaybeUninit<Block>] {
        if count == 0 {
            return &mut [];
        }
        let first = self.head(bin).low.load(Relaxed);
        // SAFETY: `count` slots of one array (1); the caller is alone.
        unsafe { core::slice::from_raw_parts_mut(first, count as usize) }
    }

    /// Calls `f` with every block of a size class in this cache.
    ///
    /// # Safety
    ///
    /// The cache is that of the calling thread, and `f` neither allocates nor frees.
    pub(crate) unsafe fn for_each_cached(&self, mut f: impl FnMut(Block)) {
        for class in SizeClass::all() {
            let len = self.bin(class).len();
            // SAFETY: the caller's promise.
            for slot in unsafe { self.slots(CacheBin::of_class(class), len) } {
                // SAFETY: below the length: a block (2).
                f(unsafe { slot.assume_init() });
            }
        }
    }

    /// Takes blocks from the heap and hands one out; null where there are none.
    ///
    /// # Safety
    ///
    /// The cache is that of the calling thread.
    pub(crate) unsafe fn refill(&'static self, class: SizeClass) -> *mut u8 {
        // May run a fallback's code, which may call back in: before anything is looked at.
        self.tick();
        // SAFETY: the caller's promise.
        unsafe { self.settle_if_due() };
        // SAFETY: the caller's promise. Not empty: allocations were gated, or the size was 0.
        if let Some(block) = unsafe { self.pop(CacheBin::of_class(class)) } {
            return block.as_ptr();
        }
        // SAFETY: the caller's promise.
        let want = unsafe { self.room_to_fill(class) };
        // SAFETY: the caller's promise.
        if unsafe { self.fill(class, want) } == 0 {
            // The system has no more. What is kept of the fallback's blocks goes back to it, which may run
            // its code: no slice of slots is alive.
            fallback::make_room_above();
            // SAFETY: the caller's promise.
            if let Some(block) = unsafe { self.pop(CacheBin::of_class(class)) } {
                return block.as_ptr();
            }
            // What this thread keeps of other classes may be all that stands between a pool and its return.
            // SAFETY: the caller's promise.
            unsafe { self.flush(false) };
            // That, too, may have run the fallback's code.
            // SAFETY: the caller's promise.
            if let Some(block) = unsafe { self.pop(CacheBin::of_class(class)) } {
                return block.as_ptr();
            }
            // SAFETY: the caller's promise.
            unsafe { self.fill(class, want) };
        }
        // SAFETY: the caller's promise.
        unsafe { self.pop(CacheBin::of_class(class)) }.map_or(null_mut(), NonNull::as_ptr)
    }

    /// Fills an empty array with up to `want` blocks from the heap. Returns how many.
    ///
    /// # Safety
    ///
    /// The cache is that of the calling thread.
    unsafe fn fill(&self, class: SizeClass, want: u32) -> usize {
        // SAFETY: the caller's promise.
        let slots = unsafe { self.slots(CacheBin::of_class(class), want) };
        let heap = self.heap.get();
        let got = latency::timed(Path::Refill, || shared::take(heap, self.who(), class, slots));
        if got < want as usize {
            slots.copy_within(want as usize - got.., 0);
        }
        self.note_exchange(got.cast_signed(), class);
        self.bin(class).set_len(got as u32);
        got
    }

    /// Makes room in the array of a class, by growing it or giving its older half back, and puts
    /// the block in.
    ///
    /// # Safety
    ///
    /// As for [`push`](Cache::push).
    pub(crate) unsafe fn spill(&'static self, class: SizeClass, block: Block) {
        if self.bin(class).cap() < max_cap(class.index()) {
            // SAFETY: the caller's promise.
            unsafe { self.grow(class) };
        } else {
            self.tick();
            // SAFETY: the caller's promise.
            let count = unsafe { self.room_to_free(class) };
            // SAFETY: as above.
            unsafe { self.give_oldest(class, count) };
            // SAFETY: as above.
            unsafe { self.narrow(class) };
        }
        // SAFETY: the caller's promise. No room only where a fallback's code ran meanwhile.
        if !unsafe { self.push(CacheBin::of_class(class), block) } {
            self.note_exchange(-1, class);
            // SAFETY: the caller's promise.
            unsafe { shared::give_one(class, block) };
        }
    }

    /// Gives the `count` oldest blocks of a class back to the heaps; `count` is at most `len`.
    ///
    /// # Safety
    ///
    /// The cache is that of the calling thread.
    unsafe fn give_oldest(&self, class: SizeClass, count: u32) {
        let bin = self.bin(class);
        let len = bin.len();
        // SAFETY: the caller's promise.
        let slots = unsafe { self.slots(CacheBin::of_class(class), len) };
        let Some((oldest, _)) = slots.split_at_mut_checked(count as usize) else { return };
        // SAFETY: slots below `len` are initialised (2), and both types have one layout.
        let oldest = unsafe { &mut *(core::ptr::from_mut(oldest) as *mut [Block]) };
        if watch::is_watched() {
            watch::forget_all(Some(class), oldest);
        }
        // SAFETY: blocks of this class (2), which this thread owns and forgets below.
        let emptied = unsafe { shared::give(self.who(), class, oldest) };
        self.note_exchange(-(count as usize).cast_signed(), class);
        if len > count {
            slots.copy_within(count as usize.., 0);
        }
        bin.set_len(len - count);
        if emptied {
            // Last: where there is no delay memory goes back now, and a fallback's code may run.
            thread::look_for_due(purge::now());
        }
    }

    /// Moves up to `most` of the newest blocks of a bin into another cache, in their order, and
    /// calls `look` with them. Returns how many.
    ///
    /// # Safety
    ///
    /// Both caches are that of the calling thread, and `other` has no block of this bin. `look`
    /// does not touch them.
    pub(crate) unsafe fn move_newest(
        &self,
        of: CacheBin,
        other: &Cache,
        most: u32,
        look: impl FnOnce(&[Block]),
    ) -> u32 {
        let (bin, other_bin) = (self.head(of), other.head(of));
        let len = bin.len();
        let moved = len.min(most);
        // SAFETY: the caller's promise; it is empty, and this one held as many.
        unsafe { other_bin.set_cap(of.index(), moved, &other.short, &other.long) };
        // SAFETY: the caller's promise.
        let from = unsafe { self.slots(of, len) };
        // SAFETY: the caller's promise; another cache's.
        let to = unsafe { other.slots(of, moved) };
        let Some((_, from)) = from.split_at_checked((len - moved) as usize) else { return 0 };
        let Some(to) = to.get_mut(..from.len()) else { return 0 };
        to.copy_from_slice(from);
        // SAFETY: slots below `len` are initialised (2), and both types have one layout.
        look(unsafe { &*(core::ptr::from_ref(from) as *const [Block]) });
        bin.set_len(len - moved);
        if of.mid_class().is_none() {
            other.used.set(other.used.get() | 1 << (of.index() - 1));
        }
        other_bin.set_len(moved);
        other_bin.shut();
        moved
    }

    /// Times a free and an allocation of the class from this cache, if it holds a block of it: the
    /// ticks of one pair.
    ///
    /// # Safety
    ///
    /// The cache is that of the calling thread.
    #[cold]
    pub(crate) unsafe fn probe(&self, class: SizeClass) -> Option<u64> {
        const PAIRS: u64 = 8;
        let (bin, begin) = (CacheBin::of_class(class), latency::ticks());
        for _ in 0..PAIRS {
            // SAFETY: the caller's promise.
            let block = unsafe { self.pop(bin) }?;
            // SAFETY: as above; the block just came from there, so there is room.
            unsafe { core::hint::black_box(self).push(bin, core::hint::black_box(block)) };
        }
        let ticks = latency::ticks().wrapping_sub(begin);
        // They were no requests.
        bump(&self.bin(class).allocs, PAIRS.wrapping_neg());
        Some(ticks / PAIRS)
    }

    /// Blocks of a class that lie in this cache, and blocks it handed out since the process began.
    pub(crate) fn counts(&self, class: SizeClass) -> (u64, u64) {
        let bin = self.bin(class);
        // Relaxed: exact for the owner and when its thread rests, else recent.
        (u64::from(bin.len()), bin.allocs.load(Relaxed))
    }
}
