//! A question about single live blocks of the profile: which sizes were asked for.
//!
//! No unsafe here.

use super::local::untracked;
use super::record::TABLES;
use super::rounding::Estimate;
use std::collections::HashMap;

/// Live blocks by what was asked for: requested bytes and bytes of the block, and how many. At most
/// `most` rows, the largest sums of bytes.
pub(crate) fn requested(most: usize) -> Vec<(u64, u64, Estimate)> {
    untracked(|| {
        let mut rows: HashMap<(u64, u64), Estimate> = HashMap::new();
        for (_, entry) in TABLES.live_entries() {
            *rows.entry((entry.requested, entry.size)).or_default() +=
                Estimate::of(entry.weight, 1.0);
        }
        let mut rows: Vec<_> =
            rows.into_iter().map(|((asked, size), count)| (asked, size, count)).collect();
        let bytes = |row: &(u64, u64, Estimate)| row.1 as f64 * row.2.sum;
        rows.sort_by(|a, b| bytes(b).total_cmp(&bytes(a)).then(a.0.cmp(&b.0)));
        rows.truncate(most);
        rows
    })
}
