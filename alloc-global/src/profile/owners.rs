//! Who allocated a block that is still live: the call sites of given addresses, by stack and by name.
//!
//! Nothing is allocated while the tables are held; names are looked up afterwards, once per site.
//! No unsafe here.

use super::local::untracked;
use super::modules;
use super::record::TABLES;
use super::symbols::Symbols;
use std::collections::HashMap;

/// The call sites of those of some blocks that are recorded.
pub(crate) struct Owners {
    of_block: HashMap<usize, usize>,
    /// Addresses of calls, the innermost first, by the numbers of sites.
    stacks: HashMap<usize, Vec<u64>>,
}

impl Owners {
    /// Looks up blocks by their addresses, in any order. Reads no debug information.
    pub(crate) fn of(blocks: impl Iterator<Item = usize>) -> Owners {
        untracked(|| {
            let mut blocks: Vec<usize> = blocks.collect();
            blocks.sort_unstable();
            let mut sites = vec![None; blocks.len()];
            TABLES.sites_of(&blocks, &mut sites);
            let stacks = TABLES.stacks_of(&sites);
            let known = blocks.into_iter().zip(sites);
            let of_block = known.filter_map(|(block, site)| Some((block, site?))).collect();
            Owners { of_block, stacks }
        })
    }

    /// The number of the site that allocated a block, if it is known, and its stack.
    pub(crate) fn site_of(&self, block: usize) -> Option<(usize, &[u64])> {
        let site = *self.of_block.get(&block)?;
        let stack = self.stacks.get(&site).filter(|stack| !stack.is_empty())?;
        Some((site, stack))
    }

    /// The names of the sites, by their numbers. Reads debug information; a site of which no frame
    /// is known has none.
    pub(crate) fn names(&self) -> HashMap<usize, String> {
        untracked(|| {
            let addresses = self.stacks.values().flatten().copied();
            let symbols = Symbols::resolve(addresses, &modules::loaded());
            let name = |stack: &[u64]| {
                let frame = symbols.culprit(stack)?;
                Some(format!("{} ({})", frame.function, frame.place_or_name()))
            };
            let sites = self.stacks.iter();
            sites.filter_map(|(site, stack)| Some((*site, name(stack)?))).collect()
        })
    }
}
