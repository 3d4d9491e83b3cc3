//! What a report is made of: one value that all formats are written from.
//!
//! Each part that something else must have been switched on for is an `Option`, but for the time
//! line, which is empty then; a format leaves out what is `None`. Times of pauses and latencies are
//! in nanoseconds, sizes in bytes.
//!
//! What it does not do: gather anything but what is always known ([`Report::of_process`]); see
//! [`Report::gather`].
//!
//! No unsafe here.

use crate::profile;
use crate::{ClassStats, HeatMap, Memory, Pin, Rounding, Rss, Snapshot, Stats};
use hdrhistogram::Histogram;
use std::time::{Duration, SystemTime};

/// All that is known about a process at one moment.
///
/// ```
/// use alloc_global::report::{self, NoSymbols, Report};
///
/// let report = Report::of_process();
/// println!("{}", report::text(&report, &NoSymbols));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The exact counters.
    pub stats: Stats,
    /// Where every byte of the arenas is.
    pub memory: Memory,
    /// Blocks by size class.
    pub classes: Option<Vec<ClassStats>>,
    /// Sizes that were asked for, inside the classes.
    pub requested: Option<Vec<Requested>>,
    /// What rounding them up costs, by class.
    pub rounding: Option<Vec<Rounding>>,
    /// Call sites.
    pub snapshot: Option<Snapshot>,
    /// Arenas by pools.
    pub heatmap: Option<HeatMap>,
    /// Which call sites hold nearly empty arenas.
    pub pins: Option<Vec<Pin>>,
    /// Resident memory, split.
    pub rss: Option<Rss>,
    /// How long calls took, by path.
    pub latency: Option<Vec<Latency>>,
    /// What the cycle collector did.
    pub gc: Option<GcReport>,
    /// Memory over time, the oldest first.
    pub time_line: Vec<TimePoint>,
    /// Executable parts of files in memory; [`Snapshot::modules`] knows their build identifiers.
    pub mappings: Vec<Mapping>,
    /// The program's file.
    pub program: String,
    /// The process.
    pub pid: u32,
    /// When the process began.
    pub started: SystemTime,
    /// The moment of the report.
    pub taken: SystemTime,
    /// Time that putting this report together took, in nanoseconds; 0 where nobody measured it.
    pub tool_ns: u64,
}

/// Live blocks of one requested size.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Requested {
    /// Bytes that the layouts asked for.
    pub size: u64,
    /// Bytes of the blocks that served them.
    pub class_size: u64,
    /// How many; an estimate where blocks are sampled.
    pub blocks: f64,
    /// The standard error of `blocks`; 0 where every block was recorded.
    pub blocks_error: f64,
}

/// How long the calls of one path took.
#[derive(Clone, Debug)]
pub struct Latency {
    /// The path: fast, refill, arena, fallback or purge.
    pub path: &'static str,
    /// Nanoseconds.
    pub histogram: Histogram<u64>,
}

/// What the cycle collector did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Live objects by type.
    pub types: Vec<GcType>,
    /// Collections by generation, the youngest first.
    pub generations: Vec<GcGeneration>,
}

/// Live objects of one type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GcType {
    /// The type's name.
    pub name: String,
    /// Live objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Collections of one generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcGeneration {
    /// How many there were.
    pub collections: u64,
    /// The median pause.
    pub pause_p50_ns: u64,
    /// The pause that 1 in 100 exceeds.
    pub pause_p99_ns: u64,
    /// The longest pause.
    pub pause_max_ns: u64,
    /// Objects looked at.
    pub candidates: u64,
    /// Objects freed.
    pub freed: u64,
    /// Objects found alive.
    pub retained: u64,
}

/// Memory at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimePoint {
    /// Milliseconds since the process began.
    pub ms: u64,
    /// Bytes in blocks, those in the caches of threads among them, to 64 KiB a thread; in the last
    /// point what [`Stats::live_bytes`](crate::Stats) says.
    pub live_bytes: u64,
    /// Bytes of arenas.
    pub mapped_bytes: u64,
    /// Resident bytes of the process.
    pub resident_bytes: u64,
}

/// An executable part of a file in memory, as the system maps it. What symbolises a profile
/// elsewhere needs the offset: the address in the file follows from it, and not from the module's
/// first address alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// Its first address.
    pub start: u64,
    /// Past its last.
    pub end: u64,
    /// Where in the file it begins.
    pub offset: u64,
    /// The file.
    pub path: String,
}

impl Report {
    /// What is always known about this process: counters, memory, identity. The other parts are empty:
    /// [`gather`](Report::gather) fills them. Walks all pools and reads a few files of `/proc`.
    pub fn of_process() -> Report {
        let taken = SystemTime::now();
        let maps = text_of("/proc/self/maps").unwrap_or_default();
        Report {
            stats: crate::stats(),
            memory: crate::memory(),
            mappings: executable(&maps),
            program: program(),
            pid: std::process::id(),
            started: age().and_then(|age| taken.checked_sub(age)).unwrap_or(taken),
            taken,
            ..Report::empty()
        }
    }

    /// Nothing, at the beginning of time.
    pub(super) fn empty() -> Report {
        Report {
            stats: Stats::default(),
            memory: Memory::default(),
            classes: None,
            requested: None,
            rounding: None,
            snapshot: None,
            heatmap: None,
            pins: None,
            rss: None,
            latency: None,
            gc: None,
            time_line: Vec::new(),
            mappings: Vec::new(),
            program: String::new(),
            pid: 0,
            started: SystemTime::UNIX_EPOCH,
            taken: SystemTime::UNIX_EPOCH,
            tool_ns: 0,
        }
    }

    /// The last part of the program's path.
    pub(super) fn program_name(&self) -> &str {
        match self.program.rsplit('/').next() {
            Some(name) if !name.is_empty() => name,
            _ => "program",
        }
    }
}

/// The program's path, else how it was called.
fn program() -> String {
    Some(profile::program())
        .filter(|path| !path.is_empty())
        .or_else(|| std::env::args_os().next().map(|name| name.to_string_lossy().into_owned()))
        .unwrap_or_default()
}

/// A file of the system's as text. Names in it need not be Unicode: a mapped file's, or one of a
/// thread that was cut within a character.
fn text_of(path: &str) -> Option<String> {
    std::fs::read(path).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// How long this process has run.
fn age() -> Option<Duration> {
    let stat = text_of("/proc/self/stat")?;
    let uptime = text_of("/proc/uptime")?;
    let uptime: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    // The name, in parentheses, may hold anything; the beginning, in hundredths of a second, is field 22.
    let begin: f64 = stat.rsplit(')').next()?.split_whitespace().nth(19)?.parse().ok()?;
    Duration::try_from_secs_f64((uptime - begin / 100.0).max(0.0)).ok()
}

/// The executable mappings of files in the text of `/proc/self/maps`.
fn executable(maps: &str) -> Vec<Mapping> {
    let mapping = |line: &str| {
        let mut fields = line.splitn(6, ' ');
        let (start, end) = fields.next()?.split_once('-')?;
        let executable = fields.next()?.contains('x');
        let offset = fields.next()?;
        let path = fields.nth(2)?.trim_start();
        let number = |text| u64::from_str_radix(text, 16).ok();
        (executable && path.starts_with('/')).then_some(Mapping {
            start: number(start)?,
            end: number(end)?,
            offset: number(offset)?,
            path: path.to_owned(),
        })
    };
    maps.lines().filter_map(mapping).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executable_mappings_of_files_are_read_and_nothing_else() {
        let maps = "\
55d0c0a00000-55d0c0a10000 r--p 00000000 08:01 393 /usr/bin/with space
55d0c0a10000-55d0c0a50000 r-xp 0000f000 08:01 393                        /usr/bin/with space
7ffd1c000000-7ffd1c021000 rw-p 00000000 00:00 0                          [stack]
7ffd1c1f0000-7ffd1c1f2000 r-xp 00000000 00:00 0                          [vdso]
7ffd1d1f0000-7ffd1d1f2000 r-xp 00000000 00:00 0
not a mapping at all
";
        let expected = Mapping {
            start: 0x55d0_c0a1_0000,
            end: 0x55d0_c0a5_0000,
            offset: 0xf000,
            path: "/usr/bin/with space".to_owned(),
        };
        assert_eq!(executable(maps), [expected]);
    }

    #[test]
    fn names_that_are_not_unicode_hide_nothing() {
        // What `stat` begins with is the name of the process's first thread.
        let name = std::fs::read("/proc/self/comm").expect("a name");
        std::fs::write("/proc/self/comm", b"caf\xC3").expect("written");
        let age = age();
        let stat = std::fs::read("/proc/self/stat").expect("read");
        std::fs::write("/proc/self/comm", name.trim_ascii_end()).expect("written");
        assert!(String::from_utf8(stat).is_err(), "the name is in it");
        assert!(age.is_some());

        // What a mapped file is called is in `maps` as it is.
        let path = std::env::temp_dir().join(format!("poolalloc-maps-{}", std::process::id()));
        std::fs::write(&path, b"7f00-7f01 r-xp 0 00:1a 23 /a\xFF\n").expect("written");
        let maps = text_of(path.to_str().expect("text"));
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(maps.as_deref(), Some("7f00-7f01 r-xp 0 00:1a 23 /a\u{FFFD}\n"));
    }

    #[test]
    fn this_process_knows_itself() {
        let report = Report::of_process();
        assert_eq!(report.pid, std::process::id());
        assert!(report.program.contains(report.program_name()));
        let own = report.mappings.iter().filter(|mapping| mapping.path == report.program);
        assert_eq!(own.count(), 1, "{:?}", report.mappings);
        assert!(report.started <= report.taken);
        let age = report.taken.duration_since(report.started).expect("in order");
        assert!(age < Duration::from_secs(24 * 3_600), "{age:?}");
    }
}
