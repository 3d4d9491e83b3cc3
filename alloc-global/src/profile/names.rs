//! Names of regions and threads, each kept once and known by a number.
//!
//! ```text
//! slot n, 64 bytes:  | length (1) | the name, cut to 63 bytes |      open addressing; number n + 1, 0 is no name
//! ```
//!
//! A bounded table under a leaf lock, in pages of its own. What does not fit has no name; names
//! stay for good.

use super::pages::Area;
use crate::lock::Lock;
use core::ptr::NonNull;

/// Names that fit.
const SLOTS: usize = 1024;

/// Bytes of a slot.
const SLOT: usize = 64;

/// Names that are kept: the rest stays free, so that a search ends.
const MOST: usize = SLOTS - SLOTS / 8;

/// Interned names.
pub(crate) struct Names {
    area: Area,
    /// How many are kept.
    used: Lock<usize>,
}

type Slot = [u8; SLOT];

impl Names {
    pub(crate) const fn new() -> Self {
        Names { area: Area::new(|| SLOTS * SLOT), used: Lock::new(0) }
    }

    /// # Safety
    ///
    /// `start` is that of the area, `index` is below `SLOTS`, and the lock is held.
    unsafe fn slot<'a>(start: NonNull<u8>, index: usize) -> &'a mut Slot {
        // SAFETY: inside the area, by the caller's promise.
        let slot = unsafe { start.cast::<Slot>().add(index) };
        // SAFETY: zeroed memory is a slot; nobody else looks without the lock.
        unsafe { &mut *slot.as_ptr() }
    }

    /// The number of a name; 0 for an empty one and where there is no room.
    pub(crate) fn intern(&self, name: &[u8]) -> u16 {
        let name = name.get(..SLOT - 1).unwrap_or(name);
        if name.is_empty() {
            return 0;
        }
        let Some(start) = self.area.start() else { return 0 };
        let mut used = self.used.lock();
        let mut at = hash(name) as usize % SLOTS;
        for _ in 0..SLOTS {
            // SAFETY: `at < SLOTS`, under the lock.
            let slot = unsafe { Self::slot(start, at) };
            if read(slot) == name {
                return (at + 1) as u16;
            }
            if slot[0] == 0 {
                if *used >= MOST {
                    return 0;
                }
                *used += 1;
                slot[0] = name.len() as u8;
                slot[1..].iter_mut().zip(name).for_each(|(to, from)| *to = *from);
                return (at + 1) as u16;
            }
            at = (at + 1) % SLOTS;
        }
        0
    }

    /// The name of a number, empty for 0.
    pub(crate) fn get(&self, number: u16) -> String {
        let mut copy = [0; SLOT];
        let index = (number as usize).wrapping_sub(1);
        if let (Some(start), true) = (self.area.mapped(), index < SLOTS) {
            let _used = self.used.lock();
            // SAFETY: below `SLOTS`, under the lock.
            copy = *unsafe { Self::slot(start, index) };
        }
        String::from_utf8_lossy(read(&copy)).into_owned()
    }

    /// Bytes that may be backed by memory.
    pub(crate) fn bytes(&self) -> usize {
        self.area.mapped().map_or(0, |_| self.area.len())
    }

    pub(crate) fn lock_for_fork(&self) {
        self.used.lock_for_fork();
    }

    pub(crate) fn unlock_after_fork(&self) {
        self.used.unlock_after_fork();
    }
}

fn read(slot: &Slot) -> &[u8] {
    let end = 1 + slot[0] as usize;
    slot.get(1..end).unwrap_or_default()
}

/// Fowler, Noll and Vo's hash, variant 1a, of 32 bits.
fn hash(name: &[u8]) -> u32 {
    name.iter().fold(0x811C_9DC5, |hash, byte| (hash ^ *byte as u32).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kept_once_and_cut_and_bounded() {
        let names = Names::new();
        assert_eq!(
            (names.intern(b""), names.get(0), names.get(7)),
            (0, String::new(), String::new())
        );
        let first = names.intern(b"parse");
        assert_eq!(names.intern(b"parse"), first);
        assert_ne!(names.intern(b"parser"), first);
        assert_eq!(names.get(first), "parse");
        let long = names.intern(&[b'x'; 200]);
        assert_eq!(names.get(long), "x".repeat(63));
        let kept = (0..2000).filter(|n| names.intern(format!("n{n}").as_bytes()) != 0).count();
        assert_eq!(kept, MOST - 3);
        assert_eq!(names.intern(b"parse"), first, "a full table still finds");
    }
}
