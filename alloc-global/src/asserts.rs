//! Verdicts on what a test allocates: `assert_no_alloc!` and its kin.
//!
//! ```text
//! assert_allocs!(<= 3, { body })
//!   begin -> body -> end -> verdict ----- ok: the body's value
//!                              |
//!                              +-- panic, after the scope: counts, top sites and a profile of the body
//! ```
//!
//! All of them count the calling thread only (`measure`), so that tests may run side by side, and
//! threads that the body starts are not seen. A count that would be a guess fails, and says why.
//! Everything but the macros' few lines is plain functions of the counts.
//!
//! No unsafe here.

mod baseline;

use crate::measure::{Measure, MeasureError, Measured};
use crate::profile::{Group, Grouping, Snapshot, Totals, snapshot_of};
use crate::scope::Sites;
use baseline::{UPDATE, baseline_file, judge_baseline};
#[cfg(feature = "report")]
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::env;
#[cfg(feature = "report")]
use std::ffi::OsString;
use std::fmt::Write as _;
#[cfg(feature = "report")]
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// What a measurement may come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Limit {
    /// Fewer allocations.
    AllocsBelow(u64),
    /// At most as many allocations.
    AllocsAtMost(u64),
    /// Exactly as many allocations.
    Allocs(u64),
    /// At most as many bytes live at once.
    Bytes(u64),
    /// No block left over.
    NoLeaks,
}

impl Limit {
    /// Whether the counts keep to it. Allocates nothing: an outer scope may be counting.
    fn holds(self, stats: &Measured) -> bool {
        match self {
            Limit::AllocsBelow(most) => allocations(stats) < most,
            Limit::AllocsAtMost(most) => allocations(stats) <= most,
            Limit::Allocs(number) => allocations(stats) == number,
            Limit::Bytes(most) => stats.peak_bytes <= most,
            Limit::NoLeaks => stats.live_blocks == 0,
        }
    }

    /// What was expected.
    fn wanted(self) -> String {
        match self {
            Limit::AllocsBelow(most) => format!("expected fewer than {most} allocations"),
            Limit::AllocsAtMost(0) => "expected no allocation".to_owned(),
            Limit::AllocsAtMost(most) => format!("expected at most {most} allocations"),
            Limit::Allocs(number) => format!("expected exactly {number} allocations"),
            Limit::Bytes(most) => format!("expected at most {most} bytes live at once"),
            Limit::NoLeaks => {
                "expected no block left over\n  blocks that another thread freed count \
                as left over: this thread cannot see that; so do those of the body's value"
                    .to_owned()
            }
        }
    }
}

/// Calls that may have taken memory: each may be an allocation.
fn allocations(stats: &Measured) -> u64 {
    stats.allocs + stats.reallocs
}

/// Something that says how many bytes: a number, or text such as `"64 KiB"`.
pub trait Bytes {
    /// The bytes.
    ///
    /// # Errors
    ///
    /// What cannot be read as a number of bytes.
    fn to_bytes(&self) -> Result<u64, String>;
}

impl Bytes for &str {
    fn to_bytes(&self) -> Result<u64, String> {
        parse_bytes(self).ok_or_else(|| {
            format!("{self:?} is no number of bytes: write \"512\", \"64 KiB\", \"1.5 MiB\"")
        })
    }
}

impl Bytes for u64 {
    fn to_bytes(&self) -> Result<u64, String> {
        Ok(*self)
    }
}

impl Bytes for usize {
    fn to_bytes(&self) -> Result<u64, String> {
        Ok(*self as u64)
    }
}

impl Bytes for i32 {
    fn to_bytes(&self) -> Result<u64, String> {
        u64::try_from(*self).map_err(|_| format!("{self} is no number of bytes"))
    }
}

/// Reads a number of bytes with a unit: none, `B`, `kB`, `MB`, `GB` (powers of 1000), `KiB`, `MiB`, `GiB`.
fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit: u64 = match unit.trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let whole = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    let scale = 10u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let part = fraction.parse::<u64>().ok()?.checked_mul(unit)?;
    whole.checked_add(part / scale)
}

/// The measurement of a macro's body. Made by the macros.
#[derive(Debug)]
#[must_use = "without an end there is no verdict"]
pub struct Scope {
    /// None once it has ended.
    measure: Option<Measure>,
    name: &'static str,
}

impl Drop for Scope {
    fn drop(&mut self) {
        if self.measure.take().is_some() && !std::thread::panicking() {
            let name = self.name;
            panic!(
                "{name}: not judged, its body was left before the end (return, ?, break, continue)"
            );
        }
    }
}

impl Scope {
    /// Begins.
    ///
    /// # Panics
    ///
    /// If counts would be a guess.
    #[track_caller]
    pub fn begin(name: &'static str) -> Scope {
        match Measure::begin_with_sites() {
            Ok(measure) => Scope { measure: Some(measure), name },
            Err(error) => panic!("{}", guess(name, error)),
        }
    }

    #[track_caller]
    fn end(mut self) -> Ended {
        let name = self.name;
        let mut measure = self.measure.take().expect("it ends once");
        let sites = measure.take_sites();
        match measure.end() {
            Ok(stats) => Ended { name, stats, sites },
            Err(error) => panic!("{}", guess(name, error)),
        }
    }

    /// Ends, and judges.
    ///
    /// # Panics
    ///
    /// If the limit was broken, or the counts would be a guess.
    #[track_caller]
    pub fn check(self, limit: Limit) {
        let ended = self.end();
        if !limit.holds(&ended.stats) {
            ended.fail(&limit.wanted(), limit == Limit::NoLeaks);
        }
    }

    /// Ends, and judges the most bytes live at once.
    ///
    /// # Panics
    ///
    /// As [`check`](Scope::check), and if `most` is no number of bytes.
    #[track_caller]
    pub fn check_bytes(mut self, most: &dyn Bytes) {
        match most.to_bytes() {
            Ok(most) => self.check(Limit::Bytes(most)),
            Err(error) => {
                let name = self.name;
                self.measure = None;
                panic!("{name}: {error}")
            }
        }
    }

    /// Ends, and compares with a file beside `source`, which the compiler named for a package in `package`.
    ///
    /// # Panics
    ///
    /// If a count is above its baseline, the file is not there or cannot be read, or the counts
    /// would be a guess.
    #[track_caller]
    pub fn check_baseline(self, baseline: &str, package: &str, source: &str) {
        let ended = self.end();
        let (name, stats) = (ended.name, ended.stats);
        let update = env::var_os(UPDATE).is_some_and(|value| value == "1");
        let judged = baseline_file(baseline, Path::new(package), Path::new(source))
            .and_then(|file| judge_baseline(&file, &stats, update));
        match judged {
            Ok(None) => {}
            Ok(Some(note)) => eprintln!("{name}: {note}"),
            Err(breach) => ended.fail(&breach, false),
        }
    }
}

/// A measurement that ended and may fail.
struct Ended {
    name: &'static str,
    stats: Measured,
    sites: Option<Sites>,
}

impl Ended {
    #[track_caller]
    fn fail(self, breach: &str, by_live: bool) -> ! {
        let evidence = self.sites.map(|sites| Evidence::of(&sites, by_live)).unwrap_or_default();
        panic!("{}", failure(self.name, breach, &self.stats, &evidence))
    }
}

fn guess(name: &str, error: MeasureError) -> String {
    format!("{name}: counting would be a guess: {error}")
}

/// What there is to show beside counts.
#[derive(Debug, Default)]
struct Evidence {
    sites: Vec<String>,
    profile: Option<PathBuf>,
}

/// Sites that a failure shows.
const SITES: usize = 5;

impl Evidence {
    /// The sites that allocated most in the body, or those of which most is left over; and a file
    /// with all of them.
    fn of(sites: &Sites, by_live: bool) -> Evidence {
        let snapshot = snapshot_of(sites);
        if snapshot.sites.is_empty() {
            return Evidence::default();
        }
        // The most live bytes first.
        let mut lines = snapshot.group_by(Grouping::Line);
        if by_live {
            lines.retain(|line| line.totals.live > 0.0);
        } else {
            lines.sort_by(|a, b| b.totals.alloc_bytes.total_cmp(&a.totals.alloc_bytes));
        }
        let site = |line: &Group| {
            let Totals { allocs, alloc_bytes, live, .. } = line.totals;
            format!(
                "{allocs:.0} allocations, {alloc_bytes:.0} bytes, {live:.0} left: {}",
                line.name
            )
        };
        let sites = lines.iter().take(SITES).map(site).collect();
        Evidence { sites, profile: profile(snapshot) }
    }
}

/// Writes the profile of the body under the folder that cargo builds in, or for other programs that
/// of temporary files.
#[cfg(feature = "report")]
fn profile(body: Snapshot) -> Option<PathBuf> {
    use crate::report::{NoSymbols, Report, write};
    let exe = env::current_exe().ok()?;
    // Cargo marks its folder so that backups leave it out.
    let target = exe.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file());
    let folder = target.map_or_else(env::temp_dir, Path::to_owned).join("poolalloc");
    // Where this fails so does the writing, which says why.
    let _ = std::fs::create_dir_all(&folder);
    // Apart from those of other failures of this process.
    static FAILURES: AtomicU32 = AtomicU32::new(0);
    // Relaxed: a number.
    let number = FAILURES.fetch_add(1, Relaxed);
    let template = template_of(&folder).join(format!("assert-%e-%p-{number}.pb.gz"));
    let report = Report { snapshot: Some(body), ..Report::of_process() };
    match write(template, &report, &NoSymbols) {
        Ok(path) => Some(path),
        Err(error) => {
            eprintln!("poolalloc: {error}");
            None
        }
    }
}

/// A template that stands for this path: each `%` in it is written twice.
#[cfg(feature = "report")]
fn template_of(path: &Path) -> PathBuf {
    let bytes = path.as_os_str().as_bytes().iter();
    let twice = |&byte: &u8| std::iter::repeat_n(byte, if byte == b'%' { 2 } else { 1 });
    OsString::from_vec(bytes.flat_map(twice).collect()).into()
}

#[cfg(not(feature = "report"))]
fn profile(_body: Snapshot) -> Option<PathBuf> {
    None
}

/// What a failed assertion says.
fn failure(name: &str, breach: &str, stats: &Measured, evidence: &Evidence) -> String {
    let mut text = format!("{name}: {breach}\n");
    for (count, value) in rows(stats) {
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {count:<17} {value:>12}");
    }
    if evidence.sites.is_empty() {
        text.push_str("  (no sites: nothing was allocated, or there was no memory to note where)");
    }
    for site in &evidence.sites {
        let _ = writeln!(text, "  {site}");
    }
    if let Some(profile) = &evidence.profile {
        let _ = write!(text, "  profile: {}", profile.display());
    }
    text
}

fn rows(stats: &Measured) -> [(&'static str, u64); 9] {
    [
        ("allocs", stats.allocs),
        ("deallocs", stats.deallocs),
        ("reallocs", stats.reallocs),
        ("alloc_bytes", stats.alloc_bytes),
        ("dealloc_bytes", stats.dealloc_bytes),
        ("live_blocks", stats.live_blocks),
        ("live_bytes", stats.live_bytes),
        ("peak_bytes", stats.peak_bytes),
        ("foreign_deallocs", stats.foreign_deallocs),
    ]
}

/// Runs the body and fails if the calling thread allocated meanwhile (`realloc` counts, frees do
/// not). Gives the body's value.
///
/// ```
/// # use alloc_global::PoolAlloc;
/// # #[global_allocator]
/// # static ALLOC: PoolAlloc = PoolAlloc::new();
/// let mut list = Vec::with_capacity(2);
/// let len = alloc_global::assert_no_alloc! {
///     list.push(1);
///     list.len()
/// };
/// assert_eq!(len, 1);
/// ```
///
/// # Panics
///
/// After the body: with the counts, if there was an allocation; and where counting would be a guess
/// ([`MeasureError`](crate::MeasureError)). A body that is left by `return`, `?` or `break` panics
/// too: it cannot be judged.
#[macro_export]
macro_rules! assert_no_alloc {
    ($($body:tt)*) => {{
        let scope = $crate::asserts::Scope::begin("assert_no_alloc!");
        let value = { $($body)* };
        scope.check($crate::asserts::Limit::AllocsAtMost(0));
        value
    }};
}

/// Runs the body and fails unless the calling thread allocated as often as said: `<= n`, `< n` or
/// `== n`. Calls of `realloc` count too, in place or not. Gives the body's value.
///
/// ```
/// # use alloc_global::PoolAlloc;
/// # #[global_allocator]
/// # static ALLOC: PoolAlloc = PoolAlloc::new();
/// let words = alloc_global::assert_allocs!(<= 3, { vec!["a".to_owned(), "b".to_owned()] });
/// # drop(words);
/// ```
///
/// # Panics
///
/// As [`assert_no_alloc!`](crate::assert_no_alloc).
#[macro_export]
macro_rules! assert_allocs {
    (<= $most:expr, $body:block) => { $crate::assert_allocs!(@ AllocsAtMost, $most, $body) };
    (< $most:expr, $body:block) => { $crate::assert_allocs!(@ AllocsBelow, $most, $body) };
    (== $number:expr, $body:block) => { $crate::assert_allocs!(@ Allocs, $number, $body) };
    (@ $limit:ident, $number:expr, $body:block) => {{
        let limit = $crate::asserts::Limit::$limit($number);
        let scope = $crate::asserts::Scope::begin("assert_allocs!");
        let value = $body;
        scope.check(limit);
        value
    }};
}

/// Runs the body and fails if the blocks that the calling thread allocated in it were at any moment
/// more bytes together: `"64 KiB"`, `"1.5 MB"`, or a number. Gives the body's value.
///
/// ```
/// # use alloc_global::PoolAlloc;
/// # #[global_allocator]
/// # static ALLOC: PoolAlloc = PoolAlloc::new();
/// let sum: u64 = alloc_global::assert_max_bytes!("64 KiB", {
///     (0..100).map(|n| vec![n; 1000].iter().sum::<u64>()).sum()
/// });
/// # assert_eq!(sum, 4_950_000);
/// ```
///
/// # Panics
///
/// As [`assert_no_alloc!`](crate::assert_no_alloc), and if the limit is no number of bytes. Blocks
/// of the body that another thread frees count as live.
#[macro_export]
macro_rules! assert_max_bytes {
    ($most:expr, $body:block) => {{
        let most = $most;
        let scope = $crate::asserts::Scope::begin("assert_max_bytes!");
        let value = $body;
        scope.check_bytes(&most);
        value
    }};
}

/// Runs the body and fails if a block that the calling thread allocated in it is still live. Gives
/// the body's value, whose own blocks would be left over too.
///
/// ```
/// # use alloc_global::PoolAlloc;
/// # #[global_allocator]
/// # static ALLOC: PoolAlloc = PoolAlloc::new();
/// let sum: u64 = alloc_global::assert_no_leaks! {
///     let list: Vec<u64> = (1..=10).collect();
///     list.iter().sum()
/// };
/// # assert_eq!(sum, 55);
/// ```
///
/// # Panics
///
/// As [`assert_no_alloc!`](crate::assert_no_alloc). A block that another thread frees counts as
/// left over, since this thread does not see that; the message says so.
#[macro_export]
macro_rules! assert_no_leaks {
    ($($body:tt)*) => {{
        let scope = $crate::asserts::Scope::begin("assert_no_leaks!");
        let value = { $($body)* };
        scope.check($crate::asserts::Limit::NoLeaks);
        value
    }};
}

/// Runs the body and fails if a count is above that in the file `baselines/NAME.txt` beside the
/// source: allocations, reallocations, bytes allocated, blocks left over, most bytes at once. Gives
/// the body's value.
///
/// `POOLALLOC_UPDATE_BASELINE=1` writes the file. Where a count is lower, a line on standard error says so.
///
/// ```no_run
/// let value = alloc_global::assert_baseline!("parse", { "1,2".split(',').count() });
/// ```
///
/// # Panics
///
/// As [`assert_no_alloc!`](crate::assert_no_alloc), and if there is no such file or it cannot be read.
#[macro_export]
macro_rules! assert_baseline {
    ($name:expr, $body:block) => {{
        let scope = $crate::asserts::Scope::begin("assert_baseline!");
        let value = $body;
        scope.check_baseline($name, env!("CARGO_MANIFEST_DIR"), file!());
        value
    }};
}

#[cfg(test)]
mod tests;
