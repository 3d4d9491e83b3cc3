//! Call sites: stacks, each kept once for a region and a thread, with what came and went of theirs.
//!
//! ```text
//! area:  | index: u32 per slot | record | frames | record | frames | ...            | not used |
//!        slot: 0 is empty, else the place of a record in the area, in steps of 64 bytes
//! ```
//!
//! What a site allocated is what was freed of it plus what is live, which the live table knows. A
//! record counts what came as well, so that it can remember the most bytes that were there at once.
//!
//! What a site had when the process had most is known without a walk over all sites: each new peak
//! of the process has a number (`stats`), and the first event of a site after it notes what the
//! site had until then. A site without an event since has what it has. The process's peak is known
//! to 64 KiB a thread, and so is this.
//!
//! Threads count in lanes of their own (`local`): a key has a record for each lane that met it, all
//! with one number, and what is read of a number is the sum of its records.
//!
//! Invariants:
//!
//! 1. A record is written before its place is stored in the index (Release), and its key never
//!    changes after.
//! 2. No two records have the same key and lane: only the holder of `end` adds one, after it looked
//!    again. Those of one key have the number of the first.
//! 3. `index` never fills up: as many slots as the area has 256 bytes, and a record has more.
//! 4. Counts are changed under the lock of a stripe of the live table: who holds all stripes sees
//!    them at rest. Two stripes may change one site at once, in lane 0 or where a block ends in
//!    another thread's hands: a maximum may then miss the other's block.
//!
//! It does not resolve addresses, and forgets no site.

mod counts;

pub(crate) use counts::{Counted, Counts, Gone, variance};

use super::pages::Area;
use super::stack::{End, Stack, mix};
use crate::lock::Lock;
use core::mem::offset_of;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Powers of two of microseconds that lifetimes are counted by.
pub(crate) const LIFETIMES: usize = 40;

/// Parts of a block that weights are counted in.
pub(crate) const WEIGHT_ONE: u64 = 1 << 10;

/// What belongs to a site beside its stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Place {
    /// The number of the region's name.
    pub(crate) region: u16,
    /// The number of the thread's name.
    pub(crate) thread: u16,
    /// Who counts; not part of the key.
    pub(crate) lane: u8,
}

/// A site; its frames follow it.
///
/// ```text
///   0 hash   8 place (6)  14 frames (2)  16 number (4)  20 cut (1)   21 -   24 counts
/// ```
#[repr(C)]
struct Record {
    hash: u64,
    place: Place,
    frames: u16,
    /// How many keys were there before it.
    number: u32,
    cut: bool,
    counts: Counts,
}

/// What stands before the counts.
const KEY_BYTES: usize = 24;

const _: () = assert!(offset_of!(Record, frames) == 14);
const _: () = assert!(offset_of!(Record, number) == 16);
const _: () = assert!(offset_of!(Record, counts) == KEY_BYTES);
const _: () = assert!(size_of::<Record>() > BYTES_PER_SLOT && STEP == counts::LINE);

/// Bytes of the area for each slot of the index (3).
const BYTES_PER_SLOT: usize = 256;

/// Places in the area are counted in these: each record has its lines to itself.
const STEP: usize = 64;

/// Steps that a record with so many frames takes.
#[inline]
const fn steps(frames: usize) -> usize {
    (size_of::<Record>() + frames * size_of::<usize>()).div_ceil(STEP)
}

/// A site's place in the area, in steps; 0 is the site of all that had no room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SiteRef(pub(crate) u32);

/// The site of all that had no room.
pub(crate) const OTHER: SiteRef = SiteRef(0);

/// A site, as it is read for a snapshot.
pub(crate) struct SiteView<'a> {
    pub(crate) stack: &'a [usize],
    pub(crate) cut: bool,
    /// `None`: the site of all that had no room.
    pub(crate) place: Option<Place>,
    pub(crate) number: usize,
    pub(crate) counted: Counted,
}

/// What the last record ends at.
struct EndOf {
    /// In steps; 0 before the first.
    at: usize,
    records: u32,
    /// Distinct keys.
    keys: u32,
}

/// All sites.
pub(crate) struct Sites {
    area: Area,
    end: Lock<EndOf>,
    /// How many records there are.
    records: AtomicU32,
    /// How many keys those have.
    keys: AtomicU32,
    other: Counts,
    /// Samples that went to the other site.
    dropped: AtomicU64,
}

impl Sites {
    /// Sites in an area of as many bytes as `len` says.
    pub(crate) const fn new(len: fn() -> usize) -> Self {
        Sites {
            area: Area::new(len),
            end: Lock::new(EndOf { at: 0, records: 0, keys: 0 }),
            records: AtomicU32::new(0),
            keys: AtomicU32::new(0),
            other: Counts::new(),
            dropped: AtomicU64::new(0),
        }
    }

    fn slots(&self) -> usize {
        (self.area.len() / BYTES_PER_SLOT).next_power_of_two()
    }

    fn slot(&self, start: NonNull<u8>, index: usize) -> &AtomicU32 {
        // SAFETY: `index` is masked by the callers to be below `slots`, which are at the start of the area.
        let slot = unsafe { start.cast::<AtomicU32>().add(index) };
        // SAFETY: zeroed, aligned memory that is never unmapped is an atomic.
        unsafe { slot.as_ref() }
    }

    /// A record that the index names.
    #[inline]
    fn record(&self, start: NonNull<u8>, site: SiteRef) -> &Record {
        // SAFETY: what the index holds is the place of a record in the area (1).
        let record = unsafe { start.add(site.0 as usize * STEP) }.cast::<Record>();
        // SAFETY: written before it was stored in the index, and only its atomics change (1).
        unsafe { record.as_ref() }
    }

    /// The frames of a site that the index names, as many as its record says.
    #[inline]
    fn frames(&self, start: NonNull<u8>, site: SiteRef, count: u16) -> &[usize] {
        // SAFETY: frames stand behind their record, in the area (1).
        let frames = unsafe { start.add(site.0 as usize * STEP + size_of::<Record>()) };
        // SAFETY: so many were written with the record (1), and never change.
        unsafe { core::slice::from_raw_parts(frames.cast::<usize>().as_ptr(), count as usize) }
    }

    /// The site of a stack in a place, and its counts; [`OTHER`] where there is no room for another.
    #[inline]
    pub(crate) fn intern(&self, stack: &Stack, place: Place) -> (SiteRef, &Counts) {
        let cut = stack.end != End::Whole;
        let hash =
            mix(stack.hash, (place.region as u64) << 17 | (place.thread as u64) << 1 | cut as u64);
        let Some(start) = self.area.start() else { return (self.drop_one(), &self.other) };
        let site = match self.find(start, hash, stack, place, true).0 {
            Some(site) => site,
            None => self.insert(start, hash, stack, place),
        };
        if site == OTHER {
            return (site, &self.other);
        }
        let counts = &self.record(start, site).counts;
        // Counted in once the block is in its table.
        counts.fetch();
        (site, counts)
    }

    /// The site, in this lane or if it need not be in any; and the slot where the search ended.
    #[inline]
    fn find(
        &self,
        start: NonNull<u8>,
        hash: u64,
        stack: &Stack,
        place: Place,
        in_lane: bool,
    ) -> (Option<SiteRef>, usize) {
        let mask = self.slots() - 1;
        // The upper bits of a product are its best.
        let mut at = (hash >> 32) as usize & mask;
        loop {
            // Acquire: pairs with the Release in `insert`: the record is there before its place (1).
            let site = SiteRef(self.slot(start, at).load(Ordering::Acquire));
            if site == OTHER {
                // There is always an empty slot (3).
                return (None, at);
            }
            let record = self.record(start, site);
            let wanted =
                Place { lane: if in_lane { place.lane } else { record.place.lane }, ..place };
            let same = record.hash == hash && record.place == wanted;
            if same && self.frames(start, site, record.frames) == stack.frames() {
                return (Some(site), at);
            }
            at = (at + 1) & mask;
        }
    }

    #[cold]
    #[inline(never)]
    fn insert(&self, start: NonNull<u8>, hash: u64, stack: &Stack, place: Place) -> SiteRef {
        let mut end = self.end.lock();
        // Another thread may have been here first (2).
        let (found, slot) = self.find(start, hash, stack, place, true);
        if let Some(site) = found {
            return site;
        }
        let at = end.at.max(self.first());
        let steps = steps(stack.frames().len());
        let fits = (at + steps) * STEP <= self.area.len();
        let (Ok(site), true) = (u32::try_from(at), fits) else {
            drop(end);
            return self.drop_one();
        };
        let twin = self.find(start, hash, stack, place, false).0;
        let record = Record {
            hash,
            place,
            // At most `MOST_FRAMES`.
            frames: stack.frames().len() as u16,
            cut: stack.end != End::Whole,
            number: twin.map_or(end.keys, |twin| self.record(start, twin).number),
            counts: Counts::new(),
        };
        // SAFETY: `at + steps` is inside the area.
        let to = unsafe { start.add(at * STEP) };
        // SAFETY: aligned to a step, inside the area; nobody reads it yet.
        unsafe { to.cast::<Record>().write(record) };
        // SAFETY: inside the area, see above.
        let frames = unsafe { to.add(size_of::<Record>()) }.cast::<usize>();
        let from = stack.frames();
        // SAFETY: as many words are inside the area after the record; the two do not overlap.
        unsafe { frames.as_ptr().copy_from_nonoverlapping(from.as_ptr(), from.len()) };
        end.at = at + steps;
        end.records += 1;
        end.keys += u32::from(twin.is_none());
        // Release: pairs with the Acquire in `len`.
        self.keys.store(end.keys, Ordering::Release);
        // Release: pairs with the Acquire in `for_each`.
        self.records.store(end.records, Ordering::Release);
        // Release: pairs with the Acquire in `find` (1).
        self.slot(start, slot).store(site, Ordering::Release);
        SiteRef(site)
    }

    /// Where the first record is, in steps.
    fn first(&self) -> usize {
        (self.slots() * size_of::<AtomicU32>()).div_ceil(STEP)
    }

    #[cold]
    fn drop_one(&self) -> SiteRef {
        // Relaxed: a count.
        self.dropped.fetch_add(1, Ordering::Relaxed);
        OTHER
    }

    /// What is counted of a site that `intern` returned, and whether it is in this lane of the
    /// calling thread: then nobody else counts there what came.
    #[inline]
    pub(crate) fn counts(&self, site: SiteRef, lane: u8) -> (&Counts, bool) {
        match self.area.mapped() {
            Some(start) if site != OTHER => {
                let record = self.record(start, site);
                (&record.counts, lane != 0 && record.place.lane == lane)
            }
            _ => (&self.other, false),
        }
    }

    /// The number of a site that `intern` returned: below [`Sites::len`].
    pub(crate) fn number(&self, site: SiteRef) -> usize {
        match self.area.mapped() {
            Some(start) if site != OTHER => self.record(start, site).number as usize + 1,
            _ => 0,
        }
    }

    /// How many sites there are, with that of all that had no room, which has the number 0.
    pub(crate) fn len(&self) -> usize {
        // Acquire: pairs with the Release in `insert`: so many have records.
        self.keys.load(Ordering::Acquire) as usize + 1
    }

    /// Samples that had no room.
    pub(crate) fn dropped(&self) -> u64 {
        // Relaxed: a count.
        self.dropped.load(Ordering::Relaxed)
    }

    /// Calls `f` with every record, those of new numbers in their order; `peak` is the number of
    /// the process's last peak.
    pub(crate) fn for_each(&self, peak: u64, mut f: impl FnMut(SiteView<'_>)) {
        // Acquire: pairs with the Release in `insert`: so many records are there.
        let records = self.records.load(Ordering::Acquire);
        let counted = self.other.copy(peak);
        f(SiteView { stack: &[], cut: false, place: None, number: 0, counted });
        let Some(start) = self.area.mapped() else { return };
        let mut at = self.first();
        for _ in 0..records {
            // Inside the area, as its record is: the cast keeps the value.
            let site = SiteRef(at as u32);
            let record = self.record(start, site);
            f(SiteView {
                stack: self.frames(start, site, record.frames),
                cut: record.cut,
                place: Some(record.place),
                number: record.number as usize + 1,
                counted: record.counts.copy(peak),
            });
            at += steps(record.frames as usize);
        }
    }

    /// Bytes of pages that are backed by memory.
    pub(crate) fn bytes(&self) -> usize {
        self.area.backed()
    }

    pub(crate) fn lock_for_fork(&self) {
        self.end.lock_for_fork();
    }

    pub(crate) fn unlock_after_fork(&self) {
        self.end.unlock_after_fork();
    }

    /// Verifies invariants 1 to 3, at rest.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let Some(start) = self.area.mapped() else { return Ok(()) };
        let end = self.end.lock();
        let (mut named, slots) = (0, self.slots());
        for index in 0..slots {
            let site = SiteRef(self.slot(start, index).load(Ordering::Acquire));
            if site == OTHER {
                continue;
            }
            named += 1;
            let record = self.record(start, site);
            if record.number >= end.keys || site.0 as usize >= end.at {
                return Err("sites 1: a place beyond the last record");
            }
            let mut stack = Stack::new(super::stack::MOST_FRAMES);
            self.frames(start, site, record.frames).iter().for_each(|frame| {
                stack.push(*frame);
            });
            if record.cut {
                stack.end = End::Cut;
            }
            if self.find(start, record.hash, &stack, record.place, true).0 != Some(site) {
                return Err("sites 2: a key twice, or one that is not found");
            }
        }
        if named != end.records as usize {
            return Err("sites 2: not as many places as records");
        }
        if named >= slots {
            return Err("sites 3: the index is full");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(frames: &[usize]) -> Stack {
        let mut stack = Stack::new(64);
        frames.iter().for_each(|frame| {
            stack.push(*frame);
        });
        stack
    }

    #[test]
    fn sites_are_told_apart_by_stack_region_thread_and_cut() {
        let sites = Sites::new(|| 64 << 10);
        let place = Place { region: 1, thread: 2, lane: 0 };
        let find = |stack: &Stack, place| sites.intern(stack, place).0;
        let first = find(&stack(&[1, 2, 3]), place);
        assert_ne!(first, OTHER);
        assert_eq!(find(&stack(&[1, 2, 3]), place), first);
        let mut cut = stack(&[1, 2, 3]);
        cut.end = End::Cut;
        let others = [
            find(&stack(&[1, 2]), place),
            find(&stack(&[3, 2, 1]), place),
            find(&stack(&[1, 2, 3]), Place { region: 2, ..place }),
            find(&stack(&[1, 2, 3]), Place { thread: 1, ..place }),
            find(&cut, place),
            find(&stack(&[]), place),
        ];
        let mut all: Vec<u32> = others.iter().chain([&first]).map(|site| site.0).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!((all.len(), sites.len()), (7, 8));
        sites.check().unwrap();
        let mut stacks = Vec::new();
        sites.for_each(0, |site| stacks.push((site.stack.to_vec(), site.cut, site.place)));
        assert_eq!(stacks[0], (vec![], false, None));
        assert_eq!(stacks[sites.number(first)], (vec![1, 2, 3], false, Some(place)));
        assert_eq!(stacks[sites.number(others[4])], (vec![1, 2, 3], true, Some(place)));
    }

    #[test]
    fn what_has_no_room_goes_to_the_other_site() {
        let sites = Sites::new(|| 16 << 10);
        let found: Vec<_> =
            (0..100).map(|n| sites.intern(&stack(&[n]), Place::default()).0).collect();
        let kept = found.iter().filter(|site| **site != OTHER).count();
        assert!((20..60).contains(&kept), "{kept}");
        assert_eq!(sites.dropped(), 100 - kept as u64);
        assert_eq!(sites.intern(&stack(&[0]), Place::default()).0, found[0]);
        sites.check().unwrap();
        assert!(sites.bytes() <= 16 << 10);
    }

    #[test]
    fn threads_that_race_agree_on_sites() {
        let sites = Sites::new(|| 1 << 20);
        let found: Vec<Vec<u32>> = std::thread::scope(|scope| {
            let intern = || {
                (0..1000).map(|n| sites.intern(&stack(&[n / 2, 9]), Place::default()).0.0).collect()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(intern)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(found.iter().all(|list| *list == found[0]));
        assert_eq!(sites.len(), 501);
        sites.check().unwrap();
    }
}
