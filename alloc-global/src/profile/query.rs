//! A question about single live blocks of the profile: which sizes were asked for.
//!
//! No unsafe here.

use super::local::untracked;
use super::record::TABLES;
use std::collections::HashMap;

/// Live blocks by what was asked for: requested bytes and bytes of the block, and how many (an estimate where blocks are
/// sampled). At most `most` rows, the largest sums of bytes.
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
