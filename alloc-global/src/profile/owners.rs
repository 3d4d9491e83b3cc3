//! Who allocated a block that is still live: the call sites of given addresses, by name.
//!
//! Nothing is allocated while the tables are held; names are looked up afterwards, once per site. No unsafe here.

use super::local::untracked;
use super::modules;
use super::record::TABLES;
use super::symbols::Symbols;
use std::collections::HashMap;

/// The names of the sites of those of `blocks` that are recorded: for each, an index into the names. Reads debug information.
pub(crate) struct Owners {
    of_block: HashMap<usize, usize>,
    names: Vec<String>,
}

impl Owners {
    /// Looks up blocks by their addresses, in any order.
    pub(crate) fn of(blocks: impl Iterator<Item = usize>) -> Owners {
        untracked(|| {
            let mut blocks: Vec<usize> = blocks.collect();
            blocks.sort_unstable();
            let mut sites = vec![None; blocks.len()];
            TABLES.sites_of(&blocks, &mut sites);
            let stacks = TABLES.stacks_of(&sites);
            let addresses = stacks.values().flatten().copied();
            let symbols = Symbols::resolve(addresses, &modules::loaded());
            let mut names: Vec<String> = Vec::new();
            let mut numbers = HashMap::new();
            for (site, stack) in &stacks {
                // A site of which no frame is known has no name.
                if let Some(frame) = symbols.culprit(stack) {
                    numbers.insert(*site, names.len());
                    names.push(format!("{} ({})", frame.function, frame.place()));
                }
            }
            let known = blocks.into_iter().zip(sites);
            let known = known.filter_map(|(block, site)| Some((block, *numbers.get(&site?)?)));
            Owners { of_block: known.collect(), names }
        })
    }

    /// The name of the site that allocated a block, if it is known.
    pub(crate) fn site_of(&self, block: usize) -> Option<&str> {
        self.names.get(*self.of_block.get(&block)?).map(String::as_str)
    }
}
