//! Free blocks as bits: how they are taken out of a piece of memory that is cut into blocks of one size.
//!
//! ```text
//! words      bit i of the whole: block i is free, and was handed out before
//! +-------+-------+-----+----------------+---------------------------+
//! | block | block | ... | block carved-1 | not carved: never touched |
//! +-------+-------+-----+----------------+---------------------------+
//! first   + size                           + carved * size
//! ```
//!
//! A slice is filled from its end, in the order of addresses: so the lowest address comes last, and
//! who pops from the end goes up through the memory.
//!
//! How many blocks are free is counted by who owns the words: pools here, spans in `alloc-global`.

use core::cell::Cell;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

/// The address of a block.
pub type Block = NonNull<u8>;

/// Takes blocks whose bits are set, and clears these. Returns what of `out` is left in front. A few
/// instructions a block, and a step for each word.
///
/// # Safety
///
/// The block of each set bit lies in the memory that `first` begins, `size` bytes behind the block
/// before it.
#[inline(always)]
pub unsafe fn take_marked<'a>(
    words: &[Cell<u64>],
    first: Block,
    size: usize,
    out: &'a mut [MaybeUninit<Block>],
) -> &'a mut [MaybeUninit<Block>] {
    let mut left = out;
    for (number, word) in words.iter().enumerate() {
        if left.is_empty() {
            break;
        }
        let mut bits = word.get();
        if bits == 0 {
            continue;
        }
        let rest = left.len().saturating_sub(bits.count_ones() as usize);
        let (rest, slots) = left.split_at_mut_checked(rest).unwrap_or_default();
        // SAFETY: no further than the block of a bit that is set.
        let origin = unsafe { first.add(number * 64 * size) };
        for slot in slots.iter_mut().rev() {
            let index = bits.trailing_zeros() as usize;
            bits &= bits - 1;
            // SAFETY: the caller's promise: there are as many bits as slots, or more.
            slot.write(unsafe { origin.add(index * size) });
        }
        word.set(bits);
        left = rest;
    }
    left
}

/// Takes blocks that were never handed out, from `next` on, for all of `out`.
///
/// # Safety
///
/// So many blocks of `size` bytes lie in the memory from `next` on.
#[inline(always)]
pub unsafe fn carve(mut next: Block, size: usize, out: &mut [MaybeUninit<Block>]) {
    for slot in out.iter_mut().rev() {
        slot.write(next);
        // SAFETY: the caller's promise: at most one past the last block.
        next = unsafe { next.add(size) };
    }
}

/// How many bits are set; `None` if one is at or beyond `carved`.
pub fn count_marked(words: &[Cell<u64>], carved: usize) -> Option<usize> {
    words.iter().enumerate().try_fold(0, |sum, (number, word)| {
        let below = carved.saturating_sub(number * 64).min(64);
        let mask = if below == 0 { 0 } else { u64::MAX >> (64 - below) };
        (word.get() & !mask == 0).then(|| sum + word.get().count_ones() as usize)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 24;

    /// Which blocks were taken for `slots` slots, from the end on, and how many slots were left.
    fn take(words: &[Cell<u64>], slots: usize) -> (Vec<usize>, usize) {
        let mut memory = vec![0_u8; 64 * words.len() * SIZE];
        let first = NonNull::from(&mut memory[..]).cast::<u8>();
        let mut out = vec![MaybeUninit::uninit(); slots];
        // SAFETY: the memory has a block for each bit.
        let left = unsafe { take_marked(words, first, SIZE, &mut out) }.len();
        let taken = out[left..].iter().rev().map(|slot| {
            // SAFETY: those behind what is left were written.
            let block: Block = unsafe { slot.assume_init() };
            (block.addr().get() - first.addr().get()) / SIZE
        });
        (taken.collect(), left)
    }

    #[test]
    fn marked_blocks_come_in_order_and_their_bits_are_cleared() {
        let words = [1 << 63 | 0b1001, 0, 1 << 63 | 1].map(Cell::new);
        assert_eq!(take(&words, 2), (vec![0, 3], 0));
        assert_eq!(count_marked(&words, 192), Some(3));
        assert_eq!(take(&words, 0), (vec![], 0));
        assert_eq!(take(&words, 5), (vec![63, 128, 191], 2));
        assert!(words.iter().all(|word| word.get() == 0));
        assert_eq!(take(&words, 3), (vec![], 3));
    }

    #[test]
    fn as_many_as_there_are_slots_and_no_more() {
        for slots in 0..=130 {
            let words = [u64::MAX; 2].map(Cell::new);
            let (taken, left) = take(&words, slots);
            assert!(taken.iter().copied().eq(0..slots.min(128)));
            assert_eq!(left, slots.saturating_sub(128));
            assert_eq!(count_marked(&words, 128), Some(128 - taken.len()));
        }
    }

    #[test]
    fn carved_blocks_go_up_from_the_end() {
        let mut memory = [0_u8; 4 * SIZE];
        let first = NonNull::from(&mut memory[..]).cast::<u8>();
        let mut out = [MaybeUninit::uninit(); 4];
        // SAFETY: four blocks lie there.
        unsafe { carve(first, SIZE, &mut out) };
        // SAFETY: all were written.
        let offsets =
            out.map(|slot| unsafe { slot.assume_init() }.addr().get() - first.addr().get());
        assert_eq!(offsets, [3 * SIZE, 2 * SIZE, SIZE, 0]);
    }

    #[test]
    fn a_bit_beyond_what_was_carved_is_seen() {
        let words = [0b111, 0b1].map(Cell::new);
        assert_eq!(count_marked(&words, 65), Some(4));
        for carved in [0, 1, 2, 3, 63, 64] {
            assert_eq!(count_marked(&words, carved), None, "{carved}");
        }
        assert_eq!(count_marked(&[0, 0].map(Cell::new), 0), Some(0));
    }
}
