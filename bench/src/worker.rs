//! What every worker process does: run one workload, say in one line what it took.
//!
//! ```text
//! worker-pool random-replace --quick --seed 7
//!   -> {"units":400000,"checksum":1234,"live_blocks":[310,310],"values":{"seconds":0.004, ...}}
//! ```
//!
//! The values' names are the runner's columns. Memory and page faults are the kernel's figures for
//! the whole process. The runner watches resident memory over time from outside, so that a
//! single-threaded workload stays single-threaded. No unsafe here.
//!
//! `live_blocks` is read right before the workload and right after it. Libraries, and std for a
//! thread's first blocking wait, set up things once and keep them; that is no leak. So where a
//! first run leaves a difference, a second one follows, of which only the difference is reported:
//! what leaks or grows does so again.

use std::collections::BTreeMap;
use std::fs;
use std::io::Error;
use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::workload::{self, Outcome, Scale, Workload};

/// Room for a workload's own figures, made before the first reading of `live_blocks`.
const EXTRAS: usize = 32;

/// What a worker found out; its one line of output is this as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Operations done, what the workload calls its unit.
    pub units: u64,
    /// Equal on every contender for the same seed, or one of them computes wrongly.
    pub checksum: u64,
    /// Blocks in the program's hands before the workload and after it, where that can be told.
    pub live_blocks: Option<(u64, u64)>,
    /// Figures by name; sizes in bytes, times in seconds.
    pub values: BTreeMap<String, f64>,
}

/// What an allocator can tell of itself.
#[derive(Clone, Copy, Debug)]
pub struct Counters {
    /// Blocks that the process holds.
    pub live_blocks: fn() -> u64,
    /// Blocks that it ever allocated.
    pub allocations: fn() -> u64,
    /// Bytes that its profile takes. Asked last: it may allocate.
    pub profile_bytes: fn() -> u64,
}

/// The whole of a worker's `main`, for allocators that count nothing and for those that do.
pub fn main(counters: Option<Counters>) -> ExitCode {
    if let Some(counters) = counters {
        workload::count_allocations(counters.allocations);
    }
    main_of(&[workload::all()], counters)
}

/// As [`main`], for a worker that runs several contenders: the environment's `variable` names one of
/// `contenders`, each with its workloads.
pub fn main_of_named(variable: &str, contenders: &[Contender<'_>]) -> ExitCode {
    let name = std::env::var(variable).unwrap_or_default();
    match contenders.iter().find(|contender| contender.0 == name) {
        Some((_, loads)) => main_of(loads, None),
        None => {
            let names: Vec<&str> = contenders.iter().map(|contender| contender.0).collect();
            eprintln!("{variable} is {name:?}; it may be {}", names.join(", "));
            ExitCode::from(2)
        }
    }
}

/// A name and its workloads, in several lists.
pub type Contender<'a> = (&'static str, &'a [&'static [Workload]]);

fn main_of(loads: &[&'static [Workload]], counters: Option<Counters>) -> ExitCode {
    let (load, scale) = match arguments(loads) {
        Ok(found) => found,
        Err(problem) => {
            eprintln!("{problem}\nusage: WORKER WORKLOAD [--quick] [--seed N]");
            return ExitCode::from(2);
        }
    };
    match run(load, &scale, counters) {
        Ok(report) => {
            println!("{}", serde_json::to_string(&report).expect("a report is plain data"));
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("{}: {problem}", load.name);
            ExitCode::FAILURE
        }
    }
}

fn arguments(loads: &[&'static [Workload]]) -> Result<(&'static Workload, Scale), lexopt::Error> {
    use lexopt::prelude::*;
    let mut scale = Scale { quick: false, seed: 1 };
    let mut load = None;
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("quick") => scale.quick = true,
            Long("seed") => scale.seed = parser.value()?.parse()?,
            Value(name) if load.is_none() => {
                let found = loads.iter().copied().flatten().find(|load| name == load.name);
                load = Some(found.ok_or_else(|| format!("no workload {name:?}"))?);
            }
            other => return Err(other.unexpected()),
        }
    }
    Ok((load.ok_or("no workload named")?, scale))
}

fn run(load: &Workload, scale: &Scale, counters: Option<Counters>) -> Result<Report, Error> {
    let live_blocks = || counters.map(|counters| (counters.live_blocks)());
    let mut extras: Vec<(&'static str, f64)> = Vec::with_capacity(EXTRAS);
    // The standard library makes the handle of a thread when it is first asked for.
    let _ = std::thread::current();
    let faults_before = faults()?;
    let live_before = live_blocks();

    let Outcome { units, checksum, seconds, cpu_seconds, extra } = (load.run)(scale);
    let allocations = workload::counted_allocations();
    extras.extend(extra.iter().copied().take(EXTRAS));
    drop(extra);

    let mut live = live_before.zip(live_blocks());
    let faults_after = faults()?;
    let status = fs::read_to_string("/proc/self/status")?;
    let mut values: BTreeMap<String, f64> =
        extras.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    for (name, value) in [
        ("seconds", seconds),
        ("cpu_seconds", cpu_seconds),
        ("peak_rss", status_bytes(&status, "VmHWM:")),
        ("final_rss", status_bytes(&status, "VmRSS:")),
        ("minor_faults", faults_after.0 - faults_before.0),
        ("major_faults", faults_after.1 - faults_before.1),
    ] {
        values.insert(name.to_owned(), value);
    }
    values.extend(allocations.map(|count| ("allocations".to_owned(), count as f64)));
    if live.is_some_and(|(before, after)| before != after) {
        wait_for_threads();
        let before = live_blocks();
        let again = (load.run)(scale);
        if again.checksum != checksum {
            return Err(Error::other("a second run in the same process gave another checksum"));
        }
        drop(again);
        wait_for_threads();
        live = before.zip(live_blocks());
    }
    let profile = counters.map(|counters| (counters.profile_bytes)() as f64);
    values.extend(profile.map(|bytes| ("profile_bytes".to_owned(), bytes)));
    Ok(Report { units, checksum, live_blocks: live, values })
}

/// Waits for the threads that a workload had, up to a second: a scope of threads ends before they
/// do, and what they hold to the last would be counted.
fn wait_for_threads() {
    for _ in 0..1000 {
        // One where the system does not say.
        if fs::read_dir("/proc/self/task").map_or(1, Iterator::count) <= 1 {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A line of /proc/self/status such as `VmHWM:   1234 kB`, in bytes; not a number if it is absent.
fn status_bytes(status: &str, field: &str) -> f64 {
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    kib.map_or(f64::NAN, |kib| kib * 1024.0)
}

/// Minor and major page faults of this process so far, fields 10 and 12 of /proc/self/stat.
fn faults() -> Result<(f64, f64), Error> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // The second field is the program's name in brackets and may hold spaces.
    let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let mut fields = rest.split_whitespace().skip(7).map(|field| field.parse::<f64>());
    let mut next = || fields.next().and_then(Result::ok).unwrap_or(f64::NAN);
    let minor = next();
    next();
    Ok((minor, next()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines_are_read_as_bytes() {
        let status = "VmPeak:\t 99 kB\nVmHWM:\t    1234 kB\nVmRSS:\t 7 kB\n";
        assert_eq!(status_bytes(status, "VmHWM:"), 1234.0 * 1024.0);
        assert_eq!(status_bytes(status, "VmRSS:"), 7.0 * 1024.0);
        assert!(status_bytes(status, "VmSwap:").is_nan());
    }

    #[test]
    fn touching_fresh_pages_is_counted_as_minor_faults() {
        let before = faults().unwrap().0;
        let pages = vec![1_u8; 16 << 20];
        let after = faults().unwrap().0;
        assert!(std::hint::black_box(&pages)[4096] == 1);
        // Huge pages may serve 2 MiB at a fault.
        assert!(after >= before + 8.0, "{before} {after}");
    }

    #[test]
    fn a_report_survives_its_own_json() {
        let report = Report {
            units: 3,
            checksum: u64::MAX,
            live_blocks: Some((4, 5)),
            values: [("seconds".to_owned(), 0.25)].into(),
        };
        let line = serde_json::to_string(&report).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Report>(&line).unwrap(), report);
    }
}
