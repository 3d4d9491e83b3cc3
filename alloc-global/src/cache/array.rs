//! The array of one class in a thread's cache: its head, how much room it may have, and where in
//! the cache it lies.
//!
//! ```text
//! short: [8][8][8]...[8]                        room for 8 blocks of every bin, side by side
//! long:  [256]...[256][227][204]...[32][64]...  room for 16 KiB of blocks, packed
//! wide:  [512]...[512][455][409]...[64]         and for 32 KiB
//! ```
//!
//! An array begins in its short place and moves to its long one when it outgrows 8 blocks, to its
//! wide one if it is allowed to. Packed and of different lengths, the arrays spread over the sets
//! of a first-level cache: with a fixed distance of a power of two the first lines of all of them
//! would share a few.
//!
//! Unsafe only to move blocks between the two places. It does not know what the blocks are.

use crate::mid_class::{BIN_TABLE, MIDS, mid_class_of};
use alloc_core::{Block, CLASS_STEP, CLASSES};
use core::cell::{Cell, UnsafeCell};
use core::mem::MaybeUninit;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering::Relaxed};

/// Slots of the longest array.
pub(super) const SLOTS: usize = 512;

/// Slots of the longest array that is not wide.
const LONG: usize = 256;

/// Slots of a short array.
pub(super) const SHORT: usize = 8;

/// Bytes of blocks that one class may hold; large classes have fewer slots.
const CLASS_BYTES: usize = 16 << 10;

/// Bytes of blocks that a class may hold in a wide array.
const WIDE_BYTES: usize = 32 << 10;

/// Greatest capacity of the arrays above 64, in blocks, and in bytes of blocks. The fallback behind
/// them costs several times what the shared heaps do.
const MID_SLOTS: usize = 64;
const MID_BYTES: usize = 64 << 10;

/// A place for a block.
pub(super) type Slot = MaybeUninit<Block>;

/// Capacities, by index: not worked out at each miss, which would divide.
const MAX_CAPS: [u16; BIN_TABLE] = caps(CLASS_BYTES, LONG);
const WIDE_CAPS: [u16; BIN_TABLE] = caps(WIDE_BYTES, SLOTS);

const fn caps(bytes: usize, slots: usize) -> [u16; BIN_TABLE] {
    let mut caps = [0; BIN_TABLE];
    let mut index = 0;
    while index < BIN_TABLE {
        let cap = if index > CLASSES { mid_cap(index) } else { fit(index, bytes, slots) };
        caps[index] = cap as u16;
        index += 1;
    }
    caps
}

/// The greatest capacity of an array that is not wide.
#[inline]
pub(super) const fn max_cap(index: usize) -> u32 {
    if index < BIN_TABLE { MAX_CAPS[index] as u32 } else { 0 }
}

/// The greatest capacity of an array.
#[inline]
pub(super) const fn wide_cap(index: usize) -> u32 {
    if index < BIN_TABLE { WIDE_CAPS[index] as u32 } else { 0 }
}

/// The greatest capacity of an array above 64.
const fn mid_cap(index: usize) -> u32 {
    let Some(class) = mid_class_of(index) else { return 0 };
    let fit = MID_BYTES / class.size();
    if fit > MID_SLOTS { MID_SLOTS as u32 } else { fit as u32 }
}

/// How many blocks of a class make up `bytes`, at most `slots`.
const fn fit(index: usize, bytes: usize, slots: usize) -> u32 {
    if index == 0 {
        return 0;
    }
    let fit = bytes / (index * CLASS_STEP);
    if fit > slots { slots as u32 } else { fit as u32 }
}

/// A new array starts with room for this many blocks and doubles with every miss. Fewer large ones,
/// for the sake of threads that allocate a little of everything and rest.
pub(super) const fn first_cap(index: usize) -> u32 {
    if index * CLASS_STEP <= 128 { 8 } else { 4 }
}

/// Where each array begins among those of its kind, in slots, and behind them all where the last one ends.
const fn places(wide: bool) -> [u16; BIN_TABLE + 1] {
    let mut at = [0; BIN_TABLE + 1];
    let mut index = 0;
    while index < BIN_TABLE {
        let cap = match wide {
            false => max_cap(index),
            // Those that are never longer have no place here.
            true if wide_cap(index) > max_cap(index) => wide_cap(index),
            true => 0,
        };
        at[index + 1] = at[index] + cap as u16;
        index += 1;
    }
    at
}

const LONG_AT: [u16; BIN_TABLE + 1] = places(false);
const WIDE_AT: [u16; BIN_TABLE + 1] = places(true);

const _: () = assert!(BIN_TABLE == CLASSES + MIDS + 1);

/// The memory of all arrays of a cache.
#[repr(C)]
pub(super) struct ShortArrays(UnsafeCell<[[Slot; SHORT]; BIN_TABLE]>);

/// See [`ShortArrays`].
#[repr(C)]
pub(super) struct LongArrays {
    long: UnsafeCell<[Slot; LONG_AT[BIN_TABLE] as usize]>,
    wide: UnsafeCell<[Slot; WIDE_AT[BIN_TABLE] as usize]>,
}

impl ShortArrays {
    pub(super) const fn new() -> Self {
        ShortArrays(UnsafeCell::new([[MaybeUninit::uninit(); SHORT]; BIN_TABLE]))
    }

    fn at(&self, index: usize) -> *mut Slot {
        self.0.get().cast::<Slot>().wrapping_add(index * SHORT)
    }
}

impl LongArrays {
    pub(super) const fn new() -> Self {
        LongArrays {
            long: UnsafeCell::new([MaybeUninit::uninit(); LONG_AT[BIN_TABLE] as usize]),
            wide: UnsafeCell::new([MaybeUninit::uninit(); WIDE_AT[BIN_TABLE] as usize]),
        }
    }

    fn at(&self, index: usize, cap: u32) -> *mut Slot {
        let (start, places) = match cap <= max_cap(index) {
            true => (self.long.get().cast::<Slot>(), &LONG_AT),
            false => (self.wide.get().cast::<Slot>(), &WIDE_AT),
        };
        let at = places.get(index).copied().unwrap_or(0);
        start.wrapping_add(at as usize)
    }
}

/// Head of the array of one class; see `cache` for what holds of it.
#[repr(C)]
pub(super) struct Array {
    /// Behind the newest block.
    pub(super) top: AtomicPtr<Slot>,
    /// The oldest block.
    pub(super) low: AtomicPtr<Slot>,
    /// Where `top` leaves no room.
    pub(super) high: Cell<*mut Slot>,
    /// Blocks handed out by this array since the process began.
    pub(super) allocs: AtomicU64,
}

impl Array {
    pub(super) const fn new() -> Array {
        Array {
            top: AtomicPtr::new(null_mut()),
            low: AtomicPtr::new(null_mut()),
            high: Cell::new(null_mut()),
            allocs: AtomicU64::new(0),
        }
    }

    /// Blocks in the array. Exact for the owner; for others recent, and 0 while the array moves.
    #[inline]
    pub(super) fn len(&self) -> u32 {
        // Relaxed, here and below: one writer; others read for statistics, and order nothing by it.
        let (low, top) = (self.low.load(Relaxed), self.top.load(Relaxed));
        let len = top.addr().wrapping_sub(low.addr()) / size_of::<Slot>();
        // Between any two places of an array lies more than the longest one.
        if len <= SLOTS { len as u32 } else { 0 }
    }

    /// Blocks that it has room for.
    #[inline]
    pub(super) fn cap(&self) -> u32 {
        let bytes = self.high.get().addr().wrapping_sub(self.low.load(Relaxed).addr());
        (bytes / size_of::<Slot>()) as u32
    }

    /// Sets how many blocks are in the array.
    #[inline]
    pub(super) fn set_len(&self, len: u32) {
        self.top.store(self.low.load(Relaxed).wrapping_add(len as usize), Relaxed);
    }

    /// Takes the room away that no block fills; frees find none then.
    pub(super) fn close(&self) {
        self.high.set(self.top.load(Relaxed));
    }

    /// Lets frees find no room, whatever the array holds.
    pub(super) fn shut(&self) {
        self.high.set(self.low.load(Relaxed));
    }

    /// Gives the array room for `cap` blocks, moved to its place of that size.
    ///
    /// # Safety
    ///
    /// The array is that of `index` in the cache of `short` and `long`, which is the calling
    /// thread's; `cap` is at least its length and at most [`wide_cap`] of the index.
    pub(super) unsafe fn set_cap(
        &self,
        index: usize,
        cap: u32,
        short: &ShortArrays,
        long: &LongArrays,
    ) {
        let place = if cap as usize <= SHORT { short.at(index) } else { long.at(index, cap) };
        let (len, low) = (self.len(), self.low.load(Relaxed));
        if place != low {
            if len > 0 {
                // SAFETY: `len` slots of the old place, and room for as many in the new one, which
                // is another.
                unsafe { place.copy_from_nonoverlapping(low, len as usize) };
            }
            self.low.store(place, Relaxed);
            self.set_len(len);
        }
        self.high.set(place.wrapping_add(cap as usize));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_arrays_are_packed_and_none_is_shorter_than_a_short_one() {
        for index in 1..BIN_TABLE {
            assert_eq!(LONG_AT[index + 1] - LONG_AT[index], max_cap(index) as u16);
            assert!(max_cap(index) as usize > SHORT && max_cap(index) as usize <= SLOTS);
            assert!(first_cap(index) as usize <= SHORT);
        }
        assert_eq!((LONG_AT[0], LONG_AT[1]), (0, 0), "index 0 has none");
    }

    #[test]
    fn an_array_keeps_its_blocks_when_it_moves() {
        let (short, long) = (ShortArrays::new(), LongArrays::new());
        let array = Array::new();
        let mut memory = [0u8; SHORT];
        assert_eq!((array.len(), array.cap()), (0, 0));
        // SAFETY: the one array of its places; 8 is the room of a short one.
        unsafe { array.set_cap(3, SHORT as u32, &short, &long) };
        for byte in &mut memory {
            let top = array.top.load(Relaxed);
            // SAFETY: `top` is below `high`.
            unsafe { top.write(MaybeUninit::new(Block::from(byte))) };
            array.set_len(array.len() + 1);
        }
        assert_eq!(array.top.load(Relaxed), array.high.get());
        let before = array.low.load(Relaxed);
        // SAFETY: as above; 16 is at most the greatest capacity of this class.
        unsafe { array.set_cap(3, 16, &short, &long) };
        assert_ne!(array.low.load(Relaxed), before);
        assert_eq!((array.len(), array.cap()), (SHORT as u32, 16));
        for (number, byte) in memory.iter_mut().enumerate() {
            // SAFETY: below `top`.
            let slot = unsafe { array.low.load(Relaxed).wrapping_add(number).read() };
            // SAFETY: written above.
            assert_eq!(unsafe { slot.assume_init() }, Block::from(byte));
        }
        array.close();
        assert_eq!(array.cap(), SHORT as u32);
        array.shut();
        assert_eq!((array.cap(), array.len()), (0, SHORT as u32));
    }
}
