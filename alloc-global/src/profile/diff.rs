//! What changed between two snapshots, by call site.
//!
//! No unsafe here.

use super::group::{
    Group, Grouping, Key, ROWS, Totals, grouped, joint_error, needs_symbols, short,
};
use super::snapshot::{Module, Snapshot};
use super::symbols::Symbols;
use std::collections::HashMap;
use std::fmt;

/// What changed between two snapshots.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Diff {
    /// Call sites that changed, the most growth of live bytes first, what shrank last.
    pub rows: Vec<Growth>,
    modules: Vec<Module>,
}

/// What changed at one call site.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Growth {
    /// Addresses of the calls, as in [`Site::stack`](crate::Site).
    pub stack: Vec<u64>,
    /// The region, or empty.
    pub region: String,
    /// The thread.
    pub thread: String,
    /// Later less earlier. The errors are at most so large: blocks that were live both times have
    /// none in common.
    pub growth: Totals,
}

fn less(after: Totals, before: Totals) -> Totals {
    Totals {
        allocs: after.allocs - before.allocs,
        alloc_bytes: after.alloc_bytes - before.alloc_bytes,
        alloc_bytes_error: joint_error(after.alloc_bytes_error, before.alloc_bytes_error),
        live: after.live - before.live,
        live_error: joint_error(after.live_error, before.live_error),
        live_bytes: after.live_bytes - before.live_bytes,
        live_bytes_error: joint_error(after.live_bytes_error, before.live_bytes_error),
        live_requested_bytes: after.live_requested_bytes - before.live_requested_bytes,
        live_lost_bytes: after.live_lost_bytes - before.live_lost_bytes,
        temporary: after.temporary - before.temporary,
    }
}

impl Snapshot {
    /// What changed since an earlier snapshot, the most growth of live bytes first.
    ///
    /// ```
    /// use alloc_global::Snapshot;
    /// let before = Snapshot::take();
    /// let after = Snapshot::take();
    /// println!("{}", after.diff(&before));
    /// ```
    pub fn diff(&self, before: &Snapshot) -> Diff {
        let key =
            |site: &'_ crate::Site| (site.stack.clone(), site.region.clone(), site.thread.clone());
        let mut sums: HashMap<_, (Totals, Totals)> = HashMap::new();
        // One walk may have been cut where another was not: such sites are one here.
        for site in &self.sites {
            sums.entry(key(site)).or_default().0 += site.totals();
        }
        for site in &before.sites {
            sums.entry(key(site)).or_default().1 += site.totals();
        }
        let changed = sums.into_iter().filter(|(_, (after, before))| after != before);
        let mut rows: Vec<Growth> = changed
            .map(|((stack, region, thread), (after, before))| Growth {
                stack,
                region,
                thread,
                growth: less(after, before),
            })
            .collect();
        rows.sort_by(|a, b| {
            let order = b.growth.live_bytes.total_cmp(&a.growth.live_bytes);
            let order = order.then(b.growth.alloc_bytes.total_cmp(&a.growth.alloc_bytes));
            order.then_with(|| {
                (&a.stack, &a.region, &a.thread).cmp(&(&b.stack, &b.region, &b.thread))
            })
        });
        // What was unloaded since is named by the earlier one.
        let mut modules = self.modules.clone();
        modules
            .extend(before.modules.iter().filter(|module| !self.modules.contains(module)).cloned());
        Diff { rows, modules }
    }
}

impl Diff {
    /// Puts call sites together, the most growth first. Reads debug information, except by thread
    /// and by region.
    pub fn group_by(&self, grouping: Grouping) -> Vec<Group> {
        let rows = if needs_symbols(grouping) { self.rows.as_slice() } else { &[] };
        let addresses = rows.iter().flat_map(|row| row.stack.iter().copied());
        let symbols = Symbols::resolve(addresses, &self.modules);
        let rows = self.rows.iter().map(|row| {
            let key = Key { stack: &row.stack, region: &row.region, thread: &row.thread };
            (key, row.growth)
        });
        grouped(rows, grouping, &symbols)
    }

    /// The call sites that grew most, at most `n`.
    pub fn top(&self, n: usize) -> &[Growth] {
        self.rows.get(..n).unwrap_or(&self.rows)
    }

    /// The sums over all call sites.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        self.rows.iter().for_each(|row| totals += row.growth);
        totals
    }
}

/// The ten functions that grew most. Reads debug information.
impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:>12} {:>12} {:>12}  call site", "growth", "+- error", "blocks")?;
        let all = Group { name: "all".to_owned(), totals: self.totals() };
        let groups = self.group_by(Grouping::Function);
        for group in [&all].into_iter().chain(groups.iter().take(ROWS)) {
            let Totals { live_bytes, live_bytes_error, live, .. } = group.totals;
            let (bytes, error) = (short(live_bytes), short(live_bytes_error));
            writeln!(f, "{bytes:>12} {error:>12} {live:>+12.0}  {}", group.name)?;
        }
        Ok(())
    }
}
