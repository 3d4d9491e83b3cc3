//! What rounding requests up to size classes costs, by class and by call site, and which class
//! would save how much.
//!
//! ```text
//! requests of a class:   .. 1100  1104  1120 ..    ..  1270 |1280
//!                                         ^c                ^size     an additional class c saves (size - c) for each at or below c
//! ```
//!
//! Up to 512 bytes there is a class for every 8 bytes, so nothing is to be gained there by another
//! one: what is lost is less than 8 bytes a block, or an alignment's.
//!
//! No unsafe here.

use super::live::Entry;
use super::local::untracked;
use super::record::TABLES;
use super::sites::{WEIGHT_ONE, variance};
use crate::large_class::LARGE_ALIGN;
use alloc_core::MAX_SMALL;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::AddAssign;

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
    /// The standard error of `lost_bytes`; 0 where every block was recorded.
    pub lost_bytes_error: f64,
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
    /// The standard error of that.
    pub saved_bytes_error: f64,
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
    /// The standard error of that.
    pub lost_bytes_error: f64,
}

/// What rounding costs, by class, the largest loss first; and which additional or other class would
/// save how many bytes.
///
/// It knows what the profile knows: live blocks that were sampled or traced. Empty where nothing is
/// watched. It is advice to those who choose sizes (a buffer of 1,281 bytes takes 1,536), and to
/// the maker of the class table.
///
/// Copies what is on record of live blocks, and holds the record's locks meanwhile: allocations
/// that are recorded wait, for some milliseconds per hundred thousand blocks.
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
                .map(|(number, lost)| RoundingSite {
                    stack: stack(number),
                    lost_bytes: lost.sum,
                    lost_bytes_error: lost.error(),
                })
                .collect();
        }
        classes.into_iter().map(|class| class.0).collect()
    })
}

/// A sum of estimates, and its variance: samples are taken independently of each other, so both add up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Estimate {
    pub(crate) sum: f64,
    variance: f64,
}

impl Estimate {
    /// What a sample of this weight adds: as much as it has, for as many blocks as it stands for.
    pub(super) fn of(weight: u64, each: f64) -> Estimate {
        let sum = each * (weight as f64 / WEIGHT_ONE as f64);
        Estimate { sum, variance: variance(weight, sum) }
    }

    /// The standard error of the sum; 0 where every block was recorded.
    pub(crate) fn error(self) -> f64 {
        self.variance.max(0.0).sqrt()
    }

    /// As much of each block.
    fn times(self, each: f64) -> Estimate {
        Estimate { sum: self.sum * each, variance: self.variance * each * each }
    }
}

impl AddAssign for Estimate {
    fn add_assign(&mut self, other: Estimate) {
        self.sum += other.sum;
        self.variance += other.variance;
    }
}

/// What is known of one class on the way.
#[derive(Default)]
struct Sums {
    requested: f64,
    lost: Estimate,
    /// Blocks by the smallest class that would do.
    sizes: BTreeMap<u64, Estimate>,
    /// Bytes lost by site.
    sites: HashMap<usize, Estimate>,
}

/// A class, and the numbers of the sites that lose most in it.
type Found = (Rounding, Vec<(usize, Estimate)>);

/// By class, the largest loss first.
fn of_entries(entries: impl Iterator<Item = (Entry, usize)>) -> Vec<Found> {
    let mut classes: HashMap<u64, Sums> = HashMap::new();
    for (entry, site) in entries {
        let estimate = |each| Estimate::of(entry.weight, each);
        let lost = estimate(entry.size.saturating_sub(entry.requested) as f64);
        let sums = classes.entry(entry.size).or_default();
        sums.requested += estimate(entry.requested as f64).sum;
        sums.lost += lost;
        *sums.sizes.entry(entry.requested.next_multiple_of(LARGE_ALIGN as u64)).or_default() +=
            estimate(1.0);
        *sums.sites.entry(site).or_default() += lost;
    }
    let mut list: Vec<_> = classes
        .into_iter()
        .filter(|(_, sums)| sums.lost.sum > 0.0)
        .map(|(size, sums)| one(size, sums))
        .collect();
    list.sort_by(|(a, _), (b, _)| {
        b.lost_bytes.total_cmp(&a.lost_bytes).then(a.class_size.cmp(&b.class_size))
    });
    list
}

fn one(size: u64, sums: Sums) -> Found {
    let blocks: f64 = sums.sizes.values().map(|blocks| blocks.sum).sum();
    let (mut additional, mut other) = (None, None);
    if size > MAX_SMALL as u64 {
        let mut below = Estimate::default();
        for (step, count) in sums.sizes.iter().filter(|(step, _)| **step < size) {
            below += *count;
            let better = BetterClass::of(*step, below.times((size - step) as f64));
            let best = additional.map_or(0.0, |best: BetterClass| best.saved_bytes);
            if better.saved_bytes > best {
                additional = Some(better);
            }
        }
        // All of them, if the last is below: it is the largest.
        let last = sums.sizes.last_key_value().filter(|(step, _)| **step < size);
        other = last.map(|(step, _)| BetterClass::of(*step, below.times((size - step) as f64)));
    }
    let mut sites: Vec<_> = sums.sites.into_iter().filter(|(_, lost)| lost.sum > 0.0).collect();
    sites.sort_by(|a, b| b.1.sum.total_cmp(&a.1.sum).then(a.0.cmp(&b.0)));
    sites.truncate(SITES);
    let class = Rounding {
        class_size: size,
        blocks,
        requested_bytes: sums.requested,
        lost_bytes: sums.lost.sum,
        lost_bytes_error: sums.lost.error(),
        additional,
        other,
        sites: Vec::new(),
    };
    (class, sites)
}

impl BetterClass {
    fn of(size: u64, saved: Estimate) -> BetterClass {
        BetterClass { size, saved_bytes: saved.sum, saved_bytes_error: saved.error() }
    }
}

/// The standard error behind an estimate; nothing where every block was recorded.
fn within(error: f64) -> String {
    if error > 0.0 { format!(" +-{error:.0}") } else { String::new() }
}

impl fmt::Display for Rounding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rounding { class_size, blocks, lost_bytes, lost_bytes_error, .. } = self;
        let error = within(*lost_bytes_error);
        write!(f, "{lost_bytes:.0}{error} bytes lost in {blocks:.0} blocks of {class_size}")?;
        if let Some(BetterClass { size, saved_bytes, saved_bytes_error }) = self.additional {
            let error = within(saved_bytes_error);
            write!(f, "; one more class of {size} would save {saved_bytes:.0}{error}")?;
        }
        if let Some(BetterClass { size, saved_bytes, saved_bytes_error }) = self.other
            && self.additional.is_none_or(|additional| additional.size != size)
        {
            write!(f, "; {size} in its place {saved_bytes:.0}{}", within(saved_bytes_error))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::sites::SiteRef;
    use super::*;

    /// A sample that stands for so many blocks.
    fn sample(requested: u64, size: u64, blocks: u64, site: usize) -> (Entry, usize) {
        let weight = blocks * WEIGHT_ONE;
        (Entry { size, requested, birth: 0, weight, exact: true, site: SiteRef(0) }, site)
    }

    /// Blocks that were all recorded.
    fn blocks(requested: u64, size: u64, blocks: usize, site: usize) -> Vec<(Entry, usize)> {
        vec![sample(requested, size, 1, site); blocks]
    }

    #[test]
    fn the_class_that_saves_most_is_named_with_what_it_saves() {
        let entries = [
            // 100 requests of 1,100 bytes take 1,280; so do 10 of 1,200.
            blocks(1_100, 1_280, 100, 1),
            blocks(1_200, 1_280, 10, 2),
            // Nothing is lost here.
            blocks(2_048, 2_048, 5, 1),
            // Nothing can be gained here.
            blocks(33, 40, 1_000, 3),
        ];
        let classes = of_entries(entries.into_iter().flatten());
        assert_eq!(classes.len(), 2);
        let (large, sites) = &classes[0];
        assert_eq!((large.class_size, large.blocks, large.lost_bytes), (1_280, 110.0, 18_800.0));
        // 1,100 needs 1,104, a multiple of 16: 100 blocks save 176 each; 1,200 would save 110
        // blocks 80 each.
        let saves =
            |size, saved_bytes| Some(BetterClass { size, saved_bytes, saved_bytes_error: 0.0 });
        assert_eq!(large.additional, saves(1_104, 17_600.0));
        assert_eq!(large.other, saves(1_200, 8_800.0));
        let sites: Vec<_> = sites.iter().map(|(site, lost)| (*site, lost.sum)).collect();
        assert_eq!(sites, [(1, 18_000.0), (2, 800.0)]);
        let (small, _) = &classes[1];
        assert_eq!((small.class_size, small.lost_bytes), (40, 7_000.0));
        assert!(small.additional.is_none() && small.other.is_none());
        let text = large.to_string();
        assert!(text.contains("1104 would save 17600; 1200 in its place 8800"), "{text}");
        assert!(text.starts_with("18800 bytes lost in 110 blocks"), "{text}");
    }

    #[test]
    fn requests_that_fill_the_class_keep_it() {
        let entries = [blocks(1_300, 1_536, 1, 1), blocks(1_530, 1_536, 9, 1)];
        let classes = of_entries(entries.into_iter().flatten());
        let (class, _) = &classes[0];
        let better = class.additional.unwrap();
        assert_eq!((better.size, better.saved_bytes), (1_312, 224.0));
        assert_eq!(class.other, None);
    }

    #[test]
    fn samples_bring_their_errors_and_what_stands_for_itself_has_none() {
        let samples = [sample(1_200, 1_280, 4, 1), sample(1_200, 1_280, 4, 1)];
        let (class, sites) = &of_entries(samples.into_iter().chain(blocks(1_200, 1_280, 2, 2)))[0];
        assert_eq!((class.blocks, class.lost_bytes), (10.0, 800.0));
        // Each was taken with the chance 1/4 and adds 320 bytes: (320^2 * 3/4) twice.
        let error = 153_600f64.sqrt();
        assert!((class.lost_bytes_error - error).abs() < 1e-6, "{class:?}");
        let better = class.additional.unwrap();
        assert_eq!((better.size, better.saved_bytes), (1_200, 800.0));
        assert!((better.saved_bytes_error - error).abs() < 1e-6, "{better:?}");
        assert!((sites[0].1.error() - error).abs() < 1e-6 && sites[1].1.error() == 0.0);
        let text = class.to_string();
        let said = "800 +-392 bytes lost in 10 blocks of 1280; one more class of 1200 would save 800 +-392";
        assert_eq!(text, said);
    }
}
