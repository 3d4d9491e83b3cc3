//! Questions about single live blocks of the profile: which sites have some of these, which sizes were asked for.
//!
//! No unsafe here.

use super::local::untracked;
use super::record::TABLES;
use super::symbols::Symbols;
use std::collections::{HashMap, HashSet};

/// Where the recorded blocks were allocated: the place in the source by the block's address.
#[derive(Debug, Default)]
pub(crate) struct Holders {
    sites: HashMap<usize, usize>,
    names: HashMap<usize, String>,
}

impl Holders {
    /// What is known now. Finds symbols, once per site: milliseconds and more.
    pub(crate) fn take() -> Holders {
        untracked(|| {
            let mut sites = HashMap::new();
            for (block, entry) in TABLES.live_entries() {
                sites.insert(block, TABLES.site_number(&entry));
            }
            if sites.is_empty() {
                return Holders::default();
            }
            let modules = super::modules::loaded();
            let stacks = TABLES.stacks();
            let wanted: HashSet<usize> = sites.values().copied().collect();
            let mut names = HashMap::new();
            for (number, stack) in stacks.iter().enumerate() {
                if wanted.contains(&number) && !stack.is_empty() {
                    let symbols = Symbols::resolve(stack.iter().copied(), &modules);
                    if let Some(frame) = symbols.culprit(stack) {
                        names.insert(number, format!("{} ({})", frame.function, frame.place()));
                    }
                }
            }
            Holders { sites, names }
        })
    }

    /// The place where a block was allocated, if it is on record and its place is known.
    pub(crate) fn of(&self, block: usize) -> Option<String> {
        self.names.get(self.sites.get(&block)?).cloned()
    }
}

/// Live blocks by what was asked for: requested bytes and bytes of the block, and how many (an estimate where blocks are
/// sampled). At most `most` rows, the largest sums of bytes.
#[cfg(feature = "report")]
pub(crate) fn requested(most: usize) -> Vec<(u64, u64, f64)> {
    untracked(|| {
        let mut rows: HashMap<(u64, u64), f64> = HashMap::new();
        for (_, entry) in TABLES.live_entries() {
            *rows.entry((entry.requested, entry.size)).or_default() +=
                entry.weight as f64 / super::sites::WEIGHT_ONE as f64;
        }
        let mut rows: Vec<_> =
            rows.into_iter().map(|((asked, size), count)| (asked, size, count)).collect();
        let bytes = |row: &(u64, u64, f64)| row.1 as f64 * row.2;
        rows.sort_by(|a, b| bytes(b).total_cmp(&bytes(a)).then(a.0.cmp(&b.0)));
        rows.truncate(most);
        rows
    })
}
