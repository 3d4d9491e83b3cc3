//! Which pages lie in spans, and where in them: one byte for each page of the address space.
//!
//! ```text
//! LEAVES[address / 4 GiB] --> leaf, 1 MiB: byte [address / 4 KiB % 2^20]
//!                             0: in no span; n: the nth page of one, from 1
//! ```
//!
//! Who asks about a block has it: if it lies in a span, the bytes were set before the block was
//! handed out, and if not, those of a span that was there before were cleared before its memory
//! went back to the system allocator. Both lead to the one who asks by way of the locks and the
//! program's own handing over. Therefore Relaxed is enough for the bytes.
//!
//! Leaves are mapped when they are first needed and stay; of each only pages that stand for 16 MiB
//! with spans are ever touched.

use alloc_core::{OsPages, PAGE_SIZE, PageSource};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicU8, Ordering};

/// Bytes of addresses for which a leaf stands.
const LEAF_SPAN: usize = 4 << 30;

/// Leaves for all addresses of a process: 47 bits of them.
const LEAF_COUNT: usize = (1 << 47) / LEAF_SPAN;

/// A byte for each page.
#[derive(Debug)]
struct Leaf([AtomicU8; LEAF_SPAN / PAGE_SIZE]);

static LEAVES: [AtomicPtr<Leaf>; LEAF_COUNT] = [const { AtomicPtr::new(null_mut()) }; LEAF_COUNT];

/// The byte of the page of an address, if its leaf is there.
#[inline]
fn place(address: usize) -> Option<&'static AtomicU8> {
    // Acquire: pairs with the Release in `prepare`: the leaf's zeros are seen.
    let leaf = LEAVES.get(address / LEAF_SPAN)?.load(Ordering::Acquire);
    // SAFETY: null, or a leaf, which stays.
    let leaf = unsafe { leaf.as_ref() }?;
    leaf.0.get(address / PAGE_SIZE % leaf.0.len())
}

/// Which page of its span the one of an address is, from 1; 0 if it lies in none.
#[inline]
pub(super) fn number(address: usize) -> u8 {
    // Relaxed: see the head of this file.
    place(address).map_or(0, |place| place.load(Ordering::Relaxed))
}

/// Notes the `count` pages of a span from `first` on. `false`: there is no room to note it.
pub(super) fn insert(first: usize, count: u8) -> bool {
    let pages = |number: u8| first + usize::from(number - 1) * PAGE_SIZE;
    if !(1..=count).all(|number| prepare(pages(number))) {
        return false;
    }
    for number in 1..=count {
        if let Some(place) = place(pages(number)) {
            // Relaxed: see the head of this file.
            place.store(number, Ordering::Relaxed);
        }
    }
    true
}

/// Forgets `count` pages from `first` on, which are still the caller's.
pub(super) fn remove(first: usize, count: u8) {
    for page in 0..usize::from(count) {
        if let Some(place) = place(first + page * PAGE_SIZE) {
            // Relaxed: see the head of this file.
            place.store(0, Ordering::Relaxed);
        }
    }
}

/// Sees to it that an address has a leaf.
fn prepare(address: usize) -> bool {
    let Some(leaf) = LEAVES.get(address / LEAF_SPAN) else { return false };
    // Relaxed: whether it is there; `place` reads it again.
    if !leaf.load(Ordering::Relaxed).is_null() {
        return true;
    }
    let Some(new) = OsPages.map(size_of::<Leaf>(), PAGE_SIZE) else { return false };
    // Release: pairs with the Acquire in `place`. Relaxed on failure: nothing is read.
    let stored = leaf.compare_exchange(
        null_mut(),
        new.cast::<Leaf>().as_ptr(),
        Ordering::Release,
        Ordering::Relaxed,
    );
    if stored.is_err() {
        // SAFETY: mapped just now, and nobody knows of it.
        unsafe { OsPages.unmap(new, size_of::<Leaf>()) };
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_a_span_are_numbered_and_no_others() {
        // Where no program has memory, across the end of a leaf.
        let first = 0x1234 * LEAF_SPAN - 3 * PAGE_SIZE;
        let numbers = || (0..8).map(|page| number(first + page * PAGE_SIZE - PAGE_SIZE + 5));
        assert!(numbers().all(|number| number == 0));
        assert!(insert(first, 6));
        assert!(numbers().eq([0, 1, 2, 3, 4, 5, 6, 0]));
        remove(first, 6);
        assert!(numbers().all(|number| number == 0));
        assert!(!insert(1 << 47, 1), "no address of a process");
    }
}
