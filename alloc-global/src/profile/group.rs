//! Questions to a snapshot: by whom, from where, how sure.
//!
//! An estimate from samples has an error. A block of `s` bytes is in with the chance
//! `p = 1 - exp(-s / rate)` and counts `1 / p` times then. Blocks are samples independently of each
//! other, so variances add up, and each sample brings its own: `(s / p)^2 * (1 - p)`. For blocks
//! much smaller than the rate the relative standard error comes to `sqrt(rate / bytes)`; for much
//! larger ones, and where all is traced, it is 0.
//!
//! The shape of the questions is that of Python's `tracemalloc`.
//!
//! No unsafe here.

use super::frame::{Frame, crate_of, module_of};
use super::snapshot::{Site, Snapshot};
use super::symbols::Symbols;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::ops::AddAssign;

/// What call sites are put together by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum Grouping {
    /// Stacks: the functions from the program's own innermost outwards.
    Stack,
    /// `file:line` of the innermost call that is the program's own.
    Line,
    /// Its function.
    Function,
    /// The module of that function: its path up to the first type.
    Module,
    /// The crate of that function.
    Crate,
    /// The thread that allocated.
    Thread,
    /// The region that it was in.
    Region,
}

/// Sums over call sites; differences of them in a [`Diff`](crate::Diff).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Totals {
    /// Blocks allocated.
    pub allocs: f64,
    /// Their bytes.
    pub alloc_bytes: f64,
    /// The standard error of `alloc_bytes`.
    pub alloc_bytes_error: f64,
    /// Blocks live.
    pub live: f64,
    /// The standard error of `live`.
    pub live_error: f64,
    /// Their bytes.
    pub live_bytes: f64,
    /// The standard error of `live_bytes`.
    pub live_bytes_error: f64,
    /// Bytes that the layouts of the live blocks asked for.
    pub live_requested_bytes: f64,
    /// Bytes that the live blocks have beyond that.
    pub live_lost_bytes: f64,
    /// Blocks freed before the thread allocated again.
    pub temporary: f64,
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Totals) {
        self.allocs += other.allocs;
        self.alloc_bytes += other.alloc_bytes;
        // Sites are sampled independently of each other: variances add up.
        self.alloc_bytes_error = joint_error(self.alloc_bytes_error, other.alloc_bytes_error);
        self.live += other.live;
        self.live_error = joint_error(self.live_error, other.live_error);
        self.live_bytes += other.live_bytes;
        self.live_bytes_error = joint_error(self.live_bytes_error, other.live_bytes_error);
        self.live_requested_bytes += other.live_requested_bytes;
        self.live_lost_bytes += other.live_lost_bytes;
        self.temporary += other.temporary;
    }
}

/// Call sites that have something in common.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Group {
    /// What they have in common.
    pub name: String,
    /// Their sums.
    pub totals: Totals,
}

/// The standard error of the sum, or difference, of two estimates that are independent of each other.
///
/// Not by `hypot`: for that one function every program would load the C library's mathematics as it
/// starts. Errors are far from where a square overflows.
pub(super) fn joint_error(one: f64, other: f64) -> f64 {
    (one * one + other * other).sqrt()
}

/// The relative standard error of an estimate.
fn relative_error(variance: f64, estimate: f64) -> f64 {
    if estimate > 0.0 { variance.max(0.0).sqrt() / estimate } else { 0.0 }
}

impl Site {
    /// The relative standard error of the bytes that it allocated: 0.1 is 10 %; 0 where every block
    /// was recorded.
    pub fn alloc_error(&self) -> f64 {
        relative_error(self.alloc_bytes_variance, self.alloc_bytes)
    }

    /// The relative standard error of the bytes of it that are live.
    pub fn live_error(&self) -> f64 {
        relative_error(self.live_bytes_variance, self.live_bytes)
    }

    /// Whether nothing that was recorded of it was freed so far.
    pub fn is_never_freed(&self) -> bool {
        self.samples > 0 && self.samples == self.live_samples
    }

    /// Its counts as sums.
    pub fn totals(&self) -> Totals {
        Totals {
            allocs: self.allocs,
            alloc_bytes: self.alloc_bytes,
            alloc_bytes_error: self.alloc_bytes_variance.max(0.0).sqrt(),
            live: self.live,
            live_error: self.live_variance.max(0.0).sqrt(),
            live_bytes: self.live_bytes,
            live_bytes_error: self.live_bytes_variance.max(0.0).sqrt(),
            live_requested_bytes: self.live_requested_bytes,
            live_lost_bytes: self.live_lost_bytes,
            temporary: self.temporary,
        }
    }
}

/// What sites are known by.
pub(crate) struct Key<'a> {
    pub(crate) stack: &'a [u64],
    pub(crate) region: &'a str,
    pub(crate) thread: &'a str,
}

/// The name of the group that a site belongs to.
pub(crate) fn name(key: &Key<'_>, grouping: Grouping, symbols: &Symbols) -> String {
    let culprit = || symbols.culprit(key.stack);
    let function = || culprit().map_or("", |frame| frame.function.as_str());
    let name = match grouping {
        Grouping::Thread => key.thread.to_owned(),
        Grouping::Region => key.region.to_owned(),
        Grouping::Stack => {
            let own = culprit().map_or(std::ptr::null(), std::ptr::from_ref);
            let from = symbols.frames(key.stack).skip_while(|frame| !std::ptr::eq(*frame, own));
            from.map(|frame| frame.function.as_str()).collect::<Vec<_>>().join(" < ")
        }
        Grouping::Line => culprit().map(Frame::place_or_name).unwrap_or_default(),
        Grouping::Function => function().to_owned(),
        Grouping::Module => module_of(function()).to_owned(),
        Grouping::Crate => crate_of(function()).to_owned(),
    };
    // Of no region, or of no known stack.
    if name.is_empty() {
        if key.stack.is_empty() { "[other]" } else { "-" }.to_owned()
    } else {
        name
    }
}

/// Sums by name, the most live bytes first.
pub(crate) fn grouped<'a>(
    rows: impl Iterator<Item = (Key<'a>, Totals)>,
    grouping: Grouping,
    symbols: &Symbols,
) -> Vec<Group> {
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut groups: Vec<Group> = Vec::new();
    for (key, totals) in rows {
        match places.entry(name(&key, grouping, symbols)) {
            Entry::Occupied(place) => {
                if let Some(group) = groups.get_mut(*place.get()) {
                    group.totals += totals;
                }
            }
            Entry::Vacant(place) => {
                groups.push(Group { name: place.key().clone(), totals });
                place.insert(groups.len() - 1);
            }
        }
    }
    groups.sort_by(|a, b| {
        let order = b.totals.live_bytes.total_cmp(&a.totals.live_bytes);
        let order = order.then(b.totals.alloc_bytes.total_cmp(&a.totals.alloc_bytes));
        order.then_with(|| a.name.cmp(&b.name))
    });
    groups
}

/// Whether names have to be looked up.
pub(crate) fn needs_symbols(grouping: Grouping) -> bool {
    !matches!(grouping, Grouping::Thread | Grouping::Region)
}

/// Which call sites to keep: those that a pattern matches, or those that it does not.
///
/// A pattern is compared with the function and the file of every frame. `*` stands for anything; a pattern
/// without one is a prefix: `parser::` for a crate, `*/src/lex.rs` for a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filter {
    pattern: String,
    keeps: bool,
}

impl Filter {
    /// Keeps call sites with a frame that matches.
    pub fn include(pattern: &str) -> Filter {
        Filter { pattern: pattern.to_owned(), keeps: true }
    }

    /// Drops call sites with a frame that matches.
    pub fn exclude(pattern: &str) -> Filter {
        Filter { pattern: pattern.to_owned(), keeps: false }
    }

    fn matches(&self, stack: &[u64], symbols: &Symbols) -> bool {
        symbols.frames(stack).any(|frame| {
            let file = frame.file.as_deref();
            matches(&self.pattern, &frame.function)
                || file.is_some_and(|file| matches(&self.pattern, file))
        })
    }
}

/// Whether a text matches a pattern with `*`, or has one without as a prefix.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return true };
    for part in parts {
        match rest.find(part).and_then(|at| rest.get(at + part.len()..)) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

impl Snapshot {
    /// Symbols of all stacks, where they are needed.
    pub(crate) fn symbols(&self, needed: bool) -> Symbols {
        let sites = if needed { self.sites.as_slice() } else { &[] };
        let addresses = sites.iter().flat_map(|site| site.stack.iter().copied());
        Symbols::resolve(addresses, &self.modules)
    }

    /// The sums over all call sites.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        self.sites.iter().for_each(|site| totals += site.totals());
        totals
    }

    /// The call sites with the most live bytes, at most `n`.
    pub fn top(&self, n: usize) -> &[Site] {
        self.sites.get(..n).unwrap_or(&self.sites)
    }

    /// Puts call sites together, the most live bytes first. Reads debug information, except by
    /// thread and by region.
    ///
    /// ```
    /// use alloc_global::{Grouping, Snapshot};
    /// for group in Snapshot::take().group_by(Grouping::Crate) {
    ///     println!("{}: {:.0} bytes live", group.name, group.totals.live_bytes);
    /// }
    /// ```
    pub fn group_by(&self, grouping: Grouping) -> Vec<Group> {
        let symbols = self.symbols(needs_symbols(grouping));
        let rows = self.sites.iter().map(|site| (site.key(), site.totals()));
        grouped(rows, grouping, &symbols)
    }

    /// Only the call sites that some including filter matches, if there is one, and that no
    /// excluding filter does. Reads debug information.
    pub fn filter(&self, filters: &[Filter]) -> Snapshot {
        self.filter_with(filters, &self.symbols(true))
    }

    fn filter_with(&self, filters: &[Filter], symbols: &Symbols) -> Snapshot {
        let mut kept = self.clone();
        let includes = filters.iter().any(|filter| filter.keeps);
        kept.sites.retain(|site| {
            let any = |keeps: bool| {
                let mut those = filters.iter().filter(|filter| filter.keeps == keeps);
                those.any(|filter| filter.matches(&site.stack, symbols))
            };
            (!includes || any(true)) && !any(false)
        });
        kept
    }

    /// Call sites of which blocks are live and none that was recorded was ever freed, the most live
    /// bytes first. Not each is a leak: what a program needs to its end is there too. What grows
    /// from one snapshot to the next is the better sign.
    pub fn leaks(&self) -> Vec<&Site> {
        self.sites.iter().filter(|site| site.is_never_freed()).collect()
    }
}

impl Site {
    pub(crate) fn key(&self) -> Key<'_> {
        Key { stack: &self.stack, region: &self.region, thread: &self.thread }
    }
}

/// Bytes in a unit in which they are short.
pub(crate) fn short(bytes: f64) -> String {
    let mut value = bytes;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value.abs() < 1024.0 {
            let digits = if unit == "B" { 0 } else { 1 };
            return format!("{value:.digits$} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// Rows of a table that [`Snapshot`] and [`Diff`](crate::Diff) print.
pub(crate) const ROWS: usize = 10;

/// The ten call sites with the most live bytes, by function, each with its error, and what the
/// counters say. Reads debug information.
impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups = self.group_by(Grouping::Function);
        let totals = self.totals();
        match self.rate {
            0 => writeln!(f, "nothing was watched")?,
            1 => writeln!(f, "every block traced")?,
            rate => writeln!(f, "sampled, {} apart", short(rate as f64))?,
        }
        writeln!(f, "{:>12} {:>12} {:>12}  call site", "live", "+- error", "blocks")?;
        let all = Group { name: "all".to_owned(), totals };
        for group in [&all].into_iter().chain(groups.iter().take(ROWS)) {
            let Totals { live_bytes, live_bytes_error, live, .. } = group.totals;
            let (bytes, error) = (short(live_bytes), short(live_bytes_error));
            writeln!(f, "{bytes:>12} {error:>12} {live:>12.0}  {}", group.name)?;
        }
        let (bytes, blocks) = (short(self.stats.live_bytes as f64), self.stats.live_blocks);
        writeln!(f, "{bytes:>12} {:>12} {blocks:>12}  all, by the exact counters", "")?;
        let dropped = self.dropped.stacks + self.dropped.blocks;
        if dropped > 0 {
            writeln!(f, "{dropped} samples had no room in the tables")?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "group_tests.rs"]
mod tests;
