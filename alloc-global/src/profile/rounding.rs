//! What rounding requests up to size classes costs, by class and by call site, and which class would save how much.
//!
//! ```text
//! requests of a class:   .. 1100  1104  1120 ..    ..  1270 |1280
//!                                         ^c                ^size     an additional class c saves (size - c) for each at or below c
//! ```
//!
//! Up to 512 bytes there is a class for every 8 bytes, so nothing is to be gained there by another one: what is lost is
//! less than 8 bytes a block, or an alignment's.
//!
//! No unsafe here.

use super::live::Entry;
use super::local::untracked;
use super::record::TABLES;
use super::sites::WEIGHT_ONE;
use crate::large_class::LARGE_ALIGN;
use alloc_core::MAX_SMALL;
use std::collections::{BTreeMap, HashMap};
use std::fmt;

/// Call sites named for each class.
const SITES: usize = 3;

/// What rounding up to one size class costs in the blocks that are live and on record. See [`rounding`].
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Rounding {
    /// Bytes of a block of the class.
    pub class_size: u64,
    /// Live blocks; an estimate where blocks are sampled, as is all that follows.
    pub blocks: f64,
    /// Bytes that were asked for.
    pub requested_bytes: f64,
    /// Bytes that the blocks have beyond that.
    pub lost_bytes: f64,
    /// The one class beside this one that would save most, if any would save something.
    pub additional: Option<BetterClass>,
    /// The class that would hold all of these requests in place of this one, if a smaller one would.
    pub other: Option<BetterClass>,
    /// The call sites that lose most in this class, at most three.
    pub sites: Vec<RoundingSite>,
}

/// A size class that there is not.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct BetterClass {
    /// Bytes of its blocks.
    pub size: u64,
    /// Bytes that it would save.
    pub saved_bytes: f64,
}

/// A call site and what it loses to rounding in one class.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RoundingSite {
    /// Addresses of the calls, as in [`Site::stack`](crate::Site).
    pub stack: Vec<u64>,
    /// Bytes lost.
    pub lost_bytes: f64,
}

/// What rounding costs, by class, the largest loss first; and which additional or other class would save how many bytes.
///
/// It knows what the profile knows: live blocks that were sampled or traced. Empty where nothing is watched. It is advice
/// to those who choose sizes (a buffer of 1,281 bytes takes 1,536), and to the maker of the class table.
///
/// ```
/// for class in alloc_global::rounding().iter().take(5) {
///     println!("{class}");
/// }
/// ```
pub fn rounding() -> Vec<Rounding> {
    untracked(|| {
        let entries = TABLES.live_entries();
        let number = |entry: &Entry| TABLES.number_of(entry);
        let mut classes = of_entries(entries.iter().map(|(_, entry)| (*entry, number(entry))));
        let wanted: Vec<Option<usize>> =
            classes.iter().flat_map(|class| &class.1).map(|site| Some(site.0)).collect();
        let stacks = TABLES.stacks_of(&wanted);
        for (class, sites) in &mut classes {
            let stack = |number| stacks.get(number).cloned().unwrap_or_default();
            class.sites = sites
                .iter()
                .map(|(number, lost)| RoundingSite { stack: stack(number), lost_bytes: *lost })
                .collect();
        }
        classes.into_iter().map(|class| class.0).collect()
    })
}

/// What is known of one class on the way.
#[derive(Default)]
struct Sums {
    requested: f64,
    lost: f64,
    /// Blocks by the smallest class that would do.
    sizes: BTreeMap<u64, f64>,
    /// Bytes lost by site.
    sites: HashMap<usize, f64>,
}

/// By class, the largest loss first, with the numbers of the sites that lose most.
fn of_entries(entries: impl Iterator<Item = (Entry, usize)>) -> Vec<(Rounding, Vec<(usize, f64)>)> {
    let mut classes: HashMap<u64, Sums> = HashMap::new();
    for (entry, site) in entries {
        let blocks = entry.weight as f64 / WEIGHT_ONE as f64;
        let lost = entry.size.saturating_sub(entry.requested) as f64 * blocks;
        let sums = classes.entry(entry.size).or_default();
        sums.requested += entry.requested as f64 * blocks;
        sums.lost += lost;
        *sums.sizes.entry(entry.requested.next_multiple_of(LARGE_ALIGN as u64)).or_default() +=
            blocks;
        *sums.sites.entry(site).or_default() += lost;
    }
    let mut list: Vec<_> = classes
        .into_iter()
        .filter(|(_, sums)| sums.lost > 0.0)
        .map(|(size, sums)| one(size, sums))
        .collect();
    list.sort_by(|(a, _), (b, _)| {
        b.lost_bytes.total_cmp(&a.lost_bytes).then(a.class_size.cmp(&b.class_size))
    });
    list
}

fn one(size: u64, sums: Sums) -> (Rounding, Vec<(usize, f64)>) {
    let blocks: f64 = sums.sizes.values().sum();
    let (mut additional, mut other) = (None, None);
    if size > MAX_SMALL as u64 {
        let mut below = 0.0;
        for (step, count) in sums.sizes.iter().filter(|(step, _)| **step < size) {
            below += count;
            let better = BetterClass { size: *step, saved_bytes: (size - step) as f64 * below };
            let best = additional.map_or(0.0, |best: BetterClass| best.saved_bytes);
            if better.saved_bytes > best {
                additional = Some(better);
            }
        }
        // All of them: the last of these is the largest.
        other = sums.sizes.last_key_value().filter(|(step, _)| **step < size).map(|(step, _)| {
            BetterClass { size: *step, saved_bytes: (size - step) as f64 * blocks }
        });
    }
    let mut sites: Vec<_> = sums.sites.into_iter().filter(|(_, lost)| *lost > 0.0).collect();
    sites.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    sites.truncate(SITES);
    let class = Rounding {
        class_size: size,
        blocks,
        requested_bytes: sums.requested,
        lost_bytes: sums.lost,
        additional,
        other,
        sites: Vec::new(),
    };
    (class, sites)
}

impl fmt::Display for Rounding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rounding { class_size, blocks, lost_bytes, .. } = self;
        write!(f, "{lost_bytes:.0} bytes lost in {blocks:.0} blocks of {class_size}")?;
        if let Some(BetterClass { size, saved_bytes }) = self.additional {
            write!(f, "; one more class of {size} would save {saved_bytes:.0}")?;
        }
        if let Some(BetterClass { size, saved_bytes }) = self.other
            && self.additional.is_none_or(|additional| additional.size != size)
        {
            write!(f, "; {size} in its place {saved_bytes:.0}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::sites::SiteRef;
    use super::*;

    fn entry(requested: u64, size: u64, blocks: u64, site: usize) -> (Entry, usize) {
        let weight = blocks * WEIGHT_ONE;
        (Entry { size, requested, birth: 0, weight, exact: true, site: SiteRef(0) }, site)
    }

    #[test]
    fn the_class_that_saves_most_is_named_with_what_it_saves() {
        let entries = [
            // 100 requests of 1,100 bytes take 1,280; so do 10 of 1,200.
            entry(1_100, 1_280, 100, 1),
            entry(1_200, 1_280, 10, 2),
            // Nothing is lost here.
            entry(2_048, 2_048, 5, 1),
            // Nothing can be gained here.
            entry(33, 40, 1_000, 3),
        ];
        let classes = of_entries(entries.into_iter());
        assert_eq!(classes.len(), 2);
        let (large, sites) = &classes[0];
        assert_eq!((large.class_size, large.blocks, large.lost_bytes), (1_280, 110.0, 18_800.0));
        // 1,100 needs 1,104, a multiple of 16: 100 blocks save 176 each; 1,200 would save 110 blocks 80 each.
        assert_eq!(large.additional, Some(BetterClass { size: 1_104, saved_bytes: 17_600.0 }));
        assert_eq!(large.other, Some(BetterClass { size: 1_200, saved_bytes: 8_800.0 }));
        assert_eq!(sites, &[(1, 18_000.0), (2, 800.0)]);
        let (small, _) = &classes[1];
        assert_eq!((small.class_size, small.lost_bytes), (40, 7_000.0));
        assert!(small.additional.is_none() && small.other.is_none());
        let text = large.to_string();
        assert!(
            text.contains("18800 bytes lost") && text.contains("1104 would save 17600"),
            "{text}"
        );
    }

    #[test]
    fn requests_that_fill_the_class_keep_it() {
        let classes =
            of_entries([entry(1_300, 1_536, 1, 1), entry(1_530, 1_536, 9, 1)].into_iter());
        let (class, _) = &classes[0];
        assert_eq!(class.additional, Some(BetterClass { size: 1_312, saved_bytes: 224.0 }));
        assert_eq!(class.other, None);
    }
}
